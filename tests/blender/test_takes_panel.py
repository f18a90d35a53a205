# SPDX-License-Identifier: GPL-3.0-or-later
"""The takes of a shot in the window: the list, what is done with one, and what is drawn over the viewport."""

import shutil
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import bpy
import numpy as np
import pytest

from das_blender_addon import commands, compat
from das_blender_addon.errors import DasError, SettingsError, StorageError
from das_blender_addon.protocol.png import blob_sha, decode_png, encode_png
from das_blender_addon.scene import sequencer, strip_pair
from das_blender_addon.shot.shot_folder import shot_folder
from das_blender_addon.take import recent
from das_blender_addon.take.cleaning import STAR, remove_gone
from das_blender_addon.take.comparing import GAIN
from das_blender_addon.take.library import put_away
from das_blender_addon.ui import comparing, take_overlay, take_shelf, takes
from das_blender_addon.ui.beside import Beside
from das_blender_addon.ui.frame_reader import MOST, FrameReader
from tests.blender.test_panels import Layout, drawn
from tests.support.takes import written_take


@pytest.fixture
def shelf(shot_scene, tmp_path):
    """Three takes of an earlier session, the newest with seed 3; the folder of the shot."""
    shot_scene.das.cache_folder = str(tmp_path)
    folder = shot_folder(shot_scene, tmp_path)
    for seed in (1, 2, 3):
        written_take(folder, str(seed), seed=seed, made=1000.0 + seed, num_inference_steps=seed, level=50 * seed)
    take_shelf.shelf.forget()
    return folder


def choose(seed: int):
    entry = take_shelf.chosen_take(bpy.context)
    manager = bpy.context.window_manager
    place = next(place for place, one in enumerate(take_shelf.shelf.entries) if one.report["seed"] == seed)
    manager.das_take_index = place
    assert entry is not None
    return take_shelf.chosen_take(bpy.context)


def listed() -> list[int]:
    take_shelf.shelf.forget()
    take_shelf.chosen_take(bpy.context)
    return [entry.report["seed"] for entry in take_shelf.shelf.entries]


def test_takes_of_earlier_sessions_are_listed_newest_first(shelf):
    assert listed() == [3, 2, 1]
    assert [line.name for line in bpy.context.window_manager.das_takes] == [e.key for e in take_shelf.shelf.entries]
    assert choose(2).report["seed"] == 2


def test_settings_of_a_take_come_back(shelf, shot_scene):
    choose(2)
    shot_scene.das.prompt, shot_scene.das.seed = "else", 99
    assert bpy.ops.das.use_take_settings() == {"FINISHED"}
    settings = shot_scene.das
    assert (settings.seed, settings.steps, settings.prompt) == (2, 2, "a red vase")
    assert settings.model == "das-preview" and settings.size == "12x8"


def test_star_delete_and_clean_up(shelf):
    choose(1)
    assert bpy.ops.das.star_take() == {"FINISHED"}
    choose(3)
    assert bpy.ops.das.delete_take() == {"FINISHED"} and listed() == [2, 1]
    assert bpy.ops.das.clean_up_takes() == {"FINISHED"} and listed() == [1]
    assert bpy.ops.das.star_take() == {"FINISHED"} and bpy.ops.das.clean_up_takes() == {"FINISHED"}
    assert listed() == [] and not bpy.ops.das.open_take.poll()


def test_take_on_a_strip_is_not_cleaned_up(shelf):
    choose(2)
    assert bpy.ops.das.take_to_sequencer() == {"FINISHED"}
    assert bpy.ops.das.clean_up_takes() == {"FINISHED"} and listed() == [2]
    with pytest.raises(RuntimeError, match="on a strip of the file"):
        bpy.ops.das.delete_take()


def test_take_of_settings_that_are_none_is_told(shelf, shot_scene):
    written_take(shelf, "odd", seed=8, made=9000.0, tracking_range="sideways")
    listed()
    choose(8)
    with pytest.raises(RuntimeError, match="'sideways' as tracking_range"):
        bpy.ops.das.use_take_settings()


