# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every alert in both directions, by promtool's rule tests: exactly the expected alerts fire, with the value."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from dataclasses import dataclass, field

import promtool
import pytest
import yaml
from ansible_collections.mlops.mlflow.plugins.plugin_utils.monitoring import metrics, rules
from promtool import constant, requests, series

ROOT = pathlib.Path(__file__).parents[3]
SETTINGS = rules.Settings(
    promtool.NAMESPACE, promtool.INSTANCE, backups=True, backup_interval_seconds=600,
    base_backup_interval_seconds=600, claims=("mlflow-database",),
    thresholds=rules.Thresholds(backup_verified_days=1 / 24))
RULES = rules.rule_file(SETTINGS)
ALERTS = rules.alerts(SETTINGS)
DAY = 86400
GOOD = "/api/2.0/mlflow/runs/search"
DOWNLOAD = "/model-versions/get-artifact"
UPLOAD = "/api/2.0/mlflow-artifacts/artifacts/{artifact_path}"
SERVER_UP, EXPORTER_UP = series("up", job=metrics.SERVER_JOB), series("up", job=metrics.EXPORTER_JOB)
LAST, VERIFIED, BASE = (series(f"mlflow_backup_last_{part}timestamp_seconds") for part in ("", "verified_", "base_"))
HEALTHY = {
    SERVER_UP: constant(1),
    EXPORTER_UP: constant(1),
    **requests(GOOD, 920),
    series("mlflow_round_trip_success"): constant(1),
    series("mlflow_database_up"): constant(1),
    series("mlflow_database_query_duration_seconds", query="ping"): constant(0.01),
    series("mlflow_database_connections_used"): constant(10),
    series("mlflow_database_connections_allowed"): constant(100),
    series("mlflow_database_archive_success"): constant(1),
    series("mlflow_schema_current"): constant(1),
    series("mlflow_schema_info", found="b", wanted="b"): constant(1),
    series("mlflow_object_store_up"): constant(1),
    series("mlflow_certificate_expiry_timestamp_seconds", host="a.example.com"): constant(80 * DAY),
    series("mlflow_volume_size_bytes", volume="database"): constant(100),
    series("mlflow_volume_free_bytes", volume="database"): constant(50),
    series("kubelet_volume_stats_capacity_bytes", persistentvolumeclaim="mlflow-database"): constant(100),
    series("kubelet_volume_stats_available_bytes", persistentvolumeclaim="mlflow-database"): constant(50),
    # A claim of another instance in the namespace.
    series("kubelet_volume_stats_capacity_bytes", persistentvolumeclaim="mlflow-database-b"): constant(100),
    series("kubelet_volume_stats_available_bytes", persistentvolumeclaim="mlflow-database-b"): constant(1),
    LAST: f"60+60x{promtool.MINUTES}",
    VERIFIED: f"60+60x{promtool.MINUTES}",
    BASE: f"60+60x{promtool.MINUTES}",
    series("mlflow_backup_expected_interval_seconds"): constant(600),
    series("mlflow_exporter_collection_success", collector="database"): constant(1),
}


@dataclass(frozen=True)
class Case:
    """Series that make an alert fire.

    Attributes:
        alert, severity: which.
        change: series that replace those of HEALTHY; None removes one.
        value: the measured value in the description.
        labels: labels besides severity and those of the instance.
        at: minute at which it fires.
        before: minute at which it does not fire yet; -1 where it fires at once.
        also: other alerts that fire, as (name, severity).
    """

    alert: str
    severity: str
    change: dict[str, str | None]
    value: str
    labels: dict[str, str] = field(default_factory=dict)
    at: int = 20
    before: int = 1
    also: tuple[tuple[str, str], ...] = ()
    name: str = ""


def errors(route: str, ok: float, failed: float, **options) -> dict[str, str]:
    return {**requests(GOOD, 0), **requests(route, ok, **options), **requests(route, failed, status="500", **options)}


