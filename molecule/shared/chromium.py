# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A headless Chromium that opens pages and answers login dialogs, controlled by the Chrome DevTools Protocol."""

from __future__ import annotations

import json
import os
import pathlib
import select
import signal
import subprocess
import tempfile
import time


class Chromium:
    """A headless Chromium that trusts an additional CA and resolves one host to an address.

    Args:
        login: user and password for the dialog; None leaves requests as they are, where their times matter.
        ca_file: certificate of the CA, or None.
        host: host name.
        address: address that it resolves to.

    Attributes:
        logins: number of login dialogs that were answered.
    """

    def __init__(self, login: tuple[str, str] | None, ca_file: str | None, host: str, address: str) -> None:
        self.login, self.logins = login, 0
        # A process of Chromium may still write while it is removed.
        self.home = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        trusted = pathlib.Path(self.home.name, ".pki", "nssdb")
        trusted.mkdir(parents=True)
        trust = [["-A", "-t", "C,,", "-n", "ingress", "-i", ca_file]] if ca_file else []
        for arguments in (["-N", "--empty-password"], *trust):
            subprocess.run(["certutil", "-d", f"sql:{trusted}", *arguments], check=True)
        (theirs_in, self.out), (self.back, theirs_out) = os.pipe(), os.pipe()

        def descriptors():
            # --remote-debugging-pipe uses descriptors 3 and 4; copied first, so that neither overwrites the other.
            copies = os.dup(theirs_in), os.dup(theirs_out)
            os.dup2(copies[0], 3)
            os.dup2(copies[1], 4)

        self.process = subprocess.Popen(
            [
                "chromium",
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-proxy-server",
                "--remote-debugging-pipe",
                f"--user-data-dir={self.home.name}/profile",
                f"--host-resolver-rules=MAP {host} {address}",
                "about:blank",
            ],
            env={**os.environ, "HOME": self.home.name},
            preexec_fn=descriptors,
            close_fds=False,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self.buffer, self.number, self.answers = b"", 0, {}
        page = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        if login:
            self.call("Fetch.enable", handleAuthRequests=True)

    session = None

    def send(self, method: str, **parameters) -> int:
        """Send a command without waiting for its result; returns its ID."""
        self.number += 1
        message = {
            "id": self.number,
            "method": method,
            "params": parameters,
            **({"sessionId": self.session} if self.session else {}),
        }
        os.write(self.out, json.dumps(message).encode() + b"\0")
        return self.number

    def call(self, method: str, **parameters) -> dict:
        """Send a command and wait for its result, at most 60 seconds. Events are handled meanwhile."""
        number, deadline = self.send(method, **parameters), time.monotonic() + 60
        while number not in self.answers:
            self.listen(deadline - time.monotonic())
        answer = self.answers.pop(number)
        assert "error" not in answer, (method, answer)
        return answer["result"]

    def listen(self, seconds: float) -> None:
        """Handle the next messages of the browser."""
        assert select.select([self.back], [], [], max(seconds, 0))[0], "Chromium sends nothing"
        self.buffer += os.read(self.back, 2**20)
        *messages, self.buffer = self.buffer.split(b"\0")
        for message in map(json.loads, messages):
            if "id" in message:
                self.answers[message["id"]] = message
            elif message["method"] == "Fetch.requestPaused":
                self.send("Fetch.continueRequest", requestId=message["params"]["requestId"])
            elif message["method"] == "Fetch.authRequired":
                self.logins += 1
                self.send("Fetch.continueWithAuth", requestId=message["params"]["requestId"], authChallengeResponse={
                    "response": "ProvideCredentials", "username": self.login[0], "password": self.login[1]})
            else:
                self.event(message["method"], message["params"])

    def event(self, method: str, parameters: dict) -> None:
        """An event of a domain that was enabled, for subclasses."""

    def read(self, url: str, *words: str) -> str:
        """Open the URL and return the page's text once it has all the words, or what it has after 90 seconds.

        A page that reports an error, or has not all the words after 30 seconds, is loaded again.
        """
        deadline, opened, text = time.monotonic() + 90, 0.0, ""
        while time.monotonic() < deadline and not all(word in text for word in words):
            if time.monotonic() - opened > (5 if "went wrong" in text else 30):
                self.send("Page.navigate", url="about:blank")
                self.send("Page.navigate", url=url)
                opened = time.monotonic()
            time.sleep(0.5)
            text = self.text()
        return text

    def text(self) -> str:
        """The text that the page shows now."""
        result = self.call(
            "Runtime.evaluate", expression="document.body ? document.body.innerText : ''", returnByValue=True
        )
        return str(result["result"].get("value") or "")

    def close(self) -> None:
        """Kill the browser and remove its profile."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self.out)
        os.close(self.back)
        self.home.cleanup()
