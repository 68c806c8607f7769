# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs promtool, and writes series in its notation."""

from __future__ import annotations

import pathlib
import subprocess

import yaml
from ansible_collections.mlops.mlflow.plugins.plugin_utils.monitoring import metrics

NAMESPACE, INSTANCE = "team-a", "mlflow"
MINUTES = 500
"""Length of the series."""


def check(path: pathlib.Path, content: dict) -> None:
    """Check a rule file, with all lints."""
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    run("check", "rules", "--lint=all", "--lint-fatal", str(path))


def test(folder: pathlib.Path, rules: dict, tests: list[dict]) -> None:
    """Run rule tests; the message of a failure is that of promtool."""
    (folder / "rules.yml").write_text(yaml.safe_dump(rules, sort_keys=False), encoding="utf-8")
    content = {"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": tests}
    (folder / "test.yml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    run("test", "rules", str(folder / "test.yml"))


def run(*arguments: str) -> str:
    """Output of promtool."""
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def series(name: str, **labels: str) -> str:
    """A series of the instance; its metric must be in the list."""
    metric = metrics.BY_SERIES[name]
    assert set(labels) - {"le", "pod"} <= set(metric.labels), (name, labels)
    own = {"namespace": NAMESPACE, **({"instance_name": INSTANCE} if metric.source != "kubelet" else {})}
    return f"{name}{{{','.join(f'{key}={value!r}' for key, value in {**own, **labels}.items())}}}".replace("'", '"')


def constant(value: float, minutes: int = MINUTES) -> str:
    """The same value each minute."""
    return f"{value}+0x{minutes}"


def rising(per_minute: float, minutes: int = MINUTES) -> str:
    """A counter."""
    return f"0+{per_minute}x{minutes}"


def requests(route: str, per_minute: float, seconds: float = 0.05, *, method: str = "GET", status: str = "200",
             size: float = 0, minutes: int = MINUTES) -> dict[str, str]:
    """Series of requests that take the same time.

    Args:
        route: its template.
        per_minute: number of requests.
        seconds: duration of each.
        method, status: their labels.
        size: bytes of each body.
        minutes: how long there are requests; none follow.
    """
    labels = {"method": method, "route": route, "status": status}
    name = "mlflow_http_request_duration_seconds"

    def counter(each: float) -> str:
        rise = each * per_minute
        return rising(rise, minutes) + (f" {rise * minutes}+0x{MINUTES - minutes}" if minutes < MINUTES else "")

    made = {series("mlflow_http_request_total", **labels): counter(1), series(f"{name}_count", **labels): counter(1),
            series(f"{name}_sum", **labels): counter(seconds)}
    for bound in (*metrics.DURATION_BUCKETS, float("inf")):
        le = "+Inf" if bound == float("inf") else f"{bound:g}"
        made[series(f"{name}_bucket", **labels, le=le)] = counter(1 if seconds <= bound else 0)
    if size:
        made[series("mlflow_http_request_bytes_total", method=method, route=route)] = counter(size)
    return made
