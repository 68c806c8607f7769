"""What answers in the place of MLflow's server while its stores are restored.

usage: closed.py PORT PREFIX [CERTIFICATE KEY]

Every request is answered by 503 with the sentence in the environment variable CLOSED_BECAUSE, in the form of MLflow's
errors, which its clients repeat for three and a half minutes; PREFIX/health by 200, for the probes of the pod.
"""

import http.server
import json
import os
import signal
import ssl
import sys

RETRY_SECONDS = 30
"""Until a client repeats a request. MLflow's clients do so seven times, and by themselves wait four minutes in all;
with ten seconds they would give up after one."""


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers every method alike."""

    protocol_version = "HTTP/1.1"
    prefix = ""

    def answer(self):
        """Read the body, so that the connection can be used again, and refuse."""
        self.close_connection = "chunked" in self.headers.get("Transfer-Encoding", "")
        left = int(self.headers.get("Content-Length") or 0)
        while left > 0:
            data = self.rfile.read(min(left, 2**20))
            if not data:
                return
            left -= len(data)
        healthy = self.path.split("?")[0] == f"{self.prefix}/health"
        sentence = os.environ["CLOSED_BECAUSE"]
        body = b"OK" if healthy else json.dumps({"error_code": "TEMPORARILY_UNAVAILABLE", "message": sentence}).encode()
        self.send_response(200 if healthy else 503)
        self.send_header("Content-Type", "text/plain" if healthy else "application/json")
        self.send_header("Content-Length", str(len(body)))
        if not healthy:
            self.send_header("Retry-After", str(RETRY_SECONDS))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = answer  # noqa: N815

    def log_message(self, *_arguments):
        """Requests are of no interest."""


def main(port, prefix="", *pair):
    """Serve until the pod ends."""
    Handler.prefix = prefix
    server = http.server.ThreadingHTTPServer(("0.0.0.0", int(port)), Handler)
    if pair:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*pair)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    # The first process of a container ignores SIGTERM otherwise, and the pod would take its whole grace period to end.
    signal.signal(signal.SIGTERM, lambda *_arguments: os._exit(0))
    print(os.environ["CLOSED_BECAUSE"], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
