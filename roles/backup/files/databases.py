"""Databases of MLflow for backup.py: their dumps, and the database beside the current one into which a dump is
restored.

PostgreSQL and MariaDB are dumped and loaded by their own programs, which run in a second container of the pod
(database.sh) and get or give the dump by a pipe; nothing is on a disk or in memory as a whole. SQLite has its backup
interface.

A dump is restored into a database NAME_restore. `promote` puts it in the place of the current one, which becomes
NAME_before; `revert` puts that back, `finish` removes it. Each of them may be interrupted and called again.
"""

import configparser
import contextlib
import errno
import gzip
import os
import pathlib
import re
import select
import shlex
import shutil
import sqlite3
import tempfile
import threading
import time

from sets import BackupError

START_SECONDS = 300
"""Until the second container runs its program; its image may have to be pulled."""
BLOCK = 2**20
SCHEMAS = ("alembic_version", "alembic_version_auth")
"""Tables with the revisions of MLflow's schema and of the one of its users."""


def last_line(text):
    """The last line that is not empty, usually the one with the cause."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


class Exchange:
    """The folder that the container with the database's programs shares.

    Args:
        folder: its path.
    """

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self._ended, self._number = threading.Event(), 0

    @property
    def _request(self):
        """The folder of the program that runs."""
        return self.folder / str(self._number)

    @property
    def pipe(self):
        """Of the program that runs."""
        return self._request / "pipe"

    def __enter__(self):
        def stay_alive():
            while not self._ended.wait(15):
                (self.folder / "alive").touch()

        (self.folder / "alive").touch()
        threading.Thread(target=stay_alive, daemon=True).start()
        return self

    def __exit__(self, *_exception):
        self._ended.set()
        (self.folder / "ended").touch()

    def begin(self, variables, files):
        """Let the other container begin.

        Args:
            variables: of the program's environment.
            files: text by name, beside them.
        """
        self._number += 1
        # The other container has another user.
        self._request.mkdir()
        self._request.chmod(0o777)
        os.mkfifo(self.pipe)
        self.pipe.chmod(0o666)
        for name, text in files.items():
            (self._request / name).write_text(text, encoding="utf-8")
        lines = "".join(f"export {name}={shlex.quote(str(value))}\n" for name, value in variables.items())
        part = self._request / "database.env.part"
        part.write_text(lines, encoding="utf-8")
        part.rename(self._request / "database.env")

    def _wait(self, ready):
        """Until the other side has opened the pipe, or has ended before."""
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            self._refuse_failure()
            if time.monotonic() > deadline:
                raise BackupError(
                    f"The container with the database's programs did not begin within {START_SECONDS} s; look at "
                    "the events of the pod."
                )

    def _refuse_failure(self):
        if (self._request / "status").exists():
            raise BackupError(f"The database's program failed: {self._errors()}")
        if (self.folder / "database-ended").exists():
            raise BackupError(
                "The container with the database's programs ended before its work was done; look at its log."
            )

    @contextlib.contextmanager
    def reading(self):
        """A stream of what the program writes."""
        descriptor = os.open(self.pipe, os.O_RDONLY | os.O_NONBLOCK)
        with open(descriptor, "rb", buffering=BLOCK) as stream:
            self._wait(lambda: select.select([descriptor], [], [], 0.5)[0])
            os.set_blocking(descriptor, True)
            yield stream

    @contextlib.contextmanager
    def writing(self):
        """A stream to the program."""
        descriptors = []

        def opened():
            try:
                descriptors.append(os.open(self.pipe, os.O_WRONLY | os.O_NONBLOCK))
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                time.sleep(0.2)
            return descriptors

        self._wait(opened)
        os.set_blocking(descriptors[0], True)
        with open(descriptors[0], "wb", buffering=0) as stream:
            yield stream

    def finish(self, what):
        """Wait for the program's end; raise BackupError if it failed."""
        deadline = time.monotonic() + START_SECONDS
        status = self._request / "status"
        while not status.exists():
            if (self.folder / "database-ended").exists() and not status.exists():
                raise BackupError(f"{what} failed: the container with the database's programs ended; look at its log.")
            if time.monotonic() > deadline:
                raise BackupError(f"{what} did not end within {START_SECONDS} s after its last byte.")
            time.sleep(0.1)
        if status.read_text(encoding="ascii").strip() != "0":
            raise BackupError(f"{what} failed: {self._errors()}")

    def _errors(self):
        try:
            text = (self._request / "errors").read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            text = ""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return " ".join(lines[-3:]) or "it wrote nothing"


