# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Requests a second, latency, memory and processor time of the default deployment on podman, beside the same without
its hooks, a plain `mlflow server` and the servers of two Helm charts: one after another in one run, on the same image,
stores and cores. Or, with --sizes, the memory of servers with 1 to 8 workers."""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import sys
import threading
import time
import urllib.error
import urllib.request

import yaml
from common import ROOT, Failed, check_free, heading, in_a_folder, log, podman, program, run, table
from load import REQUESTS, TRANSFERS, load

# What each server is started with, for PostgreSQL and S3 as all four have them here. The charts ask for both stores to
# be named; with them, and all else as they ship, their templates render this.
#   plain      MLflow's own defaults (`mlflow server --help`): 4 uvicorn workers, job execution on
#   official   mlflow/mlflow at 003d4902: charts/values.yaml, charts/templates/_helpers.tpl (mlflow.serverArgs);
# mlflow.backendStoreUri              and mlflow.artifactsDestination set
#   community  community-charts/helm-charts at ae700fff (chart 1.11.5): charts/mlflow/values.yaml,
# templates/deployment.yaml,              templates/configmap.yaml; backendStore.postgres, artifactRoot.s3 and
# artifactRoot.proxiedArtifactStorage set
# No official image has uvloop and httptools, so these servers do not use those of the collection's image.
SERVERS = {
    "plain": {
        "title": "plain mlflow server",
        "arguments": ["--host=0.0.0.0", "--backend-store-uri={database}", "--artifacts-destination={artifacts}",
                      "--uvicorn-opts=--loop asyncio --http h11"],
        "environment": {},
    },
    "official": {
        "title": "official chart's server",
        "arguments": ["--host=0.0.0.0", "--port=5000", "--workers=4", "--uvicorn-opts=--loop asyncio --http h11"],
        "environment": {"MLFLOW_BACKEND_STORE_URI": "{database}", "MLFLOW_ARTIFACTS_DESTINATION": "{artifacts}"},
    },
    "community": {
        "title": "community chart's server",
        "arguments": [
            "--host=0.0.0.0",
            "--port=5000",
            "--backend-store-uri={database}",
            "--artifacts-destination={artifacts}",
            "--serve-artifacts",
            "--uvicorn-opts=--log-level=info --loop asyncio --http h11",
        ],
        "environment": {
            "MLFLOW_CONFIGURE_LOGGING": "true",
            "MLFLOW_LOGGING_LEVEL": "INFO",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
        },
    },
}
WITHOUT = {
    "title": "without its hooks",
    "arguments": ["--host=0.0.0.0", "--workers=2", "--serve-artifacts", "--uvicorn-opts=--loop asyncio --http h11"],
    "environment": {
        **SERVERS["official"]["environment"],
        "PYTHONPATH": "/etc/mlflow",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLOPS_MLFLOW_DISABLED_HOOKS": "nodelay,access_log,batch,ping,autocommit,messages,log_metrics,create_run,"
        "reads,direct,preload,transfers",
    },
}
"""The default deployment as it was before it had hooks for serving: MLflow's own pool, event loop and start."""
OURS = "deployed"
SERVER = "server"
# What reaches the stores; the deployed server has it from its roles, the others get the same.
STORES = (
    "PGUSER",
    "PGPASSWORD",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_DEFAULT_REGION",
    "MLFLOW_S3_ENDPOINT_URL",
)
START_TIMEOUT = 300


def processes(container: str) -> list[int]:
    """Of this machine's processes those in a container, told by their process namespace."""
    first = int(podman("inspect", "--format", "{{.State.Pid}}", container))
    if not first:
        raise Failed(f"{container} has ended:\n{podman('logs', '--tail', '20', container)}")
    namespace = os.readlink(f"/proc/{first}/ns/pid")
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.readlink(f"/proc/{entry}/ns/pid") == namespace:
                found.append(int(entry))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def processor_seconds(container: str) -> float:
    """Seconds of processor that a container's processes have taken, with those of their children that have ended."""
    total = 0
    for process in processes(container):
        try:
            fields = pathlib.Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(map(int, fields[11:15]))
    return total / os.sysconf("SC_CLK_TCK")


