# SPDX-License-Identifier: GPL-3.0-or-later
"""Which folder of the cache is a shot's: never another shot's, and the same one whatever becomes of its file."""

import os
import shutil
import sys

import bpy
import numpy as np
import pytest

from das_blender_addon.jobs.sources import owner_of
from das_blender_addon.protocol.png import encode_png
from das_blender_addon.shot import shot_folder
from das_blender_addon.shot.pictures import (
    find_painted,
    find_rendered,
    first_frame_path,
    first_frame_state,
    keep_rendered,
    put_aside_painted,
)
from das_blender_addon.ui import saving

PICTURE = encode_png(np.full((4, 6, 3), 10, np.uint8))
PAINTED = encode_png(np.full((4, 6, 3), 90, np.uint8))
VIEW, GEOMETRY = "ab" * 32, "cd" * 32


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "shared"


@pytest.fixture
def das_scene(scene, cache):
    scene.render.engine = "DAS"
    scene.das.cache_folder = str(cache)
    return scene


def save(path, *, in_window: bool = False) -> None:
    """Save the file; a Blender with a window calls what `saving` does around it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if in_window:
        saving.begin_saving()
    bpy.ops.wm.save_as_mainfile(filepath=str(path))
    if in_window:
        saving.end_saving()


def open_file(path):
    bpy.ops.wm.open_mainfile(filepath=str(path))
    return bpy.context.scene


def paint(scene, cache, frame: int = 1, geometry: str = GEOMETRY):
    """A first frame that was rendered and painted over; returns its file."""
    record = {"geometry": geometry, "file": shot_folder.this_file()}
    path = keep_rendered(shot_folder.shot_folder(scene, cache), frame, VIEW, PICTURE, record).path
    path.write_bytes(PAINTED)
    return path


def painted_for(scene, cache, geometry: str = GEOMETRY):
    """The bytes of the painted first frame that a job of ``scene`` would use."""
    folder = shot_folder.shot_folder(scene, cache)
    found = find_painted(folder, 1, geometry=geometry, owner=owner_of(scene, folder))
    return found.png if found is not None else None


# ── Never another's ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_files_of_one_name_share_no_folder(das_scene, cache, tmp_path):
    folders = set()
    for place in ("a", "b"):
        save(tmp_path / place / "shot.blend")
        folders.add(shot_folder.shot_folder(bpy.context.scene, cache))
    assert len(folders) == 2 and all(folder.name.startswith("shot-Scene-") for folder in folders)


def test_scenes_whose_names_look_alike_share_no_folder(das_scene, cache, tmp_path):
    das_scene.name = "shot 1"
    bpy.data.scenes.new("shot_1")
    save(tmp_path / "a.blend")
    assert len({shot_folder.shot_folder(one, cache) for one in bpy.data.scenes}) == 2


@pytest.mark.parametrize("in_window", [True, False])
def test_copied_scene_gets_a_folder_of_its_own(das_scene, cache, tmp_path, in_window):
    save(tmp_path / "shot.blend", in_window=True)
    before = shot_folder.shot_folder(das_scene, cache)
    bpy.ops.scene.new(type="FULL_COPY")
    copy = bpy.context.scene
    assert copy.das.shot_id == das_scene.das.shot_id
    other = shot_folder.shot_folder(copy, cache)
    assert other != before and shot_folder.shot_folder(das_scene, cache) == before
    save(tmp_path / "shot.blend", in_window=in_window)
    assert shot_folder.shot_folder(copy, cache) == other and shot_folder.shot_folder(das_scene, cache) == before
    assert (copy.das.shot_id != das_scene.das.shot_id) is in_window


def test_name_of_any_length_makes_a_folder(das_scene, cache, tmp_path):
    das_scene.name = "ß" * 31
    save(tmp_path / f"{'ü' * 120}.blend")
    shot_folder.shot_folder(das_scene, cache).mkdir(parents=True)


# ── The same one ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_job_in_the_background_gives_no_id(das_scene, cache, tmp_path):
    save(tmp_path / "shot.blend")
    first = shot_folder.take_over_folder(das_scene, cache)
    assert das_scene.das.shot_id == "" and first == shot_folder.take_over_folder(das_scene, cache)
    saved = open_file(tmp_path / "shot.blend")
    assert saved.das.shot_id == "" and shot_folder.shot_folder(saved, cache) == first


def test_id_given_later_keeps_the_folder(das_scene, cache, tmp_path):
    save(tmp_path / "old.blend")
    path = paint(das_scene, cache)
    save(tmp_path / "old.blend", in_window=True)
    assert das_scene.das.shot_id and first_frame_path(shot_folder.shot_folder(das_scene, cache), 1) == path


def test_file_of_another_name_keeps_pictures(das_scene, cache, tmp_path):
    save(tmp_path / "v1.blend", in_window=True)
    path = paint(das_scene, cache)
    save(tmp_path / "v2.blend", in_window=True)
    assert first_frame_path(shot_folder.shot_folder(das_scene, cache), 1) == path
    assert painted_for(das_scene, cache, "another camera") == PAINTED, "it was saved from the file it was painted in"
    shutil.move(tmp_path / "v2.blend", tmp_path / "moved.blend")
    moved = open_file(tmp_path / "moved.blend")
    assert first_frame_path(shot_folder.shot_folder(moved, cache), 1) == path
    (tmp_path / "v1.blend").unlink()
    assert painted_for(moved, cache, "another camera") == PAINTED


def test_file_saved_elsewhere_brings_its_pictures_into_the_cache_beside_it(das_scene, tmp_path):
    das_scene.das.cache_folder = ""
    save(tmp_path / "a" / "shot.blend", in_window=True)
    path = paint(das_scene, tmp_path / "a" / "das_cache")
    take = path.parents[1] / "takes" / "key" / "frames" / "0001.png"
    take.parent.mkdir(parents=True)
    take.write_bytes(PICTURE)
    save(tmp_path / "b" / "other.blend", in_window=True)
    folder = shot_folder.shot_folder(das_scene, tmp_path / "b" / "das_cache")
    assert painted_for(das_scene, tmp_path / "b" / "das_cache") == PAINTED
    assert (folder / "takes" / "key" / "frames" / "0001.png").read_bytes() == PICTURE
    first_frame_path(folder, 1).write_bytes(PICTURE + b"\0")
    assert path.read_bytes() == PAINTED, "painting here does not change the picture there"


def test_file_saved_elsewhere_once_more_brings_what_was_painted_since(das_scene, tmp_path):
    """What lies there is not lost: another painting is kept under a number, and one that has none here stays."""
    das_scene.das.cache_folder = ""
    here, there = tmp_path / "a" / "shot.blend", tmp_path / "b" / "shot.blend"
    save(here, in_window=True)
    path = paint(das_scene, here.parent / "das_cache")
    other = keep_rendered(path.parent.parent, 5, VIEW, PICTURE, {}).path
    save(there, in_window=True)
    folder = shot_folder.shot_folder(das_scene, there.parent / "das_cache")
    paintings = [encode_png(np.full((4, 6, 3), level, np.uint8)) for level in (100, 110, 120)]
    (folder / "first_frames" / path.name).write_bytes(paintings[0])
    (folder / "first_frames" / other.name).write_bytes(paintings[1])
    scene = open_file(here)
    path.write_bytes(paintings[2])
    later = keep_rendered(path.parent.parent, 9, VIEW, PICTURE, {}).path
    later.write_bytes(PAINTED)
    save(there, in_window=True)
    assert painted_for(scene, there.parent / "das_cache") == paintings[2]
    assert (folder / "first_frames" / f"{path.stem}-kept-1.png").read_bytes() == paintings[0]
    assert (folder / "first_frames" / other.name).read_bytes() == paintings[1]
    assert (folder / "first_frames" / later.name).read_bytes() == PAINTED


def test_unsaved_file_keeps_pictures_when_it_is_saved(das_scene, cache, tmp_path):
    shot_folder.ensure_shot_id(das_scene)
    path = paint(das_scene, cache)
    save(tmp_path / "new.blend", in_window=True)
    assert first_frame_path(shot_folder.shot_folder(das_scene, cache), 1) == path
    assert painted_for(das_scene, cache, "another camera") == PAINTED


def test_unsaved_file_keeps_what_an_f12_made_when_it_is_saved(das_scene, cache, tmp_path):
    """No button was pressed: a window knows an unsaved file for as long as it is open."""
    known = shot_folder.shot_id(das_scene, in_window=True)
    path = paint(das_scene, cache)
    save(tmp_path / "new.blend", in_window=True)
    assert first_frame_path(shot_folder.shot_folder(das_scene, cache), 1) == path
    bpy.ops.wm.read_homefile(use_empty=True)
    assert shot_folder.shot_id(bpy.context.scene, in_window=True) != known, "another file that was never saved"


def test_scene_that_is_renamed_keeps_its_pictures(das_scene, cache, tmp_path):
    save(tmp_path / "shot.blend")  # before the engine was chosen: no id
    shot_folder.shot_id(das_scene, in_window=True)
    paint(das_scene, cache)
    name, das_scene.name = das_scene.name, "Renamed"
    assert painted_for(das_scene, cache, "another camera") == PAINTED
    assert painted_for(bpy.data.scenes.new(name), cache) is None, "another scene of the name that it had"
    save(tmp_path / "shot.blend", in_window=True)
    assert painted_for(open_file(tmp_path / "shot.blend"), cache, "another camera") == PAINTED


@pytest.mark.parametrize("names", [("Shot", "A", "Z"), ("Shot.005", "Shot.001", "Shot.005")])
def test_copied_scene_takes_no_picture_whatever_the_names_are(das_scene, cache, tmp_path, names):
    das_scene.name, copied, kept = names
    save(tmp_path / "shot.blend", in_window=True)
    paint(das_scene, cache)
    bpy.ops.scene.new(type="LINK_COPY")
    copy = bpy.context.scene
    das_scene.name, copy.name = kept, copied
    assert painted_for(copy, cache) is None and painted_for(das_scene, cache) == PAINTED
    save(tmp_path / "shot.blend", in_window=True)
    open_file(tmp_path / "shot.blend")
    assert painted_for(bpy.data.scenes[copied], cache) is None
    assert painted_for(bpy.data.scenes[kept], cache) == PAINTED


def test_undo_takes_no_id_away(das_scene, cache):
    bpy.ops.ed.undo_push(message="before")
    shot_folder.ensure_shot_id(das_scene)
    given = shot_folder.shot_folder(das_scene, cache)
    das_scene.das.shot_id = ""  # as undo leaves it
    assert shot_folder.shot_folder(das_scene, cache) == given
    shot_folder.ensure_shot_id(das_scene)
    assert shot_folder.shot_folder(das_scene, cache) == given and das_scene.das.shot_id


def test_startup_file_and_scenes_of_other_engines_get_no_id(das_scene, tmp_path):
    saving._before_saving("")
    assert das_scene.das.shot_id == ""
    das_scene.render.engine = "CYCLES"
    save(tmp_path / "shot.blend", in_window=True)
    assert das_scene.das.shot_id == ""


# ── A copied file ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_copied_file_uses_what_was_painted_only_for_the_same_view(das_scene, cache, tmp_path):
    save(tmp_path / "a.blend", in_window=True)
    path = paint(das_scene, cache)
    shutil.copy(tmp_path / "a.blend", tmp_path / "b.blend")
    copy = open_file(tmp_path / "b.blend")
    assert painted_for(copy, cache) == PAINTED
    assert painted_for(copy, cache, "another camera") is None
    folder = shot_folder.shot_folder(copy, cache)
    assert first_frame_state(folder, 1, owner=owner_of(copy, folder)) == "missing"
    assert path.read_bytes() == PAINTED
    assert painted_for(open_file(tmp_path / "a.blend"), cache, "another camera") == PAINTED


def test_copied_file_renders_its_own_without_taking_the_origins_painting(das_scene, cache, tmp_path):
    save(tmp_path / "a.blend", in_window=True)
    path = paint(das_scene, cache)
    shutil.copy(tmp_path / "a.blend", tmp_path / "b.blend")
    copy = open_file(tmp_path / "b.blend")
    folder = shot_folder.shot_folder(copy, cache)
    assert put_aside_painted(folder, 1, geometry=GEOMETRY, owner=owner_of(copy, folder)) == []
    assert painted_for(copy, cache) is None
    made = keep_rendered(folder, 1, VIEW, PICTURE, {"geometry": GEOMETRY, "file": shot_folder.this_file()})
    assert made.path != path and find_rendered(folder, 1, VIEW).path == made.path
    assert first_frame_path(folder, 1, owner=owner_of(copy, folder)) == made.path
    origin = open_file(tmp_path / "a.blend")
    assert path.read_bytes() == PAINTED and painted_for(origin, cache) == PAINTED
    assert put_aside_painted(folder, 1, geometry=GEOMETRY, owner=owner_of(origin, folder)) != []
    assert painted_for(origin, cache) is None


# ── Folders of earlier versions ─────────────────────────────────────────────────────────────────────────────────────


def test_folder_of_an_earlier_version_is_taken_over_once(das_scene, cache, tmp_path):
    earlier = cache / "shot-Scene"
    earlier.mkdir(parents=True)
    (earlier / "first_frame.png").write_bytes(PAINTED)
    save(tmp_path / "a" / "shot.blend")
    assert shot_folder.shot_folder(das_scene, cache) == earlier, "a look changes nothing"
    folder = shot_folder.take_over_folder(das_scene, cache)
    assert folder.name.startswith("shot-Scene-") and not earlier.exists()
    assert painted_for(das_scene, cache) == PAINTED
    save(tmp_path / "b" / "shot.blend")
    assert painted_for(das_scene, cache) is None


def test_folder_of_an_earlier_version_is_one_scenes(das_scene, cache, tmp_path):
    das_scene.name = "shot 1"
    other = bpy.data.scenes.new("shot_1")
    save(tmp_path / "a.blend")
    (cache / "a-shot_1").mkdir(parents=True)
    assert shot_folder.shot_folder(other, cache).name == "a-shot_1"
    assert shot_folder.shot_folder(das_scene, cache).name != "a-shot_1"


# ── View layers ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def layered(das_scene):
    """Three view layers whose folders are stored, as after a button or saving."""
    das_scene.view_layers[0].name = "Front"
    for name in ("Back", "Glow"):
        das_scene.view_layers.new(name)
    shot_folder.ensure_shot_id(das_scene)
    return das_scene


def folders(scene, cache) -> dict[str, str]:
    whole = shot_folder.shot_folder(scene, cache, scene.view_layers[0].name)
    root = whole.parents[1] if whole.parent.name == "layers" else whole
    return {
        layer.name: shot_folder.shot_folder(scene, cache, layer.name).relative_to(root).as_posix()
        for layer in scene.view_layers
    }


def test_layers_that_are_renamed_or_left_alone_keep_their_folders(layered, cache):
    assert folders(layered, cache) == {"Front": ".", "Back": "layers/Back", "Glow": "layers/Glow"}
    layered.view_layers["Back"].name, layered.view_layers["Front"].name = "Behind", "Before"
    assert folders(layered, cache) == {"Before": ".", "Behind": "layers/Back", "Glow": "layers/Glow"}
    layered.view_layers.remove(layered.view_layers["Before"])
    assert folders(layered, cache) == {"Behind": "layers/Back", "Glow": "layers/Glow"}


def test_new_layer_never_has_the_folder_of_another_one(layered, cache):
    layered.view_layers["Back"].name = "Behind"
    new = layered.view_layers.new("Back")
    assert folders(layered, cache)["Behind"] == "layers/Back"
    assert folders(layered, cache)["Back"].startswith("layers/Back-")
    new.das_folder = "Glow"  # as a copied layer has it
    assert folders(layered, cache)["Glow"] == "layers/Glow" and len(set(folders(layered, cache).values())) == 4


@pytest.mark.parametrize("stored", ["..", "../../elsewhere", "/etc", "a/b", ""])
def test_folder_that_a_file_names_is_below_the_shots(layered, cache, stored):
    layered.view_layers["Back"].das_folder = stored
    assert folders(layered, cache)["Back"] == "layers/Back"


def test_layers_of_a_file_without_stored_folders_go_by_place_and_name(das_scene, cache):
    das_scene.view_layers.new("Back light")
    first, second = folders(das_scene, cache).values()
    assert first == "." and second.startswith("layers/Back_light-")


@pytest.mark.any_blender
@pytest.mark.parametrize("names", [("Front", "."), ("Front", ".."), ("Front", "..."), ("A", "B", "b"), ("A", "ä", "Ä")])
def test_no_two_layers_share_a_folder_on_any_disk(das_scene, cache, names):
    das_scene.view_layers[0].name = names[0]
    for name in names[1:]:
        das_scene.view_layers.new(name)
    before = folders(das_scene, cache)
    places = {os.path.normpath(folder).casefold() for folder in before.values()}
    assert len(places) == len(names) and all(place == "." or place.startswith("layers") for place in places)
    shot_folder.ensure_shot_id(das_scene)
    assert folders(das_scene, cache) == before, "the folders that are stored are others"


@pytest.mark.any_blender
def test_stored_folders_of_layers_that_differ_in_case_only_are_parted(layered, cache):
    layered.view_layers["Glow"].das_folder = "back"
    assert folders(layered, cache)["Back"] == "layers/Back" and folders(layered, cache)["Glow"] == "layers/Glow"


# ── Names that disks take, and others ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.any_blender
@pytest.mark.parametrize("letter", ["映", "😀", "é", "x"])
def test_long_names_make_folders_that_every_disk_takes(das_scene, cache, tmp_path, letter):
    count = min(45, 60 // len(letter.encode()))
    das_scene.name = layer = letter * count
    das_scene.view_layers.new(layer)
    save(tmp_path / f"{letter * min(45, 240 // len(letter.encode()))}.blend")
    folder = shot_folder.take_over_folder(bpy.context.scene, cache, layer)
    folder.mkdir(parents=True)
    assert shot_folder.take_over_folder(bpy.context.scene, cache, layer) == folder
    below = folder.relative_to(cache) / "takes" / ("0" * 64) / "coverage" / ".0009.png.12345678.part"
    assert len(os.fspath(below)) <= 211
    assert letter == "😀" or folder.parents[1].name.startswith(letter * (24 // len(letter.encode())))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
@pytest.mark.any_blender
def test_file_whose_name_is_no_utf_8_has_a_folder_and_pictures(das_scene, cache, tmp_path):
    plain, odd = tmp_path / "plain.blend", os.fsencode(tmp_path) + b"/caf\xe9.blend"
    save(plain)
    os.replace(plain, odd)
    scene = open_file(os.fsdecode(odd))
    assert os.fsencode(bpy.data.filepath) == odd
    path = paint(scene, cache)
    folder = shot_folder.shot_folder(scene, cache)
    owner = owner_of(scene, folder)
    assert find_painted(folder, 1, geometry=GEOMETRY, owner=owner).path == path
    assert folder.name.startswith("caf_-Scene-")
