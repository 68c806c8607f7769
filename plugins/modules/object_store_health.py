#!/usr/bin/python
# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: object_store_health
short_description: Measure the health of an artifact store
version_added: 0.1.0
author: mlops.mlflow contributors (@mlops)
description:
  - Looks for the bucket, container or folder, writes an object, reads it back and compares, lists it, deletes it, and
    measures throughput.
  - Measures and returns; it fails only when it cannot measure at all.
requirements:
  - boto3 for V(s3), on the host or in the pod that connects
  - google-cloud-storage for V(gcs), there too
  - azure-storage-blob for V(azure), and azure-identity where neither O(account_key) nor O(connection_string) is given,
    there too
options:
  type:
    description:
      - Kind of store. Required unless O(inside).
      - V(gcs) is Google Cloud Storage; the environment variable E(STORAGE_EMULATOR_HOST) leads to an emulator instead.
      - V(azure) is Azure Blob Storage.
    type: str
    choices: [s3, gcs, azure, volume]
  inside:
    description:
      - Ask from inside a pod of O(service), the MLflow server's, with that pod's own address and keys of the store.
    type: bool
    default: false
  url:
    description:
      - URL of the S3 endpoint, with V(s3). Empty means AWS.
      - URL of the account, such as V(https://account.blob.core.windows.net), with V(azure) unless O(connection_string)
        is given.
    type: str
  port:
    description: Port of O(service) on which S3 answers, with another O(engine) than V(none).
    type: int
    default: 8333
  region:
    description: Region of the bucket.
    type: str
    default: us-east-1
  bucket:
    description: Name of the bucket, with V(s3) and V(gcs), or of the container, with V(azure).
    type: str
  prefix:
    description: Path in the bucket below which the object is written.
    type: str
  access_key:
    description: Access key. Left out, boto3 looks for credentials by itself.
    type: str
  secret_key:
    description: Secret key that belongs to it.
    type: str
  service_account_file:
    description:
      - Path of a Google service account's key in JSON, with V(gcs), where the module runs.
      - Left out together with O(service_account_contents), Google's library looks for credentials by itself, such as
        E(GOOGLE_APPLICATION_CREDENTIALS) or Workload Identity.
    type: path
  service_account_contents:
    description: The JSON itself, instead of its path.
    type: jsonarg
  account_key:
    description:
      - Key of the storage account, with V(azure).
      - Left out together with O(connection_string), Azure's library looks for credentials by itself
        (C(DefaultAzureCredential)).
    type: str
  connection_string:
    description:
      - Connection string of the storage account, with V(azure), instead of O(url) and O(account_key). It can name an
        emulator.
    type: str
  secret:
    description: Name of a Secret that holds the credentials, instead of options. Needs another O(engine) than V(none).
    type: str
  secret_keys:
    description:
      - Under which keys of O(secret) the values of options stand; C(access_key) and C(secret_key) with V(s3),
        C(service_account_contents) with V(gcs), C(account_key) or C(connection_string) with V(azure).
    type: dict
    default: {access_key: AWS_ACCESS_KEY_ID, secret_key: AWS_SECRET_ACCESS_KEY}
  ca_file:
    description: Path of the CA certificates to trust, with V(s3) and V(azure).
    type: path
  path:
    description: Path of the folder, with V(volume).
    type: path
  size_mb:
    description: Size of the object that is written, in MiB.
    type: int
    default: 4
extends_documentation_fragment:
  - mlops.mlflow.engine
  - mlops.mlflow.health
"""

EXAMPLES = r"""
- name: A bucket that the inventory host can connect to
  mlops.mlflow.object_store_health:
    type: s3
    url: https://s3.example.com
    bucket: mlflow
    access_key: "{{ vaulted_access_key }}"
    secret_key: "{{ vaulted_secret_key }}"

- name: A bucket at Google, with the credentials of this machine's environment
  mlops.mlflow.object_store_health:
    type: gcs
    bucket: mlflow

- name: A container at Azure
  mlops.mlflow.object_store_health:
    type: azure
    url: https://account.blob.core.windows.net
    bucket: mlflow
    account_key: "{{ vaulted_account_key }}"

- name: The store of an instance, as its server sees it
  mlops.mlflow.object_store_health:
    inside: true
    engine: podman
    namespace: mlflow
    service: mlflow-server
"""

RETURN = r"""
healthy:
  description: Whether every check is ok. The module does not fail when it is V(false); that is for the play to decide.
  type: bool
  returned: always
checks:
  description: The checks, in order. One that could not run is not ok.
  type: list
  elements: dict
  returned: always
  contains:
    name:
      description: What was checked.
      type: str
    ok:
      description: Whether it is as it should be.
      type: bool
    duration_ms:
      description: How long the check took, in milliseconds.
      type: float
    detail:
      description: What was found, or what is wrong.
      type: str
failures:
  description: The checks that failed, each as name and detail; those that could not run for that are left out.
  type: list
  elements: str
  returned: always
latency_ms:
  description: For each step that was timed, C(p50) and C(p95) in milliseconds, and the number of C(samples).
  type: dict
  returned: always
upload_mb_s:
  description: Throughput of writing, in MB per second.
  type: float
  returned: when written
download_mb_s:
  description: Throughput of reading, in MB per second.
  type: float
  returned: when read
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mlops.mlflow.plugins.module_utils import checks
from ansible_collections.mlops.mlflow.plugins.module_utils.options import ENGINE, need_no_engine
from ansible_collections.mlops.mlflow.plugins.module_utils.probes import object_store

SPEC = {
    "argument_spec": {
        **ENGINE,
        "type": {"type": "str", "choices": ["s3", "gcs", "azure", "volume"]},
        "inside": {"type": "bool", "default": False},
        "url": {"type": "str"}, "port": {"type": "int", "default": 8333},
        "region": {"type": "str", "default": "us-east-1"},
        "bucket": {"type": "str"}, "prefix": {"type": "str"},
        "access_key": {"type": "str", "no_log": True}, "secret_key": {"type": "str", "no_log": True},
        "service_account_file": {"type": "path"}, "service_account_contents": {"type": "jsonarg", "no_log": True},
        "account_key": {"type": "str", "no_log": True}, "connection_string": {"type": "str", "no_log": True},
        "secret": {"type": "str", "no_log": False},
        "secret_keys": {"type": "dict", "no_log": False,
                        "default": {"access_key": "AWS_ACCESS_KEY_ID", "secret_key": "AWS_SECRET_ACCESS_KEY"}},
        "ca_file": {"type": "path"}, "path": {"type": "path"}, "size_mb": {"type": "int", "default": 4},
    },
    "required_if": [("inside", False, ("type",)), ("type", "s3", ("bucket",)), ("type", "gcs", ("bucket",)),
                    ("type", "azure", ("bucket",)), ("type", "azure", ("url", "connection_string", "secret"), True),
                    ("type", "volume", ("path",))],
    "mutually_exclusive": [("service_account_file", "service_account_contents"), ("account_key", "connection_string")],
}


def main():
    module = AnsibleModule(**SPEC, supports_check_mode=True)
    need_no_engine(module, ("secret",))
    if module.params["inside"]:
        module.fail_json(msg="engine is none while inside is true; name the engine whose pod runs the checks.")
    module.exit_json(changed=False, **checks.measure(object_store, module.params))


if __name__ == "__main__":
    main()
