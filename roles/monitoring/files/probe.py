# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The probe of the monitoring: metrics are there and collected, rules are evaluated, and which alerts fire."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request

from ansible_collections.mlops.mlflow.plugins.module_utils.checks import retry

TIMEOUT = 10


def probe(checks, parameters):
    """Ask for the metrics, and where the collection runs Prometheus, for its targets, rules and alerts.

    Args:
        checks: collects the results; with Prometheus, the facts targets (number of those that are up) and firing (name,
            severity, since and summary of each alert).
        parameters: metrics (URLs by job); with the collection's own Prometheus also prometheus (its URL), jobs that
            have targets, rules (number of groups), and patience (seconds in which each target is scraped); with its own
            Grafana also grafana (its URL).
    """
    for job, url in parameters["metrics"].items():
        checks.run(f"metrics of {job}", lambda url=url: _metrics(url))
    if parameters.get("grafana"):
        checks.run("Grafana", lambda: _grafana(parameters["grafana"]))
    base = parameters.get("prometheus")
    if not base:
        return
    checks.run("targets", lambda: _targets(checks, base, parameters["jobs"], parameters["patience"]))
    checks.run("rules", lambda: _rules(base, parameters["rules"]))
    checks.run("alerts", lambda: _alerts(checks, base))


def _metrics(url):
    if "\nmlflow_" not in "\n" + _get(url):
        raise RuntimeError(f"{url} has no metric of MLflow")


def _grafana(base):
    health = json.loads(_get(f"{base}/api/health"))
    if health.get("database") != "ok":
        raise RuntimeError(f"the health of Grafana is {health}")
    return f"version {health.get('version')}"


def _targets(checks, base, jobs, patience):
    """Wait until each job has targets and all are up, since after a change they are scraped at the next interval."""
    end = time.monotonic() + patience
    while True:
        targets = _api(base, "targets?state=active")["activeTargets"]
        down = [f"{target['labels']['job']} {target['labels']['instance']}: {target['lastError'] or 'not scraped yet'}"
                for target in targets if target["health"] != "up"]
        found = {target["labels"]["job"] for target in targets}
        down += [f"{job} has no target" for job in jobs if job not in found]
        if not down or time.monotonic() > end:
            break
        time.sleep(1)
    checks.facts["targets"] = f"{sum(target['health'] == 'up' for target in targets)} of {len(targets)}"
    if down:
        raise RuntimeError("; ".join(down))


def _rules(base, number):
    groups = _api(base, "rules")["groups"]
    failed = [f"{rule['name']}: {rule['lastError']}" for group in groups for rule in group["rules"]
              if rule.get("lastError")]
    if failed:
        raise RuntimeError("; ".join(failed))
    if len(groups) != number:
        raise RuntimeError(f"Prometheus has {len(groups)} groups of rules instead of {number}")


def _alerts(checks, base):
    checks.facts["firing"] = [
        {"name": alert["labels"]["alertname"], "severity": alert["labels"].get("severity", ""),
         "since": alert["activeAt"][:19] + "Z", "summary": alert["annotations"].get("summary", "")}
        for alert in _api(base, "alerts")["alerts"] if alert["state"] == "firing"]


def _api(base, path):
    return json.loads(_get(f"{base}/api/v1/{path}"))["data"]


def _get(url):
    """The text at a URL; a Service that was just made may lead nowhere for seconds."""
    # No proxy of the environment leads to the instance's own pods.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def text():
        with opener.open(url, timeout=TIMEOUT) as response:
            return response.read().decode()

    def transient(error):
        return isinstance(error, urllib.error.URLError) and not isinstance(error, urllib.error.HTTPError)

    return retry(text, transient)
