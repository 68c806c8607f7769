# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A component more touches its own folder, its own file and the list of components; all else follows.

The one in ``echo`` is added to a copy of the collection and deployed under podman.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
import yaml
from conftest import ROOT, run

STATE = pathlib.Path("/var/lib/mlops.mlflow" if os.geteuid() == 0 else "~/.local/share/mlops.mlflow").expanduser()
ON_PODMAN = {
    "mlflow_engine": "podman", "mlflow_image_source": "build", "mlflow_server_publish": "127.0.0.1:15890",
    "mlflow_server_resources": {"requests": {"cpu": "100m", "memory": "512Mi"}}, "mlflow_wait_timeout": 300,
}
IMPORT = "from ansible_collections.mlops.mlflow.plugins.plugin_utils.components.echo import Echo"
RENDERED = {"mlflow_engine": "kubernetes", "mlflow_network_policy": True}


class Project:
    """A copy of the collection with the component, and an inventory.

    Attributes:
        rendered: folder to which the instance of a cluster is rendered.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder, self.rendered = folder, folder / "rendered"
        copy = folder / "ansible_collections" / "mlops" / "mlflow"
        for part in ("galaxy.yml", "meta", "playbooks", "plugins", "roles"):
            source = ROOT / part
            if source.is_dir():
                shutil.copytree(source, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                copy.mkdir(parents=True)
                shutil.copy(source, copy / part)
        shutil.copytree(pathlib.Path(__file__).parent / "echo", copy, dirs_exist_ok=True)
        components = copy / "plugins" / "plugin_utils" / "components" / "__init__.py"
        before = components.read_text()
        after = before.replace("Monitoring())", "Monitoring(), Echo())")
        after = after.replace("import Database\n", f"import Database\n{IMPORT}\n")
        assert after.count("Echo") == 2
        components.write_text(after)

    def play(self, playbook: str, hosts: dict, **variables) -> subprocess.CompletedProcess:
        """Run a playbook of the copy."""
        smallest = {"database_type": "sqlite", "object_storage_type": "volume", "ansible_connection": "local",
                    "ansible_python_interpreter": sys.executable}
        (self.folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts, "vars": smallest}}))
        argv = ["ansible-playbook", "--inventory", "hosts.yml", f"mlops.mlflow.{playbook}"]
        return run([*argv, "--extra-vars", json.dumps(variables)], self.folder, ANSIBLE_PIPELINING="true",
                   ANSIBLE_COLLECTIONS_PATH=str(self.folder), ANSIBLE_CALLBACK_RESULT_FORMAT="yaml")

    def on_podman(self, playbook: str, **variables) -> str:
        """Run a playbook for the instance on this machine and return what it printed; it must succeed."""
        done = self.play(playbook, {"component-echo": ON_PODMAN}, **variables)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return Project(tmp_path_factory.mktemp("project"))


def podman(*arguments: str) -> str:
    environment = {**os.environ, "CONTAINERS_CONF": str(STATE / "containers.conf")}
    return subprocess.run(["podman", *arguments], env=environment, capture_output=True, text=True, check=True).stdout


def pods() -> list[str]:
    """Names of the component's pods on this machine."""
    names = podman("pod", "ps", "--format", "{{.Name}}").split()
    return [name for name in names if name.startswith("component-echo-echo-")]


def test_checked_and_closed(project):
    """Its variable is checked by its own sentence, its prefix is known, its connections come from its declaration."""
    done = project.play("site", {
        "fine": {**RENDERED, "mlflow_render_dir": str(project.rendered)},
        "wrong": {**RENDERED, "echo_text": ""}, "misspelt": {**RENDERED, "echo_txt": "hi"},
        "nested": {**RENDERED, "mlflow_echo_text": "hi"},
    })
    assert done.returncode != 0
    for sentence in ("echo_text has 0 characters; it must have 1 to 100.",
                     "echo_txt is not a variable of this collection; use echo_text.",
                     "mlflow_echo_text is not a variable of this collection; use echo_text."):
        assert sentence in " ".join(done.stdout.split()), done.stdout
    files = (project.rendered / "fine" / "fine").glob("wave-*/*.yaml")
    objects = [obj for path in files for obj in yaml.safe_load_all(path.read_text())
               if path.name != "kustomization.yaml"]
    (deployment,) = [o for o in objects if o["kind"] == "Deployment" and o["metadata"]["name"] == "fine-echo"]
    pod = deployment["spec"]["template"]["metadata"]["labels"]
    policies = {o["metadata"]["name"]: o["spec"] for o in objects if o["kind"] == "NetworkPolicy"}
    for name in ("fine-default-deny", "fine-echo"):
        assert policies[name]["podSelector"]["matchLabels"].items() <= pod.items()
        assert policies[name]["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in policies["fine-default-deny"] and "egress" not in policies["fine-default-deny"]
    instance = {"podSelector": {"matchLabels": {"app.kubernetes.io/instance": "fine"}}}
    assert policies["fine-echo"]["ingress"] == [{"from": [instance], "ports": [{"port": 8000, "protocol": "TCP"}]}]
    assert "egress" not in policies["fine-echo"]


def test_deployed_verified_shown_and_removed(project):
    try:
        project.on_podman("site", echo_text="good morning")
        assert "changed=0" in project.on_podman("site", echo_text="good morning")
        assert "shows good morning" in project.on_podman("status", echo_text="good morning")
        (pod,) = pods()
        with paused(pod):
            broken = project.play("verify", {"component-echo": ON_PODMAN}, echo_text="good morning")
        assert broken.returncode != 0 and "The echo is not healthy: text: timed out" in broken.stdout, broken.stdout
    finally:
        project.on_podman("uninstall", mlflow_purge_data=True)
    assert not pods()


@contextlib.contextmanager
def paused(pod: str):
    podman("pod", "pause", pod)
    try:
        yield
    finally:
        podman("pod", "unpause", pod)
