"""The other container of the pod, with the programs of the database (database.sh): a shared folder, in it a folder for
each program that runs, with its variables, a pipe, and its end."""

import contextlib
import errno
import os
import pathlib
import select
import shlex
import threading
import time

from sets import BackupError

START_SECONDS = 300
"""Until the second container runs its program; its image may have to be pulled."""
BLOCK = 2**20


def last_line(text):
    """The last line that is not empty, usually the one with the cause."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


class Exchange:
    """The folder that the container with the database's programs shares.

    Args:
        folder: its path.
    """

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self._ended, self._number = threading.Event(), 0

    @property
    def _request(self):
        """The folder of the program that runs."""
        return self.folder / str(self._number)

    @property
    def pipe(self):
        """Of the program that runs."""
        return self._request / "pipe"

    def __enter__(self):
        def stay_alive():
            while not self._ended.wait(15):
                (self.folder / "alive").touch()

        (self.folder / "alive").touch()
        threading.Thread(target=stay_alive, daemon=True).start()
        return self

    def __exit__(self, *_exception):
        self._ended.set()
        (self.folder / "ended").touch()

    def begin(self, variables, files):
        """Let the other container begin.

        Args:
            variables: of the program's environment.
            files: text by name, beside them.
        """
        self._number += 1
        # The other container has another user.
        self._request.mkdir()
        self._request.chmod(0o777)
        os.mkfifo(self.pipe)
        self.pipe.chmod(0o666)
        for name, text in files.items():
            (self._request / name).write_text(text, encoding="utf-8")
        lines = "".join(f"export {name}={shlex.quote(str(value))}\n" for name, value in variables.items())
        part = self._request / "database.env.part"
        part.write_text(lines, encoding="utf-8")
        part.rename(self._request / "database.env")

    def _wait(self, ready):
        """Until the other side has opened the pipe, or has ended before."""
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            self._refuse_failure()
            if time.monotonic() > deadline:
                raise BackupError(
                    f"The container with the database's programs did not begin within {START_SECONDS} s; look at "
                    "the events of the pod."
                )

    def _refuse_failure(self):
        if (self._request / "status").exists():
            raise BackupError(f"The database's program failed: {self._errors()}")
        if (self.folder / "database-ended").exists():
            raise BackupError(
                "The container with the database's programs ended before its work was done; look at its log."
            )

    @contextlib.contextmanager
    def reading(self):
        """A stream of what the program writes."""
        descriptor = os.open(self.pipe, os.O_RDONLY | os.O_NONBLOCK)
        with open(descriptor, "rb", buffering=BLOCK) as stream:
            self._wait(lambda: select.select([descriptor], [], [], 0.5)[0])
            os.set_blocking(descriptor, True)
            yield stream

    @contextlib.contextmanager
    def writing(self):
        """A stream to the program."""
        descriptors = []

        def opened():
            try:
                descriptors.append(os.open(self.pipe, os.O_WRONLY | os.O_NONBLOCK))
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                time.sleep(0.2)
            return descriptors

        self._wait(opened)
        os.set_blocking(descriptors[0], True)
        with open(descriptors[0], "wb", buffering=0) as stream:
            yield stream

    def finish(self, what, seconds=START_SECONDS):
        """Wait for the program's end, for so long after its last byte; raise BackupError if it failed."""
        deadline = time.monotonic() + seconds
        status = self._request / "status"
        while not status.exists():
            if (self.folder / "database-ended").exists() and not status.exists():
                raise BackupError(f"{what} failed: the container with the database's programs ended; look at its log.")
            if time.monotonic() > deadline:
                raise BackupError(f"{what} did not end within {seconds} s after its last byte.")
            time.sleep(0.1)
        if status.read_text(encoding="ascii").strip() != "0":
            raise BackupError(f"{what} failed: {self._errors()}")

    def _errors(self):
        try:
            text = (self._request / "errors").read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            text = ""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        # What follows may be a long statement.
        named = [line for line in lines if "error" in line.lower()]
        return " ".join(named[:1] or lines[-3:]) or "it wrote nothing"
