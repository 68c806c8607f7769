# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The Kubernetes engine against a small server that answers as the API does; Molecule takes a real cluster."""

from __future__ import annotations

import base64
import concurrent.futures
import socket
import time

import pytest
from ansible_collections.mlops.mlflow.plugins.plugin_utils import engines, manifests
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines import (
    kubernetes_api,
    kubernetes_status,
    kubernetes_wait,
)
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines.kubernetes import KubernetesEngine
from ansible_collections.mlops.mlflow.plugins.plugin_utils.manifests import Ref
from kubernetes_server import KINDS, fault, status

SCOPE = engines.Scope("team", "mlflow", ("server",))
BUSY = status(429, "Too many requests, please try again later.", "TooManyRequests", retry_after=0)


def converge(engine, *objects, timeout=5, dry_run=False):
    desired = manifests.load(list(objects))
    manifests.label(desired, SCOPE.labels("server"))
    return engines.converge(engine, [desired], dry_run, wait=True, timeout=timeout)


def actions(outcome):
    return {f"{action['kind']} {action['name']}": action["action"] for action in outcome.actions}


def configmap(name="a", **data):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def deployment(name="d", image="fine", kind="Deployment", **spec):
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": {
        "replicas": 1, "selector": {"matchLabels": {"app": name}}, **spec,
        "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": image}]}}}}


def pod(name="p", is_ready=True, app="d", **fields):
    state = (
        {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
        if is_ready
        else {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
    )
    metadata = {"name": name, "namespace": "team", "labels": {"app": app}, "creationTimestamp": "2026-01-01T00:00:00Z"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {**metadata, **fields}, "status": {
        "phase": "Running", "conditions": [{"type": "Ready", "status": str(is_ready)}],
        "containerStatuses": [{"name": "c", "ready": is_ready, "state": state}]},
        "spec": {"containers": [{"name": "c", "image": "i", "ports": [{"name": "http", "containerPort": 5000}]}]}}


def service(name="web", app="d"):
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "team"},
            "spec": {"selector": {"app": app}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]}}


def set_ready(obj):
    """What controllers make of a workload at once; an image that is not fine never gets ready."""
    fine = 1 if "fine" in str(obj.get("spec")) else 0
    if obj["kind"] in ("Deployment", "StatefulSet"):
        obj["status"] = {
            "observedGeneration": 1,
            "updatedReplicas": 1,
            "availableReplicas": fine,
            "readyReplicas": fine,
        }


# -- requests ----------------------------------------------------------------------------------------------------------


def test_core_kinds_need_no_discovery_and_a_second_run_changes_nothing(server, engine):
    assert actions(converge(engine, configmap(k="1"), service())) == {
        "ConfigMap a": "created",
        "Service web": "created",
    }
    assert not converge(engine, configmap(k="1"), service()).changed
    assert not [path for _method, path, _query in server.requests if path in ("/api", "/apis") or path.count("/") == 3]
    assert actions(converge(engine, service())) == {"Service web": "unchanged", "ConfigMap a": "deleted"}


def test_an_unusual_kind_is_asked_for_and_found_again(server, engine):
    widget = {"apiVersion": "example.org/v1", "kind": "Widget", "metadata": {"name": "w"}}
    converge(engine, configmap(), widget)
    assert ("GET", "/apis/example.org/v1", "") in server.requests and "/apis" not in [r[1] for r in server.requests]
    assert not converge(engine, configmap(), widget).changed
    assert actions(converge(engine, configmap(k="2"))) == {"ConfigMap a": "changed", "Widget w": "deleted"}


def test_an_unknown_kind_is_refused_before_anything_is_touched(server, engine):
    with pytest.raises(engines.EngineError, match="does not know Gadget of example.org/v1; install what provides it"):
        converge(engine, configmap(), {"apiVersion": "example.org/v1", "kind": "Gadget", "metadata": {"name": "g"}})
    assert {method for method, _path, _query in server.requests} == {"GET"}


