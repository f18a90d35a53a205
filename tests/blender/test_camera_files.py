# SPDX-License-Identifier: GPL-3.0-or-later
"""The camera of another file is followed: exported by Blender in each format, read back, by time where rates differ."""

import addon_utils
import bpy
import numpy as np
import pytest

from das_blender_addon import commands
from das_blender_addon.errors import SettingsError
from das_blender_addon.footage.usd_units import usd_units
from das_blender_addon.protocol.png import encode_png
from das_blender_addon.staging.camera_files import camera_of_file
from tests.support.scenes import add_camera, key, link

FIRST, LAST, RATE = 11, 30, 30
COUNT = LAST - FIRST + 1
NEAR = 1e-4
"""Files keep transforms as float32, FBX as angles of them."""
KINDS = ("blend", "abc", "usda", "usdc", "fbx")


def export(kind: str, path) -> None:
    if kind == "abc":
        bpy.ops.wm.alembic_export(filepath=str(path), start=FIRST, end=LAST, as_background_job=False)
    elif kind == "fbx":
        one_take = {"bake_anim_use_all_actions": False, "bake_anim_use_nla_strips": False}
        bpy.ops.export_scene.fbx(filepath=str(path), bake_anim_simplify_factor=0.0, **one_take)
    elif kind == "blend":
        bpy.ops.wm.save_as_mainfile(filepath=str(path), copy=True)
    else:
        bpy.ops.wm.usd_export(filepath=str(path), export_animation=True)


@pytest.fixture
def rigged(scene):
    """A camera that moves on a crane that turns: (camera, its poses relative to the first at any frames)."""
    scene.frame_start, scene.frame_end, scene.render.fps = FIRST, LAST, RATE
    camera, crane = add_camera(scene), link(scene, "Crane", None)
    camera.parent = crane
    key(camera, "location", {FIRST: (0.0, -8.0, 1.0), 17: (1.0, -7.0, 1.5), LAST: (0.4, -6.0, 1.2)})
    key(crane, "rotation_euler", {FIRST: (1.4, 0.0, 0.0), LAST: (1.5, 0.1, 0.5)})

    def poses(frames) -> np.ndarray:
        found = []
        for frame in frames:
            scene.frame_set(int(frame), subframe=float(frame - int(frame)))
            found.append(np.array(camera.matrix_world, dtype=np.float64))
        return np.linalg.inv(found[0]) @ np.stack(found)

    return camera, poses


def names() -> list[str]:
    return sorted(f"{type(one).__name__} {one.name}" for one in bpy.data.user_map())


@pytest.mark.parametrize("kind", KINDS)
def test_camera_of_a_file_is_followed_from_where_it_begins(rigged, tmp_path, kind):
    _, poses = rigged
    export(kind, tmp_path / f"kamera ü.{kind}")
    before = names()
    found = camera_of_file(tmp_path / f"kamera ü.{kind}", COUNT, RATE, is_free=False)
    wanted = poses(range(FIRST, LAST + 1))
    np.testing.assert_allclose(found.poses, wanted, atol=NEAR)
    assert found.fps == RATE and names() == before, "nothing of the other file stays"
    assert len(found.notes) == (kind == "abc") and "does not say" in "".join((*found.notes, "does not say"))


@pytest.mark.parametrize("kind", KINDS)
def test_camera_is_followed_by_time_where_rates_differ(rigged, tmp_path, kind):
    """At 24 frames a second the shot sees what the file shows between its frames; files tell whole frames only."""
    _, poses = rigged
    export(kind, tmp_path / f"path.{kind}")
    count = 16
    found = camera_of_file(tmp_path / f"path.{kind}", count, 24.0, is_free=False)
    wanted = poses(FIRST + np.arange(count) * RATE / 24.0)
    tolerance = NEAR if kind == "blend" else 1.2e-2  # straight between two frames
    np.testing.assert_allclose(found.poses, wanted, atol=tolerance)
    on = [number for number in range(count) if number * RATE % 24 == 0]
    assert len(on) == 4
    np.testing.assert_allclose(found.poses[on], wanted[on], atol=3e-4 if kind == "abc" else NEAR)
    assert any("followed by time" in note or "does not say" in note for note in found.notes)


