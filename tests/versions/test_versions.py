# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the role adds to MLflow on SQLite and PostgreSQL: the oldest supported version, the newest and one between."""

from __future__ import annotations

import io
import shutil
import subprocess
import time

import mlflow_servers as servers
import pytest
import requests

PROXIED_FROM = (3, 15)
"""The version from which proxies' logins and streaming work."""
PREFIX_FROM = (3, 16)
"""The version from which MLflow may be below a path."""
PROXY = {
    "AUTH_PROXY_HEADER": "X-Auth-Request-Email",
    "AUTH_PROXY_SECRET": "only-the-proxy-has-it",
    "AUTH_PROXY_ADMINS": "boss@example.com",
}
NATIVE = (
    ("POST", "/v1/traces"),
    ("GET", "/ajax-api/3.0/jobs/x"),
    ("GET", "/ajax-api/3.0/mlflow/assistant/config"),
    ("POST", "/gateway/none/mlflow/invocations"),
)
"""Requests that MLflow's FastAPI answers, not Flask."""
FLASK = (
    ("GET", "/"),
    ("GET", "/metrics"),
    ("POST", "/graphql"),
    ("POST", "/api/2.0/mlflow/experiments/search"),
    ("PUT", "/api/2.0/mlflow-artifacts/artifacts/a/b"),
    ("GET", "/api/2.0/mlflow/users/get?username=chief"),
)


@pytest.fixture(scope="module")
def opened(version, bucket, tmp_path_factory):
    """A server on SQLite without logins, below a path where the version may be, with artifacts in S3."""
    folder = tmp_path_factory.mktemp(f"open-{version}")
    servers.prepare(version, folder, "database", "artifacts", "migrate", **bucket)
    with servers.mlflow(
        version,
        folder,
        "--serve-artifacts",
        f"--expose-prometheus={folder}/metrics",
        prefix="/team" if servers.number(version) >= PREFIX_FROM else "",
        MLFLOW_ARTIFACTS_PROXIED="true",
        MLFLOW_SERVER_ALLOWED_HOSTS="127.0.0.1:*,allowed.example.com",
        MLFLOW_SERVER_CORS_ALLOWED_ORIGINS="https://allowed.example.com",
        **bucket,
    ) as server:
        yield server


@pytest.fixture(scope="module")
def stores(postgresql, version):
    """Environment of a server on a PostgreSQL database of its own, whose login is not in the URIs."""
    database = "v" + version.replace(".", "_")
    url = "postgresql://{user}:{password}@{host}:{port}/{database}".format(**postgresql)
    subprocess.run(
        [shutil.which("psql"), url, "--command", f'CREATE DATABASE "{database}"'], check=True, capture_output=True
    )
    return {
        "MLFLOW_BACKEND_STORE_URI": f"postgresql+psycopg2://{postgresql['host']}:{postgresql['port']}/{database}",
        "DATABASE_USER": postgresql["user"],
        "DATABASE_PASSWORD": postgresql["password"],
        "PGUSER": postgresql["user"],
        "PGPASSWORD": postgresql["password"],
    }


@pytest.fixture(scope="module")
def asking(version, stores, tmp_path_factory):
    """A server of two workers on PostgreSQL that asks for logins: of a proxy's where the version can."""
    folder = tmp_path_factory.mktemp(f"users-{version}")
    by_proxy = servers.number(version) >= PROXIED_FROM
    ini = servers.auth_ini(
        folder,
        stores["MLFLOW_BACKEND_STORE_URI"],
        *(["authorization_function = proxy_login:login"] if by_proxy else []),
    )
    variables = {
        **stores,
        **servers.logins(),
        **(PROXY if by_proxy else {}),
        "MLFLOW_AUTH_CONFIG_PATH": ini,
        "MLFLOW_ENABLE_WORKSPACES": "true",
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "https,http",
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
    }
    said = servers.prepare(version, folder, "database", "migrate", **variables)
    assert "schema of the users is up to date" in said
    with servers.mlflow(
        version,
        folder,
        "--app-name=basic-auth",
        "--serve-artifacts",
        f"--expose-prometheus={folder}/metrics",
        workers=2,
        **variables,
    ) as server:
        server.variables = variables
        yield server


