#!/usr/bin/python
# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: port_forward
short_description: Lead a port of this machine to a service of an instance
version_added: 0.1.0
author: mlops.mlflow contributors (@mlops)
description:
  - Starts a process in the background that listens on a loopback port and passes connections on to a pod of the service. It
    outlives the playbook and ends by itself.
  - When the port already leads somewhere through an earlier call, nothing is started.
options:
  port:
    description: Port of the Service.
    type: int
    required: true
  local_port:
    description: Port of 127.0.0.1 to listen on.
    type: int
    required: true
  seconds:
    description: After how many seconds it ends.
    type: int
    default: 3600
attributes:
  check_mode:
    support: full
    description: Starts nothing.
  diff_mode:
    support: none
    description: There is nothing to show.
  platform:
    support: full
    description: Where Python runs.
    platforms: posix
extends_documentation_fragment:
  - mlops.mlflow.reach
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
  description: Where the service answers now.
  type: str
  returned: always
pid:
  description: Process that passes connections on; none when one was there before.
  type: int
  returned: always
"""

import os
import socket
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mlops.mlflow.plugins.module_utils import reach


def serve(way, port, local_port, seconds):
    """Listen in a process of its own, detached from this one; return its number."""
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    with reach.listening(lambda: way.connect(port), local_port):
        time.sleep(seconds)
    os._exit(0)


def listens(port):
    """Whether something accepts connections on a loopback port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def main():
    module = AnsibleModule(
        argument_spec={**reach.OPTIONS, "port": {"type": "int", "required": True}, "local_port": {"type": "int", "required": True},
                       "seconds": {"type": "int", "default": 3600}},
        supports_check_mode=True)
    params = module.params
    if params["engine"] == "none":
        module.fail_json(msg="engine is none; name the engine that runs the service.")
    result = {"changed": False, "url": f"http://127.0.0.1:{params['local_port']}", "pid": None}
    if module.check_mode or listens(params["local_port"]):
        module.exit_json(**result)
    try:
        way = reach.reach(params)
        with way.forward(params["port"]):
            pass  # in this process, so that what is wrong can still be told
        result["pid"] = serve(way, params["port"], params["local_port"], params["seconds"])
    except reach.ReachError as error:
        module.fail_json(msg=str(error))
    for _attempt in range(50):
        if listens(params["local_port"]):
            module.exit_json(**{**result, "changed": True})
        time.sleep(0.1)
    module.fail_json(msg=f"Port {params['local_port']} of this machine cannot be listened on; choose another local_port.")


if __name__ == "__main__":
    main()
