# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every example inventory, rendered for Kubernetes: valid by strict schemas, restricted, with probes and limits,
without secrets."""

from __future__ import annotations

import base64
import json
import os
import pathlib
import re
import subprocess

import pytest
import strict
import yaml

ROOT = pathlib.Path(__file__).parents[2]
INVENTORIES = sorted(path.name for path in (ROOT / "inventories").iterdir() if path.is_dir())
VERSIONS = ("1.30", "1.37")
"""The oldest and the newest Kubernetes that the collection supports."""
CERTIFICATE = "-----BEGIN CERTIFICATE-----\nU2VudGluZWw=\n-----END CERTIFICATE-----\n"
SECRETS = {
    "database_password": "Sentinel-database-password",
    "object_storage_access_key": "Sentinel-access-key",
    "object_storage_secret_key": "Sentinel-secret-key",
}
RESTRICTED_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}


def render(inventory: str, folder: pathlib.Path, hash_seed: int = 1, **variables) -> list[dict]:
    """All objects of an inventory, as site.yml renders them for Kubernetes."""
    extra = {
        "mlflow_engine": "kubernetes",
        "mlflow_image_source": "registry",
        "mlflow_render_dir": str(folder),
        "mlflow_render_secrets": "plain",
        **variables,
    }
    done = subprocess.run(
        [
            "ansible-playbook",
            "-i",
            f"inventories/{inventory}",
            "playbooks/site.yml",
            "-e",
            yaml.safe_dump(extra, default_flow_style=True),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return objects_in(folder)


def objects_in(folder: pathlib.Path) -> list[dict]:
    """The objects of all instances of a repository, without the verification that applied ones do not have."""
    return [obj for path in sorted(folder.rglob("wave-*/*.yaml")) if path.name != "kustomization.yaml"
            for obj in yaml.safe_load_all(path.read_text())]


def pod_specs(objects: list[dict]) -> list[tuple[str, dict]]:
    """Name and pod spec of every workload."""
    return [(f"{o['kind']} {o['metadata']['name']}", o["spec"]["template"]["spec"]) for o in objects
            if o["kind"] in ("Deployment", "StatefulSet", "Job")]


@pytest.fixture(scope="module", params=INVENTORIES)
def objects(request, tmp_path_factory):
    return render(request.param, tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("inventory", INVENTORIES)
def test_renders_the_same_again(inventory, tmp_path):
    """The order of a Python set differs between processes, so an object made from one would change without a cause."""
    first, second = (render(inventory, tmp_path / str(seed), hash_seed=seed, mlflow_render_secrets="omit")
                     for seed in (1, 3))
    assert first == second


@pytest.mark.parametrize("version", VERSIONS)
def test_strictly_valid(objects, version):
    for obj in objects:
        strict.validate(obj, version)


def test_labelled(objects):
    for obj in objects:
        labels = obj["metadata"]["labels"]
        assert labels["app.kubernetes.io/managed-by"] == "mlops.mlflow"
        assert {"app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/component"} <= set(labels)


def test_restricted_pod_security(objects):
    assert_restricted(objects)


def assert_restricted(objects):
    """Source: https://kubernetes.io/docs/concepts/security/pod-security-standards/"""
    for name, spec in pod_specs(objects):
        pod = spec["securityContext"]
        assert pod["runAsNonRoot"] is True and pod["runAsUser"] > 0, name
        assert pod["seccompProfile"]["type"] == "RuntimeDefault", name
        assert not any(spec.get(field) for field in ("hostNetwork", "hostPID", "hostIPC")), name
        for volume in spec["volumes"]:
            assert set(volume) - {"name"} <= RESTRICTED_VOLUMES, name
        for container in spec.get("initContainers", []) + spec["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["capabilities"]["drop"] == ["ALL"], name
            assert set(context["capabilities"].get("add", [])) <= {"NET_BIND_SERVICE"}, name
            assert context["readOnlyRootFilesystem"] is True, name
            assert not any(port.get("hostPort") for port in container.get("ports", [])), name


def test_probes_and_resources(objects):
    for obj in objects:
        if obj["kind"] not in ("Deployment", "StatefulSet", "Job"):
            continue
        for container in obj["spec"]["template"]["spec"]["containers"]:
            assert container["resources"]["requests"]["memory"] and container["resources"]["limits"]["memory"]
            assert obj["kind"] == "Job" or {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)


def test_images_are_pinned(objects):
    for name, spec in pod_specs(objects):
        for container in spec["containers"]:
            tag = container["image"].rpartition(":")[2]
            assert tag and tag != "latest" and "/" not in tag, f"{name}: {container['image']}"


def test_host_allow_list(objects):
    """A server whose allow-list lacks its own names answers 403 to clients while its probes succeed."""
    (server,) = [o for o in objects if o["kind"] == "Deployment"]
    env = {e["name"]: e.get("value", "") for e in server["spec"]["template"]["spec"]["containers"][0]["env"]}
    hosts = env["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    name, namespace = server["metadata"]["name"], server["metadata"]["namespace"]
    for host in (name, f"{name}.{namespace}", f"{name}.{namespace}.svc.cluster.local", "localhost"):
        assert host in hosts and f"{host}:*" in hosts


@pytest.mark.parametrize("inventory", INVENTORIES)
def test_no_secret_outside_a_secret(inventory, tmp_path):
    # With stores that take the sentinels, instead of the inventory's own.
    objects = render(
        inventory,
        tmp_path,
        **SECRETS,
        database_type="postgresql",
        database_cloudsql_instance="",
        database_external_secret={},
        object_storage_type="seaweedfs",
        object_storage_url="",
        object_storage_iam_role_arn="",
        object_storage_gcp_service_account="",
        object_storage_bucket_encryption="",
    )
    found = 0
    for obj in objects:
        text = yaml.safe_dump(obj)
        if obj["kind"] == "Secret":
            values = [base64.b64decode(value).decode() for value in (obj.get("data") or {}).values()]
            found += sum(value in SECRETS.values() for value in values)
        else:
            assert not any(value in text or base64_of(value) in text for value in SECRETS.values()), obj["kind"]
    assert found == len(SECRETS)


def base64_of(value: str) -> str:
    return base64.b64encode(value.encode()).decode()


def test_names_of_objects_contain_the_instance(tmp_path):
    """Two instances in one namespace share no object."""
    first = render("kubernetes", tmp_path / "a", mlflow_instance="first", mlflow_namespace="shared")
    second = render("kubernetes", tmp_path / "b", mlflow_instance="second", mlflow_namespace="shared")

    def names(objects):
        return {(o["kind"], o["metadata"]["name"]) for o in objects}

    assert not names(first) & names(second)
    selectors = [o["spec"]["selector"] for o in first if o["kind"] == "Service"]
    labels = [
        o["spec"]["template"]["metadata"]["labels"] for o in second if o["kind"] in ("Deployment", "StatefulSet", "Job")
    ]
    assert not any(s.items() <= l.items() for s in selectors for l in labels)


def test_service_selects_the_server_alone(objects):
    """A Service must not select the pod of the migration."""
    for service in (o for o in objects if o["kind"] == "Service"):
        selected = [o["metadata"]["name"] for o in objects if o["kind"] in ("Deployment", "StatefulSet", "Job")
                    and service["spec"]["selector"].items() <= o["spec"]["template"]["metadata"]["labels"].items()]
        assert selected == [service["metadata"]["name"]]


def test_identities_of_clouds(tmp_path):
    """Annotations of the ServiceAccount by which clouds identify the server's pods."""
    def identity(inventory):
        objects = render(inventory, tmp_path / inventory)
        (account,) = [o for o in objects if o["kind"] == "ServiceAccount"]
        assert not [o for o in objects if o["kind"] == "Secret" and "object-storage" in o["metadata"]["name"]]
        return account["metadata"]["annotations"]

    assert identity("eks-irsa")["eks.amazonaws.com/role-arn"] == "arn:aws:iam::111122223333:role/mlops-mlflow-s3-role"
    assert identity("gke-cloudsql")["iam.gke.io/gcp-service-account"] == "mlflow@my-project.iam.gserviceaccount.com"


def test_workload_identity_of_azure(tmp_path):
    objects = render(
        "kubernetes",
        tmp_path,
        object_storage_type="azure",
        object_storage_azure_account="acct",
        object_storage_bucket="mlflow",
        object_storage_azure_client_id="00000000-1111-2222-3333-444444444444",
    )
    (account,) = [o for o in objects if o["kind"] == "ServiceAccount"]
    assert (
        account["metadata"]["annotations"]["azure.workload.identity/client-id"]
        == "00000000-1111-2222-3333-444444444444"
    )
    for obj in objects:
        if obj["kind"] in ("Deployment", "Job"):
            assert obj["spec"]["template"]["metadata"]["labels"]["azure.workload.identity/use"] == "true"
            assert "wasbs://mlflow@acct.blob.core.windows.net" in yaml.safe_dump(obj)


def test_a_login_of_an_external_secret(tmp_path):
    objects = render("gke-cloudsql", tmp_path)
    (external,) = [o for o in objects if o["kind"] == "ExternalSecret"]
    (store,) = [o for o in objects if o["kind"] == "SecretStore"]
    assert external["spec"]["secretStoreRef"]["name"] == store["metadata"]["name"]
    assert {e["secretKey"] for e in external["spec"]["data"]} == {"username", "password"}
    name = external["spec"]["target"]["name"]
    (server,) = [o for o in objects if o["kind"] == "Deployment"]
    assert name in yaml.safe_dump(server) and name.endswith("-external")
    assert [o["metadata"]["name"] for o in objects if o["kind"] == "Secret"] == ["mlflow-server-encryption"]


def test_the_cloud_sql_auth_proxy_is_a_sidecar(tmp_path):
    for obj in render("gke-cloudsql", tmp_path):
        if obj["kind"] in ("Deployment", "Job"):
            spec = obj["spec"]["template"]["spec"]
            assert (
                spec["initContainers"][0]["name"] == "cloud-sql-proxy"
                and spec["initContainers"][0]["restartPolicy"] == "Always"
            )
            uri = next(e["value"] for e in spec["containers"][0]["env"] if e["name"] == "MLFLOW_BACKEND_STORE_URI")
            assert uri == "mysql+pymysql://127.0.0.1:3306/mlflow"


def test_the_cloud_sql_auth_proxy_uses_the_key_of_the_artifact_store(tmp_path):
    for obj in render(
        "gke-cloudsql",
        tmp_path,
        object_storage_gcp_service_account="",
        mlflow_server_gc_schedule="0 3 * * 0",
        mlflow_secret_store={},
        object_storage_gcs_credentials='{"type": "service_account"}',
        database_external_secret={},
        database_password="x",
    ):
        spec = obj["spec"]["jobTemplate"]["spec"] if obj["kind"] == "CronJob" else obj.get("spec")
        if obj["kind"] in ("CronJob", "Deployment", "Job"):
            proxy, server = spec["template"]["spec"]["initContainers"][0], spec["template"]["spec"]["containers"][0]
            assert proxy["env"][0] in server["env"] and proxy["env"][0]["name"] == "GOOGLE_APPLICATION_CREDENTIALS"
            assert proxy["volumeMounts"][0] in server["volumeMounts"]


def test_autoscaling_sets_the_number_of_pods(tmp_path):
    objects = render("eks-irsa", tmp_path)
    (server,) = [o for o in objects if o["kind"] == "Deployment"]
    (scaler,) = [o for o in objects if o["kind"] == "HorizontalPodAutoscaler"]
    (budget,) = [o for o in objects if o["kind"] == "PodDisruptionBudget"]
    assert "replicas" not in server["spec"]
    assert (scaler["spec"]["minReplicas"], scaler["spec"]["maxReplicas"]) == (2, 10)
    assert {
        m["resource"]["name"]: m["resource"]["target"]["averageUtilization"] for m in scaler["spec"]["metrics"]
    } == {"cpu": 70, "memory": 80}
    assert budget["spec"]["selector"] == server["spec"]["selector"]


def test_network_policies_allow_only_listed_connections(tmp_path):
    objects = render("eks-irsa", tmp_path)
    policies = {o["metadata"]["name"]: o["spec"] for o in objects if o["kind"] == "NetworkPolicy"}
    assert policies["mlflow-default-deny"] == {
        "podSelector": {"matchLabels": {"app.kubernetes.io/instance": "mlflow"}}, "policyTypes": ["Ingress", "Egress"]}
    server = policies["mlflow-server"]
    namespaces = [peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] for rule in server["ingress"]
                  for peer in rule["from"] if "namespaceSelector" in peer]
    assert namespaces == ["argo", "kserve", "kubeflow", "monitoring"]
    ports = {port["port"] for rule in server["egress"] for port in rule.get("ports", [])}
    assert ports == {53, 443, 80, 988}, "DNS, S3, and the token endpoints"
    assert policies["mlflow-database"]["ingress"] and not policies["mlflow-database"].get("egress")


def test_kaiwo_manages_the_server(tmp_path):
    plain = render("helm-style-sqlite", tmp_path / "plain")
    kaiwo = render(
        "helm-style-sqlite", tmp_path / "kaiwo", mlflow_server_kaiwo=True, mlflow_server_kaiwo_queue="research"
    )
    (deployment,) = [o for o in plain if o["kind"] == "Deployment"]
    (service,) = [o for o in kaiwo if o["kind"] == "KaiwoService"]
    strict.validate(service, VERSIONS[-1])
    assert not [o for o in kaiwo if o["kind"] == "Deployment"]
    own = service["spec"]["deployment"]["spec"]
    assert (
        own["template"]["spec"] == deployment["spec"]["template"]["spec"]
        and own["selector"] == deployment["spec"]["selector"]
    )


def test_optional_features_are_valid(tmp_path):
    """Features that no example inventory enables."""
    objects = render(
        "kubernetes",
        tmp_path,
        mlflow_server_workspaces=True,
        mlflow_server_jobs=True,
        mlflow_server_trace_archival={"location": "s3://mlflow/traces", "retention": "30d"},
        mlflow_server_gc_schedule="0 3 * * 0",
        mlflow_server_tls_secret="server-tls",
        mlflow_server_auth="oidc",
        mlflow_server_oidc_issuer="https://id.example.com",
        mlflow_server_oidc_client_id="mlflow",
        mlflow_server_oidc_client_secret="s",
        mlflow_server_oidc_groups=["ml"],
        mlflow_server_oidc_redirect_url="https://m.example.com/oauth2/callback",
        mlflow_network_policy=True,
        mlflow_server_rbac_rules=[{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}],
        mlflow_server_service_account_token=True,
        mlflow_node_selector={"pool": "ml"},
        mlflow_priority_class="high",
        mlflow_tolerations=[{"key": "ml", "operator": "Exists"}],
        mlflow_image_pull_secrets=["registry"],
        mlflow_server_extra_objects=[
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "more"}, "data": {"a": "b"}}
        ],
    )
    for version in VERSIONS:
        for obj in objects:
            strict.validate(obj, version)
    kinds = {o["kind"] for o in objects}
    assert {"CronJob", "Role", "RoleBinding", "NetworkPolicy", "PodDisruptionBudget"} <= kinds
    for name, spec in pod_specs(objects):
        assert spec["nodeSelector"] == {"pool": "ml"} and spec["priorityClassName"] == "high", name
        assert spec["imagePullSecrets"] == [{"name": "registry"}] and spec["tolerations"], name


