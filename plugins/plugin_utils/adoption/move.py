# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hands the objects of a Helm release over to an instance, step by step; each step can be repeated or undone.

``prepare`` stops what must not run twice and changes the owner of what both have, ``route`` removes what would lead
requests twice, ``finish`` removes the rest, ``undo`` gives everything back. Data is never deleted. Helm does not look
at live objects when it uninstalls a release, only at its record; that is why ``finish`` hides the record from it.
"""

from __future__ import annotations

import json
import time
from typing import Any, Iterable, Iterator

from ansible_collections.mlops.mlflow.plugins.plugin_utils import components, engines, manifests, render
from ansible_collections.mlops.mlflow.plugins.plugin_utils.adoption import release as releases
from ansible_collections.mlops.mlflow.plugins.plugin_utils.adoption.plan import Adoption
from ansible_collections.mlops.mlflow.plugins.plugin_utils.adoption.release import Release
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines.kubernetes import KubernetesEngine
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines.kubernetes_api import ApiError, label_selector
from ansible_collections.mlops.mlflow.plugins.plugin_utils.manifests import MANAGER, Ref
from ansible_collections.mlops.mlflow.plugins.plugin_utils.model import Model

BEFORE = f"{MANAGER}/before-adoption"
"""Annotation: what an object was before it was handed over or stopped, as JSON."""
HELM_LABELS = (releases.CHART, "app.kubernetes.io/version", "version", "app")
HELM_ANNOTATIONS = (releases.RELEASE_NAME, releases.RELEASE_NAMESPACE)
IDENTITY = ("apiVersion", "kind", "metadata", "status")
FIELD_MANAGER = "adoption"
ROUTES = ("Ingress", "HTTPRoute", "ServiceMonitor", "HorizontalPodAutoscaler")
"""Kinds that the instance has objects of its own for, and that act on the Service or the pods."""
KEPT = ("PersistentVolumeClaim", "PersistentVolume", "Namespace", "CustomResourceDefinition", "SecretStore",
        "ClusterSecretStore")
"""Kinds that hold data, or that others may use."""


class Move:
    """The move of one release.

    Args:
        engine: open, for all components of the instance.
        model: the instance.
        release: the release.
        adoption: what became of it; None where it is undone.
        dry_run: only predict.
    """

    def __init__(self, engine: KubernetesEngine, model: Model, release: Release, adoption: Adoption | None,
                 dry_run: bool) -> None:
        self.engine, self.model, self.release, self.adoption = engine, model, release, adoption
        self.dry_run = dry_run
        self.deadline = time.monotonic() + model.instance.wait_timeout
        self.actions: list[str] = []
        self.desired = releases.refs(self._desired())
        self.theirs = {ref: obj for ref, obj in releases.refs(release.objects).items() if not release.of_subchart(obj)}
        self.live = self._read()

    def _desired(self) -> Iterator[dict]:
        for component in components.COMPONENTS:
            for obj in render.render(component, self.model, self.engine.scope.labels(component.name)):
                if self.engine.namespaced(obj):
                    obj["metadata"].setdefault("namespace", self.model.instance.namespace)
                yield obj

    def _read(self) -> dict[Ref, dict]:
        """The live objects of the release, of whatever kind."""
        found = {}
        for ref, obj in self.theirs.items():
            try:
                found[ref] = {"apiVersion": obj["apiVersion"], "kind": obj["kind"],
                              **self.engine.api.request("GET", self.engine.path(obj))}
            except ApiError as error:
                if error.status != 404:
                    raise
        return found

    @property
    def exclusive(self) -> bool:
        """Whether the chart's server must end before the instance's begins: they would write to the same file, or
        mount the same volume."""
        server = self.model.mlflow_server
        return server.exclusive or server.database.type == "sqlite"

    # -- steps -----------------------------------------------------------------------------------------------------

    def problems(self, without_data: bool) -> Iterator[str]:
        """A sentence for each reason not to begin.

        Args:
            without_data: whether data may stay behind.
        """
        name, running = self.model.instance.name, self.adoption.variables.get("mlflow_version")
        if self.model.instance.namespace != self.release.namespace:
            yield (f"mlflow_namespace is {self.model.instance.namespace} while Helm release {self.release.name} is in "
                   f"namespace {self.release.namespace}, where its volumes and Secrets are; set it to that.")
        if running and running != self.model.instance.version:
            yield (f"mlflow_version is {self.model.instance.version} while Helm release {self.release.name} runs "
                   f"MLflow {running}; set it to that, and upgrade by playbooks/upgrade.yml after the move.")
        for ref in self.theirs:
            if ref in self.desired and ref.kind == "Deployment":
                yield (f"The instance {name} and Helm release {self.release.name} both have a {ref}, whose selector "
                       "cannot change; choose another mlflow_instance.")
        read = {ref for obj in self.desired.values() for ref, _required in engines.references(obj)}
        missing, _awaited = engines.missing_references(self.engine, self.desired, self.engine.read(read, set()))
        made = self.adoption.secret_name if self.adoption.made else None
        for ref, reader in missing.items():
            if ref.name != made:
                yield engines.not_there(ref, reader)
        if not without_data:
            for finding in self.adoption.findings:
                if finding.data:
                    yield (f"{finding.option}: {finding.instead} Give mlflow_adopt_without_data=true to move without "
                           "it.")

    def prepare(self) -> None:
        """Make the Secret, hand over what both have, and stop what must not run twice."""
        self._make_secret()
        for ref, obj in self.live.items():
            if ref in self.desired and releases.owned_by(obj, self.release.name):
                self._hand_over(obj)
        for obj in self._of_kind("CronJob"):
            self._stop(obj, {"suspend": True})
        if self.exclusive:
            for obj in self._of_kind("Deployment"):
                self._stop(obj, {"replicas": 0})
                self._await_end(obj)

    def route(self) -> None:
        """Remove what the instance has an object of its own for."""
        self._delete(obj for ref, obj in self.live.items() if ref.kind in ROUTES and ref not in self.desired)

    def finish(self) -> None:
        """Remove what is left of the release, except what is used or holds data, and hide it from Helm."""
        used = self._used()
        for ref, obj in self.live.items():
            if ref in used and ref not in self.desired and releases.owned_by(obj, self.release.name):
                self._release_from_helm(obj)
        self._delete(obj for ref, obj in self.live.items()
                     if ref not in self.desired and ref not in used and ref.kind not in KEPT
                     and not manifests.annotation(obj, releases.POLICY))
        for obj in self.live.values():
            if manifests.annotation(obj, BEFORE) and self._exists(obj):
                self._patch(obj, {"metadata": {"annotations": {BEFORE: None}}}, "")
        self._hide()

    def undo(self) -> None:
        """Give back what was handed over, remove the instance, and start what was stopped."""
        for obj in self.live.values():
            if manifests.annotation(obj, BEFORE) and Ref.of(obj) in self.desired:
                self._give_back(obj)
        outcome = engines.remove(self.engine, self.dry_run, False, self.model.instance.wait_timeout)
        self.actions += [f"{action['kind']} {action['name']} {action['action']}" for action in outcome.actions]
        for ref, obj in self.theirs.items():
            if ref.kind in ROUTES and ref not in self.live:
                self._create(obj)
        started = []
        for obj in self.live.values():
            before = manifests.annotation(obj, BEFORE)
            if before and Ref.of(obj) not in self.desired:
                self._patch(obj, {"metadata": {"annotations": {BEFORE: None}}, "spec": json.loads(before)}, "started")
                self._disown(obj)
                started += [obj] if obj["kind"] == "Deployment" else []
        if started and not self.dry_run:
            live = [self.engine.api.request("GET", self.engine.path(obj)) for obj in started]
            self.engine.wait(live, time.monotonic() + self.model.instance.wait_timeout)

    # -- parts of them ---------------------------------------------------------------------------------------------

    def _of_kind(self, kind: str) -> list[dict]:
        return [obj for ref, obj in self.live.items() if ref.kind == kind and ref not in self.desired]

    def _make_secret(self) -> None:
        made = self.adoption.made
        if not made:
            return
        scope = self.engine.scope
        secret = {"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "stringData": dict(made), "metadata": {
            "name": self.adoption.secret_name, "namespace": scope.namespace, "labels": scope.labels("server"),
            "annotations": {manifests.RECORD: "adoption",
                            manifests.KEEP: "credentials that were values of the Helm release"}}}
        ref = Ref.of(secret)
        before = self.engine.read({ref}, set()).get(ref)
        if before and not scope.owns(before):
            raise engines.EngineError(engines.in_the_way(ref, before, scope))
        if not before or any(self.adoption.live.value("Secret", ref.name, key) != value
                             for key, value in made.items()):
            self.actions.append(f"{ref} created")
        self.engine.put([secret], {}, self.dry_run)

    def _hand_over(self, obj: dict) -> None:
        """Change the owner of an object; a Service goes on with its selector until the instance applies it."""
        ref, metadata = Ref.of(obj), obj["metadata"]
        wanted = self.desired[ref]["metadata"].get("labels") or {}
        before = {"labels": metadata.get("labels") or {}, "annotations": metadata.get("annotations") or {}}
        before["fields"] = {key: value for key, value in obj.items() if key not in IDENTITY}
        if ref.kind == "Service":  # whose addresses stay as they are
            before["fields"]["spec"] = {key: obj["spec"][key] for key in ("selector", "ports", "type")
                                        if key in obj["spec"]}
        labels = {**dict.fromkeys(label for label in HELM_LABELS if label in before["labels"]), **wanted}
        annotations = {**dict.fromkeys(HELM_ANNOTATIONS), BEFORE: json.dumps(before, sort_keys=True)}
        self._patch(obj, {"metadata": {"labels": labels, "annotations": annotations}}, "handed over")

    def _give_back(self, obj: dict) -> None:
        metadata, before = obj["metadata"], json.loads(manifests.annotation(obj, BEFORE))
        body: dict[str, Any] = {**before["fields"], "metadata": {
            part: {**dict.fromkeys(metadata.get(part) or {}), **before[part]} for part in ("labels", "annotations")}}
        if obj["kind"] == "Service":
            selector = {**dict.fromkeys(obj["spec"].get("selector") or {}), **body["spec"]["selector"]}
            body["spec"] = {**body["spec"], "selector": selector}
        self._patch(obj, body, "given back")
        self._disown(obj)

    def _disown(self, obj: dict) -> None:
        """Forget which fields this collection has set, with which Helm's next apply would be in conflict."""
        if self.dry_run:
            return
        now = self.engine.api.request("GET", self.engine.path(obj))
        managers = [entry for entry in now["metadata"].get("managedFields") or []
                    if entry.get("manager") not in (MANAGER, FIELD_MANAGER)]
        self._patch(obj, {"metadata": {"managedFields": managers or [{}]}}, "")

    def _stop(self, obj: dict, spec: dict) -> None:
        before = {key: obj["spec"].get(key) for key in spec}
        if manifests.annotation(obj, BEFORE):
            before = json.loads(manifests.annotation(obj, BEFORE))
        self._patch(obj, {"metadata": {"annotations": {BEFORE: json.dumps(before)}}, "spec": spec}, "stopped")

    def _await_end(self, obj: dict) -> None:
        """Wait until no pod of a Deployment is left."""
        if self.dry_run:
            return
        query = label_selector(obj["spec"]["selector"]["matchLabels"])
        path = f"/api/v1/namespaces/{self.release.namespace}/pods"
        self.engine.log(f"Waiting for the pods of {Ref.of(obj)} to end")
        while True:
            left = [pod["metadata"]["name"] for pod in self.engine.api.request("GET", path, query)["items"]
                    if (pod["status"].get("phase") not in ("Succeeded", "Failed"))
                    and not self._of_instance(pod)]
            if not left:
                return
            if time.monotonic() > self.deadline:
                raise engines.EngineError(f"Pod {left[0]} of {Ref.of(obj)} does not end; look at its log.")
            time.sleep(0.5)

    def _of_instance(self, pod: dict) -> bool:
        labels = pod["metadata"].get("labels") or {}
        return labels.get("app.kubernetes.io/managed-by") == MANAGER or "app.kubernetes.io/component" in labels

    def _used(self) -> set[Ref]:
        """Objects that those of the instance refer to."""
        namespace, used = self.release.namespace, set()
        for obj in self.desired.values():
            used |= {ref for ref, _required in engines.references(obj)}
            spec = (manifests.pod_template(obj) or {}).get("spec") or {}
            if spec.get("serviceAccountName"):
                used.add(Ref("", "ServiceAccount", namespace, spec["serviceAccountName"]))
            used |= {Ref("", "PersistentVolumeClaim", namespace, volume["persistentVolumeClaim"]["claimName"])
                     for volume in spec.get("volumes") or [] if volume.get("persistentVolumeClaim")}
            if obj["kind"] == "Ingress":
                used |= {Ref("", "Secret", namespace, entry["secretName"]) for entry in obj["spec"].get("tls") or []
                         if entry.get("secretName")}
        return used

    def _release_from_helm(self, obj: dict) -> None:
        labels = dict.fromkeys(("app.kubernetes.io/managed-by", releases.CHART))
        annotations = {**dict.fromkeys(HELM_ANNOTATIONS), releases.POLICY: "keep"}
        self._patch(obj, {"metadata": {"labels": labels, "annotations": annotations}}, "kept")

    def _hide(self) -> None:
        """Change the label by which Helm finds the record of the release."""
        path = f"/api/v1/namespaces/{self.release.namespace}/secrets"
        listed = self.engine.api.request("GET", path, label_selector({"owner": "helm", "name": self.release.name}))
        for secret in listed["items"]:
            self._patch({**secret, "apiVersion": "v1", "kind": "Secret"},
                        {"metadata": {"labels": {"owner": releases.ADOPTED}}}, "hidden from Helm")

    def _exists(self, obj: dict) -> bool:
        try:
            self.engine.api.request("GET", self.engine.path(obj))
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return True

    # -- requests --------------------------------------------------------------------------------------------------

    def _patch(self, obj: dict, body: dict, verb: str) -> None:
        if verb:
            self.actions.append(f"{Ref.of(obj)} {verb}")
        if not self.dry_run:
            self.engine.api.request("PATCH", self.engine.path(obj), f"fieldManager={FIELD_MANAGER}", body,
                                    "application/merge-patch+json")

    def _create(self, obj: dict) -> None:
        self.actions.append(f"{Ref.of(obj)} created")
        annotations = {**(obj["metadata"].get("annotations") or {}), releases.RELEASE_NAME: self.release.name,
                       releases.RELEASE_NAMESPACE: self.release.namespace}
        body = {**obj, "metadata": {**obj["metadata"], "annotations": annotations}}
        if not self.dry_run:
            self.engine.api.request("POST", self.engine.path(obj).rpartition("/")[0], "fieldManager=helm", body)

    def _delete(self, objects: Iterable[dict]) -> None:
        doomed = [obj for obj in objects if releases.owned_by(obj, self.release.name)]
        self.actions += [f"{Ref.of(obj)} deleted" for obj in doomed]
        if not self.dry_run and doomed:
            self.engine.delete(doomed, self.deadline)
