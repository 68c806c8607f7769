# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The order of upgrade.yml, rollback.yml, restore.yml and migrate.yml, and with which version each of their steps runs,
in success and failure.

In the place of the actions that change an instance stand some that record how they were called and return what a test
says; what the real ones do is tested by tests/versions, Molecule and by hand (docs/upgrade.md).
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess

import yaml

ROOT = pathlib.Path(__file__).parents[3]
REPLACED = ("apply", "helm_release_adopt", "mlflow_backup", "mlflow_backup_info", "instance_health", "instance_info",
            "mlflow_upgrade_info")
ACTION = '''
import json, os, pathlib
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engine_action import ModelAction

class ActionModule(ModelAction):
    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        folder, arguments = pathlib.Path(os.environ["RECORD"]), self._task.args
        model = self.resolve(task_vars)
        call = " ".join(filter(None, [
            "NAME", arguments.get("step"), arguments.get("command"), arguments.get("kind"), arguments.get("set"),
            model.instance.version, "old-image" if model.mlflow_server.image == "old:3.10.0" else "",
            "closed" if model.mlflow_server.closed_because else "",
            "restoring" if model.mlflow_server.restoring else "",
            "former" if model.mlflow_server.database.type == "sqlite" else "",
            "checked" if self._task.check_mode else "",
            "under another name" if model.mlflow_server.service != model.mlflow_server.service_hosts[0] else "",
            ",".join(arguments.get("components") or []), arguments.get("state"),
            "without pruning" if "prune" in arguments else ""]))
        with open(folder / "calls", "a") as file:
            file.write(call + "\\n")
        for beginning, result in json.loads((folder / "results").read_text()).items():
            if call.startswith(beginning):
                return result
        return {"changed": True}
'''
OLD, NEW = "3.10.0 old-image", "3.17.2"
INFO = {"installed": {"version": "3.10.0", "image": "old:3.10.0"}, "target": "3.17.2", "needed": True, "older": False,
        "messages": [], "deployed": True}
DOWNGRADE = {"possible": True, "reason": "", "longer_columns": []}


def results(closed=False, downgrade=True, **more):
    rehearsal = {"prepopulated": {"spans": 1}, "downgrade": {**DOWNGRADE, "possible": downgrade}}
    return {
        **more,
        "mlflow_upgrade_info": INFO,
        "mlflow_backup create before-upgrade": {"backup": {"id": "SET"}},
        "mlflow_backup before-upgrade": {"backup": {"id": "SET"}},
        "mlflow_backup rehearse": {"rehearsal": rehearsal, "closed": closed,
                                   "lines": ["rehearsed", "it answers", "it is undone"]},
        "mlflow_backup state": {"unchanged": False, "more": {"runs": 2}, "rehearsal": rehearsal},
        "instance_health": {"connect": ["connected"]},
    }


def play(folder, found, playbook="upgrade.yml", *arguments, **variables):
    """A run of a playbook: its output, and the calls that were recorded."""
    collection = folder / "collections/ansible_collections/mlops/mlflow"
    (collection / "plugins/action").mkdir(parents=True)
    for path in ROOT.iterdir():
        if path.name not in ("plugins", ".cache", ".venv", ".git"):
            (collection / path.name).symlink_to(path)
    for path in (ROOT / "plugins").iterdir():
        if path.name != "action":
            (collection / "plugins" / path.name).symlink_to(path)
    for path in (ROOT / "plugins/action").glob("*.py"):
        target = collection / "plugins/action" / path.name
        if path.stem in REPLACED:
            target.write_text(ACTION.replace("NAME", path.stem))
        else:
            target.symlink_to(path)
    (folder / "results").write_text(json.dumps(found))
    (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": {"team": {
        "ansible_connection": "local", "backup_type": "volume", "mlflow_version": "3.17.2", **variables}}}}))
    done = subprocess.run(["ansible-playbook", "-i", folder / "hosts.yml", f"playbooks/{playbook}", *arguments],
                          cwd=collection, capture_output=True, text=True, check=False,
                          env={**os.environ, "RECORD": str(folder),
                               "ANSIBLE_COLLECTIONS_PATH": str(folder / "collections")})
    calls = (folder / "calls").read_text().splitlines() if (folder / "calls").exists() else []
    return done, [call for call in calls if not call.startswith("mlflow_upgrade_info")]


PREPARED = [f"apply {OLD} backup", f"mlflow_backup before-upgrade {OLD}", f"mlflow_backup rehearse SET {NEW}",
            f"mlflow_backup prepopulate {NEW}"]
ROLLED_BACK = [f"mlflow_backup state SET {OLD}", f"apply {OLD} closed mlflow_server",
               f"mlflow_backup downgrade SET {NEW}", f"apply {OLD}", f"instance_health {OLD}"]


