# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an instance's variables must fulfil together, beyond the types and choices that argument_specs can say.

Each rule is a function that takes the instance's variables (all roles', templated) and yields sentences; each sentence names
the variable, what is wrong with it and what would be right.
"""

from __future__ import annotations

import difflib
import re
from typing import Callable, Iterable, Iterator, Mapping

DNS_LABEL = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
QUANTITY = re.compile(r"^([0-9]+(?:\.[0-9]+)?)(m|k|Ki|M|Mi|G|Gi|T|Ti|P|Pi|E|Ei)?$")
UNITS = {None: 1, "m": 0.001, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
         "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60}
BUCKET = re.compile(r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")
VERSION = re.compile(r"^[0-9]+\.[0-9]+\.[0-9]+(rc[0-9]+)?$")
PUBLISH = re.compile(r"^([0-9]{1,3}(?:\.[0-9]{1,3}){3}|localhost):([0-9]{1,5})$")
OWN_ARGUMENTS = {
    "--host": "nothing, it is always 0.0.0.0", "-h": "nothing, it is always 0.0.0.0", "--port": "mlflow_server_port",
    "-p": "mlflow_server_port", "--workers": "mlflow_server_workers", "-w": "mlflow_server_workers",
    "--backend-store-uri": "database_type", "--artifacts-destination": "object_storage_type",
    "--default-artifact-root": "mlflow_server_artifacts", "--serve-artifacts": "mlflow_server_artifacts",
    "--no-serve-artifacts": "mlflow_server_artifacts", "--allowed-hosts": "mlflow_server_allowed_hosts",
}
OURS_ALONE = ("mlflow_server_", "object_storage_")
"""Prefixes that nobody else's variables carry; with the others only a near miss counts as a misspelling."""

Variables = Mapping[str, object]
Rule = Callable[[Variables], Iterator[str]]


def quantity(value: object) -> float | None:
    """A Kubernetes quantity as a number (bytes or cores), None for what is none.

    Source: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
    """
    match = QUANTITY.match(str(value))
    return float(match[1]) * UNITS[match[2]] if match else None


def misspelt(names: Iterable[str], known: set[str]) -> Iterator[str]:
    """Variables that look like the collection's own but are none."""
    prefixes = {name.split("_", 1)[0] + "_" for name in known}
    for name in sorted(names):
        if name in known or not name.startswith(tuple(prefixes)):
            continue
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.86)
        if near:
            yield f"{name} is no variable of this collection; {near[0]} is."
        elif name.startswith(OURS_ALONE):
            yield f"{name} is no variable of this collection; remove it, or see docs/variables.md for those there are."


def names(v: Variables) -> Iterator[str]:
    for variable, longest in (("mlflow_instance", 40), ("mlflow_namespace", 63)):
        value = str(v[variable])
        if variable == "mlflow_namespace" and value == v["mlflow_instance"]:
            continue
        if not DNS_LABEL.match(value) or len(value) > longest:
            yield (f"{variable} is {value!r}; it must be a DNS label: at most {longest} lower-case letters, digits and '-', "
                   f"beginning and ending with a letter or digit.")
    if not VERSION.match(str(v["mlflow_version"])):
        yield f"mlflow_version is {v['mlflow_version']!r}; it must be a whole version such as 3.17.2."


def sizes(v: Variables) -> Iterator[str]:
    for variable in ("database_size", "object_storage_size"):
        size = quantity(v[variable])
        if size is None or size < 2**20:
            yield f"{variable} is {v[variable]!r}; it must be a Kubernetes quantity of storage such as 10Gi."


