# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A bounded load on an MLflow server of this machine: the requests of training jobs and of users of the UI,
repeated."""

from __future__ import annotations

import dataclasses
import http.client
import json
import threading
import time
import uuid

API = "/api/2.0/mlflow/"
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts/"
BLOB = bytes(range(256)) * 4096
"""1 MiB."""
METRICS = 20
REQUESTS = ("search", "create", "log-batch", "get")
TRANSFERS = ("upload", "download")
"""Kinds of requests: of the API, and of artifacts."""
TIMEOUT = 60


@dataclasses.dataclass
class Answers:
    """Kind, seconds of each request answered, what went wrong, and seconds of processor that the clients took."""

    seconds: list = dataclasses.field(default_factory=list)
    errors: list = dataclasses.field(default_factory=list)
    length: float = 0
    processor: float = 0

    @property
    def rate(self) -> float:
        """Requests a second."""
        return len(self.seconds) / self.length

    def percentile(self, share: float, *kinds: str) -> float:
        """Milliseconds in which that share of the requests of these kinds is answered."""
        chosen = sorted(seconds for kind, seconds in self.seconds if kind in kinds)
        return 1000 * chosen[int(share * (len(chosen) - 1))] if chosen else float("nan")


class Client:
    """One connection that stays open, as clients of MLflow keep theirs."""

    def __init__(self, port: int, answers: Answers) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
        self.answers = answers

    def ask(self, kind: str, method: str, path: str, body: dict | bytes | None = None) -> bytes:
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        begun = time.perf_counter()
        try:
            self.connection.request(
                method, path, data, {"Content-Type": "application/json"} if isinstance(body, dict) else {}
            )
            answer = self.connection.getresponse()
            content = answer.read()
            if answer.status >= 400:
                raise OSError(f"{answer.status} {content[:200].decode(errors='replace')}")
        except (OSError, http.client.HTTPException) as error:
            self.connection.close()
            self.answers.errors.append(f"{kind}: {error}")
            raise
        self.answers.seconds.append((kind, time.perf_counter() - begun))
        return content

    def requests(self, experiment: str) -> None:
        """Ten requests: a look at the experiments, a run with four batches of metrics, two looks at it, an artifact
        there and back."""
        self.ask("search", "POST", API + "experiments/search", {"max_results": 100})
        run = json.loads(
            self.ask(
                "create",
                "POST",
                API + "runs/create",
                {"experiment_id": experiment, "start_time": int(time.time() * 1000)},
            )
        )
        identifier = run["run"]["info"]["run_id"]
        for batch in range(4):
            metrics = [
                {"key": f"metric-{n}", "value": n / 7, "timestamp": int(time.time() * 1000), "step": batch}
                for n in range(METRICS)
            ]
            self.ask("log-batch", "POST", API + "runs/log-batch", {"run_id": identifier, "metrics": metrics})
        for _look in range(2):
            self.ask("get", "GET", f"{API}runs/get?run_id={identifier}")
        path = f"{ARTIFACTS}{experiment}/{identifier}/artifacts/blob.bin"
        self.ask("upload", "PUT", path, BLOB)
        if self.ask("download", "GET", path) != BLOB:
            self.answers.errors.append("download: not what was uploaded")


def load(port: int, seconds: float, concurrency: int) -> Answers:
    """Have that many clients log runs to the server on a loopback port, for that time."""
    answers = Answers()
    experiment = json.loads(Client(port, Answers()).ask(
        "create", "POST", API + "experiments/create", {"name": f"benchmark-{uuid.uuid4().hex[:8]}"}))["experiment_id"]
    begun = time.monotonic()

    def live() -> None:
        client = Client(port, answers)
        while time.monotonic() < begun + seconds and len(answers.errors) < 100:
            try:
                client.requests(experiment)
            except (OSError, http.client.HTTPException):
                continue
        taken.append(time.thread_time())

    taken: list[float] = []
    threads = [threading.Thread(target=live, daemon=True) for _number in range(concurrency)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answers.length, answers.processor = time.monotonic() - begun, sum(taken)
    return answers
