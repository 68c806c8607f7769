# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Programs that run in an instance's pods: the collection's own sources, sent to the pod's Python on standard input.

A file of module_utils, or of a role's files, can be part of a program when it imports nothing but the standard library,
files of module_utils, and, where they are needed, packages of the server's image. Python 3.9 and newer run it.
"""

from __future__ import annotations

import ast
import base64
import functools
import json
import pathlib
import zlib
from dataclasses import dataclass, field
from typing import Any, Callable, Iterable

from ansible_collections.mlops.mlflow.plugins.module_utils import checks
from ansible_collections.mlops.mlflow.plugins.plugin_utils import engines

COLLECTION = "ansible_collections.mlops.mlflow"
PACKAGE = f"{COLLECTION}.plugins.module_utils"
ROOT = pathlib.Path(__file__).parents[2]
MARGIN = 10
"""Seconds that starting Python and passing data may take beside what a program itself takes."""

# Makes the sources importable by their names in the collection, whatever else is installed, and keeps what libraries
# print apart from the result. A thread that does not end must not keep the process, hence os._exit.
BOOTSTRAP = """\
import base64, importlib.abc, importlib.util, json, os, sys, zlib
sources, module, function, parameters = json.loads({data})
class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name in sources:
            return importlib.util.spec_from_loader(name, self, is_package=not sources[name])
    def exec_module(self, module):
        exec(compile(sources[module.__name__], module.__name__, "exec"), module.__dict__)