OIDC = {
    "mlflow_server_auth": "oidc",
    "mlflow_server_oidc_issuer": "https://id.example.com:8443/realms/staff",
    "mlflow_server_oidc_client_id": "mlflow",
    "mlflow_server_oidc_client_secret": "s",
}


def oauth2_proxy(objects):
    """Its container, its arguments by name, and the server's Service."""
    (deployment,) = [o for o in objects if o["kind"] == "Deployment" and o["metadata"]["name"].endswith("-server")]
    (container,) = [c for c in deployment["spec"]["template"]["spec"]["containers"] if c["name"] == "oauth2-proxy"]
    (service,) = [o for o in objects if o["kind"] == "Service" and o["metadata"]["name"].endswith("-server")]
    arguments = {}
    for argument in container["args"]:
        name, _equals, value = argument.removeprefix("--").partition("=")
        arguments.setdefault(name, []).append(value)
    return container, arguments, service


def test_oidc_behind_the_proxy(tmp_path):
    """Below a path, with TLS to the server, a CA of the provider, and NetworkPolicies."""
    objects = render(
        "kubernetes",
        tmp_path,
        **OIDC,
        ingress_type="proxy",
        ingress_hosts=["mlflow.example.com"],
        ingress_path="/team/ana.b",
        ingress_tls="self_signed",
        ingress_public_port=443,
        mlflow_server_tls_secret="server-tls",
        mlflow_network_policy=True,
        mlflow_server_oidc_ca=CERTIFICATE,
        mlflow_server_oidc_email_domains=["example.com", "example.org"],
    )
    container, arguments, service = oauth2_proxy(objects)
    assert arguments["redirect-url"] == ["https://mlflow.example.com/team/ana.b/oauth2/callback"] and arguments[
        "cookie-secure"
    ] == ["true"]
    assert arguments["cookie-path"] == ["/team/ana.b"] and arguments["proxy-prefix"] == ["/team/ana.b/oauth2"]
    assert (
        arguments["upstream"] == ["https://127.0.0.1:5000"]
        and arguments["https-address"] == ["0.0.0.0:4180"]
        and arguments["http-address"] == ["-"]
    )
    assert arguments["email-domain"] == ["example.com", "example.org"]
    (without_login,), (api,) = arguments["skip-auth-route"], arguments["api-route"]
    assert re.search(without_login.removeprefix("GET="), "/team/ana.b/health") and not re.search(
        without_login.removeprefix("GET="), "/team/anaxb/health"
    )
    assert re.search(api, "/team/ana.b/api/2.0/mlflow/runs/get?run_id=1") and not re.search(api, "/team/ana.b/apiary")
    mounted = [mount["mountPath"] for mount in container["volumeMounts"]]
    assert [arguments[name][0].rpartition("/")[0] for name in ("provider-ca-file", "tls-cert-file")] == mounted
    assert (
        container["readinessProbe"]["httpGet"]["scheme"] == "HTTPS"
        and container["lifecycle"]["preStop"]["sleep"]["seconds"] == 10
    )
    assert [port["port"] for port in service["spec"]["ports"]] == [4180, 5000], "podman publishes the first"
    (policy,) = [o for o in objects if o["kind"] == "NetworkPolicy" and o["metadata"]["name"].endswith("-server")]
    assert [port["port"] for port in policy["spec"]["ingress"][0]["ports"]] == [5000, 4180]
    assert 8443 in [port["port"] for rule in policy["spec"]["egress"] for port in rule.get("ports", [])]
    (caddy,) = [o for o in objects if o["kind"] == "ConfigMap" and "Caddyfile" in o["data"]]
    assert "https://mlflow-server:4180" in caddy["data"]["Caddyfile"]


