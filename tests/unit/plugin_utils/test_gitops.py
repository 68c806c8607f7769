# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The repository that mlflow_render_dir writes: what apply would put, stable, without secrets, taken by the tools' own
programs and schemas. The cluster here is a dictionary."""

from __future__ import annotations

import base64
import copy
import datetime
import itertools
import json
import pathlib
import shutil
import struct
import subprocess
import sys

import pytest
import yaml
from ansible_collections.mlops.mlflow.plugins.plugin_utils import (
    components, engines, generated, gitops, health, manifests, render)
from ansible_collections.mlops.mlflow.plugins.plugin_utils.manifests import Ref
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from test_converge import Memory

ROOT = pathlib.Path(__file__).parents[3]
sys.path[:0] = [str(ROOT / "tests" / "unit" / "model"), str(ROOT / "tests" / "manifests")]
import strict  # noqa: E402 pylint: disable=wrong-import-position
from model_tests import refused, resolved  # noqa: E402 pylint: disable=wrong-import-position

INVENTORIES = sorted(path.name for path in (ROOT / "inventories").iterdir() if path.is_dir())
SENTINEL = "Sentinel-of-a-lookup"
URL = "https://git.example.com/team/mlflow.git"
TOOLS = {"argocd": {"mlflow_gitops": "argocd", "mlflow_gitops_repository": URL},
         "fleet": {"mlflow_gitops": "argocd", "mlflow_gitops_repository": URL, "mlflow_gitops_fleet": True,
                   "mlflow_gitops_path": "clusters/one"},
         "flux": {"mlflow_gitops": "flux", "mlflow_gitops_repository": URL, "mlflow_gitops_path": "clusters/one"}}


class Cluster(Memory):
    """Has every kind, and an instance of any name."""

    def __init__(self, model, world=None):
        super().__init__(world)
        self.scope = scope_of(model)

    def unsupported_reason(self, obj):
        return ""


def scope_of(model) -> engines.Scope:
    return engines.Scope(model.instance.namespace, model.instance.name)


def instance(inventory: str, folder: pathlib.Path, **variables):
    """The model of an example inventory's instance, for Kubernetes, rendered to a folder."""
    hosts = yaml.safe_load((ROOT / "inventories" / inventory / "hosts.yml").read_text())["all"]["hosts"]
    ((host, given),) = hosts.items()
    given = {name: SENTINEL if isinstance(value, str) and "{{" in value else value for name, value in given.items()
             if not name.startswith("ansible_")}
    return resolved({**given, "mlflow_engine": "kubernetes", "mlflow_image_source": "registry",
                     "mlflow_render_dir": str(folder), "mlflow_render_secrets": "plain", **variables}, host)


def stages(model) -> list[list[dict]]:
    """What apply gives to an engine."""
    scope = scope_of(model)
    return [[obj for component in stage for obj in render.render(component, model, scope.labels(component.name))]
            for stage in components.stages([component.role for component in components.COMPONENTS])]


def write(model, live=None, roles=None) -> tuple[bool, gitops.Repository]:
    """Write the repository as the action does; whether it changed."""
    scope = scope_of(model)
    objects = [obj for stage in stages(model) for obj in stage if roles is None or engines.component_of(obj) in roles]
    for obj in objects:
        obj["metadata"].setdefault("namespace", scope.namespace)
    if roles is not None:
        scope = engines.Scope(scope.namespace, scope.instance, roles)
    verification = health.verification(model, scope.labels("verification")) if roles is None else None
    repository = gitops.Repository(gitops.settings(model), scope, live)
    return repository.write(objects, verification, dry_run=False), repository


def load(text: str) -> list[dict]:
    return list(yaml.load_all(text, Loader=yaml.CSafeLoader))


