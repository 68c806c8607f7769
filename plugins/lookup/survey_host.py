# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: survey_host
short_description: Variables of the inventory host that the answers of a survey describe
version_added: 0.1.0
author: mlops.mlflow contributors (@mlops)
description:
  - Turns the variables of a play that are answers of the survey (lookup P(mlops.mlflow.survey#lookup)) into those of an
    inventory host. docs/platform.md has the mapping.
  - Secrets are left out, since a host's variables can be read in the user interface.
options: {}
"""

EXAMPLES = r"""
- name: Show the host
  ansible.builtin.debug:
    msg: "{{ lookup('mlops.mlflow.survey_host') }}"
"""

RETURN = r"""
_raw:
  description: The variables, by name.
  type: list
  elements: dict
"""

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase

from ansible_collections.mlops.mlflow.plugins.plugin_utils import components
from ansible_collections.mlops.mlflow.plugins.plugin_utils.model.variables import VariableError
from ansible_collections.mlops.mlflow.plugins.plugin_utils.survey import questions
from ansible_collections.mlops.mlflow.plugins.plugin_utils.survey.inventory import TEMPLATE


class LookupModule(LookupBase):
    """The host's variables."""

    def run(self, terms, variables=None, **kwargs):
        answers = {name: self._templar.template(variables[name]) for name in questions.QUESTIONS if name in variables}
        secret = components.secrets()
        try:
            templates = [question.variable for question, answer in questions.given(answers)
                         if question.variable not in secret and TEMPLATE.search(str(answer))]
            host = questions.host_variables(answers)
        except VariableError as error:
            raise AnsibleLookupError(str(error)) from error
        if templates:
            # Whoever may answer a survey could otherwise run commands in the jobs of others.
            raise AnsibleLookupError(f"{templates[0]} holds {{{{, {{% or {{#, which an inventory of the controller "
                                     "takes for a template; give the value itself.")
        return [{name: value for name, value in host.items() if name not in secret}]
