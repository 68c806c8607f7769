#!/usr/bin/python
# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# The action plugin of the same name does the work; this file documents it.

from __future__ import annotations

DOCUMENTATION = r"""
module: mlflow_upgrade_info
short_description: Look up what an upgrade of an MLflow instance would change
version_added: 0.1.0
author: mlops.mlflow contributors (@mlops)
description:
  - Compares the version that an instance runs with the one that is wanted, and checks whether that one can be installed
    (C(mlflow_image_source=build)) or its image is in the registry.
  - C(playbooks/upgrade.yml) begins with it. Nothing is changed.
options:
  version:
    description: >-
      The version to upgrade to, such as V(3.17.2), or V(latest) for the newest that can be installed. C(mlflow_version)
      of the instance if empty.
    type: str
    default: ""
  undeployed:
    description: >-
      Whether an instance that is not deployed is no failure, since it is to be deployed on the database of an older
      MLflow.
    type: bool
    default: false
seealso:
  - module: mlops.mlflow.mlflow_version_info
  - module: mlops.mlflow.mlflow_backup
attributes:
  check_mode:
    support: full
    description: The module changes nothing.
extends_documentation_fragment:
  - mlops.mlflow.engine.action
  - ansible.builtin.action_common_attributes
"""

EXAMPLES = r"""
- name: Look up whether there is a newer version
  mlops.mlflow.mlflow_upgrade_info:
    version: latest
  register: upgrade

- name: Show it
  ansible.builtin.debug:
    msg: "{{ upgrade.installed.version }} can become {{ upgrade.target }}"
  when: upgrade.needed
"""

RETURN = r"""
installed:
  description: The C(version) of MLflow that the instance runs, and the C(image) of its server; empty where it is not
    deployed.
  type: dict
  returned: success
  sample: {version: 3.15.0, image: "ghcr.io/mlflow/mlflow:v3.15.0-full"}
target:
  description: The version to upgrade to.
  type: str
  returned: success
  sample: 3.17.2
needed:
  description: Whether the target is newer than what runs.
  type: bool
  returned: success
older:
  description: Whether the target is older than what runs, which is a rollback.
  type: bool
  returned: success
deployed:
  description: Whether the instance is deployed; the other values are about that, or about its first deployment.
  type: bool
  returned: success
messages:
  description: What is to be known before the upgrade, in sentences.
  type: list
  elements: str
  returned: success
"""