def test_oidc_at_a_published_port(tmp_path):
    _container, arguments, service = oauth2_proxy(
        render("local", tmp_path, **OIDC, mlflow_engine="podman", mlflow_server_drain_seconds=0)
    )
    assert arguments["redirect-url"] == ["http://127.0.0.1:5000/oauth2/callback"] and arguments["cookie-secure"] == [
        "false"
    ]
    assert (
        arguments["email-domain"] == ["*"] and arguments["cookie-path"] == ["/"] and "provider-ca-file" not in arguments
    )
    assert service["spec"]["ports"][0]["port"] == 4180


@pytest.mark.parametrize("inventory", ["kubernetes", "gke-cloudsql"])
def test_no_bucket_settings_by_default(inventory, tmp_path):
    objects = render(inventory, tmp_path)
    assert "MLFLOW_BUCKET_SETTINGS" not in yaml.safe_dump([o for o in objects if o["kind"] != "ConfigMap"])
    assert not any("bucket.py" in o["data"] for o in objects if o["kind"] == "ConfigMap")


@pytest.mark.parametrize("database, kind", [("postgresql", "Job"), ("sqlite", "Deployment")])
def test_bucket_settings(tmp_path, database, kind):
    """The settings are given to the container that prepares the stores, not to the server's."""
    objects = render(
        "kubernetes",
        tmp_path,
        database_type=database,
        mlflow_server_replicas=1,
        object_storage_type="seaweedfs",
        object_storage_bucket_versioning=False,
        object_storage_bucket_expire_days="30",
    )
    assert ["bucket.py" in o["data"] for o in objects if o["kind"] == "ConfigMap" and "prepare.py" in o["data"]] == [
        True
    ]
    (workload,) = [o for o in objects if "MLFLOW_BUCKET_SETTINGS" in yaml.safe_dump(o) and o["kind"] != "ConfigMap"]
    assert workload["kind"] == kind
    spec = workload["spec"]["template"]["spec"]
    (container,) = [
        c for c in spec.get("initContainers", []) + spec["containers"] if "MLFLOW_BUCKET_SETTINGS" in yaml.safe_dump(c)
    ]
    assert container["command"][-3:] == ["artifacts", "bucket", "migrate"]
    settings = json.loads(next(e["value"] for e in container["env"] if e["name"] == "MLFLOW_BUCKET_SETTINGS"))
    assert settings == {
        "create": False,
        "versioning": False,
        "expire_days": 30,
        "expire_noncurrent_days": None,
        "abort_multipart_days": None,
        "encryption": None,
        "kms_key": None,
    }


