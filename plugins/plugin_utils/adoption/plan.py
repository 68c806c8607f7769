# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From a release to the variables of an instance that means the same.

Each chart has a table of its options (``official.py``, ``community.py``) with one row for each. A row names the
variable that takes the option's value, a function that reads several options at once, or what to use instead where
nothing takes it over. What a user has set and no row knows is reported, too.
"""

from __future__ import annotations

import base64
import json
import posixpath
import re
import urllib.parse
from dataclasses import dataclass, field
from typing import Any, Callable, Iterable, Iterator

from ansible_collections.mlops.mlflow.plugins.module_utils import versions
from ansible_collections.mlops.mlflow.plugins.plugin_utils.adoption.release import CHART, Release, ReleaseError
from ansible_collections.mlops.mlflow.plugins.plugin_utils.bundle import SECRET_NAME
from ansible_collections.mlops.mlflow.plugins.plugin_utils.components import mlflow_server
from ansible_collections.mlops.mlflow.plugins.plugin_utils.model import variables
from ansible_collections.mlops.mlflow.plugins.plugin_utils.survey.inventory import Template

VERSION = re.compile(r"v?([0-9]+\.[0-9]+\.[0-9]+(?:rc[0-9]+)?)(?:[-+].*)?")
DIALECTS = {"postgresql": "postgresql", "postgres": "postgresql", "mysql": "mysql", "mariadb": "mariadb"}
"""Values of database_type by the beginnings of URIs."""
CONTAINERS = ("initContainers", "extraInitContainers", "extraContainers")
"""Options with containers of the user's own."""
PRINCIPAL = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
S3_ENVIRONMENT = {"MLFLOW_S3_ENDPOINT_URL": "object_storage_url", "AWS_DEFAULT_REGION": "object_storage_region",
                  "AWS_REGION": "object_storage_region"}
"""Variables of the environment that the collection sets itself for an S3 store."""
POOL_ENVIRONMENT = {"MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": "database_pool_size",
                    "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW": "database_pool_max_overflow",
                    "MLFLOW_SQLALCHEMYSTORE_POOL_RECYCLE": "database_pool_recycle"}
HELM_LABELS = (CHART, "app.kubernetes.io/managed-by", "app.kubernetes.io/instance", "app.kubernetes.io/version",
               "app.kubernetes.io/name", "app", "version")
"""Labels that the charts give to their objects."""
THREADS = mlflow_server.SIZES["small"].threads
"""Threads of each worker unless mlflow_server_threads says otherwise."""
CLAIM_USER = 1000
"""User of the pods unless mlflow_server_user says otherwise."""


@dataclass(frozen=True)
class Row:
    """An option of a chart.

    Attributes:
        option: its path in the values; ``a.*`` stands for all options below it.
        to: the variable that takes its value, or a function of the adoption, which may be that of several rows; None
            where nothing takes it over.
        instead: what to use instead, or why nothing is needed.
    """

    option: str
    to: str | Callable[[Adoption], None] | None = None
    instead: str = ""

    def covers(self, option: str) -> bool:
        """Whether it is about an option, or one below it."""
        return f"{option}.".startswith(f"{self.option.removesuffix('.*')}.")


@dataclass(frozen=True)
class Finding:
    """What is not taken over.

    Attributes:
        option: of the chart, or what of the release it is about.
        instead: what to use instead.
        data: whether runs, artifacts or users stay behind.
    """

    option: str
    instead: str
    data: bool = False


@dataclass
class Live:
    """What the cluster says beyond the release.

    Attributes:
        objects: live objects by kind and name.
        version: of MLflow in the running pods, or empty.
    """

    objects: dict[tuple[str, str], dict] = field(default_factory=dict)
    version: str = ""

    def value(self, kind: str, name: str, key: str) -> str:
        """A value of a Secret or ConfigMap; empty where it is not known."""
        data = (self.objects.get((kind, name)) or {}).get("data") or {}
        if key not in data:
            return ""
        return base64.b64decode(data[key]).decode() if kind == "Secret" else str(data[key])