def slow(route: str, fast: float, slowly: float, seconds: float) -> dict[str, str]:
    """Requests of which some are slow; the others have another status, so that they are other series."""
    return {**requests(GOOD, 0), **requests(route, fast, status="201"), **requests(route, slowly, seconds)}


TICKET, PAGE = "warning", "critical"
AVAILABILITY, LATENCY = "MLflowApiAvailabilityBudgetBurn", "MLflowApiLatencyBudgetBurn"
FREE = series("mlflow_volume_free_bytes", volume="database")
CLAIM = series("kubelet_volume_stats_available_bytes", persistentvolumeclaim="mlflow-database")
EXPORTED, MEASURED = {"measured_by": "exporter", "volume": "database"}, {
    "measured_by": "kubelet", "persistentvolumeclaim": "mlflow-database"}
CERTIFICATE = series("mlflow_certificate_expiry_timestamp_seconds", host="a.example.com")
CASES = [
    Case("MLflowServerDown", PAGE, {SERVER_UP: "1+0x5 0+0x60"}, "0", at=10, before=7),
    Case("MLflowServerDown", PAGE, {SERVER_UP: None}, "0", at=3, name="no-target"),
    Case("MLflowReplicaDown", "warning", {series("up", job=metrics.SERVER_JOB, instance="b:8000"): constant(0)}, "1",
         before=9),
    Case("MLflowLatencyHigh", "warning", slow(GOOD, 90, 10, 4), "4s", before=4,
         also=((LATENCY, PAGE), (LATENCY, TICKET))),
    Case("MLflowErrorRatioHigh", PAGE, errors(DOWNLOAD, 80, 20), "20%", before=4),
    Case("MLflowRoundTripFailing", PAGE, {series("mlflow_round_trip_success"): constant(0)}, "0", before=4),
    Case("MLflowCertificateExpiring", "warning", {CERTIFICATE: constant(20 * DAY)}, "19d 23h 40m 0s",
         {"host": "a.example.com"}, before=14),
    Case("MLflowCertificateExpiring", PAGE, {CERTIFICATE: constant(2 * DAY)}, "1d 23h 40m 0s",
         {"host": "a.example.com"}, before=14, also=(("MLflowCertificateExpiring", "warning"),)),
    Case("MLflowDatabaseDown", PAGE, {series("mlflow_database_up"): constant(0)}, "0"),
    Case("MLflowDatabaseConnectionsHigh", "warning", {series("mlflow_database_connections_used"): constant(85)}, "85%",
         before=9),
    Case("MLflowDatabaseArchiveFailing", "warning", {series("mlflow_database_archive_success"): constant(0)}, "0",
         {"reason": "wal"}, before=14),
    Case("MLflowDatabaseArchiveFailing", "warning", {BASE: constant(60)}, "39m 0s", {"reason": "base_backup_old"},
         at=40, before=30),
    Case("MLflowDatabaseArchiveFailing", "warning", {BASE: None}, "10m 0s", {"reason": "base_backup_none"}, before=14),
    Case("MLflowSchemaNotCurrent", "warning",
         {series("mlflow_schema_current"): constant(0), series("mlflow_schema_info", found="b", wanted="b"): None,
          series("mlflow_schema_info", found="a", wanted="b"): constant(1)}, "", {"found": "a", "wanted": "b"},
         before=14),
    Case("MLflowObjectStoreDown", PAGE, {series("mlflow_object_store_up"): constant(0)}, "0", before=4),
    Case("MLflowVolumeFilling", "warning", {FREE: constant(10)}, "90%", EXPORTED, before=9),
    Case("MLflowVolumeFilling", PAGE, {FREE: constant(3)}, "97%", EXPORTED, before=9,
         also=(("MLflowVolumeFilling", "warning"),)),
    Case("MLflowVolumeFilling", "warning", {CLAIM: constant(10)}, "90%", MEASURED, before=9, name="kubelet"),
    Case("MLflowVolumeFilling", PAGE, {CLAIM: constant(3)}, "97%", MEASURED, before=9, name="kubelet",
         also=(("MLflowVolumeFilling", "warning"),)),
    Case("MLflowVolumeFullPredicted", "warning", {FREE: "48-0.125x200"}, "4h 24m 0s", EXPORTED, at=120, before=60),
    Case("MLflowVolumeFullPredicted", "warning", {CLAIM: "48-0.125x200"}, "4h 24m 0s", MEASURED, at=120, before=60,
         name="kubelet"),
    Case("MLflowBackupLate", PAGE, {LAST: constant(60)}, "19m 0s", {"reason": "old"}, before=15),
    Case("MLflowBackupLate", PAGE, {LAST: None, VERIFIED: None}, "10m 0s", {"reason": "none"}, before=14),
    Case("MLflowBackupFailed", "warning",
         {LAST: constant(60), series("mlflow_backup_last_failed_timestamp_seconds"): "0+0x4 300+0x60"},
         "1970-01-01 00:05:00 +0000 UTC", at=6, before=4),
    Case("MLflowBackupFailed", "warning",
         {LAST: None, VERIFIED: None, series("mlflow_backup_last_failed_timestamp_seconds"): "0+0x4 300+0x60"},
         "1970-01-01 00:05:00 +0000 UTC", at=6, before=4, name="never-succeeded"),
    Case("MLflowBackupUnverified", "warning", {VERIFIED: constant(60)}, "1h 19m 0s", {"reason": "old"}, at=80,
         before=75),
    Case("MLflowBackupUnverified", "warning", {VERIFIED: None}, "1970-01-01 01:21:00 +0000 UTC", {"reason": "none"},
         at=80, before=59),
    Case("MLflowExporterDown", "warning", {EXPORTER_UP: constant(0)}, "0", before=4),
    Case("MLflowExporterDown", "warning", {EXPORTER_UP: None}, "0", before=4, name="no-target"),
    Case("MLflowExporterCollectionFailing", "warning",
         {series("mlflow_exporter_collection_success", collector="database"): constant(0)}, "0",
         {"collector": "database"}, before=14),
    Case(AVAILABILITY, PAGE, errors(GOOD, 92, 8), "8%", {"slo": "api-availability"}, also=((AVAILABILITY, TICKET),)),
    Case(AVAILABILITY, PAGE, errors(GOOD, 96, 4), "4%", {"slo": "api-availability"}, also=((AVAILABILITY, TICKET),),
         name="six-hours"),
    Case(AVAILABILITY, TICKET, errors(GOOD, 98, 2), "2%", {"slo": "api-availability"}, before=14, name="day"),
    Case(AVAILABILITY, TICKET, errors(GOOD, 992, 8), "0.8%", {"slo": "api-availability"}, before=14, name="three-days"),
    Case(LATENCY, PAGE, slow(GOOD, 75, 25, 0.8), "25%", {"slo": "api-latency"}, also=((LATENCY, TICKET),)),
    Case(LATENCY, TICKET, slow(GOOD, 96, 4, 0.8), "4%", {"slo": "api-latency"}, before=14),
    Case("MLflowUploadAvailabilityBudgetBurn", PAGE, {**requests(UPLOAD, 92, method="PUT"),
                                                      **requests(UPLOAD, 8, method="PUT", status="503")}, "8%",
         {"slo": "upload-availability"}, also=(("MLflowUploadAvailabilityBudgetBurn", TICKET),)),
    Case("MLflowUploadAvailabilityBudgetBurn", TICKET, {**requests(UPLOAD, 98, method="PUT"),
                                                        **requests(UPLOAD, 2, method="PUT", status="503")}, "2%",
         {"slo": "upload-availability"}, before=14),
    Case("MLflowUploadSpeedBudgetBurn", TICKET, requests(UPLOAD, 4, 4, method="PUT", size=20e6), "100%",
         {"slo": "upload-speed"}, at=40, before=25),
    Case("MLflowUiLatencyBudgetBurn", TICKET, slow("/static-files/{path}", 90, 10, 4), "10%",
         {"slo": "ui-latency"}, before=14),
    Case("MLflowDatabaseLatencyBudgetBurn", TICKET,
         {series("mlflow_database_query_duration_seconds", query="ping"): constant(0.2)}, "100%",
         {"slo": "database-latency"}, at=40, before=20),
]


