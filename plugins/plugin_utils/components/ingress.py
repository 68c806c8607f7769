# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How users reach the server: an Ingress, a route of the Gateway API, or a reverse proxy that the collection runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Iterator

from ansible_collections.mlops.mlflow.plugins.plugin_utils.components.base import Component, Network
from ansible_collections.mlops.mlflow.plugins.plugin_utils.components.images import built
from ansible_collections.mlops.mlflow.plugins.plugin_utils.manifests import quantity
from ansible_collections.mlops.mlflow.plugins.plugin_utils.model import common
from ansible_collections.mlops.mlflow.plugins.plugin_utils.program import Probe

if TYPE_CHECKING:
    from ansible_collections.mlops.mlflow.plugins.plugin_utils.model import Model
    from ansible_collections.mlops.mlflow.plugins.plugin_utils.model.variables import Variables

IMAGE = "docker.io/library/caddy:2.11.7"
HOST = rf"(\*\.)?{common.DNS_LABEL}(\.{common.DNS_LABEL})*"
PATH = r"(/[A-Za-z0-9][A-Za-z0-9._~-]*)+"
ORIGIN = r"https?://[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?"
HTTPS_PORT, HTTP_PORT = 8443, 8080
"""Ports of the proxy's pods, which do not run as root."""
COMPRESSED_TYPES = ("text/html", "text/css", "text/javascript", "application/javascript", "application/json",
                    "image/svg+xml")
"""Content types that are compressed: those of the user interface and of the API's answers."""
STATIC_FILES = "/static-files"
"""Path of the user interface's scripts and styles, below the path of the server."""
TRAEFIK_MIDDLEWARES = "traefik.ingress.kubernetes.io/router.middlewares"
PRESETS = {"nginx": ("ingress",), "traefik": ("ingress",), "alb": ("ingress",), "gce": ("ingress", "gateway")}
"""The ingress types that a preset is for."""
WRONG_TLS = {
    ("proxy", "cert_manager"): "secret, with the Secret that a Certificate of yours writes, or self_signed",
    ("proxy", "controller"): "secret or self_signed, since nothing but the proxy itself has a certificate",
    ("ingress", "self_signed"): "cert_manager with an issuer of that kind, or secret",
    ("gateway", "self_signed"): "controller, or cert_manager with an issuer of that kind",
    ("gateway", "secret"): "controller, since the certificate belongs to the Gateway's listener",
    ("route", "self_signed"): "controller for the certificate of the router, or secret",
}
"""For each ingress type the values of ingress_tls that cannot work, and what can."""
REWRITING = {"": "annotations of your controller in ingress_annotations", "nginx": "", "traefik": "",
             "alb": "transforms of your own in ingress_patches and ingress_annotations with an empty ingress_preset",
             "gce": "ingress_type gateway"}
"""For each preset of an Ingress what rewrites paths instead of the collection, or an empty text where it can."""
NO_INGRESS = ("{} is set while ingress_type is none; set ingress_type to ingress, gateway or proxy, or leave it empty "
              "(names by which "
              "others lead to the server go to mlflow_server_allowed_hosts and ingress_cors_origins).")
BALANCER_NETWORKS = {"alb": "the subnets of the VPC",
                     "gce": "130.211.0.0/22 and 35.191.0.0/16, or the proxy-only subnet"}


@dataclass(frozen=True)
class IngressPart:
    """What the component's templates and the verification read.

    Attributes:
        name: of all its objects.
        encrypted: whether users come by HTTPS.
        pod_port: port of the proxy's pods.
        service_port: port of the proxy's Service.
        certificate_secret: Secret with the certificate.
        ca_secret: Secret whose ca.crt clients must trust, or empty where the CA is known to all.
        url: by which users reach the server, or empty.
        connect: address to connect to instead of the URL's, or empty.
        ca_dest: file on the controller for the CA that clients must trust, or empty.
        body_bytes: largest body of a request, or 0.
        routes: the objects of kind Ingress: name, annotations and rules (host and paths) of each.
        path_type: of their paths.
        tls: entries of an Ingress' ``tls``.
        certificate_hosts: names of the certificate that the component requests.
        server_path: path of the server, which takes the place of ingress_path where requests are rewritten.
        compressed_types: content types that are compressed.
        compression: name of Traefik's Middleware that compresses, or empty.
    """

    name: str
    encrypted: bool
    pod_port: int
    service_port: int
    certificate_secret: str
    ca_secret: str
    url: str
    connect: str
    ca_dest: str
    body_bytes: int
    response_headers: dict
    redirects: bool
    annotations: dict
    routes: list[dict]
    path_type: str
    tls: list[dict]
    certificate_hosts: list[str]
    server_path: str
    compressed_types: tuple[str, ...]
    compression: str
    image: str
    gateway: dict


