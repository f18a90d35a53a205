# SPDX-License-Identifier: GPL-3.0-or-later
"""A picture becomes a scene: by the menu, a script and the commands; what cannot be used is said in one sentence."""

import json

import bpy
import numpy as np
import pytest
from mathutils import Matrix

from das_blender_addon import api, commands
from das_blender_addon.errors import FirstFrameError, SettingsError
from das_blender_addon.footage.paths import camera_path
from das_blender_addon.protocol.png import decode_png, encode_png
from tests.support.picture_files import grey16_png, print_jpeg_head, with_exif
from tests.support.scenes import add_camera, add_grid, key

WIDTH, HEIGHT = 96, 64
HALF = 1e-3
"""Blender writes some EXR files in half floats, 11 bits."""
NEAR = 1e-5
"""Blender keeps transforms as float32."""


def pixels() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)


def depth() -> np.ndarray:
    """A slope with a block before it."""
    values = np.linspace(6.0, 3.0, HEIGHT)[:, None] * np.ones(WIDTH)
    values[24:44, 30:60] = 2.0
    return values.astype(np.float32)


@pytest.fixture
def picture(scene, tmp_path):
    path = tmp_path / "street.png"
    path.write_bytes(encode_png(pixels()))
    np.save(tmp_path / "depth.npy", depth())
    return path


def das(*words, capsys) -> dict:
    """What the command says last, as JSON."""
    assert commands.main([*map(str, words), "--json"]) == 0, capsys.readouterr().err
    return [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")][-1]


def refused(*words, capsys) -> tuple[int, str]:
    status = commands.main([*map(str, words)])
    return status, capsys.readouterr().err


def test_script_makes_a_scene_whose_first_frame_is_the_picture(picture, tmp_path):
    stage = api.import_plate(picture, depth=tmp_path / "depth.npy", depth_kind="metric", lens_mm=30.0, num_frames=5)
    scene = stage.scene
    assert (scene.render.resolution_x, scene.render.resolution_y, scene.frame_end) == (WIDTH, HEIGHT, 5)
    assert scene.camera.data.lens == 30.0 and scene.camera.data.background_images[0].image.size[:] == (WIDTH, HEIGHT)
    np.testing.assert_array_equal(decode_png(scene.das.first_frame_image.packed_file.data), pixels())
    tracking = api.export_tracking(scene, frames=[1, 2])
    assert tracking.coverage.all() and tracking.first_frame_visible.mean() > 0.999
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH] + 0.5
    np.testing.assert_allclose(tracking.first_frame_xy[1], np.stack([x, y], axis=-1), atol=1e-3)
    assert len(scene.objects) == 2 and stage.notes == () and scene.view_settings.view_transform == "Standard"
    assert [finding.words for finding in api.check_shot(scene).findings if "look" in finding.remedy.lower()] == []
    with pytest.raises(SettingsError, match="no 'lense'"):
        api.import_plate(picture, lense=3)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("size", [None, (64, 64), (40, 96), (120, 32)])
def test_shot_of_any_shape_lies_inside_the_picture(scene, tmp_path, turned, size):
    shown = pixels().swapaxes(0, 1) if turned else pixels()
    (tmp_path / "street.png").write_bytes(encode_png(np.ascontiguousarray(shown)))
    stage = api.import_plate(tmp_path / "street.png", lens_mm=24.0, size=size, every=2)
    tracking = api.export_tracking(stage.scene, frames=[1])
    assert tracking.coverage.all()
    width, height = stage.plate.size
    wide, high = size or (width, height)
    scale = min(width / wide, height / high)
    focal = stage.plate.focal_px / scale  # in pixels of the shot, which touches two sides of the picture
    lens = stage.camera.data
    assert lens.sensor_fit == ("HORIZONTAL" if wide / high >= width / height else "VERTICAL")
    across, sensor = (wide, lens.sensor_width) if lens.sensor_fit == "HORIZONTAL" else (high, lens.sensor_height)
    assert lens.lens / sensor * across == pytest.approx(focal)


