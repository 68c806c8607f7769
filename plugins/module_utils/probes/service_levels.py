# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The figures of an instance's service levels, measured as its clients see them.

Of the collection it imports only what plugin_utils/program.py can bring into a pod.
"""

from __future__ import annotations

import itertools
import re
import statistics
import time

from ansible_collections.mlops.mlflow.plugins.module_utils import checks as checking
from ansible_collections.mlops.mlflow.plugins.module_utils import keep_alive, mlflow_api, page_load
from ansible_collections.mlops.mlflow.plugins.module_utils.probes import database
from ansible_collections.mlops.mlflow.plugins.module_utils.probes.roundtrip import API, RoundTrip

PAGE_LOADS = 3
QUERIES = 100


def probe(checks, parameters):
    """Measure the latency of the API, an upload, a load of the user interface, and queries of the database.

    Creates an experiment and a run with an artifact, and removes them.

    Args:
        checks: collects the results; facts: api_p95_ms, upload_mb_s, ui_load_s, ui_files, ui_bytes, database_p95_ms,
            each None where it was not measured.
        parameters: as probe ``roundtrip`` takes them, and samples (requests of the API), database (also measure
            queries, with the login of the server's own environment), read_only (create nothing; no upload is measured).
    """
    checks.facts.update(api_p95_ms=None, upload_mb_s=None, ui_load_s=None, ui_files=None, ui_bytes=None,
                        database_p95_ms=None)
    ServiceLevels(checks, mlflow_api.from_parameters(parameters), parameters).run()


class ServiceLevels(RoundTrip):
    """The measurements. Each figure has a check of its name."""

    def run(self):
        """Measure all figures; what was created is removed in any case."""
        creates = not self.parameters.get("read_only")
        needs = ()
        if creates:
            needs = ("experiment", "run")
            self.checks.run("experiment", self.experiment_created)
            self.checks.run("run", self.run_logged, needs=needs[:1])
        self.checks.run("api", self.api, needs=needs)
        if creates:
            self.checks.run("upload", self.artifact_uploaded, needs=needs)
        self.checks.run("ui", self.interface)
        if self.parameters.get("database"):
            self.checks.run("database", self.queries, needs=needs)
        if self.experiment:
            self.checks.run("removal", self.removed)

    def api(self):
        """Requests of MLflow's client, in turn, by one connection, which is made by the first."""
        connection = keep_alive.Connection(self.server)
        samples = int(self.parameters.get("samples") or 100)
        try:
            for request in itertools.islice(itertools.cycle(self.requests()), samples):
                with self.checks.timed("requests"):
                    request(connection)
        finally:
            connection.close()
        self.checks.facts["api_p95_ms"] = checking.percentile(self.checks.samples["requests"], 95)
        return f"{samples} requests"

    def requests(self):
        """The kinds of requests: searches and reads, and writes where there is a run to write to."""
        kinds = [lambda to: to.call(API + "experiments/search", max_results=100)]
        if not self.run_id:
            return kinds
        now = int(time.time() * 1000)
        metrics = [{"key": f"m{number}", "value": 1.0, "timestamp": now, "step": 0} for number in range(10)]
        return kinds + [
            lambda to: to.call(API + "runs/log-batch", {"run_id": self.run_id, "metrics": metrics}),
            lambda to: to.call(API + "runs/get", run_id=self.run_id),
            lambda to: to.call(API + "runs/search", {"experiment_ids": [self.experiment], "max_results": 100}),
            lambda to: to.call(API + "metrics/get-history", run_id=self.run_id, metric_key="series",
                               max_results=len(metrics)),
        ]

    def interface(self):
        """The median of a few loads, each with connections of its own."""
        chunks = page_load.chunk_files(self.server)
        for _load in range(PAGE_LOADS):
            load = page_load.PageLoad(self.server, chunks)
            with self.checks.timed("ui"):
                load.run()
        seconds = statistics.median(self.checks.samples["ui"]) / 1000
        self.checks.facts.update(ui_load_s=round(seconds, 3), ui_files=load.files, ui_bytes=load.transferred)
        return f"{load.files} files, {load.transferred / 1e6:.1f} MB"

    def queries(self):
        """The statements by which MLflow reads a run; by the server's own login."""
        store = database.database_of({"environment": True, "connect_timeout": 10})
        checking.retry(store.connect, database.transient)
        statements = ["SELECT experiment_id, name FROM experiments WHERE experiment_id = 0"]
        if re.fullmatch(r"[0-9a-f]{32}", self.run_id or ""):
            statements += [f"SELECT * FROM {table} WHERE run_uuid = '{self.run_id}'"
                           for table in ("runs", "latest_metrics", "params", "tags")]
        for statement in itertools.islice(itertools.cycle(statements), QUERIES):
            with self.checks.timed("query"):
                store.query(statement)
        self.checks.facts["database_p95_ms"] = checking.percentile(self.checks.samples["query"], 95)
        return f"{QUERIES} queries"
