"""What the exporter collects; each collector in a process of its own. exporter.py beside this file says from what.

usage: collectors.py NAME    run one collector and print what it found, as JSON
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pathlib
import random
import socket
import struct
import sys
import time
import types
import urllib.parse
from dataclasses import dataclass, replace

FILES = ("checks.py", "mlflow_api.py", "stores.py", "probes/database.py", "probes/object_store.py",
         "probes/roundtrip.py")
"""Of plugins/module_utils, to be beside this file, all in one folder."""
PACKAGE = "ansible_collections.mlops.mlflow.plugins.module_utils"
RETRY = 300
"""Seconds after which a collector that failed starts again, if its interval is longer."""


@dataclass(frozen=True)
class Collector:
    """What is collected together.

    Attributes:
        name: of the function below that collects.
        needs: variable without which there is nothing to collect.
        interval: seconds from one start to the next.
        timeout: seconds after which it is killed.
        sparing: how many times as long as the stores worked for it it waits at least, from start to start.
        down: gauge that is 0 when the collector did not get as far as to set it.
    """

    name: str
    needs: str
    interval: float
    timeout: float
    sparing: float = 0
    down: str = ""

    def pause(self, worked, failed_after=None):
        """Seconds from its start to the next one.

        Args:
            worked: seconds of work of a store.
            failed_after: seconds that it ran, if it failed; then it waits no hour for what may work in a moment.
        """
        usual = max(self.interval, self.sparing * worked)
        return usual if failed_after is None else min(usual, max(RETRY, self.sparing * failed_after))


COLLECTORS = (
    Collector("database", "MLFLOW_BACKEND_STORE_URI", 30, 10, down="mlflow_database_up"),
    Collector("counts", "MLFLOW_BACKEND_STORE_URI", 60, 60, sparing=100),
    Collector("object_store", "MLFLOW_ARTIFACTS_DESTINATION", 60, 30, down="mlflow_object_store_up"),
    Collector("artifacts", "MLFLOW_ARTIFACTS_DESTINATION", 3600, 600, sparing=100),
    Collector("round_trip", "MLFLOW_TRACKING_URI", 300, 60, down="mlflow_round_trip_success"),
    Collector("certificates", "MLOPS_EXPORTER_CERTIFICATES", 3600, 30),
    Collector("volumes", "MLOPS_EXPORTER_VOLUMES", 60, 10),
    Collector("backups", "BACKUP_STORE", 300, 60),
)


def setting(name, default=""):
    """A variable of the exporter; an empty one is not set."""
    return os.environ.get(f"MLOPS_EXPORTER_{name}") or default


def number(name, default):
    """A variable of the exporter as a number that is not negative."""
    text = setting(name, str(default))
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value < float("inf"):
        sys.exit(f"exporter: MLOPS_EXPORTER_{name} is {text!r}; it must be a number that is not negative.")
    return value


def entries(name):
    """A variable of the exporter as a list."""
    return [entry.strip() for entry in setting(name).split(",") if entry.strip()]


def configured():
    """The collectors that have something to collect, with the intervals and timeouts of the environment."""
    found = []
    for known in COLLECTORS:
        interval = number(f"{known.name.upper()}_INTERVAL", known.interval)
        timeout = number(f"{known.name.upper()}_TIMEOUT", known.timeout)
        if os.environ.get(known.needs) and interval:
            found.append(replace(known, interval=interval, timeout=timeout or known.timeout,
                                 sparing=number("SPARING", known.sparing) if known.sparing else 0))
    return found


class Found:
    """What one collection found.

    Attributes:
        samples: name, labels and value of each.
        errors: a sentence for each thing that could not be found.
        warnings: a sentence for each thing that was found in another way than it should be.
        worked: seconds that the database or the store of artifacts worked for it.
    """

    def __init__(self):
        self.samples, self.errors, self.warnings, self.worked = [], [], [], 0.0

    def add(self, name, value, **labels):
        """Add a sample; one without a value is none."""
        if value is not None:
            self.samples.append([name, labels, value])

    def attempt(self, function, *arguments):
        """Call a function; if it raises, the rest is collected nevertheless."""
        try:
            return function(*arguments)
        except Exception as error:
            self.errors.append(" ".join(str(error).split()) or type(error).__name__)
            return None


def module(name):
    """A file of the collection's module_utils, from beside this file or from the collection."""
    here = pathlib.Path(__file__).resolve().parent
    if (here / FILES[0]).exists():
        for package in ("ansible_collections", "ansible_collections.mlops", "ansible_collections.mlops.mlflow",
                        "ansible_collections.mlops.mlflow.plugins", PACKAGE, f"{PACKAGE}.probes"):
            stand_in = sys.modules.setdefault(package, types.ModuleType(package))
            stand_in.__path__ = [str(here)]
    return importlib.import_module(f"{PACKAGE}.{name}")


