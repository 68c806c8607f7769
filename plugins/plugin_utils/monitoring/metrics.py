# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The metrics of an instance. Rules and dashboards take names and labels from this list only.

A test compares the list with what the server's hook and the exporter export, so that renaming a metric on one side
fails.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SERVER_JOB = "mlflow-server"
EXPORTER_JOB = "mlflow-exporter"
"""Values of the label job, which the scrape configuration sets."""
INSTANCE_LABELS = ("namespace", "instance_name")
"""Labels that the scrape configuration adds to every series."""
DURATION_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 10, 30)
"""Upper bounds in seconds of mlflow_http_request_duration_seconds."""
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count")}
LABEL = re.compile(r'([a-z_]+)(?:=~|!~|!=|=)"')


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: as exported; a histogram has the series name_bucket, name_sum and name_count.
        type: counter, gauge or histogram.
        source: server (the hook in the server), exporter, prometheus (made by Prometheus at a scrape), kubelet, rule
            (a recording rule of rules.py), or postgresql, mysql, node (a standard exporter of exporters.py).
        labels: without those that the scrape configuration adds.
        help: one sentence.
    """

    name: str
    type: str
    source: str
    labels: tuple[str, ...]
    help: str

    def series(self) -> tuple[str, ...]:
        """Names of the time series."""
        return tuple(self.name + suffix for suffix in SUFFIXES.get(self.type, ("",)))


def _server(name: str, kind: str, labels: tuple[str, ...], text: str) -> Metric:
    return Metric(name, kind, "server", labels, text)


def _exporter(name: str, labels: tuple[str, ...], text: str) -> Metric:
    return Metric(name, "gauge", "exporter", labels, text)


def _standard(source: str, kind: str, labels: tuple[str, ...], **texts: str) -> tuple[Metric, ...]:
    return tuple(Metric(name, kind, source, labels, text) for name, text in texts.items())


def _recorded(name: str, labels: tuple[str, ...], text: str) -> Metric:
    return Metric(f"instance_name:{name}", "gauge", "rule", labels, text)


METRICS = (
    _server("mlflow_http_request_total", "counter", ("method", "route", "status"), "HTTP requests that were answered."),
    _server("mlflow_http_request_duration_seconds", "histogram", ("method", "route", "status"),
            "Time from the first byte of a request to the last byte of its response."),
    _server("mlflow_http_requests_in_flight", "gauge", (), "HTTP requests in progress."),
    _server("mlflow_http_request_bytes_total", "counter", ("method", "route"), "Bytes of the bodies of requests."),
    _server("mlflow_http_response_bytes_total", "counter", ("method", "route"), "Bytes of the bodies of responses."),
    _server("mlflow_http_request_exceptions_total", "counter", ("method", "route"),
            "Requests that ended with an exception that the server did not handle."),
    _server("mlflow_server_info", "gauge", ("version",), "Version of MLflow; the value is 1."),
    _server("mlflow_server_start_time_seconds", "gauge", (), "Unix time at which the server started."),
    _server("mlflow_requests_total", "counter", ("method", "endpoint", "status"),
            "The same as mlflow_http_request_total, for existing dashboards."),
    _server("mlflow_request_duration_seconds", "histogram", ("method",),
            "The same as mlflow_http_request_duration_seconds, for existing dashboards."),

    _exporter("mlflow_experiments", ("stage",), "Experiments, by lifecycle stage."),
    _exporter("mlflow_runs", ("status", "stage"), "Runs, by status and lifecycle stage."),
    _exporter("mlflow_registered_models", (), "Registered models."),
    _exporter("mlflow_model_versions", (), "Versions of registered models."),
    _exporter("mlflow_model_aliases", (), "Aliases of registered models."),
    _exporter("mlflow_prompts", (), "Prompts in the registry."),
    _exporter("mlflow_users", (), "Users of MLflow's own authentication."),
    _exporter("mlflow_traces_last_day", (), "Traces that began in the last 24 hours."),
    _exporter("mlflow_active_experiments", (), "Experiments that are not deleted."),
    _exporter("mlflow_artifacts_stored", (), "Objects in the artifact store."),
    _exporter("mlflow_artifacts_bytes", (), "Bytes in the artifact store."),
    _exporter("mlflow_artifacts_counted_fraction", (),
              "Fraction of the artifact store that was counted; below 1 the other figures are estimates."),
    _exporter("mlflow_database_up", (), "Whether the database answers."),
    _exporter("mlflow_database_query_duration_seconds", ("query",), "Duration of a query of the exporter."),
    _exporter("mlflow_database_size_bytes", (), "Size of the database."),
    _exporter("mlflow_database_connections_used", (), "Connections to the database server."),
    _exporter("mlflow_database_connections_allowed", (), "Connections that the database server accepts."),
    _exporter("mlflow_database_archive_success", (), "Whether the last WAL could be archived."),
    _exporter("mlflow_schema_current", (), "Whether the database has the schema revision of this version of MLflow."),
    _exporter("mlflow_schema_info", ("found", "wanted"), "Schema revision of the database and of MLflow."),
    _exporter("mlflow_object_store_up", (), "Whether the artifact store answers."),
    _exporter("mlflow_object_store_write_seconds", (), "Time to write a small object."),
    _exporter("mlflow_object_store_read_seconds", (), "Time to read a small object."),
    _exporter("mlflow_round_trip_success", (), "Whether the last round trip of a client succeeded."),
    _exporter("mlflow_round_trip_duration_seconds", (), "Duration of the last round trip."),
    _exporter("mlflow_round_trip_last_timestamp_seconds", (), "Unix time of the last round trip."),
    _exporter("mlflow_certificate_expiry_timestamp_seconds", ("host",), "Unix time at which the certificate expires."),
    _exporter("mlflow_volume_size_bytes", ("volume",), "Size of a volume."),
    _exporter("mlflow_volume_free_bytes", ("volume",), "Free space of a volume."),
    _exporter("mlflow_backup_last_timestamp_seconds", (), "Unix time of the newest successful backup."),
    _exporter("mlflow_backup_last_verified_timestamp_seconds", (), "Unix time of the newest verified backup."),
    _exporter("mlflow_backup_last_failed_timestamp_seconds", (), "Unix time of the newest backup that failed."),
    _exporter("mlflow_backup_last_base_timestamp_seconds", (), "Unix time of the newest base backup of the database."),
    _exporter("mlflow_backup_expected_interval_seconds", (), "Time between two backups."),
    _exporter("mlflow_exporter_collection_duration_seconds", ("collector",), "Duration of the last collection."),
    _exporter("mlflow_exporter_collection_success", ("collector",), "Whether the last collection succeeded."),

    Metric("up", "gauge", "prometheus", ("job", "instance"), "Whether the last scrape of a target succeeded."),
    Metric("ALERTS", "gauge", "prometheus", ("alertname", "alertstate", "severity"), "Pending and firing alerts."),
    Metric("kubelet_volume_stats_available_bytes", "gauge", "kubelet", ("persistentvolumeclaim",),
           "Free space of the volume of a claim."),
    Metric("kubelet_volume_stats_capacity_bytes", "gauge", "kubelet", ("persistentvolumeclaim",),
           "Size of the volume of a claim."),

    *_standard("postgresql", "gauge", (), pg_up="Whether PostgreSQL answers its exporter."),
    *_standard("postgresql", "gauge", ("datname", "state"), pg_stat_activity_count="Connections, by state."),
    *_standard("postgresql", "gauge", ("datname", "mode"), pg_locks_count="Locks, by mode."),
    *_standard("postgresql", "counter", ("datname",),
               pg_stat_database_xact_commit="Transactions that were committed.",
               pg_stat_database_xact_rollback="Transactions that were rolled back.",
               pg_stat_database_blks_read="Blocks that were read from the disk.",
               pg_stat_database_blks_hit="Blocks that were found in memory.",
               pg_stat_database_deadlocks="Deadlocks.",
               pg_stat_database_temp_bytes="Bytes of temporary files."),
    *_standard("mysql", "gauge", (), mysql_up="Whether the database answers its exporter.",
               mysql_global_status_threads_running="Connections that execute something.",
               mysql_global_status_threads_connected="Connections."),
    *_standard("mysql", "counter", (), mysql_global_status_questions="Statements of clients.",
               mysql_global_status_slow_queries="Statements that took longer than long_query_time.",
               mysql_global_status_innodb_buffer_pool_reads="Pages that were read from the disk.",
               mysql_global_status_innodb_buffer_pool_read_requests="Pages that were asked for.",
               mysql_global_status_innodb_row_lock_waits="Statements that waited for a lock of a row."),
    *_standard("node", "gauge", (), node_load1="Load of the last minute.",
               node_memory_MemAvailable_bytes="Memory that programs can get.",
               node_memory_MemTotal_bytes="Memory of the machine."),
    *_standard("node", "gauge", ("device", "fstype", "mountpoint"),
               node_filesystem_avail_bytes="Free space for users other than root.",
               node_filesystem_size_bytes="Size of the file system."),
    *_standard("node", "counter", ("cpu", "mode"), node_cpu_seconds_total="Time of the processors, by mode."),
    *_standard("node", "counter", ("device",), node_disk_read_bytes_total="Bytes that were read.",
               node_disk_written_bytes_total="Bytes that were written.",
               node_disk_io_time_seconds_total="Time in which the disk was busy."),

    _recorded("mlflow_http_requests:rate5m", ("kind",), "Requests per second, by kind: all, api, artifacts, ui."),
    _recorded("mlflow_http_errors:ratio5m", (), "Fraction of requests with a status from 500 on."),
    _recorded("mlflow_api_request_duration_seconds:p95_5m", (), "95th percentile of the duration of API requests."),
    _recorded("mlflow_upload_bytes_per_second:rate5m", (), "Bytes of artifacts per second of the uploads' duration."),
    _recorded("mlflow_slo_objective:ratio", ("slo",), "Objective of a service level."),
    _recorded("mlflow_slo_events:rate5m", ("slo",), "Events of a service level per second."),
    _recorded("mlflow_slo_bad_events:rate5m", ("slo",), "Events per second that miss the service level."),
    _recorded("mlflow_slo_errors:ratio", ("slo", "window"), "Fraction of bad events in a window."),
)
"""All metrics that rules and dashboards may use."""

BY_SERIES = {series: metric for metric in METRICS for series in metric.series()}

SIMPLE_QUERIES = 'query=~"ping|schema"'
"""The exporter's queries that read one row, by whose duration the database is judged."""

