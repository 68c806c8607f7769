# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""PostgreSQL by CloudNativePG: which variable sets which field, what the instance uses, and what is refused."""

from __future__ import annotations

import pathlib
import sys

import pytest
from ansible_collections.mlops.mlflow.plugins.plugin_utils import components, render
from model_tests import PEM, refused, resolved

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "manifests"))
import strict  # noqa: E402

OPERATOR = {"mlflow_engine": "kubernetes", "mlflow_image_source": "registry", "database_operator": "cloudnativepg"}
BUCKET = {"backup_type": "s3", "backup_bucket": "backups", "backup_url": "https://s3.example.com",
          "backup_access_key": "AK", "backup_secret_key": "SK", "backup_passphrase": "a long passphrase"}
S3 = {"object_storage_type": "s3", "object_storage_bucket": "mlflow", "object_storage_access_key": "A",
      "object_storage_secret_key": "S", "object_storage_url": "https://s3.example.com"}
SCHEDULING = {
    "nodeSelector": {"disk": "ssd"}, "priorityClassName": "high", "schedulerName": "other",
    "tolerations": [{"key": "db", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "zone", "operator": "Exists"}]}]}}},
    "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}]}
FULL = {**OPERATOR, **BUCKET, "database_scheduling": SCHEDULING,
        "database_parameters": {"shared_buffers": "256MB", "work_mem": 4096}, "database_storage_class": "fast",
        "monitoring_type": "operator", "monitoring_labels": {"release": "stack"}, "mlflow_network_policy": True,
        "monitoring_clients": ["observability"], "mlflow_image_pull_secrets": ["pull"]}
RECOVERY = {**OPERATOR, **BUCKET, "database_cluster": "sound-database-2",
            "database_recovery": {"source": "sound-database", "target_time": "2026-11-24T02:00:00Z"}}
CATALOG = {"kind": "ClusterImageCatalog", "name": "postgresql", "major": 16}


def rendered(variables: dict, role: str = "database") -> dict[str, dict]:
    """Objects of a role by kind and name, each valid by its schema."""
    model = resolved(variables)
    labels = {"app.kubernetes.io/instance": "sound"}
    objects = render.render(components.by_role(role), model, labels)
    for obj in objects:
        obj["metadata"].setdefault("namespace", "sound")
        strict.validate(obj, "1.37")
    return {f"{obj['kind']} {obj['metadata']['name']}": obj for obj in objects}


def spec(variables: dict) -> dict:
    """Of the only Cluster."""
    (found,) = [obj for obj in rendered(variables).values() if obj["kind"] == "Cluster"]
    return found["spec"]


def test_the_cluster_of_the_defaults():
    objects = rendered(OPERATOR)
    assert list(objects) == ["Cluster sound-database"]
    cluster = objects["Cluster sound-database"]
    assert cluster["metadata"]["annotations"]["mlops.mlflow/keep"] == "the database"
    found = cluster["spec"]
    assert found["instances"] == 3 and found["imageName"].startswith("ghcr.io/cloudnative-pg/postgresql:17")
    assert found["storage"] == {"size": "8Gi"} and found["resources"]["limits"] == {"memory": "1Gi"}
    assert found["bootstrap"]["initdb"] == {"database": "mlflow", "owner": "mlflow", "postInitApplicationSQL": [
        'ALTER ROLE "mlflow" CREATEDB']}
    expected = resolved(OPERATOR).database.max_connections
    assert found["postgresql"]["parameters"] == {"max_connections": str(expected)} and expected >= 200
    assert "plugins" not in found and "affinity" not in found
    # The login of a monitoring that was turned off goes.
    assert found["managed"] == {"roles": [{"name": "mlflow_exporter", "ensure": "absent"}]}