@pytest.mark.parametrize(
    "answer",
    [
        BUSY,
        status(503, "apiserver is shutting down", retry_after=0),
        status(500, "webhook", "InternalError", retry_after=0),
        (502, {}, "<html>bad gateway</html>"),
        "reset",
    ],
)
@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
def test_a_passing_fault_is_tried_again(server, engine, answer, method):
    converge(engine, configmap())
    server.faults.append(fault(answer, answer, method=method, path="configmaps"))
    assert actions(converge(engine, configmap("b"))) == {"ConfigMap b": "created", "ConfigMap a": "deleted"}
    assert not server.faults[0](method, "configmaps"), "the fault was not met"


def test_retry_after_is_honoured_and_a_lasting_fault_ends_with_the_timeout(server, engine):
    server.faults.append(lambda method, path: status(429, "Too many requests", "TooManyRequests", retry_after=1))
    begun = time.monotonic()
    with pytest.raises(engines.EngineError, match=r"Too many requests \(HTTP 429, tries: 2\)"):
        engine.deadline = begun + 1.5
        engine.read(set(), set())
    assert 1 <= time.monotonic() - begun < 2
    assert len(engine.lines) <= 1


def test_what_will_never_be_taken_is_not_tried_again(server, engine):
    server.faults.append(
        lambda method, path: (500, {}, status(500, "field not declared in schema")[1]) if method == "PATCH" else None
    )
    with pytest.raises(engines.EngineError, match="Kubernetes refuses ConfigMap a: field not declared in schema."):
        converge(engine, configmap())
    assert len([1 for method, *_rest in server.requests if method == "PATCH"]) == 1


@pytest.mark.parametrize(
    "code, message, sentence",
    [
        (401, "Unauthorized", "Unauthorized: the kubeconfig's credentials are wrong or have expired; log in again"),
        (
            403,
            "configmaps is forbidden: User u",
            "cannot read ConfigMap a in namespace team: configmaps is forbidden: User u.",
        ),
    ],
)
def test_a_refusal_is_one_sentence(server, engine, code, message, sentence):
    server.faults.append(lambda method, path: (code, {}, status(code, message)[1]))
    with pytest.raises(engines.EngineError, match=sentence) as refused:
        converge(engine, configmap())
    assert "\n" not in str(refused.value)


def test_an_api_that_is_not_there_is_named_soon(server, engine):
    server.close()
    begun = time.monotonic()
    with pytest.raises(
        engines.EngineError, match="The Kubernetes API at http://127.0.0.1:[0-9]+ does not answer: .*refused"
    ):
        engine.read(set(), set())
    assert time.monotonic() - begun < 1


@pytest.mark.parametrize("text", ["just text", "{", "[]", "{clusters: 3}"])
def test_a_malformed_kubeconfig_is_one_sentence(tmp_path, text):
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    with pytest.raises(engines.EngineError, match="No cluster to connect to: .*; set KUBECONFIG or mlflow_kubeconfig"):
        KubernetesEngine(SCOPE, print, str(path))


def test_what_may_not_be_listed_is_told_of_once(server, engine):
    server.faults.append(
        lambda method, path: (403, {}, status(403, "forbidden")[1]) if path.endswith("s/team/configmaps") else None
    )
    outcome = converge(engine, configmap())
    assert outcome.warnings == [
        "This user may not list ConfigMap objects in namespace team; those of them that should go stay."
    ]


# -- waiting -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "refused", [(), ("events",), ("events", "replicasets", "log"), ("pods", "events", "replicasets")]
)
def test_a_report_does_without_what_may_not_be_read(server, engine, refused):
    server.on_apply = set_ready
    server.add(pod(is_ready=False))
    server.add({"apiVersion": "v1", "kind": "Event", "type": "Warning", "reason": "Failed", "message": "pull failed",
                "metadata": {"name": "e", "namespace": "team"}})
    server.faults.append(
        lambda method, path: (403, {}, status(403, "forbidden")[1]) if path.endswith(refused or ("?",)) else None
    )
    with pytest.raises(engines.EngineError) as failed:
        converge(engine, deployment(image="broken"), timeout=1)
    text = str(failed.value)
    assert text.startswith("Deployment d ") and ("ImagePullBackOff: no such image" in text) is ("pods" not in refused)
    assert ("event: Failed: pull failed" in text) is ("events" not in refused)


