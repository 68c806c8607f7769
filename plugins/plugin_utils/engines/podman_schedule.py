# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""CronJobs on one machine: the script that runs one, and what starts it: a systemd timer, or where no systemd runs a
crontab entry."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines import EngineError
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines.podman_frame import script
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines.podman_spec import Pod, POD_NAME
from ansible_collections.mlops.mlflow.plugins.plugin_utils.manifests import Ref

FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day of the month", 1, 31), ("month", 1, 12), ("day of the week", 0, 6))
MACROS = {"@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *", "@monthly": "0 0 1 * *", "@weekly": "0 0 * * 0",
          "@daily": "0 0 * * *",
          "@midnight": "0 0 * * *", "@hourly": "0 * * * *"}
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
ITEM = re.compile(r"(\*|\?|[a-z0-9]+)(?:-([a-z0-9]+))?(?:/([0-9]+))?")

SERVICE = """\
[Unit]
Description=mlops.mlflow: CronJob {name} in {namespace}
After=mlops-mlflow-{namespace}.service

[Service]
Type=oneshot
KillMode=process
ExecStart={run}
"""
TIMER = """\
[Unit]
Description=mlops.mlflow: schedule of CronJob {name} in {namespace}

[Timer]
{calendar}
AccuracySec=1s

[Install]
WantedBy=timers.target
"""


@dataclass(frozen=True)
class Schedule:
    """When a CronJob runs, as Kubernetes reads its schedule.

    Attributes:
        values: for minute, hour, day of the month, month and day of the week (0 is Sunday) the numbers that the
            schedule has.
        any_day: for day of the month and day of the week, whether the field begins with an asterisk. Where neither
            does, a day that fits either one fits (crontab(5)).
    """

    values: tuple[tuple[int, ...], ...]
    any_day: tuple[bool, bool]

    def calendars(self, zone: str) -> list[str]:
        """The expressions of systemd.time(7) that mean the same together."""
        minute, hour, day, month, weekday = (
            "*" if len(numbers) == high - low + 1 else ",".join(f"{n:02d}" for n in numbers)
            for numbers, (_name, low, high) in zip(self.values, FIELDS))
        weekdays = "" if weekday == "*" else ",".join(DAYS[n].capitalize() for n in self.values[4]) + " "
        moment = f"{hour}:{minute}:00{' ' + zone if zone else ''}"
        if weekdays and day != "*" and not any(self.any_day):
            return [f"*-{month}-{day} {moment}", f"{weekdays}*-{month}-* {moment}"]
        return [f"{weekdays}*-{month}-{day} {moment}"]

    def due_function(self) -> str:
        """A shell function ``is_due "MINUTE HOUR DAY MONTH WEEKDAY"``."""
        tests = ["case ${} in {}) ;; *) {{}} ;; esac".format(index, "|".join(map(str, numbers)))
                 for index, numbers in enumerate(self.values, start=1)]
        minute, hour, day, month, weekday = tests
        lines = [test.format("return 1") for test in (minute, hour, month)]
        if any(self.any_day):
            lines += [day.format("return 1"), weekday.format("return 1")]
        else:
            lines += ["day=yes", day.format("day=no"), weekday.format("[ $day = yes ] || return 1")]
        body = "\n    ".join(["# shellcheck disable=SC2086", "set -- $1", *lines])
        return f"is_due() {{\n    {body}\n}}\n"


def parse(schedule: str, what: str = "CronJob") -> Schedule:
    """A schedule in the form of crontab(5), with Kubernetes' macros and names.

    Raises:
        EngineError: it is malformed, with the field that is.
    """
    fields = MACROS.get(schedule.strip().lower(), schedule).lower().split()
    if len(fields) != len(FIELDS):
        raise EngineError(f"{what} has the schedule {schedule!r}; it must have five fields (minute, hour, day of the "
                          "month, month, day of the "
                          f"week), or be one of {', '.join(MACROS)}.")
    values = []
    for text, (name, low, high) in zip(fields, FIELDS):
        numbers: set[int] = set()
        for item in text.split(","):
            numbers.update(_numbers(item, name, low, high,
                                    f"{what} has the schedule {schedule!r}, whose {name} is {text!r}"))
        values.append(tuple(sorted(numbers)))
    return Schedule(tuple(values), (fields[2][0] in "*?", fields[4][0] in "*?"))


