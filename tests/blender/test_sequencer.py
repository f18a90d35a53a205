# SPDX-License-Identifier: GPL-3.0-or-later
"""A take in the sequencer: the right pictures at the right frames, byte by byte, and what the strip remembers."""

import wave
from pathlib import Path

import bpy
import numpy as np
import pytest

from das_blender_addon import compat
from das_blender_addon.errors import SettingsError, StorageError
from das_blender_addon.protocol.png import decode_png, encode_png
from das_blender_addon.scene import sequencer
from tests.support.scenes import add_camera

SIZE = (96, 64)
MUTED_STRIPS_HIDE = bpy.app.version < (4, 4, 0)
COLOURS = ((200, 40, 40), (40, 200, 40), (40, 40, 200), (128, 128, 128), (255, 255, 0))


def write_frames(folder: Path, colours=COLOURS) -> list[Path]:
    """One PNG per colour, each with a gradient that would show any flip or squash."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for index, colour in enumerate(colours, start=1):
        picture = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
        picture[:] = colour
        picture[:20, :30] = (index * 10, 250, 5)
        picture[-1] = np.arange(SIZE[0], dtype=np.uint8)[:, None] * 2
        files.append(folder / f"{index:04d}.png")
        files[-1].write_bytes(encode_png(picture))
    return files


def render_strips(edit, frame: int, folder: Path) -> np.ndarray:
    """The sequencer's own picture at ``frame``, u8 [H,W,3]."""
    compat.set_image_output(edit)
    edit.frame_start = edit.frame_end = frame
    edit.render.filepath = str(folder / "shown-####")
    bpy.ops.render.render(animation=True, scene=edit.name)
    return decode_png((folder / f"shown-{frame:04d}.png").read_bytes())


def test_strip_shows_the_frames_byte_by_byte(scene, tmp_path):
    scene.view_settings.view_transform = "AgX"  # the edit scene must not take this over
    scene.render.fps = 30
    files = write_frames(tmp_path / "frames")
    edit = sequencer.edit_scene_for(scene)
    strip = sequencer.add_strip(edit, "take", files, 10, {"das_take": "a", "das_seed": 5})
    assert (compat.strip_time(strip, "left"), compat.strip_time(strip, "right")) == (10, 15)
    assert (edit.render.fps, edit.render.resolution_x, edit.render.resolution_y) == (30, *SIZE)
    for index, file in enumerate(files):
        shown = render_strips(edit, 10 + index, tmp_path)
        np.testing.assert_array_equal(shown, decode_png(file.read_bytes()))


def test_edit_scene_is_made_once_and_has_the_size_that_renders(scene):
    scene.render.resolution_percentage = 50
    edit = sequencer.edit_scene_for(scene)
    assert edit != scene and edit.name == f"DAS Edit {scene.name}"
    assert (edit.render.resolution_x, edit.render.resolution_y, edit.render.resolution_percentage) == (48, 32, 100)
    edit.name = "My Cut"
    assert sequencer.edit_scene_for(scene) == edit


def test_strip_remembers_its_take_after_saving(scene, tmp_path):
    files = write_frames(tmp_path / "das_cache" / "frames")
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    properties = {
        "das_take": "k1",
        "das_seed": 42,
        "das_prompt": "a cat",
        "das_job": "j" * 32,
        "das_model": "das-preview",
    }
    edit = sequencer.edit_scene_for(bpy.context.scene)
    sequencer.add_strip(edit, "take", files, 1, properties)
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "shot.blend"))
    strip = sequencer.find_strip(bpy.context.scene.das.edit_scene, "k1")
    assert {key: strip[key] for key in properties} == properties
    assert strip.directory.startswith("//")
    assert [element.filename for element in strip.elements] == [file.name for file in files]