def test_plate_shines_with_the_colours_of_the_picture(picture):
    scene = api.import_plate(picture, lens_mm=30.0).scene
    scene.render.engine = "CYCLES"
    scene.cycles.samples, scene.render.dither_intensity, scene.cycles.pixel_filter_type = 1, 0.0, "BOX"
    scene.cycles.filter_width, scene.cycles.use_denoising = 0.01, False
    scene.render.filepath = str(picture.with_name("render.png"))
    bpy.ops.render.render(scene=scene.name, write_still=True)
    rendered = decode_png(picture.with_name("render.png").read_bytes()).astype(int)
    assert np.median(np.abs(rendered - pixels())) <= 1.0 and (np.abs(rendered - pixels()) <= 2).mean() > 0.99


def test_menu_entry_makes_a_scene_and_shows_it(picture):
    assert bpy.ops.das.import_picture(filepath=str(picture), lens=26.0, wall=5.0, num_frames=3) == {"FINISHED"}
    scene = bpy.data.scenes["street"]
    assert scene.frame_end == 3 and scene.camera.data.lens == 26.0
    if bpy.context.window is not None:
        assert bpy.context.window.scene == scene
    with pytest.raises(RuntimeError, match="lens of the picture"):
        bpy.ops.das.import_picture(filepath=str(picture))


@pytest.mark.parametrize("words", ["box:30,20,12,10", "//maske ä.npy"])
def test_menu_entry_cuts_a_thing_out(picture, tmp_path, words):
    wanted = np.zeros((HEIGHT, WIDTH), bool)
    wanted[20:30, 30:42] = True
    np.save(tmp_path / "maske ä.npy", wanted)
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    assert bpy.ops.das.import_picture(filepath=str(picture), lens=26.0, mask=words, num_frames=2) == {"FINISHED"}
    scene = bpy.data.scenes["street"]
    thing = next(one for one in scene.objects if one.name.split(".")[0] == "Thing")
    assert len(thing.data.polygons) == wanted.sum() and scene.das_room.things["Thing"].shape == thing
    with pytest.raises(RuntimeError, match="There is no mask file"):
        bpy.ops.das.import_picture(filepath=str(picture), lens=26.0, mask="//katze.npy")


def test_camera_command_saves_a_shot_with_keyframes(picture, tmp_path, capsys):
    blend = tmp_path / "shot.blend"
    words = ["camera", picture, "--path", "orbit:20; crane:0.3", "--lens", 30, "--frames", 9, "--save", blend]
    words += ["--depth", tmp_path / "depth.npy", "--depth-kind", "metric"]
    done = das(*words, "--prompt", "a street", capsys=capsys)
    assert done["blend"] == str(blend) and done["sky"] == 0.0
    bpy.ops.wm.open_mainfile(filepath=str(blend))
    (scene,) = bpy.data.scenes
    assert scene.das.prompt == "a street" and scene.render.engine == "DAS" and scene.das.first_frame_image is not None
    middle = depth()[HEIGHT * 2 // 5 : -(-HEIGHT * 3 // 5), WIDTH * 2 // 5 : -(-WIDTH * 3 // 5)]
    path = camera_path("orbit:20; crane:0.3", 9, distance=float(np.median(middle)))
    first = np.array(scene.camera.matrix_world)
    for frame in (1, 5, 9):
        scene.frame_set(frame)
        here = np.linalg.inv(first) @ np.array(scene.camera.matrix_world)
        np.testing.assert_allclose(here, path[frame - 1], atol=NEAR)
    assert blend.stat().st_size < 2_000_000


def test_camera_of_another_file_is_followed_from_its_first_frame(picture, tmp_path, capsys):
    scene = bpy.context.scene
    camera = add_camera(scene)
    scene.frame_start, scene.frame_end = 11, 30
    key(camera, "location", {11: (0.0, -8.0, 0.0), 15: (1.0, -7.0, 0.5)})
    key(camera, "rotation_euler", {11: (1.4, 0.0, 0.0), 15: (1.5, 0.0, 0.2)})
    poses = []
    for frame in range(11, 16):
        scene.frame_set(frame)
        poses.append(np.array(camera.matrix_world))
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "path.blend"))
    words = ["camera", picture, "--path", tmp_path / "path.blend", "--lens", 30, "--frames", 5]
    status, said = refused(*words, "--save", tmp_path / "shot.blend", capsys=capsys)
    assert status == SettingsError.exit_code and "is the open file" in said
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    das(*words, "--save", tmp_path / "shot.blend", capsys=capsys)
    (scene,) = bpy.data.scenes
    assert [camera.name for camera in bpy.data.cameras] == ["Camera"], "nothing of the other file stays"
    first = np.array(scene.camera.matrix_world)
    for number, pose in enumerate(poses):
        scene.frame_set(1 + number)
        wanted = first @ np.linalg.inv(poses[0]) @ pose
        np.testing.assert_allclose(np.array(scene.camera.matrix_world), wanted, atol=NEAR)


