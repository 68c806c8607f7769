# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Checks of what all components share (names, labels, sizes, Kubernetes' types, patches), and how checks are run."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import traceback
from typing import TYPE_CHECKING, Any, Callable, Iterator

from ansible_collections.mlops.mlflow.plugins.module_utils import versions
from ansible_collections.mlops.mlflow.plugins.plugin_utils import manifests, sealed_secrets
from ansible_collections.mlops.mlflow.plugins.plugin_utils.manifests import quantity
from ansible_collections.mlops.mlflow.plugins.plugin_utils.model import common, kubernetes_types
from ansible_collections.mlops.mlflow.plugins.plugin_utils.model.variables import (
    SPECS, WANTED, VariableError, Variables)

if TYPE_CHECKING:
    from ansible_collections.mlops.mlflow.plugins.plugin_utils.components.base import Component
    from ansible_collections.mlops.mlflow.plugins.plugin_utils.model import Model

LONGEST_INSTANCE = 37
"""A StatefulSet's pods carry its name and eleven characters more as a label of at most 63."""
TEXTS = ("mlflow_labels", "mlflow_annotations", "mlflow_node_selector", "mlflow_server_pod_labels",
         "mlflow_server_pod_annotations",
         "mlflow_server_service_annotations", "mlflow_server_service_account_annotations", "ingress_annotations",
         "monitoring_labels", "monitoring_grafana_selector")
OWN_LABELS = tuple(f"app.kubernetes.io/{name}" for name in ("name", "instance", "component", "managed-by"))
"""Labels by which the collection finds its objects."""
OBJECT_LABELS = ("mlflow_labels", "mlflow_server_pod_labels", "monitoring_labels")
LABELS = (*OBJECT_LABELS, "mlflow_node_selector", "monitoring_grafana_selector")
OBJECT_NAMES = (
    "database_existing_secret", "database_ca_secret", "object_storage_existing_secret", "object_storage_existing_claim",
    "mlflow_server_auth_existing_secret", "mlflow_server_oidc_existing_secret",
    "mlflow_server_encryption_existing_secret", "mlflow_server_tls_secret",
    "mlflow_server_service_account", "mlflow_priority_class",
    "ingress_tls_secret", "ingress_class", "database_storage_class", "object_storage_storage_class", "ingress_issuer",
    "monitoring_storage_class", "monitoring_database_existing_secret")
"""Variables that name an object of the cluster."""
RESOURCES = ("cpu", "memory", "ephemeral-storage")
KUBERNETES_TYPES = {
    "mlflow_tolerations": "[v1.Toleration]", "mlflow_network_policy_egress": "[v1.NetworkPolicyEgressRule]",
    "mlflow_server_rbac_rules": "[v1.PolicyRule]", "mlflow_server_affinity": "v1.Affinity",
    "mlflow_server_autoscaling_behavior": "v2.HorizontalPodAutoscalerBehavior",
    "mlflow_server_extra_env": "[v1.EnvVar]",
    "mlflow_server_extra_env_from": "[v1.EnvFromSource]", "mlflow_server_extra_volumes": "[v1.Volume]",
    "mlflow_server_extra_volume_mounts": "[v1.VolumeMount]", "mlflow_server_extra_init_containers": "[v1.Container]",
    "mlflow_server_extra_containers": "[v1.Container]",
}
"""Variables that hold parts of Kubernetes' objects, and their types there."""
SCHEDULING = ("nodeSelector", "tolerations", "affinity", "topologySpreadConstraints", "priorityClassName",
              "runtimeClassName", "schedulerName")
"""Fields of a PodSpec that NAME_scheduling of a role may hold."""
SERVICE_FIELDS = ("allocateLoadBalancerNodePorts", "clusterIP", "externalIPs", "externalTrafficPolicy",
                  "healthCheckNodePort", "internalTrafficPolicy", "ipFamilies", "ipFamilyPolicy", "loadBalancerClass",
                  "loadBalancerIP", "loadBalancerSourceRanges", "publishNotReadyAddresses", "sessionAffinity",
                  "sessionAffinityConfig", "trafficDistribution")
