# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What request metrics and the access log cost: the same server with and without them, side by side in one run.

By hand: .venv/bin/python benchmarks/lib/request_metrics.py [rounds] (MLflow of `make versions`, SQLite). Each round asks
each server for some seconds over connections that stay open; the order changes from round to round.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import pathlib
import re
import statistics
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/versions"))
import mlflow_servers as servers  # noqa: E402  pylint: disable=wrong-import-position

CLIENTS, SECONDS, WORKERS = 4, 6, 2
PATHS = (
    ("GET", "/health", None),
    ("POST", "/api/2.0/mlflow/experiments/search", json.dumps({"max_results": 1})),
    ("GET", "/api/2.0/mlflow/experiments/get?experiment_id=0", None),
    ("GET", "/version", None),
)
KINDS = ("without", "metrics", "metrics and access log")


def client(address: str, until: float, counts: list):
    """Ask until a time; append the number of answers."""
    connection, count = http.client.HTTPConnection(address, timeout=30), 0
    while time.monotonic() < until:
        for method, path, body in PATHS:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            connection.getresponse().read()
            count += 1
    counts.append(count)


def processes(pid: int) -> list[int]:
    """A server's processes."""
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        todo += map(int, pathlib.Path(f"/proc/{found[-1]}/task/{found[-1]}/children").read_text().split())
    return found


def processor_seconds(pid: int) -> float:
    """User and system time of a server."""
    total = 0
    for each in processes(pid):
        total += sum(map(int, pathlib.Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()[11:13]))
    return total / 100


def memory(pid: int) -> float:
    """Memory of a server in MiB, what processes share counted once (PSS)."""
    text = "".join(pathlib.Path(f"/proc/{each}/smaps_rollup").read_text() for each in processes(pid))
    return sum(map(int, re.findall(r"^Pss:\s+(\d+)", text, re.MULTILINE))) / 1024


def measure(server) -> tuple:
    """Requests a second, and processor time of one in microseconds."""
    counts, before, began = [], processor_seconds(server.pid), time.monotonic()
    address = re.sub(r"http://([^/]+).*", r"\1", server.url)
    threads = [threading.Thread(target=client, args=(address, began + SECONDS, counts)) for _client in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    used = processor_seconds(server.pid) - before
    return sum(counts) / (time.monotonic() - began), used / sum(counts) * 1e6


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 6
    with contextlib.ExitStack() as stack:
        running = {}
        for kind in KINDS:
            folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
            more = {}
            if kind != KINDS[0]:
                port = str(servers.unit.free_port())
                more |= {"MLOPS_MLFLOW_METRICS": f"{folder}/numbers", "MLOPS_MLFLOW_METRICS_PORT": port}
            if kind == KINDS[2]:
                more["MLOPS_MLFLOW_ACCESS_LOG"] = "json"
            server = stack.enter_context(servers.mlflow(servers.VERSIONS[-1], folder, workers=WORKERS, **more))
            measure(server)
            running[kind] = server
        found = {kind: [] for kind in KINDS}
        for number in range(rounds):
            for kind in KINDS[number % 3:] + KINDS[:number % 3]:
                found[kind].append(measure(running[kind]))
            print({kind: [round(value) for value in found[kind][-1]] for kind in KINDS}, file=sys.stderr, flush=True)
        print("| | requests/s | ratio | processor µs/request | memory MiB |\n|---|---|---|---|---|")
        for kind in KINDS:
            rate, used = (statistics.median(values) for values in zip(*found[kind]))
            ratio = statistics.median(one[0] / other[0] for one, other in zip(found[kind], found[KINDS[0]]))
            print(f"| {kind} | {rate:.0f} | {ratio:.3f} | {used:.0f} | {memory(running[kind].pid):.0f} |")


main()
