# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an instance's variables must fulfil together, beyond the types and choices that argument_specs can say.

Each rule is a function that takes the instance's variables (all roles', templated) and yields sentences; each sentence names
the variable, what is wrong with it and what would be right.
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import re
from typing import Callable, Iterable, Iterator, Mapping

DNS_LABEL = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
QUANTITY = re.compile(r"^([0-9]+(?:\.[0-9]+)?)(m|k|Ki|M|Mi|G|Gi|T|Ti|P|Pi|E|Ei)?$")
UNITS = {None: 1, "m": 0.001, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
         "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60}
OBJECT = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
LABEL_VALUE = re.compile(r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$")
BUCKET = re.compile(r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")
VERSION = re.compile(r"^[0-9]+\.[0-9]+\.[0-9]+(rc[0-9]+)?$")
PUBLISH = re.compile(r"^([0-9]{1,3}(?:\.[0-9]{1,3}){3}|localhost):([0-9]{1,5})$")
HOST = re.compile(r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
PATH = re.compile(r"^(/[A-Za-z0-9][A-Za-z0-9._~-]*)+$")
ORIGIN = re.compile(r"^https?://[^/*]+$")
BYTES = re.compile(r"^[0-9]+(Ki|Mi|Gi|Ti)?$")
TEXTS = ("mlflow_labels", "mlflow_annotations", "mlflow_node_selector", "mlflow_server_pod_labels", "mlflow_server_pod_annotations",
         "mlflow_server_service_annotations", "mlflow_server_service_account_annotations")
LABELS = ("mlflow_labels", "mlflow_node_selector", "mlflow_server_pod_labels")
NAMED = ("database_existing_secret", "database_ca_secret", "object_storage_existing_secret", "object_storage_existing_claim",
         "mlflow_server_auth_existing_secret", "mlflow_server_tls_secret", "mlflow_server_service_account", "mlflow_priority_class",
         "ingress_tls_secret", "ingress_class")
"""Variables that name an object of the cluster."""
DRIVERS = {"postgresql": ("psycopg2", "psycopg", "pg8000", "asyncpg"), "mysql": ("pymysql", "mysqldb", "mysqlconnector", "cymysql", "aiomysql", "asyncmy")}
OWN_ARGUMENTS = {
    "--host": "nothing, it is always 0.0.0.0", "-h": "nothing, it is always 0.0.0.0", "--port": "mlflow_server_port",
    "-p": "mlflow_server_port", "--workers": "mlflow_server_workers", "-w": "mlflow_server_workers",
    "--backend-store-uri": "database_type", "--artifacts-destination": "object_storage_type",
    "--default-artifact-root": "mlflow_server_artifacts", "--serve-artifacts": "mlflow_server_artifacts",
    "--no-serve-artifacts": "mlflow_server_artifacts", "--allowed-hosts": "mlflow_server_allowed_hosts",
    "--static-prefix": "mlflow_server_path_prefix", "--enable-workspaces": "mlflow_server_workspaces",
    "--trace-archival-config": "mlflow_server_trace_archival", "--read-replica-backend-store-uri": "database_read_replica_host",
    "--app-name": "mlflow_server_auth", "--uvicorn-opts": "mlflow_server_tls_secret for TLS, and mlflow_server_patches for anything else",
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
    # Services begin with a letter; a StatefulSet's pods carry its name and eleven characters more as a label.
    for variable, longest, first in (("mlflow_instance", 37, "[a-z]"), ("mlflow_namespace", 63, "[a-z0-9]")):
        value = str(v[variable])
        if variable == "mlflow_namespace" and value == v["mlflow_instance"]:
            continue
        if not DNS_LABEL.match(value) or len(value) > longest or not re.match(first, value):
            yield (f"{variable} is {value!r}; it must be a DNS label: at most {longest} lower-case letters, digits and '-', "
                   f"beginning with a letter{' or digit' if '0' in first else ''} and ending with a letter or digit.")
    if int(v["mlflow_wait_timeout"]) < 1:
        yield f"mlflow_wait_timeout is {v['mlflow_wait_timeout']}; it must be at least 1 second."
    if not VERSION.match(str(v["mlflow_version"])):
        yield f"mlflow_version is {v['mlflow_version']!r}; it must be a whole version such as 3.17.2."


def objects(v: Variables) -> Iterator[str]:
    """What Kubernetes would refuse halfway, when other roles have made their objects already."""
    for variable in TEXTS:
        for name, value in v[variable].items():
            if not isinstance(value, str):
                yield f"{variable}: the value of {name} is {value!r}; Kubernetes takes text, so put it in quotes."
            elif variable in LABELS and not LABEL_VALUE.match(value):
                yield (f"{variable}: the value of {name} is {value!r}; a label's value has at most 63 letters, digits, '-', '_' and '.', "
                       f"beginning and ending with a letter or digit.")
    for variable in NAMED:
        if v[variable] and not OBJECT.match(str(v[variable])):
            yield f"{variable} is {v[variable]!r}; it must be an object's name: lower-case letters, digits, '-' and '.'."
    for client in v["mlflow_network_policy_clients"]:
        if not (_network(client) if "/" in str(client) else DNS_LABEL.match(str(client))):
            yield f"mlflow_network_policy_clients holds {client!r}; it must be a namespace's name, or a network such as 10.0.0.0/16."


def _network(text: object) -> bool:
    try:
        return bool(ipaddress.ip_network(str(text)))
    except ValueError:
        return False


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
    pod = {"mlflow_server_port": int(v["mlflow_server_port"])}  # whose containers share their ports
    if v["database_cloudsql_instance"]:
        pod |= {"database_port": int(v["database_port"]), "the health check of Cloud SQL's proxy": 9801}
    if v["mlflow_server_auth"] == "oidc":
        pod |= {"oauth2-proxy": 4180}
    for number, name in enumerate(pod):
        for other in list(pod)[number + 1:]:
            if pod[name] == pod[other]:
                yield f"{name} is {pod[name]}, which is also the port of {other} in the same pod; choose another."
    publish = str(v["mlflow_server_publish"] or "")
    match = PUBLISH.match(publish)
    if publish and not (match and 1 <= int(match[2]) <= 65535):
        yield f"mlflow_server_publish is {publish!r}; it must be an address and a port such as 127.0.0.1:5000, or empty."


def database(v: Variables) -> Iterator[str]:
    kind, host, instance = v["database_type"], v["database_host"], v["database_cloudsql_instance"]
    login = [name for name in ("database_password", "database_existing_secret", "database_external_secret") if v[name]]
    if kind == "sqlite":
        for variable in ("database_host", "database_cloudsql_instance", "database_read_replica_host", "database_tls", *login):
            if v[variable]:
                yield f"{variable} is set while database_type is sqlite, which is a file; set database_type to postgresql or leave {variable} empty."
        for variable, several in (("mlflow_server_replicas", int(v["mlflow_server_replicas"]) > 1),
                                  ("mlflow_server_autoscaling", v["mlflow_server_autoscaling"])):
            if several:
                yield (f"{variable} is {v[variable]} while database_type is sqlite, which one process at a time may "
                       f"write; set database_type to postgresql, or {variable} to {'false' if variable.endswith('scaling') else 1}.")
        if v["mlflow_server_workspaces"]:
            yield "mlflow_server_workspaces is true while database_type is sqlite; set database_type to postgresql, or it to false."
        return
    external = bool(host or instance)
    if external and not login:
        yield (f"database_password is empty while {'database_host' if host else 'database_cloudsql_instance'} names an existing server; give "
               f"the password, or the name of a Secret that holds it in database_existing_secret.")
    if len(login) > 1:
        yield f"{login[0]} and {login[1]} are both set; keep one of them."
    if host and ("/" in str(host) or ":" in str(host)):
        yield f"database_host is {host!r}; it must be a bare host name or address, with the port in database_port."
    replica = str(v["database_read_replica_host"] or "")
    if "/" in replica or ":" in replica:
        yield f"database_read_replica_host is {replica!r}; it must be a bare host name or address, with the port in database_port."
    if not re.match(r"^[A-Za-z0-9_][A-Za-z0-9_$-]*$", str(v["database_name"])):
        yield f"database_name is {v['database_name']!r}; it must be of letters, digits, '_', '$' and '-'."
    dialect = "postgresql" if kind == "postgresql" else "mysql"
    driver = str(v["database_driver"] or "")
    if not re.match(r"^[a-z0-9]*$", driver) or any(driver in known for other, known in DRIVERS.items() if other != dialect):
        yield f"database_driver is {driver!r}; it must be the name of a driver for {kind} alone, such as {DRIVERS[dialect][0]}."
    if dialect == "mysql" and v["database_tls"] and driver not in ("", "pymysql"):
        yield (f"database_tls is {v['database_tls']} while database_driver is {driver}, which is told of TLS otherwise; use pymysql, or leave "
               f"database_tls empty.")
    for variable in ("database_pool_size", "database_pool_max_overflow", "database_pool_recycle"):
        if int(v[variable]) < 0:
            yield f"{variable} is {v[variable]}; it must be at least 1, or 0 for the default."
    if instance and v["database_tls"]:
        yield "database_tls is set while database_cloudsql_instance is; its proxy encrypts by itself, so leave database_tls empty."
    if host and instance:
        yield "database_host and database_cloudsql_instance are both set; keep one of them."
    if instance and not re.match(r"^[a-z0-9.:-]+:[a-z0-9-]+:[a-z0-9-]+$", str(instance)):
        yield f"database_cloudsql_instance is {instance!r}; it must be project:region:name."
    if instance and v["mlflow_engine"] == "podman":
        yield "database_cloudsql_instance is set while mlflow_engine is podman; run the proxy on that machine and give its address in database_host."
    if v["database_read_replica_host"] and not host:
        yield "database_read_replica_host is set while database_host is empty; only an existing server has replicas of its own."
    if v["database_tls"] and not external:
        yield "database_tls is set while database_host is empty; a database run here is on the instance's own network, so leave it empty."
    ca = v["database_ca"] or v["database_ca_secret"]
    if str(v["database_tls"]).startswith("verify") and not ca and not any(e.get("name") == "PGSSLROOTCERT" for e in v["mlflow_server_extra_env"]):
        yield f"database_tls is {v['database_tls']} without the authorities to check by; give them in database_ca or database_ca_secret."
    if ca and not str(v["database_tls"]).startswith("verify"):
        yield "database_ca is given while database_tls does not verify anything; set database_tls to verify-full or verify-ca."
    if v["database_ca"] and v["database_ca_secret"]:
        yield "database_ca and database_ca_secret are both set; keep one of them."
    if v["database_ca"] and "BEGIN CERTIFICATE" not in str(v["database_ca"]):
        yield "database_ca holds no certificate; give PEM text, for example by lookup('ansible.builtin.file', 'ca.pem')."
    if kind == "mysql" and not external and v["mlflow_image_source"] == "build":
        yield "database_type is mysql while mlflow_image_source is build, and Debian has MariaDB in its place; set database_type to mariadb."
    if v["database_external_secret"]:
        yield from _external("database_external_secret", v["database_external_secret"], {"username", "password"}, v)


def _external(variable: str, keys: Mapping, needed: set[str], v: Variables) -> Iterator[str]:
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


def object_storage(v: Variables) -> Iterator[str]:
    kind, bucket, url = v["object_storage_type"], str(v["object_storage_bucket"] or ""), str(v["object_storage_url"] or "")
    on_volume = kind in ("volume", "ephemeral")
    if not on_volume and not bucket:
        yield f"object_storage_bucket is empty while object_storage_type is {kind}; name the bucket."
    elif not on_volume and not BUCKET.match(bucket):
        yield (f"object_storage_bucket is {bucket!r}; a bucket's name has 3 to 63 lower-case letters, digits, '.' and '-', "
               f"without s3:// and without a path (that is object_storage_prefix).")
    if kind != "s3" and url:
        yield f"object_storage_url is set while object_storage_type is {kind}; set object_storage_type to s3 or leave it empty."
    if not re.match(r"^[^/:?#\s]*(/[^/:?#\s]+)*/?$", str(v["object_storage_prefix"] or "")):
        yield f"object_storage_prefix is {v['object_storage_prefix']!r}; it must be a path in the bucket, such as team/mlflow."
    if url and not re.match(r"^https?://[^/]+/?$", url):
        yield f"object_storage_url is {url!r}; it must be the endpoint alone, such as https://s3.example.com."
    for variable in ("create", "versioning", "expire_days", "expire_noncurrent_days", "abort_multipart_days", "encryption", "kms_key"):
        value = v[f"object_storage_bucket_{variable}"]
        if on_volume and (value or value is False and variable == "versioning"):
            yield f"object_storage_bucket_{variable} is set while object_storage_type is {kind}, which has no bucket; leave it out."
        elif variable.endswith("_days") and value is not None and int(value) < 0:
            yield f"object_storage_bucket_{variable} is {value}; it must be a number of days, or 0 for no such rule."
        elif value is not None and value != "" and kind == "azure" and variable != "create":
            yield (f"object_storage_bucket_{variable} is set while object_storage_type is azure, which keeps it as a setting of the storage account; "
                   f"set it there, and leave it out here.")
    if kind == "gcs" and v["object_storage_bucket_encryption"] == "aws:kms":
        yield ("object_storage_bucket_encryption is aws:kms while object_storage_type is gcs; leave it out, and name a key of Cloud KMS in "
               "object_storage_bucket_kms_key.")
    if v["object_storage_bucket_kms_key"] and v["object_storage_bucket_encryption"] == "AES256":
        yield "object_storage_bucket_kms_key is set while object_storage_bucket_encryption is AES256, which has no key; set that to aws:kms."
    if bool(v["object_storage_access_key"]) != bool(v["object_storage_secret_key"]):
        missing = "object_storage_secret_key" if v["object_storage_access_key"] else "object_storage_access_key"
        yield f"{missing} is empty while its counterpart is set; the two go together."
    keys = [name for name in ("object_storage_access_key", "object_storage_gcs_credentials", "object_storage_azure_access_key",
                              "object_storage_azure_connection_string", "object_storage_existing_secret", "object_storage_external_secret",
                              "object_storage_iam_role_arn", "object_storage_gcp_service_account", "object_storage_azure_client_id") if v[name]]
    readers = {"object_storage_access_key": ("s3", "seaweedfs", "minio"), "object_storage_gcs_credentials": ("gcs",),
               "object_storage_azure_access_key": ("azure",), "object_storage_azure_connection_string": ("azure",),
               "object_storage_existing_secret": ("s3", "gcs", "azure"), "object_storage_external_secret": ("s3", "gcs", "azure"),
               "object_storage_iam_role_arn": ("s3",), "object_storage_azure_client_id": ("azure",),
               "object_storage_azure_account": ("azure",), "object_storage_existing_claim": ("volume",), "object_storage_ca": ("s3",)}
    for variable, kinds in readers.items():
        if v[variable] and kind not in kinds:
            yield (f"{variable} is set while object_storage_type is {kind}; only {', '.join(kinds)} {'reads' if len(kinds) == 1 else 'read'} it, "
                   f"so leave it empty or change object_storage_type.")
    if kind in ("s3", "gcs", "azure"):
        relevant = [name for name in keys if name != "object_storage_gcp_service_account" or kind == "gcs"]
        if len(relevant) > 1:
            yield f"{relevant[0]} and {relevant[1]} are both set; keep one of them."
    if kind == "azure" and not v["object_storage_azure_account"]:
        yield "object_storage_azure_account is empty while object_storage_type is azure; name the storage account."
    elif kind == "azure" and not re.match(r"^[a-z0-9]{1,24}$", str(v["object_storage_azure_account"])):
        yield (f"object_storage_azure_account is {v['object_storage_azure_account']!r}; it must be the account's bare name, of lower-case "
               f"letters and digits.")
    parts = {"s3": ("access_key", "secret_key"), "gcs": ("credentials",), "azure": ("access_key", "connection_string")}.get(kind, ())
    for part in sorted({part for part, key in v["object_storage_existing_secret_keys"].items() if key} - set(parts)):
        yield (f"object_storage_existing_secret_keys holds {part} while object_storage_type is {kind}"
               f"{', which has ' + ' and '.join(parts) if parts else ''}; leave it out.")
    for variable in ("object_storage_iam_role_arn", "object_storage_gcp_service_account", "mlflow_server_service_account_annotations"):
        if v[variable] and v["mlflow_server_service_account"]:
            yield (f"{variable} is set while mlflow_server_service_account names a ServiceAccount that exists, which is left as it is; annotate it "
                   f"there, and leave {variable} empty.")
    if v["object_storage_gcs_credentials"] and not _service_account(v["object_storage_gcs_credentials"]):
        yield "object_storage_gcs_credentials is no service account's key; give the JSON text, for example by lookup('ansible.builtin.file', 'key.json')."
    if v["object_storage_iam_role_arn"] and not re.match(r"^arn:aws[a-z-]*:iam::\d{12}:role/.+", str(v["object_storage_iam_role_arn"])):
        yield (f"object_storage_iam_role_arn is {v['object_storage_iam_role_arn']!r}; it must be a role's ARN, such as "
               f"arn:aws:iam::111122223333:role/mlflow.")
    if v["object_storage_gcp_service_account"] and "@" not in str(v["object_storage_gcp_service_account"]):
        yield (f"object_storage_gcp_service_account is {v['object_storage_gcp_service_account']!r}; it must be the account's e-mail address, such as "
               f"mlflow@project.iam.gserviceaccount.com.")
    if v["object_storage_external_secret"]:
        yield from _external("object_storage_external_secret", v["object_storage_external_secret"],
                             {"s3": {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}, "gcs": {"credentials.json"}}.get(kind, set()), v)
    several = int(v["mlflow_server_replicas"]) > 1 or v["mlflow_server_autoscaling"]
    if kind == "ephemeral" and several:
        yield ("object_storage_type is ephemeral while there are several pods, each of which would have artifacts of its own; choose a store "
               "that all reach, or one pod.")
    if kind == "volume" and several and v["object_storage_access_mode"] != "ReadWriteMany":
        number = "mlflow_server_autoscaling" if v["mlflow_server_autoscaling"] else "mlflow_server_replicas"
        yield (f"{number} is {v[number]} while the artifacts are on a volume that is {v['object_storage_access_mode']}; set "
               f"object_storage_access_mode to ReadWriteMany, or {number} to {'false' if v['mlflow_server_autoscaling'] else 1}.")
    if kind == "volume" and v["mlflow_server_gc_schedule"] and v["object_storage_access_mode"] == "ReadWriteOncePod":
        yield ("object_storage_access_mode is ReadWriteOncePod while mlflow_server_gc_schedule is set, whose pod mounts the volume beside the "
               "server's; set it to ReadWriteOnce.")
    if on_volume and v["mlflow_server_artifacts"] != "proxied":
        yield (f"mlflow_server_artifacts is {v['mlflow_server_artifacts']} while object_storage_type is {kind}, which clients cannot reach; "
               f"set it to proxied, or choose an S3 store.")


def _service_account(text: object) -> bool:
    try:
        return json.loads(str(text)).get("type") in ("service_account", "external_account")
    except (ValueError, AttributeError):
        return False


def _schedule(text: str) -> bool:
    """Whether a text is cron's five fields, each in its range."""
    fields = text.split()
    return len(fields) == 5 and all(
        re.match(r"^[0-9A-Za-z*/,?-]+$", field) and all(least <= int(number) <= most for number in re.findall(r"(?<!/)\b\d+", field))
        for field, (least, most) in zip(fields, ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))))


def server(v: Variables) -> Iterator[str]:
    if int(v["mlflow_server_replicas"]) < 1:
        yield f"mlflow_server_replicas is {v['mlflow_server_replicas']}; it must be at least 1."
    if int(v["mlflow_server_workers"]) < 0:
        yield f"mlflow_server_workers is {v['mlflow_server_workers']}; it must be at least 1, or 0 for what mlflow_server_size gives."
    if v["mlflow_server_autoscaling"]:
        least, most = int(v["mlflow_server_autoscaling_min"]), int(v["mlflow_server_autoscaling_max"])
        if not 1 <= least <= most:
            yield (f"mlflow_server_autoscaling_min is {least} and mlflow_server_autoscaling_max is {most}; they must be at least 1, the second "
                   f"not below the first.")
        if not v["mlflow_server_autoscaling_cpu"] and not v["mlflow_server_autoscaling_memory"]:
            yield "mlflow_server_autoscaling_cpu and mlflow_server_autoscaling_memory are both 0; give one of them a percentage to scale by."
        for variable in ("mlflow_server_autoscaling_cpu", "mlflow_server_autoscaling_memory"):
            if int(v[variable]) < 0:
                yield f"{variable} is {v[variable]}; it must be a percentage, or 0 where it does not count."
        for key in sorted(set(v["mlflow_server_autoscaling_behavior"]) - {"scaleUp", "scaleDown"}):
            yield f"mlflow_server_autoscaling_behavior holds {key!r}; it may hold scaleUp and scaleDown."
    if int(v["mlflow_server_drain_seconds"]) < 0:
        yield f"mlflow_server_drain_seconds is {v['mlflow_server_drain_seconds']}; it must be a number of seconds, or 0."
    prefix = str(v["mlflow_server_path_prefix"] or "")
    if prefix and prefix != v.get("ingress_path") and not re.match(r"^(/[A-Za-z0-9._~-]+)+$", prefix):
        yield f"mlflow_server_path_prefix is {prefix!r}; it must begin with '/' and not end with one, such as /team/mlflow, or be empty."
    if v["mlflow_server_gc_schedule"] and not _schedule(str(v["mlflow_server_gc_schedule"])):
        yield f"mlflow_server_gc_schedule is {v['mlflow_server_gc_schedule']!r}; it must be cron's five fields, such as 0 3 * * 0."
    if not re.match(r"^(\d+(\.\d+)?[dhms])+$", str(v["mlflow_server_gc_older_than"])):
        yield f"mlflow_server_gc_older_than is {v['mlflow_server_gc_older_than']!r}; it must be a span of time such as 30d or 7d12h."
    archival = v["mlflow_server_trace_archival"]
    if archival and not v["mlflow_server_jobs"]:
        yield "mlflow_server_trace_archival is set while mlflow_server_jobs is false, and a job does the archiving; set mlflow_server_jobs to true."
    for key in sorted({"location", "retention"} - set(archival)) if archival else ():
        yield f"mlflow_server_trace_archival has no {key}; it needs location (such as s3://bucket/traces) and retention (such as 30d)."
    if v["mlflow_server_rbac_rules"] and not v["mlflow_server_service_account_token"]:
        yield ("mlflow_server_rbac_rules gives rights that no pod could use while mlflow_server_service_account_token is false; set it to true, "
               "or leave the rules out.")
    for host in v["mlflow_server_allowed_hosts"]:
        if "/" in str(host) or not str(host).strip():
            yield f"mlflow_server_allowed_hosts holds {host!r}; give the bare host name, such as mlflow.example.com, without scheme or path."
    for argument in v["mlflow_server_extra_args"]:
        option = str(argument).split("=", 1)[0]
        if option in OWN_ARGUMENTS:
            yield f"mlflow_server_extra_args holds {option}; use {OWN_ARGUMENTS[option]} for that."
    given = [entry.get("name") for entry in v["mlflow_server_extra_env"]]
    for name in sorted({str(name) for name in given if name and given.count(name) > 1}):
        yield f"mlflow_server_extra_env holds {name} twice; Kubernetes takes each name once."
    for entry in v["mlflow_server_extra_volumes"]:
        if not entry.get("name"):
            yield f"mlflow_server_extra_volumes holds {entry!r}; each entry has a name, and a source as in a Pod."
    volumes = {entry.get("name") for entry in v["mlflow_server_extra_volumes"]} | {"tmp", "config", "database", "artifacts"}
    for entry in v["mlflow_server_extra_volume_mounts"]:
        if entry.get("name") not in volumes or not entry.get("mountPath"):
            yield f"mlflow_server_extra_volume_mounts holds {entry!r}; each entry has mountPath, and the name of one of mlflow_server_extra_volumes."
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
    for host in sorted({host for host in hosts if hosts.count(host) > 1}):
        yield f"ingress_hosts holds {host!r} twice; name each host once."
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
    clients = v["mlflow_network_policy_clients"]
    if (v["mlflow_network_policy"] and v["mlflow_server_service_type"] != "ClusterIP" and v["mlflow_engine"] == "kubernetes"
            and not any("/" in str(client) for client in clients)):
        yield (f"mlflow_network_policy is true while mlflow_server_service_type is {v['mlflow_server_service_type']}, by which people come who are "
               f"no pods; add their networks to mlflow_network_policy_clients.")
    if v["mlflow_network_policy"] and kind in ("ingress", "gateway"):
        if preset in ("alb", "gce") and not any("/" in str(client) for client in clients):
            yield (f"mlflow_network_policy is true while ingress_preset is {preset}, whose load balancer is no pod; add its networks "
                   f"({'the subnets of the VPC' if preset == 'alb' else '130.211.0.0/22 and 35.191.0.0/16, or the proxy-only subnet'}) to "
                   f"mlflow_network_policy_clients.")
        elif not clients:
            yield (f"mlflow_network_policy_clients is empty while mlflow_network_policy is true and ingress_type is {kind}; name the namespace of "
                   f"its controller.")
    if kind == "gateway" and v["mlflow_server_tls_secret"] and not any(
            obj.get("kind") == "BackendTLSPolicy" for obj in v["mlflow_server_extra_objects"]):
        yield ("mlflow_server_tls_secret is set while ingress_type is gateway, whose Gateway would speak HTTP to it; add a BackendTLSPolicy to "
               "mlflow_server_extra_objects, or leave it empty.")
    if preset == "traefik" and v["mlflow_server_tls_secret"] and "traefik.ingress.kubernetes.io/service.serversscheme" not in (
            v["mlflow_server_service_annotations"]):
        yield ("mlflow_server_tls_secret is set while ingress_preset is traefik, which would speak HTTP to it; add "
               "traefik.ingress.kubernetes.io/service.serversscheme: https to mlflow_server_service_annotations, with a ServersTransport that "
               "trusts the certificate, or leave it empty.")
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
    elif given:
        for variable, what in (("ingress_tls_certificate", "CERTIFICATE"), ("ingress_tls_key", "PRIVATE KEY"), ("ingress_tls_ca", "CERTIFICATE")):
            if v[variable] and f"{what}-----" not in str(v[variable]):
                yield f"{variable} holds no {what.lower()}; give PEM text, for example by lookup('ansible.builtin.file', 'mlflow.pem')."
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
    if kind == "ingress" and v["ingress_preset"] == "alb" and tls in ("secret", "cert_manager"):
        yield f"ingress_tls is {tls} while ingress_preset is alb, which reads no Secret; set it to controller, with a certificate in ACM for ingress_hosts."
    if wrong:
        yield f"ingress_tls is {tls} while ingress_type is {kind}; set it to {wrong}."


def patches(v: Variables) -> Iterator[str]:
    for variable in ("database_patches", "object_storage_patches", "mlflow_server_patches", "ingress_patches"):
        for number, entry in enumerate(v[variable]):
            if set(entry) != {"target", "patch"} or not isinstance(entry["target"], dict) or not entry["target"].get("kind"):
                yield f"{variable}[{number}] must hold exactly target (kind, and name to reach one object) and patch (the fields to merge)."


def auth(v: Variables) -> Iterator[str]:
    kind = v["mlflow_server_auth"]
    given = [name for name in ("mlflow_server_auth_admin_password", "mlflow_server_auth_existing_secret", "mlflow_server_auth_external_secret") if v[name]]
    if kind == "none":
        for variable in (*given, "mlflow_server_oidc_issuer", "mlflow_server_auth_admins"):
            if v[variable]:
                yield f"{variable} is set while mlflow_server_auth is none; set mlflow_server_auth to basic, proxy or oidc, or leave {variable} empty."
        return
    if len(given) > 1:
        yield f"{given[0]} and {given[1]} are both set; keep one of them."
    password = str(v["mlflow_server_auth_admin_password"])
    if password and (len(password) < 12 or not password.isascii() or password == "password1234"):
        yield "mlflow_server_auth_admin_password is none that MLflow takes; it must have at least 12 characters, all of them ASCII, or be empty."
    if ":" in str(v["mlflow_server_auth_admin_user"]) or not str(v["mlflow_server_auth_admin_user"]).isascii():
        yield f"mlflow_server_auth_admin_user is {v['mlflow_server_auth_admin_user']!r}; it must be ASCII and without a colon."
    if kind != "oidc" and v["mlflow_server_oidc_issuer"]:
        yield f"mlflow_server_oidc_issuer is set while mlflow_server_auth is {kind}; set mlflow_server_auth to oidc, or leave it empty."
    if kind == "basic" and v["mlflow_server_auth_admins"]:
        yield "mlflow_server_auth_admins is set while mlflow_server_auth is basic; give users rights by module mlops.mlflow.mlflow_user."
    if kind == "oidc":
        for variable in ("mlflow_server_oidc_issuer", "mlflow_server_oidc_client_id"):
            if not v[variable]:
                yield f"{variable} is empty while mlflow_server_auth is oidc; give what the identity provider says."
        if v["mlflow_server_oidc_issuer"] and not re.match(r"^https?://[^/?#]+[^?#]*$", str(v["mlflow_server_oidc_issuer"])):
            yield f"mlflow_server_oidc_issuer is {v['mlflow_server_oidc_issuer']!r}; it must be a whole URL, such as https://id.example.com/realms/staff."
        if "accounts.google.com" in str(v["mlflow_server_oidc_issuer"]) and not v["mlflow_server_oidc_email_domains"] and not v["mlflow_server_oidc_groups"]:
            yield ("mlflow_server_oidc_email_domains is empty while mlflow_server_oidc_issuer is Google's, which would let in everybody who has a Google "
                   "account; name your domains.")
        if v["mlflow_server_oidc_ca"] and "BEGIN CERTIFICATE" not in str(v["mlflow_server_oidc_ca"]):
            yield "mlflow_server_oidc_ca holds no certificate; give PEM text, for example by lookup('ansible.builtin.file', 'ca.pem')."
        if not v["mlflow_server_oidc_client_secret"] and not (v["mlflow_server_auth_existing_secret"] or v["mlflow_server_auth_external_secret"]):
            yield ("mlflow_server_oidc_client_secret is empty while mlflow_server_auth is oidc; give it, or the name of a Secret that holds it in "
                   "mlflow_server_auth_existing_secret.")
        if not re.match(r"^https?://[^/]+/", str(v["mlflow_server_oidc_redirect_url"])):
            yield (f"mlflow_server_oidc_redirect_url is {v['mlflow_server_oidc_redirect_url']!r}; it must be a whole URL, such as "
                   f"https://mlflow.example.com/oauth2/callback, or follow from ingress_type and ingress_hosts, or from mlflow_server_publish.")
    if v["database_type"] in ("mysql", "mariadb"):
        # Its tables for models and for experiments name their foreign keys alike, which MySQL takes once in a database.
        yield (f"mlflow_server_auth is {kind} while database_type is {v['database_type']}, in which MLflow cannot make the tables of its users; set "
               f"database_type to postgresql or sqlite, or mlflow_server_auth to none.")
    if v["mlflow_server_artifacts"] == "direct":
        yield ("mlflow_server_artifacts is direct while mlflow_server_auth is on, so that clients with keys of the store would get round it; set "
               "mlflow_server_artifacts to proxied.")
    if v["mlflow_server_auth_external_secret"]:
        needed = {"username", "password", "secret-key"} | ({"proxy-secret"} if kind in ("proxy", "oidc") else set())
        needed |= {"client-secret", "cookie-secret"} if kind == "oidc" else set()
        yield from _external("mlflow_server_auth_external_secret", v["mlflow_server_auth_external_secret"], needed, v)


RULES: tuple[Rule, ...] = (names, objects, sizes, resources, ports, database, object_storage, server, auth, ingress, certificates, patches)


def broken(variables: Variables) -> Iterator[str]:
    """Sentences for all rules that the variables break; rules about roles that the play does not have say nothing."""
    for rule in RULES:
        try:
            yield from list(rule(variables))
        except KeyError:
            continue
