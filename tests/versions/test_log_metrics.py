# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""hook_metrics.py leaves the rows and errors that MLflow's own methods leave, on each kind of database."""

from __future__ import annotations

import json
import subprocess

import mlflow_servers as servers

BOTH = """
import json, math, random, sys, threading, time
import hook_metrics
from mlflow.entities import LoggedModelInput, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.tracking import sqlalchemy_store as module
from mlflow.store.tracking.dbmodels.models import SqlLatestMetric, SqlMetric

uri, folder, seed, batches = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
Hooked = module.SqlAlchemyStore
Own = type("Own", (Hooked,), {name: vars(Hooked)[name] for name in hook_metrics.REPLACED if name in vars(Hooked)})
assert "hook" not in Own.log_batch.__code__.co_filename
hook_metrics.hooks.SERVER = "PATH"  # which is set, so that there is a report
hook_metrics.log_metrics(module)
report = json.loads(hook_metrics.hooks.REPORT.read_text())["behaviours"]

written = []
for name in ("write", "write_together"):
    def count(*arguments, write=getattr(hook_metrics.Tables, name)):
        written.append(1)
        return write(*arguments)
    setattr(hook_metrics.Tables, name, count)

stores = [Hooked(uri, folder), Own(uri, folder)]
experiment = stores[0].create_experiment(f"compared-{seed}")
random.seed(seed)
VALUES = [0.0, 1.0, -1.5, 1 / 3, math.nan, math.inf, -math.inf, 1e308, -1e-300]
WRONG = [("loss", "text", 1, 1), ("", 1.0, 1, 1), ("a//b", 1.0, 1, 1), ("k" * 251, 1.0, 1, 1), ("loss", 1.0, "t", 1),
         ("loss", 1.0, 1, "s"), (None, 1.0, 1, 1), ("loss", None, 1, 1)]

def some(number):
    keys = [f"key-{n}" for n in range(random.choice((1, 3, number)))]
    return [(random.choice(keys), random.choice(VALUES), random.randrange(4), random.randrange(4))
            for _metric in range(number)]

def cases():
    for _batch in range(batches):
        yield "batch", [some(random.choice((1, 2, 20))), [], []]
        yield "metric", some(1)[0]
    yield "batch", [[("Loss", 1.0, 1, 1), ("loss", 2.0, 2, 2), ("Loss", 3.0, 3, 3)], [], []]
    yield "batch", [[("metric/with/path", 1.0, 2**62, 2**62), ("ü", 1.0, 0, -5)], [], []]
    yield "batch", [[], [], []]
    yield "batch", [some(3), [("p", "1")], [("t", "2")]]
    yield "batch", [some(3), [("p", "changed")], []]
    for wrong in WRONG:
        yield "batch", [[*some(2), wrong], [], []]
        yield "metric", wrong
    yield "batch", [[(f"key-{n}", 0.5, 1, n) for n in range(999)], [], []]
    yield "batch", [[(f"key-{n}", 0.5, 1, n) for n in range(1001)], [], []]

def log(store, run, kind, what):
    try:
        if kind == "metric":
            store.log_metric(run, Metric(*what))
        else:
            store.log_batch(run, *([of(*each) for each in part] for of, part in zip((Metric, Param, RunTag), what)))
    except Exception as error:
        return [type(error).__name__, getattr(error, "error_code", ""), str(error).replace(run, "RUN")[:300]]

def rows(store, run):
    with store.ManagedSessionMaker() as session:
        return [sorted((row.key, row.value, row.timestamp, row.step, row.is_nan)
                       for row in session.query(table).filter(table.run_uuid == run))
                for table in (SqlMetric, SqlLatestMetric)]

def compared(kind, what, runs):
    answers = [log(store, run, kind, what) for store, run in zip(stores, runs)]
    assert answers[0] == answers[1], (kind, what, answers)
    return answers[0]

def run():
    return stores[1].create_run(experiment, "me", 1, [], "run").info.run_id

runs, errors = [run(), run()], []
for kind, what in cases():
    errors.append(compared(kind, what, runs))
    found = [rows(store, run) for store, run in zip(stores, runs)]
    assert found[0] == found[1], (kind, what, found)
for each in runs:
    stores[1].delete_run(each)
errors += [compared("batch", [some(2), [], []], runs), compared("metric", some(1)[0], runs)]
errors += [compared("batch", [some(2), [], []], [name] * 2) for name in ("0" * 32, "not/an/id")]
assert found == [rows(store, run) for store, run in zip(stores, runs)]

# Several clients of one run at once, who log the same keys in different orders; none may fail or be lost.
shared, failed, each = run(), [], 8
def work(number):
    for step in range(each):
        keys = random.sample([f"k{n}" for n in range(5)], 5)
        failed.append(log(stores[0], shared, "batch", [[(key, number, 1, step) for key in keys], [], []]))
threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
history, latest = rows(stores[0], shared)
json.dump({"report": report, "errors": [error[1] for error in errors if error], "written": len(written),
           "rows": [len(found[0][0]), len(found[0][1])], "failed": [error for error in failed if error],
           "shared": [len(history), latest == [(f"k{n}", 3, 1, each - 1, False) for n in range(5)] or latest]},
          sys.stdout)
"""


def check(found: dict) -> None:
    assert found["report"] == {"log_metrics": ""}
    assert len(found["errors"]) > 15 and set(found["errors"]) >= {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"}
    assert found["rows"][0] > 1000 < found["rows"][1] + 1 and found["written"] > 40
    assert not found["failed"] and found["shared"] == [4 * 8 * 5, True]


def test_the_same_rows_and_errors(version, postgresql, tmp_path, request):
    """The seed of each run is new, and in the output of a failure."""
    seed = id(request) % 10000
    print("seed", seed)
    check(servers.answer(version, tmp_path, BOTH, servers.created(postgresql, version, "log_metrics"), str(tmp_path),
                         str(seed), "10", disabled="log_metrics"))


def test_other_databases(newest, other_database, tmp_path):
    check(servers.answer(newest, tmp_path, BOTH, other_database, str(tmp_path), "1", "10", disabled="log_metrics"))


def test_another_version_goes_its_own_way(newest, tmp_path):
    """Where one of the methods is another than those that are known, nothing is replaced."""
    done = subprocess.run(
        [servers.binaries(newest) / "python", "-c", """
import json
import hook_metrics
from mlflow.store.tracking import sqlalchemy_store as module
hook_metrics.hooks.SERVER = "PATH"
store = module.SqlAlchemyStore
store.sanitize_metric_value = lambda self, value: (False, value)
before = dict(vars(store))
hook_metrics.log_metrics(module)
assert dict(vars(store)) == before
print(hook_metrics.hooks.REPORT.read_text())
"""], env=servers.environment(newest, tmp_path), capture_output=True, text=True, timeout=90, check=False)
    assert not done.returncode, done.stderr
    assert json.loads(done.stdout)["behaviours"]["log_metrics"] == (
        f"MLflow {newest} logs metrics in another way than those that are known; it does so its own way, which takes "
        "longer")
