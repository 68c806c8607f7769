# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Manifests: loading, merging patches, order, references, fingerprints and diffs."""

from __future__ import annotations

import base64

import pytest
from ansible_collections.mlops.mlflow.plugins.plugin_utils import manifests


def configmap(name, **data):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def deployment(**spec):
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"template": {"metadata": {}, "spec": {
        "containers": [{"name": "a", "image": "one", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]}], **spec}}}}


@pytest.mark.parametrize("source, sentence", [
    ("kind: [", "are not YAML at line 2"),
    ("just text", "must hold Kubernetes objects; found str"),
    ("kind: Secret\nmetadata: {name: a}", "Secret a has no apiVersion"),
    ("apiVersion: v1\nkind: Secret", "Secret has no metadata.name"),
    ("apiVersion: v1\nkind: Secret\nmetadata: {name: Upper}", "takes lower-case letters"),
    ([configmap("a"), configmap("a")], "hold ConfigMap a twice"),
])
def test_malformed_manifests_are_named(source, sentence):
    with pytest.raises(manifests.ManifestError, match=sentence):
        manifests.load(source)


def test_load_takes_documents_lists_and_secrets_in_clear():
    loaded = manifests.load("apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: a}}\n---\n"
                            "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {p: geheim}\n")
    assert [o["metadata"]["name"] for o in loaded] == ["a", "s"]
    assert loaded[1]["data"] == {"p": base64.b64encode(b"geheim").decode()} and "stringData" not in loaded[1]


def test_patch_merges_lists_by_kubernetes_keys():
    obj = deployment()
    manifests.patch([obj], [{"target": {"kind": "Deployment", "name": "d"}, "patch": {"spec": {"template": {"spec": {"containers": [
        {"name": "a", "env": [{"name": "Y", "value": "3"}, {"name": "X", "$patch": "delete"}]}, {"name": "b", "image": "two"}]}}}}}])
    containers = obj["spec"]["template"]["spec"]["containers"]
    assert [c["name"] for c in containers] == ["a", "b"]
    assert containers[0]["image"] == "one" and containers[0]["env"] == [{"name": "Y", "value": "3"}]


def test_patch_removes_with_null_and_replaces_other_lists():
    obj = deployment(tolerations=[{"key": "a"}], nodeSelector={"x": "y"})
    manifests.patch([obj], [{"target": {"kind": "Deployment"},
                             "patch": {"spec": {"template": {"spec": {"tolerations": [{"key": "b"}], "nodeSelector": None}}}}}])
    assert obj["spec"]["template"]["spec"]["tolerations"] == [{"key": "b"}] and "nodeSelector" not in obj["spec"]["template"]["spec"]


@pytest.mark.parametrize("entry, sentence", [
    ({"patch": {}}, "must hold exactly"),
    ({"target": {"name": "d"}, "patch": {}}, "must hold `kind`"),
    ({"target": {"kind": "Service"}, "patch": {}}, "reaches no object: there is no Service"),
    ({"target": {"kind": "Deployment"}, "patch": {"metadata": {"name": "e"}}}, "would rename Deployment d"),
])
def test_patches_that_do_nothing_or_harm_are_refused(entry, sentence):
    with pytest.raises(manifests.ManifestError, match=sentence):
        manifests.patch([deployment()], [entry], "mlflow_server_patches")


def test_waves_order_by_wave_then_kind():
    late = configmap("late")
    late["metadata"]["annotations"] = {manifests.WAVE: "2"}
    order = [[o["kind"] for o in wave] for wave in manifests.waves([late, deployment(), configmap("early")])]
    assert order == [["ConfigMap", "Deployment"], ["ConfigMap"]]


def test_references_tell_what_is_required():
    obj = deployment(volumes=[{"name": "v", "secret": {"secretName": "mounted"}}])
    obj["spec"]["template"]["spec"]["containers"][0]["env"] = [
        {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
        {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k", "optional": True}}}]
    assert manifests.references(obj) == {("Secret", "mounted", True), ("Secret", "s", True), ("ConfigMap", "c", False)}


def test_a_revision_follows_values_and_is_keyed():
    one, other = configmap("c", a="1"), configmap("c", a="2")
    assert manifests.revision([one]) == manifests.revision([dict(one)]) != manifests.revision([other])
    keyed = {**one, "metadata": {"name": "c", "uid": "x"}}
    assert manifests.revision([keyed]) != manifests.revision([one])


def test_a_printed_secret_tells_only_what_differs():
    before = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"a": "QUFB", "b": "QkJC"}}
    after = {**before, "data": {"a": "QUFB", "b": "Q0ND"}}
    text = manifests.printable(after, before)
    assert "(hidden, differs)" in text and "a: (hidden)" in text
    assert not any(value in text for value in ("QUFB", "QkJC", "Q0ND"))


def test_own_labels_of_a_pod_win_over_the_owners():
    obj = deployment()
    obj["spec"]["template"]["metadata"]["labels"] = {"app.kubernetes.io/component": "migration"}
    manifests.label([obj], {"app.kubernetes.io/component": "server"})
    assert obj["metadata"]["labels"]["app.kubernetes.io/component"] == "server"
    assert obj["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"] == "migration"
