"""Artifacts to and from the sets of a backup.

Content is copied once: its name is that of the artifact and a digest of its version (the store's ETag, the time at
which a file was changed), so that a second backup reads only what is new, and an artifact that was written again keeps
its former content for the sets that have it.
"""

import concurrent.futures
import gzip
import hashlib
import io
import json
import random
import tempfile
import time

import stores
from sets import BackupError, Hashed, opened

COPIERS = 8
LIST = "artifacts.jsonl.gz"
PROGRESS_SECONDS = 10


def content_name(name, version):
    """Where the content of a version of an artifact is."""
    return f"artifacts/{name}/{version}"


def version_of(entry):
    """A short digest of what distinguishes the content of an object from what had its name before."""
    return hashlib.sha256(f"{entry.size} {entry.version}".encode()).hexdigest()[:16]


class Progress:
    """Prints how far a long copy is, every ten seconds."""

    def __init__(self, verb, total, log):
        self.verb, self.total, self.log = verb, total, log
        self.number, self.bytes, self.printed = 0, 0, time.monotonic()

    def add(self, size):
        """Count one more object."""
        self.number += 1
        self.bytes += size
        if time.monotonic() - self.printed > PROGRESS_SECONDS:
            self.printed = time.monotonic()
            self.log(f"{self.verb} {self.number} of {self.total} artifacts, {self.bytes / 2**20:.0f} MiB")


def _each(function, items):
    """Call a function for all items, a few at a time, and yield the results as they come; the first failure ends it."""
    with concurrent.futures.ThreadPoolExecutor(COPIERS) as pool:
        waiting = set()
        try:
            for item in items:
                waiting.add(pool.submit(function, item))
                if len(waiting) >= 4 * COPIERS:
                    done, waiting = concurrent.futures.wait(waiting, return_when=concurrent.futures.FIRST_COMPLETED)
                    for future in done:
                        yield future.result()
            for future in concurrent.futures.as_completed(waiting):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def listed(source, excluded=""):
    """Entries of all artifacts of a store.

    Args:
        source: the store of the artifacts.
        excluded: path in it that holds backups, or empty.
    """
    try:
        for entry in source.entries():
            if not entry.name.endswith("/") and not (excluded and entry.name.startswith(excluded)):
                yield entry
    except FileNotFoundError:
        return


def back_up(source, sets, set_id, previous, excluded, locked_until, log):
    """Copy what the sets do not have yet, and write the list of all.

    Args:
        source: the store of the artifacts.
        sets: where backups are.
        set_id: the set that is being made.
        previous: manifest of the set before, or None.
        excluded: path in the source that holds backups, or empty.
        locked_until: until when the store must not delete contents that an earlier set copied, too; None where it locks
            nothing.
        log: takes a line of progress.

    Returns:
        What the manifest has about artifacts.
    """
    known = {}
    try:
        for name, size, version, sha256 in (read_list(sets, previous) if previous else ()):
            known[name, version] = (size, sha256)
    except BackupError as error:
        known = {}
        log(f"all artifacts are copied anew: {error}")
    here = {entry.name: entry.size for entry in sets.store.entries("artifacts/")} if known else {}
    entries = list(listed(source, excluded))

    def copy(entry):
        version = version_of(entry)
        size, sha256 = known.get((entry.name, version), (None, None))
        if size is not None and here.get(content_name(entry.name, version)) == size:
            if locked_until:
                sets.store.lock(content_name(entry.name, version), locked_until)
            return entry.name, size, version, sha256, False
        try:
            with source.open(entry.name) as stream:
                hashed = Hashed(stream)
                sets.store.save(content_name(entry.name, version), hashed, entry.size)
        except FileNotFoundError:
            return None
        except stores.StoreError as error:
            if error.missing:
                return None  # deleted since it was listed: no row of the dump needs it, or it went with its run
            raise
        return entry.name, hashed.size, version, hashed.sha256, True

    totals = {"count": 0, "bytes": 0, "copied": 0, "copied_bytes": 0, "gone": 0}
    progress = Progress("looked at", len(entries), log)
    with tempfile.TemporaryFile() as file:
        with gzip.open(file, "wt", encoding="utf-8", compresslevel=6) as lines:
            for found in _each(copy, entries):
                if found is None:
                    totals["gone"] += 1
                    continue
                name, size, version, sha256, copied = found
                lines.write(json.dumps([name, size, version, sha256]) + "\n")
                totals["count"] += 1
                totals["bytes"] += size
                totals["copied"] += copied
                totals["copied_bytes"] += size * copied
                progress.add(size)
        file.seek(0)
        return {**totals, "list": sets.save(set_id, LIST, file)}


