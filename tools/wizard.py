# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Asks for an MLflow instance at a terminal and writes an inventory: `make wizard`.

The questions are those of the survey (plugins/plugin_utils/survey/questions.py). Questions that do not matter with the
answers before are left out. Each step is checked by the checks of site.yml, and asked again where they refuse it. At
the end it shows what site.yml would change, and offers to run it.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / ".cache" / "collections"))

import questionary  # noqa: E402
from ansible_collections.mlops.mlflow.plugins.module_utils import versions  # noqa: E402
from ansible_collections.mlops.mlflow.plugins.plugin_utils.model.variables import VariableError  # noqa: E402
from ansible_collections.mlops.mlflow.plugins.plugin_utils.survey import inventory, questions  # noqa: E402

SECONDS = 10
"""Longest time to wait for the package index."""


def found_versions() -> list[str]:
    """Versions of MLflow that can be installed; none where no package index answers."""
    try:
        return versions.available(os.environ.get("PIP_INDEX_URL") or versions.INDEX, timeout=SECONDS)
    except versions.VersionsError as error:
        print(f"{error}; the tested versions are offered.")
        return []


def convertible(question: questions.Question, answer: str) -> bool | str:
    """True, or why an answer is none."""
    try:
        question.convert(answer)
    except VariableError as error:
        return str(error)
    return True


def prompt(question: questions.Question, answers: dict):
    """Asks one question; the proposed answer is the former one, what is suggested, or the default."""
    former = answers.get(question.variable)
    proposed = (former, question.suggested, question.default)
    default = next((value for value in proposed if value not in (None, "", [])), "")
    if isinstance(default, list):
        default = ", ".join(default)
    if question.help:
        questionary.print(question.help, style="fg:ansibrightblack")
    if question.spec.get("type") == "bool":
        return questionary.confirm(question.text, default=bool(default)).unsafe_ask()
    choices = question.choices
    if question.variable == "mlflow_version":
        choices = questions.version_choices(found_versions())
    if choices:
        listed = [questionary.Choice(choice, value=choice) for choice in choices]
        if question.default == "":
            listed.insert(0, questionary.Choice("none of these", value=""))
        chosen = str(default) if str(default) in choices else None
        return questionary.select(question.text, choices=listed, default=chosen).unsafe_ask()
    if question.secret:
        return questionary.password(question.text, default=str(default)).unsafe_ask()
    optional = question.default is None and not question.suggested
    answer = questionary.text(question.text, default=str(default), validate=lambda text: (
        True if optional and not text else convertible(question, text))).unsafe_ask()
    return answer if answer == "" else question.convert(answer)


def ask_step(step: questions.Step, answers: dict) -> None:
    """Asks the questions of a step until the checks refuse none of its answers."""
    names = {question.variable for question in step.questions}
    later = {question.variable for other in questions.STEPS[questions.STEPS.index(step) + 1:]
             for question in other.questions}
    while True:
        questionary.print(f"\n{step.title}", style="bold")
        for question in step.questions:
            if question.matters(answers):
                answers[question.variable] = prompt(question, answers)
            else:
                answers.pop(question.variable, None)
        refused = [sentence for sentence in questions.problems(answers)
                   if any(name in sentence for name in names) and not any(name in sentence for name in later)]
        if not refused:
            return
        for sentence in refused:
            questionary.print(sentence, style="fg:ansired")


def review(answers: dict) -> bool:
    """Shows all answers and corrects steps until they are accepted; False where they are not to be written."""
    while True:
        questionary.print("\nReview", style="bold")
        for question, answer in questions.given(answers):
            print(f"  {question.variable}: {'(not shown)' if question.secret else answer}")
        refused = questions.problems(answers)
        for sentence in refused:
            questionary.print(sentence, style="fg:ansired")
        accept = [] if refused else [questionary.Choice("Write the inventory", value="write")]
        steps = [questionary.Choice(f"Change: {step.title}", value=step) for step in questions.STEPS]
        chosen = questionary.select("Is this right?", choices=[
            *accept, *steps, questionary.Choice("End, and write nothing", value="end")]).unsafe_ask()
        if chosen in ("write", "end"):
            return chosen == "write"
        ask_step(chosen, answers)


def write(folder: pathlib.Path, files: dict[str, str]) -> None:
    """Writes the inventory; only its owner may read it, since it may hold secrets."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        path.chmod(0o600)


def folder_of(name: str) -> pathlib.Path:
    """The folder to write to, which an existing inventory leaves only when asked."""
    while True:
        folder = pathlib.Path(questionary.path("Folder of the inventory", default=f"inventories/{name}",
                                               only_directories=True).unsafe_ask()).expanduser()
        if not (folder / "hosts.yml").exists() or questionary.confirm(
                f"{folder} has an inventory. Overwrite it?", default=False).unsafe_ask():
            return folder


def run(folder: pathlib.Path, vault_password: str) -> int:
    """Shows what site.yml would change, and runs it where that is wanted."""
    play = ["ansible-playbook", "--inventory", str(folder), "playbooks/site.yml"]
    with tempfile.NamedTemporaryFile("w", prefix="mlflow-") as file:  # of its owner alone
        if vault_password:
            file.write(vault_password)
            file.flush()
            play += ["--vault-password-file", file.name]
        if questionary.confirm("Show what would change (--check)?", default=True).unsafe_ask():
            if subprocess.run([*play, "--check"], cwd=ROOT, check=False).returncode:
                return 1
        if questionary.confirm("Deploy it now?", default=False).unsafe_ask():
            return subprocess.run(play, cwd=ROOT, check=False).returncode
    print(f"Deploy it by: make quickstart INVENTORY={folder}"
          f"{' ARGS=--ask-vault-pass' if vault_password else ''}")
    return 0


def main() -> int:
    """The exit code: 0 where an inventory was written, and deployed if that was wanted."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        print("make wizard asks at a terminal. Without one, write an inventory; docs/variables.md has the variables.")
        return 1
    answers: dict = {}
    try:
        for step in questions.STEPS:
            ask_step(step, answers)
        if not review(answers):
            print("Nothing was written.")
            return 0
        vault_password = ""
        if any(question.secret for question, _answer in questions.given(answers)):
            vault_password = questionary.password(
                "Password for Ansible Vault, which encrypts the secrets (empty: only you can read the file)"
            ).unsafe_ask()
        folder = folder_of(answers["mlflow_instance"])
        write(folder, inventory.files(answers, vault_password))
        print(f"Written: {folder}")
        return run(folder, vault_password)
    except (KeyboardInterrupt, EOFError):
        print("Ended.")
        return 130


if __name__ == "__main__":
    sys.exit(main())
