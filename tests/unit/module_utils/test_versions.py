# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which version of MLflow an instance gets, against a package index of files and Debian's docker-registry."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.server
import json
import pathlib
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import pytest
import yaml
from ansible_collections.mlops.mlflow.plugins.module_utils import versions

NOWHERE = "http://127.0.0.1:9"
IN_INDEX = ("3.9.0", "3.16.1", "3.17.1", "3.17.2")
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


@contextlib.contextmanager
def serving(handler):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """URL of a package index whose newest mlflow, 3.18.0, has no mlflow-skinny, as on PyPI in November 2026."""
    folder = tmp_path_factory.mktemp("index")
    for package, found in (("mlflow", (*IN_INDEX, "3.18.0")), ("mlflow-skinny", IN_INDEX)):
        (folder / package).mkdir()
        name = package.replace("-", "_")
        links = "".join(f'<a href="{name}-{v}-py3-none-any.whl" data-requires-python="&gt;=3.10">x</a>' for v in found)
        (folder / package / "index.html").write_text(f"<html><body>{links}</body></html>")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with serving(handler) as url:  # pylint: disable=contextmanager-generator-missing-cleanup
        yield url


def send(method, url, data, **headers):
    with urllib.request.urlopen(
        urllib.request.Request(url, data=data, headers=headers, method=method), timeout=10
    ) as answer:
        return answer.headers


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """URL of a registry that has mlflow/mlflow:v3.17.1-full."""
    program = shutil.which("docker-registry")
    if not program:
        pytest.fail("docker-registry is not here; install Debian's package of that name (make test-packages)")
    folder = tmp_path_factory.mktemp("registry")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    (folder / "config.yml").write_text(
        yaml.safe_dump(
            {
                "version": 0.1,
                "log": {"level": "warn"},
                "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
                "http": {"addr": f"127.0.0.1:{port}"},
            }
        )
    )
    url = f"http://127.0.0.1:{port}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, "serve", folder / "config.yml"], stdout=log, stderr=subprocess.STDOUT)
    try:
        for _attempt in range(100):
            with contextlib.suppress(OSError):
                send("GET", f"{url}/v2/", None)
                break
            time.sleep(0.1)
        push(url, "mlflow/mlflow", "v3.17.1-full")
        yield url
    finally:
        process.terminate()
        process.wait(20)


def push(url, name, tag):
    """Put an image of one empty configuration into a registry."""
    digest = "sha256:" + hashlib.sha256(b"{}").hexdigest()
    place = send("POST", f"{url}/v2/{name}/blobs/uploads/", b"")["Location"]
    send("PUT", f"{place}&digest={urllib.parse.quote(digest)}", b"{}", **{"Content-Type": "application/octet-stream"})
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "layers": [],
        "config": {"mediaType": "application/vnd.docker.container.image.v1+json", "size": 2, "digest": digest},
    }
    send("PUT", f"{url}/v2/{name}/manifests/{tag}", json.dumps(manifest).encode(), **{"Content-Type": MANIFEST})


@pytest.fixture
def with_tokens(registry):
    """URL of the registry behind a gate that wants an anonymous token, as ghcr.io does, and what was asked."""
    asked = []

    class Gate(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            place = f"http://{self.headers['Host']}"
            if self.path.startswith("/token?"):
                return self.answer(200, json.dumps({"token": "anonymous"}).encode())
            if self.headers.get("Authorization") != "Bearer anonymous":
                scope = "repository:mlflow/mlflow:pull"
                return self.answer(
                    401, b"{}", **{"WWW-Authenticate": f'Bearer realm="{place}/token",service="gate",scope="{scope}"'}
                )
            try:
                with urllib.request.urlopen(
                    urllib.request.Request(registry + self.path, headers={"Accept": self.headers["Accept"]})
                ) as answer:
                    return self.answer(200, answer.read())
            except urllib.error.HTTPError as error:
                return self.answer(error.code, b"{}")

        def answer(self, status, body, **headers):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments):
            pass

    with serving(Gate) as url:  # pylint: disable=contextmanager-generator-missing-cleanup
        yield url, asked


def test_the_newest_that_can_be_installed(index):
    assert versions.available(index) == list(reversed(IN_INDEX))
    assert versions.resolve_latest(index) == "3.17.2"


def test_the_newest_that_has_an_image(index, registry):
    has_image = functools.partial(versions.image_exists, registry_url=registry)
    assert versions.resolve_latest(index, image_source="registry", has_image=has_image) == "3.17.1"
    assert versions.resolve_latest(index, image_source="build", has_image=has_image) == "3.17.2"