class Server:
    """A container that runs `mlflow server`, others that run while it does, and what was measured of it.

    Attributes:
        stores: containers of the database and of the artifacts, by their titles.
        spent: milliseconds of processor a request with the most clients, for each round: of this server, the clients
            and the stores, by their titles.
    """

    def __init__(self, title: str, container: str, port: int, stores: dict[str, str],
                 beside: tuple[str, ...] = ()) -> None:
        self.title, self.container, self.port, self.beside = title, container, port, beside
        self.stores, self.spent = stores, []
        self.ready: list[float] = []
        self.idle: list[float] = []
        self.busy: list[float] = []
        self.answers: dict[int, list] = {}

    def start(self, cpus: list[int], settle: float) -> None:
        """Start it, wait until it answers and its processes are all there, and keep them on the given cores."""
        podman("start", self.container, *self.beside)
        begun = time.monotonic()
        deadline = begun + START_TIMEOUT
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5).close()
                break
            except (OSError, urllib.error.URLError) as error:
                if time.monotonic() > deadline:
                    raise Failed(
                        f"{self.title} does not answer: {error}\n{podman('logs', '--tail', '20', self.container)}"
                    ) from error
                time.sleep(0.1)
        self.ready.append(time.monotonic() - begun)
        # It answers before its job consumers come up, and those rest ten seconds before they look for unfinished jobs:
        # at rest is who did nothing for longer.
        deadline, quiet = time.monotonic() + settle, 0
        while quiet < 4 and time.monotonic() < deadline:
            before = processor_seconds(self.container)
            time.sleep(3)
            quiet = quiet + 1 if processor_seconds(self.container) - before < 0.3 else 0
        if quiet < 4:
            log(f"{self.title} is still busy {settle:.0f} s after its start, without a request")
        for process in processes(self.container):
            for thread in os.listdir(f"/proc/{process}/task"):
                os.sched_setaffinity(int(thread), cpus)

    def stop(self) -> None:
        podman("stop", "--time", "20", self.container, *self.beside)

    def memory(self) -> tuple[float, int]:
        """MiB of its processes, what several share counted once (proportional set size), and their number."""
        total, found = 0, processes(self.container)
        for process in found:
            try:
                text = pathlib.Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii")
            except (FileNotFoundError, ProcessLookupError):
                continue
            total += sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
        return total / 1024, len(found)

    def seconds(self) -> dict[str, float]:
        """Seconds of processor that the server and the stores have taken so far."""
        containers = {SERVER: self.container, **self.stores}
        return {title: processor_seconds(container) for title, container in containers.items()}

    def measure(self, seconds: float, clients: list[int]) -> None:
        """Memory at rest; then a load of each number of clients; memory and processor are those of the last."""
        self.idle.append(self.memory()[0])
        load(self.port, min(3, seconds), max(clients))  # the first requests load what the server imports late
        for number in clients:
            peak, over = [0.0], threading.Event()

            def watch() -> None:
                while not over.wait(1):
                    peak[0] = max(peak[0], self.memory()[0])

            watcher, before = threading.Thread(target=watch, daemon=True), self.seconds()
            watcher.start()
            answers = load(self.port, seconds, number)
            over.set()
            watcher.join()
            if answers.errors:
                log(f"{self.title}: {len(answers.errors)} requests failed, such as {answers.errors[0]}")
            self.answers.setdefault(number, []).append(answers)
        taken, number = self.seconds(), max(1, len(answers.seconds))
        spent = {title: 1000 * (taken[title] - before[title]) / number for title in taken}
        self.spent.append({**spent, "clients": 1000 * answers.processor / number})
        self.busy.append(max(peak[0], self.memory()[0]))

    def percentile(self, clients: int, share: float, *kinds: str) -> float:
        """Milliseconds, the median of all rounds."""
        return statistics.median(answers.percentile(share, *kinds) for answers in self.answers[clients])

    def processor(self, *titles: str) -> float:
        """Milliseconds of processor a request, the median of all rounds; of all together without titles."""
        return statistics.median(sum(spent[title] for title in titles or spent) for spent in self.spent)

    def figures(self) -> dict[str, float]:
        """What the tables show, by its heading."""
        few, many = min(self.answers), max(self.answers)
        rates = {f"requests/s, {clients}": statistics.median(answers.rate for answers in rounds)
                 for clients, rounds in self.answers.items()}
        return {
            **rates,
            f"API p50 ms, {few}": self.percentile(few, 0.5, *REQUESTS),
            f"API p95 ms, {many}": self.percentile(many, 0.95, *REQUESTS),
            f"1 MiB p95 ms, {many}": self.percentile(many, 0.95, *TRANSFERS),
            "processor ms/request": self.processor(SERVER),
            "start s": statistics.median(self.ready),
            "idle MiB": statistics.median(self.idle),
            "busy MiB": statistics.median(self.busy),
            "failed": sum(len(answers.errors) for rounds in self.answers.values() for answers in rounds),
        }


