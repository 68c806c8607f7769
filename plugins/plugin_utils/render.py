# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From the model to manifests: the templates of a component's role, rendered, completed, patched and labelled.

Templates read the typed variables by their names, the instance as ``instance``, and what components derive by their
role (``database.name``). They are rendered by Jinja itself, so that every version of Ansible gives the same manifests.
"""

from __future__ import annotations

import json
import pathlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jinja2
import yaml

from ansible_collections.mlops.mlflow.plugins.plugin_utils import manifests
from ansible_collections.mlops.mlflow.plugins.plugin_utils.components.base import Component, Network

if TYPE_CHECKING:
    from ansible_collections.mlops.mlflow.plugins.plugin_utils.model import Model

PLUGINS = pathlib.Path(__file__).parents[1]
ROLES = PLUGINS.parent / "roles"
SHARED_TEMPLATES = ROLES / "mlflow" / "templates"
NETWORK_POLICY = "network_policy.yaml.j2"


@dataclass(frozen=True)
class Policy:
    """A component's NetworkPolicy, for the shared template."""

    name: str
    selector: dict
    network: Network


def render(component: Component, model: Model, labels: dict[str, str]) -> list[dict]:
    """The objects of a component.

    Args:
        component: one of the model's.
        model: the resolved instance.
        labels: the owner's labels, which every object gets.

    Raises:
        ManifestError: a template or a patch gives something that is no Kubernetes object.
    """
    v = model.variables
    objects = unpatched(component, model)
    patches = f"{component.role}_patches"
    manifests.patch(objects, v.get(patches) or [], patches)
    # What these reach nowhere has been refused with the variables (model/checks.py).
    manifests.patch(objects, v.mlflow_patches, "mlflow_patches", required=False)
    manifests.label(objects, {**v.mlflow_labels, **labels}, v.mlflow_annotations)
    return objects


def unpatched(component: Component, model: Model) -> list[dict]:
    """The objects of a component as patches find them, without the labels that all have.

    Args:
        component: one of the model's.
        model: the resolved instance.

    Raises:
        ManifestError: a template gives something that is no Kubernetes object.
    """
    v = model.variables
    environment = _environment(component.role)
    names = component.templates(v, model)
    context = _context(component, model) if names else {}
    texts = [environment.get_template(NETWORK_POLICY).render(policy=policy) for policy in _policies(component, model)]
    texts += [environment.get_template(name).render(context) for name in names]
    objects = manifests.load([text for text in texts if text.strip()], f"The templates of role {component.role}")
    _complete(objects, component, model)
    return objects


def _complete(objects: list[dict], component: Component, model: Model) -> None:
    """Set what all pods have. A component may lack a variable for where its pods run."""
    manifests.schedule_pods(objects, model.variables.get(f"{component.role}_scheduling", {}))
    manifests.complete_pods(objects, model.instance.pod_spec)


def _context(component: Component, model: Model) -> dict[str, Any]:
    v = model.variables
    return {**v, **model.parts, "instance": model.instance, **component.context(v, model)}


def render_one(component: Component, model: Model, labels: dict[str, str], template: str, **more: Any) -> dict:
    """The object of a template that the component itself does not render, such as a Job that an action runs.

    Args:
        component: one of the model's.
        model: the resolved instance.
        labels: the owner's labels.
        template: name of a template of the role with one object.
        more: further values for the template.
    """
    v = model.variables
    text = _environment(component.role).get_template(template).render({**_context(component, model), **more})
    objects = manifests.load([text], f"The template {template} of role {component.role}")
    _complete(objects, component, model)
    manifests.patch(objects, v.mlflow_patches, "mlflow_patches", required=False)
    manifests.label(objects, {**v.mlflow_labels, **labels}, v.mlflow_annotations)
    return objects[0]


def _policies(component: Component, model: Model) -> list[Policy]:
    declared = component.network(model.variables, model) or []
    networks = [declared] if isinstance(declared, Network) else declared
    return [_policy(component, model, network) for network in networks
            if network.always or model.variables.mlflow_network_policy]


def _policy(component: Component, model: Model, network: Network) -> Policy:
    selector: dict = {"matchLabels": network.pods or model.instance.selector(component.name)}
    if network.components:
        selector = {"matchLabels": model.instance.labels, "matchExpressions": [
            {"key": "app.kubernetes.io/component", "operator": "In", "values": list(network.components)}]}
    end = f"-{network.name}" if network.name else ""
    return Policy(f"{model.instance.name}-{component.name}{end}", selector, network)


_ENVIRONMENTS: dict[str, jinja2.Environment] = {}


def _environment(role: str) -> jinja2.Environment:
    """Jinja for the templates of a role, and after them those that all roles share."""
    if role not in _ENVIRONMENTS:
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader([ROLES / role / "templates", SHARED_TEMPLATES]),
            undefined=jinja2.StrictUndefined,
            trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, autoescape=False)
        environment.filters.update(to_json=_to_json, regex_escape=re.escape, from_yaml=_from_yaml)
        environment.globals["file"] = lambda name: _file(role, name)
        _ENVIRONMENTS[role] = environment
    return _ENVIRONMENTS[role]


def _to_json(value: Any) -> str:
    """A value as JSON, which is YAML, whatever characters it has."""
    if isinstance(value, jinja2.Undefined):
        value._fail_with_undefined_error()
    return json.dumps(value, default=list)


def _from_yaml(text: str) -> Any:
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def _file(role: str, name: str) -> str:
    """The text of a file of the role, or of a program that modules and pods share."""
    for folder in (ROLES / role / "files", PLUGINS / "module_utils"):
        path = folder / name
        if path.is_file():
            return path.read_text(encoding="utf-8")
    raise manifests.ManifestError(f"Role {role} has no file {name}.")
