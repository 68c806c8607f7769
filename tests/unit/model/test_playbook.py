# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The playbooks ask the model: for every host before any is touched, and for the inventory as a whole."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess

import pytest
import yaml

ROOT = pathlib.Path(__file__).parents[3]
CASES = {
    "type": ({"database_type": "oracle"}, "database_type must be one of"),
    "null": ({"mlflow_labels": None}, "mlflow_labels is null"),
    "misspelt": ({"mlflow_server_replica": 2}, "use mlflow_server_replicas"),
    "nested": ({"mlflow_server": {"replicas": 2}}, "write mlflow_server_replicas instead"),
    "undefined": ({"database_password": "{{ nowhere_defined }}"}, "database_password cannot be worked out"),
    "of-a-template": ({"wanted": "ten", "database_size": "{{ wanted }}"}, "database_size is 'ten'"),
    "secret": ({"database_password": "secret-word\n"}, "database_password holds a line break"),
    "toleration": ({"mlflow_tolerations": [{"operator": "Is"}]}, "mlflow_tolerations[0].operator is 'Is'"),
    "patch": ({"mlflow_server_patches": [{"target": {"kind": "Nothing"}, "patch": {}}]},
              "mlflow_server_patches[0] reaches no object"),
    "engine": ({"mlflow_server_kaiwo": True}, "mlflow_server_kaiwo is true while mlflow_engine is podman"),
    "version": ({"mlflow_version": "2.22.0"}, "mlflow_version is 2.22.0, which is older than the oldest supported"),
}


def play(folder: pathlib.Path, hosts: dict, *arguments: str) -> subprocess.CompletedProcess:
    """A run of site.yml over hosts, whose objects would be written to the folder rendered."""
    common = {"ansible_connection": "local", "mlflow_render_dir": str(folder / "rendered")}
    (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts,
                                                              "vars": common}} if hosts else {"all": {}}))
    return subprocess.run(
        ["ansible-playbook", "-i", folder / "hosts.yml", "playbooks/site.yml", *arguments], cwd=ROOT,
        capture_output=True, text=True,
        check=False, env={**os.environ, "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json", "ANSIBLE_FORKS": "4"})


def results(done: subprocess.CompletedProcess) -> dict[str, list[dict]]:
    """The results of all tasks by host."""
    report, found = json.loads(done.stdout[done.stdout.index("{"):]), {}
    for one in report["plays"]:
        for task in one["tasks"]:
            for host, result in task["hosts"].items():
                found.setdefault(host, []).append(result)
    return found


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """A run over all cases and a host with nothing wrong."""
    folder = tmp_path_factory.mktemp("inventory")
    done = play(folder, {**{name: variables for name, (variables, _sentence) in CASES.items()}, "sound": {}}, "--tags",
                "nothing-but-the-check")
    return folder, done, results(done)


@pytest.mark.parametrize("case", CASES)
def test_a_host_fails_with_one_sentence(checked, case):
    _folder, _done, found = checked
    failed = [result for result in found[case] if result.get("failed")]
    failures = [result for result in failed if result["action"] == "mlops.mlflow.validate"]
    assert len(failures) == 1
    assert found[case][-1].get("failed"), "the host fails at the end of the run, too"
    assert CASES[case][1] in failures[0]["msg"] and len(failures[0]["msg"].splitlines()) == 1
    assert "secret-word" not in json.dumps(failures)


def test_the_others_go_on_and_the_run_fails(checked):
    folder, done, found = checked
    assert done.returncode != 0
    assert not any(result.get("failed") for result in found["sound"])
    assert "Traceback" not in done.stdout + done.stderr
    assert not (folder / "rendered").exists()


@pytest.mark.parametrize("hosts, arguments, sentence", [
    ({}, (), "The inventory has no host"),
    ({"a": {}}, ("-e", "mlflow_hosts=nowhere"), "matches mlflow_hosts (nowhere)"),
    ({"a": {"mlflow_instance": "same"}, "b": {"mlflow_instance": "same"}}, (),
     "mlflow_instance is 'same' in namespace 'same' for both a and b"),
    ({"a": {"mlflow_server_publish": "0.0.0.0:5000"}, "b": {"mlflow_server_publish": "127.0.0.1:5000"}}, (),
     "mlflow_server_publish of b"),
])
def test_an_inventory_is_refused_as_a_whole(tmp_path, hosts, arguments, sentence):
    done = play(tmp_path, hosts, *arguments)
    assert done.returncode != 0, done.stdout
    assert sentence in done.stdout
    assert not (tmp_path / "rendered").exists()
