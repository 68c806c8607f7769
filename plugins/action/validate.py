# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Checks all variables of an instance before any role touches anything. Documented in plugins/modules/validate.py."""

from __future__ import annotations

import pathlib
from typing import Iterable

import yaml
from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.plugins.action import ActionBase

from ansible_collections.mlops.mlflow.plugins.plugin_utils import rules

ROLES = pathlib.Path(__file__).parents[2] / "roles"


class ActionModule(ActionBase):
    """Looks at variables only, in Ansible's own process: no connection, no module."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        _ignored, _arguments = self.validate_argument_spec({})
        specs, derived = _specs(), _derived()
        problems = list(rules.misspelt(task_vars, set(specs) | derived))
        values, unresolved = self._values(specs, task_vars)
        for name in [name for name, value in values.items() if isinstance(value, str) and specs[name].get("type") in ("list", "dict")]:
            # Text that could be taken for one would pass here, and fail in the templates, which take it as it is.
            problems.append(f"{name} is {values.pop(name)!r}; it must be a {'list' if specs[name]['type'] == 'list' else 'mapping'}.")
        checked = ArgumentSpecValidator(specs).validate(values, validate_role_argument_spec=True)
        problems += unresolved + checked.error_messages
        if not problems:
            derived_values, _none = self._values(["mlflow_server_effective_resources", "mlflow_server_oidc_port"], task_vars)
            typed = {name: checked.validated_parameters[name] for name in values}  # those of roles in the play
            problems = list(rules.broken({**typed, **derived_values}))
        if problems:
            raise AnsibleActionFail("\n".join(problems))
        result.update(changed=False, msg="Every variable of the instance is in order.")
        return result

    def _values(self, names: Iterable[str], task_vars: dict) -> tuple[dict, list[str]]:
        """The variables' values with their templates resolved, and a sentence for each that has none."""
        values, problems = {}, []
        for name in names:
            if name not in task_vars:
                continue
            try:
                values[name] = self._templar.template(task_vars[name])
            except AnsibleError as error:
                problems.append(f"{name} cannot be worked out: {str(error).splitlines()[0]}")
        return values, problems


def _specs() -> dict:
    """The options of every role's main entry point, whose defaults the roles themselves give."""
    options: dict = {}
    for path in sorted(ROLES.glob("*/meta/argument_specs.yml")):
        for name, spec in yaml.safe_load(path.read_text())["argument_specs"]["main"].get("options", {}).items():
            options[name] = {key: value for key, value in spec.items() if key != "default"}
    return options


def _derived() -> set[str]:
    """Names that roles work out from their variables; they are nobody's misspelling."""
    return {name for path in ROLES.glob("*/vars/main.yml") for name in yaml.safe_load(path.read_text()) or {}}
