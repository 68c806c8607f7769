# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sets: which of them are offered, kept and removed, and what is secret in them."""

from __future__ import annotations

import datetime
import gzip
import sys

import instances
import pytest

sys.path[:0] = [str(instances.FILES), str(instances.ROOT / "plugins/module_utils")]
sets = instances.load(instances.FILES / "sets.py", "sets_of_backup")
sealed = instances.load(instances.ROOT / "plugins/module_utils/sealed.py", "sealed_of_backup")
sys.path[:2] = []
NOW = datetime.datetime(2026, 11, 28, 3, tzinfo=datetime.timezone.utc)


def at(days: float, verified: bool = True, kind: str = "scheduled") -> dict:
    """A manifest of so many days ago."""
    return {"id": sets.new_id(NOW - datetime.timedelta(days=days)), "kind": kind, "verified": {"ok": verified}}


def kept(manifests: list[dict], **retention: int) -> list[int]:
    """Ages in days of those that stay, the newest first."""
    manifests = sorted(manifests, key=lambda entry: entry["id"])
    gone = {entry["id"] for entry in sets.expired(manifests, NOW, **retention)}
    return sorted((NOW - sets.moment_of(entry["id"])).days for entry in manifests if entry["id"] not in gone)


def test_days():
    assert kept([at(age) for age in range(60)], days=30) == list(range(31))
    assert kept([at(age + 0.1) for age in range(5)], days=1) == [0]


def test_daily_weekly_monthly():
    daily = [at(age + hour / 24) for age in range(100) for hour in (1, 13)]
    # Those of 2:00 today, and of 14:00 on the four days before.
    assert kept(daily, days=1, daily=5) == [0, 0, 1, 2, 3]
    # Now is a Saturday: 14:00 on the Sundays before.
    assert kept(daily, days=1, weekly=4) == [0, 0, 5, 12, 19]
    # 14:00 on 31 October, 30 September and 31 August.
    assert kept(daily, days=1, monthly=4) == [0, 0, 27, 58, 88]


def test_the_last_verified_one_never_goes():
    assert kept([at(200), at(100), at(90, verified=False), at(80, verified=False)], days=30) == [80, 100]


def test_what_was_before_a_restore_is_no_backup_of_its_day():
    before = at(40, kind="before-restore", verified=False)
    assert kept([at(40.5), before], days=1, daily=1) == [40, 40]
    assert kept([at(60, verified=False), at(50, verified=False), before], days=1) == [40, 50]


def test_half_a_set_is_never_offered(sqlite):
    first, second = sqlite.create(), sqlite.create()
    sqlite.path(f"sets/{second['id']}/manifest.json").unlink()
    found = sqlite.run("list")
    assert [entry["id"] for entry in found["sets"]] == [first["id"]]
    assert found["incomplete"] == [second["id"]]
    assert sqlite.restore(until="restore")["set"]["id"] == first["id"]
    with pytest.raises(instances.CommandFailed, match=f"There is no complete backup '{second['id']}'"):
        sqlite.run("verify", f"--set={second['id']}")


def test_a_moment_or_an_id(sqlite):
    first, second = sqlite.create(), sqlite.create("--kind=before-restore")

    def chosen(wanted: str) -> str:
        return sqlite.run("keys", f"--set={wanted}")["set"]["id"]

    assert chosen("latest") == first["id"]  # what a restore was to replace is never meant by it
    assert chosen(second["id"]) == second["id"]
    assert chosen(sets.moment_of(second["id"]).isoformat()) == second["id"]
    assert chosen((sets.moment_of(second["id"]) - datetime.timedelta(seconds=1)).isoformat()) == first["id"]
    with pytest.raises(instances.CommandFailed, match="There is no complete backup 'verified'"):
        chosen("verified")
    with pytest.raises(instances.CommandFailed, match="it must be latest, verified, an ID"):
        chosen("yesterday")


def test_keys_are_sealed(sqlite):
    manifest = sqlite.create()
    folder = sqlite.path(f"sets/{manifest['id']}")
    stored = b"".join(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
                      for path in folder.iterdir())
    for secret in {*instances.KEYS.values(), instances.PASSPHRASE} - {"chief"}:
        assert secret.encode() not in stored
    found = sqlite.run("keys")
    assert found["differing"] == []
    values = sealed.unseal(instances.PASSPHRASE, found["sealed"])
    assert values["gateway"] == instances.KEYS["MLFLOW_CRYPTO_KEK_PASSPHRASE"] and values["admin_user"] == "chief"
    with pytest.raises(sealed.WrongPassphraseError):
        sealed.unseal("another passphrase", found["sealed"])
    sqlite.more["MLFLOW_CRYPTO_KEK_PASSPHRASE"] = "another"
    assert sqlite.run("keys")["differing"] == ["gateway"]


def test_without_a_passphrase_there_are_fingerprints(sqlite):
    sqlite.passphrase = ""
    manifest = sqlite.create()
    assert not sqlite.path(f"sets/{manifest['id']}/keys.json").exists()
    found = sqlite.run("keys")
    assert found["sealed"] is None and set(found["set"]["keys"]["fingerprints"]) == {"gateway", "webhooks"}


def test_a_set_of_a_newer_mlflow_is_refused(sqlite):
    sqlite.version = "3.18.0"
    sqlite.create()
    sqlite.version = "3.17.2"
    with pytest.raises(instances.CommandFailed, match=r"is of MLflow 3\.18\.0, and mlflow_version is 3\.17\.2"):
        sqlite.run("restore", modes=("restore",))


def test_a_full_store_and_one_that_is_gone(sqlite, tmp_path):
    sqlite.create()
    before = sqlite.store
    with instances.small_folder(tmp_path / "full", "300k") as full:
        sqlite.store = {"type": "volume", "path": str(full)}
        with pytest.raises(instances.CommandFailed, match="No space left on device"):
            sqlite.create()
        assert sqlite.run("list")["sets"] == []
    sqlite.store = {"type": "s3", "bucket": "gone", "url": "http://127.0.0.1:9", "prefix": "x", "region": "us-east-1"}
    sqlite.more |= {"BACKUP_ACCESS_KEY": "key", "BACKUP_SECRET_KEY": "secret"}
    with pytest.raises(instances.CommandFailed, match="http://127.0.0.1:9 cannot be reached"):
        sqlite.create()
    sqlite.store = before
    assert len(sqlite.run("list")["sets"]) == 1
