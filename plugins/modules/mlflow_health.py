#!/usr/bin/python
# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: mlflow_health
short_description: Ask an MLflow server how it is, up to a client's whole story
version_added: 0.1.0
author: mlops.mlflow contributors (@mlops)
description:
  - Asks C(/health) and C(/version), the API, the user interface, and whether each name by which people reach the server is let in.
  - With O(roundtrip), lives through a client's whole story - experiment, run, parameters, a series of metrics, an artifact up and
    down compared byte for byte, a registered model and its alias - and removes everything that it made.
  - Measures and returns; it fails only when it cannot measure at all.
requirements:
  - mlflow or mlflow-skinny where the module runs, for O(roundtrip)
options:
  username:
    description: User for basic authentication.
    type: str
  password:
    description: Password for basic authentication.
    type: str
  expected_version:
    description: Version that the server must have.
    type: str
  allowed_hosts:
    description: Host names that the server must let in.
    type: list
    elements: str
    default: []
  login_elsewhere:
    description:
      - Whether people log in at an identity provider (OpenID Connect) before the server answers them. Then it is only asked for
        C(/health), whether it refuses the API to whoever has no token, and whether it sends a browser to the provider.
    type: bool
    default: false
  roundtrip:
    description: Whether to live through a client's story. In check mode it is left out.
    type: bool
    default: false
  artifact_size_mb:
    description: Size of the story's artifact, in MiB.
    type: int
    default: 1
  samples:
    description: How many requests the latency of the API is taken from.
    type: int
    default: 10
extends_documentation_fragment:
  - mlops.mlflow.reach
  - mlops.mlflow.server
  - mlops.mlflow.health
"""

EXAMPLES = r"""
- name: A server by its URL
  mlops.mlflow.mlflow_health:
    url: https://mlflow.example.com
    username: probe
    password: "{{ vaulted_password }}"

- name: A door whose name is in no DNS, with an authority of its own
  mlops.mlflow.mlflow_health:
    engine: podman
    namespace: team-a
    service: team-a-ingress
    url: https://mlflow.test:8443/team/ana
    connect: 127.0.0.1:8443
    ca_secret: team-a-ingress-ca

- name: An instance on a cluster, proven by a client
  mlops.mlflow.mlflow_health:
    engine: kubernetes
    namespace: team-a
    service: team-a-server
    roundtrip: true
  register: server
"""

RETURN = r"""
healthy:
  description: Whether every check is ok. The module does not fail when it is V(false); that is for the play to decide.
  type: bool
  returned: always
checks:
  description: The checks, in order. One that could not run is not ok.
  type: list
  elements: dict
  returned: always
  contains:
    name:
      description: What was checked.
      type: str
    ok:
      description: Whether it is as it should be.
      type: bool
    duration_ms:
      description: How long the check took, in milliseconds.
      type: float
    detail:
      description: What was found, or what is wrong.
      type: str
failures:
  description: The checks that are not ok, each as name and detail.
  type: list
  elements: str
  returned: always
latency_ms:
  description: For each step that was timed, C(p50) and C(p95) in milliseconds, and the number of C(samples).
  type: dict
  returned: always
ca_certificate:
  description: The C(ca.crt) of O(ca_secret), as PEM.
  type: str
  returned: with ca_secret that has one
version:
  description: Version of the server.
  type: str
  returned: when it answers
upload_mb_s:
  description: Throughput of the artifact upwards, in MB per second.
  type: float
  returned: with roundtrip
download_mb_s:
  description: Throughput of the artifact downwards, in MB per second.
  type: float
  returned: with roundtrip
