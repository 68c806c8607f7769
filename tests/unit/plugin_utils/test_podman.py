# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a person without root meets on a machine: its limits are said in one sentence, and the pods come up where they
can.

The engine's own scripts run in a shell; in the way of `id`, `podman` and `loginctl` stand programs that tell of such a
machine. Real pods run in Molecule; docs/operations.md has the commands that run them for an ordinary user.
"""

from __future__ import annotations

import base64
import copy
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys

import pytest
from ansible_collections.mlops.mlflow.plugins.plugin_utils import engines, manifests
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines.podman import PodmanEngine

RANGE = [{"container_id": 0, "host_id": 1001, "size": 1}, {"container_id": 1, "host_id": 100000, "size": 65536}]
NOBODY = 2**22 + 1
"""A process that no Linux has: numbers end at 2**22."""
SERVICE = {"apiVersion": "v1", "kind": "Service", "metadata": {
    "name": "ingress", "namespace": "team", "labels": {}, "annotations": {"mlops.mlflow/publish": "0.0.0.0:443"}},
    "spec": {"ports": [{"port": 8443}]}}


class Machine:
    """An ordinary user's view of a machine, in a folder."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder, self.commands = folder, []
        self.info = {"version": {"Version": "4.3.1"}, "store": {"graphRoot": str(folder), "graphDriverName": "overlay"},
                     "host": {
            "memTotal": 2**33, "security": {"rootless": True}, "idMappings": {"uidmap": RANGE, "gidmap": RANGE},
            "cgroupManager": "systemd", "cgroupControllers": ["cpu", "memory", "pids"]}}
        self.program("id", 'if [ "$1" = -u ]; then echo 1001; else echo ana; fi')
        self.program("systemctl", "true")
        self.program("loginctl", "true")

    def program(self, name: str, script: str) -> None:
        path = self.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def run(self, argv: list[str], stdin: str | None = None) -> tuple[int, str, str]:
        (self.folder / "info.json").write_text(json.dumps(self.info, indent=2))
        self.commands.append(argv)
        home = {"HOME": str(self.folder), "XDG_DATA_HOME": str(self.folder / "data"),
                "XDG_RUNTIME_DIR": str(self.folder / "run"),
                "PATH": f"{self.folder}/bin:{os.environ['PATH']}"}
        done = subprocess.run(argv, input=stdin or "", capture_output=True, text=True, env={**os.environ, **home},
                              check=False)
        return done.returncode, done.stdout, done.stderr

    def engine(self, component: str = "ingress") -> PodmanEngine:
        self.program("podman",
                     f'echo "level=warning msg=something" >&2; [ "$1" != info ] || cat {self.folder}/info.json')
        return PodmanEngine(engines.Scope("team", "mlflow", (component,)), lambda text: None, self.run)


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_state_is_the_user_s_and_a_warning_is_no_answer(machine):
    assert machine.engine().machine.facts.state == f"{machine.folder}/data/mlops.mlflow"


def test_what_podman_says_when_it_does_not_work_is_passed_on(machine):
    engine = machine.engine()
    machine.program("podman", 'echo "Error: cannot clone: Operation not permitted" >&2; exit 125')
    with pytest.raises(engines.EngineError,
                       match=r"podman does not work on this host \(cannot clone: Operation not permitted\)"):
        engine.read(set(), set())


def test_without_subordinate_ids_the_command_is_named(machine):
    machine.info["host"]["idMappings"] = {"uidmap": RANGE[:1], "gidmap": RANGE[:1]}
    with pytest.raises(engines.EngineError, match=r"user ana has no subordinate ids.* --add-subgids FIRST-LAST ana'"):
        machine.engine().preflight([], {})


@pytest.mark.parametrize("component, variable", [("ingress", "ingress_publish"), ("server", "mlflow_server_publish"),
                                                 ("other", "the annotation mlops.mlflow/publish")])
