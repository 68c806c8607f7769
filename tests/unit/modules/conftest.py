# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Real servers for the tests of modules: PostgreSQL, MariaDB, SeaweedFS and MLflow, each started once on a free
loopback port.

Three clouds have stand-ins here: moto for AWS, gcp-storage-emulator for Google's, and Azurite, which is Azure's own.
"""

from __future__ import annotations

import base64
import contextlib
import glob
import os
import pathlib
import pwd
import shutil
import socket
import ssl
import subprocess
import sys
import time
import urllib.request

import boto3
import pytest
from azure.storage.blob import BlobServiceClient
from botocore.exceptions import BotoCoreError, ClientError

BIN = pathlib.Path(sys.executable).parent
ROOT = pathlib.Path(__file__).parents[3]
AZURITE = ROOT / ".cache/azurite/node_modules/.bin/azurite-blob"
ROLE_FILES = ROOT / "roles/mlflow_server/files"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def program(*patterns: str, package: str) -> str:
    """Path of a program, or a failure that names the Debian package that has it."""
    for pattern in patterns:
        found = shutil.which(pattern) or next(iter(sorted(glob.glob(pattern), reverse=True)), None)
        if found:
            return found
    pytest.fail(f"{patterns[0]} is not here; install Debian's package {package} (make test-packages)")


def unprivileged(folder: pathlib.Path) -> dict:
    """Databases refuse to run as root: how to start one as somebody else who owns the folder."""
    if os.geteuid():
        return {}
    nobody = pwd.getpwnam("nobody")
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    for parent in folder.parents:  # pytest's folders let only their owner through
        if parent.is_relative_to("/tmp") and parent != pathlib.Path("/tmp"):
            parent.chmod(parent.stat().st_mode | 0o011)
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


@contextlib.contextmanager
def running(command: list, ready, log: pathlib.Path, **options):
    """A server that ends with the block; ``ready`` is tried until it raises nothing, for 180 seconds."""
    with log.open("wb") as output:
        process = subprocess.Popen(list(map(str, command)), stdout=output, stderr=subprocess.STDOUT, **options)
    try:
        for _attempt in range(900):
            if process.poll() is not None:
                pytest.fail(f"{command[0]} ended: {log.read_text()[-2000:]}")
            with contextlib.suppress(OSError):
                ready()
                break
            time.sleep(0.2)
        else:
            pytest.fail(f"{command[0]} is not ready: {log.read_text()[-2000:]}")
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def answers(port: int):
    return lambda: socket.create_connection(("127.0.0.1", port), timeout=1).close()


def new_postgresql(folder: pathlib.Path, *settings: str) -> tuple[list, dict, dict]:
    """A PostgreSQL whose user mlflow may log in by password: its command, options of ``running``, and of a client."""
    as_user = unprivileged(folder)
    initdb = program("/usr/lib/postgresql/*/bin/initdb", package="postgresql")
    (folder / "password").write_text("right\n")
    if as_user:
        os.chown(folder / "password", as_user["user"], as_user["group"])
    subprocess.run([initdb, "-D", folder / "data", "-U", "mlflow", "--pwfile", folder / "password",
                    "--auth=scram-sha-256"],
                   check=True, capture_output=True, cwd=folder, **as_user)
    port = free_port()
    command = [initdb.replace("initdb", "postgres"), "-D", folder / "data", "-p", port, "-k", folder, "-c",
               "listen_addresses=127.0.0.1", "-c", "max_connections=20", *settings]
    return command, {"cwd": folder, **as_user}, {
        "dialect": "postgresql", "host": "127.0.0.1", "port": port, "database": "postgres", "user": "mlflow",
        "password": "right"}


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory):
    """Options of a PostgreSQL whose user mlflow may log in by password."""
    folder = tmp_path_factory.mktemp("postgresql")
    command, options, client = new_postgresql(folder)
    is_ready = program("/usr/lib/postgresql/*/bin/pg_isready", package="postgresql-client")

    def ready():
        """It accepts connections before it lets anybody in."""
        if subprocess.run([is_ready, "-q", "-h", "127.0.0.1", "-p", str(client["port"])], check=False).returncode:
            raise ConnectionError("PostgreSQL is starting")

    with running(command, ready, folder / "log", **options):
        yield client


def new_mariadb(folder: pathlib.Path, *settings: str) -> tuple[list, dict, dict]:
    """A MariaDB whose user mlflow may log in by password: its command, options of ``running``, and of a client."""
    as_user = unprivileged(folder)
    server = program("mariadbd", "/usr/sbin/mariadbd", package="mariadb-server-core")
    subprocess.run([program("mariadb-install-db", package="mariadb-server-core"), "--no-defaults",
                    f"--datadir={folder / 'data'}",
                    "--auth-root-authentication-method=normal", "--skip-test-db"], check=True, capture_output=True,
                   cwd=folder, **as_user)
    # At localhost, since MariaDB's anonymous user of that host comes before a user of any host.
    (folder / "init.sql").write_text("CREATE DATABASE IF NOT EXISTS mlflow;\n"
                                     "CREATE USER IF NOT EXISTS mlflow@localhost IDENTIFIED BY 'right';\n"
                                     "GRANT ALL ON *.* TO mlflow@localhost WITH GRANT OPTION;\n")
    port = free_port()
    command = [server, "--no-defaults", f"--datadir={folder / 'data'}", f"--port={port}", "--bind-address=127.0.0.1",
               f"--socket={folder / 's'}", f"--init-file={folder / 'init.sql'}", *settings]
    return command, {"cwd": folder, **as_user}, {
        "dialect": "mysql", "host": "127.0.0.1", "port": port, "database": "mlflow", "user": "mlflow",
        "password": "right"}


@pytest.fixture(scope="session")
def mariadb(tmp_path_factory):
    """Options of a MariaDB whose user mlflow may log in by password."""
    folder = tmp_path_factory.mktemp("mariadb")
    command, options, client = new_mariadb(folder)
    with running(command, answers(client["port"]), folder / "log", **options):
        yield client


def has_bucket(url: str) -> None:
    """SeaweedFS answers a moment before it has made its bucket."""
    store = boto3.client("s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="key",
                         aws_secret_access_key="rightsecret")
    try:
        store.head_bucket(Bucket="mlflow")
    except (BotoCoreError, ClientError) as error:
        raise OSError(error) from error


def new_seaweedfs(folder: pathlib.Path) -> tuple[list, dict, dict]:
    """An S3 store with the bucket mlflow: its command, options of ``running``, and of a client."""
    ports = {name: free_port() for name in ("s3.port", "master.port", "volume.port", "filer.port", "admin.port")}
    grpc = {f"{name}.grpc": free_port() for name in ports}
    command = [BIN / "weed", "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-bucket=mlflow",
               "-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0",
               *(f"-{n}={p}" for n, p in {**ports, **grpc}.items())]
    environment = {**os.environ, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "rightsecret"}
    return command, {"cwd": folder, "env": environment}, {
        "type": "s3", "url": f"http://127.0.0.1:{ports['s3.port']}", "region": "us-east-1", "bucket": "mlflow",
        "access_key": "key", "secret_key": "rightsecret", "size_mb": 1}


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory):
    """Options of an S3 store with the bucket mlflow."""
    folder = tmp_path_factory.mktemp("seaweedfs")
    command, options, client = new_seaweedfs(folder)
    with running(command, lambda: has_bucket(client["url"]), folder / "log", **options):
        yield client


@pytest.fixture(scope="session")
def moto(tmp_path_factory):
    """URL of a stand-in for AWS, with S3 and KMS; it looks at no key."""
    folder, port = tmp_path_factory.mktemp("moto"), free_port()
    with running([BIN / "moto_server", "--host=127.0.0.1", f"--port={port}"], answers(port), folder / "log",
                 cwd=folder):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="session")
def gcs(tmp_path_factory):
    """URL of a stand-in for Google Cloud Storage with the bucket mlflow; it knows no credentials, and no rule of it
    ever runs."""
    folder, port = tmp_path_factory.mktemp("gcs"), free_port()
    with running([BIN / "gcp-storage-emulator", "start", "--host=127.0.0.1", f"--port={port}", "--in-memory",
                  "--default-bucket=mlflow"],
                 answers(port), folder / "log", cwd=folder):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="session")
def azure(tmp_path_factory):
    """Connection string of Azurite, Azure's own emulator, with the container mlflow."""
    folder, port = tmp_path_factory.mktemp("azurite"), free_port()
    if not AZURITE.exists():
        pytest.fail(f"{AZURITE} is not here; make .cache/azurite/.installed brings it")
    key = base64.b64encode(b"right").decode()
    connection = (f"DefaultEndpointsProtocol=http;AccountName=mlops;AccountKey={key};"
                  f"BlobEndpoint=http://127.0.0.1:{port}/mlops;")
    with running([BIN / "node", AZURITE, "--blobHost", "127.0.0.1", "--blobPort", port, "--inMemoryPersistence",
                  "--disableTelemetry",
                  "--skipApiVersionCheck", "--silent"], answers(port), folder / "log", cwd=folder,
                 env={**os.environ, "AZURITE_ACCOUNTS": f"mlops:{key}"}):
        BlobServiceClient.from_connection_string(connection).create_container("mlflow")
        yield connection


