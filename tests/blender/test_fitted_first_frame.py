# SPDX-License-Identifier: GPL-3.0-or-later
"""A first frame of the user's own: any format that Blender reads, any size, and strokes that were never saved."""

from pathlib import Path

import bpy
import numpy as np
import pytest
from mathutils import Color

from das_blender_addon import compat
from das_blender_addon.child.fitting import fit, fitted_picture, pixels_of
from das_blender_addon.errors import FirstFrameError
from das_blender_addon.jobs.of_scene import check_first_frame
from das_blender_addon.jobs.sources import facts_of, source_of
from das_blender_addon.protocol.png import decode_png, encode_png
from das_blender_addon.scene.colours import keep_look, show_plain
from das_blender_addon.scene.named import render_scene
from das_blender_addon.shot.pictures import ANYBODY
from das_blender_addon.shot.settings import resolve_settings
from das_blender_addon.take import drive, picture_recipes
from tests.blender.test_first_frame import shot_of, shot_scene  # noqa: F401  (a fixture)
from tests.support.scenes import add_camera, add_grid

MODEL = (96, 64)
RENDER = (192, 64)
COMPRESSED = 6  # levels that JPEG may be off in a smooth picture
ROUNDED = 1  # levels: a value goes through linear light and back


def gradient(width: int, height: int) -> np.ndarray:
    """Smooth, and different at every corner."""
    x, y = np.linspace(40, 200, width), np.linspace(30, 220, height)
    return np.stack(np.broadcast_arrays(x[None, :], y[:, None], np.full((1, 1), 90.0)), axis=-1).astype(np.uint8)


def blender_image(picture: np.ndarray, *, alpha: float = 1.0, is_float: bool = False):
    """A data block that holds ``picture`` [H,W,3] u8, never saved."""
    height, width = picture.shape[:2]
    # Blender encodes the values of a float image when it writes them, unless they are data.
    image = bpy.data.images.new("Painted", width, height, alpha=True, float_buffer=is_float, is_data=is_float)
    values = np.full((height, width, 4), alpha, np.float32)
    values[..., :3] = picture[::-1] / np.float32(255.0)
    if is_float:
        values[..., :3] = np.where(
            values[..., :3] <= 0.04045, values[..., :3] / 12.92, ((values[..., :3] + 0.055) / 1.055) ** 2.4
        )
    image.pixels.foreach_set(values.reshape(-1))
    image.update()
    return image


def saved(picture: np.ndarray, path, file_format: str):
    image = blender_image(picture, is_float=file_format == "OPEN_EXR")
    image.filepath_raw, image.file_format = str(path), file_format
    image.save()
    bpy.data.images.remove(image)
    return path


def first_frame(scene, tmp_path, *, in_child=True):
    scene.das.cache_folder = str(tmp_path / "cache")
    settings, shot = resolve_settings(scene), shot_of(scene)
    facts = facts_of(scene, settings)
    source = source_of(scene, facts.view_layer, in_child=in_child)
    try:
        wish = picture_recipes.wish_of(facts, settings)
        return drive.finish(picture_recipes.first_frame(wish, shot, source, lambda *_: None))
    finally:
        source.close()


@pytest.fixture
def scene(addon, shot_scene):  # noqa: F811
    return shot_scene


@pytest.mark.parametrize(
    ("file_format", "suffix", "tolerance"),
    [("JPEG", ".jpg", COMPRESSED), ("OPEN_EXR", ".exr", ROUNDED), ("TIFF", ".tif", 0), ("BMP", ".bmp", 0)],
)
def test_any_format_of_the_models_size_is_that_picture(scene, tmp_path, file_format, suffix, tolerance):
    picture = gradient(*MODEL)
    scene.das.first_frame_path = str(saved(picture, tmp_path / f"first{suffix}", file_format))
    given = first_frame(scene, tmp_path)
    assert np.abs(decode_png(given.png).astype(int) - picture).max() <= tolerance
    assert given.origin == "given" and given.notes == ()


def test_opaque_png_of_the_models_size_is_sent_as_it_is(scene, tmp_path):
    path = tmp_path / "first.png"
    path.write_bytes(encode_png(gradient(*MODEL)))
    scene.das.first_frame_path = str(path)
    assert first_frame(scene, tmp_path).png == path.read_bytes()


