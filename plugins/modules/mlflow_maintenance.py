#!/usr/bin/python
# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# The action plugin of the same name does the work; this file documents it.

from __future__ import annotations

DOCUMENTATION = r"""
module: mlflow_maintenance
short_description: Report on the database and the artifacts of an MLflow instance, and clean them
version_added: 0.1.0
author: mlops.mlflow contributors (@mlops)
description:
  - Runs a Job with the image of the server. It reports the size of the database and its tables, indexes that are
    missing or invalid, deleted runs, folders of artifacts without rows, and registered versions without artifacts; then
    it does the tasks. C(playbooks/maintain.yml) uses it.
  - Clients go on working meanwhile. A backup is not made at the same time.
options:
  tasks:
    description:
      - V(vacuum) removes dead rows and renews the statistics of the planner (PostgreSQL C(VACUUM ANALYZE), MariaDB and
        MySQL C(ANALYZE TABLE), SQLite C(ANALYZE), and C(VACUUM) where a quarter of the file is free).
      - V(reindex) creates indexes of MLflow that are missing, and builds invalid ones of PostgreSQL again.
      - V(gc) removes for good what was deleted longer ago than O(older_than_days), as C(mlflow gc) does - runs and
        logged models with their artifacts, and experiments. Other than C(mlflow gc), it spares what a registered
        version refers to, with or without an alias. Backups keep their copies of artifacts.
      - An empty list only reports.
    type: list
    elements: str
    choices: [vacuum, reindex, gc]
    default: [vacuum, reindex]
  older_than_days:
    description: For V(gc) - days since a run, a logged model or an experiment was deleted.
    type: int
    default: 30
  timeout:
    description: Seconds that the Job may take.
    type: int
    default: 3600
seealso:
  - module: mlops.mlflow.mlflow_backup
attributes:
  check_mode:
    support: full
    description: The Job only reports.
extends_documentation_fragment:
  - mlops.mlflow.engine.action
  - ansible.builtin.action_common_attributes
"""

EXAMPLES = r"""
- name: Report only
  mlops.mlflow.mlflow_maintenance:
    tasks: []
  register: report

- name: Remove runs that were deleted 90 days ago
  mlops.mlflow.mlflow_maintenance:
    tasks: [gc, vacuum]
    older_than_days: 90
"""

RETURN = r"""
report:
  description: >-
    What was found and done - C(database) and after tasks C(database_after) (C(bytes), C(free_bytes), C(tables)),
    C(indexes) (C(missing), C(invalid)), C(gc) (C(runs), C(models) and C(experiments) that are removed, and C(spared)
    with the versions that refer to it), C(orphans) (C(folders) without rows, their C(count), and C(versions) without
    artifacts), and C(done).
  type: dict
  returned: success
lines:
  description: The report in sentences.
  type: list
  elements: str
  returned: success
"""
