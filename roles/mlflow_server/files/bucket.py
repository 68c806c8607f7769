"""Apply the settings of the bucket of the artifacts, with the server's own credentials; run in its own image.

Reads the environment of the server, and MLFLOW_BUCKET_SETTINGS, a JSON object:

create                  create the bucket where there is none
location                where Google Cloud Storage creates it, if not at its default
versioning              true or false
expire_days             delete artifacts this many days after they were written
expire_noncurrent_days  delete noncurrent versions this many days after they were replaced
abort_multipart_days    delete multipart uploads that were never completed
encryption, kms_key     default encryption, "AES256" or "aws:kms", and its key
extra                   names of further buckets to create where there are none

What is null is left as it is; of the days, null or 0 also removes the rule that an earlier run made. Rules that others
made stay, a bucket is never deleted, and a second run changes nothing. The clients of the stores are in stores.py
beside this file.
"""

import hashlib
import json
import os
import sys
import uuid
import warnings

import stores

DAYS = ("expire_days", "expire_noncurrent_days", "abort_multipart_days")


class RefusedError(Exception):
    """A cause that waiting does not remove, as a sentence that names the variable to change."""


def variables(*settings):
    return " and ".join(f"object_storage_bucket_{setting}" for setting in settings)


def log(text):
    print(f"bucket: {text}", flush=True)


class Settings:
    """What the three kinds of store share: which settings are wanted, of which bucket."""

    def __init__(self, store, wanted):
        self.store, self.bucket, self.wanted = store, store.bucket, wanted
        self.prefix = store.prefix + "/" if store.prefix else ""
        self.days = {setting: wanted[setting] for setting in DAYS if wanted.get(setting)}

    def apply(self):
        self.create()
        if self.wanted.get("encryption") or self.wanted.get("kms_key"):
            self.encryption()
        if self.wanted.get("versioning") is not None:
            self.versioning()
        self.lifecycle()

    def refused(self, settings, reason, denied=False):
        """The sentence for a request about settings that the store has turned down."""
        names = variables(*settings)
        if denied:
            return RefusedError(f"the server's credentials may not apply {names} to bucket {self.bucket!r}: {reason}; "
                                f"grant them that, "
                                f"or leave {names} out")
        return RefusedError(f"the store cannot apply {names} to bucket {self.bucket!r}: {reason}; leave {names} out, "
                            f"or set what the "
                            f"store can do")

    def missing(self):
        return RefusedError(f"bucket {self.bucket!r} does not exist; create it, or set {variables('create')} to true")


