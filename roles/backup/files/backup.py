"""Backups of an MLflow instance: made, listed, verified and restored in pods that have the server's image and
environment.

usage: backup.py create [--kind KIND] [--verify] [--portable]   make a set; then verify it, and remove sets that are no
                                                    longer wanted
       backup.py create --kind=moment --moment MOMENT   make a set of the database as it was at a moment
       backup.py list                               complete sets, and what retention would remove
       backup.py verify [--set ID]                  restore a set into a throw-away database and compare
       backup.py restore [--set ID] [--empty]       load a set into a database beside the current one, and its artifacts
       backup.py rehearse [--set ID]                migrate a restored copy to this version of MLflow, and undo it
       backup.py state [--set ID]                   whether the schema is still that of a set
       backup.py prepopulate                        fill columns before the migration, while the older server runs
       backup.py downgrade [--set ID]               bring the schema back to that of a set, as it was rehearsed
       backup.py target --stores STORES [--dry-run] [--create-bucket]   whether stores can be filled by a migration
       backup.py promote | revert | finish          put that database in the place of the current one; undo that; make
                                                    it final
       backup.py prune [--dry-run]                  remove sets that are no longer wanted

The output ends with lines that begin with RESULT: JSON, in base64. Reads, besides the environment of the server:

BACKUP_STORE       parameters of stores.open_store in JSON, with the path of the instance's sets
BACKUP_ACCESS_KEY, BACKUP_SECRET_KEY   its credentials; without them those of the server
BACKUP_SETTINGS    JSON: what the manifest says of the instance, and numbers of retention
BACKUP_PASSPHRASE  encrypts the keys; without it only their fingerprints are in a set
EXCHANGE           folder that the container with the database's programs shares
"""

import argparse
import base64
import datetime
import gzip
import io
import json
import os
import pathlib
import re
import sys
import tempfile
import time
import traceback

import artifacts
import databases
import drill
import maintenance_lock
import sealed
import stores
from exchange import Exchange
from sets import FORMAT, BackupError, Sets, expired, new_id

FOLDER = pathlib.Path(__file__).parent
KEYS = {"gateway": "MLFLOW_CRYPTO_KEK_PASSPHRASE", "webhooks": "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY"}
LOGINS = {"admin_user": "MLFLOW_AUTH_ADMIN_USERNAME", "admin_password": "MLFLOW_AUTH_ADMIN_PASSWORD",
          "secret_key": "MLFLOW_FLASK_SERVER_SECRET_KEY", "proxy_secret": "AUTH_PROXY_SECRET"}
LOCK_SECONDS = 600
USED = {"experiments": 1, "runs": 0, "logged_models": 0, "registered_models": 0, "trace_info": 0}
"""Tables by which a database is known to be used, with the number of rows that MLflow itself writes."""
EXPECTED = (BackupError, stores.StoreError, maintenance_lock.Locked, maintenance_lock.LostError, OSError)
"""What a sentence tells all about."""
INCOMPLETE_SECONDS = 86400
"""After which a set without a manifest is one that was interrupted."""


def log(text):
    """Show progress."""
    print(f"{datetime.datetime.now(datetime.timezone.utc):%H:%M:%S} {text}", flush=True)


def open_sets(source=""):
    """The sets that the environment names, or those of another instance, NAMESPACE/INSTANCE."""
    parameters = json.loads(os.environ["BACKUP_STORE"])
    if source:
        place = "path" if parameters["type"] == "volume" else "prefix"
        parameters[place] = f"{parameters[place].rsplit('/', 2)[0]}/{source.strip('/')}"
    for name in ("access_key", "secret_key", "account_key", "connection_string"):
        value = os.environ.get(f"BACKUP_{name.upper()}")
        if value:
            parameters[name] = value
    if parameters["type"] == "volume":
        pathlib.Path(parameters["path"]).mkdir(parents=True, exist_ok=True)
    if parameters.pop("lock_days", 0):
        parameters["save_arguments"] = {"ObjectLockMode": "COMPLIANCE", "ObjectLockRetainUntilDate": locked_until()}
    return Sets(stores.open_store({**parameters, "attempts": 4}))


