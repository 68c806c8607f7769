"""Counts every request of MLflow's server, whatever framework answers, and logs each as a line of JSON.

Environment:
    MLOPS_MLFLOW_METRICS: folder for the numbers of the worker processes; without it nothing is counted.
    MLOPS_MLFLOW_METRICS_PORT: port (9500) at which each worker answers GET /metrics for all of them.
    MLOPS_MLFLOW_ACCESS_LOG: `json` logs requests on standard output, in the place of uvicorn's access log.

The outermost ASGI application is wrapped, so that requests which the check of hosts, CORS or logins refuse are
counted, too. The wrapper runs in the event loop of a worker, which is one thread: nothing here needs a lock, except
what several processes share. What Flask does runs in other threads, between the same two lines of the wrapper.

Each worker writes its numbers to a file of its own that is mapped into memory, one word of 64 bits each. Any worker
reads the files of all, adds those of workers that have ended to one file, and removes them; so a killed worker's
counters stay in the sums, and the number of files is bounded. A worker holds a POSIX lock on its file, which ends with
the process. A request counts when its last byte is handed to the network, so one that a killed worker was answering
is not counted, and its client has no answer either.
"""

import asyncio
import base64
import binascii
import bisect
import contextlib
import contextvars
import datetime
import fcntl
import hmac
import importlib
import json
import logging
import mmap
import os
import pathlib
import re
import time

import server_hooks as hooks

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0)
"""Upper bounds of the histograms' buckets in seconds, with the thresholds of the alerts and service levels."""
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
OTHER = "other"
"""Route of a request that matches no template of MLflow's."""
GONE = 499
"""Status (nginx's) of a request whose client left before the answer began."""

NANOSECONDS, RECEIVED, SENT, EXCEPTIONS = range(len(BOUNDS) + 1, len(BOUNDS) + 5)
"""Words of a series after its buckets, the last of which has no bound."""
WORDS = EXCEPTIONS + 1
BOUNDS_IN_NANOSECONDS = tuple(int(bound * 1e9) for bound in BOUNDS)

SEGMENT = 64 << 10
"""Bytes by which a worker's file grows."""
SEGMENTS = 16
"""A worker's file grows no further; what has no room counts as route "other"."""
MAGIC = 0x6D6C666C6F770001
IN_FLIGHT = 1
"""Word of the file; the series begin after it."""
SEPARATOR = "\0"
"""Between method, route and status in the name of a series."""
OVERFLOW = ("OTHER", OTHER, OTHER)
"""The series for what has no room, not even as route "other"."""

REQUEST = "mlops.mlflow.request"
"""Key of a request's scope by which a wrapper within another one knows that the request is counted already."""
CURRENT = contextvars.ContextVar(REQUEST, default=None)
"""The request that this task, or the thread that Flask answers in, is about."""
REFUSED_BEFORE_LOGIN = (b"Invalid Host header", b"Cross-origin request blocked")
"""MLflow's answers of status 403 that are given before a login is looked at."""

CONNECTIONS = 8
"""At a time, to the port of the metrics; more are closed."""
READ_SECONDS, SEND_SECONDS = 5, 30
HEAD_BYTES = 8 << 10


# Routes


class Routes:
    """The templates of the routes of an application of MLflow's, FastAPI's and Flask's.

    Matched here and not taken from the frameworks, because these have matched nothing when a request is refused
    before, and because they hand the result over in ways that differ by version and by the way to Flask.
    """

    def __init__(self, application, prefix):
        self.prefix = prefix
        self.exact, self.labels, patterns = {}, {}, {}
        for template, pattern, methods in (*fastapi_routes(application), *flask_routes()):
            label = self.label(template)
            for method in methods & METHODS:
                if pattern is None:
                    self.exact.setdefault((method, template), label)
                else:
                    patterns.setdefault(method, []).append(f"({pattern})")
                    self.labels.setdefault(method, []).append(label)
        self.patterns = {method: re.compile("|".join(each)) for method, each in patterns.items()}

    def label(self, template):
        """Template of a route without the prefix, variables in braces: /traces/{trace_id}."""
        if self.prefix and (template + "/").startswith(self.prefix + "/"):
            template = template[len(self.prefix) :] or "/"
        return re.sub(r"{(\w+)(?::\w+)?}|<(?:[^<>]*:)?(\w+)>", r"{\1\2}", template)

    def of(self, method, path):
        """Template of a request's route; "other" where none matches, as for a method that a path does not have."""
        label = self.exact.get((method, path))
        if label is not None:
            return label
        pattern = self.patterns.get(method)
        found = pattern and pattern.fullmatch(path)
        return self.labels[method][found.lastindex - 1] if found else OTHER


