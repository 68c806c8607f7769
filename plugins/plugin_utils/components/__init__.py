# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The components of an instance, in one list. Playbooks, checks, policies, images, status and removal go over it."""

from __future__ import annotations

from ansible_collections.mlops.mlflow.plugins.plugin_utils.components.backup import Backup
from ansible_collections.mlops.mlflow.plugins.plugin_utils.components.base import Component
from ansible_collections.mlops.mlflow.plugins.plugin_utils.components.database import Database
from ansible_collections.mlops.mlflow.plugins.plugin_utils.components.ingress import Ingress
from ansible_collections.mlops.mlflow.plugins.plugin_utils.components.mlflow_server import MlflowServer
from ansible_collections.mlops.mlflow.plugins.plugin_utils.components.monitoring import Monitoring
from ansible_collections.mlops.mlflow.plugins.plugin_utils.components.object_storage import ObjectStorage

COMPONENTS: tuple[Component, ...] = (ObjectStorage(), Database(), MlflowServer(), Ingress(), Backup(),
                                     Monitoring())
"""Each after those that it needs."""


def by_role(role: str) -> Component:
    """The component of a role; KeyError where there is none."""
    return {component.role: component for component in COMPONENTS}[role]


def multiline() -> frozenset[str]:
    """Text variables that may have more than one line."""
    return frozenset(name for component in COMPONENTS for name in component.multiline)


def secrets() -> frozenset[str]:
    """Variables whose values are secret."""
    return frozenset(name for component in COMPONENTS for name in component.secrets)


def separated() -> frozenset[str]:
    """Lists that may be given as text."""
    return frozenset(name for component in COMPONENTS for name in component.separated)


def stages(roles: list[str]) -> list[list[Component]]:
    """Components of the given roles in groups: each after the groups that it needs, those of a group side by side."""
    left, done, result = [c for c in COMPONENTS if c.role in roles], set(), []
    selected = {component.role for component in left}
    while left:
        ready = [c for c in left if not (set(c.needs) & selected) - done]
        if not ready:
            raise ValueError(f"the components {', '.join(c.role for c in left)} need each other")
        result.append(ready)
        done |= {component.role for component in ready}
        left = [component for component in left if component not in ready]
    return result
