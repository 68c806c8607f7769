"""Lets in who a proxy has let in, besides users of MLflow's own; everybody else gets 401.

For mlflow_server_auth `proxy` and `oidc`. MLflow calls `login` for each request (authorization_function of its auth.ini).
"""

import functools
import hmac
import os
import secrets

from flask import request
from mlflow.exceptions import MlflowException
from mlflow.server import auth
from werkzeug.datastructures import Authorization

HEADER = os.environ["AUTH_PROXY_HEADER"]
PROOF = os.environ["AUTH_PROXY_SECRET"].encode()
ADMINS = set(filter(None, os.environ.get("AUTH_PROXY_ADMINS", "").split(",")))


def proves(text):
    """Whether a text is the secret that only the proxy has: anybody could send a header with a name."""
    return hmac.compare_digest((text or "").encode(), PROOF)


@functools.lru_cache(maxsize=10000)
def known(name):
    """Make a person who comes for the first time a user, with MLflow's default permission."""
    admin = name in ADMINS
    if not auth.store.has_user(name):
        try:
            auth.store.create_user(name, secrets.token_urlsafe(32), is_admin=admin)
        except MlflowException:
            if not auth.store.has_user(name):  # another worker was not quicker; it is something else
                raise
    if auth.store.get_user(name).is_admin != admin and admin:
        auth.store.update_user(name, is_admin=True)
    return name


def login():
    """The user of the request, or the answer that refuses it."""
    name = request.headers.get(HEADER)
    if name and proves(request.headers.get("X-Proxy-Secret")):
        return Authorization("basic", {"username": known(name), "password": ""})
    given = request.authorization
    if given and given.type == "basic" and given.username and proves(given.password):
        return Authorization("basic", {"username": known(given.username), "password": ""})
    return auth.authenticate_request_basic_auth()
