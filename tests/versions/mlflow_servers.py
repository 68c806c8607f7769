# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Real MLflow servers of several versions, each with the files that the role gives a server, from locks/VERSION.txt."""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import json
import os
import pathlib
import secrets
import shutil
import subprocess
import urllib.request

import pytest
import requests

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIG = (*(ROOT / "roles/mlflow_server/files").glob("*.py"), ROOT / "plugins/module_utils/stores.py")
"""The programs in the ConfigMap of a server."""
VERSIONS = sorted(
    (path.stem for path in (ROOT / "tests/versions/locks").glob("*.txt")),
    key=lambda text: tuple(map(int, text.split("."))),
)
CHIEF = ("chief", "not-the-default-one%")


def load(path: pathlib.Path):
    spec = importlib.util.spec_from_file_location(path.stem + "_of_" + path.parent.name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


load(ROOT / "tests/unit/conftest.py")  # makes the collection importable
unit = load(ROOT / "tests/unit/modules/conftest.py")


def binaries(version: str) -> pathlib.Path:
    """Where the programs of a version are installed."""
    folder = ROOT / ".cache/versions" / version
    if not (folder / ".installed").exists():
        pytest.fail(f"MLflow {version} is not installed; make .cache/versions/{version}/.installed installs it")
    return folder / "bin"


class Running:
    """A server: ``url`` with the path prefix, ``log`` and ``report`` as they are now, ``pid`` of `mlflow server`."""

    def __init__(self, url: str, folder: pathlib.Path, pid: int):
        self.url, self.folder, self.pid = url, folder, pid

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    @property
    def report(self) -> dict:
        return json.loads((self.folder / "hooks.json").read_text())

    def ask(self, method: str, path: str, **options) -> requests.Response:
        return requests.request(method, self.url + path, timeout=60, allow_redirects=False, **options)

    def peak(self) -> int:
        """The most memory that any one of the server's processes has used so far, in bytes."""
        found, todo = [], [self.pid]
        while todo:
            pid = todo.pop()
            todo += map(int, pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
            found += [
                int(line.split()[1]) << 10
                for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
                if line.startswith("VmHWM:")
            ]
        return max(found)


def config(folder: pathlib.Path) -> pathlib.Path:
    """A folder with what a server's pod has in /etc/mlflow."""
    made = folder / "config"
    if not made.exists():
        made.mkdir()
        for path in CONFIG:
            shutil.copy(path, made)
    return made


def environment(version: str, folder: pathlib.Path, **variables: str) -> dict:
    """What a server's pod has in its environment."""
    mine = {
        name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "AWS_", "PG", "PYTHON"))
    }
    return {
        **mine,
        "PATH": f"{binaries(version)}:{mine['PATH']}",
        "PYTHONPATH": str(config(folder)),
        "HOME": str(folder),
        "PYTHONUNBUFFERED": "1",
        "MLOPS_MLFLOW_HOOKS": str(folder / "hooks.json"),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "GIT_PYTHON_REFRESH": "quiet",
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{folder}/mlflow.db",
        "MLFLOW_ARTIFACTS_DESTINATION": f"{folder}/artifacts",
        **variables,
    }


def answer(version: str, folder: pathlib.Path, program: str, *arguments: str, disabled: str = "") -> dict:
    """What a program prints as JSON in the Python and the environment of a version, without hooks that it adds itself.

    Args:
        disabled: names of those hooks; where both ways are compared, MLflow's own must not have them already.
    """
    with open(folder / "log", "w", encoding="utf-8") as log:
        done = subprocess.run([binaries(version) / "python", "-c", program, *arguments],
                              env=environment(version, folder, MLOPS_MLFLOW_DISABLED_HOOKS=disabled),
                              stdout=subprocess.PIPE, stderr=log, text=True,
                              timeout=180, check=False)
    assert not done.returncode, (folder / "log").read_text()[-5000:]
    return json.loads(done.stdout)


def created(postgresql: dict, version: str, name: str) -> str:
    """URI of a new database."""
    url = "postgresql://{user}:{password}@{host}:{port}".format(**postgresql)
    name = f"{name}_{version.replace('.', '_')}"
    subprocess.run([shutil.which("psql"), f"{url}/{postgresql['database']}", "--command", f"CREATE DATABASE {name}"],
                   check=True, capture_output=True)
    return f"{url.replace('postgresql:', 'postgresql+psycopg2:')}/{name}"


@contextlib.contextmanager
def mlflow(version: str, folder: pathlib.Path, *options: str, prefix: str = "", workers: int = 1, **variables: str):
    """A running server; ``variables`` are added to its environment."""
    port = unit.free_port()
    url = f"http://127.0.0.1:{port}{prefix}"
    command = [
        binaries(version) / "mlflow",
        "server",
        "--host=127.0.0.1",
        f"--port={port}",
        f"--workers={workers}",
        *options,
    ]
    if prefix:
        command.append(f"--static-prefix={prefix}")
    with unit.running(
        command,
        lambda: urllib.request.urlopen(url + "/health", timeout=2).close(),
        folder / "log",
        cwd=folder,
        env=environment(version, folder, **variables),
    ) as process:
        yield Running(url, folder, process.pid)


def refused(version: str, folder: pathlib.Path, *options: str, **variables: str) -> str:
    """What a server writes that does not start."""
    command = [
        binaries(version) / "mlflow",
        "server",
        "--host=127.0.0.1",
        f"--port={unit.free_port()}",
        "--workers=1",
        *options,
    ]
    done = subprocess.run(
        command,
        env=environment(version, folder, **variables),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode, done.stdout
    return done.stderr


def prepare(version: str, folder: pathlib.Path, *steps: str, **variables: str) -> str:
    """What prepare.py writes."""
    done = subprocess.run(
        [binaries(version) / "python", config(folder) / "prepare.py", *steps],
        env=environment(version, folder, **variables),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert not done.returncode, done.stderr
    return done.stdout


def auth_ini(folder: pathlib.Path, uri: str, *more: str) -> str:
    """Path of a file as the role renders it: the administrator comes from the environment."""
    path = folder / "auth.ini"
    path.write_text(
        "\n".join(
            ["[mlflow]", "default_permission = READ", f"database_uri = {uri}", "auth_cache_ttl_seconds = 60", *more, ""]
        )
    )
    return str(path)


def logins() -> dict:
    """Environment of a server with logins of MLflow's own."""
    return {
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(),
        "MLFLOW_AUTH_ADMIN_USERNAME": CHIEF[0],
        "MLFLOW_AUTH_ADMIN_PASSWORD": CHIEF[1],
        "MLFLOW_CRYPTO_KEK_PASSPHRASE": secrets.token_hex(),
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": fernet_key(),
    }


def fernet_key() -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


def number(version: str) -> tuple:
    return tuple(map(int, version.split(".")))
