# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Service levels, measured on real MLflow servers and through a proxy that is slow, and what the figures come to."""

from __future__ import annotations

import contextlib
import http.server
import subprocess
import sys
import threading
import time
import types
import urllib.parse

import mlflow
import pytest
from ansible.errors import AnsibleActionFail
from ansible.parsing.dataloader import DataLoader
from ansible.playbook.play_context import PlayContext
from ansible.playbook.task import Task
from ansible.template import Templar
from ansible_collections.mlops.mlflow.plugins.action import service_levels as action
from ansible_collections.mlops.mlflow.plugins.module_utils import keep_alive, mlflow_api
from ansible_collections.mlops.mlflow.plugins.module_utils.checks import measure
from ansible_collections.mlops.mlflow.plugins.plugin_utils import engines, manifests, model, service_levels
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines import Put
from ansible_collections.mlops.mlflow.plugins.plugin_utils.manifests import Ref
from conftest import mlflow_running
from test_actions import LocalEngine, port_of
from test_proxy import proxied
from test_roundtrip import between, encrypted, left_over  # noqa: F401  # pylint: disable=unused-import

FAST = {"artifact_size_mb": 2, "samples": 20, "timeout": 30}


def levels(url, **parameters):
    return measure("service_levels", {"url": url, **FAST, **parameters})


def checked(report):
    return [check["name"] for check in report["checks"]]


def resolve(**variables):
    return model.resolve({"mlflow_engine": "kubernetes", **variables}.__getitem__,
                         {"mlflow_engine": "kubernetes", **variables}, "sound")


# -- the probe -----------------------------------------------------------------------------------------------------


def test_all_figures_are_measured_and_all_is_removed(mlflow_server):
    url, database = mlflow_server
    report = levels(url)
    assert report["healthy"], report["failures"]
    assert checked(report) == ["experiment", "run", "api", "upload", "ui", "removal"]
    assert 0 < report["api_p95_ms"] < 5000 and report["upload_mb_s"] > 0 and 0 < report["ui_load_s"] < 20
    assert report["latency_ms"]["requests"]["samples"] == 20 and report["latency_ms"]["ui"]["samples"] == 3
    assert report["database_p95_ms"] is None
    assert left_over(url) == ["Default"] and not list((database.parent / "artifacts").rglob("probe.bin"))


def test_below_a_prefix_with_tls_and_a_login(encrypted):  # noqa: F811
    assert levels(**encrypted)["healthy"]
    refused = levels(**{**encrypted, "password": "wrong"})
    assert refused["api_p95_ms"] is None and "answers 401" in refused["failures"][0]


def test_by_the_name_of_an_ingress(encrypted):  # noqa: F811
    address = urllib.parse.urlsplit(encrypted["url"]).netloc
    assert levels(**{**encrypted, "url": "https://mlflow.example.com", "connect": address})["healthy"]


def test_queries_of_the_server_s_database(mlflow_server, monkeypatch):
    url, database = mlflow_server
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", f"sqlite:///{database}")
    report = levels(url, database=True)
    assert report["healthy"], report["failures"]
    assert 0 <= report["database_p95_ms"] < 5000 and report["latency_ms"]["query"]["samples"] == 100


def test_queries_of_postgresql(postgresql, tmp_path, monkeypatch):
    server = "postgresql://mlflow:right@{host}:{port}".format(**postgresql)
    # One of its own: other tests leave tables in the server's first database.
    subprocess.run(["psql", f"{server}/postgres", "--command", "CREATE DATABASE levels"], check=True,
                   capture_output=True)
    uri = f"{server}/levels"
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", uri)
    with mlflow_running(tmp_path, f"--backend-store-uri={uri}") as url:
        report = levels(url, database=True)
    assert report["healthy"] and report["database_p95_ms"] > 0, report["failures"]


def test_nothing_is_created_in_check_mode(mlflow_server):
    url = mlflow_server[0]

    def experiments():
        found = mlflow.MlflowClient(url).search_experiments(mlflow.entities.ViewType.ALL)
        return {experiment.experiment_id for experiment in found}

    before = experiments()
    report = levels(url, read_only=True)
    assert report["healthy"] and checked(report) == ["api", "ui"] and report["upload_mb_s"] is None
    assert experiments() == before


