# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Running checks and reporting them, the same way in every probe.

Standard library only: this file also runs in an instance's pods (see plugin_utils/program.py).
"""

from __future__ import annotations

import contextlib
import importlib
import json
import threading
import time

RETRY_SECONDS = 6
"""How long a connection that is refused, or a name that does not resolve, is tried again."""
NOT_RUN = "run"
"""The check that fails in place of all others, where a probe could not run."""
PROBES = "ansible_collections.mlops.mlflow.plugins.module_utils.probes."


class Checks:
    """The checks of one run, in order, and the times of the steps within them.

    Attributes:
        checks: for each check name, ok, duration_ms and detail.
        not_run: names of those that another one's failure kept from running; they are no failures of their own.
        facts: what else the report holds, by name.
    """

    def __init__(self):
        self.checks = []
        self.not_run = set()
        self.samples = {}
        self.facts = {}

    def run(self, name, function, needs=()):
        """Run one check: it is ok when ``function`` returns, what it returns being the detail, and not when it raises.

        Args:
            name: what is checked.
            function: called without arguments.
            needs: names of checks without which this one cannot run; then it is not ok, and its detail names the failed
                one.
        """
        failed = [c["name"] for c in self.checks if c["name"] in needs and not c["ok"]]
        begun = time.monotonic()
        if failed:
            ok, detail = False, f"not run, since {failed[0]} failed"
            self.not_run.add(name)
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
        """What a probe reports and a health module returns."""
        latency = {step: {"p50": percentile(values, 50), "p95": percentile(values, 95), "samples": len(values)}
                   for step, values in self.samples.items()}
        return {
            "healthy": bool(self.checks) and all(c["ok"] for c in self.checks), "checks": self.checks,
            "failures": [f"{c['name']}: {c['detail']}" for c in self.checks
                         if not c["ok"] and c["name"] not in self.not_run],
            "latency_ms": latency, **self.facts,
        }


def percentile(values, percent):
    """The nearest-rank percentile, rounded to a tenth."""
    ordered = sorted(values)
    return round(ordered[max(0, -(-len(ordered) * percent // 100) - 1)], 1)


def retry(function, transient, seconds=RETRY_SECONDS):
    """Call ``function`` until it succeeds, raises what is not transient, or the time is over.

    Args:
        function: called without arguments.
        transient: whether trying again can help after an exception.
        seconds: how long to try.

    Returns:
        What ``function`` returns.
    """
    deadline, pause = time.monotonic() + seconds, 0.2
    while True:
        try:
            return function()
        except Exception as error:
            if not transient(error) or time.monotonic() + pause > deadline:
                raise
        time.sleep(pause)
        pause = min(2 * pause, 1.5)


def not_run(reason):
    """The report of a probe that could not run, which is not ok."""
    checks = Checks()

    def refuse():
        raise RuntimeError(reason)

    checks.run(NOT_RUN, refuse)
    return checks.report()


def kept_from_running(failures):
    """Whether failures say that probes could not run, and nothing about what they measure."""
    return bool(failures) and all(failure.startswith(f"{NOT_RUN}: ") for failure in failures)


def measure(module, parameters):
    """Run one probe in this process.

    Args:
        module: a module that has a function ``probe(checks, parameters)``, or the name of one in module_utils/probes,
            or the full name of any other.
        parameters: of that probe; see its docstring.

    Returns:
        The probe's report.
    """
    checks = Checks()
    try:
        if isinstance(module, str):
            module = importlib.import_module(module if "." in module else PROBES + module)
        module.probe(checks, dict(parameters))
    except Exception as error:
        return not_run(" ".join(str(error).split()) or type(error).__name__)
    return checks.report()


def measure_all(parameters):
    """Run several probes side by side.

    Args:
        parameters: ``probes``, a list of mappings with name, module and parameters, and ``timeout``, seconds for all of
            them.

    Returns:
        For each probe's name its report; of one that did not end in time, one that is not ok.
    """
    reports, deadline = {}, time.monotonic() + parameters["timeout"]

    def work(probe):
        reports[probe["name"]] = measure(probe["module"], probe["parameters"])

    threads = {probe["name"]: threading.Thread(target=work, args=(probe,), daemon=True)
               for probe in parameters["probes"]}
    for thread in threads.values():
        thread.start()
    for thread in threads.values():
        thread.join(max(0, deadline - time.monotonic()))
    late = not_run(f"it did not end within {parameters['timeout']:.0f} s")
    # A copy: a thread that is late may still be writing.
    return json.loads(json.dumps({name: reports.get(name, late) for name in threads}))
