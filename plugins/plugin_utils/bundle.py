# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A support bundle: what somebody else needs to find a fault of an instance, in one archive without secrets."""

from __future__ import annotations

import base64
import binascii
import io
import json
import pathlib
import re
import tarfile
import urllib.parse
from typing import Any, Iterable

import yaml

HIDDEN = "(secret)"
SHORTEST = 6
"""Characters from which a Secret's value is looked for in texts; shorter ones, such as users, are in many words."""
NAMES = ("username", "user", "database", "host", "port")
"""Keys of Secrets whose values are no secrets: `mlflow` is in most lines of a log."""
SECRET_NAME = re.compile(r"PASS|SECRET|TOKEN|KEY|CREDENTIAL", re.IGNORECASE)
CREDENTIALS = re.compile(r"(//)[^/@\s]*:[^/@\s]*@")
AUTHORIZATION = re.compile(r"(authorization[\"']?\s*[:=]\s*[\"']?)(?:(?:basic|bearer)\s+)?[^\s\"',]+", re.IGNORECASE)


class Scrubber:
    """Removes secrets from texts.

    Args:
        values: secrets; those of less than six characters are not looked for.
    """

    def __init__(self, values: Iterable[str]) -> None:
        found = {form for value in values for form in _forms(value.strip()) if len(form) >= SHORTEST}
        # The longest first, since one may be part of another.
        words = sorted(map(re.escape, found), key=len, reverse=True)
        self._known = re.compile("|".join(words)) if words else None

    def text(self, text: str) -> str:
        """A text without the secrets, without users and passwords of URIs, and without Authorization headers."""
        if self._known:
            text = self._known.sub(HIDDEN, text)
        return AUTHORIZATION.sub(rf"\1{HIDDEN}", CREDENTIALS.sub(r"\1", text))


def _forms(value: str) -> Iterable[str]:
    """A secret as it may be written: as it is, in a URI, in JSON, and in base64."""
    encoded = base64.b64encode(value.encode()).decode()
    return {value, urllib.parse.quote(value, safe=""), json.dumps(value)[1:-1], encoded,
            *(value.splitlines() if "\n" in value else [])}


def values_of(objects: Iterable[dict]) -> Iterable[str]:
    """The secret values of Secrets among live objects."""
    for obj in objects:
        if obj["kind"] == "Secret":
            for key, value in (obj.get("data") or {}).items():
                if key in NAMES:
                    continue
                try:
                    yield base64.b64decode(value).decode()
                except (binascii.Error, UnicodeDecodeError):
                    continue


def printable(obj: dict) -> dict:
    """An object without values of Secrets, without programs, and without variables that are called like secrets."""
    if obj["kind"] == "Secret":
        names = dict.fromkeys({**(obj.get("data") or {}), **(obj.get("stringData") or {})}, HIDDEN)
        rest = {key: value for key, value in obj.items() if key not in ("data", "stringData")}
        return {**rest, "data": names} if names else rest
    if obj["kind"] == "ConfigMap":
        data = {key: value if not key.endswith((".py", ".sh")) else f"(program of {len(value)} characters)"
                for key, value in (obj.get("data") or {}).items()}
        return {**obj, "data": data}
    return _without_values(obj)


def _without_values(value: Any) -> Any:
    if isinstance(value, dict):
        if SECRET_NAME.search(str(value.get("name", ""))) and isinstance(value.get("value"), str):
            return {**value, "value": HIDDEN}
        return {key: _without_values(part) for key, part in value.items() if key != "managedFields"}
    if isinstance(value, list):
        return [_without_values(part) for part in value]
    return value


def as_yaml(objects: Iterable[dict]) -> str:
    """Objects as documents of YAML, in the order of their kinds and names."""
    ordered = sorted(objects, key=lambda obj: (obj["kind"], obj["metadata"]["name"]))
    return yaml.safe_dump_all((printable(obj) for obj in ordered), sort_keys=True)


def write(path: pathlib.Path, files: dict[str, str], scrubber: Scrubber) -> int:
    """Write texts as one archive that only its owner may read; each is scrubbed, whatever it is.

    Args:
        path: of the archive, .tar.gz; its folder is made.
        files: texts by name.
        scrubber: of the instance's secrets.

    Returns:
        The bytes of the archive.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.chmod(0o600)
    folder = path.name.removesuffix(".tar.gz")
    with tarfile.open(path, "w:gz") as archive:
        for name, text in sorted(files.items()):
            data = scrubber.text(text).encode(errors="replace")
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size, entry.mode = len(data), 0o600
            archive.addfile(entry, io.BytesIO(data))
    return path.stat().st_size
