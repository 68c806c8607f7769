# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rows of docs/charts.md: a variable, and the field of the object that the chart's option sets."""

from __future__ import annotations

import json

import pytest
from model_tests import refused, resolved

from ansible_collections.mlops.mlflow.plugins.plugin_utils import components, manifests, render

WHOLE = {"mlflow_engine": "kubernetes", "mlflow_server_gc_schedule": "0 3 * * 0", "backup_type": "volume",
         "backup_schedule": "0 2 * * *", "monitoring_type": "prometheus", "monitoring_exporters": ["database"],
         "monitoring_grafana": True, "ingress_type": "proxy", "ingress_hosts": ["mlflow.example.com"]}
"""Every component that has pods."""


def rendered(**variables) -> dict[str, dict]:
    """The objects of all components, by kind and name."""
    model = resolved({"mlflow_engine": "kubernetes", **variables}, "mlflow")
    objects = [obj for component in components.COMPONENTS for obj in render.render(component, model, {})]
    return {str(manifests.Ref.of(obj)): obj for obj in objects}


def pods(objects: dict[str, dict]) -> dict[str, dict]:
    """The pod specs of workloads and CronJobs."""
    templates = {name: manifests.pod_template(obj) for name, obj in objects.items()}
    return {name: template["spec"] for name, template in templates.items() if template}


def entry(spec: dict, name: str, field: str = "containers") -> dict:
    """One container of a pod."""
    return next(container for container in spec[field] if container["name"] == name)


def names(entries: list[dict]) -> list[str]:
    return [found["name"] for found in entries]


def test_a_patch_reaches_any_object_of_any_component():
    objects = rendered(
        ingress_type="proxy", ingress_hosts=["mlflow.example.com"], mlflow_network_policy=True,
        mlflow_patches=[
            {"target": {"kind": "StatefulSet", "name": "mlflow-database"}, "patch": {"spec": {"minReadySeconds": 7}}},
            {"target": {"kind": "Deployment", "name": "mlflow-ingress"}, "patch": {"spec": {"paused": True}}},
            {"target": {"kind": "NetworkPolicy"}, "patch": {"metadata": {"annotations": {"team": "x"}}}},
        ])
    assert objects["StatefulSet mlflow-database"]["spec"]["minReadySeconds"] == 7
    assert objects["Deployment mlflow-ingress"]["spec"]["paused"] is True
    policies = [obj for name, obj in objects.items() if name.startswith("NetworkPolicy ")]
    assert len(policies) >= 4
    assert all(obj["metadata"]["annotations"]["team"] == "x" for obj in policies)
    assert "minReadySeconds" not in objects["StatefulSet mlflow-object-storage"]["spec"]


def test_patches_remove_merge_by_name_and_reorder():
    patch = {"spec": {"template": {"spec": {
        "terminationGracePeriodSeconds": None,
        "initContainers": [{"name": "first", "image": "docker.io/library/busybox:1"}],
        "$setElementOrder/initContainers": [{"name": "first"}],
        "containers": [{"name": "mlflow", "livenessProbe": None, "env": [{"name": "HOME", "value": "/home"},
                                                                         {"name": "DO_NOT_TRACK", "$patch": "delete"}],
                        "args": ["--host=::"]}],
        "volumes": [{"$patch": "replace"}, {"name": "tmp", "emptyDir": {}}],
    }}}}
    objects = rendered(mlflow_patches=[{"target": {"kind": "Deployment"}, "patch": patch}])
    spec = pods(objects)["Deployment mlflow-server"]
    assert names(spec["initContainers"]) == ["first", "wait"]
    assert "terminationGracePeriodSeconds" not in spec
    server = entry(spec, "mlflow")
    environment = {variable["name"]: variable.get("value") for variable in server["env"]}
    assert "livenessProbe" not in server and server["readinessProbe"] and server["args"] == ["--host=::"]
    assert environment["HOME"] == "/home" and "DO_NOT_TRACK" not in environment and "PYTHONPATH" in environment
    assert spec["volumes"] == [{"name": "tmp", "emptyDir": {}}]


