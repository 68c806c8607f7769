# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The probe program, run by a bare Python that knows neither the collection nor what else is installed."""

from __future__ import annotations

import contextlib
import http.server
import os
import subprocess
import sys
import threading
import time

import mlflow
import pytest
from ansible_collections.mlops.mlflow.plugins.plugin_utils import engines, program
from ansible_collections.mlops.mlflow.plugins.plugin_utils.program import Probe


class BarePython(engines.Engine):
    """Executes in a process of this machine, isolated from its environment's Python settings, with the variables
    given."""

    def __init__(self, **environment):
        super().__init__(engines.Scope("team-a", "team-a"), print)
        self.environment, self.executed = environment, []

    def execute(self, service, argv, stdin="", timeout=120):
        assert argv == ["python3", "-"]
        self.executed.append(stdin)
        done = subprocess.run([sys.executable, "-I", "-"], input=stdin, capture_output=True, text=True,
                              timeout=timeout, check=False,
                              env={"PATH": os.environ["PATH"], **self.environment})
        if done.returncode:
            raise engines.EngineError(f"python3 in pod {service} failed: {done.stderr.strip().splitlines()[-1]}")
        return done.stdout


@pytest.fixture
def instance(mlflow_server, tmp_path):
    """The probes of an instance, and an engine whose pod has the server's environment."""
    url, database = mlflow_server
    engine = BarePython(MLFLOW_BACKEND_STORE_URI=f"sqlite:///{database}", MLFLOW_ARTIFACTS_DESTINATION=str(tmp_path))
    probes = [Probe("database", "The database", "database", {"environment": True}),
              Probe("object_store", "The artifact store", "object_store", {"environment": True, "size_mb": 1}),
              Probe("server", "The server", "server",
                    {"environment": True, "url": url, "expected_version": mlflow.__version__}),
              Probe("roundtrip", "The client's round trip", "roundtrip", {"environment": True, "url": url})]
    return engine, probes


def test_a_whole_instance(instance):
    engine, probes = instance
    reports = program.run(engine, "team-a-server", probes)
    assert list(reports) == ["database", "object_store", "server", "roundtrip"]
    assert not program.failures(probes, reports)
    assert all(report["healthy"] for report in reports.values()), reports
    assert reports["server"]["version"] == mlflow.__version__
    assert reports["database"]["revision"] == reports["database"]["revision_wanted"]
    assert len(engine.executed) == 1


def test_a_probe_that_fails_leaves_the_others(instance):
    engine, probes = instance
    probes = [*probes, Probe("ingress", "The ingress", "server", {"url": "http://127.0.0.1:9"}),
              Probe("other", "The other", "database", {})]
    reports = program.run(engine, "team-a-server", probes[2:])
    assert reports["server"]["healthy"] and reports["roundtrip"]["healthy"]
    sentences = program.failures(probes[2:], reports)
    assert sentences[0].startswith("The ingress is not healthy: http: http://127.0.0.1:9/health does not answer: ")
    assert "refused" in sentences[0]
    assert sentences[-1].startswith("The other is not healthy: run: ")


def test_a_pod_that_is_not_there(instance):
    _engine, probes = instance

    class Nobody(BarePython):
        def execute(self, service, argv, stdin="", timeout=120):
            raise engines.EngineError(f"Service {service} has no ready pod.")

    reports = program.run(Nobody(), "team-a-server", probes)
    assert program.failures(probes, reports) == [
        "No component can be measured: Service team-a-server has no ready pod."]
    assert program.failures(probes[:1],
                            reports) == ["The database is not healthy: run: Service team-a-server has no ready pod."]
    assert not any(report["healthy"] for report in reports.values())


def test_a_python_that_prints_something_else():
    class Chatty(BarePython):
        def execute(self, service, argv, stdin="", timeout=120):
            return "Segmentation fault\n"

    (report,) = program.run(Chatty(), "s",
                            [Probe("server", "The server", "server", {"url": "http://127.0.0.1:9"})]).values()
    assert "printed no result, but 'Segmentation fault'" in report["failures"][0]


@contextlib.contextmanager
def silent():
    """A server that takes requests and never answers."""
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            time.sleep(30)

        def log_message(self, *_arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_a_probe_that_does_not_end_in_time(mlflow_server):
    with silent() as url:
        probes = [Probe("slow", "The slow one", "server", {"url": url}),
                  Probe("server", "The server", "server", {"url": mlflow_server[0]})]
        begun = time.monotonic()
        reports = program.run(BarePython(), "s", probes, timeout=4)
    assert time.monotonic() - begun < 10
    assert reports["slow"]["failures"] == ["run: it did not end within 4 s"]
    assert reports["server"]["healthy"], reports["server"]["failures"]


def test_calling_a_function(mlflow_server):
    engine = BarePython()
    assert program.call(engine, "s", "mlflow_api", "version", {"url": mlflow_server[0]}) == mlflow.__version__
    with pytest.raises(engines.EngineError, match="ApiError: http://127.0.0.1:9/version does not answer"):
        program.call(engine, "s", "mlflow_api", "version", {"url": "http://127.0.0.1:9"})


def test_what_libraries_print_is_not_taken_for_the_result(tmp_path):
    """A pod's Python may print at its start; what probes' libraries print goes to standard error."""
    class Noisy(BarePython):
        def execute(self, service, argv, stdin="", timeout=120):
            return "hello from sitecustomize\n" + super().execute(service, argv, stdin, timeout)

    parameters = {"type": "volume", "path": str(tmp_path), "size_mb": 1}
    (report,) = program.run(Noisy(), "s", [Probe("store", "The store", "object_store", parameters)]).values()
    assert report["healthy"]


def test_only_what_is_needed_travels():
    wanted = Probe("database", "The database", "database").source
    assert len(program.source("checks", "measure_all", {}, [wanted])) < 12_000
    sources = program._sources((wanted,))
    assert {name.rpartition(".")[2] for name, text in sources.items() if text} == {"checks", "database"}


def test_a_probe_of_a_role_s_files(tmp_path, monkeypatch):
    """A component's probe lives in its own folder, and may use the collection's clients."""
    usual = program._path
    monkeypatch.setattr(program, "_path", lambda name: tmp_path / "probe.py" if "roles" in name else usual(name))
    (tmp_path / "probe.py").write_text(
        "from ansible_collections.mlops.mlflow.plugins.module_utils import mlflow_api\n"
        "def probe(checks, parameters):\n"
        "    checks.run('add', lambda: f\"{parameters['one'] + 1} {mlflow_api.__name__.rpartition('.')[2]}\")\n")
    probe = Probe("own", "The component", "roles/own/files/probe.py", {"one": 1})
    (report,) = program.run(BarePython(), "s", [probe]).values()
    assert [check["detail"] for check in report["checks"]] == ["2 mlflow_api"], report
