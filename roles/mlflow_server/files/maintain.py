"""Maintenance of an instance's database and artifacts, in a Job that has the server's image and environment.

Reads MAINTENANCE, JSON: ``tasks`` (of vacuum, reindex, gc), ``older_than_seconds`` for gc, ``dry_run``. Without tasks,
or with dry_run, it only reports. The output ends with lines that begin with RESULT: JSON, in base64.

vacuum    PostgreSQL: VACUUM ANALYZE; MariaDB, MySQL: ANALYZE TABLE; SQLite: ANALYZE, and VACUUM where a quarter is free
reindex   creates indexes that MLflow's migrations make and the database lacks; builds PostgreSQL's invalid ones again
gc        removes for good what was deleted so long ago: runs and logged models with their artifacts, and experiments;
          except what a registered version refers to, which `mlflow gc` removes

usage: maintain.py [gc]    with gc, of a CronJob: this alone, of what was deleted longer ago than GC_OLDER_THAN, such as
                           30d or 7d12h; all if that is empty
"""

import base64
import contextlib
import json
import os
import re
import sys
import tempfile
import time

import maintenance_lock
import stores

DATABASE = os.environ["MLFLOW_BACKEND_STORE_URI"]
ROOT = os.environ["MLFLOW_ARTIFACTS_DESTINATION"]
LOCK_SECONDS = 600
SHOWN = 1000
"""Most names in a list of the report."""
WORDS = {"runs": "runs", "models": "logged models", "experiments": "experiments"}
"""Of what gc removes."""
SPAN = re.compile(r"(?:([\d.]+)d)?(?:([\d.]+)h)?(?:([\d.]+)m)?(?:([\d.]+)s)?")
RUN = re.compile(r"[0-9a-f]{32}")
MODEL = re.compile(r"models:/(m-[0-9a-f]+)")


def log(text):
    """Show progress."""
    print(text, flush=True)