@pytest.mark.parametrize(("variable", "value", "path", "expected"), [
    ("database_instances", 1, "instances", 1),
    ("database_image", "registry.test/postgresql:16.4", "imageName", "registry.test/postgresql:16.4"),
    ("database_image_catalog", CATALOG, "imageCatalogRef", {**CATALOG, "apiGroup": "postgresql.cnpg.io"}),
    ("database_size", "20Gi", "storage.size", "20Gi"),
    ("database_storage_class", "fast", "storage.storageClass", "fast"),
    ("database_resources", {"requests": {"cpu": "2"}}, "resources", {"requests": {"cpu": "2"}}),
    ("database_max_connections", 400, "postgresql.parameters.max_connections", "400"),
    ("database_parameters", {"work_mem": 4096}, "postgresql.parameters.work_mem", "4096"),
    ("database_name", "tracking", "bootstrap.initdb.database", "tracking"),
    ("database_user", "owner", "bootstrap.initdb.owner", "owner"),
    ("mlflow_image_pull_secrets", ["pull"], "imagePullSecrets", [{"name": "pull"}]),
    ("mlflow_node_selector", {"a": "b"}, "affinity.nodeSelector", {"a": "b"}),
    ("mlflow_priority_class", "high", "priorityClassName", "high"),
])
def test_a_variable_sets_a_field(variable, value, path, expected):
    found = spec({**OPERATOR, variable: value})
    for name in path.split("."):
        found = found[name]
    assert found == expected


def test_an_image_catalog_takes_the_place_of_the_image():
    assert "imageName" not in spec({**OPERATOR, "database_image_catalog": CATALOG})


def test_scheduling_in_the_fields_of_a_cluster():
    found = spec(FULL)
    assert set(found["affinity"]) == {"nodeSelector", "tolerations", "nodeAffinity"}
    assert found["priorityClassName"] == "high" and found["schedulerName"] == "other"
    (constraint,) = found["topologySpreadConstraints"]
    assert constraint["labelSelector"] == {"matchLabels": {"cnpg.io/cluster": "sound-database"}}
    affinity = {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 1, "podAffinityTerm": {"topologyKey": "zone"}}]}}
    found = spec({**OPERATOR, "database_scheduling": {"affinity": affinity}})
    assert found["affinity"] == {"additionalPodAntiAffinity": affinity["podAntiAffinity"]}


# -- backups -----------------------------------------------------------------------------------------------------------


def test_base_backups_and_wal_are_below_the_backups():
    objects = rendered({**OPERATOR, **BUCKET, "backup_keep_days": 60, "backup_region": "eu-1"})
    store = objects["ObjectStore sound-database"]
    configuration = store["spec"]["configuration"]
    place = resolved({**OPERATOR, **BUCKET}).backup.store
    assert configuration["destinationPath"] == f"s3://backups/{place['prefix']}/postgresql"
    assert configuration["endpointURL"] == "https://s3.example.com"
    assert configuration["s3Credentials"] == {
        "accessKeyId": {"name": "sound-database-backup", "key": "access-key"},
        "secretAccessKey": {"name": "sound-database-backup", "key": "secret-key"}}
    assert objects["Secret sound-database-backup"]["data"] == {"access-key": "QUs=", "secret-key": "U0s="}
    assert store["spec"]["retentionPolicy"] == "60d"
    assert {"name": "AWS_DEFAULT_REGION", "value": "eu-1"} in store["spec"]["instanceSidecarConfiguration"]["env"]
    (plugin,) = objects["Cluster sound-database"]["spec"]["plugins"]
    assert plugin == {"name": "barman-cloud.cloudnative-pg.io", "isWALArchiver": True,
                      "parameters": {"barmanObjectName": "sound-database", "serverName": "sound-database"}}
    scheduled = objects["ScheduledBackup sound-database"]["spec"]
    assert scheduled["schedule"] == "0 0 1 * * *" and scheduled["method"] == "plugin"
    assert scheduled["cluster"] == {"name": "sound-database"}
    # What the Cluster needs while it is kept is kept, too.
    kept = {name for name, obj in objects.items() if "mlops.mlflow/keep" in obj["metadata"].get("annotations", {})}
    assert kept == {"Cluster sound-database", "ObjectStore sound-database", "Secret sound-database-backup"}


@pytest.mark.parametrize("variables", [{"database_backup": False}, {"backup_type": "none"}])
def test_no_archive(variables):
    given = {**OPERATOR, **(BUCKET if "database_backup" in variables else {}), **variables}
    assert list(rendered(given)) == ["Cluster sound-database"]


