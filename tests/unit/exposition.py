# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A strict parser of Prometheus' text format 0.0.4, and promtool's checks of the same text where it is installed."""

from __future__ import annotations

import math
import re
import shutil
import subprocess

LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"')
SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? ([^ ]+)")
KINDS = ("counter", "gauge", "histogram")


def parse(text: str) -> dict:
    """Values by name and labels: {("up", frozenset({("job", "x")})): 1.0}; promtool checks the text, too.

    Raises:
        AssertionError: as ``samples``.
    """
    values = {(name, frozenset(labels)): value for name, labels, value in samples(text)}
    assert values
    promtool(text)
    return values


def samples(text: str, allowed: tuple[str, ...] = KINDS) -> list[tuple]:
    """Name, labels in their order, and value of each sample.

    Args:
        text: of all metrics.
        allowed: types that metrics may have.

    Raises:
        AssertionError: a line that is none, samples without HELP and TYPE before them, of another family or twice,
            a family that is described twice, a negative counter, a histogram that is none.
    """
    assert not text or text.endswith("\n")
    found, values, kinds, family, kind = [], {}, {}, None, None
    for line in text.splitlines():
        if line.startswith("# HELP "):
            family, kind = line.split(" ")[2], None
            assert family not in kinds and len(line.split(" ", 3)) == 4, line
        elif line.startswith("# TYPE "):
            name, kind = line.split(" ")[2:]
            assert name == family and name not in kinds and kind in allowed, line
            kinds[family] = kind
        else:
            name, labels, value = _sample(line)
            suffixes = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
            assert kind and name in [family + suffix for suffix in suffixes], line
            assert (name, frozenset(labels)) not in values, f"twice: {line}"
            assert kind == "gauge" or value >= 0, line
            values[name, frozenset(labels)] = value
            found.append((name, labels, value))
    for name, kind in kinds.items():
        if kind == "histogram":
            _check_histogram(name, values)
    return found


def _sample(line: str) -> tuple:
    found = SAMPLE.fullmatch(line)
    assert found, line
    name, inside, value = found.groups()
    labels = LABEL.findall(inside or "")
    assert ",".join(f'{label}="{text}"' for label, text in labels) == (inside or ""), line
    assert len({label for label, _text in labels}) == len(labels), line
    return name, tuple(labels), float(value)


def _check_histogram(name: str, values: dict):
    buckets = {}
    for (sample, labels), value in values.items():
        if sample == f"{name}_bucket":
            bound = math.inf if dict(labels)["le"] == "+Inf" else float(dict(labels)["le"])
            series = frozenset(label for label in labels if label[0] != "le")
            buckets.setdefault(series, []).append((bound, value))
    counts = {labels: value for (sample, labels), value in values.items() if sample == f"{name}_count"}
    sums = {labels for sample, labels in values if sample == f"{name}_sum"}
    assert set(buckets) == set(counts) == sums, name
    for series, found in buckets.items():
        assert found == sorted(found) and [value for _bound, value in found] == sorted(v for _b, v in found), series
        assert found[-1] == (math.inf, counts[series]), series


def promtool(text: str):
    """What promtool says against a text, if there is a promtool."""
    program = shutil.which("promtool")
    if program is None:
        print("promtool is not installed: the text is checked by this parser alone")
        return
    done = subprocess.run(
        [program, "check", "metrics"], input=text, capture_output=True, text=True, check=False, timeout=60
    )
    assert not done.returncode and not done.stderr.strip(), done.stdout + done.stderr
