# SPDX-License-Identifier: GPL-3.0-or-later
"""The operators: blocking where there is no window, reasons where they cannot run, and the jobs that a window's
timer drives.
"""

import threading
import time
from pathlib import Path

import bpy
import numpy as np
import pytest

from das_blender_addon import api, compat
from das_blender_addon.client import known_servers
from das_blender_addon.errors import JobCancelled, SceneError, ServerUnreachable, SettingsError
from das_blender_addon.jobs import of_scene
from das_blender_addon.protocol.png import decode_png, encode_png
from das_blender_addon.scene import sequencer
from das_blender_addon.shot.settings import resolve_settings
from das_blender_addon.take import cache as takes
from das_blender_addon.take import drive, recent, recipes
from das_blender_addon.ui import job_operators, operators, properties, session

LIMIT_S = 120.0


def shown():
    return bpy.context.window_manager.das


def why_not(operator) -> str:
    """What Blender says when the operator cannot run."""
    with pytest.raises(RuntimeError) as refused:
        operator()
    return str(refused.value)


# ── Blocking, as scripts and the background call them ───────────────────────────────────────────────────────────────


def test_render_take_then_strip(shot_scene):
    bpy.ops.das.render_take()
    take = recent.last_take(shot_scene)
    assert shown().job_state == "DONE" and "9 frames" in shown().job_line
    assert all(decode_png(path.read_bytes()).std() > 1.0 for path in take.frames)
    shot_scene.name = "Called otherwise since"
    bpy.ops.das.add_to_sequencer()
    (strip,) = compat.all_strips(shot_scene.das.edit_scene)
    assert strip["das_take"] == take.key and strip["das_scene"] == shot_scene.name
    assert (compat.strip_time(strip, "left"), compat.strip_time(strip, "right")) == (1, 10)
    assert shot_scene.das.edit_scene.frame_end == 9
    assert not sequencer.hides_engine(shot_scene)


@pytest.mark.any_blender
def test_render_take_anew_makes_another_job(shot_scene):
    bpy.ops.das.render_take()
    before = recent.last_take(shot_scene)
    bpy.ops.das.render_take(anew=True)
    anew = recent.last_take(shot_scene)
    assert anew.frames == before.frames and anew.job_id != before.job_id
    bpy.ops.das.render_take()
    assert recent.last_take(shot_scene).cached and recent.last_take(shot_scene).job_id == anew.job_id


def test_render_take_leaves_the_frame(shot_scene):
    shot_scene.frame_set(4)
    bpy.ops.das.render_take()
    assert shot_scene.frame_current == 4


def test_preview_tracking_writes_and_loads_the_video(shot_scene):
    shot_scene.das.server = "tcp://127.0.0.1:9"  # it needs none
    bpy.ops.das.preview_tracking()
    image = bpy.data.images["DAS Tracking"]
    folder = Path(image.filepath).parent
    tracking = api.export_tracking(shot_scene)
    written = [decode_png(path.read_bytes()) for path in sorted(folder.glob("*.png"))]
    np.testing.assert_array_equal(np.stack(written), tracking.video)
    assert image.source == "SEQUENCE"
    shot_scene.frame_end = 4
    bpy.ops.das.preview_tracking()
    assert len(list(folder.glob("*.png"))) == 4 and len(bpy.data.images) == 1


def test_preview_tracking_shows_what_will_be_sent_once_the_server_was_asked(shot_scene):
    shot_scene.render.resolution_x = 192  # wider than the model's picture, which is overscanned
    bpy.ops.das.test_connection()
    bpy.ops.das.preview_tracking()
    folder = Path(bpy.data.images["DAS Tracking"].filepath).parent
    written = [decode_png(path.read_bytes()) for path in sorted(folder.glob("*.png"))]
    settings = resolve_settings(shot_scene)
    plan = of_scene.plan_shot(shot_scene, settings, known_servers.known_capabilities(settings.server))
    np.testing.assert_array_equal(np.stack(written), api.export_shot(shot_scene, plan).tracking.video)
    assert written[0].shape == (64, 96, 3)


