#!/usr/bin/python
# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# The action plugin of the same name does the work; this file documents it.

from __future__ import annotations

DOCUMENTATION = r"""
module: service_levels
short_description: Measure the service levels of an MLflow instance
version_added: 0.1.0
author: mlops.mlflow contributors (@mlops)
description:
  - Measures the latency of the API, the upload of an artifact, the load of the user interface and queries of the
    database, and compares them with C(mlflow_service_level_*). The instance is the one that the variables of the
    inventory host describe.
  - From outside, requests come from the inventory host (Python 3.9 or newer) to the URL of the instance. Where only the
    cluster knows that URL, they come from the controller through a forwarded port. In the pod of the server the same
    probe runs, with the login of the server to the database. C(mlflow_service_levels_from) selects.
  - An experiment with one run and an artifact is created and deleted at the end. Requests log in as the administrator,
    where the server has users.
  - The figures are kept with the instance, in the ConfigMap C(INSTANCE-service-levels), and
    M(mlops.mlflow.instance_info) shows the last ones. The module reports no change for it.
options:
  token:
    description:
      - Token of a user, sent as C(Authorization) C(Bearer) from outside. Required there with
        C(mlflow_server_auth=oidc).
    type: str
    default: ""
  timeout:
    description: Longest time for the measurement from one place, in seconds.
    type: int
    default: 300
  require_met:
    description: Whether the task fails when a service level is missed, with RV(missed) as its message.
    type: bool
    default: false
seealso:
  - module: mlops.mlflow.instance_health
attributes:
  check_mode:
    support: full
    description: Creates nothing, so that uploads are not measured, and keeps no figures.
extends_documentation_fragment:
  - mlops.mlflow.engine.action
  - ansible.builtin.action_common_attributes
"""

EXAMPLES = r"""
- name: Measure the service levels
  mlops.mlflow.service_levels:
    require_met: true

- name: Measure with a user's token behind OpenID Connect
  mlops.mlflow.service_levels:
    token: "{{ lookup('ansible.builtin.env', 'MLFLOW_TRACKING_TOKEN') }}"
  register: levels
"""

RETURN = r"""
met:
  description: Whether all service levels are met. One that could not be measured is not met, except in check mode.
  type: bool
  returned: success
missed:
  description: A sentence for each service level that is missed, with the difference.
  type: list
  elements: str
  returned: success
table:
  description: The figures as lines of a table.
  type: list
  elements: str
  returned: success
figures:
  description: The figures. They are also in the fact C(mlflow_service_levels), with all other values.
  type: list
  elements: dict
  returned: success
  contains:
    title:
      description: Name of the figure.
      type: str
    place:
      description: V(outside) or V(inside).
      type: str
    variable:
      description: Variable with the threshold.
      type: str
    wanted:
      description: The threshold.
      type: int
    least:
      description: Whether the threshold is the least that is wanted, instead of the most.
      type: bool
    measured:
      description: The measured value, or null.
      type: float
    unit:
      description: Unit of both values.
      type: str
    met:
      description: Whether the service level is met; null where check mode did not measure it.
      type: bool
    detail:
      description: What was measured, or why it could not be.
      type: str
instance:
  description: Name of the instance.
  type: str
  returned: success
time:
  description: When it was measured, in ISO 8601.
  type: str
  returned: success
"""
