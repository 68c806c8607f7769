# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Gets versions of MLflow. Documented in plugins/modules/mlflow_version_info.py."""

from __future__ import annotations

from ansible_collections.mlops.mlflow.plugins.module_utils import mlflow_api
from ansible_collections.mlops.mlflow.plugins.modules import mlflow_version_info
from ansible_collections.mlops.mlflow.plugins.plugin_utils import engines, program
from ansible_collections.mlops.mlflow.plugins.plugin_utils.service_action import ServerAction


class ActionModule(ServerAction):
    """Looks versions up by the module, and the installed one through the engine."""

    SPEC = mlflow_version_info.SPEC

    def through(self, engine, options, task_vars):
        result = self.on_target(options, task_vars, url=None, connect=None)
        parameters = self.parameters(engine, options)
        parameters.update(parameters.pop("login", {}))

        def in_pod(parameters):
            return program.call(engine, options["service"], "mlflow_api", "version", parameters)

        def on_target():
            return mlflow_api.version(parameters)

        try:
            result["installed"] = self.request(engine, options, parameters, in_pod, mlflow_api.version, on_target)
        except (engines.EngineError, mlflow_api.ApiError) as error:
            result["message"] = f"The version of the server cannot be read: {error} {result.get('message', '')}".strip()
        return result
