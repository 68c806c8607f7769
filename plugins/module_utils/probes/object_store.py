# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Questions to an artifact store. Self-contained: runs on the controller and inside the server's pod alike."""

from __future__ import annotations

import os
import time
import uuid


def probe(checks, parameters):
    """Look for the bucket or folder, write, list, read back, compare, delete; measure throughput.

    Args:
        checks: collects the results.
        parameters: type (s3 or volume), bucket, prefix, url, region, access_key, secret_key, ca_file, path, size_mb,
            environment (take what is missing from the server's own environment).
    """
    if parameters.get("environment"):
        _from_environment(parameters)
    store = {"s3": S3, "volume": Volume}[parameters["type"]](parameters)
    name = f".mlops-mlflow-probe-{uuid.uuid4().hex}"
    payload = os.urandom(2**20) * int(parameters.get("size_mb") or 4)
    checks.facts.update(upload_mb_s=None, download_mb_s=None)

    def write():
        begun = time.monotonic()
        store.write(name, payload)
        checks.facts["upload_mb_s"] = round(len(payload) / 1e6 / (time.monotonic() - begun), 1)
        return f"{checks.facts['upload_mb_s']} MB/s"

    def read():
        begun = time.monotonic()
        found = store.read(name)
        checks.facts["download_mb_s"] = round(len(payload) / 1e6 / (time.monotonic() - begun), 1)
        if found != payload:
            raise RuntimeError(f"{len(found)} bytes came back that are not the {len(payload)} that were written")
        return f"{checks.facts['download_mb_s']} MB/s, the same bytes"

    def listing():
        if name not in store.names():
            raise RuntimeError("the object that was written is not listed")

    def delete():
        store.delete(name)
        if name in store.names():
            raise RuntimeError("the object that was deleted is still listed")

    checks.run("exists", store.exists)
    checks.run("write", write, needs=("exists",))
    for check, function in (("read", read), ("list", listing), ("delete", delete)):
        checks.run(check, function, needs=("exists", "write"))


def _from_environment(parameters):
    destination = os.environ["MLFLOW_ARTIFACTS_DESTINATION"]
    if destination.startswith("s3://"):
        bucket, _slash, prefix = destination[5:].partition("/")
        parameters.update(type="s3", bucket=bucket, prefix=prefix, url=os.environ.get("MLFLOW_S3_ENDPOINT_URL"))
    else:
        parameters.update(type="volume", path=destination)


class S3:
    """Any S3 endpoint, by boto3; without keys, boto3's own search for credentials."""

    def __init__(self, parameters):
        self.parameters = parameters
        self.bucket = parameters["bucket"]
        self.prefix = (parameters.get("prefix") or "").strip("/")
        self.client = None

    def _key(self, name):
        return f"{self.prefix}/{name}" if self.prefix else name

    def exists(self):
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError

        url = self.parameters.get("url") or None
        self.client = boto3.client(
            "s3", endpoint_url=url, region_name=self.parameters.get("region") or None, verify=self.parameters.get("ca_file") or None,
            aws_access_key_id=self.parameters.get("access_key") or None, aws_secret_access_key=self.parameters.get("secret_key") or None,
            config=Config(connect_timeout=5, read_timeout=60, retries={"max_attempts": 1},
                          s3={"addressing_style": "path" if url else "auto"}))
        try:
            self.client.head_bucket(Bucket=self.bucket)
        except ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            if status == 404:
                raise RuntimeError(f"bucket {self.bucket} does not exist at {url or 'AWS S3'}") from error
            if status in (400, 401, 403):
                raise RuntimeError(f"access to bucket {self.bucket} is denied with these keys") from error
            raise
        except BotoCoreError as error:
            raise RuntimeError(f"{url or 'AWS S3'} cannot be reached: {error}") from error
        return f"bucket {self.bucket} at {url or 'AWS S3'}"

    def write(self, name, payload):
        self.client.put_object(Bucket=self.bucket, Key=self._key(name), Body=payload)

    def read(self, name):
        return self.client.get_object(Bucket=self.bucket, Key=self._key(name))["Body"].read()

    def names(self):
        found = self.client.list_objects_v2(Bucket=self.bucket, Prefix=self._key(".mlops-mlflow-probe-"))
        return [entry["Key"].rsplit("/", 1)[-1] for entry in found.get("Contents") or []]

    def delete(self, name):
        self.client.delete_object(Bucket=self.bucket, Key=self._key(name))


class Volume:
    """A folder of a mounted volume."""

    def __init__(self, parameters):
        self.path = parameters["path"]

    def exists(self):
        if not os.path.isdir(self.path):
            raise FileNotFoundError(f"there is no folder {self.path}")
        free = os.statvfs(self.path)
        return f"folder {self.path}, {free.f_bavail * free.f_frsize / 2**30:.1f} GiB free"

    def write(self, name, payload):
        path = os.path.join(self.path, name)
        try:
            with open(path, "wb") as file:
                file.write(payload)
                os.fsync(file.fileno())
        except OSError:
            if os.path.exists(path):
                os.unlink(path)
            raise

    def read(self, name):
        with open(os.path.join(self.path, name), "rb") as file:
            return file.read()

    def names(self):
        return os.listdir(self.path)

    def delete(self, name):
        os.unlink(os.path.join(self.path, name))
