# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the benchmarks share: Ansible's environment, running commands, tables."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import pathlib
import resource
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any, Callable

ROOT = pathlib.Path(__file__).resolve().parents[2]
# As in the Makefile: the clone's own tools, collection and settings, whatever the machine's are.
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{ROOT / '.venv/bin'}:{os.environ['PATH']}:/usr/sbin:/sbin",
    "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
    "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".cache/collections"),
    "ANSIBLE_NOCOLOR": "true",
    "LC_ALL": "C.UTF-8",
}
ENVIRONMENT.pop("PYTHONDONTWRITEBYTECODE", None)
LOAD = os.getloadavg()[0]
PODMAN_CONF = pathlib.Path("/var/lib/mlops.mlflow/containers.conf")
"""Written by the podman engine where this machine's limits are below podman's defaults."""


class Failed(Exception):
    """What stops a benchmark, in a sentence."""


def log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run(argv: list, **options) -> str:
    """Standard output of a command; a failure raises with the end of its output."""
    done = subprocess.run(
        list(map(str, argv)),
        capture_output=True,
        text=True,
        check=False,
        **{"env": ENVIRONMENT, "cwd": ROOT, **options},
    )
    if done.returncode:
        raise Failed(f"`{' '.join(map(str, argv))[:200]}` failed:\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout


def timed(argv: list, **options) -> tuple[float, float, str]:
    """Seconds from start to end of a command, seconds of processor that it and its children took, and its standard
    output."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    output = run(argv, **options)
    seconds, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, output


def podman(*argv, **options) -> str:
    if PODMAN_CONF.exists():
        options["env"] = {**ENVIRONMENT, "CONTAINERS_CONF": str(PODMAN_CONF)}
    return run(["podman", *argv], **options).strip()


def table(head: list[str], rows: list[list[str]]) -> None:
    """Markdown, so that what is printed can be recorded as it is; columns but the first are right-aligned."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [head, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])], *rows]
    for line in lines:
        cells = [
            cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(line, widths))
        ]
        print(f"| {' | '.join(cells)} |")
    print(flush=True)


def heading(*versions: str) -> None:
    """When, in which versions, on which machine."""
    model = next(
        (
            line.split(":")[1].strip()
            for line in pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ),
        "unknown processor",
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    print(f"{datetime.date.today()}; {', '.join(versions)}; {os.cpu_count()} cores ({model}), {memory:.0f} GiB, "
          f"load {LOAD:.1f} at the start\n", flush=True)


def version(package: str) -> str:
    return f"{package} {importlib.metadata.version(package)}"


def in_a_folder(make: Callable[[pathlib.Path], Any], measure: Callable[[Any], None]) -> None:
    """Measure, and remove what was made, also when the run is stopped.

    Args:
        make: makes a benchmark, which has a method ``clean``, with a folder for its files.
        measure: what it measures.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Stopped."))
    with tempfile.TemporaryDirectory(prefix="mlops-benchmark-") as folder:
        bench = make(pathlib.Path(folder))
        try:
            measure(bench)
        finally:
            bench.clean()


def check_free(instance: str) -> None:
    """Stop if an instance is there already, since it would be removed."""
    if podman("ps", "--all", "--quiet", "--filter", f"label=app.kubernetes.io/instance={instance}"):
        sys.exit(f"An instance {instance} is there already; name another with --instance, or uninstall it.")


def program(main: Callable[[], None], *expected: type[Exception]) -> None:
    """Run a program; what stops it is a sentence and no traceback."""
    try:
        main()
    except (Failed, KeyboardInterrupt, *expected) as error:
        sys.exit(str(error) or "Stopped.")
