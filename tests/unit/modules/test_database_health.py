# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""database_health against real databases."""

from __future__ import annotations

import sqlite3

import pytest
from ansible_collections.mlops.mlflow.plugins.module_utils import checks
from ansible_collections.mlops.mlflow.plugins.module_utils.probes import database

REVISION = database.wanted_revision()


def ask(options, **changes):
    return checks.measure("database", {"samples": 5, "connect_timeout": 3, **options, **changes})


def detail(report, name):
    (check,) = [c for c in report["checks"] if c["name"] == name]
    return check["detail"]


@pytest.fixture(params=["postgresql", "mariadb"])
def server(request):
    return request.getfixturevalue(request.param)


def with_schema(options, revision):
    """A schema's mark, as alembic leaves it."""
    kind = {"postgresql": database.Postgresql, "mysql": database.Mysql}[options["dialect"]](options)
    kind.connect()
    kind.query("DROP TABLE IF EXISTS alembic_version")
    kind.query("CREATE TABLE alembic_version (version_num varchar(32))")
    kind.query(f"INSERT INTO alembic_version VALUES ('{revision}')")
    kind.connection.close()


def test_healthy(server):
    with_schema(server, REVISION)
    report = ask(server)
    assert report["healthy"], report["failures"]
    assert report["latency_p95_ms"] > 0 and report["size_bytes"] >= 0
    assert 1 <= report["connections_used"] < report["connections_max"]
    assert report["revision"] == report["revision_wanted"] == REVISION


def test_an_old_schema_is_told(server):
    with_schema(server, "728d730b5ebd")
    report = ask(server)
    assert not report["healthy"] and f"this MLflow needs {REVISION}" in detail(report, "schema")
    with_schema(server, REVISION)


@pytest.mark.parametrize("changes, words", [
    ({"password": "wrong"}, ("password authentication failed", "Access denied")),
    ({"database": "nowhere"}, ("does not exist", "nowhere")),
    ({"port": 9}, ("refused", "refused")),
    ({"host": "no-such-host.invalid"}, ("resolve", "not known")),
])
def test_what_is_wrong_is_said_and_the_rest_not_run(server, changes, words):
    report = ask(server, **changes)
    assert not report["healthy"]
    assert any(word in detail(report, "connect") for word in words), detail(report, "connect")
    assert detail(report, "write") == "not run, since connect failed"
    assert report["failures"] == [f"connect: {detail(report, 'connect')}"]


def test_sqlite(mlflow_server):
    report = ask({"dialect": "sqlite", "path": str(mlflow_server[1])})
    assert report["healthy"], report["failures"]
    assert report["revision"] == REVISION


def test_sqlite_is_not_made_by_asking(tmp_path):
    report = ask({"dialect": "sqlite", "path": str(tmp_path / "none.db")})
    assert not report["healthy"] and "there is no file" in detail(report, "connect")
    assert not (tmp_path / "none.db").exists()


def test_sqlite_that_cannot_be_written(tmp_path):
    path = tmp_path / "full.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
    connection.execute("INSERT INTO alembic_version VALUES (?)", (REVISION,))
    connection.execute("PRAGMA user_version = 1")
    connection.commit()
    connection.close()
    report = checks.measure("database", {"dialect": "sqlite", "path": f"{path}", "samples": 1})
    assert report["healthy"], report["failures"]


def test_too_few_connections_are_a_warning(server):
    """The PostgreSQL of the tests allows 20."""
    needed = {"workers": 4, "pods": 2, "most": 5000, "variable": "database_max_connections"}
    (message,) = ask(server, connections=needed)["messages"]
    allowed = ask(server)["connections_max"]
    assert f"The database allows {allowed} connections, and 4 workers in up to 2 pods may open 5000; set " in message
    assert "set database_max_connections to" in message
    assert ask(server, connections={**needed, "most": allowed})["messages"] == []


def test_the_read_replica_is_asked(postgresql, monkeypatch):
    """Another address of the same server stands in for a replica."""
    login, place = "{user}:{password}".format(**postgresql), "{port}/{database}".format(**postgresql)
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", f"postgresql+psycopg2://{login}@127.0.0.1:{place}")
    monkeypatch.setenv("MLFLOW_READ_REPLICA_BACKEND_STORE_URI", f"postgresql+psycopg2://{login}@localhost:{place}")
    figures = {"workers": 4, "pods": 2, "most": 21, "variable": "database_max_connections"}
    replica = {**figures, "most": 20, "variable": "database_read_replica_max_connections"}
    parameters = {"environment": True, "connections": figures, "read_replica_connections": replica}
    report = ask({}, **parameters)
    assert "of 20 in use" in detail(report, "read replica")
    assert [text.split(" allows")[0] for text in report["messages"]] == ["The database"]
    replica["most"] = 21
    message = ask({}, **parameters)["messages"][1]
    assert message.startswith("The read replica allows 20 ") and f"set {replica['variable']} to" in message
    monkeypatch.setenv("MLFLOW_READ_REPLICA_BACKEND_STORE_URI", f"postgresql://{login}@localhost:9/x")
    report = ask({}, **parameters)
    assert "refused" in detail(report, "read replica") and not report["healthy"]
    monkeypatch.delenv("MLFLOW_READ_REPLICA_BACKEND_STORE_URI")
    assert "read replica" not in [check["name"] for check in ask({}, **parameters)["checks"]]
