# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The rulebooks in ansible-rulebook: a real Alertmanager and a real MLflow send, and playbooks run.

The playbooks of alerts are those of the collection, on an instance that is not deployed, whose outcome is known. With
MLOPS_DEPLOY=1 one is deployed on podman, its server is stopped, and its own Prometheus and Alertmanager bring it back.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator

import pytest
import requests
import yaml
from ansible_collections.mlops.mlflow.plugins.plugin_utils.monitoring import alertmanager, rules
from ansible_rulebook import rules_parser
from ansible_rulebook.validators import Validate
from conftest import ENVIRONMENT, ROOT, load
from mlflow.webhooks.delivery import _generate_hmac_signature

unit = load(ROOT / "tests/unit/modules/conftest.py")
RULEBOOKS = ROOT / "extensions/eda/rulebooks"
TOKEN = "token-of-the-test-of-alertmanager"
SECRET = "secret of the test of webhooks"
TIMEOUT = 120
"""Seconds in which playbooks run, on a busy machine too."""
INSTANCE = {"mlflow_image_source": "build", "backup_type": "volume", "monitoring_type": "prometheus"}
PLAYBOOK = """
- name: Deploy the version
  hosts: all
  gather_facts: false
  tasks:
    - name: Record it
      ansible.builtin.lineinfile:
        path: {path}
        line: "{{{{ inventory_hostname }}}} {{{{ data.name }}}} {{{{ data.alias }}}} {{{{ data.version }}}}"
        insertafter: EOF
        create: true
        mode: "0600"
      vars:
        data: "{{{{ ansible_eda.event.webhook.data }}}}"
"""


def rules_of(name: str) -> list[dict]:
    """The rules of a rulebook, with lists of actions."""
    (ruleset,) = yaml.safe_load((RULEBOOKS / f"{name}.yml").read_text())
    return [{**{key: value for key, value in rule.items() if key != "action"},
             "actions": rule.get("actions") or [rule["action"]]} for rule in ruleset["rules"]]


@pytest.mark.parametrize("path", sorted(RULEBOOKS.iterdir()), ids=lambda path: path.stem)
def test_ansible_rulebook_takes_the_file(path):
    content = yaml.safe_load(path.read_text())
    Validate.rulebook(content)
    assert rules_parser.parse_rule_sets(content)


@pytest.mark.parametrize("name", ["alerts", "registry"])
def test_the_controller_does_the_same_at_the_same_times(name):
    here, there = rules_of(name), rules_of(f"{name}_controller")
    for one, other in zip(here, there, strict=True):
        assert len(one.pop("actions")) == len(other.pop("actions"))
        assert one == other


def test_each_action_is_a_playbook_that_exists():
    found = [action["run_playbook"]["name"] for rule in rules_of("alerts") for action in rule["actions"]]
    assert len(found) == 4
    for name in found:
        assert (ROOT / "playbooks" / f"{name.removeprefix('mlops.mlflow.')}.yml").is_file(), name


def test_alerts_that_a_rule_names_exist():
    names = rules.alert_names(rules.Settings("ml", "team-a", backups=True))
    named = {name for rule in rules_of("alerts") for name in re.findall('"(MLflow[A-Za-z]+)"', rule["condition"])}
    assert len(named) == 6 and named <= set(names)


def test_no_action_of_an_alert_loops():
    for rule in rules_of("alerts"):
        assert 'event.alert.status == "firing"' in rule["condition"], rule["name"]
        assert rule["throttle"]["group_by_attributes"] == ["event.meta.hosts"], rule["name"]


