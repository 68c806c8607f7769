"""Counts every request of MLflow's server, whatever framework answers, and logs each as a line of JSON.

Environment:
    MLOPS_MLFLOW_METRICS: folder for the numbers of the worker processes; without it nothing is counted.
    MLOPS_MLFLOW_METRICS_PORT: port (9500) at which each worker answers GET /metrics for all of them.
    MLOPS_MLFLOW_ACCESS_LOG: `json` logs requests on standard output, in the place of uvicorn's access log.

The outermost ASGI application is wrapped, so that requests which the check of hosts, CORS or logins refuse are
counted, too. The wrapper runs in the event loop of a worker, which is one thread: nothing here needs a lock, except
what several processes share (request_numbers.py). What Flask does runs in other threads, between the same two lines of
the wrapper. A request counts when its last byte is handed to the network, so one that a killed worker was answering is
not counted, and its client has no answer either.
"""

import contextvars
import importlib
import os
import re
import time

import server_hooks as hooks
from request_exposition import Listener, rendered
from request_log import AccessLog
from request_numbers import IN_FLIGHT, Folder, Numbers
from request_routes import METHODS, OTHER, Routes

GONE = 499
"""Status (nginx's) of a request whose client left before the answer began."""
REQUEST = "mlops.mlflow.request"
"""Key of a request's scope by which a wrapper within another one knows that the request is counted already."""
CURRENT = contextvars.ContextVar(REQUEST, default=None)
"""The request that this task, or the thread that Flask answers in, is about."""
REFUSED_BEFORE_LOGIN = (b"Invalid Host header", b"Cross-origin request blocked")
"""MLflow's answers of status 403 that are given before a login is looked at."""


class Request:
    """A request that is being answered."""

    __slots__ = ("began", "failed", "gone", "key", "method", "received", "refused_before_login", "sent", "status")

    def __init__(self, method):
        self.began = time.perf_counter_ns()
        self.method = method if method in METHODS else "OTHER"
        self.received = self.sent = 0
        self.status = self.key = None
        self.failed = self.gone = self.refused_before_login = False


class Recorder:
    """Counts and logs the requests of one process, which opens its numbers when it serves, since it may be a fork."""

    def __init__(self, folder, version, access_log):
        self.prefix = os.environ.get(hooks.PREFIX, "").rstrip("/")
        self.folder = Folder(folder) if folder else None
        self.version = version
        self.numbers, self.routes, self.ready = None, None, False
        self.access_log = AccessLog(self.prefix) if access_log else None

    def forget(self):
        """In a fork: the numbers are those of the parent."""
        self.numbers, self.ready = None, False

    def prepare(self, application):
        """Open this process' numbers, and read the application's routes, which are complete when it serves."""
        if self.folder:
            self.numbers = Numbers(self.folder)
        if self.access_log:
            self.access_log.prepare()
        try:
            self.routes = Routes(application, self.prefix)
        except (AttributeError, ImportError, KeyError, re.error) as error:
            self.routes = None
            hooks.log(f"requests are counted without routes, which this version of MLflow keeps otherwise: {error!r}")
        self.ready = True

    def begin(self, scope):
        request = scope[REQUEST] = Request(scope["method"])
        CURRENT.set(request)
        if self.numbers:
            self.numbers.head[IN_FLIGHT] += 1
        return request

    def end(self, request, scope):
        """Once, when the last byte has been sent, or the application has returned without."""
        if request.key:
            return
        nanoseconds = time.perf_counter_ns() - request.began
        status = request.status or (GONE if request.gone else 500)
        route = self.routes.of(request.method, scope["path"]) if self.routes else OTHER
        request.key = (request.method, route, str(status))
        if self.numbers:
            self.numbers.head[IN_FLIGHT] -= 1
            self.numbers.add(request.key, nanoseconds, request.received, request.sent)
            if request.failed:
                self.numbers.add_exception(request.key)
        if self.access_log:
            self.access_log.write(request, scope, route, status, nanoseconds / 1e9)

    def fail(self, request):
        """An exception nothing handled; FastAPI's 500 is sent before it comes, Flask's after."""
        if request.gone or request.failed:
            return
        request.failed = True
        if request.key and self.numbers:
            self.numbers.add_exception(request.key)

    def text(self):
        return rendered(*self.folder.sums(self.numbers), self.version)


def flask_failed(_sender, **_exception):
    """Flask answers 500 for an exception, which comes no further than to this signal of its."""
    request = CURRENT.get()
    if request is not None:
        request.failed = True


def start():
    """Before mlflow.server is loaded, in the process that starts the workers: begin at 0."""
    if os.environ.get(hooks.SERVER) != str(os.getpid()):
        return
    hooks.report(requests_counted=None)
    if os.environ.get("MLOPS_MLFLOW_METRICS"):
        try:
            Folder(os.environ["MLOPS_MLFLOW_METRICS"]).empty()
        except OSError as error:
            hooks.log(f"the folder of the metrics cannot be used: {error}")


def install(fastapi_app):
    """Count the requests of MLflow's application, and log them, outside of everything else that changes FastAPI."""
    if not hasattr(fastapi_app, "FastAPI"):
        return hooks.report(
            requests_counted=f"MLflow {hooks.version()} has no mlflow.server.fastapi_app.FastAPI; its requests are "
            "neither counted nor logged"
        )
    access_log = os.environ.get("MLOPS_MLFLOW_ACCESS_LOG") == "json"
    recorder = Recorder(os.environ.get("MLOPS_MLFLOW_METRICS"), hooks.version(), access_log)
    os.register_at_fork(after_in_child=recorder.forget)
    importlib.import_module("flask").got_request_exception.connect(flask_failed)
    # FastAPI builds its middlewares within __call__.
    fastapi_app.FastAPI.__call__ = wrapped(fastapi_app.FastAPI.__call__, recorder)
    return hooks.report(requests_counted="")


def wrapped(answer, recorder):
    """`answer`, the __call__ of an ASGI application, with a recorder around it."""

    async def live(self, scope, receive, send):
        """The life of a worker."""
        recorder.prepare(self)
        port = int(os.environ.get("MLOPS_MLFLOW_METRICS_PORT", "9500"))
        listener = await Listener(port, recorder.prefix, recorder.text).start() if recorder.folder else None
        try:
            await answer(self, scope, receive, send)
        finally:
            if listener:
                listener.close()

    async def call(self, scope, receive, send):
        if scope["type"] == "lifespan":
            return await live(self, scope, receive, send)
        if scope["type"] != "http" or REQUEST in scope:
            return await answer(self, scope, receive, send)
        if not recorder.ready:
            recorder.prepare(self)
        request = recorder.begin(scope)
        # uvicorn drops silently what is sent to a client that has left.
        connection = getattr(send, "__self__", None)

        async def receive_counted():
            message = await receive()
            if message["type"] == "http.disconnect":
                request.gone = True
            else:
                request.received += len(message.get("body", b""))
            return message

        async def send_counted(message):
            body = message.get("body", b"")
            if getattr(connection, "disconnected", False):
                request.gone = True
            elif message["type"] == "http.response.start":
                request.status = int(message["status"])
            else:
                if request.status == 403 and body.startswith(REFUSED_BEFORE_LOGIN):
                    request.refused_before_login = True
                if request.method != "HEAD":  # uvicorn sends none of it
                    request.sent += len(body)
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                recorder.end(request, scope)

        try:
            await answer(self, scope, receive_counted, send_counted)
        except Exception:
            recorder.fail(request)
            raise
        finally:
            recorder.end(request, scope)

    return call
