"""SQLite, by its backup interface."""

import contextlib
import gzip
import os
import shutil
import sqlite3
import tempfile

from databases import Database, Gzipped
from exchange import BLOCK, last_line
from sets import BackupError

SUFFIXES = ("", "-wal", "-shm", "-journal")
"""Of the names of a database's files."""


class Sqlite(Database):
    """A file, by SQLite's backup interface; ``name`` is its path."""

    dialect = "sqlite"
    suffix = "database.sqlite.gz"

    @contextlib.contextmanager
    def dump(self, exchange):
        """As of Database."""
        if not os.path.exists(self.name):
            raise BackupError(f"There is no database {self.name}.")
        folder = exchange.folder
        size, free = os.path.getsize(self.name), shutil.disk_usage(folder).free
        if size * 1.1 > free:
            raise BackupError(
                f"There is no room for a copy of {self.name}: it has {size / 2**20:.0f} MiB, and {folder} has "
                f"{free / 2**20:.0f} MiB free."
            )
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".sqlite") as copy:
            with contextlib.closing(sqlite3.connect(self.name, timeout=60)) as source, \
                    contextlib.closing(sqlite3.connect(copy.name)) as target:
                source.backup(target)
            described = {**self.described(copy.name), "exact": True, "server": f"SQLite {sqlite3.sqlite_version}"}
            with open(copy.name, "rb") as stream:
                yield Gzipped(stream), described

    def prepare(self):
        """As of Database."""
        if self._has_old():
            if os.path.exists(self.name):
                raise self.left()
            os.replace(self.old, self.name)
        _unlink(self.old)
        _unlink(self.new)

    def _has_old(self):
        """Whether ``old`` is there, and not only as a second name of the current file."""
        if not os.path.exists(self.old):
            return False
        return not (os.path.exists(self.name) and os.path.samefile(self.old, self.name))

    def load(self, exchange, stream, database=None):
        """As of Database."""
        path = database or self.new
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            shutil.copyfileobj(gzip.GzipFile(fileobj=stream), file, BLOCK)
            os.fsync(file.fileno())
        with contextlib.closing(sqlite3.connect(path)) as connection:
            found = connection.execute("PRAGMA integrity_check").fetchone()[0]
        if found != "ok":
            raise BackupError(f"Loading the dump failed: SQLite calls the file damaged ({last_line(found)}).")

    def promote(self):
        """As of Database."""
        if not os.path.exists(self.new):
            raise BackupError(f"There is no file {self.new}; restore a backup first.")
        if os.path.exists(self.name):
            if self._has_old():
                raise self.left()
            with contextlib.closing(sqlite3.connect(self.name)) as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            _unlink(self.old)
            try:
                os.link(self.name, self.old)
            except OSError:  # a filesystem without such links
                os.replace(self.name, self.old)
        _replace(self.new, self.name)

    def revert(self):
        """As of Database."""
        _unlink(self.new)
        if not self._has_old():
            _unlink(self.old)
            return False
        _replace(self.old, self.name)
        return True

    def finish(self):
        """As of Database."""
        found = os.path.exists(self.old)
        if os.path.exists(self.name):
            _unlink(self.old)
        elif found:
            os.replace(self.old, self.name)
        return found


def _replace(source, target):
    """Rename a SQLite file; what belongs to a former file of the new name must not be taken for this one's."""
    for suffix in SUFFIXES[1:]:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(target + suffix)
    os.replace(source, target)


def _unlink(path):
    """Remove a SQLite file, with what belongs to it."""
    for suffix in SUFFIXES:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path + suffix)
