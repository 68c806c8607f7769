# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""HTTP to an MLflow server.

Standard library only: this file also runs in an instance's pods (see plugin_utils/program.py).
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import socket
import ssl
import urllib.error
import urllib.parse
import urllib.request

from ansible_collections.mlops.mlflow.plugins.module_utils.checks import retry

USERS = "/api/2.0/mlflow/users/"
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class ApiError(RuntimeError):
    """What a server answers instead of what it was asked for; the message is one sentence.

    Attributes:
        status: HTTP status, or None when there was no answer.
        code: MLflow's error code, or None when the answer is not MLflow's.
        location: Where the answer leads, if it is a redirect that was not followed.
    """

    def __init__(self, message, status=None, code=None, location=None):
        super().__init__(message)
        self.status, self.code, self.location = status, code, location

    @property
    def missing(self):
        """Whether MLflow knows no such thing."""
        return self.code == "RESOURCE_DOES_NOT_EXIST"


def transient(error):
    """Whether another attempt to connect may succeed: it was refused, the host's name did not resolve, or the
    certificate is another's, since a Service just created may lead elsewhere and a proxy may load its certificate."""
    return isinstance(getattr(error, "reason", error),
                      (ConnectionRefusedError, socket.gaierror, ssl.SSLCertVerificationError))


class Redirect(urllib.request.HTTPRedirectHandler):
    """Follows a redirect, with the login only to the same host."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        new = super().redirect_request(req, fp, code, msg, headers, newurl)
        if new and new.host != req.host:
            new.remove_header("Authorization")
        return new


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """Leaves a redirect as the error that it then is, with its Location."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        return None


class ConnectTo:
    """Connections that go to an address of their own; Host header and certificate stay the URL's."""

    address = None

    def connect(self):
        self.sock = socket.create_connection(self.address, self.timeout)


class HttpConnectTo(ConnectTo, http.client.HTTPConnection):
    """Without TLS."""


class HttpsConnectTo(ConnectTo, http.client.HTTPSConnection):
    """With TLS."""

    def __init__(self, host, **options):
        super().__init__(host, **options)
        self.tls = options["context"]

    def connect(self):
        super().connect()
        self.sock = self.tls.wrap_socket(self.sock, server_hostname=self.host)


