# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Service levels of an instance: what is measured from where, what is wanted, and what the figures come to."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ansible_collections.mlops.mlflow.plugins.plugin_utils import engines, manifests, tables
from ansible_collections.mlops.mlflow.plugins.plugin_utils.manifests import Ref
from ansible_collections.mlops.mlflow.plugins.plugin_utils.program import Probe

if TYPE_CHECKING:
    from ansible_collections.mlops.mlflow.plugins.plugin_utils.model import Model

COMPONENT = "service-levels"
"""Label of the ConfigMap with the last figures."""
PLACES = {"outside": "from outside", "inside": "in the server's pod"}


@dataclass(frozen=True)
class Level:
    """A figure and what is wanted of it.

    Attributes:
        name: of its check in probe ``service_levels``.
        title: how the table calls it.
        fact: the fact of the probe's report that holds it, in the unit of the variable divided by ``factor``.
        variable: the variable that holds the threshold.
        unit: of the variable.
        least: whether the threshold is the least that is wanted, instead of the most.
        places: from where it is measured.
        factor: what the fact is multiplied by.
    """

    name: str
    title: str
    fact: str
    variable: str
    unit: str
    least: bool = False
    places: tuple[str, ...] = tuple(PLACES)
    factor: int = 1


LEVELS = (
    Level("api", "API p95", "api_p95_ms", "mlflow_service_level_api_p95", "ms"),
    Level("upload", "artifact upload", "upload_mb_s", "mlflow_service_level_upload", "MB/s", least=True),
    Level("ui", "UI load", "ui_load_s", "mlflow_service_level_ui_load", "ms", factor=1000),
    Level("database", "database query p95", "database_p95_ms", "mlflow_service_level_database_p95", "ms",
          places=("inside",)),
)


def probe(model: Model, place: str, read_only: bool, parameters: dict[str, Any]) -> Probe:
    """The probe that measures an instance from a place.

    Args:
        model: the instance.
        place: outside or inside.
        read_only: whether nothing may be created.
        parameters: how the server is reached from there.
    """
    v = model.variables
    return Probe(place, f"The instance {PLACES[place]}", "service_levels", {
        "samples": v.mlflow_service_levels_requests, "artifact_size_mb": v.mlflow_service_levels_artifact_size,
        "read_only": read_only, "database": place == "inside", **parameters})


def inside(model: Model) -> dict[str, Any]:
    """Parameters of the probe in the server's pod."""
    server = model.mlflow_server
    return {"url": f"{server.scheme}://{server.service}:{server.service_port}", "path_prefix": server.path_prefix,
            "validate_certs": False, "environment": True}


def outside(model: Model, engine: engines.Engine, token: str) -> dict[str, Any]:
    """Parameters of the probe at the URL for clients, or at the URL of the Service where there is none.

    Args:
        model: the instance.
        engine: an open engine, which knows the Secrets of the login and the CA.
        token: bearer token of a user, or an empty text.

    Raises:
        EngineError: a Secret cannot be read, or there is no login.
    """
    server, ingress = model.mlflow_server, model.ingress
    through_ingress = bool(server.url) and model.variables.ingress_type != "none"
    found: dict[str, Any] = {"url": server.url or server.cluster_url, "validate_certs": through_ingress}
    if through_ingress and ingress.connect:
        found["connect"] = ingress.connect
    if through_ingress and ingress.ca_secret:
        found["ca"] = engine.secret(ingress.ca_secret).get("ca.crt")
    if token:
        found["token"] = token
    elif server.auth.kind == "oidc" and server.url:
        raise engines.EngineError("token is empty while mlflow_server_auth is oidc; give a user's token in "
                                  "mlflow_service_levels_token, or set mlflow_service_levels_from to [inside].")
    elif server.auth.kind != "none":
        secret = engine.secret(server.auth.secret)
        found["username"], found["password"] = (secret[server.auth.keys[key]] for key in ("user", "password"))
    return found


def forwarded(model: Model) -> tuple[str, int] | None:
    """The Service and port to which a port must be forwarded, or None where the URL can be used as it is."""
    v, server, ingress = model.variables, model.mlflow_server, model.ingress
    if not server.url:
        return server.service, server.service_port
    hidden = v.ingress_type == "proxy" and v.mlflow_engine == "kubernetes" and v.ingress_service_type == "ClusterIP"
    if hidden and not ingress.connect and not v.ingress_public_port:
        return ingress.name, ingress.service_port
    return None


