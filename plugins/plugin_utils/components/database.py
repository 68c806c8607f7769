# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The backend store: SQLite on a volume, PostgreSQL, MariaDB or MySQL that the collection runs, or one that exists."""

from __future__ import annotations

import urllib.parse
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Iterator

from ansible_collections.mlops.mlflow.plugins.plugin_utils.components import cloudnativepg, connections, pgbackrest
from ansible_collections.mlops.mlflow.plugins.plugin_utils.components.base import Component, Network
from ansible_collections.mlops.mlflow.plugins.plugin_utils.components.images import built
from ansible_collections.mlops.mlflow.plugins.plugin_utils.model import common, variables
from ansible_collections.mlops.mlflow.plugins.plugin_utils.program import Probe

if TYPE_CHECKING:
    from ansible_collections.mlops.mlflow.plugins.plugin_utils.model import Model
    from ansible_collections.mlops.mlflow.plugins.plugin_utils.model.variables import Variables

IMAGES = {
    "postgresql": "docker.io/library/postgres:17.6-bookworm",
    "mariadb": "docker.io/library/mariadb:11.8.3",
    "mysql": "docker.io/library/mysql:8.4.6",
}
"""The official images, by type."""
DRIVERS = {"postgresql": ("psycopg2", "psycopg", "pg8000", "asyncpg"),
           "mysql": ("pymysql", "mysqldb", "mysqlconnector", "cymysql", "aiomysql", "asyncmy")}
"""Drivers by dialect, the default first."""
LIBPQ_DRIVERS = ("psycopg2", "psycopg", "psycopg2cffi")
"""Drivers of PostgreSQL that read a login from PGUSER and PGPASSWORD, and TLS from sslmode in the URI."""
MOUNT_PATH = "/mlflow/database"
QUERY_TLS = ("sslmode", "sslrootcert", "ssl_ca", "ssl_check_hostname", "ssl_disabled", "ssl_verify_cert",
             "ssl_verify_identity")
"""Parameters of a URI that database_tls and database_ca give."""
CA_PATH = "/etc/mlflow-database/ca.crt"
LOGINS = ("database_password", "database_existing_secret", "database_external_secret")
PORTS = {"postgresql": 5432, "sqlite": 5432, "mysql": 3306, "mariadb": 3306}
"""By type; of any other database none is known."""
IAM_ARGUMENT = "--auto-iam-authn"
"""With it Cloud SQL's proxy logs in by IAM, and the user has no password."""


@dataclass(frozen=True)
class Endpoint:
    """Where the database is, and what a pod needs to open it; ``mlflow_server_database`` may give another.

    Attributes:
        type: dialect: postgresql, mysql or sqlite, or other.
        uri: for SQLAlchemy, without user and password: libpq takes them from PGUSER and PGPASSWORD, and for the other
            drivers the server's pod inserts them at its start. It has the user where that one has no password, and is
            empty where a Secret holds it.
        replica_uri: URI of the read replica, or empty.
        service: Service in front of a database that the collection runs, or empty.
        secret: Secret with the login, or empty.
        secret_keys: keys of the Secret, by user, password and root_password; or by uri alone.
        claim: PersistentVolumeClaim with the SQLite file, or empty.
        ephemeral: size of an emptyDir with the SQLite file, or empty.
        path: the SQLite file in the pod.
        users_path: the SQLite file with the users of MLflow.
        shared: whether pods on several nodes may mount the claim at once.
        ca: volume source of the CA's certificates, or empty.
        pool: environment variables of the connection pool.
        proxy: Cloud SQL's proxy as a container, or empty.
    """

    type: str
    host: str = ""
    port: int = 0
    name: str = ""
    uri: str = ""
    replica_uri: str = ""
    service: str = ""
    secret: str = ""
    secret_keys: dict = field(default_factory=dict)
    claim: str = ""
    ephemeral: str = ""
    mount_path: str = MOUNT_PATH
    path: str = f"{MOUNT_PATH}/mlflow.db"
    users_path: str = f"{MOUNT_PATH}/users.db"
    shared: bool = False
    ca: dict = field(default_factory=dict)
    ca_path: str = CA_PATH
    pool: dict = field(default_factory=dict)
    proxy: dict = field(default_factory=dict)

    @property
    def uri_key(self) -> str:
        """Key of the whole URI in the Secret, or empty where the Secret holds user and password."""
        return self.secret_keys.get("uri", "") if self.secret else ""