def texts(folder: pathlib.Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def objects_of(folder: pathlib.Path) -> dict[Ref, dict]:
    """The objects of all waves of all instances."""
    found = [obj for path in sorted(folder.rglob("wave-*/*.yaml")) if path.name != gitops.KUSTOMIZATION
             for obj in load(path.read_text())]
    assert len({Ref.of(obj) for obj in found}) == len(found)
    return {Ref.of(obj): obj for obj in found}


def plain(obj: dict, *more: str) -> dict:
    """The object without annotations of tools, and what a dictionary that stands for a cluster adds."""
    obj = copy.deepcopy(obj)
    metadata = obj["metadata"]
    metadata["annotations"] = {key: value for key, value in (metadata.get("annotations") or {}).items()
                               if key not in (*gitops.ANNOTATIONS, manifests.KINDS, *more)}
    metadata.pop("uid", None)
    return obj


@pytest.mark.parametrize("inventory", INVENTORIES)
def test_adopted_both_ways(inventory, tmp_path):
    """Object by object what apply puts, its Secrets and pod templates included; and apply then changes nothing."""
    model = instance(inventory, tmp_path)
    theirs = {ref: {"apiVersion": "v1", "kind": "Secret", "data": {}, "metadata": {"name": ref.name, "uid": ref.name}}
              for ref in made_by_operators(model)}
    cluster = Cluster(model, dict(theirs))
    engines.converge(cluster, stages(model), False, True, 5)
    changed, _repository = write(model, lambda refs: cluster.read(refs, set()))
    rendered, applied = objects_of(tmp_path), {ref: obj for ref, obj in cluster.world.items() if ref not in theirs}
    assert changed and set(rendered) == set(applied)
    for ref, obj in rendered.items():
        assert plain(obj) == plain(applied[ref]), ref
    assert any(manifests.pod_revision(obj) for obj in rendered.values())

    assert not [ref for ref, obj in applied.items() if manifests.annotation(obj, manifests.WAVE)]

    shutil.rmtree(tmp_path)
    write(model)
    verification = load(next(tmp_path.rglob("verify.yaml")).read_text())
    made = {ref: {**obj, "metadata": {**obj["metadata"], "uid": f"argo-{ref.name}"}}
            for ref, obj in {**objects_of(tmp_path), **{Ref.of(obj): obj for obj in verification}}.items()}
    taken_over = Cluster(model, {**theirs, **copy.deepcopy(made)})
    engines.converge(taken_over, stages(model), False, True, 5)
    assert set(taken_over.world) == {*theirs, *made}
    for ref in made:
        assert plain(taken_over.world[ref]) == plain(made[ref]), ref


def test_objects_do_not_tell_how_they_are_applied(tmp_path):
    """Each is the same without the variables of the repository, so that site.yml changes nothing."""
    rendered = instance("kubernetes", tmp_path, backup_type="volume", monitoring_type="prometheus", **TOOLS["fleet"])
    applied = instance("kubernetes", tmp_path, backup_type="volume", monitoring_type="prometheus",
                       mlflow_render_dir="", mlflow_render_secrets="omit")
    assert stages(rendered) == stages(applied)


def made_by_operators(model) -> set[Ref]:
    """The Secrets that the External Secrets Operator makes."""
    return {Ref("", "Secret", model.instance.namespace, obj["spec"]["target"]["name"])
            for stage in stages(model) for obj in stage if obj["kind"] == "ExternalSecret"}


def test_a_change_restarts_who_reads_it(tmp_path):
    model = instance("kubernetes", tmp_path)
    write(model)
    before = {ref: manifests.pod_revision(obj) for ref, obj in objects_of(tmp_path).items()
              if obj["kind"] in manifests.WORKLOADS}
    write(instance("kubernetes", tmp_path, database_password="another"))
    after = {ref: manifests.pod_revision(obj) for ref, obj in objects_of(tmp_path).items()
             if obj["kind"] in manifests.WORKLOADS}
    changed = {ref.name for ref in before if before[ref] != after[ref]}
    assert changed >= {"mlflow-server", "mlflow-server-migrate"} and not any("storage" in name for name in changed)
    assert before[Ref("apps", "Deployment", "mlflow", "mlflow-server")]

    # What a repository restarts, apply restarts after it, too.
    made = {ref: {**obj, "metadata": {**obj["metadata"], "uid": ref.name}} for ref, obj in objects_of(tmp_path).items()}
    cluster = Cluster(model, made)
    engines.converge(cluster, stages(instance("kubernetes", tmp_path, database_password="a-third")), False, True, 5)
    server = cluster.world[Ref("apps", "Deployment", "mlflow", "mlflow-server")]
    assert manifests.pod_revision(server) not in ("", after[Ref.of(server)])


@pytest.mark.parametrize("inventory, tool", list(zip(INVENTORIES, itertools.cycle(TOOLS))))
def test_a_repository(inventory, tool, tmp_path):
    """Taken by kustomize and strict schemas, in waves, with data that no tool deletes; a second run changes no byte."""
    variables = {**TOOLS[tool], "mlflow_render_secrets": "omit"}
    model = instance(inventory, tmp_path, **variables)
    assert write(model)[0]
    before = texts(tmp_path)
    assert not write(instance(inventory, tmp_path, **variables))[0] and texts(tmp_path) == before

    folder = tmp_path / model.instance.namespace / model.instance.name
    built = kustomized(folder)
    verification = load((folder / "verify" / "verify.yaml").read_text())
    assert set(built) == set(objects_of(tmp_path)) | set(map(Ref.of, verification))
    for obj in built.values():
        strict.validate(obj, "1.37")
        annotations = obj["metadata"]["annotations"]
        kept = obj["kind"] == "PersistentVolumeClaim" or manifests.KEEP in annotations
        assert ("Prune=false" in annotations.get(gitops.OPTIONS, "")) == kept
        assert int(annotations[manifests.WAVE]) >= 0
    waves = {Ref.of(obj).name: int(obj["metadata"]["annotations"][manifests.WAVE]) for obj in built.values()
             if obj["kind"] in ("Job", "Deployment", "StatefulSet")}
    assert max(waves, key=waves.__getitem__).endswith("-verification")
    name, server = model.instance.name, model.mlflow_server.name
    if model.mlflow_server.database.type != "sqlite":
        assert waves[f"{server}-migrate"] < waves[server]
    if f"{name}-database" in waves:
        assert waves[f"{name}-database"] < waves[f"{server}-migrate"]
    # Argo CD applies no wave after one with a CronJob whose last run failed, or with an autoscaler without metrics.
    late = {Ref.of(obj) for obj in built.values() if obj["kind"] in ("CronJob", "HorizontalPodAutoscaler")}
    assert ("HorizontalPodAutoscaler" in {ref.kind for ref in late}) == model.variables.mlflow_server_autoscaling
    others = {int(obj["metadata"]["annotations"][manifests.WAVE]) for ref, obj in built.items() if ref not in late}
    assert all(sorted(others)[-2] < int(built[ref]["metadata"]["annotations"][manifests.WAVE]) < max(others)
               for ref in late)
    hooks = {obj["metadata"]["name"]: obj["metadata"]["annotations"].get(gitops.HOOK) for obj in built.values()
             if obj["kind"] == "Job"}
    assert hooks.pop(f"{name}-verification") == "PostSync" and set(hooks.values()) <= {"Sync"}
    assert not [obj for obj in built.values() if obj["kind"] == "Secret"]

    for obj in kustomized(tmp_path / model.variables.mlflow_gitops).values():
        strict.validate(obj, "1.37")


def kustomized(folder: pathlib.Path) -> dict[Ref, dict]:
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {Ref.of(obj): obj for obj in load(done.stdout)}


def test_instances_of_one_name_and_of_one_namespace(tmp_path):
    """Each has its folder and its Application; the project allows the namespaces of all, and one that goes takes
    nothing of the others."""
    models = [instance("kubernetes", tmp_path, mlflow_namespace=namespace, mlflow_instance=name, **TOOLS["argocd"])
              for namespace, name in (("a", "mlflow"), ("b", "mlflow"), ("b", "other"))]
    for model in models:
        write(model)
    built = kustomized(tmp_path / "argocd")
    assert {ref.name for ref in built if ref.kind == "Application"} == {"a-mlflow", "b-mlflow", "b-other"}
    (project,) = [obj for obj in built.values() if obj["kind"] == "AppProject"]
    assert [entry["namespace"] for entry in project["spec"]["destinations"]] == ["a", "b"]
    before = texts(tmp_path)
    for model in models[:2]:
        repository = gitops.Repository(gitops.settings(model), scope_of(model))
        assert repository.write([], [], dry_run=True) and repository.write([], [], dry_run=False)
    after = texts(tmp_path)
    assert {path for path in after if not path.startswith(("b/other", "argocd"))} == set()
    assert all(after[path] == before[path] for path in after if path.startswith("b/other"))
    assert {ref.name for ref in kustomized(tmp_path / "argocd")} == {"b-other", "mlflow"}


def test_flux_waits_for_each_wave(tmp_path):
    model = instance("kubernetes", tmp_path, **TOOLS["flux"])
    write(model)
    built = [obj for obj in kustomized(tmp_path / "flux").values() if obj["kind"] == "Kustomization"]
    built.sort(key=lambda obj: obj["metadata"]["name"].replace("verify", "wave-9999"))
    for before, obj in zip([None, *built], built):
        assert [entry["name"] for entry in obj["spec"].get("dependsOn", [])] == (
            [before["metadata"]["name"]] if before else [])
        path = obj["spec"]["path"].removeprefix("./clusters/one/")
        assert obj["spec"]["wait"] is True and kustomized(tmp_path / path)
    assert built[-1]["spec"]["path"].endswith("/verify")


@pytest.mark.parametrize("inventory, variables", [
    ("helm-style-sqlite", {}), ("kubernetes", {"backup_type": "volume"}),
    ("helm-style-sqlite", {"backup_type": "volume", "backup_schedule": ""}),
])
def test_each_claim_is_mounted_in_its_wave(inventory, variables, tmp_path):
    """Tools wait until a claim is bound, which most StorageClasses do when a pod mounts it."""
    model = instance(inventory, tmp_path, **variables)
    write(model)
    before, objects = texts(tmp_path), objects_of(tmp_path)
    mounted: dict[str, list[int]] = {}
    for obj in objects.values():
        volumes = (manifests.pod_template(obj) or {"spec": {}})["spec"].get("volumes") or []
        for volume in volumes if obj["kind"] != "CronJob" else ():
            if "persistentVolumeClaim" in volume:
                name = volume["persistentVolumeClaim"]["claimName"]
                mounted.setdefault(name, []).append(int(manifests.annotation(obj, manifests.WAVE)))
    claims = {ref.name: int(manifests.annotation(obj, manifests.WAVE)) for ref, obj in objects.items()
              if ref.kind == "PersistentVolumeClaim"}
    assert claims and claims == {name: min(waves) for name, waves in mounted.items()}
    jobs = [obj for obj in objects.values() if obj["metadata"]["name"].endswith("-mount")]
    assert len(jobs) == (1 if "backup_type" in variables else 0)
    for job in jobs:
        strict.validate(job, "1.37")
        assert manifests.annotation(job, gitops.HOOK) == "Sync"

    # One component alone is written to the same files.
    for component in ("database", "backup"):
        write(model, roles=(component,))
    changed = {path for path, text in texts(tmp_path).items() if before.get(path) != text}
    assert not {path for path in changed if "/secret-" not in path and "database.yaml" not in path}
    assert set(texts(tmp_path)) == set(before)


@pytest.mark.parametrize("inventory", ["helm-style-sqlite", "kubernetes"])
def test_roles_one_after_the_other_give_the_same_waves(inventory, tmp_path):
    """Also where the role that mounts a claim comes after the one that makes it, or before it."""
    found = []
    names = [component.name for component in components.COMPONENTS]
    for number, order in enumerate((None, names, names[::-1])):
        folder = tmp_path / str(number)
        model = instance(inventory, folder)
        for roles in [(name,) for name in order] if order else [None]:
            write(model, roles=roles)
        found.append({path: {Ref.of(obj) for obj in load(text)} for path, text in texts(folder).items()
                      if "/wave-" in path and not path.endswith(gitops.KUSTOMIZATION)})
    assert found[0] == found[1] == found[2]


def test_one_component_leaves_the_files_of_others(tmp_path):
    model = instance("kubernetes", tmp_path)
    write(model)
    before = texts(tmp_path)
    gitops.Repository(gitops.settings(model), engines.Scope("mlflow", "mlflow", ("database",))).write([], None, False)
    after = texts(tmp_path)
    assert {path.rpartition("/")[2] for path in set(before) - set(after)} == {
        "database.yaml", "secret-mlflow-database-postgresql.yaml"}
    write(model, roles=("database",))
    restored = texts(tmp_path)
    assert set(restored) == set(before)
    generated_anew = ("database.yaml", "secret-mlflow-database-postgresql.yaml")
    assert all(restored[path] == before[path] for path in before if not path.endswith(generated_anew))


# -- Secrets ---------------------------------------------------------------------------------------------------------

@pytest.fixture
def recipient(tmp_path_factory, monkeypatch):
    """A key of age, which sops finds."""
    path = tmp_path_factory.mktemp("age") / "key.txt"
    subprocess.run(["age-keygen", "-o", str(path)], check=True, capture_output=True)
    monkeypatch.setenv("SOPS_AGE_KEY_FILE", str(path))
    return path.read_text().partition("public key: ")[2].split()[0]


def decrypted(folder: pathlib.Path) -> dict[Ref, dict]:
    found = {}
    for path in folder.rglob("secret-*.yaml"):
        done = subprocess.run(["sops", "decrypt", str(path)], capture_output=True, text=True, check=True)
        obj = yaml.safe_load(done.stdout)
        found[Ref.of(obj)] = obj
    return found


def values_of(secrets) -> set[str]:
    encoded = {value for obj in secrets for value in (obj.get("data") or {}).values()}
    return encoded | {base64.b64decode(value).decode() for value in encoded}


def test_sops_round_trip(tmp_path, recipient, monkeypatch):
    def model():
        return instance("kubernetes", tmp_path, mlflow_render_secrets="sops", mlflow_render_age_recipients=[recipient],
                        mlflow_server_auth="basic", monitoring_type="prometheus", monitoring_grafana=True,
                        object_storage_access_key="Sentinel-access", object_storage_secret_key="Sentinel-given")

    write(model())
    before, secrets = texts(tmp_path), decrypted(tmp_path)
    values = {value for value in values_of(secrets.values()) if len(value) >= 12 and not value.startswith("mlflow")}
    assert "Sentinel-given" in values and len(values) > 10
    assert not [(path, value) for path, text in before.items() for value in values if value in text]
    wanted = {Ref.of(obj): obj for stage in stages(model()) for obj in stage if obj["kind"] == "Secret"}
    assert {ref._replace(namespace="") for ref in secrets} == {ref._replace(namespace="") for ref in wanted}
    for obj in secrets.values():
        strict.validate(obj, "1.37")
        assert set(generated.keys(obj)) <= set(obj["data"]) and all(obj["data"].values())

    assert not write(model())[0]
    monkeypatch.delenv("SOPS_AGE_KEY_FILE")
    changed, repository = write(model())
    assert not changed and texts(tmp_path) == before and "no key here decrypts it" in " ".join(repository.messages)
    monkeypatch.setenv("SOPS_AGE_KEY_FILE", "/nonexistent")
    path = tmp_path / "mlflow" / "mlflow" / "wave-0000" / "secret-mlflow-database-postgresql.yaml"
    encrypted = yaml.safe_load(path.read_text())
    del encrypted["data"]["password"]
    path.write_text(yaml.safe_dump(encrypted))
    with pytest.raises(gitops.GitopsError, match="has no password and cannot be decrypted here"):
        write(model())


def test_sops_encrypts_a_changed_value_anew(tmp_path, recipient):
    def model(value):
        return instance("kubernetes", tmp_path, mlflow_render_secrets="sops",
                        mlflow_render_age_recipients=[recipient],
                        object_storage_access_key="Sentinel-access", object_storage_secret_key=value)

    write(model("Sentinel-one"))
    before = objects_and_values(tmp_path)
    write(model("Sentinel-two"))
    after = objects_and_values(tmp_path)
    changed = {ref.name for ref in before[1] if before[1][ref] != after[1][ref]}
    assert changed == {"mlflow-object-storage-seaweedfs"}
    marks = [{ref.name: manifests.pod_revision(obj) for ref, obj in each[0].items()} for each in (before, after)]
    assert marks[0]["mlflow-server"] != marks[1]["mlflow-server"]
    assert marks[0]["mlflow-object-storage"] != marks[1]["mlflow-object-storage"]
    assert marks[0]["mlflow-database"] == marks[1]["mlflow-database"]


def objects_and_values(folder):
    return objects_of(folder), {ref: obj["data"] for ref, obj in decrypted(folder).items()}


# -- SealedSecrets ---------------------------------------------------------------------------------------------------

def certificate_of(key, days: int = 365) -> bytes:
    """A certificate as the controller makes it for itself."""
    now = datetime.datetime.now(datetime.timezone.utc)
    return (x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(x509.Name([])).public_key(
        key.public_key()).serial_number(1).not_valid_before(now - datetime.timedelta(days=9)).not_valid_after(
            now + datetime.timedelta(days=days)).sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))


