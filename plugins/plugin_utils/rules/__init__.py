# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an instance's variables must fulfil together, beyond the types and choices that argument_specs can say.

Each rule is a function that takes the instance's variables (all roles', templated) and yields sentences; each sentence names
the variable, what is wrong with it and what would be right. There is a file for each role, and one for what all share.
"""

from __future__ import annotations

import difflib
from typing import Iterable, Iterator

from ansible_collections.mlops.mlflow.plugins.plugin_utils.rules import database, ingress, instance, mlflow_server, object_storage
from ansible_collections.mlops.mlflow.plugins.plugin_utils.rules.terms import Rule, Variables

OURS_ALONE = ("mlflow_server_", "object_storage_")
"""Prefixes that nobody else's variables carry; with the others only a near miss counts as a misspelling."""
RULES: tuple[Rule, ...] = (*instance.RULES, *object_storage.RULES, *database.RULES, *mlflow_server.RULES, *ingress.RULES)


def misspelt(names: Iterable[str], known: set[str]) -> Iterator[str]:
    """Variables that look like the collection's own but are none."""
    prefixes = {name.split("_", 1)[0] + "_" for name in known}
    for name in sorted(names):
        if name in known or not name.startswith(tuple(prefixes)):
            continue
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.86)
        if near:
            yield f"{name} is no variable of this collection; {near[0]} is."
        elif name.startswith(OURS_ALONE):
            yield f"{name} is no variable of this collection; remove it, or see docs/variables.md for those there are."


def broken(variables: Variables) -> Iterator[str]:
    """Sentences for all rules that the variables break; rules about roles that the play does not have say nothing."""
    for rule in RULES:
        try:
            yield from list(rule(variables))
        except KeyError:
            continue
