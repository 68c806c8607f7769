# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How long workers remember that a password was right, and what that delays (mlflow_server_auth_cache_seconds).

Comparing a password takes about 130 ms of CPU time (scrypt). The tests count the calls of scrypt instead of measuring
time. Each worker has a cache of its own, so they talk to one particular worker on a connection that is kept open.
"""

from __future__ import annotations

import time

import mlflow_servers as servers
import pytest
import requests

CACHED_FROM = (3, 12)
"""Before, MLflow had no such cache."""
ROLES_FROM = (3, 13)
"""Before, experiments had permissions of their own."""
SECONDS = 10
"""auth_cache_ttl_seconds of the servers here."""
USERS = "/api/2.0/mlflow/users/"
GET = "/api/2.0/mlflow/experiments/get?experiment_id="
OLD, NEW, WRONG = "the-former-password", "the-latter-password", "neither-of-both"
COUNT = """

import hashlib

_scrypt = hashlib.scrypt


def _counted(*arguments, **options):
    with open(os.environ["SCRYPT_CALLS"], "a", encoding="utf-8") as file:
        file.write(f"{os.getpid()}\\n")
    return _scrypt(*arguments, **options)


hashlib.scrypt = _counted
"""
"""Added to the sitecustomize.py of the server: each call writes the worker's process id."""


class Workers:
    """A server with logins: ``first`` and ``second`` are connections to its two workers."""

    def __init__(self, server: servers.Running):
        self.server = server
        found = {}
        for _attempt in range(100):
            session = requests.Session()
            assert self.status(session, servers.CHIEF[0], WRONG) == 401
            found.setdefault(self.calls()[-1], session)
            if len(found) == 2:
                break
        sessions = list(found.values())
        assert len(sessions) == 2, found
        self.first, self.second = sessions

    def calls(self) -> list[str]:
        """Process ids of the workers that have called scrypt, one for each call."""
        return (self.server.folder / "calls").read_text().splitlines()

    def ask(self, session: requests.Session, user: str, password: str, method: str = "GET", path: str = GET + "0",
            **options) -> requests.Response:
        return session.request(method, self.server.url + path, auth=(user, password), timeout=60, **options)

    def status(self, *arguments, **options) -> int:
        return self.ask(*arguments, **options).status_code

    def manage(self, method: str, path: str, **body) -> dict:
        """A request of the administrator to the first worker."""
        answer = self.ask(self.first, *servers.CHIEF, method, path, json=body)
        assert answer.ok, answer.text
        return answer.json() if answer.content else {}

    def logged_in(self, user: str) -> None:
        """A new user whose password both workers have verified."""
        self.manage("POST", f"{USERS}create", username=user, password=OLD)
        assert [self.status(session, user, OLD) for session in (self.first, self.second)] == [200, 200]

    def seconds_until(self, condition, *arguments, **options) -> float:
        """Seconds until the status of a request is as it should be."""
        begun = time.monotonic()
        while not condition(self.status(*arguments, **options)):
            assert time.monotonic() - begun < 4 * SECONDS
            time.sleep(0.5)
        return time.monotonic() - begun


def started(version, folder, seconds):
    ini = servers.auth_ini(folder, f"sqlite:///{folder}/users.db")
    text = (folder / "auth.ini").read_text().replace("ttl_seconds = 60", f"ttl_seconds = {seconds}")
    (folder / "auth.ini").write_text(text)
    with (servers.config(folder) / "sitecustomize.py").open("a", encoding="utf-8") as file:
        file.write(COUNT)
    variables = {**servers.logins(), "MLFLOW_AUTH_CONFIG_PATH": ini, "SCRYPT_CALLS": str(folder / "calls")}
    servers.prepare(version, folder, "migrate", **variables)
    keep = "--uvicorn-opts=--timeout-keep-alive=3600"
    return servers.mlflow(version, folder, "--app-name=basic-auth", keep, workers=2, **variables)


@pytest.fixture(scope="module")
def workers(version, tmp_path_factory):
    with started(version, tmp_path_factory.mktemp(f"cache-{version}"), SECONDS) as server:
        yield Workers(server)


