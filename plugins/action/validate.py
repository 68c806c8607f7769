# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Resolves and checks the variables of an instance. Documented in plugins/modules/validate.py."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from ansible_collections.mlops.mlflow.plugins.plugin_utils import components
from ansible_collections.mlops.mlflow.plugins.plugin_utils.components import images
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engine_action import EngineAction
from ansible_collections.mlops.mlflow.plugins.plugin_utils.model import Model

HIDDEN = ("login", "given")
"""Fields of components that hold secrets."""
CREDENTIALS = re.compile(r"//[^/@\s]*:[^/@\s]*@")
"""User and password of a URI, which mlflow_server_database may give."""


class ActionModule(EngineAction):
    """Looks at variables, and asks the engine only which version ``latest`` was resolved to."""

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        _ignored, _arguments = self.validate_argument_spec({})
        model = self.resolve(task_vars)
        shown, tags = public(model), task_vars.get("ansible_run_tags") or ["all"]
        roles = [component.role for component in components.COMPONENTS]
        result.update(changed=False, msg="Every variable of the instance is valid.", model=shown,
                      ansible_facts={"mlflow_model": shown},
                      warnings=[sentence for component in components.COMPONENTS
                                for sentence in component.warnings(model.variables, model)],
                      components=roles if "all" in tags else [role for role in roles if role in tags])
        return result


def public(model: Model) -> dict[str, Any]:
    """The model as plain values, without secrets."""
    return {
        "instance": dataclasses.asdict(model.instance),
        "images": images.part(model.variables, [image for component in components.COMPONENTS
                                                for image in component.images(model.variables, model)]),
        **{role: _without_credentials(_shown(part)) for role, part in model.parts.items()},
    }


def _shown(part: Any) -> Any:
    if not dataclasses.is_dataclass(part):
        return None
    return {key: value for key, value in dataclasses.asdict(part).items() if key not in HIDDEN}


def _without_credentials(value: Any) -> Any:
    """A value whose URIs have neither user nor password."""
    if isinstance(value, dict):
        return {key: _without_credentials(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_without_credentials(part) for part in value]
    return CREDENTIALS.sub("//", value) if isinstance(value, str) else value
