# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Values of wrong types in every variable are refused in sentences that name it, or give strictly valid manifests."""

from __future__ import annotations

import pathlib
import random
import re
import sys

import pytest
from model_tests import PEM, refused, resolved

from ansible_collections.mlops.mlflow.plugins.plugin_utils import components, render
from ansible_collections.mlops.mlflow.plugins.plugin_utils.model import variables

sys.path.append(str(pathlib.Path(__file__).parents[2] / "manifests"))
import strict  # noqa: E402  pylint: disable=wrong-import-position

SEED = 20261123
SCALARS = (None, True, False, 0, 1, -1, 2**31, 2**63, 0.5, float("inf"), float("nan"), "", " ", "x", "X y", "a\nb",
           "a\n", "a: b", "a #b", "# c",
           "{}", "[]", "null", "yes", "1", "-1", "1e3", "500m", "2Gi", "0.5", "~", "'", '"', "\\", "\x00", "\x1b[0m",
           "ä", "\u200bx", "\ud800",
           "*", "&a", "!tag", "%", "@x", "`x`", "--- ", "/", "//", "/a", "../..", "a/b", "a,b", "a" * 300, "https://x",
           "https://u:p@x/y?z#f",
           "http://x:99999", "http://[x", "http://[::1]:80", "127.0.0.1:80", "0.0.0.0:0", "10.0.0.0/8", "10.0.0.1/8",
           "* * * * *", "@daily", "30d",
           "{{ x }}", "${x}", "$(x)", "%s", PEM)
CONTAINERS = ([], {}, [None], [1], [""], ["x"], ["x", "x"], [[]], [{}], {"x": None}, {"x": 1}, {"x": "y"}, {"x": {}},
              {"x": []}, {1: 2},
              [{"name": "x"}], [{"name": 1}], [{"name": "x", "value": 1}], [{"name": "x", "image": "y"}],
              [{"name": "x", "emptyDir": {}}],
              {"requests": None}, {"requests": {"memory": None}}, {"limits": {"cpu": "1"}},
              {"limits": {"memory": "1500m"}}, {"limits": []},
              [{"target": {"kind": "Deployment"}, "patch": {"spec": {"replicas": "x"}}}],
              [{"target": {"kind": "Nothing"}, "patch": {}}],
              [{"target": {"kind": "Deployment"}, "patch": None}], {"key": "x"}, {"name": "x"},
              {"username": {"key": "x"}},
              [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}}],
              [{"apiVersion": "v1", "kind": "ConfigMap"}],
              [{"operator": "Exists"}], [{"key": "x", "operator": "Exists", "tolerationSeconds": "x"}], [{"to": None}],
              [{"ports": [{"port": "x"}]}],
              {"nodeAffinity": {}}, {"nodeAffinity": []}, {"scaleUp": {}}, {"scaleDown": {"policies": [{}]}},
              {"type": "s3"}, {"type": 5},
              {"uri": "x"}, {"type": "postgresql", "uri": "postgresql://x/y", "secret_keys": {}})
SETTINGS = (
    {"mlflow_engine": "kubernetes"},
    {"mlflow_engine": "kubernetes", "mlflow_network_policy": True, "mlflow_network_policy_clients": ["ingress-nginx"],
     "ingress_type": "ingress",
     "ingress_hosts": ["mlflow.example.com"], "mlflow_server_auth": "basic", "mlflow_server_autoscaling": True},
    {"mlflow_engine": "podman", "ingress_type": "proxy", "ingress_hosts": ["mlflow.example.com"],
     "ingress_tls": "self_signed",
     "database_type": "sqlite", "object_storage_type": "volume", "mlflow_server_publish": "127.0.0.1:5000"},
    {"mlflow_engine": "kubernetes", "database_host": "db.example.com", "database_password": "a-password",
     "object_storage_type": "s3",
     "mlflow_server_auth": "oidc", "mlflow_server_oidc_issuer": "https://id.example.com",
     "mlflow_server_oidc_client_id": "mlflow",
     "mlflow_server_oidc_client_secret": "a-secret",
     "mlflow_server_oidc_redirect_url": "https://mlflow.example.com/oauth2/callback"},
)
CHANGES_SEVERAL = {"mlflow_engine", "mlflow_image_source"}
"""Variables whose right values may make others wrong, so that a sentence may name those."""


def values(name: str, spec: dict, generator: random.Random) -> list:
    """Wrong and odd values for a variable: some of the lists, and its default bent out of shape."""
    chosen = generator.sample(SCALARS, 10) + generator.sample(CONTAINERS, 6)
    default = spec.get("default")
    if isinstance(default, str) and default:
        chosen += [default + "\n", " " + default, default.upper(), [default], {default: default}]
    if isinstance(default, dict):
        chosen += [{**default, "x": 1}, {key: None for key in default},
                   {key: [value] for key, value in default.items()}]
    for option in spec.get("options") or {}:
        chosen += [{option: value} for value in generator.sample(SCALARS, 3)]
    return chosen + list(spec.get("choices") or [])


@pytest.mark.parametrize("name", sorted(variables.SPECS))
def test_wrong_values_of(name):
    generator = random.Random(f"{SEED}{name}")
    taken = None
    for value in values(name, variables.SPECS[name], generator):
        given = {**generator.choice(SETTINGS), name: value}
        sentences = refused(given)
        for sentence in sentences:
            assert "Checking " not in sentence, (value, sentence)
            assert re.search(r"[a-z)]\.$|[^\s]\.$", sentence) and len(sentence) < 700, (value, sentence)
        if sentences:
            assert any(name in sentence for sentence in sentences), (value, sentences)
            continue
        taken = resolved(given)
        objects = [obj for component in components.COMPONENTS for obj in render.render(component, taken, {})]
    for obj in generator.sample(objects, 3) if taken else ():
        obj["metadata"]["namespace"] = taken.instance.namespace
        strict.validate(obj, "1.37")
