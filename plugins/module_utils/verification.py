# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The verification of an instance as a Job of its own, which fails when the instance is not healthy.

Standard library only: this file runs in a pod of the server's image (see plugin_utils/program.py).
"""

from __future__ import annotations

import os
import sys

from ansible_collections.mlops.mlflow.plugins.module_utils import checks


def verify(parameters):
    """Run the probes of an instance and end this process with code 1 when one is not healthy.

    Args:
        parameters: of ``checks.measure_all``, and ``titles``, by the probes' names the beginnings of sentences.

    Returns:
        By name, whether each is healthy.
    """
    reports = checks.measure_all(parameters)
    for name, report in reports.items():
        for failure in report["failures"]:
            sys.stderr.write(f"{parameters['titles'][name]} is not healthy: {failure}\n")
            sys.stderr.flush()
    if not all(report["healthy"] for report in reports.values()):
        # A thread that does not end must not keep the process.
        os._exit(1)
    return {name: report["healthy"] for name, report in reports.items()}