class Maintenance:
    """What is done and reported.

    Args:
        settings: of the environment.
    """

    def __init__(self, settings):
        import sqlalchemy

        self.settings = settings
        self.tasks = [] if settings["dry_run"] else settings["tasks"]
        self.text = sqlalchemy.text
        self.engine = sqlalchemy.create_engine(DATABASE, poolclass=sqlalchemy.pool.NullPool)
        self.inspector, self._wanted = sqlalchemy.inspect(self.engine), None
        self.dialect = self.engine.dialect.name.replace("mariadb", "mysql")

    def rows(self, statement, **values):
        """The rows that a statement returns."""
        with self.engine.connect() as connection:
            return connection.execute(self.text(statement), values).all()

    def gc_alone(self):
        """Remove what was deleted, without a report; returns whether all of it went."""
        found = {}
        with maintenance_lock.held(DATABASE, "gc", LOCK_SECONDS):
            done = self.do_gc(found)
        for each, names in sorted(found["gc"]["spared"].items()):
            log(f"{each} stays, since a registered version is from it: {', '.join(names)}")
        for failure in found["gc"]["failed"]:
            log(f"could not be removed: {failure}")
        log(", ".join(done) or "nothing was removed")
        return not found["gc"]["failed"]

    def run(self):
        """Report, and do the tasks."""
        found = {"database": self.database(), "indexes": self.indexes(), "gc": self.gc(), "orphans": self.orphans(),
                 "done": []}
        if self.tasks:
            with maintenance_lock.held(DATABASE, "maintenance", LOCK_SECONDS):
                for task in ("gc", "reindex", "vacuum"):
                    if task in self.tasks:
                        log(f"{task}")
                        found["done"] += getattr(self, f"do_{task}")(found)
            found["database_after"] = self.database()
        return found

    # -- database --------------------------------------------------------------------------------------------------

    def database(self):
        """Bytes of the database, and of its largest tables with their rows."""
        return getattr(self, f"_{self.dialect}")()

    def _postgresql(self):
        tables = self.rows(
            "SELECT relname, pg_total_relation_size(relid), n_live_tup, n_dead_tup,"
            " greatest(last_vacuum, last_autovacuum), greatest(last_analyze, last_autoanalyze)"
            " FROM pg_stat_user_tables ORDER BY 2 DESC LIMIT 20")
        size = self.rows("SELECT pg_database_size(current_database())")[0][0]
        return {"bytes": size, "free_bytes": None, "tables": [
            {"name": name, "bytes": total, "rows": live, "dead_rows": dead, "vacuumed": _time(vacuumed),
             "analyzed": _time(analyzed)} for name, total, live, dead, vacuumed, analyzed in tables]}

    def _mysql(self):
        tables = self.rows(
            "SELECT table_name, coalesce(data_length + index_length, 0), coalesce(table_rows, 0),"
            " coalesce(data_free, 0) FROM information_schema.tables WHERE table_schema = database() ORDER BY 2 DESC")
        return {"bytes": int(sum(row[1] for row in tables)), "free_bytes": int(sum(row[3] for row in tables)),
                "tables": [{"name": name, "bytes": int(size), "rows": int(rows)} for name, size, rows,
                           _free in tables[:20]]}

    def _sqlite(self):
        pages, size, free = (self.rows(f"PRAGMA {name}")[0][0] for name in ("page_count", "page_size",
                                                                            "freelist_count"))
        return {"bytes": pages * size, "free_bytes": free * size, "tables": []}

    def do_vacuum(self, found):
        """Remove what is dead, and renew statistics; clients go on meanwhile, except with SQLite."""
        quote = self.engine.dialect.identifier_preparer.quote
        if self.dialect == "postgresql":
            statements = ["VACUUM (ANALYZE)"]
        elif self.dialect == "mysql":
            statements = [f"ANALYZE TABLE {', '.join(map(quote, self.inspector.get_table_names()))}"]
        else:
            database = found["database"]
            statements = ["ANALYZE"] + (["VACUUM"] if database["free_bytes"] * 4 > database["bytes"] else [])
        self._autocommit(*statements)
        return [statement.partition(" TABLE")[0] for statement in statements]

    def _autocommit(self, *statements):
        engine = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            for statement in statements:
                connection.execute(self.text(statement))

    # -- indexes ---------------------------------------------------------------------------------------------------

    def _missing(self):
        """Indexes that MLflow's own migrations make, and that have no counterpart in the database.

        The models of MLflow are no measure: they declare an index that no migration makes.
        """
        import sqlalchemy
        from mlflow.store.db.utils import _initialize_tables

        if self._wanted is None:
            with tempfile.TemporaryDirectory() as folder:
                fresh = sqlalchemy.create_engine(f"sqlite:///{folder}/fresh.db", poolclass=sqlalchemy.pool.NullPool)
                _initialize_tables(fresh)
                inspector = sqlalchemy.inspect(fresh)
                self._wanted = [(table, index["name"], index["column_names"], bool(index["unique"]))
                                for table in inspector.get_table_names() for index in inspector.get_indexes(table)]
        inspector = sqlalchemy.inspect(self.engine)
        tables = set(inspector.get_table_names())
        for table, name, columns, unique in self._wanted:
            if table not in tables or None in columns:
                continue
            there = [index["column_names"] for index in inspector.get_indexes(table)]
            there += [entry["column_names"] for entry in inspector.get_unique_constraints(table)]
            there.append(inspector.get_pk_constraint(table)["constrained_columns"])
            names = {column["name"] for column in inspector.get_columns(table)}
            if set(columns) <= names and not any(other[:len(columns)] == columns for other in there):
                yield table, name, columns, unique

    def _invalid(self):
        """Names of PostgreSQL's indexes that were not built to their end, and are not used."""
        if self.dialect != "postgresql":
            return []
        return [row[0] for row in self.rows(
            "SELECT i.indexrelid::regclass::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
            " JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE NOT i.indisvalid AND n.nspname = current_schema()")]

    def indexes(self):
        """Missing and invalid indexes."""
        missing = [f"{table}: {name} ({', '.join(columns)})" for table, name, columns, _unique in self._missing()]
        return {"missing": missing, "invalid": self._invalid()}

    def do_reindex(self, found):
        """Create and build again; PostgreSQL's tables can be written to meanwhile."""
        quote = self.engine.dialect.identifier_preparer.quote
        concurrently = "CONCURRENTLY " if self.dialect == "postgresql" else ""
        done = []
        for table, name, columns, unique in list(self._missing()):
            log(f"creating {name}")
            self._autocommit(f"CREATE {'UNIQUE ' if unique else ''}INDEX {concurrently}{quote(name)} ON {quote(table)}"
                             f" ({', '.join(map(quote, columns))})")
            done.append(f"CREATE INDEX {name}")
        for name in self._invalid():
            log(f"building {name} again")
            self._autocommit(f"REINDEX INDEX CONCURRENTLY {name}")
            done.append(f"REINDEX INDEX {name}")
        return done

    # -- what was deleted ------------------------------------------------------------------------------------------

    def _referenced(self):
        """Names of registered versions, by the run or the logged model from which they are."""
        aliases = {}
        for name, version, alias in self.rows("SELECT name, version, alias FROM registered_model_aliases"):
            aliases.setdefault((name, str(version)), []).append(alias)
        source_run = dict(map(tuple, self.rows("SELECT model_id, source_run_id FROM logged_models")))
        found = {}
        versions = self.rows("SELECT name, version, run_id, source FROM model_versions"
                             " WHERE current_stage <> 'Deleted_Internal'")
        for name, version, run, source in versions:
            logged = MODEL.match(source or "")
            inside = RUN.search(source or "")
            ends = aliases.get((name, str(version)))
            shown = f"{name} {version}" + (f" (alias {', '.join(sorted(ends))})" if ends else "")
            model = logged.group(1) if logged else None
            for each in filter(None, {run, model, source_run.get(model), inside and inside.group()}):
                found.setdefault(each, []).append(shown)
        return found

    def gc(self):
        """What was deleted long enough ago, by kind, and what of it stays since a registered version is from it.

        An experiment goes with its logged models, so it stays as long as it has a run or a model that stays.
        """
        oldest = int((time.time() - self.settings["older_than_seconds"]) * 1000)

        def deleted(table, key, column):
            return [str(row[0]) for row in self.rows(
                f"SELECT {key} FROM {table} WHERE lifecycle_stage = 'deleted' AND {column} < :oldest"
                f" ORDER BY {column}", oldest=oldest)]

        runs, models = deleted("runs", "run_uuid", "deleted_time"), deleted("logged_models", "model_id",
                                                                            "last_updated_timestamp_ms")
        referenced = self._referenced()
        found = {"runs": [run for run in runs if run not in referenced],
                 "models": [model for model in models if model not in referenced],
                 "spared": {each: sorted(referenced[each]) for each in runs + models if each in referenced}}

        def of_deleted_experiments(table, key):
            return [(str(experiment), each) for experiment, each in self.rows(
                f"SELECT experiments.experiment_id, {key} FROM {table} JOIN experiments"
                f" ON experiments.experiment_id = {table}.experiment_id"
                " WHERE experiments.lifecycle_stage = 'deleted'")]

        inside = {}
        for experiment, model in of_deleted_experiments("logged_models", "model_id"):
            inside.setdefault(experiment, []).append(model)
        going = set(found["runs"])
        kept = {experiment for experiment, run in of_deleted_experiments("runs", "run_uuid") if run not in going}
        kept |= {experiment for experiment, there in inside.items() if any(model in referenced for model in there)}
        found["experiments"] = [experiment for experiment in deleted("experiments", "experiment_id",
                                                                     "last_update_time") if experiment not in kept]
        with_them = [model for experiment in found["experiments"] for model in inside.get(experiment, [])]
        found["models"] += [model for model in with_them if model not in found["models"]]
        return found

    def do_gc(self, found):
        """Artifacts first, then the row, as `mlflow gc` does."""
        # Looked up again, since who had the lock, or a user, may have changed what is deleted.
        found["gc"] = self.gc()
        removal, done = Removal(self), []
        for kind in ("runs", "models", "experiments"):
            removed = [each for each in found["gc"][kind] if removal.remove(kind, each)]
            if removed:
                done.append(f"removed {len(removed)} deleted {WORDS[kind]}")
        found["gc"]["failed"] = removal.failed[:SHOWN]
        return done

    # -- what does not fit together --------------------------------------------------------------------------------

    def orphans(self):
        """Folders of artifacts without rows, and registered versions without artifacts."""
        if os.environ.get("MLFLOW_ENABLE_WORKSPACES"):
            return {"folders": [], "versions": [], "reason": "with workspaces, folders are not compared"}
        store = stores.open_store(stores.from_uri(ROOT))
        known = {"": {row[0] for row in self.rows("SELECT run_uuid FROM runs")},
                 "models/": {row[0] for row in self.rows("SELECT model_id FROM logged_models")},
                 "traces/": {row[0] for row in self.rows("SELECT request_id FROM trace_info")}}
        experiments = {str(row[0]) for row in self.rows("SELECT experiment_id FROM experiments")}
        folders = []
        for top in self._folders(store, ""):
            if not top.strip("/").isdigit():
                continue  # backups and others that MLflow does not make
            if top.strip("/") not in experiments:
                folders.append(top)
                continue
            for kind, ids in known.items():
                folders += [path for path in self._folders(store, top + kind) if path not in (top + "models/",
                            top + "traces/") and path.rstrip("/").rpartition("/")[2] not in ids]
        return {"folders": sorted(folders)[:SHOWN], "count": len(folders), "versions": self._without_artifacts(store),
                "reason": ""}

    @staticmethod
    def _folders(store, beginning):
        try:
            return list(store.folders(beginning))
        except FileNotFoundError:
            return []

    def _without_artifacts(self, store):
        """Registered versions whose artifacts are to be in the store and are not."""
        places = dict(map(tuple, self.rows("SELECT model_id, artifact_location FROM logged_models")))
        found = []
        rows = self.rows("SELECT name, version, source, storage_location FROM model_versions"
                         " WHERE current_stage <> 'Deleted_Internal'")
        for model, version, source, location in rows:
            logged = MODEL.match(source or "")
            uri = (places.get(logged.group(1)) if logged else None) or location or source or ""
            path = _path_below(uri).rstrip("/")  # of a folder, or of a file
            if path and not any(f"{name}/".startswith(f"{path}/") for name, _size in store.sizes(path)):
                found.append(f"{model} {version}: {uri}")
        return found[:SHOWN]