def test_what_is_missing_is_reported_and_logged_once(version, opened):
    behaviours = {"hosts": "", "artifacts_proxied": "", "artifacts_streamed": "", "preload": "", "direct": ""}
    behaviours |= dict.fromkeys(("transfers", "messages", "log_metrics", "create_run", "reads"), "")
    if servers.number(version) < PROXIED_FROM:
        behaviours["artifacts_streamed"] = (
            f"MLflow {version} has no mlflow.server.artifact_router; the server holds each artifact in memory, "
            "at twice its size, until it is passed on"
        )
    assert opened.report == {"mlflow": version, "behaviours": behaviours}
    assert opened.log.count("mlops.mlflow:") == sum(map(bool, behaviours.values()))


def test_no_presigned_url_is_handed_out(opened):
    for method, path in (
        ("GET", "/api/2.0/mlflow-artifacts/presigned/1/x"),
        ("POST", "/api/2.0/mlflow-artifacts/mpu/create/1/x"),
        ("POST", "/api/2.0/mlflow/artifacts/presigned-upload-url"),
        ("POST", "/api/2.0/mlflow/artifacts/presigned-download-url"),
    ):
        answer = opened.ask(method, path, json={"path": "x", "num_parts": 2} if method == "POST" else None)
        assert answer.status_code >= 400 and "X-Amz-Signature" not in answer.text, (path, answer.text)
    told = opened.ask("GET", "/api/3.0/mlflow/server-info")
    assert not told.ok or not any(
        told.json().get(name) for name in ("multipart_uploads_enabled", "multipart_downloads_enabled")
    ), told.text


def test_artifacts_below_a_path_are_streamed_or_reported(opened):
    size = 96 << 20
    path = "/api/2.0/mlflow-artifacts/artifacts/1/large.bin"
    opened.ask("PUT", path, data=b"warm")
    before = opened.peak()
    assert opened.ask("PUT", path, data=io.BytesIO(bytes(size))).status_code == 200
    held = opened.peak() - before > size // 2
    assert held == bool(opened.report["behaviours"]["artifacts_streamed"]), opened.peak() - before
    assert len(opened.ask("GET", path).content) == size


def test_only_allowed_hosts(opened):
    search = ("POST", "/api/2.0/mlflow/experiments/search")
    for host, status in (
        (None, 200),
        ("allowed.example.com", 200),
        ("evil.example.org", 403),
        ("allowed.example.com.evil.org", 403),
    ):
        assert (
            opened.ask(*search, json={"max_results": 1}, headers={"Host": host} if host else {}).status_code == status
        ), host


def test_only_allowed_origins(opened):
    search = ("POST", "/api/2.0/mlflow/experiments/search")
    for origin, status in (
        ("https://allowed.example.com", 200),
        ("https://evil.example.org", 403),
        ("https://allowed.example.com.evil.org", 403),
    ):
        answer = opened.ask(*search, json={"max_results": 1}, headers={"Origin": origin})
        assert (answer.status_code, answer.headers.get("Access-Control-Allow-Origin")) == (
            status,
            origin if status == 200 else None,
        ), origin


def test_metrics_of_prometheus(opened, asking):
    """At the root, below a path as well."""
    for server, auth in ((opened, None), (asking, servers.CHIEF)):
        search = server.ask("POST", "/api/2.0/mlflow/experiments/search", json={"max_results": 1}, auth=auth)
        assert search.status_code == 200
        answer = requests.get(server.url.removesuffix("/team") + "/metrics", auth=auth, timeout=20)
        assert "mlflow_http_request_total" in answer.text


def test_nobody_comes_in_without_a_login(asking):
    for method, path in NATIVE + FLASK:
        for auth in (None, (servers.CHIEF[0], "wrong"), ("boss@example.com", "guessed"), ("admin", "password1234")):
            assert asking.ask(method, path, auth=auth, json={} if method == "POST" else None).status_code == 401, (
                path,
                auth,
            )
        assert asking.ask(method, path, headers={"X-Auth-Request-Email": "boss@example.com"}).status_code == 401, path