def test_a_patch_changes_the_version_of_an_api():
    """externalSecrets.apiVersion of the chart, for an older operator."""
    objects = rendered(
        database_host="db", database_external_secret={"username": {"key": "db"}, "password": {"key": "db"}},
        mlflow_secret_store={"name": "vault"},
        mlflow_patches=[{"target": {"kind": "ExternalSecret"}, "patch": {"apiVersion": "external-secrets.io/v1beta1"}}])
    found = [obj for name, obj in objects.items() if name.startswith("ExternalSecret ")]
    assert [obj["apiVersion"] for obj in found] == ["external-secrets.io/v1beta1"]


@pytest.mark.parametrize(("entry", "sentence"), [
    ({"target": {"kind": "Deployment", "name": "mlflow-proxy"}, "patch": {}},
     "mlflow_patches[0] reaches no object: there is no Deployment mlflow-proxy; there are ConfigMap"),
    ({"target": {"kind": "Deployment"}, "patch": {"metadata": {"name": "x"}}}, "mlflow_patches[0] would rename"),
    ({"target": {"kind": "Deployment"}, "patch": {"spec": {"replicas": "two"}}}, "mlflow_patches: Deployment"),
    ({"target": {"kind": "Deployment"}, "patch": {"spec": {"template": {"spec": {
        "$setElementOrder/initContainers": [{"name": "prxy"}]}}}}},
     "mlflow_patches[0]: $setElementOrder/initContainers names prxy, which the list does not have; it has wait."),
    ({"target": "Deployment", "patch": {}}, "mlflow_patches[0] must hold exactly target"),
])
def test_a_patch_that_cannot_be_applied_is_refused(entry, sentence):
    assert any(found.startswith(sentence) for found in refused({"mlflow_engine": "kubernetes",
                                                                "mlflow_patches": [entry]}))


def test_patches_of_the_whole_come_after_those_of_a_role():
    objects = rendered(
        mlflow_server_patches=[{"target": {"kind": "Deployment"}, "patch": {"spec": {"minReadySeconds": 1}}}],
        mlflow_patches=[{"target": {"kind": "Deployment"}, "patch": {"spec": {"minReadySeconds": 2}}}])
    assert objects["Deployment mlflow-server"]["spec"]["minReadySeconds"] == 2


def test_resources_stand_in_for_the_preset():
    def resources(**variables):
        return entry(pods(rendered(**variables))["Deployment mlflow-server"], "mlflow")["resources"]

    small = {"limits": {"cpu": "500m", "memory": "900Mi"}}
    assert resources(mlflow_server_resources={"limits": {"cpu": "3"}})["requests"] == {"cpu": "1", "memory": "2Gi"}
    assert resources(mlflow_server_preset_resources=False) == {}
    assert resources(mlflow_server_preset_resources=False, mlflow_server_resources=small) == small


def test_autoscaling_needs_requests():
    variables = {"mlflow_engine": "kubernetes", "mlflow_server_autoscaling": True,
                 "mlflow_server_preset_resources": False, "mlflow_server_resources": {"requests": {"memory": "1Gi"}}}
    (sentence,) = refused(variables)
    assert sentence.startswith("mlflow_server_autoscaling_cpu is 70 while the server's container requests no cpu")
    assert not refused({**variables, "mlflow_server_autoscaling_cpu": 0})


def test_the_platform_chooses_the_ids_of_all_pods():
    """OpenShift's restricted-v2 refuses pods that ask for ids outside of the namespace's range."""
    ids = ("runAsUser", "runAsGroup", "fsGroup")
    own, theirs = pods(rendered(**WHOLE)), pods(rendered(**WHOLE, mlflow_platform_ids=True))
    assert set(own) == set(theirs) and len(theirs) >= 11
    for name, spec in theirs.items():
        assert '"runAsUser"' in json.dumps(own[name]), name
        assert not any(f'"{field}"' in json.dumps(spec) for field in ids), name
        assert spec["securityContext"]["runAsNonRoot"] is True, name


