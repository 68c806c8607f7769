# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Dashboards for Grafana, and the page that shows the same figures where there is none.

A dashboard has variables for the data source, the namespace and the instance, so that one copy serves all instances;
its uid is stable, so that links, and the copies of several instances, are to the same dashboard.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
from dataclasses import dataclass
from typing import Any, Iterable

from ansible_collections.mlops.mlflow.plugins.plugin_utils.monitoring import metrics
from ansible_collections.mlops.mlflow.plugins.plugin_utils.monitoring.metrics import Series
from ansible_collections.mlops.mlflow.plugins.plugin_utils.monitoring.rules import Settings

WINDOW = "$__rate_interval"
"""Grafana's variable for the window of rates: at least four scrapes."""
FOLDER = "MLflow"
"""Folder of the dashboards in Grafana."""
COLUMNS = 24
"""Width of Grafana's grid."""
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
PAGE = pathlib.Path(__file__).with_name("overview.html")
GREEN, ORANGE, RED, NEUTRAL = "green", "orange", "red", "text"


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        title, description: what it shows, and what to compare it with.
        kind: stat or timeseries.
        unit: Grafana's name of the unit: short, s, reqps, bytes, Bps, percentunit, bool_yes_no.
        queries: PromQL and legend of each.
        width: columns of 24.
        steps: colours by value, from the first on: ((None, green), (0.1, red)).
        overview: whether the page of the own Prometheus has it.
        names: a stat shows the legend, not the value.
    """

    title: str
    description: str
    kind: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    width: int = 12
    steps: tuple[tuple[float | None, str], ...] = ((None, NEUTRAL),)
    overview: bool = False
    names: bool = False


@dataclass(frozen=True)
class Dashboard:
    """One dashboard: rows of panels under a title each."""

    name: str
    title: str
    description: str
    rows: tuple[tuple[str, tuple[Panel, ...]], ...]


def dashboards(exporters: Iterable[str] = ()) -> dict[str, dict[str, Any]]:
    """Grafana's JSON model of each dashboard, by file name without .json.

    Args:
        exporters: the standard exporters that run (postgresql, mysql, node), each of which has a dashboard of its own.
    """
    series = Series("$namespace", "$instance_name")
    more = [STANDARD[name](series) for name in exporters]
    return {dashboard.name: _model(dashboard) for dashboard in (*definitions(series), *more)}


def grafana_dashboard(name: str, key: str, namespace: str, selector: dict[str, str]) -> dict[str, Any]:
    """A GrafanaDashboard of grafana-operator.

    Its name ends with a digest of the selector, since that of an object cannot be changed.

    Args:
        name: of the ConfigMap with the dashboard.
        key: of the ConfigMap.
        namespace: of both.
        selector: labels of the Grafana that gets the dashboard, in whatever namespace.

    Source: https://grafana.github.io/grafana-operator/docs/api/#grafanadashboard
    """
    digest = hashlib.sha256(json.dumps(selector, sort_keys=True).encode()).hexdigest()[:6]
    return {
        "apiVersion": "grafana.integreatly.org/v1beta1",
        "kind": "GrafanaDashboard",
        "metadata": {"name": f"{name}-{digest}", "namespace": namespace},
        "spec": {"instanceSelector": {"matchLabels": selector}, "allowCrossNamespaceImport": True, "folder": FOLDER,
                 "configMapRef": {"name": name, "key": key}},
    }


def overview(settings: Settings) -> str:
    """A page of HTML with the main figures of an instance, which asks the Prometheus that serves it.

    Put it into the directory of console templates: Prometheus serves it at /consoles/NAME, and the page asks
    ../api/v1. It contains no action of Go's templates and loads nothing else.
    """
    panels = []
    for dashboard in definitions(Series(settings.namespace, settings.instance_name)):
        for _row, row in dashboard.rows:
            panels += [{"title": panel.title, "description": panel.description, "kind": panel.kind, "unit": panel.unit,
                        "queries": panel.queries, "steps": panel.steps, "names": panel.names}
                       for panel in row if panel.overview]
    data = {"namespace": settings.namespace, "instance_name": settings.instance_name, "panels": panels}
    # Neither an end of the script nor an action of Go's templates; both are the same strings for JavaScript.
    text = json.dumps(data, indent=1).replace("<", "\\u003c").replace("{{", "\\u007b\\u007b")
    return PAGE.read_text(encoding="utf-8").replace("@DATA@", text)


def definitions(series: Series) -> tuple[Dashboard, ...]:
    """The four dashboards that all instances have, with the selectors of one instance or of dashboard variables."""
    return (_server(series), _stores(series), _usage(series), _service_levels(series))


# Dashboards

UP = ((None, RED), (1, GREEN))
"""Colours of a figure that is 1 or more where all is well."""
FIRING, RUNNING = 'alertstate="firing"', 'status="RUNNING"'
OK, CLIENT_ERROR, SERVER_ERROR = (f'status=~"{digit}.."' for digit in (2, 4, 5))


def _stat(title: str, description: str, unit: str, query: str, legend: str = "", **options: Any) -> Panel:
    return Panel(title, description, "stat", unit, ((query, legend or title),), **{"width": 4, **options})


def _graph(title: str, description: str, unit: str, *queries: tuple[str, str], **options: Any) -> Panel:
    return Panel(title, description, "timeseries", unit, queries, **options)


def _rate(series: Series, name: str, *matchers: str, by: str = "") -> str:
    return f"sum {f'by ({by}) ' if by else ''}(rate({series(name, *matchers, window=WINDOW)}))"


def _p(series: Series, quantile: float, *matchers: str, by: str = "") -> str:
    buckets = series("mlflow_http_request_duration_seconds_bucket", *matchers, window=WINDOW)
    labels = ", ".join(filter(None, ["le", by]))
    return f"histogram_quantile({quantile}, sum by ({labels}) (rate({buckets})))"


def _server(series: Series) -> Dashboard:
    total, everything, api = "mlflow_http_request_total", metrics.KINDS["all"], metrics.KINDS["api"]
    up = series("up", f'job="{metrics.SERVER_JOB}"')
    failed = _failed(series)
    start = series("mlflow_server_start_time_seconds")
    return Dashboard("mlflow-server", "MLflow / Server", "Requests of the server: rate, errors, duration, size.", (
        ("Now", (
            _stat("Server pods up", "Pods of the server that answer Prometheus.", "short", f"sum({up}) or vector(0)",
                  steps=UP, overview=True),
            _stat("Firing alerts", "Alerts of this instance that fire.", "short",
                  f"count({series('ALERTS', FIRING)}) or vector(0)", steps=((None, GREEN), (1, RED)), overview=True),
            _stat("Round trip of a client", "Whether run, metrics, artifact and registered model could be written and "
                  "read back, as a client does.", "bool_yes_no", f"max({series('mlflow_round_trip_success')})",
                  steps=UP, overview=True),
            _stat("Requests", "Requests per second, without those of probes.", "reqps",
                  _rate(series, total, *everything), overview=True),
            _stat("Errors", "Fraction of requests with a status from 500 on. The alert fires above 10 %.",
                  "percentunit", f"{failed} / {_rate(series, total, *everything)}",
                  steps=((None, GREEN), (0.01, ORANGE), (0.1, RED)), overview=True),
            _stat("API p95", "95th percentile of the duration of API requests. Objective 0.5 s, alert above 2 s.", "s",
                  _p(series, 0.95, *api), steps=((None, GREEN), (0.5, ORANGE), (2, RED)), overview=True),
            _stat("Version", "Versions of MLflow that run.", "short",
                  f"sum by (version) ({series('mlflow_server_info')})", "{{version}}", names=True),
            _stat("Running for", "Time since the newest start of a pod of the server.", "s", f"time() - max({start})"),
        )),
        ("Requests", (
            _graph("Requests by status", "Answered requests per second.", "reqps",
                   (_rate(series, total, *everything, by="status"), "{{status}}"), overview=True),
            _graph("Duration of API requests", "Percentiles over all routes of the API, without transfers of artifacts "
                   "and calls of language models.", "s",
                   *[(_p(series, quantile, *api), f"p{quantile * 100:g}") for quantile in (0.5, 0.95, 0.99)],
                   overview=True),
            _graph("Requests by route", "The ten routes with the most requests.", "reqps",
                   (f"topk(10, {_rate(series, total, *everything, by='method, route')})", "{{method}} {{route}}")),
            _graph("Slowest routes", "95th percentile of the ten slowest routes.", "s",
                   (f"topk(10, {_p(series, 0.95, *everything, by='method, route')})", "{{method}} {{route}}")),
            _graph("Failed requests by route", "Requests with a status from 500 on, per second.", "reqps",
                   (f"topk(10, {_rate(series, total, *everything, SERVER_ERROR, by='method, route')} > 0)",
                    "{{method}} {{route}}")),
            _graph("Refused requests by route", "Requests with a status from 400 to 499, per second: wrong logins, "
                   "missing permissions, objects that do not exist.", "reqps",
                   (f"topk(10, {_rate(series, total, *everything, CLIENT_ERROR, by='method, route')} > 0)",
                    "{{method}} {{route}}")),
            _graph("Requests in progress", "Requests that wait for an answer. A rising line means that the server is "
                   "slower than its clients.", "short",
                   (f"sum({series('mlflow_http_requests_in_flight')})", "in progress"), overview=True),
            _graph("Exceptions", "Requests per second that ended with an exception that the server did not handle.",
                   "reqps", (_rate(series, "mlflow_http_request_exceptions_total", by="route"), "{{route}}")),
        )),
        ("Transfers", (
            _graph("Bytes", "Bodies of requests and responses per second.", "Bps",
                   (_rate(series, "mlflow_http_request_bytes_total"), "received"),
                   (_rate(series, "mlflow_http_response_bytes_total"), "sent"), overview=True),
            _graph("Speed of uploads", "Bytes of artifacts divided by the duration of their uploads. Objective for "
                   "large uploads: 10 MB/s.", "Bps",
                   (series("instance_name:mlflow_upload_bytes_per_second:rate5m"), "uploads")),
        )),
    ))


def _failed(series: Series) -> str:
    """Failed requests per second; 0 while there are requests and none failed."""
    total, everything = "mlflow_http_request_total", metrics.KINDS["all"]
    return f"({_rate(series, total, *everything, SERVER_ERROR)} or 0 * {_rate(series, total, *everything)})"


def _stores(series: Series) -> Dashboard:
    used, allowed = series("mlflow_database_connections_used"), series("mlflow_database_connections_allowed")
    free, size = series("mlflow_volume_free_bytes"), series("mlflow_volume_size_bytes")
    ages = [(f"time() - max({series(f'mlflow_backup_last_{part}timestamp_seconds')})", legend)
            for part, legend in (("", "newest"), ("verified_", "newest verified"), ("base_", "newest base backup"))]
    return Dashboard("mlflow-stores", "MLflow / Database and stores", "Database, artifact store, volumes, backups.", (
        ("Now", (
            _stat("Database answers", "Whether the exporter can query the database.", "bool_yes_no",
                  f"max({series('mlflow_database_up')})", steps=UP, overview=True),
            _stat("Artifact store answers", "Whether the exporter can write and read an object.", "bool_yes_no",
                  f"max({series('mlflow_object_store_up')})", steps=UP, overview=True),
            _stat("Schema is current", "Whether the schema is the one that this version of MLflow needs.",
                  "bool_yes_no", f"max({series('mlflow_schema_current')})", steps=UP),
            _stat("Size of the database", "As the database reports it.", "bytes",
                  f"max({series('mlflow_database_size_bytes')})", overview=True),
            _stat("Connections", "Connections of those that the database accepts. The alert fires above 80 %.",
                  "percentunit", f"max({used}) / max({allowed})", steps=((None, GREEN), (0.8, RED))),
            _stat("Certificate valid for", "Until the first certificate expires.", "s",
                  f"min({series('mlflow_certificate_expiry_timestamp_seconds')}) - time()",
                  steps=((None, RED), (3 * 86400, ORANGE), (21 * 86400, GREEN))),
        )),
        ("Database", (
            _graph("Duration of queries", "Queries of the exporter. Objective for simple ones (ping, schema): 0.1 s.",
                   "s", (f"max by (query) ({series('mlflow_database_query_duration_seconds')})", "{{query}}")),
            _graph("Connections of the database", "Used by all clients, and accepted by the server.", "short",
                   (f"max({used})", "used"), (f"max({allowed})", "accepted")),
            _graph("Growth of the database", "Size as the database reports it.", "bytes",
                   (f"max({series('mlflow_database_size_bytes')})", "size")),
        )),
        ("Artifact store", (
            _graph("Duration of a small object", "Time to write and to read 1 KiB.", "s",
                   (f"max({series('mlflow_object_store_write_seconds')})", "write"),
                   (f"max({series('mlflow_object_store_read_seconds')})", "read")),
            _graph("Artifacts", "Objects in the store; an estimate while the counted fraction is below 1.", "short",
                   (f"max({series('mlflow_artifacts_stored')})", "objects")),
            _graph("Size of artifacts", "Bytes in the store; an estimate while the counted fraction is below 1.",
                   "bytes", (f"max({series('mlflow_artifacts_bytes')})", "bytes")),
            _graph("Counted fraction of the store", "1: all objects were counted. Below: a sample was.", "percentunit",
                   (f"max({series('mlflow_artifacts_counted_fraction')})", "counted")),
        )),
        ("Round trip, volumes, backups", (
            _graph("Duration of the round trip", "Of a client: run, metrics, artifact, registered model.", "s",
                   (f"max({series('mlflow_round_trip_duration_seconds')})", "round trip")),
            _graph("Use of volumes", "Used fraction of each volume that the exporter sees. Alerts fire above 85 % "
                   "and 95 %.", "percentunit", (f"max by (volume) (1 - {free} / {size})", "{{volume}}"), overview=True),
            _graph("Age of backups", "Of the newest backup, the newest that was verified, and the newest base backup "
                   "of the WAL archive; empty without.", "s", *ages),
            _graph("Collections of the exporter", "Duration by collector.", "s",
                   (f"max by (collector) ({series('mlflow_exporter_collection_duration_seconds')})", "{{collector}}")),
            _graph("Failed collections", "1 where the last collection of a collector failed.", "short",
                   (f"1 - max by (collector) ({series('mlflow_exporter_collection_success')})", "{{collector}}")),
        )),
    ))


def _usage(series: Series) -> Dashboard:
    active = 'stage="active"'
    created = []
    for name in ("runs", "experiments", "model-versions"):
        route = f'route=~"/(ajax-)?api/2[.]0/mlflow/{name}/create"'
        requests = series("mlflow_http_request_total", route, OK, window="1h")
        created.append((f"sum(increase({requests}))", name.replace("-", " ")))
    registry = [(f"max({series(f'mlflow_{name}')})", legend) for name, legend in (
        ("registered_models", "models"), ("model_versions", "versions"), ("model_aliases", "aliases"),
        ("prompts", "prompts"))]
    return Dashboard("mlflow-usage", "MLflow / Experiments and registry", "What is in MLflow, and how it grows.", (
        ("Now", (
            _stat("Active experiments", "Experiments that are not deleted.", "short",
                  f"max({series('mlflow_active_experiments')})", overview=True),
            _stat("Runs", "Runs that are not deleted.", "short",
                  f"sum(max by (status) ({series('mlflow_runs', active)}))", overview=True),
            _stat("Runs in progress", "Runs with status RUNNING.", "short",
                  f"max({series('mlflow_runs', active, RUNNING)})"),
            _stat("Registered models", "Models in the registry.", "short",
                  f"max({series('mlflow_registered_models')})", overview=True),
            _stat("Model versions", "Versions of all registered models.", "short",
                  f"max({series('mlflow_model_versions')})"),
            _stat("Artifacts stored", "Objects in the artifact store.", "short",
                  f"max({series('mlflow_artifacts_stored')})", overview=True),
            _stat("Bytes stored", "Bytes in the artifact store.", "bytes",
                  f"max({series('mlflow_artifacts_bytes')})", overview=True),
            _stat("Traces of the last day", "Traces that began in the last 24 hours.", "short",
                  f"max({series('mlflow_traces_last_day')})"),
            _stat("Users", "Users of MLflow's own authentication.", "short", f"max({series('mlflow_users')})"),
        )),
        ("Experiments", (
            _graph("Runs by status", "Runs that are not deleted.", "short",
                   (f"max by (status) ({series('mlflow_runs', active)})", "{{status}}"), overview=True),
            _graph("Created in the last hour", "Successful requests that create objects.", "short", *created),
            _graph("Experiments by stage", "Deleted ones remain until mlflow gc.", "short",
                   (f"max by (stage) ({series('mlflow_experiments')})", "{{stage}}")),
            _graph("Traces", "Traces that began in the last 24 hours.", "short",
                   (f"max({series('mlflow_traces_last_day')})", "traces")),
        )),
        ("Registry", (_graph("Model registry", "Models, versions, aliases and prompts.", "short", *registry),)),
    ))


def _postgresql(series: Series) -> Dashboard:
    own = 'datname!~"template.*|postgres|"'
    hit, read = (_rate(series, f"pg_stat_database_blks_{name}", own) for name in ("hit", "read"))
    return Dashboard("mlflow-postgresql", "MLflow / PostgreSQL", "The database server, by postgres_exporter.", (
        ("PostgreSQL", (
            _stat("PostgreSQL up", "Whether it answers its exporter.", "bool_yes_no", f"max({series('pg_up')})",
                  steps=UP),
            _graph("Transactions", "Per second.", "short",
                   (_rate(series, "pg_stat_database_xact_commit", own), "committed"),
                   (_rate(series, "pg_stat_database_xact_rollback", own), "rolled back")),
            _graph("Connections by state", "Those that are idle in a transaction keep locks.", "short",
                   (f"sum by (state) ({series('pg_stat_activity_count', own)})", "{{state}}")),
            _graph("Blocks found in memory", "Of all that were asked for. Below 0.9 for long: memory is short.",
                   "percentunit", (f"{hit} / ({hit} + {read})", "hits")),
            _graph("Locks", "By mode.", "short", (f"sum by (mode) ({series('pg_locks_count', own)})", "{{mode}}")),
            _graph("Deadlocks", "Per second.", "short", (_rate(series, "pg_stat_database_deadlocks", own),
                                                         "deadlocks")),
            _graph("Temporary files", "Bytes per second that sorts write to the disk.", "Bps",
                   (_rate(series, "pg_stat_database_temp_bytes", own), "written")),
        )),
    ))


def _mysql(series: Series) -> Dashboard:
    asked = _rate(series, "mysql_global_status_innodb_buffer_pool_read_requests")
    read = _rate(series, "mysql_global_status_innodb_buffer_pool_reads")
    return Dashboard("mlflow-mysql", "MLflow / MariaDB and MySQL", "The database server, by mysqld_exporter.", (
        ("MariaDB or MySQL", (
            _stat("Database up", "Whether it answers its exporter.", "bool_yes_no", f"max({series('mysql_up')})",
                  steps=UP),
            _graph("Statements", "Per second, and those that took longer than long_query_time.", "short",
                   (_rate(series, "mysql_global_status_questions"), "all"),
                   (_rate(series, "mysql_global_status_slow_queries"), "slow")),
            _graph("Connections", "All, and those that execute something.", "short",
                   (f"max({series('mysql_global_status_threads_connected')})", "connected"),
                   (f"max({series('mysql_global_status_threads_running')})", "running")),
            _graph("Pages found in memory", "Of all that were asked for. Below 0.9 for long: memory is short.",
                   "percentunit", (f"1 - {read} / {asked}", "hits")),
            _graph("Waits for locks of rows", "Per second.", "short",
                   (_rate(series, "mysql_global_status_innodb_row_lock_waits"), "waits")),
        )),
    ))


def _node(series: Series) -> Dashboard:
    file_systems = 'fstype!~"tmpfs|overlay|squashfs|ramfs|devtmpfs"'
    busy = 'mode!="idle"'
    memory = f"max({series('node_memory_MemAvailable_bytes')}) / max({series('node_memory_MemTotal_bytes')})"
    size, free = (f"max by (mountpoint) ({series(f'node_filesystem_{name}_bytes', file_systems)})"
                  for name in ("size", "avail"))
    return Dashboard("mlflow-node", "MLflow / Machine", "The machine that runs the pods, by node_exporter.", (
        ("Machine", (
            _stat("Memory used", "Of all memory.", "percentunit", f"1 - {memory}",
                  steps=((None, GREEN), (0.85, ORANGE), (0.95, RED))),
            _stat("Load", "Processes that run or wait, mean of the last minute.", "short",
                  f"max({series('node_load1')})"),
            _graph("Processors busy", "Number of processors, by mode.", "short",
                   (f"sum by (mode) (rate({series('node_cpu_seconds_total', busy, window=WINDOW)}))", "{{mode}}")),
            _graph("Space used", "Of each file system.", "percentunit", (f"1 - {free} / {size}", "{{mountpoint}}")),
            _graph("Disks", "Bytes per second.", "Bps",
                   (_rate(series, "node_disk_read_bytes_total", by="device"), "{{device}} read"),
                   (_rate(series, "node_disk_written_bytes_total", by="device"), "{{device}} written")),
            _graph("Disks busy", "Fraction of the time.", "percentunit",
                   (_rate(series, "node_disk_io_time_seconds_total", by="device"), "{{device}}")),
        )),
    ))


STANDARD = {"postgresql": _postgresql, "mysql": _mysql, "node": _node}
"""Dashboards of the standard exporters."""


def _window(window: str) -> str:
    return f'window="{window}"'


def _service_levels(series: Series) -> Dashboard:
    ratio, objective = "instance_name:mlflow_slo_errors:ratio", series("instance_name:mlflow_slo_objective:ratio")
    budget = f"on (slo) group_left () (1 - {objective})"
    month = series(ratio, _window("30d"))
    queries = series("mlflow_database_query_duration_seconds", metrics.SIMPLE_QUERIES)
    return Dashboard("mlflow-service-levels", "MLflow / Service levels", "Objectives, error budgets and burn rates.", (
        ("Error budgets of 30 days", (
            Panel("Error budget left", "1: nothing is used; 0 and below: the objective is missed.", "stat",
                  "percentunit", ((f"1 - {month} / {budget}", "{{slo}}"),), 24,
                  ((None, RED), (0, ORANGE), (0.25, GREEN)), overview=True),
            Panel("Good events", "Fraction of the last 30 days, or since monitoring began.", "stat", "percentunit",
                  ((f"1 - {month}", "{{slo}}"),), 12),
            Panel("Objectives", "What is wanted.", "stat", "percentunit", ((f"max by (slo) ({objective})", "{{slo}}"),),
                  12),
        )),
        ("Burn rates", tuple(
            _graph(f"Burn rate over {window}", f"1 uses the budget up in 30 days. Alerts fire above {limit}.", "short",
                   (f"{series(ratio, _window(window))} / {budget}", "{{slo}}"), overview=window == "1h")
            for window, limit in (("1h", "14.4"), ("6h", "6"), ("1d", "3"), ("3d", "1")))),
        ("Figures", (
            _graph("API p95", "95th percentile of API requests. Wanted: below 0.5 s.", "s",
                   (_p(series, 0.95, *metrics.KINDS["api"]), "p95")),
            _graph("Speed of large uploads", "Wanted: above 10 MB/s; small uploads are slower.", "Bps",
                   (series("instance_name:mlflow_upload_bytes_per_second:rate5m"), "uploads")),
            _graph("Files of the user interface", "95th percentile of a file. Wanted: below 3 s.", "s",
                   (_p(series, 0.95, *metrics.KINDS["ui"]), "p95")),
            _graph("Simple queries of the database", "The slowest of them. Wanted: below 0.1 s.", "s",
                   (f"max({queries})", "query")),
        )),
    ))


# Grafana's JSON

def _model(dashboard: Dashboard) -> dict[str, Any]:
    """See https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/."""
    return {
        "uid": dashboard.name,
        "title": dashboard.title,
        "description": dashboard.description,
        "tags": ["mlflow"],
        "editable": False,
        "graphTooltip": 1,
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "links": [{"title": "MLflow", "type": "dashboards", "tags": ["mlflow"], "asDropdown": True, "includeVars": True,
                   "keepTime": True}],
        "templating": {"list": _variables()},
        "panels": _panels(dashboard),
    }


def _variables() -> list[dict[str, Any]]:
    info = metrics.BY_SERIES["mlflow_server_info"].name
    queries = {
        "namespace": ("Namespace", f"label_values({info}, namespace)"),
        "instance_name": ("Instance", f'label_values({info}{{namespace="$namespace"}}, instance_name)'),
    }
    return [
        {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "hide": 0},
        *[{"name": name, "label": label, "type": "query", "datasource": DATASOURCE, "refresh": 2, "sort": 1,
           "query": {"query": query, "refId": name}, "definition": query}
          for name, (label, query) in queries.items()],
    ]


def _panels(dashboard: Dashboard) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    top = 0
    for title, panels in dashboard.rows:
        made.append({"id": len(made) + 1, "type": "row", "title": title, "collapsed": False, "panels": [],
                     "gridPos": {"x": 0, "y": top, "w": COLUMNS, "h": 1}})
        top, left, height = top + 1, 0, 0
        for panel in panels:
            if left + panel.width > COLUMNS:
                top, left = top + height, 0
            height = 4 if panel.kind == "stat" else 8
            made.append({"id": len(made) + 1, **_panel(panel),
                         "gridPos": {"x": left, "y": top, "w": panel.width, "h": height}})
            left += panel.width
        top += height
    return made


def _panel(panel: Panel) -> dict[str, Any]:
    steps = [{"value": value, "color": colour} for value, colour in panel.steps]
    defaults: dict[str, Any] = {"unit": panel.unit, "thresholds": {"mode": "absolute", "steps": steps}}
    if panel.kind == "timeseries":
        defaults |= {"min": 0, "custom": {"fillOpacity": 10, "lineWidth": 1, "showPoints": "never"}}
        options: dict[str, Any] = {"legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
                                   "tooltip": {"mode": "multi", "sort": "desc"}}
    else:
        text = "name" if panel.names else "value_and_name" if "{{" in panel.queries[0][1] else "value"
        options = {"colorMode": "value", "graphMode": "none", "justifyMode": "auto", "textMode": text,
                   "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}}
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [{"refId": chr(ord("A") + number), "datasource": DATASOURCE, "expr": query, "legendFormat": legend,
                     "instant": panel.kind == "stat", "range": panel.kind != "stat"}
                    for number, (query, legend) in enumerate(panel.queries)],
    }
