#!/usr/bin/python
# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# The action plugin of the same name does the work; this file documents it.

from __future__ import annotations

DOCUMENTATION = r"""
module: support_bundle
short_description: Gather logs, events, objects and health of an MLflow instance in one archive without secrets
version_added: 0.1.0
author: mlops.mlflow contributors (@mlops)
description:
  - Writes an archive on the controller with the objects of the instance, events of the last hours, the logs of all
    containers, pods, health, status, variables and versions. C(playbooks/logs.yml) uses it.
  - Values of Secrets are left out of objects and are replaced by C((secret)) in all files, logs included, where they
    have six or more characters; so are secret variables, users and passwords of URIs, and Authorization headers. What
    users log in MLflow is not in the archive, except where the server writes it into its log.
  - What could not be gathered is named in C(missing.txt), and does not fail the task.
options:
  dest:
    description: Folder on the controller, which is created. The archive is called NAMESPACE-INSTANCE-TIME.tar.gz.
    type: path
    default: .
  lines:
    description: Last lines of each container's log.
    type: int
    default: 2000
seealso:
  - module: mlops.mlflow.instance_info
attributes:
  check_mode:
    support: full
    description: No archive is written.
extends_documentation_fragment:
  - mlops.mlflow.engine.action
  - ansible.builtin.action_common_attributes
"""

EXAMPLES = r"""
- name: Gather what support asks for
  mlops.mlflow.support_bundle:
    dest: /tmp/bundles
  register: bundle

- name: Show where it is
  ansible.builtin.debug:
    var: bundle.path
"""

RETURN = r"""
path:
  description: The archive on the controller, readable by its owner only.
  type: str
  returned: success
files:
  description: Names in the archive.
  type: list
  elements: str
  returned: success
missing:
  description: Sentences about what could not be gathered.
  type: list
  elements: str
  returned: success
bytes:
  description: Size of the archive.
  type: int
  returned: when not in check mode
"""
