# SPDX-License-Identifier: GPL-3.0-or-later
"""A clip becomes a scene: by a script, the menu and the commands; what cannot be used is said in one sentence.

One file, though long: all of it needs the same clip.
"""

import json
import shutil
from dataclasses import replace

import bpy
import numpy as np
import pytest

from das_blender_addon import api, commands
from das_blender_addon.child.footage import unpack_movie
from das_blender_addon.child.launch import launch
from das_blender_addon.errors import FirstFrameError, SceneError, ServerUnreachable, SettingsError
from das_blender_addon.footage.clip import load_clip, save_clip
from das_blender_addon.footage.paths import camera_path
from das_blender_addon.footage.pc2 import read_pc2
from das_blender_addon.protocol.png import decode_png, encode_png
from das_blender_addon.staging.clip_importing import ClipWish, clip_plate_of
from das_blender_addon.staging.clip_source import read_clip
from tests.support.filmed import film, filmed, follow, textured
from tests.support.rooms import add_room
from tests.support.scenes import key
from tests.support.uneven_movies import FOLDER, PHONE, shown

SIZE, COUNT = (72, 48), 5
NEAR = 1e-4
"""Blender keeps transforms as float32."""
MOST_MOVING = 0.75
"""Of what moves by itself and that nobody masked: its distance is guessed (0.52 was measured)."""
MOST_DEGREES, MOST_PATH, MOST_DEPTH, MOST_STANDING = 0.5, 0.04, 0.03, 0.1
"""What a camera found in a few small pictures may be off: turned, and as a share of its path; and the depth found with
it, at the median, and in the mean of what stands still (0.2°, 0.018, 0.024 and 0.032 were measured)."""
CODEC = 12.0
"""Levels that H.264 may be off, at the median of noise."""


@pytest.fixture(scope="module")
def plate(addon, tmp_path_factory):
    """The folder of the plate of a clip: a room with a box that moves, before a camera that does."""
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    scene = bpy.context.scene
    scene.render.resolution_x, scene.render.resolution_y = SIZE
    camera = add_room(scene)
    key(scene.objects["Parcel"], "location", {1: (0.2, 4.0, 0.5), COUNT: (0.6, 4.2, 0.8)})
    key(camera, "location", {1: camera.location[:], COUNT: (0.2, 0.2, 1.6)})
    made = film(scene, COUNT, every=2, thing="Parcel").plate
    folder = tmp_path_factory.mktemp("clip") / "walk"
    save_clip(made, folder)
    np.savez(folder.parent / "tracks.npz", tracks=made.tracks[..., :2], visible=made.visible)
    return folder


@pytest.fixture
def frames(plate, tmp_path):
    """A folder of nothing but the pictures."""
    shutil.copytree(plate / "frames", tmp_path / "street")
    return tmp_path / "street"


