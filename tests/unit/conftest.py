# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Makes the collection importable as ansible_collections.mlops.mlflow, here and in the processes that tests start.

The link into .cache is the one that the Makefile makes; pytest on its own makes it too.
"""

from __future__ import annotations

import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
COLLECTIONS = ROOT / ".cache" / "collections"

link = COLLECTIONS / "ansible_collections" / "mlops" / "mlflow"
if not link.exists():
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to("../../../..")

sys.path.insert(0, str(COLLECTIONS))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(COLLECTIONS), os.environ.get("PYTHONPATH")]))
# Before anything imports MLflow.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
