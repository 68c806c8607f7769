# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ports of pods for a process that runs on the pods' machine: the pod's own address, or a relay through `podman
exec`."""

from __future__ import annotations

import contextlib
import os
import pathlib
import socket
import subprocess
import threading
from typing import Callable, Iterator

BOOT = pathlib.Path("/proc/sys/kernel/random/boot_id")
# A container has one of these: netcat, or the shell that can connect, or Python.
RELAY = """\
if command -v nc >/dev/null 2>&1; then exec nc 127.0.0.1 "$1"; fi
if command -v bash >/dev/null 2>&1; then exec bash -c 'exec 3<>"/dev/tcp/127.0.0.1/$1" && { cat <&3 & cat >&3; wait; }'
bash "$1"; fi exec python3 -c '
import os, socket, sys, threading
peer = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
def send():
    while data := os.read(0, 65536):
        peer.sendall(data)
    peer.shutdown(socket.SHUT_WR)
threading.Thread(target=send, daemon=True).start()
while data := peer.recv(65536):
    os.write(1, data)' "$1"
"""


def same_machine(boot: str) -> bool:
    """Whether this process runs under the kernel whose boot identifier is given."""
    try:
        return BOOT.read_text(encoding="ascii").strip() == boot
    except OSError:
        return False


def answers(address: str, port: int) -> bool:
    """Whether this process reaches a TCP port."""
    with contextlib.suppress(OSError):
        socket.create_connection((address, port), timeout=2).close()
        return True
    return False


@contextlib.contextmanager
def relayed(container: str, port: int, environment: dict[str, str]) -> Iterator[tuple[str, int]]:
    """A loopback address; each connection to it becomes a process in a container that passes bytes on.

    Args:
        container: identifier of a running container of this process' user.
        port: where it listens.
        environment: what podman needs in its environment.
    """
    def connect() -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            subprocess.Popen(["podman", "exec", "--interactive", container, "sh", "-c", RELAY, "sh", str(port)],
                             stdin=theirs, stdout=theirs,
                             stderr=subprocess.DEVNULL, env={**os.environ, **environment})
        return ours

    with _listening(connect) as address:
        yield address


@contextlib.contextmanager
def _listening(connect: Callable[[], socket.socket]) -> Iterator[tuple[str, int]]:
    """Listen on a free loopback port; for each connection ``connect`` gives the other end."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                near, _address = server.accept()
            except OSError:  # closed
                return
            threading.Thread(target=_serve_connection, args=(near, connect), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield server.getsockname()
    finally:
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        server.close()


def _serve_connection(near: socket.socket, connect: Callable[[], socket.socket]) -> None:
    with near, contextlib.suppress(OSError), connect() as far:
        back = threading.Thread(target=_copy, args=(far, near), daemon=True)
        back.start()
        _copy(near, far)
        back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    """Pass bytes on until the source ends, then tell the target of the end."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
