# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Engines: what runs Kubernetes manifests. ``converge`` holds what all of them share; an engine only reads, puts and removes."""

from __future__ import annotations

import base64
import json
import secrets
import time
from dataclasses import dataclass, field
from typing import Callable, ContextManager, Iterator, NamedTuple

from ansible_collections.mlops.mlflow.plugins.plugin_utils import certificates, manifests
from ansible_collections.mlops.mlflow.plugins.plugin_utils.manifests import Ref


SECRET_TIMEOUT = 120
"""Seconds that the External Secrets Operator may take to make a Secret."""


class EngineError(Exception):
    """What stops an apply; the message is for the operator: one sentence with the cause, then what the engine says about it."""


@dataclass(frozen=True)
class Scope:
    """Whose objects an action is about: components of one instance in one namespace.

    Attributes:
        namespace: the instance's namespace; on podman also its network.
        instance: the instance's name.
        components: values of ``app.kubernetes.io/component``; empty means every component of the instance.
    """

    namespace: str
    instance: str
    components: tuple[str, ...] = ()

    def labels(self, component: str) -> dict[str, str]:
        """The labels of every object of a component."""
        return {
            "app.kubernetes.io/name": "mlflow",
            "app.kubernetes.io/instance": self.instance,
            "app.kubernetes.io/component": component,
            "app.kubernetes.io/part-of": self.instance,
            "app.kubernetes.io/managed-by": manifests.MANAGER,
        }

    def owns(self, obj: dict) -> bool:
        """Whether a live object belongs to the instance, to whichever component."""
        labels = obj["metadata"].get("labels") or {}
        return (labels.get("app.kubernetes.io/instance") == self.instance
                and labels.get("app.kubernetes.io/managed-by") == manifests.MANAGER)

    def manages(self, obj: dict) -> bool:
        """Whether a live object belongs to one of the scope's components."""
        return self.owns(obj) and (not self.components or component_of(obj) in self.components)


def component_of(obj: dict) -> str:
    """The component that an object's label names, or an empty text."""
    return (obj["metadata"].get("labels") or {}).get("app.kubernetes.io/component", "")


class Put(NamedTuple):
    """What came of putting one object."""

    after: dict
    touched: bool = False
    """Set when the engine had to act although the object reads the same as before (something stopped was started)."""


