"""Runs and experiments read with less work; mlflow_server_disabled_hooks switches it off by the name `reads`.

MLflow builds each query of SQLAlchemy's ORM anew, and has it make objects that track their changes, also where it only
reads. Here the statements are built once, and what they find goes to MLflow's own conversion as plain objects. What is
not the usual case (workspaces, nothing found, a run with inputs or outputs) goes MLflow's own way. Two more costs of
every answer are here: the ordering of a search is parsed once, and indented JSON, which Python writes itself, is put
together of parts that its C encoder writes.
"""

import contextlib
import functools
import importlib
import json

import hook_database
import server_hooks as hooks

METHODS = (
    "get_run",
    "_get_run",
    "_get_query",
    "get_experiment",
    "_get_experiment",
    "get_experiment_by_name",
    "search_experiments",
    "_search_experiments",
    "_get_run_inputs",
    "_get_model_inputs",
    "_get_model_outputs",
    "_get_eager_run_query_options",
    "_get_eager_experiment_query_options",
)
"""Methods of MLflow's SqlAlchemyStore whose work is done here."""
MODELS = ("SqlRun", "SqlLatestMetric", "SqlParam", "SqlTag", "SqlExperiment", "SqlExperimentTag")
"""Models whose conversion is given plain objects."""
ORDERING = ("_parse_order_by_string", "_validate_order_by_and_generate_token")
"""Methods of MLflow's SearchUtils that depend on the class and the text alone."""
KNOWN = {
    "ecd1f5879dc782466dc773e3b2dfe6885502212c31c119d45a9a1a3f3094411d",  # 3.10
    "28ce2f0c8a32e22c0cf8bbc69639cbd46d75edb83663045d0e61ce8de96d4969",  # 3.11, 3.12
    "809142316944eefc635607abc0b76159b62f66d42c668c471c444f4e24dd7bcb",  # 3.13 to 3.16
    "7c9976a7b4510eb2ae6ee2ad35f5ce760da060e305f65eced40a301d320a2ed6",  # 3.17
}
"""SHA-256 of the source of these in the versions that what this does instead was compared with."""
LARGEST_ID = "2147483647"
"""Of an experiment, in the columns of a database."""
TEXTS = 512
"""Orderings that are remembered, each of at most so many characters."""


def reads(module):
    """Replace MLflow's methods where its own are as they are known."""
    store = module.SqlAlchemyStore
    models = importlib.import_module("mlflow.store.tracking.dbmodels.models")
    search = importlib.import_module("mlflow.utils.search_utils").SearchUtils
    parts = [(store, METHODS), (search, ORDERING), *((getattr(models, name), ["to_mlflow_entity"]) for name in MODELS)]
    if not hooks.as_known("reads", "reads runs and experiments", parts, KNOWN):
        return
    rows = Rows(importlib.import_module("sqlalchemy"), models)
    usual = hook_database.of_all_rows(store)
    store.get_run = run_read(module, rows, usual, store.get_run)
    store._get_experiment = experiment_read(module, rows, usual, store._get_experiment)
    store._get_run_inputs = inputs_read(rows, usual, store._get_run_inputs)
    store._search_experiments = experiments_searched(rows, usual, store._search_experiments)
    for name in ("get_experiment", "get_experiment_by_name", "search_experiments"):
        setattr(store, name, alone(getattr(store, name)))
    tags = importlib.import_module("sqlalchemy.orm").selectinload(models.SqlExperiment.tags)
    options = functools.wraps(store._get_eager_experiment_query_options)(lambda: [tags])
    store._get_eager_experiment_query_options = staticmethod(options)
    search._parse_order_by_string = classmethod(remembered(search._parse_order_by_string.__func__))
    written = importlib.import_module("mlflow.utils.proto_json_utils")
    written.json = Indented(written.json)
    hooks.report(reads="")