def test_workloads_of_a_stage_are_put_before_any_is_awaited(server, engine):
    server.on_apply = set_ready
    stages = [
        [deployment("database", kind="StatefulSet"), deployment("storage", kind="StatefulSet")],
        [deployment("server")],
    ]
    for objects in stages:
        manifests.label(objects, SCOPE.labels("server"))
    engines.converge(engine, stages, False, wait=True, timeout=5)
    applied = [path.rpartition("/")[2] for method, path, _query in server.requests if method == "PATCH"]
    assert set(applied[:2]) == {"database", "storage"} and applied[2:] == ["server"]


def test_what_ran_before_is_restored_by_an_apply(server, engine):
    """A field that a patch wrote would be there for good: a later apply takes away only what applies put there."""
    server.on_apply = set_ready
    recreated = {"strategy": {"type": "Recreate"}}
    converge(engine, deployment(**recreated), deployment("other"))
    before = server.objects["/apis/apps/v1/namespaces/team/deployments/d"]
    server.add(pod(is_ready=False))
    server.requests.clear()
    with pytest.raises(
        engines.EngineError, match="Deployment d cannot become ready: pod p, container c: ImagePullBackOff"
    ):
        converge(engine, deployment(image="broken", **recreated), deployment("other"))
    after = server.objects["/apis/apps/v1/namespaces/team/deployments/d"]
    assert after["spec"] == before["spec"] and engine.lines[-1] == "Deployment d: what ran before is running again"
    assert all("force=true" in query for method, _path, query in server.requests if method == "PATCH")


PODS = "/api/v1/namespaces/team/pods"
STARTING = [{"name": "c", "ready": False, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}]
"""A container whose probes do not pass, which time alone may change."""


def template_of(revision, **status_of_pod):
    """A pod of a StatefulSet's template that runs and is not ready."""
    found = pod("db-0", False, "db", labels={"app": "db", "controller-revision-hash": revision})
    found["status"]["containerStatuses"] = STARTING
    found["status"].update(status_of_pod)
    return found


@pytest.mark.parametrize("revision, replaced", [("old", True), ("new", False)])
def test_a_pod_of_an_earlier_template_that_never_became_ready_is_replaced(
        server, engine, monkeypatch, revision, replaced):
    """Known of StatefulSets: their controller waits for such a pod, whatever its new template is."""
    monkeypatch.setitem(kubernetes_wait.GRACE_PERIODS, "outdated", 0.2)

    def updating(obj):
        obj["status"] = {"observedGeneration": 1, "updateRevision": "new", "updatedReplicas": 0, "readyReplicas": 0}

    def controller(method, path):
        """Makes a pod of the new template, which becomes ready, once the old one is gone."""
        if (method, path) == ("DELETE", f"{PODS}/db-0"):
            found = server.objects["/apis/apps/v1/namespaces/team/statefulsets/db"]
            found["status"].update(updatedReplicas=1, readyReplicas=1)

    server.on_apply = updating
    server.faults.append(controller)
    server.add(template_of(revision))
    if replaced:
        converge(engine, deployment("db", kind="StatefulSet"), timeout=10)
        assert "Replacing pod db-0, which is not ready and of an earlier template" in engine.lines
    else:
        with pytest.raises(engines.EngineError, match="StatefulSet db is not ready in time"):
            converge(engine, deployment("db", kind="StatefulSet"), timeout=1)
    assert (f"{PODS}/db-0" not in server.objects) is replaced


class Clock:
    """Time that passes only while somebody sleeps, and then fast."""

    def __init__(self):
        self.now = 0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += 30 * seconds


UNSCHEDULED = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
NO_ROOM = ("0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are "
           "available: 1 No preemption victims found for incoming pod.")
NO_PLACE = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."


