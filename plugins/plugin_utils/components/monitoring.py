# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Monitoring: the exporter, and what collects metrics, evaluates rules and sends alerts."""

from __future__ import annotations

import dataclasses
import json
import re
import urllib.parse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Iterator

import yaml

from ansible_collections.mlops.mlflow.plugins.plugin_utils import logins
from ansible_collections.mlops.mlflow.plugins.plugin_utils.components import backup, mlflow_server, pgbackrest
from ansible_collections.mlops.mlflow.plugins.plugin_utils.components.base import Component, Network
from ansible_collections.mlops.mlflow.plugins.plugin_utils.components.images import built
from ansible_collections.mlops.mlflow.plugins.plugin_utils.manifests import quantity
from ansible_collections.mlops.mlflow.plugins.plugin_utils.model import common, variables
from ansible_collections.mlops.mlflow.plugins.plugin_utils.monitoring import (
    alertmanager,
    checks,
    dashboards,
    exporters,
    grafana,
    metrics,
    rules,
    scraping,
)
from ansible_collections.mlops.mlflow.plugins.plugin_utils.program import Probe

if TYPE_CHECKING:
    from ansible_collections.mlops.mlflow.plugins.plugin_utils.model import Model
    from ansible_collections.mlops.mlflow.plugins.plugin_utils.model.variables import Variables

PROMETHEUS_IMAGE = "docker.io/prom/prometheus:v3.5.0"
ALERTMANAGER_IMAGE = "docker.io/prom/alertmanager:v0.28.1"
GRAFANA_IMAGE = "docker.io/grafana/grafana:12.1.1"
PROMETHEUS_PORT, ALERTMANAGER_PORT, EXPORTER_PORT, GRAFANA_PORT = 9090, 9093, 9501, 3000
ALERTMANAGER_SIZE = "1Gi"
"""Of the volume with silences and the log of notifications, a few MiB."""
SHORTEST_INTERVAL, LONGEST_INTERVAL = 5, 60
"""Seconds. Rules take rates over five minutes; the verification waits for the first scrape."""
SMALLEST_SIZE = 2**30
DISK_SHARE = 0.8
"""Of its volume that Prometheus fills with blocks; the write-ahead log and compaction take room, too."""
SECRETS = "/etc/alertmanager"
CERTIFICATE_FOLDER = "/etc/mlflow-ingress"
SERVER = rf"({common.HOST_OR_ADDRESS})(:[0-9]{{1,5}})?"
CERTIFICATE_HOST = rf"((postgresql|mysql)://)?{SERVER}(@{SERVER})?"
ADDRESS = r"[^\s@,]+@[^\s@,]+"
WEBHOOKS = ("monitoring_alert_webhook_url", "monitoring_alert_slack_url")
EMAIL = ("monitoring_alert_email_from", "monitoring_alert_email_smarthost", "monitoring_alert_email_username",
         "monitoring_alert_email_password")
RECEIVERS = (*WEBHOOKS, "monitoring_alert_slack_channel", "monitoring_alert_email_to", *EMAIL)
GROUPING = {"monitoring_alert_group_wait": "", "monitoring_alert_group_interval": "since groups are sent by it",
            "monitoring_alert_repeat_interval": "since alerts are repeated by it",
            "monitoring_alert_critical_repeat_interval": "since alerts are repeated by it"}
"""Durations of Alertmanager, and why they cannot be zero."""
PUBLISHED = ("monitoring_publish", "monitoring_alertmanager_publish", "monitoring_grafana_publish")
URLS = ("monitoring_url", "monitoring_alertmanager_url", "monitoring_grafana_url")
OF_GRAFANA = ("monitoring_grafana_publish", "monitoring_grafana_url", "monitoring_grafana_image")
"""Variables of the collection's own Grafana."""
OF_PROMETHEUS = (*RECEIVERS, *GROUPING, "monitoring_alertmanager_config", *PUBLISHED, *URLS, "monitoring_grafana")
"""Variables that only the collection's own Prometheus and Alertmanager have."""
OF_CLUSTER = ("monitoring_labels", "monitoring_grafana_selector")
"""Variables of what a cluster's own Prometheus and Grafana read."""
OF_RULES = ("monitoring_alert_thresholds", "monitoring_objectives", "monitoring_alerts", "monitoring_rules_extra")
"""Variables of rules."""


