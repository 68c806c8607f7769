# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Releases of both charts as inventories: each option has a row, and what the instance renders has the fields of what
the chart has rendered. The charts' objects are their own output (generate.py); clusters are taken by hand."""

from __future__ import annotations

import base64
import functools
import pathlib
import stat
import sys

import pytest
import yaml
from ansible_collections.mlops.mlflow.plugins.plugin_utils import components, render
from ansible_collections.mlops.mlflow.plugins.plugin_utils.adoption import charts, community, inventory, official
from ansible_collections.mlops.mlflow.plugins.plugin_utils.adoption import release as releases
from ansible_collections.mlops.mlflow.plugins.plugin_utils.adoption.plan import Live
from ansible_collections.mlops.mlflow.plugins.plugin_utils.adoption.release import ReleaseError

sys.path[:0] = [str(pathlib.Path(__file__).parent), str(pathlib.Path(__file__).parents[1] / "model")]
from model_tests import refused, resolved  # noqa: E402 pylint: disable=wrong-import-position
from releases import CASES, document, record, release  # noqa: E402 pylint: disable=wrong-import-position

ENTRIES = yaml.safe_load((pathlib.Path(__file__).parents[1] / "chart_options.yml").read_text(encoding="utf-8"))
OPTIONS = {chart: list(dict.fromkeys(option for entry in entries for option in entry["options"]))
           for chart, entries in ENTRIES.items()}
TABLES = {official.NAME: official.ROWS, community.NAME: community.ROWS}
COMMUNITY, OFFICIAL = community.NAME, official.NAME
SUBCHART = Live({("Secret", "rel-mlflow-postgresql"): {"data": {"password": base64.b64encode(b"Sentinel-db").decode()}},
                 ("Secret", "database"): {"data": {"uri": base64.b64encode(b"postgresql://a:b@c/d").decode()}}})


@functools.lru_cache(maxsize=None)
def shown(chart, case):
    """What the instance of a case renders."""
    return rendered(adopted(chart, case).variables)


def adopted(chart, case, live=SUBCHART, as_variables=False):
    return charts.adopted(release(chart, case), "inst", live, as_variables)


def rendered(variables):
    model = resolved(variables)
    return {(obj["kind"], obj["metadata"]["name"]): obj
            for component in components.COMPONENTS for obj in render.render(component, model, {})}


# -- tables --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chart", OPTIONS)
def test_every_option_has_one_row(chart):
    rows = TABLES[chart]
    assert [option for option in OPTIONS[chart] if not any(row.covers(option) for row in rows)] == []
    assert len({row.option for row in rows}) == len(rows)
    for option in OPTIONS[chart]:
        whole = [row.option for row in rows if row.covers(option) and not row.option.endswith(".*")]
        assert len(whole) < 2, (option, whole)


@pytest.mark.parametrize("chart", OPTIONS)
def test_every_row_is_reached_and_says_something(chart):
    rows = TABLES[chart]
    first = {next(row for row in rows if row.covers(option)).option for option in OPTIONS[chart]}
    assert [row.option for row in rows if row.option not in first | {"server.value_options"}] == []
    assert [row.option for row in rows if row.to is None and not row.instead.endswith(".")] == []


def test_the_charts_are_told_apart():
    assert charts.of(release(OFFICIAL, "sqlite")) is official and charts.of(release(COMMUNITY, "sqlite")) is community


# -- the instance and the chart ------------------------------------------------------------------------------------


@pytest.mark.parametrize("chart, case", CASES)
@pytest.mark.parametrize("as_variables", [False, True])
def test_the_variables_are_taken(chart, case, as_variables):
    assert refused(adopted(chart, case, as_variables=as_variables).variables) == []


