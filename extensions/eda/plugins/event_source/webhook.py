# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Event source of ansible-rulebook: alerts of Alertmanager and webhooks of MLflow, from senders that know a secret.

ansible-rulebook runs this file by its path, so that it imports nothing of the collection.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import json
import logging
import os
import pathlib
import re
import ssl
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

from aiohttp import web

DOCUMENTATION = r"""
---
module: webhook
short_description: Receive alerts of Alertmanager, or webhooks of MLflow's model registry
description:
  - Listens for requests of one sender, and passes on what comes from one that knows the secret.
  - Each event has C(meta.hosts), the inventory host whose instance it is about, to which ansible-rulebook limits
    playbooks and job templates. It comes from the annotation C(inventory_hostname) of an alert, or its label
    C(instance_name); and from the path of a webhook's URL, such as C(http://127.0.0.1:5002/team-a) for the host
    C(team-a).
  - Each firing or resolved alert of a message is an event C(alert), with C(name), C(status), C(labels), C(starts_at),
    C(fingerprint) and C(repeated), which is true where Alertmanager sends again an alert that has been firing since.
  - A webhook is an event C(webhook), with C(entity), C(action), C(timestamp), C(workspace), C(data) and C(repeated),
    which is true where an alias is set to the version that it was on already.
  - A webhook of MLflow is taken if its signature is right, its timestamp is near, and its delivery was not seen before.
  - Text that Ansible would take for a template is not passed on, since events become extra variables.
options:
  sender:
    description: Who sends; V(alertmanager) or V(mlflow).
    type: str
    required: true
    choices: [alertmanager, mlflow]
  host:
    description: Address to listen at.
    type: str
    default: 127.0.0.1
  port:
    description: Port to listen at.
    type: int
    required: true
  secret_file:
    description:
      - File with the secret - a token that Alertmanager sends as bearer token or as password of basic authentication,
        or the secret of MLflow's webhook; at least 16 characters.
      - For V(mlflow) also a folder, in which the file with the name of the inventory host has the secret of its
        webhooks.
    type: str
  secret_environment:
    description: Environment variable with the secret, used without O(secret_file).
    type: str
  certificate:
    description: PEM file with the certificate, and those of intermediate authorities. Without it there is no TLS.
    type: str
  private_key:
    description: PEM file with the key of O(certificate).
    type: str
  max_bytes:
    description: Largest body of a request, in bytes.
    type: int
    default: 1048576
  tolerance:
    description: Seconds that the timestamp of a webhook may be away from the clock here.
    type: int
    default: 300
  hourly_limit:
    description:
      - Events of one kind about one object, such as an alias that is set, that are passed on within an hour, so that a
        playbook which sets the alias again does not run for ever. Only for V(mlflow).
    type: int
    default: 20
  playbook:
    description: Playbook that the rulebook runs for webhooks. The source only refuses an empty name.
    type: str
  template:
    description: Job template that the rulebook runs for webhooks. The source only refuses an empty name.
    type: str
"""

EXAMPLES = r"""
- mlops.mlflow.webhook:
    sender: alertmanager
    port: 5001
    secret_file: /etc/mlflow/alertmanager-token
- mlops.mlflow.webhook:
    sender: mlflow
    host: 0.0.0.0
    port: 5002
    certificate: /etc/mlflow/tls.crt
    private_key: /etc/mlflow/tls.key
    secret_environment: MLFLOW_WEBHOOK_SECRET
"""

