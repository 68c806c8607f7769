# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Dashboards keep the rules of Grafana's dashboard-linter, and their queries have data in a real Prometheus."""

from __future__ import annotations

import base64
import json
import os
import pathlib
import re
import sys

import samples
import promtool
import pytest
from ansible_collections.mlops.mlflow.plugins.plugin_utils.monitoring import dashboards, metrics, rules

ROOT = pathlib.Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "molecule" / "shared"))
from chromium import Chromium  # noqa: E402

PORT = 16440
SETTINGS = rules.Settings(samples.NAMESPACE, samples.INSTANCE, backups=True)
DASHBOARDS = dashboards.dashboards()
PANELS = [(name, panel) for name, dashboard in DASHBOARDS.items() for panel in dashboard["panels"]
          if panel["type"] != "row"]
TARGETS = [(name, panel, target) for name, panel in PANELS for target in panel["targets"]]
COUNTERS = {name for name, metric in metrics.BY_SERIES.items() if metric.type == "counter" or name != metric.name}
UNITS = {"short", "s", "reqps", "bytes", "Bps", "percentunit", "bool_yes_no"}
SELECTOR = re.compile(r'(?:(\w+)\()?([A-Za-z_:0-9]+)\{((?:[^"}]|"[^"]*")*)\}(?:\[([^\]]+)\])?')
"""Function, name, matchers and window of a selector."""


def identity(value):
    if isinstance(value, dict):
        return value.get("title") or value.get("refId")
    return value


def of_instance(expression: str) -> str:
    """An expression as Grafana sends it."""
    for variable, value in (("$namespace", samples.NAMESPACE), ("$instance_name", samples.INSTANCE),
                            ("$__rate_interval", "1m")):
        expression = expression.replace(variable, value)
    return expression


@pytest.mark.parametrize("name", DASHBOARDS)
def test_dashboard(name):
    dashboard = DASHBOARDS[name]
    assert dashboard["uid"] == name and len(name) <= 40
    assert dashboard["editable"] is False and dashboard["description"]
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert list(variables) == ["datasource", "namespace", "instance_name"]
    assert variables["datasource"]["type"] == "datasource" and variables["datasource"]["query"] == "prometheus"
    for variable in variables.values():
        assert variable["label"]
    for each in ("namespace", "instance_name"):
        assert variables[each]["refresh"] == 2, "loaded when the time range changes"
        assert variables[each]["datasource"] == dashboards.DATASOURCE
        assert f", {each})" in variables[each]["query"]["query"]
    identities = [panel["id"] for panel in dashboard["panels"]]
    assert len(identities) == len(set(identities))
    titles = [panel["title"] for panel in dashboard["panels"] if panel["type"] != "row"]
    assert len(titles) == len(set(titles))
    assert len(json.dumps(dashboard)) < 2**20 / 2, "a ConfigMap holds less than 1 MiB"


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_do_not_overlap(name):
    taken = set()
    for panel in DASHBOARDS[name]["panels"]:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"])
                 for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & taken and place["x"] + place["w"] <= dashboards.COLUMNS, panel["title"]
        taken |= cells


@pytest.mark.parametrize("name, panel", PANELS, ids=identity)
def test_panel(name, panel):
    assert panel["title"] and panel["description"] and panel["targets"]
    assert panel["datasource"] == dashboards.DATASOURCE
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    for target in panel["targets"]:
        expression = target["expr"]
        assert target["datasource"] == dashboards.DATASOURCE
        selectors = SELECTOR.findall(expression)
        assert selectors
        for function, metric, matchers, window in selectors:
            assert metric in metrics.BY_SERIES, metric
            # An instance is what job and instance are to the linter; both are labels of each series.
            assert matchers.startswith('namespace="$namespace",instance_name="$instance_name"'), expression
            if metric in COUNTERS:
                assert (function, window) in (("rate", dashboards.WINDOW), ("increase", "1h")), expression


def test_queries_are_valid(tmp_path):
    recorded = [{"record": f"query:{number}", "expr": of_instance(target["expr"])}
                for number, (_name, _panel, target) in enumerate(TARGETS)]
    promtool.check(tmp_path / "rules.yml", {"groups": [{"name": "queries", "rules": recorded}]})