class Database:
    """The tracking database, opened to read."""

    def __init__(self, found, timeout):
        """Make no connection yet; it ends with the process.

        Args:
            found: gets the times of queries.
            timeout: seconds of the collector; the server ends a query a moment before.
        """
        self.found, self.database = found, module("probes.database")
        user, password = setting("DATABASE_USER"), setting("DATABASE_PASSWORD")
        # Half of the time for each of two logins.
        seconds = timeout / 2 if user else timeout
        self.parameters = {**self.database.from_environment(os.environ), "read_only": True,
                           "connect_timeout": max(2, int(seconds) - 1), "statement_timeout": max(1, int(timeout) - 2)}
        self.dialect, self.path = self.parameters["dialect"], self.parameters["path"]
        self.reader = {"user": user, "password": password} if user else {}
        self.client = self.database.database_of({**self.parameters, **self.reader})

    def connect(self):
        """Connect; where the login that may only read is refused, by that of the server."""
        try:
            self.client.connect()
        except Exception as error:
            if not self.reader:
                raise
            self.client = self.database.database_of(self.parameters)
            self.client.connect()
            reason = " ".join(str(error).split())
            self.found.warnings.append(f"the login {self.reader['user']} cannot be used, and that of the server is "
                                       f"used instead: {reason}")

    def timed(self, name, function, *arguments):
        """What the function returns; its time is a sample."""
        begun = time.monotonic()
        try:
            result = function(*arguments)
        finally:
            self.found.worked += time.monotonic() - begun
        self.found.add("mlflow_database_query_duration_seconds", time.monotonic() - begun, query=name)
        return result

    def query(self, name, text):
        return self.timed(name, self.client.query, text)


ARCHIVED = ("SELECT CASE WHEN current_setting('archive_mode') <> 'off' THEN last_failed_time IS NULL "
            "OR last_archived_time > last_failed_time IS TRUE END FROM pg_stat_archiver")
"""Query for whether the last WAL could be archived; NULL where none is."""


def database(found, timeout):
    """Whether the database answers and archives its WAL, its size, its connections and the revision of its schema."""
    opened = Database(found, timeout)
    opened.timed("connect", opened.connect)
    opened.query("ping", "SELECT 1")
    found.add("mlflow_database_up", 1)
    found.add("mlflow_database_size_bytes", found.attempt(opened.timed, "size", opened.client.size))
    connections = found.attempt(opened.timed, "connections", opened.client.connections)
    if connections and connections[1]:
        found.add("mlflow_database_connections_used", connections[0])
        found.add("mlflow_database_connections_allowed", connections[1])
    if opened.dialect == "postgresql":
        archived = found.attempt(opened.query, "archive", ARCHIVED)
        if archived and archived[0][0] is not None:
            found.add("mlflow_database_archive_success", int(archived[0][0]))
    rows = found.attempt(opened.query, "schema", "SELECT version_num FROM alembic_version")
    wanted = opened.database.wanted_revision()
    if rows is not None and wanted:
        revision = rows[0][0] if rows else ""
        found.add("mlflow_schema_current", int(revision == wanted))
        found.add("mlflow_schema_info", 1, found=revision, wanted=wanted)


STAGES = ("active", "deleted")
STATUSES = ("RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED")
COLUMNS = {
    "postgresql": "SELECT table_name, column_name FROM information_schema.columns "
                  "WHERE table_schema = ANY (current_schemas(false))",
    "mysql": "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = database()",
    "sqlite": "SELECT m.name, c.name FROM sqlite_master m, pragma_table_info(m.name) c WHERE m.type = 'table'",
}
"""Queries for the tables of the database and their columns, by dialect."""
OF_PROBES = "LIKE 'mlops-mlflow-probe-%'"
IS_PROMPT = ("EXISTS (SELECT 1 FROM registered_model_tags t WHERE {same} AND t.key = 'mlflow.prompt.is_prompt' "
             "AND lower(t.value) = 'true')")


