# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Malformed input by class: each class is refused at one place of the model, for every variable of its kind."""

from __future__ import annotations

import pathlib
import sys

import pytest
import yaml
from model_tests import KEY, PEM, refused, resolved

K8S = {"mlflow_engine": "kubernetes"}
INGRESS = {**K8S, "ingress_type": "ingress", "ingress_hosts": ["mlflow.example.com"]}
S3 = {"object_storage_type": "s3"}
OIDC = {"mlflow_server_auth": "oidc", "mlflow_server_oidc_issuer": "https://id.example.com",
        "mlflow_server_oidc_client_id": "mlflow",
        "mlflow_server_oidc_client_secret": "a-secret",
        "mlflow_server_oidc_redirect_url": "https://mlflow.example.com/oauth2/callback"}
DB = {"database_host": "db.example.com", "database_password": "a-password"}
TOLERATIONS, VOLUMES, MOUNTS = "mlflow_tolerations", "mlflow_server_extra_volumes", "mlflow_server_extra_volume_mounts"
ENV, ENV_FROM, AFFINITY = "mlflow_server_extra_env", "mlflow_server_extra_env_from", "mlflow_server_affinity"
CONTAINERS, EGRESS, RULES = "mlflow_server_extra_containers", "mlflow_network_policy_egress", "mlflow_server_rbac_rules"
OBJECTS, PATCHES, ARGS = "mlflow_server_extra_objects", "mlflow_server_patches", "mlflow_server_extra_args"

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def limits(**figures):
    return {"mlflow_server_resources": {"limits": figures}}


