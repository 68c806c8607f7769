# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The exporter on the schema, and with the PostgreSQL driver, of each version."""

from __future__ import annotations

import json
import shutil
import subprocess

import mlflow_servers as servers
import pytest

FILES = (servers.ROOT / "roles/monitoring/files/collectors.py",
         *(servers.ROOT / "plugins/module_utils" / name for name in (
             "checks.py", "mlflow_api.py", "stores.py", "probes/database.py", "probes/object_store.py",
             "probes/roundtrip.py")))
CONTENTS = """
import sys
from mlflow import MlflowClient
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
uri, folder = sys.argv[1:]
SqlAlchemyStore(uri, folder)
client = MlflowClient(uri, uri)
experiment = client.create_experiment("one")
client.delete_run(client.create_run(experiment).info.run_id)
client.create_run(experiment)
client.create_registered_model("cat")
client.create_model_version("cat", folder)
client.set_registered_model_alias("cat", "champion", 1)
client.register_prompt("greeting", "Hello")
"""
FOUND = {"mlflow_registered_models": 1, "mlflow_model_versions": 1, "mlflow_model_aliases": 1, "mlflow_prompts": 1,
         "mlflow_traces_last_day": 0, "mlflow_active_experiments": 2, "mlflow_database_up": 1,
         "mlflow_schema_current": 1}


@pytest.fixture
def program(tmp_path):
    folder = tmp_path / "mlflow-monitoring"
    folder.mkdir()
    for file in FILES:
        shutil.copy(file, folder)
    return folder / "collectors.py"


def test_exporter(version, postgresql, program, tmp_path):
    name, python = "exporter_" + version.replace(".", "_"), servers.binaries(version) / "python"
    url = "{user}:{password}@{host}:{port}".format(**postgresql)
    subprocess.run([shutil.which("psql"), f"postgresql://{url}/{postgresql['database']}", "--command",
                    f"CREATE DATABASE {name}"], check=True, capture_output=True)
    subprocess.run([python, "-c", CONTENTS, f"postgresql+psycopg2://{url}/{name}", str(tmp_path)], check=True)
    environment = {"MLFLOW_BACKEND_STORE_URI": f"postgresql://{postgresql['host']}:{postgresql['port']}/{name}",
                   "PGUSER": postgresql["user"], "PGPASSWORD": postgresql["password"]}
    found = {}
    for collector in ("database", "counts"):
        answer = json.loads(subprocess.run([python, program, collector], env=environment, check=True,
                                           capture_output=True).stdout)
        assert not answer["errors"]
        found.update({(metric, *labels.values()): value for metric, labels, value in answer["samples"]})
    assert {metric: found[metric,] for metric in FOUND} == FOUND
    assert found["mlflow_runs", "RUNNING", "active"] == found["mlflow_runs", "RUNNING", "deleted"] == 1
