"""Artifacts with fewer steps on their way through the server; `transfers` in mlflow_server_disabled_hooks keeps MLflow's.

What MLflow does with an upload stays the same, but it gets the body in larger pieces: each one goes through two
middlewares and to a thread that writes it, which for 1 MiB in pieces of 64 KiB costs more than the transfer itself.

A small file of S3 is read with one request to the store instead of three, and written or read without threads of its
own. What fails, and what is larger, goes MLflow's own way from the start, with its errors.
"""

import functools
import inspect
import os
import posixpath

import server_hooks as hooks

PIECE = 1 << 20
"""Bytes of a body that are held for one request until MLflow gets them."""
SMALL = 8 << 20
"""Bytes from which boto3 transfers a file in several parts at once (its multipart_threshold)."""


def pieces(fastapi_app):
    """Hand the bodies of uploads to the application in larger pieces."""
    if not hasattr(fastapi_app, "FastAPI"):
        return hooks.report(
            transfers_pieces=f"MLflow {hooks.version()} has no mlflow.server.fastapi_app.FastAPI; uploads come in small "
            "pieces, which costs time"
        )
    answer = fastapi_app.FastAPI.__call__

    async def call(self, scope, receive, send):
        if scope["type"] == "http" and scope["method"] == "PUT":
            receive = gathered(receive)
        await answer(self, scope, receive, send)

    fastapi_app.FastAPI.__call__ = call
    return hooks.report(transfers_pieces="")


def gathered(receive):
    """ASGI's receive of a request, with several messages of its body in one."""
    later = []

    async def gather():
        if later:
            return later.pop()
        message = await receive()
        if message["type"] != "http.request" or not message.get("more_body", False):
            return message
        parts, size = [], 0
        while message["type"] == "http.request":
            part = message.get("body", b"")
            parts.append(part)
            size += len(part)
            if size >= PIECE or not message.get("more_body", False):
                return {**message, "body": b"".join(parts)}
            message = await receive()
        later.append(message)  # the client has left
        return {"type": "http.request", "body": b"".join(parts), "more_body": True}

    return gather


def s3(repository):
    """Transfer small files of S3 with fewer requests and threads."""
    stored = getattr(repository, "S3ArtifactRepository", None)
    reason = changed(stored)
    hooks.report(transfers_s3=reason and f"MLflow {hooks.version()} {reason}; files of S3 go its own way, which is slower")
    if reason:
        return
    stored._upload_file = upload(stored._upload_file)
    stored.download_artifacts = download(stored, stored.download_artifacts)


def changed(stored):
    """What of MLflow's class is not as it is known, as a sentence's end; or nothing."""
    if stored is None:
        return "has no mlflow.store.artifact.s3_artifact_repo.S3ArtifactRepository"
    for name, arguments in (
        ("_upload_file", ["self", "s3_client", "local_file", "bucket", "key"]),
        ("download_artifacts", ["self", "artifact_path", "dst_path"]),
        ("_create_download_destination", ["self", "src_artifact_path", "dst_local_dir_path"]),
        ("parse_s3_compliant_uri", ["self", "uri"]),
        ("_get_s3_client", ["self"]),
    ):
        method = getattr(stored, name, None)
        if method is None or list(inspect.signature(method).parameters) != arguments:
            return f"has no {name}({', '.join(arguments)}) in S3ArtifactRepository"
    return ""


class InThisThread:
    """A client of boto3 whose upload_file does all in the thread that calls it."""

    def __init__(self, client):
        self.client = client

    def upload_file(self, **arguments):
        """As boto3's, with arguments as MLflow gives them."""
        from boto3.s3.transfer import TransferConfig

        return self.client.upload_file(**{"Config": TransferConfig(use_threads=False), **arguments})

    def __getattr__(self, name):
        return getattr(self.client, name)


def upload(own):
    """MLflow's _upload_file, without ten threads for a file that is sent in one request anyway."""

    @functools.wraps(own)
    def upload_file(self, s3_client, local_file, bucket, key):
        small = os.path.getsize(local_file) < SMALL
        return own(self, InThisThread(s3_client) if small else s3_client, local_file, bucket, key)

    return upload_file


def download(stored, own):
    """MLflow's download_artifacts, with one request for a small file.

    MLflow lists the path as a folder, asks for the file's size, and reads it in a thread. Where a file and a folder have
    the same name, MLflow's answer breaks off; here it is the file.
    """

    @functools.wraps(own)
    def download_artifacts(self, artifact_path, dst_path=None):
        # Classes of plugins may have made another thing of it.
        if type(self) is stored and artifact_path and dst_path and not artifact_path.endswith("/"):
            try:
                found = fetch(self, artifact_path, os.path.abspath(dst_path))
            except Exception:  # MLflow's own way has the errors that its clients know
                found = None
            if found:
                return found
        return own(self, artifact_path, dst_path)

    return download_artifacts


def fetch(self, artifact_path, folder):
    """Path of a small file that was downloaded; None for what is not one."""
    bucket, root = self.parse_s3_compliant_uri(self.artifact_uri)
    asked = {"Bucket": bucket, "Key": posixpath.join(root, artifact_path), **getattr(self, "_bucket_owner_params", {})}
    found = self._get_s3_client().get_object(**asked)
    with found["Body"] as body:
        if found["ContentLength"] >= SMALL:
            return None
        content = body.read()
    path = self._create_download_destination(src_artifact_path=artifact_path, dst_local_dir_path=folder)
    with open(path, "wb") as file:
        file.write(content)
    return path
