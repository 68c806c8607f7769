# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An apply with a Cluster of CloudNativePG: what is waited for, and how faults are reported.

The operator is a stand-in: it gives the status that the real one gives, and makes the Secret of the login. Nothing here
shows that CloudNativePG itself accepts or runs the Cluster.
"""

from __future__ import annotations

import base64

import pytest
from ansible_collections.mlops.mlflow.plugins.plugin_utils import engines, manifests
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines import kubernetes_wait
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines.kubernetes_status import HEALTHY, progress

SCOPE = engines.Scope("team", "mlflow", ("database",))
PLACE = "/apis/postgresql.cnpg.io/v1/namespaces/team/clusters/db"
UNRECOVERABLE = "Cluster is unrecoverable and needs manual intervention"


def cluster(**spec):
    return {"apiVersion": "postgresql.cnpg.io/v1", "kind": "Cluster",
            "metadata": {"name": "db", "annotations": {manifests.KEEP: "the database"}},
            "spec": {"instances": 3, "imageName": "postgresql:17.6", **spec}}


def reader():
    """A workload that reads the Secret which the operator makes."""
    env = [{"name": "PGPASSWORD", "valueFrom": {"secretKeyRef": {"name": "db-app", "key": "password"}}}]
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "server"}, "spec": {
        "replicas": 1, "selector": {"matchLabels": {"app": "server"}}, "template": {
            "metadata": {"labels": {"app": "server"}},
            "spec": {"containers": [{"name": "c", "image": "i", "env": env}]}}}}


def converge(engine, *stages, timeout=5, dry_run=False):
    loaded = [manifests.load(list(stage)) for stage in stages]
    for stage in loaded:
        manifests.label(stage, SCOPE.labels("database"))
    return engines.converge(engine, loaded, dry_run, wait=True, timeout=timeout)


def healthy(obj, **more):
    obj["status"] = {"phase": HEALTHY, "readyInstances": obj["spec"]["instances"], "image": obj["spec"]["imageName"],
                     "conditions": [{"type": "Ready", "status": "True"}], **more}


class Operator:
    """The stand-in: each look at a Cluster brings it one step further, and the last step makes the Secret."""

    def __init__(self, server, phases):
        self.server, self.phases, self.left = server, phases, None
        server.faults.append(self.look)

    def look(self, method, path):
        if method == "GET" and path == PLACE and PLACE in self.server.objects:
            obj = self.server.objects[PLACE]
            if self.left is None:
                self.left = list(self.phases)
            if self.left:
                obj["status"] = {"phase": self.left.pop(0), "readyInstances": 1}
            else:
                healthy(obj)
                self.server.add({"apiVersion": "v1", "kind": "Secret",
                                 "metadata": {"name": "db-app", "namespace": "team"},
                                 "data": {"password": base64.b64encode(b"theirs").decode()}})
        return None


def workloads_are_ready(obj):
    if obj["kind"] == "Deployment":
        obj["status"] = {"observedGeneration": 1, "updatedReplicas": 1, "availableReplicas": 1}


def test_the_cluster_is_healthy_before_what_uses_its_secret_is_put(server, engine):
    server.on_apply = workloads_are_ready
    Operator(server, ["Setting up primary", "Creating a new replica"])
    outcome = converge(engine, [cluster()], [reader()])
    assert {action["action"] for action in outcome.actions} == {"created"}
    order = [path for method, path, _query in server.requests if method == "PATCH"]
    assert order == [PLACE, "/apis/apps/v1/namespaces/team/deployments/server"]
    assert "Cluster db: Creating a new replica" in engine.lines
    # Its revision is that of the Secret, so that the pods restart when the operator changes the password.
    template = server.objects[order[1]]["spec"]["template"]
    assert manifests.REVISION in template["metadata"]["annotations"]
    assert not converge(engine, [cluster()], [reader()]).changed


def test_check_mode_does_not_want_the_secret_yet(server, engine):
    outcome = converge(engine, [cluster()], [reader()], dry_run=True)
    assert {action["action"] for action in outcome.actions} == {"created"} and PLACE not in server.objects


def test_another_secret_that_is_missing_is_still_refused(server, engine):
    other = reader()
    other["spec"]["template"]["spec"]["containers"][0]["env"][0]["valueFrom"]["secretKeyRef"]["name"] = "other-app"
    with pytest.raises(engines.EngineError, match="reads Secret other-app, which is not in namespace team"):
        converge(engine, [cluster()], [other])
    assert PLACE not in server.objects


def test_no_operator(server, engine):
    server.faults.append(lambda method, path: (404, {}, "{}") if path == "/apis/postgresql.cnpg.io/v1" else None)
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {}}
    with pytest.raises(engines.EngineError) as caught:
        converge(engine, [config, cluster()])
    assert str(caught.value) == ("The cluster does not know Cluster of postgresql.cnpg.io/v1; install CloudNativePG, "
                                 "or leave database_operator empty.")
    assert not [request for request in server.requests if request[0] != "GET"]


def test_no_plugin(server, engine):
    store = {"apiVersion": "barmancloud.cnpg.io/v1", "kind": "ObjectStore", "metadata": {"name": "s"}, "spec": {}}
    with pytest.raises(engines.EngineError, match="install the Barman Cloud plugin of CloudNativePG, or set "
                                                  "database_backup to false"):
        converge(engine, [store, cluster()])
    assert PLACE not in server.objects


def test_an_operator_that_does_not_look(server, engine):
    with pytest.raises(engines.EngineError, match="Cluster db is not ready in time .its operator has not looked at it"):
        converge(engine, [cluster()], timeout=1)


def test_a_phase_that_stays_is_reported_at_once(server, engine, monkeypatch):
    monkeypatch.setitem(kubernetes_wait.GRACE_PERIODS, "phase", 0.2)
    server.on_apply = lambda obj: obj.update(status={"phase": UNRECOVERABLE, "phaseReason": "no pod is left"})
    with pytest.raises(engines.EngineError, match=f"Cluster db cannot become ready: {UNRECOVERABLE} .no pod is left"):
        converge(engine, [cluster()], timeout=60)


def test_the_pods_of_the_operator_give_the_cause(server, engine):
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
    server.add({"apiVersion": "v1", "kind": "Pod", "metadata": {
        "name": "db-1", "namespace": "team", "labels": {"cnpg.io/cluster": "db"},
        "creationTimestamp": "2026-01-01T00:00:00Z"}, "status": {
            "phase": "Pending", "containerStatuses": [{"name": "postgres", "ready": False, "state": waiting}]},
        "spec": {"containers": [{"name": "postgres", "image": "i"}]}})
    server.on_apply = lambda obj: obj.update(status={"phase": "Setting up primary"})
    with pytest.raises(engines.EngineError, match="pod db-1, container postgres: ImagePullBackOff: no such image"):
        converge(engine, [cluster()], timeout=60)
    (query,) = {query for _method, path, query in server.requests if path.endswith("/pods")}
    assert "cnpg.io%2Fcluster%3Ddb" in query


def test_a_secret_that_never_comes(server, engine, monkeypatch):
    monkeypatch.setattr(engines, "SECRET_TIMEOUT", 0.2)
    server.on_apply = lambda obj: healthy(obj) if obj["kind"] == "Cluster" else None
    with pytest.raises(engines.EngineError, match="Secret db-app was not made by the operator"):
        converge(engine, [cluster()], [reader()])


@pytest.mark.parametrize(("changes", "lacks"), [
    ({}, ""),
    ({"phase": "Failing over", "phaseReason": "db-1 is gone"}, "Failing over (db-1 is gone)"),
    ({"readyInstances": 2}, "2 of 3 instances ready"),
    ({"image": "postgresql:16"}, "image postgresql:16 still runs"),
    ({"conditions": []}, "change not yet seen by its operator"),
    ({"conditions": [{"type": "Ready", "status": "True", "observedGeneration": 1}]},
     "change not yet seen by its operator"),
    ({"conditions": [{"type": "Ready", "status": "True", "observedGeneration": 2}]}, ""),
])
def test_what_a_cluster_lacks(changes, lacks):
    obj = cluster()
    obj["metadata"]["generation"] = 2
    healthy(obj, **changes)
    assert progress(obj) == lacks


def test_it_is_data(server, engine):
    server.on_apply = lambda obj: healthy(obj) if obj["kind"] == "Cluster" else None
    converge(engine, [cluster()])
    outcome = engines.remove(engine, dry_run=False, purge=False, timeout=5)
    assert [action["action"] for action in outcome.actions] == ["kept"] and PLACE in server.objects
    assert "Cluster db is kept: it holds the database" in outcome.warnings[0]
    engines.remove(engine, dry_run=False, purge=True, timeout=5)
    assert PLACE not in server.objects