def judge(model: Model, reports: dict[str, dict], read_only: bool) -> dict[str, Any]:
    """What the probes' reports come to.

    Args:
        model: the instance.
        reports: reports of probe ``service_levels``, by place.
        read_only: whether nothing was created, so that the upload was not measured.

    Returns:
        met, figures (title, place, wanted, measured, unit, met, variable, detail), missed (sentences), table (lines).
    """
    figures, missed = [], []
    for level in LEVELS:
        for place in (place for place in level.places if place in reports):
            if level.name == "upload" and read_only:
                figure = _figure(model, level, place, {}) | {"met": None, "detail": "not measured in check mode"}
            else:
                figure = _figure(model, level, place, reports[place])
            figures.append(figure)
            if figure["met"] is False:
                missed.append(_sentence(model, level, figure))
    for place, report in reports.items():
        for check in report["checks"]:
            if check["name"] == "removal" and not check["ok"]:
                missed.append(f"What was created to measure {model.instance.name} {PLACES[place]} is not removed: "
                              f"{check['detail']}.")
    return {"met": not missed, "figures": figures, "missed": missed, "table": table(figures)}


def _figure(model: Model, level: Level, place: str, report: dict) -> dict[str, Any]:
    wanted, measured = model.variables[level.variable], report.get(level.fact)
    if measured is not None:
        measured = round(measured * level.factor, 1)
    met = measured is not None and (measured >= wanted if level.least else measured <= wanted)
    return {"title": level.title, "place": place, "variable": level.variable, "wanted": wanted, "measured": measured,
            "unit": level.unit, "least": level.least, "met": met, "detail": _detail(level, report)}


def _detail(level: Level, report: dict) -> str:
    """What the figure's check says: how it was measured, or why it could not be."""
    checks = {check["name"]: check for check in report.get("checks", [])}
    failed = [check for check in checks.values() if not check["ok"] and not check["detail"].startswith("not run, ")]
    check = checks.get(level.name) or (failed[0] if failed else {"ok": False, "detail": "nothing was measured"})
    if not check["ok"] and check["detail"].startswith("not run, ") and failed:
        check = failed[0]
    return check["detail"]


def _sentence(model: Model, level: Level, figure: dict) -> str:
    """Which level is missed, and by how much."""
    what = f"{model.instance.name}: {level.title} {PLACES[figure['place']]}"
    if figure["measured"] is None:
        return f"{what} cannot be measured: {figure['detail'].rstrip('.')}."
    wanted, measured = figure["wanted"], figure["measured"]
    difference = abs(measured - wanted)
    limit, excess = ("at least", "less") if level.least else ("at most", "more")
    return (f"{what} is {measured:g} {level.unit}, and {level.variable} wants {limit} {wanted:g} {level.unit}: "
            f"{difference:.1f} {level.unit} ({100 * difference / wanted:.0f} %) {excess}.")


def table(figures: list[dict]) -> list[str]:
    """The figures as lines of text."""
    rows = [["Figure", "Measured", "Wanted", "Value", "Verdict"]]
    for figure in figures:
        verdict = {True: "met", False: "MISSED", None: "not measured"}[figure["met"]]
        value = "-" if figure["measured"] is None else f"{figure['measured']:g} {figure['unit']}"
        rows.append([figure["title"], PLACES[figure["place"]],
                     f"{'>=' if figure['least'] else '<='} {figure['wanted']:g} {figure['unit']}", value, verdict])
    return tables.aligned(rows)


# -- the last figures ----------------------------------------------------------------------------------------------


def _ref(scope: engines.Scope) -> Ref:
    return Ref("", "ConfigMap", scope.namespace, f"{scope.instance}-{COMPONENT}")


def record(engine: engines.Engine, result: dict[str, Any], time: str) -> None:
    """Keep the figures with the instance, for its status.

    Args:
        engine: an open engine.
        result: what ``judge`` returned.
        time: when they were measured, in ISO 8601.

    Raises:
        EngineError: the ConfigMap cannot be written.
    """
    ref = _ref(engine.scope)
    kept = {"time": time, **{key: result[key] for key in ("met", "figures", "missed")}}
    obj = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": ref.name, "namespace": ref.namespace},
           "data": {"report.json": json.dumps(kept)}}
    manifests.label([obj], engine.scope.labels(COMPONENT), {manifests.RECORD: "the last service levels"})
    live = engine.read({ref}, set())
    if ref in live and not engine.scope.owns(live[ref]):
        raise engines.EngineError(engines.in_the_way(ref, live[ref], engine.scope))
    engine.put([obj], live, dry_run=False)


def last(engine: engines.Engine) -> dict[str, Any] | None:
    """The figures that were recorded last: time, met, figures, missed; None where there are none."""
    ref = _ref(engine.scope)
    obj = engine.read({ref}, set()).get(ref)
    if not obj or not engine.scope.owns(obj):
        return None
    try:
        return json.loads(obj["data"]["report.json"])
    except (KeyError, ValueError):
        return None
