# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From a pod template to the arguments of podman: pure translation, nothing runs here.

Podman's own `kube play` differs from version to version and lacks StatefulSets, Jobs, readiness and non-root volumes;
the options used here mean the same from 4.3 to 5.x.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from dataclasses import dataclass, field

from ansible_collections.mlops.mlflow.plugins.module_utils.podman import LABEL, secret_name
from ansible_collections.mlops.mlflow.plugins.plugin_utils import engines, manifests
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines import EngineError, Scope
from ansible_collections.mlops.mlflow.plugins.plugin_utils.manifests import Ref, quantity

TRANSLATION = "2"
"""Part of every pod's fingerprint; raised when the same template comes to mean other arguments."""
POD_NAME = "@mlops-mlflow-pod@"
"""Stands for the name of a CronJob's pod, which is another one in each run."""
REFERENCE = re.compile(r"\$\$|\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)")

# Answers like a kubelet's httpGet, success below 400 whatever the certificate, with what the image has: curl, a wget,
# or Python.
HTTP_GET = """\
if command -v curl >/dev/null; then curl -fksS -m {timeout} -o /dev/null {url}
elif command -v wget >/dev/null; then wget -q --no-check-certificate -T {timeout} -O /dev/null {url}
elif command -v busybox >/dev/null; then busybox wget -q -T {timeout} -O /dev/null {url}
else python3 -c '
import http.client, ssl, sys
scheme, host, path = sys.argv[1:]
secure = {{"context": ssl._create_unverified_context()}} if scheme == "https" else {{}}
connection = (http.client.HTTPSConnection if secure else http.client.HTTPConnection)(host, timeout={timeout}, **secure)
connection.request("GET", path)
sys.exit(connection.getresponse().status >= 400)' {scheme} {host} {path}
fi"""
TCP = (
    'if command -v nc >/dev/null 2>&1; then nc -z 127.0.0.1 {port}; else bash -c "exec'
    ' 3<>/dev/tcp/127.0.0.1/{port}"; fi'
)


@dataclass
class Pod:
    """One pod of a workload, ready to be made."""

    workload: Ref
    index: int
    name: str
    hostname: str
    fingerprint: str
    create: list[str]
    containers: list[tuple[str, list[str]]]
    """(name, arguments of `podman create`), init containers first."""
    names: list[str] = field(default_factory=list)
    """What other pods of the namespace call it, beside its host name."""
    aliases: list[tuple[str, str]] = field(default_factory=list)
    """(address, name) of what is not of the namespace: hostAliases."""
    address: str = ""
    """Its address on the namespace's network, which stays when the pod is replaced; empty while it has none."""
    scratch: list[str] = field(default_factory=list)
    """Folders on the host that live and die with the pod: its emptyDirs. (Podman gives a new volume the owner and mode
    of whatever the image has at that path; a folder stays as it was made.)"""

    def commands(self) -> list[list[str]]:
        """The commands that create the pod and its containers, without starting anything."""
        address = ["--ip", self.address, "--mac-address", _mac_address(self.address)] if self.address else []
        return [["podman", "pod", "create", "--name", self.name, *self.create, *address],
                *(["podman", "create", "--pull", "never", *arguments] for _name, arguments in self.containers)]


def _mac_address(address: str) -> str:
    """A MAC address that stays with an IPv4 address.

    Otherwise the pod that replaces another would have a new one, while the host and the other pods send to the former
    until their ARP caches expire: 36 seconds without an answer were measured.
    """
    return "02:00:" + ":".join(f"{int(part):02x}" for part in address.split("."))


@dataclass
class Context:
    """What a translation needs to know of the instance and the machine."""

    scope: Scope
    services: list[dict]
    configmaps: str
    """Folder on the host below which every ConfigMap has a folder of files."""
    scratch: str
    """Folder on the host below which every pod may have folders of its own."""
    hosts: str
    """Folder on the host with an /etc/hosts file for each host name; scripts/network.sh writes them."""
    secret_keys: dict[str, list[str]]
    controllers: set[str]
    """Cgroup controllers that podman may use; without one its limits are left out."""
    healthchecks: bool
    """Whether systemd is there to run podman's healthchecks."""