@pytest.mark.parametrize("kind", KINDS)
def test_shot_whose_rate_nobody_said_takes_that_of_the_file(rigged, tmp_path, kind):
    _, poses = rigged
    export(kind, tmp_path / f"path.{kind}")
    found = camera_of_file(tmp_path / f"path.{kind}", COUNT + 5, 24.0, is_free=True)
    assert found.fps == (24.0 if kind == "abc" else pytest.approx(RATE))
    if kind == "blend":
        assert not found.notes
        return
    moves = 16 if kind == "abc" else COUNT
    assert f"moves for {moves} of the shot's {COUNT + 5} frames" in found.notes[0]
    np.testing.assert_allclose(found.poses[-1], poses([FIRST, LAST])[1], atol=3e-4)


def test_alembic_file_whose_clock_is_that_of_a_long_day_is_followed(scene, tmp_path):
    scene.frame_start, scene.frame_end = 90_000, 90_004
    camera = add_camera(scene)
    key(camera, "location", {90_000: (0.0, -8.0, 0.0), 90_004: (1.0, -8.0, 0.0)})
    steps = []
    for frame in range(90_000, 90_005):
        scene.frame_set(frame)
        steps.append(camera.location.x)
    bpy.ops.wm.alembic_export(filepath=str(tmp_path / "day.abc"), start=90_000, end=90_004, as_background_job=False)
    found = camera_of_file(tmp_path / "day.abc", 5, 24.0, is_free=True)
    np.testing.assert_allclose(np.linalg.norm(found.poses[:, :3, 3], axis=1), steps, atol=1e-2)


def test_units_of_a_usd_file_are_metres_again(rigged, tmp_path):
    _, poses = rigged
    export("usda", tmp_path / "path.usda")
    words = (tmp_path / "path.usda").read_text()
    (tmp_path / "path.usda").write_text(words.replace("metersPerUnit = 1", "metersPerUnit = 0.01"))
    found = camera_of_file(tmp_path / "path.usda", COUNT, RATE, is_free=False)
    wanted = poses(range(FIRST, LAST + 1))
    np.testing.assert_allclose(found.poses[:, :3, 3], 0.01 * wanted[:, :3, 3], atol=NEAR)
    np.testing.assert_allclose(found.poses[:, :3, :3], wanted[:, :3, :3], atol=NEAR)
    (tmp_path / "silent.usda").write_text("#usda 1.0\n\ndef Xform \"timeCodesPerSecond\" ()\n{\n}\n")
    assert usd_units(tmp_path / "silent.usda").metres == 0.01 and usd_units(tmp_path / "silent.usda").rate == 24.0


