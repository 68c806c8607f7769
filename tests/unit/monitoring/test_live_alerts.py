# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Alerts provoked in a running instance, which arrive at a webhook through Prometheus and Alertmanager, and resolve.

Two servers of MLflow with the hook of the role, PostgreSQL, SeaweedFS, the exporter, Prometheus and Alertmanager are
real; the rules, the scrape configuration, Alertmanager's configuration and the arguments of both are what the component
renders. Only durations are shorter: `for`, the intervals of scrapes and of the exporter's collectors. Backups are made
by the programs of role backup, and fail in them; their ages, for which one would wait hours, are recorded by its code.
"""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import dataclasses
import datetime
import http.server
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from typing import Any, Iterator

import psycopg
import pytest
import yaml
from ansible_collections.mlops.mlflow.plugins.plugin_utils import components, model, render
from ansible_collections.mlops.mlflow.plugins.plugin_utils.monitoring import metrics, rules
from exporters import Restartable, backup_sets, environment_of, exporting, presenting, unit, uri_of, value

ROOT = pathlib.Path(__file__).parents[3]
PROVOKED = {
    "MLflowServerDown": "both servers stopped",
    "MLflowReplicaDown": "one of two servers stopped",
    "MLflowLatencyHigh": "a session locks a table",
    "MLflowErrorRatioHigh": "a session locks a table longer than the server waits (503)",
    "MLflowRoundTripFailing": "the same lock, while /health and the database answer",
    "MLflowCertificateExpiring": "a certificate that is valid for two more days",
    "MLflowDatabaseDown": "PostgreSQL stopped",
    "MLflowDatabaseConnectionsHigh": "85 of 100 connections opened",
    "MLflowDatabaseArchiveFailing": "an archive_command that fails",
    "MLflowSchemaNotCurrent": "another revision in alembic_version",
    "MLflowObjectStoreDown": "SeaweedFS stopped",
    "MLflowVolumeFilling": "a file system of 16 MiB filled to 90 %",
    "MLflowVolumeFullPredicted": "the same file system, as it fills",
    "MLflowBackupLate": "no backup; then one that is two hours old",
    "MLflowBackupFailed": "a backup of a database that does not answer",
    "MLflowBackupUnverified": "a backup that is not verified; then a verification that is old",
    "MLflowExporterDown": "the exporter stopped",
    "MLflowExporterCollectionFailing": "a session locks the table that is counted",
}
"""What causes each alert here, as docs/monitoring.md says it. promtool's rule tests have the others."""
HOST = "mlflow.example.com"
CONNECTIONS, OPENED = 100, 85
CLIENTS = 3
LOCK_TIMEOUT = "3s"
"""After which a server gives up a query: more than the threshold of the latency."""
VERIFIED_SECONDS = 15
EVERY = "3"
"""Seconds between two collections; each of them loads the clients of a store."""
TIMEOUT = 60
"""Seconds in which alerts arrive, on a busy machine too."""
LATE = {"MLflowServerDown", "MLflowReplicaDown", "MLflowExporterDown", "MLflowExporterCollectionFailing"}
"""Alerts that a busy machine may cause, since scrapes and collections may take a second here; they wait for several."""


class Webhook(http.server.BaseHTTPRequestHandler):
    """Keeps what Alertmanager sends."""

    received: list[dict] = []

    def do_POST(self) -> None:
        self.received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_arguments) -> None:
        """Not in the output of tests."""


def arrived() -> dict[tuple[str, str], set[str]]:
    """The newest statuses of all alerts of a name and reason."""
    newest = {}
    for message in list(Webhook.received):
        for alert in message["alerts"]:
            newest[alert["fingerprint"]] = alert
    found: dict[tuple[str, str], set[str]] = {}
    for alert in newest.values():
        labels = alert["labels"]
        found.setdefault((labels["alertname"], labels.get("reason", "")), set()).add(alert["status"])
    return found


