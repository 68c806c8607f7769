# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Checks the health of an MLflow server. Documented in plugins/modules/mlflow_health.py."""

from __future__ import annotations

from ansible_collections.mlops.mlflow.plugins.module_utils import checks
from ansible_collections.mlops.mlflow.plugins.modules import mlflow_health
from ansible_collections.mlops.mlflow.plugins.plugin_utils import program
from ansible_collections.mlops.mlflow.plugins.plugin_utils.service_action import ServerAction


class ActionModule(ServerAction):
    """Runs the server's probe in its pod, through a forwarded port, or on the inventory host."""

    SPEC = mlflow_health.SPEC

    def through(self, engine, options, task_vars):
        found = self.parameters(engine, options)
        login = found.pop("login", {})
        parameters = {**found, **login, "roundtrip": options["roundtrip"] and not self._task.check_mode}

        def in_pod(parameters):
            probe = program.Probe("server", "The server", "server", parameters)
            return program.run(engine, options["service"], [probe])["server"]

        def here(parameters):
            return checks.measure("server", parameters)

        def on_target():
            return self.on_target(options, task_vars, ca_certificate=found["ca"], **login)

        report = self.request(engine, options, parameters, in_pod, here, on_target)
        if options["ca_secret"] and found["ca"]:
            report["ca_certificate"] = found["ca"]
        return {"changed": False, **report}
