# SPDX-License-Identifier: GPL-3.0-or-later
"""Frames composed by several processes: the same bytes, whatever becomes of a helper, and no process is left."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import das_blender_addon
from das_blender_addon.errors import JobCancelled
from das_blender_addon.protocol.png import decode_png
from das_blender_addon.take import helpers, shared_detail
from das_blender_addon.take.detail import Detail, KeyPicture
from das_blender_addon.take.shared_detail import SharedDetail
from tests.support.shots import pattern, wall
from tests.unit.take.test_detail import composed, planned
from tests.unit.tracking import test_relighting as relit

FRAMES, SIZE = 12, (160, 80)
ENDS_WITHIN_S = 60.0
ROOT = Path(das_blender_addon.__file__).parents[1]


@pytest.fixture
def two_helpers(monkeypatch):
    """Whatever this machine has, and however busy it is."""
    monkeypatch.setattr(helpers, "START_LIMIT_S", ENDS_WITHIN_S)
    monkeypatch.setattr(shared_detail, "FEWEST_FRAMES", 2)
    monkeypatch.setattr(helpers, "_cores", lambda: 3)


def detail_of(kind, **options):
    made = planned(FRAMES, SIZE, keys=[7], **options)
    pictures = [KeyPicture(key, pattern(made.picture_size, seed=key), b"") for key in made.keys]
    return kind(wall(made.render_size, made.frames, step=1.25), made, pictures)


@contextmanager
def helped(detail):
    """With helpers that are there: who is late helps no more."""
    with detail.helped():
        for helper in detail._helpers:
            assert helper._met.wait(2 * ENDS_WITHIN_S) and not helper._closed, helper._why
        yield processes_of(detail)


def ended(processes):
    return all(process.poll() is not None for process in processes)


def processes_of(detail):
    return [helper._process for helper in detail._helpers]


def assert_same(made, others):
    assert sorted(made) == sorted(others) == list(range(FRAMES))
    for index, frame in made.items():
        np.testing.assert_array_equal(frame, others[index])


def test_helpers_change_no_byte_of_what_is_carried_and_composed(two_helpers):
    alone, shared = detail_of(Detail), detail_of(SharedDetail)
    told = []

    with helped(shared) as processes:
        carried = shared.carried_with_alpha([3, *range(FRAMES)], progress=lambda *step: told.append(step))
        shared.compose_ahead(range(FRAMES), lambda: False)
        held = [len(indices) for indices in shared._held_by.values()]
        made = composed(shared)

    assert len(processes) == 2 and ended(processes)
    np.testing.assert_array_equal(carried, alone.carried_with_alpha([3, *range(FRAMES)]))
    assert told == [(done, FRAMES) for done in range(1, FRAMES + 1)]
    assert held == [3, 3]  # of twelve two are key pictures and one was looked at first
    assert_same(made, composed(alone))


def test_light_is_told_once_and_helpers_are_told_it(two_helpers, monkeypatch):
    """What they would find themselves may differ in the last bits: a library's products do with its threads."""
    geometry = relit.shot()
    pictures = [relit.rendered(geometry, key)[0] for key in relit.KEYS]
    made = planned(relit.FRAMES, (relit.WIDTH, relit.HEIGHT), keys=relit.KEYS[1:])
    keys = [KeyPicture(key, one, b"") for key, one in zip(relit.KEYS, pictures, strict=True)]
    shared, alone, frames = SharedDetail(geometry, made, keys), Detail(geometry, made, keys), {}
    light = shared._at_render_size().light(tuple(relit.KEYS), lambda: False)
    assert light is not None
    asked = []
    monkeypatch.setattr(shared, "_answering", lambda *_: lambda *words: (asked.append(words), light.told)[1])
    painting = np.zeros((*made.model_size[::-1], 3), np.uint8)

    with helped(shared):
        shared.compose(range(relit.FRAMES), lambda _: painting, lambda index, frame, _: frames.update({index: frame}))

    assert asked == [("light", tuple(relit.KEYS))] * len(asked) and 1 <= len(asked) <= 2
    expected = {}
    alone.compose(range(relit.FRAMES), lambda _: painting, lambda index, frame, _: expected.update({index: frame}))
    for index, frame in expected.items():
        np.testing.assert_array_equal(frames[index], frame)


