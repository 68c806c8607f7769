# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""object_store_health against a real S3 server and real folders."""

from __future__ import annotations

import os
import subprocess

import pytest
from ansible_collections.mlops.mlflow.plugins.module_utils.probes import object_store
from ansible_collections.mlops.mlflow.plugins.module_utils.remote import run_probe


def details(report):
    return {c["name"]: c["detail"] for c in report["checks"]}


def test_s3(seaweedfs):
    report = run_probe(object_store, dict(seaweedfs))
    assert report["healthy"], report["failures"]
    assert report["upload_mb_s"] > 0 and report["download_mb_s"] > 0


def test_s3_below_a_prefix(seaweedfs):
    report = run_probe(object_store, {**seaweedfs, "prefix": "team/a"})
    assert report["healthy"], report["failures"]


@pytest.mark.parametrize("changes, words", [
    ({"bucket": "nowhere"}, "bucket nowhere does not exist"),
    ({"secret_key": "wrongsecret"}, "access to bucket mlflow is denied"),
    ({"url": "http://127.0.0.1:9"}, "cannot be reached"),
])
def test_s3_says_what_is_wrong(seaweedfs, changes, words):
    report = run_probe(object_store, {**seaweedfs, **changes})
    assert not report["healthy"]
    assert words in details(report)["exists"], details(report)
    assert details(report)["write"] == "not run, since exists failed"


def test_volume(tmp_path):
    report = run_probe(object_store, {"type": "volume", "path": str(tmp_path), "size_mb": 1})
    assert report["healthy"], report["failures"]
    assert not list(tmp_path.iterdir())


def test_volume_that_is_not_there(tmp_path):
    report = run_probe(object_store, {"type": "volume", "path": str(tmp_path / "none")})
    assert "there is no folder" in details(report)["exists"]


def test_volume_that_is_full(tmp_path):
    if os.geteuid():
        pytest.skip("a full disk is a tiny tmpfs here, which only root can mount")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path], check=True)
    try:
        report = run_probe(object_store, {"type": "volume", "path": str(tmp_path), "size_mb": 4})
        assert "No space left on device" in details(report)["write"]
        assert not list(tmp_path.iterdir())
    finally:
        subprocess.run(["umount", tmp_path], check=True)
