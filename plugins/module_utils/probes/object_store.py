# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The probe of an artifact store.

Of the collection it imports only what plugin_utils/program.py can bring into a pod.
"""

from __future__ import annotations

import os
import time
import uuid

from ansible_collections.mlops.mlflow.plugins.module_utils import stores
from ansible_collections.mlops.mlflow.plugins.module_utils.checks import retry

BEGINNING = ".mlops-mlflow-probe-"


def probe(checks, parameters):
    """Look for the bucket or folder, write, list, read back, compare, delete; measure throughput.

    Args:
        checks: collects the results.
        parameters: type (s3, gcs, azure or volume), bucket, prefix, url, region, access_key, secret_key,
            service_account_file, service_account_contents, account_key, connection_string, ca_file, path, size_mb (of
            the object, in MiB), size_bytes (instead of size_mb), name (of the object, after ``BEGINNING``; one of its
            own for each run if not given), environment (take the store from the server's own environment).
    """
    if parameters.get("environment"):
        parameters = {**parameters, **stores.from_uri(os.environ["MLFLOW_ARTIFACTS_DESTINATION"])}
    store = stores.open_store(parameters)
    name = BEGINNING + (parameters.get("name") or uuid.uuid4().hex)
    payload = os.urandom(parameters.get("size_bytes") or 0) or os.urandom(2**20) * int(parameters.get("size_mb") or 4)
    checks.facts.update(upload_mb_s=None, download_mb_s=None)

    def exists():
        try:
            return retry(store.look, stores.unreachable)
        except ImportError as error:
            raise RuntimeError(f"Python's {store.library} is missing where the store is probed: {error}") from error

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
        if name not in store.names(BEGINNING):
            raise RuntimeError("the object that was written is not listed")

    def delete():
        store.delete(name)
        if name in store.names(BEGINNING):
            raise RuntimeError("the object that was deleted is still listed")

    checks.run("exists", exists)
    checks.run("write", write, needs=("exists",))
    for check, function in (("read", read), ("list", listing), ("delete", delete)):
        checks.run(check, function, needs=("exists", "write"))
