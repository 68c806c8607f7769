# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every type of monitoring, rendered by site.yml: valid by strict schemas, restricted, and found by who scrapes."""

from __future__ import annotations

import json

import pytest
import strict
import test_inventories
import yaml
from test_inventories import VERSIONS, assert_restricted, render

TYPES = ("annotations", "operator", "prometheus")
SCRAPED = {"prometheus.io/scrape": "true", "prometheus.io/path": "/metrics"}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory) -> dict[str, list[dict]]:
    """Objects by monitoring_type; none has no monitoring."""
    found = {}
    for kind in ("none", *TYPES):
        labels = {"monitoring_labels": {"release": "stack"}} if kind in ("operator", "annotations") else {}
        if labels:
            labels["monitoring_grafana_selector"] = {"dashboards": "grafana"}
        elif kind == "prometheus":
            labels["monitoring_grafana"] = True
        found[kind] = render("kubernetes", tmp_path_factory.mktemp(kind), monitoring_type=kind,
                             mlflow_network_policy=True, monitoring_clients=["observability"], **labels)
    return found


def named(objects: list[dict], kind: str) -> dict[str, dict]:
    return {obj["metadata"]["name"]: obj for obj in objects if obj["kind"] == kind}


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("version", VERSIONS)
def test_strictly_valid(rendered, kind, version):
    for obj in rendered[kind]:
        strict.validate(obj, version)


@pytest.mark.parametrize("kind", TYPES)
def test_as_all_objects(rendered, kind):
    assert_restricted(rendered[kind])
    test_inventories.test_labelled(rendered[kind])
    test_inventories.test_probes_and_resources(rendered[kind])
    test_inventories.test_images_are_pinned(rendered[kind])


def test_nothing_without_it(rendered):
    assert not [obj for obj in rendered["none"] if "monitoring" in obj["metadata"]["name"]]


@pytest.mark.parametrize("kind", TYPES)
def test_who_reads_the_metrics(rendered, kind):
    policies = named(rendered[kind], "NetworkPolicy")
    (server,) = [rule for rule in policies["mlflow-server"]["spec"]["ingress"] if rule["ports"][0]["port"] == 9500]
    own = {"app.kubernetes.io/instance": "mlflow", "app.kubernetes.io/component": "monitoring-prometheus"}
    assert server["from"] == [{"podSelector": {"matchLabels": own}},
                              {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "observability"}}}]
    ports = {name.removeprefix("mlflow-monitoring-"): policy["spec"]["ingress"][0]["ports"][0]["port"]
             for name, policy in policies.items() if name.startswith("mlflow-monitoring-")}
    own_ports = {"prometheus": 9090, "alertmanager": 9093, "grafana": 3000} if kind == "prometheus" else {}
    assert ports == {"exporter": 9501, **own_ports}
    without = [rule["ports"] for rule in named(rendered["none"], "NetworkPolicy")["mlflow-server"]["spec"]["ingress"]]
    assert 9500 not in [port["port"] for rule in without for port in rule]


def test_services_select_their_pods_alone(rendered):
    """One more Service than usual selects the server: Prometheus asks it for the addresses of its pods."""
    objects = rendered["prometheus"]
    for name, service in named(objects, "Service").items():
        selected = [workload for kind in ("Deployment", "StatefulSet", "Job")
                    for workload, obj in named(objects, kind).items()
                    if service["spec"]["selector"].items() <= obj["spec"]["template"]["metadata"]["labels"].items()]
        assert selected == ["mlflow-server" if name == "mlflow-monitoring-server" else name]


def test_annotations_are_on_the_pods_with_metrics(rendered):
    for name, port in (("mlflow-server", "9500"), ("mlflow-monitoring-exporter", "9501")):
        for kind in TYPES:
            pod = named(rendered[kind], "Deployment")[name]["spec"]["template"]
            expected = {**SCRAPED, "prometheus.io/port": port} if kind == "annotations" else {}
            assert expected.items() <= pod["metadata"].get("annotations", {}).items()
            assert bool(expected) is ("prometheus.io/scrape" in pod["metadata"].get("annotations", {}))
            (container,) = pod["spec"]["containers"]
            assert {"name": "metrics", "containerPort": int(port), "protocol": "TCP"} in container["ports"]


