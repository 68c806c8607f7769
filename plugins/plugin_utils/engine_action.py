# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the actions of this collection share: an instance's model, their options, and the connection to its engine."""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from typing import Any, Callable, Iterator

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.mlops.mlflow.plugins.module_utils import versions
from ansible_collections.mlops.mlflow.plugins.plugin_utils import components, engines, manifests, model, templating
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines import podman_frame
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines.kubernetes import KubernetesEngine
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines.podman import PodmanEngine
from ansible_collections.mlops.mlflow.plugins.plugin_utils.manifests import Ref
from ansible_collections.mlops.mlflow.plugins.plugin_utils.model import variables

INSTANCE_OPTIONS = {
    "engine": {"type": "str", "choices": ["kubernetes", "podman"], "default": "kubernetes"},
    "instance": {"type": "str", "required": True},
    "namespace": {"type": "str", "required": True},
    "kubeconfig": {"type": "path"},
    "context": {"type": "str"},
}
"""Options that say which instance a task is about; what it leaves out is taken from the instance's variables."""


class ModelAction(ActionBase):
    """An action that reads the variables of an inventory host as a model."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_diff = True
    _requires_connection = False

    _model: model.Model | None = None

    def resolve(self, task_vars: dict) -> model.Model:
        """The model of the host's variables, worked out once for a task; wrong ones fail it with one sentence for
        each."""
        if self._model is None:
            # A role may be in a play with other software's variables, which its own playbooks have none of.
            foreign = variables.COMMON_NAMES if self._task._role else frozenset()
            host_vars = {name: value for name, value in task_vars.items() if name not in foreign}
            try:
                given = value_of(variables.INSTEAD, host_vars.pop(variables.INSTEAD, {}), self._templar)
                if given:
                    host_vars = variables.instead(host_vars, given)
                self._model = resolve(self._templar, host_vars, task_vars["inventory_hostname"], self.latest)
            except variables.VariableError as error:
                raise templating.Failure(str(error)) from None
        return self._model

    def latest(self, instance: model.Instance, v: variables.Variables) -> str:
        """The version that ``mlflow_version: latest`` is for an instance: without an engine, what the instance cannot
        tell."""
        return v.mlflow_version

    def log(self, text: str) -> None:
        """Show progress while the task runs."""
        Display().display(f"  {text}")


class EngineAction(ModelAction):
    """An action that uses an engine: Kubernetes from Ansible's process, podman through the host's connection."""

    OPTIONS: dict[str, dict] = INSTANCE_OPTIONS
    _requires_connection = True

    def options(self, task_vars: dict, described: bool = False, **constraints: Any) -> dict:
        """The task's options, completed from the instance's variables, as plain Python values.

        Args:
            task_vars: Ansible's variables.
            described: whether the host's variables describe the instance even where none of these options is among
                them, since all have defaults.
            constraints: of the argument spec.
        """
        missing = [option for option in INSTANCE_OPTIONS if option not in self._task.args and option in self.OPTIONS]
        if missing and (described or any(f"mlflow_{option}" in task_vars for option in missing)):
            instance = self.resolve(task_vars).instance
            named = {"engine": instance.engine, "instance": instance.name, "namespace": instance.namespace,
                     "kubeconfig": instance.kubeconfig, "context": instance.context}
            self._task.args.update({option: named[option] for option in missing if named[option] is not None})
        return self.plain_options(**constraints)

    def plain_options(self, **constraints: Any) -> dict:
        """The task's options as plain Python values.

        Args:
            constraints: of the argument spec.
        """
        _result, options = self.validate_argument_spec(self.OPTIONS, **constraints)
        return json.loads(json.dumps(options))  # Ansible's tagged strings are nothing that YAML could write

    @contextlib.contextmanager
    def engine(self, options: dict, scope: engines.Scope) -> Iterator[engines.Engine]:
        """The engine that the options name; what it cannot do fails the task with its own words."""
        try:
            if options["engine"] == "podman":
                engine: engines.Engine = PodmanEngine(scope, self.log, self._command)
            else:
                engine = KubernetesEngine(scope, self.log, options.get("kubeconfig"), options.get("context"))
            try:
                yield engine
            finally:
                engine.close()
        except (engines.EngineError, manifests.ManifestError) as error:
            raise templating.Failure(str(error)) from None

    def engine_of(self, instance: model.Instance,
                  roles: tuple[str, ...] = ()) -> contextlib.AbstractContextManager[engines.Engine]:
        """The engine of an instance, for the components of the given roles (none: all)."""
        names = tuple(components.by_role(role).name for role in roles)
        options = {"engine": instance.engine, "kubeconfig": instance.kubeconfig, "context": instance.context}
        return self.engine(options, engines.Scope(instance.namespace, instance.name, names))

    def latest(self, instance: model.Instance, v: variables.Variables) -> str:
        """The version that is recorded with the instance, unless an upgrade is asked for; else the newest that can be
        installed."""
        ref = Ref("", "ConfigMap", instance.namespace, f"{instance.name}-server")
        with self.engine_of(instance) as engine:
            recorded = engine.read({ref}, set()).get(ref)

        def newest() -> str:
            source = "build" if v.mlflow_server_image else v.mlflow_image_source
            return versions.resolve_latest(index_url(v), image_source=source)

        try:
            version, _reason = versions.choose(
                "latest",
                manifests.annotation(recorded, manifests.VERSION) if recorded else "",
                newest,
                v.mlflow_upgrade,
            )
        except versions.VersionsError as error:
            raise variables.VariableError(f"{error}.") from None
        return version

    def _command(self, argv: list[str], stdin: bytes | str | None = None) -> tuple[int, str, str]:
        """Run a command on the inventory host through Ansible's connection and become.

        Args:
            argv: program and arguments; no secrets, since they show in the process list.
            stdin: what the command reads. Where pipelining is off it travels as a file of mode 0600, as modules do,
                which is removed before the command starts.

        Returns:
            Exit code, output, errors.

        Raises:
            EngineError: the command could not be started.
        """
        data = stdin.encode() if isinstance(stdin, str) else stdin
        if self._is_pipelining_enabled("new"):
            # Some input, if only an empty line: without any, ssh gives the command a terminal.
            answer = self._low_level_execute_command(
                podman_frame.frame(argv, podman_frame.PIPE if data else podman_frame.NO_STDIN), in_data=data or b"\n"
            )
        else:
            answer = self._low_level_execute_command(
                podman_frame.frame(argv, self._stdin_file(data) if data else podman_frame.NO_STDIN)
            )
        result = podman_frame.unframe(answer["stdout"])
        if result is None:
            reason = podman_frame.complaint(answer["stdout"] + "\n" + answer["stderr"]) or f"exit code {answer['rc']}"
            raise engines.EngineError(f"{argv[0]} cannot be run on this host ({reason}); see to it that "
                                      "ansible.builtin.command can be.")
        return result

    def _stdin_file(self, data: bytes) -> str:
        """Transfer a command's input to a file on the host that only the user who runs the command may read."""
        shell = self._connection._shell
        folder = shell.tmpdir or self._make_tmp_path()
        path = shell.join_path(folder, f"stdin-{uuid.uuid4().hex}")
        self._transfer_data(path, data)
        self._fixup_perms2((folder, path), execute=False)
        return path


