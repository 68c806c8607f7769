# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Repositories of mlflow_render_dir on a real cluster, applied by kubectl as Argo CD and Flux apply them.

Neither tool runs here: waves, hooks and waiting are done by this file in their order, with kubectl. It takes many
minutes, so it is run by hand:

    KUBECONFIG=… MLOPS_DEPLOY=1 pytest tests/platform/test_gitops_cluster.py -rP

MOLECULE_IMAGE_SOURCE=build takes images that were built and loaded into the nodes before, MLOPS_PREFIX (gitops) begins
the names of the namespaces, which are deleted in the end, and MLOPS_STORAGE_CLASS names a StorageClass for the test of
claims, such as one that binds them when a pod mounts them; empty is the default one.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator

import mlflow
import pytest
import yaml
from ansible_collections.mlops.mlflow.plugins.plugin_utils import gitops, manifests
from conftest import ENVIRONMENT, ROOT

pytestmark = pytest.mark.skipif(not (os.environ.get("KUBECONFIG") and os.environ.get("MLOPS_DEPLOY")),
                                reason="KUBECONFIG and MLOPS_DEPLOY=1 deploy instances on a cluster and take minutes")

PREFIX = os.environ.get("MLOPS_PREFIX", "gitops")
SECONDS = 900
"""Until the objects of a wave must be healthy."""
LOGIN = {"MLFLOW_TRACKING_USERNAME": "chief", "MLFLOW_TRACKING_PASSWORD": "of-the-chief-1234"}
SMALL = {"requests": {"cpu": "100m", "memory": "256Mi"}}
INSTANCE = {
    "ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}",
    "mlflow_engine": "kubernetes", "mlflow_image_source": os.environ.get("MOLECULE_IMAGE_SOURCE", "registry"),
    "mlflow_wait_timeout": SECONDS, "database_type": "postgresql", "object_storage_type": "seaweedfs",
    "mlflow_server_auth": "basic", "mlflow_server_auth_admin_user": LOGIN["MLFLOW_TRACKING_USERNAME"],
    "mlflow_server_auth_admin_password": LOGIN["MLFLOW_TRACKING_PASSWORD"],
    "mlflow_server_resources": SMALL, "database_resources": SMALL, "object_storage_resources": SMALL,
}
OLDER, NEWER = "3.10.0", "3.17.2"
REPOSITORY = "https://git.example.com/team/mlflow.git"


