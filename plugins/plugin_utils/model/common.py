# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Checks that several components share."""

from __future__ import annotations

import datetime
import functools
import ipaddress
import re
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from ansible_collections.mlops.mlflow.plugins.module_utils import versions

if TYPE_CHECKING:
    from ansible_collections.mlops.mlflow.plugins.plugin_utils.model.variables import Variables

DNS_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
OBJECT_NAME = rf"{DNS_LABEL}(\.{DNS_LABEL})*"
HOST_OR_ADDRESS = (r"[A-Za-z0-9_]([-A-Za-z0-9_.]{0,251}[A-Za-z0-9])?|"
                   r"[0-9a-fA-F:]*:[0-9a-fA-F:.]+:[0-9a-fA-F:.]*|\[[0-9a-fA-F:.]+\]")
LOOPBACK = r"localhost|127(\.[0-9]+){3}|\[?::1\]?"
PUBLISH = r"(localhost|[0-9]{1,3}(?:\.[0-9]{1,3}){3}):([0-9]{1,5})"
LABEL_VALUE = r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?"
LABEL_NAME = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
SECRET_KEY = r"[-._A-Za-z0-9]{1,253}"
"""Key of a Secret or ConfigMap."""
SPAN = r"(?=.)([0-9]+(\.[0-9]+)?d)?([0-9]+(\.[0-9]+)?h)?([0-9]+(\.[0-9]+)?m)?([0-9]+(\.[0-9]+)?s)?"
"""A span of time as `mlflow gc --older-than` takes it: days, hours, minutes, seconds, in this order."""
GO_DURATION = r"([0-9]+(\.[0-9]+)?(ns|us|ms|s|m|h))+"
IMAGE = (r"([A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?(:[0-9]{1,5})?/)?"
         r"[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*(/[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*)*"
         r"(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?")
"""Source: https://github.com/distribution/reference/blob/main/regexp.go"""
PEM = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----\r?\n.+?\r?\n-----END \1-----", re.DOTALL)


def matches(pattern: str, text: str) -> re.Match | None:
    """Whether the whole text matches; unlike ``$``, no line break may follow."""
    return re.fullmatch(pattern, text)


def label_key(text: str) -> bool:
    """Whether a text is the key of a label, an annotation or a taint: a name, after a domain and '/' if any."""
    domain, slash, name = text.rpartition("/")
    return bool(matches(LABEL_NAME, name)) and (not slash or len(domain) <= 253 and bool(matches(OBJECT_NAME, domain)))


def image(text: str) -> bool:
    """Whether a text is the name of an image, with or without registry, tag and digest."""
    return bool(matches(IMAGE, text))


def url(text: str, path: bool = True) -> bool:
    """Whether a text is an HTTP URL of a host, without user, query and fragment.

    Args:
        text: of a variable.
        path: whether it may have a path other than /.
    """
    match = matches(rf"https?://({HOST_OR_ADDRESS})(:[0-9]{{1,5}})?(/[^?#\s\\]*)?", text)
    if not match:
        return False
    try:
        parts = urllib.parse.urlsplit(text)
        return parts.port != 0 and (path or parts.path in ("", "/"))
    except ValueError:  # a port above 65535, or brackets around no address
        return False


def hidden(text: str) -> str:
    """A text for a message, in quotes; the user and password of a URL are left out."""
    shown = versions.shown(text)
    return repr(shown if len(shown) <= 80 else shown[:80] + "…")


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


def argument(variable: str, text: str) -> Iterator[str]:
    """What one entry of a list of a program's arguments must be; its value is not shown."""
    option, _equals, value = text.partition("=")
    if not matches(r"--?[A-Za-z][A-Za-z0-9_.-]*", option):
        yield f"{variable} holds {hidden(option.split(' ')[0])}, which is no option; give each as --option=value."
    elif matches(r".*\s--?[A-Za-z].*", value) and not option.endswith("-opts"):
        yield f"{variable} holds {option} with another option in the same entry; give each as an entry of its own."


def not_loopback(variable: str, host: str, v: Variables) -> Iterator[str]:
    """What the host of an existing server must be: a pod's loopback address leads to its own containers alone.

    On Kubernetes others may add one to the pod, such as the operator of Cloud SQL's proxy.
    """
    own = v.mlflow_server_extra_containers or v.mlflow_server_extra_init_containers or v.mlflow_server_patches
    if v.mlflow_engine == "podman" and not own and matches(LOOPBACK, host):
        yield (f"{variable} names {host}, which is the pod itself; give an address at which pods reach the machine of "
               f"that server.")


