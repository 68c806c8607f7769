# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The definition of the execution environment. `make ee` builds it and runs site.yml in it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

import yaml
from conftest import ENVIRONMENT, ROOT


def locked(name: str) -> dict[str, str]:
    """The versions of a file of locked requirements, by package."""
    return dict(re.findall(r"^([a-z0-9._-]+)(?:\[[a-z,]+\])?==(\S+)", (ROOT / name).read_text(), re.MULTILINE))


def test_ansible_builder_takes_the_definition(tmp_path):
    """With an archive of any content, since none is opened."""
    for name in ("execution-environment.yml", "requirements-ee.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".cache" / "ee").mkdir(parents=True)
    (tmp_path / ".cache" / "ee" / "mlops-mlflow.tar.gz").touch()
    done = subprocess.run(["ansible-builder", "create", "--file", "execution-environment.yml", "--context", "context"],
                          cwd=tmp_path, env={**os.environ, **ENVIRONMENT}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    containerfile = (tmp_path / "context" / "Containerfile").read_text()
    assert "PIP_CONSTRAINT=/etc/pip-constraints.txt" in containerfile and "USER 1000" in containerfile


def test_ansible_builder_takes_the_definition_of_the_decision_environment(tmp_path):
    done = subprocess.run(["ansible-builder", "create", "--file", ROOT / "decision-environment.yml", "--context",
                           tmp_path], env={**os.environ, **ENVIRONMENT}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (rulebook,) = (tmp_path / "_build" / "requirements.txt").read_text().split()
    assert rulebook == f"ansible-rulebook=={locked('requirements-test.txt')['ansible-rulebook']}"
    assert "default-jre-headless" in (tmp_path / "Containerfile").read_text()


def test_versions_are_those_of_the_clone():
    clone, image = locked("requirements.txt"), locked("requirements-ee.txt")
    assert clone.items() <= image.items()
    assert image["ansible-runner"] == locked("requirements-test.txt")["ansible-runner"]


def test_the_collection_says_what_its_controller_needs():
    """As ansible-builder reads it from an installed collection."""
    metadata = yaml.safe_load((ROOT / "meta" / "execution-environment.yml").read_text())
    needed = (ROOT / metadata["dependencies"]["python"]).read_text()
    names = re.findall(r"^([a-z0-9]+)", needed, re.MULTILINE)
    assert names and set(names) <= set(locked("requirements-ee.txt"))
