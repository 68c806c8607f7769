# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Backup and restore of a database with many metrics, and of a bucket or folder of artifacts, as ratios to the
database's own programs and to a plain copy of the objects in the same run."""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from typing import Any

import boto3
from boto3.s3.transfer import TransferConfig
from common import ENVIRONMENT, ROOT, Failed, heading, log, program, run, table, timed, version
from exporter import KINDS, NUMBERS, database
from exporters import unit, uri_of

sys.path.insert(0, str(ROOT / "tests/unit/backup"))
import instances  # noqa: E402
from ansible_collections.mlops.mlflow.plugins.module_utils.probes import database as databases  # noqa: E402

RUNS, KEYS = 100, 10
METRICS = """
INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan)
SELECT 'metric-' || MOD(seq, {keys}), seq / 7.0, 1700000000000 + seq, 'run-' || MOD(seq, {runs}), seq, {false}
FROM {numbers}
"""
RUN = """
INSERT INTO runs (run_uuid, name, source_type, user_id, status, start_time, lifecycle_stage, artifact_uri,
                  experiment_id)
SELECT 'run-' || (seq - 1), 'run', 'LOCAL', 'somebody', 'FINISHED', 1700000000000, 'active', 'mlflow-artifacts:/0', 0
FROM {numbers}
"""
SIZES = (200_000, 2_000_000, 20_000_000)
"""Bytes of artifacts, in turn: of small files, models, and large ones."""
THREADS = 8