@pytest.mark.any_blender
def test_tracking_only_needs_no_server(picture, tmp_path, capsys):
    words = ["camera", picture, "--path", "dolly:0.5", "--lens", 30, "--frames", 3, "--server", "tcp://127.0.0.1:9"]
    words += ["--left", 2, "--right", 2.5, "--ceiling", 3]
    done = das(*words, "--size", "48x32", "--tracking-only", "--output", tmp_path / "out", capsys=capsys)
    with np.load(done["tracking"]) as arrays:
        found = {name: (arrays[name].shape, arrays[name].dtype.name) for name in arrays.files}
        assert arrays["visible"][0].all()
        unseen = 1.0 - arrays["visible"].mean(axis=(1, 2))
    np.testing.assert_allclose(done["unseen"], unseen, atol=1e-4)
    assert done["unseen"][0] == 0.0 and "a wall (left, right, ceiling too)" in done["depth"]
    clip = bpy.data.movieclips.load(str(tmp_path / "out" / "tracking.mp4"))
    assert tuple(clip.size) == (48, 32) and clip.frame_duration == 3
    assert found == {
        "video": ((3, 32, 48, 3), "uint8"),
        "first_frame_xy": ((3, 32, 48, 2), "float32"),
        "visible": ((3, 32, 48), "bool"),
    }


def test_thing_moves_over_the_background_behind_it(picture, tmp_path, capsys):
    words = ["move", picture, "--mask", "box:30,24,30,20", "--by", "1,0.5,0.2", "--rotate", "0,0,30", "--scale", 1.5]
    words += ["--over", "2-4", "--lens", 30, "--frames", 5, "--depth", tmp_path / "depth.npy", "--depth-kind", "metric"]
    words += ["--camera", "truck:0.05"]
    das(*words, "--tracking-only", "--output", tmp_path, "--save", tmp_path / "shot.blend", capsys=capsys)
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "shot.blend"))
    scene = bpy.context.scene
    thing = scene.objects["Thing"]
    assert scene.camera.animation_data is not None
    places = np.array([vertex.co for vertex in thing.data.vertices])
    np.testing.assert_allclose(np.median(places, axis=0), 0.0, atol=NEAR)
    scene.frame_set(1)
    before = thing.matrix_world.copy()
    scene.frame_set(4)
    wanted = Matrix.Translation(before.translation) @ Matrix.Translation((1.0, 0.5, 0.2))
    wanted = wanted @ Matrix.Rotation(np.pi / 6, 4, "Z") @ Matrix.Scale(1.5, 4)
    np.testing.assert_allclose(np.array(thing.matrix_world), np.array(wanted), atol=NEAR)
    with np.load(tmp_path / "tracking.npz") as arrays:
        visible = arrays["visible"]
    assert visible[0].all() and not visible[4][28:40, 32:44].any(), "what was behind it was not in the picture"


def test_plate_is_kept_and_used_again(picture, tmp_path, capsys):
    keep = ["--plate", tmp_path / "plate", "--frames", 2, "--save", tmp_path / "shot.blend"]
    known = ["--depth", tmp_path / "depth.npy", "--depth-kind", "relative", "--lens", 30]
    first = das("plate", picture, *known, *keep, capsys=capsys)
    again = das("plate", picture, *keep, capsys=capsys)
    assert first == again and "depth.npy" in again["depth"]
    assert commands.main([*map(str, ["plate", picture, *keep, "--lens", 50])]) == 0
    assert "is used: a lens of 30 mm" in capsys.readouterr().out
    other = tmp_path / "other.png"
    other.write_bytes(encode_png(255 - pixels()))
    status, said = refused("plate", other, *keep, capsys=capsys)
    assert status == SettingsError.exit_code and "another picture" in said


