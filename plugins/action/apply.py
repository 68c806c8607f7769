# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The one door to engines: hands Kubernetes manifests to whatever runs them. Documented in plugins/modules/apply.py."""

from __future__ import annotations

import json
import shlex

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import lookup_loader
from ansible.utils.display import Display

from ansible_collections.mlops.mlflow.plugins.plugin_utils import engines, manifests
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines.kubernetes import KubernetesEngine
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines.podman import PodmanEngine

ARGUMENTS = {
    "manifests": {"type": "raw"},
    "template": {"type": "list", "elements": "str"},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "engine": {"type": "str", "choices": ["kubernetes", "podman"], "default": "kubernetes"},
    "instance": {"type": "str", "required": True},
    "component": {"type": "str", "required": True},
    "namespace": {"type": "str", "required": True},
    "labels": {"type": "dict", "default": {}},
    "annotations": {"type": "dict", "default": {}},
    "patches": {"type": "list", "elements": "dict", "default": []},
    "patches_name": {"type": "str", "default": "patches"},
    "purge": {"type": "bool", "default": False},
    "wait": {"type": "bool", "default": True},
    "wait_timeout": {"type": "int", "default": 600},
    "kubeconfig": {"type": "path"},
    "context": {"type": "str"},
}

# The variables of role `mlflow` say these for every task of an instance, so that no task has to.
FROM_VARIABLES = ("engine", "instance", "namespace", "kubeconfig", "context", "labels", "annotations", "wait_timeout")


class ActionModule(ActionBase):
    """Runs in Ansible's own process: on Kubernetes it speaks to the API from here, on podman through the connection."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_diff = True
    _requires_connection = True

    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        for option in FROM_VARIABLES:
            variable = f"mlflow_{option}"
            if option not in self._task.args and variable in task_vars:
                self._task.args[option] = self._templar.template(task_vars[variable])
        _result, options = self.validate_argument_spec(
            ARGUMENTS, mutually_exclusive=[("manifests", "template")],
            required_if=[("state", "present", ("manifests", "template"), True)])
        options = json.loads(json.dumps(options))  # plain values: Ansible's tagged strings are no YAML
        scope = engines.Scope(options["namespace"], options["instance"], options["component"])
        try:
            desired = self._desired(options, scope, task_vars)
            engine = self._engine(options, scope)
            try:
                if options["state"] == "present":
                    outcome = engines.converge(engine, desired, self._task.check_mode, options["wait"], options["wait_timeout"])
                else:
                    outcome = engines.remove(engine, self._task.check_mode, options["purge"], options["wait_timeout"])
            finally:
                engine.close()
        except (engines.EngineError, manifests.ManifestError) as error:
            raise AnsibleActionFail(str(error)) from None
        for note in outcome.notes:
            self._say(note)
        result = {"changed": outcome.changed, "objects": outcome.actions, "notes": outcome.notes}
        if self._task.diff:
            result["diff"] = outcome.diff
        return result

    def _desired(self, options: dict, scope: engines.Scope, task_vars: dict) -> list[dict]:
        if options["state"] == "absent":
            return []
        objects = manifests.load(options["manifests"] if options["template"] is None else self._rendered(options["template"], task_vars))
        manifests.patch(objects, options["patches"], options["patches_name"])
        manifests.label(objects, {**options["labels"], **scope.labels}, options["annotations"])
        return objects

    def _rendered(self, names: list[str], task_vars: dict) -> list[str]:
        """Templates rendered here rather than by a lookup in the arguments, so that secrets in them are no task argument."""
        lookup = lookup_loader.get("ansible.builtin.template", loader=self._loader, templar=self._templar)
        variables = {**task_vars, "ansible_search_path": self._task.get_search_path()}
        return [str(text) for text in lookup.run(names, variables=variables, trim_blocks=True, lstrip_blocks=True)]

    def _engine(self, options: dict, scope: engines.Scope) -> engines.Engine:
        if options["engine"] == "podman":
            return PodmanEngine(scope, self._say, self._command)
        return KubernetesEngine(scope, self._say, options["kubeconfig"], options["context"])

    def _command(self, argv: list[str], stdin: bytes | str | None = None) -> tuple[int, str, str]:
        """Run a command on the inventory host the way Ansible reaches it (connection, become)."""
        data = stdin.encode() if isinstance(stdin, str) else stdin
        answer = self._low_level_execute_command(shlex.join(argv), sudoable=True, in_data=data)
        return answer["rc"], answer["stdout"], answer["stderr"]

    def _say(self, text: str) -> None:
        Display().display(f"  {text}", color=None)