class Engine:
    """What an engine must be able to do. All messages name objects as a person would: ``Deployment mlflow-server``.

    Objects that engines return are full Kubernetes objects: with metadata.labels and annotations as put, a metadata.uid,
    Secrets with their ``data`` (base64). Engines never write to a terminal; ``log`` tells of progress.
    """

    name = ""
    default_namespace_kinds = frozenset((
        "Namespace", "PersistentVolume", "StorageClass", "ClusterRole", "ClusterRoleBinding", "PriorityClass",
        "CustomResourceDefinition", "IngressClass", "GatewayClass", "ClusterIssuer", "ClusterSecretStore",
    ))

    def __init__(self, scope: Scope, log: Callable[[str], None]) -> None:
        self.scope = scope
        self.log = log
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        """Tell the operator once, at the end, of something that is not as in the manifests."""
        if text not in self.warnings:
            self.warnings.append(text)

    def namespaced(self, obj: dict) -> bool:
        """Whether objects of this kind live in a namespace."""
        return obj["kind"] not in self.default_namespace_kinds

    def unsupported_reason(self, obj: dict) -> str:
        """Why this engine has no counterpart for the object, as the end of a sentence; empty when it has one."""
        return ""

    def read(self, refs: set[Ref], kinds: set[tuple[str, str]]) -> dict[Ref, dict]:
        """The live objects among ``refs``, and all objects of this component (found by label).

        Args:
            refs: objects to look for whoever owns them.
            kinds: (apiVersion, kind) of manifests beyond the kinds that the engine always looks through.
        """
        raise NotImplementedError

    def preflight(self, objects: list[dict], live: dict[Ref, dict]) -> None:
        """Refuse, before anything is touched, what cannot work (a taken port, no room); raises EngineError."""

    def put(self, objects: list[dict], live: dict[Ref, dict], dry_run: bool) -> dict[Ref, Put]:
        """Make each object so, in the order given; with dry_run only tell what it would become."""
        raise NotImplementedError

    def wait(self, objects: list[dict], deadline: float) -> None:
        """Return when every workload among the objects is really ready; raise EngineError with the cause when one cannot be.

        Args:
            objects: live objects as ``put`` returned them.
            deadline: time.monotonic() after which waiting ends.
        """
        raise NotImplementedError

    def delete(self, objects: list[dict], deadline: float) -> None:
        """Remove live objects and wait until they are gone."""
        raise NotImplementedError

    def execute(self, service: str, argv: list[str], stdin: str = "", timeout: float = 120) -> str:
        """Run a program in the first container of a ready pod behind a Service.

        Args:
            service: name of the Service in the scope's namespace.
            argv: program and arguments; no secrets, since they show in the process list.
            stdin: text on standard input.
            timeout: seconds that the program may take.

        Returns:
            What the program wrote to standard output.

        Raises:
            EngineError: no pod is ready, or the program ended with another code than 0, with the last line of its complaint.
        """
        raise NotImplementedError

    def forward(self, service: str, port: int) -> ContextManager[tuple[str, int]]:
        """An address of this process' machine that leads to the Service's port while the context lasts.

        Raises:
            EngineError: no pod is ready, or the engine cannot forward from where it is.
        """
        raise NotImplementedError

    def secret(self, name: str) -> dict[str, str]:
        """The values of a Secret of the scope's namespace, decoded to text.

        Raises:
            EngineError: it does not exist or may not be read.
        """
        raise NotImplementedError

    def run_job(self, job: dict, deadline: float) -> str:
        """Create a Job (a labelled manifest), wait for its end, remove it, and return the log of its pod.

        Raises:
            EngineError: the Job failed or did not end before ``deadline`` (time.monotonic()), with the cause and the log's end.
        """
        raise NotImplementedError

    def pods(self) -> list[dict]:
        """The instance's pods of all components: name, component, state, ready, restarts, image."""
        raise NotImplementedError

    def leave(self, purge: bool) -> None:
        """Called after everything of a component was removed: drop what the engine made context it and nobody needs now."""

    def close(self) -> None:
        """Let go of connections."""


@dataclass
class Outcome:
    """What an apply did, as the action returns it."""

    actions: list[dict] = field(default_factory=list)
    diff: list[dict] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        return any(a["action"] in ("created", "changed", "deleted") for a in self.actions)

    def add(self, action: str, before: dict | None, after: dict | None) -> None:
        """Remember one object's fate, with its diff where there is one to show."""
        ref = Ref.of(after or before)
        self.actions.append({"kind": ref.kind, "name": ref.name, "namespace": ref.namespace, "action": action})
        if action in ("created", "changed", "deleted"):
            self.diff.append({
                "before_header": f"{ref.namespace}/{ref}" if before else "absent", "before": manifests.printable(before, after),
                "after_header": f"{ref.namespace}/{ref}" if after else "absent", "after": manifests.printable(after, before),
            })