def wait_for(status: str, *names: str) -> None:
    """Wait until of each alert, NAME or NAME/REASON, one has arrived that fires, or all have that resolved."""
    wanted = {(name, reason) for name, _slash, reason in (entry.partition("/") for entry in names)}
    begun, deadline = time.monotonic(), time.monotonic() + TIMEOUT
    while True:
        found = arrived()
        missing = {key for key in wanted if status not in found.get(key, ())
                   or status == "resolved" and "firing" in found[key]}
        if not missing:
            break
        assert time.monotonic() < deadline, (status, missing, found, Webhook.received[-5:])
        time.sleep(0.2)
    print(f"{status} after {time.monotonic() - begun:.1f} s: {', '.join(names)}")


class Instance:
    """What runs, and how to make it fail."""

    def __init__(self, folder: pathlib.Path):
        self.folder, self.volume = folder, folder / "volume"
        self.volume.mkdir()
        self.sets = backup_sets({"type": "volume", "path": str(folder / "backups")}, {})
        self.expiry = {HOST: datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=90)}
        database = folder / "postgresql"
        database.mkdir()
        self.no_archive = database / "no-archive"
        self.database = Restartable(*unit.new_postgresql(
            database, "-c", f"max_connections={CONNECTIONS}", "-c", "archive_mode=on", "-c",
            f"archive_command=test ! -e {self.no_archive}"), database)
        store = folder / "seaweedfs"
        store.mkdir()
        command, options, client = unit.new_seaweedfs(store)
        self.store = Restartable(command, options, client, store, lambda: unit.has_bucket(client["url"]))
        self.servers = [self.server(number) for number in range(2)]
        self.exporter_port, self.certificates_port = unit.free_port(), 0
        self.exporter_stack = contextlib.ExitStack()

    def of_the_store(self) -> dict[str, str]:
        client = self.store.client
        return {"MLFLOW_S3_ENDPOINT_URL": client["url"], "AWS_ACCESS_KEY_ID": client["access_key"],
                "AWS_SECRET_ACCESS_KEY": client["secret_key"], "AWS_DEFAULT_REGION": client["region"]}

    def server(self, number: int) -> Restartable:
        """A replica of MLflow with the files that the role gives the server."""
        folder, port, metrics_port = self.folder / f"server-{number}", unit.free_port(), unit.free_port()
        folder.mkdir()
        uri = f"{uri_of(self.database.client)}?options=-c%20lock_timeout%3D{LOCK_TIMEOUT}"
        command = [unit.BIN / "mlflow", "server", "--host=127.0.0.1", f"--port={port}", "--workers=1",
                   f"--backend-store-uri={uri}", "--artifacts-destination=s3://mlflow/live"]
        environment = {**os.environ, **self.of_the_store(), "PATH": f"{unit.BIN}:{os.environ['PATH']}",
                       "PYTHONPATH": f"{unit.ROLE_FILES}", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                       "MLFLOW_DISABLE_TELEMETRY": "true", "MLOPS_MLFLOW_METRICS": str(folder / "metrics"),
                       "MLOPS_MLFLOW_METRICS_PORT": str(metrics_port)}
        url = f"http://127.0.0.1:{port}"
        return Restartable(command, {"cwd": folder, "env": environment}, {"url": url, "metrics": metrics_port}, folder,
                           lambda: urllib.request.urlopen(f"{url}/health", timeout=2).close())

    def archive(self, works: bool) -> None:
        """Have WAL to archive, by a command that succeeds or fails."""
        if works:
            self.no_archive.unlink()
        else:
            self.no_archive.touch()
        self.query("SELECT txid_current()")
        self.query("SELECT pg_switch_wal()")

    def stop_database(self) -> None:
        """Without waiting for its clients, which never leave."""
        self.database.process.send_signal(signal.SIGINT)
        self.database.process.wait(20)
        self.database.stop()

    def start_exporter(self) -> None:
        """The exporter, in a mount namespace of its own, in which the volume is a small file system."""
        often = {f"MLOPS_EXPORTER_{name}_INTERVAL": EVERY for name in (
            "DATABASE", "COUNTS", "OBJECT_STORE", "ROUND_TRIP", "CERTIFICATES", "BACKUPS")}
        mount = f"mount -t tmpfs -o size=16m tmpfs {self.volume} && exec \"$@\""
        wrapper = ["unshare", "--mount", *(["--map-root-user"] if os.geteuid() else []), "sh", "-c", mount, "sh"]
        self.exporter = self.exporter_stack.enter_context(exporting(
            self.folder, *wrapper, **environment_of(self.database.client), **self.of_the_store(), **often,
            MLOPS_EXPORTER_PORT=str(self.exporter_port),
            MLFLOW_ARTIFACTS_DESTINATION="s3://mlflow/live", MLFLOW_TRACKING_URI=self.servers[0].client["url"],
            MLOPS_EXPORTER_SPARING="1", MLOPS_EXPORTER_COUNTS_TIMEOUT="6", MLOPS_EXPORTER_OBJECT_STORE_TIMEOUT="10",
            MLOPS_EXPORTER_ARTIFACTS_INTERVAL="0", MLOPS_EXPORTER_ROUND_TRIP_TIMEOUT="20",
            MLOPS_EXPORTER_VOLUMES=f"database={self.volume}", MLOPS_EXPORTER_VOLUMES_INTERVAL="1",
            MLOPS_EXPORTER_CERTIFICATES=f"{HOST}@127.0.0.1:{self.certificates_port}",
            BACKUP_STORE=self.backup_store, MLOPS_EXPORTER_BACKUP_EXPECTED_INTERVAL="3600"))

    def stop_exporter(self) -> None:
        self.exporter_stack.close()

    def request(self, path: str, body: dict | None = None, server: int = 0) -> int:
        """Status of a request."""
        request = urllib.request.Request(self.servers[server].client["url"] + path,
                                         None if body is None else json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            error.close()
            return error.code

    def search(self) -> int:
        return self.request("/api/2.0/mlflow/runs/search", {"experiment_ids": ["0"]})

    def requests_without_errors(self, number: int) -> None:
        """So many that those which failed or were slow are no longer many of the last five minutes'."""
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda index: self.request("/api/2.0/mlflow/experiments/get?experiment_id=0",
                                                             server=index % 2), range(number)))
        assert set(found) == {200}

    def query(self, statement: str) -> None:
        with psycopg.connect(self.uri, autocommit=True) as connection:
            connection.execute(statement)

    @property
    def uri(self) -> str:
        return uri_of(self.database.client).replace("+psycopg", "")

    @contextlib.contextmanager
    def locked(self) -> Iterator[list[int]]:
        """A lock on the table of runs, and clients that search for runs until it ends; statuses of their answers."""
        statuses: list[int] = []
        ended = threading.Event()

        def client(number: int) -> None:
            ended.wait(number)
            while not ended.is_set():
                statuses.append(self.search())

        with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool, psycopg.connect(self.uri) as connection:
            connection.execute("LOCK TABLE runs")
            for number in range(CLIENTS):
                pool.submit(client, number)
            try:
                yield statuses
            finally:
                connection.rollback()
                ended.set()

    @contextlib.contextmanager
    def connections(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for _number in range(OPENED):
                stack.enter_context(psycopg.connect(self.uri))
            yield

    @contextlib.contextmanager
    def filled(self) -> Iterator[None]:
        path = pathlib.Path(f"/proc/{self.exporter.process.pid}/root{self.volume}/data")
        with path.open("wb") as file:
            # As something that grows: the prediction wants a trend.
            for _part in range(18):
                file.write(bytes(int(0.05 * 16 * 2**20)))
                file.flush()
                time.sleep(0.3)
        yield
        path.unlink()

    def recorded(self, **ages: float) -> None:
        """Record backups that are so many seconds old, as the role that makes them does."""
        self.sets.status(**{key: int(time.time() - age) for key, age in ages.items()})

    @property
    def backup_store(self) -> str:
        return json.dumps({"type": "volume", "path": str(self.folder / "backups")})

    def backup(self, database: str = "") -> subprocess.CompletedProcess:
        """Make a backup with the two programs of the role's pod.

        Args:
            database: URI of another database than that of the servers.
        """
        folder = self.folder / f"backup-{time.time_ns()}"
        exchange = folder / "exchange"
        exchange.mkdir(parents=True)
        # Both ConfigMaps, which are two folders in the pod.
        for name, text in files_of("mlflow_server", "live-server")[0].items():
            (folder / name).write_text(text)
        programs, settings = files_of("backup", "live-backup")
        for name, text in programs.items():
            (folder / name).write_text(text)
        client = self.database.client
        environment = {**os.environ, **self.of_the_store(), "PYTHONPATH": str(folder), "EXCHANGE": str(exchange),
                       "BACKUP_STORE": self.backup_store, "BACKUP_SETTINGS": settings,
                       "MLFLOW_ARTIFACTS_DESTINATION": "s3://mlflow/live",
                       "MLFLOW_BACKEND_STORE_URI": database or uri_of(client),
                       "DATABASE_USER": client["user"], "DATABASE_PASSWORD": client["password"]}
        with subprocess.Popen(["sh", folder / "database.sh", "dump"], env=environment) as programs_of_the_database:
            done = subprocess.run([sys.executable, folder / "backup.py", "create", "--kind=scheduled"], env=environment,
                                  capture_output=True, text=True, timeout=120, check=False)
            programs_of_the_database.terminate()
        return done


def files_of(role: str, name: str) -> tuple[dict[str, str], str]:
    """The ConfigMap of a role for an instance with backups, and the settings of their pods."""
    values = {"backup_type": "volume"}
    resolved = model.resolve(values.__getitem__, values, "live")
    component = components.by_role(role)
    objects = render.render(component, resolved, {})
    (found,) = [obj for obj in objects if obj["kind"] == "ConfigMap" and obj["metadata"]["name"] == name]
    return found["data"], json.dumps(resolved.backup.settings)


def start(*parts: Restartable) -> None:
    """Start at the same time."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        list(pool.map(lambda part: part.start(), parts))


def rendered(webhook: str, publish: dict[str, str]) -> tuple[dict[str, str], dict[str, str], dict[str, list]]:
    """Files of Prometheus and of Alertmanager, and the arguments of both, for an instance with short durations."""
    values: dict[str, Any] = {
        "backup_type": "volume", "backup_schedule": "@every 2s",
        "monitoring_type": "prometheus", "monitoring_interval": 5, "mlflow_server_replicas": 2, **publish,
        "monitoring_alert_webhook_url": webhook, "monitoring_alert_group_wait": "0s",
        "monitoring_alert_group_interval": "1s",
        "monitoring_alert_thresholds": {"backup_verified_days": VERIFIED_SECONDS / rules.DAY,
                                        "minimum_requests": CLIENTS},
        "monitoring_alerts": {name: {"for": "5s" if name in LATE else "1s", "keep_firing_for": "0s"}
                              for name in PROVOKED},
        "monitoring_rules_extra": [{"alert": "RunsAreLogged", "expr": "mlflow_experiments >= 0"}]}
    resolved = model.resolve(values.__getitem__, values, "live")
    objects = render.render(components.by_role("monitoring"), resolved, {})
    files: dict[str, dict[str, str]] = {}
    arguments = {}
    for obj in objects:
        program = obj["metadata"]["name"].rpartition("-")[2]
        if obj["kind"] in ("ConfigMap", "Secret") and program in ("prometheus", "alertmanager"):
            files[program] = obj.get("stringData") or {
                key: base64.b64decode(text).decode() if obj["kind"] == "Secret" else text
                for key, text in obj["data"].items()}
        elif obj["kind"] == "Deployment":
            arguments[program] = obj["spec"]["template"]["spec"]["containers"][0].get("args")
    return files["prometheus"], files["alertmanager"], arguments


@contextlib.contextmanager
def collecting(folder: pathlib.Path, instance: Instance) -> Iterator[dict[str, str]]:
    """Prometheus and Alertmanager with what the component renders; their URLs."""
    hook = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Webhook)
    threading.Thread(target=hook.serve_forever, daemon=True).start()
    ports = {"prometheus": unit.free_port(), "alertmanager": unit.free_port()}
    publish = {"monitoring_publish": f"127.0.0.1:{ports['prometheus']}",
               "monitoring_alertmanager_publish": f"127.0.0.1:{ports['alertmanager']}"}
    of_prometheus, of_alertmanager, arguments = rendered(f"http://127.0.0.1:{hook.server_address[1]}", publish)
    targets = {
        metrics.SERVER_JOB: [f"127.0.0.1:{server.client['metrics']}" for server in instance.servers],
        metrics.EXPORTER_JOB: [re.sub("http://(.*)/metrics", r"\1", instance.exporter.url)],
        **{name: [f"127.0.0.1:{port}"] for name, port in ports.items()}}
    configuration = yaml.safe_load(of_prometheus["prometheus.yml"])
    configuration["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    configuration["alerting"]["alertmanagers"][0]["static_configs"] = [{"targets": targets["alertmanager"]}]
    for job in configuration["scrape_configs"]:
        job["static_configs"] = [{"targets": targets[job["job_name"]]}]
    of_prometheus["prometheus.yml"] = yaml.safe_dump(configuration)
    with contextlib.ExitStack() as stack:
        stack.callback(hook.server_close)
        stack.callback(hook.shutdown)
        for name, program, files in (("alertmanager", "prometheus-alertmanager", of_alertmanager),
                                     ("prometheus", "prometheus", of_prometheus)):
            etc, data = folder / name, folder / f"{name}-data"
            etc.mkdir()
            for file, text in files.items():
                (etc / file).write_text(text)
            command = [argument.replace(f"/etc/{name}", str(etc)).replace(f"=/{name}", f"={data}")
                       for argument in arguments[name]]
            found = shutil.which(program)
            assert found, f"{program} is not here; install Debian's package of that name (make test-packages)"
            stack.enter_context(unit.running(
                [found, *command, f"--web.listen-address=127.0.0.1:{ports[name]}"],
                lambda name=name: urllib.request.urlopen(f"http://127.0.0.1:{ports[name]}/-/ready", timeout=2).close(),
                folder / f"{name}.log"))
        yield {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}


@pytest.fixture(scope="module")
def instance(tmp_path_factory):
    folder = tmp_path_factory.mktemp("live")
    unit.unprivileged(folder)
    made = Instance(folder)
    with contextlib.ExitStack() as stack:
        for stop in (made.database.stop, made.store.stop, *(server.stop for server in made.servers)):
            stack.callback(stop)
        stack.callback(made.stop_exporter)
        start(made.database, made.store)
        # The first creates the schema.
        start(made.servers[0])
        start(made.servers[1])
        made.certificates_port = stack.enter_context(presenting(folder, made.expiry))
        made.start_exporter()
        yield made


def test_each_alert_arrives_and_resolves(instance, tmp_path):
    for _request in range(3):
        assert instance.search() == 200
    instance.exporter.collected("database", "counts", "object_store", "round_trip", "certificates", "volumes")
    with collecting(tmp_path, instance) as urls, contextlib.ExitStack() as causes:
        # A rule of the user, and what is wrong from the beginning: there is no backup.
        wait_for("firing", "RunsAreLogged", "MLflowBackupLate/none")
        assert {key for key in arrived() if key[0] not in LATE} == {("RunsAreLogged", ""), ("MLflowBackupLate", "none")}

        # Side by side.
        instance.recorded(last=7200)
        failed = instance.backup("postgresql+psycopg://nobody:x@127.0.0.1:1/mlflow")
        assert failed.returncode, failed.stdout
        instance.query("UPDATE alembic_version SET version_num = 'x' || version_num")
        instance.expiry[HOST] -= datetime.timedelta(days=88)
        instance.archive(works=False)
        causes.enter_context(instance.connections())
        with instance.locked() as statuses:
            causes.enter_context(instance.filled())
            wait_for("firing", "MLflowLatencyHigh", "MLflowErrorRatioHigh", "MLflowRoundTripFailing",
                     "MLflowExporterCollectionFailing", "MLflowBackupLate/old", "MLflowBackupFailed",
                     "MLflowSchemaNotCurrent", "MLflowDatabaseConnectionsHigh", "MLflowVolumeFilling",
                     "MLflowVolumeFullPredicted", "MLflowCertificateExpiring", "MLflowDatabaseArchiveFailing/wal")
            # Probes are green meanwhile.
            assert instance.request("/health") == 200
            assert value(instance.exporter.scrape(), "mlflow_database_up") == 1
        assert set(statuses[:-CLIENTS]) == {503}
        causes.close()
        instance.query("UPDATE alembic_version SET version_num = substr(version_num, 2)")
        instance.expiry[HOST] += datetime.timedelta(days=88)
        instance.archive(works=True)
        instance.requests_without_errors(20 * len(statuses))
        wait_for("firing", "MLflowBackupUnverified/none")
        made = instance.backup()
        assert made.returncode == 0, made.stdout + made.stderr
        instance.recorded(last_verified=7200)
        wait_for("resolved", "MLflowLatencyHigh", "MLflowErrorRatioHigh", "MLflowRoundTripFailing",
                 "MLflowExporterCollectionFailing", "MLflowBackupLate/none", "MLflowBackupLate/old",
                 "MLflowBackupFailed", "MLflowBackupUnverified/none", "MLflowSchemaNotCurrent",
                 "MLflowDatabaseConnectionsHigh", "MLflowVolumeFilling", "MLflowVolumeFullPredicted",
                 "MLflowCertificateExpiring", "MLflowDatabaseArchiveFailing/wal")

        # What mutes others comes one after the other.
        instance.servers[1].stop()
        instance.store.stop()
        wait_for("firing", "MLflowReplicaDown", "MLflowObjectStoreDown", "MLflowBackupUnverified/old")
        # Later than now, since it would be old again after seconds, in which a busy machine sends no message.
        instance.recorded(last_verified=-600)
        instance.store.start()
        wait_for("resolved", "MLflowObjectStoreDown", "MLflowBackupUnverified/old")
        instance.stop_database()
        wait_for("firing", "MLflowDatabaseDown")
        instance.database.start()
        wait_for("resolved", "MLflowDatabaseDown")
        instance.servers[0].stop()
        instance.stop_exporter()
        wait_for("firing", "MLflowServerDown", "MLflowExporterDown")
        start(*instance.servers)
        instance.start_exporter()
        wait_for("resolved", "MLflowServerDown", "MLflowExporterDown", "MLflowReplicaDown")
        check_notifications(urls)
        # Burn rates, whose windows are longer than this test, may begin to.
        names = {name for name, _reason in arrived() if not name.endswith("BudgetBurn")}
        assert names == {*PROVOKED, "RunsAreLogged"}


def test_the_documentation_says_what_was_provoked():
    """The table of docs/monitoring.md: each alert, its default `for`, and its cause here."""
    text = (ROOT / "docs/monitoring.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[(MLflow\w+)\]\(runbooks\.md#(\w+)\) \| .+ \| (.+) \| (.+) \|$", text, re.MULTILINE)
    settings = rules.Settings("namespace", "instance", backups=True)
    assert sorted(name for name, *_others in rows) == rules.alert_names(settings)
    for name, anchor, wait, cause in rows:
        found = {rule.get("for", "at once"): None for rule in rules.alerts(settings)
                 if rule["alert"] == name and rule["labels"].get("reason") != "none"}
        assert (anchor, wait, cause) == (
            name.lower(), ", ".join(found), PROVOKED.get(name, "rule tests only")), name
    limits = (*dataclasses.fields(rules.Thresholds), *dataclasses.fields(rules.Objectives))
    for limit in limits:
        assert f"`{limit.name}` ({limit.default:g})" in text, limit.name


def check_notifications(urls: dict[str, str]) -> None:
    """Each says what is wrong, and leads to Prometheus and Alertmanager as users reach them."""
    for message in Webhook.received:
        assert message["externalURL"].rstrip("/") == urls["alertmanager"]
        for alert in message["alerts"]:
            assert alert["generatorURL"].startswith(f"{urls['prometheus']}/"), alert
            labels, notes = alert["labels"], alert["annotations"]
            assert (labels["namespace"], labels["instance_name"]) == ("live", "live"), alert
            if labels["alertname"] in PROVOKED:
                assert notes["runbook_url"].endswith(f"#{labels['alertname'].lower()}")
                assert not re.search(r"\{\{|<no value>|<error", notes["description"] + notes["summary"]), alert
