# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The version of MLflow that an instance runs, and what follows from it for another version."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ansible_collections.mlops.mlflow.plugins.module_utils import versions
from ansible_collections.mlops.mlflow.plugins.plugin_utils import manifests
from ansible_collections.mlops.mlflow.plugins.plugin_utils.components.database import postgresql_major
from ansible_collections.mlops.mlflow.plugins.plugin_utils.manifests import Ref

if TYPE_CHECKING:
    from ansible_collections.mlops.mlflow.plugins.plugin_utils.model import Model

MAJOR = f"{manifests.MANAGER}/postgresql-major"
"""Annotation of the database's volume (roles/database/templates/server.yaml.j2)."""
RESTORING = f"{manifests.MANAGER}/restoring"
"""Annotation of a server that restore.yml or migrate.yml has closed (roles/mlflow_server/templates/server.yaml.j2).
Whatever opens the server, or closes it for something else, removes it."""
CLOSED = "/etc/mlflow/closed.py"
"""Program of a closed server."""
TAG = re.compile(r":v?([0-9]+\.[0-9]+\.[0-9]+(?:rc[0-9]+)?)(?:[-@].*)?$")


@dataclass(frozen=True)
class Deployed:
    """What the workload of the server runs.

    Attributes:
        version: of MLflow, or empty where neither the workload nor its image's tag says it.
        image: of the server.
        closed: whether a playbook has closed the server (roles/mlflow_server/files/closed.py).
    """

    version: str
    image: str
    closed: bool = False


def ref(model: Model) -> Ref:
    """The workload of the server."""
    kaiwo = model.variables.mlflow_server_kaiwo
    group, kind = ("kaiwo.silogen.ai", "KaiwoService") if kaiwo else ("apps", "Deployment")
    return Ref(group, kind, model.instance.namespace, model.mlflow_server.name)


def of(live: dict[Ref, dict], model: Model) -> Deployed | None:
    """The version that an instance runs; None where it is not deployed.

    Args:
        live: live objects, with the server's workload among them.
        model: the instance.
    """
    workload = live.get(ref(model))
    if not workload:
        return None
    template = manifests.pod_template(workload) or {}
    containers = (template.get("spec") or {}).get("containers") or []
    server = next((container for container in containers if container.get("name") == "mlflow"), {})
    image, closed = server.get("image", ""), CLOSED in (server.get("command") or [])
    found = TAG.search(image)
    version = manifests.annotation(workload, manifests.VERSION) or (found.group(1) if found else "")
    return Deployed(version, image, closed)


def restoring(live: dict[Ref, dict], model: Model) -> bool:
    """Whether restore.yml or migrate.yml has closed the server, and nothing has opened it since.

    Args:
        live: live objects, with the server's workload among them.
        model: the instance.
    """
    workload = live.get(ref(model))
    return bool(workload and manifests.annotation(workload, RESTORING))


def other_stores(live: dict[Ref, dict], model: Model) -> list[str]:
    """Which stores of the server are others than those that the variables describe: ``database``, ``artifacts``.

    Args:
        live: live objects, with the server's workload among them.
        model: the instance.
    """
    spec = (manifests.pod_template(live[ref(model)]) or {}).get("spec") or {}
    containers = [container for container in spec.get("containers") or [] if container.get("name") == "mlflow"]
    env = {entry["name"]: entry for container in containers for entry in container.get("env") or []}
    claims = {volume["persistentVolumeClaim"]["claimName"] for volume in spec.get("volumes") or []
              if volume.get("persistentVolumeClaim")}
    backend, store = model.mlflow_server.database, model.mlflow_server.artifact_store

    def value(name: str) -> str:
        return env.get(name, {}).get("value") or ""

    if backend.uri_key:
        source = (env.get("MLFLOW_BACKEND_STORE_URI", {}).get("valueFrom") or {}).get("secretKeyRef") or {}
        same_database = (source.get("name"), source.get("key")) == (backend.secret, backend.uri_key)
    else:
        same_database = value("MLFLOW_BACKEND_STORE_URI") == backend.uri
    same_artifacts = value("MLFLOW_ARTIFACTS_DESTINATION") == store.uri and (
        store.type != "s3" or value("MLFLOW_S3_ENDPOINT_URL") == store.url)
    same = {"database": same_database and (not backend.claim or backend.claim in claims),
            "artifacts": same_artifacts and (not store.claim or store.claim in claims)}
    return [name for name, is_same in same.items() if not is_same]


def refusal(live: dict[Ref, dict], model: Model) -> str:
    """Why what is rendered cannot take the place of what there is, as a sentence; empty when it can.

    Args:
        live: live objects, with the server's workload and the volume of the database among them.
        model: the instance.
    """
    return too_old(live, model) or other_postgresql(live, model)


def other_postgresql(live: dict[Ref, dict], model: Model) -> str:
    """The sentence for an image of PostgreSQL with another major version than that of the database's volume.

    Volumes that were made before they had the annotation have the version of the image that runs on them.
    """
    database, namespace = model.database, model.instance.namespace
    claim = live.get(Ref("", "PersistentVolumeClaim", namespace, database.volume))
    if not database.major or not claim or not model.variables.database_persistence:
        return ""
    major = manifests.annotation(claim, MAJOR)
    workload = live.get(Ref("apps", "StatefulSet", namespace, database.name))
    if not major and workload:
        containers = (manifests.pod_template(workload) or {}).get("spec", {}).get("containers") or [{}]
        major = postgresql_major(containers[0].get("image", ""))
    if not major or major == database.major:
        return ""
    return (
        f"The image {database.image} has PostgreSQL {database.major}, which cannot read the volume {database.volume} of"
        f" PostgreSQL {major}; keep an image of {major} (database_image, images_postgresql_version), or deploy another"
        " instance with the newer one and restore a backup of this one into it (playbooks/restore.yml with"
        f" mlflow_restore_from={namespace}/{model.instance.name})."
    )


def too_old(live: dict[Ref, dict], model: Model) -> str:
    """Why the version of the model cannot take the place of what runs, as a sentence; empty when it can.

    A server that is closed while a backup is restored may be older, since its database is replaced, and so may one that
    a playbook rolls back.
    """
    v, wanted = model.variables, model.instance.version
    if v.get("_mlflow_version") or model.mlflow_server.closed_because:
        return ""
    found = of(live, model)
    if not found or not found.version or not versions.newer(wanted, [found.version]):
        return ""
    return (
        f"mlflow_version is {wanted}, and instance {model.instance.name} runs MLflow {found.version}, whose database an"
        f" older version cannot read; set mlflow_version to {found.version}, go back to the version before the last"
        " upgrade by playbooks/rollback.yml, or restore a backup of the older version by playbooks/restore.yml with"
        " mlflow_restore_set."
    )
