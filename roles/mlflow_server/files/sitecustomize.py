"""What the server's pod needs of MLflow that no setting of MLflow gives. Python loads this file at its start."""

import importlib.abc
import importlib.util
import os
import sys
import urllib.parse

PREFIX = "_MLFLOW_STATIC_PREFIX"
"""How `mlflow server` tells its workers of --static-prefix."""


def complete_uris():
    """Put the database's login, which the environment has on its own, into the URIs, quoted whatever characters it holds.

    For drivers that, unlike PostgreSQL's, read no login from the environment themselves.
    """
    if "DATABASE_USER" not in os.environ:
        return
    login = ":".join(urllib.parse.quote(os.environ[name], safe="") for name in ("DATABASE_USER", "DATABASE_PASSWORD"))
    for name in ("MLFLOW_BACKEND_STORE_URI", "MLFLOW_READ_REPLICA_BACKEND_STORE_URI"):
        scheme, separator, rest = os.environ.get(name, "").partition("://")
        if separator and "@" not in rest:
            os.environ[name] = f"{scheme}://{login}@{rest}"


class Changed(importlib.abc.MetaPathFinder):
    """Changes a module of MLflow once it is loaded."""

    def __init__(self, name, change):
        self.name, self.change = name, change

    def find_spec(self, name, path, target=None):
        if name != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            self.change(module)

        spec.loader.exec_module = exec_module
        return spec


def proxied(handlers):
    """Keep artifacts on their way through the server where mlflow_server_artifacts is `proxied`.

    Since 3.15 MLflow's server tells every client to fetch artifacts by presigned URLs whenever they are in S3, and has no
    switch against it. Those URLs lead to the store by the name that the server knows it by, which clients outside the cluster
    cannot resolve, so that every download of theirs would fail. This makes the server say that it has no such URLs, which
    clients have long understood.
    """
    for mixin in ("MultipartUploadMixin", "MultipartDownloadMixin", "PresignedUploadMixin"):
        if hasattr(handlers, mixin):
            setattr(handlers, mixin, type("NoStoreHasThis", (), {}))


def streamed(fastapi_app):
    """Stream artifacts below mlflow_server_path_prefix, too.

    MLflow's routes that do are at its root alone; those below a path hold each artifact in memory, at twice its size. A request
    for one is taken for the same at the root before anything else looks at it, logins and permissions included.
    """
    prefix, answer = os.environ[PREFIX].rstrip("/"), fastapi_app.FastAPI.__call__
    artifacts = tuple(f"{prefix}/{api}/2.0/mlflow-artifacts/artifacts/" for api in ("api", "ajax-api"))

    async def at_the_root(self, scope, receive, send):
        if scope["type"] == "http" and scope["method"] in ("GET", "PUT") and scope["path"].startswith(artifacts):
            scope = {**scope, "path": scope["path"][len(prefix):], "raw_path": scope["raw_path"][len(prefix):]}
        await answer(self, scope, receive, send)

    fastapi_app.FastAPI.__call__ = at_the_root


complete_uris()
if os.environ.get("MLFLOW_ARTIFACTS_PROXIED"):
    sys.meta_path.insert(0, Changed("mlflow.server.handlers", proxied))
if os.environ.get(PREFIX):
    sys.meta_path.insert(0, Changed("mlflow.server.fastapi_app", streamed))
