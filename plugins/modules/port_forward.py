#!/usr/bin/python
# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: port_forward
short_description: Forward a local port to a service of an instance
version_added: 0.1.0
author: mlops.mlflow contributors (@mlops)
description:
  - Starts a process in the background that listens on a loopback port and passes connections on to a pod of the
    service. It outlives the playbook and ends by itself.
  - With O(engine=kubernetes) the process runs on the controller, with O(engine=podman) on the inventory host.
  - When something listens on the port already, as after an earlier call, nothing is started.
options:
  port:
    description: Port of the Service. Required unless O(engine=none).
    type: int
  local_port:
    description: Port of 127.0.0.1 to listen on.
    type: int
    required: true
  seconds:
    description: After how many seconds the process ends.
    type: int
    default: 3600
  address:
    description:
      - With O(engine=none), address and port to pass connections on to from the inventory host, such as
        V(10.89.0.7:5000).
    type: str
  container_labels:
    description:
      - With O(engine=none), labels (C(KEY=VALUE)) of a podman container on the inventory host. Connections go to
        O(port) of its loopback address, by way of a process in it, since networks of rootless podman are not the
        host's. The container is looked up for each connection, so that it may be replaced meanwhile.
      - With O(address), the container is used where the address does not answer.
    type: list
    elements: str
    default: []
  podman_environment:
    description: Variables for podman's commands, with O(container_labels).
    type: dict
    default: {}
attributes:
  check_mode:
    support: full
    description: Starts nothing.
  diff_mode:
    support: none
    description: There is nothing to compare.
  platform:
    support: full
    description: Target OS.
    platforms: posix
extends_documentation_fragment:
  - mlops.mlflow.engine
  - ansible.builtin.action_common_attributes
"""

EXAMPLES = r"""
- name: The UI of an instance without an ingress, for an hour
  mlops.mlflow.port_forward:
    engine: kubernetes
    namespace: team-a
    service: team-a-server
    port: 5000
    local_port: 8080
"""

RETURN = r"""
url:
  description: Where the service answers now, on the host that listens.
  type: str
  returned: always
pid:
  description: ID of the process that passes connections on; none when something listened already.
  type: int
  returned: always
tunnel:
  description: Command that makes RV(url) answer on the controller as well; empty where it answers there already.
  type: str
  returned: with an engine
"""

import os
import shutil

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mlops.mlflow.plugins.module_utils import relay
from ansible_collections.mlops.mlflow.plugins.module_utils.options import ENGINE, need_no_engine

SPEC = {
    "argument_spec": {
        **ENGINE, "port": {"type": "int"}, "local_port": {"type": "int", "required": True},
        "seconds": {"type": "int", "default": 3600}, "address": {"type": "str"},
        "container_labels": {"type": "list", "elements": "str", "default": []},
        "podman_environment": {"type": "dict", "default": {}},
    },
}


def main():
    module = AnsibleModule(**SPEC, supports_check_mode=True)
    need_no_engine(module, ())
    params, port = module.params, module.params["local_port"]
    if not params["address"] and not params["container_labels"]:
        module.fail_json(msg="engine is none; name the engine that runs the service, or an address.")
    if params["container_labels"] and not params["port"]:
        module.fail_json(msg="port is empty while container_labels is set; name the port in the container.")
    if params["container_labels"] and not shutil.which("podman"):
        module.fail_json(msg="container_labels is set, and this host has no podman; name a host that has.")
    result = {"changed": False, "url": f"http://127.0.0.1:{port}", "pid": None}
    if relay.listens(port):
        module.exit_json(**result)
    result["changed"] = True
    if module.check_mode:
        module.exit_json(**result)
    connect = relay.connector(params, {**os.environ, **params["podman_environment"]})
    result["pid"] = relay.detach(lambda: relay.serve(connect, port, params["seconds"]))
    if relay.wait_until_listens(port):
        module.exit_json(**result)
    module.fail_json(msg=f"Port {port} of this host cannot be listened on; choose another local_port.")


if __name__ == "__main__":
    main()
