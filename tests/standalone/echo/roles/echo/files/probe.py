# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The probe of the echo."""

from __future__ import annotations

import urllib.request


def probe(checks, parameters):
    """Compare the page's text.

    Args:
        checks: collects the results.
        parameters: url, and text that the page must have.
    """
    def text():
        with urllib.request.urlopen(parameters["url"], timeout=5) as response:
            found = checks.facts["text"] = response.read().decode()
        if found != parameters["text"]:
            raise RuntimeError(f"the page has {found!r}, not {parameters['text']!r}")

    checks.run("text", text)
