# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The WAL archive of a PostgreSQL on one machine: what it adds to its pod, and what is refused. tests/unit/backup has
its programs with a real server."""

from __future__ import annotations

import pytest
from ansible_collections.mlops.mlflow.plugins.plugin_utils import backups, components, render, templating
from model_tests import refused, resolved

ARCHIVE = {"mlflow_engine": "podman", "mlflow_image_source": "build", "database_type": "postgresql",
           "database_archive": True, "database_archive_size": "20Gi", "backup_type": "volume", "backup_keep_days": 14}
ON_CLUSTER = {"mlflow_engine": "kubernetes", "mlflow_image_source": "registry"}


def objects(variables: dict) -> dict[str, dict]:
    found = render.render(components.by_role("database"), resolved(variables), {})
    return {f"{obj['kind']} {obj['metadata']['name']}": obj for obj in found}


def test_the_pod_archives_into_a_volume_of_its_own():
    found = objects(ARCHIVE)
    claim = found["PersistentVolumeClaim sound-database-archive"]
    assert claim["metadata"]["annotations"]["mlops.mlflow/keep"]
    assert claim["spec"]["resources"]["requests"]["storage"] == "20Gi"
    spec = found["StatefulSet sound-database"]["spec"]["template"]["spec"]
    server, base = spec["containers"]
    assert server["args"][-6:] == ["-c", "archive_mode=on", "-c", "archive_command=pgbackrest archive-push %p", "-c",
                                   "archive_timeout=60"]
    environments = [{entry["name"]: entry.get("value") for entry in each["env"]} for each in (server, base)]
    options = [{name: value for name, value in each.items() if name.startswith("PGBACKREST_")} for each in environments]
    assert options[0] == options[1] and options[0]["PGBACKREST_REPO1_RETENTION_FULL"] == "14"
    assert options[0]["PGBACKREST_PG1_PATH"] == environments[0]["PGDATA"]
    for container in (server, base):
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts["archive"] == options[0]["PGBACKREST_REPO1_PATH"] and mounts["data"] in environments[0]["PGDATA"]
    assert base["image"] == server["image"] and "pgbackrest stanza-create" in base["command"][-1]


def test_without_it_nothing_is_different():
    found = objects({**ARCHIVE, "database_archive": False})
    assert "PersistentVolumeClaim sound-database-archive" not in found
    assert "archive" not in str(found)


def test_only_a_recovery_reads_the_archive():
    model, component = resolved(ARCHIVE), components.by_role("backup")
    job = {"name": "create", "arguments": ["create"]}
    jobs = [render.render_one(component, model, {}, "job.yaml.j2", job={**job, "modes": modes})
            for modes in (["recover", "dump"], ["dump"])]
    assert "sound-database-archive" in str(jobs[0]) and "archive" not in str(jobs[1])
    mounts = jobs[0]["spec"]["template"]["spec"]["containers"][1]["volumeMounts"]
    assert [mount["readOnly"] for mount in mounts if mount["name"] == "archive"] == [True]


@pytest.mark.parametrize("variables, sentence", [
    ({**ON_CLUSTER}, "database_archive is true while mlflow_engine is kubernetes; set database_operator to"),
    ({"database_type": "mariadb"}, "database_archive is true while the collection runs no PostgreSQL"),
    ({"database_host": "db.example.com", "database_password": "x"},
     "database_archive is true while the collection runs no PostgreSQL"),
    ({"database_persistence": False}, "database_archive is true while database_persistence is false"),
    ({"backup_type": "none"}, "database_archive is true while backup_type is none"),
    ({"mlflow_image_source": "registry"}, "the official image of PostgreSQL has no pgBackRest"),
    ({"database_archive_size": "much"}, "database_archive_size is 'much'; it must be a Kubernetes quantity"),
])
def test_what_cannot_work_is_refused(variables, sentence):
    assert [line for line in refused({**ARCHIVE, **variables}) if sentence in line], refused({**ARCHIVE, **variables})


def test_an_image_of_ones_own_is_taken():
    assert refused({**ARCHIVE, "mlflow_image_source": "registry", "database_image": "registry.example.com/pg:17"}) == []


def test_moments():
    model = resolved(ARCHIVE)
    assert backups.moment(model, "2026-11-24T02:00:00Z") == backups.moment(model, "2026-11-24 03:00:00+01:00")
    assert backups.moment(model, "2026-11-24T02:00:00") == "2026-11-24T02:00:00+00:00"
    for text, sentence in (("yesterday", "'yesterday'; it must be a time in the past such as"),
                           ("2999-01-01T00:00:00Z", "is in the future")):
        with pytest.raises(templating.Failure, match=sentence):
            backups.moment(model, text)
    with pytest.raises(templating.Failure, match="while database_archive is false"):
        backups.moment(resolved({**ARCHIVE, "database_archive": False}), "2026-11-24T02:00:00Z")
