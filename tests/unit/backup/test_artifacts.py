# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Artifacts: copied once, in the version of their set, restored, and found when they are damaged; in folders and
buckets."""

from __future__ import annotations

import datetime
import os
import pathlib
import re

import boto3
import instances
import pytest
import rows

NAME = "1/run/artifacts/notes.txt"


def client(options: dict):
    return boto3.client("s3", endpoint_url=options["url"], region_name="us-east-1",
                        aws_access_key_id=options["access_key"], aws_secret_access_key=options["secret_key"])


@pytest.fixture
def bucket(sqlite, seaweedfs):
    """The instance with artifacts and backups in buckets of SeaweedFS, the artifacts' one versioned."""
    store = client(seaweedfs)
    for name in ("versioned", "backups"):
        if name not in [entry["Name"] for entry in store.list_buckets()["Buckets"]]:
            store.create_bucket(Bucket=name)
    store.put_bucket_versioning(Bucket="versioned", VersioningConfiguration={"Status": "Enabled"})
    prefix = os.urandom(4).hex()
    for name, content in rows.ARTIFACTS.items():
        store.put_object(Bucket="versioned", Key=f"{prefix}/{name}", Body=content)
    sqlite.artifacts = f"s3://versioned/{prefix}"
    sqlite.store = {"type": "s3", "bucket": "backups", "prefix": f"{prefix}/n/a", "url": seaweedfs["url"],
                    "region": "us-east-1"}
    sqlite.more |= {"MLFLOW_S3_ENDPOINT_URL": seaweedfs["url"], "AWS_ACCESS_KEY_ID": seaweedfs["access_key"],
                    "AWS_SECRET_ACCESS_KEY": seaweedfs["secret_key"], "AWS_DEFAULT_REGION": "us-east-1",
                    "BACKUP_ACCESS_KEY": seaweedfs["access_key"], "BACKUP_SECRET_KEY": seaweedfs["secret_key"]}
    sqlite.client, sqlite.prefix = store, prefix
    return sqlite


def test_only_what_is_new_is_copied(sqlite, artifacts):
    assert sqlite.create()["artifacts"]["copied"] == 3
    assert sqlite.create()["artifacts"]["copied"] == 0
    (artifacts / "2").write_bytes(b"new")
    (artifacts / NAME).write_bytes(b"other")
    manifest = sqlite.create()
    assert (manifest["artifacts"]["copied"], manifest["artifacts"]["copied_bytes"]) == (2, 8)
    assert manifest["artifacts"]["count"] == 4


def test_each_set_has_its_version(sqlite, artifacts):
    first = sqlite.create()
    (artifacts / NAME).write_bytes(b"other")
    second = sqlite.create()
    (artifacts / NAME).unlink()
    (artifacts / "later").write_bytes(b"x")
    found = sqlite.restore(f"--set={second['id']}")
    assert (artifacts / NAME).read_bytes() == b"other"
    assert found["artifacts"] == {"count": 3, "written": 1, "kept": 2, "others": 1}
    sqlite.restore(f"--set={first['id']}")
    assert (artifacts / NAME).read_bytes() == rows.ARTIFACTS[NAME]
    assert (artifacts / "later").exists()


def test_a_damaged_and_a_missing_artifact_are_named(sqlite):
    sqlite.create()
    (path,) = sqlite.path(f"artifacts/{NAME}").iterdir()
    content = path.read_bytes()
    path.write_bytes(b"X" + content[1:])
    for command in ("verify", "restore"):
        if command == "restore":
            pathlib.Path(sqlite.artifacts, NAME).unlink()
        with pytest.raises(instances.CommandFailed, match=f"artifact '{NAME}' is damaged"):
            sqlite.run(command)
    assert not pathlib.Path(sqlite.artifacts, NAME).exists()
    path.unlink()
    with pytest.raises(instances.CommandFailed, match=f"artifact '{NAME}' is missing"):
        sqlite.run("verify")
    with pytest.raises(instances.CommandFailed, match=f"artifact '{NAME}' is missing"):
        sqlite.run("restore")
    path.write_bytes(content)
    sqlite.restore()
    assert pathlib.Path(sqlite.artifacts, NAME).read_bytes() == rows.ARTIFACTS[NAME]


