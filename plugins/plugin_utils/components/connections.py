# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Presets of the server, and how many connections to a database its pods may open at once.

SQLAlchemy has one pool for each engine, and MLflow opens several engines in each worker: one for runs, one for models,
and more for users, workspaces and jobs. A pool keeps up to ``pool_size`` connections, and opens up to ``max_overflow``
more, which it closes after use. A read replica has engines of its own, beside those of the primary server: one for
reading runs, and one for reading models.

Source: mlflow/store/db/utils.py (create_sqlalchemy_engine) and its callers; measured with MLflow 3.17.2 by a server
under load against PostgreSQL.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Iterator

from ansible_collections.mlops.mlflow.plugins.plugin_utils.manifests import quantity, strategic_merge

if TYPE_CHECKING:
    from ansible_collections.mlops.mlflow.plugins.plugin_utils.model.variables import Variables


@dataclass(frozen=True)
class Size:
    """A preset.

    Attributes:
        workers: processes of each pod.
        threads: threads of each worker that answer API requests.
        resources: requests and limits of the container.
    """

    workers: int
    threads: int
    resources: dict


SIZES = {
    "small": Size(2, 8, {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"cpu": "2", "memory": "4Gi"}}),
    "medium": Size(4, 8, {"requests": {"cpu": "2", "memory": "4Gi"}, "limits": {"cpu": "4", "memory": "8Gi"}}),
    "large": Size(8, 8, {"requests": {"cpu": "4", "memory": "8Gi"}, "limits": {"cpu": "8", "memory": "16Gi"}}),
}
"""docs/sizes.md has the measurements."""
POOL, OVERFLOW = 20, 10
"""What a pool has where the database allows it. With 5, a busy worker opens and closes connections all the time (28 for
110 requests); 10 is SQLAlchemy's default."""
SMALLEST_POOL, SMALLEST_OVERFLOW = 5, 1
"""SQLAlchemy's default, and the least that can be set: MLflow passes no overflow of 0, which gives 10."""
DEFAULT_EACH = 15
"""Connections of an engine by default (5 + 10). No more where the database's limit is not known."""
MAX_CONNECTIONS, MOST_CONNECTIONS = 200, 100000
"""The least that a database of the collection allows by default, and the most that it can be told to."""
BESIDE = 12
"""Connections beside the server's pods: 3 that PostgreSQL reserves for superusers, 2 of the migration, 2 of gc, and the
rest for the exporter, probes, backups and people."""
READ_ENGINES = 2
"""Engines of each worker to a read replica; users, workspaces and jobs are read from the primary server."""
JOB_CONNECTIONS = 16
"""Connections of a pod's job execution: two of each of its eight processes, which open none while they are idle. An
estimate."""
MEMORY_EACH, MEMORY_BESIDE = 2 * 2**20, 256 * 2**20
"""Bytes that PostgreSQL needs for a connection of MLflow (measured: 1.9 MiB), and beside connections."""


