# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Health of an instance: the probes of all components, run at once, and what their reports come to."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ansible_collections.mlops.mlflow.plugins.module_utils import versions
from ansible_collections.mlops.mlflow.plugins.plugin_utils import components, engines, manifests, program, render

if TYPE_CHECKING:
    from ansible_collections.mlops.mlflow.plugins.plugin_utils.model import Model

SCHEDULED = ("gc", "backup", "verification")
"""Components whose pods are runs of a schedule, or of a GitOps tool: a failed one stays to be looked at until the next,
and the server works."""


def measure(
    engine: engines.Engine, model: Model, pods: list[dict], roundtrip: bool, timeout: int = 120
) -> dict[str, Any]:
    """Run the probes of all components beside the server.

    Args:
        engine: an open engine.
        model: the instance.
        pods: its pods, as the engine returned them.
        roundtrip: whether a client's round trip is part of it.
        timeout: seconds for all probes together.

    Returns:
        healthy, version, url, failures (sentences), messages (warnings, in sentences), components (the reports of each
        role's probes, by probe), ca_certificate (PEM, where the ingress has a CA of its own).
    """
    probes = {component.role: component.probes(model.variables, model) for component in components.COMPONENTS}
    facts: dict[str, Any] = {}
    flat = []
    for listed in probes.values():
        for probe in listed:
            flat.append(_complete(engine, probe, roundtrip, facts))
    reports = program.run(engine, model.mlflow_server.service, flat, timeout)
    failures = program.failures(flat, reports)
    unready = [pod for pod in pods if not pod["ready"]]
    failures += [f"Pod {pod['name']} is not ready: {pod['state']}." for pod in unready
                 if pod["component"] not in SCHEDULED]
    warning = versions.untested(model.instance.version)
    messages = [warning] if warning else []
    messages += [f"Pod {pod['name']} of a schedule has failed; look at its log." for pod in unready
                 if pod["component"] in SCHEDULED]
    for report in reports.values():
        messages += [*(report.get("missing") or []), *(report.get("messages") or [])]
    version = next((report["version"] for report in reports.values() if report.get("version")), None)
    return {"healthy": not failures, "version": version, "url": url(model), "failures": failures, "messages": messages,
            "components": {role: {probe.name: reports[probe.name] for probe in listed} for role,
                           listed in probes.items() if listed},
            **facts}


def _complete(engine: engines.Engine, probe: program.Probe, roundtrip: bool, facts: dict) -> program.Probe:
    """A probe with what only the engine knows: the CA of a Secret."""
    parameters = dict(probe.parameters)
    name = parameters.pop("ca_secret", "")
    if name:
        certificate = engine.secret(name).get("ca.crt")
        if certificate:
            parameters["ca"] = facts["ca_certificate"] = certificate
    if probe.name == "mlflow_server":
        parameters["roundtrip"] = roundtrip
    return replace(probe, parameters=parameters)


def verification(model: Model, labels: dict[str, str], timeout: int = 240) -> list[dict]:
    """The probes of all components as objects that a GitOps tool applies last: a ConfigMap and a Job, which fails when
    the instance is not healthy.

    Args:
        model: the instance.
        labels: the owner's labels.
        timeout: seconds for all probes together.
    """
    listed, ca_secret = [], ""
    for component in components.COMPONENTS:
        for probe in component.probes(model.variables, model):
            if probe.local:
                continue
            parameters = dict(probe.parameters)
            if parameters.pop("ca_secret", ""):
                ca_secret = probe.parameters["ca_secret"]
                parameters["ca_file"] = "/etc/mlflow-verification-ca/ca.crt"
            if probe.name == "mlflow_server":
                parameters["roundtrip"] = True
            if "metrics" in parameters:  # those of the server are on its own loopback address
                parameters["metrics"] = {job: url for job, url in parameters["metrics"].items()
                                         if not url.startswith("http://127.")}
            listed.append(replace(probe, parameters=parameters))
    parameters = {**program.parameters_of(listed, timeout), "titles": {probe.name: probe.title for probe in listed}}
    name = f"{model.instance.name}-verification"
    files = program.files("verification", "verify", parameters, program.modules(parameters))
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": files}
    manifests.label([config], {**model.variables.mlflow_labels, **labels}, model.variables.mlflow_annotations)
    job = render.render_one(components.by_role("mlflow_server"), model, labels, "verification.yaml.j2",
                            verification={"name": name, "ca_secret": ca_secret})
    return [config, job]


def not_installed(model: Model) -> dict[str, Any]:
    """The report of an instance that has no pods."""
    instance = model.instance
    sentence = f"Instance {instance.name} is not installed in namespace {instance.namespace} of {instance.engine}."
    return {"healthy": False, "version": None, "url": url(model), "failures": [sentence], "messages": [],
            "components": {}}


def url(model: Model) -> str:
    """The URL for clients, from outside where something leads there, else the Service's."""
    return model.mlflow_server.url or model.mlflow_server.cluster_url


def how_to_connect(model: Model) -> list[str]:
    """Lines that show a user how to connect."""
    v, instance, server = model.variables, model.instance, model.mlflow_server
    environment = [f"MLFLOW_TRACKING_URI={url(model)}"]
    if v.ingress_tls == "self_signed":
        environment.append(
            f"MLFLOW_TRACKING_SERVER_CERT_PATH={v.ingress_ca_dest or 'FILE, which ingress_ca_dest names'}"
        )
    if v.mlflow_server_auth == "oidc":
        environment.append("MLFLOW_TRACKING_TOKEN=TOKEN of the identity provider")
    where = "" if server.url else " in the cluster; playbooks/open.yml opens it here"
    return [f"MLflow {instance.version} is deployed and verified: instance {instance.name}, on {instance.engine}.",
            f"  URL      {url(model)}{where}",
            f'  Python   mlflow.set_tracking_uri("{url(model)}")',
            f"  Shell    export {' '.join(environment)}"]