def test_a_server_without_a_user_interface(mlflow_server):
    def change(_method, path, body):
        return b"<html>An API only</html>" if path == "/" else body

    with between(mlflow_server[0], change) as url:
        report = levels(url)
    assert report["failures"] == ["ui: the page at / names no script; this server has no user interface"]
    assert report["ui_load_s"] is None and report["api_p95_ms"]


def test_the_start_page_s_chunks_are_loaded(mlflow_server):
    """What Chromium loads is in benchmarks/README.md; here, that files are asked for which the page does not name."""
    asked, lock = [], threading.Lock()

    def change(_method, path, body):
        with lock:
            asked.append(path)
        return body

    with between(mlflow_server[0], change) as url:
        report = levels(url, read_only=True)
    assert report["healthy"], report["failures"]
    files = {path for path in asked if path.startswith("/static-files/static/")}
    assert any("/main." in path for path in files) and any(".chunk." in path for path in files), files
    assert report["ui_files"] == len([path for path in asked if "/static-files/" in path and "manifest.json" not in path
                                      or path in ("/static-files/manifest.json", "/")
                                      or "ajax-api" in path]) / 3


def test_compression_is_made_use_of(mlflow_server, tmp_path):
    plain = levels(mlflow_server[0], read_only=True)
    with proxied(tmp_path, mlflow_server[0], ingress_hosts=["localhost"]) as port:
        compressed = levels(f"http://localhost:{port}", connect=f"127.0.0.1:{port}", read_only=True)
    assert plain["healthy"] and compressed["healthy"], compressed["failures"]
    assert compressed["ui_files"] == plain["ui_files"] and compressed["ui_bytes"] < plain["ui_bytes"] / 2


