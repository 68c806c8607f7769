# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Writes the inventory that means the same as a Helm release. Documented in
plugins/modules/helm_release_inventory.py."""

from __future__ import annotations

import pathlib

from ansible_collections.mlops.mlflow.plugins.plugin_utils import engines, model, templating
from ansible_collections.mlops.mlflow.plugins.plugin_utils.adoption import charts, cluster, inventory
from ansible_collections.mlops.mlflow.plugins.plugin_utils.adoption.release import ReleaseError
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engine_action import EngineAction
from ansible_collections.mlops.mlflow.plugins.plugin_utils.model import common


class ActionModule(EngineAction):
    """Reads a release, and writes files on the controller."""

    _requires_connection = False
    OPTIONS = {
        "release": {"type": "str", "required": True},
        "namespace": {"type": "str", "required": True},
        "instance": {"type": "str"},
        "path": {"type": "path", "required": True},
        "secrets": {"type": "str", "choices": ["cluster", "variables"], "default": "cluster"},
        "overwrite": {"type": "bool", "default": False},
        "kubeconfig": {"type": "path"},
        "context": {"type": "str"},
    }

    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        options = self.plain_options()
        instance = options["instance"] or model.instance_name(options["release"])
        if not common.matches(common.DNS_LABEL, instance) or len(instance) > 37:
            raise templating.Failure(f"instance is {instance!r}; it must be a DNS label of at most 37 lower-case "
                                     "letters, digits and '-'.")
        scope = engines.Scope(options["namespace"], instance)
        try:
            with self.engine({**options, "engine": "kubernetes"}, scope) as engine:
                release = cluster.find(engine, options["release"], options["namespace"])
                adoption = cluster.adopted(engine, release, instance, options["secrets"] == "variables")
        except ReleaseError as error:
            raise templating.Failure(str(error)) from None
        texts = inventory.files(adoption, options["kubeconfig"] or "", options["context"] or "")
        folder = pathlib.Path(options["path"]).expanduser()
        changed = self._differing(folder, texts)
        foreign = [name for name in changed if (folder / name).exists()]
        if foreign and not options["overwrite"]:
            raise templating.Failure(f"{folder / foreign[0]} exists and is another one; move it away, give another "
                                     "folder, or overwrite it by mlflow_adopt_overwrite=true.")
        if changed and not self._task.check_mode:
            inventory.write(folder, texts)
        return {
            "changed": bool(changed), "path": str(folder), "files": sorted(texts), "instance": instance,
            "chart": charts.of(release).NAME, "chart_version": release.version,
            "mlflow_version": adoption.variables.get("mlflow_version", ""),
            "lines": [f"{'DATA stays behind' if finding.data else 'Not taken over'}: {finding.option}:"
                      f" {finding.instead}" for finding in sorted(adoption.findings, key=lambda one: not one.data)],
            "not_taken_over": [{"option": finding.option, "instead": finding.instead, "data": finding.data}
                               for finding in adoption.findings],
        }

    def _differing(self, folder: pathlib.Path, texts: dict[str, str]) -> list[str]:
        """The files that are to be written."""
        return [name for name, text in texts.items()
                if not (folder / name).exists() or (folder / name).read_text(encoding="utf-8") != text]