CASES = {
    "null": [
        ({"database_type": None}, "database_type is null"),
        ({"mlflow_server_replicas": None}, "mlflow_server_replicas is null"),
        ({"mlflow_labels": None}, "mlflow_labels is null"),
        ({"ingress_hosts": None}, "ingress_hosts is null"),
        ({"mlflow_server_jobs": None}, "mlflow_server_jobs is null"),
        ({"database_password": None}, "database_password is null"),
        ({"ingress_hosts": [None]}, "ingress_hosts[0] is null"),
        ({ENV: [None]}, f"{ENV}[0] is null"),
        ({"mlflow_labels": {"team": None}}, "the value of team is null; give text"),
        ({"database_existing_secret_keys": {"user": None}}, "database_existing_secret_keys.user is null"),
        ({"database_resources": {"limits": {"memory": None}}}, "database_resources.limits.memory is None"),
        ({TOLERATIONS: [{"key": None}]}, f"{TOLERATIONS}[0] has no key"),
    ],
    "another type": [
        ({"ingress_hosts": [True]}, "ingress_hosts[0] is true"),
        ({"ingress_hosts": [["a.test"]]}, "ingress_hosts[0] is a list"),
        ({"ingress_hosts": [{"host": "a.test"}]}, "ingress_hosts[0] is a mapping"),
        ({ENV: ["A=1"]}, f"{ENV}[0] is text; it must be a mapping"),
        ({ENV: {"A": "1"}}, f"{ENV} is a mapping; it must be a list"),
        ({ENV: "A=secret-word"}, f"{ENV} is text"),
        ({"mlflow_labels": ["team"]}, "mlflow_labels is a list"),
        ({"mlflow_labels": {1: "x"}}, "keys must be text"),
        ({"mlflow_server_replicas": 1.5}, "mlflow_server_replicas is 1.5"),
        ({"mlflow_server_replicas": True}, "mlflow_server_replicas is true"),
        ({"mlflow_server_replicas": [2]}, "mlflow_server_replicas is a list"),
        ({"database_user": True}, "database_user is true; it must be text, in quotes"),
        ({"database_name": ["mlflow"]}, "database_name is a list"),
        ({"mlflow_server_jobs": "yes please"}, "mlflow_server_jobs is 'yes please'; it must be true or false"),
        ({"mlflow_server_jobs": 2}, "mlflow_server_jobs is 2"),
        ({"mlflow_network_policy": {}}, "mlflow_network_policy is an empty mapping"),
        ({"mlflow_server_port": "5000/tcp"}, "mlflow_server_port is '5000/tcp'"),
        ({"ingress_gateway": "gw"}, "ingress_gateway is 'gw'"),
        ({"mlflow_node_selector": {"disk": ["ssd"]}}, "the value of disk is ['ssd']"),
        ({"mlflow_server_pod_annotations": {"example.com/x": 1}}, "the value of example.com/x is 1"),
        ({"mlflow_server_service_annotations": {"example.com/x": True}}, "the value of example.com/x is True"),
        ({OBJECTS: [["x"]]}, f"{OBJECTS}[0] is a list"),
        ({PATCHES: {"target": {}}}, f"{PATCHES} is a mapping"),
    ],
    "numbers": [
        ({"database_max_connections": 2**31}, "database_max_connections is 2147483648"),
        ({"ingress_timeout": "99999999999"}, "ingress_timeout"),
        ({"mlflow_wait_timeout": -1}, "mlflow_wait_timeout is -1"),
        ({"mlflow_server_drain_seconds": 10**6}, "mlflow_server_drain_seconds is"),
        ({"mlflow_server_auth_cache_seconds": -1}, "mlflow_server_auth_cache_seconds is -1"),
        ({"database_port": 0}, "database_port is 0"),
    ],
    "line breaks": [
        ({"database_password": "secret-word\n"}, "database_password holds a line break"),
        (
            {"object_storage_access_key": "k", "object_storage_secret_key": "secret-word\r"},
            "object_storage_secret_key holds a line break",
        ),
        (
            {**OIDC, "mlflow_server_oidc_client_secret": "secret-word\n"},
            "mlflow_server_oidc_client_secret holds a line break",
        ),
        ({"mlflow_instance": "team\n"}, "mlflow_instance holds a line break"),
        ({"database_size": "8Gi\n"}, "database_size holds a line break"),
        ({"ingress_path": "/team\n"}, "ingress_path holds a line break"),
        ({"ingress_hosts": ["a.test\n"]}, "ingress_hosts[0] holds a line break"),
        (limits(memory="2Gi\n"), "mlflow_server_resources.limits.memory"),
        ({"mlflow_labels": {"team": "x\n"}}, "the value of team"),
        ({"mlflow_labels": {"team\n": "x"}}, "mlflow_labels has the key"),
        ({"database_user": "a\tb"}, "database_user holds a control character"),
        ({"mlflow_server_publish": "127.0.0.1:5000\n"}, "mlflow_server_publish holds a line break"),
        (
            {"database_existing_secret_keys": {"user": "a\n"}, **DB},
            "database_existing_secret_keys.user holds a line break",
        ),
    ],
    "blanks and look-alikes": [
        ({"database_host": " db", "database_password": "x"}, "database_host begins or ends with a blank"),
        ({"mlflow_namespace": "team "}, "mlflow_namespace begins or ends with a blank"),
        ({"object_storage_bucket": "ml\u200bflow"}, "object_storage_bucket holds the character U+200B"),
        ({"mlflow_instance": "t\u0435am"}, "mlflow_instance is"),
        ({"database_size": "8\u00a0Gi"}, "U+00A0"),
        ({"ingress_hosts": ["mlfl\u043ew.example.com"], "ingress_type": "proxy"}, "ingress_hosts holds"),
        ({"mlflow_server_gc_older_than": "\u0663\u0660d"}, "mlflow_server_gc_older_than is"),
        ({"ingress_hosts": [""]}, "ingress_hosts[0] is empty"),
        ({**INGRESS, "ingress_hosts": ["Mlflow.Example.com"]}, "ingress_hosts holds"),
    ],
    "quantities": [
        (limits(memory="1500m"), "which is a fraction"),
        (limits(memory="500000000u"), "which is a fraction"),
        (limits(memory="1e9"), "a number with an exponent"),
        (limits(cpu="1E3"), "exponent"),
        (limits(memory="-2Gi"), "it must be a Kubernetes quantity"),
        (limits(cpu="-1"), "it must be a Kubernetes quantity"),
        (limits(memory="2gb"), "it must be a Kubernetes quantity"),
        (limits(memory="2 Gi"), "it must be a Kubernetes quantity"),
        (limits(memory=2), "less than 4 MiB"),
        (limits(memory="1Ei"), "more than 1 PiB"),
        (limits(cpu="2Gi"), "it must be a number of cores"),
        (limits(cpu="0"), "quantity"),
        (limits(cpu=True), "quantity"),
        (limits(ram="2Gi"), "is no resource of a container"),
        (limits(**{"nvidia.com/gpu": "0.5"}), "whole number of devices"),
        ({"mlflow_server_resources": {"limits": []}}, "it must be a mapping"),
        ({"mlflow_server_resources": {"claims": "x"}}, "mlflow_server_resources.claims is text"),
        (limits(memory={"max": "2Gi"}), "is a mapping"),
        ({"mlflow_server_resources": {"limits": "2Gi"}}, "it must be a mapping"),
        ({"mlflow_server_resources": {"memory": "2Gi"}}, "holds 'memory'"),
        ({"database_size": "0"}, "database_size is '0'"),
        ({"database_size": "8589934592000m"}, "database_size is"),
        ({"database_size": "-8Gi"}, "database_size is"),
        ({"object_storage_size": "10 Gi"}, "object_storage_size is"),
        ({"object_storage_size": "10GB"}, "object_storage_size is"),
        ({"ingress_max_body_size": "1.5Gi"}, "ingress_max_body_size is"),
        ({"ingress_max_body_size": "-1"}, "ingress_max_body_size is"),
    ],
    "cron": [
        ({"mlflow_server_gc_schedule": text}, "mlflow_server_gc_schedule")
        for text in (
            "0 3 * * 7",
            "0 3 * * sunday",
            "5-1 * * * *",
            "*/0 * * * *",
            "0 3 * *",
            "0 0 3 * * *",
            "@reboot",
            "@every day",
            "TZ=UTC 0 3 * * *",
            "CRON_TZ=Europe/Berlin 0 3 * * *",
            "0 24 * * *",
            "0 3 0 * *",
            "0 3 * 13 *",
            "0 3 L * *",
            "0 3 * * 1#2",
            "0 3 ? * mon-",
            "1-2-3 * * * *",
            "0 3 * * *,",
            "\u0660 3 * * *",
            "a b c d e",
        )
    ],
    "spans": (
        [
            ({"mlflow_server_gc_older_than": text}, "mlflow_server_gc_older_than")
            for text in ("30 days", "30", "1d 2h", "2h1d", "1d1d", "-1d", "d", "1w", "1.d")
        ]
        + [
            (
                {
                    "mlflow_server_jobs": True,
                    "mlflow_server_trace_archival": {"location": "s3://b/t", "retention": "30 days"},
                },
                "retention is",
            ),
            (
                {"mlflow_server_jobs": True, "mlflow_server_trace_archival": {"location": "s3://b/t", "retention": 30}},
                "retention is",
            ),
            (
                {
                    "mlflow_server_jobs": True,
                    "mlflow_server_trace_archival": {"location": "bucket", "retention": "30d"},
                },
                "location is no URI",
            ),
            (
                {**K8S, "mlflow_secret_store": {"name": "s", "refresh_interval": "1 hour"}},
                "mlflow_secret_store.refresh_interval",
            ),
            (
                {**K8S, "mlflow_secret_store": {"name": "s", "refresh_interval": "1d"}},
                "mlflow_secret_store.refresh_interval",
            ),
        ]
    ),
    "wrong names": [
        ({"mlflow_database_type": "sqlite"}, "use database_type"),
        ({"database_typ": "sqlite"}, "use database_type"),
        ({"mlflow_server_database_host": "db"}, "use database_host"),
        ({"mlflow_ingress_hosts": []}, "use ingress_hosts"),
        ({"mlflow_object_storage_bucket": "b"}, "use object_storage_bucket"),
        ({"objectstorage_type": "s3"}, "use object_storage_type"),
        ({"mlflow_storage_bucket": "b"}, "use object_storage_bucket"),
        ({"mlfow_version": "3.17.2"}, "use mlflow_version"),
        ({"MLFLOW_VERSION": "3.17.2"}, "use mlflow_version"),
        ({"mlflow-version": "3.17.2"}, "use mlflow_version"),
        ({"databse_type": "sqlite"}, "use database_type"),
        ({"ingres_hosts": []}, "use ingress_hosts"),
        ({"mlflow_ingress_host": []}, "use ingress_hosts"),
        (
            {"database": {"type": "sqlite"}},
            "database is a mapping, and the variables of this collection are not nested; write database_type",
        ),
        ({"mlflow": {"database": {"type": "sqlite"}}}, "write database_type"),
        ({"mlflow": {"version": "3.17.2"}}, "write mlflow_version"),
        ({"mlflow_server": {"replicas": 2}}, "write mlflow_server_replicas"),
        ({"object_storage": {"bucket": "b"}}, "write object_storage_bucket"),
        ({"ingress": {"hosts": []}}, "write ingress_hosts"),
        ({"mlflow_server": {"magic": 1}}, "mlflow_server is a mapping"),
    ],
    "ingress": [
        ({"ingress_tls_secret": "tls"}, "ingress_tls_secret is set while ingress_type is none"),
        ({**INGRESS, "ingress_tls_secret": "tls"}, "ingress_tls_secret is set while ingress_tls is none"),
        ({"ingress_hosts": ["mlflow.example.com"]}, "ingress_hosts is set while ingress_type is none"),
        (
            {**INGRESS, "ingress_path": "/a", "mlflow_server_path_prefix": "/b"},
            "mlflow_server_path_prefix is '/b' while ingress_path is '/a'",
        ),
        ({**INGRESS, "ingress_path": "/a", "mlflow_server_path_prefix": ""}, "mlflow_server_path_prefix is ''"),
        (
            {"ingress_type": "proxy", "ingress_hosts": ["a.test"], "mlflow_server_publish": "0.0.0.0:8443"},
            "takes on the same machine",
        ),
        ({"ingress_type": "proxy", "ingress_hosts": ["a.test"], "ingress_connect": "a:99999"}, "ingress_connect is"),
        (
            {**K8S, "ingress_type": "gateway", "ingress_hosts": ["a.test"], "ingress_gateway": {"name": "My Gateway"}},
            "ingress_gateway.name",
        ),
        (
            {
                **K8S,
                "ingress_type": "gateway",
                "ingress_hosts": ["a.test"],
                "ingress_gateway": {"name": "g", "namespace": "a.b"},
            },
            "ingress_gateway.namespace",
        ),
        ({**INGRESS, "ingress_hosts": [f"{'a' * 64}.test"]}, "ingress_hosts holds"),
        ({**INGRESS, "ingress_hosts": ["10.0.0.1:80"]}, "ingress_hosts holds"),
        ({**INGRESS, "ingress_hosts": ["a..test"]}, "ingress_hosts holds"),
        ({**INGRESS, "ingress_hosts": ["a_b.test"]}, "ingress_hosts holds"),
        ({**INGRESS, "ingress_hosts": ["a.test", "a.test"]}, "ingress_hosts holds 'a.test' twice"),
        ({**INGRESS, "ingress_cors_origins": ["https://u:secret-word@a.test"]}, "ingress_cors_origins holds"),
        ({**INGRESS, "ingress_cors_origins": ["https://*.a.test"]}, "ingress_cors_origins holds"),
        ({**INGRESS, "ingress_cors_origins": ["https://a.test:99999"]}, "ingress_cors_origins holds"),
        ({**INGRESS, "mlflow_server_auth": "basic", "ingress_cors_origins": ["*"]}, "ingress_cors_origins holds '*'"),
    ],
    "what an image refuses": [
        ({"database_type": "mysql", "database_user": "root"}, "database_user is 'root'"),
        ({"database_type": "mariadb", "database_user": "root"}, "database_user is 'root'"),
        ({"object_storage_type": "minio", "object_storage_access_key": "mlflow", "object_storage_secret_key": "short"},
         "shorter than MinIO takes"),
    ],
    "what podman cannot do": [
        ({"mlflow_server_kaiwo": True}, "no Kaiwo operator runs"),
        ({**DB, "database_host": "localhost"}, "database_host names localhost, which is the pod itself"),
        ({**DB, "database_host": "127.0.1.1"}, "database_host names 127.0.1.1, which is the pod itself"),
        ({**S3, "object_storage_url": "http://localhost:9000"}, "object_storage_url names localhost"),
        ({**INGRESS, "mlflow_engine": "podman"}, "set ingress_type to proxy"),
        ({**S3, "object_storage_iam_role_arn": "arn:aws:iam::111122223333:role/m"}, "no identity that a cloud knows"),
        (
            {"object_storage_type": "gcs", "object_storage_gcp_service_account": "m@p.iam.gserviceaccount.com"},
            "no identity that a cloud knows",
        ),
        (
            {
                "object_storage_type": "azure",
                "object_storage_azure_account": "acct",
                "object_storage_azure_client_id": "00000000-0000-0000-0000-000000000000",
            },
            "no identity that a cloud knows",
        ),
        (
            {
                **S3,
                "mlflow_secret_store": {"name": "s"},
                "object_storage_external_secret": {
                    "AWS_ACCESS_KEY_ID": {"key": "a"},
                    "AWS_SECRET_ACCESS_KEY": {"key": "b"},
                },
            },
            "no operator runs",
        ),
        (
            {
                "mlflow_server_auth": "basic",
                "mlflow_secret_store": {"name": "s"},
                "mlflow_server_auth_external_secret": {
                    key: {"key": "a"} for key in ("username", "password", "secret-key")
                },
            },
            "no operator runs",
        ),
    ],
    "arguments": [
        ({ARGS: ["--port 80"]}, "mlflow_server_extra_args holds '--port'"),
        ({ARGS: ["--dev --port=80"]}, "mlflow_server_extra_args"),
        ({ARGS: ["--gunicorn=1 --port=80"]}, "with another option in the same entry"),
        ({ARGS: ["-p80"]}, "use mlflow_server_port"),
        ({ARGS: ["--port"]}, "use mlflow_server_port"),
        ({ARGS: ["serve"]}, "is no option"),
        ({ARGS: ["--=x"]}, "is no option"),
        ({**OIDC, "mlflow_server_oidc_extra_args": ["cookie-refresh=1h"]}, "is no option"),
        ({**OIDC, "mlflow_server_oidc_extra_args": ["--email-domain=a.test"]}, "use mlflow_server_oidc_email_domains"),
        (
            {**OIDC, "mlflow_server_oidc_extra_args": ["--cookie-refresh=1h --whitelist-domain=x"]},
            "with another option in the same entry",
        ),
        (
            {
                **K8S,
                **DB,
                "database_host": "",
                "database_cloudsql_instance": "p:r:i",
                "database_cloudsql_args": ["private-ip"],
            },
            "is no option",
        ),
        ({"images_mlflow_extra_packages": ["--index-url=https://x"]}, "images_mlflow_extra_packages holds"),
        ({"images_mlflow_extra_packages": ["a --pre"]}, "images_mlflow_extra_packages holds"),
        ({"images_postgresql_version": "15; rm"}, "images_postgresql_version is"),
        ({"images_debian_mirror": "deb.debian.org"}, "images_debian_mirror"),
    ],
    "OIDC": [
        (
            {**OIDC, "mlflow_server_oidc_issuer": "https://id.example.com/.well-known/openid-configuration"},
            "the discovery document",
        ),
        ({**OIDC, "mlflow_server_oidc_issuer": "https://id.example.com?x=1"}, "it must be a whole URL"),
        ({**OIDC, "mlflow_server_oidc_issuer": "https://id.example.com:99999"}, "it must be a whole URL"),
        ({**OIDC, "mlflow_server_oidc_issuer": "https://user:secret-word@id.example.com"}, "it must be a whole URL"),
        ({**OIDC, "mlflow_server_oidc_email_domains": ["@example.com"]}, "give the bare domain"),
        ({**OIDC, "mlflow_server_oidc_email_domains": ["ana@example.com"]}, "give the bare domain"),
        ({**OIDC, "mlflow_server_auth": "none"}, "mlflow_server_oidc_issuer is set while mlflow_server_auth is none"),
        ({"mlflow_server_oidc_client_secret": "secret-word"}, "client_secret is set while mlflow_server_auth is none"),
        ({**OIDC, "mlflow_server_oidc_scopes": ["email"]}, "does not hold openid"),
        ({**OIDC, "mlflow_server_oidc_scopes": ["openid", "email profile"]}, "give each scope as an entry of its own"),
        (
            {**OIDC, "mlflow_server_oidc_redirect_url": "https://mlflow.example.com/oauth2/callback#x"},
            "mlflow_server_oidc_redirect_url is",
        ),
        (
            {**OIDC, "mlflow_server_auth_admins": ["ana@example.com,bo@example.com"]},
            "give each name as an entry of its own",
        ),
        ({"mlflow_server_auth": "proxy", "mlflow_server_auth_proxy_header": "X Email"}, "it must be a header's name"),
        (
            {"mlflow_server_auth": "proxy", "mlflow_server_auth_proxy_header": "Authorization"},
            "it must be a header's name",
        ),
    ],
    "certificates": [
        (
            {**DB, "database_tls": "verify-full", "database_ca": PEM.replace("\n", " ")},
            "database_ca holds a certificate that is folded to one line",
        ),
        (
            {**DB, "database_tls": "verify-full", "database_ca": PEM[:40]},
            "database_ca holds a certificate that is folded",
        ),
        ({**S3, "object_storage_ca": PEM.replace("\n", "")}, "object_storage_ca holds a certificate that is folded"),
        (
            {**OIDC, "mlflow_server_oidc_ca": PEM.replace("\n", "\\n")},
            "mlflow_server_oidc_ca holds a certificate that is folded",
        ),
        (
            {
                **INGRESS,
                "ingress_tls": "secret",
                "ingress_tls_certificate": PEM,
                "ingress_tls_key": KEY.replace("\n", " "),
            },
            "ingress_tls_key holds a private key",
        ),
        (
            {**INGRESS, "ingress_tls": "secret", "ingress_tls_certificate": KEY, "ingress_tls_key": PEM},
            "ingress_tls_certificate holds no certificate",
        ),
    ],
    "parts of Kubernetes' objects": (
        [
            ({**K8S, name: value}, expected)
            for name, value, expected in (
                (TOLERATIONS, [{"key": "a", "operator": "Is"}], "[0].operator is 'Is'"),
                (TOLERATIONS, [{"key": "a", "effect": "Evict"}], "[0].effect is 'Evict'"),
                (TOLERATIONS, [{"key": "a", "value": 1}], "[0].value is a number; Kubernetes takes text"),
                (TOLERATIONS, [{"keys": "a"}], "[0] has the field keys"),
                (
                    TOLERATIONS,
                    [{"key": "a", "operator": "Exists", "value": "b"}],
                    "has a value while its operator is Exists",
                ),
                (
                    TOLERATIONS,
                    [{"key": "a", "tolerationSeconds": 5, "operator": "Exists"}],
                    "tolerationSeconds is set while its effect is not NoExecute",
                ),
                (
                    TOLERATIONS,
                    [{"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": "5"}],
                    "tolerationSeconds is text",
                ),
                (TOLERATIONS, [{"key": "a b", "operator": "Exists"}], "it must be a taint's key"),
                (VOLUMES, [{"name": "x"}], "has no source"),
                (
                    VOLUMES,
                    [{"name": "x", "emptyDir": {}, "secret": {"secretName": "s"}}],
                    "has both emptyDir and secret",
                ),
                (VOLUMES, [{"name": "x", "secret": {"name": "s"}}], "[0].secret has the field name"),
                (VOLUMES, [{"name": "X", "emptyDir": {}}], "[0].name is 'X'"),
                (
                    VOLUMES,
                    [{"name": "x", "emptyDir": {"sizeLimit": "ten"}}],
                    "sizeLimit is text; it must be a quantity",
                ),
                (VOLUMES, [{"name": "x", "persistentVolumeClaim": {}}], "has no claimName"),
                (VOLUMES, [{"name": "config", "emptyDir": {}}], "which the pod has already"),
                (VOLUMES, [{"name": "x", "emptyDir": {}}, {"name": "x", "emptyDir": {}}], "holds x, twice"),
                (MOUNTS, [{"name": "tmp", "mountPath": "relative"}], "it must be an absolute path"),
                (MOUNTS, [{"name": "tmp", "mountPath": "/tmp"}], "mounted already"),
                (MOUNTS, [{"name": "tmp", "mountPath": "/a:b"}], "without a colon"),
                (MOUNTS, [{"name": "tmp", "mountPath": "/a", "subPath": "../b"}], "without '..'"),
                (
                    ENV,
                    [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s"}}}],
                    "valueFrom.secretKeyRef has no key",
                ),
                (ENV, [{"name": "A", "valueFrom": {"secretRef": {"name": "s"}}}], "valueFrom has the field secretRef"),
                (ENV, [{"name": "A=B"}], "[0].name is 'A=B'"),
                (ENV, [{"name": "A", "valueFrom": {}}], "valueFrom has no source"),
                (ENV, [{"name": "A", "value": "1", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}], "has both"),
                (ENV, [{"name": "A", "value": ["secret-word"]}], "[0].value is a list"),
                (ENV_FROM, [{"secretRef": {}}], "[0].secretRef has no name"),
                (ENV_FROM, [{"name": "s"}], "[0] has the field name"),
                (ENV_FROM, [{}], "[0] has no source"),
                (AFFINITY, {"podAffinty": {}}, "use podAffinity"),
                (
                    AFFINITY,
                    {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": []}},
                    "must be a mapping",
                ),
                (
                    AFFINITY,
                    {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}},
                    "has no nodeSelectorTerms",
                ),
                (
                    AFFINITY,
                    {
                        "nodeAffinity": {
                            REQUIRED: {
                                "nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "Equals"}]}]
                            }
                        }
                    },
                    "operator is 'Equals'",
                ),
                (
                    AFFINITY,
                    {
                        "nodeAffinity": {
                            REQUIRED: {"nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "In"}]}]}
                        }
                    },
                    "values is empty while its operator is In",
                ),
                (
                    AFFINITY,
                    {
                        "podAffinity": {
                            "preferredDuringSchedulingIgnoredDuringExecution": [
                                {"weight": 500, "podAffinityTerm": {"topologyKey": "a"}}
                            ]
                        }
                    },
                    "weight is 500; it must be from 1 to 100",
                ),
                (CONTAINERS, [{"name": "x"}], "has no image"),
                (CONTAINERS, [{"image": "x"}], "has no name"),
                (CONTAINERS, [{"name": "mlflow", "image": "x"}], "another container"),
                (CONTAINERS, [{"name": "x", "image": "Not an image"}], "it must be an image's name"),
                (CONTAINERS, [{"name": "x", "image": "y", "command": "run"}], "must be a list"),
                (
                    CONTAINERS,
                    [{"name": "x", "image": "y", "ports": [{"containerPort": "80"}]}],
                    "containerPort is text; it must be a whole number",
                ),
                (
                    CONTAINERS,
                    [{"name": "x", "image": "y", "ports": [{"containerPort": 5000}]}],
                    "which the server has in the same pod",
                ),
                (
                    CONTAINERS,
                    [{"name": "x", "image": "y", "volumeMounts": [{"name": "nowhere", "mountPath": "/x"}]}],
                    "which is no volume of the pod",
                ),
                (
                    CONTAINERS,
                    [{"name": "x", "image": "y", "resources": {"limits": {"memory": "2 GB"}}}],
                    "limits.memory is text; it must be a quantity",
                ),
                (EGRESS, [{"from": []}], "[0] has the field from"),
                (EGRESS, [{"ports": [{"port": 70000}]}], "port is 70000"),
                (EGRESS, [{"ports": [{"port": "443"}]}], "without quotes"),
                (EGRESS, [{"to": [{"ipBlock": {"cidr": "10.0.0.1/8"}}]}], "cidr is '10.0.0.1/8'"),
                (EGRESS, [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}]}], "one or the other"),
                (
                    EGRESS,
                    [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}]}],
                    "inside 10.0.0.0/8",
                ),
                (EGRESS, [{"to": [{}]}], "is empty"),
                (
                    "mlflow_server_autoscaling_behavior",
                    {"scaleDown": {"policies": [{"type": "Pod", "value": 1, "periodSeconds": 60}]}},
                    "type is 'Pod'",
                ),
                (
                    "mlflow_server_autoscaling_behavior",
                    {"scaleDown": {"stabilizationWindowSeconds": 7200}},
                    "from 0 to 3600",
                ),
            )
        ]
        + [
            ({**K8S, "mlflow_server_service_account_token": True, RULES: [rule]}, expected)
            for rule, expected in (
                ({"apiGroups": [""], "resources": ["pods"]}, "has no verbs"),
                ({"resources": ["pods"], "verbs": ["get"]}, "has no apiGroups"),
                ({"nonResourceURLs": ["/x"], "verbs": ["get"]}, "which a Role cannot give"),
                ({"apiGroups": "", "resources": ["pods"], "verbs": ["get"]}, "must be a list"),
            )
        ]
    ),
    "labels and names": [
        ({"mlflow_labels": {"a" * 64: "x"}}, "mlflow_labels has the key"),
        ({"mlflow_labels": {"team": "x" * 64}}, "at most 63 letters"),
        ({"mlflow_labels": {"a/b/c": "x"}}, "mlflow_labels has the key"),
        ({"mlflow_labels": {"-a": "x"}}, "mlflow_labels has the key"),
        ({"mlflow_labels": {f"{'a' * 254}/b": "x"}}, "mlflow_labels has the key"),
        ({"mlflow_annotations": {"a b": "x"}}, "mlflow_annotations has the key"),
        ({"ingress_annotations": {"a b": "x"}}, "ingress_annotations has the key"),
        ({"mlflow_labels": {"app.kubernetes.io/name": "x"}}, "finds its objects"),
        ({"mlflow_server_spread": ["a b"]}, "mlflow_server_spread holds 'a b'"),
        ({"mlflow_server_spread": ["a", "a"]}, "mlflow_server_spread holds 'a' twice"),
        ({"mlflow_namespace": "a" * 64}, "mlflow_namespace is"),
        ({"mlflow_instance": "a-"}, "mlflow_instance is"),
        ({"mlflow_image_pull_secrets": ["My Secret"]}, "mlflow_image_pull_secrets holds"),
        ({"mlflow_priority_class": "a" * 254}, "mlflow_priority_class is"),
        ({"mlflow_server_image": "https://ghcr.io/mlflow"}, "mlflow_server_image is"),
        ({"mlflow_server_image": ""}, "mlflow_server_image is"),
        ({"database_image": "postgres:17 "}, "database_image begins or ends with a blank"),
        ({"ingress_image": "Caddy:2"}, "ingress_image is"),
        (
            {
                **DB,
                "database_password": "",
                "database_existing_secret": "s",
                "database_existing_secret_keys": {"user": "a/b"},
            },
            "database_existing_secret_keys.user",
        ),
        ({"object_storage_bucket": "a..b"}, "object_storage_bucket is"),
        ({"object_storage_bucket": "10.0.0.1"}, "object_storage_bucket is"),
        ({"object_storage_bucket": "ab"}, "object_storage_bucket is"),
        ({**S3, "object_storage_region": "eu central"}, "object_storage_region is"),
        (
            {"object_storage_type": "azure", "object_storage_azure_account": "acct", "object_storage_bucket": "a--b"},
            "object_storage_bucket is",
        ),
        ({"object_storage_prefix": "a/../b"}, "object_storage_prefix is"),
        ({"database_name": "a/b"}, "database_name is 'a/b'"),
        ({"database_name": "$x" * 40}, "database_name is"),
        ({"mlflow_server_allowed_hosts": ["a b"]}, "mlflow_server_allowed_hosts holds"),
    ],
    "URLs": [
        ({**S3, "object_storage_url": text}, "object_storage_url is")
        for text in (
            "s3.example.com",
            "ftp://s3.example.com",
            "https://user:secret-word@s3.example.com",
            "https://s3.example.com?x=1",
            "https://s3 .example.com",
            "https://s3.example.com/#x",
            "https://s3.example.com:0",
            "https://s3.example.com:99999",
            "https://",
            "https://[::g]",
        )
    ],
    "patches and extra objects": [
        ({PATCHES: [{"target": {"kind": "Deploymnt"}, "patch": {"spec": {}}}]}, f"{PATCHES}[0] reaches no object"),
        ({PATCHES: [{"target": {"kind": "Deployment", "name": "x"}, "patch": {}}]}, f"{PATCHES}[0] reaches no object"),
        (
            {PATCHES: [{"target": {"kind": "Deployment"}, "patch": {"metadata": {"name": "x"}}}]},
            f"{PATCHES}[0] would rename",
        ),
        (
            {PATCHES: [{"target": {"kind": "Deployment"}, "patch": {"spec": {"replicas": "two"}}}]},
            "spec.replicas is text",
        ),
        (
            {PATCHES: [{"target": {"kind": "Deployment"}, "patch": {"spec": {"replica": 2}}}]},
            "spec has the field replica",
        ),
        ({PATCHES: [{"target": {"kind": "Deployment"}, "patch": None}]}, f"{PATCHES}[0] must hold exactly"),
        (
            {PATCHES: [{"target": {"kind": "Deployment", "namespace": "x"}, "patch": {}}]},
            f"{PATCHES}[0] must hold exactly",
        ),
        (
            {"database_patches": [{"target": {"kind": "Deployment"}, "patch": {"spec": {}}}]},
            "database_patches[0] reaches no object",
        ),
        (
            {"ingress_patches": [{"target": {"kind": "Ingress"}, "patch": {"spec": {}}}]},
            "ingress_patches[0] reaches no object",
        ),
        ({OBJECTS: [{"kind": "ConfigMap", "metadata": {"name": "x"}}]}, "has no apiVersion"),
        ({OBJECTS: [{"apiVersion": "v1", "kind": "ConfigMap"}]}, "has no metadata.name"),
        (
            {OBJECTS: [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "My Map"}}]},
            "has the name 'My Map'",
        ),
        (
            {OBJECTS: [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"a": 1}}]},
            "data.a is a number",
        ),
        (
            {OBJECTS: [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "sound-server"}}]},
            "ConfigMap sound-server twice",
        ),
        (
            {
                OBJECTS: [
                    {
                        "apiVersion": "v1",
                        "kind": "Service",
                        "metadata": {"name": "x"},
                        "spec": {"ports": [{"port": "80"}]},
                    }
                ]
            },
            "port is text",
        ),
        ({OBJECTS: [{}]}, f"{OBJECTS}[0] is empty"),
    ],
    "stores described otherwise": [
        ({"mlflow_server_database": {"type": "oracle", "uri": "x"}}, "mlflow_server_database has no type"),
        ({"mlflow_server_database": {"type": "postgresql"}}, "mlflow_server_database has no uri"),
        (
            {"mlflow_server_database": {"type": "postgresql", "uri": "postgresql://x", "prt": 1}},
            "mlflow_server_database has the key prt",
        ),
        (
            {"mlflow_server_artifact_store": {"type": "s3", "uri": "s3://b", "port": "1"}},
            "mlflow_server_artifact_store.port is of another type",
        ),
        (
            {"mlflow_server_artifact_store": {"type": "s3", "uri": "s3://b", "secret": "s"}},
            "mlflow_server_artifact_store.secret_keys has no access_key",
        ),
    ],
    "versions and files": [
        ({"mlflow_version": "3.9.0"}, "mlflow_version is 3.9.0, which is older than the oldest supported"),
        ({"mlflow_version": "2.22.0"}, "3.10.0 or newer"),
        ({"mlflow_version": "3.17"}, "mlflow_version is '3.17'"),
        ({"mlflow_version": 3.17}, "mlflow_version is '3.17'"),
        ({"mlflow_version": "v3.17.2"}, "mlflow_version"),
        ({**OIDC, "mlflow_version": "3.14.0"}, "mlflow_server_auth is oidc while mlflow_version is 3.14.0"),
        ({"mlflow_server_auth": "proxy", "mlflow_version": "3.10.0"}, "choose 3.15.0 or newer"),
        ({"mlflow_render_dir": __file__}, "mlflow_render_dir is"),
        ({"ingress_ca_dest": "/tmp"}, "which is a folder"),
        ({**K8S, "mlflow_kubeconfig": "/nowhere/config"}, "mlflow_kubeconfig is '/nowhere/config', which is no file"),
    ],
}
FLAT = [pytest.param(variables, expected, id=f"{name}-{number}") for name, cases in CASES.items() for number,
        (variables, expected) in enumerate(cases)]


