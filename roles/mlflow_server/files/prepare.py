"""What must be true before MLflow's server starts, checked from its own pod; run in its own image.

usage: prepare.py STEP...

database   wait until the database answers; end at once, with the reason, when waiting cannot help
bucket     apply MLFLOW_BUCKET_SETTINGS to the bucket of the artifacts, see bucket.py beside this file
artifacts  wait in the same way for the bucket or the folder of the artifacts
migrate    bring the schema of the database up to date

Reads the environment of the server. PREPARE_TIMEOUT is how many seconds to wait for each store (120). The file
stores.py, the collection's plugins/module_utils/stores.py, is beside this one.
"""

import os
import pathlib
import sys
import time

import stores

TIMEOUT = float(os.environ.get("PREPARE_TIMEOUT", "120"))
DATABASE = os.environ["MLFLOW_BACKEND_STORE_URI"]
ARTIFACTS = os.environ["MLFLOW_ARTIFACTS_DESTINATION"]
# A store that has just started may answer before it has made its bucket.
BUCKET_GRACE = 10
# Drivers that take connect_timeout, in seconds; others reject it, or call it otherwise.
TIMEOUT_DRIVERS = ("psycopg2", "psycopg", "pymysql", "mysqldb", "cymysql", "aiomysql", "asyncmy")
# Causes that waiting does not remove, as PostgreSQL and its client library word them.
FATAL_REASONS = ("password authentication failed", "no pg_hba.conf entry", "does not exist", "permission denied",
                 "certificate verify failed", "server does not support SSL")


class FatalError(Exception):
    """A cause that waiting does not remove."""


def wait_for(what, attempt):
    """Call ``attempt`` until it succeeds, once a second; print what is missing when that changes."""
    deadline, printed = time.monotonic() + TIMEOUT, None
    while True:
        try:
            return attempt()
        except FatalError as error:
            sys.exit(f"prepare: {what} refuses: {error}")
        except Exception as error:
            reason = " ".join(str(error).split())
            if reason != printed:
                print(f"prepare: waiting for {what}: {reason}", flush=True)
                printed = reason
            if time.monotonic() > deadline:
                sys.exit(f"prepare: {what} did not answer within {TIMEOUT:.0f} s: {reason}")
            time.sleep(1)


def database():
    import sqlalchemy

    url = sqlalchemy.engine.make_url(DATABASE)
    timed = url.get_driver_name() in TIMEOUT_DRIVERS and "connect_timeout" not in url.query
    engine = sqlalchemy.create_engine(url, connect_args={"connect_timeout": 5} if timed else {})

    def connect():
        try:
            with engine.connect() as connection:
                connection.execute(sqlalchemy.text("SELECT 1"))
        except sqlalchemy.exc.DBAPIError as error:
            if any(text in str(error.orig) for text in FATAL_REASONS):
                raise FatalError(str(error.orig).strip()) from error
            raise ConnectionError(error.orig) from error

    wait_for(f"database {engine.url.render_as_string(hide_password=True)}", connect)


def bucket():
    import bucket as settings

    def apply():
        try:
            settings.apply()
        except settings.RefusedError as error:
            raise FatalError(error) from error

    wait_for("the store of the artifacts", apply)


def artifacts():
    try:
        parameters = stores.from_uri(ARTIFACTS)
    except stores.StoreError as error:
        return print(f"prepare: {error}, so only MLflow looks at it", flush=True)
    if parameters["type"] == "volume":
        return folder(pathlib.Path(parameters["path"]))
    store, begun = stores.open_store(parameters), time.monotonic()

    def look():
        try:
            store.look()
        except stores.StoreError as error:
            if error.missing and time.monotonic() - begun > BUCKET_GRACE:
                raise FatalError(f"{store.noun} {store.bucket!r} does not exist; create it, or name an existing one in "
                                 f"object_storage_bucket") from error
            if error.denied or error.status == 400:
                raise FatalError(f"{store.noun} {store.bucket!r} may not be read with these credentials "
                                 f"({error.code or error.reason}); "
                                 f"check those of object_storage") from error
            raise

    return wait_for(f"object storage {store.location}", look)


def folder(path):
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".prepare-{os.getpid()}"
        probe.write_bytes(b"x" * 4096)
        probe.unlink()
    except OSError as error:
        sys.exit(f"prepare: the artifact folder {path} cannot be written: {error.strerror}")


def migrate():
    import sqlalchemy
    from mlflow.store.db.utils import _initialize_tables, _upgrade_db, create_sqlalchemy_engine_with_retry

    engine = create_sqlalchemy_engine_with_retry(DATABASE)
    # `mlflow db upgrade` alone fails on an empty database, whose first tables no migration makes.
    known = sqlalchemy.inspect(engine).has_table("alembic_version")
    if known:
        refuse_newer(engine)
    (_upgrade_db if known else _initialize_tables)(engine)
    print("prepare: the schema of the database is up to date", flush=True)
    if os.environ.get("MLFLOW_AUTH_CONFIG_PATH"):
        users()


def refuse_newer(engine):
    """End with a sentence where a newer MLflow has migrated the database: MLflow itself advises to upgrade it."""
    import mlflow
    from alembic.script import ScriptDirectory
    from mlflow.store.db.utils import _get_alembic_config, _get_schema_version

    revision = _get_schema_version(engine)
    scripts = ScriptDirectory.from_config(_get_alembic_config(""))
    if revision and revision not in {script.revision for script in scripts.walk_revisions()}:
        sys.exit(f"prepare: the schema of the database has revision {revision}, which MLflow {mlflow.__version__} does "
                 "not know, since a newer version has migrated it; set mlflow_version to that one, go back by "
                 "playbooks/rollback.yml, or restore an older backup by playbooks/restore.yml")


def users():
    """The tables of users and permissions, before several servers would make them at once."""
    import sqlalchemy
    from mlflow.server.auth.config import read_auth_config
    from mlflow.server.auth.db.utils import migrate_if_needed

    migrate_if_needed(sqlalchemy.create_engine(read_auth_config().database_uri), "head")
    print("prepare: the schema of the users is up to date", flush=True)


STEPS = {"database": database, "bucket": bucket, "artifacts": artifacts, "migrate": migrate}

if __name__ == "__main__":
    for step in sys.argv[1:]:
        STEPS[step]()
