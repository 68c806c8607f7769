# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Times runs that change nothing, beside kubernetes.core.k8s and helm, on the cluster of KUBECONFIG."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import os
import pathlib
import re
import secrets
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Callable

import kubernetes
import yaml
from common import ENVIRONMENT, PLAYS, ROOT, Failed, heading, run, say, table, timed, version

FLEETS = (1, 10, 50)
NO_HELM = "no `helm` on PATH and no helm_sdkpy in the Python of --helm-python; README.md tells where both are to be had"
SDK = """
import asyncio, sys, time
from helm_sdkpy import Configuration, Install, Upgrade
action, chart, namespace, kubeconfig = sys.argv[1:]
async def main():
    run = {"install": Install, "upgrade": Upgrade}[action](Configuration(namespace=namespace, kubeconfig=kubeconfig))
    begun = time.perf_counter()
    await run.run("bench", chart, wait=False)
    print(time.perf_counter() - begun)
asyncio.run(main())
"""


@dataclasses.dataclass
class Case:
    """One thing to be timed; ``inside`` reads from its output the seconds that it measured itself."""

    name: str
    argv: list
    env: dict = dataclasses.field(default_factory=dict)
    inside: Callable[[str], float] | None = None
    seconds: list = dataclasses.field(default_factory=list)
    processor: list = dataclasses.field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def play(playbook: pathlib.Path, inventory, *more) -> list:
    return ["ansible-playbook", "--inventory", inventory, playbook, *more]


def unchanged(output: str) -> bool:
    return not re.search(r"changed=[1-9]", output)


