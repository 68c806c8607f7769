#!/usr/bin/python
# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# The action plugin of the same name does the work; this file documents it.

from __future__ import annotations

DOCUMENTATION = r"""
module: mlflow_backup_info
short_description: List the backups of an MLflow instance
version_added: 0.1.0
author: mlops.mlflow contributors (@mlops)
description:
  - Lists the backups of the instance that the variables of the inventory host describe, from a Job that reads their
    manifests.
  - Fails when the backups are off (C(backup_type) is V(none)) or not deployed, and when their store cannot be read.
seealso:
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
- name: List the backups
  mlops.mlflow.mlflow_backup_info:
  register: found

- name: Fail where the newest backup was not verified
  ansible.builtin.assert:
    that: (found.backups | last).verified
"""

RETURN = r"""
backups:
  description: Complete backups, the oldest first.
  type: list
  elements: dict
  returned: success
  contains:
    id:
      description: UTC time at which it began, such as V(20261124T020000Z).
      type: str
    begun:
      description: The same in ISO 8601. It is the moment of the database's dump.
      type: str
    ended:
      description: When it was complete.
      type: str
    kind:
      description: Why it was made (V(scheduled), V(manual), V(before-restore), V(before-upgrade),
        V(before-rollback), V(before-deployment), V(before-migration), V(moment)).
      type: str
    moment:
      description: For the kind V(moment) - when the database was as it is in the backup, in ISO 8601; else empty.
      type: str
    instance:
      description: Name of the instance.
      type: str
    namespace:
      description: Its namespace.
      type: str
    mlflow_version:
      description: Version of MLflow.
      type: str
    image:
      description: Image of the server.
      type: str
    rehearsed_to:
      description: Version of MLflow to which an upgrade was rehearsed on it, or empty.
      type: str
    database:
      description: Kind of database (V(postgresql), V(mysql), V(sqlite)).
      type: str
    schema:
      description: Revision of the schema of the database.
      type: str
    bytes:
      description: Of the dump and all artifacts. Artifacts that several backups share are stored once.
      type: int
    artifacts:
      description: Number of artifacts.
      type: int
    counts:
      description: Number of rows of each table.
      type: dict
    keys:
      description: Whether it holds the keys and the login, encrypted.
      type: bool
    verified:
      description: Whether the last verification succeeded; V(null) before there was one.
      type: bool
    verified_at:
      description: When that was.
      type: str
    reason:
      description: Why it failed.
      type: str
    complete:
      description: Always V(true).
      type: bool
incomplete:
  description: IDs of backups that were interrupted or are being made.
  type: list
  elements: str
  returned: success
expired:
  description: IDs of backups that the next one removes.
  type: list
  elements: str
  returned: success
location:
  description: Where they are.
  type: str
  returned: success
lines:
  description: A table for people.
  type: list
  elements: str
  returned: success
"""
