"""Lets in who a proxy has let in, besides users of MLflow's own; everybody else gets 401.

For mlflow_server_auth `proxy` and `oidc`. MLflow calls `login` for each request (authorization_function of its
auth.ini).
"""

import hmac
import os
import secrets
import threading

import cachetools
from flask import request
from mlflow.exceptions import MlflowException
from mlflow.server import auth
from werkzeug.datastructures import Authorization

HEADER = os.environ["AUTH_PROXY_HEADER"]
PROOF = os.environ["AUTH_PROXY_SECRET"].encode()
ADMINS = set(filter(None, os.environ.get("AUTH_PROXY_ADMINS", "").split(",")))
GROUPS_HEADER = os.environ.get("AUTH_PROXY_GROUPS_HEADER", "")
ADMIN_GROUPS = set(filter(None, os.environ.get("AUTH_PROXY_ADMIN_GROUPS", "").split(",")))
ADMINISTRATOR = os.environ["MLFLOW_AUTH_ADMIN_USERNAME"]
GATEWAY = os.environ.get("_MLFLOW_STATIC_PREFIX", "").rstrip("/") + "/gateway/"


def proves(text):
    """Whether a text is the secret that only the proxy has: anybody could send a header with a name."""
    return hmac.compare_digest((text or "").encode(), PROOF)


@cachetools.cached(cachetools.TTLCache(10000, ttl=60), lock=threading.Lock())
def known(name, admin):
    """Make a person who comes for the first time a user, with MLflow's default permission.

    With `admin` true or false the person is or is no administrator from now on; None leaves it as it is.
    """
    if not auth.store.has_user(name):
        try:
            auth.store.create_user(name, secrets.token_urlsafe(32), is_admin=bool(admin))
        except MlflowException:
            if not auth.store.has_user(name):  # another worker was not quicker; it is something else
                raise
    if admin is not None and auth.store.get_user(name).is_admin != admin:
        auth.store.update_user(name, is_admin=admin)
    return name


def rank(name):
    """Whether a person whom the proxy names is an administrator, or None where nothing here says so.

    Where groups give the right, it ends with the membership: a person without any of them is none.
    """
    if name in ADMINS:
        return True
    if not ADMIN_GROUPS:
        return None
    groups = {group.strip() for group in request.headers.get(GROUPS_HEADER, "").split(",")}
    return bool(groups & ADMIN_GROUPS)


def person(name):
    """Let in whom the proxy names."""
    if (
        name == ADMINISTRATOR and name not in ADMINS
    ):  # it has a password; a name that somebody gave himself is not enough
        return auth.make_basic_auth_response()
    return Authorization("basic", {"username": known(name, rank(name)), "password": ""})


def login():
    """The user of the request, or the answer that refuses it."""
    name = request.headers.get(HEADER)
    if name and proves(request.headers.get("X-Proxy-Secret")):
        return person(name)
    gateway = request.path.startswith(GATEWAY)
    if gateway and request.headers.get("X-MLflow-Authorization"):
        # There the usual header may hold the key of a model's provider.
        request.environ["HTTP_AUTHORIZATION"] = request.headers["X-MLflow-Authorization"]
    given = request.authorization
    if not given or given.type != "basic":
        return auth.make_basic_auth_response()
    # Names may have colons, such as those of a cluster's service accounts.
    name, _colon, proof = f"{given.username}:{given.password}".rpartition(":")
    if name and proves(proof):
        return person(name)
    token = os.environ.get("_MLFLOW_INTERNAL_GATEWAY_AUTH_TOKEN")
    if gateway and token and hmac.compare_digest(given.password.encode(), token.encode()):
        return given  # a job of the server's own, which acts for this user
    return auth.authenticate_request_basic_auth()
