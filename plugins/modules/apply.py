#!/usr/bin/python
# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# The work is done by the action plugin of the same name; this file documents it.

from __future__ import annotations

DOCUMENTATION = r"""
module: apply
short_description: Hand Kubernetes manifests to the engine that an instance names
version_added: 0.1.0
author: mlops.mlflow contributors (@mlops)
description:
  - Makes one component of one MLflow instance consist of exactly the objects given, on a Kubernetes cluster or on one machine
    under podman, and waits until its workloads really work.
  - On Kubernetes, objects are applied server-side with field manager C(mlops.mlflow), from Ansible's own process; a cluster of
    1.30 or newer is needed. On podman (4.3 or newer) the same manifests become pods, volumes, secrets and names on a network.
  - Objects that the same instance and component made earlier and that are no longer given are removed, except those
    annotated C(mlops.mlflow/keep).
  - An object that exists and is not this instance's is never touched; the task fails and names it.
  - When a workload cannot become ready, the task fails with the cause as the engine tells it, the last log lines and events.
  - ConfigMaps and Secrets that pods read are fingerprinted into the pod template, so that a change of their values restarts them.
notes:
  - "Annotations that it understands: C(mlops.mlflow/generate) on a Secret lists keys to be generated once and kept (C(key=value) begins with a value);
    C(mlops.mlflow/generate-ca) on a Secret names a certificate authority, whose C(ca.crt) and C(ca.key) are;
    C(mlops.mlflow/keep) on a PersistentVolumeClaim or Secret says what it holds, and lets it outlive pruning and removal;
    C(mlops.mlflow/publish) on a Service is the address and port of the machine on which podman publishes it;
    C(mlops.mlflow/read-once) on a workload names Secrets whose change does not restart it;
    C(argocd.argoproj.io/sync-wave) orders objects, and each wave's workloads are awaited before the next begins."
  - Options that a task leaves out are taken from the variables C(mlflow_engine), C(mlflow_instance), C(mlflow_namespace),
    C(mlflow_kubeconfig), C(mlflow_context), C(mlflow_labels), C(mlflow_annotations), C(mlflow_pod_spec),
    C(mlflow_wait_timeout) and C(mlflow_render_dir), where those exist.
options:
  manifests:
    description:
      - The objects, as text (one or more YAML documents), as one mapping, or as a list of either.
      - O(manifests) or O(template) is required with O(state=present).
    type: raw
  template:
    description: Names of Jinja templates that render to manifests, looked up like those of M(ansible.builtin.template).
    type: list
    elements: str
  state:
    description: V(absent) removes all objects of the component.
    type: str
    choices: [present, absent]
    default: present
  engine:
    description: What runs the objects.
    type: str
    choices: [kubernetes, podman]
    default: kubernetes
  instance:
    description: Name of the MLflow instance that owns the objects.
    type: str
    required: true
  component:
    description: Part of the instance that the objects form, such as V(database).
    type: str
    required: true
  namespace:
    description:
      - Namespace of objects that name none, created when it is missing. On podman it is the network.
    type: str
    required: true
  labels:
    description: Labels for all objects and pods.
    type: dict
    default: {}
  annotations:
    description: Annotations for all objects and pods.
    type: dict
    default: {}
  pod_spec:
    description:
      - Fields of a PodSpec for the pods of every workload whose manifest does not say them itself, such as C(nodeSelector).
      - Left out, the variable C(mlflow_pod_spec).
    type: dict
    default: {}
  patches:
    description:
      - Strategic merge patches onto the objects given. One that reaches no object fails the task.
    type: list
    elements: dict
    default: []
    suboptions:
      target:
        description: Which objects, by C(kind) and, to reach one only, C(name).
        type: dict
        required: true
      patch:
        description: The fields to merge; null removes a field.
        type: dict
        required: true
  patches_name:
    description: How messages call O(patches), since users know it by another variable's name.
    type: str
    default: patches
  prune:
    description: Whether objects that the component made earlier and that are not among those given are removed.
    type: bool
    default: true
  purge:
    description: With O(state=absent), remove objects annotated C(mlops.mlflow/keep) too. Their data is lost.
    type: bool
    default: false
  render_dir:
    description:
      - Folder on the controller to which the objects are written, as one file for each component, instead of being applied.
        Secrets to be generated have no values there; those that variables give have, so keep it like a vault.
      - With O(state=absent) the files are removed, and nothing else.
    type: path
  wait:
    description: Whether to wait until workloads are ready and Jobs have succeeded.
    type: bool
    default: true
  wait_timeout:
    description: Longest time to wait, in seconds, for all workloads of the call together.
    type: int
    default: 600
  kubeconfig:
    description: Path of the kubeconfig. Left out, E(KUBECONFIG), C(~/.kube/config) or the pod's own service account.
    type: path
  context:
    description: Context of the kubeconfig. Left out, its current one.
    type: str
attributes:
  check_mode:
    support: full
    description: Predicts with a dry run of the API server, or by comparing with what podman runs.
  diff_mode:
    support: full
    description: Shows objects before and after; of a Secret only which values differ.
  platform:
    support: full
    description: Wherever Ansible runs.
    platforms: posix
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
"""

EXAMPLES = r"""
- name: A ConfigMap on the cluster of KUBECONFIG
  mlops.mlflow.apply:
    engine: kubernetes
    instance: team-a
    component: notes
    namespace: team-a
    manifests:
      apiVersion: v1
      kind: ConfigMap
      metadata:
        name: team-a-notes
      data:
        greeting: hello

- name: What a role renders, where variables say the engine and the instance
  mlops.mlflow.apply:
    component: database
    template: [postgresql.yaml.j2]
    patches:
      - target: {kind: StatefulSet}
        patch: {spec: {template: {spec: {priorityClassName: high}}}}

- name: Remove the component, keep its data
  mlops.mlflow.apply:
    component: database
    state: absent
"""

RETURN = r"""
objects:
  description: What became of each object.
  type: list
  elements: dict
  returned: success
  contains:
    kind:
      description: Its kind.
      type: str
    name:
      description: Its name.
      type: str
    namespace:
      description: Its namespace, empty for what lives in none.
      type: str
    action:
      description: One of V(created), V(changed), V(unchanged), V(deleted), V(kept), V(left) (with O(prune=false)), V(rendered).
      type: str
notes:
  description: What the engine has no counterpart for, and what was kept, in sentences.
  type: list
  elements: str
  returned: success
"""
