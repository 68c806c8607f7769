# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The probe of what the server's sitecustomize.py reports about MLflow's internals; runs in the server's container.

Standard library only: this file also runs in an instance's pods (see plugin_utils/program.py).
"""

from __future__ import annotations

import json
import os

REPORT = "/tmp/mlops-mlflow-hooks.json"


def probe(checks, parameters):
    """Read the report of the server's hooks.

    Args:
        checks: collects the results; the fact ``missing`` lists a sentence for each behaviour that this version of
            MLflow cannot have. They are warnings: where a missing one would weaken security, the server does not start.
        parameters: path (of the report; default: the server's own).
    """
    path = parameters.get("path") or os.environ.get("MLOPS_MLFLOW_HOOKS") or REPORT
    checks.facts["missing"] = []

    def report():
        try:
            with open(path, encoding="utf-8") as file:
                behaviours = json.load(file)["behaviours"]
        except FileNotFoundError as error:
            raise RuntimeError(
                f"there is no {path}, so the server runs without its sitecustomize.py; PYTHONPATH must begin with "
                "/etc/mlflow"
            ) from error
        checks.facts["missing"] = [text for text in behaviours.values() if text]
        return ", ".join(name for name, text in behaviours.items() if not text)

    checks.run("report", report)
