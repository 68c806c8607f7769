# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reports on the database and the artifacts of an instance, and cleans. Documented in
plugins/modules/mlflow_maintenance.py."""

from __future__ import annotations

import re
import time

from ansible_collections.mlops.mlflow.plugins.plugin_utils import backups, components, render, templating
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engine_action import EngineAction
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines import EngineError
from ansible_collections.mlops.mlflow.plugins.plugin_utils.manifests import Ref

TASKS = ("vacuum", "reindex", "gc")
KINDS = {"runs": "runs", "models": "logged models", "experiments": "experiments"}
"""What gc removes, in the report and in words."""
SENTENCE = re.compile(r"maintain: (.*)")
SHOWN = 10
"""Most names in a line of the report."""


class ActionModule(EngineAction):
    """Runs maintain.py in a Job."""

    OPTIONS = {"tasks": {"type": "list", "elements": "str", "choices": list(TASKS), "default": ["vacuum", "reindex"]},
               "older_than_days": {"type": "int", "default": 30}, "timeout": {"type": "int", "default": 3600}}

    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        _result, options = self.validate_argument_spec(self.OPTIONS)
        model = self.resolve(task_vars)
        if options["older_than_days"] < 0:
            raise templating.Failure(f"mlflow_maintain_older_than_days is {options['older_than_days']}; it must be at"
                                     " least 0.")
        settings = {"tasks": options["tasks"], "older_than_seconds": options["older_than_days"] * 86400,
                    "dry_run": self._task.check_mode}
        component = components.by_role("mlflow_server")
        with self.engine_of(model.instance, ("mlflow_server",)) as engine:
            wanted = Ref("", "ConfigMap", model.instance.namespace, model.mlflow_server.name)
            found = engine.read({wanted}, set()).get(wanted)
            if not found or "maintain.py" not in (found.get("data") or {}):
                raise templating.Failure(f"Instance {model.instance.name} has no programs for maintenance yet; run"
                                         " playbooks/site.yml first.")
            job = render.render_one(component, model, engine.scope.labels(component.name), "maintain.yaml.j2",
                                    maintenance={"settings": settings, "timeout": options["timeout"]})
            try:
                log = engine.run_job(job, time.monotonic() + options["timeout"])
            except EngineError as error:
                sentence = SENTENCE.search(str(error))
                raise templating.Failure(sentence.group(1) if sentence else str(error)) from None
        report = backups.parse(log)
        changed = bool(report["done"]) or self._task.check_mode and bool(
            options["tasks"] and ("vacuum" in options["tasks"] or _would_change(report, options["tasks"])))
        return {"changed": changed, "report": report, "lines": lines(report)}


def _would_change(report: dict, tasks: list[str]) -> bool:
    broken = report["indexes"]["missing"] + report["indexes"]["invalid"]
    return bool("reindex" in tasks and broken or "gc" in tasks and any(report["gc"][kind] for kind in KINDS))


def lines(report: dict) -> list[str]:
    """The report in sentences."""
    database, orphans, gc = report["database"], report["orphans"], report["gc"]
    found = [f"The database has {_mib(database['bytes'])}"
             + (f", of which {_mib(database['free_bytes'])} are free." if database["free_bytes"] else ".")]
    for table in database["tables"][:5]:
        dead = f", {table['dead_rows']} dead" if table.get("dead_rows") else ""
        found.append(f"  {table['name']}: {_mib(table['bytes'])}, about {table['rows']} rows{dead}")
    found += _named("Indexes that are missing", report["indexes"]["missing"])
    found += _named("Indexes that are not used, since they were not built to their end", report["indexes"]["invalid"])
    for kind, words in KINDS.items():
        found += _named(f"Deleted {words} that gc removes", gc[kind])
    found += _named("Deleted runs and models that stay, since a registered version is from them",
                    [f"{each} ({', '.join(names)})" for each, names in gc["spared"].items()])
    found += _named("What could not be removed", gc.get("failed", []))
    found += _named("Folders of artifacts without rows", orphans["folders"], orphans.get("count"))
    found += _named("Registered versions without artifacts", orphans["versions"])
    if orphans["reason"]:
        found.append(f"Folders of artifacts: {orphans['reason']}.")
    found += [f"Done: {what}." for what in report["done"]]
    if "database_after" in report:
        found.append(f"The database has {_mib(report['database_after']['bytes'])} now.")
    return found


def _named(what: str, names: list[str], count: int | None = None) -> list[str]:
    if not names:
        return []
    number = len(names) if count is None else count
    more = f" and {number - SHOWN} more" if number > SHOWN else ""
    return [f"{what}: {', '.join(names[:SHOWN])}{more}."]


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