@dataclass(frozen=True)
class MonitoringPart:
    """What the component's templates and the verification read.

    Attributes:
        name: beginning of the names of its objects.
        jobs: what is scraped.
        annotations, pod_labels: of the exporter's pod, where the cluster's Prometheus finds pods by annotations.
        environment: variables of the exporter besides those of the server.
        secret_environment: more of them, by name, as references to keys of Secrets.
        backup_volumes: volumes with backups and with the WAL archive of the database, and where the exporter mounts
            them.
        login: Secret of the login with which the exporter reads the database, or empty: the server's.
        login_keys: its keys, by user and password.
        login_database: the database in which that login is made, where the collection runs it.
        exporters: the standard exporters that run; each with its image and variables.
        certificate: Secret with the certificate of the ingress, which the exporter reads as a file, or empty.
        certificate_folder: where.
        unseen: names of the server's volumes that the exporter does not mount.
        settings: what the rules depend on.
        interval: seconds between two scrapes.
        labels: of objects for the Prometheus operator, and of rules.
        grafana_selector: labels of the Grafana into which grafana-operator brings the dashboards, or empty.
        given: files of Alertmanager, by name; they hold secrets.
        retention_bytes: most that Prometheus keeps.
        external_url, alertmanager_url, grafana_url: by which users reach Prometheus, Alertmanager and Grafana, or
            empty.
    """

    name: str
    jobs: tuple[scraping.Job, ...]
    annotations: dict
    pod_labels: dict
    environment: dict
    secret_environment: dict
    backup_volumes: tuple[dict, ...]
    login: str
    login_keys: dict
    login_database: dict
    exporters: tuple[dict, ...]
    certificate: str
    certificate_folder: str
    unseen: tuple[str, ...]
    settings: rules.Settings
    interval: int
    labels: dict
    grafana_selector: dict
    given: dict
    prometheus_image: str
    alertmanager_image: str
    alertmanager_size: str
    retention_bytes: int
    external_url: str
    alertmanager_url: str
    grafana_image: str
    grafana_url: str
    exporter_port: int
    prometheus_port: int
    alertmanager_port: int
    grafana_port: int

    # What is long is made when a template asks for it, and is no part of the fact mlflow_model.

    @property
    def objects(self) -> list[dict]:
        """Objects for the Prometheus operator."""
        namespace, instance = self.settings.namespace, self.settings.instance_name
        monitors = [scraping.pod_monitor(job, f"{self.name}-{job.component.removeprefix('monitoring-')}", namespace,
                                         instance, self.interval, self.labels) for job in self.jobs]
        return [*monitors, rules.prometheus_rule(self.settings, self.name, self.labels)]

    @property
    def dashboards(self) -> dict[str, dict]:
        """JSON models of Grafana's dashboards, by name."""
        return dashboards.dashboards(exporter["name"] for exporter in self.exporters)

    @property
    def grafana_dashboards(self) -> list[dict]:
        """Objects for grafana-operator, of the dashboards' ConfigMaps."""
        return [dashboards.grafana_dashboard(f"{self.name}-{name}", f"{name}.json", self.settings.namespace,
                                             self.grafana_selector)
                for name in self.dashboards] if self.grafana_selector else []

    @property
    def grafana_environment(self) -> dict[str, str]:
        """Variables of the collection's own Grafana."""
        return grafana.environment(self.grafana_url)

    @property
    def grafana_files(self) -> dict[str, str]:
        """Its provisioning files, by name."""
        sources = grafana.datasources(f"http://{self.name}-prometheus:{self.prometheus_port}",
                                      f"http://{self.name}-alertmanager:{self.alertmanager_port}", self.interval)
        return {"datasources.yaml": _yaml(sources), "providers.yaml": _yaml(grafana.providers())}

    @property
    def rule_file(self) -> str:
        """The rules as a file of Prometheus."""
        return _yaml(rules.rule_file(self.settings))

    @property
    def prometheus(self) -> dict[str, str]:
        """Files of Prometheus, by name."""
        labels = scraping.series_labels(self.settings.namespace, self.settings.instance_name)
        main = scraping.configuration(self.jobs, labels, self.interval, "rules.yml",
                                      f"{self.name}-alertmanager:{self.alertmanager_port}")
        return {"prometheus.yml": _yaml(main), "rules.yml": self.rule_file,
                "overview.html": dashboards.overview(self.settings)}


class Monitoring(Component):
    name = "monitoring"
    role = "monitoring"
    title = "The monitoring"
    # The exporter reads what backups leave, with their credentials.
    needs = ("mlflow_server", "backup")
    secrets = ("monitoring_alert_webhook_url", "monitoring_alert_email_password", "monitoring_alert_slack_url",
               "monitoring_alertmanager_config")

    def resolve(self, v: Variables, model: Model) -> MonitoringPart:
        name = f"{model.instance.name}-monitoring"
        prometheus, alerts = v.monitoring_prometheus_image, v.monitoring_alertmanager_image
        if prometheus is None:
            prometheus = built(v)["prometheus"] if model.instance.build else PROMETHEUS_IMAGE
        if alerts is None:
            alerts = built(v)["alertmanager"] if model.instance.build else ALERTMANAGER_IMAGE
        login = _login(v, model, name)
        return MonitoringPart(
            name=name, jobs=_jobs(v, model, name), annotations=scraping.annotations(EXPORTER_PORT),
            pod_labels=(scraping.pod_labels(metrics.EXPORTER_JOB, model.instance.name)
                        if v.monitoring_type == "annotations" else {}),
            environment=_environment(v, model), secret_environment=_secret_environment(v, model, login),
            backup_volumes=tuple(_backup_volumes(v, model)), **login,
            exporters=tuple(_exporters(v, model)), certificate=_certificate(v, model),
            certificate_folder=CERTIFICATE_FOLDER,
            unseen=_unseen(v, model), settings=_settings(v, model), interval=v.monitoring_interval,
            labels=v.monitoring_labels, grafana_selector=v.monitoring_grafana_selector,
            given=_alertmanager_files(v) if v.monitoring_type == "prometheus" else {},
            prometheus_image=prometheus, alertmanager_image=alerts, alertmanager_size=ALERTMANAGER_SIZE,
            retention_bytes=int((quantity(v.monitoring_size) or 0) * DISK_SHARE),
            external_url=_external_url(v, *(names[0] for names in (URLS, PUBLISHED))),
            alertmanager_url=_external_url(v, *(names[1] for names in (URLS, PUBLISHED))),
            grafana_image=v.monitoring_grafana_image or GRAFANA_IMAGE,
            grafana_url=_external_url(v, *(names[2] for names in (URLS, PUBLISHED))),
            exporter_port=EXPORTER_PORT, prometheus_port=PROMETHEUS_PORT, alertmanager_port=ALERTMANAGER_PORT,
            grafana_port=GRAFANA_PORT)

    def templates(self, v: Variables, model: Model) -> list[str]:
        more = {"annotations": ["rules.yaml.j2", "dashboards.yaml.j2"],
                "operator": ["operator.yaml.j2", "dashboards.yaml.j2"],
                "prometheus": ["prometheus.yaml.j2", "alertmanager.yaml.j2"]}
        if v.monitoring_type == "none":
            return []
        return ["exporter.yaml.j2", *more[v.monitoring_type], *(["grafana.yaml.j2"] if v.monitoring_grafana else []),
                *(["exporters.yaml.j2"] if v.monitoring_exporters else [])]

    def images(self, v: Variables, model: Model) -> list[str]:
        own = ["prometheus", "alertmanager"] if v.monitoring_type == "prometheus" else []
        return own + [exporters.EXPORTERS[name].built for name in _standard(v, model)]

    def network(self, v: Variables, model: Model) -> list[Network]:
        if v.monitoring_type == "none":
            return []
        inside = [{"podSelector": {"matchLabels": model.instance.labels}}]
        clients = [*inside, *map(common.peer, v.monitoring_clients)]
        # The exporter opens what the server opens, and the store of the backups.
        opened = (backup.Backup() if _sees_backups(v) else mlflow_server.MlflowServer()).network(v, model)
        networks = [Network(name="exporter", components=("monitoring-exporter",), egress=opened.egress,
                            ingress=[_from(clients, EXPORTER_PORT)])]
        if v.monitoring_type == "prometheus":
            networks += [
                Network(name="prometheus", components=("monitoring-prometheus",),
                        ingress=[_from(clients, PROMETHEUS_PORT)], egress=[common.DNS, {"to": inside}]),
                Network(name="alertmanager", components=("monitoring-alertmanager",),
                        ingress=[_from(clients, ALERTMANAGER_PORT)], egress=[common.DNS, *_egress(v)],
                        egress_closed=not v.monitoring_alertmanager_config)]
        for exporter in model.monitoring.exporters:
            component = exporter["component"]
            networks.append(Network(name=component.removeprefix("monitoring-"), components=(component,),
                                    ingress=[_from(clients, exporter["port"])], egress=[common.DNS, {"to": inside}]))
        if v.monitoring_grafana:
            networks.append(Network(name="grafana", components=("monitoring-grafana",),
                                    ingress=[_from(clients, GRAFANA_PORT)], egress=[common.DNS, {"to": inside}]))
        return networks

    def probes(self, v: Variables, model: Model) -> list[Probe]:
        part, kind = model.monitoring, v.monitoring_type
        if kind == "none":
            return []
        parameters = {"metrics": {metrics.SERVER_JOB: f"http://127.0.0.1:{v.mlflow_server_metrics_port}/metrics",
                                  metrics.EXPORTER_JOB: f"http://{part.name}-exporter:{EXPORTER_PORT}/metrics"}}
        if kind == "prometheus":
            parameters |= {"prometheus": f"http://{part.name}-prometheus:{PROMETHEUS_PORT}",
                           "jobs": [job.name for job in part.jobs], "rules": len(rules.groups(part.settings)),
                           "patience": v.monitoring_interval + 15}
        if v.monitoring_grafana:
            parameters["grafana"] = f"http://{part.name}-grafana:{GRAFANA_PORT}"
        return [Probe(self.role, self.title, "roles/monitoring/files/probe.py", parameters)]

    def status(self, v: Variables, model: Model, report: dict) -> list[str]:
        if "firing" not in report:
            return []
        firing = report["firing"]
        lines = [f"{report['targets']} targets are up, {len(firing) or 'no'} firing alert{'s' * (len(firing) != 1)}"]
        return lines + [f"{alert['name']} ({alert['severity']}, since {alert['since']}): {alert['summary']}"
                        for alert in firing]

    def unsupported(self, v: Variables, model: Model) -> Iterator[str]:
        if v.mlflow_engine == "podman" and v.monitoring_type in ("annotations", "operator"):
            yield (f"monitoring_type is {v.monitoring_type} while mlflow_engine is podman, where no Prometheus of a "
                   "cluster runs; set monitoring_type to prometheus.")

    def _check_type(self, v: Variables, model: Model) -> Iterator[str]:
        kind = v.monitoring_type
        if kind != "prometheus":
            for variable in OF_PROMETHEUS:
                if _is_set(v, variable):
                    yield (f"{variable} is set while monitoring_type is {kind}; set monitoring_type to prometheus, or "
                           "leave it out.")
        if kind == "none":
            for variable in OF_RULES:
                if _is_set(v, variable):
                    yield (f"{variable} is set while monitoring_type is none, with which there are no rules; set "
                           "monitoring_type, or leave it out.")
        if kind not in ("operator", "annotations"):
            for variable in OF_CLUSTER:
                if v[variable]:
                    yield (f"{variable} is set while monitoring_type is {kind}; set monitoring_type to operator or "
                           "annotations, or leave it empty.")
        if v.mlflow_network_policy and kind in ("annotations", "operator") and not v.monitoring_clients:
            yield (f"monitoring_clients is empty while mlflow_network_policy is true and monitoring_type is {kind}; "
                   "name the namespace of the cluster's Prometheus.")

    def _check_login(self, v: Variables, model: Model) -> Iterator[str]:
        given, kind = v.monitoring_database_existing_secret, v.monitoring_type
        if given and kind == "none":
            yield ("monitoring_database_existing_secret is set while monitoring_type is none; set monitoring_type, or "
                   "leave it empty.")
        elif given and model.mlflow_server.database.type == "sqlite":
            yield ("monitoring_database_existing_secret is set while the database is SQLite, which has no logins; "
                   "leave it empty.")
        for key in v.monitoring_database_existing_secret_keys:
            if key not in ("user", "password"):
                yield f"monitoring_database_existing_secret_keys has the key {key}; it may have user and password."
        if v.monitoring_database_existing_secret_keys and not given:
            yield ("monitoring_database_existing_secret_keys is set while monitoring_database_existing_secret is "
                   "empty; name the Secret there.")
        if kind != "none" and model.monitoring.login_database and v.database_user == logins.READER:
            yield (f"database_user is {logins.READER}, which is the login of the monitoring; choose another name.")

    def _check_certificates(self, v: Variables, model: Model) -> Iterator[str]:
        for host in v.monitoring_certificates:
            if not common.matches(CERTIFICATE_HOST, host) or host.isdigit() or not _ports_exist(host):
                yield (f"monitoring_certificates holds {common.hidden(host)}; it must be a host and a port such as "
                       "mlflow.example.com:443, or postgresql:// or mysql:// and those.")

    def _check_numbers(self, v: Variables, model: Model) -> Iterator[str]:
        if not SHORTEST_INTERVAL <= v.monitoring_interval <= LONGEST_INTERVAL:
            yield (f"monitoring_interval is {v.monitoring_interval}; it must be a number of seconds from "
                   f"{SHORTEST_INTERVAL} to {LONGEST_INTERVAL}.")
        size = quantity(v.monitoring_size)
        if size is not None and size < SMALLEST_SIZE:
            yield (f"monitoring_size is {v.monitoring_size}; it must be at least 1Gi, since Prometheus writes files of "
                   "128 MiB before it removes any.")
        if not 1 <= v.monitoring_retention_days <= 3650:
            yield (f"monitoring_retention_days is {v.monitoring_retention_days}; it must be a number of days from 1 to "
                   "3650.")

    def _check_alerts(self, v: Variables, model: Model) -> Iterator[str]:
        settings = model.monitoring.settings
        yield from checks.thresholds(settings.thresholds)
        yield from checks.objectives(settings.objectives)
        yield from checks.changes(v.monitoring_alerts)
        yield from checks.extra_rules(v.monitoring_rules_extra)
        for variable, reason in GROUPING.items():
            yield from checks.duration(variable, v[variable], reason)

    def _check_receivers(self, v: Variables, model: Model) -> Iterator[str]:
        if v.monitoring_alertmanager_config:
            for variable in (*RECEIVERS, *GROUPING):
                if _is_set(v, variable):
                    yield f"monitoring_alertmanager_config and {variable} are both set; keep one of them."
            yield from alertmanager.violations("monitoring_alertmanager_config", v.monitoring_alertmanager_config)
        for variable in WEBHOOKS:
            if v[variable] and not _port(v[variable]):
                yield f"{variable} is no URL; give the whole of it, such as https://hooks.example.com/alerts."
        if v.monitoring_alert_slack_channel and not v.monitoring_alert_slack_url:
            yield ("monitoring_alert_slack_channel is set while monitoring_alert_slack_url is empty; give the URL of "
                   "an incoming webhook.")

    def _check_email(self, v: Variables, model: Model) -> Iterator[str]:
        if not v.monitoring_alert_email_to:
            for variable in EMAIL:
                if v[variable]:
                    yield (f"{variable} is set while monitoring_alert_email_to is empty; name there who gets the "
                           "mails, or leave it empty.")
            return
        for variable in ("monitoring_alert_email_to", "monitoring_alert_email_from"):
            if not all(common.matches(ADDRESS, part.strip()) for part in v[variable].split(",")):
                yield f"{variable} is {v[variable]!r}; it must be a mail address, such as mlops@example.com."
        smarthost = v.monitoring_alert_email_smarthost
        if not common.matches(rf"({common.HOST_OR_ADDRESS}):[0-9]{{1,5}}", smarthost) or not _ports_exist(smarthost):
            yield (f"monitoring_alert_email_smarthost is {v.monitoring_alert_email_smarthost!r}; it must be host and "
                   "port of the SMTP server, such as mail.example.com:587.")
        if bool(v.monitoring_alert_email_username) != bool(v.monitoring_alert_email_password):
            yield ("only one of monitoring_alert_email_username and monitoring_alert_email_password is set; the two go "
                   "together.")

    def _check_exporters(self, v: Variables, model: Model) -> Iterator[str]:
        if v.monitoring_exporters and v.monitoring_type == "none":
            yield ("monitoring_exporters is set while monitoring_type is none; set monitoring_type, or leave "
                   "monitoring_exporters empty.")
        elif "database" in v.monitoring_exporters and not (model.monitoring.login_database or model.database.reader):
            yield ("monitoring_exporters holds database while the collection runs no database server with a login of "
                   "the monitoring's; leave database out, or monitoring_database_existing_secret.")
        if "node" in v.monitoring_exporters and v.mlflow_engine == "kubernetes":
            yield ("monitoring_exporters holds node while mlflow_engine is kubernetes, whose nodes are the cluster's "
                   "to monitor; leave node out.")
        for name, image in v.monitoring_exporters_images.items():
            if name not in exporters.EXPORTERS:
                yield (f"monitoring_exporters_images has the key {name}; it may have "
                       f"{', '.join(exporters.EXPORTERS)}.")
            elif not common.image(str(image)):
                yield (f"monitoring_exporters_images.{name} is {image!r}; it must be the name of an image, such as "
                       f"{exporters.EXPORTERS[name].image}.")

    def _check_grafana(self, v: Variables, model: Model) -> Iterator[str]:
        if v.monitoring_grafana and v.monitoring_type == "prometheus" and (
                model.instance.build and not v.monitoring_grafana_image):
            yield ("monitoring_grafana is true while mlflow_image_source is build, and Debian has no Grafana; name an "
                   "image that is on the machine in monitoring_grafana_image.")
        for variable in OF_GRAFANA:
            if v[variable] and not v.monitoring_grafana and v.monitoring_type == "prometheus":
                yield f"{variable} is set while monitoring_grafana is false; set it to true, or leave {variable} out."

    def _check_publish(self, v: Variables, model: Model) -> Iterator[str]:
        others = ["mlflow_server_publish", *(["ingress_publish"] if v.ingress_type == "proxy" else [])]
        for variable in PUBLISHED:
            if not v[variable]:
                continue
            address = common.host_port(v[variable])
            if not address:
                yield (f"{variable} is {v[variable]!r}; it must be an address and a port such as 127.0.0.1:9090.")
                continue
            for other in others:
                taken = common.host_port(v[other])
                if taken and taken[1] == address[1] and (taken[0] == address[0] or "0.0.0.0" in (taken[0], address[0])):
                    yield (f"{variable} is {v[variable]}, whose port {other} takes; choose another port for one of "
                           "them.")
            others.append(variable)
        for variable in URLS:
            if v[variable] and not common.url(v[variable]):
                yield (f"{variable} is {common.hidden(v[variable])}; it must be a URL without user, query and "
                       "fragment, such as https://prometheus.example.com.")


