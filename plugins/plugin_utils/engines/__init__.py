# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Engines run Kubernetes manifests; ``converge`` and ``remove`` hold what all of them share."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field
from typing import Callable, ContextManager, Iterable, Iterator, NamedTuple

from ansible_collections.mlops.mlflow.plugins.plugin_utils import generated, logins, manifests
from ansible_collections.mlops.mlflow.plugins.plugin_utils.manifests import Ref

SECRET_TIMEOUT = 120
"""Seconds that the External Secrets Operator may take to make a Secret."""


class EngineError(Exception):
    """What stops an apply. The message is for the operator: one sentence with the cause, then the engine's output."""


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


def in_the_way(ref: Ref, obj: dict, scope: Scope) -> str:
    """The sentence for a live object of another owner that has the name of a desired one."""
    return (f"{ref} already exists in namespace {ref.namespace or '(none)'} and belongs to "
            f"{owner_of(obj['metadata'].get('labels') or {})}, not to instance "
            f"{scope.instance}; remove or rename it, or choose another mlflow_instance or mlflow_namespace.")


def owner_of(labels: dict[str, str]) -> str:
    """Whose something is by its labels, as messages name it."""
    manager = labels.get("app.kubernetes.io/managed-by")
    if manager == manifests.MANAGER:
        return f"instance {labels.get('app.kubernetes.io/instance')}"
    return manager or "nobody that it names"


def last_line(text: str) -> str:
    """The last line of a program's output that is not empty: usually the one with the cause."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def component_of(obj: dict) -> str:
    """The component that an object's label names, or an empty text."""
    return (obj["metadata"].get("labels") or {}).get("app.kubernetes.io/component", "")


class Put(NamedTuple):
    """What came of putting one object."""

    after: dict
    touched: bool = False
    """Set when the engine had to act although the object reads the same as before (something stopped was started)."""


class Engine:
    """What an engine must be able to do. Messages name objects as ``Deployment mlflow-server``.

    Objects that engines return are full Kubernetes objects: with metadata.labels and annotations as put, a
    metadata.uid, Secrets with their ``data`` (base64). Engines never write to a terminal; progress goes to ``log``.

    Attributes:
        scope: whose objects are acted on.
        log: takes one line of progress.
        warnings: the texts given to ``warn``.
        deadline: time.monotonic() after which faults that may pass are not tried again.
    """

    name = ""
    deadline = float("inf")
    default_namespace_kinds = frozenset((
        "Namespace", "PersistentVolume", "StorageClass", "ClusterRole", "ClusterRoleBinding", "PriorityClass",
        "CustomResourceDefinition", "IngressClass", "GatewayClass", "ClusterIssuer", "ClusterSecretStore",
    ))

    def __init__(self, scope: Scope, log: Callable[[str], None]) -> None:
        self.scope = scope
        self.log = log
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        """Warn once, at the end of the task, of what is not as in the manifests."""
        if text not in self.warnings:
            self.warnings.append(text)

    def namespaced(self, obj: dict) -> bool:
        """Whether objects of this kind live in a namespace."""
        return obj["kind"] not in self.default_namespace_kinds

    def finds_by_label(self, obj: dict) -> bool:
        """Whether ``read`` finds an object of this kind by its labels, without being given the kind."""
        return True

    def unsupported_reason(self, obj: dict) -> str:
        """Why this engine has no counterpart for the object, as the end of a sentence; empty when it has one."""
        return ""

    def read(self, refs: set[Ref], kinds: set[tuple[str, str]]) -> dict[Ref, dict]:
        """The live objects among ``refs``, and all objects of the scope (found by label).

        Args:
            refs: objects to look for, whichever owner they have.
            kinds: (apiVersion, kind) of manifests beyond the kinds that the engine always looks through.
        """
        raise NotImplementedError

    def recover(self, wanted: dict[Ref, dict], live: dict[Ref, dict]) -> dict[Ref, dict]:
        """Desired objects that are there although ``read`` does not find them, or not with all of their values.

        Args:
            wanted: the desired objects, before values are generated.
            live: what ``read`` returned.

        Raises:
            EngineError: what has the place of a desired object's value is not the instance's.
        """
        return {}

    def preflight(self, objects: list[dict], live: dict[Ref, dict]) -> None:
        """Refuse, before anything is touched, what cannot work (a taken port, no room); raises EngineError."""

    def put(self, objects: list[dict], live: dict[Ref, dict], dry_run: bool) -> dict[Ref, Put]:
        """Make each object so, in the order given; with dry_run only return what it would become."""
        raise NotImplementedError

    def wait(self, objects: list[dict], deadline: float) -> None:
        """Return when every workload among the objects is ready; raise EngineError with the cause when one cannot be.

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
            EngineError: no pod is ready, or the program ended with another code than 0, with the last line it wrote.
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
            EngineError: the Job failed or did not end before ``deadline`` (time.monotonic()), with the cause and the
                end of its log.
        """
        raise NotImplementedError

    def pods(self) -> list[dict]:
        """The instance's pods of all components: name, component, state, ready, restarts, image."""
        raise NotImplementedError

    def restart(self, workloads: list[dict], deadline: float) -> None:
        """Replace or restart the pods of live Deployments and StatefulSets, so that some of several always run.

        Raises:
            EngineError: a workload did not become ready again before ``deadline`` (time.monotonic()), with the cause.
        """
        raise NotImplementedError

    def logs(self, lines: int) -> dict[str, str]:
        """The last lines of all containers of the instance's pods, by POD/CONTAINER; of those that were restarted also
        POD/CONTAINER/previous. What cannot be read is a sentence in its place."""
        raise NotImplementedError

    def events(self) -> list[dict]:
        """Recent events about the instance's objects, the oldest first: time, type, object, reason, message."""
        raise NotImplementedError

    def leave(self) -> None:
        """Called after a scope's objects were removed: remove what the engine made for them and nothing else needs."""

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
        """Record what was done to one object, with its diff where there is one to show."""
        ref = Ref.of(after or before)
        self.actions.append({"kind": ref.kind, "name": ref.name, "namespace": ref.namespace, "action": action})
        if action in ("created", "changed", "deleted"):
            name = f"{ref.namespace}/{ref}"
            self.diff.append({
                "before_header": name if before else "absent", "before": manifests.printable(before, after),
                "after_header": name if after else "absent", "after": manifests.printable(after, before),
            })


