# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The options of the chart community-charts/mlflow. docs/charts.md says which version it is."""

from __future__ import annotations

import re
import urllib.parse
from typing import Any

from ansible_collections.mlops.mlflow.plugins.plugin_utils.adoption import plan
from ansible_collections.mlops.mlflow.plugins.plugin_utils.adoption.plan import Adoption, Row
from ansible_collections.mlops.mlflow.plugins.plugin_utils.adoption.release import CHART
from ansible_collections.mlops.mlflow.plugins.plugin_utils.components import mlflow_server
from ansible_collections.mlops.mlflow.plugins.plugin_utils.model import variables

NAME = "community-charts/mlflow"
IMAGE = "burakince/mlflow"
SERVERS = {"postgres": ("postgresql", "postgresql", "PGHOST", "PGPORT", "PGDATABASE", "PGUSER", "PGPASSWORD"),
           "mysql": ("mysql", "mysql", "MYSQL_HOST", "MYSQL_TCP_PORT", "MYSQL_DATABASE", "MYSQL_USERNAME", "MYSQL_PWD")}
"""By option below backendStore: type of the database, subchart, and the names of its environment."""
PROVIDERS = {"keycloak": "keycloak-oidc", "azure": "entra-id"}
"""Providers of oauth2-proxy under their former names."""
SECURITY = ("fixed by the restricted Pod Security Standard, and the user is that of the files in a claim "
            "(mlflow_server_user); use mlflow_patches.")
SUBCHART = ("stays as it is, without Helm; playbooks/migrate.yml moves its data to a database or store that the "
            "collection runs.")
USERS = ("users and their permissions are in another database than the runs, and are not copied; add them by module "
         "mlops.mlflow.mlflow_user and mlops.mlflow.mlflow_permission.")
LDAP = ("MLflow reads no LDAP; use an identity provider with LDAP (Keycloak, Dex, Authentik) with mlflow_server_auth: "
        "oidc. Until then the administrator alone can log in.")


def is_chart(defaults: dict) -> bool:
    """Whether values are those of this chart."""
    return "backendStore" in defaults and "artifactRoot" in defaults


