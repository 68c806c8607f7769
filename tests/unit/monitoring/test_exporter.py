# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The exporter as it runs in its pod, on real databases, stores and servers with known contents."""

from __future__ import annotations

import ast
import contextlib
import datetime
import json
import os
import pathlib
import secrets
import signal
import socket
import subprocess
import time

import mlflow
import psycopg
import pymysql
import pytest
from ansible_collections.mlops.mlflow.plugins.module_utils import stores
from ansible_collections.mlops.mlflow.plugins.module_utils.checks import measure
from ansible_collections.mlops.mlflow.plugins.module_utils.probes import database as databases
from exporters import (
    FILES,
    KNOWN,
    Restartable,
    backup_sets,
    collectors,
    environment_of,
    exporting,
    fill,
    presenting,
    self_signed,
    unit,
    uri_of,
    value,
)

seaweedfs, gcs, azure, mlflow_server = unit.seaweedfs, unit.gcs, unit.azure, unit.mlflow_server
mlflow_auth_server = unit.mlflow_auth_server
OFTEN = {f"MLOPS_EXPORTER_{name}": text for name, text in {
    "DATABASE_INTERVAL": "0.5", "DATABASE_TIMEOUT": "3", "COUNTS_INTERVAL": "0.5", "COUNTS_TIMEOUT": "3",
    "SPARING": "1", "ROUND_TRIP_INTERVAL": "0.5", "BACKUPS_INTERVAL": "0.5"}.items()}
READERS = {
    "postgresql": ("CREATE ROLE reader LOGIN PASSWORD 'reads' CONNECTION LIMIT 5",
                   "GRANT pg_monitor, pg_read_all_data TO reader",
                   "ALTER ROLE reader SET default_transaction_read_only = on"),
    "mysql": ("CREATE USER reader@localhost IDENTIFIED BY 'reads' WITH MAX_USER_CONNECTIONS 5",
              "GRANT SELECT ON mlflow.* TO reader@localhost"),
}
"""What docs/monitoring.md says that creates a login that may only read."""


