# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Times whole runs of site.yml that change nothing, beside as many runs of helm upgrade, on the cluster of
KUBECONFIG."""

from __future__ import annotations

import argparse
import dataclasses
import os
import pathlib
import re
import secrets
import shutil
import statistics
import sys
import time

import kubernetes
import yaml
from common import ENVIRONMENT, ROOT, Failed, heading, in_a_folder, log, program, run, table, timed, version

SITE = ROOT / "playbooks" / "site.yml"
COMPONENTS = "object_storage,database,mlflow_server,ingress"
NO_PODS = [{"target": {"kind": "Deployment"}, "patch": {"spec": {"replicas": 0}}}]
"""A patch that leaves the server without pods, so that any cluster can hold a hundred instances."""

SMALL_REQUESTS = {"mlflow_server_resources": {"requests": {"cpu": "50m", "memory": "512Mi"}}}
"""So that a node of two cores holds five servers."""
MOST_RELEASES = 10
"""Helm upgrades one release per process, so that more of them only take longer."""


@dataclasses.dataclass
class Case:
    """A number of runs of one kind: the command, run ``repeat`` times for one measurement, for ``instances``
    instances."""

    kind: str
    instances: int
    argv: list
    repeat: int = 1
    seconds: list[float] = dataclasses.field(default_factory=list)
    processor: list[float] = dataclasses.field(default_factory=list)

    def measure(self) -> None:
        """Time the command once more."""
        seconds = processor = 0.0
        for _number in range(self.repeat):
            took, used, output = timed(self.argv, env=ENVIRONMENT)
            if re.search(r"changed=[1-9]", output):
                raise Failed(f"Not measured, since a run changes something: {self.kind}, {self.instances} instances")
            seconds, processor = seconds + took, processor + used
        self.seconds.append(seconds)
        self.processor.append(processor)


def further(cases: list[Case], case: Case, values: str) -> float | None:
    """What each instance beyond the first adds, by the medians of a kind's smallest case and this one."""
    first = min((other for other in cases if other.kind == case.kind), key=lambda other: other.instances)
    if case is first:
        return None
    added = statistics.median(getattr(case, values)) - statistics.median(getattr(first, values))
    return added / (case.instances - first.instances)


