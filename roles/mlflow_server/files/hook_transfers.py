"""Artifacts in fewer steps; mlflow_server_disabled_hooks switches it off by the name `transfers`.

Each step of a transfer that changes threads waits for Python's global lock, and a busy worker has many that want it.
Three things lessen the steps, and leave MLflow's handlers, their checks, answers and errors as they are:

- The body of an upload comes in larger pieces. MLflow passes each piece through two middlewares, each of which makes
  three tasks of it, and writes it to a file in a thread.
- A middleware that would do nothing is passed by: that of the gateway, and that of workspaces where there are none.
  Each takes three tasks and a queue for a request.
- A small file in S3 takes one request to the store instead of three, no threads of its own, and no wait for the
  store's permission to send it. Whatever is not the usual case goes MLflow's own way from the start.
- The pieces of a file that is downloaded are read in a thread together, not one after the other.
"""

import functools
import hashlib
import importlib
import inspect
import os
import posixpath
import shutil

import server_hooks as hooks

PIECE = 1 << 20
"""Bytes of an upload that are held until MLflow gets them together."""
SMALL = 8 << 20
"""Bytes from which boto3 transfers a file in several parts at once (its multipart_threshold)."""
HELD = 4 << 20
"""Bytes of a file that are held in memory while they are sent."""
OPTIONS = {"ContentType", "ContentEncoding", "ExpectedBucketOwner"}
"""What MLflow says of a file; MLFLOW_S3_UPLOAD_EXTRA_ARGS may add what boto3 has to look at first."""
ARTIFACTS = ("/api/2.0/mlflow-artifacts/artifacts/", "/ajax-api/2.0/mlflow-artifacts/artifacts/")
GATEWAY, WORKSPACES = "gateway_timing_middleware", "workspace_context_middleware"
MIDDLEWARES = {
    "50b0027122236020b6afa229345a93becad3a9a18bc7371b93f6b2d62e75c329": GATEWAY,  # 3.12, 3.13
    "895c0a870f15de9181fcf9f101105754b83c60bab3e3b4dae0144d2d17f7bbd4": GATEWAY,  # 3.14, 3.15
    "7c8b73643be70b49233e52f2fb3d76cab4bc31bc90017ecf9438cb8189582d48": GATEWAY,  # 3.16, 3.17
    "4f76a25f17bb00fe6fc5dbd33ff61191f53f617c49723e50f759bd459c8ca43e": WORKSPACES,  # 3.10 to 3.13
    "4e46e874662800885763fd7ce266428620548cb26c54edda2069d6bed6ad6c18": WORKSPACES,  # 3.14 to 3.17
}
"""SHA-256 of the source of MLflow's middlewares that do nothing for artifacts (without workspaces)."""
METHODS_OF_S3 = {
    "_create_download_destination": ["self", "src_artifact_path", "dst_local_dir_path"],
    "_get_s3_client": ["self"],
    "_upload_file": ["self", "s3_client", "local_file", "bucket", "key"],
    "download_artifacts": ["self", "artifact_path", "dst_path"],
    "parse_s3_compliant_uri": ["self", "uri"],
}
"""Methods of MLflow's S3ArtifactRepository that are called or replaced, and their arguments."""


def transfers(fastapi_app):
    """Replace each where MLflow is built as it is known."""
    missing = [reason for reason in (pieces(fastapi_app), middlewares(), s3(), downloads()) if reason]
    hooks.report(
        transfers=missing
        and f"MLflow {hooks.version()} has no {', and no '.join(missing)}; transfers of artifacts take longer"
        or ""
    )


def pieces(fastapi_app):
    """Hand uploads to the application in larger pieces; what MLflow does not have for it, or nothing."""
    if not hasattr(fastapi_app, "FastAPI"):
        return "mlflow.server.fastapi_app.FastAPI"
    answer = fastapi_app.FastAPI.__call__

    async def call(self, scope, receive, send):
        upload = scope["type"] == "http" and scope["method"] == "PUT"
        await answer(self, scope, Gathered(receive) if upload else receive, send)

    fastapi_app.FastAPI.__call__ = call
    return ""


