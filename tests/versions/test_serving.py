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
import signal
import socket
import statistics
import struct
import subprocess
import threading
import time

import boto3
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
UPDATE = "/api/2.0/mlflow/runs/update"
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"


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
    return (
        f"{method} {target} {protocol}\r\n".encode()
        + "".join(f"{f}\r\n" for f in fields).encode("latin-1")
        + (b"\r\n" + body)
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
    text = text.replace(server.folder.name.encode(), b"NAME")
    headers = sorted(
        (
            name,
            (
                ", ".join(sorted(set(value.split(", "))))
                if name in ("vary", "allow")
                else re.sub("^session=[^;]*", "session", value)
                if name not in ("etag", "last-modified")
                else "of a file that was just written"
            ),
        )
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
    for host in (
        "127.0.0.1:9",
        "allowed.example.com",
        "evil.example.org",
        "allowed.example.com.evil.org",
        "ALLOWED.example.com",
        "allowed.example.com:443",
        "",
        "[::1]:5",
        "127.0.0.1:1,evil.example.org",
        "localhost",
    ):
        yield f"host {host!r}", [message("POST", p + SEARCH, body=search, host=host)]
    yield "host absent in HTTP/1.0", [message("POST", p + SEARCH, body=search, host=None, protocol="HTTP/1.0")]
    yield "host absent in HTTP/1.1", [message("POST", p + SEARCH, body=search, host=None)]
    yield "host given in HTTP/1.0", [message("POST", p + SEARCH, body=search, protocol="HTTP/1.0")]
    yield "host twice", [message("POST", p + SEARCH, "Host: evil.example.org", body=search)]
    yield "host forwarded", [message("POST", p + SEARCH, "X-Forwarded-Host: evil.example.org", body=search)]
    for origin in (ORIGIN, "https://evil.example.org", "http://localhost:3000", "null", "", "http://127.0.0.1:1"):
        for method, target, more in (
            ("POST", SEARCH, {"body": search}),
            ("GET", GET + "?experiment_name=Default", {}),
            ("GET", "/version", {}),
            ("POST", CREATE, {"body": {"name": ""}}),
        ):
            yield f"origin {origin!r} {method} {target}", [message(method, p + target, f"Origin: {origin}", **more)]
        yield f"preflight {origin!r}", [
            message(
                "OPTIONS",
                p + CREATE,
                f"Origin: {origin}",
                "Access-Control-Request-Method: POST",
                "Access-Control-Request-Headers: content-type",
            )
        ]
    yield "OPTIONS without an origin", [message("OPTIONS", p + SEARCH)]
    for method in ("HEAD", "GET", "PUT", "DELETE", "PATCH", "TRACE", "post", "BREW"):
        yield f"method {method}", [message(method, p + SEARCH)]
    yield "HEAD of a GET", [message("HEAD", p + GET + "?experiment_name=Default")]
    for target in (
        "/api/2.0/mlflow/nothing",
        "/api/2.0/mlflow/",
        "/api/2.0/mlflow",
        "/api/3.0/mlflow/nothing",
        SEARCH + "/",
        "/" + SEARCH,
        "/api/2.0//mlflow/experiments/search",
        "/api/2.0/mlflow/experiments%2Fsearch",
        "/api/2.0/mlflow/experiments/%73earch",
        "/api/2.0/mlflow/runs/%2e%2e/experiments/search",
        "/api/2.0/mlflow/runs/../experiments/search",
        "/api/2.0/mlflow/experiments/search%00",
        "/api/2.0/mlflow/experiments/search%20",
        "/api/2.0/mlflow/experiments/search;x",
        "/API/2.0/mlflow/experiments/search",
        "/api/2.0/mlflow/experiments/search%FF",
        "/ajax-api/2.0/mlflow/experiments/search",
        "/api/2.0/mlflow/experiments/search#x",
        "/graphql",
        "/version",
        "/health",
        "/",
        "/api/3.0/mlflow/server-info",
        "/api/2.0/mlflow/experiments/search%3Fmax_results=1",
    ):
        yield f"path {target}", [message("POST", p + target, body=search), message("GET", p + target)]
    for query in (
        "",
        "?",
        "?experiment_name=Default",
        "?experiment_name=",
        "?experiment_name=%C3%A4",
        "?experiment_name=%FF",
        "?experiment_name=a+b%20c",
        "?experiment_name=Default&experiment_name=x",
        "?experiment_name",
        "?experiment_name=%",
        "?experiment_name=%zz",
        "?experiment_name[]=Default",
        "?&&==&experiment_name=Default",
        "?experiment_name=" + "a" * 6000,
        "?experiment_name=Default;x=1",
        "?experiment_name=%00",
    ):
        yield f"query {query[:40]}", [message("GET", p + GET + query)]
    yield "a field of the query twice", [
        message("GET", p + "/api/2.0/mlflow/metrics/get-history?run_id=a&run_id=b&metric_key=x")
    ]
    for body in (
        b"",
        b"{",
        b"null",
        b"[]",
        b'"x"',
        b"1",
        b"{}",
        b'{"max_results": "1"}',
        b'{"max_results": "x"}',
        b'{"max_results": 0}',
        b'{"max_results": -1}',
        b'{"unknown": 1}',
        b"\xff\xfe",
        b'{"filter": "\xc3\xa4"}',
        b'{"filter": "nonsense ="}',
        b'{"max_results": 1, "max_results": 2}',
        b'{"max_results": NaN}',
        b" " * 100,
    ):
        for kind in ("application/json", "text/plain", "application/x-www-form-urlencoded", ""):
            headers = [f"Content-Type: {kind}"] if kind else []
            yield f"body {body!r} as {kind}", [message("POST", p + SEARCH, *headers, body=body)]
    yield "body of a GET", [message("GET", p + GET + "?experiment_name=Default", json_type, body=small)]
    yield "multipart", [
        message(
            "POST",
            p + SEARCH,
            "Content-Type: multipart/form-data; boundary=x",
            body=b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--x--\r\n',
        )
    ]
    yield "charset", [
        message(
            "POST", p + SEARCH, "Content-Type: application/json; charset=utf-16", body=small.decode().encode("utf-16")
        )
    ]
    yield "chunked", [chunked("POST", p + SEARCH, json_type, body=small)]
    yield "chunked, bad JSON", [chunked("POST", p + SEARCH, json_type, body=b"{" * 100)]
    yield "compressed", [
        message("POST", p + SEARCH, json_type, "Content-Encoding: gzip", body=gzip.compress(small, mtime=0))
    ]
    yield "compressed answer wanted", [message("POST", p + SEARCH, "Accept-Encoding: gzip, br", body=search)]
    yield "many headers", [message("POST", p + SEARCH, *(f"X-Many-{n}: {n}" for n in range(150)), body=search)]
    yield "a long header", [message("POST", p + SEARCH, "X-Long: " + "a" * 30000, body=search)]
    yield "a header twice", [message("POST", p + SEARCH, "X-Twice: a", "X-Twice: b", body=search)]
    yield "a header of Latin-1", [message("POST", p + SEARCH, "X-Name: \xe4", body=search)]
    yield "a header with an underscore", [message("POST", p + SEARCH, "X_MLFLOW_WORKSPACE: nowhere", body=search)]
    yield "Expect", [message("POST", p + SEARCH, "Expect: 100-continue", body=search)]
    yield "pipelined", [
        message("POST", p + CREATE, body={"name": "pipelined"}),
        message("GET", p + GET + "?experiment_name=pipelined"),
        message("GET", p + "/version"),
        message("POST", p + SEARCH, body={"max_results": 2}),
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
    yield "runs by nonsense", [
        message("POST", p + "/api/2.0/mlflow/runs/search", body={"experiment_ids": ["0"], "filter": "x"})
    ]
    yield "a batch for no run", [
        message("POST", p + BATCH, body={"run_id": "nothing", "params": [{"key": "a", "value": "b"}]})
    ]
    yield "a model", [
        message("POST", p + "/api/2.0/mlflow/registered-models/create", body={"name": "m"}),
        message("GET", p + "/api/2.0/mlflow/registered-models/get?name=m"),
        message("PATCH", p + "/api/2.0/mlflow/registered-models/update", body={"name": "m", "description": "d"}),
        message("DELETE", p + "/api/2.0/mlflow/registered-models/delete", body={"name": "m"}),
        message("DELETE", p + "/api/2.0/mlflow/registered-models/delete", body={"name": "m"}),
    ]
    yield "too long", [message("POST", p + CREATE, body={"name": "x" * 600})]
    yield "workspace header", [
        message("POST", p + SEARCH, "X-MLFLOW-WORKSPACE: default", body=search),
        message("POST", p + SEARCH, "X-MLFLOW-WORKSPACE: team", body=search),
        message("POST", p + SEARCH, "X-MLFLOW-WORKSPACE: nowhere", body=search),
        message("POST", p + SEARCH, "X-MLFLOW-WORKSPACE: Not/Valid", body=search),
        message("POST", p + SEARCH, "X-MLFLOW-WORKSPACE:  ", body=search),
        message("POST", p + SEARCH, "X-MLFLOW-WORKSPACE: a", "X-MLFLOW-WORKSPACE: team", body=search),
    ]
    for forwarded in (
        ("X-Forwarded-Proto: https",),
        ("X-Forwarded-For: 10.1.2.3, 10.9.9.9",),
        ("X-Forwarded-Proto: nonsense",),
        ("X-Forwarded-Proto: https", "X-Forwarded-For: 10.1.2.3"),
        ("Forwarded: for=10.1.2.3;proto=https",),
        ("X-Forwarded-Prefix: /x",),
        ("X-Script-Name: /x",),
    ):
        yield f"forwarded {forwarded}", [message("POST", p + SEARCH, *forwarded, body=search)]
    yield "HTTP/2 wanted", [
        message("POST", p + SEARCH, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", body=search)
    ]


def differences(with_hooks, without, prefix="", headers=(), only=None):
    """Cases that two servers answer otherwise: name, what, and both values."""
    found = []
    more = "".join(f"{header}\r\n" for header in headers).encode()
    for name, requests_ in only or cases(prefix):
        asked = [each.replace(b"\r\n", b"\r\n" + more, 1) for each in requests_]
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            others = pool.submit(send, without, *asked)
            answers = send(with_hooks, *asked)
        for number, (one, other) in enumerate(zip(answers, others.result(), strict=True)):
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


ALL = "nodelay,access_log,batch,ping,autocommit,messages,log_metrics,create_run,reads,direct,preload,transfers"


@pytest.fixture(scope="module")
def pair(version, bucket, tmp_path_factory):
    """Servers without logins, with all hooks and with none, below a path where the version may be, on S3."""
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
                **{**bucket, "MLFLOW_ARTIFACTS_DESTINATION": f"s3://mlflow/{folder.name}"},
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
    # What the checks of hosts and workspaces refuse (403, 5xx) comes to Flask, which counts, only on the direct way.
    mine, own = ({name: n for name, n in counted(each).items() if not re.search('"(403|5..)"', name)} for each in pair)
    assert mine == own and len(mine) > 5


def test_large_bodies(pair):
    body = {"run_id": "nothing", "params": [{"key": "a" * (20 << 20), "value": "b"}]}
    answers = [
        normal(server, send(server, message("POST", prefix_of(server) + BATCH, body=body))[0]) for server in pair
    ]
    assert answers[0] == answers[1] and answers[0]["status"] == 400


MIB = 1 << 20


def artifact_cases(prefix=""):
    """Cases of artifacts; what an answer says of a file depends on those before it."""
    artifacts = prefix + ARTIFACTS

    def there_and_back(name, content, *headers):
        yield message("PUT", f"{artifacts}/{name}", *headers, body=content)
        yield message("GET", f"{artifacts}/{name}")

    yield "a folder", there_and_back("1/folder/file", b"content")
    targets = ("", "/", "//", "/1", "/1/folder", "/1/folder/", "/nothing", "/1/nothing/x", "/1/folder/file/x")
    for target in targets:
        for method in ("GET", "HEAD", "PUT", "POST", "DELETE"):
            if method != "DELETE" or "x" in target or "nothing" in target:
                yield f"{method} {target}", [message(method, artifacts + target, body=b"x" * (method == "PUT"))]
    for name in (
        "text.txt",
        "data.json",
        "page.html",
        "image.png",
        "packed.csv.gz",
        "MLmodel",
        "no-extension",
        ".hidden",
        "UPPER.TXT",
        "many.dots.in.it",
        "with%20space",
        "plus+sign",
        "%C3%A4%E2%82%AC%F0%9F%98%80.txt",
        "a%25b",
        "a%2Fb",
        "a%5Cb",
        "semi;colon",
        "colon:in:it",
        "quote%22and%27",
        "line%0Abreak",
        "nul%00",
        "wrong%FF",
        "question%3Fmark",
        "hash%23",
        "query?b=c",
        "fragment#b",
        "..",
        "../outside",
        "a/../b",
        "%2e%2e/outside",
        "%252e%252e/outside",
        "./here",
        "a//b",
        "/etc/passwd",
        "folder/",
        "~",
        "C:/x",
        "file:///etc/passwd",
        "s3://mlflow/x",
        "x" * 250,
        "x" * 300,
        "deep/" * 60 + "file",
        "workspaces/team/1/x",
    ):
        yield f"name {name[:40]}", there_and_back(f"1/names/{name}", name.encode())
    yield "again", there_and_back("1/again.txt", b"first")
    yield "over it", there_and_back("1/again.txt", b"second, and longer")
    yield "HEAD", [message("HEAD", f"{artifacts}/1/again.txt")]
    for value in ("bytes=0-2", "bytes=3-", "bytes=-2", "bytes=5-1", "bytes=100-", "bytes=0-1,3-4", "nonsense"):
        yield f"range {value}", [message("GET", f"{artifacts}/1/again.txt", f"Range: {value}")]
    for header in ("If-None-Match: *", "If-Modified-Since: Sun, 01 Jan 2040 00:00:00 GMT", "Accept-Encoding: gzip"):
        yield header, [message("GET", f"{artifacts}/1/again.txt", header)]
    for header in ("Content-Type: text/html", "Content-Encoding: gzip", "Expect: 100-continue", "Content-MD5: wrong"):
        yield header, there_and_back("1/with-header.txt", b"content", header)
    yield "small chunks", [
        chunked("PUT", f"{artifacts}/1/chunked.bin", body=bytes(range(256)) * 500, size=1000),
        message("GET", f"{artifacts}/1/chunked.bin"),
    ]
    yield "large chunks", [
        chunked("PUT", f"{artifacts}/1/chunked.bin", body=bytes(range(256)) * 16000, size=MIB + 3),
        message("GET", f"{artifacts}/1/chunked.bin"),
    ]
    yield "an empty body in chunks", [
        chunked("PUT", f"{artifacts}/1/chunked.bin"),
        message("GET", f"{artifacts}/1/chunked.bin"),
    ]
    yield "another host", [message("PUT", f"{artifacts}/1/evil", body=b"x", host="evil.example.org")]
    for origin in (ORIGIN, "https://evil.example.org"):
        for method in ("PUT", "GET"):
            asked = message(method, f"{artifacts}/1/origin", f"Origin: {origin}", body=b"x" * (method == "PUT"))
            yield f"{method} by {origin}", [asked]
    for value in ("", " ", "default", "team"):
        yield f"in workspace {value!r}", [
            message(method, f"{artifacts}/1/workspace", f"X-MLFLOW-WORKSPACE: {value}", body=b"x" * (method == "PUT"))
            for method in ("PUT", "GET")
        ]
    yield "the UI's path", [
        message("PUT", f"{prefix}/ajax-api/2.0/mlflow-artifacts/artifacts/1/ui.txt", body=b"ui"),
        message("GET", f"{prefix}/ajax-api/2.0/mlflow-artifacts/artifacts/1/ui.txt"),
    ]
    for size in (0, 1, MIB, MIB + 1, 4 * MIB, 4 * MIB + 1, 8 * MIB - 1, 8 * MIB):
        yield f"{size} bytes", there_and_back(f"1/sizes/{size}.bin", random.Random(size).randbytes(size))
    for path in ("", "1", "1/", "1/sizes", "1/names", "1/again.txt", "nothing", "../x", "%2e%2e"):
        yield f"list {path}", [message("GET", f"{artifacts}?path={path}")]
    yield "delete", [
        message("DELETE", f"{artifacts}/1/again.txt"),
        message("GET", f"{artifacts}/1/again.txt"),
        message("DELETE", f"{artifacts}/1/again.txt"),
        message("DELETE", f"{artifacts}/1/sizes"),
        message("GET", f"{artifacts}/1/sizes/1.bin"),
    ]


def kept(bucket, server):
    """What the store has of a server: type, encoding and checksum of each object, by its name."""
    client = boto3.client(
        "s3",
        endpoint_url=bucket["MLFLOW_S3_ENDPOINT_URL"],
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
    )
    found, prefix = {}, server.folder.name + "/"
    for page in client.get_paginator("list_objects_v2").paginate(Bucket="mlflow", Prefix=prefix):
        for each in page.get("Contents", ()):
            head = client.head_object(Bucket="mlflow", Key=each["Key"], ChecksumMode="ENABLED")
            told = [head.get(name) for name in ("ContentType", "ContentEncoding", "ChecksumCRC32", "Metadata")]
            found[each["Key"].removeprefix(prefix)] = [each["Size"], *told]
    return found


def test_artifacts_are_transferred_as_mlflow_does(pair, bucket):
    """Sizes around those from which MLflow's own way is taken, names, methods, headers, ranges, lists, removals."""
    assert pair[0].report["behaviours"]["transfers"] == "" and "transfers" not in pair[1].report["behaviours"]
    cases_ = [(name, list(requests_)) for name, requests_ in artifact_cases(prefix_of(pair[0]))]
    assert not differences(*pair, only=cases_[:-1])
    mine, own = (kept(bucket, server) for server in pair)
    assert mine == own and len(mine) > 40
    assert not differences(*pair, only=cases_[-1:])
    assert kept(bucket, pair[0]).keys() == kept(bucket, pair[1]).keys() < mine.keys()


def test_a_file_with_the_name_of_a_folder(pair):
    """The one answer that differs: MLflow's breaks off, or is an error."""
    bodies = []
    for server in pair:
        artifacts = f"{prefix_of(server)}{ARTIFACTS}/2"
        for name in ("both", "both/file"):
            assert send(server, message("PUT", f"{artifacts}/{name}", body=name.encode()))[0].status == 200
        bodies.append(send(server, message("GET", f"{artifacts}/both"))[0].body)
    assert bodies[0] == b"both" != bodies[1]


def test_half_an_upload_is_no_artifact(pair, bucket):
    before = kept(bucket, pair[0]).keys()
    asked = message("PUT", f"{prefix_of(pair[0])}{ARTIFACTS}/1/half.bin", body=bytes(3 * MIB))
    for sent in (len(asked) // 2, len(asked) - 1):
        with connect(pair[0]) as connection:
            connection.sendall(asked[:sent])
            time.sleep(0.2)
    time.sleep(0.3)
    assert kept(bucket, pair[0]).keys() == before


TRANSFERS = """
import asyncio, json, os, sys, tempfile, threading
import hook_transfers
from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository
assert hook_transfers.s3() == ""

class Other(S3ArtifactRepository):
    pass

repository = S3ArtifactRepository("s3://mlflow/counted")
asked, found = [], {}
events = repository._get_s3_client().meta.events
events.register("before-call.s3", lambda model, **_more: asked.append((model.name, threading.current_thread().name)))

def steps(name, function):
    asked.clear()
    function()
    threads = {thread for _operation, thread in asked} - {"MainThread"}
    found[name] = [[operation for operation, _thread in asked], len(threads)]

for name, size in (("small", 1 << 20), ("large", 9 << 20)):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, name)
        open(path, "wb").write(os.urandom(size))
        steps(f"up {name}", lambda: repository.log_artifact(path, "a"))
        for kind, each in (("down", repository), ("other's", Other("s3://mlflow/counted"))):
            with tempfile.TemporaryDirectory() as to:
                steps(f"{kind} {name}", lambda: each.download_artifacts(f"a/{name}", to))
                assert open(os.path.join(to, "a", name), "rb").read() == open(path, "rb").read()

def read(*messages):
    async def receive():
        return messages_.pop(0)
    async def all_():
        gather = hook_transfers.Gathered(receive)
        while len(got) < 20:
            got.append(await gather())
            if not got[-1].get("more_body"):
                return
    messages_, got = list(messages), []
    asyncio.run(all_())
    return [[each["type"], len(each.get("body", b"")), each.get("more_body")] for each in got]

def piece(size, more=True):
    return {"type": "http.request", "body": bytes(size), "more_body": more}

async def cancelled():
    queue = asyncio.Queue()
    gather = hook_transfers.Gathered(queue.get)
    for message in (piece(7), piece(7)):
        queue.put_nowait(message)
    task = asyncio.ensure_future(gather())
    for _step in range(9):
        await asyncio.sleep(0)
    task.cancel()
    queue.put_nowait(piece(5, False))
    return len((await gather())["body"])

left = {"type": "http.disconnect"}
found["cancelled"] = asyncio.run(cancelled())
found["pieces"] = [
    read(*[piece(1000)] * 100, piece(5, False)), read(*[piece(300 << 10)] * 8, piece(0, False)), read(left),
    read(piece(10), piece(20), left), read({"type": "http.request"}), read(piece(3 << 20), piece(1), left)]
json.dump(found, sys.stdout)
"""


def test_steps_of_transfers(version, bucket, tmp_path):
    """Requests to the store, threads that make them, and what the application gets of a body."""
    done = subprocess.run(
        [servers.binaries(version) / "python", "-c", TRANSFERS],
        env=servers.environment(version, tmp_path, **bucket),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert not done.returncode, done.stderr
    found = json.loads(done.stdout)
    own = ["ListObjectsV2", "HeadObject", "GetObject"]
    assert found["up small"] == [["PutObject"], 0] and found["up large"][1] > 0
    assert found["down small"] == [["GetObject"], 0] and found["down large"][0][:4] == ["GetObject", *own]
    assert found["other's small"][0] == own
    assert found["cancelled"] == 19
    request, disconnect = "http.request", ["http.disconnect", 0, None]
    assert found["pieces"] == [
        [[request, 100005, False]],
        [[request, 4 * (300 << 10), True], [request, 4 * (300 << 10), True], [request, 0, False]],
        [disconnect],
        [[request, 30, True], disconnect],
        [[request, 0, None]],
        [[request, 3 << 20, True], [request, 1, True], disconnect],
    ]


PASSED_BY = """
import asyncio, json, os, sys
import hook_transfers
from mlflow.server.fastapi_app import app
from starlette.middleware import base

ran = []
class Counted(base._CachedRequest):  # one for each middleware that is not passed by
    def __init__(self, *arguments):
        ran.append(1)
        super().__init__(*arguments)
base._CachedRequest = Counted

async def ask(path, *headers):
    ran.clear()
    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "path": path,
             "raw_path": path.encode(), "query_string": b"", "root_path": "", "scheme": "http", "state": {},
             "headers": [(b"host", b"localhost:1"), *headers], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 1)}
    body, status = [{"type": "http.request", "body": b"", "more_body": False}], []
    async def receive():
        return body.pop() if body else await asyncio.Event().wait()
    async def send(message):
        status.append(message.get("status"))
    await app(scope, receive, send)
    return [status[0], len(ran)]

async def main():
    path = "/api/2.0/mlflow-artifacts/artifacts/nothing"
    workspace = (b"x-mlflow-workspace", b"team")
    found = {"artifact": await ask(path), "named": await ask(path, workspace), "other": await ask("/version"),
             "gateway": await ask("/gateway/" + path), "below": await ask("/x" + path)}
    os.environ["MLFLOW_ENABLE_WORKSPACES"] = "true"
    found["workspaces"] = await ask(path)
    json.dump(found, sys.stdout)

asyncio.run(main())
"""


def test_middlewares_that_do_nothing_are_passed_by(version, tmp_path):
    """Others, and other requests, meet all of them."""
    done = subprocess.run(
        [servers.binaries(version) / "python", "-c", PASSED_BY], text=True, timeout=90, check=False,
        capture_output=True,
        env={**servers.environment(version, tmp_path), "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{tmp_path}/mlflow.db"})
    assert not done.returncode, done.stderr[-3000:]
    found = {name: ran for name, (_status, ran) in json.loads(done.stdout).items()}
    all_, workspaces = (2, 1) if servers.number(version) >= (3, 12) else (1, 1)
    assert found == {"artifact": 0, "named": workspaces, "other": all_, "gateway": all_, "below": all_,
                     "workspaces": workspaces}


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
import hook_serving
from mlflow.server import app as flask_app
from mlflow.server.fastapi_app import app, create_fastapi_app
from starlette.routing import Match

def resolved(app, path, method):
    for route in app.routes:
        scope = {"type": "http", "path": path, "root_path": "", "method": method, "headers": []}
        if route.matches(scope)[0] != Match.NONE:
            return route is app.routes[-1]

plain = hook_serving.Direct(app)
wrong = [path for path, methods in plain.methods.items() for method in methods if not resolved(app, path, method)]
rules = {rule.rule for rule in flask_app.url_map.iter_rules() if not rule.arguments}
rules = {rule for rule in rules if rule.startswith(hook_serving.APIS)}
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
json.dump({"paths": len(plain.methods), "wrong": wrong, "unresolved": unresolved,
           "reasons": [plain.reason, other.reason, blocked.reason, hook_serving.Direct(built).reason],
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
    assert found["reasons"][:2] == ["", ""] and "the middleware guard" in found["reasons"][2] and found["reasons"][3]


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
        "a header with an underscore": (
            "X_Auth_Request_Email: boss@example.com",
            "X_Proxy_Secret: " + PROXY["AUTH_PROXY_SECRET"],
        ),
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
            (
                "renames another's",
                message(
                    "POST", "/api/2.0/mlflow/experiments/update", body={"experiment_id": "1", "new_name": f"of {name}"}
                ),
            ),
            ("deletes another's", message("POST", "/api/2.0/mlflow/experiments/delete", body={"experiment_id": "1"})),
            ("runs in another's", message("POST", RUN, body={"experiment_id": "1", "run_name": "r", "start_time": 1})),
            ("reads itself", message("GET", f"{USERS}/get?username=ana")),
            ("reads the administrator", message("GET", f"{USERS}/get?username={servers.CHIEF[0]}")),
            ("lists users", message("GET", f"{USERS}/list")),
            ("asks who it is", message("GET", f"{USERS}/current")),
            (
                "creates a user",
                message("POST", f"{USERS}/create", body={"username": f"by {name}", "password": "right-password"}),
            ),
            (
                "makes itself administrator",
                message("PATCH", f"{USERS}/update-admin", body={"username": "ana", "is_admin": False}),
            ),
            (
                "sees a permission",
                message("GET", "/api/2.0/mlflow/experiments/permissions/get?experiment_id=1&username=ana"),
            ),
            (
                "gives a permission",
                message(
                    "POST",
                    "/api/2.0/mlflow/experiments/permissions/create",
                    body={"experiment_id": "1", "username": f"by {name}", "permission": "READ"},
                ),
            ),
            ("sees the page to sign up", message("GET", "/signup")),
            ("another site writes", message("POST", CREATE, "Origin: https://evil.example.org", body={"name": "evil"})),
            ("by another host", message("POST", SEARCH, body={"max_results": 1}, host="evil.example.org")),
            ("in a workspace", message("POST", SEARCH, "X-MLFLOW-WORKSPACE: team", body={"max_results": 100})),
            ("in no workspace", message("POST", SEARCH, "X-MLFLOW-WORKSPACE: nowhere", body={"max_results": 1})),
            (
                "in a broken workspace",
                message("POST", SEARCH, "X-MLFLOW-WORKSPACE: Not/Valid", body={"max_results": 1}),
            ),
            (
                "creates in a workspace",
                message("POST", CREATE, "X-MLFLOW-WORKSPACE: team", body={"name": f"of {name}"}),
            ),
            ("a wrong body", message("POST", CREATE, "Content-Type: application/json", body=b"{")),
            ("uploads to another's", message("PUT", f"{ARTIFACTS}/1/run/artifacts/file", body=b"x" * 100000)),
            ("downloads from another's", message("GET", f"{ARTIFACTS}/1/run/artifacts/file")),
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
        made = server.ask(
            "POST", CREATE, json={"name": f"in {name}"}, auth=servers.CHIEF, headers={"X-MLFLOW-WORKSPACE": name}
        )
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
            assert {each["name"] for each in answer.json()["experiments"]} <= {
                "Default",
                f"in {workspace}",
            }, answer.text
            assert f"in {workspace}" in answer.text
            seen += 1
        return seen

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert min(pool.map(client, range(16))) > 0


class Counting:
    """Between a server and PostgreSQL: counts the statements that the server sends, each a message of its own."""

    def __init__(self, host, port):
        self.upstream, self.count = (host, port), 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _address = self.listener.accept()
                server = socket.create_connection(self.upstream)
                threading.Thread(target=self.pump, args=(client, server, self.seen()), daemon=True).start()
                threading.Thread(target=self.pump, args=(server, client, None), daemon=True).start()

    def seen(self):
        """Takes what the server sends, piece by piece; the first message has no type."""
        held, typed = b"", False
        while True:
            held += yield
            while len(held) >= 4 + typed:
                length = struct.unpack("!I", held[typed : typed + 4])[0] + typed
                if len(held) < length:
                    break
                self.count += typed and held[:1] == b"Q"
                held, typed = held[length:], True

    @staticmethod
    def pump(source, target, seen):
        if seen:
            next(seen)
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if seen:
                    seen.send(data)
                target.sendall(data)
        for each in (source, target):  # wakes the other direction; closing alone would not
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def stored(postgresql, newest, tmp_path_factory):
    """Servers of two workers on PostgreSQL, with all hooks and with none, and the connections to their databases."""
    starts, counters = [], []
    for name, disabled in (("hooked", ""), ("plain", ALL)):
        folder = tmp_path_factory.mktemp(name)
        url = "postgresql://{user}:{password}@{host}:{port}/".format(**postgresql)
        with psycopg.connect(url + "postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        counters.append(Counting(postgresql["host"], postgresql["port"]))
        # psycopg2's sslmode: the messages are to be counted.
        store = f"postgresql+psycopg2://mlflow:right@127.0.0.1:{counters[-1].port}/{name}?sslmode=disable"
        # The fixture's PostgreSQL has few connections.
        variables = {
            "MLFLOW_BACKEND_STORE_URI": store,
            "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": "2",
            "MLOPS_MLFLOW_THREADS": "2",
        }
        servers.prepare(newest, folder, "database", "migrate", **variables)
        starts.append(
            servers.mlflow(
                newest,
                folder,
                f"--expose-prometheus={folder}/metrics",
                workers=2,
                MLOPS_MLFLOW_DISABLED_HOOKS=disabled,
                **variables,
            )
        )
    with together(*starts) as pair:
        for server, counter, name in zip(pair, counters, ("hooked", "plain"), strict=True):
            server.counter, server.database = counter, f"{url}{name}"
        yield pair


def new_run(server, **more):
    made = server.ask("POST", RUN, json={"experiment_id": "0", "start_time": 1, **more})
    assert made.status_code == 200, made.text
    return made.json()["run"]["info"]


def logged(server, run, metrics=(), params=(), tags=()):
    """The answer to log-batch, and the statements that it took."""
    server.ask("GET", GET + "?experiment_name=Default")
    before = server.counter.count
    body = {"run_id": run, "metrics": list(metrics), "params": list(params), "tags": list(tags)}
    answer = server.ask("POST", BATCH, json=body)
    return answer, server.counter.count - before


def test_batched_statements(stored):
    """The same values and sentences as without, and fewer messages to PostgreSQL."""
    results, statements = [], []
    for server in stored:
        run = new_run(server, run_name="batched")["run_id"]
        for _again in range(2):  # connections of the pools are open then
            logged(server, run, tags=[{"key": "warm", "value": "1"}])
        counts, texts = [], []
        for step in (1, 2, 1):
            metrics = [{"key": f"m{n}", "value": n + step / 8, "timestamp": step, "step": step} for n in range(200)]
            answer, count = logged(server, run, metrics)
            assert answer.status_code == 200, answer.text
            counts.append(count)
        params = [{"key": f"p{n}", "value": f"{n}"} for n in range(100)]
        texts.append(logged(server, run, params=params)[0])
        texts.append(logged(server, run, params=params)[0])  # the same again is allowed
        texts.append(logged(server, run, params=[*params[:3], {"key": "p3", "value": "other"}])[0])
        texts.append(logged(server, run, tags=[{"key": f"t{n}", "value": f"{n}"} for n in range(50)])[0])
        texts.append(logged(server, run, tags=[{"key": f"t{n}", "value": f"{n + 1}"} for n in range(50)])[0])
        texts.append(logged(server, "0" * 32, params=params)[0])
        got = server.ask("GET", f"/api/2.0/mlflow/runs/get?run_id={run}").json()["run"]["data"]
        history = server.ask("GET", f"/api/2.0/mlflow/metrics/get-history?run_id={run}&metric_key=m7").json()
        results.append(
            (
                [(text.status_code, text.text.replace(run, "RUN")) for text in texts],
                {
                    kind: sorted((each["key"], each["value"]) for each in got[kind])
                    for kind in ("metrics", "params", "tags")
                },
                sorted(map(str, history["metrics"])),
            )
        )
        statements.append(counts)
    assert results[0] == results[1]
    values = dict(results[0][1]["metrics"])
    assert len(values) == 200 and values["m7"] == 7.25 and len(results[0][1]["params"]) == 100
    # The second time each of 200 rows of latest_metrics is updated.
    assert statements[1][1] > 200 > 60 > statements[0][1], statements


def pids(parent):
    """Workers of a server's process: its children that serve."""
    found = map(int, pathlib.Path(f"/proc/{parent}/task/{parent}/children").read_text().split())
    return [pid for pid in found if b"resource_tracker" not in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()]


def tree(parent):
    """All processes below one, itself included."""
    found = [parent]
    for pid in found:
        with contextlib.suppress(OSError):
            found += map(int, pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return found


def peers(pid):
    """Ports that a process is connected to."""
    inodes = {os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")}
    lines = [line.split() for line in pathlib.Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return {int(line[2].split(":")[1], 16) for line in lines if f"socket:[{line[9]}]" in inodes and line[3] == "01"}


def wait_for(condition, seconds):
    ends = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > ends:
            return False
        time.sleep(0.05)
    return True


def test_slow_requests_hold_up_no_others(stored):
    """A lock holds all threads of the direct way in both workers, and more requests wait for one."""
    server = stored[0]
    with concurrent.futures.ThreadPoolExecutor(20) as pool, psycopg.connect(server.database) as connection:
        connection.execute("LOCK TABLE experiments IN ACCESS EXCLUSIVE MODE")
        slow = [pool.submit(server.ask, "POST", SEARCH, json={"max_results": 1}) for _number in range(8)]
        time.sleep(0.5)
        begun = time.monotonic()
        for _number in range(10):
            assert server.ask("GET", "/health").status_code == 200
        assert time.monotonic() - begun < 1
        for _number in range(6):  # of another table
            begun = time.monotonic()
            answer = server.ask("GET", "/api/2.0/mlflow/registered-models/search?max_results=1")
            assert answer.status_code == 200 and time.monotonic() - begun < 2.5
        assert not any(task.done() for task in slow)
        connection.rollback()
        assert {task.result().status_code for task in slow} == {200}


def test_workers_are_forked(stored):
    server, plain = stored
    assert server.report["behaviours"]["preload"] == ""
    workers = pids(server.pid)
    assert len(workers) == 2 and len(tree(server.pid)) == 3 < len(tree(plain.pid))
    command = pathlib.Path(f"/proc/{server.pid}/cmdline").read_bytes()
    assert all(pathlib.Path(f"/proc/{pid}/cmdline").read_bytes() == command for pid in workers)
    assert len(os.listdir(f"/proc/{server.pid}/task")) == 1
    new_run(server)
    assert server.counter.port not in peers(server.pid)
    assert any(server.counter.port in peers(pid) for pid in workers)


def test_workers_are_not_alike(stored):
    made = [new_run(stored[0]) for _number in range(60)]
    assert len({each["run_id"] for each in made}) == 60
    names = [each["run_name"] for each in made]
    # Two workers with one state of the generator would give most names twice.
    assert len(set(names)) > 55, names


def test_the_log_says_the_same(stored):
    """What is refused is logged once, whoever loaded MLflow."""
    found = []
    for server in stored:
        before = len(server.log)
        assert server.ask("POST", SEARCH, json={}, headers={"Host": "evil.example.org"}).status_code == 403
        assert server.ask("GET", "/api/2.0/mlflow/runs/get?run_id=nothing").status_code == 404
        time.sleep(0.3)
        lines = server.log[before:].splitlines()
        found.append([re.sub(r"127\.0\.0\.1:\d+|^[0-9/: ]+", "", line).rpartition("WARNING")[2] for line in lines])
    assert [len(lines) for lines in found] == [3, 3] or found[0] == found[1], found


def test_metrics_are_summed_over_workers(stored):
    server = stored[0]
    before = sum(counted(server).values())
    for _number in range(40):
        assert server.ask("GET", GET + "?experiment_name=Default").status_code == 200
    assert sum(counted(server).values()) - before >= 40


def test_a_killed_worker_is_replaced(stored):
    """Within uvicorn's time: it looks each 0.5 s, and waits 5 s for a worker that ends while it is asked."""
    server = stored[0]
    for signal_ in (signal.SIGKILL, signal.SIGQUIT, signal.SIGSEGV):
        before = pids(server.pid)
        os.kill(before[0], signal_)
        begun = time.monotonic()
        assert wait_for(lambda: len(set(pids(server.pid)) - set(before)) == 1, 15), (signal_, server.log[-2000:])
        new = (set(pids(server.pid)) - set(before)).pop()
        assert wait_for(lambda: f"[{new}]" in server.log or time.monotonic() - begun > 1, 2)
        assert {new_run(server)["status"] for _number in range(10)} == {"RUNNING"}


def test_sighup_replaces_the_workers(stored):
    server = stored[0]
    before = pids(server.pid)
    os.kill(server.pid, signal.SIGHUP)
    assert wait_for(lambda: len(pids(server.pid)) == 2 and not set(before) & set(pids(server.pid)), 20)
    assert server.ask("GET", "/health").status_code == 200 and new_run(server)


def searched(server, session):
    """The statements that one search took, on a connection that stays open, so that one worker answers."""
    before = server.counter.count
    answer = session.post(server.url + SEARCH, json={"max_results": 1}, timeout=60)
    assert answer.status_code == 200, answer.text
    return server.counter.count - before


def test_connections_are_tested_by_a_query_after_a_rest_only(stored):
    found = []
    for server in stored:
        with requests.Session() as session:
            for _again in range(6):  # each connection of the pool has been in use then
                searched(server, session)
            soon = min(searched(server, session) for _again in range(6))
            time.sleep(1.2)
            found.append((soon, searched(server, session)))
    (soon, rested), (plain, plain_rested) = found
    assert plain == plain_rested and rested == soon + 1
    assert soon == 2 and plain > 4  # experiments and tags, without BEGIN and COMMIT


def test_messages_of_a_run(stored):
    """How many messages the database gets of a search, a new run, four batches of metrics, and two looks at the run."""
    found = []
    for server in stored:
        with requests.Session() as session:  # one connection, so that one worker answers

            def ask(method, path, session=session, server=server, **options):
                answer = session.request(method, server.url + path, timeout=60, **options)
                assert answer.status_code == 200, answer.text
                return answer.json()

            counts = []
            for _again in range(8):  # each connection of the pool has been in use then
                before = server.counter.count
                ask("POST", SEARCH, json={"max_results": 100})
                run = ask("POST", RUN, json={"experiment_id": "0", "start_time": 1})["run"]["info"]["run_id"]
                for step in range(4):
                    metrics = [{"key": f"m{n}", "value": 1.5, "timestamp": 1, "step": step} for n in range(20)]
                    ask("POST", BATCH, json={"run_id": run, "metrics": metrics})
                for _look in range(2):
                    ask("GET", f"/api/2.0/mlflow/runs/get?run_id={run}")
                counts.append(server.counter.count - before)
            found.append(min(counts))
    assert found[0] == 10 and found[1] > 100, found


def test_connections_that_have_ended_are_replaced(stored):
    """In the moment after their last use; every answer is there."""
    for server in stored:
        for _again in range(5):
            new_run(server)
            with psycopg.connect(server.database) as connection:
                ended = connection.execute(
                    # When it returns, the server has closed them.
                    "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()").fetchone()[0]
            assert ended
            for _each in range(4):
                new_run(server)


def test_rows_that_are_deleted_meanwhile(stored):
    """By gc or another client, after a request has read them: the result is as if they were deleted right after it.

    Rows of latest metrics are locked before they are changed. Those of tags are not: MLflow alone answers with an error
    where it changes several and one is no longer there; with `batch`, the answer is that of a deletion right after.
    """
    answers = []
    for server in stored:
        run = new_run(server)["run_id"]
        tags = [{"key": f"t{n}", "value": "1"} for n in range(3)]
        metrics = [{"key": f"m{n}", "value": 1, "timestamp": 1, "step": 1} for n in range(3)]
        assert logged(server, run, metrics, tags=tags)[0].status_code == 200
        changed = []
        for table, change in (("latest_metrics", {"metrics": [{**each, "step": 2} for each in metrics]}),
                              ("tags", {"tags": [{**each, "value": "2"} for each in tags]})):
            with (
                psycopg.connect(server.database) as other,
                concurrent.futures.ThreadPoolExecutor(1) as pool,
                psycopg.connect(server.database, autocommit=True) as watcher,
            ):
                other.execute(f"DELETE FROM {table} WHERE run_uuid = %s AND key IN ('m1', 't1')", [run])
                answer = pool.submit(server.ask, "POST", BATCH, json={"run_id": run, **change})
                waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = %s"
                assert wait_for(lambda: watcher.execute(waiting, [other.info.dbname]).fetchone()[0], 20)
                other.commit()
                changed.append(answer.result().status_code)
        data = server.ask("GET", f"/api/2.0/mlflow/runs/get?run_id={run}").json()["run"]["data"]
        kept = {each["key"]: each["value"] for each in data["tags"] if each["key"].startswith("t")}
        answers.append((changed, sorted((each["key"], each["step"]) for each in data["metrics"]), kept))
    hooked, plain = answers
    assert hooked[:2] == ([200, 200], [("m0", 2), ("m1", 2), ("m2", 2)]) and hooked[2] == {"t0": "2", "t2": "2"}
    assert plain[1] == hooked[1] and plain[0][0] == 200
    assert plain[0][1] >= 400 and plain[2] == {"t0": "1", "t2": "1"}


RUNS = int(os.environ.get("MLOPS_RUNS") or 100)
"""Logged while workers end; `MLOPS_RUNS=1000 pytest tests/versions/test_serving.py -k no_run_is_lost` counts more."""


# Without hooks only by hand: each new worker loads MLflow anew, and the test is of MLflow then.
@pytest.mark.parametrize("hooks", ["with hooks", *(["without"] if "MLOPS_RUNS" in os.environ else [])])
def test_no_run_is_lost_when_workers_are_killed_and_replaced(stored, hooks):
    """Clients repeat a request without an answer or with an error of the server, as MLflow's do."""
    server, done, errors = stored[hooks == "without"], [], []

    def ask(session, path, body):
        for _again in range(60):
            # A worker may also be killed between the head of an answer and its body.
            with contextlib.suppress(requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
                answer = session.post(server.url + path, json=body, timeout=30)
                if answer.status_code < 500:
                    assert answer.status_code == 200, answer.text
                    return answer.json()
                errors.append(answer.text)
            time.sleep(0.5)
        raise AssertionError(f"no answer to {path} for 30 s")

    def client(_number):
        session = requests.Session()
        while len(done) < RUNS:
            run = ask(session, RUN, {"experiment_id": "0", "start_time": 1})["run"]["info"]["run_id"]
            metrics = [{"key": f"m{n}", "value": n, "timestamp": 1, "step": 1} for n in range(5)]
            ask(session, BATCH, {"run_id": run, "metrics": metrics})
            ask(session, UPDATE, {"run_id": run, "status": "FINISHED", "end_time": 2})
            done.append(run)

    killed = replaced = 0
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        tasks = [pool.submit(client, number) for number in range(8)]
        while not all(task.done() for task in tasks):
            if killed <= replaced:
                for pid in pids(server.pid)[:1]:
                    os.kill(pid, signal.SIGKILL)
                killed += 1
            else:
                os.kill(server.pid, signal.SIGHUP)
                replaced += 1
            time.sleep(1)
        for task in tasks:
            task.result()
    with psycopg.connect(server.database) as connection:
        kept = connection.execute(
            "SELECT count(*), sum(metrics) FROM (SELECT run_uuid, count(*) AS metrics FROM runs JOIN latest_metrics "
            "USING (run_uuid) WHERE run_uuid = ANY(%s) AND status = 'FINISHED' GROUP BY run_uuid) AS kept",
            [done],
        ).fetchone()
    print(f"{len(done)} runs through {killed} kills and {replaced} replacements; {len(errors)} errors", *errors[:3])
    assert kept == (len(done), 5 * len(done)) and len(set(done)) >= RUNS and killed and replaced


def launch(version, folder, *options, workers=2, **variables):
    """The process of a server, of which nobody waits for anything."""
    port = servers.unit.free_port()
    command = [
        servers.binaries(version) / "mlflow",
        "server",
        "--host=127.0.0.1",
        f"--port={port}",
        f"--workers={workers}",
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, *options],
            env=servers.environment(version, folder, **variables),
            cwd=folder,
            stdout=log,
            stderr=log,
        )
    return process, port


def alive(pids_):
    """Those of some processes that still run."""
    return [pid for pid in pids_ if pathlib.Path(f"/proc/{pid}").exists() and "Z" not in state(pid)]


def state(pid):
    with contextlib.suppress(OSError):
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return "Z"


@pytest.mark.parametrize("after", ["start", "fork", "load"])
def test_sigterm_ends_every_process(newest, tmp_path, after):
    """While MLflow is loaded, in the moments of the forks, and under load."""
    process, port = launch(newest, tmp_path, workers=3)
    try:
        if after == "start":
            time.sleep(random.uniform(0.2, 3))
        else:
            assert wait_for(lambda: pids(process.pid), 60)
            time.sleep(random.uniform(0, 0.2))
        if after == "load":
            assert wait_for(lambda: not socket.socket().connect_ex(("127.0.0.1", port)), 60)
            pool = concurrent.futures.ThreadPoolExecutor(8)
            for _number in range(200):
                pool.submit(requests.post, f"http://127.0.0.1:{port}{SEARCH}", json={"max_results": 1}, timeout=20)
            time.sleep(0.5)
        every = tree(process.pid)
        process.terminate()
        assert wait_for(lambda: process.poll() is not None, 10)
        assert wait_for(lambda: not alive(every), 5), alive(every)
    finally:
        for pid in alive(tree(process.pid)):
            os.kill(pid, signal.SIGKILL)


def test_another_app_with_a_middleware_and_a_thread(newest, tmp_path):
    """Neither is passed by: all goes MLflow's own way, and the report says why."""
    path = plugin(tmp_path, "guarded", GUARD, "app")
    with servers.mlflow(newest, tmp_path, "--app-name=guarded", PYTHONPATH=path, workers=2) as server:
        answer = server.ask("POST", SEARCH, json={"max_results": 1})
        assert answer.status_code == 200 and answer.headers["x-guard"] == "was here"
        behaviours = server.report["behaviours"]
        assert behaviours["preload"] == "each worker loads MLflow anew: 2 threads run already"
        assert behaviours["direct"].endswith("Flask does nothing in place of the middleware Guard")
        assert server.log.count("Flask does nothing") == 1


def test_an_app_that_fails_does_not_loop_faster_than_mlflow_does(newest, tmp_path):
    """uvicorn replaces such workers for ever; each says why it failed. MLflow's own way: ten tries in six seconds."""
    path = plugin(tmp_path, "broken", BROKEN)
    process, _port = launch(newest, tmp_path, "--app-name=broken", PYTHONPATH=path)
    try:
        assert wait_for(lambda: "this app is broken" in (tmp_path / "log").read_text(), 60)
        time.sleep(6)
        assert (tmp_path / "log").read_text().count("RuntimeError: this app is broken") <= 8
    finally:
        every = tree(process.pid)
        process.terminate()
        assert wait_for(lambda: not alive(every), 15)


def round_trips(server, context, count=25):
    """Median seconds of a request to /health on connections kept open and on new ones."""
    kept, fresh = [], []
    asked = message("GET", "/health")
    for _connection in range(4):
        with contextlib.ExitStack() as stack:
            connection = stack.enter_context(connect(server))
            if context:
                connection = stack.enter_context(context.wrap_socket(connection))
            reader = stack.enter_context(connection.makefile("rb"))
            for number in range(count):
                begun = time.perf_counter()
                connection.sendall(asked)
                assert Answer(reader).status == 200
                (kept if number else []).append(time.perf_counter() - begun)
    for _number in range(count):
        begun = time.perf_counter()
        with contextlib.ExitStack() as stack:
            connection = stack.enter_context(connect(server))
            if context:
                connection = stack.enter_context(context.wrap_socket(connection))
            connection.sendall(asked)
            assert Answer(stack.enter_context(connection.makefile("rb"))).status == 200
        fresh.append(time.perf_counter() - begun)
    return statistics.median(kept), statistics.median(fresh)


def test_no_stall_on_connections_that_stay_open(stored):
    kept, fresh = round_trips(stored[0], None)
    assert kept < 3 * fresh + 0.01 and kept < 0.03, (kept, fresh)
    kept, fresh = round_trips(stored[1], None)
    assert kept > 0.035, f"without the hook there is no stall ({kept}); if uvicorn ended it, the hook is not needed"
