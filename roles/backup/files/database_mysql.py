"""MariaDB and MySQL, by mariadb-dump or mysqldump."""

import contextlib
import gzip
import re

from databases import Gzipped, Server
from sets import BackupError

DEFINER = re.compile(rb" ?/\*!500\d\d DEFINER=`[^`]*`@`[^`]*` ?\*/")
"""Of a trigger: only an administrator may create those of another login."""
TRIGGERS = "mlops_triggers"
"""Table with the statements of triggers, while their tables move to another database."""


class SqlLines:
    """A stream of mariadb-dump's SQL that counts the rows of each table.

    mariadb-dump begins a line for each row, and escapes line feeds in texts. mysqldump has all rows of a statement in
    one line: then ``exact`` is False.
    """

    def __init__(self, stream):
        self.stream, self.counts, self.exact, self._table = stream, {}, True, ""

    def read(self, size=-1):
        lines, length = [], 0
        while size < 0 or length < size:
            line = self.stream.readline()
            if not line:
                break
            self._count(line)
            if line.startswith(b"/*M!999999"):  # a first line that MySQL's client and older ones reject
                continue
            if line.startswith(b"/*!50003 CREATE"):
                line = DEFINER.sub(b"", line)
            lines.append(line)
            length += len(line)
        return b"".join(lines)

    def _count(self, line):
        if line.startswith(b"("):
            self.counts[self._table] += 1
        elif line.startswith(b"INSERT INTO `"):
            self._table = line.split(b"`")[1].decode()
            if line.rstrip().endswith(b"VALUES"):
                self.counts.setdefault(self._table, 0)
            else:
                self.exact = False


