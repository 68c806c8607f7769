# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The version that an instance runs, and versions that may take its place."""

from __future__ import annotations

import base64
import copy
import pathlib

import pytest
import yaml

from ansible_collections.mlops.mlflow.plugins.action import mlflow_backup
from ansible_collections.mlops.mlflow.plugins.module_utils import sealed
from ansible_collections.mlops.mlflow.plugins.plugin_utils import components, deployed, render, templating
from model_tests import resolved

ROOT = pathlib.Path(__file__).parents[3]


def live(role="mlflow_server", **variables) -> dict:
    """The objects of a component as an earlier run with these variables applied them."""
    model = resolved(variables)
    objects = render.render(components.by_role(role), model, {})
    for obj in objects:
        obj["metadata"]["namespace"] = model.instance.namespace
    return {deployed.Ref.of(obj): obj for obj in objects}


def test_a_lower_version_is_refused_with_the_way_back():
    sentence = deployed.too_old(live(mlflow_version="3.17.2"), resolved({"mlflow_version": "3.10.0"}))
    assert sentence.startswith("mlflow_version is 3.10.0, and instance sound runs MLflow 3.17.2")
    assert "playbooks/rollback.yml" in sentence and "set mlflow_version to 3.17.2" in sentence


@pytest.mark.parametrize("variables", [
    {"mlflow_version": "3.17.2"}, {"mlflow_version": "3.15.0"},
    # by rollback.yml, and by restore.yml, which replaces the database
    {"mlflow_version": "3.10.0", "_mlflow_version": "3.10.0"},
    {"mlflow_version": "3.10.0", "_mlflow_server_closed": "A backup is restored."},
])
def test_other_versions_are_not(variables):
    assert not deployed.too_old(live(mlflow_version="3.15.0"), resolved(variables))


def test_nothing_is_refused_where_nothing_runs():
    assert not deployed.too_old({}, resolved({"mlflow_version": "3.10.0"}))


@pytest.mark.parametrize(("image", "version"), [
    ("ghcr.io/mlflow/mlflow:v3.12.0-full", "3.12.0"), ("localhost/mlops-mlflow/mlflow:3.10.0-0a1b2c3d", "3.10.0"),
    ("registry.example.com:5000/mlflow:team", ""), ("registry.example.com/team/mlflow:3.15.0", "3.15.0"),
])
def test_the_version_of_older_deployments_is_that_of_the_image(image, version):
    model = resolved({"mlflow_server_image": image})
    objects = live(mlflow_server_image=image)
    objects[deployed.ref(model)]["metadata"]["annotations"].clear()
    assert deployed.of(objects, model) == deployed.Deployed(version, image)


@pytest.mark.parametrize(("variables", "restoring"), [
    ({"_mlflow_server_closed": "A backup is restored.", "_mlflow_server_restoring": True}, True),
    # by an upgrade, after which users' data is that of the current database
    ({"_mlflow_server_closed": "It is upgraded."}, False),
    ({"_mlflow_server_closed": "", "_mlflow_server_restoring": True}, False),
    ({}, False),
])
def test_what_a_restore_has_closed_is_known_until_it_is_opened(variables, restoring):
    assert deployed.restoring(live(**variables), resolved({})) is restoring
    assert not deployed.restoring({}, resolved({}))


S3 = {"object_storage_type": "s3", "object_storage_bucket": "bucket", "object_storage_url": "http://s3:9000"}
HOST = {"database_host": "db", "database_user": "u", "database_password": "p"}


@pytest.mark.parametrize(("before", "after", "others"), [
    ({}, {}, []), ({"mlflow_server_replicas": 2}, {"_mlflow_server_closed": "Closed."}, []),
    ({"database_type": "sqlite"}, {"database_type": "postgresql"}, ["database"]),
    ({"database_type": "sqlite"}, {"database_type": "sqlite", "database_existing_claim": "other"}, ["database"]),
    ({}, HOST, ["database"]), (HOST, {**HOST, "database_host": "db2"}, ["database"]), (HOST, HOST, []),
    ({}, {"database_existing_secret": "s", "database_existing_secret_keys": {"uri": "uri"}}, ["database"]),
    ({"object_storage_type": "volume"}, S3, ["artifacts"]), (S3, S3, []),
    (S3, {**S3, "object_storage_url": "http://other:9000"}, ["artifacts"]),
    ({"database_type": "sqlite", "object_storage_type": "volume"}, {**HOST, **S3}, ["database", "artifacts"]),
])
def test_stores_that_are_others_than_those_of_the_server_that_runs(before, after, others):
    assert deployed.other_stores(live(**before), resolved(after)) == others


