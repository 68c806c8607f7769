# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""object_store_health against a real S3 server, real folders, and emulators of Google Cloud Storage and of Azure Blob
Storage.

Azurite checks keys. The emulator of Google's does not; what is said of denied access is asked of a server that answers
as Google's documentation says. Tokens of Workload Identity need the clouds themselves.
"""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading

import pytest
from ansible_collections.mlops.mlflow.plugins.module_utils.checks import measure
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa


def details(report):
    return {c["name"]: c["detail"] for c in report["checks"]}


def test_s3(seaweedfs):
    report = measure("object_store", dict(seaweedfs))
    assert report["healthy"], report["failures"]
    assert report["upload_mb_s"] > 0 and report["download_mb_s"] > 0


def test_s3_below_a_prefix(seaweedfs):
    report = measure("object_store", {**seaweedfs, "prefix": "team/a"})
    assert report["healthy"], report["failures"]


@pytest.mark.parametrize("changes, words", [
    ({"bucket": "nowhere"}, "bucket nowhere does not exist"),
    ({"secret_key": "wrongsecret"}, "access to bucket mlflow is denied"),
    ({"url": "http://127.0.0.1:9"}, "cannot be reached"),
])
def test_s3_says_what_is_wrong(seaweedfs, changes, words):
    report = measure("object_store", {**seaweedfs, **changes})
    assert not report["healthy"]
    assert words in details(report)["exists"], details(report)
    assert details(report)["write"] == "not run, since exists failed"


@pytest.fixture
def at_google(gcs, monkeypatch):
    """Options of a bucket at the emulator."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs)
    return {"type": "gcs", "bucket": "mlflow", "size_mb": 1}


@pytest.mark.parametrize("prefix", ["", "team/a/"])
def test_gcs(at_google, prefix):
    report = measure("object_store", {**at_google, "prefix": prefix})
    assert report["healthy"], report["failures"]
    assert report["upload_mb_s"] > 0 and report["download_mb_s"] > 0


def test_gcs_without_the_bucket(at_google):
    report = measure("object_store", {**at_google, "bucket": "nowhere"})
    assert "bucket nowhere does not exist at http://127.0.0.1" in details(report)["exists"]


def test_gcs_unreachable(at_google, monkeypatch):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    assert "http://127.0.0.1:9 cannot be reached" in details(measure("object_store", at_google))["exists"]


def test_gcs_denied(at_google, monkeypatch):
    """Source: https://cloud.google.com/storage/docs/json_api/v1/status-codes#403-forbidden"""
    body = json.dumps({"error": {"code": 403, "message": "someone does not have storage.objects.list access"}}).encode()

    class Google(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(403)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Google) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{server.server_port}")
        report = measure("object_store", at_google)
        server.shutdown()
    assert "access to bucket mlflow is denied with these credentials" in details(report)["exists"]
    assert "storage.objects.list" in details(report)["exists"]


@pytest.mark.parametrize("contents, words",
                         [("{}", "gives no access with these credentials"), ("{", "the service account is no JSON")])
def test_gcs_with_a_service_account_that_is_none(at_google, tmp_path, contents, words):
    (tmp_path / "key.json").write_text(contents)
    for options in ({"service_account_file": str(tmp_path / "key.json")}, {"service_account_contents": contents}):
        assert words in details(measure("object_store", {**at_google, **options}))["exists"]


