# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Looks up what an upgrade of an instance would change. Documented in plugins/modules/mlflow_upgrade_info.py."""

from __future__ import annotations

from typing import Iterator

from ansible_collections.mlops.mlflow.plugins.module_utils import versions
from ansible_collections.mlops.mlflow.plugins.plugin_utils import deployed, templating
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engine_action import EngineAction, index_url
from ansible_collections.mlops.mlflow.plugins.plugin_utils.model import Model, common


class ActionModule(EngineAction):
    """Compares what runs with what is wanted, and asks the package index or the registry for it."""

    OPTIONS = {"version": {"type": "str", "default": ""}, "undeployed": {"type": "bool", "default": False}}

    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        _result, options = self.validate_argument_spec(self.OPTIONS)
        asked = options["version"]
        if asked and asked != versions.LATEST and not common.matches(r"[0-9]+\.[0-9]+\.[0-9]+(rc[0-9]+)?", asked):
            raise templating.Failure(
                f"mlflow_upgrade_to is {asked!r}; it must be a whole version such as {versions.SUPPORTED[1]}, or"
                " latest."
            )
        model = self.resolve(task_vars)
        with self.engine_of(model.instance) as engine:
            found = deployed.of(engine.read({deployed.ref(model)}, set()), model)
        if not found and options["undeployed"]:
            return self._undeployed(model, asked)
        if not found:
            raise templating.Failure(f"Instance {model.instance.name} is not deployed; run playbooks/site.yml first.")
        if not found.version:
            raise templating.Failure(
                f"The version of MLflow in image {found.image} of instance {model.instance.name} is not known; run"
                " playbooks/site.yml with its mlflow_version once, which records it."
            )
        target, messages = self._target(model, asked), []
        newer = bool(versions.newer(found.version, [target]))
        if newer:
            messages += list(_obstacles(model, target, found.image))
        elif found.closed:
            messages.append("The server is closed, since a playbook failed or was interrupted; playbooks/site.yml"
                            " migrates its database and opens it.")
        return {"changed": False, "installed": {"version": found.version, "image": found.image}, "target": target,
                "needed": newer, "older": bool(versions.newer(target, [found.version])), "messages": messages,
                "deployed": True}

    def _undeployed(self, model: Model, asked: str) -> dict:
        """What there is to know before an instance is deployed on a database that an older MLflow has written."""
        target = self._target(model, asked)
        return {"changed": False, "installed": {"version": "", "image": ""}, "target": target, "needed": False,
                "older": False, "messages": list(_obstacles(model, target, "")), "deployed": False}

    def _target(self, model: Model, asked: str) -> str:
        """The version to upgrade to: as asked, or mlflow_version; latest is looked up now."""
        v = model.variables
        wanted = asked or (versions.LATEST if model.instance.latest else model.instance.version)
        if wanted != versions.LATEST:
            return wanted
        source = "build" if v.mlflow_server_image else v.mlflow_image_source
        try:
            return versions.resolve_latest(index_url(v), image_source=source)
        except versions.VersionsError as error:
            raise templating.Failure(f"{error}.") from None

    def latest(self, instance, v):
        """What runs is looked up from the workload, so the record of latest does not matter here."""
        return v.mlflow_version if v.mlflow_version != versions.LATEST else versions.SUPPORTED[1]


def _obstacles(model: Model, target: str, deployed_image: str) -> Iterator[str]:
    """What is to be known before; raises Failure for a version that cannot be had."""
    v = model.variables
    for sentence in versions.violations(target, v.mlflow_server_auth, model.mlflow_server.path_prefix):
        raise templating.Failure(sentence)
    warning = versions.untested(target)
    if warning:
        yield warning
    if v.mlflow_server_image:
        if v.mlflow_server_image == deployed_image:
            raise templating.Failure(
                f"mlflow_server_image is {deployed_image}, which runs already; set it to an image of MLflow {target}."
            )
        yield (f"mlflow_server_image is {v.mlflow_server_image}; it must hold MLflow {target}, which the rehearsal"
               " checks.")
        return
    build = model.instance.build
    try:
        if build and target not in versions.available(index_url(v)):
            raise templating.Failure(
                f"MLflow {target} cannot be installed from {versions.shown(index_url(v))}, or not on Python 3.11;"
                " choose another version, or latest."
            )
        if not build and not versions.image_exists(target):
            raise templating.Failure(
                f"The registry has no image {versions.IMAGE}:{versions.TAG.format(version=target)}; choose another"
                " version, or set mlflow_server_image."
            )
    except versions.VersionsError as error:
        yield f"{error}; whether the version exists shows when its image is {'built' if build else 'pulled'}."
    if not build:
        yield "The image is pulled before anything is changed, for the rehearsal."