class Bench:
    """Namespaces of its own on the cluster, and what is timed in them."""

    def __init__(self, options: argparse.Namespace, folder: pathlib.Path):
        self.options, self.folder = options, folder
        kubernetes.config.load_kube_config()
        self.api = kubernetes.client.CoreV1Api()
        self.prefix = f"mlops-benchmark-{secrets.token_hex(3)}"
        self.left_out: list[str] = []
        self.cases: dict[str, Case] = {}
        self.modules: list[str] = []

    def namespace(self, name: str) -> str:
        name = f"{self.prefix}-{name}"
        self.api.create_namespace({"metadata": {"name": name}})
        return name

    def inventory(self, name: str, hosts: list[str]) -> pathlib.Path:
        path = self.folder / f"{name}.yml"
        common = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        path.write_text(yaml.safe_dump({"all": {"hosts": {host: {} for host in hosts}, "vars": common}}), encoding="utf-8")
        return path

    def add(self, key: str, name: str, argv: list, inside: Callable[[str], float] | None = None, **env: str) -> None:
        self.cases[key] = Case(name, argv, {**ENVIRONMENT, "ENABLE_TURBO_MODE": "false", **env}, inside)

    def prepare(self) -> None:
        """Make each case's objects, which is its warm-up too, and make sure that a second run changes nothing."""
        instances = [f"{self.prefix}-{number}" for number in range(1, max(self.options.instances) + 1)]
        one = self.inventory("one", instances[:1])
        self.add("nothing", "a play without a task", play(PLAYS / "nothing.yml", one))
        self.add("task", "a task that does nothing", play(PLAYS / "task.yml", one))
        for count in self.options.instances:
            fleet = self.inventory(f"instances-{count}", instances[:count])
            if count > 1:
                self.add(f"task {count}", f"a task that does nothing, {count} instances", play(PLAYS / "task.yml", fleet))
            self.add(f"apply {count}", f"apply, {count} instance{'s' if count > 1 else ''} of ten objects", play(PLAYS / "apply.yml", fleet))
        self.add("k8s", "kubernetes.core.k8s, the ten objects", play(PLAYS / "k8s.yml", self.inventory("k8s", [self.namespace("k8s")])))
        self.prepare_helm()
        if self.options.site:
            self.prepare_site()
        for case in self.cases.values():
            say(f"Warming up: {case.name}")
            run(case.argv, env=case.env)
            if not unchanged(run(case.argv, env=case.env)):
                raise Failed(f"Not measured, since its second run changes something: {case.name}")

    def prepare_helm(self) -> None:
        helm = shutil.which("helm")
        python = self.options.helm_python
        sdk = python and subprocess.run([python, "-c", "import helm_sdkpy"], capture_output=True, check=False).returncode == 0
        if not helm and not sdk:
            self.left_out.append(f"helm upgrade: {NO_HELM}.")
            return
        chart = self.folder / "chart"
        (chart / "templates").mkdir(parents=True)
        (chart / "Chart.yaml").write_text("apiVersion: v2\nname: bench\nversion: 1.0.0\n", encoding="utf-8")
        rendered = self.folder / "rendered.yaml"
        run(["ansible", "localhost", "-m", "ansible.builtin.template", "-a", f"src={PLAYS / 'objects.yaml.j2'} dest={rendered}"])
        for obj in filter(None, yaml.safe_load_all(rendered.read_text(encoding="utf-8"))):
            name = f"{obj['kind']}-{obj['metadata']['name']}.yaml".lower()
            (chart / "templates" / name).write_text(yaml.safe_dump(obj), encoding="utf-8")
        if helm:
            release = ["bench", chart, "--namespace", self.namespace("helm"), "--timeout", "60s"]
            say("Installing the chart")
            run([helm, "install", *release])
            self.add("helm", "helm upgrade, the ten objects", [helm, "upgrade", *release])
            self.add("helm wait", "helm upgrade --wait, the ten objects", [helm, "upgrade", *release, "--wait"])
        if sdk:
            where = [chart, self.namespace("sdk"), os.environ["KUBECONFIG"]]
            say("Installing the chart by helm-sdkpy")
            run([python, "-c", SDK, "install", *where])
            self.add("sdk", "helm-sdkpy's Upgrade, the ten objects", [python, "-c", SDK, "upgrade", *where])
            self.add("sdk inside", "  of it the call alone", [python, "-c", SDK, "upgrade", *where], inside=float)

    def prepare_site(self) -> None:
        site = ROOT / "playbooks" / "site.yml"
        parts = ["--tags", "object_storage,database,mlflow_server"]
        say(f"Asking whether {self.options.site} is deployed")
        if not unchanged(run(play(site, self.options.site, "--check", *parts))):
            raise Failed(f"What {self.options.site} says is not what runs; deploy it first: make quickstart INVENTORY={self.options.site}")
        self.add("roles", "the roles' three applies", play(site, self.options.site, *parts))
        self.add("site", "the whole of site.yml", play(site, self.options.site))

    def count_modules(self) -> None:
        notes = self.folder / "modules"
        notes.touch()
        run(play(ROOT / "playbooks" / "site.yml", self.options.site),
            env={**ENVIRONMENT, "ANSIBLE_CALLBACK_PLUGINS": str(PLAYS), "ANSIBLE_CALLBACKS_ENABLED": "modules_counted",
                 "BENCHMARK_MODULES": str(notes)})
        self.modules = notes.read_text(encoding="utf-8").split()

    def measure(self) -> None:
        """Each case once a round, so that what slows the machine for a while slows all alike."""
        for number in range(1, self.options.repeat + 1):
            for case in self.cases.values():
                seconds, processor, output = timed(case.argv, env=case.env)
                case.processor.append(processor)
                case.seconds.append(case.inside(output) if case.inside else seconds)
                say(f"Round {number} of {self.options.repeat}: {case.seconds[-1]:6.2f} s  {case.name}")
        if self.options.site:
            self.count_modules()

    def clean(self) -> None:
        names = [item.metadata.name for item in self.api.list_namespace().items if item.metadata.name.startswith(self.prefix + "-")]
        say(f"Removing {len(names)} namespaces")
        for name in names:
            self.api.delete_namespace(name)
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            names = [item.metadata.name for item in self.api.list_namespace().items if item.metadata.name.startswith(self.prefix + "-")]
            if not names:
                return
            time.sleep(2)
        say(f"Still being removed by the cluster: {', '.join(names)}")

    def report(self) -> None:
        cluster = kubernetes.client.VersionApi().get_code().git_version
        kubernetes_core = json.loads(run(["ansible-galaxy", "collection", "list", "kubernetes.core", "--format", "json"]))
        cores = next(found["kubernetes.core"]["version"] for found in kubernetes_core.values() if "kubernetes.core" in found)
        heading(f"Kubernetes {cluster}", version("ansible-core"), f"kubernetes.core {cores}",
                *([f"helm {run(['helm', 'version', '--short']).strip()}"] if "helm" in self.cases else []),
                *([self.sdk_version()] if "sdk" in self.cases else []))
        table([f"median of {self.options.repeat}, nothing changes", "s", "least", "most", "processor s"],
              [[case.name, *(f"{value:.2f}" for value in (case.median, min(case.seconds), max(case.seconds), statistics.median(case.processor)))]
               for case in self.cases.values()])
        table(["compared", "s", "to s", "ratio"],
              [[name, f"{a:.2f}", f"{b:.2f}", f"{a / b:.2f}" if b > 0 else "-"] for name, a, b in self.ratios()])
        for number in self.options.instances[1:]:
            each, idle = ((self.cases[f"{key} {number}"].median - first.median) / (number - 1)
                          for key, first in (("apply", self.cases["apply 1"]), ("task", self.cases["task"])))
            print(f"From 1 to {number} instances, each further one costs {each:.3f} s; {idle:.3f} s of it is Ansible's, for a task that does nothing.")
        if self.options.site:
            kinds = ", ".join(f"{count} {name}" for name, count in collections.Counter(self.modules).most_common()) or "none"
            print(f"Module processes in the whole of site.yml: {len(self.modules)} ({kinds}); at most ten are aimed at.")
        for text in self.left_out:
            print(f"Left out: {text}")

    def sdk_version(self) -> str:
        return run([self.options.helm_python, "-c", "from importlib.metadata import version; print('helm-sdkpy', version('helm-sdkpy'))"]).strip()

    def ratios(self):
        """Name of what is compared, the one, the other."""
        median = {key: case.median for key, case in self.cases.items()}
        task, ten = median["task"], median["apply 1"]
        one = max(ten - task, 0.001)
        yield "one apply beyond an empty task, to the 0.3 s that are aimed at", one, 0.3
        yield "play with one apply, to play with an empty task", ten, task
        yield "kubernetes.core.k8s, to apply: whole plays", median["k8s"], ten
        yield "kubernetes.core.k8s, to apply: each beyond an empty task", median["k8s"] - task, one
        for key in ("helm", "helm wait", "sdk", "sdk inside"):
            if key in median:
                name = self.cases[key].name.strip().removesuffix(", the ten objects").replace("of it the call", "helm-sdkpy's call")
                yield f"{name}, to apply: whole plays", median[key], ten
                yield f"{name}, to apply beyond an empty task", median[key], one
        for count in self.options.instances[1:]:
            for key, command in (("helm", "helm upgrade"), ("helm wait", "helm upgrade --wait")):
                if key in median:
                    yield f"{count} x {command}, to apply for {count} instances", count * median[key], median[f"apply {count}"]
        if "site" in median:
            yield "the roles' three applies, to play with an empty task", median["roles"], task
            yield "the whole of site.yml, to play with an empty task", median["site"], task