logger = logging.getLogger("mlops.mlflow.webhook")
SENDERS = ("alertmanager", "mlflow")
LEAST_SECRET = 16
HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}")
GROUPS = ("all", "ungrouped")
"""Of each inventory; a limit to them would be none."""
TEMPLATE = re.compile(r"\{[{%#]")
DELIVERY = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""Without the dot that separates it from the timestamp in what is signed."""
TIMESTAMP = re.compile(r"[0-9]{1,12}")
WAITING = 1000
"""Events that wait for ansible-rulebook; with more, senders are to come again."""
REMEMBERED = 10000
"""Alerts and aliases whose last state is known."""
READ_SECONDS = 30
HOUR = 3600


@dataclass(frozen=True)
class Options:
    """See DOCUMENTATION."""

    sender: str = ""
    host: str = "127.0.0.1"
    port: int = 0
    secret_file: str = ""
    secret_environment: str = ""
    certificate: str = ""
    private_key: str = ""
    max_bytes: int = 2**20
    tolerance: int = 300
    hourly_limit: int = 20
    playbook: str | None = None
    template: str | None = None

    @classmethod
    def of(cls, args: dict[str, Any]) -> Options:
        """Options of a rulebook, in which numbers from variables are text.

        Raises:
            ValueError: with a sentence that names the option, what is wrong and what would be right.
        """
        types = {field.name: field.type for field in fields(cls)}
        values: dict[str, Any] = {}
        for name, value in args.items():
            if name.startswith("eda_"):
                continue  # ansible-rulebook's own
            if name not in types:
                raise ValueError(f"{name} is no option of mlops.mlflow.webhook; it has {', '.join(types)}.")
            if types[name] == "int":
                value = value if isinstance(value, int) else int(value) if re.fullmatch("[0-9]+", str(value)) else -1
                if value < 1:
                    raise ValueError(f"{name} is {args[name]!r}; it must be a whole number from 1 on.")
            values[name] = value if types[name] == "int" else str(value or "")
        options = cls(**values)
        options.check()
        return options

    def check(self) -> None:
        """Raise ValueError where options do not go together, or files do not exist."""
        if self.sender not in SENDERS:
            raise ValueError(f"sender is {self.sender!r}; it must be {' or '.join(SENDERS)}.")
        if not 1 <= self.port <= 65535:
            raise ValueError(f"port is {self.port}; it must be a port from 1 to 65535.")
        if self.playbook == "":
            raise ValueError("mlflow_events_playbook is not set; name the playbook to run when an alias is moved, as"
                             " NAMESPACE.COLLECTION.PLAYBOOK or a path, in the file of --vars.")
        if self.template == "":
            raise ValueError("mlflow_events_template is not set; name the job template to run when an alias is moved,"
                             " in the variables of the activation.")
        if bool(self.certificate) != bool(self.private_key):
            raise ValueError("certificate and private_key belong together; set both, or none of them.")
        for name in ("certificate", "private_key"):
            if getattr(self, name) and not pathlib.Path(getattr(self, name)).is_file():
                raise ValueError(f"{name} is {getattr(self, name)}, which is no file.")
        if not self.secret_file and not self.secret_environment:
            raise ValueError("secret_file and secret_environment are both empty; set one of them, since requests are"
                             " taken of senders that know the secret only.")
        path = pathlib.Path(self.secret_file) if self.secret_file else None
        if path and path.is_dir() and self.sender == "mlflow":
            return  # secrets of hosts may be put there later
        if path and not path.is_file():
            raise ValueError(f"secret_file is {path}, which is no file.")
        if not self.secret():
            where = f"The file {path} of secret_file" if path else f"The environment variable {self.secret_environment}"
            raise ValueError(f"{where} has less than {LEAST_SECRET} characters; put a long random secret there.")

    def secret(self, host: str = "") -> bytes:
        """The secret, as it is now, so that a file may be replaced; empty where there is none that is long enough."""
        if not self.secret_file:
            found = os.environ.get(self.secret_environment, "")
        else:
            path = pathlib.Path(self.secret_file)
            try:
                found = (path / host if path.is_dir() else path).read_text(encoding="utf-8")
            except OSError:
                return b""
        found = found.strip()
        return found.encode() if len(found) >= LEAST_SECRET else b""

    def tls(self) -> ssl.SSLContext | None:
        """What the server speaks TLS with, or None. Raises ValueError for files that are no pair."""
        if not self.certificate:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            context.load_cert_chain(self.certificate, self.private_key)
        except (ssl.SSLError, OSError) as error:
            raise ValueError(f"certificate and private_key are no certificate with its key in PEM format: {error}."
                             ) from None
        return context


class Memory(OrderedDict):
    """The newest values of many keys; the oldest are forgotten."""

    def repeated(self, key: Any, value: Any) -> bool:
        """Whether the key had this value already; from now on it has."""
        was = self.pop(key, None)
        self[key] = value
        if len(self) > REMEMBERED:
            self.popitem(last=False)
        return was == value


def is_template(value: Any) -> bool:
    """Whether Ansible would evaluate a part of the value."""
    if isinstance(value, dict):
        return any(is_template(key) or is_template(part) for key, part in value.items())
    if isinstance(value, list):
        return any(map(is_template, value))
    return isinstance(value, str) and bool(TEMPLATE.search(value))


def is_host(name: Any) -> bool:
    """Whether a name can be an inventory host, rather than a pattern of several."""
    return isinstance(name, str) and bool(HOST.fullmatch(name)) and name not in GROUPS


def texts(value: Any) -> dict[str, str]:
    """The texts of a mapping."""
    found = value.items() if isinstance(value, dict) else ()
    return {key: text for key, text in found if isinstance(text, str)}


class Alertmanager:
    """Reads messages of Alertmanager's webhook receiver.

    Source: https://prometheus.io/docs/alerting/latest/configuration/#webhook_config
    """

    path = "/{path:.*}"

    def __init__(self, options: Options):
        self.options, self.known = options, Memory()

    def authenticate(self, request: web.Request) -> None:
        """Before the body is read. Raises PermissionError."""
        scheme, _blank, given = request.headers.get("Authorization", "").partition(" ")
        token = given.strip().encode()
        if scheme.lower() == "basic":
            try:
                token = base64.b64decode(token, validate=True).partition(b":")[2]
            except binascii.Error:
                token = b""
        secret = self.options.secret()
        if scheme.lower() not in ("basic", "bearer") or not secret or not hmac.compare_digest(token, secret):
            raise PermissionError("the token is wrong or missing")

    def events(self, _request: web.Request, body: bytes) -> Iterator[dict]:
        """An event for each alert. Raises ValueError for what is no message of Alertmanager."""
        message = json.loads(body)
        alerts = message.get("alerts") if isinstance(message, dict) else None
        if not isinstance(alerts, list) or not all(isinstance(alert, dict) for alert in alerts):
            raise ValueError("the body is no message of Alertmanager")
        for alert in alerts:
            labels = texts(alert.get("labels"))
            host = texts(alert.get("annotations")).get("inventory_hostname") or labels.get("instance_name", "")
            event = {"name": labels.get("alertname", ""), "labels": labels, "status": str(alert.get("status", "")),
                     "starts_at": str(alert.get("startsAt", "")), "fingerprint": str(alert.get("fingerprint", ""))}
            if not is_host(host) or is_template(event):
                logger.warning("Left out an alert that names no inventory host, or has a label with a template.")
                continue
            event["repeated"] = self.known.repeated((host, event["fingerprint"]), event["starts_at"])
            yield {"alert": event, "meta": {"hosts": host}}


class MLflow:
    """Reads webhooks of MLflow, in mlflow/webhooks/delivery.py, which sends them."""

    path = "/{host}"

    def __init__(self, options: Options):
        self.options, self.known = options, Memory()
        self.deliveries: OrderedDict[str, float] = OrderedDict()
        self.passed: dict[tuple, deque[float]] = {}

    def authenticate(self, request: web.Request) -> None:
        """What does not need the body. Raises PermissionError."""
        if not is_host(request.match_info["host"]):
            raise PermissionError("the path of the URL names no inventory host")
        stamp = request.headers.get("X-MLflow-Timestamp", "")
        if not TIMESTAMP.fullmatch(stamp) or abs(time.time() - int(stamp)) > self.options.tolerance:
            raise PermissionError("the timestamp is missing, or too far from the clock here")
        if not DELIVERY.fullmatch(request.headers.get("X-MLflow-Delivery-Id", "")):
            raise PermissionError("the ID of the delivery is missing")

    def events(self, request: web.Request, body: bytes) -> Iterator[dict]:
        """An event, or none for a delivery that came before, as MLflow sends again what was not answered.

        Raises:
            PermissionError: the signature is wrong.
            ValueError: the body is no webhook.
            OverflowError: too many of these events.
        """
        host, headers = request.match_info["host"], request.headers
        delivery, secret = headers["X-MLflow-Delivery-Id"], self.options.secret(host)
        signed = f"{delivery}.{headers['X-MLflow-Timestamp']}.".encode() + body
        right = b"v1," + base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest())
        given = headers.get("X-MLflow-Signature", "").encode()
        if not secret or not hmac.compare_digest(given, right):
            raise PermissionError("the signature is wrong or missing")
        message = json.loads(body)
        if not isinstance(message, dict) or not isinstance(message.get("data"), dict):
            raise ValueError("the body is no webhook of MLflow")
        event = {key: str(message.get(key) or "") for key in ("entity", "action", "timestamp", "workspace")}
        event["data"] = message["data"]
        if is_template(event):
            raise ValueError("a text in it is a template of Ansible")
        if not self._is_new(delivery):
            return
        data = event["data"]
        about = (host, event["workspace"], event["entity"], data.get("name"), data.get("alias"))
        event["repeated"] = False
        if event["entity"] in ("model_version_alias", "prompt_alias"):
            version = data.get("version") if event["action"] == "created" else None
            event["repeated"] = self.known.repeated(about, version) and version is not None
        self._count((*about, event["action"]))
        yield {"webhook": event, "meta": {"hosts": host}}

    def _is_new(self, delivery: str) -> bool:
        """Whether a delivery was not seen before; it is remembered for as long as its timestamp is taken."""
        now = time.time()
        while self.deliveries and next(iter(self.deliveries.values())) < now:
            self.deliveries.popitem(last=False)
        if delivery in self.deliveries:
            return False
        self.deliveries[delivery] = now + 2 * self.options.tolerance
        return True

    def _count(self, kind: tuple) -> None:
        """Raise OverflowError where too many events of a kind were passed on within an hour."""
        now = time.monotonic()
        for other in [key for key, times in self.passed.items() if times[-1] < now - HOUR]:
            del self.passed[other]
        times = self.passed.setdefault(kind, deque(maxlen=self.options.hourly_limit))
        if len(times) == times.maxlen and times[0] > now - HOUR:
            raise OverflowError(f"more than {self.options.hourly_limit} of its kind came within an hour")
        times.append(now)


REFUSALS = (PermissionError, OverflowError, ValueError)
STATUSES = dict(zip(REFUSALS, (401, 429, 400)))


def handler(sender: Alertmanager | MLflow, waiting: asyncio.Queue[dict]
            ) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Answers a request with 200 once its events wait for ansible-rulebook.

    Args:
        sender: checks and reads requests.
        waiting: for the events; without a limit, so that those of a message are taken together.
    """
    async def answer(request: web.Request) -> web.Response:
        try:
            sender.authenticate(request)
            body = await asyncio.wait_for(request.read(), READ_SECONDS)
            if waiting.qsize() >= WAITING:
                logger.warning("Refused a request of %s: %s events wait.", request.remote, waiting.qsize())
                return web.Response(status=503, text="Refused: too many events wait.\n")
            for event in sender.events(request, body):
                waiting.put_nowait(event)
        except REFUSALS as error:
            # A JSONDecodeError is a ValueError whose text quotes the body.
            reason = "the body is no JSON" if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)) else error
            logger.warning("Refused a request of %s: %s.", request.remote, reason)
            status = next(code for kind, code in STATUSES.items() if isinstance(error, kind))
            return web.Response(status=status, text=f"Refused: {reason}.\n")
        except (asyncio.TimeoutError, RecursionError):
            return web.Response(status=400, text="Refused: the body cannot be read.\n")
        return web.Response(text="Received.\n")

    return answer


async def main(queue: asyncio.Queue, args: dict[str, Any]) -> None:
    """Listen until ansible-rulebook ends.

    Args:
        queue: of ansible-rulebook, which takes one event after the other.
        args: options, see DOCUMENTATION.

    Raises:
        ValueError: an option is wrong.
    """
    options = Options.of(args)
    sender = Alertmanager(options) if options.sender == "alertmanager" else MLflow(options)
    waiting: asyncio.Queue[dict] = asyncio.Queue()
    # The access log would go to the output of ansible-rulebook; the size is that which request.read() allows.
    app = web.Application(client_max_size=options.max_bytes)
    app.router.add_post(sender.path, handler(sender, waiting))
    runner = web.AppRunner(app, access_log=None)
    tls = options.tls()
    await runner.setup()
    try:
        await web.TCPSite(runner, options.host, options.port, ssl_context=tls).start()
        logger.info("Listening for %s at %s:%s.", options.sender, options.host, options.port)
        while True:
            await queue.put(await waiting.get())
    finally:
        await runner.cleanup()
