# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Clients of artifact stores: S3, Google Cloud Storage, Azure Blob Storage, and a folder.

Self-contained: the server's ConfigMap holds this file beside prepare.py, the probes use it in the server's pod, and the
health module on an inventory host. boto3, google-cloud-storage and azure-storage-blob are imported where they are
needed.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import json
import os
import shutil
import urllib.parse

CONNECT_TIMEOUT = 5
READ_TIMEOUT = 60
PART_BYTES = 32 * 2**20
"""Of a stream of unknown length that is in memory at once; S3 takes 10,000 parts, so 312 GiB."""
SMALL_PART_BYTES, PARTS = 8 * 2**20, 9000
"""The same of a stream whose length is known, and how many parts it may have."""

Entry = collections.namedtuple("Entry", "name size version")
"""An object: its name below the store's path, its bytes, and a text that changes when its content does."""


class StoreError(Exception):
    """What a store answers instead of what it was asked for; the message is one sentence.

    Attributes:
        status: HTTP status; None when there was no answer, or no credentials to ask with.
        code: the store's own error code, or an empty text.
        reason: what the store says about it.
        unreachable: whether there was no connection; another attempt may succeed.
    """

    def __init__(self, message, status=None, code="", reason="", unreachable=False):
        super().__init__(message)
        self.status, self.code, self.reason, self.unreachable = status, code, reason or message, unreachable

    @property
    def missing(self):
        """Whether there is no such bucket or object."""
        return self.status == 404

    @property
    def denied(self):
        """Whether the credentials do not suffice."""
        return self.status in (401, 403)


def unreachable(error):
    """Whether another attempt may succeed; for ``checks.retry``."""
    return isinstance(error, StoreError) and error.unreachable


def open_store(parameters):
    """The client of a store; nothing is asked yet.

    Args:
        parameters: ``type`` (s3, gcs, azure or volume) and what that type's class documents.
    """
    return {"s3": S3, "gcs": Gcs, "azure": Azure, "volume": Volume}[parameters["type"]](parameters)


def tls_ignored(environment):
    """Whether MLflow does not verify the certificate of an S3 endpoint in this environment."""
    return environment.get("MLFLOW_S3_IGNORE_TLS", "").lower() in ("true", "1")


def from_uri(uri, environment=None):
    """Parameters of the store that an artifact URI names, as the server's environment completes them.

    Args:
        uri: as MLflow takes it: s3://bucket/prefix, gs://bucket/prefix,
            wasbs://container@account.blob.core.windows.net/prefix, file:///path or a path.
        environment: variables, those of this process if None. Credentials that the store's library itself reads from
            the environment are left to it.

    Raises:
        StoreError: no client here knows such URIs.
    """
    environment, parts = os.environ if environment is None else environment, urllib.parse.urlsplit(uri)
    if parts.scheme == "s3":
        found = {"type": "s3", "bucket": parts.netloc, "url": environment.get("MLFLOW_S3_ENDPOINT_URL"),
                 "addressing_style": environment.get("MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE"),
                 "validate_certs": not tls_ignored(environment)}
    elif parts.scheme == "gs":
        found = {"type": "gcs", "bucket": parts.netloc}
    elif parts.scheme == "wasbs":
        found = {"type": "azure", "bucket": parts.username, "url": f"https://{parts.hostname}",
                 "connection_string": environment.get("AZURE_STORAGE_CONNECTION_STRING"),
                 "account_key": environment.get("AZURE_STORAGE_ACCESS_KEY")}
    elif parts.scheme in ("", "file"):
        return {"type": "volume", "path": parts.path if parts.scheme else uri}
    else:
        raise StoreError(f"the artifacts are at {parts.scheme}://{parts.hostname or ''}, which is no kind of store "
                         f"that is known here")
    return {**found, "prefix": parts.path}


