# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the documentation names is there: variables, modules, files."""

from __future__ import annotations

import pathlib
import re

import pytest
import yaml
from ansible_collections.mlops.mlflow.plugins.plugin_utils.model.variables import PLAYBOOK_VARIABLES, SPECS
from ansible_collections.mlops.mlflow.plugins.plugin_utils.monitoring import metrics

ROOT = pathlib.Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")])
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir())
NAMES = {path.stem for path in [*ROOT.glob("plugins/modules/*.py"),
                                *ROOT.glob("plugins/action/*.py")]} | set(ROLES) | PLAYBOOK_VARIABLES | {
    name for role in ROLES for part in ("defaults",
                                        "vars") if (path := ROOT / "roles" / role / part / "main.yml").exists()
    for name in yaml.safe_load(path.read_text()) or {}}

NAMES |= {key for spec in SPECS.values() for key in spec.get("options") or {}}
"""Keys of variables that are mappings."""
NAMES |= set(metrics.BY_SERIES) | {metric.name for metric in metrics.METRICS}
"""Metrics, which are named like variables."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_variables_that_a_page_names_exist(page):
    named = set(re.findall(rf"`((?:{'|'.join(ROLES)})_[a-z_]*[a-z])`", page.read_text()))
    of_playbooks = set(re.findall(r"mlflow_[a-z_]+",
                                  "".join(path.read_text() for folder in ("playbooks", "extensions")
                                          for path in (ROOT / folder).glob("**/*.yml"))))
    assert not named - NAMES - of_playbooks, sorted(named - NAMES)


def test_variables_of_the_environment_that_contributors_set_are_read():
    named = set(re.findall(r"\b(?:MOLECULE|MLOPS)_[A-Z_]+(?==)", (ROOT / "CONTRIBUTING.md").read_text()))
    read = "".join(path.read_text() for folder in ("molecule", "tests") for path in (ROOT / folder).glob("**/*")
                   if path.suffix in (".py", ".yml"))
    assert named and all(re.search(rf"[\"{{]{name}\b", read) for name in named), named


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_links_exist(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_every_variable_has_a_default_or_says_what_it_is():
    """A variable is documented where it is checked, and what is checked has a default beside it."""
    for role in ROLES:
        options = yaml.safe_load((ROOT / "roles" / role / "meta" / "argument_specs.yml").read_text())["argument_specs"][
            "main"
        ]["options"]
        defaults = yaml.safe_load((ROOT / "roles" / role / "defaults" / "main.yml").read_text())
        assert set(options) == set(defaults), (role, set(options) ^ set(defaults))
        for name, option in options.items():
            default = defaults[name]
            if "{{" not in str(default) and default is not None:
                assert option.get("default") == default, (name, option.get("default"), default)


def test_ansible_finds_no_templates_in_descriptions():
    """Ansible evaluates argument specs before a role starts."""
    for role in ROLES:
        options = yaml.safe_load((ROOT / "roles" / role / "meta" / "argument_specs.yml").read_text())["argument_specs"][
            "main"
        ]["options"]
        assert not [name for name, option in options.items() if "{{" in str(option["description"])], role


def test_defaults_of_the_action_group_suit_all_its_modules():
    """Roles of the collection run in plays that set them."""
    group = yaml.safe_load((ROOT / "meta/runtime.yml").read_text())["action_groups"]["all"]
    with_engine = sorted(
        path.stem for path in ROOT.glob("plugins/modules/*.py") if "- mlops.mlflow.engine\n" in path.read_text())
    assert group == with_engine