def registry(table, prompts=False, condition=""):
    """A query for the number of rows of a table of the registry, of models or of prompts."""
    return (f"SELECT count(*) FROM {table} m WHERE m.name NOT {OF_PROBES} AND {'' if prompts else 'NOT '}{IS_PROMPT}"
            f"{condition}")


NUMBERS = {
    "mlflow_registered_models": ("registered_models", registry("registered_models")),
    "mlflow_prompts": ("registered_models", registry("registered_models", prompts=True)),
    "mlflow_model_versions": ("model_versions", registry(
        "model_versions", condition=" AND coalesce(m.current_stage, 'None') <> 'Deleted_Internal'")),
    "mlflow_model_aliases": ("registered_model_aliases", registry("registered_model_aliases")),
    "mlflow_traces_last_day": ("trace_info", "SELECT count(*) FROM trace_info WHERE timestamp_ms >= {day_ago}"),
    "mlflow_users": ("users", "SELECT count(*) FROM users"),
}
"""Tables and queries, by metric; MLflow's versions do not have all of the tables."""


def counts(found, timeout):
    """How many of what MLflow keeps are in the database."""
    opened = Database(found, timeout)
    opened.connect()
    columns = set(map(tuple, opened.query("columns", COLUMNS[opened.dialect])))
    tables = {table for table, _column in columns}
    same = "t.name = m.name"
    if ("registered_model_tags", "workspace") in columns:
        same += " AND t.workspace = m.workspace"
    found.attempt(experiments, found, opened)
    found.attempt(runs, found, opened)
    for metric, (table, text) in NUMBERS.items():
        if table in tables:
            text = text.format(same=same, day_ago=int(1000 * (time.time() - 86400)))
            rows = found.attempt(opened.query, metric[len("mlflow_"):], text)
            found.add(metric, rows and rows[0][0])
    users = setting("USERS_DATABASE", os.path.join(os.path.dirname(opened.path), "users.db"))
    if opened.dialect == "sqlite" and "users" not in tables and os.path.exists(users):
        other = opened.database.database_of({"dialect": "sqlite", "path": users, "read_only": True})
        found.attempt(other.connect)
        rows = found.attempt(other.query, NUMBERS["mlflow_users"][1])
        found.add("mlflow_users", rows and rows[0][0])


def experiments(found, opened):
    numbers = dict.fromkeys(STAGES, 0)
    numbers.update(opened.query("experiments", "SELECT lifecycle_stage, count(*) FROM experiments "
                                               f"WHERE name NOT {OF_PROBES} GROUP BY lifecycle_stage"))
    for stage, value in numbers.items():
        found.add("mlflow_experiments", value, stage=stage or "unknown")
    found.add("mlflow_active_experiments", numbers["active"])


def runs(found, opened):
    numbers = {(status, stage): 0 for status in STATUSES for stage in STAGES}
    for status, stage, value in opened.query("runs", (
            "SELECT status, lifecycle_stage, count(*) FROM runs WHERE experiment_id NOT IN "
            f"(SELECT experiment_id FROM experiments WHERE name {OF_PROBES}) GROUP BY status, lifecycle_stage")):
        numbers[status, stage] = value
    for (status, stage), value in numbers.items():
        found.add("mlflow_runs", value, status=status or "unknown", stage=stage or "unknown")


def artifact_store():
    """The client of the artifact store, not connected yet."""
    stores = module("stores")
    return stores.open_store(stores.from_uri(os.environ["MLFLOW_ARTIFACTS_DESTINATION"]))


def object_store(found, timeout):
    """Write, read and delete an object; the same each time, so that what is killed meanwhile leaves one at most."""
    report = module("checks").measure(module("probes.object_store"), {
        "environment": True, "size_bytes": 1024, "name": f"exporter-{socket.gethostname()}"})
    found.errors += report["failures"]
    found.add("mlflow_object_store_up", int(report["healthy"]))
    if report["healthy"]:
        seconds = {check["name"]: check["duration_ms"] / 1000 for check in report["checks"]}
        found.add("mlflow_object_store_write_seconds", seconds["write"])
        found.add("mlflow_object_store_read_seconds", seconds["read"])


