# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Questions to a tracking database. Self-contained: runs on the controller and inside the server's pod alike."""

from __future__ import annotations

import glob
import importlib.util
import os
import re
import sqlite3
import time
import urllib.parse

PROBE_TABLE = "mlops_mlflow_probe"


def probe(checks, parameters):
    """Connect, measure, compare the schema, try to write.

    Args:
        checks: collects the results.
        parameters: dialect, host, port, database, user, password, path, connect_timeout, samples, write, environment (take
            what is missing from the server's own environment).
    """
    if parameters.get("environment"):
        _from_environment(parameters)
    dialect = {"postgresql": Postgresql, "mysql": Mysql, "sqlite": Sqlite}[parameters["dialect"]](parameters)
    checks.facts.update(latency_p95_ms=None, size_bytes=None, connections_used=None, connections_max=None, revision=None,
                        revision_wanted=wanted_revision())
    checks.run("connect", dialect.connect)

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
            raise RuntimeError(f"{used} of {most} connections are in use; raise the limit or lower the number of workers")
        return f"{used} of {most} in use" if most else "no limit"

    def schema():
        rows = dialect.query("SELECT version_num FROM alembic_version")
        checks.facts["revision"] = rows[0][0] if rows else None
        wanted = checks.facts["revision_wanted"]
        if wanted and checks.facts["revision"] != wanted:
            raise RuntimeError(f"the schema is at {checks.facts['revision']}, and this MLflow wants {wanted}; bring it there with the "
                               f"migration (playbooks/site.yml) after a backup")
        return f"revision {checks.facts['revision']}{'' if wanted else ' (MLflow is not installed here to compare with)'}"

    def write():
        dialect.write()
        return "a table was made, filled and dropped"

    for name, function in (("latency", latency), ("size", size), ("connections", connections), ("schema", schema)):
        checks.run(name, function, needs=("connect",))
    if parameters.get("write", True):
        checks.run("write", write, needs=("connect",))


def _from_environment(parameters):
    uri = urllib.parse.urlsplit(os.environ["MLFLOW_BACKEND_STORE_URI"])
    found = {"dialect": uri.scheme.split("+")[0], "host": uri.hostname, "port": uri.port, "database": uri.path.lstrip("/"),
             "user": os.environ.get("PGUSER") or uri.username, "password": os.environ.get("PGPASSWORD") or uri.password, "path": uri.path[1:]}
    parameters.update({key: value for key, value in found.items() if value is not None})


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


class Postgresql:
    """PostgreSQL by psycopg 3 or psycopg2, whichever is there."""

    def __init__(self, parameters):
        self.parameters, self.connection = parameters, None

    def connect(self):
        try:
            import psycopg as driver
        except ImportError:
            import psycopg2 as driver
        wanted = {"host": "host", "port": "port", "user": "user", "password": "password", "database": "dbname",
                  "sslmode": "sslmode", "ca_file": "sslrootcert", "connect_timeout": "connect_timeout"}
        self.connection = driver.connect(**{theirs: self.parameters[ours] for ours, theirs in wanted.items() if self.parameters.get(ours)})
        self.connection.autocommit = True
        return "PostgreSQL " + self.query("SHOW server_version")[0][0]

    def query(self, text):
        with self.connection.cursor() as cursor:
            cursor.execute(text)
            return cursor.fetchall() if cursor.description else []

    def size(self):
        return self.query("SELECT pg_database_size(current_database())")[0][0]

    def connections(self):
        return self.query("SELECT count(*), current_setting('max_connections')::int FROM pg_stat_activity WHERE backend_type = 'client backend'")[0]

    def write(self):
        self.query(f"CREATE TEMPORARY TABLE {PROBE_TABLE} AS SELECT repeat('x', 8192) AS t FROM generate_series(1, 8)")
        self.query(f"DROP TABLE {PROBE_TABLE}")


class Mysql:
    """MySQL and MariaDB by PyMySQL."""

    def __init__(self, parameters):
        self.parameters, self.connection = parameters, None

    def connect(self):
        import pymysql

        wanted = {"host": "host", "port": "port", "user": "user", "password": "password", "database": "database",
                  "ca_file": "ssl_ca", "connect_timeout": "connect_timeout"}
        self.connection = pymysql.connect(autocommit=True, **{theirs: self.parameters[ours] for ours, theirs in wanted.items()
                                                              if self.parameters.get(ours)})
        return "MySQL " + self.query("SELECT version()")[0][0]

    def query(self, text):
        with self.connection.cursor() as cursor:
            cursor.execute(text)
            return cursor.fetchall()

    def size(self):
        return self.query("SELECT coalesce(sum(data_length + index_length), 0) FROM information_schema.tables WHERE table_schema = database()")[0][0]

    def connections(self):
        used = self.query("SHOW STATUS LIKE 'Threads_connected'")[0][1]
        return int(used), int(self.query("SHOW VARIABLES LIKE 'max_connections'")[0][1])

    def write(self):
        self.query(f"CREATE TEMPORARY TABLE {PROBE_TABLE} AS SELECT repeat('x', 8192) AS t")
        self.query(f"DROP TEMPORARY TABLE {PROBE_TABLE}")


class Sqlite:
    """A file; it must exist, since connecting would otherwise make an empty one."""

    def __init__(self, parameters):
        self.path, self.connection = parameters["path"], None

    def connect(self):
        if not os.path.exists(self.path):
            raise FileNotFoundError(f"there is no file {self.path}")
        self.connection = sqlite3.connect(self.path, timeout=5, isolation_level=None)
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
