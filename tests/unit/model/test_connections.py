# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The connection pool that follows from workers, pods and what the database allows."""

from __future__ import annotations

import itertools
import re

import pytest
from model_tests import refused, resolved

from ansible_collections.mlops.mlflow.plugins.plugin_utils import components, render
from ansible_collections.mlops.mlflow.plugins.plugin_utils.components.connections import SIZES

EXTERNAL = {"database_host": "db.example.com", "database_password": "x"}
REPLICA = {"database_read_replica_host": "replica.example.com"}
FEATURES = ({}, {"mlflow_server_auth": "basic"},
            {"mlflow_server_auth": "basic", "mlflow_server_workspaces": True, "mlflow_server_jobs": True})
SCALES = ({}, {"mlflow_server_replicas": 3}, {"mlflow_server_autoscaling": True})


def connections(**variables):
    return resolved(variables).database.connections


def server_env(variables):
    """Environment variables of the server's container, and of all other containers."""
    model = resolved({"mlflow_engine": "kubernetes", **variables})
    server, others = {}, {}
    for obj in render.render(components.by_role("mlflow_server"), model, {}):
        pod = (obj["spec"].get("jobTemplate") or obj)["spec"].get("template") if "spec" in obj else None
        for container in pod["spec"]["containers"] + pod["spec"].get("initContainers", []) if pod else ():
            names = server if container["name"] == "mlflow" else others
            names.update({entry["name"]: entry.get("value") for entry in container["env"]})
    return server, others


@pytest.mark.parametrize("size, features, scale", list(itertools.product(SIZES, FEATURES, SCALES)))
def test_no_preset_exceeds_what_its_database_allows(size, features, scale):
    given = {"mlflow_server_size": size, **features, **scale}
    assert refused(given) == []
    part = resolved(given).database
    assert part.connections.most <= part.connections.limit == part.max_connections >= 200
    assert 5 <= part.connections.pool <= 20 and 1 <= part.connections.overflow <= 10


def test_what_needs_connections():
    """2 workers, in 2 pods while they are updated."""
    plain = connections()
    assert (plain.engines, plain.pods, plain.workers) == (2, 2, 2)
    assert plain.most == 2 * (2 * 2 * (plain.pool + plain.overflow) + 2) + 12
    assert connections(mlflow_server_auth="basic").engines == 3
    assert connections(**FEATURES[2]).engines == 5
    assert connections(mlflow_server_replicas=3).pods == 4
    assert connections(mlflow_server_autoscaling=True, mlflow_server_autoscaling_max=6).pods == 7


def test_the_pool_is_the_largest_that_fits():
    assert (connections().pool, connections(database_max_connections=300).overflow) == (20, 10)
    for allowed in range(60, 400):
        if refused({"database_max_connections": allowed}):
            assert allowed < connections().needed(6)
            continue
        found = connections(database_max_connections=allowed)
        assert found.most <= allowed
        assert (found.pool, found.overflow) == (20, 10) or found.needed(found.pool + found.overflow + 1) > allowed
        assert found.overflow == 1 or found.pool == 20


def test_without_a_known_limit_no_engine_has_more_than_by_default():
    found = connections(**EXTERNAL)
    assert (found.limit, found.pool + found.overflow) == (None, 15)
    assert connections(**EXTERNAL, database_max_connections=100).most <= 100
    assert connections(**EXTERNAL, database_pool_max_overflow=4).pool == 11
    assert connections(**EXTERNAL, database_pool_size=9).overflow == 10
    assert connections(**EXTERNAL, mlflow_server_threads=30).pool == 30
    assert connections(**EXTERNAL, mlflow_server_threads=12, database_pool_max_overflow=4).pool == 12


def test_a_read_replica_has_engines_of_its_own():
    """2 for each worker, whatever features are on; the pool of all engines is the largest that fits into both."""
    features = {**EXTERNAL, **FEATURES[1], "mlflow_server_workspaces": True}
    assert connections(**features).replica is None
    found = connections(**features, **REPLICA)
    assert (found.engines, found.replica.engines) == (4, 2) and found.replica.limit is None
    assert found.replica.most == 2 * (2 * 2 * (found.pool + found.overflow) + 2) + 12 < found.most
    assert of_an_engine(found) == of_an_engine(connections(**features))
    for primary, replica in itertools.product((None, 120, 200, 400), (None, 64, 100, 400)):
        given = {"database_max_connections": primary, "database_read_replica_max_connections": replica}
        limits = {name: value for name, value in given.items() if value}
        found = connections(**features, **REPLICA, **limits)
        assert found.most <= (primary or found.most) and found.replica.most <= (replica or found.replica.most)
        assert found.replica.pool + found.replica.overflow == sum(of_an_engine(found))
        one_more = sum(of_an_engine(found)) + 1
        assert (
            of_an_engine(found) == (20, 10) or not primary and one_more == 16
            or primary and found.needed(one_more) > primary or replica and found.replica.needed(one_more) > replica)


def of_an_engine(found):
    return found.pool, found.overflow


