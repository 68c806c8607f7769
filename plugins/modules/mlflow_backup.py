#!/usr/bin/python
# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# The action plugin of the same name does the work; this file documents it.

from __future__ import annotations

DOCUMENTATION = r"""
module: mlflow_backup
short_description: Make, verify, restore and remove backups of an MLflow instance
version_added: 0.1.0
author: mlops.mlflow contributors (@mlops)
description:
  - Runs one step of a backup or a restore in a Job of the instance that the variables of the inventory host describe.
    C(playbooks/backup.yml) and C(playbooks/restore.yml) combine the steps.
  - Requires C(backup_type) other than V(none), and role C(mlops.mlflow.backup) deployed.
options:
  command:
    description:
      - V(create) makes a backup of the database, the artifacts, the keys and the deployment, and removes backups that
        C(backup_keep_*) no longer wants. Clients go on working meanwhile.
      - V(verify) restores a backup into a throw-away database, starts the server of MLflow on it, and compares rows and
        artifacts.
      - V(prune) removes backups that are no longer wanted, and backups that were interrupted more than a day ago. In
        check mode it returns which.
      - V(keys) returns the keys and the login in a backup, decrypted with C(backup_passphrase).
      - V(restore) loads a backup into a database beside the current one, compares the rows, and writes the artifacts
        that the store does not have. The server must be closed.
      - V(promote) puts the loaded database in the place of the current one, V(revert) puts that back, V(finish) removes
        it. Until one of the last two has run, no other backup can be restored.
      - V(settle) does one of these two after a restore or a migration that was interrupted - V(revert) while the server
        is still closed by it, so that nobody has written to the loaded database, else V(finish). Run it before the
        server is closed for the next one, which is only then known to need it.
      - V(target) compares the stores that the variables describe with those of the server that is deployed, before a
        migration. Of those that are others, a database and a bucket that exist with credentials of their own are looked
        at from a pod of the instance - whether they can be reached, whether users have written to the database, whether
        a database beside it can be made and an object written. The pod has what the variables say of them, in
        ConfigMaps and Secrets that are removed with it.
      - V(rehearse) loads a backup into a throw-away database, migrates it to the version of MLflow that the instance is
        to have, starts the server on it, logs and reads a run, and undoes the migration. The backup remembers the
        result.
      - V(state) compares the schema and the rows of the database with those of a backup.
      - V(prepopulate) does C(mlflow db prepopulate-trace-analytics), which shortens a migration, while the older server
        runs.
      - V(downgrade) brings the schema back to that of a backup, if its rehearsal found that this restores the schema
        of before. What was logged since stays. The server must be closed.
    type: str
    choices: [create, verify, prune, keys, restore, promote, revert, finish, settle, target, rehearse, state,
      prepopulate, downgrade]
    default: create
  set:
    description: >-
      For V(verify), V(keys), V(restore), V(rehearse), V(state) and V(downgrade) - ID of the backup, V(latest)
      (V(before-restore) and V(moment) ones excepted), V(verified) (the latest of them that was verified), or a moment
      such as V(2026-11-24T02:00:00Z) for the latest backup until then.
    type: str
    default: latest
  source:
    description: >-
      For V(verify), V(keys) and V(restore) - another instance whose backup it is, as C(NAMESPACE/INSTANCE), in the same
      store.
    type: str
    default: ""
  kind:
    description: For V(create) - why the backup is made, as the list of backups shows it.
    type: str
    default: manual
  moment:
    description:
      - For V(create) - a moment in the past such as V(2026-11-24T13:37:00Z), in UTC unless it has another offset. The
        backup then holds the database as it was at that moment, and the artifacts that there are now; its kind is
        V(moment), and it is asked for by its ID only.
      - Requires C(database_archive). It fails if the archive does not reach back to that moment.
    type: str
    default: ""
  verify:
    description: For V(create) - whether to verify the backup after it was made.
    type: bool
    default: false
  portable:
    description:
      - For V(create) - whether the dump is all rows in a SQLite file, which can be restored into every kind of
        database, such as from MariaDB into PostgreSQL. It needs room for that file, and is slower than other dumps.
      - The dump of a SQLite database always is such a file. Not together with O(verify).
    type: bool
    default: false
  empty:
    description: For V(restore) - whether to refuse a database in which users have written anything.
    type: bool
    default: false
seealso:
  - module: mlops.mlflow.mlflow_backup_info
attributes:
  check_mode:
    support: partial
    description: Only V(prune), V(keys), V(state) and V(target) run, the latter without writing to the stores.
extends_documentation_fragment:
  - mlops.mlflow.engine.action
  - ansible.builtin.action_common_attributes
"""

