# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The steps of a move, against a small server that answers as the Kubernetes API does: who owns what after each, what
is deleted and what never is, and that undoing gives back what was there. A cluster with Helm is taken by hand."""

from __future__ import annotations

import copy
import pathlib
import sys

import pytest
from ansible_collections.mlops.mlflow.plugins.plugin_utils import engines
from ansible_collections.mlops.mlflow.plugins.plugin_utils.adoption import cluster
from ansible_collections.mlops.mlflow.plugins.plugin_utils.adoption import release as releases
from ansible_collections.mlops.mlflow.plugins.plugin_utils.adoption.move import BEFORE, Move
from ansible_collections.mlops.mlflow.plugins.plugin_utils.adoption.release import ReleaseError
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines import kubernetes_kinds
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines.kubernetes import KubernetesEngine

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "model"), str(HERE.parent / "plugin_utils")]
from kubernetes_server import Server, engine_of  # noqa: E402 pylint: disable=wrong-import-position
from model_tests import resolved  # noqa: E402 pylint: disable=wrong-import-position
from releases import document, record  # noqa: E402 pylint: disable=wrong-import-position

COMMUNITY, OFFICIAL = "community-charts/mlflow", "mlflow/mlflow"
SCOPE = engines.Scope("team", "inst")
OWNED = {releases.RELEASE_NAME: "rel", releases.RELEASE_NAMESPACE: "team"}


class World:
    """A cluster with a release in it."""

    def __init__(self, server, engine, chart, case):
        self.server, self.engine = server, engine
        server.add(record(chart, case))
        for obj in copy.deepcopy(document("rendered.json")[chart]["manifests"][case]):
            if not obj["kind"].startswith("Cluster"):
                obj["metadata"]["namespace"] = "team"
            obj["metadata"]["annotations"] = {**(obj["metadata"].get("annotations") or {}), **OWNED}
            if obj["kind"] == "Service":
                obj["spec"]["clusterIP"] = "10.0.0.7"
            self.add(obj)
        self.release = cluster.find(engine, "rel", "team")
        self.adoption = cluster.adopted(engine, self.release, "inst")
        self.model = resolved(self.adoption.variables)

    def add(self, obj):
        """Like the server's, also for kinds whose plural is another."""
        self.server.objects[self.engine.path(obj)] = obj
        obj["metadata"]["uid"] = obj["metadata"]["name"]

    def move(self, dry_run=False, begins=True):
        return Move(self.engine, self.model, self.release, self.adoption if begins else None, dry_run)

    def get(self, kind, name):
        return next((obj for obj in self.server.objects.values()
                     if (obj["kind"], obj["metadata"]["name"]) == (kind, name)), None)

    def state(self):
        """All objects without the server's bookkeeping."""
        found = copy.deepcopy(self.server.objects)
        for obj in found.values():
            for field in ("uid", "managedFields"):
                obj["metadata"].pop(field, None)
            if not obj["metadata"].get("labels"):
                obj["metadata"].pop("labels", None)
        return found


@pytest.fixture
def world(tmp_path, monkeypatch):
    server = Server()
    for key, plural in kubernetes_kinds.LISTED.items():  # a cluster with the kinds of all operators
        monkeypatch.setitem(kubernetes_kinds.STATIC, key, kubernetes_kinds.Resource(plural, True))
    for kind in ("ClusterRole", "ClusterRoleBinding"):
        monkeypatch.setitem(kubernetes_kinds.STATIC, ("rbac.authorization.k8s.io/v1", kind),
                            kubernetes_kinds.Resource(f"{kind.lower()}s", False))
    monkeypatch.setattr(KubernetesEngine, "wait", lambda self, objects, deadline: None)
    monkeypatch.setattr(KubernetesEngine, "execute", lambda self, service, argv, stdin="", timeout=0: "3.17.2\n")
    with engine_of(server, SCOPE, tmp_path, monkeypatch) as engine:
        yield lambda chart, case: World(server, engine, chart, case)
    server.close()


def owner(obj):
    return obj["metadata"]["labels"].get("app.kubernetes.io/managed-by")


def test_a_file_is_written_by_one_server_at_a_time(world):
    found = world(OFFICIAL, "sqlite")
    move = found.move()
    assert move.exclusive and list(move.problems(False)) == []
    move.prepare()
    assert found.get("Deployment", "rel-mlflow")["spec"]["replicas"] == 0
    assert found.get("CronJob", "rel-mlflow-gc")["spec"]["suspend"] is True
    for kind, name in (("Service", "rel-mlflow"), ("ServiceAccount", "robot")):
        assert owner(found.get(kind, name)) == "mlops.mlflow", kind
        assert releases.RELEASE_NAME not in found.get(kind, name)["metadata"]["annotations"]
    service = found.get("Service", "rel-mlflow")
    assert service["spec"]["clusterIP"] == "10.0.0.7"
    assert service["spec"]["selector"]["app.kubernetes.io/name"] == "mlflow"
    assert owner(found.get("PersistentVolumeClaim", "rel-mlflow")) == "Helm"


def test_two_servers_run_side_by_side_where_they_can(world):
    found = world(OFFICIAL, "server")
    move = found.move()
    assert not move.exclusive
    move.prepare()
    assert found.get("Deployment", "rel-mlflow")["spec"]["replicas"] == 3
    made = found.get("Secret", "inst-adopted")
    assert made["stringData"]["database-password"] == "s@crat"
    assert made["metadata"]["annotations"]["mlops.mlflow/keep"]
    before = len(found.server.requests)
    again = found.move()
    again.prepare()  # a second time, after a run that was interrupted
    assert found.get("Deployment", "rel-mlflow")["spec"]["replicas"] == 3
    assert len(found.server.requests) > before


