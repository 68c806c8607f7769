# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Connections to an MLflow server that stay open between requests, as those of MLflow's client and of browsers do.

Standard library only: this file also runs in an instance's pods (see plugin_utils/program.py).
"""

from __future__ import annotations

import http.client
import json
import urllib.parse

from ansible_collections.mlops.mlflow.plugins.module_utils import mlflow_api


class Connection:
    """One connection; it is made by the first request, and again when the server has closed it."""

    def __init__(self, server):
        """Make no connection yet.

        Args:
            server: the ``mlflow_api.Server`` that it is to: its URL, login, CA and address.
        """
        self.server = server
        parts = urllib.parse.urlsplit(server.url)
        self.path = parts.path
        options = {"timeout": server.timeout}
        kinds = (http.client.HTTPConnection, mlflow_api.HttpConnectTo)
        if parts.scheme == "https":
            kinds = (http.client.HTTPSConnection, mlflow_api.HttpsConnectTo)
            options["context"] = mlflow_api.tls_context(server.params)
        kind = kinds[0]
        if server.params.get("connect"):
            host, port = server.params["connect"].rsplit(":", 1)
            kind = type(kinds[1].__name__, (kinds[1],), {"address": (host.strip("[]"), int(port))})
        self.http = kind(parts.netloc, **options)

    def send(self, path, body=None, headers=None, method="GET"):
        """Send a request and read the whole answer.

        Args:
            path: absolute path on the server, with its prefix and query.
            body: bytes, or None.
            headers: further headers.
            method: HTTP method.

        Returns:
            The headers of the answer and its body as it was transferred.

        Raises:
            ApiError: the server does not answer, or with another status than 200.
        """
        login = {"Authorization": self.server.login} if self.server.login else {}
        headers = {**login, **(headers or {})}
        try:
            # A server may close a connection that was idle just when the next request is sent.
            fresh = self.http.sock is None
            try:
                answer, data = self._exchange(path, body, headers, method)
            except (http.client.HTTPException, ConnectionError):
                if fresh:
                    raise
                self.close()
                answer, data = self._exchange(path, body, headers, method)
        except (http.client.HTTPException, OSError) as error:
            self.close()
            raise mlflow_api.ApiError(f"{self.server.name} does not answer: {error or type(error).__name__}") from error
        if answer.status != 200:
            why, code = mlflow_api.reason(data.decode(errors="replace"))
            raise mlflow_api.ApiError(f"{path.split('?')[0]} answers {answer.status} {answer.reason}"
                                      f"{': ' + why if why else ''}", answer.status, code, answer.getheader("Location"))
        return answer.headers, data

    def call(self, path, body=None, **query):
        """Call MLflow's API with GET, or with POST and a body; ``path`` is below the server's prefix.

        Returns:
            The answer as a dict.
        """
        data = None if body is None else json.dumps(body).encode()
        path = f"{self.path}{path}" + (f"?{urllib.parse.urlencode(query)}" if query else "")
        method = "GET" if data is None else "POST"
        _headers, answer = self.send(path, data, {"Content-Type": "application/json"}, method)
        return json.loads(answer or b"{}")

    def close(self):
        self.http.close()

    def _exchange(self, path, body, headers, method):
        self.http.request(method, path, body, headers)
        answer = self.http.getresponse()
        return answer, answer.read()
