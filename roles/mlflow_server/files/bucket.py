"""Bring the bucket of the artifacts to what is asked for, with the server's own credentials; run in its own image.

Reads the environment of the server, and MLFLOW_BUCKET_CARE, a JSON object:

create                  make the bucket where there is none
location                where Google Cloud Storage makes it, if not where Google likes
versioning              true or false
expire_days             delete artifacts this many days after they were written
expire_noncurrent_days  delete former versions this many days after they were replaced
abort_multipart_days    delete what was begun to be uploaded and never finished
encryption, kms_key     "AES256" or "aws:kms" by default, and with which key

What is null is left as it is; of the days, null or 0 also removes the rule that an earlier run made. Rules that others made
stay, a bucket is never deleted, and a second run changes nothing.
"""

import hashlib
import json
import os
import sys
import urllib.parse
import uuid
import warnings

DAYS = ("expire_days", "expire_noncurrent_days", "abort_multipart_days")


class Refused(Exception):
    """A cause that waiting does not mend, as a sentence that names the variable to mend."""


def variables(*parts):
    return " and ".join(f"object_storage_bucket_{part}" for part in parts)


def say(text):
    print(f"bucket: {text}", flush=True)


class Store:
    """What the three kinds of store share: what is asked for, of which bucket."""

    def __init__(self, uri, asked):
        self.bucket, self.host, self.asked = uri.username or uri.netloc, uri.hostname, asked
        self.prefix = uri.path.strip("/") + "/" if uri.path.strip("/") else ""
        self.days = {part: asked[part] for part in DAYS if asked.get(part)}

    def care(self):
        self.create()
        if self.asked.get("encryption") or self.asked.get("kms_key"):
            self.encryption()
        if self.asked.get("versioning") is not None:
            self.versioning()
        self.lifecycle()

    def refused(self, parts, reason, denied=False):
        """The sentence for a request about variables that the store has turned down."""
        if denied:
            return Refused(f"the server's credentials may not bring bucket {self.bucket!r} to {variables(*parts)}: {reason}; "
                           f"let them, or leave {variables(*parts)} out")
        return Refused(f"the store cannot do for bucket {self.bucket!r} what {variables(*parts)} asks for: {reason}; "
                       f"leave {variables(*parts)} out, or set what the store can do")

    def absent(self):
        return Refused(f"bucket {self.bucket!r} does not exist; create it, or set {variables('create')} to true")


