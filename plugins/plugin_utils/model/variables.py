# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Inventory variables as the argument specs of the roles declare them: found, converted to their types, and named when wrong.

The specs in roles/*/meta/argument_specs.yml are the one place that says which variables there are, of which type and with
which default. Checks and templates read the converted values, never the raw ones.
"""

from __future__ import annotations

import difflib
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Callable

import yaml
from ansible.module_utils.parsing.convert_bool import BOOLEANS_FALSE, BOOLEANS_TRUE

ROLES = pathlib.Path(__file__).parents[3] / "roles"
OWN_PREFIXES = ("mlflow_server_", "object_storage_")
"""Prefixes that no other software's variables carry; with the others only a near miss counts as a misspelling."""
PLAYBOOK_VARIABLES = frozenset(("mlflow_hosts", "mlflow_open_port", "mlflow_open_seconds", "mlflow_model", "mlflow_status",
                                "mlflow_results", "mlflow_failure"))
"""Variables of playbooks and facts that they set, which no role declares."""
INTERNAL = ("_database_login",)
"""Facts by which a role passes a value to its own templates."""
CONTROL = re.compile(r"[\x00-\x1f\x7f\u0085\u2028\u2029]")


class VariableError(ValueError):
    """Wrong variables; the message has one sentence for each."""


class Variables(Mapping):
    """The typed values of all variables, by name or as attributes.

    Attributes:
        given: names of the variables that the inventory sets.
    """

    def __init__(self, values: dict[str, Any], given: Iterable[str] = ()) -> None:
        self._values, self.given = values, frozenset(given)

    def changed(self, **values: Any) -> Variables:
        """The same variables with other values."""
        return Variables({**self._values, **values}, self.given)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["_values"][name]
        except KeyError:
            raise AttributeError(name) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def load_specs(roles: pathlib.Path = ROLES) -> dict[str, dict]:
    """The options of the main entry point of every role, by name."""
    options: dict[str, dict] = {}
    for path in sorted(roles.glob("*/meta/argument_specs.yml")):
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        options.update(yaml.load(path.read_text(encoding="utf-8"), Loader=loader)["argument_specs"]["main"].get("options") or {})
    return options


SPECS = load_specs()
"""Read once, with the plugin, in Ansible's parent process."""


def collect(find: Callable[[str], Any], names: Iterable[str], multiline: frozenset[str],
            specs: Mapping[str, dict] = SPECS) -> Variables:
    """Convert all variables that the specs declare.

    Args:
        find: gives the templated value of a variable that is set; it may raise VariableError.
        names: names of all variables that are set, the collection's and others.
        multiline: text variables that may have more than one line.
        specs: the options that there are.

    Raises:
        VariableError: with a sentence for each variable that is misspelt, undefined or of another type.
    """
    set_here = frozenset(names)
    problems = list(misspelt(set_here, specs))
    values: dict[str, Any] = {}
    for name, spec in specs.items():
        if name not in set_here:
            values[name] = default_of(spec)
            continue
        try:
            values[name] = convert(name, find(name), spec, name in multiline)
        except VariableError as error:
            problems.append(str(error))
    if problems:
        raise VariableError("\n".join(problems))
    values.update({name: find(name) for name in INTERNAL if name in set_here})
    return Variables(values, (name for name in specs if name in set_here and values[name] != default_of(specs[name])))


def default_of(spec: dict) -> Any:
    """The default that a spec declares, of its type; None where it declares none."""
    default = spec.get("default")
    return None if isinstance(default, str) and "{{" in default else default


def misspelt(names: Iterable[str], specs: Mapping[str, dict] = SPECS) -> Iterator[str]:
    """A sentence for each variable that looks like one of the collection's and is none."""
    known = set(specs) | PLAYBOOK_VARIABLES
    prefixes = tuple({name.split("_", 1)[0] + "_" for name in specs})
    for name in sorted(set(names) - known):
        near = _with_right_prefix(name, specs)
        if not near and name.startswith(prefixes):
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.86)
        if near:
            yield f"{name} is not a variable of this collection; use {near[0]}."
        elif name.startswith(OWN_PREFIXES):
            yield f"{name} is not a variable of this collection; remove it, or see docs/variables.md for those that exist."


AMBIGUOUS_PREFIXES = {"server_": "mlflow_server_", "storage_": "object_storage_", "image_": "mlflow_image_"}
"""Beginnings that may be meant for ours, but which other software's variables have as well (server_name, storage_class)."""
WRONG_PREFIXES = {"mlflow_storage_": "object_storage_", "mlflow_artifact_": "object_storage_", "objectstorage_": "object_storage_",
                  "object_store_": "object_storage_", **AMBIGUOUS_PREFIXES}
"""Beginnings that users give to a variable, and the right one; beside those with mlflow_ or mlflow_server_ before a role's name."""


