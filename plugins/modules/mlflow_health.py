#!/usr/bin/python
# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: mlflow_health
short_description: Check the health of an MLflow server
version_added: 0.1.0
author: mlops.mlflow contributors (@mlops)
description:
  - Checks C(/health) and C(/version), the API, the user interface, and whether the server allows each of its host
    names.
  - With O(roundtrip), does what a client does - experiment, run, parameters, a series of metrics, an artifact up and
    down compared byte for byte, a registered model and its alias - and removes everything that it created.
  - Measures and returns; it fails only when it cannot measure at all.
  - With an O(engine) the checks run in a pod of O(service), at O(port) of its own loopback address. With O(url) and
    O(connect) they run on the inventory host; with O(url) alone on the controller, through a forwarded port of
    O(service).
options:
  username:
    description:
      - User for basic authentication. In a pod, without it, O(token) and O(secret), the administrator of the pod's
        environment.
    type: str
  password:
    description: Password for basic authentication.
    type: str
  expected_version:
    description: Version that the server must have.
    type: str
  allowed_hosts:
    description: Host names that the server must allow.
    type: list
    elements: str
    default: []
  login_elsewhere:
    description:
      - Whether users log in at an identity provider (OpenID Connect) before the server answers them. Then the checks
        are C(/health), whether the API refuses requests without a token, and whether a browser is redirected to the
        provider.
    type: bool
    default: false
  webhooks:
    description: Whether to check that every worker of the server can list the webhooks, and so decrypt their secrets.
    type: bool
    default: false
  roundtrip:
    description: Whether to do what a client does. In check mode it is left out.
    type: bool
    default: false
  artifact_size_mb:
    description: Size of the artifact of O(roundtrip), in MiB.
    type: int
    default: 1
  presigned:
    description: Whether O(roundtrip) also fetches the artifact by a URL that the server signs.
    type: bool
    default: false
  samples:
    description: Number of requests that the latency of the API is taken from.
    type: int
    default: 10
extends_documentation_fragment:
  - mlops.mlflow.engine
  - mlops.mlflow.server
  - mlops.mlflow.health
"""

EXAMPLES = r"""
- name: A server by its URL
  mlops.mlflow.mlflow_health:
    url: https://mlflow.example.com
    username: probe
    password: "{{ vaulted_password }}"

- name: An ingress whose host name is in no DNS, with a CA of its own
  mlops.mlflow.mlflow_health:
    engine: podman
    namespace: team-a
    service: team-a-ingress
    url: https://mlflow.test:8443/team/ana
    connect: 127.0.0.1:8443
    ca_secret: team-a-ingress-ca

- name: An instance on a cluster, with a client's round trip
  mlops.mlflow.mlflow_health:
    engine: kubernetes
    namespace: team-a
    service: team-a-server
    roundtrip: true
  register: server
"""

RETURN = r"""
healthy:
  description: Whether every check is ok. When it is V(false), the module does not fail.
  type: bool
  returned: always
checks:
  description: The checks, in order. One that could not run is not ok.
  type: list
  elements: dict
  returned: always
  contains:
    name:
      description: What was checked.
      type: str
    ok:
      description: Whether it is as it should be.
      type: bool
    duration_ms:
      description: How long the check took, in milliseconds.
      type: float
    detail:
      description: What was found, or what is wrong.
      type: str
failures:
  description: The checks that failed, each as name and detail; those that could not run for that are left out.
  type: list
  elements: str
  returned: always
latency_ms:
  description: For each step that was timed, C(p50) and C(p95) in milliseconds, and the number of C(samples).
  type: dict
  returned: always
ca_certificate:
  description: The C(ca.crt) of O(ca_secret), as PEM.
  type: str
  returned: with ca_secret that has one
version:
  description: Version of the server.
  type: str
  returned: when it answers
upload_mb_s:
  description: Throughput of the artifact upwards, in MB per second.
  type: float
  returned: with roundtrip
download_mb_s:
  description: Throughput of the artifact downwards, in MB per second.
  type: float
  returned: with roundtrip
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mlops.mlflow.plugins.module_utils import checks
from ansible_collections.mlops.mlflow.plugins.module_utils.options import (
    SERVER, SERVER_EXCLUSIVE, SERVER_REQUIRED_BY, need_no_engine)
from ansible_collections.mlops.mlflow.plugins.module_utils.probes import server

SPEC = {
    "argument_spec": {
        **SERVER,
        "username": {"type": "str"}, "password": {"type": "str", "no_log": True}, "expected_version": {"type": "str"},
        "allowed_hosts": {"type": "list", "elements": "str", "default": []},
        "login_elsewhere": {"type": "bool", "default": False},
        "webhooks": {"type": "bool", "default": False}, "roundtrip": {"type": "bool", "default": False},
        "artifact_size_mb": {"type": "int", "default": 1}, "presigned": {"type": "bool", "default": False},
        "samples": {"type": "int", "default": 10},
    },
    "required_together": [("username", "password")],
    "mutually_exclusive": [("password", "token", "secret"), *SERVER_EXCLUSIVE],
    "required_by": SERVER_REQUIRED_BY,
}


def probe_parameters(options, check_mode):
    """The options as the probe takes them."""
    return {**options, "ca": options["ca_certificate"], "roundtrip": options["roundtrip"] and not check_mode}


def main():
    module = AnsibleModule(**SPEC, supports_check_mode=True)
    need_no_engine(module)
    if not module.params["url"]:
        module.fail_json(msg="url is empty while engine is none; name the URL of the server.")
    parameters = probe_parameters(module.params, module.check_mode)
    module.exit_json(changed=False, **checks.measure(server, parameters))


if __name__ == "__main__":
    main()