def test_frames_are_packed_where_they_are_composed(two_helpers):
    shared, packed, threads = detail_of(SharedDetail), {}, set()
    painting = np.full((*shared.plan.model_size[::-1], 3), 128, np.uint8)

    def take(index, png, covered):
        threads.add(threading.current_thread().name.rsplit("_", 1)[0])
        packed[index] = png

    with helped(shared):
        shared.compose(range(FRAMES), lambda _: painting, take, packed=True)

    assert_same({index: decode_png(png) for index, png in packed.items()}, composed(detail_of(Detail)))
    assert "das helped" in threads  # some came from helpers


def test_cancel_ends_helpers_at_work(two_helpers):
    shared, stop = detail_of(SharedDetail), threading.Event()

    with helped(shared) as processes:
        with pytest.raises(JobCancelled):
            shared.compose(
                range(FRAMES), lambda _: np.zeros((64, 96, 3), np.uint8), lambda *_: stop.set(),
                should_stop=stop.is_set,
            )  # fmt: skip

    assert ended(processes)


def test_composing_ahead_that_is_stopped_keeps_what_is_there_and_the_helpers(two_helpers):
    shared, begun = detail_of(SharedDetail), []

    def stop():
        begun.append(1)
        return len(begun) > 30

    with helped(shared):
        shared.compose_ahead(range(FRAMES), stop)
        held = set().union(*shared._held_by.values())
        assert len(held) + len(shared._ahead) < FRAMES
        made = composed(shared)
        assert not any(helper.is_busy for helper in shared._helpers)

    assert_same(made, composed(detail_of(Detail)))


@pytest.mark.parametrize("broken", ["no program", "not to be sent", "no python", "not said", "nothing", "a Blender"])
def test_where_no_helper_can_be_had_all_is_composed_here(two_helpers, monkeypatch, broken, tmp_path):
    shared, started = detail_of(SharedDetail), tmp_path / "started"
    if broken == "no python":
        monkeypatch.setattr(helpers, "_SCRIPT", tmp_path / "missing.py")
    elif broken == "not to be sent":
        monkeypatch.setattr(shared, "_parts", (shared._parts[0], shared._parts[1], (lambda: None,)))
    else:
        program = {"no program": str(tmp_path / "python"), "not said": None, "nothing": ""}.get(broken)
        if broken == "a Blender":  # which takes a script for one to run, in a window
            program = tmp_path / "blender"
            program.write_text(f"#!/bin/sh\ntouch {started}\n")
            program.chmod(0o755)
        monkeypatch.setattr(helpers.sys, "executable", program)

    with shared.helped():
        assert_same(composed(shared), composed(detail_of(Detail)))

    assert not started.exists()


def test_frames_that_are_composed_ahead_twice_come_once(two_helpers):
    shared = detail_of(SharedDetail)

    with helped(shared):
        shared.compose_ahead(range(FRAMES), lambda: False)
        shared.compose_ahead(range(FRAMES)[::-1], lambda: False)
        assert_same(composed(shared), composed(detail_of(Detail)))


def test_stop_that_comes_too_late_stops_nothing_else(two_helpers):
    """A helper may have answered already when it is told to stop."""
    shared = detail_of(SharedDetail)

    with helped(shared):
        for helper in shared._helpers:
            assert helper.call("hold", (1, 2), answer=shared._answering(lambda: False)) == (1, 2)
            helper._to_say.put(("stop", helper._asked))
        made = composed(shared)
        assert not any(helper.is_busy for helper in shared._helpers)

    assert_same(made, composed(detail_of(Detail)))


