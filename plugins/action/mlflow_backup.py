# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Makes, verifies, restores and removes backups. Documented in plugins/modules/mlflow_backup.py."""

from __future__ import annotations

from ansible_collections.mlops.mlflow.plugins.module_utils import sealed
from ansible_collections.mlops.mlflow.plugins.plugin_utils import backups, deployed, templating
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engine_action import EngineAction
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines import Engine
from ansible_collections.mlops.mlflow.plugins.plugin_utils.model import Model

COMMANDS = ("create", "verify", "prune", "keys", "restore", "promote", "revert", "finish", "settle", "target",
            "rehearse", "state", "prepopulate", "downgrade")


class ActionModule(EngineAction):
    """Runs one command of backup.py in a Job."""

    OPTIONS = {
        "command": {"type": "str", "choices": list(COMMANDS), "default": "create"},
        "set": {"type": "str", "default": "latest"},
        "source": {"type": "str", "default": ""},
        "kind": {"type": "str", "default": "manual"},
        "moment": {"type": "str", "default": ""},
        "verify": {"type": "bool", "default": False},
        "portable": {"type": "bool", "default": False},
        "empty": {"type": "bool", "default": False},
    }

    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        _result, options = self.validate_argument_spec(self.OPTIONS)
        model, command = self.resolve(task_vars), options["command"]
        with self.engine_of(model.instance, ("backup",)) as engine:
            if self._task.check_mode and command not in ("prune", "keys", "target", "state"):
                backups.refuse_undeployed(engine, model)
                if options["moment"]:
                    backups.moment(model, options["moment"])
                return {"changed": True}
            return getattr(self, f"_{command}", self._simple)(engine, model, options)

    def _simple(self, engine: Engine, model: Model, options: dict) -> dict:
        return {"changed": True, **backups.run(engine, model, options["command"])}

    def _create(self, engine: Engine, model: Model, options: dict) -> dict:
        kind, recover = options["kind"], []
        if options["moment"]:
            kind, recover = "moment", [f"--moment={backups.moment(model, options['moment'])}"]
        arguments = [f"--kind={kind}", *recover, *_switches(options, "verify", "portable")]
        # Rows of a portable dump are read by backup.py itself.
        modes = [*(["recover"] if recover else []), *([] if options["portable"] else ["dump"]),
                 *(["drill"] if options["verify"] else [])]
        found = backups.run(engine, model, "create", arguments, modes)
        summary = backups.summary({**found["set"], "verified": found.get("verified")}) if found["set"] else None
        return {"changed": True, "backup": summary, "removed": found["removed"], "locked": found["locked"]}

    def _verify(self, engine: Engine, model: Model, options: dict) -> dict:
        return {"changed": True, **backups.run(engine, model, "verify", _chosen(options))}

    def _rehearse(self, engine: Engine, model: Model, options: dict) -> dict:
        """The rehearsal of an upgrade to the version of the model, also in sentences."""
        found = backups.run(engine, model, "rehearse", _chosen(options))["rehearsal"]
        # PostgreSQL's migration is one transaction, and old servers work on while it runs. With the others, one that
        # breaks off leaves a schema between the two, so that nothing must be written that a restore would lose.
        closed = model.mlflow_server.database.type != "postgresql" or not found["downgrade"]["possible"]
        return {"changed": True, "rehearsal": found, "closed": closed,
                "lines": backups.rehearsal_lines(found, closed)}

    def _state(self, engine: Engine, model: Model, options: dict) -> dict:
        found = backups.run(engine, model, "state", _chosen(options))
        return {"changed": False, "backup": backups.summary(found.pop("set")), **found}

    def _downgrade(self, engine: Engine, model: Model, options: dict) -> dict:
        return {"changed": True, **backups.run(engine, model, "downgrade", _chosen(options))}

    def _prune(self, engine: Engine, model: Model, options: dict) -> dict:
        found = backups.run(engine, model, "prune", ["--dry-run"] if self._task.check_mode else [])
        return {"changed": bool(found["removed"]), **found}

    def _restore(self, engine: Engine, model: Model, options: dict) -> dict:
        found = backups.run(engine, model, "restore", [*_chosen(options), *_switches(options, "empty")])
        return {"changed": True, "backup": backups.summary(found["set"]), "artifacts": found["artifacts"]}

    def _settle(self, engine: Engine, model: Model, options: dict) -> dict:
        """After a restore that was interrupted, keep the database that users had last: the one from before while the
        server is still closed by that restore, else the restored one, to which they have written since."""
        workload = deployed.ref(model)
        command = "revert" if deployed.restoring(engine.read({workload}, set()), model) else "finish"
        return {"changed": True, **backups.run(engine, model, command)}

    def _target(self, engine: Engine, model: Model, options: dict) -> dict:
        """What a migration must know of the stores of the model, and whether those can be filled that exist."""
        live = engine.read({deployed.ref(model)}, set())
        if not live:
            raise templating.Failure(f"Instance {model.instance.name} is not deployed; run playbooks/site.yml first.")
        others = deployed.other_stores(live, model)
        result = {"changed": False, "others": others, "interrupted": deployed.restoring(live, model), "looked_at": []}
        # Those that the collection runs are made later, and an identity of the pod is not there before.
        backend, store = model.mlflow_server.database, model.mlflow_server.artifact_store
        exist = {"database": backend.secret and not backend.service and not backend.proxy and not model.database.cluster
                 and not model.variables.database_external_secret,
                 "artifacts": store.secret and not store.service and store.type != "uri"
                 and not model.variables.object_storage_external_secret}
        looked_at = [name for name in others if exist[name]]
        if looked_at:
            arguments = [f"--stores={','.join(looked_at)}", *(["--dry-run"] if self._task.check_mode else []),
                         *(["--create-bucket"] if store.bucket_settings.get("create") else [])]
            backups.run(engine, model, "target", arguments, described=True)
        return {**result, "looked_at": looked_at}

    def _keys(self, engine: Engine, model: Model, options: dict) -> dict:
        """The keys of a set, decrypted where the instance's own are others."""
        found = backups.run(engine, model, "keys", _chosen(options))
        summary, passphrase = backups.summary(found["set"]), model.variables.backup_passphrase
        result = {"changed": False, "backup": summary, "differing": found["differing"], "values": {}}
        if not found["sealed"] or not passphrase:
            return result
        try:
            result["values"] = sealed.unseal(passphrase, found["sealed"])
        except sealed.WrongPassphraseError:
            raise templating.Failure(
                f"backup_passphrase is not the one with which backup {summary['id']} was made; give that one, or "
                "leave it empty to restore without the keys."
            ) from None
        return result


def _switches(options: dict, *names: str) -> list[str]:
    return [f"--{name}" for name in names if options[name]]


def _chosen(options: dict) -> list[str]:
    return [f"--set={options['set']}", *([f"--source={options['source']}"] if options["source"] else [])]
