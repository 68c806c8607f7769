# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Summarizes the instances of a play. Documented in plugins/modules/summary.py."""

from __future__ import annotations

from typing import Any

from ansible_collections.mlops.mlflow.plugins.plugin_utils import tables
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engine_action import ModelAction, plain

REASON = 60
"""Characters of a reason that the table shows; the whole is in the result and in the task that failed."""
COLUMNS = ("instance", "version", "healthy", "changed", "url")


class ActionModule(ModelAction):
    """Reads what the earlier tasks of all hosts registered."""

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        _ignored, _arguments = self.validate_argument_spec({})
        results = {host: outcome(task_vars["hostvars"].raw_get(host)) for host in task_vars["ansible_play_hosts_all"]}
        result.update(changed=False, results=results, table=table(results), ansible_facts={"mlflow_results": results})
        return result


def outcome(host_vars: dict) -> dict[str, Any]:
    """What came of one host's instance: instance, version, healthy (null where it was not verified), reason, changed,
    url."""
    registered = {name: plain(host_vars.get(name) or {}) for name in ("_mlflow", "_mlflow_applied", "_mlflow_health")}
    model, health = registered["_mlflow"].get("model") or {}, registered["_mlflow_health"]
    failure = plain(host_vars.get("mlflow_failure") or "")
    if not failure and not model:
        failure = "The host could not be reached."
    server = model.get("mlflow_server") or {}
    instance = model.get("instance") or {}
    return {"instance": instance.get("name") or plain(host_vars.get("inventory_hostname", "")),
            "version": instance.get("version", ""),
            "healthy": False if failure else health.get("healthy"), "reason": failure,
            "changed": bool(registered["_mlflow_applied"].get("changed")),
            "url": server.get("url") or server.get("cluster_url") or ""}


def table(results: dict[str, dict]) -> list[str]:
    """One line for each instance, below a line of headings."""
    rows = [[column.capitalize() if column != "url" else "URL" for column in COLUMNS]]
    for result in results.values():
        reason = result["reason"].splitlines()[0] if result["reason"] else ""
        reason = reason if len(reason) <= REASON else f"{reason[:REASON - 1].rstrip()}…"
        verdict = {True: "yes", False: f"NO: {reason}", None: "not verified"}[result["healthy"]]
        rows.append([result["instance"], result["version"], verdict, "yes" if result["changed"] else "no",
                     result["url"]])
    return tables.aligned(rows)
