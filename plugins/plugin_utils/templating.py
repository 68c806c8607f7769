# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ansible's templating of variables with the same results in every version.

Before ansible-core 2.19, text that looks like a mapping, a list or a boolean becomes one: the text of a key in JSON
reached a variable of type text as a mapping. Since then a template gives what its expression gives. The latter is what
all versions do here.
"""

from __future__ import annotations

from typing import Any, Iterable

from ansible.errors import AnsibleActionFail

try:
    from ansible._internal._templating import _engine  # noqa: F401  # pylint: disable=unused-import
except ImportError:
    from ansible.template import AnsibleEnvironment
    from ansible.utils.unsafe_proxy import wrap_var
    from jinja2.nativetypes import NativeCodeGenerator
else:
    AnsibleEnvironment = wrap_var = NativeCodeGenerator = None


class Failure(AnsibleActionFail):
    """Fails a task with text that may hold templates, of variables for example, which no later task resolves."""

    def __init__(self, text: str) -> None:
        if AnsibleEnvironment is None:  # text is no template unless something says so
            super().__init__(text)
        else:
            super().__init__(wrap_var(text))
            self.result.pop("exception", None)  # the traceback, of which Ansible would show the last line


def reason(error: Exception) -> str:
    """Why a template cannot be resolved, on one line and without the template, which versions of Ansible quote over and
    over."""
    line = (str(error).strip().splitlines() or [""])[0]
    return line.rpartition("original message: ")[2].partition(". String: ")[0]


def with_variables(templar: Any, available: dict[str, Any]) -> Any:
    """A copy of a templar to which other variables are available, and that gives values of the types that expressions
    have."""
    if AnsibleEnvironment is None:
        return templar.copy_with_new_env(available_variables=available)
    finalize = templar.environment.finalize  # it fails for what is undefined, and turns null into empty text

    def keep_null(value: Any) -> Any:
        return None if value is None else finalize(value)

    return templar.copy_with_new_env(environment_class=_NativeEnvironment, available_variables=available,
                                     finalize=keep_null)


def _concat(nodes: Iterable[Any]) -> Any:
    """The value of a template's only expression, of its own type; of several parts their text."""
    values = list(nodes)
    if len(values) == 1:
        return values[0]
    return "".join("" if value is None else str(value) for value in values) if values else None


if AnsibleEnvironment is not None:
    class _CodeGenerator(NativeCodeGenerator):
        """Leaves a constant that is a template's only part as it is, rather than as text."""

        def _output_const_repr(self, group: Iterable[Any]) -> str:
            values = list(group)
            return repr(values[0]) if len(values) == 1 else super()._output_const_repr(values)

    class _NativeEnvironment(AnsibleEnvironment):  # type: ignore[misc, valid-type]
        """Evaluates no text again, unlike Ansible's two environments before 2.19."""

        code_generator_class = _CodeGenerator
        concat = staticmethod(_concat)
