# Copyright: mlops.mlflow contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A person at a browser: opens a page, answers its login dialog, and reads what is there. Speaks Chromium's DevTools protocol."""

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
    """A headless Chromium that trusts one more authority and finds one host at an address of ours.

    Args:
        login: user and password for the dialog.
        ca_file: certificate of the authority.
        host: the name.
        address: where it is found.
    """

    def __init__(self, login: tuple[str, str], ca_file: str, host: str, address: str) -> None:
        self.login, self.asked = login, 0
        # What ends last may still be writing when it goes.
        self.home = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        trusted = pathlib.Path(self.home.name, ".pki", "nssdb")
        trusted.mkdir(parents=True)
        for arguments in (["-N", "--empty-password"], ["-A", "-t", "C,,", "-n", "door", "-i", ca_file]):
            subprocess.run(["certutil", "-d", f"sql:{trusted}", *arguments], check=True)
        (theirs_in, self.out), (self.back, theirs_out) = os.pipe(), os.pipe()

        def descriptors():
            # Where --remote-debugging-pipe looks for them; copied away first, lest one overwrite the other.
            copies = os.dup(theirs_in), os.dup(theirs_out)
            os.dup2(copies[0], 3)
            os.dup2(copies[1], 4)

        self.process = subprocess.Popen(
            ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-proxy-server", "--remote-debugging-pipe",
             f"--user-data-dir={self.home.name}/profile", f"--host-resolver-rules=MAP {host} {address}", "about:blank"],
            env={**os.environ, "HOME": self.home.name}, preexec_fn=descriptors, close_fds=False, start_new_session=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(theirs_in)
        os.close(theirs_out)
        self.buffer, self.number, self.answers = b"", 0, {}
        page = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        self.call("Fetch.enable", handleAuthRequests=True)

    session = None

    def send(self, method: str, **parameters) -> int:
        """Say something, without waiting for the answer; its number."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters, **({"sessionId": self.session} if self.session else {})}
        os.write(self.out, json.dumps(message).encode() + b"\0")
        return self.number

    def call(self, method: str, **parameters) -> dict:
        """Say something and wait for the answer, 60 seconds at most; what happens meanwhile is dealt with."""
        number, deadline = self.send(method, **parameters), time.monotonic() + 60
        while number not in self.answers:
            self.listen(deadline - time.monotonic())
        answer = self.answers.pop(number)
        assert "error" not in answer, (method, answer)
        return answer["result"]

    def listen(self, seconds: float) -> None:
        """Deal with what the browser says next."""
        assert select.select([self.back], [], [], max(seconds, 0))[0], "Chromium says nothing"
        self.buffer += os.read(self.back, 2**20)
        *messages, self.buffer = self.buffer.split(b"\0")
        for message in map(json.loads, messages):
            if "id" in message:
                self.answers[message["id"]] = message
            elif message["method"] == "Fetch.requestPaused":
                self.send("Fetch.continueRequest", requestId=message["params"]["requestId"])
            elif message["method"] == "Fetch.authRequired":
                self.asked += 1
                self.send("Fetch.continueWithAuth", requestId=message["params"]["requestId"], authChallengeResponse={
                    "response": "ProvideCredentials", "username": self.login[0], "password": self.login[1]})

    def read(self, url: str, *words: str) -> str:
        """Open the URL and return the page's text once it has all the words, or what it has after 90 seconds.

        As people do, it loads a page again that says that something went wrong, or nothing for half a minute.
        """
        deadline, opened, text = time.monotonic() + 90, 0.0, ""
        while time.monotonic() < deadline and not all(word in text for word in words):
            if time.monotonic() - opened > (5 if "went wrong" in text else 30):
                self.send("Page.navigate", url="about:blank")
                self.send("Page.navigate", url=url)
                opened = time.monotonic()
            time.sleep(0.5)
            result = self.call("Runtime.evaluate", expression="document.body ? document.body.innerText : ''", returnByValue=True)
            text = str(result["result"].get("value") or "")
        return text

    def close(self) -> None:
        """End the browser and forget what it knew."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self.out)
        os.close(self.back)
        self.home.cleanup()