def test_figures_that_the_requirements_name():
    titles = {panel["title"] for _name, panel in PANELS}
    assert {"Requests", "Duration of API requests", "Active experiments", "Artifacts stored"} <= titles


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    """A Prometheus with the rules, and the page at /prefix/consoles/overview.html."""
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "consoles").mkdir()
    (folder / "consoles" / "overview.html").write_text(dashboards.overview(SETTINGS), encoding="utf-8")
    rule_file = rules.rule_file(SETTINGS)
    for group in rule_file["groups"]:
        # Two minutes are too long for a test.
        group.pop("interval", None)
    # For pictures: OVERVIEW_HISTORY_HOURS=6 OVERVIEW_PICTURES=folder
    hours = float(os.environ.get("OVERVIEW_HISTORY_HOURS", "0"))
    with samples.prometheus(folder, PORT, rule_file, folder / "consoles", history=3600 * hours,
                            prefix="/prefix") as found:
        yield found


def test_rules_are_evaluated_without_errors(live):
    for group in live.get("rules")["groups"]:
        for rule in group["rules"]:
            assert rule["health"] in ("ok", "unknown"), (rule["name"], rule.get("lastError"))


@pytest.mark.parametrize("name, panel, target", TARGETS, ids=identity)
def test_query_has_data(live, name, panel, target):
    result = live.result(of_instance(target["expr"]))
    if panel["title"] in ("Failed collections",):
        assert {sample["value"][1] for sample in result} == {"0"}
    assert result, target["expr"]
    for sample in result:
        for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
            assert sample["metric"].get(label), (label, sample)


def test_page_has_no_action_of_templates_and_loads_nothing():
    page = dashboards.overview(SETTINGS)
    assert "{{" not in page and "@DATA@" not in page
    assert not re.findall(r"""(?:src|href)=["'](?:https?:)?//|@import|url\(""", page)
    hostile = dashboards.overview(rules.Settings("</script><b>", "{{ .x }}"))
    assert "</script><b>" not in hostile and "{{" not in hostile


@pytest.fixture(scope="module")
def browser():
    chromium = Chromium(None, None, "prometheus.invalid", "127.0.0.1")
    yield chromium
    chromium.close()


def test_page_in_a_browser(live, browser, tmp_path):
    words = ["MLflow mlflow", "namespace team-a", "MLflowBackupLate (critical", "Requests by status", "Updated at"]
    text = browser.read(f"{live.url}/consoles/overview.html", *words)
    for word in [*words, "Active experiments", "Artifacts stored", "api-availability", "p95"]:
        assert word in text, text
    assert "NaN" not in text and "undefined" not in text
    evaluate = {"returnByValue": True}
    counts = browser.call("Runtime.evaluate", **evaluate, expression=(
        "JSON.stringify([...document.querySelectorAll('#charts .card')].map(card => "
        "[card.querySelector('h2').textContent, card.querySelectorAll('path').length]))"))["result"]["value"]
    charts = dict(json.loads(counts))
    assert len(charts) >= 7 and all(charts.values()), charts
    tiles = browser.call("Runtime.evaluate", **evaluate, expression=(
        "JSON.stringify([...document.querySelectorAll('.tile')].map(tile => tile.innerText.split('\\n')))"))
    figures = {title: values for title, *values in json.loads(tiles["result"]["value"])}
    assert figures["Active experiments"] == ["42"] and figures["Artifacts stored"] == ["58,123"], figures
    assert figures["Server pods up"] == ["1"] and figures["Firing alerts"] == ["1"], figures
    assert all("–" not in value for values in figures.values() for value in values), figures
    for scheme in ("light", "dark"):
        browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        colour = browser.call("Runtime.evaluate", **evaluate, expression=(
            "getComputedStyle(document.body).backgroundColor"))["result"]["value"]
        assert colour == {"light": "rgb(246, 247, 249)", "dark": "rgb(18, 22, 28)"}[scheme]
        picture = os.environ.get("OVERVIEW_PICTURES")
        if picture:
            browser.call("Emulation.setDeviceMetricsOverride", width=1280, height=800, deviceScaleFactor=1,
                         mobile=False)
            browser.read(f"{live.url}/consoles/overview.html", *words)
            shot = browser.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
            pathlib.Path(picture, f"overview-{scheme}.png").write_bytes(base64.b64decode(shot))