def converge(engine: Engine, stages: list[list[dict]], dry_run: bool, wait: bool, timeout: int, prune: bool = True) -> Outcome:
    """Make the components of the scope consist of exactly the desired objects, and wait until they work.

    Nothing is touched before everything that can be refused has been: objects in the way, missing Secrets, what the
    engine's preflight finds. Objects that this component made earlier and no longer renders are removed, except data.

    Args:
        engine: an open engine.
        stages: labelled and patched objects; those of a stage are put, wave by wave, and awaited before the next begins. What
            is no longer rendered is removed after the last.
        dry_run: only predict.
        wait: whether to wait for workloads.
        timeout: seconds for all waiting together.
        prune: whether what is no longer rendered goes now; else it is told of as left.

    Raises:
        EngineError: with the cause.
        ManifestError: for a malformed object.
    """
    outcome, deadline = Outcome(), time.monotonic() + timeout
    stages = [_supported(engine, stage, outcome) for stage in stages]
    desired = [obj for stage in stages for obj in stage]
    _remember_kinds(desired)
    wanted = {Ref.of(obj): obj for obj in desired}
    live = _look(engine, desired)
    awaited_secrets = _refuse(engine, wanted, live, dry_run)
    for ref, obj in wanted.items():
        _generate(obj, live.get(ref))
    engine.preflight(desired, live)

    now = dict(live)
    for wave in (wave for stage in stages for wave in manifests.waves(stage)):
        for batch in _batches(wave):
            if wait and not dry_run:
                awaited = {ref for obj in batch for ref in _reads(engine, obj) if ref.name in awaited_secrets and ref not in now}
                if awaited:
                    now.update(_arrived(engine, awaited, min(deadline, time.monotonic() + SECRET_TIMEOUT)))
            for obj in batch:
                _revise(obj, now, engine.scope.namespace)
            for ref, put in engine.put(batch, live, dry_run).items():
                before = live.get(ref)
                now[ref] = put.after
                same = before and not put.touched and manifests.comparable(before) == manifests.comparable(put.after)
                outcome.add("unchanged" if same else "changed" if before else "created", before, put.after)
        if wait and not dry_run:
            engine.wait([now[Ref.of(obj)] for obj in wave if obj["kind"] in manifests.WORKLOADS], deadline)

    gone = [obj for ref, obj in live.items() if ref not in wanted and engine.scope.manages(obj) and not _controlled(obj)]
    _remove(engine, gone, outcome, dry_run, deadline, purge=False, prune=prune)
    outcome.warnings.extend(engine.warnings)
    return outcome


def _reads(engine: Engine, obj: dict) -> Iterator[Ref]:
    """The ConfigMaps and Secrets without which the object's pods do not start."""
    for kind, name, required in manifests.references(obj):
        if required:
            yield Ref("", kind, engine.scope.namespace, name)


def _look(engine: Engine, desired: list[dict]) -> dict[Ref, dict]:
    """What is there of the desired objects, of what they read, and of what the component made before."""
    kinds = {(obj["apiVersion"], obj["kind"]) for obj in desired}
    read = {Ref("", kind, engine.scope.namespace, name) for obj in desired for kind, name, _required in manifests.references(obj)}
    live = engine.read({Ref.of(obj) for obj in desired} | read, kinds)
    other_kinds = _remembered_kinds(live.values(), engine.scope)
    if other_kinds - kinds:
        live.update(engine.read(set(), other_kinds))
    return live


def _refuse(engine: Engine, wanted: dict[Ref, dict], live: dict[Ref, dict], dry_run: bool) -> set[str]:
    """Raise EngineError for what no engine could do; the names of Secrets that are not there, but that an operator will make."""
    for ref in wanted:
        if ref in live and not engine.scope.owns(live[ref]):
            raise EngineError(_in_the_way(ref, live[ref], engine.scope))
    awaited_secrets = {o["spec"].get("target", {}).get("name", o["metadata"]["name"]) for o in wanted.values() if o["kind"] == "ExternalSecret"}
    lacking = {ref: obj for obj in wanted.values() for ref in _reads(engine, obj) if ref not in live and ref not in wanted and ref.name not in awaited_secrets}
    if lacking:
        # Another component's ExternalSecret has the name of what it makes.
        others = engine.read(set(map(_external_secret_of, lacking)), set())
        awaited_secrets |= {ref.name for ref in lacking if _external_secret_of(ref) in others}
    for ref, obj in lacking.items():
        # In check mode the Secret may be one that an earlier role of the same run would have made.
        if not dry_run and ref.name not in awaited_secrets:
            raise EngineError(f"{Ref.of(obj)} reads {ref}, which is not in namespace {ref.namespace}; "
                              f"create it first or name another one.")
    _refuse_to_lock_out(wanted, live)
    return awaited_secrets


