# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""docs/charts.md: for options of both charts, the variable that is named there sets the field that the chart sets."""

from __future__ import annotations

import functools
import json

import pytest
from model_tests import refused, resolved

from ansible_collections.mlops.mlflow.plugins.plugin_utils import components, render

SERVICE, DEPLOYMENT, INGRESS = ("Service", "sound-server"), ("Deployment", "sound-server"), ("Ingress", "sound-ingress")
POD = ("spec", "template", "spec")
SERVER = (*POD, "containers", 0)
HOSTS = {"ingress_type": "ingress", "ingress_hosts": ["ml.example.com", "api.example.com"]}
STORE = {"mlflow_secret_store": {"name": "vault"}}
DATABASE, STORAGE = ("StatefulSet", "sound-database"), ("StatefulSet", "sound-object-storage")
SPREAD = {"topologyKey": "kubernetes.io/hostname", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"}
TEMPLATE = {"engineVersion": "v2", "data": {"username": "mlflow", "password": "{{ .value }}"}}

CASES = {
    "service.port": ({"mlflow_server_service_port": 80}, SERVICE, ("spec", "ports", 0),
                     {"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}),
    "service.containerPort": ({"mlflow_server_service_port": 80, "mlflow_server_port": 5050}, DEPLOYMENT,
                              (*SERVER, "ports", 0, "containerPort"), 5050),
    "service.port with oauth2-proxy": (
        {"mlflow_server_service_port": 80, "mlflow_server_auth": "oidc", "mlflow_server_oidc_issuer": "https://i.test",
         "mlflow_server_oidc_client_id": "m", "mlflow_server_oidc_client_secret": "s",
         "mlflow_server_oidc_redirect_url": "https://m.test/oauth2/callback"},
        SERVICE, ("spec", "ports"),
        [{"name": "oidc", "port": 80, "targetPort": "oidc", "protocol": "TCP"},
         {"name": "http", "port": 5000, "targetPort": "http", "protocol": "TCP"}]),
    "an ingress leads to the Service's port": (
        {**HOSTS, "mlflow_server_service_port": 80}, INGRESS,
        ("spec", "rules", 0, "http", "paths", 0, "backend", "service", "port", "number"), 80),
    "service.nodePort": ({"mlflow_server_service_type": "NodePort", "mlflow_server_service_node_port": 30500}, SERVICE,
                         ("spec", "ports", 0, "nodePort"), 30500),
    "service.loadBalancerSourceRanges": (
        {"mlflow_server_service_type": "LoadBalancer",
         "mlflow_server_service_spec": {"loadBalancerSourceRanges": ["203.0.113.0/24"], "loadBalancerClass": "a.test/b",
                                        "externalTrafficPolicy": "Local"}}, SERVICE, ("spec",),
        {"type": "LoadBalancer", "loadBalancerSourceRanges": ["203.0.113.0/24"], "loadBalancerClass": "a.test/b",
         "externalTrafficPolicy": "Local"}),
    "the proxy's Service": (
        {**HOSTS, "ingress_type": "proxy", "ingress_service_type": "LoadBalancer", "ingress_service_node_port": 30443,
         "ingress_service_spec": {"externalTrafficPolicy": "Local"}}, ("Service", "sound-ingress"), ("spec",),
        {"externalTrafficPolicy": "Local", "type": "LoadBalancer"}),
    "probes.liveness": (
        {"mlflow_server_probes": {"liveness": {"periodSeconds": 20, "initialDelaySeconds": 15}}}, DEPLOYMENT,
        (*SERVER, "livenessProbe"),
        {"periodSeconds": 20, "initialDelaySeconds": 15, "timeoutSeconds": 10, "failureThreshold": 5,
         "httpGet": {"path": "/health", "port": "http"}}),
    "probes.readiness": ({"mlflow_server_probes": {"readiness": {"failureThreshold": 9}}}, DEPLOYMENT,
                         (*SERVER, "readinessProbe", "failureThreshold"), 9),
    "probes.startup": ({"mlflow_server_probes": {"startup": {"failureThreshold": 30, "periodSeconds": 10}}}, DEPLOYMENT,
                       (*SERVER, "startupProbe", "periodSeconds"), 10),
    "topologySpreadConstraints": (
        {"mlflow_server_scheduling": {"topologySpreadConstraints": [SPREAD]}}, DEPLOYMENT,
        (*POD, "topologySpreadConstraints"),
        [{**SPREAD, "matchLabelKeys": ["pod-template-hash"], "labelSelector": {"matchLabels": {
            "app.kubernetes.io/instance": "sound", "app.kubernetes.io/component": "server"}}}]),
    "nodeSelector": ({"mlflow_node_selector": {"pool": "a"},
                      "mlflow_server_scheduling": {"nodeSelector": {"pool": "b"}}}, DEPLOYMENT,
                     (*POD, "nodeSelector"), {"pool": "b"}),
    "nodeSelector of another component": (
        {"mlflow_node_selector": {"pool": "a"}, "mlflow_server_scheduling": {"nodeSelector": {"pool": "b"}}},
        DATABASE, (*POD, "nodeSelector"), {"pool": "a"}),
    "postgresql.primary.nodeSelector": ({"database_scheduling": {"nodeSelector": {"disk": "ssd"}}}, DATABASE,
                                        (*POD, "nodeSelector"), {"disk": "ssd"}),
    "minio.tolerations": ({"object_storage_scheduling": {"tolerations": [{"key": "disk", "operator": "Exists"}]}},
                          STORAGE, (*POD, "tolerations"), [{"key": "disk", "operator": "Exists"}]),
    "affinity of the proxy": (
        {**HOSTS, "ingress_type": "proxy", "ingress_scheduling": {"affinity": {"podAntiAffinity": {}}}},
        ("Deployment", "sound-ingress"), (*POD, "affinity"), {"podAntiAffinity": {}}),
    "serviceAccount.create, .name": (
        {"mlflow_server_service_account": "mlflow", "mlflow_server_service_account_create": True,
         "mlflow_server_service_account_annotations": {"example.com/a": "b"}}, ("ServiceAccount", "mlflow"),
        ("metadata", "annotations"), {"example.com/a": "b"}),
    "serviceAccount.name": ({"mlflow_server_service_account": "mlflow", "mlflow_server_service_account_create": True},
                            DEPLOYMENT, (*POD, "serviceAccountName"), "mlflow"),
    "ingress.hosts.paths.pathType": ({**HOSTS, "ingress_path_type": "ImplementationSpecific"}, INGRESS,
                                     ("spec", "rules", 0, "http", "paths", 0, "pathType"), "ImplementationSpecific"),
    "ingress.tls": (
        {**HOSTS, "ingress_tls": "secret", "ingress_tls_secret": "wildcard",
         "ingress_host_options": {"api.example.com": {"tls_secret": "api"}}}, INGRESS, ("spec", "tls"),
        [{"hosts": ["ml.example.com"], "secretName": "wildcard"}, {"hosts": ["api.example.com"], "secretName": "api"}]),
    "mlflow.artifactsDestination": (
        {"mlflow_server_default_artifact_root": "s3://other/root"}, DEPLOYMENT, (*SERVER, "args"),
        ["--host=0.0.0.0", "--port=5000", "--workers=2", "--serve-artifacts",
         "--default-artifact-root=s3://other/root"]),
    "log.level": ({"mlflow_server_log_level": "debug"}, DEPLOYMENT, (*SERVER, "args", 3),
                  "--uvicorn-opts=--log-level=debug"),
    "MLFLOW_UVICORN_OPTS": (
        {"mlflow_server_uvicorn_args": ["--timeout-keep-alive=30"], "mlflow_server_tls_secret": "t"}, DEPLOYMENT,
        (*SERVER, "args", 3), "--uvicorn-opts=--ssl-certfile=/etc/mlflow-tls/tls.crt "
        "--ssl-keyfile=/etc/mlflow-tls/tls.key --timeout-keep-alive=30"),
    "auth.appName": ({"mlflow_server_auth": "basic", "mlflow_server_app_name": "oidc-auth"}, DEPLOYMENT,
                     (*SERVER, "args", 3), "--app-name=oidc-auth"),
    "postgresql.primary.persistence.existingClaim": (
        {"database_existing_claim": "old"}, DATABASE, (*POD, "volumes", 0),
        {"name": "data", "persistentVolumeClaim": {"claimName": "old"}}),
    "postgresql.primary.persistence.enabled": (
        {"database_persistence": False}, DATABASE, (*POD, "volumes", 0),
        {"name": "data", "emptyDir": {"sizeLimit": "8Gi"}}),
    "minio.persistence.existingClaim": (
        {"object_storage_type": "minio", "object_storage_existing_claim": "old"}, STORAGE, (*POD, "volumes", 0),
        {"name": "data", "persistentVolumeClaim": {"claimName": "old"}}),
    "minio.persistence.enabled": (
        {"object_storage_persistence": False}, STORAGE, (*POD, "volumes", 0),
        {"name": "data", "emptyDir": {"sizeLimit": "10Gi"}}),
    "externalSecrets.template": (
        {**STORE, "database_external_secret": {"value": {"key": "db"}}, "database_external_secret_template": TEMPLATE},
        ("ExternalSecret", "sound-database-postgresql"), ("spec", "target"),
        {"name": "sound-database-postgresql", "template": TEMPLATE}),
}


OIDC = {"mlflow_server_auth": "oidc", "mlflow_server_oidc_client_id": "m", "mlflow_server_oidc_client_secret": "s",
        "mlflow_server_oidc_redirect_url": "https://m.test/oauth2/callback"}


def objects(variables: dict) -> dict[tuple[str, str], dict]:
    """What all components render on Kubernetes, by kind and name."""
    model = resolved({"mlflow_engine": "kubernetes", **variables})
    return {(obj["kind"], obj["metadata"]["name"]): obj
            for component in components.COMPONENTS for obj in render.render(component, model, {})}


@pytest.mark.parametrize("variables, ref, path, expected", CASES.values(), ids=CASES)
def test_a_variable_sets_the_field(variables, ref, path, expected):
    assert refused({"mlflow_engine": "kubernetes", **variables}) == []
    found = functools.reduce(lambda value, key: value[key], path, objects(variables)[ref])
    if isinstance(expected, dict) and path == ("spec",):
        found = {key: found[key] for key in expected}
    assert found == expected


def test_what_is_not_made():
    """Claims and ServiceAccounts of others."""
    made = objects({"database_existing_claim": "old", "object_storage_persistence": False,
                    "mlflow_server_service_account": "theirs"})
    assert not [name for kind, name in made if kind in ("PersistentVolumeClaim", "ServiceAccount")]


def test_gc_of_everything():
    """`garbageCollection.olderThan` is empty in the chart."""
    jobs = objects({"mlflow_server_gc_schedule": "0 3 * * 0", "mlflow_server_gc_older_than": ""})
    pod = jobs["CronJob", "sound-server-gc"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert {"name": "GC_OLDER_THAN", "value": ""} in pod["containers"][0]["env"]


def test_paths_of_a_host():
    """`ingress.hosts[].paths`."""
    found = objects({**HOSTS, "ingress_path": "/ml", "ingress_host_options": {"api.example.com": {
        "paths": ["/api", "/health"]}}})[INGRESS]["spec"]["rules"]
    assert {rule["host"]: [path["path"] for path in rule["http"]["paths"]] for rule in found} == {
        "ml.example.com": ["/ml"], "api.example.com": ["/ml/api", "/ml/health"]}


def test_only_hosts_without_a_certificate_need_one():
    every = {"ingress_host_options": {host: {"tls_secret": "own"} for host in HOSTS["ingress_hosts"]}}
    made = objects({**HOSTS, **every, "ingress_tls": "secret"})
    assert made[INGRESS]["spec"]["tls"] == [{"hosts": HOSTS["ingress_hosts"], "secretName": "own"}]
    one = {"ingress_host_options": {"api.example.com": {"tls_secret": "own"}}}
    made = objects({**HOSTS, **one, "ingress_tls": "cert_manager", "ingress_issuer": "a"})
    assert made["Certificate", "sound-ingress"]["spec"]["dnsNames"] == ["ml.example.com"]


REWRITTEN = {
    "nginx": ("nginx.ingress.kubernetes.io/rewrite-target", "/$2"),
    "traefik": ("traefik.ingress.kubernetes.io/router.middlewares",
                "sound-sound-ingress@kubernetescrd,sound-sound-ingress-rewrite@kubernetescrd"),
}


@pytest.mark.parametrize("preset", REWRITTEN)
def test_a_rewriting_ingress(preset):
    made = objects({**HOSTS, "ingress_preset": preset, "ingress_path": "/ml", "ingress_rewrite": True})
    name, value = REWRITTEN[preset]
    assert made[INGRESS]["metadata"]["annotations"][name] == value
    server = made[DEPLOYMENT]["spec"]["template"]["spec"]["containers"][0]
    assert not [argument for argument in server["args"] if "--static-prefix" in argument]
    assert server["livenessProbe"]["httpGet"]["path"] == "/health"


def test_a_rewriting_route_and_the_contrary():
    variables = {"ingress_type": "gateway", "ingress_hosts": ["m.test"], "ingress_gateway": {"name": "g"},
                 "ingress_rewrite": True, "mlflow_server_path_prefix": "/below"}
    made = objects(variables)
    rule = made["HTTPRoute", "sound-ingress"]["spec"]["rules"][0]
    assert rule["matches"][0]["path"]["value"] == "/"
    assert rule["filters"][0]["urlRewrite"]["path"] == {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/below"}
    assert "--static-prefix=/below" in made[DEPLOYMENT]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert resolved(variables | {"mlflow_engine": "kubernetes"}).mlflow_server.url == "http://m.test"


def test_a_query_is_encoded():
    made = resolved({"database_query": {"options": "-csearch_path=a b", "connect_timeout": 10}})
    assert made.database.endpoint.uri.endswith("/mlflow?options=-csearch_path%3Da%20b&connect_timeout=10")


def test_what_is_lost_is_said():
    model = resolved({"database_type": "sqlite", "database_persistence": False, "object_storage_persistence": False})
    found = [text for component in components.COMPONENTS for text in component.warnings(model.variables, model)]
    assert [text.split()[0] for text in found] == ["object_storage_persistence", "database_persistence"]
    volumes = json.dumps(model.mlflow_server.volumes)
    assert '"emptyDir": {"sizeLimit": "8Gi"}' in volumes and "persistentVolumeClaim" not in volumes


def arguments(variables: dict) -> list[str]:
    """Of oauth2-proxy."""
    return objects({**OIDC, **variables})[DEPLOYMENT]["spec"]["template"]["spec"]["containers"][1]["args"]


def test_providers_of_oauth2_proxy():
    """`oauth2Proxy.provider.name`."""
    found = arguments({"mlflow_server_oidc_provider": "github", "mlflow_server_oidc_extra_args": ["--github-org=a"]})
    assert {"--provider=github", "--skip-jwt-bearer-tokens=false", "--github-org=a"} <= set(found)
    assert not [argument for argument in found if argument.startswith(("--oidc-issuer-url", "--scope"))]
    found = arguments({"mlflow_server_oidc_provider": "google", "mlflow_server_oidc_email_domains": ["a.test"]})
    assert {"--provider=google", "--scope=openid email profile", "--email-domain=a.test"} <= set(found)
    found = arguments({"mlflow_server_oidc_provider": "entra-id", "mlflow_server_oidc_issuer": "https://a.test/t/v2.0"})
    assert {"--provider=entra-id", "--oidc-issuer-url=https://a.test/t/v2.0", "--skip-jwt-bearer-tokens=true"} <= (
        set(found))


@pytest.mark.parametrize("kind, header", [("oidc", "X-Forwarded-Groups"), ("proxy", "X-Groups")])
def test_administrators_by_group(kind, header):
    """`oidcAuth.adminGroupName`."""
    variables = {**(OIDC if kind == "oidc" else {}), "mlflow_server_auth": kind,
                 "mlflow_server_auth_admin_groups": ["ml-admins"], "mlflow_server_auth_groups_header": "X-Groups",
                 **({"mlflow_server_oidc_issuer": "https://i.test"} if kind == "oidc" else {})}
    server = objects(variables)[DEPLOYMENT]["spec"]["template"]["spec"]["containers"][0]
    assert {"name": "AUTH_PROXY_GROUPS_HEADER", "value": header} in server["env"]
    assert {"name": "AUTH_PROXY_ADMIN_GROUPS", "value": "ml-admins"} in server["env"]


def test_further_buckets():
    """`minio.buckets`."""
    job = objects({"object_storage_extra_buckets": ["raw-data"]})["Job", "sound-server-migrate"]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    settings = next(entry["value"] for entry in container["env"] if entry["name"] == "MLFLOW_BUCKET_SETTINGS")
    assert json.loads(settings)["extra"] == ["raw-data"] and "bucket" in container["command"]


KUBERNETES = {"mlflow_engine": "kubernetes"}
REFUSED = {
    "podman": ({"mlflow_server_service_port": 80}, "mlflow_server_service_port is 80 while mlflow_engine is podman"),
    "port": ({**KUBERNETES, "mlflow_server_service_port": 70000}, "mlflow_server_service_port is 70000"),
    "node-port": ({**KUBERNETES, "mlflow_server_service_node_port": 30500},
                  "mlflow_server_service_node_port is 30500 while mlflow_server_service_type is ClusterIP"),
    "service-field": ({"ingress_service_spec": {"ports": []}}, "ingress_service_spec has the field ports"),
    "service-type": ({"mlflow_server_service_spec": {"loadBalancerClass": "a"}},
                     "mlflow_server_service_spec has loadBalancerClass while mlflow_server_service_type is ClusterIP"),
    "source-range": ({"mlflow_server_service_type": "LoadBalancer",
                      "mlflow_server_service_spec": {"loadBalancerSourceRanges": ["10.0.0.1/8"]}},
                     "mlflow_server_service_spec.loadBalancerSourceRanges holds '10.0.0.1/8'"),
    "probe": ({"mlflow_server_probes": {"liveness": {"httpGet": {}}}},
              "mlflow_server_probes.liveness has the field httpGet"),
    "probe-value": ({"mlflow_server_probes": {"liveness": {"periodSeconds": 0}}},
                    "mlflow_server_probes.liveness.periodSeconds is 0"),
    "probe-success": ({"mlflow_server_probes": {"liveness": {"successThreshold": 2}}},
                      "mlflow_server_probes.liveness.successThreshold is 2"),
    "scheduling": ({"database_scheduling": {"containers": []}}, "database_scheduling has the field containers"),
    "spread": ({"mlflow_server_scheduling": {"topologySpreadConstraints": [{**SPREAD, "whenUnsatisfiable": "No"}]}},
               "topologySpreadConstraints[0].whenUnsatisfiable is 'No'"),
    "affinity-twice": ({"mlflow_server_affinity": {"nodeAffinity": {}},
                        "mlflow_server_scheduling": {"affinity": {"nodeAffinity": {}}}},
                       "mlflow_server_affinity and mlflow_server_scheduling.affinity are both set"),
    "path-type": ({"ingress_path_type": "Exact"}, "ingress_path_type must be one of"),
    "rewrite-nothing": ({**KUBERNETES, **HOSTS, "ingress_preset": "nginx", "ingress_rewrite": True},
                        "ingress_rewrite is true while ingress_path and mlflow_server_path_prefix are both ''"),
    "rewrite-alb": ({**KUBERNETES, **HOSTS, "ingress_preset": "alb", "ingress_rewrite": True, "ingress_path": "/m"},
                    "ingress_rewrite is true while ingress_preset is 'alb'"),
    "rewrite-none": ({"ingress_rewrite": True}, "ingress_rewrite is true while ingress_type is none"),
    "not-rewritten": ({**HOSTS, **KUBERNETES, "mlflow_server_path_prefix": "/b"}, "or set ingress_rewrite to true"),
    "host-options": ({**HOSTS, **KUBERNETES, "ingress_host_options": {"x.test": {}}}, "ingress_host_options['x.test']"),
    "host-paths": ({**HOSTS, **KUBERNETES, "ingress_host_options": {"ml.example.com": {"paths": ["api"]}}},
                   "ingress_host_options['ml.example.com'].paths must be a list of paths"),
    "host-key": ({**HOSTS, **KUBERNETES, "ingress_host_options": {"ml.example.com": {"path": "/"}}},
                 "ingress_host_options['ml.example.com'] must be a mapping of paths"),
    "host-secret": ({**HOSTS, **KUBERNETES, "ingress_host_options": {"ml.example.com": {"tls_secret": "a"}}},
                    "tls_secret is set while ingress_tls is none"),
    "claim-and-none": ({"database_existing_claim": "a", "database_persistence": False},
                       "database_existing_claim is set while database_persistence is false"),
    "claim-of-another": ({"database_host": "db", "database_password": "x", "database_existing_claim": "a"},
                         "database_existing_claim is set while the database is an existing server"),
    "gc-of-nothing": ({"database_type": "sqlite", "database_persistence": False,
                       "mlflow_server_gc_schedule": "0 3 * * 0"}, "mlflow_server_gc_schedule is set while database_p"),
    "no-store": ({"object_storage_type": "volume", "object_storage_persistence": False},
                 "set object_storage_type to ephemeral"),
    "query-sqlite": ({"database_type": "sqlite", "database_query": {"a": "b"}}, "database_query is set while"),
    "query-login": ({"database_query": {"password": "b"}}, "database_query has the key password"),
    "query-tls": ({"database_host": "db", "database_password": "x", "database_tls": "require",
                   "database_query": {"sslmode": "disable"}}, "database_query has the key sslmode"),
    "uvicorn": ({"mlflow_server_uvicorn_args": ["--workers=4"]}, "use mlflow_server_workers for that"),
    "uvicorn-blank": ({"mlflow_server_uvicorn_args": ["--header=a b"]}, "mlflow_server_uvicorn_args holds --header"),
    "uvicorn-environment": ({"mlflow_server_log_level": "info",
                             "mlflow_server_extra_env": [{"name": "MLFLOW_UVICORN_OPTS", "value": "--h11"}]},
                            "put its options into mlflow_server_uvicorn_args"),
    "app-name": ({"mlflow_server_auth": "proxy", "mlflow_server_app_name": "a"},
                 "mlflow_server_app_name is a while mlflow_server_auth is proxy"),
    "root": ({"mlflow_server_default_artifact_root": "bucket"}, "mlflow_server_default_artifact_root is 'bucket'"),
    "root-with-logins": ({"mlflow_server_auth": "basic", "mlflow_server_default_artifact_root": "s3://b/c"},
                         "give a URI that begins with mlflow-artifacts:"),
    "github-for-all": ({**OIDC, "mlflow_server_oidc_provider": "github"}, "set --github-org in"),
    "google-for-all": ({**OIDC, "mlflow_server_oidc_provider": "google"}, "while the provider is Google"),
    "gitlab-for-all": ({**OIDC, "mlflow_server_oidc_provider": "gitlab",
                        "mlflow_server_oidc_issuer": "https://gitlab.com"}, "mlflow_server_oidc_issuer is gitlab.com"),
    "entra-for-all": ({**OIDC, "mlflow_server_oidc_provider": "entra-id",
                       "mlflow_server_oidc_issuer": "https://login.microsoftonline.com/common/v2.0"},
                      "that of all tenants of Microsoft Entra ID"),
    "github-issuer": ({**OIDC, "mlflow_server_oidc_provider": "github", "mlflow_server_oidc_issuer": "https://i.test"},
                      "mlflow_server_oidc_issuer is set while mlflow_server_oidc_provider is github"),
    "provider": ({**OIDC, "mlflow_server_oidc_provider": "saml"}, "mlflow_server_oidc_provider must be one of"),
    "admin-groups": ({"mlflow_server_auth": "basic", "mlflow_server_auth_admin_groups": ["a"]},
                     "mlflow_server_auth_admin_groups is set while mlflow_server_auth is basic"),
    "admin-group": ({"mlflow_server_auth": "proxy", "mlflow_server_auth_admin_groups": ["a,b"]},
                    "mlflow_server_auth_admin_groups holds 'a,b'"),
    "groups-header": ({"mlflow_server_auth": "proxy", "mlflow_server_auth_admin_groups": ["a"],
                       "mlflow_server_auth_groups_header": "Cookie"}, "mlflow_server_auth_groups_header is 'Cookie'"),
    "extra-buckets": ({"object_storage_extra_buckets": ["Raw"]}, "object_storage_extra_buckets holds 'Raw'"),
    "extra-bucket": ({"object_storage_extra_buckets": ["mlflow"]}, "object_storage_extra_buckets holds mlflow"),
    "extra-no-bucket": ({"object_storage_type": "volume", "object_storage_extra_buckets": ["raw-data"]},
                        "object_storage_extra_buckets is set while object_storage_type is volume"),
    "users-of-minio": ({"object_storage_type": "minio", "object_storage_users": [{"name": "a"}]},
                       "object_storage_users is set while object_storage_type is minio; only seaweedfs reads it"),
    "user-name": ({"object_storage_users": [{"name": "A b"}]}, "object_storage_users[0].name is 'A b'"),
    "user-twice": ({"object_storage_users": [{"name": "a"}, {"name": "a"}]},
                   "object_storage_users[1].name is a, which is the name of another user"),
    "user-bucket": ({"object_storage_users": [{"name": "a", "buckets": ["raw-data"]}]},
                    "object_storage_users[0].buckets holds 'raw-data', which is no bucket of the store"),
    "user-access": ({"object_storage_users": [{"name": "a", "access": "admin"}]},
                    "object_storage_users[0].access must be one of"),
    "template": ({**KUBERNETES, **STORE, "database_external_secret": {"value": {"key": "db"}},
                  "database_external_secret_template": {"data": {"username": "a"}}},
                 "database_external_secret_template.data has no password"),
    "template-alone": ({"database_external_secret_template": TEMPLATE},
                       "database_external_secret_template is set while database_external_secret is empty"),
}


@pytest.mark.parametrize("variables, sentence", REFUSED.values(), ids=REFUSED)
def test_refused(variables, sentence):
    found = refused(variables)
    assert any(sentence in text for text in found), found