def test_whose_credentials():
    aws = {**OPERATOR, "object_storage_type": "volume", "backup_type": "s3", "backup_bucket": "backups"}
    existing = {**aws, "backup_existing_secret": "theirs",
                "backup_existing_secret_keys": {"access_key": "id", "secret_key": "secret"}}
    objects = rendered(existing)
    login = objects["ObjectStore sound-database"]["spec"]["configuration"]["s3Credentials"]
    assert login["accessKeyId"] == {"name": "theirs", "key": "id"} and "Secret sound-database-backup" not in objects
    same = rendered({**OPERATOR, **S3, "backup_type": "s3", "object_storage_ca": PEM})
    configuration = same["ObjectStore sound-database"]["spec"]["configuration"]
    assert configuration["s3Credentials"]["accessKeyId"] == {"name": "sound-database-backup", "key": "access-key"}
    assert configuration["endpointCA"] == {"name": "sound-database-backup", "key": "ca.crt"}
    assert set(same["Secret sound-database-backup"]["data"]) == {"access-key", "secret-key", "ca.crt"}
    role = rendered(aws)
    assert role["ObjectStore sound-database"]["spec"]["configuration"]["s3Credentials"] == {"inheritFromIAMRole": True}


def test_a_schedule_by_name_has_no_seconds():
    objects = rendered({**OPERATOR, **BUCKET, "database_backup_schedule": "@daily"})
    assert objects["ScheduledBackup sound-database"]["spec"]["schedule"] == "@daily"
    assert "ScheduledBackup sound-database" not in rendered({**OPERATOR, **BUCKET, "database_backup_schedule": ""})


def test_a_recovery_is_another_cluster():
    objects = rendered(RECOVERY)
    found = objects["Cluster sound-database-2"]["spec"]
    assert found["bootstrap"] == {"recovery": {"source": "source", "database": "mlflow", "owner": "mlflow",
                                               "recoveryTarget": {"targetTime": "2026-11-24T02:00:00Z"}}}
    (source,) = found["externalClusters"]
    assert source["plugin"]["parameters"] == {"barmanObjectName": "sound-database", "serverName": "sound-database"}
    # It must not write into the archive that it reads.
    assert found["plugins"][0]["parameters"]["serverName"] == "sound-database-2"
    other = spec({**OPERATOR, "database_recovery": {"source": "theirs", "object_store": "shared"}})
    assert other["externalClusters"][0]["plugin"]["parameters"] == {"barmanObjectName": "shared",
                                                                    "serverName": "theirs"}
    assert "recoveryTarget" not in other["bootstrap"]["recovery"]


# -- who uses it -------------------------------------------------------------------------------------------------------


def test_services_and_secret_of_the_operator():
    endpoint = resolved(OPERATOR).mlflow_server.database
    assert endpoint.uri == "postgresql+psycopg2://sound-database-rw:5432/mlflow" and not endpoint.replica_uri
    assert endpoint.secret == "sound-database-app"
    assert endpoint.secret_keys == {"user": "username", "password": "password"}
    moved = resolved(RECOVERY).mlflow_server.database
    assert moved.host == "sound-database-2-rw" and moved.secret == "sound-database-2-app"


def test_read_only_queries_go_to_replicas_where_asked():
    model = resolved({**OPERATOR, "database_read_replica": True})
    assert model.mlflow_server.database.replica_uri == "postgresql+psycopg2://sound-database-ro:5432/mlflow"
    assert model.database.connections.replica


def test_backups_have_the_programs_of_its_version():
    assert resolved({**OPERATOR, **BUCKET}).backup.database_image == "docker.io/library/postgres:17-bookworm"
    given = {**OPERATOR, **BUCKET, "database_image_catalog": CATALOG}
    assert resolved(given).backup.database_image == "docker.io/library/postgres:16-bookworm"
    given = {**OPERATOR, **BUCKET, "database_image": "registry.test/postgresql:18.1-standard-trixie"}
    assert resolved(given).backup.database_image == "docker.io/library/postgres:18-bookworm"


def test_the_exporter_has_a_login_that_the_operator_makes():
    objects = rendered({**OPERATOR, "monitoring_type": "annotations"})
    (role,) = objects["Cluster sound-database"]["spec"]["managed"]["roles"]
    assert role["name"] == "mlflow_exporter" and role["passwordSecret"] == {"name": "sound-database-reader"}
    assert role["inRoles"] == ["pg_monitor", "pg_read_all_data"] and not role.get("superuser")
    assert objects["Secret sound-database-reader"]["type"] == "kubernetes.io/basic-auth"
    monitoring = resolved({**OPERATOR, "monitoring_type": "annotations"}).monitoring
    assert monitoring.login == "sound-database-reader" and not monitoring.login_database
    names = {name for name in rendered({**OPERATOR, "monitoring_type": "annotations"}, "monitoring")
             if name.startswith("Secret")}
    assert "Secret sound-monitoring-database" not in names


