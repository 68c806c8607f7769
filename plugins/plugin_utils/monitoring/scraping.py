# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is scraped of an instance, and the configuration of the Prometheus that the collection runs.

Source: https://prometheus.io/docs/prometheus/latest/configuration/configuration/
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SCRAPE_TIMEOUT = 10
"""Seconds that one scrape may take; less where the interval is shorter."""


@dataclass(frozen=True)
class Job:
    """Pods that are scraped together.

    Attributes:
        name: value of the label job.
        port: where its pods answer /metrics.
        component: label ``app.kubernetes.io/component`` of its pods.
        targets: names of its pods, where they are known.
        discovery: name whose addresses in DNS are the pods, where they are not.
    """

    name: str
    port: int
    component: str
    targets: tuple[str, ...] = ()
    discovery: str = ""


def series_labels(namespace: str, instance_name: str) -> dict[str, str]:
    """The labels by which every series tells its instance."""
    return {"namespace": namespace, "instance_name": instance_name}


def configuration(jobs: tuple[Job, ...], labels: dict[str, str], interval: int, rules: str,
                  alertmanager: str) -> dict[str, Any]:
    """Content of prometheus.yml.

    Args:
        jobs: what is scraped.
        labels: of every series.
        interval: seconds between two scrapes, and between two evaluations of the rules.
        rules: file of the rules, beside this one.
        alertmanager: host and port of Alertmanager.
    """
    relabelings = [{"target_label": name, "replacement": value} for name, value in labels.items()]
    return {
        "global": {"scrape_interval": f"{interval}s", "scrape_timeout": f"{min(SCRAPE_TIMEOUT, interval)}s",
                   "evaluation_interval": f"{interval}s"},
        "rule_files": [rules],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]},
        "scrape_configs": [{"job_name": job.name, **_discovery(job), "relabel_configs": relabelings} for job in jobs],
    }


def _discovery(job: Job) -> dict[str, Any]:
    if job.discovery:
        return {"dns_sd_configs": [{"names": [job.discovery], "type": "A", "port": job.port,
                                    "refresh_interval": "15s"}]}
    return {"static_configs": [{"targets": [f"{target}:{job.port}" for target in job.targets]}]}


def annotations(port: int) -> dict[str, str]:
    """Annotations of a pod by which the scrape configuration of Prometheus' Helm chart finds it."""
    return {"prometheus.io/scrape": "true", "prometheus.io/port": str(port), "prometheus.io/path": "/metrics"}


def pod_labels(job: str, instance_name: str) -> dict[str, str]:
    """Labels of a pod that the job kubernetes-pods of Prometheus' Helm chart copies to the series, over its own name.

    Source: https://github.com/prometheus-community/helm-charts/blob/main/charts/prometheus/values.yaml
    """
    return {"job": job, "instance_name": instance_name}


def pod_monitor(job: Job, name: str, namespace: str, instance_name: str, interval: int,
                labels: dict[str, str]) -> dict[str, Any]:
    """A PodMonitor of the Prometheus operator.

    Args:
        job: what is scraped.
        name, namespace: of the object.
        instance_name: the instance.
        interval: seconds between two scrapes.
        labels: of the object, which the podMonitorSelector of the operator's Prometheus selects.

    Source: https://prometheus-operator.dev/docs/api-reference/api/#monitoring.coreos.com/v1.PodMonitor
    """
    own = {"job": job.name, **series_labels(namespace, instance_name)}
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "selector": {"matchLabels": {"app.kubernetes.io/instance": instance_name,
                                         "app.kubernetes.io/component": job.component}},
            "podMetricsEndpoints": [{
                "port": "metrics", "path": "/metrics", "interval": f"{interval}s",
                "scrapeTimeout": f"{min(SCRAPE_TIMEOUT, interval)}s",
                "relabelings": [{"targetLabel": label, "replacement": value} for label, value in own.items()]}],
        },
    }