class Adoption:
    """What becomes of a release.

    Args:
        release: the release.
        rows: the table of its chart.
        instance: name of the instance.
        live: what the cluster says.
        as_variables: whether secrets that the values hold become variables; else they are put into a Secret.

    Attributes:
        variables: of the inventory host, in the order of the file.
        origins: the options that each follows from.
        made: values of the Secret that the move makes, by key.
        hidden: values of further variables with secrets, by name.
        findings: what is not taken over.
    """

    def __init__(self, release: Release, rows: tuple[Row, ...], instance: str, live: Live | None = None,
                 as_variables: bool = False) -> None:
        self.release, self.rows, self.instance = release, rows, instance
        self.live, self.as_variables = live or Live(), as_variables
        self.values = release.values
        self.variables: dict[str, Any] = {}
        self.origins: dict[str, list[str]] = {}
        self.made: dict[str, str] = {}
        self.hidden: dict[str, str] = {}
        self.findings: list[Finding] = []
        self.claims: set[str] = set()
        self.extra_env: list[dict] = []
        self.deployment = self._deployment()
        self.pod = self.deployment["spec"]["template"]["spec"]
        self.container = next((container for container in self.pod["containers"] if container["name"] == "mlflow"),
                              self.pod["containers"][0])
        self._current: list[Row] = []
        self._given_options = list(self._set_options())

    # -- the release -----------------------------------------------------------------------------------------------

    def _deployment(self) -> dict:
        for obj in self.release.objects:
            if obj["kind"] == "Deployment" and not self.release.of_subchart(obj):
                return obj
        raise ReleaseError(f"Helm release {self.release.name} has no Deployment of MLflow in its manifest.")

    @property
    def fullname(self) -> str:
        """The name of the chart's objects."""
        return self.deployment["metadata"]["name"]

    @property
    def secret_name(self) -> str:
        """The Secret that the move makes of secrets in the values."""
        return f"{self.instance}-adopted"

    def get(self, option: str, default: Any = None) -> Any:
        """The effective value of an option."""
        return lookup(self.values, option, default)

    def given(self, option: str) -> bool:
        """Whether the user has set an option to another value than the chart's."""
        missing = object()
        value = lookup(self.release.config, option, missing)
        return value is not missing and value != lookup(self.release.defaults, option, missing)

    def object(self, kind: str, name: str = "") -> dict | None:
        """An object of the manifest."""
        return next((obj for obj in self.release.objects if obj["kind"] == kind
                     and obj["metadata"]["name"] == (name or self.fullname)), None)

    def environment(self) -> dict[str, dict]:
        """The environment of the container, as the manifest has it."""
        return {entry["name"]: entry for entry in self.container.get("env") or []}

    # -- results ---------------------------------------------------------------------------------------------------

    def run(self) -> Adoption:
        """Fill the results."""
        self.set("mlflow_engine", "kubernetes")
        self.set("mlflow_instance", self.instance)
        self.set("mlflow_namespace", self.release.namespace)
        done = set()
        for row in self.rows:
            self._current = [row]
            if isinstance(row.to, str):
                if not row.option.endswith(".*"):
                    self.set(row.to, self.get(row.option))
            elif row.to and row.to not in done:
                done.add(row.to)
                self._current = [other for other in self.rows if other.to == row.to]
                row.to(self)
        self._current = []
        self.set("mlflow_server_extra_env", self.extra_env)
        logins = self.variables.get("mlflow_server_auth", "none") != "none"
        if logins and self.variables.pop("mlflow_server_artifacts", None):
            self.report("artifacts", "clients wrote artifacts to the store themselves; with logins they go through the "
                                     "server, and those of existing experiments as before.")
        self._report()
        return self

    def set(self, variable: str, value: Any, always: bool = False) -> None:
        """Give a variable a value, unless it is the default of the variable."""
        if value is None or not always and value == variables.default_of(variables.SPECS[variable]):
            return
        if variable in self.variables and self.variables[variable] != value:
            if isinstance(value, list):
                value = self.variables[variable] + [entry for entry in value if entry not in self.variables[variable]]
            elif isinstance(value, dict):
                value = {**self.variables[variable], **value}
        self.variables[variable] = value
        options = [option for option in self._given_options if self.row(option) in self._current] or [
            row.option for row in self._current]
        self.origins[variable] = list(dict.fromkeys([*self.origins.get(variable, ()), *options]))

    def report(self, option: str, instead: str, data: bool = False) -> None:
        """Tell of what is not taken over."""
        finding = Finding(option, instead, data)
        if finding not in self.findings:
            self.findings.append(finding)

    def secret(self, key: str, value: str) -> dict:
        """The reference to a secret that the values hold, for the environment of a container."""
        self.made[key] = value
        return {"secretKeyRef": {"name": self.secret_name, "key": key}}

    def _report(self) -> None:
        """What the user has set and nothing takes over."""
        reported = {finding.option for finding in self.findings}
        for option in self._given_options:
            row = self.row(option)
            if row and row.to is None:
                self.report(option, row.instead)
            elif not row and option not in reported:
                self.report(option, "unknown to this collection; look up what it does, and use mlflow_patches for a "
                                    "field of an object.")

    def row(self, option: str) -> Row | None:
        """The row of an option."""
        return next((row for row in self.rows if row.covers(option)), None)

    def _set_options(self) -> Iterator[str]:
        exact = {row.option for row in self.rows if not row.option.endswith(".*")}

        def walk(given: dict, path: str) -> Iterator[str]:
            for key, value in given.items():
                option = f"{path}{key}"
                if isinstance(value, dict) and value and option not in exact:
                    yield from walk(value, f"{option}.")
                elif self.given(option):
                    yield option

        return walk(self.release.config, "")

    # -- volumes ---------------------------------------------------------------------------------------------------

    def volume(self, path: str) -> tuple[dict, str] | None:
        """The volume that a path of the container is on, and the path in it; None where it is in the container."""
        found: tuple[str, dict] | None = None
        for mount in self.container.get("volumeMounts") or []:
            root = mount["mountPath"].rstrip("/")
            if f"{path}/".startswith(f"{root}/") and (found is None or len(root) > len(found[0])):
                found = root, mount
        if not found:
            return None
        root, mount = found
        source = next((volume for volume in self.pod.get("volumes") or [] if volume["name"] == mount["name"]), {})
        inner = posixpath.join(mount.get("subPath") or "", posixpath.relpath(path, root or "/"))
        return source, "" if inner == "." else posixpath.normpath(inner)

    def claim(self, path: str) -> tuple[str, str] | None:
        """The claim that a path of the container is on, and the path in it."""
        found = self.volume(path)
        name = found and (found[0].get("persistentVolumeClaim") or {}).get("claimName")
        if not found or not name:
            return None
        self.claims.add(name)
        self._user()
        return name, found[1]

    def _user(self) -> None:
        """The user whose files are in a claim."""
        contexts = (self.container.get("securityContext") or {}, self.pod.get("securityContext") or {})
        user = next((context["runAsUser"] for context in contexts if context.get("runAsUser")), CLAIM_USER)
        self.set("mlflow_server_user", int(user))

    def access_mode(self, claim: str) -> str:
        """The access mode of a claim."""
        obj = self.live.objects.get(("PersistentVolumeClaim", claim)) or self.object("PersistentVolumeClaim", claim)
        modes = ((obj or {}).get("spec") or {}).get("accessModes") or ["ReadWriteOnce"]
        return next((mode for mode in ("ReadWriteMany", "ReadWriteOnce") if mode in modes), modes[0])