def _camel(name: str) -> str:
    """A name in camel case as an option of a command."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda found: f"-{found.group(1).lower()}", name).replace("_", "-").lower()


def _image(a: Adoption) -> None:
    plan.version(a, IMAGE, str(a.get("image.tag") or a.release.app_version))
    a.set("mlflow_image_pull_policy", a.get("image.pullPolicy"))
    if "workers" not in (a.get("extraArgs") or {}):
        a.set("mlflow_server_workers", 4)  # MLflow's own default


def _pull_secrets(a: Adoption) -> None:
    a.set("mlflow_image_pull_secrets", plan.names(a.get("imagePullSecrets")))


def _service_account(a: Adoption) -> None:
    plan.service_account(a, "serviceAccount.automount")


def _service(a: Adoption) -> None:
    plan.service(a)
    if a.get("oauth2Proxy.enabled"):
        a.report("service.port", f"port {a.get('service.port')} led to MLflow past oauth2-proxy; port "
                                 f"{a.get('service.containerPort')} is for programs, which log in.")


def _log(a: Adoption) -> None:
    level = str(a.get("log.level") or "info").lower()
    if a.get("log.enabled") and level in variables.SPECS["mlflow_server_log_level"]["choices"]:
        a.set("mlflow_server_log_level", level)
    elif a.given("log.level"):
        a.report("log.level", "mlflow_server_log_level has debug, info, warning, error and critical.")


# -- database ------------------------------------------------------------------------------------------------------


def _config(a: Adoption, key: str) -> str:
    config = a.object("ConfigMap", f"{a.fullname}-env-configmap") or {}
    return str((config.get("data") or {}).get(key, ""))


def _backend(a: Adoption) -> None:
    for option, names in SERVERS.items():
        if a.get(f"backendStore.{option}.enabled") or a.get(f"{names[1]}.enabled"):
            _server(a, option, *names)
            return
    if a.get("backendStore.mssql.enabled"):
        _mssql(a)
    else:
        path = a.get("backendStore.defaultSqlitePath")
        plan.sqlite(a, "backendStore.defaultSqlitePath", f"sqlite:///{path}")


def _server(a: Adoption, option: str, kind: str, subchart: str, host: str, port: str, name: str, user: str,
            password: str) -> None:
    a.set("database_type", kind)
    driver = a.get(f"backendStore.{option}.driver") or ""
    a.set("database_driver", "" if driver == mlflow_server.database.DRIVERS[kind][0] else driver)
    a.set("database_host", _config(a, host))
    a.set("database_port", int(_config(a, port) or 0) or None)
    a.set("database_name", _config(a, name))
    existing = a.get("backendStore.existingDatabaseSecret.name")
    if a.get(f"{subchart}.enabled"):
        _subchart_login(a, kind, subchart)
    elif existing:
        a.set("database_existing_secret", existing)
        a.set("database_existing_secret_keys", {
            "user": a.get("backendStore.existingDatabaseSecret.usernameKey"),
            "password": a.get("backendStore.existingDatabaseSecret.passwordKey")})
    elif a.as_variables:
        plan.login(a, a.get(f"backendStore.{option}.user"), a.get(f"backendStore.{option}.password"))
    else:
        a.set("database_existing_secret", f"{a.fullname}-env-secret")
        a.set("database_existing_secret_keys", {"user": user, "password": password})


def _subchart_login(a: Adoption, kind: str, subchart: str) -> None:
    """User and password of a subchart's database are in two Secrets."""
    given = a.get(f"{subchart}.auth.username")
    root = {"postgresql": ("postgres", "postgres-password"), "mysql": ("root", "mysql-root-password")}[kind]
    user, key = (given, "password") if given else root
    secret = a.get(f"{subchart}.auth.existingSecret") or f"{a.fullname}-{subchart}"
    password = a.live.value("Secret", secret, key)
    if password:
        plan.login(a, user, password)
    else:
        a.set("database_user", user)
        a.set("database_existing_secret", secret)
        a.report(f"{subchart}.auth", f"key {key} of Secret {secret} cannot be read; give the login in a Secret with "
                                     "user and password (database_existing_secret).", data=True)
    a.report(f"{subchart}.enabled", f"the database {a.fullname}-{subchart} {SUBCHART}")


def _mssql(a: Adoption) -> None:
    option = "backendStore.mssql"
    a.set("database_type", "other")
    a.set("database_port", a.get(f"{option}.port"))
    a.set("mlflow_server_image", a.container["image"])  # with the driver
    name = a.get(f"{option}.existingConnectionUrlSecret.name")
    if name:
        a.set("database_existing_secret", name)
        a.set("database_existing_secret_keys", {"uri": a.get(f"{option}.existingConnectionUrlSecret.key")})
        return
    uri = a.get(f"{option}.connectionUrl")
    if not uri:
        secret = a.get("backendStore.existingDatabaseSecret.name")
        user, password = a.get(f"{option}.user"), a.get(f"{option}.password")
        if secret:
            user, password = (a.live.value("Secret", secret, a.get(f"backendStore.existingDatabaseSecret.{key}"))
                              for key in ("usernameKey", "passwordKey"))
        driver = a.get(f"{option}.driver")
        login = ":".join(urllib.parse.quote(str(part), safe="") for part in (user, password))
        uri = (f"mssql{'+' + driver if driver else ''}://{login}@{a.get(f'{option}.host')}:{a.get(f'{option}.port')}/"
               f"{a.get(f'{option}.database')}")
    plan.by_secret(a, {"uri": ("database-uri", uri)})


# -- artifacts -----------------------------------------------------------------------------------------------------


def _artifacts(a: Adoption) -> None:
    proxied = bool(a.get("artifactRoot.proxiedArtifactStorage"))
    if a.get("artifactRoot.azureBlob.enabled"):
        _azure(a)
    elif a.get("artifactRoot.s3.enabled"):
        _s3(a)
    elif a.get("artifactRoot.gcs.enabled"):
        bucket, path = a.get("artifactRoot.gcs.bucket"), a.get("artifactRoot.gcs.path")
        plan.artifacts(a, "artifactRoot.gcs", f"gs://{bucket}/{path}")
    elif proxied:
        plan.artifacts(a, "artifactRoot.defaultArtifactsDestination", a.get("artifactRoot.defaultArtifactsDestination"))
    else:
        plan.direct(a, "artifactRoot.defaultArtifactRoot", a.get("artifactRoot.defaultArtifactRoot"))
        return
    if not proxied:
        a.set("mlflow_server_artifacts", "direct")


