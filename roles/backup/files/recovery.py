"""The database as of a moment in the past, in a server of its own in this pod: PostgreSQL's base backups and WAL that
pgBackRest archived."""

import datetime
import time

import drill
from sets import BackupError

PORT = 15433
ARCHIVE_SECONDS = 120


def recover(main, exchange, moment, log):
    """Start the server.

    Args:
        main: the instance's database, a Postgresql.
        exchange: the Exchange, in whose other container ``recover`` runs.
        moment: in the form of ISO 8601, with the offset from UTC.
        log: takes a line of progress.

    Returns:
        The database as of that moment, which is gone when this pod ends.

    Raises:
        BackupError: the archive does not reach from before the moment until after it.
    """
    _archive_all(main)
    when = datetime.datetime.fromisoformat(moment).astimezone(datetime.timezone.utc)
    log(f"recovering the database as of {moment}")
    database = drill.throw_away(main, None, PORT)
    variables, files = database.settings(main.name)
    exchange.begin({**variables, "MOMENT": f"{when:%Y-%m-%d %H:%M:%S.%f}+00"}, files)
    exchange.finish(f"Recovering the database as of {moment}", float("inf"))
    log("the database is recovered")
    return database


def _archive_all(main):
    """Have all WAL until now archived, and in it a transaction after the moment, at which the replay can end."""
    import sqlalchemy

    with main.engine(isolation_level="AUTOCOMMIT").connect() as connection:
        def ask(text):
            return connection.execute(sqlalchemy.text(text)).scalar()

        ask("SELECT txid_current()")
        segment, deadline = ask("SELECT pg_walfile_name(pg_switch_wal())"), time.monotonic() + ARCHIVE_SECONDS
        while (ask("SELECT last_archived_wal FROM pg_stat_archiver") or "") < segment:
            if time.monotonic() > deadline:
                raise BackupError(
                    f"WAL until now ({segment}) was not archived within {ARCHIVE_SECONDS} s; look at the log of the"
                    " database for what pgBackRest reports."
                )
            time.sleep(0.2)
