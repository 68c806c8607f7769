"""Metrics of runs with less work for each; mlflow_server_disabled_hooks switches it off by the name `log_metrics`.

MLflow makes two objects of SQLAlchemy's ORM of each metric that is logged, and tracks their changes; for a batch it
opens a second connection that reads the run again.
This sends rows instead of objects, in one transaction, and to PostgreSQL in one statement. MLflow's own checks, errors,
retries and order of locks stay, and what is not the usual case goes MLflow's own way.
"""

import functools
import importlib
import inspect

import hook_database
import server_hooks as hooks

REPLACED = (
    "log_batch",
    "_log_metrics",
    "_log_metrics_once",
    "_update_latest_metrics_if_necessary",
    "_check_run_is_active",
    "_get_run",
    "_get_query",
    "sanitize_metric_value",
)
"""Methods of MLflow's SqlAlchemyStore whose work is done here, or that are called in their place."""
KNOWN = {
    "f99aa793d7102f496df258d216e07fe2cdc088929a03f2d251d6042a41448625",  # 3.10
    "a728f3b0e65cf6735aefb9ad4b60eb11eab4172e52134bc3687b2d79ada32c41",  # 3.11, 3.12
    "a478bc82a1fc9e73828d86d9f3f7ed7f61c71ed09c9688bfe5267c8b9251cf6c",  # 3.13 to 3.15
    "143512fa6bdfd722a0bc17d2c20115710f5046a88a63f0dbe06e904e21f7ce73",  # 3.16, 3.17
}
"""SHA-256 of the source of these methods in the versions that what this does instead was compared with."""


def log_metrics(module):
    """Replace the two methods where MLflow's own are as they are known."""
    store = module.SqlAlchemyStore
    if not hooks.as_known("log_metrics", "logs metrics", [(store, REPLACED)], KNOWN):
        return
    tables = Tables(importlib.import_module("sqlalchemy"), module)
    once = "_log_metrics_once" if hasattr(store, "_log_metrics_once") else "_log_metrics"
    setattr(store, once, written(module, tables, getattr(store, once)))
    store.log_batch = batched(module, store.log_batch)
    hooks.report(log_metrics="")


class Tables:
    """Statements on the tables runs, metrics and latest_metrics.

    Arguments:
        sqlalchemy: the module.
        module: MLflow's, which has the models.
    """

    BATCH = 500
    """Keys that one statement names, as in MLflow: databases limit the number of parameters."""
    COLUMNS = ("value", "timestamp", "step", "is_nan")
    ROWS = "unnest(%({0}_key)s::text[], %({0}_value)s::float8[], %({0}_timestamp)s::int8[], %({0}_step)s::int8[], "
    ROWS += "%({0}_is_nan)s::bool[]) AS batch (key, value, timestamp, step, is_nan)"
    TOGETHER = f"""
        WITH run AS (SELECT run_uuid, lifecycle_stage FROM runs WHERE run_uuid = %(run)s),
        active AS (SELECT run_uuid FROM run WHERE lifecycle_stage = %(active)s),
        logged AS (
            INSERT INTO metrics (run_uuid, key, value, timestamp, step, is_nan)
            SELECT active.run_uuid, batch.* FROM active, {ROWS.format("all")} RETURNING step
        ), latest AS (
            INSERT INTO latest_metrics AS latest (run_uuid, key, value, timestamp, step, is_nan)
            SELECT active.run_uuid, batch.* FROM active, {ROWS.format("new")}
            WHERE (SELECT count(*) FROM logged) > 0 ORDER BY batch.key
            ON CONFLICT (run_uuid, key) DO UPDATE SET value = excluded.value, timestamp = excluded.timestamp,
            step = excluded.step, is_nan = excluded.is_nan
            WHERE (excluded.step, excluded.timestamp, excluded.value) > (latest.step, latest.timestamp, latest.value)
        )
        SELECT run_uuid, lifecycle_stage FROM run
    """
    """All that MLflow sends, for PostgreSQL. The metrics are counted so that they are inserted before the latest are
    locked, which is in the order of their keys."""

    def __init__(self, sqlalchemy, module):
        metrics, latest = module.SqlMetric.__table__, module.SqlLatestMetric.__table__
        runs = module.SqlRun.__table__.c
        run, keys = sqlalchemy.bindparam("run"), sqlalchemy.bindparam("keys", expanding=True)
        theirs = (latest.c.run_uuid == run, latest.c.key.in_(keys))
        self.run = sqlalchemy.select(runs.run_uuid, runs.lifecycle_stage).where(runs.run_uuid == run)
        self.insert = metrics.insert()
        self.present = sqlalchemy.select(latest.c.key).where(*theirs)
        self.lock = (
            sqlalchemy.select(latest.c.key, latest.c.step, latest.c.timestamp, latest.c.value)
            .where(*theirs)
            .order_by(latest.c.run_uuid, latest.c.key)
            .with_for_update()
        )
        self.update = (
            latest.update()
            .where(latest.c.run_uuid == run, latest.c.key == sqlalchemy.bindparam("of"))
            .values({name: sqlalchemy.bindparam(f"new_{name}") for name in self.COLUMNS})
        )
        self.insert_latest = latest.insert()
        self.active = module.LifecycleStage.ACTIVE

    def write_together(self, connection, run_id, rows):
        """As write, in one statement, if the run is active; the run, or None.

        Arguments:
            connection: SQLAlchemy's, to PostgreSQL by psycopg2.
        """
        parts = {"all": rows, "new": latest(rows).values()}
        names = ("key", *self.COLUMNS)
        values = {f"{part}_{name}": [row[name] for row in parts[part]] for part in parts for name in names}
        return connection.exec_driver_sql(self.TOGETHER, {"run": run_id, "active": self.active, **values}).first()

    def write(self, connection, run_id, rows):
        """Insert metrics of a run, and put those that are later than its latest in their place.

        Arguments:
            connection: SQLAlchemy's, in a transaction.
            rows: columns of the metrics by name.
        """
        connection.execute(self.insert, rows)
        old = {}
        keys = sorted({row["key"] for row in rows})
        for begin in range(0, len(keys), self.BATCH):
            some = {"run": run_id, "keys": keys[begin : begin + self.BATCH]}
            if connection.dialect.name != "postgresql":
                # First which there are: to lock rows that do not exist locks gaps between others in MariaDB and MySQL.
                some["keys"] = [key for (key,) in connection.execute(self.present, some)]
            if some["keys"]:
                old.update((key, later) for key, *later in connection.execute(self.lock, some))
        new = {
            key: row for key, row in latest(rows).items() if key not in old or order(row) > old[key]
        }
        changed = [
            {"run": run_id, "of": key, **{f"new_{name}": new[key][name] for name in self.COLUMNS}}
            for key in keys
            if key in new and key in old
        ]
        added = [new[key] for key in keys if key in new and key not in old]
        if changed:
            connection.execute(self.update, changed)
        if added:
            connection.execute(self.insert_latest, added)


