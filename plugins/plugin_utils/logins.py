# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Logins of a database or an object store that the collection runs, managed by its own client in its own pod.

A Secret with the annotation ``manifests.DATABASE_LOGIN`` is a login of a database that may only read: engines make it
when they put the Secret, and drop it when they delete the Secret. The annotation is JSON: service, dialect, port,
database and owner. One with the annotation ``manifests.STORE_USER`` is likewise a user of an object store: service,
name, buckets and access.
"""

from __future__ import annotations

import base64
import json
from typing import Any, Callable, NamedTuple

from ansible_collections.mlops.mlflow.plugins.plugin_utils import manifests

Execute = Callable[[str, list[str], str], str]
"""Runs a program in a pod of a Service: Service, argv, standard input; returns standard output."""
Run = Callable[[list[str], str], str]
"""The same for one Service."""
READER = "mlflow_exporter"
"""Name of the login that may only read."""
VERSION = 1
"""Of what the reader may do; another one makes existing readers anew."""
READER_CONNECTIONS = 5
"""That the reader may have at once."""


class Reader(NamedTuple):
    """A login that may only read.

    Attributes:
        mark: text that changes when the password or what the login may do changes.
        process: whether it may see what others' connections do (MariaDB and MySQL; PostgreSQL's always may).
    """

    name: str
    password: str
    mark: str
    process: bool = False


def annotated(obj: dict) -> bool:
    """Whether an object is a Secret with a login."""
    return any(manifests.annotation(obj, name) for name in (manifests.DATABASE_LOGIN, manifests.STORE_USER))


def ensure(execute: Execute, secret: dict) -> bool:
    """Make the login of an annotated Secret, unless it is as it should be; return whether it had to be made."""
    if manifests.annotation(secret, manifests.STORE_USER):
        return _store(execute, secret).ensure(_store_user(secret))
    database, reader = _database(execute, secret), _reader(secret)
    if database.has_reader(reader):
        return False
    database.create_reader(reader)
    return True


def drop(execute: Execute, secret: dict) -> None:
    """Drop the login of an annotated Secret; none is fine."""
    if manifests.annotation(secret, manifests.STORE_USER):
        return _store(execute, secret).drop(_store_user(secret).name)
    _database(execute, secret).drop_reader(_reader(secret).name)


def _annotated(secret: dict, name: str = manifests.DATABASE_LOGIN) -> dict[str, Any]:
    return json.loads(manifests.annotation(secret, name))


def _values(secret: dict) -> dict[str, str]:
    return {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}


def _database(execute: Execute, secret: dict) -> Postgresql | Mysql:
    given = _annotated(secret)

    def run(argv: list[str], statements: str) -> str:
        return execute(given["service"], argv, statements)

    return DIALECTS[given["dialect"]](run, given["database"], given["owner"], given["port"])


def _reader(secret: dict) -> Reader:
    values = _values(secret)
    return Reader(values["username"], values["password"], f"mlops.mlflow {VERSION} {manifests.revision([secret])}",
                  bool(_annotated(secret).get("process")))


class StoreUser(NamedTuple):
    """A user of an object store.

    Attributes:
        actions: what it may do, in the words of the store.
    """

    name: str
    access_key: str
    secret_key: str
    actions: list[str]


def _store(execute: Execute, secret: dict) -> Seaweedfs:
    service = _annotated(secret, manifests.STORE_USER)["service"]
    return Seaweedfs(lambda argv, text: execute(service, argv, text))


def _store_user(secret: dict) -> StoreUser:
    given, values = _annotated(secret, manifests.STORE_USER), _values(secret)
    actions = [f"{action}:{bucket}" for bucket in given["buckets"] for action in Seaweedfs.ACTIONS[given["access"]]]
    return StoreUser(given["name"], values["AWS_ACCESS_KEY_ID"], values["AWS_SECRET_ACCESS_KEY"], actions)


class Seaweedfs:
    """By its shell in the pod, which asks for no password; keys come by standard input."""

    ACTIONS = {"read": ("Read", "List"), "write": ("Read", "List", "Write", "Tagging")}

    def __init__(self, execute: Run) -> None:
        self.execute = execute

    def run(self, command: str) -> str:
        return self.execute(["weed", "shell", "-master=127.0.0.1:9333"], f"{command}\n")

    def users(self) -> dict[str, dict]:
        """The users that were made, by name; the server's own user is not among them."""
        text = self.run("s3.configure")
        found = json.JSONDecoder().raw_decode(text[text.index("{"):])[0] if "{" in text else {}
        return {user["name"]: user for user in found.get("identities") or []}

    def ensure(self, user: StoreUser) -> bool:
        """Make a user, unless it is as it should be; return whether it had to be made."""
        before = self.users().get(user.name)
        if before and self._same(before, user):
            return False
        if before:
            self.drop(user.name)
        self.run(f"s3.configure -user={user.name} -access_key={user.access_key} -secret_key={user.secret_key} "
                 f"-actions={','.join(user.actions)} -apply")
        return True

    @staticmethod
    def _same(before: dict, user: StoreUser) -> bool:
        keys = [(key.get("accessKey"), key.get("secretKey")) for key in before.get("credentials") or []]
        return keys == [(user.access_key, user.secret_key)] and sorted(before.get("actions") or []) == sorted(
            user.actions)

    def drop(self, name: str) -> None:
        """Drop a user; none is fine."""
        if name in self.users():
            self.run(f"s3.configure -user={name} -delete -apply")