def fastapi_routes(application):
    """Templates of a FastAPI application, a pattern for those with variables, and methods."""
    routing = importlib.import_module("fastapi.routing")
    # Newer versions keep the routers that an application includes as such and have a function to walk them.
    walk = getattr(routing, "iter_route_contexts", iter)
    for route in walk(application.routes):
        methods, template = getattr(route, "methods", None), getattr(route, "path", None)
        if methods and template:
            pattern = re.sub(r"\(\?P<\w+>", "(?:", route.path_regex.pattern).removeprefix("^").removesuffix("$")
            yield template, pattern if "{" in template else None, set(methods)


def flask_routes():
    """The same of MLflow's Flask application, which answers what FastAPI has no route for."""
    url_map = importlib.import_module("mlflow.server").app.url_map
    variable = re.compile(r"<(?:(\w+)(?:\([^)]*\))?:)?\w+>")
    for rule in url_map.iter_rules():
        template, methods = rule.rule, set(rule.methods or METHODS)
        if not rule.arguments:
            yield template, None, methods
            if template.rstrip("/") != template:
                yield template.rstrip("/"), None, methods  # which Flask redirects to it
            continue
        pattern, end = "", 0
        for found in variable.finditer(template):
            converter = url_map.converters[found[1] or "default"]
            pattern += f"{re.escape(template[end:found.start()])}(?:{converter.regex})"
            end = found.end()
        yield template, pattern + re.escape(template[end:]), methods


# Numbers


class Numbers:
    """What this process has counted, in a file that others read while it is written.

    The file's blocks are reserved before they are mapped, since writing to a mapped hole of a full disk would end the
    process. Where no file can be had, the numbers are in this process' memory only.
    """

    def __init__(self, folder):
        self.path, self.file, self.segments, self.series = None, None, [], {}
        try:
            self.path, self.file = folder.new_file()
            self.grow()
        except OSError as error:
            self.file = None
            hooks.log(f"requests that this worker answers are not in the metrics of the others: {error}")
            self.grow()
        self.head = self.segments[0]
        self.head[0], self.used = MAGIC, IN_FLIGHT + 1
        self.series[OVERFLOW] = self.room(OVERFLOW)

    def grow(self):
        """Make room for more series."""
        size = len(self.segments) * SEGMENT
        if len(self.segments) == SEGMENTS:
            raise OSError(f"more than {size} bytes of numbers")
        if self.file is None:
            segment = mmap.mmap(-1, SEGMENT)
        else:
            os.posix_fallocate(self.file.fileno(), size, SEGMENT)
            segment = mmap.mmap(self.file.fileno(), SEGMENT, offset=size)
        self.segments.append(memoryview(segment).cast("Q"))
        self.used = 0

    def room(self, key):
        """Where a new series is: a segment, and the first of its words there."""
        name = SEPARATOR.join(key).encode()
        length = 1 + words_of(len(name))
        if self.used + length + WORDS > SEGMENT // 8:
            self.grow()
        segment, start = self.segments[-1], self.used
        segment.cast("B")[(start + 1) * 8 : (start + length) * 8] = name.ljust(words_of(len(name)) * 8)
        self.used += length + WORDS
        segment[start] = len(name)  # last: readers see the whole name or none
        return segment, start + length

    def of(self, key):
        """A series' segment and the first of its words; those of a wider series where there is no room."""
        found = self.series.get(key)
        if found is None:
            try:
                found = self.room(key)
            except OSError:
                method, route, status = key
                found = self.series[OVERFLOW] if route == OTHER else self.of((method, OTHER, status))
            self.series[key] = found
        return found

    def add(self, key, nanoseconds, received, sent):
        words, start = self.of(key)
        words[start + bisect.bisect_left(BOUNDS_IN_NANOSECONDS, nanoseconds)] += 1
        words[start + NANOSECONDS] += nanoseconds
        if received:
            words[start + RECEIVED] += received
        if sent:
            words[start + SENT] += sent

    def add_exception(self, key):
        words, start = self.of(key)
        words[start + EXCEPTIONS] += 1