def pods(workload: dict, context: Context) -> list[Pod]:
    """All pods that a Deployment, StatefulSet or Job means.

    Raises:
        EngineError: for what one machine cannot do as written.
    """
    template, spec = manifests.pod_template(workload), workload["spec"]
    count = 1 if workload["kind"] == "Job" else spec.get("replicas", 1)
    return [_pod(workload, template, index, context) for index in range(count)]


def cron_job_pod(cron_job: dict, context: Context) -> Pod:
    """The pod of one run of a CronJob; POD_NAME stands for its name."""
    return _pod(cron_job, manifests.pod_template(cron_job), 0, context, POD_NAME)


def _pod(workload: dict, template: dict, index: int, context: Context, name: str = "") -> Pod:
    ref, spec = Ref.of(workload), template["spec"]
    hostname = f"{ref.name}-{index}" if ref.kind in ("Deployment", "StatefulSet") else ref.name
    services = [s for s in context.services if _selects(s, template["metadata"].get("labels") or {})]
    for service in services:
        _same_ports(service, spec)
    create, names = _network(ref, hostname, services)
    if index == 0:
        create += _published(services, spec)
    marks = {
        **(template["metadata"].get("labels") or {}),
        f"{LABEL}/namespace": ref.namespace,
        f"{LABEL}/workload": f"{ref.kind}/{ref.name}",
        f"{LABEL}/services": ",".join(s["metadata"]["name"] for s in services),
        f"{LABEL}/index": str(index),
        f"{LABEL}/component": engines.component_of(workload),
    }
    seed = json.dumps([TRANSLATION, template, create, context.healthchecks], sort_keys=True)
    fingerprint = hashlib.sha256(seed.encode()).hexdigest()[:12]
    name = name or f"{hostname}-{fingerprint[:6]}"
    marks |= {f"{LABEL}/fingerprint": fingerprint, f"{LABEL}/pod": name}
    aliases = [(alias["ip"], name) for alias in spec.get("hostAliases") or [] for name in alias["hostnames"]]
    pod = Pod(ref, index, name, hostname, fingerprint, create + labels_for(marks), [], names, aliases)
    for container in spec.get("initContainers") or []:
        pod.containers.append((container["name"], _create_container(pod, container, spec, context, marks, init=True)))
    for container in spec["containers"]:
        pod.containers.append((container["name"], _create_container(pod, container, spec, context, marks, init=False)))
    return pod


def _network(ref: Ref, hostname: str, services: list[dict]) -> tuple[list[str], list[str]]:
    """Arguments that put a pod on the namespace's network, and its names there."""
    names = []
    for service in services:
        name = service["metadata"]["name"]
        names += [name, f"{name}.{ref.namespace}", f"{name}.{ref.namespace}.svc",
                  f"{name}.{ref.namespace}.svc.cluster.local"]
        if ref.kind == "StatefulSet":
            names.append(f"{hostname}.{name}")
    create = ["--hostname", hostname[:63], "--network", ref.namespace]
    for name in names:
        create += ["--network-alias", name]
    return create, names


def _published(services: list[dict], spec: dict) -> list[str]:
    """Arguments that publish the first port of each Service that asks for it."""
    arguments = []
    for service in services:
        publish = manifests.annotation(service, manifests.PUBLISH)
        if publish:
            address, port = publish.replace("localhost", "127.0.0.1").rsplit(":", 1)
            arguments += ["--publish", f"{address}:{port}:{_target_port(service['spec']['ports'][0], spec)}"]
    return arguments