class Bench:
    """The default deployment, and other servers on its stores, each with a database and a folder of its own."""

    def __init__(self, options: argparse.Namespace, folder: pathlib.Path) -> None:
        self.options, self.folder = options, folder
        self.instance, self.monitored = options.instance, f"{options.instance}-monitored"
        self.inventory = folder / "hosts.yml"
        self.others: list[str] = []
        self.database = self.image = ""
        self.store: dict[str, str] = {}
        self.stores: dict[str, str] = {}

    def deploy(self) -> Server:
        """inventories/local under a name and a port of its own."""
        hosts = yaml.safe_load((ROOT / "inventories/local/hosts.yml").read_text(encoding="utf-8"))["all"]["hosts"]
        variables = {**next(iter(hosts.values())), "mlflow_server_publish": f"127.0.0.1:{self.options.port}"}
        if self.options.volume:
            variables["object_storage_type"] = "volume"
        instances = {self.instance: variables}
        if self.options.monitoring:
            instances[self.monitored] = {**variables, "mlflow_server_publish": f"127.0.0.1:{self.options.port + 1}",
                                         "monitoring_type": "prometheus"}
        self.inventory.write_text(yaml.safe_dump({"all": {"hosts": instances}}), encoding="utf-8")
        log("Deploying the default instance")
        run(["ansible-playbook", "--inventory", self.inventory, "playbooks/site.yml", "--skip-tags", "verify"])
        container, self.database = self.container("server"), self.container("database")
        self.stores = self.stores_of(self.instance)
        told = json.loads(podman("inspect", container))[0]
        self.image = told["ImageName"]
        lines = podman("exec", container, "env").splitlines()
        self.store = {name: value for name, _equals, value in (line.partition("=") for line in lines)}
        return Server("the default deployment", container, self.options.port, self.stores)

    def stores_of(self, instance: str) -> dict[str, str]:
        """Containers of an instance's stores, by their titles."""
        stores = {"PostgreSQL": self.container("database", instance)}
        if not self.options.volume:
            stores["SeaweedFS"] = self.container("object-storage", instance)
        return stores

    def container(self, component: str, instance: str = "") -> str:
        labels = {
            "app.kubernetes.io/instance": instance or self.instance,
            "app.kubernetes.io/component": component,
            "mlops.mlflow/role": "main",
        }
        return podman(
            "ps",
            "--format",
            "{{.Names}}",
            *(part for key, value in labels.items() for part in ("--filter", f"label={key}={value}")),
        )

    def add(self, name: str, server: dict, *options: str) -> Server:
        """A container beside the deployment, made but not started."""
        title, arguments, environment = server["title"], server["arguments"], server["environment"]
        owner, _at, host = self.store["MLFLOW_BACKEND_STORE_URI"].rpartition("@")
        address = (owner + "@" if owner else "") + host.rpartition("/")[0]
        database = f"bench_{name.replace('-', '_')}"
        podman(
            "exec",
            self.database,
            "psql",
            "--quiet",
            "--host",
            "/var/run/postgresql",
            "--username",
            self.store["PGUSER"],
            "--dbname",
            "postgres",
            "--command",
            f"CREATE DATABASE {database}",
        )
        values = {
            "database": f"{address}/{database}",
            "artifacts": "/tmp/artifacts" if self.options.volume else
            f"{self.store['MLFLOW_ARTIFACTS_DESTINATION'].rstrip('/')}/{name}",
        }
        settings = self.folder / f"{name}.env"
        settings.touch(mode=0o600)
        settings.write_text(
            "".join(
                f"{key}={value}\n"
                for key, value in {
                    "HOME": "/tmp",
                    **{key: self.store[key] for key in STORES if key in self.store},
                    **{key: value.format(**values) for key, value in environment.items()},
                }.items()
            ),
            encoding="utf-8",
        )
        container, port = f"{self.instance}-{name}", self.options.port + 1 + len(self.others)
        self.others.append(container)
        podman(
            "create",
            "--name",
            container,
            "--network",
            self.instance,
            "--publish",
            f"127.0.0.1:{port}:5000",
            "--env-file",
            str(settings),
            *options,
            self.image,
            "mlflow",
            "server",
            *(argument.format(**values) for argument in arguments),
        )
        return Server(title, container, port, self.stores)

    def hooks(self) -> list[str]:
        """Options of podman that give a container the files of a server's pod."""
        volume = self.folder / "etc"
        if not volume.exists():
            self.folder.chmod(0o755)
            volume.mkdir(mode=0o755)
            for path in (ROOT / "roles/mlflow_server/files").glob("*.py"):
                (volume / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
        return ["--volume", f"{volume}:/etc/mlflow:ro"]

    def compare(self) -> None:
        ours = self.deploy()
        servers = {OURS: ours}
        if self.options.monitoring:
            beside = tuple(self.container(f"monitoring-{part}", self.monitored)
                           for part in ("exporter", "prometheus", "alertmanager"))
            servers["monitored"] = Server("the same with monitoring", self.container("server", self.monitored),
                                          self.options.port + 1, self.stores_of(self.monitored), beside)
            servers["monitored"].stop()
        else:
            servers["without"] = self.add("without", WITHOUT, *self.hooks())
            for name, server in SERVERS.items():
                servers[name] = self.add(name, server)
        ours.stop()
        order = list(servers.values())
        for number in range(1, self.options.rounds + 1):
            for server in order:
                server.start(self.options.cpus, self.options.settle)
                server.measure(self.options.seconds, self.options.concurrency)
                server.stop()
                log(
                    f"Round {number} of {self.options.rounds}: {server.title}: "
                    f"{server.answers[max(server.answers)][-1].rate:.0f} "
                    f"requests/s, {server.spent[-1][SERVER]:.1f} ms of "
                    f"processor a request, {server.idle[-1]:.0f} MiB idle, {server.busy[-1]:.0f} MiB busy"
                )
            order.append(order.pop(0))
        self.heading()
        self.report(list(servers.values()), servers.get("plain", ours))

    def report(self, servers: list[Server], plain: Server) -> None:
        """Print figures, ratios to the plain server or to another, and the latency of each kind of request."""
        figures = {server.title: server.figures() for server in servers}
        columns = list(figures[plain.title])
        rows = []
        for title, row in figures.items():
            decimals = {column: 1 if column in ("processor ms/request", "start s") else 0 for column in columns}
            rows.append([title, *(f"{row[column]:.{decimals[column]}f}" for column in columns)])
        table([f"{self.options.rounds} rounds of {self.options.seconds:.0f} s; clients", *columns], rows)
        rows = []
        for title, row in figures.items():
            rows.append([title, *(f"{row[column] / figures[plain.title][column]:.2f}" for column in columns[:-1])])
        table([f"ratio to {plain.title}", *columns[:-1]], rows)
        parts = list(plain.spent[0])
        rows = [[server.title, *(f"{server.processor(part):.1f}" for part in parts), f"{server.processor():.1f}",
                 f"{self.at_most(server):.0f}"] for server in servers]
        table([f"processor ms/request, {max(plain.answers)} clients", *parts, "all", "requests/s at most"], rows)
        rows = []
        for clients in plain.answers:
            for kind in (*REQUESTS, *TRANSFERS):
                cells = [f"{server.percentile(clients, 0.5, kind):.0f} / {server.percentile(clients, 0.95, kind):.0f}"
                         for server in servers]
                rows.append([f"{kind}, {clients}", *cells])
        table(["p50 / p95 ms; clients", *(server.title for server in servers)], rows)

    def at_most(self, server: Server) -> float:
        """Requests a second that the cores could answer, those of the machine and those of the server."""
        return 1000 * min(len(os.sched_getaffinity(0)) / server.processor(),
                          len(self.options.cpus) / server.processor(SERVER))

    def sizes(self) -> None:
        """Memory of servers with the role's own environment, by number of workers and with job execution on and off."""
        ours = self.deploy()
        ours.stop()
        settings = {key: value for key, value in self.store.items()
                    if key.startswith(("MLFLOW_SERVER_", "MLFLOW_SQLALCHEMYSTORE_", "MLOPS_"))}
        settings |= {"PYTHONPATH": "/etc/mlflow", **SERVERS["official"]["environment"], **{
            key: self.store[key] for key in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK", "GIT_PYTHON_REFRESH")}}
        rows = []
        for jobs in ("false", "true"):
            for workers in self.options.workers:
                described = {
                    "title": f"{workers} workers, jobs {jobs}",
                    "arguments": ["--host=0.0.0.0", f"--workers={workers}"],
                    "environment": {**settings, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": jobs},
                }
                server = self.add(f"{'jobs' if jobs == 'true' else 'no-jobs'}-{workers}", described, *self.hooks())
                server.start(self.options.cpus, self.options.settle)
                processes = server.memory()[1]
                server.measure(self.options.seconds, [max(*self.options.concurrency, 4 * workers)])
                server.stop()
                rows.append(
                    [
                        f"{workers}, job execution {'on' if jobs == 'true' else 'off'}",
                        str(processes),
                        f"{server.idle[0]:.0f}",
                        f"{server.busy[0]:.0f}",
                        f"{server.busy[0] / workers:.0f}",
                        f"{server.figures()[next(iter(server.figures()))]:.0f}",
                        f"{server.processor(SERVER):.1f}",
                        f"{server.ready[0]:.1f}",
                    ]
                )
                log(" / ".join(rows[-1]))
        self.heading()
        table(
            ["workers", "processes", "idle MiB", "busy MiB", "busy, a worker", "requests/s", "processor ms/request",
             "start s"],
            rows,
        )

    def heading(self) -> None:
        heading(
            self.image,
            f"podman {podman('version', '--format', '{{.Client.Version}}')}",
            f"servers on cores {','.join(map(str, self.options.cpus))}",
        )

    def clean(self) -> None:
        log("Removing what was made")
        for container in self.others:
            podman("rm", "--force", "--volumes", container)
        if self.inventory.exists():
            run(
                [
                    "ansible-playbook",
                    "--inventory",
                    self.inventory,
                    "playbooks/uninstall.yml",
                    "--extra-vars",
                    '{"mlflow_purge_data": true}',
                ]
            )


def main() -> None:
    parser = argparse.ArgumentParser(prog="serve", description=__doc__)
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--monitoring", action="store_true",
                         help="compare the default deployment with and without monitoring, and nothing else")
    instead.add_argument("--sizes", action="store_true",
                         help="measure memory by number of workers instead of comparing")
    parser.add_argument("--volume", action="store_true",
                        help="store artifacts on a volume of this machine instead of SeaweedFS")
    parser.add_argument(
        "--rounds", type=int, default=3, help="how often each server is measured; medians are shown (%(default)s)"
    )
    parser.add_argument("--seconds", type=float, default=15, help="length of each load (%(default)s)")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8],
                        help="numbers of clients at once, ascending (%(default)s)")
    parser.add_argument(
        "--settle",
        type=float,
        default=120,
        help="longest wait after a start for a server to come to rest, in seconds (%(default)s)",
    )
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[1, 2, 4, 8], help="numbers of workers for --sizes (%(default)s)"
    )
    parser.add_argument(
        "--cpus",
        type=lambda text: list(map(int, text.split(","))),
        default=sorted(os.sched_getaffinity(0)),
        help="cores that each server may use, such as 0,1 (all)",
    )
    parser.add_argument(
        "--port", type=int, default=15900, help="first of the loopback ports to publish on (%(default)s)"
    )
    parser.add_argument(
        "--instance", default="mlflow-benchmark", help="name of the instance to deploy and remove (%(default)s)"
    )
    options = parser.parse_args()
    if os.geteuid():
        sys.exit("Only root may read the memory of a container's processes; run this as root.")
    check_free(options.instance)
    in_a_folder(lambda folder: Bench(options, folder),
                lambda bench: bench.sizes() if options.sizes else bench.compare())


if __name__ == "__main__":
    program(main)