def resources(v: Variables) -> Iterator[str]:
    for variable in ("database_resources", "object_storage_resources", "mlflow_server_resources"):
        unknown = set(v[variable]) - {"requests", "limits", "claims"}
        if unknown:
            yield f"{variable} holds {sorted(unknown)[0]!r}; it may hold requests and limits."
            continue
        for part in ("requests", "limits"):
            for name, value in (v[variable].get(part) or {}).items():
                if quantity(value) is None:
                    yield f"{variable}.{part}.{name} is {value!r}; it must be a Kubernetes quantity such as 500m or 2Gi."
    effective = v.get("mlflow_server_effective_resources") or {}
    for variable, value in (("database_resources", v["database_resources"]), ("object_storage_resources", v["object_storage_resources"]),
                            ("mlflow_server_resources", effective)):
        for name, limit in (value.get("limits") or {}).items():
            request = quantity((value.get("requests") or {}).get(name, 0))
            if request and quantity(limit) and request > quantity(limit):
                yield (f"{variable}.requests.{name} ({value['requests'][name]}) is more than {variable}.limits.{name} ({limit}); "
                       f"it must be at most that.")


def ports(v: Variables) -> Iterator[str]:
    for variable, lowest in (("database_port", 1), ("mlflow_server_port", 1024)):
        if not lowest <= int(v[variable]) <= 65535:
            yield f"{variable} is {v[variable]}; it must be a TCP port from {lowest} to 65535."
    publish = str(v["mlflow_server_publish"] or "")
    match = PUBLISH.match(publish)
    if publish and not (match and 1 <= int(match[2]) <= 65535):
        yield f"mlflow_server_publish is {publish!r}; it must be an address and a port such as 127.0.0.1:5000, or empty."


def database(v: Variables) -> Iterator[str]:
    external = bool(v["database_host"])
    if v["database_type"] == "sqlite":
        for variable in ("database_host", "database_password", "database_existing_secret"):
            if v[variable]:
                yield f"{variable} is set while database_type is sqlite, which is a file; set database_type to postgresql or leave {variable} empty."
        if int(v["mlflow_server_replicas"]) > 1:
            yield (f"mlflow_server_replicas is {v['mlflow_server_replicas']} while database_type is sqlite, which one process at a time may "
                   f"write; set database_type to postgresql, or mlflow_server_replicas to 1.")
    elif external and not (v["database_password"] or v["database_existing_secret"]):
        yield ("database_password is empty while database_host names an existing server; give the password, or the name of a Secret "
               "that holds it in database_existing_secret.")
    if v["database_password"] and v["database_existing_secret"]:
        yield "database_password and database_existing_secret are both set; keep one of them."
    if external and ("/" in str(v["database_host"]) or ":" in str(v["database_host"])):
        yield f"database_host is {v['database_host']!r}; it must be a bare host name or address, with the port in database_port."


