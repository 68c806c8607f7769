# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""prepare.py and hook_logins.py with a database's whole URI, and with an S3 store whose certificate nobody verifies."""

from __future__ import annotations

import os
import pathlib
import shutil
import socket
import ssl
import subprocess
import sys
import threading

import pytest
from ansible_collections.mlops.mlflow.plugins.module_utils.probes import database

ROOT = pathlib.Path(__file__).parents[3]
FILES = ROOT / "roles/mlflow_server/files"


@pytest.fixture(scope="module")
def server_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("etc-mlflow")
    for path in (FILES / "prepare.py", ROOT / "plugins/module_utils/stores.py"):
        shutil.copy(path, folder)
    return folder


def prepare(folder, *steps, **environment):
    """Run steps as a pod of the server does, for at most a second each."""
    environment = {**os.environ, "MLFLOW_BACKEND_STORE_URI": "sqlite://", "MLFLOW_ARTIFACTS_DESTINATION": "/nowhere",
                   "PREPARE_TIMEOUT": "1", **environment}
    return subprocess.run([sys.executable, folder / "prepare.py", *steps], env=environment, capture_output=True,
                          text=True, check=False, timeout=60)


def test_the_login_of_a_uri_comes_before_that_of_the_environment(server_files, postgresql):
    place = f"{postgresql['host']}:{postgresql['port']}/{postgresql['database']}"
    uri = f"postgresql+psycopg://{postgresql['user']}:{postgresql['password']}@{place}"
    others = {"PGUSER": "nobody", "PGPASSWORD": "wrong"}
    done = prepare(server_files, "database", MLFLOW_BACKEND_STORE_URI=uri, **others)
    assert done.returncode == 0, done.stderr
    found = database.from_environment({"MLFLOW_BACKEND_STORE_URI": uri, **others})
    assert (found["user"], found["password"]) == (postgresql["user"], postgresql["password"])


def test_drivers_that_know_no_connect_timeout_get_none(server_files, tmp_path):
    """pg8000 raises TypeError for it, as pyodbc and others do; a stand-in has its signature."""
    (tmp_path / "pg8000").mkdir()
    (tmp_path / "pg8000/__init__.py").write_text(
        "import types\nparamstyle, __version__ = 'format', '1.31.2'\n"
        "class Error(Exception): pass\nInterfaceError = DatabaseError = Error\n"
        "def connect(user, host='localhost', database=None, port=5432, password=None):\n"
        "    raise Error(f'connected as {user}')\n"
        "dbapi = types.SimpleNamespace(connect=connect)\n")
    done = prepare(server_files, "database", MLFLOW_BACKEND_STORE_URI="postgresql+pg8000://sa@db/mlflow",
                   PYTHONPATH=str(tmp_path))
    assert "did not answer within 1 s: connected as sa" in done.stderr, done.stderr


def test_a_database_of_another_kind_is_asked_by_sqlalchemy(tmp_path):
    """SQLAlchemy's own dialect stands in for one that is installed with an image, such as mssql+pyodbc."""
    other = database.Other({"uri": f"sqlite:///{tmp_path}/x.db"})
    assert other.connect() == "sqlite"
    assert other.query("CREATE TABLE alembic_version (version_num TEXT)") == []
    assert other.query("SELECT count(*) FROM alembic_version") == [(0,)]


def test_the_database_of_users_follows_the_uri_of_the_environment(tmp_path):
    (tmp_path / "auth.ini").write_text("[mlflow]\ndefault_permission = READ\n")
    script = """
import importlib.util, pathlib, hook_logins, mlflow.environment_variables
path = pathlib.Path(mlflow.__file__).parent / "server/auth/config.py"
spec = importlib.util.spec_from_file_location("mlflow_auth_config", path)
config = importlib.util.module_from_spec(spec)
spec.loader.exec_module(config)
hook_logins.administrator(config)
found = config.read_auth_config()
print(found.database_uri, found.admin_username)
"""
    uri = "postgresql+psycopg2://mlflow%40project:p%25@db/mlflow"
    environment = {**os.environ, "PYTHONPATH": str(FILES), "MLFLOW_AUTH_CONFIG_PATH": str(tmp_path / "auth.ini"),
                   "MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_AUTH_ADMIN_USERNAME": "admin",
                   "MLFLOW_AUTH_ADMIN_PASSWORD": "x" * 12, "MLOPS_MLFLOW_HOOKS": str(tmp_path / "hooks.json")}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == [uri, "admin"], done.stderr