def lookup(values: dict, option: str, default: Any = None) -> Any:
    """The value at a path of a mapping."""
    found: Any = values
    for key in option.split("."):
        if not isinstance(found, dict) or key not in found:
            return default
        found = found[key]
    return found


# -- version and image ---------------------------------------------------------------------------------------------


def version(a: Adoption, image: str, tag: str) -> None:
    """The version of MLflow, and the image where it is one of the user's own.

    Args:
        a: the adoption.
        image: repository of the chart's own image.
        tag: of the image that runs.
    """
    tagged = VERSION.fullmatch(tag) or VERSION.fullmatch(a.release.app_version)
    found = a.live.version or (tagged.group(1) if tagged else "")
    if not found:
        a.report("image.tag", "the version of MLflow is not known; set mlflow_version to the one that runs.", data=True)
        return
    a.set("mlflow_version", found, always=True)
    runs = a.container["image"]
    if runs.split("@")[0].rpartition(":")[0] != image or "@" in runs:
        a.set("mlflow_server_image", runs)
    if versions.HAS_PACKAGING and versions.Version(found) < versions.Version(versions.SUPPORTED[0]):
        a.report("image.tag", f"MLflow {found} is older than {versions.SUPPORTED[0]}, the oldest version that this "
                              "collection runs; upgrade the release by Helm first.", data=True)