def artifacts(found, timeout):
    """Number and bytes of the objects in the artifact store."""
    begun = time.monotonic()
    objects, size, fraction = measured(artifact_store(), int(number("ARTIFACTS_MOST", 100000)))
    found.worked = time.monotonic() - begun
    found.add("mlflow_artifacts_stored", round(objects / fraction))
    found.add("mlflow_artifacts_bytes", round(size / fraction))
    found.add("mlflow_artifacts_counted_fraction", fraction)


PROBES = ".mlops-mlflow-probe-"
OWNERS = ("", "models/m-", "traces/tr-")
"""Where MLflow keeps artifacts below an experiment; an ID follows that begins with random hexadecimal digits."""
MOST_EXPERIMENTS = 1000


def measured(store, most):
    """Objects and bytes of a store, and which fraction of it they are.

    If there are more objects than may be listed, those are counted whose run, model or trace has an ID that begins with
    some random digits, others for each experiment, so that a 16th, a 256th, ... of a store is counted, and each object
    has the same chance. Of more than 1000 experiments as many are drawn.

    Args:
        store: the store.
        most: objects to list at once.
    """
    objects, size, all_counted = listed(store, [""], most)
    if all_counted:
        return objects, size, 1.0
    folders = [folder for root in roots(store) for folder in store.folders(root)
               if folder.split("/")[-2] != "workspaces"]
    drawn = random.sample(folders, min(len(folders), MOST_EXPERIMENTS))
    for digits in range(1, 9):
        beginnings = [f"{folder}{owner}{random.randrange(16 ** digits):0{digits}x}" for folder in drawn
                      for owner in OWNERS]
        objects, size, all_counted = listed(store, beginnings, most)
        if all_counted:
            break
    return objects, size, len(drawn) / max(1, len(folders)) / 16 ** digits


def roots(store):
    """Folders with experiments: the store itself, and of MLflow's workspaces those that are not the default one."""
    return ["", *store.folders("workspaces/")]


def listed(store, beginnings, most):
    """Number and bytes of the objects with these beginnings, and whether they were at most so many."""
    objects = size = 0
    for beginning in beginnings:
        for name, length in store.sizes(beginning):
            if name.startswith(PROBES):
                continue
            if objects == most:
                return objects, size, False
            objects += 1
            size += length
    return objects, size, True


def round_trip(found, timeout):
    """What a client does, by the server's API."""
    begun = time.monotonic()
    report = module("checks").measure(module("probes.roundtrip"), {
        "url": os.environ["MLFLOW_TRACKING_URI"], "username": os.environ.get("MLFLOW_TRACKING_USERNAME"),
        "password": os.environ.get("MLFLOW_TRACKING_PASSWORD"), "token": os.environ.get("MLFLOW_TRACKING_TOKEN"),
        "ca_file": os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH"), "periodic": True,
        "validate_certs": os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() not in ("true", "1"),
        "timeout": timeout / 2})
    found.errors += report["failures"]
    found.add("mlflow_round_trip_success", int(report["healthy"]))
    found.add("mlflow_round_trip_duration_seconds", time.monotonic() - begun)
    found.add("mlflow_round_trip_last_timestamp_seconds", time.time())


def certificates(found, timeout):
    """When the certificates of hosts expire; whether they are valid is not checked."""
    hosts = entries("CERTIFICATES")
    for host in hosts:
        expiry = found.attempt(expiry_of, host, timeout / len(hosts))
        found.add("mlflow_certificate_expiry_timestamp_seconds", expiry,
                  host=host.partition("://")[2].partition("@")[0] or host.partition("@")[0])


def expiry_of(host, timeout):
    """Unix seconds at which the certificate of a host, or the first one of a file, expires."""
    from cryptography import x509

    scheme, _separator, rest = host.rpartition("://")
    name, _at, elsewhere = rest.partition("@")
    try:
        if elsewhere.startswith("/"):
            found = x509.load_pem_x509_certificate(pathlib.Path(elsewhere).read_bytes())
        else:
            found = x509.load_der_x509_certificate(presented(scheme, name, elsewhere, timeout))
    except (OSError, ValueError) as error:
        raise RuntimeError(f"the certificate of {host} cannot be read: {error}") from error
    return found.not_valid_after_utc.timestamp()