def test_helpers_wait_for_whoever_takes_their_frames(two_helpers, monkeypatch):
    monkeypatch.setattr(helpers, "MOST_UNHEARD", 1)
    shared, made, waiting = detail_of(SharedDetail), {}, []

    def take(index, frame, covered):
        waiting.append(max(helper._said.qsize() for helper in shared._helpers))
        made[index] = frame

    with helped(shared):
        shared.compose(range(FRAMES), lambda _: np.full((64, 96, 3), 128, np.uint8), take)

    assert max(waiting) <= 1
    assert_same(made, composed(detail_of(Detail)))


def test_few_frames_large_pictures_and_one_core_have_no_helper(monkeypatch):
    vertices = np.zeros((1, 3, 3), np.float32)
    monkeypatch.setattr(helpers, "_cores", lambda: 64)
    assert helpers.helpers_for(720 * 480, vertices) == helpers.MOST_HELPERS
    assert helpers.helpers_for(3840 * 2160, vertices) == 0
    assert helpers.helpers_for(720 * 480, vertices, helpers.MOST_IN_MEMORY) == 0  # of some hundred key pictures
    monkeypatch.setattr(helpers, "MOST_IN_MEMORY", 8)
    assert helpers.helpers_for(720 * 480, vertices) == 0
    assert helpers.helpers_for(720 * 480, object()) == helpers.MOST_HELPERS  # on disk
    short = detail_of(SharedDetail)
    with short.helped():
        assert short._helpers == []  # twelve frames
    monkeypatch.setattr(helpers, "_cores", lambda: 1)
    assert helpers.helpers_for(720 * 480, vertices) == 0


BEGIN = "('no geometry', Framing((1, 1), (1, 1), (0.0, 0.0, 1.0, 1.0)), ())"
"""No shot at all."""
EXTENSION = """
import sys, types
for name in ("bl_ext", "bl_ext.user_default"):
    package = types.ModuleType(name)
    package.__path__ = [FOLDER] if name.endswith("default") else []
    sys.modules[name] = package
sys.path[:] = [entry for entry in sys.path if entry != ROOT]
from bl_ext.user_default.das_blender_addon.take import helpers
from bl_ext.user_default.das_blender_addon.tracking.framing import Framing
assert "das_blender_addon" not in sys.modules
helper = helpers.Helper(*BEGIN)
helper.start()
try:
    helper.call("carried", (0,), answer=None)
except helpers.HelperLost as lost:
    print("lost:", lost)
"""


def test_helper_of_an_installed_extension_finds_its_package_under_blenders_name(tmp_path):
    """It is called ``bl_ext.user_default.das_blender_addon``, and only Blender makes the outer two."""
    (tmp_path / "das_blender_addon").symlink_to(ROOT / "das_blender_addon")
    begin = BEGIN
    code = EXTENSION.replace("FOLDER", repr(str(tmp_path))).replace("ROOT", repr(str(ROOT))).replace("BEGIN", begin)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=120
    )

    # It has begun, with a `Detail` of its own, which takes no such plan.
    assert done.stdout.startswith("lost: AttributeError: "), done.stdout + done.stderr


ORPHAN = """
import sys, time
sys.path.insert(0, ROOT)
from das_blender_addon.take import helpers, shared_detail
from tests.unit.take.test_helpers import detail_of
helper = helpers.Helper(*detail_of(shared_detail.SharedDetail)._parts)
helper.start()
helper._met.wait()
print(helper._process.pid, flush=True)
time.sleep(600)
"""


def runs(number):
    try:
        os.kill(number, 0)
        status = Path(f"/proc/{number}/stat")
        return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"  # ended, nobody asked
    except (ProcessLookupError, FileNotFoundError):
        return False


@pytest.mark.skipif(sys.platform == "win32", reason="looks for a process by its number")
def test_helper_ends_when_whoever_started_it_is_killed():
    parent = subprocess.Popen(
        [sys.executable, "-P", "-c", ORPHAN.replace("ROOT", repr(str(ROOT)))], stdout=subprocess.PIPE, text=True
    )
    number = int(parent.stdout.readline())
    os.kill(number, 0)

    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()

    limit = time.monotonic() + ENDS_WITHIN_S
    while runs(number):
        assert time.monotonic() < limit, f"the helper {number} still runs"
        time.sleep(0.05)
