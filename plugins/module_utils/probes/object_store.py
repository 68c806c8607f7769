# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Questions to an artifact store. Self-contained: runs on the controller and inside the server's pod alike."""

from __future__ import annotations

import json
import os
import time
import urllib.parse
import uuid


def probe(checks, parameters):
    """Look for the bucket or folder, write, list, read back, compare, delete; measure throughput.

    Args:
        checks: collects the results.
        parameters: type (s3, gcs, azure or volume), bucket, prefix, url, region, access_key, secret_key, service_account_file,
            service_account_contents, account_key, connection_string, ca_file, path, size_mb, environment (take what is missing
            from the server's own environment).
    """
    if parameters.get("environment"):
        _from_environment(parameters)
    store = {"s3": S3, "gcs": Gcs, "azure": Azure, "volume": Volume}[parameters["type"]](parameters)
    name = f".mlops-mlflow-probe-{uuid.uuid4().hex}"
    payload = os.urandom(2**20) * int(parameters.get("size_mb") or 4)
    checks.facts.update(upload_mb_s=None, download_mb_s=None)

    def exists():
        try:
            return store.exists()
        except ImportError as error:
            raise RuntimeError(f"Python's {store.LIBRARY} is missing where the store is asked: {error}") from error

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

    checks.run("exists", exists)
    checks.run("write", write, needs=("exists",))
    for check, function in (("read", read), ("list", listing), ("delete", delete)):
        checks.run(check, function, needs=("exists", "write"))


def _from_environment(parameters):
    destination = os.environ["MLFLOW_ARTIFACTS_DESTINATION"]
    uri = urllib.parse.urlsplit(destination)
    if uri.scheme == "s3":
        parameters.update(type="s3", bucket=uri.netloc, prefix=uri.path, url=os.environ.get("MLFLOW_S3_ENDPOINT_URL"))
    elif uri.scheme == "gs":
        parameters.update(type="gcs", bucket=uri.netloc, prefix=uri.path)
    elif uri.scheme == "wasbs":
        parameters.update(type="azure", bucket=uri.username, prefix=uri.path, url=f"https://{uri.hostname}",
                          connection_string=os.environ.get("AZURE_STORAGE_CONNECTION_STRING"),
                          account_key=os.environ.get("AZURE_STORAGE_ACCESS_KEY"))
    else:
        parameters.update(type="volume", path=destination)


class Bucket:
    """What stores of objects share: a bucket, and a path in it."""

    def __init__(self, parameters):
        self.parameters = parameters
        self.bucket = parameters["bucket"]
        self.prefix = (parameters.get("prefix") or "").strip("/")
        self.client = None

    def _key(self, name):
        return f"{self.prefix}/{name}" if self.prefix else name


class S3(Bucket):
    """Any S3 endpoint, by boto3; without keys, boto3's own search for credentials."""

    LIBRARY = "boto3"

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


class Gcs(Bucket):
    """Google Cloud Storage, by google-cloud-storage; without a service account, Google's own search for credentials.

    An emulator is found by its own variable, STORAGE_EMULATOR_HOST. The bucket is looked at by listing it, since
    storage.buckets.get, which asking for it takes, is no right that MLflow needs.
    """

    LIBRARY = "google-cloud-storage"
    OPTIONS = {"timeout": (5, 60), "retry": None}

    def exists(self):
        from google.api_core.exceptions import GoogleAPICallError
        from google.auth.exceptions import GoogleAuthError
        from google.cloud import storage
        from requests.exceptions import RequestException

        where = os.environ.get("STORAGE_EMULATOR_HOST") or "Google Cloud Storage"
        contents = self.parameters.get("service_account_contents")
        if self.parameters.get("service_account_file"):
            with open(self.parameters["service_account_file"], encoding="utf-8") as file:
                contents = file.read()
        try:
            self.client = storage.Client.from_service_account_info(json.loads(contents)) if contents else storage.Client()
            self.names()
        except GoogleAPICallError as error:
            if error.code == 404:
                raise RuntimeError(f"bucket {self.bucket} does not exist at {where}") from error
            if error.code in (401, 403):
                raise RuntimeError(f"access to bucket {self.bucket} is denied with these credentials: {error.message}") from error
            raise
        except json.JSONDecodeError as error:
            raise RuntimeError(f"the service account is no JSON: {error}") from error
        except GoogleAuthError as error:
            raise RuntimeError(f"{where} gives no access with these credentials: {error}") from error
        except (RequestException, ConnectionError) as error:
            raise RuntimeError(f"{where} cannot be reached: {error}") from error
        return f"bucket {self.bucket} at {where}"

    def _blob(self, name):
        return self.client.bucket(self.bucket).blob(self._key(name))

    def write(self, name, payload):
        self._blob(name).upload_from_string(payload, "application/octet-stream", **self.OPTIONS)

    def read(self, name):
        return self._blob(name).download_as_bytes(**self.OPTIONS)

    def names(self):
        found = self.client.list_blobs(self.bucket, prefix=self._key(".mlops-mlflow-probe-"), **self.OPTIONS)
        return [blob.name.rsplit("/", 1)[-1] for blob in found]

    def delete(self, name):
        self._blob(name).delete(**self.OPTIONS)


class Azure(Bucket):
    """Azure Blob Storage, by azure-storage-blob: a connection string, or an account's key, or azure-identity's own search."""

    LIBRARY = "azure-storage-blob or azure-identity"

    def exists(self):
        from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ServiceRequestError, ServiceResponseError
        from azure.storage.blob import BlobServiceClient

        options = {"connection_timeout": 5, "read_timeout": 60, "retry_total": 0}
        if self.parameters.get("ca_file"):
            options["connection_verify"] = self.parameters["ca_file"]
        if self.parameters.get("connection_string"):
            service = BlobServiceClient.from_connection_string(self.parameters["connection_string"], **options)
        else:
            service = BlobServiceClient(self.parameters["url"], self._credential(), **options)
        where = f"{service.scheme}://{service.primary_hostname}"
        self.client = service.get_container_client(self.bucket)
        try:
            self.names()
        except HttpResponseError as error:
            if isinstance(error, ClientAuthenticationError) and error.response is None:
                raise RuntimeError(f"{where} gives no access: no credentials were found: {error.message}") from error
            if error.status_code == 404:
                raise RuntimeError(f"container {self.bucket} does not exist at {where}") from error
            if error.status_code in (401, 403):
                code = getattr(error.error_code, "value", error.error_code)
                raise RuntimeError(f"access to container {self.bucket} is denied with these credentials ({code})") from error
            raise
        except (ServiceRequestError, ServiceResponseError) as error:
            raise RuntimeError(f"{where} cannot be reached: {error}") from error
        return f"container {self.bucket} at {where}"

    def _credential(self):
        if self.parameters.get("account_key"):
            return self.parameters["account_key"]
        from azure.identity import DefaultAzureCredential

        return DefaultAzureCredential()

    def write(self, name, payload):
        self.client.upload_blob(self._key(name), payload)

    def read(self, name):
        return self.client.download_blob(self._key(name)).readall()

    def names(self):
        return [name.rsplit("/", 1)[-1] for name in self.client.list_blob_names(name_starts_with=self._key(".mlops-mlflow-probe-"))]

    def delete(self, name):
        self.client.delete_blob(self._key(name))


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
