# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""roles/mlflow_server/files/maintenance_lock.py, on a real PostgreSQL, MariaDB and SQLite; each holder is a process."""

from __future__ import annotations

import contextlib
import importlib.util
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest
import sqlalchemy

PATH = pathlib.Path(__file__).parents[3] / "roles/mlflow_server/files/maintenance_lock.py"
SPEC = importlib.util.spec_from_file_location("maintenance_lock", PATH)
maintenance_lock = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(maintenance_lock)
HOLD = """
import sys, maintenance_lock
with maintenance_lock.held(sys.argv[1], sys.argv[2], 0) as lock:
    print("held", flush=True)
    sys.stdin.read()
    lock.check()
"""


@pytest.fixture(params=["postgresql", "mariadb", "sqlite"])
def uri(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/mlflow.db"
    driver = {"postgresql": "postgresql+psycopg", "mariadb": "mysql+pymysql"}[request.param]
    server = request.getfixturevalue(request.param)
    return f"{driver}://{server['user']}:{server['password']}@{server['host']}:{server['port']}/{server['database']}"


@contextlib.contextmanager
def holder(uri, purpose="backup"):
    """A process that holds the lock until its input ends."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, uri, purpose], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=PATH.parent)
    try:
        assert process.stdout.readline() == "held\n", process.stderr.read()
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            stream.close()


@contextlib.contextmanager
def connected(uri):
    """A connection that is closed, and kept in no pool."""
    engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.pool.NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        yield connection


def taken(uri, wait):
    """Whether the lock can be had; seconds that it took."""
    begun = time.monotonic()
    with maintenance_lock.held(uri, "gc", wait):
        return time.monotonic() - begun


def test_lock_is_exclusive_and_says_who_has_it(uri):
    with holder(uri):
        with pytest.raises(maintenance_lock.Locked) as refused:
            taken(uri, 1)
    assert re.fullmatch(r"backup \(since 20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ\) holds the maintenance lock of the "
                        r"database, and gc waited 1 s for it; it ends with that, so try again later\.",
                        str(refused.value))


def test_lock_is_free_again_and_again(uri):
    for _time in range(2):
        assert taken(uri, 10) < 10


def test_waiting_ends_when_the_holder_is_done(uri):
    with holder(uri) as process:
        process.stdin.close()
        assert taken(uri, 60) < 30
        assert process.wait(20) == 0


def test_lock_ends_with_a_process_that_is_killed(uri):
    with holder(uri) as process:
        process.send_signal(signal.SIGKILL)
        assert taken(uri, 60) < 30


def test_databases_of_one_server_have_locks_of_their_own(uri):
    url = sqlalchemy.engine.make_url(uri)
    other = url.set(database=f"{url.database}_other")
    if url.get_backend_name() != "sqlite":
        with connected(url) as connection:
            connection.execute(sqlalchemy.text(f"DROP DATABASE IF EXISTS {other.database}"))
            connection.execute(sqlalchemy.text(f"CREATE DATABASE {other.database}"))
    with holder(uri):
        assert taken(other.render_as_string(hide_password=False), 0) < 10


def test_lock_that_the_database_ended_is_said(uri, monkeypatch):
    if uri.startswith("sqlite"):
        with maintenance_lock.held(uri, "gc", 0) as lock:  # no connection that could break
            return lock.check()
    monkeypatch.setattr(maintenance_lock, "ALIVE", 1)
    kind = uri.partition("+")[0]
    with maintenance_lock.held(uri, "gc", 10) as lock:
        lock.check()
        session = lock.connection.connection.driver_connection
        end = (f"SELECT pg_terminate_backend({session.info.backend_pid})" if kind == "postgresql"
               else f"KILL {session.thread_id()}")
        with connected(uri) as connection:
            connection.execute(sqlalchemy.text(end))
        lock.thread.join(20)
        with pytest.raises(maintenance_lock.LostError, match="The maintenance lock of the database ended before gc"):
            lock.check()
    assert taken(uri, 10) < 10


def test_purpose_cannot_be_more_than_words(uri):
    with maintenance_lock.held(uri, "gc */ DO sleep(100) ; 'x'" + "y" * 100, 10):
        pass
    assert taken(uri, 10) < 10


def test_transaction_of_the_lock_holds_no_snapshot_and_no_timeout_ends_it(postgresql):
    uri = "postgresql+psycopg://{user}:{password}@{host}:{port}/{database}".format(**postgresql)
    short = (f"{uri}?options=-c%20idle_in_transaction_session_timeout=100%20"
             "-c%20default_transaction_isolation=serializable")
    with holder(short) as process:
        time.sleep(1)
        with connected(uri) as connection:
            row = connection.execute(sqlalchemy.text(
                "SELECT state, backend_xmin FROM pg_stat_activity "
                "WHERE application_name = 'mlops.mlflow backup'")).one()
        assert tuple(row) == ("idle in transaction", None)
        process.stdin.close()
        assert process.wait(20) == 0, process.stderr.read()


def test_other_databases_are_refused():
    with pytest.raises(ValueError, match="The database is mssql, which has no maintenance lock here"):
        taken("mssql+pyodbc://host/mlflow", 0)
    with pytest.raises(ValueError, match="in memory"):
        taken("sqlite://", 0)
