#!/usr/bin/python
# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# The action plugin of the same name does the work; this file documents it.

from __future__ import annotations

DOCUMENTATION = r"""
module: instance_health
short_description: Measure the health of an MLflow instance
version_added: 0.1.0
author: mlops.mlflow contributors (@mlops)
description:
  - Runs the probes of all components (object storage, database, server, ingress) as one program in a pod of the server,
    and reads the state of the instance's pods.
  - The instance is the one that the variables of the inventory host describe.
options:
  roundtrip:
    description:
      - Whether to log a run with metrics, upload and download an artifact, and register a model by MLflow's REST API.
        What was created is deleted at the end. Not done in check mode.
    type: bool
    default: true
  require_healthy:
    description: Whether the task fails when the instance is not healthy, with RV(failures) as its message.
    type: bool
    default: false
  timeout:
    description: Longest time for all probes together, in seconds.
    type: int
    default: 120
seealso:
  - module: mlops.mlflow.instance_info
attributes:
  check_mode:
    support: full
    description: Runs the probes without the round trip.
extends_documentation_fragment:
  - mlops.mlflow.engine.action
  - ansible.builtin.action_common_attributes
"""

EXAMPLES = r"""
- name: Verify the instance
  mlops.mlflow.instance_health:
    require_healthy: true

- name: Measure without writing to the server
  mlops.mlflow.instance_health:
    roundtrip: false
  register: health
"""

RETURN = r"""
healthy:
  description: Whether all probes succeeded and all pods are ready.
  type: bool
  returned: success
version:
  description: Version of MLflow that the server reports, or null.
  type: str
  returned: success
url:
  description: URL for clients. Without a published port or an ingress, the URL of the Service.
  type: str
  returned: success
failures:
  description: A sentence for each failed check and each pod that is not ready.
  type: list
  elements: str
  returned: success
messages:
  description: Warnings, such as a version of MLflow that is not tested, or a behaviour that this version lacks.
  type: list
  elements: str
  returned: success
components:
  description: Reports of the probes, by role of the component and name of the probe. Empty when the instance is not
      installed.
  type: dict
  returned: success
ca_certificate:
  description: Certificate (PEM) of the CA that clients of the ingress must trust.
  type: str
  returned: when the ingress has a CA certificate in a Secret
connect:
  description: Lines for users that show how to connect.
  type: list
  elements: str
  returned: success
"""
