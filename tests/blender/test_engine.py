# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine through Blender's own render operators and a real server: the pixels it gives, and that failures give
none.
"""

import json
import os
import signal
import threading
from pathlib import Path

import bpy
import numpy as np
import pytest

from das_blender_addon import api, compat, engine
from das_blender_addon.errors import StorageError
from das_blender_addon.protocol.png import decode_png
from das_blender_addon.scene.written import still_path
from das_blender_addon.take import recipes
from das_blender_addon.take.pixels import read_frame
from das_blender_addon.tracking.coverage import straight_colours
from tests.support.exr import read_exr
from tests.support.scenes import add_camera
from tests.support.server import running_server

LIMIT_S = 120.0
ENDLESS_STEPS = 1000
"""A job of so many lasts until it is cancelled."""


@pytest.fixture
def shot(shot_scene, tmp_path):
    """The shot of `shot_scene`, whose pictures go to ``out/0001.png`` …"""
    shot_scene.render.filepath = str(tmp_path / "out" / "####")
    compat.set_image_output(shot_scene)
    return shot_scene


def render_animation(scene) -> list[np.ndarray]:
    """Render Animation; the pictures that it wrote, in order."""
    bpy.ops.render.render(animation=True)
    return [decode_png(path.read_bytes()) for path in written(scene)]


def render_still(scene, frame: int) -> np.ndarray:
    """F12 at ``frame``."""
    scene.frame_set(frame)
    bpy.ops.render.render(write_still=True)
    path = Path(scene.render.frame_path(frame=frame))
    if not path.exists():  # stills of Blender keep the #
        path = next(Path(scene.render.filepath).parent.glob("*.png"))
    picture = decode_png(path.read_bytes())
    path.unlink()
    return picture


def written(scene) -> list[Path]:
    return sorted(Path(scene.render.filepath).parent.glob("*"))


def take_folders(scene) -> set[Path]:
    return set(Path(scene.das.cache_folder).glob("*/takes/*"))


def picture(path: Path) -> np.ndarray:
    return decode_png(path.read_bytes())


# ── Pixels ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_animation_gives_the_takes_frames_byte_by_byte(shot):
    frames = render_animation(shot)
    take = api.render_take(shot)
    assert take.cached and take.frame_numbers == tuple(range(1, 10)) and len(frames) == 9
    for frame, path in zip(frames, take.frames, strict=True):
        np.testing.assert_array_equal(frame, picture(path))
    assert len({frame.tobytes() for frame in frames}) == 9 and all(frame.std() > 1.0 for frame in frames)


def test_first_frame_looks_like_the_scene(shot):
    """The preview model keeps the first frame: orange cube on the left, dark world around it."""
    frame = render_animation(shot)[0].astype(int)
    rows, columns = np.nonzero(frame[..., 0] - frame[..., 2] > 60)
    assert len(rows) > 200 and columns.mean() < 48
    last = picture(written(shot)[-1]).astype(int)
    assert np.nonzero(last[..., 0] - last[..., 2] > 60)[1].mean() > 48


def test_single_frame_after_the_animation_comes_from_the_cache(shot):
    frames = render_animation(shot)
    before = take_folders(shot)
    stamps = {path: path.stat().st_mtime_ns for folder in before for path in folder.rglob("*.*")}
    np.testing.assert_array_equal(render_still(shot, 7), frames[6])
    assert take_folders(shot) == before
    assert stamps == {path: path.stat().st_mtime_ns for folder in before for path in folder.rglob("*.*")}


@pytest.mark.any_blender
def test_complete_take_is_found_while_the_server_is_off(shot, tmp_path, monkeypatch):
    shot.das.cache_folder = str(tmp_path / "cache")
    with running_server(tmp_path / "server") as server:
        shot.das.server = server.address
        frames = render_animation(shot)
    for path in written(shot):
        path.unlink()
    monkeypatch.setenv("DAS_TIMEOUT_S", "1")
    np.testing.assert_array_equal(render_still(shot, 7), frames[6])
    np.testing.assert_array_equal(render_animation(shot)[8], frames[8])
    for path in written(shot):
        path.unlink()
    shot.das.seed += 1  # another take, which is not there
    assert_render_fails(shot, "No server answers at tcp://127.0.0.1")
    shot.das.seed -= 1
    (take,) = take_folders(shot)
    (take / "frames" / "0003.png").write_bytes(b"damaged")
    assert_render_fails(shot, "No server answers")


@pytest.mark.any_blender
def test_take_of_the_engine_says_how_long_each_station_took(shot):
    shot.das.seed = 12
    before = take_folders(shot)
    render_animation(shot)
    (folder,) = take_folders(shot) - before
    timings = json.loads((folder / "take.json").read_text())["timings"]
    assert {"plan", "export", "tracking", "first_frame", "job", "frames", "take"} <= set(timings)
    assert all(seconds >= 0.0 for seconds in timings.values()) and timings["take"] > timings["job"] > 0.0
    assert api.render_take(shot).timings == timings


@pytest.mark.any_blender
def test_frames_rendered_one_by_one_are_those_of_one_take(shot):
    shot.das.seed = 11
    before = take_folders(shot)
    stills = {frame: render_still(shot, frame) for frame in (5, 2, 9)}
    assert len(take_folders(shot) - before) == 1
    take = api.render_take(shot)
    assert take.cached
    for frame, still in stills.items():
        np.testing.assert_array_equal(still, picture(take.frames[frame - 1]))


def test_frame_step_and_shot_range_make_the_window(shot):
    shot.frame_step = 2
    shot.das.use_shot_range, shot.das.shot_start, shot.das.shot_end = True, 3, 7
    shot.frame_start, shot.frame_end = 3, 7
    frames = render_animation(shot)
    take = api.render_take(shot)
    assert [path.stem for path in written(shot)] == ["0003", "0005", "0007"]
    assert take.cached and take.frame_numbers == (3, 5, 7)
    np.testing.assert_array_equal(frames[2], picture(take.frames[2]))


def test_resolution_percentage_is_respected(shot):
    shot.render.resolution_x, shot.render.resolution_y, shot.render.resolution_percentage = 192, 128, 25
    still = render_still(shot, 4)
    assert still.shape == (32, 48, 3)
    np.testing.assert_array_equal(still, picture(api.render_take(shot).frames[3]))


@pytest.mark.parametrize("crop", [False, True])
def test_render_border_gives_its_part_of_the_picture(shot, crop):
    whole = render_still(shot, 6)
    render = shot.render
    render.use_border, render.use_crop_to_border = True, crop
    render.border_min_x, render.border_max_x, render.border_min_y, render.border_max_y = 0.26, 0.74, 0.4, 0.9
    part = render_still(shot, 6)
    left, bottom, right, top = int(0.26 * 96), int(0.4 * 64), int(0.74 * 96), int(0.9 * 64)
    expected = whole[64 - top : 64 - bottom, left:right]
    if crop:
        np.testing.assert_array_equal(part, expected)
    else:
        assert part.shape == whole.shape
        np.testing.assert_array_equal(part[64 - top : 64 - bottom, left:right], expected)


def test_passes_hold_tracking_and_coverage(shot):
    settings = shot.render.image_settings
    if hasattr(settings, "media_type"):
        settings.media_type = "MULTI_LAYER_IMAGE"
    settings.file_format, settings.exr_codec, settings.color_depth = "OPEN_EXR_MULTILAYER", "NONE", "32"
    shot.frame_start = shot.frame_end = 5
    shot.das.use_shot_range, shot.das.shot_start, shot.das.shot_end = True, 1, 9
    bpy.ops.render.render(animation=True)
    planes = read_exr(written(shot)[0])
    tracking = api.export_tracking(shot)
    for channel, letter in enumerate("RGB"):
        seen = plane(planes, engine.TRACKING_PASS, letter)
        np.testing.assert_array_equal(np.rint(seen * 255).astype(np.uint8), tracking.video[4, ..., channel])
    np.testing.assert_array_equal(plane(planes, engine.COVERAGE_PASS, "X") > 0.5, tracking.coverage[4])
    take = api.render_take(shot)
    red = plane(planes, "Combined", "R")
    np.testing.assert_array_equal(red, engine.linear_from_srgb(picture(take.frames[4]))[..., 0])


@pytest.mark.parametrize("transparent", [True, False])
def test_alpha_is_the_coverage_where_the_film_is_transparent(shot, transparent):
    shot.render.film_transparent = transparent
    shot.render.image_settings.color_mode = "RGBA"
    coverage = api.export_tracking(shot).coverage[4]
    assert 0 < coverage.sum() < coverage.size
    shot.das.use_shot_range, shot.das.shot_start, shot.das.shot_end = True, 1, 9
    shot.frame_start = shot.frame_end = 5
    bpy.ops.render.render(animation=True)
    written_pixels = pixels_of(written(shot)[0])
    take = api.render_take(shot)
    frame, alpha = picture(take.frames[4]), picture(take.coverage[4])[..., 0]
    if transparent:
        assert (alpha[coverage] > 0).all() and (alpha[~coverage] < 255).all()
        assert 0.9 < (alpha / 255 == coverage).mean() < 1.0
        frame = straight_colours(frame, alpha)
    np.testing.assert_array_equal(written_pixels[..., 3], alpha if transparent else 255)
    np.testing.assert_array_equal(written_pixels[..., :3], frame)


def pixels_of(path: Path) -> np.ndarray:
    """The file's own bytes [H,W,4], rows top-down."""
    image = bpy.data.images.load(str(path))
    image.alpha_mode = "CHANNEL_PACKED"
    pixels = np.array(image.pixels[:], np.float32).reshape(image.size[1], image.size[0], 4)
    return np.rint(pixels[::-1] * 255).astype(np.uint8)