# -- stores --------------------------------------------------------------------------------------------------------


def database(a: Adoption, option: str, uri: str, reference: dict | None = None) -> None:
    """The database of a URI.

    Args:
        a: the adoption.
        option: of the chart, for the report.
        uri: of SQLAlchemy; empty where it is not known.
        reference: Secret and key that hold it, if any do.
    """
    scheme = uri.partition(":")[0]
    dialect, _plus, driver = scheme.partition("+")
    if dialect == "sqlite":
        sqlite(a, option, uri)
    elif reference:
        a.set("database_type", DIALECTS.get(dialect, "other") if uri else "postgresql")
        a.set("database_existing_secret", reference["name"])
        a.set("database_existing_secret_keys", {"uri": reference["key"]})
        if not uri:
            a.report(option, f"Secret {reference['name']} cannot be read; check database_type.")
    elif dialect in DIALECTS:
        _server(a, option, uri, DIALECTS[dialect], driver)
    else:
        a.set("database_type", "other")
        by_secret(a, {"uri": ("database-uri", uri)})


def _server(a: Adoption, option: str, uri: str, kind: str, driver: str) -> None:
    try:
        parts = urllib.parse.urlsplit(uri)
        port = parts.port
    except ValueError:
        a.report(option, "the URI cannot be read; set database_host and its neighbours.", data=True)
        return
    if "$(" in uri or not parts.hostname:
        a.report(option, "the URI takes parts from the environment; set database_host, database_name and a Secret "
                         "with the login (database_existing_secret).", data=True)
        return
    a.set("database_type", kind)
    known = mlflow_server.database.DRIVERS["postgresql" if kind == "postgresql" else "mysql"]
    a.set("database_driver", "" if driver == known[0] else driver)
    a.set("database_host", parts.hostname)
    a.set("database_port", port)
    a.set("database_name", urllib.parse.unquote(parts.path.lstrip("/")))
    a.set("database_query", dict(urllib.parse.parse_qsl(parts.query)))
    user, password = (urllib.parse.unquote(part or "") for part in (parts.username, parts.password))
    login(a, user, password)


def login(a: Adoption, user: str, password: str) -> None:
    """The login of a database server, whose values the release holds."""
    if not password:
        a.set("database_user", user)
        a.set("database_passwordless", True)
    elif a.as_variables:
        a.set("database_user", user)
        a.set("database_password", password)
    else:
        by_secret(a, {"user": ("database-user", user), "password": ("database-password", password)})


def by_secret(a: Adoption, parts: dict[str, tuple[str, str]]) -> None:
    """A login in the Secret that the move makes."""
    for key, value in parts.values():
        a.secret(key, value)
    a.set("database_existing_secret", a.secret_name)
    a.set("database_existing_secret_keys", {part: key for part, (key, _value) in parts.items()})


def sqlite(a: Adoption, option: str, uri: str) -> None:
    """SQLite, whose file stays where it is."""
    path = urllib.parse.urlsplit(uri).path.removeprefix("/") if uri.startswith("sqlite:///") else ""
    a.set("database_type", "sqlite")
    found = a.claim(path) if path.startswith("/") else None
    if found and found[1]:
        claim, inner = found
        a.set("database_existing_claim", claim)
        a.set("database_sqlite_path", inner)
    else:
        a.report(option, f"SQLite's file {path or ':memory:'} is on no PersistentVolumeClaim, so that its runs end "
                         "with the chart's pod; copy it to a claim first, or begin with an empty database.", data=True)


def artifacts(a: Adoption, option: str, uri: str) -> None:
    """The artifact store of a URI or a path of the server."""
    parts = urllib.parse.urlsplit(uri)
    prefix = parts.path.strip("/")
    if parts.scheme in ("s3", "gs"):
        a.set("object_storage_type", "s3" if parts.scheme == "s3" else "gcs")
        a.set("object_storage_bucket", parts.netloc)
        a.set("object_storage_prefix", prefix)
    elif parts.scheme in ("wasb", "wasbs") and parts.hostname:
        a.set("object_storage_type", "azure")
        a.set("object_storage_bucket", parts.username or "")
        a.set("object_storage_azure_account", parts.hostname.split(".")[0])
        a.set("object_storage_prefix", prefix)
    elif parts.scheme in ("", "file"):
        _folder(a, option, parts.path)
    else:
        a.set("object_storage_type", "uri")
        a.set("object_storage_uri", uri)