def _create_container(pod: Pod, container: dict, spec: dict, context: Context, marks: dict[str, str],
                      init: bool) -> list[str]:
    """The arguments of `podman create` for one container of a pod."""
    name = container["name"]
    arguments = ["--pod", pod.name, "--name", f"{pod.name}-{name}"]
    arguments += labels_for({**marks, f"{LABEL}/container": name, f"{LABEL}/role": "init" if init else "main"})
    if init:
        arguments += ["--init-ctr", "always"]
    else:
        arguments += ["--restart", "always" if pod.workload.kind in ("Deployment", "StatefulSet") else "no"]
    return arguments + _container(pod, container, spec, context, init)


def labels_for(labels: dict[str, str]) -> list[str]:
    return [part for key, value in sorted(labels.items()) for part in ("--label", f"{key}={value}")]


def _selects(service: dict, labels: dict) -> bool:
    selector = service["spec"].get("selector") or {}
    return bool(selector) and all(labels.get(key) == value for key, value in selector.items())


def _target_port(port: dict, spec: dict) -> int:
    target = port.get("targetPort", port["port"])
    if isinstance(target, int):
        return target
    for container in spec["containers"]:
        for declared in container.get("ports") or []:
            if declared.get("name") == target:
                return declared["containerPort"]
    raise EngineError(f"A Service names the port {target!r}, which no container of its pods declares.")


def _same_ports(service: dict, spec: dict) -> None:
    """On one machine a Service is a name: nothing stands between client and pod that could change the port."""
    for port in service["spec"].get("ports") or []:
        target = _target_port(port, spec)
        if target != port["port"]:
            raise EngineError(f"Service {service['metadata']['name']} turns port {port['port']} into {target}; on "
                              "podman a Service's port "
                              f"must be its pods' port, so give both the same number.")


def _container(pod: Pod, container: dict, spec: dict, context: Context, init: bool) -> list[str]:
    arguments = ["--stop-timeout", str(spec.get("terminationGracePeriodSeconds", 30))]
    if container.get("workingDir"):
        arguments += ["--workdir", container["workingDir"]]
    environment = _environment(pod, container, context, arguments)
    arguments += _security(container, spec) + _resources(container, context) + _mounts(pod, container, spec, context)
    if container.get("livenessProbe") and not init and context.healthchecks:
        arguments += _healthcheck(container)
    command = [_expand(part, environment, pod) for part in container.get("command") or []]
    extra = [_expand(part, environment, pod) for part in container.get("args") or []]
    if command:
        arguments += ["--entrypoint", json.dumps(command)]
    return [*arguments, container["image"], *extra]


def _environment(pod: Pod, container: dict, context: Context, arguments: list[str]) -> dict[str, str | None]:
    """Add the environment to ``arguments``; return it, None standing for what only the container may know."""
    scope, known = context.scope, {}
    for source in container.get("envFrom") or []:
        if source.get("secretRef"):
            for key in context.secret_keys.get(source["secretRef"]["name"], []):
                name = source.get("prefix", "") + key
                arguments += [
                    "--secret",
                    f"{secret_name(scope.namespace, source['secretRef']['name'], key)},type=env,target={name}",
                ]
                known[name] = None
        elif source.get("configMapRef"):
            raise EngineError(f"Container {container['name']} reads the ConfigMap {source['configMapRef']['name']} by "
                              "envFrom, which podman "
                              f"has no counterpart for; list the variables in env.")
    for entry in container.get("env") or []:
        name, source = entry["name"], entry.get("valueFrom") or {}
        if "secretKeyRef" in source:
            key = source["secretKeyRef"]
            if key.get("optional") and key["key"] not in context.secret_keys.get(key["name"], []):
                continue
            arguments += ["--secret", f"{secret_name(scope.namespace, key['name'], key['key'])},type=env,target={name}"]
            known[name] = None
        elif "fieldRef" in source:
            fields = {"metadata.name": pod.hostname, "metadata.namespace": scope.namespace,
                      "spec.nodeName": "localhost"}
            if source["fieldRef"]["fieldPath"] not in fields:
                raise EngineError(f"Container {container['name']} reads {source['fieldRef']['fieldPath']}, which "
                                  "podman does not know; "
                                  f"it knows {', '.join(fields)}.")
            known[name] = fields[source["fieldRef"]["fieldPath"]]
            arguments += ["--env", f"{name}={known[name]}"]
        elif source:
            raise EngineError(f"Container {container['name']} takes {name} from {next(iter(source))}, which podman "
                              "has no counterpart for.")
        else:
            known[name] = _expand(entry.get("value", ""), known, pod)
            arguments += ["--env", f"{name}={known[name]}"]
    return known


