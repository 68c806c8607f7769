# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A PostgreSQL that CloudNativePG runs: replicas, failover, base backups and WAL archive, recovery to a moment.

Source: https://cloudnative-pg.io/documentation/current/ and https://cloudnative-pg.io/plugin-barman-cloud/docs/
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Callable, Iterator

from ansible_collections.mlops.mlflow.plugins.plugin_utils import logins
from ansible_collections.mlops.mlflow.plugins.plugin_utils.components.base import Network
from ansible_collections.mlops.mlflow.plugins.plugin_utils.model import common

if TYPE_CHECKING:
    from ansible_collections.mlops.mlflow.plugins.plugin_utils.model import Model
    from ansible_collections.mlops.mlflow.plugins.plugin_utils.model.variables import Variables

IMAGE = "ghcr.io/cloudnative-pg/postgresql:17.6"
PLUGIN = "barman-cloud.cloudnative-pg.io"
PORT, METRICS_PORT, STATUS_PORT = 5432, 9187, 8000
INSTANCE_LABEL = "mlops.mlflow/database-of"
"""On all that the operator makes for a Cluster: the instance."""
VARIABLES = ("database_instances", "database_cluster", "database_image_catalog", "database_parameters",
             "database_read_replica", "database_recovery", "database_backup", "database_backup_schedule")
"""Those that only a Cluster has."""
NOT_OF_A_CLUSTER = ("database_host", "database_cloudsql_instance", "database_password", "database_existing_secret",
                    "database_external_secret", "database_existing_claim", "database_tls", "database_passwordless")
MOST_INSTANCES = 50
MAJOR = re.compile(r":v?([0-9]{2})(?:[.-][^/]*)?$")
"""In the tag of an image."""
LONGEST_NAME = 50
"""Of a Cluster, by its operator."""
MOMENT = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d(:?\d\d)?)?")
CATALOGS = ("ImageCatalog", "ClusterImageCatalog")
RESERVED = ("postgres", "streaming_replica", "pg_", "cnpg_")
"""Roles of the operator and of PostgreSQL, and beginnings of their names."""
OFFICIAL_IMAGE = "docker.io/library/postgres:{major}-bookworm"
"""With pg_dump and a server for the verification of backups, for the user of PostgreSQL's official image."""


@dataclass(frozen=True)
class Archive:
    """Where base backups and WAL go, for the template.

    Attributes:
        name: of the ObjectStore.
        configuration: its ``spec.configuration``.
        env: environment of the plugin's container.
        retention: its ``spec.retentionPolicy``.
        secret: Secret that the role makes for it, or empty.
        given: values for that Secret.
    """

    name: str
    configuration: dict
    env: list
    retention: str
    secret: str
    given: dict


def runs(v: Variables) -> bool:
    """Whether CloudNativePG runs the database."""
    return v.database_operator == "cloudnativepg" and v.database_type == "postgresql" and not (
        v.database_host or v.database_cloudsql_instance or v.database_existing_secret or v.database_external_secret)


def major(v: Variables) -> str:
    """PostgreSQL's major version, or empty where the image's tag does not tell it."""
    if v.database_image_catalog:
        return str(v.database_image_catalog.get("major") or "")
    found = MAJOR.search(v.database_image or IMAGE)
    return found.group(1) if found else ""


def archives(v: Variables) -> bool:
    """Whether base backups and WAL go to the bucket of the backups."""
    return runs(v) and v.database_backup and v.backup_type == "s3"


def reads(v: Variables) -> bool:
    """Whether the exporter has a login of its own in the Cluster."""
    return (runs(v) and v.monitoring_type != "none" and not v.monitoring_database_existing_secret
            and not v.mlflow_server_database)


def archive(v: Variables, model: Model) -> Archive | None:
    """The ObjectStore's fields, below the place of the instance's backups; None where there is none."""
    if not archives(v):
        return None
    name = f"{model.instance.name}-database"
    secret, place = f"{name}-backup", model.backup.store
    store = model.mlflow_server.artifact_store
    keys = {"access_key": "access-key", "secret_key": "secret-key"}
    given, login = {}, ""
    if v.backup_existing_secret:
        login, keys = v.backup_existing_secret, {**keys, **v.backup_existing_secret_keys}
    elif v.backup_access_key:
        login, given = secret, {"access-key": v.backup_access_key, "secret-key": v.backup_secret_key}
    elif store.type == "s3" and v.object_storage_access_key:
        # A copy, since the Cluster stays when the instance goes.
        login, given = secret, {"access-key": v.object_storage_access_key, "secret-key": v.object_storage_secret_key}
    elif store.type == "s3" and store.secret:
        login, keys = store.secret, store.secret_keys
    configuration = {
        "destinationPath": f"s3://{place['bucket']}/{place['prefix']}/postgresql",
        "s3Credentials": {"accessKeyId": {"name": login, "key": keys["access_key"]},
                          "secretAccessKey": {"name": login, "key": keys["secret_key"]}}
        if login else {"inheritFromIAMRole": True},
        "wal": {"compression": "gzip"}, "data": {"compression": "gzip"},
    }
    if place["url"]:
        configuration["endpointURL"] = place["url"]
    if store.type == "s3" and not v.backup_url and v.object_storage_ca:
        given["ca.crt"] = v.object_storage_ca
        configuration["endpointCA"] = {"name": secret, "key": "ca.crt"}
    env = {"AWS_DEFAULT_REGION": place["region"]}
    if place["url"]:
        # Stores other than Amazon's refuse the checksums that newer clients add.
        env |= {"AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
                "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required"}
    return Archive(name, configuration, [{"name": key, "value": value} for key, value in env.items() if value],
                   f"{v.backup_keep_days}d", secret if given else "", given)