class Rulebook:
    """A rulebook that ansible-rulebook runs: what it prints, with the output of playbooks."""

    def __init__(self, inventory: pathlib.Path, name: str, variables: dict, **environment: str):
        folder = inventory.parent
        self.log, self.plays_log = folder / f"{name}.log", folder / "ansible.log"
        (folder / f"{name}.vars.yml").write_text(yaml.safe_dump(variables))
        command = ["ansible-rulebook", "--rulebook", f"mlops.mlflow.{name}", "--inventory", inventory, "--vars",
                   folder / f"{name}.vars.yml"]
        self.command = [str(part) for part in command]
        self.options = {"cwd": folder, "env": {**os.environ, **ENVIRONMENT, "ANSIBLE_HOME": str(folder / "ansible"),
                                               "ANSIBLE_LOG_PATH": str(self.plays_log), **environment}}

    @contextlib.contextmanager
    def running(self, port: int, address: str = "127.0.0.1") -> Iterator[Rulebook]:
        unit.program("java", package="default-jre-headless")
        with unit.running(self.command, lambda: socket.create_connection((address, port), timeout=1).close(), self.log,
                          **self.options):
            yield self

    @property
    def output(self) -> str:
        return self.log.read_text()

    @property
    def plays(self) -> str:
        """What playbooks print; ansible-rulebook prints that of failed ones twice."""
        return self.plays_log.read_text()

    def wait_for(self, *texts: str) -> None:
        wait(lambda: all(text in self.output for text in texts), lambda: self.output[-4000:])


def wait(condition: Callable[[], bool], explanation: Callable[[], object], seconds: float = TIMEOUT) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, explanation()
        time.sleep(0.2)


def host(name: str, **variables) -> str:
    given = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}", **variables}
    return f"{name} " + " ".join(f"{key}={json.dumps(value)}" for key, value in given.items()) + "\n"


@contextlib.contextmanager
def alertmanager_running(folder: pathlib.Path, webhook_url: str) -> Iterator[str]:
    """URL of an Alertmanager with the configuration of role monitoring, which sends again what fires every second."""
    receivers = alertmanager.Receivers(
        webhook_url=webhook_url, group_wait="1s", group_interval="1s", repeat_interval="1s",
        critical_repeat_interval="1s")
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(alertmanager.configuration(receivers)))
    port = unit.free_port()
    url = f"http://127.0.0.1:{port}"
    with unit.running([
            unit.program("prometheus-alertmanager", package="prometheus-alertmanager"),
            f"--config.file={folder}/alertmanager.yml", f"--storage.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address="],
            lambda: urllib.request.urlopen(f"{url}/-/ready", timeout=2).close(), folder / "alertmanager.log"):
        yield url


def fire(url: str, *names: str) -> None:
    """Alerts of the rules of an instance, as Prometheus sends them."""
    settings = rules.Settings("ml", "sound", backups=True, host="Team_A")
    found = [rule for rule in rules.alerts(settings) if rule["alert"] in names]
    assert {rule["alert"] for rule in found} == set(names)
    alerts = [{"labels": {"alertname": rule["alert"], **rule["labels"]}, "annotations": rule["annotations"]}
              for rule in found]
    requests.post(f"{url}/api/v2/alerts", json=alerts, timeout=30).raise_for_status()


