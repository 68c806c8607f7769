"""What a server needs before it may start: logins and the check of hosts that this version of MLflow has."""

import os
import re
import sys

import server_hooks as hooks

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


def check():
    """Before MLflow's server is loaded: refuse what would leave it open, and begin the report."""
    if "server" in sys.argv[1:] and hooks.SERVER not in os.environ:
        os.environ[hooks.SERVER] = str(os.getpid())
        hooks.REPORT.unlink(missing_ok=True)
    below_a_path()
    hosts()
    logins()
    if os.environ.get("MLFLOW_READ_REPLICA_BACKEND_STORE_URI"):
        known = "MLFLOW_READ_REPLICA_BACKEND_STORE_URI" in hooks.file_of("mlflow.environment_variables")
        hooks.report(
            read_replica=""
            if known
            else f"MLflow {hooks.version()} knows no read replica; all of its queries are sent to the primary server"
        )
    if os.environ.get("MLFLOW_ENABLE_WORKSPACES", "false").lower() in ("true", "1"):
        known = "MLFLOW_ENABLE_WORKSPACES" in hooks.file_of("mlflow.environment_variables")
        hooks.report(workspaces="" if known else f"MLflow {hooks.version()} has no workspaces; everything is in one")
    if os.environ.get("MLFLOW_ARTIFACTS_PROXIED"):
        hooks.report(artifacts_proxied=None, artifacts_streamed=None)


def hosts():
    """The check of the Host header."""
    if not os.environ.get("MLFLOW_SERVER_ALLOWED_HOSTS"):
        return
    if "MLFLOW_SERVER_ALLOWED_HOSTS" not in hooks.file_of("mlflow.server.security_utils"):
        hooks.refuse(
            f"MLflow {hooks.version()} has no check of the Host header (MLFLOW_SERVER_ALLOWED_HOSTS); choose 3.10.0 or "
            "newer"
        )
    hooks.report(hosts="")


def below_a_path():
    """The check of origins below a path."""
    below = os.environ.get(hooks.PREFIX) or any(argument.startswith("--static-prefix") for argument in sys.argv)
    if below and hooks.release() < OLDEST_BELOW_A_PATH:
        hooks.refuse(
            f"MLflow {hooks.version()} does not check the origin of requests below a path (--static-prefix), so that "
            "pages of other sites could write; choose 3.16.0 or newer"
        )


def logins():
    """Logins, and those of a proxy."""
    if os.environ.get("MLFLOW_AUTH_CONFIG_PATH"):
        if hooks.release() < OLDEST_WITH_LOGINS:
            hooks.refuse(
                f"MLflow {hooks.version()} answers /v1/traces and the API of jobs without a login although logins are "
                "on; choose 3.10.0 or newer"
            )
        hooks.report(logins="")
    if os.environ.get("AUTH_PROXY_SECRET"):
        missing = missing_for_proxy_login()
        if missing:
            hooks.refuse(
                f"MLflow {hooks.version()} has no {', '.join(missing)}, by which the logins of a proxy "
                "(mlflow_server_auth proxy and oidc) work; choose a version from 3.15.0 to the newest supported"
            )
        hooks.report(proxy_login=None)


def missing_for_proxy_login():
    """Names that proxy_login.py needs and that this MLflow does not have."""
    missing = []
    for file, names in PROXY_LOGIN_NEEDS.items():
        module = "mlflow.server.auth" if file == "__init__.py" else "mlflow.server.auth." + file.removesuffix(".py")
        source = hooks.file_of(module)
        missing += [
            f"{module}.{name}"
            for name in names
            if not re.search(rf"^\s*(def |async def )?{name}\b", source, re.MULTILINE)
        ]
    return missing