@pytest.mark.any_blender
def test_take_begins_with_the_users_own_picture(picture, server, tmp_path, capsys):
    words = ["camera", picture, "--path", "truck:0.2", "--lens", 30, "--frames", 5, "--server", server.address]
    done = das(*words, "--size", "96x64", "--cache", tmp_path / "cache", "--output", tmp_path / "out", capsys=capsys)
    frames = [decode_png(open(path, "rb").read()) for path in done["frames"]]
    assert len(frames) == 5
    with open(done["first_frame"], "rb") as file:
        np.testing.assert_array_equal(decode_png(file.read()), pixels())
    np.testing.assert_array_equal(frames[0], pixels())


def jpeg(path) -> bytes:
    """A smooth picture, dark at the top left, written by Blender."""
    smooth = np.linspace(0.0, 1.0, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)[::-1]
    image = bpy.data.images.new("smooth", WIDTH, HEIGHT)
    image.pixels.foreach_set(np.repeat(smooth[..., None], 4, axis=2).astype(np.float32).ravel())
    image.file_format = "JPEG"
    image.save(filepath=str(path))
    bpy.data.images.remove(image)
    return path.read_bytes()


def test_pictures_of_other_formats_are_brought_to_8_bit_rgb_and_that_is_said(scene, tmp_path):
    turned = tmp_path / "phone.jpg"
    turned.write_bytes(with_exif(jpeg(tmp_path / "upright.jpg"), 6, 26))
    stage = api.import_plate(turned)
    assert stage.plate.size == (HEIGHT, WIDTH) and stage.plate.lens_mm == 26.0 and "turned upright" in stage.notes[0]
    assert stage.plate.picture[0, -1].mean() < 20.0 < 235.0 < stage.plate.picture[-1, 0].mean()
    cut = tmp_path / "cut.png"
    opaque = np.broadcast_to(np.where(np.arange(WIDTH) < 50, 255, 0), (HEIGHT, WIDTH)).astype(np.uint8)
    cut.write_bytes(encode_png(np.dstack([pixels(), opaque])))
    stage = api.import_plate(cut, lens_mm=30)
    assert "transparent" in stage.notes[0] and (stage.plate.picture[:, 50:] == 0).all()
    deep = tmp_path / "deep.png"
    grey = np.linspace(0, 65535, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint16)
    deep.write_bytes(grey16_png(grey))
    stage = api.import_plate(deep, lens_mm=30)
    assert "more than 8 bits" in stage.notes[0]
    np.testing.assert_allclose(stage.plate.picture[..., 1], grey / 257.0, atol=1.0)


def test_depth_of_an_exr_is_read_as_it_is(picture, tmp_path):
    values = depth() * 1000.0
    values[0, :4] = [0.0, np.inf, -1.0, 30000.0]
    image = bpy.data.images.new("depth", WIDTH, HEIGHT, float_buffer=True, is_data=True)
    image.pixels.foreach_set(np.repeat(values[::-1, :, None], 4, axis=2).ravel())
    image.file_format = "OPEN_EXR"
    image.save(filepath=str(tmp_path / "depth.exr"))
    bpy.data.images.remove(image)
    known = {"depth_kind": "metric", "depth_scale": 0.001, "lens_mm": 30}
    plate = api.import_plate(picture, depth=tmp_path / "depth.exr", **known).plate
    assert not plate.valid[0, :3].any() and plate.valid[0, 3:].all() and plate.valid[1:].all()
    np.testing.assert_allclose(plate.depth[1:], depth()[1:], rtol=HALF)
    (tmp_path / "no.exr").write_bytes(b"no picture")
    for name, said in (("no.exr", "cannot be read"), ("none.exr", "no depth file")):
        with pytest.raises(SettingsError, match=said):
            api.import_plate(picture, depth=tmp_path / name, **known)