def resident(pid: int) -> float:
    """MiB that a process had in memory at most so far. getrusage would count what its parent had when it was forked."""
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    return max((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM:")), default=0)


class Pod:
    """Runs backup.py as in the pod of a backup, in a process of its own, beside the programs of the database.

    Args:
        folder: for its files.
        uri: of the database.
        login: its user and password.
        store: parameters of the store of backups.
        artifacts: URI of the artifacts.
        more: further variables.
    """

    def __init__(self, folder: pathlib.Path, uri: str, login: dict, store: dict, artifacts: str, more: dict):
        self.pods = instances.Pods(folder)
        self.instance = instances.Instance(self.pods, uri, artifacts, store, login, **more)
        self.folder, self.number = folder, 0

    def run(self, command: str, modes: tuple[str, ...] = ()) -> tuple[float, float]:
        """Seconds of a command, and MiB that backup.py had in memory at most, with its libraries."""
        self.number += 1
        exchange = self.folder / f"benchmark-{self.number}"
        exchange.mkdir()
        exchange.chmod(0o777)
        begun, helper = time.perf_counter(), None
        if modes and self.instance.dialect != "sqlite":
            helper = self.pods._database(exchange, self.instance.dialect, list(modes), self.instance.login)
        environment = {"PATH": os.environ["PATH"], "EXCHANGE": str(exchange), "TMPDIR": str(exchange),
                       "PYTHONPATH": str(self.folder / "config"), **self.instance.environment}
        with (exchange / "output").open("wb") as output:
            process = subprocess.Popen([sys.executable, self.folder / "backup/backup.py", command], env=environment,
                                       stdout=output, stderr=subprocess.STDOUT)
            peak = 0.0
            while process.poll() is None:
                peak = max(peak, resident(process.pid))
                time.sleep(0.02)
        if helper:
            helper.wait(60)
        seconds = time.perf_counter() - begun
        if process.returncode:
            raise Failed(f"backup.py {command} failed: {(exchange / 'output').read_text()[-1000:]}")
        return seconds, peak

    def restore(self) -> tuple[float, float]:
        """The same of all commands of a restore together."""
        found = [self.run("restore", ("restore",)), self.run("promote"), self.run("finish")]
        return sum(seconds for seconds, _peak in found), max(peak for _seconds, peak in found)


def fill(options: dict, rows: int) -> None:
    """Rows of metrics of a few runs."""
    client = databases.database_of(options)
    client.connect()
    dialect = options["dialect"]
    if dialect == "mysql":
        client.query("SET sql_mode = 'PIPES_AS_CONCAT,ANSI_QUOTES'")
    statement = METRICS.replace("(key,", '("key",')
    client.query(RUN.format(numbers=NUMBERS[dialect].format(first=1, last=RUNS)))
    client.query(statement.format(numbers=NUMBERS[dialect].format(first=1, last=rows), runs=RUNS, keys=KEYS,
                                  false="FALSE" if dialect == "postgresql" else "0"))
    client.connection.close()


class Plain:
    """What an administrator would type: the database's programs and gzip.

    Args:
        options: of a client of the database.
        folder: for the dump.
    """

    def __init__(self, options: dict, folder: pathlib.Path):
        self.options, self.dump = options, folder / "plain.dump"
        self.environment = {"PATH": f"{pathlib.Path(initdb()).parent}:/usr/sbin:{os.environ['PATH']}",
                            "PGPASSWORD": options.get("password", ""), "MYSQL_PWD": options.get("password", "")}

    def _shell(self, text: str) -> float:
        return timed(["bash", "-c", f"set -euo pipefail; {text}"], env=self.environment)[0]

    def _arguments(self) -> str:
        return f"--host={self.options.get('host')} --port={self.options.get('port')}"

    def back_up(self) -> float:
        """Seconds of a dump to a file."""
        name = self.options.get("database")
        return self._shell({
            "postgresql": f"pg_dump {self._arguments()} --username={self.options.get('user')} --format=custom "
                          f"--compress=1 {name} > {self.dump}",
            "mysql": f"mariadb-dump {self._arguments()} --user={self.options.get('user')} --single-transaction --quick "
                     f"{name} | gzip -1 > {self.dump}",
            "sqlite": f"gzip -1 < {self.options.get('path')} > {self.dump}",
        }[self.options["dialect"]])

    def restore(self) -> float:
        """Seconds in which the dump is loaded into a new database."""
        user = self.options.get("user")
        return self._shell({
            "postgresql": f"createdb {self._arguments()} --username={user} plain && pg_restore {self._arguments()} "
                          f"--username={user} --dbname=plain {self.dump}",
            "mysql": f"mariadb {self._arguments()} --user={user} -e 'CREATE DATABASE plain' && gunzip < {self.dump} | "
                     f"mariadb {self._arguments()} --user={user} plain",
            "sqlite": f"gunzip < {self.dump} > {self.dump}.db && sync {self.dump}.db",
        }[self.options["dialect"]])


def initdb() -> str:
    return unit.program("/usr/lib/postgresql/*/bin/initdb", package="postgresql")


class Bucket:
    """Artifacts in a bucket, and a copy of them by boto3 with as many threads as backup.py has."""

    def __init__(self, options: dict):
        self.options = options
        self.client = boto3.client("s3", endpoint_url=options["url"], region_name="us-east-1",
                                   aws_access_key_id=options["access_key"],
                                   aws_secret_access_key=options["secret_key"])
        for name in ("artifacts", "backups", "plain"):
            self.client.create_bucket(Bucket=name)
        self.uri, self.store = "s3://artifacts", {"type": "s3", "bucket": "backups", "prefix": "n/a",
                                                  "url": options["url"], "region": "us-east-1"}
        self.more = {"MLFLOW_S3_ENDPOINT_URL": options["url"], "AWS_ACCESS_KEY_ID": options["access_key"],
                     "AWS_SECRET_ACCESS_KEY": options["secret_key"], "AWS_DEFAULT_REGION": "us-east-1"}
        self.more |= {f"BACKUP_{name.upper()}": options[name] for name in ("access_key", "secret_key")}

    def add(self, name: str, content: bytes) -> None:
        self.client.put_object(Bucket="artifacts", Key=name, Body=content)

    def _names(self, bucket: str) -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return [entry["Key"] for page in pages for entry in page.get("Contents") or []]

    def remove(self) -> None:
        """Delete all artifacts."""
        for name in self._names("artifacts"):
            self.client.delete_object(Bucket="artifacts", Key=name)

    def copy(self, back: bool = False) -> float:
        """Seconds of a plain copy to another bucket, or back."""
        source, target = ("plain", "artifacts") if back else ("artifacts", "plain")
        settings, begun = TransferConfig(use_threads=False), time.perf_counter()

        def one(name: str) -> None:
            body = self.client.get_object(Bucket=source, Key=name)["Body"]
            self.client.upload_fileobj(body, target, name, Config=settings)

        with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(one, self._names(source)))
        return time.perf_counter() - begun


class Folder:
    """Artifacts in a folder, and a copy of them by cp."""

    def __init__(self, folder: pathlib.Path):
        self.folder, self.plain = folder / "artifacts", folder / "plain"
        self.folder.mkdir()
        self.uri, self.store, self.more = str(self.folder), {"type": "volume", "path": str(folder / "backups/n/a")}, {}

    def add(self, name: str, content: bytes) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def remove(self) -> None:
        """Delete all artifacts."""
        shutil.rmtree(self.folder)
        self.folder.mkdir()

    def copy(self, back: bool = False) -> float:
        """Seconds of a plain copy to another folder, or back, until it is on the disk."""
        source, target = (self.plain, self.folder) if back else (self.folder, self.plain)
        return timed(["sh", "-c", f"cp -r {source}/. {target} && sync -f {target}"])[0]


def row(name: str, saved: tuple[float, float], plain: float, restored: tuple[float, float],
        plain_back: float) -> list[str]:
    """A line of the table."""
    (seconds, peak), (back, back_peak) = saved, restored
    return [name, f"{seconds:.1f}", f"{plain:.1f}", f"{seconds / plain:.2f}", f"{back:.1f}", f"{plain_back:.1f}",
            f"{back / plain_back:.2f}", f"{peak:.0f}", f"{back_peak:.0f}"]


def of_a_database(kind: str, rows: int, folder: pathlib.Path) -> list[str]:
    """Backup and restore of a database alone."""
    log(f"{kind}: {rows} rows")
    with database(kind, folder) as found:
        fill(found, rows)
        if kind == "postgresql":  # whose database postgres, in which MLflow's tables are, cannot be renamed
            run(["psql", f"--host={found['host']}", f"--port={found['port']}", f"--username={found['user']}",
                 "--command=CREATE DATABASE mlflow TEMPLATE postgres", "template1"],
                env={**ENVIRONMENT, "PGPASSWORD": found["password"]})
            found = {**found, "database": "mlflow"}
        place = Folder(folder)
        pod = Pod(folder / "pod", pod_uri(found), login(found), place.store, place.uri, {})
        plain = Plain(found, folder)
        seconds, saved = plain.back_up(), pod.run("create", ("dump",))
        back, restored = plain.restore(), pod.restore()
        pod.pods.close()
    return row(f"{kind}, {rows:,} metrics", saved, seconds, restored, back)


def login(found: dict) -> dict:
    return {name: found[name] for name in ("user", "password") if name in found}


def pod_uri(found: dict) -> str:
    """Without the login for PostgreSQL, as in the pods."""
    if found["dialect"] == "postgresql":
        return f"postgresql+psycopg://{found['host']}:{found['port']}/{found['database']}"
    return uri_of(found)


def of_artifacts(place: Any, name: str, gigabytes: float, folder: pathlib.Path) -> list[list[str]]:
    """Backup and restore of artifacts beside a database that is nearly empty."""
    total, number = 0, 0
    log(f"{name}: {gigabytes} GB")
    while total < gigabytes * 10**9:
        content = os.urandom(min(SIZES[number % len(SIZES)], int(gigabytes * 10**9) - total) or 1)
        place.add(f"0/run-{number % RUNS}/artifacts/{number}", content)
        total, number = total + len(content), number + 1
    with database("sqlite", folder) as found:
        pod = Pod(folder / "pod", uri_of(found), {}, place.store, place.uri, place.more)
        plain, saved = place.copy(), pod.run("create")
        again = pod.run("create")
        place.remove()
        restored = pod.restore()
        place.remove()
        back = place.copy(back=True)
        pod.pods.close()
    title = f"{name}, {total / 10**9:.1f} GB in {number:,} files"
    return [row(title, saved, plain, restored, back),
            [f"{name}, again: nothing is new", f"{again[0]:.1f}", "", f"{again[0] / plain:.2f}", "", "", "",
             f"{again[1]:.0f}", ""]]


def measure(options: argparse.Namespace, folder: pathlib.Path) -> None:
    rows = []

    def new() -> pathlib.Path:
        found = folder / str(len(rows))
        (found / "pod").mkdir(parents=True)
        folder.chmod(0o755)
        return found

    for kind in options.databases:
        rows.append(of_a_database(kind, options.rows, new()))
        log(json.dumps(rows[-1]))
    if options.gigabytes and "s3" in options.stores:
        place = new()
        (place / "weed").mkdir()
        command, settings, client = unit.new_seaweedfs(place / "weed")
        with unit.running(command, lambda: unit.has_bucket(client["url"]), place / "log", **settings):
            rows += of_artifacts(Bucket(client), "S3 to S3", options.gigabytes, place)
        shutil.rmtree(place / "weed")
        log(json.dumps(rows[-2:]))
    if options.gigabytes and "volume" in options.stores:
        place = new()
        rows += of_artifacts(Folder(place), "volume to volume", options.gigabytes, place)
        log(json.dumps(rows[-2:]))
    heading(version("mlflow"))
    table(["", "backup s", "plain s", "ratio", "restore s", "plain s", "ratio", "MiB, backup", "MiB, restore"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="backup", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of metrics (%(default)s)")
    parser.add_argument("--gigabytes", type=float, default=2.0, help="of artifacts; takes 4 times as much room "
                                                                     "(%(default)s)")
    parser.add_argument("--databases", nargs="*", choices=KINDS, default=list(KINDS), help="(%(default)s)")
    parser.add_argument("--stores", nargs="*", choices=("s3", "volume"), default=["s3", "volume"],
                        help="of artifacts and backups (%(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mlops-benchmark-") as folder:
        measure(options, pathlib.Path(folder))


if __name__ == "__main__":
    program(main)
