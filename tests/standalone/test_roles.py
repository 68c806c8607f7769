# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Roles in somebody else's play: each resolves what it needs from inventory variables, whatever else is in the play."""

from __future__ import annotations

import json
import pathlib
import shutil
import sys

import pytest
import yaml
from conftest import ROOT, run

INVENTORIES = ("eks-irsa", "helm-style-sqlite", "shared-postgres-sso")
COMPONENTS = {"object_storage": "object-storage", "database": "database", "mlflow_server": "server",
              "ingress": "ingress"}
"""The roles of components, and the name of each one's file of rendered manifests."""
FOREIGN = {"server_name": "www.example.com", "server_port": 80, "storage_class": "fast", "image_source": "git",
           "instance": "web", "database": {"type": "oracle", "host": "db"}, "ingress": {"hosts": ["web"]}, "version": 5,
           "images": {"mirror": "x"}, "model": None, "database_backend": "django", "ingress_nginx_version": "4.12"}
"""Variables of other software, some of them with names that the collection's code uses for itself."""


class Play:
    """A project of somebody else, with a role of its own.

    Attributes:
        folder: of the project.
        rendered: where manifests are rendered to.
    """

    def __init__(self, folder: pathlib.Path, collections: pathlib.Path) -> None:
        self.folder, self.collections, self.rendered = folder, collections, folder / "rendered"
        tasks = folder / "roles" / "website" / "tasks"
        tasks.mkdir(parents=True)
        check = {"ansible.builtin.assert": {"that": "server_name == 'www.example.com'"}}
        (tasks / "main.yml").write_text(yaml.safe_dump([check]))

    def run(self, play: dict, hosts: dict, *arguments: str, **variables) -> str:
        """Run a play on hosts and return what Ansible printed; it must succeed."""
        done = self.start(play, hosts, *arguments, **variables)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, play: dict, hosts: dict, *arguments: str, **variables):
        """Run a play on hosts."""
        common = {"mlflow_engine": "kubernetes", "mlflow_render_dir": str(self.rendered), **FOREIGN, **variables}
        play = {"hosts": "all", "gather_facts": False, **play}
        (self.folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts, "vars": common}}))
        (self.folder / "play.yml").write_text(yaml.safe_dump([play]))
        return run(["ansible-playbook", "--inventory", "hosts.yml", "play.yml", *arguments], self.folder,
                   ANSIBLE_COLLECTIONS_PATH=str(self.collections), KUBECONFIG="/dev/null")

    def files(self) -> set[str]:
        """Rendered components, as NAMESPACE/INSTANCE/COMPONENT."""
        return {str(path.parents[1].relative_to(self.rendered) / path.stem)
                for path in self.rendered.rglob("wave-*/*.yaml") if path.name != "kustomization.yaml"}

    def objects(self, component: str) -> list[dict]:
        """The objects of a rendered component."""
        folder, name = (self.rendered / component).parent, component.rpartition("/")[2]
        return [obj for path in sorted(folder.glob(f"wave-*/{name}.yaml"))
                for obj in yaml.safe_load_all(path.read_text())]

    def texts(self) -> dict[str, str]:
        """Everything that was rendered, by path."""
        return {str(path.relative_to(self.rendered)): path.read_text() for path in self.rendered.rglob("*")
                if path.is_file()}


@pytest.fixture
def play(tmp_path, installed):
    return Play(tmp_path, installed)


def included(role: str, **variables) -> dict:
    return {"ansible.builtin.include_role": {"name": f"mlops.mlflow.{role}"}, "vars": variables}


def imported(role: str, **variables) -> dict:
    return {"ansible.builtin.import_role": {"name": f"mlops.mlflow.{role}"}, "vars": variables}


HOSTS = {"localhost": {"ansible_connection": "local"}, "Team_A.example.invalid": {}}
"""The second is reached by nobody, which a cluster's instance does not need."""


@pytest.mark.parametrize("way", [included, imported], ids=["include_role", "import_role"])
def test_each_role_alone_with_defaults(play, way):
    """Each on a host of its own, so that nothing of one role serves another."""
    hosts = {role: {} for role in COMPONENTS} | {"localhost": {"ansible_connection": "local"}}
    hosts["ingress"] = {"ingress_type": "proxy", "ingress_hosts": ["mlflow.example.com"]}
    tasks = [{**way(role), "when": f"inventory_hostname in {[role, 'localhost'] if role == 'database' else [role]}"}
             for role in COMPONENTS]
    out = play.run({"tasks": [{"ansible.builtin.include_role": {"name": "website"}}, *tasks]}, hosts)
    assert "Validating arguments against arg spec" in out
    expected = {f"{name}/{name}/{component}" for role, component in COMPONENTS.items()
                for name in [role.replace("_", "-")]}
    assert play.files() == {*expected, "localhost/localhost/database"}
    for file in play.files():
        assert {"Deployment", "StatefulSet"} & {obj["kind"] for obj in play.objects(file)}, file