@pytest.mark.parametrize("message, node, event, waits", [
    (NO_ROOM, "8", "", True),
    (NO_ROOM, "2", "", False),
    (NO_ROOM, "2", "TriggeredScaleUp", True),
    (NO_ROOM, "2", "Nominated", True),
    (NO_ROOM, "", "", True),
    (NO_PLACE, "8", "", False),
    (NO_PLACE, "8", "TriggeredScaleUp", True),
])
def test_a_pod_without_a_node_is_waited_for_while_one_may_have_room(
        server, engine, monkeypatch, message, node, event, waits):
    """An autoscaler adds nodes, and other pods end; a node that is too small stays so."""
    monkeypatch.setattr(kubernetes_wait, "time", Clock())
    pending = pod(is_ready=False)
    pending["status"] = {"phase": "Pending", "conditions": [{**UNSCHEDULED, "message": message}]}
    pending["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "4", "memory": "2Gi"}}
    server.add(pending)
    if node:
        server.objects["/api/v1/nodes"] = {"items": [{"status": {"allocatable": {"cpu": node, "memory": "16Gi"}}}]}
    if event:
        server.add({"apiVersion": "v1", "kind": "Event", "type": "Normal", "reason": event, "message": "soon",
                    "metadata": {"name": "e", "namespace": "team"}})
    obj = deployment(image="pending")
    obj["metadata"]["namespace"] = "team"
    set_ready(obj)
    with pytest.raises(engines.EngineError) as failed:
        kubernetes_wait.Watcher(engine, 100).until_ready([server.add(obj)])
    why = f"no node takes pod p, which requests 4 cpu and 2048Mi memory: {message.split(' no new')[0]}"
    assert str(failed.value).splitlines()[0].rstrip(".") == (
        f"Deployment d {'is not ready in time (0 of 1 pods ready)' if waits else 'cannot become ready'}: "
        f"{why}").rstrip(".")
    assert f"Deployment d: 0 of 1 pods ready ({why})" in engine.lines


def test_what_a_pod_requests_of_a_node():
    def container(cpu, limits=False, **fields):
        return {"name": "c", "resources": {"limits" if limits else "requests": {"cpu": cpu}}, **fields}

    spec = {"initContainers": [container("100m", restartPolicy="Always"), container("2")],
            "containers": [container("500m"), container("1", limits=True), {"name": "d"}]}
    assert kubernetes_status.requests({"spec": spec}) == {"cpu": 2.1}
    assert kubernetes_status.requests({"spec": {**spec, "initContainers": []}}) == {"cpu": 1.5}


# -- programs, ports, Secrets and Jobs ---------------------------------------------------------------------------------


def test_a_program_gets_its_input_and_gives_its_output(server, engine):
    server.add(service())
    server.add(pod())
    server.program = lambda argv, stdin: (stdin * 20 if argv == ["cat"] else b"", b"", 0)
    text = "grün " * 40000
    assert engine.execute("web", ["cat"], text) == text * 20
    assert engine.execute("web", ["true"]) == ""
    assert max(server.sizes) < 10000


def test_a_program_that_fails_tells_its_last_line(server, engine):
    server.add(service())
    server.add(pod())
    server.program = lambda argv, stdin: (b"output\n", b"Traceback\nKeyError: x\n\n", 3)
    with pytest.raises(engines.EngineError, match=r"^python3 in pod p ended with exit code 3: KeyError: x$"):
        engine.execute("web", ["python3", "-"], "print()")


def test_a_program_has_a_time_to_end_in(server, engine):
    server.add(service())
    server.add(pod())
    server.program = lambda argv, stdin: time.sleep(1) or (b"", b"", 0)
    with pytest.raises(engines.EngineError, match="sleep in pod p has not ended within 0.3 s"):
        engine.execute("web", ["sleep", "9"], timeout=0.3)


def test_a_stream_that_breaks_is_told_of(server, engine):
    server.add(service())
    server.add(pod())
    server.program = lambda argv, stdin: (b"half", b"", None)
    with pytest.raises(engines.EngineError, match="The stream to pod p ended before cat did"):
        engine.execute("web", ["cat"])


def test_a_refused_or_busy_stream(server, engine):
    server.add(service())
    server.add(pod())
    server.program = lambda argv, stdin: (b"fine", b"", 0)
    server.faults.append(fault(BUSY, BUSY, path="/exec"))
    assert engine.execute("web", ["cat"]) == "fine"
    server.faults.append(
        fault(*[(403, {}, status(403, 'User "u" cannot create resource "pods/exec"')[1])], path="/exec")
    )
    with pytest.raises(
        engines.EngineError, match='cat cannot be run in pod p: User "u" cannot create resource "pods/exec".$'
    ):
        engine.execute("web", ["cat"])


def test_a_pod_that_is_ready_and_stays_is_preferred(server, engine):
    server.add(service())
    server.add(pod("a", is_ready=False))
    server.add(pod("b", deletionTimestamp="2026-01-01T00:00:00Z"))
    with pytest.raises(
        engines.EngineError,
        match="Service web in namespace team has no ready pod: a is ImagePullBackOff, b is Running.",
    ):
        engine.execute("web", ["true"])
    server.add(pod("c"))
    engine.execute("web", ["true"])
    assert server.requests[-1][1].endswith("/pods/c/exec")
    with pytest.raises(engines.EngineError, match="Service other does not exist in namespace team"):
        engine.execute("other", ["true"])


def test_a_forwarded_port_takes_many_connections(server, engine):
    server.add(service())
    server.add(pod())

    def ask(number):
        with socket.create_connection(address, timeout=5) as connection:
            connection.sendall(f"hello {number}".encode())
            return connection.recv(100).decode()

    with engine.forward("web", 80) as address:
        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            assert list(threads.map(ask, range(16))) == [f"HELLO {number}" for number in range(16)]
    assert {query for _method, path, query in server.requests if path.endswith("/portforward")} == {"ports=5000"}
    with pytest.raises(OSError):
        socket.create_connection(address, timeout=1)


def test_a_secret_is_read(server, engine):
    data = {"user": base64.b64encode("Bjørn".encode()).decode()}
    server.add({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "team"}, "data": data})
    assert engine.secret("s") == {"user": "Bjørn"}
    with pytest.raises(engines.EngineError, match="Secret t does not exist in namespace team."):
        engine.secret("t")


