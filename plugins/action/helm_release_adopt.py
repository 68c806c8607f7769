# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hands the objects of a Helm release over to an instance. Documented in plugins/modules/helm_release_adopt.py."""

from __future__ import annotations

from ansible_collections.mlops.mlflow.plugins.plugin_utils import templating
from ansible_collections.mlops.mlflow.plugins.plugin_utils.adoption import cluster
from ansible_collections.mlops.mlflow.plugins.plugin_utils.adoption.move import Move
from ansible_collections.mlops.mlflow.plugins.plugin_utils.adoption.release import ReleaseError
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engine_action import EngineAction


class ActionModule(EngineAction):
    """One step of a move, for the instance that the host's variables describe."""

    OPTIONS = {
        "release": {"type": "str", "required": True},
        "step": {"type": "str", "choices": ["check", "prepare", "route", "finish", "undo"], "required": True},
        "without_data": {"type": "bool", "default": False},
    }

    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        options = self.plain_options()
        model = self.resolve(task_vars)
        instance, step = model.instance, options["step"]
        if instance.engine != "kubernetes" or instance.render_dir:
            raise templating.Failure("A Helm release is taken over in its cluster; set mlflow_engine to kubernetes, "
                                     "and leave mlflow_render_dir empty.")
        try:
            with self.engine_of(instance) as engine:
                release = cluster.find(engine, options["release"], instance.namespace)
                begins = step in ("check", "prepare")
                adoption = cluster.adopted(engine, release, instance.name) if begins else None
                move = Move(engine, model, release, adoption, self._task.check_mode or step == "check")
                problems = list(move.problems(options["without_data"])) if begins else []
                if problems:
                    raise templating.Failure("\n".join(problems))
                getattr(move, "prepare" if step == "check" else step)()
        except ReleaseError as error:
            raise templating.Failure(str(error)) from None
        return {"changed": bool(move.actions) and step != "check", "actions": move.actions,
                "exclusive": move.exclusive}