URI = {"database_existing_secret": "mlflow-db", "database_existing_secret_keys": {"uri": "uri"}}
"""backendStoreUriFrom of the chart."""


def environment(container: dict) -> dict[str, object]:
    """Value, or key of a Secret as SECRET/KEY, of each variable."""
    found = {}
    for variable in container["env"]:
        reference = (variable.get("valueFrom") or {}).get("secretKeyRef")
        found[variable["name"]] = f"{reference['name']}/{reference['key']}" if reference else variable.get("value")
    return found


def opening_stores(objects: dict[str, dict]) -> list[dict]:
    """The containers in the server's image."""
    specs = [spec for name, spec in pods(objects).items()
             if name.split()[1] in ("mlflow-server", "mlflow-server-migrate", "mlflow-server-gc", "mlflow-backup",
                                    "mlflow-monitoring-exporter")]
    assert len(specs) == 5
    return [found for spec in specs for found in spec.get("initContainers", []) + spec["containers"]
            if found["name"] in ("wait", "mlflow", "migrate", "gc", "backup", "exporter")]


@pytest.mark.parametrize(("given", "reference"), [
    (URI, "mlflow-db/uri"),
    ({"database_external_secret": {"uri": {"key": "db", "property": "uri"}}, "mlflow_secret_store": {"name": "vault"}},
     "mlflow-database-external/uri"),
    ({**URI, "database_type": "mariadb"}, "mlflow-db/uri"),
])
def test_a_secret_holds_the_whole_uri_of_the_database(given, reference):
    objects = rendered(**{**WHOLE, "monitoring_exporters": []}, **given)
    containers = opening_stores(objects)
    assert len(containers) == 6
    for container in containers:
        variables = environment(container)
        assert variables["MLFLOW_BACKEND_STORE_URI"] == reference, container["name"]
        assert not {"PGUSER", "PGPASSWORD", "DATABASE_USER", "DATABASE_PASSWORD"} & set(variables), container["name"]
    database = entry(pods(objects)["CronJob mlflow-backup"], "database")
    assert set(environment(database)) == {"HOME"}
    made = [name for name in objects if " mlflow-database" in name]
    assert all(name.startswith("ExternalSecret ") for name in made)


def test_users_are_in_the_database_of_the_secret():
    objects = rendered(**URI, mlflow_server_auth="basic")
    assert "database_uri" not in objects["ConfigMap mlflow-server"]["data"]["auth.ini"]
    assert "database_uri = postgresql" in rendered(mlflow_server_auth="basic")["ConfigMap mlflow-server"]["data"][
        "auth.ini"]


def test_a_database_of_another_type():
    """mssql of the chart, with an image that has its driver."""
    objects = rendered(**URI, database_type="other", database_port=1433, mlflow_network_policy=True,
                       mlflow_server_image="registry.example.com/mlflow-mssql:3", monitoring_type="prometheus")
    exporter = environment(entry(pods(objects)["Deployment mlflow-monitoring-exporter"], "exporter"))
    assert exporter["MLOPS_EXPORTER_DATABASE_INTERVAL"] == exporter["MLOPS_EXPORTER_COUNTS_INTERVAL"] == "0"
    policy = objects["NetworkPolicy mlflow-server"]["spec"]["egress"]
    assert {"ports": [{"port": 1433, "protocol": "TCP"}]} in policy


