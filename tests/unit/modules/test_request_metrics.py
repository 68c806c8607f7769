# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""roles/mlflow_server/files/request_*.py: files of worker processes, the port and the access log.

tests/versions/test_request_metrics.py has the whole in real servers.
"""

from __future__ import annotations

import asyncio
import base64
import importlib
import json
import os
import pathlib
import resource
import signal
import socket
import sys
import types

import exposition
import pytest
from conftest import free_port

FILES = pathlib.Path(__file__).parents[3] / "roles/mlflow_server/files"
KEY = ("POST", "/api/2.0/mlflow/runs/create", "200")
NAME, PASSWORD, PROOF = "ana", "s3cret-pass", "only-the-proxy"


def module(name):
    """One of the files, which import each other as they do in a server's pod."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FILES)
        return importlib.import_module(name)


request_metrics, request_numbers = module("request_metrics"), module("request_numbers")
request_exposition, request_log = module("request_exposition"), module("request_log")


@pytest.fixture
def folder(tmp_path):
    folder = request_numbers.Folder(tmp_path / "metrics")
    folder.empty()
    return folder


@pytest.fixture
def own(folder):
    """Numbers of this process."""
    numbers = request_numbers.Numbers(folder)
    yield numbers
    if numbers.file:
        numbers.file.close()