def index_url(v: variables.Variables) -> str:
    """The package index that versions of MLflow are looked up in."""
    return v.mlflow_index_url or os.environ.get("PIP_INDEX_URL") or versions.INDEX


def resolve(templar: Any, host_vars: dict, host: str, latest: Callable | None = None) -> model.Model:
    """The model of a host's variables.

    Args:
        templar: Ansible's, of the running task.
        host_vars: the host's variables, with their templates.
        host: its name in the inventory.
        latest: resolves ``mlflow_version: latest``, see ``model.resolve``.

    Raises:
        VariableError: one sentence for each variable that is wrong.
    """
    # What users' templates may refer to: all defaults, and the two names that follow from the host's.
    name = host_vars.get("mlflow_instance") or model.instance_name(host)
    defaults = {option: variables.default_of(spec) for option, spec in variables.SPECS.items()}
    scope = {**defaults, "mlflow_instance": name, "mlflow_namespace": name,
             **host_vars}
    templar = templating.with_variables(templar, scope)

    def find(variable: str) -> Any:
        return plain(value_of(variable, host_vars[variable], templar))

    return model.resolve(find, host_vars, host, latest)


def value_of(variable: str, value: Any, templar: Any) -> Any:
    """The value of a variable with its templates resolved; VariableError where one cannot be."""
    if not _needs_templating(value):
        return value
    try:
        return plain(templar.template(value))
    except AnsibleError as error:
        raise variables.VariableError(f"{variable} cannot be worked out: {templating.reason(error)}") from None


def _needs_templating(value: Any) -> bool:
    """Whether a value has templates in it, or is encrypted; most are neither, and templating costs more than all else
    here."""
    if isinstance(value, str):
        return "{" in value and any(mark in value for mark in ("{{", "{%", "{#"))
    if isinstance(value, dict):
        return any(_needs_templating(part) for pair in value.items() for part in pair)
    if isinstance(value, (list, tuple)):
        return any(map(_needs_templating, value))
    return not isinstance(value, (int, float, type(None)))


def plain(value: Any) -> Any:
    """A value without Ansible's own types, which mark where it came from."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, dict):
        return {plain(key): plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(part) for part in value]
    if isinstance(value, int):
        return int(value)
    return float(value) if isinstance(value, float) else str(value)
