"""How sitecustomize.py changes MLflow's modules as they are loaded, and how it reports what it could not change.

The report is JSON in the file that MLOPS_MLFLOW_HOOKS names (/tmp/mlops-mlflow-hooks.json):

{"mlflow": "3.10.0", "behaviours": {"hosts": "", "artifacts_streamed": "MLflow 3.10.0 has no ...; ..."}}

An empty text means that the behaviour is there, any other says what is missing; the server logs it once.
"""

import fcntl
import hashlib
import importlib
import importlib.abc
import importlib.util
import inspect
import json
import os
import pathlib
import re
import sys

PREFIX = "_MLFLOW_STATIC_PREFIX"
"""How `mlflow server` tells its workers of --static-prefix."""
REPORT = pathlib.Path(os.environ.get("MLOPS_MLFLOW_HOOKS", "/tmp/mlops-mlflow-hooks.json"))
SERVER = "_MLOPS_MLFLOW_SERVER"
"""Set by `mlflow server` for its workers: only these write the report, not every program that runs in the container."""
DISABLED = frozenset(filter(None, os.environ.get("MLOPS_MLFLOW_DISABLED_HOOKS", "").split(",")))
"""Names of the adaptations that mlflow_server_disabled_hooks switches off."""
NOT_RUN = "the hook for it has not run: MLflow never loaded the module that it changes"


class Hook(importlib.abc.MetaPathFinder):
    """Calls functions right before and after a module is executed for the first time.

    Arguments:
        name: the module.
        before, after: "module:function" of a file beside this one, loaded only then; ``after`` gets the module.
    """

    def __init__(self, name, before="", after=""):
        self.name, self.before, self.after = name, before, after
        self.finding = False

    def find_spec(self, name, path, target=None):
        if name != self.name or self.finding:
            return None
        self.finding = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self.finding = False
        if spec is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module):
            sys.meta_path.remove(self)  # not before: the module may be looked for without being loaded
            if self.before:
                _function(self.before)()
            execute(module)
            if self.after:
                _function(self.after)(module)

        spec.loader.exec_module = exec_module
        return spec


def _function(name):
    module, _colon, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def add(name, before="", after=""):
    """Have functions called when a module is loaded.

    Of several for one module, what was added last is called first before and last after.
    """
    sys.meta_path.insert(0, Hook(name, before, after))


def version():
    """MLflow's version as text, such as 3.17.2."""
    return importlib.import_module("mlflow.version").VERSION


def release():
    """MLflow's version as numbers, to be compared."""
    return tuple(int(number) for number in re.findall(r"\d+", version())[:3])


def refuse(reason):
    """End this process, before it serves anything, with a sentence."""
    raise SystemExit(f"mlops.mlflow: the server is not started: {reason}")


def report(**behaviours):
    """Add to the report, and log what is newly known to be missing. None: the hook has not run in this process yet."""
    if SERVER not in os.environ:
        return
    try:
        with open(f"{REPORT}.lock", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            known = json.loads(REPORT.read_text(encoding="utf-8"))["behaviours"] if REPORT.exists() else {}
            fresh = [text for name, text in behaviours.items() if text and text != known.get(name)]
            done = {name: text for name, text in behaviours.items() if text is not None}
            temporary = pathlib.Path(f"{REPORT}.new")
            temporary.write_text(
                json.dumps(
                    {"mlflow": version(), "behaviours": {**dict.fromkeys(behaviours, NOT_RUN), **known, **done}}
                ),
                encoding="utf-8",
            )
            temporary.replace(REPORT)
    except (OSError, ValueError, KeyError) as error:
        fresh = [f"the report of missing behaviours cannot be written to {REPORT}: {error}"]
    for text in fresh:
        log(text)


def digest(parts):
    """SHA-256, as hexadecimal digits, of the source of those methods that a class has; of nothing without the source.

    Arguments:
        parts: classes, each with names of methods.
    """
    try:
        source = "".join(
            inspect.getsource(getattr(owner, name)) for owner, names in parts for name in names if hasattr(owner, name)
        )
    except OSError:
        source = ""
    return hashlib.sha256(source.encode()).hexdigest()


def as_known(name, does, parts, known):
    """Whether MLflow's own methods are those that an adaptation was compared with; reported where they are not.

    Arguments:
        name: the adaptation.
        does: what MLflow does by these methods, such as "logs metrics".
        parts: classes or modules, each with names of methods or functions.
        known: digests of these in the versions that are known.
    """
    if digest(parts) in known:
        return True
    other = f"MLflow {version()} {does} in another way than those that are known"
    report(**{name: f"{other}; it does so its own way, which takes longer"})
    return False


def log(text):
    """One line in the log of the container."""
    print(f"mlops.mlflow: {text}", file=sys.stderr, flush=True)


def file_of(module):
    """Source text of a module that is not loaded for it; empty where MLflow has no such module."""
    parts = module.split(".")
    folder = pathlib.Path(importlib.import_module(parts[0]).__path__[0]).joinpath(*parts[1:])
    for path in (folder.with_suffix(".py"), folder / "__init__.py"):
        if path.is_file():
            return path.read_text(encoding="utf-8")
    return ""
