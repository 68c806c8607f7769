# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Configurations of Alertmanager, checked by amtool, and what its inhibition does to alerts in a real Alertmanager."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml
from ansible_collections.mlops.mlflow.plugins.plugin_utils.monitoring import alertmanager, rules

PORT = 16460
RECEIVERS = {
    "nobody": alertmanager.Receivers(),
    "webhook": alertmanager.Receivers(webhook_url="https://hooks.example.com/a", webhook_token_file="/secrets/token"),
    "email": alertmanager.Receivers(email_to="ml@example.com, ops@example.com", email_from="mlflow@example.com",
                                    email_smarthost="mail.example.com:587", email_username="mlflow",
                                    email_password_file="/secrets/password"),
    "slack": alertmanager.Receivers(slack_url_file="/secrets/slack", slack_channel="#ml"),
    "all": alertmanager.Receivers(webhook_url="http://hooks.example.com", email_to="ml@example.com", email_tls=False,
                                  email_from="mlflow@example.com", email_smarthost="mail:25",
                                  slack_url_file="/secrets/slack", repeat_interval="1d"),
}


@pytest.mark.parametrize("name", RECEIVERS)
def test_configuration_is_valid(name, tmp_path):
    path = tmp_path / "alertmanager.yml"
    path.write_text(yaml.safe_dump(alertmanager.configuration(RECEIVERS[name])), encoding="utf-8")
    done = subprocess.run(["amtool", "check-config", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_url_of_a_webhook_in_a_file():
    """Alertmanager 0.26 or newer knows it, so that amtool of Debian 12 cannot check it."""
    made = alertmanager.configuration(alertmanager.Receivers(webhook_url_file="/secrets/url"))
    assert made["receivers"][0]["webhook_configs"] == [{"send_resolved": True, "url_file": "/secrets/url"}]


def test_muted_alerts_exist():
    names = rules.alert_names(rules.Settings("team-a", "mlflow", backups=True))
    for cause, effects in alertmanager.CAUSES.items():
        assert cause in names
        for effect in effects:
            assert any(re.fullmatch(effect, name) for name in names), effect


class Webhook(BaseHTTPRequestHandler):
    received: list[dict] = []

    def do_POST(self) -> None:
        self.received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_arguments) -> None:
        """Not in the output of tests."""


def test_causes_arrive_and_consequences_do_not(tmp_path):
    """Alerts of two instances: a database down mutes what follows in its instance only; a resolved one arrives, too."""
    hook = ThreadingHTTPServer(("127.0.0.1", PORT + 1), Webhook)
    threading.Thread(target=hook.serve_forever, daemon=True).start()
    receivers = alertmanager.Receivers(webhook_url=f"http://127.0.0.1:{PORT + 1}", group_wait="1s", group_interval="1s")
    (tmp_path / "alertmanager.yml").write_text(yaml.safe_dump(alertmanager.configuration(receivers)), encoding="utf-8")
    process = subprocess.Popen(
        ["prometheus-alertmanager", f"--config.file={tmp_path}/alertmanager.yml", f"--storage.path={tmp_path}/data",
         f"--web.listen-address=127.0.0.1:{PORT}", "--cluster.listen-address="], stderr=(tmp_path / "log").open("w"))
    try:
        send([("MLflowDatabaseDown", "critical", "a", {}), ("MLflowRoundTripFailing", "critical", "a", {}),
              ("MLflowApiLatencyBudgetBurn", "critical", "a", {"slo": "api-latency"}),
              ("MLflowRoundTripFailing", "critical", "b", {}),
              ("MLflowVolumeFilling", "critical", "b", {"volume": "x"}),
              ("MLflowVolumeFilling", "warning", "b", {"volume": "x"}),
              ("MLflowVolumeFilling", "warning", "b", {"volume": "y"})], tmp_path / "log")
        wanted = {("MLflowDatabaseDown", "critical", "a", "firing"),
                  ("MLflowRoundTripFailing", "critical", "b", "firing"),
                  ("MLflowVolumeFilling", "critical", "b", "firing"), ("MLflowVolumeFilling", "warning", "b", "firing")}
        wait_for(wanted)
        time.sleep(3)
        assert arrived() == wanted
        volumes = {alert["labels"]["volume"] for message in Webhook.received for alert in message["alerts"]
                   if alert["labels"]["severity"] == "warning"}
        assert volumes == {"y"}
        send([("MLflowRoundTripFailing", "critical", "b", {})], tmp_path / "log", resolved=True)
        wait_for({("MLflowRoundTripFailing", "critical", "b", "resolved")})
    finally:
        process.terminate()
        process.wait(30)
        hook.shutdown()
        hook.server_close()


def send(alerts, log, resolved: bool = False) -> None:
    ends = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + (-1 if resolved else 600)))
    body = []
    for name, severity, instance, labels in alerts:
        identity = {"alertname": name, "severity": severity, "namespace": "team", "instance_name": instance}
        body.append({"labels": {**identity, **labels}, "endsAt": ends})
    deadline = time.monotonic() + 30
    while True:
        request = urllib.request.Request(f"http://127.0.0.1:{PORT}/api/v2/alerts", json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=10):
                return
        except OSError:
            assert time.monotonic() < deadline, log.read_text(encoding="utf-8")
            time.sleep(0.3)


def arrived() -> set[tuple[str, str, str, str]]:
    found = set()
    for message in Webhook.received:
        for alert in message["alerts"]:
            labels = alert["labels"]
            found.add((labels["alertname"], labels["severity"], labels["instance_name"], alert["status"]))
    return found


def wait_for(wanted) -> None:
    deadline = time.monotonic() + 30
    while not wanted <= arrived():
        assert time.monotonic() < deadline, (wanted, Webhook.received)
        time.sleep(0.3)