def locked_until():
    """When the bucket gives up what is written now: a datetime, None where it locks nothing."""
    days = json.loads(os.environ["BACKUP_STORE"]).get("lock_days")
    return datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=days) if days else None


def open_artifacts():
    """The store of the instance's artifacts."""
    return stores.open_store({**stores.from_uri(os.environ["MLFLOW_ARTIFACTS_DESTINATION"]), "attempts": 4})


def path_of_backups(source, target):
    """The path of the backups in the store of the artifacts, where they are in it; else empty."""
    if isinstance(source, stores.Volume) or type(source) is not type(target):
        return ""
    if (source.location, source.bucket) != (target.location, target.bucket):
        return ""
    inside = target.prefix + "/"
    return inside[len(source.prefix) + 1:] if source.prefix else inside


class Backup:
    """The commands, for the instance of this pod."""

    def __init__(self, exchange, options):
        self.exchange, self.options = exchange, options
        self.settings = json.loads(os.environ["BACKUP_SETTINGS"])
        self.sets = open_sets(options.source)

    # -- create ----------------------------------------------------------------------------------------------------

    def create(self):
        """Make a set; before a restore or the first deployment, none of a database without tables."""
        if self.options.kind in ("before-restore", "before-deployment") and not databases.open_database().has_tables():
            log("there is nothing to back up")
            return {"set": None, "removed": [], "locked": ""}
        database = databases.open_database()
        try:
            if self.options.kind == "before-upgrade":
                self._refuse_migrated()
            with held("a backup") as lock:
                if self.options.moment:
                    import recovery

                    database = recovery.recover(database, self.exchange, self.options.moment, log)
                manifest = self._create(database, lock)
                removed = self._prune(dry_run=False)
        except Exception:
            self._record_failure()
            raise
        result = {"set": manifest, "removed": removed, "locked": self._kept()}
        if self.options.verify:
            result["verified"] = self._verify(manifest)
        return result

    def _refuse_migrated(self):
        """A set of a database that was migrated already would be none to go back to."""
        import schema

        revision = schema.unknown(databases.open_database().engine())
        if revision:
            version = self.settings["manifest"]["mlflow_version"]
            raise BackupError(
                f"The schema of the database has revision {revision}, which MLflow {version} does not know: an upgrade"
                " was interrupted after its migration. Finish it by playbooks/site.yml with mlflow_version of the newer"
                " version, or undo it by playbooks/rollback.yml with the mlflow_rollback_set from before it."
            )

    def _record_failure(self):
        try:
            self.sets.status(last_failed=int(time.time()))
        except Exception as error:  # the store itself may be what failed
            log(f"the failure could not be recorded: {error}")

    def _create(self, database, lock):
        before = self.sets.ids()
        begun = datetime.datetime.now(datetime.timezone.utc)
        while new_id(begun) in before:  # of the same second
            time.sleep(0.1)
            begun = datetime.datetime.now(datetime.timezone.utc)
        set_id = new_id(begun)
        complete = self.sets.complete()
        log(f"backup {set_id} to {self.sets.store.location}")
        if self.options.portable and database.dialect != "sqlite":
            dialect, dumps = "sqlite", {"database": self._dump_rows(set_id, database)}
        else:
            dialect, dumps = database.dialect, {"database": self._dump(set_id, "database", database)}
            users = databases.users_database(database)
            if users and os.path.exists(users.name):
                dumps["users"] = self._dump(set_id, "users", users)
        source = open_artifacts()
        copied = artifacts.back_up(source, self.sets, set_id, complete[-1] if complete else None,
                                   path_of_backups(source, self.sets.store), locked_until(), log)
        log(f"{copied['count']} artifacts, {copied['bytes'] / 2**20:.1f} MiB; {copied['copied']} of them were new")
        manifest = {
            "format": FORMAT, "id": set_id, "kind": self.options.kind, "begun": begun.isoformat(timespec="seconds"),
            **self.settings["manifest"],
            "database": {"dialect": dialect, "server": dumps["database"].pop("server"), "dumps": dumps},
            "artifacts": {**copied, "root": os.environ["MLFLOW_ARTIFACTS_DESTINATION"]},
            "keys": self._save_keys(set_id), "deployment": self._save_deployment(set_id),
            **({"moment": self.options.moment} if self.options.moment else {}),
            "ended": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        }
        lock.check()
        self.sets.save_json(set_id, "manifest.json", manifest)
        if not self.options.moment:
            self.sets.status(last=int(begun.timestamp()))
        log(f"backup {set_id} is complete")
        return manifest

    def _dump(self, set_id, name, database):
        suffix = database.suffix.partition(".")[2]
        with database.dump(self.exchange) as (stream, described):
            saved = self.sets.save(set_id, f"{name}.{suffix}", stream)
        log(f"{saved['name']}: {saved['bytes'] / 2**20:.1f} MiB, {sum(described['counts'].values())} rows")
        return {**saved, **described}

    def _dump_rows(self, set_id, database):
        """A dump that every kind of database can be restored from: all rows, in a SQLite file."""
        import convert

        with tempfile.TemporaryDirectory(dir=self.exchange.folder) as folder:
            copy = databases.open_database(f"sqlite:///{folder}/rows.db")
            described = database.described()
            convert.portable(database, copy, described)
            drill.compare({**described, "exact": True}, copy.described(), set_id)
            return self._dump(set_id, "database", copy)

    def _save_keys(self, set_id):
        """Fingerprints of the keys, and with a passphrase the keys themselves."""
        values = {
            name: os.environ[variable] for name, variable in {**KEYS, **LOGINS}.items() if os.environ.get(variable)
        }
        found = {"fingerprints": {name: sealed.fingerprint(values[name]) for name in KEYS if name in values}}
        passphrase = os.environ.get("BACKUP_PASSPHRASE")
        if passphrase:
            found["file"] = self.sets.save_json(set_id, "keys.json", sealed.seal(passphrase, values))
        return found

    def _save_deployment(self, set_id):
        text = (FOLDER / "deployment.json").read_bytes()
        return self.sets.save(set_id, "deployment.json.gz", io.BytesIO(gzip.compress(text)))

    # -- retention -------------------------------------------------------------------------------------------------

    def prune(self):
        """Remove what is no longer wanted."""
        with held("removing old backups"):
            return {"removed": self._prune(self.options.dry_run), "locked": self._kept()}

    def _prune(self, dry_run):
        """IDs of the sets that go, incomplete ones included."""
        now, complete = datetime.datetime.now(datetime.timezone.utc), self.sets.complete()
        going = {manifest["id"] for manifest in expired(complete, now, **self.settings["retention"])}
        left = [manifest for manifest in complete if manifest["id"] not in going]
        oldest = new_id(now - datetime.timedelta(seconds=INCOMPLETE_SECONDS))
        known = {manifest["id"] for manifest in complete}
        removed = sorted(going | {set_id for set_id in self.sets.ids() if set_id not in known and set_id < oldest})
        if removed and not dry_run:
            for set_id in removed:
                self.sets.remove(set_id)
            self._remove_unused(left)
            log(f"removed {len(removed)} sets that are no longer wanted: {', '.join(removed)}")
            if self.sets.locked:
                log(self._kept())
        return removed

    def _kept(self):
        """The sentence about what the bucket keeps of the removed sets, or an empty text."""
        locked = self.sets.locked
        if not locked:
            return ""
        return (f"The bucket keeps {len(locked)} of the objects that were removed as versions, since they are locked"
                f" until {max(locked).astimezone(datetime.timezone.utc):%Y-%m-%dT%H:%M:%SZ}.")

    def _remove_unused(self, left):
        try:
            for name in list(artifacts.unused(self.sets, left)):
                self.sets.delete(name)
                self.sets.store.tidy(name.rpartition("/")[0])
        except BackupError as error:
            log(f"contents of artifacts that no set needs any more stay: {error}")

    # -- look ------------------------------------------------------------------------------------------------------

    def list(self):
        """Complete sets, and what retention would remove."""
        complete = self.sets.complete()
        known = {manifest["id"] for manifest in complete}
        now = datetime.datetime.now(datetime.timezone.utc)
        return {"sets": complete, "incomplete": [set_id for set_id in self.sets.ids() if set_id not in known],
                "expired": [manifest["id"] for manifest in expired(complete, now, **self.settings["retention"])],
                "location": self.sets.store.location}

    def verify(self):
        """Restore a set into a throw-away database and compare."""
        return {"verified": self._verify(self.sets.find(self.options.set))}

    def _verify(self, manifest):
        now = int(time.time())
        found = {"at": now, "version": self.settings["manifest"]["mlflow_version"]}
        try:
            found.update(drill.run(self.sets, manifest, self.exchange, self.settings["sample"], log), ok=True)
        except Exception as error:
            self.sets.save_json(manifest["id"], "verified.json", {**found, "ok": False, "reason": sentence_of(error)})
            self.sets.status(last_failed=now)
            raise
        self.sets.save_json(manifest["id"], "verified.json", found)
        # The age that matters is that of the data.
        self.sets.status(last_verified=int(datetime.datetime.fromisoformat(manifest["begun"]).timestamp()))
        log(f"backup {manifest['id']} is verified: {found['rows']} rows, {found['artifacts']} artifacts, of which "
            f"{found['artifacts_read']} were read")
        return {"id": manifest["id"], **found}

    # -- upgrade ---------------------------------------------------------------------------------------------------

    def rehearse(self):
        """Migrate a restored copy of a set to this version of MLflow, and undo that; the set remembers the result."""
        import rehearsal

        manifest, wanted = self.sets.find(self.options.set), self.settings["manifest"]["mlflow_version"]
        rehearsal.refuse_other_version(wanted, self.settings["manifest"]["image"])
        found = {**rehearsal.run(self.sets, manifest, self.exchange, log), "from": manifest["mlflow_version"],
                 "to": wanted}
        # In a file of its own, since it is long and only a downgrade reads it.
        self.sets.save_json(manifest["id"], "structure.json", found["downgrade"].pop("before"))
        self.sets.save_json(manifest["id"], "rehearsal.json", found)
        return {"set": manifest["id"], "rehearsal": found}

    def state(self):
        """The revision of the schema, and whether it is that of a set; rows that came since, by table."""
        manifest = self.sets.find(self.options.set)
        database, dump = databases.open_database(), manifest["database"]["dumps"]["database"]
        now = database.described()
        more = {table: number - dump["counts"].get(table, 0) for table, number in now["counts"].items()
                if number > dump["counts"].get(table, 0)}
        unchanged = now["schema"] == dump["schema"] and now["users_schema"] == dump["users_schema"]
        return {"set": manifest, "schema": now["schema"], "more": more, "unchanged": unchanged,
                "rehearsal": self.sets.read_json(manifest["id"], "rehearsal.json") or {}}

    def prepopulate(self):
        """Fill the columns of trace analytics while the older server runs."""
        import schema

        return {"filled": schema.prepopulate(databases.open_database().engine())}

    def downgrade(self):
        """Bring the schema back to that of a set; the server must be closed."""
        import rehearsal
        import schema

        manifest = self.sets.find(self.options.set)
        rehearsed = (self.sets.read_json(manifest["id"], "rehearsal.json") or {}).get("downgrade")
        if not rehearsed or not rehearsed["possible"]:
            reason = rehearsed["reason"] if rehearsed else "it was not rehearsed."
            raise BackupError(f"The schema cannot be brought back to that of backup {manifest['id']}: {reason}")
        database = databases.open_database()
        users = databases.users_database(database) or database
        with held("a downgrade"):
            rehearsal.undo(database.engine(), users.engine() if schema.has_users() else None, rehearsed["revisions"])
        before = self.sets.read_json(manifest["id"], "structure.json")
        differing = schema.differences(before, schema.structure(database.engine()))
        if differing:
            raise BackupError(f"The downgrade does not restore the schema of before: {'; '.join(differing[:3])}.")
        log(f"the schema is that of backup {manifest['id']} again")
        return {"schema": database.described()["schema"]}

    # -- restore ---------------------------------------------------------------------------------------------------

    def keys(self):
        """The encrypted keys of a set, and whether those of this instance are the same."""
        manifest = self._to_restore()
        found = manifest["keys"]
        differing = [name for name, known in found["fingerprints"].items()
                     if not sealed.same(os.environ.get(KEYS[name], ""), known)]
        return {"set": manifest, "differing": differing, "sealed": self.sets.read_json(manifest["id"], "keys.json")}

    def restore(self):
        """Load a set beside what there is, and its artifacts into the store."""
        manifest = self._to_restore()
        database = databases.open_database()
        if self.options.empty:
            refuse_rows(database)
        log(f"restoring backup {manifest['id']} of {manifest['instance']}")
        database.prepare()
        with held("a restore"):
            self._load(manifest, database)
            numbers = artifacts.restore(self.sets, manifest, open_artifacts(), log)
        log(f"{numbers['count']} artifacts: {numbers['written']} written, {numbers['kept']} were there")
        return {"set": manifest, "artifacts": numbers}

    def target(self):
        """Whether the stores that are named (database, artifacts) can be filled by a migration."""
        if "database" in self.options.stores:
            database = databases.open_database()
            refuse_rows(database)
            if not self.options.dry_run:
                database.prepare()
                database.revert()
            log(f"the database {database.name} is empty and can be filled")
        if "artifacts" in self.options.stores:
            log(f"{writable(open_artifacts(), self.options)} can be filled")
        return {}

    def _to_restore(self):
        """The set that is asked for, unless its schema is one that this version of MLflow cannot read."""
        manifest = self.sets.find(self.options.set)
        theirs, ours = manifest["mlflow_version"], self.settings["manifest"]["mlflow_version"]
        if _numbers(theirs) > _numbers(ours):
            raise BackupError(
                f"Backup {manifest['id']} is of MLflow {theirs}, and mlflow_version is {ours}, which cannot read its"
                f" database; set mlflow_version to {theirs} or a newer one."
            )
        return manifest

    def _load(self, manifest, database):
        """Load the dumps of a set into the databases ``new``, and compare."""
        users = databases.users_database(database)
        if users:
            users.prepare()
        dumps, dialect = manifest["database"]["dumps"], manifest["database"]["dialect"]
        if dialect != database.dialect or "users" not in dumps and users and dumps["database"]["users_schema"]:
            self._load_rows(manifest, database, users)
        else:
            for name, dump in dumps.items():
                target = database if name == "database" else users
                if target is None:
                    log(f"{dump['name']} is left out: this instance has no users of its own")
                    continue
                drill.load(self.sets, manifest, dump, target, self.exchange)
                drill.compare(dump, target.described(target.new), manifest["id"])
        self._rewrite(manifest, database)
        rows = sum(sum(dump["counts"].values()) for dump in dumps.values())
        log(f"the database is loaded, and has the {rows} rows of the backup")

    def _load_rows(self, manifest, database, users):
        """The same from a database of another kind, row by row."""
        import convert

        if manifest["database"]["dialect"] != "sqlite":
            raise BackupError(
                f"Backup {manifest['id']} is of {manifest['database']['dialect']}, and the database of this instance is"
                f" of {database.dialect}; rows move from one to the other by playbooks/migrate.yml."
            )
        dumps = manifest["database"]["dumps"]
        schema = dumps["database"]["schema"]
        users_schema = next(filter(None, (dump["users_schema"] for dump in dumps.values())), "")
        if users:
            convert.create_tables(database.engine(database.new), schema, "")
            convert.create_tables(users.engine(users.new), "", users_schema)
        else:
            convert.create_tables(database.engine(database.new), schema, users_schema)
        targets = [(each, each.new) for each in filter(None, (database, users))]
        with tempfile.TemporaryDirectory(dir=self.exchange.folder) as folder:
            for name, dump in dumps.items():
                file = databases.open_database(f"sqlite:///{folder}/{name}.db")
                drill.load(self.sets, manifest, dump, file, self.exchange, file.name)
                convert.copy(file, file.name, targets)
        counts = {}
        for target, new in targets:
            counts |= target.described(new)["counts"]
        for dump in dumps.values():
            wanted = {table: number for table, number in dump["counts"].items() if number}
            drill.compare({**dump, "counts": wanted}, {"schema": dump["schema"], "counts": counts}, manifest["id"])

    def _rewrite(self, manifest, target):
        """Direct artifact URIs name the store in which the artifacts were."""
        root = os.environ["MLFLOW_ARTIFACTS_DESTINATION"]
        if manifest["artifacts"]["root"] == root:
            return
        import locations

        with target.engine(target.new).begin() as connection:
            changed = locations.rewrite(connection, manifest["artifacts"]["root"], root)
        if any(changed.values()):
            log(f"{sum(changed.values())} URIs of artifacts name {root} now")

    def _databases(self):
        main = databases.open_database()
        users = databases.users_database(main)
        return [main] + ([users] if users and (os.path.exists(users.new) or os.path.exists(users.old)) else [])

    def promote(self):
        """The restored database takes the place of the current one."""
        for database in self._databases():
            database.promote()
        return {}

    def revert(self):
        """The former database comes back."""
        return {"reverted": [database.revert() for database in self._databases()][0]}

    def finish(self):
        """The former database goes; returns whether there was one."""
        return {"finished": [database.finish() for database in self._databases()][0]}


