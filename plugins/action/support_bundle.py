# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Gathers a support bundle on the controller. Documented in plugins/modules/support_bundle.py."""

from __future__ import annotations

import datetime
import json
import pathlib
import platform

import yaml
from ansible.release import __version__ as ansible_version

from ansible_collections.mlops.mlflow.plugins.plugin_utils import bundle, components, deployed, engines, health, status
from ansible_collections.mlops.mlflow.plugins.plugin_utils.components import backup
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engine_action import EngineAction
from ansible_collections.mlops.mlflow.plugins.plugin_utils.model import Model

ROOT = pathlib.Path(__file__).parents[2]


class ActionModule(EngineAction):
    """Asks the engine for objects, events and logs, and the probes for health, and writes all that could be had."""

    OPTIONS = {"dest": {"type": "path", "default": "."}, "lines": {"type": "int", "default": 2000}}

    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        _result, options = self.validate_argument_spec(self.OPTIONS)
        model = self.resolve(task_vars)
        now = datetime.datetime.now(datetime.timezone.utc)
        name = f"{model.instance.namespace}-{model.instance.name}-{now:%Y%m%dT%H%M%SZ}.tar.gz"
        path = pathlib.Path(options["dest"]).expanduser().absolute() / name
        with self.engine_of(model.instance) as engine:
            live = engine.read(set(), set())
            files, missing = self._gather(engine, model, live, options["lines"])
        if not live and not files.get("pods.json", "").strip("[]\n"):
            missing.append(f"Instance {model.instance.name} is not deployed.")
        files["missing.txt"] = "".join(f"{sentence}\n" for sentence in missing)
        result = {"changed": True, "path": str(path), "files": sorted(files), "missing": missing}
        if self._task.check_mode:
            return result
        secret = [str(model.variables[variable]) for variable in components.secrets() if model.variables[variable]]
        scrubber = bundle.Scrubber([*bundle.values_of(live.values()), *secret])
        return {**result, "bytes": bundle.write(path, files, scrubber)}

    def _gather(self, engine: engines.Engine, model: Model, live: dict, lines: int) -> tuple[dict, list[str]]:
        """Texts by name, and a sentence for each thing that could not be had."""
        files, missing = {"objects.yaml": bundle.as_yaml(live.values())}, []

        def attempt(name, make):
            try:
                files.update(make())
            except engines.EngineError as error:
                missing.append(f"{name}: {error}")

        def measured() -> dict[str, str]:
            pods = engine.pods()
            files["pods.json"] = _json(pods)
            report = health.measure(engine, model, pods, roundtrip=False) if pods else health.not_installed(model)
            panel = status.panel(model, pods, report)
            return {"health.json": _json(report), "status.txt": "\n".join(status.lines(model, panel)) + "\n"}

        attempt("logs", lambda: {f"logs/{name}.log": text for name, text in engine.logs(lines).items()})
        attempt("events", lambda: {"events.json": _json(engine.events())})
        attempt("health", measured)
        found = deployed.of(live, model)
        files["versions.json"] = _json({
            "collection": yaml.safe_load((ROOT / "galaxy.yml").read_text(encoding="utf-8"))["version"]
            if (ROOT / "galaxy.yml").exists() else json.loads((ROOT / "MANIFEST.json").read_text(
                encoding="utf-8"))["collection_info"]["version"],
            "ansible": ansible_version, "python": platform.python_version(), "engine": engine.name,
            "mlflow_version": model.instance.version, "deployed": found.version if found else "",
            "image": found.image if found else "", "warnings": engine.warnings,
        })
        files["variables.json"] = _json(backup.deployment(model.variables, model)["variables"])
        return files, missing


def _json(value) -> str:
    return json.dumps(value, indent=1, sort_keys=True, default=str) + "\n"
