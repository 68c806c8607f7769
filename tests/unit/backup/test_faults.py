# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Faults on purpose, on real servers: each ends with a sentence and the state of before."""

from __future__ import annotations

import contextlib
import http.server
import os
import pathlib
import shutil
import threading
import time
import uuid

import instances
import pytest
import rows
import sqlalchemy
from test_artifacts import bucket  # noqa: F401  pylint: disable=unused-import

ALL = ["small_postgresql", "small_mariadb", "small_sqlite"]
SERVERS = ALL[:2]
TABLES = {
    "alembic_version": "version_num VARCHAR(32) NOT NULL",
    "experiments": "experiment_id INTEGER PRIMARY KEY, name VARCHAR(256) UNIQUE",
    "runs": "run_uuid VARCHAR(32) PRIMARY KEY, name VARCHAR(256), experiment_id INTEGER, "
            "FOREIGN KEY (experiment_id) REFERENCES experiments (experiment_id)",
    "params": "key_ VARCHAR(250), value TEXT, run_uuid VARCHAR(32), PRIMARY KEY (key_, run_uuid), "
              "FOREIGN KEY (run_uuid) REFERENCES runs (run_uuid)",
}
TRIGGER = ("CREATE TRIGGER guard BEFORE UPDATE ON experiments FOR EACH ROW BEGIN IF OLD.name <> NEW.name THEN "
           "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no'; END IF; END")
"""Of MariaDB, where triggers cannot move with their tables."""
RENAMED = {"postgresql": ("ALTER DATABASE", 1), "mysql": ("RENAME TABLE", 1), "sqlite": ("replace", 1)}
"""A change in the middle of putting one database in the place of another, see ``kill_after`` of forks.py."""
EARLIER = {"mysql": ("RENAME TABLE", 0), "sqlite": ("link", 1)}


def fill(instance, execute) -> None:
    """A few tables, in the place of the 65 of MLflow with which other tests deal."""
    for name, columns in TABLES.items():
        execute(instance, f"CREATE TABLE {name} ({columns})")
    execute(instance, "INSERT INTO alembic_version VALUES ('0123456789ab')")
    execute(instance, "INSERT INTO experiments VALUES (0, 'Default'), (1, 'second')")
    execute(instance, "INSERT INTO runs VALUES ('a', 'one', 0), ('b', 'two', 1)")
    execute(instance, "INSERT INTO params VALUES ('alpha', '0.5', 'a'), ('beta', 'x', 'b')")
    if instance.dialect == "mysql":
        execute(instance, TRIGGER)


def on_server(pods, client: dict, artifacts, folder):
    name = f"small_{uuid.uuid4().hex[:8]}"
    rows.administer(client, f"CREATE DATABASE {name}")
    uri = rows.uri_of({**client, "database": name})
    if client["dialect"] == "postgresql":  # as in the pods, where the login is in variables
        uri = uri.replace(f"{client['user']}:{client['password']}@", "")
    return instances.Instance(pods, uri, str(artifacts),
                              {"type": "volume", "path": str(folder / "backups/n/a")},
                              {"user": client["user"], "password": client["password"]})


@pytest.fixture
def small_postgresql(pods, postgresql, artifacts, execute, tmp_path):
    found = on_server(pods, postgresql, artifacts, tmp_path)
    fill(found, execute)
    return found


@pytest.fixture
def small_mariadb(pods, mariadb, artifacts, execute, tmp_path):
    found = on_server(pods, mariadb, artifacts, tmp_path)
    fill(found, execute)
    return found


@pytest.fixture
def small_sqlite(pods, artifacts, execute, tmp_path):
    (tmp_path / "data").mkdir()
    found = instances.Instance(pods, f"sqlite:///{tmp_path}/data/mlflow.db", str(artifacts),
                               {"type": "volume", "path": str(tmp_path / "backups/n/a")})
    fill(found, execute)
    return found


def digest(instance) -> dict:
    """Of all rows, and of the triggers, which are not to be lost on the way."""
    found = rows.digest(instance.uri, instance.login)
    if instance.dialect == "mysql":
        with sqlalchemy.create_engine(instance.uri, poolclass=sqlalchemy.pool.NullPool).connect() as connection:
            found["triggers"] = str([row[0] for row in connection.execute(sqlalchemy.text("SHOW TRIGGERS"))])
    return found


def failed(sentence: str):
    return pytest.raises(instances.CommandFailed, match=sentence)


