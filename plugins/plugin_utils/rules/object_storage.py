# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rules about the artifact store."""

from __future__ import annotations

import json
import re
from typing import Iterator

from ansible_collections.mlops.mlflow.plugins.plugin_utils.rules.terms import Rule, Variables, external_secret

BUCKET = re.compile(r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")


def object_storage(v: Variables) -> Iterator[str]:
    kind, bucket, url = v["object_storage_type"], str(v["object_storage_bucket"] or ""), str(v["object_storage_url"] or "")
    on_volume = kind in ("volume", "ephemeral")
    if not on_volume and not bucket:
        yield f"object_storage_bucket is empty while object_storage_type is {kind}; name the bucket."
    elif not on_volume and not BUCKET.match(bucket):
        yield (f"object_storage_bucket is {bucket!r}; a bucket's name has 3 to 63 lower-case letters, digits, '.' and '-', "
               f"without s3:// and without a path (that is object_storage_prefix).")
    if kind != "s3" and url:
        yield f"object_storage_url is set while object_storage_type is {kind}; set object_storage_type to s3 or leave it empty."
    if not re.match(r"^[^/:?#\s]*(/[^/:?#\s]+)*/?$", str(v["object_storage_prefix"] or "")):
        yield f"object_storage_prefix is {v['object_storage_prefix']!r}; it must be a path in the bucket, such as team/mlflow."
    if url and not re.match(r"^https?://[^/]+/?$", url):
        yield f"object_storage_url is {url!r}; it must be the endpoint alone, such as https://s3.example.com."
    for variable in ("create", "versioning", "expire_days", "expire_noncurrent_days", "abort_multipart_days", "encryption", "kms_key"):
        value = v[f"object_storage_bucket_{variable}"]
        if on_volume and (value or value is False and variable == "versioning"):
            yield f"object_storage_bucket_{variable} is set while object_storage_type is {kind}, which has no bucket; leave it out."
        elif variable.endswith("_days") and value is not None and int(value) < 0:
            yield f"object_storage_bucket_{variable} is {value}; it must be a number of days, or 0 for no such rule."
        elif value is not None and value != "" and kind == "azure" and variable != "create":
            yield (f"object_storage_bucket_{variable} is set while object_storage_type is azure, which keeps it as a setting of the storage account; "
                   f"set it there, and leave it out here.")
    if kind == "gcs" and v["object_storage_bucket_encryption"] == "aws:kms":
        yield ("object_storage_bucket_encryption is aws:kms while object_storage_type is gcs; leave it out, and name a key of Cloud KMS in "
               "object_storage_bucket_kms_key.")
    if v["object_storage_bucket_kms_key"] and v["object_storage_bucket_encryption"] == "AES256":
        yield "object_storage_bucket_kms_key is set while object_storage_bucket_encryption is AES256, which has no key; set that to aws:kms."
    if bool(v["object_storage_access_key"]) != bool(v["object_storage_secret_key"]):
        missing = "object_storage_secret_key" if v["object_storage_access_key"] else "object_storage_access_key"
        yield f"{missing} is empty while its counterpart is set; the two go together."
    keys = [name for name in ("object_storage_access_key", "object_storage_gcs_credentials", "object_storage_azure_access_key",
                              "object_storage_azure_connection_string", "object_storage_existing_secret", "object_storage_external_secret",
                              "object_storage_iam_role_arn", "object_storage_gcp_service_account", "object_storage_azure_client_id") if v[name]]
    readers = {"object_storage_access_key": ("s3", "seaweedfs", "minio"), "object_storage_gcs_credentials": ("gcs",),
               "object_storage_azure_access_key": ("azure",), "object_storage_azure_connection_string": ("azure",),
               "object_storage_existing_secret": ("s3", "gcs", "azure"), "object_storage_external_secret": ("s3", "gcs", "azure"),
               "object_storage_iam_role_arn": ("s3",), "object_storage_azure_client_id": ("azure",),
               "object_storage_azure_account": ("azure",), "object_storage_existing_claim": ("volume",), "object_storage_ca": ("s3",)}
    for variable, kinds in readers.items():
        if v[variable] and kind not in kinds:
            yield (f"{variable} is set while object_storage_type is {kind}; only {', '.join(kinds)} {'reads' if len(kinds) == 1 else 'read'} it, "
                   f"so leave it empty or change object_storage_type.")
    if kind in ("s3", "gcs", "azure"):
        relevant = [name for name in keys if name != "object_storage_gcp_service_account" or kind == "gcs"]
        if len(relevant) > 1:
            yield f"{relevant[0]} and {relevant[1]} are both set; keep one of them."
    if kind == "azure" and not v["object_storage_azure_account"]:
        yield "object_storage_azure_account is empty while object_storage_type is azure; name the storage account."
    elif kind == "azure" and not re.match(r"^[a-z0-9]{1,24}$", str(v["object_storage_azure_account"])):
        yield (f"object_storage_azure_account is {v['object_storage_azure_account']!r}; it must be the account's bare name, of lower-case "
               f"letters and digits.")
    parts = {"s3": ("access_key", "secret_key"), "gcs": ("credentials",), "azure": ("access_key", "connection_string")}.get(kind, ())
    for part in sorted({part for part, key in v["object_storage_existing_secret_keys"].items() if key} - set(parts)):
        yield (f"object_storage_existing_secret_keys holds {part} while object_storage_type is {kind}"
               f"{', which has ' + ' and '.join(parts) if parts else ''}; leave it out.")
    for variable in ("object_storage_iam_role_arn", "object_storage_gcp_service_account", "mlflow_server_service_account_annotations"):
        if v[variable] and v["mlflow_server_service_account"]:
            yield (f"{variable} is set while mlflow_server_service_account names a ServiceAccount that exists, which is left as it is; annotate it "
                   f"there, and leave {variable} empty.")
    if v["object_storage_gcs_credentials"] and not _service_account(v["object_storage_gcs_credentials"]):
        yield "object_storage_gcs_credentials is no service account's key; give the JSON text, for example by lookup('ansible.builtin.file', 'key.json')."
    if v["object_storage_iam_role_arn"] and not re.match(r"^arn:aws[a-z-]*:iam::\d{12}:role/.+", str(v["object_storage_iam_role_arn"])):
        yield (f"object_storage_iam_role_arn is {v['object_storage_iam_role_arn']!r}; it must be a role's ARN, such as "
               f"arn:aws:iam::111122223333:role/mlflow.")
    if v["object_storage_gcp_service_account"] and "@" not in str(v["object_storage_gcp_service_account"]):
        yield (f"object_storage_gcp_service_account is {v['object_storage_gcp_service_account']!r}; it must be the account's e-mail address, such as "
               f"mlflow@project.iam.gserviceaccount.com.")
    if v["object_storage_external_secret"]:
        needed = {"s3": {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}, "gcs": {"credentials.json"}}.get(kind, set())
        yield from external_secret("object_storage_external_secret", v["object_storage_external_secret"], needed, v)
    several = int(v["mlflow_server_replicas"]) > 1 or v["mlflow_server_autoscaling"]
    if kind == "ephemeral" and several:
        yield ("object_storage_type is ephemeral while there are several pods, each of which would have artifacts of its own; choose a store "
               "that all reach, or one pod.")
    if kind == "volume" and several and v["object_storage_access_mode"] != "ReadWriteMany":
        number = "mlflow_server_autoscaling" if v["mlflow_server_autoscaling"] else "mlflow_server_replicas"
        yield (f"{number} is {v[number]} while the artifacts are on a volume that is {v['object_storage_access_mode']}; set "
               f"object_storage_access_mode to ReadWriteMany, or {number} to {'false' if v['mlflow_server_autoscaling'] else 1}.")
    if kind == "volume" and v["mlflow_server_gc_schedule"] and v["object_storage_access_mode"] == "ReadWriteOncePod":
        yield ("object_storage_access_mode is ReadWriteOncePod while mlflow_server_gc_schedule is set, whose pod mounts the volume beside the "
               "server's; set it to ReadWriteOnce.")
    if on_volume and v["mlflow_server_artifacts"] != "proxied":
        yield (f"mlflow_server_artifacts is {v['mlflow_server_artifacts']} while object_storage_type is {kind}, which clients cannot reach; "
               f"set it to proxied, or choose an S3 store.")


def _service_account(text: object) -> bool:
    try:
        return json.loads(str(text)).get("type") in ("service_account", "external_account")
    except (ValueError, AttributeError):
        return False


RULES: tuple[Rule, ...] = (object_storage,)
