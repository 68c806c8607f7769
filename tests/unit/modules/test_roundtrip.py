# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The client's round trip by REST against real MLflow servers, and against one that damages what passes or dies on the
way."""

from __future__ import annotations

import contextlib
import datetime
import http.client
import http.server
import ipaddress
import threading
import urllib.parse

import mlflow
import pytest
from ansible_collections.mlops.mlflow.plugins.module_utils.checks import measure
from conftest import mlflow_running, mlflow_with_users
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


def roundtrip(url, **parameters):
    return measure("roundtrip", {"url": url, "timeout": 10, **parameters})


def details(report):
    return {check["name"].removeprefix("roundtrip: "): check["detail"] for check in report["checks"]}


def left_over(url):
    """Names of experiments and models that a client of MLflow sees."""
    client = mlflow.MlflowClient(url, url)
    return [e.name for e in client.search_experiments()] + [m.name for m in client.search_registered_models()]


def test_every_step(mlflow_server):
    report = roundtrip(mlflow_server[0], artifact_size_mb=3)
    assert report["healthy"], report["failures"]
    assert list(details(report)) == ["experiment created", "run logged", "artifact uploaded", "artifact downloaded",
                                     "model registered",
                                     "everything removed"]
    assert report["latency_ms"]["log_metric"]["samples"] == 20
    assert {"create_experiment", "create_run", "log_param", "read_run", "upload", "download", "register_model",
            "set_alias"} <= set(
        report["latency_ms"])
    assert report["upload_mb_s"] > 0 and report["download_mb_s"] > 0


def test_everything_is_removed(mlflow_server):
    url, database = mlflow_server
    assert roundtrip(url)["healthy"]
    assert left_over(url) == ["Default"]
    assert not list((database.parent / "artifacts").rglob("probe.bin"))


def certificate(folder, name):
    """A self-signed certificate for an address, which is its own CA: paths of certificate and key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name),
                                                        x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
            .add_extension(x509.BasicConstraints(True, None), True).sign(key, hashes.SHA256()))
    (folder / "tls.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "tls.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                                       serialization.NoEncryption()))
    return folder / "tls.crt", folder / "tls.key"


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory):
    """Parameters for a server with users, below a prefix, with TLS."""
    folder = tmp_path_factory.mktemp("encrypted")
    crt, key = certificate(folder, "mlflow.example.com")
    options = ("--static-prefix=/team", f"--uvicorn-opts=--ssl-certfile={crt} --ssl-keyfile={key}",
               "--allowed-hosts=127.0.0.1:*,mlflow.example.com")
    with mlflow_with_users(folder, *options, prefix="/team", scheme="https") as login:
        yield {"url": login["url"].removesuffix("/team"), "path_prefix": "/team", "username": login["login_username"],
               "password": login["login_password"], "ca": crt.read_text()}


def test_with_login_prefix_and_tls(encrypted):
    for parameters in ({}, {"ca": None, "validate_certs": False}):
        report = measure("server", {**encrypted, "roundtrip": True, **parameters})
        assert report["healthy"], report["failures"]


def test_by_the_name_of_an_ingress(encrypted):
    """The URL's host resolves nowhere; its certificate is verified and its Host header sent all the same."""
    address = urllib.parse.urlsplit(encrypted["url"]).netloc
    report = measure("server",
                     {**encrypted, "url": "https://mlflow.example.com", "connect": address, "roundtrip": True})
    assert report["healthy"], report["failures"]
    wrong = measure("server", {**encrypted, "url": "https://other.example.com", "connect": address})
    assert "certificate is not valid for 'other.example.com'" in wrong["failures"][0]


def test_a_ca_that_is_not_the_servers(encrypted, tmp_path):
    crt, _key = certificate(tmp_path, "mlflow.example.com")
    assert "CERTIFICATE_VERIFY_FAILED" in measure("server", {**encrypted, "ca": crt.read_text()})["failures"][0]


