# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Backups: where sets are stored, the schedule that makes them, and the Jobs of module mlflow_backup."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Iterator

from ansible_collections.mlops.mlflow.plugins.plugin_utils.components import (
    cloudnativepg,
    database,
    mlflow_server,
    pgbackrest,
)
from ansible_collections.mlops.mlflow.plugins.plugin_utils.components.base import Component, Network
from ansible_collections.mlops.mlflow.plugins.plugin_utils.components.images import built
from ansible_collections.mlops.mlflow.plugins.plugin_utils.model import common

if TYPE_CHECKING:
    from ansible_collections.mlops.mlflow.plugins.plugin_utils.model import Model
    from ansible_collections.mlops.mlflow.plugins.plugin_utils.model.variables import Variables

FILES = ("backup.py", "sets.py", "artifacts.py", "exchange.py", "databases.py", "database_postgresql.py",
         "database_mysql.py", "database_sqlite.py", "convert.py", "locations.py", "schema.py", "rehearsal.py",
         "drill.py", "recovery.py", "database.sh", "sealed.py")
"""Programs in the pod, besides those of the server's ConfigMap."""
MOUNT_PATH = "/backups"
S3_VARIABLES = ("backup_bucket", "backup_url", "backup_region", "backup_access_key", "backup_secret_key",
                "backup_existing_secret", "backup_object_lock_days")
NOT_OF_THE_INSTANCE = ("_", "mlflow_render_", "mlflow_gitops")
"""Beginnings of variables about a run, or about the repository to which it writes what others apply."""
VOLUME_VARIABLES = ("backup_existing_claim", "backup_storage_class")
SECRET_NAME = re.compile(r"PASS|SECRET|TOKEN|KEY|CREDENTIAL", re.IGNORECASE)
CREDENTIALS = re.compile(r"//[^/@\s]*:[^/@\s]*@")
LONGEST_TIMEOUT = 7 * 86400


@dataclass(frozen=True)
class BackupPart:
    """What the component's templates and module mlflow_backup read.

    Attributes:
        name: of its ConfigMap, Secret and CronJob; the beginning of the names of Jobs.
        files: programs in the ConfigMap.
        store: parameters of stores.open_store, without credentials.
        settings: what backup.py must know about the instance.
        given: values for the Secret.
        secret: Secret with the credentials of the store.
        secret_env: keys of the Secrets, by environment variable.
        claim: PersistentVolumeClaim of the backups, or empty.
        database_image: image with the database's programs; empty for SQLite.
        interval: seconds between two backups of the schedule, or 0.
    """

    name: str
    files: tuple[str, ...]
    store: dict
    settings: dict
    given: dict
    secret: str
    secret_env: dict
    claim: str
    mount_path: str
    database_image: str


