# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Checks what instances of a play must not share. Documented in plugins/modules/validate_instances.py."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ansible.errors import AnsibleActionFail
from ansible.plugins.loader import lookup_loader

from ansible_collections.mlops.mlflow.plugins.plugin_utils import templating
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engine_action import ModelAction, resolve
from ansible_collections.mlops.mlflow.plugins.plugin_utils.model import Model, common
from ansible_collections.mlops.mlflow.plugins.plugin_utils.model.variables import VariableError


@dataclass(frozen=True)
class Identity:
    """What of a host's instance others must not have.

    Attributes:
        host: the inventory host.
        place: the cluster or machine, and namespace and instance in it.
        machine: the machine that podman runs on, or empty.
        published: (variable, address, port) of the machine's ports that it takes.
    """

    host: str
    place: tuple[str, ...]
    machine: str
    published: tuple[tuple[str, str, int], ...]


class ActionModule(ModelAction):
    """Looks at the variables of all hosts, once."""

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        _result, options = self.validate_argument_spec({"hosts": {"type": "str", "default": "all"}})
        hosts = self._hosts(options["hosts"], task_vars)
        problems = list(shared(filter(None, (self._identity(host, task_vars) for host in hosts))))
        if problems:
            raise templating.Failure("\n".join(problems))
        result.update(changed=False, instances=hosts)
        return result

    def _hosts(self, pattern: str, task_vars: dict) -> list[str]:
        """The hosts of the play that the pattern matches; none is an error, not a success."""
        lookup = lookup_loader.get("ansible.builtin.inventory_hostnames", loader=self._loader, templar=self._templar)
        matched = lookup.run([pattern], variables=task_vars)
        known = task_vars["groups"].get("all") or []
        hosts = [host for host in matched if host in known and host in task_vars["ansible_play_hosts_all"]]
        if hosts:
            return hosts
        if not known:
            raise AnsibleActionFail("The inventory has no host; give one by --inventory whose hosts are MLflow "
                                    "instances.")
        raise AnsibleActionFail(f"No host of the inventory matches mlflow_hosts ({pattern}) and --limit; there are "
                                f"{', '.join(known[:10])}"
                                f"{' and others' if len(known) > 10 else ''}.")

    def _identity(self, host: str, task_vars: dict) -> Identity | None:
        """None where the host's variables are wrong, which its own check reports."""
        host_vars = task_vars["hostvars"].raw_get(host)
        try:
            return identity(resolve(self._templar, host_vars, host), host, host_vars)
        except VariableError:
            return None


def identity(model: Model, host: str, host_vars: dict) -> Identity:
    """What the instance of a host has for itself alone."""
    instance, v = model.instance, model.variables
    podman = instance.engine == "podman"
    machine = (
        str(host_vars.get("ansible_host") or host)
        if podman and host_vars.get("ansible_connection") != "local"
        else "localhost"
    )
    published = []
    if podman:
        for variable, wanted in (("mlflow_server_publish", True), ("ingress_publish", v.ingress_type == "proxy"),
                                 ("monitoring_publish", v.monitoring_type == "prometheus"),
                                 ("monitoring_alertmanager_publish", v.monitoring_type == "prometheus"),
                                 ("monitoring_grafana_publish", v.monitoring_grafana)):
            address = common.host_port(v[variable]) if wanted and v[variable] else None
            if address:
                published.append((variable, *address))
    cluster = (instance.kubeconfig or "", instance.context or "")
    return Identity(host, (instance.engine, machine if podman else "", *(("", "") if podman else cluster),
                           instance.namespace, instance.name),
                    machine if podman else "", tuple(published))


def shared(identities: Iterable[Identity]) -> Iterator[str]:
    """A sentence for each thing that two instances share."""
    places: dict[tuple, str] = {}
    ports: dict[tuple[str, int], list[tuple[str, str, str]]] = {}
    for one in identities:
        other = places.setdefault(one.place, one.host)
        if other != one.host:
            yield (f"mlflow_instance is {one.place[-1]!r} in namespace {one.place[-2]!r} for both {other} and "
                   f"{one.host}; give one of them "
                   f"another mlflow_instance or mlflow_namespace.")
        for variable, address, port in one.published:
            taken = ports.setdefault((one.machine, port), [])
            for host, theirs, at in taken:
                if at == address or "0.0.0.0" in (at, address):
                    yield (f"{variable} of {one.host} is {address}:{port}, which {theirs} of {host} takes on the same "
                           f"machine ({at}:{port}); "
                           f"choose another port for one of them.")
                    break  # a sentence for each pair would be thousands in an inventory of a hundred
            taken.append((one.host, variable, address))
