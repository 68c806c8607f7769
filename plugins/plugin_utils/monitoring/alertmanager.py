# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The configuration of an Alertmanager: who receives the alerts, grouped and repeated how, and which are muted.

Source: https://prometheus.io/docs/alerting/latest/configuration/
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

GROUP_BY = ["namespace", "instance_name", "alertname"]
CAUSES = {
    "MLflowServerDown": ("MLflowReplicaDown", "MLflowLatencyHigh", "MLflowErrorRatioHigh", "MLflowRoundTripFailing",
                         "MLflow.+BudgetBurn"),
    "MLflowDatabaseDown": ("MLflowServerDown", "MLflowReplicaDown", "MLflowLatencyHigh", "MLflowErrorRatioHigh",
                           "MLflowRoundTripFailing", "MLflowExporterCollectionFailing", "MLflow.+BudgetBurn"),
    "MLflowObjectStoreDown": ("MLflowRoundTripFailing", "MLflowExporterCollectionFailing", "MLflowErrorRatioHigh",
                              "MLflowUpload.+BudgetBurn"),
}
"""Alerts, and those that follow from them and are muted while they fire."""
KEYS = ("global", "route", "receivers", "inhibit_rules", "mute_time_intervals", "time_intervals", "templates",
        "tracing")
"""Of a configuration."""
SLACK_COLOR = ('{{ if eq .Status "resolved" }}good{{ else if eq .CommonLabels.severity "critical" }}danger'
               "{{ else }}warning{{ end }}")
SLACK_TITLE = ('{{ if eq .Status "resolved" }}Resolved{{ else }}{{ .CommonLabels.severity }}{{ end }}: '
               "{{ .GroupLabels.alertname }}, {{ .GroupLabels.instance_name }}")
SLACK_TEXT = "{{ range .Alerts }}{{ .Annotations.description }}\n{{ .Annotations.runbook_url }}\n{{ end }}"
EMAIL_SUBJECT = SLACK_TITLE


@dataclass(frozen=True)
class Receivers:
    """Where alerts are sent. Empty texts leave a way out; without any, alerts are shown by Alertmanager only.

    Secrets are files that Alertmanager reads, so that the configuration holds none.

    Attributes:
        webhook_url: URL that gets the alerts as JSON.
        webhook_url_file: file with that URL, where it contains a secret; Alertmanager 0.26 or newer.
        webhook_token_file: file with a bearer token for the webhook.
        email_to: addresses, separated by commas.
        email_from: address of the sender.
        email_smarthost: host and port of the SMTP server.
        email_username, email_password_file: login at the SMTP server; Alertmanager 0.25 or newer.
        email_tls: whether STARTTLS is required.
        slack_url_file: file with the URL of an incoming webhook.
        slack_channel: channel; empty takes that of the webhook.
        group_wait, group_interval: how long the first and further alerts of a group are collected.
        repeat_interval, critical_repeat_interval: after which alerts that still fire are sent again.
    """

    webhook_url: str = ""
    webhook_url_file: str = ""
    webhook_token_file: str = ""
    email_to: str = ""
    email_from: str = ""
    email_smarthost: str = ""
    email_username: str = ""
    email_password_file: str = ""
    email_tls: bool = True
    slack_url_file: str = ""
    slack_channel: str = ""
    group_wait: str = "30s"
    group_interval: str = "5m"
    repeat_interval: str = "12h"
    critical_repeat_interval: str = "4h"


def configuration(receivers: Receivers) -> dict[str, Any]:
    """The content of alertmanager.yml."""
    return {
        "route": {
            "receiver": "mlflow", "group_by": GROUP_BY, "group_wait": receivers.group_wait,
            "group_interval": receivers.group_interval, "repeat_interval": receivers.repeat_interval,
            "routes": [{"matchers": ['severity="critical"'], "receiver": "mlflow",
                        "repeat_interval": receivers.critical_repeat_interval}],
        },
        "inhibit_rules": inhibit_rules(),
        "receivers": [{"name": "mlflow", **_receiver(receivers)}],
    }


def violations(name: str, given: dict[str, Any]) -> Iterator[str]:
    """What is wrong in a whole configuration of the user, before Alertmanager reads it; no value is shown.

    Args:
        name: of the variable.
        given: the configuration.
    """
    for key in given:
        if key not in KEYS:
            yield f"{name} has the key {key}, which Alertmanager does not know; it may have {', '.join(KEYS)}."
    route, receivers = given.get("route"), given.get("receivers")
    for key, value in (("route", route), ("receivers", receivers)):
        if not value:
            yield f"{name} has no {key}; give Alertmanager's whole configuration."
    if route and not isinstance(route, dict):
        yield f"{name}.route is no mapping; it must have receiver, and may have routes below it."
        return
    if receivers and not (isinstance(receivers, list) and all(
            isinstance(entry, dict) and isinstance(entry.get("name"), str) for entry in receivers)):
        yield f"{name}.receivers is no list of mappings with a name each."
        return
    if not route or not receivers:
        return
    if not route.get("receiver"):
        yield f"{name}.route has no receiver; name the one for alerts that no other route takes."
    names = {entry["name"] for entry in receivers}
    for number, wanted in enumerate(_receivers_of(route)):
        if wanted not in names:
            where = "route.receiver" if number == 0 and route.get("receiver") else "a route"
            yield (f"{name}: {where} names a receiver that receivers does not have; it has "
                   f"{', '.join(sorted(names))}.")


def _receivers_of(route: dict[str, Any]) -> Iterator[Any]:
    """The receivers that a route and the routes below it name."""
    if route.get("receiver"):
        yield route["receiver"]
    for below in route.get("routes") or []:
        if isinstance(below, dict):
            yield from _receivers_of(below)


def inhibit_rules() -> list[dict[str, Any]]:
    """Which alerts mute others: the critical one of a name its warning, and a cause what follows from it."""
    equal = ["namespace", "instance_name"]
    rules = [{"source_matchers": ['severity="critical"'], "target_matchers": ['severity=~"warning|info"'],
              "equal": [*equal, "alertname", "volume", "persistentvolumeclaim", "host", "slo", "reason"]}]
    for cause, effects in CAUSES.items():
        rules.append({"source_matchers": [f'alertname="{cause}"'],
                      "target_matchers": [f'alertname=~"{"|".join(effects)}"'], "equal": equal})
    return rules


def _receiver(receivers: Receivers) -> dict[str, list[dict[str, Any]]]:
    configs = {}
    if receivers.webhook_url or receivers.webhook_url_file:
        webhook: dict[str, Any] = {"send_resolved": True}
        if receivers.webhook_url_file:
            webhook["url_file"] = receivers.webhook_url_file
        else:
            webhook["url"] = receivers.webhook_url
        if receivers.webhook_token_file:
            webhook["http_config"] = {"authorization": {"credentials_file": receivers.webhook_token_file}}
        configs["webhook_configs"] = [webhook]
    if receivers.email_to:
        login = {"auth_username": receivers.email_username, "auth_password_file": receivers.email_password_file}
        configs["email_configs"] = [{
            "to": receivers.email_to, "from": receivers.email_from, "smarthost": receivers.email_smarthost,
            "require_tls": receivers.email_tls, "send_resolved": True, "headers": {"Subject": EMAIL_SUBJECT},
            **{key: value for key, value in login.items() if value},
        }]
    if receivers.slack_url_file:
        slack = {"api_url_file": receivers.slack_url_file, "send_resolved": True, "color": SLACK_COLOR,
                 "title": SLACK_TITLE, "text": SLACK_TEXT}
        if receivers.slack_channel:
            slack["channel"] = receivers.slack_channel
        configs["slack_configs"] = [slack]
    return configs
