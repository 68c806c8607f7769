# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The probe of a tracking database; its clients of databases are the exporter's, too.

Of the collection it imports only what plugin_utils/program.py can bring into a pod.
"""

from __future__ import annotations

import contextlib
import glob
import importlib.util
import os
import re
import sqlite3
import time
import urllib.parse

from ansible_collections.mlops.mlflow.plugins.module_utils.checks import retry

PROBE_TABLE = "mlops_mlflow_probe"
LOCK_SECONDS = 2
"""How long a client that only reads waits for a lock."""
TRANSIENT = ("refused", "could not translate host name", "name resolution", "Name or service not known",
             "failed to resolve host", "No route to host", "the database system is starting up")
"""What drivers report of a connection that another attempt may make, as libpq, psycopg and PyMySQL word it."""


def probe(checks, parameters):
    """Connect, measure, compare the schema's revision, write.

    Args:
        checks: collects the results.
        parameters: dialect, host, port, database, user, password, path, connect_timeout, samples, write, environment
            (take what is missing from the server's own environment), connections (workers, pods, most: how many
            the server may open, and variable: which sets the limit), read_replica_connections (the same to the read
            replica).
    """
    dialect = database_of(parameters)
    checks.facts.update(latency_p95_ms=None, size_bytes=None, connections_used=None, connections_max=None,
                        revision=None, revision_wanted=wanted_revision(), messages=[])
    checks.run("connect", lambda: retry(dialect.connect, transient))

    def latency():
        for _sample in range(parameters.get("samples") or 20):
            with checks.timed("query"):
                dialect.query("SELECT 1")
        checks.facts["latency_p95_ms"] = checks.report()["latency_ms"]["query"]["p95"]
        return f"p95 {checks.facts['latency_p95_ms']} ms"

    def size():
        checks.facts["size_bytes"] = int(dialect.size())
        return f"{checks.facts['size_bytes'] / 2**20:.1f} MiB"

    def connections():
        used, most = dialect.connections()
        checks.facts.update(connections_used=used, connections_max=most)
        if most and used >= most * 0.9:
            raise RuntimeError(f"{used} of {most} connections are in use; raise the limit or lower the number of "
                               f"workers")
        checks.facts["messages"] += too_many("The database", most, parameters.get("connections"))
        return f"{used} of {most} in use" if most else "no limit"

    def schema():
        rows = dialect.query("SELECT version_num FROM alembic_version")
        checks.facts["revision"] = rows[0][0] if rows else None
        wanted = checks.facts["revision_wanted"]
        if wanted and checks.facts["revision"] != wanted:
            raise RuntimeError(f"the schema is at {checks.facts['revision']}, and this MLflow needs {wanted}; migrate "
                               f"it (playbooks/site.yml) "
                               f"after a backup")
        known = "" if wanted else " (MLflow is not installed here to compare with)"
        return f"revision {checks.facts['revision']}{known}"

    def write():
        dialect.write()
        return "a table was created, filled and dropped"

    def read_replica():
        replica = type(dialect)({**parameters, **replica_host})
        server = retry(replica.connect, transient)
        used, most = replica.connections()
        checks.facts["messages"] += too_many("The read replica", most, parameters.get("read_replica_connections"))
        return f"{server}, {used} of {most} in use"

    for name, function in (("latency", latency), ("size", size), ("connections", connections), ("schema", schema)):
        if name not in dialect.UNKNOWN:
            checks.run(name, function, needs=("connect",))
    if parameters.get("write", True) and "write" not in dialect.UNKNOWN:
        checks.run("write", write, needs=("connect",))
    replica_host = _replica_host() if parameters.get("environment") else {}
    if replica_host:
        checks.run("read replica", read_replica)


def transient(error):
    """Whether another attempt to connect may succeed: nobody listened, or the host's name did not resolve."""
    return any(text in str(error) for text in TRANSIENT)


def too_many(what, allowed, connections):
    """A sentence where a server allows fewer connections than may be opened.

    Args:
        what: how to call it.
        allowed: connections that it allows.
        connections: workers, pods, most, variable; or nothing, where they are not known.
    """
    if not connections or not allowed or connections["most"] <= allowed:
        return []
    return [f"{what} allows {allowed} connections, and {connections['workers']} workers in up to "
            f"{connections['pods']} pods may open {connections['most']}; set {connections['variable']} to what it "
            f"allows this instance, so that the pools fit, or raise its limit to {connections['most']}."]


def _replica_host():
    """Host and port of the read replica, whose other parameters are the server's; empty where there is none."""
    uri = urllib.parse.urlsplit(os.environ.get("MLFLOW_READ_REPLICA_BACKEND_STORE_URI", ""))
    return {"host": uri.hostname, "port": uri.port} if uri.hostname else {}


