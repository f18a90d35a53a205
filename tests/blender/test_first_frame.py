# SPDX-License-Identifier: GPL-3.0-or-later
"""The first frame: rendered by a child Blender with the overscanned camera, kept while it is fresh.

One file, though long: every test drives the same small shot through one function, `ensure`.
"""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import bpy
import numpy as np
import pytest

from das_blender_addon import api
from das_blender_addon.child import warm
from das_blender_addon.child.warm import end_child
from das_blender_addon.errors import FirstFrameError, JobCancelled, SettingsError
from das_blender_addon.jobs.sources import owner_of, source_of
from das_blender_addon.protocol.png import decode_png, encode_png
from das_blender_addon.scene.colours import kept_look
from das_blender_addon.shot.first_frame import FirstFrameWish, render_digest
from das_blender_addon.shot.pictures import first_frame_path, first_frame_state, keep_rendered
from das_blender_addon.take import drive, picture_recipes
from das_blender_addon.take.cache import TakeSettings, take_request
from tests.support.capabilities import capabilities_of, model_capability
from tests.support.children import child_blenders, kill_child_blenders, wait_until_gone
from tests.support.scenes import add_camera, add_cube, key, link

MODEL_SIZE = (96, 64)
CENTRE_TOLERANCE = 0.6  # pixels: a marker's centroid in an 8-bit picture of some samples
SAMPLES = 4
ENDLESS = 60_000  # samples, more than any test waits for
FRAME = 3  # the first of `shot_of`
PAINTED = encode_png(np.full((64, 96, 3), 90, np.uint8))
LIMIT_S = 120.0
ROOT = Path(__file__).resolve().parents[2]
HALF_LIT = 188  # sRGB of half the light: the edge of a shape that the render's filter has softened


def glowing(colour):
    """A material that shines in one colour, whatever the light."""
    material = bpy.data.materials.new("Glow")
    if material.node_tree is None:  # Blender 5 always has one
        material.use_nodes = True
    tree = material.node_tree
    emission = tree.nodes.new("ShaderNodeEmission")
    emission.inputs["Color"].default_value = (*colour, 1.0)
    tree.links.new(emission.outputs["Emission"], tree.nodes["Material Output"].inputs["Surface"])
    return material


@pytest.fixture
def shot_scene(blank_scene):
    """Three glowing cubes in front of a shifted, animated camera; a render twice as wide as the model's picture."""
    scene = blank_scene
    scene.render.resolution_x, scene.render.resolution_y = 192, 64
    scene.view_settings.view_transform = "Standard"
    scene.render.dither_intensity = 0.0
    camera = add_camera(scene)
    camera.data.shift_x, camera.data.shift_y = 0.05, -0.08
    key(camera, "location", {1: (-3, -12, 1), 5: (0, -8, 0)})
    key(camera.data, "lens", {1: 30.0, 5: 50.0})
    for colour, place in (((1, 0, 0), (-2, 0, 0)), ((0, 1, 0), (0, 1, 1)), ((0, 0, 1), (2, 0, -0.5))):
        cube = add_cube(scene, size=0.4, location=place)
        cube.data.materials.append(glowing(colour))
    return scene


def shot_of(scene, frames=(3, 4, 5), keep_detail=False):
    capabilities = capabilities_of(model_capability(sizes=[list(MODEL_SIZE)]))
    return api.export_shot(scene, api.plan_shot(scene, capabilities, frames=frames, keep_detail=keep_detail))


def ensure(scene, folder, shot=None, samples=SAMPLES, **options):
    shot = shot or shot_of(scene)
    return api.ensure_first_frame(scene, shot, folder=folder, samples=samples, **options)


def first_frame_of(scene, shot, folder) -> drive.Recipe:
    """The recipe that `ensure` drives to its end."""
    wish = FirstFrameWish(
        folder=folder,
        path="",
        image="",
        engine="CYCLES",
        samples=SAMPLES,
        look=kept_look(scene),
        layer_apart="",
        owner=owner_of(scene, folder),
        file="",
        blender=bpy.app.version_string,
    )
    return picture_recipes.first_frame(wish, shot, source_of(scene, scene.view_layers[0].name), lambda *_: None)