def test_the_instance_alone(play):
    play.run({"tasks": [included("mlflow"), {"ansible.builtin.assert": {"that": [
        "mlflow_model.instance.name == inventory_hostname.lower() | regex_replace('[^a-z0-9-]', '-')",
        "mlflow_model.database.endpoint.service is match(mlflow_model.instance.name)"]}}]}, HOSTS)
    assert not play.files()


def test_images_alone(play):
    """In check mode, so that nothing is built here; where images come from a registry, podman is not even asked."""
    hosts = {"localhost": {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}}
    build = {"mlflow_image_source": "build", "mlflow_engine": "podman"}
    play.run({"tasks": [included("images")]}, hosts, "--check", **build)
    hosts["localhost"]["ansible_python_interpreter"] = "/nonexistent"
    assert play.start({"tasks": [included("images")]}, hosts, "--check", **build).returncode != 0
    play.run({"tasks": [included("images")]}, hosts)
    play.run({"tasks": [included("images", mlflow_state="absent")]}, hosts, **build)


def test_variables_of_an_include(play):
    """Two instances of one host, whose variables refer to the loop, to the play and to variables that have defaults."""
    play.run({"vars": {"team": "vision"}, "tasks": [
        {**included("object_storage", mlflow_instance="{{ team }}-{{ item }}", mlflow_namespace="ml",
                    object_storage_type="s3", object_storage_bucket="{{ mlflow_instance }}",
                    object_storage_url="https://s3.example.com", object_storage_access_key="key",
                    object_storage_secret_key="{{ mlflow_namespace }}-secret"), "loop": ["a", "b"]},
        included("database", database_name="{{ mlflow_instance }}", database_port=None, database_image=None),
    ]}, {"localhost": {"ansible_connection": "local"}})
    assert play.files() == {"localhost/localhost/database"}
    # All that there is of a store that others run is its keys, which are left out.
    left_out = {str(path.parents[1].relative_to(play.rendered)) for path in play.rendered.rglob("*.yaml.example")}
    assert left_out == {"ml/vision-a", "ml/vision-b", "localhost/localhost"}
    (database,) = [o for o in play.objects("localhost/localhost/database") if o["kind"] == "StatefulSet"]
    assert {"name": "POSTGRES_DB", "value": "localhost"} in database["spec"]["template"]["spec"]["containers"][0]["env"]


def test_absent(play):
    """What was rendered goes, with the roles' own defaults in scope, and nothing of other components."""
    roles = [f"mlops.mlflow.{role}" for role in COMPONENTS]
    play.run({"roles": ["website", *roles]}, HOSTS)
    before = play.files()
    assert len(before) == 6  # three components of two instances; the ingress has nothing
    play.run({"roles": ["website"], "tasks": [included("database", mlflow_state="absent")]}, HOSTS)
    assert play.files() == {file for file in before if not file.endswith("/database")}
    play.run({"roles": [{"role": role, "vars": {"mlflow_state": "absent"}} for role in roles]}, HOSTS)
    assert not play.files()


@pytest.mark.parametrize("inventory", INVENTORIES)
def test_roles_give_what_the_playbook_gives(play, inventory):
    """With example inventories, whose values Ansible validates against the argument specs as well."""
    variables = {"mlflow_engine": "kubernetes", "mlflow_image_source": "registry",
                 "mlflow_render_dir": str(play.rendered)}
    arguments = ["--inventory", str(ROOT / "inventories" / inventory), "--extra-vars", json.dumps(variables)]
    play.run({"roles": ["website", *(f"mlops.mlflow.{role}" for role in ("mlflow", *COMPONENTS))]}, {}, *arguments)
    by_roles = play.texts()
    assert by_roles
    shutil.rmtree(play.rendered)
    done = run(["ansible-playbook", *arguments, "mlops.mlflow.site"], play.folder,
               ANSIBLE_COLLECTIONS_PATH=str(play.collections))
    assert done.returncode == 0, done.stdout + done.stderr
    assert play.texts() == by_roles


UNKNOWN = "is not a variable of this collection; use database_type."
WRONG = {
    "type": ({"database_type": "oracle"}, "database_type is 'oracle'; database_type must be one of"),
    "port": ({"database_port": "many"}, "database_port is 'many'; it must be a whole number."),
    "size": ({"database_size": "much"}, "database_size is 'much'; it must be a Kubernetes quantity"),
    "misspelt": ({"database_typ": "sqlite"}, f"database_typ {UNKNOWN}"),
    "nested": ({"mlflow_database_type": "sqlite"}, f"mlflow_database_type {UNKNOWN}"),
}


def test_wrong_variables_are_refused(play):
    """All of them by the model's sentences, before Ansible's own validation and before anything is rendered."""
    hosts = {case: variables for case, (variables, _sentence) in WRONG.items()}
    lines = play.start({"tasks": [included("database")]}, hosts).stdout.splitlines()
    failures = {line.split("]", 1)[0].removeprefix("fatal: ["): line for line in lines if line.startswith("fatal")}
    assert set(failures) == set(WRONG)
    for case, (_variables, sentence) in WRONG.items():
        assert sentence in failures[case]
    assert not play.files()
