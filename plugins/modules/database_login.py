#!/usr/bin/python
# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: database_login
short_description: Give a database that the collection runs another login, or leave it only one
version_added: 0.1.0
author: mlops.mlflow contributors (@mlops)
description:
  - Makes a login that may do what O(owner) may, so that a server can change from one to the other without a pause.
  - With O(exclusive), ends all others that this module made, and gives O(owner) a password that nobody knows.
  - Works from inside the database's own pod, as its administrator. C(playbooks/rotate.yml) does both, around a rolling update.
options:
  dialect:
    description: Kind of database.
    type: str
    choices: [postgresql, mysql]
    required: true
  database:
    description: Name of the database.
    type: str
    required: true
  owner:
    description: User that owns the database. Names of further logins begin with it.
    type: str
    required: true
  name:
    description: Name of the login. It must begin with O(owner) and an underscore.
    type: str
    required: true
  password:
    description: Password of the login. Required unless O(exclusive).
    type: str
  exclusive:
    description: Whether to end every other login.
    type: bool
    default: false
extends_documentation_fragment:
  - mlops.mlflow.reach
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
    description: Says what it would do.
  diff_mode:
    support: none
    description: There is nothing to show but secrets.
  platform:
    support: full
    description: Wherever Python runs.
    platforms: posix
"""

EXAMPLES = r"""
- name: Another login for the database of an instance
  mlops.mlflow.database_login:
    engine: kubernetes
    namespace: team-a
    service: team-a-database
    dialect: postgresql
    database: mlflow
    owner: mlflow
    name: mlflow_2
    password: "{{ new_password }}"
"""

RETURN = r"""
ended:
  description: Logins that are no more.
  type: list
  elements: str
  returned: with O(exclusive)
"""

import re

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mlops.mlflow.plugins.module_utils import reach

NAME = re.compile(r"^[A-Za-z][A-Za-z0-9_]{0,62}$")


class Postgresql:
    """Through the socket of the pod, which lets its administrator in without a password."""

    def __init__(self, way, params):
        self.way, self.database, self.owner = way, params["database"], params["owner"]

    def run(self, statements):
        argv = ["psql", "--quiet", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1", f"--username={self.owner}", f"--dbname={self.database}"]
        return self.way.execute(argv, statements)

    def others(self, name):
        """Logins that are members of the owner."""
        names = self.run(f"SELECT m.rolname FROM pg_auth_members a JOIN pg_roles m ON m.oid = a.member JOIN pg_roles o ON o.oid = a.roleid "
                         f"WHERE o.rolname = {text(self.owner)} AND m.rolname LIKE {text(self.owner + '!_%')} ESCAPE '!';").split()
        return [other for other in names if other != name]

    def make(self, name, password):
        # As the owner, so that what the login makes is the owner's.
        self.run(f'CREATE ROLE "{name}" LOGIN PASSWORD {text(password)} IN ROLE "{self.owner}";\n'
                 f'ALTER ROLE "{name}" SET role TO "{self.owner}";\n')

    def end(self, names):
        self.run(f'ALTER ROLE "{self.owner}" PASSWORD NULL;\n' + "".join(
            f'ALTER ROLE "{name}" NOLOGIN;\nSELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = {text(name)};\n'
            f'DROP ROLE "{name}";\n' for name in names))


class Mysql:
    """As root, whose password the pod has in its environment."""

    ROOT = ('client=$(command -v mariadb || command -v mysql); '
            'MYSQL_PWD=${MARIADB_ROOT_PASSWORD:-${MYSQL_ROOT_PASSWORD:-}} exec "$client" --user=root --batch --skip-column-names')

    def __init__(self, way, params):
        self.way, self.database, self.owner = way, params["database"], params["owner"]

    def run(self, statements):
        return self.way.execute(["sh", "-c", self.ROOT], statements)

    def others(self, name):
        names = self.run(f"SELECT User FROM mysql.user WHERE User LIKE {text(self.owner + '!_%')} ESCAPE '!';").split()
        return [other for other in names if other != name]

    def make(self, name, password):
        self.run(f"CREATE USER {text(name)}@'%' IDENTIFIED BY {text(password)};\n"
                 f"GRANT ALL ON `{self.database}`.* TO {text(name)}@'%';\n")

    def end(self, names):
        self.run(f"ALTER USER {text(self.owner)}@'%' ACCOUNT LOCK;\n" + "".join(f"DROP USER {text(name)}@'%';\n" for name in names))


def text(value):
    """A string of SQL; what it is used for is checked to have neither backslash nor control characters."""
    return "'" + value.replace("'", "''") + "'"


def main():
    module = AnsibleModule(
        argument_spec={
            **reach.OPTIONS,
            "dialect": {"type": "str", "choices": ["postgresql", "mysql"], "required": True},
            "database": {"type": "str", "required": True}, "owner": {"type": "str", "required": True},
            "name": {"type": "str", "required": True}, "password": {"type": "str", "no_log": True},
            "exclusive": {"type": "bool", "default": False},
        },
        required_if=[("exclusive", False, ("password",))],
        supports_check_mode=True,
    )
    params = module.params
    if not NAME.match(params["name"]) or not params["name"].startswith(params["owner"] + "_"):
        module.fail_json(msg=f"name is {params['name']!r}; it must begin with {params['owner']}_ and have letters, digits and underscores only.")
    if "\\" in (params["password"] or "") or not (params["password"] or "x").isprintable():
        module.fail_json(msg="password holds a backslash or a control character; choose one without.")
    try:
        way = reach.reach(params)
        if not way:
            module.fail_json(msg="engine is none, and the work is done from inside the database's pod; name the engine that runs it.")
        login = {"postgresql": Postgresql, "mysql": Mysql}[params["dialect"]](way, params)
        if not params["exclusive"]:
            if not module.check_mode:
                login.make(params["name"], params["password"])
            module.exit_json(changed=True)
        others = login.others(params["name"])
        if not module.check_mode:
            login.end(others)
        module.exit_json(changed=True, ended=[params["owner"], *others])
    except reach.ReachError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
