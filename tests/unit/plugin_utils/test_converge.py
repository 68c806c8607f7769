# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What both engines share: who owns what, what is made once, what stays. The engine here is a dictionary; Molecule runs the real ones."""

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

    def read(self, refs, kinds):
        return {ref: copy.deepcopy(obj) for ref, obj in self.world.items() if ref in refs or self.scope.manages(obj)}

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
        for obj in objects:
            del self.world[Ref.of(obj)]


def obj(kind, name, api_version="v1", annotations=None, **fields):
    return {"apiVersion": api_version, "kind": kind, "metadata": {"name": name, **({"annotations": annotations} if annotations else {})}, **fields}


def deployment(name, secret=None, annotations=None):
    env = [{"name": "P", "valueFrom": {"secretKeyRef": {"name": secret, "key": "password"}}}] if secret else []
    return obj("Deployment", name, "apps/v1", annotations, spec={"template": {"metadata": {}, "spec": {"containers": [{"name": "c", "env": env}]}}})


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
    assert actions(outcome) == {"ConfigMap b": "created", "ConfigMap a": "deleted", "PersistentVolumeClaim data": "kept"}
    assert any("the data" in note for note in outcome.warnings)
    assert actions(engines.remove(engine, False, purge=False, timeout=5)) == {"ConfigMap b": "deleted", "PersistentVolumeClaim data": "kept"}
    assert actions(engines.remove(engine, False, purge=True, timeout=5)) == {"PersistentVolumeClaim data": "deleted"}
    assert not engine.world


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
        return {key: base64.b64decode(value).decode() for key, value in engine.world[Ref("", "Secret", "team", "s")]["data"].items()}

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
        return [(engine.world[Ref("apps", "Deployment", "team", name)]["spec"]["template"]["metadata"].get("annotations") or {}).get(manifests.REVISION)
                for name in ("reader", "once")]

    before, after = revisions("a"), revisions("b")
    assert before[0] and before[0] != after[0] and revisions("b") == after
    assert before[1] is None and after[1] is None


def test_a_missing_secret_is_named_before_anything_is_made():
    engine = Memory()
    with pytest.raises(engines.EngineError, match="Deployment d reads Secret nowhere, which is not in namespace team"):
        converge(engine, obj("ConfigMap", "a"), deployment("d", "nowhere"))
    assert not engine.calls


class Operator(Memory):
    """Beside somebody who makes a Secret of each ExternalSecret, at the second look."""

    looks = 0

    def read(self, refs, kinds):
        self.looks += 1
        for ref, external in list(self.world.items()):
            if external["kind"] == "ExternalSecret" and self.looks % 3 == 0:
                name = external["spec"]["target"]["name"]
                self.world[ref._replace(group="", kind="Secret", name=name)] = obj("Secret", name, data={"password": "eA=="})
        return super().read(refs, kinds)


@pytest.mark.parametrize("component", ["server", "database"])
def test_a_promised_secret_is_waited_for(component, monkeypatch):
    """Of the same component or of an earlier one; the pods' fingerprint knows it, so that a second run changes nothing."""
    monkeypatch.setattr(engines.time, "sleep", lambda seconds: None)
    engine = Operator()
    external = obj("ExternalSecret", "login", "external-secrets.io/v1", spec={"target": {"name": "login"}})
    own = [external] if component == "server" else []
    if not own:
        external["metadata"].update(namespace="team", labels=SCOPE.labels(component))
        engine.world[Ref.of(external)] = external
    assert converge(engine, *own, obj("ServiceAccount", "s"), deployment("d", "login")).changed
    assert engine.looks > 2 and engine.calls.index(("put", "ServiceAccount", "s")) < engine.calls.index(("put", "Deployment", "d"))
    assert not converge(engine, *own, obj("ServiceAccount", "s"), deployment("d", "login")).changed


def test_a_generated_password_is_not_forgotten_for_a_given_one():
    engine = Memory()
    database = obj("StatefulSet", "d", "apps/v1", {manifests.READ_ONCE: "login"}, spec={"template": {"metadata": {}, "spec": {"containers": []}}})
    generated = obj("Secret", "login", annotations={manifests.GENERATE: "username=mlflow,password"})
    converge(engine, database, generated)
    with pytest.raises(engines.EngineError, match="Secret login holds a generated password, which another one given now"):
        converge(engine, database, obj("Secret", "login", stringData={"username": "mlflow", "password": "mine"}))
    (secret,) = [o for o in engine.world.values() if o["kind"] == "Secret"]
    known = {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}
    assert known["password"] != "mine"
    # The same one may be given, and a rotation gives another while it stays a generated one.
    converge(engine, database, obj("Secret", "login", stringData=known))
    converge(engine, database, generated)
    converge(engine, database, {**generated, "stringData": {"username": "mlflow_2", "password": "another"}})
    assert base64.b64decode(engine.world[Ref.of(secret)]["data"]["password"]) == b"another"


def test_a_promise_that_is_not_kept_says_why(monkeypatch):
    monkeypatch.setattr(engines, "SECRET_TIMEOUT", 0)
    monkeypatch.setattr(engines.time, "sleep", lambda seconds: None)
    external = obj("ExternalSecret", "login", "external-secrets.io/v1", spec={"target": {"name": "login"}},
                   status={"conditions": [{"type": "Ready", "status": "False", "message": "could not get secret data from provider"}]})
    with pytest.raises(engines.EngineError, match="ExternalSecret login has made no Secret: could not get secret data"):
        converge(Memory(), external, deployment("d", "login"))


def test_check_mode_foretells_and_touches_nothing():
    engine = Memory()
    converge(engine, obj("ConfigMap", "a"))
    before = copy.deepcopy(engine.world)
    foretold = actions(converge(engine, obj("ConfigMap", "b"), dry_run=True))
    assert engine.world == before
    assert actions(converge(engine, obj("ConfigMap", "b"))) == foretold


def test_waves_are_awaited_in_turn():
    engine = Memory()
    job = {**deployment("first"), "apiVersion": "batch/v1", "kind": "Job"}
    converge(engine, {**deployment("second"), "metadata": {"name": "second", "annotations": {manifests.WAVE: "1"}}}, job)
    assert engine.calls == [("put", "Job", "first"), ("wait", "Job", "first"), ("put", "Deployment", "second"), ("wait", "Deployment", "second")]


def test_what_has_no_counterpart_is_unsupported_reason_and_named_once():
    engine = Memory()
    outcome = converge(engine, *(obj("HorizontalPodAutoscaler", name, "autoscaling/v2", spec={}) for name in ("a", "b")), obj("ConfigMap", "c"))
    assert outcome.warnings == ["HorizontalPodAutoscaler left out: a dictionary does not scale."]
    assert actions(outcome) == {"ConfigMap c": "created"}


def test_what_is_to_go_later_stays_and_is_told_of():
    engine = Memory()
    kept = obj("PersistentVolumeClaim", "data", annotations={manifests.KEEP: "the data"}, spec={})
    converge(engine, obj("ConfigMap", "a"), kept)
    outcome = converge(engine, obj("ConfigMap", "b"), prune=False)
    assert actions(outcome) == {"ConfigMap b": "created", "ConfigMap a": "left", "PersistentVolumeClaim data": "kept"}
    assert {ref.name for ref in engine.world} == {"a", "b", "data"}
    outcome = converge(engine, obj("ConfigMap", "b"))
    assert actions(outcome) == {"ConfigMap b": "unchanged", "ConfigMap a": "deleted", "PersistentVolumeClaim data": "kept"}