@pytest.mark.parametrize("chart, case", [(OFFICIAL, "sqlite"), (OFFICIAL, "server"), (COMMUNITY, "sqlite"),
                                         (COMMUNITY, "postgres")])
def test_undoing_gives_everything_back(world, chart, case):
    found = world(chart, case)
    before = found.state()
    found.move().prepare()
    applied = found.get("Service", "rel-mlflow")
    applied["spec"].update(selector={"app.kubernetes.io/component": "server"}, ports=[{"port": 1}])
    found.move().prepare()
    found.move().route()
    assert not found.get("Ingress", "rel-mlflow")
    found.move(begins=False).undo()
    after = found.state()
    kept = {path for path, obj in after.items() if obj["metadata"]["name"] == "inst-adopted"}
    assert set(after) - kept == set(before)
    for path, obj in before.items():
        assert after[path] == obj, path


@pytest.mark.parametrize("chart, case", [(OFFICIAL, "sqlite"), (COMMUNITY, "sqlite"), (COMMUNITY, "postgres")])
def test_what_is_left_goes_and_data_stays(world, chart, case):
    found = world(chart, case)
    for step in ("prepare", "route"):
        getattr(found.move(), step)()
    found.move(begins=False).finish()
    assert not found.get("Deployment", "rel-mlflow") and not found.get("CronJob", "rel-mlflow-gc")
    assert not found.get("ConfigMap", "rel-mlflow-env-configmap")
    claim = found.get("PersistentVolumeClaim", "rel-mlflow")
    assert bool(claim) == (chart == OFFICIAL)
    for obj in found.server.objects.values():
        annotations = obj["metadata"].get("annotations") or {}
        assert BEFORE not in annotations and releases.RELEASE_NAME not in annotations, obj["metadata"]["name"]
    if case == "postgres":
        secret = found.get("Secret", "rel-mlflow-env-secret")
        assert secret["data"]["PGPASSWORD"] and "app.kubernetes.io/managed-by" not in secret["metadata"]["labels"]
    assert found.get("Secret", "sh.helm.release.v1.rel.v1")["metadata"]["labels"]["owner"] == releases.ADOPTED
    with pytest.raises(ReleaseError, match="has been taken over already"):
        cluster.find(found.engine, "rel", "team")


def test_a_subchart_and_what_is_to_be_kept_stay(world):
    found = world(COMMUNITY, "postgres")
    database = {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {
        "name": "rel-mlflow-postgresql", "namespace": "team", "annotations": dict(OWNED),
        "labels": {"helm.sh/chart": "postgresql-18.8.12"}}}
    kept = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {
        "name": "kept", "namespace": "team", "annotations": {**OWNED, releases.POLICY: "keep"}, "labels": {}}}
    for obj in (database, kept):
        found.add(obj)
        found.release.objects.append(obj)
    found.move(begins=False).finish()
    assert found.get("StatefulSet", "rel-mlflow-postgresql") and found.get("ConfigMap", "kept")


def test_nothing_is_changed_by_looking(world):
    found = world(OFFICIAL, "sqlite")
    before = found.state()
    for step in ("prepare", "route", "finish"):
        move = found.move(dry_run=True)
        getattr(move, step)()
        assert move.actions or step == "route"
    assert found.state() == before


@pytest.mark.parametrize("case, variables, without_data, sentence", [
    ("sqlite", {"mlflow_namespace": "other"}, False, "mlflow_namespace is other while Helm release rel is in"),
    ("sqlite", {"mlflow_version": "3.16.0"}, False, "mlflow_version is 3.16.0 while Helm release rel runs MLflow"),
    ("nowhere", {}, False, "mlflow.backendStoreUri: SQLite's file mlflow.db is on no PersistentVolumeClaim"),
    ("nowhere", {}, True, None)])
def test_what_stands_against_a_move(world, case, variables, without_data, sentence):
    found = world(OFFICIAL, case)
    found.model = resolved({**found.adoption.variables, **variables})
    problems = list(found.move().problems(without_data))
    assert (sentence is None and not problems) or any(problem.startswith(sentence) for problem in problems), problems


def test_secrets_that_the_release_reads_are_there(world):
    """Looked at before anything is stopped; with the Secrets there, nothing is in the way."""
    found = world(OFFICIAL, "secret")
    missing = [f"Job inst-server-migrate reads Secret {name}, which is not in namespace team; create it first or name "
               "another one." for name in ("cert", "database")]
    assert sorted(found.move().problems(True)) == missing
    for name in ("cert", "database"):
        found.add({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "team"}, "data": {}})
    assert list(found.move().problems(True)) == []
    found = world(OFFICIAL, "server")  # among others, a Secret that the move itself makes
    assert sorted(problem.split()[3:5] for problem in found.move().problems(True)) == [
        ["ConfigMap", "notes,"], ["ConfigMap", "settings,"]]


def test_a_deployment_of_the_same_name(world):
    found = world(OFFICIAL, "sqlite")
    found.deployment = found.release.objects[[obj["kind"] for obj in found.release.objects].index("Deployment")]
    found.deployment["metadata"]["name"] = "inst-server"
    assert any("both have a Deployment inst-server" in problem for problem in found.move().problems(True))
