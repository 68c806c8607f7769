# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The Kubernetes API spoken as plain JSON, from Ansible's own process."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Iterable

from ansible_collections.mlops.mlflow.plugins.plugin_utils import manifests
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines import EngineError

# Imported with the plugin, that is once in Ansible's parent process, so that no task of a fleet pays for it again.
try:
    import urllib3
    from kubernetes import client, config
except ImportError as error:
    IMPORT_ERROR: ImportError | None = error
else:
    IMPORT_ERROR = None

THREADS = 8
REQUEST_TIMEOUT = 30


class ApiError(Exception):
    """An answer of the API server other than success."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Api:
    """One cluster's API, spoken as plain JSON.

    Credentials, certificates and exec plugins are the kubernetes library's work; its generated models are not used,
    since objects here are manifests, and building models of them costs more than the request.
    """

    def __init__(self, kubeconfig: str | None, context: str | None) -> None:
        if IMPORT_ERROR:
            raise EngineError(f"mlflow_engine kubernetes needs the Python package 'kubernetes' where ansible-playbook runs "
                              f"({IMPORT_ERROR}); install it there, for example with `pip install kubernetes`.")
        configuration = client.Configuration()
        try:
            if kubeconfig or not _in_cluster():
                config.load_kube_config(config_file=kubeconfig or None, context=context or None, client_configuration=configuration)
            else:
                config.load_incluster_config(client_configuration=configuration)
        except (config.ConfigException, OSError) as error:
            raise EngineError(f"No cluster to talk to: {str(error).rstrip('.')}; set KUBECONFIG or mlflow_kubeconfig to a readable "
                              f"kubeconfig and mlflow_context to one of its contexts.") from error
        configuration.connection_pool_maxsize = THREADS
        configuration.retries = False
        self.host = configuration.host.rstrip("/")
        self._configuration = configuration
        self._client = client.ApiClient(configuration)
        self._http = self._client.rest_client.pool_manager
        self._threads = ThreadPoolExecutor(THREADS)

    def request(self, method: str, path: str, query: str = "", body: dict | list | None = None,
                content_type: str = "application/json", accept: str = "application/json") -> Any:
        """Send one request; JSON answers come back parsed, others (logs) as text.

        Raises:
            ApiError: the server said no.
            EngineError: the server cannot be reached.
        """
        headers = {"Accept": accept, "Content-Type": content_type, "User-Agent": manifests.MANAGER}
        for setting in self._configuration.auth_settings().values():
            if setting["in"] == "header" and setting["value"]:
                headers[setting["key"]] = setting["value"]
        try:
            answer = self._http.request(
                method, f"{self.host}{path}{'?' + query if query else ''}", headers=headers, timeout=REQUEST_TIMEOUT,
                body=None if body is None else json.dumps(body), retries=False)
        except urllib3.exceptions.HTTPError as error:
            raise EngineError(f"The Kubernetes API at {self.host} does not answer: {error}.") from error
        text = answer.data.decode(errors="replace")
        if answer.status >= 400:
            try:
                message = json.loads(text).get("message") or text
            except ValueError:
                message = text
            raise ApiError(answer.status, message.strip() or f"HTTP {answer.status}")
        return json.loads(text) if "json" in answer.headers.get("Content-Type", "") else text

    def map(self, function: Callable, items: Iterable) -> list:
        """Call ``function`` for each item, several at once; the first exception is raised."""
        return list(self._threads.map(function, items))

    def close(self) -> None:
        """End threads and connections."""
        self._threads.shutdown(wait=False)
        self._http.clear()


def _in_cluster() -> bool:
    """Whether this process runs in a pod that no kubeconfig overrides (an execution environment inside the cluster)."""
    return "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ
