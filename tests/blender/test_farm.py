# SPDX-License-Identifier: GPL-3.0-or-later
"""A farm: a shot and chunks of it, made by many processes with one cache, some of them killed; every frame is right."""

import os
import random
import signal
import subprocess
import sys
import time

import bpy
import pytest

from das_blender_addon import api
from tests.support.server import ROOT, running_server

pytestmark = pytest.mark.any_blender  # processes, files and the server's jobs: Blender only makes their frames
CHUNKS = ("1-3", "4-6", "7-9", "1-9")
PROCESSES_PER_CHUNK = 2
KILLS = 4
SEED = 5
LIMIT_S = 600.0


def start(file, chunk: str, server: str, tmp_path, **environment: str) -> subprocess.Popen:
    words = ["render", str(file), "--server", server, "--cache", str(tmp_path / "cache"), "--frames", chunk]
    return subprocess.Popen(
        [sys.executable, "-m", "das_blender_addon", *words, "--output", str(tmp_path / "out" / chunk)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture
def shot_file(shot_scene, tmp_path):
    """The shot, saved; server and cache are named by the commands."""
    shot_scene.das.server = shot_scene.das.cache_folder = ""
    path = tmp_path / "shot.blend"
    bpy.ops.wm.save_as_mainfile(filepath=str(path))
    return path


def test_every_frame_is_right_whoever_dies(shot_file, server, tmp_path):
    running = [(chunk, start(shot_file, chunk, server.address, tmp_path)) for chunk in CHUNKS * PROCESSES_PER_CHUNK]
    chance, killed = random.Random(SEED), []
    try:
        for _ in range(KILLS):
            time.sleep(chance.uniform(0.3, 1.5))  # whatever they are at
            alive = [index for index, (_, process) in enumerate(running) if process.poll() is None]
            index = chance.choice(alive or range(len(running)))
            chunk, process = running[index]
            process.send_signal(signal.SIGKILL)
            process.communicate(timeout=LIMIT_S)
            killed.append(process.returncode)
            running[index] = chunk, start(shot_file, chunk, server.address, tmp_path)
        for chunk, process in running:
            said, _ = process.communicate(timeout=LIMIT_S)
            assert process.returncode == 0, f"{chunk}: {said}"
        assert -signal.SIGKILL in killed
    finally:
        for _, process in running:
            process.kill()
            process.wait()
    expected = {}
    for chunk in CHUNKS:
        first, last = map(int, chunk.split("-"))
        frames = range(first, last + 1)
        options = {"server": server.address, "folder": tmp_path / "alone" / chunk, "frames": frames}
        alone = api.render_take(bpy.context.scene, **options)
        expected |= {(chunk, f"{n:04d}.png"): path.read_bytes() for n, path in zip(frames, alone.frames, strict=True)}
    made = {(path.parent.name, path.name): path.read_bytes() for path in (tmp_path / "out").glob("*/*.png")}
    assert made == expected
    assert made["4-6", "0004.png"] != made["1-9", "0004.png"], "a chunk has a first frame of its own"
    (shot,) = (tmp_path / "cache").iterdir()
    assert len(list((shot / "takes").glob("*/take.json"))) == len(CHUNKS)
    assert not list(tmp_path.glob("out/*/.*.part")), "nobody's half file"


def test_processes_that_want_one_take_run_one_job(shot_file, tmp_path):
    with running_server(tmp_path / "server") as server:
        (tmp_path / "temporary").mkdir()
        places = {"TMPDIR": str(tmp_path / "temporary")}
        running = [start(shot_file, "1-9", server.address, tmp_path, **places) for _ in range(3)]
        for process in running:
            said, _ = process.communicate(timeout=LIMIT_S)
            assert process.returncode == 0, said
        assert len(server.status()["jobs"]) == 1
    assert len(list((tmp_path / "cache").glob("*/first_frames/*.png"))) == 1
    names = sorted(path.name for path in (tmp_path / "out" / "1-9").iterdir())
    assert names == [f"{number:04d}.png" for number in range(1, 10)]
    assert not list((tmp_path / "temporary").iterdir())