"""Fields of a Service's spec that NAME_service_spec of a role may hold."""
SERVICE_TYPES = {
    **{field: ("LoadBalancer",) for field in SERVICE_FIELDS if field.startswith(("loadBalancer", "allocate"))},
    "healthCheckNodePort": ("LoadBalancer",), "externalTrafficPolicy": ("NodePort", "LoadBalancer")}
"""Types of a Service that a field is for, where not all are."""
PROBE_FIELDS = ("initialDelaySeconds", "periodSeconds", "timeoutSeconds", "failureThreshold", "successThreshold",
                "terminationGracePeriodSeconds")
SERVICE_LEVELS = {
    "mlflow_service_level_api_p95": (1, 600_000, "ms"), "mlflow_service_level_upload": (1, 100_000, "MB/s"),
    "mlflow_service_level_ui_load": (1, 600_000, "ms"), "mlflow_service_level_database_p95": (1, 600_000, "ms"),
    "mlflow_service_levels_requests": (20, 100_000, "requests"),
    "mlflow_service_levels_artifact_size": (1, 1024, "MiB"),
}
"""Least and greatest value of the variables about service levels, and their units."""
SECRET_KEYS = ("database_existing_secret_keys", "object_storage_existing_secret_keys",
               "mlflow_server_auth_existing_secret_keys", "mlflow_server_oidc_existing_secret_keys",
               "mlflow_server_encryption_existing_secret_keys", "monitoring_database_existing_secret_keys")
"""Variables that name keys of Secrets."""
OPTIONAL_KEYS = ("mlflow_server_auth_existing_secret_keys", "mlflow_server_oidc_existing_secret_keys")
"""Those in which an empty text says that the Secret has no such key."""
IMAGES = ("database_image", "database_cloudsql_image", "object_storage_image", "mlflow_server_image",
          "mlflow_server_oidc_image",
          "ingress_image", "monitoring_prometheus_image", "monitoring_alertmanager_image",
          "monitoring_grafana_image")


class Findings:
    """The sentences about an instance's variables, collected from checks that are run one by one.

    An exception that a check does not expect (a KeyError, an AttributeError) is mostly the consequence of a variable
    that another check names. So it never stops the others, and is reported only when they find nothing.
    """

    def __init__(self) -> None:
        self._sentences: list[str] = []
        self._faults: list[str] = []

    def add(self, what: str, check: Callable[..., Iterator[str]], *args: Any) -> None:
        """Run a check.

        Args:
            what: names the variables that it is about, should it fail by itself.
            check: yields sentences.
            args: of the check.
        """
        with self.guard(what):
            for sentence in check(*args):
                self._sentences.append(sentence)

    @contextlib.contextmanager
    def guard(self, what: str) -> Iterator[None]:
        """Turn an unexpected exception into a sentence. Its text is left out, since it may hold a secret."""
        try:
            yield
        except VariableError as error:
            self._sentences += str(error).splitlines()
        except Exception as error:  # pylint: disable=broad-exception-caught
            frame = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{type(error).__name__} at {pathlib.Path(frame.filename).name}:{frame.lineno}"
            self._faults.append(f"Checking {what} failed ({place}), so one of them is likely of another form than "
                                "docs/variables.md says; "
                                f"correct it, or report this as a bug of the collection.")

    def end(self) -> None:
        """Raise VariableError if anything was found."""
        found = self._sentences or self._faults
        if found:
            raise VariableError("\n".join(dict.fromkeys(found)))


