# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Prometheus' standard exporters, which run beside that of the collection."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Exporter:
    """One standard exporter.

    Attributes:
        name: postgresql, mysql or node.
        image: the official one.
        built: name of the image that role images builds.
        port: where it answers /metrics.
        job: value of the label job.
        component: label ``app.kubernetes.io/component`` of its pod.
        command: what runs; paths are the same in the official image and the built one.
        login: variables with user and password of the database, or none.
        machine: whether it reads the file system of the machine, at /host.
    """

    name: str
    image: str
    built: str
    port: int
    job: str
    component: str
    command: tuple[str, ...]
    login: tuple[str, ...] = ()
    machine: bool = False

    def environment(self, host: str, port: int, database: str) -> dict[str, str]:
        """Its variables without a login.

        Args:
            host, port, database: of the database that the login is for.
        """
        if self.name == "postgresql":
            return {"DATA_SOURCE_URI": f"{host}:{port}/{database}?sslmode=disable"}
        return {"MYSQL_HOST": host, "MYSQL_PORT": str(port)} if self.name == "mysql" else {}


# Versions before 0.15 take a login from DATA_SOURCE_NAME, later ones from other variables, and all from a file.
MYSQLD = """\
umask 077
printf '[client]\\nhost=%s\\nport=%s\\nuser=%s\\npassword=%s\\n' \
  "$MYSQL_HOST" "$MYSQL_PORT" "$MYSQL_USER" "$MYSQL_PASSWORD" > /tmp/my.cnf
exec /bin/mysqld_exporter --config.my-cnf=/tmp/my.cnf
"""

EXPORTERS = {exporter.name: exporter for exporter in (
    Exporter("postgresql", "quay.io/prometheuscommunity/postgres-exporter:v0.17.1", "postgres-exporter", 9187,
             "mlflow-database-exporter", "monitoring-database-exporter", ("/bin/postgres_exporter",),
             ("DATA_SOURCE_USER", "DATA_SOURCE_PASS")),
    Exporter("mysql", "docker.io/prom/mysqld-exporter:v0.17.2", "mysqld-exporter", 9104,
             "mlflow-database-exporter", "monitoring-database-exporter", ("/bin/sh", "-c", MYSQLD),
             ("MYSQL_USER", "MYSQL_PASSWORD")),
    # What a pod's own network and processes are says nothing of the machine.
    Exporter("node", "docker.io/prom/node-exporter:v1.9.1", "node-exporter", 9100,
             "mlflow-node-exporter", "monitoring-node-exporter",
             ("/bin/node_exporter", "--path.procfs=/host/proc", "--path.sysfs=/host/sys", "--path.rootfs=/host",
              "--collector.disable-defaults", "--collector.cpu", "--collector.meminfo", "--collector.loadavg",
              "--collector.diskstats", "--collector.filesystem"), machine=True),
)}
