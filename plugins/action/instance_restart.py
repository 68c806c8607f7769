# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Restarts the pods of an instance one after the other. Documented in plugins/modules/instance_restart.py."""

from __future__ import annotations

import time

from ansible_collections.mlops.mlflow.plugins.plugin_utils import components, engines, templating
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engine_action import EngineAction

RESTARTABLE = ("Deployment", "StatefulSet")


class ActionModule(EngineAction):
    """Lets the engine restart the workloads of components, in the order of their needs."""

    OPTIONS = {"components": {"type": "list", "elements": "str", "default": ["mlflow_server"]}}

    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        _result, options = self.validate_argument_spec(self.OPTIONS)
        known = [component.role for component in components.COMPONENTS]
        for role in options["components"]:
            if role not in known:
                raise templating.Failure(f"components holds {role!r}, which is no component; it may hold"
                                         f" {', '.join(known)}.")
        model, restarted = self.resolve(task_vars), []
        deadline = time.monotonic() + model.instance.wait_timeout
        with self.engine_of(model.instance, tuple(options["components"])) as engine:
            live = engine.read(set(), set())
            for stage in components.stages(options["components"]):
                names = [component.name for component in stage]
                found = [obj for _ref, obj in sorted(live.items()) if obj["kind"] in RESTARTABLE
                         and engine.scope.manages(obj) and engines.component_of(obj) in names]
                if found and not self._task.check_mode:
                    engine.restart(found, deadline)
                restarted += [f"{obj['kind']} {obj['metadata']['name']}" for obj in found]
        if not restarted:
            raise templating.Failure(
                f"Instance {model.instance.name} runs no pods of {', '.join(options['components'])}; run"
                " playbooks/site.yml first."
            )
        return {"changed": True, "restarted": restarted}
