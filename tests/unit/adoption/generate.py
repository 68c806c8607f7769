# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Writes what the charts make of the values in cases.yml to rendered.json, for the tests beside it.

usage: generate.py HELM OFFICIAL_CHART COMMUNITY_CHART

The folders are those of the charts, without their subcharts. Of the charts only the default values of the options in
../chart_options.yml are written, and the objects that they render, without programs in them.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import tempfile

import yaml

HERE = pathlib.Path(__file__).parent
CHARTS = ("mlflow/mlflow", "community-charts/mlflow")
OWN = ("dbchecker", "mlflow-db-migration", "ini-file-initializer")
"""Init containers of a chart, with programs of its own."""


def subset(defaults: dict, options: list[str]) -> dict:
    """The default values of options."""
    found: dict = {}
    for option in options:
        value, place = defaults, found
        *parents, last = option.split(".")
        for key in parents:
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, dict) and last in value:
            for key in parents:
                place = place.setdefault(key, {})
            place[last] = value[last]
    return found


def release(helm: str, chart: str, name: str, values: dict) -> dict:
    """What Helm would record."""
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
        yaml.safe_dump(values, file)
        file.flush()
        answer = subprocess.run([helm, "install", name, chart, "--namespace", "team", "--dry-run=client", "--output",
                                 "json", "--values", file.name], check=True, capture_output=True, text=True)
    return json.loads(answer.stdout)


def without_programs(obj: dict) -> dict:
    """An object without a chart's own init containers."""
    if obj["kind"] == "Deployment":
        spec = obj["spec"]["template"]["spec"]
        spec["initContainers"] = [entry for entry in spec.get("initContainers") or [] if entry["name"] not in OWN]
    return obj


def main() -> None:
    """Write the file."""
    helm, *folders = sys.argv[1:]
    cases = yaml.safe_load((HERE / "cases.yml").read_text(encoding="utf-8"))
    options = yaml.safe_load((HERE.parent / "chart_options.yml").read_text(encoding="utf-8"))
    result: dict = {}
    for chart, folder in zip(CHARTS, folders):
        for case, values in cases[chart].items():
            document = release(helm, folder, "rel", values)
            metadata = document["chart"]["metadata"]
            names = [option for entry in options[chart] for option in entry["options"]]
            result.setdefault(chart, {
                "metadata": {key: metadata[key] for key in ("name", "version", "appVersion")},
                "defaults": subset(document["chart"]["values"], names), "manifests": {}})
            objects = filter(None, yaml.safe_load_all(document["manifest"]))
            result[chart]["manifests"][case] = list(map(without_programs, objects))
    (HERE / "rendered.json").write_text(json.dumps(result, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
