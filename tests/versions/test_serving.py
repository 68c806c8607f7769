# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the server's hooks change of how MLflow answers, compared to MLflow without each of them."""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import gzip
import json
import os
import pathlib
import random
import re
import secrets
import shutil
import signal
import socket
import ssl
import statistics
import struct
import subprocess
import threading
import time

import mlflow_servers as servers
import psycopg
import pytest
import requests

HOSTS = "127.0.0.1:*,allowed.example.com"
ORIGIN = "https://allowed.example.com"
PROXY = {
    "AUTH_PROXY_HEADER": "X-Auth-Request-Email",
    "AUTH_PROXY_SECRET": "only-the-proxy-has-it",
    "AUTH_PROXY_ADMINS": "boss@example.com",
}
SEARCH = "/api/2.0/mlflow/experiments/search"
CREATE = "/api/2.0/mlflow/experiments/create"
RUN = "/api/2.0/mlflow/runs/create"
GET = "/api/2.0/mlflow/experiments/get-by-name"
BATCH = "/api/2.0/mlflow/runs/log-batch"


class Answer:
    """Status, headers and body of an HTTP response, read from a socket as it came."""

    def __init__(self, reader, method="GET"):
        line = reader.readline()
        while line.startswith(b"HTTP/1.1 100"):
            while reader.readline().strip():
                pass
            line = reader.readline()
        if not line:
            self.status, self.headers, self.body = 0, [], b""
            return
        self.status = int(line.split()[1])
        self.headers = []
        while line := reader.readline().strip():
            name, _colon, value = line.decode("latin-1").partition(":")
            self.headers.append((name.lower(), value.strip()))
        given = dict(self.headers)
        if method == "HEAD" or self.status in (204, 304):
            self.body = b""
        elif "content-length" in given:
            self.body = reader.read(int(given["content-length"]))
        elif given.get("transfer-encoding") == "chunked":
            chunks = []
            while size := int(reader.readline().split(b";")[0], 16):
                chunks.append(reader.read(size))
                reader.readline()
            reader.readline()
            self.body = b"".join(chunks)
        else:
            self.body = reader.read()


def message(method, target, *headers, body=b"", host="127.0.0.1:1", protocol="HTTP/1.1", length=True):
    """A request as it goes over the connection; header fields as text."""
    if not isinstance(body, bytes):
        body, headers = json.dumps(body).encode(), ("Content-Type: application/json", *headers)
    fields = [f"Host: {host}"] if host is not None else []
    fields += headers
    if length and (body or method not in ("GET", "HEAD", "OPTIONS")):
        fields.append(f"Content-Length: {len(body)}")
    return f"{method} {target} {protocol}\r\n".encode() + "".join(f"{f}\r\n" for f in fields).encode("latin-1") + (
        b"\r\n" + body
    )


def chunked(method, target, *headers, body=b"", size=7):
    """The same with its body in chunks."""
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    return message(
        method,
        target,
        "Transfer-Encoding: chunked",
        *headers,
        length=False,
        body=b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n",
    )


def connect(server):
    host, port = server.url.split("/")[2].split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def send(server, *messages):
    """Answers to requests on one connection, all sent before the first answer is read."""
    with connect(server) as connection, connection.makefile("rb") as reader:
        sender = threading.Thread(target=connection.sendall, args=(b"".join(messages),))
        sender.start()
        found = [Answer(reader, each.split(b" ", 1)[0].decode()) for each in messages]
        sender.join()
        return found


def basic(name, password):
    return "Authorization: Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def normal(server, answer):
    """What two servers must answer alike: without ids, times and the port."""
    body = answer.body
    with contextlib.suppress(ValueError):
        body = json.dumps(json.loads(body), sort_keys=True).encode()
    text = re.sub(rb"\b[0-9a-f]{32}\b", b"ID", body)
    text = re.sub(rb"\b1[0-9]{12}\b", b"TIME", text)
    text = re.sub(rb'(name="csrf_token"[^>]*value=")[^"]*', rb"\1TOKEN", text)
    text = text.replace(server.url.split("/")[2].encode(), b"SERVER").replace(str(server.folder).encode(), b"FOLDER")
    headers = sorted(
        (name, ", ".join(sorted(set(value.split(", ")))) if name in ("vary", "allow") else re.sub("^session=[^;]*", "session", value))
        for name, value in answer.headers
        if name not in ("date", "content-length")
    )
    return {"status": answer.status, "body": text.decode("latin-1"), "headers": headers}