def test_a_database_allows_more_where_workers_need_it():
    """A connection for each thread, as far as its memory goes."""
    def allowed(**variables):
        return resolved(variables).database.max_connections

    assert allowed() == 200
    assert allowed(mlflow_server_size="large") == 400
    assert connections(mlflow_server_size="large").pool >= SIZES["large"].threads
    little = {"limits": {"memory": "512Mi"}}
    assert allowed(mlflow_server_size="large", database_resources=little) == 300
    assert connections(mlflow_server_size="large", database_resources=little).most <= 300
    assert allowed(mlflow_server_size="large", database_resources={}) == 400
    assert allowed(mlflow_server_size="large", database_max_connections=250) == 250
    assert allowed(**EXTERNAL) == 200
    args = render.render(components.by_role("database"), resolved({"mlflow_server_size": "large"}), {})
    assert "max_connections=400" in str(args)


REFUSED = {
    "pool": {"database_max_connections": 200, "database_pool_size": 40},
    "overflow": {"database_max_connections": 200, "database_pool_max_overflow": 60},
    "pool and overflow": {"database_max_connections": 200, "database_pool_size": 20, "database_pool_max_overflow": 10},
    "workers": {"database_max_connections": 200, "mlflow_server_workers": 20},
    "size": {"database_max_connections": 200, "mlflow_server_size": "large"},
    "replicas": {"database_max_connections": 200, "mlflow_server_replicas": 20},
    "autoscaling": {"database_max_connections": 200, "mlflow_server_autoscaling": True,
                    "mlflow_server_autoscaling_max": 20},
    "external": {**EXTERNAL, "database_max_connections": 80, "mlflow_server_size": "medium"},
    "threads": {"database_max_connections": 200, "mlflow_server_threads": 60},
    "replica": {**EXTERNAL, **REPLICA, "database_read_replica_max_connections": 60, "mlflow_server_size": "medium"},
    "pool and replica": {**EXTERNAL, **REPLICA, "database_read_replica_max_connections": 200, "database_pool_size": 40,
                         "database_max_connections": 1000},
    "threads and replica": {**EXTERNAL, **REPLICA, "database_read_replica_max_connections": 100,
                            "database_max_connections": 1000, "mlflow_server_threads": 12},
    "threads of a small pool": {"database_pool_size": 6},
    "more than PostgreSQL takes": {"mlflow_server_size": "large", "mlflow_server_replicas": 1000,
                                   "mlflow_server_auth": "basic"},
}


@pytest.mark.parametrize("given", REFUSED.values(), ids=REFUSED)
def test_each_number_that_a_refusal_names_is_right(given):
    (sentence,) = refused(given)
    remedies = re.findall(r"(\w+) to at (most|least) (\d+)", sentence)
    assert remedies
    for name, bound, text in remedies:
        number = int(text)
        assert refused({**given, name: number}) == [], (sentence, name)
        further = number + (1 if bound == "most" else -1)
        assert refused({**given, name: further}), (sentence, name)


def test_environment_of_the_server():
    server, others = server_env({"mlflow_server_threads": 3, "mlflow_server_disabled_hooks": ["direct", "preload"],
                                 "mlflow_server_gc_schedule": "0 3 * * 0", "database_pool_recycle": 300})
    assert server["MLOPS_MLFLOW_THREADS"] == "3" and server["MLOPS_MLFLOW_DISABLED_HOOKS"] == "direct,preload"
    assert (server["MLFLOW_SQLALCHEMYSTORE_POOL_SIZE"], server["MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW"]) == ("20", "3")
    assert server["MLFLOW_SQLALCHEMYSTORE_POOL_RECYCLE"] == "300"
    assert "MLFLOW_BACKEND_STORE_URI" in others
    assert not [name for name in others if name.startswith(("MLOPS_MLFLOW_", "MLFLOW_SQLALCHEMYSTORE_"))]


def test_environment_by_default():
    server, _others = server_env({})
    assert server["MLOPS_MLFLOW_THREADS"] == "8" and "MLOPS_MLFLOW_DISABLED_HOOKS" not in server


def test_a_file_has_no_pool():
    server, _others = server_env({"database_type": "sqlite"})
    assert not [name for name in server if name.startswith("MLFLOW_SQLALCHEMYSTORE_")]
    assert refused({"database_type": "sqlite", "database_max_connections": 10}) == []


def test_a_database_that_is_described_otherwise_has_a_pool():
    given = {"type": "postgresql", "uri": "postgresql+psycopg2://db/mlflow"}
    server, _others = server_env({"mlflow_server_database": given})
    assert server["MLFLOW_SQLALCHEMYSTORE_POOL_SIZE"] == "14"
    server, _others = server_env({"mlflow_server_database": {**given, "pool": {"A": 1}}})
    assert server["A"] == "1" and "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE" not in server


def test_the_probe_knows_what_the_server_may_open():
    def parameters(server="connections", **variables):
        model = resolved(variables)
        (probe,) = components.by_role("database").probes(model.variables, model)
        return probe.parameters.get(server)

    assert parameters() == {"workers": 2, "pods": 2, "most": connections().most, "variable": "database_max_connections"}
    assert parameters(database_type="sqlite") == {}
    assert parameters(mlflow_server_database={"type": "sqlite", "uri": "sqlite:////x"}) == {}
    assert parameters("read_replica_connections") is None
    features = {**EXTERNAL, **REPLICA, "mlflow_server_auth": "basic"}
    assert parameters("read_replica_connections", **features) == {
        "workers": 2, "pods": 2, "most": connections(**features).replica.most,
        "variable": "database_read_replica_max_connections"}
