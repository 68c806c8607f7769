# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What tools/debian-packages does for whom. Programs of the names that it calls stand in their way, so nothing is
installed."""

from __future__ import annotations

import pathlib
import subprocess

import pytest

TOOL = pathlib.Path(__file__).parents[2] / "tools" / "debian-packages"
ASKED = "ask an administrator to run: apt-get install --no-install-recommends runc uidmap\n"
NO_PASSWORD = '[ "$1" != -n ] || shift; "$@"'
PASSWORD = 'case $1 in -n) exit 1;; -v) exit 0;; *) "$@";; esac'
NOBODY = "echo 'ana is not in the sudoers file.' >&2; exit 1"


@pytest.mark.parametrize("uid, sudo, there, code, calls", [
    pytest.param(0, None, "podman", 0, "apt-get", id="root"),
    pytest.param(1001, NO_PASSWORD, "podman", 0, "sudo env", id="sudo without a password"),
    pytest.param(1001, PASSWORD, "podman", 0, "sudo env", id="sudo with a password"),
    pytest.param(1001, NOBODY, "podman", 1, "", id="sudo that refuses"),
    pytest.param(1001, None, "podman", 1, "", id="no sudo"),
    pytest.param(1001, None, "podman runc uidmap", 0, "", id="no sudo, and all is there"),
])
def test_packages_are_installed_or_the_administrator_s_command_is_named(tmp_path, uid, sudo, there, code, calls):
    log = tmp_path / "log"
    log.touch()
    programs = {"id": f"echo {uid}", "apt-get": f"echo apt-get $* >>{log}",
                "dpkg-query": "; ".join(f"echo {package} installed" for package in there.split()),
                **({"sudo": f"echo sudo $* >>{log}\n{sudo}"} if sudo else {})}
    for name, script in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    for name in ("bash", "cut", "env", "grep", "sed", "sh", "sort"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    done = subprocess.run(
        [TOOL, "podman", "runc", "uidmap"], capture_output=True, text=True, env={"PATH": str(tmp_path)}, check=False
    )
    assert done.returncode == code, done.stderr
    installs = [line for line in log.read_text().splitlines() if line.startswith("apt-get") and " install " in line]
    assert bool(installs) == bool(calls) and (not calls or calls in log.read_text())
    assert all(line.endswith("runc uidmap") for line in installs)
    assert done.stderr.endswith(ASKED) == bool(code)
