# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Loads MLflow's user interface as a browser with an empty cache does, without running its scripts.

Standard library only: this file also runs in an instance's pods (see plugin_utils/program.py).
"""

from __future__ import annotations

import concurrent.futures
import gzip
import html.parser
import json
import re
import threading
import urllib.parse

from ansible_collections.mlops.mlflow.plugins.module_utils import keep_alive

CONNECTIONS = 6
"""Connections that browsers open to a host by HTTP/1.1."""
LINKS = ("stylesheet", "icon", "shortcut icon", "manifest", "modulepreload", "preload")
START_PAGE = re.compile(r"\.rootRoute,element:(.{0,2000}?)\.then\(", re.S)
"""In the main script: the route of the start page, with the numbers of the chunks that it imports."""
CHUNK = re.compile(r"\.e\((\d+)\)")
FIRST_REQUEST = "ajax-api/2.0/mlflow/experiments/search?max_results=25"
"""Request of the API that fills the start page."""


class Links(html.parser.HTMLParser):
    """URLs of the scripts, styles and icons that a page names."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        if tag == "script" and named.get("src"):
            self.found.append(named["src"])
        elif tag == "link" and named.get("href") and named.get("rel") in LINKS:
            self.found.append(named["href"])


class PageLoad:
    """One load of the start page: the page, all files that it names, the chunks of its scripts, the first request.

    Attributes:
        files: number of files loaded.
        transferred: their bytes as transferred, compressed where the server does so.
    """

    def __init__(self, server, chunks):
        """Open no connection yet.

        Args:
            server: the ``mlflow_api.Server``.
            chunks: what ``chunk_files`` returned.
        """
        self.server, self.chunks = server, chunks
        self.start = server.url + "/"
        self.files = self.transferred = 0
        self._local, self._lock, self._connections = threading.local(), threading.Lock(), []

    def run(self):
        """Load everything, each stage when the one before it is there.

        Raises:
            ApiError: a file cannot be loaded.
        """
        with concurrent.futures.ThreadPoolExecutor(CONNECTIONS) as pool:
            try:
                page = pool.submit(self._load, self.start).result()
                named = [urllib.parse.urljoin(self.start, link) for link in Links(page.decode(errors="replace")).found]
                own = [url for url in named if self._own(url)]
                if not any(url.endswith(".js") for url in own):
                    raise RuntimeError("the page at / names no script; this server has no user interface")
                texts = dict(zip(own, pool.map(self._load, own)))
                list(pool.map(self._load, self._imported(texts)))
                pool.submit(self._load, self.start + FIRST_REQUEST).result()
            finally:
                for connection in self._connections:
                    connection.close()

    def _own(self, url):
        return urllib.parse.urlsplit(url).netloc == urllib.parse.urlsplit(self.start).netloc

    def _imported(self, texts):
        """URLs of the chunks that the start page imports."""
        for url, text in texts.items():
            route = START_PAGE.search(text.decode(errors="replace")) if url.endswith(".js") else None
            if route:
                return [file for number in CHUNK.findall(route[1]) for file in self.chunks.get(number, [])]
        return []

    def _load(self, url):
        """The content of a file, by the connection of this thread."""
        if not hasattr(self._local, "connection"):
            self._local.connection = keep_alive.Connection(self.server)
            with self._lock:
                self._connections.append(self._local.connection)
        parts = urllib.parse.urlsplit(url)
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        headers, data = self._local.connection.send(path, headers={"Accept-Encoding": "gzip"})
        with self._lock:
            self.files += 1
            self.transferred += len(data)
        return gzip.decompress(data) if headers.get("Content-Encoding") == "gzip" else data


def chunk_files(server):
    """URLs of the files of each chunk, by its number, from the manifest of the user interface's build.

    Args:
        server: the ``mlflow_api.Server``; a browser finds them in its scripts.
    """
    base = server.url + "/static-files/"
    found = {}
    for name in json.loads(server.ask("/static-files/asset-manifest.json")).get("files", {}):
        number = re.match(r"static/(?:js|css)/(\d+)\.[0-9a-f]+\.chunk\.(?:js|css)$", name)
        if number:
            found.setdefault(number[1], []).append(base + name)
    return found
