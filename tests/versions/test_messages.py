# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""hook_messages.py reads and writes all of MLflow's messages as MLflow's own functions do."""

from __future__ import annotations

import mlflow_servers as servers

BOTH = """
import copy, importlib, json, math, pkgutil, random, sys
import hook_messages
import mlflow.protos
from google.protobuf.descriptor import FieldDescriptor as Kinds
from mlflow.utils import proto_json_utils as module

random.seed(int(sys.argv[1]))
own = module.parse_dict, module.message_to_json
assert "hook" not in own[0].__code__.co_filename
hook_messages.hooks.SERVER = "PATH"  # which is set, so that there is a report
hook_messages.messages()
report = json.loads(hook_messages.hooks.REPORT.read_text())["behaviours"]
here = {"read": 0, "written": 0}
for name, method in (("read", "check"), ("written", "written")):
    def count(*arguments, kind=name, method=getattr(hook_messages.Type, method)):
        found = method(*arguments)
        here[kind] += 1
        return found
    setattr(hook_messages.Type, method, count)

types = {}
def find(message):
    types.setdefault(message.DESCRIPTOR.full_name, message)
    for name in message.DESCRIPTOR.nested_types_by_name:
        if not message.DESCRIPTOR.nested_types_by_name[name].GetOptions().map_entry:
            find(getattr(message, name))

for found in pkgutil.iter_modules(mlflow.protos.__path__, "mlflow.protos."):
    if found.name.endswith("_pb2"):
        loaded = importlib.import_module(found.name)
        for name in loaded.DESCRIPTOR.message_types_by_name:
            find(getattr(loaded, name))
for name in ("struct", "timestamp", "duration"):
    loaded = importlib.import_module(f"google.protobuf.{name}_pb2")
    for each in loaded.DESCRIPTOR.message_types_by_name:
        find(getattr(loaded, each))

TEXTS = ["", "a", "a\\"\\n\\u00e4\\U0001f600", "7", "true", "NaN"]
NUMBERS = [0.0, -0.0, 1.0, 1 / 3, 1e308, 5e-324, -2.0**53]
INTEGERS = {32: [0, 1, -1, 2**31 - 1, -2**31], 64: [0, 1, -1, 2**63 - 1, -2**63, 2**53 + 1]}
SIZES = {Kinds.TYPE_INT64: 64, Kinds.TYPE_INT32: 32}

def value(field, depth, wrong):
    kind = field.type
    if wrong and random.random() < 0.06:
        return random.choice([None, True, 3, -7, 2**70, 1.5, 2.0, math.nan, math.inf, "x", "9", [], ["a"], {}, {"a": 1},
                              "\\ud800"])
    if kind == Kinds.TYPE_MESSAGE:
        if field.message_type.GetOptions().map_entry:
            return {random.choice("ab7"): value(field.message_type.fields_by_name["value"], depth - 1, wrong)}
        return some(field.message_type, depth - 1, wrong)
    if kind == Kinds.TYPE_ENUM:
        return random.choice([each.name for each in field.enum_type.values])
    if kind == Kinds.TYPE_BOOL:
        return random.choice([True, False])
    if kind == Kinds.TYPE_DOUBLE or kind == Kinds.TYPE_FLOAT:
        return random.choice(NUMBERS[:4] if kind == Kinds.TYPE_FLOAT else [*NUMBERS, 3, *["NaN", "-Infinity"] * wrong])
    if kind == Kinds.TYPE_BYTES:
        return "AAEC"
    if kind == Kinds.TYPE_STRING:
        return random.choice(TEXTS)
    numbers = INTEGERS[SIZES.get(kind, 32)]
    return random.choice(numbers if kind in SIZES else [number for number in numbers if number >= 0])

def some(descriptor, depth, wrong):
    if descriptor.full_name == "google.protobuf.Timestamp":
        return "2026-01-02T03:04:05Z"
    if descriptor.full_name == "google.protobuf.Duration":
        return "1.500s"
    if descriptor.full_name.startswith("google.protobuf."):
        return random.choice([{"a": [1, "b", {"c": 2.5}]}, {}])
    made = {}
    for field in descriptor.fields:
        if depth < 0 or random.random() < 0.35:
            continue
        name = field.json_name if wrong and random.random() < 0.05 else field.name
        repeated = field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED
        if repeated and not (field.message_type and field.message_type.GetOptions().map_entry):
            made[name] = [value(field, depth, wrong) for _item in range(random.randrange(3))]
        else:
            made[name] = value(field, depth, wrong)
    if wrong and random.random() < 0.05:
        made["unknown"] = 1
    return made

def outcome(function, *arguments):
    try:
        return function(*arguments)
    except Exception as error:
        return [type(error).__name__, str(error)]

counts = {"messages": 0, "refused": 0}
for full_name, made in sorted(types.items()):
    for number in range(24):
        given = some(made.DESCRIPTOR, 3, number % 3 == 0)
        messages, results, inputs = [made(), made()], [], []
        for function, message in zip((module.parse_dict, own[0]), messages):
            inputs.append(copy.deepcopy(given))
            results.append(outcome(function, inputs[-1], message))
        assert results[0] == results[1] and repr(inputs[0]) == repr(inputs[1]), (full_name, given, results)
        counts["refused"] += results[0] is not None
        if results[0] is None:
            assert messages[0].SerializeToString(deterministic=True) == messages[1].SerializeToString(
                deterministic=True), (full_name, given)
            texts = [outcome(function, messages[1]) for function in (module.message_to_json, own[1])]
            assert texts[0] == texts[1], (full_name, given, texts)
            counts["messages"] += 1
for given in (None, [], "text", 7, [{"key": "a"}]):
    results = [outcome(function, given, types["mlflow.LogBatch"]()) for function in (module.parse_dict, own[0])]
    assert results[0] == results[1], (given, results)
started = [types["mlflow.LogBatch"](run_id="1", metrics=[{"key": "a"}]) for _way in own]
for function, message in zip((module.parse_dict, own[0]), started):
    function({"metrics": [{"key": "b", "value": 1.0}]}, message)
assert started[0] == started[1]
json.dump({"report": report, "types": len(types), **counts, **here}, sys.stdout)
"""


def test_the_same_messages_json_and_errors(version, tmp_path, request):
    """Random ones of each type, right and wrong; the seed of each run is new, and in the output of a failure."""
    seed = id(request) % 10000
    print("seed", seed)
    found = servers.answer(version, tmp_path, BOTH, str(seed), disabled="messages")
    print(found)
    assert found["report"] == {"messages": ""}
    assert found["types"] > 200 and found["messages"] > 3000 and found["refused"] > 100
    # Most went this way, not MLflow's own.
    assert found["read"] > 1000 < found["written"]


def test_another_version_goes_its_own_way(newest, tmp_path):
    found = servers.answer(newest, tmp_path, """
import json, sys
import hook_messages
from mlflow.utils import proto_json_utils as module
hook_messages.hooks.SERVER = "PATH"
module._merge_json_dicts = lambda *dicts: {}
before = dict(vars(module))
hook_messages.messages()
assert dict(vars(module)) == before
json.dump(json.loads(hook_messages.hooks.REPORT.read_text())["behaviours"], sys.stdout)
""", disabled="messages")
    assert found["messages"].startswith("MLflow ") and found["messages"].endswith("which takes longer")
