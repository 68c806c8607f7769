# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The lines of uvicorn's access log are the same with hook_serving.py's way to write them."""

from __future__ import annotations

import mlflow_servers as servers

PROGRAM = """
import io, json, logging, pathlib, sys, time
import hook_serving, uvicorn.config
import mlflow.server

time.time = lambda: 1794000000.25
hook_serving.access_log(uvicorn.config)
MESSAGE = hook_serving.Lines.MESSAGE
ACCESSES = [("127.0.0.1:5", "GET", "/a?b=%C3%A4", "1.1", 200), ("", "PUT", "/%25s", "1.0", 404),
            ("[::1]:7", "POST", "/", "1.1", 299), ("a%sb", "DELETE", "/x%d", "1.1", 500)]
found = {"quick": 0, "lines": 0}
text = hook_serving.Lines.text
def count(*arguments):
    found["quick"] += 1
    return text(*arguments)
hook_serving.Lines.text = count

def compared(change=lambda logger, handler: None, **options):
    for _worker in range(2):  # a forked worker configures what its parent has configured
        uvicorn.config.Config("x:y", **options).configure_logging()
    logger = logging.getLogger("uvicorn.access")
    lines, (handler,) = logger.info.__self__, logger.handlers
    change(logger, handler)
    outputs, before = [], found["quick"]
    for info in (logger.info, lines.own):
        handler.setStream(io.StringIO())
        for access in ACCESSES:
            info(MESSAGE, *access)
        info("another %s", "message") if logger.level > logging.INFO else None
        outputs.append(handler.stream.getvalue())
    assert outputs[0] == outputs[1], outputs
    found["lines"] += outputs[0].count("\\n")
    logger.disabled, logger.filters, logger.propagate = False, [], False
    return found["quick"] - before, outputs[0].count("\\n")

settings = [{}]
theirs = pathlib.Path(mlflow.server.__file__).parent / "uvicorn_log_config.yaml"
if theirs.exists():
    settings.append({"log_config": str(theirs)})
for options in settings:
    assert compared(**options) == (4, 4)
    assert compared(lambda logger, handler: logger.setLevel("WARNING"), **options) == (0, 0)
    assert compared(lambda logger, handler: handler.setLevel("WARNING"), **options) == (0, 0)
    assert compared(lambda logger, handler: setattr(logger, "disabled", True), **options) == (0, 0)
    assert compared(lambda logger, handler: logger.addFilter(lambda record: "GET" in record.args), **options) == (0, 1)
    assert compared(lambda logger, handler: handler.addFilter(lambda record: "GET" in record.args), **options) == (0, 1)
    assert compared(lambda logger, handler: setattr(logger, "propagate", True), **options) == (0, 4)
    assert compared(lambda logger, handler: handler.setFormatter(logging.Formatter("%(message)s")), **options) == (0, 4)
assert compared(use_colors=True)[0] == 0
usual = uvicorn.config.LOGGING_CONFIG
braces = {**usual["formatters"]["access"], "fmt": "{levelprefix} {client_addr} {status_code}", "style": "{"}
assert compared(log_config={**usual, "formatters": {**usual["formatters"], "access": braces}}) == (0, 4)
broken = io.StringIO()
uvicorn.config.Config("x:y").configure_logging()
logging.raiseExceptions = False
logging.getLogger("uvicorn.access").handlers[0].setStream(broken)
broken.close()
logging.getLogger("uvicorn.access").info(MESSAGE, *ACCESSES[0])  # lost, but the request is answered
json.dump(found, sys.stdout)
"""


def test_the_same_lines(version, tmp_path):
    found = servers.answer(version, tmp_path, PROGRAM, disabled="access_log")
    assert found["quick"] >= 4 < found["lines"]
