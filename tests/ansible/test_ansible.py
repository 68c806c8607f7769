# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The oldest and the newest supported ansible-core give the same manifests and the same messages as the one of .venv.

Each version is installed into .cache/ansible-VERSION from its lock file, with a Python of this machine that runs it.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
import yaml
from ansible.parsing.vault import VaultLib, VaultSecret

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
INVENTORIES = sorted(path for path in (ROOT / "inventories").iterdir() if path.is_dir())
PYTHONS = {"2.16": ("3.11", "3.12", "3.10"), "2.21": ("3.13", "3.12", "3.14")}
"""By version of ansible-core, the Pythons that run it, from
https://docs.ansible.com/ansible/latest/reference_appendices/release_and_maintenance.html"""
OWN_WORDS = re.compile(r"(?<= cannot be worked out: ).*")
"""What Ansible itself reports about a template, in the words of its version."""
PASSWORD = "Vault-password-of-the-test"
# Everything but the images, which would be built here.
TAGS = "object_storage,database,mlflow_server,ingress"


def python(version: str) -> str | None:
    """A Python of the given version: on PATH, or one that pyenv installed and that is not on it."""
    candidates = [shutil.which(f"python{version}")]
    candidates += map(
        str,
        pathlib.Path(os.environ.get("PYENV_ROOT", "~/.pyenv"))
        .expanduser()
        .glob(f"versions/{version}.*/bin/python{version}"),
    )
    for candidate in filter(None, candidates):
        # pyenv has programs on PATH for versions that are not selected, which end with an error.
        if subprocess.run([candidate, "-c", "import ensurepip"], capture_output=True, check=False).returncode == 0:
            return candidate
    return None


def install(version: str) -> pathlib.Path:
    """The folder of the programs of a version of ansible-core; the test is skipped where no Python of the machine runs
    it."""
    found = next(filter(None, map(python, PYTHONS[version])), None)
    if not found:
        pytest.skip(f"ansible-core {version} runs on Python {', '.join(PYTHONS[version])}, and this machine has none "
                    "of them")
    lock = HERE / f"{version}.txt"
    folder = ROOT / ".cache" / f"ansible-{version}"
    stamp, state = folder / ".installed", f"{found} {hashlib.sha256(lock.read_bytes()).hexdigest()}"
    if not stamp.exists() or stamp.read_text() != state:
        uv = pathlib.Path(sys.executable).parent / "uv"
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", found, folder], check=True)
        subprocess.run([uv, "pip", "install", "--quiet", "--python", folder, "--requirements", lock], check=True)
        stamp.write_text(state)
    return folder / "bin"


def run(programs: pathlib.Path, playbook: pathlib.Path, inventory: pathlib.Path, home: pathlib.Path,
        *arguments: str) -> subprocess.CompletedProcess:
    """Run a playbook of the collection by the ansible-playbook of the given folder."""
    password = home / "vault-password"
    password.write_text(PASSWORD)
    environment = {**os.environ, "ANSIBLE_HOME": str(home / "ansible"), "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                   "LC_ALL": "C.UTF-8",
                   "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".cache" / "collections"),
                   "ANSIBLE_VAULT_PASSWORD_FILE": str(password),
                   "ANSIBLE_NOCOLOR": "true", "ANSIBLE_DEPRECATION_WARNINGS": "true", "PYTHONPATH": ""}
    return subprocess.run([programs / "ansible-playbook", "--inventory", inventory, playbook, *arguments], cwd=HERE,
                          env=environment, capture_output=True, text=True, check=False)


class Vaulted(str):
    """A text that is encrypted in the inventory."""


def encrypt(dumper: yaml.SafeDumper, text: Vaulted) -> yaml.Node:
    """A scalar with the tag !vault."""
    encrypted = VaultLib([("default", VaultSecret(PASSWORD.encode()))]).encrypt(text)
    return dumper.represent_scalar("!vault", encrypted.decode(), style="|")


class Dumper(yaml.SafeDumper):
    """Writes inventories."""

    def ignore_aliases(self, data):
        return True


Dumper.add_representer(Vaulted, encrypt)


def write(path: pathlib.Path, hosts: dict[str, dict]) -> pathlib.Path:
    """An inventory of the given hosts."""
    common = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}
    path.write_text(yaml.dump({"all": {"vars": common, "hosts": hosts}}, Dumper=Dumper, allow_unicode=True))
    return path


