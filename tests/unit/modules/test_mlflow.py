# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""mlflow_health and mlflow_version_info against a real server and a real index."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import socket
import threading

import mlflow
import pytest
from ansible_collections.mlops.mlflow.plugins.module_utils import checks, relay
from ansible_collections.mlops.mlflow.plugins.module_utils.options import SERVER
from ansible_collections.mlops.mlflow.plugins.modules import mlflow_version_info


def ask(url, **changes):
    return checks.measure("server", {"url": url, "samples": 3, "timeout": 10, **changes})


def details(report):
    return {c["name"]: c["detail"] for c in report["checks"]}


def test_healthy_with_a_round_trip(mlflow_server):
    report = ask(mlflow_server[0], roundtrip=True, expected_version=mlflow.__version__, allowed_hosts=["localhost"])
    assert report["healthy"], report["failures"]
    assert report["version"] == mlflow.__version__
    assert {"api", "log_metric", "upload", "download", "register_model"} <= set(report["latency_ms"])
    assert report["upload_mb_s"] > 0


def test_nothing_is_left_of_the_round_trip(mlflow_server):
    ask(mlflow_server[0], roundtrip=True)
    client = mlflow.MlflowClient(mlflow_server[0], mlflow_server[0])
    assert [e.name for e in client.search_experiments()] == ["Default"]
    assert not client.search_registered_models()


@pytest.mark.parametrize("changes, check, words", [
    ({"expected_version": "1.0.0"}, "version", "1.0.0 is expected"),
    ({"allowed_hosts": ["evil.example.com"]}, "hosts", "a request to the name evil.example.com is refused"),
    ({"path_prefix": "/nowhere"}, "http", "404"),
])
def test_what_is_wrong_is_reported(mlflow_server, changes, check, words):
    report = ask(mlflow_server[0], **changes)
    assert not report["healthy"] and words in details(report)[check], details(report)


