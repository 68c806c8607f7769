# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every query of every dashboard has data in the Prometheus of a live instance, and its overview shows figures.

usage: dashboards.py URL NAMESPACE INSTANCE < what the lookup mlops.mlflow.dashboards returns, as JSON
"""

from __future__ import annotations

import json
import sys
import time
import urllib.parse
import urllib.request

from chromium import Chromium

PATIENCE = 90
"""Seconds: two scrapes make a rate, and the long windows of service levels are computed every two minutes."""
EMPTY = {
    # What is well has none of these.
    "Failed requests by route", "Refused requests by route", "Exceptions",
    # An instance without backups, logins, TLS or a large artifact.
    "Age of backups", "Users", "Certificate valid for", "Speed of large uploads", "Use of volumes",
}
"""Panels that an instance as the tests deploy it may have no data for; tests/unit/monitoring/test_dashboards.py has
data for all."""


def main(url: str, namespace: str, instance: str) -> str:
    """What is wrong, as text, or nothing."""
    values = {"$namespace": namespace, "$instance_name": instance, "$__rate_interval": "1m"}
    left = {}
    for dashboard in json.load(sys.stdin):
        for panel in json.loads(dashboard["json"])["panels"]:
            for target in panel.get("targets", []):
                query = target["expr"]
                for variable, value in values.items():
                    query = query.replace(variable, value)
                left[dashboard["name"], panel["title"], target["refId"]] = query
    deadline = time.monotonic() + PATIENCE
    while left and time.monotonic() < deadline:
        left = {key: query for key, query in left.items() if not answered(url, query)}
        if not {title for _name, title, _target in left} - EMPTY:
            break
        time.sleep(2)
    print("without data, which is fine:", sorted({title for _name, title, _target in left} & EMPTY))
    missing = [f"{name}: {title}: {query}" for (name, title, _target), query in left.items() if title not in EMPTY]
    return "\n".join(missing) or overview(url, namespace, instance)


def answered(url: str, query: str) -> list:
    """The result of a query; one that Prometheus refuses raises HTTPError."""
    address = f"{url}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    with urllib.request.urlopen(address, timeout=30) as answer:
        return json.load(answer)["data"]["result"]


def overview(url: str, namespace: str, instance: str) -> str:
    """What is wrong with the page in a browser, or nothing."""
    browser = Chromium(None, None, "prometheus.invalid", "127.0.0.1")
    try:
        words = (f"MLflow {instance}", f"namespace {namespace}", "Updated at")
        text = browser.read(f"{url}/consoles/overview.html", *words)
        tiles = browser.call("Runtime.evaluate", returnByValue=True, expression=(
            "JSON.stringify([...document.querySelectorAll('.tile')].map(tile => tile.innerText.split('\\n')))"))
    finally:
        browser.close()
    figures = {title: values for title, *values in json.loads(tiles["result"]["value"])}
    if figures.get("Server pods up") in (None, ["0"], ["–"]) or "NaN" in text or "undefined" in text:
        return f"the overview shows {figures}"
    print("the overview shows", figures)
    return ""


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]) or 0)
