# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the rules of several roles are made of."""

from __future__ import annotations

import re
from typing import Callable, Iterator, Mapping

PUBLISH = re.compile(r"^([0-9]{1,3}(?:\.[0-9]{1,3}){3}|localhost):([0-9]{1,5})$")

Variables = Mapping[str, object]
Rule = Callable[[Variables], Iterator[str]]


def authorities(variable: str, v: Variables) -> Iterator[str]:
    """What the text of a variable that gives authorities' certificates must be."""
    if v[variable] and "BEGIN CERTIFICATE" not in str(v[variable]):
        yield f"{variable} holds no certificate; give PEM text, for example by lookup('ansible.builtin.file', 'ca.pem')."


def external_secret(variable: str, keys: Mapping, needed: set[str], v: Variables) -> Iterator[str]:
    """What a mapping for the External Secrets Operator must have."""
    store = v["mlflow_secret_store"]
    if not (store.get("name") or store.get("provider")):
        yield f"{variable} is set while mlflow_secret_store is empty; say there which store holds the values."
    elif store.get("provider") and (store.get("name") or store.get("kind") == "ClusterSecretStore"):
        yield "mlflow_secret_store has a provider, of which a SecretStore is made, and the name or kind of one that exists; keep one of them."
    if v["mlflow_engine"] == "podman":
        yield f"{variable} is set while mlflow_engine is podman, where no operator runs; use Ansible Vault there."
    if needed - set(keys):
        yield f"{variable} has no {' and no '.join(sorted(needed - set(keys)))}; say there where each value is, by key and property."
    for key, remote in keys.items():
        if not isinstance(remote, dict) or "key" not in remote:
            yield f"{variable}.{key} has no key; it must be an ExternalSecret's remoteRef, such as {{key: mlops/mlflow, property: {key}}}."
