#!/usr/bin/python
# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# The action plugin of the same name does the work; this file documents it.

from __future__ import annotations

DOCUMENTATION = r"""
module: helm_release_adopt
short_description: Hand the objects of a Helm release over to an MLflow instance
version_added: 0.1.0
author: mlops.mlflow contributors (@mlops)
description:
  - One step of the move of a Helm release to the instance that the variables of the inventory host describe, as
    M(mlops.mlflow.helm_release_inventory) wrote them. C(playbooks/adopt.yml) does all steps, with
    M(mlops.mlflow.apply) between them.
  - Volumes, databases, and Secrets that the instance reads are never deleted.
options:
  release:
    description: Name of the release, in the namespace of the instance.
    type: str
    required: true
  step:
    description:
      - V(check) fails where the release cannot be moved, and returns what V(prepare) would do.
      - V(prepare) makes the Secret of secrets that were values, makes the instance the owner of objects that both have
        (Service, ServiceAccount), and suspends CronJobs. Where both would write to the same SQLite file or mount the
        same volume, it stops the server of the chart and waits for its end.
      - V(route) deletes the Ingress, the HTTPRoute, the ServiceMonitor and the HorizontalPodAutoscaler of the chart.
      - V(finish) deletes what is left of the release and not used, and changes the label C(owner) of the record of the
        release to C(mlops.mlflow-adopted), so that Helm does not know it and C(helm uninstall) deletes nothing.
      - V(undo) gives back what V(prepare) took, removes the instance except for data, and starts the server of the
        chart. It is possible until V(finish).
    type: str
    choices: [check, prepare, route, finish, undo]
    required: true
  without_data:
    description: Whether to move although runs, artifacts or users stay behind.
    type: bool
    default: false
seealso:
  - module: mlops.mlflow.helm_release_inventory
  - module: mlops.mlflow.apply
attributes:
  check_mode:
    support: full
    description: Returns what would be done.
extends_documentation_fragment:
  - mlops.mlflow.engine.action
  - ansible.builtin.action_common_attributes
"""

EXAMPLES = r"""
- name: Stop the server of the chart, and take over its Service
  mlops.mlflow.helm_release_adopt:
    release: mlflow
    step: prepare
"""

RETURN = r"""
actions:
  description: What was done to which object.
  type: list
  elements: str
  returned: success
  sample: [Service mlflow handed over, Deployment mlflow stopped]
exclusive:
  description: Whether the server of the chart has to end before that of the instance begins.
  type: bool
  returned: success
"""