@pytest.fixture(scope="module", name="controller")
def fixture_controller(tmp_path_factory):
    """The controller's private key, and the file with its certificate."""
    key, path = rsa.generate_private_key(65537, 2048), tmp_path_factory.mktemp("controller") / "certificate.pem"
    path.write_bytes(certificate_of(key))
    return key, str(path)


def unsealed(controller, folder: pathlib.Path) -> dict[Ref, dict]:
    """The Secrets that the controller makes, by its own steps (Unseal and HybridDecrypt of sealed-secrets)."""
    found = {}
    for path in folder.rglob("secret-*.yaml"):
        obj = yaml.safe_load(path.read_text())
        strict.validate(obj, "1.37")
        name, namespace = obj["metadata"]["name"], obj["metadata"]["namespace"]
        data = {}
        for key, value in obj["spec"]["encryptedData"].items():
            raw = base64.b64decode(value)
            (size,) = struct.unpack(">H", raw[:2])
            session = controller[0].decrypt(raw[2:2 + size], padding.OAEP(
                padding.MGF1(hashes.SHA256()), hashes.SHA256(), f"{namespace}/{name}".encode()))
            data[key] = base64.b64encode(AESGCM(session).decrypt(bytes(12), raw[2 + size:], None)).decode()
        template = obj["spec"]["template"]
        metadata = {**template["metadata"], "name": name, "namespace": namespace}
        secret = {"apiVersion": "v1", "kind": "Secret", "type": template["type"], "metadata": metadata, "data": data}
        strict.validate(secret, "1.37")
        found[Ref.of(secret)] = secret
    return found