class Recorder:
    """An engine that has the objects of an instance, and records what it is asked to do."""

    class scope:
        @staticmethod
        def labels(component: str) -> dict:
            return {"app.kubernetes.io/component": component}

    def __init__(self, objects: dict):
        self.objects, self.events = objects, []

    def read(self, refs, _kinds):
        return {ref: obj for ref, obj in self.objects.items() if ref in refs}

    def unsupported_reason(self, obj):
        return ""

    def put(self, objects, live, dry_run):
        self.events.append(("put", sorted(obj["metadata"]["name"] for obj in objects)))
        self.objects |= {deployed.Ref.of(obj): obj for obj in objects}
        assert not live and not dry_run

    def delete(self, objects, _deadline):
        self.events.append(("delete", sorted(obj["metadata"]["name"] for obj in objects)))

    def run_job(self, job, _deadline):
        self.events.append(("run", {name for _kind, name, _required in deployed.manifests.references(job)}))
        spec = deployed.manifests.pod_template(job)["spec"]
        self.job = spec["containers"][0]
        self.mounted = {volume["name"]: volume for volume in spec["volumes"]}
        return f"RESULT {base64.b64encode(b'{}').decode()}"


def test_new_stores_are_looked_at_with_what_the_variables_say_of_them():
    before = {"database_type": "sqlite", "object_storage_type": "volume", "backup_type": "volume"}
    engine = Recorder({**live(**before), **live("backup", **before), **live("database", **before)})
    model = resolved({**HOST, **S3, "object_storage_access_key": "k", "object_storage_secret_key": "s",
                      "backup_type": "volume", "mlflow_network_policy": True})
    kept = {ref: copy.deepcopy(obj) for ref, obj in engine.objects.items()}
    action = mlflow_backup.ActionModule.__new__(mlflow_backup.ActionModule)
    action._task = type("Task", (), {"check_mode": False})
    found = action._target(engine, model, {})
    assert found == {"changed": False, "others": ["database", "artifacts"], "interrupted": False,
                     "looked_at": ["database", "artifacts"]}
    (_put, made), (_run, read), (_delete, removed) = engine.events
    assert made == removed and all(name.endswith("-described") for name in made)
    assert {"sound-backup-described", "sound-database-external-described",
            "sound-object-storage-s3-described"} <= set(made)
    assert read <= set(made) and engine.job["command"][2:] == ["target", "--stores=database,artifacts"]
    env = {entry["name"]: entry.get("value") for entry in engine.job["env"]}
    assert env["MLFLOW_BACKEND_STORE_URI"] == model.mlflow_server.database.uri
    policy = engine.objects[deployed.Ref("networking.k8s.io", "NetworkPolicy", "sound", "sound-backup-described")]
    assert {"port": 9000, "protocol": "TCP"} in [port for rule in policy["spec"]["egress"]
                                                 for port in rule.get("ports", [])]
    assert {ref: obj for ref, obj in engine.objects.items() if ref in kept} == kept


@pytest.mark.parametrize("variables", [
    {"database_type": "postgresql"},
    {"database_host": "db", "mlflow_secret_store": {"name": "vault"}, "mlflow_engine": "kubernetes",
     "database_external_secret": {part: {"key": part} for part in ("username", "password")}}])
def test_stores_that_are_not_there_yet_are_not_looked_at(variables):
    before = {"database_type": "sqlite", "backup_type": "volume"}
    action = mlflow_backup.ActionModule.__new__(mlflow_backup.ActionModule)
    engine = Recorder(live(**before))
    found = action._target(engine, resolved({**variables, "backup_type": "volume"}), {})
    assert found["others"] == ["database"] and not found["looked_at"] and not engine.events


@pytest.mark.parametrize(("variables", "command"), [
    ({"_mlflow_server_closed": "A backup is restored.", "_mlflow_server_restoring": True}, "revert"),
    ({"_mlflow_server_closed": "It is upgraded."}, "finish"), ({}, "finish"),
])
def test_after_an_interrupted_restore_the_database_stays_that_users_had(variables, command, monkeypatch):
    class Engine:
        def read(self, refs, _kinds):
            return {ref: obj for ref, obj in live(**variables).items() if ref in refs}

    commands = []
    monkeypatch.setattr(mlflow_backup.backups, "run", lambda _engine, _model, name: commands.append(name) or {})
    action = mlflow_backup.ActionModule.__new__(mlflow_backup.ActionModule)
    assert action._settle(Engine(), resolved({}), {})["changed"] and commands == [command]


