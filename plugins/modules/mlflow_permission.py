#!/usr/bin/python
# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: mlflow_permission
short_description: Manage what a user of an MLflow server may
version_added: 0.1.0
author: mlops.mlflow contributors (@mlops)
description:
  - Grants a user a permission on one thing, or on every thing of a kind, changes it, and takes it back. The server must run with
    C(--app-name basic-auth).
  - What a user may in the end is the highest of what is granted on the thing, on every thing of its kind, by roles, and
    of the server's C(default_permission). So taking a permission back does not always deny; V(DENY) does.
  - Administrators may do everything, whatever is granted, and who creates a thing has V(MANAGE) on it. Both need no task.
  - Left out are roles, and with them the membership in workspaces, which MLflow grants through roles only. On a server with
    workspaces the module grants in the one named C(default).
requirements:
  - A server of MLflow 3.17 or newer.
options:
  username:
    description: Name of the user.
    type: str
    required: true
  experiment:
    description: Name of an experiment.
    type: str
  experiment_id:
    description: Number of an experiment, instead of its name.
    type: str
  scorer:
    description: Name of a scorer in O(experiment) or O(experiment_id); the permission is then on the scorer alone.
    type: str
  registered_model:
    description: Name of a registered model.
    type: str
  prompt:
    description: Name of a prompt.
    type: str
  gateway_endpoint:
    description: Name of an endpoint of the AI gateway.
    type: str
  gateway_model_definition:
    description: Name of a model definition of the AI gateway.
    type: str
  gateway_secret:
    description: Name of a secret of the AI gateway.
    type: str
  mcp_server:
    description: Name of an MCP server in the registry.
    type: str
  every:
    description:
      - A kind of which the user gets the permission on every thing, also those to come.
      - What is inside of other things - runs, traces, assessments, logged models, review queues, versions - is granted in this way only.
        It goes before what is granted on the thing around it, such as V(DENY) on every V(trace) for who may read the experiments.
    type: str
    choices:
      - assessment
      - experiment
      - gateway_endpoint
      - gateway_model_definition
      - gateway_secret
      - logged_model
      - mcp_server
      - mcp_server_version
      - prompt
      - prompt_version
      - registered_model
      - registered_model_version
      - review_queue
      - run
      - scorer
      - scorer_version
      - trace
  permission:
    description:
      - What the user may. V(USE) is to read and to call, as an endpoint of the gateway; V(EDIT) is to write as well; V(MANAGE) is to
        delete and to grant as well; V(DENY) is nothing, whatever else is granted. Needed with O(state=present).
      - Since MLflow 3.17 does not grant C(NO_PERMISSIONS) any more, it is no choice; V(DENY) is in its place.
    type: str
    choices: [READ, USE, EDIT, MANAGE, DENY]
  state:
    description:
      - V(absent) takes back what is granted on the thing, whichever permission it is. A user or thing that does not exist has none.
    type: str
    choices: [present, absent]
    default: present
attributes:
  check_mode:
    support: full
    description: Changes nothing and tells what would change.
  diff_mode:
    support: full
    description: Shows the permission before and after.
  platform:
    support: full
    description: Where Python runs.
    platforms: posix
seealso:
  - module: mlops.mlflow.mlflow_user
extends_documentation_fragment:
  - mlops.mlflow.reach
  - mlops.mlflow.server
  - mlops.mlflow.server.login
  - ansible.builtin.action_common_attributes
"""

EXAMPLES = r"""
- name: A service account that logs runs
  mlops.mlflow.mlflow_permission:
    url: https://mlflow.example.com
    login_username: admin
    login_password: "{{ vaulted_admin_password }}"
    username: training
    experiment: churn
    permission: EDIT

- name: One that reads every model, those to come too
  mlops.mlflow.mlflow_permission:
    engine: podman
    namespace: team-a
    service: team-a-server
    login_username: admin
    login_password: "{{ vaulted_admin_password }}"
    username: serving
    every: registered_model
    permission: READ

