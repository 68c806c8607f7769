# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The wizard at a terminal, with the keys that a person presses."""

from __future__ import annotations

import os
import pathlib
import re
import sys

import pexpect
from ansible_collections.mlops.mlflow.plugins.plugin_utils.survey import questions
from conftest import ENVIRONMENT, ROOT

DOWN, CLEAR = "\x1b[B", "\x15"
SECONDS = 60
STYLE = r"(?:\x1b\[[0-9;?]*[a-zA-Z])*"
"""Sequences by which a terminal is told colors and the place of the cursor."""


class Person:
    """Somebody at a terminal who answers the wizard's questions.

    Attributes:
        asked: variables that were asked for, in this order.
    """

    def __init__(self, home: pathlib.Path, index_url: str) -> None:
        environment = {**os.environ, **ENVIRONMENT, "ANSIBLE_HOME": str(home), "TERM": "xterm",
                       "PROMPT_TOOLKIT_NO_CPR": "1", "PIP_INDEX_URL": index_url}
        self.terminal = pexpect.spawn(sys.executable, ["tools/wizard.py"], cwd=str(ROOT), env=environment,
                                      timeout=SECONDS, encoding="utf-8", dimensions=(60, 400))
        self.asked: list[str] = []

    def expect(self, text: str) -> None:
        """Wait for a question."""
        self.terminal.expect(rf"\?{STYLE} {STYLE}{re.escape(text)}")

    def press(self, keys: str) -> None:
        """Press keys."""
        self.terminal.send(keys)

    def answer(self, answers: dict[str, str]) -> None:
        """Answer all questions of all steps: those of ``answers`` with these, others with what is proposed."""
        texts = {question.text: question for question in questions.QUESTIONS.values()}
        pattern = "|".join(map(re.escape, sorted(texts, key=len, reverse=True)))
        # A question is drawn again with each key, and with its answer when it is given.
        while True:
            self.terminal.expect(rf"\?{STYLE} {STYLE}({pattern}|Is this right\?)")
            text = self.terminal.match[1]
            if text == "Is this right?":
                return
            question = texts[text]
            if self.asked and self.asked[-1] == question.variable:
                continue
            self.asked.append(question.variable)
            self._answer(question, answers.get(question.variable))

    def _answer(self, question: questions.Question, answer: str | None) -> None:
        if answer is None:
            self.press("\r")
        elif question.spec.get("type") == "bool":
            self.press("y" if answer == "true" else "n")
        elif question.variable == "mlflow_version" or question.choices:
            choices = question.choices or questions.version_choices([])
            listed = ([""] if question.default == "" else []) + choices
            start = listed.index(str(question.default)) if question.default in listed else 0
            self.press(DOWN * ((listed.index(answer) - start) % len(listed)) + "\r")
        else:
            self.press(CLEAR + answer + "\r")
