# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Managing what users of an MLflow server may do. Documented in plugins/modules/mlflow_permission.py.

Standard library only: this file also runs in an instance's pods (see plugin_utils/program.py).
"""

from __future__ import annotations

from urllib.parse import quote

from ansible_collections.mlops.mlflow.plugins.module_utils import mlflow_api
from ansible_collections.mlops.mlflow.plugins.module_utils.mlflow_api import ApiError

GRANTS = "/api/3.0/mlflow/users/permissions/"
ROLES = "/api/3.0/mlflow/"
THINGS = ["experiment", "experiment_id", "registered_model", "prompt", "gateway_endpoint", "gateway_model_definition",
          "gateway_secret", "mcp_server", "every"]


class Things:
    """The things of a server by their names; each method gives the kind and identifier of MLflow's grants."""

    def __init__(self, server, params):
        self.server, self.params = server, params

    def find(self):
        """What the options name; raises ApiError when there is no such thing."""
        option = next(o for o in THINGS if self.params[o] is not None)
        return getattr(self, option)(self.params[option])

    def every(self, kind):
        return kind, "*"

    def experiment(self, name):
        return self._experiment(self._get(f"Experiment {name}", "/api/2.0/mlflow/experiments/get-by-name",
                                          experiment_name=name))

    def experiment_id(self, number):
        return self._experiment(self._get(f"Experiment {number}", "/api/2.0/mlflow/experiments/get",
                                          experiment_id=number))

    def _experiment(self, answer):
        found, scorer = answer["experiment"], self.params["scorer"]
        if found["lifecycle_stage"] == "deleted" and self.params["state"] == "present":
            raise ApiError(f"Experiment {found['name']} on {self.server.name} is deleted; restore it first.")
        if scorer is None:
            return "experiment", found["experiment_id"]
        self._get(f"Scorer {scorer} of experiment {found['name']}", "/api/3.0/mlflow/scorers/get",
                  experiment_id=found["experiment_id"], name=scorer)
        return "scorer", f"{found['experiment_id']}/{quote(scorer, safe='')}"

    def registered_model(self, name):
        return "registered_model", self._model("Registered model", name, is_prompt=False)

    def prompt(self, name):
        return "prompt", self._model("Prompt", name, is_prompt=True)

    def _model(self, what, name, is_prompt):
        """MLflow keeps prompts as registered models with a tag, yet takes a grant on one for none on the other."""
        tags = self._get(f"{what} {name}", "/api/2.0/mlflow/registered-models/get",
                         name=name)["registered_model"].get("tags", [])
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
            server.call(ROLES + "roles/permissions/update", {"role_permission_id": found["id"], "permission": wanted},
                        "PATCH")
        else:
            server.call(GRANTS + "grant", {**grant, "permission": wanted})
    return {"changed": before != wanted, "grant": {**grant, "permission": wanted},
            "diff": {"before": {**grant, "permission": before}, "after": {**grant, "permission": wanted}}}


def run(parameters):
    """Manage a permission at the server that the parameters name.

    Args:
        parameters: options of module mlflow_permission, what ``mlflow_api.for_administrator`` takes, and
            ``check_mode``.

    Returns:
        What the module returns, or ``failed`` and ``msg``.
    """
    try:
        return manage(mlflow_api.for_administrator(parameters), parameters, parameters["check_mode"])
    except ApiError as error:
        return {"failed": True, "msg": str(error)}
