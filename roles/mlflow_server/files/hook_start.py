"""A start that loads MLflow once: `mlflow server` becomes uvicorn, and workers are forked from it.

MLflow's command loads MLflow, checks what it was given, sets variables for its workers, and starts uvicorn, whose
workers each load MLflow again. Here the process goes on as uvicorn with what it has loaded. Before the first fork it
has no connection of a database and no other thread; where that or anything else is not as expected, all goes MLflow's
own way, and the report says why.
"""

import contextlib
import gc
import importlib
import multiprocessing
import os
import random
import signal
import socket
import stat
import sys
import time

import server_hooks as hooks

READ_LATE = {
    "MLFLOW_ENABLE_WORKSPACES",
    "MLFLOW_FLASK_SERVER_SECRET_KEY",
    "MLFLOW_REGISTRY_URI",
    "MLFLOW_SERVER_SECRETS_CACHE_MAX_SIZE",
    "MLFLOW_SERVER_SECRETS_CACHE_TTL",
    "MLFLOW_TRACKING_URI",
    "_MLFLOW_AUTH_ADMIN_BOOTSTRAPPED",
    "_MLFLOW_IN_JOB_EXECUTOR",
    "_MLFLOW_SERVER_ARTIFACT_DESTINATION",
    "_MLFLOW_SERVER_ARTIFACT_ROOT",
    "_MLFLOW_SERVER_BOOT_ID",
    "_MLFLOW_SERVER_FILE_STORE",
    "_MLFLOW_SERVER_READ_REPLICA_BACKEND_STORE",
    "_MLFLOW_SERVER_REGISTRY_STORE",
    "_MLFLOW_SERVER_SERVE_ARTIFACTS",
    "_MLFLOW_SGI_NAME",
}
"""Variables that MLflow sets for its workers and reads when it is asked, not when its modules are loaded."""
READ_EARLY = {"--static-prefix": hooks.PREFIX, "--expose-prometheus": "prometheus_multiproc_dir"}
"""Options that MLflow hands to its workers by variables that its modules read while they are loaded."""
SIGNALS = [
    getattr(signal, f"SIG{name}") for name in ("INT", "TERM", "HUP", "QUIT", "TTIN", "TTOU", "USR1", "USR2", "WINCH")
]
"""Those that uvicorn's parent handles."""
COLLECT = (10000, 20, 50)
"""Objects from which the garbage collector looks for cycles, in a worker: less often than with Python's own 700."""
PAUSE = 3
"""Seconds before a worker ends that failed: uvicorn replaces it at once, which loading MLflow anew would slow down."""
FORK = multiprocessing.get_context("fork")


def environment():
    """Before mlflow.server is loaded: what it reads of its workers' environment while it is loaded."""
    if not ours():
        return
    for argument, following in zip(sys.argv, [*sys.argv[1:], ""]):
        option, equals, value = argument.partition("=")
        if option in READ_EARLY:
            os.environ[READ_EARLY[option]] = value if equals else following
    os.environ.setdefault("MLFLOW_SERVER_X_FRAME_OPTIONS", "SAMEORIGIN")
    # That there is one tells MLflow that it is loaded for a server.
    os.environ["_MLFLOW_SERVER_FILE_STORE"] = os.environ.get("MLFLOW_BACKEND_STORE_URI", "")


def ours():
    """Whether this process is `mlflow server`, not one of its workers."""
    return os.environ.get(hooks.SERVER) == str(os.getpid())


def preload(server):
    """Replace how `mlflow server` starts uvicorn."""
    if not ours() or os.environ.get("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "").lower() != "false":
        return None  # where MLflow runs jobs, its command stays beside the server to run them
    if not hasattr(server, "_exec_cmd"):
        return hooks.report(
            preload=f"MLflow {hooks.version()} has no mlflow.server._exec_cmd; each worker loads MLflow anew"
        )
    start = server._exec_cmd
    before = dict(os.environ)

    def execute(command, **options):
        environ = {**os.environ, **(options.get("extra_env") or {})}
        changed = {name for name in environ if environ[name] != before.get(name)} - READ_LATE
        reason = unsafe(command, changed)
        hooks.report(preload=reason and f"each worker loads MLflow anew: {reason}")
        if reason:
            return start(command, **options)
        os.environ.update(environ)
        return serve(command[3:])

    server._exec_cmd = execute
    return None


def unsafe(command, changed):
    """Why workers cannot be forked from this process, as a sentence; or nothing."""
    if command[1:3] != ["-m", "uvicorn"]:
        return f"MLflow starts {' '.join(command[1:3])}"
    if changed:
        return f"{', '.join(sorted(changed))} changed after MLflow was loaded"
    importlib.import_module(command[-1].partition(":")[0])
    engine = importlib.import_module("sqlalchemy.engine").Engine
    gc.collect()
    for found in gc.get_objects():
        if issubclass(type(found), engine):  # not isinstance, which asks objects that load modules when asked
            found.dispose()
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        return f"{threads} threads run already"
    peers = list(connections())
    return f"there is a connection to {peers[0]}" if peers else ""


def connections():
    """Peers of this process' network connections."""
    for number in map(int, os.listdir("/proc/self/fd")):
        try:
            found = socket.socket(fileno=os.dup(number)) if stat.S_ISSOCK(os.fstat(number).st_mode) else None
        except OSError:
            continue  # the folder itself, which was open meanwhile
        if found:
            with found, contextlib.suppress(OSError):
                if found.family in (socket.AF_INET, socket.AF_INET6):
                    yield found.getpeername()


class Worker(FORK.Process):
    """A worker of uvicorn, forked."""

    generators = ()
    """Those of random numbers that Python does not seed anew after a fork."""

    def start(self):
        """Fork; a signal that comes meanwhile waits until the worker takes signals itself."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def run(self):
        """In the worker: nothing of the parent's but what it has loaded."""
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        for generator in self.generators:
            generator.seed()
        if "numpy" in sys.modules:
            sys.modules["numpy"].random.seed()
        try:
            super().run()
        except Exception:
            time.sleep(PAUSE)
            raise


class Forking:
    """In place of multiprocessing's context in uvicorn."""

    Process = Worker


def serve(arguments):
    """Go on as uvicorn; ends with it."""
    importlib.import_module("uvicorn._subprocess").spawn = Forking
    Worker.generators = [found for found in gc.get_objects() if issubclass(type(found), random.Random)]
    gc.freeze()
    gc.set_threshold(*COLLECT)  # workers inherit it
    sys.exit(importlib.import_module("uvicorn.main").main(arguments, prog_name="uvicorn"))
