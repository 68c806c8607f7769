# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The fact mlflow_model has no secret."""

from __future__ import annotations

import json

import pytest
from ansible_collections.mlops.mlflow.plugins.action.validate import public
from ansible_collections.mlops.mlflow.plugins.plugin_utils import components
from model_tests import KEY, PEM, resolved

SECRET = "secret-word-123"
CASES = {
    "given": {"database_password": SECRET, "object_storage_access_key": SECRET, "object_storage_secret_key": SECRET},
    "external": {"database_host": "db", "database_password": SECRET, "object_storage_type": "s3",
                 "object_storage_access_key": SECRET, "object_storage_secret_key": SECRET},
    "gcs": {"object_storage_type": "gcs",
            "object_storage_gcs_credentials": json.dumps({"type": "service_account", "private_key": SECRET})},
    "azure-key": {"object_storage_type": "azure", "object_storage_azure_account": "account",
                  "object_storage_azure_access_key": SECRET},
    "azure": {"object_storage_type": "azure", "object_storage_azure_account": "account",
              "object_storage_azure_connection_string": f"AccountKey={SECRET}"},
    "oidc": {"mlflow_server_auth": "oidc", "mlflow_server_oidc_issuer": "https://i",
             "mlflow_server_oidc_client_id": "m",
             "mlflow_server_oidc_client_secret": SECRET, "mlflow_server_oidc_redirect_url": "https://m/oauth2/callback",
             "mlflow_server_auth_admin_password": SECRET},
    "environment": {"mlflow_server_extra_env": [{"name": "TOKEN", "value": SECRET}]},
    "patches": {"mlflow_server_patches": [{"target": {"kind": "ConfigMap"}, "patch": {"data": {"more": SECRET}}}],
                "mlflow_server_extra_objects": [{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "more"},
                                                 "stringData": {"token": SECRET}}]},
    "certificate": {"ingress_type": "proxy", "ingress_hosts": ["m.example.com"], "ingress_tls": "secret",
                    "ingress_tls_certificate": PEM, "ingress_tls_key": KEY.replace("MIIB", SECRET)},
    "alerts": {"monitoring_type": "prometheus", "monitoring_alert_webhook_url": f"https://hooks.example.com/{SECRET}",
               "monitoring_alert_slack_url": f"https://hooks.example.com/{SECRET}",
               "monitoring_alert_email_to": "a@example.com", "monitoring_alert_email_from": "b@example.com",
               "monitoring_alert_email_smarthost": "mail:25", "monitoring_alert_email_username": "ana",
               "monitoring_alert_email_password": SECRET},
    "alertmanager": {"monitoring_type": "prometheus", "monitoring_alertmanager_config": {
        "route": {"receiver": "all"},
        "receivers": [{"name": "all", "webhook_configs": [{"url": f"https://hooks.example.com/{SECRET}"}]}]}},
    "endpoint": {"mlflow_server_database": {"type": "postgresql", "uri": f"postgresql://u:{SECRET}@db/m",
                                            "replica_uri": f"postgresql://u:{SECRET}@replica/m"}},
}


@pytest.mark.parametrize("engine", ["podman", "kubernetes"])
@pytest.mark.parametrize("variables", CASES.values(), ids=CASES)
def test_the_fact_has_no_secret(variables, engine):
    shown = public(resolved({"mlflow_engine": engine, **variables}))
    assert {"instance", "images", *(component.role for component in components.COMPONENTS)} == set(shown)
    assert SECRET not in json.dumps(shown)


def test_an_endpoint_keeps_what_is_no_login():
    shown = public(resolved({"mlflow_server_database": {"type": "postgresql", "uri": f"postgresql://u:{SECRET}@db/m"}}))
    assert shown["mlflow_server"]["database"]["uri"] == "postgresql://db/m"
    azure = public(resolved({"object_storage_type": "azure", "object_storage_azure_account": "account"}))
    assert azure["object_storage"]["endpoint"]["uri"] == "wasbs://mlflow@account.blob.core.windows.net"
