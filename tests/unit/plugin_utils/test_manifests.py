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
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "d"},
        "spec": {
            "template": {
                "metadata": {},
                "spec": {
                    "containers": [
                        {"name": "a", "image": "one", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]}
                    ],
                    **spec,
                },
            }
        },
    }


@pytest.mark.parametrize(
    "source, sentence",
    [
        ("kind: [", "are not YAML at line 2"),
        ("just text", "must hold Kubernetes objects; found str"),
        ("kind: Secret\nmetadata: {name: a}", "Secret a has no apiVersion"),
        ("apiVersion: v1\nkind: Secret", "Secret has no metadata.name"),
        ("apiVersion: v1\nkind: Secret\nmetadata: {name: Upper}", "takes lower-case letters"),
        ([configmap("a"), configmap("a")], "hold ConfigMap a twice"),
        ("apiVersion: v1\nkind: Secret\nmetadata: {name: \"a\\n\"}", "takes lower-case letters"),
        (
            "apiVersion: v1\nkind: Secret\nmetadata: {name: a, labels: {x: true}}",
            "Secret a has 'x': True among the labels of metadata; keys and values must be text, so put them in quotes.",
        ),
        (
            "apiVersion: v1\nkind: Secret\nmetadata: {name: a, annotations: {x: 2026-01-01}}",
            "among the annotations of metadata",
        ),
        ("apiVersion: v1\nkind: Secret\nmetadata: {name: a, annotations: {x: }}", "'x': None among the annotations"),
        (
            "apiVersion: v1\nkind: Secret\nmetadata: {name: a, labels: [x]}",
            "labels that are a list in metadata; they must be a mapping",
        ),
        (
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": "d"},
                "spec": {"template": {"metadata": {"labels": {"port": 5000}}}},
            },
            "'port': 5000 among the labels of the pod template's metadata",
        ),
    ],
)
def test_malformed_manifests_are_named(source, sentence):
    with pytest.raises(manifests.ManifestError, match=sentence):
        manifests.load(source)


def test_load_takes_documents_lists_and_secrets_in_clear():
    loaded = manifests.load(
        "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: a}}\n---\n"
        "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {p: geheim}\n"
    )
    assert [o["metadata"]["name"] for o in loaded] == ["a", "s"]
    assert loaded[1]["data"] == {"p": base64.b64encode(b"geheim").decode()} and "stringData" not in loaded[1]


def test_patch_merges_lists_by_kubernetes_keys():
    obj = deployment()
    manifests.patch(
        [obj],
        [
            {
                "target": {"kind": "Deployment", "name": "d"},
                "patch": {
                    "spec": {
                        "template": {
                            "spec": {
                                "containers": [
                                    {
                                        "name": "a",
                                        "env": [{"name": "Y", "value": "3"}, {"name": "X", "$patch": "delete"}],
                                    },
                                    {"name": "b", "image": "two"},
                                ]
                            }
                        }
                    }
                },
            }
        ],
    )
    containers = obj["spec"]["template"]["spec"]["containers"]
    assert [c["name"] for c in containers] == ["a", "b"]
    assert containers[0]["image"] == "one" and containers[0]["env"] == [{"name": "Y", "value": "3"}]


def test_patch_removes_with_null_and_replaces_other_lists():
    obj = deployment(tolerations=[{"key": "a"}], nodeSelector={"x": "y"})
    manifests.patch(
        [obj],
        [
            {
                "target": {"kind": "Deployment"},
                "patch": {"spec": {"template": {"spec": {"tolerations": [{"key": "b"}], "nodeSelector": None}}}},
            }
        ],
    )
    assert (
        obj["spec"]["template"]["spec"]["tolerations"] == [{"key": "b"}]
        and "nodeSelector" not in obj["spec"]["template"]["spec"]
    )


@pytest.mark.parametrize("entry, sentence", [
    ({"patch": {}}, "must hold exactly"),
    ({"target": {"name": "d"}, "patch": {}}, "must hold `kind`"),
    ({"target": {"kind": "Service"}, "patch": {}}, "reaches no object: there is no Service"),
    ({"target": {"kind": "Deployment"}, "patch": {"metadata": {"name": "e"}}}, "would rename Deployment d"),
    ({"target": {"kind": "Deployment"}, "patch": {"metadata": {"labels": {"on": True}}}},
     r"mlflow_server_patches\[0\]: Deployment d has 'on': True among the labels of metadata"),
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


@pytest.mark.parametrize(
    "text, value",
    [
        ("512Mi", 512 * 2**20),
        ("250m", 0.25),
        ("1.5", 1.5),
        (2, 2),
        (0.5, 0.5),
        (".5", 0.5),
        ("1.", 1),
        ("+1", 1),
        ("-1Ki", -1024),
        ("1e3", 1000),
        ("12E6", 12e6),
        ("1E-3", 0.001),
        ("12E", 12e18),
        ("2Ei", 2 * 2**60),
        ("100n", 1e-7),
        ("3u", 3e-6),
        ("5k", 5000),
    ],
)
def test_a_quantity_is_a_number(text, value):
    assert manifests.quantity(text) == pytest.approx(value)


@pytest.mark.parametrize(
    "text", ["", "1 Gi", "1GB", "1K", "Mi", "1Mi\n", "1e", "1e3Mi", "--1", "1..5", ".", "abc", None, "1Zi"]
)
def test_what_is_no_quantity(text):
    assert manifests.quantity(text) is None


def test_kinds_have_an_order_in_which_their_references_exist():
    for earlier, later in (
        ("Secret", "Deployment"),
        ("ServiceAccount", "CronJob"),
        ("StatefulSet", "PodDisruptionBudget"),
        ("Deployment", "HorizontalPodAutoscaler"),
        ("Gateway", "HTTPRoute"),
        ("Service", "PodMonitor"),
        ("CustomResourceDefinition", "Namespace"),
    ):
        assert manifests.rank(earlier) < manifests.rank(later) < manifests.rank("Unknown")


def test_the_pods_of_a_kaiwo_service_are_pods():
    """Its Deployment is a part of it."""
    selector = {"matchLabels": {"app": "s"}}
    pods = {"metadata": {"labels": {"app": "s"}}, "spec": {"containers": [], "volumes": [
        {"name": "config", "configMap": {"name": "c"}}]}}
    (obj,) = manifests.load({"apiVersion": "kaiwo.silogen.ai/v1alpha1", "kind": "KaiwoService", "metadata": {
        "name": "s"}, "spec": {"deployment": {"spec": {"selector": selector, "template": pods}}}})
    manifests.schedule_pods([obj], {"nodeSelector": {"pool": "b"}, "topologySpreadConstraints": [{"maxSkew": 1}]})
    manifests.complete_pods([obj], {"nodeSelector": {"pool": "a"}, "priorityClassName": "high"})
    manifests.label([obj], {"team": "x"})
    template = manifests.pod_template(obj)
    assert template["spec"]["nodeSelector"] == {"pool": "b"} and template["spec"]["priorityClassName"] == "high"
    assert template["spec"]["topologySpreadConstraints"] == [
        {"maxSkew": 1, "labelSelector": selector, "matchLabelKeys": ["pod-template-hash"]}]
    assert template["metadata"]["labels"] == {"app": "s", "team": "x"}
    assert manifests.references(obj) == {("ConfigMap", "c", True)}