def presented(scheme, name, elsewhere, timeout):
    """The certificate that a server presents.

    Args:
        scheme: postgresql or mysql, whose servers are asked for TLS first.
        name: its name and port.
        elsewhere: another address and port to connect to, or empty.
        timeout: seconds.
    """
    import ssl

    server, address = (urllib.parse.urlsplit(f"//{text}") for text in (name, elsewhere or name))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    port = address.port or server.port or {"postgresql": 5432, "mysql": 3306}.get(scheme, 443)
    with socket.create_connection((address.hostname, port), timeout) as connection:
        if scheme in ASKS_FOR_TLS:
            ASKS_FOR_TLS[scheme](connection)
        with context.wrap_socket(connection, server_hostname=server.hostname) as tls:
            return tls.getpeercert(binary_form=True)


def ask_postgresql(connection):
    """Source: https://www.postgresql.org/docs/current/protocol-message-formats.html, SSLRequest"""
    connection.sendall(struct.pack("!ii", 8, 80877103))
    if connection.recv(1) != b"S":
        raise OSError("the server has no TLS")


def ask_mysql(connection):
    """Source: https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_connection_phase.html, SSLRequest"""
    with connection.makefile("rb", buffering=0) as stream:
        length = int.from_bytes(stream.read(4)[:3], "little")
        if not length:
            raise OSError("the server sends no greeting")
        greeting = b""
        while len(greeting) < length:
            part = stream.read(length - len(greeting))
            if not part:
                raise OSError("the greeting of the server ends early")
            greeting += part
    # Protocol version, text of the version, identity, eight bytes and a zero; then what the server is capable of.
    capabilities = greeting.index(b"\0", 1) + 1 + 4 + 9
    protocol_41, tls, secure = 0x200, 0x800, 0x8000
    if not int.from_bytes(greeting[capabilities:capabilities + 2], "little") & tls:
        raise OSError("the server has no TLS")
    request = struct.pack("<IIB23x", protocol_41 | tls | secure, 2**24, 45)
    connection.sendall(struct.pack("<I", len(request) | 1 << 24) + request)


ASKS_FOR_TLS = {"postgresql": ask_postgresql, "mysql": ask_mysql}


def volumes(found, timeout):
    """Size and free space of the volumes that are mounted here."""
    for entry in entries("VOLUMES"):
        name, _equals, path = entry.partition("=")
        size = found.attempt(os.statvfs, path)
        if size:
            found.add("mlflow_volume_size_bytes", size.f_blocks * size.f_frsize, volume=name)
            found.add("mlflow_volume_free_bytes", size.f_bavail * size.f_frsize, volume=name)


def backups(found, timeout):
    """What is recorded of the last backups and of the newest base backup; nothing before there is one."""
    found.add("mlflow_backup_expected_interval_seconds", number("BACKUP_EXPECTED_INTERVAL", 0) or None)
    found.attempt(base_backup, found)
    stores = module("stores")
    credentials = {key: os.environ.get(f"BACKUP_{key.upper()}") for key in ("access_key", "secret_key")}
    try:
        store = stores.open_store({**json.loads(os.environ["BACKUP_STORE"]), **credentials})
        status = json.loads(store.read("status.json"))
    except FileNotFoundError:
        return
    except stores.StoreError as error:
        if error.missing:
            return
        raise
    for key in ("last", "last_verified", "last_failed"):
        found.add(f"mlflow_backup_{key}_timestamp_seconds", status.get(key))


def base_backup(found):
    """When the newest base backup of the database was made, by a file beside it."""
    path = setting("BACKUP_LAST_BASE")
    with contextlib.suppress(FileNotFoundError):
        found.add("mlflow_backup_last_base_timestamp_seconds", os.stat(path).st_mtime if path else None)


def collect(name):
    """Run one collector and print what it found; what libraries print goes to standard error."""
    output, sys.stdout = sys.stdout, sys.stderr
    collector = next(entry for entry in configured() if entry.name == name)
    found = Found()
    found.attempt(globals()[name], found, collector.timeout)
    print(json.dumps(vars(found), default=float), file=output, flush=True)
    # Without waiting for threads of libraries.
    os._exit(0)


if __name__ == "__main__":
    collect(sys.argv[1])