def test_preview_tracking_begins_at_the_shots_first_frame(shot_scene, monkeypatch):
    shot_scene.das.server = "tcp://127.0.0.1:9"
    shot_scene.das.use_shot_range, shot_scene.das.shot_start, shot_scene.das.shot_end = True, 4, 6
    shown = []
    monkeypatch.setattr(job_operators, "show_image", lambda image, *times: shown.append(times))
    bpy.ops.das.preview_tracking()
    assert shown == [(3, 4)]


def test_empty_server_variable_permits_no_other_machine(shot_scene, monkeypatch):
    assert not bpy.app.online_access
    monkeypatch.setenv("DAS_SERVER", "")
    shot_scene.das.server = "tcp://render.studio:5599"
    with pytest.raises(SettingsError, match="online access is off"):
        drive.finish(of_scene.hello(shot_scene, resolve_settings(shot_scene)))


def test_render_first_frame_makes_the_slots_file(shot_scene, tmp_path):
    shot_scene.das.cache_folder = str(tmp_path)
    assert "no first frame yet" in why_not(bpy.ops.das.open_first_frame)
    bpy.ops.das.render_first_frame()
    file = operators.first_frame_file(shot_scene)
    picture = decode_png(file.read_bytes()).astype(int)
    assert picture.shape == (64, 96, 3) and (picture[..., 0] - picture[..., 2] > 60).any()
    bpy.ops.das.open_first_frame()
    assert [Path(image.filepath) for image in bpy.data.images] == [file]


def test_open_keeps_strokes_that_were_not_saved(shot_scene, tmp_path):
    shot_scene.das.first_frame_path = str(tmp_path / "own.png")
    (tmp_path / "own.png").write_bytes(encode_png(np.zeros((64, 96, 3), np.uint8)))
    bpy.ops.das.open_first_frame()
    (image,) = bpy.data.images
    image.pixels[0] = 1.0
    assert image.is_dirty
    bpy.ops.das.open_first_frame()
    assert image.is_dirty and image.pixels[0] == 1.0


def test_open_keeps_a_picture_that_is_packed(shot_scene, tmp_path):
    shot_scene.das.first_frame_path = str(tmp_path / "own.png")
    (tmp_path / "own.png").write_bytes(encode_png(np.zeros((64, 96, 3), np.uint8)))
    bpy.ops.das.open_first_frame()
    (image,) = bpy.data.images
    image.pixels[0] = 1.0
    image.pack()
    assert not image.is_dirty
    bpy.ops.das.open_first_frame()
    assert image.pixels[0] == 1.0


def test_strokes_on_the_first_frame_are_what_a_take_gets(shot_scene, tmp_path):
    shot_scene.das.cache_folder = str(tmp_path)
    bpy.ops.das.render_first_frame()
    file = operators.first_frame_file(shot_scene)
    rendered = file.read_bytes()
    bpy.ops.das.open_first_frame()
    (image,) = bpy.data.images
    image.use_fake_user = True  # as an editor that shows it
    assert operators.first_frame_words(shot_scene) == "" and bpy.ops.das.render_first_frame.poll()
    image.pixels.foreach_set(np.tile(np.float32([0.2, 0.4, 0.6, 1.0]), 96 * 64))
    assert "not saved" in operators.first_frame_words(shot_scene)
    assert "save the image" in why_not(bpy.ops.das.render_first_frame)
    made = drive.finish(of_scene.only_take(shot_scene, resolve_settings(shot_scene), in_child=True))
    assert (decode_png(made.first_frame.read_bytes()) == (51, 102, 153)).all()
    assert image.is_dirty and file.read_bytes() == rendered


def test_painting_for_another_camera_is_told_at_the_end_of_the_take(shot_scene, tmp_path):
    shot_scene.das.cache_folder = str(tmp_path)
    bpy.ops.das.render_first_frame()
    operators.first_frame_file(shot_scene).write_bytes(encode_png(np.full((64, 96, 3), 90, np.uint8)))
    bpy.ops.das.render_take()
    assert "another camera" not in shown().job_line
    shot_scene.camera.location.x += 0.3
    bpy.ops.das.render_take()
    assert shown().job_line.startswith("Take of 9 frames") and "painted for another camera" in shown().job_line
    assert "painted for another camera" in recent.last_take(shot_scene).report["first_frame_notes"][0]


