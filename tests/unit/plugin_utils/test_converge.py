# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What engines share: who owns what, what is made once, what stays. The engine here is a dictionary."""

from __future__ import annotations

import base64
import copy

import pytest
from ansible_collections.mlops.mlflow.plugins.plugin_utils import engines, manifests
from ansible_collections.mlops.mlflow.plugins.plugin_utils.manifests import Ref

SCOPE = engines.Scope("team", "mlflow", ("server",))


class Memory(engines.Engine):
    """Keeps objects, and remembers in which order it was asked for what."""

    def __init__(self, world=None):
        super().__init__(SCOPE, lambda text: None)
        self.world, self.calls = world if world is not None else {}, []

    def unsupported_reason(self, obj):
        return "a dictionary does not scale" if obj["kind"] == "HorizontalPodAutoscaler" else ""

    def finds_by_label(self, obj):
        return obj["kind"] != "Widget"

    def read(self, refs, kinds):
        found = {}
        for ref, obj in self.world.items():
            listed = self.finds_by_label(obj) or (obj["apiVersion"], obj["kind"]) in kinds
            if ref in refs or (listed and self.scope.manages(obj)):
                found[ref] = copy.deepcopy(obj)
        return found

    def put(self, objects, live, dry_run):
        result = {}
        for obj in objects:
            after = {**obj, "metadata": {**obj["metadata"], "uid": obj["metadata"]["name"]}}
            if not dry_run:
                self.world[Ref.of(obj)] = copy.deepcopy(after)
                self.calls.append(("put", obj["kind"], obj["metadata"]["name"]))
            result[Ref.of(obj)] = engines.Put(after)
        return result

    def wait(self, objects, deadline):
        self.calls += [("wait", obj["kind"], obj["metadata"]["name"]) for obj in objects]

    def delete(self, objects, deadline):
        self.calls.append(("delete", [obj["metadata"]["name"] for obj in objects]))
        for obj in objects:
            del self.world[Ref.of(obj)]

    def leave(self):
        self.calls.append(("leave",))


def obj(kind, name, api_version="v1", annotations=None, **fields):
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {"name": name, **({"annotations": annotations} if annotations else {})},
        **fields,
    }


def deployment(name, secret=None, annotations=None):
    env = [{"name": "P", "valueFrom": {"secretKeyRef": {"name": secret, "key": "password"}}}] if secret else []
    return obj(
        "Deployment",
        name,
        "apps/v1",
        annotations,
        spec={"template": {"metadata": {}, "spec": {"containers": [{"name": "c", "env": env}]}}},
    )


def converge(engine, *objects, dry_run=False, prune=True):
    desired = manifests.load(copy.deepcopy(list(objects)))
    manifests.label(desired, SCOPE.labels("server"))
    return engines.converge(engine, [desired], dry_run, wait=True, timeout=5, prune=prune)


def actions(outcome):
    return {f"{a['kind']} {a['name']}": a["action"] for a in outcome.actions}


def test_a_second_run_is_unchanged():
    engine = Memory()
    assert converge(engine, obj("ConfigMap", "a", data={"k": "1"})).changed
    assert not converge(engine, obj("ConfigMap", "a", data={"k": "1"})).changed


def test_what_is_no_longer_rendered_goes_and_data_stays():
    engine = Memory()
    kept = obj("PersistentVolumeClaim", "data", annotations={manifests.KEEP: "the data"}, spec={})
    converge(engine, obj("ConfigMap", "a"), kept)
    outcome = converge(engine, obj("ConfigMap", "b"))
    assert actions(outcome) == {
        "ConfigMap b": "created",
        "ConfigMap a": "deleted",
        "PersistentVolumeClaim data": "kept",
    }
    assert any("the data" in warning for warning in outcome.warnings)
    assert actions(engines.remove(engine, False, purge=False, timeout=5)) == {
        "ConfigMap b": "deleted",
        "PersistentVolumeClaim data": "kept",
    }
    assert actions(engines.remove(engine, False, purge=True, timeout=5)) == {"PersistentVolumeClaim data": "deleted"}
    assert not engine.world


def test_what_a_run_recorded_stays_until_the_instance_is_removed():
    engine = Memory()
    converge(engine, obj("ConfigMap", "a"), obj("ConfigMap", "levels", annotations={manifests.RECORD: "figures"}))
    assert not converge(engine, obj("ConfigMap", "a")).changed and Ref("", "ConfigMap", "", "levels") in {
        ref._replace(namespace="") for ref in engine.world}
    assert actions(engines.remove(engine, False, purge=False, timeout=5))["ConfigMap levels"] == "deleted"