def test_open_sheet_and_compare_show_pictures(shelf):
    choose(3)
    assert bpy.ops.das.open_take() == {"FINISHED"}
    image = next(image for image in bpy.data.images if image.name.startswith("DAS Take "))
    assert image.source == "SEQUENCE" and image.filepath.endswith("0001.png")
    assert bpy.ops.das.take_sheet() == {"FINISHED"} and bpy.data.images["DAS Contact Sheet"].size[0] > 1000
    other = take_shelf.shelf.entries[2]
    assert bpy.ops.das.compare_takes(other=other.key, mode="difference") == {"FINISHED"}
    shown = decode_png(Path(bpy.data.images["DAS Compared"].filepath).read_bytes())
    assert shown.shape == (8, 12, 3) and (shown == 0).all(), "50 is far darker than 150"


@pytest.mark.any_blender
def test_take_is_compared_with_what_blender_has_rendered(shelf, shot_scene, tmp_path, capsys):
    choose(3)
    shot_scene.render.filepath = str(tmp_path / "gerendert ü" / "shot_####")
    assert comparing._others(None, bpy.context)[-2][0] == "rendered"
    with pytest.raises(RuntimeError, match="None of the frames 1 to 3 is at the scene's output path as a PNG file"):
        bpy.ops.das.compare_takes(other="rendered", mode="difference")
    for frame in (2, 3):
        file = tmp_path / "gerendert ü" / f"shot_{frame:04d}.png"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(encode_png(np.full((16, 24, 3), 151 + frame - 1, np.uint8)))
    assert bpy.ops.das.compare_takes(other="rendered", mode="difference") == {"FINISHED"}
    image = bpy.data.images["DAS Compared"]
    assert image.filepath.endswith("0002.png") and decode_png(Path(image.filepath).read_bytes()).shape == (8, 12, 3)
    assert (decode_png(Path(image.filepath).read_bytes()) == 128 + GAIN).all(), "152 instead of 151, at the take's size"
    out = tmp_path / "out"
    assert commands.main(["takes", "compare", "1", "rendered", "--mode", "side", "--output", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["0002.png", "0003.png"]
    assert commands.main(["takes", "compare", "rendered", "1", "--output", str(out)]) == SettingsError.exit_code


def test_take_that_was_just_made_is_chosen(shelf, shot_scene):
    choose(2)
    made = next(entry.take for entry in take_shelf.shelf.entries if entry.report["seed"] == 1)
    recent.remember_take(shot_scene, made)
    assert take_shelf.chosen_take(bpy.context).report["seed"] == 1
    assert choose(3).report["seed"] == 3, "and others can be chosen again"
    newest = written_take(shelf, "newest", seed=7, made=9000.0)
    recent.remember_take(shot_scene, newest)
    assert take_shelf.chosen_take(bpy.context).report["seed"] == 7


def test_another_shot_has_another_list(shelf, shot_scene, tmp_path):
    assert listed() == [3, 2, 1]
    shot_scene.das.cache_folder = str(tmp_path / "elsewhere")
    assert take_shelf.chosen_take(bpy.context) is None and take_shelf.shelf.entries == []


def test_overlay_knows_the_frame_and_the_part(shelf):
    take = choose(3).take
    assert take_overlay.shown_frame(take, 2) == take.frames[1] and take_overlay.shown_frame(take, 7) is None
    corners, places = take_overlay.part_after_wipe((10.0, 20.0, 110.0, 70.0), 0.25)
    assert corners == ((35.0, 20.0), (110.0, 20.0), (110.0, 70.0), (35.0, 70.0))
    assert places == ((0.25, 0.0), (1.0, 0.0), (1.0, 1.0), (0.25, 1.0))


@pytest.mark.any_blender
def test_sheets_and_comparisons_are_made_beside_the_window_and_shown_by_it():
    blocked, told = threading.Event(), []

    def work(should_stop):
        blocked.wait()
        return threading.current_thread(), should_stop()

    one = Beside(work, told.append, told.append)
    assert one.look() is not None and told == [], "the window goes on meanwhile"
    blocked.set()
    while one.look() is not None:
        time.sleep(0.01)
    ((worker, stops),) = told
    assert worker is not threading.current_thread() and stops is False

    def broken(_should_stop):
        raise StorageError("The disk is full.")

    other = Beside(broken, told.append, told.append)
    while other.look() is not None:
        time.sleep(0.01)
    assert isinstance(told[-1], StorageError) and len(told) == 2


@pytest.mark.any_blender
def test_frame_of_the_overlay_is_read_by_a_thread(tmp_path):
    rows = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    (tmp_path / "0001.png").write_bytes(encode_png(rows))
    (tmp_path / "0002.png").write_bytes(b"no picture")
    reader, name = FrameReader(), (tmp_path / "0001.png", 1)
    blocked = threading.Event()
    reader.ask(name)
    reader._pool.submit(blocked.wait)
    reader._pool.submit(blocked.wait)
    later = tmp_path / "0002.png", 1
    assert reader.take(later) is None and reader.is_busy, "drawing goes on while it is read"
    blocked.set()
    while reader.is_busy:
        time.sleep(0.01)
    pixels = reader.take(name)
    np.testing.assert_array_equal(np.rint(pixels[..., :3] * 255.0), rows[::-1])
    assert (pixels[..., 3] == 1.0).all()
    with pytest.raises(DasError):
        reader.take(later)
    for number in range(MOST + 5):
        reader.ask((name[0], number + 10))
    while reader.is_busy:
        time.sleep(0.01)
    assert reader.take((name[0], 10)) is None and reader.take((name[0], MOST + 14)) is not None
    reader.close()


@pytest.mark.any_blender
def test_deleted_take_leaves_the_list_at_once_and_its_files_in_a_thread(shelf):
    entry = choose(2)
    gone = put_away(entry)
    assert listed() == [3, 1] and gone.parent == entry.take.folder.parent and (gone / "take.json").exists()
    written_take(shelf, "2", seed=2, made=1002.0)  # made anew meanwhile
    remove_gone(entry.take.folder.parent)
    assert listed() == [3, 2, 1] and not gone.exists()
    choose(1)
    assert bpy.ops.das.clean_up_takes() == {"FINISHED"} and listed() == []
    assert list((shelf / "takes").iterdir()) == []


def test_many_takes_are_listed_by_a_thread(shelf, monkeypatch):
    """The main thread only compares keys: what it lists was read elsewhere."""
    monkeypatch.setattr(take_shelf, "FRESH_S", 60.0)  # a busy machine may take longer than two seconds for this
    take_shelf.shelf.forget()
    take_shelf.chosen_take(bpy.context)
    before = take_shelf.shelf.entries
    written_take(shelf, "later", seed=4, made=9000.0)
    assert take_shelf.shelf.look(bpy.context.scene) is before, "fresh for a while"
    assert listed() == [4, 3, 2, 1]
    assert takes.DAS_PT_takes.bl_parent_id == "DAS_PT_shot"


@pytest.fixture
def in_edit(shelf, shot_scene):
    """Two takes of other sizes and frames in the list, the newer one chosen; the edit scene at half size."""
    for name, seed, frames, size in (("a", 5, (2, 3, 4, 5), (40, 24)), ("b", 6, (4, 5, 6), (20, 12))):
        written_take(shelf, name, seed=seed, frames=frames, size=size, made=5000.0 + seed, level=40 * (seed - 4))
    listed()
    choose(5)
    other = next(entry.key for entry in take_shelf.shelf.entries if entry.report["seed"] == 6)
    edit = sequencer.edit_scene_for(shot_scene)
    edit.render.resolution_x, edit.render.resolution_y, edit.render.resolution_percentage = 80, 48, 50
    kept = sequencer.add_image_strip(edit, "mine", [take_shelf.shelf.entries[0].thumbnail], 1)
    compat.set_strip_time(kept, "duration", 9)
    return edit, other


def shown_levels(edit, frame: int, folder: Path) -> list[int]:
    """What the middle row of the edit shows in its left and its right half, and at its upper border."""
    edit.view_settings.view_transform, edit.render.dither_intensity = "Standard", 0.0
    compat.set_image_output(edit)
    edit.render.filepath, edit.frame_start, edit.frame_end = str(folder / "o-####"), frame, frame
    bpy.ops.render.render(animation=True, scene=edit.name)
    picture = decode_png((folder / f"o-{frame:04d}.png").read_bytes())
    assert picture.shape == (24, 40, 3)
    return [int(picture[12, 8, 0]), int(picture[12, 32, 0]), int(picture[1, 8, 0])]


def strip_panel(edit, strip) -> list[str] | None:
    """What the sequencer's sidebar shows of ``strip``, None for no panel."""
    edit.sequence_editor.active_strip = strip
    context, layout = SimpleNamespace(scene=edit, workspace=None), Layout()
    if not comparing.DAS_PT_strip.poll(context):
        return None
    comparing.DAS_PT_strip.draw(SimpleNamespace(layout=layout), context)
    return layout.drawn


def test_pair_in_the_sequencer_shows_the_same_frame_of_both(in_edit, tmp_path):
    edit, other = in_edit
    assert bpy.ops.das.compare_strips(other=other, mode="wipe") == {"FINISHED"}
    assert shown_levels(edit, 5, tmp_path) == [43, 81, 43], "level 40 + 3 at frame 5, 80 + 1"
    wipe = strip_pair.wipe_of(edit)
    assert set(strip_panel(edit, wipe)) == {"effect_fader", "das.remove_compared"}
    assert {"das.compare_strips", "das.remove_compared"} <= set(drawn(takes.DAS_PT_takes))
    wipe.effect_fader = 0.0
    compat.forget_strip_pixels(strip_pair.wipe_of(edit))
    assert shown_levels(edit, 4, tmp_path) == [42, 42, 42]
    assert bpy.ops.das.compare_strips(other=other, mode="side") == {"FINISHED"}
    assert shown_levels(edit, 5, tmp_path) == [43, 81, shown_levels(edit, 3, tmp_path)[2]], "half as high"
    assert bpy.ops.das.compare_strips(other=other, mode="difference") == {"FINISHED"}
    assert shown_levels(edit, 5, tmp_path) == [38, 38, 38]
    assert len(strip_pair.pair_of(edit)) == 2 and len(compat.all_strips(edit)) == 3, "in the place of the pair before"
    assert bpy.ops.das.remove_compared() == {"FINISHED"}
    assert [strip.name for strip in compat.all_strips(edit)] == ["mine"] and not bpy.ops.das.remove_compared.poll()
    assert strip_panel(edit, compat.all_strips(edit)[0]) is None
    assert bpy.ops.das.take_to_sequencer() == {"FINISHED"}
    take = next(strip for strip in compat.all_strips(edit) if "das_take" in strip)
    assert strip_panel(edit, take) == ["Seed 5, das-preview", "a red vase"]


def test_takes_of_a_pair_are_kept_and_a_pair_in_a_meta_strip_is_removed(in_edit):
    edit, other = in_edit
    assert bpy.ops.das.compare_strips(other=other, mode="wipe") == {"FINISHED"}
    assert bpy.ops.das.clean_up_takes() == {"FINISHED"} and listed() == [6, 5]
    meta = compat.strips(edit).new_meta("row", 9, 1)
    strip_pair.wipe_of(edit).move_to_meta(meta)  # what goes into it comes along
    assert [strip.name for strip in compat.strips(edit)] == ["mine", "row"]
    assert bpy.ops.das.remove_compared() == {"FINISHED"} and not strip_pair.pair_of(edit)


@pytest.mark.any_blender
def test_pair_that_cannot_be_is_refused_and_leaves_nothing(in_edit, shot_scene, tmp_path):
    edit, other = in_edit
    far = written_take(take_shelf.shelf.folder, "far", seed=9, frames=(70, 71), made=1.0).key
    listed()
    with pytest.raises(RuntimeError, match="no frame in common: one has 2 to 5, the other 70 to 71"):
        bpy.ops.das.compare_strips(other=far, mode="side")
    top = sequencer.add_image_strip(edit, "top", [take_shelf.shelf.entries[0].thumbnail], 4)
    top.channel = sequencer.MAX_CHANNEL - 2
    with pytest.raises(RuntimeError, match="All 128 channels"):
        bpy.ops.das.compare_strips(other=other, mode="wipe")
    assert sorted(strip.name for strip in compat.all_strips(edit)) == ["mine", "top"]
    shot_scene.das.edit_scene = shot_scene
    with pytest.raises(RuntimeError, match="choose another edit scene"):
        bpy.ops.das.compare_strips(other=other, mode="side")
    assert not compat.all_strips(shot_scene)


@pytest.mark.any_blender
def test_take_is_compared_with_its_key_pictures_where_they_lie(shelf, shot_scene):
    wide = np.full((12, 16, 3), 9, np.uint8)
    wide[2:10, 2:14] = 77  # what the render sees of it
    keys = {1: encode_png(wide), 4: encode_png(wide + 1), 5: encode_png(wide + 2)}
    said = [{"frame": frame, "sha256": blob_sha(png), "origin": "rendered"} for frame, png in keys.items()]
    more = {"key_pictures": said, "keep_detail": True, "render_size": [12, 8], "crop": [0, 0, 12, 8]}
    take = written_take(shelf, "with keys", seed=8, made=9000.0, frames=(1, 2, 3, 4, 5), **more)
    listed()
    choose(8)
    with pytest.raises(RuntimeError, match="None of the 3 key pictures"):
        bpy.ops.das.compare_takes(other="keys", mode="difference")
    (shelf / "first_frames").mkdir()
    for frame in (1, 4):  # the third was painted over
        (shelf / "first_frames" / f"{frame:04d}-x.png").write_bytes(keys[frame])
    assert bpy.ops.das.compare_takes(other="keys", mode="side") == {"FINISHED"}
    image = bpy.data.images["DAS Compared"]
    files = sorted(Path(image.filepath).parent.iterdir())
    assert [file.name for file in files] == ["0001.png", "0002.png", "0003.png", "0004.png"]
    pictures = [decode_png(file.read_bytes()) for file in files]
    assert [(one[0, 0, 0], one[0, -1, 0]) for one in pictures] == [(100, 77), (100, 77), (100, 77), (103, 78)]
    assert bpy.ops.das.compare_strips(other="keys", mode="side") == {"FINISHED"}
    edit = shot_scene.das.edit_scene
    names = [[element.filename for element in strip.elements] for strip in strip_pair.pair_of(edit)]
    assert sorted(names) == [["0001.png"] * 3 + ["0004.png"]] * 2 and take.frames[3].name == "0004.png"
    out = shelf.parent / "out"
    assert commands.main(["takes", "compare", "1", "keys", "--output", str(out)]) == 0
    assert commands.main(["takes", "compare", "1", "keys", "--output", str(out / "both.png")]) == 0
    assert sorted(file.name for file in out.iterdir()) == ["0001.png", "0004.png", "both.png"]


@pytest.mark.any_blender
def test_take_with_frames_that_are_gone_is_told_by_name_wherever_it_is_shown(in_edit, tmp_path):
    edit, other = in_edit
    choose(5).take.frames[2].unlink()
    for button, values in (
        ("open_take", {}), ("take_to_sequencer", {}), ("take_sheet", {}),
        ("compare_takes", {"other": other}), ("compare_strips", {"other": other}),
        ("take_movie", {"filepath": str(tmp_path / "film.mp4")}),
    ):  # fmt: skip
        with pytest.raises(RuntimeError, match=r"0003\.png.*(missing or empty|cannot be read)|missing or empty.*0003"):
            getattr(bpy.ops.das, button)(**values)
    assert [strip.name for strip in compat.all_strips(edit)] == ["mine"] and not (tmp_path / "film.mp4").exists()
    with pytest.raises(RuntimeError, match=r"missing or empty"):
        choose(6)
        bpy.ops.das.compare_strips(other=next(one.key for one in take_shelf.shelf.entries if one.report["seed"] == 5))


@pytest.mark.any_blender
def test_star_and_deletion_by_another_blender_count_at_once(shelf):
    """The list is as it was two seconds ago."""
    entry = choose(1)
    (entry.take.folder / STAR).touch()
    shutil.rmtree(take_shelf.shelf.entries[0].take.folder)
    take_shelf.shelf._at = time.monotonic() + 60.0
    assert bpy.ops.das.clean_up_takes() == {"FINISHED"} and listed() == [1]
    (entry.take.folder / STAR).unlink()
    take_shelf.shelf._at = time.monotonic() + 60.0
    assert bpy.ops.das.star_take() == {"FINISHED"} and (entry.take.folder / STAR).exists()


@pytest.mark.any_blender
def test_pair_is_one_step_of_undo(in_edit):
    edit, other = in_edit
    name = edit.name
    bpy.ops.ed.undo_push(message="before")
    assert bpy.ops.das.compare_strips("EXEC_DEFAULT", True, other=other, mode="wipe") == {"FINISHED"}
    assert len(compat.all_strips(bpy.data.scenes[name])) == 4
    bpy.ops.ed.undo()
    assert [strip.name for strip in compat.all_strips(bpy.data.scenes[name])] == ["mine"]
