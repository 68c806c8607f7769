"""Databases of MLflow for backup.py: their dumps, and the database beside the current one into which a dump is
restored.

PostgreSQL and MariaDB are dumped and loaded by their own programs, which run in a second container of the pod
(database.sh) and get or give the dump by a pipe; nothing is on a disk or in memory as a whole. SQLite has its backup
interface. Each kind has a file of its own, database_KIND.py, with a class that has the methods of Database.

A dump is restored into a database NAME_restore. `promote` puts it in the place of the current one, which becomes
NAME_before; `revert` puts that back, `finish` removes it. Each of them may be interrupted and called again. In between,
NAME is never a database that is half of each, so that a server that is started too early cannot fill an empty one.

NAME_before beside NAME is left by a restore that was interrupted after `promote`. Only whoever knows whether users have
written to NAME since can tell which of the two is wanted (command settle of module mlflow_backup), so `prepare` and
`promote` refuse to go on.
"""

import configparser
import contextlib
import importlib
import os
import shutil
import zlib

from exchange import BLOCK
from sets import BackupError

SCHEMAS = ("alembic_version", "alembic_version_auth")
"""Tables with the revisions of MLflow's schema and of the one of its users."""
KINDS = {"sqlite": "Sqlite", "postgresql": "Postgresql", "mysql": "Mysql"}


def open_database(uri=None):
    """The database of MLflow that a URI of SQLAlchemy names, that of this process' environment if None."""
    import sqlalchemy

    url = sqlalchemy.engine.make_url(uri or os.environ["MLFLOW_BACKEND_STORE_URI"])
    dialect = url.get_backend_name()
    if dialect not in KINDS:
        raise BackupError(f"The database is of type {dialect}, which cannot be backed up here; use its own backups.")
    return getattr(importlib.import_module(f"database_{dialect}"), KINDS[dialect])(url)


class Database:
    """What all kinds share.

    Args:
        url: sqlalchemy.URL.
        throw_away: see below.

    Attributes:
        dialect: postgresql, mysql or sqlite.
        suffix: of the name of a dump.
        snapshot: options of an engine whose transactions see the database at one moment.
        throw_away: whether it is a server in this pod, whose login the database's programs do not have of a Secret.
    """

    dialect = suffix = ""
    snapshot: dict = {}

    def __init__(self, url, throw_away=False):
        self.url, self.throw_away = url, throw_away

    def engine(self, name=None, **options):
        """SQLAlchemy's engine for this database, or another one of the same server."""
        import sqlalchemy

        url = self.url.set(database=name) if name else self.url
        return sqlalchemy.create_engine(url, poolclass=sqlalchemy.pool.NullPool, **options)

    def describe(self, connection):
        """Revisions of the schema, and the number of rows of each table."""
        import sqlalchemy

        names = sorted(sqlalchemy.inspect(connection).get_table_names())
        quote = connection.dialect.identifier_preparer.quote
        counts = {name: connection.execute(sqlalchemy.text(f"SELECT COUNT(*) FROM {quote(name)}")).scalar()
                  for name in names if name not in SCHEMAS}
        schema = {name: connection.execute(sqlalchemy.text(f"SELECT version_num FROM {name}")).scalar()
                  for name in SCHEMAS if name in names}
        return {"schema": schema.get("alembic_version", ""), "users_schema": schema.get("alembic_version_auth", ""),
                "counts": counts}

    def has_tables(self):
        """Whether MLflow has made its tables."""
        import sqlalchemy

        if self.dialect == "sqlite" and not os.path.exists(self.name):
            return False
        with self.engine().connect() as connection:
            return bool(sqlalchemy.inspect(connection).get_table_names())

    def described(self, name=None):
        """The same of a database by its name."""
        with self.engine(name).connect() as connection:
            return self.describe(connection)

    @property
    def name(self):
        """Its name at the server."""
        return self.url.database

    @property
    def new(self):
        """The database into which a dump is restored."""
        return f"{self.name}_restore"

    @property
    def old(self):
        """The database that was the current one before a restored one took its place."""
        return f"{self.name}_before"

    def dump(self, exchange):
        """A context with a stream of the dump, and a dictionary that describes exactly what is in it.

        Args:
            exchange: the Exchange, in whose other container ``dump`` runs.
        """
        raise NotImplementedError

    def load(self, exchange, stream, database=None):
        """Restore a dump.

        Args:
            exchange: the Exchange, in whose other container ``restore`` or ``drill`` runs.
            stream: of the dump as it was made.
            database: its name, ``new`` if None.
        """
        raise NotImplementedError

    def begin_copy(self, connection):
        """Prepare a connection that fills empty tables with rows of another database."""

    def end_copy(self, connection, tables):
        """Let numbers that the database gives go on after the highest of the rows.

        Args:
            connection: the same one.
            tables: sqlalchemy.Table of each.
        """

    def left(self):
        """The BackupError for an ``old`` beside the current database."""
        return BackupError(
            f"{self.old} is there beside {self.name}, from a restore that was interrupted; playbooks/restore.yml keeps"
            " the one of the two that was in use last, or run command finish of module mlflow_backup to keep"
            f" {os.path.basename(self.name)}, or revert to put the other one back."
        )

    def prepare(self):
        """Make room for the database ``new``, empty; undo a promotion that was interrupted.

        Raises:
            BackupError: ``old`` is there beside the current database.
        """
        raise NotImplementedError

    def promote(self):
        """``new`` becomes the current database, and that ``old``.

        Raises:
            BackupError: there is no ``new``, or ``old`` is there beside the current database.
        """
        raise NotImplementedError

    def revert(self):
        """``old`` becomes the current database again, and ``new`` goes; returns whether there was an ``old``."""
        raise NotImplementedError

    def finish(self):
        """Remove ``old``; where a promotion was interrupted before anything took its place, put it back instead.

        Returns:
            Whether there was an ``old``.
        """
        raise NotImplementedError