def test_somebody_else_s_object_is_named_and_nothing_is_touched():
    theirs = obj("ConfigMap", "a", data={"k": "theirs"})
    theirs["metadata"].update(namespace="team", labels={"app.kubernetes.io/managed-by": "Helm"})
    engine = Memory({Ref.of(theirs): theirs})
    with pytest.raises(engines.EngineError, match="ConfigMap a already exists in namespace team and belongs to Helm"):
        converge(engine, obj("ConfigMap", "b"), obj("ConfigMap", "a"))
    assert not engine.calls and list(engine.world) == [Ref.of(theirs)]


def test_a_secret_is_generated_once():
    engine = Memory()
    secret = obj("Secret", "s", annotations={manifests.GENERATE: "user=ana,password"})

    def values():
        return {
            key: base64.b64decode(value).decode()
            for key, value in engine.world[Ref("", "Secret", "team", "s")]["data"].items()
        }

    converge(engine, secret)
    first = values()
    assert first["user"] == "ana" and len(first["password"]) == 32 and first["password"].isalnum()
    assert not converge(engine, secret).changed and values() == first
    outcome = converge(engine, {**secret, "stringData": {"password": "given"}})
    assert outcome.changed and values() == {"user": "ana", "password": "given"}
    assert "given" not in str(outcome.diff) and base64.b64encode(b"given").decode() not in str(outcome.diff)


def test_a_key_for_fernet_is_generated_once():
    engine = Memory()
    secret = obj("Secret", "keys", annotations={manifests.GENERATE: "webhooks=fernet:,gateway"})
    converge(engine, secret)
    data = engine.world[Ref("", "Secret", "team", "keys")]["data"]
    key = base64.b64decode(data["webhooks"])
    assert len(key) == 44 and len(base64.urlsafe_b64decode(key)) == 32
    assert not converge(engine, secret).changed and engine.world[Ref("", "Secret", "team", "keys")]["data"] == data


def test_a_changed_secret_restarts_who_reads_it_but_not_who_read_it_once():
    engine = Memory()

    def revisions(value):
        converge(engine, obj("Secret", "s", stringData={"password": value}), deployment("reader", "s"),
                 deployment("once", "s", {manifests.READ_ONCE: "s"}))
        return [
            (
                engine.world[Ref("apps", "Deployment", "team", name)]["spec"]["template"]["metadata"].get("annotations")
                or {}
            ).get(manifests.REVISION)
            for name in ("reader", "once")
        ]

    before, after = revisions("a"), revisions("b")
    assert before[0] and before[0] != after[0] and revisions("b") == after
    assert before[1] is None and after[1] is None


def test_a_missing_secret_is_named_before_anything_is_made():
    engine = Memory()
    with pytest.raises(engines.EngineError, match="Deployment d reads Secret nowhere, which is not in namespace team"):
        converge(engine, obj("ConfigMap", "a"), deployment("d", "nowhere"))
    assert not engine.calls


class Operator(Memory):
    """Beside an operator that makes a Secret of each ExternalSecret, at the second look."""

    looks = 0

    def read(self, refs, kinds):
        self.looks += 1
        for ref, external in list(self.world.items()):
            if external["kind"] == "ExternalSecret" and self.looks % 3 == 0:
                name = external["spec"]["target"]["name"]
                self.world[ref._replace(group="", kind="Secret", name=name)] = obj(
                    "Secret", name, data={"password": "eA=="}
                )
        return super().read(refs, kinds)


@pytest.mark.parametrize("component", ["server", "database"])
def test_an_awaited_secret_is_waited_for(component, monkeypatch):
    """Of the same component or of an earlier one; pods' revision has it, so that a second run changes nothing."""
    monkeypatch.setattr(engines.time, "sleep", lambda seconds: None)
    engine = Operator()
    external = obj("ExternalSecret", "login", "external-secrets.io/v1", spec={"target": {"name": "login"}})
    own = [external] if component == "server" else []
    if not own:
        external["metadata"].update(namespace="team", labels=SCOPE.labels(component))
        engine.world[Ref.of(external)] = external
    assert converge(engine, *own, obj("ServiceAccount", "s"), deployment("d", "login")).changed
    assert engine.looks > 2 and engine.calls.index(("put", "ServiceAccount", "s")) < engine.calls.index(
        ("put", "Deployment", "d")
    )
    assert not converge(engine, *own, obj("ServiceAccount", "s"), deployment("d", "login")).changed


