#!/usr/bin/python
# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# The action plugin of the same name does the work; this file documents it.

from __future__ import annotations

DOCUMENTATION = r"""
module: helm_release_inventory
short_description: Write the inventory that means the same as a Helm release of MLflow
version_added: 0.1.0
author: mlops.mlflow contributors (@mlops)
description:
  - Reads a release of the chart of mlflow/mlflow or of community-charts/mlflow from its record in the cluster and from
    its live objects, and writes an inventory with comments, whose instance has the same stores, logins, Service,
    ingress and further settings. C(playbooks/adopt.yml) uses it. Nothing is changed in the cluster.
  - Returns what is not taken over, and what to use instead.
options:
  release:
    description: Name of the release.
    type: str
    required: true
  namespace:
    description: Namespace of the release, which becomes that of the instance.
    type: str
    required: true
  instance:
    description: Name of the instance. Defaults to that of the release.
    type: str
  path:
    description: Folder of the inventory on the controller. Its files are readable by their owner only.
    type: path
    required: true
  secrets:
    description:
      - Where secrets are that are values of the release.
      - V(cluster) refers to the Secrets of the chart, and where it has none (a password in a URI) to the Secret
        C(INSTANCE-adopted), which M(mlops.mlflow.helm_release_adopt) makes. No secret is in the files.
      - V(variables) writes them to C(host_vars/INSTANCE/secrets.yml), for C(ansible-vault encrypt).
    type: str
    choices: [cluster, variables]
    default: cluster
  overwrite:
    description: Whether files that exist and differ are written anew. Otherwise the task fails.
    type: bool
    default: false
seealso:
  - module: mlops.mlflow.helm_release_adopt
attributes:
  check_mode:
    support: full
    description: No file is written.
extends_documentation_fragment:
  - mlops.mlflow.engine.action
  - mlops.mlflow.engine.cluster
  - ansible.builtin.action_common_attributes
"""

EXAMPLES = r"""
- name: Write the inventory of a release
  mlops.mlflow.helm_release_inventory:
    release: mlflow
    namespace: mlflow
    path: inventories/adopted
"""

RETURN = r"""
path:
  description: The folder.
  type: str
  returned: success
files:
  description: The files, by their paths in it.
  type: list
  elements: str
  returned: success
instance:
  description: Name of the instance.
  type: str
  returned: success
chart:
  description: The chart, V(mlflow/mlflow) or V(community-charts/mlflow).
  type: str
  returned: success
chart_version:
  description: Version of the chart.
  type: str
  returned: success
mlflow_version:
  description: Version of MLflow that runs.
  type: str
  returned: success
lines:
  description: The same as RV(not_taken_over), to be shown.
  type: list
  elements: str
  returned: success
not_taken_over:
  description: Options that are not taken over.
  type: list
  elements: dict
  returned: success
  contains:
    option:
      description: The option of the chart.
      type: str
    instead:
      description: What to use instead, or why nothing is needed.
      type: str
    data:
      description: Whether runs, artifacts or users stay behind.
      type: bool
"""