def inputs(change: dict[str, str | None]) -> list[dict]:
    return [{"series": name, "values": values} for name, values in {**HEALTHY, **change}.items() if values is not None]


def firing(at: int, *alerts: tuple[str, str]) -> dict:
    """A test that exactly these alerts, as (name, severity), fire at a minute."""
    expression = 'count by (alertname, severity) (ALERTS{alertstate="firing"})'
    return {"expr": expression, "eval_time": f"{at}m", "exp_samples": [
        {"labels": f'{{alertname="{name}", severity="{severity}"}}', "value": 1} for name, severity in alerts]}


def rule_of(case: Case) -> dict:
    wanted = {"severity": case.severity, **{key: value for key, value in case.labels.items()
                                            if key in ("reason", "measured_by")}}
    found = [rule for rule in ALERTS if rule["alert"] == case.alert and wanted.items() <= rule["labels"].items()]
    assert len(found) == 1, (case, found)
    return found[0]


def rendered(text: str, case: Case) -> str:
    text = re.sub(r"\{\{ \$value[^}]*\}\}", case.value, text)
    return re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda match: case.labels[match[1]], text)


def identity(case: Case) -> str:
    return "-".join(filter(None, [case.alert, case.severity, case.labels.get("reason", ""), case.name]))


@pytest.mark.parametrize("case", CASES, ids=identity)
def test_alert_fires(case, tmp_path):
    expected = []
    for name, severity in ((case.alert, case.severity), *case.also):
        if name == case.alert:
            rule = rule_of(dataclasses.replace(case, severity=severity))
            expected.append({
                "exp_labels": {**rule["labels"], **case.labels},
                "exp_annotations": {key: rendered(text, case) for key, text in rule["annotations"].items()}})
    selector = f'ALERTS{{alertname="{case.alert}", severity="{case.severity}", alertstate="firing"}}'
    promtool.test(tmp_path, RULES, [{
        "interval": "1m", "input_series": inputs(case.change),
        "alert_rule_test": [{"alertname": case.alert, "eval_time": f"{case.at}m", "exp_alerts": expected}],
        "promql_expr_test": [{"expr": selector, "eval_time": f"{case.before}m", "exp_samples": []},
                             firing(case.at, (case.alert, case.severity), *case.also)]}])