@pytest.mark.parametrize(
    ("keep_detail", "size", "kind"),
    [(False, MODEL_SIZE, "PERSP"), (True, (192, 128), "PERSP"), (False, MODEL_SIZE, "ORTHO")],
)
def test_first_frame_shows_every_marker_where_the_overscanned_camera_projects_it(
    shot_scene, tmp_path, keep_detail, size, kind
):
    shot_scene.camera.data.type, shot_scene.camera.data.ortho_scale = kind, 7.0
    shot = shot_of(shot_scene, keep_detail=keep_detail)
    before = sorted(item.name for item in (*bpy.data.objects, *bpy.data.cameras, *bpy.data.images))
    picture = decode_png(ensure(shot_scene, tmp_path, shot).png).astype(float)

    width, height = size
    assert picture.shape == (height, width, 3) and size == shot.views[0].size
    cameras = shot.cameras
    for channel, place in enumerate([(-2, 0, 0), (0, 1, 1), (2, 0, -0.5)]):
        weight = picture[..., channel] * (picture[..., channel] > 40)
        rows, columns = np.mgrid[:height, :width] + 0.5
        seen = np.array([(columns * weight).sum(), (rows * weight).sum()]) / weight.sum()
        local = cameras.camera_from_world[0] @ [*place, 1.0]
        depth = -local[2] if kind == "PERSP" else 1.0
        wanted = cameras.principal_px[0] + cameras.focal_px[0] * local[:2] * (1, -1) / depth
        np.testing.assert_allclose(seen, wanted, atol=CENTRE_TOLERANCE)
    assert sorted(item.name for item in (*bpy.data.objects, *bpy.data.cameras, *bpy.data.images)) == before
    # The tracking video covers the same pixels as the picture.
    every = width // MODEL_SIZE[0]
    coverage = shot.tracking.coverage[0].repeat(every, axis=0).repeat(every, axis=1)
    lit = picture.max(axis=2) > HALF_LIT
    assert (coverage & lit).sum() / (coverage | lit).sum() > 0.7


def test_first_frame_is_the_same_bytes_every_time(shot_scene, tmp_path):
    first = ensure(shot_scene, tmp_path / "a").png
    assert ensure(shot_scene, tmp_path / "b").png == first


@pytest.mark.any_blender
def test_first_frame_is_kept_while_fresh_and_rendered_anew_when_stale(shot_scene, tmp_path):
    shot = shot_of(shot_scene)
    old = ensure(shot_scene, tmp_path, shot)
    assert first_frame_state(tmp_path, FRAME, render_digest(shot.views[0], "CYCLES", SAMPLES)) == "fresh"
    end_child()
    before = set(child_blenders())  # of tests that cancelled theirs
    again = ensure(shot_scene, tmp_path, shot)
    assert set(child_blenders()) <= before and again.png == old.png
    assert "rendered less than a minute ago" in again.notes[0]

    shot_scene.objects["Cube"].location.z += 1
    moved = shot_of(shot_scene)
    assert first_frame_state(tmp_path, FRAME, render_digest(moved.views[0], "CYCLES", SAMPLES)) == "stale"
    assert ensure(shot_scene, tmp_path, moved).png != old.png
    assert first_frame_state(tmp_path, FRAME, render_digest(moved.views[0], "CYCLES", SAMPLES)) == "fresh"
    assert ensure(shot_scene, tmp_path, shot).png == old.png, "the old view's picture is still there"


def test_first_frame_is_rendered_anew_when_a_material_changed(shot_scene, tmp_path):
    shot = shot_of(shot_scene)
    old = ensure(shot_scene, tmp_path, shot)
    tree = bpy.data.materials["Glow"].node_tree
    tree.nodes["Emission"].inputs["Color"].default_value = (1, 1, 1, 1)
    assert ensure(shot_scene, tmp_path).png != old.png


def test_new_first_frame_is_asked_for(shot_scene, tmp_path):
    shot = shot_of(shot_scene)
    old = ensure(shot_scene, tmp_path, shot)
    now = time.time()
    os.utime(old.path, (now - 7300, now - 7300))
    assert "rendered 2 hours ago" in ensure(shot_scene, tmp_path, shot).notes[0]
    assert ensure(shot_scene, tmp_path, shot, not_before=now - 60).png == old.png
    assert old.path.stat().st_mtime > now - 60
    old.path.write_bytes(PAINTED)
    assert ensure(shot_scene, tmp_path, shot, not_before=time.time()).png == PAINTED


def test_first_frame_that_the_user_painted_over_wins(shot_scene, tmp_path):
    shot = shot_of(shot_scene)
    path = ensure(shot_scene, tmp_path, shot).path
    path.write_bytes(PAINTED)
    used = ensure(shot_scene, tmp_path, shot)
    assert (used.png, used.origin, used.notes) == (PAINTED, "painted", ())
    shot_scene.objects["Cube"].location.z += 1
    moved = shot_of(shot_scene)
    assert first_frame_state(tmp_path, FRAME, "anything") == "user"
    used = ensure(shot_scene, tmp_path, moved)
    assert used.png == PAINTED and "painted for another camera or other geometry" in used.notes[0]
    assert first_frame_path(tmp_path, FRAME) == path