def test_picture_of_the_models_shape_is_scaled_to_it_and_told(scene, tmp_path):
    scene.das.first_frame_path = str(saved(gradient(960, 640), tmp_path / "large.png", "PNG"))
    given = first_frame(scene, tmp_path)
    assert np.abs(decode_png(given.png).astype(int) - gradient(*MODEL)).max() <= 3
    assert len(given.notes) == 1 and "960×640 pixels and was fitted to the model's 96×64" in given.notes[0]


def test_picture_of_the_renders_shape_lies_where_the_shot_lies(scene, tmp_path):
    scene.das.first_frame_path = str(saved(gradient(*RENDER), tmp_path / "wide.png", "PNG"))
    pixels = decode_png(first_frame(scene, tmp_path).png).astype(int)
    left, top, right, bottom = (int(round(side)) for side in shot_of(scene).plan.framing.crop)
    assert (left, right) == (0, 96) and 0 < top < bottom < 64
    shot = pixels[top:bottom]
    assert abs(shot[0, 0, 1] - 30) <= 4 and abs(shot[-1, 0, 1] - 220) <= 8
    np.testing.assert_array_equal(pixels[:top], np.broadcast_to(shot[0], (top, 96, 3)))
    np.testing.assert_array_equal(pixels[bottom:], np.broadcast_to(shot[-1], (64 - bottom, 96, 3)))


@pytest.mark.any_blender
@pytest.mark.parametrize("channels", [3, 4])
def test_picture_of_the_shots_own_size_is_not_stretched_to_what_the_model_sees(channels):
    own = np.random.default_rng(1).integers(1, 256, (48, 71, channels), np.uint8)
    placed, left = (fit(own, (75, 48), (2.0, 0.0, 73.0, 48.0), leaves_rest=leaves) for leaves in (False, True))
    assert np.array_equal(placed, np.pad(own, ((0, 0), (2, 2), (0, 0)), mode="edge"))
    alpha = np.pad(own[..., 3] if channels == 4 else np.full((48, 71), 255, np.uint8), ((0, 0), (2, 2)))
    assert np.array_equal(left[..., :3], placed[..., :3]) and np.array_equal(left[..., 3], alpha)


@pytest.mark.any_blender
def test_key_picture_of_the_renders_size_leaves_to_others_what_lies_beyond_it(scene, tmp_path):
    path = str(saved(np.full((60, 120, 3), (40, 90, 200), np.uint8), tmp_path / "wide.png", "PNG"))
    asked = dict(image="", path=path, frame=1, size=[96, 64], crop=[0, 8, 96, 56])
    picture, opaque = (fitted_picture({**asked, "keep_alpha": keep}, scene)[0] for keep in (True, False))
    assert np.array_equal(np.dstack([opaque, np.pad(np.full((48, 96), 255, np.uint8), ((8, 8), (0, 0)))]), picture)


@pytest.mark.parametrize("in_child", [True, False])
@pytest.mark.parametrize("is_float", [False, True])
def test_strokes_that_were_never_saved_are_what_is_sent(scene, tmp_path, is_float, in_child):
    image = blender_image(gradient(*MODEL), is_float=is_float)
    scene.das.first_frame_image = image
    assert image.is_dirty
    given = first_frame(scene, tmp_path, in_child=in_child)
    assert np.abs(decode_png(given.png).astype(int) - gradient(*MODEL)).max() <= (ROUNDED if is_float else 0)
    assert image.is_dirty, "it is not saved by this"


@pytest.mark.skipif(not compat.working_space(), reason="files choose a working space from Blender 5.0 on")
def test_linear_picture_is_read_in_the_files_working_space(scene, tmp_path):
    bpy.ops.wm.set_working_color_space(working_space="ACEScg", convert_colors=False)
    image = bpy.data.images.new("Painted", *MODEL, alpha=False, float_buffer=True)
    working = Color((0.1, 0.4, 0.2)).from_rec709_linear_to_scene_linear()
    image.pixels.foreach_set(np.tile(np.float32([*working, 1.0]), MODEL[0] * MODEL[1]))
    image.update()
    scene.das.first_frame_image = image
    encoded = np.rint((1.055 * np.array([0.1, 0.4, 0.2]) ** (1 / 2.4) - 0.055) * 255)
    assert np.abs(decode_png(first_frame(scene, tmp_path).png) - encoded).max() <= ROUNDED


