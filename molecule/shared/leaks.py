# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Searches for secrets of an instance where they must not be: leaks.py ENGINE NAMESPACE INVENTORY.

In the output of Ansible (verbose, with diffs) while secrets change; in the arguments of all processes meanwhile; in all
objects other than Secrets; in logs of containers; and in rendered files.
"""

from __future__ import annotations

import base64
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
from secrets import token_hex

NAME = re.compile(r"mlflow_[0-9]{14}")
"""User name of a rotated login, which is no secret although a Secret holds it."""
SITE = pathlib.Path(__file__).resolve().parents[2] / "playbooks" / "site.yml"


def output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


class Kubernetes:
    """An instance in a namespace."""

    def __init__(self, namespace: str) -> None:
        from kubernetes import config, dynamic

        self.namespace, self.api = namespace, dynamic.DynamicClient(config.new_client_from_config())

    def _get(self, api_version: str, kind: str) -> list[dict]:
        return (
            self.api.resources.get(api_version=api_version, kind=kind).get(namespace=self.namespace).to_dict()["items"]
        )

    def secrets(self) -> set[str]:
        return {base64.b64decode(value).decode(errors="replace") for secret in self._get("v1", "Secret")
                for value in (secret.get("data") or {}).values()}

    def places(self) -> dict[str, str]:
        kinds = [("v1", kind) for kind in ("ConfigMap", "Pod", "Service", "Event", "PersistentVolumeClaim")] + [
            ("batch/v1", "Job")
        ]
        kinds += [("apps/v1", kind) for kind in ("Deployment", "StatefulSet", "ReplicaSet")]
        return {f"all {kind}s": json.dumps(self._get(version, kind)) for version, kind in kinds}


class Podman:
    """An instance on this machine."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.state = pathlib.Path("/var/lib/mlops.mlflow") if not os.geteuid() else pathlib.Path(
            os.environ.get("XDG_DATA_HOME") or pathlib.Path.home() / ".local/share", "mlops.mlflow")
        if (self.state / "containers.conf").exists():
            os.environ["CONTAINERS_CONF"] = str(self.state / "containers.conf")

    def secrets(self) -> set[str]:
        root = output("podman", "info", "--format", "{{.Store.GraphRoot}}").strip()
        stored = json.loads(pathlib.Path(root, "secrets/filedriver/secretsdata.json").read_text())
        return {base64.b64decode(value).decode(errors="replace") for value in stored.values()}

    def places(self) -> dict[str, str]:
        label = f"label=mlops.mlflow/namespace={self.namespace}"
        containers = output("podman", "ps", "--all", "--quiet", "--filter", label).split()
        # Not `podman inspect`: up to 4.3 it shows variables from secrets, to users that may read the secrets anyway.
        found = {"podman ps": output("podman", "ps", "--all", "--no-trunc", "--format", "json", "--filter", label)}
        found.update(
            {
                f"podman logs {name}": subprocess.run(
                    ["podman", "logs", name], capture_output=True, text=True, check=True
                ).stderr
                for name in containers
            }
        )
        found.update({str(path): path.read_text() for path in (self.state / self.namespace).rglob("*")
                      if path.is_file() and "scratch" not in path.parts})
        return found


def arguments(seen: set[str], end: threading.Event) -> None:
    """Collect the command lines of all processes."""
    while not end.wait(0.02):
        for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
            try:
                seen.add(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
            except OSError:
                continue  # the process has ended


def run(inventory: str, *more: str) -> str:
    """The output of a run."""
    done = subprocess.run(
        ["ansible-playbook", "-vvv", "--diff", "--inventory", inventory, str(SITE), *more],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1"},
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout + done.stderr


def main(engine: str, namespace: str, inventory: str) -> None:
    instance = {"kubernetes": Kubernetes, "podman": Podman}[engine](namespace)
    seen, end = set(), threading.Event()
    watcher = threading.Thread(target=arguments, args=(seen, end))
    watcher.start()
    given = {
        name: token_hex()
        for name in (
            "database_password",
            "mlflow_server_auth_admin_password",
            "object_storage_access_key",
            "object_storage_secret_key",
        )
    }
    with tempfile.TemporaryDirectory() as folder:
        # By a file, since values on the command line are in the arguments of the process.
        variables = pathlib.Path(folder, "vars.json")
        # With an external database, since the password of the instance's own is generated and kept.
        variables.write_text(json.dumps({**given, "database_host": "database.invalid", "mlflow_server_auth": "basic"}))
        try:
            places = {
                "a run in check mode that generates secrets": run(
                    inventory, "--check", "--extra-vars", f"@{variables}"
                ),
                "a run": run(inventory),
                "a run that renders": run(inventory, "--extra-vars", f"mlflow_render_dir={folder}/rendered"),
            }
        finally:
            end.set()
            watcher.join()
        places.update({str(path): path.read_text() for path in pathlib.Path(folder, "rendered").rglob("*.yaml")})
    places.update({"arguments of processes": "\n".join(seen)}, **instance.places())
    secrets = {
        secret
        for secret in instance.secrets() | set(given.values())
        if len(secret) >= 12 and not NAME.fullmatch(secret)
    }
    assert len(secrets) > len(given), "the instance has no secrets of its own"
    leaks = [(place, secret[:4] + "…") for place, text in places.items() for secret in secrets
             if secret in text or base64.b64encode(secret.encode()).decode() in text]
    assert not leaks, leaks
    print(f"{len(secrets)} secrets found in none of {len(places)} places")


if __name__ == "__main__":
    main(*sys.argv[1:])
