# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rules of AWX for what it takes, written from its documentation and its source, for those who have no AWX at hand.

Sources: ``JobTemplateSurveySpec`` (api/views), ``SurveyJobTemplateMixin`` (main/models/mixins.py),
``CredentialTypeInputField`` and ``CredentialTypeInjectorField`` (main/fields.py) of AWX 24.6.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import jinja2
import jinja2.sandbox

TYPES: dict[str, tuple[type, ...]] = {
    "text": (str,), "textarea": (str,), "password": (str,), "multiplechoice": (str,), "multiselect": (str, list),
    "integer": (int,), "float": (int, float)}
FIELDS = {"id", "label", "type", "format", "choices", "help_text", "multiline", "secret", "default", "ask_at_runtime"}
"""What an input of a credential type may have."""
BLOCKED = {"PYTHONPATH", "PATH", "LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONHOME", "HOME", "SSH_AUTH_SOCK"}


def survey_problems(survey: Mapping[str, Any]) -> Iterator[str]:
    """Why a survey is refused."""
    for field, kind in (("name", str), ("description", str), ("spec", list)):
        if not isinstance(survey.get(field), kind):
            yield f"{field} is missing or not of type {kind.__name__}"
    seen = set()
    for number, element in enumerate(survey.get("spec") or []):
        for field, kind in (("type", str), ("question_name", str), ("variable", str), ("required", bool)):
            if not isinstance(element.get(field), kind):
                yield f"{field} of question {number} is missing or not of type {kind.__name__}"
                return
        variable = element["variable"]
        if variable in seen:
            yield f"{variable} is asked for twice"
        seen.add(variable)
        yield from _element_problems(element, variable)


def _element_problems(element: Mapping[str, Any], variable: str) -> Iterator[str]:
    kind = element["type"]
    if kind not in TYPES:
        yield f"{variable} has the type {kind}"
        return
    default = element.get("default", "")
    if default != "" and (not isinstance(default, TYPES[kind]) or isinstance(default, bool)):
        yield f"the default of {variable} is of another type"
    for limit in ("min", "max"):
        if element.get(limit) is not None and (isinstance(element[limit], bool) or not isinstance(element[limit], int)):
            yield f"{limit} of {variable} is no integer"
    if kind.startswith("multi"):
        choices = element.get("choices")
        if not choices or any(not isinstance(choice, str) or not choice.strip() for choice in choices):
            yield f"{variable} has no choices, or an empty one"
        elif default != "" and default not in choices:
            yield f"the default of {variable} is none of its choices"
    if isinstance(default, str) and default.startswith("$encrypted$"):
        yield f"the default of {variable} is a reserved word"


def launch(survey: Mapping[str, Any], answers: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The extra variables of a job, and why its launch is refused: defaults, overridden by answers.

    An answer that no question asks for is refused, as without "prompt on launch" of variables.
    """
    elements = {element["variable"]: element for element in survey["spec"]}
    problems = [f"{name} is not allowed on launch" for name in answers if name not in elements]
    for name, element in elements.items():
        if name in answers:
            problems += _answer_problems(element, answers[name])
        elif element["required"]:
            problems.append(f"{name} is missing")
    defaults = {name: element["default"] for name, element in elements.items()
                if element.get("default") is not None and not list(_answer_problems(element, element["default"]))}
    return {**defaults, **answers}, problems


def _answer_problems(element: Mapping[str, Any], answer: Any) -> Iterator[str]:
    variable, kind = element["variable"], element["type"]
    if kind in ("text", "textarea", "password"):
        if not isinstance(answer, str):
            yield f"{variable} is no text"
            return
        size: Any = len(answer)
    elif kind in ("integer", "float"):
        if isinstance(answer, bool) or not isinstance(answer, TYPES[kind]):
            yield f"{variable} is no {kind}"
            return
        size = answer
    else:
        chosen = answer if isinstance(answer, list) else [answer]
        if not set(chosen) <= set(element["choices"]) or (kind == "multiselect") != isinstance(answer, list):
            yield f"{variable} is none of its choices"
        return
    if element.get("min") is not None and size < element["min"]:
        yield f"{variable} is too small"
    if element.get("max") is not None and size > element["max"]:
        yield f"{variable} is too large"


def credential_type_problems(inputs: Mapping[str, Any], injectors: Mapping[str, Any]) -> Iterator[str]:
    """Why a credential type is refused."""
    identifiers = []
    for field in inputs.get("fields", []):
        identifier, kind = field.get("id", ""), field.get("type", "string")
        identifiers.append(identifier)
        if not re.fullmatch(r"[a-zA-Z_]+[a-zA-Z0-9_]*", identifier) or identifier == "tower" or not field.get("label"):
            yield f"{identifier!r} is no name of an input, or it has no label"
        unknown = set(field) - FIELDS
        if unknown or kind not in ("string", "boolean"):
            yield f"{identifier} has {', '.join(sorted(unknown))} or the type {kind}"
        if kind == "boolean" and {"choices", "multiline", "format", "secret"} & set(field):
            yield f"{identifier} is a boolean and has what only a string may have"
    if len(identifiers) != len(set(identifiers)):
        yield "an input is there twice"
    if set(inputs.get("required", [])) - set(identifiers) or set(inputs) - {"fields", "required"}:
        yield "an input is required that does not exist, or inputs has other keys"
    if set(injectors) - {"env", "file", "extra_vars"}:
        yield "injectors has other keys than env, file and extra_vars"
    for name in injectors.get("env", {}):
        if name.startswith("ANSIBLE_") or name in BLOCKED or not re.fullmatch(r"[a-zA-Z_]+[a-zA-Z0-9_]*", name):
            yield f"the environment variable {name} is not allowed"
    try:
        inject(injectors, dict.fromkeys(identifiers, "EXAMPLE"), strict=True)
    except jinja2.TemplateError as error:
        yield f"a template is refused: {error}"


def inject(injectors: Mapping[str, Any], values: Mapping[str, str], strict: bool = False) -> dict[str, dict[str, str]]:
    """What a credential gives to a job: environment, files and extra variables.

    Args:
        injectors: of its type.
        values: of its inputs; those that are left empty are undefined.
        strict: whether a template may name only these.
    """
    sandbox = jinja2.sandbox.ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined if strict else jinja2.Undefined)
    names = injectors.get("file", {})
    filename: Any = "/runner/env/file" if "template" in names else {
        name.partition(".")[2]: f"/runner/env/{name.partition('.')[2]}" for name in names}
    context = {**{name: value for name, value in values.items() if value}, "tower": {"filename": filename}}
    return {kind: {name: sandbox.from_string(template).render(context) for name, template in templates.items()}
            for kind, templates in injectors.items()}