class Removal:
    """Removes what was deleted, by MLflow's own store.

    Args:
        maintenance: whose database it is.

    Attributes:
        failed: a sentence for each that could not be removed.
    """

    def __init__(self, maintenance):
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        self.maintenance, self.failed, self.workspaces = maintenance, [], None
        if os.environ.get("MLFLOW_ENABLE_WORKSPACES"):
            from mlflow.store.tracking.sqlalchemy_workspace_store import WorkspaceAwareSqlAlchemyStore as Store

            of_experiment = dict(map(tuple, maintenance.rows("SELECT experiment_id, workspace FROM experiments")))
            self.workspaces = {str(experiment): name for experiment, name in of_experiment.items()}
            for table, key in (("runs", "run_uuid"), ("logged_models", "model_id")):
                for each, experiment in maintenance.rows(f"SELECT {key}, experiment_id FROM {table}"):
                    self.workspaces[each] = of_experiment.get(experiment)
        else:
            Store = SqlAlchemyStore
        self.store = Store(DATABASE, "mlflow-artifacts:/")

    def remove(self, kind, each):
        """Remove one of a kind (a key of WORDS); returns whether it is gone."""
        try:
            with self._workspace_of(each):
                getattr(self, f"_remove_{kind}")(each)
        except Exception as error:
            self.failed.append(f"{each}: {' '.join(str(error).split())[:200]}")
            return False
        log(f"removed {each}")
        return True

    def _workspace_of(self, each):
        """Objects of a workspace, and their artifacts, are found within it only."""
        if self.workspaces is None:
            return contextlib.nullcontext()
        from mlflow.utils.workspace_context import WorkspaceContext

        return WorkspaceContext(self.workspaces.get(each))

    def _remove_runs(self, run):
        info = self.store.get_run(run).info
        if info.lifecycle_stage != "deleted":
            raise ValueError("it was restored meanwhile")
        _remove_artifacts(info.artifact_uri)
        self.store._hard_delete_run(run)

    def _remove_models(self, model):
        _remove_artifacts(self.store.get_logged_model(model, allow_deleted=True).artifact_location)
        self.store._hard_delete_logged_model(model)

    def _remove_experiments(self, experiment):
        for table in ("runs", "logged_models"):
            # The database would remove the rows with it, and nobody would find their artifacts.
            if self.maintenance.rows(f"SELECT 1 FROM {table} WHERE experiment_id = :id", id=int(experiment)):
                raise ValueError(f"it still has {table.replace('_', ' ')}")
        self.store._hard_delete_experiment(experiment)


