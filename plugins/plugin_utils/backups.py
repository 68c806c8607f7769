# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Commands of roles/backup/files/backup.py, run as Jobs in pods of an instance."""

from __future__ import annotations

import base64
import binascii
import contextlib
import copy
import datetime
import json
import re
import time
from typing import Iterator

from ansible_collections.mlops.mlflow.plugins.plugin_utils import (
    components, generated, manifests, render, templating)
from ansible_collections.mlops.mlflow.plugins.plugin_utils.engines import Engine, EngineError
from ansible_collections.mlops.mlflow.plugins.plugin_utils.manifests import Ref
from ansible_collections.mlops.mlflow.plugins.plugin_utils.model import Model

MODES = {"create": ["dump"], "verify": ["drill"], "restore": ["restore"],
         "rehearse": ["drill"]}
"""What the container with the database's programs does for a command; the others need none."""
SENTENCE = re.compile(r"backup: \w+ failed: (.*)")
GRANTS = ('client=$(command -v mariadb || command -v mysql); '
          'MYSQL_PWD=${MARIADB_ROOT_PASSWORD:-${MYSQL_ROOT_PASSWORD:-}} exec "$client" --user=root')
"""A program in the pod of a MariaDB or MySQL that the collection runs."""


def run(engine: Engine, model: Model, command: str, arguments: list[str] | None = None,
        modes: list[str] | None = None, described: bool = False) -> dict:
    """Run a command of backup.py in a Job to its end.

    Args:
        engine: an open engine of the instance.
        model: the resolved instance.
        command: of backup.py.
        arguments: its options.
        modes: of the container with the database's programs; those of the command if None.
        described: whether the Job's ConfigMaps and Secrets are as the variables describe them, where the instance
            that is deployed has others or none; they are made for the Job, and removed after it.

    Returns:
        What the command returned.

    Raises:
        Failure: backups are off or not deployed, or the command failed, with its sentence.
    """
    if not described:
        refuse_undeployed(engine, model)
    if command == "restore":
        _grant(engine, model)
    moment = datetime.datetime.now(datetime.timezone.utc)
    job = {"name": f"{command}-{moment:%Y%m%d%H%M%S}", "arguments": [command, *(arguments or [])],
           "modes": MODES.get(command, []) if modes is None else modes}
    component = components.by_role("backup")
    obj = render.render_one(component, model, engine.scope.labels(component.name), "job.yaml.j2", job=job)
    deadline = time.monotonic() + model.variables.backup_timeout
    try:
        with _described(engine, model, obj, deadline) if described else contextlib.nullcontext():
            log = engine.run_job(obj, deadline)
    except EngineError as error:
        found = SENTENCE.search(str(error))
        raise templating.Failure(found.group(1) if found else str(error)) from None
    return parse(log)


@contextlib.contextmanager
def _described(engine: Engine, model: Model, job: dict, deadline: float) -> Iterator[None]:
    """While the context lasts, a Job has what it reads, under names of its own; what the instance has is not touched.

    Args:
        engine: an open engine.
        model: the instance as it shall be.
        job: of its backups; its references are changed in place.
        deadline: time.monotonic() after which removing ends.
    """
    namespace, labels = model.instance.namespace, engine.scope.labels(components.by_role("backup").name)
    rendered = {}
    for component in components.COMPONENTS:
        for obj in render.render(component, model, labels):
            obj["metadata"]["namespace"] = namespace
            rendered[Ref.of(obj)] = obj
    spec = manifests.pod_template(job)["spec"]
    claims = {Ref("", "PersistentVolumeClaim", namespace, volume["persistentVolumeClaim"]["claimName"])
              for volume in spec["volumes"] if "persistentVolumeClaim" in volume}
    read = {Ref("", kind, namespace, name) for kind, name, _required in manifests.references(job)}
    live = engine.read(read | claims, set())
    missing = sorted(read - set(rendered) - set(live))
    if missing:
        raise EngineError(f"{missing[0]} is not in namespace {namespace}; create it first or name another one.")
    policy = Ref("networking.k8s.io", "NetworkPolicy", namespace, model.backup.name)
    made = []
    for ref in sorted((read | {policy}) & set(rendered)):
        obj = copy.deepcopy(rendered[ref])
        generated.fill(obj, live.get(ref))
        obj["metadata"] = {"namespace": namespace, "labels": obj["metadata"]["labels"], "name": f"{ref.name}-described"}
        if not engine.unsupported_reason(obj):
            made.append(obj)
    manifests.rename_references(spec, {
        (obj["kind"], obj["metadata"]["name"].removesuffix("-described")): obj["metadata"]["name"] for obj in made})
    for volume in spec["volumes"]:
        claim = volume.get("persistentVolumeClaim")
        if claim and Ref("", "PersistentVolumeClaim", namespace, claim["claimName"]) not in live:
            del volume["persistentVolumeClaim"]
            volume["emptyDir"] = {}
    there = engine.read({Ref.of(obj) for obj in made}, set())
    try:
        engine.put(made, there, False)
        yield
    finally:
        engine.delete(list(engine.read({Ref.of(obj) for obj in made}, set()).values()), deadline)


def refuse_undeployed(engine: Engine, model: Model) -> None:
    """Raise Failure where backups are off or not deployed."""
    if model.variables.backup_type == "none":
        raise templating.Failure("backup_type is none, so this instance has no backups; set it to s3 or volume.")
    wanted = Ref("", "ConfigMap", model.instance.namespace, model.backup.name)
    if wanted not in engine.read({wanted}, set()):
        raise templating.Failure(
            f"The backups of instance {model.instance.name} are not deployed; run playbooks/site.yml first."
        )


