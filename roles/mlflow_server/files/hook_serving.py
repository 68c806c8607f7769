"""What makes the server answer faster than MLflow's defaults; mlflow_server_disabled_hooks switches each off.

nodelay     no wait for a delayed acknowledgement (40 ms) on connections that stay open
access_log  the lines of uvicorn's access log are written without a record of logging for each
direct      requests of the API straight to Flask, which answers them, past the middlewares of FastAPI in front of it
"""

import asyncio
import concurrent.futures
import contextlib
import contextvars
import functools
import importlib
import logging
import os
import socket
import sys
import time

import server_hooks as hooks

THREADS = int(os.environ.get("MLOPS_MLFLOW_THREADS") or 8)
"""Requests that one worker answers at once on the direct way."""
SLOW = 1.0
"""Seconds that a request waits for a thread of the direct way; then MLflow's own way, which has others, answers it."""
METHODS = {"GET", "POST", "PUT", "PATCH", "DELETE"}
"""All but HEAD and OPTIONS, which browsers send before requests of other origins."""
APIS = ("/api/2.0/mlflow/", "/api/3.0/mlflow/")
SAME_IN_FLASK = {
    "HostValidationMiddleware": ("before", "validate_host"),
    "CORSBlockingMiddleware": ("before", "block_cross_origin_state_changes"),
    "SecurityHeadersMiddleware": ("after", "add_security_headers"),
    "workspace_context_middleware": ("before", "workspace_before_request_handler"),
    "fastapi_permission_middleware": ("before", "_before_request"),
}
"""What each middleware of FastAPI does, Flask does itself by this function (for servers without FastAPI)."""
NOT_FOR_THE_API = {"CORSMiddleware", "gateway_timing_middleware"}
"""Of requests with an Origin header, which go MLflow's own way; of paths below /gateway/."""


def nodelay(config):
    """Set TCP_NODELAY on the socket that workers inherit.

    asyncio sets it on connections of sockets that it has made itself; with several workers uvicorn's parent makes the
    socket. Linux copies the option to each accepted connection.
    """
    bind = config.Config.bind_socket

    @functools.wraps(bind)
    def bind_socket(self):
        bound = bind(self)
        if bound.family in (socket.AF_INET, socket.AF_INET6):
            bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return bound

    config.Config.bind_socket = bind_socket


def access_log(config):
    """Write uvicorn's access log without a record of logging for each line, where it is set up as MLflow does."""
    configure = config.Config.configure_logging

    @functools.wraps(configure)
    def configure_logging(self):
        configure(self)
        logger = logging.getLogger("uvicorn.access")
        if isinstance(getattr(logger.info, "__self__", None), Lines):  # of the parent process
            del logger.info
        if len(logger.handlers) == 1:
            logger.info = Lines(logger, logger.handlers[0]).info

    config.Config.configure_logging = configure_logging


class Lines:
    """The access log of a logger with one handler.

    Attributes:
        usual: whether that writes to a stream, in a format of which all parts are known.
    """

    MESSAGE = '%s - "%s %s HTTP/%s" %d'
    """uvicorn's for each request."""

    def __init__(self, logger, handler):
        self.logger, self.handlers, self.handler = logger, [handler], handler
        self.own, self.format = logger.info, handler.formatter
        self.second, self.time, self.phrases = None, "", {}
        formatter = importlib.import_module("uvicorn.logging").AccessFormatter
        # Not of subclasses, which may do it in another way.
        self.usual = (handler.__class__, self.format.__class__) == (logging.StreamHandler, formatter)
        self.usual = self.usual and self.format._style.__class__ is logging.PercentStyle
        self.usual = self.usual and not self.format.use_colors and (self.format.datefmt or not self.format.usesTime())
        if self.usual:
            try:
                self.text("", "", "", "", 200)
            except (KeyError, TypeError, ValueError):
                self.usual = False

    def info(self, message, *values, **more):
        """As the logger's; what is not an access, or a logger that has been changed, goes its way."""
        logger, handler = self.logger, self.handler
        usual = self.usual and message == self.MESSAGE and len(values) == 5 and not more
        usual = usual and logger.isEnabledFor(logging.INFO) and handler.level <= logging.INFO and not logger.filters
        usual = usual and not handler.filters and not logger.propagate and handler.formatter is self.format
        if usual and logger.handlers == self.handlers:
            try:
                with handler.lock:
                    handler.stream.write(self.text(*values))
                    handler.stream.flush()
                return None
            except (OSError, ValueError):  # such as a closed stream, of which logging says more
                pass
        return self.own(message, *values, **more)

    def text(self, client, method, path, version, status):
        """A line."""
        now = int(time.time())
        if now != self.second:
            self.second, self.time = now, time.strftime(self.format.datefmt or "", time.localtime(now))
        if status not in self.phrases:
            self.phrases[status] = self.format.get_status_code(status)
        line = self.format._fmt % {
            "asctime": self.time,
            "levelprefix": "INFO:    ",
            "client_addr": client,
            "request_line": f"{method} {path} HTTP/{version}",
            "status_code": self.phrases[status],
        }
        return f"{line}{self.handler.terminator}"


