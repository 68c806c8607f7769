# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An instance with runs, artifacts, models, prompts, traces, a webhook and a user is backed up while clients log,
deleted with its volumes, and restored on nothing; and one is restored into another one on the other engine. Takes many
minutes for each kind of store, so it is not part of `make test`:

    pytest tests/restore -rP                          # on podman, as root; images are built
    pytest tests/restore -rP -k sqlite
    KUBECONFIG=… MLOPS_ENGINE=kubernetes pytest tests/restore -rP
    KUBECONFIG=… MLOPS_ENGINE=both pytest tests/restore -rP       # from podman to the cluster, and back

MLOPS_RUNS (1000 with PostgreSQL, 200 otherwise) is the number of runs, MLOPS_PREFIX (backup) begins the names of the
instances. The backups are in an object store that is an instance of its own, so that nothing else is left. With both
engines that one is on the cluster, and the machine's containers must reach its Service's address.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
import yaml

ROOT = pathlib.Path(__file__).parents[2]
ENGINE = os.environ.get("MLOPS_ENGINE", "podman")
PREFIX = os.environ.get("MLOPS_PREFIX", "backup")
ENVIRONMENT = {**os.environ, "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}",
               "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1", "LC_ALL": "C.UTF-8",
               "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".cache/collections"),
               "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
LOGIN = {"MLFLOW_TRACKING_USERNAME": "chief", "MLFLOW_TRACKING_PASSWORD": "of-the-chief-1234"}
SMALL = {"requests": {"cpu": "100m", "memory": "256Mi"}}
KEYS = {"access_key": "AKSTORE", "secret_key": "of-the-store-1234"}
CASES = {
    "postgresql": (1000, {"database_type": "postgresql", "object_storage_type": "seaweedfs"}, True),
    # MariaDB cannot hold MLflow's users.
    "mariadb": (200, {"database_type": "mariadb", "object_storage_type": "seaweedfs"}, False),
    "sqlite": (200, {"database_type": "sqlite", "object_storage_type": "volume"}, True),
}
LATER = "logged meanwhile"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def inventory(path: pathlib.Path, hosts: dict[str, dict]) -> pathlib.Path:
    """A file of hosts with what all of them have in common."""
    common = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}",
              "mlflow_image_source": "build", "mlflow_wait_timeout": 900, "object_storage_resources": SMALL}
    path.write_text(yaml.safe_dump({"all": {"hosts": {name: {**common, **host} for name, host in hosts.items()}}}))
    return path


