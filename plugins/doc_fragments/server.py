# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Documentation that modules share: options for requests to an MLflow server."""

from __future__ import annotations


class ModuleDocFragment:
    """Fragments ``mlops.mlflow.server`` and ``mlops.mlflow.server.login``."""

    DOCUMENTATION = r"""
options:
  url:
    description:
      - URL of the server, such as V(http://127.0.0.1:5000). Required with O(engine=none).
      - With another O(engine), the URL of requests to O(connect) or to O(port) of O(service); its host name need not
        resolve. Without it, requests are made in a pod of O(service).
    type: str
  connect:
    description:
      - Address and port to connect to instead of those of O(url), from the inventory host, such as V(127.0.0.1:8443).
    type: str
  port:
    description: Port of O(service), with another O(engine) than V(none).
    type: int
    default: 5000
  path_prefix:
    description: Path below which the server answers, such as V(/team/mlflow).
    type: str
    default: ""
  scheme:
    description: Scheme of O(port), with another O(engine) than V(none) and without O(url).
    type: str
    choices: [http, https]
    default: http
  secret:
    description:
      - Name of a Secret that holds user and password, instead of the options. Needs another O(engine) than V(none).
    type: str
  secret_keys:
    description: Keys of O(secret) that hold C(username) and C(password).
    type: dict
    default: {username: username, password: password}
  token:
    description: Bearer token, instead of user and password.
    type: str
  ca_file:
    description:
      - Path of a file with the CA certificates to trust, in PEM. It is on the inventory host with O(engine=none), else
        on the controller.
    type: path
  ca_certificate:
    description: CA certificates to trust, in PEM, instead of O(ca_file).
    type: str
  ca_secret:
    description:
      - Secret of O(namespace) whose C(ca.crt), if it has one, is trusted, instead of O(ca_file). Needs another
        O(engine) than V(none).
    type: str
  validate_certs:
    description: Whether to verify the server's certificate.
    type: bool
    default: true
  timeout:
    description: Longest time to wait for one answer, in seconds.
    type: int
    default: 30
"""

    LOGIN = r"""
options:
  login_username:
    description:
      - Administrator to log in as.
      - In a pod of O(service), without it, O(token) and O(secret), the administrator of the pod's environment.
    type: str
  login_password:
    description: Password of O(login_username).
    type: str
"""