def test_cloud_sql_logs_in_by_iam():
    objects = rendered(database_cloudsql_instance="p:r:i", database_cloudsql_args=["--auto-iam-authn"],
                       database_user="mlflow@project.iam", mlflow_server_auth="basic")
    server = environment(entry(pods(objects)["Deployment mlflow-server"], "mlflow"))
    assert server["MLFLOW_BACKEND_STORE_URI"] == "postgresql+psycopg2://mlflow%40project.iam@127.0.0.1:5432/mlflow"
    assert "PGPASSWORD" not in server and not [name for name in objects if name.startswith("Secret mlflow-database")]
    # configparser takes a single per cent sign for a reference.
    assert "mlflow%%40project.iam" in objects["ConfigMap mlflow-server"]["data"]["auth.ini"]


def test_a_user_without_a_password():
    """Amazon RDS and Azure, where the driver or a proxy in the pod logs in."""
    objects = rendered(database_host="db", database_passwordless=True)
    server = environment(entry(pods(objects)["Deployment mlflow-server"], "mlflow"))
    assert server["MLFLOW_BACKEND_STORE_URI"] == "postgresql+psycopg2://mlflow@db:5432/mlflow"
    assert not {"PGUSER", "PGPASSWORD"} & set(server)


@pytest.mark.parametrize(("variables", "sentence"), [
    ({"database_existing_secret_keys": {"uri": "u"}}, "database_existing_secret_keys.uri is set while"),
    ({**URI, "database_host": "db"}, "database_host is set while a Secret holds the whole URI"),
    ({**URI, "database_tls": "require"}, "database_tls is set while a Secret holds the whole URI"),
    ({"database_type": "other"}, "database_type is other while no Secret holds the URI"),
    ({**URI, "database_type": "other", "backup_type": "volume"}, "backup_type is set while the database is of another"),
    ({**URI, "database_type": "other", "mlflow_network_policy": True}, "database_port is not set while"),
    ({**URI, "database_type": "sqlite"}, "database_existing_secret is set while database_type is sqlite"),
    ({"database_passwordless": True}, "database_passwordless is true while the collection runs the database"),
    ({"database_passwordless": True, "database_host": "db", "database_password": "x"},
     "database_password is set while database_passwordless is true"),
    ({"database_cloudsql_instance": "p:r:i", "database_cloudsql_args": ["--auto-iam-authn"], "database_password": "x"},
     "database_password is set while --auto-iam-authn is set"),
    ({"mlflow_server_database": {"type": "postgresql", "secret": "s", "secret_keys": {"user": "u", "password": "p"}}},
     "mlflow_server_database has no uri"),
])
def test_a_uri_that_contradicts_is_refused(variables, sentence):
    assert [found for found in refused({"mlflow_engine": "kubernetes", **variables}) if found.startswith(sentence)]


def test_another_database_of_the_server_is_in_a_secret():
    objects = rendered(mlflow_server_database={"type": "postgresql", "secret": "s", "secret_keys": {"uri": "u"}})
    server = environment(entry(pods(objects)["Deployment mlflow-server"], "mlflow"))
    assert server["MLFLOW_BACKEND_STORE_URI"] == "s/u" and "PGUSER" not in server


PROXY = {"name": "proxy", "image": "registry.example.com/proxy:1", "startupProbe": {"tcpSocket": {"port": 5432}}}
SIDECAR = {**PROXY, "restartPolicy": "Always"}
LOOPBACK = {"database_host": "127.0.0.1", "database_password": "secret", "monitoring_exporters": []}


SETUP = {"name": "setup", "image": "registry.example.com/setup:1"}


@pytest.mark.parametrize("variables", [
    {"mlflow_server_extra_init_containers": [SETUP, SIDECAR]},
    {"mlflow_server_extra_init_containers": [SETUP], "mlflow_server_extra_containers": [PROXY]}])
def test_a_proxy_of_ones_own_starts_before_all_that_opens_the_database(variables):
    found = pods(rendered(**{**WHOLE, **LOOPBACK, **variables}))
    for name in ("Deployment mlflow-server", "Job mlflow-server-migrate", "CronJob mlflow-server-gc",
                 "CronJob mlflow-backup", "Deployment mlflow-monitoring-exporter"):
        first = found[name]["initContainers"]
        assert first[:2] == [SETUP, SIDECAR], name
        assert "proxy" not in names(found[name]["containers"]), name
    assert names(found["Deployment mlflow-server"]["initContainers"]) == ["setup", "proxy", "wait"]