def _azure(a: Adoption) -> None:
    option = "artifactRoot.azureBlob"
    a.set("object_storage_type", "azure")
    a.set("object_storage_bucket", a.get(f"{option}.container"))
    a.set("object_storage_azure_account", a.get(f"{option}.storageAccount"))
    a.set("object_storage_prefix", str(a.get(f"{option}.path") or "").strip("/"))
    for name, key, part in (("connectionString", "AZURE_STORAGE_CONNECTION_STRING", "connection_string"),
                            ("accessKey", "AZURE_STORAGE_ACCESS_KEY", "access_key")):
        value = a.get(f"{option}.{name}")
        if value and a.as_variables:
            a.set(f"object_storage_azure_{part}", value)
            return
        if value:
            a.set("object_storage_existing_secret", f"{a.fullname}-env-secret")
            a.set("object_storage_existing_secret_keys", {part: key})
            return


def _s3(a: Adoption) -> None:
    option = "artifactRoot.s3"
    a.set("object_storage_type", "s3")
    a.set("object_storage_bucket", a.get(f"{option}.bucket"))
    if a.get("minio.enabled"):
        buckets = a.get("minio.buckets") or [{}]
        a.set("object_storage_bucket", a.get(f"{option}.bucket") or buckets[0].get("name"))
        a.set("object_storage_url", f"http://{a.fullname}-minio:9000")
        a.set("object_storage_existing_secret", a.get("minio.existingSecret") or f"{a.fullname}-minio")
        a.set("object_storage_existing_secret_keys", {"access_key": "rootUser", "secret_key": "rootPassword"})
        a.report("minio.enabled", f"the store {a.fullname}-minio {SUBCHART}")
        return
    a.set("object_storage_prefix", str(a.get(f"{option}.path") or "").strip("/"))
    existing = a.get(f"{option}.existingSecret.name")
    if existing:
        a.set("object_storage_existing_secret", existing)
        a.set("object_storage_existing_secret_keys", {
            "access_key": a.get(f"{option}.existingSecret.keyOfAccessKeyId"),
            "secret_key": a.get(f"{option}.existingSecret.keyOfSecretAccessKey")})
    elif a.get(f"{option}.awsAccessKeyId") and a.as_variables:
        plan.store_keys(a, a.get(f"{option}.awsAccessKeyId"), a.get(f"{option}.awsSecretAccessKey"))
    elif a.get(f"{option}.awsAccessKeyId"):
        a.set("object_storage_existing_secret", f"{a.fullname}-env-secret")


# -- logins --------------------------------------------------------------------------------------------------------


def _auth(a: Adoption) -> None:
    if not a.get("auth.enabled"):
        return
    a.set("mlflow_server_auth", "basic")
    a.set("mlflow_server_auth_default_permission", a.get("auth.defaultPermission"))
    name = a.get("auth.appName")
    if name != "basic-auth":
        a.set("mlflow_server_app_name", name)
        a.set("mlflow_server_image", a.container["image"])
    existing = a.get("auth.existingAdminSecret.name")
    keys = {"user": a.get("auth.existingAdminSecret.usernameKey") if existing else "username",
            "password": a.get("auth.existingAdminSecret.passwordKey") if existing else "password"}
    if not existing and a.as_variables:
        a.set("mlflow_server_auth_admin_user", a.get("auth.adminUsername"))
        a.set("mlflow_server_auth_admin_password", a.get("auth.adminPassword"))
    else:
        a.set("mlflow_server_auth_existing_secret", existing or f"{a.fullname}-auth-admin-secret")
        a.set("mlflow_server_auth_existing_secret_keys", {**keys, "secret_key": ""})
    _users(a)


