# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs backup.py again and again, each time in a process of its own, without importing its libraries each time.

usage: forks.py FOLDER...    FOLDERs are those of backup.py and of the modules that it imports.

Reads lines of JSON: ``environment``, ``arguments``, ``output`` (a path), ``killed`` (see ``kill_after``). Answers each
by the process' number, and by its exit code when it has ended.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback

import boto3
import botocore.session
import mlflow.store.tracking.sqlalchemy_store
import psycopg
import pymysql
import sqlalchemy.dialects.mysql
import sqlalchemy.dialects.postgresql
import sqlalchemy.dialects.sqlite

LOADED = (boto3, botocore, mlflow, psycopg, pymysql, sqlalchemy)


def memory(field: str) -> int:
    """Bytes of this process in a field of /proc/self/status."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field + ":"))


def kill_after(beginning: str, number: int) -> None:
    """Let this process be killed as soon as the given number of changes is done, and before the next one.

    Args:
        beginning: of a statement for a database, or the name of a function of ``os`` that changes a file.
        number: how many of them are done; 0 kills before the first.
    """
    done = [0]

    def count() -> None:
        done[0] += 1
        if done[0] >= number:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(function):
        def called(*arguments):
            if not number:
                count()
            result = function(*arguments)
            count()
            return result
        return called

    if hasattr(os, beginning):
        setattr(os, beginning, around(getattr(os, beginning)))
        return

    @sqlalchemy.event.listens_for(sqlalchemy.Engine, "after_cursor_execute" if number else "before_cursor_execute")
    def executed(_connection, _cursor, statement, *_more):
        if statement.startswith(beginning):
            count()


def run(request: dict) -> None:
    """What the pod's container does; ends the process."""
    os.environ.clear()
    os.environ.update(request["environment"])
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    code, begun = 1, memory("VmRSS")
    try:
        import backup

        if request.get("killed"):
            kill_after(*request["killed"])
        code = backup.main(request["arguments"])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        with open(request["output"] + ".peak", "w", encoding="ascii") as file:
            file.write(str(memory("VmHWM") - begun))
        os._exit(code)


def main(folders: list[str]) -> None:
    sys.path[:0] = folders
    for line in sys.stdin:
        child = os.fork()
        if not child:
            run(json.loads(line))
        print(child, flush=True)
        _child, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
