# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the Kubernetes engine decides by itself, with no cluster; Molecule runs it against a real one."""

from __future__ import annotations

import pytest
from ansible_collections.mlops.mlflow.plugins.plugin_utils import engines
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines.kubernetes import KubernetesEngine
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines.kubernetes_api import ApiError
from ansible_collections.mlops.mlflow.plugins.plugin_utils.manifests import Ref

SCOPE = engines.Scope("team", "mlflow", "server")


def claim(size="8Gi", storage_class=None, mode="ReadWriteOnce", **status):
    spec = {"accessModes": [mode], "resources": {"requests": {"storage": size}}, **({"storageClassName": storage_class} if storage_class else {})}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data", "namespace": "team"}, "spec": spec, "status": status}


def preflight(before, after):
    KubernetesEngine.preflight(object.__new__(KubernetesEngine), [after], {Ref.of(before): before})


@pytest.mark.parametrize("after, sentence", [
    (claim(size="4Gi"), "PersistentVolumeClaim data has 8Gi, which cannot shrink to 4Gi"),
    (claim(storage_class="fast"), "was made with storageClassName standard, which cannot become fast"),
    (claim(mode="ReadWriteMany"), "was made with accessModes ReadWriteOnce, which cannot become ReadWriteMany"),
])
def test_what_no_volume_can_become_is_refused_in_one_sentence(after, sentence):
    with pytest.raises(engines.EngineError, match=sentence) as refused:
        preflight(claim(storage_class="standard"), after)
    assert "\n" not in str(refused.value)


def test_a_volume_may_stay_and_grow():
    preflight(claim(storage_class="standard", capacity={"storage": "8Gi"}), claim(size="8192Mi"))
    preflight(claim(storage_class="standard"), claim(size="20Gi"))
    # A storage with sizes of its own gave more than was asked for.
    preflight(claim(capacity={"storage": "100Gi"}), claim(size="8Gi"))
    # A claim that a failed growth left at more than the volume has may go back.
    preflight(claim(size="1Ti", capacity={"storage": "8Gi"}), claim(size="8Gi"))


class Cluster:
    """An API whose namespace holds the ConfigMaps of the given names, and whose answers end where they are asked to."""

    def __init__(self, *configmaps):
        self.configmaps, self.deleted = configmaps, []

    def map(self, function, items):
        return [function(item) for item in items]

    def request(self, method, path, query="", body=None):
        if method == "DELETE":
            self.deleted.append(path)
            return {}
        if path.endswith("/namespaces/team"):
            if self.deleted:
                raise ApiError(404, "gone")
            return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team", "uid": "1", "labels": SCOPE.labels}}
        names = self.configmaps if path.endswith("/configmaps") else ()
        return {"items": [{"metadata": {"name": name}} for name in names[:int(query.partition("limit=")[2])]]}


@pytest.mark.parametrize("configmaps, gone", [
    (("kube-root-ca.crt", "openshift-service-ca.crt", "istio-ca-root-cert"), True),
    (("kube-root-ca.crt", "openshift-service-ca.crt", "istio-ca-root-cert", "somebody-s"), False),
    (("aaa", "kube-root-ca.crt"), False),
])
def test_a_namespace_goes_when_nothing_of_anyone_is_left(configmaps, gone):
    engine = object.__new__(KubernetesEngine)
    engine.scope, engine.api = SCOPE, Cluster(*configmaps)
    engine._resources = {(version, kind): (f"{kind.lower()}s", kind != "Namespace") for version, kind in (
        ("v1", "Namespace"), ("v1", "Pod"), ("v1", "Secret"), ("v1", "ConfigMap"), ("v1", "Service"), ("v1", "PersistentVolumeClaim"),
        ("apps/v1", "Deployment"), ("apps/v1", "StatefulSet"), ("batch/v1", "Job"), ("batch/v1", "CronJob"))}
    engine.leave(purge=True)
    assert bool(engine.api.deleted) is gone
