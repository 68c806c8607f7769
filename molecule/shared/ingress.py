# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Requests through the ingress, by MLflow's client and by a browser: ingress.py URL ADDRESS CA_FILE SIZE|tag.

The host of URL need not resolve; ADDRESS is where the ingress listens. CA_FILE has the CA certificate to trust. SIZE is
that of the artifact, in MiB; `tag` only writes to the existing experiment. User and password are in MLflow's
environment variables.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import re
import socket
import sys
import tempfile
import urllib.parse

import mlflow
import requests
from chromium import Chromium

EXPERIMENT, RUN = "ingress", "through-the-ingress"
LOGIN = os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]


def resolve(host: str, address: str) -> None:
    """Resolve the host to the address in this process, as an entry in /etc/hosts would."""
    original = socket.getaddrinfo
    socket.getaddrinfo = lambda name, *rest, **named: original(address if name == host else name, *rest, **named)


def client(size: int) -> tuple[str, str]:
    """Log a run with an artifact of the size, in MiB.

    Returns:
        The IDs of its experiment and of the run.
    """
    experiment = mlflow.set_experiment(EXPERIMENT).experiment_id
    with tempfile.TemporaryDirectory() as folder:
        sent = pathlib.Path(folder, "model of ä.bin")
        with sent.open("wb") as file:
            for _part in range(size):
                file.write(os.urandom(2**20))
        with mlflow.start_run(run_name=RUN) as run:
            mlflow.log_metric("accuracy", 0.95)
            mlflow.log_artifact(str(sent), "model")
        listed = [entry.path for entry in mlflow.artifacts.list_artifacts(run_id=run.info.run_id,
                                                                          artifact_path="model")]
        assert listed == [f"model/{sent.name}"], listed
        received = mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path=listed[0],
                                                       dst_path=f"{folder}/received")
        assert digest(pathlib.Path(received)) == digest(sent), "the downloaded artifact differs from the uploaded one"
    mlflow.MlflowClient()._tracking_client._get_artifact_repo(run.info.run_id).delete_artifacts("model")
    return experiment, run.info.run_id


def digest(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tag() -> None:
    """Write to an experiment of another user."""
    client = mlflow.MlflowClient()
    client.set_experiment_tag(client.get_experiment_by_name(EXPERIMENT).experiment_id, "seen", "yes")


def page(url: str, ca_file: str) -> None:
    """Check authentication, the page with all its assets, and the response headers."""
    path = f"{url}/api/2.0/mlflow/experiments/get-by-name?experiment_name={EXPERIMENT}"
    for login, status in ((None, 401), ((LOGIN[0], "wrong"), 401), (LOGIN, 200)):
        assert requests.get(path, auth=login, verify=ca_file, timeout=30).status_code == status, login
    assert requests.get(f"{url}/health", verify=ca_file, timeout=30).status_code == 200
    answer = requests.get(f"{url}/", auth=LOGIN, verify=ca_file, timeout=30)
    answer.raise_for_status()
    assets = re.findall(r'(?:src|href)="([^"]+)"', answer.text)
    assert len(assets) > 2, answer.text
    for asset in assets:
        got = requests.get(urllib.parse.urljoin(f"{url}/", asset), auth=LOGIN, verify=ca_file, timeout=30)
        got.raise_for_status()
        if asset.endswith((".js", ".css")):
            assert got.headers.get("Content-Encoding") == "gzip", (asset, got.headers)
    headers = {"X-Content-Type-Options": "nosniff", "X-Frame-Options": "SAMEORIGIN",
               "Strict-Transport-Security": "max-age=31536000", "Content-Security-Policy": "frame-ancestors 'self'"}
    for name, value in headers.items():
        assert answer.headers[name] == value, answer.headers
    refused = requests.get(f"{url}/", headers={"Host": "forged.test"}, verify=ca_file, timeout=30)
    assert refused.status_code == 421, refused.status_code


def origins(url: str, ca_file: str) -> None:
    """A page of another site can neither write nor read, with a user's login; one of the ingress' own host can."""
    own = "{0.scheme}://{0.netloc}".format(urllib.parse.urlsplit(url))
    for origin, status in (("https://elsewhere.test", 403), (own, 200)):
        answer = requests.post(f"{url}/api/2.0/mlflow/experiments/search", json={"max_results": 1}, auth=LOGIN,
                               headers={"Origin": origin}, verify=ca_file, timeout=30)
        assert answer.status_code == status, (origin, answer.status_code, answer.text)
        allowed = answer.headers.get("Access-Control-Allow-Origin")
        assert (allowed == origin) is (status == 200), (origin, allowed)


def browser(url: str, address: str, ca_file: str, *words: str) -> None:
    """Log in by the browser's dialog and wait for a page with the words."""
    chromium = Chromium(LOGIN, ca_file, urllib.parse.urlsplit(url).hostname, address)
    try:
        text = chromium.read(url, *words)
        assert chromium.logins, "the server did not ask the browser for a login"
        assert all(word in text for word in words), text[-3000:]
    finally:
        chromium.close()


def main(url: str, address: str, ca_file: str, size: str) -> None:
    resolve(urllib.parse.urlsplit(url).hostname, address)
    os.environ["MLFLOW_TRACKING_SERVER_CERT_PATH"] = ca_file
    mlflow.set_tracking_uri(url)
    if size == "tag":
        return tag()
    experiment, run_id = client(int(size))
    page(url, ca_file)
    origins(url, ca_file)
    browser(f"{url}/#/experiments/{experiment}/runs/{run_id}", address, ca_file, RUN, "accuracy")
    print(f"{size} MiB uploaded and downloaded; the browser shows {RUN}")


if __name__ == "__main__":
    main(*sys.argv[1:])
