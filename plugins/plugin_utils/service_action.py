# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the actions of modules share that measure or manage one service: with an engine they work through it."""

from __future__ import annotations

import contextlib
import json
from typing import Any, Callable, Iterator

from ansible.errors import AnsibleActionFail

from ansible_collections.mlops.mlflow.plugins.plugin_utils import engines, program
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engine_action import EngineAction


class ServiceAction(EngineAction):
    """The action of a module that has the options of doc fragment ``engine``.

    With engine C(none) the module itself runs on the inventory host. With an engine, ``through`` does its work.
    """

    SPEC: dict = {}
    """The module's ``argument_spec`` and constraints, as AnsibleModule takes them."""

    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        if self._task.args.get("engine", "none") == "none":
            return self._execute_module(task_vars=task_vars)
        options = self.service_options()
        with self.engine(options, engines.Scope(options["namespace"], options["service"])) as engine:
            return self.through(engine, options, task_vars)

    def through(self, engine: engines.Engine, options: dict, task_vars: dict) -> dict:
        """Do the module's work through an engine.

        Args:
            engine: an open engine.
            options: the task's options, validated.
            task_vars: Ansible's variables.

        Returns:
            What the module returns.
        """
        raise NotImplementedError

    def service_options(self) -> dict:
        """The task's options, validated as the module does, as plain Python values."""
        spec = {name: value for name, value in self.SPEC.items() if name != "supports_check_mode"}
        _result, options = self.validate_argument_spec(**spec)
        for option in ("namespace", "service"):
            if not options[option]:
                raise AnsibleActionFail(f"{option} is empty while engine is {options['engine']}; name the {option} of "
                                        f"the instance.")
        return json.loads(json.dumps(options))

    def on_target(self, options: dict, task_vars: dict, **changes: Any) -> dict:
        """Run the module on the inventory host, without the engine.

        Args:
            options: the task's options.
            task_vars: Ansible's variables.
            changes: options to change; those that need an engine are left out.
        """
        given = {name: options[name] for name in self._task.args if name in options}
        through_engine = ("engine", "namespace", "service", "kubeconfig", "context", "secret", "secret_keys",
                          "ca_secret", "port", "scheme")
        arguments = {**{name: value for name, value in given.items() if name not in through_engine}, **changes}
        arguments = {name: value for name, value in arguments.items() if value is not None}
        return self._execute_module(module_args=arguments, task_vars=task_vars)


def from_secret(engine: engines.Engine, name: str, keys: dict[str, str]) -> dict[str, str]:
    """Values of a Secret.

    Args:
        engine: an open engine.
        name: the Secret's name.
        keys: for each value wanted, the Secret's key that holds it.

    Raises:
        EngineError: there is no such Secret, or it lacks a key.
    """
    values = engine.secret(name)
    missing = ", ".join(sorted(set(keys.values()) - set(values)))
    if missing:
        raise engines.EngineError(f"The Secret {name} has no key {missing}; name its keys in secret_keys.")
    return {wanted: values[key] for wanted, key in keys.items()}


class ServerAction(ServiceAction):
    """The action of a module that has the options of doc fragment ``server``: requests to an MLflow server."""

    def parameters(self, engine: engines.Engine, options: dict) -> dict:
        """The options as ``mlflow_api.from_parameters`` takes them, with what Secrets hold."""
        found = {**options, "ca": options["ca_certificate"]}
        if options["ca_file"]:
            with self._reading("ca_file", options["ca_file"]) as file:
                found["ca"] = file.read()
        found["ca_file"] = None
        if options["ca_secret"]:
            found["ca"] = engine.secret(options["ca_secret"]).get("ca.crt")
        if options["secret"]:
            found["login"] = from_secret(engine, options["secret"], options["secret_keys"])
        return found

    @contextlib.contextmanager
    def _reading(self, option: str, path: str) -> Iterator:
        try:
            with open(path, encoding="utf-8") as file:
                yield file
        except OSError as error:
            raise AnsibleActionFail(f"{option} is {path}, which the controller cannot read: {error.strerror}; name a "
                                    f"file there.") from None

    def request(self, engine: engines.Engine, options: dict, parameters: dict, in_pod: Callable[[dict], dict],
                here: Callable[[dict], dict], on_target: Callable[[], dict]) -> dict:
        """Make requests to the server from where the options say.

        Args:
            engine: an open engine.
            options: the task's options.
            parameters: of the requests; URL or address are completed here.
            in_pod: makes them in a pod of the service, at its loopback address.
            here: makes them in this process, through a forwarded port.
            on_target: runs the module on the inventory host, for an address that is meant from there.

        Returns:
            What the called function returns.
        """
        if not options["url"]:
            return in_pod({
                **parameters, "url": f"{options['scheme']}://127.0.0.1:{options['port']}", "environment": True,
                "server_name": f"service {options['service']} in namespace {options['namespace']}",
            })
        if options["connect"]:
            return on_target()
        with engine.forward(options["service"], options["port"]) as (host, port):
            return here({**parameters, "connect": f"{host}:{port}"})


class AdministratorAction(ServerAction):
    """The action of a module that manages the users of a server, as one of its administrators."""

    FUNCTION: Callable[[dict], dict]
    """A function of module_utils that takes the options with ``check_mode``, and returns what the module returns."""

    def through(self, engine, options, task_vars):
        function = type(self).FUNCTION
        parameters = {**self.parameters(engine, options), "check_mode": self._task.check_mode}
        login = {f"login_{name}": value for name, value in parameters.pop("login", {}).items()}
        parameters.update(login)

        def in_pod(parameters):
            module = function.__module__.rpartition(".")[2]
            return program.call(engine, options["service"], module, function.__name__, parameters)

        def on_target():
            return self.on_target(options, task_vars, ca_certificate=parameters["ca"], **login)

        result = self.request(engine, options, parameters, in_pod, function, on_target)
        if not self._task.diff:
            result.pop("diff", None)
        return result