def _is_set(v: Variables, variable: str) -> bool:
    """Whether a variable has another value than its default."""
    return v[variable] != variables.SPECS[variable]["default"]


def _external_url(v: Variables, url: str, publish: str) -> str:
    """The URL that one variable gives, or that follows from the published address in another."""
    published = common.host_port(v[publish]) if v[publish] else None
    return v[url] or (f"http://{v[publish]}/" if published and published[0] != "0.0.0.0" else "")


def _jobs(v: Variables, model: Model, name: str) -> tuple[scraping.Job, ...]:
    server, port = model.mlflow_server.name, v.mlflow_server_metrics_port
    if v.mlflow_engine == "podman":
        # The pods are known by name, so that a stopped one stays a target that is down.
        pods = tuple(f"{server}-{index}" for index in range(v.mlflow_server_replicas))
        first = scraping.Job(metrics.SERVER_JOB, port, "server", pods)
    else:
        first = scraping.Job(metrics.SERVER_JOB, port, "server", discovery=f"{name}-server")
    jobs = (first, scraping.Job(metrics.EXPORTER_JOB, EXPORTER_PORT, "monitoring-exporter", (f"{name}-exporter",)))
    for exporter in _exporters(v, model):
        target = f"{model.instance.name}-{exporter['component']}"
        jobs = (*jobs, scraping.Job(exporter["job"], exporter["port"], exporter["component"], (target,)))
    if v.monitoring_type != "prometheus":
        return jobs
    return (*jobs, scraping.Job("prometheus", PROMETHEUS_PORT, "monitoring-prometheus", ("localhost",)),
            scraping.Job("alertmanager", ALERTMANAGER_PORT, "monitoring-alertmanager", (f"{name}-alertmanager",)))