def test_transparent_parts_are_black_and_told(scene, tmp_path):
    scene.das.first_frame_image = blender_image(np.full((64, 96, 3), 200, np.uint8), alpha=0.0)
    given = first_frame(scene, tmp_path)
    assert not decode_png(given.png).any() and "transparent parts" in given.notes[0]


def test_file_goes_before_the_image(scene, tmp_path):
    scene.das.first_frame_image = blender_image(np.zeros((64, 96, 3), np.uint8))
    path = tmp_path / "first.png"
    path.write_bytes(encode_png(gradient(*MODEL)))
    scene.das.first_frame_path = str(path)
    assert first_frame(scene, tmp_path).png == path.read_bytes()


@pytest.mark.parametrize("content", [None, b"", b"GIF89a nothing", b"\x89PNG\r\n\x1a\n cut off"])
def test_file_that_is_no_picture_is_refused_by_name(scene, tmp_path, content):
    path = tmp_path / "first.png"
    if content is not None:
        path.write_bytes(content)
    scene.das.first_frame_path = str(path)
    with pytest.raises(FirstFrameError, match="first.png"):
        first_frame(scene, tmp_path)


def test_painted_picture_of_another_size_is_fitted(scene, tmp_path):
    made = first_frame(scene, tmp_path)
    made.path.write_bytes(encode_png(gradient(960, 640)))
    fitted = first_frame(scene, tmp_path)
    assert np.abs(decode_png(fitted.png).astype(int) - gradient(*MODEL)).max() <= 3
    assert made.path.read_bytes() == encode_png(gradient(960, 640)), "it stays as it was painted"


# ── Pictures of which Blender gives no pixels ───────────────────────────────────────────────────────────────────────


def rendered_by_cycles(scene, path, file_format: str):
    """Frame 1 as Cycles renders it, with a pass of depth, as a file of scene-linear light."""
    scene.render.engine, scene.cycles.samples = "CYCLES", 1
    scene.view_layers[0].use_pass_z = True
    settings = scene.render.image_settings
    if hasattr(settings, "media_type"):
        settings.media_type = "MULTI_LAYER_IMAGE" if "MULTI" in file_format else "IMAGE"
    settings.file_format, settings.color_depth = file_format, "32"
    scene.render.filepath = str(path)
    scene.frame_set(1)
    bpy.ops.render.render(write_still=True)
    scene.render.engine = compat.ENGINE
    return path


@pytest.mark.parametrize("given", ["file", "image", "packed image"])
def test_first_layer_of_a_multilayer_picture_is_taken_and_named(scene, tmp_path, given):
    plain = rendered_by_cycles(scene, tmp_path / "plain.exr", "OPEN_EXR")
    layered = rendered_by_cycles(scene, tmp_path / "layered.exr", "OPEN_EXR_MULTILAYER")
    scene.das.first_frame_path = str(plain)
    expected = decode_png(first_frame(scene, tmp_path).png)
    assert expected.max() > 100
    scene.das.first_frame_path = str(layered) if given == "file" else ""
    if given != "file":
        image = bpy.data.images.load(str(layered))
        scene.das.first_frame_image = image
        if given == "packed image":
            image.pack()
            layered.unlink()
    check_first_frame(tmp_path, ANYBODY, resolve_settings(scene))
    made = first_frame(scene, tmp_path)
    np.testing.assert_array_equal(decode_png(made.png), expected)
    assert "has layers; Combined of ViewLayer was taken." in made.notes[0]


@pytest.mark.any_blender
def test_exr_that_is_cut_off_is_refused(scene, tmp_path):
    path = tmp_path / "cut.exr"
    path.write_bytes(b"\x76\x2f\x31\x01\x02\x00\x00\x00channels\x00chlist\x00")
    scene.das.first_frame_path = str(path)
    for look in (check_first_frame, lambda *_: first_frame(scene, tmp_path)):
        with pytest.raises(FirstFrameError, match=r"cut\.exr cannot be read as a picture"):
            look(tmp_path, ANYBODY, resolve_settings(scene))