def test_another_passphrase_than_that_of_the_backup_is_refused(monkeypatch):
    found = {"set": {}, "differing": ["gateway"], "sealed": sealed.seal("the passphrase of then", {"gateway": "x"})}
    monkeypatch.setattr(mlflow_backup.backups, "run", lambda *_arguments: found)
    monkeypatch.setattr(mlflow_backup.backups, "summary", lambda _manifest: {"id": "SET"})
    action = mlflow_backup.ActionModule.__new__(mlflow_backup.ActionModule)
    given = {"backup_type": "volume", "backup_passphrase": "the passphrase of now"}
    with pytest.raises(templating.Failure, match="backup_passphrase is not the one with which backup SET was made"):
        action._keys(None, resolved(given), {"set": "latest", "source": ""})
    given["backup_passphrase"] = "the passphrase of then"
    assert action._keys(None, resolved(given), {"set": "latest", "source": ""})["values"] == {"gateway": "x"}


def test_a_playbook_deploys_another_version_than_the_inventory_says():
    model = resolved({"mlflow_version": "3.17.2", "mlflow_image_source": "build", "_mlflow_version": "3.15.0",
                      "_mlflow_server_image": "localhost/mlops-mlflow/mlflow:3.15.0-0a1b2c3d"})
    assert model.instance.version == "3.15.0"
    assert model.mlflow_server.image == "localhost/mlops-mlflow/mlflow:3.15.0-0a1b2c3d"
    assert model.backup.settings["manifest"]["mlflow_version"] == "3.15.0"
    newer = resolved({"mlflow_version": "3.15.0", "_mlflow_version": "3.17.2"})
    assert newer.mlflow_server.image == "ghcr.io/mlflow/mlflow:v3.17.2-full"


def test_latest_stays_what_a_playbook_upgraded_it_to():
    model = resolved({"mlflow_version": "latest", "_mlflow_version": "3.16.0"})
    (config,) = [obj for ref, obj in live(mlflow_version="latest", _mlflow_version="3.16.0").items()
                 if ref.kind == "ConfigMap"]
    assert model.instance.latest and config["metadata"]["annotations"]["mlops.mlflow/version"] == "3.16.0"


@pytest.mark.parametrize("known_by", ["volume", "image"])
def test_another_major_version_of_postgresql_is_refused(known_by):
    objects = live("database", database_image="postgres:15.6-alpine")
    for obj in objects.values():
        if obj["kind"] == ("StatefulSet" if known_by == "volume" else "PersistentVolumeClaim"):
            obj["spec"].pop("template", None)
            obj["metadata"]["annotations"].pop(deployed.MAJOR, None)
    sentence = deployed.refusal(objects, resolved({"database_image": "postgres:16"}))
    assert sentence.startswith("The image postgres:16 has PostgreSQL 16, which cannot read the volume "
                               "sound-database-postgresql of PostgreSQL 15; keep an image of 15")
    assert not deployed.refusal(objects, resolved({"database_image": "postgres:15.8"}))
    assert not deployed.refusal(objects, resolved({"database_image": "registry.example.com:5000/postgres:ours"}))
    assert not deployed.refusal(objects, resolved({"database_type": "mariadb"}))


def test_a_backup_records_the_same_deployment_within_a_role():
    given = {"backup_type": "volume"}
    defaults: dict = {}
    for path in (ROOT / "roles").glob("*/defaults/main.yml"):
        defaults |= {name: value for name, value in yaml.safe_load(path.read_text()).items() if "{{" not in str(value)}
    model = resolved(given)
    name, namespace = model.instance.name, model.instance.namespace
    within = resolved({**defaults, "mlflow_instance": name, "mlflow_namespace": namespace, **given})
    component = components.by_role("backup")
    assert render.render(component, within, {}) == render.render(component, model, {})


def test_a_closed_server_can_come_back_when_the_open_one_does_not_start():
    closed = {"_mlflow_server_closed": "It is upgraded."}
    assert deployed.of(live(**closed), resolved({})).closed and not deployed.of(live(), resolved({})).closed
    opened, shut = ([obj["data"] for obj in objects.values() if obj["kind"] == "ConfigMap"]
                    for objects in (live(), live(**closed)))
    assert opened == shut and "closed.py" in opened[0]