def check(model: Model) -> Iterator[str]:
    """Sentences about what all components share."""
    v = model.variables
    yield from _names(model, v)
    yield from _version(v)
    yield from _service_levels(v)
    yield from _images(v)
    yield from _secret_store(v)
    yield from _gitops(v)
    yield from _lists(v)
    yield from _object_metadata(v)
    yield from _kubernetes_types(v)
    yield from _scheduling(v)
    yield from _services(v)
    yield from _probes(v)
    yield from _network_policy(v)
    yield from _sizes(v)
    yield from _resources(v)
    yield from _patches(v)
    yield from _files(v)
    yield from _endpoints(v)


def _names(model: Model, v: Variables) -> Iterator[str]:
    name, namespace = model.instance.name, model.instance.namespace
    if not common.matches(rf"[a-z]([-a-z0-9]{{0,{LONGEST_INSTANCE - 2}}}[a-z0-9])?", name):
        yield (f"mlflow_instance is {name!r}; it must be a DNS label: at most {LONGEST_INSTANCE} lower-case letters, "
               "digits and '-', "
               f"beginning with a letter and ending with a letter or digit.")
    elif not common.matches(common.DNS_LABEL, namespace):
        yield (f"mlflow_namespace is {namespace!r}; it must be a DNS label: at most 63 lower-case letters, digits and "
               "'-', beginning with a "
               f"letter or digit and ending with a letter or digit.")
    if not 1 <= v.mlflow_wait_timeout <= 86400:
        yield f"mlflow_wait_timeout is {v.mlflow_wait_timeout}; it must be at least 1 second, and at most 86400."
    for variable in IMAGES:
        if v[variable] is not None and not common.image(v[variable]):
            yield (f"{variable} is {common.hidden(v[variable])}; it must be an image's name, such as "
                   "registry.example.com/team/mlflow:3.17.2, "
                   f"without scheme.")
    for variable in SECRET_KEYS:
        for part, key in (v.get(variable) or {}).items():
            if key == "" and variable in OPTIONAL_KEYS:
                continue  # not in the Secret
            if key is not None and not common.matches(common.SECRET_KEY, key):
                yield f"{variable}.{part} is {key!r}; a Secret's key has letters, digits, '-', '_' and '.'."
    if not common.matches(common.SECRET_KEY, v.database_ca_secret_key):
        yield (f"database_ca_secret_key is {v.database_ca_secret_key!r}; a Secret's key has letters, digits, '-', '_' "
               "and '.'.")
    for variable in OBJECT_NAMES:
        if v[variable] and (len(v[variable]) > 253 or not common.matches(common.OBJECT_NAME, v[variable])):
            yield (f"{variable} is {v[variable]!r}; it must be an object's name: lower-case letters, digits, '-' and "
                   "'.'.")
    for secret in v.mlflow_image_pull_secrets:
        if not common.matches(common.OBJECT_NAME, secret):
            yield (f"mlflow_image_pull_secrets holds {secret!r}; it must be a Secret's name: lower-case letters, "
                   "digits, '-' and '.'.")


def _service_levels(v: Variables) -> Iterator[str]:
    for variable, (least, most, unit) in SERVICE_LEVELS.items():
        if not least <= v[variable] <= most:
            yield f"{variable} is {v[variable]}; it must be at least {least} {unit}, and at most {most}."
    if not v.mlflow_service_levels_from:
        yield "mlflow_service_levels_from is empty; name outside, inside, or both."


def _version(v: Variables) -> Iterator[str]:
    if not common.matches(r"[0-9]+\.[0-9]+\.[0-9]+(rc[0-9]+)?|latest", v.mlflow_version):
        yield f"mlflow_version is {v.mlflow_version!r}; it must be a whole version such as 3.17.2, or latest."
        return
    from ansible_collections.mlops.mlflow.plugins.plugin_utils.components import ingress

    yield from versions.violations(v.mlflow_version, v.mlflow_server_auth, ingress.server_path(v))


