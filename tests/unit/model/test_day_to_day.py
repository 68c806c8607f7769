# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What maintenance and the rehearsal of an upgrade report, and the Job of maintenance."""

from __future__ import annotations

import json

import pytest

from ansible_collections.mlops.mlflow.plugins.action import mlflow_maintenance, mlflow_upgrade_info
from ansible_collections.mlops.mlflow.plugins.plugin_utils import backups, components, render, templating
from model_tests import resolved

REPORT = {
    "database": {"bytes": 3 * 2**20, "free_bytes": 2**20, "tables": [{"name": "metrics", "bytes": 2**20, "rows": 12,
                                                                      "dead_rows": 3}]},
    "database_after": {"bytes": 2 * 2**20, "free_bytes": 0, "tables": []},
    "indexes": {"missing": ["runs: by_name (name)"], "invalid": []},
    "gc": {"runs": [f"run{number}" for number in range(12)], "models": ["m-1"], "experiments": [],
           "spared": {"kept": ["forest 1 (alias champion)"]}},
    "orphans": {"folders": ["1/abc/"], "count": 5000, "versions": ["forest 3: mlflow-artifacts:/1/x"], "reason": ""},
    "done": ["VACUUM (ANALYZE)"],
}


def test_maintenance_in_sentences():
    lines = mlflow_maintenance.lines(REPORT)
    assert lines[0] == "The database has 3.0 MiB, of which 1.0 MiB are free."
    assert "  metrics: 1.0 MiB, about 12 rows, 3 dead" in lines
    assert "Indexes that are missing: runs: by_name (name)." in lines
    assert any(line.endswith("run9 and 2 more.") for line in lines)
    assert ("Deleted runs and models that stay, since a registered version is from them: kept (forest 1 (alias"
            " champion)).") in lines
    assert "Deleted logged models that gc removes: m-1." in lines
    assert not any(line.startswith("Deleted experiments") for line in lines)
    assert "Folders of artifacts without rows: 1/abc/ and 4990 more." in lines
    assert lines[-1] == "The database has 2.0 MiB now."
    assert not any("built to their end" in line for line in lines)


@pytest.mark.parametrize("variables", [
    {}, {"database_type": "sqlite"}, {"mlflow_server_auth": "basic"}, {"mlflow_server_tls_secret": "tls"},
])
def test_the_job_of_maintenance_has_the_server_s_environment(variables):
    component, model = components.by_role("mlflow_server"), resolved(variables)
    job = render.render_one(component, model, {}, "maintain.yaml.j2",
                            maintenance={"settings": {"tasks": ["gc"]}, "timeout": 60})
    (container,) = job["spec"]["template"]["spec"]["containers"]
    env = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert json.loads(env["MAINTENANCE"]) == {"tasks": ["gc"]} and env["MLFLOW_TRACKING_URI"].startswith("http")
    assert container["command"] == ["python3", "/etc/mlflow/maintain.py"]
    assert ("MLFLOW_TRACKING_PASSWORD" in env) == ("mlflow_server_auth" in variables)
    assert ("affinity" in job["spec"]["template"]["spec"]) == ("database_type" in variables)


def rehearsal(**changes):
    downgrade = {"possible": True, "reason": "", "longer_columns": ["experiment_tags.value"], **changes}
    return {"seconds": 1.5, "to": "3.17.2", "new_tables": ["issues"], "lost_indexes": ["runs: by_name (name)"],
            "fewer_rows": {"trace_tags": [9, 0]}, "prepopulate_reason": "", "downgrade": downgrade}


def test_a_rehearsal_says_before_what_a_rollback_would_lose():
    lines = backups.rehearsal_lines(rehearsal(), closed=False)
    assert "New tables: issues." in lines and "Table trace_tags has 0 of 9 rows afterwards." in lines
    assert "Indexes that the migration loses: runs: by_name (name)." in lines
    assert lines[-2:] == [
        "The server answers during the upgrade.",
        "A rollback undoes the migration, and what is logged meanwhile stays (columns that stay longer:"
        " experiment_tags.value).",
    ]
    without = rehearsal(possible=False, reason="The downgrade of abc does nothing.")
    lines = backups.rehearsal_lines(without, closed=True)
    assert lines[-2:] == ["The server is closed during the migration.", "A rollback restores the backup, and what is"
                          " logged after the upgrade would be lost. The downgrade of abc does nothing."]


def test_an_upgrade_to_the_image_that_runs_is_refused():
    model = resolved({"mlflow_server_image": "registry.example.com/mlflow:1"})
    with pytest.raises(templating.Failure, match=r"^mlflow_server_image is registry.example.com/mlflow:1, which runs "
                                                 r"already; set it to an image of MLflow 3\.17\.2\.$"):
        list(mlflow_upgrade_info._obstacles(model, "3.17.2", "registry.example.com/mlflow:1"))
    assert "it must hold MLflow 3.17.2" in next(mlflow_upgrade_info._obstacles(model, "3.17.2", "mlflow:0"))
