#!/usr/bin/python
# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# The work is done by the action plugin of the same name; this file documents it.

from __future__ import annotations

DOCUMENTATION = r"""
module: validate
short_description: Check all variables of an MLflow instance before anything is touched
version_added: 0.1.0
author: mlops.mlflow contributors (@mlops)
description:
  - Checks the variables of the inventory host against the argument specifications of all roles of this collection, and
    against each other.
  - Fails with one sentence for each problem, which names the variable, what is wrong and what would be right. A variable
    that is spelt nearly like one of the collection's is a problem, too.
  - Takes no options; it looks at the host's variables.
options: {}
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
- name: Refuse what cannot work
  mlops.mlflow.validate:
"""

RETURN = r"""
msg:
  description: That everything is in order, or what is not.
  type: str
  returned: always
"""