def latest(rows):
    """Of the metrics of each key the last one, by the key."""
    new = {}
    for row in rows:
        key = row["key"]
        if key not in new or order(row) > order(new[key]):
            new[key] = row
    return new


def order(row):
    """What decides which of two metrics of one key is the later one."""
    return [row["step"], row["timestamp"], row["value"]]


class Checked(list):
    """Metrics that MLflow's checks have passed; it checks those of a batch twice."""


def written(module, tables, own):
    """MLflow's method that writes metrics; a metric that is there already goes its own way."""
    integrity_error = importlib.import_module("sqlalchemy.exc").IntegrityError
    usual = hook_database.of_all_rows(module.SqlAlchemyStore)
    writes = {"read_only": False} if "read_only=False" in inspect.getsource(own) else {}

    @functools.wraps(own)
    def log(self, run_id, metrics):
        rows, seen = [], set()
        for index, metric in enumerate(metrics):
            if not isinstance(metrics, Checked):
                path = "" if len(metrics) == 1 else f"metrics[{index}]"
                module._validate_metric(metric.key, metric.value, metric.timestamp, metric.step, path=path)
            seen.add(metric)
            if len(seen) > len(rows):
                is_nan, value = self.sanitize_metric_value(metric.value)
                rows.append(
                    {
                        "run_uuid": run_id,
                        "key": metric.key,
                        "value": value,
                        "timestamp": metric.timestamp,
                        "step": metric.step,
                        "is_nan": is_nan,
                    }
                )
        one = rows and usual(self) and hook_database.is_postgresql(self.engine)
        if (in_one_statement if one else in_one_transaction)(self, run_id, rows):
            return None
        return own(self, run_id, metrics)

    def in_one_statement(self, run_id, rows):
        """Whether the metrics are written."""
        with hook_database.statements_alone(), self.ManagedSessionMaker(**writes) as session:
            try:
                run = tables.write_together(session.connection(), run_id, rows)
            except integrity_error:
                session.rollback()
                return False
            self._check_run_is_active(run or self._get_run(run_uuid=run_id, session=session))
            return run is not None

    def in_one_transaction(self, run_id, rows):
        """Whether the metrics are written."""
        with self.ManagedSessionMaker(**writes) as session:
            # Where workspaces are on, a run is looked for in another way.
            run = usual(self) and session.connection().execute(tables.run, {"run": run_id}).first()
            self._check_run_is_active(run or self._get_run(run_uuid=run_id, session=session))
            try:
                if rows:
                    tables.write(session.connection(), run_id, rows)
                session.commit()
                return True
            except integrity_error:
                session.rollback()
                return False

    return log


def batched(module, own):
    """MLflow's log_batch; a batch of metrics of a run alone takes one transaction instead of two."""

    @functools.wraps(own)
    def log_batch(self, run_id, metrics, params, tags):
        if not metrics or params or tags or any(metric.model_id is not None for metric in metrics):
            return own(self, run_id, metrics, params, tags)
        module._validate_run_id(run_id)
        metrics, params, tags = module._validate_batch_log_data(metrics, params, tags)
        module._validate_batch_log_limits(metrics, params, tags)
        try:
            return self._log_metrics(run_id, Checked(metrics))
        except module.MlflowException:
            raise
        except Exception as error:
            raise module.MlflowException(error, module.INTERNAL_ERROR) from error

    return log_batch