@pytest.fixture
def s3_by_tls(seaweedfs, tmp_path):
    """URL of the store behind TLS, with a certificate that nobody has signed."""
    folder = tmp_path
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                    "-keyout", folder / "key", "-out", folder / "crt", "-days", "1", "-subj", "/CN=other"],
                   check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "crt", folder / "key")
    port = int(seaweedfs["url"].rpartition(":")[2])
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source, target):
        try:
            while data := source.recv(65536):
                target.sendall(data)
        except OSError:
            pass
        finally:
            target.close()

    def serve():
        while True:
            try:
                client = context.wrap_socket(listener.accept()[0], server_side=True)
            except ssl.SSLError:
                continue  # who verifies ends the handshake
            except OSError:
                return
            store = socket.create_connection(("127.0.0.1", port))
            for pair in ((client, store), (store, client)):
                threading.Thread(target=pump, args=pair, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield f"https://127.0.0.1:{listener.getsockname()[1]}"
    listener.close()


def test_the_certificate_of_a_store_is_verified_unless_it_shall_not_be(server_files, seaweedfs, s3_by_tls):
    variables = {"MLFLOW_ARTIFACTS_DESTINATION": "s3://mlflow/", "MLFLOW_S3_ENDPOINT_URL": s3_by_tls,
                 "AWS_ACCESS_KEY_ID": seaweedfs["access_key"], "AWS_SECRET_ACCESS_KEY": seaweedfs["secret_key"],
                 "AWS_DEFAULT_REGION": "us-east-1"}
    done = prepare(server_files, "artifacts", **variables)
    assert done.returncode and "CERTIFICATE_VERIFY_FAILED" in done.stderr, done.stderr
    done = prepare(server_files, "artifacts", MLFLOW_S3_IGNORE_TLS="true", **variables)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("uri", ["abfss://c@account.dfs.core.windows.net/mlflow", "hdfs://namenode:8020/mlflow",
                                 "mlflow-artifacts://other.example.com/"])
def test_artifacts_at_a_uri_that_only_mlflow_knows(server_files, tmp_path, uri):
    done = subprocess.run([sys.executable, server_files / "prepare.py", "artifacts"], cwd=tmp_path, text=True,
                          env={**os.environ, "MLFLOW_BACKEND_STORE_URI": "sqlite://",
                               "MLFLOW_ARTIFACTS_DESTINATION": uri}, capture_output=True, check=False)
    assert done.returncode == 0 and "so only MLflow looks at it" in done.stdout, done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("uri", "settings"), [
    ("postgresql+psycopg2://u%40x:p%25@db:5433/mlflow?sslmode=require&options=-csearch_path%3Da",
     {"DIALECT": "postgresql", "DATABASE": "mlflow", "PGDATABASE": "mlflow", "PGHOST": "db", "PGPORT": 5433,
      "PGSSLMODE": "require", "PGOPTIONS": "-csearch_path=a"}),
    ("mysql+pymysql://u%40x:p%25@db/mlflow", {"DIALECT": "mysql", "DATABASE": "mlflow", "PORT": 3306}),
])
def test_the_programs_of_a_backup_have_the_login_of_a_uri(monkeypatch, uri, settings):
    for folder in ("roles/backup/files", "plugins/module_utils"):
        monkeypatch.syspath_prepend(str(ROOT / folder))
    import databases

    for name in ("PGUSER", "DATABASE_USER"):
        monkeypatch.delenv(name, raising=False)
    variables, _files = databases.open_database(uri).settings("mlflow")
    assert variables == {**settings, "DATABASE_USER": "u@x", "DATABASE_PASSWORD": "p%"}
    monkeypatch.setenv("DATABASE_USER", "of-the-secret")
    assert databases.open_database(uri).settings("mlflow")[0] == settings