def test_first_frame_of_a_transparent_film_has_a_black_background(shot, tmp_path):
    shot.world = bpy.data.worlds.new("Bright")
    shot.world.color = (1.0, 1.0, 1.0)  # Blender 5 has nodes instead, which are dark grey
    shot.das.cache_folder = str(tmp_path / "opaque")
    opaque = picture(api.render_take(shot).first_frame)
    shot.das.cache_folder, shot.render.film_transparent = str(tmp_path / "transparent"), True
    transparent = picture(api.render_take(shot).first_frame)
    outside = ~api.export_tracking(shot).coverage[0]
    outside[1:-1, 1:-1] &= False  # at the edge of the picture no surface is near
    assert outside.sum() > 200 and (opaque[outside] > 30).all() and (transparent[outside] == 0).all()


def plane(planes: dict[str, np.ndarray], render_pass: str, letter: str) -> np.ndarray:
    names = [name for name in planes if render_pass in name and name.endswith(f".{letter}")]
    assert len(names) == 1, f"{render_pass} {letter} is not in {sorted(planes)}"
    return planes[names[0]]


def test_marker_bound_cameras_are_those_of_their_frames(shot):
    """Inside a render Blender's evaluated scene names the camera of the step before."""
    camera = bpy.data.objects["Camera"]
    for owner in (bpy.data.objects["Cube"], camera.data):
        owner.animation_data_clear()
    other = add_camera(shot, "Other", location=(6.0, -6.0, 2.0))
    shot.timeline_markers.new("A", frame=1).camera = camera
    shot.timeline_markers.new("B", frame=5).camera = other
    render_animation(shot)
    take = api.render_take(shot)
    assert take.cached  # the same tracking video, exported outside of a render
    tracked = [path.read_bytes() for path in take.tracking_frames]
    assert len(set(tracked[:4])) == 1 and len(set(tracked[4:])) == 1 and tracked[3] != tracked[4]


