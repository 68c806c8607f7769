# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The MLflow server: its pods, its logins, and the Jobs that prepare and clean its stores."""

from __future__ import annotations

import pathlib
import posixpath
import urllib.parse
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Iterator

from ansible_collections.mlops.mlflow.plugins.plugin_utils.components import database, ingress, object_storage
from ansible_collections.mlops.mlflow.plugins.plugin_utils.components.base import Component, Network
from ansible_collections.mlops.mlflow.plugins.plugin_utils.components.connections import (
    SIZES, server_resources)
from ansible_collections.mlops.mlflow.plugins.plugin_utils.components.images import built
from ansible_collections.mlops.mlflow.plugins.plugin_utils.model import common
from ansible_collections.mlops.mlflow.plugins.plugin_utils.monitoring import metrics, scraping
from ansible_collections.mlops.mlflow.plugins.plugin_utils.program import Probe

if TYPE_CHECKING:
    from ansible_collections.mlops.mlflow.plugins.plugin_utils.model import Model
    from ansible_collections.mlops.mlflow.plugins.plugin_utils.model.variables import Variables

FILES = pathlib.Path(__file__).parents[3] / "roles" / "mlflow_server" / "files"
OIDC_PORT = 4180
PRIVATE_ADDRESSES = ["localhost", "127.0.0.1", "[[]::1]", "10.*", "192.168.*",
                     *(f"172.{number}.*" for number in range(16, 32))]
"""MLflow's own allow-list, which naming any host would switch off: loopback, and addresses of private ranges (the check
is against forged names, and an address is no name)."""
METADATA_SERVERS = ("169.254.170.23/32", "169.254.169.254/32", "169.254.169.252/32")
"""EKS Pod Identity, EC2's and Google's metadata servers."""
OWN_ARGUMENTS = {
    "--host": "mlflow_server_publish on podman (the server in its pod listens on 0.0.0.0)",
    "-h": "mlflow_server_publish on podman (the server in its pod listens on 0.0.0.0)", "--port": "mlflow_server_port",
    "-p": "mlflow_server_port", "--workers": "mlflow_server_workers", "-w": "mlflow_server_workers",
    "--backend-store-uri": "database_type", "--artifacts-destination": "object_storage_type",
    "--default-artifact-root": "mlflow_server_artifacts", "--serve-artifacts": "mlflow_server_artifacts",
    "--no-serve-artifacts": "mlflow_server_artifacts", "--allowed-hosts": "mlflow_server_allowed_hosts",
    "--cors-allowed-origins": "ingress_cors_origins", "--static-prefix": "mlflow_server_path_prefix",
    "--enable-workspaces": "mlflow_server_workspaces", "--trace-archival-config": "mlflow_server_trace_archival",
    "--read-replica-backend-store-uri": "database_read_replica_host",
    "--app-name": "mlflow_server_auth or mlflow_server_app_name",
    "--disable-security-middleware": "mlflow_server_allowed_hosts and ingress_cors_origins",
    "--uvicorn-opts": "mlflow_server_uvicorn_args, and mlflow_server_tls_secret for TLS,",
}
"""Options of `mlflow server` that variables set."""
OWN_UVICORN_ARGUMENTS = {
    "--host": "mlflow_server_publish on podman", "--port": "mlflow_server_port", "--workers": "mlflow_server_workers",
    "--log-level": "mlflow_server_log_level", "--ssl-certfile": "mlflow_server_tls_secret",
    "--ssl-keyfile": "mlflow_server_tls_secret", "--root-path": "mlflow_server_path_prefix",
    "--forwarded-allow-ips": "mlflow_server_extra_env with FORWARDED_ALLOW_IPS",
    "--env-file": "mlflow_server_extra_env", "--reload": "an image with your changes", "--factory": "nothing",
    "--app-dir": "mlflow_server_app_name", "--uds": "mlflow_server_port", "--fd": "mlflow_server_port",
}
"""Options of uvicorn that variables or MLflow itself set."""
OWN_OIDC_ARGUMENTS = {
    "--provider": "mlflow_server_oidc_provider", "--oidc-issuer-url": "mlflow_server_oidc_issuer",
    "--client-id": "mlflow_server_oidc_client_id", "--client-secret": "mlflow_server_oidc_client_secret",
    "--redirect-url": "mlflow_server_oidc_redirect_url", "--scope": "mlflow_server_oidc_scopes",
    "--email-domain": "mlflow_server_oidc_email_domains", "--allowed-group": "mlflow_server_oidc_groups",
    "--provider-ca-file": "mlflow_server_oidc_ca", "--http-address": "mlflow_server_port",
    "--https-address": "mlflow_server_tls_secret", "--tls-cert-file": "mlflow_server_tls_secret",
    "--tls-key-file": "mlflow_server_tls_secret", "--upstream": "mlflow_server_port",
    "--proxy-prefix": "mlflow_server_path_prefix", "--basic-auth-password": "mlflow_server_auth_existing_secret",
    "--cookie-secret": "mlflow_server_auth_existing_secret",
}
"""Options of oauth2-proxy that variables set; a second --email-domain beside the default of all lets in all."""
WITHOUT_ISSUER = {
    "google": ("https://accounts.google.com", "Google", ("--google-group",)),
    "github": ("", "GitHub", ("--github-org", "--github-team", "--github-repo", "--github-user")),
}
"""Providers of oauth2-proxy that need no issuer: the issuer, the name, and the options that limit who may log in."""
GROUPS_HEADER = "X-Forwarded-Groups"
"""Header in which oauth2-proxy names the groups of the user, and which it removes from requests of clients."""
RESERVED_HEADERS = ("authorization", "cookie", "host", "x-proxy-secret")
"""Headers that cannot name a user."""
ENCRYPTION_KEYS = {"webhooks": "webhook-key", "gateway": "kek-passphrase"}
"""Keys of the generated Secret (roles/mlflow_server/templates/config.yaml.j2)."""
AUTH_KEYS = {
    "basic": {"user": "username", "password": "password", "secret_key": "secret-key"},
    "proxy": {"proxy_secret": "proxy-secret"},
    "oidc": {"client_secret": "client-secret", "cookie_secret": "cookie-secret"},
}
"""Keys of a Secret of the logins by what they hold, and from which kind of authentication on there are such."""
GENERATED_AUTH = ("secret_key", "proxy_secret", "cookie_secret")
"""What an existing Secret need not hold."""
OIDC_KEYS = {"client_id": "client-id", "client_secret": "client-secret", "cookie_secret": "cookie-secret"}
AUTH_LOGINS = ("mlflow_server_auth_admin_password", "mlflow_server_auth_existing_secret",
               "mlflow_server_auth_external_secret")


