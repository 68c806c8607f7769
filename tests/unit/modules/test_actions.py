# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The actions of the modules, through an engine whose pods are processes of this machine."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import types
import urllib.parse
import urllib.request
import uuid

import mlflow
import pytest
from ansible.errors import AnsibleActionFail
from ansible.parsing.dataloader import DataLoader
from ansible.playbook.play_context import PlayContext
from ansible.playbook.task import Task
from ansible.template import Templar
from ansible_collections.mlops.mlflow.plugins.action import (
    database_health, database_login, mlflow_health, mlflow_permission, mlflow_user, mlflow_version_info,
    object_store_health,
    port_forward)
from ansible_collections.mlops.mlflow.plugins.plugin_utils import engines
from conftest import free_port


class LocalEngine(engines.Engine):
    """Runs programs and finds ports on this machine."""

    def __init__(self, ports=None, secrets=None, **environment):
        super().__init__(engines.Scope("team-a", "team-a-server"), print)
        self.ports, self.secrets, self.environment, self.ran = ports or {}, secrets or {}, environment, []

    def execute(self, service, argv, stdin="", timeout=120):
        self.ran.append((service, argv, stdin))
        command = [sys.executable, "-I", *argv[1:]] if argv[0] == "python3" else argv
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout, check=False,
                              env={"PATH": os.environ["PATH"], **self.environment})
        if done.returncode:
            raise engines.EngineError(done.stderr.strip().splitlines()[-1])
        return done.stdout

    @contextlib.contextmanager
    def forward(self, service, port):
        if (service, port) not in self.ports:
            raise engines.EngineError(f"Service {service} has no ready pod.")
        yield "127.0.0.1", self.ports[service, port]

    def secret(self, name):
        if name not in self.secrets:
            raise engines.EngineError(f"Secret {name} does not exist.")
        return self.secrets[name]


@pytest.fixture
def act(monkeypatch):
    """Runs an action with an engine; what it would run on the inventory host is kept."""
    def run(plugin, pods, check_mode=False, **arguments):
        arguments = {"engine": "kubernetes", "namespace": "team-a", "service": "team-a-server", **arguments}
        name = plugin.__name__.rpartition(".")[2]
        task = Task()
        task.action, task.args = f"mlops.mlflow.{name}", {key: value for key,
                                                          value in arguments.items() if value is not None}
        task.check_mode, task.async_val, task.diff = check_mode, 0, True
        connection = types.SimpleNamespace(_shell=types.SimpleNamespace(tmpdir="/tmp"), transport="local")
        action = plugin.ActionModule(task, connection, PlayContext(), DataLoader(), Templar(DataLoader()), None)
        monkeypatch.setattr(action, "engine", lambda _options, _scope: contextlib.nullcontext(pods))
        monkeypatch.setattr(action, "_execute_module", lambda **options: {"on_target": options.get("module_args")})
        return action.run(task_vars={})
    return run


def port_of(url):
    return urllib.parse.urlsplit(url).port


def test_health_in_the_pod(act, mlflow_server):
    engine = LocalEngine()
    report = act(mlflow_health, engine, port=port_of(mlflow_server[0]), roundtrip=True)
    assert report["healthy"] and report["version"] == mlflow.__version__ and not report["changed"], report
    assert "roundtrip: everything removed" in [check["name"] for check in report["checks"]]
    checked = act(mlflow_health, engine, check_mode=True, port=port_of(mlflow_server[0]), roundtrip=True)
    assert not [check["name"] for check in checked["checks"] if check["name"].startswith("roundtrip")]


def test_health_through_a_forwarded_port(act, mlflow_server):
    engine = LocalEngine({("team-a-ingress", 8443): port_of(mlflow_server[0])})
    report = act(mlflow_health, engine, service="team-a-ingress", port=8443, url="http://localhost")
    assert report["healthy"], report
    with pytest.raises(engines.EngineError, match="no ready pod"):
        act(mlflow_health, engine, service="team-a-ingress", port=8444, url="http://localhost")