class Bench:
    """Two namespaces of its own on the cluster, and what is timed in them."""

    def __init__(self, options: argparse.Namespace, folder: pathlib.Path) -> None:
        self.options, self.folder = options, folder
        kubernetes.config.load_kube_config()
        self.api = kubernetes.client.CoreV1Api()
        self.prefix = f"mlops-benchmark-{secrets.token_hex(3)}"
        self.helm = shutil.which("helm")
        self.cases: list[Case] = []

    def inventory(self, namespace: str, count: int, variables: dict) -> pathlib.Path:
        """Instances with SQLite and a volume, which need nothing else."""
        path = self.folder / f"{namespace}-{count}.yml"
        common = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable,
                  "mlflow_engine": "kubernetes",
                  "mlflow_namespace": f"{self.prefix}-{namespace}", "database_type": "sqlite",
                  "object_storage_type": "volume",
                  "mlflow_image_source": self.options.images, **variables}
        hosts = {f"bench-{number:03d}": {} for number in range(1, count + 1)}
        path.write_text(yaml.safe_dump({"all": {"hosts": hosts, "vars": common}}), encoding="utf-8")
        return path

    def add(self, kind: str, namespace: str, counts: list[int], variables: dict, tags: str) -> None:
        """Deploy as many instances as the largest case has, and add a case for each number of them."""
        for count in sorted(counts, reverse=True):
            argv = ["ansible-playbook", "--inventory", self.inventory(namespace, count, variables), SITE, "--tags",
                    tags]
            if count == max(counts):
                log(f"Deploying {count} instances: {kind}")
                run(argv, env=ENVIRONMENT)
            self.cases.append(Case(kind, count, argv))

    def prepare(self) -> None:
        """Deploy everything that is timed."""
        unverified = {"mlflow_server_patches": NO_PODS}
        self.add("site.yml, not verified", "fleet", self.options.instances, unverified, COMPONENTS)
        most = max(self.options.instances)
        self.cases.append(Case("variables alone", most, [
            "ansible-playbook", "--inventory", self.inventory("fleet", most, unverified), SITE, "--tags", "none"]))
        if self.options.verified:
            self.add("site.yml, verified", "real", self.options.verified, SMALL_REQUESTS, f"{COMPONENTS},verify")
        if self.helm:
            self.prepare_helm()

    def prepare_helm(self) -> None:
        """A chart of the objects of one instance."""
        chart, rendered = self.folder / "chart", self.folder / "rendered"
        (chart / "templates").mkdir(parents=True)
        (chart / "Chart.yaml").write_text("apiVersion: v2\nname: bench\nversion: 1.0.0\n", encoding="utf-8")
        inventory = self.inventory("helm", 1, {"mlflow_server_patches": NO_PODS, "mlflow_render_dir": str(rendered),
                                               "mlflow_render_secrets": "plain"})
        run(["ansible-playbook", "--inventory", inventory, SITE, "--tags", COMPONENTS])
        files = [path for path in sorted(rendered.rglob("wave-*/*.yaml")) if path.name != "kustomization.yaml"]
        for number, path in enumerate(files):
            # Braces in programs are no templates of Helm.
            text = path.read_text(encoding="utf-8").replace("{{", "{{ \"{{\" }}")
            (chart / "templates" / f"{number}.yaml").write_text(text, encoding="utf-8")
        release = ["bench", chart, "--namespace", f"{self.prefix}-helm"]
        log("Installing the chart")
        run([self.helm, "install", *release, "--create-namespace"])
        for count in (count for count in self.options.instances if count <= MOST_RELEASES):
            self.cases.append(Case("helm upgrade", count, [self.helm, "upgrade", *release], repeat=count))

    def measure(self) -> None:
        """Each case once a round, so that what slows the machine for a while slows all alike."""
        for number in range(1, self.options.repeat + 1):
            for case in self.cases:
                case.measure()
                log(f"Round {number} of {self.options.repeat}: {case.processor[-1]:6.2f} s of processor, "
                    f"{case.seconds[-1]:6.2f} s  "
                    f"{case.kind}, {case.instances}")

    def clean(self) -> None:
        """Remove the namespaces."""
        def mine() -> list[str]:
            return [
                item.metadata.name
                for item in self.api.list_namespace().items
                if item.metadata.name.startswith(self.prefix)
            ]

        for name in mine():
            log(f"Removing namespace {name}")
            self.api.delete_namespace(name)
        deadline = time.monotonic() + 300
        while (left := mine()) and time.monotonic() < deadline:
            time.sleep(2)
        if left:
            log(f"Still being removed by the cluster: {', '.join(left)}")

    def run(self) -> None:
        """Prepare, measure, and print the table."""
        self.prepare()
        self.measure()
        self.report()

    def report(self) -> None:
        """Print the tables."""
        cluster = kubernetes.client.VersionApi().get_code().git_version
        heading(f"Kubernetes {cluster}", version("ansible-core"),
                *([f"helm {run([self.helm, 'version', '--short']).strip()}"] if self.helm else []))
        rows = []
        kinds = list(dict.fromkeys(case.kind for case in self.cases))
        for case in sorted(self.cases, key=lambda case: (kinds.index(case.kind), case.instances)):
            row = [case.kind, str(case.instances)]
            for values in ("processor", "seconds"):
                added = further(self.cases, case, values)
                row += [f"{statistics.median(getattr(case, values)):.2f}", "" if added is None else f"{added:.2f}"]
            rows.append(row)
        table([f"median of {self.options.repeat}, nothing changes", "instances", "processor s", "each further",
               "wall s", "each further"],
              rows)
        if not self.helm:
            print("Left out: helm upgrade, since no `helm` is on PATH.")


def main() -> None:
    """Read the options, measure, and clean up."""
    parser = argparse.ArgumentParser(prog="converge", description=__doc__)
    parser.add_argument("--repeat", type=int, default=5,
                        help="rounds, of which each line's median is shown (%(default)s)")
    parser.add_argument("--instances", type=int, nargs="+", default=[1, 10, 100],
                        help="numbers of instances whose servers have no pods (%(default)s)")
    parser.add_argument("--verified", type=int, nargs="*", default=[1, 5],
                        help="numbers of instances that run and are verified; none with no number (%(default)s)")
    parser.add_argument("--images", choices=["build", "registry"], default="registry",
                        help="mlflow_image_source; build: the nodes hold the images already (%(default)s)")
    options = parser.parse_args()
    if not os.environ.get("KUBECONFIG"):
        sys.exit("KUBECONFIG names no cluster to measure on; set it to one where namespaces may be made and removed.")
    in_a_folder(lambda folder: Bench(options, folder), Bench.run)


if __name__ == "__main__":
    program(main, kubernetes.config.ConfigException)
