# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""roles/mlflow_server/files: bucket.py and what prepare.py says of the artifacts, run as the server's pods run them.

S3 is a real SeaweedFS; what it has not, keys of a KMS, is asked of moto, a stand-in for AWS, which takes any key as
valid. The emulator of Google Cloud Storage keeps what a bucket is set to and acts on none of it, and knows no denied
access. Azurite is Azure's own.
"""

from __future__ import annotations

import json
import os
import pathlib
import runpy
import shutil
import subprocess
import sys
import uuid

import boto3
import pytest
from azure.storage.blob import BlobServiceClient
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

ROOT = pathlib.Path(__file__).parents[3]
FILES = ("roles/mlflow_server/files/prepare.py", "roles/mlflow_server/files/bucket.py",
         "plugins/module_utils/stores.py")
NOTHING = {"create": False, "versioning": None, "expire_days": None, "expire_noncurrent_days": None,
           "abort_multipart_days": None,
           "encryption": None, "kms_key": None}
ALL_DAYS = {"expire_days": 30, "expire_noncurrent_days": 7, "abort_multipart_days": 2}


@pytest.fixture(scope="module", autouse=True)
def server_files(tmp_path_factory):
    """The folder that the server's ConfigMap is mounted at."""
    folder = tmp_path_factory.mktemp("etc-mlflow")
    for name in FILES:
        shutil.copy(ROOT / name, folder)
    Pod.folder = folder
    return folder


class Pod:
    """Runs a script with the environment that a pod of the server has for one kind of store."""

    def __init__(self, uri, **environment):
        self.name = f"b-{uuid.uuid4().hex[:12]}"
        self.uri, self.environment = uri, environment

    def run(self, script, *arguments, prefix="", **asked):
        destination = self.uri.format(bucket=self.name) + prefix
        environment = {**os.environ, "MLFLOW_BACKEND_STORE_URI": "sqlite://",
                       "MLFLOW_ARTIFACTS_DESTINATION": destination,
                       "MLFLOW_BUCKET_SETTINGS": json.dumps({**NOTHING, **asked}), "PREPARE_TIMEOUT": "2",
                       "PYTHONPATH": str(self.folder),
                       **self.environment}
        return subprocess.run([sys.executable, self.folder / script, *arguments], env=environment, capture_output=True,
                              text=True,
                              check=False, timeout=60)

    def apply(self, **asked):
        """What bucket.py prints; a second run must find all of it right."""
        done = self.run("bucket.py", **asked)
        assert done.returncode == 0, done.stderr
        again = self.run("bucket.py", **asked)
        assert again.returncode == 0, again.stderr
        assert "changed" not in again.stdout and "created" not in again.stdout, again.stdout
        return done.stdout

    def refusal(self, **asked):
        """The one sentence with which bucket.py ends."""
        done = self.run("bucket.py", **asked)
        assert done.returncode != 0, done.stdout
        assert len(done.stderr.splitlines()) == 1, done.stderr
        return done.stderr


def s3_pod(url, key="key", secret="rightsecret"):
    return Pod("s3://{bucket}/", MLFLOW_S3_ENDPOINT_URL=url, AWS_DEFAULT_REGION="us-east-1", AWS_ACCESS_KEY_ID=key,
               AWS_SECRET_ACCESS_KEY=secret)


