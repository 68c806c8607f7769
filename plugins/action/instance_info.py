# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Returns what runs of an instance. Documented in plugins/modules/instance_info.py."""

from __future__ import annotations

from ansible.module_utils.parsing.convert_bool import boolean

from ansible_collections.mlops.mlflow.plugins.module_utils import versions
from ansible_collections.mlops.mlflow.plugins.plugin_utils import engines, health, service_levels, status
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engine_action import (
    INSTANCE_OPTIONS,
    EngineAction,
    index_url,
)
from ansible_collections.mlops.mlflow.plugins.plugin_utils.model import Model


class ActionModule(EngineAction):
    """Asks the engine for pods and, where wanted, the probes for health."""

    OPTIONS = {**INSTANCE_OPTIONS, "health": {"type": "bool", "default": False}}

    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        described = boolean(self._task.args.get("health", False), strict=False)
        options = self.options(task_vars, described)
        scope = engines.Scope(options["namespace"], options["instance"])
        with self.engine(options, scope) as engine:
            pods = engine.pods()
            result = {"changed": False, "installed": bool(pods), "pods": pods}
            if options["health"]:
                model = self.resolve(task_vars)
                report = health.measure(engine, model, pods, roundtrip=False) if pods else health.not_installed(model)
                panel = status.panel(model, pods, report) | {
                    "newer_versions": self._newer(model, report["version"]),
                    "service_levels": service_levels.last(engine)}
                result.update(health=report, status=panel, lines=status.lines(model, panel))
        return result

    def _newer(self, model: Model, version: str | None) -> list[str] | None:
        """Newer versions than the one that runs, newest first; None where they were not looked up or cannot be."""
        if not model.instance.latest or not version:
            return None
        try:
            return versions.newer(version, versions.available(index_url(model.variables), timeout=5))
        except versions.VersionsError as error:
            self.log(f"{error}.")
            return None
