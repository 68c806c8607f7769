# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the podman engine and the modules that reach into it agree on."""

from __future__ import annotations

import hashlib
import re

LABEL = "mlops.mlflow"
"""Prefix of the labels on pods, containers and volumes."""
LONGEST = 64
"""Podman takes no longer names for secrets."""


def secret_name(namespace, secret, key):
    """Name of the podman secret that holds one value of a Secret; a digest stands for what does not fit."""
    full = f"{namespace}.{secret}.{key}"
    if len(full) <= LONGEST and re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*[a-zA-Z0-9]", full):
        return full
    digest = hashlib.sha256(full.encode()).hexdigest()[:16]
    return re.sub(r"[^a-zA-Z0-9_.-]", "-", full)[:LONGEST - 17] + "-" + digest