def s3_client(pod, service="s3"):
    environment = pod.environment
    return boto3.client(service, endpoint_url=environment["MLFLOW_S3_ENDPOINT_URL"], region_name="us-east-1",
                        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
                        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"])


@pytest.fixture
def s3(seaweedfs):
    return s3_pod(seaweedfs["url"])


def test_s3_missing(s3):
    sentence = f"bucket '{s3.name}' does not exist; create it, or set object_storage_bucket_create to true"
    assert sentence in s3.refusal(versioning=True)


def test_further_buckets(s3):
    more = [f"{s3.name}-a", f"{s3.name}-b"]
    s3_client(s3).create_bucket(Bucket=s3.name)
    out = s3.apply(extra=more)
    assert [f"'{name}' created" in out for name in (s3.name, *more)] == [False, True, True]
    assert {s3.name, *more} <= {bucket["Name"] for bucket in s3_client(s3).list_buckets()["Buckets"]}


@pytest.mark.parametrize("store", ["seaweedfs", "moto"])
def test_s3_all_that_is_asked(request, store):
    url = request.getfixturevalue(store)
    s3 = s3_pod(url["url"] if store == "seaweedfs" else url)
    out = s3.apply(create=True, versioning=True, encryption="AES256", **ALL_DAYS)
    for line in (f"'{s3.name}' created", "versioning changed to Enabled", "lifecycle changed to"):
        assert line in out
    client, name = s3_client(s3), {"Bucket": s3.name}
    assert client.get_bucket_versioning(**name)["Status"] == "Enabled"
    (rule,) = client.get_bucket_encryption(**name)["ServerSideEncryptionConfiguration"]["Rules"]
    assert rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
    rules = {rule["ID"]: rule for rule in client.get_bucket_lifecycle_configuration(**name)["Rules"]}
    assert rules["mlops-mlflow-expire"]["Expiration"] == {"Days": 30}
    assert rules["mlops-mlflow-expire-noncurrent"]["NoncurrentVersionExpiration"]["NoncurrentDays"] == 7
    assert rules["mlops-mlflow-abort-multipart"]["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 2}
    client.put_object(**name, Key="a", Body=b"x")
    assert client.head_object(**name, Key="a")["ServerSideEncryption"] == "AES256"
    assert not [entry["Key"] for entry in client.list_object_versions(**name).get("Versions", [])
                if entry["Key"] != "a"]


def test_s3_null_leaves_alone_and_false_suspends(s3):
    s3.apply(create=True, versioning=True)
    s3.apply(expire_days=1)
    client = s3_client(s3)
    assert client.get_bucket_versioning(Bucket=s3.name)["Status"] == "Enabled"
    assert "versioning changed to Suspended" in s3.apply(versioning=False)
    assert client.get_bucket_versioning(Bucket=s3.name)["Status"] == "Suspended"


def test_s3_rules_of_others_stay_and_ours_go(s3):
    s3.apply(create=True)
    client, name = s3_client(s3), {"Bucket": s3.name}
    theirs = {"ID": "theirs", "Status": "Enabled", "Filter": {"Prefix": "tmp/"}, "Expiration": {"Days": 3}}
    client.put_bucket_lifecycle_configuration(**name, LifecycleConfiguration={"Rules": [theirs]})

    def rules():
        return {rule["ID"]: rule for rule in client.get_bucket_lifecycle_configuration(**name)["Rules"]}

    s3.apply(expire_days=30, prefix="a")
    s3.apply(expire_days=60, prefix="b")  # another instance, below another path of the same bucket
    assert {name: rule["Filter"]["Prefix"] for name, rule in rules().items()} == {
        "theirs": "tmp/", "mlops-mlflow-expire-a/": "a/", "mlops-mlflow-expire-b/": "b/"}
    s3.apply(expire_days=10, prefix="a")
    assert rules()["mlops-mlflow-expire-a/"]["Expiration"] == {"Days": 10} and rules()["theirs"] == theirs
    assert "lifecycle changed to no rule of this instance" in s3.apply(expire_days=0, prefix="a")
    assert "lifecycle changed to no rule of this instance" in s3.apply(create=True, prefix="b")
    assert rules() == {"theirs": theirs}


def test_s3_the_last_rule_goes_too(s3):
    s3.apply(create=True, expire_days=30)
    s3.apply(expire_days=0)
    with pytest.raises(s3_client(s3).exceptions.ClientError, match="NoSuchLifecycleConfiguration"):
        s3_client(s3).get_bucket_lifecycle_configuration(Bucket=s3.name)


def test_s3_kms(moto):
    pod = s3_pod(moto)
    key = s3_client(pod, "kms").create_key()["KeyMetadata"]["Arn"]
    assert f"encryption changed to aws:kms {key}" in pod.apply(create=True, encryption="aws:kms", kms_key=key)
    client = s3_client(pod)
    client.put_object(Bucket=pod.name, Key="a", Body=b"x")
    assert client.head_object(Bucket=pod.name, Key="a")["SSEKMSKeyId"] == key
    assert "encryption is as wanted" in pod.apply(encryption="aws:kms")


def test_s3_without_kms_is_refused_before_it_breaks_the_bucket(s3):
    """SeaweedFS takes the setting, and fails every write afterwards."""
    s3.apply(create=True)
    sentence = s3.refusal(encryption="aws:kms", kms_key="none")
    assert "object_storage_bucket_encryption and object_storage_bucket_kms_key" in sentence
    assert "InternalError" in sentence
    s3_client(s3).put_object(Bucket=s3.name, Key="a", Body=b"x")


def test_s3_denied(seaweedfs):
    assert "may not be read with the server's credentials (403)" in s3_pod(seaweedfs["url"],
                                                                           secret="wrong").refusal(create=True)


def test_s3_request_that_the_store_turns_down(s3):
    s3_client(s3).create_bucket(Bucket=s3.name, ObjectLockEnabledForBucket=True)
    sentence = s3.refusal(versioning=False)
    assert "the store cannot apply object_storage_bucket_versioning to bucket" in sentence
    assert "InvalidBucketState" in sentence


@pytest.fixture
def gs(gcs):
    return Pod("gs://{bucket}/", STORAGE_EMULATOR_HOST=gcs)


def gcs_bucket(pod):
    client = storage.Client("p", AnonymousCredentials(),
                            client_options={"api_endpoint": pod.environment["STORAGE_EMULATOR_HOST"]})
    return client.get_bucket(pod.name)


def test_gcs_missing(gs):
    assert "set object_storage_bucket_create to true" in gs.refusal(versioning=True)


def test_gcs_all_that_is_asked(gs):
    key = "projects/p/locations/eu/keyRings/r/cryptoKeys/k"
    out = gs.apply(create=True, versioning=True, kms_key=key, **ALL_DAYS)
    for line in (f"'{gs.name}' created", "versioning changed to on", f"encryption changed to {key}",
                 "lifecycle changed to"):
        assert line in out
    bucket = gcs_bucket(gs)
    assert bucket.versioning_enabled and bucket.default_kms_key_name == key
    assert [dict(rule) for rule in bucket.lifecycle_rules] == [
        {"action": {"type": "Delete"}, "condition": {"age": 30, "isLive": True}},
        {"action": {"type": "Delete"}, "condition": {"daysSinceNoncurrentTime": 7}},
        {"action": {"type": "AbortIncompleteMultipartUpload"}, "condition": {"age": 2}}]
    assert "versioning changed to off" in gs.apply(versioning=False, **ALL_DAYS)


def test_gcs_bucket_is_made_where_it_is_to_be(gs, server_files, monkeypatch):
    """What is sent: the emulator has one location only."""
    sent = []

    class Spy(storage.Client):
        def _post_resource(self, path, data, **options):
            sent.append(data)
            return super()._post_resource(path, data, **options)

    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gs.environment["STORAGE_EMULATOR_HOST"])
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "test")
    monkeypatch.setattr(storage, "Client", Spy)
    monkeypatch.syspath_prepend(str(server_files))
    script = runpy.run_path(str(server_files / "bucket.py"))
    store = script["stores"].open_store({"type": "gcs", "bucket": gs.name})
    script["Gcs"](store, {**NOTHING, "create": True, "location": "europe-west1"}).create()
    assert [data["location"] for data in sent] == ["europe-west1"]


