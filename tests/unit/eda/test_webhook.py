# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The event source of extensions/eda, asked by HTTP. tests/platform/test_events.py runs it in ansible-rulebook."""

from __future__ import annotations

import asyncio
import base64
import datetime
import json
import pathlib
import runpy
import socket
import ssl
import time
import urllib.error
import urllib.request

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from mlflow.webhooks.delivery import _generate_hmac_signature

SOURCE = runpy.run_path(str(pathlib.Path(__file__).parents[3] / "extensions/eda/plugins/event_source/webhook.py"))
"""As ansible-rulebook loads it."""
SECRET = "a secret of the test, long enough"
TOKEN = {"Authorization": f"Bearer {SECRET}"}


@pytest.fixture(name="files")
def fixture_files(tmp_path):
    (tmp_path / "secret").write_text(SECRET + "\n")
    return tmp_path


def received(files: pathlib.Path, sender: str, *requests, scheme: str = "http", **options) -> tuple[list, list]:
    """Statuses of requests to a running source, one after the other, and its events.

    Args:
        files: folder with the secret.
        requests: path, body and headers of each; or functions that make such.
        options: of the source.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    args = {"sender": sender, "port": str(port), "secret_file": str(files / "secret"), **options}

    async def run() -> tuple[list, list]:
        queue: asyncio.Queue = asyncio.Queue()
        source = asyncio.create_task(SOURCE["main"](queue, args))
        try:
            statuses = []
            for each in requests:
                request = each() if callable(each) else each
                statuses.append(await asyncio.to_thread(ask, f"{scheme}://127.0.0.1:{port}", *request))
            await asyncio.sleep(0.05)
        finally:
            source.cancel()
            await asyncio.gather(source, return_exceptions=True)
        return statuses, [queue.get_nowait() for _number in range(queue.qsize())]

    return asyncio.run(run())


def ask(url: str, path: str, body: bytes, headers: dict) -> int:
    """The status of an answer; the first request waits for the source."""
    deadline = time.monotonic() + 10
    context = ssl._create_unverified_context() if url.startswith("https") else None
    while True:
        try:
            with urllib.request.urlopen(urllib.request.Request(url + path, body, headers, method="POST"), timeout=10,
                                        context=context) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            error.close()
            return error.code
        except urllib.error.URLError as error:
            if not isinstance(error.reason, ConnectionRefusedError) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def alert(name: str = "MLflowServerDown", **more) -> dict:
    return {"status": "firing", "labels": {"alertname": name, "instance_name": "team-a", "namespace": "ml"},
            "annotations": {}, "startsAt": "2026-11-28T06:00:00Z", "fingerprint": "f1", **more}


def message(*alerts: dict) -> bytes:
    return json.dumps({"version": "4", "status": "firing", "alerts": alerts}).encode()


def webhook(path: str = "/team-a", secret: str = SECRET, age: float = 0, delivery: str = "", about: dict | None = None,
            **change) -> tuple[str, bytes, dict]:
    """A request as MLflow makes it, by its own function."""
    data = {"name": "fraud", "alias": "champion", "version": "3", **(about or {})}
    body = json.dumps({"entity": "model_version_alias", "action": "created", "timestamp": "2026-11-28T06:00:00",
                       "data": data, **change})
    stamp, delivery = str(int(time.time() - age)), delivery or f"d-{time.monotonic_ns()}"
    return path, body.encode(), {"Content-Type": "application/json", "X-MLflow-Delivery-Id": delivery,
                                 "X-MLflow-Timestamp": stamp,
                                 "X-MLflow-Signature": _generate_hmac_signature(secret, delivery, stamp, body)}


def test_alerts_are_events_of_their_hosts(files):
    named = alert("MLflowBackupLate", annotations={"inventory_hostname": "Team_B"}, fingerprint="f2", status="resolved")
    statuses, events = received(files, "alertmanager", ("/", message(alert(), named), TOKEN))
    assert statuses == [200]
    assert [event["meta"]["hosts"] for event in events] == ["team-a", "Team_B"]
    assert events[0]["alert"] == {
        "name": "MLflowServerDown", "status": "firing", "labels": alert()["labels"], "repeated": False,
        "starts_at": "2026-11-28T06:00:00Z", "fingerprint": "f1"}
    assert events[1]["alert"]["status"] == "resolved"


def test_what_is_sent_again_is_told_apart_from_a_new_outage(files):
    later = message(alert(startsAt="2026-11-28T09:00:00Z"))
    _statuses, events = received(files, "alertmanager", *(("/", body, TOKEN) for body in (
        message(alert()), message(alert()), later, later)))
    assert [event["alert"]["repeated"] for event in events] == [False, True, False, True]


@pytest.mark.parametrize("authorization, status", [
    (None, 401), ("", 401), ("Bearer", 401), ("Bearer " + SECRET[:-1], 401), (SECRET, 401),
    ("Digest " + SECRET, 401), ("Basic !!", 401), ("Bearer " + SECRET, 200),
    ("Basic " + base64.b64encode(f"mlflow:{SECRET}".encode()).decode(), 200),
    ("Basic " + base64.b64encode(b"mlflow:another secret, long enough").decode(), 401),
])
def test_alertmanager_needs_the_token(files, authorization, status):
    headers = {} if authorization is None else {"Authorization": authorization}
    statuses, events = received(files, "alertmanager", ("/", message(alert()), headers))
    assert statuses == [status] and len(events) == (status == 200)


@pytest.mark.parametrize("change", [
    {"labels": {"alertname": "MLflowServerDown"}},
    {"labels": {"alertname": "MLflowServerDown", "instance_name": "all"}},
    {"labels": {"alertname": "MLflowServerDown", "instance_name": "a:b"}},
    {"labels": {"alertname": "MLflowServerDown", "instance_name": "team-*"}},
    {"labels": {"alertname": "MLflowServerDown", "instance_name": "team-a", "volume": "{{ lookup('pipe', 'id') }}"}},
])
def test_an_alert_that_ansible_would_misread_is_left_out_and_others_are_not(files, change):
    statuses, events = received(files, "alertmanager", ("/", message(alert(**change), alert()), TOKEN))
    assert statuses == [200] and [event["alert"]["labels"] for event in events] == [alert()["labels"]]


@pytest.mark.parametrize("body, status", [
    (b"", 400), (b"{", 400), (b"[]", 400), (b'{"alerts": {}}', 400), (b'{"alerts": [1]}', 400), (b"\xff", 400),
    (b"[" * 100000, 400), (b'{"alerts": []}', 200), (b'{"alerts": [{"labels": 1, "annotations": null}]}', 200),
    (b" " * 2**20 + b"{}", 413),
])
def test_other_bodies_are_refused(files, body, status):
    statuses, events = received(files, "alertmanager", ("/", body, TOKEN), ("/", message(alert()), TOKEN))
    assert statuses == [status, 200] and len(events) == 1


def test_a_webhook_is_an_event_of_the_host_in_its_url(files):
    statuses, events = received(files, "mlflow", webhook(workspace="ml"))
    assert statuses == [200]
    assert events == [{"webhook": {
        "entity": "model_version_alias", "action": "created", "timestamp": "2026-11-28T06:00:00", "workspace": "ml",
        "data": {"name": "fraud", "alias": "champion", "version": "3"}, "repeated": False},
        "meta": {"hosts": "team-a"}}]


def changed(request: tuple, body: bytes | None = None, **headers: str | None) -> tuple:
    path, signed, given = request
    given = {**given, **{f"X-MLflow-{name.replace('_', '-')}": value for name, value in headers.items()}}
    return path, body or signed, {name: value for name, value in given.items() if value is not None}


@pytest.mark.parametrize("forge", [
    lambda: webhook(secret="another secret, long enough"),
    lambda: webhook(secret=""),
    lambda: changed(webhook(), Signature=None),
    lambda: changed(webhook(), Signature="v1,"),
    lambda: changed(webhook(), Delivery_Id=None),
    lambda: changed(webhook(), Delivery_Id="another"),
    lambda: changed(webhook(), Timestamp=None),
    lambda: changed(webhook(), Timestamp=str(int(time.time()) - 1)),
    lambda: changed(webhook(), body=webhook(about={"version": "4"})[1]),
    lambda: webhook(age=400),
    lambda: webhook(age=-400),
    lambda: webhook(delivery="a.1"),
    lambda: webhook(path="/all"),
    lambda: webhook(path="/team-a,team-b"),
])
def test_forged_webhooks_are_refused(files, forge):
    statuses, events = received(files, "mlflow", forge, webhook)
    assert statuses == [401, 200] and len(events) == 1


def test_a_delivery_is_taken_once_for_whatever_host(files):
    one = webhook()
    statuses, events = received(files, "mlflow", one, one, changed(("/team-b", *one[1:])))
    assert statuses == [200, 200, 200] and len(events) == 1


def test_an_alias_that_is_not_moved_is_repeated(files):
    versions = ["3", "3", "4", "3"]
    requests = [webhook(about={"version": version}) for version in versions]
    removed = webhook(about={"version": None}, action="deleted")
    others = [webhook("/team-b"), webhook(about={"alias": "next"}), webhook(about={"name": "spam"}),
              webhook(workspace="ml")]
    _statuses, events = received(files, "mlflow", *requests, removed, webhook(), *others)
    assert [event["webhook"]["repeated"] for event in events] == [False, True, False, False, False, False] + 4 * [False]


def test_a_playbook_that_sets_the_alias_again_does_not_run_for_ever(files):
    requests = [webhook(about={"version": str(number % 2)}) for number in range(5)]
    statuses, events = received(files, "mlflow", *requests, webhook("/team-b"), hourly_limit=3)
    assert statuses == [200, 200, 200, 429, 429, 200] and len(events) == 4


@pytest.mark.parametrize("about", [{"name": "{{ lookup('pipe', 'id') }}"}, {"name": "{% if true %}"},
                                   {"{{ x }}": "y"}, {"tags": [{"a": "{# b #}"}]}])
def test_templates_in_names_are_not_passed_on(files, about):
    statuses, events = received(files, "mlflow", webhook(about=about))
    assert statuses == [400] and not events


def test_a_folder_has_a_secret_for_each_host(files):
    (files / "secrets").mkdir()
    (files / "secrets" / "team-a").write_text(SECRET)
    (files / "secrets" / "team-b").write_text("the secret of another instance")
    statuses, events = received(files, "mlflow", webhook(), webhook("/team-b"), webhook("/team-c"),
                                webhook("/team-c", secret=""), secret_file=str(files / "secrets"))
    assert statuses == [200, 401, 401, 401] and len(events) == 1


def test_a_secret_that_is_replaced_counts_at_once(files):
    def replaced() -> tuple:
        (files / "secret").write_text("the new secret of the test")
        return webhook()
    statuses, _events = received(files, "mlflow", webhook, replaced,
                                 lambda: webhook(secret="the new secret of the test"))
    assert statuses == [200, 401, 200]


def test_a_secret_in_the_environment(files, monkeypatch):
    monkeypatch.setenv("OF_THE_TEST", SECRET)
    statuses, _events = received(files, "mlflow", webhook(), secret_file="", secret_environment="OF_THE_TEST")
    assert statuses == [200]


def test_tls(files):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
                   .serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
                   .sign(key, hashes.SHA256()))
    (files / "tls.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (files / "tls.key").write_bytes(key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    statuses, events = received(files, "mlflow", webhook(), scheme="https", certificate=str(files / "tls.crt"),
                                private_key=str(files / "tls.key"))
    assert statuses == [200] and len(events) == 1


@pytest.mark.parametrize("options, sentence", [
    ({"sender": "grafana"}, "sender is 'grafana'; it must be alertmanager or mlflow."),
    ({"port": "http"}, "port is 'http'; it must be a whole number from 1 on."),
    ({"port": 70000}, "port is 70000; it must be a port from 1 to 65535."),
    ({"tolerance": 0}, "tolerance is 0; it must be a whole number from 1 on."),
    ({"secret": SECRET}, "secret is no option of mlops.mlflow.webhook; it has sender, host"),
    ({"secret_file": ""}, "secret_file and secret_environment are both empty; set one of them"),
    ({"secret_file": "/nowhere"}, "secret_file is /nowhere, which is no file."),
    ({"secret_file": "", "secret_environment": "NOWHERE"},
     "The environment variable NOWHERE has less than 16 characters; put a long random secret there."),
    ({"certificate": "/nowhere"}, "certificate and private_key belong together; set both, or none of them."),
    ({"certificate": "/nowhere", "private_key": "/nowhere"}, "certificate is /nowhere, which is no file."),
    ({"playbook": ""}, "mlflow_events_playbook is not set; name the playbook to run when an alias is moved"),
    ({"template": ""}, "mlflow_events_template is not set; name the job template to run when an alias is moved"),
])
def test_wrong_options_are_refused(files, options, sentence):
    args = {"sender": "mlflow", "port": 5002, "secret_file": str(files / "secret"), **options}
    with pytest.raises(ValueError, match="^" + sentence.replace(".", r"\.")):
        asyncio.run(SOURCE["main"](asyncio.Queue(), args))


def test_files_that_are_no_certificate_are_refused(files):
    args = {"sender": "mlflow", "port": 5002, "secret_file": str(files / "secret"),
            "certificate": str(files / "secret"), "private_key": str(files / "secret")}
    with pytest.raises(ValueError, match="are no certificate with its key in PEM format"):
        asyncio.run(SOURCE["main"](asyncio.Queue(), args))