def sealing(controller, folder: pathlib.Path, **variables):
    return instance("kubernetes", folder, **{"mlflow_render_secrets": "sealed", "mlflow_server_auth": "basic",
                                             "mlflow_render_sealed_certificate": controller[1], **variables})


def test_sealed_secrets_are_what_apply_puts(tmp_path, controller):
    """Adopted both ways: the controller makes the Secrets that apply has made, and apply changes none of them."""
    model = sealing(controller, tmp_path, mlflow_server_auth_admin_password="Sentinel-of-an-admin")
    cluster = Cluster(model)
    engines.converge(cluster, stages(model), False, True, 5)
    _changed, repository = write(model, lambda refs: cluster.read(refs, set()))
    found = unsealed(controller, tmp_path)
    assert found and set(found) == {ref for ref in cluster.world if ref.kind == "Secret"}
    for ref, obj in found.items():
        assert plain(obj) == plain(cluster.world[ref]), ref
        assert any(f"kubectl annotate secret {ref.name} " in message for message in repository.messages)
    values = {value for value in values_of(found.values()) if len(value) >= 12 and not value.startswith("mlflow")}
    assert "Sentinel-of-an-admin" in values and len(values) > 8
    assert not [(path, value) for path, text in texts(tmp_path).items() for value in values if value in text]
    engines.converge(cluster, stages(model), False, True, 5)
    assert all(plain(cluster.world[ref]) == plain(obj) for ref, obj in found.items())