def test_a_port_for_root_only_is_refused(machine, component, variable):
    engine = machine.engine(component)
    service = {**SERVICE, "metadata": {**SERVICE["metadata"], "labels": {"app.kubernetes.io/component": component}}}
    engine.machine.facts.lowest_port = 1024
    with pytest.raises(
        engines.EngineError,
        match=(
            f"0.0.0.0:443, .* is only for root on this machine; set {variable} to a port from 1024 "
            "on, .*"
            "ip_unprivileged_port_start=443"
        ),
    ):
        engine.preflight([service], {})
    engine.machine.facts.lowest_port = 443
    engine.machine.facts.containers = [{"State": "running", "Ports": [{"host_port": 443}],
                                        "Labels": {"mlops.mlflow/namespace": "team"}}]
    engine.preflight([service], {})


@pytest.mark.parametrize("changes, controllers, words", [
    ({}, {"cpu", "memory", "pids"}, ""),
    ({"cgroupControllers": ["memory", "pids"]}, {"memory", "pids"}, "Limits of CPU are not enforced"),
    ({"cgroupControllers": []}, set(), "Limits of memory and CPU are not enforced"),
    ({"cgroupManager": "cgroupfs"}, set(), "Limits of memory and CPU are not enforced"),
])
def test_limits_that_are_not_enforced_are_said(machine, changes, controllers, words):
    machine.info["host"].update(changes)
    engine = machine.engine()
    engine.machine.warn_of_limitations()
    assert engine.machine.controllers == controllers
    assert words in " ".join(engine.warnings) and ("Limits" in " ".join(engine.warnings)) == bool(words)


def test_a_storage_that_copies_images_is_said(machine):
    machine.info["store"]["graphDriverName"] = "vfs"
    engine = machine.engine()
    engine.machine.warn_of_limitations()
    assert any("storage driver is vfs" in text for text in engine.warnings)


def test_the_unit_is_made_for_the_user_and_lingering_that_is_refused_is_said(machine):
    """The pods run; what an administrator has to do is named, and the machine's peculiarities are told once."""
    unit = machine.folder / "config" / "systemd" / "user" / "mlops-mlflow-team.service"
    engine = machine.engine()
    engine.machine.facts.unit, engine.machine.facts.unit_text, engine.machine.facts.lingers = str(unit), "", False
    machine.program("loginctl", 'echo "Could not enable linger: Access denied" >&2; exit 1')
    engine.machine.survive_reboots()
    start = machine.folder / "data" / "mlops.mlflow" / "team" / "start"
    assert (
        f"ExecStart={start}" in unit.read_text()
        and "WantedBy=default.target" in unit.read_text()
        and os.access(start, os.X_OK)
    )
    assert any(
        "(Could not enable linger: Access denied); an administrator does so with 'loginctl enable-linger ana'" in n
        for n in engine.warnings
    )
    again = machine.engine()
    again.machine.facts.unit, again.machine.facts.unit_text, again.machine.facts.lingers = (
        str(unit),
        unit.read_text(),
        True,
    )
    machine.commands.clear()
    again.machine.survive_reboots()
    assert not machine.commands and not again.warnings


def test_without_a_systemd_of_the_user_the_script_is_named(machine):
    engine = machine.engine()
    engine.machine.facts.unit = ""
    engine.machine.survive_reboots()
    assert any(
        "No systemd runs for this user: after a reboot" in text and "team/start" in text for text in engine.warnings
    )


@pytest.mark.parametrize("pid, remote, state", [
    (NOBODY, False, "lost"), (1, False, "running"), (NOBODY, True, "running"), (0, False, "exited")])
def test_a_pod_that_died_unnoticed_is_not_called_running(machine, pid, remote, state):
    machine.info["host"]["serviceIsRemote"] = remote
    engine = machine.engine()
    container = {"State": "running" if pid else "exited", "Pid": pid, "Labels": {}}
    machine.program("podman",
                    f"case $1 in info) cat {machine.folder}/info.json;; ps) echo '{json.dumps([container])}';; esac")
    assert [c["State"] for c in engine.machine.facts.containers] == [state]


