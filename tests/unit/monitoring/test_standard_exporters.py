# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Standard exporters with the commands of their pods, on real databases and this machine, scraped by a real Prometheus.

They are Debian's, which role images puts at the paths of the official images.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from typing import Iterator

import pytest
import yaml
from ansible_collections.mlops.mlflow.plugins.module_utils.probes import database as databases
from ansible_collections.mlops.mlflow.plugins.plugin_utils import manifests
from ansible_collections.mlops.mlflow.plugins.plugin_utils.components.images import contents
from ansible_collections.mlops.mlflow.plugins.plugin_utils.monitoring import dashboards, exporters as standard, metrics
from exporters import unit
from test_component import rendered

LABELS = {"namespace": "sound", "instance_name": "sound"}
READERS = {
    "postgresql": ("CREATE ROLE mlflow_exporter LOGIN PASSWORD 'Sentinel' CONNECTION LIMIT 5",
                   "GRANT pg_monitor, pg_read_all_data TO mlflow_exporter",
                   "ALTER ROLE mlflow_exporter SET default_transaction_read_only = on"),
    "mysql": ("CREATE USER mlflow_exporter@localhost IDENTIFIED BY 'Sentinel' WITH MAX_USER_CONNECTIONS 5",
              "GRANT SELECT ON mlflow.* TO mlflow_exporter@localhost",
              "GRANT PROCESS ON *.* TO mlflow_exporter@localhost"),
}
"""The login that plugin_utils/logins.py makes."""


@pytest.fixture(scope="module", params=["postgresql", "mysql"])
def database(request, tmp_path_factory) -> Iterator[dict]:
    folder = tmp_path_factory.mktemp(request.param)
    command, options, client = {"postgresql": unit.new_postgresql, "mysql": unit.new_mariadb}[request.param](folder)
    with unit.running(command, unit.answers(client["port"]), folder / "log", **options):
        opened = databases.database_of(client)
        opened.connect()
        if request.param == "postgresql":
            opened.query("CREATE DATABASE mlflow")
        for statement in READERS[request.param]:
            opened.query(statement)
        yield {**client, "database": "mlflow"}


def run(name: str, folder: pathlib.Path, client: dict | None):
    """A running exporter: its port and its process."""
    exporter, port = standard.EXPORTERS[name], unit.free_port()
    debian = "prometheus-" + exporter.built
    unit.program(debian, package=debian)
    bin_path = {"postgresql": "/bin/postgres_exporter", "mysql": "/bin/mysqld_exporter", "node": "/bin/node_exporter"}
    flag = f"--web.listen-address=127.0.0.1:{port}"
    command = []
    for part in exporter.command:
        # Its paths in the pod.
        part = part.replace(bin_path[name], f"{shutil.which(debian)} {flag}" if "\n" in part else shutil.which(debian))
        command.append(part.replace("/tmp/my.cnf", f"{folder}/my.cnf").replace("=/host/", "=/").replace("=/host", "=/"))
    if len(exporter.command) == 1 or name == "node":
        command.append(flag)
    environment = {"PATH": os.environ["PATH"]}
    if client:
        environment |= exporter.environment(client["host"], client["port"], client["database"])
        environment |= dict(zip(exporter.login, ("mlflow_exporter", "Sentinel")))
    return port, unit.running(command, unit.answers(port), folder / "exporter.log", cwd=folder, env=environment)