class Rows:
    """Statements, and plain objects of what they find.

    Arguments:
        sqlalchemy: the module.
        models: MLflow's module of models.
    """

    def __init__(self, sqlalchemy, models):
        run, runs = sqlalchemy.bindparam("run"), sqlalchemy.bindparam("runs", expanding=True)
        experiment = sqlalchemy.bindparam("experiment")
        inputs, one = models.SqlInput.__table__.c, sqlalchemy.literal_column("1")
        datasets = sqlalchemy.select(one).where(inputs.destination_type == "RUN", inputs.destination_id.in_(runs))
        linked = sqlalchemy.select(one).where(
            inputs.source_type.in_(("RUN_INPUT", "RUN_OUTPUT")), inputs.source_id.in_(runs)
        )
        self.datasets = datasets.limit(1)
        self.run = Whole(
            sqlalchemy,
            Plain(sqlalchemy, models.SqlRun, "run_uuid", run),
            sqlalchemy.union_all(datasets, linked).limit(1),
            tags=Plain(sqlalchemy, models.SqlTag, "run_uuid", run),
            latest_metrics=Plain(sqlalchemy, models.SqlLatestMetric, "run_uuid", run),
            params=Plain(sqlalchemy, models.SqlParam, "run_uuid", run),
        )
        self.experiment = Whole(
            sqlalchemy,
            Plain(sqlalchemy, models.SqlExperiment, "experiment_id", experiment),
            tags=Plain(sqlalchemy, models.SqlExperimentTag, "experiment_id", experiment),
        )
        tag = models.SqlExperimentTag
        experiments = sqlalchemy.bindparam("experiments", expanding=True)
        self.tags_of_experiments = sqlalchemy.select(*self.experiment.parts["tags"].columns).where(
            tag.experiment_id.in_(experiments)
        )


class Plain:
    """Rows of a model as objects with its columns and its conversion, which SQLAlchemy knows nothing of.

    Arguments:
        model: MLflow's.
        of, value: rows in which this column has this value are found.
    """

    def __init__(self, sqlalchemy, model, of, value):
        columns = {attribute.key: attribute.columns[0] for attribute in sqlalchemy.inspect(model).column_attrs}
        self.names, self.columns = list(columns), list(columns.values())
        self.select = sqlalchemy.select(*columns.values()).where(columns[of] == value)
        self.made = type(model.__name__, (), {"to_mlflow_entity": model.to_mlflow_entity})
        rows = sqlalchemy.func.json_agg(sqlalchemy.func.json_build_array(*columns.values()), type_=sqlalchemy.JSON)
        self.json = sqlalchemy.select(rows).where(columns[of] == value).scalar_subquery()
        self.model = model

    def find(self, connection, values):
        """Objects of all rows."""
        return list(map(self.make, connection.execute(self.select, values)))

    def make(self, row):
        """The object of a row."""
        made = self.made()
        made.__dict__.update(zip(self.names, row))
        return made


class Whole:
    """An object with those of other models that belong to it.

    Arguments:
        main: Plain, the object.
        parts: Plain, the others, by the attribute that has them.
        other: a query that finds something if the object is not to be read here, or None.
    """

    def __init__(self, sqlalchemy, main, other=None, **parts):
        self.main, self.parts, self.other = main, parts, other
        # OFFSET has PostgreSQL look once, before it reads any of the parts.
        found = sqlalchemy.literal(False) if other is None else sqlalchemy.exists(other)
        found = sqlalchemy.select(found.label("found")).offset(0).subquery()
        lists = [sqlalchemy.case((found.c.found, None), else_=part.json) for part in parts.values()]
        self.together = main.select.join(found, sqlalchemy.true()).add_columns(found.c.found, *lists)

    def find(self, connection, values):
        """The one object that there is, or None."""
        if hook_database.is_postgresql(connection):
            return self.find_together(connection, values)
        found = self.main.find(connection, values)
        if len(found) != 1 or (self.other is not None and connection.execute(self.other, values).first()):
            return None
        for name, part in self.parts.items():
            setattr(found[0], name, part.find(connection, values))
        return found[0]

    def find_together(self, connection, values):
        """The same by one statement of PostgreSQL, which returns the rows of the others as JSON."""
        rows = connection.execute(self.together, values).all()
        if len(rows) != 1 or rows[0][len(self.main.names)]:
            return None
        found = self.main.make(rows[0])
        for (name, part), items in zip(self.parts.items(), rows[0][len(self.main.names) + 1 :]):
            setattr(found, name, list(map(part.make, items or ())))
        return found


def run_read(module, rows, usual, own):
    """MLflow's get_run."""

    @functools.wraps(own)
    def get_run(self, run_id):
        if usual(self) and isinstance(run_id, str):
            with hook_database.statements_alone(), self.ManagedSessionMaker() as session:
                found = rows.run.find(session.connection(), {"run": run_id, "runs": [run_id]})
                if found:
                    entity = found.to_mlflow_entity()
                    inputs = module.RunInputs(dataset_inputs=[], model_inputs=[])
                    return module.Run(entity.info, entity.data, inputs, module.RunOutputs([]))
        return own(self, run_id)

    return get_run


def experiment_read(module, rows, usual, own):
    """MLflow's _get_experiment, where what it returns is only read."""

    @functools.wraps(own)
    def _get_experiment(self, session, experiment_id, view_type, eager=False):
        number = str(experiment_id)
        if eager and usual(self) and number.isascii() and number.isdigit() and len(number) <= len(LARGEST_ID):
            small = int(number) <= int(LARGEST_ID)
            found = small and rows.experiment.find(session.connection(), {"experiment": int(number)})
            if found and found.lifecycle_stage in module.LifecycleStage.view_type_to_stages(view_type):
                return found
        return own(self, session, experiment_id, view_type, eager)

    return _get_experiment