def test_a_bucket_of_google_is_created_in_its_region(tmp_path):
    def settings(name, **variables):
        (job,) = [
            o
            for o in render("gke-cloudsql", tmp_path / name, object_storage_bucket_create=True, **variables)
            if o["kind"] == "Job"
        ]
        env = job["spec"]["template"]["spec"]["containers"][0]["env"]
        return json.loads(next(entry["value"] for entry in env if entry["name"] == "MLFLOW_BUCKET_SETTINGS"))

    assert settings("europe", object_storage_region="europe-west1")["location"] == "europe-west1"
    assert "location" not in settings("anywhere")


def test_numbers_and_booleans_may_be_text(tmp_path):
    """As of --extra-vars name=value."""
    plain = {
        "mlflow_server_replicas": 3,
        "mlflow_server_autoscaling": False,
        "mlflow_network_policy": True,
        "mlflow_server_drain_seconds": 20,
        "mlflow_server_workspaces": False,
        "mlflow_server_kaiwo": False,
        "mlflow_server_jobs": False,
        "database_port": 5433,
    }
    text = {name: str(value).lower() for name, value in plain.items()}
    # Generated values would differ.
    plain["mlflow_render_secrets"] = text["mlflow_render_secrets"] = "omit"
    assert render("kubernetes", tmp_path / "text", **text) == render("kubernetes", tmp_path / "plain", **plain)


