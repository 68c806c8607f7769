# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Databases by their real programs: dumped, loaded, put in the place of the current one, and put back."""

from __future__ import annotations

import os
import pathlib
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


def execute_outside(instance, statement: str) -> None:
    url = sqlalchemy.engine.make_url(instance.uri).set(
        username=instance.login["user"], password=instance.login["password"],
        database="postgres" if instance.dialect == "postgresql" else "mlflow")
    with sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(sqlalchemy.text(statement))


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
