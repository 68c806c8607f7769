"""Sets: what a backup consists of, in a bucket or a folder.

Below the path of the instance:

sets/ID/manifest.json     written last: a set without it is incomplete and is never offered
sets/ID/database.dump     pg_dump's custom format, or SQL or SQLite's file compressed by gzip; users.dump likewise,
where logins are
                          in a SQLite file of their own
sets/ID/artifacts.jsonl.gz   a line for each artifact: name, bytes, version, SHA-256
sets/ID/deployment.json.gz   variables and manifests of the instance, without secrets
sets/ID/keys.json         the keys of the secrets in the database and the administrator's login, encrypted; only with a
passphrase sets/ID/verified.json     what the last drill found
artifacts/NAME/VERSION    content of the artifacts, shared by all sets
status.json               when backups succeeded, failed, and were verified last; the exporter reads it

ID is the UTC time at which the backup began, such as 20261124T020000Z.
"""

import concurrent.futures
import contextlib
import datetime
import functools
import hashlib
import io
import json
import re

import stores

ID = re.compile(r"[0-9]{8}T[0-9]{6}Z")
FORMAT = 1
READERS = 8
MOMENT = "moment"
"""The kind of a set of the database as of a moment in the past."""
ASIDE = ("before-restore", MOMENT)
"""Kinds of sets that are no latest state of the instance; the first is what a restore was to replace."""


class BackupError(Exception):
    """What ends a command. The message is one sentence for the operator."""


def new_id(moment):
    """The ID of a set that begins at a datetime."""
    return moment.strftime("%Y%m%dT%H%M%SZ")


def moment_of(set_id):
    """The datetime at which a set began."""
    return datetime.datetime.strptime(set_id, "%Y%m%dT%H%M%SZ").replace(tzinfo=datetime.timezone.utc)


@contextlib.contextmanager
def opened(store, name, what):
    """A context with a stream of an object, of which the store's own message would not say what it is.

    Args:
        store: of stores.py.
        name: of the object.
        what: it is, for the message.

    Raises:
        BackupError: it is gone.
    """
    with contextlib.ExitStack() as stack:
        try:
            stream = stack.enter_context(store.open(name))
        except (FileNotFoundError, stores.StoreError) as error:
            if isinstance(error, stores.StoreError) and not error.missing:
                raise
            raise BackupError(f"{what} is missing in the backup; choose another backup.") from error
        yield stream


class Hashed:
    """A stream that counts and hashes what is read of it.

    Attributes:
        size: bytes that were read.
    """

    def __init__(self, stream):
        self.stream, self.size, self._sha256 = stream, 0, hashlib.sha256()

    def read(self, size=-1):
        data = self.stream.read(size)
        self.size += len(data)
        self._sha256.update(data)
        return data

    @property
    def sha256(self):
        """Of what was read, in hexadecimal digits."""
        return self._sha256.hexdigest()