def scheduling(v: Variables, model: Model) -> dict:
    """Fields of the Cluster by which its pods are placed, from those of a PodSpec."""
    pod = {field: value for field, value in model.instance.pod_spec.items() if value}
    pod.update(v.database_scheduling)
    given = pod.pop("affinity", {})
    affinity = {field: pod.pop(field) for field in ("nodeSelector", "tolerations") if field in pod}
    names = {"nodeAffinity": "nodeAffinity", "podAffinity": "additionalPodAffinity",
             "podAntiAffinity": "additionalPodAntiAffinity"}
    affinity |= {names[field]: value for field, value in given.items()}
    if "topologySpreadConstraints" in pod:
        own = {"labelSelector": {"matchLabels": {"cnpg.io/cluster": model.database.cluster}}}
        pod["topologySpreadConstraints"] = [{**({} if "labelSelector" in entry else own), **entry}
                                            for entry in pod["topologySpreadConstraints"]]
    return {**pod, **({"affinity": affinity} if affinity else {})}


def roles(v: Variables, model: Model) -> list[dict]:
    """Logins that the operator makes besides the owner's. What is no longer listed, it would leave there."""
    if v.monitoring_type == "none":
        return [{"name": logins.READER, "ensure": "absent"}]
    if not model.database.reader:
        return []
    return [{"name": logins.READER, "ensure": "present", "login": True, "connectionLimit": logins.READER_CONNECTIONS,
             "inRoles": ["pg_monitor", "pg_read_all_data"], "passwordSecret": {"name": model.database.reader}}]


def bootstrap(v: Variables, model: Model) -> dict:
    """How the Cluster gets its data; read by the operator when the Cluster is made, and never again."""
    owner = {"database": v.database_name, "owner": v.database_user}
    if not v.database_recovery:
        quoted = v.database_user.replace('"', '""')
        # A restore of a dump creates a database beside the current one.
        return {"initdb": {**owner, "postInitApplicationSQL": [f'ALTER ROLE "{quoted}" CREATEDB']}}
    recovery = {"source": "source", **owner}
    if v.database_recovery.get("target_time"):
        recovery["recoveryTarget"] = {"targetTime": v.database_recovery["target_time"]}
    return {"recovery": recovery}


def external_clusters(v: Variables, model: Model) -> list[dict]:
    """Where a recovery reads base backups and WAL."""
    if not v.database_recovery:
        return []
    parameters = {"barmanObjectName": v.database_recovery.get("object_store") or f"{model.instance.name}-database",
                  "serverName": v.database_recovery["source"]}
    return [{"name": "source", "plugin": {"name": PLUGIN, "parameters": parameters}}]


def network(v: Variables, model: Model) -> Network:
    """The instance connects to the Clusters, they to each other, and the operator asks them for their status."""
    own = {INSTANCE_LABEL: model.instance.name}
    tcp = {port: [{"port": port, "protocol": "TCP"}] for port in (PORT, STATUS_PORT, METRICS_PORT)}
    ingress = [{"ports": tcp[PORT], "from": [{"podSelector": {"matchLabels": model.instance.labels}},
                                             {"podSelector": {"matchLabels": own}}]},
               {"ports": tcp[STATUS_PORT]}]
    if v.monitoring_type == "operator" and v.monitoring_clients:
        ingress.append({"ports": tcp[METRICS_PORT], "from": [common.peer(client) for client in v.monitoring_clients]})
    # To the API server, the bucket and DNS they connect by themselves.
    return Network(ingress=ingress, egress_closed=False, pods=own)


