# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Documentation that modules share: how a service is reached."""

from __future__ import annotations


class ModuleDocFragment:
    """Fragment ``mlops.mlflow.reach``."""

    DOCUMENTATION = r"""
options:
  engine:
    description:
      - How the service is reached. V(none) connects straight to the address given; V(kubernetes) goes through the API server,
        V(podman) through podman on the host that the module runs on.
    type: str
    choices: [none, kubernetes, podman]
    default: none
  namespace:
    description: Namespace of the instance; on podman its network. Required unless O(engine=none).
    type: str
  service:
    description: Service behind which the pods are. Required unless O(engine=none).
    type: str
  kubeconfig:
    description: Path of the kubeconfig. Left out, E(KUBECONFIG), C(~/.kube/config) or the pod's own service account.
    type: path
  context:
    description: Context of the kubeconfig. Left out, its current one.
    type: str
"""