def _users(a: Adoption) -> None:
    """Where the users are: beside the runs, or elsewhere."""
    if a.get("auth.postgres.enabled"):
        theirs = tuple(str(a.get(f"auth.postgres.{name}")) for name in ("host", "port", "database"))
        if theirs != tuple(_config(a, name) for name in ("PGHOST", "PGPORT", "PGDATABASE")):
            a.report("auth.postgres", USERS, data=True)
    elif not a.get("postgresql.enabled"):
        config = a.object("ConfigMap", f"{a.fullname}-auth-ini-template") or {}
        text = (config.get("data") or {}).get("auth_template.ini", "")
        uri = re.search(r"^database_uri = sqlite:///(/.*)$", text, re.MULTILINE)
        path = uri.group(1) if uri else ""
        found = a.claim(path) if path else None
        if found and a.variables.get("database_existing_claim") == found[0]:
            a.set("database_sqlite_users_path", found[1])
        else:
            a.report("auth.sqliteFile", USERS, data=True)


def _ldap(a: Adoption) -> None:
    if a.get("ldapAuth.enabled"):
        a.set("mlflow_server_auth", "basic")  # never without logins
        a.report("ldapAuth", LDAP, data=True)


def _oauth2_proxy(a: Adoption) -> None:
    if not a.get("oauth2Proxy.enabled"):
        return
    option = "oauth2Proxy"
    provider = a.get(f"{option}.provider.name") or "keycloak"
    provider = PROVIDERS.get(provider, provider)
    a.set("mlflow_server_auth", "oidc")
    if provider in variables.SPECS["mlflow_server_oidc_provider"]["choices"]:
        a.set("mlflow_server_oidc_provider", provider)
    else:
        a.report(f"{option}.provider.name", f"mlflow_server_oidc_provider has no {provider}; use oidc, or a provider "
                                            "that speaks OpenID Connect.")
    a.set("mlflow_server_oidc_issuer", a.get(f"{option}.provider.issuerURL"))
    a.set("mlflow_server_oidc_redirect_url", a.get(f"{option}.provider.redirectURL") or None)
    name = a.get(f"{option}.existingSecret.name") or f"{a.fullname}-oauth2-proxy"
    a.set("mlflow_server_oidc_existing_secret", name)
    a.set("mlflow_server_oidc_existing_secret_keys", {
        part: a.get(f"{option}.existingSecret.{key}") for part, key in (
            ("client_id", "clientIDKey"), ("client_secret", "clientSecretKey"), ("cookie_secret", "cookieSecretKey"))})
    if a.given(f"{option}.image.repository") or a.given(f"{option}.image.tag"):
        a.set("mlflow_server_oidc_image", f"{a.get(f'{option}.image.repository')}:{a.get(f'{option}.image.tag')}")
    for argument in a.get(f"{option}.extraArgs") or []:
        _proxy_argument(a, str(argument))


def _proxy_argument(a: Adoption, argument: str) -> None:
    name, _equals, value = argument.partition("=")
    taken = {"--email-domain": "mlflow_server_oidc_email_domains", "--allowed-group": "mlflow_server_oidc_groups"}
    if name in taken:
        a.set(taken[name], [part for part in value.split(",") if part not in ("", "*")])
    elif name == "--scope":
        a.set("mlflow_server_oidc_scopes", value.split())
    elif name in mlflow_server.OWN_OIDC_ARGUMENTS:
        a.report("oauth2Proxy.extraArgs", f"use {mlflow_server.OWN_OIDC_ARGUMENTS[name]} for {name}.")
    elif name != "--cookie-secure":  # follows the URL
        a.set("mlflow_server_oidc_extra_args", [argument])


def _oidc(a: Adoption) -> None:
    """The plugin mlflow-oidc-auth, which is in the chart's image."""
    if not a.get("oidcAuth.enabled"):
        return
    a.set("mlflow_server_app_name", "oidc-auth")
    a.set("mlflow_server_image", a.container["image"])
    own = {"MLFLOW_VERSION", *(a.get("extraEnvVars") or {})}
    a.extra_env += [plan.hidden(a, entry) for name, entry in a.environment().items()
                    if name not in own and name.startswith(("OIDC_", "SESSION_COOKIE_", "CACHE_", "TRUSTED_PROXIES",
                                                            "DEFAULT_MLFLOW_", "SECRET_KEY"))]
    if not (a.get("oidcAuth.database.uri") or a.get("oidcAuth.database.postgres.enabled")):
        a.report("oidcAuth.database", "the plugin's users are in a file of the pod, and end with it; they are made "
                                      "anew at their next login, without permissions.", data=True)