def test_where_a_migration_cannot_be_undone_the_server_is_closed_and_backed_up_again(tmp_path):
    done, calls = play(tmp_path, results(closed=True))
    assert done.returncode == 0, done.stdout
    assert calls == [*PREPARED, f"apply {OLD} closed mlflow_server", f"mlflow_backup before-upgrade {OLD}",
                     f"apply {NEW}", f"instance_health {NEW}"]


def test_a_rehearsal_that_fails_changes_nothing(tmp_path):
    failed = {"failed": True, "msg": "The migration fails on a copy of the data: no."}
    done, calls = play(tmp_path, {**results(), "mlflow_backup rehearse": failed})
    assert done.returncode and "fails on a copy of the data" in done.stdout
    assert calls == PREPARED[:3]


def test_what_fails_later_is_undone_and_what_was_logged_stays(tmp_path):
    failed = {f"instance_health {NEW}": {"failed": True, "msg": "The new version is bad."}}
    done, calls = play(tmp_path, {**failed, **results()})
    assert done.returncode and calls == [*PREPARED, f"apply {NEW}", f"instance_health {NEW}", *ROLLED_BACK]
    text = " ".join(done.stdout.split())
    assert "3.10.0 is in use again. The migration was undone, and what was logged meanwhile is there." in text
    assert "The new version is bad." in text


def test_where_no_downgrade_works_the_backup_is_restored(tmp_path):
    failed = {f"apply {NEW}": {"failed": True, "msg": "bad"}, "mlflow_backup downgrade": {"failed": True, "msg": "no"}}
    done, calls = play(tmp_path, {**failed, **results()})
    assert done.returncode
    assert calls[-5:] == [f"mlflow_backup restore SET {OLD}", f"mlflow_backup promote {OLD}", f"apply {OLD}",
                          f"instance_health {OLD}", f"mlflow_backup finish {OLD}"]
    assert "what was logged after it is lost (2 rows)" in " ".join(done.stdout.split())


UNDEPLOYED = {"mlflow_upgrade_info": {**INFO, "installed": {"version": "", "image": ""}, "needed": False,
                                      "deployed": False},
              "mlflow_backup before-deployment": {"backup": {"id": "SET"}}}
TAKEN_OVER = [f"apply {NEW} closed object_storage,database,mlflow_server,ingress,backup",
              f"mlflow_backup before-deployment {NEW} closed", f"mlflow_backup rehearse SET {NEW} closed"]


def test_a_database_of_an_older_version_is_taken_over(tmp_path):
    done, calls = play(tmp_path, {**results(), **UNDEPLOYED})
    assert done.returncode == 0, done.stdout
    assert calls == [*TAKEN_OVER, f"apply {NEW}", f"instance_health {NEW}"]
    assert "rehearsed" in done.stdout and "it answers" not in done.stdout
    assert "Backup SET has the database as it was before." in " ".join(done.stdout.split())


def test_a_database_that_is_not_taken_over_is_as_it_was(tmp_path):
    failed = {f"instance_health {NEW}": {"failed": True, "msg": "It is bad."}}
    done, calls = play(tmp_path, {**failed, **results(), **UNDEPLOYED})
    assert done.returncode and calls == [
        *TAKEN_OVER, f"apply {NEW}", f"instance_health {NEW}", f"apply {NEW} closed mlflow_server",
        *(f"mlflow_backup {step} {NEW} closed" for step in ("state SET", "restore SET", "promote", "finish")),
        f"apply {NEW} absent"]
    assert "The instance was not deployed, and its database is as it was. It is bad." in " ".join(done.stdout.split())


def test_where_nothing_could_be_backed_up_nothing_is_restored(tmp_path):
    failed = {"mlflow_backup before-deployment": {"failed": True, "msg": "No login."}}
    done, calls = play(tmp_path, {**failed, **results(), "mlflow_upgrade_info": UNDEPLOYED["mlflow_upgrade_info"]})
    assert done.returncode and calls == [*TAKEN_OVER[:2], f"apply {NEW} absent"]


BACKUPS = {"backups": [{"id": "SET", "kind": "before-upgrade", "rehearsed_to": "3.17.2", "mlflow_version": "3.10.0",
                        "image": "old:3.10.0"},
                       {"id": "OTHER", "kind": "scheduled", "rehearsed_to": "", "mlflow_version": "3.17.2",
                        "image": "new"}]}
NOW = {"mlflow_upgrade_info": {**INFO, "installed": {"version": "3.17.2", "image": "new:3.17.2"}, "needed": False},
       "mlflow_backup_info": BACKUPS}


