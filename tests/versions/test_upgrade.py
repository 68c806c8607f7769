# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Upgrades of real databases to the newest MLflow, and back by Alembic: what an upgrade rehearses on a copy.

Versions in the folder `older` are not supported as servers (docs/versions.md); they write databases that users bring.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from ansible_collections.mlops.mlflow.plugins.plugin_utils import backups
from mlflow_servers import ROOT, VERSIONS, binaries, config, environment, load, number

BACKUP = ROOT / "roles/backup/files"
NEWEST = VERSIONS[-1]
ALL = bool(os.environ.get("MLOPS_UPGRADES"))
"""Whether all pairs of version and database are run, by `make upgrades`; one takes 40 s of processor."""
OLDER = sorted((path.stem for path in (ROOT / "tests/versions/older").glob("*.txt")), key=number)
PAIRS = [(version, dialect) for version in (*OLDER, *VERSIONS[:-1]) for dialect in ("postgresql", "sqlite", "mysql")]
DEFAULT = [(VERSIONS[0], "postgresql")]
# Where MLflow's own downgrades fail, whether from a version in `older`, and how: a rollback restores the backup then.
FAILURES = {
    (False, "mysql"): "fails on a copy of the data: (1553, \"Cannot drop index",
    (True, "postgresql"): "does not restore the schema of before: experiments: index experiments_name_key was",
    (True, "mysql"): "fails on a copy of the data: (1553, \"Cannot drop index",
    (True, "sqlite"): "fails on a copy of the data: cannot INSERT into generated column \"duration_ns\"",
}

CREATE = """
import databases, sys
databases.open_database()._statements(f"CREATE DATABASE {sys.argv[1]}")
"""
MIGRATE = "import prepare; prepare.migrate()"
LOG = """
import os, sys
import mlflow
mlflow.set_tracking_uri(os.environ["MLFLOW_BACKEND_STORE_URI"])
client, name = mlflow.MlflowClient(), sys.argv[1]
run = client.create_run("0", run_name=name)
client.log_metric(run.info.run_id, "loss", 0.25)
client.log_param(run.info.run_id, "depth", 3)
client.log_text(run.info.run_id, name, "note.txt")
client.set_experiment_tag("0", "purpose", "upgrades")
try:
    client.create_registered_model("forest")
except Exception as error:
    assert "already exists" in str(error), error
version = client.create_model_version("forest", run.info.artifact_uri, run.info.run_id)
client.set_registered_model_alias("forest", name, version.version)
with mlflow.start_span(name) as span:
    span.set_inputs({"question": name})
mlflow.flush_trace_async_logging(terminate=True)
"""
READ = """
import json, os
import mlflow
mlflow.set_tracking_uri(os.environ["MLFLOW_BACKEND_STORE_URI"])
client = mlflow.MlflowClient()
print(json.dumps({
    "runs": sorted([run.info.run_name, run.data.metrics["loss"], run.data.params["depth"],
                    mlflow.artifacts.load_text(f"{run.info.artifact_uri}/note.txt")]
                   for run in client.search_runs(["0"])),
    "aliases": sorted(client.get_registered_model("forest").aliases),
    "traces": sorted(span.inputs["question"] for trace in client.search_traces(experiment_ids=["0"])
                     for span in trace.data.spans)}))
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
        if version in OLDER and program in (LOG, READ):  # what users run has no hooks
            path = path[2:]
        variables["PYTHONPATH"] = os.pathsep.join(map(str, path))
        done = subprocess.run([binaries(version) / "python", "-c", program, *arguments], env=variables,
                              cwd=self.folder, capture_output=True, text=True, timeout=600, check=False)
        assert bool(done.returncode) == fails, done.stderr[-3000:] + done.stdout[-1000:]
        return done.stderr if fails else done.stdout

    def read(self, version: str) -> dict:
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


def expected(*names: str) -> dict:
    """What READ finds when LOG was run with these names."""
    return {"runs": [[name, 0.25, "3", name] for name in sorted(names)], "aliases": sorted(names),
            "traces": sorted(names)}


@pytest.mark.parametrize(("version", "dialect"), PAIRS if ALL else DEFAULT)
def test_an_upgrade_keeps_everything_and_is_undone_where_mlflow_can(version, dialect, tmp_path, request):
    database = new_database(dialect, version, tmp_path, request)
    database.python(version, MIGRATE)
    database.python(version, LOG, "before")

    text = database.python(NEWEST, REHEARSE, str(tmp_path / "rehearsal"), str(database.folder / "drivers"))
    found = json.loads(text.partition("FOUND ")[2])
    assert found["round_trip"] and "job_locks" in found["new_tables"], found
    # A tag with the name of a trace becomes a column.
    assert set(found["fewer_rows"]) <= {"trace_tags"} and not found["lost_indexes"], found
    possible, failure = found["downgrade"]["possible"], FAILURES.get((version in OLDER, dialect), "")
    assert failure in found["downgrade"]["reason"] and possible == (not failure), found["downgrade"]["reason"]
    assert not possible or version in OLDER or found["downgrade"]["longer_columns"] == ["experiment_tags.value"]
    said = backups.rehearsal_lines({**found, "to": NEWEST}, closed=not possible)[-1]
    assert said.startswith("A rollback undoes the migration" if possible else
                           "A rollback restores the backup, and what is logged after the upgrade would be lost."), said

    database.python(NEWEST, MIGRATE)
    database.python(NEWEST, LOG, "meanwhile")
    assert database.read(NEWEST) == expected("before", "meanwhile")
    assert database.python(version, UNKNOWN).split() == [found["revision"]]
    refusal = database.python(version, MIGRATE, fails=True).strip().splitlines()[-1]
    assert f"which MLflow {version} does not know" in refusal and "playbooks/rollback.yml" in refusal, refusal
    if not possible:
        return

    database.python(NEWEST, UNDO, found["former_revision"])
    database.python(version, LOG, "after")
    there = database.read(version)
    # A version that reads spans from files does not see those that a newer one has written to the database.
    assert {**there, "traces": []} == {**expected("after", "before", "meanwhile"), "traces": []}
    assert set(there["traces"]) >= {"after", "before"}


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
    columns = {**table()["runs"]["columns"], "workspace": ["VARCHAR(63)", False]}
    workspaces = table(columns=columns, indexes={"other": [["workspace", "name"], False]})
    assert not schema.lost_indexes(table(), workspaces)
    lost = schema.lost_indexes(workspaces, table(columns=columns, indexes={}))
    assert lost == ["runs: other (workspace, name)"]
    assert schema.differences(table(), without) == ["runs: index by_name was [['name'], False] and is not there"]