def test_gcs_with_a_service_account(at_google, tmp_path):
    """The key is used: the request for its token goes to the address that the key names, where nobody answers."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()
    account = {"type": "service_account", "project_id": "p", "client_email": "mlflow@p", "private_key": key,
               "private_key_id": "1",
               "token_uri": "http://127.0.0.1:9/token"}
    (tmp_path / "key.json").write_text(json.dumps(account))
    report = measure("object_store", {**at_google, "service_account_file": str(tmp_path / "key.json")})
    assert "gives no access with these credentials" in details(report)["exists"]
    assert "port=9" in details(report)["exists"]


def at_azure(connection, **changes):
    """Options of a container at the emulator."""
    return {"type": "azure", "bucket": "mlflow", "connection_string": connection, "size_mb": 1, **changes}


def parts(connection):
    return dict(part.split("=", 1) for part in connection.split(";") if part)


@pytest.mark.parametrize("prefix", ["", "team/a/"])
def test_azure(azure, prefix):
    report = measure("object_store", at_azure(azure, prefix=prefix))
    assert report["healthy"], report["failures"]


def test_azure_by_key(azure):
    account = parts(azure)
    report = measure("object_store", at_azure(None, url=account["BlobEndpoint"], account_key=account["AccountKey"]))
    assert report["healthy"], report["failures"]


def test_azure_says_what_is_wrong(azure):
    wrong = azure.replace(parts(azure)["AccountKey"], "d3Jvbmc=")
    for changes, words in (
        ({"bucket": "nowhere"}, "container nowhere does not exist at http://127.0.0.1"),
        ({"connection_string": wrong},
         "access to container mlflow is denied with these credentials (AuthorizationFailure)"),
        ({"connection_string": wrong.replace(parts(azure)["BlobEndpoint"], "http://127.0.0.1:9/mlops")},
         "http://127.0.0.1:9/mlops cannot be reached"),
    ):
        assert words in details(measure("object_store", at_azure(azure, **changes)))["exists"]


def test_azure_without_credentials(monkeypatch):
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")
    report = measure("object_store", at_azure(None, url="https://127.0.0.1:9"))
    assert "gives no access: no credentials were found" in details(report)["exists"], details(report)


def test_from_the_environment_of_the_server(seaweedfs, gcs, azure, tmp_path, monkeypatch):
    """The questions that a pod of the server is asked know nothing but its environment."""
    for variable, value in (("MLFLOW_S3_ENDPOINT_URL", seaweedfs["url"]), ("AWS_ACCESS_KEY_ID", "key"),
                            ("AWS_DEFAULT_REGION", "us-east-1"),
                            ("AWS_SECRET_ACCESS_KEY", "rightsecret"), ("STORAGE_EMULATOR_HOST", gcs),
                            ("AZURE_STORAGE_CONNECTION_STRING", azure)):
        monkeypatch.setenv(variable, value)
    for destination, found in (("s3://mlflow/team/a", "bucket mlflow at http"),
                               ("gs://mlflow/team/a", f"bucket mlflow at {gcs}"),
                               ("wasbs://mlflow@mlops.blob.core.windows.net/team/a",
                                "container mlflow at http://127.0.0.1"),
                               (str(tmp_path), f"folder {tmp_path}")):
        monkeypatch.setenv("MLFLOW_ARTIFACTS_DESTINATION", destination)
        report = measure("object_store", {"environment": True, "size_mb": 1})
        assert report["healthy"], report["failures"]
        assert found in details(report)["exists"]


def test_the_account_of_a_wasbs_uri(monkeypatch):
    monkeypatch.setenv("MLFLOW_ARTIFACTS_DESTINATION", "wasbs://mlflow@no-such-account-of-mlops.blob.core.windows.net/")
    monkeypatch.setenv("AZURE_STORAGE_ACCESS_KEY", "d3Jvbmc=")
    report = measure("object_store", {"environment": True})
    assert "https://no-such-account-of-mlops.blob.core.windows.net" in details(report)["exists"]


@pytest.mark.parametrize("options, module",
                         [({"type": "gcs"}, "google.cloud"),
                          ({"type": "azure", "url": "https://x"}, "azure.storage.blob")])
def test_a_missing_library_is_named(options, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    report = measure("object_store", {"bucket": "mlflow", **options})
    assert "is missing where the store is probed" in details(report)["exists"]


def test_volume(tmp_path):
    report = measure("object_store", {"type": "volume", "path": str(tmp_path), "size_mb": 1})
    assert report["healthy"], report["failures"]
    assert not list(tmp_path.iterdir())


def test_volume_that_is_not_there(tmp_path):
    report = measure("object_store", {"type": "volume", "path": str(tmp_path / "none")})
    assert "there is no folder" in details(report)["exists"]


def test_volume_that_is_full(tmp_path):
    if os.geteuid():
        pytest.skip("a full disk is a tiny tmpfs here, which only root can mount")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path], check=True)
    try:
        report = measure("object_store", {"type": "volume", "path": str(tmp_path), "size_mb": 4})
        assert "No space left on device" in details(report)["write"]
        assert not list(tmp_path.iterdir())
    finally:
        subprocess.run(["umount", tmp_path], check=True)
