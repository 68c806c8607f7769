#!/usr/bin/python
# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# The action plugin of the same name does the work; this file documents it.

from __future__ import annotations

DOCUMENTATION = r"""
module: validate_instances
short_description: Check that the MLflow instances of an inventory do not conflict
version_added: 0.1.0
author: mlops.mlflow contributors (@mlops)
description:
  - Resolves the instances of all hosts of the play that O(hosts) matches, and fails where two of them have the same
    engine, cluster or machine, namespace and name, or publish the same port of one machine.
    The address C(0.0.0.0) conflicts with every other address.
  - Fails when O(hosts) and C(--limit) match no host, and when the inventory is empty.
  - A host whose own variables are invalid is left out; M(mlops.mlflow.validate) reports those.
options:
  hosts:
    description: Pattern of the hosts to check, as in a play's C(hosts).
    type: str
    default: all
notes:
  - Run it once per play (C(run_once)), before any host is changed. C(playbooks/check_inventory.yml) does so.
seealso:
  - module: mlops.mlflow.validate
attributes:
  check_mode:
    support: full
    description: Changes nothing in any mode.
  diff_mode:
    support: none
    description: The module returns no diff.
  platform:
    support: full
    description: Runs on the controller; the inventory host is not connected to.
    platforms: posix
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
"""

EXAMPLES = r"""
- name: Check the instances together
  mlops.mlflow.validate_instances:
    hosts: "{{ mlflow_hosts | default('all') }}"
  run_once: true
"""

RETURN = r"""
msg:
  description: The conflicts, one sentence per line.
  type: str
  returned: failure
instances:
  description: The hosts that were checked.
  type: list
  elements: str
  returned: success
"""