@contextlib.contextmanager
def mlflow_running(folder: pathlib.Path, *options: str, prefix: str = "", scheme: str = "http", **environment: str):
    """URL of an MLflow server on SQLite, with its prefix; of its certificate nothing is checked."""
    port = free_port()
    url = f"{scheme}://127.0.0.1:{port}{prefix}"
    unverified = ssl._create_unverified_context() if scheme == "https" else None
    with running([BIN / "mlflow", "server", "--host=127.0.0.1", f"--port={port}", "--workers=1",
                  f"--backend-store-uri=sqlite:///{folder}/mlflow.db",
                  f"--artifacts-destination={folder}/artifacts", *options],
                 lambda: urllib.request.urlopen(url + "/health", timeout=2, context=unverified).close(),
                 folder / "log", cwd=folder,
                 env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true",
                      "PATH": f"{BIN}:{os.environ['PATH']}", **environment}):
        yield url


@contextlib.contextmanager
def mlflow_with_users(folder: pathlib.Path, *options: str, more_ini: str = "", **environment: str):
    """Login options of the administrator of an MLflow server with basic authentication."""
    (folder / "auth.ini").write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{folder}/auth.db\nauth_cache_ttl_seconds = "
        f"60\n{more_ini}")
    with mlflow_running(folder, "--app-name=basic-auth", *options, MLFLOW_AUTH_CONFIG_PATH=str(folder / "auth.ini"),
                        MLFLOW_FLASK_SERVER_SECRET_KEY="static",
                        MLFLOW_AUTH_ADMIN_USERNAME="chief", MLFLOW_AUTH_ADMIN_PASSWORD="not-the-default-one",
                        MLFLOW_CRYPTO_KEK_PASSPHRASE="passphrase-of-the-gateway-secrets", **environment) as url:
        yield {"url": url, "login_username": "chief", "login_password": "not-the-default-one"}


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory):
    """URL of an MLflow server, and its database's path."""
    folder = tmp_path_factory.mktemp("mlflow")
    with mlflow_running(folder) as url:
        yield url, folder / "mlflow.db"


@pytest.fixture(scope="session")
def mlflow_auth_server(tmp_path_factory):
    """Login options of the administrator of an MLflow server that asks for a user and password."""
    with mlflow_with_users(tmp_path_factory.mktemp("mlflow-auth")) as login:
        yield login


@pytest.fixture(scope="session")
def mlflow_proxied_server(tmp_path_factory):
    """The same behind a proxy that names the user, with the files that the role gives the server, below a path."""
    with mlflow_with_users(
            tmp_path_factory.mktemp("mlflow-proxied"), "--static-prefix=/team", prefix="/team",
            more_ini="authorization_function = proxy_login:login\n",
            PYTHONPATH=str(ROLE_FILES), AUTH_PROXY_HEADER="X-Auth-Request-Email",
            AUTH_PROXY_SECRET="only-the-proxy-has-it",
            AUTH_PROXY_ADMINS="boss@example.com,founder@example.com",
            AUTH_PROXY_GROUPS_HEADER="X-Auth-Request-Groups", AUTH_PROXY_ADMIN_GROUPS="ml-admins,ops",
            _MLFLOW_INTERNAL_GATEWAY_AUTH_TOKEN="of-the-server-for-its-jobs") as login:
        yield login
