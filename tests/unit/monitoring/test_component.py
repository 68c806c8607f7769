# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the component monitoring renders, held against the programs that read it: promtool, amtool, Prometheus."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import pathlib
import socket
import subprocess
import sys
import time
import urllib.request
from typing import Iterator

import exporters
import promtool
import pytest
import yaml
from ansible_collections.mlops.mlflow.plugins.module_utils.checks import Checks
from ansible_collections.mlops.mlflow.plugins.plugin_utils import components, logins, manifests, model, render
from ansible_collections.mlops.mlflow.plugins.plugin_utils.model import variables
from ansible_collections.mlops.mlflow.plugins.plugin_utils.monitoring import rules

ROOT = pathlib.Path(__file__).parents[3]
SECRETS = {"monitoring_alert_webhook_url": "https://hooks.test/Sentinel-webhook",
           "monitoring_alert_slack_url": "https://slack.test/Sentinel-slack",
           "monitoring_alert_email_password": "Sentinel-password"}
RECEIVERS = {**SECRETS, "monitoring_alert_email_to": "a@b.test", "monitoring_alert_email_from": "c@b.test",
             "monitoring_alert_email_smarthost": "mail.b.test:587", "monitoring_alert_email_username": "c"}
OWN = {"route": {"receiver": "mine"}, "receivers": [{"name": "mine"}]}
probe = exporters.load(ROOT / "roles/monitoring/files/probe.py", "probe_of_monitoring")


class Tagged(str):
    """Text of a kind of its own, as Ansible gives the name of a host, which YAML cannot write."""


def rendered(**variables) -> tuple[model.Model, list[dict]]:
    """The model of an instance with its own Prometheus, and the objects of the component."""
    values = {"monitoring_type": "prometheus", **variables}
    resolved = model.resolve(values.__getitem__, values, Tagged("sound"))
    return resolved, render.render(components.by_role("monitoring"), resolved, {})


def files(objects: list[dict], kind: str, end: str) -> dict[str, str]:
    (found,) = [obj for obj in objects if obj["kind"] == kind and obj["metadata"]["name"].endswith(end)]
    return found.get("stringData") or {key: base64.b64decode(value).decode() if kind == "Secret" else value
                                       for key, value in found["data"].items()}


@pytest.mark.parametrize("engine", ["podman", "kubernetes"])
def test_prometheus_takes_its_files(tmp_path, engine):
    _model, objects = rendered(mlflow_engine=engine, mlflow_server_replicas=2)
    for name, text in files(objects, "ConfigMap", "-prometheus").items():
        (tmp_path / name).write_text(text)
    promtool.run("check", "config", str(tmp_path / "prometheus.yml"))
    (server, *others) = yaml.safe_load((tmp_path / "prometheus.yml").read_text())["scrape_configs"]
    if engine == "podman":
        assert server["static_configs"] == [{"targets": ["sound-server-0:9500", "sound-server-1:9500"]}]
    else:
        (service,) = [o for o in objects if o["metadata"]["name"] == server["dns_sd_configs"][0]["names"][0]]
        assert service["spec"]["clusterIP"] == "None" and service["spec"]["publishNotReadyAddresses"] is True
    for job in (server, *others):
        assert {r["target_label"]: r["replacement"] for r in job["relabel_configs"]} == {
            "namespace": "sound", "instance_name": "sound"}
    assert [job["job_name"] for job in others] == ["mlflow-exporter", "prometheus", "alertmanager"]


@pytest.mark.parametrize("variables", [{}, RECEIVERS, {"monitoring_alertmanager_config": OWN}],
                         ids=["none", "all", "own"])
