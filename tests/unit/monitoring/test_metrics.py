# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rules, and the programs that export, use the names in the list of metrics."""

from __future__ import annotations

import re

import pytest
from ansible_collections.mlops.mlflow.plugins.plugin_utils.monitoring import metrics, rules

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
            used = set(re.findall(r"([a-z_:0-9]+)\{", rule["expr"]))
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