def test_a_generated_password_is_not_forgotten_for_a_given_one():
    engine = Memory()
    database = obj(
        "StatefulSet",
        "d",
        "apps/v1",
        {manifests.READ_ONCE: "login"},
        spec={"template": {"metadata": {}, "spec": {"containers": []}}},
    )
    generated = obj("Secret", "login", annotations={manifests.GENERATE: "username=mlflow,password"})
    converge(engine, database, generated)
    with pytest.raises(
        engines.EngineError, match="Secret login holds a generated password, which another one given now"
    ):
        converge(engine, database, obj("Secret", "login", stringData={"username": "mlflow", "password": "mine"}))
    (secret,) = [o for o in engine.world.values() if o["kind"] == "Secret"]
    known = {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}
    assert known["password"] != "mine"
    # The same one may be given, and a rotation gives another while it stays a generated one.
    converge(engine, database, obj("Secret", "login", stringData=known))
    converge(engine, database, generated)
    converge(engine, database, {**generated, "stringData": {"username": "mlflow_2", "password": "another"}})
    assert base64.b64decode(engine.world[Ref.of(secret)]["data"]["password"]) == b"another"


def test_an_external_secret_without_a_secret_tells_why(monkeypatch):
    monkeypatch.setattr(engines, "SECRET_TIMEOUT", 0)
    monkeypatch.setattr(engines.time, "sleep", lambda seconds: None)
    external = obj(
        "ExternalSecret",
        "login",
        "external-secrets.io/v1",
        spec={"target": {"name": "login"}},
        status={
            "conditions": [{"type": "Ready", "status": "False", "message": "could not get secret data from provider"}]
        },
    )
    with pytest.raises(engines.EngineError, match="ExternalSecret login has made no Secret: could not get secret data"):
        converge(Memory(), external, deployment("d", "login"))


def test_check_mode_predicts_and_touches_nothing():
    engine = Memory()
    converge(engine, obj("ConfigMap", "a"))
    before = copy.deepcopy(engine.world)
    predicted = actions(converge(engine, obj("ConfigMap", "b"), dry_run=True))
    assert engine.world == before
    assert actions(converge(engine, obj("ConfigMap", "b"))) == predicted


def test_waves_are_awaited_in_turn():
    engine = Memory()
    job = {**deployment("first"), "apiVersion": "batch/v1", "kind": "Job"}
    converge(
        engine, {**deployment("second"), "metadata": {"name": "second", "annotations": {manifests.WAVE: "1"}}}, job
    )
    assert engine.calls == [
        ("put", "Job", "first"),
        ("wait", "Job", "first"),
        ("put", "Deployment", "second"),
        ("wait", "Deployment", "second"),
    ]


def test_what_has_no_counterpart_is_left_out_and_named_once():
    engine = Memory()
    outcome = converge(
        engine,
        *(obj("HorizontalPodAutoscaler", name, "autoscaling/v2", spec={}) for name in ("a", "b")),
        obj("ConfigMap", "c"),
    )
    assert outcome.warnings == ["HorizontalPodAutoscaler left out: a dictionary does not scale."]
    assert actions(outcome) == {"ConfigMap c": "created"}


def test_without_prune_what_is_surplus_stays_and_is_reported():
    engine = Memory()
    kept = obj("PersistentVolumeClaim", "data", annotations={manifests.KEEP: "the data"}, spec={})
    converge(engine, obj("ConfigMap", "a"), kept)
    outcome = converge(engine, obj("ConfigMap", "b"), prune=False)
    assert actions(outcome) == {"ConfigMap b": "created", "ConfigMap a": "left", "PersistentVolumeClaim data": "kept"}
    assert {ref.name for ref in engine.world} == {"a", "b", "data"}
    outcome = converge(engine, obj("ConfigMap", "b"))
    assert actions(outcome) == {
        "ConfigMap b": "unchanged",
        "ConfigMap a": "deleted",
        "PersistentVolumeClaim data": "kept",
    }


def stages(*components):
    """One stage for each component, of labelled objects."""
    result = []
    for component, objects in components:
        desired = manifests.load(copy.deepcopy(objects))
        manifests.label(desired, SCOPE.labels(component))
        result.append(desired)
    return result


