# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Tells what runs of an instance. Documented in plugins/modules/instance_info.py."""

from __future__ import annotations

from ansible_collections.mlops.mlflow.plugins.plugin_utils import engines
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engine_action import EngineAction


class ActionModule(EngineAction):
    """Asks the engine, from Ansible's own process."""

    OPTIONS = ("engine", "instance", "namespace", "kubeconfig", "context")

    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        options = self.options(task_vars)
        scope = engines.Scope(options["namespace"], options["instance"])
        with self.engine(options, scope) as engine:
            pods = engine.pods()
        return {"changed": False, "installed": bool(pods), "pods": pods}