def test_every_alert_has_a_case():
    def key(name, labels):
        return name, labels["severity"], labels.get("reason", ""), labels.get("measured_by", "")

    tested = {key(case.alert, {**case.labels, "severity": case.severity}) for case in CASES}
    assert tested == {key(rule["alert"], rule["labels"]) for rule in ALERTS}


@dataclass(frozen=True)
class Silence:
    """Series at which no alert fires, at any of these minutes."""

    name: str
    series: dict[str, str]
    at: tuple[int, ...] = (20, 90)
    settings: rules.Settings = SETTINGS


UP = {SERVER_UP: constant(1), EXPORTER_UP: constant(1)}
PLAIN = rules.Settings(promtool.NAMESPACE, promtool.INSTANCE)
IDLE = {**HEALTHY, **requests(GOOD, 0), **requests(DOWNLOAD, 0, status="500"),
        **requests(UPLOAD, 0, 4, method="PUT", size=20e6)}
SILENT = [
    Silence("healthy", HEALTHY),
    Silence("idle", IDLE),
    Silence("nothing-but-up", UP, settings=PLAIN),
    # What the roles do not run exports nothing; a failed backup of earlier times is no matter where backups are off.
    Silence("backups-off", {**UP, series("mlflow_backup_last_failed_timestamp_seconds"): constant(60),
                            LAST: constant(1)}, settings=PLAIN),
    # Nothing is known about backups then, which another alert says.
    Silence("backups-cannot-be-read", {
        **{name: values for name, values in HEALTHY.items() if "backup" not in name},
        series("mlflow_exporter_collection_success", collector="backups"): "0+0x10 1+0x90"}, at=(14, 20)),
    Silence("one-failed-round-trip", {**HEALTHY, series("mlflow_round_trip_success"): "1+0x4 0+0x4 1+0x90"}),
    Silence("slow-counting", {
        **HEALTHY, series("mlflow_database_query_duration_seconds", query="runs"): constant(4)}, at=(60,)),
    Silence("never-failed", {**HEALTHY, series("mlflow_backup_last_failed_timestamp_seconds"): constant(0)}),
    Silence("first-backup-still-to-come", {**HEALTHY, LAST: None, VERIFIED: None, BASE: None}, at=(1, 14)),
    Silence("no-archive", {**HEALTHY, BASE: None},
            settings=dataclasses.replace(SETTINGS, base_backup_interval_seconds=0)),
    # Up to half an interval late, as while it is made; and for less than 15 minutes more than that.
    Silence("a-slow-base-backup", {**HEALTHY, BASE: "0+0x15 900+0x15 1800+0x30"}, at=(14, 25, 40, 55)),
    # A sixth of the requests fails, but that is less than one in an hour.
    Silence("quiet-night", {**IDLE, **requests(GOOD, 0.05), **requests(GOOD, 0.01, status="500")}),
    Silence("few-slow-requests", {**IDLE, **requests(GOOD, 0.02, 9)}),
    Silence("first-request-fails", {**UP, **requests(GOOD, 1, status="500", minutes=2)},
            at=tuple(range(1, 40)), settings=PLAIN),
    Silence("small-uploads", {**HEALTHY, **requests(UPLOAD, 60, 0.04, method="PUT", size=1000)}),
    Silence("large-uploads", {**HEALTHY, **requests(UPLOAD, 4, 1, method="PUT", size=20e6)}),
    # Long transfers and answers of language models are no latency of the API.
    Silence("long-downloads", {**HEALTHY, **requests(DOWNLOAD, 60, 25), **requests(UPLOAD, 60, 25)}),
    Silence("below-the-thresholds", {
        **HEALTHY, **requests(GOOD, 9960), **requests(GOOD, 40, status="500"), **requests(GOOD, 90, 0.8, status="201"),
        series("mlflow_database_connections_used"): constant(80), FREE: constant(16), CLAIM: constant(16),
        CERTIFICATE: constant(31 * DAY)}),
    Silence("a-volume-that-empties", {**HEALTHY, FREE: "20+0.1x600"}),
    # Half an hour of writing is no trend.
    Silence("a-burst-of-writes", {**HEALTHY, FREE: "45-0.4x30 33+0x600"}, at=(30, 60, 120)),
    # 300 of 112,700 requests: the two hours without any error, and without their series, count as well.
    Silence("first-errors-after-two-hours",
            {**HEALTHY, series("mlflow_http_request_total", method="GET", route=GOOD, status="500"):
             "_x120 0 300+0x60"}, at=(130, 140)),
    # Renewed when four of twelve hours are left, and seen up to an hour later.
    Silence("certificates-of-caddy", {**HEALTHY, CERTIFICATE: constant(3 * 3600 + 1, 5) + f" {constant(12 * 3600)}"},
            at=(1, 20), settings=dataclasses.replace(SETTINGS, thresholds=rules.Thresholds(
                backup_verified_days=1 / 24, **rules.CADDY_CERTIFICATES))),
    Silence("errors-of-clients", {**HEALTHY, **requests(GOOD, 500, status="404")}),
    Silence("sqlite", {**HEALTHY, series("mlflow_database_connections_used"): None,
                       series("mlflow_database_connections_allowed"): None}),
    Silence("connections-not-limited", {**HEALTHY, series("mlflow_database_connections_allowed"): constant(0)}),
]


