# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""maintain.py on a real database of the newest MLflow, with artifacts in a folder."""

from __future__ import annotations

import base64
import json
import sqlite3
import subprocess

import pytest
from mlflow_servers import binaries, config, environment

FILL = """
import os, pathlib
from mlflow.tracking import MlflowClient
client = MlflowClient(os.environ["MLFLOW_BACKEND_STORE_URI"])
root = os.environ["MLFLOW_ARTIFACTS_DESTINATION"]
experiment = client.create_experiment("trees", artifact_location=root + "/1")
runs = [client.create_run(experiment).info for _number in range(3)]
for run in runs:
    client.log_text(run.run_id, "x" * 100, "model/MLmodel")
client.create_registered_model("forest")
client.create_model_version("forest", runs[0].artifact_uri + "/model", runs[0].run_id)
client.set_registered_model_alias("forest", "champion", "1")
client.create_model_version("forest", root + "/1/" + "0" * 32 + "/artifacts/gone", runs[2].run_id)
client.delete_model_version("forest", "2")
client.create_model_version("forest", root + "/1/" + "0" * 32 + "/artifacts/gone")
client.create_model_version("forest", runs[2].artifact_uri + "/model/MLmodel", runs[2].run_id)
for run in runs[:2]:
    client.delete_run(run.run_id)
(pathlib.Path(root) / "1" / ("f" * 32)).mkdir()
(pathlib.Path(root) / "99").mkdir()
print(" ".join(run.run_id for run in runs))
"""
DELETE = """
import json, os
from mlflow.tracking import MlflowClient
client = MlflowClient(os.environ["MLFLOW_BACKEND_STORE_URI"])
root = os.environ["MLFLOW_ARTIFACTS_DESTINATION"]
found = {}
client.create_registered_model("oak")
for name in ("gone", "referenced", "active"):
    found[name] = client.create_experiment(name, artifact_location=f"{root}/{name}")
    run = client.create_run(found[name]).info
    client.log_text(run.run_id, "x", "notes.txt")
    model = client.create_logged_model(found[name], name="tree", source_run_id=run.run_id)
    path = model.artifact_location.removeprefix("file://")
    os.makedirs(path, exist_ok=True)
    open(path + "/MLmodel", "w").close()
    found[name + " run"], found[name + " model"] = run.run_id, model.model_id
client.create_model_version("oak", f"models:/{found['referenced model']}")
old = client.create_logged_model(found["active"], name="old").model_id
client.delete_logged_model(old)
client.create_model_version("oak", f"models:/{found['active model']}")
client.delete_logged_model(found["active model"])
for name in ("gone", "referenced"):
    client.delete_experiment(found[name])
print(json.dumps({**found, "old": old}))
"""


class Instance:
    def __init__(self, version, folder):
        self.version, self.folder = version, folder
        self.run("-c", "import prepare; prepare.migrate()")
        self.runs = self.run("-c", FILL).strip().splitlines()[-1].split()

    def run(self, *arguments, **variables):
        done = subprocess.run([binaries(self.version) / "python", *arguments], cwd=self.folder, capture_output=True,
                              text=True, timeout=600, check=False,
                              env=environment(self.version, self.folder, **variables))
        assert not done.returncode, done.stderr[-3000:]
        return done.stdout

    def maintain(self, *tasks, dry_run=False, days=0):
        settings = json.dumps({"tasks": tasks, "older_than_seconds": days * 86400, "dry_run": dry_run})
        out = self.run(str(config(self.folder) / "maintain.py"), MAINTENANCE=settings)
        return json.loads(base64.b64decode("".join(line.partition("RESULT ")[2] for line in out.splitlines()
                                                   if line.startswith("RESULT "))))

    def execute(self, statement):
        with sqlite3.connect(self.folder / "mlflow.db") as connection:
            return connection.execute(statement).fetchall()

    def artifacts(self, run):
        return [path for path in (self.folder / "artifacts/1" / run).rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def instance(newest, tmp_path_factory):
    return Instance(newest, tmp_path_factory.mktemp("maintain"))


def test_a_dry_run_reports_and_the_tasks_do_it(instance):
    kept, gone, active = instance.runs
    instance.execute("DROP INDEX index_tags_run_uuid")
    before = (instance.folder / "mlflow.db").read_bytes()
    found = instance.maintain("gc", "vacuum", "reindex", dry_run=True)
    assert found["gc"]["runs"] == [gone] and found["gc"]["spared"] == {kept: ["forest 1 (alias champion)"]}
    assert found["indexes"] == {"missing": ["tags: index_tags_run_uuid (run_uuid)"], "invalid": []}
    assert sorted(found["orphans"]["folders"]) == ["1/" + "f" * 32 + "/", "99/"]
    assert [entry.partition(":")[0] for entry in found["orphans"]["versions"]] == ["forest 3"]
    assert found["database"]["bytes"] == len(before) and found["done"] == []
    assert (instance.folder / "mlflow.db").read_bytes() == before

    found = instance.maintain("gc", "vacuum", "reindex")
    assert found["done"] == ["removed 1 deleted runs", "CREATE INDEX index_tags_run_uuid", "ANALYZE"]
    assert not found["gc"]["failed"]
    left = {row[0] for row in instance.execute("SELECT run_uuid FROM runs")}
    assert left == {kept, active}
    assert not instance.artifacts(gone) and instance.artifacts(kept) and instance.artifacts(active)
    assert instance.execute("SELECT count(*) FROM sqlite_stat1")[0][0] > 0
    assert instance.execute("SELECT 1 FROM sqlite_master WHERE name = 'index_tags_run_uuid'")


def test_the_cron_job_removes_what_was_deleted_and_spares_what_a_version_refers_to(newest, tmp_path):
    instance = Instance(newest, tmp_path)
    found = json.loads(instance.run("-c", DELETE).strip().splitlines()[-1])
    program = str(config(tmp_path) / "maintain.py")
    assert "nothing was removed" in instance.run(program, "gc", GC_OLDER_THAN="1d12h")

    out = instance.run(program, "gc", GC_OLDER_THAN="")
    # A run of FILL, too.
    assert "removed 2 deleted runs, removed 2 deleted logged models, removed 1 deleted experiments" in out, out
    assert f"{found['referenced run']} stays, since a registered version is from it: oak 1" in out
    assert f"{found['active model']} stays, since a registered version is from it: oak 2" in out
    left = {table: {str(row[0]) for row in instance.execute(f"SELECT {key} FROM {table}")}
            for table, key in (("experiments", "experiment_id"), ("runs", "run_uuid"), ("logged_models", "model_id"))}
    assert {name for name in ("gone", "referenced", "active") if found[name] in left["experiments"]} == {
        "referenced", "active"}
    assert left["logged_models"] == {found["referenced model"], found["active model"]}
    assert found["gone run"] not in left["runs"] and found["referenced run"] in left["runs"]
    files = {path.relative_to(tmp_path / "artifacts").parts[0] for path in (tmp_path / "artifacts").rglob("*")
             if path.is_file()}
    assert "gone" not in files and {"referenced", "active"} <= files
