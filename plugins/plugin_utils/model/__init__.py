# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The model of an MLflow instance: its variables, typed and checked, and all that follows from them.

``resolve`` is the one way from inventory variables to what components render, what engines are asked for, and what
probes measure. Nothing here imports Ansible's engine, so unit tests call it with plain dictionaries.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any, Callable, Iterable

from ansible_collections.mlops.mlflow.plugins.plugin_utils import components
from ansible_collections.mlops.mlflow.plugins.plugin_utils.model import checks, variables
from ansible_collections.mlops.mlflow.plugins.plugin_utils.model.variables import VariableError, Variables


@dataclass(frozen=True)
class Instance:
    """What is true of the instance as a whole.

    Attributes:
        host: the inventory host that describes it.
        name: DNS label; the beginning of the names of all objects.
        namespace: on Kubernetes the namespace, on podman the network.
        engine: kubernetes or podman.
        kubeconfig: path, or None for the default.
        context: context of the kubeconfig, or None for the current one.
        version: version of MLflow.
        latest: whether mlflow_version is ``latest``, and the version what that was resolved to.
        build: whether images are built rather than pulled.
        pod_spec: fields that every pod gets unless its template has them.
        wait_timeout: seconds for all waiting of one apply.
        render_dir: folder to write manifests to instead of applying them, or empty.
    """

    host: str
    name: str
    namespace: str
    engine: str
    kubeconfig: str | None
    context: str | None
    version: str
    latest: bool
    build: bool
    pod_spec: dict
    wait_timeout: int
    render_dir: str

    @property
    def labels(self) -> dict[str, str]:
        """The label that all pods of the instance carry."""
        return {"app.kubernetes.io/instance": self.name}

    def selector(self, component: str) -> dict[str, str]:
        """Labels that select the pods of a component."""
        return {**self.labels, "app.kubernetes.io/component": component}


@dataclass
class Model:
    """An instance with all of its components.

    Attributes:
        instance: what is true of all of it.
        variables: the typed variables.
        parts: what each component derives from them, by role.
    """

    instance: Instance
    variables: Variables
    parts: dict[str, Any] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["parts"][name]
        except KeyError:
            raise AttributeError(name) from None


def resolve(find: Callable[[str], Any], names: Iterable[str], host: str,
            latest: Callable[[Instance, Variables], str] | None = None) -> Model:
    """Turn variables into a model.

    Args:
        find: gives the templated value of a variable that is set; it may raise VariableError.
        names: names of all variables that are set.
        host: the inventory host, after which the instance is called unless mlflow_instance says otherwise.
        latest: resolves ``mlflow_version: latest`` for an instance; it may raise VariableError. None leaves it as it
            is.

    Raises:
        VariableError: with one sentence for each problem: variable, what is wrong, what would be right.
    """
    typed = variables.collect(find, names, components.multiline(), components.secrets(),
                              separated=components.separated())
    instance = _instance(typed, host)
    given = typed.get("_mlflow_version")
    if given:  # by upgrade.yml and rollback.yml, which deploy one version after the other
        typed, instance = typed.changed(mlflow_version=given), replace(instance, version=given)
    model = Model(instance, typed)
    findings = checks.Findings()
    findings.add("the variables that all roles share", checks.check, model)
    if instance.latest and latest and not given:
        findings.end()  # it asks the cluster and the index
        typed = model.variables = typed.changed(mlflow_version=latest(instance, typed))
        model.instance = replace(instance, version=typed.mlflow_version)
    for component in components.COMPONENTS:
        with findings.guard(f"the variables of role {component.role}"):
            model.parts[component.role] = component.resolve(typed, model)
    for component in components.COMPONENTS:
        for check in component.checks():
            findings.add(f"the variables of role {component.role}", check, typed, model)
    findings.end()
    # What follows relies on variables that are right in themselves.
    for component in components.COMPONENTS:
        findings.add(f"the variables of role {component.role}", component.unsupported, typed, model)
        findings.add(f"{component.role}_patches", checks.rendered, component, model)
    findings.add("mlflow_patches", checks.unreached, model)
    findings.end()
    return model


def instance_name(host: str) -> str:
    """The instance's name that follows from an inventory host's name."""
    return re.sub(r"[^a-z0-9-]", "-", host.lower())


def _instance(v: Variables, host: str) -> Instance:
    name = v.mlflow_instance or instance_name(host)
    return Instance(
        host=str(host),  # Ansible's is of a kind of its own, which YAML cannot write
        name=name, namespace=v.mlflow_namespace or name, engine=v.mlflow_engine,
        kubeconfig=v.mlflow_kubeconfig or None, context=v.mlflow_context or None, version=v.mlflow_version,
        latest=v.mlflow_version == "latest", build=v.mlflow_image_source == "build",
        pod_spec={"imagePullSecrets": [{"name": secret} for secret in v.mlflow_image_pull_secrets],
                  "nodeSelector": v.mlflow_node_selector, "tolerations": v.mlflow_tolerations,
                  "priorityClassName": v.mlflow_priority_class},
        wait_timeout=v.mlflow_wait_timeout, render_dir=v.mlflow_render_dir)
