# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Inventory variables as the argument specs of the roles declare them: found, converted to their types, checked.

The specs in roles/*/meta/argument_specs.yml are the one place that says which variables there are, of which type and
with which default. Checks and templates read the converted values, never the raw ones.
"""

from __future__ import annotations

import difflib
import functools
import pathlib
import re
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Callable

import yaml
from ansible.module_utils.parsing.convert_bool import BOOLEANS_FALSE, BOOLEANS_TRUE

from ansible_collections.mlops.mlflow.plugins.module_utils import versions

ROLES = pathlib.Path(__file__).parents[3] / "roles"
OWN_PREFIXES = ("mlflow_server_", "object_storage_")
"""Prefixes that no other software's variables carry; with the others only a near miss counts as a misspelling."""
PLAYBOOK_VARIABLES = frozenset(("mlflow_hosts", "mlflow_open_port", "mlflow_open_seconds", "mlflow_model",
                                "mlflow_status", "mlflow_service_levels", "mlflow_service_levels_token",
                                "mlflow_results", "mlflow_failure", "mlflow_verify_backup", "mlflow_restore_set",
                                "mlflow_restore_from", "mlflow_restore_backup", "mlflow_restore_without_keys",
                                "mlflow_machine", "mlflow_gateway", "mlflow_purge_confirm",
                                "mlflow_upgrade_to", "mlflow_upgrade_serial", "mlflow_rollback_set",
                                "mlflow_rollback_restore", "mlflow_logs_dir", "mlflow_logs_lines",
                                "mlflow_restart_components", "mlflow_restart_unhealthy_only",
                                "mlflow_maintain_tasks", "mlflow_maintain_older_than_days", "mlflow_migrate_from",
                                "mlflow_adopt_release", "mlflow_adopt_namespace", "mlflow_adopt_instance",
                                "mlflow_adopt_inventory", "mlflow_adopt_secrets", "mlflow_adopt_overwrite",
                                "mlflow_adopt_confirm", "mlflow_adopt_without_data"))
"""Variables of playbooks and facts that they set, which no role declares."""
INTERNAL = ("_database_login", "_mlflow_server_closed", "_mlflow_server_keys", "_mlflow_server_image",
            "_mlflow_server_restoring", "_mlflow_server_service", "_mlflow_version")
"""Facts by which a role passes a value to its own templates."""
INSTEAD = "_mlflow_instead"
"""Variable of a task: variables by which it describes the instance instead of those of the host, see ``instead``."""
STORES = ("database_", "object_storage_")
CONTROL = re.compile(r"[\x00-\x1f\x7f\u0085\u2028\u2029]")
INVISIBLE = re.compile(r"[\u00a0\u00ad\u200b-\u200f\u202a-\u202e\u2060\u3000\ufeff]")
"""Blanks other than the usual one, and characters that are not seen, which text copied from a page may have."""
INT32 = 2**31 - 1


class VariableError(ValueError):
    """Wrong variables; the message has one sentence for each."""


def instead(host_vars: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The variables of a host with others in their place.

    Args:
        host_vars: of the host.
        given: the others. Where one of them is about the database, none of the host's about the database is used;
            likewise with the object store.
    """
    replaced = tuple(prefix for prefix in STORES if any(name.startswith(prefix) for name in given))
    return {**{name: value for name, value in host_vars.items() if not name.startswith(replaced)}, **given}


class Variables(Mapping):
    """The typed values of all variables, by name or as attributes."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def changed(self, **values: Any) -> Variables:
        """The same variables with other values."""
        return Variables({**self._values, **values})

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
        options.update(yaml.load(path.read_text(encoding="utf-8"),
                                 Loader=loader)["argument_specs"]["main"].get("options") or {})
    return options


SPECS: Mapping[str, dict] = types.MappingProxyType(load_specs())
"""Read once, with the plugin, in Ansible's parent process."""


def collect(find: Callable[[str], Any], names: Iterable[str], multiline: frozenset[str] = frozenset(),
            secrets: frozenset[str] = frozenset(), specs: Mapping[str, dict] = SPECS,
            separated: frozenset[str] = frozenset()) -> Variables:
    """Convert all variables that the specs declare.

    Args:
        find: gives the templated value of a variable that is set; it may raise VariableError.
        names: names of all variables that are set, the collection's and others.
        multiline: text variables that may have more than one line.
        secrets: variables whose values no message may show.
        specs: the options that there are.
        separated: lists that may be given as text, with commas or line breaks between their entries.

    Raises:
        VariableError: with a sentence for each variable that is misspelt, undefined or of another type.
    """
    set_here = frozenset(names)
    problems = [*misspelt(set_here, specs), *nested(find, set_here, specs)]
    values: dict[str, Any] = {}
    for name, spec in specs.items():
        if name not in set_here:
            values[name] = default_of(spec)
            continue
        try:
            values[name] = convert(name, find(name), spec,
                                   Form(name in multiline, name in secrets, name in separated))
        except VariableError as error:
            problems.append(str(error))
    if problems:
        raise VariableError("\n".join(problems))
    values.update({name: find(name) for name in INTERNAL if name in set_here})
    return Variables(values)


def default_of(spec: dict) -> Any:
    """The default that a spec declares, of its type; None where it declares none."""
    default = spec.get("default")
    return None if isinstance(default, str) and "{{" in default else default


def is_default(name: str, value: Any) -> bool:
    """Whether a variable has its default, also as ``convert`` returns that, which fills mappings."""
    default = default_of(SPECS[name])
    return value == default or isinstance(default, dict) and value == convert(name, default, SPECS[name], Form())


OTHER_ROLES = tuple(sorted(path.parent.parent.name for path in ROLES.glob("[!m]*/meta/argument_specs.yml")))
"""Roles whose prefix does not begin with mlflow."""
WRONG_PREFIXES = {
    **{f"{outer}{role}_": f"{role}_" for role in OTHER_ROLES for outer in ("mlflow_", "mlflow_server_")},
    "mlflow_db_": "database_", "mlflow_storage_": "object_storage_", "mlflow_artifact_store_": "object_storage_",
    "objectstorage_": "object_storage_", "object_store_": "object_storage_", "mlflowserver_": "mlflow_server_",
    "mlflow_tracking_server_": "mlflow_server_",
}
"""Beginnings that are given to variables of a role whose prefix is another."""
WHOLE = frozenset({"mlflow", "mlflow_server", *OTHER_ROLES, *(f"mlflow_{role}" for role in OTHER_ROLES)})
"""Names of mappings in which variables are nested by mistake: roles' and what could be taken for them."""
COMMON_NAMES = frozenset(name for name in WHOLE if not name.startswith(("mlflow", "object_storage")))
"""Those of them that other software may use for mappings of its own."""