class Server(Database):
    """A database server; its programs are in the other container."""

    def settings(self, database):
        """Variables and files of the database's programs."""
        raise NotImplementedError

    def login(self):
        """The login in the URI, as variables of the programs; empty where their container has it of a Secret."""
        if not self.url.username or not self.throw_away and {"PGUSER", "DATABASE_USER"} & set(os.environ):
            return {}
        return {"DATABASE_USER": self.url.username, "DATABASE_PASSWORD": self.url.password or ""}

    def load(self, exchange, stream, database=None):
        """As of Database."""
        exchange.begin(*self.settings(database or self.new))
        with contextlib.suppress(BrokenPipeError), exchange.writing() as pipe:
            shutil.copyfileobj(self.unpacked(stream), pipe, BLOCK)
        exchange.finish("Loading the dump")

    def unpacked(self, stream):
        """What the program reads, of what is in the set."""
        return stream

    def _statements(self, *statements, database=None):
        import sqlalchemy

        with self.engine(database, isolation_level="AUTOCOMMIT").connect() as connection:
            for statement in statements:
                connection.execute(sqlalchemy.text(statement))

    def _quoted(self, name):
        return self.engine().dialect.identifier_preparer.quote_identifier(name)


class Gzipped:
    """A stream that compresses another one."""

    def __init__(self, stream):
        self.stream, self.rest = stream, b""
        self._compressor = zlib.compressobj(1, zlib.DEFLATED, 31)

    def read(self, size=-1):
        while self._compressor and (size < 0 or len(self.rest) < size):
            data = self.stream.read(BLOCK)
            if data:
                self.rest += self._compressor.compress(data)
            else:
                self.rest += self._compressor.flush()
                self._compressor = None
        taken, self.rest = (self.rest, b"") if size < 0 else (self.rest[:size], self.rest[size:])
        return taken


def users_database(main):
    """The database of MLflow's users, where it is another one than ``main``; else None."""
    path = os.environ.get("MLFLOW_AUTH_CONFIG_PATH")
    if not path:
        return None
    parser = configparser.ConfigParser()
    parser.read(path, encoding="utf-8")
    uri = parser.get("mlflow", "database_uri", fallback="")
    if main.dialect != "sqlite" or not uri.startswith("sqlite:"):
        return None
    return open_database(uri)
