# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A small HTTP server that answers as the Kubernetes API does: objects, faults on demand, exec and port-forward."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import json
import re
import socket
import struct
import threading
import urllib.parse

from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines import kubernetes_api
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines.kubernetes import KubernetesEngine

KINDS = {
    "configmaps": ("v1", "ConfigMap"),
    "secrets": ("v1", "Secret"),
    "services": ("v1", "Service"),
    "pods": ("v1", "Pod"),
    "events": ("v1", "Event"),
    "deployments": ("apps/v1", "Deployment"),
    "statefulsets": ("apps/v1", "StatefulSet"),
    "jobs": ("batch/v1", "Job"),
    "widgets": ("example.org/v1", "Widget"),
    "sealedsecrets": ("bitnami.com/v1", "SealedSecret"),
    "clusters": ("postgresql.cnpg.io/v1", "Cluster"),
}


class Server:
    """Serves until closed.

    Attributes:
        objects: path → object.
        requests: (method, path, query) of all requests so far.
        faults: functions of (method, path) that give (status, headers, body), "reset", or None for no fault.
        on_apply: called with each object that is applied, to give it a status.
        program: called with (argv, stdin) for exec; gives (stdout, stderr, exit code).
    """

    def __init__(self):
        self.objects, self.requests, self.faults = {}, [], []
        self.on_apply = lambda obj: None
        self.program = lambda argv, stdin: (b"", b"", 0)
        self.sizes = []
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def handle_one_request(self):
                try:
                    super().handle_one_request()
                except ConnectionError:
                    self.close_connection = True

            def answer(self):
                server.answer(self)

            do_GET = do_PATCH = do_POST = do_DELETE = answer

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self):
        self.http.shutdown()
        self.http.server_close()

    def kubeconfig(self, path):
        """Write a kubeconfig for this server, and give its path."""
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "users": [{"name": "u", "user": {"token": "t"}}],
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{self.http.server_port}"}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        }
        path.write_text(json.dumps(document))
        return str(path)

    def add(self, obj):
        """Put an object there."""
        api_version, metadata = obj["apiVersion"], obj["metadata"]
        plural = next(
            (plural for plural, key in KINDS.items() if key == (api_version, obj["kind"])), _plural(obj["kind"])
        )
        root = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
        place = f"/namespaces/{metadata['namespace']}" if "namespace" in metadata else ""
        metadata.setdefault("uid", metadata["name"])
        self.objects[f"{root}{place}/{plural}/{metadata['name']}"] = obj
        return obj

    # -- answers ---------------------------------------------------------------------------------------------------

    def answer(self, handler):
        url = urllib.parse.urlsplit(handler.path)
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        self.requests.append((handler.command, url.path, url.query))
        for fault in list(self.faults):
            found = fault(handler.command, url.path)
            if found == "reset":
                handler.connection.shutdown(socket.SHUT_RDWR)
                handler.close_connection = True
                return
            if found:
                status, headers, text = found
                self.send(handler, status, text, headers)
                return
        if handler.headers.get("Upgrade"):
            self.upgrade(handler, url)
            return
        self.send(handler, *self.result(handler.command, url.path, url.query, body))

    def result(self, method, path, query, body):
        if method == "DELETE":
            return (200, {}) if self.objects.pop(path, None) else status(404, "not found")
        if method == "POST":
            obj = json.loads(body)
            self.add(obj)
            return 201, obj
        if method == "PATCH":
            obj = json.loads(body)
            before = self.objects.get(path, {})
            if "mlops" not in query:  # by another manager than an apply's: a merge
                obj = merged(before, obj)
            obj["metadata"]["uid"] = before.get("metadata", {}).get("uid", obj["metadata"]["name"])
            self.on_apply(obj)
            if "dryRun" not in query:
                self.objects[path] = obj
            return 200, obj
        if path in self.objects:
            return 200, self.objects[path]
        if path.endswith("/log"):
            return 200, "first line\nlast line\n"
        if path in ("/api", "/apis"):
            return 200, self.discovery(path)
        if path in ("/apis/example.org/v1", "/apis/postgresql.cnpg.io/v1"):
            return 200, {"resources": [{"name": plural, "kind": kind, "namespaced": True}
                                       for plural, (version, kind) in KINDS.items() if path.endswith(version)]}
        plural = path.rpartition("/")[2]
        if plural in KINDS or plural.endswith("s") and "/namespaces/" in path and "/apis/" in path:
            if plural in ("externalsecrets", "httproutes", "podmonitors", "prometheusrules", "servicemonitors"):
                return status(404, "the server could not find the requested resource")
            items = [obj for place, obj in sorted(self.objects.items()) if place.startswith(path + "/")]
            limit = re.search(r"limit=(\d+)", query)
            return 200, {"items": items[:int(limit[1])] if limit else items}
        return status(404, f"{path} not found")

    @staticmethod
    def discovery(path):
        groups = {}
        for plural, (api_version, kind) in KINDS.items():
            group, _slash, version = api_version.rpartition("/")
            if bool(group) == (path == "/apis"):
                groups.setdefault((group, version), []).append(
                    {"resource": plural, "responseKind": {"kind": kind}, "scope": "Namespaced"})
        return {"kind": "APIGroupDiscoveryList", "items": [
            {"metadata": {"name": group}, "versions": [{"version": version, "resources": resources}]}
            for (group, version), resources in groups.items()]}

    def send(self, handler, code, document, headers=None):
        text = document if isinstance(document, str) else json.dumps(document)
        handler.send_response(code)
        handler.send_header("Content-Type", "text/plain" if isinstance(document, str) else "application/json")
        handler.send_header("Content-Length", str(len(text.encode())))
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(text.encode())

    # -- streams ---------------------------------------------------------------------------------------------------

    def upgrade(self, handler, url):
        key = handler.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        handler.send_response(101)
        handler.send_header("Upgrade", "websocket")
        handler.send_header("Connection", "Upgrade")
        handler.send_header("Sec-WebSocket-Protocol", handler.headers["Sec-WebSocket-Protocol"])
        handler.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        handler.end_headers()
        handler.close_connection = True
        query = urllib.parse.parse_qs(url.query)
        (self.exec if url.path.endswith("/exec") else self.port)(handler, query)

    def exec(self, handler, query):
        argv, stdin = query["command"], b""
        if "stdin" in query:
            wanted = int(re.search(r"head -c (\d+)", argv[2])[1])
            argv = argv[4:]
            while len(stdin) < wanted:
                data = receive(handler.rfile)
                self.sizes.append(len(data))
                assert data[0] == 0
                stdin += data[1:]
        out, err, code = self.program(argv, stdin)
        for channel, text in ((1, out), (2, err)):
            for start in range(0, len(text), 30000):
                send(handler.wfile, bytes([channel]) + text[start:start + 30000])
        ended = {"status": "Success"}
        if code:
            causes = [{"reason": "ExitCode", "message": str(code)}]
            ended = {"status": "Failure", "message": "command terminated", "details": {"causes": causes}}
        if code is not None:
            send(handler.wfile, b"\x03" + json.dumps(ended).encode())

    @staticmethod
    def port(handler, query):
        """Echo what comes, in capitals."""
        number = struct.pack("<H", int(query["ports"][0]))
        for channel in (b"\0", b"\1"):
            send(handler.wfile, channel + number)
        while data := receive(handler.rfile):
            send(handler.wfile, b"\0" + data[1:].upper())