def misspelt(names: Iterable[str], specs: Mapping[str, dict] = SPECS) -> Iterator[str]:
    """A sentence for each variable that looks like one of the collection's and is none."""
    # YAML makes other types of names such as off and 8080; variables of the collection have none of these.
    for name in sorted({name for name in names if isinstance(name, str)}):
        if name in specs or name in PLAYBOOK_VARIABLES or name in WHOLE:
            continue
        near = _near(name)
        if near in specs:
            yield f"{name} is not a variable of this collection; use {near}."
        elif name.startswith(OWN_PREFIXES):
            yield (f"{name} is not a variable of this collection; remove it, or see docs/variables.md for those that "
                   "exist.")


@functools.lru_cache(maxsize=4096)
def _near(name: str) -> str:
    """The variable of the collection that a name is likely meant to be, or an empty text."""
    plain = name.lower().replace("-", "_")
    if plain != name and plain in SPECS:
        return plain
    for wrong, right in WRONG_PREFIXES.items():
        if plain.startswith(wrong):
            whole = right + plain[len(wrong):]
            near = [whole] if whole in SPECS else difflib.get_close_matches(whole, SPECS, n=1, cutoff=0.86)
            if near:
                return near[0]
    first = plain.split("_", 1)[0]
    firsts = {known.split("_", 1)[0] for known in SPECS}
    if not difflib.get_close_matches(first, firsts, n=1, cutoff=0.8):
        return ""
    # A name that begins right may end a little further off than one whose beginning is misspelt.
    near = difflib.get_close_matches(plain, SPECS, n=1, cutoff=0.86 if first in firsts else 0.9)
    return near[0] if near else ""


