# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every type of ingress, rendered in one run of one inventory: valid by strict schemas, routed to the server, with the
right hosts."""

from __future__ import annotations

import subprocess

import jsonschema
import pytest
import strict
import yaml
from test_inventories import ROOT, VERSIONS, assert_restricted, base64_of, objects_in, pod_specs

HOSTS, PATH = ["mlflow.example.com", "*.mlflow.example.com"], "/team/ana/mlflow"
COMMON = {"ingress_hosts": HOSTS, "ingress_path": PATH}
CERTIFICATE, KEY = (
    f"-----BEGIN {what}-----\nSentinel\n-----END {what}-----" for what in ("CERTIFICATE", "PRIVATE KEY")
)
OIDC = {
    "mlflow_server_auth": "oidc",
    "mlflow_server_oidc_issuer": "https://id.example.com:8443/realms/ml",
    "mlflow_server_oidc_client_id": "mlflow",
    "mlflow_server_oidc_client_secret": "secret",
    "mlflow_server_tls_secret": "server-tls",
}
GATEWAY = {"name": "public", "namespace": "gateways", "section_name": "https"}
CASES = {
    "plain": {"ingress_type": "ingress"},
    "root": {"ingress_type": "ingress", "ingress_path": ""},
    "nginx": {
        "ingress_type": "ingress",
        "ingress_preset": "nginx",
        "ingress_class": "nginx",
        "ingress_tls": "cert_manager",
        "ingress_issuer": "letsencrypt",
        "ingress_max_body_size": "5Gi",
        "ingress_annotations": {
            "nginx.ingress.kubernetes.io/proxy-buffering": None,
            "nginx.ingress.kubernetes.io/proxy-read-timeout": "60",
        },
    },
    "traefik": {
        "ingress_type": "ingress",
        "ingress_preset": "traefik",
        "ingress_tls": "secret",
        "ingress_tls_secret": "wildcard",
        "ingress_annotations": {"cert-manager.io/common-name": HOSTS[0]},
    },
    "traefik-plain": {
        "ingress_type": "ingress",
        "ingress_preset": "traefik",
        "ingress_compression": False,
        "ingress_security_headers": False,
    },
    "alb": {"ingress_type": "ingress", "ingress_preset": "alb", "ingress_class": "alb", "ingress_tls": "controller"},
    "gce": {"ingress_type": "ingress", "ingress_preset": "gce", "ingress_tls": "controller"},
    "gateway": {
        "ingress_type": "gateway",
        "ingress_gateway": GATEWAY,
        "ingress_tls": "cert_manager",
        "ingress_issuer": "letsencrypt",
    },
    "gateway-gce": {
        "ingress_type": "gateway",
        "ingress_gateway": {"name": "public"},
        "ingress_preset": "gce",
        "ingress_tls": "controller",
    },
    "nginx-rewrite": {"ingress_type": "ingress", "ingress_preset": "nginx", "ingress_rewrite": True,
                      "mlflow_server_service_port": 80},
    "traefik-rewrite": {
        "ingress_type": "ingress", "ingress_preset": "traefik", "ingress_rewrite": True, "ingress_tls": "secret",
        "ingress_tls_secret": "wildcard", "ingress_host_options": {HOSTS[1]: {"tls_secret": "own"}},
        "mlflow_server_service_type": "NodePort", "mlflow_server_service_node_port": 30500,
        "mlflow_server_scheduling": {"topologySpreadConstraints": [{
            "topologyKey": "kubernetes.io/hostname", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"}]},
        "mlflow_server_probes": {"liveness": {"periodSeconds": 30}}},
    "gateway-rewrite": {
        "ingress_type": "gateway", "ingress_gateway": GATEWAY, "ingress_path": "", "ingress_rewrite": True,
        "mlflow_server_path_prefix": "/below", "mlflow_server_service_type": "LoadBalancer",
        "mlflow_server_service_spec": {"loadBalancerSourceRanges": ["203.0.113.0/24"], "loadBalancerClass": "a.test/b",
                                       "externalTrafficPolicy": "Local"}},
    "proxy-rewrite": {"ingress_type": "proxy", "ingress_rewrite": True, "ingress_service_type": "LoadBalancer",
                      "ingress_service_node_port": 30443, "ingress_service_spec": {"ipFamilyPolicy": "SingleStack"}},
    "route": {"ingress_type": "route", "ingress_tls": "cert_manager", "ingress_issuer": "letsencrypt"},
    "route-oidc": {"ingress_type": "route", "ingress_tls": "controller", "ingress_path": "", **OIDC},
    "proxy": {"ingress_type": "proxy", "ingress_tls": "self_signed"},
    "proxy-http": {
        "ingress_type": "proxy",
        "ingress_path": "",
        "ingress_max_body_size": "1Gi",
        "ingress_security_headers": False,
    },
    "proxy-secret": {
        "ingress_type": "proxy",
        "ingress_tls": "secret",
        "ingress_tls_certificate": CERTIFICATE,
        "ingress_tls_key": KEY,
        "ingress_service_type": "LoadBalancer",
        "ingress_service_port": 443,
        "ingress_replicas": 2,
        "ingress_annotations": {"example.com/internal": "true"},
    },
    "nginx-oidc": {"ingress_type": "ingress", "ingress_preset": "nginx", "ingress_tls": "controller", **OIDC},
    "gce-oidc": {
        "ingress_type": "ingress",
        "ingress_preset": "gce",
        "ingress_class": "gce-internal",
        "ingress_tls": "controller",
        **OIDC,
    },
    "proxy-oidc": {"ingress_type": "proxy", "ingress_tls": "self_signed", **OIDC},
    "alb-tls": {
        "ingress_type": "ingress",
        "ingress_preset": "alb",
        "ingress_tls": "controller",
        "mlflow_server_tls_secret": "server-tls",
    },
    "gce-tls": {
        "ingress_type": "ingress",
        "ingress_preset": "gce",
        "ingress_tls": "controller",
        "mlflow_server_tls_secret": "server-tls",
    },
    "policy": {
        "ingress_type": "proxy",
        "mlflow_network_policy": True,
        "mlflow_network_policy_clients": ["ingress-nginx", "10.0.0.0/16"],
        **OIDC,
    },
    "policy-load-balancer": {
        "ingress_type": "proxy",
        "mlflow_network_policy": True,
        "ingress_service_type": "LoadBalancer",
    },
}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory) -> dict[str, list[dict]]:
    """The objects of each case; each is a host of one inventory."""
    folder = tmp_path_factory.mktemp("ingress")
    common = {"ansible_connection": "local", "mlflow_engine": "kubernetes", "mlflow_render_dir": str(folder),
              "mlflow_render_secrets": "plain"}
    hosts = {name: {**common, **COMMON, **case} for name, case in CASES.items()}
    (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts}}))
    done = subprocess.run(["ansible-playbook", "-i", folder / "hosts.yml", "playbooks/site.yml"], cwd=ROOT,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return {name: [obj for obj in objects_in(folder / name)
                   if obj["metadata"]["labels"]["app.kubernetes.io/component"] in ("ingress", "server")]
            for name in CASES}


def only(objects: list[dict], kind: str, name: str | None = None) -> dict:
    (found,) = [o for o in objects if o["kind"] == kind and name in (None, o["metadata"]["name"])]
    return found


def ingress_of(rendered: dict, case: str) -> dict:
    """The Ingress of all paths; with Traefik there is another one of static files."""
    return only(rendered[case], "Ingress", f"{case}-ingress")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("case", CASES)
def test_strictly_valid(rendered, case, version):
    for obj in rendered[case]:
        strict.validate(obj, version)


def test_an_unknown_kind_and_an_unknown_field_are_rejected(rendered):
    route = only(rendered["gateway"], "HTTPRoute")
    with pytest.raises(AssertionError, match="has no schema"):
        strict.validate({**route, "kind": "TLSRoute"}, VERSIONS[0])
    with pytest.raises(jsonschema.ValidationError, match="'timeout' was unexpected"):
        strict.validate({**route, "spec": {**route["spec"], "timeout": "1s"}}, VERSIONS[0])


@pytest.mark.parametrize("case", [name for name, case in CASES.items() if case["ingress_type"] == "ingress"])
def test_an_ingress_routes_every_host_to_the_server(rendered, case):
    objects = rendered[case]
    rules = ingress_of(rendered, case)["spec"]["rules"]
    assert [rule["host"] for rule in rules] == HOSTS
    server = only(objects, "Deployment")
    for rule in rules:
        (path,) = rule["http"]["paths"]
        regular = (f"{PATH}(/|$)(.*)", "ImplementationSpecific")
        assert (path["path"], path["pathType"]) == (
            regular if case == "nginx-rewrite" else ("/" if case == "root" else PATH, "Prefix"))
        service = only(objects, "Service", path["backend"]["service"]["name"])
        (port,) = [
            port for port in service["spec"]["ports"] if port["port"] == path["backend"]["service"]["port"]["number"]
        ]
        containers = server["spec"]["template"]["spec"]["containers"]
        behind = {
            port["name"]: (container["name"], port["containerPort"])
            for container in containers
            for port in container["ports"]
        }
        behind.update({number: (container, number) for container, number in behind.values()})
        assert behind[port["targetPort"]][0] == ("oauth2-proxy" if case.endswith("oidc") else "mlflow")
        assert service["spec"]["selector"].items() <= server["spec"]["template"]["metadata"]["labels"].items()


def test_presets(rendered):
    annotations = {
        name: dict(ingress_of(rendered, name)["metadata"]["annotations"])
        for name in ("plain", "nginx", "traefik", "alb", "gce")
    }
    for each in annotations.values():
        assert each.pop("argocd.argoproj.io/sync-wave") == "200"
    nginx = {name.partition("/")[2]: value for name, value in annotations["nginx"].items()}
    assert nginx == {
        "backend-protocol": "HTTP",
        "proxy-body-size": str(5 * 2**30),
        "proxy-request-buffering": "off",
        "proxy-read-timeout": "60",
        "proxy-send-timeout": "3600",
    }
    assert (
        annotations["traefik"]["traefik.ingress.kubernetes.io/router.middlewares"]
        == "traefik-traefik-ingress@kubernetescrd"
    )
    assert (
        "Strict-Transport-Security"
        in only(rendered["traefik"], "Middleware", "traefik-ingress")["spec"]["headers"]["customResponseHeaders"]
    )
    assert annotations["alb"]["alb.ingress.kubernetes.io/healthcheck-path"] == f"{PATH}/health"
    assert (
        annotations["alb"]["alb.ingress.kubernetes.io/load-balancer-attributes"] == "idle_timeout.timeout_seconds=3600"
    )
    assert (
        annotations["gce"]["networking.gke.io/v1beta1.FrontendConfig"]
        == only(rendered["gce"], "FrontendConfig")["metadata"]["name"]
    )
    service = only(rendered["gce"], "Service", "gce-ingress")["metadata"]["annotations"]
    assert yaml.safe_load(service["cloud.google.com/backend-config"]) == {
        "default": only(rendered["gce"], "BackendConfig")["metadata"]["name"]
    }
    assert annotations["plain"] == {}


def test_traefik_compresses_static_files_only(rendered):
    objects = rendered["traefik"]
    static, whole = only(objects, "Ingress", "traefik-ingress-static"), ingress_of(rendered, "traefik")
    assert {path["path"] for rule in static["spec"]["rules"] for path in rule["http"]["paths"]} == {
        f"{PATH}/static-files"}
    assert static["spec"]["tls"] == whole["spec"]["tls"]
    assert "text/javascript" in only(objects, "Middleware", "traefik-ingress-compress")["spec"]["compress"][
        "includedContentTypes"]
    middlewares = "traefik.ingress.kubernetes.io/router.middlewares"
    theirs = {name: dict(ingress["metadata"]["annotations"])
              for name, ingress in (("static", static), ("whole", whole))}
    assert theirs["static"].pop(middlewares) == (
        f"{theirs['whole'].pop(middlewares)},traefik-traefik-ingress-compress@kubernetescrd")
    assert theirs["whole"].pop("cert-manager.io/common-name") and theirs["static"] == theirs["whole"]


def test_compression_of_traefik_can_be_turned_off(rendered):
    objects = rendered["traefik-plain"]
    assert not [o for o in objects if o["kind"] == "Middleware"]
    assert "traefik.ingress.kubernetes.io/router.middlewares" not in only(objects, "Ingress")["metadata"]["annotations"]


def test_the_backend_protocol_is_that_of_the_pods(rendered):
    """The server's, or that of oauth2-proxy before it, which uses the server's certificate."""
    def annotations(case, kind="Ingress", name=None):
        return only(rendered[case], kind, name)["metadata"]["annotations"]

    assert annotations("nginx-oidc")["nginx.ingress.kubernetes.io/backend-protocol"] == "HTTPS"
    assert {
        annotations("alb-tls")[f"alb.ingress.kubernetes.io/{part}-protocol"] for part in ("backend", "healthcheck")
    } == {"HTTPS"}
    for case in ("gce-oidc", "gce-tls"):
        assert only(rendered[case], "BackendConfig")["spec"]["healthCheck"]["type"] == "HTTPS"
        service = only(rendered[case], "Service", f"{case}-ingress")
        (port,) = service["spec"]["ports"]
        assert yaml.safe_load(service["metadata"]["annotations"]["cloud.google.com/app-protocols"]) == {
            port["name"]: "HTTPS"
        }
    for case in ("nginx-oidc", "proxy-oidc"):
        proxy = only(rendered[case], "Deployment", f"{case}-server")["spec"]["template"]["spec"]["containers"][1]
        assert {"--upstream=https://127.0.0.1:5000", "--ssl-upstream-insecure-skip-verify=true"} <= set(proxy["args"])
    assert (
        "reverse_proxy https://proxy-oidc-server:4180"
        in only(rendered["proxy-oidc"], "ConfigMap", "proxy-oidc-ingress")["data"]["Caddyfile"]
    )


def test_the_class_of_gce_is_an_annotation(rendered):
    ingress = only(rendered["gce-oidc"], "Ingress")
    assert (
        ingress["metadata"]["annotations"]["kubernetes.io/ingress.class"] == "gce-internal"
        and "ingressClassName" not in ingress["spec"]
    )
    # The internal load balancer has either HTTP or HTTPS.
    assert ingress["metadata"]["annotations"]["kubernetes.io/ingress.allow-http"] == "false"
    assert not [o for o in rendered["gce-oidc"] if o["kind"] == "FrontendConfig"] and only(
        rendered["gce"], "FrontendConfig"
    )
    assert only(rendered["alb"], "Ingress")["spec"]["ingressClassName"] == "alb"


def test_network_policies_allow_connections_through_the_ingress(rendered):
    server, proxy = (
        only(rendered["policy"], "NetworkPolicy", f"policy-{part}")["spec"] for part in ("server", "ingress")
    )
    assert [port["port"] for port in server["ingress"][0]["ports"]] == [5000, 4180], "oauth2-proxy's port, too"
    assert (
        proxy["ingress"][0]["from"]
        == server["ingress"][0]["from"]
        == [
            {"podSelector": {}},
            {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress-nginx"}}},
            {"ipBlock": {"cidr": "10.0.0.0/16"}},
        ]
    )
    assert [port["port"] for rule in server["egress"] for port in rule.get("ports", [])] == [
        53,
        53,
        8443,
    ], "DNS, and the identity provider"
    assert (
        only(rendered["policy"], "Deployment", "policy-ingress")["spec"]["template"]["metadata"]["labels"].items()
        >= proxy["podSelector"]["matchLabels"].items()
    )
    (peer,) = proxy["egress"][-1]["to"]
    assert (
        only(rendered["policy"], "Deployment", "policy-server")["spec"]["template"]["metadata"]["labels"].items()
        >= peer["podSelector"]["matchLabels"].items()
    )
    assert (
        "from"
        not in only(rendered["policy-load-balancer"], "NetworkPolicy", "policy-load-balancer-ingress")["spec"][
            "ingress"
        ][0]
    ), "clients of a load balancer have any address"


def test_certificates(rendered):
    nginx, gateway = rendered["nginx"], rendered["gateway"]
    secret = only(nginx, "Certificate")["spec"]["secretName"]
    assert only(nginx, "Ingress")["spec"]["tls"] == [{"hosts": HOSTS, "secretName": secret}]
    assert only(nginx, "Certificate")["spec"]["dnsNames"] == HOSTS
    assert ingress_of(rendered, "traefik")["spec"]["tls"][0]["secretName"] == "wildcard"
    assert only(rendered["alb"], "Ingress")["spec"]["tls"] == [{"hosts": HOSTS}]
    assert "tls" not in only(rendered["plain"], "Ingress")["spec"]
    grant = only(gateway, "ReferenceGrant")["spec"]
    assert (
        grant["from"][0]["namespace"] == "gateways"
        and grant["to"][0]["name"] == only(gateway, "Certificate")["spec"]["secretName"]
    )


def test_a_route_names_its_gateway_and_the_server(rendered):
    spec = only(rendered["gateway"], "HTTPRoute")["spec"]
    (parent,), (rule,) = spec["parentRefs"], spec["rules"]
    assert (parent["name"], parent["namespace"], parent["sectionName"]) == ("public", "gateways", "https")
    assert spec["hostnames"] == HOSTS and rule["matches"] == [{"path": {"type": "PathPrefix", "value": PATH}}]
    service = only(rendered["gateway"], "Service", rule["backendRefs"][0]["name"])
    assert rule["backendRefs"][0]["port"] in [port["port"] for port in service["spec"]["ports"]]
    assert rule["timeouts"]["request"] == "3600s"


@pytest.mark.parametrize("case", ["proxy", "proxy-http", "proxy-secret"])
def test_a_proxy_is_restricted_and_reachable(rendered, case):
    objects = rendered[case]
    assert_restricted(objects)
    deployment, service = only(objects, "Deployment", f"{case}-ingress"), only(objects, "Service", f"{case}-ingress")
    (port,) = service["spec"]["ports"]
    ports = {p["name"]: p["containerPort"] for p in deployment["spec"]["template"]["spec"]["containers"][0]["ports"]}
    assert ports[port["targetPort"]] == (8080 if case == "proxy-http" else 8443)
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]
    selected = [name for name, spec in pod_specs(objects) if spec is deployment["spec"]["template"]["spec"]]
    assert selected == [f"Deployment {case}-ingress"]
    caddyfile = only(objects, "ConfigMap", f"{case}-ingress")["data"]["Caddyfile"]
    assert f"reverse_proxy http://{case}-server:5000" in caddyfile
    assert ("X-Content-Type-Options" in caddyfile) is (case != "proxy-http")


def test_a_proxy_s_keys_are_in_secrets_alone(rendered):
    for obj in (o for o in rendered["proxy-secret"] if o["kind"] != "Secret"):
        assert not any(value in yaml.safe_dump(obj) for value in ("Sentinel", base64_of(KEY))), obj["kind"]
    assert set(only(rendered["proxy-secret"], "Secret", "proxy-secret-ingress-tls")["data"]) == {"tls.crt", "tls.key"}
    ca = only(rendered["proxy"], "Secret", "proxy-ingress-ca")
    assert ca["metadata"]["annotations"]["mlops.mlflow/keep"] and set(ca["data"]) == {"ca.crt", "ca.key"}
    assert only(rendered["proxy-secret"], "Service", "proxy-secret-ingress")["spec"]["ports"][0]["port"] == 443
    budget = only(rendered["proxy-secret"], "PodDisruptionBudget", "proxy-secret-ingress")["spec"]
    assert (
        budget["maxUnavailable"] == 1 and budget["selector"]["matchLabels"]["app.kubernetes.io/component"] == "ingress"
    )


@pytest.mark.parametrize("case", CASES)
def test_the_server_allows_the_hosts(rendered, case):
    env = only(rendered[case], "Deployment", f"{case}-server")["spec"]["template"]["spec"]["containers"][0]["env"]
    allowed = next(entry["value"] for entry in env if entry["name"] == "MLFLOW_SERVER_ALLOWED_HOSTS").split(",")
    assert {name for host in HOSTS for name in (host, f"{host}:*")} <= set(allowed)
