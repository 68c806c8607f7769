# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Text that a server and an exporter would expose, and a Prometheus that scrapes it.

The text stands in for an instance, which tests of deployments have; Prometheus, its rules and its API are real. Values
are functions of the time, so that a history can be written before the start.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import math
import pathlib
import random
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from typing import Callable

import yaml
from ansible_collections.mlops.mlflow.plugins.plugin_utils.monitoring import metrics, rules

NAMESPACE, INSTANCE = "team-a", "mlflow"
OWN = {"namespace": NAMESPACE, "instance_name": INSTANCE}
ROUTES = (
    # method, route, status, requests per second, seconds, bytes in, bytes out
    ("POST", "/api/2.0/mlflow/runs/log-batch", "200", 9.0, 0.03, 2000, 2),
    ("POST", "/api/2.0/mlflow/runs/search", "200", 3.0, 0.07, 300, 40000),
    ("GET", "/ajax-api/2.0/mlflow/metrics/get-history", "200", 1.0, 0.09, 0, 90000),
    ("POST", "/api/2.0/mlflow/runs/create", "200", 0.3, 0.04, 200, 900),
    ("POST", "/api/2.0/mlflow/experiments/create", "200", 0.01, 0.04, 200, 90),
    ("POST", "/api/2.0/mlflow/model-versions/create", "200", 0.02, 0.06, 300, 900),
    ("GET", "/api/2.0/mlflow/runs/get", "404", 0.2, 0.01, 0, 200),
    ("POST", "/api/2.0/mlflow/runs/log-batch", "500", 0.012, 0.9, 2000, 200),
    ("PUT", "/api/2.0/mlflow-artifacts/artifacts/{artifact_path}", "200", 0.2, 1.2, 2.2e7, 2),
    ("GET", "/static-files/{path}", "200", 0.4, 0.02, 0, 300000),
)
GAUGES = {
    "mlflow_experiments": [({"stage": "active"}, 42), ({"stage": "deleted"}, 5)],
    "mlflow_runs": [({"status": status, "stage": "active"}, value) for status, value in
                    (("FINISHED", 18240), ("FAILED", 611), ("RUNNING", 14), ("KILLED", 98))],
    "mlflow_registered_models": 17, "mlflow_model_versions": 93, "mlflow_model_aliases": 21, "mlflow_prompts": 8,
    "mlflow_users": 12, "mlflow_traces_last_day": 2210, "mlflow_active_experiments": 42,
    "mlflow_artifacts_stored": 58123,
    "mlflow_artifacts_bytes": 4.1e11, "mlflow_artifacts_counted_fraction": 1, "mlflow_database_up": 1,
    "mlflow_database_query_duration_seconds": [({"query": "ping"}, 0.002), ({"query": "schema"}, 0.004),
                                               ({"query": "runs"}, 0.09)],
    "mlflow_database_size_bytes": 1.7e9, "mlflow_database_connections_used": 23,
    "mlflow_database_connections_allowed": 100, "mlflow_database_archive_success": 1, "mlflow_schema_current": 1,
    "mlflow_schema_info": [({"found": "bd07f7e963c5", "wanted": "bd07f7e963c5"}, 1)],
    "mlflow_object_store_up": 1, "mlflow_object_store_write_seconds": 0.03, "mlflow_object_store_read_seconds": 0.012,
    "mlflow_round_trip_success": 1, "mlflow_round_trip_duration_seconds": 0.9,
    "mlflow_round_trip_last_timestamp_seconds": "now",
    "mlflow_certificate_expiry_timestamp_seconds": [({"host": "mlflow.example.com"}, "now+5000000")],
    "mlflow_volume_size_bytes": [({"volume": "database"}, 8e9), ({"volume": "artifacts"}, 1e12)],
    "mlflow_volume_free_bytes": [({"volume": "database"}, 5.1e9), ({"volume": "artifacts"}, 5.6e11)],
    "mlflow_backup_last_timestamp_seconds": "now-140000", "mlflow_backup_last_verified_timestamp_seconds": "now-150000",
    "mlflow_backup_last_failed_timestamp_seconds": "now-900000",
    "mlflow_backup_last_base_timestamp_seconds": "now-40000", "mlflow_backup_expected_interval_seconds": 86400,
    "mlflow_exporter_collection_duration_seconds": [({"collector": "database"}, 0.05), ({"collector": "counts"}, 0.4)],
    "mlflow_exporter_collection_success": [({"collector": "database"}, 1), ({"collector": "counts"}, 1)],
}
BEGIN = 1.7e9
"""Time at which counters were 0."""