def object_storage(v: Variables) -> Iterator[str]:
    kind = v["object_storage_type"]
    if kind in ("s3", "seaweedfs"):
        bucket = str(v["object_storage_bucket"] or "")
        if not bucket:
            yield f"object_storage_bucket is empty while object_storage_type is {kind}; name the bucket."
        elif not BUCKET.match(bucket):
            yield (f"object_storage_bucket is {bucket!r}; a bucket's name has 3 to 63 lower-case letters, digits, '.' and '-', "
                   f"without s3:// and without a path (that is object_storage_prefix).")
    if kind != "s3" and v["object_storage_url"]:
        yield f"object_storage_url is set while object_storage_type is {kind}; set object_storage_type to s3 or leave it empty."
    for variable in ("create", "versioning", "expire_days", "expire_noncurrent_days", "abort_multipart_days", "encryption", "kms_key"):
        value = v[f"object_storage_bucket_{variable}"]
        if kind == "volume" and (value or value is False and variable == "versioning"):
            yield f"object_storage_bucket_{variable} is set while object_storage_type is volume, which has no bucket; leave it out."
        elif variable.endswith("_days") and value is not None and int(value) < 0:
            yield f"object_storage_bucket_{variable} is {value}; it must be a number of days, or 0 for no such rule."
    if v["object_storage_bucket_kms_key"] and v["object_storage_bucket_encryption"] == "AES256":
        yield "object_storage_bucket_kms_key is set while object_storage_bucket_encryption is AES256, which has no key; set that to aws:kms."
    if v["object_storage_url"] and not re.match(r"^https?://[^/]+/?$", str(v["object_storage_url"])):
        yield f"object_storage_url is {v['object_storage_url']!r}; it must be the endpoint alone, such as https://s3.example.com."
    if bool(v["object_storage_access_key"]) != bool(v["object_storage_secret_key"]):
        missing = "object_storage_secret_key" if v["object_storage_access_key"] else "object_storage_access_key"
        yield f"{missing} is empty while its counterpart is set; the two go together."
    if v["object_storage_access_key"] and v["object_storage_existing_secret"]:
        yield "object_storage_access_key and object_storage_existing_secret are both set; keep one of them."
    if kind != "s3" and v["object_storage_existing_secret"]:
        yield f"object_storage_existing_secret is set while object_storage_type is {kind}; only s3 reads one."
    if kind != "volume" and v["object_storage_existing_claim"]:
        yield f"object_storage_existing_claim is set while object_storage_type is {kind}; only volume mounts one."
    if kind == "volume" and int(v["mlflow_server_replicas"]) > 1 and v["object_storage_access_mode"] != "ReadWriteMany":
        yield (f"mlflow_server_replicas is {v['mlflow_server_replicas']} while the artifacts are on a volume that is "
               f"{v['object_storage_access_mode']}; set object_storage_access_mode to ReadWriteMany, or mlflow_server_replicas to 1.")
    if kind == "volume" and v["mlflow_server_artifacts"] != "proxied":
        yield (f"mlflow_server_artifacts is {v['mlflow_server_artifacts']} while object_storage_type is volume, which clients cannot reach; "
               f"set it to proxied, or choose an S3 store.")


def server(v: Variables) -> Iterator[str]:
    if int(v["mlflow_server_replicas"]) < 1:
        yield f"mlflow_server_replicas is {v['mlflow_server_replicas']}; it must be at least 1."
    if int(v["mlflow_server_workers"]) < 0:
        yield f"mlflow_server_workers is {v['mlflow_server_workers']}; it must be at least 1, or 0 for what mlflow_server_size gives."
    for host in v["mlflow_server_allowed_hosts"]:
        if "/" in str(host) or not str(host).strip():
            yield f"mlflow_server_allowed_hosts holds {host!r}; give the bare host name, such as mlflow.example.com, without scheme or path."
    for argument in v["mlflow_server_extra_args"]:
        option = str(argument).split("=", 1)[0]
        if option in OWN_ARGUMENTS:
            yield f"mlflow_server_extra_args holds {option}; use {OWN_ARGUMENTS[option]} for that."
    for entry in v["mlflow_server_extra_env"]:
        if not entry.get("name") or not set(entry) <= {"name", "value", "valueFrom"}:
            yield f"mlflow_server_extra_env holds {entry!r}; each entry has name, and value or valueFrom, as in a Pod."
        elif "value" in entry and not isinstance(entry["value"], str):
            yield f"mlflow_server_extra_env: the value of {entry['name']} is {entry['value']!r}; Kubernetes takes text, so put it in quotes."


def patches(v: Variables) -> Iterator[str]:
    for variable in ("database_patches", "object_storage_patches", "mlflow_server_patches"):
        for number, entry in enumerate(v[variable]):
            if set(entry) != {"target", "patch"} or not isinstance(entry["target"], dict) or not entry["target"].get("kind"):
                yield f"{variable}[{number}] must hold exactly target (kind, and name to reach one object) and patch (the fields to merge)."


RULES: tuple[Rule, ...] = (names, sizes, resources, ports, database, object_storage, server, patches)


def broken(variables: Variables) -> Iterator[str]:
    """Sentences for all rules that the variables break; rules about roles that the play does not have say nothing."""
    for rule in RULES:
        try:
            yield from list(rule(variables))
        except KeyError:
            continue
