# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Measures the service levels of an instance. Documented in plugins/modules/service_levels.py."""

from __future__ import annotations

import datetime

from ansible_collections.mlops.mlflow.plugins.module_utils import checks
from ansible_collections.mlops.mlflow.plugins.plugin_utils import engines, health, program, service_levels, templating
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engine_action import EngineAction
from ansible_collections.mlops.mlflow.plugins.plugin_utils.model import Model


class ActionModule(EngineAction):
    """Runs the same probe in the server's pod and on the inventory host, one after the other."""

    OPTIONS = {"token": {"type": "str", "default": "", "no_log": True}, "timeout": {"type": "int", "default": 300},
               "require_met": {"type": "bool", "default": False}}

    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        _result, options = self.validate_argument_spec(self.OPTIONS)
        model = self.resolve(task_vars)
        read_only = self._task.check_mode
        with self.engine_of(model.instance) as engine:
            if not engine.pods():
                raise templating.Failure(health.not_installed(model)["failures"][0])
            reports = {}
            for place in model.variables.mlflow_service_levels_from:
                self.log(f"Measuring {service_levels.PLACES[place]}")
                reports[place] = self._measure(engine, model, place, read_only, options, task_vars)
            result = service_levels.judge(model, reports, read_only)
            time = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
            if not read_only:
                service_levels.record(engine, result, time)
        if options["require_met"] and not result["met"]:
            raise templating.Failure("\n".join(result["missed"]))
        fact = {"instance": model.instance.name, "time": time, **result}
        return {"changed": False, **fact, "ansible_facts": {"mlflow_service_levels": fact}}

    def _measure(self, engine: engines.Engine, model: Model, place: str, read_only: bool, options: dict,
                 task_vars: dict) -> dict:
        """The report of the probe from one place; of one that could not run, the reason."""
        timeout = options["timeout"]
        try:
            if place == "inside":
                probe = service_levels.probe(model, place, read_only, service_levels.inside(model))
                return program.run(engine, model.mlflow_server.service, [probe], timeout)[place]
            parameters = service_levels.outside(model, engine, options["token"])
            target = service_levels.forwarded(model)
            if not target:
                probe = service_levels.probe(model, place, read_only, parameters)
                return program.run_on(self._run_python(task_vars), [probe], timeout)[place]
            with engine.forward(*target) as (host, port):
                probe = service_levels.probe(model, place, read_only, {**parameters, "connect": f"{host}:{port}"})
                return program.run_here([probe], timeout)[place]
        except engines.EngineError as error:
            return checks.not_run(str(error))

    def _run_python(self, task_vars: dict):
        """What runs a program of Python on the inventory host, and returns what it wrote."""
        interpreter = str(task_vars.get("ansible_python_interpreter") or "")
        interpreter = interpreter if interpreter.startswith("/") else "python3"

        def run(source: str) -> str:
            code, out, err = self._command([interpreter, "-"], source)
            if code:
                raise engines.EngineError(f"{interpreter} on this host ended with exit code {code}: "
                                          f"{engines.last_line(err)}")
            return out

        return run
