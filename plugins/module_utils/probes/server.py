# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The probe of an MLflow server, in its pod, at its ingress, or by any URL.

Of the collection it imports only what plugin_utils/program.py can bring into a pod.
"""

from __future__ import annotations

import re
import urllib.parse

from ansible_collections.mlops.mlflow.plugins.module_utils import mlflow_api
from ansible_collections.mlops.mlflow.plugins.module_utils.probes import roundtrip

WEBHOOK_REQUESTS = 8
"""Enough that several workers answer."""


def probe(checks, parameters):
    """Measure health, version, latency of the API, allowed hosts and the user interface; on request a client's round
    trip.

    Args:
        checks: collects the results.
        parameters: url (without the path prefix), path_prefix, connect, ca, ca_file, validate_certs, timeout, username
            and password, token, environment (log in as the administrator of the server's own environment),
            expected_version, allowed_hosts, samples (requests that the latency is taken from), login_elsewhere (an
            identity provider is in front: check only that it is), webhooks (check that every worker reads webhooks'
            secrets), roundtrip (the checks of probe ``roundtrip`` too), artifact_size_mb, presigned.
    """
    checks.facts["version"] = None
    if parameters.get("login_elsewhere"):
        # Requests without a login are the ones to check.
        parameters = {**parameters, "environment": False, "username": None, "token": None}
    checking = Checking(checks, mlflow_api.from_parameters(parameters), parameters)
    checks.run("http", checking.health)
    if parameters.get("login_elsewhere"):
        checks.run("refusal", checking.refusal, needs=("http",))
        checks.run("login", checking.login, needs=("http",))
        return
    checks.run("version", checking.version, needs=("http",))
    checks.run("api", checking.api_latency, needs=("http",))
    if parameters.get("allowed_hosts"):
        checks.run("hosts", checking.hosts, needs=("api",))
    checks.run("ui", checking.interface, needs=("http",))
    if parameters.get("webhooks"):
        checks.run("webhooks", checking.webhooks, needs=("api",))
    if parameters.get("roundtrip"):
        roundtrip.probe(checks, parameters)


class Checking:
    """The checks of one server."""

    def __init__(self, checks, server, parameters):
        self.checks, self.server, self.parameters = checks, server, parameters

    def p95(self, step):
        """The 95th percentile of a step, in milliseconds."""
        return self.checks.report()["latency_ms"][step]["p95"]

    def api(self, headers=None):
        self.server.ask("/api/2.0/mlflow/experiments/search", {"max_results": 1}, headers)

    def health(self):
        return self.server.ask("/health").strip()

    def version(self):
        found, expected = self.server.ask("/version").strip(), self.parameters.get("expected_version")
        self.checks.facts["version"] = found
        if expected and found != expected:
            raise RuntimeError(f"the server is {found}, and {expected} is expected")
        return found

    def api_latency(self):
        for _sample in range(self.parameters.get("samples") or 10):
            with self.checks.timed("api"):
                self.api()
        return f"p95 {self.p95('api')} ms"

    def hosts(self):
        for host in self.parameters["allowed_hosts"]:
            try:
                self.api({"Host": host})
            except mlflow_api.ApiError as error:
                raise RuntimeError(f"a request to the name {host} is refused: {error}; add it to "
                                   f"mlflow_server_allowed_hosts") from error
        return ", ".join(self.parameters["allowed_hosts"])

    def interface(self):
        prefix = urllib.parse.urlsplit(self.server.url).path.strip("/")
        with self.checks.timed("ui"):
            page = self.server.ask("/")
            script = re.search(r'<script[^>]+src="([^"]+)"', page)
            if not script:
                raise RuntimeError("the page at / holds no script; this server has no user interface")
            path = script[1].lstrip("./")
            if prefix and path.startswith(prefix + "/"):
                path = path[len(prefix) + 1:]
            self.server.ask("/" + path)
        return f"page and script in {self.p95('ui')} ms"

    def webhooks(self):
        for _request in range(WEBHOOK_REQUESTS):
            found = self.server.call("/api/2.0/mlflow/webhooks", max_results=100)
        return f"{len(found.get('webhooks', []))} webhooks"

    def refusal(self):
        try:
            self.api()
        except mlflow_api.ApiError as error:
            if error.status == 401:
                return "a request without a token is refused"
            raise
        raise RuntimeError("the API answers without a login")

    def login(self):
        try:
            self.server.ask("/", follow=False)
        except mlflow_api.ApiError as error:
            provider = urllib.parse.urlsplit(error.location or "")
            redirect = urllib.parse.parse_qs(provider.query).get("redirect_uri")
            if error.status == 302 and provider.netloc and redirect:
                return f"at {provider.netloc}, which redirects back to {redirect[0]}"
            raise
        raise RuntimeError("the page at / is shown without a login")