def test_painted_first_frame_is_named_before_it_is_replaced(shot_scene, tmp_path):
    shot_scene.das.cache_folder = str(tmp_path)
    bpy.ops.das.render_first_frame()
    file = operators.first_frame_file(shot_scene)
    assert job_operators.painted_first_frame(shot_scene) == ""
    painted = encode_png(np.zeros((64, 96, 3), np.uint8))
    file.write_bytes(painted)
    assert job_operators.painted_first_frame(shot_scene) == file.name
    bpy.ops.das.render_first_frame()  # a script is not asked
    assert file.with_name(f"{file.stem}-kept-1.png").read_bytes() == painted
    assert job_operators.painted_first_frame(shot_scene) == "" and file.read_bytes() != painted


def test_test_connection_remembers_the_models(shot_scene, server):
    bpy.ops.das.test_connection()
    assert shown().server_state == "DONE" and shown().server_line.startswith("das-server")
    assert known_servers.known_capabilities(server.address).default_model == "das-preview"


def test_size_field_takes_what_is_typed_and_shows_the_nearest_first(shot_scene, server):
    bpy.ops.das.test_connection()
    shot_scene.das.size = "200x136"
    assert resolve_settings(shot_scene).size == (200, 136)
    capabilities = known_servers.known_capabilities()
    assert api.plan_shot(shot_scene, capabilities, size=(200, 136)).model_size == (200, 136)
    with pytest.raises(SettingsError, match="use 200×136, the nearest"):
        api.plan_shot(shot_scene, capabilities, size=(201, 136))
    typed = {text: properties._search_sizes(shot_scene.das, bpy.context, text) for text in ("201x136", "192x1", "au")}
    assert typed["201x136"] == ["200x136"] and typed["au"] == ["AUTO"]
    assert set(typed["192x1"]) >= {"192x128", "192x192"}
    every = properties._search_sizes(shot_scene.das, bpy.context, shot_scene.das.size)
    assert every[:3] == ["200x136", "AUTO", "192x128"]
    shot_scene.das.model = "das-cogvideox-5b"
    assert properties._search_sizes(shot_scene.das, bpy.context, "201x136") == ["720x480"]


def test_failure_is_told_and_raised(shot_scene, monkeypatch, tmp_path):
    shot_scene.das.cache_folder = str(tmp_path)  # without the take that other tests have made
    monkeypatch.setenv("DAS_TIMEOUT_S", "1")
    shot_scene.das.server = "tcp://127.0.0.1:9"
    with pytest.raises(RuntimeError, match="127.0.0.1:9"):
        bpy.ops.das.test_connection()
    assert shown().server_state == "FAILED" and "127.0.0.1:9" in shown().server_line
    with pytest.raises(RuntimeError, match="127.0.0.1:9"):
        bpy.ops.das.render_take()
    assert shown().job_state == "FAILED" and "127.0.0.1:9" in shown().job_line


def test_randomise_seed_changes_it(scene):
    seeds = set()
    for _ in range(4):
        bpy.ops.das.randomise_seed()
        seeds.add(scene.das.seed)
    assert len(seeds) == 4


# ── Reasons ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_buttons_say_why_they_cannot_be_pressed(scene):
    assert "has no camera" in why_not(bpy.ops.das.render_take)
    assert "has no camera" in why_not(bpy.ops.das.preview_tracking)
    assert "no take of this scene" in why_not(bpy.ops.das.add_to_sequencer)
    assert "Nothing is running" in why_not(bpy.ops.das.cancel)
    assert "No local server" in why_not(bpy.ops.das.stop_local_server)


def test_shot_that_does_not_fit_the_model_cannot_be_sent(shot_scene):
    bpy.ops.das.test_connection()
    shot_scene.das.model = "nobody's"
    assert "no model" in why_not(bpy.ops.das.render_take)


def test_own_first_frame_is_not_rendered_over(shot_scene, tmp_path):
    shot_scene.das.first_frame_path = str(tmp_path / "painted.png")
    assert "image of your own" in why_not(bpy.ops.das.render_first_frame)


