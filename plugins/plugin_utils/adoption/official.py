# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The options of MLflow's own chart (mlflow/mlflow, ``charts/``). docs/charts.md says which version it is."""

from __future__ import annotations

from ansible_collections.mlops.mlflow.plugins.plugin_utils.adoption import plan
from ansible_collections.mlops.mlflow.plugins.plugin_utils.adoption.plan import Adoption, Row

NAME = "mlflow/mlflow"
IMAGE = "ghcr.io/mlflow/mlflow"
SECURITY = ("fixed by the restricted Pod Security Standard, and the user is that of the files in a claim "
            "(mlflow_server_user); use mlflow_patches.")
MIGRATION = "a Job migrates always, with the environment and the volumes of the server; use mlflow_patches for it."


def is_chart(defaults: dict) -> bool:
    """Whether values are those of this chart."""
    return "backendStoreUri" in (defaults.get("mlflow") or {})


def _image(a: Adoption) -> None:
    plan.version(a, IMAGE, str(a.get("image.tag") or a.release.app_version))
    a.set("mlflow_image_pull_policy", a.get("image.pullPolicy"))


def _pull_secrets(a: Adoption) -> None:
    a.set("mlflow_image_pull_secrets", plan.names(a.get("imagePullSecrets")))


def _path(a: Adoption) -> str:
    return str(a.get("server.staticPrefix") or a.get("server.value_options.static_prefix") or "").rstrip("/")


def _prefix(a: Adoption) -> None:
    a.set("mlflow_server_path_prefix", _path(a) or None)


def _arguments(a: Adoption) -> None:
    for name, value in (a.get("server.value_options") or {}).items():
        if value in (None, ""):
            continue
        if name == "host" and value != "0.0.0.0":
            a.report("server.value_options.host", "always 0.0.0.0; mlflow_server_auth and mlflow_network_policy "
                                                  "restrict access.")
        plan.argument(a, name.replace("_", "-"), value, f"server.value_options.{name}")


def _flags(a: Adoption) -> None:
    for name in a.get("server.flag_options") or []:
        name = str(name).replace("_", "-")
        if name == "no-serve-artifacts":
            a.set("mlflow_server_artifacts", "direct")
        else:
            plan.argument(a, name, True, "server.flag_options")


def _probes(a: Adoption) -> None:
    plan.probes(a, {probe: f"probes.{probe}" for probe in ("liveness", "readiness", "startup")})


def _cleaning(a: Adoption) -> None:
    if not a.get("garbageCollection.enabled"):
        return
    a.set("mlflow_server_gc_schedule", a.get("garbageCollection.schedule"))
    a.set("mlflow_server_gc_older_than", a.get("garbageCollection.olderThan") or "")
    plan.volumes(a, "garbageCollection.extraVolumes", "garbageCollection.extraVolumeMounts")
    if a.given("garbageCollection.resources"):
        container = {"name": "gc", "resources": a.get("garbageCollection.resources")}
        a.set("mlflow_patches", [{"target": {"kind": "CronJob", "name": f"{a.instance}-server-gc"}, "patch": {
            "spec": {"jobTemplate": {"spec": {"template": {"spec": {"containers": [container]}}}}}}}])


def _ingress(a: Adoption) -> None:
    plan.ingress(a, _path(a))


def _gateway(a: Adoption) -> None:
    for option in ("gateway", "httpRoute"):
        plan.gateway(a, option, _path(a))


def _source(a: Adoption, option: str) -> tuple[str, dict | None]:
    """The URI of a store, as far as it is known, and the Secret that holds it."""
    source = a.get(f"{option}From") or {}
    if source.get("secretKeyRef"):
        reference = source["secretKeyRef"]
        return a.live.value("Secret", reference["name"], reference["key"]), reference
    if source.get("configMapKeyRef"):
        reference = source["configMapKeyRef"]
        return a.live.value("ConfigMap", reference["name"], reference["key"]), None
    return str(a.get(option) or ""), None


def _backend(a: Adoption) -> None:
    uri, reference = _source(a, "mlflow.backendStoreUri")
    option = "mlflow.backendStoreUriFrom" if reference else "mlflow.backendStoreUri"
    if "$(" in uri:
        a.report(option, "the URI takes parts from the environment; set database_host, database_name and a Secret "
                         "with the login (database_existing_secret).", data=True)
        return
    plan.database(a, option, uri, reference)


def _registry(a: Adoption) -> None:
    uri, reference = _source(a, "mlflow.registryStoreUri")
    if reference:
        a.extra_env.append({"name": "MLFLOW_REGISTRY_STORE_URI", "valueFrom": {"secretKeyRef": reference}})
    elif uri and uri != _source(a, "mlflow.backendStoreUri")[0]:
        a.extra_env.append(plan.hidden(a, {"name": "MLFLOW_REGISTRY_STORE_URI", "value": uri}, "@" in uri))


def _artifacts(a: Adoption) -> None:
    destination, root = a.get("mlflow.artifactsDestination"), a.get("mlflow.defaultArtifactRoot")
    option = "mlflow.artifactsDestination"
    if destination:
        plan.artifacts(a, option, destination)
        a.set("mlflow_server_default_artifact_root", root)
    elif root and not root.startswith("mlflow-artifacts:"):
        plan.direct(a, "mlflow.defaultArtifactRoot", root)
    else:
        plan.artifacts(a, option, "./mlartifacts")
        a.set("mlflow_server_default_artifact_root", root)