@pytest.mark.any_blender
def test_painted_first_frame_is_put_aside_by_a_new_render(shot_scene, tmp_path):
    shot = shot_of(shot_scene)
    first = ensure(shot_scene, tmp_path, shot)
    for number in (1, 2):
        first.path.write_bytes(PAINTED)
        assert ensure(shot_scene, tmp_path, shot, force=True).png == first.png
        assert first.path.with_name(f"{first.path.stem}-kept-{number}.png").read_bytes() == PAINTED
        assert first_frame_state(tmp_path, FRAME) == "rendered" and first_frame_path(tmp_path, FRAME) == first.path


def test_painted_first_frame_outlives_a_render_that_fails(shot_scene, tmp_path):
    shot = shot_of(shot_scene)
    path = ensure(shot_scene, tmp_path, shot).path
    path.write_bytes(PAINTED)
    with pytest.raises(FirstFrameError):
        ensure(shot_scene, tmp_path, shot, force=True, samples=ENDLESS, progress=lambda *_: kill_child_blenders())
    assert ensure(shot_scene, tmp_path, shot).png == PAINTED and path.read_bytes() == PAINTED


@pytest.mark.any_blender
def test_first_frame_painted_for_another_frame_is_not_used_and_a_note_says_so(shot_scene, tmp_path):
    path = ensure(shot_scene, tmp_path, shot_of(shot_scene)).path
    path.write_bytes(PAINTED)
    later = ensure(shot_scene, tmp_path, shot_of(shot_scene, frames=(4, 5)))
    assert later.png != PAINTED and later.origin == "rendered"
    assert later.notes == (
        f"The first frame {path} was painted for frame 3; this window begins at frame 4 and does not use it.",
    )
    assert ensure(shot_scene, tmp_path, shot_of(shot_scene)).png == PAINTED


@pytest.mark.any_blender
def test_first_frames_of_two_windows_made_at_once_are_not_mixed_up(shot_scene, tmp_path):
    """Both are rendered before either is sent, as by two processes of a farm with one cache."""
    alone = {}
    for frames in ((3, 4), (5, 6)):
        alone[frames] = ensure(shot_scene, tmp_path / "alone" / str(frames[0]), shot_of(shot_scene, frames)).png
    shots = {frames: shot_of(shot_scene, frames) for frames in alone}
    renders = {frames: first_frame_of(shot_scene, shot, tmp_path / "one") for frames, shot in shots.items()}
    warm.end_child()
    before = set(child_blenders())  # of tests that cancelled theirs
    pictures, at_once = {}, 0
    while len(pictures) < len(renders):
        for frames in renders.keys() - pictures.keys():
            try:
                drive.advance(renders[frames], lambda: False, lambda _status: None)
            except StopIteration as end:
                pictures[frames] = end.value
        at_once = max(at_once, len(set(child_blenders()) - before))
        time.sleep(drive.TICK_S)
    assert at_once == 2
    for frames, shot in shots.items():
        request = take_request(shot, pictures[frames], TakeSettings(), tmp_path / "one")
        assert request.job.first_frame_png == alone[frames]


@pytest.mark.any_blender
def test_first_frame_that_another_process_renders_is_waited_for(shot_scene, tmp_path):
    shot = shot_of(shot_scene)
    alone = ensure(shot_scene, tmp_path / "alone", shot)
    digest = render_digest(shot.views[0], "CYCLES", SAMPLES)
    other = other_process(tmp_path, f"first-{FRAME}-{digest[:16]}")
    warm.end_child()
    before = set(child_blenders())  # of tests that cancelled theirs
    stops = iter([False] * 10)
    with pytest.raises(JobCancelled):
        ensure(shot_scene, tmp_path, shot, should_stop=lambda: next(stops, True))
    assert set(child_blenders()) <= before, "nothing is rendered here meanwhile"
    waiting = first_frame_of(shot_scene, shot, tmp_path)
    for _ in range(10):
        drive.advance(waiting, lambda: False, lambda _status: None)
        time.sleep(drive.TICK_S)
    kept = keep_rendered(tmp_path, FRAME, digest, alone.png, {})
    assert drive.finish(waiting).path == kept.path and other.poll() is None
    kept.path.unlink()
    waiting = first_frame_of(shot_scene, shot, tmp_path)
    for _ in range(10):
        drive.advance(waiting, lambda: False, lambda _status: None)
        time.sleep(drive.TICK_S)
    other.kill()
    other.wait()
    assert drive.finish(waiting).png == alone.png, "the other gave up, and it is rendered here"
    assert not list((tmp_path / "leases").iterdir())