def test_containers_that_are_no_proxy_stay_beside_the_server():
    found = pods(rendered(mlflow_server_extra_containers=[PROXY]))
    assert names(found["Deployment mlflow-server"]["containers"]) == ["mlflow", "proxy"]
    assert "initContainers" not in found["Job mlflow-server-migrate"]


def test_the_exporter_has_no_init_container_that_mounts_what_only_the_server_mounts():
    mounting = {"name": "fill", "image": "f:1", "volumeMounts": [{"name": "artifacts", "mountPath": "/a"}]}
    found = pods(rendered(object_storage_type="volume", monitoring_type="prometheus",
                          mlflow_server_extra_init_containers=[mounting, SIDECAR]))
    assert names(found["Deployment mlflow-monitoring-exporter"]["initContainers"]) == ["proxy"]
    assert names(found["Job mlflow-server-migrate"]["initContainers"]) == ["fill", "proxy"]


@pytest.mark.parametrize(("variables", "sentence"), [
    ({"mlflow_engine": "podman", "mlflow_server_extra_init_containers": [SIDECAR]}, "The init container proxy has"),
    ({"mlflow_engine": "podman", "mlflow_server_extra_containers": [PROXY], **LOOPBACK},
     "The init container proxy has"),
    ({"mlflow_server_extra_init_containers": [{"name": "migrate", "image": "m:1"}]},
     "mlflow_server_extra_init_containers holds migrate, which is the name of another container"),
])
def test_init_containers_that_cannot_run_are_refused(variables, sentence):
    assert [found for found in refused({"mlflow_engine": "kubernetes", **variables}) if found.startswith(sentence)]


OIDC = {"mlflow_server_auth": "oidc", "mlflow_server_oidc_issuer": "https://id.example.com",
        "mlflow_server_oidc_redirect_url": "https://mlflow.example.com/oauth2/callback"}
ADMIN = {"mlflow_server_auth_existing_secret": "admin",
         "mlflow_server_auth_existing_secret_keys": {"user": "u", "password": "p", "secret_key": ""}}
"""auth.existingAdminSecret of the chart has two keys."""


def test_what_the_secret_of_the_administrator_lacks_is_generated():
    objects = rendered(mlflow_server_auth="basic", **ADMIN)
    variables = environment(entry(pods(objects)["Deployment mlflow-server"], "mlflow"))
    assert variables["MLFLOW_AUTH_ADMIN_USERNAME"] == "admin/u" and variables["MLFLOW_AUTH_ADMIN_PASSWORD"] == "admin/p"
    assert variables["MLFLOW_FLASK_SERVER_SECRET_KEY"] == "mlflow-server-auth/secret-key"
    own = objects["Secret mlflow-server-auth"]
    assert own["metadata"]["annotations"]["mlops.mlflow/generate"] == "secret-key" and "data" not in own


def test_the_secret_of_oauth2_proxy_has_three_keys():
    """oauth2Proxy.existingSecret of the chart."""
    admin = {**ADMIN["mlflow_server_auth_existing_secret_keys"], "proxy_secret": ""}
    objects = rendered(**OIDC, **{**ADMIN, "mlflow_server_auth_existing_secret_keys": admin},
                       mlflow_server_oidc_existing_secret="proxy",
                       mlflow_server_oidc_existing_secret_keys={"client_id": "id"})
    spec = pods(objects)["Deployment mlflow-server"]
    proxy = entry(spec, "oauth2-proxy")
    assert environment(proxy) == {
        "OAUTH2_PROXY_CLIENT_ID": "proxy/id", "OAUTH2_PROXY_CLIENT_SECRET": "proxy/client-secret",
        "OAUTH2_PROXY_COOKIE_SECRET": "proxy/cookie-secret",
        "OAUTH2_PROXY_BASIC_AUTH_PASSWORD": "mlflow-server-auth/proxy-secret"}
    assert not [argument for argument in proxy["args"] if argument.startswith("--client-id")]
    assert environment(entry(spec, "mlflow"))["AUTH_PROXY_SECRET"] == "mlflow-server-auth/proxy-secret"
    own = objects["Secret mlflow-server-auth"]["metadata"]["annotations"]
    assert own["mlops.mlflow/generate"] == "secret-key,proxy-secret"


