# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A client of the Kubernetes API that sends and receives plain JSON, from Ansible's own process."""

from __future__ import annotations

import contextlib
import json
import os
import random
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Iterable, NoReturn, TypeVar
from urllib.parse import quote

from ansible_collections.mlops.mlflow.plugins.plugin_utils import manifests
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines import EngineError

# Imported with the plugin, that is once in Ansible's parent process, so that no task of a fleet pays for it again.
try:
    import urllib3
    import websocket
    from kubernetes import client, config
    from urllib3.util.ssl_ import create_urllib3_context
except ImportError as error:
    IMPORT_ERROR: ImportError | None = error
else:
    IMPORT_ERROR = None

THREADS = 4
"""Requests at once; each connection costs as much processor time (its TLS handshake) as four requests."""
REQUEST_TIMEOUT = 30
"""Seconds that a connection or one answer may take."""
RETRY_TIMEOUT = 60
"""Seconds for which a request that meets a passing fault is tried again."""
FIRST_RETRY_TIMEOUT = 4
"""The same for an API that has not answered yet: its address may be wrong, or the cluster gone."""
RETRY_PAUSES = (0.5, 8.0)
"""Seconds before the first retry, doubled each time, and the most that they may become."""
LOG_INTERVAL = 10
"""Seconds between two lines about retries."""
RETRIED = (429, 500, 502, 503, 504)
"""Answers that the same request may not meet again."""

T = TypeVar("T")


class ApiError(EngineError):
    """An answer of the API server other than success.

    Attributes:
        status: the HTTP status.
        passing: whether the same request may succeed a little later.
        retry_after: seconds that the server asks to wait before the next try, if it does.
    """

    def __init__(self, status: int, message: str, passing: bool = False, retry_after: float = 0) -> None:
        super().__init__(message)
        self.status = status
        self.passing = passing
        self.retry_after = retry_after


class ConnectionFault(EngineError):
    """A connection that was refused, reset or timed out."""