class Backup(Component):
    name = "backup"
    role = "backup"
    title = "The backups"
    needs = ("mlflow_server",)
    secrets = ("backup_access_key", "backup_secret_key", "backup_passphrase")

    def resolve(self, v: Variables, model: Model) -> BackupPart:
        instance, name = model.instance, f"{model.instance.name}-backup"
        keys = {"access_key": "access-key", "secret_key": "secret-key", **v.backup_existing_secret_keys}
        given, env = {}, {}
        if v.backup_type == "s3" and (v.backup_access_key or v.backup_existing_secret):
            env = {"BACKUP_ACCESS_KEY": keys["access_key"], "BACKUP_SECRET_KEY": keys["secret_key"]}
            if not v.backup_existing_secret:
                given = {keys["access_key"]: v.backup_access_key, keys["secret_key"]: v.backup_secret_key}
        if v.backup_passphrase:
            env["BACKUP_PASSPHRASE"], given["passphrase"] = "passphrase", v.backup_passphrase
        return BackupPart(
            name=name, files=FILES, store=_store(v, model), settings=_settings(v, model), given=given,
            secret=v.backup_existing_secret or name, secret_env=env,
            claim=(v.backup_existing_claim or name) if v.backup_type == "volume" else "", mount_path=MOUNT_PATH,
            database_image=_database_image(v, model))

    def templates(self, v: Variables, model: Model) -> list[str]:
        if v.backup_type == "none":
            return []
        return ["config.yaml.j2", *(["schedule.yaml.j2"] if v.backup_schedule or v.backup_verify_schedule else [])]

    def context(self, v: Variables, model: Model) -> dict[str, Any]:
        return {"deployment": json.dumps(deployment(v, model), sort_keys=True, default=list),
                "archive": pgbackrest.settings(v, model), "archive_path": pgbackrest.REPOSITORY}

    def images(self, v: Variables, model: Model) -> list[str]:
        kind = v.database_type
        wanted = v.backup_type != "none" and v.backup_database_image is None and kind != "sqlite"
        return [kind] if wanted and kind in built(v) else []

    def network(self, v: Variables, model: Model) -> Network | None:
        if v.backup_type == "none":
            return None
        # It opens what the server opens, and the store of the backups.
        egress = list(mlflow_server.MlflowServer().network(v, model).egress)
        if v.backup_type == "s3" and v.backup_url:
            egress.append(mlflow_server.to_ports([443, mlflow_server.port_of(v.backup_url)]))
        return Network(components=("backup",), egress=egress)

    def _check_where(self, v: Variables, model: Model) -> Iterator[str]:
        if v.backup_type != "s3":
            for variable in S3_VARIABLES:
                if v[variable]:
                    yield (
                        f"{variable} is set while backup_type is {v.backup_type}; set backup_type to s3, or leave it"
                        " out."
                    )
        if v.backup_type != "volume":
            for variable in VOLUME_VARIABLES:
                if v[variable]:
                    yield (
                        f"{variable} is set while backup_type is {v.backup_type}; set backup_type to volume, or leave"
                        " it out."
                    )
        if v.backup_type == "s3":
            yield from _check_s3(v, model)
        if v.backup_type == "none":
            return
        if model.mlflow_server.artifact_store.ephemeral:
            yield (
                "object_storage_type is ephemeral while backup_type is set; artifacts that are lost with their pod"
                " cannot be backed up, so set object_storage_type to volume, or backup_type to none."
            )
        if model.mlflow_server.artifact_store.type == "uri":
            yield (
                "backup_type is set while object_storage_type is uri, whose artifacts only MLflow can read; use the"
                " backups of that store, and set backup_type to none."
            )
        if not common.matches(r"[^/:?#\s\\]+(/[^/:?#\s\\]+)*", v.backup_prefix) or {".", ".."} & set(
            v.backup_prefix.split("/")
        ):
            yield f"backup_prefix is {v.backup_prefix!r}; it must be a path in the bucket or volume, such as backups."

    def _check_schedule(self, v: Variables, model: Model) -> Iterator[str]:
        for variable in ("backup_schedule", "backup_verify_schedule"):
            yield from common.schedule(variable, v[variable], "0 2 * * *")
        for variable, least, most in (("backup_keep_days", 1, 36500), ("backup_keep_daily", 0, 3650),
                                      ("backup_keep_weekly", 0, 520), ("backup_keep_monthly", 0, 1200),
                                      ("backup_verify_sample", 0, 10**9), ("backup_timeout", 60, LONGEST_TIMEOUT),
                                      ("backup_object_lock_days", 0, 36500)):
            if not least <= v[variable] <= most:
                yield f"{variable} is {v[variable]}; it must be from {least} to {most}."
        if v.backup_object_lock_days > v.backup_keep_days:
            yield (
                f"backup_object_lock_days is {v.backup_object_lock_days} while backup_keep_days is"
                f" {v.backup_keep_days}; what is locked cannot be removed, so raise backup_keep_days."
            )

    def _check_passphrase(self, v: Variables, model: Model) -> Iterator[str]:
        if v.backup_passphrase and len(v.backup_passphrase) < 12:
            yield (
                "backup_passphrase is shorter than 12 characters; choose a longer one, since it guards the keys of the"
                " instance."
            )

    def _check_database(self, v: Variables, model: Model) -> Iterator[str]:
        backend = model.mlflow_server.database
        if v.backup_type != "none" and backend.type == "other":
            yield (
                "backup_type is set while the database is of another type than PostgreSQL, MariaDB, MySQL and SQLite,"
                " whose programs cannot dump it; use its own backups, and set backup_type to none."
            )
        if v.backup_type != "none" and not backend.uri_key and len(v.database_name) > 54:
            yield (
                f"database_name is {v.database_name!r}; while backup_type is set it must have at most 54 characters,"
                " since a restore appends to it."
            )