def held(purpose):
    """The lock of the instance's maintenance, as a context."""
    return maintenance_lock.held(os.environ["MLFLOW_BACKEND_STORE_URI"], purpose, LOCK_SECONDS)


def refuse_rows(database):
    """Raise BackupError where users have written to a database."""
    counts = database.described()["counts"] if database.has_tables() else {}
    written = [f"{number} {table}" for table, number in counts.items()
               if table in USED and number > USED[table]]
    if written:
        raise BackupError(
            f"The database {database.name} is not empty ({', '.join(written)}); a migration fills an empty one. Remove "
            "its data or name another database, and repeat."
        )


def writable(store, options):
    """What a store calls itself, after an object was written to it and removed; StoreError where it cannot be used."""
    try:
        found = store.look()
    except stores.StoreError as error:
        if error.missing and options.create_bucket:  # by the server when it starts
            return f"{store.location}, where the bucket is to be created,"
        raise
    if not options.dry_run:
        name = f"mlops-mlflow-target-{os.urandom(4).hex()}"
        store.write(name, b"x")
        store.delete(name)
    return found


def sentence_of(error):
    """One sentence of an exception."""
    import sqlalchemy

    if isinstance(error, sqlalchemy.exc.DBAPIError):
        return f"The database answers: {' '.join(str(error.orig).split())}"
    return str(error) or type(error).__name__