class Ingress(Component):
    name = "ingress"
    role = "ingress"
    title = "The ingress"
    needs = ("mlflow_server",)
    multiline = ("ingress_tls_certificate", "ingress_tls_key", "ingress_tls_ca")
    secrets = ("ingress_tls_key",)
    separated = ("ingress_hosts",)

    def resolve(self, v: Variables, model: Model) -> IngressPart:
        name, encrypted = f"{model.instance.name}-ingress", v.ingress_tls != "none"
        certificate_secret = v.ingress_tls_secret or f"{name}-tls"
        headers = _response_headers(v, encrypted)
        # Google's internal load balancer has one of HTTP and HTTPS, and no redirect from one to the other.
        redirects = encrypted and v.ingress_class != "gce-internal"
        ca_secret = ""
        if v.ingress_tls == "self_signed":
            ca_secret = f"{name}-ca"
        elif v.ingress_tls in ("secret", "cert_manager"):
            ca_secret = certificate_secret
        connect = v.ingress_connect
        if not connect and v.ingress_type == "proxy" and v.mlflow_engine == "podman":
            connect = v.ingress_publish.replace("0.0.0.0:", "127.0.0.1:", 1)
        image = v.ingress_image
        if image is None:
            image = built(v)["caddy"] if model.instance.build else IMAGE
        gateway = {"name": "", "section_name": "", **{key: value for key, value in v.ingress_gateway.items() if value}}
        gateway.setdefault("namespace", model.instance.namespace)
        preset = v.ingress_preset if v.ingress_type == "ingress" else ""
        annotations = {**_preset_annotations(v, model, name, preset, headers, redirects), **v.ingress_annotations}
        annotations = {key: value for key, value in annotations.items() if value}
        compression = f"{name}-compress" if preset == "traefik" and v.ingress_compression else ""
        regular = v.ingress_rewrite and preset == "nginx"  # its paths are regular expressions then
        path = v.ingress_path or "/"
        if regular:
            path = f"{v.ingress_path}(/|$)(.*)" if v.ingress_path else "/()(.*)"
        routes = [{"name": name, "annotations": annotations, "rules": _rules(v, path)}]
        if compression:
            routes.append(_static_files(v, model, name, annotations, compression))
        certificate_hosts = [host for host in v.ingress_hosts if not _own_secret(v, host)]
        return IngressPart(
            name=name, encrypted=encrypted, pod_port=_pod_port(v), service_port=v.ingress_service_port or _pod_port(v),
            certificate_secret=certificate_secret, ca_secret=ca_secret, url=public_url(v), connect=connect,
            ca_dest=v.ingress_ca_dest,
            body_bytes=int(quantity(v.ingress_max_body_size) or 0), response_headers=headers, redirects=redirects,
            annotations=annotations, routes=routes,
            path_type="ImplementationSpecific" if regular else v.ingress_path_type,
            tls=_tls(v, certificate_secret, certificate_hosts), certificate_hosts=certificate_hosts,
            server_path=server_path(v), compressed_types=COMPRESSED_TYPES, compression=compression,
            image=image, gateway=gateway)

    def templates(self, v: Variables, model: Model) -> list[str]:
        return [] if v.ingress_type == "none" else [f"{v.ingress_type}.yaml.j2"]

    def images(self, v: Variables, model: Model) -> list[str]:
        return ["caddy"] if v.ingress_type == "proxy" else []

    def network(self, v: Variables, model: Model) -> Network | None:
        if v.ingress_type != "proxy":
            return None
        rule: dict = {"ports": [{"port": model.ingress.pod_port, "protocol": "TCP"}]}
        if v.ingress_service_type == "ClusterIP":
            rule["from"] = common.clients(v)
        server = {"podSelector": {"matchLabels": model.instance.selector("server")}}
        return Network(ingress=[rule], egress=[common.DNS, {"to": [server]}])

    def probes(self, v: Variables, model: Model) -> list[Probe]:
        verify = v.ingress_type == "proxy" if v.ingress_verify is None else v.ingress_verify
        if not verify or v.ingress_type == "none":
            return []
        part = model.ingress
        parameters = {"url": part.url, "ca_secret": part.ca_secret, "environment": True,
                      "login_elsewhere": v.mlflow_server_auth == "oidc", "expected_version": model.instance.version}
        if v.ingress_type == "proxy" and not v.ingress_connect:
            parameters["connect"] = f"{part.name}:{part.service_port}"
        elif part.connect:
            parameters["connect"] = part.connect
        return [Probe(self.role, self.title, "server", parameters)]

    def unsupported(self, v: Variables, model: Model) -> Iterator[str]:
        if v.mlflow_engine == "podman" and v.ingress_type in ("ingress", "gateway", "route"):
            yield (f"ingress_type is {v.ingress_type} while mlflow_engine is podman, where no controller runs; set "
                   "ingress_type to proxy.")

    def _check_hosts(self, v: Variables, model: Model) -> Iterator[str]:
        kind, hosts = v.ingress_type, v.ingress_hosts
        wrong = [host for host in hosts if not common.matches(HOST, host) or len(host) > 253]
        for host in wrong:
            yield (f"ingress_hosts holds {common.hidden(host)}; give the bare DNS name in lower case, such as "
                   "mlflow.example.com, without "
                   f"scheme, port or path.")
        if kind != "none" and not hosts:
            yield (f"ingress_hosts is empty while ingress_type is {kind}; name at least one host, such as "
                   "mlflow.example.com.")
        elif hosts and hosts[0].startswith("*."):
            yield (f"ingress_hosts begins with {hosts[0]!r}; the first host is part of the URL, so put one without "
                   "'*' before it.")
        elif kind == "none" and hosts and not wrong and len(set(hosts)) == len(hosts):
            yield NO_INGRESS.format("ingress_hosts")
        if v.ingress_path and not common.matches(PATH, v.ingress_path):
            yield (f"ingress_path is {v.ingress_path!r}; it must begin with '/' and not end with one, such as "
                   "/team/ana/mlflow, of letters, "
                   f"digits, '.', '_', '~' and '-'.")
        for origin in v.ingress_cors_origins:
            if origin != "*" and not (common.matches(ORIGIN, origin) and common.url(origin)):
                yield (f"ingress_cors_origins holds {common.hidden(origin)}; an origin is scheme, host and port, such "
                       "as https://notebooks.example.com.")

    def _check_type(self, v: Variables, model: Model) -> Iterator[str]:
        kind, preset, gateway = v.ingress_type, v.ingress_preset, v.ingress_gateway
        if kind == "none" and v.ingress_tls_secret and not v.ingress_tls_certificate:
            yield NO_INGRESS.format("ingress_tls_secret")
        elif kind == "none" and v.ingress_tls != "none":
            yield (f"ingress_tls is {v.ingress_tls} while ingress_type is none, so that nothing encrypts; set "
                   "ingress_type to ingress, gateway or proxy, or ingress_tls to none (TLS of the server itself is "
                   "mlflow_server_tls_secret).")
        if kind == "gateway" and not gateway.get("name"):
            yield "ingress_gateway has no name while ingress_type is gateway; name the Gateway that the route is for."
        if kind != "gateway" and any(gateway.values()):
            yield f"ingress_gateway is set while ingress_type is {kind}; set ingress_type to gateway or leave it empty."
        if preset and kind not in (*PRESETS[preset], "none"):
            yield (f"ingress_preset is {preset} while ingress_type is {kind}; it is for "
                   f"{' and '.join(PRESETS[preset])}, so leave it empty.")
        for part, value in gateway.items():
            pattern, what = (
                (common.DNS_LABEL, "a namespace's name")
                if part == "namespace"
                else (common.OBJECT_NAME, "an object's name")
            )
            if value and not common.matches(pattern, value):
                yield f"ingress_gateway.{part} is {value!r}; it must be {what}: lower-case letters, digits and '-'."

    def _check_rewriting(self, v: Variables, model: Model) -> Iterator[str]:
        if not v.ingress_rewrite:
            return
        kind, preset, path = v.ingress_type, v.ingress_preset, v.ingress_path
        if kind == "none":
            yield "ingress_rewrite is true while ingress_type is none, so that nothing rewrites; set it to false."
        elif server_path(v) == path:
            yield (f"ingress_rewrite is true while ingress_path and mlflow_server_path_prefix are both {path!r}; set "
                   "it to false, or give two different paths.")
        elif kind == "ingress" and REWRITING[preset] and not (preset == "" and v.ingress_annotations):
            yield (f"ingress_rewrite is true while ingress_preset is {preset!r}, for which the collection cannot "
                   f"rewrite paths; use {REWRITING[preset]}, the preset nginx or traefik, or ingress_type proxy or "
                   "gateway.")
        if v.mlflow_server_auth == "oidc":
            yield ("ingress_rewrite is true while mlflow_server_auth is oidc, which sends users back to the path of "
                   "the server after their login; set ingress_rewrite to false, so that the path is the same for both.")

    def _check_host_options(self, v: Variables, model: Model) -> Iterator[str]:
        for host, options in v.ingress_host_options.items():
            where = f"ingress_host_options[{host!r}]"
            if host not in v.ingress_hosts:
                yield f"{where} is for a host that ingress_hosts does not hold; add it there, or remove the entry."
            if v.ingress_type != "ingress":
                yield (f"{where} is set while ingress_type is {v.ingress_type}; set ingress_type to ingress, or remove "
                       "the entry.")
            unknown = sorted(set(options) - {"paths", "tls_secret"}) if isinstance(options, dict) else None
            if unknown is None or unknown:
                yield f"{where} must be a mapping of paths (a list) and tls_secret (the name of a Secret)."
                continue
            paths, secret = options.get("paths", []), options.get("tls_secret", "")
            if not isinstance(paths, list) or not all(
                    isinstance(path, str) and (path == "/" or common.matches(PATH, path)) for path in paths):
                yield f"{where}.paths must be a list of paths such as /api, each beginning with '/'."
            elif paths and v.ingress_rewrite:
                yield f"{where}.paths is set while ingress_rewrite is true; set one of them only."
            if not isinstance(secret, str) or secret and not common.matches(common.OBJECT_NAME, secret):
                yield f"{where}.tls_secret must be the name of a Secret: lower-case letters, digits, '-' and '.'."
            elif secret and v.ingress_tls not in ("secret", "cert_manager"):
                yield (f"{where}.tls_secret is set while ingress_tls is {v.ingress_tls}; set ingress_tls to secret or "
                       "cert_manager.")

    def _check_numbers(self, v: Variables, model: Model) -> Iterator[str]:
        kind, preset, size = v.ingress_type, v.ingress_preset, v.ingress_max_body_size
        if not common.matches(r"[0-9]{1,12}(Ki|Mi|Gi|Ti)?", size):
            yield f"ingress_max_body_size is {size!r}; it must be a number of bytes such as 5Gi, or 0 for no limit."
        elif size != "0" and kind in ("ingress", "gateway", "route") and preset != "nginx":
            with_preset = f" with ingress_preset {preset}" if preset else ""
            yield (f"ingress_max_body_size is {size} while ingress_type is {kind}{with_preset}, which has no such "
                   "limit; only proxy and the "
                   f"preset nginx have, so set it to 0.")
        if not 1 <= v.ingress_timeout <= 99999:
            yield f"ingress_timeout is {v.ingress_timeout}; it must be from 1 to 99999 seconds."
        if not 1 <= v.ingress_replicas <= 1000:
            yield f"ingress_replicas is {v.ingress_replicas}; it must be at least 1, and at most 1000."
        for variable in ("ingress_service_port", "ingress_public_port"):
            if not 0 <= v[variable] <= 65535:
                yield f"{variable} is {v[variable]}; it must be a TCP port up to 65535, or 0."
        if not common.host_port(v.ingress_publish):
            yield f"ingress_publish is {v.ingress_publish!r}; it must be an address and a port such as 127.0.0.1:8443."
        publish, server = common.host_port(v.ingress_publish), common.host_port(v.mlflow_server_publish)
        if kind == "proxy" and v.mlflow_engine == "podman" and publish and server and publish[1] == server[1] and (
                publish[0] == server[0] or "0.0.0.0" in (publish[0], server[0])):
            yield (f"ingress_publish is {v.ingress_publish}, which mlflow_server_publish ({v.mlflow_server_publish}) "
                   "takes on the same "
                   f"machine; choose another port for one of them.")
        if v.ingress_connect and not common.url(f"http://{v.ingress_connect}",
                                                path=False) or v.ingress_connect and not common.matches(
                r".*:[0-9]{1,5}", v.ingress_connect):
            yield f"ingress_connect is {v.ingress_connect!r}; it must be an address and a port such as 127.0.0.1:8443."

    def _check_network_policy(self, v: Variables, model: Model) -> Iterator[str]:
        if not v.mlflow_network_policy or v.mlflow_engine != "kubernetes":
            return
        kind, preset, clients = v.ingress_type, v.ingress_preset, v.mlflow_network_policy_clients
        has_networks = any("/" in client for client in clients)
        if v.mlflow_server_service_type != "ClusterIP" and not has_networks:
            yield ("mlflow_network_policy is true while mlflow_server_service_type is "
                   f"{v.mlflow_server_service_type}, by which clients "
                   f"connect that are no pods; add their networks to mlflow_network_policy_clients.")
        if kind not in ("ingress", "gateway", "route"):
            return
        if preset in BALANCER_NETWORKS and not has_networks:
            yield (f"mlflow_network_policy is true while ingress_preset is {preset}, whose load balancer is no pod; "
                   "add its networks "
                   f"({BALANCER_NETWORKS[preset]}) to mlflow_network_policy_clients.")
        elif not clients:
            yield ("mlflow_network_policy_clients is empty while mlflow_network_policy is true and ingress_type is "
                   f"{kind}; name the "
                   f"namespace of its controller.")

    def _check_backend_tls(self, v: Variables, model: Model) -> Iterator[str]:
        if not v.mlflow_server_tls_secret:
            return
        policies = [obj for obj in v.mlflow_server_extra_objects if obj.get("kind") == "BackendTLSPolicy"]
        if v.ingress_type == "gateway" and not policies:
            yield ("mlflow_server_tls_secret is set while ingress_type is gateway, whose Gateway would speak HTTP to "
                   "it; add a "
                   "BackendTLSPolicy to mlflow_server_extra_objects, or leave it empty.")
        scheme = "traefik.ingress.kubernetes.io/service.serversscheme"
        if v.ingress_preset == "traefik" and scheme not in v.mlflow_server_service_annotations:
            yield ("mlflow_server_tls_secret is set while ingress_preset is traefik, which would speak HTTP to it; "
                   f"add {scheme}: https to "
                   "mlflow_server_service_annotations, with a ServersTransport that trusts the certificate, or leave "
                   "it empty.")

    def _check_route(self, v: Variables, model: Model) -> Iterator[str]:
        if v.ingress_type == "route" and v.ingress_rewrite and (not v.ingress_path or v.mlflow_server_tls_secret):
            yield ("ingress_rewrite is true while ingress_type is route, which rewrites a path such as /mlflow of "
                   "requests that it reads; set ingress_path, and leave mlflow_server_tls_secret empty.")
        passed_through = v.ingress_tls == "controller" and not v.ingress_path
        if v.ingress_type == "route" and v.mlflow_server_tls_secret and not passed_through:
            yield ("mlflow_server_tls_secret is set while ingress_type is route, which then passes TLS through to the "
                   "server; set ingress_tls to controller, and leave ingress_path empty.")

    def _check_certificate(self, v: Variables, model: Model) -> Iterator[str]:
        tls, certificate, key = v.ingress_tls, v.ingress_tls_certificate, v.ingress_tls_key
        given = bool(certificate and key)
        if bool(certificate) != bool(key):
            set_here, missing = (
                ("ingress_tls_certificate", "ingress_tls_key")
                if certificate
                else ("ingress_tls_key", "ingress_tls_certificate")
            )
            yield f"{missing} is empty while {set_here} is set; the two go together."
        elif given and v.ingress_tls_secret:
            yield "ingress_tls_certificate and ingress_tls_secret are both set; keep one of them."
        elif given and tls != "secret":
            yield (f"ingress_tls_certificate is set while ingress_tls is {tls}; set ingress_tls to secret or leave it "
                   "empty.")
        elif given:
            sentences = list(common.certificate("ingress_tls_certificate", certificate))
            yield from sentences or common.certificate("ingress_tls_key", key, "PRIVATE KEY")
            yield from common.certificate("ingress_tls_ca", v.ingress_tls_ca)
        elif tls == "secret" and not v.ingress_tls_secret and model.ingress.certificate_hosts:
            yield ("ingress_tls_secret is empty while ingress_tls is secret; name the Secret that holds the "
                   "certificate, or give "
                   "ingress_tls_certificate and ingress_tls_key.")
        if v.ingress_tls_secret and tls not in ("secret", "cert_manager") and v.ingress_type != "none":
            yield f"ingress_tls_secret is set while ingress_tls is {tls}; set ingress_tls to secret or leave it empty."
        if v.ingress_tls_ca and not given:
            yield ("ingress_tls_ca is set while ingress_tls_certificate is empty; with a Secret of yours, put it "
                   "there under ca.crt.")

    def _check_tls(self, v: Variables, model: Model) -> Iterator[str]:
        kind, tls = v.ingress_type, v.ingress_tls
        if tls == "cert_manager" and not v.ingress_issuer:
            yield "ingress_issuer is empty while ingress_tls is cert_manager; name the issuer that is to sign."
        if v.ingress_issuer and tls != "cert_manager":
            yield (f"ingress_issuer is set while ingress_tls is {tls}; set ingress_tls to cert_manager or leave it "
                   "empty.")
        if kind == "ingress" and v.ingress_preset == "alb" and tls in ("secret", "cert_manager"):
            yield (f"ingress_tls is {tls} while ingress_preset is alb, which reads no Secret; set it to controller, "
                   "with a certificate in "
                   f"ACM for ingress_hosts.")
        if (kind, tls) in WRONG_TLS:
            yield f"ingress_tls is {tls} while ingress_type is {kind}; set it to {WRONG_TLS[kind, tls]}."


