#!/usr/bin/python
# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# The action plugin of the same name does the work; this file documents it.

from __future__ import annotations

DOCUMENTATION = r"""
module: instance_info
short_description: Get information about an MLflow instance
version_added: 0.1.0
author: mlops.mlflow contributors (@mlops)
description:
  - Gets the pods of one instance from its engine and, with O(health=true), measures its health.
  - Options that are not set default to the variables C(mlflow_engine), C(mlflow_instance), C(mlflow_namespace),
    C(mlflow_kubeconfig) and C(mlflow_context) of the host, with O(health=true) or where at least one of them is
    defined.
options:
  engine:
    description: Engine that runs the instance.
    type: str
    choices: [kubernetes, podman]
    default: kubernetes
  instance:
    description: Name of the instance.
    type: str
    required: true
  namespace:
    description: Kubernetes namespace of the instance; with podman its network.
    type: str
    required: true
  health:
    description:
      - Whether to run the probes of all components, without a round trip. The variables of the host must describe the
        instance.
    type: bool
    default: false
seealso:
  - module: mlops.mlflow.instance_health
attributes:
  check_mode:
    support: full
    description: Changes nothing in any mode.
extends_documentation_fragment:
  - mlops.mlflow.engine.cluster
  - mlops.mlflow.engine.action
  - ansible.builtin.action_common_attributes
"""

EXAMPLES = r"""
- name: Get the pods of an instance
  mlops.mlflow.instance_info:
    engine: podman
    instance: mlflow
    namespace: mlflow
  register: info

- name: Get the status of the instance that the variables of the host describe
  mlops.mlflow.instance_info:
    health: true
  register: info
"""

RETURN = r"""
installed:
  description: Whether the instance has pods.
  type: bool
  returned: success
pods:
  description: Pods of the instance.
  type: list
  elements: dict
  returned: success
  contains:
    name:
      description: Name of the pod.
      type: str
    component:
      description: Component of the pod, the value of its label C(app.kubernetes.io/component).
      type: str
    state:
      description: State, such as V(Running) or V(CrashLoopBackOff).
      type: str
    ready:
      description: Whether the pod is ready, or has completed.
      type: bool
    restarts:
      description: Number of restarts of its containers.
      type: int
    image:
      description: Image of its first container.
      type: str
health:
  description: What M(mlops.mlflow.instance_health) returns, without C(connect).
  type: dict
  returned: when O(health=true)
status:
  description:
    - C(installed), C(version), C(engine), C(namespace), C(healthy), C(backend_store), C(artifact_store), C(server),
      C(components) and C(pods) of the instance.
    - C(newer_versions) lists newer versions of MLflow with C(mlflow_version=latest), newest first; otherwise it is
      null.
    - C(service_levels) has the figures that M(mlops.mlflow.service_levels) measured last, or is null.
  type: dict
  returned: when O(health=true)
lines:
  description: The status as lines of text.
  type: list
  elements: str
  returned: when O(health=true)
"""