def test_alerts_run_playbooks(tmp_path):
    port = unit.free_port()
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "hosts").write_text(host("Team_A", **INSTANCE, mlflow_instance="eda-platform")
                                    + host("other", **INSTANCE, mlflow_instance="eda-other"))
    rulebook = Rulebook(tmp_path / "hosts", "alerts", {
        "mlflow_events_alertmanager_port": port, "mlflow_events_alertmanager_token_file": str(tmp_path / "token"),
        "mlflow_events_logs_dir": str(tmp_path / "logs")})
    with rulebook.running(port):
        forged = {"alerts": [{"status": "firing", "labels": {"alertname": "MLflowServerDown", "instance_name": "other"},
                              "annotations": {}, "startsAt": "2026-11-28T06:00:00Z", "fingerprint": "f"}]}
        for headers in ({}, {"Authorization": "Bearer another-token-of-somebody"}):
            answer = requests.post(f"http://127.0.0.1:{port}/", json=forged, headers=headers, timeout=30)
            assert answer.status_code == 401
        with alertmanager_running(tmp_path, f"http://somebody:another-token@127.0.0.1:{port}/") as url:
            fire(url, "MLflowServerDown")
            log = tmp_path / "alertmanager.log"
            wait(lambda: "status code 401" in log.read_text(), log.read_text)
        with alertmanager_running(tmp_path, f"http://mlflow:{TOKEN}@127.0.0.1:{port}/") as url:
            fire(url, "MLflowServerDown", "MLflowBackupLate", "MLflowVolumeFilling", "MLflowReplicaDown")
            rulebook.wait_for("runs no pods of mlflow_server", "are not deployed; run playbooks/site.yml",
                              "has no programs for maintenance yet")
            time.sleep(3)  # Alertmanager sends again
    plays = re.findall(r"PLAY \[(.*?)\]", rulebook.plays)
    diagnosed = plays.index("Gather a support bundle")
    assert plays[diagnosed:diagnosed + 3] == ["Gather a support bundle", "Check the inventory", "Restart MLflow"]
    assert sorted(plays) == sorted(4 * ["Check the inventory"] + [
        "Gather a support bundle", "Restart MLflow", "Maintain MLflow", "Back up MLflow"])
    (bundle,) = (tmp_path / "logs").iterdir()
    assert bundle.name.startswith("eda-platform-eda-platform-")
    output = rulebook.output
    assert "[other]" not in output and output.count("the token is wrong or missing") >= 3
    assert TOKEN not in output


@pytest.fixture(name="mlflow_server", scope="module")
def fixture_mlflow_server(tmp_path_factory) -> Iterator[str]:
    """URL of an MLflow that may send webhooks to this machine."""
    with unit.mlflow_running(
            tmp_path_factory.mktemp("mlflow"), MLFLOW_WEBHOOK_ALLOWED_SCHEMES="http",
            MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS="true", MLFLOW_WEBHOOK_REQUEST_MAX_RETRIES="0",
            MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY="7KGBqXyZlBtPSUnYPqfLTTmVYpUdjFmVSY2kR0YBpTE=") as url:
        yield url


def test_webhooks_run_the_playbook(mlflow_server, tmp_path):
    port, record = unit.free_port(), tmp_path / "record"
    (tmp_path / "deploy.yml").write_text(PLAYBOOK.format(path=record))
    (tmp_path / "hosts").write_text(host("team-a") + host("other"))
    rulebook = Rulebook(tmp_path / "hosts", "registry", {
        "mlflow_events_webhook_port": port, "mlflow_events_playbook": str(tmp_path / "deploy.yml")},
        MLFLOW_EVENTS_WEBHOOK_SECRET=SECRET)

    def call(method: str, path: str, **body) -> dict:
        answer = requests.request(method, f"{mlflow_server}/api/2.0/mlflow/{path}", json=body, timeout=60)
        answer.raise_for_status()
        return answer.json()

    def set_alias(version: int, model: str = "fraud") -> None:
        call("POST", "registered-models/alias", name=model, alias="champion", version=str(version))

    def recorded() -> list[str]:
        return record.read_text().splitlines() if record.exists() else []

    events = [{"entity": "MODEL_VERSION_ALIAS", "action": action} for action in ("CREATED", "DELETED")]
    hooks = {}
    with rulebook.running(port):
        for name, secret in (("other", "another secret, long enough"), ("team-a", SECRET)):
            hooks[name] = call("POST", "webhooks", name=name, url=f"http://127.0.0.1:{port}/{name}", events=events,
                               secret=secret)["webhook"]["webhook_id"]
        call("POST", "registered-models/create", name="fraud")
        for _number in range(2):
            call("POST", "model-versions/create", name="fraud", source="s3://models/fraud")
        set_alias(1)
        wait(lambda: recorded() == ["team-a fraud champion 1"], lambda: (recorded(), rulebook.output[-4000:]))
        set_alias(1)  # is not moved
        call("DELETE", "registered-models/alias", name="fraud", alias="champion")
        stamp = str(int(time.time()))
        body = json.dumps({"entity": "model_version_alias", "action": "created", "timestamp": "2026-11-28T06:00:00",
                           "data": {"name": "fraud", "alias": "champion", "version": "7"}})
        replay = {"X-MLflow-Delivery-Id": "d-1", "X-MLflow-Timestamp": stamp, "Content-Type": "application/json",
                  "X-MLflow-Signature": _generate_hmac_signature("another secret, long enough", "d-1", stamp, body)}
        assert requests.post(f"http://127.0.0.1:{port}/team-a", body, headers=replay, timeout=30).status_code == 401
        test = call("POST", f"webhooks/{hooks['other']}/test")["result"]
        assert not test["success"] and test["response_status"] == 401, test
        set_alias(2)
        wait(lambda: len(recorded()) > 1, lambda: rulebook.output[-4000:])
        time.sleep(2)
    assert recorded() == ["team-a fraud champion 1", "team-a fraud champion 2"], rulebook.output
    assert rulebook.output.count("the signature is wrong or missing") >= 4
    assert SECRET not in rulebook.output