def server_path(v: Variables) -> str:
    """The path below which the server serves: the ingress' own, unless the ingress rewrites it."""
    if v.mlflow_server_path_prefix is not None:
        return v.mlflow_server_path_prefix
    return "" if v.ingress_rewrite else v.ingress_path


def _own_secret(v: Variables, host: str) -> str:
    """The Secret of a host's own certificate, or an empty text."""
    options = v.ingress_host_options.get(host)
    return (options.get("tls_secret") or "") if isinstance(options, dict) else ""


def _rules(v: Variables, path: str) -> list[dict]:
    """Hosts and their paths: the server's, or those that a host is limited to."""
    rules = []
    for host in v.ingress_hosts:
        options = v.ingress_host_options.get(host)
        own = (options.get("paths") or []) if isinstance(options, dict) else []
        rules.append({"host": host, "paths": [(v.ingress_path + entry).rstrip("/") or "/" for entry in own] or [path]})
    return rules


def _tls(v: Variables, secret: str, hosts: list[str]) -> list[dict]:
    """Certificates of an Ingress: that of the instance, and those of single hosts."""
    if v.ingress_tls == "controller" and v.ingress_preset != "gce":
        # Without a Secret: the controller finds a certificate for these names, or takes its default one.
        return [{"hosts": v.ingress_hosts}]
    if v.ingress_tls not in ("secret", "cert_manager"):
        return []
    by_secret: dict[str, list[str]] = {secret: hosts} if hosts else {}
    for host in v.ingress_hosts:
        if _own_secret(v, host):
            by_secret.setdefault(_own_secret(v, host), []).append(host)
    return [{"hosts": names, "secretName": name} for name, names in by_secret.items()]