def test_a_login_of_ones_own_for_the_exporter():
    found = spec({**OPERATOR, "monitoring_type": "annotations", "monitoring_database_existing_secret": "theirs"})
    assert "managed" not in found


def test_the_prometheus_operator_scrapes_its_pods():
    objects = rendered(FULL)
    monitor = objects["PodMonitor sound-database"]
    assert monitor["spec"]["selector"] == {"matchLabels": {"cnpg.io/cluster": "sound-database"}}
    assert monitor["metadata"]["labels"]["release"] == "stack"


def test_network_policy_is_for_the_operators_pods():
    objects = rendered(FULL)
    own = {"mlops.mlflow/database-of": "sound"}
    assert objects["Cluster sound-database"]["spec"]["inheritedMetadata"]["labels"] == own
    policy = objects["NetworkPolicy sound-database"]["spec"]
    assert policy["podSelector"] == {"matchLabels": own} and policy["policyTypes"] == ["Ingress"]
    ports = {rule["ports"][0]["port"]: rule.get("from") for rule in policy["ingress"]}
    assert set(ports) == {5432, 8000, 9187} and ports[8000] is None
    assert {"podSelector": {"matchLabels": own}} in ports[5432]
    egress = rendered(FULL, "mlflow_server")["NetworkPolicy sound-server"]["spec"]["egress"]
    assert {"ports": [{"port": 5432, "protocol": "TCP"}]} in egress


def test_the_password_is_the_operators():
    assert "CloudNativePG made it" in resolved(OPERATOR).database.not_rotatable


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("variables", "sentence"), [
    ({"mlflow_engine": "podman"}, "database_operator is set while mlflow_engine is podman"),
    ({"database_type": "mariadb"}, "database_operator is cloudnativepg while database_type is mariadb"),
    ({"database_host": "db", "database_password": "p"}, "database_host is set while database_operator is cloud"),
    ({"database_password": "p"}, "database_password is set while database_operator is cloudnativepg"),
    ({"database_existing_secret": "s"}, "database_existing_secret is set while database_operator"),
    ({"database_existing_claim": "c"}, "database_existing_claim is set while database_operator"),
    ({"database_persistence": False}, "database_persistence is false while database_operator is set"),
    ({"database_port": 5433}, "database_port is 5433 while database_operator is set"),
    ({"database_instances": 0}, "database_instances is 0; it must be from 1 to 50"),
    ({"database_instances": 1, "database_read_replica": True}, "database_read_replica is true while"),
    ({"database_cluster": "Upper"}, "database_cluster is 'Upper'"),
    ({"database_cluster": "a" * 51}, "it must be a name of at most 50"),
    ({"database_user": "postgres"}, "database_user is 'postgres', which is a login of PostgreSQL"),
    ({"database_parameters": {"max_connections": 5}}, "database_parameters holds max_connections"),
    ({"database_scheduling": {"runtimeClassName": "kata"}}, "database_scheduling holds runtimeClassName"),
    ({"database_image": "p:17", "database_image_catalog": CATALOG}, "database_image_catalog are both set"),
    ({"database_image_catalog": {"name": "x"}}, "database_image_catalog must hold name, major"),
    ({**BUCKET, "database_image": "registry.test/own:latest"}, "backup_database_image is not set while the tag"),
    ({**BUCKET, "database_backup_schedule": "daily"}, "database_backup_schedule is 'daily'"),
    ({"database_recovery": {"target_time": "2026-11-24"}}, "database_recovery.target_time is '2026-11-24'"),
    ({"database_recovery": {"when": "now"}}, "database_recovery has the key when"),
    ({**BUCKET, "database_recovery": {"source": "sound-database"}}, "which is the Cluster of the instance itself"),
    ({"database_cluster": "b", "database_recovery": {"source": "a"}}, "gives no ObjectStore to read"),
    ({"object_storage_type": "seaweedfs", "backup_type": "s3"}, "the object store that the collection runs"),
    ({**S3, "backup_type": "s3", "object_storage_validate_certs": False}, "object_storage_validate_certs is false"),
    ({"database_operator": "", "database_instances": 2}, "database_instances is set while database_operator is empty"),
    ({"database_operator": "zalando"}, "database_operator must be one of"),
])
def test_refused(variables, sentence):
    found = refused({**OPERATOR, **variables})
    assert any(sentence in line for line in found), found
    assert not any("report this as a bug" in line for line in found)
