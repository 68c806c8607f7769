# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Playbooks as Ansible Automation Platform runs them, by ansible-runner, and the answers of a survey."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import types
from dataclasses import dataclass

import ansible_runner
import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]


def load(path: pathlib.Path) -> types.ModuleType:
    """A file of other tests as a module."""
    spec = importlib.util.spec_from_file_location(f"{path.stem}_of_{path.parent.name}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


COLLECTIONS = load(ROOT / "tests/unit/conftest.py").COLLECTIONS
"""The collection is importable from now on."""
LOCALHOST = "localhost ansible_connection=local ansible_python_interpreter='{{ ansible_playbook_python }}'"
"""An inventory with the controller alone."""
ENVIRONMENT = {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
               "LC_ALL": "C.UTF-8", "ANSIBLE_NOCOLOR": "1"}


class Answers(yaml.SafeDumper):
    """Writes texts as AWX writes those of a launch."""

    def represent_data(self, data):
        return self.represent_scalar("!unsafe", data) if isinstance(data, str) else super().represent_data(data)


@dataclass(frozen=True)
class Job:
    """A job that ended.

    Attributes:
        code: exit code of ansible-playbook.
        output: what it printed.
        folder: its private data directory.
    """

    code: int
    output: str
    folder: pathlib.Path


def run_job(folder: pathlib.Path, playbook: str, answers: dict, *,
            inventory: str = LOCALHOST, **settings) -> Job:
    """Run a playbook of the collection as a job: the project is the clone, the answers are extra variables in a file,
    which AWX marks so that Ansible takes none for a template.

    Args:
        folder: private data directory.
        playbook: name in playbooks/.
        answers: extra variables.
        inventory: text of the inventory.
        settings: further arguments of ansible_runner.run().
    """
    (folder / "inventory").mkdir(parents=True, exist_ok=True)
    (folder / "inventory" / "hosts").write_text(inventory + "\n")
    (folder / "env").mkdir(exist_ok=True)
    (folder / "env" / "extravars").write_text(yaml.dump(answers, Dumper=Answers))
    environment = {**ENVIRONMENT, "ANSIBLE_HOME": str(folder / "ansible"), **settings.pop("envvars", {})}
    result = ansible_runner.run(private_data_dir=str(folder), project_dir=str(ROOT), playbook=f"playbooks/{playbook}",
                                envvars=environment, quiet=True, **settings)
    return Job(result.rc, result.stdout.read(), folder)


@pytest.fixture(name="job")
def fixture_job(tmp_path):
    """Runs a job in a folder of its own."""
    def start(playbook: str, answers: dict, name: str = "job", **settings) -> Job:
        return run_job(tmp_path / name, playbook, answers, **settings)
    return start


os.environ.setdefault("LC_ALL", "C.UTF-8")