def public_url(v: Variables) -> str:
    """The URL by which users reach the server through the ingress, or an empty text."""
    if v.ingress_type == "none" or not v.ingress_hosts:
        return ""
    scheme, default = ("http", 80) if v.ingress_tls == "none" else ("https", 443)
    port = v.ingress_public_port or default
    if not v.ingress_public_port and v.ingress_type == "proxy":
        published = v.ingress_publish.rpartition(":")[2]
        port = (
            int(published)
            if v.mlflow_engine == "podman" and published.isdigit()
            else v.ingress_service_port or _pod_port(v)
        )
    return f"{scheme}://{v.ingress_hosts[0]}{'' if port == default else f':{port}'}{v.ingress_path}"


def _pod_port(v: Variables) -> int:
    return HTTP_PORT if v.ingress_tls == "none" else HTTPS_PORT


def _response_headers(v: Variables, encrypted: bool) -> dict[str, str]:
    if not v.ingress_security_headers:
        return {}
    headers = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "strict-origin-when-cross-origin"}
    return {**headers, "Strict-Transport-Security": "max-age=31536000"} if encrypted else headers


def _static_files(v: Variables, model: Model, name: str, annotations: dict, compression: str) -> dict:
    """The Ingress of the user interface's scripts and styles, whose answers Traefik compresses.

    It has no artifacts and no secrets. Traefik could neither leave out artifacts of a compressed type nor tell requests
    of other sites apart (BREACH), so that answers of the API are not compressed.
    """
    middlewares = [annotations.get(TRAEFIK_MIDDLEWARES), f"{model.instance.namespace}-{compression}@kubernetescrd"]
    # cert-manager would request the certificate of the other Ingress again.
    kept = {key: value for key, value in annotations.items() if "cert-manager.io/" not in key}
    whole = [host for host in v.ingress_hosts if not (v.ingress_host_options.get(host) or {}).get("paths")]
    rules = [{"host": host, "paths": [v.ingress_path + STATIC_FILES]} for host in whole]
    return {"name": f"{name}-static", "rules": rules,
            "annotations": {**kept, TRAEFIK_MIDDLEWARES: ",".join(filter(None, middlewares))}}


