# SPDX-License-Identifier: GPL-3.0-or-later
"""The scripting interface: tracking videos of scenes, and whole takes through a real server with the embedded model."""

import json

import bpy
import numpy as np
import pytest

from das_blender_addon import api
from das_blender_addon.client.take import Log, Preview, Progress
from das_blender_addon.errors import JobCancelled, SceneError, ServerUnreachable, SettingsError
from das_blender_addon.protocol.png import decode_png, encode_png
from das_blender_addon.shot.shot_folder import shot_folder
from tests.support.capabilities import capabilities_of, model_capability
from tests.support.scenes import add_camera, add_cube, add_grid, key, link

MODEL_SIZE = (96, 64)
STATIC_TOLERANCE = 0.02  # pixels, where nothing moves


@pytest.fixture
def shot(scene):
    """A cube that slides over a floor, seen by a still camera."""
    camera = add_camera(scene, location=(0, -8, 3))
    camera.data.lens = 40
    add_grid(scene, "Floor", cells=1, size=12).location.z = -0.5
    key(add_cube(scene), "location", {1: (-1, 0, 0), 9: (1, 0, 0)})
    scene.das.model = "das-preview"
    scene.das.first_frame_samples = 2
    return scene


@pytest.fixture
def painted(tmp_path):
    """A first frame of the user's own, so that no child Blender is needed."""
    path = tmp_path / "painted.png"
    rows, columns = np.mgrid[:64, :96]
    path.write_bytes(encode_png(np.stack([columns * 2, rows * 3, columns + rows], axis=-1).astype(np.uint8)))
    return path


# ── export_tracking ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_export_tracking_gives_arrays_of_the_render_size(shot):
    tracking = api.export_tracking(shot)
    assert tracking.frames == tuple(range(1, 10))
    assert tracking.video.shape == (9, 64, 96, 3) and tracking.video.dtype == np.uint8
    assert tracking.coverage.shape == (9, 64, 96) and tracking.coverage.dtype == bool
    assert tracking.first_frame_xy.shape == (9, 64, 96, 2) and tracking.first_frame_xy.dtype == np.float32


def test_export_tracking_takes_any_increasing_frames_and_any_size(shot):
    tracking = api.export_tracking(shot, frames=[3, 4, 9], size=(48, 32))
    assert tracking.frames == (3, 4, 9) and tracking.video.shape == (3, 32, 48, 3)
    rows, columns = np.mgrid[:32, :48]
    seen = tracking.coverage[0]
    own = np.stack([columns + 0.5, rows + 0.5], axis=-1)
    np.testing.assert_allclose(tracking.first_frame_xy[0][seen], own[seen], atol=STATIC_TOLERANCE)


def test_export_tracking_uses_the_shots_own_range(shot):
    shot.das.use_shot_range = True
    shot.das.shot_start, shot.das.shot_end = 4, 6
    assert api.export_tracking(shot, size=(12, 8)).frames == (4, 5, 6)


def test_export_tracking_follows_the_moving_cube(shot):
    shot.objects["Floor"].hide_render = True
    tracking = api.export_tracking(shot, frames=[1, 9])
    columns = [np.nonzero(coverage)[1].mean() for coverage in tracking.coverage]
    assert columns[1] - columns[0] > 20
    seen = tracking.first_frame_visible[1]
    moved = np.nonzero(seen)[1] + 0.5 - tracking.first_frame_xy[1][seen][:, 0]
    # The side that faces the camera keeps its shape: its pixels all moved by about as much as the cube.
    assert np.median(moved) == pytest.approx(columns[1] - columns[0], abs=1.0)


def test_export_tracking_leaves_an_object_black_that_comes_later(shot):
    late = add_cube(shot, "Late", location=(0, -2, 1.5))
    key(late, "hide_render", {1: True, 5: False})
    tracking = api.export_tracking(shot, frames=[1, 5])
    without = api.export_tracking(shot, frames=[1, 4])
    new = tracking.coverage[1] & (np.isnan(tracking.first_frame_xy[1]).any(axis=-1))
    assert new.sum() > 50
    assert not tracking.video[1][new].any() and not tracking.first_frame_visible[1][new].any()
    assert not np.isnan(without.first_frame_xy[1][without.coverage[1]]).any()


def names() -> list[str]:
    """Of all data blocks of the file, but for the picture that every render makes."""
    return [item.name for item in bpy.data.user_map() if item.name != "Render Result"]