def test_gcs_rules_of_others_stay_and_ours_go(gs):
    gs.apply(create=True)
    theirs = [{"action": {"type": "Delete"}, "condition": {"age": 60, "isLive": True, "matchesPrefix": ["b/"]}},
              {"action": {"type": "SetStorageClass", "storageClass": "COLDLINE"}, "condition": {"age": 3}}]
    bucket = gcs_bucket(gs)
    bucket.lifecycle_rules, bucket.labels = theirs, {"team": "theirs"}
    bucket.patch()

    def ours():
        rules = [dict(rule) for rule in gcs_bucket(gs).lifecycle_rules]
        assert [rule for rule in rules if rule in theirs] == theirs
        return [rule["condition"] for rule in rules if rule not in theirs]

    gs.apply(expire_days=30, prefix="a")
    gs.apply(expire_days=60, prefix="b")  # which somebody has wanted for already
    assert ours() == [{"age": 30, "isLive": True, "matchesPrefix": ["a/"]}]
    gs.apply(expire_days=10, prefix="a")
    assert ours() == [{"age": 10, "isLive": True, "matchesPrefix": ["a/"]}]
    gs.apply(expire_days=0, prefix="b")
    gs.apply(versioning=True, prefix="a")
    assert not ours()
    assert {name: value for name, value in gcs_bucket(gs).labels.items() if value} == {"team": "theirs"}


