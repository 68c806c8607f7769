#!/usr/bin/python
# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# The action plugin of the same name does the work; this file documents it.

from __future__ import annotations

DOCUMENTATION = r"""
module: summary
short_description: Summarize the MLflow instances of a play
version_added: 0.1.0
author: mlops.mlflow contributors (@mlops)
description:
  - Collects the result of each host of the play in one table and sets the fact C(mlflow_results).
  - Reads the results that C(playbooks/site.yml) registers and the fact C(mlflow_failure); there are no options.
options: {}
notes:
  - Run it once per play (C(run_once)), after the tasks of all hosts.
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
- name: Summarize all instances
  mlops.mlflow.summary:
  register: summary
  run_once: true

- name: Show all instances
  ansible.builtin.debug:
    msg: "{{ summary.table }}"
  run_once: true
"""

RETURN = r"""
results:
  description: The results by inventory host. Also set as the fact C(mlflow_results).
  type: dict
  returned: success
  contains:
    instance:
      description: Name of the instance.
      type: str
    version:
      description: Version of MLflow that is deployed.
      type: str
    healthy:
      description: Whether verification succeeded; null where it did not run.
      type: bool
    reason:
      description: Why the host failed, or empty.
      type: str
    changed:
      description: Whether any object was changed.
      type: bool
    url:
      description: URL for clients.
      type: str
table:
  description: The results as lines of text, the first of which has the headings.
  type: list
  elements: str
  returned: success
"""
