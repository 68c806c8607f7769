# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a Grafana is provisioned with.

Source: https://grafana.com/docs/grafana/latest/administration/provisioning/ and
https://grafana.com/docs/grafana/latest/setup-grafana/configure-grafana/
"""

from __future__ import annotations

from typing import Any

from ansible_collections.mlops.mlflow.plugins.plugin_utils.monitoring.dashboards import FOLDER

DASHBOARDS = "/etc/grafana-dashboards"
"""Folder of the dashboards in the pod."""
HOME = f"{DASHBOARDS}/mlflow-server.json"


def datasources(prometheus: str, alertmanager: str, interval: int) -> dict[str, Any]:
    """Content of a file in provisioning/datasources.

    Args:
        prometheus, alertmanager: their URLs.
        interval: seconds between two scrapes; Grafana's windows of rates follow from it.
    """
    own = {"access": "proxy", "editable": False}
    return {"apiVersion": 1, "datasources": [
        {"name": "Prometheus", "uid": "prometheus", "type": "prometheus", "url": prometheus, "isDefault": True, **own,
         "jsonData": {"timeInterval": f"{interval}s", "httpMethod": "POST"}},
        {"name": "Alertmanager", "uid": "alertmanager", "type": "alertmanager", "url": alertmanager, **own,
         "jsonData": {"implementation": "prometheus", "handleGrafanaManagedAlerts": False}}]}


def providers() -> dict[str, Any]:
    """Content of a file in provisioning/dashboards."""
    return {"apiVersion": 1, "providers": [
        {"name": "mlflow", "type": "file", "folder": FOLDER, "disableDeletion": True, "allowUiUpdates": False,
         "options": {"path": DASHBOARDS}}]}


def environment(url: str) -> dict[str, str]:
    """Settings of grafana.ini, as variables.

    Args:
        url: by which users reach it, or empty.
    """
    address = {"GF_SERVER_ROOT_URL": url} if url else {}
    return {
        **address,
        "GF_LOG_MODE": "console",
        "GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH": HOME,
        "GF_USERS_ALLOW_SIGN_UP": "false",
        # Nothing of it connects to the internet.
        "GF_ANALYTICS_REPORTING_ENABLED": "false",
        "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
        "GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES": "false",
        "GF_NEWS_NEWS_FEED_ENABLED": "false",
        "GF_PLUGINS_PREINSTALL_DISABLED": "true",
        "GF_PLUGINS_PUBLIC_KEY_RETRIEVAL_DISABLED": "true",
        "GF_SECURITY_DISABLE_GRAVATAR": "true",
        "GF_SNAPSHOTS_EXTERNAL_ENABLED": "false",
    }
