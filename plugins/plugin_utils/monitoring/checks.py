# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Checks of the variables that change the alerts of an instance. Each yields one sentence for each problem."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ansible_collections.mlops.mlflow.plugins.plugin_utils.monitoring import metrics, rules

DURATION = re.compile(r"0|(?=.)([0-9]+y)?([0-9]+w)?([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?")
"""Source: https://prometheus.io/docs/prometheus/latest/querying/basics/#float-literals-and-time-durations"""
LONGEST_DURATION = 40
"""Characters; longer ones are no number of seconds that Prometheus can hold."""
NAMES = tuple(rules.alert_names(rules.Settings("namespace", "instance", backups=True)))
LEAST_OBJECTIVE = 0.9
"""Below it, not even a budget burning six times too fast is possible: 6 * (1 - 0.8) is more than all requests."""
SLOWEST = metrics.DURATION_BUCKETS[-1]
CHANGES = {"enabled": bool, "for": str, "keep_firing_for": str}
ALERT_KEYS = ("alert", "expr", "for", "keep_firing_for", "labels", "annotations")
RECORD_KEYS = ("record", "expr", "labels")
"""Source: https://prometheus.io/docs/prometheus/latest/configuration/recording_rules/#rule"""
METRIC = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")
OF_INSTANCE = ("namespace", "instance_name")
QUOTED = re.compile(r'"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\'|`[^`]*`')
COMMENT = re.compile(r"#.*")
CLOSING = {")": "(", "]": "[", "}": "{"}


def thresholds(given: rules.Thresholds) -> Iterator[str]:
    """Thresholds that no value can reach, or that any reaches."""
    name = "monitoring_alert_thresholds"
    for key in ("error_ratio", "connections_ratio", "volume_ratio", "volume_critical_ratio"):
        if not 0 < getattr(given, key) < 1:
            yield f"{name}.{key} is {getattr(given, key)}; it must be a fraction between 0 and 1, such as 0.8."
    if not 0 < given.latency_seconds < SLOWEST:
        yield (f"{name}.latency_seconds is {given.latency_seconds}; it must be more than 0 and less than {SLOWEST}, "
               "the longest duration that is told apart.")
    if given.minimum_requests < 0:
        yield f"{name}.minimum_requests is {given.minimum_requests}; it must be 0 or more."
    for key, least in (("volume_full_hours", 0), ("certificate_critical_days", 0), ("backup_verified_days", 0),
                       ("backup_late_factor", 1)):
        if getattr(given, key) <= least:
            yield f"{name}.{key} is {getattr(given, key)}; it must be more than {least}."
    for key, more in (("volume_critical_ratio", given.volume_critical_ratio > given.volume_ratio),
                      ("certificate_critical_days", given.certificate_critical_days < given.certificate_days)):
        warning = key.replace("critical_", "")
        if not more:
            yield (f"{name}.{key} is {getattr(given, key)} while {warning} is {getattr(given, warning)}; the critical "
                   "alert must come after the warning.")


def objectives(given: rules.Objectives) -> Iterator[str]:
    """Objectives without an error budget, or that no burn rate can miss, and durations that are not measured."""
    name = "monitoring_objectives"
    for key in ("api_availability", "api_latency", "upload_availability", "upload_speed", "ui_latency",
                "database_latency"):
        value = getattr(given, key)
        if not LEAST_OBJECTIVE <= value < 1:
            yield f"{name}.{key} is {value}; it must be a fraction from {LEAST_OBJECTIVE} to below 1, such as 0.995."
    for key in ("api_seconds", "ui_seconds"):
        value = getattr(given, key)
        if value not in metrics.DURATION_BUCKETS:
            yield (f"{name}.{key} is {value}; it must be a bucket of the histogram of durations: "
                   f"{', '.join(f'{bound:g}' for bound in metrics.DURATION_BUCKETS)}.")
    for key in ("upload_mb_per_second", "upload_large_mb", "database_seconds"):
        if getattr(given, key) <= 0:
            yield f"{name}.{key} is {getattr(given, key)}; it must be more than 0."