def test_gc_connects_to_every_type_of_store(tmp_path):
    def gc_and_server(name, inventory="kubernetes", **variables):
        objects = render(
            inventory, tmp_path / name, mlflow_server_gc_schedule="0 3 * * 0", mlflow_server_replicas=1, **variables
        )
        template = next(o for o in objects if o["kind"] == "CronJob")["spec"]["jobTemplate"]["spec"]["template"]
        return template, next(o for o in objects if o["kind"] == "Deployment")["spec"]["template"]

    gc, server = gc_and_server("cloudsql", "gke-cloudsql")
    assert (
        gc["spec"]["initContainers"][0] == server["spec"]["initContainers"][0]
        and gc["spec"]["initContainers"][0]["name"] == "cloud-sql-proxy"
    )
    gc, server = gc_and_server(
        "azure", object_storage_type="azure", object_storage_azure_account="acct",
        object_storage_azure_client_id="00000000-1111-2222-3333-444444444444"
    )
    assert gc["metadata"]["labels"]["azure.workload.identity/use"] == "true"
    assert "affinity" not in gc["spec"] and gc["metadata"]["labels"]["app.kubernetes.io/component"] == "gc"
    gc, server = gc_and_server("sqlite", database_type="sqlite", mlflow_server_tls_secret="server-tls")
    (near,) = gc["spec"]["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert (
        near["labelSelector"]["matchLabels"].items() <= server["metadata"]["labels"].items()
    ), "the volume is mounted on one node at a time"
    assert {"name": "MLFLOW_TRACKING_INSECURE_TLS", "value": "true"} in gc["spec"]["containers"][0]["env"]


