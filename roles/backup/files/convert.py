"""Rows from a database of one kind to one of another, by the tables that both have.

A set whose dump is a SQLite file can be loaded into any kind of database; `portable` makes such a file of any kind.
MLflow's own migrations make the tables in the new database, at the revision of the rows; so names and types of columns
are those of the kind, and the server migrates further as it would have.
"""

import json
import logging

from sets import BackupError

ROWS = 1000
"""That are in memory at once."""
REVISIONS = ("alembic_version", "alembic_version_auth")


def portable(source, target, described):
    """Write all rows of a database into a new SQLite file.

    Args:
        source: the Database.
        target: the Database of the SQLite file.
        described: what ``source.describe`` returned.
    """
    create_tables(target.engine(), described["schema"], described["users_schema"])
    copy(source, source.name, [(target, target.name)])


def create_tables(engine, schema, users_schema):
    """Let MLflow make the tables of a revision in an empty database.

    Args:
        engine: SQLAlchemy's, for the database.
        schema: the revision; empty for none of these tables.
        users_schema: the revision of the tables of users; empty for none of these tables.
    """
    from alembic import command
    from mlflow.store.db.utils import _get_alembic_config
    from mlflow.store.tracking.dbmodels.initial_models import Base

    logging.getLogger("alembic").setLevel(logging.WARNING)
    url = engine.url.render_as_string(hide_password=False)
    if schema:
        Base.metadata.create_all(engine)
        _upgrade(command, _get_alembic_config(url), engine, schema)
    if users_schema:
        from mlflow.server.auth.db import utils

        _upgrade(command, utils._get_alembic_config(url), engine, users_schema)


def _upgrade(command, config, engine, revision):
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def copy(source, source_name, targets):
    """Copy all rows of all tables, and let numbers that the database gives go on after the highest.

    Args:
        source: the Database.
        source_name: its name, or path.
        targets: Database and name of those that have the tables; SQLite has the tables of users in another file.

    Raises:
        BackupError: naming a table or a row that the target does not take.
    """
    raw = {"json_serializer": lambda value: value, "json_deserializer": _as_written}
    theirs, known = _tables(source, source_name), set(REVISIONS)
    with source.engine(source_name, **raw, **source.snapshot).connect() as rows:
        for target, name in targets:
            ours = _tables(target, name)
            with target.engine(name, **raw).begin() as out:
                _copy_tables(rows, theirs, target, out, ours)
            known |= set(ours.tables)
        _refuse_others(rows, theirs, known)


def _tables(database, name):
    """The tables of a database as sqlalchemy.MetaData."""
    import sqlalchemy

    found = sqlalchemy.MetaData()
    # By an engine of its own, since SQLAlchemy itself asks for JSON there.
    found.reflect(database.engine(name))
    for table in found.tables.values():
        for column in table.columns:
            if isinstance(column.type, sqlalchemy.types.Float):
                column.type.asdecimal = False  # MariaDB's would be rounded to ten digits
    return found


def _as_written(value):
    """The text of JSON that a driver gives: bytes, text, or a number where SQLite has taken it for one."""
    if isinstance(value, bytes):
        return value.decode()
    return value if isinstance(value, str) else json.dumps(value)


def _copy_tables(rows, theirs, target, out, ours):
    """Copy the tables that a target has, too."""
    target.begin_copy(out)
    common = [table for table in ours.sorted_tables if table.name in theirs.tables and table.name not in REVISIONS]
    for table in reversed(common):
        out.execute(table.delete())  # what migrations wrote
    for table in common:
        _copy_table(rows, theirs.tables[table.name], out, table)
    target.end_copy(out, common)


def _copy_table(rows, source, out, target):
    import sqlalchemy

    missing = sorted(set(source.columns.keys()) - set(target.columns.keys()))
    if missing:
        raise BackupError(
            f"Table {source.name} has the column {missing[0]}, which MLflow does not make in the new database; the rows"
            " cannot be copied."
        )
    statement = target.insert()
    # A generated column is computed anew, and takes no value.
    written = [column.name for column in target.columns if column.computed is None and column.name in source.columns]
    streamed = sqlalchemy.select(source).execution_options(stream_results=True, yield_per=ROWS)
    found = rows.execute(streamed).mappings()
    try:
        for part in found.partitions(ROWS):
            out.execute(statement, [{name: row[name] for name in written} for row in part])
    except sqlalchemy.exc.DBAPIError as error:
        reason = " ".join(str(error.orig).split())[:300].rstrip(".")
        raise BackupError(
            f"The new database does not take a row of table {source.name}: {reason}. Mend the row in the old database "
            "and repeat."
        ) from error


def _refuse_others(rows, theirs, known):
    """A table that is not MLflow's is left out where it is empty, and refused where it has rows."""
    import sqlalchemy

    for name in sorted(set(theirs.tables) - known):
        count = rows.execute(sqlalchemy.select(sqlalchemy.func.count()).select_from(theirs.tables[name])).scalar()
        if count:
            raise BackupError(
                f"Table {name} has {count} rows and is none that MLflow makes in the new database; drop it or move it "
                "elsewhere, and repeat."
            )