def _folder(a: Adoption, option: str, path: str) -> None:
    """Artifacts in a folder of the server's pods."""
    found = a.claim(path.rstrip("/") or "/") if path.startswith("/") else None
    if found:
        claim, inner = found
        a.set("object_storage_type", "volume")
        a.set("object_storage_existing_claim", claim)
        a.set("object_storage_prefix", inner)
        a.set("object_storage_access_mode", a.access_mode(claim))
        return
    a.set("object_storage_type", "volume")
    a.report(option, f"artifacts in {path} are on no PersistentVolumeClaim, so that they end with the chart's pod; the "
                     "instance gets a volume of its own, to which they are not copied.", data=True)


def direct(a: Adoption, option: str, root: str) -> None:
    """The artifact store of a default root, to which clients connect themselves."""
    path = urllib.parse.urlsplit(root).path
    if urllib.parse.urlsplit(root).scheme not in ("", "file"):
        artifacts(a, option, root)
        a.set("mlflow_server_artifacts", "direct")
        return
    if path.startswith("/") and a.claim(path.rstrip("/")):
        _folder(a, option, path)
    a.set("object_storage_type", "volume")
    a.report(option, f"clients wrote artifacts to {root} on their own machines; new experiments get mlflow-artifacts:, "
                     "through the server, and those that exist keep their place.")


def volumes(a: Adoption, option: str, mounts: str) -> None:
    """Further volumes, without those that the stores mount themselves.

    Args:
        a: the adoption, whose stores are known.
        option: with the volumes.
        mounts: the option with their mounts.
    """
    entries = a.get(option) or []
    taken = {volume["name"] for volume in entries
             if (volume.get("persistentVolumeClaim") or {}).get("claimName") in a.claims}
    others = {mount["name"] for field in CONTAINERS for container in a.get(field) or []
              for mount in container.get("volumeMounts") or []}
    a.set("mlflow_server_extra_volumes", [volume for volume in entries if volume["name"] not in taken - others])
    a.set("mlflow_server_extra_volume_mounts", [mount for mount in a.get(mounts) or [] if mount["name"] not in taken])


# -- environment ---------------------------------------------------------------------------------------------------


def environment(a: Adoption, entries: Iterable[dict]) -> None:
    """Variables of the environment: those that variables of the collection set, and the others as they are.

    Args:
        a: the adoption, whose artifact store is known.
        entries: as in a container's ``env``.
    """
    known = {entry["name"]: entry for entry in entries}
    s3 = a.variables.get("object_storage_type") == "s3"
    if s3:
        _keys(a, known)
    for name, entry in list(known.items()):
        value = entry.get("value")
        if value is None:
            continue
        taken = True
        if s3 and name in S3_ENVIRONMENT:
            a.set(S3_ENVIRONMENT[name], str(value).rstrip("/") if name.endswith("URL") else str(value))
        elif s3 and name == "MLFLOW_S3_IGNORE_TLS":
            a.set("object_storage_validate_certs", str(value).lower() not in ("true", "1"))
        elif s3 and name == "MLFLOW_S3_UPLOAD_EXTRA_ARGS" and _json(value):
            a.set("object_storage_upload_args", _json(value))
        elif name in POOL_ENVIRONMENT and str(value).isdigit():
            a.set(POOL_ENVIRONMENT[name], int(value))
            if name.endswith("POOL_SIZE") and 0 < int(value) < THREADS:  # each thread has a connection
                a.set("mlflow_server_threads", int(value))
        elif name == "MLFLOW_UVICORN_OPTS":
            uvicorn(a, str(value))
        elif name in ("MLFLOW_SERVER_ALLOWED_HOSTS", "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"):
            a.set("mlflow_server_allowed_hosts" if "HOSTS" in name else "ingress_cors_origins", _list(value))
        else:
            taken = False
        if taken:
            del known[name]
    a.extra_env += [hidden(a, entry) for entry in known.values()]


