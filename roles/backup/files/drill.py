"""The proof of a backup: a throw-away database, loaded from the set, on which MLflow's server answers what was backed
up."""

import contextlib
import json
import os
import pathlib
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

import artifacts
import databases
from exchange import last_line
from sets import BackupError

START_SECONDS = 600
PORTS = {"postgresql": 15432, "mysql": 13306}
"""Of the throw-away server, in the pod's own network."""
PAGE = 1000
KEPT = ("PATH", "LANG", "TMPDIR", "MLFLOW_CRYPTO_KEK_PASSPHRASE", "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY",
        "MLFLOW_ENABLE_WORKSPACES", "MLFLOW_SQL_TRACE_ROLLUPS_ENABLED")
"""Variables that the server of the drill has of the pod's; without the last ones it refuses rows that they made."""


def throw_away(main, folder, port=None):
    """The database into which a set is loaded.

    Args:
        main: the instance's database.
        folder: for a SQLite file.
        port: of its server, as in PORTS if None.
    """
    if main.dialect == "sqlite":
        return type(main)(main.url.set(database=str(folder / "drill.db")), throw_away=True)
    url = main.url.set(username="drill", password=secrets.token_hex(16), host="127.0.0.1",
                       port=port or PORTS[main.dialect], query={})
    return type(main)(url, throw_away=True)


def run(sets, manifest, exchange, sample, log):
    """Restore a set into a throw-away database and compare.

    Args:
        sets: where backups are.
        manifest: of the set.
        exchange: the Exchange, in whose other container ``drill`` runs.
        sample: how many artifacts to read; all where it is 0.
        log: takes a line of progress.

    Returns:
        What was compared.

    Raises:
        BackupError: with what is wrong.
    """
    begun = time.monotonic()
    found = artifacts.verify(sets, manifest, sample, log)
    main = databases.open_database()
    if main.dialect != manifest["database"]["dialect"]:
        raise BackupError(
            f"Backup {manifest['id']} is of {manifest['database']['dialect']}, and the instance has {main.dialect} now;"
            " it is verified by restoring it."
        )
    with tempfile.TemporaryDirectory(dir=exchange.folder) as folder:
        database = throw_away(main, pathlib.Path(folder))
        for name, dump in manifest["database"]["dumps"].items():
            target = database.name if name == "database" else str(pathlib.Path(folder) / f"{name}.db")
            log(f"loading {dump['name']} ({dump['bytes'] / 2**20:.1f} MiB) into a throw-away database")
            load(sets, manifest, dump, database, exchange, target)
            compare(dump, database.described(target), manifest["id"])
        rows = sum(sum(dump["counts"].values()) for dump in manifest["database"]["dumps"].values())
        log(f"{rows} rows are as in the backup; starting MLflow on them")
        answered = ask(database, pathlib.Path(folder))
    return {"rows": rows, "artifacts": found["count"], "artifacts_read": found["read"], **answered,
            "seconds": round(time.monotonic() - begun, 1)}


def load(sets, manifest, dump, database, exchange, target=None):
    """Load a dump of a set, and raise BackupError if it is not what the backup wrote."""
    what = f"Backup {manifest['id']}: {dump['name']}"
    with sets.open(manifest["id"], dump["name"]) as stream:
        hashed = artifacts.Hashed(stream)
        try:
            database.load(exchange, hashed, target)
        except Exception as error:
            # The program's own message about a damaged file is rarely clear.
            _rest(hashed)
            if hashed.sha256 != dump["sha256"]:
                raise BackupError(
                    f"{what} is damaged (another SHA-256 than in the manifest); choose another backup."
                ) from error
            if isinstance(error, (EOFError, OSError)):
                raise BackupError(f"{what} cannot be loaded: {error}") from error
            raise
        _rest(hashed)
    if hashed.sha256 != dump["sha256"]:
        raise BackupError(f"{what} is damaged (another SHA-256 than in the manifest); choose another backup.")


def _rest(hashed):
    while hashed.read(2**20):
        pass


def compare(dump, found, set_id):
    """Raise BackupError unless a loaded database has the revision and the rows of its dump."""
    if found["schema"] != dump["schema"]:
        raise BackupError(
            f"Backup {set_id}: the schema of the loaded database is {found['schema']}, and that of the backup "
            f"{dump['schema']}."
        )
    for table, wanted in dump["counts"].items():
        number = found["counts"].get(table)
        # Rows that were written between counting and dumping are in the dump, where the database has no common
        # snapshot.
        if number is None or (number != wanted if dump["exact"] else number < wanted * 0.9):
            raise BackupError(
                f"Backup {set_id}: table {table} has {number or 0} rows after loading, and {wanted} in the backup."
            )


def _free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def ask(database, folder, more=None):
    """Start MLflow's server on a database, and count by its API what users would see.

    Args:
        database: the throw-away one.
        folder: for its artifacts and log.
        more: called with the server's URL after that; what it returns is added.
    """
    port = _free_port()
    environment = {name: os.environ[name] for name in KEPT if name in os.environ}
    environment |= {
        "MLFLOW_BACKEND_STORE_URI": database.url.render_as_string(hide_password=False),
        "HOME": str(folder),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={port}", "--workers=1",
               f"--artifacts-destination={folder / 'artifacts'}"]
    with open(folder / "server.log", "w+b") as output:
        server = subprocess.Popen(command, env=environment, cwd=folder, stdout=output, stderr=subprocess.STDOUT,
                                  start_new_session=True)
        try:
            _await(server, port, output)
            url = f"http://127.0.0.1:{port}"
            return {**_answers(url), **(more(url) if more else {})}
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, 9)
            server.wait()


def _await(server, port, output):
    deadline = time.monotonic() + START_SECONDS
    while True:
        with contextlib.suppress(OSError, urllib.error.URLError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
            return
        ended = server.poll() is not None
        if ended or time.monotonic() > deadline:
            output.seek(0)
            reason = last_line(output.read().decode(errors="replace")) or "it wrote nothing"
            if not ended:
                reason = f"no answer within {START_SECONDS} s; {reason}"
            raise BackupError(f"MLflow's server does not start on the restored database: {reason}")
        time.sleep(0.5)


def _answers(url):
    experiments = _search(url, "experiments/search", "experiments", {"view_type": "ALL"})
    runs = 0
    for start in range(0, len(experiments), 100):
        ids = [entry["experiment_id"] for entry in experiments[start:start + 100]]
        runs += len(request(url, "runs/search", {"experiment_ids": ids, "max_results": 100}).get("runs", []))
    models = _search(url, "registered-models/search", "registered_models", None)
    return {"experiments": len(experiments), "runs_read": runs, "registered_models": len(models)}


def _search(url, path, key, body):
    found, token = [], ""
    while True:
        page = request(
            url, path, {**(body or {}), "max_results": PAGE, **({"page_token": token} if token else {})},
            "GET" if body is None else "POST"
        )
        found += page.get(key, [])
        token = page.get("next_page_token")
        if not token:
            return found


def request(url, path, fields, method="POST"):
    """What MLflow's REST API answers; the fields of a GET are in its query."""
    address, data = f"{url}/api/2.0/mlflow/{path}", json.dumps(fields).encode()
    if method == "GET":
        address, data = f"{address}?{urllib.parse.urlencode(fields)}", None
    asked = urllib.request.Request(address, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(asked, timeout=60) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        text = error.read().decode(errors="replace")
        raise BackupError(
            f"MLflow's server answers {error.code} to {path} on the restored database: {text[:300]}"
        ) from error
