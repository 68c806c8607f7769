# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the actions that speak to an engine share: their options, and the way to the engine."""

from __future__ import annotations

import contextlib
import json
import uuid
from typing import Iterator

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.mlops.mlflow.plugins.plugin_utils import engines, manifests
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines import podman_frame
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
        """Run a command on the inventory host through Ansible's connection and become.

        Args:
            argv: program and arguments; no secrets, since they show in the process list.
            stdin: what the command reads. Where pipelining is off it travels as a file of mode 0600, as modules do, which is removed
                before the command starts.

        Returns:
            Exit code, output, errors.

        Raises:
            EngineError: the command could not be started.
        """
        data = stdin.encode() if isinstance(stdin, str) else stdin
        if self._is_pipelining_enabled("new"):
            # Some input, if only an empty line: without any, ssh gives the command a terminal.
            answer = self._low_level_execute_command(podman_frame.frame(argv, podman_frame.PIPE if data else podman_frame.NO_STDIN),
                                                     in_data=data or b"\n")
        else:
            answer = self._low_level_execute_command(podman_frame.frame(argv, self._stdin_file(data) if data else podman_frame.NO_STDIN))
        result = podman_frame.unframe(answer["stdout"])
        if result is None:
            reason = podman_frame.complaint(answer["stdout"] + "\n" + answer["stderr"]) or f"exit code {answer['rc']}"
            raise engines.EngineError(f"{argv[0]} cannot be run on this host ({reason}); see to it that ansible.builtin.command can be.")
        return result

    def _stdin_file(self, data: bytes) -> str:
        """Transfer a command's input to a file on the host that only the user who runs the command may read."""
        shell = self._connection._shell
        folder = shell.tmpdir or self._make_tmp_path()
        path = shell.join_path(folder, f"stdin-{uuid.uuid4().hex}")
        self._transfer_data(path, data)
        self._fixup_perms2((folder, path), execute=False)
        return path

    def log(self, text: str) -> None:
        """Tell of progress while the task runs."""
        Display().display(f"  {text}")