def _external_secret_of(ref: Ref) -> Ref:
    """The ExternalSecret of a Secret's name, from which an operator makes it."""
    return Ref("external-secrets.io", "ExternalSecret", ref.namespace, ref.name)


def _arrived(engine: Engine, refs: set[Ref], deadline: float) -> dict[Ref, dict]:
    """Wait for Secrets that an operator makes: pods would start without, and start again as soon as they are known."""
    engine.log(f"Waiting for the External Secrets Operator to make {', '.join(sorted(map(str, refs)))}")
    while True:
        found = engine.read(refs | set(map(_external_secret_of, refs)), set())
        missing = sorted(refs - set(found))
        if not missing:
            return {ref: found[ref] for ref in refs}
        if time.monotonic() > deadline:
            conditions = (found.get(_external_secret_of(missing[0])) or {}).get("status", {}).get("conditions") or []
            reason = next((c.get("message") for c in conditions if c.get("status") != "True"), "") or "no operator has looked at it"
            raise EngineError(f"ExternalSecret {missing[0].name} has made no Secret: {reason}; mend mlflow_secret_store, or what it may read.")
        time.sleep(1)


def remove(engine: Engine, dry_run: bool, purge: bool, timeout: int) -> Outcome:
    """Remove everything of the component; data (and the Secrets that open it) only with ``purge``."""
    outcome, deadline = Outcome(), time.monotonic() + timeout
    live = engine.read(set(), set())
    live.update(engine.read(set(), _remembered_kinds(live.values(), engine.scope)))
    gone = [obj for obj in live.values() if engine.scope.manages(obj) and not _controlled(obj)]
    _remove(engine, gone, outcome, dry_run, deadline, purge)
    if not dry_run:
        engine.leave(purge)
    return outcome


def _supported(engine: Engine, objects: list[dict], outcome: Outcome) -> list[dict]:
    kept: list[dict] = []
    reasons: dict[str, str] = {}
    for obj in objects:
        if engine.namespaced(obj):
            obj["metadata"].setdefault("namespace", engine.scope.namespace)
        why = engine.unsupported_reason(obj)
        if why:
            reasons.setdefault(obj["kind"], why)
        else:
            kept.append(obj)
    outcome.warnings.extend(f"{kind} left out: {why}." for kind, why in sorted(reasons.items()))
    return kept


def _remember_kinds(objects: list[dict]) -> None:
    """Note kinds that are not everyday ones on all objects, so that a later run knows to look for them when pruning."""
    unusual = sorted({f"{o['apiVersion']}/{o['kind']}" for o in objects if o["kind"] not in manifests.KIND_ORDER})
    if unusual:
        for obj in objects:
            obj["metadata"].setdefault("annotations", {})[manifests.KINDS] = ",".join(unusual)


def _remembered_kinds(objects, scope: Scope) -> set[tuple[str, str]]:
    names = {kind for obj in objects if scope.manages(obj) for kind in manifests.annotation(obj, manifests.KINDS).split(",") if kind}
    return {tuple(name.rsplit("/", 1)) for name in names}


def _controlled(obj: dict) -> bool:
    """Whether a controller made the object (a Pod's ReplicaSet, a CronJob's Job); its owner goes, then it goes."""
    return any(owner.get("controller") for owner in obj["metadata"].get("ownerReferences") or [])


def _in_the_way(ref: Ref, obj: dict, scope: Scope) -> str:
    labels = obj["metadata"].get("labels") or {}
    manager = labels.get("app.kubernetes.io/managed-by")
    owner = f"instance {labels['app.kubernetes.io/instance']}" if manager == manifests.MANAGER else manager or "nobody that it names"
    return (f"{ref} already exists in namespace {ref.namespace or '(none)'} and belongs to {owner}, not to instance {scope.instance}; "
            f"remove or rename it, or choose another mlflow_instance or mlflow_namespace.")


def _generated(obj: dict) -> dict[str, str]:
    """The keys that a Secret asks to have generated, and with what they begin if not with a password."""
    entries = (entry.strip().partition("=") for entry in manifests.annotation(obj, manifests.GENERATE).split(","))
    return {key: first for key, _equals, first in entries if key}


