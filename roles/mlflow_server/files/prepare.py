"""What must be true before MLflow's server starts, checked from where it stands; run in its own image.

usage: prepare.py STEP...

database   wait until the database answers; end at once, with the reason, when waiting cannot help
bucket     bring the bucket of the artifacts to what MLFLOW_BUCKET_CARE asks for, see bucket.py beside this file
artifacts  wait in the same way for the bucket or the folder of the artifacts
migrate    bring the schema of the database up to date
gc         remove for good what people deleted longer ago than GC_OLDER_THAN; of a CronJob, while the server runs

Reads the environment of the server. PREPARE_TIMEOUT is how many seconds to wait for each store (120).
"""

import os
import pathlib
import sys
import time
import urllib.parse

TIMEOUT = float(os.environ.get("PREPARE_TIMEOUT", "120"))
DATABASE = os.environ["MLFLOW_BACKEND_STORE_URI"]
ARTIFACTS = os.environ["MLFLOW_ARTIFACTS_DESTINATION"]
# A store that has just started may answer before it has made its bucket.
BUCKET_GRACE = 10
# What no waiting mends, as PostgreSQL and its client library word it.
FINAL = ("password authentication failed", "no pg_hba.conf entry", "does not exist", "permission denied", "certificate verify failed",
         "server does not support SSL")


class Final(Exception):
    """A cause that waiting does not mend."""


def wait_for(what, attempt):
    """Call ``attempt`` until it succeeds, once a second; say what is missing when that changes."""
    deadline, said = time.monotonic() + TIMEOUT, None
    while True:
        try:
            return attempt()
        except Final as error:
            sys.exit(f"prepare: {what} refuses: {error}")
        except Exception as error:
            reason = " ".join(str(error).split())
            if reason != said:
                print(f"prepare: waiting for {what}: {reason}", flush=True)
                said = reason
            if time.monotonic() > deadline:
                sys.exit(f"prepare: {what} did not answer within {TIMEOUT:.0f} s: {reason}")
            time.sleep(1)


def database():
    import sqlalchemy

    engine = sqlalchemy.create_engine(DATABASE, connect_args={} if DATABASE.startswith("sqlite") else {"connect_timeout": 5})

    def connect():
        try:
            with engine.connect() as connection:
                connection.execute(sqlalchemy.text("SELECT 1"))
        except sqlalchemy.exc.DBAPIError as error:
            if any(text in str(error.orig) for text in FINAL):
                raise Final(str(error.orig).strip()) from error
            raise ConnectionError(error.orig) from error

    wait_for(f"database {engine.url.render_as_string(hide_password=True)}", connect)


def bucket():
    import bucket as care

    def bring():
        try:
            care.care()
        except care.Refused as error:
            raise Final(error) from error

    wait_for("the store of the artifacts", bring)


def artifacts():
    uri = urllib.parse.urlsplit(ARTIFACTS)
    stores = {"s3": s3, "gs": gcs, "wasbs": azure}
    if uri.scheme not in stores:
        return folder(pathlib.Path(ARTIFACTS))
    name, begun = uri.username or uri.netloc, time.monotonic()
    where, ask = stores[uri.scheme](uri, name)

    def look():
        status, reason = ask()
        if status == 404 and time.monotonic() - begun > BUCKET_GRACE:
            raise Final(f"bucket {name!r} does not exist; create it, or name an existing one in object_storage_bucket")
        if status in (400, 401, 403):
            raise Final(f"bucket {name!r} may not be read with these credentials ({reason}); check those of object_storage")
        if status != 200:
            raise ConnectionError(f"bucket {name!r} answers {status} ({reason})")

    return wait_for(f"object storage {where}", look)


def folder(path):
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".prepare-{os.getpid()}"
        probe.write_bytes(b"x" * 4096)
        probe.unlink()
    except OSError as error:
        sys.exit(f"prepare: the artifact folder {path} cannot be written: {error.strerror}")


