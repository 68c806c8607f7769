"""Artifacts on their way through the server: no presigned URLs, and streamed below a path, too."""

import os

import server_hooks as hooks


def proxied(handlers):
    """Keep artifacts on their way through the server where mlflow_server_artifacts is `proxied`.

    Since 3.15 MLflow's server tells every client to fetch artifacts by presigned URLs whenever they are in S3, and has
    no switch against it. Those URLs lead to the store by the name that the server knows it by, which clients outside
    the cluster cannot resolve, so that every download of theirs would fail. This makes the server answer that it has
    no such URLs, which clients have long understood.
    """
    mixins = (
        ("MultipartUploadMixin",)
        if hooks.release() < (3, 14)
        else ("MultipartUploadMixin", "MultipartDownloadMixin", "PresignedUploadMixin")
    )
    missing = [mixin for mixin in mixins if not hasattr(handlers, mixin)]
    for mixin in mixins:
        if mixin not in missing:
            setattr(handlers, mixin, type("NoStoreHasThis", (), {}))
    names = ", ".join(f"mlflow.server.handlers.{mixin}" for mixin in missing)
    hooks.report(
        artifacts_proxied=missing
        and (
            f"MLflow {hooks.version()} has no {names}; clients may be sent to the object store by presigned URLs, "
            "which mlflow_server_artifacts proxied is to prevent"
        )
        or ""
    )


def streamed(fastapi_app):
    """Stream artifacts below mlflow_server_path_prefix, too.

    MLflow's routes that do are at its root alone; those below a path hold each artifact in memory, at twice its size.
    A request for one is taken for the same at the root before anything else looks at it, logins and permissions
    included.
    """
    prefix = os.environ.get(hooks.PREFIX)
    if not prefix and not os.environ.get("MLFLOW_ARTIFACTS_PROXIED"):
        return None
    if not hasattr(fastapi_app, "artifact_router"):
        return hooks.report(
            artifacts_streamed=f"MLflow {hooks.version()} has no mlflow.server.artifact_router; the server holds each "
            "artifact in memory, at twice its size, until it is passed on"
        )
    if prefix:
        if not hasattr(fastapi_app, "FastAPI"):
            return hooks.report(
                artifacts_streamed=f"MLflow {hooks.version()} has no mlflow.server.fastapi_app.FastAPI; below {prefix} "
                "the server holds each artifact in memory, at twice its size"
            )
        below(fastapi_app.FastAPI, prefix.rstrip("/"))
    return hooks.report(artifacts_streamed="")


def below(application, prefix):
    """Take requests for artifacts below a path for the same at the root."""
    answer = application.__call__
    artifacts = tuple(f"{prefix}/{api}/2.0/mlflow-artifacts/artifacts/" for api in ("api", "ajax-api"))

    async def at_the_root(self, scope, receive, send):
        if scope["type"] == "http" and scope["method"] in ("GET", "PUT") and scope["path"].startswith(artifacts):
            scope = {**scope, "path": scope["path"][len(prefix) :], "raw_path": scope["raw_path"][len(prefix) :]}
        await answer(self, scope, receive, send)

    application.__call__ = at_the_root
