# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What users see of an instance, by MLflow's client.

usage: contents.py URL COMMAND...
       fill=RUNS       log runs with metrics and artifacts, models, aliases, prompts, traces and a webhook, and read
                       them back
       write=FILE      write all of it to a file, as JSON
       remove          delete it
       compare=FILE    fail unless all that is in the file is there, and is the same

With MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, those of an administrator, a user is made and logs in, too.
"""

from __future__ import annotations

import base64
import concurrent.futures
import hashlib
import json
import os
import pathlib
import sys
import tempfile
import urllib.request
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, ViewType
from mlflow.entities.webhook import WebhookAction, WebhookEntity, WebhookEvent, WebhookStatus

EXPERIMENT = "contents"
USER = ("anna", "anna-logs-in-by-this")
HOOK = "https://1.1.1.1/hook"
"""An address that servers accept without a look-up; nothing is sent, since the webhook is disabled."""


def text_of(number: int) -> str:
    """The artifact of a run."""
    return f"{number}\n" * (number % 50 + 1)


def fill(client: MlflowClient, runs: str) -> None:
    """Log and register everything, and read it back."""
    experiment = client.create_experiment(EXPERIMENT)

    def log(number: int) -> str:
        run = client.create_run(experiment, run_name=f"run {number}").info.run_id
        client.log_batch(run, [Metric("loss", 1 / (step + 1), 10**12 + step, step) for step in range(10)],
                         [Param("number", str(number))])
        client.log_text(run, text_of(number), "notes.txt")
        client.set_terminated(run)
        return run

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        logged = list(pool.map(log, range(int(runs))))
    client.delete_run(logged[-1])
    for number, run in enumerate(logged[:5]):
        name = f"model {number % 2}"
        if number < 2:
            client.create_registered_model(name)
        version = client.create_model_version(name, f"{client.get_run(run).info.artifact_uri}/notes.txt", run)
        client.set_registered_model_alias(name, "champion", version.version)
    for text in ("Say {{word}}", "Please say {{word}}"):
        client.register_prompt("greeting", text)
    client.set_prompt_alias("greeting", "production", 1)
    for number in range(5):
        span = client.start_trace(f"trace {number}", inputs={"question": number}, experiment_id=experiment)
        client.end_trace(span.trace_id, outputs={"answer": number})
    mlflow.flush_trace_async_logging()
    client.create_webhook("hook", HOOK, [WebhookEvent(WebhookEntity.REGISTERED_MODEL, WebhookAction.CREATED)],
                          secret="of-the-hook", status=WebhookStatus.DISABLED)
    if os.environ.get("MLFLOW_TRACKING_USERNAME"):
        request(client, "users/create", {"username": USER[0], "password": USER[1]})
    found = read(client)
    notes = hashlib.sha256(text_of(0).encode()).hexdigest()
    assert found[f"run {logged[0]}"] == ["run 0", "FINISHED", "active", {"number": "0"}, {"loss": 0.1}, notes]
    assert sum(name.startswith("run ") for name in found) == len(logged)
    assert sum(name.startswith("trace ") for name in found) == 5 and found["webhooks"]
    assert found["model model 0"][0] == {"champion": "3"} and found["prompt"][0] == 1


def request(client: MlflowClient, path: str, fields: dict | None = None, login: tuple[str, str] | None = None) -> Any:
    """Call MLflow's REST API."""
    user, password = login or (os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"])
    token = base64.b64encode(f"{user}:{password}".encode()).decode()
    made = urllib.request.Request(f"{client.tracking_uri}/api/2.0/mlflow/{path}",
                                  json.dumps(fields).encode() if fields else None,
                                  {"Content-Type": "application/json", "Authorization": f"Basic {token}"})
    with urllib.request.urlopen(made, timeout=60) as answer:
        return json.load(answer)


def read(client: MlflowClient) -> dict[str, Any]:
    """Everything, as plain values by what it is."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    found: dict[str, Any] = {}
    token = None
    while True:
        page = client.search_runs([experiment.experiment_id], run_view_type=ViewType.ALL, max_results=1000,
                                  page_token=token)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            for run, notes in zip(page, pool.map(lambda run: digest(client, run), page)):
                found[f"run {run.info.run_id}"] = [run.info.run_name, run.info.status, run.info.lifecycle_stage,
                                                   run.data.params, run.data.metrics, notes]
        token = page.token
        if not token:
            break
    for model in client.search_registered_models():
        found[f"model {model.name}"] = [{name: str(version) for name, version in model.aliases.items()}, model.tags, [
            [str(version.version), version.run_id, version.source]
            for version in client.search_model_versions(f"name = '{model.name}'")]]
    prompt = client.get_prompt_version_by_alias("greeting", "production")
    found["prompt"] = [prompt.version, prompt.template, client.get_prompt_version("greeting", 2).template]
    for trace in client.search_traces([experiment.experiment_id], max_results=100):
        found[f"trace {trace.info.trace_id}"] = [[span.name, span.inputs, span.outputs] for span in trace.data.spans]
    found["webhooks"] = [[hook.name, hook.url, str(hook.status)] for hook in client.list_webhooks()]
    if os.environ.get("MLFLOW_TRACKING_USERNAME"):
        found["user"] = request(client, f"users/get?username={USER[0]}")["user"]["username"]
        found["login"] = len(request(client, "experiments/search?max_results=10", login=USER)["experiments"]) > 0
    return json.loads(json.dumps(found))


def digest(client: MlflowClient, run: Any) -> str:
    """SHA-256 of a run's artifact; none of a deleted run is asked for."""
    if run.info.lifecycle_stage != "active":
        return ""
    with tempfile.TemporaryDirectory() as folder:
        path = client.download_artifacts(run.info.run_id, "notes.txt", folder)
        return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def write(client: MlflowClient, path: str) -> None:
    """Write everything to a file."""
    found = read(client)
    pathlib.Path(path).write_text(json.dumps(found, indent=1, sort_keys=True))
    print(f"{len(found)} things are there")


def remove(client: MlflowClient, _argument: str) -> None:
    """Delete what can be deleted."""
    client.delete_experiment(client.get_experiment_by_name(EXPERIMENT).experiment_id)
    for model in client.search_registered_models():
        client.delete_registered_model(model.name)
    for hook in client.list_webhooks():
        client.delete_webhook(hook.webhook_id)


def compare(client: MlflowClient, path: str) -> None:
    """Fail where something is missing or another than in a file."""
    wanted, found = json.loads(pathlib.Path(path).read_text()), read(client)
    different = [f"{name}: {found.get(name)} instead of {value}" for name, value in wanted.items()
                 if found.get(name) != value]
    print(f"{len(wanted)} things were there, {len(different)} are missing or others", *different[:10], sep="\n")
    if different or not wanted:
        sys.exit(1)


def main(url: str, *commands: str) -> None:
    """Do the commands, in turn."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    mlflow.set_tracking_uri(url)
    client = MlflowClient(url, url)
    for command in commands:
        name, _equals, argument = command.partition("=")
        {"fill": fill, "write": write, "remove": remove, "compare": compare}[name](client, argument)


if __name__ == "__main__":
    main(*sys.argv[1:])
