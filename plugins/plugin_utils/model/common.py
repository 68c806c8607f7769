# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Checks that several components share."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ansible_collections.mlops.mlflow.plugins.plugin_utils.model.variables import Variables

DNS_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
OBJECT_NAME = rf"{DNS_LABEL}(\.{DNS_LABEL})*"
HOST_OR_ADDRESS = r"[A-Za-z0-9_]([-A-Za-z0-9_.]{0,251}[A-Za-z0-9])?|[0-9a-fA-F:]*:[0-9a-fA-F:.]+:[0-9a-fA-F:.]*|\[[0-9a-fA-F:.]+\]"
PUBLISH = r"(localhost|[0-9]{1,3}(?:\.[0-9]{1,3}){3}):([0-9]{1,5})"
PEM = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----\r?\n.+?\r?\n-----END \1-----", re.DOTALL)


def matches(pattern: str, text: str) -> re.Match | None:
    """Whether the whole text matches; unlike ``$``, no line break may follow."""
    return re.fullmatch(pattern, text)


def host_port(text: str) -> tuple[str, int] | None:
    """The address and port of a text such as 127.0.0.1:5000, or None."""
    match = matches(PUBLISH, text)
    if not match or not 1 <= int(match[2]) <= 65535:
        return None
    address = "127.0.0.1" if match[1] == "localhost" else match[1]
    try:
        return str(ipaddress.IPv4Address(address)), int(match[2])
    except ValueError:
        return None


def network(text: str) -> bool:
    """Whether a text is a network such as 10.0.0.0/16, without bits set beyond its prefix."""
    try:
        return bool(ipaddress.ip_network(text))
    except ValueError:
        return False


def certificate(variable: str, text: str, what: str = "CERTIFICATE") -> Iterator[str]:
    """What the text of a variable that gives certificates or a key in PEM must be."""
    if not text:
        return
    noun = "private key" if "KEY" in what else "certificate"
    if f"{what}-----" not in text:
        yield f"{variable} holds no {noun}; give PEM text, for example by lookup('ansible.builtin.file', 'ca.pem')."
    elif not PEM.search(text):
        yield (f"{variable} holds a {noun} that is folded to one line or cut off; keep its line breaks, for example by "
               f"lookup('ansible.builtin.file', 'ca.pem').")


def external_secret(variable: str, keys: Mapping, needed: set[str], v: Variables) -> Iterator[str]:
    """What a mapping for the External Secrets Operator must have."""
    store = v.mlflow_secret_store
    if not (store.get("name") or store.get("provider")):
        yield f"{variable} is set while mlflow_secret_store is empty; name there the store that holds the values."
    elif store.get("provider") and (store.get("name") or store.get("kind") == "ClusterSecretStore"):
        yield ("mlflow_secret_store has a provider, of which a SecretStore is made, and the name or kind of one that exists; keep one of "
               "them.")
    if v.mlflow_engine == "podman":
        yield f"{variable} is set while mlflow_engine is podman, where no operator runs; use Ansible Vault there."
    if needed - set(keys):
        yield f"{variable} has no {' and no '.join(sorted(needed - set(keys)))}; give the place of each value, by key and property."
    for key, remote in keys.items():
        if not isinstance(remote, dict) or not isinstance(remote.get("key"), str) or not remote["key"]:
            yield f"{variable}.{key} has no key; it must be an ExternalSecret's remoteRef, such as {{key: mlops/mlflow, property: {key}}}."


DNS = {"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]}
"""Egress to name servers, wherever they are: a cache on the node has an address that belongs to no pod."""


def clients(v: Variables) -> list[dict]:
    """Peers of a NetworkPolicy that may connect to the instance: its own namespace, other namespaces, networks."""
    return [{"podSelector": {}}, *map(peer, v.mlflow_network_policy_clients)]


def peer(client: str) -> dict:
    """A peer of a NetworkPolicy: a network such as 10.0.0.0/16, or the pods of a namespace."""
    if "/" in client:
        return {"ipBlock": {"cidr": client}}
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": client}}}


MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split()
DAYS = "sun mon tue wed thu fri sat".split()
CRON_FIELDS = ((0, 59, ()), (0, 23, ()), (1, 31, ()), (1, 12, MONTHS), (0, 6, DAYS))


def cron(text: str) -> bool:
    """Whether a text is a schedule that Kubernetes' parser takes: five fields of lists, ranges, steps and names, or @daily and its like.

    Source: https://pkg.go.dev/github.com/robfig/cron/v3 (Sunday is 0 there, never 7)
    """
    if text in ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"):
        return True
    parts = text.split(" ")
    return len(parts) == 5 and all(_cron_field(part, *limits) for part, limits in zip(parts, CRON_FIELDS))


def _cron_field(text: str, least: int, most: int, names: tuple | list) -> bool:
    return all(_cron_range(part, least, most, names) for part in text.split(","))


def _cron_range(text: str, least: int, most: int, names: tuple | list) -> bool:
    span, slash, step = text.partition("/")
    if slash and not (matches(r"[0-9]{1,4}", step) and int(step) > 0):
        return False
    if span in ("*", "?"):
        return True
    numbers = [_cron_number(end, names, least) for end in span.split("-")]
    if len(numbers) > 2 or None in numbers:
        return False
    return all(least <= number <= most for number in numbers) and numbers[0] <= numbers[-1]


def _cron_number(text: str, names: tuple | list, first: int) -> int | None:
    if text.lower() in names:
        return list(names).index(text.lower()) + first
    return int(text) if matches(r"[0-9]{1,4}", text) else None