def other_process(folder, work: str) -> subprocess.Popen:
    """A process that holds the lease on ``work``."""
    script = f"""
        import sys
        from das_blender_addon.client.leases import Requester
        requester = Requester({str(folder / "leases")!r}, {work!r}).enter()
        requester.lead()
        print("leads", flush=True)
        sys.stdin.read()
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "leads\n"
    return process


def test_first_frame_started_twice_here_waits_for_nobody(shot_scene, tmp_path):
    shot = shot_of(shot_scene)
    first, second = (first_frame_of(shot_scene, shot, tmp_path) for _ in range(2))
    drive.advance(first, lambda: False, lambda _status: None)
    assert drive.finish(second).png == drive.finish(first).png


@pytest.mark.any_blender
def test_first_frame_is_sent_as_it_was_read(shot_scene, tmp_path):
    shot = shot_of(shot_scene)
    picture = ensure(shot_scene, tmp_path, shot)
    picture.path.write_bytes(PAINTED)
    assert take_request(shot, picture, TakeSettings(), tmp_path).job.first_frame_png == picture.png != PAINTED


@pytest.mark.any_blender
def test_painted_first_frame_of_an_earlier_version_counts_for_its_frame(shot_scene, tmp_path):
    """`first_frame.png` in the shot's folder: with a record of its frame, or without, as the old code left it."""
    earlier = tmp_path / "first_frame.png"
    earlier.write_bytes(PAINTED)
    shot_scene.frame_start = 3
    assert ensure(shot_scene, tmp_path).png == PAINTED
    (tmp_path / "first_frame.json").write_text('{"maker": "user", "digest": "user"}')
    assert ensure(shot_scene, tmp_path).png == PAINTED
    assert "painted for frame 3" in ensure(shot_scene, tmp_path, shot_of(shot_scene, (4, 5))).notes[0]
    (tmp_path / "first_frame.json").write_text('{"maker": "das", "frame": 4, "sha256": "not this one"}')
    assert ensure(shot_scene, tmp_path).png != PAINTED
    assert ensure(shot_scene, tmp_path, shot_of(shot_scene, (4, 5))).png == PAINTED
    assert ensure(shot_scene, tmp_path, shot_of(shot_scene, (4, 5)), force=True).png != PAINTED
    assert (tmp_path / "first_frame-kept-1.png").read_bytes() == PAINTED


def test_first_frame_put_into_its_slot_is_used(shot_scene, tmp_path):
    slot = first_frame_path(tmp_path, FRAME)
    slot.parent.mkdir()
    slot.write_bytes(PAINTED)
    used = ensure(shot_scene, tmp_path)
    assert (used.path, used.png, used.origin) == (slot, PAINTED, "painted")


def test_first_frame_of_the_users_own_is_taken_from_its_path(shot_scene, tmp_path):
    own = tmp_path / "painting.png"
    own.write_bytes(encode_png(np.zeros((64, 96, 3), np.uint8)))
    used = ensure(shot_scene, tmp_path / "cache", path=own)
    assert (used.path, used.png, used.origin) == (own, own.read_bytes(), "given")
    assert first_frame_state(tmp_path / "cache", FRAME) == "missing"


def test_first_frame_that_is_no_picture_is_refused(shot_scene, tmp_path):
    slot = first_frame_path(tmp_path, FRAME)
    slot.parent.mkdir()
    slot.write_bytes(b"no picture")
    with pytest.raises(FirstFrameError, match="cannot be read"):
        ensure(shot_scene, tmp_path)
    with pytest.raises(FirstFrameError, match="cannot be read"):
        ensure(shot_scene, tmp_path, path=slot)


def test_first_frame_that_is_not_there_is_refused(shot_scene, tmp_path):
    with pytest.raises(FirstFrameError, match="nowhere.png"):
        ensure(shot_scene, tmp_path, path=tmp_path / "nowhere.png")


@pytest.mark.any_blender
def test_empty_first_frame_is_rendered_anew(shot_scene, tmp_path):
    path = ensure(shot_scene, tmp_path).path
    path.write_bytes(b"")
    assert first_frame_state(tmp_path, FRAME) == "missing"
    assert decode_png(ensure(shot_scene, tmp_path).png).shape == (64, 96, 3) and path.stat().st_size