@pytest.mark.any_blender
def test_damaged_frame_in_the_cache_is_made_anew(shot):
    frames = render_animation(shot)
    take = api.render_take(shot)
    take.frames[4].write_bytes(b"")
    take.model_frames[4].write_bytes(take.model_frames[4].read_bytes()[:100])
    np.testing.assert_array_equal(render_still(shot, 5), frames[4])


def test_frame_of_another_size_is_an_error_of_the_cache(shot):
    take = api.render_take(shot)
    with pytest.raises(StorageError, match="96×64 pixels and the render 48×32"):
        read_frame(recipes.FinishedTake(take, None), 4, (48, 32))


@pytest.mark.parametrize("name", ["picture.png", "picture", "picture_####", "picture.jpg", "{blend_name}_x"])
def test_still_is_found_where_blender_writes_it(shot, tmp_path, caplog, name):
    shot.render.filepath = str(tmp_path / "out" / name)
    bpy.ops.render.render(write_still=True)
    assert [os.fspath(path) for path in written(shot)] == [still_path(shot)]
    assert "cannot be read again" not in caplog.text


@pytest.mark.any_blender
def test_still_with_an_extension_of_the_users_own_is_found(shot, tmp_path, caplog):
    shot.render.filepath, shot.render.use_file_extension = str(tmp_path / "out" / "picture.of.mine"), False
    bpy.ops.render.render(write_still=True)
    assert [os.fspath(path) for path in written(shot)] == [still_path(shot)]
    assert "cannot be read again" not in caplog.text


