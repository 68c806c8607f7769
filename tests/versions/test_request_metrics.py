# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A load of known numbers is found exactly in the metrics of real servers, and in their access log without secrets."""

from __future__ import annotations

import base64
import collections
import io
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import time

import mlflow_servers as servers
import pytest
import requests

exposition = servers.load(servers.ROOT / "tests/unit/exposition.py")
NATIVE_ARTIFACTS_FROM = (3, 15)
PREFIX_FROM = (3, 16)
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
SEARCH = "/api/2.0/mlflow/experiments/search"
WRONG, QUERY, BODY, BEARER, PROOF = "not-the-pass", "in-the-query", "in-the-body", "a-bearer-token", "only-the-proxy"
SECRETS = (*servers.CHIEF[1:], WRONG, QUERY, BODY, BEARER, PROOF)
USER = ("ana", "long-enough-password")


class Load:
    """Requests to a server, and what its metrics must say of them: they begin with what it has answered before."""

    def __init__(self, server, port, auth=None):
        self.server, self.url, self.auth = server, f"http://127.0.0.1:{port}/metrics", auth
        self.before, self.expected = None, collections.Counter()

    def begin(self):
        """Forget what was asked; a question for /health from the start may still be on its way."""
        self.expected.clear()
        found = None
        while found != self.before or found is None:
            found, self.before = self.before, None
            time.sleep(0.3)
            self.scraped()
        return self

    def scraped(self):
        """Requests and bytes that the metrics have since the first scrape."""
        values = exposition.parse(requests.get(self.url, timeout=20).text)
        found = collections.Counter()
        for (name, labels), value in values.items():
            if name in ("mlflow_http_request_total", "mlflow_requests_total"):
                known = dict(labels)
                found[name, known["method"], known.get("route") or known["endpoint"], known["status"]] = value
            elif name in ("mlflow_http_request_bytes_total", "mlflow_http_response_bytes_total"):
                found[name, dict(labels)["method"], dict(labels)["route"]] = value
            elif name == "mlflow_http_request_duration_seconds_count":
                found["durations"] += value
            elif name == "mlflow_request_duration_seconds_count":
                found["S4's durations"] += value
        self.in_flight = values["mlflow_http_requests_in_flight", frozenset()]
        self.started = values["mlflow_server_start_time_seconds", frozenset()]
        if self.before is None:
            self.before = found
        return collections.Counter({key: value - self.before[key] for key, value in found.items()})

    def count(self, method, route, status, received=0, sent=0):
        self.expected["mlflow_http_request_total", method, route, str(status)] += 1
        self.expected["mlflow_requests_total", method, route, str(status)] += 1
        self.expected["mlflow_http_request_bytes_total", method, route] += received
        self.expected["mlflow_http_response_bytes_total", method, route] += sent
        self.expected["durations"] += 1
        self.expected["S4's durations"] += 1

    def ask(self, method, path, route=None, times=1, size=None, **options):
        """Requests, each by a new connection that any worker may take."""
        for _time in range(times):
            if size is not None:
                options["data"] = io.BytesIO(bytes(size))
            options.setdefault("auth", self.auth)
            answer = self.server.ask(method, path, **options)
            body = answer.request.body or b""
            received = size if size is not None else len(body)
            if answer.status_code in (401, 403):
                received = 0  # refused before it is read; only requests without bodies are asked for this
                assert not body
            known = method if method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS") else "OTHER"
            self.count(known, route or path.partition("?")[0], answer.status_code, received, len(answer.content))
        return answer

    def check(self):
        """The metrics have what was asked, no more and no less; a worker counts right after its last byte has left."""
        deadline = time.monotonic() + 20
        while (found := self.scraped()) != self.expected and time.monotonic() < deadline:
            time.sleep(0.1)
        assert +found == +self.expected

    def workers(self):
        """Processes that count."""
        return [int(path.name.partition("-")[0]) for path in (self.server.folder / "numbers").glob("*.worker")]

    def wait_without(self, killed):
        """Until another worker counts in the place of one that was killed."""
        deadline = time.monotonic() + 60
        while len(set(self.workers()) - {killed}) < 2 and time.monotonic() < deadline:
            time.sleep(0.2)


