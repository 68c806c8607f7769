# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Versions of MLflow: which are supported, can be installed, have an image, and which one an instance gets."""

from __future__ import annotations

import contextlib
import html.parser
import json
import re
import urllib.error
import urllib.parse

from ansible.module_utils.urls import open_url

try:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet
    from packaging.utils import InvalidSdistFilename, InvalidWheelFilename, parse_sdist_filename, parse_wheel_filename
    from packaging.version import InvalidVersion, Version
except ImportError:
    HAS_PACKAGING = False
else:
    HAS_PACKAGING = True

SUPPORTED = ("3.10.0", "3.17.2")
"""The oldest and the newest version that tests/versions runs. Older ones are refused, newer ones cause a warning."""

NEEDS = {"proxy": "3.15.0", "oidc": "3.15.0"}
"""Values of mlflow_server_auth that need a newer version than the oldest supported, and which.

Before, MLflow answers 500 to every request for traces, jobs and the gateway when logins are anything but its own.
"""

PATH_PREFIX = "3.16.0"
"""The version that mlflow_server_path_prefix needs: before, MLflow did not check origins below a path, so that
pages of other sites could write; before 3.13 it had no REST API there.
"""

LATEST = "latest"
PACKAGES = ("mlflow", "mlflow-skinny")
INDEX = "https://pypi.org/simple"
RELEASES = "https://api.github.com/repos/mlflow/mlflow/releases?per_page=100"
IMAGE = "ghcr.io/mlflow/mlflow"
TAG = "v{version}-full"
JSON = "application/vnd.pypi.simple.v1+json"
MANIFESTS = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)
FAILURES = (urllib.error.URLError, OSError, ValueError, KeyError)


class VersionsError(Exception):
    """Versions cannot be looked up; a sentence without its full stop with the place and the cause."""


class Links(html.parser.HTMLParser):
    """The files that an index names in HTML, in the form of its JSON."""

    def __init__(self):
        super().__init__()
        self.files = []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag == "a" and attributes.get("href"):
            name = attributes["href"].split("#")[0].rstrip("/").rsplit("/", 1)[-1]
            self.files.append(
                {
                    "filename": name,
                    "yanked": "data-yanked" in attributes,
                    "requires-python": attributes.get("data-requires-python"),
                }
            )


def shown(text):
    """A text for a message, in which URLs have no user and password."""
    return re.sub(r"//[^/\s]*@", "//…@", text)


def get(url, timeout, accept, **headers):
    """Text and content type of a page. ``timeout`` is in seconds; raises URLError."""
    answer = open_url(url, headers={"Accept": accept, **headers}, timeout=timeout, http_agent="mlops.mlflow")
    return answer.read().decode(), answer.headers.get("Content-Type", "")


def installable(package, index, python, timeout):
    """Stable versions of one package that fit a Python version, from an index.

    Source: PEP 503 and PEP 691, the simple repository API in HTML and JSON.
    """
    text, kind = get(f"{index.rstrip('/')}/{package}/", timeout, f"{JSON}, text/html;q=0.5")
    if "json" in kind:
        files = json.loads(text)["files"]
    else:
        links = Links()
        links.feed(text)
        files = links.files
    found = set()
    for file in files:
        try:
            name = file["filename"]
            version = parse_wheel_filename(name)[1] if name.endswith(".whl") else parse_sdist_filename(name)[1]
            fits = SpecifierSet(file.get("requires-python") or "").contains(python)
        except (InvalidWheelFilename, InvalidSdistFilename, InvalidSpecifier, InvalidVersion):
            continue
        if fits and not file.get("yanked") and not version.is_prerelease:
            found.add(version)
    return found


def released(url, timeout):
    """Versions that GitHub shows as releases."""
    found = set()
    for release in json.loads(get(url, timeout, "application/vnd.github+json")[0]):
        with contextlib.suppress(InvalidVersion):
            version = Version(release["tag_name"].removeprefix("v"))
            if not (release.get("prerelease") or release.get("draft") or version.is_prerelease):
                found.add(version)
    return found


def available(index_url=INDEX, python_version="3.11", releases_url="", timeout=15):
    """Stable versions that can be installed, newest first, which mlflow-skinny is there in as well.

    Args:
        index_url: URL of a package index (simple repository API).
        python_version: Python version that MLflow is to run on.
        releases_url: a list in the form of GitHub's API that a version must be in as well, or empty.
        timeout: seconds to wait for each answer.

    Raises:
        VersionsError: where an answer is missing or is none.
    """
    asked = index_url
    try:
        found = set.intersection(*(installable(package, index_url, python_version, timeout) for package in PACKAGES))
        if releases_url:
            asked = releases_url
            found &= released(releases_url, timeout)
    except FAILURES as error:
        text = f"Versions of MLflow cannot be looked up at {shown(asked)}: {error}"
        raise VersionsError(text) from error
    return [str(version) for version in sorted(found, reverse=True)]