def _expand(text: str, known: dict[str, str | None], pod: Pod) -> str:
    """Kubernetes' $(NAME), but never a secret into an argument, where the process list would show it."""
    def value(match: re.Match) -> str:
        if match[0] == "$$":
            return "$"
        if match[1] not in known:
            return match[0]
        if known[match[1]] is None:
            raise EngineError(f"{pod.workload} puts $({match[1]}), a secret, into an argument or another variable, "
                              "where podman would "
                              f"show it to everyone; let the program read the variable {match[1]} itself.")
        return known[match[1]]
    return REFERENCE.sub(value, str(text))


def _security(container: dict, spec: dict) -> list[str]:
    security = {**(spec.get("securityContext") or {}), **(container.get("securityContext") or {})}
    arguments = []
    if security.get("runAsUser") is not None:
        arguments += ["--user", ":".join(str(security[k]) for k in ("runAsUser",
                                                                    "runAsGroup") if security.get(k) is not None)]
    for group in {security.get("fsGroup"), *(security.get("supplementalGroups") or [])} - {
        None,
        security.get("runAsGroup"),
    }:
        arguments += ["--group-add", str(group)]
    if security.get("readOnlyRootFilesystem"):
        arguments += ["--read-only", "--read-only-tmpfs=false"]
    if security.get("allowPrivilegeEscalation") is False:
        arguments += ["--security-opt", "no-new-privileges"]
    capabilities = security.get("capabilities") or {}
    for name in capabilities.get("drop") or []:
        arguments += ["--cap-drop", name]
    for name in capabilities.get("add") or []:
        arguments += ["--cap-add", name]
    return arguments


def _resources(container: dict, context: Context) -> list[str]:
    resources, arguments = container.get("resources") or {}, []
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    if "memory" in context.controllers:
        if limits.get("memory"):
            arguments += ["--memory", str(int(quantity(limits["memory"])))]
        if requests.get("memory"):
            arguments += ["--memory-reservation", str(int(quantity(requests["memory"])))]
    if "cpu" in context.controllers:
        if limits.get("cpu"):
            arguments += ["--cpus", f"{quantity(limits['cpu']):g}"]
        if requests.get("cpu"):
            arguments += ["--cpu-shares", str(max(2, int(quantity(requests["cpu"]) * 1024)))]
    return arguments