class Api:
    """One cluster's API.

    Credentials, certificates, proxies and exec plugins are the kubernetes library's work; its generated models are not
    used, since objects here are manifests, and building models of them costs more than the request.
    """

    def __init__(self, kubeconfig: str | None, context: str | None, log: Callable[[str], None]) -> None:
        if IMPORT_ERROR:
            raise EngineError(f"mlflow_engine kubernetes needs the Python package 'kubernetes' where ansible-playbook "
                              f"runs ({IMPORT_ERROR}); install it there, for example with `pip install kubernetes`.")
        self._configuration = _configuration(kubeconfig, context)
        self._configuration.connection_pool_maxsize = THREADS
        self._configuration.retries = False
        self.host = self._configuration.host.rstrip("/")
        self.deadline = float("inf")
        """time.monotonic() after which nothing is tried again."""
        self._log = log
        self._logged = float("-inf")
        self._answered = False
        self._closed = threading.Event()
        self._http = client.ApiClient(self._configuration).rest_client.pool_manager
        self._share_tls_context()
        self._threads = ThreadPoolExecutor(THREADS)

    def _share_tls_context(self) -> None:
        """Read CA and client certificate once, not for each connection."""
        settings = self._http.connection_pool_kw
        if not settings.get("ssl_context"):
            settings["ssl_context"] = _tls_context(settings)
            for done in ("ca_certs", "ca_cert_data", "cert_file", "key_file"):
                settings.pop(done, None)

    # -- requests --------------------------------------------------------------------------------------------------

    def request(self, method: str, path: str, query: str = "", body: dict | list | None = None,
                content_type: str = "application/json", accept: str = "application/json") -> Any:
        """Send one request; JSON answers come back parsed, others (logs) as text.

        Passing faults are tried again with growing pauses, which is safe, since objects have fixed names here.

        Raises:
            ApiError: the server refused, or kept answering 429 or 5xx.
            ConnectionFault: the server cannot be reached.
        """
        data = None if body is None else json.dumps(body)
        return self._retried(lambda: self._send(method, path, query, data, content_type, accept))

    def _send(self, method: str, path: str, query: str, data: str | None, content_type: str, accept: str) -> Any:
        headers = {"Accept": accept, "Content-Type": content_type, "User-Agent": manifests.MANAGER}
        headers.update(self._credentials())
        url = f"{self.host}{path}{'?' + query if query else ''}"
        try:
            answer = self._http.request(method, url, headers=headers, timeout=REQUEST_TIMEOUT, body=data, retries=False)
        except urllib3.exceptions.SSLError as error:
            raise EngineError(f"The Kubernetes API at {self.host} cannot be trusted: {error}; set the cluster's CA in "
                              f"the kubeconfig.") from error
        except urllib3.exceptions.HTTPError as error:
            # "HTTPSConnection(host='…', port=…): Failed to establish …": the host is in the sentence already.
            reason = str(error).rpartition("): ")[2].rstrip(".")
            raise ConnectionFault(f"The Kubernetes API at {self.host} does not answer: {reason}.") from error
        self._answered = True
        text = answer.data.decode(errors="replace")
        if answer.status >= 400:
            _refused(answer.status, text, answer.headers.get("Retry-After"))
        return json.loads(text) if "json" in answer.headers.get("Content-Type", "") else text

    def _credentials(self) -> dict[str, str]:
        """The headers that authenticate, with a token renewed if it has expired."""
        headers = {}
        for setting in self._configuration.auth_settings().values():
            if setting["in"] == "header" and setting["value"]:
                headers[setting["key"]] = setting["value"]
        return headers

    def _retried(self, call: Callable[[], T]) -> T:
        """Call until no passing fault is in the way, for at most RETRY_TIMEOUT and not beyond the deadline."""
        begun, tries, pause = time.monotonic(), 0, RETRY_PAUSES[0]
        while True:
            tries += 1
            try:
                return call()
            except (ApiError, ConnectionFault) as error:
                if isinstance(error, ApiError) and not error.passing:
                    raise
                timeout = RETRY_TIMEOUT if self._answered else FIRST_RETRY_TIMEOUT
                wait = max(pause * random.uniform(0.8, 1.2), getattr(error, "retry_after", 0))
                if time.monotonic() + wait > min(begun + timeout, self.deadline):
                    if isinstance(error, ApiError):
                        raise ApiError(error.status, f"{error} (HTTP {error.status}, tries: {tries})") from error
                    raise
                if tries == 2:  # a fault of a moment needs no announcement
                    self._log_retry(error)
                if self._closed.wait(wait):
                    raise
                pause = min(2 * pause, RETRY_PAUSES[1])

    def _log_retry(self, error: EngineError) -> None:
        """Tell once, not for each of many requests at once."""
        if time.monotonic() - self._logged > LOG_INTERVAL:
            self._logged = time.monotonic()
            self._log(f"Trying again: {error}")

    # -- streams ---------------------------------------------------------------------------------------------------

    def websocket(self, path: str, query: str, protocol: str) -> websocket.WebSocket:
        """Open a stream (exec, port-forward) with TLS, proxy and credentials of every other request.

        Raises:
            ApiError: the server refused.
            ConnectionFault: the server cannot be reached.
        """
        return self._retried(lambda: self._handshake(path, query, protocol))

    def _handshake(self, path: str, query: str, protocol: str) -> websocket.WebSocket:
        settings = self._http.connection_pool_kw
        context = settings["ssl_context"]
        hostname = settings.get("server_hostname")
        connection = websocket.WebSocket(skip_utf8_validation=True, sslopt={
            "context": context, "cert_reqs": context.verify_mode,
            "check_hostname": context.check_hostname and settings.get("assert_hostname") is not False,
            **({"server_hostname": hostname} if hostname else {})})
        connection.settimeout(REQUEST_TIMEOUT)
        headers = [f"{name}: {value}" for name, value in self._credentials().items()]
        url = f"{self.host.replace('http', 'ws', 1)}{path}?{query}"
        try:
            connection.connect(url, header=headers, subprotocols=[protocol], suppress_origin=True, **self._proxy())
        except websocket.WebSocketBadStatusException as error:
            body = (error.resp_body or b"").decode(errors="replace")
            _refused(error.status_code, body, (error.resp_headers or {}).get("retry-after"))
        except (websocket.WebSocketException, OSError) as error:
            raise ConnectionFault(f"The Kubernetes API at {self.host} does not open a stream: {error}.") from error
        self._answered = True
        return connection

    def _proxy(self) -> dict:
        """The proxy that the kubernetes library chose, in websocket-client's words."""
        proxy = getattr(self._http, "proxy", None)
        if not proxy:
            return {"http_no_proxy": ["*"]}
        options = {"http_proxy_host": proxy.host, "http_proxy_port": proxy.port, "http_no_proxy": [""]}
        if proxy.auth:
            user, _colon, password = proxy.auth.partition(":")
            options["http_proxy_auth"] = (user, password)
        return options

    # -- many at once ----------------------------------------------------------------------------------------------

    def map(self, function: Callable, items: Iterable) -> list:
        """Call ``function`` for each item, several at once; the first exception is raised."""
        return list(self._threads.map(function, items))

    def close(self) -> None:
        """End threads and connections."""
        self._closed.set()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._http.clear()


