"""Schemas of MLflow's databases: what a migration changes, and whether it can be undone by Alembic without a restore.

MLflow has no command that undoes a migration; its revisions have a `downgrade`, which for some is only `pass`. The
revisions that were applied are read here as source, so all of this runs in the image of the newer version.
"""

import ast
import contextlib
import os
import pathlib
import re

from sets import BackupError

MAIN, USERS = "alembic_version", "alembic_version_auth"
"""Tables with the revision of MLflow's schema, and of that of its users."""
WIDENING = {"batch_alter_table", "alter_column"}
"""What a revision may call of Alembic that only makes columns longer."""
TYPES = {"String", "Text", "Unicode", "UnicodeText", "with_variant", "MEDIUMTEXT", "LONGTEXT", "NVARCHAR", "VARCHAR"}
KINDS = {"columns": "column", "indexes": "index", "unique constraints": "unique constraint",
         "primary key": "primary key", "foreign keys": "foreign key"}
"""What ``structure`` returns of a table, in words for one of them."""
LENGTH = re.compile(r"(?:N?VARCHAR|CHAR)\((\d+)\)")
TEXTS = ("TEXT", "MEDIUMTEXT", "LONGTEXT", "CLOB")


# -- structure -----------------------------------------------------------------------------------------------------


def structure(engine):
    """Tables of a database: columns, indexes, unique constraints, primary and foreign keys, as plain values."""
    import sqlalchemy

    inspector, found = sqlalchemy.inspect(engine), {}
    for table in inspector.get_table_names():
        if table in (MAIN, USERS):
            continue
        foreign = [f"{', '.join(key['constrained_columns'])} -> {key['referred_table']}"
                   f"({', '.join(key['referred_columns'])}) {sorted((key.get('options') or {}).items())}"
                   for key in inspector.get_foreign_keys(table)]
        found[table] = {
            "columns": {column["name"]: [_type(column["type"]), bool(column["nullable"])]
                        for column in inspector.get_columns(table)},
            # Names of columns; an index of an expression has None in their place.
            "indexes": {index["name"]: [[name or "" for name in index["column_names"]], bool(index["unique"])]
                        for index in inspector.get_indexes(table)},
            "unique constraints": {", ".join(entry["column_names"]): True
                                   for entry in inspector.get_unique_constraints(table)},
            "primary key": {", ".join(inspector.get_pk_constraint(table)["constrained_columns"]): True},
            "foreign keys": dict.fromkeys(foreign, True),
        }
    return found


def _type(column_type):
    """A type in SQL, without what only says how texts are compared."""
    return re.sub(r" (COLLATE|CHARACTER SET) \S+", "", str(column_type))


def differences(before, after):
    """Where one structure is another than an earlier one, in words; columns that became longer are none."""
    found = [f"table {table} is missing" for table in sorted(set(before) - set(after))]
    found += [f"table {table} is still there" for table in sorted(set(after) - set(before))]
    for table in sorted(set(before) & set(after)):
        for kind, entries in before[table].items():
            now = after[table].get(kind, {})
            for name in sorted(set(entries) | set(now)):
                old, new = entries.get(name), now.get(name)
                if old == new or (kind == "columns" and old and new and _longer(old, new)):
                    continue
                found.append(f"{table}: {KINDS[kind]} {name} was {_shown(old)} and is {_shown(new)}")
    return found


def _shown(value):
    return "not there" if value is None else "there" if value is True else str(value)


def longer_columns(before, after):
    """Columns of both structures that hold longer texts in the second, as table.column."""
    return [f"{table}.{name}" for table in sorted(set(before) & set(after))
            for name, old in before[table]["columns"].items()
            if (new := after[table]["columns"].get(name)) and new != old and _longer(old, new)]


def _longer(old, new):
    """Whether a column takes all that it took before and longer texts, too."""
    length, longer = LENGTH.fullmatch(old[0]), LENGTH.fullmatch(new[0])
    if old[1] != new[1] or not length:
        return False
    return new[0] in TEXTS or bool(longer and int(longer[1]) >= int(length[1]))


def new_tables(before, after):
    """Tables that only the later of two structures has."""
    return sorted(set(after) - set(before))


def lost_indexes(before, after):
    """Indexes of columns that are still there, while no index of the later structure begins with them.

    New columns do not count: where names are unique in a workspace, an index of workspace and name is in the place of
    that of the name.
    """
    found = []
    for table in sorted(set(before) & set(after)):
        left = [columns for columns, _unique in after[table]["indexes"].values()]
        left += [key.split(", ") for kind in ("unique constraints", "primary key") for key in after[table][kind]]
        new = set(after[table]["columns"]) - set(before[table]["columns"])
        left = [[column for column in columns if column not in new] for columns in left]
        for name, (columns, _unique) in sorted(before[table]["indexes"].items()):
            there = all(column in after[table]["columns"] for column in columns)
            if columns and there and not any(other[:len(columns)] == columns for other in left):
                found.append(f"{table}: {name} ({', '.join(columns)})")
    return found


# -- revisions -----------------------------------------------------------------------------------------------------


def revisions(engine):
    """The revisions of MLflow's schema and of its users' in a database; None where there is no such table."""
    import sqlalchemy

    inspector = sqlalchemy.inspect(engine)
    with engine.connect() as connection:
        return {table: connection.execute(sqlalchemy.text(f"SELECT version_num FROM {table}")).scalar()
                if inspector.has_table(table) else None for table in (MAIN, USERS)}