class Postgresql:
    """By the socket in the pod, at which the administrator needs no password."""

    QUIET = "SET log_statement = none; SET log_min_error_statement = panic; SET log_min_duration_statement = -1;\n"
    """No statement with a password is in the server's log."""

    def __init__(self, execute: Run, database: str, owner: str, port: int | None = None) -> None:
        self.execute, self.database, self.owner, self.port = execute, database, owner, port

    def run(self, statements: str) -> str:
        argv = ["psql", "--quiet", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1", f"--username={self.owner}",
                f"--dbname={self.database}"]
        if self.port:
            argv.append(f"--port={self.port}")
        return self.execute(argv, statements)

    def others(self, name: str) -> list[str]:
        """Logins that are members of the owner."""
        names = self.run(f"SELECT m.rolname FROM pg_auth_members a JOIN pg_roles m ON m.oid = a.member "
                         f"JOIN pg_roles o ON o.oid = a.roleid WHERE o.rolname = {text(self.owner)} AND m.rolname "
                         f"LIKE {text(self.owner + '!_%')} ESCAPE '!';").split()
        return [other for other in names if other != name]

    def create(self, name: str, password: str) -> None:
        # As the owner, so that what the login creates is the owner's.
        self.run(f'CREATE ROLE "{name}" LOGIN PASSWORD {text(password)} IN ROLE "{self.owner}";\n'
                 f'ALTER ROLE "{name}" SET role TO "{self.owner}";\n')

    def end(self, names: list[str]) -> None:
        self.run(f'ALTER ROLE "{self.owner}" PASSWORD NULL;\n' + "".join(
            f'ALTER ROLE "{name}" NOLOGIN;\nSELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '
            f'{text(name)};\n'
            f'DROP ROLE "{name}";\n' for name in names))

    def has_reader(self, reader: Reader) -> bool:
        # The socket, and in the official image loopback, ask for no password; so it cannot be tried.
        return bool(self.run(f"SELECT 1 FROM pg_roles WHERE rolname = {text(reader.name)} AND rolcanlogin "
                             f"AND shobj_description(oid, 'pg_authid') = {text(reader.mark)};").strip())

    def create_reader(self, reader: Reader) -> None:
        name = f'"{reader.name}"'
        self.run(self.QUIET + "BEGIN;\n"
                 f"SELECT {text('CREATE ROLE ' + name)} WHERE NOT EXISTS "
                 f"(SELECT 1 FROM pg_roles WHERE rolname = {text(reader.name)})\\gexec\n"
                 f"ALTER ROLE {name} LOGIN PASSWORD {text(reader.password)} CONNECTION LIMIT {READER_CONNECTIONS};\n"
                 f"GRANT pg_monitor, pg_read_all_data TO {name};\n"
                 f"ALTER ROLE {name} SET default_transaction_read_only = on;\n"
                 f"COMMENT ON ROLE {name} IS {text(reader.mark)};\n"
                 "COMMIT;\n")

    def drop_reader(self, name: str) -> None:
        known = f"FROM pg_roles WHERE rolname = {text(name)}"
        quoted = f'"{name}"'
        self.run(f"SELECT {text(f'ALTER ROLE {quoted} NOLOGIN PASSWORD NULL')} {known}\\gexec\n"
                 f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = {text(name)};\n"
                 f"DROP ROLE IF EXISTS {quoted};\n")


