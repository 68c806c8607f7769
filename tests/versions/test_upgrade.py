# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Upgrades of real databases to the newest MLflow, and back by Alembic: what an upgrade rehearses on a copy."""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from mlflow_servers import ROOT, VERSIONS, binaries, config, environment, load, unit

BACKUP = ROOT / "roles/backup/files"
NEWEST = VERSIONS[-1]
ALL = bool(os.environ.get("MLOPS_UPGRADES"))
"""Whether all pairs of version and database are run, by `make upgrades`; one takes 40 s of processor."""
PAIRS = [(version, dialect) for version in VERSIONS[:-1] for dialect in ("postgresql", "sqlite", "mysql")]
DEFAULT = [(VERSIONS[0], "postgresql")]
mariadb = unit.mariadb

CREATE = """
import databases, sys
databases.open_database()._statements(f"CREATE DATABASE {sys.argv[1]}")
"""
MIGRATE = "import prepare; prepare.migrate()"
LOG = """
import os, sys
from mlflow.tracking import MlflowClient
client = MlflowClient(os.environ["MLFLOW_BACKEND_STORE_URI"])
run = client.create_run("0", run_name=sys.argv[1])
client.log_metric(run.info.run_id, "loss", 0.25)
client.log_param(run.info.run_id, "depth", 3)
client.set_experiment_tag("0", "purpose", "upgrades")
try:
    client.create_registered_model("forest")
except Exception as error:
    assert "already exists" in str(error), error
print(run.info.run_id)
"""
READ = """
import json, os
from mlflow.tracking import MlflowClient
client = MlflowClient(os.environ["MLFLOW_BACKEND_STORE_URI"])
runs = client.search_runs(["0"])
print(json.dumps([sorted((run.info.run_name, run.data.metrics["loss"], run.data.params["depth"]) for run in runs),
                  [model.name for model in client.search_registered_models()]]))
"""
REHEARSE = """
import json, os, pathlib, sys
import databases, drill, rehearsal
drill.KEPT += ("PYTHONPATH",)  # the server needs the driver, and is to have no hooks
os.environ["PYTHONPATH"] = sys.argv[2]
database = databases.open_database()
folder = pathlib.Path(sys.argv[1])
folder.mkdir()
print("FOUND " + json.dumps(rehearsal.Rehearsal(database, database, folder, print).run()))
"""
UNKNOWN = "import databases, schema; print(schema.unknown(databases.open_database().engine()))"
UNDO = """
import databases, rehearsal, sys
rehearsal.undo(databases.open_database().engine(), None, {"alembic_version": sys.argv[1]})
"""


class Database:
    """A database that programs of several versions of MLflow use one after the other."""

    def __init__(self, folder: pathlib.Path, uri: str):
        self.folder, self.uri = folder, uri
        shutil.copytree(BACKUP, folder / "backup")
        # In Python alone, and not in the environments of the versions.
        (folder / "drivers").mkdir()
        (folder / "drivers/pymysql").symlink_to(pathlib.Path(importlib.util.find_spec("pymysql").origin).parent)

    def python(self, version: str, program: str, *arguments: str, fails: bool = False) -> str:
        """What a program prints in the environment of a version, or writes as errors where it is to fail."""
        variables = environment(version, self.folder, MLFLOW_BACKEND_STORE_URI=self.uri)
        path = [config(self.folder), self.folder / "backup", self.folder / "drivers"]
        variables["PYTHONPATH"] = os.pathsep.join(map(str, path))
        done = subprocess.run([binaries(version) / "python", "-c", program, *arguments], env=variables,
                              cwd=self.folder, capture_output=True, text=True, timeout=600, check=False)
        assert bool(done.returncode) == fails, done.stderr[-3000:] + done.stdout[-1000:]
        return done.stderr if fails else done.stdout

    def read(self, version: str) -> list:
        return json.loads(self.python(version, READ).strip().splitlines()[-1])


def new_database(dialect: str, version: str, folder: pathlib.Path, request) -> Database:
    """An empty database of its own."""
    if dialect == "sqlite":
        return Database(folder, f"sqlite:///{folder}/mlflow.db")
    server = request.getfixturevalue({"postgresql": "postgresql", "mysql": "mariadb"}[dialect])
    driver = {"postgresql": "postgresql+psycopg2", "mysql": "mysql+pymysql"}[dialect]
    url = f"{driver}://{server['user']}:{server['password']}@{server['host']}:{server['port']}"
    name = f"upgrade_{version.replace('.', '_')}"
    database = Database(folder, f"{url}/{server['database']}")
    database.python(NEWEST, CREATE, name)
    database.uri = f"{url}/{name}"
    return database


