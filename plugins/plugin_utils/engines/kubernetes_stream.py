# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Programs and ports of pods through the API server: exec and port-forward by websocket.

Source: https://github.com/kubernetes/kubernetes, staging/src/k8s.io/apimachinery/pkg/util/remotecommand/constants.go
and, for ports, staging/src/k8s.io/kubelet/pkg/cri/streaming/portforward/websocket.go
"""

from __future__ import annotations

import collections
import contextlib
import json
import select
import socket
import ssl
import threading
import time
from typing import Callable, Iterator, NamedTuple
from urllib.parse import urlencode

from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines import EngineError
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines.kubernetes_api import Api, ApiError, ConnectionFault

with contextlib.suppress(ImportError):  # Api names what is missing
    from websocket import ABNF, WebSocketException

PROTOCOL = "v4.channel.k8s.io"
STDIN, STDOUT, STDERR, ERROR = range(4)
"""Channels of an exec stream: the first byte of each frame."""
CHUNK = 8 * 1024
"""Bytes in one frame: what a socket that is ready takes without a wait."""
PING_INTERVAL = 30
"""Seconds without a frame after which a ping keeps load balancers from ending the connection."""


READ_INPUT = 'input=$(head -c {}; echo .); printf %s "${{input%.}}" | "$@"'
"""Shell script that reads so many bytes before it runs its arguments with them as standard input.

