# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Answers as an inventory with comments, whose secrets are in a file of their own."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from typing import Any

import yaml
from ansible.parsing.vault import VaultLib, VaultSecret

from ansible_collections.mlops.mlflow.plugins.plugin_utils import components
from ansible_collections.mlops.mlflow.plugins.plugin_utils.survey import questions

COLUMNS = 120
TEMPLATE = re.compile(r"\{\{|\{%|\{#")


class Unsafe(str):
    """Text that Ansible does not take for a template."""


class Template(str):
    """Text that is a template of ours."""


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(Unsafe, lambda dumper, text: dumper.represent_scalar("!unsafe", str(text), style="'"))
_Dumper.add_representer(
    Template, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", str(text), style='"'))


def dump(name: str, value: Any, block: bool = False) -> str:
    """A variable as lines of YAML.

    Args:
        name: of the variable.
        value: its value, whose text is no template, see ``literal``.
        block: whether mappings and lists have a line for each entry.
    """
    if block and isinstance(value, (dict, list)) and value:
        return yaml.dump({name: value}, Dumper=_Dumper, allow_unicode=True, sort_keys=False, width=float("inf"),
                         default_flow_style=False)
    text = yaml.dump(value, Dumper=_Dumper, allow_unicode=True, sort_keys=False, width=float("inf"),
                     default_flow_style=True)
    return f"{name}: {text.removesuffix('...' + chr(10)).rstrip()}\n"


def literal(value: Any) -> Any:
    """A value whose text is no template, but for those of ours."""
    if isinstance(value, dict):
        return {key: literal(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [literal(entry) for entry in value]
    if isinstance(value, Template):
        return value
    return Unsafe(value) if isinstance(value, str) and TEMPLATE.search(value) else value


def files(answers: Mapping[str, Any], vault_password: str = "") -> dict[str, str]:
    """The files of an inventory, by their paths in its folder.

    Args:
        answers: of the questions; ``mlflow_instance`` is the name of the host.
        vault_password: encrypts the file with the secrets by Ansible Vault; without it they can be read.

    Raises:
        VariableError: with a sentence for each answer that is none.
    """
    name = str(answers["mlflow_instance"])
    host = questions.host_variables(answers)
    secrets = {variable: literal(host.pop(variable)) for variable in list(host) if variable in components.secrets()}
    result = {"hosts.yml": _hosts(name, host, answers, bool(secrets))}
    if secrets:
        text = "---\n" + "".join(dump(variable, value) for variable, value in secrets.items())
        if vault_password:
            vault = VaultLib([("default", VaultSecret(vault_password.encode()))])
            text = vault.encrypt(text.encode()).decode()
        result[f"host_vars/{name}/secrets.yml"] = text
    return result


def _hosts(name: str, host: dict[str, Any], answers: Mapping[str, Any], secrets: bool) -> str:
    lines = ["---", f"# The MLflow instance {name}. docs/variables.md says where all variables are documented.",
             "#   ansible-playbook -i THIS_FOLDER playbooks/site.yml"]
    if secrets:
        lines.append(f"# Secrets are in host_vars/{name}/secrets.yml.")
    lines += ["all:", "  hosts:", f"    {name}:"]
    lines += _indented("".join(dump(key, host.pop(key)) for key in list(host) if key.startswith("ansible_")))
    for step in questions.STEPS:
        block = [line for question in step.questions for line in _entry(question, host, answers)]
        if block:
            lines += ["", *_indented(f"# {step.title}"), *block]
    return "\n".join(lines) + "\n"


def _entry(question: questions.Question, host: dict[str, Any], answers: Mapping[str, Any]) -> list[str]:
    """The lines of one question: what it is, and its value, or as a comment its default."""
    variable = "ingress_gateway" if question.variable == "mlflow_gateway" else question.variable
    comment = textwrap.wrap(f"{question.text}.", COLUMNS - 8)
    if variable in host:
        return _indented("".join(f"# {line}\n" for line in comment) + dump(variable, literal(host[variable])))
    if question.secret or question.variable in questions.OWN or question.default is None \
            or not question.matters(answers):
        return []
    return _indented("".join(f"# {line}\n" for line in [*comment, dump(variable, question.default).rstrip()]))


def _indented(text: str) -> list[str]:
    return textwrap.indent(text.rstrip("\n"), " " * 6).splitlines()
