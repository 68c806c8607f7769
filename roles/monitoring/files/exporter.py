"""Metrics that MLflow does not have: of its database, its artifact store, and what is in them. Runs in MLflow's image.

usage: exporter.py

Python 3.9 or newer and the drivers and clients of the server's image. In the folder of this file are collectors.py, and
of the collection's plugins/module_utils the files that collectors.FILES names, without folders of their own.

Each collector runs in a process of its own that ends with it, on an interval of its own, and is killed after its
timeout: a scrape is answered from what was found last, whatever hangs; and memory for the clients of stores is used
only while they work. A collector that fails has no series but mlflow_exporter_collection_success 0, and 0 of its gauge
that says what is up. `sparing` collectors start again at the earliest after 100 times as long as the store worked for
them, so that they use at most 1 % of the time of a slow database. A collector that failed starts again after five
minutes at the latest, unless it is a sparing one that ran for long.

collector     runs when there is               seconds: interval, timeout
database      MLFLOW_BACKEND_STORE_URI             30      10
counts        MLFLOW_BACKEND_STORE_URI             60      60   sparing
object_store  MLFLOW_ARTIFACTS_DESTINATION         60      30
artifacts     MLFLOW_ARTIFACTS_DESTINATION       3600     600   sparing
round_trip    MLFLOW_TRACKING_URI                 300      60
certificates  MLOPS_EXPORTER_CERTIFICATES        3600      30
volumes       MLOPS_EXPORTER_VOLUMES               60      10
backups       BACKUP_STORE                        300      60

environment:
  MLOPS_EXPORTER_ADDRESS, _PORT            what to listen on (0.0.0.0, 9501); paths /metrics and /-/healthy
  MLOPS_EXPORTER_<COLLECTOR>_INTERVAL      seconds from start to start; 0: the collector is off
  MLOPS_EXPORTER_<COLLECTOR>_TIMEOUT       seconds
  MLOPS_EXPORTER_SPARING                   100; see above
  MLFLOW_BACKEND_STORE_URI                 as the server has it, with PGUSER and PGPASSWORD, or DATABASE_USER and
                                           DATABASE_PASSWORD. PostgreSQL, MySQL, MariaDB, SQLite.
  MLOPS_EXPORTER_DATABASE_USER, _PASSWORD  a login of its own that may only read. While it is refused, and without it,
                                           the server's. With either, transactions are read-only, and SQLite's file is
                                           opened so.
  MLOPS_EXPORTER_USERS_DATABASE            SQLite's file with the users of MLflow (users.db beside the other)
  MLFLOW_ARTIFACTS_DESTINATION             as the server has it, with the variables of its store (AWS_...,
                                           MLFLOW_S3_..., GOOGLE_..., AZURE_...)
  MLOPS_EXPORTER_ARTIFACTS_MOST            objects to list in one pass (100000); of larger stores a sample is counted
  MLFLOW_TRACKING_URI                      URL of the server with its path prefix, with MLFLOW_TRACKING_USERNAME and
                                           _PASSWORD, or _TOKEN; _SERVER_CERT_PATH, _INSECURE_TLS
  MLOPS_EXPORTER_CERTIFICATES              hosts whose certificates to look at, separated by commas: HOST[:PORT],
                                           HOST[:PORT]@ADDRESS[:PORT] to connect elsewhere, such as to a Service,
                                           HOST@/PATH of a file; with postgresql:// or mysql:// before it, of a database
  MLOPS_EXPORTER_VOLUMES                   NAME=PATH of mounted volumes, separated by commas
  BACKUP_STORE                             store of the backups, as role backup names it: JSON, with `type` and what
                                           stores.py wants of it; status.json in it has any of the keys last,
                                           last_verified, last_failed, in Unix seconds
  BACKUP_ACCESS_KEY, _SECRET_KEY           its credentials; without them those of the server
  MLOPS_EXPORTER_BACKUP_EXPECTED_INTERVAL  seconds between two backups; 0: none are scheduled
  MLOPS_EXPORTER_BACKUP_LAST_BASE          file that is touched when a base backup of the database was made
"""

