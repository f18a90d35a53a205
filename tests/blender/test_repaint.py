# SPDX-License-Identifier: GPL-3.0-or-later
"""A clip's first picture is painted anew by a real server at tiny size, and its motion goes to that picture."""

import json

import bpy
import numpy as np
import pytest

from das_blender_addon import api, commands
from das_blender_addon.client.estimates import repaint
from das_blender_addon.errors import ModelError, SettingsError
from das_blender_addon.footage.clip import ClipPlate, save_clip
from das_blender_addon.footage.repainting import Repaint
from das_blender_addon.protocol.png import decode_png
from tests.support.server import run_das_server, running_server
from tests.support.tiny_estimators import tiny_z_image

pytestmark = pytest.mark.any_blender
WIDTH, HEIGHT, COUNT = 64, 48, 3


@pytest.fixture(scope="module")
def painting(tmp_path_factory):
    """A server whose painter is tiny and untrained."""
    folder = tmp_path_factory.mktemp("painting")
    environment = {"DAS_SERVER_MODELS": str(folder / "models")}
    added = run_das_server("models", "add", "z-image-control", str(tiny_z_image(folder / "z")), environment=environment)
    assert added.returncode == 0, added.stderr
    with running_server(folder / "state", environment=environment) as server:
        yield server


@pytest.fixture
def clip(scene, tmp_path):
    """The folder of a clip's plate: a textured wall that slides to the left, with a sky above it."""
    wide = np.random.default_rng(7).integers(0, 255, (HEIGHT, WIDTH + COUNT, 3), dtype=np.uint8)
    pictures = np.stack([wide[:, number : number + WIDTH] for number in range(COUNT)])
    depth = np.full((1, HEIGHT, WIDTH), 4.0, np.float32) + np.linspace(0, 1, WIDTH, dtype=np.float32)
    valid = np.ones(depth.shape, bool)
    valid[:, :9] = False
    y, x = (axis.ravel() + 0.5 for axis in np.mgrid[12:HEIGHT:6, 4:WIDTH:6])
    tracks = np.stack([np.stack([x - n, y, np.full(len(x), np.nan)], axis=1) for n in range(COUNT)])
    made = ClipPlate(pictures, depth, valid, 35.0, tracks=tracks.astype(np.float32), visible=tracks[..., 0] >= 0.0)
    save_clip(made, tmp_path / "wall")
    return tmp_path / "wall", made


def first_picture(scene) -> np.ndarray:
    return decode_png(scene.das.first_frame_image.packed_file.data)


def test_motion_goes_to_the_repainted_first_picture_whose_shapes_its_depth_keeps(clip, painting, tmp_path, capsys):
    folder, made = clip
    words = ["transfer", folder, "--repaint", "a red boat", "--seed", 5, "--negative-prompt", "a boat", "--every", 4]
    words += ["--save", tmp_path / "shot.blend", "--output", tmp_path / "out", "--tracking-only"]
    words += ["--server", painting.address, "--json"]
    assert commands.main([*map(str, words)]) == 0, capsys.readouterr().err
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert any("repainted by the server: its depth" in one.get("text", "") for one in said)
    depth = np.where(made.valid[0], made.depth[0], 0.0)
    expected = repaint(
        painting.address, made.pictures[0], "a red boat", depth=depth, negative_prompt="a boat", seed=5
    )
    assert (expected != made.pictures[0]).mean() > 0.5
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "shot.blend"))
    np.testing.assert_array_equal(first_picture(bpy.context.scene), expected)
    with np.load(tmp_path / "out" / "tracking.npz") as tracking:
        assert tracking["video"].shape == (COUNT, HEIGHT, WIDTH, 3) and tracking["visible"][-1].mean() > 0.5


def test_depth_that_is_only_guessed_keeps_no_shapes(clip, painting, tmp_path):
    folder, made = clip
    stage = api.import_plate(
        folder, depth="plane", repaint="a boat", server=painting.address, positions=tmp_path / "p", every=4
    )
    np.testing.assert_array_equal(first_picture(stage.scene), repaint(painting.address, made.pictures[0], "a boat"))
    assert any("its edges keep its shapes" in note for note in stage.notes)


def test_seed_of_a_script_gives_another_picture(clip, painting, tmp_path):
    made = []
    for seed in (0, 1):
        wanted = Repaint("a boat", seed=seed)
        place = tmp_path / str(seed)
        stage = api.import_plate(clip[0], repaint=wanted, server=painting.address, positions=place, every=4)
        made.append(first_picture(stage.scene))
    assert (made[0] != made[1]).any()


def test_repainting_that_cannot_be_is_said_before_the_clip_is_looked_at(clip, server, tmp_path, capsys):
    """A server without weights, no server, no words, two first pictures; and none of it needs the clip's lens."""
    folder = clip[0]
    with pytest.raises(ModelError, match=r"das-server models pull z-image-control.* --first-picture FILE"):
        api.import_plate(folder, repaint="a boat", server=server.address, positions=tmp_path, lens_mm=1e9)
    with pytest.raises(SettingsError, match="none was named"):
        api.import_plate(folder, repaint="a boat", positions=tmp_path)
    with pytest.raises(SettingsError, match="words to repaint the first picture by are empty"):
        api.import_plate(folder, repaint=" ", server=server.address, positions=tmp_path)
    words = ["transfer", folder, "--repaint", "a boat", "--save", tmp_path / "s.blend", "--server", server.address]
    assert commands.main([*map(str, words), "--first-picture", str(folder / "frames" / "0001.png")]) == 13
    assert "choose one" in capsys.readouterr().err and not (tmp_path / "s.blend").exists()
