# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rules, and the programs that export, use the names in the list of metrics."""

from __future__ import annotations

import ast
import importlib.util
import pathlib
import re
import sys

import pytest
from ansible_collections.mlops.mlflow.plugins.plugin_utils.monitoring import metrics, rules

ROOT = pathlib.Path(__file__).parents[3]
SETTINGS = rules.Settings("team-a", "mlflow", backups=True, claims=("mlflow-database",))


def test_names_are_unique():
    names = [metric.name for metric in metrics.METRICS]
    assert len(names) == len(set(names))
    assert len(metrics.BY_SERIES) == sum(len(metric.series()) for metric in metrics.METRICS)


def test_recorded_series_are_those_of_the_recording_rules():
    recorded = {}
    for group in rules.groups(SETTINGS):
        for rule in group["rules"]:
            if "record" in rule:
                recorded.setdefault(rule["record"], set()).add(tuple(sorted(rule["labels"])))
    wanted = {metric.name: {tuple(sorted((*metric.labels, *metrics.INSTANCE_LABELS)))}
              for metric in metrics.METRICS if metric.source == "rule"}
    assert recorded == wanted


def test_names_in_expressions_are_in_the_list():
    for group in rules.groups(SETTINGS):
        for rule in group["rules"]:
            used = set(re.findall(r"([A-Za-z_:0-9]+)\{", rule["expr"]))
            assert used <= set(metrics.BY_SERIES), (rule, used - set(metrics.BY_SERIES))
            assert used or rule["expr"].startswith("vector("), rule


def test_unknown_series_and_labels_are_refused():
    series = metrics.Series("team-a", "mlflow")
    assert series("mlflow_runs", 'status="FAILED"') == \
        'mlflow_runs{namespace="team-a",instance_name="mlflow",status="FAILED"}'
    with pytest.raises(KeyError, match="mlflow_run"):
        series("mlflow_run")
    with pytest.raises(ValueError, match="mlflow_runs has no label state"):
        series("mlflow_runs", 'state="FAILED"')


def source(role: str, name: str) -> pathlib.Path:
    path = ROOT / "roles" / role / "files" / name
    assert path.exists(), f"{path.relative_to(ROOT)} is missing: the list of metrics cannot be compared with it"
    return path


def exported_by_the_server() -> dict[str, tuple[str, set[str]]]:
    """Type and labels by name, of the text that the hook renders for one request."""
    numbers = load(source("mlflow_server", "request_numbers.py"))
    words = [1] * numbers.WORDS
    exposition = load(source("mlflow_server", "request_exposition.py"))
    text = exposition.rendered({("GET", "/version", "200"): words}, 0, 1700000000.0, "3.17.2")
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    labels: dict[str, set[str]] = {name: set() for name in types}
    for series, found in re.findall(r"^(\w+)(?:\{(.*)\})? \S+$", text, re.MULTILINE):
        suffixes = ("", *metrics.SUFFIXES["histogram"])
        name = next(name for name in types if series in [name + suffix for suffix in suffixes])
        labels[name] |= set(metrics.LABEL.findall(found)) - {"le"}
    assert numbers.BOUNDS == metrics.DURATION_BUCKETS
    return {name: (kind, labels[name]) for name, kind in types.items()}


def exported_by_the_exporter() -> set[str]:
    path = source("monitoring", "exporter.py")
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and [target.id for target in node.targets] == ["METRICS"]:
            return set(ast.literal_eval(node.value))
    raise AssertionError(f"{path.relative_to(ROOT)} has no METRICS")


def load(path: pathlib.Path):
    sys.path.insert(0, str(path.parent))
    try:
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module


def test_the_server_exports_the_list():
    wanted = {metric.name: (metric.type, set(metric.labels)) for metric in metrics.METRICS if metric.source == "server"}
    assert exported_by_the_server() == wanted


def test_the_exporter_exports_the_list():
    assert exported_by_the_exporter() == {metric.name for metric in metrics.METRICS if metric.source == "exporter"}


def test_queries_that_judge_the_database_are_the_exporters():
    path = source("monitoring", "collectors.py")
    names = re.findall(r'\.query, "(\w+)"|\.query\("(\w+)"', path.read_text(encoding="utf-8"))
    wanted = set(metrics.SIMPLE_QUERIES.partition('"')[2].strip('"').split("|"))
    assert wanted <= {first or second for first, second in names}


@pytest.mark.parametrize("kind, route, belongs", [
    ("api", "/api/2.0/mlflow/runs/log-batch", True),
    ("api", "/ajax-api/3.0/mlflow/traces/{trace_id}", True),
    ("api", "/api/2.0/mlflow/artifacts/list", True),
    ("api", "/graphql", True),
    ("api", "/api/2.0/mlflow-artifacts/artifacts/{artifact_path}", False),
    ("api", "/ajax-api/2.0/mlflow/upload-artifact", False),
    ("api", "/ajax-api/2.0/mlflow/gateway-proxy", False),
    ("api", "/ajax-api/3.0/mlflow/scorer/invoke", False),
    ("api", "/health", False),
    ("uploads", "/api/2.0/mlflow-artifacts/artifacts/{artifact_path}", True),
    ("uploads", "/ajax-api/2.0/mlflow/upload-artifact", True),
    ("artifacts", "/api/2.0/mlflow-artifacts/mpu/create/{artifact_path}", True),
    ("artifacts", "/model-versions/get-artifact", True),
    ("ui", "/", True),
    ("ui", "/static-files/{path}", True),
    ("ui", "/api/2.0/mlflow/runs/search", False),
    ("all", "/health", False),
    ("all", "other", True),
])
def test_kinds_of_routes(kind, route, belongs):
    verdicts = []
    for matcher in metrics.KINDS[kind]:
        label, operator, pattern = re.fullmatch(r'(\w+)(=~|!~)"(.*)"', matcher).groups()
        if label == "route":
            verdicts.append(bool(re.fullmatch(pattern, route)) == (operator == "=~"))
    assert all(verdicts) == belongs
