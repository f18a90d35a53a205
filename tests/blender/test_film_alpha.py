# SPDX-License-Identifier: GPL-3.0-or-later
"""The alpha of a transparent film at the render's size, however small the model's picture is, beside Cycles' own."""

from pathlib import Path

import bpy
import numpy as np
import pytest

from das_blender_addon import api, commands
from das_blender_addon.protocol.png import alpha_of_png, decode_png

FRAMES = (1, 6, 9)


@pytest.fixture
def large_shot(shot_scene):
    """Four times the model's width and height."""
    shot_scene.render.resolution_x, shot_scene.render.resolution_y = 384, 256
    shot_scene.render.film_transparent = True
    shot_scene.render.image_settings.file_format = "PNG"
    shot_scene.render.image_settings.color_mode = "RGBA"
    return shot_scene


def by_cycles(scene, folder: Path) -> dict[int, np.ndarray]:
    """[H,W,4] u8, straight alpha, of each of the frames."""
    scene.render.engine, scene.cycles.samples, scene.cycles.use_denoising = "CYCLES", 32, False
    rendered = {}
    for frame in FRAMES:
        scene.frame_set(frame)
        scene.render.filepath = str(folder / f"{frame}.png")
        bpy.ops.render.render(write_still=True)
        rendered[frame] = with_alpha(folder / f"{frame}.png")
    scene.render.engine = "DAS"
    return rendered


def with_alpha(path: Path) -> np.ndarray:
    png = path.read_bytes()
    image = bpy.data.images.load(str(path))
    image.alpha_mode = "CHANNEL_PACKED"
    pixels = np.array(image.pixels[:], np.float32).reshape(image.size[1], image.size[0], 4)
    bpy.data.images.remove(image)
    rgba = np.rint(pixels[::-1] * 255).astype(np.uint8)
    np.testing.assert_array_equal(rgba[..., 3], alpha_of_png(png))
    return rgba


def over(rgba: np.ndarray, level: float) -> np.ndarray:
    alpha = rgba[..., 3:] / 255.0
    return rgba[..., :3] * alpha + level * (1.0 - alpha)


@pytest.mark.any_blender
def test_alpha_and_edges_are_cycles_own(large_shot, tmp_path):
    out = tmp_path / "out"
    assert commands.main(["render", "--cache", str(tmp_path / "cache"), "--output", str(out)]) == 0
    for frame, expected in by_cycles(large_shot, tmp_path).items():
        found = with_alpha(out / f"{frame:04d}.png")
        difference = np.abs(found[..., 3].astype(int) - expected[..., 3])
        edges = (expected[..., 3] > 0) & (expected[..., 3] < 255)
        # Eighths, and a filter that is wider than a pixel; the stairs of a picture of a quarter of the size are 128.
        assert edges.sum() > 200 and difference[edges].mean() < 30
        assert (difference > 140).mean() < 1e-4
        assert 4 <= len(np.unique(found[..., 3])) <= 9
        for level in (0.0, 255.0):  # no dark or light rim before whatever comes behind it
            assert np.abs(over(found, level) - over(expected, level))[edges].mean() < 16
        assert (found[found[..., 3] == 0] == 0).all()


@pytest.mark.any_blender
def test_coverage_pass_has_the_renders_size(large_shot, tmp_path):
    large_shot.render.film_transparent = False
    large_shot.das.cache_folder, large_shot.frame_end = str(tmp_path), 2
    take = api.render_take(large_shot)
    tracking = api.export_tracking(large_shot)
    for path, seen in zip(take.coverage, tracking.coverage, strict=True):
        np.testing.assert_array_equal(decode_png(path.read_bytes())[..., 0], np.where(seen, 255, 0))
    take.coverage[1].write_bytes(b"")
    again = api.render_take(large_shot)
    assert not again.cached, "a damaged file makes the take anew"
    assert alpha_of_png(take.frames[0].read_bytes()) is None


@pytest.mark.any_blender
def test_film_of_a_take_counts(large_shot, tmp_path):
    """The same frames with another film are another take, and nothing has to be asked of the server."""
    large_shot.das.cache_folder, large_shot.frame_end = str(tmp_path), 2
    cut = api.render_take(large_shot)

    large_shot.render.film_transparent = False
    assert api.render_take(large_shot).key != cut.key