def counted(version, folder, *options, workers=2, **variables):
    """A server with metrics and the access log; artifacts go through it."""
    port = servers.unit.free_port()
    context = servers.mlflow(
        version,
        folder,
        "--serve-artifacts",
        *options,
        workers=workers,
        MLOPS_MLFLOW_METRICS=f"{folder}/numbers",
        MLOPS_MLFLOW_METRICS_PORT=str(port),
        MLOPS_MLFLOW_ACCESS_LOG="json",
        MLFLOW_ARTIFACTS_PROXIED="true",
        MLFLOW_SERVER_ALLOWED_HOSTS="127.0.0.1:*",
        **variables,
    )
    return context, port


@pytest.fixture(scope="module")
def opened(version, tmp_path_factory):
    """A server of two workers without logins, which has made its default experiment."""
    context, port = counted(version, tmp_path_factory.mktemp(f"counted-{version}"))
    with context as server:
        load = Load(server, port)
        load.ask("POST", SEARCH, json={"max_results": 1})
        assert load.server.report["behaviours"]["requests_counted"] == ""
        yield load


@pytest.fixture
def load(opened):
    """The server, with counts of this test alone."""
    return opened.begin()


def all_routes(load):
    """Requests of all kinds, to Flask and FastAPI."""
    load.ask("GET", "/health", times=2)
    load.ask("HEAD", "/health")
    load.ask("GET", "/")
    load.ask("POST", SEARCH, json={"max_results": 1}, times=7)
    load.ask("GET", "/api/2.0/mlflow/experiments/get?experiment_id=0", times=3)
    load.ask("GET", "/api/2.0/mlflow/experiments/get?experiment_id=77")
    for number in range(4):
        load.ask("GET", f"/api/3.0/mlflow/traces/tr-{number}", "/api/3.0/mlflow/traces/{trace_id}")
    load.ask("POST", "/graphql", json={"query": "{ __typename }"}, times=2)
    load.ask("GET", "/api/3.0/mlflow/server-info")
    otlp = {"X-MLflow-Experiment-Id": "0", "Content-Type": "application/x-protobuf"}
    load.ask("POST", "/v1/traces", data=b"not a trace", headers=otlp, times=2)
    load.ask("GET", "/ajax-api/3.0/jobs/none", "/ajax-api/3.0/jobs/{job_id}")
    for number, size in enumerate((0, 1000, 300_000)):
        path = f"{ARTIFACTS}/0/{number}/file-{number}.bin"
        load.ask("PUT", path, ARTIFACTS + "/{artifact_path}", size=size)
        assert len(load.ask("GET", path, ARTIFACTS + "/{artifact_path}", times=2).content) == size
    for number in range(5):
        load.ask("GET", f"/nothing/here/{number}", "other")
    load.ask("DELETE", SEARCH, "other")
    load.ask("BREW", SEARCH, "other", times=2)
    load.ask("GET", SEARCH, headers={"Host": "evil.example.org"}, times=3)
    load.ask("OPTIONS", SEARCH, headers={"Origin": "https://evil.example.org"})


def test_a_load_is_found_exactly_though_a_worker_is_killed(load):
    all_routes(load)
    load.check()
    assert load.in_flight == 0
    killed = load.workers()[0]
    os.kill(killed, signal.SIGKILL)
    all_routes(load)
    load.check()
    load.wait_without(killed)
    all_routes(load)
    load.check()
    assert len(load.workers()) == 2 and killed not in load.workers(), "the file of the killed worker is merged"


def test_requests_in_flight_are_those_of_living_workers(load):
    route = ARTIFACTS + "/{artifact_path}"
    connections = [begun(load, f"{ARTIFACTS}/0/slow-{number}", 10) for number in range(8)]
    deadline = time.monotonic() + 20
    while load.scraped() is not None and load.in_flight != 8 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert load.in_flight == 8
    for worker in load.workers():
        os.kill(worker, signal.SIGKILL)
        left = [connection for connection in connections if waits(connection)]
        load.wait_without(worker)
        if len(left) < 8:
            break  # else the other worker has taken all of them
    load.check()
    assert load.in_flight == len(left) < 8
    for connection in left:
        connection.settimeout(20)
        connection.sendall(b"67890")
        status, body = answered(connection)
        load.count("PUT", route, status, 10, len(body))
    load.check()
    assert load.in_flight == 0