def test_health_from_the_inventory_host(act):
    """The module runs there with what the engine's Secrets hold, and without the engine."""
    engine = LocalEngine(secrets={"ca": {"ca.crt": "PEM"}, "login": {"user": "chief", "password": "hidden"}})
    report = act(mlflow_health, engine, url="https://mlflow.test:8443/team", connect="127.0.0.1:8443", ca_secret="ca",
                 secret="login",
                 secret_keys={"username": "user", "password": "password"})
    assert report["on_target"] == {"url": "https://mlflow.test:8443/team", "connect": "127.0.0.1:8443",
                                   "ca_certificate": "PEM",
                                   "username": "chief", "password": "hidden"}
    assert report["ca_certificate"] == "PEM"


def test_without_an_engine_the_module_runs_as_it_is(act):
    assert act(mlflow_health, None, engine="none", namespace=None, service=None, url="http://x")["on_target"] is None


@pytest.mark.parametrize("option", ["namespace", "service"])
def test_what_an_engine_needs(act, option):
    with pytest.raises(AnsibleActionFail, match=f"{option} is empty while engine is kubernetes"):
        act(mlflow_health, LocalEngine(), **{option: None})


@pytest.fixture
def users(mlflow_auth_server):
    """An engine whose pods have the administrator's login in their environment, and the server's port."""
    port = port_of(mlflow_auth_server["url"])
    return LocalEngine(MLFLOW_AUTH_ADMIN_USERNAME=mlflow_auth_server["login_username"],
                       MLFLOW_AUTH_ADMIN_PASSWORD=mlflow_auth_server["login_password"]), port


def test_users_and_permissions_in_the_pod(act, users):
    engine, port = users
    name = f"n{uuid.uuid4().hex[:10]}"
    first = act(mlflow_user, engine, port=port, username=name, password="long-enough-for-it")
    assert first["changed"] and first["user"]["username"] == name
    assert not act(mlflow_user, engine, port=port, username=name, password="long-enough-for-it")["changed"]
    granted = act(mlflow_permission, engine, port=port, username=name, experiment="Default", permission="EDIT")
    assert granted["changed"] and granted["grant"]["permission"] == "EDIT"
    assert act(mlflow_user, engine, check_mode=True, port=port, username=name, state="absent")["changed"]
    assert act(mlflow_user, engine, port=port, username=name, state="absent")["changed"]
    assert not any("long-enough" in part for _service, argv, _stdin in engine.ran for part in argv)


def test_a_login_from_a_secret(act, mlflow_auth_server):
    port, login = port_of(mlflow_auth_server["url"]), mlflow_auth_server
    engine = LocalEngine(secrets={"auth": {"username": login["login_username"], "password": login["login_password"]},
                                  "wrong": {"username": "chief", "password": "wrong"}, "other": {"user": "chief"}})
    assert "user" in act(mlflow_user, engine, port=port, secret="auth", username="chief")
    failed = act(mlflow_user, engine, port=port, secret="wrong", username="chief")
    assert failed["failed"] and failed["msg"].startswith("service team-a-server in namespace team-a refuses user "
                                                         "chief (401)")
    with pytest.raises(engines.EngineError,
                       match="The Secret other has no key password, username; name its keys in secret_keys."):
        act(mlflow_user, engine, port=port, secret="other", username="chief")


def test_the_installed_version(act, mlflow_server, monkeypatch):
    found = act(mlflow_version_info, LocalEngine(), port=port_of(mlflow_server[0]))
    assert found["installed"] == mlflow.__version__
    away = act(mlflow_version_info, LocalEngine(), port=9)
    assert "does not answer" in away["message"] and "installed" not in away


def test_a_database_inside_and_through_a_port(act, postgresql, mlflow_server):
    inside = act(database_health, LocalEngine(MLFLOW_BACKEND_STORE_URI=f"sqlite:///{mlflow_server[1]}"), inside=True)
    assert inside["healthy"], inside
    engine = LocalEngine({("team-a-database", 5432): postgresql["port"]},
                         {"login": {"username": postgresql["user"], "password": postgresql["password"]}})
    report = act(database_health, engine, service="team-a-database", dialect="postgresql", database="postgres",
                 secret="login",
                 samples=2)
    assert [check["name"] for check in report["checks"] if check["ok"]][:2] == ["connect", "latency"], report