def _token(challenge, timeout):
    """An anonymous token, from where a registry's WWW-Authenticate sends.

    Source: https://distribution.github.io/distribution/spec/auth/token/
    """
    fields = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    query = urllib.parse.urlencode({name: fields[name] for name in ("service", "scope") if name in fields})
    answer = json.loads(get(f"{fields['realm']}?{query}", timeout, "application/json")[0])
    return answer.get("token") or answer["access_token"]


def image_exists(version, image=IMAGE, registry_url="", timeout=15):
    """Whether a registry has the image of a version. It is asked anonymously.

    Args:
        version: version of MLflow.
        image: the image's name without a tag.
        registry_url: where the registry (a mirror, say) answers, if not at https:// and the image's host.
        timeout: seconds to wait for each answer.

    Raises:
        VersionsError: where the registry cannot be asked or does not answer without a login.

    Source: https://github.com/opencontainers/distribution-spec, "Pulling manifests".
    """
    host, _slash, name = image.partition("/")
    base = (registry_url or f"https://{'registry-1.docker.io' if host == 'docker.io' else host}").rstrip("/")
    url = f"{base}/v2/{name}/manifests/{TAG.format(version=version)}"
    headers = {}
    try:
        for _attempt in range(2):
            try:
                get(url, timeout, MANIFESTS, **headers)
                return True
            except urllib.error.HTTPError as error:
                if error.code == 404:
                    return False
                challenge = error.headers.get("WWW-Authenticate") or ""
                if error.code != 401 or headers or not challenge.lower().startswith("bearer"):
                    raise
                headers = {"Authorization": f"Bearer {_token(challenge, timeout)}"}
    except FAILURES as error:
        raise VersionsError(
            f"The registry cannot be asked for {image}:{TAG.format(version=version)} at {base}: {error}"
        ) from error
    return False


def resolve_latest(
    index_url=INDEX, python_version="3.11", image_source="build", has_image=image_exists, releases_url="", timeout=15
):
    """The newest supported version that can be installed and whose image exists.

    Args:
        index_url: URL of a package index.
        python_version: Python version in the image.
        image_source: mlflow_image_source; only with ``registry`` images are looked for.
        has_image: called with a version; image_exists with the registry's parameters.
        releases_url: as for available().
        timeout: seconds to wait for each answer.

    Raises:
        VersionsError: with a sentence that names the variable to set instead.
    """
    instead = f"set mlflow_version to a version, such as {SUPPORTED[1]}"
    try:
        for version in available(index_url, python_version, releases_url, timeout):
            if Version(version) < Version(SUPPORTED[0]):
                break
            if image_source != "registry" or has_image(version):
                return version
    except VersionsError as error:
        raise VersionsError(f"mlflow_version is latest. {error}; {instead}") from error
    raise VersionsError(
        f"mlflow_version is latest, and {shown(index_url)} has no version from {SUPPORTED[0]} on that can be installed "
        f"on Python {python_version}"
        f"{' and has an image' if image_source == 'registry' else ''}; {instead}"
    )


def choose(wanted, recorded, resolve, upgrade=False):
    """The version that an instance gets, and why.

    Args:
        wanted: mlflow_version.
        recorded: what ``latest`` was resolved to when the instance was applied last, or empty.
        resolve: gives the newest version; called without arguments, and only when it must be looked up.
        upgrade: whether a newer one than what is recorded is asked for.
    """
    if wanted != LATEST:
        return wanted, "mlflow_version names it"
    if recorded and not upgrade:
        return recorded, "recorded with the instance"
    version = resolve()
    if recorded and Version(version) < Version(recorded):
        return recorded, f"recorded with the instance; the newest to be found is {version}"
    return version, "the newest that can be installed"


def newer(version, found):
    """Those of some versions that are newer than one, newest first."""
    return [str(each) for each in sorted(map(Version, found), reverse=True) if each > Version(version)]


def violations(version, auth="none", path_prefix=""):
    """Why a version cannot be what an instance runs, as sentences; none for ``latest``.

    Args:
        version: mlflow_version.
        auth: mlflow_server_auth.
        path_prefix: mlflow_server_path_prefix.
    """
    if version == LATEST:
        return
    if Version(version) < Version(SUPPORTED[0]):
        yield (
            f"mlflow_version is {version}, which is older than the oldest supported; choose {SUPPORTED[0]} or newer "
            "(before, MLflow answered requests for traces and jobs without a login although logins were on)."
        )
    elif auth in NEEDS and Version(version) < Version(NEEDS[auth]):
        yield (
            f"mlflow_server_auth is {auth} while mlflow_version is {version}, which then answers 500 to all requests "
            f"for traces, jobs and the gateway; choose {NEEDS[auth]} or newer."
        )
    elif path_prefix and Version(version) < Version(PATH_PREFIX):
        yield (
            f"mlflow_server_path_prefix is {path_prefix} while mlflow_version is {version}, which does not check "
            f"origins below a path; choose {PATH_PREFIX} or newer."
        )


def untested(version):
    """A warning about a version that is newer than the newest tested; empty for others."""
    if version != LATEST and Version(version) > Version(SUPPORTED[1]):
        return f"MLflow {version} is newer than {SUPPORTED[1]}, the newest that this collection is tested with."
    return ""
