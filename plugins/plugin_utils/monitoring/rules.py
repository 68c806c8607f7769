# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Recording rules and alerts of an instance: the one source of rule files and of PrometheusRule objects.

Alerts compare values that exist, so that what is off, or a server without requests (0 / 0 is NaN), fires nothing. Where
absence itself is the failure (no target, no backup), the expression says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ansible_collections.mlops.mlflow.plugins.plugin_utils.monitoring import metrics
from ansible_collections.mlops.mlflow.plugins.plugin_utils.monitoring.metrics import Series

RUNBOOKS_URL = "https://example.com/mlops/mlflow/docs/runbooks.md"
"""docs/runbooks.md below the documentation URL of galaxy.yml."""
BACKUPS = 'collector="backups"'
SHORT_WINDOWS = ("5m", "30m", "1h", "2h", "6h")
LONG_WINDOWS = ("1d", "3d", "30d")
"""Windows of the service levels; the long ones are evaluated less often."""
CADDY_CERTIFICATES = {"certificate_days": 2 / 24, "certificate_critical_days": 1 / 24}
"""Thresholds for certificates of Caddy's own CA (``ingress_tls: self_signed``): they are valid for 12 hours and renewed
when 4 hours are left, which the exporter sees within an hour."""
DAY, HOUR = 86400, 3600
PAGE = ((14.4, "1h", "5m"), (6, "6h", "30m"))
TICKET = ((3, "1d", "2h"), (1, "3d", "6h"))
"""Burn rates of a budget of 30 days, with their long and short windows: 2 % in an hour and 5 % in six hours (page),
10 % in a day and in three days (ticket). See "Alerting on SLOs" in Google's SRE workbook."""


@dataclass(frozen=True)
class Thresholds:
    """When alerts fire, as ``monitoring_alert_thresholds`` has it. Ratios are between 0 and 1.

    Attributes:
        latency_seconds: 95th percentile of API requests.
        error_ratio: requests with a status from 500 on.
        minimum_requests: requests in five minutes below which neither is judged.
        connections_ratio: connections to the database of those that it accepts.
        volume_ratio, volume_critical_ratio: used space of a volume.
        volume_full_hours: time until a volume is full, by the trends of the last six hours and of the last hour.
        certificate_days, certificate_critical_days: remaining validity; see CADDY_CERTIFICATES.
        backup_late_factor: age of the newest backup, and of the newest base backup, in intervals.
        backup_verified_days: age of the newest verified backup.
    """

    latency_seconds: float = 2
    error_ratio: float = 0.10
    minimum_requests: int = 10
    connections_ratio: float = 0.80
    volume_ratio: float = 0.85
    volume_critical_ratio: float = 0.95
    volume_full_hours: float = 24
    certificate_days: float = 21
    certificate_critical_days: float = 3
    backup_late_factor: float = 1.5
    backup_verified_days: float = 8


@dataclass(frozen=True)
class Objectives:
    """Service levels over 30 days, as ``monitoring_objectives`` has them. Ratios are the fraction of good events.

    Attributes:
        api_availability: API requests without a status from 500 on.
        api_latency: API requests faster than api_seconds, which must be a bucket of the histogram.
        upload_availability: uploads of artifacts without a status from 500 on.
        upload_speed: time in which large uploads reach upload_mb_per_second (megabytes of 10^6 bytes). An upload is
            large from upload_large_mb on; below that, its duration says nothing about the speed.
        ui_latency: files of the user interface that are served faster than ui_seconds, a bucket of the histogram.
        database_latency: time in which simple queries (not those that count rows) take at most database_seconds.
    """

    api_availability: float = 0.995
    api_latency: float = 0.99
    api_seconds: float = 0.5
    upload_availability: float = 0.995
    upload_speed: float = 0.95
    upload_mb_per_second: float = 10
    upload_large_mb: float = 8
    ui_latency: float = 0.99
    ui_seconds: float = 3
    database_latency: float = 0.95
    database_seconds: float = 0.1


