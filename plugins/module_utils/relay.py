# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A port of this machine that passes its connections on, in a process that outlives its parent."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
import time

# Images have one or the other.
IN_CONTAINER = ('if command -v nc >/dev/null; then exec nc 127.0.0.1 {0}; else exec bash -c '
                '"exec 3<>/dev/tcp/127.0.0.1/{0}; cat <&3 & cat >&3; wait"; fi')


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
    deadline = time.monotonic() + seconds
    with socket.create_server(("127.0.0.1", port)) as server:
        while time.monotonic() < deadline:
            server.settimeout(max(0.01, deadline - time.monotonic()))
            with contextlib.suppress(socket.timeout):
                near, _address = server.accept()
                threading.Thread(target=pass_on, args=(near, connect), daemon=True).start()


def pass_on(near, connect):
    """Pass bytes between a socket and a new connection, both ways, until both ends are done."""
    with near, contextlib.suppress(OSError):
        with connect() as far:
            back = threading.Thread(target=copy, args=(far, near), daemon=True)
            back.start()
            copy(near, far)
            back.join()


def copy(source, target):
    """Pass bytes on until the source ends, then shut the target down."""
    with contextlib.suppress(OSError):
        while True:
            data = source.recv(65536)
            if not data:
                break
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def to_address(address):
    """A connection to an address."""
    host, port = address.rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=2)


def to_container(labels, port, environment):
    """A connection to a port in the running podman container that has the labels, by a process there that passes bytes
    on."""
    filters = [part for label in labels for part in ("--filter", f"label={label}")]
    command = ["podman", "ps", "--quiet", "--no-trunc", "--filter", "status=running", *filters]
    found = subprocess.run(command, capture_output=True, text=True, env=environment, check=False).stdout.split()
    if not found:
        raise OSError(f"no running container has the labels {', '.join(labels)}")
    ours, theirs = socket.socketpair()
    with theirs:
        subprocess.Popen(["podman", "exec", "--interactive", found[0], "sh", "-c", IN_CONTAINER.format(port)],
                         stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL, env=environment)
    return ours


def connector(params, environment):
    """What connects as the options say: to the address, else to the container."""
    def connect():
        try:
            if params["address"]:
                connection = to_address(params["address"])
                connection.settimeout(None)
                return connection
        except OSError:
            if not params["container_labels"]:
                raise
        return to_container(params["container_labels"], params["port"], environment)
    return connect