# -- interrupted restores ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("instance", ALL, indirect=True)
def test_what_users_wrote_after_an_interrupted_restore_stays(instance, execute):
    """The playbook was killed after it had opened the server, so that the former database is still there."""
    instance.create()
    execute(instance, "UPDATE runs SET name = 'of the time before'")
    instance.restore(until="promote")
    execute(instance, "UPDATE runs SET name = 'of users since'")
    written = digest(instance)

    with failed("_before is there beside .*, from a restore that was interrupted; playbooks/restore.yml"):
        instance.run("restore", modes=("restore",))
    assert digest(instance) == written
    instance.run("finish")  # what settle does where the server was opened
    damage(instance)
    with failed("is damaged"):
        instance.run("restore", modes=("restore",))
    assert instance.run("revert") == {"reverted": False}
    assert digest(instance) == written


@pytest.mark.parametrize(("instance", "points"), [
    ("small_postgresql", RENAMED), ("small_mariadb", EARLIER), ("small_mariadb", RENAMED), ("small_sqlite", EARLIER),
    ("small_sqlite", RENAMED)], indirect=["instance"])
def test_a_promotion_that_is_killed(instance, points, execute):
    instance.create()
    execute(instance, "UPDATE runs SET name = 'of the time before'")
    before = digest(instance)
    instance.run("restore", modes=("restore",))
    instance.killed("promote", *points[instance.dialect])
    if points is EARLIER:
        instance.run("promote")
        assert digest(instance) != before
    assert instance.run("revert") in ({"reverted": True}, {"reverted": False})
    assert digest(instance) == before
    assert instance.run("revert") == {"reverted": False}


@pytest.mark.parametrize("instance", ALL, indirect=True)
def test_what_puts_back_is_killed(instance, execute):
    instance.create()
    execute(instance, "UPDATE runs SET name = 'of the time before'")
    before = digest(instance)
    instance.restore(until="promote")
    instance.killed("revert", *RENAMED[instance.dialect])
    instance.run("revert")
    assert digest(instance) == before
    instance.restore()
    assert digest(instance) != before


def test_finishing_too_early_loses_nothing(small_postgresql):
    """Between the two renames, there is no current database."""
    small_postgresql.create()
    before = digest(small_postgresql)
    small_postgresql.run("restore", modes=("restore",))
    small_postgresql.killed("promote", *RENAMED["postgresql"])
    small_postgresql.run("finish")
    assert digest(small_postgresql) == before


@pytest.mark.parametrize("instance", SERVERS, indirect=True)
def test_a_restore_that_is_killed_while_it_loads(instance):
    manifest, before = instance.create(), digest(instance)
    shutil.rmtree(instance.artifacts)
    pathlib.Path(instance.artifacts).mkdir()
    running = instance.start("restore", modes=("restore",))
    wait_for(lambda: running.output.exists() and "restoring backup" in running.output.read_text())
    time.sleep(0.3)
    running.kill()
    assert digest(instance) == before
    found = instance.restore()
    assert digest(instance) == before and found["set"]["id"] == manifest["id"]
    for name, content in rows.ARTIFACTS.items():
        assert pathlib.Path(instance.artifacts, name).read_bytes() == content


# -- databases ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("instance", ALL, indirect=True)
@pytest.mark.parametrize("how", ["flipped", "truncated"])
def test_a_damaged_dump(instance, how):
    manifest, before = instance.create(), digest(instance)
    damage(instance, how)
    name = manifest["database"]["dumps"]["database"]["name"]
    with failed(rf"Backup {manifest['id']}: {name} is damaged \(another SHA-256 than in the manifest\)"):
        instance.run("restore", modes=("restore",))
    assert instance.run("revert") == {"reverted": False}
    assert digest(instance) == before


def damage(instance, how: str = "flipped") -> None:
    """Change a byte in the middle of the latest dump, or leave its second half out."""
    (path,) = instance.path("sets").glob("*/database.*")
    content = path.read_bytes()
    half = len(content) // 2
    path.write_bytes(content[:half] + (bytes([content[half] ^ 1]) + content[half + 1:] if how == "flipped" else b""))


def test_the_database_ends_while_it_is_dumped(small_postgresql, postgresql, execute):
    execute(small_postgresql, "CREATE SCHEMA other")
    execute(small_postgresql, "CREATE TABLE other.locked (x INTEGER)")
    name = sqlalchemy.engine.make_url(small_postgresql.uri).database
    end = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"

    def engine(database: str, **options):
        return sqlalchemy.create_engine(rows.uri_of({**postgresql, "database": database}),
                                        poolclass=sqlalchemy.pool.NullPool, **options)

    with engine("postgres", isolation_level="AUTOCOMMIT").connect() as server, engine(name).connect() as connection:
        connection.execute(sqlalchemy.text("LOCK TABLE other.locked"))  # for which pg_dump waits
        running = small_postgresql.start("create", modes=("dump",))
        try:
            wait_for(lambda: server.execute(sqlalchemy.text(f"{end} AND application_name = 'pg_dump'")).first())
            server.execute(sqlalchemy.text(end))
        finally:
            with failed("pg_dump failed: |The database's program failed: |The database answers: "):
                running.wait()
        connection.invalidate()
    assert small_postgresql.run("list")["sets"] == []
    assert len(small_postgresql.create()["database"]["dumps"]["database"]["counts"]) == 3


