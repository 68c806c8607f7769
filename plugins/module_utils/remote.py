# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Running a probe where the server stands: its source travels on standard input into a pod and runs under the pod's Python."""

from __future__ import annotations

import inspect
import json

from ansible_collections.mlops.mlflow.plugins.module_utils import checks


def run_probe(probe, parameters, way=None):
    """Run ``probe.probe(Checks, parameters)`` here, or in a pod.

    Args:
        probe: a module of ``module_utils.probes``; it may import only what the server's image has.
        parameters: what it is to do; secrets in it travel on standard input, never as arguments.
        way: what ``reach`` gave, to run in a pod of its service; None to run here.

    Returns:
        The report of the probe's checks.
    """
    if way is None:
        collected = checks.Checks()
        probe.probe(collected, parameters)
        return collected.report()
    future = "from __future__ import annotations"
    parts = [inspect.getsource(module).replace(future, "") for module in (checks, probe)]
    call = f"import json\nc = Checks()\nprobe(c, json.loads({json.dumps(parameters)!r}))\nprint('\\n' + json.dumps(c.report()))\n"
    out = way.execute(["python3", "-"], f"{future}\n" + "\n".join([*parts, call]))
    return json.loads(out.strip().splitlines()[-1])