def test_alertmanager_takes_its_file(tmp_path, variables):
    _model, objects = rendered(**variables)
    for name, text in files(objects, "Secret", "-alertmanager").items():
        (tmp_path / name).write_text(text)
    text = (tmp_path / "alertmanager.yml").read_text()
    (tmp_path / "alertmanager.yml").write_text(text.replace("/etc/alertmanager", str(tmp_path)))
    done = subprocess.run(["amtool", "check-config", str(tmp_path / "alertmanager.yml")], capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (yaml.safe_load(text) == OWN) is ("monitoring_alertmanager_config" in variables)


def test_secrets_of_receivers_are_in_the_secret_alone():
    _model, objects = rendered(**RECEIVERS)
    texts = files(objects, "Secret", "-alertmanager").values()
    for value in SECRETS.values():
        assert any(value in text for text in texts)
        assert not [obj["kind"] for obj in objects if obj["kind"] != "Secret" and value in json.dumps(obj)]


def test_the_exporter_has_all_its_files():
    _model, objects = rendered()
    wanted = {"exporter.py", "collectors.py", *(path.split("/")[-1] for path in exporters.collectors.FILES)}
    assert set(files(objects, "ConfigMap", "-exporter")) == wanted


def test_the_exporter_knows_certificates_and_volumes():
    resolved, _objects = rendered(ingress_type="proxy", ingress_hosts=["a.test", "*.a.test"], ingress_tls="self_signed",
                                  database_type="sqlite", object_storage_type="volume")
    environment = resolved.monitoring.environment
    assert environment["MLOPS_EXPORTER_CERTIFICATES"] == "a.test@sound-ingress:8443"
    volumes = dict(entry.split("=") for entry in environment["MLOPS_EXPORTER_VOLUMES"].split(","))
    assert volumes == {volume["name"]: volume["path"] for volume in resolved.mlflow_server.volumes}
    assert set(volumes) == {"database", "artifacts"} and not resolved.monitoring.unseen
    # Caddy renews its own four hours before they end.
    assert resolved.monitoring.settings.thresholds.certificate_days < 4 / 24


@pytest.mark.parametrize("kind, tls", [("ingress", "secret"), ("ingress", "cert_manager"), ("gateway", "cert_manager"),
                                       ("ingress", "controller")])
def test_the_certificate_of_an_ingress_is_mounted_without_its_key(kind, tls):
    more = {"ingress_tls_secret": "theirs"} if tls == "secret" else {}
    if tls == "cert_manager":
        more["ingress_issuer"] = "ca"
    if kind == "gateway":
        more["ingress_gateway"] = {"name": "public"}
    resolved, objects = rendered(mlflow_engine="kubernetes", ingress_type=kind, ingress_tls=tls,
                                 ingress_hosts=["a.test", "*.a.test"], **more)
    (exporter,) = [obj for obj in objects if obj["metadata"]["name"].endswith("-exporter")
                   and obj["kind"] == "Deployment"]
    volumes = {volume["name"]: volume for volume in exporter["spec"]["template"]["spec"]["volumes"]}
    hosts = resolved.monitoring.environment.get("MLOPS_EXPORTER_CERTIFICATES", "")
    if tls == "controller":
        assert "ingress-certificate" not in volumes and not hosts
        return
    secret = volumes["ingress-certificate"]["secret"]
    name = "theirs" if tls == "secret" else "sound-ingress-tls"
    assert secret == {"secretName": name, "optional": True, "items": [{"key": "tls.crt", "path": "tls.crt"}]}
    assert manifests.annotation(exporter, manifests.READ_ONCE) == name
    assert hosts == "a.test@/etc/mlflow-ingress/tls.crt,*.a.test@/etc/mlflow-ingress/tls.crt"


def test_certificates_of_external_stores():
    resolved, _objects = rendered(
        database_host="db.test", database_password="x", database_tls="require", object_storage_type="s3",
        object_storage_url="https://s3.test:9000", object_storage_bucket="bucket", object_storage_access_key="k",
        object_storage_secret_key="s", monitoring_certificates=["other.test:8443@10.0.0.1"])
    assert resolved.monitoring.environment["MLOPS_EXPORTER_CERTIFICATES"] == (
        "postgresql://db.test:5432,s3.test:9000,other.test:8443@10.0.0.1")
    resolved, _objects = rendered(database_host="db.test", database_password="x")
    assert "MLOPS_EXPORTER_CERTIFICATES" not in resolved.monitoring.environment


BUCKET = {"backup_type": "s3", "backup_bucket": "backups", "backup_url": "https://s3.test:8333"}


@pytest.mark.parametrize("more, secret", [
    ({"backup_access_key": "k", "backup_secret_key": "Sentinel"}, {"name": "sound-backup", "key": "secret-key"}),
    ({"backup_existing_secret": "theirs", "backup_existing_secret_keys": {"secret_key": "pass"}},
     {"name": "theirs", "key": "pass"}), ({"backup_passphrase": "a-long-passphrase"}, None)])
def test_the_exporter_reads_what_backups_leave(more, secret):
    """With the store and the credentials of their pods, but not with the passphrase."""
    resolved, objects = rendered(**BUCKET, **more, mlflow_engine="kubernetes", mlflow_network_policy=True)
    (exporter,) = [obj for obj in objects if obj["metadata"]["name"].endswith("-exporter")
                   and obj["kind"] == "Deployment"]
    (container,) = exporter["spec"]["template"]["spec"]["containers"]
    found = {entry["name"]: entry for entry in container["env"]}
    assert json.loads(found["BACKUP_STORE"]["value"]) == resolved.backup.store
    assert found["MLOPS_EXPORTER_BACKUP_EXPECTED_INTERVAL"]["value"] == "86400"
    assert found.get("BACKUP_SECRET_KEY", {}).get("valueFrom", {}).get("secretKeyRef") == secret
    assert "BACKUP_PASSPHRASE" not in found and "Sentinel" not in json.dumps(objects)
    ports = [[port["port"] for port in rule["ports"]] for obj in objects
             if obj["kind"] == "NetworkPolicy" and obj["metadata"]["name"].endswith("-exporter")
             for rule in obj["spec"]["egress"] if "ports" in rule]
    assert [443, 8333] in ports


@pytest.mark.parametrize("variables_, alerts", [
    ({**BUCKET}, {"MLflowBackupLate", "MLflowBackupFailed", "MLflowBackupUnverified"}),
    ({**BUCKET, "backup_schedule": ""}, {"MLflowBackupFailed", "MLflowBackupUnverified"}),
    ({"backup_type": "volume"}, {"MLflowBackupLate", "MLflowBackupFailed", "MLflowBackupUnverified"}),
    ({"backup_type": "volume", "mlflow_engine": "kubernetes"}, set()), ({}, set())])
def test_alerts_about_backups_that_are_made(variables_, alerts):
    resolved, objects = rendered(**variables_)
    found = {name for name in rules.alert_names(resolved.monitoring.settings) if "Backup" in name}
    assert found == alerts
    assert ("BACKUP_STORE" in resolved.monitoring.environment) is bool(alerts)
    (exporter,) = [obj for obj in objects if obj["metadata"]["name"].endswith("-exporter")
                   and obj["kind"] == "Deployment"]
    mounts = {mount["name"]: mount for mount in exporter["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]}
    if alerts and variables_["backup_type"] == "volume":
        assert mounts["backups"] == {"name": "backups", "mountPath": "/backups", "readOnly": True}
        assert "backups=/backups" in resolved.monitoring.environment["MLOPS_EXPORTER_VOLUMES"].split(",")
    else:
        assert "backups" not in mounts


@pytest.mark.parametrize("archive", [True, False])
def test_the_exporter_sees_when_a_base_backup_was_made(archive):
    """With a bucket for backups, the archive's volume is the only one."""
    resolved, objects = rendered(**BUCKET, mlflow_image_source="build", database_type="postgresql",
                                 database_archive=archive)
    reasons = {rule["labels"].get("reason") for rule in rules.alerts(resolved.monitoring.settings)
               if rule["alert"] == "MLflowDatabaseArchiveFailing"}
    assert reasons == {"wal", *(["base_backup_old", "base_backup_none"] if archive else [])}
    (spec,) = [obj["spec"]["template"]["spec"] for obj in objects
               if obj["metadata"]["name"].endswith("-exporter") and obj["kind"] == "Deployment"]
    mounts = [mount for mount in spec["containers"][0]["volumeMounts"] if mount["name"] == "archive"]
    claims = [volume["persistentVolumeClaim"]["claimName"] for volume in spec["volumes"] if volume["name"] == "archive"]
    environment = resolved.monitoring.environment
    if archive:
        assert claims == ["sound-database-archive"]
        assert mounts == [{"name": "archive", "mountPath": "/var/lib/pgbackrest", "readOnly": True}]
        assert environment["MLOPS_EXPORTER_BACKUP_LAST_BASE"] == "/var/lib/pgbackrest/last-backup"
        assert environment["MLOPS_EXPORTER_VOLUMES"] == "archive=/var/lib/pgbackrest"
    else:
        assert not mounts and not claims and "MLOPS_EXPORTER_BACKUP_LAST_BASE" not in environment


CHANGED = {"monitoring_alert_thresholds": {"error_ratio": 0.3, "certificate_days": 30},
           "monitoring_objectives": {"api_seconds": 1}, "monitoring_alerts": {"MLflowReplicaDown": {"enabled": False}},
           "monitoring_rules_extra": [{"alert": "Mine", "expr": "vector(1)"}]}


def test_variables_change_the_rules():
    """The rule file and the PrometheusRule hold the same; what is not given has its default."""
    _model, objects = rendered(**CHANGED)
    made = yaml.safe_load(files(objects, "ConfigMap", "-prometheus")["rules.yml"])
    wanted = rules.Settings("sound", "sound", host="sound",
                            thresholds=rules.Thresholds(error_ratio=0.3, certificate_days=30),
                            objectives=rules.Objectives(api_seconds=1), changes=CHANGED["monitoring_alerts"],
                            extra=tuple(CHANGED["monitoring_rules_extra"]))
    assert made == rules.rule_file(wanted) != rules.rule_file(rules.Settings("sound", "sound"))
    _model, objects = rendered(**CHANGED, monitoring_type="operator", mlflow_engine="kubernetes")
    (rule,) = [obj for obj in objects if obj["kind"] == "PrometheusRule"]
    groups = {group["name"]: group for group in rule["spec"]["groups"]}
    assert groups["sound-sound-extra"] == next(g for g in made["groups"] if g["name"] == "sound-sound-extra")
    # With the operator, volumes are measured by the kubelet, too.
    assert groups["sound-sound-server"] == next(g for g in made["groups"] if g["name"] == "sound-sound-server")


def test_defaults_of_the_variables_are_those_of_the_rules():
    for variable, kind in (("monitoring_alert_thresholds", rules.Thresholds),
                           ("monitoring_objectives", rules.Objectives)):
        spec, given = variables.SPECS[variable], dataclasses.asdict(kind())
        assert set(spec["options"]) == set(given)
        declared = {name: option["default"] for name, option in spec["options"].items() if "default" in option}
        assert spec["default"] == declared and declared.items() <= given.items()
        # Those depend on who issues certificates.
        assert {name for name in given if name not in declared} <= set(rules.CADDY_CERTIFICATES)


def test_intervals_of_alertmanager():
    _model, objects = rendered(monitoring_alert_group_wait="1s", monitoring_alert_group_interval="2s",
                               monitoring_alert_repeat_interval="3h", monitoring_alert_critical_repeat_interval="4h")
    route = yaml.safe_load(files(objects, "Secret", "-alertmanager")["alertmanager.yml"])["route"]
    assert [route[f"{key}_{unit}"] for key, unit in (("group", "wait"), ("group", "interval"),
                                                     ("repeat", "interval"))] == ["1s", "2s", "3h"]
    assert route["routes"][0]["repeat_interval"] == "4h"


@pytest.mark.parametrize("variables_, urls", [
    ({}, ["", ""]),
    ({"monitoring_publish": "127.0.0.1:9090", "monitoring_alertmanager_publish": "0.0.0.0:9093"},
     ["http://127.0.0.1:9090/", ""]),
    ({"monitoring_alertmanager_publish": "10.0.0.7:9093", "monitoring_url": "https://prometheus.test/a"},
     ["https://prometheus.test/a", "http://10.0.0.7:9093/"]),
])
def test_links_lead_where_users_reach_it(variables_, urls):
    _model, objects = rendered(**variables_)
    found = {}
    for obj in objects:
        if obj["kind"] == "Deployment" and not obj["metadata"]["name"].endswith("-exporter"):
            (container,) = obj["spec"]["template"]["spec"]["containers"]
            values = dict(argument.removeprefix("--").partition("=")[::2] for argument in container["args"])
            assert values.get("web.route-prefix", "") == ("/" if "web.external-url" in values else "")
            found[container["name"]] = values.get("web.external-url", "")
    assert [found["prometheus"], found["alertmanager"]] == urls
    annotations = {obj["metadata"]["name"]: obj["metadata"].get("annotations") for obj in objects
                   if obj["kind"] == "Service"}
    address = variables_.get("monitoring_alertmanager_publish")
    assert annotations["sound-monitoring-alertmanager"] == (address and {"mlops.mlflow/publish": address})


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_a_login_of_its_own_for_a_database_of_the_collection(kind):
    resolved, objects = rendered(database_type=kind, database_port=1234)
    (secret,) = [obj for obj in objects if manifests.annotation(obj, manifests.DATABASE_LOGIN)]
    given = json.loads(manifests.annotation(secret, manifests.DATABASE_LOGIN))
    assert given == {"service": "sound-database", "dialect": {"mariadb": "mysql"}.get(kind, kind), "port": 1234,
                     "database": "mlflow", "owner": "mlflow", "process": False}
    assert manifests.annotation(secret, manifests.GENERATE) == f"username={logins.READER},password"
    assert login_of(objects) == {"name": "sound-monitoring-database", "key": "password"}
    assert secret["metadata"]["name"] == resolved.monitoring.login


def test_a_login_of_another_database():
    external = {"database_host": "db.test", "database_password": "x"}
    assert not login_of(rendered(**external)[1])
    for variables in (external, {}):
        _resolved, objects = rendered(monitoring_database_existing_secret="reader",
                                      monitoring_database_existing_secret_keys={"password": "pass"}, **variables)
        assert login_of(objects) == {"name": "reader", "key": "pass"}
        assert not [obj for obj in objects if manifests.annotation(obj, manifests.DATABASE_LOGIN)]
    for without in ({"database_type": "sqlite"}, {"mlflow_server_database": {"type": "sqlite", "uri": "sqlite:///x"}}):
        assert not login_of(rendered(**without)[1])


def login_of(objects: list[dict]) -> dict:
    """Where the exporter's password is."""
    (exporter,) = [obj for obj in objects if obj["metadata"]["name"].endswith("-exporter")
                   and obj["kind"] == "Deployment"]
    env = {entry["name"]: entry for entry in exporter["spec"]["template"]["spec"]["containers"][0]["env"]}
    return env.get("MLOPS_EXPORTER_DATABASE_PASSWORD", {}).get("valueFrom", {}).get("secretKeyRef", {})


def test_requests_are_counted_where_they_are_collected():
    assert rendered()[0].mlflow_server.metrics and not rendered(monitoring_type="none")[0].mlflow_server.metrics


def test_only_what_receivers_need_is_open_to_alertmanager():
    def policy(**variables):
        _model, objects = rendered(mlflow_engine="kubernetes", mlflow_network_policy=True, **variables)
        return next(o["spec"] for o in objects if o["metadata"]["name"].endswith("-alertmanager"))

    ports = [[port["port"] for port in rule["ports"]] for rule in policy(**RECEIVERS)["egress"]]
    assert ports == [[53, 53], [443, 587]]
    assert policy(monitoring_alertmanager_config=OWN)["policyTypes"] == ["Ingress"]


@contextlib.contextmanager
def prometheus(folder: pathlib.Path, target: str) -> Iterator[str]:
    """URL of a Prometheus with the rules of an instance, which scrapes itself and a target."""
    _model, objects = rendered()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    for name, text in files(objects, "ConfigMap", "-prometheus").items():
        (folder / name).write_text(text)
    configuration = yaml.safe_load((folder / "prometheus.yml").read_text())
    configuration["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    for job, address in (("prometheus", f"127.0.0.1:{port}"), ("mlflow-exporter", target)):
        (found,) = [entry for entry in configuration["scrape_configs"] if entry["job_name"] == job]
        found["static_configs"] = [{"targets": [address]}]
    configuration["scrape_configs"] = [entry for entry in configuration["scrape_configs"]
                                       if entry["job_name"] in ("prometheus", "mlflow-exporter")]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    program = subprocess.Popen(
        ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
         f"--web.listen-address=127.0.0.1:{port}", f"--web.console.templates={folder}"],
        stdout=subprocess.DEVNULL, stderr=(folder / "log").open("w"))
    try:
        for _second in range(60):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=1).close()
                break
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        program.terminate()
        program.wait()


def report(url: str, groups: int, jobs: tuple[str, ...] = ("prometheus", "mlflow-exporter")) -> dict:
    checks = Checks()
    probe.probe(checks, {"metrics": {}, "prometheus": url, "jobs": jobs, "rules": groups, "patience": 8})
    return checks.report()


def test_the_probe_of_a_real_prometheus(tmp_path):
    groups = len(rules.groups(rendered()[0].monitoring.settings))
    with contextlib.ExitStack() as stack:
        target, stop = stack.enter_context(exporters_metrics())
        url = stack.enter_context(prometheus(tmp_path, target))
        found = report(url, groups)
        assert found["healthy"], found["failures"]
        assert found["targets"] == "2 of 2"
        page = urllib.request.urlopen(f"{url}/consoles/overview.html", timeout=5).read().decode()
        assert '"instance_name": "sound"' in page
        assert report(url, groups + 1)["failures"] == [
            f"rules: Prometheus has {groups} groups of rules instead of {groups + 1}"]
        assert report(url, groups, ("elsewhere",))["failures"] == ["targets: elsewhere has no target"]
        stop()
        time.sleep(2)
        (failure,) = report(url, groups)["failures"]
        assert failure.startswith(f"targets: mlflow-exporter {target}: ") and "refused" in failure


@contextlib.contextmanager
def exporters_metrics() -> Iterator[tuple]:
    """Address of a page of metrics, and what ends it."""
    code = ("import http.server\n"
            "class Page(http.server.BaseHTTPRequestHandler):\n"
            "    def do_GET(self):\n"
            "        self.send_response(200); self.send_header('Content-Type', 'text/plain'); self.end_headers()\n"
            "        self.wfile.write(b'mlflow_database_up 1\\n')\n"
            "server = http.server.HTTPServer(('127.0.0.1', 0), Page)\n"
            "print(server.server_port, flush=True)\n"
            "server.serve_forever()\n")
    program = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                               text=True)

    def stop():
        program.kill()
        program.wait()

    try:
        yield f"127.0.0.1:{program.stdout.readline().strip()}", stop
    finally:
        stop()
        program.stdout.close()


def test_status_names_firing_alerts():
    resolved, _objects = rendered()
    alert = {"name": "MLflowServerDown", "severity": "critical", "since": "2026-11-24T01:00:00Z",
             "summary": "It is down."}
    lines = components.by_role("monitoring").status(
        resolved.variables, resolved, {"targets": "3 of 4", "firing": [alert]})
    assert lines == ["3 of 4 targets are up, 1 firing alert",
                     "MLflowServerDown (critical, since 2026-11-24T01:00:00Z): It is down."]
