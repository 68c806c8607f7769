# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a cluster says of a release."""

from __future__ import annotations

from ansible_collections.mlops.mlflow.plugins.plugin_utils import manifests
from ansible_collections.mlops.mlflow.plugins.plugin_utils.adoption import charts
from ansible_collections.mlops.mlflow.plugins.plugin_utils.adoption import release as releases
from ansible_collections.mlops.mlflow.plugins.plugin_utils.adoption.plan import Adoption, Live
from ansible_collections.mlops.mlflow.plugins.plugin_utils.adoption.release import Release
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines import EngineError
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines.kubernetes import KubernetesEngine
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines.kubernetes_api import label_selector
from ansible_collections.mlops.mlflow.plugins.plugin_utils.manifests import Ref

VERSION = "import importlib.metadata as m; print(m.version('mlflow'))"
TIMEOUT = 30
"""Seconds to wait for the version of a running server."""


def find(engine: KubernetesEngine, name: str, namespace: str) -> Release:
    """The deployed release of a name.

    Raises:
        EngineError: the cluster cannot be asked.
        ReleaseError: there is no such release.
    """
    answer = engine.api.request("GET", f"/api/v1/namespaces/{namespace}/secrets",
                                label_selector({"name": name}))
    return releases.latest(answer["items"], name, namespace)


def adopted(engine: KubernetesEngine, release: Release, instance: str, as_variables: bool = False) -> Adoption:
    """What becomes of a release, with what the cluster says of it.

    Args:
        engine: open.
        release: the release.
        instance: name of the instance.
        as_variables: whether secrets that the values hold become variables.

    Raises:
        EngineError: the cluster cannot be asked.
        ReleaseError: the release cannot be taken over.
    """
    # Once without the cluster, to know which objects to look at.
    first = charts.adopted(release, instance)
    namespace = release.namespace
    refs = {Ref("", kind, namespace, name) for kind, name, _required in manifests.references(first.deployment)}
    refs |= {Ref("", "PersistentVolumeClaim", namespace, claim) for claim in first.claims}
    refs |= {Ref("", "Service", namespace, first.fullname), Ref("", "Secret", namespace, first.secret_name)}
    found = engine.read(refs, set())
    live = Live({(ref.kind, ref.name): obj for ref, obj in found.items() if ref in refs},
                _version(engine, first.fullname))
    return charts.adopted(release, instance, live, as_variables)


def _version(engine: KubernetesEngine, service: str) -> str:
    """The version of MLflow in the running pods; empty where none is ready."""
    try:
        return engine.execute(service, ["python3", "-c", VERSION], timeout=TIMEOUT).strip()
    except EngineError:
        return ""
