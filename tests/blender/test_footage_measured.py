# SPDX-License-Identifier: GPL-3.0-or-later
"""A picture becomes a scene by what a real server measures of it: depth, and things under clicks or in a box."""

import json

import bpy
import numpy as np
import pytest

from das_blender_addon import api, commands
from das_blender_addon.client import known_servers
from das_blender_addon.client.client import DasClient
from das_blender_addon.errors import ModelError
from das_blender_addon.protocol.png import decode_png, encode_png
from das_blender_addon.ui.picture_import import draw_measured
from tests.support.server import run_das_server, running_server
from tests.support.tiny_estimators import tiny_onnx

pytestmark = pytest.mark.any_blender
WIDTH, HEIGHT = 84, 56


def shown() -> np.ndarray:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    pixels = np.stack([40 + y, 60 + x // 2, 90 + y], axis=-1)
    pixels[18:40, 30:60] = (210, 60, 40)
    return (pixels + np.random.default_rng(2).integers(0, 8, pixels.shape)).astype(np.uint8)


@pytest.fixture(scope="module")
def measuring(tmp_path_factory):
    """A server that measures depth with the tiny network: the mean of the colours, in metres."""
    folder = tmp_path_factory.mktemp("measuring")
    environment = {"DAS_SERVER_MODELS": str(folder / "models")}
    source = tiny_onnx(folder / "source", shorter_side=HEIGHT)
    added = run_das_server("models", "add", "tiny-depth", str(source), environment=environment)
    assert added.returncode == 0, added.stderr
    with running_server(folder / "state", environment=environment) as server:
        yield server


@pytest.fixture
def picture(scene, tmp_path):
    path = tmp_path / "street.png"
    path.write_bytes(encode_png(shown()))
    return path


def test_script_takes_depth_and_thing_from_the_server(picture, measuring):
    masks = {"Parcel": "point:45,29"}
    stage = api.import_plate(picture, depth="auto", masks=masks, lens_mm=35, num_frames=3, server=measuring.address)
    np.testing.assert_allclose(stage.plate.depth, shown().mean(axis=-1) / 255.0, atol=1e-3)
    thing = np.zeros((HEIGHT, WIDTH), bool)
    thing[18:40, 30:60] = True
    mask = stage.plate.masks["Parcel"]
    assert (mask & thing).sum() / (mask | thing).sum() > 0.9 and "Parcel" in stage.things
    assert "metric" in stage.plate.source


def test_commands_ask_the_server_for_what_is_measured(picture, measuring, tmp_path, capsys):
    blend = tmp_path / "shot.blend"
    words = ["move", picture, "--mask", "cut:26,14,38,30", "--depth", "auto", "--by", "0.2,0,0", "--lens", 35]
    words += ["--frames", 3, "--save", blend, "--server", measuring.address, "--json"]
    assert commands.main([*map(str, words)]) == 0, capsys.readouterr().err
    done = json.loads([line for line in capsys.readouterr().out.splitlines() if line.startswith("{")][-1])
    assert "metric" in done["depth"] and blend.is_file()


@pytest.mark.parametrize("words", ["point:45,29", "cut:26,14,38,30", "box:30,18,30,22", "file"])
def test_thing_of_a_clip_leaves_what_other_frames_show_behind_it(scene, measuring, tmp_path, capsys, words):
    """It goes to the left through the clip, and up by the command; the mask is of the first picture."""
    folder, wall = tmp_path / "street", shown()
    folder.mkdir()
    wall[18:40, 30:60] = np.random.default_rng(4).integers(90, 150, (22, 30, 3))
    y, x = (axis.ravel() for axis in np.mgrid[4:HEIGHT:6, 4:WIDTH:6])
    thing = (y >= 18) & (y < 40) & (x >= 30) & (x < 60)
    tracks, visible = np.zeros((4, len(x), 2)), np.zeros((4, len(x)), bool)
    for number in range(4):
        frame, left = wall.copy(), 30 - 9 * number
        frame[18:40, left : left + 30] = shown()[18:40, 30:60]
        (folder / f"{number:04d}.png").write_bytes(encode_png(frame))
        covered = (y >= 18) & (y < 40) & (x >= left) & (x < left + 30)
        tracks[number] = np.stack([x + 0.5 - np.where(thing, 9 * number, 0), y + 0.5], axis=1)
        visible[number] = thing | ~covered
    np.savez(tmp_path / "tracks.npz", tracks=tracks, visible=visible)
    if words == "file":
        words = tmp_path / "mask.npy"
        mask = np.zeros((HEIGHT, WIDTH), bool)
        mask[18:40, 30:60] = True
        np.save(words, mask)
    said = ["move", folder, "--mask", words, "--by", "0,0,0.5", "--lens", 35, "--tracks", tmp_path / "tracks.npz"]
    said += ["--every", 1, "--save", tmp_path / "shot.blend", "--server", measuring.address]
    assert commands.main([*map(str, said)]) == 0, capsys.readouterr().err
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "shot.blend"))
    made = decode_png(bpy.data.images["street Background"].packed_file.data).astype(float)
    off = np.abs(made - wall)[18:40, 30:60]
    assert np.median(off[:, 5:]) <= 1.0 and (off[:, 5:] > 8.0).mean() < 0.1, "frames 2 to 4 show it"
    things = [one for one in bpy.data.objects if one.name == "Thing"]
    assert len(things) == 1 and things[0].parent is not None


