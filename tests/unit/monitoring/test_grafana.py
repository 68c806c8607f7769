# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the collection's own Grafana is provisioned with, and the dashboards as files.

No package of Grafana's server can be had here, so nothing of this runs in one: fields are held against those that
Grafana reads, and URLs and paths against the other objects.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess

import yaml
from ansible_collections.mlops.mlflow.plugins.plugin_utils.monitoring import dashboards
from test_component import exporters, files, probe, rendered

ROOT = pathlib.Path(__file__).parents[3]
DATASOURCE = {"orgId", "orgName", "version", "name", "type", "access", "url", "user", "database", "basicAuth",
              "basicAuthUser", "withCredentials", "isDefault", "correlations", "jsonData", "secureJsonData", "editable",
              "uid"}
"""Source: github.com/grafana/grafana, pkg/services/provisioning/datasources/types.go, upsertDataSourceFromConfigV1"""
PROVIDER = {"name", "type", "orgId", "folder", "folderUid", "editable", "options", "disableDeletion",
            "updateIntervalSeconds", "allowUiUpdates"}
"""Source: pkg/services/provisioning/dashboards/types.go, configs"""
SETTINGS = {"server": {"root_url"}, "log": {"mode"}, "dashboards": {"default_home_dashboard_path"},
            "users": {"allow_sign_up"},
            "analytics": {"reporting_enabled", "check_for_updates", "check_for_plugin_updates"},
            "news": {"news_feed_enabled"}, "plugins": {"preinstall_disabled", "public_key_retrieval_disabled"},
            "security": {"admin_user", "admin_password", "disable_gravatar"}, "snapshots": {"external_enabled"}}
"""Those of conf/defaults.ini that are used."""
ON = {"monitoring_grafana": True, "monitoring_grafana_publish": "127.0.0.1:3000", "monitoring_interval": 15}


def pod(objects: list[dict]) -> dict:
    (deployment,) = [obj for obj in objects if obj["kind"] == "Deployment"
                     and obj["metadata"]["name"] == "sound-monitoring-grafana"]
    return deployment["spec"]["template"]["spec"]


def test_off_by_default():
    assert not [obj for obj in rendered()[1] if "grafana" in obj["metadata"]["name"]]


def test_data_sources_are_the_own_services():
    _model, objects = rendered(**ON)
    given = yaml.safe_load(files(objects, "ConfigMap", "-grafana")["datasources.yaml"])
    assert set(given) == {"apiVersion", "datasources"} and given["apiVersion"] == 1
    services = {f"http://{obj['metadata']['name']}:{obj['spec']['ports'][0]['port']}" for obj in objects
                if obj["kind"] == "Service"}
    for source in given["datasources"]:
        assert set(source) <= DATASOURCE and source["url"] in services and source["access"] == "proxy"
    assert [source["type"] for source in given["datasources"] if source.get("isDefault")] == ["prometheus"]
    assert given["datasources"][0]["jsonData"]["timeInterval"] == "15s"


def test_dashboards_are_where_they_are_looked_for():
    _model, objects = rendered(**ON)
    given = yaml.safe_load(files(objects, "ConfigMap", "-grafana")["providers.yaml"])
    (provider,) = given["providers"]
    assert set(given) == {"apiVersion", "providers"} and set(provider) <= PROVIDER
    spec = pod(objects)
    (container,) = spec["containers"]
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    folder = volumes[mounts[provider["options"]["path"]]]
    assert folder["configMap"]["name"] == "sound-monitoring-grafana-dashboards"
    texts = files(objects, "ConfigMap", "-grafana-dashboards")
    assert {name: json.loads(text) for name, text in texts.items()} == {
        f"{name}.json": dashboard for name, dashboard in dashboards.dashboards().items()}
    assert sum(map(len, texts.values())) < 2**20, "a ConfigMap holds less than 1 MiB"
    environment = {entry["name"]: entry for entry in container["env"]}
    home = pathlib.PurePath(environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]["value"])
    assert str(home.parent) == provider["options"]["path"] and home.name in texts
    for kind, file in (("datasources", "datasources.yaml"), ("dashboards", "providers.yaml")):
        volume = volumes[mounts[f"/etc/grafana/provisioning/{kind}"]]
        assert [item["path"] for item in volume["configMap"]["items"]] == [file]


def test_settings_are_those_of_grafana():
    _model, objects = rendered(**ON)
    for entry in pod(objects)["containers"][0]["env"]:
        section, setting = re.fullmatch(r"GF_([A-Z]+)_(\w+)", entry["name"]).groups()
        assert setting.lower() in SETTINGS[section.lower()], entry["name"]
        assert ("valueFrom" in entry) is entry["name"].startswith("GF_SECURITY_ADMIN"), "a login outside of the Secret"
    (address,) = [entry["value"] for entry in pod(objects)["containers"][0]["env"]
                  if entry["name"] == "GF_SERVER_ROOT_URL"]
    assert address == "http://127.0.0.1:3000/"


def test_its_health_is_probed(tmp_path):
    """By the answers that Grafana's API documents, of a page that stands in for it."""
    (tmp_path / "api").mkdir()
    page = tmp_path / "api/health"
    port = exporters.unit.free_port()
    with exporters.unit.running(["python3", "-m", "http.server", port, "--bind", "127.0.0.1"],
                                exporters.unit.answers(port), tmp_path / "log", cwd=tmp_path):
        page.write_text('{"commit": "x", "database": "ok", "version": "12.1.1"}')
        assert probe._grafana(f"http://127.0.0.1:{port}") == "version 12.1.1"
        page.write_text('{"database": "failing"}')
        checks = probe_checks(f"http://127.0.0.1:{port}")
        assert "Grafana: the health of Grafana is" in checks["failures"][0]


def probe_checks(url: str) -> dict:
    from ansible_collections.mlops.mlflow.plugins.module_utils.checks import Checks

    checks = Checks()
    probe.probe(checks, {"metrics": {}, "grafana": url})
    return checks.report()


def test_the_playbook_writes_the_dashboards(tmp_path):
    command = ["ansible-playbook", "playbooks/dashboards.yml", "-e", f"mlflow_dashboards_dir={tmp_path}/made"]
    for changed in (True, False):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=dict(os.environ))
        assert done.returncode == 0, done.stdout + done.stderr
        assert ("changed=0" not in done.stdout) is changed
    assert made(tmp_path) == dashboards.dashboards()
    done = subprocess.run([*command, "-e", '{"mlflow_dashboards_exporters": ["mysql"]}'], cwd=ROOT, check=False)
    assert done.returncode == 0 and made(tmp_path) == dashboards.dashboards(["mysql"])
    done = subprocess.run([*command, "-e", '{"mlflow_dashboards_exporters": ["redis"]}'], cwd=ROOT, check=False,
                          capture_output=True, text=True)
    assert done.returncode and "'redis' is no standard exporter" in done.stdout


def made(folder: pathlib.Path) -> dict[str, dict]:
    return {path.stem: json.loads(path.read_text()) for path in (folder / "made").iterdir()}