def _refuse_to_lock_out(wanted: dict[Ref, dict], live: dict[Ref, dict]) -> None:
    """A generated password that is given instead would be forgotten, while what was made with it wants that one alone."""
    once = {name for obj in wanted.values() for name in manifests.annotation(obj, manifests.READ_ONCE).split(",") if name}
    for ref, obj in wanted.items():
        if ref.kind != "Secret" or ref.name not in once or ref not in live:
            continue
        before = live[ref].get("data") or {}
        for key in sorted(set(_generated(live[ref])) - set(_generated(obj))):
            if (obj.get("data") or {}).get(key) not in (None, before.get(key)):
                raise EngineError(f"{ref} holds a generated {key}, which another one given now does not change where it is used; leave it "
                                  f"to be generated (playbooks/rotate.yml renews it), or put yours there and into the Secret first.")


def _generate(obj: dict, live: dict | None) -> None:
    """Fill the keys that a Secret asks to have generated: what lives is kept, what is missing is made once.

    The annotation lists keys by comma; ``key=value`` begins with that value instead of a password.
    """
    wanted = _generated(obj)
    authority = manifests.annotation(obj, manifests.GENERATE_CA)
    if obj["kind"] != "Secret" or not (wanted or authority):
        return
    data = obj.setdefault("data", {}) or {}
    if authority:
        there = (live or {}).get("data", {})
        pair = {key: there.get(key) for key in ("ca.crt", "ca.key")}
        data.update(pair if all(pair.values()) else certificates.authority(authority))
    for key, first in wanted.items():
        if key not in data:
            data[key] = (live or {}).get("data", {}).get(key) or base64.b64encode((first or _password()).encode()).decode()
    obj["data"] = data


def _password(length: int = 32) -> str:
    # Letters and digits only: the value must survive URLs, shells and configuration files unquoted.
    alphabet = "abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"
    return "".join(secrets.choice(alphabet) for position in range(length))


def _batches(wave: list[dict]) -> list[list[dict]]:
    """Workloads after everything that they read, so that a batch can be put at once and revisions are known."""
    early = [o for o in wave if not manifests.references(o) and o["kind"] not in manifests.WORKLOADS]
    late = [o for o in wave if o not in early]
    return [batch for batch in (early, late) if batch]


def _revise(obj: dict, now: dict[Ref, dict], namespace: str) -> None:
    """Mark a workload's pods with a fingerprint of the configuration they read, so that a change restarts them."""
    template = manifests.pod_template(obj)
    once = manifests.annotation(obj, manifests.READ_ONCE).split(",")
    sources = [now[ref] for kind, name, _required in manifests.references(obj)
               if name not in once and (ref := Ref("", kind, obj["metadata"].get("namespace", namespace), name)) in now]
    if template is not None and sources and obj["kind"] != "CronJob":
        template.setdefault("metadata", {}).setdefault("annotations", {})[manifests.REVISION] = manifests.revision(sources)


def _remove(engine: Engine, objects: list[dict], outcome: Outcome, dry_run: bool, deadline: float, purge: bool, prune: bool = True) -> None:
    doomed = []
    for obj in sorted(objects, key=lambda o: manifests.rank(o["kind"]), reverse=True):
        if manifests.annotation(obj, manifests.KEEP) and not purge:
            outcome.add("kept", obj, None)
            outcome.warnings.append(f"{Ref.of(obj)} is kept: it holds {manifests.annotation(obj, manifests.KEEP)}; "
                                 f"playbooks/uninstall.yml with mlflow_purge_data=true removes it.")
        elif not prune:
            outcome.add("left", obj, None)
        else:
            doomed.append(obj)
            outcome.add("deleted", obj, None)
    if doomed and not dry_run:
        engine.delete(doomed, deadline)


def fingerprint(obj: dict) -> str:
    """A stable text of the object as a person means it, to tell whether what runs came from it."""
    return json.dumps(manifests.comparable(obj), sort_keys=True, separators=(",", ":"))