def _images(v: Variables) -> Iterator[str]:
    """What builds of images are given; it goes to a shell in the build."""
    for program in ("postgresql", "mariadb", "seaweedfs", "caddy", "prometheus", "alertmanager", "uv"):
        variable = f"images_{program}_version"
        if not common.matches(r"[0-9][0-9A-Za-z.+~-]*", v[variable]):
            yield f"{variable} is {v[variable]!r}; it must be a version such as {SPECS[variable]['default']}."
    for package in v.images_mlflow_extra_packages:
        if not common.matches(r"[A-Za-z0-9][^\s'\"`$\\|&;]*", package):
            yield (f"images_mlflow_extra_packages holds {common.hidden(package)}; give each package without blanks, "
                   "quotes and options, such as "
                   f"mlflow-oidc-auth==7.1.3.")
    if not common.url(v.images_debian_mirror):
        yield (f"images_debian_mirror is {common.hidden(v.images_debian_mirror)}; it must be a URL such as "
               "http://deb.debian.org/debian.")
    for variable in ("images_ca_bundle", "images_archive_dir"):
        if v[variable] and not v[variable].startswith(("/", "~")):
            yield f"{variable} is {v[variable]!r}; it must be an absolute path on the host."


def _secret_store(v: Variables) -> Iterator[str]:
    for variable in (name for name in v if name.endswith("_external_secret")):
        if v[f"{variable}_template"] and not v[variable]:
            yield (f"{variable}_template is set while {variable} is empty; give there the values of the store that it "
                   "uses, or leave it out.")
    interval = v.mlflow_secret_store.get("refresh_interval")
    if interval and not common.matches(f"0|{common.GO_DURATION}", interval):
        yield (f"mlflow_secret_store.refresh_interval is {interval!r}; it must be a span of hours, minutes or "
               "seconds, such as 1h or 15m.")


def _gitops(v: Variables) -> Iterator[str]:
    if v.mlflow_gitops != "none" and not v.mlflow_render_dir:
        yield (f"mlflow_gitops is {v.mlflow_gitops} while mlflow_render_dir is empty; name the folder of the "
               "repository there.")
    if v.mlflow_gitops != "none" and not v.mlflow_gitops_repository:
        yield (f"mlflow_gitops_repository is empty while mlflow_gitops is {v.mlflow_gitops}; give the URL that the "
               "tool clones, such as https://git.example.com/team/mlflow.git.")
    if v.mlflow_gitops_path.startswith("/") or ".." in v.mlflow_gitops_path.split("/"):
        yield (f"mlflow_gitops_path is {v.mlflow_gitops_path!r}; it must be a path within the repository, such as "
               "clusters/production.")
    if v.mlflow_gitops_fleet and v.mlflow_gitops != "argocd":
        yield (f"mlflow_gitops_fleet is true while mlflow_gitops is {v.mlflow_gitops}; only argocd has "
               "ApplicationSets, so set it to false.")
    if v.mlflow_render_secrets == "sops" and not v.mlflow_render_age_recipients:
        yield ("mlflow_render_age_recipients is empty while mlflow_render_secrets is sops; give the public keys that "
               "age-keygen printed.")
    for recipient in v.mlflow_render_age_recipients:
        if not common.matches("age1[a-z0-9]{10,}", recipient):
            # It may be a private key.
            yield ("mlflow_render_age_recipients holds what is no public key of age; public keys begin with age1, and "
                   "age-keygen -y prints that of a private key.")
    yield from _sealed(v)
    if v.mlflow_render_secrets == "external" and not v.mlflow_secret_store.get("name"):
        yield ("mlflow_secret_store.name is missing while mlflow_render_secrets is external; name the store that has "
               "the values.")