CONTAINER = {"Id": "c1", "Pod": "p", "State": "running", "Names": ["web-0-abc-c"], "Labels": {
    "mlops.mlflow/namespace": "team", "mlops.mlflow/services": "web", "mlops.mlflow/role": "main",
    "mlops.mlflow/pod": "web-0-abc",
    "mlops.mlflow/index": "0", "mlops.mlflow/workload": "Deployment/web"}}


def running(machine, execute: str, state: str = "running") -> PodmanEngine:
    """An engine on whose machine one pod is; ``execute`` is what a command in it does."""
    engine = machine.engine()
    container = json.dumps([{**CONTAINER, "State": state}])
    machine.program("podman",
                    f"case $1 in info) cat {machine.folder}/info.json;; ps) echo '{container}';; exec) {execute};; "
                    "esac")
    engine.machine.facts.uid = os.geteuid()
    return engine


def test_a_user_s_port_is_relayed_inside_the_pod(machine, monkeypatch):
    """The pod's address is one of the user's own network; on the machine's it may be somebody else's pod."""
    monkeypatch.setenv("PATH", f"{machine.folder}/bin:{os.environ['PATH']}")
    engine = running(machine, 'read line; echo "$3 got $line"')
    with engine.forward("web", 5000) as address, socket.create_connection(address) as connection:
        connection.sendall(b"words\n")
        assert connection.makefile().read() == "c1 got words\n"


def test_a_port_of_another_machine_or_user_is_refused(machine):
    engine = running(machine, "true")
    engine.machine.facts.uid = os.geteuid() + 1
    with pytest.raises(engines.EngineError, match="which only a process of that user enters; run Ansible as ana"):
        with engine.forward("web", 5000):
            pass
    engine.machine.facts.boot = "another"
    with pytest.raises(engines.EngineError,
                       match="Port 5000 of Service web is on another machine than Ansible; connect there with 'ssh -L"):
        with engine.forward("web", 5000):
            pass


def test_a_program_runs_in_the_pod_and_its_end_is_told(machine):
    assert running(machine, "shift 3; cat; echo \"$@\"").execute("web", ["python3", "-"],
                                                                 "input ") == "input python3 -\n"
    with pytest.raises(engines.EngineError, match=r"python3 in pod web-0-abc failed: no such module"):
        running(machine, "echo no such module >&2; exit 1").execute("web", ["python3"])
    with pytest.raises(engines.EngineError, match=r"sleep in pod web-0-abc did not end within 0.2 s"):
        running(machine, "exec sleep 5").execute("web", ["sleep"], timeout=0.2)
    with pytest.raises(engines.EngineError,
                       match=r"Service web in namespace team has no running pod: web-0-abc-c is exited"):
        running(machine, "true", "exited").execute("web", ["true"])
    with pytest.raises(engines.EngineError, match=r"Service none in namespace team has no running pod: it has none"):
        running(machine, "true").execute("none", ["true"])


def test_a_secret_that_is_not_there_is_named(machine):
    with pytest.raises(engines.EngineError, match="Secret login does not exist in namespace team of podman"):
        running(machine, "true").secret("login")


def test_packages_that_debian_only_recommends_are_named(machine):
    engine = machine.engine()
    engine.machine.facts.missing = ["netavark", "uidmap"]
    with pytest.raises(engines.EngineError,
                       match="Podman lacks netavark, uidmap .*'apt-get install --no-install-recommends netavark "
                             "uidmap' there"):
        engine.preflight([], {})


def test_without_podman_the_packages_are_named(machine):
    engine = machine.engine()
    machine.program("podman", 'echo "sh: 1: podman: not found" >&2; exit 127')
    with pytest.raises(engines.EngineError,
                       match="podman: not found.*apt-get install --no-install-recommends podman .*netavark"):
        engine.read(set(), set())


@pytest.mark.parametrize("unit, cron, runs, policy, reason, warned", [
    ("/u", False, False, "Forbid", "", False), ("", True, True, "Forbid", "", False),
    ("", True, False, "Forbid", "", True),
    ("", False, False, "Forbid", "no systemd runs for this user and no cron is installed", False),
    ("/u", True, True, "Replace", "never replaced", False)])