def s3(_uri, name):
    import boto3
    from botocore.config import Config
    from botocore.exceptions import ClientError

    endpoint = os.environ.get("MLFLOW_S3_ENDPOINT_URL")
    store = boto3.client("s3", endpoint_url=endpoint, config=Config(connect_timeout=5, read_timeout=10, retries={"max_attempts": 1}))

    def ask():
        try:
            store.head_bucket(Bucket=name)
        except ClientError as error:
            return error.response["ResponseMetadata"]["HTTPStatusCode"], error.response["Error"].get("Code")
        return 200, ""

    return endpoint or "AWS S3", ask


def gcs(uri, name):
    from google.api_core.exceptions import GoogleAPICallError
    from google.cloud import storage

    def ask():
        try:
            # By listing, which MLflow needs anyway; asking for the bucket itself takes a right of its own. The client is made
            # here, since a new pod's Workload Identity takes a moment to answer.
            next(iter(storage.Client().list_blobs(name, prefix=uri.path.lstrip("/"), max_results=1, timeout=(5, 10), retry=None)), None)
        except GoogleAPICallError as error:
            return error.code, error.message
        return 200, ""

    return os.environ.get("STORAGE_EMULATOR_HOST") or "Google Cloud Storage", ask


def azure(uri, name):
    from azure.core.exceptions import HttpResponseError
    from azure.storage.blob import BlobServiceClient

    options = {"connection_timeout": 5, "read_timeout": 10, "retry_total": 0}
    connection, key = os.environ.get("AZURE_STORAGE_CONNECTION_STRING"), os.environ.get("AZURE_STORAGE_ACCESS_KEY")
    if connection:
        service = BlobServiceClient.from_connection_string(connection, **options)
    else:
        from azure.identity import DefaultAzureCredential

        service = BlobServiceClient(f"https://{uri.hostname}", key or DefaultAzureCredential(), **options)

    def ask():
        try:
            next(service.get_container_client(name).list_blob_names(name_starts_with=uri.path.lstrip("/"), results_per_page=1), None)
        except HttpResponseError as error:
            if error.status_code is None:  # no credentials, so far
                raise
            return error.status_code, getattr(error.error_code, "value", error.error_code)
        return 200, ""

    return service.primary_hostname, ask


def migrate():
    import sqlalchemy
    from mlflow.store.db.utils import _initialize_tables, _upgrade_db, create_sqlalchemy_engine_with_retry

    engine = create_sqlalchemy_engine_with_retry(DATABASE)
    # `mlflow db upgrade` alone fails on an empty database, whose first tables no migration makes.
    known = sqlalchemy.inspect(engine).has_table("alembic_version")
    (_upgrade_db if known else _initialize_tables)(engine)
    print("prepare: the schema of the database is up to date", flush=True)
    if os.environ.get("MLFLOW_AUTH_CONFIG_PATH"):
        users()


def users():
    """The tables of users and permissions, before several servers would make them at once."""
    import sqlalchemy
    from mlflow.server.auth.config import read_auth_config
    from mlflow.server.auth.db.utils import migrate_if_needed

    migrate_if_needed(sqlalchemy.create_engine(read_auth_config().database_uri), "head")
    print("prepare: the schema of the users is up to date", flush=True)


def gc():
    """Remove for good what was deleted so long ago. Called here since its URI, as an argument, would show the login to all."""
    from mlflow.cli import cli

    options = ["--older-than", os.environ["GC_OLDER_THAN"], *(["--all-workspaces"] if os.environ.get("MLFLOW_ENABLE_WORKSPACES") else [])]
    cli(["gc", "--backend-store-uri", DATABASE, *options])


STEPS = {"database": database, "bucket": bucket, "artifacts": artifacts, "migrate": migrate, "gc": gc}

if __name__ == "__main__":
    for step in sys.argv[1:]:
        STEPS[step]()