def _numbers(version):
    """A version as numbers that can be compared; a release candidate is less than its release."""
    found = re.match(r"[0-9]+(\.[0-9]+)*", version)
    rest = version[found.end():] if found else version
    return [int(part) for part in found.group().split(".")] + [0 if rest else 1] if found else []


def main(arguments):
    """Run a command; returns the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "command",
        choices=["create", "list", "verify", "keys", "restore", "target", "promote", "revert", "finish", "prune",
                 "rehearse", "state", "prepopulate", "downgrade"],
    )
    parser.add_argument("--set", default="latest")
    parser.add_argument("--source", default="")
    parser.add_argument("--kind", default="manual")
    parser.add_argument("--moment", default="")
    parser.add_argument("--stores", type=lambda text: text.split(","), default=[])
    for switch in ("--verify", "--portable", "--empty", "--dry-run", "--create-bucket"):
        parser.add_argument(switch, action="store_true")
    options = parser.parse_args(arguments)
    try:
        with Exchange(os.environ["EXCHANGE"]) as exchange:
            result = getattr(Backup(exchange, options), options.command)()
    except Exception as error:
        if not isinstance(error, EXPECTED):
            traceback.print_exc()
        # In one line, of which module mlflow_backup takes the reason.
        sentence = " ".join(sentence_of(error).split())
        print(f"backup: {options.command} failed: {sentence}", file=sys.stderr, flush=True)
        return 1
    # In short lines, since runtimes of containers break long ones.
    text = base64.b64encode(json.dumps(result).encode()).decode()
    for start in range(0, len(text), 4000):
        print("RESULT " + text[start:start + 4000])
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