@pytest.mark.parametrize(("version", "dialect"), PAIRS if ALL else DEFAULT)
def test_an_upgrade_is_undone_and_what_was_logged_meanwhile_stays(version, dialect, tmp_path, request):
    database = new_database(dialect, version, tmp_path, request)
    database.python(version, MIGRATE)
    database.python(version, LOG, "before")

    text = database.python(NEWEST, REHEARSE, str(tmp_path / "rehearsal"), str(database.folder / "drivers"))
    found = json.loads(text.partition("FOUND ")[2])
    assert found["round_trip"] and "job_locks" in found["new_tables"], found
    assert not found["fewer_rows"] and not found["lost_indexes"], found
    # One revision has a downgrade of `pass`; it made a column longer, which older versions do not notice.
    if dialect == "mysql" and not found["downgrade"]["possible"]:
        # A downgrade drops an index before the foreign key that needs it, so a rollback restores the backup.
        assert "fails on a copy of the data: (1553, \"Cannot drop index" in found["downgrade"]["reason"]
        return
    assert found["downgrade"]["possible"], found["downgrade"]["reason"]
    assert found["downgrade"]["longer_columns"] == ["experiment_tags.value"]

    database.python(NEWEST, MIGRATE)
    database.python(NEWEST, LOG, "meanwhile")
    assert database.python(version, UNKNOWN).split() == [found["revision"]]
    refusal = database.python(version, MIGRATE, fails=True).strip().splitlines()[-1]
    assert f"which MLflow {version} does not know" in refusal and "playbooks/rollback.yml" in refusal, refusal

    database.python(NEWEST, UNDO, found["former_revision"])
    database.python(version, LOG, "after")
    runs = [[name, 0.25, "3"] for name in ("after", "before", "meanwhile")]
    assert database.read(version) == [runs, ["forest"]]


def test_the_pairs_that_were_not_run():
    missing = [] if ALL else [f"{version} on {dialect}" for version, dialect in PAIRS
                              if (version, dialect) not in DEFAULT]
    print(f"not run here, but by `make upgrades`: {', '.join(missing) or 'nothing'}")
    assert set(DEFAULT) <= set(PAIRS)


@pytest.fixture(scope="module")
def schema():
    sys.path.insert(0, str(BACKUP))
    sys.path.insert(0, str(ROOT / "plugins/module_utils"))
    try:
        return load(BACKUP / "schema.py")
    finally:
        del sys.path[:2]


def revision(upgrade: str, downgrade: str) -> str:
    return f"def upgrade():\n    {upgrade}\n\n\ndef downgrade():\n    {downgrade}\n"


@pytest.mark.parametrize(("source", "expected"), [
    (revision("op.create_table('a')", "op.drop_table('a')"), "real"),
    (revision("op.create_table('a')", "pass"), "none"),
    (revision("op.create_table('a')", "'nothing to do'\n    return"), "none"),
    (revision("op.alter_column('a', 'b', type_=sa.Text(), existing_type=sa.String(9))", "pass"), "longer"),
    (revision("op.alter_column('a', 'b', new_column_name='c')", "pass"), "none"),
    (revision("op.execute('DELETE FROM a')\n    op.alter_column('a', 'b', type_=sa.Text())", "pass"), "none"),
    ("def upgrade():\n    op.add_column('a', b)\n", "none"),
])
def test_how_a_revision_is_undone(schema, source, expected):
    assert schema.undone(source) == expected


def table(**changes) -> dict:
    return {"runs": {"columns": {"id": ["VARCHAR(32)", False], "name": ["VARCHAR(250)", True]},
                     "indexes": {"by_name": [["name"], False]}, "unique constraints": {}, "primary key": {"id": True},
                     "foreign keys": {}, **changes}}


def test_structures_are_compared(schema):
    longer = table(columns={"id": ["VARCHAR(32)", False], "name": ["TEXT", True]})
    assert not schema.differences(table(), longer) and schema.longer_columns(table(), longer) == ["runs.name"]
    shorter = schema.differences(longer, table())
    assert shorter == ["runs: column name was ['TEXT', True] and is ['VARCHAR(250)', True]"]
    assert schema.differences(table(), {**table(), "jobs": {}}) == ["table jobs is still there"]
    without = table(indexes={})
    assert schema.lost_indexes(table(), without) == ["runs: by_name (name)"]
    assert not schema.lost_indexes(table(), table(indexes={"other": [["name", "id"], False]}))
    assert schema.differences(table(), without) == ["runs: index by_name was [['name'], False] and is not there"]