import http.server
import json
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time

import collectors

PORT = 9501
METRICS = {
    "mlflow_experiments": "Experiments in the database, by lifecycle stage, without those of probes.",
    "mlflow_active_experiments": "Active experiments in the database, without those of probes.",
    "mlflow_runs": "Runs in the database, by status and lifecycle stage, without those of probes.",
    "mlflow_registered_models": "Registered models, without prompts.",
    "mlflow_model_versions": "Versions of registered models that are not deleted, without those of prompts.",
    "mlflow_model_aliases": "Aliases of registered models, without those of prompts.",
    "mlflow_prompts": "Prompts in the registry.",
    "mlflow_users": "Users that MLflow knows.",
    "mlflow_traces_last_day": "Traces that began in the last 24 hours.",
    "mlflow_artifacts_stored": "Objects in the artifact store, estimated where not all were counted.",
    "mlflow_artifacts_bytes": "Bytes of the objects in the artifact store, estimated where not all were counted.",
    "mlflow_artifacts_counted_fraction": "Fraction of the artifact store that was counted; 1: all of it.",
    "mlflow_database_up": "Whether the database answers a query.",
    "mlflow_database_query_duration_seconds": "Seconds that a query of the exporter took, connecting included as one.",
    "mlflow_database_size_bytes": "Size of the database.",
    "mlflow_database_connections_used": "Connections to the database server.",
    "mlflow_database_connections_allowed": "Connections that the database server allows.",
    "mlflow_database_archive_success": "Whether the last WAL of a PostgreSQL that archives it could be archived.",
    "mlflow_schema_current": "Whether the revision of the database's schema is the one that this MLflow wants.",
    "mlflow_schema_info": "Revisions of the database's schema.",
    "mlflow_object_store_up": "Whether an object could be written to the artifact store, read and deleted.",
    "mlflow_object_store_write_seconds": "Seconds to write an object of 1 KiB.",
    "mlflow_object_store_read_seconds": "Seconds to read an object of 1 KiB.",
    "mlflow_round_trip_success": "Whether a client could log a metric, an artifact and a model, and read them back.",
    "mlflow_round_trip_duration_seconds": "Seconds that the last round trip took.",
    "mlflow_round_trip_last_timestamp_seconds": "When the last round trip ended, in Unix seconds.",
    "mlflow_certificate_expiry_timestamp_seconds": "When the certificate of a host expires, in Unix seconds.",
    "mlflow_volume_size_bytes": "Size of the file system of a volume.",
    "mlflow_volume_free_bytes": "Bytes of the file system of a volume that are free for users other than root.",
    "mlflow_backup_last_timestamp_seconds": "When the newest backup was made, in Unix seconds.",
    "mlflow_backup_last_verified_timestamp_seconds": "When the newest backup that was verified was made.",
    "mlflow_backup_last_failed_timestamp_seconds": "When a backup failed last, in Unix seconds.",
    "mlflow_backup_last_base_timestamp_seconds": "When the newest base backup of the database was made.",
    "mlflow_backup_expected_interval_seconds": "Seconds in which a backup is to be made.",
    "mlflow_exporter_collection_duration_seconds": "Seconds that the last collection took.",
    "mlflow_exporter_collection_success": "Whether the last collection found all that it looked for.",
}
"""Help by name; each is a gauge."""


