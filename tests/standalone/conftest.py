# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The collection as its users have it: installed from its archive, away from the clone."""

from __future__ import annotations

import os
import pathlib
import subprocess

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]


def run(argv: list[str], cwd: pathlib.Path, **environment: str) -> subprocess.CompletedProcess:
    """Run a command with the clone's configuration out of the way."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "KUBECONFIG"))}
    env |= {"ANSIBLE_NOCOLOR": "1", "LC_ALL": "C.UTF-8", **environment}
    return subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True, check=False)


@pytest.fixture(scope="session")
def installed(tmp_path_factory) -> pathlib.Path:
    """A collections path that holds nothing but the installed archive."""
    folder = tmp_path_factory.mktemp("collections")
    version = yaml.safe_load((ROOT / "galaxy.yml").read_text())["version"]
    archive = f"{folder}/mlops-mlflow-{version}.tar.gz"
    for argv in (["build", "--output-path", f"{folder}"],
                 ["install", "--offline", "--no-deps", "--collections-path", f"{folder}", archive]):
        done = run(["ansible-galaxy", "collection", *argv], ROOT, ANSIBLE_COLLECTIONS_PATH=f"{folder}")
        assert done.returncode == 0, done.stdout + done.stderr
    return folder
