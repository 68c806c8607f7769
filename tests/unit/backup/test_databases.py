# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Databases by their real programs: dumped, loaded, put in the place of the current one, and put back."""

from __future__ import annotations

import os
import pathlib
import re
import signal
import time

import instances
import pytest
import rows
import sqlalchemy

ALL = ["on_postgresql", "on_mariadb", "sqlite"]
SERVERS = ALL[:2]


def digest(instance) -> dict:
    return rows.digest(instance.uri, instance.login)


def total(instance) -> int:
    return sum(int(text.split()[0]) for text in digest(instance).values())


@pytest.mark.parametrize("instance", ALL, indirect=True)
def test_what_was_lost_comes_back(instance, execute):
    before = digest(instance)
    manifest = instance.create()
    counts = manifest["database"]["dumps"]["database"]["counts"]
    assert counts == {**dict.fromkeys(counts, 0), **{name: int(text.split()[0]) for name, text in before.items()}}
    assert manifest["database"]["dumps"]["database"]["exact"]
    execute(instance, "DELETE FROM metrics")
    execute(instance, "UPDATE runs SET name = 'changed'")
    damaged = digest(instance)
    assert damaged != before

    instance.restore(until="promote")
    assert digest(instance) == before
    assert instance.run("revert") == {"reverted": True}
    assert digest(instance) == damaged
    assert instance.run("revert") == {"reverted": False}

    instance.run("restore", modes=("restore",))
    assert digest(instance) == damaged
    instance.run("promote")
    instance.run("finish")
    assert digest(instance) == before
    assert instance.run("revert") == {"reverted": False}
    assert digest(instance) == before


@pytest.mark.parametrize("instance", SERVERS, indirect=True)
def test_interrupted_between_two_renames(instance, execute):
    before = digest(instance)
    instance.create()
    name = sqlalchemy.engine.make_url(instance.uri).database
    instance.restore(until="restore")
    if instance.dialect == "postgresql":
        execute_outside(instance, f"ALTER DATABASE {name} RENAME TO {name}_before")
    else:
        tables = [row[0] for row in execute(instance, "SHOW TABLES")]
        execute_outside(instance, f"CREATE DATABASE {name}_before")
        moves = ", ".join(f"{name}.{table} TO {name}_before.{table}" for table in tables)
        triggers = [row[0] for row in execute(instance, "SHOW TRIGGERS")]
        for trigger in triggers:
            execute(instance, f"DROP TRIGGER {trigger}")
        execute(instance, f"RENAME TABLE {moves}")
    # The playbook's next run begins with `restore`, which puts back what was there.
    instance.run("restore", modes=("restore",))
    assert digest(instance) == before
    instance.run("promote")
    instance.run("finish")
    assert digest(instance) == before


def execute_outside(instance, statement: str) -> None:
    url = sqlalchemy.engine.make_url(instance.uri).set(
        username=instance.login["user"], password=instance.login["password"],
        database="postgres" if instance.dialect == "postgresql" else "mlflow")
    with sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(sqlalchemy.text(statement))


def test_triggers_of_mariadb_are_kept(on_mariadb, execute):
    execute(on_mariadb, "CREATE TRIGGER own BEFORE UPDATE ON runs FOR EACH ROW SET NEW.name = CONCAT(NEW.name, '%!')")
    before = {row[0] for row in execute(on_mariadb, "SHOW TRIGGERS")}
    on_mariadb.create()
    on_mariadb.restore(until="promote")
    assert {row[0] for row in execute(on_mariadb, "SHOW TRIGGERS")} == before
    on_mariadb.run("revert")
    assert {row[0] for row in execute(on_mariadb, "SHOW TRIGGERS")} == before
    execute(on_mariadb, "UPDATE runs SET name = 'x'")
    assert {row[0] for row in execute(on_mariadb, "SELECT name FROM runs")} == {"x%!"}


def test_logins_of_sqlite_are_in_a_file_of_their_own(sqlite, tmp_path):
    users = rows.digest(f"sqlite:///{tmp_path}/data/users.db")
    manifest = sqlite.create()
    assert set(manifest["database"]["dumps"]) == {"database", "users"}
    (tmp_path / "data/users.db").unlink()
    (tmp_path / "data/mlflow.db").unlink()
    sqlite.restore()
    assert rows.digest(f"sqlite:///{tmp_path}/data/users.db") == users


@pytest.mark.parametrize("instance", SERVERS, indirect=True)
def test_dump_that_is_killed(instance, execute):
    execute(instance, "UPDATE params SET value = REPEAT('y', 6000)")
    sets_before = instance.run("list")
    running = instance.start("create", modes=("dump",))
    kill_child(running.database.pid, "pg_dump" if instance.dialect == "postgresql" else "dump")
    with pytest.raises(instances.CommandFailed, match="dump.* failed|ended before|program failed"):
        running.wait()
    found = instance.run("list")
    assert found["sets"] == sets_before["sets"] == []
    assert len(found["incomplete"]) == 1
    with pytest.raises(instances.CommandFailed, match="There is no complete backup"):
        instance.run("restore", modes=("restore",))
    instance.create()
    assert len(instance.run("list")["sets"]) == 1


