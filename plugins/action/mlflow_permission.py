# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Manages permissions of an MLflow server. Documented in plugins/modules/mlflow_permission.py."""

from __future__ import annotations

from ansible_collections.mlops.mlflow.plugins.module_utils import permissions
from ansible_collections.mlops.mlflow.plugins.modules import mlflow_permission
from ansible_collections.mlops.mlflow.plugins.plugin_utils.service_action import AdministratorAction


class ActionModule(AdministratorAction):
    """Makes the requests in a pod of the server, through a forwarded port, or on the inventory host."""

    SPEC = mlflow_permission.SPEC
    FUNCTION = permissions.run
