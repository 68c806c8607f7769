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
HOST = re.compile(r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
PATH = re.compile(r"^(/[A-Za-z0-9][A-Za-z0-9._~-]*)+$")
ORIGIN = re.compile(r"^https?://[^/*]+$")
BYTES = re.compile(r"^[0-9]+(Ki|Mi|Gi|Ti)?$")
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
    for variable in ("database_resources", "object_storage_resources", "mlflow_server_resources", "ingress_resources"):
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
                            ("mlflow_server_resources", effective), ("ingress_resources", v["ingress_resources"])):
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


def ingress(v: Variables) -> Iterator[str]:
    kind, preset = v["ingress_type"], v["ingress_preset"]
    hosts = [str(host) for host in v["ingress_hosts"]]
    for host in hosts:
        if not HOST.match(host) or len(host) > 253:
            yield (f"ingress_hosts holds {host!r}; give the bare DNS name in lower case, such as mlflow.example.com, without scheme, port "
                   f"or path.")
    if kind != "none" and not hosts:
        yield f"ingress_hosts is empty while ingress_type is {kind}; name at least one host by which people come, such as mlflow.example.com."
    elif hosts and hosts[0].startswith("*."):
        yield f"ingress_hosts begins with {hosts[0]!r}; the first host is the one that people are told, so put one without '*' before it."
    path = str(v["ingress_path"] or "")
    if path and not PATH.match(path):
        yield (f"ingress_path is {path!r}; it must begin with '/' and not end with one, such as /team/ana/mlflow, of letters, digits, '.', "
               f"'_', '~' and '-'.")
    gateway = v["ingress_gateway"]
    if kind == "gateway" and not gateway.get("name"):
        yield "ingress_gateway has no name while ingress_type is gateway; name the Gateway that the route is for."
    if kind != "gateway" and any(gateway.values()):
        yield f"ingress_gateway is set while ingress_type is {kind}; set ingress_type to gateway or leave it empty."
    behind = {"nginx": ("ingress",), "traefik": ("ingress",), "alb": ("ingress",), "gce": ("ingress", "gateway")}.get(preset)
    if behind and kind not in (*behind, "none"):
        yield f"ingress_preset is {preset} while ingress_type is {kind}; it is for {' and '.join(behind)}, so leave it empty."
    if not BYTES.match(str(v["ingress_max_body_size"])):
        yield f"ingress_max_body_size is {v['ingress_max_body_size']!r}; it must be a number of bytes such as 5Gi, or 0 for no limit."
    elif str(v["ingress_max_body_size"]) != "0" and kind != "none" and kind != "proxy" and preset != "nginx":
        yield (f"ingress_max_body_size is {v['ingress_max_body_size']} while ingress_type is {kind}"
               f"{f' with ingress_preset {preset}' if preset else ''}, which has no such limit; only proxy and the preset nginx have, so set it to 0.")
    for name, value in v["ingress_annotations"].items():
        if not isinstance(value, (str, type(None))):
            yield f"ingress_annotations: the value of {name} is {value!r}; Kubernetes takes text, so put it in quotes."
    for origin in v["ingress_cors_origins"]:
        if not ORIGIN.match(str(origin)):
            yield f"ingress_cors_origins holds {origin!r}; an origin is scheme, host and port, such as https://notebooks.example.com."
    if not 1 <= int(v["ingress_timeout"]) <= 99999:
        yield f"ingress_timeout is {v['ingress_timeout']}; it must be from 1 to 99999 seconds."
    if int(v["ingress_replicas"]) < 1:
        yield f"ingress_replicas is {v['ingress_replicas']}; it must be at least 1."
    for variable in ("ingress_service_port", "ingress_public_port"):
        if not 0 <= int(v[variable]) <= 65535:
            yield f"{variable} is {v[variable]}; it must be a TCP port up to 65535, or 0."
    for variable in ("ingress_publish", "ingress_connect"):
        address = str(v[variable] or "")
        match = PUBLISH.match(address)
        if (address or variable == "ingress_publish") and not (match and 1 <= int(match[2]) <= 65535):
            yield f"{variable} is {address!r}; it must be an address and a port such as 127.0.0.1:8443."


def certificates(v: Variables) -> Iterator[str]:
    kind, tls = v["ingress_type"], v["ingress_tls"]
    given = bool(v["ingress_tls_certificate"] and v["ingress_tls_key"])
    if bool(v["ingress_tls_certificate"]) != bool(v["ingress_tls_key"]):
        missing = "ingress_tls_key" if v["ingress_tls_certificate"] else "ingress_tls_certificate"
        yield f"{missing} is empty while its counterpart is set; the two go together."
    elif given and v["ingress_tls_secret"]:
        yield "ingress_tls_certificate and ingress_tls_secret are both set; keep one of them."
    elif given and tls != "secret":
        yield f"ingress_tls_certificate is set while ingress_tls is {tls}; set ingress_tls to secret or leave it empty."
    elif tls == "secret" and not (given or v["ingress_tls_secret"]):
        yield ("ingress_tls_secret is empty while ingress_tls is secret; name the Secret that holds the certificate, or give "
               "ingress_tls_certificate and ingress_tls_key.")
    if v["ingress_tls_ca"] and not given:
        yield "ingress_tls_ca is set while ingress_tls_certificate is empty; with a Secret of yours, put it there under ca.crt."
    if tls == "cert_manager" and not v["ingress_issuer"]:
        yield "ingress_issuer is empty while ingress_tls is cert_manager; name the issuer that is to sign."
    if v["ingress_issuer"] and tls != "cert_manager":
        yield f"ingress_issuer is set while ingress_tls is {tls}; set ingress_tls to cert_manager or leave it empty."
    wrong = {
        ("proxy", "cert_manager"): "secret, with the Secret that a Certificate of yours writes, or self_signed",
        ("proxy", "controller"): "secret or self_signed, since nothing but the proxy itself has a certificate",
        ("ingress", "self_signed"): "cert_manager with an issuer of that kind, or secret",
        ("gateway", "self_signed"): "controller, or cert_manager with an issuer of that kind",
        ("gateway", "secret"): "controller, since the certificate belongs to the Gateway's listener",
    }.get((kind, tls))
    if wrong:
        yield f"ingress_tls is {tls} while ingress_type is {kind}; set it to {wrong}."


def patches(v: Variables) -> Iterator[str]:
    for variable in ("database_patches", "object_storage_patches", "mlflow_server_patches", "ingress_patches"):
        for number, entry in enumerate(v[variable]):
            if set(entry) != {"target", "patch"} or not isinstance(entry["target"], dict) or not entry["target"].get("kind"):
                yield f"{variable}[{number}] must hold exactly target (kind, and name to reach one object) and patch (the fields to merge)."


RULES: tuple[Rule, ...] = (names, sizes, resources, ports, database, object_storage, server, ingress, certificates, patches)


def broken(variables: Variables) -> Iterator[str]:
    """Sentences for all rules that the variables break; rules about roles that the play does not have say nothing."""
    for rule in RULES:
        try:
            yield from list(rule(variables))
        except KeyError:
            continue