def read_list(sets, manifest):
    """Name, bytes, version and SHA-256 of each artifact of a set, line by line.

    Raises:
        BackupError: the list is not the one that the backup wrote.
    """
    wanted = manifest["artifacts"].get("list")
    if not wanted:
        return
    with sets.open(manifest["id"], LIST) as stream, tempfile.TemporaryFile() as file:
        hashed = Hashed(stream)
        for data in iter(lambda: hashed.read(2**20), b""):
            file.write(data)
        if hashed.sha256 != wanted["sha256"]:
            raise BackupError(
                f"Backup {manifest['id']}: {LIST} is damaged ({hashed.size} bytes, another SHA-256 than in the "
                "manifest); choose another backup."
            )
        file.seek(0)
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)


def verify(sets, manifest, sample, log):
    """Look whether all artifacts of a set are there, and whether the content of some is what was backed up.

    Args:
        sets: where backups are.
        manifest: of the set.
        sample: how many to read; all where it is 0.
        log: takes a line of progress.

    Returns:
        Numbers: ``count`` listed, ``read`` compared by SHA-256.

    Raises:
        BackupError: naming the first that are missing or damaged.
    """
    wanted = list(read_list(sets, manifest))
    here = {entry.name: entry.size for entry in sets.store.entries("artifacts/")} if wanted else {}
    bad = [name for name, size, version, _sha256 in wanted if here.get(content_name(name, version)) != size]
    _refuse(manifest, bad, "missing or has another size")
    chosen = wanted if sample == 0 or sample >= len(wanted) else random.sample(wanted, sample)
    progress = Progress("compared", len(chosen), log)

    def compare(entry):
        name, size, version, sha256 = entry
        found = _digest(sets.store, content_name(name, version))
        progress.add(size)
        return None if found == sha256 else name

    _refuse(manifest, [name for name in _each(compare, chosen) if name], "damaged (another SHA-256)")
    return {"count": len(wanted), "read": len(chosen)}


def _refuse(manifest, names, what):
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise BackupError(
            f"Backup {manifest['id']}: artifact {names[0]!r}{more} is {what} in the backup; restore another set, and "
            "make a new backup while the artifact still exists."
        )


def restore(sets, manifest, target, log):
    """Write the artifacts of a set to a store. What has the content already is left; what the set does not have stays.

    Args:
        sets: where backups are.
        manifest: of the set.
        target: the store.
        log: takes a line of progress.

    Returns:
        Numbers: ``count`` of the set, ``written``, ``kept`` since they were there, ``others`` that the set does not
            have.

    Raises:
        BackupError: naming an artifact that is damaged in the backup.
    """
    there = {entry.name: (entry.size, version_of(entry)) for entry in listed(target)}
    total = manifest["artifacts"].get("count", 0)
    progress = Progress("restored", total, log)
    numbers = {"count": 0, "written": 0, "kept": 0}

    def put(entry):
        name, size, version, sha256 = entry
        # What has the version of the backup was not written since, and need not be read.
        size_there, version_there = there.get(name, (None, None))
        if version_there == version or size_there == size and _digest(target, name) == sha256:
            return name, size, False
        what = f"Backup {manifest['id']}: artifact {name!r}"
        with opened(sets.store, content_name(name, version), what) as stream:
            target.save(name, Checked(Hashed(stream), sha256, what), size)
        return name, size, True

    restored = set()
    for name, size, written in _each(put, read_list(sets, manifest)):
        restored.add(name)
        numbers["count"] += 1
        numbers["written" if written else "kept"] += 1
        progress.add(size)
    return {**numbers, "others": len(set(there) - restored)}


def _digest(store, name):
    with store.open(name) as stream:
        hashed = Hashed(stream)
        while hashed.read(2**20):
            pass
    return hashed.sha256


class Checked(io.RawIOBase):
    """A stream that fails at its end when its content is not what it should be, so that nothing is written."""

    def __init__(self, hashed, sha256, what):
        super().__init__()
        self.hashed, self.sha256, self.what = hashed, sha256, what

    def readable(self):
        return True

    def read(self, size=-1):
        data = self.hashed.read(size)
        if not data and size != 0 or size < 0:
            if self.hashed.sha256 != self.sha256:
                raise BackupError(f"{self.what} is damaged in the backup (another SHA-256); choose another backup.")
        return data


def unused(sets, manifests):
    """Names of contents that no set has.

    Args:
        sets: where backups are.
        manifests: of all complete sets that are kept.
    """
    wanted = set()
    for manifest in manifests:
        for name, _size, version, _sha256 in read_list(sets, manifest):
            wanted.add(hash(content_name(name, version)))
    for entry in sets.store.entries("artifacts/"):
        if hash(entry.name) not in wanted:
            yield entry.name