class S3(Settings):
    """AWS and other S3 endpoints. The rules that this file makes have ids of its own, with the path in the bucket that
    they are for."""

    def request(self, settings, method, **parameters):
        """Make a request about settings; what is not there is empty, and only a busy or broken store is worth waiting
        for."""
        try:
            with self.store.errors():
                return getattr(self.store.client, method)(Bucket=self.bucket, **parameters)
        except stores.StoreError as error:
            if error.missing and method.startswith("get_"):
                return {}
            if error.status is None or error.status >= 500 and error.status != 501:
                raise
            raise self.refused(settings, f"{error.code} {error.reason}".strip(), denied=error.denied) from error

    def create(self):
        try:
            self.store.look()
            return log(f"{self.bucket!r} exists")
        except stores.StoreError as error:
            if error.denied or error.status == 400:
                raise RefusedError(f"bucket {self.bucket!r} may not be read with the server's credentials "
                                   f"({error.status}); check those of "
                                   f"object_storage, and that the bucket is not another account's") from error
            if not error.missing:
                raise
        if not self.wanted.get("create"):
            raise self.missing()
        region = self.store.client.meta.region_name
        try:
            self.request(("create",), "create_bucket",
                         **({} if region in (None, "us-east-1")
                            else {"CreateBucketConfiguration": {"LocationConstraint": region}}))
        except RefusedError as error:
            if "BucketAlreadyOwnedByYou" not in str(error):  # created by another pod in the meantime
                raise
        log(f"{self.bucket!r} created")

    def versioning(self):
        wanted = "Enabled" if self.wanted["versioning"] else "Suspended"
        found = self.request(("versioning",), "get_bucket_versioning").get("Status", "Suspended")
        if found == wanted:
            return log("versioning is as wanted")
        self.request(("versioning",), "put_bucket_versioning", VersioningConfiguration={"Status": wanted})
        log(f"versioning changed to {wanted}")

    def lifecycle(self):
        ids, wanted = {}, []
        for setting in DAYS:
            ids[setting] = f"mlops-mlflow-{setting.removesuffix('_days').replace('_', '-')}" + (f"-{self.prefix}"
                                                                                                if self.prefix else "")
        for setting, days in self.days.items():
            wanted.append({"ID": ids[setting], "Status": "Enabled", "Filter": {"Prefix": self.prefix},
                           **self.action(setting, days)})
        try:
            found = self.request(self.days or DAYS, "get_bucket_lifecycle_configuration")
        except RefusedError:
            if wanted:
                raise
            return  # credentials that may not read rules have made none either
        own, others = [], []
        for rule in found.get("Rules", []):
            if rule.get("ID") in ids.values():
                own.append({**rule, "Filter": {"Prefix": (rule.get("Filter") or {}).get("Prefix", "")}})
            else:
                others.append(rule)
        if sorted(own, key=lambda rule: rule["ID"]) == sorted(wanted, key=lambda rule: rule["ID"]):
            return log("lifecycle is as wanted") if wanted else None
        if others + wanted:
            kept = {key: found[key] for key in ("TransitionDefaultMinimumObjectSize",) if key in found}
            self.request(self.days or DAYS, "put_bucket_lifecycle_configuration",
                         LifecycleConfiguration={"Rules": others + wanted}, **kept)
        else:
            self.request(DAYS, "delete_bucket_lifecycle")
        log(f"lifecycle changed to {self.days or 'no rule of this instance'}")

    @staticmethod
    def action(setting, days):
        """What a lifecycle rule does, in S3's words."""
        return {"expire_days": {"Expiration": {"Days": days}},
                "expire_noncurrent_days": {"NoncurrentVersionExpiration": {"NoncurrentDays": days}},
                "abort_multipart_days": {"AbortIncompleteMultipartUpload": {"DaysAfterInitiation": days}}}[setting]

    def encryption(self):
        wanted, key = self.wanted.get("encryption") or "aws:kms", self.wanted.get("kms_key")
        settings = [setting for setting in ("encryption", "kms_key") if self.wanted.get(setting)]
        found = self.request(settings, "get_bucket_encryption").get("ServerSideEncryptionConfiguration",
                                                                    {}).get("Rules", [{}])[0]
        default = found.get("ApplyServerSideEncryptionByDefault", {})
        if default.get("SSEAlgorithm") == wanted and key in (None, default.get("KMSMasterKeyID")):
            return log("encryption is as wanted")
        self.try_encryption(settings, {"ServerSideEncryption": wanted, **({"SSEKMSKeyId": key} if key else {})})
        rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": wanted,
                                                       **({"KMSMasterKeyID": key} if key else {})},
                "BucketKeyEnabled": wanted == "aws:kms"}
        self.request(settings, "put_bucket_encryption", ServerSideEncryptionConfiguration={"Rules": [rule]})
        log(f"encryption changed to {wanted} {key or ''}".strip())

    def try_encryption(self, settings, parameters):
        """Write an object that way first: a store without that key, or without any, takes the setting and then fails
        every write."""
        name = {"Bucket": self.bucket, "Key": f"{self.prefix}.mlops-mlflow-probe-{uuid.uuid4().hex}"}
        try:
            with self.store.errors():
                written = self.store.client.put_object(**name, Body=b"x", **parameters)
        except stores.StoreError as error:
            if error.status is None:
                raise
            raise self.refused(settings, f"an object written that way fails with {error.code}") from error
        version = {"VersionId": written["VersionId"]} if written.get("VersionId") else {}
        with self.store.errors():
            self.store.client.delete_object(**name, **version)