def kill_child(shell: int, name: str) -> None:
    """Kill the program that database.sh runs, as soon as it runs."""
    for _attempt in range(4000):
        for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
            try:
                text = path.read_text()
            except OSError:
                continue
            parent = int(text.rpartition(")")[2].split()[1])
            if parent == shell and name in text.partition("(")[2].rpartition(")")[0]:
                os.kill(int(path.parent.name), signal.SIGKILL)
                return
        time.sleep(0.005)
    pytest.fail(f"{name} never ran")


def test_login_that_may_not_create_databases(on_postgresql, postgresql):
    on_postgresql.create()
    name = sqlalchemy.engine.make_url(on_postgresql.uri).database
    rows.administer(postgresql, "CREATE ROLE humble LOGIN PASSWORD 'humble'")
    rows.administer(postgresql, f"ALTER DATABASE {name} OWNER TO humble")
    before = digest(on_postgresql)
    owner, on_postgresql.login = on_postgresql.login, {"user": "humble", "password": "humble"}
    with pytest.raises(instances.CommandFailed, match="may not create a database beside .* give it CREATEDB"):
        on_postgresql.run("restore", modes=("restore",))
    on_postgresql.login = owner
    assert digest(on_postgresql) == before
    rows.administer(postgresql, f"ALTER DATABASE {name} OWNER TO {owner['user']}")


@pytest.mark.parametrize("instance", SERVERS, indirect=True)
def test_no_secrets_in_arguments_or_output(instance):
    login = instance.login["password"]
    secrets = {instances.PASSPHRASE, *instances.KEYS.values()} - {"chief"}
    running = instance.start("create", "--verify", modes=("dump", "drill"))
    seen: set[str] = set()
    while running.database.poll() is None:
        for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
            try:
                seen.add(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
            except OSError:
                continue
        time.sleep(0.01)
    log = running.wait() + (running.output.parent / "database-output").read_text()
    program = "pg_restore" if instance.dialect == "postgresql" else "mariadb --defaults-file"
    assert any(program in line for line in seen), sorted(seen)
    assert any("mlflow" in line and "server" in line for line in seen)
    # Words of the tests' own servers are in their command lines, so the password is looked for as a word of these.
    ours = [line for line in seen if str(running.output.parent) in line or "dump" in line or "restore" in line]
    for text in [*ours, log]:
        assert not [secret for secret in secrets if secret in text], text
        assert not re.search(rf"(?<![\w]){login}(?![\w])", text), text
    verified = instances.parse(log)["verified"]
    assert verified["ok"] and verified["rows"] == total(instance) and verified["artifacts"] == len(rows.ARTIFACTS)
    assert verified["experiments"] == 3 and verified["registered_models"] == 1


def test_a_damaged_dump_is_named_by_the_drill(sqlite):
    manifest = sqlite.create()
    path = sqlite.path(f"sets/{manifest['id']}/database.sqlite.gz")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    with pytest.raises(instances.CommandFailed, match=r"database\.sqlite\.gz is damaged \(another SHA-256"):
        sqlite.run("verify", modes=("drill",))
    (found,) = sqlite.run("list")["sets"]
    assert not found["verified"]["ok"] and "database.sqlite.gz is damaged" in found["verified"]["reason"]
    before = digest(sqlite)
    with pytest.raises(instances.CommandFailed, match="is damaged"):
        sqlite.run("restore", modes=("restore",))
    assert digest(sqlite) == before


@pytest.mark.parametrize("instance", SERVERS, indirect=True)
def test_a_truncated_dump_is_named(instance):
    manifest = instance.create()
    path = instance.path(f"sets/{manifest['id']}/{manifest['database']['dumps']['database']['name']}")
    path.write_bytes(path.read_bytes()[:-2000])
    before = digest(instance)
    with pytest.raises(instances.CommandFailed, match="is damaged"):
        instance.run("restore", modes=("restore",))
    assert digest(instance) == before
    instance.run("revert")
    assert digest(instance) == before


def test_a_database_that_is_down(on_postgresql):
    on_postgresql.uri = re.sub(r":\d+/", ":9/", on_postgresql.uri)
    with pytest.raises(instances.CommandFailed, match="The database answers: .*refused"):
        on_postgresql.run("create", modes=("dump",))
    assert '"last_failed"' in on_postgresql.path("status.json").read_text()


def test_no_room_for_a_copy_of_sqlite(sqlite, monkeypatch, tmp_path):
    with instances.small_folder(tmp_path / "small", "200k") as small:
        monkeypatch.setattr(sqlite.pods, "exchanges", small)
        with pytest.raises(instances.CommandFailed, match="There is no room for a copy of .*mlflow.db"):
            sqlite.create()

