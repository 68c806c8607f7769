# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A round trip with MLflow's client: client.py URL write|read."""

from __future__ import annotations

import pathlib
import sys
import tempfile

import mlflow
from mlflow import MlflowClient

EXPERIMENT, MODEL, TEXT = "molecule", "molecule-model", "kept\n" * 1000


def write() -> None:
    mlflow.set_experiment(EXPERIMENT)
    with mlflow.start_run() as run:
        mlflow.log_param("alpha", 0.5)
        for step in range(5):
            mlflow.log_metric("loss", 1 / (step + 1), step=step)
        mlflow.log_text(TEXT, "notes.txt")
    client = MlflowClient()
    client.create_registered_model(MODEL)
    version = client.create_model_version(MODEL, f"{run.info.artifact_uri}/notes.txt", run.info.run_id)
    client.set_registered_model_alias(MODEL, "champion", version.version)


def read() -> None:
    (run,) = mlflow.search_runs(experiment_names=[EXPERIMENT], output_format="list")
    assert run.data.params == {"alpha": "0.5"}, run.data.params
    assert run.data.metrics["loss"] == 0.2, run.data.metrics
    with tempfile.TemporaryDirectory() as folder:
        path = mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="notes.txt", dst_path=folder)
        assert pathlib.Path(path).read_text() == TEXT
    assert MlflowClient().get_model_version_by_alias(MODEL, "champion").run_id == run.info.run_id


if __name__ == "__main__":
    mlflow.set_tracking_uri(sys.argv[1])
    if sys.argv[2] == "write":
        write()
    read()
