"""Numbers of requests, in files that the worker processes of a server share, for request_metrics.py.

Each worker writes its numbers to a file of its own that is mapped into memory, one word of 64 bits each. Any worker
reads the files of all, adds those of workers that have ended to one file, and removes them; so a killed worker's
counters stay in the sums, and the number of files is bounded. A worker holds a POSIX lock on its file, which ends with
the process.
"""

import bisect
import contextlib
import fcntl
import json
import mmap
import os
import pathlib
import time

import server_hooks as hooks
from request_routes import OTHER

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0)
"""Upper bounds of the histograms' buckets in seconds, with the thresholds of the alerts and service levels."""
BOUNDS_IN_NANOSECONDS = tuple(int(bound * 1e9) for bound in BOUNDS)
NANOSECONDS, RECEIVED, SENT, EXCEPTIONS = range(len(BOUNDS) + 1, len(BOUNDS) + 5)
"""Words of a series after its buckets, the last of which has no bound."""
WORDS = EXCEPTIONS + 1

SEGMENT = 64 << 10
"""Bytes by which a worker's file grows."""
SEGMENTS = 16
"""A worker's file grows no further; what has no room counts as route "other"."""
MAGIC = 0x6D6C666C6F770001
IN_FLIGHT = 1
"""Word of the file; the series begin after it."""
SEPARATOR = "\0"
"""Between method, route and status in the name of a series."""
OVERFLOW = ("OTHER", OTHER, OTHER)
"""The series for what has no room, not even as route "other"."""


class Numbers:
    """What this process has counted, in a file that others read while it is written.

    The file's blocks are reserved before they are mapped, since writing to a mapped hole of a full disk would end the
    process. Where no file can be had, the numbers are in this process' memory only.
    """

    def __init__(self, folder):
        self.path, self.file, self.segments, self.series = None, None, [], {}
        try:
            self.path, self.file = folder.new_file()
            self.grow()
        except OSError as error:
            self.file = None
            hooks.log(f"requests that this worker answers are not in the metrics of the others: {error}")
            self.grow()
        self.head = self.segments[0]
        self.head[0], self.used = MAGIC, IN_FLIGHT + 1
        self.series[OVERFLOW] = self.room(OVERFLOW)

    def grow(self):
        """Make room for more series."""
        size = len(self.segments) * SEGMENT
        if len(self.segments) == SEGMENTS:
            raise OSError(f"more than {size} bytes of numbers")
        if self.file is None:
            segment = mmap.mmap(-1, SEGMENT)
        else:
            os.posix_fallocate(self.file.fileno(), size, SEGMENT)
            segment = mmap.mmap(self.file.fileno(), SEGMENT, offset=size)
        self.segments.append(memoryview(segment).cast("Q"))
        self.used = 0

    def room(self, key):
        """Where a new series is: a segment, and the first of its words there."""
        name = SEPARATOR.join(key).encode()
        length = 1 + words_of(len(name))
        if self.used + length + WORDS > SEGMENT // 8:
            self.grow()
        segment, start = self.segments[-1], self.used
        segment.cast("B")[(start + 1) * 8 : (start + length) * 8] = name.ljust(words_of(len(name)) * 8)
        self.used += length + WORDS
        segment[start] = len(name)  # last: readers see the whole name or none
        return segment, start + length

    def of(self, key):
        """A series' segment and the first of its words; those of a wider series where there is no room."""
        found = self.series.get(key)
        if found is None:
            try:
                found = self.room(key)
            except OSError:
                method, route, status = key
                found = self.series[OVERFLOW] if route == OTHER else self.of((method, OTHER, status))
            self.series[key] = found
        return found

    def add(self, key, nanoseconds, received, sent):
        words, start = self.of(key)
        words[start + bisect.bisect_left(BOUNDS_IN_NANOSECONDS, nanoseconds)] += 1
        words[start + NANOSECONDS] += nanoseconds
        if received:
            words[start + RECEIVED] += received
        if sent:
            words[start + SENT] += sent

    def add_exception(self, key):
        words, start = self.of(key)
        words[start + EXCEPTIONS] += 1