def test_what_is_sealed_stays_until_its_value_changes(tmp_path, controller):
    def model(password):
        return sealing(controller, tmp_path, mlflow_server_auth_admin_password=password)

    write(model("Sentinel-one-of-two"))
    before, values = texts(tmp_path), unsealed(controller, tmp_path)
    marks = {ref.name: manifests.pod_revision(obj) for ref, obj in objects_of(tmp_path).items()}
    assert not write(model("Sentinel-one-of-two"))[0] and texts(tmp_path) == before

    assert write(model("Sentinel-two-of-two"))[0]
    after = unsealed(controller, tmp_path)
    (changed,) = {(ref.name, key) for ref, obj in after.items() for key in obj["data"]
                  if obj["data"][key] != values[ref]["data"].get(key)}
    ref = next(ref for ref in after if ref.name == changed[0])
    assert base64.b64decode(after[ref]["data"][changed[1]]) == b"Sentinel-two-of-two"
    again = {ref.name: manifests.pod_revision(obj) for ref, obj in objects_of(tmp_path).items()}
    assert again["mlflow-server"] != marks["mlflow-server"] and again["mlflow-database"] == marks["mlflow-database"]


def test_sealed_values_are_not_made_anew_by_another_form(tmp_path, controller, recipient):
    given = {"mlflow_render_secrets": "sops", "mlflow_render_age_recipients": [recipient]}
    write(sealing(controller, tmp_path, **given))
    before = {ref: obj["data"] for ref, obj in decrypted(tmp_path).items()}
    write(sealing(controller, tmp_path))
    assert {ref: obj["data"] for ref, obj in unsealed(controller, tmp_path).items()} == before
    kept = texts(tmp_path)
    for form in ({"mlflow_render_secrets": "plain"}, given):
        with pytest.raises(gitops.GitopsError, match="is a SealedSecret, whose values only the controller can read"):
            write(sealing(controller, tmp_path, **form))
    assert texts(tmp_path) == kept
    _changed, _repository = write(sealing(controller, tmp_path, mlflow_render_secrets="plain"),
                                  lambda refs: {ref: {"data": before[ref]} for ref in refs if ref in before})
    found = {ref: obj["data"] for ref, obj in objects_of(tmp_path).items() if ref.kind == "Secret"}
    assert found == before


