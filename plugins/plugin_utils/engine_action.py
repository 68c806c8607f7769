# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the actions that speak to an engine share: their options, and the way to the engine."""

from __future__ import annotations

import contextlib
import json
import shlex
from typing import Iterator

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
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
    "pod_spec": {"type": "dict", "default": {}},
    "patches": {"type": "list", "elements": "dict", "default": []},
    "patches_name": {"type": "str", "default": "patches"},
    "prune": {"type": "bool", "default": True},
    "purge": {"type": "bool", "default": False},
    "render_dir": {"type": "path"},
    "wait": {"type": "bool", "default": True},
    "wait_timeout": {"type": "int", "default": 600},
    "kubeconfig": {"type": "path"},
    "context": {"type": "str"},
}
# The variables of role `mlflow` say these for every task of an instance, so that no task has to.
FROM_VARIABLES = ("engine", "instance", "namespace", "kubeconfig", "context", "labels", "annotations", "pod_spec",
                  "wait_timeout", "render_dir")


class EngineAction(ActionBase):
    """An action that speaks to an engine: to Kubernetes from Ansible's process, to podman through the host's connection."""

    TRANSFERS_FILES = False
    OPTIONS: tuple[str, ...] = tuple(ARGUMENTS)
    _supports_check_mode = True
    _supports_diff = True
    _requires_connection = True

    def options(self, task_vars: dict, **constraints) -> dict:
        """The task's options, completed from the instance's variables, as plain Python values."""
        for option in set(FROM_VARIABLES) & set(self.OPTIONS):
            variable = f"mlflow_{option}"
            if option not in self._task.args and variable in task_vars:
                self._task.args[option] = self._templar.template(task_vars[variable])
        _result, options = self.validate_argument_spec({name: ARGUMENTS[name] for name in self.OPTIONS}, **constraints)
        return json.loads(json.dumps(options))  # Ansible's tagged strings are nothing that YAML could write

    @contextlib.contextmanager
    def engine(self, options: dict, scope: engines.Scope) -> Iterator[engines.Engine]:
        """The engine that the options name; what it cannot do fails the task with its own words."""
        try:
            if options["engine"] == "podman":
                engine: engines.Engine = PodmanEngine(scope, self.log, self._command)
            else:
                engine = KubernetesEngine(scope, self.log, options["kubeconfig"], options["context"])
            try:
                yield engine
            finally:
                engine.close()
        except (engines.EngineError, manifests.ManifestError) as error:
            raise AnsibleActionFail(str(error)) from None

    def _command(self, argv: list[str], stdin: bytes | str | None = None) -> tuple[int, str, str]:
        """Run a command on the inventory host the way Ansible reaches it (connection, become)."""
        data = stdin.encode() if isinstance(stdin, str) else stdin
        answer = self._low_level_execute_command(shlex.join(argv), sudoable=True, in_data=data)
        return answer["rc"], answer["stdout"], answer["stderr"]

    def log(self, text: str) -> None:
        """Tell of progress while the task runs."""
        Display().display(f"  {text}")