def external_secret(variable: str, keys: Mapping, needed: set[str], v: Variables) -> Iterator[str]:
    """What a mapping for the External Secrets Operator must have."""
    store = v.mlflow_secret_store
    if not (store.get("name") or store.get("provider")):
        yield f"{variable} is set while mlflow_secret_store is empty; name there the store that holds the values."
    elif store.get("provider") and (store.get("name") or store.get("kind") == "ClusterSecretStore"):
        yield ("mlflow_secret_store has a provider, of which a SecretStore is made, and the name or kind of one that "
               "exists; keep one of "
               "them.")
    template = v[f"{variable}_template"]
    made = template.get("data") if isinstance(template.get("data"), dict) else {}
    if template and not (made or template.get("templateFrom")):
        yield (f"{variable}_template has no data and no templateFrom; give the keys of the Secret under data, as in an "
               "ExternalSecret's spec.target.template.")
    # A template gives the whole Secret, unless it says that it is merged.
    there = {*made, *(keys if template.get("mergePolicy") == "Merge" else ())} if template else set(keys)
    if needed - there and not template.get("templateFrom"):
        missing = " and no ".join(sorted(needed - there))
        yield (f"{variable}_template.data has no {missing}; give a template for each key of the Secret." if template
               else f"{variable} has no {missing}; give the place of each value, by key and property.")
    for key, remote in keys.items():
        if not isinstance(remote, dict) or not isinstance(remote.get("key"), str) or not remote["key"]:
            yield (f"{variable}.{key} has no key; it must be an ExternalSecret's remoteRef, such as "
                   f"{{key: mlops/mlflow, property: {key}}}.")
        elif not matches(SECRET_KEY, key):
            yield f"{variable} has the key {key!r}; a Secret's key has letters, digits, '-', '_' and '.'."
        else:
            yield from _remote(f"{variable}.{key}", remote)


REMOTE_FIELDS = ("key", "property", "version", "conversionStrategy", "decodingStrategy", "metadataPolicy",
                 "nullBytePolicy")
"""Source: https://external-secrets.io/latest/api/spec/#external-secrets.io/v1.ExternalSecretDataRemoteRef"""


def _remote(where: str, remote: Mapping) -> Iterator[str]:
    unknown = sorted(str(field) for field in remote if field not in REMOTE_FIELDS)
    if unknown:
        yield (f"{where} has the field {unknown[0]}, which a remoteRef does not have; it may have "
               f"{', '.join(REMOTE_FIELDS)}.")
        return
    for field, value in remote.items():
        if not isinstance(value, str):
            yield f"{where}.{field} is no text; put it in quotes."


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
    """Whether a text is a schedule that Kubernetes' parser takes.

    That is five fields of lists, ranges, steps and names, or @daily and its like, or @every with a duration.

    Source: https://pkg.go.dev/github.com/robfig/cron/v3 (Sunday is 0 there, never 7)
    """
    if text in ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight",
                "@hourly") or matches(rf"@every {GO_DURATION}", text):
        return True
    parts = text.split()
    return len(parts) == 5 and all(_cron_field(part, *limits) for part, limits in zip(parts, CRON_FIELDS))


def schedule(variable: str, text: str, example: str) -> Iterator[str]:
    """A sentence for a schedule that is none, or that never comes; an empty one is right.

    Args:
        variable: that holds it.
        text: its value.
        example: of a schedule.
    """
    if text and not cron(text):
        yield f"{variable} is {text!r}; it must be cron's five fields, such as {example}, or empty."
    elif text and not cron_interval(text):
        yield f"{variable} is {text!r}, a day that no year has; name one that comes, such as {example}, or none."


CRON_NAMES = {"@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *", "@monthly": "0 0 1 * *", "@weekly": "0 0 * * 0",
              "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@hourly": "0 * * * *"}
GO_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
FIRST_DAY, DAYS_UNTIL_THEY_REPEAT = datetime.date(2000, 1, 1), 28 * 1461 // 4
"""After 28 years, weekdays and leap years are the same again."""


@functools.lru_cache(maxsize=256)
def cron_interval(text: str) -> int:
    """The longest time between two moments of a schedule that ``cron`` takes, in seconds; 0 where it has none."""
    if text.startswith("@every "):
        parts = re.findall(r"([0-9.]+)([a-z]+)", text.partition(" ")[2])
        return round(sum(float(number) * GO_UNITS[unit] for number, unit in parts))
    fields = CRON_NAMES.get(text, text).split()
    minutes, hours, days, months, weekdays = (
        _cron_values(field, *limits) for field, limits in zip(fields, CRON_FIELDS))
    # Where both are restricted, one of them suffices.
    either = not any(re.match(r"[*?](/1)?(,|$)", field) for field in (fields[2], fields[4]))
    found = []
    for number in range(DAYS_UNTIL_THEY_REPEAT):
        day = FIRST_DAY + datetime.timedelta(number)
        fits = (day.day in days, day.isoweekday() % 7 in weekdays)
        if day.month in months and (any(fits) if either else all(fits)):
            found.append(number)
    times = sorted(60 * hour + minute for hour in hours for minute in minutes)
    gaps = [after - before for before, after in zip(times, times[1:])] if found else []
    gaps += [1440 * (after - before) + times[0] - times[-1] for before, after in zip(found, found[1:])]
    return 60 * max(gaps, default=0)


def _cron_values(text: str, least: int, most: int, names: tuple | list) -> set[int]:
    """The numbers that a field of a valid schedule stands for."""
    values: set[int] = set()
    for part in text.split(","):
        span, slash, step = part.partition("/")
        ends = [least, most]
        if span not in ("*", "?"):
            ends = [number for number in (_cron_number(end, names, least) for end in span.split("-"))
                    if number is not None]
            if len(ends) == 1:
                ends.append(most if slash else ends[0])
        values.update(range(ends[0], ends[1] + 1, int(step or 1)))
    return values


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
