#!/usr/bin/python
# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# The action plugin of the same name does the work; this file documents it.

from __future__ import annotations

DOCUMENTATION = r"""
module: instance_restart
short_description: Restart the pods of an MLflow instance one after the other
version_added: 0.1.0
author: mlops.mlflow contributors (@mlops)
description:
  - Restarts the pods of components of the instance that the variables of the inventory host describe, and waits until
    they are ready, for up to C(mlflow_wait_timeout) seconds. C(playbooks/restart.yml) uses it.
  - On Kubernetes it is a rollout as by C(kubectl rollout restart), during which the server answers. On podman one pod
    after the other is restarted; with a single pod nothing answers for some seconds.
options:
  components:
    description: Roles of the components to restart, in the order of their needs.
    type: list
    elements: str
    default: [mlflow_server]
seealso:
  - module: mlops.mlflow.apply
attributes:
  check_mode:
    support: full
    description: Nothing is restarted.
extends_documentation_fragment:
  - mlops.mlflow.engine.action
  - ansible.builtin.action_common_attributes
"""

EXAMPLES = r"""
- name: Restart the server
  mlops.mlflow.instance_restart:

- name: Restart the proxy and the server
  mlops.mlflow.instance_restart:
    components: [mlflow_server, ingress]
"""

RETURN = r"""
restarted:
  description: The workloads that were restarted.
  type: list
  elements: str
  returned: success
  sample: [Deployment mlflow-server]
"""