def _with_right_prefix(name: str, specs: Mapping[str, dict]) -> list[str]:
    """The variable that a name means whose prefix is another, if there is one."""
    for outer in ("mlflow_server_", "mlflow_"):
        inner = name.removeprefix(outer)
        if inner != name and inner in specs:
            return [inner]
    for wrong, right in WRONG_PREFIXES.items():
        meant = right + name.removeprefix(wrong)
        if name.startswith(wrong) and meant in specs:
            return [meant]
    return []


def convert(name: str, value: Any, spec: Mapping, multiline: bool = False) -> Any:
    """A value as the type that its spec declares.

    Args:
        name: what to call the value in an error, such as ``ingress_gateway.name``.
        value: the templated value.
        spec: type, elements, choices, options and default, as in an argument spec.
        multiline: whether text may have line breaks.

    Raises:
        VariableError: one sentence, naming the value and what would be right.
    """
    if value is None:
        if spec.get("default") is not None:
            raise VariableError(f"{name} is null; leave it out to have its default ({_shown(spec['default'])}), or give {_wanted(spec)}.")
        return None
    converted = CONVERTERS[spec.get("type", "str")](name, value, spec, multiline)
    for entry in converted if isinstance(converted, list) else [converted]:
        if spec.get("choices") and entry not in spec["choices"]:
            raise VariableError(f"{name} is {_shown(value)}; {name} must be one of {', '.join(map(_choice, spec['choices']))}.")
    return converted


def _text(name: str, value: Any, spec: Mapping, multiline: bool) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise VariableError(f"{name} is {_shown(value)}; it must be text{', in quotes' if isinstance(value, bool) else ''}.")
    text = str(value)
    control = None if multiline else CONTROL.search(text)
    if control:
        what = "a line break" if control[0] in "\n\r\u0085\u2028\u2029" else "a control character"
        raise VariableError(f"{name} holds {what}; it must be one line of text.")
    return text


def _int(name: str, value: Any, spec: Mapping, multiline: bool) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,18}", value.strip()):
        return int(value)
    raise VariableError(f"{name} is {_shown(value)}; it must be a whole number.")


def _bool(name: str, value: Any, spec: Mapping, multiline: bool) -> bool:
    if isinstance(value, bool):
        return value
    text = value.strip().lower() if isinstance(value, str) else value
    if isinstance(text, (str, int)) and text in BOOLEANS_TRUE:
        return True
    if isinstance(text, (str, int)) and text in BOOLEANS_FALSE:
        return False
    raise VariableError(f"{name} is {_shown(value)}; it must be true or false.")


def _list(name: str, value: Any, spec: Mapping, multiline: bool) -> list:
    if not isinstance(value, list):
        raise VariableError(f"{name} is {_shown(value)}; it must be a list.")
    element = {"type": spec.get("elements", "str"), "options": spec.get("options")}
    result = []
    for number, entry in enumerate(value):
        if entry is None:
            raise VariableError(f"{name}[{number}] is null; remove it, or give {_wanted(element)}.")
        result.append(convert(f"{name}[{number}]", entry, element, multiline))
    return result


def _dict(name: str, value: Any, spec: Mapping, multiline: bool) -> dict:
    if not isinstance(value, dict):
        raise VariableError(f"{name} is {_shown(value)}; it must be a mapping.")
    for key in value:
        if not isinstance(key, str):
            raise VariableError(f"{name} has the key {_shown(key)}; keys must be text, in quotes.")
    options = spec.get("options")
    if not options:
        return value
    for key in value:
        if key not in options:
            near = difflib.get_close_matches(key, options, n=1)
            raise VariableError(f"{name} has the key {key}, which does not exist; "
                                f"{f'use {near[0]}' if near else 'it may have ' + ', '.join(options)}.")
    result = {key: convert(f"{name}.{key}", value[key], option) for key, option in options.items() if key in value}
    for key, option in options.items():
        if key not in result and option.get("default") is not None:
            result[key] = option["default"]
    return result


CONVERTERS = {"str": _text, "path": _text, "int": _int, "bool": _bool, "list": _list, "dict": _dict}
WANTED = {"str": "text", "path": "a path", "int": "a whole number", "bool": "true or false", "list": "a list", "dict": "a mapping"}


def _wanted(spec: Mapping) -> str:
    return WANTED[spec.get("type", "str")]


def _choice(choice: Any) -> str:
    return repr(choice) if choice == "" else str(choice)


def _shown(value: Any) -> str:
    """A value in a message, short; of a mapping or list only what it is, since it may hold secrets."""
    if isinstance(value, bool) or value is None:
        return str(value).lower().replace("none", "null")
    if isinstance(value, (dict, list)):
        kind = "mapping" if isinstance(value, dict) else "list"
        return f"a {kind}" if value else f"an empty {kind}"
    return repr(value) if len(str(value)) <= 60 else repr(str(value)[:60] + "…")
