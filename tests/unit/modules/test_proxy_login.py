# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""proxy_login.py of the role mlflow_server, in a real server: whom it lets in, as whom, and whom it does not."""

from __future__ import annotations

import uuid

import mlflow
import pytest
import requests
from ansible_collections.mlops.mlflow.plugins.module_utils import mlflow_api

PASSWORD = "a-password-of-its-own"
SECRET = "only-the-proxy-has-it"
CURRENT = "/api/2.0/mlflow/users/current"
PARAMS = {"path_prefix": "", "token": None, "ca_file": None, "validate_certs": True, "timeout": 10}


def by_headers(name, secret=SECRET):
    """As a proxy that names users in a header."""
    return {"headers": {"X-Auth-Request-Email": name, "X-Proxy-Secret": secret}}


def by_login(name, secret=SECRET):
    """As oauth2-proxy, which sends the name and its secret as user and password."""
    return {"auth": (name, secret)}


@pytest.fixture
def url(mlflow_proxied_server):
    return mlflow_proxied_server["url"]


@pytest.fixture
def ask(url):
    """Asks the server something, as somebody."""
    def of(path, method="GET", **options):
        return requests.request(method, url + path, timeout=20, allow_redirects=False, **options)
    return of


@pytest.fixture
def whoami(ask):
    """Name and rank of whom the server takes a request to be of, or the HTTP status of its refusal."""
    def of(**options):
        answer = ask(CURRENT, **options)
        return (answer.json()["user"]["username"],
                answer.json()["user"]["is_admin"]) if answer.ok else answer.status_code
    return of


@pytest.fixture
def administrator(mlflow_proxied_server):
    """The server for the administrator with a password."""
    return mlflow_api.Server(mlflow_proxied_server["url"], PARAMS, mlflow_proxied_server["login_username"],
                             mlflow_proxied_server["login_password"])


@pytest.fixture
def name():
    return f"n{uuid.uuid4().hex[:10]}@example.com"


@pytest.mark.parametrize("by", [by_headers, by_login])
def test_who_comes_through_the_proxy_is_a_user(by, whoami, administrator, name):
    assert mlflow_api.find_user(administrator, name) is None
    assert whoami(**by(name)) == (name, False) == whoami(**by(name))
    assert mlflow_api.find_user(administrator, name)["is_admin"] is False


@pytest.mark.parametrize("by", [by_headers, by_login])
@pytest.mark.parametrize("secret", ["", "guessed", SECRET[:-1], SECRET + "x", "\u00fcmlaut"])
def test_a_name_alone_is_worth_nothing(by, secret, whoami, administrator, name):
    assert whoami(**by(name, secret.encode())) == 401
    assert mlflow_api.find_user(administrator, name) is None


@pytest.mark.parametrize("by", [by_headers, by_login])
def test_groups_make_administrators(by, whoami, name):
    def asked(groups, who=name):
        options = by(who)
        return whoami(**{**options, "headers": {**options.get("headers", {}), "X-Auth-Request-Groups": groups}})

    assert asked("staff, ops") == (name, True)
    assert asked("staff") == (name, False), "the right ends with the membership"
    assert asked("not-ops,ml-admins-of-others", f"2{name}") == (f"2{name}", False)
    assert asked("staff", "founder@example.com") == ("founder@example.com", True), "is listed by name"


def test_groups_of_a_client_are_worth_nothing(whoami, administrator, name):
    """They count only with the secret that the proxy has."""
    administrator.call("/api/2.0/mlflow/users/create", {"username": name, "password": PASSWORD})
    assert whoami(auth=(name, PASSWORD), headers={"X-Auth-Request-Groups": "ops"}) == (name, False)
    assert whoami(**{**by_headers(name, "guessed"), "headers": {
        **by_headers(name, "guessed")["headers"], "X-Auth-Request-Groups": "ops"}}) == 401


