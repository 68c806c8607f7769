#!/usr/bin/python
# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# The action plugin of the same name does the work; this file documents it.

from __future__ import annotations

DOCUMENTATION = r"""
module: apply
short_description: Apply Kubernetes manifests of an MLflow instance on Kubernetes or podman
version_added: 0.1.0
author: mlops.mlflow contributors (@mlops)
description:
  - With O(components), renders the manifests of components of the instance that the variables of the inventory host
    describe, and applies them in the order of their dependencies.
  - With O(manifests) or O(template), applies the given objects as O(component) of O(instance).
  - Waits until workloads are ready and Jobs have succeeded. When a workload cannot become ready, the task fails with
    the reason, the last lines of its log and its events.
  - On Kubernetes (1.30 or newer), objects are applied server-side with the field manager C(mlops.mlflow), from the
    process of Ansible. On podman (4.3 or newer), objects are translated to pods, volumes, secrets and networks.
  - Objects that the same component of the instance had before and that are no longer given are deleted (O(prune)),
    except those annotated C(mlops.mlflow/keep).
  - An existing object that does not belong to the instance is never changed; the task fails and names it.
  - A checksum of the ConfigMaps and Secrets that pods read is put into the pod template, so that a changed value
    restarts the pods.
notes:
  - "Annotation C(mlops.mlflow/generate) of a Secret: keys whose values are generated once and kept;
    C(key=value) takes that value first instead of a password, C(key=fernet:) a Fernet key."
  - "Annotation C(mlops.mlflow/generate-ca) of a Secret: common name of a CA that is generated once and kept, with the
    keys C(ca.crt) and C(ca.key)."
  - "Annotation C(mlops.mlflow/keep) of a PersistentVolumeClaim or Secret: what it holds; the object is neither pruned
    nor removed unless O(purge=true)."
  - "Annotation C(mlops.mlflow/publish) of a Service: address and port of the host on which podman publishes it."
  - "Annotation C(mlops.mlflow/read-once) of a workload: Secrets whose changes do not restart it."
  - "Annotation C(argocd.argoproj.io/sync-wave): objects are applied in the order of their waves; the workloads of a
    wave must be ready before the next wave begins."
  - Of O(engine), O(instance), O(namespace), O(kubeconfig) and O(context), those that are not set default to the
    variables of the host with the prefix C(mlflow_), with O(components) or where at least one of them is defined.
options:
  components:
    description:
      - Roles of the components to apply or remove, such as V(database). An empty list means all components.
      - Mutually exclusive with O(manifests), O(template) and O(component). The options that describe the instance,
        and O(wait_timeout) and O(render_dir), come from the variables of the host.
    type: list
    elements: str
  manifests:
    description:
      - The objects, as text (one or more YAML documents), as one mapping, or as a list of either.
      - One of O(components), O(manifests) and O(template) is required with O(state=present).
    type: raw
  template:
    description: Names of Jinja templates that render to manifests, looked up like those of M(ansible.builtin.template).
    type: list
    elements: str
  state:
    description: V(present) applies the objects, V(absent) deletes all objects of the components.
    type: str
    choices: [present, absent]
    default: present
  engine:
    description: Engine that runs the objects.
    type: str
    choices: [kubernetes, podman]
    default: kubernetes
  instance:
    description: Name of the MLflow instance that owns the objects.
    type: str
    required: true
  component:
    description: Value of the label C(app.kubernetes.io/component) of the objects. Required without O(components).
    type: str
  namespace:
    description:
      - Namespace of objects that name none. It is created when it does not exist. On podman it is the network.
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
    description: Fields of a PodSpec, such as C(nodeSelector), for pod templates that do not set them.
    type: dict
    default: {}
  patches:
    description:
      - Strategic merge patches for the objects. A patch whose target matches no object fails the task.
    type: list
    elements: dict
    default: []
    suboptions:
      target:
        description: The objects to patch, by C(kind) and optionally C(name).
        type: dict
        required: true
      patch:
        description: The fields to merge; null removes a field.
        type: dict
        required: true
  patches_name:
    description: Name of O(patches) in error messages.
    type: str
    default: patches
  prune:
    description: Whether objects of the components that are not given are deleted.
    type: bool
    default: true
  purge:
    description: Whether O(state=absent) also deletes objects annotated C(mlops.mlflow/keep). Their data is lost.
    type: bool
    default: false
  render_dir:
    description:
      - Directory on the controller to which the objects are written instead of being applied, one file for each
        component and sync wave, C(DIR/NAMESPACE/INSTANCE/wave-WAVE/COMPONENT.yaml), with a C(kustomization.yaml).
      - With O(state=absent) the files are removed, and nothing else.
    type: path
  render_secrets:
    description:
      - Whether Secrets are left out of O(render_dir) and listed, or written as plain text, with the generated values
        that the files have already. For O(components), O(ignore:mlflow_render_secrets) says so.
    type: str
    choices: [omit, plain]
    default: omit
  wait:
    description: Whether to wait until workloads are ready and Jobs have succeeded.
    type: bool
    default: true
  wait_timeout:
    description: Longest time to wait for all workloads together, in seconds.
    type: int
    default: 600
attributes:
  check_mode:
    support: full
    description: On Kubernetes by a dry run of the API server; on podman by comparison with what runs.
  diff_mode:
    support: full
    description: Shows objects before and after. Of a Secret only the keys whose values differ are shown.
extends_documentation_fragment:
  - mlops.mlflow.engine.cluster
  - mlops.mlflow.engine.action
  - ansible.builtin.action_common_attributes
"""

EXAMPLES = r"""
- name: Apply all components of the instance that the variables of the host describe
  mlops.mlflow.apply:
    components: []

- name: Apply the database only
  mlops.mlflow.apply:
    components: [database]

- name: Remove the instance and keep its data
  mlops.mlflow.apply:
    components: []
    state: absent

- name: Apply a ConfigMap to the cluster of KUBECONFIG
  mlops.mlflow.apply:
    engine: kubernetes
    instance: team-a
    component: extra
    namespace: team-a
    manifests:
      apiVersion: v1
      kind: ConfigMap
      metadata:
        name: team-a-extra
      data:
        greeting: hello

- name: Apply a template of the role with a patch
  mlops.mlflow.apply:
    component: extra
    template: [extra.yaml.j2]
    patches:
      - target: {kind: Deployment}
        patch: {spec: {template: {spec: {priorityClassName: high}}}}
"""

RETURN = r"""
objects:
  description: The objects and what was done to each.
  type: list
  elements: dict
  returned: success
  contains:
    kind:
      description: Kind of the object.
      type: str
    name:
      description: Name of the object.
      type: str
    namespace:
      description: Namespace of the object; empty for cluster-scoped objects.
      type: str
    action:
      description: One of V(created), V(changed), V(unchanged), V(deleted), V(kept), V(left) (with O(prune=false)),
          V(rendered).
      type: str
messages:
  description: Warnings, such as objects that the engine does not support or that were kept.
  type: list
  elements: str
  returned: success
"""