class Bucket:
    """What stores of objects share: a bucket, and a path in it below which all names are."""

    library = ""
    noun = "bucket"

    def __init__(self, parameters):
        self.parameters = parameters
        self.bucket = parameters["bucket"]
        self.prefix = (parameters.get("prefix") or "").strip("/")

    @property
    def location(self):
        """Where the store is, for messages."""
        raise NotImplementedError

    @property
    def client(self):
        """The library's client; it can be used past this class, below ``errors``."""
        raise NotImplementedError

    def errors(self):
        """A context that turns the library's exceptions into StoreError."""
        raise NotImplementedError

    def key(self, name):
        """An object's full name in the bucket."""
        return f"{self.prefix}/{name}" if self.prefix else name

    def name(self, key):
        """The name of an object below the path, from its full name."""
        return key[len(self.prefix) + 1:] if self.prefix else key

    def error(self, status, code, reason):
        """The StoreError for an HTTP status."""
        what = f"{self.noun} {self.bucket}"
        if status == 404:
            message = f"{what} does not exist at {self.location}"
        elif status in (400, 401, 403):
            message = f"access to {what} is denied with these credentials ({reason or code})"
        else:
            message = f"{what} at {self.location} answers {status} ({reason or code})"
        return StoreError(message, status, code, reason)

    def no_connection(self, error):
        """The StoreError for a store that does not answer."""
        return StoreError(f"{self.location} cannot be reached: {error}", reason=str(error), unreachable=True)

    def no_credentials(self, error):
        """The StoreError for a search for credentials that found none, or none that work."""
        return StoreError(f"{self.location} gives no access with these credentials: {error}", reason=str(error))

    def look(self):
        """Raise StoreError unless the bucket is there and may be read; return what was found."""
        raise NotImplementedError

    def entries(self, beginning=""):
        """The Entry of each object whose name begins so, page by page as they are asked for."""
        raise NotImplementedError

    def sizes(self, beginning=""):
        """Name and bytes of each object whose name begins so."""
        return ((entry.name, entry.size) for entry in self.entries(beginning))

    def open(self, name):
        """A context with a binary stream of an object's content."""
        raise NotImplementedError

    def save(self, name, stream, size=None):
        """Write what a binary stream gives until its end, with bounded memory; nothing is left when reading fails.

        Args:
            name: of the object.
            stream: of its content.
            size: its bytes where they are known, which takes less memory.
        """
        raise NotImplementedError

    def folders(self, beginning=""):
        """Names up to the next slash, and with it, of what begins so; ``beginning`` is empty or ends with a slash."""
        raise NotImplementedError

    def tidy(self, name):
        """Remove a folder that is empty; a bucket has none."""

    def locks(self):
        """Whether the bucket can keep objects from being deleted."""
        return False