Protocol v4, which every cluster and proxy speaks, cannot close standard input, so its length is given; and a program
that ends before all of its input was taken would leave the stream open (seen with containerd 1.6, Kubernetes 1.36).
"""


class Ended(NamedTuple):
    """How a program ended."""

    stdout: str
    stderr: str
    code: int


class Channels:
    """A websocket whose frames begin with the number of a channel, read and written without waiting for each other."""

    def __init__(self, api: Api, path: str, query: list[tuple[str, str]]) -> None:
        self._websocket = api.websocket(path, urlencode(query), PROTOCOL)
        self._unsent: collections.deque[bytes] = collections.deque()

    @property
    def unsent(self) -> int:
        """Frames that wait for the server to take them."""
        return len(self._unsent)

    def send(self, channel: int, data: bytes) -> None:
        """Queue data; ``exchange`` sends it."""
        for start in range(0, len(data), CHUNK):
            frame = ABNF.create_frame(bytes([channel]) + data[start:start + CHUNK], ABNF.OPCODE_BINARY)
            self._unsent.append(frame.format())

    def exchange(self, timeout: float, others: tuple[socket.socket, ...] = ()) -> tuple[list[tuple[int, bytes]], list]:
        """Send what is queued and receive what has come, waiting at most ``timeout`` seconds for either.

        Args:
            timeout: seconds.
            others: sockets that are awaited as well.

        Returns:
            Frames as (channel, data), and those of ``others`` that have something to read.

        Raises:
            EOFError: the server has closed the stream.
        """
        sock = self._websocket.sock
        if sock is None:
            raise EOFError
        if isinstance(sock, ssl.SSLSocket) and sock.pending():  # decrypted already, so that poll() does not report it
            return [self._receive()], []
        readable, writable = _poll(min(timeout, PING_INTERVAL), (sock, *others), (sock,) if self._unsent else ())
        try:
            if writable:
                # Whole frames only: the library answers pings between them.
                sock.sendall(self._unsent.popleft())
            elif not readable and timeout >= PING_INTERVAL:
                self._websocket.ping()
        except (WebSocketException, OSError) as error:
            raise EOFError from error
        return [self._receive()] if sock in readable else [], [other for other in others if other in readable]

    def _receive(self) -> tuple[int, bytes]:
        try:
            operation, frame = self._websocket.recv_data_frame(control_frame=True)
        except (WebSocketException, OSError) as error:
            raise EOFError from error
        if operation == ABNF.OPCODE_CLOSE:
            raise EOFError
        if operation not in (ABNF.OPCODE_BINARY, ABNF.OPCODE_TEXT) or not frame.data:
            return -1, b""
        return frame.data[0], bytes(frame.data[1:])

    def close(self) -> None:
        """Let go of the connection at once."""
        self._websocket.shutdown()


def _poll(timeout: float, reading: tuple, writing: tuple) -> tuple[list, list]:
    """``select.select`` for file numbers beyond 1024, which a controller with many forks can have."""
    poll, known = select.poll(), {}
    for sock in reading:
        known[sock.fileno()] = sock
        poll.register(sock, select.POLLIN | (select.POLLOUT if sock in writing else 0))
    events = poll.poll(max(0.0, timeout) * 1000)
    readable = [known[number] for number, event in events if event & ~select.POLLOUT]
    writable = [known[number] for number, event in events if event & select.POLLOUT]
    return readable, writable


def execute(api: Api, pod: dict, argv: list[str], stdin: str, timeout: float) -> Ended:
    """Run a program in a pod's first container until it ends.

    Args:
        api: the cluster.
        pod: a live pod.
        argv: program and arguments.
        stdin: text on standard input, without NUL.
        timeout: seconds that the program may take; it is not ended when they are over, only left alone.

    Raises:
        EngineError: the program cannot be started, did not end in time, or the stream broke.
    """
    data = stdin.encode()
    command = ["sh", "-c", READ_INPUT.format(len(data)), "sh", *argv] if data else argv
    name, container = pod["metadata"]["name"], pod["spec"]["containers"][0]["name"]
    path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{name}/exec"
    query = [("container", container), ("stdout", "true"), ("stderr", "true"), *(("command", word) for word in command)]
    try:
        channels = Channels(api, path, query + ([("stdin", "true")] if data else []))
    except ApiError as error:
        raise EngineError(f"{argv[0]} cannot be run in pod {name}: {error}.") from error
    if data:
        channels.send(STDIN, data)
    received: dict[int, list[bytes]] = {STDOUT: [], STDERR: [], ERROR: []}
    deadline = time.monotonic() + timeout
    try:
        with contextlib.suppress(EOFError):
            while not received[ERROR]:
                if time.monotonic() > deadline:
                    raise EngineError(f"{argv[0]} in pod {name} has not ended within {timeout:g} s.")
                for channel, part in channels.exchange(deadline - time.monotonic())[0]:
                    received.get(channel, []).append(part)
    finally:
        channels.close()
    out, err, status = (b"".join(received[channel]).decode(errors="replace") for channel in (STDOUT, STDERR, ERROR))
    return Ended(out, err, _exit_code(status, argv[0], name))


def _exit_code(status: str, program: str, pod: str) -> int:
    """The exit code in the Status object with which the server ends a stream."""
    try:
        document = json.loads(status)
    except ValueError:
        raise ConnectionFault(f"The stream to pod {pod} ended before {program} did; the pod may have been "
                              f"replaced.") from None
    if document.get("status") == "Success":
        return 0
    for cause in (document.get("details") or {}).get("causes") or []:
        if cause.get("reason") == "ExitCode":
            return int(cause["message"])
    raise EngineError(f"{program} cannot be run in pod {pod}: {str(document.get('message')).rstrip('.')}.")


def connect(api: Api, pod: dict, port: int) -> Channels:
    """A connection to a port of a pod: data on channel 0, what went wrong on channel 1."""
    path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}/portforward"
    try:
        return Channels(api, path, [("ports", str(port))])
    except ApiError as error:
        raise EngineError(f"Port {port} of pod {pod['metadata']['name']} cannot be forwarded: {error}.") from error


@contextlib.contextmanager
def listening(open_connection: Callable[[], Channels], log: Callable[[str], None]) -> Iterator[tuple[str, int]]:
    """A loopback address whose connections, each in a thread of its own, lead to what ``open_connection`` opens."""
    server = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                near, _address = server.accept()
            except OSError:
                return
            threading.Thread(target=_forward, args=(near, open_connection, log), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield server.getsockname()[:2]
    finally:
        # A close alone would leave the thread in its accept, and with it the port open.
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        server.close()


def _forward(near: socket.socket, open_connection: Callable[[], Channels], log: Callable[[str], None]) -> None:
    """Pass bytes between a local connection and a pod's port until either ends."""
    with near:
        try:
            far = open_connection()
        except EngineError as error:
            log(f"A forwarded connection cannot be opened: {error}")
            return
        try:
            _relay(near, far, log)
        except (EOFError, OSError):
            pass  # either side has closed
        finally:
            far.close()


def _relay(near: socket.socket, far: Channels, log: Callable[[str], None]) -> None:
    begun: set[int] = set()
    while True:
        # What the pod does not take is not read either, so that nothing piles up here.
        frames, ready = far.exchange(60, (near,) if far.unsent < 64 else ())
        for channel, data in frames:
            if channel in (0, 1) and channel not in begun:
                begun.add(channel)  # the first frame of each channel holds the port's number
            elif channel == 0:
                near.sendall(data)
            elif channel == 1 and data:
                log(f"The pod refuses a forwarded connection: {' '.join(data.decode(errors='replace').split())}")
                return
        if ready:
            data = near.recv(CHUNK)
            if not data:
                # The protocol knows no half-closed connection: give the pod what it has not got yet, then end.
                while far.unsent:
                    far.exchange(60)
                return
            far.send(0, data)