class Sets:
    """The sets of an instance.

    Args:
        store: a store of stores.py, rooted at the path of the instance.

    Attributes:
        locked: for each object that was deleted and stays in the bucket as a locked version, until when.
    """

    def __init__(self, store):
        self.store, self.locked = store, []

    @functools.cached_property
    def _locks(self):
        return self.store.locks()

    def delete(self, name):
        """Delete an object of the store, and note when the bucket keeps it nevertheless."""
        until = self.store.locked_until(name) if self._locks else None
        if until and until > datetime.datetime.now(datetime.timezone.utc):
            self.locked.append(until)
        self.store.delete(name)

    def path(self, set_id, name):
        """The name in the store of a file of a set."""
        return f"sets/{set_id}/{name}"

    def ids(self):
        """IDs of all sets, incomplete ones too, the oldest first."""
        found = (folder.rstrip("/").rpartition("/")[2] for folder in self._folders())
        return sorted(set_id for set_id in found if ID.fullmatch(set_id))

    def _folders(self):
        try:
            return list(self.store.folders("sets/"))
        except FileNotFoundError:
            return []

    @contextlib.contextmanager
    def open(self, set_id, name):
        """A context with a stream of a file of a set; BackupError where it is gone."""
        with opened(self.store, self.path(set_id, name), f"Backup {set_id}: {name}") as stream:
            yield stream

    def save(self, set_id, name, stream):
        """Write a file of a set; returns its name, bytes and SHA-256."""
        hashed = Hashed(stream)
        self.store.save(self.path(set_id, name), hashed)
        return {"name": name, "bytes": hashed.size, "sha256": hashed.sha256}

    def save_json(self, set_id, name, value):
        """Write a value as a file of a set; returns its name, bytes and SHA-256."""
        return self.save(set_id, name, io.BytesIO(json.dumps(value, indent=1, sort_keys=True).encode()))

    def read_json(self, set_id, name):
        """The value of a file of a set; None where there is no such file."""
        return self._json(self.path(set_id, name))

    def _json(self, name):
        try:
            return json.loads(self.store.read(name))
        except FileNotFoundError:
            return None
        except stores.StoreError as error:
            if error.missing:
                return None
            raise

    def complete(self):
        """Manifests of the complete sets, the oldest first; ``verified`` is what the last drill found, or None, and
        ``rehearsal`` of an upgrade likewise."""
        with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
            found = list(pool.map(self._described, self.ids()))
        return [manifest for manifest in found if manifest]

    def _described(self, set_id):
        manifest = self.read_json(set_id, "manifest.json")
        if manifest:
            manifest["verified"] = self.read_json(set_id, "verified.json")
            if manifest["kind"] == "before-upgrade":
                manifest["rehearsal"] = self.read_json(set_id, "rehearsal.json")
        return manifest

    def find(self, wanted):
        """The manifest of a set.

        Args:
            wanted: its ID, ``latest``, ``verified`` (the latest of those that a drill restored), or a moment in the
                form of ISO 8601, for the latest set that began until then.

        Raises:
            BackupError: there is none.
        """
        sets = self.complete()
        if not sets:
            raise BackupError(
                f"There is no complete backup at {self.store.location}; look at backup_type and what it names."
            )
        chosen = [entry for entry in sets if self._fits(entry, wanted)]
        if not chosen:
            known = ", ".join(entry["id"] for entry in sets[-5:])
            raise BackupError(
                f"There is no complete backup {wanted!r} at {self.store.location}; the newest are {known}."
            )
        return chosen[-1]

    @staticmethod
    def _fits(manifest, wanted):
        # Others are asked for by their ID or their moment only.
        ordinary = manifest["kind"] not in ASIDE
        if wanted == "latest":
            return ordinary
        if wanted == "verified":
            return ordinary and bool((manifest["verified"] or {}).get("ok"))
        if ID.fullmatch(wanted):
            return manifest["id"] == wanted
        if manifest["kind"] == MOMENT:  # began later than the state that is in it
            return False
        try:
            moment = datetime.datetime.fromisoformat(wanted.replace("Z", "+00:00"))
        except ValueError:
            raise BackupError(
                f"The backup is {wanted!r}; it must be latest, verified, an ID such as 20261124T020000Z, or a "
                "moment such as 2026-11-24T02:00:00Z."
            ) from None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=datetime.timezone.utc)
        return moment_of(manifest["id"]) <= moment

    def remove(self, set_id):
        """Remove a set, its manifest first, so that a half removed one is not offered."""
        names = [entry.name for entry in self.store.entries(f"sets/{set_id}/")]
        for name in sorted(names, key=lambda name: not name.endswith("/manifest.json")):
            self.delete(name)
        self.store.tidy(f"sets/{set_id}")

    def status(self, **changes):
        """Change status.json: Unix times ``last``, ``last_verified``, ``last_failed``."""
        found = self._json("status.json") or {}
        self.store.save("status.json", io.BytesIO(json.dumps({**found, **changes}, sort_keys=True).encode()))


def expired(manifests, now, days, daily=0, weekly=0, monthly=0):
    """Which sets are no longer wanted.

    A set is kept for ``days`` days, and beyond that while it is the last one of its day, week or month among as many
    days, weeks or months that have sets; sets of the kinds ASIDE are none of these. The newest set, the newest
    of another kind than those, and the newest that a drill restored, are always kept.

    Args:
        manifests: complete sets, the oldest first.
        now: a datetime.
        days, daily, weekly, monthly: numbers; 0 keeps none for that reason.

    Returns:
        Manifests of those that go, the oldest first.
    """
    ordinary = [entry for entry in manifests if entry["kind"] not in ASIDE]
    kept = {entry["id"] for entry in [*manifests[-1:], *ordinary[-1:]]}
    kept |= {entry["id"] for entry in [e for e in manifests if (e.get("verified") or {}).get("ok")][-1:]}
    kept |= {entry["id"] for entry in manifests if now - moment_of(entry["id"]) <= datetime.timedelta(days=days)}
    for number, period in ((daily, "%Y-%m-%d"), (weekly, "%G-%V"), (monthly, "%Y-%m")):
        last_of = {moment_of(entry["id"]).strftime(period): entry["id"] for entry in ordinary}
        newest = sorted(last_of, reverse=True)[:number]
        kept |= {last_of[name] for name in newest}
    return [entry for entry in manifests if entry["id"] not in kept]