def test_what_the_server_lacks_is_said_with_the_command_and_another_way(picture, measuring, tmp_path, capsys):
    words = ["plate", picture, "--save", tmp_path / "s.blend", "--lens", 35, "--server", "tcp://127.0.0.1:1"]
    assert commands.main([*map(str, words), "--mask", "point:3"]) == 13
    assert "write point:x,y" in capsys.readouterr().err
    assert commands.main([*map(str, words), "--depth", "auto", "--timeout", "1"]) == 31
    assert not (tmp_path / "s.blend").exists()
    with DasClient(measuring.address) as client:
        there = {one.name: one for one in client.hello().capabilities.estimators}
    if there["u2netp"].installed:
        pytest.skip("this server has the extra [salient]")
    with pytest.raises(ModelError, match=r"pip install 'diffusion-as-shader\[salient\]'.* Without it, give a mask"):
        api.import_plate(picture, masks={"Parcel": "salient"}, lens_mm=35, server=measuring.address)


class Layout:
    """What is drawn: properties with whether they are enabled, and lines."""

    def __init__(self):
        self.enabled, self.active, self.drawn = True, True, []

    def row(self):
        part = Layout()
        self.drawn.append(part)
        return part

    def column(self, align):
        return self.row()

    def prop(self, _, name):
        self.drawn.append(name)

    def label(self, text, translate):
        self.drawn.append(text)


class Nothing:
    depth_by_server = salient = False


def test_panel_greys_out_what_the_server_lacks_with_the_reason(scene, measuring):
    scene.das.server = measuring.address
    known_servers.forget_servers()
    layout = Layout()
    draw_measured(layout, Nothing, scene)
    assert not layout.drawn[0].enabled and "Test Connection" in " ".join(layout.drawn[1].drawn)
    with DasClient(measuring.address) as client:
        known_servers.remember_server(measuring.address, client.hello())
    layout = Layout()
    draw_measured(layout, Nothing, scene)
    assert layout.drawn[0].enabled and layout.drawn[0].drawn == ["depth_by_server"] and not layout.drawn[1].drawn


def test_menu_entry_has_the_server_measure_the_depth(picture, measuring):
    bpy.context.scene.das.server = measuring.address
    assert bpy.ops.das.import_picture(filepath=str(picture), lens=35.0, depth_by_server=True) == {"FINISHED"}
    assert bpy.data.scenes["street"].camera.data.lens == 35.0
