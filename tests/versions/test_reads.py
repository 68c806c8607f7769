# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""hook_reads.py finds, answers and refuses what MLflow's own methods do, on each kind of database."""

from __future__ import annotations

import json
import subprocess

import mlflow_servers as servers

BOTH = """
import json, math, random, sys
import hook_reads, hook_runs
from mlflow.entities import (Dataset, DatasetInput, ExperimentTag, InputTag, LoggedModelInput, LoggedModelOutput,
                             Metric, Param, RunTag, ViewType)
from mlflow.protos.service_pb2 import GetExperiment, GetRun
from mlflow.store.tracking import sqlalchemy_store as module
from mlflow.utils import proto_json_utils
from mlflow.utils.search_utils import SearchExperimentsUtils, SearchUtils

uri, folder, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
random.seed(seed)
Hooked = module.SqlAlchemyStore
Own = type("Own", (Hooked,), {name: vars(Hooked)[name] for name in hook_reads.METHODS + hook_runs.METHODS})
assert "hook" not in Own.get_run.__code__.co_filename
order_own = SearchUtils._parse_order_by_string.__func__
hook_reads.hooks.SERVER = "PATH"  # which is set, so that there is a report
hook_reads.reads(module)
hook_runs.create_run(module)
report = json.loads(hook_reads.hooks.REPORT.read_text())["behaviours"]
assert isinstance(proto_json_utils.json, hook_reads.Indented)

usual = []
make = hook_reads.Plain.make
hook_reads.Plain.make = lambda *arguments: (usual.append(1), make(*arguments))[1]
stores = [Hooked(uri, folder), Own(uri, folder)]

def answer(store, method, *arguments, **options):
    try:
        found = getattr(store, method)(*arguments, **options)
    except Exception as error:
        return [type(error).__name__, getattr(error, "error_code", ""), str(error)[:300]]
    if method in ("search_experiments", "search_runs"):
        return [proto_json_utils.message_to_json(each.to_proto()) for each in found] + [found.token]
    return proto_json_utils.message_to_json(found.to_proto())

def compared(method, *arguments, **options):
    answers = []
    for store in stores:
        proto_json_utils.json = indented if store is stores[0] else json
        answers.append(answer(store, method, *arguments, **options))
    assert answers[0] == answers[1], (method, arguments, answers)
    return answers[0]

indented, errors, runs = proto_json_utils.json, [], []
VALUES = [0.0, 1.0, -1.5, 1 / 3, math.nan, math.inf, -math.inf, 1e308]
experiments = []
for number in range(3):
    tags = [ExperimentTag(f"tag {n}", random.choice(["", "x", "\\u00e4\\n"])) for n in range(number)]
    experiments.append(stores[1].create_experiment(f"read-{seed}-{number}", tags=tags))
for number in range(12):
    tags = [RunTag(f"t{n}", random.choice(["", "v" * 5000, "\\u20ac\\"\\\\"])) for n in range(random.choice((0, 1, 5)))]
    store = stores[number % 2]  # both create runs
    run = store.create_run(random.choice(experiments), "me", number, tags, random.choice([None, "", "name"]))
    run = run.info.run_id
    runs.append(run)
    metrics = [Metric(f"m{n}", random.choice(VALUES), 2**40 + n, n) for n in range(random.choice((0, 1, 30)))]
    stores[1].log_batch(run, metrics, [Param(f"p{n}", "x" * n) for n in range(random.choice((0, 4)))], [])
    if number in (4, 5):
        dataset = Dataset(f"d{number}", "digest", "type", "source", "schema", "profile")
        stores[1].log_inputs(run, [DatasetInput(dataset, [InputTag("context", "train")])])
    if number in (6, 7):
        model = stores[1].create_logged_model(experiments[0], "model", run).model_id
        if number == 6:
            stores[1].log_outputs(run, [LoggedModelOutput(model, 3)])
        else:
            stores[1].log_inputs(run, models=[LoggedModelInput(model)])
stores[1].update_run_info(runs[1], 3, 2**41, "renamed")
stores[1].delete_run(runs[2])
stores[1].delete_experiment(experiments[2])
used = len(usual)
answers = [compared("get_run", run) for run in runs]
links = [bool(json.loads(answer).get("inputs") or json.loads(answer).get("outputs")) for answer in answers]
assert len(usual) - used >= 4 * (len(runs) - sum(links)) and sum(links) >= 4, (len(usual), links)
for run in ("", "0" * 32, "no id", "x" * 100, runs[0].upper(), runs[0][:-1] + "%", "\\u00e4", None):
    errors.append(compared("get_run", run))
for experiment in (*experiments, *map(int, experiments), "0" + experiments[0], "", None, "99999", str(2**31),
                   str(2**63), "-1", "1.0", "\\u0661", "x", " 1", "1" * 5000):
    errors.append(compared("get_experiment", experiment))
for filter_string in ("", "tags.`tag 0` = 'x'", "name LIKE 'read%'", "nonsense"):
    for order in (None, ["name DESC"], ["name", "experiment_id ASC"], ["NAME desc"], ["last_update_time"], ["x y z"]):
        for view in (ViewType.ACTIVE_ONLY, ViewType.ALL):
            errors.append(compared("search_experiments", view, 2, filter_string, order, None))
errors.append(compared("search_runs", experiments, "", ViewType.ALL, 5, ["metrics.m1 DESC"]))
for experiment in (*experiments, "99999", "x"):
    created = [answer(store, "create_run", experiment, "me", 1, [RunTag("a", "b")], "same") for store in stores]
    same = [text if isinstance(text, list) else {**json.loads(text)["info"], **dict.fromkeys(
        ("run_id", "run_uuid", "artifact_uri"))} for text in created]
    assert same[0] == same[1], created
    errors.append(same[0])

inserted = []
insert = hook_runs.Creating.add
hook_runs.Creating.add = lambda *arguments: (inserted.append(1), insert(*arguments))[1]
NAMED = RunTag("mlflow.runName", "named")
for start, tags, name in ((7, [], "a"), (7, None, None), (0, [NAMED], ""), (None, [], "no start"),
                          (7, [NAMED], "other"), (7, [RunTag("k", "1"), RunTag("k", "2")], "twice"),
                          (7, [RunTag("k", "x" * 9000)], "long"),
                          (7, [RunTag("k" * 300, "")], "long key"), (2**70, [], "late"), (7, [], "n" * 300),
                          (7, [RunTag(f"k{n}", "\\u20ac'\\"\\\\") for n in range(150)], "many")):
    found = []
    for store in stores:
        try:
            run = store.create_run(experiments[0], "me", start, tags, name)
        except Exception as error:
            found.append([type(error).__name__, getattr(error, "error_code", "")])
            errors.append([*found[-1], ""])
            continue
        read = stores[1].get_run(run.info.run_id)
        for each in (run, read):
            values = {**dict(each.info), **dict.fromkeys(("run_id", "run_uuid", "artifact_uri"))}
            tags_found = dict(each.data.tags)
            if name is None:
                values["run_name"] = tags_found["mlflow.runName"] = ""
            if start is None and values["start_time"]:
                values["start_time"] = "now"
            found.append([values, tags_found, each.info.artifact_uri.replace(run.info.run_id, "RUN")])
    half = len(found) // 2
    assert found[:half] == found[half:], (start, name, found)
assert len(inserted) > 5 or not uri.startswith("postgresql"), inserted

class Elsewhere(Hooked):  # as MLflow's store with workspaces limits what may be seen
    def _get_query(self, session, model):
        return super()._get_query(session, model).filter(False)

hidden = Hooked(uri, folder)
hidden.__class__ = Elsewhere  # not before: a store that sees no experiment creates the first
for method, argument in (("get_run", runs[0]), ("get_experiment", experiments[0])):
    assert answer(hidden, method, argument)[:2] == ["MlflowException", "RESOURCE_DOES_NOT_EXIST"], method

texts = ["name", "name DESC", "`a b` asc", "name sideways", "", "a b c", "timestamp desc", "x" * 600, None, 5, "name"]
for cls in (SearchUtils, SearchExperimentsUtils):
    for text in texts * 2:
        found = []
        for way in (cls._parse_order_by_string, lambda text: order_own.__wrapped__(cls, text)
                    if hasattr(order_own, "__wrapped__") else order_own(cls, text)):
            try:
                found.append(way(text))
            except Exception as error:
                found.append([type(error).__name__, str(error)])
        assert found[0] == found[1], (text, found)

def some(depth):
    kind = random.randrange(4 + 4 * (depth > 0))
    if kind < 4:
        return random.choice([None, True, -7, 2**70, 1.5, math.nan, -math.inf, 1e-7, "",
                              "a\\"\\n\\u00e4\\U0001f600 , : {}"])
    size = random.randrange(4)
    if kind % 2:
        return [some(depth - 1) for _item in range(size)]
    return {f"k{n}\\u00e4\\"" * random.randrange(3) + str(n): some(depth - 1) for n in range(size)}

class Text(str):
    pass

others = [{1: 2}, {None: [1]}, {"a": (1, [2])}, Text("x"), {Text("k"): [Text("v")]}]
for value in [*(some(5) for _case in range(3000)), *others]:
    assert indented.dumps(value, indent=2) == json.dumps(value, indent=2), value
    assert indented.dumps(value) == json.dumps(value)
sorted_ = {"indent": 2, "sort_keys": True}
assert indented.dumps({"b": 1, "a": 2}, **sorted_) == json.dumps({"b": 1, "a": 2}, **sorted_)
json.dump({"report": report, "errors": [each[1] for each in errors if isinstance(each, list) and len(each) == 3],
           "read": len(usual)}, sys.stdout)
"""