def config(table, uri):
    """Alembic's configuration of MLflow's schema, or of its users'."""
    if table == MAIN:
        from mlflow.store.db.utils import _get_alembic_config
    else:
        from mlflow.server.auth.db.utils import _get_alembic_config
    return _get_alembic_config(uri)


def steps(table, older, newer):
    """The revisions after one up to another, the newest first.

    Args:
        table: MAIN or USERS.
        older: revision to go back to.
        newer: that of the database.

    Returns:
        A list of revision, what it does, and how it is undone: ``real`` (its downgrade does something), ``longer`` (its
        downgrade does nothing, and it only made columns longer) or ``none``.

    Raises:
        BackupError: this version of MLflow does not have the revisions, or one does not follow from the other.
    """
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    scripts = ScriptDirectory.from_config(config(table, "sqlite://"))
    try:
        found = [] if older == newer else list(scripts.iterate_revisions(newer, older))
    except CommandError as error:
        raise BackupError(f"This version of MLflow does not know how the schema came from revision {older} to {newer}: "
                          f"{error}") from error
    return [{"revision": script.revision, "what": (script.doc or "").strip(),
             "undone": undone(pathlib.Path(script.path).read_text(encoding="utf-8"))} for script in found]


def unknown(engine):
    """The revision of a database of MLflow that this version does not know, since a newer one migrated it; else
    empty."""
    from alembic.script import ScriptDirectory

    revision = revisions(engine)[MAIN]
    known = {script.revision for script in ScriptDirectory.from_config(config(MAIN, "sqlite://")).walk_revisions()}
    return revision if revision and revision not in known else ""


def undone(source):
    """How a revision is undone, by its source; see ``steps``."""
    functions = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
    if any(map(_acts, getattr(functions.get("downgrade"), "body", []))):
        return "real"
    return "longer" if "upgrade" in functions and _only_longer(functions["upgrade"]) else "none"


def _acts(statement):
    """Whether a statement does something: `pass`, texts and a bare `return` do not."""
    constant = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    returns = isinstance(statement, ast.Return) and statement.value is None
    return not (constant or returns or isinstance(statement, ast.Pass))


def _only_longer(function):
    """Whether a function calls nothing but what changes types of columns to other types of texts."""
    called = {node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
              for node in ast.walk(function) if isinstance(node, ast.Call)}
    changes = [keyword.arg for node in ast.walk(function) if isinstance(node, ast.Call)
               and getattr(node.func, "attr", "") == "alter_column" for keyword in node.keywords]
    return "alter_column" in called and called <= WIDENING | TYPES and not {"new_column_name", "nullable",
                                                                            "server_default"} & set(changes)


# -- migration and its reverse -------------------------------------------------------------------------------------


def migrate(engine, users=None):
    """Bring a database to the schema of this version of MLflow.

    Args:
        engine: SQLAlchemy's engine of the database.
        users: engine of the one with MLflow's users, where there are users.
    """
    from mlflow.store.db.utils import _upgrade_db

    _upgrade_db(engine)
    if users is not None:
        from mlflow.server.auth.db.utils import migrate_if_needed

        migrate_if_needed(users, "head")


def prepopulate(engine):
    """Fill the columns of trace analytics while the older server runs, where this version has that step.

    Returns:
        Numbers of rows that were filled, by what they are; None where there is nothing to do.

    Raises:
        RuntimeError: the rows are not what the step expects; the migration would find the same.
    """
    try:
        from mlflow.store.db import trace_analytics_prepopulation as step
    except ImportError:
        return None
    with engine.connect() as connection:
        try:
            step._validate_schema_revision(connection)
        except (RuntimeError, ValueError):
            return None  # a schema from which the step does not begin, or that has the columns already
    found = step.prepopulate_trace_analytics(engine)
    return {name: getattr(found, name).updated for name in ("traces", "spans", "assessments")}


def downgrade(engine, table, revision):
    """Bring a database back to a revision of MLflow's schema, or of its users'."""
    from alembic import command

    settings = config(table, engine.url.render_as_string(hide_password=False))
    with contextlib.ExitStack() as stack:
        if table == MAIN:
            # Its environment takes the engine of a connection, whose driver may have its login from elsewhere.
            settings.attributes["connection"] = stack.enter_context(engine.connect())
        command.downgrade(settings, revision)


def plan(before, now):
    """Whether the migrations since some revisions can be undone, by what their sources say.

    Args:
        before: revisions by table, as of ``revisions``.
        now: those of the database.

    Returns:
        possible; reason (a sentence where it is not); steps.
    """
    found = []
    for table in (MAIN, USERS):
        if before.get(table) and now.get(table):
            found += [{**step, "table": table} for step in steps(table, before[table], now[table])]
        elif now.get(table) and not before.get(table):
            return {"possible": False, "steps": found,
                    "reason": f"There was no table {table} before, and no downgrade removes it."}
    missing = [f"{step['revision']} ({step['what']})" for step in found if step["undone"] == "none"]
    reason = f"The downgrade of {', '.join(missing)} does nothing." if missing else ""
    return {"possible": not missing, "reason": reason, "steps": found}


def has_users():
    """Whether the instance has users of MLflow's own."""
    return bool(os.environ.get("MLFLOW_AUTH_CONFIG_PATH"))