def from_environment(environment):
    """Parameters that the server's environment gives: address, login and TLS, as its SQLAlchemy URI has them.

    Args:
        environment: variables of the server: MLFLOW_BACKEND_STORE_URI, and what of the login the URI does not have,
            PGUSER and PGPASSWORD, or DATABASE_USER and DATABASE_PASSWORD.

    Returns:
        Those parameters of ``database_of`` that are known.
    """
    uri = urllib.parse.urlsplit(environment["MLFLOW_BACKEND_STORE_URI"])
    query = dict(urllib.parse.parse_qsl(uri.query))
    dialect = {"postgres": "postgresql", "mariadb": "mysql"}.get(uri.scheme.split("+")[0], uri.scheme.split("+")[0])
    user, password = (environment.get(name) for name in (
        ("PGUSER", "PGPASSWORD") if dialect == "postgresql" else ("DATABASE_USER", "DATABASE_PASSWORD")))
    found = {
        "dialect": dialect, "host": uri.hostname, "port": uri.port, "path": uri.path[1:],
        "database": urllib.parse.unquote(uri.path.lstrip("/")),
        "user": urllib.parse.unquote(uri.username or "") or user,
        "password": urllib.parse.unquote(uri.password or "") or password,
        "sslmode": query.get("sslmode"), "ca_file": query.get("sslrootcert"),
    }
    tls = {}
    for name, value in query.items():
        if name.startswith("ssl_") and name != "ssl_disabled":
            tls[name[len("ssl_"):]] = value
    if tls:
        tls["check_hostname"] = tls.get("check_hostname") == "true"
        found["ssl"] = tls
    return {key: value for key, value in found.items() if value is not None}


def database_of(parameters):
    """The client of a database; no connection is made yet.

    Args:
        parameters: dialect (postgresql, mysql or sqlite), host, port, database, user, password, path (of SQLite's
            file), sslmode, ca_file, ssl, connect_timeout in seconds, read_only (every query is a transaction of its
            own that cannot write), statement_timeout in seconds (the server ends queries of a read_only client that
            take longer), environment (take what is missing from the server's own environment; they are added. A
            dialect that is not known is then SQLAlchemy's).

    Raises:
        ValueError: there is no client for that dialect.
    """
    kinds = {"postgresql": Postgresql, "mysql": Mysql, "sqlite": Sqlite}
    if parameters.get("environment"):
        parameters.update(from_environment(os.environ))
        if parameters["dialect"] not in kinds:
            return Other({"uri": os.environ["MLFLOW_BACKEND_STORE_URI"]})
    if parameters["dialect"] not in kinds:
        raise ValueError(f"The database is {parameters['dialect']}; {', '.join(kinds)} are known here.")
    return kinds[parameters["dialect"]](parameters)


def wanted_revision():
    """The schema revision that the MLflow installed here works with, without importing it; None when there is none.

    Source: the head of mlflow/store/db_migrations/versions, the one that no other names as its predecessor.
    """
    spec = importlib.util.find_spec("mlflow")
    if not spec or not spec.submodule_search_locations:
        return None
    revisions, predecessors = set(), set()
    for path in glob.glob(os.path.join(spec.submodule_search_locations[0], "store/db_migrations/versions/*.py")):
        with open(path, encoding="utf-8") as file:
            text = file.read()
        found = re.search(r"^revision(?::[^=]*)?\s*=\s*['\"](\w+)", text, re.M)
        before = re.search(r"^down_revision(?::[^=]*)?\s*=\s*['\"](\w+)", text, re.M)
        revisions |= {found[1]} if found else set()
        predecessors |= {before[1]} if before else set()
    heads = revisions - predecessors
    return heads.pop() if len(heads) == 1 else None


class Server:
    """What database servers share.

    Nothing is set that outlives a transaction, since behind a connection pooler the session is also MLflow's.
    """

    BEGIN = ()
    """Statements that begin a transaction that cannot write."""
    UNKNOWN: tuple[str, ...] = ()
    """Checks that there are not for such a server."""

    def __init__(self, parameters):
        self.parameters, self.connection = parameters, None

    def query(self, text):
        """The rows that a statement returns."""
        if not self.parameters.get("read_only"):
            return self.execute(text)
        milliseconds = int(1000 * (self.parameters.get("statement_timeout") or 0))
        for statement in self.BEGIN:
            self.execute(statement.format(milliseconds=milliseconds))
        try:
            return self.execute(text)
        finally:
            # A connection that broke fails here again, for the same reason.
            with contextlib.suppress(Exception):
                self.execute("ROLLBACK")

    def execute(self, text):
        """Execute one statement as it is and return its rows."""
        with self.connection.cursor() as cursor:
            cursor.execute(text)
            return cursor.fetchall() if cursor.description else []