@pytest.mark.parametrize("ending", ["usda", "usdc", "usd", "usdz"])
def test_units_of_every_kind_of_usd_file_are_read(scene, tmp_path, ending):
    scene.render.fps, scene.render.fps_base = 24, 1.001
    add_camera(scene)
    bpy.ops.wm.usd_export(filepath=str(tmp_path / f"a.{ending}"), export_animation=True)
    found = usd_units(tmp_path / f"a.{ending}")
    assert found.rate == pytest.approx(24 / 1.001) and found.metres == 1.0
    data = bytearray((tmp_path / f"a.{ending}").read_bytes())
    for cut in (0, 7, 90, len(data) // 3, len(data) - 30):
        (tmp_path / f"b.{ending}").write_bytes(data[:cut])
        try:
            usd_units(tmp_path / f"b.{ending}")
        except SettingsError as error:
            assert "cannot be read" in str(error)


def test_camera_that_stands_still_is_followed_and_that_is_said(scene, tmp_path):
    add_camera(scene)
    for kind in ("abc", "usda", "fbx"):
        export(kind, tmp_path / f"still.{kind}")
        found = camera_of_file(tmp_path / f"still.{kind}", 3, 24.0, is_free=True)
        np.testing.assert_allclose(found.poses, np.eye(4)[None].repeat(3, axis=0), atol=NEAR)
        assert found.notes[0] == f"The camera of still.{kind} does not move."


def test_file_that_cannot_be_followed_is_refused_in_a_sentence(rigged, tmp_path):
    camera, _ = rigged
    bpy.ops.export_scene.fbx(filepath=str(tmp_path / "takes.fbx"))
    add_camera(bpy.context.scene).name = "Zweite"
    for kind in ("abc", "usdc", "fbx"):
        export(kind, tmp_path / f"two.{kind}")
    for shape in list(bpy.data.objects):
        if shape.type == "CAMERA":
            bpy.data.objects.remove(shape)
    export("abc", tmp_path / "none.abc")
    for kind in ("abc", "usd", "usda", "usdc", "fbx", "blend"):
        (tmp_path / f"words.{kind}").write_bytes(b"no camera")
    before = names()
    for name, said in (
        ("gone.abc", "There is no file"),
        ("takes.fbx", "has 4 takes (Cam"),
        ("two.abc", "has 2 cameras (Camera, Zweite)"),
        ("two.usdc", "has 2 cameras (Camera"),
        ("two.fbx", "has 2 cameras (Camera, Zweite)"),
        ("none.abc", "has no cameras"),
        *((f"words.{kind}", "words." + kind) for kind in ("abc", "usd", "usda", "usdc", "fbx", "blend")),
    ):
        with pytest.raises(SettingsError) as caught:
            camera_of_file(tmp_path / name, 5, 24.0, is_free=True)
        assert said in str(caught.value) and "\n" not in str(caught.value), str(caught.value)
        assert names() == before


@pytest.mark.skipif(bpy.app.version >= (4, 5, 0), reason="this Blender reads FBX without its add-on")
def test_importer_that_is_switched_off_is_named(rigged, tmp_path):
    export("fbx", tmp_path / "path.fbx")
    addon_utils.disable("io_scene_fbx")
    try:
        with pytest.raises(SettingsError, match="no importer of .fbx files"):
            camera_of_file(tmp_path / "path.fbx", 5, 24.0, is_free=True)
    finally:
        addon_utils.enable("io_scene_fbx")


@pytest.mark.any_blender
def test_command_gives_a_pictures_shot_the_rate_of_the_file_and_says_so(rigged, tmp_path, capsys):
    _, poses = rigged
    export("usdc", tmp_path / "path.usd")
    (tmp_path / "street.png").write_bytes(encode_png(np.random.default_rng(1).integers(0, 255, (24, 36, 3), np.uint8)))
    words = ["camera", tmp_path / "street.png", "--path", tmp_path / "PATH.USD", "--lens", 30, "--frames", 25]
    save = ["--save", tmp_path / "shot.blend"]
    assert commands.main([*map(str, words + save)]) == SettingsError.exit_code
    assert "There is no file" in capsys.readouterr().err, "before the picture is looked at"
    (tmp_path / "path.usd").rename(tmp_path / "PATH.USD")
    wanted = poses(range(FIRST, FIRST + 4))
    assert commands.main([*map(str, words + save)]) == 0
    assert "The camera of PATH.USD moves for 20 of the shot's 25 frames" in capsys.readouterr().out
    (scene,) = bpy.data.scenes
    first = np.array(scene.camera.matrix_world)
    scene.frame_set(4)
    np.testing.assert_allclose(np.array(scene.camera.matrix_world), first @ wanted[3], atol=NEAR)
    assert (scene.render.fps, scene.render.fps_base) == (RATE, 1.0)
    words[words.index("--frames") :] = ["--frames", 4, "--fps", 60]
    assert commands.main([*map(str, words + save)]) == 0
    (scene,) = bpy.data.scenes
    scene.frame_set(3)
    assert scene.render.fps == 60 and "followed by time" in capsys.readouterr().out
    np.testing.assert_allclose(np.array(scene.camera.matrix_world), first @ wanted[1], atol=NEAR)