@pytest.mark.parametrize("instance", SERVERS, indirect=True)
def test_a_database_that_is_down(instance):
    url = sqlalchemy.engine.make_url(instance.uri)
    instance.uri, right = url.set(port=9).render_as_string(hide_password=False), instance.uri
    with failed("The database answers: .*([Cc]onnection refused|Can't connect)"):
        instance.create()
    assert "last_failed" in instance.path("status.json").read_text()
    instance.uri = right
    assert instance.create()


def test_a_login_that_may_not_create_databases(small_postgresql, postgresql):
    small_postgresql.create()
    before = digest(small_postgresql)
    rows.administer(postgresql, "CREATE ROLE poor LOGIN PASSWORD 'poor'")
    login, small_postgresql.login = small_postgresql.login, {"user": "poor", "password": "poor"}
    with failed(r"may not create a database beside .* \(permission denied to create database\); give it CREATEDB"):
        small_postgresql.run("restore", modes=("restore",))
    small_postgresql.login = login
    rows.administer(postgresql, "DROP ROLE poor")
    assert digest(small_postgresql) == before


def test_a_login_that_may_not_use_other_databases(small_mariadb, mariadb):
    small_mariadb.create()
    before, url = digest(small_mariadb), sqlalchemy.engine.make_url(small_mariadb.uri)
    rows.administer(mariadb, "CREATE USER poor IDENTIFIED BY 'poor'")
    rows.administer(mariadb, f"GRANT ALL ON {url.database}.* TO poor")
    uri, small_mariadb.uri = small_mariadb.uri, url.set(username="poor", password="poor").render_as_string(False)
    with failed(f"may not make the database {url.database}_restore anew, .*grant it all privileges on "
                rf"{url.database}_restore\.\* and {url.database}_before\.\*"):
        small_mariadb.run("restore", modes=("restore",))
    small_mariadb.uri = uri
    rows.administer(mariadb, "DROP USER poor")
    assert digest(small_mariadb) == before


@pytest.mark.parametrize(("instance", "name"), [
    ("small_postgresql", 'Team "A"-1 é'), ("small_mariadb", "Team `A`-1 ' é")], indirect=["instance"])
def test_names_that_must_be_quoted(instance, name, request, execute, pods):
    client = request.getfixturevalue(instance.dialect if instance.dialect == "postgresql" else "mariadb")
    mark = '"' if instance.dialect == "postgresql" else "`"
    quoted = mark + name.replace(mark, 2 * mark) + mark
    rows.administer(client, f"CREATE DATABASE {quoted}")
    url = sqlalchemy.engine.make_url(instance.uri).set(database=name)
    named = instances.Instance(pods, url.render_as_string(hide_password=False), instance.artifacts, instance.store,
                               instance.login)
    execute(named, "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
    execute(named, "CREATE TABLE things (x INTEGER PRIMARY KEY)")
    execute(named, "INSERT INTO things VALUES (1), (2)")
    named.create()
    execute(named, "DELETE FROM things")
    named.restore(until="promote")
    assert execute(named, "SELECT x FROM things ORDER BY x") == [(1,), (2,)]
    named.run("revert")
    assert execute(named, "SELECT x FROM things") == []
    named.restore()
    assert execute(named, "SELECT COUNT(*) FROM things") == [(2,)]
    rows.administer(client, f"DROP DATABASE {quoted}")


# -- room, stores, secrets ---------------------------------------------------------------------------------------------


def test_no_room_for_the_copy_of_a_file(small_sqlite, pods, execute, tmp_path):
    execute(small_sqlite, "INSERT INTO params VALUES ('large', HEX(RANDOMBLOB(1000000)), 'a')")
    with instances.small_folder(tmp_path / "full", "600k") as full:
        folder, pods.exchanges = pods.exchanges, full
        try:
            with failed(r"There is no room for a copy of .*mlflow\.db: it has 2 MiB, and .* has [01] MiB free"):
                small_sqlite.create()
        finally:
            pods.exchanges = folder
    assert small_sqlite.run("list")["sets"] == []


def test_no_room_for_the_restored_file(small_sqlite, execute, tmp_path):
    execute(small_sqlite, "INSERT INTO params VALUES ('large', HEX(RANDOMBLOB(1000000)), 'a')")
    small_sqlite.create()
    file = tmp_path / "data/mlflow.db"
    room = file.stat().st_size * 3 // 2
    with instances.small_folder(tmp_path / "full", str(room)) as full:
        shutil.copy(file, full / "mlflow.db")
        small_sqlite.uri = f"sqlite:///{full}/mlflow.db"
        before = digest(small_sqlite)
        with failed("cannot be loaded: .*No space left on device"):
            small_sqlite.run("restore")
        assert small_sqlite.run("revert") == {"reverted": False}
        assert digest(small_sqlite) == before
        assert not (full / "mlflow.db_restore").exists()


class Full(http.server.BaseHTTPRequestHandler):
    """A stand-in for an S3 store without room: it lists nothing, and takes nothing."""

    def do_GET(self) -> None:
        self._answer(200, b"<ListBucketResult></ListBucketResult>")

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._answer(507, b"<Error><Code>XMinioStorageFull</Code><Message>Storage backend has reached its minimum free "
                          b"drive threshold.</Message></Error>")

    def _answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_arguments) -> None:
        """Nothing."""