@pytest.fixture
def caches(version):
    return servers.number(version) >= CACHED_FROM


@pytest.fixture
def delay(caches):
    """The most seconds after which a change has taken effect, with one for the requests themselves."""
    return (SECONDS if caches else 0) + 1


def logins_of(workers, number):
    """Calls of scrypt for a number of requests of one user to one worker."""
    user = f"user-{time.monotonic_ns()}"
    workers.manage("POST", f"{USERS}create", username=user, password=OLD)
    before = len(workers.calls())
    assert [workers.status(workers.first, user, OLD) for _request in range(number)] == [200] * number
    return len(workers.calls()) - before


def test_a_password_is_compared_once(workers, caches):
    assert logins_of(workers, 10) == 1 if caches else logins_of(workers, 10) >= 10


def test_without_the_cache_a_password_is_compared_for_each_request(newest, tmp_path):
    with started(newest, tmp_path, 0) as server:
        assert logins_of(Workers(server), 10) >= 10


def test_a_changed_password(workers, caches, delay):
    """The worker that changes it refuses the former one at once, the other one when its cache has expired."""
    workers.logged_in("changes")
    workers.manage("PATCH", f"{USERS}update-password", username="changes", password=NEW)
    assert workers.status(workers.first, "changes", OLD) == 401
    assert (workers.status(workers.second, "changes", OLD) == 200) == caches
    assert [workers.status(session, "changes", NEW) for session in (workers.first, workers.second)] == [200, 200]
    assert workers.seconds_until(lambda status: status == 401, workers.second, "changes", OLD) <= delay


def test_a_deleted_user(workers, caches, delay):
    """Another worker knows the password, and that there is no such user."""
    workers.logged_in("leaves")
    workers.manage("DELETE", f"{USERS}delete", username="leaves")
    assert workers.status(workers.first, "leaves", OLD) == 401
    assert workers.status(workers.second, "leaves", OLD) == (404 if caches else 401)
    assert workers.seconds_until(lambda status: status == 401, workers.second, "leaves", OLD) <= delay


def test_a_permission_takes_effect_at_once(workers, version):
    workers.logged_in("tags")
    by_role = servers.number(version) >= ROLES_FROM
    grant = {"username": "tags", "resource_type": "experiment", "resource_id": "0"} if by_role else {
        "username": "tags", "experiment_id": "0"}
    begin = "/api/3.0/mlflow/users/permissions/" if by_role else "/api/2.0/mlflow/experiments/permissions/"
    tag = {"path": "/api/2.0/mlflow/experiments/set-experiment-tag",
           "json": {"experiment_id": "0", "key": "k", "value": "v"}}
    assert workers.status(workers.second, "tags", OLD, "POST", **tag) == 403
    workers.manage("POST", begin + ("grant" if by_role else "create"), **grant, permission="EDIT")
    assert workers.status(workers.second, "tags", OLD, "POST", **tag) == 200
    workers.manage(*("POST", begin + "revoke") if by_role else ("DELETE", begin + "delete"), **grant)
    assert workers.status(workers.second, "tags", OLD, "POST", **tag) == 403


def test_a_former_administrator(workers, caches, delay):
    """Routes of FastAPI (here that of traces) take the cached user; those of Flask look at the database."""
    workers.logged_in("rules")
    admin = {"method": "PATCH", "path": f"{USERS}update-admin", "username": "rules"}
    traces = {"path": "/v1/traces", "headers": {"x-mlflow-experiment-id": "0"}, "data": b""}
    assert workers.status(workers.second, "rules", OLD, "POST", **traces) == 403
    workers.manage(**admin, is_admin=True)
    request = (workers.second, "rules", OLD, "POST")
    assert workers.seconds_until(lambda status: status != 403, *request, **traces) <= delay
    workers.manage(**admin, is_admin=False)
    assert workers.status(workers.second, "rules", OLD, path=f"{USERS}get?username=chief") == 403
    assert (workers.status(workers.second, "rules", OLD, "POST", **traces) != 403) == caches
    assert workers.seconds_until(lambda status: status == 403, *request, **traces) <= delay
