# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""docs/charts.md has a row for every option of both charts; what a row names sets the fields that the chart sets."""

from __future__ import annotations

import pathlib
import re

import pytest
import yaml

from ansible_collections.mlops.mlflow.plugins.plugin_utils import components, manifests, model, render

ROOT = pathlib.Path(__file__).parents[2]
CHARTS = yaml.safe_load((ROOT / "tests" / "unit" / "chart_options.yml").read_text(encoding="utf-8"))
OPTIONS = {chart: list(dict.fromkeys(option for entry in entries for option in entry["options"]))
           for chart, entries in CHARTS.items()}
CASES = [pytest.param(chart, entry, id=f"{chart.partition('/')[0]}-{number}-{entry['options'][0]}")
         for chart, entries in CHARTS.items() for number, entry in enumerate(entries)]
PAGE = (ROOT / "docs" / "charts.md").read_text(encoding="utf-8")
VERSIONS = {"mlflow/mlflow": "003d490", "community-charts/mlflow": "1.11.5"}
"""What the lists of options were taken from; the page names it."""
FOLDERS = {"template": manifests.pod_template, "pod": lambda obj: manifests.pod_template(obj)["spec"]}


def section(chart: str) -> str:
    """The part of the page about a chart."""
    return next(part for part in PAGE.split("\n## ") if part.startswith(chart))


def table(chart: str) -> dict[str, str]:
    """The options of a chart's table and what stands beside them; one that begins with a dot has the parent of that
    before."""
    found = {}
    for line in section(chart).splitlines():
        parent = ""
        first, _bar, second = line.partition(" | ")
        for option in re.findall(r"`([^`]+)`", first) if line.startswith("| `") else ():
            found[parent + option if option.startswith(".") else option] = second
            if not option.startswith("."):
                parent = option.removesuffix(".*").rpartition(".")[0] or option
    return found


def covers(row: str, option: str) -> bool:
    """Whether a row is about an option: it is named, or a mapping above it is."""
    return f"{option}.".startswith(f"{row.removesuffix('.*')}.")


def beside(chart: str, option: str) -> str:
    """What the table says about an option: of several rows that of the longest name."""
    rows = table(chart)
    return rows[max((row for row in rows if covers(row, option)), key=len)]


def names(text: str) -> set[str]:
    """The variables that a row names; one that begins with an underscore is short for one that begins as one before."""
    found: set[str] = set()
    for name in re.findall(r"`(_?[a-z][a-z0-9_]*)[`:]", text):
        whole = [known.rsplit("_", length)[0] + name for known in list(found) for length in range(4)]
        found.update(whole if name.startswith("_") else [name])
    return found


@pytest.mark.parametrize("chart", OPTIONS)
def test_every_option_has_a_row(chart):
    rows = table(chart)
    assert [option for option in OPTIONS[chart] if not any(covers(row, option) for row in rows)] == []


@pytest.mark.parametrize("chart", OPTIONS)
def test_every_row_is_about_an_option(chart):
    options = [*OPTIONS[chart], *("server.value_options.any",) * (chart == "mlflow/mlflow")]
    assert [row for row in table(chart) if not any(covers(row, option) for option in options)] == []


@pytest.mark.parametrize("chart", OPTIONS)
def test_the_page_says_which_version_it_is_about(chart):
    assert VERSIONS[chart] in section(chart)


def test_an_option_without_a_row_is_found():
    assert "oauth2Proxy.provider.*" in table("community-charts/mlflow") and "image.tag" in table("mlflow/mlflow")
    assert not any(covers(row, "image.tagged") for row in table("mlflow/mlflow"))


@pytest.mark.parametrize("chart, entry", CASES)
def test_a_row_names_what_sets_its_options(chart, entry):
    """Either variables, or a word about why nothing does."""
    assert ("set" in entry) != ("why" in entry) and ("set" in entry) == ("find" in entry)
    for option in entry["options"]:
        row = beside(chart, option)
        assert entry.get("why", "") in row, (option, row)
        assert set(entry.get("set", ())) <= names(row), (option, row)


def objects(variables: dict) -> dict[str, dict]:
    """What all components render on Kubernetes, by kind and name."""
    whole = {"mlflow_engine": "kubernetes", **variables}
    resolved = model.resolve(whole.__getitem__, whole, "sound")
    rendered = [obj for component in components.COMPONENTS for obj in render.render(component, resolved, {})]
    return {str(manifests.Ref.of(obj)): obj for obj in rendered}


def step(found, key: str):
    """A field, or an entry of a list by its name or number; None where it is not there."""
    if isinstance(found, list):
        entries = found if not key.isdecimal() else found[int(key):int(key) + 1]
        return next((entry for entry in entries if key.isdecimal() or entry.get("name") == key), None)
    return (found or {}).get(key)


def at(obj: dict, path: str):
    """What is at a path of an object."""
    first, _dot, rest = path.partition(".")
    found = FOLDERS[first](obj) if first in FOLDERS else step(obj, first)
    for key in filter(None, rest.split(".")):
        found = step(found, key)
    return found


def holds(found, expected) -> bool:
    """Whether what is expected is there: a mapping and a list may have more, and text after "..." is a part."""
    if isinstance(expected, dict) and isinstance(found, dict):
        return all(holds(found.get(key), value) for key, value in expected.items())
    if isinstance(expected, list) and isinstance(found, list):
        return all(any(holds(entry, wanted) for entry in found) for wanted in expected)
    if isinstance(expected, str) and expected.startswith("... "):
        return isinstance(found, str) and expected.removeprefix("... ") in found
    return found == expected


def mismatches(entry: dict) -> list[tuple]:
    """The fields that are not as an entry says: object, path, what is there, what is expected."""
    made = objects({**entry.get("with", {}), **entry["set"]})
    found = []
    for name, fields in entry["find"].items():
        if fields is None or name not in made:
            found += [(name, "", made.get(name), fields)] * ((name in made) != (fields is not None))
            continue
        found += [(name, path, at(made[name], path), expected) for path, expected in fields.items()
                  if not holds(at(made[name], path), expected)]
    return found


@pytest.mark.parametrize("chart, entry", [case for case in CASES if "find" in case.values[1]])
def test_what_a_row_names_sets_the_field(chart, entry):
    assert mismatches(entry) == []


def test_a_field_that_is_not_set_is_found():
    """The comparison itself."""
    wrong = {"set": {"mlflow_server_replicas": 3}, "find": {
        "Deployment sound-server": {"spec.replicas": 2, "pod.containers.mlflow.args": ["--workers=9"],
                                    "pod.volumes.none": {"emptyDir": {}}},
        "Deployment nowhere": {"spec.replicas": 3}, "Service sound-server": None}}
    assert [(name, path) for name, path, _found, _expected in mismatches(wrong)] == [
        ("Deployment sound-server", "spec.replicas"), ("Deployment sound-server", "pod.containers.mlflow.args"),
        ("Deployment sound-server", "pod.volumes.none"), ("Deployment nowhere", ""), ("Service sound-server", "")]