@pytest.mark.parametrize("headers", [
    {}, {"X-Auth-Request-Email": "boss@example.com"}, {"X-Proxy-Secret": SECRET},
    {"X-Auth-Request-Email": "", "X-Proxy-Secret": SECRET},
    {"X-Forwarded-User": "boss@example.com", "X-Proxy-Secret": SECRET}, {"Authorization": "Bearer " + SECRET},
    {"Authorization": SECRET},
    {"Authorization": "Basic " + SECRET}, {"Authorization": "Basic Og=="},
    {"X-MLflow-Authorization": "Basic Y2hpZWY6bm90LXRoZS1kZWZhdWx0LW9uZQ=="},
])
def test_everything_else_is_refused_everywhere(headers, ask):
    for method, path in (("GET", CURRENT), ("GET", "/"), ("GET", "/version"), ("GET", "/metrics"), ("POST", "/graphql"),
                         ("POST", "/api/2.0/mlflow/experiments/search"),
                         ("PUT", "/api/2.0/mlflow-artifacts/artifacts/a/b"), ("POST", "/v1/traces"),
                         ("GET", "/ajax-api/2.0/mlflow/users/current")):
        assert ask(path, method, headers=headers).status_code == 401, (method, path)


def test_probes_need_no_name(ask):
    assert (ask("/health").status_code, ask("/health").text) == (200, "OK")


@pytest.mark.parametrize("by, person", [(by_headers, "boss@example.com"), (by_login, "founder@example.com")])
def test_who_is_to_be_an_administrator_is_one(by, person, whoami):
    assert whoami(**by(person)) == (person, True)


@pytest.mark.parametrize("by", [by_headers, by_login])
def test_nobody_gets_the_administrator_by_being_called_so(by, whoami, mlflow_proxied_server):
    chief = mlflow_proxied_server["login_username"]
    assert whoami(**by(chief)) == 401
    assert whoami(auth=(chief, mlflow_proxied_server["login_password"])) == (chief, True)


@pytest.mark.parametrize("by", [by_headers, by_login])
def test_a_name_may_have_colons(by, whoami, name):
    account = f"system:serviceaccount:ml:{name}"
    assert whoami(**by(account)) == (account, False)


def test_machines_log_in_past_the_proxy(whoami, administrator, url, name, monkeypatch):
    administrator.call("/api/2.0/mlflow/users/create", {"username": name, "password": PASSWORD})
    assert whoami(auth=(name, PASSWORD)) == (name, False) and whoami(auth=(name, PASSWORD + "x")) == 401
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", name)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    assert mlflow.MlflowClient(url, url).search_experiments()


def test_people_have_permissions_of_their_own(ask, name):
    hers, his = by_headers(name), by_login("other-" + name)
    made = ask("/api/2.0/mlflow/experiments/create", "POST", json={"name": name}, **hers)
    number = made.json()["experiment_id"]
    artifact = "/api/2.0/mlflow-artifacts/artifacts/{}/notes.txt".format(number)
    assert ask(artifact, "PUT", data=b"words", **hers).status_code == 200
    assert ask("/api/2.0/mlflow/experiments/get?experiment_id=" + number,
               **his).status_code == 200  # by default_permission
    assert ask("/api/2.0/mlflow/experiments/delete", "POST", json={"experiment_id": number}, **his).status_code == 403
    assert ask(artifact, "PUT", data=b"lies", **his).status_code == 403
    assert ask(artifact, **his).content == b"words"
    assert ask("/api/2.0/mlflow/experiments/delete", "POST", json={"experiment_id": number}, **hers).status_code == 200


def test_the_gateway_has_a_header_of_its_own(ask, mlflow_proxied_server, name):
    """A job of the server's own and an agent with a provider's key come as users that exist; there is no such endpoint
    to call."""
    call = "/gateway/none/mlflow/invocations"
    login = requests.auth._basic_auth_str(mlflow_proxied_server["login_username"],
                                          mlflow_proxied_server["login_password"])
    agent = {"Authorization": "Bearer of-a-provider", "X-MLflow-Authorization": login}
    job = requests.auth._basic_auth_str(mlflow_proxied_server["login_username"], "of-the-server-for-its-jobs")
    assert ask(call, "POST", json={}, headers=agent).status_code == 404
    assert ask(call, "POST", json={}, headers={"Authorization": job}).status_code == 404
    assert ask(call, "POST", json={}, headers={"Authorization": "Bearer of-a-provider"}).status_code == 401
    assert ask(call, "POST", json={}, headers={"Authorization": job + "x"}).status_code == 401
    assert ask(CURRENT, headers={"Authorization": job}).status_code == 401, "the jobs' token opens nothing else"
