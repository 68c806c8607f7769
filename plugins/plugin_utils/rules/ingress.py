# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rules about the doors and their certificates."""

from __future__ import annotations

import re
from typing import Iterator

from ansible_collections.mlops.mlflow.plugins.plugin_utils.rules.terms import PUBLISH, Rule, Variables

HOST = re.compile(r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
PATH = re.compile(r"^(/[A-Za-z0-9][A-Za-z0-9._~-]*)+$")
ORIGIN = re.compile(r"^https?://[^/*]+$")
BYTES = re.compile(r"^[0-9]+(Ki|Mi|Gi|Ti)?$")


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


RULES: tuple[Rule, ...] = (ingress, certificates)
