# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An instance with runs, artifacts, models, prompts, traces, a webhook and a user is backed up while clients log,
deleted with its volumes, and restored on nothing. Takes many minutes for each kind of store, so it is not part of
`make test`:

    pytest tests/restore -rP                          # on podman, as root; images are built
    pytest tests/restore -rP -k sqlite
    KUBECONFIG=… MLOPS_ENGINE=kubernetes pytest tests/restore -rP

MLOPS_RUNS (1000 with PostgreSQL, 200 otherwise) is the number of runs, MLOPS_PREFIX (backup) begins the names of the
instances. The backups are in an object store that is an instance of its own, so that nothing else is left.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import pathlib
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


class Instance:
    """An instance with backups in another one's object store, both in one namespace.

    Args:
        folder: for the inventory.
        name: of the instance and its namespace.
        variables: about its stores.
        users: whether it has logins.
    """

    def __init__(self, folder: pathlib.Path, name: str, variables: dict, users: bool):
        self.folder, self.name, self.port = folder, name, free_port()
        self.store = f"{name}-store"
        self.environment = {**ENVIRONMENT, **(LOGIN if users else {})}
        common = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}",
                  "mlflow_engine": ENGINE, "mlflow_image_source": "build", "mlflow_namespace": name,
                  "mlflow_wait_timeout": 900, "object_storage_resources": SMALL}
        keys = {"access_key": "AKSTORE", "secret_key": "of-the-store-1234"}
        store = {**common, "object_storage_type": "seaweedfs", "object_storage_bucket": "backups",
                 **{f"object_storage_{key}": value for key, value in keys.items()}}
        main = {**common, **variables, "mlflow_server_resources": SMALL, "database_resources": SMALL,
                "backup_type": "s3", "backup_bucket": "backups", "backup_resources": SMALL,
                "backup_url": f"http://{self.store}-object-storage:8333", "backup_passphrase": "of the backups of this",
                **{f"backup_{key}": value for key, value in keys.items()}, "backup_schedule": "",
                "mlflow_server_extra_env": [{"name": "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS", "value": "true"}]}
        if users:
            main |= {"mlflow_server_auth": "basic", "mlflow_server_auth_admin_user": "chief",
                     "mlflow_server_auth_admin_password": LOGIN["MLFLOW_TRACKING_PASSWORD"]}
        if ENGINE == "podman":
            main["mlflow_server_publish"] = f"127.0.0.1:{self.port}"
        (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": {self.store: store, name: main}}}))
        self.url = f"http://127.0.0.1:{self.port}"

    def play(self, playbook: str, *arguments: str, host: str = "") -> str:
        """Run a playbook; its output."""
        begun = time.monotonic()
        done = subprocess.run(["ansible-playbook", "-i", self.folder / "hosts.yml", "--limit", host or self.name,
                               f"playbooks/{playbook}", *arguments], cwd=ROOT, env=ENVIRONMENT, capture_output=True,
                              text=True, check=False)
        print(f"{playbook} {' '.join(arguments)}: {time.monotonic() - begun:.0f} s", flush=True)
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-1000:]
        return done.stdout

    def contents(self, command: str, argument: str) -> None:
        """What users see, by MLflow's client: molecule/shared/contents.py."""
        with self.opened():
            done = subprocess.run([sys.executable, ROOT / "molecule/shared/contents.py", command, self.url, argument],
                                  env=self.environment, capture_output=True, text=True, check=False)
        print(done.stdout.strip(), flush=True)
        assert done.returncode == 0 and "no webhook" not in done.stdout, done.stdout + done.stderr[-3000:]

    def opened(self) -> Opened:
        """While the block lasts, the server answers at ``url``."""
        return Opened(self)

    def remove(self) -> None:
        """Both instances, with all data."""
        for host in (self.name, self.store):
            self.play("uninstall.yml", "-e", "mlflow_purge_data=true", host=host)


class Opened:
    """A port of this machine that leads to the server of a cluster; podman has published one."""

    def __init__(self, instance: Instance):
        self.instance, self.process = instance, None

    def __enter__(self) -> None:
        if ENGINE == "podman":
            return
        self.process = subprocess.Popen(
            ["ansible-playbook", "-i", self.instance.folder / "hosts.yml", "--limit", self.instance.name,
             "playbooks/open.yml", "-e", f"mlflow_open_port={self.instance.port}", "-e", "mlflow_open_seconds=3600"],
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


@pytest.mark.parametrize("kind", CASES)
def test_everything_is_lost_and_comes_back(kind, tmp_path, monkeypatch):
    import mlflow

    runs, variables, users = CASES[kind]
    runs = int(os.environ.get("MLOPS_RUNS", runs))
    instance = Instance(tmp_path, f"{PREFIX}-{kind}", variables, users)
    for name, value in instance.environment.items():
        monkeypatch.setenv(name, value)
    try:
        instance.play("site.yml", "--tags", "images,object_storage", host=instance.store)
        instance.play("site.yml")
        before = str(tmp_path / "before.json")
        instance.contents("fill", str(runs))
        instance.contents("read", before)
        assert len(json.loads(pathlib.Path(before).read_text())) > runs
        instance.play("backup.yml", "-e", "mlflow_verify_backup=false")

        with instance.opened():
            mlflow.set_tracking_uri(instance.url)
            clients = Clients(instance.url)
            with clients:
                time.sleep(5)
                begun = time.time()
                instance.play("backup.yml")
            assert not clients.failures, clients.failures[:3]

        instance.play("uninstall.yml", "-e", "mlflow_purge_data=true")
        assert not left(instance), left(instance)

        text = " ".join(instance.play("restore.yml").split())
        assert " is restored: " in text
        instance.contents("compare", before)
        with instance.opened():
            clients.check(begun, in_the_backup(instance))
            assert clients.one() in clients.there()  # a client continues
        assert "changed=0" in instance.play("site.yml")
    finally:
        instance.remove()


def in_the_backup(instance: Instance) -> int:
    """Runs of the clients in the second backup, by the rows that the first one does not have."""
    (instance.folder / "list.yml").write_text(yaml.safe_dump([{
        "hosts": "all", "gather_facts": False, "tasks": [
            {"mlops.mlflow.mlflow_backup_info": {}, "register": "found"},
            {"ansible.builtin.copy": {"content": "{{ found.backups | to_json }}",
                                      "dest": str(instance.folder / "backups.json"), "mode": "0600"}}]}]))
    subprocess.run(["ansible-playbook", "-i", instance.folder / "hosts.yml", "--limit", instance.name,
                    instance.folder / "list.yml"], cwd=ROOT, env=ENVIRONMENT, check=True, capture_output=True)
    found = json.loads((instance.folder / "backups.json").read_text())
    first, second = [entry for entry in found if entry["kind"] == "manual"]
    assert second["verified"] and second["complete"], second
    return second["counts"]["runs"] - first["counts"]["runs"]


def left(instance: Instance) -> list[str]:
    """Volumes, pods and Secrets of the instance that was deleted."""
    if ENGINE == "podman":
        names = []
        for kind in ("volume", "pod", "secret"):
            done = subprocess.run(["podman", kind, "ls", "--format", "{{.Name}}"], capture_output=True, text=True,
                                  check=True)
            names += done.stdout.split()
    else:
        done = subprocess.run(["kubectl", "--namespace", instance.name, "get", "pods,pvc,secrets", "--output", "name"],
                              capture_output=True, text=True, check=True)
        names = [name.partition("/")[2] for name in done.stdout.split()]
    mine = [name for name in names if name.startswith(instance.name) or f".{instance.name}-" in name]
    return [name for name in mine if instance.store not in name]
