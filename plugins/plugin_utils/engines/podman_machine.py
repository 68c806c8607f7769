# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A machine with podman, through Ansible's connection to it: what is there, what it allows, and what it does at
boot."""

from __future__ import annotations

import base64
import dataclasses
import functools
import io
import json
import posixpath
import re
import tarfile
import time
from typing import Callable, Iterable

from ansible_collections.mlops.mlflow.plugins.module_utils.podman import LABEL
from ansible_collections.mlops.mlflow.plugins.plugin_utils import manifests
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines import EngineError, Scope, component_of
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines import last_line as output_line
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines.podman_frame import script
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines.podman_spec import Pod
from ansible_collections.mlops.mlflow.plugins.plugin_utils.manifests import Ref, quantity

Run = Callable[..., "tuple[int, str, str]"]

OLDEST = (4, 3)
LEAST_DISK = 500 * 2**20
SECTION = "\x1e"
LOST = "lost"
PACKAGES = ("podman", "runc", "netavark", "aardvark-dns", "iptables", "catatonit", "uidmap", "slirp4netns",
            "fuse-overlayfs")
"""Debian packages that podman needs for pods of root and of users; Debian only recommends most of them."""
PUBLISHED_BY = {"server": "mlflow_server_publish", "ingress": "ingress_publish", "monitoring": "monitoring_publish"}

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


@dataclasses.dataclass
class Facts:
    """What the survey found.

    Attributes:
        state: folder of everything that is remembered on the machine.
        environment: what podman is started with.
        info: output of `podman info`.
        objects: what is remembered of the namespace.
        containers: output of `podman ps`, of all namespaces; State is LOST where podman's is wrong.
        volumes: labels by name.
        secrets: identifiers by name.
        values: base64 by identifier, where podman's own store has them.
        unit: path of the namespace's systemd unit; empty where no systemd would read it.
        start_script: text of the script that starts the pods, as it is now.
        unit_text: that of the unit.
        free_disk: bytes left where podman stores.
        user: the user that podman runs as.
    """

    state: str
    environment: list[str]
    info: dict
    objects: list[dict]
    containers: list[dict]
    volumes: dict[str, dict]
    secrets: dict[str, str]
    values: dict[str, str]
    unit: str
    start_script: str
    unit_text: str
    free_disk: int
    user: str
    uid: int
    boot: str
    lingers: bool
    lowest_port: int
    missing: list[str]
    addresses: str
    cron_jobs: dict[str, str]
    cron: bool
    cron_runs: bool


class Machine:
    """One machine, for the namespace and component of a scope."""

    def __init__(self, scope: Scope, connection: Run, log: Callable[[str], None], warn: Callable[[str], None]) -> None:
        self.scope, self.log, self.warn = scope, log, warn
        self._connection = connection

    # -- commands -------------------------------------------------------------------------------------------------

    def run(self, argv: list[str], stdin: str | None = None) -> tuple[int, str, str]:
        """Run a command on the machine; its code, output and errors."""
        return self._connection([*self.facts.environment, *argv], stdin)

    def podman(self, *arguments: str, what: str = "") -> str:
        """Run podman on the machine.

        Raises:
            EngineError: with podman's own words, after ``what`` was being done.
        """
        rc, out, err = self.run(["podman", *arguments])
        if rc:
            raise EngineError(f"{what or 'podman ' + arguments[0]} failed: {last_line(err or out)}")
        return out

    def script(self, name: str, *arguments: str, stdin: str | None = None) -> tuple[int, str, str]:
        """Run a script of the folder ``scripts`` on the machine; its code, output and errors."""
        return self.run(["sh", "-c", script(name), name, *arguments], stdin)

    def write(self, files: dict[str, tuple[str, int]]) -> None:
        """Unpack files into the namespace's state folder, all in one command."""
        unpack = 'mkdir -p "$1/objects" && chmod 700 "$1/objects" && base64 -d | tar -xo --no-same-owner -C "$1" -f -'
        rc, _out, err = self.run(["sh", "-c", unpack, "sh", self.folder], _archive(files))
        if rc:
            raise EngineError(f"The state folder {self.folder} cannot be written: {last_line(err)}")

    # -- what is there ---------------------------------------------------------------------------------------------

    @functools.cached_property
    def facts(self) -> Facts:
        """The machine and what runs on it, looked up once."""
        _rc, out, err = self._connection(["sh", "-c", script("survey.sh"), "survey.sh", self.scope.namespace])
        parts = {name: body for name, _sep, body in (part.partition("\n") for part in out.split(SECTION)[1:])}
        info = _info(parts, err)
        conf = parts["conf"].strip()
        environment = ["env", f"PATH={parts['path'].strip()}", *([f"CONTAINERS_CONF={conf}"] if conf else [])]
        cron_jobs = {}
        for line in parts["cronjobs"].splitlines():
            name, digest, installed = line.split()
            cron_jobs[name] = digest if installed == "yes" else ""
        return Facts(
            state=parts["state"].strip(), environment=environment, info=info,
            objects=[json.loads(line) for line in parts["objects"].splitlines() if line],
            containers=_honest(json.loads(parts["containers"] or "null") or [], set(parts["processes"].split()), info),
            volumes={v["Name"]: v.get("Labels") or {} for v in json.loads(parts["volumes"] or "null") or []},
            secrets=dict(reversed(line.split(" ", 1)) for line in parts["secrets"].splitlines() if line),
            values=json.loads(parts["values"] or "{}"), unit=parts["systemd"].strip(), start_script=parts["start"],
            unit_text=parts["unit"],
            free_disk=int(parts["disk"].split()[3]) * 1024, user=parts["user"].strip(), uid=int(parts["uid"]),
            boot=parts["boot"].strip(),
            lingers=bool(parts["lingers"].strip()), lowest_port=int(parts["lowest"].strip() or 0),
            missing=parts["missing"].split(), addresses=parts["addresses"],
            cron_jobs=cron_jobs, cron="crontab" in parts["cron"], cron_runs="daemon" in parts["cron"])

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables of podman's commands."""
        return dict(entry.split("=", 1) for entry in self.facts.environment[1:])

    def look_again(self) -> None:
        """What containers there are, after some were made or removed."""
        self.facts.containers = json.loads(self.podman("ps", "--all", "--no-trunc", "--format", "json") or "null") or []

    @property
    def addresses(self) -> dict[str, tuple[str, str, list[str]]]:
        """For each pod's host name its address, its workload (``Kind/name``) and its further names."""
        found = {}
        for line in self.facts.addresses.splitlines():
            if line.strip():
                address, workload, hostname, *names = line.split()
                found[hostname] = (address, workload, names)
        return found

    def address(self, pods: dict[Ref, list[Pod]]) -> None:
        """Reserve an address for each pod, and write its names to the hosts files of the namespace's pods.

        Args:
            pods: all pods of each workload that is given; of other workloads everything stays.

        Raises:
            EngineError: the network cannot be made, or a file not written.
        """
        lines = []
        for ref, of_workload in pods.items():
            workload = f"{ref.kind}/{ref.name}"
            lines.append(f"workload {workload}")
            for pod in of_workload:
                lines.append(" ".join(["pod", workload, pod.hostname, *dict.fromkeys(pod.names)]))
                lines += [f"alias {pod.hostname} {address} {name}" for address, name in pod.aliases]
        rc, out, err = self.script("network.sh", self.folder, self.scope.namespace, stdin="\n".join(lines) + "\n")
        if rc:
            raise EngineError(f"The network {self.scope.namespace} cannot be set up: {last_line(err or out)}")
        self.facts.addresses = out

    @property
    def folder(self) -> str:
        """Where the namespace is remembered."""
        return f"{self.facts.state}/{self.scope.namespace}"

    @property
    def is_root(self) -> bool:
        """Whether podman runs as root."""
        return not self.facts.info["host"]["security"]["rootless"]

    @property
    def controllers(self) -> set[str]:
        """Cgroup controllers that podman may use; a user's podman has them from the user's systemd alone."""
        host = self.facts.info["host"]
        return (
            set(host.get("cgroupControllers") or [])
            if self.is_root or host.get("cgroupManager") == "systemd"
            else set()
        )

    # -- before anything is touched --------------------------------------------------------------------------------

    def preflight(self, objects: list[dict], workloads: list[dict]) -> None:
        """Raise EngineError for what cannot work here; fetch the images that are missing."""
        self._check_packages()
        self._check_ids()
        self._check_disk()
        self._check_memory(workloads)
        self._check_ports(objects)
        self.fetch_images(workloads)

    def _check_packages(self) -> None:
        if self.facts.missing:
            raise EngineError(f"Podman lacks {', '.join(self.facts.missing)} on this machine; set "
                              "images_install_packages to true, or have an "
                              "administrator run 'apt-get install --no-install-recommends "
                              f"{' '.join(self.facts.missing)}' there.")

    def _check_ids(self) -> None:
        ids, user = self.facts.info["host"].get("idMappings") or {}, self.facts.user
        if not self.is_root and any(len(ids.get(kind) or []) < 2 for kind in ("uidmap", "gidmap")):
            raise EngineError(f"The user {user} has no subordinate ids, without which podman runs no image for this "
                              "user; an administrator gives "
                              "65536 that nobody else in /etc/subuid has, with 'usermod --add-subuids FIRST-LAST "
                              f"--add-subgids FIRST-LAST {user}', "
                              f"then {user} runs 'podman system migrate'.")

    def _check_disk(self) -> None:
        free, root = self.facts.free_disk, self.facts.info["store"]["graphRoot"]
        if free < LEAST_DISK:
            raise EngineError(f"The disk of {root} has {free // 2**20} MiB left; podman needs at least "
                              f"{LEAST_DISK // 2**20} MiB there, so make room first.")

    def _check_memory(self, workloads: list[dict]) -> None:
        total = self.facts.info["host"]["memTotal"]
        for obj in workloads:
            wanted = sum(quantity(((c.get("resources") or {}).get("requests") or {}).get("memory", 0)) or 0
                         for c in manifests.pod_template(obj)["spec"]["containers"]) * (obj["spec"].get("replicas", 1))
            if wanted > total:
                raise EngineError(f"{Ref.of(obj)} asks for {wanted / 2**30:.1f} GiB of memory, and this machine has "
                                  f"{total / 2**30:.1f} GiB; "
                                  f"choose a smaller size or lower its memory request.")

    def _check_ports(self, objects: list[dict]) -> None:
        for service in objects:
            publish = manifests.annotation(service, manifests.PUBLISH) if service["kind"] == "Service" else ""
            if not publish:
                continue
            address, port = publish.replace("localhost", "127.0.0.1").rsplit(":", 1)
            variable = PUBLISHED_BY.get(component_of(service), f"the annotation {manifests.PUBLISH}")
            if not self.is_root and int(port) < self.facts.lowest_port:
                raise EngineError(f"Port {publish}, on which Service {service['metadata']['name']} is to be "
                                  "published, is only for root on this "
                                  f"machine; set {variable} to a port from {self.facts.lowest_port} on, or have an "
                                  "administrator open it with "
                                  f"'sysctl -w net.ipv4.ip_unprivileged_port_start={port}'.")
            holders = [c for c in self.facts.containers if c["State"] == "running" and any(
                str(p.get("host_port")) == port for p in c.get("Ports") or [])]
            if holders and all(
                (c.get("Labels") or {}).get(f"{LABEL}/namespace") == self.scope.namespace for c in holders
            ):
                continue
            taken = _holder(holders[0]) if holders else self._listener(address, port)
            if taken:
                raise EngineError(f"Port {publish}, on which Service {service['metadata']['name']} is to be "
                                  f"published, is taken by {taken}; "
                                  f"free it or set {variable} to another.")

    def _listener(self, address: str, port: str) -> str:
        _rc, out, _err = self.run(["ss", "-Hltnp", f"sport = :{port}"])
        for line in out.splitlines():
            fields = line.split()
            host = fields[3].rsplit(":", 1)[0]
            if host in (address, "0.0.0.0", "*", "[::]") or address == "0.0.0.0":
                process = re.search(r'\(\("([^"]+)",pid=(\d+)', line)
                return f"{process[1]} (process {process[2]})" if process else "another process"
        return ""

    def fetch_images(self, workloads: list[dict]) -> None:
        """Every image is on the machine before any old pod stops."""
        wanted = {}
        for obj in workloads:
            spec = manifests.pod_template(obj)["spec"]
            for container in (spec.get("initContainers") or []) + spec["containers"]:
                wanted.setdefault(container["image"], (Ref.of(obj), container))
        if not wanted:
            return
        missing = 'for i in "$@"; do podman image exists "$i" || echo "$i"; done'
        _rc, out, _err = self.run(["sh", "-c", missing, "sh", *wanted])
        for image in out.split():
            ref, container = wanted[image]
            if container.get("imagePullPolicy") == "Never":
                raise EngineError(f"{ref}, container {container['name']}: the image {image} is not on this machine, "
                                  "and its pull policy is Never.")
            self.log(f"Pulling {image}")
            rc, out, err = self.run(["podman", "pull", "--quiet", image])
            if rc:
                raise EngineError(f"{ref}, container {container['name']}: the image {image} is not on this machine "
                                  "and cannot be pulled: "
                                  f"{last_line(err or out)}")

    def secret_labels(self, names: Iterable[str]) -> dict[str, dict[str, str]]:
        """The labels of secrets of podman, by name."""
        out = self.podman("secret", "inspect", *names, what="Reading the labels of podman's secrets")
        return {entry["Spec"]["Name"]: entry["Spec"].get("Labels") or {} for entry in json.loads(out)}

    # -- being left alone ------------------------------------------------------------------------------------------

    def survive_reboots(self) -> None:
        """Leave a script that starts the pods, and where there is systemd a unit that runs it at boot."""
        facts, namespace = self.facts, self.scope.namespace
        start = f"#!/bin/sh\n{script('start.sh', comments=True)}"
        if facts.start_script != start:
            self.write({"start": (start, 0o755)})
            facts.start_script = start
            self.warn_of_limitations()
        if not facts.unit:
            return
        self.linger()
        unit = UNIT.format(namespace=namespace, start=f"{self.folder}/start",
                           target="multi-user.target" if self.is_root else "default.target")
        if facts.unit_text != unit:
            self.enable({posixpath.basename(facts.unit): unit}, "The unit that starts the pods after a reboot")
            facts.unit_text = unit

    def linger(self) -> None:
        """Have the user's systemd run without a login, or warn that it does not."""
        facts = self.facts
        if self.is_root or facts.lingers:
            return
        rc, out, err = self.run(["loginctl", "--no-ask-password", "enable-linger"])
        if rc:
            self.warn(f"The pods end when {facts.user} logs out, and do not start at boot: lingering is off and "
                      "cannot be turned on "
                      f"({last_line(err or out)}); an administrator does so with 'loginctl enable-linger "
                      f"{facts.user}'.")
        facts.lingers = True

    @property
    def manager(self) -> str:
        """Which of systemd's managers is asked: the machine's or the user's."""
        return "system" if self.is_root else "user"

    def enable(self, units: dict[str, str], what: str) -> None:
        """Write systemd units and enable the last of them; a timer is started as well.

        Raises:
            EngineError: systemd refuses, with its words, after ``what`` was to be enabled.
        """
        folder, last = posixpath.dirname(self.facts.unit), list(units)[-1]
        archive = _archive({name: (text, 0o644) for name, text in units.items()})
        now = ["now"] if last.endswith(".timer") else []
        rc, out, err = self.script("enable_unit.sh", folder, last, self.manager, *now, stdin=archive)
        if rc:
            raise EngineError(f"{what}, {folder}/{last}, cannot be enabled: {last_line(err or out)}")

    def warn_of_limitations(self) -> None:
        """Warn of what pods lack on this machine, when the first of the namespace start."""
        if not self.facts.unit:
            self.warn(f"No systemd runs {'on this machine' if self.is_root else 'for this user'}: after a reboot, "
                      f"{self.folder}/start "
                      f"starts the pods again, and liveness probes are left out.")
        unlimited = [name for name, controller in (("memory", "memory"),
                                                   ("CPU", "cpu")) if controller not in self.controllers]
        if unlimited:
            self.warn(f"Limits of {' and '.join(unlimited)} are not enforced: podman has no cgroup controller for "
                      "them here; docs/operations.md "
                      f"says what gives it one.")
        if self.facts.info["store"]["graphDriverName"] == "vfs":
            self.warn("Each container takes a whole copy of its image here, since podman's storage driver is vfs; "
                      "docs/operations.md says how "
                      "to have another.")

    def leave(self) -> None:
        """Drop the namespace's network and its start at boot when no container is left, its state folder when nothing
        is remembered."""
        self.script("leave.sh", self.scope.namespace, self.folder, self.facts.unit, self.manager)