def job():
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "j", "labels": SCOPE.labels("server")},
        "spec": {
            "selector": {"matchLabels": {"app": "j"}},
            "template": {"spec": {"containers": [{"name": "c", "image": "i"}]}},
        },
    }


@pytest.mark.parametrize(
    "ended, sentence", [("Complete", ""), ("Failed", "Job j failed"), ("", "Job j is not ready in time")]
)
def test_a_job_runs_to_its_end_and_leaves_nothing(server, engine, ended, sentence):
    conditions = [{"type": ended, "status": "True", "reason": "BackoffLimitExceeded"}] if ended else []
    server.on_apply = lambda obj: obj.update(status={"conditions": conditions})
    done = server.add(pod(app="j"))
    done["status"]["phase"] = "Succeeded" if ended == "Complete" else "Failed"
    deadline = time.monotonic() + 0.5
    if sentence:
        with pytest.raises(engines.EngineError, match=sentence) as failed:
            engine.run_job(job(), deadline)
        assert "log of c: last line" in str(failed.value)
    else:
        assert engine.run_job(job(), deadline) == "first line\nlast line\n"
    assert not [path for path in server.objects if "/jobs/" in path]


def test_a_job_of_somebody_else_is_not_replaced(server, engine):
    theirs = job()
    theirs["metadata"].update(namespace="team", labels={})
    server.add(theirs)
    with pytest.raises(
        engines.EngineError, match="Job j already exists in namespace team and belongs to nobody that it names"
    ):
        engine.run_job(job(), time.monotonic() + 1)


# -- volumes and namespaces --------------------------------------------------------------------------------------------