@pytest.fixture(scope="module")
def postgresql(tmp_path_factory):
    folder = tmp_path_factory.mktemp("postgresql")
    server = Restartable(*unit.new_postgresql(folder), folder)
    server.start()
    fill(server.client, tmp_path_factory.mktemp("filled"), uri_of(server.client))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def mariadb(tmp_path_factory):
    """Without users, since MLflow cannot make their tables in it."""
    folder = tmp_path_factory.mktemp("mariadb")
    server = Restartable(*unit.new_mariadb(folder), folder)
    server.start()
    fill(server.client, tmp_path_factory.mktemp("filled"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sqlite")
    found = {"dialect": "sqlite", "path": f"{folder}/mlflow.db"}
    fill(found, folder, f"sqlite:///{folder}/users.db")
    return found


@pytest.fixture(params=["postgresql", "mariadb"])
def server(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def database(request):
    found = request.getfixturevalue(request.param)
    return found if request.param == "sqlite" else found.client


def connected(options, **changes):
    client = databases.database_of({**options, **changes})
    client.connect()
    return client


# The database


def test_known_contents_are_found_exactly(database, tmp_path):
    with exporting(tmp_path, **environment_of(database)) as exporter:
        found = exporter.collected("database", "counts")
        assert {name: found[name] for name in KNOWN} == KNOWN
        assert found.get("mlflow_users") == (None if database["dialect"] == "mysql" else {(): 3})
        assert value(found, "mlflow_database_up") == 1
        assert value(found, "mlflow_database_size_bytes") > 100_000
        assert value(found, "mlflow_schema_current") == 1
        revision = databases.wanted_revision()
        assert value(found, "mlflow_schema_info", found=revision, wanted=revision) == 1
        queries = {dict(labels)["query"] for labels in found["mlflow_database_query_duration_seconds"]}
        assert {"connect", "ping", "runs", "model_versions"} <= queries
        if database["dialect"] != "sqlite":
            used, allowed = (value(found, f"mlflow_database_connections_{which}") for which in ("used", "allowed"))
            assert 1 <= used < allowed
        promtool = unit.program("promtool", package="prometheus")
        checked = subprocess.run([promtool, "check", "metrics"], input=exporter.text, capture_output=True, text=True,
                                 check=False)
        assert not checked.returncode and not checked.stderr, checked.stderr


def test_an_old_schema_is_told(database, tmp_path):
    client = connected(database)
    client.query("UPDATE alembic_version SET version_num = '728d730b5ebd'")
    with exporting(tmp_path, **environment_of(database)) as exporter:
        found = exporter.collected("database")
    client.query(f"UPDATE alembic_version SET version_num = '{databases.wanted_revision()}'")
    assert value(found, "mlflow_schema_current") == 0
    assert value(found, "mlflow_schema_info", found="728d730b5ebd", wanted=databases.wanted_revision()) == 1


def test_a_database_that_stops_and_comes_back(server, tmp_path):
    with exporting(tmp_path, **environment_of(server.client), **OFTEN) as exporter:
        exporter.collected("database", "counts")
        server.stop()
        found = exporter.collected("database", "counts", success=0)
        assert value(found, "mlflow_database_up") == 0
        gone = {"mlflow_runs", "mlflow_experiments", "mlflow_database_size_bytes", "mlflow_schema_current"}
        assert not gone & set(found), "values of before are exported while the database is down"
        server.start()
        found = exporter.collected("database", "counts")
        assert value(found, "mlflow_database_up") == 1
        assert found["mlflow_runs"] == KNOWN["mlflow_runs"]
    assert "works again" in (tmp_path / "exporter.log").read_text()


def test_a_database_that_hangs(server, tmp_path):
    """Its process is stopped, so that connections are accepted and nothing is answered."""
    with exporting(tmp_path, **environment_of(server.client), **OFTEN) as exporter:
        exporter.collected("database", "counts")
        os.kill(server.process.pid, signal.SIGSTOP)
        try:
            found = exporter.collected("database", "counts", success=0)
            assert value(found, "mlflow_database_up") == 0
            assert "mlflow_runs" not in found
        finally:
            os.kill(server.process.pid, signal.SIGCONT)
        exporter.collected("database", "counts")
    assert exporter.slowest < 1


def test_a_table_that_is_locked(server, tmp_path):
    """What can be counted nevertheless is exported, and the server itself has ended the query that waited."""
    if server.client["dialect"] == "postgresql":
        lock = psycopg.connect(uri_of(server.client).replace("+psycopg", ""))
        statement, still = "LOCK TABLE runs", "SELECT count(*) FROM pg_locks WHERE NOT granted"
    else:
        lock = pymysql.connect(**{name: server.client[name] for name in ("host", "port", "user", "password",
                                                                         "database")})
        statement, still = ("LOCK TABLES runs WRITE", "SELECT count(*) FROM information_schema.processlist "
                                                      "WHERE state LIKE 'Waiting for table%'")
    with lock, exporting(tmp_path, **environment_of(server.client), **OFTEN) as exporter:
        exporter.collected("database", "counts")
        lock.cursor().execute(statement)
        found = exporter.collected("counts", success=0)
        assert "mlflow_runs" not in found and value(found, "mlflow_database_up") == 1
        assert found["mlflow_experiments"] == KNOWN["mlflow_experiments"]
        exporter.process.terminate()
        exporter.process.wait(10)
        client = connected(server.client)
        deadline = time.monotonic() + 10
        while client.query(still)[0][0]:
            assert time.monotonic() < deadline, "the query still waits after its statement timeout"
            time.sleep(0.2)


def test_a_login_that_may_only_read(server, tmp_path):
    options = server.client
    client = connected(options)
    for statement in READERS[options["dialect"]]:
        client.query(statement)
    login = {"MLOPS_EXPORTER_DATABASE_USER": "reader", "MLOPS_EXPORTER_DATABASE_PASSWORD": "reads"}
    others = [connected(options) for _number in range(3)]
    with exporting(tmp_path, **{**environment_of(options), **login}) as exporter:
        found = exporter.collected("database", "counts")
        assert {name: found[name] for name in KNOWN} == KNOWN
        assert value(found, "mlflow_database_connections_used") >= 1 + len(others), "connections of others count, too"
    with pytest.raises(Exception, match="(?i)denied|read-only"):
        connected(options, user="reader", password="reads").query("UPDATE runs SET name = 'changed'")


def test_a_login_that_is_refused_leaves_that_of_the_server(server, tmp_path):
    login = {"MLOPS_EXPORTER_DATABASE_USER": "gone", "MLOPS_EXPORTER_DATABASE_PASSWORD": "Sentinel"}
    with exporting(tmp_path, **{**environment_of(server.client), **login, **OFTEN}) as exporter:
        found = exporter.collected("database", "counts")
        assert {name: found[name] for name in KNOWN} == KNOWN
        time.sleep(1)
        log = (tmp_path / "exporter.log").read_text()
        assert log.count("database: the login gone cannot be used, and that of the server is used instead") == 1
        assert "Sentinel" not in log
        server.stop()
        exporter.await_(lambda found: value(found, "mlflow_database_up") == 0)
        server.start()
        exporter.collected("database")


def test_nothing_can_be_written(database):
    client = connected(database, read_only=True, statement_timeout=5)
    with pytest.raises(Exception, match="(?i)read.?only"):
        client.query("UPDATE runs SET name = 'changed'")
    assert client.query("SELECT count(*) FROM runs WHERE name = 'changed'")[0][0] == 0


def test_a_query_that_takes_too_long_is_ended_by_the_server(server):
    sleep = {"postgresql": "SELECT pg_sleep(20)", "mysql": "SELECT sleep(20)"}[server.client["dialect"]]
    client, begun = connected(server.client, read_only=True, statement_timeout=1), time.monotonic()
    with pytest.raises(Exception, match="timeout|max_statement_time"):
        client.query(sleep)
    assert time.monotonic() - begun < 5


def test_nothing_is_left_set_for_the_next_user_of_a_pooled_connection(postgresql):
    client = connected(postgresql.client, read_only=True, statement_timeout=1)
    client.query("SELECT 1")
    assert client.execute("SHOW statement_timeout") == [("0",)]
    assert client.execute("SHOW transaction_read_only") == [("off",)]


def test_a_missing_sqlite_file(tmp_path):
    with exporting(tmp_path, MLFLOW_BACKEND_STORE_URI=f"sqlite:///{tmp_path}/none.db") as exporter:
        found = exporter.collected("database", "counts", success=0)
    assert value(found, "mlflow_database_up") == 0
    assert not (tmp_path / "none.db").exists()


def test_another_kind_of_database_is_named(tmp_path):
    with exporting(tmp_path, MLFLOW_BACKEND_STORE_URI="mssql+pyodbc://host/mlflow") as exporter:
        exporter.collected("database", success=0)
    assert "The database is mssql; postgresql, mysql, sqlite are known here." in (
        tmp_path / "exporter.log").read_text()


# The artifact store


def s3_environment(options, destination):
    return {"MLFLOW_S3_ENDPOINT_URL": options["url"], "AWS_ACCESS_KEY_ID": options["access_key"],
            "AWS_SECRET_ACCESS_KEY": options["secret_key"], "AWS_DEFAULT_REGION": options["region"],
            "MLFLOW_ARTIFACTS_DESTINATION": f"s3://{options['bucket']}/{destination}"}


def test_objects_of_a_bucket(seaweedfs, tmp_path):
    other = stores.open_store({**seaweedfs, "prefix": "counted-not"})
    other.write("1/a", b"not counted")
    store = stores.open_store({**seaweedfs, "prefix": "counted"})
    for index in range(7):
        store.write(f"{index % 2}/run{index}/artifacts/model", b"x" * (100 + index))
    store.write(".mlops-mlflow-probe-left", b"of a probe")
    with exporting(tmp_path, **s3_environment(seaweedfs, "counted")) as exporter:
        found = exporter.collected("object_store", "artifacts")
    assert value(found, "mlflow_artifacts_stored") == 7
    assert value(found, "mlflow_artifacts_bytes") == 721
    assert value(found, "mlflow_artifacts_counted_fraction") == 1
    assert value(found, "mlflow_object_store_up") == 1
    assert 0 < value(found, "mlflow_object_store_read_seconds") < 5
    assert 0 < value(found, "mlflow_object_store_write_seconds") < 5
    left = [name for name in store.names() if name.startswith(".mlops")]
    assert left == [".mlops-mlflow-probe-left"], "the exporter's object is deleted"


@pytest.mark.parametrize("changes, words", [
    ({"secret_key": "wrongsecret"}, "is denied"), ({"url": "http://127.0.0.1:9"}, "cannot be reached"),
])
def test_a_bucket_that_does_not_work(seaweedfs, tmp_path, changes, words):
    with exporting(tmp_path, **s3_environment({**seaweedfs, **changes}, "x")) as exporter:
        found = exporter.collected("object_store", "artifacts", success=0)
    assert value(found, "mlflow_object_store_up") == 0
    assert not {"mlflow_object_store_read_seconds", "mlflow_artifacts_stored"} & set(found)
    assert words in (tmp_path / "exporter.log").read_text()


def test_a_store_that_hangs(tmp_path):
    """It accepts connections and never answers; everything else is exported in the meantime."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        options = {"url": f"http://127.0.0.1:{silent.getsockname()[1]}", "access_key": "k", "secret_key": "s",
                   "region": "r", "bucket": "b"}
        with exporting(tmp_path, **s3_environment(options, "x"), MLOPS_EXPORTER_OBJECT_STORE_TIMEOUT="2",
                       MLOPS_EXPORTER_VOLUMES=f"here={tmp_path}", MLOPS_EXPORTER_VOLUMES_INTERVAL="0.2") as exporter:
            exporter.collected("volumes")
            found = exporter.collected("object_store", success=0)
            assert value(found, "mlflow_object_store_up") == 0
    assert "object_store: it did not end within 2 s" in (tmp_path / "exporter.log").read_text()


@pytest.fixture(params=["s3", "gcs", "azure", "volume"])
def store(request, tmp_path, monkeypatch):
    """An empty store of each kind, below a path."""
    prefix = f"store-{secrets.token_hex(4)}"
    if request.param == "s3":
        return stores.open_store({**request.getfixturevalue("seaweedfs"), "prefix": prefix})
    if request.param == "gcs":
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", request.getfixturevalue("gcs"))
        return stores.open_store({"type": "gcs", "bucket": "mlflow", "prefix": prefix})
    if request.param == "azure":
        return stores.open_store({"type": "azure", "bucket": "mlflow", "prefix": prefix,
                                  "connection_string": request.getfixturevalue("azure")})
    return stores.open_store({"type": "volume", "path": str(tmp_path)})


def test_listing_a_store(store):
    for name, length in (("1/aa/m", 3), ("1/ab/m", 4), ("1/ab/n", 5), ("2/aa/m", 6), ("top", 7)):
        store.write(name, b"x" * length)
    assert sorted(store.sizes()) == [("1/aa/m", 3), ("1/ab/m", 4), ("1/ab/n", 5), ("2/aa/m", 6), ("top", 7)]
    assert sorted(store.sizes("1/ab")) == [("1/ab/m", 4), ("1/ab/n", 5)]
    assert sorted(store.sizes("1/a")) == [("1/aa/m", 3), ("1/ab/m", 4), ("1/ab/n", 5)]
    assert list(store.sizes("3/")) == [] == list(store.folders("3/"))
    assert sorted(store.folders()) == ["1/", "2/"]
    assert sorted(store.folders("1/")) == ["1/aa/", "1/ab/"]


def test_a_bucket_of_many_pages(seaweedfs):
    store = stores.open_store({**seaweedfs, "prefix": "pages"})
    client = store.client
    for index in range(1203):
        client.put_object(Bucket=store.bucket, Key=f"pages/{index:04}/x", Body=b"12")
    assert sum(length for _name, length in store.sizes()) == 2406
    assert len(set(store.folders())) == 1203


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """20,000 files of runs, models and traces, as MLflow lays them out, the experiments of different sizes, one of them
    in a workspace of its own."""
    folder = tmp_path_factory.mktemp("many")
    owners = {"1": 3000, "2": 300, "3": 30, "workspaces/team/4": 1000}
    for experiment, number in owners.items():
        for index in range(number):
            for owner in ("", "models/m-", "traces/tr-"):
                path = folder / experiment / f"{owner}{secrets.token_hex(16)}" / "artifacts"
                path.mkdir(parents=True)
                (path / "a").write_bytes(b"x" * (50 + index % 100))
                if not owner:
                    (path / "b").write_bytes(b"")
    return folder


def test_a_sample_of_a_large_store(many, tmp_path):
    objects, size = 0, 0
    for file in many.rglob("*"):
        objects += file.is_file()
        size += file.stat().st_size if file.is_file() else 0
    with exporting(tmp_path, MLFLOW_ARTIFACTS_DESTINATION=str(many),
                   MLOPS_EXPORTER_ARTIFACTS_MOST="5000") as exporter:
        found = exporter.collected("artifacts")
    assert value(found, "mlflow_artifacts_counted_fraction") == 1 / 16
    # A sample of 1/16 of 12,990 runs, models and traces has a standard deviation of less than 4 %.
    assert value(found, "mlflow_artifacts_stored") == pytest.approx(objects, rel=0.25)
    assert value(found, "mlflow_artifacts_bytes") == pytest.approx(size, rel=0.25)


def test_samples_are_right_on_average(many):
    """The mean of many samples, which a wrong fraction or a kind that is left out would shift."""
    store = stores.open_store({"type": "volume", "path": str(many)})
    exact = collectors.measured(store, 10**6)
    assert exact[2] == 1
    estimates = [objects / fraction for objects, _size, fraction in
                 (collectors.measured(store, 600) for _sample in range(30))]
    assert sum(estimates) / len(estimates) == pytest.approx(exact[0], rel=0.1)


# The round trip


def test_round_trips_leave_one_of_each(mlflow_server, tmp_path):
    url, database_path = mlflow_server
    with exporting(tmp_path, MLFLOW_TRACKING_URI=url, MLFLOW_BACKEND_STORE_URI=f"sqlite:///{database_path}",
                   **OFTEN) as exporter:
        first = value(exporter.collected("round_trip"), "mlflow_round_trip_last_timestamp_seconds")
        found = exporter.await_(lambda scrape: value(scrape, "mlflow_round_trip_last_timestamp_seconds") > first)
        found = exporter.collected("round_trip", "counts")
        assert value(found, "mlflow_round_trip_success") == 1
        assert 0 < value(found, "mlflow_round_trip_duration_seconds") < 60
        assert abs(value(found, "mlflow_round_trip_last_timestamp_seconds") - time.time()) < 60
        assert value(found, "mlflow_experiments", stage="active") == 1, "Default, and not the round trip's"
        assert sum(found["mlflow_runs"].values()) == value(found, "mlflow_registered_models") == 0
    client = mlflow.MlflowClient(url, url)
    (experiment,) = client.search_experiments(filter_string="name LIKE 'mlops%'", view_type=3)
    (run,) = client.search_runs([experiment.experiment_id], run_view_type=3)
    assert [model.name for model in client.search_registered_models()] == ["mlops-mlflow-probe-periodic"]
    assert not client.list_artifacts(run.info.run_id)


def test_round_trips_after_users_deleted_what_the_last_one_left(mlflow_server):
    url = mlflow_server[0]
    assert measure("roundtrip", {"url": url, "periodic": True})["healthy"]
    client = mlflow.MlflowClient(url, url)
    experiment = client.get_experiment_by_name("mlops-mlflow-probe-periodic").experiment_id
    for change in (lambda: client.delete_run(client.search_runs([experiment])[0].info.run_id),
                   lambda: client.delete_experiment(experiment),
                   lambda: client.delete_registered_model("mlops-mlflow-probe-periodic")):
        change()
        report = measure("roundtrip", {"url": url, "periodic": True})
        assert report["healthy"], report["failures"]


def test_a_round_trip_with_a_login(mlflow_auth_server, tmp_path):
    login = {"MLFLOW_TRACKING_USERNAME": mlflow_auth_server["login_username"],
             "MLFLOW_TRACKING_PASSWORD": mlflow_auth_server["login_password"]}
    with exporting(tmp_path, MLFLOW_TRACKING_URI=mlflow_auth_server["url"], **OFTEN, **login) as exporter:
        assert value(exporter.collected("round_trip"), "mlflow_round_trip_success") == 1
    with exporting(tmp_path, MLFLOW_TRACKING_URI=mlflow_auth_server["url"], **OFTEN,
                   **{**login, "MLFLOW_TRACKING_PASSWORD": "wrong"}) as exporter:
        assert value(exporter.collected("round_trip", success=0), "mlflow_round_trip_success") == 0
    assert "answers 401" in (tmp_path / "exporter.log").read_text()


# Certificates, volumes, backups


def test_certificates(tmp_path):
    """One that is valid, one that has expired, a host that does not answer; none of their CAs is known."""
    now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    names = {"a.example.com": now + datetime.timedelta(days=5), "b.example.com": now - datetime.timedelta(days=3)}
    with presenting(tmp_path, names) as port, exporting(
            tmp_path, MLOPS_EXPORTER_CERTIFICATES=f"a.example.com@127.0.0.1:{port}, b.example.com:{port}@127.0.0.1,"
                                                  "127.0.0.1:9") as exporter:
        found = exporter.collected("certificates", success=0)
    assert found["mlflow_certificate_expiry_timestamp_seconds"] == {
        (("host", "a.example.com"),): names["a.example.com"].timestamp(),
        (("host", f"b.example.com:{port}"),): names["b.example.com"].timestamp()}
    assert "the certificate of 127.0.0.1:9 cannot be read" in (tmp_path / "exporter.log").read_text()


def test_certificates_of_files_and_databases(tmp_path):
    """The certificate of an ingress is a file, which is renewed; databases are asked for theirs by their protocols."""
    now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    expiry = {"a.example.com": now + datetime.timedelta(days=5), "b.example.com": now + datetime.timedelta(days=90)}
    with contextlib.ExitStack() as stack:
        pem, other = (self_signed(tmp_path, name, when) for name, when in expiry.items())
        found = {}
        for name, make in (("postgresql", unit.new_postgresql), ("mysql", unit.new_mariadb)):
            folder = tmp_path / name
            folder.mkdir()
            settings = (["-c", "ssl=on", "-c", f"ssl_cert_file={folder}/pem", "-c", f"ssl_key_file={folder}/pem"]
                        if name == "postgresql" else [f"--ssl-cert={folder}/pem", f"--ssl-key={folder}/pem"])
            command, options, client = make(folder, *settings)
            (folder / "pem").write_bytes(pem.read_bytes())
            (folder / "pem").chmod(0o600)
            if "user" in options:
                os.chown(folder / "pem", options["user"], options["group"])
            stack.enter_context(unit.running(command, unit.answers(client["port"]), folder / "log", **options))
            found[name] = client["port"]
        without = {}
        for name, make in (("postgresql", unit.new_postgresql), ("mysql", unit.new_mariadb)):
            folder = tmp_path / f"{name}-plain"
            folder.mkdir()
            command, options, client = make(folder, *([] if name == "postgresql" else ["--skip-ssl"]))
            stack.enter_context(unit.running(command, unit.answers(client["port"]), folder / "log", **options))
            without[name] = client["port"]
        hosts = [f"{name}://127.0.0.1:{port}" for name, port in {**found}.items()]
        hosts += [f"{name}://127.0.0.1:{port}" for name, port in without.items()]
        with exporting(tmp_path, MLOPS_EXPORTER_CERTIFICATES=",".join([f"c.example.com@{other}", *hosts]),
                       MLOPS_EXPORTER_CERTIFICATES_INTERVAL="0.5") as exporter:
            families = exporter.collected("certificates", success=0)
            log = (tmp_path / "exporter.log").read_text()
            other.write_bytes(pem.read_bytes())
            renewed = exporter.await_(lambda found: value(
                found, "mlflow_certificate_expiry_timestamp_seconds", host="c.example.com"
            ) == expiry["a.example.com"].timestamp())
    end = expiry["a.example.com"].timestamp()
    databases_of = {(("host", f"127.0.0.1:{port}"),): end for port in found.values()}
    assert families["mlflow_certificate_expiry_timestamp_seconds"] == {
        (("host", "c.example.com"),): expiry["b.example.com"].timestamp(), **databases_of}
    assert renewed["mlflow_certificate_expiry_timestamp_seconds"] == {(("host", "c.example.com"),): end, **databases_of}
    assert log.count("the server has no TLS") == 2


def test_volumes(tmp_path):
    with exporting(tmp_path, MLOPS_EXPORTER_VOLUMES=f"here={tmp_path},gone=/no/such/folder") as exporter:
        found = exporter.collected("volumes", success=0)
    size = os.statvfs(tmp_path)
    assert found["mlflow_volume_size_bytes"] == {(("volume", "here"),): size.f_blocks * size.f_frsize}
    free = pytest.approx(size.f_bavail * size.f_frsize, rel=0.1)
    assert value(found, "mlflow_volume_free_bytes", volume="here") == free


@pytest.mark.parametrize("where", ["file", "s3"])
def test_backups(where, seaweedfs, tmp_path):
    """What the role that makes backups records, by its own code, in the store that it gives the exporter, too."""
    store = {"type": "volume", "path": f"{tmp_path}/sets"} if where == "file" else {**seaweedfs, "prefix": "sets"}
    credentials = {f"BACKUP_{key.upper()}": store.pop(key) for key in ("access_key", "secret_key") if key in store}
    with exporting(tmp_path, BACKUP_STORE=json.dumps(store), MLOPS_EXPORTER_BACKUP_EXPECTED_INTERVAL="86400",
                   MLOPS_EXPORTER_BACKUP_LAST_BASE=str(tmp_path / "last-backup"), **credentials, **OFTEN) as exporter:
        found = exporter.collected("backups")
        assert not [name for name in found if name.startswith("mlflow_backup_last")], "there is no backup yet"
        assert value(found, "mlflow_backup_expected_interval_seconds") == 86400
        sets = backup_sets(store, credentials)
        sets.status(last_verified=1690000000)
        sets.status(last=1700000000)
        found = exporter.await_(lambda scrape: "mlflow_backup_last_timestamp_seconds" in scrape)
        assert value(found, "mlflow_backup_last_timestamp_seconds") == 1700000000
        assert value(found, "mlflow_backup_last_verified_timestamp_seconds") == 1690000000
        assert "mlflow_backup_last_failed_timestamp_seconds" not in found
        sets.status(last_failed=1710000000)
        exporter.await_(lambda scrape: value(scrape, "mlflow_backup_last_failed_timestamp_seconds") == 1710000000)
        assert "mlflow_backup_last_base_timestamp_seconds" not in found
        (tmp_path / "last-backup").touch()
        os.utime(tmp_path / "last-backup", (1720000000, 1720000000))
        exporter.await_(lambda scrape: value(scrape, "mlflow_backup_last_base_timestamp_seconds") == 1720000000)
        sets.store.write("status.json", b"{")
        found = exporter.collected("backups", success=0)
        assert value(found, "mlflow_backup_last_base_timestamp_seconds") == 1720000000


# The exporter itself


def test_nothing_to_collect(tmp_path):
    """Nothing is configured, and nothing is exported; a collector of interval 0 is off."""
    with exporting(tmp_path) as exporter:
        assert exporter.scrape() == {}
    with exporting(tmp_path, MLFLOW_BACKEND_STORE_URI=f"sqlite:///{tmp_path}/x.db",
                   MLOPS_EXPORTER_COUNTS_INTERVAL="0") as exporter:
        found = exporter.collected("database", success=0)
        time.sleep(2)
        found = exporter.scrape()
    assert list(found["mlflow_exporter_collection_success"]) == [(("collector", "database"),)]


@pytest.mark.parametrize("variable", ["MLOPS_EXPORTER_PORT", "MLOPS_EXPORTER_DATABASE_INTERVAL"])
def test_a_number_that_is_none(variable, tmp_path):
    done = subprocess.run([unit.sys.executable, FILES / "exporter.py"], capture_output=True, text=True, timeout=30,
                          check=False, env={variable: "-1"})
    assert done.returncode == 1 and f"{variable} is '-1'" in done.stderr


def test_paths_besides_metrics(tmp_path):
    with exporting(tmp_path) as exporter:
        assert unit.urllib.request.urlopen(exporter.url.replace("/metrics", "/-/healthy")).read() == b"healthy\n"
        with pytest.raises(unit.urllib.request.HTTPError, match="404"):
            unit.urllib.request.urlopen(exporter.url.replace("/metrics", "/"))


def test_labels_are_escaped(tmp_path):
    with exporting(tmp_path, MLOPS_EXPORTER_VOLUMES=f'a"b\\c\nd={tmp_path}') as exporter:
        assert list(exporter.collected("volumes")["mlflow_volume_size_bytes"]) == [(("volume", r'a\"b\\c\nd'),)]


def test_a_slow_collector_waits_longer():
    counts = next(known for known in collectors.COLLECTORS if known.name == "counts")
    assert counts.pause(0.1) == 60
    assert counts.pause(3) == 300


def test_a_collector_that_failed_starts_again_soon():
    known = {collector.name: collector for collector in collectors.COLLECTORS}
    assert known["database"].pause(0, failed_after=10) == 30
    assert known["certificates"].pause(0, failed_after=30) == 300
    assert known["artifacts"].pause(0, failed_after=1) == 300
    # What was killed after its timeout would take most of the time of the store.
    assert known["artifacts"].pause(0, failed_after=600) == 3600


def runs(process):
    """Whether a process has not ended; what ended stays listed until its parent has looked."""
    try:
        return pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_it_ends_at_once_and_takes_its_collectors_along(postgresql, tmp_path):
    with exporting(tmp_path, **environment_of(postgresql.client), **OFTEN) as exporter:
        exporter.collected("database", "counts")
        os.kill(postgresql.process.pid, signal.SIGSTOP)
        try:
            time.sleep(1)
            children = pathlib.Path(f"/proc/{exporter.process.pid}/task").glob("*/children")
            collecting = [int(child) for file in children for child in file.read_text().split()]
            assert collecting
            exporter.process.terminate()
            assert exporter.process.wait(3) == 0
            time.sleep(0.5)
            assert not [child for child in collecting if runs(child)]
        finally:
            os.kill(postgresql.process.pid, signal.SIGCONT)


def test_memory_at_rest(sqlite, tmp_path):
    """The server of metrics alone is there between collections."""
    with exporting(tmp_path, **environment_of(sqlite)) as exporter:
        exporter.collected("database", "counts")
        (resident,) = [line for line in pathlib.Path(f"/proc/{exporter.process.pid}/status").read_text().splitlines()
                       if line.startswith("VmRSS")]
    assert int(resident.split()[1]) < 40 * 1024, resident


@pytest.mark.parametrize("file", [*sorted(FILES.glob("*.py"))], ids=lambda file: file.name)
def test_the_oldest_python_reads_it(file):
    ast.parse(file.read_text(), feature_version=(3, 9))