class Repository:
    """An instance in a namespace of its own, its inventory and its repository.

    Args:
        folder: for both.
        name: of the instance and its namespace.
        recipient: public key of age.
        tool: argocd or flux, by whose rules it is applied.
    """

    def __init__(self, folder: pathlib.Path, name: str, recipient: str, tool: str):
        self.folder, self.name, self.tool = folder, name, tool
        self.root = folder / "repository"
        self.variables = {**INSTANCE, "mlflow_namespace": name}
        self.rendering = {
            "mlflow_render_dir": str(self.root), "mlflow_render_secrets": "sops", "mlflow_gitops": tool,
            "mlflow_render_age_recipients": [recipient], "mlflow_gitops_repository": REPOSITORY,
        }

    def play(self, *arguments: str, **variables) -> str:
        """Run site.yml; its output."""
        begun = time.monotonic()
        hosts = {"all": {"hosts": {self.name: {**self.variables, **variables}}}}
        (self.folder / "hosts.yml").write_text(yaml.safe_dump(hosts))
        done = subprocess.run(["ansible-playbook", "-i", self.folder / "hosts.yml", "playbooks/site.yml",
                               "--skip-tags", "images", *arguments], cwd=ROOT, env={**os.environ, **ENVIRONMENT},
                              capture_output=True, text=True, check=False)
        print(f"site.yml {' '.join(arguments)}: {time.monotonic() - begun:.0f} s", flush=True)
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-1000:]
        return done.stdout

    def render(self, **variables) -> dict[str, str]:
        """Write the repository; its texts."""
        self.play(**self.rendering, **variables)
        return {str(path.relative_to(self.root)): path.read_text() for path in self.root.rglob("*") if path.is_file()}

    def decrypted(self) -> pathlib.Path:
        """A copy of the repository as a tool has it that decrypts SOPS."""
        copy = self.folder / "decrypted"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.root, copy)
        for path in copy.rglob(f"{gitops.SECRET}*.yaml"):
            subprocess.run(["sops", "decrypt", "--in-place", path], check=True)
        return copy

    def values(self) -> set[str]:
        """Every value of its Secrets, plain and encoded, which has the length of a secret."""
        found = set()
        for path in self.decrypted().rglob(f"{gitops.SECRET}*.yaml"):
            for encoded in yaml.safe_load(path.read_text())["data"].values():
                found |= {encoded, base64.b64decode(encoded).decode()}
        return {value for value in found if len(value) >= 12}

    def synchronize(self) -> list[str]:
        """Apply everything, one step after the other; what was waited for, in this order."""
        steps = {"argocd": self._waves, "flux": self._kustomizations}[self.tool]
        waited = []
        for name, objects in steps(self.decrypted()):
            begun = time.monotonic()
            self._apply(objects)
            waited += wait(self.name, objects)
            print(f"{self.tool}: {name}: {len(objects)} objects, {time.monotonic() - begun:.0f} s", flush=True)
        return waited

    def _waves(self, root: pathlib.Path) -> Iterator[tuple[str, list[dict]]]:
        """As Argo CD: all of the folder, by phase and wave; hooks are made anew."""
        (application,) = [obj for obj in built(root / "argocd") if obj["kind"] == "Application"]
        assert "CreateNamespace=true" in application["spec"]["syncPolicy"]["syncOptions"]
        kubectl("apply", "-f", "-", text=json.dumps(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.name}}))
        steps: dict[tuple[str, int], list[dict]] = {}
        for obj in built(root / application["spec"]["source"]["path"]):
            phase = manifests.annotation(obj, gitops.HOOK, "Sync")
            assert phase in ("Sync", "PostSync")
            steps.setdefault((phase.replace("PostSync", "then"), int(manifests.annotation(obj, manifests.WAVE, "0"))),
                             []).append(obj)
        for (phase, wave), objects in sorted(steps.items()):
            for obj in objects:
                if manifests.annotation(obj, gitops.HOOK):
                    assert manifests.annotation(obj, gitops.DELETE_POLICY) == "BeforeHookCreation"
                    delete(self.name, obj)
            yield f"{phase} {wave}", objects

    def _kustomizations(self, root: pathlib.Path) -> Iterator[tuple[str, list[dict]]]:
        """As Flux: the Kustomizations in the order of dependsOn; objects that cannot be changed are made anew."""
        own = built(root / "flux")
        for obj in own:
            if obj["kind"] == "Namespace":
                kubectl("apply", "-f", "-", text=json.dumps(obj))
        left = {obj["metadata"]["name"]: obj["spec"] for obj in own if obj["kind"] == "Kustomization"}
        done: set[str] = set()
        while left:
            ready = [name for name, spec in left.items()
                     if {each["name"] for each in spec.get("dependsOn", [])} <= done]
            assert ready, left
            for name in ready:
                spec = left.pop(name)
                assert spec["wait"] and spec["decryption"]["provider"] == "sops"
                objects = built(root / spec["path"])
                for obj in objects:
                    if manifests.annotation(obj, gitops.FLUX_FORCE) == "enabled" and not applicable(obj):
                        delete(self.name, obj)
                yield name, objects
                done.add(name)

    def _apply(self, objects: list[dict]) -> None:
        kubectl("apply", "--server-side", "--force-conflicts", "--field-manager", f"{self.tool}-of-a-test", "-f", "-",
                text=as_list(objects))

    def pods(self) -> dict[str, str]:
        """The UIDs and numbers of restarts of pods of workloads, by name."""
        found = json.loads(kubectl("get", "pods", "--namespace", self.name, "--output", "json"))["items"]
        return {pod["metadata"]["name"]: pod["metadata"]["uid"] + str(
            [state["restartCount"] for state in pod["status"]["containerStatuses"]])
            for pod in found if pod["metadata"]["ownerReferences"][0]["kind"] != "Job"}

    @contextlib.contextmanager
    def client(self) -> Iterator[mlflow.MlflowClient]:
        """A client of the server, by a port that kubectl forwards."""
        command = ["kubectl", "port-forward", "--namespace", self.name, f"service/{self.name}-server", ":5000"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout
                port = re.search(r"127\.0\.0\.1:(\d+)", process.stdout.readline())
                assert port
                uri = f"http://127.0.0.1:{port[1]}"
                mlflow.set_tracking_uri(uri)
                yield mlflow.MlflowClient(uri, uri)
            finally:
                process.terminate()

    def log(self, text: str) -> str:
        """Log a run with an artifact, and register a model; the run's ID."""
        with self.client() as client:
            found = client.get_experiment_by_name("gitops")
            experiment = found.experiment_id if found else client.create_experiment("gitops")
            run = client.create_run(experiment).info.run_id
            client.log_metric(run, "loss", 0.25)
            client.log_text(run, text, "text.txt")
            client.set_terminated(run)
            client.create_registered_model(text)
            client.create_model_version(text, f"runs:/{run}/text.txt", run)
        return run

    def check(self, run: str, text: str) -> None:
        """Read it back."""
        with self.client() as client:
            assert client.get_run(run).data.metrics == {"loss": 0.25}
            assert mlflow.artifacts.load_text(f"runs:/{run}/text.txt") == text
            assert [version.run_id for version in client.search_model_versions(f"name = '{text}'")] == [run]


def kubectl(*arguments, text: str = "", fails: bool = False) -> str:
    """What kubectl prints."""
    done = subprocess.run(["kubectl", *arguments], input=text, capture_output=True, text=True, check=False)
    assert fails or done.returncode == 0, f"kubectl {' '.join(map(str, arguments))}: {done.stderr}"
    return done.stdout if done.returncode == 0 else ""


def as_list(objects: list[dict]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})


