# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A support bundle has no secrets, whatever form they have in logs and objects."""

from __future__ import annotations

import base64
import tarfile

import pytest
import yaml

from ansible_collections.mlops.mlflow.plugins.plugin_utils import bundle

PASSWORD = 'p/ss "word"+1'


@pytest.mark.parametrize("text", [
    f"login failed with {PASSWORD}!", "postgresql://mlflow:p%2Fss%20%22word%22%2B1@db:5432/mlflow",
    '{"password": "p/ss \\"word\\"+1"}', base64.b64encode(PASSWORD.encode()).decode(),
    "https://ana:unknown-one@example.com/x", "Authorization: Basic YW5hOnVua25vd24=",
    '"authorization": "Bearer eyJhbGciOi"', "authorization=sk-unknown",
])
def test_no_form_of_a_secret_is_left(text):
    scrubbed = bundle.Scrubber([PASSWORD, "mlflow"[:4]]).text(f"before\n{text}\nafter")
    for part in (PASSWORD, "p%2Fss", 'ss \\"word', "cC9zcyA", "unknown", "YW5hOn", "eyJhbGciOi"):
        assert part not in scrubbed
    assert scrubbed.startswith("before\n") and scrubbed.endswith("\nafter")


def test_short_values_are_in_too_many_words():
    assert bundle.Scrubber(["mlfl", ""]).text("mlflow") == "mlflow"


def test_objects_show_names_of_keys_and_variables_only():
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"},
              "data": {"password": "cGFzc3dvcmQ=", "username": "bWxmbG93"}}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "managedFields": [{}]},
           "spec": {"containers": [{"env": [{"name": "API_TOKEN", "value": "t0ps3cret"}, {"name": "HOME", "value": "/"},
                                            {"name": "PGPASSWORD", "valueFrom": {"secretKeyRef": {"name": "s"}}}]}]}}
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"},
              "data": {"a.py": "print()", "auth.ini": "x"}}
    shown = {obj["kind"]: obj for obj in yaml.safe_load_all(bundle.as_yaml([secret, pod, config]))}
    assert shown["Secret"]["data"] == {"password": "(secret)", "username": "(secret)"}
    assert shown["ConfigMap"]["data"] == {"a.py": "(program of 7 characters)", "auth.ini": "x"}
    token, home, password = shown["Pod"]["spec"]["containers"][0]["env"]
    assert token["value"] == "(secret)" and home["value"] == "/" and "valueFrom" in password
    assert "managedFields" not in shown["Pod"]["metadata"]
    assert list(bundle.values_of([secret, pod])) == ["password"]


def test_the_archive_is_scrubbed_and_for_its_owner(tmp_path):
    path = tmp_path / "new" / "team-mlflow.tar.gz"
    size = bundle.write(path, {"logs/server/mlflow.log": f"connect {PASSWORD}\n", "missing.txt": ""},
                        bundle.Scrubber([PASSWORD]))
    assert size == path.stat().st_size and path.stat().st_mode & 0o777 == 0o600
    with tarfile.open(path) as archive:
        assert archive.getnames() == ["team-mlflow/logs/server/mlflow.log", "team-mlflow/missing.txt"]
        assert archive.extractfile("team-mlflow/logs/server/mlflow.log").read() == b"connect (secret)\n"