def open_database(uri=None):
    """The database of MLflow that a URI of SQLAlchemy names, that of this process' environment if None."""
    import sqlalchemy

    url = sqlalchemy.engine.make_url(uri or os.environ["MLFLOW_BACKEND_STORE_URI"])
    kinds = {"sqlite": Sqlite, "postgresql": Postgresql, "mysql": Mysql}
    dialect = url.get_backend_name()
    if dialect not in kinds:
        raise BackupError(f"The database is of type {dialect}, which cannot be backed up here; use its own backups.")
    return kinds[dialect](url)


class Database:
    """What all kinds share.

    Args:
        url: sqlalchemy.URL.

    Attributes:
        dialect: postgresql, mysql or sqlite.
    """

    dialect = ""

    def __init__(self, url):
        self.url = url

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


class Server(Database):
    """A database server; its programs are in the other container."""

    suffix = ""

    def settings(self, database):
        """Variables and files of the database's programs."""
        raise NotImplementedError

    def login(self):
        """The login in the URI, as variables of the programs; empty where their container has it of a Secret."""
        if not self.url.username or {"PGUSER", "DATABASE_USER"} & set(os.environ):
            return {}
        return {"DATABASE_USER": self.url.username, "DATABASE_PASSWORD": self.url.password or ""}

    def load(self, exchange, stream, database=None, more=None):
        """Restore a dump.

        Args:
            exchange: the Exchange, in whose other container ``restore`` or ``drill`` runs.
            stream: of the dump as it was made.
            database: its name, ``new`` if None.
            more: further variables.
        """
        variables, files = self.settings(database or self.new)
        exchange.begin({**variables, **(more or {})}, files)
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


class Postgresql(Server):
    """By pg_dump and pg_restore, in their custom format. Credentials are in PGUSER and PGPASSWORD, or in the URI."""

    dialect = "postgresql"
    suffix = "database.dump"

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
        """A context with a stream of the dump, and a dictionary that describes exactly what is in it."""
        import sqlalchemy

        with self.engine(isolation_level="REPEATABLE READ").connect() as connection:
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
        """Create the empty database ``new``; undo a promotion that was interrupted."""
        import sqlalchemy

        with self._administration() as run:
            names = self._names(run)
            if self.name not in names and self.old in names:
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
        """``new`` becomes the current database, and that ``old``; an ``old`` of a promotion that was not finished
        stays."""
        with self._administration() as run:
            names = self._names(run)
            if self.new not in names:
                raise BackupError(f"There is no database {self.new}; restore a backup first.")
            if self.name in names and self.old in names:
                self._drop(run, self.name)
            elif self.name in names:
                self._rename(run, self.name, self.old)
            self._rename(run, self.new, self.name)

    def revert(self):
        """``old`` becomes the current database again; returns whether there was one."""
        with self._administration() as run:
            names = self._names(run)
            self._drop(run, self.new)
            if self.old in names:
                self._drop(run, self.name)
                self._rename(run, self.old, self.name)
            return self.old in names

    def finish(self):
        """Remove ``old``."""
        with self._administration() as run:
            self._drop(run, self.old)


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
        """As of Postgresql. The rows are counted in the dump itself."""
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
        import sqlalchemy

        try:
            self._statements(
                f"CREATE DATABASE IF NOT EXISTS {self._quoted(name)} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
            )
        except sqlalchemy.exc.OperationalError as error:
            raise BackupError(
                f"The login of the database may not create the database {name}, which a restore needs "
                f"({error.orig.args[-1]}); grant it all privileges on {self.new}.* and {self.old}.*."
            ) from error

    def _move(self, source, target):
        """All tables at once; their triggers are dropped before and created again, since they cannot move."""
        self._save_triggers(source)
        pairs = [
            f"{self._quoted(source)}.{self._quoted(table)} TO {self._quoted(target)}.{self._quoted(table)}"
            for table in self._tables(source)
        ]
        if pairs:
            self._statements("SET SESSION foreign_key_checks = 0", f"RENAME TABLE {', '.join(pairs)}")
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
        """As of Postgresql."""
        self._statements(f"DROP DATABASE IF EXISTS {self._quoted(self.new)}")
        self._create(self.new)
        if not self._tables(self.name) and self.old in self._schemas():
            self._move(self.old, self.name)
        self._create_triggers(self.name)

    def _empty(self, name):
        tables = [f"{self._quoted(name)}.{self._quoted(table)}" for table in self._tables(name)]
        if tables:
            self._statements("SET SESSION foreign_key_checks = 0", f"DROP TABLE {', '.join(tables)}")

    def promote(self):
        """As of Postgresql."""
        if not self._tables(self.new):
            raise BackupError(f"There is no database {self.new}; restore a backup first.")
        if self.old in self._schemas() and self._tables(self.old):
            self._empty(self.name)
        else:
            self._create(self.old)
            self._move(self.name, self.old)
        self._move(self.new, self.name)
        self._statements(f"DROP DATABASE {self._quoted(self.new)}")

    def revert(self):
        """As of Postgresql."""
        self._statements(f"DROP DATABASE IF EXISTS {self._quoted(self.new)}")
        if self.old not in self._schemas() or not self._tables(self.old):
            return False
        self._empty(self.name)
        self._move(self.old, self.name)
        self._statements(f"DROP DATABASE {self._quoted(self.old)}")
        return True

    def finish(self):
        """As of Postgresql."""
        self._statements(f"DROP DATABASE IF EXISTS {self._quoted(self.old)}")


