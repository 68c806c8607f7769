"""Templates of the routes of MLflow's server, by which request_metrics.py counts requests; never a path with IDs."""

import importlib
import re

METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
OTHER = "other"
"""Route of a request that matches no template of MLflow's."""


class Routes:
    """The templates of the routes of an application of MLflow's, FastAPI's and Flask's.

    Matched here and not taken from the frameworks, because these have matched nothing when a request is refused
    before, and because they hand the result over in ways that differ by version and by the way to Flask.
    """

    def __init__(self, application, prefix):
        self.prefix = prefix
        self.exact, self.labels, patterns = {}, {}, {}
        for template, pattern, methods in (*fastapi_routes(application), *flask_routes()):
            label = self.label(template)
            for method in methods & METHODS:
                if pattern is None:
                    self.exact.setdefault((method, template), label)
                else:
                    patterns.setdefault(method, []).append(f"({pattern})")
                    self.labels.setdefault(method, []).append(label)
        self.patterns = {method: re.compile("|".join(each)) for method, each in patterns.items()}

    def label(self, template):
        """Template of a route without the prefix, variables in braces: /traces/{trace_id}."""
        if self.prefix and (template + "/").startswith(self.prefix + "/"):
            template = template[len(self.prefix) :] or "/"
        return re.sub(r"{(\w+)(?::\w+)?}|<(?:[^<>]*:)?(\w+)>", r"{\1\2}", template)

    def of(self, method, path):
        """Template of a request's route; "other" where none matches, as for a method that a path does not have."""
        label = self.exact.get((method, path))
        if label is not None:
            return label
        pattern = self.patterns.get(method)
        found = pattern and pattern.fullmatch(path)
        return self.labels[method][found.lastindex - 1] if found else OTHER


def fastapi_routes(application):
    """Templates of a FastAPI application, a pattern for those with variables, and methods."""
    routing = importlib.import_module("fastapi.routing")
    # Newer versions keep the routers that an application includes as such and have a function to walk them.
    walk = getattr(routing, "iter_route_contexts", iter)
    for route in walk(application.routes):
        methods, template = getattr(route, "methods", None), getattr(route, "path", None)
        if methods and template:
            pattern = re.sub(r"\(\?P<\w+>", "(?:", route.path_regex.pattern).removeprefix("^").removesuffix("$")
            yield template, pattern if "{" in template else None, set(methods)


def flask_routes():
    """The same of MLflow's Flask application, which answers what FastAPI has no route for."""
    url_map = importlib.import_module("mlflow.server").app.url_map
    variable = re.compile(r"<(?:(\w+)(?:\([^)]*\))?:)?\w+>")
    for rule in url_map.iter_rules():
        template, methods = rule.rule, set(rule.methods or METHODS)
        if not rule.arguments:
            yield template, None, methods
            if template.rstrip("/") != template:
                yield template.rstrip("/"), None, methods  # which Flask redirects to it
            continue
        pattern, end = "", 0
        for found in variable.finditer(template):
            converter = url_map.converters[found[1] or "default"]
            pattern += f"{re.escape(template[end:found.start()])}(?:{converter.regex})"
            end = found.end()
        yield template, pattern + re.escape(template[end:]), methods