@pytest.mark.skipif(not os.environ.get("MLOPS_DEPLOY"), reason="MLOPS_DEPLOY=1 deploys an instance and takes minutes")
def test_a_server_that_hangs_is_restarted(tmp_path):
    """Its own Prometheus notices that it does not answer, and its Alertmanager tells the rulebook."""
    port, name, inventory = unit.free_port(), "eda-hangs", tmp_path / "hosts.yml"
    instance = {
        **INSTANCE, "ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}",
        "mlflow_instance": name, "database_type": "sqlite", "object_storage_type": "volume", "backup_type": "none",
        "mlflow_server_publish": f"127.0.0.1:{unit.free_port()}", "monitoring_interval": 5,
        "monitoring_alert_group_wait": "0s", "monitoring_alerts": {"MLflowServerDown": {"for": "10s"}}}

    def play(playbook: str, *arguments: str, **variables) -> str:
        inventory.write_text(yaml.safe_dump({"all": {"hosts": {"Hanging": {**instance, **variables}}}}))
        done = subprocess.run(["ansible-playbook", "-i", inventory, f"playbooks/{playbook}.yml", *arguments], cwd=ROOT,
                              env={**os.environ, **ENVIRONMENT}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def podman(*arguments: str) -> str:
        return subprocess.run(["podman", *arguments], capture_output=True, text=True, check=True).stdout

    try:
        play("site")  # makes the network, whose gateway is the address of this machine there
        gateway = json.loads(podman("network", "inspect", name))[0]["subnets"][0]["gateway"]
        play("site", monitoring_alert_webhook_url=f"http://mlflow:{TOKEN}@{gateway}:{port}/")
        rulebook = Rulebook(inventory, "alerts", {
            "mlflow_events_host": gateway, "mlflow_events_alertmanager_port": port,
            "mlflow_events_logs_dir": str(tmp_path / "logs")}, MLFLOW_EVENTS_ALERTMANAGER_TOKEN=TOKEN)
        with rulebook.running(port, gateway):
            (server,) = [found for found in podman("ps", "--format", "{{.Names}}").split()
                         if found.startswith(f"{name}-server") and found.endswith("-mlflow")]
            podman("kill", "--signal", "STOP", server)  # before the workers, which it would replace
            podman("exec", server, "sh", "-c", "kill -STOP -1")
            wait(lambda: rulebook.output.count("PLAY RECAP") == 2, lambda: rulebook.output[-4000:], 600)
        assert "failed=1" not in rulebook.plays and "changed: [Hanging]" in rulebook.plays, rulebook.output
        assert any((tmp_path / "logs").iterdir())
        # It works again, so that another alert would not restart it.
        assert "changed=0" in play("restart", "-e", "mlflow_restart_unhealthy_only=true")
    finally:
        play("uninstall", "-e", '{"mlflow_purge_data": true}')