def built(folder: pathlib.Path) -> list[dict]:
    """What kustomize makes of a folder."""
    return [obj for obj in yaml.load_all(kubectl("kustomize", folder), Loader=yaml.CSafeLoader) if obj]


def applicable(obj: dict) -> bool:
    """Whether the API server takes the object as a change of what is there."""
    return bool(kubectl("apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-",
                        text=json.dumps(obj), fails=True))


def delete(namespace: str, obj: dict) -> None:
    kubectl("delete", "--namespace", namespace, obj["kind"], obj["metadata"]["name"], "--ignore-not-found",
            "--cascade=foreground")


def wait(namespace: str, objects: list[dict]) -> list[str]:
    """Wait until all are healthy as Argo CD sees it, whose rules for these kinds are those of kstatus, too."""
    deadline, waited = time.monotonic() + SECONDS, []
    while True:
        live = json.loads(kubectl("get", "--namespace", namespace, "--output", "json", "-f", "-",
                                  text=as_list(objects)))
        states = {f"{obj['kind']}/{obj['metadata']['name']}": health(obj) for obj in live.get("items", [live])}
        waited += [name for name, state in states.items() if state == "Healthy" and name not in waited]
        assert "Degraded" not in states.values(), (states, kubectl("get", "events", "--namespace", namespace))
        if set(states.values()) == {"Healthy"}:
            return waited
        assert time.monotonic() < deadline, (states, kubectl("get", "pods", "--namespace", namespace, "-o", "wide"))
        time.sleep(1)


def health(obj: dict) -> str:
    """Healthy, Progressing or Degraded, by the rules of Argo CD's gitops-engine (pkg/health)."""
    kind, spec, status = obj["kind"], obj.get("spec") or {}, obj.get("status") or {}
    conditions = {each["type"]: each["status"] for each in status.get("conditions") or []}
    if kind == "Job":
        return "Degraded" if conditions.get("Failed") == "True" else (
            "Healthy" if conditions.get("Complete") == "True" else "Progressing")
    if kind == "PersistentVolumeClaim":
        return "Healthy" if status.get("phase") == "Bound" else "Progressing"
    if kind not in ("Deployment", "StatefulSet"):
        return "Healthy"
    wanted = spec["replicas"]
    done = (status.get("observedGeneration") == obj["metadata"]["generation"]
            and status.get("updatedReplicas", 0) == status.get("replicas", 0) == wanted
            and status.get("readyReplicas", 0) == wanted)
    return "Healthy" if done else "Progressing"


@pytest.fixture(name="recipient")
def fixture_recipient(tmp_path, monkeypatch):
    """A key of age, which sops finds."""
    path = tmp_path / "age.txt"
    subprocess.run(["age-keygen", "-o", str(path)], check=True, capture_output=True)
    monkeypatch.setenv("SOPS_AGE_KEY_FILE", str(path))
    monkeypatch.setenv("PATH", f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}")
    for name, value in LOGIN.items():
        monkeypatch.setenv(name, value)
    return path.read_text().partition("public key: ")[2].split()[0]


@pytest.fixture(name="repository")
def fixture_repository(request, tmp_path, recipient):
    """The repository of the tool that the test names; its namespace is deleted in the end."""
    repository = Repository(tmp_path, f"{PREFIX}-{request.param}", recipient, request.param)
    yield repository
    kubectl("delete", "namespace", repository.name, "--ignore-not-found", "--timeout=300s")