def _archive(files: dict[str, tuple[str, int]]) -> str:
    """A tar archive in base64 of texts and modes by name."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, (text, mode) in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(text.encode()), mode, int(time.time())
            tar.addfile(entry, io.BytesIO(text.encode()))
    return base64.b64encode(archive.getvalue()).decode()


def _info(parts: dict[str, str], complaint: str) -> dict:
    """The output of `podman info` in the survey; raises EngineError when podman does not work, or is too old."""
    try:
        info = json.loads(parts.get("info") or "")
    except ValueError:
        reason = last_line(parts.get("info") or complaint)
        raise EngineError(f"mlflow_engine is podman, but podman does not work on this host ({reason}); install podman "
                          "4.3 or newer there (on "
                          "Debian images_install_packages: true does, or 'apt-get install --no-install-recommends "
                          f"{' '.join(PACKAGES)}'), or set "
                          f"mlflow_engine to kubernetes.") from None
    version = info["version"]["Version"]
    if tuple(int(n) for n in re.findall(r"\d+", version)[:2]) < OLDEST:
        raise EngineError(f"podman on this host is {version}; mlops.mlflow needs 4.3 or newer.")
    return info


def _honest(containers: list[dict], processes: set[str], info: dict) -> list[dict]:
    """The containers, with those marked that podman shows as running although their process has ended.

    Such a pod cannot be started or stopped any more, only removed. Where a machine does not show all its processes,
    podman's state is kept.
    """
    if "1" in processes and not info["host"].get("serviceIsRemote"):
        for container in containers:
            if container["State"] == "running" and str(container.get("Pid")) not in processes:
                container["State"] = LOST
    return containers


def _holder(container: dict) -> str:
    """A container as messages name it."""
    labels = container.get("Labels") or {}
    return (
        f"pod {labels[f'{LABEL}/pod']} of {labels[f'{LABEL}/namespace']}"
        if f"{LABEL}/pod" in labels
        else f"podman container {container['Names'][0]}"
    )


def last_line(text: str) -> str:
    """The last line of a program's output that is not empty, without podman's prefix."""
    return output_line(text).removeprefix("Error: ")