def das(*words, capsys) -> dict:
    """What the command says last, as JSON."""
    assert commands.main([*map(str, words), "--json"]) == 0, capsys.readouterr().err
    return [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")][-1]


def refused(*words, capsys) -> tuple[int, str]:
    status = commands.main([*map(str, words)])
    return status, capsys.readouterr().err


def test_script_makes_a_scene_of_a_clip_that_another_program_measured(plate, scene, tmp_path):
    stage = api.import_plate(plate, positions=tmp_path / "positions", every=1)
    made = load_clip(plate)
    np.testing.assert_array_equal(decode_png(stage.scene.das.first_frame_image.packed_file.data), made.pictures[0])
    assert (stage.scene.frame_end, stage.scene.render.fps) == (COUNT, 24) and set(stage.things) == {"Parcel"}
    shown = stage.camera.data.background_images[0]
    assert shown.source == "MOVIE_CLIP" and tuple(shown.clip.size) == SIZE and shown.clip.frame_duration == COUNT
    first, own = stage.plate.world_from_camera, np.linalg.inv(made.cameras[0]) @ made.cameras
    bpy.context.window.scene = stage.scene
    for number in (0, COUNT - 1):
        stage.scene.frame_set(1 + number)
        here = stage.camera.evaluated_get(stage.scene.view_layers[0].depsgraph).matrix_world
        np.testing.assert_allclose(np.array(here), first @ own[number], atol=NEAR)
    thing = stage.things["Parcel"]
    assert thing.modifiers[0].type == "MESH_CACHE" and thing.parent.animation_data is not None
    positions = read_pc2(tmp_path / "positions" / "Thing Parcel.pc2")
    assert positions.shape == (COUNT, len(thing.data.vertices), 3)
    np.testing.assert_allclose(np.median(positions, axis=1), 0.0, atol=NEAR)
    with pytest.raises(SettingsError, match="no 'trackers'"):
        api.import_plate(plate, trackers=3)
    with pytest.raises(SettingsError, match="save it first"):
        api.import_plate(plate)


def test_menu_entry_keeps_positions_beside_the_file_and_relative_to_it(plate, scene, tmp_path):
    folder = tmp_path / "project"
    folder.mkdir()
    with pytest.raises(RuntimeError, match="save it first"):
        bpy.ops.das.import_clip(filepath=str(plate) + "/")
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / "shot.blend"))
    assert bpy.ops.das.import_clip(filepath=str(plate) + "/", every=4) == {"FINISHED"}
    cached = [one for one in bpy.data.objects if one.modifiers]
    assert cached and all(one.modifiers[0].filepath.startswith("//shot_clip/") for one in cached)
    first = {file: file.read_bytes() for file in (folder / "shot_clip").iterdir()}
    assert bpy.ops.das.import_clip(filepath=str(plate) + "/", every=8) == {"FINISHED"}  # another one beside it
    assert {file: file.read_bytes() for file in first} == first
    others = [one for one in bpy.data.objects if one.modifiers and one not in cached]
    assert others and all(one.modifiers[0].filepath.startswith("//shot_clip_2/") for one in others)
    bpy.ops.wm.save_mainfile()
    folder.rename(tmp_path / "elsewhere")
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "elsewhere" / "shot.blend"))
    thing = bpy.data.objects["Parcel"]
    scene = next(one for one in bpy.data.scenes if thing.name in one.objects)
    bpy.context.window.scene = scene
    places = []
    for frame in (1, COUNT):
        scene.frame_set(frame)
        shown = thing.evaluated_get(bpy.context.evaluated_depsgraph_get())
        places.append(np.array([shown.matrix_world @ vertex.co for vertex in shown.data.vertices]))
    assert np.abs(places[1] - places[0]).max() > 0.2


@pytest.mark.any_blender
def test_menu_entry_takes_a_depth_of_any_meaning_and_a_mask(frames, scene, tmp_path):
    np.save(tmp_path / "tiefe ä.npy", np.linspace(200.0, 400.0, 72 * 48).reshape(48, 72))
    mask = np.zeros((48, 72), bool)
    mask[20:30, 10:40] = True
    np.save(tmp_path / "hund.npy", mask)
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    known = {"filepath": str(frames), "lens": 30.0, "depth": str(tmp_path / "tiefe ä.npy"), "every": 2}
    with pytest.raises(RuntimeError, match="does not say what its values mean"):
        bpy.ops.das.import_clip(**known)
    for words in (str(tmp_path / "hund.npy"), "box:10,20,30,10"):
        made = bpy.ops.das.import_clip(**known, depth_kind="metric", depth_scale=0.01, mask=words)
        assert made == {"FINISHED"}
        shown = bpy.context.window.scene
        thing = next(one for one in shown.objects if one.name.split(".")[0] == "Thing")
        assert 2.0 < thing.location.y < 4.0, "centimetres"
    with pytest.raises(RuntimeError, match="There is no mask file"):
        bpy.ops.das.import_clip(**known, depth_kind="metric", mask=str(tmp_path / "katze.npy"))