@pytest.mark.parametrize("chart, case", CASES)
def test_the_instance_has_the_fields_of_the_chart(chart, case):
    """What users see of a server and what clusters schedule it by."""
    objects = document("rendered.json")[chart]["manifests"][case]
    theirs = {(obj["kind"], obj["metadata"]["name"]): obj for obj in objects}
    ours = shown(chart, case)
    before, after = theirs["Deployment", "rel-mlflow"]["spec"], ours["Deployment", "inst-server"]["spec"]
    assert after.get("replicas") == before.get("replicas")
    pod, new = before["template"]["spec"], after["template"]["spec"]
    for field in ("nodeSelector", "tolerations", "affinity", "priorityClassName", "imagePullSecrets",
                  "serviceAccountName"):
        assert new.get(field) == pod.get(field), field
    template, chosen = before["template"]["metadata"], after["template"]["metadata"]
    for part in ("labels", "annotations"):
        own = {key: value for key, value in (template.get(part) or {}).items()
               if not key.startswith(("app", "helm.sh", "checksum"))}
        assert own.items() <= (chosen.get(part) or {}).items()
    old, server = pod["containers"][0], new["containers"][0]
    assert (server.get("resources") or {}) == (old.get("resources") or {})
    assert server["ports"][0]["containerPort"] == old["ports"][0]["containerPort"]
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        assert server[probe]["httpGet"]["path"] == (old.get(probe) or server[probe])["httpGet"]["path"]
    _service(theirs["Service", "rel-mlflow"], ours["Service", "rel-mlflow"])
    account = ours["ServiceAccount", new["serviceAccountName"]]
    annotations = theirs["ServiceAccount", pod["serviceAccountName"]]["metadata"].get("annotations") or {}
    assert annotations.items() <= (account["metadata"].get("annotations") or {}).items()
    if ("Ingress", "rel-mlflow") in theirs:
        _ingress(theirs["Ingress", "rel-mlflow"]["spec"], ours["Ingress", "inst-ingress"]["spec"])


def _service(old, new):
    assert new["spec"].get("type", "ClusterIP") == old["spec"].get("type", "ClusterIP")
    assert (old["metadata"].get("annotations") or {}).items() <= (new["metadata"].get("annotations") or {}).items()
    entry = old["spec"]["ports"][-1]["port"]
    assert entry in [port["port"] for port in new["spec"]["ports"]]


def _ingress(old, new):
    def rules(spec):
        return {rule["host"]: [(path["path"], path["pathType"]) for path in rule["http"]["paths"]]
                for rule in spec["rules"]}

    assert rules(new) == rules(old)
    assert new.get("ingressClassName") == old.get("ingressClassName")
    assert sorted((entry["secretName"], entry["hosts"]) for entry in new["tls"]) == sorted(
        (entry["secretName"], entry["hosts"]) for entry in old["tls"])


def environment(ours):
    pod = ours["Deployment", "inst-server"]["spec"]["template"]["spec"]
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in pod["containers"][0]["env"]}


def test_sqlite_and_artifacts_of_one_claim():
    ours = shown(OFFICIAL, "sqlite")
    pod = ours["Deployment", "inst-server"]["spec"]["template"]["spec"]
    claims = {volume["name"]: volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"]
              if "persistentVolumeClaim" in volume}
    assert claims == {"database": "rel-mlflow", "artifacts": "rel-mlflow"}
    found = environment(ours)
    assert found["MLFLOW_BACKEND_STORE_URI"] == "sqlite:////mlflow/database/data/mlflow.db"
    assert found["MLFLOW_ARTIFACTS_DESTINATION"] == "/mlflow/artifacts/artifacts"
    assert pod["securityContext"]["runAsUser"] == 1234
    assert ours["Deployment", "inst-server"]["spec"]["strategy"] == {"type": "Recreate"}
    assert not [key for key in ours if key[0] == "PersistentVolumeClaim"]
    cleaning = ours["CronJob", "inst-server-gc"]["spec"]
    assert cleaning["schedule"] == "0 5 * * 1"
    assert adopted(OFFICIAL, "sqlite").variables["mlflow_server_gc_older_than"] == "7d"