def test_a_rollback_undoes_the_migration(tmp_path):
    done, calls = play(tmp_path, {**results(), **NOW}, "rollback.yml")
    assert done.returncode == 0, done.stdout
    assert calls == [f"mlflow_backup_info {NEW}", f"mlflow_backup state SET {NEW}",
                     f"mlflow_backup before-rollback {NEW}", *ROLLED_BACK]
    assert "MLflow 3.10.0 is in use again." in done.stdout


def test_a_rollback_that_would_lose_data_must_be_asked_for(tmp_path):
    done, calls = play(tmp_path, {**results(downgrade=False), **NOW}, "rollback.yml")
    assert done.returncode and "accept that by mlflow_rollback_restore=true" in " ".join(done.stdout.split())
    assert "(runs: 2 rows)" in " ".join(done.stdout.split()) and len(calls) == 2


def test_a_restore_says_why_the_keys_of_the_backup_cannot_be_looked_up(tmp_path):
    failed = {"failed": True, "msg": "bucket 'backups' does not exist."}
    done, calls = play(tmp_path, {"mlflow_backup keys": failed, "instance_info": {"installed": True}}, "restore.yml")
    assert done.returncode and failed["msg"] in done.stdout, done.stdout
    assert calls == [f"instance_info {NEW}", f"apply {NEW} closed restoring backup",
                     f"mlflow_backup keys latest {NEW} closed restoring"]


RESTORE = {"instance_info": {"installed": True}, "instance_health": {"connect": ["connected"]},
           "mlflow_backup keys": {"backup": {"id": "SET"}, "differing": [], "values": {}},
           "mlflow_backup restore": {"backup": {"id": "SET", "counts": {"runs": 2}}, "artifacts": {"count": 3}}}
CLOSED = f"{NEW} closed restoring"
LOADED = [f"apply {CLOSED} backup", f"mlflow_backup keys latest {CLOSED}", f"mlflow_backup settle {CLOSED}",
          f"mlflow_backup before-restore {CLOSED}", f"apply {CLOSED} mlflow_server",
          f"mlflow_backup restore SET {CLOSED}"]
OPENED = [f"mlflow_backup promote {CLOSED}", f"apply {NEW}", f"instance_health {NEW}"]
PUT_BACK = [f"apply {CLOSED} mlflow_server", f"mlflow_backup revert {CLOSED}", f"apply {NEW}"]


def restore(folder, **failures):
    """A run of restore.yml: what it said on one line, its exit code, its calls."""
    done, calls = play(folder, {**{call: {"failed": True, "msg": msg} for call, msg in failures.items()}, **RESTORE},
                       "restore.yml")
    return " ".join(done.stdout.split()), done.returncode, [call for call in calls if call != f"instance_info {NEW}"]


def test_a_restore_settles_an_earlier_one_before_it_closes_the_server(tmp_path):
    text, code, calls = restore(tmp_path)
    assert code == 0, text
    assert calls == [*LOADED, *OPENED, f"mlflow_backup finish {NEW}"]
    assert "Backup SET is restored: 2 rows, 3 artifacts." in text


def test_what_cannot_be_settled_is_left_alone(tmp_path):
    text, code, calls = restore(tmp_path, **{"mlflow_backup settle": "The database is down."})
    assert code and "The database is down." in text and calls == LOADED[:3]


def test_a_restore_that_fails_puts_back_what_was_there(tmp_path):
    text, code, calls = restore(tmp_path, **{f"instance_health {NEW}": "It is bad."})
    assert code and calls == [*LOADED, *OPENED, *PUT_BACK]
    assert "The backup was not restored, and what was there before is in use again. It is bad." in text


def test_a_restored_instance_that_users_have_is_not_undone(tmp_path):
    text, code, calls = restore(tmp_path, **{"mlflow_backup finish": "The database is down."})
    assert code and "The database is down." in text
    assert calls == [*LOADED, *OPENED, f"mlflow_backup finish {NEW}"]


def test_a_check_says_which_backup_would_be_restored(tmp_path):
    backup = {"id": "SET", "namespace": "n", "instance": "a", "counts": {"runs": 2, "tags": 1}, "artifacts": 3,
              "mlflow_version": "3.15.0", "begun": "2026-11-24T02:00:00+00:00", "verified": None}
    found = {**RESTORE, "mlflow_backup keys": {"backup": backup, "differing": [], "values": {}}}
    done, calls = play(tmp_path, found, "restore.yml", "--check")
    text = " ".join(done.stdout.split())
    assert done.returncode == 0 and calls[1:] == [f"apply {CLOSED} checked backup",
                                                  f"mlflow_backup keys latest {CLOSED} checked"]
    assert ("opened with backup SET of n/a: 3 rows and 3 artifacts of MLflow 3.15.0, begun 2026-11-24T02:00:00+00:00, "
            "not verified.") in text and "changed=2" in text


