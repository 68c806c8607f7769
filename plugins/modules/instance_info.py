#!/usr/bin/python
# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# The work is done by the action plugin of the same name; this file documents it.

from __future__ import annotations

DOCUMENTATION = r"""
module: instance_info
short_description: Tell what runs of an MLflow instance
version_added: 0.1.0
author: mlops.mlflow contributors (@mlops)
description:
  - Looks up the objects and pods of one instance on its engine. Changes nothing.
  - Options that a task leaves out are taken from the variables C(mlflow_engine), C(mlflow_instance), C(mlflow_namespace),
    C(mlflow_kubeconfig) and C(mlflow_context), where those exist.
options:
  engine:
    description: What runs the instance.
    type: str
    choices: [kubernetes, podman]
    default: kubernetes
  instance:
    description: Name of the instance.
    type: str
    required: true
  namespace:
    description: Namespace of the instance; on podman its network.
    type: str
    required: true
  kubeconfig:
    description: Path of the kubeconfig. Left out, E(KUBECONFIG), C(~/.kube/config) or the pod's own service account.
    type: path
  context:
    description: Context of the kubeconfig. Left out, its current one.
    type: str
attributes:
  check_mode:
    support: full
    description: Changes nothing in any mode.
  diff_mode:
    support: none
    description: There is nothing to show.
  platform:
    support: full
    description: Wherever Ansible runs.
    platforms: posix
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
"""

EXAMPLES = r"""
- name: Look
  mlops.mlflow.instance_info:
    engine: podman
    instance: mlflow
    namespace: mlflow
  register: there
"""

RETURN = r"""
installed:
  description: Whether anything of the instance exists.
  type: bool
  returned: success
pods:
  description: Its pods.
  type: list
  elements: dict
  returned: success
  contains:
    name:
      description: Name of the pod.
      type: str
    component:
      description: Part of the instance that it belongs to.
      type: str
    state:
      description: What it is doing, such as V(Running) or V(CrashLoopBackOff).
      type: str
    ready:
      description: Whether it serves, or has done its work.
      type: bool
    restarts:
      description: How often its containers were started again.
      type: int
    image:
      description: Image of its first container.
      type: str
"""
