# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The questions as a survey of Ansible Automation Platform.

Source: https://docs.ansible.com/automation-controller/latest/html/userguide/job_templates.html#surveys and the checks
in ``JobTemplateSurveySpec`` and ``SurveyJobTemplateMixin`` of AWX: types text, textarea, password, integer, float,
multiplechoice and multiselect; no condition; an optional question that is not answered gives no variable, or an empty
text where its type is text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.mlops.mlflow.plugins.plugin_utils import components
from ansible_collections.mlops.mlflow.plugins.plugin_utils.model import variables
from ansible_collections.mlops.mlflow.plugins.plugin_utils.survey import questions
from ansible_collections.mlops.mlflow.plugins.plugin_utils.survey.questions import Question

LONGEST = {"text": 1024, "textarea": 32768, "password": 32768}
"""Longest answers, in characters; a certificate chain or a key in JSON has some thousands."""
REQUIRED = ("mlflow_instance",)


def spec(found: Iterable[str] = (), without: Iterable[str] = ()) -> dict[str, Any]:
    """The survey, as ``survey_spec`` of a job template.

    Args:
        found: versions of MLflow that can be installed.
        without: variables that are not asked for, since credentials or the template give them.
    """
    left_out = frozenset(without)
    asked = [
        _element(step.title, question, found)
        for step in questions.STEPS for question in step.questions
        if not question.terminal and question.variable not in left_out
    ]
    return {"name": "An MLflow instance", "description": "Describes an instance; docs/platform.md has the mapping.",
            "spec": asked}


def _element(step: str, question: Question, found: Iterable[str]) -> dict[str, Any]:
    kind = _kind(question)
    condition = question.condition()
    element: dict[str, Any] = {
        "question_name": f"{step}: {question.text}",
        "question_description": " ".join(filter(None, [question.help, f"Only if {condition}." if condition else ""])),
        "variable": question.variable,
        "type": kind,
        "required": question.variable in REQUIRED,
    }
    if kind in LONGEST:
        element.update(min=0, max=LONGEST[kind])
    elif kind == "integer":
        element.update(min=0, max=variables.INT32)
    elif question.variable == "mlflow_version":
        element["choices"] = questions.version_choices(found)
    else:
        element["choices"] = question.choices
    default = _answer(question.default)
    # A password has no default, and an empty one of a choice is none of its choices.
    if kind != "password" and default not in (None, ""):
        element["default"] = default
    return element


def _kind(question: Question) -> str:
    if question.choices or question.variable == "mlflow_version":
        return "multiplechoice"
    if question.secret:
        return "password"
    if question.spec.get("type") == "int":
        return "integer"
    multiline = question.variable in components.multiline() or question.spec.get("type") == "list"
    return "textarea" if multiline else "text"


def _answer(value: Any) -> Any:
    """A variable's value as a survey gives it."""
    if isinstance(value, bool):
        return str(value).lower()
    return "\n".join(value) if isinstance(value, list) else value


def defaults(survey: Mapping[str, Any]) -> dict[str, Any]:
    """The variables that a launch gives when nobody changes an answer."""
    return {element["variable"]: element["default"] for element in survey["spec"] if "default" in element}
