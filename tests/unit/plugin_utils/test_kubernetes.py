# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the Kubernetes engine decides by itself, with no cluster; Molecule runs it against a real one."""

from __future__ import annotations

import copy

import pytest
from ansible_collections.mlops.mlflow.plugins.plugin_utils import engines
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines.kubernetes import KubernetesEngine
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines.kubernetes_api import ApiError
from ansible_collections.mlops.mlflow.plugins.plugin_utils.manifests import Ref

SCOPE = engines.Scope("team", "mlflow", ("server",))


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
    """An API whose namespace holds objects of the given names, and whose answers end where they are asked to."""

    def __init__(self, plural, *names):
        self.plural, self.names, self.deleted = plural, names, []

    def map(self, function, items):
        return [function(item) for item in items]

    def request(self, method, path, query="", body=None):
        if method == "DELETE":
            self.deleted.append(path)
            return {}
        if path.endswith("/namespaces/team"):
            if self.deleted:
                raise ApiError(404, "gone")
            return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team", "uid": "1", "labels": SCOPE.labels("")}}
        if path.endswith("/localsubjectaccessreviews"):
            raise ApiError(405, "the server does not allow this method on the requested resource")
        names = self.names if path.endswith(f"/{self.plural}") else ()
        return {"items": [{"metadata": {"name": name}} for name in names[:int(query.partition("limit=")[2])]]}


@pytest.mark.parametrize("plural, names, gone", [
    ("configmaps", ("kube-root-ca.crt", "openshift-service-ca.crt", "istio-ca-root-cert"), True),
    ("configmaps", ("kube-root-ca.crt", "openshift-service-ca.crt", "istio-ca-root-cert", "somebody-s"), False),
    ("configmaps", ("aaa", "kube-root-ca.crt"), False),
    ("sealedsecrets", ("somebody-s",), False),
    ("events", ("pod-started",), True),
])
def test_a_namespace_goes_when_nothing_of_anyone_is_left(plural, names, gone):
    engine = object.__new__(KubernetesEngine)
    engine.scope, engine.api = SCOPE, Cluster(plural, *names)
    engine._resources = {(version, kind): (f"{kind.lower()}s", kind != "Namespace") for version, kind in (
        ("v1", "Namespace"), ("v1", "Pod"), ("v1", "ConfigMap"), ("v1", "Event"), ("apps/v1", "Deployment"), ("bitnami.com/v1alpha1", "SealedSecret"),
        ("authorization.k8s.io/v1", "LocalSubjectAccessReview"))}
    engine.leave(purge=True)
    assert bool(engine.api.deleted) is gone


class Recreated:
    """An API with one workload, which remembers what was sent to it."""

    def __init__(self, workload):
        self.workload, self.sent = workload, []

    def request(self, method, path, query="", body=None, content_type="", accept=""):
        if method == "PATCH":
            self.sent.append((content_type, query, body))
            self.workload = {**copy.deepcopy(body), "status": {"observedGeneration": 1, "updatedReplicas": 1, "availableReplicas": 1}}
        return self.workload


def test_what_ran_before_is_put_back_by_an_apply():
    """A field that a patch wrote would be there for good: a later apply takes away only what applies put there."""
    def workload(image, ready):
        return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "team", "managedFields": [], "uid": "1"},
                "spec": {"replicas": 1, "strategy": {"type": "Recreate"}, "template": {"spec": {"containers": [{"name": "c", "image": image}]}}},
                "status": {"observedGeneration": 1, "updatedReplicas": 1, "availableReplicas": ready}}

    engine = object.__new__(KubernetesEngine)
    said = []
    engine.scope, engine.api, engine.log = SCOPE, Recreated(workload("broken", 0)), said.append
    engine._resources, engine._before = {("apps/v1", "Deployment"): ("deployments", True)}, {}
    before, after = workload("fine", 1), workload("broken", 0)
    engine._before = {Ref.of(before): before}
    engine._restore(after)
    ((content_type, query, body),) = engine.api.sent
    assert content_type == "application/apply-patch+yaml" and "force=true" in query
    assert body["spec"]["template"] == before["spec"]["template"] and not {"managedFields", "uid"} & set(body["metadata"]) and "status" not in body
    assert said == ["Deployment d: what ran before is running again"]
