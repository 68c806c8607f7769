# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Managing the users of an MLflow server. Documented in plugins/modules/mlflow_user.py.

Standard library only: this file also runs in an instance's pods (see plugin_utils/program.py).
"""

from __future__ import annotations

from ansible_collections.mlops.mlflow.plugins.module_utils import mlflow_api
from ansible_collections.mlops.mlflow.plugins.module_utils.mlflow_api import USERS, ApiError

SHORTEST = 12


def refuse(params):
    """Raise ApiError when MLflow would refuse the options, or take what nobody could log in with."""
    username, password = params["username"], params["password"]
    if not username or password is not None and (":" in username or not username.isascii()):
        raise ApiError(f"username {username!r} cannot log in; it must be ASCII, without colon, and not empty.")
    if password is not None and len(password) < SHORTEST:
        raise ApiError(f"password of {username} is {'too short' if password else 'empty'}; MLflow wants at least "
                       f"{SHORTEST} characters.")
    if password is not None and not password.isascii():
        raise ApiError(f"password of {username} has characters outside ASCII; MLflow lets them in only at some of its "
                       f"paths.")


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
        raise ApiError(f"User {username} is the one that this task logs in as; it stays an administrator, log in as "
                       f"another to change that.")
    always = params["update_password"] == "always" and password is not None
    new_password = always and not is_password(server, username, password)
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
        raise ApiError(f"User {username} is the one that this task logs in as; log in as another administrator to "
                       f"remove it.")
    if before and not check_mode:
        server.call(USERS + "delete", {"username": username}, "DELETE")
    return {"changed": bool(before), "password_changed": False, "diff": {"before": before or {}, "after": {}}}


def run(parameters):
    """Manage a user of the server that the parameters name.

    Args:
        parameters: options of module mlflow_user, what ``mlflow_api.for_administrator`` takes, and ``check_mode``.

    Returns:
        What the module returns, or ``failed`` and ``msg``.
    """
    try:
        return manage(mlflow_api.for_administrator(parameters), parameters, parameters["check_mode"])
    except ApiError as error:
        return {"failed": True, "msg": str(error)}