def wave(now: float, name: str) -> float:
    """A factor around 1: more in the one hour than in the other, and some noise."""
    noise = random.Random(f"{name}{int(now // 60)}").uniform(-0.12, 0.12)
    return 1 + 0.4 * math.sin(now / 4000) + noise


def counted(now: float, each: float) -> float:
    """A counter of ``each`` per second on average; its rate follows the wave."""
    return each * (now - BEGIN + 0.4 * 4000 * (1 - math.cos(now / 4000)))


def server(now: float) -> list[tuple[str, dict[str, str], float]]:
    """Samples of the server's metrics."""
    samples: list[tuple[str, dict[str, str], float]] = [
        ("mlflow_http_requests_in_flight", {}, max(0, round(4 * wave(now, "flight") - 1))),
        ("mlflow_server_info", {"version": "3.17.2"}, 1), ("mlflow_server_start_time_seconds", {}, now - 400000)]
    for method, route, status, rate, seconds, received, sent in ROUTES:
        labels = {"method": method, "route": route, "status": status}
        number = counted(now, rate)
        samples.append(("mlflow_http_request_total", labels, number))
        samples.append(("mlflow_requests_total", {"method": method, "endpoint": route, "status": status}, number))
        name = "mlflow_http_request_duration_seconds"
        samples += [(f"{name}_count", labels, number), (f"{name}_sum", labels, number * seconds)]
        for bound in (*metrics.DURATION_BUCKETS, math.inf):
            # Durations are spread exponentially.
            share = 1 - math.exp(-bound / seconds)
            samples.append((f"{name}_bucket", {**labels, "le": "+Inf" if bound == math.inf else f"{bound:g}"},
                            number * share))
        if status == "200":
            both = {"method": method, "route": route}
            samples += [("mlflow_http_request_bytes_total", both, number * received),
                        ("mlflow_http_response_bytes_total", both, number * sent),
                        ("mlflow_http_request_exceptions_total", both, 0)]
    return samples


def exporter(now: float) -> list[tuple[str, dict[str, str], float]]:
    """Samples of the exporter's metrics."""
    samples = []
    for name, values in GAUGES.items():
        for labels, value in values if isinstance(values, list) else [({}, values)]:
            if isinstance(value, str):
                value = now + float(value.removeprefix("now") or 0)
            if name.endswith("_seconds") and "timestamp" not in name and "interval" not in name:
                value *= wave(now, name + str(labels))
            samples.append((name, labels, value))
    return samples


def text(samples, extra: dict[str, str] | None = None, at: float | None = None) -> str:
    lines = []
    for name, labels, value in samples:
        pairs = ",".join(f'{key}="{each}"' for key, each in {**(extra or {}), **labels}.items())
        lines.append(f"{name}{{{pairs}}} {value!r}" + (f" {at:.0f}" if at else ""))
    return "\n".join(lines) + "\n"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        samples = server if self.path.startswith("/server") else exporter
        body = text(samples(time.time())).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments) -> None:
        """Not in the output of tests."""


class Prometheus:
    """The API of a Prometheus."""

    def __init__(self, port: int, prefix: str) -> None:
        self.url = f"http://127.0.0.1:{port}{prefix}"

    def get(self, path: str, **parameters: str) -> dict | list:
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            return json.load(answer)["data"]

    def result(self, query: str, patience: float = 20) -> list[dict]:
        """The result of a query, once there is one, or none after so many seconds: on a busy machine a scrape may take
        longer than the second that it has, and leave a gap."""
        deadline = time.monotonic() + patience
        while not (found := self.get("query", query=query)["result"]) and time.monotonic() < deadline:
            time.sleep(0.5)
        return found