def _preset_annotations(
    v: Variables, model: Model, name: str, preset: str, headers: dict, redirects: bool
) -> dict[str, str]:
    """Annotations that a controller needs for large artifacts, long requests, TLS and health checks."""
    scheme, encrypted = model.mlflow_server.scheme.upper(), v.ingress_tls != "none"
    if preset == "nginx":
        prefix = "nginx.ingress.kubernetes.io"
        rewriting = {f"{prefix}/use-regex": "true", f"{prefix}/rewrite-target": f"{server_path(v)}/$2"}
        return {**(rewriting if v.ingress_rewrite else {}), f"{prefix}/backend-protocol": scheme,
                f"{prefix}/proxy-body-size": str(int(quantity(v.ingress_max_body_size) or 0)),
                f"{prefix}/proxy-request-buffering": "off", f"{prefix}/proxy-buffering": "off",
                f"{prefix}/proxy-read-timeout": str(v.ingress_timeout),
                f"{prefix}/proxy-send-timeout": str(v.ingress_timeout)}
    if preset == "traefik":
        prefix = "traefik.ingress.kubernetes.io"
        used = {name: bool(headers), f"{name}-rewrite": v.ingress_rewrite}
        middlewares = [f"{model.instance.namespace}-{middleware}@kubernetescrd"
                       for middleware, there in used.items() if there]
        return {f"{prefix}/router.entrypoints": "websecure" if encrypted else "web",
                f"{prefix}/router.tls": str(encrypted).lower(),
                TRAEFIK_MIDDLEWARES: ",".join(middlewares)}
    if preset == "alb":
        prefix = "alb.ingress.kubernetes.io"
        return {f"{prefix}/scheme": "internal", f"{prefix}/target-type": "ip", f"{prefix}/backend-protocol": scheme,
                f"{prefix}/healthcheck-protocol": scheme, f"{prefix}/healthcheck-path": f"{server_path(v)}/health",
                f"{prefix}/success-codes": "200",
                f"{prefix}/load-balancer-attributes": f"idle_timeout.timeout_seconds={min(v.ingress_timeout, 4000)}",
                f"{prefix}/listen-ports": '[{"HTTP": 80}, {"HTTPS": 443}]' if encrypted else '[{"HTTP": 80}]',
                f"{prefix}/ssl-redirect": "443" if encrypted else ""}
    if preset == "gce":
        # GKE reads the class here alone, not in ingressClassName.
        return {"networking.gke.io/v1beta1.FrontendConfig": name if redirects else "",
                "kubernetes.io/ingress.allow-http": str(redirects or not encrypted).lower(),
                "kubernetes.io/ingress.class": v.ingress_class}
    return {}
