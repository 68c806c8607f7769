#!/usr/bin/python
# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: database_health
short_description: Measure the health of a tracking database
version_added: 0.1.0
author: mlops.mlflow contributors (@mlops)
description:
  - Connects, measures the latency of a query, the database's size and its connections, compares the revision of the
    schema with the one that the installed MLflow works with, and writes into a temporary table (a full disk shows
    there).
  - Measures and returns; it fails only when it cannot measure at all.
requirements:
  - psycopg or psycopg2 for V(postgresql), PyMySQL for V(mysql), on the host or in the pod that connects
options:
  dialect:
    description: Kind of database. Required unless O(inside).
    type: str
    choices: [postgresql, mysql, sqlite]
  inside:
    description:
      - Ask from inside a pod of O(service), the MLflow server's, with that pod's own address, user and password of the
        database. That is what the server sees, whatever networks and names lie between here and the database.
    type: bool
    default: false
  host:
    description: Host of the database, with O(engine=none).
    type: str
  port:
    description: TCP port, or with another O(engine) the Service's port. The default is the dialect's own.
    type: int
  database:
    description: Name of the database.
    type: str
  user:
    description: User to log in as.
    type: str
  password:
    description: Its password.
    type: str
  secret:
    description:
      - Name of a Secret that holds user and password, instead of the two options. Needs another O(engine) than V(none).
    type: str
  secret_keys:
    description: Under which keys of O(secret) C(user) and C(password) stand.
    type: dict
    default: {user: username, password: password}
  sslmode:
    description: How PostgreSQL's client uses TLS.
    type: str
    choices: [disable, allow, prefer, require, verify-ca, verify-full]
  ca_file:
    description: Path of the CA certificates to trust.
    type: path
  path:
    description: Path of the file, with V(sqlite).
    type: path
  connect_timeout:
    description: Longest time to wait for a connection, in seconds.
    type: int
    default: 5
  samples:
    description: How many queries the latency is taken from.
    type: int
    default: 20
  write:
    description: Whether to try writing, into a temporary table.
    type: bool
    default: true
extends_documentation_fragment:
  - mlops.mlflow.engine
  - mlops.mlflow.health
"""

EXAMPLES = r"""
- name: A database that the inventory host can connect to
  mlops.mlflow.database_health:
    dialect: postgresql
    host: db.example.com
    database: mlflow
    user: mlflow
    password: "{{ vaulted_password }}"

- name: The database of an instance, as its server sees it
  mlops.mlflow.database_health:
    inside: true
    engine: kubernetes
    namespace: team-a
    service: team-a-server
  register: database

- name: Stop when it is not well
  ansible.builtin.assert:
    that: database.healthy
    fail_msg: "{{ database.failures | join('; ') }}"
"""

RETURN = r"""
healthy:
  description: Whether every check is ok. The module does not fail when it is V(false); that is for the play to decide.
  type: bool
  returned: always
checks:
  description: The checks, in order. One that could not run is not ok.
  type: list
  elements: dict
  returned: always
  contains:
    name:
      description: What was checked.
      type: str
    ok:
      description: Whether it is as it should be.
      type: bool
    duration_ms:
      description: How long the check took, in milliseconds.
      type: float
    detail:
      description: What was found, or what is wrong.
      type: str
failures:
  description: The checks that failed, each as name and detail; those that could not run for that are left out.
  type: list
  elements: str
  returned: always
latency_ms:
  description: For each step that was timed, C(p50) and C(p95) in milliseconds, and the number of C(samples).
  type: dict
  returned: always
latency_p95_ms:
  description: 95th percentile of a query's time, in milliseconds.
  type: float
  returned: when connected
size_bytes:
  description: Size of the database in bytes.
  type: int
  returned: when connected
connections_used:
  description: Connections of clients now.
  type: int
  returned: when connected
connections_max:
  description: Connections that the server accepts; none for SQLite.
  type: int
  returned: when connected
revision:
  description: Revision of the schema.
  type: str
  returned: when connected
revision_wanted:
  description:
    - Revision that the MLflow beside the check works with; none where it is not installed.
  type: str
  returned: always
messages:
  description:
    - Warnings, in sentences, which M(mlops.mlflow.instance_health) asks for. That the server may open more connections
      than the database or its read replica allows.
  type: list
  elements: str
  returned: always
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mlops.mlflow.plugins.module_utils import checks
from ansible_collections.mlops.mlflow.plugins.module_utils.options import ENGINE, need_no_engine
from ansible_collections.mlops.mlflow.plugins.module_utils.probes import database

PORTS = {"postgresql": 5432, "mysql": 3306}
SPEC = {
    "argument_spec": {
        **ENGINE,
        "dialect": {"type": "str", "choices": ["postgresql", "mysql", "sqlite"]},
        "inside": {"type": "bool", "default": False},
        "host": {"type": "str"}, "port": {"type": "int"}, "database": {"type": "str"}, "user": {"type": "str"},
        "password": {"type": "str", "no_log": True},
        "secret": {"type": "str", "no_log": False},
        "secret_keys": {"type": "dict", "default": {"user": "username", "password": "password"}, "no_log": False},
        "sslmode": {"type": "str", "choices": ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]},
        "ca_file": {"type": "path"}, "path": {"type": "path"},
        "connect_timeout": {"type": "int", "default": 5}, "samples": {"type": "int", "default": 20},
        "write": {"type": "bool", "default": True},
    },
    "required_if": [("inside", False, ("dialect",)), ("dialect", "sqlite", ("path",))],
}


def main():
    module = AnsibleModule(**SPEC, supports_check_mode=True)
    need_no_engine(module, ("secret",))
    if module.params["inside"]:
        module.fail_json(msg="engine is none while inside is true; name the engine whose pod runs the checks.")
    parameters = {**module.params, "port": module.params["port"] or PORTS.get(module.params["dialect"])}
    module.exit_json(changed=False, **checks.measure(database, parameters))


if __name__ == "__main__":
    main()