class Cache:
    """What each collector found last."""

    def __init__(self):
        self.lock, self.samples, self.logged, self.processes = threading.Lock(), {}, {}, {}

    def run(self, collector):
        """Run a collector in a process of its own, keep what it found, and return the seconds until it starts again."""
        begun = time.monotonic()
        try:
            answer = self.answer(collector)
            samples, errors, worked = answer["samples"], answer["errors"], answer["worked"]
            sentences = errors + answer["warnings"]
        except RuntimeError as error:
            samples, errors, worked = [], [str(error)], 0
            sentences = errors
        duration = time.monotonic() - begun
        if collector.down and collector.down not in [name for name, _labels, _value in samples]:
            samples.append([collector.down, {}, 0])
        labels = {"collector": collector.name}
        samples.append(["mlflow_exporter_collection_duration_seconds", labels, duration])
        samples.append(["mlflow_exporter_collection_success", labels, int(not errors)])
        with self.lock:
            changed = sentences != self.logged.get(collector.name, [])
            self.samples[collector.name], self.logged[collector.name] = samples, sentences
        if changed:
            print(f"exporter: {collector.name}: {'; '.join(sentences) or 'works again'}", file=sys.stderr, flush=True)
        return max(0, collector.pause(worked, duration if errors else None) - duration)

    def answer(self, collector):
        """What the process of a collector prints.

        Raises:
            RuntimeError: it does not start, end, or print that.
        """
        left = self.processes.get(collector.name)
        if left and left.poll() is None:
            raise RuntimeError("the process of the last collection does not end although it was killed")
        try:
            process = subprocess.Popen([sys.executable, collectors.__file__, collector.name], stdin=subprocess.DEVNULL,
                                       stdout=subprocess.PIPE)
        except OSError as error:
            raise RuntimeError(f"its process does not start: {error}") from error
        self.processes[collector.name] = process
        try:
            output = process.communicate(timeout=collector.timeout)[0]
        except subprocess.TimeoutExpired as error:
            process.kill()
            raise RuntimeError(f"it did not end within {collector.timeout:g} s") from error
        try:
            return json.loads(output)
        except ValueError as error:
            raise RuntimeError(f"its process ended with {process.returncode}") from error

    def follow(self, collector, delay):
        """Run a collector for ever."""
        time.sleep(delay)
        while True:
            time.sleep(self.run(collector))

    def text(self):
        """All samples in Prometheus' text format, one family after the other."""
        with self.lock:
            samples = [sample for found in self.samples.values() for sample in found]
        lines = []
        for name, help_text in METRICS.items():
            of_name = [sample for sample in samples if sample[0] == name]
            if of_name:
                lines += [f"# HELP {name} {help_text}", f"# TYPE {name} gauge"]
                lines += [f"{name}{labels_text(labels)} {value!r}" for _name, labels, value in of_name]
        return "".join(f"{line}\n" for line in lines)

    def end(self):
        for process in list(self.processes.values()):
            process.kill()


def labels_text(labels):
    """Labels in Prometheus' text format."""
    escaped = {key: str(value).replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
               for key, value in labels.items()}
    return "{" + ",".join(f'{key}="{value}"' for key, value in escaped.items()) + "}" if labels else ""


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers from the cache."""

    timeout = 10
    cache: Cache

    def do_GET(self):
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self.answer(200, self.cache.text(), "text/plain; version=0.0.4; charset=utf-8")
        elif path == "/-/healthy":
            self.answer(200, "healthy\n")
        else:
            self.answer(404, "The metrics are at /metrics.\n")

    def answer(self, status, text, kind="text/plain; charset=utf-8"):
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        """Scrapes are not logged."""


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """An HTTP server; http.server's own would look up its name in DNS when it starts."""

    allow_reuse_address = daemon_threads = True


def serve():
    """Serve /metrics until the process is told to end."""
    cache, address = Cache(), collectors.setting("ADDRESS", "0.0.0.0")
    for number_of_it, collector in enumerate(collectors.configured()):
        # One after the other at the start, so that little memory suffices for all of them.
        threading.Thread(target=cache.follow, args=(collector, 1.5 * number_of_it), daemon=True).start()

    def end(*_signal):
        cache.end()
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    Handler.cache = cache
    Server.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with Server((address, int(collectors.number("PORT", PORT))), Handler) as server:
        server.serve_forever()


if __name__ == "__main__":
    serve()