def _mounts(pod: Pod, container: dict, spec: dict, context: Context) -> list[str]:
    volumes = {volume["name"]: volume for volume in spec.get("volumes") or []}
    security = {**(spec.get("securityContext") or {}), **(container.get("securityContext") or {})}
    arguments: list[str] = []
    if not any(mount["mountPath"] == "/etc/hosts" for mount in container.get("volumeMounts") or []):
        arguments += ["--volume", f"{context.hosts}/{pod.hostname}:/etc/hosts:ro,z"]
    for mount in container.get("volumeMounts") or []:
        volume = volumes.get(mount["name"])
        if volume is None:
            raise EngineError(f"{pod.workload}, container {container['name']} mounts {mount['name']!r}, which its pod "
                              "has no volume for.")
        path, options = mount["mountPath"], "ro" if mount.get("readOnly") else "rw"
        if "persistentVolumeClaim" in volume:
            if mount.get("subPath"):
                raise EngineError(f"{pod.workload} mounts a part (subPath) of the claim "
                                  f"{volume['persistentVolumeClaim']['claimName']}; podman "
                                  f"mounts whole volumes only.")
            arguments += ["--volume", f"{volume['persistentVolumeClaim']['claimName']}:{path}:{options},nocopy"]
        elif "emptyDir" in volume:
            empty = volume["emptyDir"] or {}
            if empty.get("medium") == "Memory":
                size = f",tmpfs-size={int(quantity(empty['sizeLimit']))}" if empty.get("sizeLimit") else ""
                arguments += ["--mount", f"type=tmpfs,destination={path},tmpfs-mode=1777{size}"]
            else:
                folder = f"{context.scratch}/{pod.name}/{volume['name']}"
                if folder not in pod.scratch:
                    pod.scratch.append(folder)
                arguments += ["--volume", f"{folder}:{path}:{options},z"]
        elif "configMap" in volume:
            for source, target in _files(volume["configMap"], mount):
                arguments += ["--volume", f"{context.configmaps}/{volume['configMap']['name']}{source}:{target}:ro,z"]
        elif "secret" in volume:
            secret = volume["secret"]
            keys = {i["key"]: i["path"] for i in secret.get("items") or []} or {
                key: key for key in context.secret_keys.get(secret["secretName"], [])}
            for key, name in keys.items():
                if mount.get("subPath") in (None, name):
                    target = path if mount.get("subPath") else f"{path.rstrip('/')}/{name}"
                    owner = f",uid={security['runAsUser']}" if security.get("runAsUser") is not None else ""
                    stored = secret_name(context.scope.namespace, secret["secretName"], key)
                    arguments += ["--secret", f"{stored},type=mount,target={target}{owner},mode=0400"]
        elif "hostPath" in volume:
            arguments += ["--volume", f"{volume['hostPath']['path']}:{path}:{options}"]
        else:
            kind = next((k for k in volume if k != "name"), "nothing")
            raise EngineError(f"{pod.workload} has the volume {volume['name']!r} of type {kind}, which podman has no "
                              "counterpart for.")
    return arguments


def _files(source: dict, mount: dict) -> list[tuple[str, str]]:
    """(path below the ConfigMap's folder, path in the container) for what a mount shows of it."""
    base = mount["mountPath"].rstrip("/")
    items = {i["path"]: i["key"] for i in source.get("items") or []}
    if mount.get("subPath"):
        return [(f"/{items.get(mount['subPath'], mount['subPath'])}", base)]
    return [(f"/{key}", f"{base}/{path}") for path, key in items.items()] or [("", base)]


def probe_command(probe: dict, container: dict) -> list[str]:
    """A probe as a command that runs in its container."""
    def port(value) -> int:
        return value if isinstance(value, int) else next(
            p["containerPort"] for p in container.get("ports") or [] if p.get("name") == value)

    if "exec" in probe:
        return probe["exec"]["command"]
    if "httpGet" in probe:
        get = probe["httpGet"]
        scheme, host, path = get.get("scheme", "HTTP").lower(), f"127.0.0.1:{port(get['port'])}", get.get("path", "/")
        return ["sh", "-c", HTTP_GET.format(url=shlex.quote(f"{scheme}://{host}{path}"), scheme=scheme, host=host,
                                            path=shlex.quote(path),
                                            timeout=probe.get("timeoutSeconds", 1))]
    return ["sh", "-c", TCP.format(port=port(probe["tcpSocket"]["port"]))]


def _healthcheck(container: dict) -> list[str]:
    probe, startup = container["livenessProbe"], container.get("startupProbe") or {}
    grace = startup.get("periodSeconds", 10) * startup.get("failureThreshold",
                                                           3) if startup else probe.get("initialDelaySeconds", 0)
    return ["--health-cmd", shlex.join(probe_command(probe, container)), "--health-interval",
            f"{probe.get('periodSeconds', 10)}s",
            "--health-timeout", f"{probe.get('timeoutSeconds', 1)}s", "--health-retries",
            str(probe.get("failureThreshold", 3)),
            "--health-start-period", f"{grace}s", "--health-on-failure", "restart"]
