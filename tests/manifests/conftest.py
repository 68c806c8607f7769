# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Says by which definitions custom resources were validated."""

from __future__ import annotations

import strict


def pytest_terminal_summary(terminalreporter):
    if strict.CRDS:
        kinds = ", ".join(sorted(strict.USED)) or "none yet"
        text = f"Custom resources were validated by the published definitions in {strict.CRDS}: {kinds}"
    else:
        text = ("Custom resources were validated by tests/manifests/schemas only: CRDS names no folder, and there is "
                f"no {strict.SHARED}")
    terminalreporter.write_line(text)