@dataclass(frozen=True)
class Settings:
    """What the rules of one instance depend on.

    Attributes:
        namespace, instance_name: values of the labels of all series.
        backups: whether backups are made; without them, no alert is about backups.
        backup_interval_seconds: time between two backups, where the metric of it is missing; 0: none are scheduled,
            so none is late.
        base_backup_interval_seconds: time between two base backups of the database's WAL archive; 0: nothing of the
            collection makes any.
        claims: PersistentVolumeClaims whose use the kubelet measures; empty where no kubelet is scraped.
        runbooks_url: URL of the page of runbooks; the anchor of the alert is appended.
        host: inventory host of the instance, for playbooks that act on an alert; or empty.
        thresholds, objectives: see there.
        changes: by the name of an alert, ``enabled``, ``for`` and ``keep_firing_for`` instead of those of the alert.
        extra: rules of the user, as in a rule file.
    """

    namespace: str
    instance_name: str
    backups: bool = False
    backup_interval_seconds: int = DAY
    base_backup_interval_seconds: int = 0
    claims: tuple[str, ...] = ()
    runbooks_url: str = RUNBOOKS_URL
    host: str = ""
    thresholds: Thresholds = field(default_factory=Thresholds)
    objectives: Objectives = field(default_factory=Objectives)
    changes: dict[str, dict] = field(default_factory=dict)
    extra: tuple[dict, ...] = ()


@dataclass(frozen=True)
class ServiceLevel:
    """One service level.

    Attributes:
        slo: value of the label slo; its alerts are called after it.
        title: for summaries, such as "API requests without errors".
        bad: what a bad event is, for descriptions: "of the API requests failed".
        objective: fraction of good events.
        events, bad_events: PromQL: events per second, or 1 and 0 for a level that judges time.
        minimum: bad events in the long window (seconds for a level that judges time) below which nothing fires, so that
            a single failed request of a quiet night does not.
        page: whether the fast burn rates alert with severity critical, too.
    """

    slo: str
    title: str
    bad: str
    objective: float
    events: str
    bad_events: str
    minimum: int = 5
    page: bool = True

    @property
    def alert(self) -> str:
        """Name of its alerts."""
        return f"MLflow{self.slo.title().replace('-', '')}BudgetBurn"


def groups(settings: Settings) -> list[dict]:
    """The rule groups of an instance, for a rule file (``{"groups": …}``) or the spec of a PrometheusRule."""
    levels = service_levels(settings)
    named = {
        "requests": _recorded_requests(settings),
        "service-levels": [rule for level in levels for rule in _recorded_events(settings, level)],
        "service-levels-long": [
            rule for level in levels for rule in _recorded_windows(settings, level, LONG_WINDOWS)
        ],
        "server": _server_alerts(settings),
        "database-and-stores": [*_database_alerts(settings), *_base_backup_alerts(settings), *_store_alerts(settings),
                                *_volume_alerts(settings)],
        "backups": _backup_alerts(settings) if settings.backups else [],
        "exporter": _exporter_alerts(settings),
        "burn-rates": [rule for level in levels for rule in _burn_rate_alerts(settings, level)],
        "extra": _extra_rules(settings),
    }
    made = []
    for name, found in named.items():
        rules = [rule for rule in found if settings.changes.get(rule.get("alert"), {}).get("enabled", True)]
        if rules:
            # Long averages change slowly; two minutes are well below the five after which a series is stale.
            interval = {"interval": "2m"} if name == "service-levels-long" else {}
            made.append({"name": f"{settings.namespace}-{settings.instance_name}-{name}", **interval, "rules": rules})
    return made


def rule_file(settings: Settings) -> dict:
    """Content of a rule file of Prometheus."""
    return {"groups": groups(settings)}


def prometheus_rule(settings: Settings, name: str, labels: dict[str, str]) -> dict:
    """A PrometheusRule of the Prometheus operator with the same rules.

    Args:
        settings: see there.
        name: of the object; its namespace is that of the instance.
        labels: of the object, which the ruleSelector of the operator's Prometheus selects.
    """
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": name, "namespace": settings.namespace, "labels": labels},
        "spec": rule_file(settings),
    }


def alerts(settings: Settings) -> list[dict]:
    """All alerts."""
    return [rule for group in groups(settings) for rule in group["rules"] if "alert" in rule]


def alert_names(settings: Settings) -> list[str]:
    """Names of all alerts, sorted."""
    return sorted({rule["alert"] for rule in alerts(settings)})