def test_a_restart_replaces_the_pods_and_an_apply_leaves_its_mark(server, engine):
    server.on_apply = set_ready
    converge(engine, deployment())
    (live,) = [obj for ref, obj in engine.read(set(), set()).items() if ref.kind == "Deployment"]
    engine.restart([live], time.monotonic() + 5)
    path = "/apis/apps/v1/namespaces/team/deployments/d"
    annotations = server.objects[path]["spec"]["template"]["metadata"]["annotations"]
    assert set(annotations) == {"kubectl.kubernetes.io/restartedAt"}
    assert ("PATCH", path, "fieldManager=kubectl-rollout") in server.requests
    server.on_apply = lambda obj: obj.update(status={"observedGeneration": 1})
    with pytest.raises(engines.EngineError, match="Deployment d is not ready in time"):
        engine.restart([live], time.monotonic() + 0.5)


def test_logs_of_all_containers_and_of_those_before(server, engine):
    labels = {**SCOPE.labels("server"), "app": "d"}
    of_two = server.add(pod(labels=labels))
    of_two["spec"]["containers"].append({"name": "proxy", "image": "i"})
    of_two["status"]["containerStatuses"][0]["restartCount"] = 2
    refusal = status(400, "container is waiting to start")[1]
    server.faults.append(fault((400, {}, refusal), path="/p/log"))
    found = engine.logs(10)
    assert set(found) == {"p/c", "p/c/previous", "p/proxy"}
    assert sorted(text == "first line\nlast line\n" for text in found.values()) == [False, True, True]
    assert any("container is waiting to start" in text for text in found.values())


def test_events_of_the_instance_in_the_order_of_time(server, engine):
    def event(name, about, when):
        server.add({"apiVersion": "v1", "kind": "Event", "metadata": {"name": name, "namespace": "team"},
                    "involvedObject": {"kind": "Pod", "name": about}, "lastTimestamp": when, "type": "Warning",
                    "reason": "BackOff", "message": "image"})

    server_pod, database_pod = f"{SCOPE.instance}-server-1", f"{SCOPE.instance}-database-0"
    event("a", server_pod, "2026-01-02T00:00:00Z")
    event("b", database_pod, "2026-01-01T00:00:00Z")
    event("c", "another-server", "2026-01-01T00:00:00Z")
    found = engine.events()
    assert [entry["object"] for entry in found] == [f"Pod {database_pod}", f"Pod {server_pod}"]
    assert found[0] == {"time": "2026-01-01T00:00:00Z", "type": "Warning", "object": f"Pod {database_pod}",
                        "reason": "BackOff", "message": "image"}


def test_events_of_another_instance_whose_name_begins_with_this_one_are_not_of_this_one(server, engine):
    def add(name, instance):
        server.add({"apiVersion": "apps/v1", "kind": "Deployment",
                    "metadata": {"name": name, "namespace": "team", "labels": {
                        "app.kubernetes.io/instance": instance, "app.kubernetes.io/managed-by": manifests.MANAGER}}})

    add("mlflow-server", "mlflow")
    add("mlflow-2-server", "mlflow-2")
    add("mlflow-server-server", "mlflow-server")  # an instance whose name another one's object has
    mine = ["mlflow-server-1", "mlflow-database-0", "mlflow-server-2-x"]
    others = ["mlflow-2-server-1", "mlflow-2-database-0", "mlflow-server-server-1"]
    for number, name in enumerate(mine + others):
        server.add({"apiVersion": "v1", "kind": "Event", "metadata": {"name": f"e{number}", "namespace": "team"},
                    "involvedObject": {"kind": "Pod", "name": name}, "lastTimestamp": f"2026-01-0{number + 1}"})
    assert [entry["object"] for entry in engine.events()] == [f"Pod {name}" for name in mine]


def claim(size="8Gi", storage_class=None, mode="ReadWriteOnce", **status):
    spec = {
        "accessModes": [mode],
        "resources": {"requests": {"storage": size}},
        **({"storageClassName": storage_class} if storage_class else {}),
    }
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data", "namespace": "team"},
        "spec": spec,
        "status": status,
    }