@dataclass(frozen=True)
class Auth:
    """How users log in.

    Attributes:
        kind: none, basic, proxy or oidc.
        secret: Secret of the administrator's login.
        keys: keys of Secrets, by what they hold.
        secrets: the Secrets of these keys, likewise.
        own: keys of the Secret that the component makes, likewise.
        own_secret: the name of that Secret.
        env: environment variables, by what of the Secrets they hold.
        redirect_url: where the identity provider sends users back to.
        groups_header: header with the user's groups, or empty where they give no rights.
    """

    kind: str
    secret: str
    keys: dict
    secrets: dict
    own: dict
    own_secret: str
    env: dict
    redirect_url: str
    groups_header: str

    @property
    def behind_proxy(self) -> bool:
        """Whether a proxy names the user."""
        return self.kind in ("proxy", "oidc")


@dataclass(frozen=True)
class MlflowServerPart:
    """What the component's templates, the ingress and probes read.

    Attributes:
        name: of the Deployment.
        service: name of the Service.
        port: of the server in its pods.
        entry_port: the pods' port that users come to: oauth2-proxy's with oidc, else the server's.
        service_port: the Service's port of the server.
        entry_service_port: the Service's port that the ingress leads to.
        service_account: name of the pods' ServiceAccount.
        own_service_account: whether the component makes it.
        app_name: of MLflow's application, or empty for the default one without logins.
        default_artifact_root: of new experiments where it is not what MLflow chooses, or empty.
        uvicorn_opts: options of uvicorn, as `mlflow server` takes them.
        scheme: http or https.
        service_hosts: names of the Service.
        allowed_hosts: Host headers that the server accepts.
        cors_origins: origins whose pages may call the API.
        threads: threads of each worker that answer API requests.
        url: by which users reach the server, or empty where nothing outside the cluster leads to it.
        cluster_url: URL of the Service.
        encryption_secret: Secret with the keys of the database's secrets.
        encryption_keys: its keys, by what they hold.
        volumes: name, path and source of what is mounted into every pod that opens the stores.
        exclusive: whether one pod at a time can mount the stores.
        store_steps: steps of prepare.py about the artifacts.
        metrics: whether requests are counted, and the pods' port mlflow_server_metrics_port answers.
        pod_annotations: of the server's pods, those by which a cluster's Prometheus finds them included.
        closed_because: the sentence that is answered in the server's place while its stores are restored, or empty.
        restoring: whether it is closed by restore.yml, whose database from before is the one that is wanted until the
            server is opened again.
        given: values that a restored backup gives to generated Secrets: ``encryption`` and ``auth``.
        pod_labels: further labels of the server's pods, which a cluster's Prometheus copies to their metrics.
        init_containers: of variables, in every pod that opens the stores, before all others.
        containers: of variables, beside the server.
    """

    name: str
    service: str
    image: str
    port: int
    entry_port: int
    service_port: int
    entry_service_port: int
    service_account: str
    own_service_account: bool
    app_name: str
    default_artifact_root: str
    uvicorn_opts: str
    scheme: str
    path_prefix: str
    workers: int
    threads: int
    resources: dict
    database: database.Endpoint
    artifact_store: object_storage.Endpoint
    service_hosts: list
    allowed_hosts: list
    cors_origins: list
    url: str
    cluster_url: str
    auth: Auth
    encryption_secret: str
    encryption_keys: dict
    volumes: list
    exclusive: bool
    store_steps: list
    metrics: bool
    pod_annotations: dict
    closed_because: str
    restoring: bool
    given: dict
    pod_labels: dict
    init_containers: list
    containers: list