def nested(find: Callable[[str], Any], names: frozenset[str], specs: Mapping[str, dict] = SPECS) -> Iterator[str]:
    """A sentence for each mapping that holds variables of the collection, which are not nested."""
    for name in sorted((names & WHOLE) - set(specs)):
        try:
            value = find(name)
        except VariableError:
            continue  # somebody else's variable
        for path in _leaves(name, value) if isinstance(value, dict) else ():
            near = path if path in specs else _near(path)
            if near in specs:
                yield f"{name} is a mapping, and the variables of this collection are not nested; write {near} instead."
                break
        else:
            if name.startswith(("mlflow_", "object_storage")):
                yield (f"{name} is not a variable of this collection; remove it, or see docs/variables.md for those "
                       "that exist.")


def _leaves(prefix: str, value: dict) -> Iterator[str]:
    """The names of all entries of nested mappings, joined as a variable's name is."""
    for key, entry in value.items():
        name = f"{prefix}_{key}"
        yield name
        if isinstance(entry, dict):
            yield from _leaves(name, entry)


@dataclass(frozen=True)
class Form:
    """How the text of a variable is taken.

    Attributes:
        multiline: whether it may have line breaks.
        secret: whether no message may show it.
        separated: whether a list may be given as text, with commas or line breaks between its entries, as surveys of
            Ansible Automation Platform give it.
    """

    multiline: bool = False
    secret: bool = False
    separated: bool = False

    def shown(self, value: Any) -> str:
        """A value in a message."""
        if self.secret and not isinstance(value, (bool, dict, list)) and value is not None:
            return "a value that is not shown"
        return _shown(value)


def convert(name: str, value: Any, spec: Mapping, form: Form = Form()) -> Any:
    """A value as the type that its spec declares.

    Args:
        name: what to call the value in an error, such as ``ingress_gateway.name``.
        value: the templated value.
        spec: type, elements, choices, options and default, as in an argument spec.
        form: how text is taken.

    Raises:
        VariableError: one sentence, naming the value and what would be right.
    """
    if value is None:
        if spec.get("default") is not None:
            raise VariableError(f"{name} is null; leave it out to have its default ({_shown(spec['default'])}), or "
                                f"give {_wanted(spec)}.")
        return None
    converted = CONVERTERS[spec.get("type", "str")](name, value, spec, form)
    for entry in converted if isinstance(converted, list) else [converted]:
        if spec.get("choices") and entry not in spec["choices"]:
            what = f"holds {_shown(entry)}; each" if isinstance(converted, list) else f"is {_shown(value)}; {name}"
            raise VariableError(f"{name} {what} must be one of "
                                f"{', '.join(map(_choice, spec['choices']))}.")
    return converted