def converge(engine: Engine, stages: list[list[dict]], dry_run: bool, wait: bool, timeout: int,
             prune: bool = True, refusal: Callable[[dict[Ref, dict]], str] | None = None) -> Outcome:
    """Make the components of the scope consist of exactly the desired objects, and wait until they work.

    Nothing is touched before everything that can be refused has been: objects in the way, missing Secrets, what the
    engine's preflight finds. Objects that were made earlier and are no longer desired are removed, except data.

    Args:
        engine: an open engine.
        stages: labelled and patched objects; those of a stage are put, wave by wave, and become ready side by side
            before the next stage begins. What is no longer desired is removed after the last.
        dry_run: only predict.
        wait: whether to wait for workloads.
        timeout: seconds for all waiting together.
        prune: whether what is no longer desired goes now; else it is reported as left.
        refusal: gets the live objects, and returns a sentence where the desired ones must not take their place.

    Raises:
        EngineError: with the cause.
        ManifestError: for a malformed object.
    """
    return Convergence(engine, dry_run, wait, timeout, refusal).run(stages, prune)


class Convergence:
    """One ``converge``: collect, refuse, generate, then put and wait stage by stage, then prune."""

    def __init__(self, engine: Engine, dry_run: bool, wait: bool, timeout: int,
                 refusal: Callable[[dict[Ref, dict]], str] | None = None) -> None:
        self.engine, self.refusal = engine, refusal
        self.dry_run = dry_run
        self.waits = wait and not dry_run
        self.deadline = engine.deadline = time.monotonic() + timeout
        self.outcome = Outcome()
        self.wanted: dict[Ref, dict] = {}
        """What the instance shall consist of."""
        self.live: dict[Ref, dict] = {}
        """What there was before, of the scope and of what its workloads read."""
        self.current: dict[Ref, dict] = {}
        """What there is by now."""
        self.awaited: set[Ref] = set()
        """Secrets that are not there yet, and that an operator will make."""

    def run(self, stages: list[list[dict]], prune: bool) -> Outcome:
        """All steps in turn."""
        stages = self._supported(stages)
        self._collect(stages)
        self._refuse()
        self._generate()
        self.engine.preflight(list(self.wanted.values()), self.live)
        for stage in stages:
            for wave in manifests.waves(stage):
                self._put_wave(wave)
                self._wait(wave)
        self._prune(prune)
        self.outcome.warnings.extend(self.engine.warnings)
        return self.outcome

    def _supported(self, stages: list[list[dict]]) -> list[list[dict]]:
        """The stages without what the engine has no counterpart for, which is named once."""
        reasons: dict[str, str] = {}
        kept: list[list[dict]] = []
        for stage in stages:
            kept.append([])
            for obj in stage:
                if self.engine.namespaced(obj):
                    obj["metadata"].setdefault("namespace", self.engine.scope.namespace)
                reason = self.engine.unsupported_reason(obj)
                if reason:
                    reasons.setdefault(obj["kind"], reason)
                else:
                    kept[-1].append(obj)
        self.outcome.warnings.extend(f"{kind} left out: {reason}." for kind, reason in sorted(reasons.items()))
        return kept

    # -- collect ---------------------------------------------------------------------------------------------------

    def _collect(self, stages: list[list[dict]]) -> None:
        """Read what there is of the desired objects, of what they read, and of what was made before."""
        desired = [obj for stage in stages for obj in stage]
        _remember_kinds(self.engine, desired)
        self.wanted = {Ref.of(obj): obj for obj in desired}
        kinds = {(obj["apiVersion"], obj["kind"]) for obj in desired}
        refs = set(self.wanted)
        for obj in desired:
            refs.update(ref for ref, _required in references(obj))
        self.live = self.engine.read(refs, kinds)
        self.live.update(_read_remembered_kinds(self.engine, self.live, kinds))
        self.live.update(self.engine.recover(self.wanted, self.live))
        self.current = dict(self.live)

    # -- refuse ----------------------------------------------------------------------------------------------------

    def _refuse(self) -> None:
        """Raise EngineError for what no engine could do."""
        for ref in self.wanted:
            if ref in self.live and not self.engine.scope.owns(self.live[ref]):
                raise EngineError(in_the_way(ref, self.live[ref], self.engine.scope))
        sentence = self.refusal(self.live) if self.refusal else ""
        if sentence:
            raise EngineError(sentence)
        missing, self.awaited = missing_references(self.engine, self.wanted, self.live)
        for ref, reader in missing.items():
            # In check mode the Secret may be one that an earlier task of the same run would have made.
            if not self.dry_run:
                raise EngineError(not_there(ref, reader))
        for sentence in generated.lost(self.wanted, self.live):
            raise EngineError(sentence)

    # -- generate --------------------------------------------------------------------------------------------------

    def _generate(self) -> None:
        """Fill the values that Secrets ask to have generated."""
        for ref, obj in self.wanted.items():
            generated.fill(obj, self.live.get(ref))

    # -- put and wait ----------------------------------------------------------------------------------------------

    def _put_wave(self, wave: list[dict]) -> None:
        """Put workloads after everything that they read, so that their revisions are known."""
        early, late = [], []
        for obj in wave:
            (late if manifests.references(obj) or manifests.becomes_ready(obj) else early).append(obj)
        for batch in filter(None, (early, late)):
            self._await_secrets(batch)
            self._put(batch)

    def _put(self, batch: list[dict]) -> None:
        for obj in batch:
            self._set_revision(obj)
            # Waves have been kept here. Those of a repository count otherwise, and stay on what it has made.
            (obj["metadata"].get("annotations") or {}).pop(manifests.WAVE, None)
        for ref, put in self.engine.put(batch, self.live, self.dry_run).items():
            before = self.live.get(ref)
            self.current[ref] = put.after
            made = self._ensure_login(put.after)
            if not before:
                action = "created"
            elif made or put.touched or manifests.comparable(before) != manifests.comparable(put.after):
                action = "changed"
            else:
                action = "unchanged"
            self.outcome.add(action, before, put.after)

    def _ensure_login(self, obj: dict) -> bool:
        """Make the login of a Secret in its database or object store, and return whether it had to be made.

        One that does not answer is no reason to fail, since who reads by the login goes on without it.
        """
        if self.dry_run or not self.waits or not logins.annotated(obj):
            return False
        try:
            return logins.ensure(self.engine.execute, obj)
        except EngineError as error:
            self.engine.warn(f"The login of {Ref.of(obj)} was not made: {error}")
            return False

    def _set_revision(self, obj: dict) -> None:
        """Mark a workload's pods with a fingerprint of the configuration they read, so that a change restarts them."""
        template = manifests.pod_template(obj)
        if template is None or obj["kind"] == "CronJob":  # whose next pods read what there is by then
            return
        once = manifests.annotation(obj, manifests.READ_ONCE).split(",")
        refs = [ref for ref, _required in references(obj) if ref.name not in once]
        sources = [self.current[ref] for ref in refs if ref in self.current]
        if sources:
            annotations = template.setdefault("metadata", {}).setdefault("annotations", {})
            annotations[manifests.REVISION] = self._rendered_revision(obj, refs) or manifests.revision(sources)

    def _rendered_revision(self, obj: dict, refs: list[Ref]) -> str:
        """The fingerprint of a workload that a repository made (plugin_utils/gitops.py), for as long as this run
        changes nothing that its pods read: taking it over restarts nothing."""
        before = self.live.get(Ref.of(obj))
        if not before or not manifests.annotation(before, manifests.RENDERED):
            return ""
        for ref in refs:
            old, new = self.live.get(ref) or {}, self.current.get(ref) or {}
            if any(old.get(part) != new.get(part) for part in ("data", "binaryData")):
                return ""
        return manifests.pod_revision(before)

    def _await_secrets(self, batch: list[dict]) -> None:
        """Wait for Secrets that an operator makes: pods would start without, and again as soon as they are known."""
        refs = {ref for obj in batch for ref, _required in references(obj)} & (self.awaited - set(self.current))
        if not refs or not self.waits:
            return
        deadline = min(self.deadline, time.monotonic() + SECRET_TIMEOUT)
        self.engine.log(f"Waiting for an operator to make {', '.join(sorted(map(str, refs)))}")
        while True:
            found = self.engine.read(refs | set(map(_external_secret_of, refs)), set())
            missing = sorted(refs - set(found))
            if not missing:
                self.current.update({ref: found[ref] for ref in refs})
                return
            if time.monotonic() > deadline:
                raise EngineError(_not_made(missing[0], found.get(_external_secret_of(missing[0]))))
            time.sleep(1)

    def _wait(self, wave: list[dict]) -> None:
        workloads = [self.current[Ref.of(obj)] for obj in wave if manifests.becomes_ready(obj)]
        if workloads and self.waits:
            self.engine.wait(workloads, self.deadline)

    # -- prune -----------------------------------------------------------------------------------------------------

    def _prune(self, prune: bool) -> None:
        """Remove, or report, what the scope's components made earlier and no longer consist of."""
        surplus = [obj for ref, obj in self.live.items()
                   if ref not in self.wanted and self.engine.scope.manages(obj) and not _controlled(obj)
                   and not manifests.annotation(obj, manifests.RECORD)]
        doomed = _split_off_data(surplus, self.outcome)
        for obj in doomed:
            self.outcome.add("deleted" if prune else "left", obj, None)
        if prune and not self.dry_run:
            _drop_logins(self.engine, doomed)
            _delete(self.engine, doomed, self.deadline)


