# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bytes and seconds in which Chromium loads the user interface over a slow connection, through the collection's proxy
with and without compression, with an empty cache and again with what it has kept. The instance has two replicas."""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import sys
import time
import urllib.request

import yaml
from common import ROOT, Failed, check_free, heading, in_a_folder, log, podman, program, run, table

sys.path.insert(0, str(ROOT / "molecule/shared"))
from chromium import Chromium  # noqa: E402

HOST = "mlflow.benchmark.test"
EXPERIMENT = "seen-in-the-user-interface"
TIMEOUT = 180


class Browser(Chromium):
    """Counts what comes over the network, at a limited rate.

    Args:
        ca_file: certificate of the CA of the ingress.
        address: address of the host.
        rate: Mbit/s in both directions.
        latency: milliseconds that each answer takes at least.
    """

    def __init__(self, ca_file: pathlib.Path, address: str, rate: float, latency: float) -> None:
        self.bytes = self.requests = 0
        self.from_cache: set[str] = set()
        super().__init__(None, str(ca_file), HOST, address)
        self.call("Network.enable")
        self.call("Page.enable")
        throughput = rate * 1e6 / 8
        self.call("Network.emulateNetworkConditions", offline=False, latency=latency, downloadThroughput=throughput,
                  uploadThroughput=throughput)

    def event(self, method, parameters):
        if method == "Network.requestServedFromCache":
            self.from_cache.add(parameters["requestId"])
        elif method == "Network.responseReceived" and parameters["response"].get("fromDiskCache"):
            self.from_cache.add(parameters["requestId"])
        elif method == "Network.loadingFinished" and parameters["requestId"] not in self.from_cache:
            self.requests += 1
            self.bytes += int(parameters["encodedDataLength"])

    def load(self, url: str, word: str) -> dict[str, float]:
        """Open a page that is not open.

        Args:
            url: of the page.
            word: text that it shows when a user can work with it.

        Returns:
            requests that went over the network, their MB as transferred, seconds until the word is there.
        """
        self.call("Page.navigate", url="about:blank")
        time.sleep(0.5)
        self.bytes = self.requests = 0
        begun = time.monotonic()
        self.send("Page.navigate", url=url)
        while word not in self.text():
            if time.monotonic() - begun > TIMEOUT:
                raise Failed(f"{url} does not show {word!r} within {TIMEOUT} s, but: {self.text()[:500]}")
            time.sleep(0.05)
        seconds = time.monotonic() - begun
        self.settle()
        return {"requests": self.requests, "MB": self.bytes / 1e6, "seconds": seconds}

    def settle(self) -> None:
        """Wait until nothing arrives for a second, so that all bytes of the page are counted."""
        before = -1
        while self.bytes != before:
            before = self.bytes
            time.sleep(1)
            self.text()


class Bench:
    """An instance with two replicas behind the proxy."""

    def __init__(self, options: argparse.Namespace, folder: pathlib.Path) -> None:
        self.options = options
        self.inventory, self.ca_file = folder / "hosts.yml", folder / "ca.crt"
        self.address = f"127.0.0.1:{options.port}"
        self.url = f"https://{HOST}:{options.port}"

    def deploy(self, compression: bool, *arguments: str) -> None:
        """Run site.yml."""
        variables = {
            "ansible_connection": "local", "ansible_python_interpreter": sys.executable, "mlflow_engine": "podman",
            "mlflow_image_source": "build", "mlflow_server_replicas": 2, "mlflow_server_workers": 1,
            "mlflow_server_publish": f"127.0.0.1:{self.options.port + 1}",
            "ingress_type": "proxy", "ingress_hosts": [HOST], "ingress_tls": "self_signed",
            "ingress_publish": self.address, "ingress_compression": compression,
            "ingress_ca_dest": str(self.ca_file)}
        self.inventory.write_text(yaml.safe_dump({"all": {"hosts": {self.options.instance: variables}}}),
                                  encoding="utf-8")
        run(["ansible-playbook", "--inventory", self.inventory, "playbooks/site.yml", *arguments])

    def post(self, path: str, body: dict) -> dict:
        """Call MLflow's API past the proxy."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.options.port + 1}/api/2.0/mlflow/{path}",
                                         json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def pages(self) -> dict[str, tuple[str, str]]:
        """URL of each page and the word that it shows, after making what they show."""
        experiment = self.post("experiments/create", {"name": EXPERIMENT})["experiment_id"]
        created = self.post("runs/create", {"experiment_id": experiment, "run_name": f"run-{EXPERIMENT}"})
        run_id = created["run"]["info"]["run_id"]
        for step in range(100):
            self.post("runs/log-metric", {"run_id": run_id, "key": "loss", "value": 1 / (step + 1), "step": step,
                                          "timestamp": step})
        return {"experiments": (f"{self.url}/#/experiments", EXPERIMENT),
                "a run": (f"{self.url}/#/experiments/{experiment}/runs/{run_id}", f"run-{EXPERIMENT}")}

    def etags(self) -> list[str]:
        """The ETag that each replica sends for the page."""
        labels = {"app.kubernetes.io/instance": self.options.instance, "app.kubernetes.io/component": "server",
                  "mlops.mlflow/role": "main"}
        filters = [part for key, value in labels.items() for part in ("--filter", f"label={key}={value}")]
        program = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:5000/').headers['ETag'])"
        return [podman("exec", container, "python3", "-c", program)
                for container in podman("ps", "--format", "{{.Names}}", *filters).split()]

    def compare(self) -> None:
        log("Deploying an instance with two replicas")
        self.deploy(True)
        pages = self.pages()
        figures: dict[tuple, list[dict]] = {}
        for number in range(1, self.options.rounds + 1):
            for compression in (False, True):
                self.deploy(compression, "--tags", "ingress")
                for page, (url, word) in pages.items():
                    browser = Browser(self.ca_file, "127.0.0.1", self.options.rate, self.options.latency)
                    try:
                        for cache in ("cold", "warm"):
                            found = browser.load(url, word)
                            figures.setdefault((page, cache, compression), []).append(found)
                            log(f"Round {number} of {self.options.rounds}: {page}, {cache}, compression "
                                f"{'on' if compression else 'off'}: {found['requests']:.0f} requests, "
                                f"{found['MB']:.2f} MB, {found['seconds']:.1f} s")
                    finally:
                        browser.close()
        log(f"ETags of the page, of each replica: {' '.join(self.etags())}")
        self.print(figures)

    def print(self, figures: dict[tuple, list[dict]]) -> None:
        """Medians, and what compression makes of them."""
        median = {case: {column: statistics.median(each[column] for each in listed) for column in listed[0]}
                  for case, listed in figures.items()}
        heading("chromium " + run(["chromium", "--version"]).split()[1],
                f"podman {podman('version', '--format', '{{.Client.Version}}')}")
        title = f"{self.options.rate:g} Mbit/s, {self.options.latency:g} ms, median of {self.options.rounds}"
        table([title, "requests", "MB", "seconds"],
              [[f"{page}, {cache} cache, {'compressed' if compression else 'not compressed'}",
                f"{row['requests']:.0f}", f"{row['MB']:.2f}", f"{row['seconds']:.1f}"]
               for (page, cache, compression), row in sorted(median.items())])
        table(["ratio of compressed to not compressed", "MB", "seconds"],
              [[f"{page}, {cache} cache", *(f"{median[page, cache, True][column] / plain[column]:.2f}"
                                            for column in ("MB", "seconds"))]
               for (page, cache, compression), plain in sorted(median.items()) if not compression])

    def clean(self) -> None:
        log("Removing what was made")
        if self.inventory.exists():
            run(["ansible-playbook", "--inventory", self.inventory, "playbooks/uninstall.yml", "--extra-vars",
                 '{"mlflow_purge_data": true}'])


def main() -> None:
    parser = argparse.ArgumentParser(prog="ui", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often each page is loaded (%(default)s)")
    parser.add_argument("--rate", type=float, default=10, help="Mbit/s of the connection (%(default)s)")
    parser.add_argument("--latency", type=float, default=20, help="least milliseconds of a request (%(default)s)")
    parser.add_argument("--port", type=int, default=15910, help="loopback port of the proxy; the next one is the "
                                                                "server's (%(default)s)")
    parser.add_argument("--instance", default="mlflow-benchmark-ui",
                        help="name of the instance to deploy and remove (%(default)s)")
    options = parser.parse_args()
    check_free(options.instance)
    in_a_folder(lambda folder: Bench(options, folder), Bench.compare)


if __name__ == "__main__":
    program(main)