def test_network_policies_of_the_cloud_sql_auth_proxy(tmp_path):
    """It gets tokens from the metadata server, with every type of artifact store."""
    objects = render(
        "gke-cloudsql",
        tmp_path,
        mlflow_network_policy=True,
        mlflow_network_policy_clients=["ingress-nginx"],
        object_storage_type="seaweedfs",
        object_storage_gcp_service_account="mlflow@p.iam.gserviceaccount.com",
    )
    (server,) = [
        o["spec"] for o in objects if o["kind"] == "NetworkPolicy" and o["metadata"]["name"] == "mlflow-server"
    ]
    assert {port["port"] for rule in server["egress"] for port in rule.get("ports", [])} == {53, 443, 3307, 80, 988}
    assert all(
        "to" not in rule for rule in server["egress"] if {"port": 53, "protocol": "UDP"} in rule.get("ports", [])
    ), "NodeLocal DNSCache is no pod"


def test_extra_env_replaces_variables_of_the_role(tmp_path):
    """Kubernetes rejects duplicate names."""
    objects = render(
        "kubernetes",
        tmp_path,
        object_storage_bucket_versioning=True,
        mlflow_server_gc_schedule="0 3 * * 0",
        mlflow_server_extra_env=[
            {"name": "MLFLOW_BACKEND_STORE_URI", "valueFrom": {"secretKeyRef": {"name": "s", "key": "uri"}}}
        ],
        mlflow_server_extra_env_from=[{"secretRef": {"name": "more"}}],
    )
    containers = [
        c
        for name, spec in pod_specs(objects)
        if name.endswith(("-server", "-migrate"))
        for c in spec.get("initContainers", []) + spec["containers"]
    ]
    assert len(containers) == 3
    for container in containers:
        names = [entry["name"] for entry in container["env"]]
        assert len(names) == len(set(names)) and container["envFrom"] == [{"secretRef": {"name": "more"}}]
        assert next(e for e in container["env"] if e["name"] == "MLFLOW_BACKEND_STORE_URI")["valueFrom"]
    assert sum("MLFLOW_BUCKET_SETTINGS" in yaml.safe_dump(container["env"]) for container in containers) == 1


