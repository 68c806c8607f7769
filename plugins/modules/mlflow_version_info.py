#!/usr/bin/python
# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: mlflow_version_info
short_description: Get the versions of MLflow that can be installed, and the one that runs
version_added: 0.1.0
author: mlops.mlflow contributors (@mlops)
description:
  - Lists the versions of MLflow that can be installed, newest first, and names the latest stable one.
  - A version counts only if it can really be installed, that is, if C(mlflow-skinny) is there in the same version and
    both fit the Python version. Pre-releases and yanked files do not count.
  - Without access to the index it does not fail; RV(online) is V(false), and the latest version is O(pinned).
requirements:
  - packaging
options:
  source:
    description: Source of versions. A release on GitHub counts only if the package index has it, too.
    type: str
    choices: [index, github]
    default: index
  index_url:
    description:
      - URL of a Python package index (simple repository API). Left out, E(PIP_INDEX_URL), then
        V(https://pypi.org/simple).
    type: str
  github_url:
    description: URL that lists releases as GitHub's API does.
    type: str
    default: https://api.github.com/repos/mlflow/mlflow/releases?per_page=100
  python_version:
    description: Python version that MLflow is to run on.
    type: str
    default: "3.11"
  pinned:
    description: Version to return when the source does not answer.
    type: str
  limit:
    description: How many versions to list.
    type: int
    default: 20
  url:
    description: URL of a running server, with O(engine=none), to get the version that runs.
    type: str
  username:
    description: User for basic authentication at the server; any user may ask for its version.
    type: str
  password:
    description: Password for basic authentication at the server.
    type: str
  timeout:
    description: Longest time to wait for one answer, in seconds.
    type: int
    default: 15
attributes:
  check_mode:
    support: full
    description: Changes nothing in any mode.
  diff_mode:
    support: none
    description: There is nothing to show.
  platform:
    support: full
    description: Where Python runs.
    platforms: posix
extends_documentation_fragment:
  - mlops.mlflow.engine
  - mlops.mlflow.server
  - ansible.builtin.action_common_attributes
"""

EXAMPLES = r"""
- name: What is new
  mlops.mlflow.mlflow_version_info:
    url: http://127.0.0.1:5000
    pinned: 3.17.2
  register: versions

- name: Show that there is a newer version
  ansible.builtin.debug:
    msg: "{{ versions.installed }} runs, {{ versions.latest }} is there"
"""

RETURN = r"""
available:
  description: Versions that can be installed, newest first.
  type: list
  elements: str
  returned: success
latest:
  description: The newest of them, or O(pinned) when the source did not answer.
  type: str
  returned: success
installed:
  description: Version of the running server; none when no server was named or it did not answer.
  type: str
  returned: success
online:
  description: Whether the source answered.
  type: bool
  returned: success
source:
  description: Where O(ignore:latest) comes from, V(index), V(github) or V(pinned).
  type: str
  returned: success
message:
  description: What could not be looked up, and why; empty when all was.
  type: str
  returned: success
"""

import os

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.mlops.mlflow.plugins.module_utils import mlflow_api, versions
from ansible_collections.mlops.mlflow.plugins.module_utils.options import (
    SERVER, SERVER_EXCLUSIVE, SERVER_REQUIRED_BY, need_no_engine)


def installed(params):
    """Version of the running server, or None when none is named."""
    if not params["url"]:
        return None
    return mlflow_api.version({**params, "ca": params["ca_certificate"]})


def look(params):
    """What the module returns."""
    result = {"changed": False, "available": [], "latest": params["pinned"], "installed": None, "online": False,
              "source": "pinned",
              "message": ""}
    messages = []
    try:
        result["installed"] = installed(params)
    except mlflow_api.ApiError as error:
        messages.append(f"The version of the server cannot be read: {error}.")
    index = params["index_url"] or os.environ.get("PIP_INDEX_URL") or versions.INDEX
    releases = params["github_url"] if params["source"] == "github" else ""
    try:
        result["available"] = versions.available(index, params["python_version"], releases,
                                                 params["timeout"])[:params["limit"]]
    except versions.VersionsError as error:
        messages.append(f"{error}; the pinned one, {params['pinned']}, is named instead.")
    else:
        result.update(online=True)
        if result["available"]:
            result.update(latest=result["available"][0], source=params["source"])
    result["message"] = " ".join(messages)
    return result


SPEC = {
    "argument_spec": {
        **SERVER, "username": {"type": "str"}, "password": {"type": "str", "no_log": True},
        "source": {"type": "str", "choices": ["index", "github"], "default": "index"},
        "index_url": {"type": "str"},
        "github_url": {"type": "str", "default": versions.RELEASES},
        "python_version": {"type": "str", "default": "3.11"}, "pinned": {"type": "str"},
        "limit": {"type": "int", "default": 20}, "timeout": {"type": "int", "default": 15},
    },
    "required_together": [("username", "password")],
    "mutually_exclusive": [("password", "token", "secret"), *SERVER_EXCLUSIVE],
    "required_by": SERVER_REQUIRED_BY,
}


def main():
    module = AnsibleModule(**SPEC, supports_check_mode=True)
    need_no_engine(module)
    if not versions.HAS_PACKAGING:
        module.fail_json(msg=missing_required_lib("packaging"))
    module.exit_json(**look(module.params))


if __name__ == "__main__":
    main()
