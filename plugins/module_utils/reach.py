# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How modules reach a service of an instance: directly, through the Kubernetes API, or through podman."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import socket
import subprocess
import threading

from ansible_collections.mlops.mlflow.plugins.module_utils.podman import LABEL, secret_name

OPTIONS = {
    "engine": {"type": "str", "choices": ["none", "kubernetes", "podman"], "default": "none"},
    "namespace": {"type": "str"},
    "service": {"type": "str"},
    "kubeconfig": {"type": "path"},
    "context": {"type": "str"},
}


class ReachError(Exception):
    """A service that cannot be reached; the message is one sentence with the cause."""


def reach(params):
    """The way to the services that a module's options name.

    Args:
        params: the module's parameters, OPTIONS among them.

    Returns:
        An object with ``forward(port)`` (a context manager that gives a host and port to connect to), ``execute(argv, stdin)``
        (output of a command in a pod of the service) and ``secret(name)`` (its values). None with engine C(none).

    Raises:
        ReachError: namespace or service are missing, or the engine does not answer.
    """
    if params["engine"] == "none":
        return None
    for option in ("namespace", "service"):
        if not params.get(option):
            raise ReachError(f"{option} is empty while engine is {params['engine']}; name the {option} of the instance.")
    return {"kubernetes": Kubernetes, "podman": Podman}[params["engine"]](params)


def from_secret(way, option, name, keys=None):
    """Values that a module's option says to take from a Secret.

    Args:
        way: what reach() gave; None where there is no engine.
        option: the option's name, for messages.
        name: the Secret's name.
        keys: for each value wanted, the Secret's key that holds it; None for all of the Secret as it is.

    Raises:
        ReachError: there is no engine, no such Secret, or it lacks a key.
    """
    if not way:
        raise ReachError(f"{option} is set while engine is none; name the engine that has the Secret.")
    values = way.secret(name)
    if keys is None:
        return values
    missing = ", ".join(sorted(set(keys.values()) - set(values)))
    if missing:
        raise ReachError(f"The Secret {name} has no key {missing}; name its keys in secret_keys.")
    return {wanted: values[key] for wanted, key in keys.items()}