@contextlib.contextmanager
def full_store():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Full)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


def test_a_bucket_that_is_full_gone_or_denied(bucket):  # noqa: F811
    manifest = bucket.create()
    right, key = dict(bucket.store), bucket.more["BACKUP_SECRET_KEY"]
    with full_store() as url:
        bucket.store["url"] = url
        with failed(r"bucket backups at http://127\.0\.0\.1:\d+ answers 507 \(Storage backend has reached"):
            bucket.create()
    bucket.store = {**right, "bucket": "gone"}
    with failed("bucket gone does not exist at http"):
        bucket.create()
    bucket.store, bucket.more["BACKUP_SECRET_KEY"] = right, "wrong"
    for command in ("create", "restore"):
        with failed("access to bucket backups is denied with these credentials"):
            bucket.run(command)
    bucket.more["BACKUP_SECRET_KEY"] = key
    found = bucket.run("list")
    assert [entry["id"] for entry in found["sets"]] == [manifest["id"]]


@pytest.mark.parametrize("instance", SERVERS, indirect=True)
def test_no_secret_is_in_arguments_or_in_the_environment_of_others(instance, request):
    server = request.getfixturevalue("postgresql" if instance.dialect == "postgresql" else "mariadb")
    own = uuid.uuid4().hex  # others may run this test at the same time
    user, password = f"reader_{own[:8]}", f"of-the-database-{own}"
    for statement in {
        "postgresql": [f"CREATE ROLE {user} LOGIN SUPERUSER PASSWORD '{password}'"],
        "mysql": [f"CREATE USER {user}@localhost IDENTIFIED BY '{password}'", f"GRANT ALL ON *.* TO {user}@localhost"],
    }[instance.dialect]:
        rows.administer(server, statement)
    former = f"{instance.login['user']}:{instance.login['password']}@"
    instance.uri = instance.uri.replace(former, f"{user}:{password}@")
    instance.login, instance.passphrase = {"user": user, "password": password}, f"passphrase-{own}"
    instance.more |= {name: f"{name}-{own}" for name in instances.KEYS}
    running = instance.start("create", modes=("dump",))
    found = set()
    try:
        while not pathlib.Path(f"{running.output}.peak").exists():
            found |= look(own.encode(), running)
    finally:
        running.wait()
    assert len(found) > 1, found  # backup.py, and the shell or the program of the database
    assert own not in running.output.read_text()
    rows.administer(server, f"DROP {'ROLE' if instance.dialect == 'postgresql' else 'USER'} {user}"
                            f"{'' if instance.dialect == 'postgresql' else '@localhost'}")


def look(secret: bytes, running) -> set[int]:
    """Processes whose environment holds a secret; fails where others than those of the pod have one, or where arguments
    do."""
    found = set()
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            arguments = (folder / "cmdline").read_bytes()
            assert secret not in arguments, arguments
            if secret in (folder / "environ").read_bytes():
                found.add(int(folder.name))
    for pid in found - {running.process}:
        with contextlib.suppress(OSError):
            assert os.getsid(pid) == running.database.pid, pid
    return found


def wait_for(ready) -> None:
    """Until something is true, for at most 30 s."""
    for _attempt in range(3000):
        if ready():
            return
        time.sleep(0.01)
    pytest.fail("it never came")


def test_an_image_with_another_version_is_not_rehearsed(small_sqlite):
    small_sqlite.create()
    small_sqlite.version = "3.99.0"
    with pytest.raises(instances.CommandFailed, match=r"^Image mlflow:1 has MLflow [0-9.]+, and 3\.99\.0 is wanted; "
                                                      r"set mlflow_server_image to an image of MLflow 3\.99\.0\.$"):
        small_sqlite.run("rehearse")
    assert not small_sqlite.run("state")["rehearsal"]
