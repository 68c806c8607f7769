# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rules about the server, and about who may come in."""

from __future__ import annotations

import re
from typing import Iterator

from ansible_collections.mlops.mlflow.plugins.plugin_utils.rules.terms import Rule, Variables, authorities, external_secret

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
        yield from authorities("mlflow_server_oidc_ca", v)
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
        yield from external_secret("mlflow_server_auth_external_secret", v["mlflow_server_auth_external_secret"], needed, v)


def _schedule(text: str) -> bool:
    """Whether a text is cron's five fields, each in its range."""
    fields = text.split()
    return len(fields) == 5 and all(
        re.match(r"^[0-9A-Za-z*/,?-]+$", field) and all(least <= int(number) <= most for number in re.findall(r"(?<!/)\b\d+", field))
        for field, (least, most) in zip(fields, ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))))


RULES: tuple[Rule, ...] = (server, auth)