def moment(model: Model, text: str) -> str:
    """A moment of which the archive of the database may be asked, in the form of ISO 8601 and in UTC.

    Args:
        model: the resolved instance.
        text: as a user writes it, in UTC unless it has another offset.

    Raises:
        Failure: it is no moment in the past, or there is no archive.
    """
    if not model.database.archive:
        raise templating.Failure(
            f"A moment is named ({text}) while database_archive is false, so that there is no archive to recover the "
            "database from; name a backup, such as by mlflow_restore_set."
        )
    now = datetime.datetime.now(datetime.timezone.utc)
    try:
        found = datetime.datetime.fromisoformat(text.strip().replace("Z", "+00:00"))
    except ValueError:
        raise templating.Failure(
            f"The moment is {text!r}; it must be a time in the past such as 2026-11-24T02:00:00Z."
        ) from None
    found = found.replace(tzinfo=found.tzinfo or datetime.timezone.utc).astimezone(datetime.timezone.utc)
    if found >= now:
        raise templating.Failure(
            f"The moment is {text!r}, which is in the future (it is {now:%Y-%m-%dT%H:%M:%SZ}); it must be in the past."
        )
    return found.isoformat()


def parse(log: str) -> dict:
    """What a command printed as its result: JSON in base64, in lines that begin with RESULT.

    Raises:
        Failure: the log has none.
    """
    lines = [line.partition("RESULT ")[2].strip() for line in log.splitlines() if line.startswith("RESULT ")]
    try:
        return json.loads(base64.b64decode("".join(lines), validate=True))
    except (binascii.Error, json.JSONDecodeError) as error:
        raise templating.Failure(f"The log of the Job has no result: {error}. It ends with: {log[-500:]}") from None


def _grant(engine: Engine, model: Model) -> None:
    """Let the login of a MariaDB that the collection runs create the databases that a restore needs."""
    database = model.database
    if not database.managed or database.endpoint.type != "mysql" or model.variables.mlflow_server_database:
        return
    user = engine.secret(database.endpoint.secret)[database.endpoint.secret_keys["user"]].replace("'", "''")
    name = database.endpoint.name.replace("`", "``")
    statements = "".join(f"GRANT ALL ON `{name}_{end}`.* TO '{user}'@'%';\n" for end in ("restore", "before"))
    engine.execute(database.name, ["sh", "-c", GRANTS], statements)


def summary(manifest: dict) -> dict:
    """What a user wants to know of a set."""
    dumps, verified = manifest["database"]["dumps"], manifest.get("verified") or {}
    counts = {table: number for dump in dumps.values() for table, number in dump["counts"].items()}
    size = sum(dump["bytes"] for dump in dumps.values()) + manifest["artifacts"]["bytes"]
    return {
        "id": manifest["id"],
        "begun": manifest["begun"],
        "ended": manifest["ended"],
        "kind": manifest["kind"],
        "moment": manifest.get("moment", ""),
        "instance": manifest["instance"],
        "namespace": manifest["namespace"],
        "mlflow_version": manifest["mlflow_version"],
        "image": manifest["image"],
        "rehearsed_to": (manifest.get("rehearsal") or {}).get("to", ""),
        "database": manifest["database"]["dialect"],
        "schema": dumps["database"]["schema"],
        "bytes": size,
        "artifacts": manifest["artifacts"]["count"],
        "counts": counts,
        "keys": "file" in manifest["keys"],
        "verified": verified.get("ok"),
        "verified_at": _time(verified.get("at")),
        "reason": verified.get("reason", ""),
        "complete": True,
    }


def _time(seconds: int | None) -> str:
    if seconds is None:
        return ""
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).isoformat(timespec="seconds")


def rehearsal_lines(rehearsal: dict, closed: bool) -> list[str]:
    """What the rehearsal of an upgrade found, in sentences."""
    downgrade = rehearsal["downgrade"]
    found = [f"The migration takes {rehearsal['seconds']} s on a restored copy, on which MLflow {rehearsal['to']} "
             "answers and logs."]
    if rehearsal["new_tables"]:
        found.append(f"New tables: {', '.join(rehearsal['new_tables'])}.")
    if rehearsal["lost_indexes"]:
        found.append(f"Indexes that the migration loses: {'; '.join(rehearsal['lost_indexes'])}.")
    for table, (before, after) in sorted(rehearsal["fewer_rows"].items()):
        found.append(f"Table {table} has {after} of {before} rows afterwards.")
    if rehearsal["prepopulate_reason"]:
        found.append(rehearsal["prepopulate_reason"])
    found.append("The server is closed during the migration." if closed else "The server answers during the upgrade.")
    if downgrade["possible"]:
        longer = downgrade["longer_columns"]
        found.append("A rollback undoes the migration, and what is logged meanwhile stays"
                     + (f" (columns that stay longer: {', '.join(longer)})." if longer else "."))
    else:
        found.append(f"A rollback restores the backup, and what is logged after the upgrade would be lost. "
                     f"{downgrade['reason']}")
    return found


def lines(sets: list[dict]) -> list[str]:
    """A table of sets, the newest first."""
    rows = [("BACKUP", "KIND", "MLFLOW", "ROWS", "ARTIFACTS", "MIB", "VERIFIED")]
    for entry in reversed(sets):
        verified = {True: entry["verified_at"], False: f"no: {entry['reason']}", None: "not yet"}[entry["verified"]]
        kind = f"{entry['kind']} {entry['moment']}".strip()
        rows.append((entry["id"], kind, entry["mlflow_version"], str(sum(entry["counts"].values())),
                     str(entry["artifacts"]), f"{entry['bytes'] / 2**20:.1f}", verified))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
