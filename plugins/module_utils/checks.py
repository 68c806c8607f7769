# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Running checks and reporting them, the same way in every health module.

Self-contained: the source of this file also runs inside an instance's pods, in front of a probe's (see remote.py).
"""

from __future__ import annotations

import contextlib
import time


class Checks:
    """The checks of one run, in order, and the times of the steps within them."""

    def __init__(self):
        self.checks = []
        self.samples = {}
        self.facts = {}

    def run(self, name, function, needs=()):
        """Run one check: it is ok when ``function`` returns, what it returns being the detail, and not when it raises.

        Args:
            name: what is checked.
            function: called without arguments.
            needs: names of checks without which this one cannot run; then it is not ok, and says which one failed.
        """
        failed = [c["name"] for c in self.checks if c["name"] in needs and not c["ok"]]
        begun = time.monotonic()
        if failed:
            ok, detail = False, f"not run, since {failed[0]} failed"
        else:
            try:
                ok, detail = True, function() or ""
            except Exception as error:
                ok, detail = False, " ".join(str(error).split()) or type(error).__name__
        duration = round((time.monotonic() - begun) * 1000, 1)
        self.checks.append({"name": name, "ok": ok, "duration_ms": duration, "detail": detail})
        return ok

    @contextlib.contextmanager
    def timed(self, step):
        """Count the time of a block among the samples of a step."""
        begun = time.monotonic()
        yield
        self.samples.setdefault(step, []).append((time.monotonic() - begun) * 1000)

    def report(self):
        """What a health module returns."""
        latency = {step: {"p50": percentile(values, 50), "p95": percentile(values, 95), "samples": len(values)}
                   for step, values in self.samples.items()}
        return {
            "changed": False, "healthy": bool(self.checks) and all(c["ok"] for c in self.checks), "checks": self.checks,
            "failures": [f"{c['name']}: {c['detail']}" for c in self.checks if not c["ok"]], "latency_ms": latency, **self.facts,
        }


def percentile(values, percent):
    """The nearest-rank percentile, rounded to a tenth."""
    ordered = sorted(values)
    return round(ordered[max(0, -(-len(ordered) * percent // 100) - 1)], 1)
