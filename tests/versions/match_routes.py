"""Compares the templates of request_routes.Routes with those that FastAPI and Flask match; run in MLflow's Python."""

import json
import os
import re

import fastapi.routing
import mlflow.server
import mlflow.server.fastapi_app
import request_routes
from werkzeug.exceptions import HTTPException
from werkzeug.routing import RequestRedirect

application = mlflow.server.fastapi_app.app
routes = request_routes.Routes(application, os.environ.get("_MLFLOW_STATIC_PREFIX", ""))
flask = mlflow.server.app.url_map.bind("localhost")


def framework(method, path):
    """Template by the frameworks' own matching; None where Flask redirects."""
    for route in getattr(fastapi.routing, "iter_route_contexts", iter)(application.routes):
        if method in (getattr(route, "methods", None) or ()) and route.path_regex.match(path):
            return routes.label(route.path)
    try:
        return routes.label(flask.match(path, method, return_rule=True)[0].rule)
    except RequestRedirect:
        return None
    except HTTPException:
        return "other"


counts, different = {"matched": 0, "others": 0}, []
for template, _pattern, _methods in (*request_routes.fastapi_routes(application), *request_routes.flask_routes()):
    for text in ("abc", "x/y/z.bin", "12", "", "a\nb"):
        path = re.sub(r"[{<][^}>]*[}>]", text, template)
        for method in request_routes.METHODS:
            wanted, found = framework(method, path), routes.of(method, path)
            counts["others" if found == "other" else "matched"] += 1
            if wanted is not None and wanted != found:
                different.append([method, path, wanted, found])
print(json.dumps({**counts, "different": different}))
