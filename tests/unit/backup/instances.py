# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Instances whose backups are made as in their pods: backup.py beside database.sh, with a folder that both share, and
the programs of real databases."""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import json
import os
import pathlib
import pwd
import re
import shutil
import signal
import subprocess
import sys
import types
from typing import Iterator

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
FILES = ROOT / "roles/backup/files"
SHARED = [ROOT / "plugins/module_utils" / "stores.py", ROOT / "roles/mlflow_server/files/maintenance_lock.py"]
"""What the server's ConfigMap has, which the pod mounts, too."""
ENTRYPOINTS = {"postgresql": "postgresql-entrypoint.sh", "mysql": "mariadb-entrypoint.sh"}
USERS = {"postgresql": "postgres", "mysql": "nobody"}
"""Who runs the programs of the database where the tests run as root, which these refuse."""
PASSPHRASE = "correct horse battery staple"
KEYS = {"MLFLOW_CRYPTO_KEK_PASSPHRASE": "of-the-gateway",
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": base64.urlsafe_b64encode(b"w" * 32).decode(),
        "MLFLOW_AUTH_ADMIN_USERNAME": "chief", "MLFLOW_AUTH_ADMIN_PASSWORD": "of-the-chief"}


def load(path: pathlib.Path, name: str) -> types.ModuleType:
    """A Python file as a module."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


unit = load(ROOT / "tests/unit/modules/conftest.py", "conftest_of_modules_for_backups")


class CommandFailed(Exception):
    """backup.py ended with another code than 0; the message is its sentence."""

    def __init__(self, log: str):
        found = re.search(r"backup: \w+ failed: (.*)", log)
        super().__init__(found.group(1) if found else f"no sentence: {log[-3000:]}")
        self.log = log


@contextlib.contextmanager
def small_folder(folder: pathlib.Path, size: str) -> Iterator[pathlib.Path]:
    """A folder of a filesystem with that much room; skips where this user may not mount one."""
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={size},mode=777", "tmpfs", folder]
    mounted = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a small filesystem cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


class Running:
    """A command of backup.py that runs.

    Attributes:
        process: number of the process of backup.py.
        database: the process of database.sh, None where the command needs none.
        output: what backup.py wrote.
    """

    def __init__(self, process: int, database: subprocess.Popen | None, output: pathlib.Path, forks: subprocess.Popen):
        self.process, self.database, self.output, self._forks = process, database, output, forks

    def wait(self) -> str:
        """Its log; CommandFailed unless it succeeded."""
        assert self._forks.stdout
        code = int(self._forks.stdout.readline())
        if self.database:
            self.database.wait(60)
        log = self.output.read_text()
        if code:
            raise CommandFailed(log)
        return log

    def kill(self) -> None:
        """End it as a pod ends that is removed at once."""
        os.kill(self.process, signal.SIGKILL)
        assert self._forks.stdout and int(self._forks.stdout.readline()) == -signal.SIGKILL
        if self.database:
            os.killpg(self.database.pid, signal.SIGKILL)
            self.database.wait(60)


class Pods:
    """Runs commands, one at a time."""

    def __init__(self, folder: pathlib.Path):
        self.folder, self.exchanges, self.number = folder, folder, 0
        for name, files in {"backup": [*FILES.glob("*.py"), *FILES.glob("*.sh"),
                                       ROOT / "plugins/module_utils/sealed.py"], "config": SHARED}.items():
            (folder / name).mkdir()
            for path in files:
                shutil.copy(path, folder / name)
        (folder / "backup/deployment.json").write_text('{"variables": {"database_type": "postgresql"}}')
        for dialect, name in ENTRYPOINTS.items():
            (folder / dialect).mkdir()
            target = folder / dialect / "docker-entrypoint.sh"
            shutil.copy(ROOT / "roles/images/files" / name, target)
            target.chmod(0o755)
        self.forks = subprocess.Popen(
            [sys.executable, ROOT / "tests/unit/backup/forks.py", folder / "backup", folder / "config"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
        unit.unprivileged(folder)
        folder.chmod(0o755)

    def close(self) -> None:
        """End the process that starts commands."""
        assert self.forks.stdin
        self.forks.stdin.close()
        self.forks.wait(30)

    def start(self, arguments: list[str], environment: dict, dialect: str, modes: list[str], programs: dict,
              killed: tuple = ()) -> Running:
        """Start a command, and database.sh with the variables ``programs`` where there is something for it to do;
        ``killed`` see ``kill_after``."""
        self.number += 1
        exchange = self.exchanges / f"exchange-{self.number}"
        exchange.mkdir()
        exchange.chmod(0o777)
        (exchange / "tmp").mkdir()
        request = {"environment": {"PATH": f"{unit.BIN}:{os.environ['PATH']}", "EXCHANGE": str(exchange),
                                   "TMPDIR": str(exchange / "tmp"), **environment},
                   "arguments": arguments, "output": str(exchange / "output"), "killed": killed}
        database = self._database(exchange, dialect, modes, programs) if modes and dialect != "sqlite" else None
        assert self.forks.stdin and self.forks.stdout
        print(json.dumps(request), file=self.forks.stdin, flush=True)
        return Running(int(self.forks.stdout.readline()), database, exchange / "output", self.forks)

    def _database(self, exchange: pathlib.Path, dialect: str, modes: list[str], programs: dict) -> subprocess.Popen:
        drill = exchange / "drill"
        drill.mkdir()
        as_user: dict = {}
        if not os.geteuid():
            user = pwd.getpwnam(USERS[dialect])
            as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
            os.chown(drill, user.pw_uid, user.pw_gid)
        initdb = pathlib.Path(unit.program("/usr/lib/postgresql/*/bin/initdb", package="postgresql"))
        environment = {"PATH": f"{self.folder / dialect}:{initdb.parent}:/usr/sbin:{os.environ['PATH']}",
                       "HOME": str(drill), "EXCHANGE": str(exchange), "DRILL": str(drill), **programs}
        with (exchange / "database-output").open("wb") as output:
            return subprocess.Popen(["sh", self.folder / "backup/database.sh", *modes], env=environment, cwd=drill,
                                    stdout=output, stderr=subprocess.STDOUT, start_new_session=True, **as_user)


class Instance:
    """An instance as the pod of its backups sees it.

    Args:
        pods: runs the commands.
        uri: of its database, as SQLAlchemy takes it.
        artifacts: URI of its artifacts, as MLflow takes it.
        store: parameters of the store of the backups.
        login: user and password of the database.
        more: further variables of the pod.

    Attributes:
        programs: variables of the database's programs, besides the login.
    """

    def __init__(self, pods: Pods, uri: str, artifacts: str, store: dict, login: dict | None = None, **more: str):
        self.pods, self.uri, self.artifacts, self.store, self.login = pods, uri, artifacts, store, login or {}
        self.more, self.passphrase, self.version = more, PASSPHRASE, "3.17.2"
        self.retention = {"days": 30, "daily": 0, "weekly": 0, "monthly": 0}
        self.programs: dict[str, str] = {}

    @property
    def dialect(self) -> str:
        return self.uri.partition(":")[0].partition("+")[0]

    @property
    def environment(self) -> dict:
        """Of backup.py."""
        manifest = {"instance": "a", "namespace": "n", "engine": "podman", "mlflow_version": self.version,
                    "image": "mlflow:1"}
        found = {"MLFLOW_BACKEND_STORE_URI": self.uri, "MLFLOW_ARTIFACTS_DESTINATION": self.artifacts,
                 "BACKUP_STORE": json.dumps(self.store), **KEYS, **self.more,
                 "BACKUP_SETTINGS": json.dumps({"manifest": manifest, "retention": self.retention, "sample": 20})}
        if self.login and self.dialect == "postgresql":
            found |= {"PGUSER": self.login["user"], "PGPASSWORD": self.login["password"]}
        return {**found, "BACKUP_PASSPHRASE": self.passphrase} if self.passphrase else found

    def start(self, *arguments: str, modes: tuple[str, ...] = ()) -> Running:
        """Start a command of backup.py."""
        return self.pods.start(list(arguments), self.environment, self.dialect, list(modes), self._of_programs())

    def _of_programs(self) -> dict[str, str]:
        return {"DATABASE_USER": self.login.get("user", ""), "DATABASE_PASSWORD": self.login.get("password", ""),
                **self.programs}

    def killed(self, command: str, beginning: str, number: int) -> None:
        """Run a command that is killed when it has made so many changes (``kill_after`` of forks.py)."""
        running = self.pods.start([command], self.environment, self.dialect, [], self._of_programs(),
                                  (beginning, number))
        with pytest.raises(CommandFailed, match="no sentence"):
            running.wait()

    def run(self, *arguments: str, modes: tuple[str, ...] = ()) -> dict:
        """The result of a command; CommandFailed where it has none."""
        return parse(self.start(*arguments, modes=modes).wait())

    def create(self, *arguments: str) -> dict:
        """Make a set; returns its manifest."""
        return self.run("create", *arguments, modes=("dump",))["set"]

    def restore(self, *arguments: str, until: str = "finish") -> dict:
        """Load a set, and take the further steps of the playbook until one of them."""
        found = self.run("restore", *arguments, modes=("restore",))
        for step in ("promote", "finish")[:("restore", "promote", "finish").index(until)]:
            self.run(step)
        return found

    def path(self, name: str) -> pathlib.Path:
        """A file of the backups, where these are in a folder."""
        return pathlib.Path(self.store["path"]) / name


def peak_of(running: Running) -> int:
    """Bytes by which backup.py grew at most."""
    return int(running.output.with_name("output.peak").read_text())


def parse(log: str) -> dict:
    """The result in a log."""
    return json.loads(base64.b64decode("".join(re.findall(r"^RESULT (.*)$", log, re.MULTILINE))))
