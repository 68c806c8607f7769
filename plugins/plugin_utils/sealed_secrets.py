# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""SealedSecrets of Bitnami's controller: values that only its private key decrypts.

Nobody can read them back, so what is sealed is kept, and a fingerprint of each given value tells whether it is another.
"""

from __future__ import annotations

import base64
import datetime
import json
import os
import pathlib
import struct
from typing import Any

from ansible_collections.mlops.mlflow.plugins.module_utils import sealed
from ansible_collections.mlops.mlflow.plugins.plugin_utils import generated, manifests

FINGERPRINTS = f"{manifests.MANAGER}/sealed"
"""On a SealedSecret: fingerprints (scrypt) of the values that variables gave, as JSON, by key."""
MANAGED = "sealedsecrets.bitnami.com/managed"
"""On a Secret that is there: the controller may replace it."""
KIND = "SealedSecret"
KEPT = "(sealed)"
"""Stands for a value that is sealed already; the parentheses are no base64."""


class CertificateError(ValueError):
    """Why a file is no certificate of the controller; the message follows the name of the file."""


def public_key(path: str) -> Any:
    """The public key of the controller.

    Args:
        path: its certificate, in PEM.

    Raises:
        CertificateError: it cannot be read, is something else, or has expired.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import rsa

    try:
        certificate = x509.load_pem_x509_certificate(pathlib.Path(path).expanduser().read_bytes())
    except OSError as error:
        raise CertificateError(f"which cannot be read ({error.strerror})") from None
    except ValueError:
        raise CertificateError("which is no certificate in PEM") from None
    key = certificate.public_key()
    if not isinstance(key, rsa.RSAPublicKey):
        raise CertificateError("a certificate without an RSA key")
    # The property without a time zone is deprecated in new versions of the package, and the other missing in old ones.
    end = getattr(certificate, "not_valid_after_utc", None) or certificate.not_valid_after.replace(
        tzinfo=datetime.timezone.utc)
    if end < datetime.datetime.now(datetime.timezone.utc):
        raise CertificateError(f"a certificate that has expired on {end:%Y-%m-%d}")
    return key


def encrypt(key: Any, value: bytes, label: bytes) -> str:
    """A value that the controller decrypts.

    Args:
        key: the controller's public key.
        value: to encrypt.
        label: what the value is bound to, NAMESPACE/NAME of the Secret.

    Source: HybridEncrypt of sealed-secrets (pkg/crypto/crypto.go): RSA-OAEP of a key for AES-256-GCM.
    """
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    session = os.urandom(32)
    wrapped = key.encrypt(session, padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), label))
    # A session key is used once, so that the nonce may be zero.
    return base64.b64encode(struct.pack(">H", len(wrapped)) + wrapped + AESGCM(session).encrypt(
        bytes(12), value, None)).decode()


def seal(obj: dict, before: dict | None, live: dict | None, path: str, tools: tuple[str, ...]) -> dict:
    """The SealedSecret of a Secret. What was sealed before stays, unless a variable gives another value.

    Args:
        obj: the Secret; its values become those of the SealedSecret, ``KEPT`` where they stay.
        before: the SealedSecret that is there.
        live: the Secret of a running instance, whose generated values are taken over where nothing is sealed.
        path: the controller's certificate.
        tools: annotations that are for a GitOps tool, and not for the Secret.

    Raises:
        CertificateError: ``path`` is no certificate of the controller.
    """
    given = set(obj.get("data") or {})
    encrypted = dict((before or {}).get("spec", {}).get("encryptedData") or {})
    fingerprints = json.loads(manifests.annotation(before, FINGERPRINTS, "{}")) if before else {}
    generated.fill(obj, {"data": {**((live or {}).get("data") or {}), **dict.fromkeys(encrypted, KEPT)}})
    key, metadata = public_key(path), obj["metadata"]
    label = f"{metadata['namespace']}/{metadata['name']}".encode()
    values, known = {}, {}
    for name, value in sorted((obj.get("data") or {}).items()):
        same = value == KEPT or name in given and name in encrypted and sealed.same(value, fingerprints.get(name, ""))
        values[name] = encrypted[name] if same else encrypt(key, base64.b64decode(value), label)
        if same and name in fingerprints:
            known[name] = fingerprints[name]
        elif name in given:
            known[name] = sealed.fingerprint(value)
    annotations = metadata.get("annotations") or {}
    own = {name: value for name, value in annotations.items() if name not in tools}
    theirs = {name: value for name, value in annotations.items() if name in tools}
    if known:
        theirs[FINGERPRINTS] = json.dumps(known, sort_keys=True)
    template = {field: obj[field] for field in ("type", "immutable") if field in obj}
    template["metadata"] = {**{field: value for field, value in metadata.items() if field != "annotations"},
                            **({"annotations": own} if own else {})}
    return {"apiVersion": "bitnami.com/v1alpha1", "kind": KIND, "metadata": {**metadata, "annotations": theirs},
            "spec": {"encryptedData": values, "template": template}}