def experiments_searched(rows, usual, own):
    """MLflow's _search_experiments, of which its statement finds columns."""

    @functools.wraps(own)
    def _search_experiments(self, *arguments, **options):
        searching = usual(self) and hook_database.is_postgresql(self.engine)
        return own(Searching(self, rows) if searching else self, *arguments, **options)

    return _search_experiments


class Searching:
    """In place of a store and its session, in a method that executes one statement, which finds experiments."""

    def __init__(self, store, rows):
        self.store, self.rows, self.found = store, rows, []

    def __getattr__(self, name):
        return getattr(self.store, name)

    def _get_eager_experiment_query_options(self):
        return []

    @contextlib.contextmanager
    def ManagedSessionMaker(self):
        """The store's; the session is this object."""
        with self.store.ManagedSessionMaker() as session:
            self.connection = session.connection()
            yield self

    def execute(self, statement):
        """Have the statement find columns, and objects be made of them; the tags of all are found by another."""
        main, tag = self.rows.experiment.main, self.rows.experiment.parts["tags"]
        columns = [getattr(main.model, name) for name in main.names]
        self.found = list(map(main.make, self.connection.execute(statement.with_only_columns(*columns))))
        tags = {experiment.experiment_id: [] for experiment in self.found}
        for row in self.connection.execute(self.rows.tags_of_experiments, {"experiments": list(tags)}) if tags else ():
            made = tag.make(row)
            tags[made.experiment_id].append(made)
        for experiment in self.found:
            experiment.tags = tags[experiment.experiment_id]
        return self

    def scalars(self, _model):
        """As a result's."""
        return self

    def all(self):
        """As a result's."""
        return self.found


def alone(own):
    """A method that only reads."""

    @functools.wraps(own)
    def method(self, *arguments, **options):
        with hook_database.statements_alone():
            return own(self, *arguments, **options)

    return method


def inputs_read(rows, usual, own):
    """MLflow's _get_run_inputs; most runs have none."""

    @functools.wraps(own)
    def _get_run_inputs(self, session, run_uuids):
        session.flush()  # as before a query of the ORM
        if run_uuids and session.connection().execute(rows.datasets, {"runs": list(run_uuids)}).first() is None:
            return [[] for _run in run_uuids]
        return own(self, session, run_uuids)

    return _get_run_inputs


def remembered(own):
    """A method of a class that makes texts and numbers of a text, and makes the same of the same."""
    known = functools.lru_cache(TEXTS)(own)

    @functools.wraps(own)
    def parse(cls, order_by):
        if isinstance(order_by, str) and len(order_by) <= TEXTS:
            return known(cls, order_by)
        return own(cls, order_by)

    return parse


class Indented:
    """The module json, with a dumps that is faster where it indents; the text is the same.

    Arguments:
        module: json.
    """

    INDENT = 2

    def __init__(self, module):
        self.module = module
        self.flat = {}

    def __getattr__(self, name):
        return getattr(self.module, name)

    def dumps(self, value, **options):
        """As json.dumps."""
        if options != {"indent": self.INDENT}:
            return self.module.dumps(value, **options)
        try:
            return self.text(value, 1)
        except (TypeError, RecursionError):
            return self.module.dumps(value, **options)

    def text(self, value, level):
        """A value in JSON, the items of which are so many steps further to the right.

        Raises:
            TypeError: it holds what is left to json.dumps.
        """
        kind = type(value)
        if kind is dict:
            inner = value.values()
            if not all(isinstance(key, str) for key in value):
                raise TypeError
        elif kind is list:
            inner = value
        elif kind in SCALARS:
            return self.module.dumps(value)
        else:
            raise TypeError
        if not value:
            return "{}" if kind is dict else "[]"
        begin, end = "{}" if kind is dict else "[]"
        kinds = set(map(type, inner))
        step = "\n" + " " * self.INDENT * level
        if kinds <= SCALARS:
            if step not in self.flat:
                self.flat[step] = json.JSONEncoder(separators=("," + step, ": ")).encode
            items = self.flat[step](value)[1:-1]
        elif kind is dict:
            items = ("," + step).join(
                f"{self.module.dumps(key)}: {self.text(item, level + 1)}" for key, item in value.items()
            )
        else:
            items = ("," + step).join(self.text(item, level + 1) for item in value)
        return f"{begin}{step}{items}{step[: -self.INDENT]}{end}"


SCALARS = {str, int, float, bool, type(None)}