"""

import os
import re
import tempfile
import time
import urllib.parse
import uuid

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.mlops.mlflow.plugins.module_utils import mlflow_api, reach
from ansible_collections.mlops.mlflow.plugins.module_utils.checks import Checks

METRICS = 20


def measure(checks, server, params, check_mode):
    """Ask the server everything that the options ask for."""
    def version():
        checks.facts["version"] = server.ask("/version").strip()
        if params["expected_version"] and checks.facts["version"] != params["expected_version"]:
            raise RuntimeError(f"the server is {checks.facts['version']}, and {params['expected_version']} is wanted")
        return checks.facts["version"]

    def api(headers=None):
        server.ask("/api/2.0/mlflow/experiments/search", {"max_results": 1}, headers)

    def api_latency():
        for _sample in range(params["samples"]):
            with checks.timed("api"):
                api()
        return f"p95 {checks.report()['latency_ms']['api']['p95']} ms"

    def hosts():
        for host in params["allowed_hosts"]:
            try:
                api({"Host": host})
            except RuntimeError as error:
                raise RuntimeError(f"a request to the name {host} is refused: {error}; add it to mlflow_server_allowed_hosts") from error
        return ", ".join(params["allowed_hosts"])

    def interface():
        with checks.timed("ui"):
            page = server.ask("/")
            script = re.search(r'<script[^>]+src="([^"]+)"', page)
            if not script:
                raise RuntimeError("the page at / holds no script; this server has no user interface")
            server.ask("/" + script[1].lstrip("./").removeprefix(params["path_prefix"].strip("/") + "/"))
        return f"page and script in {checks.report()['latency_ms']['ui']['p95']} ms"

    def refusal():
        try:
            api()
        except mlflow_api.ApiError as error:
            if error.status == 401:
                return "who has no token is told so"
            raise
        raise RuntimeError("the API answers whoever comes, without a login")

    def login():
        try:
            server.ask("/", follow=False)
        except mlflow_api.ApiError as error:
            there = urllib.parse.urlsplit(error.location or "")
            back = urllib.parse.parse_qs(there.query).get("redirect_uri")
            if error.status == 302 and there.netloc and back:
                return f"at {there.netloc}, from where people come back to {back[0]}"
            raise
        raise RuntimeError("the page at / is shown to whoever comes, without a login")

    checks.facts["version"] = None
    checks.run("http", lambda: server.ask("/health").strip())
    if params["login_elsewhere"]:
        checks.run("refusal", refusal, needs=("http",))
        checks.run("login", login, needs=("http",))
        return
    checks.run("version", version, needs=("http",))
    checks.run("api", api_latency, needs=("http",))
    if params["allowed_hosts"]:
        checks.run("hosts", hosts, needs=("api",))
    checks.run("ui", interface, needs=("http",))
    if params["roundtrip"] and not check_mode:
        checks.facts.update(upload_mb_s=None, download_mb_s=None)
        Story(checks, server, params).run()


class Story:
    """What a client does with MLflow, step by step, and the removal of all that it made."""

    def __init__(self, checks, server, params):
        self.checks, self.server, self.params = checks, server, params
        self.name = f"mlops-mlflow-probe-{uuid.uuid4().hex[:12]}"
        self.client = self.experiment = self.run_id = None
        self.payload = os.urandom(2**20) * params["artifact_size_mb"]
        self.model = False

    def run(self):
        """All steps; each needs those before it, and the end comes in any case."""
        done = ["api"]
        for step in (self.experiment_made, self.run_logged, self.artifact_up, self.artifact_down, self.model_registered):
            self.checks.run(f"roundtrip: {step.__name__.replace('_', ' ')}", step, needs=tuple(done))
            done.append(f"roundtrip: {step.__name__.replace('_', ' ')}")
        if self.experiment or self.model:
            self.checks.run("roundtrip: all removed", self.removed)

    def experiment_made(self):
        os.environ.update({name: str(value) for name, value in {
            "MLFLOW_TRACKING_USERNAME": self.server.username, "MLFLOW_TRACKING_PASSWORD": self.server.password,
            "MLFLOW_TRACKING_TOKEN": self.params["token"], "MLFLOW_TRACKING_SERVER_CERT_PATH": self.server.params["ca_file"],
            "MLFLOW_TRACKING_INSECURE_TLS": None if self.params["validate_certs"] else "true",
            "MLFLOW_HTTP_REQUEST_TIMEOUT": self.params["timeout"], "MLFLOW_HTTP_REQUEST_MAX_RETRIES": 1,
            "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false", "MLFLOW_DISABLE_TELEMETRY": "true", "GIT_PYTHON_REFRESH": "quiet",
            "NO_PROXY": "127.0.0.1,localhost"}.items() if value is not None})
        from mlflow import MlflowClient

        self.client = MlflowClient(self.server.url, self.server.url)
        with self.checks.timed("create_experiment"):
            self.experiment = self.client.create_experiment(self.name)

    def run_logged(self):
        with self.checks.timed("create_run"):
            self.run_id = self.client.create_run(self.experiment).info.run_id
        with self.checks.timed("log_param"):
            self.client.log_param(self.run_id, "purpose", "probe")
        for step in range(METRICS):
            with self.checks.timed("log_metric"):
                self.client.log_metric(self.run_id, "series", float(step), step=step)
        with self.checks.timed("read_run"):
            found = self.client.get_run(self.run_id).data
        history = [m.value for m in self.client.get_metric_history(self.run_id, "series")]
        if found.params != {"purpose": "probe"} or sorted(history) != [float(s) for s in range(METRICS)]:
            raise RuntimeError(f"what was logged is not what is read: {found.params}, {len(history)} of {METRICS} metric values")
        return f"1 parameter, {METRICS} metric values"

    def artifact_up(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "probe.bin")
            with open(path, "wb") as file:
                file.write(self.payload)
            begun = time.monotonic()
            with self.checks.timed("upload"):
                self.client.log_artifact(self.run_id, path)
            self.checks.facts["upload_mb_s"] = round(len(self.payload) / 1e6 / (time.monotonic() - begun), 1)
        return f"{self.checks.facts['upload_mb_s']} MB/s"

    def artifact_down(self):
        with tempfile.TemporaryDirectory() as folder:
            begun = time.monotonic()
            with self.checks.timed("download"):
                path = self.client.download_artifacts(self.run_id, "probe.bin", folder)
            self.checks.facts["download_mb_s"] = round(len(self.payload) / 1e6 / (time.monotonic() - begun), 1)
            with open(path, "rb") as file:
                if file.read() != self.payload:
                    raise RuntimeError("the artifact that came back is not the one that was sent")
        return f"{self.checks.facts['download_mb_s']} MB/s, the same bytes"

    def model_registered(self):
        with self.checks.timed("register_model"):
            self.client.create_registered_model(self.name)
            self.model = True
            version = self.client.create_model_version(
                self.name, self.client.get_run(self.run_id).info.artifact_uri + "/probe.bin", self.run_id)
        with self.checks.timed("set_alias"):
            self.client.set_registered_model_alias(self.name, "champion", version.version)
        if self.client.get_model_version_by_alias(self.name, "champion").version != version.version:
            raise RuntimeError("the alias does not lead to the version that it was set on")

    def removed(self):
        """Undo everything; the first problem is told after all was tried."""
        problems = []

        def attempt(step, *arguments):
            try:
                step(*arguments)
            except Exception as error:
                problems.append(error)

        if self.model:
            attempt(self.client.delete_registered_model, self.name)
        if self.run_id:
            attempt(self._delete_artifacts)
            attempt(self.client.delete_run, self.run_id)
        if self.experiment:
            attempt(self.client.delete_experiment, self.experiment)
        if problems:
            raise problems[0]
        return "the run and its experiment are in MLflow's trash until `mlflow gc`"

    def _delete_artifacts(self):
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        get_artifact_repository(self.client.get_run(self.run_id).info.artifact_uri, tracking_uri=self.server.url).delete_artifacts()


def main():
    module = AnsibleModule(
        argument_spec={
            **mlflow_api.OPTIONS,
            "username": {"type": "str"}, "password": {"type": "str", "no_log": True}, "expected_version": {"type": "str"},
            "allowed_hosts": {"type": "list", "elements": "str", "default": []}, "login_elsewhere": {"type": "bool", "default": False},
            "roundtrip": {"type": "bool", "default": False},
            "artifact_size_mb": {"type": "int", "default": 1}, "samples": {"type": "int", "default": 10},
        },
        required_together=[("username", "password")],
        mutually_exclusive=[("password", "token", "secret"), ("ca_file", "ca_secret")],
        required_by={"connect": ("url",)},
        supports_check_mode=True,
    )
    params = module.params
    if params["ca_secret"] and params["engine"] == "none":
        module.fail_json(msg="ca_secret is set while engine is none; name the engine that has the Secret, or give ca_file.")
    if params["roundtrip"]:
        try:
            import mlflow.version  # noqa: F401  # pylint: disable=unused-import
        except ImportError:
            module.fail_json(msg=missing_required_lib("mlflow-skinny", reason="for roundtrip"))
    try:
        checks = Checks()
        with mlflow_api.connected(params, params["username"], params["password"]) as server:
            if server.authority:
                checks.facts["ca_certificate"] = server.authority
            measure(checks, server, params, module.check_mode)
        module.exit_json(**checks.report())
    except reach.ReachError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
