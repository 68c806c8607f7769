# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A CronJob's schedule means the same to systemd, to cron and to the script that looks whether it is due."""

from __future__ import annotations

import copy
import datetime
import os
import pathlib
import shutil
import subprocess

import pytest
from ansible_collections.mlops.mlflow.plugins.plugin_utils import engines
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines import podman_frame, podman_schedule, podman_spec
from ansible_collections.mlops.mlflow.plugins.plugin_utils.manifests import Ref

SCHEDULES = {
    "17 3 * * *": ["*-*-* 03:17:00 Etc/UTC"],
    "*/20 0-2,22 * * *": ["*-*-* 00,01,02,22:00,20,40:00 Etc/UTC"],
    "0 4 1 jan,JUL *": ["*-01,07-01 04:00:00 Etc/UTC"],
    "30 5 * * mon-fri": ["Mon,Tue,Wed,Thu,Fri *-*-* 05:30:00 Etc/UTC"],
    "30 5 * * 5-7": ["Sun,Fri,Sat *-*-* 05:30:00 Etc/UTC"],
    "0 0 13 * 5": ["*-*-13 00:00:00 Etc/UTC", "Fri *-*-* 00:00:00 Etc/UTC"],
    "0 0 */2 * 5": ["Fri *-*-01,03,05,07,09,11,13,15,17,19,21,23,25,27,29,31 00:00:00 Etc/UTC"],
    "5/30 * ? * *": ["*-*-* *:05,35:00 Etc/UTC"],
    "@weekly": ["Sun *-*-* 00:00:00 Etc/UTC"],
}
REF = Ref("batch", "CronJob", "team", "gc")
CRON_JOB = {
    "apiVersion": "batch/v1",
    "kind": "CronJob",
    "metadata": {"name": "gc", "namespace": "team", "labels": {}},
    "spec": {
        "schedule": "*/5 * * * *",
        "timeZone": "Etc/UTC",
        "concurrencyPolicy": "Forbid",
        "successfulJobsHistoryLimit": 1,
        "failedJobsHistoryLimit": 2,
        "jobTemplate": {
            "spec": {
                "backoffLimit": 1,
                "template": {
                    "metadata": {"labels": {}},
                    "spec": {
                        "restartPolicy": "Never",
                        "volumes": [{"name": "tmp", "emptyDir": {}}],
                        "containers": [
                            {
                                "name": "gc",
                                "image": "image:1",
                                "command": ["sh", "-c", "echo 'it''s' $HOME \"@pod\""],
                                "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
                            }
                        ],
                    },
                },
            }
        },
    },
}


