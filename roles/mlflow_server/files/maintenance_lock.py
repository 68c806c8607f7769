"""The lock of an instance's maintenance: a backup and a garbage collection never run side by side.

with maintenance_lock.held(os.environ["MLFLOW_BACKEND_STORE_URI"], "backup", wait=600) as lock:
    ...             # clients of MLflow are not affected
    lock.check()    # before what must not be done without it

The lock is in the tracking database itself, so that it holds for all pods, machines and engines that use the database,
and ends with the process that holds it, however that ends. Needs SQLAlchemy and the database's driver (MLflow's image
has both); Python 3.9 or newer.

database       lock                                                             who holds it is told by
PostgreSQL     advisory lock of an open transaction, which neither a pooler      application_name and start of that
               of connections nor idle_in_transaction_session_timeout ends       transaction
MariaDB/MySQL  GET_LOCK with the database's name; of Galera, one node only      the statement of the session that has it
SQLite         flock of the file DATABASE.maintenance-lock                       the contents of that file
"""

import contextlib
import datetime
import hashlib
import threading
import time

KEY = 0x6D6C6F70732E6D6C
"""Of PostgreSQL's advisory lock, which is one of a database: "mlops.ml"."""
POLL = 0.5
"""Seconds from one attempt to the next while somebody else holds the lock."""
ALIVE = 30
"""Seconds after which PostgreSQL is asked something, before a NAT gateway or load balancer drops the connection."""
KEEPALIVES = {"tcp_keepalives_idle": 20, "tcp_keepalives_interval": 10, "tcp_keepalives_count": 3}
"""Settings of PostgreSQL, in seconds, by which a holder that is gone is noticed within a minute."""
SLEEP = 2
"""Seconds of a statement of MariaDB and MySQL that shows the purpose; as long does a release take."""
NAME = "mlops.mlflow"


class Locked(Exception):
    """Somebody else holds the lock; the message is a sentence that says who."""


class LostError(Exception):
    """The lock has ended before its holder: the connection to the database broke."""


@contextlib.contextmanager
def held(uri, purpose, wait):
    """Hold the lock for as long as the context lasts.

    Args:
        uri: of the database, as SQLAlchemy takes it; a login may be in the environment, as the driver reads it.
        purpose: one or two words, such as "backup", which others are told who find the lock taken.
        wait: seconds to wait for others that hold it.

    Yields:
        The lock; its ``check`` raises LostError when the lock has ended too early.

    Raises:
        Locked: others still hold it.
        ValueError: the database is of a kind that has no such lock here.
    """
    purpose = "".join(letter for letter in purpose if letter.isalnum() or letter in " -_.")[:40]
    lock = _lock_of(uri)(uri, purpose)
    deadline = time.monotonic() + wait
    try:
        while not lock.attempt():
            if time.monotonic() > deadline:
                raise Locked(f"{lock.holder() or 'Another process'} holds the maintenance lock of the database, and "
                             f"{purpose} waited {wait:.0f} s for it; it ends with that, so try again later.")
            time.sleep(min(POLL, max(0.0, deadline - time.monotonic()) + 0.01))
        lock.keep()
        yield lock
    finally:
        lock.release()


def _lock_of(uri):
    import sqlalchemy

    kinds = {"postgresql": Postgresql, "mysql": Mysql, "mariadb": Mysql, "sqlite": Sqlite}
    backend = sqlalchemy.engine.make_url(uri).get_backend_name()
    if backend not in kinds:
        raise ValueError(f"The database is {backend}, which has no maintenance lock here; {', '.join(kinds)} have.")
    return kinds[backend]


def _sentence_of(purpose, since):
    return f"{purpose} (since {since})" if since else purpose


class ServerLock:
    """What the locks of database servers share: a connection of their own, and a thread that keeps it alive."""

    def __init__(self, uri, purpose):
        import sqlalchemy

        self.text = sqlalchemy.text
        self.purpose, self.since = purpose, _now()
        self.engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.pool.NullPool)
        self.connection = self.engine.connect()
        self.begin()
        self.released, self.lost, self.thread = threading.Event(), "", None

    def begin(self):
        """Prepare the connection."""

    def pulse(self):
        """Use the connection; return when it should be used again, or when the lock was released."""
        raise NotImplementedError

    def execute(self, statement, **values):
        return self.connection.execute(self.text(statement), values)

    def keep(self):
        """Keep the connection alive until the release, and see when it breaks."""
        self.thread = threading.Thread(target=self._pulses, name="maintenance-lock", daemon=True)
        self.thread.start()

    def _pulses(self):
        while not self.released.is_set():
            try:
                self.pulse()
            except Exception as error:
                self.lost = " ".join(str(getattr(error, "orig", None) or error).split())
                return

    def check(self):
        """Raise LostError when the lock has ended."""
        if self.lost:
            raise LostError(f"The maintenance lock of the database ended before {self.purpose} did: {self.lost}.")

    def release(self):
        self.released.set()
        if self.thread:
            self.thread.join()
        # A connection that broke has released it already.
        with contextlib.suppress(Exception):
            self.connection.close()
        self.engine.dispose()


