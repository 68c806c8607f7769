# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Pages of other sites may not use a server, whatever its allowed hosts are: the newest MLflow as the role runs it."""

from __future__ import annotations

import concurrent.futures
import contextlib

import mlflow_servers as servers
import pytest
from ansible_collections.mlops.mlflow.plugins.plugin_utils import model

HOSTS = {"default": [], "wildcard": ["*"], "suffix": ["*.example.com"]}
FOREIGN = (
    "https://evil.example.org",
    "http://evil.example.org:8080",
    "https://a.example.com",
    "https://aexample.com",
    "http://www-server.evil.org",
    "https://mlflow.internal.org.evil.org",
    "http://mlflow.internal.org",
    "https://mlflow.internal.org:8443",
    "http://10.1.2.3",
    "null",
)
"""Other sites: such as have names like its own, its own name at another scheme or port, a private address."""
OWN = ("https://mlflow.internal.org", "https://notebooks.internal.org", "http://localhost:3000")
"""The ingress' host, what ingress_cors_origins names, and the user's own machine, which MLflow always allows."""


def rendered(hosts):
    """What the role gives a server of the two variables: those of the model."""
    variables = {
        "mlflow_server_allowed_hosts": HOSTS[hosts],
        "ingress_type": "ingress",
        "ingress_tls": "secret",
        "ingress_tls_secret": "tls",
        "mlflow_engine": "kubernetes",
        "ingress_hosts": ["mlflow.internal.org"],
        "ingress_cors_origins": ["https://notebooks.internal.org"],
        "mlflow_image_source": "registry",
    }
    server = model.resolve(variables.__getitem__, variables, "www").mlflow_server
    return {
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(server.allowed_hosts),
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ",".join(server.cors_origins),
    }


def started(stack, folder, newest, hosts, logins):
    variables = rendered(hosts)
    if not logins:
        return stack.enter_context(servers.mlflow(newest, folder, **variables))
    ini = servers.auth_ini(folder, f"sqlite:///{folder}/users.db")
    return stack.enter_context(
        servers.mlflow(
            newest, folder, "--app-name=basic-auth", MLFLOW_AUTH_CONFIG_PATH=ini, **servers.logins(), **variables
        )
    )


@pytest.fixture(scope="module")
def all_servers(newest, tmp_path_factory):
    """A server for each kind of hosts, with logins and without; they start together."""
    kinds = [(hosts, logins) for hosts in HOSTS for logins in (False, True)]
    with contextlib.ExitStack() as stack, concurrent.futures.ThreadPoolExecutor(2) as pool:
        tasks = {kind: pool.submit(started, stack, tmp_path_factory.mktemp("origins"), newest, *kind) for kind in kinds}
        yield {kind: task.result() for kind, task in tasks.items()}


@pytest.fixture(
    params=[(hosts, logins) for hosts in HOSTS for logins in (False, True)],
    ids=lambda kind: f"{kind[0]}-{'basic' if kind[1] else 'none'}",
)
def server(request, all_servers):
    """Asks one of them something, logged in where it wants that, as a browser that knows the password does."""
    server, auth = all_servers[request.param], servers.CHIEF if request.param[1] else None
    return lambda method, path, **options: server.ask(method, path, auth=auth, **options)


def may_read(answer, origin):
    """Whether a browser lets a page of an origin read an answer to a request with credentials."""
    return (
        answer.headers.get("Access-Control-Allow-Origin") == origin
        and answer.headers.get("Access-Control-Allow-Credentials") == "true"
    )


@pytest.mark.parametrize("origin", FOREIGN)
def test_a_page_of_another_site_can_neither_write_nor_read(server, origin):
    headers = {"Origin": origin}
    for kind in ({"json": {"name": "x"}}, {"data": '{"name": "x"}', "headers": {"Content-Type": "text/plain"}}):
        options = {**kind, "headers": {**kind.get("headers", {}), **headers}}
        assert server("POST", "/api/2.0/mlflow/experiments/create", **options).status_code == 403
    assert server("PUT", "/api/2.0/mlflow-artifacts/artifacts/0/x", data=b"x", headers=headers).status_code == 403
    for answer in (
        server("GET", "/api/2.0/mlflow/experiments/search?max_results=1", headers=headers),
        server("POST", "/graphql", json={"query": "query{__typename}", "operationName": None}, headers=headers),
    ):
        assert not may_read(answer, origin), answer.headers
    asked = {**headers, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    assert not may_read(server("OPTIONS", "/api/2.0/mlflow/experiments/create", headers=asked), origin)


@pytest.mark.parametrize("origin", OWN)
def test_a_page_of_its_own_can(server, origin):
    answer = server("POST", "/api/2.0/mlflow/experiments/search", json={"max_results": 1}, headers={"Origin": origin})
    assert answer.status_code == 200 and may_read(answer, origin)


def test_hosts(all_servers):
    for (hosts, logins), server in all_servers.items():
        for host, allowed in (
            ("mlflow.internal.org", ("default", "wildcard", "suffix")),
            ("www-server.www.svc:5000", ("default", "wildcard", "suffix")),
            ("m.example.com", ("wildcard", "suffix")),
            ("evil.example.org", ("wildcard",)),
        ):
            answer = server.ask(
                "GET",
                "/api/2.0/mlflow/experiments/search?max_results=1",
                headers={"Host": host},
                auth=servers.CHIEF if logins else None,
            )
            assert answer.status_code == (200 if hosts in allowed else 403), (hosts, host)


def test_all_origins_without_credentials(newest, tmp_path):
    """What the model refuses while logins are on: with `*` every page may write, though not with credentials."""
    with servers.mlflow(newest, tmp_path, MLFLOW_SERVER_CORS_ALLOWED_ORIGINS="*") as server:
        answer = server.ask(
            "POST", "/api/2.0/mlflow/experiments/search", json={"max_results": 1}, headers={"Origin": FOREIGN[0]}
        )
    assert answer.status_code == 200 and answer.headers["Access-Control-Allow-Origin"] == "*"
    assert "Access-Control-Allow-Credentials" not in answer.headers
