"""Asks MLflow's application, with routes that fail, and writes its metrics; run in MLflow's Python."""

import asyncio
import contextlib
import gc
import json

import mlflow.server
import mlflow.server.fastapi_app
import request_metrics

application = mlflow.server.fastapi_app.app


def fail():
    raise ArithmeticError("as asked")


mlflow.server.app.add_url_rule("/flask-fails", "fail", fail)
application.get("/fastapi-fails")(fail)
application.router.routes.insert(0, application.router.routes.pop())


async def ask(path):
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
        "state": {},
    }

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(_message):
        pass

    with contextlib.suppress(ArithmeticError):
        await application(scope, receive, send)


async def main():
    for path in ("/flask-fails", "/fastapi-fails", "/health") * 2:
        await ask(path)
    return next(each for each in gc.get_objects() if isinstance(each, request_metrics.Recorder)).text()


print(json.dumps({"text": asyncio.run(main())}))