def service_levels(settings: Settings) -> list[ServiceLevel]:
    """The service levels of an instance."""
    series, wanted = _series(settings), settings.objectives
    size = f"{_rate(series, 'mlflow_http_request_bytes_total', 'uploads')} / {_requests(series, 'uploads')}"
    large = f"(({size}) >= bool {_number(wanted.upload_large_mb * 1e6)})"
    slow = f"(({_upload_speed(series)}) < bool {_number(wanted.upload_mb_per_second * 1e6)})"
    query = f"max({series('mlflow_database_query_duration_seconds', metrics.SIMPLE_QUERIES)})"
    speed, seconds = _number(wanted.upload_mb_per_second), _number(wanted.database_seconds)
    uploads, ui = "uploads of artifacts", "files of the user interface"
    return [
        _availability(series, "api-availability", "api", "API requests", wanted.api_availability),
        _latency(series, "api-latency", "api", "API requests", wanted.api_latency, wanted.api_seconds),
        _availability(series, "upload-availability", "uploads", uploads, wanted.upload_availability),
        _of_time("upload-speed", f"large uploads with {speed} MB/s",
                 f"of the time with large uploads they were slower than {speed} MB/s", wanted.upload_speed,
                 large, f"{large} * {slow}"),
        _latency(series, "ui-latency", "ui", ui, wanted.ui_latency, wanted.ui_seconds, page=False),
        _of_time("database-latency", f"database queries within {seconds} s",
                 f"of the time simple queries of the database took longer than {seconds} s", wanted.database_latency,
                 f"{query} >= bool 0", f"{query} > bool {seconds}"),
    ]


def _availability(series: Series, slo: str, kind: str, what: str, objective: float) -> ServiceLevel:
    """Requests of a kind without a status from 500 on."""
    return ServiceLevel(slo, f"{what} without errors", f"of the {what} failed with a status from 500 on", objective,
                        _requests(series, kind), _errors(series, kind))


def _latency(series: Series, slo: str, kind: str, what: str, objective: float, seconds: float,
             page: bool = True) -> ServiceLevel:
    """Requests of a kind that are answered in time."""
    limit = _number(seconds)
    return ServiceLevel(slo, f"{what} within {limit} s", f"of the {what} took longer than {limit} s", objective,
                        _requests(series, kind), _slower(series, kind, seconds), page=page)


def _of_time(slo: str, title: str, bad: str, objective: float, judged: str, missed: str) -> ServiceLevel:
    """Time that is judged (1 or 0), of which a part is bad; 15 minutes of it at least, and by day."""
    return ServiceLevel(slo, title, bad, objective, judged, missed, minimum=900, page=False)


# Expressions

def _series(settings: Settings) -> Series:
    return Series(settings.namespace, settings.instance_name)


def _number(value: float) -> str:
    """A number of PromQL without an exponent: 0.5, 2, 10000000."""
    return f"{value:.10f}".rstrip("0").rstrip(".")


def _rate(series: Series, name: str, kind: str, *matchers: str) -> str:
    return f"sum(rate({series(name, *metrics.KINDS[kind], *matchers, window='5m')}))"


def _requests(series: Series, kind: str) -> str:
    return _rate(series, "mlflow_http_request_total", kind)


def _errors(series: Series, kind: str) -> str:
    """Failed requests per second; 0, not absent, while there are requests and none failed."""
    failed = _rate(series, "mlflow_http_request_total", kind, 'status=~"5.."')
    return f"({failed} or 0 * {_requests(series, kind)})"


def _slower(series: Series, kind: str, seconds: float) -> str:
    name = "mlflow_http_request_duration_seconds"
    if seconds not in metrics.DURATION_BUCKETS:
        raise ValueError(f"{seconds} s is no bucket of {name}; buckets are {metrics.DURATION_BUCKETS}")
    # Clients of Prometheus write the bound 3 as "3" or "3.0", as Prometheus 3 does when it scrapes.
    bound = _number(seconds).replace(".", "[.]")
    bound = bound if "." in bound else f"{bound}([.]0)?"
    total, fast = _rate(series, f"{name}_count", kind), _rate(series, f"{name}_bucket", kind, f'le=~"{bound}"')
    return f"clamp_min({total} - {fast}, 0)"


def _upload_speed(series: Series) -> str:
    return (f"{_rate(series, 'mlflow_http_request_bytes_total', 'uploads')}"
            f" / {_rate(series, 'mlflow_http_request_duration_seconds_sum', 'uploads')}")


# Rules

