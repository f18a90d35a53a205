# SPDX-License-Identifier: GPL-3.0-or-later
"""The first words of a child: a machine may pause it before them, and strangers connect, too."""

import os
import sys
import time

import pytest

from das_blender_addon.child import process
from das_blender_addon.child.process import STOP_LIMIT_S, ChildBlender, Launch
from das_blender_addon.errors import JobCancelled
from tests.support.server import ROOT

SPEAKS = """
import json, socket, sys, time
sys.path.insert(0, sys.argv[1])
from das_blender_addon.child.talk import Talk
meeting = json.loads(sys.stdin.readline())
strangers = [socket.create_connection(("127.0.0.1", meeting["port"])) for _ in range(int(sys.argv[3]))]
for stranger in strangers:
    stranger.sendall(sys.argv[4].encode())
talk = Talk(socket.create_connection(("127.0.0.1", meeting["port"])))
time.sleep(float(sys.argv[2]))
talk.send(hello=meeting["token"], pid=0)
request = talk.receive(None)
talk.send(id=request["id"], done={"task": request["task"]})
time.sleep(60)
"""


@pytest.fixture
def child():
    """Starts one that says hello after ``pause_s``, with so many strangers before it."""
    started = []

    def start(pause_s: float, strangers: int = 0, words: str = "GET / HTTP/1.1") -> ChildBlender:
        command = (sys.executable, "-c", SPEAKS, str(ROOT), str(pause_s), str(strangers), words)
        started.append(ChildBlender(Launch(command, dict(os.environ))))
        return started[-1]

    yield start
    for one in started:
        one.close()


@pytest.mark.parametrize(("pause_s", "strangers"), [(0.0, 0), (STOP_LIMIT_S + 1.0, 0), (0.0, 3)])
def test_child_is_known_by_its_words_however_late_and_strangers_are_not(child, pause_s, strangers):
    assert child(pause_s, strangers).ask({"task": "nothing"}) == {"task": "nothing"}


def test_stranger_who_says_nothing_is_let_go(child, monkeypatch):
    monkeypatch.setattr(process, "HELLO_LIMIT_S", 4.0)  # which is also what the machine may pause the child for
    assert child(0.0, 1, words="").ask({"task": "nothing"}) == {"task": "nothing"}


def test_waiting_for_the_first_words_is_cancelled_at_once(child):
    late = child(1000.0)
    until = time.monotonic() + 1.0
    with pytest.raises(JobCancelled):
        late.ask({}, should_stop=lambda: time.monotonic() > until)
    assert late.process.poll() is not None