def middlewares():
    """Pass by MLflow's middlewares that do nothing; what MLflow does not have for it, or nothing."""
    try:
        base = importlib.import_module("starlette.middleware.base").BaseHTTPMiddleware
        workspaces = importlib.import_module("mlflow.utils.workspace_context")
        begin, end = workspaces.set_server_request_workspace, workspaces.clear_server_request_workspace
    except (AttributeError, ImportError):
        return "middlewares as they are known"
    answer = base.__call__

    async def call(self, scope, receive, send):
        if "passed_by" not in self.__dict__:
            self.passed_by = known(self.dispatch_func)
        artifact = self.passed_by and scope["type"] == "http" and scope["path"].startswith(ARTIFACTS)
        if not artifact or scope.get("root_path"):
            await answer(self, scope, receive, send)
        elif self.passed_by == GATEWAY:
            await ended(self.app, scope, receive, send)
        elif no_workspaces(scope):
            begin(None)
            try:
                await ended(self.app, scope, receive, send)
            finally:
                end()
        else:
            await answer(self, scope, receive, send)

    base.__call__ = call
    return ""


async def ended(application, scope, receive, send):
    """Call an ASGI application; an answer in which it fails is ended, as it is by a middleware of Starlette's."""
    more = None

    async def tell(message):
        nonlocal more
        more = message["type"] == "http.response.start" or message.get("more_body", False)
        await send(message)

    try:
        await application(scope, receive, tell)
    except Exception:
        if more:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        raise


def known(dispatch):
    """Which of MLflow's middlewares a function is; None: another."""
    try:
        found = MIDDLEWARES.get(hashlib.sha256(inspect.getsource(dispatch).encode()).hexdigest())
    except (OSError, TypeError):
        return None
    return found if dispatch.__module__ == "mlflow.server.fastapi_app" else None


def no_workspaces(scope):
    """Whether workspaces are off, and a request names none."""
    off = os.environ.get("MLFLOW_ENABLE_WORKSPACES", "false").lower() in ("false", "0")
    return off and not any(name == b"x-mlflow-workspace" for name, _value in scope["headers"])


class Gathered:
    """ASGI's receive of a request, with several messages of its body in one.

    A call that is cancelled, as Starlette's middlewares do, loses nothing of what has come.
    """

    def __init__(self, receive):
        self.receive, self.left = receive, None
        self.parts, self.size = [], 0

    async def __call__(self):
        if self.left:
            return self.left
        while True:
            message = await self.receive()
            if message["type"] != "http.request":  # the client has left
                if not self.parts:
                    return message
                self.left = message
                return {"type": "http.request", "body": self.body(), "more_body": True}
            self.parts.append(message.get("body", b""))
            self.size += len(self.parts[-1])
            if self.size >= PIECE or not message.get("more_body", False):
                return {**message, "body": self.body()}

    def body(self):
        """What has come; it is no longer here then."""
        parts, self.parts, self.size = self.parts, [], 0
        return b"".join(parts)


def s3():
    """Transfer small files of S3 with fewer requests and threads; what MLflow does not have for it, or nothing."""
    try:
        stored = importlib.import_module("mlflow.store.artifact.s3_artifact_repo").S3ArtifactRepository
    except (AttributeError, ImportError):
        return "mlflow.store.artifact.s3_artifact_repo.S3ArtifactRepository"
    for name, arguments in METHODS_OF_S3.items():
        method = getattr(stored, name, None)
        if method is None or list(inspect.signature(method).parameters) != arguments:
            return f"S3ArtifactRepository.{name}({', '.join(arguments[1:])})"
    stored._upload_file = uploaded(stored, stored._upload_file)
    stored.download_artifacts = downloaded(stored, stored.download_artifacts)
    return ""


class InOnePiece:
    """A client of boto3 that sends a file as it has read it.

    boto3 starts several threads for each file, asks the store whether it may send it, and has Python read it for each
    checksum and for each packet.
    """

    def __init__(self, client):
        self.client = client

    def upload_file(self, Filename, Bucket, Key, ExtraArgs):
        """boto3's, with arguments and errors as MLflow knows them."""
        if not ExtraArgs.keys() <= OPTIONS:
            self.client.upload_file(Filename=Filename, Bucket=Bucket, Key=Key, ExtraArgs=ExtraArgs)
            return
        refused = importlib.import_module("botocore.exceptions").ClientError
        with open(Filename, "rb") as file:
            content = file.read()
        try:
            self.client.put_object(Bucket=Bucket, Key=Key, Body=content, **ExtraArgs)
        except refused as error:
            failed = importlib.import_module("boto3.exceptions").S3UploadFailedError
            raise failed(f"Failed to upload {Filename} to {Bucket}/{Key}: {error}") from error

    def __getattr__(self, name):
        return getattr(self.client, name)