TEMPLATES = {
    # Variables of the inventory's own, to which others refer.
    "site": "{{ 'exa' ~ 'mple' }}.com",
    "key_file": "{{ lookup('ansible.builtin.file', inventory_dir ~ '/files/gcs.json') }}", "number": 3, "switch": True,
    "nothing": None, "team": {"name": "vision", "cost center": "{{ number }}4"}, "vaulted": Vaulted("In: a vault #1\n"),
    "pools": ["a", "{{ team.name }}"],
}
VALUES: dict[str, dict] = {
    "templates": {
        **TEMPLATES,
        "mlflow_engine": "kubernetes",
        "database_host": "db.{{ site }}",
        "database_port": "{{ number + 5430 }}",
        "database_password": "{{ vaulted | trim }}",
        "object_storage_type": "gcs",
        "object_storage_bucket": "{{ mlflow_instance }}-artifacts",
        "object_storage_gcs_credentials": "{{ key_file }}",
        "mlflow_labels": {"team": "{{ team.name }}", "cost": "{{ team['cost center'] }}"},
        "mlflow_annotations": "{{ {'example.com/owner': 'Ana ' ~ team.name} }}",
        "mlflow_node_selector": "{{ {'pool': pools | last} }}",
        "mlflow_server_replicas": "{{ 2 if switch else 1 }}",
        "mlflow_server_workspaces": "{{ not switch }}",
        "mlflow_network_policy": "{{ switch }}",
        "mlflow_network_policy_clients": "{{ pools + [team.name ~ '-' ~ number] }}",
        "mlflow_tolerations": [{"key": "{{ pools[0] }}", "operator": "Exists"}],
        "mlflow_server_extra_env": [
            {"name": "JSON", "value": "{{ key_file }}"},
            {"name": "LIST", "value": "{{ '[1, 2]' }}"},
            {"name": "TRUE", "value": "{{ 'True' }}"},
            {"name": "SECRET", "value": "{{ vaulted }}"},
            {"name": "LINES", "value": "one {{ site }}\ntwo\\n\n"},
            {"name": "JOINED", "value": "a{{ nothing }}{{ switch }}"},
            {"name": "CONSTANT", "value": "{{ 'a' ~ 1 }}"},
            {"name": "OCTAL", "value": "{{ '0123' }}"},
            {"name": "HASH", "value": "{{ site }} # not a comment: ä"},
            {"name": "BRACES", "value": "{% raw %}{{ kept }}{% endraw %}"},
        ],
    },
    "vault": {
        "mlflow_engine": "kubernetes",
        "database_host": "db",
        "database_password": Vaulted("p@ss: '\"{ä\\n"),
        "object_storage_type": "s3",
        "object_storage_access_key": Vaulted("0123"),
        "object_storage_secret_key": Vaulted("True"),
        "mlflow_server_replicas": Vaulted("2"),
        "mlflow_labels": {"team": Vaulted("vision")},
        "mlflow_annotations": "{{ {'example.com/owner': 'Ana'} }}",
        "database_port": "{{ 5433 }}",
        "mlflow_network_policy": "{{ true }}",
        "mlflow_server_extra_env": [
            {"name": "JSON", "value": Vaulted('{"a": [1, null]}')},
            {"name": "TEXT", "value": Vaulted("two\nlines\n")},
        ],
    },
    "plain": {
        "mlflow_engine": "kubernetes",
        "database_type": "sqlite",
        "database_size": "1Gi",
        "object_storage_type": "volume",
        "mlflow_network_policy": "yes",
        "mlflow_server_port": "5001",
        "mlflow_labels": {"on": "off", "number": "1e3"},
        "mlflow_server_extra_env": [
            {"name": "A", "value": "{"},
            {"name": "B", "value": "a } b"},
            {"name": "C", "value": "[1, 2"},
            {"name": "D", "value": '{"a": 1}'},
            {"name": "E", "value": "1_000"},
            {"name": "F", "value": "~"},
        ],
    },
    "podman": {
        **TEMPLATES,
        "mlflow_engine": "podman",
        "mlflow_image_source": "registry",
        "mlflow_server_publish": "127.0.0.1:{{ 5100 + number }}",
        "database_password": "{{ vaulted | trim }}",
    },
}
"""Instances whose values versions of Ansible template in different ways."""
WRONG: dict[str, dict] = {
    "undefined": {"database_password": "{{ nowhere_defined }}"},
    "undefined-attribute": {"team": {}, "mlflow_labels": {"a": "{{ team.missing.name }}"}},
    "undefined-nested": {"outer": "{{ inner }}", "inner": "{{ nowhere_defined }}", "database_name": "x{{ outer }}"},
    "recursion": {"database_name": "{{ database_name }}"},
    "no-file": {"database_password": "{{ lookup('ansible.builtin.file', 'files/missing') }}"},
    "syntax": {"database_password": "{{ a b }}"},
    "no-filter": {"database_password": "{{ 'a' | no_such_filter }}"},
    "null": {"nothing": None, "database_type": "{{ nothing }}"},
    "json-for-a-mapping": {"mlflow_labels": "{{ '{\"a\": \"b\"}' }}"},
    "mapping-for-text": {"database_name": "{{ {'a': 1} }}"},
    "list-for-text": {"database_name": ["a"]},
    "bool-for-text": {"switch": True, "database_name": "{{ switch }}"},
    "number": {"mlflow_server_replicas": "{{ 1.5 }}"},
    "vault-number": {"mlflow_server_replicas": Vaulted("many")},
    "misspelt": {"mlflow_server_replica": 2},
    "choice": {"database_type": "oracle"},
    "sqlite-replicas": {"database_type": "sqlite", "mlflow_server_replicas": "{{ 3 }}"},
    "two-lines": {"database_password": "a\n{{ 1 }}\n"},
}
"""Instances that are refused."""


