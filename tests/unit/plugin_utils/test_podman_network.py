# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Pods have addresses that stay, and /etc/hosts files that are right and whole at every moment."""

from __future__ import annotations

import os
import pathlib
import subprocess
import threading

import pytest
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines import podman_frame

SERVER = "pod Deployment/web web-0 web web.team"
DATABASE = "pod StatefulSet/db db-0 db db-0.db"


class Network:
    """scripts/network.sh in a folder, with a podman that knows one network."""

    def __init__(self, folder: pathlib.Path, subnet: str = "10.89.3.0/24") -> None:
        self.folder, program = folder / "team", folder / "bin" / "podman"
        program.parent.mkdir()
        gateway = subnet.rsplit(".", 1)[0] + ".1"
        program.write_text(f"#!/bin/sh\ncase $2 in exists) exit 0;; inspect) echo {subnet} {gateway};; esac\n[ $1 != "
                           "version ] || echo 4.3.1\n")
        program.chmod(0o755)
        self.environment = {"PATH": f"{program.parent}:{os.environ['PATH']}"}

    def apply(self, *lines: str) -> dict[str, str]:
        done = subprocess.run(["sh", "-c", podman_frame.script("network.sh"), "network.sh", str(self.folder), "team"],
                              check=True, text=True,
                              input="\n".join(lines) + "\n", stdout=subprocess.PIPE, env=self.environment)
        return {hostname: address for address, _workload, hostname,
                *_names in (line.split() for line in done.stdout.splitlines() if line.strip())}

    def hosts(self, hostname: str) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for line in (self.folder / "hosts" / hostname).read_text().splitlines():
            address, *names = line.partition("#")[0].split() or [""]
            for name in names:
                found.setdefault(name, []).append(address)
        return found


@pytest.fixture(name="network")
def fixture_network(tmp_path):
    return Network(tmp_path)


def test_each_pod_has_an_address_and_knows_all_names(network):
    assert network.apply(DATABASE, SERVER) == {"db-0": "10.89.3.254", "web-0": "10.89.3.253"}
    hosts = network.hosts("web-0")
    assert hosts["db"] == hosts["db-0.db"] == hosts["db-0"] == ["10.89.3.254"] and hosts["web"] == ["10.89.3.253"]
    assert hosts["localhost"] == ["127.0.0.1",
                                  "::1"] and hosts == network.hosts("db-0") and "host.containers.internal" in hosts


def test_addresses_stay_and_those_who_were_there_learn_of_the_new(network):
    network.apply(DATABASE)
    before = (network.folder / "hosts" / "db-0").stat().st_ino
    assert network.apply(SERVER) == {"db-0": "10.89.3.254", "web-0": "10.89.3.253"}
    assert network.apply("workload Deployment/web", "pod Deployment/web web-0 web new") == {
        "db-0": "10.89.3.254",
        "web-0": "10.89.3.253",
    }
    assert network.hosts("db-0")["new"] == ["10.89.3.253"] and "web.team" not in network.hosts("db-0")
    assert (
        network.folder / "hosts" / "db-0"
    ).stat().st_ino == before, "the file that is mounted into the pod is another one"


def test_replicas_are_told_together_and_those_that_end_are_forgotten(network):
    second = SERVER.replace("web-0", "web-1")
    network.apply(DATABASE, SERVER, second)
    assert network.hosts("db-0")["web"] == ["10.89.3.253", "10.89.3.252"]
    assert set(network.apply("workload Deployment/web", SERVER)) == {"db-0", "web-0"}
    assert network.hosts("db-0")["web"] == ["10.89.3.253"] and not (network.folder / "hosts" / "web-1").exists()
    assert set(network.apply("workload Deployment/web")) == {"db-0"}
    assert network.apply("pod Job/other other") == {"db-0": "10.89.3.254",
                                                    "other": "10.89.3.253"}, "a free address is given again"


def test_aliases_are_the_pod_s_own(network):
    network.apply(DATABASE, SERVER, "alias web-0 192.0.2.7 smtp.example.com")
    assert network.hosts("web-0")["smtp.example.com"] == ["192.0.2.7"] and "smtp.example.com" not in network.hosts(
        "db-0"
    )
    network.apply("pod Job/other other")
    assert "smtp.example.com" in network.hosts("web-0"), "another workload's change took it away"


@pytest.mark.parametrize("subnet, first", [("10.1.2.128/25", "10.1.2.254"), ("172.20.0.0/16", "172.20.255.254"),
                                           ("10.0.0.0/28", "10.0.0.14")])
def test_any_subnet(tmp_path, subnet, first):
    assert Network(tmp_path, subnet).apply(DATABASE) == {"db-0": first}


def test_instances_of_a_namespace_may_be_changed_at_once(network):
    threads = [threading.Thread(target=network.apply, args=(f"pod Deployment/w{n} w{n}-0 w{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    addresses = network.apply(DATABASE)
    assert len(addresses) == len(set(addresses.values())) == 9


def test_a_reader_always_finds_the_names(network):
    """Pods read their file while it is written."""
    network.apply(DATABASE, SERVER)
    path, missing, stop = network.folder / "hosts" / "web-0", [], threading.Event()

    def read() -> None:
        while not stop.is_set():
            if "10.89.3.254 db-0 db db-0.db\n" not in path.read_text():
                missing.append(True)

    reader = threading.Thread(target=read)
    reader.start()
    for n in range(20):
        network.apply(f"pod Deployment/x x-0 x{n}" if n % 2 else "workload Deployment/x")
    stop.set()
    reader.join()
    assert not missing