@dataclass(frozen=True)
class DatabasePart:
    """What the component's templates read.

    Attributes:
        name: of the Service and the StatefulSet.
        managed: whether the collection runs the database.
        volume: claim of its data; each type has its own, so that changing the type and back finds the data.
        own_volume: whether the component makes the claim.
        own_secret: Secret that the component makes, likewise by type.
        login: values for the Secret; a rotation gives a whole login.
        generated: keys of the Secret to generate.
        not_rotatable: why the password cannot be rotated, as a sentence, or empty.
        max_connections: that a database of the collection allows.
        connections: that the server may open to its database, this one or that of mlflow_server_database.
        major: PostgreSQL's major version by the tag of its image, or empty.
        cluster: Cluster of CloudNativePG, or empty; such a database is not managed.
        reader: Secret with a login in it that may only read, or empty.
        archive: claim with the WAL archive and the base backups, or empty.
    """

    name: str
    managed: bool
    port: int
    volume: str
    own_volume: bool
    own_secret: str
    image: str
    user: str
    login: dict
    generated: list
    endpoint: Endpoint
    not_rotatable: str
    max_connections: int
    connections: connections.Connections
    major: str
    cluster: str = ""
    reader: str = ""
    archive: str = ""


class Database(Component):
    name = "database"
    role = "database"
    title = "The database"
    multiline = ("database_ca",)
    secrets = ("database_password",)

    def resolve(self, v: Variables, model: Model) -> DatabasePart:
        kind, name = v.database_type, f"{model.instance.name}-database"
        cluster = (v.database_cluster or name) if cloudnativepg.runs(v) else ""
        managed = not cluster and kind not in ("sqlite", "other") and not (
            v.database_host or v.database_cloudsql_instance or _by_uri(v))
        own_secret = f"{cluster}-app" if cluster else f"{name}-{kind if managed else 'external'}"
        port = v.database_port if v.database_port is not None else PORTS.get(kind, 0)
        pools = connections.resolve(v, bool(managed or cluster) and not v.mlflow_server_database)
        endpoint = self._endpoint(v, name, managed, own_secret, port, pool(v, pools), cluster)
        # A value given here wins over the one in the Secret; a rotation gives a whole login.
        login = v.get("_database_login") or (
            {"username": v.database_user,
             "password": v.database_password} if v.database_password or not managed else {})
        generated = [] if v.database_password else [f"username={v.database_user}", "password"]
        if "root_password" in endpoint.secret_keys:
            generated.append("root-password")
        image = v.database_image
        if image is None and cluster:
            image = cloudnativepg.IMAGE
        elif image is None:
            image = built(v)[kind] if model.instance.build and kind in built(v) else IMAGES.get(kind, "")
        volume = "" if cluster else v.database_existing_claim or f"{name}-{kind}"
        return DatabasePart(name, managed, port, volume,
                            not cluster and v.database_persistence and not v.database_existing_claim, own_secret, image,
                            v.database_user, login, generated, endpoint, _not_rotatable(v),
                            pools.limit or connections.MAX_CONNECTIONS, pools,
                            postgresql_major(image) if managed and kind == "postgresql" else "",
                            cluster, f"{name}-reader" if cloudnativepg.reads(v) else "",
                            f"{name}-archive" if managed and v.database_archive else "")

    def _endpoint(self, v: Variables, name: str, managed: bool, own_secret: str, port: int,
                  pool: dict[str, int], cluster: str) -> Endpoint:
        kind = v.database_type
        dialect = _dialect(kind)
        if kind == "sqlite":
            path = f"{MOUNT_PATH}/{v.database_sqlite_path}"
            return Endpoint("sqlite", port=port, name=v.database_name, uri=f"sqlite:///{path}", path=path,
                            users_path=f"{MOUNT_PATH}/{v.database_sqlite_users_path}",
                            claim=(v.database_existing_claim or f"{name}-sqlite") if v.database_persistence else "",
                            ephemeral="" if v.database_persistence else v.database_size,
                            secret_keys=_secret_keys(v, managed), pool=pool)
        ca: dict = {}
        if v.database_ca_secret:
            ca = {
                "secret": {
                    "secretName": v.database_ca_secret,
                    "items": [{"key": v.database_ca_secret_key, "path": "ca.crt"}],
                }
            }
        elif v.database_ca:
            ca = {"configMap": {"name": f"{name}-ca"}}
        proxy = _cloudsql_proxy(v, port) if v.database_cloudsql_instance else {}
        secret = v.database_existing_secret or own_secret
        if _by_uri(v) or kind == "other":
            return Endpoint(dialect, port=port, secret=secret, secret_keys={"uri": _by_uri(v)}, ca=ca, pool=pool,
                            proxy=proxy)
        # Cloud SQL's proxy listens in the server's pod.
        host = "127.0.0.1" if v.database_cloudsql_instance else v.database_host or name
        host = f"{cluster}-rw" if cluster else host
        scheme = f"{dialect}+{v.database_driver or DRIVERS[dialect][0]}"
        query = [*_tls_query(v, dialect), *(f"{urllib.parse.quote(key)}={urllib.parse.quote(str(value), safe='')}"
                                            for key, value in v.database_query.items())]
        rest = f":{port}/{v.database_name}{'?' + '&'.join(query) if query else ''}"
        user = f"{urllib.parse.quote(v.database_user, safe='')}@" if _passwordless(v) else ""
        replica = f"{cluster}-ro" if cluster and v.database_read_replica else v.database_read_replica_host
        return Endpoint(
            dialect, host, port, v.database_name, uri=f"{scheme}://{user}{host}{rest}",
            replica_uri=f"{scheme}://{user}{replica}{rest}" if replica else "",
            service=name if managed else "", secret="" if _passwordless(v) else secret,
            secret_keys=_secret_keys(v, managed),
            ca=ca, pool=pool, proxy=proxy)

    def templates(self, v: Variables, model: Model) -> list[str]:
        if model.database.cluster:
            return ["credentials.yaml.j2", "cloudnativepg.yaml.j2"]
        more = (
            ["sqlite.yaml.j2"] if v.database_type == "sqlite" else ["server.yaml.j2"] if model.database.managed else []
        )
        return ["credentials.yaml.j2", *more]

    def context(self, v: Variables, model: Model) -> dict[str, Any]:
        if not model.database.cluster:
            return {"archive": pgbackrest.settings(v, model), "archive_path": pgbackrest.REPOSITORY}
        parameters = {**v.database_parameters, "max_connections": model.database.max_connections}
        return {"archive": cloudnativepg.archive(v, model), "bootstrap": cloudnativepg.bootstrap(v, model),
                "external_clusters": cloudnativepg.external_clusters(v, model),
                "managed_roles": cloudnativepg.roles(v, model), "scheduling": cloudnativepg.scheduling(v, model),
                "parameters": {name: str(value) for name, value in parameters.items()},
                "plugin": cloudnativepg.PLUGIN, "instance_label": cloudnativepg.INSTANCE_LABEL}

    def images(self, v: Variables, model: Model) -> list[str]:
        return [v.database_type] if model.database.managed else []

    def network(self, v: Variables, model: Model) -> Network | None:
        if model.database.cluster:
            return cloudnativepg.network(v, model)
        if not model.database.managed:
            return None
        return Network(ingress=[{"from": [{"podSelector": {"matchLabels": model.instance.labels}}],
                                 "ports": [{"port": model.database.port, "protocol": "TCP"}]}])

    def probes(self, v: Variables, model: Model) -> list[Probe]:
        pools = model.database.connections
        unknown = v.mlflow_server_database.get("pool") or model.mlflow_server.database.type == "sqlite"
        parameters = {"connections": {} if unknown else pools.figures}
        if pools.replica and not unknown:
            parameters["read_replica_connections"] = pools.replica.figures
        return [Probe(self.role, self.title, "database", {"environment": True, **parameters})]

    def status(self, v: Variables, model: Model, report: dict) -> list[str]:
        if not report.get("size_bytes"):
            return []
        line = f"{report['size_bytes'] / 2**20:.1f} MiB, query p95 {report.get('latency_p95_ms')} ms"
        if report.get("connections_max"):
            line += f", {report.get('connections_used')} of {report['connections_max']} connections"
        return [line]

    def unsupported(self, v: Variables, model: Model) -> Iterator[str]:
        if v.mlflow_engine != "podman":
            return
        if v.database_cloudsql_instance:
            yield ("database_cloudsql_instance is set while mlflow_engine is podman; run the proxy on that machine "
                   "and give its address "
                   "in database_host.")
        if v.database_operator:
            yield ("database_operator is set while mlflow_engine is podman, where no operator runs; leave it empty, or "
                   "deploy to a cluster.")
        if v.database_external_secret:
            yield ("database_external_secret is set while mlflow_engine is podman, where no operator runs; use "
                   "Ansible Vault there.")

    def _check_operator(self, v: Variables, model: Model) -> Iterator[str]:
        yield from cloudnativepg.check(
            v, model, lambda name: v[name] == variables.default_of(variables.SPECS[name]))

    def _check_archive(self, v: Variables, model: Model) -> Iterator[str]:
        yield from pgbackrest.check(v, model)

    def _check_sqlite(self, v: Variables, model: Model) -> Iterator[str]:
        if v.database_type != "sqlite":
            return
        set_here = [name for name in LOGINS if v[name]]
        for variable in ("database_host", "database_cloudsql_instance", "database_read_replica_host",
                         "database_read_replica_max_connections", "database_tls", "database_ca",
                         "database_ca_secret", "database_driver", *set_here):
            if v[variable]:
                yield (f"{variable} is set while database_type is sqlite, which is a file; set database_type to "
                       "postgresql or leave "
                       f"{variable} empty.")
        for variable, several, one in (("mlflow_server_replicas", v.mlflow_server_replicas > 1, "1"),
                                       ("mlflow_server_autoscaling", v.mlflow_server_autoscaling, "false")):
            if several:
                yield (f"{variable} is {v[variable]} while database_type is sqlite, which one process at a time may "
                       "write; set "
                       f"database_type to postgresql, or {variable} to {one}.")
        if v.mlflow_server_workspaces:
            yield ("mlflow_server_workspaces is true while database_type is sqlite; set database_type to postgresql, "
                   "or it to false.")

    def _check_server(self, v: Variables, model: Model) -> Iterator[str]:
        if v.database_type == "sqlite":
            return
        host, instance = v.database_host, v.database_cloudsql_instance
        external = bool(host or instance or _by_uri(v) or v.database_type == "other")
        login = [name for name in LOGINS if v[name]]
        if (host or instance) and not login and not _passwordless(v):
            yield (f"database_password is empty while {'database_host' if host else 'database_cloudsql_instance'} "
                   "names an existing "
                   "server; give the password, or the name of a Secret that holds it in database_existing_secret, or "
                   f"set database_passwordless to true.")
        if len(login) > 1:
            yield f"{login[0]} and {login[1]} are both set; keep one of them."
        if host and instance:
            yield "database_host and database_cloudsql_instance are both set; keep one of them."
        if instance and not common.matches(r"[a-z0-9.:-]+:[a-z0-9-]+:[a-z0-9-]+", instance):
            yield f"database_cloudsql_instance is {instance!r}; it must be project:region:name."
        if v.database_read_replica_host and not host:
            yield ("database_read_replica_host is set while database_host is empty; only an existing server has "
                   "replicas of its own.")
        if v.database_read_replica_max_connections is not None and not model.database.connections.replica:
            yield ("database_read_replica_max_connections is set while there is no read replica; set "
                   "database_read_replica_host, or leave the limit out.")
        if v.database_type == "mysql" and not external and v.mlflow_image_source == "build":
            yield ("database_type is mysql while mlflow_image_source is build, and Debian has MariaDB in its place; "
                   "set database_type "
                   "to mariadb.")
        if v.database_external_secret:
            needed = {"uri"} if "uri" in v.database_external_secret else {"username", "password"}
            yield from common.external_secret("database_external_secret", v.database_external_secret, needed, v)
        if v.database_port is not None and not 1 <= v.database_port <= 65535:
            yield f"database_port is {v.database_port}; it must be a TCP port from 1 to 65535."
        for argument in v.database_cloudsql_args:
            yield from common.argument("database_cloudsql_args", argument)
        for variable in ("database_pool_size", "database_pool_max_overflow", "database_pool_recycle"):
            if v[variable] < 0:
                yield f"{variable} is {v[variable]}; it must be at least 1, or 0 for the default."
        for variable in ("database_max_connections", "database_read_replica_max_connections"):
            if v[variable] is not None and not 10 <= v[variable] <= connections.MOST_CONNECTIONS:
                yield f"{variable} is {v[variable]}; it must be from 10 to 100000."

    def _check_uri(self, v: Variables, model: Model) -> Iterator[str]:
        if v.database_existing_secret_keys.get("uri") and not v.database_existing_secret:
            yield ("database_existing_secret_keys.uri is set while database_existing_secret is empty; name there the "
                   "Secret that holds the URI.")
        elif v.database_type == "other" and not _by_uri(v):
            yield ("database_type is other while no Secret holds the URI of the database; name the Secret in "
                   "database_existing_secret, and its key in database_existing_secret_keys.uri.")
        if v.database_type == "sqlite" or not _by_uri(v):
            return
        for variable in ("database_host", "database_driver", "database_tls", "database_read_replica_host",
                         "database_passwordless", "database_query"):
            if v[variable]:
                yield (f"{variable} is set while a Secret holds the whole URI of the database, which says it; leave "
                       f"{variable} out.")
        if v.database_type == "other" and v.mlflow_network_policy and not model.database.port:
            yield ("database_port is not set while mlflow_network_policy is true and database_type is other; give the "
                   "port, to which connections are then allowed.")

    def _check_passwordless(self, v: Variables, model: Model) -> Iterator[str]:
        login = next((name for name in LOGINS if v[name]), "")
        if v.database_type == "sqlite" or not _passwordless(v) or _by_uri(v):
            return
        if not v.database_host and not v.database_cloudsql_instance:
            yield ("database_passwordless is true while the collection runs the database, whose login has a password; "
                   "set it to false, or name an existing server in database_host.")
        elif login:
            why = "database_passwordless is true" if v.database_passwordless else f"{IAM_ARGUMENT} is set"
            yield f"{login} is set while {why}, by which the user has no password; keep one of them."

    def _check_volume(self, v: Variables, model: Model) -> Iterator[str]:
        if v.database_operator:
            return
        if v.database_type != "sqlite" and not model.database.managed:
            for variable, given in (("database_existing_claim", bool(v.database_existing_claim)),
                                    ("database_persistence", not v.database_persistence)):
                if given:
                    yield (f"{variable} is set while the database is an existing server, whose data is its own; leave "
                           f"{variable} out.")
        elif v.database_existing_claim and not v.database_persistence:
            yield ("database_existing_claim is set while database_persistence is false, so that nothing is written to "
                   "it; keep one of them.")
        elif v.database_type == "sqlite" and not v.database_persistence and v.mlflow_server_gc_schedule:
            yield ("mlflow_server_gc_schedule is set while database_persistence is false, and no other pod reaches the "
                   "file of the server's; leave the schedule empty, or set database_persistence to true.")

    def _check_files(self, v: Variables, model: Model) -> Iterator[str]:
        for variable in ("database_sqlite_path", "database_sqlite_users_path"):
            path = v[variable]
            if not common.matches(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*", path) or {".", ".."} & set(path.split("/")):
                yield f"{variable} is {path!r}; it must be the path of a file in the volume, such as data/mlflow.db."
        if v.database_sqlite_path == v.database_sqlite_users_path:
            yield ("database_sqlite_path and database_sqlite_users_path are the same; users have a file of their own.")

    def _check_query(self, v: Variables, model: Model) -> Iterator[str]:
        if v.database_query and v.database_type == "sqlite":
            yield "database_query is set while database_type is sqlite, which is a file; leave it out."
        for key, value in v.database_query.items():
            if not common.matches(r"[A-Za-z0-9_.-]+", key):
                yield (f"database_query has the key {key!r}; it must be the name of a parameter of the driver, such as "
                       "application_name.")
            elif isinstance(value, (dict, list)) or value is None or isinstance(value, bool):
                yield (f"database_query.{key} is no text and no number; put it in quotes, as the driver documents the "
                       "parameter.")
            elif key.lower() in ("user", "password", "passwd"):
                yield (f"database_query has the key {key}, which would stand in the URI; give the login in "
                       "database_user and database_password, or in a Secret.")
            elif key in QUERY_TLS and v.database_tls:
                yield f"database_query has the key {key}, which database_tls gives; keep one of them."

    def warnings(self, v: Variables, model: Model) -> Iterator[str]:
        if not v.database_persistence:
            yield ("database_persistence is false: runs, models and users are lost when the pod of the database ends.")

    def _check_connections(self, v: Variables, model: Model) -> Iterator[str]:
        figures = (v.database_pool_size, v.database_pool_max_overflow, v.mlflow_server_workers, v.mlflow_server_threads)
        if v.database_type != "sqlite" and not v.mlflow_server_database and min(figures) >= 0:
            yield from connections.problems(v, model.database.connections)

    def _check_names(self, v: Variables, model: Model) -> Iterator[str]:
        if v.database_type == "sqlite":
            return
        for variable in ("database_host", "database_read_replica_host"):
            value = v[variable]
            if value and not common.matches(common.HOST_OR_ADDRESS, value):
                yield (f"{variable} is {common.hidden(value)}; it must be a bare host name or address, with the port "
                       "in database_port.")
            elif value:
                yield from common.not_loopback(variable, value, v)
        if not common.matches(r"[A-Za-z0-9_][A-Za-z0-9_$-]{0,62}", v.database_name):
            yield f"database_name is {v.database_name!r}; it must be at most 63 letters, digits, '_', '$' and '-'."
        if not v.database_user or len(v.database_user) > 63:
            yield f"database_user is {v.database_user!r}; it must be a user's name of at most 63 characters."
        dialect = _dialect(v.database_type)
        if dialect == "mysql" and v.database_user == "root" and not v.database_host and not (
                v.database_cloudsql_instance):
            yield ("database_user is 'root', for which the images of MariaDB and MySQL make no further login; leave it "
                   "out, or give another name.")
        driver = v.database_driver
        others = [name for other, names in DRIVERS.items() if other != dialect for name in names]
        if not common.matches(r"[a-z0-9]*", driver) or driver in others:
            yield (f"database_driver is {driver!r}; it must be the name of a driver for {v.database_type} alone, such "
                   "as "
                   f"{DRIVERS[dialect][0]}.")
        elif dialect == "mysql" and v.database_tls and driver not in ("", "pymysql"):
            yield (f"database_tls is {v.database_tls} while database_driver is {driver}, which is told of TLS "
                   "otherwise; use pymysql, or "
                   f"leave database_tls empty.")
        elif dialect == "postgresql" and driver not in ("", *LIBPQ_DRIVERS) and not _by_uri(v) and (
                v.database_tls or not _passwordless(v)):
            yield (f"database_driver is {driver}, which takes login and TLS otherwise than PostgreSQL's own client "
                   f"library; use {LIBPQ_DRIVERS[0]} or {LIBPQ_DRIVERS[1]}, or give the whole URI in a Secret by "
                   "database_existing_secret and database_existing_secret_keys.uri.")

    def _check_tls(self, v: Variables, model: Model) -> Iterator[str]:
        if v.database_type == "sqlite":
            return
        tls, ca = v.database_tls, v.database_ca or v.database_ca_secret
        if v.database_cloudsql_instance and tls:
            yield ("database_tls is set while database_cloudsql_instance is; its proxy encrypts by itself, so leave "
                   "database_tls empty.")
        elif tls and not v.database_host:
            yield ("database_tls is set while database_host is empty; a database that the collection runs is on the "
                   "instance's own network, "
                   "so leave it empty.")
        verifies = tls.startswith("verify")
        if verifies and not ca and not any(entry.get("name") == "PGSSLROOTCERT" for entry in v.mlflow_server_extra_env):
            yield (f"database_tls is {tls} without the certificates of a CA to verify with; give them in database_ca "
                   "or database_ca_secret.")
        if ca and _by_uri(v):
            yield from common.certificate("database_ca", v.database_ca)
        elif ca and not verifies:
            yield (f"{'database_ca' if v.database_ca else 'database_ca_secret'} is given while database_tls does not "
                   "verify anything; set "
                   f"database_tls to verify-full or verify-ca.")
        elif v.database_ca and v.database_ca_secret:
            yield "database_ca and database_ca_secret are both set; keep one of them."
        else:
            yield from common.certificate("database_ca", v.database_ca)


def postgresql_major(image: str) -> str:
    """PostgreSQL's major version by the tag of an image, such as 17 of postgres:17.2-alpine; empty without one."""
    found = cloudnativepg.MAJOR.search(image)
    return found.group(1) if found else ""


def _dialect(kind: str) -> str:
    return "mysql" if kind == "mariadb" else kind


def _by_uri(v: Variables) -> str:
    """Key of the Secret that holds the whole URI of the database, or empty."""
    if v.database_external_secret:
        return "uri" if "uri" in v.database_external_secret else ""
    return v.database_existing_secret_keys.get("uri") or ""


def _passwordless(v: Variables) -> bool:
    """Whether the user logs in without a password."""
    return v.database_passwordless or bool(v.database_cloudsql_instance) and IAM_ARGUMENT in v.database_cloudsql_args


def _secret_keys(v: Variables, managed: bool) -> dict[str, str]:
    keys = {"user": "username", "password": "password"}
    if v.database_existing_secret:
        return {**keys, "root_password": "root-password", **v.database_existing_secret_keys}
    if managed and _dialect(v.database_type) == "mysql":
        keys["root_password"] = "root-password"
    return keys


def _not_rotatable(v: Variables) -> str:
    """Only a server that the collection runs has a generated password; an existing one needs a login in variables."""
    if v.database_operator:
        reason = ("CloudNativePG made it; put another one into the Secret of the Cluster (its name with -app), which "
                  "the operator then sets in the database, and run site.yml")
    elif v.database_type == "sqlite":
        reason = "database_type is sqlite, which has none"
    elif v.database_password:
        reason = "it comes from database_password; change it there"
    elif v.database_existing_secret or v.database_external_secret:
        reason = "it comes from an existing Secret; change it there"
    else:
        return ""
    return f"The database's password is not one that the collection generated: {reason}."


def _tls_query(v: Variables, dialect: str) -> list[str]:
    """Parameters of TLS in the query of the URI."""
    tls, has_ca = v.database_tls, bool(v.database_ca or v.database_ca_secret)
    if not tls:
        return []
    if dialect == "postgresql":
        return [f"sslmode={tls}"] + ([f"sslrootcert={CA_PATH}"] if has_ca else [])
    if tls == "disable":
        return ["ssl_disabled=true"]
    return [f"ssl_check_hostname={'true' if tls == 'verify-full' else 'false'}"] + (
        [f"ssl_ca={CA_PATH}"] if has_ca else []
    )


def pool(v: Variables, users: connections.Connections) -> dict[str, int]:
    """Environment variables of the connection pool. MLflow passes only what is not 0 on to
    SQLAlchemy. A file, which few open, has the pool that variables set."""
    is_file = v.database_type == "sqlite"
    figures = {"MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": v.database_pool_size if is_file else users.pool,
               "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW": v.database_pool_max_overflow if is_file else users.overflow,
               "MLFLOW_SQLALCHEMYSTORE_POOL_RECYCLE": v.database_pool_recycle}
    return {name: value for name, value in figures.items() if value}


def _cloudsql_proxy(v: Variables, port: int) -> dict:
    """Google's proxy, as a container that starts before the others and ends after them."""
    return {
        "name": "cloud-sql-proxy", "image": v.database_cloudsql_image, "imagePullPolicy": v.mlflow_image_pull_policy,
        "restartPolicy": "Always",
        "args": [f"--port={port}", "--health-check", "--http-address=0.0.0.0", "--http-port=9801", "--structured-logs",
                 *v.database_cloudsql_args, v.database_cloudsql_instance],
        "startupProbe": {"httpGet": {"path": "/startup", "port": 9801}, "periodSeconds": 1, "timeoutSeconds": 5,
                         "failureThreshold": 60},
        "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                            "capabilities": {"drop": ["ALL"]}},
    }