# Classes of routes. A route is the template that the framework matched, without the prefix of the server. Requests
# whose duration depends on the size of an artifact or on a model of somebody else are not part of the API's latency.
PROBES = "/(health|version|metrics)"
API = "/(ajax-)?api/[23][.]0/mlflow/.+|/graphql"
NOT_API = ".+/(upload-artifact|get-trace-artifact|artifacts/files|gateway-proxy|invoke|generate|test)"
ARTIFACTS = (
    "/(ajax-)?api/2[.]0/mlflow-artifacts/.+|.*/(get-artifact|upload-artifact|get-trace-artifact|artifacts/files)")
UPLOADS = "/(ajax-)?api/2[.]0/(mlflow-artifacts/artifacts/.+|mlflow/upload-artifact)"
UI = "/|/static-files/.+"
KINDS = {
    "all": (f'route!~"{PROBES}"',),
    "api": (f'route=~"{API}"', f'route!~"{NOT_API}"'),
    "artifacts": (f'route=~"{ARTIFACTS}"',),
    "uploads": ('method=~"PUT|POST"', f'route=~"{UPLOADS}"'),
    "ui": (f'route=~"{UI}"',),
}
"""Label matchers of each kind of requests."""


class Series:
    """Writes selectors of the series of one instance.

    Args:
        namespace: value of the label, or a variable of a dashboard.
        instance_name: likewise.
    """

    def __init__(self, namespace: str, instance_name: str) -> None:
        self.matchers = (f'namespace="{namespace}"', f'instance_name="{instance_name}"')
        self.namespace, self.instance_name = namespace, instance_name

    def __call__(self, name: str, *matchers: str, window: str = "") -> str:
        """A selector.

        Args:
            name: name of a series; that of a histogram ends with _bucket, _sum or _count.
            matchers: label matchers of PromQL, such as ``status=~"5.."``.
            window: duration or variable for a range vector, such as 5m.

        Raises:
            KeyError: the list has no such series.
            ValueError: the metric has no such label.
        """
        metric = BY_SERIES[name]
        allowed = {*metric.labels, *(("le",) if name.endswith("_bucket") else ())}
        for matcher in matchers:
            unknown = set(LABEL.findall(matcher)) - allowed
            if unknown:
                raise ValueError(f"{metric.name} has no label {', '.join(sorted(unknown))}")
        # The kubelet knows claims, not instances.
        own = self.matchers[:1] if metric.source == "kubelet" else self.matchers
        return f"{name}{{{','.join([*own, *matchers])}}}" + (f"[{window}]" if window else "")
