# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rows that MLflow's own store writes, and their comparison."""

from __future__ import annotations

import hashlib
import json
import math
import os

import sqlalchemy

ARTIFACTS = {"1/run/artifacts/notes.txt": b"kept\n" * 1000, "1/run/artifacts/model/model.pkl": os.urandom(300_000),
             "1/run/artifacts/empty": b""}
DRIVERS = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql"}
REVISIONS = ("alembic_version", "alembic_version_auth")


def uri_of(client: dict) -> str:
    """URI of SQLAlchemy, with the login."""
    return (f"{DRIVERS[client['dialect']]}://{client['user']}:{client['password']}@{client['host']}:{client['port']}"
            f"/{client['database']}")


def administer(client: dict, statement: str) -> None:
    """Run a statement outside of a transaction."""
    engine = sqlalchemy.create_engine(uri_of(client), isolation_level="AUTOCOMMIT", poolclass=sqlalchemy.pool.NullPool)
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(statement))


def fill(uri: str) -> None:
    """Make MLflow's tables, and rows of runs and models, and some in most other tables."""
    from mlflow.entities import Metric, Param, RunTag, ViewType
    from mlflow.entities.model_registry import ModelVersionTag
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as Registry
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore(uri, "mlflow-artifacts:")
    served = store.create_experiment("served")
    direct = store.create_experiment("direct", artifact_location="s3://former/path/2")
    for number in range(5):
        run = store.create_run(served if number else direct, "anna", number, [RunTag("note", "é 漢字 \\ ' \" \n")],
                               f"run {number}")
        metrics = [Metric("loss", value, 10**12 + step, step)
                   for step, value in enumerate((0.1, math.inf, -math.inf, math.nan, 1 / 3, 1e-300))]
        store.log_batch(run.info.run_id, metrics, [Param("alpha", "0.5"), Param("text", "x" * 5000)], [])
    store.delete_run(run.info.run_id)
    registry = Registry(uri)
    registry.create_registered_model("model")
    version = registry.create_model_version("model", "s3://former/path/2/model", run.info.run_id,
                                            [ModelVersionTag("stage", "x")])
    registry.set_registered_model_alias("model", "champion", version.version)
    store.set_experiment_tag(served, _tag("owner", "team"))
    assert len(store.search_runs([served, direct], "", ViewType.ALL)) == 5
    with store.engine.begin() as connection:
        _fill_generic(connection)
        _fill_spans(connection)
    store.engine.dispose()
    registry.engine.dispose()


def _tag(key: str, value: str):
    from mlflow.entities import ExperimentTag

    return ExperimentTag(key, value)


def _fill_generic(connection) -> None:
    """Two rows in each table that no row refers to and that has none, with values of each column's type."""
    tables = sqlalchemy.MetaData()
    tables.reflect(connection)
    for table in tables.sorted_tables:
        count = connection.execute(sqlalchemy.select(sqlalchemy.func.count()).select_from(table)).scalar()
        if count or table.foreign_keys or table.name in REVISIONS:
            continue
        for number in (1, 2):
            row = {column.name: "default" if column.name == "workspace" else _value(column.type, number)
                   for column in table.columns}
            with connection.begin_nested() as savepoint:
                try:
                    connection.execute(table.insert(), row)
                except sqlalchemy.exc.DBAPIError:  # a CHECK of a column that these values do not know
                    savepoint.rollback()


def _fill_spans(connection) -> None:
    """A trace with a span, whose table has a generated column."""
    tables = sqlalchemy.MetaData()
    tables.reflect(connection, only=["trace_info", "spans"])
    given = {"request_id": "tr-1", "trace_id": "tr-1", "experiment_id": 1, "status": "OK"}
    for table in (tables.tables["trace_info"], tables.tables["spans"]):
        connection.execute(table.insert(), {column.name: given.get(column.name, _value(column.type, 1))
                                            for column in table.columns if column.computed is None})
    assert any(column.computed is not None for column in table.columns)


def _value(kind, number: int):
    import datetime

    if isinstance(kind, sqlalchemy.types.JSON) or "JSON" in str(kind):
        return {"list": [1, 2.5, None, "漢"], "number": number}
    if isinstance(kind, sqlalchemy.types.Boolean):
        return number == 1
    if isinstance(kind, sqlalchemy.types.Integer):
        return number
    if isinstance(kind, (sqlalchemy.types.Float, sqlalchemy.types.Numeric)):
        return number / 4  # exact: MLflow has some columns in single precision on MariaDB
    if isinstance(kind, sqlalchemy.types.LargeBinary):
        return bytes(range(256))
    if isinstance(kind, sqlalchemy.types.DateTime):
        return datetime.datetime(2026, 11, 24, 2, 0, number)
    if isinstance(kind, sqlalchemy.types.Date):
        return datetime.date(2026, 11, number)
    return f"t{number}"


def fill_users(uri: str) -> None:
    """Make the tables of users, and two users."""
    from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore()
    store.init_db(uri)
    store.create_user("chief", "of-the-chief-1234", is_admin=True)
    store.create_user("anna", "of-anna-12345678")
    store.engine.dispose()


def digest(uri: str, login: dict | None = None, database: str = "") -> dict[str, str]:
    """Number of rows and a SHA-256 of all values of each table that has rows, by its name; the same for all kinds of
    database."""
    url = sqlalchemy.engine.make_url(uri)
    if login:
        url = url.set(username=login["user"], password=login["password"])
    if database:
        url = url.set(database=database)
    found, tables = {}, sqlalchemy.MetaData()
    with sqlalchemy.create_engine(url, poolclass=sqlalchemy.pool.NullPool).connect() as connection:
        tables.reflect(connection)
        for table in tables.sorted_tables:
            if table.name in REVISIONS:
                continue
            for column in table.columns:
                if isinstance(column.type, sqlalchemy.types.Float):
                    column.type.asdecimal = False  # MariaDB's would be rounded
            rows = sorted(json.dumps({name: _plain(table.c[name].type, value) for name, value in row.items()},
                                     sort_keys=True)
                          for row in connection.execute(sqlalchemy.select(table)).mappings())
            if rows:
                found[table.name] = f"{len(rows)} {hashlib.sha256(chr(10).join(rows).encode()).hexdigest()}"
    return found


def _plain(kind, value):
    if isinstance(value, (bytes, memoryview)):
        return bytes(value).hex()
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, str) and value[:1] in "{[":
        try:
            value = json.loads(value)  # MariaDB has JSON as text
        except json.JSONDecodeError:
            return value
    if isinstance(value, (dict, list)):
        return json.dumps(value, sort_keys=True)
    if isinstance(value, (int, float, str, type(None))):
        return float(value) if isinstance(value, float) else value
    return str(value)