def test_certificates_that_are_none_are_refused(tmp_path):
    path, key = tmp_path / "c.pem", rsa.generate_private_key(65537, 2048)
    elliptic = ec.generate_private_key(ec.SECP256R1())
    for content, why in ((b"text", "which is no certificate in PEM"), (certificate_of(key, -1), "has expired on"),
                         (certificate_of(elliptic), "a certificate without an RSA key"),
                         (None, "which cannot be read (No such file or directory)")):
        path.write_bytes(content) if content else path.unlink()
        (only,) = refused({"mlflow_engine": "kubernetes", "mlflow_render_secrets": "sealed",
                           "mlflow_render_sealed_certificate": str(path)})
        assert why in only and "kubeseal --fetch-cert" in only


@pytest.mark.parametrize("way", ["omit", "external"])
@pytest.mark.parametrize("inventory", INVENTORIES)
def test_secrets_left_out(inventory, way, tmp_path):
    store = {"mlflow_secret_store": {"name": "vault", "kind": "ClusterSecretStore"}}
    given = {"mlflow_render_secrets": way, **(store if way == "external" else {})}
    model = instance(inventory, tmp_path, **given)
    _changed, repository = write(model)
    wanted = [obj for stage in stages(model) for obj in stage if obj["kind"] == "Secret"]
    found = objects_of(tmp_path)
    assert wanted and not [ref for ref in found if ref.kind == "Secret"]
    for obj in wanted:
        name = obj["metadata"]["name"]
        assert any(f"Secret {name} is " in message for message in repository.messages)
        if way == "external":
            ref = Ref("external-secrets.io", "ExternalSecret", model.instance.namespace, name)
            strict.validate(found[ref], "1.37")
            assert set(generated.keys(obj)) <= {entry["secretKey"] for entry in found[ref]["spec"]["data"]}
        else:
            (path,) = tmp_path.rglob(f"{name}.yaml.example")
            example = yaml.safe_load(path.read_text())
            assert set(generated.keys(obj)) | set(obj.get("data") or {}) == set(example["stringData"])
            assert not any(example["stringData"].values())
    values = {value for value in values_of(wanted) if len(value) >= 8 and "mlflow" not in value}
    assert not [path for path, text in texts(tmp_path).items() for value in values if value in text]


