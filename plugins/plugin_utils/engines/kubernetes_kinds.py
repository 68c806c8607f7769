# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where objects of a kind stand in the Kubernetes API, known without asking the cluster for most."""

from __future__ import annotations

from typing import NamedTuple


class Resource(NamedTuple):
    """How the API serves one kind."""

    plural: str
    """The last part of its path."""
    namespaced: bool


LISTED = {
    ("v1", "ConfigMap"): "configmaps",
    ("v1", "PersistentVolumeClaim"): "persistentvolumeclaims",
    ("v1", "Secret"): "secrets",
    ("v1", "Service"): "services",
    ("v1", "ServiceAccount"): "serviceaccounts",
    ("apps/v1", "Deployment"): "deployments",
    ("apps/v1", "StatefulSet"): "statefulsets",
    ("autoscaling/v2", "HorizontalPodAutoscaler"): "horizontalpodautoscalers",
    ("batch/v1", "CronJob"): "cronjobs",
    ("batch/v1", "Job"): "jobs",
    ("networking.k8s.io/v1", "Ingress"): "ingresses",
    ("networking.k8s.io/v1", "NetworkPolicy"): "networkpolicies",
    ("policy/v1", "PodDisruptionBudget"): "poddisruptionbudgets",
    ("rbac.authorization.k8s.io/v1", "Role"): "roles",
    ("rbac.authorization.k8s.io/v1", "RoleBinding"): "rolebindings",
    # Of custom resources only those that can be all that a component has; clusters without them answer 404.
    ("external-secrets.io/v1", "ExternalSecret"): "externalsecrets",
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): "httproutes",
    ("route.openshift.io/v1", "Route"): "routes",
    ("monitoring.coreos.com/v1", "PodMonitor"): "podmonitors",
    ("monitoring.coreos.com/v1", "PrometheusRule"): "prometheusrules",
    ("monitoring.coreos.com/v1", "ServiceMonitor"): "servicemonitors",
    ("postgresql.cnpg.io/v1", "Cluster"): "clusters",
}
"""(apiVersion, kind) → plural of the kinds that every read lists for objects of the scope, and that templates render.

Objects of any other kind are found again by the annotation ``mlops.mlflow/kinds`` of the objects beside them.
"""

CUSTOM_GROUPS = ("external-secrets.io", "gateway.networking.k8s.io", "monitoring.coreos.com", "postgresql.cnpg.io",
                 "route.openshift.io")
"""Groups of LISTED that a cluster may lack: whether it has them must be asked before something of them is applied."""

PROVIDERS = {
    "postgresql.cnpg.io": "install CloudNativePG, or leave database_operator empty",
    "barmancloud.cnpg.io": "install the Barman Cloud plugin of CloudNativePG, or set database_backup to false",
}
"""What to do about a missing API group that one variable asks for."""

STATIC = {
    **{key: Resource(plural, True) for key, plural in LISTED.items() if key[0].rpartition("/")[0] not in CUSTOM_GROUPS},
    ("v1", "Namespace"): Resource("namespaces", False),
    ("v1", "Pod"): Resource("pods", True),
    ("apps/v1", "DaemonSet"): Resource("daemonsets", True),
}
"""Kinds that every supported cluster serves in this way."""