def cases(prefix=""):
    """Name and requests of each case, for any server."""
    p = prefix
    json_type = "Content-Type: application/json"
    small = json.dumps({"max_results": 1}).encode()
    search = {"max_results": 1}
    for host in ("127.0.0.1:9", "allowed.example.com", "evil.example.org", "allowed.example.com.evil.org", "ALLOWED.example.com",
                 "allowed.example.com:443", "", "[::1]:5", "127.0.0.1:1,evil.example.org", "localhost"):
        yield f"host {host!r}", [message("POST", p + SEARCH, body=search, host=host)]
    yield "host absent in HTTP/1.0", [message("POST", p + SEARCH, body=search, host=None, protocol="HTTP/1.0")]
    yield "host absent in HTTP/1.1", [message("POST", p + SEARCH, body=search, host=None)]
    yield "host given in HTTP/1.0", [message("POST", p + SEARCH, body=search, protocol="HTTP/1.0")]
    yield "host twice", [message("POST", p + SEARCH, "Host: evil.example.org", body=search)]
    yield "host forwarded", [message("POST", p + SEARCH, "X-Forwarded-Host: evil.example.org", body=search)]
    for origin in (ORIGIN, "https://evil.example.org", "http://localhost:3000", "null", "", "http://127.0.0.1:1"):
        for method, target, more in (
            ("POST", SEARCH, {"body": search}), ("GET", GET + "?experiment_name=Default", {}), ("GET", "/version", {}),
            ("POST", CREATE, {"body": {"name": ""}}),
        ):
            yield f"origin {origin!r} {method} {target}", [message(method, p + target, f"Origin: {origin}", **more)]
        yield f"preflight {origin!r}", [
            message("OPTIONS", p + CREATE, f"Origin: {origin}", "Access-Control-Request-Method: POST",
                    "Access-Control-Request-Headers: content-type")
        ]
    yield "OPTIONS without an origin", [message("OPTIONS", p + SEARCH)]
    for method in ("HEAD", "GET", "PUT", "DELETE", "PATCH", "TRACE", "post", "BREW"):
        yield f"method {method}", [message(method, p + SEARCH)]
    yield "HEAD of a GET", [message("HEAD", p + GET + "?experiment_name=Default")]
    for target in (
        "/api/2.0/mlflow/nothing", "/api/2.0/mlflow/", "/api/2.0/mlflow", "/api/3.0/mlflow/nothing", SEARCH + "/",
        "/" + SEARCH, "/api/2.0//mlflow/experiments/search", "/api/2.0/mlflow/experiments%2Fsearch",
        "/api/2.0/mlflow/experiments/%73earch", "/api/2.0/mlflow/runs/%2e%2e/experiments/search",
        "/api/2.0/mlflow/runs/../experiments/search", "/api/2.0/mlflow/experiments/search%00",
        "/api/2.0/mlflow/experiments/search%20", "/api/2.0/mlflow/experiments/search;x", "/API/2.0/mlflow/experiments/search",
        "/api/2.0/mlflow/experiments/search%FF", "/ajax-api/2.0/mlflow/experiments/search",
        "/api/2.0/mlflow/experiments/search#x", "/graphql", "/version", "/health", "/", "/api/3.0/mlflow/server-info",
        "/api/2.0/mlflow/experiments/search%3Fmax_results=1",
    ):
        yield f"path {target}", [message("POST", p + target, body=search), message("GET", p + target)]
    for query in ("", "?", "?experiment_name=Default", "?experiment_name=", "?experiment_name=%C3%A4", "?experiment_name=%FF",
                  "?experiment_name=a+b%20c", "?experiment_name=Default&experiment_name=x", "?experiment_name",
                  "?experiment_name=%", "?experiment_name=%zz", "?experiment_name[]=Default", "?&&==&experiment_name=Default",
                  "?experiment_name=" + "a" * 6000, "?experiment_name=Default;x=1", "?experiment_name=%00"):
        yield f"query {query[:40]}", [message("GET", p + GET + query)]
    yield "a field of the query twice", [message("GET", p + "/api/2.0/mlflow/metrics/get-history?run_id=a&run_id=b&metric_key=x")]
    for body in (b"", b"{", b"null", b"[]", b'"x"', b"1", b"{}", b'{"max_results": "1"}', b'{"max_results": "x"}',
                 b'{"max_results": 0}', b'{"max_results": -1}', b'{"unknown": 1}', b'\xff\xfe', b'{"filter": "\xc3\xa4"}',
                 b'{"filter": "nonsense ="}', b'{"max_results": 1, "max_results": 2}', b'{"max_results": NaN}', b" " * 100):
        for kind in ("application/json", "text/plain", "application/x-www-form-urlencoded", ""):
            headers = [f"Content-Type: {kind}"] if kind else []
            yield f"body {body!r} as {kind}", [message("POST", p + SEARCH, *headers, body=body)]
    yield "body of a GET", [message("GET", p + GET + "?experiment_name=Default", json_type, body=small)]
    yield "multipart", [message("POST", p + SEARCH, "Content-Type: multipart/form-data; boundary=x",
                                body=b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--x--\r\n')]
    yield "charset", [message("POST", p + SEARCH, "Content-Type: application/json; charset=utf-16",
                              body=small.decode().encode("utf-16"))]
    yield "chunked", [chunked("POST", p + SEARCH, json_type, body=small)]
    yield "chunked, bad JSON", [chunked("POST", p + SEARCH, json_type, body=b"{" * 100)]
    yield "compressed", [message("POST", p + SEARCH, json_type, "Content-Encoding: gzip", body=gzip.compress(small, mtime=0))]
    yield "compressed answer wanted", [message("POST", p + SEARCH, "Accept-Encoding: gzip, br", body=search)]
    yield "many headers", [message("POST", p + SEARCH, *(f"X-Many-{n}: {n}" for n in range(150)), body=search)]
    yield "a long header", [message("POST", p + SEARCH, "X-Long: " + "a" * 30000, body=search)]
    yield "a header twice", [message("POST", p + SEARCH, "X-Twice: a", "X-Twice: b", body=search)]
    yield "a header of Latin-1", [message("POST", p + SEARCH, "X-Name: \xe4", body=search)]
    yield "a header with an underscore", [message("POST", p + SEARCH, "X_MLFLOW_WORKSPACE: nowhere", body=search)]
    yield "Expect", [message("POST", p + SEARCH, "Expect: 100-continue", body=search)]
    yield "pipelined", [
        message("POST", p + CREATE, body={"name": "pipelined"}), message("GET", p + GET + "?experiment_name=pipelined"),
        message("GET", p + "/version"), message("POST", p + SEARCH, body={"max_results": 2}),
    ]
    yield "connection closed", [message("POST", p + SEARCH, "Connection: close", body=search)]
    yield "a wrong length", [message("POST", p + SEARCH, json_type, "Content-Length: 3", body=small, length=False)]
    yield "two lengths", [message("POST", p + SEARCH, json_type, "Content-Length: 3", body=small)]
    yield "a smuggled request", [chunked("POST", p + SEARCH, json_type, "Content-Length: 3", body=small)]
    yield "created", [message("POST", p + CREATE, body={"name": "n\u00e4me/%2F <b>"})]
    yield "created again", [message("POST", p + CREATE, body={"name": "n\u00e4me/%2F <b>"})]
    yield "a run", [message("POST", p + RUN, body={"experiment_id": "0", "run_name": "first", "start_time": 1})]
    yield "a run of no experiment", [message("POST", p + RUN, body={"experiment_id": "99999"})]
    yield "a run that is not there", [message("GET", p + "/api/2.0/mlflow/runs/get?run_id=nothing")]
    yield "runs", [message("POST", p + "/api/2.0/mlflow/runs/search", body={"experiment_ids": ["0"]})]
    yield "runs by nonsense", [message("POST", p + "/api/2.0/mlflow/runs/search", body={"experiment_ids": ["0"], "filter": "x"})]
    yield "a batch for no run", [message("POST", p + BATCH, body={"run_id": "nothing", "params": [{"key": "a", "value": "b"}]})]
    yield "a model", [message("POST", p + "/api/2.0/mlflow/registered-models/create", body={"name": "m"}),
                      message("GET", p + "/api/2.0/mlflow/registered-models/get?name=m"),
                      message("PATCH", p + "/api/2.0/mlflow/registered-models/update", body={"name": "m", "description": "d"}),
                      message("DELETE", p + "/api/2.0/mlflow/registered-models/delete", body={"name": "m"}),
                      message("DELETE", p + "/api/2.0/mlflow/registered-models/delete", body={"name": "m"})]
    yield "too long", [message("POST", p + CREATE, body={"name": "x" * 600})]
    yield "workspace header", [message("POST", p + SEARCH, "X-MLFLOW-WORKSPACE: default", body=search),
                               message("POST", p + SEARCH, "X-MLFLOW-WORKSPACE: team", body=search),
                               message("POST", p + SEARCH, "X-MLFLOW-WORKSPACE: nowhere", body=search),
                               message("POST", p + SEARCH, "X-MLFLOW-WORKSPACE: Not/Valid", body=search),
                               message("POST", p + SEARCH, "X-MLFLOW-WORKSPACE:  ", body=search),
                               message("POST", p + SEARCH, "X-MLFLOW-WORKSPACE: a", "X-MLFLOW-WORKSPACE: team", body=search)]
    for forwarded in (("X-Forwarded-Proto: https",), ("X-Forwarded-For: 10.1.2.3, 10.9.9.9",), ("X-Forwarded-Proto: nonsense",),
                      ("X-Forwarded-Proto: https", "X-Forwarded-For: 10.1.2.3"), ("Forwarded: for=10.1.2.3;proto=https",),
                      ("X-Forwarded-Prefix: /x",), ("X-Script-Name: /x",)):
        yield f"forwarded {forwarded}", [message("POST", p + SEARCH, *forwarded, body=search)]
    yield "HTTP/2 wanted", [message("POST", p + SEARCH, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", body=search)]


def differences(with_hooks, without, prefix="", headers=(), only=None):
    """Cases that two servers answer otherwise: name, what, and both values."""
    found = []
    for name, requests_ in only or cases(prefix):
        more = "".join(f"{header}\r\n" for header in headers).encode()
        asked = [each.replace(b"\r\n", b"\r\n" + more, 1) for each in requests_]
        pairs = zip(send(with_hooks, *asked), send(without, *asked), strict=True)
        for number, (one, other) in enumerate(pairs):
            mine, own = normal(with_hooks, one), normal(without, other)
            refused = own["status"] == 403 and "Invalid Host header" in own["body"]
            if refused or '"message": "Workspace' in own["body"]:
                # FastAPI's middlewares refuse before those that add headers; Flask adds them to what it refuses, too.
                mine["headers"] = own["headers"] = []
            found += [(name, number, what, mine[what], own[what]) for what in mine if mine[what] != own[what]]
    return found


ROUTES = """
import json, os, pathlib, re
from mlflow.server import app as flask_app

def create_app():
    from mlflow.server.fastapi_app import app
    every = [sorted(f"{each.rule} {sorted(each.methods)} {each.endpoint}" for each in flask_app.url_map.iter_rules()),
             [repr(each) for each in app.routes], [repr(each.cls) for each in app.user_middleware]]
    pathlib.Path(os.environ["ROUTES"]).write_text(re.sub("0x[0-9a-f]+", "", json.dumps(every)))
    return app
"""
GUARD = """
import threading, time
from mlflow.server.fastapi_app import app
from starlette.middleware.base import BaseHTTPMiddleware
threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()

class Guard(BaseHTTPMiddleware):
    async def dispatch(self, request, call_next):
        answer = await call_next(request)
        answer.headers["x-guard"] = "was here"
        return answer

app.add_middleware(Guard)
"""
BROKEN = """
import sys
def create_app():
    raise RuntimeError("this app is broken")
"""


def plugin(folder, name, source, attribute="create_app"):
    """PYTHONPATH with an app of MLflow (--app-name)."""
    path = folder / "plugins"
    (path / f"{name}-1.dist-info").mkdir(parents=True)
    (path / f"{name}.py").write_text(source)
    (path / f"{name}-1.dist-info/METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    (path / f"{name}-1.dist-info/entry_points.txt").write_text(f"[mlflow.app]\n{name} = {name}:{attribute}\n")
    return f"{servers.config(folder)}:{path}"


@contextlib.contextmanager
def together(*starts):
    """Servers that start at the same time."""
    with contextlib.ExitStack() as stack, concurrent.futures.ThreadPoolExecutor(len(starts)) as pool:
        yield [task.result() for task in [pool.submit(stack.enter_context, start) for start in starts]]


ALL = "nodelay,batch,direct,preload"


@pytest.fixture(scope="module")
def pair(version, tmp_path_factory):
    """Servers without logins, with all hooks and with none, below a path where the version may be."""
    starts = []
    for disabled in ("", ALL):
        folder = tmp_path_factory.mktemp(f"serving-{version}")
        starts.append(
            servers.mlflow(
                version,
                folder,
                "--app-name=routes",
                f"--expose-prometheus={folder}/metrics",
                prefix="/team" if servers.number(version) >= (3, 16) else "",
                PYTHONPATH=plugin(folder, "routes", ROUTES),
                ROUTES=str(folder / "routes.json"),
                MLFLOW_SERVER_ALLOWED_HOSTS=HOSTS,
                MLFLOW_SERVER_CORS_ALLOWED_ORIGINS=ORIGIN,
                FORWARDED_ALLOW_IPS="*",
                MLOPS_MLFLOW_DISABLED_HOOKS=disabled,
            )
        )
    with together(*starts) as pair:
        yield pair


def prefix_of(server):
    return "/".join(["", *server.url.split("/")[3:]])


def counted(server):
    """MLflow's own count of requests, by method and status."""
    text = requests.get(server.url.removesuffix(prefix_of(server)) + "/metrics", timeout=20).text
    found = {}
    for labels, count in re.findall(r"^mlflow_http_request_total\{([^}]*)\} (\S+)$", text, re.MULTILINE):
        found[labels] = float(count)
    return found


def test_the_direct_way_answers_as_mlflow_does(pair):
    """Some 200 cases: hosts, origins, methods, paths, queries, bodies, headers, connections, errors."""
    assert pair[0].report["behaviours"]["direct"] == "" and "direct" not in pair[1].report["behaviours"]
    assert not differences(*pair, prefix=prefix_of(pair[0]))
    # What the checks of hosts and workspaces refuse, with 403 and 5xx, comes to Flask, which counts, only the direct way.
    mine, own = ({name: n for name, n in counted(each).items() if not re.search('"(403|5..)"', name)} for each in pair)
    assert mine == own and len(mine) > 5


def test_large_bodies(pair):
    body = {"run_id": "nothing", "params": [{"key": "a" * (20 << 20), "value": "b"}]}
    answers = [normal(server, send(server, message("POST", prefix_of(server) + BATCH, body=body))[0]) for server in pair]
    assert answers[0] == answers[1] and answers[0]["status"] == 400


def test_a_request_of_which_half_came_is_not_executed(pair):
    server = pair[0]
    for protocol in ("chunked", "length"):
        asked = message("POST", prefix_of(server) + CREATE, body={"name": f"half-{protocol}"})
        if protocol == "chunked":
            body = json.dumps({"name": f"half-{protocol}"}).encode()
            asked = chunked("POST", prefix_of(server) + CREATE, "Content-Type: application/json", body=body, size=100)
        for end in (2, 5, 20):
            with connect(server) as connection:
                connection.sendall(asked[:-end])
                time.sleep(0.2)
        time.sleep(0.3)
        answer = server.ask("GET", f"{GET}?experiment_name=half-{protocol}")
        # Of a chunked body only the end may be missing, and is.
        assert answer.status_code == 404, answer.text


def test_the_same_routes_with_and_without_a_forked_start(pair):
    mine, own = (json.loads((server.folder / "routes.json").read_text()) for server in pair)
    assert mine == own and len(mine[0]) > 100
    assert pair[0].report["behaviours"]["preload"] == "" and "preload" not in pair[1].report["behaviours"]


TABLE = """
import json, sys
import server_hooks, hook_serving
from mlflow.server import app as flask_app
from mlflow.server.fastapi_app import app, create_fastapi_app
from starlette.routing import Match

def resolved(app, path, method):
    for route in app.routes:
        if route.matches({"type": "http", "path": path, "root_path": "", "method": method, "headers": []})[0] != Match.NONE:
            return route is app.routes[-1]

said = []
server_hooks.report = lambda **behaviours: said.append(behaviours["direct"])
plain = hook_serving.Direct(app)
wrong = [path for path, methods in plain.methods.items() for method in methods if not resolved(app, path, method)]
rules = {rule.rule for rule in flask_app.url_map.iter_rules() if rule.rule.startswith(hook_serving.APIS) and not rule.arguments}
missed = sorted(rules - set(plain.methods))
unresolved = [path for path in missed if resolved(app, path, "GET") or resolved(app, path, "POST")]

taken = create_fastapi_app(flask_app)
@taken.post("/api/2.0/mlflow/runs/create")
def native():
    return {}
@taken.get("/api/2.0/mlflow/experiments/{anything}")
def parameter(anything):
    return {}
taken.router.routes.insert(0, taken.router.routes.pop())
taken.router.routes.insert(0, taken.router.routes.pop())
other = hook_serving.Direct(taken)

guarded = create_fastapi_app(flask_app)
@guarded.middleware("http")
async def guard(request, call_next):
    return await call_next(request)
blocked = hook_serving.Direct(guarded)

built = create_fastapi_app(flask_app)
built.build_middleware_stack = lambda: None
json.dump({"paths": len(plain.methods), "wrong": wrong, "unresolved": unresolved, "said": said,
           "both": sorted(plain.methods["/api/2.0/mlflow/experiments/search"]),
           "lost": sorted(set(plain.methods) - set(other.methods)), "blocked": len(blocked.methods),
           "built": len(hook_serving.Direct(built).methods)}, sys.stdout)
"""


def test_only_what_flask_answers_alone_goes_the_direct_way(version, tmp_path):
    done = subprocess.run(
        [servers.binaries(version) / "python", "-c", TABLE],
        env=servers.environment(
            version, tmp_path, _MLFLOW_SERVER_FILE_STORE=f"sqlite:///{tmp_path}/x.db", MLOPS_MLFLOW_DISABLED_HOOKS=ALL
        ),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert not done.returncode, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["paths"] > 60 and not found["wrong"] and not found["unresolved"], found
    assert found["both"] == ["GET", "POST"]
    assert "/api/2.0/mlflow/runs/create" in found["lost"] and GET in found["lost"]
    assert all(path == "/api/2.0/mlflow/runs/create" or "/experiments/" in path for path in found["lost"])
    assert found["blocked"] == found["built"] == 0
    assert found["said"][:2] == ["", ""] and "the middleware guard" in found["said"][2] and found["said"][3]


USERS = "/api/2.0/mlflow/users"


def user_cases(by_proxy):
    """Cases of a server with logins: who is not let in, who is, and what each may do."""
    create, search = message("POST", CREATE, body={"name": "mine"}), message("POST", SEARCH, body={"max_results": 100})
    who = {
        "nobody": (),
        "a wrong password": (basic("ana", "wrong-password"),),
        "an unknown user": (basic("nobody", "right-password"),),
        "a user": (basic("ana", "right-password"),),
        "the administrator": (basic(*servers.CHIEF),),
        "MLflow's default administrator": (basic("admin", "password1234"),),
        "a broken header": ("Authorization: Basic ====",),
        "another scheme": ("Authorization: Bearer abc",),
        "a user twice": (basic("ana", "right-password"), basic(*servers.CHIEF)),
        "a header with an underscore": ("X_Auth_Request_Email: boss@example.com", "X_Proxy_Secret: " + PROXY["AUTH_PROXY_SECRET"]),
        "a name without a proof": ("X-Auth-Request-Email: boss@example.com",),
        "a name with a wrong proof": ("X-Auth-Request-Email: boss@example.com", "X-Proxy-Secret: wrong"),
    }
    if by_proxy:
        proof = f"X-Proxy-Secret: {PROXY['AUTH_PROXY_SECRET']}"
        who["a proxy's user"] = ("X-Auth-Request-Email: eva@example.com", proof)
        who["a proxy's administrator"] = ("X-Auth-Request-Email: boss@example.com", proof)
        who["the name of MLflow's administrator"] = (f"X-Auth-Request-Email: {servers.CHIEF[0]}", proof)
        who["a proxy's user by password"] = (basic("eva@example.com", PROXY["AUTH_PROXY_SECRET"]),)
    for name, headers in who.items():
        more = "".join(f"{header}\r\n" for header in headers).encode()
        for title, asked in (
            ("searches", search),
            ("creates", create),
            ("renames another's", message("POST", "/api/2.0/mlflow/experiments/update", body={"experiment_id": "1", "new_name": f"of {name}"})),
            ("deletes another's", message("POST", "/api/2.0/mlflow/experiments/delete", body={"experiment_id": "1"})),
            ("runs in another's", message("POST", RUN, body={"experiment_id": "1", "run_name": "r", "start_time": 1})),
            ("reads itself", message("GET", f"{USERS}/get?username=ana")),
            ("reads the administrator", message("GET", f"{USERS}/get?username={servers.CHIEF[0]}")),
            ("lists users", message("GET", f"{USERS}/list")),
            ("asks who it is", message("GET", f"{USERS}/current")),
            ("creates a user", message("POST", f"{USERS}/create", body={"username": f"by {name}", "password": "right-password"})),
            ("makes itself administrator", message("PATCH", f"{USERS}/update-admin", body={"username": "ana", "is_admin": False})),
            ("sees a permission", message("GET", "/api/2.0/mlflow/experiments/permissions/get?experiment_id=1&username=ana")),
            ("gives a permission", message("POST", "/api/2.0/mlflow/experiments/permissions/create",
                                           body={"experiment_id": "1", "username": f"by {name}", "permission": "READ"})),
            ("sees the page to sign up", message("GET", "/signup")),
            ("another site writes", message("POST", CREATE, "Origin: https://evil.example.org", body={"name": "evil"})),
            ("by another host", message("POST", SEARCH, body={"max_results": 1}, host="evil.example.org")),
            ("in a workspace", message("POST", SEARCH, "X-MLFLOW-WORKSPACE: team", body={"max_results": 100})),
            ("in no workspace", message("POST", SEARCH, "X-MLFLOW-WORKSPACE: nowhere", body={"max_results": 1})),
            ("in a broken workspace", message("POST", SEARCH, "X-MLFLOW-WORKSPACE: Not/Valid", body={"max_results": 1})),
            ("creates in a workspace", message("POST", CREATE, "X-MLFLOW-WORKSPACE: team", body={"name": f"of {name}"})),
            ("a wrong body", message("POST", CREATE, "Content-Type: application/json", body=b"{")),
        ):
            yield f"{name} {title}", [asked.replace(b"\r\n", b"\r\n" + more, 1)]


@pytest.fixture(scope="module", params=[servers.VERSIONS[0], servers.VERSIONS[-1]])
def users(request, tmp_path_factory):
    """Servers with logins and workspaces, with all hooks and with none; those of a proxy where the version can."""
    version, starts = request.param, []
    by_proxy = servers.number(version) >= (3, 15)
    for disabled in ("", ALL):
        folder = tmp_path_factory.mktemp(f"users-{version}")
        more = ["authorization_function = proxy_login:login"] if by_proxy else []
        starts.append(
            servers.mlflow(
                version,
                folder,
                "--app-name=basic-auth",
                workers=1 if disabled else 2,
                MLFLOW_AUTH_CONFIG_PATH=servers.auth_ini(folder, f"sqlite:///{folder}/users.db", *more),
                MLFLOW_ENABLE_WORKSPACES="true",
                MLFLOW_SERVER_ALLOWED_HOSTS=HOSTS,
                MLFLOW_SERVER_CORS_ALLOWED_ORIGINS=ORIGIN,
                MLOPS_MLFLOW_DISABLED_HOOKS=disabled,
                **servers.logins(),
                **(PROXY if by_proxy else {}),
            )
        )
    with together(*starts) as pair:
        for server in pair:
            server.by_proxy = by_proxy
            for method, path, body in (
                ("POST", f"{USERS}/create", {"username": "ana", "password": "right-password"}),
                ("POST", "/api/3.0/mlflow/workspaces", {"name": "team"}),
                ("POST", CREATE, {"name": "the administrator's"}),
            ):
                made = server.ask(method, path, json=body, auth=servers.CHIEF)
                assert made.status_code in (200, 201), made.text
        yield pair


def test_the_direct_way_lets_in_whom_mlflow_does(users):
    assert users[0].report["behaviours"]["direct"] == "" and users[0].report["behaviours"]["preload"] == ""
    found = differences(*users, only=user_cases(users[0].by_proxy))
    assert not found, found
    # The cases themselves: without these, two servers that refuse everybody would be alike, too.
    for name, status in (((), 401), ((basic("ana", "right-password"),), 200), ((basic("ana", "wrong-password"),), 401)):
        assert send(users[0], message("POST", SEARCH, *name, body={"max_results": 1}))[0].status == status


def test_users_and_workspaces_of_concurrent_requests_are_kept_apart(users):
    server = users[0]
    if not server.by_proxy:
        pytest.skip("one version is enough: the test is of the hook's threads, not of MLflow's")
    names = [f"team-{number}" for number in range(4)]
    for name in names:
        made = server.ask("POST", "/api/3.0/mlflow/workspaces", json={"name": name}, auth=servers.CHIEF)
        assert made.status_code in (200, 201), made.text
        made = server.ask("POST", CREATE, json={"name": f"in {name}"}, auth=servers.CHIEF, headers={"X-MLFLOW-WORKSPACE": name})
        assert made.status_code == 200, made.text
    ends = time.monotonic() + 4

    def client(number):
        session, seen = requests.Session(), 0
        person = f"user-{number}@example.com"
        session.headers.update({"X-Auth-Request-Email": person, "X-Proxy-Secret": PROXY["AUTH_PROXY_SECRET"]})
        workspace = names[number % len(names)]
        while time.monotonic() < ends:
            answer = session.get(f"{server.url}{USERS}/current", timeout=30)
            assert answer.json()["user"]["username"] == person
            answer = session.post(
                f"{server.url}{SEARCH}",
                json={"max_results": 100},
                timeout=30,
                auth=servers.CHIEF,
                headers={"X-MLFLOW-WORKSPACE": workspace, "X-Auth-Request-Email": None},
            )
            assert {each["name"] for each in answer.json()["experiments"]} <= {"Default", f"in {workspace}"}, answer.text
            assert f"in {workspace}" in answer.text
            seen += 1
        return seen

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert min(pool.map(client, range(16))) > 0
