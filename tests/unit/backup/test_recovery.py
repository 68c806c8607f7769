# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The database as of a moment: a real PostgreSQL that archives its WAL by pgBackRest, the script of its base backups,
and backup.py."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import pathlib
import subprocess
import sys
import time
from typing import Iterator

import instances
import pytest
import rows
from test_faults import fill

from ansible_collections.mlops.mlflow.plugins.plugin_utils.components import pgbackrest

SCRIPT = instances.ROOT / "roles/database/files/base_backups.sh"


def options(folder: pathlib.Path, port: int) -> dict[str, str]:
    """pgBackRest's options as the collection gives them, with paths of this test."""
    class Anything:
        """Variables and a model, as far as the options depend on them."""
        archive, backup_keep_days = "claim", 30

    model = Anything()
    model.database, model.database.port = Anything(), port
    return {**pgbackrest.settings(Anything(), model), "PGBACKREST_REPO1_PATH": str(folder / "archive"),
            "PGBACKREST_PG1_PATH": str(folder / "data"), "PGBACKREST_PG1_SOCKET_PATH": str(folder),
            "PGBACKREST_LOCK_PATH": str(folder / "lock")}


@pytest.fixture(scope="module")
def archived(tmp_path_factory):
    """Options of a PostgreSQL that archives, and of pgBackRest, whose first base backup is made; and who runs them."""
    instances.unit.program("pgbackrest", package="pgbackrest")
    folder = tmp_path_factory.mktemp("archived")
    command, as_user, client = instances.unit.new_postgresql(
        folder, "-c", "archive_mode=on", "-c", "archive_command=pgbackrest archive-push %p", "-c", "archive_timeout=60")
    access = folder / "data/pg_hba.conf"
    access.write_text("local all all trust\n" + access.read_text())
    (folder / "archive").mkdir(0o750)  # as Debian's package makes it, from which podman takes the volume's
    if as_user.get("user"):  # the programs of a recovery, which read the archive, run as this one
        as_user |= {"user": instances.USERS["postgresql"], "group": instances.USERS["postgresql"]}
        subprocess.run(["chown", "-R", f"{as_user['user']}:", folder], check=True)
    bin_folder = str(pathlib.Path(command[0]).parent)
    environment = {**options(folder, client["port"]), "PGUSER": client["user"], "PATH": f"{bin_folder}:/usr/bin:/bin"}
    log = folder / "base-backups.log"
    with instances.unit.running(command, instances.unit.answers(client["port"]), folder / "log", env=environment,
                                **as_user), base_backups(log, "base backup (full) made", env=environment, **as_user):
        yield client, environment, as_user


@contextlib.contextmanager
def base_backups(log: pathlib.Path, line: str, **options) -> Iterator[None]:
    """The script runs, and has logged a line; it ends in order."""
    with log.open("wb") as output:
        script = subprocess.Popen(["sh", "-c", SCRIPT.read_text()], stdout=output, stderr=subprocess.STDOUT, **options)
    try:
        deadline = time.monotonic() + 120
        while line not in log.read_text():
            assert script.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield
    finally:
        script.terminate()
        script.wait(30)
    assert script.returncode == 0, log.read_text()


@pytest.fixture
def instance(pods, archived, artifacts, execute, tmp_path):
    """An instance with a few rows, in a database of its own there."""
    client, environment, _as_user = archived
    name = f"archived_{time.time_ns()}"
    rows.administer(client, f"CREATE DATABASE {name}")
    found = instances.Instance(
        pods, f"postgresql+psycopg://127.0.0.1:{client['port']}/{name}", str(artifacts),
        {"type": "volume", "path": str(tmp_path / "backups/n/a")},
        {"user": client["user"], "password": client["password"]})
    found.programs |= {name: value for name, value in environment.items() if name.startswith("PGBACKREST_")}
    fill(found, execute)
    return found


def digest(instance) -> dict:
    return rows.digest(instance.uri, instance.login)


def moment() -> str:
    """Now, with time between it and what was before and comes after."""
    time.sleep(0.2)
    found = datetime.datetime.now(datetime.timezone.utc).isoformat()
    time.sleep(0.2)
    return found


def test_a_mistake_is_undone(instance, execute):
    before, then = digest(instance), moment()
    execute(instance, "DELETE FROM params")
    execute(instance, "INSERT INTO experiments VALUES (2, 'later')")
    after = digest(instance)
    assert after != before

    made = instance.run("create", "--kind=moment", f"--moment={then}", modes=("recover", "dump"))["set"]
    assert made["kind"] == "moment" and made["moment"] == then and made["database"]["dumps"]["database"]["exact"]
    assert digest(instance) == after
    # It is restored by its ID alone, and tells nobody that there is a backup of today.
    with pytest.raises(instances.CommandFailed, match="no complete backup 'latest'"):
        instance.run("restore", modes=("restore",))
    assert not instance.path("status.json").exists()
    instance.restore(f"--set={made['id']}")
    assert digest(instance) == before
    # The archive goes on, over the restore too.
    again = instance.run("create", "--kind=moment", f"--moment={moment()}", modes=("recover", "dump"))["set"]
    assert again["database"]["dumps"]["database"]["counts"] == made["database"]["dumps"]["database"]["counts"]


def test_what_the_archive_does_not_have_is_refused(instance):
    with pytest.raises(instances.CommandFailed, match=(
            r"Recovering the database as of 2020-01-01T00:00:00\+00:00 failed: .*unable to find backup set.*; "
            r"the earliest moment is 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC$")):
        instance.run("create", "--kind=moment", "--moment=2020-01-01T00:00:00+00:00", modes=("recover", "dump"))
    assert not list(instance.path("sets").glob("*/manifest.json"))


def test_the_exporter_sees_the_newest_base_backup(archived, tmp_path):
    """By the file that the script touches, as another user; a restart at which none can be made keeps its time."""
    _client, environment, as_user = archived
    archive = pathlib.Path(environment["PGBACKREST_REPO1_PATH"])
    last = archive / pathlib.PurePath(pgbackrest.LAST_BASE_BACKUP).name
    variables = {"BACKUP_STORE": json.dumps({"type": "volume", "path": str(tmp_path)}),
                 "MLOPS_EXPORTER_BACKUP_LAST_BASE": str(last)}

    def exported() -> float:
        command = [sys.executable, instances.ROOT / "roles/monitoring/files/collectors.py", "backups"]
        found = json.loads(subprocess.check_output(command, env={**os.environ, **variables}))
        assert not found["errors"]
        return {name: value for name, _labels, value in found["samples"]}["mlflow_backup_last_base_timestamp_seconds"]

    info = json.loads(subprocess.check_output(["pgbackrest", "info", "--output=json"], env=environment, **as_user))
    made, found = info[0]["backup"][-1]["timestamp"]["stop"], exported()
    assert made <= found < made + 30
    assert archive.stat().st_mode & 0o777 == 0o751 and last.stat().st_mode & 0o004
    assert not (archive / "backup").stat().st_mode & 0o007, "others can look at the base backups themselves"
    with base_backups(tmp_path / "log", "the base backup failed; it is tried again",
                      env={**environment, "PGBACKREST_BACKUP_STANDBY": "y"}, **as_user):
        assert exported() == found
    with base_backups(tmp_path / "log", "base backup (incr) made", env=environment, **as_user):
        assert exported() > found
