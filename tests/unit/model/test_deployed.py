# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The version that an instance runs, and versions that may take its place."""

from __future__ import annotations

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
