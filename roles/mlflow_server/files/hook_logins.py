"""The administrator's login from the environment, and the database's in the URIs."""

import os
import types
import urllib.parse

import server_hooks as hooks


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


def administrator(config):
    """Let the administrator's name and password come from the environment, which MLflow itself reads since 3.16, and
    the URI of the database of users where auth.ini has none, since only a Secret may hold it."""
    known = hasattr(config, "MLFLOW_AUTH_ADMIN_PASSWORD")
    if not hasattr(config, "configparser"):
        if known:
            return hooks.report(administrator="")
        return hooks.refuse(
            f"MLflow {hooks.version()} has no mlflow.server.auth.config.configparser, by which the administrator's "
            "password is handed over"
        )
    settings = {
        option: os.environ[variable].replace("%", "%%")
        for option, variable in (
            ("admin_username", "MLFLOW_AUTH_ADMIN_USERNAME"),
            ("admin_password", "MLFLOW_AUTH_ADMIN_PASSWORD"),
        )
        if variable in os.environ and not known
    }

    class Parser(config.configparser.ConfigParser):
        def read(self, *arguments, **options):
            names = super().read(*arguments, **options)
            self.read_dict({"mlflow": settings})
            if not self.has_option("mlflow", "database_uri"):
                uri = os.environ["MLFLOW_BACKEND_STORE_URI"].replace("%", "%%")
                self.read_dict({"mlflow": {"database_uri": uri}})
            return names

    config.configparser = types.SimpleNamespace(ConfigParser=Parser)
    return hooks.report(administrator="")


def proxy_login(_module):
    """proxy_login.py has been loaded by MLflow."""
    hooks.report(proxy_login="")
