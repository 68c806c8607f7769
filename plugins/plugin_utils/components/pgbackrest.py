# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The WAL archive and the base backups of a PostgreSQL that the collection runs on one machine, by pgBackRest.

Source: https://pgbackrest.org/configuration.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Iterator

if TYPE_CHECKING:
    from ansible_collections.mlops.mlflow.plugins.plugin_utils.model import Model
    from ansible_collections.mlops.mlflow.plugins.plugin_utils.model.variables import Variables

STANZA = "mlflow"
PGDATA = "/var/lib/postgresql/data/pgdata"
"""As in postgresql.yaml.j2."""
REPOSITORY = "/var/lib/pgbackrest"
"""Where the archive's volume is mounted."""
LAST_BASE_BACKUP = f"{REPOSITORY}/last-backup"
"""File that base_backups.sh touches after each base backup."""
BASE_BACKUP_INTERVAL = 86400
"""Seconds between two base backups, as in base_backups.sh."""
QUEUE = "1GiB"
"""WAL that may wait for the archive. What comes then is not archived: a full archive must not fill the database's
volume, too."""


def settings(v: Variables, model: Model) -> dict[str, str]:
    """pgBackRest's options as environment variables, for the server, the base backups and a recovery."""
    if not model.database.archive:
        return {}
    options = {"STANZA": STANZA, "REPO1_PATH": REPOSITORY, "PG1_PATH": PGDATA, "PG1_PORT": model.database.port,
               "REPO1_RETENTION_FULL_TYPE": "time", "REPO1_RETENTION_FULL": v.backup_keep_days,
               "ARCHIVE_PUSH_QUEUE_MAX": QUEUE, "COMPRESS_TYPE": "zst", "START_FAST": "y",
               "LOCK_PATH": "/tmp/pgbackrest", "LOG_LEVEL_FILE": "off", "LOG_LEVEL_CONSOLE": "warn"}
    return {f"PGBACKREST_{name}": str(value) for name, value in options.items()}


def check(v: Variables, model: Model) -> Iterator[str]:
    """What is wrong with the variables of the archive."""
    if not v.database_archive:
        return
    if v.mlflow_engine != "podman":
        yield ("database_archive is true while mlflow_engine is kubernetes; set database_operator to cloudnativepg, "
               "which archives WAL there, or database_archive to false.")
    elif v.database_type != "postgresql" or not model.database.managed or v.mlflow_server_database:
        yield ("database_archive is true while the collection runs no PostgreSQL for this instance; use the archive of "
               "the existing server, or backups more often (backup_schedule), and set database_archive to false.")
    elif not v.database_persistence:
        yield ("database_archive is true while database_persistence is false; set database_persistence to true, or "
               "database_archive to false.")
    if v.backup_type == "none":
        yield ("database_archive is true while backup_type is none; a moment is restored by way of a backup, so set "
               "backup_type to volume or s3, or database_archive to false.")
    if v.database_image is None and not model.instance.build:
        yield ("database_archive is true while mlflow_image_source is registry, and the official image of PostgreSQL "
               "has no pgBackRest; set mlflow_image_source to build, or database_image to an image with both.")