def test_gcs_has_no_aws_kms(gs):
    assert "name a key of Cloud KMS in object_storage_bucket_kms_key" in gs.refusal(create=True, encryption="aws:kms")


def test_azure_container(azure):
    pod = Pod("wasbs://{bucket}@mlops.blob.core.windows.net/", AZURE_STORAGE_CONNECTION_STRING=azure)
    assert "does not exist" in pod.refusal()
    assert f"'{pod.name}' created" in pod.apply(create=True)
    assert BlobServiceClient.from_connection_string(azure).get_container_client(pod.name).exists()


@pytest.mark.parametrize("asked", [{"versioning": False}, {"expire_days": 3}, {"encryption": "AES256"}])
def test_azure_what_belongs_to_the_account(azure, asked):
    pod = Pod("wasbs://{bucket}@mlops.blob.core.windows.net/", AZURE_STORAGE_CONNECTION_STRING=azure)
    sentence = pod.refusal(create=True, **asked)
    (setting,) = asked
    assert f"object_storage_bucket_{setting} asks for what Azure keeps as a setting of the storage account" in sentence
    assert not BlobServiceClient.from_connection_string(azure).get_container_client(pod.name).exists()


def test_azure_denied(azure):
    pod = Pod("wasbs://{bucket}@mlops.blob.core.windows.net/",
              AZURE_STORAGE_CONNECTION_STRING=azure.replace("AccountKey=", "AccountKey=d3Jv"))
    assert "credentials may not" in pod.refusal(create=True) and "AuthorizationFailure" in pod.refusal(create=True)


def test_no_bucket_at_all(tmp_path):
    assert "which is no bucket" in Pod(str(tmp_path)).refusal(create=True)


@pytest.fixture(params=["seaweedfs", "gcs", "azure"])
def any_store(request):
    store = request.getfixturevalue(request.param)
    return {"seaweedfs": lambda: s3_pod(store["url"]),
            "gcs": lambda: Pod("gs://{bucket}/", STORAGE_EMULATOR_HOST=store),
            "azure": lambda: Pod("wasbs://{bucket}@mlops.blob.core.windows.net/",
                                 AZURE_STORAGE_CONNECTION_STRING=store)}[request.param]()


def test_prepare_makes_the_bucket_and_finds_it(any_store):
    missing = any_store.run("prepare.py", "artifacts")
    assert missing.returncode and f"{any_store.name} does not exist" in missing.stderr, missing.stderr
    made = any_store.run("prepare.py", "bucket", "artifacts", prefix="team/a", create=True)
    assert made.returncode == 0 and "created" in made.stdout, made.stderr


def test_prepare_waits_for_a_store_that_is_away():
    for pod in (s3_pod("http://127.0.0.1:9"), Pod("gs://{bucket}/", STORAGE_EMULATOR_HOST="http://127.0.0.1:9")):
        for step in ("bucket", "artifacts"):
            done = pod.run("prepare.py", step, create=True)
            assert done.returncode and "did not answer within 2 s" in done.stderr, done.stderr


def test_prepare_says_what_waiting_does_not_mend(seaweedfs):
    pod = s3_pod(seaweedfs["url"], secret="wrong")
    assert "may not be read with these credentials (403)" in pod.run("prepare.py", "artifacts").stderr
    done = pod.run("prepare.py", "bucket", versioning=True)
    assert done.returncode and "refuses" in done.stderr and "waiting" not in done.stdout, done.stdout


def test_prepare_with_a_folder(tmp_path):
    assert Pod(str(tmp_path / "made")).run("prepare.py", "artifacts").returncode == 0
    assert (tmp_path / "made").is_dir()
    (tmp_path / "file").write_text("")
    assert "cannot be written: Not a directory" in Pod(str(tmp_path / "file" / "x")).run("prepare.py",
                                                                                         "artifacts").stderr