def _sealed(v: Variables) -> Iterator[str]:
    path = v.mlflow_render_sealed_certificate
    if v.mlflow_render_secrets != "sealed":
        return
    if not path:
        yield ("mlflow_render_sealed_certificate is empty while mlflow_render_secrets is sealed; give the file with "
               "the certificate of the controller, which `kubeseal --fetch-cert` prints.")
        return
    try:
        sealed_secrets.public_key(path)
    except sealed_secrets.CertificateError as error:
        yield (f"mlflow_render_sealed_certificate is {path!r}, {error}; give the file with what "
               "`kubeseal --fetch-cert` prints.")


def _lists(v: Variables) -> Iterator[str]:
    """What a list of text holds twice; only arguments may be repeated."""
    for variable, spec in SPECS.items():
        if spec.get("type") != "list" or spec.get("elements") != "str" or variable.endswith("_args") or not v[variable]:
            continue
        for entry in sorted({entry for entry in v[variable] if v[variable].count(entry) > 1}):
            yield f"{variable} holds {common.hidden(entry)} twice; name each once."


def _files(v: Variables) -> Iterator[str]:
    """Paths on the controller."""
    if v.mlflow_render_dir and os.path.isfile(os.path.expanduser(v.mlflow_render_dir)):
        yield (f"mlflow_render_dir is {v.mlflow_render_dir!r}, which is a file; it must be a folder, which is made "
               "where there is none.")
    if v.ingress_ca_dest and os.path.isdir(os.path.expanduser(v.ingress_ca_dest)):
        yield (f"ingress_ca_dest is {v.ingress_ca_dest!r}, which is a folder; it must be a file, such as "
               "~/mlflow-ca.crt.")
    needed = v.mlflow_engine == "kubernetes" and v.mlflow_kubeconfig and not v.mlflow_render_dir
    # Several files may be named, as KUBECONFIG does; the client skips those that are missing.
    paths = [os.path.expanduser(path) for path in v.mlflow_kubeconfig.split(":") if path] if needed else []
    if needed and not any(map(os.path.isfile, paths)):
        yield (f"mlflow_kubeconfig is {v.mlflow_kubeconfig!r}, which is no file on the controller; it must be the "
               "path of a kubeconfig.")


def _kubernetes_types(v: Variables) -> Iterator[str]:
    for variable, kind in KUBERNETES_TYPES.items():
        if v[variable]:
            yield from kubernetes_types.problems(variable, v[variable], kind)


def _scheduling(v: Variables) -> Iterator[str]:
    for variable in (name for name in v if name.endswith("_scheduling")):
        yield from kubernetes_types.fields(variable, v[variable], "v1.PodSpec", SCHEDULING)
    if v.mlflow_server_affinity and "affinity" in v.mlflow_server_scheduling:
        yield "mlflow_server_affinity and mlflow_server_scheduling.affinity are both set; keep one of them."


def _services(v: Variables) -> Iterator[str]:
    """Service types, and the fields that only some of them have."""
    for role in ("mlflow_server", "ingress"):
        kind, spec, node_port = (v[f"{role}_service_{end}"] for end in ("type", "spec", "node_port"))
        problems = list(kubernetes_types.fields(f"{role}_service_spec", spec, "v1.ServiceSpec", SERVICE_FIELDS))
        yield from problems
        for field in spec if not problems else ():
            fitting = SERVICE_TYPES.get(field, (kind,))
            if kind not in fitting:
                yield (f"{role}_service_spec has {field} while {role}_service_type is {kind}, which has no such field; "
                       f"set {role}_service_type to {' or '.join(fitting)}, or leave {field} out.")
        for source in spec.get("loadBalancerSourceRanges") or () if not problems else ():
            if not common.network(source):
                yield (f"{role}_service_spec.loadBalancerSourceRanges holds {source!r}; it must be a network such as "
                       "203.0.113.0/24.")
        if not 0 <= node_port <= 65535:
            yield f"{role}_service_node_port is {node_port}; it must be a TCP port up to 65535, or 0."
        elif node_port and kind == "ClusterIP":
            yield (f"{role}_service_node_port is {node_port} while {role}_service_type is ClusterIP, which has no port "
                   f"of the nodes; set {role}_service_type to NodePort or LoadBalancer, or leave it 0.")
    if not 0 <= v.mlflow_server_service_port <= 65535:
        yield f"mlflow_server_service_port is {v.mlflow_server_service_port}; it must be a TCP port up to 65535, or 0."


