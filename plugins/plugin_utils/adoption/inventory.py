# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An adoption as an inventory with comments, whose secrets are in a file of their own."""

from __future__ import annotations

import pathlib
import textwrap

from ansible_collections.mlops.mlflow.plugins.plugin_utils import components
from ansible_collections.mlops.mlflow.plugins.plugin_utils.adoption import charts
from ansible_collections.mlops.mlflow.plugins.plugin_utils.adoption.plan import Adoption
from ansible_collections.mlops.mlflow.plugins.plugin_utils.survey.inventory import COLUMNS, dump, literal

HOST = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}


def files(adoption: Adoption, kubeconfig: str = "", context: str = "") -> dict[str, str]:
    """The files of an inventory, by their paths in its folder.

    Args:
        adoption: what becomes of the release.
        kubeconfig: path of the kubeconfig, or empty.
        context: of the kubeconfig, or empty.
    """
    host = dict(adoption.variables)
    secret = {name: host.pop(name) for name in list(host) if name in components.secrets()}
    secret |= adoption.hidden
    result = {"hosts.yml": _hosts(adoption.instance),
              f"host_vars/{adoption.instance}/main.yml": _variables(adoption, host, kubeconfig, context, bool(secret))}
    if secret:
        text = "".join(dump(name, literal(value)) for name, value in secret.items())
        result[f"host_vars/{adoption.instance}/secrets.yml"] = f"---\n# ansible-vault encrypt THIS_FILE\n{text}"
    return result


def _hosts(instance: str) -> str:
    lines = "".join(dump(name, value) for name, value in HOST.items())
    return f"---\nall:\n  hosts:\n    {instance}:\n{textwrap.indent(lines, ' ' * 6)}"


def _variables(adoption: Adoption, host: dict, kubeconfig: str, context: str, secrets: bool) -> str:
    release = adoption.release
    text = [
        "---\n",
        _comment(f"The MLflow instance {adoption.instance}, as Helm release {release.name} of "
                 f"{charts.of(release).NAME} {release.version} in namespace {release.namespace} described it. Above "
                 "the variables are the options that they follow from; docs/variables.md says where all variables are "
                 "documented. At the end is what is not taken over."),
        f"#   ansible-playbook -i THIS_FOLDER playbooks/adopt.yml -e mlflow_adopt_confirm={adoption.instance}\n\n",
        "# The release that playbooks/adopt.yml moves here.\n",
        dump("mlflow_adopt_release", release.name),
    ]
    if secrets:
        text.insert(2, "# Secrets are in secrets.yml beside this file.\n")
    for name, value in (("mlflow_kubeconfig", kubeconfig), ("mlflow_context", context)):
        if value:
            text.append(dump(name, literal(value)))
    former: list[str] = []
    for name, value in host.items():
        origin = adoption.origins.get(name) or []
        if origin != former:
            text.append(f"\n{_comment(', '.join(origin)) if origin else ''}")
        former = origin
        text.append(dump(name, literal(value), block=True))
    if adoption.findings:
        text.append("\n# Not taken over:\n")
        text += [_comment(f"- {finding.option}: {finding.instead}", "  ") for finding in adoption.findings]
    return "".join(text)


def _comment(text: str, indent: str = "") -> str:
    lines = textwrap.wrap(text, COLUMNS - 2, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return "".join(f"# {line}\n" for line in lines)


def write(folder: pathlib.Path, texts: dict[str, str]) -> None:
    """Write files that only their owner may read, since they may hold secrets."""
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.chmod(0o600)
        path.write_text(text, encoding="utf-8")
