# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Lists the backups of an instance. Documented in plugins/modules/mlflow_backup_info.py."""

from __future__ import annotations

from ansible_collections.mlops.mlflow.plugins.plugin_utils import backups
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engine_action import EngineAction


class ActionModule(EngineAction):
    """Reads the manifests of all sets in a Job."""

    OPTIONS: dict = {}

    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        self.validate_argument_spec(self.OPTIONS)
        model = self.resolve(task_vars)
        with self.engine_of(model.instance, ("backup",)) as engine:
            found = backups.run(engine, model, "list")
        sets = [backups.summary(manifest) for manifest in found["sets"]]
        return {"changed": False, "backups": sets, "incomplete": found["incomplete"], "expired": found["expired"],
                "location": found["location"], "lines": backups.lines(sets)}
