# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Checks the health of a tracking database. Documented in plugins/modules/database_health.py."""

from __future__ import annotations

from ansible_collections.mlops.mlflow.plugins.module_utils import checks
from ansible_collections.mlops.mlflow.plugins.modules import database_health
from ansible_collections.mlops.mlflow.plugins.plugin_utils import program
from ansible_collections.mlops.mlflow.plugins.plugin_utils.service_action import ServiceAction, from_secret


class ActionModule(ServiceAction):
    """Runs the probe in a pod of the server, or here through a forwarded port of the database."""

    SPEC = database_health.SPEC

    def through(self, engine, options, task_vars):
        if options["inside"]:
            probe = program.Probe("database", "The database", "database", {**options, "environment": True})
            return {"changed": False, **program.run(engine, options["service"], [probe])["database"]}
        if options["secret"]:
            options.update(from_secret(engine, options["secret"], options["secret_keys"]))
        with engine.forward(options["service"], options["port"] or database_health.PORTS[options["dialect"]]) as (host,
                                                                                                                  port):
            return {"changed": False, **checks.measure("database", {**options, "host": host, "port": port})}