def _numbers(item: str, name: str, low: int, high: int, complaint: str) -> set[int]:
    """What one item of a field's list stands for."""
    match = ITEM.fullmatch(item)
    names = {"month": MONTHS, "day of the week": DAYS}.get(name, ())

    def number(text: str) -> int:
        value = names.index(text) + low if text in names else int(text) if text.isdigit() else -1
        if not low <= value <= high + (name == "day of the week"):  # 7 is Sunday too
            raise EngineError(f"{complaint}; it must be between {low} and {high}.")
        return value

    if match is None:
        raise EngineError(f"{complaint}; it must be numbers, ranges and steps, such as 1,10-20,*/5.")
    first, last, step = match.groups()
    if first in "*?":
        begin, end = low, high
    else:
        begin = number(first)
        end = number(last) if last else high if step else begin
    if end < begin or step == "0":
        raise EngineError(f"{complaint}; a range must not end before it begins, and a step must be at least 1.")
    found = range(begin, end + 1, int(step or 1))
    return {n % 7 for n in found} if name == "day of the week" else set(found)


def run_script(cron_job: dict, pod: Pod, schedule: Schedule) -> str:
    """The script that runs the CronJob once.

    Args:
        cron_job: the manifest.
        pod: its pod, translated with POD_NAME in the place of its name.
        schedule: when it runs.
    """
    ref, spec = Ref.of(cron_job), cron_job["spec"]
    variables = {
        "namespace": ref.namespace,
        "workload": f"{ref.kind}/{ref.name}",
        "name": pod.hostname,
        "backoff_limit": spec["jobTemplate"]["spec"].get("backoffLimit", 6),
        "succeeded_limit": spec.get("successfulJobsHistoryLimit", 3),
        "failed_limit": spec.get("failedJobsHistoryLimit", 1),
    }
    folders = [["mkdir", "-p", *pod.scratch], ["chmod", "1777", *pod.scratch]] if pod.scratch else []
    commands = [*folders, *pod.commands()]
    create = " &&\n    ".join(" ".join(_quoted(part) for part in command) for command in commands)
    head = "".join(f"{name}={_quoted(str(value))}\n" for name, value in variables.items())
    return (f"#!/bin/sh\n{head}create_pod() "
            f"{{\n    pod=$1\n    {create}\n}}\n{schedule.due_function()}{script('cronjob.sh', comments=True)}")


def _quoted(part: str) -> str:
    """An argument for the shell, in which the pod's name is that of the run."""
    return "'" + part.replace("'", "'\"'\"'").replace(POD_NAME, "'\"$pod\"'") + "'"


def units(ref: Ref, run: str, schedule: Schedule, zone: str) -> dict[str, str]:
    """The systemd units of a CronJob: text by file name, the timer last."""
    names = {"name": ref.name, "namespace": ref.namespace, "run": run}
    calendar = "\n".join(f"OnCalendar={expression}" for expression in schedule.calendars(zone))
    unit = unit_name(ref)
    return {f"{unit}.service": SERVICE.format(**names), f"{unit}.timer": TIMER.format(**names, calendar=calendar)}


def unit_name(ref: Ref) -> str:
    """Name of a CronJob's systemd units without the suffix."""
    return f"mlops-mlflow-{ref.namespace}-{ref.name}"


def crontab_line(cron_job: dict, run: str) -> str:
    """The crontab entry of a CronJob.

    Debian's cron knows no time zones, and daylight saving moves the machine's own. Where the CronJob names a zone, cron
    therefore starts the script every minute, and the script looks whether it is due there.
    """
    zone = cron_job["spec"].get("timeZone")
    if zone:
        return f"* * * * * {run} due {zone} >/dev/null 2>&1"
    text = MACROS.get(cron_job["spec"]["schedule"].strip().lower(), cron_job["spec"]["schedule"])
    return f"{' '.join(text.replace('?', '*').split())} {run} now >/dev/null 2>&1"


def digest(*texts: str) -> str:
    """What scripts/survey.sh computes of a CronJob's files."""
    return hashlib.sha256("".join(texts).encode()).hexdigest()


def unsupported_reason(cron_job: dict) -> str:
    """Why one machine cannot run a CronJob as it is written; empty when it can."""
    policy = cron_job["spec"].get("concurrencyPolicy", "Allow")
    if policy == "Replace":
        return "on one machine a run waits for its predecessor's end (concurrencyPolicy: Forbid), and is never replaced"
    return ""
