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
  - MLflow has no tokens for machines. A service account is a user of its own, without O(admin), with a long generated password that
    clients take from E(MLFLOW_TRACKING_USERNAME) and E(MLFLOW_TRACKING_PASSWORD); what it may is said by
    M(mlops.mlflow.mlflow_permission).
  - A user may be its own O(login_username), to change its password. Once that is done, a run that still logs in by the old one finds
    O(password) right and changes nothing, with O(update_password=always).
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
      - Whether the user is an administrator, who may do everything. Left out, a new user is none and an existing one stays as it is.
    type: bool
  state:
    description: Whether the user is to exist. With a user the permissions granted to it go, too; what it logged stays.
    type: str
    choices: [present, absent]
    default: present
  update_password:
    description:
      - Whether an existing user gets O(password). V(always) tries first whether it is the password already, by logging in with it.
    type: str
    choices: [always, on_create]
    default: on_create
attributes:
  check_mode:
    support: full
    description: Changes nothing and tells what would change.
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
  - mlops.mlflow.reach
  - mlops.mlflow.server
  - mlops.mlflow.server.login
  - ansible.builtin.action_common_attributes
"""

EXAMPLES = r"""
- name: A person
  mlops.mlflow.mlflow_user:
    url: https://mlflow.example.com
    login_username: admin
    login_password: "{{ vaulted_admin_password }}"
    username: ada
    password: "{{ vaulted_first_password }}"

- name: A service account, with the password that the inventory says
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
from ansible_collections.mlops.mlflow.plugins.module_utils import mlflow_api, reach
from ansible_collections.mlops.mlflow.plugins.module_utils.mlflow_api import USERS, ApiError

SHORTEST = 12


def refuse(params):
    """Raise ApiError when MLflow would refuse the options, or take what nobody could log in with."""
    username, password = params["username"], params["password"]
    if not username or password is not None and (":" in username or not username.isascii()):
        raise ApiError(f"username {username!r} cannot log in; it must be ASCII, without colon, and not empty.")
    if password is not None and len(password) < SHORTEST:
        raise ApiError(f"password of {username} is {'too short' if password else 'empty'}; MLflow wants at least {SHORTEST} characters.")
    if password is not None and not password.isascii():
        raise ApiError(f"password of {username} has characters outside ASCII; MLflow lets them in only at some of its paths.")


def log_in(server, params):
    """The server with a login that works, and the administrator that it takes it for."""
    try:
        return server, mlflow_api.administrator(server)
    except ApiError as error:
        rotates = (params["state"] == "present" and params["update_password"] == "always" and params["password"]
                   and params["username"] == server.username)
        if error.status != 401 or not rotates:
            raise
        # An earlier run may have changed the very password that this one logs in with.
        server = server.log_in_as(server.username, params["password"])
        return server, mlflow_api.administrator(server)


def is_password(server, username, password):
    """Whether the server lets a user in with a password."""
    try:
        server.log_in_as(username, password).call(USERS + "current")
    except ApiError as error:
        if error.status == 401:
            return False
        raise
    return True


def manage(server, params, check_mode):
    """Make the user what the options say.

    Returns:
        What the module returns.
    """
    username, password = params["username"], params["password"]
    if params["state"] == "present":
        refuse(params)
    server, myself = log_in(server, params)
    before = mlflow_api.find_user(server, username)
    if params["state"] == "absent":
        return remove(server, username, before, myself, check_mode)
    if before is None:
        return create(server, params, check_mode)
    after = {**before, "is_admin": before["is_admin"] if params["admin"] is None else params["admin"]}
    if username == myself["username"] and not after["is_admin"]:
        raise ApiError(f"User {username} is the one that this task logs in as; it stays an administrator, log in as another to change that.")
    new_password = params["update_password"] == "always" and password is not None and not is_password(server, username, password)
    if not check_mode:
        if after != before:
            server.call(USERS + "update-admin", {"username": username, "is_admin": after["is_admin"]}, "PATCH")
        if new_password:
            proof = {"current_password": server.password} if username == myself["username"] else {}
            server.call(USERS + "update-password", {"username": username, "password": password, **proof}, "PATCH")
    return {
        "changed": after != before or new_password, "user": after, "password_changed": new_password,
        "diff": {"before": {**before, "password": "the old one" if new_password else "kept"},
                 "after": {**after, "password": "the new one" if new_password else "kept"}},
    }


def create(server, params, check_mode):
    """Make a user that does not exist."""
    username, admin = params["username"], bool(params["admin"])
    if not params["password"]:
        raise ApiError(f"User {username} does not exist yet, and password is empty; a new user needs one.")
    user = {"id": None, "username": username, "is_admin": admin}
    if not check_mode:
        user = server.call(USERS + "create", {"username": username, "password": params["password"]})["user"]
        if admin:
            server.call(USERS + "update-admin", {"username": username, "is_admin": True}, "PATCH")
            user["is_admin"] = True
    return {"changed": True, "user": user, "password_changed": False, "diff": {"before": {}, "after": user}}


def remove(server, username, before, myself, check_mode):
    """Remove a user, unless it is the one who would remove it."""
    if username == myself["username"]:
        raise ApiError(f"User {username} is the one that this task logs in as; log in as another administrator to remove it.")
    if before and not check_mode:
        server.call(USERS + "delete", {"username": username}, "DELETE")
    return {"changed": bool(before), "password_changed": False, "diff": {"before": before or {}, "after": {}}}


def main():
    module = AnsibleModule(
        argument_spec={
            **mlflow_api.OPTIONS, **mlflow_api.LOGIN,
            "username": {"type": "str", "required": True}, "password": {"type": "str", "no_log": True}, "admin": {"type": "bool"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "update_password": {"type": "str", "choices": ["always", "on_create"], "default": "on_create", "no_log": False},
        },
        required_together=mlflow_api.LOGIN_TOGETHER,
        mutually_exclusive=mlflow_api.LOGIN_EXCLUSIVE,
        supports_check_mode=True,
    )
    params = module.params
    try:
        with mlflow_api.connected(params, params["login_username"], params["login_password"]) as server:
            module.exit_json(**manage(server, params, module.check_mode))
    except (ApiError, reach.ReachError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
