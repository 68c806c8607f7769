# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Documentation that modules share: options for the engine that runs a service, and where modules run."""

from __future__ import annotations


class ModuleDocFragment:
    """Fragments ``mlops.mlflow.engine``, ``mlops.mlflow.engine.cluster`` and ``mlops.mlflow.engine.action``."""

    DOCUMENTATION = r"""
options:
  engine:
    description:
      - Engine that runs the service. V(none) connects to the given address, from the inventory host.
      - V(kubernetes) works through the API server, from where Ansible runs. V(podman) works through podman on the
        inventory host.
    type: str
    choices: [none, kubernetes, podman]
    default: none
  namespace:
    description: Namespace of the instance. Required unless O(engine=none).
    type: str
  service:
    description: Name of the Service whose pods are meant. Required unless O(engine=none).
    type: str
  kubeconfig:
    description:
      - Path of the kubeconfig, on the controller. Without it, E(KUBECONFIG), C(~/.kube/config) or the pod's own service
        account.
    type: path
  context:
    description: Context of the kubeconfig. Without it, its current context.
    type: str
"""

    CLUSTER = r"""
options:
  kubeconfig:
    description: Path of the kubeconfig. Defaults to E(KUBECONFIG), C(~/.kube/config), or the service account of the
        pod.
    type: path
  context:
    description: Context of the kubeconfig. Defaults to its current context.
    type: str
"""

    ACTION = r"""
options: {}
attributes:
  diff_mode:
    support: none
    description: The module returns no diff.
  platform:
    support: full
    description: Kubernetes is accessed from the controller, podman through the connection of the inventory host.
    platforms: posix
"""
