# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The order of adopt.yml, in success and failure. In the place of the actions that change a cluster stand some that
record how they were called, as for upgrade.yml; test_move.py has the steps themselves."""

from __future__ import annotations

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "model"))
from test_upgrade_playbook import play  # noqa: E402 pylint: disable=wrong-import-position

NOW = "3.17.2"
HOST = {"mlflow_engine": "kubernetes", "backup_type": "none", "mlflow_adopt_release": "rel",
        "mlflow_server_service_name": "mlflow"}
STORES = "object_storage,database,mlflow_server"
BEGUN = [f"helm_release_adopt check {NOW}", f"helm_release_adopt prepare {NOW}"]
MOVED = [f"apply {NOW} {STORES}", f"helm_release_adopt route {NOW}", f"apply {NOW}", f"instance_health {NOW}"]
CONFIRMED = ("-e", "mlflow_adopt_confirm=other,team")


def results(exclusive, **more):
    return {**more, "helm_release_adopt check": {"exclusive": exclusive, "actions": ["Service mlflow handed over"]},
            "helm_release_adopt finish": {"actions": ["Deployment mlflow deleted"]},
            "instance_health": {"connect": ["connected"]}}


def test_one_server_after_the_other(tmp_path):
    done, calls = play(tmp_path, results(True), "adopt.yml", *CONFIRMED, **HOST)
    assert done.returncode == 0, done.stdout
    assert calls == [*BEGUN, *MOVED, f"helm_release_adopt finish {NOW}"]
    assert "Deployment mlflow deleted" in done.stdout and "connected" in done.stdout


def test_both_servers_beside_each_other(tmp_path):
    """The Service of the chart is neither applied nor pruned before the new pods are ready."""
    done, calls = play(tmp_path, results(False), "adopt.yml", *CONFIRMED, **HOST)
    assert done.returncode == 0, done.stdout
    beside = f"apply {NOW} under another name {STORES} without pruning"
    assert calls == [*BEGUN, beside, *MOVED, f"helm_release_adopt finish {NOW}"]


def test_what_fails_is_given_back(tmp_path):
    failed = {"instance_health": {"failed": True, "msg": "It is not healthy."}}
    done, calls = play(tmp_path, {**results(True), **failed}, "adopt.yml", *CONFIRMED, **HOST)
    assert done.returncode and calls == [*BEGUN, *MOVED, f"helm_release_adopt undo {NOW}"]
    assert "The release was not moved" in done.stdout and "It is not healthy." in done.stdout


def test_an_instance_that_is_not_named_is_left(tmp_path):
    done, calls = play(tmp_path, results(True), "adopt.yml", "-e", "mlflow_adopt_confirm=another", **HOST)
    assert done.returncode and calls == []
    assert "mlflow_adopt_confirm does not name team" in " ".join(done.stdout.split())


def test_a_run_that_only_checks(tmp_path):
    done, calls = play(tmp_path, results(True), "adopt.yml", *CONFIRMED, "--check", **HOST)
    assert done.returncode == 0 and calls == [f"{BEGUN[0]} checked"], done.stdout
    assert "Service mlflow handed over" in done.stdout