def preflight(before, after):
    KubernetesEngine.preflight(object.__new__(KubernetesEngine), [after], {Ref.of(before): before})


@pytest.mark.parametrize("after, sentence", [
    (claim(size="4Gi"), "PersistentVolumeClaim data has 8Gi, which cannot shrink to 4Gi"),
    (claim(storage_class="fast"), "was made with storageClassName standard, which cannot become fast"),
    (claim(mode="ReadWriteMany"), "was made with accessModes ReadWriteOnce, which cannot become ReadWriteMany"),
])
def test_what_no_volume_can_become_is_refused_in_one_sentence(after, sentence):
    with pytest.raises(engines.EngineError, match=sentence) as refused:
        preflight(claim(storage_class="standard"), after)
    assert "\n" not in str(refused.value)


def test_a_volume_may_stay_and_grow():
    preflight(claim(storage_class="standard", capacity={"storage": "8Gi"}), claim(size="8192Mi"))
    preflight(claim(storage_class="standard"), claim(size="20Gi"))
    # A storage with sizes of its own gave more than was asked for.
    preflight(claim(capacity={"storage": "100Gi"}), claim(size="8Gi"))
    # A claim that a failed growth left at more than the volume has may go back.
    preflight(claim(size="1Ti", capacity={"storage": "8Gi"}), claim(size="8Gi"))


@pytest.mark.parametrize("plural, names, gone", [
    ("configmaps", ("kube-root-ca.crt", "openshift-service-ca.crt", "istio-ca-root-cert"), True),
    ("configmaps", ("kube-root-ca.crt", "openshift-service-ca.crt", "istio-ca-root-cert", "somebody-s"), False),
    ("configmaps", ("aaa", "kube-root-ca.crt"), False),
    ("sealedsecrets", ("somebody-s",), False),
    ("events", ("pod-started",), True),
])
def test_a_namespace_goes_when_nothing_of_anyone_is_left(server, engine, plural, names, gone):
    server.add({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team", "labels": SCOPE.labels("")}})
    api_version, kind = KINDS[plural]
    for name in names:
        server.add({"apiVersion": api_version, "kind": kind, "metadata": {"name": name, "namespace": "team"}})
    # Kinds that are questions to the cluster cannot be listed.
    server.faults.append(
        lambda method, path: (405, {}, status(405, "not allowed")[1]) if path.endswith("/widgets") else None
    )
    engine.leave()
    assert ("/api/v1/namespaces/team" not in server.objects) is gone


def test_a_namespace_that_may_not_be_looked_at_stays(server, engine):
    server.faults.append(
        lambda method, path: (403, {}, status(403, "forbidden")[1]) if path == "/api/v1/namespaces/team" else None
    )
    converge(engine, configmap())
    engine.leave()
    assert "/api/v1/namespaces/team" in server.objects


def test_a_failed_pod_counts_until_its_job_succeeds(server, engine):
    def pod(name, phase, job):
        labels = {**SCOPE.labels("server"), **({"batch.kubernetes.io/job-name": job} if job else {})}
        metadata = {"name": name, "namespace": "team", "labels": labels}
        server.add({"apiVersion": "v1", "kind": "Pod", "metadata": metadata,
                    "spec": {"containers": [{"name": "main", "image": "image"}]}, "status": {"phase": phase}})

    for name, phase, job in (("first", "Failed", "migrate"), ("other", "Failed", "other"), ("alone", "Failed", "")):
        pod(name, phase, job)
    assert {found["name"] for found in engine.pods()} == {"first", "other", "alone"}
    pod("second", "Succeeded", "migrate")
    assert {found["name"] for found in engine.pods()} == {"second", "other", "alone"}


def test_certificates_that_cannot_be_read_are_named():
    settings = {"cert_file": "/nowhere/client.crt", "key_file": "/nowhere/client.key"}
    with pytest.raises(engines.EngineError, match=r"No such file or directory \(/nowhere/client.crt, "
                                                  r"/nowhere/client.key\); fix its certificate-authority"):
        kubernetes_api._tls_context(settings)
