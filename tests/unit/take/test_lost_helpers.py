# SPDX-License-Identifier: GPL-3.0-or-later
"""Helpers that are killed, hang, come too late or cannot be heard: they cost no frame, and cancel is heard."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from das_blender_addon.errors import JobCancelled, StorageError
from das_blender_addon.take import helpers, shared_detail
from das_blender_addon.take.detail import Detail, KeyPicture
from das_blender_addon.take.pipe import send
from das_blender_addon.take.shared_detail import SharedDetail
from tests.support.shots import pattern, wall
from tests.unit.take.test_detail import composed, planned
from tests.unit.take.test_helpers import (
    ENDS_WITHIN_S,
    FRAMES,
    ROOT,
    SIZE,
    assert_same,
    detail_of,
    ended,
    helped,
    processes_of,
)


@pytest.fixture
def two_helpers(monkeypatch):
    """Whatever this machine has, and however busy it is."""
    monkeypatch.setattr(helpers, "START_LIMIT_S", ENDS_WITHIN_S)
    monkeypatch.setattr(shared_detail, "FEWEST_FRAMES", 2)
    monkeypatch.setattr(helpers, "_cores", lambda: 3)


def test_environment_that_is_not_for_blender_is_not_for_helpers(two_helpers, monkeypatch, tmp_path):
    """As of other programs of a studio: with another Python's home no helper would begin."""
    (tmp_path / "sitecustomize.py").write_text("print('no message at all')\n")
    monkeypatch.setenv("PYTHONHOME", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONOPTIMIZE", "2")
    monkeypatch.setenv("PYTHONINSPECT", "1")
    shared = detail_of(SharedDetail)

    with helped(shared) as processes:
        assert not any(helper.is_busy for helper in shared._helpers)

    assert len(processes) == 2 and ended(processes)


BLENDER = """
import signal, sys
signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # of an embedded Python nobody else has a say
from tests.unit.take.test_helpers import detail_of
from das_blender_addon.take import helpers, shared_detail
helpers._SCRIPT = sys.argv[1]  # which reads nothing, so that more is to be told than a pipe holds
helper = helpers.Helper(*detail_of(shared_detail.SharedDetail)._parts)
helper.start()
helper._process.kill()
helper._met.wait()
print("lives", helper.is_busy)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGPIPE"), reason="a pipe that nobody reads is no signal there")
def test_blender_outlives_a_helper_that_is_killed_before_it_was_told_anything(tmp_path):
    environment, script = os.environ | {"PYTHONPATH": str(ROOT)}, tmp_path / "hangs.py"
    script.write_text("import time\ntime.sleep(600)\n")

    command = [sys.executable, "-c", BLENDER, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)

    assert (done.stdout, done.returncode) == ("lives True\n", 0), done.stderr


def test_helper_that_nobody_reads_ends_and_does_not_crash():
    """As when whoever started it is killed while it writes; Python would wait for a thread that reads, and abort."""
    told = {"path": sys.path, "package": helpers._PACKAGE, "folder": str(ROOT / "das_blender_addon")}
    process = subprocess.Popen(helpers.command_line(), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.close()
    process.stdin.write(json.dumps(told).encode() + b"\n")
    send(process.stdin, ("begin", *detail_of(SharedDetail)._parts))

    assert process.wait(ENDS_WITHIN_S) == 1
    process.stdin.close()


def test_helper_that_never_is_there_is_not_waited_for_and_cancel_is_heard(two_helpers, monkeypatch, tmp_path):
    monkeypatch.setattr(helpers, "_SCRIPT", tmp_path / "hangs.py")
    helpers._SCRIPT.write_text("import time\ntime.sleep(600)\n")
    shared = detail_of(SharedDetail)

    with shared.helped():
        processes = processes_of(shared)
        assert_same(composed(shared), composed(detail_of(Detail)))
        with pytest.raises(JobCancelled):
            shared.carried_with_alpha(range(FRAMES), should_stop=lambda: True)
        assert shared.hold(range(FRAMES), lambda: True) == ()
        assert not ended(processes)

    assert ended(processes)


@pytest.mark.skipif(sys.platform == "win32", reason="halts a process")
@pytest.mark.parametrize("meanwhile", ["held", "composed"])
def test_helpers_that_hang_are_ended_and_cost_no_frame(two_helpers, monkeypatch, meanwhile):
    monkeypatch.setattr(helpers, "STOP_LIMIT_S", 0.5)
    monkeypatch.setattr(helpers, "SILENCE_LIMIT_S", 0.5)
    shared = detail_of(SharedDetail)

    with helped(shared) as processes:
        for process in processes:
            process.send_signal(signal.SIGSTOP)
        if meanwhile == "held":
            shared.hold([1, 2, 3], lambda: True)
            assert ended(processes)
        assert_same(composed(shared), composed(detail_of(Detail)))
        assert ended(processes)


def test_helper_that_serves_somebody_is_not_waited_for(two_helpers):
    shared = detail_of(SharedDetail)

    with helped(shared) as processes:
        with shared._helpers[0]._serving, pytest.raises(helpers.HelperLost, match="somebody else"):
            shared._helpers[0].call("hold", (), answer=None)
        assert not ended(processes)
        assert shared._helpers[0].call("hold", (), answer=None) == ()


def test_frame_that_cannot_be_taken_from_a_helper_stops_all(two_helpers, monkeypatch):
    monkeypatch.setattr(helpers, "_cores", lambda: 2)
    made = planned(40, SIZE, keys=[7])
    pictures = [KeyPicture(key, pattern(made.picture_size, seed=key), b"") for key in made.keys]
    shared = SharedDetail(wall(made.render_size, made.frames, step=0.1), made, pictures)
    refused, taken = threading.Event(), []

    def take(index, frame, covered):
        if threading.current_thread().name.startswith("das helped"):
            refused.set()
            raise StorageError("The disk is full.")
        refused.wait(ENDS_WITHIN_S)
        taken.append(index)
        time.sleep(0.2 * len(taken))  # whoever was refused may be slow to say so

    with helped(shared), pytest.raises(StorageError, match="The disk is full"):
        shared.compose(range(40), lambda _: np.zeros((64, 96, 3), np.uint8), take)

    assert len(taken) < 20  # half of all were to be composed here


def test_what_a_lost_helper_has_carried_is_counted_once(two_helpers):
    shared, told = detail_of(SharedDetail), []

    with helped(shared) as processes:

        def progress(done, of):
            told.append((done, of))
            if threading.current_thread().name.startswith("das helped"):
                for process in processes:
                    process.kill()

        carried = shared.carried_with_alpha(range(FRAMES), progress=progress)

    np.testing.assert_array_equal(carried, detail_of(Detail).carried_with_alpha(range(FRAMES)))
    assert told == [(done, FRAMES) for done in range(1, FRAMES + 1)]


def test_helper_that_is_killed_costs_no_frame(two_helpers):
    shared, made, painting = detail_of(SharedDetail), {}, np.full((64, 96, 3), 128, np.uint8)

    with helped(shared) as processes:
        shared.compose_ahead(range(FRAMES), lambda: False)
        processes[0].kill()

        def take(index, frame, covered):
            assert index not in made
            made[index] = frame
            processes[1].kill()  # and the other one while it works

        shared.compose(range(FRAMES), lambda _: painting, take)
        assert all(helper.is_busy for helper in shared._helpers)  # and is not asked again
        again = composed(shared)

    assert ended(processes)
    assert_same(made, again)
    assert_same(made, composed(detail_of(Detail)))


def test_disk_that_refuses_a_helpers_frame_ends_the_take(two_helpers):
    shared = detail_of(SharedDetail)

    def take(index, frame, covered):
        if threading.current_thread().name.startswith("das helped"):
            raise StorageError("The disk is full.")

    with helped(shared) as processes:
        with pytest.raises(StorageError, match="The disk is full"):
            shared.compose(range(FRAMES), lambda _: np.zeros((64, 96, 3), np.uint8), take)

    assert ended(processes)