def _check_s3(v: Variables, model: Model) -> Iterator[str]:
    store = model.mlflow_server.artifact_store
    if not v.backup_bucket and store.type != "s3":
        yield "backup_bucket is empty while backup_type is s3 and the artifacts are in no S3 store; name a bucket."
    if bool(v.backup_access_key) != bool(v.backup_secret_key):
        yield "only one of backup_access_key and backup_secret_key is set; the two go together."
    if v.backup_existing_secret and v.backup_access_key:
        yield "backup_existing_secret and backup_access_key are both set; keep one of them."
    if v.backup_bucket and not common.matches(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", v.backup_bucket):
        yield (
            f"backup_bucket is {v.backup_bucket!r}; a bucket's name has 3 to 63 lower-case letters, digits, '.' and"
            " '-', without s3:// and without a path (that is backup_prefix)."
        )
    if v.backup_url and not common.url(v.backup_url, path=False):
        yield (
            f"backup_url is {common.hidden(v.backup_url)}; it must be the endpoint alone, such as"
            " https://s3.example.com."
        )


def _store(v: Variables, model: Model) -> dict:
    """Parameters of the store, rooted at the path of the instance."""
    path = f"{v.backup_prefix}/{model.instance.namespace}/{model.instance.name}"
    if v.backup_type != "s3":
        return {"type": "volume", "path": f"{MOUNT_PATH}/{path}"}
    store = model.mlflow_server.artifact_store
    same = store.type == "s3"
    prefix = path if v.backup_bucket or not v.object_storage_prefix else f"{v.object_storage_prefix.strip('/')}/{path}"
    found = {"type": "s3", "bucket": v.backup_bucket or store.bucket, "prefix": prefix,
             "url": v.backup_url or (store.url if same else ""),
             "region": v.backup_region or (store.region if same else "us-east-1")}
    if same and not v.backup_url and not store.validate_certs:
        found["validate_certs"] = False
    if v.backup_object_lock_days:
        found["lock_days"] = v.backup_object_lock_days
    return found


def _settings(v: Variables, model: Model) -> dict:
    instance = model.instance
    return {
        "manifest": {"instance": instance.name, "namespace": instance.namespace, "engine": instance.engine,
                     "mlflow_version": instance.version, "image": model.mlflow_server.image},
        "retention": {"days": v.backup_keep_days, "daily": v.backup_keep_daily, "weekly": v.backup_keep_weekly,
                      "monthly": v.backup_keep_monthly},
        "sample": v.backup_verify_sample,
    }


def _database_image(v: Variables, model: Model) -> str:
    if v.backup_database_image is not None:
        return v.backup_database_image
    if model.mlflow_server.database.type in ("sqlite", "other"):
        return ""
    kind = v.database_type
    if model.database.cluster:
        return cloudnativepg.OFFICIAL_IMAGE.format(major=cloudnativepg.major(v))
    return model.database.image or (
        built(v)[kind] if model.instance.build and kind in built(v) else database.IMAGES[kind]
    )


def deployment(v: Variables, model: Model) -> dict:
    """Variables and manifests of the instance, without secrets and without the programs of this collection."""
    # These modules import the list of components.
    from ansible_collections.mlops.mlflow.plugins.plugin_utils import components, render
    from ansible_collections.mlops.mlflow.plugins.plugin_utils.model import variables

    hidden = components.secrets()
    # Within a role, its defaults are variables as any other; the result is the same with and without them.
    given = {
        name: _masked(value)
        for name, value in v.items()
        if name not in hidden and not name.startswith(NOT_OF_THE_INSTANCE)
        and not variables.is_default(name, value)
    }
    given |= {"mlflow_instance": model.instance.name, "mlflow_namespace": model.instance.namespace}
    objects = []
    for component in components.COMPONENTS:
        if component.role != "backup":
            objects += render.render(component, model, {"app.kubernetes.io/component": component.name})
    return {"variables": given, "manifests": [_without_contents(obj) for obj in objects]}


def _masked(value: Any) -> Any:
    """A value without passwords in URIs, and without values of environment variables that are called like secrets."""
    if isinstance(value, dict):
        if SECRET_NAME.search(str(value.get("name", ""))) and "value" in value:
            return {**value, "value": "(secret)"}
        return {key: "(secret)" if SECRET_NAME.search(str(key)) and isinstance(part, str) else _masked(part)
                for key, part in value.items()}
    if isinstance(value, list):
        return [_masked(part) for part in value]
    return CREDENTIALS.sub("//", value) if isinstance(value, str) else value


def _without_contents(obj: dict) -> dict:
    """An object without a Secret's values and without programs."""
    if obj["kind"] == "Secret":
        return {key: value for key, value in obj.items() if key not in ("data", "stringData")}
    if obj["kind"] == "ConfigMap":
        data = {
            key: value
            for key, value in (obj.get("data") or {}).items()
            if not key.endswith((".py", ".sh", ".html", ".json"))
        }
        return {**obj, "data": data}
    return obj
