# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Values encrypted with a passphrase: scrypt and Fernet of the package cryptography, which Ansible and MLflow both
need.

Self-contained: pods of the backup have this file beside backup.py.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os

COST = {"n": 2**15, "r": 8, "p": 1}
"""Of scrypt: 32 MiB and about 0.1 s."""


class WrongPassphraseError(Exception):
    """The passphrase is not the one that the values were encrypted with."""


def _derived(text, salt, cost):
    return hashlib.scrypt(text.encode(), salt=salt, dklen=32, maxmem=2**27, **cost)


def seal(passphrase, values):
    """Encrypt values.

    Args:
        passphrase: text.
        values: what JSON can hold.

    Returns:
        A dictionary that JSON can hold.
    """
    from cryptography.fernet import Fernet

    salt = os.urandom(16)
    fernet = Fernet(base64.urlsafe_b64encode(_derived(passphrase, salt, COST)))
    return {"kdf": "scrypt", **COST, "salt": salt.hex(), "token": fernet.encrypt(json.dumps(values).encode()).decode()}


def unseal(passphrase, sealed):
    """The values that ``seal`` encrypted.

    Raises:
        WrongPassphraseError: they were encrypted with another passphrase, or changed.
    """
    from cryptography.fernet import Fernet, InvalidToken

    cost = {name: sealed[name] for name in COST}
    fernet = Fernet(base64.urlsafe_b64encode(_derived(passphrase, bytes.fromhex(sealed["salt"]), cost)))
    try:
        return json.loads(fernet.decrypt(sealed["token"].encode()))
    except InvalidToken as error:
        raise WrongPassphraseError("the passphrase is not the one of the backup") from error


def fingerprint(value, salt=None):
    """A text by which a secret can be recognized, and from which it cannot be computed.

    Args:
        value: the secret.
        salt: hexadecimal digits, those of a former fingerprint to compare with; new ones if None.
    """
    salt = salt or os.urandom(16).hex()
    return f"{salt}:{_derived(value, bytes.fromhex(salt), COST).hex()}"


def same(value, known):
    """Whether a secret has a fingerprint."""
    return fingerprint(value, known.partition(":")[0]) == known
