# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Measures whether an instance is healthy. Documented in plugins/modules/instance_health.py."""

from __future__ import annotations

from ansible_collections.mlops.mlflow.plugins.plugin_utils import health, templating
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engine_action import EngineAction


class ActionModule(EngineAction):
    """Runs the probes of all components in one program, in the server's pod."""

    OPTIONS = {"roundtrip": {"type": "bool", "default": True}, "timeout": {"type": "int", "default": 120},
               "require_healthy": {"type": "bool", "default": False}}

    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        _result, options = self.validate_argument_spec(self.OPTIONS)
        model = self.resolve(task_vars)
        with self.engine_of(model.instance) as engine:
            pods = engine.pods()
            roundtrip = options["roundtrip"] and not self._task.check_mode
            report = health.measure(engine, model, pods, roundtrip,
                                    options["timeout"]) if pods else health.not_installed(model)
        for text in report["messages"]:
            self.log(text)
        if options["require_healthy"] and not report["healthy"]:
            raise templating.Failure("\n".join(report["failures"]))
        return {"changed": False, **report, "connect": health.how_to_connect(model)}
