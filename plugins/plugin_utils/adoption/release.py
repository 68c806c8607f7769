# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A release of Helm as it is recorded in its Secrets: chart, values and objects.

Source: https://helm.sh/docs/topics/advanced/#storage-backends and pkg/storage/driver of Helm 3 and 4: Secret
``sh.helm.release.v1.NAME.vREVISION`` with the label ``owner=helm``, whose key ``release`` is JSON, compressed by gzip
and encoded in base64.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import json
from dataclasses import dataclass, field
from typing import Any, Iterable

from ansible_collections.mlops.mlflow.plugins.plugin_utils import manifests
from ansible_collections.mlops.mlflow.plugins.plugin_utils.manifests import Ref

ADOPTED = f"{manifests.MANAGER}-adopted"
"""Value of the label ``owner`` of the record of a release that was taken over; Helm looks for ``helm``."""
TYPE = "helm.sh/release.v1"
"""Type of the Secrets."""
RELEASE_NAME = "meta.helm.sh/release-name"
RELEASE_NAMESPACE = "meta.helm.sh/release-namespace"
CHART = "helm.sh/chart"
POLICY = "helm.sh/resource-policy"


class ReleaseError(ValueError):
    """A release that cannot be taken over; the message is one sentence."""


@dataclass(frozen=True)
class Release:
    """A release.

    Attributes:
        name: its name.
        namespace: where it is installed.
        revision: its number.
        status: such as deployed or failed.
        chart: name of the chart.
        version: of the chart.
        app_version: of the software, as the chart says it.
        defaults: values of the chart.
        config: values that the user gave.
        objects: of the manifest, with their namespaces; without hooks.
        hooks: objects of hooks.
    """

    name: str
    namespace: str
    revision: int
    status: str
    chart: str
    version: str
    app_version: str
    defaults: dict
    config: dict
    objects: list[dict] = field(default_factory=list)
    hooks: list[dict] = field(default_factory=list)

    @property
    def values(self) -> dict:
        """The values that the templates were rendered with."""
        return merged(self.defaults, self.config)

    def of_subchart(self, obj: dict) -> bool:
        """Whether an object is of a chart that this one depends on, such as a database."""
        chart = (obj["metadata"].get("labels") or {}).get(CHART) or (obj["metadata"].get("labels") or {}).get("chart")
        return bool(chart) and chart != f"{self.chart}-{self.version}".replace("+", "_")


def secrets_of(secrets: Iterable[dict], name: str) -> list[dict]:
    """The Secrets that record a release, the oldest first."""
    found = [secret for secret in secrets if secret.get("type") == TYPE
             and (secret["metadata"].get("labels") or {}).get("name") == name]
    own = [secret for secret in found if secret["metadata"]["labels"].get("owner") == "helm"]
    return sorted(own or found, key=lambda secret: int(secret["metadata"]["labels"].get("version", "0")))


def latest(secrets: Iterable[dict], name: str, namespace: str) -> Release:
    """The deployed release of a name.

    Args:
        secrets: of the namespace.
        name: of the release.
        namespace: of the release.

    Raises:
        ReleaseError: there is none, or it is not deployed.
    """
    found = secrets_of(secrets, name)
    if found and found[-1]["metadata"]["labels"].get("owner") == ADOPTED:
        raise ReleaseError(f"Helm release {name} in namespace {namespace} has been taken over already; deploy the "
                           "instance by playbooks/site.yml.")
    if not found:
        raise ReleaseError(f"There is no Helm release {name} in namespace {namespace}; `helm list --all-namespaces` "
                           "shows those that exist.")
    release = decode(found[-1])
    if release.status != "deployed":
        raise ReleaseError(f"Helm release {name} is {release.status}; bring it to status deployed by `helm upgrade` or "
                           "`helm rollback` before it is taken over.")
    return release


def decode(secret: dict) -> Release:
    """The release that a Secret records.

    Raises:
        ReleaseError: the Secret holds something else.
    """
    name = secret["metadata"]["name"]
    try:
        encoded = base64.b64decode(secret["data"]["release"])
        data = base64.b64decode(encoded)
        document = json.loads(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
        metadata = document["chart"]["metadata"]
        namespace = document.get("namespace") or secret["metadata"].get("namespace", "")
        return Release(
            document["name"], namespace, int(document["version"]), document["info"]["status"], metadata["name"],
            str(metadata.get("version", "")), str(metadata.get("appVersion", "")),
            document["chart"].get("values") or {}, document.get("config") or {},
            _objects([document.get("manifest") or ""], namespace),
            _objects([hook.get("manifest") or "" for hook in document.get("hooks") or []], namespace))
    except (KeyError, TypeError, ValueError, binascii.Error, OSError) as error:
        raise ReleaseError(f"Secret {name} holds no release of Helm that can be read ({error}).") from error


def encode(document: dict) -> str:
    """The value of key ``release`` of a Secret, as in its ``data``."""
    return base64.b64encode(base64.b64encode(gzip.compress(json.dumps(document).encode(), mtime=0))).decode()


def _objects(texts: list[str], namespace: str) -> list[dict]:
    objects = manifests.load([text for text in texts if text.strip()], "The manifest of the release")
    for obj in objects:
        if not obj["kind"].startswith("Cluster") and obj["kind"] not in ("Namespace", "PersistentVolume"):
            obj["metadata"].setdefault("namespace", namespace)
    return objects


def merged(defaults: Any, given: Any) -> Any:
    """Values over defaults as Helm merges them: mappings key by key, and null removes one."""
    if not isinstance(defaults, dict) or not isinstance(given, dict):
        return given
    result = dict(defaults)
    for key, value in given.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def owned_by(obj: dict, name: str) -> bool:
    """Whether a live object belongs to a release."""
    return manifests.annotation(obj, RELEASE_NAME) == name


def refs(objects: Iterable[dict]) -> dict[Ref, dict]:
    """Objects by their names."""
    return {Ref.of(obj): obj for obj in objects}