@pytest.mark.parametrize("schedule, expected", SCHEDULES.items())
def test_systemd_has_the_same_moments(schedule, expected):
    assert podman_schedule.parse(schedule).calendars("Etc/UTC") == expected
    if shutil.which("systemd-analyze"):
        for expression in expected:
            subprocess.run(["systemd-analyze", "calendar", expression], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("schedule, due, not_due", [
    ("17 3 * * *", ["17 3 1 1 0"], ["16 3 1 1 0", "17 4 1 1 0"]),
    ("0 0 13 * 5", ["0 0 13 6 2", "0 0 2 6 5"], ["0 0 12 6 2"]),
    ("0 0 */2 * 5", ["0 0 13 6 5"], ["0 0 13 6 2", "0 0 2 6 5"]),
    ("30 5 * * 7", ["30 5 4 4 0"], ["30 5 4 4 1"]),
    ("0 4 1 jan *", ["0 4 1 1 3"], ["0 4 1 2 3", "0 4 2 1 3", "0 4 11 1 3"]),
])
def test_the_script_is_due_when_the_schedule_is(schedule, due, not_due):
    function = podman_schedule.parse(schedule).due_function()

    def is_due(moment: str) -> bool:
        return not subprocess.run(["sh", "-c", f'{function}\nis_due "$1"', "sh", moment], check=False).returncode

    assert all(map(is_due, due)) and not any(map(is_due, not_due))


@pytest.mark.parametrize("schedule, words", [
    ("* * * *", "must have five fields"), ("@reboot", "must have five fields"),
    ("60 * * * *", "minute is '60'; it must be between 0 and 59"),
    ("* 5-3 * * *", "must not end before it begins"), ("*/0 * * * *", "a step must be at least 1"),
    ("* * 0 * *", "between 1 and 31"),
    ("* * * foo *", "between 1 and 12"), ("1;2 * * * *", "numbers, ranges and steps"),
])
def test_a_malformed_schedule_is_refused(schedule, words):
    with pytest.raises(engines.EngineError, match=words):
        podman_schedule.parse(schedule, "CronJob gc")


def test_cron_runs_the_script_every_minute_for_a_time_zone_and_keeps_the_schedule_otherwise():
    schedule = podman_schedule.parse("*/5 * ? * *")
    assert podman_schedule.crontab_line(CRON_JOB, "/run") == "* * * * * /run due Etc/UTC >/dev/null 2>&1"
    local = {**CRON_JOB, "spec": {**CRON_JOB["spec"], "schedule": "*/5 * ? * *", "timeZone": None}}
    assert podman_schedule.crontab_line(local, "/run") == "*/5 * * * * /run now >/dev/null 2>&1"


@pytest.fixture(name="machine")
def fixture_machine(tmp_path):
    return Machine(tmp_path)


class Machine:
    """The script of a CronJob where `podman` is a program that keeps its containers as files."""

    PODMAN = r"""#!/bin/sh
echo "$@" >>$LOG
case "$1 $2" in
"create "*) while [ "$1" != --name ]; do shift; done; echo "$CODES" >$STORE/$2 ;;
"pod start") [ "$PODMAN_FAILS" != start ] ;;
"pod rm") rm -f $STORE/$4-* ;;
"ps --all") for f in $STORE/*-gc; do [ -e "$f" ] || continue; n=${f##*/}; echo "${n%-gc} $(cut -d' ' -f1 $f) $n"; done
;; "wait "*) cut -d' ' -f1 $STORE/$2 ;;
"start "*) cut -d' ' -f2- $STORE/$2 >$STORE/.new && mv $STORE/.new $STORE/$2 ;;
esac
"""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder, self.log = folder, folder / "log"
        self.script = folder / "state" / "team" / "cronjobs" / "gc" / "run"
        scope = engines.Scope("team", "mlflow")
        context = podman_spec.Context(scope=scope, services=[], configmaps="/c", scratch=f"{folder}/state/team/scratch",
                                      hosts="/h", secret_keys={},
                                      controllers=set(), healthchecks=False)
        pod = podman_spec.cron_job_pod(copy.deepcopy(CRON_JOB), context)
        pod.address = "10.0.0.5"
        self.script.parent.mkdir(parents=True)
        self.script.write_text(podman_schedule.run_script(CRON_JOB, pod, podman_schedule.parse("*/5 * * * *")))
        self.script.chmod(0o755)
        for name, text in {"podman": self.PODMAN, "sleep": "#!/bin/sh\n"}.items():
            path = folder / "bin" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            path.chmod(0o755)
        (folder / "store").mkdir()

    def run(self, *arguments: str, codes: str = "0", **environment: str) -> int:
        variables = {"PATH": f"{self.folder}/bin:{os.environ['PATH']}", "LOG": str(self.log),
                     "STORE": str(self.folder / "store"), "CODES": codes}
        return subprocess.run([self.script, *arguments], env={**variables, **environment}, check=False).returncode

    def pods(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "store").iterdir())

    def earlier(self, moment: str, code: int) -> str:
        name = f"gc-{moment}-gc"
        (self.folder / "store" / name).write_text(f"{code}\n")
        return name


def test_the_script_is_a_shell_script(machine):
    subprocess.run(["shellcheck", "--exclude=SC2154", machine.script], check=True)


def test_a_run_makes_a_pod_with_the_time_in_its_name(machine):
    assert machine.run("now") == 0
    (pod,) = machine.pods()
    made = datetime.datetime.strptime(pod, "gc-%Y%m%d%H%M%S-gc").replace(tzinfo=datetime.timezone.utc)
    assert abs((datetime.datetime.now(datetime.timezone.utc) - made).total_seconds()) < 60
    log = machine.log.read_text()
    assert "--ip 10.0.0.5 --mac-address 02:00:0a:00:00:05" in log
    assert f"scratch/{pod.removesuffix('-gc')}/tmp:/tmp" in log
    assert podman_spec.POD_NAME not in log
    assert """["sh", "-c", "echo 'it''s' $HOME \\"@pod\\""]""" in log, "the manifest's own quotes reach the container"


