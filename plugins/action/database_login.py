# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Manages the logins of a database that the collection runs. Documented in plugins/modules/database_login.py."""

from __future__ import annotations

import re

from ansible.errors import AnsibleActionFail

from ansible_collections.mlops.mlflow.plugins.modules import database_login
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

        login = {"postgresql": Postgresql, "mysql": Mysql}[options["dialect"]](execute, options)
        if not options["exclusive"]:
            if not self._task.check_mode:
                login.create(name, options["password"])
            return {"changed": True}
        others = login.others(name)
        if not self._task.check_mode:
            login.end(others)
        return {"changed": True, "ended": [options["owner"], *others]}


class Postgresql:
    """By the socket in the pod, at which the administrator needs no password."""

    def __init__(self, execute, options):
        self.execute, self.database, self.owner = execute, options["database"], options["owner"]

    def run(self, statements):
        argv = ["psql", "--quiet", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1", f"--username={self.owner}",
                f"--dbname={self.database}"]
        return self.execute(argv, statements)

    def others(self, name):
        """Logins that are members of the owner."""
        names = self.run(f"SELECT m.rolname FROM pg_auth_members a JOIN pg_roles m ON m.oid = a.member "
                         f"JOIN pg_roles o ON o.oid = a.roleid WHERE o.rolname = {text(self.owner)} AND m.rolname "
                         f"LIKE {text(self.owner + '!_%')} ESCAPE '!';").split()
        return [other for other in names if other != name]

    def create(self, name, password):
        # As the owner, so that what the login creates is the owner's.
        self.run(f'CREATE ROLE "{name}" LOGIN PASSWORD {text(password)} IN ROLE "{self.owner}";\n'
                 f'ALTER ROLE "{name}" SET role TO "{self.owner}";\n')

    def end(self, names):
        self.run(f'ALTER ROLE "{self.owner}" PASSWORD NULL;\n' + "".join(
            f'ALTER ROLE "{name}" NOLOGIN;\nSELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '
            f'{text(name)};\n'
            f'DROP ROLE "{name}";\n' for name in names))


class Mysql:
    """As root, whose password the pod has in its environment."""

    ROOT = ('client=$(command -v mariadb || command -v mysql); '
            'MYSQL_PWD=${MARIADB_ROOT_PASSWORD:-${MYSQL_ROOT_PASSWORD:-}} exec "$client" --user=root --batch '
            '--skip-column-names')

    def __init__(self, execute, options):
        self.execute, self.database, self.owner = execute, options["database"], options["owner"]

    def run(self, statements):
        return self.execute(["sh", "-c", self.ROOT], statements)

    def others(self, name):
        names = self.run(f"SELECT User FROM mysql.user WHERE User LIKE {text(self.owner + '!_%')} ESCAPE '!';").split()
        return [other for other in names if other != name]

    def create(self, name, password):
        self.run(f"CREATE USER {text(name)}@'%' IDENTIFIED BY {text(password)};\n"
                 f"GRANT ALL ON `{self.database}`.* TO {text(name)}@'%';\n")

    def end(self, names):
        self.run(f"ALTER USER {text(self.owner)}@'%' ACCOUNT LOCK;\n"
                 + "".join(f"DROP USER {text(name)}@'%';\n" for name in names))


def text(value):
    """A string literal of SQL; the value is checked to have neither backslash nor control characters."""
    return "'" + value.replace("'", "''") + "'"
