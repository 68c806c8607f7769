# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The podman engine: the same manifests on one machine, through Ansible's connection to it.

Objects are remembered as files in a state folder of the host, one each, as they were put; Secrets without their values,
which only podman's secret store holds. What a manifest means is in labels on pods, volumes and secrets, so that what
podman shows and what the state says can be compared.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import posixpath
import shlex
import time
import uuid
from typing import Callable, Iterable, Iterator

from ansible_collections.mlops.mlflow.plugins.module_utils.podman import secret_name
from ansible_collections.mlops.mlflow.plugins.plugin_utils import generated, manifests
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines import Engine, EngineError, Put, Scope, owner_of
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines import podman_access, podman_schedule, podman_spec
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines.podman_machine import LOST, Machine, Run, last_line
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines.podman_spec import LABEL, Pod, Context
from ansible_collections.mlops.mlflow.plugins.plugin_utils.manifests import Ref

RUNNABLE = ("Deployment", "StatefulSet", "Job")
WITH_PODS = (*RUNNABLE, "CronJob")
STORED = ("ConfigMap", "Secret", "PersistentVolumeClaim", "Service", *WITH_PODS)
NO_COUNTERPART = {
    "ServiceAccount": "one machine has no API that pods could log in to",
    "Role": "one machine has no API to give rights to", "RoleBinding": "one machine has no API to give rights to",
    "ClusterRole": "one machine has no API to give rights to",
    "ClusterRoleBinding": "one machine has no API to give rights to",
    "NetworkPolicy": "on one machine the instance's own network is the border",
    "HorizontalPodAutoscaler": "one machine runs a fixed number of pods",
    "PodDisruptionBudget": "one machine has no nodes to drain",
}
START_ATTEMPTS = 5
NOT_RELEASED = ("already allocated", "already in use", "container state improper")
"""What podman answers while the pod that had the address before is stopped, and podman has not cleaned up after it yet:
it does so in a process of its own."""
UNRECOVERABLE_STATES = (LOST, "stopping", "removing", "unknown")
"""States of containers that podman can only remove."""
CRASHES = 3
LOG_LINES = 15
EVENTS_SINCE = "24h"
EVENTS_OF_PROBES = ("exec", "exec_died", "health_status")
"""Of which there is one every few seconds."""
LOG_INTERVAL = 30