def examples() -> dict[str, dict]:
    """The hosts of all example inventories, in one: each keeps the instance's name in a namespace of its own, and a
    port of its own."""
    hosts = {}
    for number, inventory in enumerate(INVENTORIES):
        for name, variables in yaml.safe_load((inventory / "hosts.yml").read_text())["all"]["hosts"].items():
            hosts[f"{inventory.name}-{name}"] = {"mlflow_namespace": inventory.name, **variables,
                                                 "mlflow_instance": name,
                                                 "mlflow_server_publish": f"127.0.0.1:{5000 + number}"}
    return hosts


@pytest.fixture(scope="session")
def inventories(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inventories")
    (folder / "files").symlink_to(HERE / "files")
    return {"right": write(folder / "right.yml", {**examples(), **VALUES}), "wrong": write(folder / "wrong.yml", WRONG)}


def render(programs: pathlib.Path, inventory: pathlib.Path, folder: pathlib.Path) -> tuple[dict[str, str], str]:
    """The files of all instances by path, and what Ansible wrote."""
    extra = {"mlflow_render_dir": f"{folder}/rendered/{{{{ inventory_hostname }}}}"}
    done = run(programs, ROOT / "playbooks" / "site.yml", inventory, folder, "--tags", TAGS, "--extra-vars",
               json.dumps(extra))
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    return {
        str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("rendered/**/*.yaml"))
    }, done.stdout + done.stderr


def refusals(programs: pathlib.Path, inventory: pathlib.Path, folder: pathlib.Path) -> dict[str, str]:
    """By host, the message with which its variables are refused."""
    path = folder / "refusals.json"
    done = run(programs, HERE / "refuse.yml", inventory, folder, "--extra-vars", f"refusals={path}")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    return {host: OWN_WORDS.sub("…", message) for host, message in json.loads(path.read_text()).items()}


@pytest.fixture(scope="session")
def rendered(inventories, tmp_path_factory):
    return render(pathlib.Path(sys.executable).parent, inventories["right"], tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="session")
def refused(inventories, tmp_path_factory):
    return refusals(pathlib.Path(sys.executable).parent, inventories["wrong"], tmp_path_factory.mktemp("own"))


@pytest.mark.parametrize("version", PYTHONS)
def test_renders_the_same(version, rendered, inventories, tmp_path):
    programs = install(version)
    files, output = render(programs, inventories["right"], tmp_path)
    assert "DEPRECATION" not in output and "WARNING" not in output, output
    assert set(files) == set(rendered[0])
    for path, text in files.items():
        assert text == rendered[0][path], path


@pytest.mark.parametrize("version", PYTHONS)
def test_refuses_in_the_same_words(version, refused, inventories, tmp_path):
    assert refusals(install(version), inventories["wrong"], tmp_path) == refused
    for host, message in refused.items():
        assert len(message.splitlines()) == 1 and any(name in message for name in WRONG[host]), message
