"""Runs and experiments read with less work; mlflow_server_disabled_hooks switches it off by the name `reads`.

MLflow builds each query of SQLAlchemy's ORM anew, and has it make objects that track their changes, also where it only
reads. Here the statements are built once, and what they find goes to MLflow's own conversion as plain objects. What is
not the usual case (workspaces, nothing found, a run with inputs or outputs) goes MLflow's own way. Two more costs of
every answer are here: the ordering of a search is parsed once, and indented JSON, which Python writes itself, is put
together of parts that its C encoder writes.
"""

import functools
import importlib
import json

import server_hooks as hooks

METHODS = (
    "get_run",
    "_get_run",
    "_get_query",
    "get_experiment",
    "_get_experiment",
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
    "8bf1b0bcb7218f11bb786573a19d545a319bc796fe6a9d0b306a7fccfa09ba62",  # 3.10
    "91083a77d7ae9f520f8221ee9deb4c0bd2fb0a12ae6f70f3f6e54ce23c64fec6",  # 3.11, 3.12
    "96353e5e970f4fc297593c78c98db3aec0429f2ffc03fa5053dc0d0414575543",  # 3.13 to 3.16
    "f664226f9b3799f13bfbaec89229f3bb6720f923440dc8ebe28517773ab55bd0",  # 3.17
}
"""SHA-256 of the source of these in the versions that what this does instead was compared with."""
LARGEST_ID = 2**31 - 1
"""Of an experiment, in the columns of a database."""
TEXTS = 512
"""Orderings that are remembered, each of at most so many characters."""


def reads(module):
    """Replace MLflow's methods where its own are as they are known."""
    store = module.SqlAlchemyStore
    models = importlib.import_module("mlflow.store.tracking.dbmodels.models")
    search = importlib.import_module("mlflow.utils.search_utils").SearchUtils
    parts = [(store, METHODS), (search, ORDERING), *((getattr(models, name), ["to_mlflow_entity"]) for name in MODELS)]
    if hooks.digest(parts) not in KNOWN:
        return hooks.report(
            reads=f"MLflow {hooks.version()} reads runs and experiments in another way than those that are known; it "
            "does so its own way, which takes longer"
        )
    rows = Rows(importlib.import_module("sqlalchemy"), models)
    own_query = store._get_query

    def usual(self):
        """Whether a store finds all rows; others limit what may be seen."""
        return type(self)._get_query is own_query

    store.get_run = run_read(module, rows, usual, store.get_run)
    store._get_experiment = experiment_read(module, rows, usual, store._get_experiment)
    store._get_run_inputs = inputs_read(rows, usual, store._get_run_inputs)
    search._parse_order_by_string = classmethod(remembered(search._parse_order_by_string.__func__))
    written = importlib.import_module("mlflow.utils.proto_json_utils")
    written.json = Indented(written.json)
    return hooks.report(reads="")


class Rows:
    """Statements, and plain objects of what they find.

    Arguments:
        sqlalchemy: the module.
        models: MLflow's module of models.
    """

    def __init__(self, sqlalchemy, models):
        run, runs = sqlalchemy.bindparam("run"), sqlalchemy.bindparam("runs", expanding=True)
        experiment = sqlalchemy.bindparam("experiment")
        self.run = Plain(sqlalchemy, models.SqlRun, "run_uuid", run)
        self.of_a_run = {
            "tags": Plain(sqlalchemy, models.SqlTag, "run_uuid", run),
            "latest_metrics": Plain(sqlalchemy, models.SqlLatestMetric, "run_uuid", run),
            "params": Plain(sqlalchemy, models.SqlParam, "run_uuid", run),
        }
        self.experiment = Plain(sqlalchemy, models.SqlExperiment, "experiment_id", experiment)
        self.tags = Plain(sqlalchemy, models.SqlExperimentTag, "experiment_id", experiment)
        inputs, one = models.SqlInput.__table__.c, sqlalchemy.literal_column("1")
        datasets = sqlalchemy.select(one).where(inputs.destination_type == "RUN", inputs.destination_id.in_(runs))
        linked = sqlalchemy.select(one).where(
            inputs.source_type.in_(("RUN_INPUT", "RUN_OUTPUT")), inputs.source_id.in_(runs)
        )
        self.datasets = datasets.limit(1)
        self.linked = sqlalchemy.union_all(datasets, linked).limit(1)


class Plain:
    """Rows of a model as objects with its columns and its conversion, which SQLAlchemy knows nothing of.

    Arguments:
        model: MLflow's.
        of, value: rows in which this column has this value are found.
    """

    def __init__(self, sqlalchemy, model, of, value):
        columns = {attribute.key: attribute.columns[0] for attribute in sqlalchemy.inspect(model).column_attrs}
        self.names = list(columns)
        self.select = sqlalchemy.select(*columns.values()).where(columns[of] == value)
        self.made = type(model.__name__, (), {"to_mlflow_entity": model.to_mlflow_entity})

    def find(self, connection, values):
        """Objects of all rows."""
        found = []
        for row in connection.execute(self.select, values):
            made = self.made()
            made.__dict__.update(zip(self.names, row))
            found.append(made)
        return found


def run_read(module, rows, usual, own):
    """MLflow's get_run."""

    @functools.wraps(own)
    def get_run(self, run_id):
        found = None
        if usual(self) and isinstance(run_id, str):
            with self.ManagedSessionMaker() as session:
                found = one_run(session.connection(), run_id)
        return found or own(self, run_id)

    def one_run(connection, run_id):
        found = rows.run.find(connection, {"run": run_id})
        if len(found) != 1 or connection.execute(rows.linked, {"runs": [run_id]}).first():
            return None
        for name, part in rows.of_a_run.items():
            setattr(found[0], name, part.find(connection, {"run": run_id}))
        entity = found[0].to_mlflow_entity()
        inputs = module.RunInputs(dataset_inputs=[], model_inputs=[])
        return module.Run(entity.info, entity.data, inputs, module.RunOutputs([]))

    return get_run


def experiment_read(module, rows, usual, own):
    """MLflow's _get_experiment, where what it returns is only read."""

    @functools.wraps(own)
    def _get_experiment(self, session, experiment_id, view_type, eager=False):
        number = str(experiment_id)
        if eager and usual(self) and number.isascii() and number.isdigit() and int(number) <= LARGEST_ID:
            connection, values = session.connection(), {"experiment": int(number)}
            found = rows.experiment.find(connection, values)
            stages = module.LifecycleStage.view_type_to_stages(view_type)
            if len(found) == 1 and found[0].lifecycle_stage in stages:
                found[0].tags = rows.tags.find(connection, values)
                return found[0]
        return own(self, session, experiment_id, view_type, eager)

    return _get_experiment


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