class S3(Store):
    """AWS and other S3 endpoints. The rules of ours carry ids of ours, with the path in the bucket that they are for."""

    def __init__(self, uri, asked):
        super().__init__(uri, asked)
        import boto3
        from botocore.config import Config

        endpoint = os.environ.get("MLFLOW_S3_ENDPOINT_URL")
        self.client = boto3.client("s3", endpoint_url=endpoint, config=Config(connect_timeout=5, read_timeout=10, retries={"max_attempts": 1}))

    def request(self, parts, method, **parameters):
        """Make a request about variables; what is not there is empty, and only a busy or broken store is worth waiting for."""
        from botocore.exceptions import ClientError

        try:
            return getattr(self.client, method)(Bucket=self.bucket, **parameters)
        except ClientError as error:
            status, found = error.response["ResponseMetadata"]["HTTPStatusCode"], error.response["Error"]
            if status == 404 and method.startswith("get_"):
                return {}
            if status >= 500 and status != 501:
                raise
            raise self.refused(parts, f"{found.get('Code')} {found.get('Message', '')}".strip(), denied=status in (401, 403)) from error

    def create(self):
        from botocore.exceptions import ClientError

        try:
            self.client.head_bucket(Bucket=self.bucket)
            return say(f"{self.bucket!r} exists")
        except ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            if status in (400, 401, 403):
                raise Refused(f"bucket {self.bucket!r} may not be read with the server's credentials ({status}); check those of "
                              f"object_storage, and that the bucket is nobody else's") from error
            if status != 404:
                raise
        if not self.asked.get("create"):
            raise self.absent()
        region = self.client.meta.region_name
        try:
            self.request(("create",), "create_bucket",
                         **({} if region in (None, "us-east-1") else {"CreateBucketConfiguration": {"LocationConstraint": region}}))
        except Refused as error:
            if "BucketAlreadyOwnedByYou" not in str(error):  # made by somebody else in the meantime
                raise
        say(f"{self.bucket!r} created")

    def versioning(self):
        wanted = "Enabled" if self.asked["versioning"] else "Suspended"
        found = self.request(("versioning",), "get_bucket_versioning").get("Status", "Suspended")
        if found == wanted:
            return say("versioning is as asked")
        self.request(("versioning",), "put_bucket_versioning", VersioningConfiguration={"Status": wanted})
        say(f"versioning changed to {wanted}")

    def lifecycle(self):
        actions = {
            "expire_days": lambda days: {"Expiration": {"Days": days}},
            "expire_noncurrent_days": lambda days: {"NoncurrentVersionExpiration": {"NoncurrentDays": days}},
            "abort_multipart_days": lambda days: {"AbortIncompleteMultipartUpload": {"DaysAfterInitiation": days}},
        }
        ids = {part: f"mlops-mlflow-{part.removesuffix('_days').replace('_', '-')}" + (f"-{self.prefix}" if self.prefix else "") for part in DAYS}
        wanted = [{"ID": ids[part], "Status": "Enabled", "Filter": {"Prefix": self.prefix}, **actions[part](days)} for part, days in self.days.items()]
        try:
            found = self.request(self.days or DAYS, "get_bucket_lifecycle_configuration")
        except Refused:
            if wanted:
                raise
            return  # whoever may not look has made no rules either
        rules = found.get("Rules", [])
        ours = [{**rule, "Filter": {"Prefix": (rule.get("Filter") or {}).get("Prefix", "")}} for rule in rules if rule.get("ID") in ids.values()]
        if sorted(ours, key=lambda rule: rule["ID"]) == sorted(wanted, key=lambda rule: rule["ID"]):
            return say("lifecycle is as asked") if wanted else None
        others = [rule for rule in rules if rule.get("ID") not in ids.values()]
        if others + wanted:
            kept = {key: found[key] for key in ("TransitionDefaultMinimumObjectSize",) if key in found}
            self.request(self.days or DAYS, "put_bucket_lifecycle_configuration", LifecycleConfiguration={"Rules": others + wanted}, **kept)
        else:
            self.request(DAYS, "delete_bucket_lifecycle")
        say(f"lifecycle changed to {self.days or 'no rule of ours'}")

    def encryption(self):
        wanted, key = self.asked.get("encryption") or "aws:kms", self.asked.get("kms_key")
        parts = [part for part in ("encryption", "kms_key") if self.asked.get(part)]
        found = self.request(parts, "get_bucket_encryption").get("ServerSideEncryptionConfiguration", {}).get("Rules", [{}])[0]
        default = found.get("ApplyServerSideEncryptionByDefault", {})
        if default.get("SSEAlgorithm") == wanted and key in (None, default.get("KMSMasterKeyID")):
            return say("encryption is as asked")
        self.try_encryption(parts, {"ServerSideEncryption": wanted, **({"SSEKMSKeyId": key} if key else {})})
        rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": wanted, **({"KMSMasterKeyID": key} if key else {})},
                "BucketKeyEnabled": wanted == "aws:kms"}
        self.request(parts, "put_bucket_encryption", ServerSideEncryptionConfiguration={"Rules": [rule]})
        say(f"encryption changed to {wanted} {key or ''}".strip())

    def try_encryption(self, parts, how):
        """Write an object that way first: a store without that key, or without any, takes the setting and then fails every write."""
        from botocore.exceptions import ClientError

        name = {"Bucket": self.bucket, "Key": f"{self.prefix}.mlops-mlflow-probe-{uuid.uuid4().hex}"}
        try:
            written = self.client.put_object(**name, Body=b"x", **how)
        except ClientError as error:
            raise self.refused(parts, f"an object written that way fails with {error.response['Error'].get('Code')}") from error
        self.client.delete_object(**name, **({"VersionId": written["VersionId"]} if written.get("VersionId") else {}))