def whole_instance():
    engine = Memory()
    engine.scope = engines.Scope("team", "mlflow")
    return engine


def instance():
    database = [obj("Service", "database"), {**deployment("database"), "kind": "StatefulSet"},
                obj("Secret", "login", annotations={manifests.GENERATE: "password", manifests.KEEP: "the password"}),
                obj("PersistentVolumeClaim", "data", annotations={manifests.KEEP: "the data"}, spec={})]
    server = [
        obj("Ingress", "server", "networking.k8s.io/v1"),
        obj("Service", "server"),
        deployment("server", "login"),
        obj("ConfigMap", "settings"),
    ]
    return stages(("database", database), ("server", server))


def test_a_stage_is_ready_before_the_next_is_put():
    engine = whole_instance()
    engines.converge(engine, instance(), False, wait=True, timeout=5)
    assert engine.calls.index(("wait", "StatefulSet", "database")) < engine.calls.index(
        ("put", "ConfigMap", "settings")
    )


def test_a_stage_that_fails_leaves_later_ones_as_they_were():
    engine = whole_instance()
    engines.converge(engine, instance(), False, wait=True, timeout=5)
    before = {ref: copy.deepcopy(obj) for ref, obj in engine.world.items() if ref.name == "server"}

    def fail(objects, deadline):
        raise engines.EngineError("StatefulSet database cannot become ready: no disk.")

    engine.wait, engine.calls = fail, []
    desired = instance()
    desired[1][0]["spec"] = {"changed": True}
    with pytest.raises(engines.EngineError, match="StatefulSet database cannot become ready: no disk."):
        engines.converge(engine, desired, False, wait=True, timeout=5)
    assert {ref: obj for ref, obj in engine.world.items() if ref.name == "server"} == before
    assert not [call for call in engine.calls if call[0] == "delete"]


def test_check_mode_predicts_stages_whose_predecessors_are_not_there():
    engine = whole_instance()
    desired = instance()
    desired[0] = [o for o in desired[0] if o["kind"] != "Secret"]  # as if an earlier task of the run would make it
    outcome = engines.converge(engine, desired, True, wait=True, timeout=5)
    assert set(actions(outcome).values()) == {"created"} and len(outcome.actions) == 7 and not engine.world


@pytest.mark.parametrize("purge", [False, True])
def test_an_instance_is_removed_in_one_call_step_by_step(purge):
    engine = whole_instance()
    engines.converge(engine, instance(), False, wait=True, timeout=5)
    engine.calls.clear()
    outcome = engines.remove(engine, False, purge, timeout=5)
    data = ["data", "login"]
    assert [(call[0], sorted(call[1])) for call in engine.calls[:-1]] == [
        ("delete", ["database", "server", "server"]), ("delete", ["database", "server"]),
        ("delete", sorted(["settings", *data] if purge else ["settings"]))]
    assert engine.calls[-1] == ("leave",) and sorted(ref.name for ref in engine.world) == ([] if purge else data)
    assert sorted(a["name"] for a in outcome.actions if a["action"] == "kept") == ([] if purge else data)


def test_a_component_removed_alone_leaves_the_others():
    engine = whole_instance()
    engines.converge(engine, instance(), False, wait=True, timeout=5)
    engine.scope = SCOPE
    engines.remove(engine, False, False, timeout=5)
    assert sorted(str(ref) for ref in engine.world) == [
        "PersistentVolumeClaim data", "Secret login", "Service database", "StatefulSet database"]


def test_kinds_that_are_not_looked_for_are_remembered_on_their_component_only():
    engine = whole_instance()
    widget = obj("Widget", "w", "example.org/v1")
    engines.converge(
        engine,
        stages(("database", [obj("ConfigMap", "d")]), ("server", [obj("ConfigMap", "s"), widget])),
        False,
        True,
        5,
    )
    named = {ref.name: manifests.annotation(o, manifests.KINDS) for ref, o in engine.world.items()}
    assert named == {"d": "", "s": "example.org/v1/Widget", "w": "example.org/v1/Widget"}
    outcome = engines.converge(
        engine, stages(("database", [obj("ConfigMap", "d")]), ("server", [obj("ConfigMap", "s")])), False, True, 5
    )
    assert actions(outcome) == {"ConfigMap d": "unchanged", "ConfigMap s": "changed", "Widget w": "deleted"}