class Mysql(Server):
    """By mariadb-dump or mysqldump, in one transaction. Credentials are in the URI, by sitecustomize.py."""

    dialect = "mysql"
    suffix = "database.sql.gz"
    snapshot = {"isolation_level": "REPEATABLE READ"}

    def settings(self, database):
        query = dict(self.url.query)
        options = {"host": self.url.host, "port": self.url.port or 3306, "protocol": "tcp"}
        if query.get("ssl_ca"):
            verified = query.get("ssl_check_hostname") == "true"
            options |= {"ssl-ca": query["ssl_ca"], "loose-ssl-verify-server-cert": int(verified),
                        "loose-ssl-mode": "VERIFY_IDENTITY" if verified else "VERIFY_CA"}
        elif query.get("ssl_disabled") != "true":
            options["loose-ssl-verify-server-cert"] = 0
        text = "[client]\n" + "".join(f"{name}={value}\n" for name, value in options.items())
        variables = {"DIALECT": self.dialect, "DATABASE": database, "PORT": self.url.port or 3306, **self.login()}
        return variables, {"client.cnf": text}

    @contextlib.contextmanager
    def dump(self, exchange):
        """As of Database. The rows are counted in the dump itself."""
        import sqlalchemy

        with self.engine().connect() as connection:
            server = connection.execute(sqlalchemy.text("SELECT VERSION()")).scalar()
            described = {**self.describe(connection), "exact": False, "server": f"MySQL {server}"}
        variables, files = self.settings(self.name)
        exchange.begin(variables, files)
        with exchange.reading() as stream:
            lines = SqlLines(stream)
            yield Gzipped(lines), described
        exchange.finish("The dump of the database")
        if lines.exact:
            described["counts"] = {name: lines.counts.get(name, 0) for name in described["counts"]}
            described["exact"] = True

    def begin_copy(self, connection):
        """As of Database. A number 0, such as that of the first experiment, is none to be given."""
        import sqlalchemy

        connection.execute(sqlalchemy.text("SET SESSION sql_mode = CONCAT(@@sql_mode, ',NO_AUTO_VALUE_ON_ZERO')"))

    def unpacked(self, stream):
        return gzip.GzipFile(fileobj=stream)

    def _tables(self, name):
        import sqlalchemy

        with self.engine().connect() as connection:
            return list(
                connection.execute(
                    sqlalchemy.text("SELECT table_name FROM information_schema.tables WHERE table_schema = :name"),
                    {"name": name},
                ).scalars()
            )

    def _schemas(self):
        import sqlalchemy

        with self.engine().connect() as connection:
            return set(
                connection.execute(sqlalchemy.text("SELECT schema_name FROM information_schema.schemata")).scalars()
            )

    def _create(self, name):
        self._change(f"CREATE DATABASE IF NOT EXISTS {self._quoted(name)} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
                     name)

    def _drop(self, name):
        self._change(f"DROP DATABASE IF EXISTS {self._quoted(name)}", name)

    def _change(self, statement, name):
        import sqlalchemy

        try:
            self._statements(statement)
        except sqlalchemy.exc.OperationalError as error:
            raise BackupError(
                f"The login of the database may not make the database {name} anew, which a restore needs "
                f"({error.orig.args[-1]}); grant it all privileges on {self.new}.* and {self.old}.*."
            ) from error

    def _move(self, *moves):
        """All tables of databases to others in one statement, of which the server does all or nothing; their triggers
        are dropped before and created again, since they cannot move.

        Args:
            moves: source and target of each, one after the other.
        """
        for source, _target in moves:
            self._save_triggers(source)
        pairs = [
            f"{self._quoted(source)}.{self._quoted(table)} TO {self._quoted(target)}.{self._quoted(table)}"
            for source, target in moves for table in self._tables(source)
        ]
        if pairs:
            self._statements("SET SESSION foreign_key_checks = 0", f"RENAME TABLE {', '.join(pairs)}")
        for _source, target in moves:
            self._create_triggers(target)

    def _save_triggers(self, name):
        """Drop the triggers of a database; their statements are in a table of it from then on."""
        import sqlalchemy

        with self.engine(name, isolation_level="AUTOCOMMIT").connect() as connection:
            found = [row[0] for row in connection.execute(sqlalchemy.text("SHOW TRIGGERS"))]
            if not found:
                return
            connection.execute(sqlalchemy.text(
                f"CREATE TABLE IF NOT EXISTS {TRIGGERS} (name VARCHAR(64) PRIMARY KEY, statement MEDIUMTEXT)"))
            for trigger in found:
                created = connection.execute(sqlalchemy.text(f"SHOW CREATE TRIGGER {self._quoted(trigger)}")).first()
                statement = re.sub(r" DEFINER=`[^`]*`@`[^`]*`", "", created[2], count=1)
                connection.execute(sqlalchemy.text(f"REPLACE INTO {TRIGGERS} VALUES (:name, :statement)"),
                                   {"name": trigger, "statement": statement})
                connection.execute(sqlalchemy.text(f"DROP TRIGGER {self._quoted(trigger)}"))

    def _create_triggers(self, name):
        """Create the triggers that ``_save_triggers`` dropped."""
        import sqlalchemy

        if TRIGGERS not in self._tables(name):
            return
        with self.engine(name, isolation_level="AUTOCOMMIT").connect() as connection:
            there = {row[0] for row in connection.execute(sqlalchemy.text("SHOW TRIGGERS"))}
            for trigger, statement in connection.execute(sqlalchemy.text(f"SELECT * FROM {TRIGGERS}")).all():
                if trigger not in there:
                    connection.exec_driver_sql(statement.replace("%", "%%"))
            connection.execute(sqlalchemy.text(f"DROP TABLE {TRIGGERS}"))

    def prepare(self):
        """As of Database."""
        left = self._tables(self.old)
        if left and self._tables(self.name):
            raise self.left()
        self._drop(self.new)
        self._create(self.new)
        if left:
            self._move((self.old, self.name))
        self._create_triggers(self.name)

    def promote(self):
        """As of Database."""
        if not self._tables(self.new):
            raise BackupError(f"There is no database {self.new}; restore a backup first.")
        if self._tables(self.old) and self._tables(self.name):
            raise self.left()
        self._create(self.old)
        self._move((self.name, self.old), (self.new, self.name))
        self._drop(self.new)

    def revert(self):
        """As of Database."""
        self._drop(self.new)
        reverted = bool(self._tables(self.old))
        if reverted:
            self._create(self.new)
            self._move((self.name, self.new), (self.old, self.name))
            self._drop(self.new)
        self._drop(self.old)
        self._create_triggers(self.name)
        return reverted

    def finish(self):
        """As of Database."""
        found = bool(self._tables(self.old))
        if found and not self._tables(self.name):
            self._move((self.old, self.name))
        self._drop(self.old)
        self._create_triggers(self.name)
        return found