def check_dashboard(name: str, port: int, folder: pathlib.Path) -> None:
    """Every query of the exporter's dashboard has data in a Prometheus that scrapes the exporter."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        assert "Sentinel" not in answer.read().decode()
    own = unit.free_port()
    (folder / "prometheus.yml").write_text(yaml.safe_dump({
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
        "scrape_configs": [{"job_name": standard.EXPORTERS[name].job, "static_configs": [
            {"targets": [f"127.0.0.1:{port}"], "labels": LABELS}]}]}))
    command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
               f"--web.listen-address=127.0.0.1:{own}"]
    queries = []
    more = set(dashboards.dashboards([name])) - set(dashboards.dashboards())
    assert more == {f"mlflow-{name}"}
    for panel in dashboards.dashboards([name])[f"mlflow-{name}"]["panels"]:
        queries += [target["expr"] for target in panel.get("targets", [])]
    assert len(queries) >= 6
    with unit.running(command, unit.answers(own), folder / "prometheus.log"):
        left, deadline = queries, time.monotonic() + 40
        while left and time.monotonic() < deadline:
            time.sleep(1)
            left = [query for query in left if not answered(own, query)]
        assert not left, left


def answered(port: int, query: str) -> list:
    for variable, value in (("$namespace", "sound"), ("$instance_name", "sound"), ("$__rate_interval", "10s")):
        query = query.replace(variable, value)
    url = f"http://127.0.0.1:{port}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]["result"]
    except urllib.error.HTTPError as error:
        if error.code == 503:
            return []
        raise


def test_of_a_database(database, tmp_path):
    name = database["dialect"]
    port, running = run(name, tmp_path, database)
    with running as process:
        assert "Sentinel" not in pathlib.Path(f"/proc/{process.pid}/cmdline").read_text()
        check_dashboard(name, port, tmp_path)
    if name == "mysql":
        assert (tmp_path / "my.cnf").stat().st_mode & 0o077 == 0


def test_of_the_machine(tmp_path):
    port, running = run("node", tmp_path, None)
    with running:
        check_dashboard("node", port, tmp_path)


def test_labels_of_the_list_are_those_of_the_exporters(database, tmp_path):
    name = database["dialect"]
    with contextlib.ExitStack() as stack:
        for each in (name, "node"):
            folder = tmp_path / each
            folder.mkdir()
            port, running = run(each, folder, database)
            stack.enter_context(running)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                text = answer.read().decode()
            for metric in (metric for metric in metrics.METRICS if metric.source == each):
                lines = [line for line in text.splitlines() if line.split("{")[0].split(" ")[0] == metric.name]
                assert lines, metric.name
                assert set(metrics.LABEL.findall(lines[0])) >= set(metric.labels), lines[0]


@pytest.mark.parametrize("kind, image", [("postgresql", "postgres-exporter"), ("mariadb", "mysqld-exporter")])
def test_pods(kind, image):
    resolved, objects = rendered(database_type=kind, monitoring_exporters=["database", "node"])
    pods = {obj["metadata"]["name"]: obj["spec"]["template"]["spec"] for obj in objects if obj["kind"] == "Deployment"}
    of_database, of_machine = pods["sound-monitoring-database-exporter"], pods["sound-monitoring-node-exporter"]
    assert f"/{image}:" in of_database["containers"][0]["image"]
    secrets = {entry["name"]: entry["valueFrom"]["secretKeyRef"] for entry in of_database["containers"][0]["env"]
               if "valueFrom" in entry}
    assert [reference["key"] for reference in secrets.values()] == ["username", "password"]
    assert {reference["name"] for reference in secrets.values()} == {resolved.monitoring.login}
    (machine,) = [volume for volume in of_machine["volumes"] if "hostPath" in volume]
    (mount,) = [mount for mount in of_machine["containers"][0]["volumeMounts"] if mount["name"] == machine["name"]]
    assert mount["readOnly"] and machine["hostPath"] == {"path": "/"}
    (secret,) = [obj for obj in objects if manifests.annotation(obj, manifests.DATABASE_LOGIN)]
    assert json.loads(manifests.annotation(secret, manifests.DATABASE_LOGIN))["process"] is True
    configuration = yaml.safe_load(resolved.monitoring.prometheus["prometheus.yml"])
    jobs = {job["job_name"] for job in configuration["scrape_configs"]}
    assert {"mlflow-database-exporter", "mlflow-node-exporter"} < jobs
    without, _objects = rendered(database_type=kind)
    assert set(resolved.monitoring.dashboards) - set(without.monitoring.dashboards) == {
        {"postgresql": "mlflow-postgresql", "mariadb": "mlflow-mysql"}[kind], "mlflow-node"}


@pytest.mark.parametrize("kind", ["operator", "annotations"])
def test_a_cluster_collects_them(kind):
    _resolved, objects = rendered(monitoring_type=kind, mlflow_engine="kubernetes", monitoring_exporters=["database"])
    (pod,) = [obj["spec"]["template"]["metadata"] for obj in objects if obj["kind"] == "Deployment"
              and obj["metadata"]["name"].endswith("-database-exporter")]
    if kind == "annotations":
        assert pod["annotations"]["prometheus.io/port"] == "9187"
        assert (pod["labels"]["job"], pod["labels"]["instance_name"]) == ("mlflow-database-exporter", "sound")
        return
    monitors = [obj for obj in objects if obj["kind"] == "PodMonitor"
                and obj["spec"]["selector"]["matchLabels"].items() <= pod["labels"].items()]
    assert len(monitors) == 1


def test_versions_are_those_of_debian():
    found = contents(rendered(mlflow_image_source="build")[0].variables)
    for exporter in standard.EXPORTERS.values():
        debian = "prometheus-" + exporter.built
        done = subprocess.run([unit.program(debian, package=debian), "--version"], capture_output=True, text=True,
                              check=True)
        assert f"version {found[exporter.built][0]}" in done.stdout + done.stderr
