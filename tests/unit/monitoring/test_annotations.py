# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""monitoring_type: annotations, read as the job kubernetes-pods of Prometheus' Helm chart reads pods.

Prometheus, its relabelling, the rules and the queries are real. What Kubernetes tells Prometheus of a pod is a file of
targets here, and what a pod answers is the text of samples.py.
"""

from __future__ import annotations

import re

import pytest
import samples
import yaml
from ansible_collections.mlops.mlflow.plugins.plugin_utils import components, model, render
from test_dashboards import TARGETS, of_instance

PORT = 16480
ADDRESS_V6 = r"(\d+);(([A-Fa-f0-9]{1,4}::?){1,7}[A-Fa-f0-9]{1,4})"
ADDRESS_V4 = r"(\d+);((([0-9]+?)(\.|$)){4})"


def meta(name: str) -> str:
    return f"__meta_kubernetes_{name}"


def replace(source: str, target: str, regex: str = "(.+)") -> dict:
    return {"source_labels": [meta(source)], "target_label": target, "regex": regex}


OF_PORT = [meta("pod_annotation_prometheus_io_port"), meta("pod_ip")]
RELABELLING = [
    {"source_labels": [meta("pod_annotation_prometheus_io_scrape")], "action": "keep", "regex": True},
    {"source_labels": [meta("pod_annotation_prometheus_io_scrape_slow")], "action": "drop", "regex": True},
    replace("pod_annotation_prometheus_io_scheme", "__scheme__", "(https?)"),
    replace("pod_annotation_prometheus_io_path", "__metrics_path__"),
    {"source_labels": OF_PORT, "regex": ADDRESS_V6, "replacement": "[$2]:$1", "target_label": "__address__"},
    {"source_labels": OF_PORT, "regex": ADDRESS_V4, "replacement": "$2:$1", "target_label": "__address__"},
    {"action": "labelmap", "regex": meta("pod_annotation_prometheus_io_param_(.+)"), "replacement": "__param_$1"},
    {"action": "labelmap", "regex": meta("pod_label_(.+)")},
    replace("namespace", "namespace"),
    replace("pod_name", "pod"),
    {"source_labels": [meta("pod_phase")], "action": "drop", "regex": "Pending|Succeeded|Failed|Completed"},
    replace("pod_node_name", "node"),
]
"""What the job kubernetes-pods of the chart prometheus 29.27.0 does, in its order.

Source: https://github.com/prometheus-community/helm-charts/blob/main/charts/prometheus/values.yaml
"""


@pytest.fixture(scope="module")
def objects() -> list[dict]:
    values = {"monitoring_type": "annotations", "mlflow_engine": "kubernetes", "mlflow_namespace": samples.NAMESPACE,
              "mlflow_instance": samples.INSTANCE,
              # The sound instance of samples.py has no alert of the collection's own.
              "monitoring_rules_extra": [{"alert": "Always", "expr": "vector(1)",
                                          "labels": {"severity": "info"}}]}
    resolved = model.resolve(values.__getitem__, values, "sound")
    return [obj for role in ("mlflow_server", "monitoring")
            for obj in render.render(components.by_role(role), resolved, {})]


def told(template: dict, **more: str) -> dict[str, str]:
    """What Kubernetes' service discovery tells of a pod.

    Source: https://prometheus.io/docs/prometheus/latest/configuration/configuration/#pod
    """
    labels = {meta("namespace"): samples.NAMESPACE, meta("pod_name"): "pod-1", meta("pod_node_name"): "node-1",
              meta("pod_phase"): "Running", meta("pod_ip"): "127.0.0.1"}
    for kind in ("label", "annotation"):
        for name, value in template["metadata"].get(f"{kind}s", {}).items():
            labels[meta(f"pod_{kind}_{re.sub('[^A-Za-z0-9_]', '_', name)}")] = value
    return {**labels, **{meta(name): value for name, value in more.items()}}


@pytest.fixture(scope="module")
def live(objects, tmp_path_factory):
    folder = tmp_path_factory.mktemp("annotations")
    (file,) = [obj["data"] for obj in objects if obj["metadata"]["name"] == "mlflow-monitoring-rules"]
    assert list(file) == ["team-a-mlflow.yml"]
    rule_file = yaml.safe_load(file["team-a-mlflow.yml"])
    for group in rule_file["groups"]:
        group.pop("interval", None)
    templates = [obj["spec"]["template"] for obj in objects if obj["kind"] in ("Deployment", "Job")]

    def scrape(address: str) -> list[dict]:
        port = address.split(":")[1]
        targets = []
        for template in templates:
            # The port and the path of the text that stands in for the pod.
            path = "exporter" if template["metadata"]["labels"]["app.kubernetes.io/component"] != "server" else "server"
            here = {"pod_annotation_prometheus_io_port": port, "pod_annotation_prometheus_io_path": f"/{path}"}
            targets.append({"targets": ["unused:1"], "labels": told(template, **here)})
        (folder / "targets.yml").write_text(yaml.safe_dump(targets))
        return [{"job_name": "kubernetes-pods", "honor_labels": True, "relabel_configs": RELABELLING,
                 "file_sd_configs": [{"files": ["targets.yml"]}]}]

    with samples.prometheus(folder, PORT, rule_file, folder, scrape=scrape) as found:
        yield found


def test_the_pods_with_metrics_are_scraped_and_named(live):
    found = live.get("targets", state="active")["activeTargets"]
    assert {(target["labels"]["job"], target["labels"]["namespace"], target["labels"]["instance_name"])
            for target in found} == {("mlflow-server", "team-a", "mlflow"), ("mlflow-exporter", "team-a", "mlflow")}
    assert len(found) == 2 and {target["health"] for target in found} == {"up"}


def test_rules_have_results(live):
    for group in live.get("rules")["groups"]:
        for rule in group["rules"]:
            assert rule["health"] in ("ok", "unknown"), (rule["name"], rule.get("lastError"))
    firing = {alert["labels"]["alertname"] for alert in live.get("alerts")["alerts"] if alert["state"] == "firing"}
    assert not {"MLflowServerDown", "MLflowExporterDown"} & firing


def test_every_query_of_every_dashboard_has_data(live):
    without = [target["expr"] for _name, _panel, target in TARGETS
               if not live.result(of_instance(target["expr"]))]
    assert not without


def test_dashboards_are_delivered(objects):
    found = {key for obj in objects if obj["metadata"].get("labels", {}).get("grafana_dashboard")
             for key in obj["data"]}
    assert found == {f"mlflow-{name}.json" for name in ("server", "stores", "usage", "service-levels")}


def test_only_pods_with_metrics_have_the_labels(objects):
    """Other pods of the instance, such as the migration's, would be targets that are down."""
    templates = {obj["metadata"]["name"]: obj["spec"]["template"] for obj in objects
                 if obj["kind"] in ("Deployment", "Job")}
    marked = {name for name, template in templates.items() if "instance_name" in template["metadata"]["labels"]}
    assert len(templates) > len(marked)
    assert marked == {"mlflow-server", "mlflow-monitoring-exporter"}
