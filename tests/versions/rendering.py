# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hosts and origins as the role renders them. To be replaced by the model's own functions."""

from __future__ import annotations


def allowed_hosts(name: str, namespace: str, more: list[str], ingress: list[str]) -> list[str]:
    """MLFLOW_SERVER_ALLOWED_HOSTS."""
    named = [name, f"{name}.{namespace}", f"{name}.{namespace}.svc", f"{name}.{namespace}.svc.cluster.local", *more, *ingress]
    addresses = ["localhost", "127.0.0.1", "[[]::1]", "10.*", "192.168.*", *(f"172.{number}.*" for number in range(16, 32))]
    return [*addresses, "localhost:*", "127.0.0.1:*", "[[]::1]:*", *named, *(f"{host}:*" for host in named if ":" not in host)]


def cors_origins(ingress: list[str], more: list[str], scheme: str = "https") -> list[str]:
    """MLFLOW_SERVER_CORS_ALLOWED_ORIGINS: whole origins only, since Flask-CORS takes one with `*` for a regular expression."""
    return [*(f"{scheme}://{host}" for host in ingress), *more]