def uploaded(stored, own):
    """MLflow's _upload_file."""

    @functools.wraps(own)
    def upload_file(self, s3_client, local_file, bucket, key):
        if self.__class__ is stored and os.path.getsize(local_file) <= HELD:
            s3_client = InOnePiece(s3_client)
        return own(self, s3_client, local_file, bucket, key)

    return upload_file


def downloaded(stored, own):
    """MLflow's download_artifacts; a small file takes one request.

    MLflow lists the path as if it were a folder, asks for the file's size, and then reads it. Where a file and a folder
    have the same name, MLflow cannot deliver the file, and this does.
    """

    @functools.wraps(own)
    def download_artifacts(self, artifact_path, dst_path=None):
        # Plugins' subclasses may have made another thing of it.
        usual = self.__class__ is stored and dst_path and artifact_path and not artifact_path.endswith("/")
        found = fetched(self, artifact_path, os.path.abspath(dst_path)) if usual else None
        return found or own(self, artifact_path, dst_path)

    return download_artifacts


def fetched(repository, artifact_path, folder):
    """Path of a small file that has been downloaded into a folder; None where MLflow's own way is needed.

    Raises:
        botocore.exceptions.HTTPClientError: there is no connection to the store, as on MLflow's own way.
    """
    unreachable = importlib.import_module("botocore.exceptions").HTTPClientError
    try:
        bucket, root = repository.parse_s3_compliant_uri(repository.artifact_uri)
        owner = getattr(repository, "_bucket_owner_params", {})
        client = repository._get_s3_client()
        found = client.get_object(Bucket=bucket, Key=posixpath.join(root, artifact_path), **owner)
    except unreachable:
        raise  # not tried again: it may have taken minutes
    except Exception:  # MLflow's own way has the errors that its clients know
        return None
    try:
        with found["Body"] as body:
            if found["ContentLength"] >= SMALL:
                return None
            path = repository._create_download_destination(artifact_path, folder)
            with open(path, "wb") as file:
                shutil.copyfileobj(body, file, PIECE)
            return path
    except Exception:  # such as a connection that broke, which is tried again there
        return None


def downloads():
    """Read files that are downloaded in fewer steps; what MLflow does not have for it, or nothing."""
    try:
        router = importlib.import_module("mlflow.server.artifact_router")
    except ImportError:
        return ""  # MLflow does not stream artifacts yet
    if not hasattr(router, "StreamingResponse"):
        return "mlflow.server.artifact_router.StreamingResponse"
    router.StreamingResponse = together(router.StreamingResponse)
    return ""


def together(base):
    """A class of Starlette's StreamingResponse that has a thread read what it sends at once, not piece by piece."""
    concurrency = importlib.import_module("starlette.concurrency")

    class Together(base):
        """An answer with the pieces that a generator reads."""

        def __init__(self, content, **options):
            super().__init__(content, **options)
            self.content = content

        async def __call__(self, scope, receive, send):
            if not inspect.isgenerator(self.content):
                await super().__call__(scope, receive, send)
                return
            try:
                held, all_of_it = await concurrency.run_in_threadpool(begin, self.content)
            except Exception:  # such as of a folder, which MLflow finds out after it has begun to answer
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                raise
            if not all_of_it:
                self.body_iterator = concurrency.iterate_in_threadpool(rest(held, self.content))
                await super().__call__(scope, receive, send)
                return
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            for part in held[:-1]:
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b"".join(held[-1:]), "more_body": False})

    return Together


def rest(held, pieces):
    """The pieces that are held, which are no longer held then, and the others."""
    while held:
        yield held.pop(0)
    yield from pieces


def begin(pieces):
    """The first pieces, and whether they are all."""
    held, size = [], 0
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size >= HELD:
            return held, False
    return held, True