def test_a_failed_run_is_tried_again_as_often_as_the_job_says(machine):
    assert machine.run("now", codes="1 0") == 0
    assert machine.run("now", codes="3 4") == 4


def test_old_runs_go_and_as_many_as_the_limits_say_stay(machine):
    machine.earlier("20250101000000", 0)
    kept = [machine.earlier("20250102000000", 2), machine.earlier("20250103000000", 2)]
    machine.earlier("20250101120000", 2)
    assert machine.run("now") == 0
    assert set(kept) < set(machine.pods()) and len(machine.pods()) == 3


def test_a_run_that_overlaps_is_left_out(machine):
    lock = machine.script.parent / ".lock"
    with subprocess.Popen(["flock", str(lock), "cat"], stdin=subprocess.PIPE) as holder:
        while subprocess.run(["flock", "-n", str(lock), "true"], check=False).returncode == 0:
            pass
        assert machine.run("now") == 0 and not machine.pods()
        holder.stdin.close()
    assert machine.run("now") == 0 and machine.pods()


def test_due_follows_the_time_zone(machine):
    """The script is due every five minutes; half the zones' clocks differ by hours only, so a date of our own
    decides."""
    date = machine.folder / "bin" / "date"
    date.write_text('#!/bin/sh\ncase "$TZ $1" in "Etc/UTC +%-M"*) echo "5 0 1 1 0";; "Other +%-M"*) echo "6 0 1 1 '
                    '0";; *) exec /bin/date "$@";; esac\n')
    date.chmod(0o755)
    assert machine.run("due", "Other") == 0 and not machine.pods()
    assert machine.run("due", "Etc/UTC") == 0 and machine.pods()


def test_the_units_are_ones_that_systemd_reads(tmp_path):
    run = tmp_path / "run"
    run.write_text("#!/bin/sh\n")
    run.chmod(0o755)
    units = podman_schedule.units(REF, str(run), podman_schedule.parse("0 0 13 * 5"), "Etc/UTC")
    assert list(units) == ["mlops-mlflow-team-gc.service", "mlops-mlflow-team-gc.timer"]
    for name, text in units.items():
        (tmp_path / name).write_text(text)
    if shutil.which("systemd-analyze"):
        done = subprocess.run(["systemd-analyze", "verify", "--man=no", *(str(tmp_path / name) for name in units)],
                              stderr=subprocess.PIPE,
                              text=True, check=False)
        assert not [line for line in done.stderr.splitlines() if "mlops-mlflow-team-gc" in line], done.stderr


def test_the_crontab_keeps_what_is_not_ours(tmp_path):
    crontab = tmp_path / "crontab"
    crontab.write_text(f'#!/bin/sh\ncase $1 in -l) cat {tmp_path}/table 2>/dev/null;; -) cat >{tmp_path}/new && mv '
                       f'{tmp_path}/new {tmp_path}/table;; esac\n')
    crontab.chmod(0o755)
    (tmp_path / "table").write_text("0 1 * * * backup\n* * * * * /s/team/cronjobs/gc-2/run now >/dev/null 2>&1\n")

    def edit(*arguments: str) -> list[str]:
        subprocess.run(["sh", "-c", podman_frame.script("crontab.sh"), "crontab.sh", "/s/team/cronjobs/gc/run",
                        *arguments], check=True,
                       env={"PATH": f"{tmp_path}:{os.environ['PATH']}"})
        return (tmp_path / "table").read_text().splitlines()

    before = (tmp_path / "table").read_text().splitlines()
    first = "* * * * * /s/team/cronjobs/gc/run due A >/dev/null 2>&1"
    second = "1 * * * * /s/team/cronjobs/gc/run now >/dev/null 2>&1"
    assert edit(first) == [*before, first]
    assert edit(second) == [*before, second]
    assert edit() == before