def test_transfer_gives_a_clips_motion_to_a_styled_picture(plate, scene, tmp_path, capsys):
    styled = 255 - load_clip(plate).pictures[0]
    (tmp_path / "styled.png").write_bytes(encode_png(styled))
    words = ["transfer", plate, "--first-picture", tmp_path / "styled.png", "--every", 1]
    out = [tmp_path / "kept", tmp_path / "solved"]
    kept = das(*words, "--camera", "keep", "--tracking-only", "--output", out[0], capsys=capsys)
    solved = das(
        *words,
        "--camera",
        "solve",
        "--tracking-only",
        "--output",
        out[1],
        "--save",
        tmp_path / "s.blend",
        capsys=capsys,
    )
    assert (kept["camera"], solved["camera"], kept["count"]) == ("keep", "solve", COUNT) and kept["tracks"] > 500
    arrays = [dict(np.load(folder / "tracking.npz")) for folder in out]
    assert {name: (one.shape, one.dtype.name) for name, one in arrays[0].items()} == {
        "video": ((COUNT, SIZE[1], SIZE[0], 3), "uint8"),
        "first_frame_xy": ((COUNT, SIZE[1], SIZE[0], 2), "float32"),
        "visible": ((COUNT, SIZE[1], SIZE[0]), "bool"),
    }
    both = arrays[0]["visible"] & arrays[1]["visible"]
    apart = np.linalg.norm(arrays[0]["first_frame_xy"] - arrays[1]["first_frame_xy"], axis=-1)[both]
    assert both.mean() > 0.9 and np.median(apart) < 0.05, "the same seen either way"
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "s.blend"))
    (shot,) = bpy.data.scenes
    np.testing.assert_array_equal(decode_png(shot.das.first_frame_image.packed_file.data), styled)
    assert [one.modifiers[0].filepath for one in shot.objects if one.modifiers] == ["//s_clip/Thing Parcel.pc2"]
    assert [file.name for file in (tmp_path / "s_clip").iterdir()] == ["Thing Parcel.pc2"]


def test_tracks_of_a_file_carry_a_picture_of_another_size_laid_over_it(plate, frames, scene, tmp_path, capsys):
    big = np.random.default_rng(5).integers(0, 255, (200, 144, 3), np.uint8)
    (tmp_path / "other.png").write_bytes(encode_png(big))
    words = ["transfer", frames, "--tracks", plate.parent / "tracks.npz", "--lens", 28, "--tracking-only"]
    das(*words, "--output", tmp_path / "plain", capsys=capsys)
    aligned = [
        *words,
        "--first-picture",
        tmp_path / "other.png",
        "--align=6,-3,0.5,90",
        "--output",
        tmp_path / "aligned",
    ]
    assert commands.main([*map(str, aligned)]) == 0
    said = capsys.readouterr().out
    assert "its middle 144×96 is used" in said and "aligned: 6 px right, -3 px down, scaled by 0.5, turned 90°" in said
    plain, laid = (np.load(tmp_path / name / "tracking.npz")["visible"] for name in ("plain", "aligned"))
    y, x = np.nonzero(laid[0])
    assert plain[0].all() and (x.min(), x.max() + 1, y.min(), y.max() + 1) == (30, 54, 3, 39)
    assert not np.array_equal(laid[0], laid[-1])


def test_new_camera_is_added_to_that_of_the_clip(plate, scene, tmp_path, capsys):
    das("camera", plate, "--path", "truck:0.4; pan:5", "--save", tmp_path / "s.blend", "--every", 4, capsys=capsys)
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "s.blend"))
    (shot,) = bpy.data.scenes
    own, path = load_clip(plate).cameras, camera_path("truck:0.4; pan:5", COUNT, distance=1.0)
    first = None
    for number in range(COUNT):
        shot.frame_set(1 + number)
        here = np.array(shot.camera.matrix_world)
        first = here if first is None else first
        wanted = first @ np.linalg.inv(own[0]) @ own[number] @ path[number]
        np.testing.assert_allclose(here, wanted, atol=NEAR)


def test_thing_of_a_clip_moves_as_it_did_and_as_it_is_told(plate, scene, tmp_path, capsys):
    mask = load_clip(plate).masks["Parcel"]
    np.save(tmp_path / "mask.npy", mask)
    words = ["move", plate, "--mask", tmp_path / "mask.npy", "--by", "0.5,0,0.5", "--over", "2-4", "--every", 1]
    das(*words, "--save", tmp_path / "s.blend", capsys=capsys)
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "s.blend"))
    (shot,) = bpy.data.scenes
    thing, carrier = shot.objects["Thing"], shot.objects["Thing in the Clip"]
    for frame, share in ((1, 0.0), (4, 1.0), (COUNT, 1.0)):
        shot.frame_set(frame)
        off = np.array(thing.matrix_world.translation - carrier.matrix_world.translation)
        np.testing.assert_allclose(off, share * np.array([0.5, 0.0, 0.5]), atol=NEAR)
    step = np.array(carrier.matrix_world.translation)
    shot.frame_set(1)
    step = step - np.array(carrier.matrix_world.translation)
    assert step[2] > 0.1 and step[0] > 0.1, "it moved in the clip itself"