def test_newer_take_lies_above_older_ones(scene, tmp_path):
    edit = sequencer.edit_scene_for(scene)
    older = sequencer.add_strip(edit, "older", write_frames(tmp_path / "a"), 1, {"das_take": "a"})
    newer = sequencer.add_strip(edit, "newer", write_frames(tmp_path / "b", [(9, 9, 9)] * 3), 3, {"das_take": "b"})
    beside = sequencer.add_strip(edit, "beside", write_frames(tmp_path / "c"), 100, {"das_take": "c"})
    assert newer.channel > older.channel and beside.channel == 1
    assert tuple(render_strips(edit, 4, tmp_path)[40, 50]) == (9, 9, 9)


def test_take_that_is_there_already_is_read_again(scene, tmp_path):
    edit = sequencer.edit_scene_for(scene)
    sequencer.add_strip(edit, "take", write_frames(tmp_path / "frames"), 1, {"das_take": "a"})
    assert tuple(render_strips(edit, 1, tmp_path)[40, 50]) == COLOURS[0]
    sequencer.add_strip(edit, "take", write_frames(tmp_path / "frames", [(1, 2, 3)] * 5), 1, {"das_take": "a"})
    assert len(compat.all_strips(edit)) == 1
    assert tuple(render_strips(edit, 1, tmp_path)[40, 50]) == (1, 2, 3)


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"")])
def test_missing_or_empty_frame_is_refused(scene, tmp_path, damage):
    files = write_frames(tmp_path / "frames")
    damage(files[2])
    edit = sequencer.edit_scene_for(scene)
    with pytest.raises(StorageError, match="0003.png"):
        sequencer.add_strip(edit, "take", files, 1, {})
    assert compat.all_strips(edit) == []


def add_sound(scene, folder: Path):
    file = folder / "tone.wav"
    with wave.open(str(file), "wb") as sound:
        sound.setparams((1, 2, 8000, 8000, "NONE", ""))
        sound.writeframes(bytes(16000))
    return compat.strips(scene).new_sound(name="tone", filepath=str(file), channel=2, frame_start=1)


def engine_is_called(scene, monkeypatch) -> bool:
    """Whether Blender asks the engine for a picture, which refuses at once."""
    monkeypatch.setenv("DAS_SEED", "lucky")
    scene.render.engine = "DAS"
    try:
        bpy.ops.render.render()
    except RuntimeError as error:
        assert "DAS_SEED" in str(error)
        return True
    return False


def mute_channel(scene) -> None:
    scene.sequence_editor.channels[1].mute = True


@pytest.mark.parametrize(
    ("change", "hides"),
    [
        (lambda scene: None, True),
        (mute_channel, MUTED_STRIPS_HIDE),
        (lambda scene: setattr(compat.strips(scene)["take"], "mute", True), MUTED_STRIPS_HIDE),
        (lambda scene: setattr(scene.render, "use_sequencer", False), False),
    ],
    ids=["picture", "muted channel", "muted strip", "sequencer off"],
)
def test_strips_hide_the_engine_exactly_where_blender_renders_them(scene, tmp_path, monkeypatch, change, hides):
    add_camera(scene)
    sequencer.add_strip(scene, "take", write_frames(tmp_path / "frames"), 1, {}).channel = 1
    change(scene)
    assert sequencer.hides_engine(scene) == hides
    assert engine_is_called(scene, monkeypatch) != hides


@pytest.mark.skipif(not bpy.app.build_options.audaspace, reason="this Blender knows no sound")
def test_sound_does_not_hide_the_engine(scene, tmp_path, monkeypatch):
    add_camera(scene)
    assert add_sound(scene, tmp_path).type == "SOUND"
    assert not sequencer.hides_engine(scene) and engine_is_called(scene, monkeypatch)


def test_full_sequencer_is_refused(scene, tmp_path):
    edit = sequencer.edit_scene_for(scene)
    files = write_frames(tmp_path / "frames")
    sequencer.add_strip(edit, "top", files, 1, {}).channel = sequencer.MAX_CHANNEL
    with pytest.raises(SettingsError, match="channels"):
        sequencer.add_strip(edit, "take", files, 1, {"das_take": "b"})
