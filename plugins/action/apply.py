# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The one door to engines: hands Kubernetes manifests to whatever runs them. Documented in plugins/modules/apply.py."""

from __future__ import annotations

import pathlib

import yaml
from ansible.errors import AnsibleActionFail
from ansible.plugins.loader import lookup_loader

from ansible_collections.mlops.mlflow.plugins.plugin_utils import engines, manifests
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engine_action import EngineAction

SHARED = pathlib.Path(__file__).parents[2] / "roles" / "mlflow"


class ActionModule(EngineAction):
    """Renders, then lets the engine make it so."""

    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        options = self.options(task_vars, mutually_exclusive=[("manifests", "template")],
                               required_if=[("state", "present", ("manifests", "template"), True)])
        scope = engines.Scope(options["namespace"], options["instance"], (options["component"],))
        if options["render_dir"] and options["state"] == "present":
            return self._render(options, scope, task_vars)
        with self.engine(options, scope) as engine:
            if options["state"] == "present":
                desired = self._desired(options, scope, task_vars)
                outcome = engines.converge(engine, [desired], self._task.check_mode, options["wait"], options["wait_timeout"],
                                           options["prune"])
            else:
                outcome = engines.remove(engine, self._task.check_mode, options["purge"], options["wait_timeout"])
        for text in outcome.warnings:
            self.log(text)
        result = {"changed": outcome.changed, "objects": outcome.actions, "messages": outcome.warnings}
        if self._task.diff:
            result["diff"] = outcome.diff
        return result

    def _render(self, options: dict, scope: engines.Scope, task_vars: dict) -> dict:
        """Write what would be applied to a file on the controller instead, for reading, GitOps or a cluster out of reach."""
        try:
            objects = [obj for wave in manifests.waves(self._desired(options, scope, task_vars)) for obj in wave]
        except manifests.ManifestError as error:
            raise AnsibleActionFail(str(error)) from None
        for obj in objects:
            obj["metadata"].setdefault("namespace", scope.namespace)
        path = pathlib.Path(options["render_dir"]) / f"{scope.instance}-{scope.components[0]}.yaml"
        text = yaml.safe_dump_all(objects, sort_keys=False)
        changed = not path.exists() or path.read_text(encoding="utf-8") != text
        if changed and not self._task.check_mode:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)  # Secrets whose values variables gave are in it
            path.write_text(text, encoding="utf-8")
        return {"changed": changed, "messages": [f"Rendered to {path}; nothing was applied."],
                "objects": [{"kind": o["kind"], "name": o["metadata"]["name"], "namespace": scope.namespace, "action": "rendered"} for o in objects]}

    def _desired(self, options: dict, scope: engines.Scope, task_vars: dict) -> list[dict]:
        objects = manifests.load(options["manifests"] if options["template"] is None else self._rendered(options["template"], task_vars))
        manifests.complete_pods(objects, options["pod_spec"])
        manifests.patch(objects, options["patches"], options["patches_name"])
        manifests.label(objects, {**options["labels"], **scope.labels(scope.components[0])}, options["annotations"])
        return objects

    def _rendered(self, names: list[str], task_vars: dict) -> list[str]:
        """Templates rendered here rather than by a lookup in the arguments, so that secrets in them are no task argument."""
        lookup = lookup_loader.get("ansible.builtin.template", loader=self._loader, templar=self._templar)
        # After the role's own templates those of role mlflow, which has what the others share.
        variables = {**task_vars, "ansible_search_path": [*self._task.get_search_path(), str(SHARED)]}
        texts = lookup.run(names, variables=variables, trim_blocks=True, lstrip_blocks=True)
        return [str(text) for text in texts if text]  # a template that renders nothing gives None