def _record(settings: Settings, name: str, expression: str, **labels: str) -> dict:
    metric = metrics.BY_SERIES[f"instance_name:{name}"]
    if set(labels) != set(metric.labels):
        raise ValueError(f"{metric.name} has the labels {', '.join(metric.labels)}, not {', '.join(labels)}.")
    return {"record": metric.name, "expr": expression,
            "labels": {"namespace": settings.namespace, "instance_name": settings.instance_name, **labels}}


def _alert(settings: Settings, name: str, severity: str, expression: str, summary: str, description: str, *,
           wait: str = "", keep: str = "", wait_is_threshold: bool = False, **labels: str) -> dict:
    """An alert; wait is ``for``, keep is ``keep_firing_for``. Rules of one name and severity differ in labels.

    Args:
        wait_is_threshold: how old what is missing may become; the user's ``for`` does not replace it.
    """
    changes = settings.changes.get(name, {})
    if not wait_is_threshold:
        wait = changes.get("for", wait)
    keep = changes.get("keep_firing_for", keep)
    instance = f"{settings.instance_name} (namespace {settings.namespace})"
    return {
        "alert": name,
        "expr": expression,
        **({"for": wait} if wait else {}),
        **({"keep_firing_for": keep} if keep else {}),
        "labels": {"severity": severity, "namespace": settings.namespace, "instance_name": settings.instance_name,
                   **labels},
        "annotations": {
            "summary": f"{summary}: {instance}",
            "description": f"MLflow {instance}: {description}",
            "runbook_url": f"{settings.runbooks_url}#{name.lower()}",
            **({"inventory_hostname": settings.host} if settings.host else {}),
        },
    }


def _extra_rules(settings: Settings) -> list[dict]:
    """Rules of the user; by the labels of the instance Alertmanager groups and mutes them as its other alerts."""
    labels = {"namespace": settings.namespace, "instance_name": settings.instance_name}
    return [{**rule, "labels": {**labels, **rule.get("labels", {})}} for rule in settings.extra]


def _span(seconds: float) -> str:
    """A time in the largest unit of which it has at least one: 21 days, 1.5 hours, 1 minute."""
    for unit, size in (("day", DAY), ("hour", HOUR), ("minute", 60), ("second", 1)):
        if seconds >= size:
            break
    number = f"{seconds / size:.4g}"
    return f"{number} {unit}{'' if number == '1' else 's'}"


def _recorded_requests(settings: Settings) -> list[dict]:
    series = _series(settings)
    p95 = ("histogram_quantile(0.95, sum by (le) (rate("
           f"{series('mlflow_http_request_duration_seconds_bucket', *metrics.KINDS['api'], window='5m')})))")
    requests = [_record(settings, "mlflow_http_requests:rate5m", _requests(series, kind), kind=kind)
                for kind in ("all", "api", "artifacts", "ui")]
    return [
        *requests,
        _record(settings, "mlflow_http_errors:ratio5m", f"{_errors(series, 'all')} / {_requests(series, 'all')}"),
        _record(settings, "mlflow_api_request_duration_seconds:p95_5m", p95),
        _record(settings, "mlflow_upload_bytes_per_second:rate5m", _upload_speed(series)),
    ]


def _recorded_events(settings: Settings, level: ServiceLevel) -> list[dict]:
    return [
        _record(settings, "mlflow_slo_objective:ratio", f"vector({_number(level.objective)})", slo=level.slo),
        _record(settings, "mlflow_slo_events:rate5m", level.events, slo=level.slo),
        _record(settings, "mlflow_slo_bad_events:rate5m", level.bad_events, slo=level.slo),
        *_recorded_windows(settings, level, SHORT_WINDOWS),
    ]


def _recorded_windows(settings: Settings, level: ServiceLevel, windows: tuple[str, ...]) -> list[dict]:
    """Fractions of bad events. Averages of recorded rates weigh each event the same, and read one series."""
    series, matcher = _series(settings), f'slo="{level.slo}"'
    rules = []
    for window in windows:
        bad = series("instance_name:mlflow_slo_bad_events:rate5m", matcher, window=window)
        events = series("instance_name:mlflow_slo_events:rate5m", matcher, window=window)
        rules.append(_record(settings, "mlflow_slo_errors:ratio", f"avg_over_time({bad}) / avg_over_time({events})",
                             slo=level.slo, window=window))
    return rules