def _probes(v: Variables) -> Iterator[str]:
    for name, probe in v.mlflow_server_probes.items():
        where = f"mlflow_server_probes.{name}"
        problems = list(kubernetes_types.fields(where, probe, "v1.Probe", PROBE_FIELDS))
        yield from problems
        if not problems and name != "readiness" and probe.get("successThreshold") not in (None, 1):
            yield f"{where}.successThreshold is {probe['successThreshold']}; Kubernetes takes 1 only for this probe."


def _object_metadata(v: Variables) -> Iterator[str]:
    """What Kubernetes would refuse when other objects have been made already."""
    for variable in TEXTS:
        for name, value in v[variable].items():
            if not common.label_key(name):
                yield (f"{variable} has the key {name!r}; it must be a name of at most 63 letters, digits, '-', '_' "
                       "and '.', after a domain "
                       f"and '/' if there is one, such as example.com/team.")
            elif not isinstance(value, str) and not (value is None and variable == "ingress_annotations"):
                what = "null; give text, or remove it" if value is None else (
                    f"{value!r:.60}; Kubernetes takes text, so put it in quotes")
                yield f"{variable}: the value of {name} is {what}."
            elif variable in LABELS and not common.matches(common.LABEL_VALUE, value):
                yield (f"{variable}: the value of {name} is {value!r}; a label's value has at most 63 letters, "
                       "digits, '-', '_' and '.', "
                       f"beginning and ending with a letter or digit.")
            elif variable in OBJECT_LABELS and name in OWN_LABELS:
                yield f"{variable} has the key {name}, by which the collection finds its objects; choose another key."
    for key in v.mlflow_server_spread:
        if not common.label_key(key):
            yield (f"mlflow_server_spread holds {key!r}; it must be the key of a node's label, such as "
                   "topology.kubernetes.io/zone.")


def _network_policy(v: Variables) -> Iterator[str]:
    for variable in ("mlflow_network_policy_clients", "monitoring_clients"):
        for client in v[variable]:
            if not (common.network(client) if "/" in client else common.matches(common.DNS_LABEL, client)):
                yield (f"{variable} holds {client!r}; it must be a namespace's name, or a network such as "
                       "10.0.0.0/16.")


def _sizes(v: Variables) -> Iterator[str]:
    for variable in ("database_size", "database_archive_size", "object_storage_size", "monitoring_size"):
        size = quantity(v[variable])
        if size is None or not 2**20 <= size <= 2**60 or v[variable][-1] in "mun":
            yield f"{variable} is {v[variable]!r}; it must be a Kubernetes quantity of storage such as 10Gi."


def _resources(v: Variables) -> Iterator[str]:
    from ansible_collections.mlops.mlflow.plugins.plugin_utils.components.connections import server_resources

    for variable in (name for name, spec in SPECS.items() if name.endswith("_resources") and spec["type"] == "dict"):
        problems = list(_quantities(variable, v[variable]))
        yield from problems
        if problems:
            continue
        whole = server_resources(v) if variable == "mlflow_server_resources" else v[variable]
        for name, limit in (whole.get("limits") or {}).items():
            request = (whole.get("requests") or {}).get(name)
            if request is not None and (quantity(request) or 0) > (quantity(limit) or 0):
                yield (f"{variable}.requests.{name} ({request}) is more than {variable}.limits.{name} ({limit}); it "
                       "must be at most that.")