def test_takes_of_another_file_are_forgotten(shot_scene):
    recent.remember_take(shot_scene, object())
    session.show_begin(shown(), "Render Take")
    bpy.ops.wm.read_homefile(use_factory_startup=True)
    assert (shown().job_state, shown().job_line) == ("IDLE", "")
    assert recent.last_take(bpy.context.scene) is None


# ── Jobs of a window, ticked by hand: timers do not run in the background ───────────────────────────────────────────


class Ticker:
    """Starts a job as a window's operator does and ticks it as Blender's timer would."""

    def __init__(self, recipe):
        self.shown, self.ended, self.cancel_at = [], [], None
        self.job = session.SessionJob("test", recipe, self.show, lambda *end: self.ended.append(end))

    def show(self, status) -> None:
        self.shown.append(status)
        if self.cancel_at is not None and self.cancel_at in status.text:
            self.job.cancel()

    def run(self) -> None:
        deadline = time.monotonic() + LIMIT_S
        while (wait := self.job.tick()) is not None:
            assert time.monotonic() < deadline
            time.sleep(wait)


def test_window_job_renders_a_take_in_small_steps(shot_scene):
    shot_scene.das.seed = 21
    ticker = Ticker(of_scene.only_take(shot_scene, resolve_settings(shot_scene)))
    ticker.run()
    ((take, error),) = ticker.ended
    assert error is None and len(take.frames) == 9 and not ticker.job.is_running
    fractions = [status.fraction for status in ticker.shown]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    assert sum(status.stage == "exporting" for status in ticker.shown) == 9  # it may stop after every frame
    assert any(status.preview for status in ticker.shown)


def test_inputs_of_a_take_are_read_and_hashed_off_the_main_thread(shot_scene, monkeypatch):
    threads = []

    def spy(*arguments, **keys):
        threads.append(threading.current_thread())
        return takes.take_request(*arguments, **keys)

    monkeypatch.setattr(recipes, "take_request", spy)
    bpy.ops.das.render_take()
    assert len(threads) == 1 and threads[0] is not threading.main_thread()


def test_cancelled_window_job_ends_and_restores_the_scene(shot_scene):
    shot_scene.frame_set(3)
    ticker = Ticker(of_scene.only_take(shot_scene, resolve_settings(shot_scene)))
    ticker.cancel_at = "frame 5"
    ticker.run()
    ((take, error),) = ticker.ended
    assert take is None and isinstance(error, JobCancelled) and shot_scene.frame_current == 3


def test_failed_window_job_hands_its_error_over(shot_scene, monkeypatch):
    monkeypatch.setenv("DAS_TIMEOUT_S", "1")
    shot_scene.das.server = "tcp://127.0.0.1:9"
    ticker = Ticker(of_scene.hello(shot_scene, resolve_settings(shot_scene)))
    ticker.run()
    assert isinstance(ticker.ended[0][1], ServerUnreachable)


@pytest.mark.any_blender
def test_stop_is_seen_in_the_middle_of_long_work():
    """Whoever drives a recipe is asked often, also while its thread works and asks nothing itself."""
    release, asked = threading.Event(), []

    def work(should_stop, say):
        release.wait(LIMIT_S)

    def should_stop() -> bool:
        asked.append(time.monotonic())
        return len(asked) > 20

    with pytest.raises(JobCancelled):
        try:
            drive.finish(drive.in_thread(work), should_stop=should_stop)
        finally:
            release.set()
    assert len(asked) == 21


def test_thread_of_a_closed_recipe_is_told_to_stop():
    seen = threading.Event()

    def work(should_stop, say):
        while not should_stop():
            time.sleep(0.01)
        seen.set()

    recipe = drive.in_thread(work)
    next(recipe)
    recipe.close()
    assert seen.wait(LIMIT_S)


def test_error_of_a_thread_comes_out_of_the_recipe():
    def work(should_stop, say):
        raise SceneError("no camera")

    with pytest.raises(SceneError, match="no camera"):
        drive.finish(drive.in_thread(work))


def test_everything_said_comes_before_the_result():
    said = []

    def work(should_stop, say):
        for index in range(100):
            say(drive.Status("test", str(index), index / 100))
        return "done"

    assert drive.finish(drive.in_thread(work), on_status=said.append) == "done"
    assert [status.text for status in said] == [str(index) for index in range(100)]
