# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Forwards a local port to a service of an instance. Documented in plugins/modules/port_forward.py."""

from __future__ import annotations

import shlex
import socket

from ansible.errors import AnsibleActionFail

from ansible_collections.mlops.mlflow.plugins.module_utils import relay
from ansible_collections.mlops.mlflow.plugins.modules import port_forward
from ansible_collections.mlops.mlflow.plugins.plugin_utils import engines
from ansible_collections.mlops.mlflow.plugins.plugin_utils.service_action import ServiceAction


class ActionModule(ServiceAction):
    """Starts the process here for Kubernetes, and by the module on the inventory host for podman."""

    SPEC = port_forward.SPEC

    def through(self, engine, options, task_vars):
        if not options["port"]:
            raise AnsibleActionFail(f"port is empty while engine is {options['engine']}; name the port of the Service.")
        if options["engine"] == "podman":
            labels, address, environment = engine.main_container(options["service"], options["port"])
            where = {"container_labels": labels, "port": options["port"], "podman_environment": environment}
            if address:
                where["address"] = address
            result = self._execute_module(module_args={"local_port": options["local_port"],
                                                       "seconds": options["seconds"], **where},
                                          task_vars=task_vars)
            return {**result, "tunnel": self._tunnel(options["local_port"])}
        return {**self._forward(engine, options), "tunnel": ""}

    def _forward(self, engine: engines.Engine, options: dict) -> dict:
        """Listen in a process of this machine."""
        port = options["local_port"]
        result = {"changed": False, "url": f"http://127.0.0.1:{port}", "pid": None}
        if relay.listens(port):
            return result
        with engine.forward(options["service"], options["port"]):
            pass  # in this process, so that an error can still be reported
        if self._task.check_mode:
            return {**result, "changed": True}

        def work():
            # Another engine: this process' connections are not for two.
            scope = engines.Scope(options["namespace"], options["service"])
            with self.engine(options, scope) as own, own.forward(options["service"], options["port"]) as address:
                relay.serve(lambda: socket.create_connection(address), port, options["seconds"])

        result["pid"] = relay.detach(work)
        if not relay.wait_until_listens(port, 30):
            raise AnsibleActionFail(f"Port {port} of this machine cannot be listened on; choose another local_port.")
        return {**result, "changed": True}

    def _tunnel(self, port: int) -> str:
        """The command that leads from the controller to a loopback port of the inventory host; empty where that is the
        controller."""
        if self._connection.transport != "ssh":
            return ""
        command = ["ssh", "-N", "-L", f"{port}:127.0.0.1:{port}"]
        if self._play_context.port:
            command += ["-p", str(self._play_context.port)]
        user = f"{self._play_context.remote_user}@" if self._play_context.remote_user else ""
        return shlex.join([*command, f"{user}{self._play_context.remote_addr}"])
