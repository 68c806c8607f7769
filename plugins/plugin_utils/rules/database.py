# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rules about the database."""

from __future__ import annotations

import re
from typing import Iterator

from ansible_collections.mlops.mlflow.plugins.plugin_utils.rules.terms import Rule, Variables, authorities, external_secret

DRIVERS = {"postgresql": ("psycopg2", "psycopg", "pg8000", "asyncpg"), "mysql": ("pymysql", "mysqldb", "mysqlconnector", "cymysql", "aiomysql", "asyncmy")}


def database(v: Variables) -> Iterator[str]:
    kind, host, instance = v["database_type"], v["database_host"], v["database_cloudsql_instance"]
    login = [name for name in ("database_password", "database_existing_secret", "database_external_secret") if v[name]]
    if kind == "sqlite":
        for variable in ("database_host", "database_cloudsql_instance", "database_read_replica_host", "database_tls", *login):
            if v[variable]:
                yield f"{variable} is set while database_type is sqlite, which is a file; set database_type to postgresql or leave {variable} empty."
        for variable, several in (("mlflow_server_replicas", int(v["mlflow_server_replicas"]) > 1),
                                  ("mlflow_server_autoscaling", v["mlflow_server_autoscaling"])):
            if several:
                yield (f"{variable} is {v[variable]} while database_type is sqlite, which one process at a time may "
                       f"write; set database_type to postgresql, or {variable} to {'false' if variable.endswith('scaling') else 1}.")
        if v["mlflow_server_workspaces"]:
            yield "mlflow_server_workspaces is true while database_type is sqlite; set database_type to postgresql, or it to false."
        return
    external = bool(host or instance)
    if external and not login:
        yield (f"database_password is empty while {'database_host' if host else 'database_cloudsql_instance'} names an existing server; give "
               f"the password, or the name of a Secret that holds it in database_existing_secret.")
    if len(login) > 1:
        yield f"{login[0]} and {login[1]} are both set; keep one of them."
    if host and ("/" in str(host) or ":" in str(host)):
        yield f"database_host is {host!r}; it must be a bare host name or address, with the port in database_port."
    replica = str(v["database_read_replica_host"] or "")
    if "/" in replica or ":" in replica:
        yield f"database_read_replica_host is {replica!r}; it must be a bare host name or address, with the port in database_port."
    if not re.match(r"^[A-Za-z0-9_][A-Za-z0-9_$-]*$", str(v["database_name"])):
        yield f"database_name is {v['database_name']!r}; it must be of letters, digits, '_', '$' and '-'."
    dialect = "postgresql" if kind == "postgresql" else "mysql"
    driver = str(v["database_driver"] or "")
    if not re.match(r"^[a-z0-9]*$", driver) or any(driver in known for other, known in DRIVERS.items() if other != dialect):
        yield f"database_driver is {driver!r}; it must be the name of a driver for {kind} alone, such as {DRIVERS[dialect][0]}."
    if dialect == "mysql" and v["database_tls"] and driver not in ("", "pymysql"):
        yield (f"database_tls is {v['database_tls']} while database_driver is {driver}, which is told of TLS otherwise; use pymysql, or leave "
               f"database_tls empty.")
    for variable in ("database_pool_size", "database_pool_max_overflow", "database_pool_recycle"):
        if int(v[variable]) < 0:
            yield f"{variable} is {v[variable]}; it must be at least 1, or 0 for the default."
    if instance and v["database_tls"]:
        yield "database_tls is set while database_cloudsql_instance is; its proxy encrypts by itself, so leave database_tls empty."
    if host and instance:
        yield "database_host and database_cloudsql_instance are both set; keep one of them."
    if instance and not re.match(r"^[a-z0-9.:-]+:[a-z0-9-]+:[a-z0-9-]+$", str(instance)):
        yield f"database_cloudsql_instance is {instance!r}; it must be project:region:name."
    if instance and v["mlflow_engine"] == "podman":
        yield "database_cloudsql_instance is set while mlflow_engine is podman; run the proxy on that machine and give its address in database_host."
    if v["database_read_replica_host"] and not host:
        yield "database_read_replica_host is set while database_host is empty; only an existing server has replicas of its own."
    if v["database_tls"] and not external:
        yield "database_tls is set while database_host is empty; a database run here is on the instance's own network, so leave it empty."
    ca = v["database_ca"] or v["database_ca_secret"]
    if str(v["database_tls"]).startswith("verify") and not ca and not any(e.get("name") == "PGSSLROOTCERT" for e in v["mlflow_server_extra_env"]):
        yield f"database_tls is {v['database_tls']} without the authorities to check by; give them in database_ca or database_ca_secret."
    if ca and not str(v["database_tls"]).startswith("verify"):
        yield "database_ca is given while database_tls does not verify anything; set database_tls to verify-full or verify-ca."
    if v["database_ca"] and v["database_ca_secret"]:
        yield "database_ca and database_ca_secret are both set; keep one of them."
    yield from authorities("database_ca", v)
    if kind == "mysql" and not external and v["mlflow_image_source"] == "build":
        yield "database_type is mysql while mlflow_image_source is build, and Debian has MariaDB in its place; set database_type to mariadb."
    if v["database_external_secret"]:
        yield from external_secret("database_external_secret", v["database_external_secret"], {"username", "password"}, v)


RULES: tuple[Rule, ...] = (database,)
