# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A machine with podman, through Ansible's connection to it: what is there, what it allows, and what it does at boot."""

from __future__ import annotations

import base64
import dataclasses
import functools
import io
import json
import re
import tarfile
import time
from typing import Callable

from ansible_collections.mlops.mlflow.plugins.module_utils.podman import LABEL
from ansible_collections.mlops.mlflow.plugins.plugin_utils import manifests
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines import EngineError, Scope, component_of
from ansible_collections.mlops.mlflow.plugins.plugin_utils.manifests import Ref, quantity

Run = Callable[..., "tuple[int, str, str]"]

OLDEST = (4, 3)
LEAST_DISK = 500 * 2**20
SECTION = "\x1e"
LOST = "lost"
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
s processes; (cd /proc 2>/dev/null && echo [0-9]*)
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


@dataclasses.dataclass
class Facts:
    """What the survey found.

    Attributes:
        state: folder of everything that is remembered on the machine.
        environment: what podman is started with.
        info: as `podman info` tells it.
        objects: what is remembered of the namespace.
        containers: as `podman ps` tells them, everybody's; State is LOST where podman's word is wrong.
        volumes: labels by name.
        secrets: identifiers by name.
        values: base64 by identifier, where podman's own store has them.
        unit: path of the namespace's systemd unit; empty where no systemd would read it.
        start_script: text of the script that starts the pods, as it is now.
        unit_text: that of the unit.
        free_disk: bytes left where podman stores.
        user: who podman runs as.
        lingers: whether the user's systemd runs without a login.
        lowest_port: the first port that anybody may listen on.
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
    lingers: bool
    lowest_port: int


class Machine:
    """One machine, for the namespace and component of a scope."""

    def __init__(self, scope: Scope, connection: Run, log: Callable[[str], None], warn: Callable[[str], None]) -> None:
        self.scope, self.log, self.warn = scope, log, warn
        self._connection = connection

    # -- talking to it ---------------------------------------------------------------------------------------------

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

    def write(self, files: dict[str, tuple[str, int]]) -> None:
        """Unpack files into the namespace's state folder, all in one command."""
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for name, (text, mode) in files.items():
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode, entry.mtime = len(text.encode()), mode, int(time.time())
                tar.addfile(entry, io.BytesIO(text.encode()))
        unpack = 'mkdir -p "$1/objects" && chmod 700 "$1/objects" && base64 -d | tar -xo --no-same-owner -C "$1" -f -'
        rc, _out, err = self.run(["sh", "-c", unpack, "sh", self.folder], base64.b64encode(archive.getvalue()).decode())
        if rc:
            raise EngineError(f"The state folder {self.folder} cannot be written: {last_line(err)}")

    # -- what is there ---------------------------------------------------------------------------------------------

    @functools.cached_property
    def facts(self) -> Facts:
        """The machine and what runs on it, looked up once."""
        _rc, out, err = self._connection(["sh", "-c", SURVEY, "sh", self.scope.namespace])
        parts = {name: body for name, _sep, body in (part.partition("\n") for part in out.split(SECTION)[1:])}
        try:
            info = json.loads(parts.get("info") or "")
        except ValueError:
            reason = last_line(parts.get("info") or err)
            raise EngineError(f"mlflow_engine is podman, but podman does not work on this host ({reason}); install podman 4.3 or "
                              f"newer there, or set mlflow_engine to kubernetes.") from None
        version = info["version"]["Version"]
        if tuple(int(n) for n in re.findall(r"\d+", version)[:2]) < OLDEST:
            raise EngineError(f"podman on this host is {version}; mlops.mlflow needs 4.3 or newer.")
        conf = parts["conf"].strip()
        return Facts(
            state=parts["state"].strip(), environment=["env", f"CONTAINERS_CONF={conf}"] if conf else [], info=info,
            objects=[json.loads(line) for line in parts["objects"].splitlines() if line],
            containers=_honest(json.loads(parts["containers"] or "null") or [], set(parts["processes"].split()), info),
            volumes={v["Name"]: v.get("Labels") or {} for v in json.loads(parts["volumes"] or "null") or []},
            secrets=dict(reversed(line.split(" ", 1)) for line in parts["secrets"].splitlines() if line),
            values=json.loads(parts["values"] or "{}"), unit=parts["systemd"].strip(), start_script=parts["start"], unit_text=parts["unit"],
            free_disk=int(parts["disk"].split()[3]) * 1024, user=parts["user"].strip(), lingers=bool(parts["lingers"].strip()),
            lowest_port=int(parts["lowest"].strip() or 0))

    def look_again(self) -> None:
        """What containers there are, after some were made or removed."""
        self.facts.containers = json.loads(self.podman("ps", "--all", "--no-trunc", "--format", "json") or "null") or []

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
        return set(host.get("cgroupControllers") or []) if self.is_root or host.get("cgroupManager") == "systemd" else set()

    # -- before anything is touched --------------------------------------------------------------------------------

    def preflight(self, objects: list[dict], workloads: list[dict]) -> None:
        """Raise EngineError for what cannot work here; fetch the images that are missing."""
        self._check_ids()
        self._check_disk()
        self._check_memory(workloads)
        self._check_ports(objects)
        self._fetch_images(workloads)

    def _check_ids(self) -> None:
        ids, user = self.facts.info["host"].get("idMappings") or {}, self.facts.user
        if not self.is_root and any(len(ids.get(kind) or []) < 2 for kind in ("uidmap", "gidmap")):
            raise EngineError(f"The user {user} has no subordinate ids, without which podman runs no image for this user; an administrator gives "
                              f"65536 that nobody else in /etc/subuid has, with 'usermod --add-subuids FIRST-LAST --add-subgids FIRST-LAST {user}', "
                              f"then {user} runs 'podman system migrate'.")

    def _check_disk(self) -> None:
        free, root = self.facts.free_disk, self.facts.info["store"]["graphRoot"]
        if free < LEAST_DISK:
            raise EngineError(f"The disk of {root} has {free // 2**20} MiB left; podman needs at least {LEAST_DISK // 2**20} MiB there, so make room first.")

    def _check_memory(self, workloads: list[dict]) -> None:
        total = self.facts.info["host"]["memTotal"]
        for obj in workloads:
            wanted = sum(quantity(((c.get("resources") or {}).get("requests") or {}).get("memory", 0)) or 0
                         for c in manifests.pod_template(obj)["spec"]["containers"]) * (obj["spec"].get("replicas", 1))
            if wanted > total:
                raise EngineError(f"{Ref.of(obj)} asks for {wanted / 2**30:.1f} GiB of memory, and this machine has {total / 2**30:.1f} GiB; "
                                  f"choose a smaller size or lower its memory request.")

    def _check_ports(self, objects: list[dict]) -> None:
        for service in objects:
            publish = manifests.annotation(service, manifests.PUBLISH) if service["kind"] == "Service" else ""
            if not publish:
                continue
            address, port = publish.replace("localhost", "127.0.0.1").rsplit(":", 1)
            variable = PUBLISHED_BY.get(component_of(service), f"the annotation {manifests.PUBLISH}")
            if not self.is_root and int(port) < self.facts.lowest_port:
                raise EngineError(f"Port {publish}, on which Service {service['metadata']['name']} is to be published, is only for root on this "
                                  f"machine; set {variable} to a port from {self.facts.lowest_port} on, or have an administrator open it with "
                                  f"'sysctl -w net.ipv4.ip_unprivileged_port_start={port}'.")
            holders = [c for c in self.facts.containers if c["State"] == "running" and any(
                str(p.get("host_port")) == port for p in c.get("Ports") or [])]
            if holders and all((c.get("Labels") or {}).get(f"{LABEL}/namespace") == self.scope.namespace for c in holders):
                continue
            taken = _holder(holders[0]) if holders else self._listener(address, port)
            if taken:
                raise EngineError(f"Port {publish}, on which Service {service['metadata']['name']} is to be published, is taken by {taken}; "
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

    def _fetch_images(self, workloads: list[dict]) -> None:
        """Every image is on the machine before any old pod stops."""
        wanted = {}
        for obj in workloads:
            spec = manifests.pod_template(obj)["spec"]
            for container in (spec.get("initContainers") or []) + spec["containers"]:
                wanted.setdefault(container["image"], (Ref.of(obj), container))
        if not wanted:
            return
        script = 'for i in "$@"; do podman image exists "$i" || echo "$i"; done'
        _rc, out, _err = self.run(["sh", "-c", script, "sh", *wanted])
        for image in out.split():
            ref, container = wanted[image]
            if container.get("imagePullPolicy") == "Never":
                raise EngineError(f"{ref}, container {container['name']}: the image {image} is not on this machine, and its pull policy is Never.")
            self.log(f"Pulling {image}")
            rc, out, err = self.run(["podman", "pull", "--quiet", image])
            if rc:
                raise EngineError(f"{ref}, container {container['name']}: the image {image} is not on this machine and cannot be pulled: "
                                  f"{last_line(err or out)}")

    # -- being left alone ------------------------------------------------------------------------------------------

    def survive_reboots(self) -> None:
        """Leave a script that starts the pods, and where there is systemd a unit that runs it at boot."""
        facts, namespace = self.facts, self.scope.namespace
        start = START.format(namespace=namespace, label=LABEL, conf=f"{facts.state}/containers.conf")
        if facts.start_script != start:
            self.write({"start": (start, 0o755)})
            facts.start_script = start
            self.tell()
        if not facts.unit:
            return
        if not self.is_root and not facts.lingers:
            rc, out, err = self.run(["loginctl", "--no-ask-password", "enable-linger"])
            if rc:
                self.warn(f"The pods end when {facts.user} logs out, and do not start at boot: lingering is off and cannot be turned on "
                          f"({last_line(err or out)}); an administrator does so with 'loginctl enable-linger {facts.user}'.")
            facts.lingers = True
        unit = UNIT.format(namespace=namespace, start=f"{self.folder}/start",
                           target="multi-user.target" if self.is_root else "default.target")
        if facts.unit_text != unit:
            enable = FIND_SYSTEMD + 'mkdir -p "${1%/*}" && cat > "$1" && systemctl $2 daemon-reload && systemctl $2 --quiet enable "${1##*/}"'
            rc, out, err = self.run(["sh", "-c", enable, "sh", facts.unit, "" if self.is_root else "--user"], unit)
            if rc:
                raise EngineError(f"The unit {facts.unit}, which starts the pods after a reboot, cannot be enabled: "
                                  f"{last_line(err or out)}")
            facts.unit_text = unit

    def tell(self) -> None:
        """What pods lack on this machine, said when the namespace's first come up."""
        if not self.facts.unit:
            self.warn(f"No systemd runs {'on this machine' if self.is_root else 'for this user'}: after a reboot, {self.folder}/start "
                      f"starts the pods again, and liveness probes are left out.")
        unlimited = [name for name, controller in (("memory", "memory"), ("CPU", "cpu")) if controller not in self.controllers]
        if unlimited:
            self.warn(f"Limits of {' and '.join(unlimited)} are not enforced: podman has no cgroup controller for them here; docs/operations.md "
                      f"says what gives it one.")
        if self.facts.info["store"]["graphDriverName"] == "vfs":
            self.warn("Each container takes a whole copy of its image here, since podman's storage driver is vfs; docs/operations.md says how "
                      "to have another.")

    def leave(self) -> None:
        """Drop the namespace's network and its start at boot when no container is left, its state folder when nothing is remembered."""
        script = ('podman network exists "$1" && [ "$(podman network inspect "$1" --format "{{index .Labels \\"' + LABEL + '/namespace\\"}}")" = "$1" ] '
                  '&& [ -z "$(podman ps -aq --filter network="$1")" ] && podman network rm "$1" >/dev/null; '
                  'if [ -z "$(podman ps -aq --filter label=' + LABEL + '/namespace="$1")" ]; then rm -f "$2/start"; '
                  'if [ -e "$3" ]; then ' + FIND_SYSTEMD + 'systemctl $4 --quiet disable "${3##*/}"; rm -f "$3"; systemctl $4 daemon-reload; fi; fi; '
                  'rmdir "$2/objects" "$2/configmaps" "$2/scratch" "$2" 2>/dev/null; true')
        self.run(["sh", "-c", script, "sh", self.scope.namespace, self.folder, self.facts.unit,
                  "" if self.is_root else "--user"])


def _honest(containers: list[dict], processes: set[str], info: dict) -> list[dict]:
    """The containers, with those marked that podman calls running, for nobody was left to tell it of their end.

    Such a pod cannot be started or stopped any more, only removed. Where a machine does not show all its processes, podman is believed.
    """
    if "1" in processes and not info["host"].get("serviceIsRemote"):
        for container in containers:
            if container["State"] == "running" and str(container.get("Pid")) not in processes:
                container["State"] = LOST
    return containers


def _holder(container: dict) -> str:
    """A container as a person knows it."""
    labels = container.get("Labels") or {}
    return f"pod {labels[f'{LABEL}/pod']} of {labels[f'{LABEL}/namespace']}" if f"{LABEL}/pod" in labels else f"podman container {container['Names'][0]}"


def last_line(text: str) -> str:
    """The line of a program's complaint that says what is wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return re.sub(r"^Error: ", "", lines[-1]) if lines else ""