def test_a_server_by_uri_and_keys_in_the_environment():
    ours = shown(OFFICIAL, "server")
    found = environment(ours)
    assert found["MLFLOW_BACKEND_STORE_URI"] == (
        "postgresql+psycopg2://db.example.com:6432/runs?sslmode=require&application_name=ml")
    assert found["PGUSER"] == {"secretKeyRef": {"name": "inst-adopted", "key": "database-user"}}
    assert found["AWS_SECRET_ACCESS_KEY"] == {"secretKeyRef": {"name": "inst-adopted", "key": "AWS_SECRET_ACCESS_KEY"}}
    assert found["MLFLOW_S3_ENDPOINT_URL"] == "https://s3.example.com"
    assert found["MLFLOW_ARTIFACTS_DESTINATION"] == "s3://artifacts/team/one"
    assert found["TEMPLATE"] == "{{ no template }}" and "configMapKeyRef" in found["FROM"]
    assert found["MLFLOW_ENABLE_WORKSPACES"] == "true"
    pod = ours["Deployment", "inst-server"]["spec"]["template"]["spec"]
    server = pod["containers"][0]
    assert server["image"] == "registry.example.com/mlflow:3.17.2-team"
    assert {"--workers=6", "--static-prefix=/ml", "--gunicorn-opts=-t 9", "--expose-prometheus=/tmp/metrics"} <= set(
        server["args"])
    assert {"name": "notes", "mountPath": "/notes", "readOnly": True} in server["volumeMounts"]
    assert server["envFrom"] == [{"configMapRef": {"name": "settings"}}]
    assert [container["name"] for container in pod["initContainers"]][0] == "first"
    assert pod["containers"][1]["name"] == "helper"
    assert ours["ClusterRole", "rel-mlflow"]["rules"][0]["resources"] == ["namespaces"]
    policy = ours["NetworkPolicy", "inst-server"]["spec"]
    assert {"ipBlock": {"cidr": "0.0.0.0/0"}} in policy["ingress"][0]["from"]
    adoption = adopted(OFFICIAL, "server")
    assert adoption.made == {"database-user": "ana", "database-password": "s@crat", "API_TOKEN": "Sentinel-token",
                             "AWS_ACCESS_KEY_ID": "KEYID", "AWS_SECRET_ACCESS_KEY": "Sentinel-key"}
    assert [finding.option for finding in adoption.findings] == [
        "securityContext.readOnlyRootFilesystem", "deploymentStrategy", "surprise.of"]


def test_a_uri_in_a_secret():
    found = environment(shown(OFFICIAL, "secret"))
    assert found["MLFLOW_BACKEND_STORE_URI"] == {"secretKeyRef": {"name": "database", "key": "uri"}}
    adoption = adopted(OFFICIAL, "secret")
    assert adoption.variables["mlflow_server_tls_secret"] == "cert"
    assert adoption.variables["mlflow_server_artifacts"] == "direct"
    args = shown(OFFICIAL, "secret")["Deployment", "inst-server"]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert "--default-artifact-root=gs://bucket/path" in args
    unknown = adopted(OFFICIAL, "secret", Live())
    assert [finding.option for finding in unknown.findings] == ["mlflow.backendStoreUriFrom"]


@pytest.mark.parametrize("chart, case, options", [
    (OFFICIAL, "nowhere", ["mlflow.backendStoreUri", "mlflow.artifactsDestination"]),
    (COMMUNITY, "memory", ["backendStore.defaultSqlitePath", "ldapAuth"])])
def test_data_that_stays_behind_is_told(chart, case, options):
    adoption = adopted(chart, case)
    assert [finding.option for finding in adoption.findings if finding.data] == options
    assert all(finding.instead.endswith(".") for finding in adoption.findings)


def test_logins_are_never_switched_off():
    """LDAP has no counterpart; the server is not left open for that."""
    assert adopted(COMMUNITY, "memory").variables["mlflow_server_auth"] == "basic"


