# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Checks the health of an artifact store. Documented in plugins/modules/object_store_health.py."""

from __future__ import annotations

from ansible_collections.mlops.mlflow.plugins.module_utils import checks
from ansible_collections.mlops.mlflow.plugins.modules import object_store_health
from ansible_collections.mlops.mlflow.plugins.plugin_utils import program
from ansible_collections.mlops.mlflow.plugins.plugin_utils.service_action import ServiceAction, from_secret


class ActionModule(ServiceAction):
    """Runs the probe in a pod of the server, here through a forwarded port of the store, or on the inventory host."""

    SPEC = object_store_health.SPEC

    def through(self, engine, options, task_vars):
        if options["inside"]:
            probe = program.Probe("object_store", "The artifact store", "object_store",
                                  {**options, "environment": True})
            return {"changed": False, **program.run(engine, options["service"], [probe])["object_store"]}
        values = from_secret(engine, options["secret"], options["secret_keys"]) if options["secret"] else {}
        if options["type"] != "s3":
            return self.on_target(options, task_vars, **values)
        with engine.forward(options["service"], options["port"]) as (host, port):
            return {"changed": False,
                    **checks.measure("object_store", {**options, **values, "url": f"http://{host}:{port}"})}
