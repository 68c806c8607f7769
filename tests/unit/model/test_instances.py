# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What instances of one play must not share, and inventories in which there is none."""

from __future__ import annotations

import pytest
from model_tests import resolved

from ansible_collections.mlops.mlflow.plugins.action.validate_instances import identity, shared

LOCAL = {"ansible_connection": "local"}


def problems(*hosts: tuple[str, dict, dict]) -> list[str]:
    """Sentences about hosts, each given by name, the collection's variables, and Ansible's."""
    return list(shared(identity(resolved(variables, host), host, connection) for host, variables, connection in hosts))


@pytest.mark.parametrize("first, second", [
    ("0.0.0.0:5000", "127.0.0.1:5000"), ("127.0.0.1:5000", "0.0.0.0:5000"), ("127.0.0.1:5000", "127.0.0.1:5000"),
    ("localhost:5000", "127.0.0.1:5000")])
def test_one_published_port(first, second):
    sentences = problems(("a", {"mlflow_server_publish": first}, LOCAL),
                         ("b", {"mlflow_server_publish": second}, LOCAL))
    assert len(sentences) == 1
    assert "mlflow_server_publish of b" in sentences[0] and "of a" in sentences[0]


def test_one_published_port_of_many():
    hosts = [(f"h{number}", {"mlflow_server_publish": "127.0.0.1:5000"}, LOCAL) for number in range(20)]
    assert len(problems(*hosts)) == 19


def test_a_server_and_an_ingress_on_one_port():
    ingress = {"ingress_type": "proxy", "ingress_hosts": ["a.test"], "ingress_publish": "0.0.0.0:5000"}
    assert "ingress_publish of b" in problems(("a", {"mlflow_server_publish": "127.0.0.1:5000"}, LOCAL),
                                              ("b", ingress, LOCAL))[0]


@pytest.mark.parametrize("second, connection", [
    ({"mlflow_server_publish": "127.0.0.1:5001"}, LOCAL), ({"mlflow_server_publish": "127.0.0.2:5000"}, LOCAL),
    ({"mlflow_server_publish": "127.0.0.1:5000"}, {"ansible_host": "other.example.com"}),
    ({"mlflow_server_publish": "127.0.0.1:5000"}, {}),
    ({"mlflow_server_publish": "127.0.0.1:5000", "mlflow_engine": "kubernetes"}, LOCAL)])
def test_no_conflict_of_ports(second, connection):
    assert problems(("a", {"mlflow_server_publish": "127.0.0.1:5000"}, LOCAL), ("b", second, connection)) == []


def test_one_identity():
    same = {"mlflow_instance": "team", "mlflow_namespace": "ml"}
    for engine in ("podman", "kubernetes"):
        sentences = problems(("a", {**same, "mlflow_engine": engine}, LOCAL),
                             ("b", {**same, "mlflow_engine": engine}, LOCAL))
        assert len(sentences) == 1 and "mlflow_instance is 'team' in namespace 'ml' for both a and b" in sentences[0]


@pytest.mark.parametrize("change, connection", [
    ({"mlflow_namespace": "other"}, LOCAL), ({"mlflow_instance": "other"}, LOCAL),
    ({"mlflow_engine": "kubernetes"}, LOCAL),
    ({}, {"ansible_host": "other.example.com"})])
def test_other_identities(change, connection):
    same = {"mlflow_instance": "team", "mlflow_namespace": "ml"}
    assert problems(("a", same, LOCAL), ("b", {**same, **change}, connection)) == []


def test_one_instance_in_two_clusters():
    same = {"mlflow_engine": "kubernetes", "mlflow_instance": "team"}
    assert problems(("a", {**same, "mlflow_context": "one"}, LOCAL), ("b", {**same, "mlflow_context": "two"},
                                                                      LOCAL)) == []
    assert problems(("a", {**same, "mlflow_context": "one"}, LOCAL), ("b", {**same, "mlflow_context": "one"},
                                                                      LOCAL)) != []