def test_depth_is_read_out_of_the_layers_of_a_render(picture, scene, tmp_path):
    """Blender's own, with its name for the pass: a floor seen from above, and sky."""
    add_camera(scene, location=(0.0, 0.0, 2.5)).rotation_euler = (0.0, 0.0, 0.0)
    add_grid(scene, "Floor", size=12.0).scale.x = 0.1
    scene.view_layers[0].use_pass_z = True
    render, settings = scene.render, scene.render.image_settings
    render.engine, scene.cycles.samples = "CYCLES", 1
    render.resolution_x, render.resolution_y, render.resolution_percentage = WIDTH, HEIGHT, 100
    render.filepath = str(tmp_path / "Ebene ä")
    if hasattr(settings, "media_type"):
        settings.media_type = "MULTI_LAYER_IMAGE"
    settings.file_format, settings.exr_codec, settings.color_depth = "OPEN_EXR_MULTILAYER", "ZIP", "32"
    bpy.ops.render.render(write_still=True)
    plate = api.import_plate(picture, depth=tmp_path / "Ebene ä.exr", depth_kind="metric", lens_mm=28).plate
    middle = slice(WIDTH // 2 - 4, WIDTH // 2 + 4)
    np.testing.assert_allclose(plate.depth[:, middle], 2.5, rtol=1e-4)
    assert not plate.valid[:, :4].any() and not plate.valid[:, -4:].any(), "sky on both sides"
    settings.exr_codec = "PIZ"
    bpy.ops.render.render(write_still=True)
    with pytest.raises(SettingsError, match="PIZ compression.*ZIP"):
        api.import_plate(picture, depth=tmp_path / "Ebene ä.exr", depth_kind="metric", lens_mm=28)


def test_what_cannot_be_used_is_refused_before_any_scene_is_made(picture, tmp_path, capsys):
    (tmp_path / "black.png").write_bytes(encode_png(np.zeros((HEIGHT, WIDTH, 3), np.uint8)))
    (tmp_path / "clear.png").write_bytes(encode_png(np.dstack([pixels(), np.zeros((HEIGHT, WIDTH), np.uint8)])))
    (tmp_path / "print.jpg").write_bytes(print_jpeg_head())
    (tmp_path / "words.png").write_bytes(b"no picture")
    np.save(tmp_path / "small.npy", depth()[:10])
    save, metric = ["--save", tmp_path / "s.blend"], ["--depth-kind", "metric"]
    small, whole = ["--depth", tmp_path / "small.npy"], ["--depth", tmp_path / "depth.npy"]
    known = ["--lens", 30, *save]
    pan = ["--path", "pan:5"]
    for words, code, sentence in (
        (["camera", tmp_path / "black.png", *pan, *known], FirstFrameError, "one colour everywhere"),
        (["camera", tmp_path / "print.jpg", *pan, *known], FirstFrameError, "CMYK"),
        (["camera", tmp_path / "words.png", *pan, *known], FirstFrameError, "cannot be read"),
        (["camera", tmp_path / "none.png", *pan, *known], FirstFrameError, "There is no picture"),
        (["camera", picture, *pan, *save], SettingsError, "--lens"),
        (["camera", picture, *pan, *known, *small, *metric], SettingsError, "96×10 values"),
        (["camera", picture, *pan, *known, *whole], SettingsError, "--depth-kind"),
        (["camera", picture, *pan, "--lens", 30], SettingsError, "go nowhere"),
        (["camera", picture, "--path", "fly:5", *known], SettingsError, "unknown"),
        (["camera", picture, "--path", tmp_path / "no.blend", *known], SettingsError, "no.blend"),
        (["move", picture, "--mask", "box:0,0,96,64", *known], SettingsError, "whole picture"),
        (["move", picture, "--mask", "box:0,0,9,9", "--over", "60", *known], SettingsError, "frame 1 to 60"),
        (["move", picture, "--mask", "box:0,0,9,9", "--by", "nan,0,0", *known], SettingsError, "--by is 'nan,0,0'"),
        (["move", picture, "--mask", "box:0,0,9,9", "--by=-1,0", *known], SettingsError, "three numbers"),
        (["move", picture, "--mask", "box:0,0,9,9", "--rotate", "0,0,inf", *known], SettingsError, "--rotate is"),
        (["move", picture, "--mask", "box:0,0,9,9", "--scale", "inf", *known], SettingsError, "--scale is inf"),
        (["camera", picture, "--path", " ;", *known], SettingsError, "dolly:0"),
        (["camera", tmp_path / "clear.png", *pan, *known], FirstFrameError, "transparent, or black, everywhere"),
        (["plate", picture, "--lens", 30], SettingsError, "--save"),
        (["plate", picture, *known, "--mask", "box:0,0,9,9", "--mask", "box:8,8,9,9"], SettingsError, "another one"),
        (["plate", picture, *known, "--frames", 0], SettingsError, "at least 1"),
    ):
        status, said = refused(*words, capsys=capsys)
        assert status == code.exit_code and sentence in said, (words, said)
        assert said.strip().count("\n") == 0
    assert not (tmp_path / "s.blend").exists()