def test_first_frame_keeps_the_scenes_look_and_leaves_out_what_comes_later(shot_scene, tmp_path):
    plain = decode_png(ensure(shot_scene, tmp_path / "plain").png)
    shot_scene.render.use_border = True
    shot_scene.render.border_max_x = 0.5
    shot_scene.render.use_stamp = True
    shot_scene.render.engine = "BLENDER_WORKBENCH"
    shot_scene.render.resolution_percentage = 100
    np.testing.assert_array_equal(decode_png(ensure(shot_scene, tmp_path / "border").png), plain)
    shot_scene.view_settings.exposure = 1.0
    shot_scene.view_settings.view_transform = "AgX"
    assert (decode_png(ensure(shot_scene, tmp_path / "look").png) != plain).any()


def test_first_frame_reports_progress_and_stops_when_asked(shot_scene, tmp_path):
    seen = []
    shot = shot_of(shot_scene)
    ensure(shot_scene, tmp_path, shot, samples=8, progress=lambda *counts: seen.append(counts))
    assert seen and seen[-1] == (8, 8)

    seen.clear()
    children = child_blenders()
    with pytest.raises(JobCancelled):
        ensure(
            *(shot_scene, tmp_path, shot),
            samples=ENDLESS,
            progress=lambda *counts: seen.append(counts),
            should_stop=lambda: bool(seen),
        )
    assert children and wait_until_gone(children, LIMIT_S)
    assert first_frame_state(tmp_path, FRAME) == "rendered"


@pytest.mark.any_blender
def test_render_of_a_first_frame_does_not_outlive_its_blender(shot_scene, tmp_path):
    file = tmp_path / "scene.blend"
    bpy.ops.wm.save_as_mainfile(filepath=str(file))
    script = f"""
        import os, signal, sys
        sys.path.insert(0, {str(ROOT)!r})
        import bpy
        bpy.ops.wm.open_mainfile(filepath={str(file)!r})
        from tests.blender.test_first_frame import ENDLESS, ensure
        from tests.support.children import child_blenders
        def killed(*_):
            print("CHILD", *child_blenders(), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        ensure(bpy.context.scene, {str(tmp_path / "shot")!r}, samples=ENDLESS, progress=killed)
    """
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**os.environ, "TMPDIR": str(scratch)},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    children = [int(pid) for pid in done.stdout.split("CHILD ")[1].split()]
    assert len(children) == 1 and wait_until_gone(children, LIMIT_S), "the child renders on"
    assert not list(scratch.glob("das-copy-*/pictures_*/*.png")), "the child rendered to its end"


@pytest.mark.any_blender
def test_first_frame_that_fails_says_why(shot_scene, tmp_path):
    with pytest.raises(FirstFrameError, match="could not be rendered with CYCLES: the child Blender was killed"):
        ensure(shot_scene, tmp_path, samples=ENDLESS, progress=lambda *_: kill_child_blenders())
    assert first_frame_state(tmp_path, FRAME) == "missing"


def test_first_frame_of_an_unknown_engine_is_refused(shot_scene, tmp_path):
    with pytest.raises(SettingsError, match="'LUXCORE'; use one of CYCLES"):
        ensure(shot_scene, tmp_path, engine="LUXCORE")


def test_first_frame_is_rendered_from_inside_a_render(shot_scene, tmp_path):
    shot = shot_of(shot_scene)
    paths = []

    class DAS_TEST_first_frame(bpy.types.RenderEngine):
        bl_idname = "DAS_TEST_FIRST_FRAME"
        bl_label = "Test"

        def render(self, depsgraph):
            paths.append(ensure(depsgraph.scene, tmp_path, shot))

    bpy.utils.register_class(DAS_TEST_first_frame)
    try:
        shot_scene.render.engine = "DAS_TEST_FIRST_FRAME"
        bpy.ops.render.render()
    finally:
        bpy.utils.unregister_class(DAS_TEST_first_frame)
    assert decode_png(paths[0].png).max() > 200


def test_first_frame_follows_a_camera_bound_to_a_marker(shot_scene, tmp_path):
    bound = add_camera(shot_scene, "Bound", location=(0, -6, 3))
    link(shot_scene, "Unrelated")
    shot_scene.timeline_markers.new("cut", frame=3).camera = bound
    shot = shot_of(shot_scene)
    picture = decode_png(ensure(shot_scene, tmp_path, shot).png)
    coverage = shot.tracking.coverage[0]
    lit = picture.max(axis=2) > HALF_LIT
    assert (coverage & lit).sum() / (coverage | lit).sum() > 0.7
