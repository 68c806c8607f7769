# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the exporter takes of a database with many runs, as a ratio to one with few: PostgreSQL, MariaDB and SQLite,
each started for it, with MLflow's schema."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

from common import ROOT, Failed, heading, log, program, table, version

sys.path[:0] = [str(ROOT / "tests/unit"), str(ROOT / "tests/unit/monitoring")]
import conftest  # noqa: F401, E402  pylint: disable=unused-import
from exporters import Restartable, collectors, environment_of, exporting, unit, uri_of  # noqa: E402
from ansible_collections.mlops.mlflow.plugins.module_utils.probes import database as databases  # noqa: E402

KINDS = ("postgresql", "mariadb", "sqlite")
NUMBERS = {"postgresql": "generate_series({first}, {last}) AS i(seq)", "mysql": "seq_{first}_to_{last}",
           "sqlite": "(WITH RECURSIVE i(seq) AS (SELECT {first} UNION ALL SELECT seq + 1 FROM i WHERE seq < {last}) "
                     "SELECT seq FROM i)"}
"""Rows with the column seq, by dialect."""
IDS = {"postgresql": "md5(seq::text)", "mysql": "md5(seq)", "sqlite": "lower(hex(randomblob(16)))"}
RUNS = """
INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status, start_time, end_time,
                  source_version, lifecycle_stage, artifact_uri, experiment_id)
SELECT {id}, 'bustling-sloth-' || seq, 'LOCAL', '/home/somebody/project/train.py', '', 'somebody',
       CASE seq % 10 WHEN 0 THEN 'FAILED' WHEN 1 THEN 'KILLED' WHEN 2 THEN 'RUNNING' ELSE 'FINISHED' END,
       1700000000000 + seq, 1700000100000 + seq, '0123456789abcdef0123456789abcdef01234567',
       CASE seq % 20 WHEN 0 THEN 'deleted' ELSE 'active' END,
       'mlflow-artifacts:/0/' || {id} || '/artifacts', 0
FROM {numbers}
"""


@contextlib.contextmanager
def database(kind: str, folder: pathlib.Path):
    """Options of a client for a new database with MLflow's schema."""
    folder = folder / kind
    folder.mkdir()
    found = {"dialect": "sqlite", "path": f"{folder}/mlflow.db"}
    with contextlib.ExitStack() as stack:
        if kind != "sqlite":
            server = Restartable(*getattr(unit, f"new_{kind}")(folder), folder)
            stack.callback(server.stop)
            server.start()
            found = server.client
        program = ("import sys; from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as Store; "
                   "Store(*sys.argv[1:])")
        subprocess.run([sys.executable, "-c", program, uri_of(found), str(folder)], check=True, capture_output=True)
        yield found


def add_runs(options: dict, first: int, last: int) -> None:
    """Runs with the numbers from first to last."""
    client = databases.database_of(options)
    client.connect()
    dialect = options["dialect"]
    if dialect == "mysql":
        client.query("SET sql_mode = 'PIPES_AS_CONCAT'")
    client.query(RUNS.format(id=IDS[dialect], numbers=NUMBERS[dialect].format(first=first, last=last)))
    if dialect == "postgresql":
        client.query("VACUUM ANALYZE runs")
    client.connection.close()


def collection(program: pathlib.Path, name: str, environment: dict) -> tuple[float, float, dict]:
    """Seconds and seconds of processor of one collection, of the exporter's process, and seconds of its queries."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([sys.executable, program / "collectors.py", name], stdout=subprocess.PIPE, check=True,
                          env={"PATH": os.environ["PATH"], **environment})
    seconds, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    found = json.loads(done.stdout)
    if found["errors"]:
        raise Failed(f"{name}: {found['errors']}")
    queries = {labels["query"]: value for metric, labels, value in found["samples"]
               if metric == "mlflow_database_query_duration_seconds"}
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, queries


def memory(exporter) -> tuple[float, float]:
    """Proportional set size of the exporter in MiB, with its collectors: at rest, and the maximum of ten seconds."""
    at_rest, most, deadline = float("inf"), 0.0, time.monotonic() + 10
    while time.monotonic() < deadline:
        total, process = 0, exporter.process.pid
        children = pathlib.Path(f"/proc/{process}/task").glob("*/children")
        for pid in [process, *(int(child) for file in children for child in file.read_text().split())]:
            with contextlib.suppress(OSError):
                rollup = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
                total += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
        at_rest, most = min(at_rest, total / 1024), max(most, total / 1024)
        time.sleep(0.02)
    return at_rest, most


def measure(options: argparse.Namespace, folder: pathlib.Path) -> None:
    rows, ratios, memories = [], [], []
    for kind in options.databases:
        with database(kind, folder) as found:
            environment, filled, medians = environment_of(found), 0, []
            for size in options.runs:
                log(f"{kind}: {size} runs")
                add_runs(found, filled + 1, size)
                filled = size
                with exporting(folder, **environment, MLOPS_EXPORTER_DATABASE_INTERVAL="1",
                               MLOPS_EXPORTER_SPARING="1", MLOPS_EXPORTER_COUNTS_INTERVAL="1") as exporter:
                    exporter.collected("database", "counts")
                    at_rest, most = memory(exporter)
                program = folder / "mlflow-monitoring"
                rounds = [collection(program, "counts", environment) for _round in range(options.rounds)]
                cheap = statistics.median(collection(program, "database", environment)[0]
                                          for _round in range(options.rounds))
                seconds = statistics.median(took for took, _cpu, _queries in rounds)
                of_runs = statistics.median(queries["runs"] for _took, _cpu, queries in rounds)
                of_all = statistics.median(sum(queries.values()) for _took, _cpu, queries in rounds)
                processor = statistics.median(cpu for _took, cpu, _queries in rounds)
                pause = next(known for known in collectors.COLLECTORS if known.name == "counts").pause(of_all)
                medians.append((seconds, of_runs, of_all))
                rows.append([f"{kind}, {size:,} runs", f"{1000 * of_runs:.1f}", f"{1000 * of_all:.1f}",
                             f"{1000 * seconds:.0f}", f"{1000 * processor:.0f}", f"{1000 * cheap:.0f}", f"{pause:.0f}",
                             f"{100 * of_all / pause:.2f}", f"{at_rest:.0f}", f"{most:.0f}"])
                log(" / ".join(rows[-1]))
            ratios.append([kind, *(f"{last / first:.1f}" for first, last in zip(medians[0], medians[-1]))])
    heading(version("mlflow"), f"median of {options.rounds}")
    table(["", "runs ms", "all counts ms", "collection ms", "its processor ms", "database ms", "every s", "% of time",
           "MiB at rest", "MiB at most"], rows)
    table([f"{options.runs[-1]:,} runs, ratio to {options.runs[0]:,}", "collection", "runs", "all counts"], ratios)


def main() -> None:
    parser = argparse.ArgumentParser(prog="exporter", description=__doc__)
    parser.add_argument("--runs", type=int, nargs="+", default=[1000, 1000000],
                        help="numbers of runs, ascending (%(default)s)")
    parser.add_argument("--databases", nargs="+", choices=KINDS, default=list(KINDS), help="(%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured; medians are shown "
                                                              "(%(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mlops-benchmark-") as folder:
        measure(options, pathlib.Path(folder))


if __name__ == "__main__":
    program(main)
