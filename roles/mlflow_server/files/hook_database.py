"""Fewer messages to PostgreSQL by psycopg2; mlflow_server_disabled_hooks switches each off.

batch       several UPDATEs in one message
ping        a connection that was in use a moment ago is not tested by a query before it is used again
autocommit  no BEGIN and COMMIT around what is one statement, or only reads
"""

import contextlib
import functools
import importlib
import select
import threading
import time
import weakref

import server_hooks as hooks

RECENT = 1.0
"""Seconds from its last use in which a connection that has received nothing since is taken to work."""
ALONE = threading.local()
"""Whether sessions that this thread begins are without transactions of several statements."""


def batch(_utils):
    """Have psycopg2 send the UPDATEs of an executemany together; by default it sends one by one."""
    engines(before=lambda options: options.setdefault("executemany_mode", "values_plus_batch"))


def ping(_utils):
    """Test a pooled connection by a query only if it has rested, or if anything has arrived on it."""
    engines(after=recently_used)


def autocommit(_utils):
    """Have statements_alone() take effect."""
    sqlalchemy = importlib.import_module("sqlalchemy")
    connections = Autocommitted(sqlalchemy.event.listen)
    engines(after=connections.watch)
    sqlalchemy.event.listen(importlib.import_module("sqlalchemy.orm").Session, "after_begin", connections.begin)


def engines(before=None, after=None):
    """Have functions called for each engine with psycopg2: with its options before it is made, and with it."""
    sqlalchemy = importlib.import_module("sqlalchemy")
    create_engine = sqlalchemy.create_engine

    @functools.wraps(create_engine)
    def create(url, **options):
        ours = sqlalchemy.engine.make_url(url).get_dialect().driver == "psycopg2"
        if ours and before:
            before(options)
        engine = create_engine(url, **options)
        if ours and after:
            after(engine, options)
        return engine

    sqlalchemy.create_engine = create


def recently_used(engine, options):
    """Replace the test of an engine's connections."""
    sqlalchemy = importlib.import_module("sqlalchemy")
    if not options.get("pool_pre_ping"):
        return
    if hasattr(engine.dialect, "do_ping"):
        RecentlyUsed(engine, sqlalchemy.event.listen)
    else:
        hooks.report(
            ping=f"SQLAlchemy {sqlalchemy.__version__} has no Dialect.do_ping; each connection to the "
            "database is tested by a query before each use"
        )


class RecentlyUsed:
    """In place of the test (pool_pre_ping) that SQLAlchemy makes of a connection of the pool before each use.

    The end of a server, of a session or of a proxy arrives on the connection, as do all messages about it, so
    that the socket can be read, and the query is sent then. What sends nothing, such as a host without power, is
    noticed by the next statement, as it is where it happens right after a query that tested the connection.
    """

    def __init__(self, engine, listen):
        self.ask = engine.dialect.do_ping
        self.returned = weakref.WeakKeyDictionary()
        engine.dialect.do_ping = self.do_ping
        listen(engine, "checkin", self.checkin)

    def checkin(self, connection, _record):
        """A connection goes back to the pool; None: it had failed."""
        if connection is not None:
            self.returned[connection] = time.monotonic()

    def do_ping(self, connection):
        """Whether a connection works; the dialect's own method otherwise."""
        rested = time.monotonic() - self.returned.get(connection, 0)
        return (rested < RECENT and silent(connection)) or self.ask(connection)


def silent(connection):
    """Whether a connection of psycopg2 is open and nothing has arrived on it."""
    if connection.closed:
        return False
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN | select.POLLPRI)
    return not poll.poll(0)


def is_postgresql(connection):
    """Whether an engine's or a connection's database is PostgreSQL by psycopg2."""
    return (connection.dialect.name, connection.dialect.driver) == ("postgresql", "psycopg2")


def of_all_rows(store):
    """A function that tells whether a store of that class finds all rows; with workspaces, another limits them."""
    own = store._get_query
    return lambda found: type(found)._get_query is own


@contextlib.contextmanager
def statements_alone():
    """Have each statement of the sessions that this thread begins meanwhile be a transaction of its own.

    For what is one statement, or reads: PostgreSQL shows each statement what was committed when it began also within
    a transaction, unless it is told otherwise.
    """
    before, ALONE.on = getattr(ALONE, "on", False), True
    try:
        yield
    finally:
        ALONE.on = before


class Autocommitted:
    """Connections on which psycopg2 sends no BEGIN, until they are given back to their pool.

    Arguments:
        listen: SQLAlchemy's function.
    """

    def __init__(self, listen):
        self.listen = listen
        self.engines, self.connections = weakref.WeakSet(), weakref.WeakSet()

    def watch(self, engine, _options):
        """Take part in what an engine's pool does."""
        self.engines.add(engine)
        self.listen(engine, "checkin", self.checkin)

    def begin(self, _session, _transaction, connection):
        """A session has a connection, and has sent nothing."""
        if not getattr(ALONE, "on", False) or connection.engine not in self.engines:
            return
        found = connection.connection.dbapi_connection
        if not found.autocommit:
            found.autocommit = True  # a setting of psycopg2: it sends nothing
            self.connections.add(found)

    def checkin(self, connection, _record):
        """A connection goes back to the pool; None: it had failed."""
        if connection in self.connections:
            self.connections.discard(connection)
            if not connection.closed:
                connection.autocommit = False
