# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Manages the logins of a database that the collection runs. Documented in plugins/modules/database_login.py."""

from __future__ import annotations

import re

from ansible.errors import AnsibleActionFail

from ansible_collections.mlops.mlflow.plugins.modules import database_login
from ansible_collections.mlops.mlflow.plugins.plugin_utils import logins
from ansible_collections.mlops.mlflow.plugins.plugin_utils.service_action import ServiceAction

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")


class ActionModule(ServiceAction):
    """Runs SQL statements in the database's pod."""

    SPEC = database_login.SPEC

    def through(self, engine, options, task_vars):
        name, password = options["name"], options["password"] or "x"
        if not NAME.fullmatch(name) or not name.startswith(options["owner"] + "_"):
            raise AnsibleActionFail(f"name is {name!r}; it must begin with {options['owner']}_ and have letters, "
                                    f"digits and underscores only.")
        if "\\" in password or not password.isprintable():
            raise AnsibleActionFail("password holds a backslash or a control character; choose one without.")

        def execute(argv, statements):
            return engine.execute(options["service"], argv, statements)

        login = logins.DIALECTS[options["dialect"]](execute, options["database"], options["owner"])
        if not options["exclusive"]:
            if not self._task.check_mode:
                login.create(name, options["password"])
            return {"changed": True}
        others = login.others(name)
        if not self._task.check_mode:
            login.end(others)
        return {"changed": True, "ended": [options["owner"], *others]}