@pytest.mark.parametrize("case", SILENT, ids=lambda case: case.name)
def test_no_alert_fires(case, tmp_path):
    promtool.test(tmp_path, rules.rule_file(case.settings), [{
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in case.series.items() if values],
        "promql_expr_test": [firing(at) for at in case.at]}])


RECOVERING = {
    "server": ({SERVER_UP: "1+0x5 0+0x20 1+0x60"}, ("MLflowServerDown", PAGE), 20, 28),
    "database": ({series("mlflow_database_up"): "1+0x5 0+0x20 1+0x60"}, ("MLflowDatabaseDown", PAGE), 20, 28),
    "store": ({series("mlflow_object_store_up"): "1+0x5 0+0x20 1+0x60"}, ("MLflowObjectStoreDown", PAGE), 20, 28),
    "round-trip": ({series("mlflow_round_trip_success"): "1+0x5 0+0x20 1+0x60"}, ("MLflowRoundTripFailing", PAGE), 20,
                   28),
    "exporter": ({EXPORTER_UP: "1+0x5 0+0x20 1+0x60"}, ("MLflowExporterDown", "warning"), 20, 28),
    # The rate of the last five minutes, and five minutes of keep_firing_for.
    "errors": ({**requests(DOWNLOAD, 200, status="500", minutes=20)}, ("MLflowErrorRatioHigh", PAGE),
               15, 33),
    "volume": ({FREE: "10+0x30 60+0x90"}, ("MLflowVolumeFilling", "warning"), 20, 38),
    "certificate": ({CERTIFICATE: f"{DAY * 20}+0x30 {DAY * 80}+0x60"}, ("MLflowCertificateExpiring", "warning"), 20,
                    32),
    "backup": ({LAST: "60+0x30 1860+60x60"}, ("MLflowBackupLate", PAGE), 20, 32),
    "base-backup": ({BASE: "60+0x40 2460+60x60"}, ("MLflowDatabaseArchiveFailing", "warning"), 40, 42),
    "failed-backup": ({LAST: "60+0x30 1860+60x60",
                       series("mlflow_backup_last_failed_timestamp_seconds"): "0+0x4 300+0x90"},
                      ("MLflowBackupFailed", "warning"), 10, 32),
    # The short window of 30 minutes ends the alert long before the long window of six hours is good again.
    "burn-rate": (errors(GOOD, 92, 0) | requests(GOOD, 8, status="500", minutes=30),
                  (AVAILABILITY, PAGE), 25, 75),
}


