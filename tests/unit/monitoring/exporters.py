# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Exporters that run as they do in their pod, databases with known contents."""

from __future__ import annotations

import contextlib
import datetime
import importlib.util
import logging
import multiprocessing
import os
import pathlib
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
import types
import urllib.request
import uuid
from typing import Any, Callable, Iterator

import exposition
from ansible_collections.mlops.mlflow.plugins.module_utils import stores
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from mlflow import MlflowClient
from mlflow.entities import TraceInfo, TraceLocation, TraceState

ROOT = pathlib.Path(__file__).resolve().parents[3]
FILES = ROOT / "roles/monitoring/files"


def load(path: pathlib.Path, name: str = "") -> types.ModuleType:
    """A Python file as a module."""
    spec = importlib.util.spec_from_file_location(name or f"{path.stem}_of_{path.parent.name}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


unit = load(ROOT / "tests/unit/modules/conftest.py", "conftest_of_modules_for_exporters")
collectors = load(FILES / "collectors.py")
# As in a pod of role backup, where they are side by side.
sys.modules.setdefault("stores", stores)
sets = load(ROOT / "roles/backup/files/sets.py")
Families = dict[str, dict[tuple, float]]


class Restartable:
    """A server that a test stops and starts.

    Args:
        command, options: of ``running``.
        client: options of a client.
        folder: of its log, and of its data where it must not run as root.
        ready: raises OSError until it answers; its port answers unless given.

    Attributes:
        process: its process while it runs.
    """

    def __init__(self, command: list, options: dict, client: dict, folder: pathlib.Path,
                 ready: Callable[[], None] | None = None):
        self.command, self.options, self.client, self.folder = command, options, client, folder
        self.ready = ready or unit.answers(client["port"])
        self.stack = contextlib.ExitStack()

    def start(self) -> None:
        if "user" in self.options:
            unit.unprivileged(self.folder)  # another run of pytest closes the folders of all
        self.process = self.stack.enter_context(unit.running(
            self.command, self.ready, self.folder / "log", **self.options))

    def stop(self) -> None:
        self.stack.close()


class Exporter:
    """A running exporter.

    Attributes:
        url: of its metrics.
        process: its process.
        slowest: the longest time that a scrape took, in seconds.
        text: what the last scrape returned.
    """

    def __init__(self, url: str, process: subprocess.Popen):
        self.url, self.process, self.slowest, self.text = url, process, 0.0, ""

    def scrape(self) -> Families:
        """What is exported, strictly parsed; fails if that is not answered at once."""
        begun = time.monotonic()
        with urllib.request.urlopen(self.url, timeout=5) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            self.text = answer.read().decode()
        self.slowest = max(self.slowest, time.monotonic() - begun)
        assert self.slowest < 1, "a scrape took a second"
        return parsed(self.text)

    def await_(self, condition: Callable[[Families], Any], seconds: float = 30) -> Families:
        """The first scrape for which a condition holds; a series that is not there makes it false."""
        deadline = time.monotonic() + seconds
        while True:
            found = self.scrape()
            with contextlib.suppress(KeyError):
                if condition(found):
                    return found
            assert time.monotonic() < deadline, found
            time.sleep(0.1)

    def collected(self, *names: str, success: int = 1) -> Families:
        """The first scrape after collectors succeeded, or failed."""
        return self.await_(lambda found: all(
            found["mlflow_exporter_collection_success"][("collector", name),] == success for name in names))


@contextlib.contextmanager
def exporting(folder: pathlib.Path, *wrapper: str, **environment: str) -> Iterator[Exporter]:
    """An exporter whose files are beside each other in one folder, as in its pod, and that does not see this tree.

    Args:
        folder: of files and log.
        wrapper: a program with arguments that starts it.
        environment: variables; of all others it has PATH and nothing else.
    """
    program = folder / "mlflow-monitoring"
    program.mkdir(exist_ok=True)
    for name in collectors.FILES:
        shutil.copy(ROOT / "plugins/module_utils" / name, program)
    for file in FILES.glob("*.py"):
        shutil.copy(file, program)
    port = int(environment.setdefault("MLOPS_EXPORTER_PORT", str(unit.free_port())))
    with unit.running([*wrapper, sys.executable, program / "exporter.py"], unit.answers(port), folder / "exporter.log",
                      cwd=folder, env={"PATH": os.environ["PATH"], "MLOPS_EXPORTER_ADDRESS": "127.0.0.1",
                                       **environment}) as process:
        yield Exporter(f"http://127.0.0.1:{port}/metrics", process)


@contextlib.contextmanager
def presenting(folder: pathlib.Path, names: dict[str, datetime.datetime]) -> Iterator[int]:
    """Port of a server that presents for each name a certificate that expires at the time which the names have then."""
    def choose(connection: ssl.SSLObject, name: str, _context: ssl.SSLContext) -> None:
        of_name = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        of_name.load_cert_chain(self_signed(folder, name, names[name]))
        connection.context = of_name

    def serve() -> None:
        while True:
            try:
                connection, _address = listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), connection, context.wrap_socket(connection, server_side=True) as tls:
                tls.recv(1)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sni_callback = choose
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def self_signed(folder: pathlib.Path, name: str, expiry: datetime.datetime) -> pathlib.Path:
    """A file with a certificate and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    made = (x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(expiry - datetime.timedelta(days=9))
            .not_valid_after(expiry).sign(key, hashes.SHA256()))
    path = folder / f"{name}.pem"
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return path


def backup_sets(store: dict, credentials: dict[str, str]) -> Any:
    """The sets of a store, by the code of the role that makes backups.

    Args:
        store: parameters of ``stores.open_store``.
        credentials: BACKUP_ACCESS_KEY and BACKUP_SECRET_KEY, as the pods of backups have them.
    """
    keys = {name.removeprefix("BACKUP_").lower(): text for name, text in credentials.items()}
    path = pathlib.Path(store.get("path", "."))
    path.mkdir(exist_ok=True)
    # By the modules that it has imported itself, whose exceptions it catches.
    return sets.Sets(sets.stores.open_store({**store, **keys}))


def parsed(text: str) -> Families:
    """Samples by family and labels; the exporter has gauges only."""
    families: Families = {}
    for name, labels, number in exposition.samples(text, allowed=("gauge",)):
        families.setdefault(name, {})[labels] = number
    return families


def value(families: Families, name: str, **labels: str) -> float:
    """One sample."""
    return families[name][tuple(labels.items())]


def environment_of(database: dict) -> dict[str, str]:
    """Variables of a server's pod for a database: no login is in its URI."""
    if database["dialect"] == "sqlite":
        return {"MLFLOW_BACKEND_STORE_URI": f"sqlite:///{database['path']}"}
    scheme = {"postgresql": "postgresql", "mysql": "mysql+pymysql"}[database["dialect"]]
    names = ("PGUSER", "PGPASSWORD") if scheme == "postgresql" else ("DATABASE_USER", "DATABASE_PASSWORD")
    return {"MLFLOW_BACKEND_STORE_URI": f"{scheme}://{database['host']}:{database['port']}/{database['database']}",
            **dict(zip(names, (database["user"], database["password"])))}


