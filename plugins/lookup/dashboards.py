# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: dashboards
short_description: Grafana dashboards of MLflow
version_added: 0.1.0
author: mlops.mlflow contributors (@mlops)
description:
  - Returns the dashboards that the role C(monitoring) delivers, for a Grafana that the role does not reach. They are
    the same for all instances.
options:
  _terms:
    description: Standard exporters whose dashboards to return, too - C(postgresql), C(mysql), C(node).
    type: list
    elements: str
"""

EXAMPLES = r"""
- name: Write the dashboards
  ansible.builtin.copy:
    content: "{{ item.json }}"
    dest: "/var/lib/grafana/dashboards/{{ item.name }}.json"
    mode: "0644"
  loop: "{{ query('mlops.mlflow.dashboards') }}"
"""

RETURN = r"""
_list:
  description: The dashboards.
  type: list
  elements: dict
  contains:
    name:
      description: Name and C(uid) of the dashboard.
      type: str
    json:
      description: Its JSON model.
      type: str
"""

import json

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase

from ansible_collections.mlops.mlflow.plugins.plugin_utils.monitoring import dashboards


class LookupModule(LookupBase):
    """The dashboards."""

    def run(self, terms, variables=None, **kwargs):
        unknown = sorted(set(terms) - set(dashboards.STANDARD))
        if unknown:
            raise AnsibleLookupError(f"{unknown[0]!r} is no standard exporter; name any of "
                                     f"{', '.join(dashboards.STANDARD)}.")
        return [{"name": name, "json": json.dumps(dashboard, indent=2) + "\n"}
                for name, dashboard in dashboards.dashboards(terms).items()]