class Gcs(Store):
    """Google Cloud Storage. Its rules have no names, so a label of the bucket remembers each of ours."""

    OPTIONS = {"timeout": (5, 30), "retry": None}

    def __init__(self, uri, asked):
        super().__init__(uri, asked)
        from google.cloud import storage

        self.client = storage.Client()
        self.found = self.client.bucket(self.bucket)

    def request(self, parts, call, *arguments, **parameters):
        from google.api_core.exceptions import ClientError, TooManyRequests

        try:
            return call(*arguments, **parameters, **self.OPTIONS)
        except TooManyRequests:
            raise
        except ClientError as error:
            raise self.refused(parts, error.message, denied=error.code in (401, 403)) from error

    def create(self):
        from google.api_core.exceptions import Forbidden, NotFound, Unauthorized

        try:
            self.found.reload(**self.OPTIONS)
            return say(f"{self.bucket!r} exists")
        except (Forbidden, Unauthorized) as error:
            raise Refused(f"bucket {self.bucket!r} may not be looked at with the server's credentials: {error.message}; give them "
                          f"roles/storage.admin on it, or leave every {variables('*')} out") from error
        except NotFound:
            if not self.asked.get("create"):
                raise self.absent() from None
        self.found = self.request(("create",), self.client.create_bucket, self.bucket, location=self.asked.get("location"))
        say(f"{self.bucket!r} created")

    def versioning(self):
        wanted = self.asked["versioning"]
        if self.found.versioning_enabled == wanted:
            return say("versioning is as asked")
        self.found.versioning_enabled = wanted
        self.request(("versioning",), self.found.patch)
        say(f"versioning changed to {'on' if wanted else 'off'}")

    def encryption(self):
        if self.asked.get("encryption") == "aws:kms":
            raise Refused(f"{variables('encryption')} is aws:kms, which Google Cloud Storage has not; leave it out and name a key of "
                          f"Cloud KMS in {variables('kms_key')}")
        key = self.asked.get("kms_key")
        if key in (None, self.found.default_kms_key_name):  # encrypted by AES256 it always is
            return say("encryption is as asked")
        self.found.default_kms_key_name = key
        self.request(("kms_key",), self.found.patch)
        say(f"encryption changed to {key}")

    def rule(self, part, days):
        prefix = {"matchesPrefix": [self.prefix]} if self.prefix else {}
        action = "AbortIncompleteMultipartUpload" if part == "abort_multipart_days" else "Delete"
        # Of live objects only: as on S3, what expires in a bucket with versions becomes a former version first.
        age = {"expire_days": {"age": days, "isLive": True}, "expire_noncurrent_days": {"daysSinceNoncurrentTime": days},
               "abort_multipart_days": {"age": days}}[part]
        return {"action": {"type": action}, "condition": {**age, **prefix}}

    def lifecycle(self):
        suffix = f"-{hashlib.sha256(self.prefix.encode()).hexdigest()[:8]}" if self.prefix else ""
        names = {part: f"mlops-mlflow-{part.replace('_', '-')}{suffix}" for part in DAYS}
        labels = {name: value for name, value in self.found.labels.items() if value}
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # the library warns of a rule it does not know, and leaves it out
            try:
                rules = list(map(dict, self.found.lifecycle_rules))
            except UserWarning as error:
                raise self.refused(self.days or DAYS, str(error)) from error
        before = list(rules), dict(labels)
        for part in DAYS:
            made = labels.get(names[part])
            if made == str(self.days.get(part)):
                continue
            if made and made.isdigit() and self.rule(part, int(made)) in rules:
                rules.remove(self.rule(part, int(made)))
            labels.pop(names[part], None)
        for part, days in self.days.items():
            if self.rule(part, days) not in rules:
                rules.append(self.rule(part, days))
                labels[names[part]] = str(days)
        if (rules, labels) == before:
            return say("lifecycle is as asked") if self.days else None
        self.found.lifecycle_rules = rules
        self.found.labels = labels
        self.request(self.days or DAYS, self.found.patch)
        say(f"lifecycle changed to {self.days or 'no rule of ours'}")


class Azure(Store):
    """Azure Blob Storage, where all but the container itself belongs to the storage account."""

    def care(self):
        parts = [part for part in ("versioning", *DAYS, "encryption", "kms_key") if self.asked.get(part) or self.asked.get(part) is False]
        if parts:
            raise Refused(f"{variables(*parts)} asks for what Azure keeps as a setting of the storage account, beyond a container; "
                          f"set it there, and leave {variables(*parts)} out")
        self.create()

    def create(self):
        from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ResourceExistsError, ResourceNotFoundError

        container = self.client().get_container_client(self.bucket)
        try:
            try:
                container.get_container_properties()
                return say(f"{self.bucket!r} exists")
            except ResourceNotFoundError:
                if not self.asked.get("create"):
                    raise self.absent() from None
            container.create_container()
        except ResourceExistsError as error:
            if error.error_code != "ContainerAlreadyExists":  # one that is being deleted takes a while
                raise
        except HttpResponseError as error:
            if error.status_code in (400, 401, 403) or isinstance(error, ClientAuthenticationError):
                reason = getattr(error.error_code, "value", error.error_code) or error.message
                raise self.refused(("create",), reason, denied=True) from error
            raise
        say(f"{self.bucket!r} created")

    def client(self):
        from azure.storage.blob import BlobServiceClient

        options = {"connection_timeout": 5, "read_timeout": 30, "retry_total": 0}
        if os.environ.get("AZURE_STORAGE_CONNECTION_STRING"):
            return BlobServiceClient.from_connection_string(os.environ["AZURE_STORAGE_CONNECTION_STRING"], **options)
        from azure.identity import DefaultAzureCredential

        return BlobServiceClient(f"https://{self.host}", os.environ.get("AZURE_STORAGE_ACCESS_KEY") or DefaultAzureCredential(), **options)


def care():
    uri = urllib.parse.urlsplit(os.environ["MLFLOW_ARTIFACTS_DESTINATION"])
    stores = {"s3": S3, "gs": Gcs, "wasbs": Azure}
    if uri.scheme not in stores:
        raise Refused(f"the artifacts are at {uri.geturl()}, which is no bucket; leave every {variables('*')} out")
    stores[uri.scheme](uri, json.loads(os.environ["MLFLOW_BUCKET_CARE"])).care()


if __name__ == "__main__":
    try:
        care()
    except Exception as problem:
        sys.exit(f"bucket: {' '.join(str(problem).split())}")
