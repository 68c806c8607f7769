# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The CA that a Secret may ask for: one that clients can trust, made once and kept."""

from __future__ import annotations

import base64

import pytest
from ansible_collections.mlops.mlflow.plugins.plugin_utils import certificates, generated, manifests
from cryptography import x509
from cryptography.hazmat.primitives import serialization


def secret(**data):
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "ca", "annotations": {manifests.GENERATE_CA: "team-a"}},
        **({"data": data} if data else {}),
    }


def test_a_ca_can_sign_and_be_trusted():
    pair = {name: base64.b64decode(value) for name, value in certificates.certificate_authority("team-a").items()}
    certificate = x509.load_pem_x509_certificate(pair["ca.crt"])
    key = serialization.load_pem_private_key(pair["ca.key"], None)
    assert certificate.public_key() == key.public_key()
    certificate.verify_directly_issued_by(certificate)
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    assert "team-a" in certificate.subject.rfc4514_string()


def test_it_is_made_once():
    first, second = secret(), secret()
    generated.fill(first, None)
    generated.fill(second, first)
    assert first["data"] == second["data"] and set(first["data"]) == {"ca.crt", "ca.key"}


@pytest.mark.parametrize("lost", ["ca.crt", "ca.key"])
def test_half_of_it_is_of_no_use(lost):
    live, obj = secret(**certificates.certificate_authority("team-a")), secret()
    del live["data"][lost]
    generated.fill(obj, live)
    assert set(obj["data"]) == {"ca.crt", "ca.key"} and not set(live["data"].values()) & set(obj["data"].values())