@pytest.mark.any_blender
@pytest.mark.parametrize("name", ["picture_{:04d}.png", "v2 {}.of.png", "{:03d}.png"])
def test_sequence_gives_the_picture_of_its_frame(scene, tmp_path, name):
    for frame, value in ((2, 40), (3, 170)):
        (tmp_path / name.format(frame)).write_bytes(encode_png(np.full((64, 96, 3), value, np.uint8)))
    image = bpy.data.images.load(str(tmp_path / name.format(2)))
    image.source = "SEQUENCE"
    scene.das.first_frame_image, scene.frame_start = image, 3
    check_first_frame(tmp_path, ANYBODY, resolve_settings(scene))
    made = first_frame(scene, tmp_path)
    assert (decode_png(made.png) == 170).all()
    assert f"is a sequence; {name.format(3)} of it was taken, which it shows at frame 3." in made.notes[0]
    (tmp_path / name.format(3)).unlink()
    for look in (check_first_frame, lambda *_: first_frame(scene, tmp_path)):
        with pytest.raises(FirstFrameError, match="has no picture of frame 3"):
            look(tmp_path, ANYBODY, resolve_settings(scene))


# ── A linked image of the same name ─────────────────────────────────────────────────────────────────────────────────


def two_of_one_name(tmp_path):
    """(own, linked) images "Painted", both packed; the linked one's picture is turned by a half."""
    other = blender_image(gradient(*MODEL)[::-1, ::-1])
    other.pack()
    library = tmp_path / "library.blend"
    bpy.data.libraries.write(str(library), {other})
    bpy.data.images.remove(other)
    own = blender_image(gradient(*MODEL))
    own.pack()
    with bpy.data.libraries.load(str(library), link=True) as (_, wanted):
        wanted.images = ["Painted"]
    linked = next(image for image in bpy.data.images if image.library is not None)
    assert (own.name, own.library) == (linked.name, None)
    own.use_fake_user = True
    return own, linked


@pytest.mark.any_blender
@pytest.mark.parametrize("chosen", [0, 1])
@pytest.mark.parametrize("in_child", [True, False])
def test_image_of_a_library_is_another_one_than_the_files_own(scene, tmp_path, chosen, in_child):
    scene.das.first_frame_image = two_of_one_name(tmp_path)[chosen]
    given = decode_png(first_frame(scene, tmp_path, in_child=in_child).png)
    turned = gradient(*MODEL)[::-1, ::-1]
    assert np.abs(given.astype(int) - (turned if chosen else gradient(*MODEL))).max() <= ROUNDED


@pytest.mark.any_blender
@pytest.mark.parametrize("chosen", [0, 1])
def test_strokes_on_an_image_of_a_library_stay_on_it(scene, tmp_path, chosen):
    images = two_of_one_name(tmp_path)
    images[1].pixels.foreach_set(np.full(MODEL[0] * MODEL[1] * 4, 1.0, np.float32))
    images[1].update()
    assert images[1].is_dirty and not images[0].is_dirty
    scene.das.first_frame_image = images[chosen]
    given = decode_png(first_frame(scene, tmp_path).png).astype(int)
    assert np.abs(given - (255 if chosen else gradient(*MODEL))).max() <= ROUNDED


@pytest.mark.any_blender
def test_key_picture_of_a_library_is_another_one_than_the_files_own(scene, tmp_path):
    own, linked = two_of_one_name(tmp_path)
    scene.das.key_mode = "LIST"
    for frame, image in ((scene.frame_start + 1, own), (scene.frame_start + 2, linked)):
        key = scene.das.key_pictures.add()
        key.frame, key.image = frame, image
    names = [choice.image for choice in resolve_settings(scene).key_pictures]
    assert names == [own.name_full, linked.name_full] and len(set(names)) == 2


# ── Colour spaces ───────────────────────────────────────────────────────────────────────────────────────────────────


SPACES = ("sRGB", "Linear Rec.709", "Rec.1886", "Filmic sRGB", "AgX Base sRGB", "Display P3", "Non-Color")


