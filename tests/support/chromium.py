# SPDX-License-Identifier: GPL-3.0-or-later
"""A real Chromium without a window, driven through its DevTools protocol over a pipe; needs nothing but the browser."""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
LIMIT_S = 120.0


class Chromium:
    """One page, from entering to leaving."""

    def __init__(self, folder: Path):
        self._number, self._session, self._read = 0, "", b""
        ours, theirs = os.pipe(), os.pipe()
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (ours[0], theirs[1])]

        def prepare() -> None:
            for number, end in zip((3, 4), ends, strict=True):
                os.dup2(end, number)

        command = [PROGRAM, "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
        self._process = subprocess.Popen(
            [*command, f"--user-data-dir={folder}", "about:blank"],
            preexec_fn=prepare, pass_fds=(3, 4), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for end in (*ends, ours[0], theirs[1]):
            os.close(end)
        self._out, self._in = ours[1], theirs[0]

    def __enter__(self) -> Chromium:
        target = self._tell("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._tell("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._out)
        os.close(self._in)

    def go(self, url: str) -> None:
        """Open a page."""
        self._tell("Page.navigate", url=url)

    def value(self, expression: str):
        """What a JavaScript expression is on the page."""
        answer = self._tell("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, expression: str):
        """The value of the expression once it is true."""
        deadline = time.monotonic() + LIMIT_S
        while not (found := self.value(expression)):
            assert time.monotonic() < deadline, f"{expression} did not come true"
            time.sleep(0.05)
        return found

    def _tell(self, method: str, **parameters):
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._out, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + LIMIT_S
        while True:
            while b"\0" not in self._read:
                assert select.select([self._in], [], [], max(0.0, deadline - time.monotonic()))[0], "it says nothing"
                more = os.read(self._in, 1 << 16)
                assert more, "it has ended"
                self._read += more
            line, _, self._read = self._read.partition(b"\0")
            answer = json.loads(line)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer["error"]
                return answer["result"]
