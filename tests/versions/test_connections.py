# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""MLflow opens as many engines as plugin_utils/components/connections.py counts, so pools fit into the database."""

from __future__ import annotations

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

import mlflow_servers as servers
import pytest

from ansible_collections.mlops.mlflow.plugins.plugin_utils import model
from ansible_collections.mlops.mlflow.plugins.plugin_utils.components.connections import READ_ENGINES

ALL = {"mlflow_server_auth": "basic", "mlflow_server_workspaces": True}
REQUESTS = (
    ("GET", "/api/2.0/mlflow/experiments/get?experiment_id=0"),
    ("GET", "/api/2.0/mlflow/registered-models/search"),
    ("GET", "/api/3.0/mlflow/workspaces"),
    ("POST", "/api/2.0/mlflow/runs/search"),
)
"""Of each store."""
POOL, OVERFLOW = 2, 1
FIRST_WITH_REPLICAS = (3, 11)
REPLICA = "replica"
"""Connections to the read replica have this application_name; it is the same server by another address."""


def psql(postgresql, database, command):
    url = "postgresql://{user}:{password}@{host}:{port}/{database}".format(**{**postgresql, "database": database})
    done = subprocess.run([shutil.which("psql"), url, "--tuples-only", "--no-align", "--command", command], check=True,
                          capture_output=True, text=True)
    return done.stdout


@pytest.mark.parametrize(
    "version, features", [(servers.VERSIONS[-1], {}), *((version, ALL) for version in servers.VERSIONS)],
    ids=lambda value: value if isinstance(value, str) else "all" if value else "plain")
def test_engines(version, postgresql, features, tmp_path):
    variables = {"mlflow_server_workers": 1, "mlflow_server_threads": 1, "database_pool_size": POOL,
                 "database_pool_max_overflow": OVERFLOW, "database_host": "db.example.com", "database_password": "x",
                 **({"database_read_replica_host": "r.example.com"} if features else {}), **features}
    counted = model.resolve(variables.__getitem__, variables, "host").database.connections
    database = f"connections_{tmp_path.name}"
    psql(postgresql, "postgres", f'CREATE DATABASE "{database}"')
    options, environment = [], {}
    uri = f"postgresql+psycopg2://{postgresql['host']}:{postgresql['port']}/{database}"
    if features:
        options = ["--app-name=basic-auth"]
        environment = {**servers.logins(), "MLFLOW_AUTH_CONFIG_PATH": servers.auth_ini(tmp_path, uri),
                       "MLFLOW_ENABLE_WORKSPACES": "true",
                       "MLFLOW_READ_REPLICA_BACKEND_STORE_URI": f"{uri.replace('127.0.0.1', 'localhost')}"
                                                                f"?application_name={REPLICA}"}
    environment |= {
        "MLFLOW_BACKEND_STORE_URI": uri, "PGUSER": postgresql["user"], "PGPASSWORD": postgresql["password"],
        "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": str(POOL), "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW": str(OVERFLOW)}
    servers.prepare(version, tmp_path, "migrate", **environment)
    query = ("SELECT application_name, count(*) FROM pg_stat_activity "
             f"WHERE datname = '{database}' AND application_name <> 'psql' GROUP BY 1")

    def open_now():
        """Connections to the primary server and to the replica."""
        rows = dict(line.split("|") for line in psql(postgresql, database, query).split())
        replica = int(rows.pop(REPLICA, 0))
        return sum(map(int, rows.values())), replica

    with servers.mlflow(version, tmp_path, *options, **environment) as server:
        def ask(number):
            method, path = REQUESTS[number % len(REQUESTS)]
            body = {"json": {"experiment_ids": ["0"]}} if method == "POST" else {}
            return server.ask(method, path, auth=servers.CHIEF, **body).status_code

        for number in range(2 * len(REQUESTS)):
            ask(number)
        # One request at a time leaves one connection in each engine, here and in `mlflow server`; with a replica, these
        # requests need none of the two engines that write runs and models.
        primary, replica = open_now()
        missing = server.report["behaviours"].get("read_replica")
        assert bool(missing) == (bool(features) and servers.number(version) < FIRST_WITH_REPLICAS)
        readers = READ_ENGINES if features and not missing else 0
        assert readers <= replica <= 2 * readers
        assert counted.engines - readers <= primary <= 2 * counted.engines
        with ThreadPoolExecutor(16) as clients:
            answers = [clients.submit(ask, number) for number in range(96)]
            most = [0, 0]
            while not all(answer.done() for answer in answers):
                most = list(map(max, most, open_now()))
        assert counted.engines - readers < most[0] <= counted.engines * (POOL + OVERFLOW + 1)
        assert readers <= most[1] <= readers * (POOL + OVERFLOW + 1)
