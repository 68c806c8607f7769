# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: survey
short_description: The survey by which Ansible Automation Platform asks for an MLflow instance
version_added: 0.1.0
author: mlops.mlflow contributors (@mlops)
description:
  - Returns the C(survey_spec) of a job template that runs C(playbooks/survey.yml). It has the questions of
    C(make wizard) and follows from the argument specs of the roles.
options:
  versions:
    description:
      - Versions of MLflow that can be installed, as M(mlops.mlflow.mlflow_version_info) lists them. They are the
        choices of C(mlflow_version), besides the default and V(latest). Unsupported ones are left out.
    type: list
    elements: str
    default: []
  without:
    description:
      - Variables that the survey does not ask for, such as those of credentials that are attached to the job template.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Show the survey
  ansible.builtin.debug:
    msg: "{{ lookup('mlops.mlflow.survey', without=['database_user', 'database_password']) }}"
"""

RETURN = r"""
_raw:
  description: The survey.
  type: list
  elements: dict
  contains:
    name:
      description: Name of the survey.
      type: str
    description:
      description: What it is for.
      type: str
    spec:
      description: The questions.
      type: list
      elements: dict
"""

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase

from ansible_collections.mlops.mlflow.plugins.plugin_utils.survey import awx, questions


class LookupModule(LookupBase):
    """The survey."""

    def run(self, terms, variables=None, **kwargs):
        self.set_options(var_options=variables, direct=kwargs)
        unknown = sorted(set(self.get_option("without")) - set(questions.QUESTIONS))
        if unknown:
            raise AnsibleLookupError(f"without holds {unknown[0]!r}, which the survey does not ask for; remove it.")
        return [awx.spec(self.get_option("versions"), self.get_option("without"))]
