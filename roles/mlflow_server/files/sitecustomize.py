"""What the server's pod needs of MLflow that no setting of MLflow gives. Python loads this file at its start.

Changes MLflow's modules as they are loaded, and reports for each behaviour that this instance asks for whether
MLflow has what it takes, as JSON in the file that MLOPS_MLFLOW_HOOKS names (/tmp/mlops-mlflow-hooks.json):

{"mlflow": "3.10.0", "behaviours": {"hosts": "", "artifacts_streamed": "MLflow 3.10.0 has no ...; ..."}}

An empty text means that the behaviour is there, any other says what is missing; the server logs it once. Where logins
or the check of the Host header would be missing, the server does not start.
"""

import fcntl
import importlib
import importlib.abc
import importlib.util
import json
import os
import pathlib
import re
import sys
import types
import urllib.parse

PREFIX = "_MLFLOW_STATIC_PREFIX"
"""How `mlflow server` tells its workers of --static-prefix."""
REPORT = pathlib.Path(os.environ.get("MLOPS_MLFLOW_HOOKS", "/tmp/mlops-mlflow-hooks.json"))
SERVER = "_MLOPS_MLFLOW_SERVER"
"""Set by `mlflow server` for its workers: only these write the report, not every program that runs in the container."""
NOT_RUN = "the hook for it has not run: MLflow never loaded the module that it changes"
OLDEST_WITH_LOGINS = (3, 10)
"""Before, MLflow's FastAPI routes (traces, jobs, the assistant) answered without a login although logins were on."""
OLDEST_BELOW_A_PATH = (3, 16)
"""Before, MLflow's check of origins did not know --static-prefix."""
PROXY_LOGIN_NEEDS = {
    "__init__.py": (
        "store",
        "get_auth_func",
        "make_basic_auth_response",
        "authenticate_request_basic_auth",
        "_authenticate_custom_for_fastapi",
    ),
    "sqlalchemy_store.py": ("has_user", "create_user", "get_user", "update_user"),
}
"""What proxy_login.py, and its use for all routes, need of each file of mlflow.server.auth."""


def complete_uris():
    """Put the database's login, which the environment has on its own, into the URIs, quoted.

    For drivers that, unlike PostgreSQL's, read no login from the environment themselves.
    """
    if "DATABASE_USER" not in os.environ:
        return
    login = ":".join(urllib.parse.quote(os.environ[name], safe="") for name in ("DATABASE_USER", "DATABASE_PASSWORD"))
    for name in ("MLFLOW_BACKEND_STORE_URI", "MLFLOW_READ_REPLICA_BACKEND_STORE_URI"):
        scheme, separator, rest = os.environ.get(name, "").partition("://")
        if separator and "@" not in rest:
            os.environ[name] = f"{scheme}://{login}@{rest}"


class Hook(importlib.abc.MetaPathFinder):
    """Calls functions right before and after a module is executed for the first time; `after` gets the module."""

    def __init__(self, name, before=None, after=None):
        self.name, self.before, self.after = name, before, after

    def find_spec(self, name, path, target=None):
        if name != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module):
            if self.before:
                self.before()
            execute(module)
            if self.after:
                self.after(module)

        spec.loader.exec_module = exec_module
        return spec


def version():
    """MLflow's version as text, such as 3.17.2."""
    return importlib.import_module("mlflow.version").VERSION


def release():
    """MLflow's version as numbers, to be compared."""
    return tuple(int(number) for number in re.findall(r"\d+", version())[:3])


def refuse(reason):
    """End this process, before it serves anything, with a sentence."""
    raise SystemExit(f"mlops.mlflow: the server is not started: {reason}")