def test_the_administrator_is_the_one_of_the_environment(asking):
    assert asking.ask("GET", "/api/2.0/mlflow/users/get?username=chief", auth=servers.CHIEF).json()["user"]["is_admin"]
    for method, path in NATIVE:
        assert asking.ask(method, path, auth=servers.CHIEF, json={} if method == "POST" else None).status_code not in (
            401,
            403,
            500,
        ), path


def test_who_comes_through_a_proxy_is_a_user(version, asking):
    if servers.number(version) < PROXIED_FROM:
        pytest.skip(f"MLflow {version} has no logins by a proxy, which is refused: test_proxies_are_refused")
    for name, admin in (("ana@example.com", False), ("boss@example.com", True)):
        by_header = {"headers": {"X-Auth-Request-Email": name, "X-Proxy-Secret": PROXY["AUTH_PROXY_SECRET"]}}
        for options in (by_header, {"auth": (name, PROXY["AUTH_PROXY_SECRET"])}):
            answer = asking.ask("GET", "/api/2.0/mlflow/users/current", **options).json()["user"]
            assert (answer["username"], answer["is_admin"]) == (name, admin)
            assert asking.ask("POST", "/v1/traces", json={}, **options).status_code in (400, 422), (
                "a route of FastAPI's knows the user, too"
            )


def test_workspaces(asking):
    assert asking.report["behaviours"]["workspaces"] == ""
    assert asking.ask(
        "POST", "/api/3.0/mlflow/workspaces", json={"name": "elsewhere"}, auth=servers.CHIEF
    ).status_code in (200, 201)
    found = asking.ask("GET", "/api/3.0/mlflow/workspaces", auth=servers.CHIEF).json()["workspaces"]
    assert {each["name"] for each in found} == {"default", "elsewhere"}


def webhooks(server, count=20, **more):
    """Statuses of listing webhooks with secrets, many times, each over a connection that any worker may take."""
    event = {"entity": "REGISTERED_MODEL", "action": "CREATED"}
    found = []
    for position in range(2):
        made = server.ask(
            "POST",
            "/api/2.0/mlflow/webhooks",
            json={
                "name": f"hook-{position}",
                "url": f"http://127.0.0.1:9/{position}",
                "events": [event],
                "secret": "between-us",
            },
            **more,
        )
        assert made.status_code == 200, made.text
    for _attempt in range(count):
        found.append(server.ask("GET", "/api/2.0/mlflow/webhooks", **more).status_code)
    return found


def test_webhooks_with_secrets_and_several_workers(asking):
    assert set(webhooks(asking, auth=servers.CHIEF)) == {200}


def test_webhooks_with_secrets_need_the_key(newest, tmp_path):
    with servers.mlflow(
        newest,
        tmp_path,
        workers=2,
        MLFLOW_WEBHOOK_ALLOWED_SCHEMES="https,http",
        MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS="true",
        MLOPS_MLFLOW_DISABLED_HOOKS="preload",  # forked workers share what each would otherwise make for itself
    ) as server:
        statuses = set(webhooks(server))
        # Until the other worker answers, too: it may start later, and which one takes a connection is chance.
        deadline = time.monotonic() + 60
        while 500 not in statuses and time.monotonic() < deadline:
            statuses.add(server.ask("GET", "/api/2.0/mlflow/webhooks").status_code)
        assert 500 in statuses, "if MLflow no longer needs the key, the role need not make one"


def test_webhooks_to_private_addresses_are_refused_unless_allowed(newest, tmp_path):
    """By default, and with a key of the form that Fernet wants."""
    hook = {
        "name": "hook",
        "url": "http://127.0.0.1:9/",
        "events": [{"entity": "REGISTERED_MODEL", "action": "CREATED"}],
    }
    with servers.mlflow(newest, tmp_path, MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY=servers.fernet_key()) as server:
        assert server.ask("POST", "/api/2.0/mlflow/webhooks", json=hook).status_code == 400
        assert (
            server.ask("POST", "/api/2.0/mlflow/webhooks", json={**hook, "url": "https://127.0.0.1:9/"}).status_code
            == 400
        )