class MlflowServer(Component):
    name = "server"
    role = "mlflow_server"
    title = "The server"
    needs = ("object_storage", "database")
    multiline = ("mlflow_server_oidc_ca",)
    secrets = ("mlflow_server_auth_admin_password", "mlflow_server_oidc_client_secret")

    def resolve(self, v: Variables, model: Model) -> MlflowServerPart:
        instance, name = model.instance, f"{model.instance.name}-server"
        scheme = "https" if v.mlflow_server_tls_secret else "http"
        prefix = ingress.server_path(v)
        given = v.mlflow_server_database
        if given and given.get("type") != "sqlite":
            given = {"pool": database.pool(v, model.database.connections), **given}
        backend = _endpoint(database.Endpoint, given, model.database.endpoint)
        store = _endpoint(object_storage.Endpoint, v.mlflow_server_artifact_store, model.object_storage.endpoint)
        service_name = v.mlflow_server_service_name or name
        service_hosts = [f"{service_name}{suffix}" for suffix in (
            "", f".{instance.namespace}", f".{instance.namespace}.svc", f".{instance.namespace}.svc.cluster.local")]
        url = ingress.public_url(v)
        if not url and v.mlflow_server_publish and instance.engine == "podman":
            url = f"{scheme}://{v.mlflow_server_publish}{prefix}"
        size = SIZES[v.mlflow_server_size]
        image = v.get("_mlflow_server_image") or v.mlflow_server_image
        if image is None:
            image = built(v)["mlflow"] if instance.build else f"ghcr.io/mlflow/mlflow:v{instance.version}-full"
        entry_port = OIDC_PORT if v.mlflow_server_auth == "oidc" else v.mlflow_server_port
        entry_service_port = v.mlflow_server_service_port or entry_port
        service_port = v.mlflow_server_port if v.mlflow_server_auth == "oidc" else entry_service_port
        return MlflowServerPart(
            name=name, service=v.get("_mlflow_server_service") or service_name, image=image,
            port=v.mlflow_server_port, entry_port=entry_port,
            service_port=service_port, entry_service_port=entry_service_port,
            service_account=v.mlflow_server_service_account or name,
            own_service_account=makes_service_account(v), app_name=_app_name(v),
            default_artifact_root=_default_artifact_root(v, store), uvicorn_opts=" ".join(_uvicorn_args(v)),
            scheme=scheme,
            path_prefix=prefix,
            workers=v.mlflow_server_workers or size.workers, threads=v.mlflow_server_threads or size.threads,
            resources=server_resources(v),
            database=backend, artifact_store=store, service_hosts=service_hosts,
            allowed_hosts=allowed_hosts(service_hosts + v.mlflow_server_allowed_hosts + v.ingress_hosts),
            cors_origins=cors_origins(v, url), url=url,
            cluster_url=f"{scheme}://{service_hosts[3]}:{service_port}{prefix}", auth=_auth(v, name, url),
            encryption_secret=v.mlflow_server_encryption_existing_secret or f"{name}-encryption",
            encryption_keys=(v.mlflow_server_encryption_existing_secret_keys
                             if v.mlflow_server_encryption_existing_secret else ENCRYPTION_KEYS),
            volumes=_volumes(v, backend, store),
            exclusive=any(endpoint.claim and not endpoint.shared for endpoint in (backend, store)),
            store_steps=_store_steps(store.bucket_settings), metrics=counted(v),
            pod_annotations=_pod_annotations(v), closed_because=v.get("_mlflow_server_closed") or "",
            restoring=bool(v.get("_mlflow_server_closed") and v.get("_mlflow_server_restoring")),
            given=_given(v),
            pod_labels=scraping.pod_labels(metrics.SERVER_JOB, instance.name) if v.monitoring_type == "annotations"
            else {},
            init_containers=[*v.mlflow_server_extra_init_containers, *_proxies(v)],
            containers=[] if _proxies(v) else v.mlflow_server_extra_containers)

    def context(self, v: Variables, model: Model) -> dict[str, Any]:
        return {"hooks": sorted(path.name for path in FILES.glob("hook_*.py"))}

    def templates(self, v: Variables, model: Model) -> list[str]:
        wanted = {"auth.yaml.j2": v.mlflow_server_auth != "none", "config.yaml.j2": True, "server.yaml.j2": True,
                  "scale.yaml.j2": True,
                  "network.yaml.j2": v.mlflow_network_policy, "gc.yaml.j2": v.mlflow_server_gc_schedule,
                  "extra.yaml.j2": v.mlflow_server_extra_objects}
        return [template for template, render in wanted.items() if render]

    def images(self, v: Variables, model: Model) -> list[str]:
        return ["mlflow"]

    def network(self, v: Variables, model: Model) -> Network:
        """The server, its migration and its cleaning: all that opens the stores."""
        ports = sorted({v.mlflow_server_port, model.mlflow_server.entry_port},
                       key=lambda port: port != v.mlflow_server_port)
        ingress = [{"ports": [{"port": port, "protocol": "TCP"} for port in ports], "from": common.clients(v)}]
        if v.monitoring_type != "none":
            own = {"podSelector": {"matchLabels": model.instance.selector("monitoring-prometheus")}}
            ingress.append({**to_ports([v.mlflow_server_metrics_port]),
                            "from": [own, *map(common.peer, v.monitoring_clients)]})
        return Network(
            ingress=ingress,
            egress=[common.DNS, {"to": [{"podSelector": {"matchLabels": model.instance.labels}}]},
                    *self._egress(v, model)],
            components=("server", "migration", "gc", "verification"))

    def _egress(self, v: Variables, model: Model) -> Iterator[dict]:
        backend, store = model.mlflow_server.database, model.mlflow_server.artifact_store
        external_store = store.type == "uri" or bool(store.bucket and not store.service)
        if backend.proxy or (backend.host or backend.uri_key) and not backend.service:
            # Cloud SQL's proxy connects to port 3307 and asks Google over HTTPS.
            yield to_ports([443, 3307] if backend.proxy else [backend.port])
        if external_store:
            yield to_ports([443, port_of(store.uri if store.type == "uri" else store.url or "https://")])
        if backend.proxy and store.type != "gcs" or (backend.proxy or external_store) and not store.secret:
            yield {**to_ports([80, 988]), "to": [{"ipBlock": {"cidr": cidr}} for cidr in METADATA_SERVERS]}
        if v.mlflow_server_auth == "oidc":
            yield to_ports([port_of(v.mlflow_server_oidc_issuer)])
        if v.mlflow_server_webhook_receivers:
            yield {"to": [common.peer(receiver) for receiver in v.mlflow_server_webhook_receivers]}
        yield from v.mlflow_network_policy_egress

    def probes(self, v: Variables, model: Model) -> list[Probe]:
        server = model.mlflow_server
        base = {"validate_certs": False, "path_prefix": server.path_prefix}
        probes = [
            Probe(
                self.role,
                self.title,
                "server",
                {
                    **base,
                    "url": f"{server.scheme}://{server.service}:{server.service_port}",
                    "environment": True,
                    "expected_version": model.instance.version,
                    "webhooks": True,
                    "presigned": v.mlflow_server_artifacts == "presigned",
                    "allowed_hosts": (
                        server.service_hosts + [host for host in v.mlflow_server_allowed_hosts if "*" not in host]
                    ),
                },
            )
        ]
        probes.append(Probe("hooks", "The server's adaptation of MLflow", "hooks", local=True))
        if v.mlflow_server_auth == "oidc":
            probes.append(Probe("login", "The login", "server", {
                **base, "url": f"{server.scheme}://{server.service}:{server.entry_service_port}",
                "login_elsewhere": True}))
        return probes

    def unsupported(self, v: Variables, model: Model) -> Iterator[str]:
        if v.mlflow_engine != "podman":
            return
        if v.mlflow_platform_ids:
            yield ("mlflow_platform_ids is true while mlflow_engine is podman, where no platform chooses the user of a "
                   "pod; set it to false.")
        for container in model.mlflow_server.init_containers:
            if container.get("restartPolicy") == "Always":
                yield (f"The init container {container['name']} has restartPolicy Always or is a proxy of "
                       "database_host, while mlflow_engine is podman, whose init containers end before others start; "
                       "run it on that machine, and give the machine's address in database_host.")
        server = model.mlflow_server
        if server.entry_service_port != server.entry_port:
            yield (f"mlflow_server_service_port is {server.entry_service_port} while mlflow_engine is podman, where a "
                   f"Service has the port of its pods, {server.entry_port}; leave it 0, and set the port of the host "
                   "in mlflow_server_publish.")
        if v.mlflow_server_kaiwo:
            yield ("mlflow_server_kaiwo is true while mlflow_engine is podman, where no Kaiwo operator runs; set it "
                   "to false.")
        if v.mlflow_server_auth_external_secret:
            yield ("mlflow_server_auth_external_secret is set while mlflow_engine is podman, where no operator runs; "
                   "use Ansible Vault there.")

    def _check_scale(self, v: Variables, model: Model) -> Iterator[str]:
        if not 1 <= v.mlflow_server_replicas <= 1000:
            yield f"mlflow_server_replicas is {v.mlflow_server_replicas}; it must be at least 1, and at most 1000."
        if not 0 <= v.mlflow_server_workers <= 256:
            yield (f"mlflow_server_workers is {v.mlflow_server_workers}; it must be at least 1 and at most 256, or 0 "
                   "for what "
                   f"mlflow_server_size gives.")
        if not 0 <= v.mlflow_server_threads <= 100:
            yield (f"mlflow_server_threads is {v.mlflow_server_threads}; it must be at least 1 and at most 100, or 0 "
                   "for what mlflow_server_size gives.")
        for variable in ("mlflow_server_drain_seconds", "mlflow_server_auth_cache_seconds"):
            if not 0 <= v[variable] <= 86400:
                yield f"{variable} is {v[variable]}; it must be a number of seconds up to 86400, or 0."
        if not v.mlflow_server_autoscaling:
            return
        least, most = v.mlflow_server_autoscaling_min, v.mlflow_server_autoscaling_max
        if not 1 <= least <= most:
            yield (f"mlflow_server_autoscaling_min is {least} and mlflow_server_autoscaling_max is {most}; they must "
                   "be at least 1, the "
                   f"second not below the first.")
        if not v.mlflow_server_autoscaling_cpu and not v.mlflow_server_autoscaling_memory:
            yield ("mlflow_server_autoscaling_cpu and mlflow_server_autoscaling_memory are both 0; give one of them a "
                   "percentage to scale "
                   "by.")
        figures = server_resources(v)
        for resource in ("cpu", "memory"):
            variable = f"mlflow_server_autoscaling_{resource}"
            if v[variable] < 0:
                yield f"{variable} is {v[variable]}; it must be a percentage, or 0 where it does not count."
            elif v[variable] and not any((figures.get(part) or {}).get(resource) for part in ("requests", "limits")):
                yield (f"{variable} is {v[variable]} while the server's container requests no {resource}, of which it "
                       f"is a percentage; give a request in mlflow_server_resources, or set {variable} to 0.")

    def _check_schedule(self, v: Variables, model: Model) -> Iterator[str]:
        yield from common.schedule("mlflow_server_gc_schedule", v.mlflow_server_gc_schedule, "0 3 * * 0")
        if v.mlflow_server_gc_older_than and not common.matches(common.SPAN, v.mlflow_server_gc_older_than):
            yield (f"mlflow_server_gc_older_than is {v.mlflow_server_gc_older_than!r}; it must be a span of time such "
                   "as 30d or 7d12h, or empty for no age.")

    def _check_archival(self, v: Variables, model: Model) -> Iterator[str]:
        archival = v.mlflow_server_trace_archival
        if archival and not v.mlflow_server_jobs:
            yield ("mlflow_server_trace_archival is set while mlflow_server_jobs is false, and a job does the "
                   "archiving; set "
                   "mlflow_server_jobs to true.")
        if archival and not common.matches(r"[0-9]{1,31}[mhd]", str(archival.get("retention", "30d"))):
            yield (f"mlflow_server_trace_archival.retention is {archival['retention']!r}; it must be a number of "
                   "days, hours or minutes, such as 30d.")
        if archival and not common.matches(r"[a-z][a-z0-9+.-]*:/*[^\s?#]+", str(archival.get("location", "s3://b"))):
            yield "mlflow_server_trace_archival.location is no URI; it must be such as s3://bucket/traces."
        for key in sorted({"location", "retention"} - set(archival)) if archival else ():
            yield (f"mlflow_server_trace_archival has no {key}; it needs location (such as s3://bucket/traces) and "
                   "retention (such as 30d).")

    def _check_names(self, v: Variables, model: Model) -> Iterator[str]:
        prefix = v.mlflow_server_path_prefix
        if prefix and not common.matches(r"(/[A-Za-z0-9._~-]+)+", prefix):
            yield (f"mlflow_server_path_prefix is {prefix!r}; it must begin with '/' and not end with one, such as "
                   "/team/mlflow, or be empty.")
        elif prefix is not None and v.ingress_type != "none" and prefix != v.ingress_path and not v.ingress_rewrite:
            yield (f"mlflow_server_path_prefix is {prefix!r} while ingress_path is {v.ingress_path!r}, which goes to "
                   "the server unchanged; "
                   f"leave mlflow_server_path_prefix out, or set ingress_rewrite to true.")
        name = v.mlflow_server_service_name
        if name and not common.matches(common.DNS_LABEL, name):
            yield (f"mlflow_server_service_name is {name!r}; it must be a DNS label of lower-case letters, digits and "
                   "'-', or empty.")
        if not 1 <= v.mlflow_server_user <= 2**31 - 1:
            yield f"mlflow_server_user is {v.mlflow_server_user}; it must be the ID of a user other than root, from 1."
        for host in v.mlflow_server_allowed_hosts:
            if not common.matches(r"[A-Za-z0-9*?\[\]:._-]+", host):
                yield (f"mlflow_server_allowed_hosts holds {common.hidden(host)}; give the bare host name, such as "
                       "mlflow.example.com, without scheme or "
                       f"path.")
        for receiver in v.mlflow_server_webhook_receivers:
            if not (common.network(receiver) if "/" in receiver else common.matches(common.DNS_LABEL, receiver)):
                yield (f"mlflow_server_webhook_receivers holds {receiver!r}; it must be a namespace's name, or a "
                       "network such as "
                       f"10.0.0.0/16.")
        if v.mlflow_server_rbac_rules and not v.mlflow_server_service_account_token:
            yield ("mlflow_server_rbac_rules gives rights that no pod could use while "
                   "mlflow_server_service_account_token is false; set it "
                   "to true, or leave the rules out.")
        if v.mlflow_server_kaiwo_queue and not v.mlflow_server_kaiwo:
            yield ("mlflow_server_kaiwo_queue is set while mlflow_server_kaiwo is false; set mlflow_server_kaiwo to "
                   "true, or leave the queue "
                   "empty.")

    def _check_ports(self, v: Variables, model: Model) -> Iterator[str]:
        if not 1024 <= v.mlflow_server_port <= 65535:
            yield f"mlflow_server_port is {v.mlflow_server_port}; it must be a TCP port from 1024 to 65535."
        pod = {"mlflow_server_port": v.mlflow_server_port}  # the containers of a pod share its ports
        if counted(v):
            pod["mlflow_server_metrics_port"] = v.mlflow_server_metrics_port
            if not 1024 <= v.mlflow_server_metrics_port <= 65535:
                yield (f"mlflow_server_metrics_port is {v.mlflow_server_metrics_port}; it must be a TCP port from 1024 "
                       "to 65535.")
        if v.database_cloudsql_instance:
            pod |= {"database_port": model.database.port, "the health check of Cloud SQL's proxy": 9801}
        if v.mlflow_server_auth == "oidc":
            pod["oauth2-proxy"] = OIDC_PORT
            if v.mlflow_server_service_port == v.mlflow_server_port:
                yield (f"mlflow_server_service_port is {v.mlflow_server_port}, which is mlflow_server_port, at which "
                       "programs log in beside oauth2-proxy; choose another for one of them.")
        names = list(pod)
        for number, name in enumerate(names):
            for other in names[number + 1:]:
                if pod[name] == pod[other]:
                    yield f"{name} is {pod[name]}, which is also the port of {other} in the same pod; choose another."
        if v.mlflow_server_publish and not common.host_port(v.mlflow_server_publish):
            yield (f"mlflow_server_publish is {v.mlflow_server_publish!r}; it must be an address and a port such as "
                   "127.0.0.1:5000, or "
                   f"empty.")

    def _check_environment(self, v: Variables, model: Model) -> Iterator[str]:
        before = ""
        for argument in v.mlflow_server_extra_args:
            sentences: list[str] = []
            if argument.startswith("-") or "=" in before or not before.startswith("-"):
                sentences = list(common.argument("mlflow_server_extra_args", argument))
            yield from sentences
            before = argument
            option = argument.split("=", 1)[0].split()[0]
            if not option.startswith("--"):
                option = option[:2]  # a value may follow a short option at once
            if option in OWN_ARGUMENTS and not sentences:
                yield f"mlflow_server_extra_args holds {option}; use {OWN_ARGUMENTS[option]} for that."
            if option in ("--gunicorn-opts", "--waitress-opts"):
                for variable in ("mlflow_server_metrics", "mlflow_server_access_log"):
                    if v[variable]:
                        yield (f"mlflow_server_extra_args holds {option} while {variable} is {v[variable]}, and only "
                               f"the requests of uvicorn are counted and logged; leave {option} or {variable} out.")
        for argument in v.mlflow_server_uvicorn_args:
            sentences = list(common.argument("mlflow_server_uvicorn_args", argument))
            yield from sentences
            option, _equals, value = argument.partition("=")
            if option in OWN_UVICORN_ARGUMENTS and not sentences:
                yield (f"mlflow_server_uvicorn_args holds {option}; use {OWN_UVICORN_ARGUMENTS[option]} for that, and "
                       "leave it out here.")
            elif not common.matches(r"[^\s'\"\\]*", value) and not sentences:
                yield (f"mlflow_server_uvicorn_args holds {option} with a blank, a quote or a backslash in its value, "
                       "at which MLflow splits; give a value without them.")
        given = [entry["name"] for entry in v.mlflow_server_extra_env]
        if "MLFLOW_UVICORN_OPTS" in given and model.mlflow_server.uvicorn_opts:
            yield ("mlflow_server_extra_env holds MLFLOW_UVICORN_OPTS, which MLflow does not read beside the options "
                   "that follow from mlflow_server_uvicorn_args, mlflow_server_log_level and "
                   "mlflow_server_tls_secret; put its options into mlflow_server_uvicorn_args.")
        for name in sorted({name for name in given if given.count(name) > 1}):
            yield f"mlflow_server_extra_env holds {name} twice; Kubernetes takes each name once."

    def _check_application(self, v: Variables, model: Model) -> Iterator[str]:
        name, root = v.mlflow_server_app_name, v.mlflow_server_default_artifact_root
        if name and not common.matches(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", name):
            yield (f"mlflow_server_app_name is {name!r}; it must be the name of an entry point mlflow.app of a package "
                   "in the image, such as oidc-auth.")
        elif name and v.mlflow_server_auth in ("proxy", "oidc"):
            yield (f"mlflow_server_app_name is {name} while mlflow_server_auth is {v.mlflow_server_auth}, whose logins "
                   "are those of MLflow's basic-auth; leave it empty, or set mlflow_server_auth to none or basic.")
        if root and not common.matches(r"[a-z][a-z0-9+.-]*:[^\s?#]+|/[^\s?#]*", root):
            yield (f"mlflow_server_default_artifact_root is {common.hidden(root)}; it must be a URI such as "
                   "s3://bucket/path or mlflow-artifacts:/path.")
        elif root and v.mlflow_server_auth != "none" and not root.startswith("mlflow-artifacts:"):
            yield (f"mlflow_server_default_artifact_root is {common.hidden(root)} while mlflow_server_auth is "
                   f"{v.mlflow_server_auth}, so that clients with keys of the store would get round it; give a URI "
                   "that begins with mlflow-artifacts:, or leave it empty.")

    def _check_volumes(self, v: Variables, model: Model) -> Iterator[str]:
        own = {"tmp": "/tmp", "config": "/etc/mlflow",
               **{volume["name"]: volume["path"] for volume in model.mlflow_server.volumes}}
        names = [entry["name"] for entry in v.mlflow_server_extra_volumes]
        for name in sorted({name for name in names if names.count(name) > 1 or name in own}):
            yield (f"mlflow_server_extra_volumes holds {name}, "
                   f"{'which the pod has already' if name in own else 'twice'}; choose another name.")
        mounts = {"mlflow_server_extra_volume_mounts": v.mlflow_server_extra_volume_mounts}
        for variable in ("mlflow_server_extra_init_containers", "mlflow_server_extra_containers"):
            mounts |= {f"{variable}[{number}].volumeMounts": entry.get("volumeMounts") or [] for number,
                       entry in enumerate(v[variable])}
        for where, entries in mounts.items():
            for entry in entries:
                if entry["name"] not in {*own, *names}:
                    yield (f"{where} holds {entry['name']}, which is no volume of the pod; it must be the name of one "
                           "of "
                           f"mlflow_server_extra_volumes.")
        paths = [entry["mountPath"] for entry in v.mlflow_server_extra_volume_mounts]
        for path in sorted({path for path in paths if paths.count(path) > 1 or path in own.values()}):
            yield (
                f"mlflow_server_extra_volume_mounts holds {path},"
                f" {'where a volume is mounted already' if path in own.values() else 'twice'}; choose another"
                " mountPath."
            )

    def _check_containers(self, v: Variables, model: Model) -> Iterator[str]:
        taken = {"mlflow", "wait", "oauth2-proxy", "cloud-sql-proxy"}
        jobs = {"migrate", "gc", "backup", "database", "exporter"}  # init containers are in these pods, too
        ports = {model.mlflow_server.port, model.mlflow_server.entry_port}
        if counted(v):
            ports.add(v.mlflow_server_metrics_port)
        for variable in ("mlflow_server_extra_init_containers", "mlflow_server_extra_containers"):
            for entry in v[variable]:
                first = entry["name"] in names_of(model.mlflow_server.init_containers)
                if entry["name"] in (taken | jobs if first else taken):
                    yield (f"{variable} holds {entry['name']}, which is the name of another container of the pod; "
                           "choose another.")
                taken.add(entry["name"])
                for port in entry.get("ports") or []:
                    if variable == "mlflow_server_extra_containers" and port["containerPort"] in ports:
                        yield (f"{variable} holds the port {port['containerPort']}, which the server has in the same "
                               "pod; choose another.")

    def _check_no_auth(self, v: Variables, model: Model) -> Iterator[str]:
        if v.mlflow_server_auth != "none":
            return
        oidc = ("mlflow_server_oidc_issuer", "mlflow_server_oidc_client_id", "mlflow_server_oidc_client_secret",
                "mlflow_server_oidc_existing_secret")
        set_here = [name for name in (*AUTH_LOGINS, "mlflow_server_auth_admins", "mlflow_server_auth_admin_groups")
                    if v[name]]
        for variable in (*set_here, *[name for name in oidc if v[name]][:1]):
            yield (f"{variable} is set while mlflow_server_auth is none; set mlflow_server_auth to basic, proxy or "
                   "oidc, "
                   f"or leave {variable} empty.")

    def _check_auth(self, v: Variables, model: Model) -> Iterator[str]:
        if v.mlflow_server_auth == "none":
            return
        kind, given = v.mlflow_server_auth, [name for name in AUTH_LOGINS if v[name]]
        if len(given) > 1:
            yield f"{given[0]} and {given[1]} are both set; keep one of them."
        password, user = v.mlflow_server_auth_admin_password, v.mlflow_server_auth_admin_user
        if password and (len(password) < 12 or not password.isascii() or password == "password1234"):
            yield ("mlflow_server_auth_admin_password is none that MLflow takes; it must have at least 12 characters, "
                   "all of them ASCII, or "
                   "be empty.")
        if not user or ":" in user or not user.isascii():
            yield f"mlflow_server_auth_admin_user is {user!r}; it must be ASCII and without a colon."
        keys = v.mlflow_server_auth_existing_secret_keys
        for part in sorted(part for part, key in keys.items() if not key and part not in (*GENERATED_AUTH, "client_id",
                                                                                          "client_secret")):
            yield (f"mlflow_server_auth_existing_secret_keys.{part} is empty; only "
                   f"{', '.join(GENERATED_AUTH)} are generated, so name the key of the Secret.")
        if v.mlflow_server_oidc_existing_secret and kind != "oidc":
            yield (f"mlflow_server_oidc_existing_secret is set while mlflow_server_auth is {kind}; set "
                   "mlflow_server_auth to oidc, or leave it empty.")
        elif v.mlflow_server_oidc_existing_secret and v.mlflow_server_auth_external_secret:
            yield ("mlflow_server_oidc_existing_secret and mlflow_server_auth_external_secret are both set; keep one "
                   "of them.")
        if v.mlflow_server_oidc_existing_secret_keys and not v.mlflow_server_oidc_existing_secret:
            yield ("mlflow_server_oidc_existing_secret_keys is set while mlflow_server_oidc_existing_secret is empty; "
                   "name the Secret there.")
        if kind != "oidc" and v.mlflow_server_oidc_issuer:
            yield (f"mlflow_server_oidc_issuer is set while mlflow_server_auth is {kind}; set mlflow_server_auth to "
                   "oidc, or leave it empty.")
        for name in v.mlflow_server_auth_admins:
            if "," in name or ":" in name:
                yield (f"mlflow_server_auth_admins holds {name!r}; give each name as an entry of its own, without "
                       "comma and colon.")
        groups = v.mlflow_server_auth_admin_groups
        for name in groups:
            if "," in name:
                yield (f"mlflow_server_auth_admin_groups holds {name!r}; a comma separates groups in the header, so "
                       "name each group without one.")
        if kind == "basic" and groups:
            yield ("mlflow_server_auth_admin_groups is set while mlflow_server_auth is basic, whose users have no "
                   "groups; set mlflow_server_auth to proxy or oidc, or leave it empty.")
        header = v.mlflow_server_auth_groups_header
        if groups and (not common.matches(r"[A-Za-z0-9-]+", header) or header.lower() in RESERVED_HEADERS
                       or header.lower() == v.mlflow_server_auth_proxy_header.lower()):
            yield (f"mlflow_server_auth_groups_header is {header!r}; it must be the name of a header of its own, such "
                   "as X-Auth-Request-Groups.")
        if kind == "basic" and v.mlflow_server_auth_admins:
            yield ("mlflow_server_auth_admins is set while mlflow_server_auth is basic; give users rights by module "
                   "mlops.mlflow.mlflow_user.")
        header = v.mlflow_server_auth_proxy_header.lower()
        if not common.matches(r"[A-Za-z0-9-]+", header) or header in RESERVED_HEADERS:
            yield (f"mlflow_server_auth_proxy_header is {v.mlflow_server_auth_proxy_header!r}; it must be a header's "
                   "name, such as "
                   f"X-Auth-Request-Email.")
        if v.database_type in ("mysql", "mariadb"):
            # Its tables for models and for experiments name their foreign keys alike, which MySQL takes once in a
            # database.
            yield (f"mlflow_server_auth is {kind} while database_type is {v.database_type}, in which MLflow cannot "
                   "make the tables of its "
                   f"users; set database_type to postgresql or sqlite, or mlflow_server_auth to none.")
        if v.mlflow_server_artifacts == "direct":
            yield ("mlflow_server_artifacts is direct while mlflow_server_auth is on, so that clients with keys of "
                   "the store would get "
                   "round it; set mlflow_server_artifacts to proxied.")
        if "*" in v.ingress_cors_origins:
            yield (f"ingress_cors_origins holds '*' while mlflow_server_auth is {kind}, so that any page could use a "
                   "user's login; name the "
                   f"origins.")
        if v.mlflow_server_auth_external_secret:
            needed = {"username", "password", "secret-key"} | ({"proxy-secret"} if kind in ("proxy", "oidc") else set())
            needed |= {"client-secret", "cookie-secret"} if kind == "oidc" else set()
            yield from common.external_secret("mlflow_server_auth_external_secret",
                                              v.mlflow_server_auth_external_secret, needed, v)

    def _open_to_all(self, v: Variables) -> Iterator[str]:
        """A sentence where everybody with an account at a public provider could log in."""
        issuer = v.mlflow_server_oidc_issuer
        options = {argument.partition("=")[0] for argument in v.mlflow_server_oidc_extra_args}
        if v.mlflow_server_oidc_email_domains or v.mlflow_server_oidc_groups:
            return
        for provider, (address, name, limits) in WITHOUT_ISSUER.items():
            theirs = bool(address) and address.partition("//")[2] in issuer
            if theirs or v.mlflow_server_oidc_provider == provider and not options & set(limits):
                yield (f"mlflow_server_oidc_email_domains is empty while the provider is {name}, which would let in "
                       f"everybody who has a {name} account; name your domains, or set {limits[0]} in "
                       "mlflow_server_oidc_extra_args or mlflow_server_oidc_groups.")
        if v.mlflow_server_oidc_provider == "gitlab" and issuer.rstrip("/") == "https://gitlab.com" and not (
                options & {"--gitlab-group", "--gitlab-project"}):
            yield ("mlflow_server_oidc_groups is empty while mlflow_server_oidc_issuer is gitlab.com, which would let "
                   "in everybody who has an account there; name your groups.")
        if v.mlflow_server_oidc_provider == "entra-id" and common.matches(
                r".*/(common|organizations|consumers)(/.*)?", issuer) and "--entra-id-allowed-tenant" not in options:
            yield ("mlflow_server_oidc_issuer is that of all tenants of Microsoft Entra ID; give the issuer of your "
                   "tenant, or --entra-id-allowed-tenant in mlflow_server_oidc_extra_args.")

    def _check_oidc(self, v: Variables, model: Model) -> Iterator[str]:
        if v.mlflow_server_auth != "oidc":
            return
        issuer, redirect = v.mlflow_server_oidc_issuer, model.mlflow_server.auth.redirect_url
        in_secret = "client_id" in model.mlflow_server.auth.keys
        provider = v.mlflow_server_oidc_provider
        needed = [] if provider in WITHOUT_ISSUER else ["mlflow_server_oidc_issuer"]
        for variable in (*needed, *(() if in_secret else ("mlflow_server_oidc_client_id",))):
            if not v[variable]:
                yield f"{variable} is empty while mlflow_server_auth is oidc; give what the identity provider says."
        if in_secret and v.mlflow_server_oidc_client_id:
            yield ("mlflow_server_oidc_client_id is set while a Secret holds the client ID; leave it out, or set key "
                   "client_id of that Secret to an empty text.")
        if issuer and not common.url(issuer):
            yield (f"mlflow_server_oidc_issuer is {common.hidden(issuer)}; it must be a whole URL, such as "
                   "https://id.example.com/realms/staff.")
        elif "/.well-known/" in issuer:
            yield (f"mlflow_server_oidc_issuer is {issuer!r}, the discovery document; give the issuer, "
                   f"{issuer.split('/.well-known/')[0]}.")
        if issuer and provider in WITHOUT_ISSUER:
            yield (f"mlflow_server_oidc_issuer is set while mlflow_server_oidc_provider is {provider}, whose addresses "
                   "are known; leave it empty, or set mlflow_server_oidc_provider to oidc.")
        yield from self._open_to_all(v)
        if provider != "github" and "openid" not in v.mlflow_server_oidc_scopes:
            yield "mlflow_server_oidc_scopes does not hold openid, without which no identity provider answers; add it."
        for scope in v.mlflow_server_oidc_scopes:
            if not common.matches(r"[!#-\[\]-~]+", scope):
                yield (f"mlflow_server_oidc_scopes holds {scope!r}; give each scope as an entry of its own, without "
                       "blanks.")
        for domain in v.mlflow_server_oidc_email_domains:
            if not common.matches(r"\*|\.?[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*", domain):
                yield f"mlflow_server_oidc_email_domains holds {domain!r}; give the bare domain, such as example.com."
        for argument in v.mlflow_server_oidc_extra_args:
            yield from common.argument("mlflow_server_oidc_extra_args", argument)
            option = argument.partition("=")[0]
            if option in OWN_OIDC_ARGUMENTS:
                yield f"mlflow_server_oidc_extra_args holds {option}; use {OWN_OIDC_ARGUMENTS[option]} for that."
        yield from common.certificate("mlflow_server_oidc_ca", v.mlflow_server_oidc_ca)
        if (
            not v.mlflow_server_oidc_client_secret
            and not v.mlflow_server_auth_external_secret
            and "client_secret" in model.mlflow_server.auth.own
        ):
            yield ("mlflow_server_oidc_client_secret is empty while mlflow_server_auth is oidc; give it, or the name "
                   "of a Secret that holds "
                   "it in mlflow_server_oidc_existing_secret.")
        if not common.url(redirect) or not common.matches(r"https?://[^/]+/.*", redirect):
            yield (f"mlflow_server_oidc_redirect_url is {common.hidden(redirect)}; it must be a whole URL, such as "
                   "https://mlflow.example.com/oauth2/callback, or follow from ingress_type and ingress_hosts, or "
                   "from "
                   f"mlflow_server_publish.")


def names_of(containers: list[dict]) -> list[str]:
    """The names of containers."""
    return [container["name"] for container in containers]


def _proxies(v: Variables) -> list[dict]:
    """mlflow_server_extra_containers as sidecars that start before others, where one of them is what the pod reaches on
    its loopback address instead of the database.

    Without them no Job and no init container would reach it, and a Job with them as they are would never end.
    """
    own = [*v.mlflow_server_extra_init_containers, v.database_cloudsql_instance and {"restartPolicy": "Always"}]
    if any(container and container.get("restartPolicy") == "Always" for container in own):
        return []
    if not common.matches(common.LOOPBACK, v.database_host):
        return []
    return [{**container, "restartPolicy": "Always"} for container in v.mlflow_server_extra_containers]


def makes_service_account(v: Variables) -> bool:
    """Whether the ServiceAccount is the component's own: where none is named, unless a variable says otherwise."""
    create = v.mlflow_server_service_account_create
    return not v.mlflow_server_service_account if create is None else create


def _app_name(v: Variables) -> str:
    return v.mlflow_server_app_name or ("basic-auth" if v.mlflow_server_auth != "none" else "")


def _default_artifact_root(v: Variables, store: object_storage.Endpoint) -> str:
    return v.mlflow_server_default_artifact_root or (store.uri if v.mlflow_server_artifacts == "direct" else "")


def _uvicorn_args(v: Variables) -> list[str]:
    files = ["--ssl-certfile=/etc/mlflow-tls/tls.crt", "--ssl-keyfile=/etc/mlflow-tls/tls.key"]
    level = [f"--log-level={v.mlflow_server_log_level}"] if v.mlflow_server_log_level else []
    return [*(files if v.mlflow_server_tls_secret else []), *level, *v.mlflow_server_uvicorn_args]


def counted(v: Variables) -> bool:
    """Whether the server counts its requests."""
    return v.mlflow_server_metrics or v.monitoring_type != "none"


def _pod_annotations(v: Variables) -> dict[str, str]:
    own = scraping.annotations(v.mlflow_server_metrics_port) if v.monitoring_type == "annotations" else {}
    return {**own, **v.mlflow_server_pod_annotations}


def allowed_hosts(names: list[str]) -> list[str]:
    """MLFLOW_SERVER_ALLOWED_HOSTS: every name by which a request may rightly arrive, with any port.

    MLflow answers 403 to any other Host, on all paths but /health and /version.
    """
    ported = [f"{name}:*" for name in names if ":" not in name]
    return [*PRIVATE_ADDRESSES, "localhost:*", "127.0.0.1:*", "[[]::1]:*", *names, *ported]


def cors_origins(v: Variables, url: str) -> list[str]:
    """MLFLOW_SERVER_CORS_ALLOWED_ORIGINS: the ingress' hosts, the published address, and the origins that are named.

    Each is exact. No origin follows from a wildcard, since any page that it matches could act with a user's login; and
    MLflow's two layers read an entry with ``*`` differently, one of them as a regular expression.
    """
    parts = urllib.parse.urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    hosts = (
        [f"{parts.scheme}://{host}{port}" for host in v.ingress_hosts if "*" not in host]
        if v.ingress_type != "none"
        else []
    )
    own = [f"{parts.scheme}://{parts.netloc}"] if url and parts.hostname != "0.0.0.0" else []
    return list(dict.fromkeys([*own, *hosts, *v.ingress_cors_origins]))


def _endpoint(kind: type, given: dict | None, default: object) -> object:
    """An endpoint that a variable describes, or the component's own."""
    if not given:
        return default
    known = {field.name for field in fields(kind)}
    return kind(**{key: value for key, value in given.items() if key in known})


def _auth(v: Variables, name: str, url: str) -> Auth:
    kind, own_secret = v.mlflow_server_auth, f"{name}-auth"
    kinds = list(AUTH_KEYS)[:list(AUTH_KEYS).index(kind) + 1] if kind != "none" else ["basic"]
    defaults = {part: key for known in kinds for part, key in AUTH_KEYS[known].items()}
    existing = v.mlflow_server_auth_existing_secret
    keys, secrets = dict(defaults), dict.fromkeys(defaults, own_secret)
    if existing:
        keys |= {part: key for part, key in v.mlflow_server_auth_existing_secret_keys.items() if key}
        left_out = {part for part, key in v.mlflow_server_auth_existing_secret_keys.items() if not key}
        secrets = {part: own_secret if part in left_out else existing for part in keys}
    if v.mlflow_server_oidc_existing_secret:
        given = {**OIDC_KEYS, **v.mlflow_server_oidc_existing_secret_keys}
        keys |= {part: key for part, key in given.items() if key}
        secrets |= {part: v.mlflow_server_oidc_existing_secret for part, key in given.items() if key}
    env = {"MLFLOW_FLASK_SERVER_SECRET_KEY": "secret_key", "MLFLOW_AUTH_ADMIN_USERNAME": "user",
           "MLFLOW_AUTH_ADMIN_PASSWORD": "password"}
    if kind in ("proxy", "oidc"):
        env["AUTH_PROXY_SECRET"] = "proxy_secret"
    redirect = v.mlflow_server_oidc_redirect_url
    return Auth(kind, existing or own_secret, keys, secrets,
                {part: keys[part] for part, secret in secrets.items() if secret == own_secret}, own_secret, env,
                f"{url}/oauth2/callback" if redirect is None else redirect,
                "" if not v.mlflow_server_auth_admin_groups
                else GROUPS_HEADER if kind == "oidc" else v.mlflow_server_auth_groups_header)


def _given(v: Variables) -> dict[str, dict]:
    """The keys and the login that are in a backup, by the keys of the Secrets. The login's name is a variable's."""
    values = v.get("_mlflow_server_keys") or {}
    auth = {"admin_password": "password", "secret_key": "secret-key", "proxy_secret": "proxy-secret"}
    return {"encryption": {key: values[name] for name, key in ENCRYPTION_KEYS.items() if values.get(name)},
            "auth": {key: values[name] for name, key in auth.items() if values.get(name)}}


def _store_steps(bucket_settings: dict) -> list[str]:
    """A bucket that is to be created comes before looking at it."""
    if not bucket_settings:
        return ["artifacts"]
    return ["bucket", "artifacts"] if bucket_settings["create"] else ["artifacts", "bucket"]


def _volumes(v: Variables, backend: database.Endpoint, store: object_storage.Endpoint) -> list[dict]:
    def claim(name: str) -> dict:
        return {"persistentVolumeClaim": {"claimName": name}}

    artifacts = (
        claim(store.claim) if store.claim else {"emptyDir": {"sizeLimit": store.ephemeral}} if store.ephemeral else {}
    )
    gcs = {"secret": {"secretName": store.secret}} if store.type == "gcs" and store.secret else {}
    possible = [
        ("database", backend.mount_path, claim(backend.claim) if backend.claim else
         {"emptyDir": {"sizeLimit": backend.ephemeral}} if backend.ephemeral else {}),
        ("artifacts", store.mount_path, artifacts),
        ("database-ca", posixpath.dirname(backend.ca_path), backend.ca),
        ("object-storage-ca", "/etc/mlflow-object-storage", {"configMap": {"name": store.ca}} if store.ca else {}),
        ("gcs", "/etc/mlflow-gcs", gcs),
        ("tls", "/etc/mlflow-tls",
         {"secret": {"secretName": v.mlflow_server_tls_secret}} if v.mlflow_server_tls_secret else {}),
    ]
    return [{"name": name, "path": path, "source": source} for name, path, source in possible if source]


def to_ports(ports: list[int]) -> dict:
    """An egress rule to TCP ports of any address."""
    return {"ports": [{"port": port, "protocol": "TCP"} for port in dict.fromkeys(ports)]}


def port_of(url: str) -> int:
    """The TCP port of a URL."""
    parts = urllib.parse.urlsplit(url)
    return parts.port or (80 if parts.scheme == "http" else 443)