def test_a_store_inside_through_a_port_and_elsewhere(act, seaweedfs, tmp_path):
    assert act(object_store_health, LocalEngine(MLFLOW_ARTIFACTS_DESTINATION=str(tmp_path)), inside=True,
               size_mb=1)["healthy"]
    keys = {"keys": {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "rightsecret"}, "account": {"account": "{}"}}
    engine = LocalEngine({("store", 8333): port_of(seaweedfs["url"])}, keys)
    report = act(object_store_health, engine, service="store", type="s3", bucket="mlflow", secret="keys", size_mb=1)
    assert report["healthy"], report
    elsewhere = act(object_store_health, engine, type="gcs", bucket="b", secret="account",
                    secret_keys={"service_account_contents": "account"})
    assert elsewhere["on_target"] == {"type": "gcs", "bucket": "b", "service_account_contents": "{}"}


def test_a_database_login(act, postgresql):
    """psql in the pod of the test is that of the machine, at the test's server."""
    engine = LocalEngine(PGHOST="127.0.0.1", PGPORT=str(postgresql["port"]), PGPASSWORD=postgresql["password"])
    given = {"service": "db", "dialect": "postgresql", "database": "postgres", "owner": "mlflow", "name": "mlflow_2"}
    password = uuid.uuid4().hex
    assert act(database_login, engine, check_mode=True, **given, password=password)["changed"] and not engine.ran
    assert act(database_login, engine, **given, password=password)["changed"]
    assert not any(password in part for _service, argv, _stdin in engine.ran for part in argv)
    as_new = subprocess.run(["psql", "-h", "127.0.0.1", "-p", str(postgresql["port"]), "-U", "mlflow_2", "-d",
                             "postgres", "-Atc",
                             "SELECT current_user"], env={**os.environ, "PGPASSWORD": password}, capture_output=True,
                            text=True, check=True)
    assert as_new.stdout.strip() == "mlflow"
    # One that the module made earlier ends; the owner's own password stays in check mode.
    ended = act(database_login, engine, check_mode=True, **{**given, "name": "mlflow_3"}, exclusive=True)["ended"]
    assert ended == ["mlflow", "mlflow_2"]
    engine.execute("db", ["psql", "-U", "mlflow", "-d", "postgres", "-c", "DROP ROLE mlflow_2"])
    for changes, words in (({"name": "other"}, "it must begin with mlflow_"),
                           ({"name": "mlflow_2\n"}, "letters, digits"),
                           ({"password": "back\\slash"}, "password holds a backslash")):
        with pytest.raises(AnsibleActionFail, match=words):
            act(database_login, engine, **{**given, "password": password, **changes})


def test_a_forwarded_port_outlives_the_task(act, mlflow_server):
    engine, port = LocalEngine({("team-a-server", 5000): port_of(mlflow_server[0])}), free_port()
    assert act(port_forward, engine, check_mode=True, port=5000, local_port=port)["changed"]
    made = act(port_forward, engine, port=5000, local_port=port, seconds=60)
    try:
        assert made["changed"] and made["url"] == f"http://127.0.0.1:{port}" and made["tunnel"] == ""
        for _time in range(2):
            with urllib.request.urlopen(made["url"] + "/version", timeout=5) as answer:
                assert answer.read().decode() == mlflow.__version__
        again = act(port_forward, engine, port=5000, local_port=port)
        assert not again["changed"] and again["pid"] is None
    finally:
        os.kill(made["pid"], signal.SIGKILL)
        os.waitpid(made["pid"], 0)
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=1)


def test_a_forwarded_port_on_podman(act):
    class Podman(LocalEngine):
        def main_container(self, service, port):
            return ["a=b"], f"10.89.0.7:{port}" if service == "root" else "", {"PATH": "/usr/bin"}

    in_container = {"container_labels": ["a=b"], "port": 5000, "podman_environment": {"PATH": "/usr/bin"}}
    for service, where in (("root", {**in_container, "address": "10.89.0.7:5000"}), ("user", in_container)):
        result = act(port_forward, Podman(), engine="podman", service=service, port=5000, local_port=8080)
        assert result["on_target"] == {"local_port": 8080, "seconds": 3600, **where}
