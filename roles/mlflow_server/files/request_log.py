"""The access log of MLflow's server: a line of JSON for each request that request_metrics.py sees."""

import base64
import binascii
import contextlib
import datetime
import hmac
import importlib
import json
import logging
import os
import time


class AccessLog:
    """A line of JSON for each request, at most 4096 bytes, so that lines of several workers do not mix in a pipe.

    Of what a request carries, only its method, its path without the query, the client's address, and the name of a
    user whose login was accepted.
    """

    def __init__(self, prefix):
        self.logins = False
        self.gateway = f"{prefix}/gateway/"
        self.header = os.environ.get("AUTH_PROXY_HEADER", "").lower().encode()
        self.proof = os.environ.get("AUTH_PROXY_SECRET", "").encode()

    def prepare(self):
        """In a worker: find out whether it has logins, and switch off uvicorn's log, which each worker enables."""
        before = importlib.import_module("mlflow.server").app.before_request_funcs.get(None, ())
        self.logins = any(function.__module__ == "mlflow.server.auth" for function in before)
        logging.getLogger("uvicorn.access").disabled = True

    def write(self, request, scope, route, status, seconds):
        began = datetime.datetime.fromtimestamp(time.time() - seconds, datetime.timezone.utc)
        client = scope.get("client")
        entry = {
            "time": began.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "method": request.method,
            "route": route,
            "path": shortened(scope["path"], 2400),
            "status": status,
            "duration_seconds": round(seconds, 6),
            "request_bytes": request.received,
            "response_bytes": request.sent,
            "client": shortened(client[0], 200) if client else None,
            "user": shortened(self.user(request, scope, status), 400),
        }
        with contextlib.suppress(OSError):  # nobody reads standard output any more
            os.write(1, json.dumps(entry).encode() + b"\n")

    def user(self, request, scope, status):
        """Name of the user whose login was accepted, or None; as proxy_login.py and MLflow see it."""
        if not self.logins or status == 401 or request.refused_before_login:
            return None
        auth = importlib.import_module("mlflow.server.auth")
        if getattr(auth, "is_unprotected_route", lambda _path: False)(scope["path"]):
            return None
        headers = dict(reversed(scope["headers"]))
        if self.proof and headers.get(self.header) and self.proves(headers.get(b"x-proxy-secret", b"")):
            return headers[self.header].decode("latin-1")
        given = headers.get(b"authorization", b"")
        if scope["path"].startswith(self.gateway) and hasattr(auth, "MLFLOW_GATEWAY_AUTH_HEADER"):
            given = headers.get(b"x-mlflow-authorization") or given
        scheme, _space, credentials = given.partition(b" ")
        if scheme.lower() != b"basic":
            return None
        try:
            login = base64.b64decode(credentials.strip())
        except binascii.Error:
            return None
        name, _colon, password = login.rpartition(b":")
        if not (name and self.proof and self.proves(password)):
            name = login.partition(b":")[0] if b":" in login else b""
        return name.decode("utf-8", "replace") or None

    def proves(self, text):
        return hmac.compare_digest(text, self.proof)


def shortened(text, length):
    """A text whose JSON has at most so many characters."""
    if text is None or len(json.dumps(text)) <= length:
        return text
    while len(json.dumps(text)) > length:
        text = text[: len(text) * 3 // 4]
    return text + "..."