class PodmanEngine(Engine):
    """Runs the objects of its scope as pods of the inventory host."""

    name = "podman"

    def __init__(self, scope: Scope, log: Callable[[str], None], run: Run) -> None:
        super().__init__(scope, log)
        self.machine = Machine(scope, run, log, self.warn)
        self._known: dict[Ref, dict] = {}
        self._before: dict[Ref, dict] = {}
        self._old: dict[Ref, list[str]] = {}
        self._pods: dict[Ref, list[Pod]] = {}
        self._attempts: dict[str, int] = {}
        self._logged: tuple[str, float] = ("", 0.0)

    def unsupported_reason(self, obj: dict) -> str:
        if obj["kind"] == "CronJob":
            return self._unscheduled_reason(obj)
        if obj["kind"] in STORED:
            return ""
        return NO_COUNTERPART.get(obj["kind"], "it is for clusters, and podman has no counterpart")

    def _unscheduled_reason(self, cron_job: dict) -> str:
        """Why nothing would run a CronJob on this machine; empty when something does."""
        facts = self.machine.facts
        if not facts.unit and not facts.cron:
            return (f"no systemd runs {'here' if self.machine.is_root else 'for this user'} and no cron is installed; "
                    "install Debian's package "
                    f"cron, then run this again")
        if not facts.unit and not facts.cron_runs:
            self.warn(f"{Ref.of(cron_job)} is in the crontab of {facts.user}, but no cron daemon runs on this "
                      "machine; start cron.")
        return podman_schedule.unsupported_reason(cron_job)

    # -- reading ---------------------------------------------------------------------------------------------------

    def read(self, refs: set[Ref], kinds: set[tuple[str, str]]) -> dict[Ref, dict]:
        live = {}
        for obj in self.machine.facts.objects:
            ref = Ref.of(obj)
            if (ref in refs or self.scope.manages(obj)) and (found := self._with_reality(ref, obj)):
                live[ref] = found
        for ref, obj in self._unremembered():
            if ref not in live and (ref in refs or self.scope.manages(obj)):
                live[ref] = obj
        for ref in refs - set(live):
            if foreign := self._foreign(ref):
                live[ref] = foreign
        return live

    def _with_reality(self, ref: Ref, obj: dict) -> dict | None:
        """A remembered object with what podman knows of it now; None when its counterpart is gone."""
        if ref.kind == "PersistentVolumeClaim" and ref.name not in self.machine.facts.volumes:
            return None
        if ref.kind == "Secret":
            values = self._secret(ref, obj.get("data") or {})
            return {**obj, "data": values} if values or not obj.get("data") else None
        if ref.kind in RUNNABLE and not self._containers(ref):
            return None
        return obj

    def _unremembered(self) -> Iterator[tuple[Ref, dict]]:
        """Workloads of this namespace whose pods are there while their state is not: it was lost, or never written."""
        for container in self.machine.facts.containers:
            labels = container.get("Labels") or {}
            if labels.get(f"{LABEL}/namespace") == self.scope.namespace and "/" in labels.get(f"{LABEL}/workload", ""):
                kind, name = labels[f"{LABEL}/workload"].split("/", 1)
                ours = {**labels, "app.kubernetes.io/component": labels.get(f"{LABEL}/component", "")}
                obj = {"apiVersion": "batch/v1" if kind in ("Job", "CronJob") else "apps/v1", "kind": kind,
                       "metadata": {"name": name, "namespace": self.scope.namespace, "uid": "", "labels": ours}}
                yield Ref.of(obj), obj

    def _secret(self, ref: Ref, keys: Iterable[str]) -> dict[str, str]:
        """A Secret's values, base64; from podman, which alone has them."""
        facts, values = self.machine.facts, {}
        for key in keys:
            name = secret_name(ref.namespace, ref.name, key)
            identifier = facts.secrets.get(name)
            if identifier is None:
                continue
            stored = facts.values.get(identifier)
            if stored is None:  # a driver other than podman's file store; newer versions show them
                text = self.machine.podman("secret", "inspect", "--showsecret", "--format", "{{.SecretData}}", name,
                                           what=f"Reading {ref}")
                stored = base64.b64encode(text.removesuffix("\n").encode()).decode()
            values[key] = stored
        return values

    def _foreign(self, ref: Ref) -> dict | None:
        """Something on the machine that has the name but is not ours to touch, or ours with its state lost."""
        labels = self.machine.facts.volumes.get(ref.name) if ref.kind == "PersistentVolumeClaim" else None
        if labels is None:
            return None
        ours = labels.get(f"{LABEL}/namespace") == ref.namespace
        api_version = f"{ref.group}/v1" if ref.group else "v1"
        return {"apiVersion": api_version, "kind": ref.kind,
                "metadata": {"name": ref.name, "namespace": ref.namespace, "uid": "", "labels": labels if ours else {}}}

    def _containers(self, ref: Ref) -> list[dict]:
        """Containers of a workload, as `podman ps` shows them; the one that only holds the pod together is none of
        them."""
        marks = {f"{LABEL}/workload": f"{ref.kind}/{ref.name}", f"{LABEL}/namespace": ref.namespace}
        return [c for c in self.machine.facts.containers if marks.items() <= (c.get("Labels") or {}).items()
                and f"{LABEL}/container" in c["Labels"]]

    def recover(self, wanted: dict[Ref, dict], live: dict[Ref, dict]) -> dict[Ref, dict]:
        """Secrets whose values podman has although the state that names them was lost, or never written.

        Their values are kept: a database or a key of encryption on a volume may open with nothing else. Whether one was
        generated is not known any more, so each is taken for generated, which nothing replaces where it would not help.
        """
        lost: dict[str, tuple[Ref, str]] = {}
        for ref, obj in wanted.items():
            known = live.get(ref, {}).get("data") or {}
            for key in generated.all_keys(obj) if ref.kind == "Secret" else ():
                name = secret_name(ref.namespace, ref.name, key)
                if key not in known and name in self.machine.facts.secrets:
                    lost[name] = ref, key
        if not lost:
            return {}
        found: dict[Ref, list[str]] = {}
        for name, labels in sorted(self.machine.secret_labels(lost).items()):
            ref, key = lost[name]
            if not self._is_own(labels) and (labels or not self._was_here()):
                raise EngineError(
                    f"{ref} is to be stored in podman's secret {name}, which already exists and belongs to "
                    f"{owner_of(labels)}, not to instance {self.scope.instance}; if nothing needs its value, remove it "
                    f"with 'podman secret rm {name}', else choose another mlflow_instance or mlflow_namespace.")
            found.setdefault(ref, []).append(key)
        return {ref: self._recovered(wanted[ref], live.get(ref), keys) for ref, keys in found.items()}

    def _recovered(self, wanted: dict, live: dict | None, keys: list[str]) -> dict:
        """A Secret with the values that podman has for further keys of it."""
        ref = Ref.of(wanted)
        data = {**((live or {}).get("data") or {}), **self._secret(ref, keys)}
        if live is not None:
            return {**live, "data": data}
        return {"apiVersion": "v1", "kind": "Secret", "type": wanted.get("type", "Opaque"), "data": data, "metadata": {
            "name": ref.name, "namespace": ref.namespace, "uid": "", "labels": wanted["metadata"]["labels"],
            "annotations": {manifests.GENERATE: ",".join(keys)}}}

    def _is_own(self, labels: dict[str, str]) -> bool:
        """Whether something of podman's is the instance's, by its labels."""
        return (self.scope.owns({"metadata": {"labels": labels}})
                and labels.get(f"{LABEL}/namespace") == self.scope.namespace)

    def _was_here(self) -> bool:
        """Whether a volume or container of the instance is there. Then secrets with its names are its own without
        labels, too: version 0.1.0 gave them none."""
        facts = self.machine.facts
        return any(map(self._is_own, [*facts.volumes.values(), *(c.get("Labels") or {} for c in facts.containers)]))

    # -- before anything is touched --------------------------------------------------------------------------------

    def preflight(self, objects: list[dict], live: dict[Ref, dict]) -> None:
        self._known = {Ref.of(obj): obj for obj in [*self.machine.facts.objects, *live.values(), *objects]}
        self._before = live
        workloads = [obj for obj in objects if obj["kind"] in WITH_PODS]
        for obj in workloads:
            self._translated(obj)
            if obj["kind"] == "CronJob":
                podman_schedule.parse(obj["spec"]["schedule"], str(Ref.of(obj)))
        self.machine.preflight(objects, workloads)

    def _translated(self, workload: dict) -> list[Pod]:
        """The pods that a workload means, without addresses."""
        if workload["kind"] == "CronJob":
            return [podman_spec.cron_job_pod(workload, self._context())]
        return podman_spec.pods(workload, self._context())

    # -- writing ---------------------------------------------------------------------------------------------------

    def put(self, objects: list[dict], live: dict[Ref, dict], dry_run: bool) -> dict[Ref, Put]:
        result: dict[Ref, Put] = {}
        if dry_run:
            return {Ref.of(obj): Put(self._with_uid(obj, live)) for obj in objects}
        self._address([obj for obj in objects if obj["kind"] in WITH_PODS])
        files: dict[str, tuple[str, int]] = {}
        try:
            for obj in objects:
                ref, before, after = Ref.of(obj), live.get(Ref.of(obj)), self._with_uid(obj, live)
                same = before is not None and manifests.comparable(before) == manifests.comparable(after)
                state = {} if same else self._state_of(ref, after)
                if (
                    ref.kind == "Secret"
                ):  # remembered first: a value that is stored but not known would be generated anew
                    files.update(state)
                touched = getattr(self, f"_put_{ref.kind.lower()}")(ref, after, before, same)
                files.update(state)
                result[ref] = Put(after, touched)
        finally:
            if files:
                self.machine.write(files)
        if any(obj["kind"] in RUNNABLE for obj in objects):
            self.machine.survive_reboots()
        return result

    @staticmethod
    def _with_uid(obj: dict, live: dict[Ref, dict]) -> dict:
        """The object with the identity that it has, or with a new one."""
        uid = live.get(Ref.of(obj), {}).get("metadata", {}).get("uid") or str(uuid.uuid4())
        return {**obj, "metadata": {**obj["metadata"], "uid": uid}}

    def _address(self, workloads: list[dict]) -> None:
        """Translate workloads into pods with addresses; the machine is asked only where something is new."""
        pods = {Ref.of(obj): self._translated(obj) for obj in workloads}
        there = {(c.get("Labels") or {}).get(f"{LABEL}/pod") for c in self.machine.facts.containers}
        known = self.machine.addresses
        stale = []
        for ref, of_workload in pods.items():
            workload = f"{ref.kind}/{ref.name}"
            before = {hostname: names for hostname, (_address, owner, names) in known.items() if owner == workload}
            wanted = {pod.hostname: list(dict.fromkeys(pod.names)) for pod in of_workload}
            if before != wanted or any(pod.name not in there and ref.kind != "CronJob" for pod in of_workload):
                stale.append(ref)
        if stale:
            self.machine.address({ref: pods[ref] for ref in stale})
        for of_workload in pods.values():
            for pod in of_workload:
                pod.address = self.machine.addresses[pod.hostname][0]
        self._pods.update(pods)

    def _state_of(self, ref: Ref, obj: dict) -> dict[str, tuple[str, int]]:
        if ref.kind == "Secret":
            obj = {**obj, "data": {key: "" for key in obj.get("data") or {}}}
        return {f"objects/{ref.kind}.{ref.name}.json": (json.dumps(obj) + "\n", 0o600)}

    def _put_configmap(self, ref: Ref, obj: dict, before: dict | None, same: bool) -> bool:
        if same:
            return False
        gone = set((before or {}).get("data") or {}) - set(obj.get("data") or {})
        if gone:
            self.machine.run(["rm", "-f", *(f"{self.machine.folder}/configmaps/{ref.name}/{key}" for key in gone)])
        self.machine.write({f"configmaps/{ref.name}/{key}": (text, 0o644) for key,
                            text in (obj.get("data") or {}).items()})
        return False

    def _put_secret(self, ref: Ref, obj: dict, before: dict | None, same: bool) -> bool:
        old, new = (before or {}).get("data") or {}, obj.get("data") or {}
        for key in set(old) | set(new):
            name = secret_name(ref.namespace, ref.name, key)
            if key in old and old[key] != new.get(key):
                self.machine.podman("secret", "rm", name, what=f"Replacing {ref}")
            if key in new and old.get(key) != new[key]:
                # The value travels on standard input only; base64 keeps any bytes whole on the way through Ansible's
                # connection.
                labels = podman_spec.labels_for({**obj["metadata"]["labels"], f"{LABEL}/namespace": ref.namespace})
                script = 'base64 -d | podman secret create "$@" -'
                rc, out, err = self.machine.run(["sh", "-c", script, "sh", *labels, name], new[key])
                if rc:
                    raise EngineError(f"{ref} cannot be stored: {last_line(err or out)}")
        return False

    def _put_persistentvolumeclaim(self, ref: Ref, obj: dict, before: dict | None, same: bool) -> bool:
        if ref.name not in self.machine.facts.volumes:
            labels = {**obj["metadata"]["labels"], f"{LABEL}/namespace": ref.namespace}
            self.machine.podman("volume", "create", *podman_spec.labels_for(labels), ref.name,
                                what=f"Making the volume of {ref}")
            self.machine.facts.volumes[ref.name] = labels
        return False

    def _put_service(self, ref: Ref, obj: dict, before: dict | None, same: bool) -> bool:
        return False  # names on the pods that it selects

    def _put_job(self, ref: Ref, obj: dict, before: dict | None, same: bool) -> bool:
        (pod,) = self._pods[ref]
        there = self._containers(ref)
        done = there and all(c["Labels"].get(f"{LABEL}/fingerprint") == pod.fingerprint for c in there) and all(
            c["State"] == "running" or (c["State"] == "exited" and c["ExitCode"] == 0) for c in there)
        if done:
            return False
        self._remove_pods(self._pod_names(ref))
        self._make(pod)
        self._start(pod)
        return True

    def _put_deployment(self, ref: Ref, obj: dict, before: dict | None, same: bool) -> bool:
        wanted = {pod.name: pod for pod in self._pods[ref]}
        there: dict[str, list[dict]] = {}
        for container in self._containers(ref):
            there.setdefault(container["Labels"][f"{LABEL}/pod"], []).append(container)
        touched = self._remove_lost(ref, there)
        stale = sorted(set(there) - set(wanted))
        for name, pod in wanted.items():
            if name in there and _complete(there[name], pod):
                if any(c["State"] != "running" for c in there[name] if c["Labels"][f"{LABEL}/role"] == "main"):
                    self._start(pod)
                    touched = True
                continue
            if name in there:
                self._remove_pods({name})
            self._replace(pod, [old for old in stale if old.startswith(f"{pod.hostname}-")])
            touched = True
        surplus = set(stale) - set(self._old.get(ref, []))
        self._remove_pods(surplus)
        return touched or bool(surplus)

    def _remove_lost(self, ref: Ref, there: dict[str, list[dict]]) -> bool:
        """Remove the pods that podman cannot start or stop any more, from the machine and from ``there``; whether there
        were any."""
        lost = {pod for pod, containers in there.items()
                if any(c["State"] in UNRECOVERABLE_STATES for c in containers)}
        if lost:
            self.log(f"{ref}: podman has lost its pod and cannot start it again, so it is recreated")
            self._remove_pods(lost)
            for pod in lost:
                del there[pod]
        return bool(lost)

    def _replace(self, pod: Pod, old: list[str]) -> None:
        """Start a pod in place of others, which are stopped until it is ready: it needs their port, address and volumes
        now."""
        self._make(pod)
        for name in old:
            self.machine.podman("pod", "stop", name, what=f"Stopping {pod.workload}")
            self._old.setdefault(pod.workload, []).append(name)
        try:
            self._start(pod)
        except EngineError:
            self._restore(pod.workload)
            raise

    _put_statefulset = _put_deployment

    def _put_cronjob(self, ref: Ref, obj: dict, before: dict | None, same: bool) -> bool:
        (pod,) = self._pods[ref]
        facts, folder = self.machine.facts, f"{self.machine.folder}/cronjobs/{ref.name}"
        schedule = podman_schedule.parse(obj["spec"]["schedule"], str(ref))
        run = podman_schedule.run_script(obj, pod, schedule)
        units = podman_schedule.units(ref, f"{folder}/run", schedule, obj["spec"].get("timeZone") or "")
        line = podman_schedule.crontab_line(obj, f"{folder}/run")
        suspended = bool(obj["spec"].get("suspend"))
        text = "suspended\n" if suspended else "".join(units.values()) if facts.unit else f"{line}\n"
        if facts.cron_jobs.get(ref.name) == podman_schedule.digest(run, text):
            return False
        self.machine.write({f"cronjobs/{ref.name}/run": (run, 0o755), f"cronjobs/{ref.name}/schedule": (text, 0o644)})
        if suspended:
            self._unschedule(ref)
        elif facts.unit:
            self.machine.linger()
            self.machine.enable(units, f"The timer of {ref}")
        else:
            self._crontab(ref, line)
        return True

    def _crontab(self, ref: Ref, line: str = "") -> None:
        """Have the user's crontab run a CronJob, or without a line no longer."""
        rc, out, err = self.machine.script("crontab.sh", f"{self.machine.folder}/cronjobs/{ref.name}/run",
                                           *([line] if line else []))
        if rc:
            raise EngineError(f"{ref} cannot be written to the crontab of {self.machine.facts.user}: "
                              f"{last_line(err or out)}")

    def _unschedule(self, ref: Ref) -> None:
        """See that nothing starts a CronJob any more."""
        facts = self.machine.facts
        if facts.unit:
            base = f"{posixpath.dirname(facts.unit)}/{podman_schedule.unit_name(ref)}"
            self.machine.script("disable_units.sh", self.machine.manager, f"{base}.timer", f"{base}.service")
        if facts.cron:
            self._crontab(ref)

    def _context(self) -> Context:
        return Context(
            scope=self.scope,
            services=[o for o in self._known.values() if o["kind"] == "Service"],
            configmaps=f"{self.machine.folder}/configmaps",
            scratch=f"{self.machine.folder}/scratch",
            hosts=f"{self.machine.folder}/hosts",
            healthchecks=bool(self.machine.facts.unit),
            secret_keys={
                o["metadata"]["name"]: sorted(o.get("data") or {})
                for o in self._known.values()
                if o["kind"] == "Secret"
            },
            controllers=self.machine.controllers,
        )

    def _make(self, pod: Pod) -> None:
        """Create a pod with its containers, started by nobody yet; nothing is left of it when a part cannot be made."""
        folders = [["mkdir", "-p", *pod.scratch], ["chmod", "1777", *pod.scratch]] if pod.scratch else []
        commands = "".join(f"{shlex.join(command)} >/dev/null </dev/null\n" for command in [*folders, *pod.commands()])
        # On standard input, where quotes need no further quotes on the way through Ansible, become and ssh.
        rc, out, err = self.machine.run(["sh", "-es"], commands)
        if rc:
            self._remove_pods({pod.name})
            raise EngineError(f"{pod.workload} cannot be made: {last_line(err or out)}")
        self.machine.look_again()

    def _start(self, pod: Pod) -> None:
        for attempt in range(1, START_ATTEMPTS + 1):
            rc, out, err = self.machine.run(["podman", "pod", "start", pod.name])
            if not rc or attempt == START_ATTEMPTS or not any(words in err + out for words in NOT_RELEASED):
                break
            time.sleep(attempt)
        self.machine.look_again()
        if rc:
            logs = self._failed_logs(pod.workload)
            words = last_line(err or out)
            raise EngineError("\n".join([f"{pod.workload} does not start: {logs[0] if logs else words}", *logs[1:]]))

    def _restore(self, ref: Ref) -> None:
        """Start the pods that ran before again, in place of those that do not work."""
        old = self._old.pop(ref, [])
        if old:
            self._remove_pods(self._pod_names(ref) - set(old))
            for name in old:
                self.machine.run(["podman", "pod", "start", name])
            self.machine.write(self._state_of(ref, self._before[ref]))
            self.log(f"{ref}: what ran before is running again")

    def _pod_names(self, ref: Ref) -> set[str]:
        marks = (f"label={LABEL}/workload={ref.kind}/{ref.name}", f"label={LABEL}/namespace={ref.namespace}")
        out = self.machine.podman("pod", "ps", "--filter", marks[0], "--filter", marks[1], "--format", "{{.Name}}")
        return set(out.split())

    def _remove_pods(self, names: set[str]) -> None:
        if not names:
            return
        _rc, out, err = self.machine.script("remove_pods.sh", f"{self.machine.folder}/scratch", *sorted(names))
        self.machine.look_again()
        if out.strip():
            raise EngineError(f"Pod {out.split()[0]} cannot be removed: {last_line(err)}")

    # -- waiting ---------------------------------------------------------------------------------------------------

    def wait(self, objects: list[dict], deadline: float) -> None:
        waiting = {Ref.of(obj): obj for obj in objects}
        pause, last = 0.3, {}
        try:
            while True:
                for ref, obj in list(waiting.items()):
                    last[ref] = self._lacks(ref, obj)
                    if not last[ref]:
                        del waiting[ref]
                if not waiting:
                    break
                if time.monotonic() > deadline:
                    ref = next(iter(waiting))
                    raise EngineError("\n".join([f"{ref} is not ready in time ({last[ref]}).",
                                                 *self._failed_logs(ref, running=True)[1:]]))
                self._log_progress("; ".join(f"{ref}: {last[ref]}" for ref in waiting))
                time.sleep(pause)
                pause = min(pause * 1.3, 2.0)
        except EngineError:
            for ref in list(self._old):
                self._restore(ref)
            raise
        for ref in [Ref.of(obj) for obj in objects]:
            self._remove_pods(set(self._old.pop(ref, [])))

    def _log_progress(self, text: str) -> None:
        """Log what is waited for when it changes, and now and then."""
        before, at = self._logged
        if text != before or time.monotonic() - at > LOG_INTERVAL:
            if before:  # what is ready at the second look needs no announcement
                self.log(text)
            self._logged = (text, time.monotonic())

    def _lacks(self, ref: Ref, obj: dict) -> str:
        """What a workload still lacks, in words; empty when it is ready. Raises EngineError when it cannot become
        so."""
        spec = manifests.pod_template(obj)["spec"]
        probes = {c["name"]: (c.get("startupProbe") or c.get("readinessProbe"), c.get("readinessProbe"),
                              c) for c in spec["containers"]}
        names = [c["Names"][0] for c in self._containers(ref) if c["Labels"].get(f"{LABEL}/role") == "main"
                 and c["Labels"][f"{LABEL}/pod"] not in self._old.get(ref, [])]
        if not names:
            return "no pod"
        out = self.machine.podman("inspect", "--type", "container", *names, what=f"Looking at {ref}")
        lacking = []
        for state in json.loads(out):
            name, status = state["Config"]["Labels"][f"{LABEL}/container"], state["State"]
            self._raise_if_failed(ref, obj, name, state)
            if ref.kind == "Job":
                if status["Status"] != "exited" or status["ExitCode"]:
                    lacking.append(f"container {name} is {status['Status']}")
            elif status["Status"] != "running":
                lacking.append(f"container {name} is {status['Status']}")
            else:
                probe = probes[name][1] or probes[name][0]
                if probe:
                    rc, out, err = self.machine.run(["podman", "exec", state["Name"],
                                                     *podman_spec.probe_command(probe, probes[name][2])])
                    if rc in (126, 127) and "exec" in probe:
                        raise EngineError(f"{ref} cannot become ready: container {name} has no program for its probe: "
                                          f"{last_line(err or out)}")
                    if rc:
                        lacking.append(f"container {name} runs, its probe says: {last_line(err or out) or 'no'}")
        return "; ".join(lacking)

    def _raise_if_failed(self, ref: Ref, obj: dict, name: str, state: dict) -> None:
        """Raise EngineError for a container that will not become ready; start that of a Job again while it may."""
        status = state["State"]
        limit = state["HostConfig"].get("Memory") or 0
        down, code = status["Status"] in ("exited", "stopped"), status.get("ExitCode")
        cause = ""
        if status.get("OOMKilled") and (down or state.get("RestartCount", 0)):
            cause = f"container {name} was killed for using more than its memory limit ({limit / 2**20:.0f} MiB)"
        elif ref.kind == "Job":
            if down and code:
                tried = self._attempts.get(state["Name"], 0)
                if tried < obj["spec"].get("backoffLimit", 6):
                    self._attempts[state["Name"]] = tried + 1
                    self.log(f"{ref}: container {name} ended with exit code {code}, trying again")
                    self.machine.run(["podman", "start", state["Name"]])
                    return
                cause = f"container {name} ended with exit code {code}"
        elif state.get("RestartCount", 0) >= CRASHES:
            cause = (
                f"container {name} ended {state['RestartCount']} times{f', last with exit code {code}' if code else ''}"
            )
        if cause:
            raise EngineError("\n".join([f"{ref} cannot become ready: {cause}.",
                                         *self._failed_logs(ref, only=state["Name"])[1:]]))

    def _failed_logs(self, ref: Ref, only: str = "", running: bool = False) -> list[str]:
        """The failed container in one sentence, then its last log lines."""
        for container in self._containers(ref):
            role, name = container["Labels"].get(f"{LABEL}/role"), container["Names"][0]
            failed = container.get("ExitCode") and container["State"] != "running"
            old = container["Labels"][f"{LABEL}/pod"] in self._old.get(ref, [])
            if old or (only and name != only) or not (only or failed or (running and role == "main")):
                continue
            log = self._log(name, LOG_LINES)
            short = container["Labels"][f"{LABEL}/container"]
            lines = [f"  log of {short}: {line}" for line in log.splitlines() if line.strip()]
            return [f"{role} container {short} ended with exit code {container.get('ExitCode')}.", *lines[-LOG_LINES:]]
        return []

    def _log(self, container: str, lines: int | None = None) -> str:
        """What a container wrote, or the last lines of it."""
        tail = [] if lines is None else ["--tail", str(lines)]
        _rc, out, err = self.machine.run(["sh", "-c", 'exec podman logs "$@" 2>&1', "sh", *tail, container])
        return out or err

    # -- removing --------------------------------------------------------------------------------------------------

    def delete(self, objects: list[dict], deadline: float) -> None:
        for obj in objects:
            ref = Ref.of(obj)
            if ref.kind == "CronJob":
                self._unschedule(ref)
                self.machine.run(["rm", "-rf", f"{self.machine.folder}/cronjobs/{ref.name}"])
            if ref.kind in WITH_PODS:
                self._remove_pods(self._pod_names(ref))
            elif ref.kind == "PersistentVolumeClaim":
                self.machine.podman("volume", "rm", ref.name, what=f"Removing the volume of {ref}")
            elif ref.kind == "Secret":
                for key in obj.get("data") or {}:
                    self.machine.podman("secret", "rm", secret_name(ref.namespace, ref.name, key),
                                        what=f"Removing {ref}")
            elif ref.kind == "ConfigMap":
                self.machine.run(["rm", "-rf", f"{self.machine.folder}/configmaps/{ref.name}"])
            self.machine.run(["rm", "-f", f"{self.machine.folder}/objects/{ref.kind}.{ref.name}.json"])
        owners = {owner for _address, owner, _names in self.machine.addresses.values()}
        gone = {ref: [] for ref in map(Ref.of, objects) if f"{ref.kind}/{ref.name}" in owners}
        if gone:
            self.machine.address(gone)

    # -- access to what runs ---------------------------------------------------------------------------------------

    def execute(self, service: str, argv: list[str], stdin: str = "", timeout: float = 120) -> str:
        container = self._container_of(service)
        command = ["timeout", f"{timeout:g}", "podman", "exec", "--interactive", container["Id"], *argv]
        rc, out, err = self.machine.run(command, stdin)
        if rc == 124:
            raise EngineError(f"{argv[0]} in pod {container['Labels'][f'{LABEL}/pod']} did not end within {timeout:g} "
                              "s.")
        if rc:
            raise EngineError(f"{argv[0]} in pod {container['Labels'][f'{LABEL}/pod']} failed: "
                              f"{last_line(err or out) or f'exit code {rc}'}")
        return out

    def _container_of(self, service: str) -> dict:
        """The first container of a running pod behind a Service."""
        members = self._members(service)
        if not any(c["State"] == "running" for c in members):
            self.machine.look_again()
            members = self._members(service)
        running = [c for c in members if c["State"] == "running"]
        healthy = [c for c in running if "unhealthy" not in c.get("Status", "")]
        if running:
            return (healthy or running)[0]
        states = ", ".join(f"{c['Names'][0]} is {c['State']}" for c in members) or "it has none"
        raise EngineError(f"Service {service} in namespace {self.scope.namespace} has no running pod: {states}.")

    def _members(self, service: str) -> list[dict]:
        """The first container of each pod behind a Service."""
        found: dict[str, dict] = {}
        for container in self.machine.facts.containers:
            labels = container.get("Labels") or {}
            if labels.get(f"{LABEL}/namespace") == self.scope.namespace and labels.get(f"{LABEL}/role") == "main" and (
                    service in labels.get(f"{LABEL}/services", "").split(",")):
                before = found.setdefault(labels[f"{LABEL}/pod"], container)
                if container.get("Created", 0) < before.get("Created", 0):
                    found[labels[f"{LABEL}/pod"]] = container
        return list(found.values())

    @contextlib.contextmanager
    def forward(self, service: str, port: int) -> Iterator[tuple[str, int]]:
        facts, container = self.machine.facts, self._container_of(service)
        address = self._address_of(container)
        if not podman_access.same_machine(facts.boot):
            raise EngineError(f"Port {port} of Service {service} is on another machine than Ansible; connect there "
                              "with 'ssh -L "
                              f"{port}:{address}:{port}', or publish the Service's port.")
        if self.machine.is_root and podman_access.answers(address, port):
            yield address, port
        elif facts.uid == os.geteuid():
            with podman_access.relayed(container["Id"], port, self.machine.variables) as local:
                yield local
        else:
            raise EngineError(f"Port {port} of Service {service} is in the network of {facts.user}, which only a "
                              "process of that user enters; run "
                              f"Ansible as {facts.user}, or publish the Service's port.")

    def main_container(self, service: str, port: int) -> tuple[list[str], str, dict[str, str]]:
        """What module port_forward needs on the host.

        Returns:
            Labels that the first container of a running pod behind the Service has, and whatever replaces it; the
            address and port where the host reaches it (empty where it does not, as with rootless podman); variables of
            podman's commands.
        """
        container = self._container_of(service)
        address = self._address_of(container)
        marks = [f"{LABEL}/{mark}={container['Labels'][f'{LABEL}/{mark}']}"
                 for mark in ("namespace", "workload", "index", "container")]
        return marks, f"{address}:{port}" if self.machine.is_root and address else "", self.machine.variables

    def _address_of(self, container: dict) -> str:
        """A container's address on the namespace's network."""
        hostnames = {pod: address for pod, (address, _owner, _names) in self.machine.addresses.items()}
        labels = container["Labels"]
        name = labels[f"{LABEL}/workload"].split("/", 1)[1]
        return hostnames.get(f"{name}-{labels[f'{LABEL}/index']}") or hostnames.get(name) or ""

    def secret(self, name: str) -> dict[str, str]:
        ref = Ref("", "Secret", self.scope.namespace, name)
        found = self.read({ref}, set()).get(ref)
        if found is None:
            raise EngineError(f"{ref} does not exist in namespace {ref.namespace} of podman on this host.")
        return {key: base64.b64decode(value).decode() for key, value in (found.get("data") or {}).items()}

    def run_job(self, job: dict, deadline: float) -> str:
        job = {**job, "metadata": {**job["metadata"], "namespace": self.scope.namespace}}
        ref = Ref.of(job)
        self._known = {Ref.of(obj): obj for obj in self.machine.facts.objects} | self._known
        self.machine.fetch_images([job])
        self._address([job])
        (pod,) = self._pods[ref]
        try:
            self._remove_pods(self._pod_names(ref))
            self._make(pod)
            self._start(pod)
            self.wait([job], deadline)
            return "".join(
                self._log(f"{pod.name}-{container['name']}")
                for container in manifests.pod_template(job)["spec"]["containers"]
            )
        finally:
            self._remove_pods(self._pod_names(ref))
            self.machine.address({ref: []})

    def pods(self) -> list[dict]:
        by_pod: dict[str, list[dict]] = {}
        for container in self.machine.facts.containers:
            labels = container.get("Labels") or {}
            if (
                labels.get("app.kubernetes.io/instance") == self.scope.instance
                and labels.get(f"{LABEL}/role") == "main"
                and (labels.get(f"{LABEL}/namespace") == self.scope.namespace)
            ):
                by_pod.setdefault(labels[f"{LABEL}/pod"], []).append(container)
        return [{
            "name": name, "component": containers[0]["Labels"].get("app.kubernetes.io/component", ""),
            "state": "Completed" if (done := _done(containers)) else containers[0]["State"].capitalize(),
            "ready": done or all(c["State"] == "running" and "unhealthy" not in c.get("Status",
                "") for c in containers),
            "restarts": sum(c.get("Restarts") or 0 for c in containers), "image": containers[0]["Image"],
        } for name, containers in sorted(by_pod.items())]

    def restart(self, workloads: list[dict], deadline: float) -> None:
        for obj in workloads:
            for name in sorted(self._pod_names(Ref.of(obj))):
                self.machine.podman("pod", "restart", name, what=f"Restarting {Ref.of(obj)}")
                self.machine.look_again()
                self.wait([obj], deadline)

    def logs(self, lines: int) -> dict[str, str]:
        # The log of a restarted container goes on.
        return {f"{c['Labels'][f'{LABEL}/pod']}/{c['Labels'][f'{LABEL}/container']}": self._log(c["Names"][0], lines)
                for c in self._own_containers()}

    def _own_containers(self) -> list[dict]:
        """Containers of the instance's pods, those that only hold a pod together excepted."""
        marks = {"app.kubernetes.io/instance": self.scope.instance, f"{LABEL}/namespace": self.scope.namespace}
        return [c for c in self.machine.facts.containers if marks.items() <= (c.get("Labels") or {}).items()
                and f"{LABEL}/container" in c["Labels"]]

    def events(self) -> list[dict]:
        marks = (f"label=app.kubernetes.io/instance={self.scope.instance}",
                 f"label={LABEL}/namespace={self.scope.namespace}")
        command = ["podman", "events", "--stream=false", "--since", EVENTS_SINCE, "--format", "json"]
        rc, out, err = self.machine.run([*command, "--filter", marks[0], "--filter", marks[1]])
        if rc:
            raise EngineError(f"podman does not show its events: {last_line(err or out)}")
        found = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
        return [{"time": str(event.get("Time") or event.get("time") or ""), "type": event.get("Type") or "",
                 "object": event.get("Name") or "", "reason": event.get("Status") or "",
                 "message": event.get("HealthStatus") or event.get("health_status") or ""} for event in found
                if (event.get("Status") or "") not in EVENTS_OF_PROBES]

    def leave(self) -> None:
        self.machine.leave()

    def close(self) -> None:
        """Remove the pods that were replaced, where nothing waited for their successors."""
        for ref in list(self._old):
            self._remove_pods(set(self._old.pop(ref)))


def _done(containers: list[dict]) -> bool:
    """Whether a Job's pod has done its work."""
    return containers[0]["Labels"][f"{LABEL}/workload"].startswith(("Job/", "CronJob/")) and all(
        c["State"] == "exited" and c["ExitCode"] == 0 for c in containers)


def _complete(containers: list[dict], pod: Pod) -> bool:
    """Whether none of a pod's containers is missing."""
    return {c["Labels"][f"{LABEL}/container"] for c in containers} >= {name for name, _arguments in pod.containers}
