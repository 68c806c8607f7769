# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The status of an instance as values and as text."""

from __future__ import annotations

import pytest
from ansible_collections.mlops.mlflow.plugins.action import summary
from ansible_collections.mlops.mlflow.plugins.plugin_utils import health, model, status

POD = {"name": "mlflow-server-1", "component": "server", "state": "Running", "ready": True, "restarts": 0,
       "image": "mlflow:1"}


def resolve(**variables) -> model.Model:
    return model.resolve(variables.__getitem__, variables, "mlflow")


def measured(failures=()) -> dict:
    """A report as ``health.measure`` returns it, of the artifact store alone."""
    report = {"healthy": not failures, "checks": [], "failures": list(failures)}
    return {"healthy": not failures, "version": "3.17.2", "url": "http://127.0.0.1:5000", "failures": list(failures),
            "components": {"object_storage": {"object_storage": report}}}


@pytest.mark.parametrize("variables, location", [
    pytest.param({}, "s3://mlflow", id="seaweedfs"),
    pytest.param({"object_storage_type": "gcs", "object_storage_bucket": "artifacts"}, "gs://artifacts", id="gcs"),
    pytest.param({"object_storage_type": "volume"}, "volume mlflow-object-storage-volume", id="volume"),
    pytest.param({"object_storage_type": "ephemeral"}, "folder of the pod", id="ephemeral"),
])
def test_location_of_the_artifact_store(variables, location):
    instance = resolve(mlflow_engine="kubernetes", **variables)
    panel = status.panel(instance, [POD], measured())
    assert panel["artifact_store"]["location"] == location
    assert any(location in line and line.endswith("healthy") for line in status.lines(instance, panel))


def test_failures_are_shown():
    instance = resolve()
    panel = status.panel(instance, [POD | {"ready": False, "state": "CrashLoopBackOff"}],
                         measured(["bucket: does not exist"]))
    lines = status.lines(instance, panel)
    assert not panel["healthy"] and "NOT healthy" in lines[0]
    assert any("NOT healthy: bucket: does not exist" in line for line in lines)
    assert "CrashLoopBackOff" in lines[-1] and "NOT ready" in lines[-1]


def test_what_could_not_be_measured_is_not_called_unhealthy():
    instance = resolve()
    lines = status.lines(instance, status.panel(instance, [POD], measured(["run: no pod.", "run: no pod."])))
    assert any(line.endswith(": not measured: no pod.") for line in lines)


def test_table_shows_the_beginning_of_a_reason():
    result = {"instance": "a", "version": "", "healthy": False, "reason": "word " * 50, "changed": False, "url": ""}
    line = summary.table({"a": result})[1]
    assert "NO: word word" in line and "…  no" in line and len(line) < 100


def test_an_instance_that_is_not_installed():
    instance = resolve()
    panel = status.panel(instance, [], health.not_installed(instance))
    assert not panel["installed"] and not panel["healthy"]
    assert status.lines(instance, panel) == ["MLflow instance mlflow: not installed"]