def test_pod_monitors_find_the_pods(rendered):
    objects = rendered["operator"]
    found = {}
    for name, monitor in named(objects, "PodMonitor").items():
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
        for workload, obj in named(objects, "Deployment").items():
            template = obj["spec"]["template"]
            if wanted <= template["metadata"]["labels"].items():
                assert endpoint["port"] in [port["name"] for port in template["spec"]["containers"][0]["ports"]]
                found[name] = workload
        labels = {label["targetLabel"]: label["replacement"] for label in endpoint["relabelings"]}
        assert labels == {"job": f"mlflow-{name.removeprefix('mlflow-monitoring-')}", "namespace": "mlflow",
                          "instance_name": "mlflow"}
        assert monitor["metadata"]["labels"]["release"] == "stack"
    assert found == {"mlflow-monitoring-server": "mlflow-server",
                     "mlflow-monitoring-exporter": "mlflow-monitoring-exporter"}


def test_all_types_have_the_same_rules(rendered):
    (rule,) = named(rendered["operator"], "PrometheusRule").values()
    (of_annotations,) = [obj for name, obj in named(rendered["annotations"], "ConfigMap").items()
                         if name.endswith("-rules")]
    for obj in (rule, of_annotations):
        assert obj["metadata"]["labels"]["release"] == "stack"
    files = named(rendered["prometheus"], "ConfigMap")["mlflow-monitoring-prometheus"]["data"]
    file = yaml.safe_load(files["rules.yml"])

    def without_claims(groups: list[dict]) -> list[dict]:
        """Where the Prometheus of a cluster is, it also knows the claims' use from the kubelet."""
        return [{**group, "rules": [rule for rule in group["rules"] if "kubelet_" not in rule["expr"]]}
                for group in groups]

    ((name, text),) = of_annotations["data"].items()
    assert name == "mlflow-mlflow.yml" and yaml.safe_load(text) == rule["spec"]
    assert without_claims(rule["spec"]["groups"]) == file["groups"]
    assert rule["spec"]["groups"] != file["groups"]


@pytest.mark.parametrize("kind", ["annotations", "operator"])
def test_dashboards_are_found_by_sidecar_and_operator(rendered, kind):
    maps = {name: obj for name, obj in named(rendered[kind], "ConfigMap").items()
            if obj["metadata"]["labels"].get("grafana_dashboard") == "1"}
    assert len(maps) == 4
    for obj in maps.values():
        ((file, text),) = obj["data"].items()
        # Of a dashboard that two instances had in files of two names, Grafana would save none.
        assert file == json.loads(text)["uid"] + ".json"
    wanted = named(rendered[kind], "GrafanaDashboard").values()
    assert {obj["spec"]["configMapRef"]["name"] for obj in wanted} == set(maps)
    for obj in wanted:
        spec = obj["spec"]
        assert spec["configMapRef"]["key"] in maps[spec["configMapRef"]["name"]]["data"]
        assert spec["instanceSelector"] == {"matchLabels": {"dashboards": "grafana"}}
    assert not named(rendered["prometheus"], "GrafanaDashboard")


def test_another_grafana_gets_objects_of_other_names(rendered, tmp_path):
    """The selector of an object cannot be changed."""
    other = render("kubernetes", tmp_path, monitoring_type="operator", monitoring_grafana_selector={"grafana": "b"})
    assert not set(named(other, "GrafanaDashboard")) & set(named(rendered["operator"], "GrafanaDashboard"))
    assert len(named(other, "GrafanaDashboard")) == 4


def test_stores_that_one_node_mounts_are_the_servers_alone(tmp_path):
    """Mounted by the exporter, too, they would keep the server on its node."""
    objects = render("helm-style-sqlite", tmp_path, monitoring_type="prometheus", object_storage_type="volume")
    (exporter,) = [obj for name, obj in named(objects, "Deployment").items() if name.endswith("-exporter")]
    spec = exporter["spec"]["template"]["spec"]
    assert not [volume for volume in spec["volumes"] if "persistentVolumeClaim" in volume]
    assert {mount["name"] for mount in spec["containers"][0]["volumeMounts"]} == {v["name"] for v in spec["volumes"]}
    env = {entry["name"]: entry.get("value") for entry in spec["containers"][0]["env"]}
    for collector in ("DATABASE", "COUNTS", "OBJECT_STORE", "ARTIFACTS"):
        assert env[f"MLOPS_EXPORTER_{collector}_INTERVAL"] == "0"
    assert "MLOPS_EXPORTER_VOLUMES" not in env and env["MLFLOW_TRACKING_URI"]