@contextlib.contextmanager
def oauth2_proxy(location, api=401, seen=None):
    """What oauth2-proxy answers to who has not logged in."""
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            path = self.path.removeprefix("/team")
            (seen if seen is not None else []).append(self.headers.get("Authorization"))
            self.send_response({"/health": 200, "/": 302}.get(path, 404))
            if path == "/":
                self.send_header("Location", location)
            self.end_headers()

        def do_POST(self):
            self.send_response(api)
            self.end_headers()

        def log_message(self, *_arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


CALLBACK = "https%3A%2F%2Fm.example.com%2Fteam%2Foauth2%2Fcallback"
PROVIDER = f"https://id.example.com/auth?client_id=mlflow&redirect_uri={CALLBACK}&state=x"


def test_users_log_in_elsewhere():
    with oauth2_proxy(PROVIDER) as url:
        report = ask(url, login_elsewhere=True, path_prefix="/team")
    assert report["healthy"], report["failures"]
    callback = "https://m.example.com/team/oauth2/callback"
    assert details(report)["login"] == f"at id.example.com, which redirects back to {callback}"


def test_a_missing_login_is_noticed(mlflow_server):
    said = details(ask(mlflow_server[0], login_elsewhere=True))
    assert "without a login" in said["refusal"] and "without a login" in said["login"]


@pytest.mark.parametrize(
    "location, api, check",
    [
        ("/signed-in", 401, "login"),
        ("https://id.example.com/error", 401, "login"),
        (PROVIDER, 403, "refusal"),
        (PROVIDER, 502, "refusal"),
    ],
)
def test_a_login_that_leads_nowhere_is_noticed(location, api, check):
    with oauth2_proxy(location, api) as url:
        report = ask(url, login_elsewhere=True)
    assert [c["name"] for c in report["checks"] if not c["ok"]] == [check]


def test_the_identity_provider_is_checked_without_a_login(monkeypatch):
    """Also where the environment has the administrator's, which the server would let in."""
    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_USERNAME", "chief")
    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_PASSWORD", "not-the-default-one")
    seen = []
    with oauth2_proxy(PROVIDER, seen=seen) as url:
        assert ask(url, login_elsewhere=True, environment=True)["healthy"]
    assert seen and not any(seen)


def test_a_host_that_does_not_resolve_is_asked_where_connect_says(mlflow_server):
    port = mlflow_server[0].rpartition(":")[2]
    report = ask("http://mlflow.localhost.test:8000", connect=f"127.0.0.1:{port}")
    found = details(report)
    assert found["http"] == "OK"
    assert "403" in found["api"], "the server must see the URL's host, which it does not allow"
    assert "does not answer" in details(ask("http://mlflow.localhost.test:8000"))["http"]


def test_a_server_that_is_not_there():
    report = ask("http://127.0.0.1:9", roundtrip=True)
    assert not report["healthy"]
    assert "does not answer" in details(report)["http"]
    assert details(report)["roundtrip: experiment created"].startswith("not run")


def test_a_refused_connection_is_tried_again(mlflow_server):
    """As while a Service's pods are replaced: nobody listens for a moment."""
    target = int(mlflow_server[0].rpartition(":")[2])
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    timer = threading.Timer(1.5, lambda: relay.serve(lambda: socket.create_connection(("127.0.0.1", target)), port, 20))
    timer.daemon = True
    timer.start()
    report = ask(f"http://127.0.0.1:{port}")
    assert report["healthy"], report["failures"]
    assert report["checks"][0]["duration_ms"] > 1000


def test_webhooks_are_listed(mlflow_server):
    assert details(ask(mlflow_server[0], webhooks=True))["webhooks"] == "0 webhooks"


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """A package index as files: versions that count, and each way not to count."""
    folder = tmp_path_factory.mktemp("index")

    def page(package, *files):
        (folder / package).mkdir()
        links = "".join(f'<a href="{name}"{attributes}>{name}</a>' for name, attributes in files)
        (folder / package / "index.html").write_text(f"<html><body>{links}</body></html>")

    page("mlflow", ("mlflow-3.1.0-py3-none-any.whl", ""),
         ("mlflow-3.2.0-py3-none-any.whl", ' data-requires-python="&gt;=3.10"'),
         ("mlflow-3.3.0-py3-none-any.whl", ""), ("mlflow-3.4.0rc1-py3-none-any.whl", ""),
         ("mlflow-3.5.0-py3-none-any.whl", ' data-yanked=""'),
         ("mlflow-3.6.0-py3-none-any.whl", ' data-requires-python="&gt;=3.99"'), ("not a package.txt", ""))
    page("mlflow-skinny",
         *((f"mlflow_skinny-{v}-py3-none-any.whl", "") for v in ("3.1.0", "3.2.0", "3.4.0rc1", "3.5.0", "3.6.0")))
    (folder / "releases").write_text(json.dumps([{"tag_name": "v3.1.0"}, {"tag_name": "v3.2.0", "prerelease": True},
                                                 {"tag_name": "nightly"}]))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def versions(**changes):
    connection = {name: option.get("default") for name, option in SERVER.items()}
    return mlflow_version_info.look({**connection, "source": "index", "index_url": None, "github_url": None,
                                     "python_version": "3.11",
                                     "pinned": "3.0.0", "limit": 10, "username": None, "password": None, "timeout": 5,
                                     **changes})


def test_only_what_can_be_installed_counts(index):
    found = versions(index_url=index)
    assert found["available"] == ["3.2.0", "3.1.0"] and found["latest"] == "3.2.0" and found["online"]


def test_an_old_python_gets_an_older_version(index):
    assert versions(index_url=index, python_version="3.9")["latest"] == "3.1.0"


def test_github_releases(index):
    assert versions(index_url=index, source="github", github_url=f"{index}/releases")["available"] == ["3.1.0"]


def test_offline_it_says_so_and_names_the_pinned(mlflow_server):
    found = versions(index_url="http://127.0.0.1:9", url=mlflow_server[0])
    assert found["latest"] == "3.0.0" and not found["online"] and found["source"] == "pinned"
    assert "3.0.0, is named instead" in found["message"] and found["installed"] == mlflow.__version__
