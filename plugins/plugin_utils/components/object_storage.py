# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The artifact store: SeaweedFS or MinIO that the collection runs, a bucket at a provider, or a volume of the server's
pod."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Iterator
from urllib.parse import urlsplit

from ansible_collections.mlops.mlflow.plugins.plugin_utils.components.base import Component, Network
from ansible_collections.mlops.mlflow.plugins.plugin_utils.components.images import built
from ansible_collections.mlops.mlflow.plugins.plugin_utils.model import common
from ansible_collections.mlops.mlflow.plugins.plugin_utils.program import Probe

if TYPE_CHECKING:
    from ansible_collections.mlops.mlflow.plugins.plugin_utils.model import Model
    from ansible_collections.mlops.mlflow.plugins.plugin_utils.model.variables import Variables

IMAGES = {
    "seaweedfs": "docker.io/chrislusf/seaweedfs:4.48",
    "minio": "quay.io/minio/minio:RELEASE.2025-09-07T16-13-09Z",
}
"""The official images, by type. MinIO's project was archived in 2026; its last image stays where it was mirrored."""
PROTOCOLS = {"seaweedfs": "s3", "minio": "s3", "ephemeral": "volume"}
"""The protocol that the server speaks to it, where it is not called as the type is."""
MOUNT_PATH = "/mlflow/artifacts"
SECRET_KEYS = {
    "s3": {"access_key": "AWS_ACCESS_KEY_ID", "secret_key": "AWS_SECRET_ACCESS_KEY"},
    "gcs": {"credentials": "credentials.json"},
    "azure": {"access_key": "AZURE_STORAGE_ACCESS_KEY", "connection_string": "AZURE_STORAGE_CONNECTION_STRING"},
    "volume": {},
    "uri": {},
}
"""What a Secret may hold for each protocol, under the name that the store's client reads."""
BUCKET_SETTINGS = ("create", "versioning", "expire_days", "expire_noncurrent_days", "abort_multipart_days",
                   "encryption", "kms_key")
TYPES_OF_SCHEMES = {"s3": "s3", "gs": "gcs", "wasbs": "azure", "file": "volume"}
"""Types of stores by the schemes of their URIs."""
READERS = {
    "object_storage_access_key": ("s3", "seaweedfs", "minio"), "object_storage_gcs_credentials": ("gcs",),
    "object_storage_azure_access_key": ("azure",), "object_storage_azure_connection_string": ("azure",),
    "object_storage_existing_secret": ("s3", "gcs", "azure"), "object_storage_external_secret": ("s3", "gcs", "azure"),
    "object_storage_iam_role_arn": ("s3",), "object_storage_azure_client_id": ("azure",),
    "object_storage_azure_account": ("azure",),
    "object_storage_existing_claim": ("volume", "seaweedfs", "minio"), "object_storage_ca": ("s3",),
    "object_storage_upload_args": ("s3", "seaweedfs", "minio"), "object_storage_uri": ("uri",),
    "object_storage_users": ("seaweedfs",),
}
"""The types of store that read a variable."""
CREDENTIALS = ("object_storage_access_key", "object_storage_gcs_credentials", "object_storage_azure_access_key",
               "object_storage_azure_connection_string", "object_storage_existing_secret",
               "object_storage_external_secret",
               "object_storage_iam_role_arn", "object_storage_gcp_service_account", "object_storage_azure_client_id")
"""Variables of which one names the credentials."""


@dataclass(frozen=True)
class Endpoint:
    """Where artifacts are, and what a pod needs to reach them; ``mlflow_server_artifact_store`` may give another.

    Attributes:
        type: protocol: s3, gcs, azure or volume; uri for one that only MLflow knows.
        uri: artifacts destination for MLflow.
        bucket: bucket or container, empty for a volume.
        url: S3 endpoint, empty for AWS.
        service: Service in front of a store that the collection runs, or empty.
        secret: Secret with the credentials; empty where the pod's identity gives them.
        secret_keys: keys of the Secret, by what they hold.
        claim: PersistentVolumeClaim with the artifacts, or empty.
        ephemeral: size of an emptyDir with the artifacts, or empty.
        bucket_settings: what the bucket is to be brought to; empty where nothing is asked.
        shared: whether pods on several nodes may mount the claim at once.
        ca: ConfigMap with the CA's certificates, or empty.
        validate_certs: whether the certificate of an S3 endpoint is verified.
        upload_args: extra arguments of S3 uploads.
        identity: annotations of the ServiceAccount and labels of the pods by which a cloud knows them.
    """

    type: str
    uri: str = MOUNT_PATH
    bucket: str = ""
    url: str = ""
    region: str = ""
    service: str = ""
    port: int = 0
    secret: str = ""
    secret_keys: dict = field(default_factory=dict)
    claim: str = ""
    ephemeral: str = ""
    mount_path: str = MOUNT_PATH
    bucket_settings: dict = field(default_factory=dict)
    shared: bool = False
    ca: str = ""
    validate_certs: bool = True
    upload_args: dict = field(default_factory=dict)
    identity: dict = field(default_factory=lambda: {"annotations": {}, "labels": {}})