def play(hosts: pathlib.Path, host: str, playbook: str, *arguments: str) -> str:
    """Run a playbook for a host; its output."""
    begun = time.monotonic()
    done = subprocess.run(["ansible-playbook", "-i", hosts, "--limit", host, f"playbooks/{playbook}", *arguments],
                          cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    print(f"{host}: {playbook} {' '.join(arguments)}: {time.monotonic() - begun:.0f} s", flush=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-1000:]
    return done.stdout


class Store:
    """The object store of the backups, an instance of its own.

    Args:
        folder: for the inventory.
        name: of the instance.
        namespace: of the instance; those whose backups it has may share it.
        engine: that runs it.
    """

    def __init__(self, folder: pathlib.Path, name: str, namespace: str, engine: str):
        self.name, self.namespace = name, namespace
        self.hosts = inventory(folder / f"{name}.yml", {name: {
            "mlflow_engine": engine, "mlflow_namespace": namespace, "object_storage_type": "seaweedfs",
            "object_storage_bucket": "backups", **{f"object_storage_{key}": value for key, value in KEYS.items()}}})
        self.host = f"{name}-object-storage"

    def deploy(self) -> None:
        """Deploy it without a server."""
        play(self.hosts, self.name, "site.yml", "--tags", "images,object_storage")

    def address(self) -> str:
        """The address of its Service on the cluster, which leads there from elsewhere, too."""
        (address,) = listed(["kubectl", "--namespace", self.namespace, "get", "service", self.host, "--output",
                             "jsonpath={.spec.clusterIP}"])
        return address

    def remove(self) -> None:
        """Remove it with all data."""
        play(self.hosts, self.name, "uninstall.yml", "-e", "mlflow_purge_data=true")


class Instance:
    """An instance with backups in a Store.

    Args:
        folder: for the inventory.
        name: of the instance and its namespace.
        engine: that runs it.
        variables: about its stores.
        users: whether it has logins.
        store: host of the URL of the backups' store; empty where the variables say where backups are.
    """

    def __init__(self, folder: pathlib.Path, name: str, engine: str, variables: dict, users: bool, store: str = ""):
        self.folder, self.name, self.engine, self.port = folder, name, engine, free_port()
        self.environment = {**ENVIRONMENT, **(LOGIN if users else {})}
        main = {**variables, "mlflow_engine": engine, "mlflow_namespace": name, "mlflow_server_resources": SMALL,
                "database_resources": SMALL, "backup_resources": SMALL,
                "mlflow_server_extra_env": [{"name": "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS", "value": "true"}]}
        if store:
            main |= {"backup_type": "s3", "backup_bucket": "backups", "backup_url": f"http://{store}:8333",
                     "backup_schedule": "", "backup_passphrase": "of the backups of this",
                     **{f"backup_{key}": value for key, value in KEYS.items()}}
        if users:
            main |= {"mlflow_server_auth": "basic", "mlflow_server_auth_admin_user": "chief",
                     "mlflow_server_auth_admin_password": LOGIN["MLFLOW_TRACKING_PASSWORD"]}
        if engine == "podman":
            main["mlflow_server_publish"] = f"127.0.0.1:{self.port}"
        self.variables, self.hosts = main, inventory(folder / f"{name}.yml", {name: main})
        self.url = f"http://127.0.0.1:{self.port}"

    def play(self, playbook: str, *arguments: str) -> str:
        """Run a playbook; its output."""
        return play(self.hosts, self.name, playbook, *arguments)

    def contents(self, *commands: str) -> None:
        """What users see, by MLflow's client: commands of molecule/shared/contents.py."""
        with self.opened():
            done = subprocess.run([sys.executable, ROOT / "molecule/shared/contents.py", self.url, *commands],
                                  env=self.environment, capture_output=True, text=True, check=False)
        print(done.stdout.strip(), flush=True)
        assert done.returncode == 0, done.stdout + done.stderr[-3000:]

    def opened(self) -> Opened:
        """While the block lasts, the server answers at ``url``."""
        return Opened(self)

    def back_up_while_clients_log(self) -> float:
        """Make a backup without, and then a verified one with clients; returns when the latter began (Unix time)."""
        import mlflow

        self.play("backup.yml", "-e", "mlflow_verify_backup=false")
        with self.opened():
            mlflow.set_tracking_uri(self.url)
            self.clients = Clients(self.url)
            with self.clients:
                time.sleep(5)
                begun = time.time()
                self.play("backup.yml")
            assert not self.clients.failures, self.clients.failures[:3]
        return begun

    def remove(self) -> None:
        """Remove it with all data."""
        self.play("uninstall.yml", "-e", "mlflow_purge_data=true")


class Opened:
    """A port of this machine that leads to the server of a cluster; podman has published one."""

    def __init__(self, instance: Instance):
        self.instance, self.process = instance, None

    def __enter__(self) -> None:
        if self.instance.engine == "podman":
            return
        self.process = subprocess.Popen(
            ["ansible-playbook", "-i", self.instance.hosts, "--limit", self.instance.name, "playbooks/open.yml",
             "-e", f"mlflow_open_port={self.instance.port}", "-e", "mlflow_open_seconds=3600"],
            cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
        for _attempt in range(600):
            try:
                socket.create_connection(("127.0.0.1", self.instance.port), 1).close()
                return
            except OSError:
                time.sleep(0.2)
        pytest.fail("playbooks/open.yml forwards no port")

    def __exit__(self, *_exception) -> None:
        if self.process:
            self.process.terminate()
            self.process.wait(60)


class Clients:
    """Clients that go on logging; each remembers what the server has acknowledged.

    Attributes:
        logged: Unix times at which a run with its metric and artifact was acknowledged, by its ID.
    """

    def __init__(self, url: str):
        from mlflow import MlflowClient

        self.client, self.logged, self.failures, self._ended = MlflowClient(url, url), {}, [], threading.Event()
        found = self.client.get_experiment_by_name(LATER)
        self.experiment = found.experiment_id if found else self.client.create_experiment(LATER)
        self._threads = [threading.Thread(target=self._log) for _number in range(2)]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exception) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _log(self) -> None:
        while not self._ended.wait(0.2):
            try:
                self.one()
            except Exception as error:
                self.failures.append(error)

    def one(self) -> str:
        """Log a run."""
        run = self.client.create_run(self.experiment).info.run_id
        self.client.log_metric(run, "loss", 0.5)
        self.client.log_text(run, run, "id.txt")
        self.client.set_terminated(run)
        self.logged[run] = time.time()
        return run

    def there(self) -> dict:
        """All runs of the experiment, by ID."""
        found, token = {}, None
        while True:
            page = self.client.search_runs([self.experiment], max_results=1000, page_token=token)
            found |= {run.info.run_id: run for run in page}
            token = page.token
            if not token:
                return found

    def check(self, begun: float, wanted: int) -> None:
        """Compare with what the server has now: all that was acknowledged before the backup began, no other number of
        runs than was in the dump, and for each run that ended its metric and its artifact."""
        there = self.there()
        before = {run for run, moment in self.logged.items() if moment < begun}
        assert len(before) > 0 and before <= set(there), sorted(before - set(there))[:5]
        assert len(there) == wanted, (len(there), wanted)
        ended = [run for run, found in there.items() if found.info.status == "FINISHED"]
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            texts = list(pool.map(self._text, ended))
        assert texts == ended and all(there[run].data.metrics == {"loss": 0.5} for run in ended)
        print(f"{len(before)} runs were acknowledged before the backup began, {len(there)} are in it, "
              f"{len(self.logged)} were logged until it ended", flush=True)

    def _text(self, run: str) -> str:
        import mlflow

        return mlflow.artifacts.load_text(f"runs:/{run}/id.txt")


@pytest.mark.skipif(ENGINE == "both", reason="MLOPS_ENGINE is both, for the restore into another instance")
@pytest.mark.parametrize("kind", CASES)
def test_everything_is_lost_and_comes_back(kind, tmp_path, monkeypatch):
    runs, variables, users = CASES[kind]
    name = f"{PREFIX}-{kind}"
    store = Store(tmp_path, f"{name}-store", name, ENGINE)
    instance = Instance(tmp_path, name, ENGINE, variables, users, store.host)
    use_logins(instance, monkeypatch)
    try:
        store.deploy()
        instance.play("site.yml")
        before = fill(instance, int(os.environ.get("MLOPS_RUNS", runs)))
        begun = instance.back_up_while_clients_log()
        instance.remove()
        assert not left(instance), left(instance)
        assert f"Instance {name} is not deployed" in " ".join(instance.play("restore.yml", "--check").split())
        assert not left(instance), left(instance)

        text = " ".join(instance.play("restore.yml").split())
        assert " is restored: " in text
        check(instance, instance, before, begun)
    finally:
        instance.remove()
        store.remove()


@pytest.mark.skipif(ENGINE != "both", reason="needs podman and a cluster: KUBECONFIG, and MLOPS_ENGINE=both")
@pytest.mark.parametrize(("engine", "other"), [("podman", "kubernetes"), ("kubernetes", "podman")])
def test_restored_into_another_instance_on_the_other_engine(engine, other, tmp_path, monkeypatch):
    """The other instance has another name, namespace and keys, and artifacts in a bucket instead of a volume."""
    store = Store(tmp_path, f"{PREFIX}-{engine}-store", f"{PREFIX}-{engine}-store", "kubernetes")
    kinds = {"database_type": "postgresql", "object_storage_type": "volume"}
    store.deploy()
    instances = [Instance(tmp_path, f"{PREFIX}-{engine}-first", engine, kinds, True, store.address()),
                 Instance(tmp_path, f"{PREFIX}-{engine}-second", other, {**kinds, "object_storage_type": "seaweedfs"},
                          True, store.address())]
    first, second = instances
    use_logins(first, monkeypatch)
    try:
        first.play("site.yml")
        before = fill(first, int(os.environ.get("MLOPS_RUNS", 200)))
        begun = first.back_up_while_clients_log()

        second.play("restore.yml", "-e", f"mlflow_restore_from={first.name}/{first.name}")
        check(first, second, before, begun)
        first.contents(f"compare={before}")  # it is as it was
    finally:
        for instance in instances:
            instance.remove()
        store.remove()


@pytest.mark.skipif(ENGINE == "both", reason="MLOPS_ENGINE is both, for the restore into another instance")
def test_turning_backups_off_removes_all_but_the_sets(tmp_path):
    variables = {"database_type": "sqlite", "object_storage_type": "volume", "backup_type": "volume",
                 "backup_schedule": "0 2 * * *", "backup_verify_schedule": "0 3 * * 0"}
    instance = Instance(tmp_path, f"{PREFIX}-off", ENGINE, variables, False)
    try:
        instance.play("site.yml")
        instance.play("backup.yml", "-e", "mlflow_verify_backup=false")
        made = backups(instance)
        there = of_backups(instance)
        assert len(made) == 1 and len(there) > 2, there
        text = " ".join(instance.play("restore.yml", "--check").split())
        assert f"the server opened with backup {made[0]['id']} of {instance.name}/{instance.name}" in text
        assert backups(instance) == made and of_backups(instance) == there

        inventory(instance.hosts, {instance.name: {name: value for name, value in instance.variables.items()
                                                   if not name.startswith("backup_")}})
        instance.play("site.yml")
        assert of_backups(instance) == [f"{instance.name}-backup"]  # the volume
        assert "changed=0" in instance.play("site.yml")

        inventory(instance.hosts, {instance.name: instance.variables})
        instance.play("site.yml")
        assert backups(instance) == made
    finally:
        instance.remove()
    assert not of_backups(instance)


@pytest.mark.skipif(ENGINE == "both", reason="MLOPS_ENGINE is both, for the restore into another instance")
def test_a_migration_that_is_killed_is_repeated(tmp_path, monkeypatch):
    """From SQLite to PostgreSQL, killed while it loads, after it has put the database in place, and after it has opened
    the server; before that to a database that is not there, which nobody notices."""
    former = {"database_type": "sqlite", "object_storage_type": "volume"}
    instance = Instance(tmp_path, f"{PREFIX}-migrate", ENGINE, {**former, "backup_type": "volume"}, True)
    use_logins(instance, monkeypatch)
    try:
        instance.play("site.yml")
        before = fill(instance, int(os.environ.get("MLOPS_RUNS", 50)))
        given = ["-e", json.dumps({"mlflow_migrate_from": {"database_type": "sqlite"}})]

        pods = of_server(instance)
        new = {**instance.variables, "database_type": "postgresql"}
        inventory(instance.hosts, {instance.name: {**new, "database_host": "nowhere.invalid", "database_user": "u",
                                                   "database_password": "p"}})
        with pytest.raises(AssertionError, match="The database answers: .*nowhere.invalid"):
            instance.play("migrate.yml", *given)
        assert of_server(instance) == pods
        instance.contents(f"compare={before}")

        inventory(instance.hosts, {instance.name: new})
        text = " ".join(instance.play("migrate.yml", *given, "--check").split())
        assert "rows from sqlite to postgresql" in text and of_server(instance) == pods
        for task in ("Load the backup into the new stores", "Word that the server is open", "Verify"):
            killed(instance, task, "migrate.yml", *given)
        text = " ".join(instance.play("migrate.yml", *given).split())
        assert "The data was moved by an earlier run" in text
        instance.contents(f"compare={before}")
        assert "changed=0" in instance.play("site.yml")
        with pytest.raises(AssertionError, match="deployed with the stores of the inventory already"):
            instance.play("migrate.yml", *given)
    finally:
        inventory(instance.hosts, {instance.name: instance.variables})
        instance.remove()


def of_server(instance: Instance) -> list[str]:
    """What identifies the pods of an instance's server."""
    name = f"{instance.name}-server"
    if instance.engine == "podman":
        found = listed(["podman", "pod", "ls", "--format", "{{.Id}}={{.Name}}"])
    else:
        found = listed(["kubectl", "--namespace", instance.name, "get", "pods", "--output", "custom-columns="
                        ":metadata.name", "--no-headers"])
    return sorted(pod for pod in found if name in pod and "migrat" not in pod.rpartition(name)[2])


def killed(instance: Instance, task: str, playbook: str, *arguments: str) -> None:
    """Run a playbook that is killed as soon as it begins a task."""
    running = subprocess.Popen(["ansible-playbook", "-i", instance.hosts, f"playbooks/{playbook}", *arguments],
                               cwd=ROOT, env={**ENVIRONMENT, "PYTHONUNBUFFERED": "1"}, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, start_new_session=True)
    lines = []
    for line in running.stdout:
        lines.append(line)
        if line.startswith(f"TASK [{task}]"):
            os.killpg(running.pid, signal.SIGKILL)
            print(f"{instance.name}: {playbook} killed at {task}", flush=True)
            running.wait()
            return
    pytest.fail(f"{playbook} ended before task {task}: {''.join(lines)[-3000:]}")


def of_backups(instance: Instance) -> list[str]:
    """Names of volumes, schedules, pods and configuration of an instance's backups."""
    if instance.engine == "podman":
        found = [listed(["podman", "volume", "ls", "--format", "{{.Name}}"]),
                 listed(["podman", "pod", "ls", "--format", "{{.Name}}"]),
                 [path.name for path in pathlib.Path("/var/lib/mlops.mlflow", instance.name, "cronjobs").glob("*")]]
    else:
        kinds = "cronjobs,jobs,pods,pvc,configmaps,secrets"
        found = [listed(["kubectl", "--namespace", instance.name, "get", kinds, "--output", "custom-columns="
                         ":metadata.name", "--no-headers"])]
    return sorted(name for names in found for name in names if name.startswith(f"{instance.name}-backup"))


def listed(command: list[str]) -> list[str]:
    """The words that a command prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def use_logins(instance: Instance, monkeypatch) -> None:
    """Let MLflow's client in this process log in."""
    for name, value in instance.environment.items():
        monkeypatch.setenv(name, value)


def fill(instance: Instance, runs: int) -> str:
    """Fill an instance; the path of a file with what users see of it."""
    before = str(instance.folder / "before.json")
    instance.contents(f"fill={runs}", f"write={before}")
    assert len(json.loads(pathlib.Path(before).read_text())) > runs
    return before


def check(source: Instance, target: Instance, before: str, begun: float) -> None:
    """Compare a restored instance with what was backed up, let a client continue, and deploy it again.

    Args:
        source: whose backups those are.
        target: the one that they were restored into.
        before: path of the file with what was there.
        begun: Unix time at which the backup began.
    """
    import mlflow

    target.contents(f"compare={before}")
    with target.opened():
        mlflow.set_tracking_uri(target.url)
        clients = Clients(target.url)
        clients.logged = source.clients.logged
        clients.check(begun, in_the_backup(source))
        assert clients.one() in clients.there()  # a client continues
    assert "changed=0" in target.play("site.yml")


def in_the_backup(instance: Instance) -> int:
    """Runs of the clients in the second backup, by the rows that the first one does not have."""
    first, second = [entry for entry in backups(instance) if entry["kind"] == "manual"]
    assert second["verified"] and second["complete"], second
    return second["counts"]["runs"] - first["counts"]["runs"]


def backups(instance: Instance) -> list[dict]:
    """The backups of an instance, the oldest first."""
    (instance.folder / "list.yml").write_text(yaml.safe_dump([{
        "hosts": "all", "gather_facts": False, "tasks": [
            {"mlops.mlflow.mlflow_backup_info": {}, "register": "found"},
            {"ansible.builtin.copy": {"content": "{{ found.backups | to_json }}",
                                      "dest": str(instance.folder / "backups.json"), "mode": "0600"}}]}]))
    subprocess.run(["ansible-playbook", "-i", instance.hosts, instance.folder / "list.yml"], cwd=ROOT,
                   env=ENVIRONMENT, check=True, capture_output=True)
    return json.loads((instance.folder / "backups.json").read_text())


def left(instance: Instance) -> list[str]:
    """Volumes, pods and Secrets of the instance that was deleted."""
    if instance.engine == "podman":
        names = [name for kind in ("volume", "pod", "secret")
                 for name in listed(["podman", kind, "ls", "--format", "{{.Name}}"])]
    else:
        names = [name.partition("/")[2] for name in listed(["kubectl", "--namespace", instance.name, "get",
                                                            "pods,pvc,secrets", "--output", "name"])]
    mine = [name for name in names if name.startswith(instance.name) or f".{instance.name}-" in name]
    return [name for name in mine if f"{instance.name}-store" not in name]