def test_export_tracking_leaves_the_scene_as_it_was(shot):
    shot.frame_set(3, subframe=0.5)
    shot.objects["Cube"].select_set(True)
    before = (shot.frame_current, shot.frame_subframe, names())
    api.export_tracking(shot, size=(12, 8))
    assert (shot.frame_current, shot.frame_subframe, names()) == before
    assert shot.objects["Cube"].select_get() and not shot.objects["Floor"].select_get()


def test_export_tracking_reports_progress_and_stops(shot):
    seen = []
    api.export_tracking(shot, frames=[1, 2], size=(12, 8), progress=lambda *counts: seen.append(counts))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    with pytest.raises(JobCancelled):
        api.export_tracking(shot, should_stop=lambda: True)


def test_export_tracking_needs_a_camera_with_parallel_or_central_rays_and_something_in_view(shot):
    camera = shot.camera
    camera.data.type = "PANO"
    with pytest.raises(SceneError, match="'Camera' is of type PANO"):
        api.export_tracking(shot)
    camera.data.type = "PERSP"
    camera.rotation_euler.x += 3.14159
    with pytest.raises(SceneError, match="in view in the first frame"):
        api.export_tracking(shot)
    bpy.data.objects.remove(camera)
    with pytest.raises(SceneError, match="no camera"):
        api.export_tracking(shot)


@pytest.mark.parametrize("frames", [[], [2, 1], [1.5]])
def test_export_tracking_refuses_frames_that_do_not_increase(shot, frames):
    with pytest.raises(SettingsError):
        api.export_tracking(shot, frames=frames)


@pytest.mark.parametrize("size", [(0, 10), (10,), "96x64"])
def test_export_tracking_refuses_what_is_no_size(shot, size):
    with pytest.raises(SettingsError, match="size"):
        api.export_tracking(shot, size=size)


# ── The stations ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_plan_shot_reads_the_scene(shot):
    shot.render.resolution_x, shot.render.resolution_percentage = 384, 50
    shot.render.pixel_aspect_y = 1.5
    plan = api.plan_shot(shot, capabilities_of(model_capability()))
    assert plan.render_size == (192, 32) and plan.pixel_aspect == (1.0, 1.5)
    assert plan.frames == tuple(range(1, 10)) and plan.windows[0].length == 9
    shot.frame_end = 10
    assert len(api.plan_shot(shot, capabilities_of(model_capability())).windows) == 2


def test_export_shot_crops_back_to_what_the_render_sees(shot):
    """The overscanned tracking video of a wide shot holds the shot's own tracking video inside its crop."""
    shot.render.resolution_x, shot.render.resolution_y = 96, 32
    plan = api.plan_shot(shot, capabilities_of(model_capability()), frames=[1, 5])
    assert plan.framing.crop == (0.0, 16.0, 96.0, 48.0)
    wide = api.export_shot(shot, plan)
    own = api.export_tracking(shot, frames=[1, 5])
    assert wide.tracking.video.shape == (2, 64, 96, 3)
    np.testing.assert_array_equal(wide.tracking.coverage[:, 16:48], own.coverage)
    xy = wide.tracking.first_frame_xy[:, 16:48] - (0, 16)
    np.testing.assert_allclose(xy[own.coverage], own.first_frame_xy[own.coverage], atol=1e-3)
    assert {"export", "tracking"} <= set(wide.timings)


def test_shot_folder_is_named_after_file_and_scene(shot, tmp_path):
    shot.name = "Shot 1/a"
    folder = shot_folder(shot, tmp_path)
    assert folder.parent == tmp_path and folder.name.startswith("untitled-Shot_1_a-")
    shot.view_layers.new("Back / 2")
    assert api.shot_folder(shot, tmp_path) == folder
    assert api.shot_folder(shot, tmp_path, "Back / 2").parent == folder / "layers"


# ── render_take ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_render_take_gives_frames_and_then_finds_them(shot, server, painted, tmp_path):
    events = []
    options = {"server": server.address, "folder": tmp_path, "first_frame": painted, "size": MODEL_SIZE, "seed": 5}
    take = api.render_take(shot, on_event=events.append, **options)
    assert not take.cached and len(take.frames) == 9
    pictures = [decode_png(path.read_bytes()) for path in take.frames]
    assert {picture.shape for picture in pictures} == {(64, 96, 3)} and len({p.tobytes() for p in pictures}) > 1
    assert take.report["seed"] == 5 and take.report["frame_numbers"] == list(range(1, 10))
    assert {"plan", "export", "tracking", "first_frame", "job", "take"} <= set(take.timings)
    fractions = [event.fraction for event in events if isinstance(event, Progress)]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    stages = {event.stage for event in events if isinstance(event, Progress)}
    assert stages >= {"exporting", "tracking", "denoising"}
    assert any(isinstance(event, Preview) for event in events) and any(isinstance(event, Log) for event in events)

    again = api.render_take(shot, **options)
    assert again.cached and again.frames == take.frames
    assert api.render_take(shot, **{**options, "seed": 6}).key != take.key