def remove(engine: Engine, dry_run: bool, purge: bool, timeout: int) -> Outcome:
    """Remove everything of the scope; data (and the Secrets that open it) only with ``purge``.

    Args:
        engine: an open engine, whose scope may be some components of an instance or all.
        dry_run: only predict.
        purge: whether data goes too.
        timeout: seconds until everything must be gone.

    Raises:
        EngineError: with the cause.
    """
    outcome = Outcome()
    deadline = engine.deadline = time.monotonic() + timeout
    live = engine.read(set(), set())
    live.update(_read_remembered_kinds(engine, live, set()))
    doomed = [obj for obj in live.values() if engine.scope.manages(obj) and not _controlled(obj)]
    if not purge:
        doomed = _split_off_data(doomed, outcome)
    doomed.sort(key=_deletion_order)
    for obj in doomed:
        outcome.add("deleted", obj, None)
    if not dry_run:
        if not purge:
            _drop_logins(engine, doomed)
        _delete(engine, doomed, deadline)
        engine.leave()
    outcome.warnings.extend(engine.warnings)
    return outcome


def missing_references(engine: Engine, wanted: dict[Ref, dict], live: dict[Ref, dict],
                       ) -> tuple[dict[Ref, dict], set[Ref]]:
    """What objects read and nobody makes, with one object that reads each; and Secrets that an operator makes.

    Those are made from an ExternalSecret, one of the objects or of an earlier apply, or by CloudNativePG for a Cluster
    that is one of the objects.

    Args:
        engine: asked for ExternalSecrets.
        wanted: the objects, by reference.
        live: what there is of all that they read.
    """
    missing: dict[Ref, dict] = {}
    for obj in wanted.values():
        for ref, required in references(obj):
            if required and ref not in live and ref not in wanted:
                missing.setdefault(ref, obj)
    if not missing:
        return {}, set()
    targets = set()
    for obj in wanted.values():
        if obj["kind"] == "ExternalSecret":
            targets.add(obj["spec"].get("target", {}).get("name", obj["metadata"]["name"]))
        elif manifests.is_postgresql_cluster(obj):
            targets.add(f"{obj['metadata']['name']}-app")
    awaited = {ref for ref in missing if ref.kind == "Secret" and ref.name in targets}
    others = {ref for ref in missing if ref.kind == "Secret"} - awaited
    if others:
        # Another component's ExternalSecret has the name of what it makes.
        found = engine.read(set(map(_external_secret_of, others)), set())
        awaited |= {ref for ref in others if _external_secret_of(ref) in found}
    return {ref: reader for ref, reader in missing.items() if ref not in awaited}, awaited


