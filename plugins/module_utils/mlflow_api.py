# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""HTTP to an MLflow server, by its URL or by the way to its service (reach.py)."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import tempfile
import urllib.error
import urllib.parse

from ansible.module_utils.urls import open_url
from ansible_collections.mlops.mlflow.plugins.module_utils import reach

OPTIONS = {
    **reach.OPTIONS,
    "url": {"type": "str"}, "port": {"type": "int", "default": 5000}, "path_prefix": {"type": "str", "default": ""},
    "token": {"type": "str", "no_log": True}, "ca_file": {"type": "path"}, "validate_certs": {"type": "bool", "default": True},
    "timeout": {"type": "int", "default": 30}, "scheme": {"type": "str", "choices": ["http", "https"], "default": "http"},
    "connect": {"type": "str"}, "ca_secret": {"type": "str", "no_log": False}, "secret": {"type": "str", "no_log": False},
    "secret_keys": {"type": "dict", "no_log": False, "default": {"username": "username", "password": "password"}},
}

# Of the modules that manage the users of a server, whose own options are a username and a password.
LOGIN = {"login_username": {"type": "str"}, "login_password": {"type": "str", "no_log": True}}
LOGIN_TOGETHER = [("login_username", "login_password")]
LOGIN_EXCLUSIVE = [("login_password", "token", "secret")]

USERS = "/api/2.0/mlflow/users/"


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


class Server:
    """HTTP to one MLflow server, which messages call by its name.

    Attributes:
        authority: certificates of whom clients must trust, as text, where a Secret has them; else None.
    """

    def __init__(self, url, params, username=None, password=None, name=None, authority=None):
        self.url = url.rstrip("/") + "/" + params["path_prefix"].strip("/") if params["path_prefix"] else url.rstrip("/")
        self.root, self.params, self.username, self.password, self.name = url, params, username, password, name or self.url
        self.authority = authority
        self.headers = {"Authorization": f"Bearer {params['token']}"} if params["token"] else {}

    def log_in_as(self, username, password):
        """The same server for another user."""
        return Server(self.root, {**self.params, "token": None}, username, password, self.name, self.authority)

    def ask(self, path, body=None, headers=None, method=None, follow=True):
        """The answer's text; an HTTP error becomes a sentence with the server's reason."""
        try:
            answer = open_url(
                self.url + path, method=method or ("GET" if body is None else "POST"), data=None if body is None else json.dumps(body),
                headers={"Content-Type": "application/json", **self.headers, **(headers or {})}, timeout=self.params["timeout"],
                url_username=self.username, url_password=self.password, force_basic_auth=bool(self.username),
                follow_redirects="urllib2" if follow else "none", validate_certs=self.params["validate_certs"], ca_path=self.params["ca_file"],
                use_proxy=urllib.parse.urlsplit(self.url).hostname not in ("localhost", "127.0.0.1", "::1"))
            return answer.read().decode(errors="replace")
        except urllib.error.HTTPError as error:
            said, code = reason(error.read().decode(errors="replace"))
            raise ApiError(f"{path.split('?')[0]} answers {error.code} {error.reason}{': ' + said if said else ''}", error.code, code,
                           error.headers.get("Location")) from error
        except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
            raise ApiError(f"{self.url}{path.split('?')[0]} does not answer: {getattr(error, 'reason', error)}") from error

    def call(self, path, body=None, method=None, **query):
        """What MLflow's API answers, as a dict."""
        text = self.ask(f"{path}?{urllib.parse.urlencode(query)}" if query else path, body, method=method)
        try:
            return json.loads(text or "{}")
        except ValueError as error:
            raise ApiError(f"{self.url}{path} does not answer as MLflow does; url and path_prefix may name something else.") from error


def reason(text):
    """Why a request failed, short, and MLflow's error code if it gives one."""
    try:
        said = json.loads(text)
        # Only the first line: below it a message may hold SQL with its values, the hash of a password among them.
        return said["message"].splitlines()[0], said["error_code"]
    except (ValueError, TypeError, KeyError, IndexError):
        return " ".join(text.split())[:200], None


@contextlib.contextmanager
def connected(params, username=None, password=None):
    """The server that a module's options name, for the length of a block.

    Args:
        params: the module's parameters, OPTIONS among them.
        username: user for basic authentication; None for none.
        password: that user's password.

    Raises:
        ReachError: there is no way to the server.
    """
    way = reach.reach(params)
    if not way and not params["url"]:
        raise reach.ReachError("url is empty while engine is none; name the URL of the server.")
    if params["secret"]:
        login = reach.from_secret(way, "secret", params["secret"], params["secret_keys"])
        username, password = login["username"], login["password"]
    with contextlib.ExitStack() as stack:
        authority = reach.from_secret(way, "ca_secret", params["ca_secret"]).get("ca.crt") if params["ca_secret"] else None
        if authority:
            params = {**params, "ca_file": stack.enter_context(_written(authority))}
        if params["connect"]:
            address = params["connect"].rsplit(":", 1)
        else:
            address = stack.enter_context(way.forward(params["port"])) if way else None
        if address and params["url"]:
            stack.enter_context(resolved(urllib.parse.urlsplit(params["url"]), *address))
        # A forwarded port says nothing to who reads a message.
        name = f"service {params['service']} in namespace {params['namespace']}" if way and not params["url"] else None
        url = params["url"] or "{0}://{1}:{2}".format(params["scheme"], *address)
        yield Server(url, params, username, password, name, authority)


@contextlib.contextmanager
def _written(text):
    """A file with the text, as long as the block lasts."""
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
        file.write(text)
        file.flush()
        yield file.name


@contextlib.contextmanager
def resolved(url, address, port):
    """Connections to the URL's host and port lead to the address, whatever DNS says; Host header and TLS stay the URL's."""
    original, there = socket.getaddrinfo, url.port or {"http": 80, "https": 443}[url.scheme]

    def getaddrinfo(host, service, *arguments, **named):
        if (host, str(service)) == (url.hostname, str(there)):
            host, service = address, int(port)
        return original(host, service, *arguments, **named)

    socket.getaddrinfo = getaddrinfo
    try:
        yield
    finally:
        socket.getaddrinfo = original


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
            raise ApiError(f"{server.name} refuses {who} (401); login_username and login_password must be an administrator's.", 401) from error
        if error.status == 404:
            raise ApiError(f"{server.name} has no users (404); start the server with --app-name basic-auth, or correct path_prefix.", 404) from error
        raise
    if not user["is_admin"]:
        raise ApiError(f"User {user['username']} is no administrator of {server.name}; log in as one by login_username and login_password.", 403)
    return user


def find_user(server, username):
    """What the server knows of a user, or None."""
    try:
        return server.call(USERS + "get", username=username)["user"]
    except ApiError as error:
        if error.missing:
            return None
        raise