@pytest.mark.parametrize("name", RECOVERING)
def test_alert_resolves(name, tmp_path):
    change, (alert, severity), bad, good = RECOVERING[name]
    expression = f'count(ALERTS{{alertname="{alert}", severity="{severity}", alertstate="firing"}})'
    promtool.test(tmp_path, RULES, [{
        "interval": "1m", "input_series": inputs(change),
        "promql_expr_test": [{"expr": expression, "eval_time": f"{bad}m",
                              "exp_samples": [{"labels": "{}", "value": 1}]},
                             {"expr": expression, "eval_time": f"{good}m", "exp_samples": []}]}])


def test_long_windows_see_what_short_ones_forgot(tmp_path):
    """2 % errors for two hours, six hours ago: the windows of one and of three days have them, that of 6 h has not."""
    failed = requests(GOOD, 20, status="500", minutes=120)
    labels = f'namespace="{promtool.NAMESPACE}", instance_name="{promtool.INSTANCE}", slo="api-availability"'

    def expected(window: str, value: float) -> dict:
        selector = f'instance_name:mlflow_slo_errors:ratio{{slo="api-availability",window="{window}"}}'
        return {"expr": f"round({selector}, 0.001)", "eval_time": "490m", "exp_samples": [
            {"labels": f'{{{labels}, window="{window}"}}', "value": value}]}

    levels = [group for group in RULES["groups"] if "service-levels" in group["name"]]
    promtool.test(tmp_path, {"groups": levels}, [{
        "interval": "1m", "input_series": inputs({**requests(GOOD, 980), **failed}),
        "promql_expr_test": [expected("6h", 0), expected("1d", 0.005), expected("3d", 0.005)]}])