@pytest.mark.parametrize("variables, expected", FLAT)
def test_refused_in_one_sentence(variables, expected):
    sentences = refused(variables)
    assert len(sentences) == 1, sentences
    assert expected in sentences[0]
    assert any(name in sentences[0] for name in variables)
    assert sentences[0].endswith(".") and "secret-word" not in sentences[0] and "Checking " not in sentences[0]


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"mlflow_version": "latest"},
        {"mlflow_version": "3.17.2rc1"},
        {"mlflow_version": "9.0.0"},
        {"database_password": 12345},
        {"mlflow_server_replicas": "2"},
        {"mlflow_server_jobs": "yes"},
        {"database_port": None},
        {"ingress_verify": None},
        {"mlflow_server_gc_schedule": "*/15 0-6/2 1,15 jan-jun MON-FRI"},
        {"mlflow_server_gc_schedule": "@daily"},
        {"mlflow_server_gc_schedule": "@every 36h"},
        {"mlflow_server_gc_older_than": "1d12h30m5.5s"},
        {"mlflow_server_resources": {"limits": {"memory": None, "nvidia.com/gpu": 1}}},
        {"mlflow_server_resources": {"limits": {"cpu": 2.5, "memory": "8G"}}},
        {"mlflow_labels": {"example.com/team": ""}},
        {
            TOLERATIONS: [
                {"operator": "Exists"},
                {"key": "a", "value": "b", "effect": "NoExecute", "tolerationSeconds": 60},
            ]
        },
        {ENV: [{"name": "A", "value": ""}, {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]},
        {
            VOLUMES: [{"name": "x", "configMap": {"name": "c"}}],
            MOUNTS: [{"name": "x", "mountPath": "/x", "subPath": "a/b"}],
        },
        {
            CONTAINERS: [
                {
                    "name": "x",
                    "image": "registry.example.com:5000/a/b@sha256:" + "0" * 64,
                    "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
                }
            ]
        },
        {
            EGRESS: [
                {
                    "to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}],
                    "ports": [{"port": 443, "protocol": "TCP"}],
                },
                {},
            ]
        },
        {
            OBJECTS: [
                {"apiVersion": "example.com/v1", "kind": "Anything", "metadata": {"name": "x"}, "spec": {"free": [1]}}
            ]
        },
        {
            PATCHES: [
                {
                    "target": {"kind": "Deployment", "name": "sound-server"},
                    "patch": {"spec": {"template": {"spec": {"hostNetwork": None}}}},
                }
            ]
        },
        {ARGS: ["--gunicorn-opts=--timeout 60 --log-level debug", "--serve-name", "value"]},
        {**S3, "object_storage_url": "https://s3.example.com:9000/"},
        {**S3, "object_storage_url": "http://[fd00::1]:9000"},
        {**S3, "object_storage_upload_args": {"ServerSideEncryption": "AES256"}},
        {**DB, "database_host": "10.0.0.1"},
        {**DB, "database_name": "ml-flow$1"},
        {**DB, "database_password": " blanks are kept "},
        {**DB, "database_tls": "verify-full", "database_ca": PEM},
        OIDC,
        {**OIDC, "mlflow_server_oidc_extra_args": ["--banner=Hello to all"]},
        {**INGRESS, "ingress_cors_origins": ["https://notebooks.example.com:8443"]},
        {**INGRESS, "ingress_annotations": {"a.test/x": None}},
        {
            "server_port": 80,
            "storage_class": "x",
            "database": "a text",
            "mlflow_model": {},
            "image_version": "1",
            "cluster": {"type": "x"},
        },
        yaml.safe_load("{off: false, 8080: http, cluster: {on: 1}}"),
    ],
)
def test_right_values_are_taken(variables):
    resolved(variables)