def _environment(a: Adoption) -> None:
    plan.environment(a, a.get("env") or [])


def _volumes(a: Adoption) -> None:
    plan.volumes(a, "extraVolumes", "extraVolumeMounts")


def _tls(a: Adoption) -> None:
    if a.get("tls.enabled"):
        a.set("mlflow_server_tls_secret", a.get("tls.secretName"))


def _external_secrets(a: Adoption) -> None:
    plan.objects(a, [obj for obj in a.release.objects if obj["kind"] in ("SecretStore", "ExternalSecret")])


def _network_policy(a: Adoption) -> None:
    if a.get("networkPolicy.enabled"):
        a.set("mlflow_network_policy", True)
        a.set("mlflow_network_policy_clients", ["0.0.0.0/0"])
        a.set("mlflow_network_policy_egress", a.get("networkPolicy.additionalEgressRules"))


def _metrics(a: Adoption) -> None:
    if a.get("metrics.enabled"):
        a.set("mlflow_server_extra_args", ["--expose-prometheus=/tmp/metrics"])
    if a.get("serviceMonitor.enabled"):
        a.set("monitoring_type", "operator")


def _security(a: Adoption) -> None:
    plan.security(a, SECURITY)


def _service_account(a: Adoption) -> None:
    plan.service_account(a, "serviceAccount.automountServiceAccountToken")


def _rights(a: Adoption) -> None:
    rules = a.get("namespace_rbac.extraRules")
    if rules and a.get("serviceAccount.automountServiceAccountToken"):
        a.set("mlflow_server_rbac_rules", rules)
    elif rules:
        a.report("namespace_rbac.extraRules", "no pod could use the rights, since automountServiceAccountToken is "
                                              "false; set mlflow_server_service_account_token and "
                                              "mlflow_server_rbac_rules.")
    plan.objects(a, [obj for obj in a.release.objects if obj["kind"] in ("ClusterRole", "ClusterRoleBinding")])


def _storage(a: Adoption) -> None:
    """The stores name the claim; one that neither uses stays, mounted where it was."""
    if not a.get("storage.enabled"):
        return
    if a.fullname not in a.claims:
        a.set("mlflow_server_extra_volumes", [{"name": "mlflow-storage",
                                               "persistentVolumeClaim": {"claimName": a.fullname}}])
        a.set("mlflow_server_extra_volume_mounts", [{"name": "mlflow-storage",
                                                     "mountPath": a.get("storage.mountPath")}])


ROWS = (
    Row("image.*", _image),
    Row("imagePullSecrets", _pull_secrets),
    Row("fullnameOverride", plan.service),
    Row("replicaCount", "mlflow_server_replicas"),
    Row("deploymentStrategy", None, "it follows the stores (Recreate where a volume can be mounted once only); use "
                                    "mlflow_patches."),
    Row("server.value_options", _arguments),
    Row("server.flag_options", _flags),
    Row("server.staticPrefix", _prefix),
    Row("probes.*", _probes),
    Row("service.*", plan.service),
    Row("ingress.*", _ingress),
    Row("gateway.labels", None, "labels of the route alone; use ingress_patches."),
    Row("httpRoute.matches", None, "the path is ingress_path; use ingress_patches for further matches."),
    Row("httpRoute.filters", None, "use ingress_patches."),
    Row("httpRoute.apiVersion", None, "always gateway.networking.k8s.io/v1."),
    Row("gateway.*", _gateway),
    Row("httpRoute.*", _gateway),
    Row("migrations.*", None, MIGRATION),
    Row("mlflow.backendStoreUri", _backend),
    Row("mlflow.backendStoreUriFrom", _backend),
    Row("mlflow.registryStoreUri", _registry),
    Row("mlflow.registryStoreUriFrom", _registry),
    Row("mlflow.defaultArtifactRoot", _artifacts),
    Row("mlflow.artifactsDestination", _artifacts),
    Row("env", _environment),
    Row("envFrom", "mlflow_server_extra_env_from"),
    Row("extraVolumes", _volumes),
    Row("extraVolumeMounts", _volumes),
    Row("storage.*", _storage),
    Row("garbageCollection.*", _cleaning),
    Row("extraInitContainers", "mlflow_server_extra_init_containers"),
    Row("extraContainers", "mlflow_server_extra_containers"),
    Row("tls.*", _tls),
    Row("externalSecrets.*", _external_secrets),
    Row("networkPolicy.*", _network_policy),
    Row("metrics.path", None, "monitoring has metrics of its own; those of MLflow are at /metrics."),
    Row("serviceMonitor.tlsConfig", None, "use monitoring_patches on the PodMonitor."),
    Row("metrics.*", _metrics),
    Row("serviceMonitor.*", _metrics),
    Row("podSecurityContext.*", _security),
    Row("securityContext.*", _security),
    Row("serviceAccount.*", _service_account),
    Row("namespace_rbac.*", _rights),
    Row("cluster_rbac.*", _rights),
    Row("resources", plan.resources),
    Row("podAnnotations", "mlflow_server_pod_annotations"),
    Row("podLabels", "mlflow_server_pod_labels"),
    Row("nodeSelector", plan.scheduling),
    Row("tolerations", plan.scheduling),
    Row("affinity", plan.scheduling),
    Row("topologySpreadConstraints", plan.scheduling),
)
"""Each option has the first row that is about it."""
