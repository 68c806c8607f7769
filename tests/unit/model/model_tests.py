# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The model as tests ask it: with a dictionary of variables, without Ansible."""

from __future__ import annotations

from ansible_collections.mlops.mlflow.plugins.plugin_utils import model
from ansible_collections.mlops.mlflow.plugins.plugin_utils.model.variables import VariableError


PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
KEY = "-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n"


def resolved(variables: dict, host: str = "sound") -> model.Model:
    """The model of an inventory host with these variables; VariableError where one is wrong."""
    return model.resolve(variables.__getitem__, variables, host)


def refused(variables: dict, host: str = "sound") -> list[str]:
    """The sentences by which variables are refused; none where they are taken."""
    try:
        resolved(variables, host)
    except VariableError as error:
        return str(error).splitlines()
    return []
