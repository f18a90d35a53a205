# SPDX-License-Identifier: GPL-3.0-or-later
"""``das takes``: what lies in the cache of a shot, without a server."""

import json
import wave

import bpy
import numpy as np
import pytest

from das_blender_addon import api, commands, compat
from das_blender_addon.errors import SettingsError
from das_blender_addon.protocol.png import decode_png


@pytest.fixture
def two_takes(shot_scene, tmp_path):
    """Seeds 1 and 2 of three frames; from now on no server answers."""
    shot_scene.frame_end = 3
    shot_scene.das.cache_folder = str(tmp_path / "cache")
    made = [api.render_take(shot_scene, seed=seed) for seed in (1, 2)]
    shot_scene.das.server = "tcp://127.0.0.1:9"
    return made


def das(*words, capsys):
    """The lines of the command as JSON, the last one first."""
    assert commands.main(["takes", *words, "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")][::-1]


@pytest.mark.any_blender
def test_list_show_star_and_delete(two_takes, capsys):
    first, second = two_takes
    for words, sentence in REFUSALS:
        assert commands.main(["takes", *words]) == SettingsError.exit_code
        assert sentence in capsys.readouterr().err
    done = das("list", capsys=capsys)[0]
    assert [take["key"] for take in done["takes"]] == [second.key, first.key]
    shown = das("show", "1", capsys=capsys)[0]
    assert shown["whole"] and shown["changed"] == [{"name": "seed", "before": 1, "after": 2}]
    assert das("star", first.key[:8], capsys=capsys)[0]["starred"]
    assert commands.main(["takes", "delete", "2"]) == SettingsError.exit_code
    assert "starred" in capsys.readouterr().err
    assert das("delete", "1", capsys=capsys)[0]["freed_bytes"] > 0
    assert commands.main(["takes", "list"]) == 0
    said = capsys.readouterr().out
    assert f"1 * {first.key[:8]}" in said and second.key[:8] not in said


@pytest.mark.any_blender
def test_frames_sheet_movie_and_comparison(two_takes, tmp_path, capsys):
    first, second = two_takes
    out = tmp_path / "out"
    files = das("export", "last", "--output", str(out / "frames"), capsys=capsys)[0]["files"]
    assert [open(file, "rb").read() for file in files] == [frame.read_bytes() for frame in second.frames]
    das("export", "2", "--output", str(out / "sheet.png"), capsys=capsys)
    assert decode_png((out / "sheet.png").read_bytes()).shape[1] > 1500
    das("export", "2", "--output", str(out / "take.mp4"), capsys=capsys)
    clip = bpy.data.movieclips.load(str(out / "take.mp4"))
    assert tuple(clip.size) == (96, 64) and clip.frame_duration == 3
    files = das("compare", "1", "2", "--mode", "difference", "--output", str(out / "difference"), capsys=capsys)[0]
    assert len(files["files"]) == 3
    same = decode_png((out / "difference" / "0001.png").read_bytes())
    assert np.abs(same.astype(int) - 128).max() == 0, "the first frame is the same picture"
    assert sorted(path.name for path in out.iterdir()) == ["difference", "frames", "sheet.png", "take.mp4"]


@pytest.mark.skipif(not bpy.app.build_options.audaspace, reason="this build of Blender has no sound")
def test_movie_has_the_sound_of_its_frames(two_takes, tmp_path, capsys):
    scene, rate = bpy.context.scene, 48000
    fps = scene.render.fps / scene.render.fps_base
    loud = tmp_path / "loud.wav"
    with wave.open(str(loud), "wb") as file:  # silence, but for the second frame of the take
        file.setparams((1, 2, rate, 0, "NONE", ""))
        samples = np.zeros(int(rate * 40 / fps), np.int16)
        begin = int(rate * (scene.frame_start + 1 - 1) / fps)
        samples[begin : begin + int(rate / fps)] = 20000 * np.sign(np.sin(np.arange(int(rate / fps)) * 0.3))
        file.writeframes(samples.tobytes())
    scene.sequence_editor_create()
    strip = compat.strips(scene).new_sound("loud", str(loud), 1, 1)
    movie = tmp_path / "out" / "take.mp4"
    before = scene.frame_start, scene.frame_end
    das("export", "2", "--output", str(movie), capsys=capsys)
    assert (scene.frame_start, scene.frame_end) == before
    first, second, third = loudness(movie, 3, tmp_path / "heard.wav")
    assert second > 1000 and second > 4 * max(first, third)  # the codec shifts it by some milliseconds
    strip.mute = True
    das("export", "2", "--output", str(movie), capsys=capsys)
    assert max(loudness(movie, 3, tmp_path / "heard.wav")) == 0


def loudness(movie, count, output):
    """Mean sample of what is heard in each frame of the movie, as Blender plays it."""
    scene = bpy.data.scenes.new("Player")
    scene.sequence_editor_create()
    scene.frame_start, scene.frame_end = 1, count
    scene.render.fps, scene.render.fps_base = bpy.context.scene.render.fps, bpy.context.scene.render.fps_base
    try:
        compat.strips(scene).new_sound("movie", str(movie), 1, 1)
    except RuntimeError:  # it has no sound
        return [0.0] * count
    with bpy.context.temp_override(scene=scene):
        bpy.ops.sound.mixdown(filepath=str(output), container="WAV", codec="PCM", format="S16")
    with wave.open(str(output)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), np.int16).reshape(-1, file.getnchannels())
    return [float(np.abs(part.astype(float)).mean()) for part in np.array_split(samples, count)]


REFUSALS = (
    (["compare", "1"], "about 2 takes, and 1 are named"),
    (["compare", "1", "2"], "name a folder with --output"),
    (["export", "1"], "needs --output"),
    (["show", "9"], "There is no take 9; there are 1 to 2"),
    (["delete"], "no take is named"),
)


def test_shot_without_takes(shot_scene, tmp_path, capsys):
    shot_scene.das.cache_folder = str(tmp_path)
    assert das("list", capsys=capsys)[0]["takes"] == []
    assert commands.main(["takes", "show"]) == SettingsError.exit_code
