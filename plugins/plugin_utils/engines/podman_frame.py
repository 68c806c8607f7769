# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Commands on a host that are independent of how Ansible's connection carries standard input and output.

With ``ansible_ssh_use_tty`` a terminal merges a command's errors into its output, turns line feeds into CR LF and
echoes what is typed; a login banner, a become prompt or ssh's own messages stand before and after. scripts/frame.sh
therefore encodes both streams, and ``unframe`` finds them again.
"""

from __future__ import annotations

import base64
import functools
import pathlib
import re
import shlex
from typing import NamedTuple

SCRIPTS = pathlib.Path(__file__).parent / "scripts"
NO_STDIN, PIPE = "none", "pipe"

FRAMED = re.compile(r"^<mlops\.mlflow output\r?\n(.*)^<mlops\.mlflow errors\r?\n(.*)^<mlops\.mlflow end\r?$",
                    re.DOTALL | re.MULTILINE)
ENCODED = re.compile(r"^[A-Za-z0-9+/]+=*$")
SSH_NOTICE = re.compile(r"^(Shared c|C)onnection to \S+ closed\.?$")


class Result(NamedTuple):
    """How a command ended: its exit code and what it wrote."""

    rc: int
    out: str
    err: str


@functools.cache
def script(name: str, comments: bool = False) -> str:
    """The text of a file below ``scripts``; without comments when it is an argument, which process lists and sudo's log
    show."""
    text = (SCRIPTS / name).read_text(encoding="utf-8")
    return (
        text
        if comments
        else "".join(line for line in text.splitlines(keepends=True) if not line.lstrip().startswith("#"))
    )


def frame(argv: list[str], stdin: str = NO_STDIN) -> str:
    """The shell command that runs ``argv`` and frames what it writes.

    Args:
        argv: program and arguments; no secrets, since they show in the process list.
        stdin: NO_STDIN, PIPE, or the path of a file on the host, which is removed once it is open.
    """
    return shlex.join(["sh", "-c", script("frame.sh"), "sh", stdin, *argv])


def unframe(text: str) -> Result | None:
    """The result of a framed command in what a connection returned; None when the command did not run to its end."""
    match = FRAMED.search(text)
    if match is None:
        return None
    out, err = _decoded(match[1]), _decoded(match[2])
    err, _newline, code = err.rpartition("\n")
    return Result(int(code), out, err)


def complaint(text: str) -> str:
    """The last line of what stands in the place of a frame: why a connection or become could not run the command."""
    lines = [line.strip() for line in text.splitlines()]
    lines = [
        line
        for line in lines
        if line and not SSH_NOTICE.match(line) and not line.startswith(("<mlops.mlflow", "BECOME-SUCCESS-"))
    ]
    return lines[-1] if lines else ""


def _decoded(text: str) -> str:
    """Text from base64 lines; what else was written to the terminal meanwhile (a broadcast message, say) is left
    out."""
    lines = [line.strip() for line in text.splitlines()]
    return base64.b64decode("".join(line for line in lines if ENCODED.match(line))).decode(errors="replace")