def _text(name: str, value: Any, spec: Mapping, form: Form) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise VariableError(f"{name} is {form.shown(value)}; it must be "
                            f"text{', in quotes' if isinstance(value, bool) else ''}.")
    text = str(value)
    control = None if form.multiline else CONTROL.search(text)
    if control:
        what = "a line break" if control[0] in "\n\r\u0085\u2028\u2029" else "a control character"
        raise VariableError(f"{name} holds {what}; it must be one line of text.")
    if form.multiline and "\x00" in text:
        raise VariableError(f"{name} holds a control character; it must be text.")
    if not form.secret and not form.multiline and text != text.strip():
        raise VariableError(f"{name} begins or ends with a blank ({_shown(text)}); remove it.")
    invisible = None if form.secret else INVISIBLE.search(text)
    if invisible:
        raise VariableError(f"{name} holds the character U+{ord(invisible[0]):04X}, which is not seen; remove it.")
    if any(0xD800 <= ord(letter) <= 0xDFFF for letter in text):
        raise VariableError(f"{name} holds half a character (a lone surrogate); it must be text in UTF-8.")
    return text


def _int(name: str, value: Any, spec: Mapping, form: Form) -> int:
    number = value
    if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,18}", value.strip()):
        number = int(value)
    if isinstance(number, int) and not isinstance(number, bool):
        if abs(number) > INT32:
            raise VariableError(f"{name} is {number}; it must be a whole number of at most {INT32}.")
        return number
    raise VariableError(f"{name} is {_shown(value)}; it must be a whole number.")


def _float(name: str, value: Any, spec: Mapping, form: Form) -> float:
    number = value
    if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,18}([.][0-9]{1,18})?", value.strip()):
        number = float(value)
    if isinstance(number, (int, float)) and not isinstance(number, bool) and abs(number) <= INT32:
        return number
    raise VariableError(f"{name} is {_shown(value)}; it must be a number.")


def _bool(name: str, value: Any, spec: Mapping, form: Form) -> bool:
    if isinstance(value, bool):
        return value
    text = value.strip().lower() if isinstance(value, str) else value
    if isinstance(text, (str, int)) and text in BOOLEANS_TRUE:
        return True
    if isinstance(text, (str, int)) and text in BOOLEANS_FALSE:
        return False
    raise VariableError(f"{name} is {_shown(value)}; it must be true or false.")


def _list(name: str, value: Any, spec: Mapping, form: Form) -> list:
    if form.separated and isinstance(value, str):
        value = re.split(r"[,\s]+", value.strip(", \t\r\n")) if value.strip(", \t\r\n") else []
    if not isinstance(value, list):
        # A list of mappings may be given as text with secrets in it, such as NAME=value.
        shown = "text" if isinstance(value, str) and spec.get("elements") == "dict" else form.shown(value)
        raise VariableError(f"{name} is {shown}; it must be a list.")
    element = {"type": spec.get("elements", "str"), "options": spec.get("options")}
    result = []
    for number, entry in enumerate(value):
        if entry is None:
            raise VariableError(f"{name}[{number}] is null; remove it, or give {_wanted(element)}.")
        if entry == "":
            raise VariableError(f"{name}[{number}] is empty; remove it, or give {_wanted(element)}.")
        result.append(convert(f"{name}[{number}]", entry, element, form))
    return result


def _dict(name: str, value: Any, spec: Mapping, form: Form) -> dict:
    if not isinstance(value, dict):
        shown = "text" if isinstance(value, str) and name.endswith("]") else form.shown(value)
        raise VariableError(f"{name} is {shown}; it must be a mapping.")
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
    result = {}
    for key, option in options.items():
        entry = convert(f"{name}.{key}", value[key], option) if key in value else None
        if entry is not None:
            result[key] = entry
    for key, option in options.items():
        if key not in result and option.get("default") is not None:
            result[key] = option["default"]
    return result


CONVERTERS = {"str": _text, "path": _text, "int": _int, "float": _float, "bool": _bool, "list": _list, "dict": _dict}
WANTED = {"str": "text", "path": "a path", "int": "a whole number", "float": "a number",
          "bool": "true or false", "list": "a list", "dict": "a mapping"}


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
    if isinstance(value, str):
        value = versions.shown(value)
    return repr(value) if len(str(value)) <= 60 else repr(str(value)[:60] + "…")
