# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sessions with statements alone (hook_database.py) leave transactions of all others as they are."""

from __future__ import annotations

import mlflow_servers as servers

PROGRAM = """
import json, os, sys, threading
os.environ.update(MLFLOW_SQLALCHEMYSTORE_POOL_SIZE="1", MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW="0")
import hook_database, psycopg2, sqlalchemy
from mlflow.store.db.utils import create_sqlalchemy_engine
from sqlalchemy.orm import sessionmaker

uri, found = sys.argv[1], {}
engine = create_sqlalchemy_engine(uri)
assert engine.pool.size() == 1
Session = sessionmaker(engine)
other = psycopg2.connect(uri.replace("+psycopg2", ""))
other.autocommit = True

def sent(statement):
    with other.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []

def kept():
    return [number for (number,) in sent("SELECT number FROM kept ORDER BY number")]

def insert(session, number):
    session.execute(sqlalchemy.text("INSERT INTO kept VALUES (:number)"), {"number": number})
    return session.connection().connection.dbapi_connection.autocommit

def transactional(number):
    with Session() as session:
        alone = insert(session, number)
        session.rollback()
    return not alone and number not in kept()

sent("CREATE TABLE kept (number integer PRIMARY KEY)")
found["before"] = transactional(1)
with hook_database.statements_alone():
    with Session() as session:
        found["alone"] = insert(session, 2) and kept() == [2]
        session.rollback()
    found["still alone"] = not transactional(3) and kept() == [2, 3]
found["after"] = transactional(4)

with Session() as begun, hook_database.statements_alone():  # it begins only now
    found["late"] = insert(begun, 5) and 5 in kept()
with Session() as begun:
    insert(begun, 6)
    with hook_database.statements_alone():
        found["begun before"] = not insert(begun, 7)
    begun.rollback()
found["neither is there"] = not {6, 7} & set(kept())

with hook_database.statements_alone(), Session() as session:
    try:
        insert(session, 2)
    except sqlalchemy.exc.IntegrityError:
        session.rollback()
    else:
        raise AssertionError("2 is there twice")
    found["after an error"] = insert(session, 8) and 8 in kept()
found["after errors"] = transactional(9)

with hook_database.statements_alone(), Session() as session:
    insert(session, 10)
    sent("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
         "WHERE datname = current_database() AND pid <> pg_backend_pid()")
    try:
        insert(session, 11)
    except sqlalchemy.exc.OperationalError:
        session.rollback()
    else:
        raise AssertionError("a connection that was ended works")
    found["another connection"] = insert(session, 12) and kept()[-1] == 12
found["after an end"] = transactional(13)

results = []
with hook_database.statements_alone():
    thread = threading.Thread(target=lambda: results.append(transactional(14)))
    thread.start()
    thread.join()
found["another thread"] = results == [True]

always = sqlalchemy.create_engine(uri, isolation_level="AUTOCOMMIT")
for _again in range(2):
    with hook_database.statements_alone(), sessionmaker(always)() as session:
        found["of its own"] = insert(session, 15 + _again)
with sessionmaker(always)() as session:
    found["stays so"] = insert(session, 17) and kept()[-1] == 17
json.dump(found, sys.stdout)
"""


def test_other_sessions_have_transactions(newest, postgresql, tmp_path):
    uri = servers.created(postgresql, newest, "autocommit")
    found = servers.answer(newest, tmp_path, PROGRAM, uri)
    assert found and all(found.values()), found
