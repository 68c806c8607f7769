# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every kind of door, rendered in one run of one inventory: strictly valid, leading to the server, under the right names."""

from __future__ import annotations

import subprocess

import jsonschema
import pytest
import strict
import yaml
from test_inventories import ROOT, VERSIONS, assert_restricted, base64_of, pod_specs

HOSTS, PATH = ["mlflow.example.com", "*.mlflow.example.com"], "/team/ana/mlflow"
COMMON = {"ingress_hosts": HOSTS, "ingress_path": PATH}
CERTIFICATE, KEY = (f"-----BEGIN {what}-----\nSentinel\n-----END {what}-----" for what in ("CERTIFICATE", "PRIVATE KEY"))
OIDC = {"mlflow_server_auth": "oidc", "mlflow_server_oidc_issuer": "https://id.example.com:8443/realms/ml", "mlflow_server_oidc_client_id": "mlflow",
        "mlflow_server_oidc_client_secret": "secret", "mlflow_server_tls_secret": "server-tls"}
GATEWAY = {"name": "public", "namespace": "gateways", "section_name": "https"}
DOORS = {
    "plain": {"ingress_type": "ingress"},
    "root": {"ingress_type": "ingress", "ingress_path": ""},
    "nginx": {"ingress_type": "ingress", "ingress_preset": "nginx", "ingress_class": "nginx", "ingress_tls": "cert_manager",
              "ingress_issuer": "letsencrypt", "ingress_max_body_size": "5Gi",
              "ingress_annotations": {"nginx.ingress.kubernetes.io/proxy-buffering": None, "nginx.ingress.kubernetes.io/proxy-read-timeout": "60"}},
    "traefik": {"ingress_type": "ingress", "ingress_preset": "traefik", "ingress_tls": "secret", "ingress_tls_secret": "wildcard"},
    "alb": {"ingress_type": "ingress", "ingress_preset": "alb", "ingress_class": "alb", "ingress_tls": "controller"},
    "gce": {"ingress_type": "ingress", "ingress_preset": "gce", "ingress_tls": "controller"},
    "gateway": {"ingress_type": "gateway", "ingress_gateway": GATEWAY, "ingress_tls": "cert_manager", "ingress_issuer": "letsencrypt"},
    "gateway-gce": {"ingress_type": "gateway", "ingress_gateway": {"name": "public"}, "ingress_preset": "gce", "ingress_tls": "controller"},
    "proxy": {"ingress_type": "proxy", "ingress_tls": "self_signed"},
    "proxy-http": {"ingress_type": "proxy", "ingress_path": "", "ingress_max_body_size": "1Gi", "ingress_security_headers": False},
    "proxy-secret": {"ingress_type": "proxy", "ingress_tls": "secret", "ingress_tls_certificate": CERTIFICATE,
                     "ingress_tls_key": KEY, "ingress_service_type": "LoadBalancer", "ingress_service_port": 443,
                     "ingress_replicas": 2, "ingress_annotations": {"example.com/internal": "true"}},
    "nginx-oidc": {"ingress_type": "ingress", "ingress_preset": "nginx", "ingress_tls": "controller", **OIDC},
    "gce-oidc": {"ingress_type": "ingress", "ingress_preset": "gce", "ingress_class": "gce-internal", "ingress_tls": "controller", **OIDC},
    "proxy-oidc": {"ingress_type": "proxy", "ingress_tls": "self_signed", **OIDC},
    "alb-tls": {"ingress_type": "ingress", "ingress_preset": "alb", "ingress_tls": "controller", "mlflow_server_tls_secret": "server-tls"},
    "gce-tls": {"ingress_type": "ingress", "ingress_preset": "gce", "ingress_tls": "controller", "mlflow_server_tls_secret": "server-tls"},
    "shut": {"ingress_type": "proxy", "mlflow_network_policy": True, "mlflow_network_policy_clients": ["ingress-nginx", "10.0.0.0/16"], **OIDC},
    "shut-out": {"ingress_type": "proxy", "mlflow_network_policy": True, "ingress_service_type": "LoadBalancer"},
}