class S3(Bucket):
    """AWS S3 and other S3 endpoints, by boto3.

    Parameters: bucket, prefix, url, region, access_key and secret_key (without: boto3's own search), ca_file,
    validate_certs, addressing_style, attempts at each request (1), save_arguments of uploads by ``save``.
    """

    library = "boto3"

    @property
    def location(self):
        return self.parameters.get("url") or "AWS S3"

    @functools.cached_property
    def client(self):
        return self.service("s3")

    def service(self, name):
        """The client of one of AWS' services with the store's credentials."""
        import boto3
        from botocore.config import Config

        url, verify = self.parameters.get("url") or None, self.parameters.get("ca_file") or None
        style = self.parameters.get("addressing_style") or ("path" if url else "auto")
        return boto3.client(
            name, endpoint_url=url, region_name=self.parameters.get("region") or None,
            verify=verify if self.parameters.get("validate_certs", True) else False,
            aws_access_key_id=self.parameters.get("access_key") or None,
            aws_secret_access_key=self.parameters.get("secret_key") or None,
            config=Config(connect_timeout=CONNECT_TIMEOUT, read_timeout=READ_TIMEOUT,
                          retries={"max_attempts": self.parameters.get("attempts", 1)},
                          s3={"addressing_style": style}))

    @contextlib.contextmanager
    def errors(self):
        from botocore import exceptions

        try:
            yield
        except exceptions.ClientError as error:
            found = error.response["Error"]
            raise self.error(error.response["ResponseMetadata"]["HTTPStatusCode"], found.get("Code", ""),
                             found.get("Message", "")) from error
        except exceptions.NoCredentialsError as error:
            raise self.no_credentials(error) from error
        except (exceptions.ConnectionError, exceptions.HTTPClientError) as error:
            raise self.no_connection(error) from error
        except exceptions.BotoCoreError as error:
            raise StoreError(f"{self.location} cannot be used: {error}", reason=str(error)) from error

    def look(self):
        with self.errors():
            self.client.head_bucket(Bucket=self.bucket)
        return f"bucket {self.bucket} at {self.location}"

    def write(self, name, payload):
        with self.errors():
            self.client.put_object(Bucket=self.bucket, Key=self.key(name), Body=payload)

    def read(self, name):
        with self.errors():
            return self.client.get_object(Bucket=self.bucket, Key=self.key(name))["Body"].read()

    def names(self, beginning=""):
        with self.errors():
            found = self.client.list_objects_v2(Bucket=self.bucket, Prefix=self.key(beginning))
        return [self.name(entry["Key"]) for entry in found.get("Contents") or []]

    def entries(self, beginning=""):
        with self.errors():
            for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket,
                                                                              Prefix=self.key(beginning)):
                for entry in page.get("Contents") or []:
                    yield Entry(self.name(entry["Key"]), entry["Size"], entry["ETag"].strip('"'))

    @contextlib.contextmanager
    def open(self, name):
        with self.errors(), contextlib.closing(
                self.client.get_object(Bucket=self.bucket, Key=self.key(name))["Body"]) as body:
            yield body

    def save(self, name, stream, size=None):
        from boto3.s3.transfer import TransferConfig

        part = PART_BYTES if size is None else max(SMALL_PART_BYTES, size // PARTS)
        parts = TransferConfig(use_threads=False, multipart_threshold=part, multipart_chunksize=part)
        with self.errors():
            self.client.upload_fileobj(stream, self.bucket, self.key(name), Config=parts,
                                       ExtraArgs=self.parameters.get("save_arguments") or None)

    def locks(self):
        """As of Bucket; False also where the credentials may not ask."""
        with contextlib.suppress(StoreError), self.errors():
            self.client.get_object_lock_configuration(Bucket=self.bucket)
            return True
        return False

    def locked_until(self, name):
        """Until when the present content of an object cannot be deleted: a datetime, or None."""
        with self.errors():
            found = self.client.head_object(Bucket=self.bucket, Key=self.key(name))
        return found.get("ObjectLockRetainUntilDate")

    def lock(self, name, until):
        """Let nobody delete an object before a datetime (Object Lock); a lock is never shortened."""
        with self.errors():
            self.client.put_object_retention(Bucket=self.bucket, Key=self.key(name),
                                             Retention={"Mode": "COMPLIANCE", "RetainUntilDate": until})

    def folders(self, beginning=""):
        with self.errors():
            for page in self.client.get_paginator("list_objects_v2").paginate(
                    Bucket=self.bucket, Prefix=self.key(beginning), Delimiter="/"):
                for entry in page.get("CommonPrefixes") or []:
                    yield self.name(entry["Prefix"])

    def delete(self, name):
        with self.errors():
            self.client.delete_object(Bucket=self.bucket, Key=self.key(name))


class Gcs(Bucket):
    """Google Cloud Storage, by google-cloud-storage. E(STORAGE_EMULATOR_HOST) leads to an emulator instead.

    Parameters: bucket, prefix, service_account_file or service_account_contents (without: Google's own search).
    """

    library = "google-cloud-storage"
    OPTIONS = {"timeout": (CONNECT_TIMEOUT, READ_TIMEOUT), "retry": None}
    """Of every request; checks and prepare.py try again themselves."""

    @property
    def location(self):
        return os.environ.get("STORAGE_EMULATOR_HOST") or "Google Cloud Storage"

    @functools.cached_property
    def client(self):
        # Made when it is needed, since a new pod's Workload Identity takes a moment to answer.
        from google.cloud import storage

        contents, path = self.parameters.get("service_account_contents"), self.parameters.get("service_account_file")
        if path:
            with open(path, encoding="utf-8") as file:
                contents = file.read()
        if not contents:
            return storage.Client()
        try:
            return storage.Client.from_service_account_info(json.loads(contents))
        except json.JSONDecodeError as error:
            raise StoreError(f"the service account is no JSON: {error}") from error

    @contextlib.contextmanager
    def errors(self):
        from google.api_core.exceptions import GoogleAPICallError
        from google.auth.exceptions import GoogleAuthError, TransportError
        from requests.exceptions import RequestException

        try:
            yield
        except GoogleAPICallError as error:
            raise self.error(error.code, getattr(error.code, "name", ""), error.message) from error
        except TransportError as error:
            raise StoreError(f"{self.location} gives no access with these credentials: {error}", reason=str(error),
                             unreachable=True) from error
        except GoogleAuthError as error:
            raise self.no_credentials(error) from error
        except (RequestException, ConnectionError) as error:
            raise self.no_connection(error) from error

    def look(self):
        # By listing, which MLflow needs anyway; asking for the bucket itself takes a right of its own.
        self.names(most=1)
        return f"bucket {self.bucket} at {self.location}"

    def _blob(self, name):
        return self.client.bucket(self.bucket).blob(self.key(name))

    def write(self, name, payload):
        with self.errors():
            self._blob(name).upload_from_string(payload, "application/octet-stream", **self.OPTIONS)

    def read(self, name):
        with self.errors():
            return self._blob(name).download_as_bytes(**self.OPTIONS)

    def names(self, beginning="", most=1000):
        with self.errors():
            found = self.client.list_blobs(self.bucket, prefix=self.key(beginning), max_results=most, **self.OPTIONS)
            return [self.name(blob.name) for blob in found]

    def entries(self, beginning=""):
        with self.errors():
            for blob in self.client.list_blobs(self.bucket, prefix=self.key(beginning), **self.OPTIONS):
                yield Entry(self.name(blob.name), blob.size, blob.md5_hash or str(blob.generation))

    @contextlib.contextmanager
    def open(self, name):
        with self.errors(), self._blob(name).open("rb", **self.OPTIONS) as stream:
            yield stream

    def save(self, name, stream, size=None):
        with self.errors():
            self._blob(name).upload_from_file(stream, **self.OPTIONS)

    def folders(self, beginning=""):
        with self.errors():
            found = self.client.list_blobs(self.bucket, prefix=self.key(beginning), delimiter="/", **self.OPTIONS)
            for page in found.pages:
                list(page)  # the folders are known when a page is read
            for name in sorted(found.prefixes):
                yield self.name(name)

    def delete(self, name):
        with self.errors():
            self._blob(name).delete(**self.OPTIONS)


class Azure(Bucket):
    """Azure Blob Storage, by azure-storage-blob.

    Parameters: bucket (the container), prefix, connection_string, or url (the account's) with account_key (without:
    azure-identity's own search), ca_file.
    """

    library = "azure-storage-blob or azure-identity"
    noun = "container"

    @functools.cached_property
    def service(self):
        """The client of the storage account."""
        from azure.storage.blob import BlobServiceClient

        options = {"connection_timeout": CONNECT_TIMEOUT, "read_timeout": READ_TIMEOUT, "retry_total": 0}
        if self.parameters.get("ca_file"):
            options["connection_verify"] = self.parameters["ca_file"]
        if self.parameters.get("connection_string"):
            return BlobServiceClient.from_connection_string(self.parameters["connection_string"], **options)
        return BlobServiceClient(self.parameters["url"], self._credential(), **options)

    def _credential(self):
        if self.parameters.get("account_key"):
            return self.parameters["account_key"]
        from azure.identity import DefaultAzureCredential

        return DefaultAzureCredential()

    @property
    def location(self):
        return f"{self.service.scheme}://{self.service.primary_hostname}"

    @functools.cached_property
    def client(self):
        return self.service.get_container_client(self.bucket)

    @contextlib.contextmanager
    def errors(self):
        from azure.core import exceptions

        try:
            yield
        except exceptions.HttpResponseError as error:
            if isinstance(error, exceptions.ClientAuthenticationError) and error.response is None:
                raise StoreError(f"{self.location} gives no access: no credentials were found: {error.message}",
                                 reason=error.message) from error
            code = getattr(error.error_code, "value", error.error_code) or ""
            raise self.error(error.status_code, code, code or error.message) from error
        except (exceptions.ServiceRequestError, exceptions.ServiceResponseError) as error:
            raise self.no_connection(error) from error

    def look(self):
        with self.errors():
            next(self.client.list_blob_names(name_starts_with=self.key(""), results_per_page=1), None)
        return f"container {self.bucket} at {self.location}"

    def write(self, name, payload):
        with self.errors():
            self.client.upload_blob(self.key(name), payload, overwrite=True)

    def read(self, name):
        with self.errors():
            return self.client.download_blob(self.key(name)).readall()

    def names(self, beginning=""):
        with self.errors():
            return [self.name(key) for key in self.client.list_blob_names(name_starts_with=self.key(beginning))]

    def entries(self, beginning=""):
        with self.errors():
            for blob in self.client.list_blobs(name_starts_with=self.key(beginning)):
                yield Entry(self.name(blob.name), blob.size, blob.etag)

    @contextlib.contextmanager
    def open(self, name):
        with self.errors():
            yield _Chunks(self.client.download_blob(self.key(name)).chunks())

    def save(self, name, stream, size=None):
        with self.errors():
            self.client.upload_blob(self.key(name), stream, overwrite=True)

    def folders(self, beginning=""):
        from azure.storage.blob import BlobPrefix

        with self.errors():
            for found in self.client.walk_blobs(name_starts_with=self.key(beginning)):
                if isinstance(found, BlobPrefix):
                    yield self.name(found.name)

    def delete(self, name):
        with self.errors():
            self.client.delete_blob(self.key(name))


class _Chunks:
    """A readable stream of chunks that a library yields."""

    def __init__(self, chunks):
        self.chunks, self.rest = chunks, b""

    def read(self, size=-1):
        while size < 0 or len(self.rest) < size:
            chunk = next(self.chunks, None)
            if chunk is None:
                break
            self.rest += chunk
        taken, self.rest = (self.rest, b"") if size < 0 else (self.rest[:size], self.rest[size:])
        return taken


class Volume:
    """A folder, of a mounted volume for instance.

    Parameters: path.
    """

    library = ""

    def __init__(self, parameters):
        self.path = parameters["path"]
        self.location = f"folder {self.path}"

    def look(self):
        if not os.path.isdir(self.path):
            raise StoreError(f"there is no folder {self.path}")
        free = os.statvfs(self.path)
        return f"folder {self.path}, {free.f_bavail * free.f_frsize / 2**30:.1f} GiB free"

    def write(self, name, payload):
        path = os.path.join(self.path, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
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

    def names(self, beginning=""):
        return [name for name in os.listdir(self.path) if name.startswith(beginning)]

    def entries(self, beginning=""):
        """As of a bucket: files, by their paths below the folder."""
        for path, entry in self._entries(beginning):
            if entry.is_dir(follow_symlinks=False):
                yield from self.entries(path + "/")
            elif entry.is_file(follow_symlinks=False):
                with contextlib.suppress(FileNotFoundError):
                    found = entry.stat(follow_symlinks=False)
                    yield Entry(path, found.st_size, str(found.st_mtime_ns))

    def sizes(self, beginning=""):
        return ((entry.name, entry.size) for entry in self.entries(beginning))

    def open(self, name):
        return open(os.path.join(self.path, name), "rb")

    def save(self, name, stream, size=None):
        """Under another name until it is whole."""
        path = os.path.join(self.path, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        part = f"{path}.part-{os.getpid()}"
        try:
            with open(part, "wb") as file:
                shutil.copyfileobj(stream, file, 2**20)
                os.fsync(file.fileno())
            os.replace(part, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(part)

    def folders(self, beginning=""):
        for path, entry in self._entries(beginning):
            if entry.is_dir(follow_symlinks=False):
                yield path + "/"

    def _entries(self, beginning):
        """Paths and entries of one folder; of one that was removed meanwhile, none."""
        folder, slash, start = beginning.rpartition("/")
        try:
            with os.scandir(os.path.join(self.path, folder)) as entries:
                found = [(folder + slash + entry.name, entry) for entry in entries if entry.name.startswith(start)]
        except (FileNotFoundError, NotADirectoryError):
            if not folder:
                raise
            found = []
        yield from found

    def locks(self):
        """As of a bucket."""
        return False

    def tidy(self, name):
        with contextlib.suppress(OSError):
            os.rmdir(os.path.join(self.path, name))

    def delete(self, name):
        os.unlink(os.path.join(self.path, name))