def _quantities(variable: str, value: dict) -> Iterator[str]:
    unknown = sorted(set(value) - {"requests", "limits", "claims"})
    if unknown:
        yield f"{variable} holds {unknown[0]!r}; it may hold requests and limits."
        return
    yield from kubernetes_types.problems(f"{variable}.claims", value.get("claims") or [], "[v1.ResourceClaim]")
    for part in ("requests", "limits"):
        figures = {} if value.get(part) is None else value[part]
        if not isinstance(figures, dict):
            yield f"{variable}.{part} is {figures!r}; it must be a mapping, such as {{cpu: 500m, memory: 2Gi}}."
            continue
        for name, figure in figures.items():
            number = quantity(figure)
            where = f"{variable}.{part}.{name}"
            if name not in RESOURCES and "/" not in name and not name.startswith("hugepages-"):
                yield (f"{where} is no resource of a container; it may be {', '.join(RESOURCES)}, or one of a device "
                       "such as nvidia.com/gpu.")
            elif figure is None and variable == "mlflow_server_resources":
                continue  # takes the preset's figure away
            elif isinstance(figure, bool) or number is None or number <= 0:
                yield f"{where} is {_figure(figure)}; it must be a Kubernetes quantity such as 500m or 2Gi."
            elif common.matches(r".*[eE][+-]?[0-9]+", str(figure)):
                yield (f"{where} is {figure!r}, a number with an exponent; it must be a Kubernetes quantity such as "
                       "500m or 2Gi.")
            elif name != "cpu" and str(figure)[-1] in "mun":
                yield f"{where} is {figure!r}, which is a fraction; it must be a whole quantity such as 2Gi."
            elif name == "memory" and not 4 * 2**20 <= number <= 2**50:
                yield (f"{where} is {figure!r}, which is "
                       f"{'less than 4 MiB' if number < 2**50 else 'more than 1 PiB'}; it must be such as 2Gi.")
            elif "/" in name and not (common.label_key(name) and number == int(number)):
                yield (f"{where} is {figure!r}; it must be a whole number of devices, under a name such as "
                       "nvidia.com/gpu.")
            elif name == "cpu" and (not 0.001 <= number <= 10000 or str(figure)[-1] not in "0123456789m"):
                yield f"{where} is {figure!r}; it must be a number of cores such as 500m or 2."


def _endpoints(v: Variables) -> Iterator[str]:
    """Stores that are described otherwise than by their roles."""
    from ansible_collections.mlops.mlflow.plugins.plugin_utils.components import database, object_storage

    for variable, endpoint, kinds in (("mlflow_server_database", database.Endpoint,
                                       ("postgresql", "mysql", "sqlite", "other")),
                                      ("mlflow_server_artifact_store", object_storage.Endpoint,
                                       ("s3", "gcs", "azure", "volume", "uri"))):
        given, fields = v[variable], {field.name: str(field.type) for field in dataclasses.fields(endpoint)}
        if not given:
            continue
        if given.get("type") not in kinds:
            yield f"{variable} has no type, or one that does not exist; it must be one of {', '.join(kinds)}."
        elif not given.get("uri") and given["type"] != "volume" and not _uri_key(given):
            yield f"{variable} has no uri; give the place as MLflow's configuration names it."
        for name, value in given.items():
            if name not in fields:
                yield f"{variable} has the key {name}, which does not exist; it may have {', '.join(fields)}."
            elif type(value).__name__ != fields[name]:
                yield f"{variable}.{name} is of another type; it must be {WANTED[fields[name]]}."
        yield from _endpoint_keys(variable, given)


def _uri_key(given: dict) -> str:
    """Key of a Secret that holds the whole URI, where there is one."""
    keys = given.get("secret_keys")
    return str(keys.get("uri") or "") if isinstance(keys, dict) and given.get("secret") else ""