def test_the_community_chart_with_sqlite():
    adoption, ours = adopted(COMMUNITY, "sqlite"), shown(COMMUNITY, "sqlite")
    assert environment(ours)["MLFLOW_BACKEND_STORE_URI"] == "sqlite:////mlflow/database/db/runs.db"
    assert "database_uri = sqlite:////mlflow/database/basic_auth.db" in ours["ConfigMap", "inst-server"]["data"][
        "auth.ini"]
    assert "default_permission = NO_PERMISSIONS" in ours["ConfigMap", "inst-server"]["data"]["auth.ini"]
    pod = ours["Deployment", "inst-server"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsUser"] == 1001
    assert [volume["name"] for volume in pod["volumes"]] == ["tmp", "config", "database", "artifacts", "scratch"]
    assert environment(ours)["MLFLOW_AUTH_ADMIN_PASSWORD"] == {
        "secretKeyRef": {"name": "rel-mlflow-auth-admin-secret", "key": "password"}}
    assert "--workers=4" in pod["containers"][0]["args"]
    assert pod["containers"][0]["livenessProbe"]["periodSeconds"] == 60
    assert not [finding for finding in adoption.findings if finding.data]


def test_the_community_chart_with_postgresql_and_s3():
    adoption, ours = adopted(COMMUNITY, "postgres"), shown(COMMUNITY, "postgres")
    found = environment(ours)
    assert found["MLFLOW_BACKEND_STORE_URI"] == "postgresql+psycopg://db.example.com:6432/runs"
    assert found["PGPASSWORD"] == {"secretKeyRef": {"name": "rel-mlflow-env-secret", "key": "PGPASSWORD"}}
    assert found["AWS_ACCESS_KEY_ID"] == {"secretKeyRef": {"name": "rel-mlflow-env-secret", "key": "AWS_ACCESS_KEY_ID"}}
    assert found["FLAG"] == "true" and found["AWS_DEFAULT_REGION"] == "eu-central-1"
    assert found["MLFLOW_SQLALCHEMYSTORE_POOL_SIZE"] == "7"
    assert found["API_TOKEN"] == {"secretKeyRef": {"name": "inst-adopted", "key": "API_TOKEN"}}
    server = ours["Deployment", "inst-server"]["spec"]["template"]["spec"]["containers"][0]
    assert server["image"].startswith("registry.example.com/mlflow:3.17.2-team@sha256:aaa")
    assert {"--workers=5", "--default-artifact-root=s3://artifacts/team/one",
            "--uvicorn-opts=--log-level=info --timeout-keep-alive=30"} <= set(server["args"])
    scaler = ours["HorizontalPodAutoscaler", "inst-server"]["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (2, 6)
    assert [metric["resource"]["name"] for metric in scaler["metrics"]] == ["cpu"]
    assert ours["ConfigMap", "extra"]["data"] == {"a": "b"}
    assert adoption.variables["ingress_cors_origins"] == ["https://notebooks.example.com"]
    assert adoption.variables["monitoring_labels"] == {"release": "prom"}
    assert {"serviceMonitor.timeout", "flaskServerSecretKey"} <= {finding.option for finding in adoption.findings}


def test_existing_secrets_stay():
    found = environment(shown(COMMUNITY, "existing"))
    assert found["DATABASE_USER"] == {"secretKeyRef": {"name": "login", "key": "user"}}
    assert found["DATABASE_PASSWORD"] == {"secretKeyRef": {"name": "login", "key": "pass"}}
    assert found["AZURE_STORAGE_CONNECTION_STRING"] == {
        "secretKeyRef": {"name": "rel-mlflow-env-secret", "key": "AZURE_STORAGE_CONNECTION_STRING"}}
    assert found["MLFLOW_ARTIFACTS_DESTINATION"] == "wasbs://runs@account.blob.core.windows.net/p"


def test_subcharts_stay_as_existing_servers():
    adoption, found = adopted(COMMUNITY, "subcharts"), environment(shown(COMMUNITY, "subcharts"))
    assert found["MLFLOW_BACKEND_STORE_URI"] == "postgresql+psycopg2://rel-mlflow-postgresql:5432/runs"
    assert found["MLFLOW_S3_ENDPOINT_URL"] == "http://rel-mlflow-minio:9000"
    assert found["AWS_ACCESS_KEY_ID"] == {"secretKeyRef": {"name": "rel-mlflow-minio", "key": "rootUser"}}
    assert adoption.made == {"database-user": "ana", "database-password": "Sentinel-db"}
    assert {"postgresql.enabled", "minio.enabled"} <= {finding.option for finding in adoption.findings}


def test_an_authenticating_proxy():
    pod = shown(COMMUNITY, "proxy")["Deployment", "inst-server"]["spec"]["template"]["spec"]
    proxy = pod["containers"][1]
    assert {"--provider=keycloak-oidc", "--oidc-issuer-url=https://id.example.com/realms/a",
            "--redirect-url=https://ml.example.com/oauth2/callback", "--email-domain=example.com",
            "--cookie-samesite=lax"} <= set(proxy["args"])
    names = {entry["name"]: entry["valueFrom"]["secretKeyRef"] for entry in proxy["env"]}
    assert names["OAUTH2_PROXY_CLIENT_ID"] == {"name": "oidc", "key": "client-id"}


# -- files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chart, case", CASES)
def test_no_secret_is_in_the_inventory(chart, case):
    texts = inventory.files(adopted(chart, case))
    assert not [name for name, text in texts.items() if "Sentinel" in text or "s@crat" in text]
    as_variables = inventory.files(adopted(chart, case, as_variables=True))
    assert not [name for name, text in as_variables.items() if "Sentinel" in text and not name.endswith("secrets.yml")]


@pytest.mark.parametrize("chart, case", CASES)
def test_the_files_are_the_variables(chart, case, tmp_path):
    """Read back, without Ansible's tags, they are what was worked out; only their owner may read them."""
    adoption = adopted(chart, case, as_variables=True)
    inventory.write(tmp_path, inventory.files(adoption, "~/config", "one"))

    class Loader(yaml.SafeLoader):
        """Takes !unsafe for text."""

    Loader.add_constructor("!unsafe", Loader.construct_yaml_str)
    found = {}
    for path in tmp_path.glob("host_vars/inst/*.yml"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        found.update(yaml.load(path.read_text(encoding="utf-8"), Loader=Loader))
    assert found.pop("mlflow_adopt_release") == "rel" and found.pop("mlflow_kubeconfig") == "~/config"
    assert found.pop("mlflow_context") == "one"
    assert found == {**adoption.variables, **adoption.hidden}
    text = (tmp_path / "host_vars/inst/main.yml").read_text(encoding="utf-8")
    assert all(f"- {finding.option}:" in text for finding in adoption.findings)
    assert max(len(line) for line in text.splitlines() if line.startswith("#")) <= 120


def test_an_unknown_template_of_the_values_stays_text():
    text = inventory.files(adopted(OFFICIAL, "server"))["host_vars/inst/main.yml"]
    assert "!unsafe '{{ no template }}'" in text


# -- records -------------------------------------------------------------------------------------------------------


def test_only_a_deployed_release_is_taken_over():
    old, new = record(OFFICIAL, "sqlite"), record(OFFICIAL, "server", "failed", 2)
    with pytest.raises(ReleaseError, match="is failed; bring it to status deployed"):
        releases.latest([new, old], "rel", "team")
    assert releases.latest([old, {**new, "metadata": {**new["metadata"], "labels": {}}}], "rel", "team").revision == 1
    with pytest.raises(ReleaseError, match="There is no Helm release other in namespace team"):
        releases.latest([old], "other", "team")


def test_a_release_that_is_here_already():
    secret = record(OFFICIAL, "sqlite")
    secret["metadata"]["labels"]["owner"] = releases.ADOPTED
    with pytest.raises(ReleaseError, match="has been taken over already"):
        releases.latest([secret], "rel", "team")


@pytest.mark.parametrize("value", ["", "AAAA", base64.b64encode(base64.b64encode(b"{}")).decode()])
def test_a_record_that_cannot_be_read(value):
    secret = record(OFFICIAL, "sqlite")
    secret["data"]["release"] = value
    with pytest.raises(ReleaseError, match="holds no release of Helm that can be read"):
        releases.decode(secret)


def test_another_chart():
    secret = record(OFFICIAL, "sqlite")
    found = releases.decode(secret)
    other = releases.Release(**{**found.__dict__, "defaults": {"replicaCount": 1}, "chart": "wordpress"})
    with pytest.raises(ReleaseError, match="is of chart wordpress .*; only those of community-charts/mlflow and"):
        charts.of(other)


def test_values_are_merged_as_helm_does():
    assert releases.merged({"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"b": None, "e": 3}, "d": [2]}) == {
        "a": {"c": 2, "e": 3}, "d": [2]}