def test_a_connection_that_the_server_closed_is_made_again():
    class Once(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")
            self.close_connection = True  # without saying so

        def log_message(self, *_arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Once) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        connection = keep_alive.Connection(mlflow_api.Server(f"http://127.0.0.1:{server.server_port}", {}))
        for _request in range(3):
            assert connection.call("/any") == {}
            time.sleep(0.1)
        connection.close()
        server.shutdown()
        server.server_close()
    with pytest.raises(mlflow_api.ApiError, match="does not answer"):
        connection.call("/any")


# -- what the figures come to ------------------------------------------------------------------------------------------


def report(**facts):
    names = {"api_p95_ms": "api", "upload_mb_s": "upload", "ui_load_s": "ui", "database_p95_ms": "database"}
    checks = [{"name": names[fact], "ok": True, "detail": "measured"} for fact in facts]
    return {"checks": checks, "failures": [], **facts}


def test_levels_that_are_met():
    result = service_levels.judge(resolve(), {
        "outside": report(api_p95_ms=500.0, upload_mb_s=10.0, ui_load_s=3.0),
        "inside": report(api_p95_ms=1.0, upload_mb_s=99.0, ui_load_s=0.1, database_p95_ms=100.0)}, read_only=False)
    assert result["met"] and not result["missed"]
    assert [line.split("  ")[0] for line in result["table"]] == [
        "Figure", "API p95", "API p95", "artifact upload", "artifact upload", "UI load", "UI load",
        "database query p95"]
    assert all(line.endswith("met") for line in result["table"][1:])


def test_each_level_can_be_missed():
    wanted = {"mlflow_service_level_ui_load": 2000}
    result = service_levels.judge(resolve(**wanted, mlflow_service_levels_from=["inside"]), {
        "inside": report(api_p95_ms=750.0, upload_mb_s=8.0, ui_load_s=2.5, database_p95_ms=100.1)}, read_only=False)
    assert result["missed"] == [
        "sound: API p95 in the server's pod is 750 ms, and mlflow_service_level_api_p95 wants at most 500 ms: 250.0 ms "
        "(50 %) more.",
        "sound: artifact upload in the server's pod is 8 MB/s, and mlflow_service_level_upload wants at least 10 MB/s: "
        "2.0 MB/s (20 %) less.",
        "sound: UI load in the server's pod is 2500 ms, and mlflow_service_level_ui_load wants at most 2000 ms: 500.0 "
        "ms (25 %) more.",
        "sound: database query p95 in the server's pod is 100.1 ms, and mlflow_service_level_database_p95 wants at "
        "most 100 ms: 0.1 ms (0 %) more."]
    assert not result["met"] and all(line.endswith("MISSED") for line in result["table"][1:])


def test_what_cannot_be_measured_is_not_met():
    broken = {"checks": [{"name": "experiment", "ok": False, "detail": "answers 401"},
                         {"name": "api", "ok": False, "detail": "not run, since experiment failed"},
                         {"name": "ui", "ok": True, "detail": "7 files"},
                         {"name": "removal", "ok": False, "detail": "answers 500"}], "ui_load_s": 1.0}
    result = service_levels.judge(resolve(mlflow_service_levels_from=["outside"]), {"outside": broken}, read_only=False)
    assert result["missed"] == [
        "sound: API p95 from outside cannot be measured: answers 401.",
        "sound: artifact upload from outside cannot be measured: answers 401.",
        "What was created to measure sound from outside is not removed: answers 500."]
    assert result["table"][1].split()[-2:] == ["-", "MISSED"]


def test_check_mode_measures_no_upload():
    result = service_levels.judge(resolve(), {"outside": report(api_p95_ms=1.0, ui_load_s=1.0)}, read_only=True)
    assert result["met"] and [figure["met"] for figure in result["figures"]] == [True, None, True]


PROXY = {"ingress_type": "proxy", "ingress_hosts": ["m.test"], "ingress_tls": "self_signed"}
OIDC = {"mlflow_server_auth": "oidc", "mlflow_server_oidc_issuer": "https://i", "mlflow_server_oidc_client_id": "m",
        "mlflow_server_oidc_client_secret": "s"}


@pytest.mark.parametrize(("variables", "forwarded", "parameters"), [
    ({}, ("sound-server", 5000), {"url": "http://sound-server.sound.svc.cluster.local:5000", "validate_certs": False}),
    ({"mlflow_engine": "podman", "mlflow_server_publish": "127.0.0.1:5009"}, None,
     {"url": "http://127.0.0.1:5009", "validate_certs": False}),
    ({"mlflow_engine": "podman", **PROXY, "ingress_path": "/a"}, None,
     {"url": "https://m.test:8443/a", "validate_certs": True, "connect": "127.0.0.1:8443", "ca": "PEM"}),
    (PROXY, ("sound-ingress", 8443), {"url": "https://m.test:8443", "validate_certs": True, "ca": "PEM"}),
    ({**PROXY, "ingress_service_type": "LoadBalancer", "ingress_service_port": 443}, None,
     {"url": "https://m.test", "validate_certs": True, "ca": "PEM"}),
    ({"ingress_type": "ingress", "ingress_hosts": ["m.test"], "ingress_tls": "controller",
      "mlflow_server_auth": "basic"}, None,
     {"url": "https://m.test", "validate_certs": True, "username": "chief", "password": "hidden"}),
    ({**PROXY, **OIDC, "ingress_connect": "10.0.0.1:443"}, None,
     {"url": "https://m.test:8443", "validate_certs": True, "ca": "PEM", "connect": "10.0.0.1:443", "token": "abc"}),
])
def test_how_the_server_is_reached_from_outside(variables, forwarded, parameters):
    engine = LocalEngine(secrets={"sound-ingress-ca": {"ca.crt": "PEM"},
                                  "sound-server-auth": {"username": "chief", "password": "hidden"}})
    instance = resolve(**variables)
    assert service_levels.forwarded(instance) == forwarded
    assert service_levels.outside(instance, engine, parameters.get("token", "")) == parameters


def test_openid_connect_needs_a_token():
    with pytest.raises(engines.EngineError, match="token is empty while mlflow_server_auth is oidc; give"):
        service_levels.outside(resolve(**PROXY, **OIDC), LocalEngine(secrets={"sound-ingress-ca": {}}), "")


# -- the action --------------------------------------------------------------------------------------------------------


class Instance(LocalEngine):
    """An instance with a pod, and a store of objects."""

    def __init__(self, **environment):
        super().__init__(**environment)
        self.scope, self.objects = engines.Scope("sound", "sound"), {}

    def pods(self):
        return [{"name": "sound-server", "component": "server", "ready": True}]

    def read(self, refs, kinds):
        return {ref: obj for ref, obj in self.objects.items() if ref in refs}

    def put(self, objects, live, dry_run):
        self.objects.update({Ref.of(obj): obj for obj in objects})
        return {Ref.of(obj): Put(obj) for obj in objects}


@pytest.fixture
def act(monkeypatch):
    """Measures an instance at a URL; its pod, the inventory host and the controller are this machine."""
    def run(engine, url, check_mode=False, variables=None, **arguments):
        instance = resolve(mlflow_engine="podman", mlflow_server_publish=f"127.0.0.1:{port_of(url)}",
                           mlflow_service_levels_artifact_size=2, mlflow_service_levels_requests=20,
                           **(variables or {}))
        task = Task()
        task.action, task.args, task.check_mode, task.async_val = "service_levels", arguments, check_mode, 0
        connection = types.SimpleNamespace(_shell=types.SimpleNamespace(tmpdir="/tmp"), transport="local")
        plugin = action.ActionModule(task, connection, PlayContext(), DataLoader(), Templar(DataLoader()), None)
        monkeypatch.setattr(plugin, "resolve", lambda _vars: instance)
        monkeypatch.setattr(plugin, "engine_of", lambda _instance: contextlib.nullcontext(engine))
        monkeypatch.setattr(plugin, "_command", command)
        # The name of the Service is known in pods only.
        monkeypatch.setattr(service_levels, "inside", lambda _model: {"url": url, "environment": True})
        return plugin.run(task_vars={"ansible_python_interpreter": sys.executable})

    def command(argv, stdin):
        assert argv == [sys.executable, "-"]
        done = subprocess.run([sys.executable, "-I", "-"], input=stdin, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    return run


def test_an_instance_is_measured_from_both_places(act, mlflow_server):
    url, database = mlflow_server
    engine = Instance(MLFLOW_BACKEND_STORE_URI=f"sqlite:///{database}")
    wide = dict.fromkeys(("mlflow_service_level_api_p95", "mlflow_service_level_ui_load",
                          "mlflow_service_level_database_p95"), 60_000) | {"mlflow_service_level_upload": 1}
    result = act(engine, url, variables=wide)
    assert result["met"] and not result["changed"], result["missed"]
    assert [(f["title"], f["place"]) for f in result["figures"]][-1] == ("database query p95", "inside")
    assert len(result["figures"]) == 7 and all(figure["measured"] is not None for figure in result["figures"])
    assert result["ansible_facts"]["mlflow_service_levels"]["figures"] == result["figures"]
    assert service_levels.last(engine) == {key: result[key] for key in ("time", "met", "figures", "missed")}
    kept = next(iter(engine.objects.values()))
    assert len(engine.objects) == 1
    assert engine.scope.owns(kept) and kept["metadata"]["name"] == "sound-service-levels"
    assert kept["metadata"]["annotations"][manifests.RECORD], "the next run of site.yml leaves it"
    assert left_over(url) == ["Default"]


def test_a_slow_server_fails_with_the_level_and_the_difference(act, mlflow_server):
    def change(_method, path, body):
        if "/api/2.0/mlflow/runs/get" in path or "/api/2.0/mlflow/experiments/search" in path:
            time.sleep(0.3)
        return body

    engine = Instance()
    with between(mlflow_server[0], change) as slow:
        with pytest.raises(AnsibleActionFail) as failure:
            act(engine, slow, require_met=True,
                variables={"mlflow_service_level_api_p95": 250, "mlflow_service_level_ui_load": 60_000,
                           "mlflow_service_level_upload": 1, "mlflow_service_levels_from": ["outside"]})
    (sentence,) = str(failure.value).splitlines()
    assert sentence.startswith("sound: API p95 from outside is ")
    assert "mlflow_service_level_api_p95 wants at most 250 ms: " in sentence and sentence.endswith(" %) more.")
    assert service_levels.last(engine)["missed"] == [sentence], "the status shows it, too"


def test_check_mode_keeps_no_figures(act, mlflow_server):
    engine = Instance()
    result = act(engine, mlflow_server[0], check_mode=True, variables={"mlflow_service_levels_from": ["outside"]})
    assert [figure["met"] for figure in result["figures"]].count(None) == 1 and service_levels.last(engine) is None


def test_figures_are_not_written_over_another_s_object():
    engine = Instance()
    engine.objects[Ref("", "ConfigMap", "sound", "sound-service-levels")] = {
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "sound-service-levels", "namespace": "sound"}}
    with pytest.raises(engines.EngineError, match="belongs to nobody that it names, not to instance sound"):
        service_levels.record(engine, {"met": True, "figures": [], "missed": []}, "2026-01-01T00:00:00+00:00")
    assert service_levels.last(engine) is None


def test_an_instance_that_is_not_installed(act, mlflow_server, monkeypatch):
    engine = Instance()
    monkeypatch.setattr(engine, "pods", lambda: [])
    with pytest.raises(AnsibleActionFail, match="Instance sound is not installed"):
        act(engine, mlflow_server[0])