@pytest.mark.any_blender
@pytest.mark.parametrize("subframe", [0.0, 0.5])
def test_render_leaves_the_scene_at_its_subframe(shot, subframe):
    shot.frame_set(5, subframe=subframe)
    bpy.ops.render.render()
    assert (shot.frame_current, shot.frame_subframe) == (5, subframe)


# ── Failures give no pixels ─────────────────────────────────────────────────────────────────────────────────────────


def assert_render_fails(scene, words: str, **arguments) -> None:
    with pytest.raises(RuntimeError, match=words):
        bpy.ops.render.render(**(arguments or {"animation": True}))
    assert not written(scene)


def test_frame_outside_of_the_shot_is_refused(shot):
    shot.das.use_shot_range, shot.das.shot_start, shot.das.shot_end = True, 1, 9
    shot.frame_set(12)
    assert_render_fails(shot, "frame 12 is not in the shot .1 to 9.", write_still=True)


def test_unreachable_server_fails_the_render(shot, monkeypatch, tmp_path):
    shot.das.cache_folder = str(tmp_path / "cache")  # without the take that other tests have made
    shot.das.server = "tcp://127.0.0.1:9"
    monkeypatch.setenv("DAS_TIMEOUT_S", "1")
    assert_render_fails(shot, "127.0.0.1:9")


def test_too_long_shot_names_the_limit(shot):
    shot.frame_end = 20000
    assert_render_fails(shot, "10000 at most")


def test_stereoscopy_is_refused(shot):
    shot.render.use_multiview = True
    assert_render_fails(shot, "Stereoscopy")


def test_unusable_setting_is_refused(shot, monkeypatch):
    monkeypatch.setenv("DAS_SEED", "lucky")
    assert_render_fails(shot, "DAS_SEED is 'lucky'")


def test_unfit_first_frame_is_refused(shot, tmp_path):
    image = tmp_path / "first.png"
    image.write_bytes(b"no picture")
    shot.das.first_frame_path = str(image)
    assert_render_fails(shot, "first.png")


@pytest.fixture
def ctrl_c():
    """Ctrl-C interrupts; what a shell has started in the background inherits that it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.any_blender
@pytest.mark.usefixtures("ctrl_c")
def test_interrupted_render_writes_nothing_and_cancels_its_job(shot, server):
    """Ctrl-C where Blender is a module: the render fails, the job is cancelled at the server."""
    own_jobs = server.new_jobs()
    shot.das.size, shot.das.seed, shot.das.steps = "240x160", 99, ENDLESS_STEPS

    def interrupt() -> None:
        server.wait_until(own_jobs, "the job started", LIMIT_S)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert_render_fails(shot, "KeyboardInterrupt")
    thread.join()
    server.wait_until(lambda status: not running_jobs(status), "the job stopped", LIMIT_S)
    assert [job["state"] for job in own_jobs(server.status())] == ["CANCELLED"]


def running_jobs(status: dict) -> list:
    return [job for job in status["jobs"] if job["state"] in ("QUEUED", "RUNNING")]


@pytest.mark.any_blender
def test_server_that_dies_for_good_fails_the_render(shot, tmp_path, monkeypatch):
    monkeypatch.setenv("DAS_TIMEOUT_S", "3")
    with running_server(tmp_path / "server") as server:
        shot.das.server, shot.das.size, shot.das.seed = server.address, "240x160", 98

        def kill() -> None:
            server.wait_until(lambda status: running_jobs(status), "the job started", LIMIT_S)
            server.kill()

        thread = threading.Thread(target=kill)
        thread.start()
        assert_render_fails(shot, server.address)
        thread.join()


def test_scene_is_left_as_it_was(shot):
    shot.frame_set(3)
    before = (shot.frame_current, len(bpy.data.objects), len(bpy.data.images), len(bpy.data.scenes))
    render_animation(shot)
    assert (len(bpy.data.objects), len(bpy.data.scenes)) == (before[1], before[3])