def hidden(a: Adoption, entry: dict, is_secret: bool = False) -> dict:
    """An entry of an environment without a secret in it.

    Args:
        a: the adoption.
        entry: as in a container's ``env``.
        is_secret: whether its value is a secret, whatever its name.
    """
    name, value = entry["name"], entry.get("value")
    if not value or not (is_secret or SECRET_NAME.search(name)):
        return {"name": name, "value": str(value)} if value is not None else entry
    if a.as_variables:
        variable = f"adopted_{name.lower()}"
        a.hidden[variable] = str(value)
        return {"name": name, "value": Template(f"{{{{ {variable} }}}}")}
    return {"name": name, "valueFrom": a.secret(name, str(value))}


def _keys(a: Adoption, known: dict[str, dict]) -> None:
    """The keys of an S3 store in the environment."""
    if not all(name in known for name in PRINCIPAL) or a.variables.get("object_storage_existing_secret"):
        return
    references = [(known[name].get("valueFrom") or {}).get("secretKeyRef") for name in PRINCIPAL]
    if all(references) and references[0]["name"] == references[1]["name"]:
        a.set("object_storage_existing_secret", references[0]["name"])
        a.set("object_storage_existing_secret_keys",
              {"access_key": references[0]["key"], "secret_key": references[1]["key"]})
    elif all(known[name].get("value") for name in PRINCIPAL):
        store_keys(a, known[PRINCIPAL[0]]["value"], known[PRINCIPAL[1]]["value"])
    else:
        return
    for name in PRINCIPAL:
        del known[name]


def store_keys(a: Adoption, access_key: str, secret_key: str) -> None:
    """Keys of an S3 store that the release holds."""
    if a.as_variables:
        a.set("object_storage_access_key", str(access_key))
        a.set("object_storage_secret_key", str(secret_key))
        return
    for name, value in zip(PRINCIPAL, (access_key, secret_key)):
        a.secret(name, str(value))
    a.set("object_storage_existing_secret", a.secret_name)