class ConnectToHandler(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    """Opens http and https URLs by an address of their own."""

    def __init__(self, address, tls):
        super().__init__()
        self.address, self.tls = address, tls

    def _at_address(self, kind):
        return type(kind.__name__, (kind,), {"address": self.address})

    def http_open(self, req):
        return self.do_open(self._at_address(HttpConnectTo), req)

    def https_open(self, req):
        return self.do_open(self._at_address(HttpsConnectTo), req, context=self.tls)


class Server:
    """HTTP to one MLflow server.

    Attributes:
        name: what messages call the server.
        username: user of basic authentication, or None.
    """

    def __init__(self, url, params, username=None, password=None, name=None):
        """Make no connection yet.

        Args:
            url: URL without the path prefix.
            params: path_prefix, token, connect (``host:port`` to connect to instead of the URL's), ca (PEM text),
                ca_file, validate_certs, timeout in seconds; each may be left out.
            username: user for basic authentication.
            password: that user's password.
            name: what messages call the server, if not its URL.
        """
        prefix = (params.get("path_prefix") or "").strip("/")
        self.url = url.rstrip("/") + ("/" + prefix if prefix else "")
        self.root, self.params, self.name = url, params, name or self.url
        self.username, self.password = username, password
        self.timeout = params.get("timeout") or 30
        self.retries = True
        self._opener = {}
        if params.get("token"):
            self.login = f"Bearer {params['token']}"
        elif username:
            self.login = "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()
        else:
            self.login = None

    def log_in_as(self, username, password):
        """The same server for another user."""
        return Server(self.root, {**self.params, "token": None}, username, password, self.name)

    def opener(self, follow):
        """What opens URLs of this server, with its CA and address; made once."""
        if follow not in self._opener:
            # Reading the system's certificates takes a moment; a plain URL may still redirect to one with TLS.
            tls = tls_context(self.params) if self.url.startswith("https:") or self.params.get("ca") else None
            if self.params.get("connect"):
                host, port = self.params["connect"].rsplit(":", 1)
                handlers = [urllib.request.ProxyHandler({}), ConnectToHandler((host.strip("[]"), int(port)), tls)]
            else:
                handlers = [urllib.request.HTTPSHandler(context=tls)]
                if urllib.parse.urlsplit(self.url).hostname in LOOPBACK:
                    handlers.append(urllib.request.ProxyHandler({}))
            self._opener[follow] = urllib.request.build_opener(*handlers, Redirect if follow else NoRedirect)
        return self._opener[follow]

    def send(self, path, data=None, headers=None, method=None, follow=True):
        """Send a request and return the body of the answer.

        Args:
            path: path below the server's URL and prefix, with query.
            data: body, as bytes.
            headers: further headers.
            method: HTTP method; without one GET, or POST with a body.
            follow: whether to follow redirects.

        Raises:
            ApiError: the server does not answer, or with an error.
        """
        login = {"Authorization": self.login} if self.login else {}

        def attempt():
            request = urllib.request.Request(self.url + path, data, {**login, **(headers or {})}, method=method)
            with self.opener(follow).open(request, timeout=self.timeout) as answer:
                return answer.read()

        try:
            return retry(attempt, lambda error: self.retries and transient(error))
        except urllib.error.HTTPError as error:
            with error:
                why, code = reason(error.read().decode(errors="replace"))
            raise ApiError(f"{path.split('?')[0]} answers {error.code} {error.reason}{': ' + why if why else ''}",
                           error.code, code,
                           error.headers.get("Location")) from error
        except (http.client.HTTPException, OSError, ValueError) as error:
            self.retries = self.retries and not transient(error)
            raise ApiError(f"{self.url}{path.split('?')[0]} does not answer: "
                           f"{getattr(error, 'reason', error) or type(error).__name__}") from error

    def ask(self, path, body=None, headers=None, method=None, follow=True):
        """The answer's text; ``body`` is sent as JSON."""
        data = None if body is None else json.dumps(body).encode()
        return self.send(path, data, {"Content-Type": "application/json", **(headers or {})}, method,
                         follow).decode(errors="replace")

    def call(self, path, body=None, method=None, **query):
        """What MLflow's API answers, as a dict."""
        text = self.ask(f"{path}?{urllib.parse.urlencode(query)}" if query else path, body, method=method)
        try:
            return json.loads(text or "{}")
        except ValueError as error:
            raise ApiError(f"{self.url}{path} does not answer as MLflow does; url and path_prefix may name something "
                           f"else.") from error


def tls_context(params):
    """How certificates are checked, from ca, ca_file and validate_certs of a server's parameters."""
    context = ssl.create_default_context(cafile=params.get("ca_file") or None, cadata=params.get("ca") or None)
    if not params.get("validate_certs", True):
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def reason(text):
    """Why a request failed, short, and MLflow's error code if it gives one."""
    try:
        answer = json.loads(text)
        # Only the first line: below it a message may hold SQL with its values, the hash of a password among them.
        return answer["message"].splitlines()[0], answer["error_code"]
    except (ValueError, TypeError, KeyError, IndexError):
        return " ".join(text.split())[:200], None


def from_parameters(parameters):
    """The server that a probe's or module's parameters name.

    Args:
        parameters: url, and what ``Server`` takes; username and password, or with ``environment`` the administrator's
            from the server's own environment, where there is one.

    Raises:
        ApiError: there is no URL.
    """
    if not parameters.get("url"):
        raise ApiError("url is empty while engine is none; name the URL of the server.")
    username, password = parameters.get("username"), parameters.get("password")
    if parameters.get("environment") and not username and not parameters.get("token"):
        username, password = (os.environ.get(f"MLFLOW_AUTH_ADMIN_{part}") for part in ("USERNAME", "PASSWORD"))
    return Server(parameters["url"], parameters, username, password, parameters.get("server_name"))


def for_administrator(parameters):
    """The server that the options of a module name which manages its users.

    Args:
        parameters: as ``from_parameters`` takes them, with login_username and login_password instead of username and
            password.

    Raises:
        ApiError: there is no URL.
    """
    login = {"username": parameters.get("login_username"), "password": parameters.get("login_password")}
    return from_parameters({**parameters, **login})


def administrator(server):
    """The user that the server takes this login for, who must be an administrator.

    Raises:
        ApiError: the login is refused, is no administrator's, or the server has no users.
    """
    try:
        user = server.call(USERS + "current")["user"]
    except ApiError as error:
        if error.status == 401:
            who = f"user {server.username}" if server.username else "this login"
            raise ApiError(f"{server.name} refuses {who} (401); login_username and login_password must be an "
                           f"administrator's.", 401) from error
        if error.status == 404:
            raise ApiError(f"{server.name} has no users (404); start the server with --app-name basic-auth, or "
                           f"correct path_prefix.", 404) from error
        raise
    if not user["is_admin"]:
        raise ApiError(f"User {user['username']} is no administrator of {server.name}; log in as one by "
                       f"login_username and login_password.", 403)
    return user


def find_user(server, username):
    """What the server knows of a user, or None."""
    try:
        return server.call(USERS + "get", username=username)["user"]
    except ApiError as error:
        if error.missing:
            return None
        raise


def version(parameters):
    """Version of the server that the parameters name, see ``from_parameters``."""
    return from_parameters(parameters).ask("/version").strip()