class Postgresql(ServerLock):
    """Of a transaction, since poolers may give the session to others between two transactions."""

    def begin(self):
        # With this isolation the open transaction holds no snapshot, which would keep VACUUM from its work.
        self.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        self.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        # Of a holder whose network is removed with it, such as that of a pod, the server would not learn for hours.
        for setting, value in KEEPALIVES.items():
            self.execute(f"SET LOCAL {setting} = {value}")
        self.execute("SELECT set_config('application_name', :name, true)", name=f"{NAME} {self.purpose}")

    def attempt(self):
        # Without parameters: psycopg 3 leaves a statement that has some open, and its snapshot with it.
        return self.execute(f"SELECT pg_try_advisory_xact_lock({KEY})").scalar()

    def holder(self):
        # pg_locks has the upper and the lower half of the key as two columns.
        row = self.execute(
            "SELECT a.application_name, a.xact_start AT TIME ZONE 'UTC', a.pid FROM pg_locks l "
            "JOIN pg_stat_activity a ON a.pid = l.pid WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 "
            "AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
            "AND l.classid::bigint = :upper AND l.objid::bigint = :lower", upper=KEY >> 32, lower=KEY & 0xFFFFFFFF,
        ).first()
        if not row:
            return ""
        name, begun, process = row
        who = name[len(NAME) + 1:] if (name or "").startswith(NAME + " ") else f"Backend {process}"
        return _sentence_of(who, begun and f"{begun:%Y-%m-%dT%H:%M:%SZ}")

    def pulse(self):
        if not self.released.wait(ALIVE):
            self.execute("SELECT 1")


class Mysql(ServerLock):
    """A session has no name that others can read, so it executes a statement that says what it is for."""

    def begin(self):
        # A holder that is gone with its network is noticed when it does not execute its next statement.
        self.execute(f"SET SESSION wait_timeout = {3 * ALIVE}")
        database = self.execute("SELECT database()").scalar() or ""
        # Names of locks are those of the whole server, and have 64 characters at most.
        self.name = f"{NAME}.{hashlib.sha256(database.encode()).hexdigest()[:40]}"

    def attempt(self):
        return self.execute("SELECT get_lock(:name, 0)", name=self.name).scalar() == 1

    def holder(self):
        session = self.execute("SELECT is_used_lock(:name)", name=self.name).scalar()
        if session is None:
            return ""
        for _attempt in range(10):
            statement = self.execute("SELECT info FROM information_schema.processlist WHERE id = :session",
                                     session=session).scalar() or ""
            _sleep, mark, comment = statement.partition(f"/* {NAME} ")
            if mark:
                purpose, _since, since = comment.rpartition(" */")[0].rpartition(" since ")
                return _sentence_of(purpose, since)
            time.sleep(0.1)
        return f"Session {session}"

    def pulse(self):
        # Not by the Connection, which would take what follows a colon for a parameter.
        with contextlib.closing(self.connection.connection.cursor()) as cursor:
            cursor.execute(f"DO sleep({SLEEP}) /* {NAME} {self.purpose} since {self.since} */")


class Sqlite:
    """The kernel's lock of a file beside the database; the file stays."""

    def __init__(self, uri, purpose):
        import sqlalchemy

        path = sqlalchemy.engine.make_url(uri).database
        if not path or path == ":memory:":
            raise ValueError("A SQLite database in memory has no maintenance lock; name a file in the URI.")
        self.purpose = purpose
        self.file = open(f"{path}.maintenance-lock", "a+", encoding="utf-8")

    def attempt(self):
        import fcntl

        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        self._record(_sentence_of(self.purpose, _now()))
        return True

    def holder(self):
        self.file.seek(0)
        return self.file.read().strip()

    def keep(self):
        """Nothing is to be kept alive."""

    def check(self):
        """The kernel takes no lock away."""

    def release(self):
        # Closing releases it; a file of others is not emptied, and what is in it afterwards says nothing.
        self.file.close()

    def _record(self, text):
        self.file.seek(0)
        self.file.truncate()
        self.file.write(text + "\n")
        self.file.flush()


def _now():
    return f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%dT%H:%M:%SZ}"