@pytest.fixture(scope="module")
def doors(tmp_path_factory) -> dict[str, list[dict]]:
    """The objects of each door; each is a host of one inventory."""
    folder = tmp_path_factory.mktemp("doors")
    hosts = {name: {"ansible_connection": "local", "mlflow_engine": "kubernetes", "mlflow_render_dir": str(folder / name), **COMMON, **door}
             for name, door in DOORS.items()}
    (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts}}))
    done = subprocess.run(["ansible-playbook", "-i", folder / "hosts.yml", "playbooks/site.yml"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return {name: list(yaml.safe_load_all((folder / name / f"{name}-ingress.yaml").read_text()))
            + list(yaml.safe_load_all((folder / name / f"{name}-server.yaml").read_text())) for name in DOORS}


def only(objects: list[dict], kind: str, name: str | None = None) -> dict:
    (found,) = [o for o in objects if o["kind"] == kind and name in (None, o["metadata"]["name"])]
    return found


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("door", DOORS)
def test_strictly_valid(doors, door, version):
    for obj in doors[door]:
        strict.validate(obj, version)


def test_an_unknown_kind_and_an_unknown_field_are_no_pass(doors):
    route = only(doors["gateway"], "HTTPRoute")
    with pytest.raises(AssertionError, match="has no schema"):
        strict.validate({**route, "kind": "TLSRoute"}, VERSIONS[0])
    with pytest.raises(jsonschema.ValidationError, match="'timeout' was unexpected"):
        strict.validate({**route, "spec": {**route["spec"], "timeout": "1s"}}, VERSIONS[0])


@pytest.mark.parametrize("door", [name for name, door in DOORS.items() if door["ingress_type"] == "ingress"])
def test_an_ingress_leads_every_host_to_the_server(doors, door):
    objects = doors[door]
    rules = only(objects, "Ingress")["spec"]["rules"]
    assert [rule["host"] for rule in rules] == HOSTS
    server = only(objects, "Deployment")
    for rule in rules:
        (path,) = rule["http"]["paths"]
        assert (path["path"], path["pathType"]) == ("/" if door == "root" else PATH, "Prefix")
        service = only(objects, "Service", path["backend"]["service"]["name"])
        (port,) = [port for port in service["spec"]["ports"] if port["port"] == path["backend"]["service"]["port"]["number"]]
        containers = server["spec"]["template"]["spec"]["containers"]
        behind = {port["name"]: (container["name"], port["containerPort"]) for container in containers for port in container["ports"]}
        behind.update({number: (container, number) for container, number in behind.values()})
        assert behind[port["targetPort"]][0] == ("oauth2-proxy" if door.endswith("oidc") else "mlflow")
        assert service["spec"]["selector"].items() <= server["spec"]["template"]["metadata"]["labels"].items()


def test_presets(doors):
    annotations = {name: only(doors[name], "Ingress")["metadata"].get("annotations") or {} for name in ("plain", "nginx", "traefik", "alb", "gce")}
    nginx = {name.partition("/")[2]: value for name, value in annotations["nginx"].items()}
    assert nginx == {"backend-protocol": "HTTP",
                     "proxy-body-size": str(5 * 2**30), "proxy-request-buffering": "off", "proxy-read-timeout": "60", "proxy-send-timeout": "3600"}
    assert annotations["traefik"]["traefik.ingress.kubernetes.io/router.middlewares"] == "traefik-traefik-ingress@kubernetescrd"
    assert "Strict-Transport-Security" in only(doors["traefik"], "Middleware")["spec"]["headers"]["customResponseHeaders"]
    assert annotations["alb"]["alb.ingress.kubernetes.io/healthcheck-path"] == f"{PATH}/health"
    assert annotations["alb"]["alb.ingress.kubernetes.io/load-balancer-attributes"] == "idle_timeout.timeout_seconds=3600"
    assert annotations["gce"]["networking.gke.io/v1beta1.FrontendConfig"] == only(doors["gce"], "FrontendConfig")["metadata"]["name"]
    service = only(doors["gce"], "Service", "gce-ingress")["metadata"]["annotations"]
    assert yaml.safe_load(service["cloud.google.com/backend-config"]) == {"default": only(doors["gce"], "BackendConfig")["metadata"]["name"]}
    assert annotations["plain"] == {}


def test_a_door_speaks_as_what_is_behind_it(doors):
    """The server, or oauth2-proxy before it, which has the server's TLS."""
    def annotations(door, kind="Ingress", name=None):
        return only(doors[door], kind, name)["metadata"]["annotations"]

    assert annotations("nginx-oidc")["nginx.ingress.kubernetes.io/backend-protocol"] == "HTTPS"
    assert {annotations("alb-tls")[f"alb.ingress.kubernetes.io/{part}-protocol"] for part in ("backend", "healthcheck")} == {"HTTPS"}
    for door in ("gce-oidc", "gce-tls"):
        assert only(doors[door], "BackendConfig")["spec"]["healthCheck"]["type"] == "HTTPS"
        service = only(doors[door], "Service", f"{door}-ingress")
        (port,) = service["spec"]["ports"]
        assert yaml.safe_load(service["metadata"]["annotations"]["cloud.google.com/app-protocols"]) == {port["name"]: "HTTPS"}
    for door in ("nginx-oidc", "proxy-oidc"):
        proxy = only(doors[door], "Deployment", f"{door}-server")["spec"]["template"]["spec"]["containers"][1]
        assert {"--upstream=https://127.0.0.1:5000", "--ssl-upstream-insecure-skip-verify=true"} <= set(proxy["args"])
    assert "reverse_proxy https://proxy-oidc-server:4180" in only(doors["proxy-oidc"], "ConfigMap", "proxy-oidc-ingress")["data"]["Caddyfile"]


def test_google_reads_the_class_from_an_annotation(doors):
    ingress = only(doors["gce-oidc"], "Ingress")
    assert ingress["metadata"]["annotations"]["kubernetes.io/ingress.class"] == "gce-internal" and "ingressClassName" not in ingress["spec"]
    # Its internal load balancer takes no HTTP beside HTTPS.
    assert ingress["metadata"]["annotations"]["kubernetes.io/ingress.allow-http"] == "false"
    assert not [o for o in doors["gce-oidc"] if o["kind"] == "FrontendConfig"] and only(doors["gce"], "FrontendConfig")
    assert only(doors["alb"], "Ingress")["spec"]["ingressClassName"] == "alb"


def test_network_policies_leave_the_doors_open(doors):
    server, proxy = (only(doors["shut"], "NetworkPolicy", f"shut-{part}")["spec"] for part in ("server", "ingress"))
    assert [port["port"] for port in server["ingress"][0]["ports"]] == [5000, 4180], "oauth2-proxy's port, too"
    assert proxy["ingress"][0]["from"] == server["ingress"][0]["from"] == [
        {"podSelector": {}}, {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress-nginx"}}}, {"ipBlock": {"cidr": "10.0.0.0/16"}}]
    assert [port["port"] for rule in server["egress"] for port in rule.get("ports", [])] == [53, 53, 8443], "names, and the identity provider"
    assert only(doors["shut"], "Deployment", "shut-ingress")["spec"]["template"]["metadata"]["labels"].items() >= proxy["podSelector"]["matchLabels"].items()
    (peer,) = proxy["egress"][-1]["to"]
    assert only(doors["shut"], "Deployment", "shut-server")["spec"]["template"]["metadata"]["labels"].items() >= peer["podSelector"]["matchLabels"].items()
    assert "from" not in only(doors["shut-out"], "NetworkPolicy", "shut-out-ingress")["spec"]["ingress"][0], "a load balancer brings everybody"


def test_certificates(doors):
    nginx, gateway = doors["nginx"], doors["gateway"]
    secret = only(nginx, "Certificate")["spec"]["secretName"]
    assert only(nginx, "Ingress")["spec"]["tls"] == [{"hosts": HOSTS, "secretName": secret}]
    assert only(nginx, "Certificate")["spec"]["dnsNames"] == HOSTS
    assert only(doors["traefik"], "Ingress")["spec"]["tls"][0]["secretName"] == "wildcard"
    assert only(doors["alb"], "Ingress")["spec"]["tls"] == [{"hosts": HOSTS}]
    assert "tls" not in only(doors["plain"], "Ingress")["spec"]
    grant = only(gateway, "ReferenceGrant")["spec"]
    assert grant["from"][0]["namespace"] == "gateways" and grant["to"][0]["name"] == only(gateway, "Certificate")["spec"]["secretName"]


def test_a_route_is_for_its_gateway_and_the_server(doors):
    spec = only(doors["gateway"], "HTTPRoute")["spec"]
    (parent,), (rule,) = spec["parentRefs"], spec["rules"]
    assert (parent["name"], parent["namespace"], parent["sectionName"]) == ("public", "gateways", "https")
    assert spec["hostnames"] == HOSTS and rule["matches"] == [{"path": {"type": "PathPrefix", "value": PATH}}]
    service = only(doors["gateway"], "Service", rule["backendRefs"][0]["name"])
    assert rule["backendRefs"][0]["port"] in [port["port"] for port in service["spec"]["ports"]]
    assert rule["timeouts"]["request"] == "3600s"


@pytest.mark.parametrize("door", ["proxy", "proxy-http", "proxy-secret"])
def test_a_proxy_is_restricted_and_reachable(doors, door):
    objects = doors[door]
    assert_restricted(objects)
    deployment, service = only(objects, "Deployment", f"{door}-ingress"), only(objects, "Service", f"{door}-ingress")
    (port,) = service["spec"]["ports"]
    ports = {p["name"]: p["containerPort"] for p in deployment["spec"]["template"]["spec"]["containers"][0]["ports"]}
    assert ports[port["targetPort"]] == (8080 if door == "proxy-http" else 8443)
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]
    selected = [name for name, spec in pod_specs(objects) if spec is deployment["spec"]["template"]["spec"]]
    assert selected == [f"Deployment {door}-ingress"]
    caddyfile = only(objects, "ConfigMap", f"{door}-ingress")["data"]["Caddyfile"]
    assert f"reverse_proxy http://{door}-server:5000" in caddyfile
    assert ("header" in caddyfile.replace("read_header", "").replace("response_header", "")) is (door != "proxy-http")


def test_a_proxy_s_keys_are_in_secrets_alone(doors):
    for obj in (o for o in doors["proxy-secret"] if o["kind"] != "Secret"):
        assert not any(value in yaml.safe_dump(obj) for value in ("Sentinel", base64_of(KEY))), obj["kind"]
    assert set(only(doors["proxy-secret"], "Secret", "proxy-secret-ingress-tls")["data"]) == {"tls.crt", "tls.key"}
    authority = only(doors["proxy"], "Secret", "proxy-ingress-ca")
    assert authority["metadata"]["annotations"]["mlops.mlflow/keep"] and not authority.get("data")
    assert only(doors["proxy-secret"], "Service", "proxy-secret-ingress")["spec"]["ports"][0]["port"] == 443
    budget = only(doors["proxy-secret"], "PodDisruptionBudget", "proxy-secret-ingress")["spec"]
    assert budget["maxUnavailable"] == 1 and budget["selector"]["matchLabels"]["app.kubernetes.io/component"] == "ingress"


@pytest.mark.parametrize("door", DOORS)
def test_the_server_lets_the_hosts_in(doors, door):
    env = only(doors[door], "Deployment", f"{door}-server")["spec"]["template"]["spec"]["containers"][0]["env"]
    allowed = next(entry["value"] for entry in env if entry["name"] == "MLFLOW_SERVER_ALLOWED_HOSTS").split(",")
    assert {name for host in HOSTS for name in (host, f"{host}:*")} <= set(allowed)