def _server_alerts(settings: Settings) -> list[dict]:
    series, limit = _series(settings), settings.thresholds
    up = series("up", f'job="{metrics.SERVER_JOB}"')
    many_api, many = (_many(settings, kind) for kind in ("api", "all"))
    expiry = f"min by (host) ({series('mlflow_certificate_expiry_timestamp_seconds')}) - time()"
    return [
        _alert(settings, "MLflowServerDown", "critical", f"(sum({up}) or vector(0)) == 0",
               "The MLflow server is down",
               "{{ $value }} pods of the server answer Prometheus; at least 1 has to.", wait="2m"),
        _alert(settings, "MLflowReplicaDown", "warning",
               f"(count({up} == 0) > 0) and (sum({up}) > 0)",
               "A replica of the MLflow server is down",
               "{{ $value }} pods of the server do not answer Prometheus; others do.", wait="10m"),
        _alert(settings, "MLflowLatencyHigh", "warning",
               f"(max({series('instance_name:mlflow_api_request_duration_seconds:p95_5m')})"
               f" > {_number(limit.latency_seconds)}) and ({many_api})",
               "API requests are slow",
               "the slowest 5 % of the API requests take {{ $value | humanizeDuration }} or longer; the threshold is "
               f"{_number(limit.latency_seconds)} s.", wait="5m", keep="5m"),
        _alert(settings, "MLflowErrorRatioHigh", "critical",
               f"(max({series('instance_name:mlflow_http_errors:ratio5m')}) > {_number(limit.error_ratio)})"
               f" and ({many})",
               "Requests fail",
               "{{ $value | humanizePercentage }} of the requests fail with a status from 500 on; the threshold is "
               f"{_number(100 * limit.error_ratio)} %.", wait="5m", keep="5m"),
        # The exporter makes a round trip every five minutes: two have to fail.
        _alert(settings, "MLflowRoundTripFailing", "critical",
               f"max({series('mlflow_round_trip_success')}) == 0",
               "Clients cannot use MLflow",
               "the last round trip of a client (run, metrics, artifact, registered model) failed; "
               "mlflow_round_trip_success is {{ $value }}.", wait="6m"),
        *[_alert(settings, "MLflowCertificateExpiring", severity, f"{expiry} < {_number(days * DAY)}",
                 "A certificate expires",
                 "the certificate of {{ $labels.host }} expires in {{ $value | humanizeDuration }}; the threshold is "
                 f"{_span(days * DAY)}.", wait="15m")
          for severity, days in (("warning", limit.certificate_days), ("critical", limit.certificate_critical_days))],
    ]


def _many(settings: Settings, kind: str) -> str:
    """Condition that there were enough requests in the last five minutes."""
    recorded = _series(settings)("instance_name:mlflow_http_requests:rate5m", f'kind="{kind}"')
    return f"300 * sum({recorded}) >= {settings.thresholds.minimum_requests}"


def _database_alerts(settings: Settings) -> list[dict]:
    series, limit = _series(settings), settings.thresholds
    used = f"max({series('mlflow_database_connections_used')})"
    allowed = f"(max({series('mlflow_database_connections_allowed')}) > 0)"
    revisions = f"max by (found, wanted) ({series('mlflow_schema_info')})"
    return [
        _alert(settings, "MLflowDatabaseDown", "critical", f"max({series('mlflow_database_up')}) == 0",
               "The database of MLflow does not answer",
               "the exporter cannot query the database; mlflow_database_up is {{ $value }}.", wait="2m"),
        _alert(settings, "MLflowDatabaseConnectionsHigh", "warning",
               f"{used} / {allowed} > {_number(limit.connections_ratio)}",
               "The database runs out of connections",
               "{{ $value | humanizePercentage }} of the connections that the database accepts are used; the threshold "
               f"is {_number(100 * limit.connections_ratio)} %.", wait="10m", keep="5m"),
        _alert(settings, "MLflowDatabaseArchiveFailing", "warning",
               f"max({series('mlflow_database_archive_success')}) == 0",
               "The database cannot archive its WAL",
               "PostgreSQL's last attempt to archive WAL failed; mlflow_database_archive_success is {{ $value }}.",
               wait="15m", reason="wal"),
        _alert(settings, "MLflowSchemaNotCurrent", "warning",
               f"{revisions} and on () (max({series('mlflow_schema_current')}) == 0)",
               "The database schema is not that of MLflow",
               "the schema has revision {{ $labels.found }}, this version of MLflow needs {{ $labels.wanted }}.",
               wait="15m"),
    ]


