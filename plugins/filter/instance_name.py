# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Names of instances."""

from __future__ import annotations

DOCUMENTATION = r"""
name: instance_name
short_description: The name of the MLflow instance that an inventory host is
version_added: 0.1.0
author: mlops.mlflow contributors (@mlops)
description:
  - Gives the name that an inventory host's instance has unless C(mlflow_instance) says otherwise, a DNS label made of
    the host's name.
options:
  _input:
    description: Name of the inventory host.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: The instance's name
  ansible.builtin.debug:
    msg: "{{ inventory_hostname | mlops.mlflow.instance_name }}"
"""

RETURN = r"""
_value:
  description: The name, for example V(team-a) for the host C(Team_A).
  type: str
"""

from ansible_collections.mlops.mlflow.plugins.plugin_utils.model import instance_name


class FilterModule:
    """Filters about instances."""

    def filters(self):
        return {"instance_name": instance_name}