def begun(load, path, size):
    """A connection by which 5 bytes of an upload were sent."""
    address = re.fullmatch(r"http://([^:/]+):(\d+)(/.*)?", load.server.url)
    connection = socket.create_connection((address[1], int(address[2])), timeout=20)
    head = f"PUT {address[3] or ''}{path} HTTP/1.1\r\nHost: {address[1]}:{address[2]}\r\nContent-Length: {size}\r\n"
    connection.sendall(f"{head}Connection: close\r\n\r\n12345".encode())
    return connection


def waits(connection):
    """Whether the server has neither answered nor closed a connection."""
    connection.settimeout(1)
    try:
        assert connection.recv(1) == b""
    except socket.timeout:
        return True
    except ConnectionError:
        pass
    return False


def answered(connection):
    answer = b""
    while more := connection.recv(65536):
        answer += more
    head, _empty, body = answer.partition(b"\r\n\r\n")
    assert b"chunked" not in head.lower()
    return int(head.split(b" ")[1]), body


def test_clients_that_leave(version, load):
    """In the middle of an upload, and of a download: only what was exchanged counts."""
    route, size = ARTIFACTS + "/{artifact_path}", 64 << 20
    begun(load, f"{ARTIFACTS}/0/left", 1 << 20).close()
    load.ask("PUT", f"{ARTIFACTS}/0/large", route, size=size)
    with requests.get(load.server.url + f"{ARTIFACTS}/0/large", stream=True, timeout=60) as answer:
        answer.raw.read(1 << 20)
    deadline = time.monotonic() + 60
    while (found := load.scraped())["mlflow_http_request_total", "GET", route, "200"] < 1 or load.in_flight:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert found["mlflow_http_request_total", "PUT", route, "499"] == 1
    assert size <= found["mlflow_http_request_bytes_total", "PUT", route] <= size + 5
    assert 1 << 20 <= found["mlflow_http_response_bytes_total", "GET", route] < size
    if servers.number(version) >= NATIVE_ARTIFACTS_FROM:
        assert found["mlflow_http_response_bytes_total", "GET", route] < size // 2


def test_a_stream_is_not_held(version, tmp_path):
    if servers.number(version) < NATIVE_ARTIFACTS_FROM:
        pytest.skip(f"MLflow {version} itself holds each artifact in memory")
    size = 50 << 20
    context, port = counted(version, tmp_path, workers=1)
    with context as server:
        load = Load(server, port).begin()
        load.ask("PUT", f"{ARTIFACTS}/0/x", ARTIFACTS + "/{artifact_path}", size=1)
        load.ask("GET", f"{ARTIFACTS}/0/x", ARTIFACTS + "/{artifact_path}")
        before = server.peak()
        load.ask("PUT", f"{ARTIFACTS}/0/x", ARTIFACTS + "/{artifact_path}", size=size)
        load.ask("GET", f"{ARTIFACTS}/0/x", ARTIFACTS + "/{artifact_path}")
        load.check()
        assert server.peak() - before < size // 2


def test_the_metrics_have_a_port_of_their_own(load):
    """Without the check of hosts, and nothing but metrics; the server's own port has none."""
    address = load.url.removesuffix("/metrics")
    answer = requests.get(load.url, headers={"Host": "10-0-0-7.prometheus.example.org"}, timeout=20)
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    version = f'mlflow_server_info{{version="{load.server.report["mlflow"]}"}} 1'
    assert version in answer.text
    assert requests.get(address + SEARCH, timeout=20).status_code == 404
    assert requests.post(address + "/metrics", timeout=20).status_code == 405
    assert load.server.ask("GET", "/metrics").status_code == 404


def test_another_start_is_at_0(newest, tmp_path):
    """In the same folder, as after a restart of the container."""
    started = []
    for _start in range(2):
        context, port = counted(newest, tmp_path, workers=1)
        with context as server:
            load = Load(server, port)
            load.ask("GET", "/version", times=3)
            load.begin()
            assert load.before["mlflow_http_request_total", "GET", "/version", "200"] == 3
            started.append(load.started)
    assert started[0] < started[1] <= time.time()