def test_without_an_existing_secret_all_is_in_one_of_our_own():
    objects = rendered(**OIDC, mlflow_server_oidc_client_id="mlflow", mlflow_server_oidc_client_secret="s")
    own = objects["Secret mlflow-server-auth"]
    assert own["metadata"]["annotations"]["mlops.mlflow/generate"] == "password,secret-key,proxy-secret,cookie-secret"
    assert set(own["data"]) == {"username", "client-secret"}
    assert set(environment(entry(pods(objects)["Deployment mlflow-server"], "oauth2-proxy")).values()) == {
        f"mlflow-server-auth/{key}" for key in ("client-secret", "cookie-secret", "proxy-secret")}


def test_one_existing_secret_holds_all():
    objects = rendered(**OIDC, mlflow_server_auth_existing_secret="all",
                       mlflow_server_auth_existing_secret_keys={"client_id": "id"})
    assert "Secret mlflow-server-auth" not in objects
    assert environment(entry(pods(objects)["Deployment mlflow-server"], "oauth2-proxy"))[
        "OAUTH2_PROXY_CLIENT_ID"] == "all/id"


@pytest.mark.parametrize(("variables", "sentence"), [
    ({**OIDC, "mlflow_server_oidc_existing_secret": "s", "mlflow_server_oidc_client_id": "x"},
     "mlflow_server_oidc_client_id is set while a Secret holds the client ID"),
    ({**OIDC, "mlflow_server_oidc_existing_secret": "s", "mlflow_server_oidc_existing_secret_keys": {"client_id": ""}},
     "mlflow_server_oidc_client_id is empty while"),
    ({**OIDC, "mlflow_server_oidc_client_id": "x", "mlflow_server_auth_existing_secret": "s",
      "mlflow_server_auth_existing_secret_keys": {"client_secret": ""}}, "mlflow_server_oidc_client_secret is empty"),
    ({"mlflow_server_auth": "basic", "mlflow_server_oidc_existing_secret": "s"},
     "mlflow_server_oidc_existing_secret is set while mlflow_server_auth is basic"),
    ({"mlflow_server_auth": "basic", "mlflow_server_auth_existing_secret": "s",
      "mlflow_server_auth_existing_secret_keys": {"password": ""}},
     "mlflow_server_auth_existing_secret_keys.password is empty"),
    ({**OIDC, "mlflow_server_oidc_client_id": "x", "mlflow_server_oidc_client_secret": "y",
      "mlflow_server_oidc_existing_secret_keys": {"client_id": "i"}},
     "mlflow_server_oidc_existing_secret_keys is set while"),
])
def test_secrets_of_logins_that_contradict_are_refused(variables, sentence):
    assert [found for found in refused({"mlflow_engine": "kubernetes", **variables}) if found.startswith(sentence)]


S3 = {"object_storage_type": "s3", "object_storage_url": "https://s3.example.com", "object_storage_access_key": "a",
      "object_storage_secret_key": "b"}


def test_the_certificate_of_a_store_is_not_verified():
    """MLFLOW_S3_IGNORE_TLS of the chart's extraEnvVars."""
    containers = opening_stores(rendered(**{**WHOLE, "backup_type": "s3"}, **S3, object_storage_validate_certs=False))
    assert all(environment(container)["MLFLOW_S3_IGNORE_TLS"] == "true" for container in containers)
    (backup,) = [container for container in containers if container["name"] == "backup"]
    assert json.loads(environment(backup)["BACKUP_STORE"])["validate_certs"] is False
    verified = opening_stores(rendered(**WHOLE, **S3))
    assert not any("MLFLOW_S3_IGNORE_TLS" in environment(container) for container in verified)


