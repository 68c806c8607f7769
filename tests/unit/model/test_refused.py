# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Malformed input: each is refused before anything is touched, in one sentence that names the variable.

The model is asked directly; test_playbook.py proves that the playbooks ask it.
"""

from __future__ import annotations

import pytest
from model_tests import refused

OIDC = {"mlflow_server_auth": "oidc", "mlflow_server_oidc_issuer": "https://i", "mlflow_server_oidc_client_id": "m",
        "mlflow_server_oidc_client_secret": "s", "mlflow_server_oidc_redirect_url": "https://m/x"}
INGRESS = {"ingress_type": "ingress", "ingress_hosts": ["a.test"]}
EMAIL = {"monitoring_type": "prometheus", "monitoring_alert_email_to": "a@b.test",
         "monitoring_alert_email_from": "c@b.test", "monitoring_alert_email_smarthost": "mail.b.test:587"}

CASES = {
    "sqlite-replicas": (
        {"database_type": "sqlite", "mlflow_server_replicas": 3},
        "mlflow_server_replicas is 3 while database_type is sqlite",
    ),
    "sqlite-host": (
        {"database_type": "sqlite", "database_host": "db"},
        "database_host is set while database_type is sqlite",
    ),
    "s3-no-bucket": ({"object_storage_type": "s3", "object_storage_bucket": ""}, "object_storage_bucket is empty"),
    "bucket-url": ({"object_storage_bucket": "s3://mlflow"}, "object_storage_bucket is 's3://mlflow'"),
    "unknown-type": ({"object_storage_type": "floppy"}, "object_storage_type must be one of"),
    "unknown-database": ({"database_type": "oracle"}, "database_type must be one of"),
    "unknown-engine": ({"mlflow_engine": "docker"}, "mlflow_engine must be one of"),
    "size": ({"database_size": "ten"}, "database_size is 'ten'"),
    "size-no-unit": ({"object_storage_size": "10"}, "object_storage_size is '10'"),
    "misspelt": (
        {"mlflow_server_replica": 2},
        "mlflow_server_replica is not a variable of this collection; use mlflow_server_replicas",
    ),
    "misspelt-storage": (
        {"object_storage_buckets": "x"},
        "object_storage_buckets is not a variable of this collection",
    ),
    "unknown-of-ours": ({"mlflow_server_magic": True}, "mlflow_server_magic is not a variable"),
    "no-number": ({"mlflow_server_replicas": "many"}, "mlflow_server_replicas"),
    "no-replica": ({"mlflow_server_replicas": 0}, "mlflow_server_replicas is 0; it must be at least 1"),
    "port-range": ({"database_port": 70000}, "database_port is 70000"),
    "privileged-port": ({"mlflow_server_port": 80}, "mlflow_server_port is 80"),
    "publish": ({"mlflow_server_publish": "5000"}, "mlflow_server_publish is '5000'"),
    "publish-port": ({"mlflow_server_publish": "127.0.0.1:99999"}, "mlflow_server_publish is '127.0.0.1:99999'"),
    "external-no-password": ({"database_host": "db.example.com"}, "database_password is empty while database_host"),
    "two-passwords": (
        {"database_host": "db", "database_password": "x", "database_existing_secret": "y"},
        "are both set",
    ),
    "host-with-port": ({"database_host": "db:5432", "database_password": "x"}, "database_host is 'db:5432'"),
    "half-a-key": (
        {"object_storage_type": "s3", "object_storage_access_key": "x"},
        "object_storage_secret_key is empty",
    ),
    "url-without-s3": (
        {"object_storage_url": "http://x"},
        "object_storage_url is set while object_storage_type is seaweedfs",
    ),
    "url-with-path": (
        {"object_storage_type": "s3", "object_storage_url": "http://x/y"},
        "object_storage_url is 'http://x/y'",
    ),
    "bucket-of-a-volume": (
        {"object_storage_type": "volume", "object_storage_bucket_versioning": False},
        "object_storage_bucket_versioning is set while object_storage_type is volume",
    ),
    "bucket-days": ({"object_storage_bucket_expire_days": -3}, "object_storage_bucket_expire_days is -3"),
    "bucket-encryption": (
        {"object_storage_bucket_encryption": "rot13"},
        "object_storage_bucket_encryption must be one of",
    ),
    "bucket-key": (
        {"object_storage_bucket_encryption": "AES256", "object_storage_bucket_kms_key": "k"},
        "object_storage_bucket_kms_key is set",
    ),
    "secret-for-seaweedfs": ({"object_storage_existing_secret": "x"}, "only s3, gcs, azure read it"),
    "claim-for-s3": ({"object_storage_type": "s3", "object_storage_existing_claim": "x"},
                     "only volume, seaweedfs, minio read it"),
    "volume-replicas": (
        {"object_storage_type": "volume", "mlflow_server_replicas": 2},
        "set object_storage_access_mode to ReadWriteMany",
    ),
    "volume-direct": (
        {"object_storage_type": "volume", "mlflow_server_artifacts": "direct"},
        "mlflow_server_artifacts is direct",
    ),
    "host-with-scheme": (
        {"mlflow_server_allowed_hosts": ["https://x"]},
        "mlflow_server_allowed_hosts holds 'https://x'",
    ),
    "own-argument": ({"mlflow_server_extra_args": ["--port=1"]}, "use mlflow_server_port for that"),
    "env-number": ({"mlflow_server_extra_env": [{"name": "A", "value": 1}]}, "put it in quotes"),
    "env-shape": ({"mlflow_server_extra_env": [{"nam": "A"}]}, "mlflow_server_extra_env[0] has the field nam"),
    "patch-shape": ({"mlflow_server_patches": [{"kind": "Deployment"}]}, "mlflow_server_patches[0] must hold exactly"),
    "quantity": (
        {"mlflow_server_resources": {"limits": {"memory": "4 GB"}}},
        "mlflow_server_resources.limits.memory is '4 GB'",
    ),
    "more-than-limit": (
        {"mlflow_server_resources": {"requests": {"memory": "64Gi"}}},
        "is more than mlflow_server_resources.limits.memory",
    ),
    "resource-part": ({"database_resources": {"limit": {}}}, "database_resources holds 'limit'"),
    "instance-name": ({"mlflow_instance": "My_Instance"}, "mlflow_instance is 'My_Instance'"),
    "namespace-name": ({"mlflow_namespace": "a.b"}, "mlflow_namespace is 'a.b'"),
    "version": ({"mlflow_version": "newest"}, "mlflow_version is 'newest'"),
    "unknown-size": ({"mlflow_server_size": "huge"}, "mlflow_server_size must be one of"),
    "sqlite-autoscaling": (
        {"database_type": "sqlite", "mlflow_server_autoscaling": True},
        "mlflow_server_autoscaling is True while database_type is sqlite",
    ),
    "sqlite-workspaces": (
        {"database_type": "sqlite", "mlflow_server_workspaces": True},
        "mlflow_server_workspaces is true while",
    ),
    "two-servers": (
        {
            "database_host": "db",
            "database_cloudsql_instance": "p:r:i",
            "database_password": "x",
            "mlflow_engine": "kubernetes",
        },
        "keep one",
    ),
    "cloudsql-name": (
        {"database_cloudsql_instance": "i", "database_password": "x", "mlflow_engine": "kubernetes"},
        "must be project:region:name",
    ),
    "cloudsql-podman": (
        {"database_cloudsql_instance": "p:r:i", "database_password": "x"},
        "while mlflow_engine is podman",
    ),
    "replica-of-ours": (
        {"database_read_replica_host": "db"},
        "database_read_replica_host is set while database_host is empty",
    ),
    "tls-of-ours": ({"database_tls": "require"}, "database_tls is set while database_host is empty"),
    "tls-mode": ({"database_tls": "maybe"}, "database_tls must be one of"),
    "mysql-verify": (
        {"database_type": "mysql", "database_host": "db", "database_password": "x", "database_tls": "verify-ca"},
        "without the certificates of a CA to verify with",
    ),
    "ca-unused": (
        {"database_host": "db", "database_password": "x", "database_ca": "-----BEGIN CERTIFICATE-----"},
        "does not verify anything",
    ),
    "ca-no-pem": (
        {"database_host": "db", "database_password": "x", "database_ca": "ca.pem", "database_tls": "verify-full"},
        "holds no certificate",
    ),
    "mysql-build": ({"database_type": "mysql", "mlflow_image_source": "build"}, "set database_type to mariadb"),
    "no-store": (
        {
            "database_host": "db",
            "mlflow_engine": "kubernetes",
            "database_external_secret": {"username": {"key": "a"}, "password": {"key": "b"}},
        },
        "mlflow_secret_store is empty",
    ),
    "no-operator": (
        {
            "database_host": "db",
            "mlflow_secret_store": {"name": "s"},
            "database_external_secret": {"username": {"key": "a"}, "password": {"key": "b"}},
        },
        "where no operator runs",
    ),
    "external-key": (
        {
            "database_host": "db",
            "mlflow_engine": "kubernetes",
            "mlflow_secret_store": {"name": "s"},
            "database_external_secret": {"username": {"key": "a"}},
        },
        "database_external_secret has no password",
    ),
    "external-remote": (
        {
            "database_host": "db",
            "mlflow_engine": "kubernetes",
            "mlflow_secret_store": {"name": "s"},
            "database_external_secret": {"username": {"key": "a"}, "password": "b"},
        },
        "database_external_secret.password has no key",
    ),
    "azure-account": ({"object_storage_type": "azure"}, "object_storage_azure_account is empty"),
    "azure-key-elsewhere": ({"object_storage_azure_access_key": "x"}, "only azure reads it"),
    "two-azure-keys": (
        {
            "object_storage_type": "azure",
            "object_storage_azure_account": "a",
            "object_storage_azure_access_key": "x",
            "object_storage_azure_connection_string": "y",
        },
        "are both set",
    ),
    "gcs-key": (
        {"object_storage_type": "gcs", "object_storage_gcs_credentials": "key.json"},
        "is no service account's key",
    ),
    "role-arn": ({"object_storage_type": "s3", "object_storage_iam_role_arn": "mlflow"}, "it must be a role's ARN"),
    "role-and-keys": (
        {
            "object_storage_type": "s3",
            "object_storage_iam_role_arn": "arn:aws:iam::111122223333:role/m",
            "object_storage_access_key": "x",
            "object_storage_secret_key": "y",
        },
        "are both set",
    ),
    "google-account": (
        {"object_storage_type": "gcs", "object_storage_gcp_service_account": "mlflow"},
        "must be the account's e-mail address",
    ),
    "ephemeral-replicas": (
        {"object_storage_type": "ephemeral", "mlflow_server_replicas": 2},
        "object_storage_type is ephemeral while there are several",
    ),
    "autoscaling-range": (
        {"mlflow_server_autoscaling": True, "mlflow_server_autoscaling_min": 5, "mlflow_server_autoscaling_max": 2},
        "not below the first",
    ),
    "autoscaling-by-nothing": (
        {"mlflow_server_autoscaling": True, "mlflow_server_autoscaling_cpu": 0, "mlflow_server_autoscaling_memory": 0},
        "are both 0",
    ),
    "service-name": ({"mlflow_server_service_name": "My.Service"}, "mlflow_server_service_name is 'My.Service'"),
    "root": ({"mlflow_server_user": 0}, "mlflow_server_user is 0; it must be the ID of a user other than root"),
    "sqlite-path": ({"database_sqlite_path": "/mlflow.db"}, "database_sqlite_path is '/mlflow.db'; it must"),
    "sqlite-path-above": ({"database_sqlite_users_path": "a/../b"}, "database_sqlite_users_path is 'a/../b'"),
    "sqlite-one-file": ({"database_sqlite_users_path": "mlflow.db"}, "users have a file of their own"),
    "prefix": ({"mlflow_server_path_prefix": "team/"}, "mlflow_server_path_prefix is 'team/'"),
    "schedule": ({"mlflow_server_gc_schedule": "daily"}, "must be cron's five fields"),
    "older-than": ({"mlflow_server_gc_older_than": "a month"}, "must be a span of time"),
    "archival-without-jobs": (
        {"mlflow_server_trace_archival": {"location": "s3://b/t", "retention": "30d"}},
        "a job does the archiving",
    ),
    "archival-shape": (
        {"mlflow_server_jobs": True, "mlflow_server_trace_archival": {"location": "s3://b/t"}},
        "mlflow_server_trace_archival has no retention",
    ),
    "rights-for-nobody": (
        {"mlflow_server_rbac_rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]},
        "rights that no pod could use",
    ),
    "unknown-auth": ({"mlflow_server_auth": "ldap"}, "mlflow_server_auth must be one of"),
    "password-without-auth": (
        {"mlflow_server_auth_admin_password": "long-enough-word"},
        "while mlflow_server_auth is none",
    ),
    "short-password": (
        {"mlflow_server_auth": "basic", "mlflow_server_auth_admin_password": "short"},
        "at least 12 characters",
    ),
    "admin-name": ({"mlflow_server_auth": "basic", "mlflow_server_auth_admin_user": "a:b"}, "without a colon"),
    "oidc-issuer": ({**OIDC, "mlflow_server_oidc_issuer": ""}, "mlflow_server_oidc_issuer is empty"),
    "oidc-secret": ({**OIDC, "mlflow_server_oidc_client_secret": ""}, "mlflow_server_oidc_client_secret is empty"),
    "oidc-redirect": ({**OIDC, "mlflow_server_oidc_redirect_url": "m"}, "mlflow_server_oidc_redirect_url is 'm'"),
    "oidc-ca": ({**OIDC, "mlflow_server_oidc_ca": "/etc/ca.pem"}, "mlflow_server_oidc_ca holds no certificate"),
    "oidc-issuer-url": (
        {**OIDC, "mlflow_server_oidc_issuer": "id.example.com"},
        "mlflow_server_oidc_issuer is 'id.example.com'; it must be a whole URL",
    ),
    "oidc-google": (
        {**OIDC, "mlflow_server_oidc_issuer": "https://accounts.google.com"},
        "would let in everybody who has a Google account",
    ),
    "oidc-nowhere": (
        {**OIDC, "mlflow_server_oidc_redirect_url": "/oauth2/callback"},
        "mlflow_server_oidc_redirect_url is '/oauth2/callback'",
    ),
    "users-in-mysql": (
        {"database_type": "mariadb", "mlflow_server_auth": "basic"},
        "in which MLflow cannot make the tables of its users",
    ),
    "direct-with-auth": (
        {"object_storage_type": "s3", "mlflow_server_auth": "basic", "mlflow_server_artifacts": "direct"},
        "would get round it",
    ),
    "list-expected": ({"mlflow_server_extra_env": "A=1"}, "mlflow_server_extra_env"),
    "ingress-no-host": ({"ingress_type": "ingress"}, "ingress_hosts is empty while ingress_type is ingress"),
    "ingress-unknown": ({"ingress_type": "tunnel"}, "ingress_type must be one of"),
    "ingress-host-url": ({"ingress_hosts": ["https://mlflow.test"]}, "ingress_hosts holds 'https://mlflow.test'"),
    "ingress-host-port": ({"ingress_hosts": ["mlflow.test:443"]}, "ingress_hosts holds 'mlflow.test:443'"),
    "ingress-host-star": ({"ingress_hosts": ["*.mlflow.test"]}, "ingress_hosts begins with '*.mlflow.test'"),
    "ingress-path-bare": ({"ingress_path": "team/ana"}, "ingress_path is 'team/ana'; it must begin with '/'"),
    "ingress-path-slash": ({"ingress_path": "/team/"}, "ingress_path is '/team/'"),
    "ingress-path-odd": ({"ingress_path": "/team/{ana}"}, "ingress_path is '/team/{ana}'"),
    "ingress-no-gateway": ({"ingress_type": "gateway", "ingress_hosts": ["a.test"]}, "ingress_gateway has no name"),
    "ingress-gateway-alone": ({"ingress_gateway": {"name": "x"}}, "ingress_gateway is set while ingress_type is none"),
    "ingress-gateway-key": ({"ingress_gateway": {"nme": "x"}}, "ingress_gateway"),
    "ingress-preset": (
        {
            "ingress_type": "gateway",
            "ingress_hosts": ["a.test"],
            "ingress_gateway": {"name": "x"},
            "ingress_preset": "nginx",
        },
        "ingress_preset is nginx while ingress_type is gateway",
    ),
    "ingress-preset-unknown": ({"ingress_preset": "apache"}, "ingress_preset must be one of"),
    "ingress-body": ({"ingress_max_body_size": "5 GB"}, "ingress_max_body_size is '5 GB'"),
    "ingress-body-alb": (
        {
            "ingress_type": "ingress",
            "ingress_hosts": ["a.test"],
            "ingress_preset": "alb",
            "ingress_max_body_size": "5Gi",
        },
        "ingress_max_body_size is 5Gi while ingress_type is ingress with ingress_preset alb",
    ),
    "ingress-annotation": ({"ingress_annotations": {"a.test/x": 1}}, "ingress_annotations: the value of a.test/x is 1"),
    "ingress-origin": ({"ingress_cors_origins": ["https://a.test/"]}, "ingress_cors_origins holds 'https://a.test/'"),
    "ingress-timeout": ({"ingress_timeout": 0}, "ingress_timeout is 0"),
    "ingress-replicas": ({"ingress_replicas": 0}, "ingress_replicas is 0"),
    "ingress-port": ({"ingress_service_port": 70000}, "ingress_service_port is 70000"),
    "ingress-publish": ({"ingress_publish": "8443"}, "ingress_publish is '8443'"),
    "ingress-connect": ({"ingress_connect": "somewhere"}, "ingress_connect is 'somewhere'"),
    "ingress-resources": (
        {"ingress_resources": {"limits": {"memory": "1 GB"}}},
        "ingress_resources.limits.memory is '1 GB'",
    ),
    "ingress-patch": ({"ingress_patches": [{"kind": "Ingress"}]}, "ingress_patches[0] must hold exactly"),
    "ingress-no-secret": (
        {**INGRESS, "ingress_tls": "secret"},
        "ingress_tls_secret is empty while ingress_tls is secret",
    ),
    "ingress-no-key": (
        {**INGRESS, "ingress_tls": "secret", "ingress_tls_certificate": "x"},
        "ingress_tls_key is empty",
    ),
    "ingress-two-certificates": (
        {**INGRESS, "ingress_tls": "secret", "ingress_tls_certificate": "x", "ingress_tls_key": "x",
         "ingress_tls_secret": "y"},
        "ingress_tls_certificate and ingress_tls_secret are both set",
    ),
    "ingress-certificate-alone": (
        {"ingress_tls_certificate": "x", "ingress_tls_key": "x"},
        "ingress_tls_certificate is set while ingress_tls is none",
    ),
    "ingress-ca-alone": ({"ingress_tls_ca": "x"}, "ingress_tls_ca is set while ingress_tls_certificate is empty"),
    "ingress-no-issuer": (
        {"ingress_type": "ingress", "ingress_hosts": ["a.test"], "ingress_tls": "cert_manager"},
        "ingress_issuer is empty",
    ),
    "ingress-tls-alone": ({"ingress_tls": "controller"}, "ingress_tls is controller while ingress_type is none"),
    "ingress-issuer-alone": ({"ingress_issuer": "x"}, "ingress_issuer is set while ingress_tls is none"),
    "ingress-proxy-cert-manager": (
        {"ingress_type": "proxy", "ingress_hosts": ["a.test"], "ingress_tls": "cert_manager", "ingress_issuer": "x"},
        "ingress_tls is cert_manager while ingress_type is proxy",
    ),
    "ingress-ingress-self-signed": (
        {"ingress_type": "ingress", "ingress_hosts": ["a.test"], "ingress_tls": "self_signed"},
        "ingress_tls is self_signed while ingress_type is ingress",
    ),
    "ingress-gateway-secret": (
        {
            "ingress_type": "gateway",
            "ingress_hosts": ["a.test"],
            "ingress_gateway": {"name": "x"},
            "ingress_tls": "secret",
            "ingress_tls_secret": "y",
        },
        "ingress_tls is secret while ingress_type is gateway",
    ),
    "ingress-misspelt": (
        {"ingress_host": ["a.test"]},
        "ingress_host is not a variable of this collection; use ingress_hosts",
    ),
    "instance-digit": ({"mlflow_instance": "1team"}, "mlflow_instance is '1team'; it must be a DNS label"),
    "instance-long": ({"mlflow_instance": "a" * 38}, "at most 37 lower-case letters"),
    "label-number": ({"mlflow_labels": {"cost-center": 1234}}, "mlflow_labels: the value of cost-center is 1234"),
    "label-value": ({"mlflow_labels": {"owner": "ana <a@b>"}}, "a label's value has at most 63 letters"),
    "node-selector": ({"mlflow_node_selector": {"gpu": True}}, "mlflow_node_selector: the value of gpu is True"),
    "secret-name": (
        {"database_host": "db", "database_existing_secret": "My Secret"},
        "database_existing_secret is 'My Secret'",
    ),
    "client-name": (
        {"mlflow_network_policy_clients": ["Ingress NGINX"]},
        "mlflow_network_policy_clients holds 'Ingress NGINX'",
    ),
    "client-network": (
        {"mlflow_network_policy_clients": ["10.0.0.1/16"]},
        "mlflow_network_policy_clients holds '10.0.0.1/16'",
    ),
    "database-name": ({"database_name": "ml flow"}, "database_name is 'ml flow'"),
    "driver-login": ({"database_host": "db", "database_password": "x", "database_driver": "pg8000"},
                     "database_driver is pg8000, which takes login and TLS otherwise than PostgreSQL's own client"),
    "driver-scheme": ({"database_driver": "postgresql+psycopg2"}, "database_driver is 'postgresql+psycopg2'"),
    "driver-of-others": (
        {"database_driver": "pymysql"},
        "it must be the name of a driver for postgresql alone, such as psycopg2",
    ),
    "driver-tls": (
        {
            "database_type": "mysql",
            "database_host": "db",
            "database_password": "x",
            "database_tls": "require",
            "database_driver": "mysqldb",
        },
        "database_tls is require while database_driver is mysqldb",
    ),
    "verify-by-nothing": (
        {"database_host": "db", "database_password": "x", "database_tls": "verify-full"},
        "without the certificates of a CA to verify with",
    ),
    "two-cas": (
        {
            "database_host": "db",
            "database_password": "x",
            "database_tls": "verify-full",
            "database_ca": "-----BEGIN CERTIFICATE-----",
            "database_ca_secret": "ca",
        },
        "database_ca and database_ca_secret are both set",
    ),
    "cloudsql-tls": (
        {
            "mlflow_engine": "kubernetes",
            "database_cloudsql_instance": "p:r:i",
            "database_password": "x",
            "database_tls": "require",
        },
        "its proxy encrypts by itself",
    ),
    "cloudsql-port": (
        {
            "mlflow_engine": "kubernetes",
            "database_cloudsql_instance": "p:r:i",
            "database_password": "x",
            "database_port": 5000,
        },
        "mlflow_server_port is 5000, which is also the port of database_port",
    ),
    "metrics-port": (
        {"mlflow_server_metrics": True, "mlflow_server_metrics_port": 5000},
        "mlflow_server_port is 5000, which is also the port of mlflow_server_metrics_port",
    ),
    "metrics-privileged-port": (
        {"mlflow_server_metrics": True, "mlflow_server_metrics_port": 80},
        "mlflow_server_metrics_port is 80",
    ),
    "metrics-container-port": (
        {
            "mlflow_server_metrics": True,
            "mlflow_server_extra_containers": [{"name": "a", "image": "b", "ports": [{"containerPort": 9500}]}],
        },
        "mlflow_server_extra_containers holds the port 9500",
    ),
    "metrics-of-gunicorn": (
        {"mlflow_server_metrics": True, "mlflow_server_extra_args": ["--gunicorn-opts=--timeout=60"]},
        "only the requests of uvicorn are counted",
    ),
    "access-log-of-waitress": (
        {"mlflow_server_access_log": "json", "mlflow_server_extra_args": ["--waitress-opts=--threads=9"]},
        "only the requests of uvicorn are counted",
    ),
    "access-log": ({"mlflow_server_access_log": "xml"}, "mlflow_server_access_log must be"),
    "oidc-port": (
        {
            "mlflow_server_port": 4180,
            "mlflow_server_auth": "oidc",
            "mlflow_server_oidc_client_id": "m",
            "mlflow_server_oidc_issuer": "https://i",
            "mlflow_server_oidc_client_secret": "s",
            "mlflow_server_oidc_redirect_url": "https://m/x",
        },
        "also the port of oauth2-proxy",
    ),
    "oidc-external": (
        {
            "mlflow_engine": "kubernetes",
            "mlflow_secret_store": {"name": "s"},
            "mlflow_server_auth": "oidc",
            "mlflow_server_oidc_client_id": "m",
            "mlflow_server_oidc_issuer": "https://i",
            "mlflow_server_oidc_redirect_url": "https://m/x",
            "mlflow_server_auth_external_secret": {key: {"key": "a"} for key in ("username", "password", "secret-key")},
        },
        "has no client-secret and no cookie-secret and no proxy-secret",
    ),
    "replica-url": (
        {"database_host": "db", "database_password": "x", "database_read_replica_host": "https://r"},
        "database_read_replica_host is 'https://r'",
    ),
    "pool": ({"database_pool_size": -1}, "database_pool_size is -1"),
    "pool-too-large": (
        {"database_max_connections": 200, "database_pool_size": 40},
        "database_max_connections is 200, while 2 workers in up to 2 pods (one more than usual during an update) need "
        "344 with database_pool_size 40; set database_pool_size to at most 22, or mlflow_server_workers to at most 1, "
        "or database_max_connections to at least 344.",
    ),
    "replica-limit-without-replica": (
        {"database_host": "db.example.com", "database_password": "x", "database_read_replica_max_connections": 100},
        "database_read_replica_max_connections is set while there is no read replica",
    ),
    "replica-limit-range": (
        {"database_host": "db.example.com", "database_password": "x", "database_read_replica_host": "r.example.com",
         "database_read_replica_max_connections": 100001},
        "database_read_replica_max_connections is 100001; it must be from 10 to 100000.",
    ),
    "workers-too-many": (
        {"database_max_connections": 100, "mlflow_server_workers": 4},
        "database_max_connections is 100, while 4 workers in up to 2 pods (one more than usual during an update) need "
        "112; set mlflow_server_workers to at most 3, or database_max_connections to at least 112.",
    ),
    "pool-below-threads": (
        {"database_pool_size": 4},
        "database_pool_size is 4 while 8 threads of each worker answer requests; set database_pool_size to at least "
        "8, or mlflow_server_threads to at most 4.",
    ),
    "threads-above-pool": (
        {"database_max_connections": 200, "mlflow_server_threads": 60},
        "mlflow_server_threads is 60 while database_max_connections is 200, which leaves 22 connections for each pool; "
        "set mlflow_server_threads to at most 22, or database_max_connections to at least 504.",
    ),
    "threads-range": ({"mlflow_server_threads": 101}, "mlflow_server_threads is 101; it must be at least 1 and at"),
    "threads-negative": ({"mlflow_server_threads": -1}, "mlflow_server_threads is -1; it must be at least 1 and at"),
    "unknown-hook": (
        {"mlflow_server_disabled_hooks": ["direct", "turbo"]},
        "mlflow_server_disabled_hooks holds 'turbo'; each must be one of nodelay, access_log, batch, ping, "
        "autocommit, messages, log_metrics, create_run, reads, direct, preload, transfers.",
    ),
    "store-twice": (
        {
            "database_host": "db",
            "mlflow_engine": "kubernetes",
            "mlflow_secret_store": {"kind": "ClusterSecretStore", "provider": {"aws": {}}},
            "database_external_secret": {"username": {"key": "a"}, "password": {"key": "b"}},
        },
        "mlflow_secret_store has a provider",
    ),
    "prefix-url": ({"object_storage_prefix": "s3://x/y"}, "object_storage_prefix is 's3://x/y'"),
    "azure-care": (
        {
            "object_storage_type": "azure",
            "object_storage_azure_account": "acct",
            "object_storage_bucket_versioning": True,
        },
        "which keeps it as a setting of the storage account",
    ),
    "azure-account-url": (
        {"object_storage_type": "azure", "object_storage_azure_account": "acct.blob"},
        "object_storage_azure_account is 'acct.blob'",
    ),
    "gcs-aws-kms": (
        {"object_storage_type": "gcs", "object_storage_bucket_encryption": "aws:kms"},
        "name a key of Cloud KMS",
    ),
    "secret-keys-of-others": (
        {
            "object_storage_type": "s3",
            "object_storage_existing_secret": "s",
            "object_storage_existing_secret_keys": {"credentials": "k"},
        },
        "object_storage_existing_secret_keys holds credentials",
    ),
    "role-for-nobody": (
        {
            "object_storage_type": "s3",
            "object_storage_iam_role_arn": "arn:aws:iam::111122223333:role/m",
            "mlflow_server_service_account": "mine",
        },
        "names a ServiceAccount that exists, which is left as it is",
    ),
    "volume-autoscaling": (
        {"object_storage_type": "volume", "mlflow_server_autoscaling": True},
        "or mlflow_server_autoscaling to false",
    ),
    "volume-gc": (
        {
            "object_storage_type": "volume",
            "object_storage_access_mode": "ReadWriteOncePod",
            "mlflow_server_gc_schedule": "0 3 * * 0",
        },
        "object_storage_access_mode is ReadWriteOncePod while mlflow_server_gc_schedule is set",
    ),
    "percentage": (
        {"mlflow_server_autoscaling": True, "mlflow_server_autoscaling_cpu": -70},
        "mlflow_server_autoscaling_cpu is -70",
    ),
    "behavior": (
        {"mlflow_server_autoscaling": True, "mlflow_server_autoscaling_behavior": {"scaledown": {}}},
        "has the field scaledown",
    ),
    "drain": ({"mlflow_server_drain_seconds": -5}, "mlflow_server_drain_seconds is -5"),
    "env-twice": (
        {"mlflow_server_extra_env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]},
        "mlflow_server_extra_env holds A twice",
    ),
    "volume-name": ({"mlflow_server_extra_volumes": [{"emptyDir": {}}]}, "mlflow_server_extra_volumes[0] has no name"),
    "mount-of-nothing": (
        {"mlflow_server_extra_volume_mounts": [{"name": "nowhere", "mountPath": "/x"}]},
        "the name of one of mlflow_server_extra_volumes",
    ),
    "schedule-range": ({"mlflow_server_gc_schedule": "61 3 * * 0"}, "mlflow_server_gc_schedule is '61 3 * * 0'"),
    "service-shut": (
        {"mlflow_engine": "kubernetes", "mlflow_network_policy": True, "mlflow_server_service_type": "LoadBalancer"},
        "mlflow_network_policy is true while mlflow_server_service_type is LoadBalancer",
    ),
    "ingress-host-twice": ({"ingress_hosts": ["a.test", "a.test"]}, "ingress_hosts holds 'a.test' twice"),
    "clients-text": (
        {"mlflow_network_policy_clients": "a.test"},
        "mlflow_network_policy_clients is 'a.test'; it must be a list",
    ),
    "ingress-text": ({"ingress_hosts": "a.test, a.test"}, "ingress_hosts holds 'a.test' twice"),
    "mapping-text": (
        {"object_storage_upload_args": "SSE"},
        "object_storage_upload_args is 'SSE'; it must be a mapping",
    ),
    "ingress-alb-secret": (
        {
            "ingress_type": "ingress",
            "ingress_hosts": ["a.test"],
            "ingress_preset": "alb",
            "ingress_tls": "secret",
            "ingress_tls_secret": "x",
        },
        "ingress_tls is secret while ingress_preset is alb",
    ),
    "ingress-shut": (
        {
            "mlflow_engine": "kubernetes",
            "ingress_type": "ingress",
            "ingress_hosts": ["a.test"],
            "mlflow_network_policy": True,
        },
        "mlflow_network_policy_clients is empty",
    ),
    "ingress-alb-shut": (
        {
            "mlflow_engine": "kubernetes",
            "ingress_type": "ingress",
            "ingress_hosts": ["a.test"],
            "ingress_preset": "alb",
            "mlflow_network_policy": True,
            "mlflow_network_policy_clients": ["kube-system"],
        },
        "whose load balancer is no pod",
    ),
    "ingress-gateway-tls": (
        {
            "ingress_type": "gateway",
            "ingress_hosts": ["a.test"],
            "ingress_gateway": {"name": "x"},
            "mlflow_server_tls_secret": "t",
        },
        "add a BackendTLSPolicy",
    ),
    "traefik-tls": (
        {
            "mlflow_engine": "kubernetes",
            "ingress_type": "ingress",
            "ingress_hosts": ["m.example.com"],
            "ingress_preset": "traefik",
            "mlflow_server_tls_secret": "tls",
        },
        "service.serversscheme: https to mlflow_server_service_annotations",
    ),
    "service-level-zero": (
        {"mlflow_service_level_api_p95": 0},
        "mlflow_service_level_api_p95 is 0; it must be at least 1 ms",
    ),
    "service-level-artifact": (
        {"mlflow_service_levels_artifact_size": 4096},
        "mlflow_service_levels_artifact_size is 4096; it must be at least 1 MiB, and at most 1024",
    ),
    "service-level-requests": (
        {"mlflow_service_levels_requests": 5},
        "mlflow_service_levels_requests is 5; it must be at least 20 requests",
    ),
    "service-levels-from-nowhere": ({"mlflow_service_levels_from": []}, "mlflow_service_levels_from is empty"),
    "service-levels-from-elsewhere": ({"mlflow_service_levels_from": ["moon"]}, "mlflow_service_levels_from"),
    "monitoring-off": (
        {"monitoring_alert_webhook_url": "https://hooks.test/x"},
        "monitoring_alert_webhook_url is set while monitoring_type is none",
    ),
    "monitoring-publish-off": (
        {"monitoring_type": "operator", "mlflow_engine": "kubernetes", "monitoring_publish": "127.0.0.1:9090"},
        "monitoring_publish is set while monitoring_type is operator",
    ),
    "monitoring-labels": (
        {"monitoring_type": "prometheus", "monitoring_labels": {"release": "x"}},
        "monitoring_labels is set while monitoring_type is prometheus",
    ),
    "monitoring-label": (
        {"mlflow_engine": "kubernetes", "monitoring_type": "operator", "monitoring_labels": {"release": "a b"}},
        "monitoring_labels: the value of release is 'a b'",
    ),
    "monitoring-exporters-off": (
        {"monitoring_exporters": ["node"]}, "monitoring_exporters is set while monitoring_type is none",
    ),
    "monitoring-exporters-of-a-file": (
        {"monitoring_type": "prometheus", "database_type": "sqlite", "monitoring_exporters": ["database"]},
        "monitoring_exporters holds database while the collection runs no database server",
    ),
    "monitoring-exporters-of-a-cluster": (
        {"monitoring_type": "prometheus", "mlflow_engine": "kubernetes", "monitoring_exporters": ["node"]},
        "monitoring_exporters holds node while mlflow_engine is kubernetes",
    ),
    "monitoring-exporters-image": (
        {"monitoring_type": "prometheus", "monitoring_exporters_images": {"postgres": "a"}},
        "monitoring_exporters_images has the key postgres",
    ),
    "monitoring-exporters-image-name": (
        {"monitoring_type": "prometheus", "monitoring_exporters_images": {"node": "a b"}},
        "monitoring_exporters_images.node is 'a b'",
    ),
    "monitoring-certificates": (
        {"monitoring_type": "prometheus", "monitoring_certificates": ["https://a.test"]},
        "monitoring_certificates holds",
    ),
    "monitoring-grafana-off": (
        {"monitoring_type": "prometheus", "monitoring_grafana_publish": "127.0.0.1:3000"},
        "monitoring_grafana_publish is set while monitoring_grafana is false",
    ),
    "monitoring-grafana-alone": (
        {"mlflow_engine": "kubernetes", "monitoring_type": "operator", "monitoring_grafana": True},
        "monitoring_grafana is set while monitoring_type is operator",
    ),
    "monitoring-grafana-built": (
        {"monitoring_type": "prometheus", "monitoring_grafana": True, "mlflow_image_source": "build"},
        "monitoring_grafana is true while mlflow_image_source is build, and Debian has no Grafana",
    ),
    "monitoring-grafana-image": (
        {"monitoring_type": "prometheus", "monitoring_grafana": True, "monitoring_grafana_image": "a b"},
        "monitoring_grafana_image",
    ),
    "monitoring-selector": (
        {"monitoring_type": "prometheus", "monitoring_grafana_selector": {"dashboards": "grafana"}},
        "monitoring_grafana_selector is set while monitoring_type is prometheus",
    ),
    "monitoring-selector-value": (
        {"mlflow_engine": "kubernetes", "monitoring_type": "operator", "monitoring_grafana_selector": {"a": "b c"}},
        "monitoring_grafana_selector: the value of a is 'b c'",
    ),
    "monitoring-on-podman": (
        {"monitoring_type": "operator"},
        "monitoring_type is operator while mlflow_engine is podman",
    ),
    "monitoring-clients": (
        {"mlflow_engine": "kubernetes", "mlflow_network_policy": True, "monitoring_type": "annotations"},
        "monitoring_clients is empty while mlflow_network_policy is true",
    ),
    "monitoring-login-off": (
        {"monitoring_database_existing_secret": "reader"},
        "monitoring_database_existing_secret is set while monitoring_type is none",
    ),
    "monitoring-login-of-a-file": (
        {"monitoring_type": "prometheus", "database_type": "sqlite", "monitoring_database_existing_secret": "reader"},
        "monitoring_database_existing_secret is set while the database is SQLite",
    ),
    "monitoring-login-keys": (
        {"monitoring_type": "prometheus", "monitoring_database_existing_secret_keys": {"user": "name"}},
        "monitoring_database_existing_secret_keys is set while monitoring_database_existing_secret is empty",
    ),
    "monitoring-login-name": (
        {"monitoring_type": "prometheus", "database_user": "mlflow_exporter"},
        "database_user is mlflow_exporter, which is the login of the monitoring",
    ),
    "monitoring-client": ({"monitoring_clients": ["a_b"]}, "monitoring_clients holds 'a_b'"),
    "monitoring-interval": ({"monitoring_interval": 300}, "monitoring_interval is 300"),
    "monitoring-retention": ({"monitoring_retention_days": 0}, "monitoring_retention_days is 0"),
    "monitoring-size": ({"monitoring_size": "ten"}, "monitoring_size is 'ten'"),
    "monitoring-small": ({"monitoring_size": "100Mi"}, "monitoring_size is 100Mi; it must be at least 1Gi"),
    **{f"monitoring-alertmanager-{name}": (
        {"monitoring_type": "prometheus", "monitoring_alertmanager_config": {
            "route": {"receiver": "a"}, "receivers": [{"name": "a", "webhook_configs": [{"url": "http://Sentinel"}]}],
            **changes}}, f"monitoring_alertmanager_config{sentence}")
       for name, changes, sentence in (
        ("key", {"rout": {}}, " has the key rout, which Alertmanager does not know; it may have global, route"),
        ("route", {"route": "a"}, ".route is no mapping"),
        ("root", {"route": {"routes": []}}, ".route has no receiver"),
        ("list", {"receivers": {"name": "a"}}, ".receivers is no list of mappings with a name each"),
        ("unknown", {"route": {"receiver": "b"}}, ": route.receiver names a receiver that receivers does not have"),
        ("below", {"route": {"receiver": "a", "routes": [{"routes": [{"receiver": "b"}]}]}},
         ": a route names a receiver that receivers does not have; it has a."))},
    "monitoring-certificate-port": (
        {"monitoring_type": "prometheus", "monitoring_certificates": ["a.test:443@10.0.0.1:99999"]},
        "monitoring_certificates holds",
    ),
    "monitoring-certificate-number": (
        {"monitoring_type": "prometheus", "monitoring_certificates": [443]}, "monitoring_certificates holds '443'",
    ),
    "monitoring-smarthost-port": (
        {**EMAIL, "monitoring_alert_email_smarthost": "mail.test:99999"},
        "monitoring_alert_email_smarthost is 'mail.test:99999'",
    ),
    "monitoring-secret-keys": (
        {"monitoring_type": "prometheus", "monitoring_database_existing_secret": "reader",
         "monitoring_database_existing_secret_keys": {"name": "x"}},
        "monitoring_database_existing_secret_keys has the key name; it may have user and password",
    ),
    "monitoring-image": ({"monitoring_prometheus_image": "a b"}, "monitoring_prometheus_image"),
    "monitoring-webhook": (
        {"monitoring_type": "prometheus", "monitoring_alert_webhook_url": "hooks.test"},
        "monitoring_alert_webhook_url is no URL",
    ),
    "monitoring-slack": (
        {"monitoring_type": "prometheus", "monitoring_alert_slack_channel": "#a"},
        "monitoring_alert_slack_channel is set while monitoring_alert_slack_url is empty",
    ),
    "monitoring-email-to": (
        {"monitoring_type": "prometheus", "monitoring_alert_email_from": "a@b.test"},
        "monitoring_alert_email_from is set while monitoring_alert_email_to is empty",
    ),
    "monitoring-email-from": (
        {**EMAIL, "monitoring_alert_email_from": "mlops"}, "monitoring_alert_email_from is 'mlops'"
    ),
    "monitoring-smarthost": (
        {**EMAIL, "monitoring_alert_email_smarthost": "mail.test"},
        "monitoring_alert_email_smarthost is 'mail.test'",
    ),
    "monitoring-email-login": (
        {**EMAIL, "monitoring_alert_email_username": "a"},
        "only one of monitoring_alert_email_username and monitoring_alert_email_password is set",
    ),
    "monitoring-two-configurations": (
        {
            "monitoring_type": "prometheus",
            "monitoring_alert_webhook_url": "https://hooks.test/x",
            "monitoring_alertmanager_config": {"route": {"receiver": "a"}, "receivers": [{"name": "a"}]},
        },
        "monitoring_alertmanager_config and monitoring_alert_webhook_url are both set",
    ),
    "monitoring-half-a-configuration": (
        {"monitoring_type": "prometheus", "monitoring_alertmanager_config": {"route": {"receiver": "a"}}},
        "monitoring_alertmanager_config has no receivers",
    ),
    "monitoring-publish": (
        {"monitoring_type": "prometheus", "monitoring_publish": "9090"},
        "monitoring_publish is '9090'",
    ),
    "monitoring-port-taken": (
        {
            "monitoring_type": "prometheus",
            "monitoring_publish": "0.0.0.0:5000",
            "mlflow_server_publish": "127.0.0.1:5000",
        },
        "monitoring_publish is 0.0.0.0:5000, whose port mlflow_server_publish takes",
    ),
    **{f"backup-{name}": ({"backup_type": "s3", **variables}, sentence) for name, variables, sentence in (
        ("off", {"backup_type": "none", "backup_bucket": "b"}, "backup_bucket is set while backup_type is none"),
        ("claim", {"backup_existing_claim": "c"}, "backup_existing_claim is set while backup_type is s3"),
        ("bucket", {"object_storage_type": "volume"}, "backup_bucket is empty while backup_type is s3"),
        ("bucket-name", {"backup_bucket": "s3://b/path"}, "without s3:// and without a path"),
        ("half-a-key", {"backup_access_key": "key"}, "only one of backup_access_key and backup_secret_key is set"),
        ("two-logins", {"backup_existing_secret": "s", "backup_access_key": "a", "backup_secret_key": "b"},
         "backup_existing_secret and backup_access_key are both set"),
        ("url", {"backup_url": "https://s3.example.com/bucket"}, "it must be the endpoint alone"),
        ("schedule", {"backup_schedule": "daily"}, "backup_schedule is 'daily'; it must be cron's five fields"),
        ("verify-schedule", {"backup_verify_schedule": "weekly"}, "backup_verify_schedule is 'weekly'"),
        ("never", {"backup_schedule": "0 2 30 2 *"}, "backup_schedule is '0 2 30 2 *', a day that no year has"),
        ("keep", {"backup_keep_days": 0}, "backup_keep_days is 0; it must be from 1"),
        ("lock", {"backup_object_lock_days": 31}, "what is locked cannot be removed, so raise backup_keep_days"),
        ("passphrase", {"backup_passphrase": "too short"}, "backup_passphrase is shorter than 12 characters"),
        ("prefix", {"backup_prefix": "../x"}, "backup_prefix is '../x'; it must be a path in the bucket"),
        ("ephemeral", {"backup_type": "volume", "object_storage_type": "ephemeral"},
         "object_storage_type is ephemeral while backup_type is set"),
        ("database-name", {"database_name": "d" * 60}, "must have at most 54 characters, since a restore appends"),
    )},
    **{f"monitoring-alerts-{name}": ({"monitoring_type": "prometheus", **variables}, sentence)
       for name, variables, sentence in (
        ("threshold-unknown", {"monitoring_alert_thresholds": {"latency": 2}},
         "monitoring_alert_thresholds has the key latency, which does not exist; use latency_seconds"),
        ("threshold-text", {"monitoring_alert_thresholds": {"latency_seconds": "2s"}},
         "monitoring_alert_thresholds.latency_seconds is '2s'; it must be a number"),
        ("percent", {"monitoring_alert_thresholds": {"error_ratio": 10}},
         "monitoring_alert_thresholds.error_ratio is 10; it must be a fraction between 0 and 1"),
        ("latency", {"monitoring_alert_thresholds": {"latency_seconds": 30}},
         "monitoring_alert_thresholds.latency_seconds is 30; it must be more than 0 and less than 30"),
        ("requests", {"monitoring_alert_thresholds": {"minimum_requests": -1}},
         "monitoring_alert_thresholds.minimum_requests is -1"),
        ("backup", {"monitoring_alert_thresholds": {"backup_late_factor": 1}},
         "monitoring_alert_thresholds.backup_late_factor is 1; it must be more than 1"),
        ("critical-first", {"monitoring_alert_thresholds": {"volume_ratio": 0.96}},
         "monitoring_alert_thresholds.volume_critical_ratio is 0.95 while volume_ratio is 0.96"),
        ("certificate", {"monitoring_alert_thresholds": {"certificate_days": 2}},
         "monitoring_alert_thresholds.certificate_critical_days is 3 while certificate_days is 2"),
        ("objective", {"monitoring_objectives": {"api_latency": 1}},
         "monitoring_objectives.api_latency is 1; it must be a fraction from 0.9 to below 1"),
        ("objective-low", {"monitoring_objectives": {"upload_speed": 0.5}},
         "monitoring_objectives.upload_speed is 0.5"),
        ("bucket", {"monitoring_objectives": {"api_seconds": 0.4}},
         "monitoring_objectives.api_seconds is 0.4; it must be a bucket of the histogram of durations: 0.005, 0.01"),
        ("speed", {"monitoring_objectives": {"upload_mb_per_second": 0}},
         "monitoring_objectives.upload_mb_per_second is 0; it must be more than 0"),
        ("unknown", {"monitoring_alerts": {"MLflowServerDwon": {"enabled": False}}},
         "monitoring_alerts has the key MLflowServerDwon, which is no alert of the collection; use MLflowServerDown"),
        ("no-mapping", {"monitoring_alerts": {"MLflowServerDown": False}},
         "monitoring_alerts.MLflowServerDown is no mapping; give one of enabled, for, keep_firing_for"),
        ("change", {"monitoring_alerts": {"MLflowServerDown": {"severity": "info"}}},
         "monitoring_alerts.MLflowServerDown has the key severity, which does not exist"),
        ("for", {"monitoring_alerts": {"MLflowServerDown": {"for": 5}}},
         "monitoring_alerts.MLflowServerDown.for must be a duration of Prometheus, such as 30s"),
        ("enabled", {"monitoring_alerts": {"MLflowServerDown": {"enabled": "maybe"}}},
         "monitoring_alerts.MLflowServerDown.enabled must be true or false"),
        ("group-wait", {"monitoring_alert_group_wait": "30"},
         "monitoring_alert_group_wait must be a duration of Prometheus, such as 30s"),
        ("repeat", {"monitoring_alert_repeat_interval": "0s"},
         "monitoring_alert_repeat_interval is 0s; it must be more than 0, since alerts are repeated by it"),
        ("rule-kind", {"monitoring_rules_extra": [{"expr": "up"}]},
         "monitoring_rules_extra[0] has neither alert nor record; give one of them"),
        ("rule-key", {"monitoring_rules_extra": [{"record": "a:b", "expr": "up", "for": "1m"}]},
         "monitoring_rules_extra[0] has the key for, which does not exist; it may have record, expr, labels"),
        ("rule-name", {"monitoring_rules_extra": [{"record": "a b", "expr": "up"}]},
         "monitoring_rules_extra[0].record must be a name of a metric"),
        ("rule-taken", {"monitoring_rules_extra": [{"alert": "MLflowServerDown", "expr": "up == 0"}]},
         "monitoring_rules_extra[0].alert is MLflowServerDown, an alert of the collection"),
        ("rule-metric", {"monitoring_rules_extra": [{"record": "up", "expr": "vector(1)"}]},
         "monitoring_rules_extra[0].record is up, a metric of the collection"),
        ("rule-empty", {"monitoring_rules_extra": [{"alert": "Mine"}]},
         "monitoring_rules_extra[0].expr must be an expression of PromQL"),
        ("rule-open", {"monitoring_rules_extra": [{"alert": "Mine", "expr": "sum(up{job='(}'}"}]},
         "monitoring_rules_extra[0].expr has an opening ( that is not closed"),
        ("rule-closed", {"monitoring_rules_extra": [{"alert": "Mine", "expr": "sum(up]"}]},
         "monitoring_rules_extra[0].expr has ']' without '[' before it"),
        ("rule-quote", {"monitoring_rules_extra": [{"alert": "Mine", "expr": 'up{job="x} == 0'}]},
         "monitoring_rules_extra[0].expr has an opening quote that is not closed"),
        ("rule-label", {"monitoring_rules_extra": [{"alert": "Mine", "expr": "up", "labels": {"a-b": "c"}}]},
         "monitoring_rules_extra[0].labels has the key 'a-b'"),
        ("rule-label-number", {"monitoring_rules_extra": [{"alert": "Mine", "expr": "up", "labels": {"level": 1}}]},
         "monitoring_rules_extra[0].labels.level is no text; put it in quotes"),
        ("rule-label-ours", {"monitoring_rules_extra": [{"alert": "Mine", "expr": "up", "labels": {"namespace": "x"}}]},
         "monitoring_rules_extra[0].labels has the key namespace, which the collection sets"),
        ("two-ports", {"monitoring_publish": "127.0.0.1:9090", "monitoring_alertmanager_publish": "0.0.0.0:9090"},
         "monitoring_alertmanager_publish is 0.0.0.0:9090, whose port monitoring_publish takes"),
        ("url", {"monitoring_alertmanager_url": "alerts.test"}, "monitoring_alertmanager_url is 'alerts.test'"),
        ("intervals-of-a-configuration", {
            "monitoring_alert_group_wait": "1s",
            "monitoring_alertmanager_config": {"route": {"receiver": "a"}, "receivers": [{"name": "a"}]}},
         "monitoring_alertmanager_config and monitoring_alert_group_wait are both set"),
    )},
    "monitoring-alerts-without-rules": (
        {"monitoring_alert_thresholds": {"error_ratio": 0.2}},
        "monitoring_alert_thresholds is set while monitoring_type is none, with which there are no rules",
    ),
    "monitoring-alertmanager-of-the-operator": (
        {"mlflow_engine": "kubernetes", "monitoring_type": "operator", "monitoring_alert_group_wait": "1m"},
        "monitoring_alert_group_wait is set while monitoring_type is operator",
    ),
    "no-patience": ({"mlflow_wait_timeout": 0}, "mlflow_wait_timeout is 0; it must be at least 1 second"),
    "ingress-no-pem": (
        {
            "ingress_type": "proxy",
            "ingress_hosts": ["a.test"],
            "ingress_tls": "secret",
            "ingress_tls_certificate": "cert.pem",
            "ingress_tls_key": "-----BEGIN PRIVATE KEY-----",
        },
        "ingress_tls_certificate holds no certificate",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_refused_in_one_sentence(case):
    variables, expected = CASES[case]
    sentences = refused(variables)
    assert len(sentences) == 1, sentences
    assert expected in sentences[0]
