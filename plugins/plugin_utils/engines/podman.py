# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The podman engine: the same manifests on one machine, through Ansible's connection to it.

Objects are remembered as files in a state folder of the host, one each, as they were put; Secrets without their values,
which only podman's secret store holds. What a manifest means is in labels on pods, volumes and secrets, so that what podman
shows and what the state says can be compared.
"""

from __future__ import annotations

import base64
import io
import json
import re
import shlex
import tarfile
import time
import uuid
from typing import Callable, Iterable, Iterator

from ansible_collections.mlops.mlflow.plugins.module_utils.podman import secret_name
from ansible_collections.mlops.mlflow.plugins.plugin_utils import manifests
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines import Engine, EngineError, Put, Scope
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines import podman_spec
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines.podman_spec import LABEL, Pod, Surroundings
from ansible_collections.mlops.mlflow.plugins.plugin_utils.manifests import Ref
from ansible_collections.mlops.mlflow.plugins.plugin_utils.rules import quantity

Run = Callable[..., "tuple[int, str, str]"]

OLDEST = (4, 3)
RUNNABLE = ("Deployment", "StatefulSet", "Job")
STORED = ("ConfigMap", "Secret", "PersistentVolumeClaim", "Service", *RUNNABLE)
NO_COUNTERPART = {
    "ServiceAccount": "one machine has no API that pods could log in to",
    "Role": "one machine has no API to give rights to", "RoleBinding": "one machine has no API to give rights to",
    "ClusterRole": "one machine has no API to give rights to", "ClusterRoleBinding": "one machine has no API to give rights to",
    "NetworkPolicy": "on one machine the instance's own network is the border",
    "HorizontalPodAutoscaler": "one machine runs a fixed number of pods",
    "PodDisruptionBudget": "one machine has no nodes to drain",
    "CronJob": "podman has no scheduler",
}
LEAST_DISK = 500 * 2**20
CRASHES = 3
LOG_LINES = 15
SAY_EVERY = 10
SECTION = "\x1e"
PUBLISHED_BY = {"server": "mlflow_server_publish", "ingress": "ingress_publish"}

# Starts an instance's pods after a reboot, all at once, since some wait for others.
START = """\
#!/bin/sh
# Starts what mlops.mlflow runs in {namespace}, as after a reboot.
[ -e {conf} ] && export CONTAINERS_CONF={conf}
for pod in $(podman ps --all --filter label={label}/namespace={namespace} --filter label={label}/role=main \\
    --filter restart-policy=always --format '{{{{.Pod}}}}' | sort -u); do
  podman pod start "$pod" &
done
wait
"""
UNIT = """\
[Unit]
Description=mlops.mlflow: what runs in {namespace}
Wants=network-online.target
After=network-online.target

[Service]
Type=oneshot
RemainAfterExit=yes
KillMode=none
ExecStart={start}

[Install]
WantedBy={target}
"""

# Without a login of its own a process is not told where its user's systemd is.
FIND_SYSTEMD = 'export XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-/run/user/$(id -u)}"; '

# Everything that a run needs to know, in one go: each command costs a start of podman, and over ssh a journey.
SURVEY = r"""
if [ "$(id -u)" = 0 ]; then state=/var/lib/mlops.mlflow units=/etc/systemd/system
else state=${XDG_DATA_HOME:-$HOME/.local/share}/mlops.mlflow units=${XDG_CONFIG_HOME:-$HOME/.config}/systemd/user; fi
unit=$units/mlops-mlflow-$1.service
s() { printf '\036%s\n' "$1"; }
s state; echo "$state"
# Where podman's defaults ask for more than this machine allows, a containers.conf of our own lowers them, for our calls only.
conf=$state/containers.conf
files=$(awk '/^Max open files/{print $5}' /proc/self/limits)
if [ ! -e "$conf" ] && [ "$(id -u)" = 0 ] && [ "$files" != unlimited ] && [ "$files" -lt 1048576 ]; then
  mkdir -p "$state" && {
    printf '[containers]\ndefault_ulimits = ["nofile=%s:%s", "nproc=4096:4096"]\n' "$files" "$files"
    # crun cannot set up containers on hybrid cgroups (v1 controllers beside an empty v2 tree); runc can.
    if [ -d /sys/fs/cgroup/unified ] && command -v runc >/dev/null; then printf '[engine]\nruntime = "runc"\n'; fi
  } > "$conf"