def test_a_store_that_is_not_verified_is_warned_of():
    model = resolved({**S3, "object_storage_validate_certs": False})
    found = [sentence for component in components.COMPONENTS
             for sentence in component.warnings(model.variables, model)]
    assert len(found) == 1 and found[0].startswith("object_storage_validate_certs is false, so whoever is between")


@pytest.mark.parametrize("uri", ["abfss://c@account.dfs.core.windows.net/mlflow", "hdfs://namenode:8020/mlflow",
                                 "mlflow-artifacts:/team"])
def test_a_uri_of_artifacts_goes_through_as_it_is(uri):
    objects = rendered(object_storage_type="uri", object_storage_uri=uri, monitoring_type="prometheus",
                       mlflow_network_policy=True, mlflow_server_artifacts="direct")
    spec = pods(objects)["Deployment mlflow-server"]
    server = entry(spec, "mlflow")
    assert environment(server)["MLFLOW_ARTIFACTS_DESTINATION"] == uri
    assert f"--default-artifact-root={uri}" in server["args"]
    assert not [volume for volume in spec["volumes"] if volume["name"] == "artifacts"]
    assert not [name for name in objects if "object-storage" in name]
    exporter = environment(entry(pods(objects)["Deployment mlflow-monitoring-exporter"], "exporter"))
    assert exporter["MLOPS_EXPORTER_OBJECT_STORE_INTERVAL"] == "0"
    ports = [port["port"] for rule in objects["NetworkPolicy mlflow-server"]["spec"]["egress"]
             for port in rule.get("ports", [])]
    assert 443 in ports and (8020 in ports) == ("8020" in uri)


@pytest.mark.parametrize(("variables", "sentence"), [
    ({"object_storage_type": "uri"}, "object_storage_uri is '' while object_storage_type is uri; it must be a URI"),
    ({"object_storage_type": "uri", "object_storage_uri": "/data"},
     "object_storage_uri is '/data' while object_storage_type is uri; it must be a URI"),
    ({"object_storage_type": "uri", "object_storage_uri": "s3://b/x"}, "object_storage_uri begins with s3:"),
    ({"object_storage_type": "uri", "object_storage_uri": "ftp://u:secret@host/x"}, "object_storage_uri holds a pass"),
    ({"object_storage_uri": "hdfs://n/x"}, "object_storage_uri is set while object_storage_type is seaweedfs"),
    ({"object_storage_type": "uri", "object_storage_uri": "hdfs://n/x", "backup_type": "volume"},
     "backup_type is set while object_storage_type is uri"),
    ({"object_storage_validate_certs": False}, "object_storage_validate_certs is false while object_storage_type is"),
    ({**S3, "object_storage_validate_certs": False,
      "object_storage_ca": "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"},
     "object_storage_validate_certs is false while object_storage_ca gives"),
])
def test_a_place_of_artifacts_that_cannot_be_is_refused(variables, sentence):
    assert [found for found in refused({"mlflow_engine": "kubernetes", **variables}) if found.startswith(sentence)]