class Kubernetes:
    """Through the API server: port-forward, exec, Secrets."""

    def __init__(self, params):
        try:
            from kubernetes import client, config
        except ImportError as error:
            raise ReachError(f"engine kubernetes needs the Python package kubernetes here ({error}).") from error
        try:
            if params.get("kubeconfig") or "KUBERNETES_SERVICE_HOST" not in os.environ or "KUBECONFIG" in os.environ:
                config.load_kube_config(params.get("kubeconfig") or None, params.get("context") or None)
            else:
                config.load_incluster_config()
        except Exception as error:
            raise ReachError(f"No cluster to talk to: {error}; set kubeconfig or KUBECONFIG to a readable kubeconfig.") from error
        self.namespace, self.service = params["namespace"], params["service"]
        self.core = client.CoreV1Api()

    def _pod(self):
        """Name of a ready pod behind the Service, and the Service."""
        from kubernetes.client.exceptions import ApiException

        try:
            service = self.core.read_namespaced_service(self.service, self.namespace)
        except ApiException as error:
            raise ReachError(f"Service {self.service} cannot be read in namespace {self.namespace}: {error.reason}.") from error
        selector = ",".join(f"{key}={value}" for key, value in (service.spec.selector or {}).items())
        pods = self.core.list_namespaced_pod(self.namespace, label_selector=selector).items
        for pod in pods:
            if not pod.metadata.deletion_timestamp and any(
                    c.type == "Ready" and c.status == "True" for c in pod.status.conditions or []):
                return pod, service
        states = ", ".join(f"{p.metadata.name} is {p.status.phase}" for p in pods) or "it has none"
        raise ReachError(f"Service {self.service} in namespace {self.namespace} has no ready pod: {states}.")

    def connect(self, port):
        """A connection to the Service's port, in a pod that is ready now."""
        from kubernetes.stream import portforward

        pod, service = self._pod()
        target = next((p.target_port for p in service.spec.ports if p.port == port), port)
        if isinstance(target, str) and not target.isdigit():
            target = next((p.container_port for c in pod.spec.containers for p in c.ports or [] if p.name == target), port)
        stream = portforward(self.core.connect_get_namespaced_pod_portforward, pod.metadata.name, self.namespace, ports=str(target))
        return stream.socket(int(target))

    @contextlib.contextmanager
    def forward(self, port):
        """A local address that leads to the Service's port."""
        self._pod()
        with listening(lambda: self.connect(port)) as address:
            yield address

    def execute(self, argv, stdin=""):
        """Output of a command in a ready pod's first container; its input arrives on standard input."""
        from kubernetes.stream import stream

        pod, _service = self._pod()
        # The exec stream has no end of input, so the input says itself how long it is.
        wrapped = ["sh", "-c", f'head -c {len(stdin.encode())} | "$@"', "sh", *argv]
        answer = stream(self.core.connect_get_namespaced_pod_exec, pod.metadata.name, self.namespace, command=wrapped,
                        container=pod.spec.containers[0].name, stdin=True, stdout=True, stderr=True, tty=False, _preload_content=False)
        answer.write_stdin(stdin)
        answer.run_forever(timeout=120)
        out, err = answer.read_stdout(timeout=1), answer.read_stderr(timeout=1)
        if answer.returncode:
            raise ReachError(f"{argv[0]} in pod {pod.metadata.name} failed: {last_line(err or out)}")
        return out

    def secret(self, name):
        """A Secret's values as text."""
        from kubernetes.client.exceptions import ApiException

        try:
            secret = self.core.read_namespaced_secret(name, self.namespace)
        except ApiException as error:
            raise ReachError(f"Secret {name} cannot be read in namespace {self.namespace}: {error.reason}.") from error
        return {key: base64.b64decode(value).decode() for key, value in (secret.data or {}).items()}