def test_other_keys_of_a_secret_keep_their_defaults(tmp_path):
    objects = render(
        "kubernetes",
        tmp_path,
        database_host="db",
        database_existing_secret="mine",
        database_existing_secret_keys={"user": "login"},
    )
    (server,) = [o for o in objects if o["kind"] == "Deployment"]
    keys = {
        e["name"]: e["valueFrom"]["secretKeyRef"]["key"]
        for e in server["spec"]["template"]["spec"]["containers"][0]["env"]
        if "valueFrom" in e
    }
    assert (keys["PGUSER"], keys["PGPASSWORD"]) == ("login", "password")


def test_the_home_of_minio_is_writable(tmp_path):
    """MinIO creates a directory there and does not start without it: https://github.com/minio/minio/issues/14763."""
    (spec,) = [spec for name, spec in pod_specs(render("local-minio", tmp_path)) if "object-storage" in name]
    (container,) = spec["containers"]
    home = next(entry["value"] for entry in container["env"] if entry["name"] == "HOME")
    writable = {v["name"] for v in spec["volumes"] if "emptyDir" in v}
    assert home in [mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] in writable]


def test_mariadb_does_not_resolve_names_of_clients(tmp_path):
    (spec,) = [
        spec for name, spec in pod_specs(render("kubernetes", tmp_path, database_type="mariadb")) if "database" in name
    ]
    assert "--skip-name-resolve" in spec["containers"][0]["args"]


def test_patches_reach_any_field(tmp_path):
    objects = render(
        "kubernetes",
        tmp_path,
        mlflow_server_patches=[
            {
                "target": {"kind": "Deployment"},
                "patch": {
                    "spec": {
                        "template": {
                            "spec": {"priorityClassName": "high", "containers": [{"name": "mlflow", "tty": True}]}
                        }
                    }
                },
            }
        ],
    )
    (server,) = [o for o in objects if o["kind"] == "Deployment"]
    spec = server["spec"]["template"]["spec"]
    assert (
        spec["priorityClassName"] == "high" and spec["containers"][0]["tty"] is True and spec["containers"][0]["image"]
    )