def not_there(ref: Ref, reader: dict) -> str:
    """The sentence for what an object reads and nobody makes."""
    return (f"{Ref.of(reader)} reads {ref}, which is not in namespace {ref.namespace}; create it first or name another "
            "one.")


def references(obj: dict) -> Iterator[tuple[Ref, bool]]:
    """The ConfigMaps and Secrets that an object's pods read, and whether these do not start without."""
    for kind, name, required in manifests.references(obj):
        yield Ref("", kind, obj["metadata"].get("namespace", ""), name), required


def _external_secret_of(ref: Ref) -> Ref:
    """The ExternalSecret of a Secret's name, from which an operator makes it."""
    return Ref("external-secrets.io", "ExternalSecret", ref.namespace, ref.name)


def _not_made(ref: Ref, external_secret: dict | None) -> str:
    """The sentence for a Secret that an operator has not made in time."""
    if external_secret is None:
        return f"{ref} was not made by the operator that makes it; look at the log of the operator."
    reason = "no operator has looked at it"
    for condition in ((external_secret or {}).get("status") or {}).get("conditions") or []:
        if condition.get("status") != "True" and condition.get("message"):
            reason = condition["message"]
            break
    return f"ExternalSecret {ref.name} has made no Secret: {reason}; fix mlflow_secret_store, or what it may read."


