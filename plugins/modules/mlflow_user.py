#!/usr/bin/python
# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: mlflow_user
short_description: Manage the users of an MLflow server
version_added: 0.1.0
author: mlops.mlflow contributors (@mlops)
description:
  - Creates, changes and removes users of a server that runs with C(--app-name basic-auth).
  - MLflow has no tokens for machines. A service account is a user of its own, without O(admin), with a long generated
    password that clients take from E(MLFLOW_TRACKING_USERNAME) and E(MLFLOW_TRACKING_PASSWORD).
    M(mlops.mlflow.mlflow_permission) manages its permissions.
  - A user may be its own O(login_username), to change its password. Once that is done, a run that still logs in by the
    old one finds O(password) right and changes nothing, with O(update_password=always).
requirements:
  - A server of MLflow 3.17 or newer.
options:
  username:
    description: Name of the user. Without colon and in ASCII, or HTTP's basic authentication could not carry it.
    type: str
    required: true
  password:
    description:
      - Password of the user, of at least 12 characters in ASCII. Needed for a user that does not exist yet.
      - Other characters are refused, since MLflow lets them in at some of its paths but not at those of artifacts.
    type: str
  admin:
    description:
      - Whether the user is an administrator, who may do everything. Left out, a new user is none and an existing one
        stays as it is.
    type: bool
  state:
    description: Whether the user is to exist. With a user the permissions granted to it go, too; what it logged stays.
    type: str
    choices: [present, absent]
    default: present
  update_password:
    description:
      - Whether an existing user gets O(password). V(always) tries first whether it is the password already, by logging
        in with it.
    type: str
    choices: [always, on_create]
    default: on_create
attributes:
  check_mode:
    support: full
    description: Changes nothing and returns what would change.
  diff_mode:
    support: full
    description: Shows the user before and after, never a password.
  platform:
    support: full
    description: Where Python runs.
    platforms: posix
seealso:
  - module: mlops.mlflow.mlflow_permission
extends_documentation_fragment:
  - mlops.mlflow.engine
  - mlops.mlflow.server
  - mlops.mlflow.server.login
  - ansible.builtin.action_common_attributes
"""

EXAMPLES = r"""
- name: Create a user
  mlops.mlflow.mlflow_user:
    url: https://mlflow.example.com
    login_username: admin
    login_password: "{{ vaulted_admin_password }}"
    username: ada
    password: "{{ vaulted_first_password }}"

- name: Create a service account with the password of the inventory
  mlops.mlflow.mlflow_user:
    engine: kubernetes
    namespace: team-a
    service: team-a-server
    login_username: admin
    login_password: "{{ vaulted_admin_password }}"
    username: training
    password: "{{ vaulted_training_password }}"
    update_password: always
    admin: false

- name: The administrator's own password
  mlops.mlflow.mlflow_user:
    url: https://mlflow.example.com
    login_username: admin
    login_password: "{{ vaulted_old_password }}"
    username: admin
    password: "{{ vaulted_new_password }}"
    update_password: always

- name: Nobody
  mlops.mlflow.mlflow_user:
    url: https://mlflow.example.com
    login_username: admin
    login_password: "{{ vaulted_admin_password }}"
    username: ada
    state: absent
"""

RETURN = r"""
user:
  description: The user as it is now; in check mode as it would be.
  type: dict
  returned: with O(state=present)
  contains:
    id:
      description: Number that the server gave the user; none for one that check mode would create.
      type: int
    username:
      description: Name of the user.
      type: str
    is_admin:
      description: Whether the user is an administrator.
      type: bool
password_changed:
  description: Whether an existing user got another password.
  type: bool
  returned: success
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mlops.mlflow.plugins.module_utils import users
from ansible_collections.mlops.mlflow.plugins.module_utils.options import (
    LOGIN, LOGIN_EXCLUSIVE, LOGIN_TOGETHER, SERVER, SERVER_REQUIRED_BY, need_no_engine, run_and_exit)

SPEC = {
    "argument_spec": {
        **SERVER, **LOGIN,
        "username": {"type": "str", "required": True}, "password": {"type": "str", "no_log": True},
        "admin": {"type": "bool"},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        "update_password": {"type": "str", "choices": ["always", "on_create"], "default": "on_create", "no_log": False},
    },
    "required_together": LOGIN_TOGETHER,
    "mutually_exclusive": LOGIN_EXCLUSIVE,
    "required_by": SERVER_REQUIRED_BY,
}


def main():
    module = AnsibleModule(**SPEC, supports_check_mode=True)
    need_no_engine(module)
    run_and_exit(module, users.run)


if __name__ == "__main__":
    main()