def test_plain_values_are_made_once_and_private(tmp_path):
    model = instance("kubernetes", tmp_path)
    write(model)
    before = texts(tmp_path)
    assert not write(model)[0] and texts(tmp_path) == before
    files = list(tmp_path.rglob("secret-*.yaml"))
    assert files and all(path.stat().st_mode & 0o077 == 0 for path in files)


# -- verification ----------------------------------------------------------------------------------------------------

def test_the_verification_fails_where_nothing_runs(tmp_path):
    """The program as the Job has it, without a server."""
    model = instance("helm-style-sqlite", tmp_path / "repository")
    config, job = health.verification(model, scope_of(model).labels("verification"))
    for name, text in config["data"].items():
        (tmp_path / name).write_text(text)
    environment = {"MLFLOW_BACKEND_STORE_URI": f"sqlite:///{tmp_path}/none.db", "PATH": "/usr/bin",
                   "MLFLOW_ARTIFACTS_DESTINATION": str(tmp_path / "artifacts")}
    program = json.loads(config["data"]["program.json"])
    for probe in program[3]["probes"]:
        if "url" in probe["parameters"]:
            probe["parameters"].update(url="http://127.0.0.1:9", timeout=1)
    (tmp_path / "program.json").write_text(json.dumps(program))
    done = subprocess.run([sys.executable, str(tmp_path / "program.py")], env=environment, capture_output=True,
                          text=True, check=False, timeout=120)
    assert done.returncode == 1 and "The server is not healthy: " in done.stderr, done.stderr
    assert job["spec"]["template"]["spec"]["containers"][0]["command"][-1] == "/etc/mlflow-verification/program.py"