def _settings(v: Variables, model: Model) -> rules.Settings:
    certificates = rules.CADDY_CERTIFICATES if v.ingress_type == "proxy" and v.ingress_tls == "self_signed" else {}
    backend, store = model.mlflow_server.database, model.mlflow_server.artifact_store
    claims = {model.database.volume: model.database.managed or backend.claim == model.database.volume,
              model.object_storage.volume: model.object_storage.managed or store.claim == model.object_storage.volume}
    # The Prometheus of a cluster scrapes the kubelet, too.
    of_cluster = v.monitoring_type in ("operator", "annotations")
    measured = tuple(name for name, ours in claims.items() if ours) if of_cluster else ()
    return rules.Settings(
        model.instance.namespace, model.instance.name, claims=measured, backups=_sees_backups(v),
        backup_interval_seconds=_backup_interval(v),
        base_backup_interval_seconds=pgbackrest.BASE_BACKUP_INTERVAL if model.database.archive else 0,
        host=model.instance.host,
        thresholds=rules.Thresholds(**{**certificates, **v.monitoring_alert_thresholds}),
        objectives=rules.Objectives(**v.monitoring_objectives),
        changes=v.monitoring_alerts, extra=tuple(v.monitoring_rules_extra))


def _unseen(v: Variables, model: Model) -> tuple[str, ...]:
    """Volumes of the server that a pod beside it must not or cannot use.

    A volume that one node at a time mounts would keep the server on the node of the exporter; a folder of a pod is of
    that pod alone.
    """
    backend, store = model.mlflow_server.database, model.mlflow_server.artifact_store
    exclusive = v.mlflow_engine == "kubernetes"
    unseen = {"database": exclusive and backend.claim and not backend.shared,
              "artifacts": store.ephemeral or exclusive and store.claim and not store.shared}
    return tuple(name for name, is_unseen in unseen.items() if is_unseen)