def test_a_damaged_list_stops_no_further_backup(sqlite):
    first = sqlite.create()
    path = sqlite.path(f"sets/{first['id']}/artifacts.jsonl.gz")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(instances.CommandFailed, match=r"artifacts\.jsonl\.gz is damaged"):
        sqlite.run("verify")
    second = sqlite.create()
    assert second["artifacts"]["count"] == 3
    assert sqlite.restore(until="restore")["set"]["id"] == second["id"]


def test_backups_in_the_bucket_of_the_artifacts_are_no_artifacts(bucket):
    bucket.store |= {"bucket": "versioned", "prefix": f"{bucket.prefix}/backups/n/a"}
    assert bucket.create()["artifacts"]["count"] == 3
    assert bucket.create()["artifacts"]["count"] == 3


def test_object_lock(bucket, moto):
    """On a stand-in for AWS, which enforces locks."""
    store = client({"url": moto, "access_key": "key", "secret_key": "secret"})
    store.create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
    bucket.store = {"type": "s3", "bucket": "locked", "prefix": "n/a", "url": moto, "region": "us-east-1",
                    "lock_days": 3}
    first = bucket.create()
    keys = {entry["Key"]: entry["VersionId"] for entry in store.list_object_versions(Bucket="locked")["Versions"]}
    for key, version in keys.items():
        if not key.endswith("status.json"):
            with pytest.raises(store.exceptions.ClientError, match="AccessDenied|denied"):
                store.delete_object(Bucket="locked", Key=key, VersionId=version)
    bucket.store["lock_days"] = 10
    assert bucket.create()["artifacts"]["copied"] == 0
    (content,) = [key for key in keys if f"/{NAME}/" in key]
    until = store.head_object(Bucket="locked", Key=content)["ObjectLockRetainUntilDate"]
    assert (until.replace(tzinfo=None) - _moment(first)).days >= 9  # contents of earlier sets are locked for longer


def test_what_object_lock_keeps_of_removed_sets_is_said(bucket, moto):
    """On the same stand-in."""
    store = client({"url": moto, "access_key": "key", "secret_key": "secret"})
    store.create_bucket(Bucket="kept", ObjectLockEnabledForBucket=True)
    bucket.store = {"type": "s3", "bucket": "kept", "prefix": "n/a", "url": moto, "region": "us-east-1",
                    "lock_days": 3}
    first, second = bucket.create(), bucket.create()
    bucket.retention["days"] = -1
    found = bucket.run("prune")
    assert found["removed"] == [first["id"]]
    assert re.fullmatch(r"The bucket keeps 6 of the objects that were removed as versions, since they are locked until "
                        r"20[0-9-]+T[0-9:]+Z\.", found["locked"]), found["locked"]
    assert [entry["id"] for entry in bucket.run("list")["sets"]] == [second["id"]]
    assert bucket.run("prune") == {"removed": [], "locked": ""}


def _moment(manifest: dict) -> datetime.datetime:
    return datetime.datetime.strptime(manifest["id"], "%Y%m%dT%H%M%SZ")


def test_memory_is_bounded(sqlite, artifacts, execute):
    """A dump and artifacts that are larger than what the process may grow by."""
    with (artifacts / "large").open("wb") as file:
        for _number in range(200):
            file.write(os.urandom(2**20))
    execute(sqlite, "CREATE TABLE filler (x BLOB)")
    for _number in range(80):
        execute(sqlite, "INSERT INTO filler SELECT randomblob(1048576)")
    running = sqlite.start("create")
    running.wait()
    (artifacts / "large").unlink()
    peak = instances.peak_of(running)
    running = sqlite.start("restore")
    running.wait()
    assert (artifacts / "large").stat().st_size == 200 * 2**20
    assert max(peak, instances.peak_of(running)) < 60 * 2**20, (peak, instances.peak_of(running))


def test_memory_is_bounded_with_buckets(bucket):
    """Eight artifacts at once, each of which is larger than a part of an upload."""
    names = [f"large-{number}" for number in range(10)]
    for name in names:
        bucket.client.put_object(Bucket="versioned", Key=f"{bucket.prefix}/{name}", Body=os.urandom(24 * 2**20))
    peaks = []
    for command in ("create", "restore"):
        running = bucket.start(command)
        running.wait()
        peaks.append(instances.peak_of(running))
        for name in names:
            bucket.client.delete_object(Bucket="versioned", Key=f"{bucket.prefix}/{name}")
    assert max(peaks) < 200 * 2**20, peaks