def test_a_check_says_that_nothing_is_deployed(tmp_path):
    done, calls = play(tmp_path, {**RESTORE, "instance_info": {"installed": False}}, "restore.yml", "--check")
    assert done.returncode == 0 and calls == [f"instance_info {NEW} checked"]
    assert "Instance team is not deployed. It would be, with the server closed" in " ".join(done.stdout.split())


FORMER = f"{NEW} former"
TARGET = {"others": ["database"], "interrupted": False, "looked_at": ["database"]}
MIGRATE = {"instance_info": {"installed": True}, "instance_health": {"connect": ["connected"]},
           "mlflow_backup before-migration": {"backup": {"id": "SET"}},
           "mlflow_backup restore": {"backup": {"id": "SET", "counts": {"runs": 2}}, "artifacts": {"count": 3}}}
LOOKED = [f"mlflow_backup target {NEW}", f"apply {NEW} checked"]
MOVED = [f"apply {NEW} closed restoring former", f"mlflow_backup before-migration {NEW} closed restoring former",
         f"apply {CLOSED}", f"mlflow_backup restore SET {CLOSED}"]
GONE_BACK = [f"apply {CLOSED} mlflow_server", f"mlflow_backup revert {CLOSED}", f"apply {FORMER}"]


def migrate(folder, *arguments, target=(), finished=False, **failures):
    """A run of migrate.yml from SQLite to PostgreSQL: what it said on one line, its exit code, its calls."""
    works = {"mlflow_backup target": {**TARGET, **dict(target)}, "mlflow_backup finish": {"finished": finished},
             **MIGRATE}
    found = {call: {"failed": True, "msg": msg} for call, msg in failures.items()}
    found |= {call: result for call, result in works.items() if call not in found}
    done, calls = play(folder, found, "migrate.yml", "-e", '{"mlflow_migrate_from": {"database_type": "sqlite"}}',
                       *arguments)
    return " ".join(done.stdout.split()), done.returncode, [call for call in calls if "instance_info" not in call]


def settled(model: str) -> list[str]:
    return [f"apply {model} backup", f"mlflow_backup settle {model}"]


def test_a_migration_looks_at_the_new_stores_before_it_closes_the_server(tmp_path):
    text, code, calls = migrate(tmp_path)
    assert code == 0, text
    assert calls == [*LOOKED, *settled(FORMER), *MOVED, *OPENED, f"mlflow_backup finish {NEW}"]


def test_where_the_new_stores_cannot_be_used_nothing_is_touched(tmp_path):
    text, code, calls = migrate(tmp_path, **{"mlflow_backup target": "The database answers: no."})
    assert code and "The database answers: no." in text and calls == LOOKED[:1]


def test_a_check_of_a_migration_says_what_would_move(tmp_path):
    text, code, calls = migrate(tmp_path, "--check")
    assert code == 0 and calls == [f"mlflow_backup target {NEW} checked", LOOKED[1]], text
    assert "opened after its data was moved: rows from sqlite to postgresql . Looked at: database." in text


def test_a_migration_that_was_interrupted_before_it_opened_the_server_begins_anew(tmp_path):
    text, code, calls = migrate(tmp_path, target={"others": [], "interrupted": True})
    assert code == 0, text
    assert calls == [*LOOKED, *settled(NEW), *MOVED, *OPENED, f"mlflow_backup finish {NEW}"]


def test_one_that_was_interrupted_after_it_is_ended(tmp_path):
    text, code, calls = migrate(tmp_path, target={"others": []}, finished=True)
    assert code == 0 and "The data was moved by an earlier run" in text
    assert calls == [LOOKED[0], f"mlflow_backup finish {NEW}", *OPENED[1:]]


def test_one_that_has_ended_is_not_repeated(tmp_path):
    text, code, calls = migrate(tmp_path, target={"others": []})
    assert code and "is deployed with the stores of the inventory already" in text
    assert calls == [LOOKED[0], f"mlflow_backup finish {NEW}"]


def test_a_migration_that_fails_goes_back_with_the_server_closed(tmp_path):
    text, code, calls = migrate(tmp_path, **{f"instance_health {NEW}": "It is bad."})
    assert code and calls == [*LOOKED, *settled(FORMER), *MOVED, *OPENED, *GONE_BACK]
    assert "Nothing was migrated, and the former stores are in use again. It is bad." in text


def test_a_new_database_that_cannot_be_emptied_keeps_nobody_from_the_former_one(tmp_path):
    text, code, calls = migrate(tmp_path, **{f"instance_health {NEW}": "It is bad.", "mlflow_backup revert": "Gone."})
    assert code and calls[-1] == f"apply {FORMER}"
    assert "It is bad. The new database could not be emptied again (Gone.)." in text