def words_of(length):
    """Words that so many bytes take."""
    return -(-length // 8)


def read(segments):
    """Series with their words, and the requests in flight, of a process' file."""
    if segments[0][0] != MAGIC:
        return {}, 0
    counted, position = {}, IN_FLIGHT + 1
    for words in segments:
        while position < len(words) and words[position]:
            length = words[position]
            name = words[position + 1 : position + 1 + words_of(length)].tobytes()[:length].decode()
            start = position + 1 + words_of(length)
            counted[tuple(name.split(SEPARATOR))] = words[start : start + WORDS].tolist()
            position = start + WORDS
        position = 0
    return counted, segments[0][IN_FLIGHT]


def read_file(file):
    """The same of an open file of another process; nothing is in one that is being made."""
    size = os.fstat(file.fileno()).st_size
    if not size:
        return {}, 0
    with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as content:
        with memoryview(content) as raw, raw.cast("Q") as words:
            step = SEGMENT // 8
            segments = [words[start : start + step] for start in range(0, len(words), step)]
            try:
                return read(segments)
            finally:
                for segment in segments:
                    segment.release()


def add(sums, counted):
    """Add series to others."""
    for key, words in counted.items():
        known = sums.get(key)
        sums[key] = words if known is None else [one + other for one, other in zip(known, words)]


class Folder:
    """The files of all workers of a server: PID-TIME.worker of each, `ended.json` of those that have ended."""

    def __init__(self, path):
        self.path = pathlib.Path(path)
        self.ended = self.path / "ended.json"
        self.started = self.path / "started"

    @contextlib.contextmanager
    def locked(self):
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(self.path / "lock", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def empty(self):
        """At the start of a server: its numbers begin at 0, unless workers of another one are using the folder."""
        with self.locked():
            files = list(self.path.glob("*.worker"))
            if any(not dead for _path, _file, dead in self.open_files(files)):
                return
            for path in (*files, self.ended):
                path.unlink(missing_ok=True)
            self.started.write_text(str(time.time()), encoding="utf-8")

    def new_file(self):
        """An empty file for this process, locked: path and file; those of workers that have ended are merged before."""
        with self.locked():
            self.merge(self.open_files(self.path.glob("*.worker")))
            if not self.started.exists():
                self.started.write_text(str(time.time()), encoding="utf-8")
            path = self.path / f"{os.getpid()}-{time.time_ns()}.worker"
            file = open(path, "x+b", buffering=0)
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return path, file

    def open_files(self, paths):
        """Files, open, and whether their process has ended."""
        for path in paths:
            with open(path, "r+b", buffering=0) as file:
                try:
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    dead = True
                except OSError:
                    dead = False
                yield path, file, dead

    def sums(self, own):
        """Series of all workers, ended ones included; the requests in flight; and when the server started.

        Args:
            own: Numbers of this process, whose file must not be opened again: closing it would end its lock.
        """
        with self.locked():
            others = [path for path in self.path.glob("*.worker") if path != own.path]
            sums, in_flight = self.merge(self.open_files(others))
            started = float(self.started.read_text(encoding="utf-8"))
        counted, more = read(own.segments)
        add(sums, counted)
        return sums, in_flight + more, started

    def merge(self, files):
        """Series of workers, and of requests in flight; files of ended workers become a part of `ended.json`.

        That one names the files that are in it: a process that is killed before they are removed changes no sum.
        """
        try:
            known = json.loads(self.ended.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = {"files": [], "series": {}}
        ended = {tuple(name.split(SEPARATOR)): words for name, words in known["series"].items()}
        living, in_flight, merged = {}, 0, []
        for path, file, dead in files:
            counted, more = ({}, 0) if path.name in known["files"] else read_file(file)
            if dead:
                add(ended, counted)
                merged.append(path)
            else:
                add(living, counted)
                in_flight += more
        if merged:
            self.write(ended, merged)
        add(living, ended)
        return living, in_flight

    def write(self, ended, merged):
        content = {
            "files": [path.name for path in merged],
            "series": {SEPARATOR.join(key): words for key, words in ended.items()},
        }
        new = self.ended.with_suffix(".new")
        try:
            new.write_text(json.dumps(content), encoding="utf-8")
            new.replace(self.ended)
        except OSError:
            return  # a full disk; the next time, then
        for path in merged:
            path.unlink(missing_ok=True)


# Text


def rendered(sums, in_flight, started, version):
    """Prometheus' text format 0.0.4."""
    series = [(key, words) for key, words in sorted(sums.items()) if key != OVERFLOW or any(words)]
    by_status = labelled(series, ("method", "route", "status"))
    by_endpoint = labelled(series, ("method", "endpoint", "status"))
    by_route = labelled(grouped(series, 2), ("method", "route"))
    by_method = labelled(grouped(series, 1), ("method",))
    families = (
        ("mlflow_http_request_total", "counter", "HTTP requests answered.", counts(by_status)),
        (
            "mlflow_http_request_duration_seconds",
            "histogram",
            "Seconds from the head of a request to the last byte of its answer.",
            histogram(by_status),
        ),
        ("mlflow_http_requests_in_flight", "gauge", "HTTP requests being answered.", [("", "", in_flight)]),
        (
            "mlflow_http_request_bytes_total",
            "counter",
            "Bytes of bodies of requests that were read.",
            [("", labels, words[RECEIVED]) for labels, words in by_route],
        ),
        (
            "mlflow_http_response_bytes_total",
            "counter",
            "Bytes of bodies of answers that were sent.",
            [("", labels, words[SENT]) for labels, words in by_route],
        ),
        (
            "mlflow_http_request_exceptions_total",
            "counter",
            "HTTP requests that ended in an exception that nothing handled.",
            [("", labels, words[EXCEPTIONS]) for labels, words in by_route],
        ),
        ("mlflow_server_info", "gauge", "Version of MLflow.", [("", f'version="{escaped(version)}"', 1)]),
        (
            "mlflow_server_start_time_seconds",
            "gauge",
            "Start of the server, when its counters were 0, in seconds since 1970.",
            [("", "", round(started, 3))],
        ),
        ("mlflow_requests_total", "counter", "The same as mlflow_http_request_total.", counts(by_endpoint)),
        (
            "mlflow_request_duration_seconds",
            "histogram",
            "The same as mlflow_http_request_duration_seconds, of all routes.",
            histogram(by_method),
        ),
    )
    lines = []
    for name, kind, explanation, samples in families:
        lines += [f"# HELP {name} {explanation}", f"# TYPE {name} {kind}"]
        for suffix, labels, value in samples:
            lines.append(f"{name}{suffix}{{{labels}}} {value}" if labels else f"{name}{suffix} {value}")
    return "\n".join(lines) + "\n"


def grouped(series, length):
    """Series added up by the first labels."""
    sums = {}
    for key, words in series:
        add(sums, {key[:length]: words})
    return sorted(sums.items())


def labelled(series, names):
    """Series with their labels as text."""
    return [
        (",".join(f'{name}="{escaped(value)}"' for name, value in zip(names, key)), words) for key, words in series
    ]


def counts(series):
    """Samples of a counter: the suffix of its name, labels, value."""
    return [("", labels, sum(words[:NANOSECONDS])) for labels, words in series]


def histogram(series):
    """Samples of a histogram."""
    for labels, words in series:
        count = 0
        for bound, more in zip((*BOUNDS, "+Inf"), words):
            count += more
            yield "_bucket", f'{labels},le="{bound}"', count
        yield "_sum", labels, words[NANOSECONDS] / 1e9
        yield "_count", labels, count


def escaped(text):
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


# The port of the metrics


class Listener:
    """Answers GET /metrics, without logins and without a check of the Host header, and nothing else.

    All workers listen at the same port (SO_REUSEPORT): the kernel chooses one that lives.
    """

    def __init__(self, port, prefix, text):
        self.port, self.text, self.connections = port, text, 0
        self.paths = ("/metrics", f"{prefix}/metrics")

    async def start(self):
        """The server, or None where the port cannot be had, which is no reason not to start."""
        try:
            return await asyncio.start_server(self.answer, "0.0.0.0", self.port, limit=HEAD_BYTES, reuse_port=True)
        except OSError as error:
            hooks.log(f"metrics are not served at port {self.port}: {error}")
            return None

    async def answer(self, reader, writer):
        self.connections += 1
        try:
            if self.connections > CONNECTIONS:
                raise ConnectionError("too many connections")
            writer.transport.set_write_buffer_limits(high=0)
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), READ_SECONDS)
            writer.write(await self.response(head))
            await asyncio.wait_for(writer.drain(), SEND_SECONDS)
            writer.close()
        except (OSError, EOFError, asyncio.TimeoutError, asyncio.LimitOverrunError):
            writer.transport.abort()
        finally:
            self.connections -= 1

    async def response(self, head):
        method, _space, rest = head.partition(b"\r\n")[0].decode("latin-1").partition(" ")
        if rest.partition(" ")[0].partition("?")[0] not in self.paths:
            status, body = "404 Not Found", b"Metrics are at /metrics.\n"
        elif method not in ("GET", "HEAD"):
            status, body = "405 Method Not Allowed", b"Metrics are read by GET.\n"
        else:
            # In a thread: the files of many workers take milliseconds, in which this worker answers others.
            body = (await asyncio.get_running_loop().run_in_executor(None, self.text)).encode()
            status = "200 OK"
        lines = (
            f"HTTP/1.1 {status}",
            "Content-Type: text/plain; version=0.0.4; charset=utf-8",
            f"Content-Length: {len(body)}",
            "Connection: close",
        )
        return "\r\n".join((*lines, "", "")).encode() + (b"" if method == "HEAD" else body)


# Access log


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


# The wrapper


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