def _base_backup_alerts(settings: Settings) -> list[dict]:
    """Without new base backups, recoveries take longer and longer, and WAL that does not expire fills the archive."""
    series, interval = _series(settings), settings.base_backup_interval_seconds
    last = f"max({series('mlflow_backup_last_base_timestamp_seconds')})"
    late = interval * settings.thresholds.backup_late_factor
    return [
        _alert(settings, "MLflowDatabaseArchiveFailing", "warning", f"time() - {last} > {_number(late)}",
               "The base backup of the database is late",
               "the newest base backup of the WAL archive is {{ $value | humanizeDuration }} old; the threshold is "
               f"{_span(late)}.", wait="15m", reason="base_backup_old"),
        _alert(settings, "MLflowDatabaseArchiveFailing", "warning",
               _no_backup(series, f"vector({interval})", last),
               "There is no base backup of the database",
               "WAL is archived, a base backup is expected every {{ $value | humanizeDuration }}, and there is none.",
               wait=f"{int(late)}s", wait_is_threshold=True, reason="base_backup_none"),
    ] if interval else []


def _store_alerts(settings: Settings) -> list[dict]:
    series = _series(settings)
    return [
        _alert(settings, "MLflowObjectStoreDown", "critical", f"max({series('mlflow_object_store_up')}) == 0",
               "The artifact store of MLflow does not answer",
               "the exporter cannot write and read an object; mlflow_object_store_up is {{ $value }}.", wait="5m"),
    ]


def _volume_alerts(settings: Settings) -> list[dict]:
    rules = _filling(settings, "exporter", "volume", "mlflow_volume_free_bytes", "mlflow_volume_size_bytes")
    if settings.claims:
        # The kubelet knows the claims of all pods; those of the database and the object store have pods of their own.
        rules += _filling(settings, "kubelet", "persistentvolumeclaim", "kubelet_volume_stats_available_bytes",
                          "kubelet_volume_stats_capacity_bytes",
                          f'persistentvolumeclaim=~"{"|".join(settings.claims)}"')
    return rules


def _filling(settings: Settings, measured_by: str, label: str, free: str, size: str, *matchers: str) -> list[dict]:
    """Alerts of volumes that the label tells apart; free and size are names of series."""
    series, limit, volume = _series(settings), settings.thresholds, f"{{{{ $labels.{label} }}}}"
    seconds = _number(limit.volume_full_hours * HOUR)
    used = f"max by ({label}) (1 - {series(free, *matchers)} / {series(size, *matchers)})"
    # Seconds until the volume is full, only where its free space decreases.
    left = {window: f"min by ({label}) "
                    f"(({series(free, *matchers)} / -deriv({series(free, *matchers, window=window)})) > 0)"
            for window in ("6h", "1h")}
    return [
        *[_alert(settings, "MLflowVolumeFilling", severity, f"{used} > {_number(ratio)}",
                 "A volume is nearly full",
                 f"the volume {volume} is {{{{ $value | humanizePercentage }}}} full; the threshold is "
                 f"{_number(100 * ratio)} %.", wait="10m", keep="5m", measured_by=measured_by)
          for severity, ratio in (("warning", limit.volume_ratio), ("critical", limit.volume_critical_ratio))],
        # The last hour ends the alert after a burst of writes, which the trend of six hours contains for long.
        _alert(settings, "MLflowVolumeFullPredicted", "warning",
               f"({left['6h']} < {seconds}) and ({left['1h']} < {seconds}) and ({used} > 0.5)",
               "A volume will be full soon",
               f"at the rate of the last six hours the volume {volume} is full in "
               f"{{{{ $value | humanizeDuration }}}}; the threshold is {_span(limit.volume_full_hours * HOUR)}.",
               wait="1h", keep="15m", measured_by=measured_by),
    ]


def _no_backup(series: Series, interval: str, last: str) -> str:
    """The interval of backups, unless there is one, or nothing is known of them."""
    up = series("up", f'job="{metrics.EXPORTER_JOB}"')
    collected = f"max({series('mlflow_exporter_collection_success', BACKUPS)})"
    return f"({interval} unless {last} unless ({collected} == 0)) and (sum({up}) > 0)"