def _environment(v: Variables, model: Model) -> dict[str, str]:
    server, unseen = model.mlflow_server, _unseen(v, model)
    volumes = [f"{volume['name']}={volume['path']}" for volume in server.volumes
               if volume["name"] in ("database", "artifacts") and volume["name"] not in unseen]
    off = {"database": ("DATABASE", "COUNTS"), "artifacts": ("OBJECT_STORE", "ARTIFACTS")}
    environment = {"MLFLOW_TRACKING_URI": server.cluster_url}
    if v.mlflow_server_tls_secret:
        environment["MLFLOW_TRACKING_INSECURE_TLS"] = "true"
    if model.mlflow_server.database.type == "other":
        unseen = (*unseen, "database")
    if model.mlflow_server.artifact_store.type == "uri":
        unseen = (*unseen, "artifacts")
    for volume in unseen:
        environment |= {f"MLOPS_EXPORTER_{collector}_INTERVAL": "0" for collector in off[volume]}
    certificates = _certificates(v, model)
    if certificates:
        environment |= {"MLOPS_EXPORTER_CERTIFICATES": ",".join(certificates),
                        "MLOPS_EXPORTER_CERTIFICATES_INTERVAL": "600"}
    if _sees_backups(v):
        environment |= {"BACKUP_STORE": json.dumps(model.backup.store, sort_keys=True),
                        "MLOPS_EXPORTER_BACKUP_EXPECTED_INTERVAL": str(_backup_interval(v))}
    volumes += [f"{volume['name']}={volume['path']}" for volume in _backup_volumes(v, model)]
    if model.database.archive:
        environment["MLOPS_EXPORTER_BACKUP_LAST_BASE"] = pgbackrest.LAST_BASE_BACKUP
    if volumes:
        environment["MLOPS_EXPORTER_VOLUMES"] = ",".join(volumes)
    return environment