def _remove_artifacts(uri):
    from mlflow.exceptions import InvalidUrlException
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    try:
        get_artifact_repository(uri).delete_artifacts()
    except InvalidUrlException as error:
        log(f"{uri} is passed over, as by `mlflow gc`: {error}")


def seconds(span):
    """The seconds of a span such as 7d12h; 0 of an empty one."""
    parts = SPAN.fullmatch(span).groups()  # the model has checked it
    return sum(float(part or 0) * unit for part, unit in zip(parts, (86400, 3600, 60, 1)))


def _path_below(uri):
    """The path in the store of an artifact URI; empty for one that is elsewhere."""
    for beginning in ("mlflow-artifacts:/", ROOT.rstrip("/") + "/"):
        if uri.startswith(beginning):
            return uri[len(beginning):].lstrip("/")
    return ""


def _time(moment):
    return moment.isoformat(timespec="seconds") if moment else ""


def main(arguments):
    """Run; returns the exit code."""
    try:
        if arguments == ["gc"]:
            settings = {"tasks": ["gc"], "older_than_seconds": seconds(os.environ["GC_OLDER_THAN"]), "dry_run": False}
            return 0 if Maintenance(settings).gc_alone() else 1
        result = Maintenance(json.loads(os.environ["MAINTENANCE"])).run()
    except (maintenance_lock.Locked, stores.StoreError, OSError) as error:
        print(f"maintain: {error}", file=sys.stderr, flush=True)
        return 1
    text = base64.b64encode(json.dumps(result).encode()).decode()
    for start in range(0, len(text), 4000):  # in short lines, since runtimes of containers break long ones
        print("RESULT " + text[start:start + 4000])
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