def _backup_alerts(settings: Settings) -> list[dict]:
    series, limit = _series(settings), settings.thresholds
    last = f"max({series('mlflow_backup_last_timestamp_seconds')})"
    verified = f"max({series('mlflow_backup_last_verified_timestamp_seconds')})"
    failed = f"max({series('mlflow_backup_last_failed_timestamp_seconds')})"
    interval = (f"(max({series('mlflow_backup_expected_interval_seconds')}) or "
                f"vector({settings.backup_interval_seconds}))")
    first = f"{int(settings.backup_interval_seconds * limit.backup_late_factor)}s"
    unverified = limit.backup_verified_days * DAY
    late = [
        _alert(settings, "MLflowBackupLate", "critical",
               f"(time() - ({last} > 0)) > {_number(limit.backup_late_factor)} * {interval}",
               "The backup is late",
               "the newest backup is {{ $value | humanizeDuration }} old, more than "
               f"{_number(limit.backup_late_factor)} times the interval of backups.", reason="old"),
        _alert(settings, "MLflowBackupLate", "critical",
               _no_backup(series, interval, f"({last} > 0)"),
               "There is no backup",
               "backups are on, one is expected every {{ $value | humanizeDuration }}, and there is none.",
               wait=first, wait_is_threshold=True, reason="none"),
    ] if settings.backup_interval_seconds else []
    return [
        *late,
        _alert(settings, "MLflowBackupFailed", "warning",
               f"{failed} > ({last} or vector(0))",
               "The backup failed",
               "the backup of {{ $value | humanizeTimestamp }} failed, and none has succeeded since."),
        _alert(settings, "MLflowBackupUnverified", "warning",
               f"(time() - ({verified} > 0)) > {_number(unverified)}",
               "Backups are not verified",
               "the newest backup that was verified is {{ $value | humanizeDuration }} old; the threshold is "
               f"{_span(unverified)}.", wait="15m", reason="old"),
        _alert(settings, "MLflowBackupUnverified", "warning",
               f"({last} > 0) unless ({verified} > 0)",
               "Backups are not verified",
               "there are backups, the newest of {{ $value | humanizeTimestamp }}, and none was verified for "
               f"{_span(unverified)}.", wait=f"{int(unverified)}s", wait_is_threshold=True, reason="none"),
    ]


def _exporter_alerts(settings: Settings) -> list[dict]:
    series = _series(settings)
    up = series("up", f'job="{metrics.EXPORTER_JOB}"')
    return [
        _alert(settings, "MLflowExporterDown", "warning", f"(sum({up}) or vector(0)) == 0",
               "The exporter of MLflow is down",
               "{{ $value }} exporters answer Prometheus: database, artifact store, volumes, certificates and backups "
               "are not watched.", wait="5m"),
        _alert(settings, "MLflowExporterCollectionFailing", "warning",
               f"max by (collector) ({series('mlflow_exporter_collection_success')}) == 0",
               "The exporter of MLflow cannot collect metrics",
               "the collector {{ $labels.collector }} fails (success is {{ $value }}); its metrics are missing or old.",
               wait="15m"),
    ]


def _burn_rate_alerts(settings: Settings, level: ServiceLevel) -> list[dict]:
    severities = [("critical", PAGE, "2m"), ("warning", TICKET, "15m")] if level.page else [("warning", TICKET, "15m")]
    rules = []
    for severity, windows, wait in severities:
        conditions = " or ".join(_burns(settings, level, *window) for window in windows)
        long = " or ".join(window[1] for window in windows)
        rules.append(_alert(
            settings, level.alert, severity, f"max by (slo) ({conditions})",
            f"The error budget of {level.title} burns",
            f"{{{{ $value | humanizePercentage }}}} {level.bad} in the last {long}; the objective allows "
            f"{_number(100 - 100 * level.objective)} % over 30 days.", wait=wait, keep="5m"))
    return rules


def _burns(settings: Settings, level: ServiceLevel, factor: float, long: str, short: str) -> str:
    series, slo = _series(settings), f'slo="{level.slo}"'
    ratios = [series("instance_name:mlflow_slo_errors:ratio", slo, f'window="{window}"') for window in (long, short)]
    limit = _number(factor * (1 - level.objective))
    # Rates of five minutes, every five minutes: each event is counted once, also where the instance is younger than the
    # window, which an average would extrapolate.
    bad = series("instance_name:mlflow_slo_bad_events:rate5m", slo, window=f"{long}:5m")
    return (f"({ratios[0]} > {limit} and on (slo) {ratios[1]} > {limit}"
            f" and on (slo) 300 * sum_over_time({bad}) >= {level.minimum})")