class Mysql:
    """As root, whose password the pod has in its environment."""

    CLIENT = "client=$(command -v mariadb || command -v mysql); "
    OPTIONS = "--batch --skip-column-names"
    ROOT = (f"{CLIENT}MYSQL_PWD=${{MARIADB_ROOT_PASSWORD:-${{MYSQL_ROOT_PASSWORD:-}}}} exec \"$client\" --user=root "
            f"{OPTIONS}")
    READER = (f'{CLIENT}IFS= read -r MYSQL_PWD; export MYSQL_PWD; "$client" --protocol=tcp --host=127.0.0.1 '
              f'--port="$1" --user="$2" {OPTIONS} 2>/dev/null || echo refused')
    """The password is the first line of standard input."""

    def __init__(self, execute: Run, database: str, owner: str, port: int | None = None) -> None:
        self.execute, self.database, self.owner, self.port = execute, database, owner, port

    def run(self, statements: str) -> str:
        return self.execute(["sh", "-c", self.ROOT], statements)

    def others(self, name: str) -> list[str]:
        names = self.run(f"SELECT User FROM mysql.user WHERE User LIKE {text(self.owner + '!_%')} ESCAPE '!';").split()
        return [other for other in names if other not in (name, READER)]

    def create(self, name: str, password: str) -> None:
        self.run(f"CREATE USER {text(name)}@'%' IDENTIFIED BY {text(password)};\n"
                 f"GRANT ALL ON `{self.database}`.* TO {text(name)}@'%';\n")

    def end(self, names: list[str]) -> None:
        self.run(f"ALTER USER {text(self.owner)}@'%' ACCOUNT LOCK;\n"
                 + "".join(f"DROP USER {text(name)}@'%';\n" for name in names))

    def has_reader(self, reader: Reader) -> bool:
        """Whether it can log in; asked of the list of users first, since a refused login is an error of the client."""
        if not self.run(f"SELECT 1 FROM mysql.user WHERE User = {text(reader.name)} AND Host = '%';").strip():
            return False
        argv = ["sh", "-c", self.READER, "sh", str(self.port), reader.name]
        grants = self.execute(argv, f"{reader.password}\nSHOW GRANTS;\n")
        return " SELECT ON " in grants and (" PROCESS ON " in grants) == reader.process

    def create_reader(self, reader: Reader) -> None:
        user = f"{text(reader.name)}@'%'"
        login = f"{user} IDENTIFIED BY {text(reader.password)} WITH MAX_USER_CONNECTIONS {READER_CONNECTIONS};\n"
        # In a GRANT the name of a database is a pattern.
        database = self.database.replace("_", r"\_").replace("%", r"\%")
        self.run(f"CREATE USER IF NOT EXISTS {login}ALTER USER {login}"
                 f"REVOKE ALL PRIVILEGES, GRANT OPTION FROM {user};\n"
                 f"GRANT SELECT ON `{database}`.* TO {user};\n"
                 + (f"GRANT PROCESS ON *.* TO {user};\n" if reader.process else ""))

    def drop_reader(self, name: str) -> None:
        self.run(f"DROP USER IF EXISTS {text(name)}@'%';\n")


DIALECTS: dict[str, type[Postgresql] | type[Mysql]] = {"postgresql": Postgresql, "mysql": Mysql}


def text(value: str) -> str:
    """A string literal of SQL; the value must have neither backslash nor control characters."""
    return "'" + value.replace("'", "''") + "'"
