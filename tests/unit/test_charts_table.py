# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""docs/charts.md has a row for every option of both charts, and no row for an option that neither has."""

from __future__ import annotations

import pathlib
import re

import pytest
import yaml

ROOT = pathlib.Path(__file__).parents[2]
OPTIONS = yaml.safe_load((ROOT / "tests" / "unit" / "chart_options.yml").read_text(encoding="utf-8"))
PAGE = (ROOT / "docs" / "charts.md").read_text(encoding="utf-8")
VERSIONS = {"mlflow/mlflow": "003d490", "community-charts/mlflow": "1.11.5"}
"""What the lists of options were taken from; the page names it."""


def section(chart: str) -> str:
    """The part of the page about a chart."""
    return next(part for part in PAGE.split("\n## ") if part.startswith(chart))


def named(chart: str) -> list[str]:
    """The options in the first column of a chart's table; one that begins with a dot has the parent of that before."""
    found = []
    for line in section(chart).splitlines():
        parent = ""
        for option in re.findall(r"`([^`]+)`", line.split(" | ")[0]) if line.startswith("| `") else ():
            whole = parent + option if option.startswith(".") else option
            found.append(whole)
            if not option.startswith("."):
                parent = option.removesuffix(".*").rpartition(".")[0] or option
    return found


def covers(row: str, option: str) -> bool:
    """Whether a row is about an option: it is named, or a mapping above it is."""
    return f"{option}.".startswith(f"{row.removesuffix('.*')}.")


@pytest.mark.parametrize("chart", OPTIONS)
def test_every_option_has_a_row(chart):
    rows = named(chart)
    assert [option for option in OPTIONS[chart] if not any(covers(row, option) for row in rows)] == []


@pytest.mark.parametrize("chart", OPTIONS)
def test_every_row_is_about_an_option(chart):
    options = [*OPTIONS[chart], *("server.value_options.any",) * (chart == "mlflow/mlflow")]
    assert [row for row in named(chart) if not any(covers(row, option) for option in options)] == []


@pytest.mark.parametrize("chart", OPTIONS)
def test_the_page_says_which_version_it_is_about(chart):
    assert VERSIONS[chart] in section(chart)


def test_an_option_without_a_row_is_found():
    assert "oauth2Proxy.provider.*" in named("community-charts/mlflow") and "image.tag" in named("mlflow/mlflow")
    assert not any(covers(row, "image.tagged") for row in named("mlflow/mlflow"))