def uri_of(database: dict) -> str:
    """URI for MLflow itself, by the drivers that the tests have."""
    if database["dialect"] == "sqlite":
        return f"sqlite:///{database['path']}"
    scheme = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql"}[database["dialect"]]
    return scheme + "://{user}:{password}@{host}:{port}/{database}".format(**database)


KNOWN: dict[str, dict[tuple, int]] = {
    # Default is the third active one.
    "mlflow_experiments": {(("stage", "active"),): 3, (("stage", "deleted"),): 1},
    "mlflow_active_experiments": {(): 3},
    "mlflow_registered_models": {(): 2},
    "mlflow_model_versions": {(): 3},
    "mlflow_model_aliases": {(): 2},
    "mlflow_prompts": {(): 1},
    "mlflow_traces_last_day": {(): 4},
    "mlflow_runs": {(("status", status), ("stage", stage)): number for (status, stage), number in {
        ("RUNNING", "active"): 2, ("RUNNING", "deleted"): 0, ("SCHEDULED", "active"): 1, ("SCHEDULED", "deleted"): 0,
        ("FINISHED", "active"): 5, ("FINISHED", "deleted"): 2, ("FAILED", "active"): 3, ("FAILED", "deleted"): 0,
        ("KILLED", "active"): 1, ("KILLED", "deleted"): 1}.items()},
}
"""What ``fill`` puts into a database, as it is to be exported."""


def fill(database: dict, folder: pathlib.Path, users: str = "") -> None:
    """A schema of MLflow, made by MLflow, with what ``KNOWN`` says, and what is not to be counted: objects of probes.

    Args:
        database: options of a client.
        folder: for artifacts.
        users: URI of the database in which to make 3 users.
    """
    # In a process of its own, since MLflow keeps its connections, for which a PostgreSQL that is to end would wait; a
    # fork, since this takes nine seconds to load.
    stores_of = [importlib.import_module(f"mlflow.{name}.sqlalchemy_store").SqlAlchemyStore
                 for name in ("store.tracking", "server.auth")]
    process = multiprocessing.get_context("fork").Process(
        target=_fill, args=(*stores_of, uri_of(database), folder, users))
    process.start()
    process.join(180)
    assert process.exitcode == 0, "the reason is in the output"


def _fill(tracking: type, auth: type, uri: str, folder: pathlib.Path, users: str) -> None:
    logging.disable()
    store = tracking(uri, f"{folder}/artifacts")
    client = MlflowClient(uri, uri)
    experiments = [client.create_experiment(name) for name in ("one", "two", "three")]
    probe = client.create_experiment("mlops-mlflow-probe-0123456789ab")
    for labels, number in KNOWN["mlflow_runs"].items():
        wanted = dict(labels)
        for index in range(number):
            run = client.create_run(experiments[index % 2]).info.run_id
            client.update_run(run, wanted["status"])
            if wanted["stage"] == "deleted":
                client.delete_run(run)
    client.create_run(probe)
    client.delete_experiment(experiments[2])
    for name in ("cat", "dog", "mlops-mlflow-probe-periodic"):
        client.create_registered_model(name)
        for _version in range(3 if name == "cat" else 1):
            client.create_model_version(name, f"{folder}/artifacts/model")
        client.set_registered_model_alias(name, "champion", 1)
    client.delete_model_version("cat", "3")
    client.register_prompt("greeting", "Hello {{name}}")
    client.set_prompt_alias("greeting", "production", 1)
    now = int(1000 * time.time())
    for age in (0, 1, 12, 23, 25, 240):
        store.start_trace(TraceInfo(f"tr-{uuid.uuid4().hex}", TraceLocation.from_experiment_id(experiments[0]),
                                    now - age * 3600_000, TraceState.OK))
    if users:
        of_users = auth()
        of_users.init_db(users)
        for index in range(3):
            of_users.create_user(f"user{index}", "a-long-password")