def test_mlflows_own_metrics_answer_beside(newest, tmp_path):
    context, port = counted(newest, tmp_path, f"--expose-prometheus={tmp_path}/own", workers=1)
    with context as server:
        load = Load(server, port).begin()
        load.ask("POST", SEARCH, json={"max_results": 1}, times=3)
        assert "mlflow_http_request_duration_seconds_bucket" in load.ask("GET", "/metrics").text
        load.check()


# Logins


def logged(load):
    """Entries of the access log."""
    return [json.loads(line) for line in load.server.log.splitlines() if line.startswith("{")]


@pytest.fixture(scope="module")
def asking(version, tmp_path_factory):
    """A server that asks for logins, below a path where the version may be, behind a proxy where it can."""
    folder = tmp_path_factory.mktemp(f"asking-{version}")
    by_proxy = servers.number(version) >= NATIVE_ARTIFACTS_FROM
    more = ["authorization_function = proxy_login:login"] if by_proxy else []
    proxy = {"AUTH_PROXY_HEADER": "X-Auth-Request-Email", "AUTH_PROXY_SECRET": PROOF} if by_proxy else {}
    variables = {
        **servers.logins(),
        **proxy,
        "MLFLOW_AUTH_CONFIG_PATH": servers.auth_ini(folder, f"sqlite:///{folder}/users.db", *more),
    }
    servers.prepare(version, folder, "database", "migrate", **variables)
    prefix = "/team" if servers.number(version) >= PREFIX_FROM else ""
    context, port = counted(version, folder, "--app-name=basic-auth", prefix=prefix, **variables)
    with context as server:
        load = Load(server, port, servers.CHIEF)
        made = server.ask(
            "POST",
            "/api/2.0/mlflow/users/create",
            json={"username": USER[0], "password": USER[1]},
            auth=servers.CHIEF,
        )
        assert made.status_code == 200, made.text
        load.by_proxy = by_proxy
        yield load.begin()


def test_logins(asking):
    """Below a path; what is refused counts as its route."""
    load = asking
    artifact = f"{ARTIFACTS}/0/file.bin"
    for auth in (None, (servers.CHIEF[0], WRONG)):
        for method, path in (("GET", "/api/2.0/mlflow/experiments/get?experiment_id=0"), ("GET", "/")):
            assert refused(load, method, path, path.partition("?")[0], auth).status_code == 401
        assert refused(load, "GET", artifact, ARTIFACTS + "/{artifact_path}", auth).status_code == 401
        assert refused(load, "POST", "/v1/traces", "/v1/traces", auth).status_code == 401
    load.ask("POST", f"{SEARCH}?token={QUERY}", SEARCH, json={"max_results": 1, "filter": f"name = '{BODY}'"})
    load.ask("PUT", artifact, ARTIFACTS + "/{artifact_path}", size=5000)
    load.ask("GET", artifact, ARTIFACTS + "/{artifact_path}", auth=USER, times=2)
    load.ask("GET", artifact, ARTIFACTS + "/{artifact_path}", headers={"Host": "evil.example.org"})
    load.ask("GET", "/health")
    load.ask("GET", f"/api/2.0/mlflow/users/get?username={USER[0]}", "/api/2.0/mlflow/users/get", auth=USER)
    load.ask("GET", f"/api/2.0/mlflow/experiments/get?experiment_id={QUERY}", "/api/2.0/mlflow/experiments/get")
    load.check()
    entries = collections.Counter((entry["route"], entry["status"], entry["user"]) for entry in logged(load))
    artifacts = ARTIFACTS + "/{artifact_path}"
    assert entries[artifacts, 401, None] == 2 and entries["/v1/traces", 401, None] == 2
    assert entries[SEARCH, 200, servers.CHIEF[0]] == 1
    assert entries[artifacts, 200, servers.CHIEF[0]] == 1 and entries[artifacts, 200, USER[0]] == 2
    assert entries[artifacts, 403, None] == 1, "refused before its login was looked at"
    assert all(user is None for route, _status, user in entries if route == "/health")
    without_a_secret(load)


def refused(load, method, path, route, auth):
    """A request with a token that is none of MLflow's, or with a wrong password."""
    headers = {} if auth else {"Authorization": f"Bearer {BEARER}"}
    return load.ask(method, path, route, auth=auth or (lambda request: request), headers=headers)