def in_a_worker(work, die=False):
    """Run a function in a process that ends, by SIGKILL if asked to, and raise what it says."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            work()
            os.write(writer, b"")
        except BaseException as error:  # pylint: disable=broad-exception-caught
            os.write(writer, repr(error).encode())
        os.kill(os.getpid(), signal.SIGKILL) if die else os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as said:
        text = said.read().decode()
    os.waitpid(pid, 0)
    assert not text, text


def counts(folder, own):
    sums, in_flight, _started = folder.sums(own)
    return {key: sum(words[: request_numbers.NANOSECONDS]) for key, words in sums.items() if any(words)}, in_flight


def test_what_a_killed_worker_counted_stays_and_what_it_was_doing_does_not(folder, own):
    def work():
        numbers = request_numbers.Numbers(folder)
        numbers.head[request_numbers.IN_FLIGHT] += 3
        for _request in range(5):
            numbers.add(KEY, 1000, 10, 20)

    own.add(KEY, 1000, 1, 2)
    own.add_exception(KEY)
    in_a_worker(work, die=True)
    for _scrape in range(2):
        assert counts(folder, own) == ({KEY: 6}, 0)
        assert [path.name for path in folder.path.glob("*.worker")] == [own.path.name]
    words = folder.sums(own)[0][KEY]
    assert words[request_numbers.RECEIVED : request_numbers.EXCEPTIONS + 1] == [51, 102, 1]
    assert words[request_numbers.NANOSECONDS] == 6000


def test_files_of_many_workers_become_one_without_a_scrape(folder, own):
    for _worker in range(12):
        in_a_worker(lambda: request_numbers.Numbers(folder).add(KEY, 1, 0, 0))
    assert len(list(folder.path.iterdir())) <= 6  # lock, started, ended.json, ours, and the last two
    assert counts(folder, own) == ({KEY: 12}, 0)


def test_a_process_that_is_killed_while_it_merges_changes_no_sum(folder, own, monkeypatch):
    in_a_worker(lambda: request_numbers.Numbers(folder).add(KEY, 1, 0, 0))

    def merge():
        monkeypatch.setattr(pathlib.Path, "unlink", lambda *_path, **_options: os.kill(os.getpid(), signal.SIGKILL))
        folder.sums(types.SimpleNamespace(path=own.path, segments=own.segments))

    in_a_worker(merge)
    assert folder.ended.exists() and len(list(folder.path.glob("*.worker"))) == 2
    for _scrape in range(2):
        assert counts(folder, own) == ({KEY: 1}, 0)
    assert len(list(folder.path.glob("*.worker"))) == 1


def test_a_living_worker_is_read_and_left(folder, own):
    ready, done = os.pipe(), os.pipe()
    pid = os.fork()
    if not pid:
        numbers = request_numbers.Numbers(folder)
        numbers.add(KEY, 1, 0, 0)
        numbers.head[request_numbers.IN_FLIGHT] += 1
        os.write(ready[1], b".")
        os.read(done[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    try:
        for _scrape in range(2):
            assert counts(folder, own) == ({KEY: 1}, 1)
        folder.empty()
        assert counts(folder, own) == ({KEY: 1}, 1), "another server's start takes nothing from this one"
    finally:
        os.write(done[1], b".")
        os.waitpid(pid, 0)
    assert counts(folder, own) == ({KEY: 1}, 0)


def test_a_server_starts_at_0(tmp_path):
    folder = request_numbers.Folder(tmp_path / "metrics")
    in_a_worker(lambda: request_numbers.Numbers(folder).add(KEY, 1, 0, 0))
    before = float(folder.started.read_text())
    folder.empty()
    own = request_numbers.Numbers(folder)
    assert counts(folder, own) == ({}, 0)
    assert folder.sums(own)[2] > before
    own.file.close()


def test_numbers_are_bounded_and_their_sum_is_true(folder, own):
    for number in range(6000):
        own.add(("GET", f"/made/up/{number:050d}", "200"), 1, 0, 0)
    assert own.path.stat().st_size == request_numbers.SEGMENT * request_numbers.SEGMENTS
    found, _in_flight = counts(folder, own)
    assert sum(found.values()) == 6000 and len(found) < 6000
    assert max(found, key=found.get)[1] == "other"


def test_a_full_disk_stops_no_worker(folder, own, capfd):
    """The file system is full at a size that a limit sets."""

    def work():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (request_numbers.SEGMENT, request_numbers.SEGMENT))
        numbers = request_numbers.Numbers(folder)
        for number in range(1000):
            numbers.add(("GET", f"/made/up/{number:050d}", "200"), 1, 0, 0)

    in_a_worker(work)
    assert sum(counts(folder, own)[0].values()) == 1000
    assert not capfd.readouterr().err


def test_a_folder_that_cannot_be_had_stops_no_worker(capfd):
    numbers = request_numbers.Numbers(request_numbers.Folder("/proc/no-such-folder"))
    for number in range(1000):
        numbers.add(("GET", f"/made/up/{number:050d}", "200"), 1, 0, 0)
    sums, _in_flight = request_numbers.read(numbers.segments)
    assert sum(sum(words[: request_numbers.NANOSECONDS]) for words in sums.values()) == 1000
    assert "requests that this worker answers are not in the metrics of the others: [Errno" in capfd.readouterr().err


def test_text(folder, own):
    for milliseconds in (1, 5, 6, 500, 501, 2000, 3000, 40000):
        own.add(KEY, milliseconds * 1_000_000, 1, 2)
    own.add(("GET", 'a"b\\c\nd', "404"), 5, 0, 0)
    own.add_exception(("GET", 'a"b\\c\nd', "404"))
    found = exposition.parse(request_exposition.rendered(*folder.sums(own), "3.17.2"))
    labels = {("method", KEY[0]), ("route", KEY[1]), ("status", KEY[2])}

    def value(name, *more, of=None):
        return found[name, frozenset({*(of or labels), *more})]

    for bound, count in (("0.005", 2), ("0.5", 4), ("1.0", 5), ("2.0", 6), ("3.0", 7), ("30.0", 7), ("+Inf", 8)):
        assert value("mlflow_http_request_duration_seconds_bucket", ("le", bound)) == count
        assert value("mlflow_request_duration_seconds_bucket", ("le", bound), of={("method", "POST")}) == count
    assert value("mlflow_http_request_duration_seconds_sum") == pytest.approx(46.013)
    assert value("mlflow_http_request_total") == 8
    assert value("mlflow_requests_total", of={("method", "POST"), ("endpoint", KEY[1]), ("status", "200")}) == 8
    by_route = {("method", "POST"), ("route", KEY[1])}
    assert value("mlflow_http_request_bytes_total", of=by_route) == 8
    assert value("mlflow_http_response_bytes_total", of=by_route) == 16
    assert value("mlflow_http_request_exceptions_total", of=by_route) == 0
    odd = {("method", "GET"), ("route", r"a\"b\\c\nd")}
    assert value("mlflow_http_request_exceptions_total", of=odd) == 1
    assert value("mlflow_server_info", of={("version", "3.17.2")}) == 1
    assert "mlflow_http_request_total{method=\"OTHER\"" not in request_exposition.rendered(*folder.sums(own), "3.17.2")


# The port


def asked(monkeypatch, *requests, text="x 1\n"):
    """Answers to requests that are sent at once, each by a connection of its own."""
    monkeypatch.setattr(request_exposition, "READ_SECONDS", 0.5)

    async def one(port, request):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        try:
            return await asyncio.wait_for(reader.read(), 10)
        except ConnectionError:
            return b""
        finally:
            writer.close()

    async def run():
        port = free_port()
        listeners = [await request_exposition.Listener(port, "/team", lambda: text).start() for _worker in range(2)]
        assert all(listeners), "two workers listen at one port"
        try:
            return await asyncio.gather(*(one(port, request) for request in requests))
        finally:
            for listener in listeners:
                listener.close()

    return asyncio.run(run())


@pytest.mark.parametrize(
    "request_line, status",
    [
        ("GET /metrics HTTP/1.1", 200),
        ("GET /team/metrics?x=1 HTTP/1.0", 200),
        ("HEAD /metrics HTTP/1.1", 200),
        ("POST /metrics HTTP/1.1", 405),
        ("GET / HTTP/1.1", 404),
        ("GET /api/2.0/mlflow/experiments/search HTTP/1.1", 404),
        ("", 404),
    ],
)
def test_the_port_answers_metrics_and_nothing_else(monkeypatch, request_line, status):
    (answer,) = asked(monkeypatch, f"{request_line}\r\nHost: evil.example.org\r\n\r\n".encode())
    head, _empty, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    if status == 200:
        assert b"Content-Type: text/plain; version=0.0.4; charset=utf-8" in head and b"Content-Length: 4" in head
        assert body == (b"" if request_line.startswith("HEAD") else b"x 1\n")


def test_the_port_does_not_wait_for_slow_clients(monkeypatch):
    slow, endless, usual = asked(
        monkeypatch, b"GET /metrics", b"GET /" + b"x" * 70000, b"GET /metrics HTTP/1.1\r\n\r\n"
    )
    assert (slow, endless) == (b"", b"") and usual.endswith(b"x 1\n")


def test_the_port_takes_few_connections_at_a_time(monkeypatch):
    monkeypatch.setattr(request_exposition, "CONNECTIONS", 0)
    assert asked(monkeypatch, b"GET /metrics HTTP/1.1\r\n\r\n") == [b""]


def test_a_port_that_is_taken_stops_no_worker(capfd):
    with socket.create_server(("0.0.0.0", 0)) as taken:
        listener = request_exposition.Listener(taken.getsockname()[1], "", str)
        assert asyncio.run(listener.start()) is None
    assert "metrics are not served at port" in capfd.readouterr().err


# The access log


@pytest.fixture
def logged(monkeypatch, capfd):
    """The entry of a request, as a server with logins writes it."""
    auth = types.SimpleNamespace(is_unprotected_route=lambda path: path == "/health", MLFLOW_GATEWAY_AUTH_HEADER="x")
    monkeypatch.setitem(sys.modules, "mlflow.server.auth", auth)

    def entry(headers=(), status=200, path="/api/x", refused=False, **environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        request = request_metrics.Request("POST")
        request.received, request.sent, request.refused_before_login = 7, 8, refused
        scope = {
            "path": path,
            "query_string": b"token=hidden",
            "client": ("192.0.2.7", 5),
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers],
        }
        access_log = request_log.AccessLog("")
        access_log.logins = True
        access_log.write(request, scope, "/api/{x}", status, 0.25)
        out = capfd.readouterr().out
        assert out.count("\n") == 1 and len(out) <= 4096
        for secret in (PASSWORD, PROOF, "hidden", base64.b64encode(PASSWORD.encode()).decode()):
            assert secret not in out
        return json.loads(out)

    return entry


def basic(name, password=PASSWORD):
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def test_an_entry(logged):
    found = logged([("Authorization", basic(NAME))])
    assert found.pop("time").endswith("Z")
    assert found == {
        "method": "POST",
        "route": "/api/{x}",
        "path": "/api/x",
        "status": 200,
        "duration_seconds": 0.25,
        "request_bytes": 7,
        "response_bytes": 8,
        "client": "192.0.2.7",
        "user": NAME,
    }


@pytest.mark.parametrize(
    "headers, more, user",
    [
        ([], {}, None),
        ([("Authorization", basic(NAME))], {"status": 401}, None),
        ([("Authorization", basic(NAME))], {"status": 403}, NAME),
        ([("Authorization", basic(NAME))], {"status": 403, "refused": True}, None),
        ([("Authorization", basic(NAME))], {"path": "/health"}, None),
        ([("Authorization", f"Bearer {PASSWORD}")], {}, None),
        ([("Authorization", f"Basic {PASSWORD}")], {}, None),
        ([("Authorization", "Basic " + base64.b64encode(PASSWORD.encode()).decode())], {}, None),
        ([("Authorization", basic("", PASSWORD))], {}, None),
        ([("X-Proxy-User", "boss"), ("Authorization", basic(NAME))], {}, NAME),
        ([("X-Proxy-User", "boss"), ("X-Proxy-Secret", "guess"), ("Authorization", basic(NAME))], {}, NAME),
        ([("X-Proxy-User", "boss"), ("X-Proxy-Secret", PROOF)], {}, "boss"),
        ([("Authorization", basic("system:serviceaccount:a:b", PROOF))], {}, "system:serviceaccount:a:b"),
        ([("Authorization", basic(NAME, f"{PASSWORD}:x"))], {}, NAME),
        (
            [("Authorization", basic("provider", PASSWORD)), ("X-MLflow-Authorization", basic(NAME))],
            {"path": "/gateway/x/mlflow/invocations"},
            NAME,
        ),
        ([("Authorization", basic(NAME)), ("X-MLflow-Authorization", basic("boss"))], {}, NAME),
    ],
)
def test_the_user_is_who_was_let_in(logged, headers, more, user):
    assert logged(headers, AUTH_PROXY_HEADER="X-Proxy-User", AUTH_PROXY_SECRET=PROOF, **more)["user"] == user


def test_long_paths_are_cut_so_that_lines_do_not_mix(logged):
    for path in ("/" + "x" * 9000, "/" + "\u0001" * 9000, "/" + "\U0001f600" * 9000):
        found = logged([("Authorization", basic("ü" * 5000))], path=path)
        assert path.startswith(found["path"].removesuffix("...")) and len(found["path"]) > 100
        assert found["user"].startswith("üüü")
