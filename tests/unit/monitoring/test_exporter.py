# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The exporter as it runs in its pod, on real databases, stores and servers with known contents."""

from __future__ import annotations

import pytest
from exporters import KNOWN, environment_of, exporting, fill, unit, uri_of, value

postgresql, mariadb, seaweedfs = unit.postgresql, unit.mariadb, unit.seaweedfs


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory):
    return {"dialect": "sqlite", "path": f"{tmp_path_factory.mktemp('sqlite')}/mlflow.db"}


@pytest.fixture(scope="module", params=["sqlite", "postgresql", "mariadb"])
def database(request, tmp_path_factory):
    """A database with known contents. MariaDB has no users, since MLflow cannot make their tables in it."""
    found = request.getfixturevalue(request.param)
    users = {"sqlite": lambda: uri_of(found).replace("mlflow.db", "users.db"), "postgresql": lambda: uri_of(found),
             "mariadb": lambda: ""}[request.param]()
    fill(found, tmp_path_factory.mktemp("filled"), users)
    return found


def test_known_contents_are_found_exactly(database, tmp_path):
    with exporting(tmp_path, **environment_of(database)) as exporter:
        found = exporter.collected("database", "counts")
        assert {name: found[name] for name in KNOWN} == KNOWN
        assert found.get("mlflow_users") == (None if database["dialect"] == "mysql" else {(): 3})
        assert value(found, "mlflow_database_up") == 1
        assert value(found, "mlflow_database_size_bytes") > 100_000
        assert value(found, "mlflow_schema_current") == 1
        queries = {dict(labels)["query"] for labels in found["mlflow_database_query_duration_seconds"]}
        assert {"connect", "ping", "runs", "model_versions"} <= queries
        if database["dialect"] != "sqlite":
            used, allowed = (value(found, f"mlflow_database_connections_{which}") for which in ("used", "allowed"))
            assert 1 <= used < allowed