# -- refusals --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("variables, sentence", [
    ({"mlflow_gitops": "flux", "mlflow_gitops_repository": URL}, "is flux while mlflow_render_dir is empty"),
    ({"mlflow_gitops": "argocd", "mlflow_render_dir": "/tmp/r"}, "mlflow_gitops_repository is empty"),
    ({"mlflow_gitops_path": "/abs"}, "mlflow_gitops_path is '/abs'"),
    ({"mlflow_gitops_path": "a/../b"}, "it must be a path within the repository"),
    ({"mlflow_gitops_fleet": True}, "only argocd has ApplicationSets"),
    ({"mlflow_render_secrets": "sops"}, "mlflow_render_age_recipients is empty"),
    ({"mlflow_render_age_recipients": ["AGE-SECRET-KEY-1QQQ"]}, "public keys begin with age1"),
    ({"mlflow_render_secrets": "external"}, "mlflow_secret_store.name is missing"),
    ({"mlflow_render_secrets": "sealed"}, "mlflow_render_sealed_certificate is empty"),
])
def test_refused(variables, sentence):
    (only,) = refused({"mlflow_engine": "kubernetes", **variables})
    assert sentence in only and "AGE-SECRET-KEY" not in only


def test_a_missing_sops_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(gitops.GitopsError, match="there is no program sops on the controller"):
        write(instance("kubernetes", tmp_path, mlflow_render_secrets="sops",
                       mlflow_render_age_recipients=["age1" + "q" * 58]))