# -- the rest ------------------------------------------------------------------------------------------------------


def _autoscaling(a: Adoption) -> None:
    if not a.get("autoscaling.enabled"):
        return
    a.set("mlflow_server_autoscaling", True)
    a.set("mlflow_server_autoscaling_min", a.get("autoscaling.minReplicas"))
    a.set("mlflow_server_autoscaling_max", a.get("autoscaling.maxReplicas"))
    a.set("mlflow_server_autoscaling_behavior", a.get("autoscaling.behavior"))
    targets = {"cpu": 0, "memory": 0}
    for metric in a.get("autoscaling.metrics") or []:
        name = (metric.get("resource") or {}).get("name")
        percent = ((metric.get("resource") or {}).get("target") or {}).get("averageUtilization")
        if name in targets and percent:
            targets[name] = int(percent)
        else:
            a.report("autoscaling.metrics", "mlflow_server_autoscaling_cpu and _memory are percentages of the "
                                            "requests; add others by mlflow_patches.")
    for name, percent in targets.items():
        a.set(f"mlflow_server_autoscaling_{name}", percent)


def _arguments(a: Adoption) -> None:
    for name, value in (a.get("extraArgs") or {}).items():
        plan.argument(a, _camel(name), value, f"extraArgs.{name}")


def _flags(a: Adoption) -> None:
    for name in a.get("extraFlags") or []:
        plan.argument(a, _camel(name), True, "extraFlags")


def _environment(a: Adoption) -> None:
    given = a.get("extraEnvVars") or {}
    plan.environment(a, [{"name": name, "value": _text(value)} for name, value in given.items()])


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _environment_from(a: Adoption) -> None:
    a.set("mlflow_server_extra_env_from", [{"secretRef": {"name": name}}
                                           for name in a.get("extraSecretNamesForEnvFrom") or []])


def _ingress(a: Adoption) -> None:
    plan.ingress(a, str((a.get("extraArgs") or {}).get("staticPrefix") or "").rstrip("/"))


def _route(a: Adoption) -> None:
    plan.gateway(a, "httpRoute", str((a.get("extraArgs") or {}).get("staticPrefix") or "").rstrip("/"))


def _monitoring(a: Adoption) -> None:
    if a.get("serviceMonitor.enabled"):
        a.set("monitoring_type", "operator")
        interval = re.fullmatch(r"([0-9]+)(s|m)", str(a.get("serviceMonitor.interval")))
        if interval:
            a.set("monitoring_interval", int(interval[1]) * (60 if interval[2] == "m" else 1))
        a.set("monitoring_labels", a.get("serviceMonitor.labels"))


def _extra_objects(a: Adoption) -> None:
    if not a.get("extraDeploy"):
        return
    plan.objects(a, [obj for obj in a.release.objects
                     if not {CHART, "chart"} & set(obj["metadata"].get("labels") or {})])


def _volumes(a: Adoption) -> None:
    plan.volumes(a, "extraVolumes", "extraVolumeMounts")


def _probes(a: Adoption) -> None:
    plan.probes(a, {"liveness": "livenessProbe", "readiness": "readinessProbe"})


def _security(a: Adoption) -> None:
    plan.security(a, SECURITY)


NONE = "waiting and migration run in the server's own image."

