# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Lines of Python end at 120 columns; .yamllint checks those of YAML."""

from __future__ import annotations

import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[2]
COLUMNS = 120
FILES = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize("name", FILES)
def test_lines_end_at_120_columns(name):
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    long = [f"{name}:{number}: {len(line)} columns" for number, line in enumerate(lines, 1) if len(line) > COLUMNS]
    assert not long, "\n".join(long)


def test_there_are_files():
    assert len(FILES) > 100