def changes(given: Mapping[str, Any]) -> Iterator[str]:
    """Entries of monitoring_alerts that are no alerts, or change what an alert does not have."""
    for alert, change in given.items():
        name = f"monitoring_alerts.{alert}"
        if alert not in NAMES:
            near = difflib.get_close_matches(alert, NAMES, n=1)
            yield (f"monitoring_alerts has the key {alert}, which is no alert of the collection; "
                   f"{f'use {near[0]}' if near else 'docs/runbooks.md lists them'}.")
        elif not isinstance(change, dict) or not change:
            yield f"{name} is no mapping; give one of {', '.join(CHANGES)}."
        else:
            yield from _change(name, change)


def _change(name: str, change: dict) -> Iterator[str]:
    for key, value in change.items():
        if key not in CHANGES:
            yield f"{name} has the key {key}, which does not exist; it may have {', '.join(CHANGES)}."
        elif key == "enabled" and not isinstance(value, bool):
            yield f"{name}.enabled must be true or false."
        elif key != "enabled":
            yield from duration(f"{name}.{key}", value)


def duration(name: str, value: Any, least: str = "") -> Iterator[str]:
    """What a duration must be.

    Args:
        name: of the variable.
        value: of it.
        least: what it must not be zero for, or empty where it may.
    """
    if not isinstance(value, str) or len(value) > LONGEST_DURATION or not DURATION.fullmatch(value):
        yield f"{name} must be a duration of Prometheus, such as 30s, 10m or 1h30m."
    elif least and not re.search("[1-9]", value):
        yield f"{name} is {value}; it must be more than 0, {least}."


def extra_rules(given: list[dict]) -> Iterator[str]:
    """Rules that Prometheus does not take, or that take a name of the collection."""
    for number, rule in enumerate(given):
        name = f"monitoring_rules_extra[{number}]"
        kinds = [key for key in ("alert", "record") if key in rule]
        if len(kinds) != 1:
            yield f"{name} has {'both alert and' if kinds else 'neither alert nor'} record; give one of them."
            continue
        allowed = ALERT_KEYS if kinds == ["alert"] else RECORD_KEYS
        unknown = sorted(str(key) for key in rule if key not in allowed)
        if unknown:
            yield f"{name} has the key {unknown[0]}, which does not exist; it may have {', '.join(allowed)}."
            continue
        yield from _name_of_rule(name, kinds[0], rule[kinds[0]])
        yield from _expression(f"{name}.expr", rule.get("expr"))
        for key in ("for", "keep_firing_for"):
            if key in rule:
                yield from duration(f"{name}.{key}", rule[key])
        for key in ("labels", "annotations"):
            yield from _texts(f"{name}.{key}", rule.get(key, {}))


def _name_of_rule(name: str, kind: str, value: Any) -> Iterator[str]:
    if not isinstance(value, str) or not value or kind == "record" and not METRIC.fullmatch(value):
        wanted = "a name of a metric, such as instance_name:mlflow_runs:sum" if kind == "record" else "a name"
        yield f"{name}.{kind} must be {wanted}."
    elif value in NAMES:
        yield f"{name}.alert is {value}, an alert of the collection; change that by monitoring_alerts, or rename yours."
    elif value in metrics.BY_SERIES:
        yield f"{name}.record is {value}, a metric of the collection; choose another name."


def _expression(name: str, value: Any) -> Iterator[str]:
    """What can be seen without a parser of PromQL; Prometheus does not start with what else is wrong."""
    if not isinstance(value, str) or not value.strip():
        yield f"{name} must be an expression of PromQL."
        return
    text = COMMENT.sub("", QUOTED.sub('""', value))
    opened: list[str] = []
    for character in text:
        if character in CLOSING.values():
            opened.append(character)
        elif character in CLOSING and (not opened or opened.pop() != CLOSING[character]):
            yield f"{name} has {character!r} without {CLOSING[character]!r} before it."
            return
    if opened or any(quote in text.replace('""', "") for quote in "\"'`"):
        yield f"{name} has an opening {opened[-1] if opened else 'quote'} that is not closed."


def _texts(name: str, value: Any) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{name} must be a mapping of texts."
        return
    for key, text in value.items():
        if not isinstance(key, str) or not LABEL.fullmatch(key):
            yield f"{name} has the key {key!r}; keys have letters, digits and '_', and begin with a letter."
        elif not isinstance(text, str):
            yield f"{name}.{key} is no text; put it in quotes."
        elif name.endswith("labels") and key in OF_INSTANCE:
            yield f"{name} has the key {key}, which the collection sets; remove it."