@pytest.mark.any_blender
def test_take_rendered_anew_takes_the_place_of_the_old_one(shot, server, painted, tmp_path):
    shot.frame_end = 3
    options = {"server": server.address, "folder": tmp_path, "first_frame": painted, "size": MODEL_SIZE}
    old = api.render_take(shot, **options)
    new = api.render_take(shot, anew=True, **options)
    assert not new.cached and new.job_id != old.job_id and new.frames == old.frames
    found = api.render_take(shot, **options)
    assert found.cached and found.job_id == new.job_id
    with pytest.raises(ServerUnreachable):
        api.render_take(shot, anew=True, **{**options, "server": "tcp://127.0.0.1:9", "timeout_s": 1.0})


def test_take_is_keyed_by_the_weights_that_the_server_has(shot, server, painted, tmp_path):
    shot.frame_end = 3
    options = {"server": server.address, "folder": tmp_path, "first_frame": painted, "size": MODEL_SIZE}
    take = api.render_take(shot, **options)
    (preview,) = (one for one in api.server_capabilities(server.address).models if one.name == "das-preview")
    assert take.report["model_revision"] == preview.revision != ""


def test_render_take_renders_the_first_frame_and_keeps_what_it_shows(shot, server, tmp_path):
    cube = shot.objects["Cube"]
    material = bpy.data.materials.new("Red")
    material.diffuse_color = (1, 0, 0, 1)
    cube.data.materials.append(material)
    link(shot, "Sun", bpy.data.lights.new("Sun", "SUN")).data.energy = 3.0
    shot.frame_end = 5
    take = api.render_take(shot, server=server.address, folder=tmp_path, size=MODEL_SIZE)
    first = decode_png(take.first_frame.read_bytes())
    assert first.shape == (64, 96, 3) and first.max() > 60
    folder = api.shot_folder(shot, tmp_path)
    assert api.first_frame_path(folder, 1).read_bytes() == take.first_frame.read_bytes()
    assert api.first_frame_state(folder, 1) == "rendered"
    difference = np.abs(decode_png(take.frames[0].read_bytes()).astype(int) - first)
    assert difference.mean() < 8
    assert len(take.frames) == 5


def test_render_take_crops_and_resizes_to_the_render(shot, server, painted, tmp_path):
    shot.render.resolution_x, shot.render.resolution_y = 150, 50
    shot.frame_end = 3
    take = api.render_take(shot, server=server.address, folder=tmp_path, first_frame=painted, size=MODEL_SIZE)
    assert decode_png(take.frames[0].read_bytes()).shape == (50, 150, 3)
    assert decode_png(take.model_frames[0].read_bytes()).shape == (64, 96, 3)
    assert any("carried along" in note and "150×50" in note for note in take.report["notes"])
    said = json.loads((take.folder / "take.json").read_text())
    assert said["report"]["render_size"] == [150, 50]


def test_render_take_stops_when_asked(shot, server, painted, tmp_path):
    asked = []

    def should_stop():
        asked.append(1)
        return len(asked) > 15

    options = {"server": server.address, "folder": tmp_path, "first_frame": painted, "size": MODEL_SIZE}
    with pytest.raises(JobCancelled):
        api.render_take(shot, should_stop=should_stop, **options)
    assert not list(tmp_path.rglob("take.json"))


def test_render_take_refuses_a_setting_that_does_not_exist(shot):
    with pytest.raises(SettingsError, match="no setting 'stepz'; there are .*num_inference_steps"):
        api.render_take(shot, stepz=3)


@pytest.mark.any_blender
def test_render_take_says_that_nobody_answers(shot, tmp_path):
    with pytest.raises(ServerUnreachable):
        api.render_take(shot, server="tcp://127.0.0.1:9", folder=tmp_path)


def test_render_take_refuses_another_machine_while_blender_is_offline(shot):
    shot.das.server = "tcp://render-farm.example:5599"
    with pytest.raises(SettingsError, match="online access is off"):
        api.render_take(shot)


def test_add_to_sequencer_gives_a_strip_of_the_take(shot, server, painted, tmp_path):
    shot.frame_end = 5
    take = api.render_take(shot, server=server.address, folder=tmp_path, first_frame=painted, size=MODEL_SIZE)
    strip = api.add_to_sequencer(take, shot)
    assert [element.filename for element in strip.elements] == [path.name for path in take.frames]
