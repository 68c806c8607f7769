"""Numbers of requests as text for Prometheus, and the port at which each worker answers for all of them."""

import asyncio

import server_hooks as hooks
from request_numbers import BOUNDS, EXCEPTIONS, NANOSECONDS, OVERFLOW, RECEIVED, SENT, add

CONNECTIONS = 8
"""At a time, to the port of the metrics; more are closed."""
READ_SECONDS, SEND_SECONDS = 5, 30
HEAD_BYTES = 8 << 10


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