@dataclass(frozen=True)
class Connections:
    """The connections that the server's pods may open to one database server.

    Attributes:
        workers: of each pod.
        threads: of each worker.
        pods: that may run at once, the additional one of a rolling update included.
        engines: of each worker, to this database server.
        beside: connections of each pod beside its workers': one for each engine in `mlflow server` itself, and those
            of jobs.
        limit: connections that the database allows, or None where it is not known.
        variable: that sets the limit.
        pool: connections that each engine keeps.
        overflow: connections that each engine may open beyond.
        replica: the same to the read replica, if there is one.
    """

    workers: int
    threads: int
    pods: int
    engines: int
    beside: int
    limit: int | None = None
    variable: str = "database_max_connections"
    pool: int = SMALLEST_POOL
    overflow: int = SMALLEST_OVERFLOW
    replica: Connections | None = None

    @property
    def most(self) -> int:
        """What all of them may open at once."""
        return self.needed(self.pool + self.overflow)

    @property
    def figures(self) -> dict:
        """What a probe compares with the server's own limit."""
        return {"workers": self.workers, "pods": self.pods, "most": self.most, "variable": self.variable}

    def needed(self, each: int) -> int:
        """What all of them may open at once if an engine has up to ``each``."""
        return self.pods * (self.workers * self.engines * each + self.beside) + BESIDE

    def fitting(self, limit: int) -> int:
        """The most that an engine may have within a limit."""
        return ((limit - BESIDE) // self.pods - self.beside) // (self.workers * self.engines)

    def fitting_workers(self, limit: int, each: int) -> int:
        """The most workers within a limit."""
        return ((limit - BESIDE) // self.pods - self.beside) // (self.engines * each)

    def fitting_pods(self, limit: int, each: int) -> int:
        """The most pods within a limit, without the additional one of a rolling update."""
        return (limit - BESIDE) // (self.workers * self.engines * each + self.beside) - 1


def resolve(v: Variables, managed: bool) -> Connections:
    """The pool that variables set, and where they set none, the largest one that fits.

    Args:
        v: the variables.
        managed: whether the collection runs the database.
    """
    size = SIZES[v.mlflow_server_size]
    engines = 2 + (v.mlflow_server_auth != "none") + v.mlflow_server_workspaces + v.mlflow_server_jobs
    replicas = v.mlflow_server_autoscaling_max if v.mlflow_server_autoscaling else v.mlflow_server_replicas
    users = Connections(
        workers=max(1, v.mlflow_server_workers or size.workers), threads=v.mlflow_server_threads or size.threads,
        pods=max(1, replicas) + 1, engines=engines,
        beside=engines + (JOB_CONNECTIONS if v.mlflow_server_jobs else 0))
    limit = v.database_max_connections
    if limit is None and managed:
        limit = _default_limit(v, users)
    replica = None
    if v.database_read_replica_host or v.database_read_replica or v.mlflow_server_database.get("replica_uri"):
        replica = replace(users, engines=READ_ENGINES, beside=users.beside - engines + READ_ENGINES,
                          limit=v.database_read_replica_max_connections,
                          variable="database_read_replica_max_connections")
    users = replace(users, limit=limit)
    limited = [each for each in (users, replica) if each and each.limit is not None]
    # All engines have pools of one size.
    each = min((known.fitting(known.limit) for known in limited), default=0)
    if limit is None:
        unknown = max(DEFAULT_EACH, users.threads + (v.database_pool_max_overflow or SMALLEST_OVERFLOW))
        each = min(each, unknown) if limited else unknown
    pool = v.database_pool_size
    if not pool:
        room = each - (v.database_pool_max_overflow or SMALLEST_OVERFLOW)
        pool = max(SMALLEST_POOL, min(max(POOL, users.threads), room))
    overflow = v.database_pool_max_overflow
    if not overflow:
        # A pool that a variable sets has SQLAlchemy's overflow, unless a database is known to allow less.
        room = OVERFLOW if not limited and v.database_pool_size else each - pool
        overflow = max(SMALLEST_OVERFLOW, min(OVERFLOW, room))
    replica = replica and replace(replica, pool=pool, overflow=overflow)
    return replace(users, pool=pool, overflow=overflow, replica=replica)


def server_resources(v: Variables) -> dict:
    """Requests and limits of the server's container: the preset's with those of the variable, or these alone."""
    if not v.mlflow_server_preset_resources:
        return v.mlflow_server_resources
    return strategic_merge(SIZES[v.mlflow_server_size].resources, v.mlflow_server_resources)


def problems(v: Variables, users: Connections) -> Iterator[str]:
    """A sentence for what cannot work of pool, threads, workers and limits.

    Args:
        v: the variables.
        users: what ``resolve`` gives for them.
    """
    size, least = v.database_pool_size, _smallest(v)
    limited = [each for each in (users, users.replica) if each and each.limit is not None]
    exceeded = [each for each in limited if each.needed(least) > each.limit]
    for each in exceeded:
        given = {"database_pool_size": size, "database_pool_max_overflow": v.database_pool_max_overflow}
        pool = " and ".join(f"{name} {value}" for name, value in given.items() if value)
        yield (f"{_limit(v, each)}, while {each.workers} workers in up to {each.pods} pods (one more than usual during "
               f"an update) need {each.needed(least)}{' with ' + pool if pool else ''}; set "
               f"{', or '.join(_remedies(v, each, least))}.")
    if exceeded:
        return
    if size and size < users.threads:
        yield (f"database_pool_size is {size} while {users.threads} threads of each worker answer requests; set "
               f"database_pool_size to at least {users.threads}, or mlflow_server_threads to at most {size}.")
    elif v.mlflow_server_threads > users.pool:
        tightest = min(limited, key=lambda each: each.fitting(each.limit))
        needed = tightest.needed(users.threads + (v.database_pool_max_overflow or SMALLEST_OVERFLOW))
        yield (f"mlflow_server_threads is {users.threads} while {_limit(v, tightest)}, which leaves {users.pool} "
               f"connections for each pool; set mlflow_server_threads to at most {users.pool}, or "
               f"{tightest.variable} to at least {needed}.")


def _limit(v: Variables, users: Connections) -> str:
    """The limit of a database server, as the beginning of a sentence."""
    return f"{users.variable} {'can be at most' if v[users.variable] is None else 'is'} {users.limit}"


def _smallest(v: Variables) -> int:
    """The fewest connections that an engine can have."""
    return (v.database_pool_size or SMALLEST_POOL) + (v.database_pool_max_overflow or SMALLEST_OVERFLOW)


def _remedies(v: Variables, users: Connections, least: int) -> Iterator[str]:
    """What may be set instead; each is enough on its own."""
    each = users.fitting(users.limit)
    pool = each - (v.database_pool_max_overflow or SMALLEST_OVERFLOW)
    if v.database_pool_size and pool >= users.threads:
        yield f"database_pool_size to at most {pool}"
    overflow = each - (v.database_pool_size or SMALLEST_POOL)
    if v.database_pool_max_overflow and overflow >= SMALLEST_OVERFLOW:
        yield f"database_pool_max_overflow to at most {overflow}"
    workers, pods = users.fitting_workers(users.limit, least), users.fitting_pods(users.limit, least)
    if workers >= 1:
        yield f"mlflow_server_workers to at most {workers}"
    if pods >= 1:
        yield f"mlflow_server_{'autoscaling_max' if v.mlflow_server_autoscaling else 'replicas'} to at most {pods}"
    if users.needed(least) <= MOST_CONNECTIONS:
        yield f"{users.variable} to at least {users.needed(least)}"


def _default_limit(v: Variables, users: Connections) -> int:
    """What a database of the collection allows: a connection for each thread as far as its memory goes, and the
    smallest pool in any case; in steps of 100, since a change restarts it."""
    size, overflow = v.database_pool_size, v.database_pool_max_overflow or SMALLEST_OVERFLOW
    wanted = users.needed((size or max(SMALLEST_POOL, users.threads)) + overflow)
    least = users.needed((size or max(SMALLEST_POOL, v.mlflow_server_threads)) + overflow)
    memory = quantity((v.database_resources.get("limits") or {}).get("memory"))
    if memory is not None:
        wanted = max(least, min(wanted, int(memory - MEMORY_BESIDE) // MEMORY_EACH))
    return min(MOST_CONNECTIONS, max(MAX_CONNECTIONS, -(-wanted // 100) * 100))