def without_a_secret(load):
    """Neither the access log nor another line of the log has one, and uvicorn's access log is off."""
    text = load.server.log
    for secret in (*SECRETS, USER[1]):
        assert secret not in "".join(line for line in text.splitlines() if line.startswith("{"))
        assert base64.b64encode(secret.encode()).decode().rstrip("=") not in text
    for name, password in (servers.CHIEF, USER):
        assert base64.b64encode(f"{name}:{password}".encode()).decode() not in text
    assert "HTTP/1.1" not in text, "uvicorn's own access log"


def test_users_of_a_proxy(version, asking):
    if not asking.by_proxy:
        pytest.skip(f"MLflow {version} has no logins by a proxy")
    path = "/api/2.0/mlflow/experiments/get"
    known = len(logged(asking))
    for headers, auth, user in (
        ({"X-Auth-Request-Email": "eva@example.com", "X-Proxy-Secret": PROOF}, lambda r: r, "eva@example.com"),
        ({"X-Auth-Request-Email": "boss@example.com"}, USER, USER[0]),
        ({"X-Auth-Request-Email": "boss@example.com", "X-Proxy-Secret": WRONG}, USER, USER[0]),
        ({}, ("system:serviceaccount:a:b", PROOF), "system:serviceaccount:a:b"),
    ):
        asking.ask("GET", f"{path}?experiment_id=0", path, auth=auth, headers=headers)
        asking.check()
        entry = logged(asking)[-1]
        assert (entry["user"], entry["status"]) == (user, 200), entry
    assert len(logged(asking)) == known + 4
    without_a_secret(asking)


def test_an_entry_of_the_access_log(load):
    """Without logins there is no user, whatever a request says."""
    load.ask("PUT", f"{ARTIFACTS}/0/entry?a=b", ARTIFACTS + "/{artifact_path}", size=1234, auth=USER)
    load.check()
    entry = logged(load)[-1]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry.pop("time"))
    assert 0 < entry.pop("duration_seconds") < 20
    assert entry == {
        "method": "PUT",
        "route": ARTIFACTS + "/{artifact_path}",
        "path": f"{ARTIFACTS}/0/entry",
        "status": 200,
        "request_bytes": 1234,
        "response_bytes": entry["response_bytes"],
        "client": "127.0.0.1",
        "user": None,
    }


# In the version's Python


def run_inside(version, folder, program, **variables):
    """JSON that a program writes which runs with MLflow and the server's files."""
    done = subprocess.run(
        [servers.binaries(version) / "python", "-c", pathlib.Path(program).read_text(encoding="utf-8")],
        env=servers.environment(version, folder, **variables),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert not done.returncode, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("prefix", ["", "/team"])
def test_routes_are_those_that_the_frameworks_match(version, tmp_path, prefix):
    """All routes and methods: the same template as FastAPI and Flask choose."""
    if prefix and servers.number(version) < PREFIX_FROM:
        pytest.skip(f"MLflow {version} may not be below a path")
    found = run_inside(version, tmp_path, servers.ROOT / "tests/versions/match_routes.py", _MLFLOW_STATIC_PREFIX=prefix)
    assert found["different"] == []
    assert found["matched"] > 1000 and found["others"] > 1000


def test_exceptions_are_counted(version, tmp_path):
    """Those of Flask, which it answers itself, and of FastAPI; this program stands in for uvicorn."""
    found = run_inside(
        version,
        tmp_path,
        servers.ROOT / "tests/versions/raise_exceptions.py",
        MLOPS_MLFLOW_METRICS=f"{tmp_path}/numbers",
        MLOPS_MLFLOW_METRICS_PORT=str(servers.unit.free_port()),
    )
    values = exposition.parse(found["text"])

    def value(name, **labels):
        return values[name, frozenset(labels.items())]

    for route in ("/flask-fails", "/fastapi-fails"):
        assert value("mlflow_http_request_exceptions_total", method="GET", route=route) == 2
        assert value("mlflow_http_request_total", method="GET", route=route, status="500") == 2
    assert value("mlflow_http_request_exceptions_total", method="GET", route="/health") == 0
    assert value("mlflow_http_requests_in_flight") == 0