class Podman:
    """Through podman on this host; what labels mean is said in docs/architecture.md."""

    def __init__(self, params):
        if not shutil.which("podman"):
            raise ReachError("engine is podman, and this host has none; run the module where the instance runs.")
        self.namespace, self.service = params["namespace"], params["service"]
        self.state = "/var/lib/mlops.mlflow" if os.geteuid() == 0 else os.path.join(
            os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share"), "mlops.mlflow")
        conf = os.path.join(self.state, "containers.conf")
        self.environment = {**os.environ, **({"CONTAINERS_CONF": conf} if os.path.exists(conf) else {})}

    def _podman(self, *arguments, stdin=None):
        done = subprocess.run(["podman", *arguments], input=stdin, capture_output=True, text=True, env=self.environment, check=False)
        if done.returncode:
            raise ReachError(f"podman {arguments[0]} failed: {last_line(done.stderr or done.stdout)}")
        return done.stdout

    def _container(self):
        """The first running container of a pod behind the Service."""
        listed = json.loads(self._podman("ps", "--all", "--no-trunc", "--format", "json",
                                         "--filter", f"label={LABEL}/namespace={self.namespace}") or "null") or []
        members = [c for c in listed if self.service in c["Labels"].get(f"{LABEL}/services", "").split(",")
                   and c["Labels"].get(f"{LABEL}/role") == "main"]
        for container in members:
            if container["State"] == "running":
                return container
        states = ", ".join(f"{c['Names'][0]} is {c['State']}" for c in members) or "it has none"
        raise ReachError(f"Service {self.service} in namespace {self.namespace} has no running pod: {states}.")

    def _address(self, port):
        """The pod's own address, where this process can reach it; else None."""
        container = self._container()
        if os.geteuid() != 0:  # the pods' network is one of the user's own; on this one somebody else may have the address
            return None
        pod = json.loads(self._podman("pod", "inspect", container["Pod"]))
        infra = json.loads(self._podman("inspect", "--type", "container", pod["InfraContainerID"]))[0]
        address = next((n.get("IPAddress") for n in infra["NetworkSettings"].get("Networks", {}).values()), "")
        with contextlib.suppress(OSError):
            if address:
                socket.create_connection((address, port), timeout=1).close()
                return address, port
        return None

    def connect(self, port):
        """A connection to the Service's port, in a pod that runs now."""
        address = self._address(port)
        if address:
            return socket.create_connection(address)
        # Rootless: the pods' network is not this process'. Each connection becomes a process in the pod that passes bytes on.
        relays = ('if command -v nc >/dev/null; then exec nc 127.0.0.1 {0}; else exec bash -c '
                  '"exec 3<>/dev/tcp/127.0.0.1/{0}; cat <&3 & cat >&3; wait"; fi').format(port)
        ours, theirs = socket.socketpair()
        subprocess.Popen(["podman", "exec", "--interactive", self._container()["Id"], "sh", "-c", relays], stdin=theirs, stdout=theirs,
                         stderr=subprocess.DEVNULL, env=self.environment)
        theirs.close()
        return ours

    @contextlib.contextmanager
    def forward(self, port):
        """An address that leads to the Service's port: the pod's own, or a local one."""
        address = self._address(port)
        if address:
            yield address
            return
        with listening(lambda: self.connect(port)) as local:
            yield local

    def execute(self, argv, stdin=""):
        """Output of a command in the first container of a pod behind the Service."""
        return self._podman("exec", "--interactive", self._container()["Id"], *argv, stdin=stdin)

    def secret(self, name):
        """A Secret's values as text."""
        try:
            with open(os.path.join(self.state, self.namespace, "objects", f"Secret.{name}.json"), encoding="utf-8") as file:
                keys = json.load(file).get("data") or {}
        except OSError as error:
            raise ReachError(f"Secret {name} does not exist in namespace {self.namespace} of podman ({error.strerror}).") from error
        root, stored = self._podman("info", "--format", "{{.Store.GraphRoot}}").strip(), {}
        with contextlib.suppress(OSError, ValueError), open(os.path.join(root, "secrets/filedriver/secretsdata.json"), encoding="utf-8") as file:
            stored = json.load(file)
        names = {secret_name(self.namespace, name, key): key for key in keys}
        values = {}
        for line in self._podman("secret", "ls", "--format", "{{.ID}} {{.Name}}").splitlines():
            identifier, full = line.split(" ", 1)
            if full in names:
                values[names[full]] = (base64.b64decode(stored[identifier]).decode() if identifier in stored else self._podman(
                    "secret", "inspect", "--showsecret", "--format", "{{.SecretData}}", full).removesuffix("\n"))
        return values


@contextlib.contextmanager
def listening(connect, port=0):
    """Listen on a loopback port (0: any free one); for each connection ``connect`` gives the other end, and bytes pass both ways."""
    server = socket.create_server(("127.0.0.1", port))

    def serve():
        while True:
            try:
                near, _address = server.accept()
            except OSError:
                return
            threading.Thread(target=relay, args=(near, connect), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield server.getsockname()
    finally:
        server.close()


def relay(near, connect):
    """Pass bytes between two sockets until either ends."""
    try:
        far = connect()
    except Exception:
        near.close()
        return
    # kubernetes' end is no real socket; its file number tells when there is something to read.
    with contextlib.suppress(OSError), near:
        while True:
            readable, _w, _x = select.select([near, far], [], [])
            if near in readable:
                data = near.recv(65536)
                if not data:
                    break
                far.sendall(data)
            if far in readable:
                data = far.recv(65536)
                if not data:
                    break
                near.sendall(data)
    with contextlib.suppress(OSError):
        far.close()


def last_line(text):
    """The line of a complaint that says what is wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
