"""The rehearsal of an upgrade: the new version's migration, server and downgrade on a restored copy of the data.

Runs in the image of the new version. What it finds decides how the upgrade is done, and how it would be undone.
"""

import pathlib
import tempfile
import time

import databases
import drill
import schema
from sets import BackupError


def run(sets, manifest, exchange, log):
    """Migrate a restored copy of a set, use it by a client, and undo the migration.

    Args:
        sets: where backups are.
        manifest: of the set.
        exchange: the Exchange, in whose other container ``drill`` runs.
        log: takes a line of progress.

    Returns:
        seconds of the migration, new_tables, lost_indexes, fewer_rows (numbers before and after, by table), what the
        server answered, and ``downgrade``: possible, reason, seconds, longer columns.

    Raises:
        BackupError: the new version fails on the data, with its reason.
    """
    main = databases.open_database()
    if main.dialect != manifest["database"]["dialect"]:
        raise BackupError(f"Backup {manifest['id']} is of {manifest['database']['dialect']}, and the instance has "
                          f"{main.dialect}; make another backup.")
    with tempfile.TemporaryDirectory(dir=exchange.folder) as folder:
        database = drill.throw_away(main, pathlib.Path(folder))
        users = database
        for name, dump in manifest["database"]["dumps"].items():
            target = database.name if name == "database" else str(pathlib.Path(folder) / f"{name}.db")
            if name != "database":
                users = databases.open_database(f"sqlite:///{target}")
            log(f"loading {dump['name']} ({dump['bytes'] / 2**20:.1f} MiB) into a throw-away database")
            drill.load(sets, manifest, dump, database, exchange, target)
        return Rehearsal(database, users, pathlib.Path(folder), log).run()


def refuse_other_version(wanted, image):
    """Raise BackupError where the image of this pod has another version of MLflow than the one that is rehearsed."""
    from mlflow.version import VERSION

    if wanted != VERSION:
        raise BackupError(f"Image {image} has MLflow {VERSION}, and {wanted} is wanted; set mlflow_server_image to an "
                          f"image of MLflow {wanted}.")


class Rehearsal:
    """What is done with a restored copy.

    Args:
        database: of the copy.
        users: the database with the users of MLflow, which may be the same.
        folder: for files.
        log: takes a line of progress.
    """

    def __init__(self, database, users, folder, log):
        self.database, self.folder, self.log = database, folder, log
        self.engine = database.engine()
        self.users = users.engine() if schema.has_users() else None

    def run(self):
        """All steps; see the function ``run``."""
        before, revisions = schema.structure(self.engine), self._revisions()
        rows = self.database.described()["counts"]
        found = self._migrate()
        after = schema.structure(self.engine)
        now = self.database.described()["counts"]
        fewer = {table: [rows[table], now[table]] for table in rows if table in now and now[table] < rows[table]}
        self.log("starting MLflow's server on the migrated copy")
        answered = drill.ask(self.database, self.folder, round_trip)
        found |= {"new_tables": schema.new_tables(before, after), "lost_indexes": schema.lost_indexes(before, after),
                  "fewer_rows": fewer, "revision": self._revisions()[schema.MAIN],
                  "former_revision": revisions[schema.MAIN], **answered}
        return {**found, "downgrade": self._downgrade(before, revisions, self.database.described()["counts"])}

    def _revisions(self):
        found = schema.revisions(self.engine)
        if self.users is not None:
            found[schema.USERS] = schema.revisions(self.users)[schema.USERS]
        return found

    def _migrate(self):
        """The step that may run beside the older server, then the migration; seconds of both."""
        begun, note = time.monotonic(), ""
        try:
            filled = schema.prepopulate(self.engine) if self.database.dialect != "sqlite" else None
        except Exception as error:
            filled, note = None, f"mlflow db prepopulate-trace-analytics cannot run before: {_reason(error)}"
            self.log(note)
        prepared = time.monotonic()
        self.log("migrating the copy")
        try:
            schema.migrate(self.engine, self.users)
        except Exception as error:
            raise BackupError(f"The migration fails on a copy of the data: {_reason(error)}") from error
        seconds = round(time.monotonic() - prepared, 1)
        self.log(f"the migration took {seconds} s")
        return {"seconds": seconds, "prepopulated": filled, "prepopulate_seconds": round(prepared - begun, 1),
                "prepopulate_reason": note}

    def _downgrade(self, before, revisions, rows):
        """Undo the migration on the copy, and compare the structure with that of before."""
        plan = schema.plan(revisions, self._revisions())
        found = {"possible": False, "reason": plan["reason"], "steps": len(plan["steps"]), "seconds": 0.0,
                 "longer_columns": [], "before": before, "revisions": revisions}
        if not plan["possible"]:
            return found
        self.log(f"undoing the migration on the copy, {len(plan['steps'])} revisions")
        begun = time.monotonic()
        try:
            undo(self.engine, self.users, revisions)
        except Exception as error:
            return {**found, "reason": f"The downgrade fails on a copy of the data: {_reason(error)}"}
        found["seconds"] = round(time.monotonic() - begun, 1)
        after = schema.structure(self.engine)
        differing = schema.differences(before, after)
        now = self.database.described()["counts"]
        differing += [f"table {table} has {now.get(table, 0)} of {rows[table]} rows"
                      for table in ("experiments", "runs", "metrics", "params", "tags", "registered_models",
                                    "model_versions") if now.get(table, 0) != rows.get(table, 0)]
        if differing:
            more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
            reason = f"The downgrade does not restore the schema of before: {'; '.join(differing[:3])}{more}."
            return {**found, "reason": reason}
        return {**found, "possible": True, "longer_columns": schema.longer_columns(before, after)}


def undo(engine, users, revisions):
    """Bring a database, and that of the users if there is one, back to some revisions."""
    if users is not None and revisions.get(schema.USERS):
        schema.downgrade(users, schema.USERS, revisions[schema.USERS])
    schema.downgrade(engine, schema.MAIN, revisions[schema.MAIN])


def _reason(error):
    """The first line of an error that says something, since SQLAlchemy appends the statement."""
    text = str(getattr(error, "orig", None) or error)
    return next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)


def round_trip(url):
    """Log a run and register a model as a client does, read both back, and delete them."""
    def call(path, **fields):
        return drill.request(url, path, fields)

    stamp = str(time.time_ns())
    name = f"mlops-mlflow-rehearsal-{stamp}"
    experiment = call("experiments/create", name=name)["experiment_id"]
    run = call("runs/create", experiment_id=experiment, start_time=int(stamp) // 10**6)["run"]["info"]["run_id"]
    call("runs/log-batch", run_id=run, metrics=[{"key": "m", "value": 1.5, "timestamp": 1, "step": 0}],
         params=[{"key": "p", "value": "v"}], tags=[{"key": "t", "value": "w"}])
    call("registered-models/create", name=name)
    found = call("runs/search", experiment_ids=[experiment], filter="metrics.m = 1.5")["runs"]
    data = found[0]["data"] if found else {}
    if [entry["value"] for entry in data.get("metrics", [])] != [1.5] or data.get("params") != [
            {"key": "p", "value": "v"}]:
        raise BackupError(f"MLflow's server does not return the run that was logged on the migrated copy, but {data}.")
    drill.request(url, "registered-models/delete", {"name": name}, method="DELETE")
    call("experiments/delete", experiment_id=experiment)
    return {"round_trip": True}