def test_lints(tmp_path):
    promtool.check(tmp_path / "rules.yml", RULES)


def test_two_instances_in_one_prometheus(tmp_path):
    """Names of groups differ, and each instance's alerts are about its own series."""
    other = rules.groups(dataclasses.replace(SETTINGS, instance_name="other"))
    promtool.check(tmp_path / "check.yml", {"groups": [*RULES["groups"], *other]})
    theirs = {name.replace(f'instance_name="{promtool.INSTANCE}"', 'instance_name="other"'): values
              for name, values in HEALTHY.items()}
    theirs[series("mlflow_database_up").replace(f'"{promtool.INSTANCE}"', '"other"')] = constant(0)
    firing_there = {"labels": '{alertname="MLflowDatabaseDown", instance_name="other"}', "value": 1}
    promtool.test(tmp_path, {"groups": [*RULES["groups"], *other]}, [{
        "interval": "1m", "input_series": inputs(theirs),
        "promql_expr_test": [{"expr": 'count by (alertname, instance_name) (ALERTS{alertstate="firing"})',
                              "eval_time": "10m", "exp_samples": [firing_there]}]}])


def test_thresholds_and_objectives_are_settings():
    """Each changes the rules."""
    for part in ("thresholds", "objectives"):
        values = getattr(SETTINGS, part)
        for each in dataclasses.fields(values):
            value = getattr(values, each.name)
            changed = {"api_seconds": 0.25, "ui_seconds": 5}.get(each.name, value * 0.5)
            settings = dataclasses.replace(SETTINGS, **{part: dataclasses.replace(values, **{each.name: changed})})
            assert rules.rule_file(settings) != RULES, each.name


def test_descriptions_name_the_threshold():
    """Every threshold that a value is compared with, as it is set."""
    limits = rules.Thresholds(
        latency_seconds=7, error_ratio=0.17, connections_ratio=0.27, volume_ratio=0.37, volume_critical_ratio=0.47,
        volume_full_hours=57, certificate_days=67, certificate_critical_days=1.5, backup_late_factor=77,
        backup_verified_days=87)
    objectives = rules.Objectives(api_availability=0.94, api_seconds=0.25, ui_seconds=5, database_seconds=0.07,
                                  upload_mb_per_second=17)
    settings = dataclasses.replace(SETTINGS, thresholds=limits, objectives=objectives)
    text = "\n".join(rule["annotations"]["description"] for rule in rules.alerts(settings))
    for words in ("is 7 s", "is 17 %", "is 27 %", "is 37 %", "is 47 %", "is 2.375 days", "is 67 days", "is 1.5 days",
                  "77 times", "is 87 days", "for 87 days", "allows 6 %", "than 0.25 s", "than 5 s", "than 0.07 s",
                  "17 MB/s"):
        assert words in text, words


def test_an_alert_is_changed_by_its_name():
    changes = {"MLflowServerDown": {"for": "7m"}, "MLflowReplicaDown": {"enabled": False},
               "MLflowLatencyHigh": {"for": "0", "keep_firing_for": "3m"},
               "MLflowBackupLate": {"for": "2m"}}
    made = rules.alerts(dataclasses.replace(SETTINGS, changes=changes))
    assert {rule["alert"] for rule in ALERTS} - {rule["alert"] for rule in made} == {"MLflowReplicaDown"}
    found = {(rule["alert"], rule["labels"].get("reason")): (rule.get("for"), rule.get("keep_firing_for"))
             for rule in made}
    assert found["MLflowServerDown", None] == ("7m", None) and found["MLflowLatencyHigh", None] == ("0", "3m")
    # How old a backup may be is a threshold.
    assert found["MLflowBackupLate", "old"][0] == "2m" and found["MLflowBackupLate", "none"][0] == "900s"


