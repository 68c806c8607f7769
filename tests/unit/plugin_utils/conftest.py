# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A server that answers as the Kubernetes API does, and an engine that speaks to it."""

from __future__ import annotations

import pytest
from kubernetes_server import Server, engine_of


@pytest.fixture
def server():
    running = Server()
    yield running
    running.close()


@pytest.fixture
def engine(server, tmp_path, monkeypatch, request):
    """Of the scope that the module of the test names in SCOPE."""
    with engine_of(server, request.module.SCOPE, tmp_path, monkeypatch) as opened:
        yield opened