def test_all_wrong_variables_are_named_at_once():
    sentences = refused({"database_port": "many", "mlflow_server_jobs": "perhaps", "ingress_hosts": None,
                         "mlflow_server_magic": 1})
    assert len(sentences) == 4
    sentences = refused({"database_host": "a b", "object_storage_bucket": "B", "mlflow_server_port": 1,
                         "ingress_timeout": 0, "mlflow_instance": "A B"})
    assert len({sentence.split()[0] for sentence in sentences}) >= 5


def test_a_fault_in_a_check_hides_no_sentence_and_shows_no_value(monkeypatch):
    from ansible_collections.mlops.mlflow.plugins.plugin_utils.components.database import Database

    def broken(self, v, model):
        yield from ()
        raise KeyError("secret-word")

    monkeypatch.setattr(Database, "_check_server", broken)
    assert refused({"mlflow_server_port": 1}) == ["mlflow_server_port is 1; it must be a TCP port from 1024 to 65535."]
    sentences = refused({})
    assert len(sentences) == 1 and "secret-word" not in sentences[0]
    assert "KeyError" in sentences[0] and "role database" in sentences[0]


@pytest.mark.parametrize("name", ["database_password", "object_storage_secret_key", "mlflow_server_oidc_client_secret",
                                  "ingress_tls_key"])
def test_a_secret_is_never_shown(name):
    for value in ("secret-word\n", "secret-word", ["secret-word"], {"secret-word": 1}):
        for sentence in refused({name: value,
                                 **({} if name != "database_password" else {"database_host": "secret-word:1"})}):
            assert "secret-word" not in sentence.replace("database_host is 'secret-word", "")


def test_the_types_of_kubernetes_are_those_of_its_document():
    sys.path.append(str(pathlib.Path(__file__).parents[2] / "manifests"))
    import write_kubernetes_types

    assert write_kubernetes_types.TARGET.read_text(encoding="utf-8") == write_kubernetes_types.text()
