"""Runs created in one statement; mlflow_server_disabled_hooks switches it off by the name `create_run`.

MLflow makes objects of SQLAlchemy's ORM of a run and its tags, writes them one by one, and looks for datasets that a
new run cannot have. Here MLflow's own method makes the objects, and one statement of PostgreSQL writes them. What is
refused goes MLflow's own way, which has the errors that clients know.
"""

import contextlib
import functools
import importlib

import hook_database
import server_hooks as hooks

METHODS = ("create_run", "_get_query")
"""Methods of MLflow's SqlAlchemyStore whose work is done here, or that tell whether it is the usual store."""
KNOWN = {
    "ec896f9f8bdc61458775f6b0668103631fd457a023519b263b5ddf2568b676c6",  # 3.10 to 3.12
    "327235f1f6ee7fa6370b5872fc8d75ef313ca9783bf28b0955ee6b8b9eac1a1c",  # 3.13 to 3.16
    "90358b59392cfea506901e5e46db06e135c5da390f670e9ef4a2de2cb65f64cb",  # 3.17
}
"""SHA-256 of the source of these in the versions that what this does instead was compared with."""


def create_run(module):
    """Replace MLflow's method where it is as it is known."""
    store = module.SqlAlchemyStore
    if not hooks.as_known("create_run", "creates runs", [(store, METHODS)], KNOWN):
        return
    statement = inserted(importlib.import_module("sqlalchemy"), module)
    own, usual = store.create_run, hook_database.of_all_rows(store)

    @functools.wraps(own)
    def create(self, *arguments, **options):
        if usual(self) and hook_database.is_postgresql(self.engine):
            try:
                return own(Creating(self, module, statement), *arguments, **options)
            except Refused:
                pass
        return own(self, *arguments, **options)

    store.create_run = create
    hooks.report(create_run="")


def inserted(sqlalchemy, module):
    """The statement that inserts a run and its tags."""
    runs, tags = module.SqlRun.__table__, module.SqlTag.__table__
    columns = {column.name: sqlalchemy.bindparam(f"run_{column.name}", type_=column.type) for column in runs.columns}
    run = runs.insert().values(columns).returning(runs.c.run_uuid).cte("run")
    texts = sqlalchemy.ARRAY(sqlalchemy.Text)
    names = [sqlalchemy.func.unnest(sqlalchemy.cast(sqlalchemy.bindparam(name), texts)) for name in ("keys", "values")]
    return tags.insert().from_select(["run_uuid", "key", "value"], sqlalchemy.select(run.c.run_uuid, *names))


class Refused(Exception):
    """Nothing has been written, for a reason that MLflow's own way tells."""


class Creating:
    """In place of a store and its session, in the method that creates a run.

    Arguments:
        statement: what inserts a run and its tags.
    """

    def __init__(self, store, module, statement):
        self.store, self.module, self.statement, self.run = store, module, statement, None

    def __getattr__(self, name):
        return getattr(self.store, name)

    def _get_run_inputs(self, _session, runs):
        return [[] for _run in runs]

    def add(self, run):
        """As a session's."""
        self.run = run

    @contextlib.contextmanager
    def ManagedSessionMaker(self, **options):
        """The store's; the session is this object, and what was added is written in the end."""
        try:
            yield self
        except self.module.MlflowException:
            raise
        except Exception as error:
            raise Refused from error
        columns = self.module.SqlRun.__table__.columns
        values = {f"run_{column.name}": getattr(self.run, column.name) for column in columns}
        if any(column.default is not None and values[f"run_{column.name}"] is None for column in columns):
            raise Refused  # SQLAlchemy's ORM puts the default in place of nothing
        values["keys"] = [tag.key for tag in self.run.tags]
        values["values"] = [tag.value for tag in self.run.tags]
        try:
            with hook_database.statements_alone(), self.store.ManagedSessionMaker(**options) as session:
                session.connection().execute(self.statement, values)
        except self.module.MlflowException as error:
            if error.error_code == "BAD_REQUEST":
                raise Refused from error
            raise
