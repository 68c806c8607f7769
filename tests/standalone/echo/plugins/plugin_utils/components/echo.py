# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A page with a text."""

from __future__ import annotations

from dataclasses import dataclass

from ansible_collections.mlops.mlflow.plugins.plugin_utils.components.base import Component, Network
from ansible_collections.mlops.mlflow.plugins.plugin_utils.program import Probe


@dataclass(frozen=True)
class EchoPart:
    """What the component's template reads.

    Attributes:
        name: of all its objects.
        port: of the pods and the Service.
        image: any that has Python.
    """

    name: str
    port: int
    image: str


class Echo(Component):
    name = "echo"
    role = "echo"
    title = "The echo"
    needs = ("mlflow_server",)

    def resolve(self, v, model):
        return EchoPart(f"{model.instance.name}-echo", 8000, model.mlflow_server.image)

    def check(self, v, model):
        if not 1 <= len(v.echo_text) <= 100:
            yield f"echo_text has {len(v.echo_text)} characters; it must have 1 to 100."

    def templates(self, v, model):
        return ["echo.yaml.j2"]

    def network(self, v, model):
        return Network(ingress=[{"from": [{"podSelector": {"matchLabels": model.instance.labels}}],
                                 "ports": [{"port": model.echo.port, "protocol": "TCP"}]}])

    def probes(self, v, model):
        return [Probe(self.role, self.title, "roles/echo/files/probe.py",
                      {"url": f"http://{model.echo.name}:{model.echo.port}/", "text": v.echo_text})]

    def status(self, v, model, report):
        return [f"shows {report['text']}"] if "text" in report else []