class Gzipped:
    """A stream that compresses another one."""

    def __init__(self, stream):
        import zlib

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


class Sqlite(Database):
    """A file, by SQLite's backup interface; ``name`` is its path."""

    dialect = "sqlite"
    suffix = "database.sqlite.gz"

    @contextlib.contextmanager
    def dump(self, exchange):
        """As of Postgresql."""
        if not os.path.exists(self.name):
            raise BackupError(f"There is no database {self.name}.")
        folder = exchange.folder
        size, free = os.path.getsize(self.name), shutil.disk_usage(folder).free
        if size * 1.1 > free:
            raise BackupError(
                f"There is no room for a copy of {self.name}: it has {size / 2**20:.0f} MiB, and {folder} has "
                f"{free / 2**20:.0f} MiB free."
            )
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".sqlite") as copy:
            with contextlib.closing(sqlite3.connect(self.name, timeout=60)) as source, \
                    contextlib.closing(sqlite3.connect(copy.name)) as target:
                source.backup(target)
            described = {**self.described(copy.name), "exact": True, "server": f"SQLite {sqlite3.sqlite_version}"}
            with open(copy.name, "rb") as stream:
                yield Gzipped(stream), described

    def prepare(self):
        """As of Postgresql."""
        if not os.path.exists(self.name) and os.path.exists(self.old):
            os.replace(self.old, self.name)
        _unlink(self.new)

    def load(self, exchange, stream, database=None, more=None):
        """As of Server."""
        path = database or self.new
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            shutil.copyfileobj(gzip.GzipFile(fileobj=stream), file, BLOCK)
            os.fsync(file.fileno())
        with contextlib.closing(sqlite3.connect(path)) as connection:
            found = connection.execute("PRAGMA integrity_check").fetchone()[0]
        if found != "ok":
            raise BackupError(f"Loading the dump failed: SQLite calls the file damaged ({last_line(found)}).")

    def promote(self):
        """As of Postgresql."""
        if not os.path.exists(self.new):
            raise BackupError(f"There is no file {self.new}; restore a backup first.")
        if os.path.exists(self.name) and not os.path.exists(self.old):
            with contextlib.closing(sqlite3.connect(self.name)) as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            os.replace(self.name, self.old)
        _unlink(self.name)
        os.replace(self.new, self.name)

    def revert(self):
        """As of Postgresql."""
        _unlink(self.new)
        if not os.path.exists(self.old):
            return False
        _unlink(self.name)
        os.replace(self.old, self.name)
        return True

    def finish(self):
        """As of Postgresql."""
        _unlink(self.old)


def _unlink(path):
    """Remove a SQLite file, with what belongs to it."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path + suffix)


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
