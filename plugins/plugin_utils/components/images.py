# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Images that role images builds: their names are known before they are built, since they follow from the contents."""

from __future__ import annotations

import hashlib
import os
import pathlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ansible_collections.mlops.mlflow.plugins.plugin_utils.model.variables import Variables

FILES = pathlib.Path(__file__).parents[3] / "roles" / "images" / "files"
REPOSITORY = "localhost/mlops-mlflow"
CLIENTS = ("psycopg2-binary", "pymysql", "boto3", "google-cloud-storage", "azure-storage-blob", "azure-identity",
           "prometheus-flask-exporter", "uvloop", "httptools")
"""What the server's image has besides MLflow: drivers, clients, and the event loop and the parser of HTTP that uvicorn
uses where they are installed."""


def contents(v: Variables) -> dict[str, list[str]]:
    """What goes into each image besides the build files; the first entry is its version."""
    return {
        "base": ["bookworm"],
        "mlflow": [v.mlflow_version, v.images_uv_version, " ".join(sorted(v.images_mlflow_extra_packages))],
        "postgresql": [v.images_postgresql_version],
        "mariadb": [v.images_mariadb_version],
        "seaweedfs": [v.images_seaweedfs_version, v.images_uv_version],
        "caddy": [v.images_caddy_version, v.images_uv_version],
        "prometheus": [v.images_prometheus_version],
        "alertmanager": [v.images_alertmanager_version],
        "postgres-exporter": [v.images_postgres_exporter_version],
        "mysqld-exporter": [v.images_mysqld_exporter_version],
        "node-exporter": [v.images_node_exporter_version],
    }


def built(v: Variables) -> dict[str, str]:
    """The name of each image, with a digest of its build files and contents, so that a change of either is another
    image."""
    parts = contents(v)
    base = _digest("base", parts["base"], "")
    return {image: f"{REPOSITORY}/{image}:{entries[0]}-{base if image == 'base' else _digest(image, entries, base)}"
            for image, entries in parts.items()}


def part(v: Variables, kinds: list[str]) -> dict:
    """What role images reads.

    Args:
        v: the variables.
        kinds: the images that components ask for.
    """
    names = built(v)
    wanted = kinds if v.images_wanted is None else v.images_wanted
    return {"built": names, "wanted": [names[kind] for kind in dict.fromkeys(wanted) if kind in names],
            "archive_dir": v.images_archive_dir,
            "debian_mirror": v.images_debian_mirror, "requirements": _requirements(v),
            "build_arguments": {kind: _build_arguments(v, kind, names["base"]) for kind in names}}


def _requirements(v: Variables) -> str:
    """The locked packages of the MLflow image, or for a version without a lock file what it must have."""
    lock = FILES / f"mlflow-{v.mlflow_version}.txt"
    return (
        lock.read_text(encoding="utf-8")
        if lock.is_file()
        else "\n".join([f"mlflow[auth]=={v.mlflow_version}", *CLIENTS])
    )


def _build_arguments(v: Variables, kind: str, base: str) -> list[str]:
    """Options of `podman build` for an image."""
    bundle = os.environ.get("SSL_CERT_FILE", "") if v.images_ca_bundle is None else v.images_ca_bundle
    values = {"BASE": base, "VERSION": contents(v)[kind][0], "UV": v.images_uv_version,
              "REQUIREMENTS": " ".join(v.images_mlflow_extra_packages)}
    arguments = [part for name, value in values.items() for part in ("--build-arg", f"{name}={value}")]
    return arguments + (["--volume", f"{bundle}:/etc/ssl/certs/ca-certificates.crt:ro"] if bundle else [])


def _digest(image: str, entries: list[str], base: str) -> str:
    digest = hashlib.sha256("\n".join([base, *entries]).encode())
    for data in _build_files(image):
        digest.update(data)
    return digest.hexdigest()[:8]


_FILES: dict[str, list[bytes]] = {}


def _build_files(image: str) -> list[bytes]:
    """The files whose names begin with the image's."""
    if image not in _FILES:
        _FILES[image] = [path.read_bytes() for path in sorted(FILES.glob(f"{image}[-.]*"))]
    return _FILES[image]