def _endpoint_keys(variable: str, given: dict) -> Iterator[str]:
    known = {"mlflow_server_database": ("uri",) if _uri_key(given) else ("user", "password"),
             "s3": ("access_key", "secret_key"), "gcs": ("credentials",),
             "azure": ("access_key", "connection_string"), "volume": (), "uri": ()}
    possible = known.get(variable) or known.get(str(given.get("type")), ())
    keys, needed = given.get("secret_keys") or {}, () if given.get("type") == "azure" else possible
    if not isinstance(keys, dict):
        return
    for key, value in keys.items():
        if (
            not isinstance(value, str)
            or not common.matches(common.SECRET_KEY, value)
            or key not in (*possible, "root_password")
        ):
            yield (f"{variable}.secret_keys.{key} is no key of the Secret that is read; it may have "
                   f"{', '.join(possible)}, each with a Secret's key.")
    missing = [key for key in needed if key not in keys]
    if given.get("secret") and missing:
        yield f"{variable}.secret_keys has no {missing[0]} while {variable}.secret is set; name the key of the Secret."
    identity = given.get("identity")
    if isinstance(identity, dict) and (
        set(identity) != {"annotations", "labels"} or not all(isinstance(part, dict) for part in identity.values())
    ):
        yield f"{variable}.identity must hold exactly annotations and labels, each a mapping."


def _figure(figure: Any) -> str:
    return "a mapping" if isinstance(figure, dict) else "a list" if isinstance(figure, list) else repr(figure)


def _patches(v: Variables) -> Iterator[str]:
    for variable in (name for name in v if name.endswith("_patches")):
        for number, entry in enumerate(v[variable]):
            whole = set(entry) == {"target", "patch"} and isinstance(entry["target"],
                                                                     dict) and isinstance(entry["patch"], dict)
            target = entry["target"] if whole else {}
            if (
                not whole
                or set(target) - {"kind", "name"}
                or not all(isinstance(text, str) and text for text in target.values())
                or "kind" not in target
            ):
                yield (f"{variable}[{number}] must hold exactly target (kind, and name to reach one object) and patch "
                       "(the fields to "
                       f"merge).")


def rendered(component: Component, model: Model) -> Iterator[str]:
    """What is wrong with a component's patches and the objects that a variable adds; without them nothing is rendered.

    Rendering the server takes about 10 ms; the components' own templates are covered by tests.
    """
    # It imports the components, which import this package.
    from ansible_collections.mlops.mlflow.plugins.plugin_utils import render

    v, patches = model.variables, f"{component.role}_patches"
    extra = v.mlflow_server_extra_objects if component.role == "mlflow_server" else []
    used = [name for name in (patches, "mlflow_patches") if v.get(name)]
    if not used and not extra:
        return
    try:
        manifests.load(extra, "mlflow_server_extra_objects")
        before = False
        for number, obj in enumerate(extra):
            if not obj:
                before = True
                yield f"mlflow_server_extra_objects[{number}] is empty; remove it, or give a Kubernetes object."
            for sentence in kubernetes_types.of_object(f"mlflow_server_extra_objects[{number}]", obj):
                before = True
                yield sentence
        if before:
            return
        for obj in render.render(component, model, {}):
            if used:
                yield from kubernetes_types.of_object(f"{' or '.join(used)}: {manifests.Ref.of(obj)}", obj)
    except manifests.ManifestError as error:
        text = str(error)
        known = (patches, "mlflow_patches", "mlflow_server_extra_objects")
        yield text if text.startswith(known) else f"mlflow_server_extra_objects: {text}"


def unreached(model: Model) -> Iterator[str]:
    """Entries of mlflow_patches that reach no object of any component."""
    from ansible_collections.mlops.mlflow.plugins.plugin_utils import components, render

    patches = model.variables.mlflow_patches
    if not patches:
        return
    objects = [obj for component in components.COMPONENTS for obj in render.unpatched(component, model)]
    for number, entry in enumerate(patches):
        where = f"mlflow_patches[{number}]"
        if not manifests.targets(objects, entry, where):
            yield manifests.unreached(objects, entry, where)