@contextlib.contextmanager
def prometheus(folder: pathlib.Path, port: int, rule_file: dict, consoles: pathlib.Path, *, history: float = 0,
               prefix: str = "", scrape: Callable[[str], list[dict]] | None = None):
    """Run a Prometheus that scrapes the samples every second, until its rules have results and an alert fires.

    Args:
        folder: for its data and configuration.
        port: to listen on; the samples are served at port + 1.
        rule_file: its rules.
        consoles: directory of console templates.
        history: seconds of samples to write before it starts.
        prefix: path prefix.
        scrape: the scrape configurations, by the address of the samples, whose paths are /server and /exporter.
    """
    targets = http.server.ThreadingHTTPServer(("127.0.0.1", port + 1), Handler)
    threading.Thread(target=targets.serve_forever, daemon=True).start()
    (folder / "rules.yml").write_text(yaml.safe_dump(rule_file), encoding="utf-8")
    (folder / "prometheus.yml").write_text(yaml.safe_dump({
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yml"],
        "scrape_configs": (scrape or own_jobs)(f"127.0.0.1:{port + 1}")}), encoding="utf-8")
    if history:
        write_history(folder, history, f"127.0.0.1:{port + 1}")
    process = subprocess.Popen(
        ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
         f"--web.listen-address=127.0.0.1:{port}", f"--web.console.templates={consoles}",
         f"--web.external-url=http://127.0.0.1:{port}{prefix}/"], stderr=(folder / "log").open("w"))
    try:
        found = Prometheus(port, prefix)
        wait_for(lambda: ready(found, process), 60, folder / "log")
        yield found
    finally:
        process.terminate()
        process.wait(30)
        targets.shutdown()
        targets.server_close()


def own_jobs(target: str) -> list[dict]:
    """Scrape configurations with the labels that those of the collection give."""
    static = [{"targets": [target], "labels": OWN}]
    return [{"job_name": job, "metrics_path": path, "static_configs": static}
            for job, path in ((metrics.SERVER_JOB, "/server"), (metrics.EXPORTER_JOB, "/exporter"))]


READY = ('instance_name:mlflow_slo_errors:ratio{slo="api-latency",window="30d"} >= 0', 'ALERTS{alertstate="firing"}',
         "rate(mlflow_http_request_total[1m])", "mlflow_database_up",
         "instance_name:mlflow_upload_bytes_per_second:rate5m")


def ready(found: Prometheus, process: subprocess.Popen) -> bool:
    assert process.poll() is None, "Prometheus ended"
    try:
        return all(found.get("query", query=query)["result"] for query in READY)
    except OSError:
        return False


def wait_for(condition, seconds: float, log: pathlib.Path) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, log.read_text(encoding="utf-8")[-3000:]
        time.sleep(0.5)


def write_history(folder: pathlib.Path, seconds: float, target: str) -> None:
    """Blocks with the samples of the past, those of the service levels' recording rules included."""
    now = time.time()
    objectives = {level.slo: level.objective for level in rules.service_levels(rules.Settings(NAMESPACE, INSTANCE))}
    with (folder / "history.txt").open("w", encoding="utf-8") as stream:
        at = now - seconds
        while at < now - 30:
            for job, samples in ((metrics.SERVER_JOB, server(at)), (metrics.EXPORTER_JOB, exporter(at))):
                stream.write(text([*samples, ("up", {}, 1)], {**OWN, "job": job, "instance": target}, at))
            for slo, objective in objectives.items():
                bad = (1 - objective) * (0.3 + 0.2 * math.sin(at / 3000 + len(slo)))
                stream.write(text([("instance_name:mlflow_slo_events:rate5m", {"slo": slo}, 1.0),
                                   ("instance_name:mlflow_slo_bad_events:rate5m", {"slo": slo}, bad),
                                   ("instance_name:mlflow_slo_objective:ratio", {"slo": slo}, objective),
                                   ("instance_name:mlflow_slo_errors:ratio", {"slo": slo, "window": "1h"}, bad)],
                                  OWN, at))
            at += 30
        stream.write("# EOF\n")
    done = subprocess.run(["promtool", "tsdb", "create-blocks-from", "openmetrics", str(folder / "history.txt"),
                           str(folder / "data")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