def test_a_schedule_needs_something_that_keeps_it(machine, unit, cron, runs, policy, reason, warned):
    engine = machine.engine()
    facts = engine.machine.facts
    facts.unit, facts.cron, facts.cron_runs = unit, cron, runs
    job = {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "gc"},
           "spec": {"concurrencyPolicy": policy}}
    assert reason in engine.unsupported_reason(job) and bool(engine.unsupported_reason(job)) == bool(reason)
    assert bool(engine.warnings) == warned


LOGIN = {"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "data": {"username": "bWxmbG93"}, "metadata": {
    "name": "mlflow-database", "namespace": "team", "annotations": {
        "mlops.mlflow/generate": "password", "mlops.mlflow/keep": "the password of the database"}}}
LONG = {"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "data": {}, "metadata": {
    "name": "mlflow-" + "x" * 60, "namespace": "team", "annotations": {"mlops.mlflow/generate": "key"}}}
STORED = "team.mlflow-database.password"
PODMAN = """\
import base64, json, pathlib, sys
folder, (command, *arguments) = pathlib.Path(sys.argv[1]), sys.argv[2:]
values = folder / "secrets/filedriver/secretsdata.json"
store = json.loads((folder / "store.json").read_text())
named = {entry["Spec"]["Name"]: entry for entry in store}
if command == "info":
    print((folder / "info.json").read_text())
elif [command, *arguments[:1]] == ["volume", "ls"]:
    print((folder / "volumes.json").read_text())
elif command == "secret" and arguments[0] == "ls":
    print("".join(f"{entry['ID']} {name}\\n" for name, entry in named.items()), end="")
elif command == "secret" and arguments[0] == "inspect":
    print(json.dumps([named[name] for name in arguments[1:]]))
elif command == "secret":
    name = arguments[-1] if arguments[0] == "rm" else arguments[-2]
    known = json.loads(values.read_text())
    if arguments[0] == "rm":
        store.remove(named[name])
        del known[named[name]["ID"]]
    else:
        if name in named:
            sys.exit(f"Error: {name}: secret name in use")
        labels = dict(text.split("=", 1) for flag, text in zip(arguments, arguments[1:]) if flag == "--label")
        store.append({"ID": f"id-{name}", "Spec": {"Name": name, "Labels": labels}})
        known[f"id-{name}"] = base64.b64encode(sys.stdin.buffer.read()).decode()
    (folder / "store.json").write_text(json.dumps(store))
    values.write_text(json.dumps(known))
"""


class Store:
    """The secrets of a machine whose podman keeps them as the real one does: a name once, with labels."""

    def __init__(self, machine: Machine) -> None:
        self.machine, self.folder = machine, machine.folder
        (self.folder / "secrets/filedriver").mkdir(parents=True)
        (self.folder / "secrets/filedriver/secretsdata.json").write_text("{}")
        (self.folder / "store.json").write_text("[]")
        (self.folder / "volumes.json").write_text("[]")
        (self.folder / "podman.py").write_text(PODMAN)

    def apply(self, *objects: dict, dry_run: bool = False) -> engines.Outcome:
        engine = self.machine.engine("database")
        self.machine.program("podman", f"exec {sys.executable} {self.folder}/podman.py {self.folder} \"$@\"")
        objects = copy.deepcopy(objects)
        manifests.label(objects, engine.scope.labels("database"))
        return engines.converge(engine, [list(objects)], dry_run, wait=False, timeout=5)

    def lose_state(self) -> None:
        shutil.rmtree(self.folder / "data")

    def relabel(self, labels: dict) -> None:
        entries = json.loads((self.folder / "store.json").read_text())
        for entry in entries:
            entry["Spec"]["Labels"] = labels
        (self.folder / "store.json").write_text(json.dumps(entries))

    @property
    def kept(self) -> tuple[str, str]:
        """All that podman has."""
        return (self.folder / "store.json").read_text(), (
            self.folder / "secrets/filedriver/secretsdata.json").read_text()


@pytest.fixture
def store(machine):
    return Store(machine)