def test_a_login_from_the_environment(encrypted, monkeypatch):
    without = {**encrypted, "username": None, "password": None}
    refused = roundtrip(**without)
    assert "answers 401" in details(refused)["experiment created"]
    assert refused["checks"][0]["duration_ms"] < 2000, "a refused login is not tried again"
    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_USERNAME", encrypted["username"])
    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_PASSWORD", encrypted["password"])
    report = roundtrip(**without, environment=True)
    assert report["healthy"], report["failures"]


@pytest.fixture
def s3_environment(seaweedfs, monkeypatch):
    """The variables by which the server, and a pod of it, reach the store."""
    variables = {"MLFLOW_S3_ENDPOINT_URL": seaweedfs["url"], "AWS_ACCESS_KEY_ID": "key",
                 "AWS_SECRET_ACCESS_KEY": "rightsecret",
                 "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return variables


def test_artifacts_that_do_not_pass_through_the_server(s3_environment, tmp_path):
    options = ("--no-serve-artifacts", "--default-artifact-root=s3://mlflow/direct")
    with mlflow_running(tmp_path, *options, **s3_environment) as url:
        report = roundtrip(url)
    assert report["healthy"], report["failures"]


def test_artifacts_by_a_url_that_the_server_signs(s3_environment, seaweedfs, tmp_path):
    with mlflow_running(tmp_path, "--artifacts-destination=s3://mlflow/signed", **s3_environment) as url:
        report = roundtrip(url, presigned=True)
    assert report["healthy"], report["failures"]
    assert details(report)["artifact presigned"] == f"the same bytes from {seaweedfs['url'].removeprefix('http://')}"


def test_a_server_that_signs_no_urls(mlflow_server):
    assert "answers 501" in details(roundtrip(mlflow_server[0], presigned=True))["artifact presigned"]


@contextlib.contextmanager
def between(url, change):
    """URL of a proxy before a server; ``change(method, path, body)`` gives the body to pass back, or None to break the
    connection."""
    target = urllib.parse.urlsplit(url).netloc

    class Handler(http.server.BaseHTTPRequestHandler):
        def pass_on(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            connection = http.client.HTTPConnection(target)
            headers = {name: value for name,
                       value in self.headers.items() if name.lower() not in ("host", "connection")}
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            content = change(self.command, self.path, answer.read())
            connection.close()
            if content is None:
                self.connection.close()
                return
            self.send_response(answer.status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = pass_on

        def log_message(self, *_arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("damage",
                         [lambda body: body[:-1], lambda body: body[:-1] + bytes([body[-1] ^ 1]), lambda body: b""])
def test_a_damaged_artifact_is_noticed_and_removed(mlflow_server, damage):
    def change(method, path, body):
        return damage(body) if method == "GET" and "/mlflow-artifacts/" in path else body

    with between(mlflow_server[0], change) as url:
        report = roundtrip(url)
    assert "is not the one that was sent" in details(report)["artifact downloaded"]
    assert details(report)["model registered"] == "not run, since roundtrip: artifact downloaded failed"
    assert "everything removed" in details(report) and len(report["failures"]) == 1
    assert left_over(mlflow_server[0]) == ["Default"]


def test_a_lost_metric_is_noticed(mlflow_server):
    def change(_method, path, body):
        return b'{"metrics": []}' if "get-history" in path else body

    with between(mlflow_server[0], change) as url:
        assert "0 of 20 metric values" in details(roundtrip(url))["run logged"]
    assert left_over(mlflow_server[0]) == ["Default"]


def test_a_server_that_dies_in_between(mlflow_server):
    dead = []

    def change(_method, path, body):
        if "log-parameter" in path:
            dead.append(path)
        return None if dead else body

    with between(mlflow_server[0], change) as url:
        report = roundtrip(url)
    assert [check["ok"] for check in report["checks"]] == [True, False, False, False, False, False]
    assert "does not answer" in details(report)["run logged"] and "does not answer" in details(report)["everything "
                                                                                                       "removed"]
    # What the dead server has kept.
    for experiment in mlflow.MlflowClient(mlflow_server[0]).search_experiments():
        if experiment.name.startswith("mlops-mlflow-probe-"):
            mlflow.MlflowClient(mlflow_server[0]).delete_experiment(experiment.experiment_id)