def _secret_environment(v: Variables, model: Model, login: dict) -> dict[str, dict]:
    """Variables of the exporter, by name, and the Secret and key of each."""
    found = {f"MLOPS_EXPORTER_DATABASE_{variable}": {"name": login["login"], "key": login["login_keys"][key]}
             for variable, key in {"USER": "user", "PASSWORD": "password"}.items() if login["login"]}
    if _sees_backups(v):
        found |= {variable: {"name": model.backup.secret, "key": key}
                  for variable, key in model.backup.secret_env.items() if variable != "BACKUP_PASSPHRASE"}
    return found


def _sees_backups(v: Variables) -> bool:
    """Whether the exporter reads what backups leave.

    A volume that one node at a time mounts would keep backups on the node of the exporter.
    """
    return v.backup_type == "s3" or v.backup_type == "volume" and v.mlflow_engine == "podman"


def _backup_volumes(v: Variables, model: Model) -> Iterator[dict[str, str]]:
    """Volumes with backups that the exporter mounts: name, claim and path of each."""
    if _sees_backups(v) and model.backup.claim:
        yield {"name": "backups", "claim": model.backup.claim, "path": model.backup.mount_path}
    if model.database.archive:
        yield {"name": "archive", "claim": model.database.archive, "path": pgbackrest.REPOSITORY}


def _backup_interval(v: Variables) -> int:
    """Longest time between two scheduled backups in seconds, or 0 where none are scheduled."""
    return common.cron_interval(v.backup_schedule) if v.backup_schedule and common.cron(v.backup_schedule) else 0


def _login(v: Variables, model: Model, name: str) -> dict[str, Any]:
    """The login with which the exporter reads the database, as fields of the part."""
    if v.monitoring_database_existing_secret:
        keys = {"user": "username", "password": "password", **v.monitoring_database_existing_secret_keys}
        return {"login": v.monitoring_database_existing_secret, "login_keys": keys, "login_database": {}}
    if model.database.reader:
        return {"login": model.database.reader, "login_keys": {"user": "username", "password": "password"},
                "login_database": {}}
    if not model.database.managed or v.mlflow_server_database:
        return {"login": "", "login_keys": {}, "login_database": {}}
    database = model.database
    return {"login": f"{name}-database", "login_keys": {"user": "username", "password": "password"},
            "login_database": {"service": database.name, "dialect": database.endpoint.type, "port": database.port,
                               "database": database.endpoint.name, "owner": database.user,
                               # mysqld_exporter reads the state of InnoDB.
                               "process": "database" in v.monitoring_exporters}}


def _standard(v: Variables, model: Model) -> list[str]:
    """Names of the standard exporters that run."""
    kinds = {"database": model.database.endpoint.type, "node": "node"}
    names = [kinds[kind] for kind in kinds if kind in v.monitoring_exporters]
    return [name for name in names if name in exporters.EXPORTERS and v.monitoring_type != "none"]