@pytest.mark.any_blender
def test_take_of_a_clip_begins_with_its_own_first_picture(plate, server, scene, tmp_path, capsys):
    words = ["transfer", plate, "--server", server.address, "--cache", tmp_path / "cache", "--output", tmp_path / "out"]
    done = das(*words, "--size", f"{SIZE[0]}x{SIZE[1]}", capsys=capsys)
    frames = [decode_png(open(path, "rb").read()) for path in done["frames"]]
    assert len(frames) == COUNT
    np.testing.assert_array_equal(frames[0], load_clip(plate).pictures[0])


def movie_of(pictures: np.ndarray, path, fps: int = 12) -> None:
    """``pictures`` as H.264, by Blender."""
    from das_blender_addon.child.pictures import make_movies

    files = [path.parent / f"movie_{number + 1:04d}.png" for number in range(len(pictures))]
    for file, picture in zip(files, pictures, strict=True):
        file.write_bytes(encode_png(picture))
    size = [pictures.shape[2], pictures.shape[1]]
    made = {"frames": [str(file) for file in files], "output": str(path)}
    make_movies({"movies": [made], "size": size, "fps": fps, "fps_base": 1.0}, lambda **_: None)
    assert path.is_file()


def smooth(count: int, shape=(64, 96), seed: int = 0) -> np.ndarray:
    """A picture that goes to the left by 3 pixels a frame."""
    blocks = np.random.default_rng(seed).integers(0, 255, (shape[0] // 8, shape[1] // 4, 3))
    big = np.repeat(np.repeat(blocks, 8, axis=0), 8, axis=1)
    return np.stack([big[:, 3 * number : 3 * number + shape[1]] for number in range(count)]).astype(np.uint8)


@pytest.mark.parametrize("shape", [(64, 96), (96, 64)])
def test_frames_of_a_movie_are_those_that_were_put_in(scene, tmp_path, shape):
    pictures = smooth(8, shape)
    movie_of(pictures, tmp_path / "film.mp4")
    whole = read_clip(tmp_path / "film.mp4")
    assert whole.pictures.shape == pictures.shape and whole.fps == 12.0 and whole.notes == ()
    off = np.abs(whole.pictures.astype(int) - pictures)
    assert np.median(off, axis=(1, 2, 3)).max() <= CODEC
    part = read_clip(tmp_path / "film.mp4", first=3, num_frames=4)
    np.testing.assert_array_equal(part.pictures, whole.pictures[2:6])
    wrong = np.abs(part.pictures.astype(int) - pictures[1:5])
    assert np.mean(wrong) > 2.0 * np.mean(off), "another frame would have been noticed"
    with pytest.raises(FirstFrameError, match="cannot be read as a movie"):
        (tmp_path / "no.mp4").write_bytes(b"no movie")
        read_clip(tmp_path / "no.mp4")
    with pytest.raises(FirstFrameError):
        unpack_movie(tmp_path / "no.mp4", [1, 2], tmp_path, launch())


@pytest.mark.parametrize(
    ("name", "fps", "rate", "wanted"),
    [
        ("uneven.mkv", 0.0, 24.0, [*range(12), *np.repeat(range(12, 18), 2), *range(18, 24)]),
        pytest.param(
            *("uneven.mov", 12.0, 12.0, [*range(0, 12, 2), *range(12, 18), *range(18, 24, 2)]),
            marks=pytest.mark.any_blender,
        ),
    ],
)
def test_movie_with_a_variable_frame_rate_is_taken_by_time_and_that_is_said(scene, name, fps, rate, wanted):
    clip = read_clip(FOLDER / name, fps=fps)
    assert shown(clip.pictures) == wanted and clip.fps == rate
    assert "variable frame rate (a frame lasts up to 2.0 times" in clip.notes[0] and f"{rate:g} frames" in clip.notes[0]
    assert clip.file == (None if fps else FOLDER / name), "Blender shows the movie's own frames behind the scene"
    part = read_clip(FOLDER / name, fps=fps, first=4, num_frames=3)
    np.testing.assert_array_equal(part.pictures, clip.pictures[3:6])
    with pytest.raises(SettingsError, match=f"has {len(wanted)} frames, and 99 is none"):
        read_clip(FOLDER / name, fps=fps, first=99)


@pytest.mark.any_blender
def test_recording_is_taken_no_faster_than_blender_gives_it(scene):
    clip = read_clip(FOLDER / "phone.mkv")
    times = np.arange(len(clip.pictures)) / clip.fps
    wanted = np.searchsorted(np.array(PHONE) / 1000.0, times + 0.0005, side="right") - 1
    assert clip.fps == 24.0 and shown(clip.pictures) == wanted.tolist()


def write_frames(folder, pictures: np.ndarray):
    folder.mkdir()
    for number, picture in enumerate(pictures):
        (folder / f"{number + 1:04d}.png").write_bytes(encode_png(picture))
    return folder


@pytest.mark.any_blender
def test_what_cannot_be_used_is_refused_in_one_sentence(plate, frames, scene, tmp_path, capsys):
    one, other = smooth(6), 255 - smooth(6, seed=1) // 3
    cut = write_frames(tmp_path / "cut", np.concatenate([one, other]))
    flat = write_frames(tmp_path / "flat", np.stack([np.full((48, 72, 3), 90 + n, np.uint8) for n in range(12)]))
    odd = write_frames(tmp_path / "odd", one[:2])
    (odd / "0003.png").write_bytes(encode_png(one[2][:32]))
    single = write_frames(tmp_path / "single", one[:1])
    black = write_frames(tmp_path / "black", np.zeros((3, 16, 16, 3), np.uint8))
    (tmp_path / "none").mkdir()
    large = write_frames(tmp_path / "large", np.broadcast_to(smooth(1, (2160, 3840)), (19, 2160, 3840, 3))[:1])
    for number in range(2, 20):
        shutil.copy(large / "0001.png", large / f"{number:04d}.png")
    made = load_clip(plate)
    gone = made.visible.copy()
    gone[3:] = False
    np.savez(tmp_path / "gone.npz", tracks=made.tracks, visible=gone)
    np.savez(tmp_path / "short.npz", tracks=made.tracks[:2], visible=made.visible[:2])
    (tmp_path / "one.png").write_bytes(encode_png(one[0]))
    save, known = ["--save", tmp_path / "s.blend"], ["--save", tmp_path / "s.blend", "--lens", 30]
    for words, kind, sentence in (
        (["plate", cut, *known], SettingsError, "cut between its frames 6 and 7"),
        (["plate", FOLDER / "live.webm", *known], FirstFrameError, "says no length"),
        (["plate", flat, "--clip-camera", "solve", *known], SceneError, "too few features"),
        (["plate", large, *known], SettingsError, "19 frames of 3840×2160"),
        (["plate", odd, *known], FirstFrameError, "of one size"),
        (["plate", black, *known], FirstFrameError, "one colour"),
        (["plate", tmp_path / "none", *known], FirstFrameError, "no pictures"),
        (["plate", tmp_path / "none.mp4", *known], FirstFrameError, "no clip"),
        (["plate", frames, *save], SettingsError, "--lens"),
        (["plate", frames, *known, "--from", 9], SettingsError, "9 is none of them"),
        (["plate", frames, *known, "--frames", 20], SettingsError, "take fewer"),
        (["plate", frames, *known, "--frames", 1], SettingsError, "frame 1 of 5 is one picture"),
        (["plate", frames, *known, "--from", 5], SettingsError, "frame 5 of 5 is one picture"),
        (["plate", single, *known], SettingsError, "it has one frame; take more of it, or use the picture itself"),
        (["plate", tmp_path / "one.png", *known, "--tracks", "blender"], SettingsError, "is a picture"),
        (["transfer", tmp_path / "one.png", *known], SettingsError, "is no clip"),
        (["transfer", frames, *known], SettingsError, "none are known"),
        (["transfer", frames, *known, "--tracks", tmp_path / "gone.npz"], SettingsError, "frame 4 of the clip"),
        (["transfer", frames, *known, "--tracks", tmp_path / "short.npz"], SettingsError, "end before frame 5"),
        (["transfer", plate, *save, "--align", "1,2"], SettingsError, "must stand still"),
        (["move", plate, "--mask", "box:0,0,9,9", "--over", "1-9", *save], SettingsError, "shot from 1 to 5"),
        (["plate", plate, *save, "--plate", plate, "--mask", "box:0,0,72,48"], SettingsError, "whole picture"),
    ):
        status, said = refused(*words, capsys=capsys)
        assert status == kind.exit_code and sentence in said, (words, said)
        assert said.strip().count("\n") == 0
    assert not (tmp_path / "s.blend").exists()


def test_plate_is_kept_and_used_again_for_the_same_clip_only(plate, frames, scene, tmp_path, capsys):
    keep = ["--plate", tmp_path / "kept", "--save", tmp_path / "s.blend", "--every", 4]
    first = das("plate", frames, "--lens", 30, "--tracks", plate.parent / "tracks.npz", *keep, capsys=capsys)
    again = das("plate", frames, *keep, capsys=capsys)
    assert {**first, "blend": ""} == {**again, "blend": ""} and first["tracks"] > 500
    part = das("plate", tmp_path / "kept", "--frames", 3, "--save", tmp_path / "s.blend", capsys=capsys)
    assert part["count"] == 3
    (frames / "0002.png").write_bytes((frames / "0001.png").read_bytes())
    status, said = refused("plate", frames, *keep, capsys=capsys)
    assert status == SettingsError.exit_code and "another clip" in said


def test_plate_of_a_clip_with_unicode_names_and_no_masks_of_its_own(plate, scene, tmp_path):
    made = load_clip(plate)
    masks = {"Ёж / 1": made.masks["Parcel"]}
    save_clip(replace(made, masks=masks), tmp_path / "прогулка")
    stage = api.import_plate(tmp_path / "прогулка", positions=tmp_path / "p", every=2)
    assert stage.scene.name == "прогулка" and list(stage.things) == ["Ёж / 1"]
    assert len(list((tmp_path / "p").glob("Thing Ёж _ 1 *.pc2"))) == 1


def test_pair_of_a_clip_is_read_back_as_a_training_clip(plate, frames, scene, tmp_path, capsys):
    pytest.importorskip("PIL", reason="training reads with it, and it is in one environment only")
    from das_server.training.dataset import read_dataset, read_frames

    words = ["dataset", frames, "--tracks", plate.parent / "tracks.npz", "--lens", 28, "--every", 1]
    words += ["--caption", "a box moves", "--output", tmp_path / "clips"]
    done = das(*words, "--lossless", capsys=capsys)
    part = das(*words, "--frames", "2-4", "--name", "part", "--lossless", capsys=capsys)
    das(*words, "--name", "movie", capsys=capsys)
    assert (done["clip"], done["size"], part["clip"]) == ("street_0001-0005", list(SIZE), "part")
    clips = read_dataset(tmp_path / "clips")
    assert [clip.prompt for clip in clips] == ["a box moves"] * 3
    filmed = load_clip(plate).pictures
    np.testing.assert_array_equal(read_frames(clips[0].video, COUNT, SIZE[1], SIZE[0]), filmed)
    np.testing.assert_array_equal(read_frames(clips[1].video, 3, SIZE[1], SIZE[0]), filmed[1:4])
    das("transfer", *words[1:8], "--tracking-only", "--output", tmp_path / "transfer", capsys=capsys)
    tracked = read_frames(clips[0].tracking, COUNT, SIZE[1], SIZE[0])
    with np.load(tmp_path / "transfer" / "tracking.npz") as arrays:
        np.testing.assert_array_equal(tracked, arrays["video"])
    coded = read_frames(clips[2].tracking, COUNT, SIZE[1], SIZE[0])
    assert np.median(np.abs(coded.astype(int) - tracked)) <= CODEC
    for more, said in (
        (["--size", "48x32"], "own size, 72×48"),
        (["--frames", "1-5x2"], "all frames"),
        (["--tracks", ""], "how the clip"),
    ):
        status, sentence = refused(*words, "--name", "no", *more, capsys=capsys)
        assert status == SettingsError.exit_code and said in sentence, sentence
    assert len(read_dataset(tmp_path / "clips")) == 3


def test_camera_of_a_clip_is_found_although_a_thing_moves_in_it(scene, tmp_path):
    """By Blender's own tracker and solver, with nothing but the pictures and the lens."""
    count = 13
    scene.render.resolution_x, scene.render.resolution_y = 216, 144
    camera = add_room(scene)
    key(scene.objects["Parcel"], "location", {1: (0.2, 4.0, 0.5), count: (0.7, 4.2, 0.5)})
    key(camera, "location", {1: (-0.3, 0.0, 1.6), count: (0.4, 0.4, 1.7)})
    key(camera, "rotation_euler", {1: (np.pi / 2, 0.0, -0.04), count: (np.pi / 2 - 0.02, 0.01, 0.04)})
    textured(scene)
    filmed(scene, tmp_path / "room", count, samples=2)
    _, _, cameras = follow(scene, np.array([[100.0, 70.0]]), count)
    wish = ClipWish(tmp_path / "room", lens_mm=28.0, camera="solve", tracks="blender", folder=tmp_path / "kept")
    plate, source = clip_plate_of(wish)
    ours, theirs = (np.linalg.inv(path[0]) @ path for path in (plate.cameras, cameras))
    turn = np.einsum("tij,tij->t", ours[:, :3, :3], theirs[:, :3, :3])
    assert np.degrees(np.arccos(np.clip((turn - 1.0) / 2.0, -1.0, 1.0))).max() <= MOST_DEGREES
    a, b = theirs[1:, :3, 3].ravel(), ours[1:, :3, 3].ravel()
    off = np.linalg.norm(theirs[:, :3, 3] - (a @ b) / (b @ b) * ours[:, :3, 3], axis=1).max()
    assert off <= MOST_PATH * np.linalg.norm(np.diff(theirs[:, :3, 3], axis=0), axis=1).sum()
    assert plate.tracks.shape[1] >= 40 and "found the clip's camera" in source.notes[-1]
    assert np.median(plate.depth) == pytest.approx(5.0), "no unit is known: the middle is put at 5"
    true = film(scene, 1, thing="Parcel").plate
    wrong = np.abs((a @ b) / (b @ b) * plate.depth[0] / true.depth[0] - 1.0)
    mask = true.masks["Parcel"]
    print(f"depth {np.median(wrong):.2%} off, mean {wrong[~mask].mean():.1%}; what moves {wrong[mask].mean():.0%}")
    assert np.median(wrong) <= MOST_DEPTH, "each pixel has its own"
    np.testing.assert_array_equal(load_clip(tmp_path / "kept").cameras, plate.cameras)
    assert wrong[mask].mean() <= MOST_MOVING, "nobody masked it: it is by the floor all the same"
    assert wrong[~mask].mean() <= MOST_STANDING, "what moves beside it does not drag it along"
    assert any("moves by itself" in note and "box:" in note for note in source.notes)
    np.save(tmp_path / "parcel.npy", mask)
    masked, said = clip_plate_of(replace(wish, masks={"Parcel": str(tmp_path / "parcel.npy")}))
    own = (a @ b) / (b @ b) * masked.depth[0, mask]
    assert np.ptp(own) < NEAR and 0.7 < own[0] / np.median(true.depth[0, mask]) < 1.4, "a card on the floor beside it"
    unlike = (masked.depth[0] != plate.depth[0]) & ~mask
    assert unlike.mean() < 0.02, "beside it, no more than what was taken for it before"
    assert not any("moves by itself" in note for note in said.notes)


@pytest.mark.any_blender
def test_server_follows_the_points_of_a_clip_when_it_is_asked_to(plate, frames, server, scene, tmp_path, capsys):
    words = ["transfer", frames, "--tracks", "auto", "--lens", 28, "--tracking-only", "--output", tmp_path / "out"]
    done = das(*words, "--server", server.address, capsys=capsys)
    assert done["tracks"] >= (SIZE[0] // 8) * (SIZE[1] // 8) and done["camera"] == "keep"
    with np.load(tmp_path / "out" / "tracking.npz") as arrays:
        assert arrays["visible"][0].mean() > 0.999 and arrays["visible"][-1].mean() > 0.5
    status, said = refused(*words, "--server", "tcp://127.0.0.1:9", "--timeout", 2, capsys=capsys)
    assert status == ServerUnreachable.exit_code, said