def check(v: Variables, model: Model, is_default: Callable[[str], bool]) -> Iterator[str]:
    """A sentence for each combination that cannot work.

    Args:
        v: the variables.
        model: the instance.
        is_default: says of a variable's name whether it has its default.
    """
    if not v.database_operator:
        for variable in VARIABLES:
            if not is_default(variable):
                yield (f"{variable} is set while database_operator is empty; set database_operator to cloudnativepg, "
                       "or leave it out.")
        return
    if v.database_type != "postgresql":
        yield (f"database_operator is {v.database_operator} while database_type is {v.database_type}; set "
               "database_type to postgresql, or leave database_operator empty.")
        return
    for variable in NOT_OF_A_CLUSTER:
        if v[variable]:
            yield (f"{variable} is set while database_operator is {v.database_operator}, which makes the database, its "
                   "login and its volumes; leave one of them out.")
    if not v.database_persistence:
        yield ("database_persistence is false while database_operator is set, whose instances have volumes; set it to "
               "true, or leave database_operator empty.")
    if v.database_port not in (None, PORT):
        yield (f"database_port is {v.database_port} while database_operator is set, with which it is {PORT}; leave it "
               "out.")
    if not runs(v):
        return
    yield from _numbers(v, model)
    yield from _images(v)
    yield from _archive(v, model)
    yield from _recovery(v, model)


def _numbers(v: Variables, model: Model) -> Iterator[str]:
    if not 1 <= v.database_instances <= MOST_INSTANCES:
        yield f"database_instances is {v.database_instances}; it must be from 1 to {MOST_INSTANCES}."
    if v.database_read_replica and v.database_instances < 2:
        yield (f"database_read_replica is true while database_instances is {v.database_instances}, with which there is "
               "no replica; set database_instances to at least 2, or database_read_replica to false.")
    name = model.database.cluster
    if not common.matches(rf"[a-z]([a-z0-9-]{{0,{LONGEST_NAME - 2}}}[a-z0-9])?", name):
        yield (f"database_cluster is {name!r}; it must be a name of at most {LONGEST_NAME} lower-case letters, digits "
               "and '-' that begins with a letter.")
    user = v.database_user
    if user in (*RESERVED, logins.READER) or user.startswith(("pg_", "cnpg_")):
        yield f"database_user is {user!r}, which is a login of PostgreSQL or of its operator; choose another name."
    if "runtimeClassName" in v.database_scheduling:
        yield ("database_scheduling holds runtimeClassName while database_operator is cloudnativepg, whose Cluster has "
               "no such field; leave it out.")
    if "max_connections" in v.database_parameters:
        yield "database_parameters holds max_connections, which database_max_connections sets; set it there."


def _images(v: Variables) -> Iterator[str]:
    catalog = v.database_image_catalog
    if v.backup_type != "none" and v.backup_database_image is None and not major(v):
        yield (f"backup_database_image is not set while the tag of database_image ({v.database_image}) does not begin "
               "with a version of PostgreSQL; name an image with the programs of that version, such as "
               "docker.io/library/postgres:17-bookworm.")
    if not catalog:
        return
    if v.database_image is not None:
        yield "database_image and database_image_catalog are both set; keep one of them."
    if catalog.get("kind") not in (None, *CATALOGS) or not catalog.get("name") or not major(v).isdigit():
        yield ("database_image_catalog must hold name, major (the version of PostgreSQL, such as 17) and optionally "
               f"kind ({' or '.join(CATALOGS)}).")


def _archive(v: Variables, model: Model) -> Iterator[str]:
    yield from common.schedule("database_backup_schedule", v.database_backup_schedule, "0 1 * * *")
    if not archives(v):
        return
    store = model.mlflow_server.artifact_store
    if store.service and not v.backup_url:
        yield ("database_backup is true while the backups go to the object store that the collection runs for the "
               "instance; name another store in backup_url, or set database_backup to false.")
    elif store.type == "s3" and not v.backup_url and not store.validate_certs:
        yield ("database_backup is true while object_storage_validate_certs is false, and the Barman Cloud plugin "
               "verifies certificates; give the CA in object_storage_ca, or set database_backup to false.")


def _recovery(v: Variables, model: Model) -> Iterator[str]:
    recovery = v.database_recovery
    if not recovery:
        return
    unknown = sorted(set(recovery) - {"source", "target_time", "object_store"})
    moment = recovery.get("target_time")
    if unknown:
        yield f"database_recovery has the key {unknown[0]}; it may have source, target_time and object_store."
    if not recovery.get("source"):
        yield ("database_recovery has no source; name there the Cluster whose backups are restored, such as "
               f"{model.instance.name}-database.")
    elif recovery["source"] == model.database.cluster and not recovery.get("object_store"):
        yield (f"database_recovery.source is {recovery['source']}, which is the Cluster of the instance itself; name "
               "the one that is to be made in database_cluster.")
    if moment and not common.matches(MOMENT.pattern, str(moment)):
        yield (f"database_recovery.target_time is {str(moment)!r}; it must be a time such as 2026-11-24T02:00:00Z, or "
               "left out for the latest one.")
    if not recovery.get("object_store") and not archives(v):
        yield ("database_recovery is set while database_backup or backup_type gives no ObjectStore to read; set "
               "backup_type to s3, or name an ObjectStore in database_recovery.object_store.")