def report(**behaviours):
    """Add to the report, and log what is newly known to be missing. None: the hook has not run in this process yet."""
    if SERVER not in os.environ:
        return
    try:
        with open(f"{REPORT}.lock", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            known = json.loads(REPORT.read_text(encoding="utf-8"))["behaviours"] if REPORT.exists() else {}
            fresh = [text for name, text in behaviours.items() if text and text != known.get(name)]
            done = {name: text for name, text in behaviours.items() if text is not None}
            temporary = pathlib.Path(f"{REPORT}.new")
            temporary.write_text(
                json.dumps(
                    {"mlflow": version(), "behaviours": {**dict.fromkeys(behaviours, NOT_RUN), **known, **done}}
                ),
                encoding="utf-8",
            )
            temporary.replace(REPORT)
    except (OSError, ValueError, KeyError) as error:
        fresh = [f"the report of missing behaviours cannot be written to {REPORT}: {error}"]
    for text in fresh:
        print(f"mlops.mlflow: {text}", file=sys.stderr, flush=True)


def file_of(module):
    """Source text of a module that is not loaded for it; empty where MLflow has no such module."""
    parts = module.split(".")
    folder = pathlib.Path(importlib.import_module(parts[0]).__path__[0]).joinpath(*parts[1:])
    for path in (folder.with_suffix(".py"), folder / "__init__.py"):
        if path.is_file():
            return path.read_text(encoding="utf-8")
    return ""


def missing_for_proxy_login():
    """Names that proxy_login.py needs and that this MLflow does not have."""
    missing = []
    for file, names in PROXY_LOGIN_NEEDS.items():
        module = "mlflow.server.auth" if file == "__init__.py" else "mlflow.server.auth." + file.removesuffix(".py")
        source = file_of(module)
        missing += [
            f"{module}.{name}"
            for name in names
            if not re.search(rf"^\s*(def |async def )?{name}\b", source, re.MULTILINE)
        ]
    return missing


def check():
    """Before MLflow's server is loaded: refuse what would leave it open, and begin the report."""
    if "server" in sys.argv[1:] and SERVER not in os.environ:
        os.environ[SERVER] = str(os.getpid())
        REPORT.unlink(missing_ok=True)
    if os.environ.get("MLFLOW_SERVER_ALLOWED_HOSTS"):
        if "MLFLOW_SERVER_ALLOWED_HOSTS" not in file_of("mlflow.server.security_utils"):
            refuse(
                f"MLflow {version()} has no check of the Host header (MLFLOW_SERVER_ALLOWED_HOSTS); choose 3.10.0 or "
                "newer"
            )
        report(hosts="")
    below_a_path = os.environ.get(PREFIX) or any(argument.startswith("--static-prefix") for argument in sys.argv)
    if below_a_path and release() < OLDEST_BELOW_A_PATH:
        refuse(
            f"MLflow {version()} does not check the origin of requests below a path (--static-prefix), so that pages "
            "of other sites could write; choose 3.16.0 or newer"
        )
    if os.environ.get("MLFLOW_AUTH_CONFIG_PATH"):
        if release() < OLDEST_WITH_LOGINS:
            refuse(
                f"MLflow {version()} answers /v1/traces and the API of jobs without a login although logins are on; "
                "choose 3.10.0 or newer"
            )
        report(logins="")
    if os.environ.get("AUTH_PROXY_SECRET"):
        missing = missing_for_proxy_login()
        if missing:
            refuse(
                f"MLflow {version()} has no {', '.join(missing)}, by which the logins of a proxy (mlflow_server_auth "
                "proxy and oidc) work; choose a version from 3.15.0 to the newest supported"
            )
        report(proxy_login=None)
    if os.environ.get("MLFLOW_ENABLE_WORKSPACES", "false").lower() in ("true", "1"):
        known = "MLFLOW_ENABLE_WORKSPACES" in file_of("mlflow.environment_variables")
        report(workspaces="" if known else f"MLflow {version()} has no workspaces; everything is in one")
    if os.environ.get("MLFLOW_ARTIFACTS_PROXIED"):
        report(artifacts_proxied=None, artifacts_streamed=None)


def proxied(handlers):
    """Keep artifacts on their way through the server where mlflow_server_artifacts is `proxied`.

    Since 3.15 MLflow's server tells every client to fetch artifacts by presigned URLs whenever they are in S3, and has
    no switch against it. Those URLs lead to the store by the name that the server knows it by, which clients outside
    the cluster cannot resolve, so that every download of theirs would fail. This makes the server answer that it has
    no such URLs, which clients have long understood.
    """
    mixins = (
        ("MultipartUploadMixin",)
        if release() < (3, 14)
        else ("MultipartUploadMixin", "MultipartDownloadMixin", "PresignedUploadMixin")
    )
    missing = [mixin for mixin in mixins if not hasattr(handlers, mixin)]
    for mixin in mixins:
        if mixin not in missing:
            setattr(handlers, mixin, type("NoStoreHasThis", (), {}))
    report(
        artifacts_proxied=missing
        and (
            f"MLflow {version()} has no {', '.join(f'mlflow.server.handlers.{mixin}' for mixin in missing)}; clients "
            "may be sent to the object store by presigned URLs, which mlflow_server_artifacts proxied is to prevent"
        )
        or ""
    )


def streamed(fastapi_app):
    """Stream artifacts below mlflow_server_path_prefix, too.

    MLflow's routes that do are at its root alone; those below a path hold each artifact in memory, at twice its size.
    A request for one is taken for the same at the root before anything else looks at it, logins and permissions
    included.
    """
    if not hasattr(fastapi_app, "artifact_router"):
        return report(
            artifacts_streamed=f"MLflow {version()} has no mlflow.server.artifact_router; the server holds each "
            "artifact in memory, at twice its size, until it is passed on"
        )
    if os.environ.get(PREFIX):
        if not hasattr(fastapi_app, "FastAPI"):
            return report(
                artifacts_streamed=f"MLflow {version()} has no mlflow.server.fastapi_app.FastAPI; below "
                f"{os.environ[PREFIX]} the server holds each artifact in memory, at twice its size"
            )
        below(fastapi_app.FastAPI, os.environ[PREFIX].rstrip("/"))
    return report(artifacts_streamed="")


def below(application, prefix):
    """Take requests for artifacts below a path for the same at the root."""
    answer = application.__call__
    artifacts = tuple(f"{prefix}/{api}/2.0/mlflow-artifacts/artifacts/" for api in ("api", "ajax-api"))

    async def at_the_root(self, scope, receive, send):
        if scope["type"] == "http" and scope["method"] in ("GET", "PUT") and scope["path"].startswith(artifacts):
            scope = {**scope, "path": scope["path"][len(prefix) :], "raw_path": scope["raw_path"][len(prefix) :]}
        await answer(self, scope, receive, send)

    application.__call__ = at_the_root


def administrator(config):
    """Let the administrator's name and password come from the environment, which MLflow itself reads since 3.16."""
    if hasattr(config, "MLFLOW_AUTH_ADMIN_PASSWORD"):
        return report(administrator="")
    if not hasattr(config, "configparser"):
        return refuse(
            f"MLflow {version()} has no mlflow.server.auth.config.configparser, by which the administrator's password "
            "is handed over"
        )
    settings = {
        option: os.environ[variable].replace("%", "%%")
        for option, variable in (
            ("admin_username", "MLFLOW_AUTH_ADMIN_USERNAME"),
            ("admin_password", "MLFLOW_AUTH_ADMIN_PASSWORD"),
        )
        if variable in os.environ
    }

    class Parser(config.configparser.ConfigParser):
        def read(self, *arguments, **options):
            names = super().read(*arguments, **options)
            self.read_dict({"mlflow": settings})
            return names

    config.configparser = types.SimpleNamespace(ConfigParser=Parser)
    return report(administrator="")


def loaded_login(_module):
    report(proxy_login="")


complete_uris()
sys.meta_path.insert(0, Hook("mlflow.server", before=check))
if os.environ.get("MLFLOW_ARTIFACTS_PROXIED"):
    sys.meta_path.insert(0, Hook("mlflow.server.handlers", after=proxied))
if os.environ.get("MLFLOW_ARTIFACTS_PROXIED") or os.environ.get(PREFIX):
    sys.meta_path.insert(0, Hook("mlflow.server.fastapi_app", after=streamed))
if os.environ.get("MLFLOW_AUTH_CONFIG_PATH"):
    sys.meta_path.insert(0, Hook("mlflow.server.auth.config", after=administrator))
if os.environ.get("AUTH_PROXY_SECRET"):
    sys.meta_path.insert(0, Hook("proxy_login", after=loaded_login))