def test_a_route_of_openshift_for_each_host():
    objects = rendered(ingress_type="route", ingress_hosts=["mlflow.apps.example.com", "*.ml.example.com"],
                       ingress_path="/team", ingress_tls="secret", ingress_tls_secret="wildcard", ingress_timeout=120,
                       ingress_annotations={"haproxy.router.openshift.io/balance": "leastconn"})
    first, second = objects["Route mlflow-ingress"], objects["Route mlflow-ingress-2"]
    assert [route["spec"]["host"] for route in (first, second)] == [
        "mlflow.apps.example.com", "wildcard.ml.example.com"]
    assert [route["spec"]["wildcardPolicy"] for route in (first, second)] == ["None", "Subdomain"]
    spec = first["spec"]
    assert spec["path"] == "/team" and spec["to"]["name"] == "mlflow-server"
    ports = objects["Service mlflow-server"]["spec"]["ports"]
    assert spec["port"]["targetPort"] in names(ports)
    assert spec["tls"] == {"termination": "edge", "insecureEdgeTerminationPolicy": "Redirect",
                           "externalCertificate": {"name": "wildcard"}}
    annotations = first["metadata"]["annotations"]
    assert annotations["haproxy.router.openshift.io/timeout"] == "120s"
    assert annotations["haproxy.router.openshift.io/balance"] == "leastconn"
    assert annotations["haproxy.router.openshift.io/hsts_header"].startswith("max-age=")
    # The router refuses this header there.
    assert "Strict-Transport-Security" not in names(spec["httpHeaders"]["actions"]["response"])
    assert objects["Role mlflow-ingress"]["rules"][0]["resourceNames"] == ["wildcard"]
    assert objects["RoleBinding mlflow-ingress"]["subjects"][0]["namespace"] == "openshift-ingress"
    server = environment(entry(pods(objects)["Deployment mlflow-server"], "mlflow"))
    assert "https://mlflow.apps.example.com" in server["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"].split(",")


def test_a_route_rewrites_paths():
    route = rendered(ingress_type="route", ingress_hosts=["mlflow.example.com"], ingress_path="/mlflow",
                     ingress_rewrite=True)["Route mlflow-ingress"]
    assert route["spec"]["path"] == "/mlflow" and "tls" not in route["spec"]
    assert route["metadata"]["annotations"]["haproxy.router.openshift.io/rewrite-target"] == "/"


def test_a_route_passes_the_tls_of_the_server_through():
    route = rendered(ingress_type="route", ingress_hosts=["mlflow.example.com"], ingress_tls="controller",
                     mlflow_server_tls_secret="server")["Route mlflow-ingress"]
    assert route["spec"]["tls"] == {"termination": "passthrough", "insecureEdgeTerminationPolicy": "Redirect"}
    assert route["spec"]["port"]["targetPort"] == "https" and "httpHeaders" not in route["spec"]


ROUTE = {"ingress_type": "route", "ingress_hosts": ["mlflow.example.com"]}


@pytest.mark.parametrize(("variables", "sentence"), [
    ({**ROUTE, "mlflow_engine": "podman"}, "ingress_type is route while mlflow_engine is podman"),
    ({**ROUTE, "ingress_tls": "self_signed"}, "ingress_tls is self_signed while ingress_type is route"),
    ({**ROUTE, "mlflow_server_tls_secret": "s", "ingress_path": "/x", "ingress_tls": "controller"},
     "mlflow_server_tls_secret is set while ingress_type is route"),
    ({**ROUTE, "ingress_rewrite": True, "mlflow_server_path_prefix": "/x"},
     "ingress_rewrite is true while ingress_type is route"),
    ({**ROUTE, "mlflow_network_policy": True}, "mlflow_network_policy_clients is empty while"),
    ({**ROUTE, "ingress_max_body_size": "5Gi"}, "ingress_max_body_size is 5Gi while ingress_type is route"),
])
def test_a_route_that_cannot_be_is_refused(variables, sentence):
    assert [found for found in refused({"mlflow_engine": "kubernetes", **variables}) if found.startswith(sentence)]


def test_the_probe_of_postgresql_needs_no_name_of_its_user():
    """pg_isready looks for the name of a user that a platform has chosen, who has none."""
    def ping(**variables):
        container = entry(pods(rendered(**variables))["StatefulSet mlflow-database"], "postgresql")
        return container["readinessProbe"]["exec"]["command"]

    assert ping(mlflow_platform_ids=True)[-2:] == ["-U", "mlflow"] and "-U" not in ping()