class Gcs(Settings):
    """Google Cloud Storage. Its rules have no names, so a label of the bucket records each rule that this file makes.
    """

    def __init__(self, store, wanted):
        super().__init__(store, wanted)
        self.found = None

    def request(self, settings, call, *arguments, **parameters):
        """Make a request about settings; only a busy, broken or silent store is worth waiting for."""
        try:
            with self.store.errors():
                return call(*arguments, **parameters, **self.store.OPTIONS)
        except stores.StoreError as error:
            if error.status is None or error.status == 429 or error.status >= 500:
                raise
            raise self.refused(settings, error.reason, denied=error.denied) from error

    def create(self):
        try:
            with self.store.errors():
                self.found = self.store.client.bucket(self.bucket)
                self.found.reload(**self.store.OPTIONS)
            return log(f"{self.bucket!r} exists")
        except stores.StoreError as error:
            if error.denied:
                raise RefusedError(f"the server's credentials may not read bucket {self.bucket!r}: {error.reason}; "
                                   f"grant them "
                                   f"roles/storage.admin on it, or leave every {variables('*')} out") from error
            if not error.missing:
                raise
        if not self.wanted.get("create"):
            raise self.missing()
        self.found = self.request(("create",), self.store.client.create_bucket, self.bucket,
                                  location=self.wanted.get("location"))
        log(f"{self.bucket!r} created")

    def versioning(self):
        wanted = self.wanted["versioning"]
        if self.found.versioning_enabled == wanted:
            return log("versioning is as wanted")
        self.found.versioning_enabled = wanted
        self.request(("versioning",), self.found.patch)
        log(f"versioning changed to {'on' if wanted else 'off'}")

    def encryption(self):
        if self.wanted.get("encryption") == "aws:kms":
            raise RefusedError(f"{variables('encryption')} is aws:kms, which Google Cloud Storage does not have; "
                               f"leave it out and name a "
                               f"key of Cloud KMS in {variables('kms_key')}")
        key = self.wanted.get("kms_key")
        if key in (None, self.found.default_kms_key_name):  # it is always encrypted by AES256
            return log("encryption is as wanted")
        self.found.default_kms_key_name = key
        self.request(("kms_key",), self.found.patch)
        log(f"encryption changed to {key}")

    def rule(self, setting, days):
        """A lifecycle rule, in Google's words."""
        prefix = {"matchesPrefix": [self.prefix]} if self.prefix else {}
        action = "AbortIncompleteMultipartUpload" if setting == "abort_multipart_days" else "Delete"
        # Of live objects only: as on S3, what expires in a bucket with versions becomes a noncurrent version first.
        age = {"expire_days": {"age": days, "isLive": True},
               "expire_noncurrent_days": {"daysSinceNoncurrentTime": days},
               "abort_multipart_days": {"age": days}}[setting]
        return {"action": {"type": action}, "condition": {**age, **prefix}}

    def rules(self):
        """The bucket's lifecycle rules."""
        with warnings.catch_warnings():
            warnings.simplefilter("error",
                                  UserWarning)  # the library warns of a rule it does not know, and leaves it out
            try:
                return list(map(dict, self.found.lifecycle_rules))
            except UserWarning as error:
                raise self.refused(self.days or DAYS, str(error)) from error

    def lifecycle(self):
        suffix = f"-{hashlib.sha256(self.prefix.encode()).hexdigest()[:8]}" if self.prefix else ""
        names = {setting: f"mlops-mlflow-{setting.replace('_', '-')}{suffix}" for setting in DAYS}
        labels = {name: value for name, value in self.found.labels.items() if value}
        rules = self.rules()
        before = list(rules), dict(labels)
        for setting in DAYS:
            made = labels.get(names[setting])
            if made == str(self.days.get(setting)):
                continue
            if made and made.isdigit() and self.rule(setting, int(made)) in rules:
                rules.remove(self.rule(setting, int(made)))
            labels.pop(names[setting], None)
        for setting, days in self.days.items():
            if self.rule(setting, days) not in rules:
                rules.append(self.rule(setting, days))
                labels[names[setting]] = str(days)
        if (rules, labels) == before:
            return log("lifecycle is as wanted") if self.days else None
        self.found.lifecycle_rules = rules
        self.found.labels = labels
        self.request(self.days or DAYS, self.found.patch)
        log(f"lifecycle changed to {self.days or 'no rule of this instance'}")


class Azure(Settings):
    """Azure Blob Storage, where all but the container itself belongs to the storage account."""

    def apply(self):
        settings = []
        for setting in ("versioning", *DAYS, "encryption", "kms_key"):
            if self.wanted.get(setting) or self.wanted.get(setting) is False:
                settings.append(setting)
        if settings:
            raise RefusedError(f"{variables(*settings)} asks for what Azure keeps as a setting of the storage "
                               f"account, beyond a container; "
                               f"set it there, and leave {variables(*settings)} out")
        self.create()

    def create(self):
        try:
            with self.store.errors():
                self.store.client.get_container_properties()
            return log(f"{self.bucket!r} exists")
        except stores.StoreError as error:
            if not error.missing:
                raise self.denied(error) from error
        if not self.wanted.get("create"):
            raise self.missing()
        try:
            with self.store.errors():
                self.store.client.create_container()
        except stores.StoreError as error:
            if error.code != "ContainerAlreadyExists":  # one that is being deleted takes a while
                raise self.denied(error) from error
        log(f"{self.bucket!r} created")

    def denied(self, error):
        """What to raise for a request that failed: waiting gives nobody a right, but may bring a store back."""
        if error.denied or error.status == 400:
            return self.refused(("create",), error.reason, denied=True)
        return error


def apply():
    uri = os.environ["MLFLOW_ARTIFACTS_DESTINATION"]
    parameters = stores.from_uri(uri)
    kinds = {"s3": S3, "gcs": Gcs, "azure": Azure}
    if parameters["type"] not in kinds:
        raise RefusedError(f"the artifacts are at {uri}, which is no bucket; leave every {variables('*')} out")
    kind, wanted = kinds[parameters["type"]], json.loads(os.environ["MLFLOW_BUCKET_SETTINGS"])
    kind(stores.open_store(parameters), wanted).apply()
    for name in wanted.get("extra") or ():
        store = stores.open_store({**parameters, "bucket": name})
        kind(store, {"create": True, "location": wanted.get("location")}).create()


if __name__ == "__main__":
    try:
        apply()
    except Exception as problem:
        sys.exit(f"bucket: {' '.join(str(problem).split())}")