@dataclass(frozen=True)
class ObjectStoragePart:
    """What the component's templates read.

    Attributes:
        name: of the Service and the StatefulSet.
        managed: whether the collection runs the store.
        volume: claim of its data; each type has its own, so that changing the type and back finds the data.
        own_volume: whether the component makes the claim.
        secret: Secret with the credentials, likewise by type.
        given: values for the Secret that variables give.
        own_secret: whether the component makes the Secret.
    """

    name: str
    managed: bool
    port: int
    volume: str
    own_volume: bool
    secret: str
    secret_keys: dict
    given: dict
    own_secret: bool
    image: str
    endpoint: Endpoint


class ObjectStorage(Component):
    name = "object-storage"
    role = "object_storage"
    title = "The artifact store"
    multiline = ("object_storage_ca", "object_storage_gcs_credentials")
    secrets = ("object_storage_access_key", "object_storage_secret_key", "object_storage_gcs_credentials",
               "object_storage_azure_access_key", "object_storage_azure_connection_string")

    def resolve(self, v: Variables, model: Model) -> ObjectStoragePart:
        kind, name = v.object_storage_type, f"{model.instance.name}-object-storage"
        protocol, managed = PROTOCOLS.get(kind, kind), kind in IMAGES
        port = 9000 if kind == "minio" else 8333
        secret = v.object_storage_existing_secret or f"{name}-{kind}"
        secret_keys = _secret_keys(v, protocol)
        values = {"AWS_ACCESS_KEY_ID": v.object_storage_access_key,
                  "AWS_SECRET_ACCESS_KEY": v.object_storage_secret_key,
                  "credentials.json": v.object_storage_gcs_credentials,
                  "AZURE_STORAGE_ACCESS_KEY": v.object_storage_azure_access_key,
                  "AZURE_STORAGE_CONNECTION_STRING": v.object_storage_azure_connection_string}
        given = {key: value for key, value in values.items() if value and key in secret_keys.values()}
        # An external store without any of them uses the pod's identity: an instance profile, IRSA, a workload identity.
        has_secret = (
            managed
            or protocol not in ("volume", "uri")
            and bool(v.object_storage_existing_secret or v.object_storage_external_secret or given)
        )
        volume = v.object_storage_existing_claim or f"{name}-{kind}"
        endpoint = Endpoint(
            type=protocol, uri=_uri(v, protocol),
            bucket="" if protocol in ("volume", "uri") else v.object_storage_bucket,
            url=f"http://{name}:{port}" if managed else v.object_storage_url, region=v.object_storage_region,
            service=name if managed else "", port=port, secret=secret if has_secret else "", secret_keys=secret_keys,
            claim=volume if kind == "volume" else "", ephemeral=v.object_storage_size if kind == "ephemeral" else "",
            bucket_settings=_bucket_settings(v), shared=v.object_storage_access_mode == "ReadWriteMany",
            ca=f"{name}-ca" if v.object_storage_ca else "", validate_certs=v.object_storage_validate_certs,
            upload_args=v.object_storage_upload_args,
            identity=_identity(v))
        image = v.object_storage_image
        if image is None:
            image = built(v)[kind] if model.instance.build and kind in built(v) else IMAGES.get(kind, "")
        own_volume = v.object_storage_persistence and not v.object_storage_existing_claim
        return ObjectStoragePart(name, managed, port, volume, own_volume, secret, secret_keys, given,
                                 has_secret and not v.object_storage_existing_secret, image, endpoint)

    def templates(self, v: Variables, model: Model) -> list[str]:
        more = (
            ["server.yaml.j2"]
            if model.object_storage.managed
            else ["volume.yaml.j2"] if v.object_storage_type == "volume" else []
        )
        return ["credentials.yaml.j2", *more]

    def images(self, v: Variables, model: Model) -> list[str]:
        return [v.object_storage_type] if model.object_storage.managed else []

    def network(self, v: Variables, model: Model) -> Network | None:
        """Only the S3 port, which asks for keys, is reached from other pods; SeaweedFS' parts trust each other without
        a password."""
        if not model.object_storage.managed:
            return None
        rule: dict = {"ports": [{"port": model.object_storage.port, "protocol": "TCP"}]}
        if v.mlflow_network_policy and v.mlflow_server_artifacts == "proxied":
            rule["from"] = [{"podSelector": {"matchLabels": model.instance.labels}}]
        return Network(ingress=[rule], egress_closed=v.mlflow_network_policy, always=True)

    def probes(self, v: Variables, model: Model) -> list[Probe]:
        if model.mlflow_server.artifact_store.type == "uri":
            return []  # the round trip uses it
        return [Probe(self.role, self.title, "object_store", {"environment": True})]

    def warnings(self, v: Variables, model: Model) -> Iterator[str]:
        if not v.object_storage_validate_certs:
            yield ("object_storage_validate_certs is false, so whoever is between the server and its artifact store "
                   "can read its keys and change artifacts; prefer the certificates of its CA in object_storage_ca.")
        if not v.object_storage_persistence:
            yield "object_storage_persistence is false: all artifacts are lost when the pod of the store ends."

    def unsupported(self, v: Variables, model: Model) -> Iterator[str]:
        if v.mlflow_engine != "podman":
            return
        for variable in ("object_storage_iam_role_arn", "object_storage_gcp_service_account",
                         "object_storage_azure_client_id"):
            if v[variable]:
                yield (f"{variable} is set while mlflow_engine is podman, where pods have no identity that a cloud "
                       "knows; give keys instead, "
                       f"or leave it empty.")
        if v.object_storage_external_secret:
            yield ("object_storage_external_secret is set while mlflow_engine is podman, where no operator runs; use "
                   "Ansible Vault there.")

    def _check_location(self, v: Variables, model: Model) -> Iterator[str]:
        kind, bucket, url = v.object_storage_type, v.object_storage_bucket, v.object_storage_url
        if kind not in ("volume", "ephemeral", "uri"):
            if not bucket:
                yield f"object_storage_bucket is empty while object_storage_type is {kind}; name the bucket."
            elif not _bucket_name(bucket, kind):
                yield (f"object_storage_bucket is {common.hidden(bucket)}; a bucket's name has 3 to 63 lower-case "
                       "letters, digits, '.' and '-', without "
                       f"s3:// and without a path (that is object_storage_prefix).")
        if kind != "s3" and url:
            yield (f"object_storage_url is set while object_storage_type is {kind}; set object_storage_type to s3 or "
                   "leave it empty.")
        prefix = v.object_storage_prefix
        if not common.matches(r"[^/:?#\s\\]*(/[^/:?#\s\\]+)*/?", prefix) or {".", ".."} & set(prefix.split("/")):
            yield (f"object_storage_prefix is {common.hidden(prefix)}; it must be a path in the bucket, such as "
                   "team/mlflow.")
        if url and not common.url(url, path=False):
            yield (f"object_storage_url is {common.hidden(url)}; it must be the endpoint alone, such as "
                   "https://s3.example.com.")
        elif url:
            yield from common.not_loopback("object_storage_url", urlsplit(url).hostname or "", v)
        if not common.matches(r"[A-Za-z0-9-]{1,63}", v.object_storage_region):
            yield (f"object_storage_region is {v.object_storage_region!r}; it must be a region's name, such as "
                   "eu-central-1.")
        yield from common.certificate("object_storage_ca", v.object_storage_ca)
        if kind == "azure" and not v.object_storage_azure_account:
            yield "object_storage_azure_account is empty while object_storage_type is azure; name the storage account."
        elif kind == "azure" and not common.matches(r"[a-z0-9]{1,24}", v.object_storage_azure_account):
            yield (f"object_storage_azure_account is {v.object_storage_azure_account!r}; it must be the account's "
                   "bare name, of lower-case "
                   f"letters and digits.")

    def _check_uri(self, v: Variables, model: Model) -> Iterator[str]:
        if v.object_storage_type != "uri":
            return
        uri, scheme = v.object_storage_uri, v.object_storage_uri.partition(":")[0]
        if not common.matches(r"[a-z][a-z0-9+.-]*:/*[^\s?#/][^\s?#]*", uri):
            yield (f"object_storage_uri is {common.hidden(uri)} while object_storage_type is uri; it must be a URI "
                   "that MLflow takes, such as abfss://container@account.dfs.core.windows.net/mlflow.")
        elif scheme in TYPES_OF_SCHEMES:
            yield (f"object_storage_uri begins with {scheme}: while object_storage_type is uri; set "
                   f"object_storage_type to {TYPES_OF_SCHEMES[scheme]}, which has variables for such a store.")
        elif common.matches(r"[^:]*://[^/@]*:[^/@]*@.*", uri):
            yield ("object_storage_uri holds a password; give it in mlflow_server_extra_env, as MLflow's documentation "
                   "of such a store says.")

    def _check_certificates(self, v: Variables, model: Model) -> Iterator[str]:
        if v.object_storage_validate_certs:
            return
        if v.object_storage_type != "s3":
            yield (f"object_storage_validate_certs is false while object_storage_type is {v.object_storage_type}; only "
                   "of s3 the verification can be switched off, so leave it out.")
        elif v.object_storage_ca:
            yield ("object_storage_validate_certs is false while object_storage_ca gives certificates to verify with; "
                   "keep one of them.")

    def _check_extra_buckets(self, v: Variables, model: Model) -> Iterator[str]:
        kind = v.object_storage_type
        if v.object_storage_extra_buckets and model.object_storage.endpoint.type not in ("s3", "gcs", "azure"):
            yield f"object_storage_extra_buckets is set while object_storage_type is {kind}, which has no buckets."
            return
        for name in v.object_storage_extra_buckets:
            if not _bucket_name(name, kind):
                yield (f"object_storage_extra_buckets holds {common.hidden(name)}; a bucket's name has 3 to 63 "
                       "lower-case letters, digits, '.' and '-'.")
            elif name == v.object_storage_bucket:
                yield f"object_storage_extra_buckets holds {name}, which is object_storage_bucket; remove it."

    def _check_users(self, v: Variables, model: Model) -> Iterator[str]:
        buckets = [v.object_storage_bucket, *v.object_storage_extra_buckets]
        names = [user["name"] for user in v.object_storage_users]
        for number, user in enumerate(v.object_storage_users):
            where, name = f"object_storage_users[{number}]", user["name"]
            if not common.matches(common.DNS_LABEL, name) or len(name) > 30:
                yield (f"{where}.name is {name!r}; it must be at most 30 lower-case letters, digits and '-', such as "
                       "reader.")
            elif names.index(name) < number:
                yield f"{where}.name is {name}, which is the name of another user; choose another."
            for bucket in user["buckets"]:
                if bucket not in buckets:
                    yield (f"{where}.buckets holds {common.hidden(bucket)}, which is no bucket of the store; add it to "
                           f"object_storage_extra_buckets, or name one of {', '.join(buckets)}.")

    def _check_bucket_settings(self, v: Variables, model: Model) -> Iterator[str]:
        kind = v.object_storage_type
        for setting in BUCKET_SETTINGS:
            variable, value = f"object_storage_bucket_{setting}", v[f"object_storage_bucket_{setting}"]
            if kind in ("volume", "ephemeral", "uri") and (value or value is False and setting == "versioning"):
                yield f"{variable} is set while object_storage_type is {kind}, which has no bucket; leave it out."
            elif setting.endswith("_days") and value is not None and not 0 <= value <= 36500:
                yield f"{variable} is {value}; it must be a number of days up to 36500, or 0 for no such rule."
            elif kind == "azure" and setting != "create" and value not in (None, ""):
                yield (f"{variable} is set while object_storage_type is azure, which keeps it as a setting of the "
                       "storage account; set it "
                       f"there, and leave it out here.")
        encryption, key = v.object_storage_bucket_encryption, v.object_storage_bucket_kms_key
        if kind == "gcs" and encryption == "aws:kms":
            yield ("object_storage_bucket_encryption is aws:kms while object_storage_type is gcs; leave it out, and "
                   "name a key of Cloud KMS "
                   "in object_storage_bucket_kms_key.")
        if key and encryption == "AES256":
            yield ("object_storage_bucket_kms_key is set while object_storage_bucket_encryption is AES256, which has "
                   "no key; set that to aws:kms.")

    def _check_credentials(self, v: Variables, model: Model) -> Iterator[str]:
        kind = v.object_storage_type
        if bool(v.object_storage_access_key) != bool(v.object_storage_secret_key):
            given, missing = "object_storage_access_key", "object_storage_secret_key"
            if v.object_storage_secret_key:
                given, missing = missing, given
            yield f"{missing} is empty while {given} is set; the two go together."
        if kind == "minio" and v.object_storage_access_key and v.object_storage_secret_key and (
                len(v.object_storage_access_key) < 3 or len(v.object_storage_secret_key) < 8):
            yield ("object_storage_access_key or object_storage_secret_key is shorter than MinIO takes; they must have "
                   "at least 3 and 8 characters.")
        for variable, kinds in READERS.items():
            if v[variable] and kind not in kinds:
                yield (f"{variable} is set while object_storage_type is {kind}; only {', '.join(kinds)} "
                       f"{'reads' if len(kinds) == 1 else 'read'} it, so leave it empty or change object_storage_type.")
        if kind in ("s3", "gcs", "azure"):
            given = [
                name
                for name in CREDENTIALS
                if v[name] and (name != "object_storage_gcp_service_account" or kind == "gcs")
            ]
            if len(given) > 1:
                yield f"{given[0]} and {given[1]} are both set; keep one of them."
        for key, value in v.object_storage_upload_args.items():
            if not common.matches(r"[A-Z][A-Za-z0-9]+", key) or value is None:
                yield (f"object_storage_upload_args has the key {key!r}{' without a value' if value is None else ''}; "
                       "give arguments of boto3's "
                       f"upload_file, such as ServerSideEncryption: aws:kms.")
        parts = {"s3": ("access_key", "secret_key"), "gcs": ("credentials",),
                 "azure": ("access_key", "connection_string")}.get(kind, ())
        for part in sorted({part for part, key in v.object_storage_existing_secret_keys.items() if key} - set(parts)):
            yield (f"object_storage_existing_secret_keys holds {part} while object_storage_type is {kind}"
                   f"{', which has ' + ' and '.join(parts) if parts else ''}; leave it out.")
        if v.object_storage_gcs_credentials and not _service_account_key(v.object_storage_gcs_credentials):
            yield ("object_storage_gcs_credentials is no service account's key; give the JSON text, for example by "
                   "lookup('ansible.builtin.file', 'key.json').")
        if v.object_storage_external_secret:
            needed = {"s3": {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}, "gcs": {"credentials.json"}}.get(
                kind, set()
            )
            yield from common.external_secret("object_storage_external_secret", v.object_storage_external_secret,
                                              needed, v)

    def _check_identity(self, v: Variables, model: Model) -> Iterator[str]:
        for variable in ("object_storage_iam_role_arn", "object_storage_gcp_service_account",
                         "mlflow_server_service_account_annotations"):
            if v[variable] and v.mlflow_server_service_account and not v.mlflow_server_service_account_create:
                yield (f"{variable} is set while mlflow_server_service_account names a ServiceAccount that exists, "
                       "which is left as it is; "
                       f"annotate it there, and leave {variable} empty, or set mlflow_server_service_account_create.")
        role, account = v.object_storage_iam_role_arn, v.object_storage_gcp_service_account
        if role and not common.matches(r"arn:aws[a-z-]*:iam::[0-9]{12}:role/[A-Za-z0-9_+=,.@/-]+", role):
            yield (f"object_storage_iam_role_arn is {role!r}; it must be a role's ARN, such as "
                   "arn:aws:iam::111122223333:role/mlflow.")
        client = v.object_storage_azure_client_id
        if client and not common.matches(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", client):
            yield (f"object_storage_azure_client_id is {client!r}; it must be the identity's client ID, such as "
                   f"00000000-0000-0000-0000-000000000000.")
        if account and not common.matches(r"[a-z0-9.-]+@[a-z0-9.-]+", account):
            yield (f"object_storage_gcp_service_account is {account!r}; it must be the account's e-mail address, such "
                   "as "
                   f"mlflow@project.iam.gserviceaccount.com.")

    def _check_persistence(self, v: Variables, model: Model) -> Iterator[str]:
        if v.object_storage_persistence:
            return
        if not model.object_storage.managed:
            remedy = "set object_storage_type to ephemeral" if v.object_storage_type == "volume" else "leave it out"
            yield (f"object_storage_persistence is false while object_storage_type is {v.object_storage_type}, which "
                   f"is no server of the collection; {remedy}.")
        elif v.object_storage_existing_claim:
            yield ("object_storage_existing_claim is set while object_storage_persistence is false, so that nothing is "
                   "written to it; keep one of them.")

    def _check_volume(self, v: Variables, model: Model) -> Iterator[str]:
        kind, mode = v.object_storage_type, v.object_storage_access_mode
        several = v.mlflow_server_replicas > 1 or v.mlflow_server_autoscaling
        if kind == "ephemeral" and several:
            yield ("object_storage_type is ephemeral while there are several pods, each of which would have artifacts "
                   "of its own; choose a "
                   "store that all reach, or one pod.")
        if kind == "volume" and several and mode != "ReadWriteMany":
            number, one = ("mlflow_server_autoscaling",
                           "false") if v.mlflow_server_autoscaling else ("mlflow_server_replicas", "1")
            yield (f"{number} is {v[number]} while object_storage_type is volume and the volume {mode}; set "
                   "object_storage_access_mode to "
                   f"ReadWriteMany, or {number} to {one}.")
        if kind == "volume" and v.mlflow_server_gc_schedule and mode == "ReadWriteOncePod":
            yield ("object_storage_access_mode is ReadWriteOncePod while mlflow_server_gc_schedule is set, whose pod "
                   "mounts the volume beside "
                   "the server's; set it to ReadWriteOnce.")
        if kind in ("volume", "ephemeral") and v.mlflow_server_artifacts != "proxied":
            yield (f"mlflow_server_artifacts is {v.mlflow_server_artifacts} while object_storage_type is {kind}, "
                   "which clients cannot reach; "
                   f"set it to proxied, or choose an S3 store.")


def _secret_keys(v: Variables, protocol: str) -> dict[str, str]:
    keys = dict(SECRET_KEYS[protocol])
    if protocol == "azure":
        by_connection_string = (
            v.object_storage_azure_connection_string
            or "connection_string" in v.object_storage_existing_secret_keys
            or "AZURE_STORAGE_CONNECTION_STRING" in v.object_storage_external_secret
        )
        keys.pop("access_key" if by_connection_string else "connection_string")
    return {**keys, **(v.object_storage_existing_secret_keys if v.object_storage_existing_secret else {})}


def _uri(v: Variables, protocol: str) -> str:
    prefix = v.object_storage_prefix.strip("/")
    path = "/".join(filter(None, (v.object_storage_bucket, prefix)))
    if protocol == "volume":
        return f"{MOUNT_PATH}/{prefix}" if prefix and v.object_storage_existing_claim else MOUNT_PATH
    if protocol == "uri":
        return v.object_storage_uri
    if protocol == "azure":
        return (f"wasbs://{v.object_storage_bucket}@{v.object_storage_azure_account}.blob.core.windows.net"
                f"{'/' + prefix if prefix else ''}")
    return f"{'gs' if protocol == 'gcs' else 's3'}://{path}"


def _bucket_settings(v: Variables) -> dict:
    """What is asked of the bucket; the server's pod brings it there before it starts
    (roles/mlflow_server/files/bucket.py)."""
    create = v.object_storage_bucket_create
    settings = {"create": v.object_storage_type == "minio" if create is None else create}
    for setting in BUCKET_SETTINGS[1:]:
        value = v[f"object_storage_bucket_{setting}"]
        settings[setting] = None if value == "" else value
    if v.object_storage_extra_buckets:
        settings["extra"] = v.object_storage_extra_buckets
    asked = settings["create"] or any(value is not None for setting, value in settings.items() if setting != "create")
    return settings if asked and v.object_storage_type != "volume" else {}


def _identity(v: Variables) -> dict:
    annotations = {"eks.amazonaws.com/role-arn": v.object_storage_iam_role_arn,
                   "iam.gke.io/gcp-service-account": v.object_storage_gcp_service_account,
                   "azure.workload.identity/client-id": v.object_storage_azure_client_id}
    return {"annotations": {name: value for name, value in annotations.items() if value},
            "labels": {"azure.workload.identity/use": "true"} if v.object_storage_azure_client_id else {}}


def _bucket_name(name: str, kind: str) -> bool:
    """Whether a bucket may be called so.

    Sources: https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html,
    https://learn.microsoft.com/rest/api/storageservices/naming-and-referencing-containers--blobs--and-metadata
    """
    if kind == "azure":
        return bool(common.matches(r"(?=.{3,63}\Z)[a-z0-9]+(-[a-z0-9]+)*", name))
    whole = common.matches(
        r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]" if kind == "gcs" else r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", name
    )
    return bool(whole) and ".." not in name and not common.matches(r"[0-9]+(\.[0-9]+){3}", name)


def _service_account_key(text: str) -> bool:
    try:
        return json.loads(text).get("type") in ("service_account", "external_account")
    except (ValueError, AttributeError):
        return False
