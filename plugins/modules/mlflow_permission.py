#!/usr/bin/python
# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: mlflow_permission
short_description: Manage the permissions of a user of an MLflow server
version_added: 0.1.0
author: mlops.mlflow contributors (@mlops)
description:
  - Grants a user a permission on one thing, or on every thing of a kind, changes it, and takes it back. The server must
    run with C(--app-name basic-auth).
  - What a user may in the end is the highest of what is granted on the thing, on every thing of its kind, by roles, and
    of the server's C(default_permission). So taking a permission back does not always deny; V(DENY) does.
  - Administrators may do everything, whatever is granted, and who creates a thing has V(MANAGE) on it. Both need no
    task.
  - Left out are roles, and with them the membership in workspaces, which MLflow grants through roles only. On a server
    with workspaces the module grants in the one named C(default).
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
      - What is inside of other things - runs, traces, assessments, logged models, review queues, versions - is granted
        in this way only. It goes before what is granted on the thing around it, such as V(DENY) on every V(trace) for
        who may read the experiments.
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
      - What the user may. V(USE) is to read and to call, as an endpoint of the gateway; V(EDIT) is to write as well;
        V(MANAGE) is to delete and to grant as well; V(DENY) is nothing, whatever else is granted. Needed with
        O(state=present).
      - Since MLflow 3.17 does not grant C(NO_PERMISSIONS) any more, it is no choice; V(DENY) is in its place.
    type: str
    choices: [READ, USE, EDIT, MANAGE, DENY]
  state:
    description:
      - V(absent) takes back what is granted on the thing, whichever permission it is. A user or thing that does not
        exist has none.
    type: str
    choices: [present, absent]
    default: present
attributes:
  check_mode:
    support: full
    description: Changes nothing and returns what would change.
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
  - mlops.mlflow.engine
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

- name: Remove a permission, so that the default one applies
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

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mlops.mlflow.plugins.module_utils import permissions
from ansible_collections.mlops.mlflow.plugins.module_utils.options import (
    LOGIN, LOGIN_EXCLUSIVE, LOGIN_TOGETHER, SERVER, SERVER_REQUIRED_BY, need_no_engine, run_and_exit)
from ansible_collections.mlops.mlflow.plugins.module_utils.permissions import THINGS

KINDS = ["assessment", "experiment", "gateway_endpoint", "gateway_model_definition", "gateway_secret", "logged_model",
         "mcp_server",
         "mcp_server_version", "prompt", "prompt_version", "registered_model", "registered_model_version",
         "review_queue", "run", "scorer",
         "scorer_version", "trace"]
SPEC = {
    "argument_spec": {
        **SERVER, **LOGIN,
        "username": {"type": "str", "required": True}, "experiment": {"type": "str"}, "experiment_id": {"type": "str"},
        "scorer": {"type": "str"}, "registered_model": {"type": "str"}, "prompt": {"type": "str"},
        "gateway_endpoint": {"type": "str"}, "gateway_model_definition": {"type": "str"},
        "gateway_secret": {"type": "str", "no_log": False}, "mcp_server": {"type": "str"},
        "every": {"type": "str", "choices": KINDS},
        "permission": {"type": "str", "choices": ["READ", "USE", "EDIT", "MANAGE", "DENY"]},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    },
    "required_if": [("state", "present", ("permission",))],
    "required_one_of": [THINGS],
    "required_together": LOGIN_TOGETHER,
    "mutually_exclusive": [*LOGIN_EXCLUSIVE, THINGS,
                           *(("scorer", o) for o in THINGS if not o.startswith("experiment"))],
    "required_by": SERVER_REQUIRED_BY,
}


def main():
    module = AnsibleModule(**SPEC, supports_check_mode=True)
    need_no_engine(module)
    run_and_exit(module, permissions.run)


if __name__ == "__main__":
    main()