def test_rules_of_the_user_are_evaluated(tmp_path):
    """Beside those of the collection, with the labels of the instance."""
    own = ({"record": "runs:failed", "expr": 'sum(mlflow_runs{status="FAILED"})'},
           {"alert": "ManyRunsFail", "expr": "runs:failed > 5", "for": "2m", "labels": {"severity": "info"},
            "annotations": {"summary": "{{ $value }} runs failed"}})
    made = rules.rule_file(dataclasses.replace(SETTINGS, extra=own))
    labels = {"severity": "info", "namespace": promtool.NAMESPACE, "instance_name": promtool.INSTANCE}
    promtool.test(tmp_path, made, [{
        "interval": "1m", "input_series": inputs({series("mlflow_runs", status="FAILED", stage="active"): "0+1x60"}),
        "alert_rule_test": [
            {"alertname": "ManyRunsFail", "eval_time": "7m", "exp_alerts": []},
            {"alertname": "ManyRunsFail", "eval_time": "9m", "exp_alerts": [
                {"exp_labels": labels, "exp_annotations": {"summary": "9 runs failed"}}]}]}])


def test_a_latency_that_is_no_bucket_is_refused():
    objectives = rules.Objectives(api_seconds=0.4)
    with pytest.raises(ValueError, match="0.4 s is no bucket"):
        rules.groups(dataclasses.replace(SETTINGS, objectives=objectives))


def test_the_operator_gets_the_same_rules():
    made = rules.prometheus_rule(SETTINGS, "mlflow-monitoring", {"release": "prometheus"})
    assert made["spec"] == RULES
    assert made["metadata"] == {"name": "mlflow-monitoring", "namespace": promtool.NAMESPACE,
                                "labels": {"release": "prometheus"}}


def test_every_alert_says_what_to_do():
    for rule in ALERTS:
        notes = rule["annotations"]
        assert rule["labels"]["severity"] in ("critical", "warning", "info"), rule
        assert set(notes) == {"summary", "description", "runbook_url"}, rule
        measured = "$value" in notes["description"] or "$labels.found" in notes["description"]
        assert measured, f"{rule['alert']}: the description has no measured value"


def test_alerts_of_the_contract_exist():
    wanted = """MLflowServerDown MLflowLatencyHigh MLflowErrorRatioHigh MLflowDatabaseDown MLflowDatabaseConnectionsHigh
        MLflowVolumeFilling MLflowVolumeFullPredicted MLflowBackupLate MLflowBackupFailed MLflowBackupUnverified
        MLflowCertificateExpiring MLflowSchemaNotCurrent MLflowRoundTripFailing MLflowObjectStoreDown
        MLflowExporterDown""".split()
    assert set(wanted) <= set(rules.alert_names(SETTINGS))
    assert not {name for name in rules.alert_names(PLAIN) if "Backup" in name}


def test_runbooks():
    """Each alert has a section, and each section is one of an alert."""
    page = (ROOT / "docs" / "runbooks.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## (MLflow\w+)$", page, re.MULTILINE)
    assert sorted(sections) == rules.alert_names(SETTINGS)
    anchors = {section.lower() for section in sections}
    for rule in ALERTS:
        url, _hash, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert url == rules.RUNBOOKS_URL and anchor in anchors, rule


def test_runbooks_url_is_below_the_documentation_of_the_collection():
    galaxy = yaml.safe_load((ROOT / "galaxy.yml").read_text(encoding="utf-8"))
    assert rules.RUNBOOKS_URL == f"{galaxy['documentation']}/runbooks.md"
