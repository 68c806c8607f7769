#!/usr/bin/python
# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: database_login
short_description: Create a login of a database that the collection deploys, or drop all others
version_added: 0.1.0
author: mlops.mlflow contributors (@mlops)
description:
  - Creates a login with the permissions of O(owner), so that a server can change from one to the other without a pause.
  - With O(exclusive), drops all others that this module created, and makes O(owner) unable to log in (in PostgreSQL its
    password is removed, in MariaDB and MySQL its account locked).
  - Works from inside the database's own pod, as its administrator. C(playbooks/rotate.yml) does both, around a rolling
    update.
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
    description: Whether to drop every other login.
    type: bool
    default: false
extends_documentation_fragment:
  - mlops.mlflow.engine
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
    description: Changes nothing and returns what would change.
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
  description: Logins that can no longer be used.
  type: list
  elements: str
  returned: with O(exclusive)
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mlops.mlflow.plugins.module_utils.options import ENGINE

SPEC = {
    "argument_spec": {
        **ENGINE,
        "dialect": {"type": "str", "choices": ["postgresql", "mysql"], "required": True},
        "database": {"type": "str", "required": True}, "owner": {"type": "str", "required": True},
        "name": {"type": "str", "required": True}, "password": {"type": "str", "no_log": True},
        "exclusive": {"type": "bool", "default": False},
    },
    "required_if": [("exclusive", False, ("password",))],
}


def main():
    module = AnsibleModule(**SPEC, supports_check_mode=True)
    module.fail_json(msg="engine is none, and the statements run in the database's pod; name the engine that runs it.")


if __name__ == "__main__":
    main()
