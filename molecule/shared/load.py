# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Four clients that log runs until FILE exists, none of which may fail: load.py URL FILE."""

from __future__ import annotations

import pathlib
import sys
import threading

import mlflow

CLIENTS = 4


def work(client: mlflow.MlflowClient, experiment: str, end: pathlib.Path, done: list[str], failed: list[str]):
    while not end.exists():
        try:
            run = client.create_run(experiment)
            client.log_metric(run.info.run_id, "loss", 0.5)
            client.log_text(run.info.run_id, "x" * 10000, "notes.txt")
            client.set_terminated(run.info.run_id)
            done.append(run.info.run_id)
        except Exception as error:
            failed.append(str(error))


def main(url: str, end: str) -> None:
    client, done, failed = mlflow.MlflowClient(url, url), [], []
    experiment = client.create_experiment("load")
    arguments = (client, experiment, pathlib.Path(end), done, failed)
    threads = [threading.Thread(target=work, args=arguments) for _number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    print("started", flush=True)
    for thread in threads:
        thread.join()
    print(f"{len(done)} runs logged, {len(failed)} failed", *failed[:5], sep="\n", flush=True)
    assert len(done) > 10 and not failed
    assert len(client.search_runs([experiment], max_results=50000)) == len(done)


if __name__ == "__main__":
    main(*sys.argv[1:])