def test_a_mirror_by_name_and_anonymous_tokens(with_tokens):
    url, asked = with_tokens
    assert versions.image_exists("3.17.1", "anything.example.com/mlflow/mlflow", registry_url=url)
    assert not versions.image_exists("3.17.2", registry_url=url)
    assert "/token?service=gate&scope=repository%3Amlflow%2Fmlflow%3Apull" in asked


def test_none_that_fits_is_a_sentence(index, registry):
    has_image = functools.partial(versions.image_exists, "1", image="ghcr.io/other/image", registry_url=registry)
    with pytest.raises(
        versions.VersionsError, match="no version from 3.10.0 on .* and has an image; set mlflow_version"
    ):
        versions.resolve_latest(index, image_source="registry", has_image=lambda _version: has_image())
    with pytest.raises(versions.VersionsError, match="on Python 3.9; set mlflow_version to a version, such as"):
        versions.resolve_latest(index, python_version="3.9")


def test_offline_is_a_sentence(index):
    with pytest.raises(
        versions.VersionsError,
        match=f"^mlflow_version is latest. Versions of MLflow cannot be looked up at {NOWHERE}: .*refused",
    ):
        versions.resolve_latest(NOWHERE)
    has_image = functools.partial(versions.image_exists, registry_url=NOWHERE)
    with pytest.raises(
        versions.VersionsError,
        match=f"cannot be asked for ghcr.io/mlflow/mlflow:v3.17.2-full at {NOWHERE}: .*; set mlflow_version",
    ):
        versions.resolve_latest(index, image_source="registry", has_image=has_image)


def test_a_message_does_not_show_the_login_of_an_index():
    with pytest.raises(versions.VersionsError) as caught:
        versions.available(NOWHERE.replace("//", "//user:secret-word@"))
    assert "secret-word" not in str(caught.value) and "//…@127.0.0.1:9" in str(caught.value)


def test_a_registry_that_answers_nobody_is_no_absent_image():
    class Closed(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(403)
            self.end_headers()

        def log_message(self, *_arguments):
            pass

    with serving(Closed) as url, pytest.raises(versions.VersionsError, match="403"):
        versions.image_exists("3.17.2", registry_url=url)


def never():
    raise AssertionError("nothing is to be looked up")


@pytest.mark.parametrize(
    "wanted, recorded, upgrade, found, chosen",
    [
        ("3.15.0", "", False, None, "3.15.0"),
        ("3.15.0", "3.16.1", True, None, "3.15.0"),
        ("latest", "", False, "3.17.2", "3.17.2"),
        ("latest", "3.16.1", False, None, "3.16.1"),
        ("latest", "3.16.1", True, "3.17.2", "3.17.2"),
        ("latest", "3.17.2", True, "3.16.1", "3.17.2"),
    ],
)
def test_a_version_stays_until_an_upgrade_is_asked_for(wanted, recorded, upgrade, found, chosen):
    version, reason = versions.choose(wanted, recorded, (lambda: found) if found else never, upgrade)
    assert version == chosen and reason


def test_which_are_newer():
    assert versions.newer("3.9.0", ["3.17.2", "3.8.1", "3.10.0", "3.9.0"]) == ["3.17.2", "3.10.0"]


@pytest.mark.parametrize(
    "version, auth, words",
    [
        ("3.9.0", "none", "choose 3.10.0 or newer"),
        ("3.14.0", "oidc", "choose 3.15.0 or newer"),
        ("3.14.0", "proxy", "mlflow_server_auth is proxy"),
    ],
)
def test_versions_that_are_refused(version, auth, words):
    assert words in " ".join(versions.violations(version, auth))


@pytest.mark.parametrize(
    "version, auth",
    [("3.10.0", "none"), ("3.10.0", "basic"), ("3.15.0", "oidc"), ("3.99.0", "proxy"), ("latest", "oidc")],
)
def test_versions_that_are_not(version, auth):
    assert not list(versions.violations(version, auth))
    assert bool(versions.untested(version)) == (version == "3.99.0")


def test_a_path_needs_a_version_that_checks_origins_there():
    assert "choose 3.16.0 or newer" in " ".join(versions.violations("3.15.2", "none", "/team"))
    assert not list(versions.violations("3.16.0", "none", "/team"))


def test_the_supported_range_is_what_is_tested_and_documented():
    root = pathlib.Path(__file__).parents[3]
    locks = sorted((root / "tests/versions/locks").glob("*.txt"), key=lambda path: versions.Version(path.stem))
    assert (locks[0].stem, locks[-1].stem) == versions.SUPPORTED and len(locks) > 2
    text = (root / "docs/versions.md").read_text()
    for version in (*versions.SUPPORTED, *versions.NEEDS.values(), versions.PATH_PREFIX):
        assert version in text
