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
    "proxy-secret": {"ingress_type": "proxy", "ingress_tls": "secret", "ingress_tls_certificate": "Sentinel-certificate",
                     "ingress_tls_key": "Sentinel-key", "ingress_service_type": "LoadBalancer", "ingress_service_port": 443,
                     "ingress_replicas": 2, "ingress_annotations": {"example.com/internal": "true"}},
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
        assert path["backend"]["service"]["port"]["name"] in [port["name"] for port in service["spec"]["ports"]]
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
        assert not any(value in yaml.safe_dump(obj) for value in ("Sentinel-key", base64_of("Sentinel-key"))), obj["kind"]
    assert set(only(doors["proxy-secret"], "Secret", "proxy-secret-ingress-tls")["data"]) == {"tls.crt", "tls.key"}
    authority = only(doors["proxy"], "Secret", "proxy-ingress-ca")
    assert authority["metadata"]["annotations"]["mlops.mlflow/keep"] and not authority.get("data")
    assert only(doors["proxy-secret"], "Service", "proxy-secret-ingress")["spec"]["ports"][0]["port"] == 443


@pytest.mark.parametrize("door", DOORS)
def test_the_server_lets_the_hosts_in(doors, door):
    env = only(doors[door], "Deployment", f"{door}-server")["spec"]["template"]["spec"]["containers"][0]["env"]
    allowed = next(entry["value"] for entry in env if entry["name"] == "MLFLOW_SERVER_ALLOWED_HOSTS").split(",")
    assert {name for host in HOSTS for name in (host, f"{host}:*")} <= set(allowed)
