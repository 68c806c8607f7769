# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Documentation that the health modules share."""

from __future__ import annotations


class ModuleDocFragment:
    """Fragment ``mlops.mlflow.health``."""

    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    support: full
    description: Measures in any mode; what a check writes, it removes.
  diff_mode:
    support: none
    description: There is nothing to compare.
  platform:
    support: full
    description: Target OS.
    platforms: posix
"""