EXAMPLES = r"""
- name: Make a backup, and prove that it can be restored
  mlops.mlflow.mlflow_backup:
    verify: true

- name: Try a newer version on a copy of the data
  mlops.mlflow.mlflow_backup:
    command: rehearse
  vars:
    mlflow_version: 3.17.2

- name: Make a backup of the database as it was before a mistake
  mlops.mlflow.mlflow_backup:
    moment: 2026-11-24T13:37:00Z

- name: Verify an older one
  mlops.mlflow.mlflow_backup:
    command: verify
    set: 20261124T020000Z

- name: List what retention would remove
  mlops.mlflow.mlflow_backup:
    command: prune
  check_mode: true
"""

RETURN = r"""
backup:
  description: The backup, as M(mlops.mlflow.mlflow_backup_info) lists it.
  type: dict
  returned: for V(create), V(keys), V(restore) and V(state)
removed:
  description: IDs of the backups that were removed.
  type: list
  elements: str
  returned: for V(create) and V(prune)
locked:
  description: A sentence about removed objects that the bucket keeps since they are locked, or an empty text.
  type: str
  returned: for V(create) and V(prune)
verified:
  description: What was compared (C(rows), C(artifacts), C(artifacts_read), C(experiments), C(registered_models)), and
      C(seconds).
  type: dict
  returned: for V(verify)
artifacts:
  description: Numbers of artifacts (C(count), C(written), C(kept), C(others)).
  type: dict
  returned: for V(restore)
differing:
  description: Keys of the backup that the instance does not have (C(gateway), C(webhooks)).
  type: list
  elements: str
  returned: for V(keys)
values:
  description: The keys and the login, empty without a passphrase. Use C(no_log).
  type: dict
  returned: for V(keys)
rehearsal:
  description: >-
    What the rehearsal found - C(from) and C(to) (versions), C(seconds) of the migration, C(new_tables),
    C(lost_indexes), C(fewer_rows) (rows before and after, by table), C(prepopulated) (rows that the step before can
    fill, or V(null)), C(round_trip), and C(downgrade) with C(possible), C(reason), C(seconds) and C(longer_columns).
  type: dict
  returned: for V(rehearse), and for V(state) if the backup was rehearsed
closed:
  description: Whether the server must be closed during the migration, since one that breaks off could not be undone.
  type: bool
  returned: for V(rehearse)
lines:
  description: The rehearsal in sentences.
  type: list
  elements: str
  returned: for V(rehearse)
unchanged:
  description: Whether the schema is that of the backup.
  type: bool
  returned: for V(state)
more:
  description: Number of rows that came since the backup, by table.
  type: dict
  returned: for V(state)
filled:
  description: Numbers of rows that were filled, by C(traces), C(spans) and C(assessments).
  type: dict
  returned: for V(prepopulate)
schema:
  description: Revision of the schema.
  type: str
  returned: for V(state) and V(downgrade)
reverted:
  description: Whether there was a database to put back.
  type: bool
  returned: for V(revert)
finished:
  description: Whether there was a database to remove.
  type: bool
  returned: for V(finish)
others:
  description: Stores of the server that are others than those of the variables (C(database), C(artifacts)).
  type: list
  elements: str
  returned: for V(target)
looked_at:
  description: Those of the new stores that were looked at; the others are not there yet.
  type: list
  elements: str
  returned: for V(target)
interrupted:
  description: Whether a restore or a migration has closed the server, and nothing has opened it since.
  type: bool
  returned: for V(target)
"""