@contextlib.contextmanager
def engine_of(server, scope, folder, monkeypatch):
    """An engine that speaks to a server, with short pauses; it has the ``lines`` that it logs."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(kubernetes_api, "RETRY_PAUSES", (0.01, 0.05))
    monkeypatch.setattr(kubernetes_api, "RETRY_TIMEOUT", 2)
    monkeypatch.setattr(kubernetes_api, "FIRST_RETRY_TIMEOUT", 0.3)
    lines = []
    opened = KubernetesEngine(scope, lines.append, server.kubeconfig(folder / "kubeconfig"))
    opened.lines = lines
    server.add({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": scope.namespace}})
    try:
        yield opened
    finally:
        opened.close()


def _plural(kind):
    return kind.lower() + ("es" if kind.endswith("s") else "s")


def merged(before, change):
    """An object with the fields of a change in place of its own; null removes one (RFC 7386)."""
    if not isinstance(change, dict):
        return change
    before = before if isinstance(before, dict) else {}
    result = {**before, **{key: merged(before.get(key), value) for key, value in change.items()}}
    return {key: value for key, value in result.items() if value is not None}


def status(code, message, reason="", retry_after=None):
    """An answer with a Status object; with headers when it is a fault to wait for."""
    document = {"kind": "Status", "status": "Failure", "message": message, "reason": reason, "code": code}
    if retry_after is None:
        return code, document
    return code, {"Retry-After": str(retry_after)}, document


def fault(*answers, method=None, path=""):
    """Gives these answers one after another to requests of that method whose path holds ``path``, then no more."""
    left = list(answers)

    def decide(asked_method, asked_path):
        if left and method in (None, asked_method) and path in asked_path:
            return left.pop(0)
        return None
    return decide


def receive(stream):
    """One frame of a client, unmasked; nothing at its end."""
    head = stream.read(2)
    if len(head) < 2 or head[0] & 15 == 8:
        return b""
    length = head[1] & 127
    if length > 125:
        length = int.from_bytes(stream.read(2 if length == 126 else 8), "big")
    mask = stream.read(4)
    data = stream.read(length)
    return bytes(byte ^ mask[index % 4] for index, byte in enumerate(data))


def send(stream, data):
    """One frame to a client."""
    length = bytes([len(data)]) if len(data) < 126 else b"\x7e" + len(data).to_bytes(2, "big")
    stream.write(b"\x82" + length + data)
    stream.flush()
