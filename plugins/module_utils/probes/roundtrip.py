# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The probe of what a client does with MLflow, from an experiment to a registered model, by MLflow's REST API.

Of the collection it imports only what plugin_utils/program.py can bring into a pod.
"""

from __future__ import annotations

import os
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid

from ansible_collections.mlops.mlflow.plugins.module_utils import mlflow_api, stores

API = "/api/2.0/mlflow/"
ARTIFACTS = "/api/2.0/mlflow-artifacts/"
METRICS = 20
BEGINNING = "mlops-mlflow-probe-"
"""Of the names of all that probes create in MLflow."""
FILE = "probe.bin"


def probe(checks, parameters):
    """Create an experiment, a run, metrics, an artifact and a registered model; read and compare them; remove
    everything.

    Args:
        checks: collects the results; steps need its check ``api``, if it has one.
        parameters: url (without the path prefix), path_prefix, connect, ca, ca_file, validate_certs, timeout, username
            and password, token, environment (log in as the administrator of the server's own environment),
            artifact_size_mb (in MiB), presigned (also fetch the artifact by a URL that the server signs), periodic
            (use the same experiment, run and registered model each time).
    """
    checks.facts.update(upload_mb_s=None, download_mb_s=None)
    kind = PeriodicRoundTrip if parameters.get("periodic") else RoundTrip
    kind(checks, mlflow_api.from_parameters(parameters), parameters).run()


class RoundTrip:
    """The steps of a client, and the removal of all that they created."""

    def __init__(self, checks, server, parameters):
        self.checks, self.server, self.parameters = checks, server, parameters
        self.name = f"{BEGINNING}{uuid.uuid4().hex[:12]}"
        self.payload = os.urandom(2**20) * int(parameters.get("artifact_size_mb") or 1)
        self.experiment = self.run_id = self.artifacts = None
        self.uploaded = self.model = False

    def run(self):
        """Run all steps; each needs those before it, and the removal comes in any case."""
        done = ["api"]
        steps = [self.experiment_created, self.run_logged, self.artifact_uploaded, self.artifact_downloaded]
        if self.parameters.get("presigned"):
            steps.append(self.artifact_presigned)
        for step in (*steps, self.model_registered):
            name = f"roundtrip: {step.__name__.replace('_', ' ')}"
            self.checks.run(name, step, needs=tuple(done))
            done.append(name)
        if self.experiment or self.model:
            self.checks.run("roundtrip: everything removed", self.removed)

    def post(self, path, **body):
        return self.server.call(API + path, body)

    def experiment_created(self):
        with self.checks.timed("create_experiment"):
            self.experiment = self.post("experiments/create", name=self.name)["experiment_id"]

    def run_logged(self):
        now = int(time.time() * 1000)
        with self.checks.timed("create_run"):
            created = self.post("runs/create", experiment_id=self.experiment, start_time=now, run_name=self.name)
        info = created["run"]["info"]
        self.run_id = info["run_id"]
        self.artifacts = artifacts_at(self.server, info["artifact_uri"])
        with self.checks.timed("log_param"):
            self.post("runs/log-parameter", run_id=self.run_id, key="purpose", value="probe")
        for step in range(METRICS):
            with self.checks.timed("log_metric"):
                self.post("runs/log-metric", run_id=self.run_id, key="series", value=float(step), step=step,
                          timestamp=now + step)
        with self.checks.timed("read_run"):
            data = self.server.call(API + "runs/get", run_id=self.run_id)["run"]["data"]
        found = {entry["key"]: entry["value"] for entry in data.get("params", [])}
        # Without max_results, MLflow older than 3.15 may take it for 0 and return none.
        history = self.server.call(API + "metrics/get-history", run_id=self.run_id, metric_key="series",
                                   max_results=METRICS)
        values = sorted(float(entry["value"]) for entry in history.get("metrics", []))
        if found != {"purpose": "probe"} or values != [float(step) for step in range(METRICS)]:
            raise RuntimeError(f"what was logged is not what is read: {found}, {len(values)} of {METRICS} "
                               "metric values")
        return f"1 parameter, {METRICS} metric values"

    def artifact_uploaded(self):
        begun = time.monotonic()
        self.uploaded = True  # also when it fails half-way there is something to remove
        with self.checks.timed("upload"):
            self.artifacts.write(FILE, self.payload)
        self.checks.facts["upload_mb_s"] = round(len(self.payload) / 1e6 / (time.monotonic() - begun), 1)
        return f"{self.checks.facts['upload_mb_s']} MB/s"

    def artifact_downloaded(self):
        begun = time.monotonic()
        with self.checks.timed("download"):
            found = self.artifacts.read(FILE)
        self.checks.facts["download_mb_s"] = round(len(self.payload) / 1e6 / (time.monotonic() - begun), 1)
        self.compare(found)
        return f"{self.checks.facts['download_mb_s']} MB/s, the same bytes"

    def artifact_presigned(self):
        with self.checks.timed("presigned_download"):
            found, host = self.artifacts.read_presigned(FILE)
        self.compare(found)
        return f"the same bytes from {host}"

    def compare(self, found):
        if found != self.payload:
            raise RuntimeError(f"the artifact that came back, {len(found)} bytes, is not the one that was sent, "
                               f"{len(self.payload)} bytes")

    def model_registered(self):
        source = self.server.call(API + "runs/get", run_id=self.run_id)["run"]["info"]["artifact_uri"] + "/" + FILE
        with self.checks.timed("register_model"):
            self.post("registered-models/create", name=self.name)
            self.model = True
            version = self.post("model-versions/create", name=self.name, source=source, run_id=self.run_id)
        version = version["model_version"]["version"]
        with self.checks.timed("set_alias"):
            self.post("registered-models/alias", name=self.name, alias="champion", version=version)
        answer = self.server.call(API + "registered-models/alias", name=self.name, alias="champion")
        found = answer["model_version"]["version"]
        if found != version:
            raise RuntimeError(f"the alias leads to version {found}, and it was set on version {version}")

    def removed(self):
        """Undo everything; the first problem is raised after all was tried."""
        undo = []
        if self.model:
            undo.append(lambda: self.server.call(API + "registered-models/delete", {"name": self.name}, "DELETE"))
        if self.uploaded:
            undo.append(lambda: self.artifacts.delete(FILE))
        if self.run_id:
            undo.append(lambda: self.post("runs/delete", run_id=self.run_id))
        if self.experiment:
            undo.append(lambda: self.post("experiments/delete", experiment_id=self.experiment))
        problems = []
        for step in undo:
            try:
                step()
            except Exception as error:
                problems.append(error)
        if problems:
            raise problems[0]
        return "the run and its experiment are deleted, and kept by MLflow until `mlflow gc`"


class PeriodicRoundTrip(RoundTrip):
    """The steps of a client in the experiment, the run and the registered model of the last time.

    MLflow keeps what is deleted until ``mlflow gc``, so that round trips every few minutes would fill its database, and
    each new model would call the webhooks of users. What each time adds is one value of a metric.
    """

    def __init__(self, checks, server, parameters):
        super().__init__(checks, server, parameters)
        self.name = f"{BEGINNING}periodic"
        self.value = int(time.time() * 1000)

    def experiment_created(self):
        with self.checks.timed("get_experiment"):
            found = self.found("experiments/get-by-name", "experiment", experiment_name=self.name)
        if not found:
            return super().experiment_created()
        self.experiment = found["experiment_id"]
        if found["lifecycle_stage"] == "deleted":
            self.post("experiments/restore", experiment_id=self.experiment)
        return "it is there already"

    def run_logged(self):
        with self.checks.timed("search_runs"):
            found = self.post("runs/search", experiment_ids=[self.experiment], max_results=1).get("runs")
        if not found:
            found = [self.post("runs/create", experiment_id=self.experiment, start_time=self.value,
                               run_name=self.name)["run"]]
        info = found[0]["info"]
        self.run_id = info["run_id"]
        self.artifacts = artifacts_at(self.server, info["artifact_uri"])
        with self.checks.timed("log_metric"):
            self.post("runs/log-metric", run_id=self.run_id, key="series", value=self.value, timestamp=self.value)
        with self.checks.timed("read_run"):
            data = self.server.call(API + "runs/get", run_id=self.run_id)["run"]["data"]
        values = [int(entry["value"]) for entry in data.get("metrics", [])]
        if values != [self.value]:
            raise RuntimeError(f"what was logged is not what is read: {values} instead of {self.value}")
        return "1 metric value"

    def model_registered(self):
        if not self.found("registered-models/get", "registered_model", name=self.name):
            with self.checks.timed("register_model"):
                self.post("registered-models/create", name=self.name)
        with self.checks.timed("update_model"):
            self.server.call(API + "registered-models/update", {"name": self.name, "description": f"{self.value}"},
                             "PATCH")
        found = self.server.call(API + "registered-models/get", name=self.name)["registered_model"]
        if found.get("description") != f"{self.value}":
            raise RuntimeError("the description of the registered model is not the one that was written")
        return "the description was written and read"

    def found(self, path, key, **query):
        """What MLflow has, or None."""
        try:
            return self.server.call(API + path, **query)[key]
        except mlflow_api.ApiError as error:
            if error.missing:
                return None
            raise

    def removed(self):
        if not self.uploaded:
            return "there was nothing to remove"
        self.artifacts.delete(FILE)
        return "the artifact is deleted"


def artifacts_at(server, uri):
    """What reads and writes a run's artifacts: the server for proxied ones, else the store's own client.

    Args:
        server: the MLflow server.
        uri: the run's artifact URI.
    """
    parts = urllib.parse.urlsplit(uri)
    if parts.scheme == "mlflow-artifacts":
        return Proxied(server, parts.path.strip("/"))
    return stores.open_store(stores.from_uri(uri))


class Proxied:
    """Artifacts that pass through the server."""

    def __init__(self, server, path):
        self.server, self.path = server, urllib.parse.quote(path)

    def write(self, name, payload):
        self.server.send(f"{ARTIFACTS}artifacts/{self.path}/{name}", payload,
                         {"Content-Type": "application/octet-stream"}, "PUT")

    def read(self, name):
        return self.server.send(f"{ARTIFACTS}artifacts/{self.path}/{name}")

    def read_presigned(self, name):
        """The artifact by a URL that the server signs, and that URL's host. MLflow has these since 3.15."""
        signed = self.server.call(f"{ARTIFACTS}presigned/{self.path}/{name}")
        host = urllib.parse.urlsplit(signed["url"]).netloc
        tls = ssl.create_default_context(cafile=os.environ.get("AWS_CA_BUNDLE") or None)
        if stores.tls_ignored(os.environ):
            tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
        request = urllib.request.Request(signed["url"], headers=signed.get("headers") or {})
        try:
            opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=tls))
            with opener.open(request, timeout=self.server.timeout) as answer:
                return answer.read(), host
        except (urllib.error.URLError, OSError) as error:
            raise RuntimeError(f"the URL that the server signed leads to {host}, which fails: {error}") from error

    def delete(self, _name):
        """Remove all artifacts of the run, with their folder."""
        self.server.send(f"{ARTIFACTS}artifacts/{self.path}/", method="DELETE")