def _json(value: Any) -> dict:
    try:
        found = json.loads(value)
    except (ValueError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _list(value: Any) -> list[str]:
    return [part.strip() for part in str(value).split(",") if part.strip()]


# -- arguments -----------------------------------------------------------------------------------------------------


def uvicorn(a: Adoption, text: str) -> None:
    """Options of uvicorn as a text."""
    own = [argument for argument in text.strip("'\" ").split()
           if argument.split("=")[0] not in mlflow_server.OWN_UVICORN_ARGUMENTS and argument != "--proxy-headers"]
    joined: list[str] = []
    for argument in own:  # `--name value` becomes one argument
        if argument.startswith("-") or not joined:
            joined.append(argument)
        else:
            joined[-1] += f"={argument}"
    a.set("mlflow_server_uvicorn_args", joined)


def argument(a: Adoption, name: str, value: Any, option: str) -> None:
    """An option of `mlflow server` with a value.

    Args:
        a: the adoption.
        name: without hyphens at its beginning.
        value: its value; True for none.
        option: of the chart, for the report.
    """
    taken: dict[str, Callable[[], None]] = {
        "workers": lambda: a.set("mlflow_server_workers", int(value)),
        "static-prefix": lambda: a.set("mlflow_server_path_prefix", str(value).rstrip("/")),
        "allowed-hosts": lambda: a.set("mlflow_server_allowed_hosts", _list(value)),
        "cors-allowed-origins": lambda: a.set("ingress_cors_origins", _list(value)),
        "app-name": lambda: application(a, str(value), option),
        "uvicorn-opts": lambda: uvicorn(a, str(value)),
        "enable-workspaces": lambda: a.set("mlflow_server_workspaces", True),
        "host": lambda: None, "port": lambda: None, "serve-artifacts": lambda: None,
        "backend-store-uri": lambda: database(a, option, str(value)),
        "artifacts-destination": lambda: artifacts(a, option, str(value)),
        "default-artifact-root": lambda: a.set("mlflow_server_default_artifact_root", str(value)),
    }
    if name in taken:
        taken[name]()
        return
    text = f"--{name}" if value is True else f"--{name}={value}"
    if f"--{name}" in mlflow_server.OWN_ARGUMENTS:
        a.report(option, f"use {mlflow_server.OWN_ARGUMENTS[f'--{name}']} for {text}.")
    else:
        a.set("mlflow_server_extra_args", [text])


def application(a: Adoption, name: str, option: str) -> None:
    """An application of MLflow that asks for logins, which must not become one that does not."""
    if name == "basic-auth":
        a.set("mlflow_server_auth", "basic")
        a.report(option, "users and permissions are in the database that the configuration of basic-auth names; "
                         "the instance has them in the tracking database, and makes an administrator.", data=True)
    else:
        a.set("mlflow_server_app_name", name)
        a.set("mlflow_server_image", a.container["image"])


# -- Kubernetes ----------------------------------------------------------------------------------------------------


def names(entries: list) -> list[str]:
    """Names of mappings with a name, or names as they are."""
    return [entry["name"] if isinstance(entry, dict) else entry for entry in entries or []]


def service(a: Adoption) -> None:
    """The Service, which keeps its name, its address and its port, so that clients go on."""
    obj = a.object("Service")
    a.set("mlflow_server_service_name", a.fullname)
    if not obj:
        return
    a.set("mlflow_server_service_type", obj["spec"].get("type") or "ClusterIP")
    a.set("mlflow_server_service_annotations", a.get("service.annotations"))
    main = obj["spec"]["ports"][-1] if len(obj["spec"]["ports"]) > 1 else obj["spec"]["ports"][0]
    port = (a.container.get("ports") or [{}])[0].get("containerPort", 5000)
    a.set("mlflow_server_port", port)
    a.set("mlflow_server_service_port", main["port"] if main["port"] != port or len(obj["spec"]["ports"]) > 1 else 0)
    live = a.live.objects.get(("Service", a.fullname))
    ports = ((live or {}).get("spec") or {}).get("ports") or []
    if a.variables.get("mlflow_server_service_type"):
        found = next((entry.get("nodePort") for entry in ports if entry["port"] == main["port"]), None)
        a.set("mlflow_server_service_node_port", found or 0)


def service_account(a: Adoption, token: str) -> None:
    """The ServiceAccount, which keeps its name, by which a cloud knows it.

    Args:
        a: the adoption.
        token: the option about its token.
    """
    a.set("mlflow_server_service_account", a.pod.get("serviceAccountName") or "default")
    a.set("mlflow_server_service_account_create", bool(a.get("serviceAccount.create")), always=True)
    if a.get("serviceAccount.create"):
        a.set("mlflow_server_service_account_annotations", a.get("serviceAccount.annotations"))
    if a.given(token) or a.get("namespace_rbac.extraRules") or a.get("cluster_rbac.extraRules"):
        a.set("mlflow_server_service_account_token", bool(a.get(token)))


def resources(a: Adoption) -> None:
    """Exactly the resources of the chart."""
    a.set("mlflow_server_preset_resources", False)
    a.set("mlflow_server_resources", a.get("resources"))


def scheduling(a: Adoption) -> None:
    """Where the server's pods run."""
    found = {field: a.get(field) for field in ("nodeSelector", "tolerations", "topologySpreadConstraints",
                                               "priorityClassName") if a.get(field)}
    a.set("mlflow_server_scheduling", found)
    a.set("mlflow_server_affinity", a.get("affinity"))


def probes(a: Adoption, places: dict[str, str]) -> None:
    """The timing of probes, as far as the user has set it.

    Args:
        a: the adoption.
        places: option above the timing, by probe.
    """
    found = {}
    for probe, option in places.items():
        given = {name: value for name, value in (a.get(option) or {}).items()
                 if name != "enabled" and not isinstance(value, dict) and a.given(f"{option}.{name}")}
        if given:
            found[probe] = given
        if a.get(f"{option}.enabled") is False:
            a.report(f"{option}.enabled", "probes are always on; mlflow_server_probes sets their timing.")
    a.set("mlflow_server_probes", found)


def security(a: Adoption, instead: str) -> None:
    """Contexts that the user has set, but for the user of the files in a claim, which is taken over.

    Args:
        a: the adoption.
        instead: what is reported.
    """
    for context in ("podSecurityContext", "securityContext"):
        for name in a.get(context) or {}:
            if name not in ("runAsUser", "runAsGroup", "fsGroup") and a.given(f"{context}.{name}"):
                a.report(f"{context}.{name}", instead)


def objects(a: Adoption, entries: Iterable[dict]) -> None:
    """Objects that stay as they are."""
    kept = []
    for obj in entries:
        if obj["kind"] == "Secret":
            a.report(f"Secret {obj['metadata']['name']}", "stays in the cluster as it is, and is not in the inventory.")
            continue
        metadata = {key: value for key, value in obj["metadata"].items() if key in ("name", "annotations")}
        labels = {key: value for key, value in (obj["metadata"].get("labels") or {}).items() if key not in HELM_LABELS}
        metadata |= {"labels": labels} if labels else {}
        kept.append({**{key: value for key, value in obj.items() if key != "metadata"}, "metadata": metadata})
    a.set("mlflow_server_extra_objects", kept)


def ingress(a: Adoption, server_path: str) -> None:
    """The Ingress.

    Args:
        a: the adoption.
        server_path: path of the server, or empty.
    """
    if not a.get("ingress.enabled"):
        return
    a.set("ingress_type", "ingress")
    a.set("ingress_class", a.get("ingress.className"))
    a.set("ingress_annotations", a.get("ingress.annotations"))
    hosts = {str(entry["host"]).lower(): entry.get("paths") or [] for entry in a.get("ingress.hosts") or []
             if entry.get("host")}
    if len(hosts) < len(a.get("ingress.hosts") or []):
        a.report("ingress.hosts", "an entry without a host takes requests for all names; name the hosts in "
                                  "ingress_hosts.")
    ordered = sorted(hosts, key=lambda host: host.startswith("*"))
    a.set("ingress_hosts", ordered)
    a.set("ingress_host_options", _paths(a, {host: hosts[host] for host in ordered}, server_path))
    _tls(a, a.get("ingress.tls") or [], ordered)


def _paths(a: Adoption, hosts: dict[str, list], server_path: str) -> dict[str, dict]:
    """Set ingress_path, and return the options of hosts with paths of their own."""
    kinds = {entry.get("pathType") or "ImplementationSpecific" for paths in hosts.values() for entry in paths}
    if kinds == {"ImplementationSpecific"}:
        a.set("ingress_path_type", "ImplementationSpecific")
    elif "Exact" in kinds:
        a.report("ingress.hosts", "pathType Exact forwards one path alone; the instance has Prefix.")
    paths = {host: [str(entry.get("path") or "/").rstrip("/") for entry in entries] or [""]
             for host, entries in hosts.items()}
    different = {path for listed in paths.values() for path in listed}
    if different <= {"", server_path}:
        a.set("ingress_path", server_path)
        return {}
    if len(different) == 1 and not server_path:
        a.set("ingress_path", different.pop())
        a.set("ingress_rewrite", True)
        return {}
    a.set("ingress_path", server_path)
    return {host: {"paths": [path or "/" for path in listed]} for host, listed in paths.items()
            if set(listed) - {"", server_path}}


def _tls(a: Adoption, entries: list[dict], hosts: list[str]) -> None:
    named = [(entry["secretName"], entry.get("hosts") or hosts) for entry in entries if entry.get("secretName")]
    if not entries:
        return
    if not named:
        a.set("ingress_tls", "controller")
        return
    a.set("ingress_tls", "secret")
    a.set("ingress_tls_secret", named[0][0])
    options = {host: {"tls_secret": secret} for secret, of in named[1:] for host in of if host in hosts}
    former = a.variables.get("ingress_host_options") or {}
    a.set("ingress_host_options", {host: {**former.get(host, {}), **option} for host, option in options.items()})


def gateway(a: Adoption, enabled: str, server_path: str) -> None:
    """The HTTPRoute.

    Args:
        a: the adoption.
        enabled: the option above it: gateway or httpRoute.
        server_path: path of the server, or empty.
    """
    if not a.get(f"{enabled}.enabled"):
        return
    parents = a.get(f"{enabled}.parentRefs") or [{}]
    a.set("ingress_type", "gateway")
    a.set("ingress_gateway", {name: parents[0][key] for name, key in (
        ("name", "name"), ("namespace", "namespace"), ("section_name", "sectionName")) if parents[0].get(key)})
    a.set("ingress_hosts", a.get(f"{enabled}.hostnames"))
    a.set("ingress_annotations", a.get(f"{enabled}.annotations"))
    a.set("ingress_path", server_path)
    a.set("ingress_tls", "controller" if "https" in str(parents[0].get("sectionName", "")) else "none")
    if len(parents) > 1:
        a.report(f"{enabled}.parentRefs", "ingress_gateway names one Gateway; add others by ingress_patches.")