def _exporters(v: Variables, model: Model) -> Iterator[dict]:
    """The standard exporters that run, as their template reads them."""
    endpoint = model.database.endpoint
    for name in _standard(v, model):
        exporter = exporters.EXPORTERS[name]
        image = built(v)[exporter.built] if model.instance.build else exporter.image
        found = v.monitoring_type == "annotations"
        yield {**dataclasses.asdict(exporter), "image": v.monitoring_exporters_images.get(name, image),
               "environment": exporter.environment(endpoint.host, endpoint.port, endpoint.name),
               "annotations": scraping.annotations(exporter.port) if found else {},
               "pod_labels": scraping.pod_labels(exporter.job, model.instance.name) if found else {}}


def _certificate(v: Variables, model: Model) -> str:
    """The Secret with the certificate of an Ingress or a Gateway, where it is in the instance's namespace."""
    if v.ingress_type in ("ingress", "gateway", "route") and v.ingress_tls in ("secret", "cert_manager"):
        return model.ingress.certificate_secret
    return ""


def _certificates(v: Variables, model: Model) -> list[str]:
    server, certificates = model.mlflow_server, []
    if _certificate(v, model):
        certificates += [f"{host}@{CERTIFICATE_FOLDER}/tls.crt" for host in v.ingress_hosts]
    if v.database_host and v.database_tls not in ("", "disable") and not v.mlflow_server_database:
        endpoint = model.database.endpoint
        certificates.append(f"{endpoint.type}://{endpoint.host}:{endpoint.port}")
    store = urllib.parse.urlsplit(v.object_storage_url)
    if store.scheme == "https" and not v.mlflow_server_artifact_store:
        certificates.append(store.netloc)
    if v.mlflow_server_tls_secret:
        certificates.append(f"{server.service}:{server.service_port}")
    if v.ingress_type == "proxy" and v.ingress_tls != "none":
        certificates += [f"{host}@{model.ingress.name}:{model.ingress.service_port}" for host in v.ingress_hosts
                         if "*" not in host]
    return [*certificates, *v.monitoring_certificates]


def _alertmanager_files(v: Variables) -> dict[str, str]:
    """Files of the Secret; the configuration itself holds the URL of the webhook, which is often a secret."""
    if v.monitoring_alertmanager_config:
        return {"alertmanager.yml": _yaml(v.monitoring_alertmanager_config)}
    secrets = {"email-password": v.monitoring_alert_email_password, "slack-url": v.monitoring_alert_slack_url}
    files = {key: value for key, value in secrets.items() if value}
    receivers = alertmanager.Receivers(
        webhook_url=v.monitoring_alert_webhook_url, email_to=v.monitoring_alert_email_to,
        email_from=v.monitoring_alert_email_from, email_smarthost=v.monitoring_alert_email_smarthost,
        email_username=v.monitoring_alert_email_username, email_tls=v.monitoring_alert_email_tls,
        email_password_file=f"{SECRETS}/email-password" if "email-password" in files else "",
        slack_url_file=f"{SECRETS}/slack-url" if "slack-url" in files else "",
        slack_channel=v.monitoring_alert_slack_channel,
        **{variable.removeprefix("monitoring_alert_"): v[variable] for variable in GROUPING})
    return {"alertmanager.yml": _yaml(alertmanager.configuration(receivers)), **files}


class _Plain(yaml.SafeDumper):
    """YAML without anchors, as people write it."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _yaml(value: dict) -> str:
    """The text of a file of configuration."""
    return yaml.dump(value, Dumper=_Plain, sort_keys=False, width=120)


def _from(peers: list[dict], port: int) -> dict:
    return {"ports": [{"port": port, "protocol": "TCP"}], "from": peers}


def _ports_exist(text: str) -> bool:
    """Whether all ports that follow a colon in a text are such."""
    return all(1 <= int(port) <= 65535 for port in re.findall(r":([0-9]+)(?=@|$)", text))


def _port(url: str) -> int:
    """The port of a URL, or 0 where it is none."""
    try:
        parts = urllib.parse.urlsplit(url)
        valid = parts.scheme in ("http", "https") and parts.hostname and not any(c.isspace() for c in url)
        return (parts.port or (80 if parts.scheme == "http" else 443)) if valid else 0
    except ValueError:  # a port above 65535, or brackets around no address
        return 0


def _egress(v: Variables) -> list[dict]:
    """Rules for what Alertmanager sends to."""
    ports = [_port(v[variable]) for variable in WEBHOOKS if v[variable]]
    if v.monitoring_alert_email_to:
        ports.append(int(v.monitoring_alert_email_smarthost.rpartition(":")[2]))
    return [{"ports": [{"port": port, "protocol": "TCP"} for port in dict.fromkeys(ports)]}] if ports else []
