# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Releases of both charts as Helm records them, from what generate.py has written."""

from __future__ import annotations

import copy
import functools
import json
import pathlib

import yaml
from ansible_collections.mlops.mlflow.plugins.plugin_utils.adoption import release as releases
from ansible_collections.mlops.mlflow.plugins.plugin_utils.adoption.release import Release

HERE = pathlib.Path(__file__).parent


@functools.lru_cache(maxsize=None)
def document(name: str) -> dict:
    """A YAML or JSON file of this folder."""
    if name.endswith(".json"):
        return json.loads((HERE / name).read_text(encoding="utf-8"))
    return yaml.load((HERE / name).read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


CASES = [(chart, case) for chart, cases in document("cases.yml").items() for case in cases]


def record(chart: str, case: str, status: str = "deployed", version: int = 1) -> dict:
    """The Secret of a release."""
    rendered = copy.deepcopy(document("rendered.json")[chart])
    recorded = {"name": "rel", "namespace": "team", "version": version, "info": {"status": status},
                "chart": {"metadata": rendered["metadata"], "values": rendered["defaults"]},
                "config": document("cases.yml")[chart][case],
                "manifest": yaml.safe_dump_all(rendered["manifests"][case])}
    return {"apiVersion": "v1", "kind": "Secret", "type": releases.TYPE, "metadata": {
        "name": f"sh.helm.release.v1.rel.v{version}", "namespace": "team",
        "labels": {"owner": "helm", "name": "rel", "status": status, "version": str(version)}},
        "data": {"release": releases.encode(recorded)}}


@functools.lru_cache(maxsize=None)
def release(chart: str, case: str) -> Release:
    """A release."""
    return releases.latest([record(chart, case)], "rel", "team")