def _remember_kinds(engine: Engine, objects: list[dict]) -> None:
    """Name kinds that a read by label does not find on the objects of their component, for later runs to look for."""
    unusual: dict[str, set[str]] = {}
    for obj in objects:
        if not engine.finds_by_label(obj):
            unusual.setdefault(component_of(obj), set()).add(f"{obj['apiVersion']}/{obj['kind']}")
    for obj in objects:
        if component_of(obj) in unusual:
            annotations = obj["metadata"].setdefault("annotations", {})
            annotations[manifests.KINDS] = ",".join(sorted(unusual[component_of(obj)]))


def _read_remembered_kinds(engine: Engine, live: dict[Ref, dict], known: set[tuple[str, str]]) -> dict[Ref, dict]:
    """Objects of kinds that an earlier run named on the objects beside them."""
    kinds = set()
    for obj in live.values():
        if engine.scope.manages(obj):
            for name in filter(None, manifests.annotation(obj, manifests.KINDS).split(",")):
                api_version, _slash, kind = name.rpartition("/")
                kinds.add((api_version, kind))
    return engine.read(set(), kinds) if kinds - known else {}


def _controlled(obj: dict) -> bool:
    """Whether a controller made the object (a Pod's ReplicaSet, a CronJob's Job); it goes when its owner goes."""
    return any(owner.get("controller") for owner in obj["metadata"].get("ownerReferences") or [])


def _split_off_data(objects: list[dict], outcome: Outcome) -> list[dict]:
    """What may be deleted, in the order of deletion; data is reported as kept."""
    doomed = []
    for obj in sorted(objects, key=_deletion_order):
        data = manifests.annotation(obj, manifests.KEEP)
        if data:
            outcome.add("kept", obj, None)
            outcome.warnings.append(f"{Ref.of(obj)} is kept: it holds {data}; playbooks/uninstall.yml with "
                                    f"mlflow_purge_data=true removes it.")
        else:
            doomed.append(obj)
    return doomed


def _deletion_order(obj: dict) -> tuple[int, int]:
    """First what leads requests to workloads or watches them, then workloads, then what workloads need."""
    kind = obj["kind"]
    is_workload = manifests.becomes_ready(obj) or kind == "CronJob"
    if kind == "Service" or (not is_workload and manifests.rank(kind) > manifests.rank("Deployment")):
        step = 0
    else:
        step = 1 if is_workload else 2
    return step, -manifests.rank(kind)


def _drop_logins(engine: Engine, objects: Iterable[dict]) -> None:
    """Drop the logins of Secrets that are to be deleted, while their databases run."""
    for obj in objects:
        if logins.annotated(obj):
            try:
                logins.drop(engine.execute, obj)
            except EngineError as error:
                engine.warn(f"The login of {Ref.of(obj)} was not dropped: {error}")


def _delete(engine: Engine, objects: Iterable[dict], deadline: float) -> None:
    """Delete objects step by step, each gone before the next: a server, say, before the volume that it writes to."""
    for _step, batch in itertools.groupby(objects, key=lambda obj: _deletion_order(obj)[0]):
        engine.delete(list(batch), deadline)