- name: No longer more than everybody may
  mlops.mlflow.mlflow_permission:
    url: https://mlflow.example.com
    login_username: admin
    login_password: "{{ vaulted_admin_password }}"
    username: training
    experiment: churn
    state: absent
"""

RETURN = r"""
grant:
  description: What is granted now; in check mode what would be.
  type: dict
  returned: success
  contains:
    username:
      description: Name of the user.
      type: str
    resource_type:
      description: Kind of the thing, in MLflow's words; none when the thing does not exist.
      type: str
    resource_id:
      description: By what MLflow keeps the grant, such as the number of an experiment; V(*) with O(every).
      type: str
    permission:
      description: The permission; none when nothing is granted.
      type: str
"""

from urllib.parse import quote

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mlops.mlflow.plugins.module_utils import mlflow_api, reach
from ansible_collections.mlops.mlflow.plugins.module_utils.mlflow_api import ApiError

GRANTS = "/api/3.0/mlflow/users/permissions/"
ROLES = "/api/3.0/mlflow/"
KINDS = ["assessment", "experiment", "gateway_endpoint", "gateway_model_definition", "gateway_secret", "logged_model", "mcp_server",
         "mcp_server_version", "prompt", "prompt_version", "registered_model", "registered_model_version", "review_queue", "run", "scorer",
         "scorer_version", "trace"]
THINGS = ["experiment", "experiment_id", "registered_model", "prompt", "gateway_endpoint", "gateway_model_definition", "gateway_secret",
          "mcp_server", "every"]


class Things:
    """The things of a server by their names. Each method gives what MLflow keeps grants by, the kind and an identifier."""

    def __init__(self, server, params):
        self.server, self.params = server, params

    def find(self):
        """What the options name; raises ApiError when there is no such thing."""
        option = next(o for o in THINGS if self.params[o] is not None)
        return getattr(self, option)(self.params[option])

    def every(self, kind):
        return kind, "*"

    def experiment(self, name):
        return self._experiment(self._get(f"Experiment {name}", "/api/2.0/mlflow/experiments/get-by-name", experiment_name=name))

    def experiment_id(self, number):
        return self._experiment(self._get(f"Experiment {number}", "/api/2.0/mlflow/experiments/get", experiment_id=number))

    def _experiment(self, answer):
        found, scorer = answer["experiment"], self.params["scorer"]
        if found["lifecycle_stage"] == "deleted" and self.params["state"] == "present":
            raise ApiError(f"Experiment {found['name']} on {self.server.name} is deleted; restore it first.")
        if scorer is None:
            return "experiment", found["experiment_id"]
        self._get(f"Scorer {scorer} of experiment {found['name']}", "/api/3.0/mlflow/scorers/get", experiment_id=found["experiment_id"], name=scorer)
        return "scorer", f"{found['experiment_id']}/{quote(scorer, safe='')}"

    def registered_model(self, name):
        return "registered_model", self._model("Registered model", name, is_prompt=False)

    def prompt(self, name):
        return "prompt", self._model("Prompt", name, is_prompt=True)

    def _model(self, what, name, is_prompt):
        """MLflow keeps prompts as registered models with a tag, yet takes a grant on one for none on the other."""
        tags = self._get(f"{what} {name}", "/api/2.0/mlflow/registered-models/get", name=name)["registered_model"].get("tags", [])
        if is_prompt != any(t["key"] == "mlflow.prompt.is_prompt" and t.get("value") == "true" for t in tags):
            raise missing(f"{what} {name}", self.server, f"; it is a {'registered model' if is_prompt else 'prompt'}")
        return name

    def gateway_endpoint(self, name):
        return "gateway_endpoint", self._gateway("endpoint", name, "name", "endpoints/list", "endpoints", "endpoint_id")

    def gateway_model_definition(self, name):
        return "gateway_model_definition", self._gateway(
            "model definition", name, "name", "model-definitions/list", "model_definitions", "model_definition_id")

    def gateway_secret(self, name):
        return "gateway_secret", self._gateway("secret", name, "secret_name", "secrets/list", "secrets", "secret_id")

    def _gateway(self, what, name, name_key, path, key, id_key):
        for each in self.server.call(f"/api/3.0/mlflow/gateway/{path}").get(key, []):
            if each[name_key] == name:
                return each[id_key]
        raise missing(f"Gateway {what} {name}", self.server)

    def mcp_server(self, name):
        self._get(f"MCP server {name}", f"/api/3.0/mlflow/mcp-servers/{quote(name)}")
        return "mcp_server", name

    def _get(self, what, path, **query):
        try:
            return self.server.call(path, **query)
        except ApiError as error:
            # What cannot be a number of an experiment, or a name of an MCP server, is as good as missing.
            if error.missing or error.code == "INVALID_PARAMETER_VALUE":
                raise missing(what, self.server) from error
            raise


def missing(what, server, addition=""):
    """The error that something does not exist."""
    return ApiError(f"{what} does not exist on {server.name}{addition}.", 404, "RESOURCE_DOES_NOT_EXIST")


def granted(server, user, kind, identifier):
    """The grant that a user itself has, with its number, or None. MLflow keeps it in a role that only this user has."""
    for role in server.call(ROLES + "users/roles/list", username=user["username"])["roles"]:
        if role["name"] == f"__user_{user['id']}__" and role["workspace"] == "default":
            for each in role["permissions"]:
                if (each["resource_type"], each["resource_pattern"]) == (kind, identifier):
                    return each
    return None


def manage(server, params, check_mode):
    """Make the grant what the options say.

    Returns:
        What the module returns.
    """
    username, wanted = params["username"], params["permission"] if params["state"] == "present" else None
    mlflow_api.administrator(server)
    user = mlflow_api.find_user(server, username)
    if user is None and wanted:
        raise missing(f"User {username}", server, "; create it with mlops.mlflow.mlflow_user")
    try:
        kind, identifier = Things(server, params).find()
    except ApiError as error:
        if wanted or not error.missing:
            raise
        kind = identifier = None
    found = granted(server, user, kind, identifier) if user and kind else None
    before = found and found["permission"]
    grant = {"username": username, "resource_type": kind, "resource_id": identifier}
    if not check_mode and before != wanted:
        if not wanted:
            server.call(GRANTS + "revoke", grant)
        elif before:
            # In place: between taking back and granting again the user would have neither.
            server.call(ROLES + "roles/permissions/update", {"role_permission_id": found["id"], "permission": wanted}, "PATCH")
        else:
            server.call(GRANTS + "grant", {**grant, "permission": wanted})
    return {"changed": before != wanted, "grant": {**grant, "permission": wanted},
            "diff": {"before": {**grant, "permission": before}, "after": {**grant, "permission": wanted}}}


def main():
    module = AnsibleModule(
        argument_spec={
            **mlflow_api.OPTIONS, **mlflow_api.LOGIN,
            "username": {"type": "str", "required": True}, "experiment": {"type": "str"}, "experiment_id": {"type": "str"},
            "scorer": {"type": "str"}, "registered_model": {"type": "str"}, "prompt": {"type": "str"}, "gateway_endpoint": {"type": "str"},
            "gateway_model_definition": {"type": "str"}, "gateway_secret": {"type": "str", "no_log": False}, "mcp_server": {"type": "str"},
            "every": {"type": "str", "choices": KINDS},
            "permission": {"type": "str", "choices": ["READ", "USE", "EDIT", "MANAGE", "DENY"]},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        required_if=[("state", "present", ("permission",))],
        required_one_of=[THINGS],
        required_together=mlflow_api.LOGIN_TOGETHER,
        mutually_exclusive=[*mlflow_api.LOGIN_EXCLUSIVE, THINGS, *(("scorer", o) for o in THINGS if not o.startswith("experiment"))],
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