sys.meta_path.insert(0, Finder())
output, sys.stdout = sys.stdout, sys.stderr
result = getattr(importlib.import_module(module), function)(parameters)
print("\\n" + json.dumps(result), file=output, flush=True)
os._exit(0)
"""


@dataclass(frozen=True)
class Probe:
    """One probe of an instance.

    Attributes:
        name: key of its report, unique within a run.
        title: what it is a probe of, as the beginning of a sentence: "The database".
        module: the source that has ``probe(checks, parameters)``: the name of a file in module_utils/probes, or the
            path of a file in the collection, such as ``roles/database/files/probe.py``.
        parameters: of that probe.
        local: whether it reads what only the server's own container has.
    """

    name: str
    title: str
    module: str
    parameters: dict[str, Any] = field(default_factory=dict)
    local: bool = False

    @property
    def source(self) -> str:
        """The full name of its module within a program."""
        if self.module.endswith(".py"):
            return f"{COLLECTION}.{self.module[:-3].replace('/', '.')}"
        return f"{PACKAGE}.probes.{self.module}"


def run(engine: engines.Engine, service: str, probes: Iterable[Probe], timeout: float = 120) -> dict[str, dict]:
    """Run probes side by side in a pod.

    Args:
        engine: an open engine.
        service: name of the Service whose pods have Python: the server's.
        probes: what to measure.
        timeout: seconds for all of them together.

    Returns:
        For each probe's name its report, see ``Checks.report``. A probe that could not run is not healthy.
    """
    parameters = parameters_of(probes, timeout)
    try:
        return _execute(engine, service, "checks", "measure_all", parameters, timeout, modules(parameters))
    except engines.EngineError as error:
        return {probe["name"]: checks.not_run(str(error)) for probe in parameters["probes"]}


def run_on(run_python: Callable[[str], str], probes: Iterable[Probe], timeout: float = 120) -> dict[str, dict]:
    """Run probes side by side in a Python that is not a pod's, such as that of the inventory host.

    Args:
        run_python: runs a program and returns what it wrote to standard output; it may raise EngineError.
        probes: what to measure; their modules need the standard library only.
        timeout: seconds for all of them together.

    Returns:
        For each probe's name its report, as ``run``.
    """
    parameters = parameters_of(probes, timeout)
    text = source("checks", "measure_all", parameters, modules(parameters))
    try:
        return _result(run_python(text), "The program on the inventory host")
    except engines.EngineError as error:
        return {probe["name"]: checks.not_run(str(error)) for probe in parameters["probes"]}


def run_here(probes: Iterable[Probe], timeout: float = 120) -> dict[str, dict]:
    """Run probes side by side in this process, which has an address that others have not: a forwarded port."""
    return checks.measure_all(parameters_of(probes, timeout))


def parameters_of(probes: Iterable[Probe], timeout: float) -> dict[str, Any]:
    """Parameters of ``checks.measure_all``."""
    listed = [{"name": p.name, "module": p.source, "parameters": p.parameters} for p in probes]
    return {"probes": listed, "timeout": timeout}


def modules(parameters: dict[str, Any]) -> tuple[str, ...]:
    """Full names of the modules that the probes import by name."""
    return tuple(sorted({probe["module"] for probe in parameters["probes"]}))


def failures(probes: Iterable[Probe], reports: dict[str, dict]) -> list[str]:
    """A sentence for each failure, in the order of the probes; one for a reason that kept all of them from running."""
    probes = list(probes)
    reasons = {tuple(reports[probe.name]["failures"]) for probe in probes}
    if len(probes) > 1 and len(reasons) == 1 and checks.kept_from_running(reason := list(*reasons)):
        return [f"No component can be measured: {reason[0].partition(': ')[2]}"]
    return [f"{probe.title} is not healthy: {failure}" for probe in probes
            for failure in reports[probe.name]["failures"]]


def call(engine: engines.Engine, service: str, module: str, function: str, parameters: dict,
         timeout: float = 120) -> Any:
    """Call a function of module_utils in a pod.

    Args:
        engine: an open engine.
        service: name of the Service whose pods have Python.
        module: file in module_utils, such as ``mlflow_api``.
        function: takes the parameters as its one argument and returns what JSON can hold.
        parameters: what JSON can hold; they travel on standard input, so that secrets show in no process list.
        timeout: seconds that it may take.

    Returns:
        What the function returns.

    Raises:
        EngineError: no pod is ready, or the function failed, with the last line of what the program reported.
    """
    return _execute(engine, service, module, function, parameters, timeout, ())


def _execute(engine: engines.Engine, service: str, module: str, function: str, parameters: dict, timeout: float,
             further: tuple[str, ...]) -> Any:
    out = engine.execute(service, ["python3", "-"], source(module, function, parameters, further), timeout + MARGIN)
    return _result(out, f"The program in a pod of Service {service}")


def _result(out: str, what: str) -> Any:
    """What a program printed as its last line."""
    try:
        return json.loads(out.strip().splitlines()[-1])
    except (IndexError, ValueError):
        last = (out.strip().splitlines() or ["nothing"])[-1][:200]
        raise engines.EngineError(f"{what} printed no result, but {last!r}.") from None


def source(module: str, function: str, parameters: Any, further: Iterable[str] = ()) -> str:
    """The text of a program that calls a function and prints its result as the last line, in JSON.

    Args:
        module: file in module_utils, such as ``checks``.
        function: a function of that module.
        parameters: its one argument.
        further: full names of modules that it imports by name at run time.
    """
    bundle = _sources((f"{PACKAGE}.{module}", *further))
    data = json.dumps([bundle, f"{PACKAGE}.{module}", function, parameters]).encode()
    packed = base64.b64encode(zlib.compress(data)).decode()
    return BOOTSTRAP.format(data=f"zlib.decompress(base64.b64decode({packed!r}))")


def files(module: str, function: str, parameters: Any, further: Iterable[str] = ()) -> dict[str, str]:
    """The same program as files for a ConfigMap, by name; ``program.py`` is to be run.

    Its text is not compressed, since releases of zlib differ in what they make of the same data.
    """
    data = json.dumps([_sources((f"{PACKAGE}.{module}", *further)), f"{PACKAGE}.{module}", function, parameters],
                      sort_keys=True)
    return {"program.json": data, "program.py": BOOTSTRAP.format(
        data='open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "program.json")).read()')}


@functools.lru_cache
def _sources(modules: tuple[str, ...]) -> dict[str, str]:
    """Source by full name, of modules and all that they import of module_utils; of packages an empty text."""
    found: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found[name] = _path(name).read_text(encoding="utf-8")
        waiting += _imports(found[name])
        parent = name.rpartition(".")[0]
        while parent:
            found.setdefault(parent, "")
            parent = parent.rpartition(".")[0]
    return found


def _imports(text: str) -> list[str]:
    """Full names of the modules of module_utils that a source imports."""
    names = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE):
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                names.append(name if _path(name).exists() else node.module)
    return names


def _path(name: str) -> pathlib.Path:
    """The file of a module of the collection."""
    return ROOT.joinpath(*name.removeprefix(COLLECTION + ".").split(".")).with_suffix(".py")
