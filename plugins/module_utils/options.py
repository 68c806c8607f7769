# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Argument specs that modules share with one another and with their action plugins."""

from __future__ import annotations

# Documented in doc_fragments/engine.py.
ENGINE = {
    "engine": {"type": "str", "choices": ["none", "kubernetes", "podman"], "default": "none"},
    "namespace": {"type": "str"},
    "service": {"type": "str"},
    "kubeconfig": {"type": "path"},
    "context": {"type": "str"},
}
# Documented in doc_fragments/server.py.
SERVER = {
    **ENGINE,
    "url": {"type": "str"}, "port": {"type": "int", "default": 5000}, "path_prefix": {"type": "str", "default": ""},
    "token": {"type": "str", "no_log": True}, "ca_file": {"type": "path"}, "ca_certificate": {"type": "str"},
    "validate_certs": {"type": "bool", "default": True},
    "timeout": {"type": "int", "default": 30},
    "scheme": {"type": "str", "choices": ["http", "https"], "default": "http"},
    "connect": {"type": "str"}, "ca_secret": {"type": "str", "no_log": False},
    "secret": {"type": "str", "no_log": False},
    "secret_keys": {"type": "dict", "no_log": False, "default": {"username": "username", "password": "password"}},
}
SERVER_EXCLUSIVE = [("ca_file", "ca_certificate", "ca_secret")]
SERVER_REQUIRED_BY = {"connect": ("url",)}
ENGINE_ONLY = ("secret", "ca_secret")
"""Options of SERVER that need an engine."""

# Of the modules that manage the users of a server, whose own options are a username and a password.
LOGIN = {"login_username": {"type": "str"}, "login_password": {"type": "str", "no_log": True}}
LOGIN_TOGETHER = [("login_username", "login_password")]
LOGIN_EXCLUSIVE = [("login_password", "token", "secret"), *SERVER_EXCLUSIVE]


def need_no_engine(module, options=ENGINE_ONLY):
    """Fail a module that was given options which only its action plugin, with an engine, can use."""
    if module.params["engine"] != "none":
        module.fail_json(msg=f"engine is {module.params['engine']}, which the action plugin of this module handles on "
                             f"the controller; call "
                             f"the module by its full name, mlops.mlflow.{module._name.rpartition('.')[2]}.")
    for option in options:
        if module.params.get(option):
            module.fail_json(msg=f"{option} is set while engine is none; name the engine that has the Secret.")


def run_and_exit(module, function):
    """End a module with what a function of module_utils returns for its options."""
    result = function({**module.params, "ca": module.params["ca_certificate"], "check_mode": module.check_mode})
    if result.get("failed"):
        module.fail_json(**result)
    module.exit_json(**result)