VOLUME = {"Name": "mlflow-database-postgresql", "Labels": {
    "app.kubernetes.io/instance": "mlflow", "app.kubernetes.io/managed-by": "mlops.mlflow",
    "mlops.mlflow/namespace": "team"}}


def test_secrets_of_a_lost_state_keep_their_values(store):
    """A database on a volume opens by its generated password only. A name that is too long for podman is found, too."""
    store.apply(LOGIN, LONG)
    kept = store.kept
    assert len(json.loads(kept[0])) == 3 and all(
        VOLUME["Labels"].items() <= entry["Spec"]["Labels"].items() for entry in json.loads(kept[0]))
    store.lose_state()
    assert store.apply(LOGIN, LONG, dry_run=True).changed
    assert store.apply(LOGIN, LONG).changed
    assert not store.apply(LOGIN, LONG).changed
    assert store.kept == kept


def test_a_secret_that_no_run_remembered_is_kept_beside_those_that_one_did(store):
    store.apply(LOGIN, LONG)
    kept = store.kept
    path = next(store.folder.glob("data/**/Secret.mlflow-database.json"))
    remembered = json.loads(path.read_text())
    del remembered["data"]["password"]
    path.write_text(json.dumps(remembered) + "\n")
    store.apply(LOGIN, LONG)
    assert store.kept == kept


def test_secrets_without_labels_are_the_instance_s_where_a_volume_of_it_is(store):
    """Version 0.1.0 made such."""
    store.apply(LOGIN)
    store.relabel({})
    kept = store.kept
    store.lose_state()
    for volumes in ([], [{**VOLUME, "Labels": {**VOLUME["Labels"], "app.kubernetes.io/instance": "other"}}],
                    [{**VOLUME, "Labels": {**VOLUME["Labels"], "mlops.mlflow/namespace": "other"}}]):
        (store.folder / "volumes.json").write_text(json.dumps(volumes))
        with pytest.raises(engines.EngineError, match="belongs to nobody that it names, not to instance mlflow"):
            store.apply(LOGIN)
    (store.folder / "volumes.json").write_text(json.dumps([VOLUME]))
    store.apply(LOGIN)
    assert not store.apply(LOGIN).changed
    assert store.kept == kept


@pytest.mark.parametrize("labels, owner", [
    ({}, "nobody that it names"), ({"app": "shop"}, "nobody that it names"),
    ({"app.kubernetes.io/managed-by": "mlops.mlflow", "app.kubernetes.io/instance": "other",
      "mlops.mlflow/namespace": "team"}, "instance other")])
@pytest.mark.parametrize("dry_run", [True, False])
def test_a_secret_of_another_owner_is_refused_before_anything_is_changed(store, labels, owner, dry_run):
    store.apply(LOGIN)
    store.relabel(labels)
    kept = store.kept
    store.lose_state()
    if labels:  # even beside a volume of the instance
        (store.folder / "volumes.json").write_text(json.dumps([VOLUME]))
    with pytest.raises(engines.EngineError, match=(
            f"^Secret mlflow-database is to be stored in podman's secret {STORED}, which already exists and belongs to "
            f"{owner}, not to instance mlflow; if nothing needs its value, remove it with 'podman secret rm {STORED}', "
            "else choose another mlflow_instance or mlflow_namespace.$")):
        store.apply(LONG, LOGIN, dry_run=dry_run)
    assert store.kept == kept and not list(store.folder.glob("data/**/*.json"))


def test_a_password_that_is_given_does_not_replace_one_of_a_lost_state(store):
    """What was made with it does not open with another."""
    store.apply(LOGIN)
    kept = store.kept
    store.lose_state()
    given = copy.deepcopy(LOGIN)
    given["metadata"]["annotations"] = {}
    given["data"]["password"] = base64.b64encode(b"mine").decode()
    reader = {"apiVersion": "v1", "kind": "Service", "metadata": {
        "name": "mlflow-database", "annotations": {"mlops.mlflow/read-once": "mlflow-database"}}, "spec": {}}
    with pytest.raises(engines.EngineError, match="Secret mlflow-database holds a generated password, which another"):
        store.apply(given, reader)
    assert store.kept == kept
