"""PostgreSQL, by pg_dump and pg_restore."""

import contextlib
import time

from databases import Server
from exchange import last_line
from sets import BackupError


class Postgresql(Server):
    """By pg_dump and pg_restore, in their custom format. Credentials are in PGUSER and PGPASSWORD, or in the URI."""

    dialect = "postgresql"
    suffix = "database.dump"
    snapshot = {"isolation_level": "REPEATABLE READ"}

    def settings(self, database):
        # A URI may have the host in its query, such as a socket's folder.
        query = dict(self.url.query)
        variables = {"DIALECT": self.dialect, "DATABASE": database, "PGDATABASE": database,
                     "PGHOST": self.url.host or query.get("host", ""), "PGPORT": self.url.port or 5432,
                     "PGSSLMODE": query.get("sslmode"), "PGSSLROOTCERT": query.get("sslrootcert"),
                     "PGOPTIONS": query.get("options"), "PGCHANNELBINDING": query.get("channel_binding")}
        return {**{name: value for name, value in variables.items() if value}, **self.login()}, {}

    @contextlib.contextmanager
    def dump(self, exchange):
        """As of Database, in one snapshot."""
        import sqlalchemy

        with self.engine(**self.snapshot).connect() as connection:
            # Of a pod that is killed with its network, the server would not learn for hours.
            connection.execute(sqlalchemy.text("SET tcp_keepalives_idle = 30"))
            snapshot = connection.execute(sqlalchemy.text("SELECT pg_export_snapshot()")).scalar()
            server = connection.execute(sqlalchemy.text("SHOW server_version")).scalar()
            described = {**self.describe(connection), "exact": True, "server": f"PostgreSQL {server}"}
            variables, files = self.settings(self.name)
            exchange.begin({**variables, "SNAPSHOT": snapshot}, files)
            with exchange.reading() as stream:
                yield stream, described
            exchange.finish("pg_dump")

    def end_copy(self, connection, tables):
        """As of Database."""
        import sqlalchemy

        for table in tables:
            for column in table.columns:
                found = sqlalchemy.func.pg_get_serial_sequence(self._quoted(table.name), column.name)
                sequence = connection.execute(sqlalchemy.select(found)).scalar()
                if sequence:
                    highest = sqlalchemy.func.max(column)
                    connection.execute(sqlalchemy.select(sqlalchemy.func.setval(
                        sequence, sqlalchemy.func.coalesce(highest, 1), highest.is_not(None))))

    @contextlib.contextmanager
    def _administration(self):
        """A connection to another database of the server, since the current one is renamed."""
        import sqlalchemy

        for name in ("postgres", "template1"):
            try:
                with self.engine(name, isolation_level="AUTOCOMMIT").connect() as connection:
                    yield lambda text, **values: connection.execute(sqlalchemy.text(text), values)
                return
            except sqlalchemy.exc.OperationalError as error:
                if name == "template1" or "does not exist" not in str(error):
                    raise

    def _names(self, run):
        return set(run("SELECT datname FROM pg_database").scalars())

    def _drop(self, run, name):
        run(f"DROP DATABASE IF EXISTS {self._quoted(name)} WITH (FORCE)")

    def _rename(self, run, old, new):
        """Connections end; whoever connects again in between is ended, too."""
        import sqlalchemy

        for attempt in range(50):
            run(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name AND pid <>"
                " pg_backend_pid()",
                name=old,
            )
            try:
                return run(f"ALTER DATABASE {self._quoted(old)} RENAME TO {self._quoted(new)}")
            except sqlalchemy.exc.OperationalError as error:
                if "being accessed" not in str(error) or attempt == 49:
                    raise
                time.sleep(0.2)

    def prepare(self):
        """As of Database."""
        import sqlalchemy

        with self._administration() as run:
            names = self._names(run)
            if self.old in names and self.name in names:
                raise self.left()
            if self.old in names:
                self._rename(run, self.old, self.name)
            self._drop(run, self.new)
            try:
                run(f"CREATE DATABASE {self._quoted(self.new)} TEMPLATE template0 ENCODING 'UTF8'")
            except sqlalchemy.exc.ProgrammingError as error:
                raise BackupError(
                    f"The login of the database may not create a database beside {self.name}, into which a backup is "
                    f"restored ({last_line(str(error.orig))}); give it CREATEDB."
                ) from error

    def promote(self):
        """As of Database."""
        with self._administration() as run:
            names = self._names(run)
            if self.new not in names:
                raise BackupError(f"There is no database {self.new}; restore a backup first.")
            if self.name in names and self.old in names:
                raise self.left()
            if self.name in names:
                self._rename(run, self.name, self.old)
            self._rename(run, self.new, self.name)

    def revert(self):
        """As of Database."""
        with self._administration() as run:
            names = self._names(run)
            self._drop(run, self.new)
            if self.old in names:
                if self.name in names:
                    self._rename(run, self.name, self.new)
                self._rename(run, self.old, self.name)
                self._drop(run, self.new)
            return self.old in names

    def finish(self):
        """As of Database."""
        with self._administration() as run:
            names = self._names(run)
            if self.old in names and self.name not in names:
                self._rename(run, self.old, self.name)
            else:
                self._drop(run, self.old)
            return self.old in names