def words_of(length):
    """Words that so many bytes take."""
    return -(-length // 8)


def read(segments):
    """Series with their words, and the requests in flight, of a process' file."""
    if segments[0][0] != MAGIC:
        return {}, 0
    counted, position = {}, IN_FLIGHT + 1
    for words in segments:
        while position < len(words) and words[position]:
            length = words[position]
            name = words[position + 1 : position + 1 + words_of(length)].tobytes()[:length].decode()
            start = position + 1 + words_of(length)
            counted[tuple(name.split(SEPARATOR))] = words[start : start + WORDS].tolist()
            position = start + WORDS
        position = 0
    return counted, segments[0][IN_FLIGHT]


def read_file(file):
    """The same of an open file of another process; nothing is in one that is being made."""
    size = os.fstat(file.fileno()).st_size
    if not size:
        return {}, 0
    with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as content:
        with memoryview(content) as raw, raw.cast("Q") as words:
            step = SEGMENT // 8
            segments = [words[start : start + step] for start in range(0, len(words), step)]
            try:
                return read(segments)
            finally:
                for segment in segments:
                    segment.release()


def add(sums, counted):
    """Add series to others."""
    for key, words in counted.items():
        known = sums.get(key)
        sums[key] = words if known is None else [one + other for one, other in zip(known, words)]


class Folder:
    """The files of all workers of a server: PID-TIME.worker of each, `ended.json` of those that have ended."""

    def __init__(self, path):
        self.path = pathlib.Path(path)
        self.ended = self.path / "ended.json"
        self.started = self.path / "started"

    @contextlib.contextmanager
    def locked(self):
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(self.path / "lock", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def empty(self):
        """At the start of a server: its numbers begin at 0, unless workers of another one are using the folder."""
        with self.locked():
            files = list(self.path.glob("*.worker"))
            if any(not dead for _path, _file, dead in self.open_files(files)):
                return
            for path in (*files, self.ended):
                path.unlink(missing_ok=True)
            self.started.write_text(str(time.time()), encoding="utf-8")

    def new_file(self):
        """An empty file for this process, locked: path and file; those of workers that have ended are merged before."""
        with self.locked():
            self.merge(self.open_files(self.path.glob("*.worker")))
            if not self.started.exists():
                self.started.write_text(str(time.time()), encoding="utf-8")
            path = self.path / f"{os.getpid()}-{time.time_ns()}.worker"
            file = open(path, "x+b", buffering=0)
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return path, file

    def open_files(self, paths):
        """Files, open, and whether their process has ended."""
        for path in paths:
            with open(path, "r+b", buffering=0) as file:
                try:
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    dead = True
                except OSError:
                    dead = False
                yield path, file, dead

    def sums(self, own):
        """Series of all workers, ended ones included; the requests in flight; and when the server started.

        Args:
            own: Numbers of this process, whose file must not be opened again: closing it would end its lock.
        """
        with self.locked():
            others = [path for path in self.path.glob("*.worker") if path != own.path]
            sums, in_flight = self.merge(self.open_files(others))
            started = float(self.started.read_text(encoding="utf-8"))
        counted, more = read(own.segments)
        add(sums, counted)
        return sums, in_flight + more, started

    def merge(self, files):
        """Series of workers, and of requests in flight; files of ended workers become a part of `ended.json`.

        That one names the files that are in it: a process that is killed before they are removed changes no sum.
        """
        try:
            known = json.loads(self.ended.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = {"files": [], "series": {}}
        ended = {tuple(name.split(SEPARATOR)): words for name, words in known["series"].items()}
        living, in_flight, merged = {}, 0, []
        for path, file, dead in files:
            counted, more = ({}, 0) if path.name in known["files"] else read_file(file)
            if dead:
                add(ended, counted)
                merged.append(path)
            else:
                add(living, counted)
                in_flight += more
        if merged:
            self.write(ended, merged)
        add(living, ended)
        return living, in_flight

    def write(self, ended, merged):
        content = {
            "files": [path.name for path in merged],
            "series": {SEPARATOR.join(key): words for key, words in ended.items()},
        }
        new = self.ended.with_suffix(".new")
        try:
            new.write_text(json.dumps(content), encoding="utf-8")
            new.replace(self.ended)
        except OSError:
            return  # a full disk; the next time, then
        for path in merged:
            path.unlink(missing_ok=True)