def job_uids(name: str) -> dict[str, str]:
    found = json.loads(kubectl("get", "jobs", "--namespace", name, "--output", "json"))["items"]
    return {job["metadata"]["name"]: job["metadata"]["uid"] for job in found}


@pytest.mark.parametrize("repository", ["argocd", "flux"], indirect=True)
def test_a_repository_comes_up_is_upgraded_and_is_taken_over_by_site_yml(repository):
    texts = repository.render(mlflow_version=OLDER)
    values = repository.values()
    assert LOGIN["MLFLOW_TRACKING_PASSWORD"] in values and len(values) > 8
    assert not [(path, value) for path, text in texts.items() for value in values if value in text]

    waited = repository.synchronize()
    server, name = f"Deployment/{repository.name}-server", repository.name
    assert waited.index(f"Job/{name}-server-migrate") < waited.index(server)
    assert waited[-1] == f"Job/{name}-verification"
    run = repository.log("first")
    repository.check(run, "first")

    # Nothing changes with a second rendering and synchronization, except that Argo CD makes hooks anew.
    pods = repository.pods()
    assert repository.render(mlflow_version=OLDER) == texts
    repository.synchronize()
    assert repository.pods() == pods

    # A newer version: the schema is migrated before the first new pod.
    before = job_uids(name)
    repository.render(mlflow_version=NEWER)
    steps = repository.synchronize()
    assert steps.index(f"Job/{name}-server-migrate") < steps.index(server)
    assert job_uids(name)[f"{name}-server-migrate"] != before[f"{name}-server-migrate"]
    live = json.loads(kubectl("get", "--namespace", name, "--output", "json", "jobs,replicasets,pods"))["items"]
    migrated = [obj["status"]["completionTime"] for obj in live if obj["metadata"]["name"] == f"{name}-server-migrate"]
    newest = max(obj["metadata"]["creationTimestamp"] for obj in live if obj["kind"] == "ReplicaSet")
    assert migrated[0] <= newest
    assert any(NEWER in container["image"] for obj in live if obj["kind"] == "Pod"
               for container in obj["spec"]["containers"])
    repository.check(run, "first")
    assert repository.log("second")

    # site.yml takes it over, verifies it, and changes nothing.
    pods, texts = repository.pods(), repository.render(mlflow_version=NEWER)
    output = repository.play(mlflow_version=NEWER)
    assert "changed=0" in output and repository.pods() == pods, output[-3000:]
    assert repository.render(mlflow_version=NEWER) == texts
    repository.check(run, "first")


@pytest.mark.parametrize("repository", ["flux", "argocd"], indirect=True)
def test_claims_are_bound_in_their_waves(repository):
    """SQLite, artifacts and backups on volumes, of which the last are mounted by no pod before the first backup."""
    repository.variables |= {"database_type": "sqlite", "object_storage_type": "volume", "backup_type": "volume"}
    storage_class = os.environ.get("MLOPS_STORAGE_CLASS", "")
    for variable in ("database_storage_class", "object_storage_storage_class", "backup_storage_class"):
        repository.variables[variable] = storage_class
    texts = repository.render()
    waited = repository.synchronize()
    assert len([name for name in waited if name.startswith("PersistentVolumeClaim/")]) == 3
    assert f"Job/{repository.name}-backup-mount" in waited and waited[-1] == f"Job/{repository.name}-verification"
    run, pods = repository.log("first"), repository.pods()
    output = repository.play()
    assert "changed=0" in output and repository.pods() == pods, output[-3000:]
    assert repository.render() == texts
    repository.check(run, "first")


@pytest.mark.parametrize("repository", ["argocd"], indirect=True)
def test_an_instance_of_site_yml_is_taken_over_by_a_repository(repository):
    repository.name = repository.variables["mlflow_namespace"] = f"{PREFIX}-site"
    try:
        repository.play()
        run, pods = repository.log("first"), repository.pods()
        texts = repository.render(mlflow_render_adopt=True)
        assert not [(path, value) for path, text in texts.items() for value in repository.values() if value in text]
        waited = repository.synchronize()
        assert waited[-1] == f"Job/{repository.name}-verification"
        assert repository.pods() == pods
        assert repository.render() == texts
        repository.synchronize()
        output = repository.play()
        assert "changed=0" in output and repository.pods() == pods, output[-3000:]
        repository.check(run, "first")
    finally:
        kubectl("delete", "namespace", repository.name, "--ignore-not-found", "--timeout=300s")
