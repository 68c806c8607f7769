# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Values that Secrets ask, by annotation, to have generated: passwords and CAs, made once and kept."""

from __future__ import annotations

import base64
import secrets
from typing import Iterator

from ansible_collections.mlops.mlflow.plugins.plugin_utils import certificates, manifests
from ansible_collections.mlops.mlflow.plugins.plugin_utils.manifests import Ref

LENGTH = 32
ALPHABET = "abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"
"""Letters and digits only: the value must survive URLs, shells and configuration files unquoted."""
FERNET = "fernet:"
"""As the first value of a key: a Fernet key is generated."""
CA_KEYS = ("ca.crt", "ca.key")


def keys(obj: dict) -> dict[str, str]:
    """The keys that a Secret asks to have generated, each with its first value, or "" for a password.

    The annotation lists keys by comma; ``key=value`` begins with that value instead of a password, ``key=fernet:``
    with a Fernet key.
    """
    entries = (entry.strip().partition("=") for entry in manifests.annotation(obj, manifests.GENERATE).split(","))
    return {key: first for key, _equals, first in entries if key}


def all_keys(obj: dict) -> list[str]:
    """The keys that a Secret has once it is filled, sorted."""
    pair = CA_KEYS if manifests.annotation(obj, manifests.GENERATE_CA) else ()
    return sorted({*(obj.get("data") or {}), *keys(obj), *pair})


def fill(obj: dict, live: dict | None) -> None:
    """Fill the keys that a Secret asks to have generated: what lives is kept, what is missing is made once.

    Args:
        obj: a desired object, changed in place.
        live: what there is of it.
    """
    wanted, ca_name = keys(obj), manifests.annotation(obj, manifests.GENERATE_CA)
    if obj["kind"] != "Secret" or not (wanted or ca_name):
        return
    before = (live or {}).get("data") or {}
    data = obj.get("data") or {}
    if ca_name:
        pair = {key: before.get(key) for key in CA_KEYS}
        data.update(pair if all(pair.values()) else certificates.certificate_authority(ca_name))
    for key, first in wanted.items():
        if key not in data:
            data[key] = before.get(key) or base64.b64encode(_first_value(first).encode()).decode()
    obj["data"] = data


def lost(wanted: dict[Ref, dict], live: dict[Ref, dict]) -> Iterator[str]:
    """A sentence for each generated value that a given one would replace although what was made with it keeps it."""
    once: set[str] = set()
    for obj in wanted.values():
        once.update(filter(None, manifests.annotation(obj, manifests.READ_ONCE).split(",")))
    for ref, obj in wanted.items():
        if ref.kind != "Secret" or ref.name not in once or ref not in live:
            continue
        before, after = live[ref].get("data") or {}, obj.get("data") or {}
        for key in sorted(set(keys(live[ref])) - set(keys(obj))):
            if after.get(key) not in (None, before.get(key)):
                yield (f"{ref} holds a generated {key}, which another one given now does not change where it is used; "
                       f"leave it to be generated (playbooks/rotate.yml renews it), or put yours there and into the "
                       f"Secret first.")


def _first_value(first: str) -> str:
    if first == FERNET:
        # Source: https://github.com/fernet/spec/blob/master/Spec.md
        return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
    return first or password()


def password() -> str:
    """A new random password."""
    return "".join(secrets.choice(ALPHABET) for _position in range(LENGTH))