def check(found: dict) -> None:
    assert found["report"] == {"reads": "", "create_run": ""} and found["read"] > 60
    assert set(found["errors"]) >= {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"}


def test_the_same_answers_and_errors(version, postgresql, tmp_path, request):
    """The seed of each run is new, and in the output of a failure."""
    seed = id(request) % 10000
    print("seed", seed)
    check(servers.answer(version, tmp_path, BOTH, servers.created(postgresql, version, "reads"), str(tmp_path),
                         str(seed), disabled="reads,create_run"))


def test_other_databases(newest, other_database, tmp_path):
    check(servers.answer(newest, tmp_path, BOTH, other_database, str(tmp_path), "1", disabled="reads,create_run"))


def test_another_version_goes_its_own_way(newest, tmp_path):
    """Where one of the methods is another than those that are known, nothing is replaced."""
    done = subprocess.run(
        [servers.binaries(newest) / "python", "-c", """
import hook_reads, hook_runs
from mlflow.store.tracking import sqlalchemy_store as module
from mlflow.utils import proto_json_utils, search_utils
hook_reads.hooks.SERVER = "PATH"
store = module.SqlAlchemyStore
store._get_model_inputs = lambda self, run_id, session: []
before = [dict(vars(each)) for each in (store, search_utils.SearchUtils, proto_json_utils)]
hook_reads.reads(module)
assert [dict(vars(each)) for each in (store, search_utils.SearchUtils, proto_json_utils)] == before
print(hook_reads.hooks.REPORT.read_text())
"""], env=servers.environment(newest, tmp_path), capture_output=True, text=True, timeout=90, check=False)
    assert not done.returncode, done.stderr
    assert json.loads(done.stdout)["behaviours"]["reads"] == (
        f"MLflow {newest} reads runs and experiments in another way than those that are known; it does so its own way, "
        "which takes longer")