def direct(fastapi_app):
    """Answer requests of the API without FastAPI's middlewares and its bridge to threads."""
    if not hasattr(fastapi_app, "FastAPI"):
        return hooks.report(
            direct=f"MLflow {hooks.version()} has no mlflow.server.fastapi_app.FastAPI; the API goes MLflow's own way"
        )
    application = fastapi_app.FastAPI
    answer = application.__call__
    ways = {}

    async def call(self, scope, receive, send):
        way = ways.get(id(self))
        if way is None:  # its first call is that of its start, with all of its routes there
            way = Direct(self)
            if not ways:  # others are applications that a plugin has mounted below MLflow's
                hooks.report(direct=way.reason and f"the API is answered in MLflow's own way: {way.reason}")
            ways[id(self)] = way
        if way.takes(scope):
            await way.answer(scope, receive, send, functools.partial(answer, self))
        else:
            await answer(self, scope, receive, send)

    application.__call__ = call
    return None


class Direct:
    """The direct way of one FastAPI application to the Flask application that it ends in.

    Only for routes of Flask that are exact paths of the API, that no route of FastAPI takes before, and whose
    middlewares Flask repeats. Requests with an Origin header are left to FastAPI: they come from pages, and its answers
    about other origins differ from Flask's. So are those in which WSGI's names of headers would not be what FastAPI
    reads: a header that comes twice, or one with an underscore.

    Attributes:
        reason: why there is no direct way, as a sentence, or empty.
        methods: those that are answered, by the path.
    """

    def __init__(self, application):
        self.methods = {}
        self.threads = asyncio.Semaphore(THREADS)
        try:
            self.flask = application.routes[-1].app.app
            self.reason = self.missing(application)
            if not self.reason:
                for path, methods in self.routes(application):
                    self.methods.setdefault(path, set()).update(methods)
        except (AttributeError, IndexError, ImportError) as error:
            self.reason = f"MLflow {hooks.version()} is built in another way ({error})"
        if self.reason:
            return
        self.build_environ = importlib.import_module("starlette.middleware.wsgi").build_environ
        self.executor = concurrent.futures.ThreadPoolExecutor(THREADS, "direct")

    def missing(self, application):
        """What a middleware does that Flask does not, as a sentence; or nothing."""
        found = {
            "before": {function.__name__ for function in self.flask.before_request_funcs.get(None, ())},
            "after": {function.__name__ for function in self.flask.after_request_funcs.get(None, ())},
        }
        built = application.build_middleware_stack
        if built.__qualname__ not in ("FastAPI.build_middleware_stack", "Starlette.build_middleware_stack"):
            return "something has changed how FastAPI puts its middlewares together"
        for middleware in application.user_middleware:
            dispatch = middleware.kwargs.get("dispatch")
            name = dispatch.__name__ if dispatch else middleware.cls.__name__
            when, function = SAME_IN_FLASK.get(name, ("", ""))
            if name not in NOT_FOR_THE_API and function not in found.get(when, ()):
                return f"Flask does nothing in place of the middleware {name}"
        return ""

    def routes(self, application):
        """Exact paths and methods that only Flask answers; a path comes once for each of Flask's rules for it."""
        match = importlib.import_module("starlette.routing").Match
        prefix = os.environ.get(hooks.PREFIX, "").rstrip("/")
        apis = tuple(prefix + api for api in APIS)
        for rule in self.flask.url_map.iter_rules():
            if rule.arguments or not rule.rule.startswith(apis):
                continue
            scope = {"type": "http", "path": rule.rule, "root_path": "", "headers": [], "method": ""}
            taken = False
            for route in application.routes[:-1]:
                taken = taken or route.matches(dict(scope))[0] != match.NONE
            methods = {method for method in rule.methods & METHODS if not self.authorized_elsewhere(rule.rule, method)}
            if methods and not taken:
                yield rule.rule, methods

    @staticmethod
    def authorized_elsewhere(path, method):
        """Whether logins of this route are FastAPI's."""
        auth = sys.modules.get("mlflow.server.auth")
        if not auth:
            return False
        try:
            return auth._find_fastapi_validator(path, method) is not None
        except TypeError:  # before 3.14 without the method
            return auth._find_fastapi_validator(path) is not None

    def takes(self, scope):
        """Whether this request goes the direct way."""
        if scope["type"] != "http" or scope["method"] not in self.methods.get(scope["path"], ()):
            return False
        names = [name for name, _value in scope["headers"]]
        usual = len(set(names)) == len(names) and not any(b"_" in name for name in names)
        return usual and b"origin" not in names and not scope.get("root_path")

    async def answer(self, scope, receive, send, own):
        """Read the request, have Flask answer it in a thread, and send the answer.

        Arguments:
            own: MLflow's own way, as ASGI; where slow requests hold all threads, others need not wait for them.
        """
        chunks, more = [], True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            chunks.append(message.get("body", b""))
            more = message.get("more_body", False)
        body = b"".join(chunks)
        del chunks
        if not await self.thread():
            await own(scope, _again(body, receive), send)
            return
        try:
            environ = self.build_environ(scope, body)
            del body
            # As run_in_executor, but without its second future and what passes the result from one to the other.
            loop = asyncio.get_running_loop()
            answered = loop.create_future()
            self.executor.submit(contextvars.copy_context().run, self.work, environ, loop, answered)
            status, headers, content = await answered
        finally:
            self.threads.release()
        with in_one_write(send):
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": content})

    async def thread(self):
        """Whether a thread became free in time; the caller has it then."""
        if not self.threads.locked():
            return await self.threads.acquire()
        try:
            return await asyncio.wait_for(self.threads.acquire(), SLOW)
        except asyncio.TimeoutError:
            return False

    def work(self, environ, loop, answered):
        """Have Flask answer, in a thread, and tell the event loop."""
        try:
            tell, what = answered.set_result, self.ask(environ)
        except BaseException as error:
            tell, what = answered.set_exception, error
        loop.call_soon_threadsafe(lambda: answered.done() or tell(what))

    def ask(self, environ):
        """Status, headers and body of Flask's answer."""
        begun = {}

        def start_response(status, headers, exc_info=None):
            begun["status"] = int(status.split(" ", 1)[0])
            begun["headers"] = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]

        answer = self.flask(environ, start_response)
        try:
            body = b"".join(answer)
        finally:
            if hasattr(answer, "close"):
                answer.close()
        return begun["status"], begun["headers"], body


@contextlib.contextmanager
def in_one_write(send):
    """Have uvicorn send the head and the body of an answer together, so that both are one packet where they fit."""
    cycle = getattr(send, "__self__", None)
    transport = getattr(cycle, "transport", None)
    if transport is None:
        yield
        return
    cycle.transport = Held(transport)
    try:
        yield
    finally:
        cycle.transport.end()
        cycle.transport = transport


class Held:
    """A transport that holds what is written first until more is written."""

    def __init__(self, transport):
        self.transport, self.first = transport, None

    def write(self, data):
        if self.first is None:
            self.first = data
        else:
            self.transport.write(self.first + data)
            self.first = b""

    def end(self):
        """Write what is still held."""
        if self.first:
            self.transport.write(self.first)

    def __getattr__(self, name):
        return getattr(self.transport, name)


def _again(body, receive):
    """ASGI's receive of a request whose body has been read."""
    unread = [{"type": "http.request", "body": body, "more_body": False}]

    async def read():
        return unread.pop() if unread else await receive()

    return read
