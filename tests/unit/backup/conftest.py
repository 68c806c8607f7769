# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Instances on PostgreSQL, MariaDB and SQLite with rows of MLflow, artifacts in a folder or in SeaweedFS."""

from __future__ import annotations

import pathlib
import shutil
import sys
import uuid

import pytest
import sqlalchemy

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import instances  # noqa: E402
import rows  # noqa: E402

postgresql = instances.unit.postgresql
mariadb = instances.unit.mariadb
seaweedfs = instances.unit.seaweedfs
moto = instances.unit.moto


@pytest.fixture(scope="session")
def pods(tmp_path_factory):
    """Runs commands of backup.py."""
    found = instances.Pods(tmp_path_factory.mktemp("pods"))
    yield found
    found.close()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory):
    """Path of a SQLite database of MLflow with rows of many tables."""
    path = tmp_path_factory.mktemp("template") / "mlflow.db"
    rows.fill(f"sqlite:///{path}")
    return path


@pytest.fixture
def artifacts(tmp_path):
    """A folder with three artifacts."""
    folder = tmp_path / "artifacts"
    for name, content in rows.ARTIFACTS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def sqlite(pods, sqlite_template, artifacts, tmp_path):
    """An instance on SQLite, with logins in a file of their own, and backups in a folder."""
    data = tmp_path / "data"
    data.mkdir()
    shutil.copy(sqlite_template, data / "mlflow.db")
    rows.fill_users(f"sqlite:///{data}/users.db")
    (tmp_path / "auth.ini").write_text(f"[mlflow]\ndatabase_uri = sqlite:///{data}/users.db\n")
    return instances.Instance(pods, f"sqlite:///{data}/mlflow.db", str(artifacts),
                              {"type": "volume", "path": str(tmp_path / "backups/n/a")},
                              MLFLOW_AUTH_CONFIG_PATH=str(tmp_path / "auth.ini"),
                              MLFLOW_SQL_TRACE_ROLLUPS_ENABLED="true")


@pytest.fixture(scope="session")
def postgresql_template(postgresql):
    """Name of a PostgreSQL database of MLflow with rows of many tables and logins."""
    uri = rows.uri_of({**postgresql, "database": "template_of_mlflow"})
    rows.administer(postgresql, "CREATE DATABASE template_of_mlflow")
    rows.fill(uri)
    rows.fill_users(uri)
    return "template_of_mlflow"


@pytest.fixture
def on_postgresql(pods, postgresql, postgresql_template, artifacts, tmp_path):
    """An instance on PostgreSQL; no login is in its URI."""
    name = f"mlflow_{uuid.uuid4().hex[:8]}"
    rows.administer(postgresql, f"CREATE DATABASE {name} TEMPLATE {postgresql_template}")
    uri = f"postgresql+psycopg://127.0.0.1:{postgresql['port']}/{name}"
    yield instances.Instance(pods, uri, str(artifacts), {"type": "volume", "path": str(tmp_path / "backups/n/a")},
                             {"user": postgresql["user"], "password": postgresql["password"]},
                             MLFLOW_SQL_TRACE_ROLLUPS_ENABLED="true")
    for each in (name, f"{name}_restore", f"{name}_before"):
        rows.administer(postgresql, f"DROP DATABASE IF EXISTS {each} WITH (FORCE)")


@pytest.fixture
def on_mariadb(pods, mariadb, artifacts, tmp_path):
    """An instance on MariaDB."""
    name = f"mlflow_{uuid.uuid4().hex[:8]}"
    rows.administer(mariadb, f"CREATE DATABASE {name} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
    uri = rows.uri_of({**mariadb, "database": name})
    rows.fill(uri)
    yield instances.Instance(pods, uri, str(artifacts), {"type": "volume", "path": str(tmp_path / "backups/n/a")},
                             {"user": mariadb["user"], "password": mariadb["password"]},
                             MLFLOW_SQL_TRACE_ROLLUPS_ENABLED="true")
    for each in (name, f"{name}_restore", f"{name}_before"):
        rows.administer(mariadb, f"DROP DATABASE IF EXISTS {each}")


@pytest.fixture
def instance(request):
    """The instance that a test is parametrized with."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def execute():
    """Runs a statement on the database of an instance, and returns its rows."""
    def run(instance, statement, database=None):
        url = sqlalchemy.engine.make_url(instance.uri)
        if instance.login:
            url = url.set(username=instance.login["user"], password=instance.login["password"])
        if database:
            url = url.set(database=database)
        with sqlalchemy.create_engine(url, poolclass=sqlalchemy.pool.NullPool).begin() as connection:
            result = connection.execute(sqlalchemy.text(statement))
            return [tuple(row) for row in result] if result.returns_rows else []
    return run