def test_a_password_is_no_key_for_webhooks(newest, tmp_path):
    assert "Fernet key must be 32 url-safe base64-encoded bytes" in servers.refused(
        newest, tmp_path, MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY="a" * 32
    )


def test_proxies_are_refused(tmp_path):
    """In the oldest version."""
    ini = servers.auth_ini(tmp_path, f"sqlite:///{tmp_path}/users.db", "authorization_function = proxy_login:login")
    said = servers.refused(
        servers.VERSIONS[0], tmp_path, "--app-name=basic-auth", MLFLOW_AUTH_CONFIG_PATH=ini, **servers.logins(), **PROXY
    )
    assert (
        "mlops.mlflow: the server is not started: MLflow 3.10.0 has no "
        "mlflow.server.auth._authenticate_custom_for_fastapi"
        in said
    )


def test_a_path_is_refused_where_origins_are_not_checked_below_it(tmp_path):
    said = servers.refused("3.15.0", tmp_path, "--static-prefix=/team")
    assert "MLflow 3.15.0 does not check the origin of requests below a path" in said


@pytest.fixture
def changed(newest, tmp_path):
    """Puts a copy of MLflow's newest supported version, some text of which is replaced, before the installed one."""
    installed = next((servers.binaries(newest).parent / "lib").glob("python3*/site-packages/mlflow"))

    def of(file, text, other):
        copy = tmp_path / "changed"
        shutil.copytree(installed, copy / "mlflow", ignore=shutil.ignore_patterns("js", "__pycache__"))
        source = copy / "mlflow" / file
        assert text in source.read_text()
        source.write_text(source.read_text().replace(text, other))
        return f"{servers.config(tmp_path)}:{copy}"

    return of


@pytest.mark.parametrize(
    "file, text, other, variables, words",
    [
        (
            "server/auth/__init__.py",
            "make_basic_auth_response",
            "make_challenge",
            PROXY,
            "has no mlflow.server.auth.make_basic_auth_response, by which",
        ),
        (
            "server/auth/sqlalchemy_store.py",
            "def has_user",
            "def knows_user",
            PROXY,
            "has no mlflow.server.auth.sqlalchemy_store.has_user, by which",
        ),
        (
            "server/security_utils.py",
            "MLFLOW_SERVER_ALLOWED_HOSTS",
            "MLFLOW_SERVER_HOSTS",
            {"MLFLOW_SERVER_ALLOWED_HOSTS": "x"},
            "has no check of the Host header",
        ),
    ],
)
def test_a_future_version_without_what_protects_it_is_refused(
    changed, newest, tmp_path, file, text, other, variables, words
):
    path = changed(file, text, other)
    ini = servers.auth_ini(tmp_path, f"sqlite:///{tmp_path}/users.db")
    assert words in servers.refused(
        newest,
        tmp_path,
        "--app-name=basic-auth",
        PYTHONPATH=path,
        MLFLOW_AUTH_CONFIG_PATH=ini,
        **servers.logins(),
        **variables,
    )


def test_a_future_version_without_other_internals_says_so(changed, newest, tmp_path):
    path = changed("server/handlers.py", "MultipartDownloadMixin", "RangedDownloadMixin")
    mixins = "store/artifact/artifact_repo.py"
    source = tmp_path / "changed/mlflow" / mixins
    source.write_text(source.read_text() + "\n\nRangedDownloadMixin = MultipartDownloadMixin\n")
    with servers.mlflow(newest, tmp_path, PYTHONPATH=path, MLFLOW_ARTIFACTS_PROXIED="true", workers=2) as server:
        time.sleep(1)
        words = (
            f"MLflow {newest} has no mlflow.server.handlers.MultipartDownloadMixin; clients may be sent to the object "
            "store by presigned URLs"
        )
        assert server.report["behaviours"]["artifacts_proxied"].startswith(words)
        assert server.log.count("mlops.mlflow:") == 1 and words in server.log
