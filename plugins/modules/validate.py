#!/usr/bin/python
# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# The action plugin of the same name does the work; this file documents it.

from __future__ import annotations

DOCUMENTATION = r"""
module: validate
short_description: Resolve and check the variables of an MLflow instance
version_added: 0.1.0
author: mlops.mlflow contributors (@mlops)
description:
  - Resolves the variables of the inventory host to the model of its instance. Types are converted, defaults applied,
    and derived values (URIs, names of Secrets, ports, images) computed.
  - Checks each variable against the argument specifications of all roles of this collection, and combinations of
    variables against the rules of all components. Variables of an unknown name with the prefix of a role fail.
  - Fails with one sentence for each problem. A sentence names the variable, what is wrong, and what would be right.
  - With C(mlflow_version=latest), reads from the engine the version that is recorded with the instance, or resolves it.
  - Reads the variables of the host; there are no options.
options: {}
attributes:
  check_mode:
    support: full
    description: Changes nothing in any mode.
  diff_mode:
    support: none
    description: The module returns no diff.
  platform:
    support: full
    description: Runs on the controller. Only C(mlflow_version=latest) needs access to the engine.
    platforms: posix
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
"""

EXAMPLES = r"""
- name: Check every variable
  mlops.mlflow.validate:
  register: mlflow

- name: Show the URL of the server
  ansible.builtin.debug:
    msg: "{{ mlflow.model.mlflow_server.url }}"
"""

RETURN = r"""
msg:
  description: That every variable is valid, or the problems, one sentence per line.
  type: str
  returned: always
components:
  description: Roles of the components that the tags of the run (C(--tags)) select; without tags, all.
  type: list
  elements: str
  returned: success
  sample: [object_storage, database, mlflow_server, ingress]
model:
  description:
    - The model of the instance, without secrets. Also set as the fact C(mlflow_model).
  type: dict
  returned: success
  contains:
    instance:
      description: C(name), C(namespace), C(engine), C(kubeconfig), C(context), C(version) and further properties of the
          instance.
      type: dict
    images:
      description: Images that role C(images) builds, and their build arguments.
      type: dict
    object_storage:
      description: What follows from the variables of role C(object_storage); C(endpoint) describes the store.
      type: dict
    database:
      description: What follows from the variables of role C(database); C(endpoint) describes the database.
      type: dict
    mlflow_server:
      description: What follows from the variables of role C(mlflow_server), such as C(url), C(cluster_url), C(port) and
          C(name).
      type: dict
    ingress:
      description: What follows from the variables of role C(ingress), such as C(url), C(ca_secret) and C(ca_dest).
      type: dict
"""
