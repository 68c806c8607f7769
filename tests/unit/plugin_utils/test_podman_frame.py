# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A command's result is the same through pipes and through a terminal that merges streams, rewrites line ends and has
other writers."""

from __future__ import annotations

import os
import pty
import subprocess

import pytest
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines import podman_frame as frames

NOISY = r"printf '\036one\n\001\r\n\tdone'; printf 'warning\nError: no\n' >&2; printf 'ä' ; cat; exit 7"
EXPECTED = "\x1eone\n\x01\r\n\tdoneä"


def through_pipes(command: str, data: bytes = b"") -> str:
    return subprocess.run(["sh", "-c", command], input=data, stdout=subprocess.PIPE, check=False).stdout.decode()


def through_terminal(command: str) -> str:
    """What a terminal shows of a command whose input, output and errors it is."""
    pid, master = pty.fork()
    if not pid:
        os.execvp("sh", ["sh", "-c", command])
    os.write(master, b"typed\n")  # the terminal echoes it; no command may read it
    seen = b""
    while True:
        try:
            chunk = os.read(master, 65536)
        except OSError:  # how Linux tells the end of a terminal
            break
        if not chunk:
            break
        seen += chunk
    os.waitpid(pid, 0)
    os.close(master)
    return seen.decode()


@pytest.mark.parametrize("transport", [through_pipes, through_terminal])
def test_output_errors_and_code_arrive_whole(transport):
    seen = transport(frames.frame(["sh", "-c", NOISY]))
    assert frames.unframe(seen) == (7, EXPECTED, "warning\nError: no\n")


def test_a_terminal_does_change_what_is_not_framed():
    assert "\r\n" in through_terminal("echo line"), "the terminal of these tests is none, so they prove nothing"


def test_nothing_written_is_nothing_read():
    assert frames.unframe(through_terminal(frames.frame(["true"]))) == (0, "", "")
    assert frames.unframe(through_pipes(frames.frame(["false"]))) == (1, "", "")


def test_much_is_framed_line_by_line():
    result = frames.unframe(through_terminal(frames.frame(["sh", "-c", "seq 100000; seq 100000 >&2"])))
    assert result.out == result.err == "".join(f"{n}\n" for n in range(1, 100001))


def test_input_arrives_as_it_is_through_a_pipe():
    data = bytes(range(256)) * 1000
    result = frames.unframe(through_pipes(frames.frame(["sha256sum"], frames.PIPE), data))
    assert result.out.split()[0] == subprocess.run(["sha256sum"], input=data, stdout=subprocess.PIPE,
                                                   check=True).stdout.decode().split()[0]


@pytest.mark.parametrize("transport", [through_pipes, through_terminal])
def test_input_in_a_file_is_gone_when_the_command_runs(transport, tmp_path):
    path = tmp_path / "stdin"
    path.write_bytes(b"secret\r\n")
    result = frames.unframe(transport(frames.frame(["sh", "-c", f"test ! -e {path} && cat"], str(path))))
    assert result == (0, "secret\r\n", "")


def test_an_input_file_that_cannot_be_read_is_an_error(tmp_path):
    assert frames.unframe(through_pipes(frames.frame(["true"], str(tmp_path / "none")))) is None


@pytest.mark.parametrize("arguments", [["a b", "'", '"', "$HOME", "*", "", "\n", "ä", "-n"]])
def test_arguments_arrive_as_they_are(arguments):
    result = frames.unframe(through_terminal(frames.frame(["printf", "%s\\0", *arguments])))
    assert result.out.split("\0")[:-1] == arguments


def test_what_stands_around_and_between_is_left_out():
    """A banner, sudo's prompt and success message, a message of the machine's to all terminals, ssh's farewell."""
    seen = through_terminal(frames.frame(["printf", "%0200d", "7"]))
    lines = seen.replace("\r\n", "\n").splitlines()
    lines.insert(2, "Broadcast message from root@host (Mon Nov 23 21:12:41 2026):")
    noisy = "Welcome to Debian\r\n[sudo via ansible, key=x] password:\r\nBECOME-SUCCESS-abc\r\n" + "\r\n".join(lines)
    assert frames.unframe(noisy + "\r\nShared connection to host closed.\r\n") == (0, f"{7:0200d}", "")


@pytest.mark.parametrize("seen, reason", [
    ("sudo: sorry, you must have a tty to run sudo\n", "sudo: sorry, you must have a tty to run sudo"),
    ("This account is currently not available.\r\nShared connection to host closed.\r\n",
     "This account is currently not available."),
    ("<mlops.mlflow output\r\nShared connection to host closed.\r\n", ""),
])
def test_a_command_that_did_not_run_leaves_its_reason(seen, reason):
    assert frames.unframe(seen) is None
    assert frames.complaint(seen) == reason