class Postgresql(Server):
    """PostgreSQL by psycopg 3 or psycopg2, whichever is there."""

    BEGIN = ("BEGIN READ ONLY", "SET LOCAL statement_timeout = {milliseconds}",
             f"SET LOCAL lock_timeout = {1000 * LOCK_SECONDS}")

    def connect(self):
        try:
            import psycopg as driver
        except ImportError:
            import psycopg2 as driver
        names = {"host": "host", "port": "port", "user": "user", "password": "password", "database": "dbname",
                 "sslmode": "sslmode", "ca_file": "sslrootcert", "connect_timeout": "connect_timeout"}
        options = {names[name]: value for name, value in self.parameters.items() if name in names and value}
        self.connection = driver.connect(**options)
        self.connection.autocommit = True
        return "PostgreSQL " + self.query("SHOW server_version")[0][0]

    def size(self):
        return self.query("SELECT pg_database_size(current_database())")[0][0]

    def connections(self):
        # A login without pg_monitor is shown which database others' backends use, and not their types.
        return self.query("SELECT count(*), current_setting('max_connections')::int FROM pg_stat_activity "
                          "WHERE backend_type = 'client backend' OR backend_type IS NULL AND datid IS NOT NULL")[0]

    def write(self):
        self.query(f"CREATE TEMPORARY TABLE {PROBE_TABLE} AS SELECT repeat('x', 8192) AS t "
                   "FROM generate_series(1, 8)")
        self.query(f"DROP TABLE {PROBE_TABLE}")


class Mysql(Server):
    """MySQL and MariaDB by PyMySQL."""

    BEGIN = ("START TRANSACTION READ ONLY",)

    def connect(self):
        import pymysql

        names = {"host": "host", "port": "port", "user": "user", "password": "password", "database": "database",
                 "ca_file": "ssl_ca", "ssl": "ssl", "connect_timeout": "connect_timeout"}
        options = {names[name]: value for name, value in self.parameters.items() if name in names and value}
        self.connection = pymysql.connect(autocommit=True, **options)
        version = self.execute("SELECT version()")[0][0]
        seconds = self.parameters.get("statement_timeout")
        if seconds:
            # MariaDB and MySQL limit single statements by syntax that not all statements take. Proxies of MySQL keep
            # a connection to one client once a variable is set.
            self.execute(f"SET SESSION max_statement_time = {seconds}" if "MariaDB" in version else
                         f"SET SESSION max_execution_time = {int(1000 * seconds)}")
        if self.parameters.get("read_only"):
            self.execute(f"SET SESSION lock_wait_timeout = {LOCK_SECONDS}")
        return "MySQL " + version

    def size(self):
        return self.query("SELECT coalesce(sum(data_length + index_length), 0) FROM information_schema.tables "
                          "WHERE table_schema = database()")[0][0]

    def connections(self):
        used = self.query("SHOW STATUS LIKE 'Threads_connected'")[0][1]
        return int(used), int(self.query("SHOW VARIABLES LIKE 'max_connections'")[0][1])

    def write(self):
        self.query(f"CREATE TEMPORARY TABLE {PROBE_TABLE} AS SELECT repeat('x', 8192) AS t")
        self.query(f"DROP TEMPORARY TABLE {PROBE_TABLE}")


class Other(Server):
    """A server of any other kind, by SQLAlchemy and the driver that the server's image has for it."""

    UNKNOWN = ("size", "connections", "write")

    def connect(self):
        import sqlalchemy

        engine = sqlalchemy.create_engine(self.parameters["uri"], poolclass=sqlalchemy.pool.NullPool)
        self.connection = engine.connect()
        return engine.dialect.name

    def execute(self, text):
        result = self.connection.exec_driver_sql(text)
        return result.fetchall() if result.returns_rows else []


class Sqlite:
    """A file; it must exist, since connecting would otherwise create an empty one."""

    UNKNOWN: tuple[str, ...] = ()

    def __init__(self, parameters):
        self.path, self.connection, self.read_only = parameters["path"], None, parameters.get("read_only")

    def connect(self):
        if not os.path.exists(self.path):
            raise FileNotFoundError(f"there is no file {self.path}")
        uri = f"file:{urllib.parse.quote(self.path)}?mode={'ro' if self.read_only else 'rw'}"
        self.connection = sqlite3.connect(uri, uri=True, timeout=5, isolation_level=None)
        self.query("SELECT count(*) FROM sqlite_master")
        return "SQLite " + sqlite3.sqlite_version

    def query(self, text):
        return self.connection.execute(text).fetchall()

    def size(self):
        return os.path.getsize(self.path)

    def connections(self):
        return 1, None

    def write(self):
        for _attempt in range(3):
            try:
                self.query(f"CREATE TABLE {PROBE_TABLE} (t TEXT)")
                self.query(f"INSERT INTO {PROBE_TABLE} VALUES (hex(randomblob(4096)))")
                break
            except sqlite3.OperationalError as error:
                if "locked" not in str(error):
                    raise
                time.sleep(0.2)
        self.query(f"DROP TABLE IF EXISTS {PROBE_TABLE}")