def main() -> None:
    parser = argparse.ArgumentParser(prog="converge", description=__doc__)
    parser.add_argument("--repeat", type=int, default=5, help="rounds, of which each line's median is shown (%(default)s)")
    parser.add_argument("--instances", type=int, nargs="+", default=list(FLEETS), help="sizes of the fleet, beginning with 1 (%(default)s)")
    parser.add_argument("--site", metavar="INVENTORY", help="also time the roles and site.yml on this inventory, which is deployed already")
    parser.add_argument("--helm-python", metavar="PYTHON", default=sys.executable, help="a Python that has helm-sdkpy (this one)")
    options = parser.parse_args()
    if options.instances[0] != 1:
        parser.error("--instances begins with 1, to which all else is compared")
    if not os.environ.get("KUBECONFIG"):
        sys.exit("KUBECONFIG names no cluster to measure on; set it to one where namespaces may be made and removed.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Stopped."))
    with tempfile.TemporaryDirectory(prefix="mlops-benchmark-") as folder:
        bench = Bench(options, pathlib.Path(folder))
        try:
            bench.prepare()
            bench.measure()
            bench.report()
        finally:
            bench.clean()


if __name__ == "__main__":
    try:
        main()
    except (Failed, kubernetes.config.ConfigException, KeyboardInterrupt) as error:
        sys.exit(str(error) or "Stopped.")
