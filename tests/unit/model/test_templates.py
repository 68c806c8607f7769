# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whatever a template prints into YAML is JSON, so that no value is read as a comment, a key, a number."""

from __future__ import annotations

import pathlib
import re

import jinja2
import pytest
from jinja2 import nodes
from model_tests import resolved

from ansible_collections.mlops.mlflow.plugins.plugin_utils import components, render

ROOT = pathlib.Path(__file__).parents[3]
TEMPLATES = sorted(ROOT.glob("roles/*/templates/*.yaml.j2"))
TEXTS = {"auth_ini"}
"""Macros that give text of another language, which is printed as JSON where they are called."""
ODD = ["a # b", "a: b", "- a", "'", '"', "\\", "{a}", "[a]", "&a", "*a", "!a", "%a", "@a", "`a`", "null", "true", "1e3",
       "0x1F", "~", "?", "|", ">"]


def unquoted(template: nodes.Template) -> list[int]:
    """Lines of expressions that are neither JSON nor the output of a macro."""
    inside = set()
    for macro in template.find_all(nodes.Macro):
        if macro.name in TEXTS:
            inside |= {id(node) for node in macro.find_all(nodes.Output)}
    lines = []
    for output in template.find_all(nodes.Output):
        for node in output.nodes if id(output) not in inside else ():
            whole = isinstance(node, nodes.Filter) and node.name == "to_json"
            indented = isinstance(node, nodes.Filter) and node.name == "indent" and isinstance(node.node, nodes.Call)
            if not (whole or indented or isinstance(node, (nodes.TemplateData, nodes.Call))):
                lines.append(node.lineno)
    return lines


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: f"{path.parts[-3]}/{path.name}")
def test_prints_json(path):
    assert unquoted(jinja2.Environment().parse(path.read_text(encoding="utf-8"))) == []


def test_finds_what_is_not_quoted():
    for text in ("{{ a }}", "{{ 'x' if a else b | to_json }}", "{{ a ~ b }}", "{{ a | upper }}"):
        assert unquoted(jinja2.Environment().parse(text)) == [1]


@pytest.mark.parametrize("odd", ODD)
def test_a_value_stays_itself(odd):
    """Through templates to the manifest, in text of every kind."""
    model = resolved({"mlflow_engine": "kubernetes", "mlflow_annotations": {"example.com/a": odd},
                      "database_host": "db", "database_password": odd,
                      "database_user": odd, "mlflow_server_extra_env": [{"name": "A", "value": odd}],
                      "mlflow_server_auth": "oidc",
                      "mlflow_server_oidc_issuer": "https://id.example.com", "mlflow_server_oidc_client_id": odd,
                      "mlflow_server_oidc_client_secret": odd,
                      "mlflow_server_oidc_redirect_url": "https://mlflow.example.com/oauth2/callback",
                      "mlflow_server_oidc_groups": [odd]})
    objects = {(obj["kind"], obj["metadata"]["name"]): obj
               for component in components.COMPONENTS for obj in render.render(component, model, {})}
    assert all(obj["metadata"]["annotations"]["example.com/a"] == odd for obj in objects.values())
    containers = objects["Deployment", "sound-server"]["spec"]["template"]["spec"]["containers"]
    assert {"name": "A", "value": odd} in containers[0]["env"]
    assert {f"--client-id={odd}", f"--allowed-group={odd}"} <= set(containers[1]["args"])


def test_a_generated_secret_has_the_keys_that_pods_read():
    keys = {"webhooks": "mine", "gateway": "mine-too"}
    given = resolved({"mlflow_server_encryption_existing_secret_keys": keys})
    assert given.mlflow_server.encryption_keys == {"webhooks": "webhook-key", "gateway": "kek-passphrase"}
    given = resolved({"mlflow_server_encryption_existing_secret_keys": keys,
                      "mlflow_server_encryption_existing_secret": "keys"})
    assert given.mlflow_server.encryption_keys == keys


def test_the_server_has_each_module_that_its_hooks_import():
    """Also a new one: without it, the server does not start."""
    (config,) = [obj["data"] for obj in render.render(components.by_role("mlflow_server"), resolved({}), {})
                 if obj["kind"] == "ConfigMap" and "sitecustomize.py" in obj["data"]]
    wanted = set(re.findall(r'"(hook_\w+):\w+"', config["sitecustomize.py"]))
    assert len(wanted) > 5
    for name, text in config.items():
        if name.endswith(".py"):
            wanted |= set(re.findall(r"^import (hook_\w+|server_hooks)\b", text, re.MULTILINE))
    assert {f"{name}.py" for name in wanted} <= set(config)