fi
[ -e "$conf" ] && export CONTAINERS_CONF="$conf"
s conf; [ -e "$conf" ] && echo "$conf"
info=$(podman info --format json 2>/dev/null) || info=$(podman info --format json 2>&1)  # warnings are no part of the answer
root=$(printf '%s\n' "$info" | sed -n 's/^ *"graphRoot": "\(.*\)",$/\1/p')
s info; printf '%s\n' "$info"
s objects; cat "$state/$1"/objects/*.json 2>/dev/null
s containers; podman ps -a --no-trunc --format json
s volumes; podman volume ls --format json
s secrets; podman secret ls --format '{{.ID}} {{.Name}}'
s values; cat "$root/secrets/filedriver/secretsdata.json" 2>/dev/null
# A user's own systemd is there while somebody is logged in as that user, or for good where the user lingers.
s systemd; [ -d /run/systemd/system ] && { [ "$(id -u)" = 0 ] || [ -S "${XDG_RUNTIME_DIR:-/run/user/$(id -u)}/systemd/private" ]; } && echo "$unit"
s user; id -un
s lingers; [ -e "/var/lib/systemd/linger/$(id -un)" ] && echo yes
s lowest; cat /proc/sys/net/ipv4/ip_unprivileged_port_start 2>/dev/null
s start; cat "$state/$1/start" 2>/dev/null
s unit; cat "$unit" 2>/dev/null
s disk; df -Pk "$root" | tail -n 1
true
"""


class PodmanEngine(Engine):
    """Runs the objects of its scope as pods of the inventory host."""

    name = "podman"

    def __init__(self, scope: Scope, say: Callable[[str], None], run: Run) -> None:
        super().__init__(scope, say)
        self._run = run
        self._environment: list[str] = []
        self._machine: dict | None = None
        self._known: dict[Ref, dict] = {}
        self._before: dict[Ref, dict] = {}
        self._old: dict[Ref, list[str]] = {}
        self._attempts: dict[str, int] = {}
        self._said: tuple[str, float] = ("", 0.0)

    def left_out(self, obj: dict) -> str:
        if obj["kind"] in STORED:
            return ""
        return NO_COUNTERPART.get(obj["kind"], "it is for clusters, and podman has no counterpart")

    # -- talking to podman -----------------------------------------------------------------------------------------

    def podman(self, *arguments: str, stdin: str | bytes | None = None, what: str = "") -> str:
        """Run podman on the host.

        Raises:
            EngineError: with podman's own words, after ``what`` was being done.
        """
        rc, out, err = self._run([*self._environment, "podman", *arguments], stdin)
        if rc:
            raise EngineError(f"{what or 'podman ' + arguments[0]} failed: {_last_words(err or out)}")
        return out

    def _survey(self) -> dict:
        """The machine and what runs on it, looked up once and again after changes."""
        if self._machine is None:
            rc, out, err = self._run(["sh", "-c", SURVEY, "sh", self.scope.namespace])
            parts = {name: body for name, _sep, body in (part.partition("\n") for part in out.split(SECTION)[1:])}
            try:
                info = json.loads(parts.get("info") or "")
            except ValueError:
                reason = _last_words(parts.get("info") or err)
                raise EngineError(f"mlflow_engine is podman, but podman does not work on this host ({reason}); install podman 4.3 or "
                                  f"newer there, or set mlflow_engine to kubernetes.") from None
            version = info["version"]["Version"]
            if tuple(int(n) for n in re.findall(r"\d+", version)[:2]) < OLDEST:
                raise EngineError(f"podman on this host is {version}; mlops.mlflow needs 4.3 or newer.")
            conf = parts["conf"].strip()
            self._environment = ["env", f"CONTAINERS_CONF={conf}"] if conf else []
            self._machine = {
                "state": parts["state"].strip(), "info": info, "version": version,
                "objects": [json.loads(line) for line in parts["objects"].splitlines() if line],
                "containers": json.loads(parts["containers"] or "null") or [],
                "volumes": {v["Name"]: v.get("Labels") or {} for v in json.loads(parts["volumes"] or "null") or []},
                "secrets": dict(reversed(line.split(" ", 1)) for line in parts["secrets"].splitlines() if line),
                "values": json.loads(parts["values"] or "{}"),
                "systemd": parts["systemd"].strip(), "start": parts["start"], "unit": parts["unit"], "disk": parts["disk"].split(),
                "user": parts["user"].strip(), "lingers": parts["lingers"].strip(), "lowest": int(parts["lowest"].strip() or 0),
            }
        return self._machine

    def _folder(self) -> str:
        return f"{self._survey()['state']}/{self.scope.namespace}"

    # -- reading ---------------------------------------------------------------------------------------------------

    def read(self, refs: set[Ref], kinds: set[tuple[str, str]]) -> dict[Ref, dict]:
        live = {}
        for obj in self._survey()["objects"]:
            ref = Ref.of(obj)
            if (ref in refs or self.scope.made(obj)) and (found := self._with_reality(ref, obj)):
                live[ref] = found
        for ref, obj in self._unremembered():
            if ref not in live and (ref in refs or self.scope.made(obj)):
                live[ref] = obj
        for ref in refs - set(live):
            if foreign := self._foreign(ref):
                live[ref] = foreign
        return live

    def _with_reality(self, ref: Ref, obj: dict) -> dict | None:
        """A remembered object with what podman knows of it now; None when its counterpart is gone."""
        machine = self._survey()
        if ref.kind == "PersistentVolumeClaim" and ref.name not in machine["volumes"]:
            return None
        if ref.kind == "Secret":
            values = self._secret(ref, obj.get("data") or {})
            return {**obj, "data": values} if values or not obj.get("data") else None
        if ref.kind in RUNNABLE and not self._containers(ref):
            return None
        return obj

    def _unremembered(self) -> Iterator[tuple[Ref, dict]]:
        """Workloads of this namespace whose pods are there while their state is not: it was lost, or never written."""
        for container in self._survey()["containers"]:
            labels = container.get("Labels") or {}
            if labels.get(f"{LABEL}/namespace") == self.scope.namespace and "/" in labels.get(f"{LABEL}/workload", ""):
                kind, name = labels[f"{LABEL}/workload"].split("/", 1)
                ours = {**labels, "app.kubernetes.io/component": labels.get(f"{LABEL}/component", "")}
                obj = {"apiVersion": "batch/v1" if kind == "Job" else "apps/v1", "kind": kind,
                       "metadata": {"name": name, "namespace": self.scope.namespace, "uid": "", "labels": ours}}
                yield Ref.of(obj), obj

    def _secret(self, ref: Ref, keys: Iterable[str]) -> dict[str, str]:
        """A Secret's values, base64; from podman, which alone has them."""
        machine, values = self._survey(), {}
        for key in keys:
            name = secret_name(ref.namespace, ref.name, key)
            identifier = machine["secrets"].get(name)
            if identifier is None:
                continue
            stored = machine["values"].get(identifier)
            if stored is None:  # a driver other than podman's file store; newer versions tell on request
                text = self.podman("secret", "inspect", "--showsecret", "--format", "{{.SecretData}}", name, what=f"Reading {ref}")
                stored = base64.b64encode(text.removesuffix("\n").encode()).decode()
            values[key] = stored
        return values

    def _foreign(self, ref: Ref) -> dict | None:
        """Something on the machine that has the name but is not ours to touch, or ours with its state lost."""
        labels = self._survey()["volumes"].get(ref.name) if ref.kind == "PersistentVolumeClaim" else None
        if labels is None:
            return None
        ours = labels.get(f"{LABEL}/namespace") == ref.namespace
        api_version = f"{ref.group}/v1" if ref.group else "v1"
        return {"apiVersion": api_version, "kind": ref.kind,
                "metadata": {"name": ref.name, "namespace": ref.namespace, "uid": "", "labels": labels if ours else {}}}

    def _containers(self, ref: Ref) -> list[dict]:
        """Containers of a workload, as `podman ps` shows them; the one that only holds the pod together is none of them."""
        marks = {f"{LABEL}/workload": f"{ref.kind}/{ref.name}", f"{LABEL}/namespace": ref.namespace}
        return [c for c in self._survey()["containers"] if marks.items() <= (c.get("Labels") or {}).items()
                and f"{LABEL}/container" in c["Labels"]]

    # -- before anything is touched --------------------------------------------------------------------------------

    def preflight(self, objects: list[dict], live: dict[Ref, dict]) -> None:
        machine = self._survey()
        self._known = {Ref.of(obj): obj for obj in [*machine["objects"], *live.values(), *objects]}
        self._before = live
        around = self._around()
        workloads = [obj for obj in objects if obj["kind"] in RUNNABLE]
        for obj in workloads:
            podman_spec.pods(obj, around)
        self._enough_ids(machine)
        self._enough_disk(machine)
        self._enough_memory(machine, workloads)
        self._free_ports(machine, objects)
        self._images(workloads)

    def _enough_ids(self, machine: dict) -> None:
        ids = machine["info"]["host"].get("idMappings") or {}
        if not self._is_root() and any(len(ids.get(kind) or []) < 2 for kind in ("uidmap", "gidmap")):
            user = machine["user"]
            raise EngineError(f"The user {user} has no subordinate ids, without which podman runs no image for this user; an administrator gives "
                              f"65536 that nobody else in /etc/subuid has, with 'usermod --add-subuids FIRST-LAST --add-subgids FIRST-LAST {user}', "
                              f"then {user} runs 'podman system migrate'.")

    def _enough_disk(self, machine: dict) -> None:
        free, root = int(machine["disk"][3]) * 1024, machine["info"]["store"]["graphRoot"]
        if free < LEAST_DISK:
            raise EngineError(f"The disk of {root} has {free // 2**20} MiB left; podman needs at least {LEAST_DISK // 2**20} MiB there, so make room first.")

    def _enough_memory(self, machine: dict, workloads: list[dict]) -> None:
        total = machine["info"]["host"]["memTotal"]
        for obj in workloads:
            wanted = sum(quantity(((c.get("resources") or {}).get("requests") or {}).get("memory", 0)) or 0
                         for c in manifests.pod_template(obj)["spec"]["containers"]) * (obj["spec"].get("replicas", 1))
            if wanted > total:
                raise EngineError(f"{Ref.of(obj)} asks for {wanted / 2**30:.1f} GiB of memory, and this machine has {total / 2**30:.1f} GiB; "
                                  f"choose a smaller size or lower its memory request.")

    def _free_ports(self, machine: dict, objects: list[dict]) -> None:
        for service in objects:
            publish = manifests.annotation(service, manifests.PUBLISH) if service["kind"] == "Service" else ""
            if not publish:
                continue
            address, port = publish.replace("localhost", "127.0.0.1").rsplit(":", 1)
            variable = PUBLISHED_BY.get(self.scope.component, f"the annotation {manifests.PUBLISH}")
            if not self._is_root() and int(port) < machine["lowest"]:
                raise EngineError(f"Port {publish}, on which Service {service['metadata']['name']} is to be published, is only for root on this "
                                  f"machine; set {variable} to a port from {machine['lowest']} on, or have an administrator open it with "
                                  f"'sysctl -w net.ipv4.ip_unprivileged_port_start={port}'.")
            holders = [c for c in machine["containers"] if c["State"] == "running" and any(
                str(p.get("host_port")) == port for p in c.get("Ports") or [])]
            if holders and all((c.get("Labels") or {}).get(f"{LABEL}/namespace") == self.scope.namespace for c in holders):
                continue
            taken = _holder(holders[0]) if holders else self._listener(address, port)
            if taken:
                raise EngineError(f"Port {publish}, on which Service {service['metadata']['name']} is to be published, is taken by {taken}; "
                                  f"free it or set {variable} to another.")

    def _listener(self, address: str, port: str) -> str:
        _rc, out, _err = self._run(["ss", "-Hltnp", f"sport = :{port}"])
        for line in out.splitlines():
            fields = line.split()
            host = fields[3].rsplit(":", 1)[0]
            if host in (address, "0.0.0.0", "*", "[::]") or address == "0.0.0.0":
                process = re.search(r'\(\("([^"]+)",pid=(\d+)', line)
                return f"{process[1]} (process {process[2]})" if process else "another process"
        return ""

    def _images(self, workloads: list[dict]) -> None:
        """Every image is on the machine before any old pod stops."""
        wanted = {}
        for obj in workloads:
            spec = manifests.pod_template(obj)["spec"]
            for container in (spec.get("initContainers") or []) + spec["containers"]:
                wanted.setdefault(container["image"], (Ref.of(obj), container))
        if not wanted:
            return
        script = 'for i in "$@"; do podman image exists "$i" || echo "$i"; done'
        _rc, out, _err = self._run([*self._environment, "sh", "-c", script, "sh", *wanted])
        for image in out.split():
            ref, container = wanted[image]
            if container.get("imagePullPolicy") == "Never":
                raise EngineError(f"{ref}, container {container['name']}: the image {image} is not on this machine, and its pull policy is Never.")
            self.say(f"Pulling {image}")
            rc, out, err = self._run([*self._environment, "podman", "pull", "--quiet", image])
            if rc:
                raise EngineError(f"{ref}, container {container['name']}: the image {image} is not on this machine and cannot be pulled: "
                                  f"{_last_words(err or out)}")

    # -- writing ---------------------------------------------------------------------------------------------------

    def put(self, objects: list[dict], live: dict[Ref, dict], dry_run: bool) -> dict[Ref, Put]:
        result, files = {}, {}
        try:
            for obj in objects:
                ref, before = Ref.of(obj), live.get(Ref.of(obj))
                uid = (before or {}).get("metadata", {}).get("uid") or str(uuid.uuid4())
                after = {**obj, "metadata": {**obj["metadata"], "uid": uid}}
                same = before is not None and manifests.comparable(before) == manifests.comparable(after)
                touched = False
                if not dry_run:
                    if ref.kind == "Secret":  # remembered first: a value that is stored but not known would be generated anew
                        files.update(self._state_of(ref, after) if not same else {})
                    touched = getattr(self, f"_put_{ref.kind.lower()}")(ref, after, before, same)
                    files.update(self._state_of(ref, after) if not same else {})
                result[ref] = Put(after, touched)
        finally:
            if files:
                self._write(files)
        if not dry_run and any(obj["kind"] in RUNNABLE for obj in objects):
            self._survive_reboots()
        return result

    def _survive_reboots(self) -> None:
        """Leave a script that starts the pods, and where there is systemd a unit that runs it at boot."""
        machine, namespace, root = self._survey(), self.scope.namespace, self._is_root()
        start = START.format(namespace=namespace, label=LABEL, conf=f"{machine['state']}/containers.conf")
        if machine["start"] != start:
            self._write({"start": (start, 0o755)})
            machine["start"] = start
            self._tell_of_machine()
        if not machine["systemd"]:
            return
        if not root and not machine["lingers"]:
            rc, out, err = self._run(["loginctl", "--no-ask-password", "enable-linger"])
            if rc:
                self.note(f"The pods end when {machine['user']} logs out, and do not start at boot: lingering is off and cannot be turned on "
                          f"({_last_words(err or out)}); an administrator does so with 'loginctl enable-linger {machine['user']}'.")
            machine["lingers"] = "asked"
        unit = UNIT.format(namespace=namespace, start=f"{self._folder()}/start",
                           target="multi-user.target" if root else "default.target")
        if machine["unit"] != unit:
            enable = FIND_SYSTEMD + 'mkdir -p "${1%/*}" && cat > "$1" && systemctl $2 daemon-reload && systemctl $2 --quiet enable "${1##*/}"'
            rc, out, err = self._run(["sh", "-c", enable, "sh", machine["systemd"], "" if root else "--user"], unit)
            if rc:
                raise EngineError(f"The unit {machine['systemd']}, which starts the pods after a reboot, cannot be enabled: "
                                  f"{_last_words(err or out)}")
            machine["unit"] = unit

    def _tell_of_machine(self) -> None:
        """What pods lack on this machine, said when the namespace's first come up."""
        machine, controllers = self._survey(), self._around().controllers
        if not machine["systemd"]:
            self.note(f"No systemd runs {'on this machine' if self._is_root() else 'for this user'}: after a reboot, {self._folder()}/start "
                      f"starts the pods again, and liveness probes are left out.")
        unlimited = [name for name, controller in (("memory", "memory"), ("CPU", "cpu")) if controller not in controllers]
        if unlimited:
            self.note(f"Limits of {' and '.join(unlimited)} are not enforced: podman has no cgroup controller for them here; docs/operations.md "
                      f"says what gives it one.")
        if machine["info"]["store"]["graphDriverName"] == "vfs":
            self.note("Each container takes a whole copy of its image here, since podman's storage driver is vfs; docs/operations.md says how "
                      "to have another.")

    def _is_root(self) -> bool:
        return not self._survey()["info"]["host"]["security"]["rootless"]

    def _state_of(self, ref: Ref, obj: dict) -> dict[str, tuple[str, int]]:
        if ref.kind == "Secret":
            obj = {**obj, "data": {key: "" for key in obj.get("data") or {}}}
        return {f"objects/{ref.kind}.{ref.name}.json": (json.dumps(obj) + "\n", 0o600)}

    def _write(self, files: dict[str, tuple[str, int]]) -> None:
        """Unpack files into the namespace's state folder, all in one command."""
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for name, (text, mode) in files.items():
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode, entry.mtime = len(text.encode()), mode, int(time.time())
                tar.addfile(entry, io.BytesIO(text.encode()))
        rc, _out, err = self._run(["sh", "-c", 'mkdir -p "$1/objects" && chmod 700 "$1/objects" && base64 -d | tar -xo --no-same-owner -C "$1" -f -',
                                   "sh", self._folder()], base64.b64encode(archive.getvalue()).decode())
        if rc:
            raise EngineError(f"The state folder {self._folder()} cannot be written: {_last_words(err)}")

    def _put_configmap(self, ref: Ref, obj: dict, before: dict | None, same: bool) -> bool:
        if same:
            return False
        gone = set((before or {}).get("data") or {}) - set(obj.get("data") or {})
        if gone:
            self._run(["rm", "-f", *(f"{self._folder()}/configmaps/{ref.name}/{key}" for key in gone)])
        self._write({f"configmaps/{ref.name}/{key}": (text, 0o644) for key, text in (obj.get("data") or {}).items()})
        return False

    def _put_secret(self, ref: Ref, obj: dict, before: dict | None, same: bool) -> bool:
        old, new = (before or {}).get("data") or {}, obj.get("data") or {}
        for key in set(old) | set(new):
            name = secret_name(ref.namespace, ref.name, key)
            if key in old and old[key] != new.get(key):
                self.podman("secret", "rm", name, what=f"Replacing {ref}")
            if key in new and old.get(key) != new[key]:
                # The value travels on standard input only; base64 keeps any bytes whole on the way through Ansible's connection.
                script = f"base64 -d | {shlex.join([*self._environment, 'podman', 'secret', 'create', name, '-'])}"
                rc, out, err = self._run(["sh", "-c", script], new[key])
                if rc:
                    raise EngineError(f"{ref} cannot be stored: {_last_words(err or out)}")
        return False

    def _put_persistentvolumeclaim(self, ref: Ref, obj: dict, before: dict | None, same: bool) -> bool:
        if ref.name not in self._survey()["volumes"]:
            labels = {**obj["metadata"]["labels"], f"{LABEL}/namespace": ref.namespace}
            self.podman("volume", "create", *podman_spec.labels_for(labels), ref.name, what=f"Making the volume of {ref}")
            self._survey()["volumes"][ref.name] = labels
        return False

    def _put_service(self, ref: Ref, obj: dict, before: dict | None, same: bool) -> bool:
        return False  # names on the pods that it selects

    def _put_job(self, ref: Ref, obj: dict, before: dict | None, same: bool) -> bool:
        (pod,) = podman_spec.pods(obj, self._around())
        there = self._containers(ref)
        done = there and all(c["Labels"].get(f"{LABEL}/fingerprint") == pod.fingerprint for c in there) and all(
            c["State"] == "running" or (c["State"] == "exited" and c["ExitCode"] == 0) for c in there)
        if done:
            return False
        self._remove_pods(self._pod_names(ref))
        self._make(pod)
        self._start(pod)
        return True

    def _put_deployment(self, ref: Ref, obj: dict, before: dict | None, same: bool) -> bool:
        wanted = {pod.name: pod for pod in podman_spec.pods(obj, self._around())}
        there: dict[str, list[dict]] = {}
        for container in self._containers(ref):
            there.setdefault(container["Labels"][f"{LABEL}/pod"], []).append(container)
        stale = sorted(set(there) - set(wanted))
        touched = False
        for name, pod in wanted.items():
            if name in there and {c["Labels"][f"{LABEL}/container"] for c in there[name]} >= {c for c, _arguments in pod.containers}:
                if any(c["State"] != "running" for c in there[name] if c["Labels"][f"{LABEL}/role"] == "main"):
                    self._start(pod)
                    touched = True
                continue
            if name in there:
                self._remove_pods({name})
            self._make(pod)
            touched = True
            # The old pod rests until the new one has proven itself in wait(): its port and its volumes are needed now.
            for old in [n for n in stale if n.startswith(f"{pod.hostname}-")]:
                self.podman("pod", "stop", old, what=f"Stopping {ref}")
                self._old.setdefault(ref, []).append(old)
            try:
                self._start(pod)
            except EngineError:
                self._restore(ref)
                raise
        surplus = [name for name in stale if name not in self._old.get(ref, [])]
        if surplus:
            self._remove_pods(set(surplus))
            touched = True
        return touched

    _put_statefulset = _put_deployment

    def _around(self) -> Surroundings:
        machine = self._survey()
        return Surroundings(
            scope=self.scope, services=[o for o in self._known.values() if o["kind"] == "Service"],
            configmaps=f"{self._folder()}/configmaps", scratch=f"{self._folder()}/scratch",
            healthchecks=bool(machine["systemd"]),
            secret_keys={o["metadata"]["name"]: sorted(o.get("data") or {}) for o in self._known.values() if o["kind"] == "Secret"},
            controllers=self._controllers(machine["info"]["host"]))

    def _controllers(self, host: dict) -> set[str]:
        """Cgroup controllers that podman may use; a user's podman has them from the user's systemd alone."""
        return set(host.get("cgroupControllers") or []) if self._is_root() or host.get("cgroupManager") == "systemd" else set()

    def _make(self, pod: Pod) -> None:
        """Create a pod with its containers, started by nobody yet; nothing is left of it when a part cannot be made."""
        network = self.scope.namespace
        commands = [["podman", "network", "create", "--label", f"{LABEL}/namespace={network}", network]] if self._run(
            [*self._environment, "podman", "network", "exists", network])[0] else []
        if pod.scratch:
            commands += [["mkdir", "-p", *pod.scratch], ["chmod", "1777", *pod.scratch]]
        commands += [["podman", "pod", "create", "--name", pod.name, *pod.create]]
        commands += [["podman", "create", "--pull", "never", *arguments] for _name, arguments in pod.containers]
        script = "set -e\n" + "\n".join(f"{shlex.join(command)} >/dev/null" for command in commands)
        rc, out, err = self._run([*self._environment, "sh", "-c", script])
        if rc:
            self._remove_pods({pod.name})
            raise EngineError(f"{pod.workload} cannot be made: {_last_words(err or out)}")
        self._machine_changed()

    def _start(self, pod: Pod) -> None:
        rc, out, err = self._run([*self._environment, "podman", "pod", "start", pod.name])
        self._machine_changed()
        if rc:
            logs = self._failed_logs(pod.workload)
            words = _last_words(err or out)
            raise EngineError("\n".join([f"{pod.workload} does not start: {logs[0] if logs else words}", *logs[1:]]))

    def _machine_changed(self) -> None:
        if self._machine:
            self._machine["containers"] = json.loads(self.podman("ps", "--all", "--no-trunc", "--format", "json") or "null") or []

    def _restore(self, ref: Ref) -> None:
        """Put what ran before back in place of what does not work."""
        old = self._old.pop(ref, [])
        if old:
            self._remove_pods(self._pod_names(ref) - set(old))
            for name in old:
                self._run([*self._environment, "podman", "pod", "start", name])
            self._write(self._state_of(ref, self._before[ref]))
            self.say(f"{ref}: what ran before is running again")

    def _pod_names(self, ref: Ref) -> set[str]:
        out = self.podman("pod", "ps", "--filter", f"label={LABEL}/workload={ref.kind}/{ref.name}",
                          "--filter", f"label={LABEL}/namespace={ref.namespace}", "--format", "{{.Name}}")
        return set(out.split())

    def _remove_pods(self, names: set[str]) -> None:
        if not names:
            return
        script = ('d=$1; shift; for p in "$@"; do podman pod stop "$p" >/dev/null 2>&1; podman pod rm --force "$p" >/dev/null 2>&1; '
                  'rm -rf "$d/$p" 2>/dev/null || podman unshare rm -rf "$d/$p"; podman pod exists "$p" && echo "$p"; done; true')
        _rc, out, err = self._run([*self._environment, "sh", "-c", script, "sh", f"{self._folder()}/scratch", *sorted(names)])
        self._machine_changed()
        if out.strip():
            raise EngineError(f"Pod {out.split()[0]} cannot be removed: {_last_words(err)}")

    # -- waiting ---------------------------------------------------------------------------------------------------

    def wait(self, objects: list[dict], deadline: float) -> None:
        waiting = {Ref.of(obj): obj for obj in objects}
        pause, last = 0.3, {}
        try:
            while True:
                for ref, obj in list(waiting.items()):
                    last[ref] = self._lacks(ref, obj)
                    if not last[ref]:
                        del waiting[ref]
                if not waiting:
                    break
                if time.monotonic() > deadline:
                    ref = next(iter(waiting))
                    raise EngineError("\n".join([f"{ref} is not ready in time ({last[ref]}).", *self._failed_logs(ref, running=True)[1:]]))
                self._tell("; ".join(f"{ref}: {last[ref]}" for ref in waiting))
                time.sleep(pause)
                pause = min(pause * 1.3, 2.0)
        except EngineError:
            for ref in list(self._old):
                self._restore(ref)
            raise
        for ref in [Ref.of(obj) for obj in objects]:
            self._remove_pods(set(self._old.pop(ref, [])))

    def _tell(self, text: str) -> None:
        before, at = self._said
        if text != before or time.monotonic() - at > SAY_EVERY:
            if before:  # what is ready at the second look needs no announcement
                self.say(text)
            self._said = (text, time.monotonic())

    def _lacks(self, ref: Ref, obj: dict) -> str:
        """What a workload still lacks, in words; empty when it is ready. Raises EngineError when it cannot become so."""
        spec = manifests.pod_template(obj)["spec"]
        probes = {c["name"]: (c.get("startupProbe") or c.get("readinessProbe"), c.get("readinessProbe"), c) for c in spec["containers"]}
        names = [c["Names"][0] for c in self._containers(ref) if c["Labels"].get(f"{LABEL}/role") == "main"
                 and c["Labels"][f"{LABEL}/pod"] not in self._old.get(ref, [])]
        if not names:
            return "no pod"
        out = self.podman("inspect", "--type", "container", *names, what=f"Looking at {ref}")
        lacking = []
        for state in json.loads(out):
            name, status = state["Config"]["Labels"][f"{LABEL}/container"], state["State"]
            self._raise_if_hopeless(ref, obj, name, state)
            if ref.kind == "Job":
                if status["Status"] != "exited" or status["ExitCode"]:
                    lacking.append(f"container {name} is {status['Status']}")
            elif status["Status"] != "running":
                lacking.append(f"container {name} is {status['Status']}")
            else:
                probe = probes[name][1] or probes[name][0]
                if probe:
                    rc, _out, err = self._run([*self._environment, "podman", "exec", state["Name"],
                                               *podman_spec.probe_command(probe, probes[name][2])])
                    if rc in (126, 127) and "exec" in probe:
                        raise EngineError(f"{ref} cannot become ready: container {name} has no program for its probe: {_last_words(err or _out)}")
                    if rc:
                        lacking.append(f"container {name} runs, its probe says: {_last_words(err or _out) or 'no'}")
        return "; ".join(lacking)

    def _raise_if_hopeless(self, ref: Ref, obj: dict, name: str, state: dict) -> None:
        status = state["State"]
        limit = state["HostConfig"].get("Memory") or 0
        down, code = status["Status"] in ("exited", "stopped"), status.get("ExitCode")
        cause = ""
        if status.get("OOMKilled") and (down or state.get("RestartCount", 0)):
            cause = f"container {name} was killed for using more than its memory limit ({limit / 2**20:.0f} MiB)"
        elif ref.kind == "Job":
            if down and code:
                tried = self._attempts.get(state["Name"], 0)
                if tried < obj["spec"].get("backoffLimit", 6):
                    self._attempts[state["Name"]] = tried + 1
                    self.say(f"{ref}: container {name} ended with exit code {code}, trying again")
                    self._run([*self._environment, "podman", "start", state["Name"]])
                    return
                cause = f"container {name} ended with exit code {code}"
        elif state.get("RestartCount", 0) >= CRASHES:
            cause = f"container {name} ended {state['RestartCount']} times{f', last with exit code {code}' if code else ''}"
        if cause:
            raise EngineError("\n".join([f"{ref} cannot become ready: {cause}.", *self._failed_logs(ref, only=state["Name"])[1:]]))

    def _failed_logs(self, ref: Ref, only: str = "", running: bool = False) -> list[str]:
        """The failed container in one sentence, then its last log lines."""
        for container in self._containers(ref):
            role, name = container["Labels"].get(f"{LABEL}/role"), container["Names"][0]
            failed = container.get("ExitCode") and container["State"] != "running"
            old = container["Labels"][f"{LABEL}/pod"] in self._old.get(ref, [])
            if old or (only and name != only) or not (only or failed or (running and role == "main")):
                continue
            _rc, out, err = self._run([*self._environment, "sh", "-c", f"podman logs --tail {LOG_LINES} {shlex.quote(name)} 2>&1"])
            short = container["Labels"][f"{LABEL}/container"]
            lines = [f"  log of {short}: {line}" for line in (out or err).splitlines() if line.strip()]
            return [f"{role} container {short} ended with exit code {container.get('ExitCode')}.", *lines[-LOG_LINES:]]
        return []

    # -- removing --------------------------------------------------------------------------------------------------

    def delete(self, objects: list[dict], deadline: float) -> None:
        for obj in objects:
            ref = Ref.of(obj)
            if ref.kind in RUNNABLE:
                self._remove_pods(self._pod_names(ref))
            elif ref.kind == "PersistentVolumeClaim":
                self.podman("volume", "rm", ref.name, what=f"Removing the volume of {ref}")
            elif ref.kind == "Secret":
                for key in obj.get("data") or {}:
                    self.podman("secret", "rm", secret_name(ref.namespace, ref.name, key), what=f"Removing {ref}")
            elif ref.kind == "ConfigMap":
                self._run(["rm", "-rf", f"{self._folder()}/configmaps/{ref.name}"])
            self._run(["rm", "-f", f"{self._folder()}/objects/{ref.kind}.{ref.name}.json"])

    def pods(self) -> list[dict]:
        by_pod: dict[str, list[dict]] = {}
        for container in self._survey()["containers"]:
            labels = container.get("Labels") or {}
            if labels.get("app.kubernetes.io/instance") == self.scope.instance and labels.get(f"{LABEL}/role") == "main" and (
                    labels.get(f"{LABEL}/namespace") == self.scope.namespace):
                by_pod.setdefault(labels[f"{LABEL}/pod"], []).append(container)
        return [{
            "name": name, "component": containers[0]["Labels"].get("app.kubernetes.io/component", ""),
            "state": "Completed" if (done := _done(containers)) else containers[0]["State"].capitalize(),
            "ready": done or all(c["State"] == "running" and "unhealthy" not in c.get("Status", "") for c in containers),
            "restarts": sum(c.get("Restarts") or 0 for c in containers), "image": containers[0]["Image"],
        } for name, containers in sorted(by_pod.items())]

    def leave(self, purge: bool) -> None:
        """Drop the namespace's network and its start at boot when no container is left, its state folder when nothing is remembered."""
        script = ('podman network exists "$1" && [ "$(podman network inspect "$1" --format "{{index .Labels \\"mlops.mlflow/namespace\\"}}")" = "$1" ] '
                  '&& [ -z "$(podman ps -aq --filter network="$1")" ] && podman network rm "$1" >/dev/null; '
                  'if [ -z "$(podman ps -aq --filter label=mlops.mlflow/namespace="$1")" ]; then rm -f "$2/start"; '
                  'if [ -e "$3" ]; then ' + FIND_SYSTEMD + 'systemctl $4 --quiet disable "${3##*/}"; rm -f "$3"; systemctl $4 daemon-reload; fi; fi; '
                  'rmdir "$2/objects" "$2/configmaps" "$2/scratch" "$2" 2>/dev/null; true')
        self._run([*self._environment, "sh", "-c", script, "sh", self.scope.namespace, self._folder(), self._survey()["systemd"],
                   "" if self._is_root() else "--user"])

    def close(self) -> None:
        """Without a wait nobody asked for proof; what was replaced goes."""
        for ref in list(self._old):
            self._remove_pods(set(self._old.pop(ref)))


def _holder(container: dict) -> str:
    """A container as a person knows it."""
    labels = container.get("Labels") or {}
    return f"pod {labels[f'{LABEL}/pod']} of {labels[f'{LABEL}/namespace']}" if f"{LABEL}/pod" in labels else f"podman container {container['Names'][0]}"


def _done(containers: list[dict]) -> bool:
    """Whether a Job's pod has done its work."""
    return containers[0]["Labels"][f"{LABEL}/workload"].startswith("Job/") and all(
        c["State"] == "exited" and c["ExitCode"] == 0 for c in containers)


def _last_words(text: str) -> str:
    """The line of a program's complaint that says what is wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return re.sub(r"^Error: ", "", lines[-1]) if lines else ""
