# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A port of this machine that passes its connections on, in a process that outlives its parent."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time


def listens(port):
    """Whether something accepts connections on a loopback port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def wait_until_listens(port, seconds=5):
    """Whether something accepts connections on a loopback port, now or within some seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if listens(port):
            return True
        time.sleep(0.1)
    return False


def detach(function):
    """Call ``function`` in a process of its own, without this one's terminal and files; return its number."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
        os.closerange(3, 65536)
        function()
    finally:
        os._exit(0)


def serve(connect, port, seconds):
    """Pass connections to a loopback port on for some seconds.

    Args:
        connect: returns a socket to the other end.
        port: port to listen on.
        seconds: after which to end.
    """
    with socket.create_server(("127.0.0.1", port)) as server:
        def accept():
            while True:
                near, _address = server.accept()
                threading.Thread(target=pass_on, args=(near, connect), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        time.sleep(seconds)


def pass_on(near, connect):
    """Pass bytes between a socket and a new connection, both ways, until both ends are done."""
    with near, contextlib.suppress(OSError):
        with connect() as far:
            back = threading.Thread(target=copy, args=(far, near), daemon=True)
            back.start()
            copy(near, far)
            back.join()


def copy(source, target):
    """Pass bytes on until the source ends, then tell the target so."""
    with contextlib.suppress(OSError):
        while True:
            data = source.recv(65536)
            if not data:
                break
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
