"""URIs in rows that name the store of the artifacts directly, after the artifacts have moved to another one.

MLflow's server writes URIs that begin with ``mlflow-artifacts:`` where it transfers the artifacts itself; these go on
to work wherever the artifacts are. Where clients access the store (``mlflow_server_artifacts`` was ``direct``), rows
hold its own URI.
"""

COLUMNS = {
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "logged_models": ("artifact_location",),
    "model_versions": ("source", "storage_location"),
    "trace_tags": ("value",),
    "trace_request_metadata": ("value",),
    "tags": ("value",),
    "workspaces": ("default_artifact_root", "trace_archival_location"),
}
"""Columns with URIs of artifacts, by table."""
SERVED = "mlflow-artifacts:"


def rewrite(connection, old, new):
    """Let URIs below the former root of the artifacts name the present one.

    Args:
        connection: SQLAlchemy's, to the restored database.
        old: the former root, such as s3://bucket/path, or a folder.
        new: the present one. For a folder, which clients cannot access, URIs become ones that the server transfers.

    Returns:
        Number of rows that were changed, by table and column.
    """
    import sqlalchemy

    there = sqlalchemy.inspect(connection)
    tables = set(there.get_table_names())
    beginning = SERVED if new.startswith(("/", "file:")) else new.rstrip("/")
    changed = {}
    for table, columns in COLUMNS.items():
        names = {column["name"] for column in there.get_columns(table)} if table in tables else set()
        for column in sorted(names & set(columns)):
            changed[f"{table}.{column}"] = sum(
                _replace(connection, table, column, root, beginning) for root in _roots(old)
            )
    return changed


def _roots(old):
    """How rows write the root; a folder as a path or a URI."""
    root = old.rstrip("/")
    if root.startswith("file:"):
        root = "/" + root.partition(":")[2].lstrip("/")
    return [root] if "://" in root else [root, f"file://{root}", f"file:{root}"]


def _replace(connection, table, column, root, beginning):
    import sqlalchemy

    there = sqlalchemy.table(table, sqlalchemy.column(column))
    value = there.c[column]
    text = sqlalchemy.type_coerce(value, sqlalchemy.Text)
    # Compared by length, since LIKE ignores case in some databases.
    below = sqlalchemy.func.substr(text, 1, len(root) + 1) == f"{root}/"
    rest = sqlalchemy.func.substr(text, len(root) + 1)
    joined = sqlalchemy.type_coerce(sqlalchemy.literal(beginning), sqlalchemy.Text).concat(rest)
    result = connection.execute(
        sqlalchemy.update(there).where(sqlalchemy.or_(below, text == root)).values({column: joined})
    )
    return result.rowcount