def _configuration(kubeconfig: str | None, context: str | None) -> client.Configuration:
    """Where the cluster is and how to log in, of a kubeconfig or of the pod that this process runs in."""
    configuration = client.Configuration()
    try:
        if kubeconfig or not _in_cluster():
            config.load_kube_config(kubeconfig or None, context or None, client_configuration=configuration)
        else:
            config.load_incluster_config(client_configuration=configuration)
    except Exception as error:  # a malformed kubeconfig makes the library raise many types, TypeError among them
        reason = " ".join(str(error).split()).rstrip(".")
        if not isinstance(error, (config.ConfigException, OSError)):
            reason = f"the kubeconfig is malformed ({reason})"
        raise EngineError(f"No cluster to connect to: {reason}; set KUBECONFIG or mlflow_kubeconfig to a readable "
                          f"kubeconfig and mlflow_context to one of its contexts.") from error
    return configuration


def label_selector(labels: dict[str, str]) -> str:
    """The query that selects objects with all of these labels."""
    return f"labelSelector={quote(','.join(f'{key}={value}' for key, value in labels.items()), safe='')}"


def _in_cluster() -> bool:
    """Whether this process runs in a pod that no kubeconfig overrides (an execution environment inside the cluster)."""
    return "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ


def _tls_context(settings: dict) -> ssl.SSLContext:
    """What urllib3 would make for each connection of the pool anew."""
    context = create_urllib3_context(cert_reqs=settings.get("cert_reqs"))
    try:
        if settings.get("ca_certs") or settings.get("ca_cert_data"):
            context.load_verify_locations(cafile=settings.get("ca_certs"), cadata=settings.get("ca_cert_data"))
        else:
            context.load_default_certs()
        if settings.get("cert_file"):
            context.load_cert_chain(settings["cert_file"], settings.get("key_file"))
    except (OSError, ValueError) as error:
        files = [settings[name] for name in ("ca_certs", "cert_file", "key_file") if settings.get(name)]
        # Errors of ssl do not name the file.
        unreadable = [path for path in files if not os.access(path, os.R_OK)]
        which = f" ({', '.join(unreadable)})" if unreadable else ""
        raise EngineError(f"The kubeconfig's certificates cannot be read: {error}{which}; fix its "
                          f"certificate-authority, client-certificate and client-key.") from error
    return context


def _refused(status: int, text: str, retry_after: str | None) -> NoReturn:
    """Raise ApiError with the message of a Status object, or with what some proxy answered instead."""
    try:
        document = json.loads(text)
        message, reason = document["message"], document.get("reason") or ""
    except (ValueError, TypeError, KeyError):
        message, reason = f"HTTP {status} {' '.join(text.split())[:200]}", "InternalError"
    message = message.strip().rstrip(".")
    if status == 401:
        message += ": the kubeconfig's credentials are wrong or have expired; log in again"
    seconds = 0.0
    with contextlib.suppress(ValueError):  # a date, which no API server sends
        seconds = float(retry_after or 0)
    # The server answers 500 without a reason also to what it will never take, such as a field that its schema lacks.
    passing = status in RETRIED and (status != 500 or reason == "InternalError")
    raise ApiError(status, message, passing, seconds)