def rendered_by_blender(scene, image) -> np.ndarray:
    """``image`` as Cycles renders it onto a screen that fills the picture, shown by Standard [H,W,3] u8."""
    stage = bpy.data.scenes.new("Stage")
    try:
        show_plain(stage)
        compat.set_image_output(stage)
        screen = add_grid(stage, "Screen", cells=1, size=2.0)
        screen.data.uv_layers.new(name="UVMap")
        for corner, loop in enumerate(screen.data.loops):
            place = screen.data.vertices[loop.vertex_index].co
            screen.data.uv_layers[0].data[corner].uv = ((place.x + 1) / 2, (place.y + 1) / 2)
        material = bpy.data.materials.new("Screen")
        if material.node_tree is None:
            material.use_nodes = True
        nodes = material.node_tree.nodes
        nodes.clear()
        texture, light, end = (
            nodes.new(kind) for kind in ("ShaderNodeTexImage", "ShaderNodeEmission", "ShaderNodeOutputMaterial")
        )
        texture.image, texture.interpolation = image, "Closest"
        material.node_tree.links.new(texture.outputs["Color"], light.inputs["Color"])
        material.node_tree.links.new(light.outputs[0], end.inputs["Surface"])
        screen.data.materials.append(material)
        camera = add_camera(stage, "Eye", location=(0, 0, 5), look_at=(0, 0, 0))
        camera.rotation_euler = (0, 0, 0)
        camera.data.type, camera.data.ortho_scale = "ORTHO", 2.0
        stage.render.engine, stage.cycles.samples, stage.cycles.pixel_filter_type = "CYCLES", 1, "BOX"
        stage.render.resolution_x = stage.render.resolution_y = image.size[0]
        stage.cycles.use_denoising = False
        file = Path(bpy.app.tempdir) / "stage.png"
        stage.render.filepath = str(file)
        render_scene(stage, write_still=True)
        return decode_png(file.read_bytes())[..., :3]
    finally:
        bpy.data.scenes.remove(stage)


def patches(tmp_path, bits: int):
    """An image file of 4×4 colours, whose values are those that the file holds."""
    values = np.random.default_rng(5).uniform(0.02, 0.98, (4, 4, 4)).astype(np.float32)
    values[..., 3] = 1.0
    image = bpy.data.images.new("Patches", 4, 4, alpha=True, float_buffer=bits == 16, is_data=True)
    image.pixels.foreach_set(values.reshape(-1))
    image.update()
    image.filepath_raw, image.file_format = str(tmp_path / f"patches_{bits}.png"), "PNG"
    image.save()
    bpy.data.images.remove(image)
    return bpy.data.images.load(str(tmp_path / f"patches_{bits}.png"), check_existing=False)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("bits", [8, 16])
def test_values_are_those_that_a_render_makes_of_the_images_colour_space(scene, tmp_path, space, bits):
    image = patches(tmp_path, bits)
    image.colorspace_settings.name = space
    blocks = len(bpy.data.images), len(bpy.data.scenes)
    shown = np.rint(pixels_of(image, "It")[..., :3] * 255)
    assert (len(bpy.data.images), len(bpy.data.scenes)) == blocks
    rendered = rendered_by_blender(scene, image)
    assert np.abs(shown - rendered).max() <= ROUNDED


@pytest.mark.any_blender
@pytest.mark.parametrize("source", ["FILE", "GENERATED"])
def test_strokes_on_transparent_parts_follow_the_colour_space_too(scene, tmp_path, source):
    image = patches(tmp_path, 8) if source == "FILE" else bpy.data.images.new("New", 4, 4, alpha=True)
    image.colorspace_settings.name = "Linear Rec.709"
    image.pixels.foreach_set(np.tile(np.float32([1.0, 0.2, 0.0, 0.4]), 16))
    image.update()
    shown = pixels_of(image, "It")
    encoded = [1.0, 1.055 * 0.2 ** (1 / 2.4) - 0.055, 0.0, 0.4]
    assert np.abs(shown - np.float32(encoded)).max() * 255 <= ROUNDED and image.is_dirty


@pytest.mark.any_blender
@pytest.mark.parametrize("view", ["AgX", "Standard"])
def test_scene_linear_picture_is_shown_by_standard_and_that_is_said(scene, tmp_path, view):
    scene.das.first_frame_path = str(saved(gradient(*MODEL), tmp_path / "linear.exr", "OPEN_EXR"))
    scene.view_settings.view_transform = view
    given = first_frame(scene, tmp_path)
    assert np.abs(decode_png(given.png).astype(int) - gradient(*MODEL)).max() <= ROUNDED
    if view == "Standard":
        assert given.notes == ()
        keep_look(scene)
        scene.das.first_frame_view = "AgX"
        given = first_frame(scene, tmp_path)
    (note,) = given.notes
    assert "is scene-linear: it is shown by the view Standard, without the scene's AgX" in note