ROWS = (
    Row("replicaCount", "mlflow_server_replicas"),
    Row("image.*", _image),
    Row("initImages.*", None, NONE),
    Row("strategy.*", None, "it follows the stores; use mlflow_patches."),
    Row("imagePullSecrets", _pull_secrets),
    Row("nameOverride", _service),
    Row("fullnameOverride", _service),
    Row("revisionHistoryLimit", None, "always five; use mlflow_patches."),
    Row("serviceAccount.*", _service_account),
    Row("deploymentAnnotations", "mlflow_annotations"),
    Row("podAnnotations", "mlflow_server_pod_annotations"),
    Row("extraPodLabels", "mlflow_server_pod_labels"),
    Row("podSecurityContext.*", _security),
    Row("securityContext.*", _security),
    Row("service.enabled", None, "the Service is always there; ingress and verification use it."),
    Row("service.name", None, "always http or https."),
    Row("service.containerPortName", None, "always http."),
    Row("service.*", _service),
    Row("log.*", _log),
    Row("telemetry.enabled", None, "always off."),
    Row("backendStore.databaseMigration", None, "a Job migrates always, once for each change of the image."),
    Row("backendStore.databaseConnectionCheck", None, "always."),
    Row("backendStore.*", _backend),
    Row("postgresql.*", _backend),
    Row("mysql.*", _backend),
    Row("artifactRoot.*", _artifacts),
    Row("minio.*", _artifacts),
    Row("flaskServerSecretKey", None, "a new one is generated once and kept; users log in again."),
    Row("auth.authorizationFunction", None, "it follows mlflow_server_auth; use mlflow_server_app_name with a plugin "
                                            "in the image."),
    Row("auth.configPath", None, "it follows mlflow_server_auth."),
    Row("auth.configFile", None, "it follows mlflow_server_auth."),
    Row("auth.*", _auth),
    Row("ldapAuth.*", _ldap),
    Row("autoscaling.*", _autoscaling),
    Row("extraArgs", _arguments),
    Row("extraFlags", _flags),
    Row("extraEnvVars", _environment),
    Row("extraSecretNamesForEnvFrom", _environment_from),
    Row("ingress.*", _ingress),
    Row("httpRoute.labels", None, "labels of the route alone; use ingress_patches."),
    Row("httpRoute.rules", None, "the path is ingress_path; use ingress_patches for further rules."),
    Row("httpRoute.*", _route),
    Row("corsAllowedOrigins", "ingress_cors_origins"),
    Row("serverAllowedHosts", "mlflow_server_allowed_hosts"),
    Row("serverHost", None, "always 0.0.0.0; with mlflow_server_auth: oidc requests must pass the proxy or log in."),
    Row("resources", plan.resources),
    Row("serviceMonitor.useServicePort", None, "a PodMonitor scrapes the pods."),
    Row("serviceMonitor.namespace", None, "the PodMonitor is in the namespace of the instance."),
    Row("serviceMonitor.telemetryPath", None, "the metrics have a port of their own (mlflow_server_metrics_port)."),
    Row("serviceMonitor.timeout", None, "use monitoring_patches on the PodMonitor."),
    Row("serviceMonitor.targetLabels", None, "use monitoring_patches on the PodMonitor."),
    Row("serviceMonitor.metricRelabelings", None, "use monitoring_patches on the PodMonitor."),
    Row("serviceMonitor.*", _monitoring),
    Row("nodeSelector", plan.scheduling),
    Row("tolerations", plan.scheduling),
    Row("affinity", plan.scheduling),
    Row("priorityClassName", plan.scheduling),
    Row("extraDeploy", _extra_objects),
    Row("initContainers", "mlflow_server_extra_init_containers"),
    Row("extraContainers", "mlflow_server_extra_containers"),
    Row("extraVolumes", _volumes),
    Row("extraVolumeMounts", _volumes),
    Row("livenessProbe.*", _probes),
    Row("readinessProbe.*", _probes),
    Row("oauth2Proxy.createSecret", _oauth2_proxy),
    Row("oauth2Proxy.listenPort", None, "always 4180 in the pods."),
    Row("oauth2Proxy.cookieSecret", _oauth2_proxy),
    Row("oauth2Proxy.extraEnv", None, "use mlflow_patches with containers: [{name: oauth2-proxy, env: …}]."),
    Row("oauth2Proxy.resources", None, "use mlflow_patches with containers: [{name: oauth2-proxy, resources: …}]."),
    Row("oauth2Proxy.*", _oauth2_proxy),
    Row("oidcAuth.*", _oidc),
)
"""Each option has the first row that is about it."""
