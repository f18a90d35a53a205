# SPDX-License-Identifier: GPL-3.0-or-later
"""Clips to train on: rendered by a child Blender, with the exact tracking video, whole or not at all."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import bpy
import numpy as np
import pytest

from das_blender_addon import api, commands, errors
from das_blender_addon.errors import JobCancelled, SceneError, SettingsError, StorageError
from das_blender_addon.protocol.png import decode_png, encode_png
from das_blender_addon.take.clip_folder import LISTS
from das_blender_addon.ui import clip_operator as dataset_operator
from tests.support.scenes import add_camera, add_cube, key

ROOT = Path(__file__).resolve().parents[2]
SIZE = (64, 48)
NUM_FRAMES = 9
LIMIT_S = 280.0
VIDEO_TOLERANCE = 4.0  # mean difference of 255: H.264 halves the resolution of the colours; 1.8 was measured


def glowing(name, colour):
    """A material that shines in one colour, whatever the light."""
    material = bpy.data.materials.new(name)
    if material.node_tree is None:  # Blender 5 always has one
        material.use_nodes = True
    tree = material.node_tree
    emission = tree.nodes.new("ShaderNodeEmission")
    emission.inputs["Color"].default_value = (*colour, 1.0)
    tree.links.new(emission.outputs["Emission"], tree.nodes["Material Output"].inputs["Surface"])
    return material


@pytest.fixture
def clip_scene(scene):
    """A cube that shines red, turns and crosses the picture in nine frames; a camera that zooms."""
    scene.render.resolution_x, scene.render.resolution_y = SIZE
    camera = add_camera(scene)
    cube = add_cube(scene, size=2.0)
    cube.data.materials.append(glowing("Red", (1.0, 0.0, 0.0)))
    key(cube, "location", {1: -1.5, NUM_FRAMES: 1.5}, index=0)
    key(cube, "rotation_euler", {1: 0.0, NUM_FRAMES: 1.0}, index=2)
    key(camera.data, "lens", {1: 40.0, NUM_FRAMES: 60.0})
    scene.render.engine = "DAS"
    scene.das.prompt = "a red cube crosses the picture"
    scene.das.first_frame_samples = 1
    scene.das.server = "tcp://127.0.0.1:9"  # it needs none
    return scene


def frames_of(folder: Path) -> np.ndarray:
    return np.stack([decode_png(path.read_bytes()) for path in sorted(folder.glob("*.png"))])


def lists_of(folder: Path) -> list[list[str]]:
    return [(folder / name).read_text(encoding="utf-8").splitlines() for name in LISTS]


def first_pixels(movie: Path) -> np.ndarray:
    """The first frame of a video as Blender reads it, u8 [H,W,3]."""
    image = bpy.data.images.load(str(movie))
    image.colorspace_settings.name = "Non-Color"
    pixels = np.empty(image.size[0] * image.size[1] * image.channels, np.float32)
    image.pixels.foreach_get(pixels)
    picture = pixels.reshape(image.size[1], image.size[0], image.channels)[::-1, :, :3]
    bpy.data.images.remove(image)
    return (picture * 255).round().astype(np.uint8)


def test_lossless_clip_holds_the_render_and_the_exact_tracking_video(clip_scene, tmp_path):
    clip_scene.frame_set(4)
    before = sorted(item.name for items in (bpy.data.objects, bpy.data.scenes, bpy.data.images) for item in items)
    clip = api.export_dataset(clip_scene, tmp_path, name="red", lossless=True)

    assert lists_of(tmp_path) == [["a red cube crosses the picture"], ["videos/red"], ["tracking/red"]]
    tracking = api.export_tracking(clip_scene, size=SIZE)
    np.testing.assert_array_equal(frames_of(clip.tracking), tracking.video)
    video = frames_of(clip.video)
    assert video.shape == (NUM_FRAMES, SIZE[1], SIZE[0], 3)
    assert clip.first_frame.read_bytes() == (clip.video / "0001.png").read_bytes()
    # Every frame shows the cube where its tracking video has it.
    for picture, coverage in zip(video.astype(int), tracking.coverage, strict=True):
        red = picture[..., 0] - picture[..., 2] > 127
        assert (red & coverage).sum() / (red | coverage).sum() > 0.8
    assert (video[0] != video[-1]).any()
    # And the scene is as it was.
    assert clip_scene.frame_current == 4 and clip_scene.render.engine == "DAS"
    assert before == sorted(
        item.name for items in (bpy.data.objects, bpy.data.scenes, bpy.data.images) for item in items
    )


def test_clip_is_what_blender_itself_renders(clip_scene, tmp_path):
    clip = api.export_dataset(clip_scene, tmp_path, name="red", frames=[3], lossless=True)
    clip_scene.render.engine = "CYCLES"
    clip_scene.cycles.samples = 1
    clip_scene.frame_set(3)
    clip_scene.render.filepath = str(tmp_path / "own.png")
    clip_scene.render.image_settings.color_mode = "RGB"
    bpy.ops.render.render(write_still=True)
    own = decode_png((tmp_path / "own.png").read_bytes())
    np.testing.assert_array_equal(decode_png(clip.first_frame.read_bytes()), own)


@pytest.mark.any_blender
def test_second_clip_is_appended_as_videos_of_another_size(clip_scene, tmp_path):
    api.export_dataset(clip_scene, tmp_path, name="one", frames=[1, 2], lossless=True)
    events = []
    clip = api.export_dataset(
        clip_scene, tmp_path, name="two", caption="zwei Würfel", size=(80, 48), on_event=events.append
    )
    assert lists_of(tmp_path) == [
        ["a red cube crosses the picture", "zwei Würfel"],
        ["videos/one", "videos/two.mp4"],
        ["tracking/one", "tracking/two.mp4"],
    ]
    fractions = [event.fraction for event in events]
    assert fractions == sorted(fractions)
    assert {event.stage for event in events} >= {"tracking", "rendering", "encoding video"}
    tracking = api.export_tracking(clip_scene, size=(80, 48))
    first_frame = decode_png(clip.first_frame.read_bytes())
    for path, wanted in ((clip.video, first_frame), (clip.tracking, tracking.video[0])):
        movie = bpy.data.movieclips.load(str(path))
        assert (tuple(movie.size), movie.frame_duration, movie.fps) == ((80, 48), NUM_FRAMES, 24.0)
        bpy.data.movieclips.remove(movie)
        difference = np.abs(first_pixels(path).astype(int) - wanted.astype(int)).mean()
        assert difference < VIDEO_TOLERANCE


@pytest.mark.any_blender
def test_training_reads_the_exported_clip_exactly(clip_scene, tmp_path):
    """In an environment without torch the reader itself, in one with it the package that trains."""
    clip = api.export_dataset(clip_scene, tmp_path, name="red", caption=" a red cube ", lossless=True)
    read = subprocess.run(
        [
            os.environ.get("DAS_SERVER_PYTHON", sys.executable),
            "-c",
            "import sys, numpy as np\n"
            "from pathlib import Path\n"
            "from das_server.training.dataset import read_dataset, read_frames\n"
            "(clip,) = read_dataset(Path(sys.argv[1]))\n"
            f"size = {NUM_FRAMES}, {SIZE[1]}, {SIZE[0]}\n"
            "np.savez(sys.argv[2], prompt=clip.prompt, video=read_frames(clip.video, *size),"
            " tracking=read_frames(clip.tracking, *size))\n",
            str(tmp_path),
            str(tmp_path / "read.npz"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert read.returncode == 0, read.stderr
    arrays = np.load(tmp_path / "read.npz")
    assert str(arrays["prompt"]) == clip.caption == "a red cube"
    np.testing.assert_array_equal(arrays["video"], frames_of(clip.video))
    np.testing.assert_array_equal(arrays["tracking"], api.export_tracking(clip_scene).video)


@pytest.mark.parametrize(
    ("options", "error", "field", "words"),
    [
        ({"name": "a/b"}, SettingsError, "name", "use letters, digits"),
        ({"caption": "two\nlines"}, SettingsError, "caption", "a caption is one line"),
        ({"engine": "LUXCORE"}, SettingsError, "first_frame_engine", "use one of CYCLES"),
        ({"size": (65, 48), "lossless": False}, SettingsError, "size", "65×48 pixels .* needs even numbers"),
        ({"size": (0, 48)}, SettingsError, "size", "at least 1"),
        ({"frames": [3, 2]}, SettingsError, "frames", "increasing"),
    ],
)
def test_clip_that_cannot_be_is_refused_before_anything_is_done(clip_scene, tmp_path, options, error, field, words):
    with pytest.raises(error, match=words) as refused:
        api.export_dataset(clip_scene, tmp_path / "data", **{"lossless": True, **options})
    assert refused.value.field == field and not (tmp_path / "data").exists()


def test_clip_without_words_is_refused(clip_scene, tmp_path):
    clip_scene.das.prompt = ""
    with pytest.raises(SettingsError, match="no caption"):
        api.export_dataset(clip_scene, tmp_path / "data")


def test_name_that_is_taken_is_refused_before_anything_is_exported(clip_scene, tmp_path, monkeypatch):
    (tmp_path / "first_frames").mkdir()
    (tmp_path / "first_frames" / "red.png").write_bytes(encode_png(np.zeros((4, 4, 3), np.uint8)))
    walked = []
    monkeypatch.setattr("das_blender_addon.jobs.sources.walk_in_render", lambda *_: walked.append(1))
    with pytest.raises(SettingsError, match="has a clip 'red' already"):
        api.export_dataset(clip_scene, tmp_path, name="red", lossless=True)
    assert not walked


def test_scene_that_shows_nothing_leaves_no_clip_and_no_child(clip_scene, tmp_path):
    bpy.data.objects.remove(bpy.data.objects["Cube"])
    add_cube(clip_scene, location=(0, -50, 0))
    with pytest.raises(SceneError, match="No surface is in view"):
        api.export_dataset(clip_scene, tmp_path / "data", lossless=True)
    assert [path.name for path in (tmp_path / "data").iterdir()] == [".lock"]


@pytest.fixture
def scripts_run():
    """Blender's preference to run what a file brings, for one test."""
    bpy.context.preferences.filepaths.use_scripts_auto_execute = True
    yield
    bpy.context.preferences.filepaths.use_scripts_auto_execute = False


@pytest.mark.any_blender
def test_render_that_fails_says_why_and_lists_nothing(clip_scene, scripts_run, tmp_path):
    text = bpy.data.texts.new("breaks.py")
    text.write("import bpy, os\nos._exit(3)\n")
    text.use_module = True
    with pytest.raises(SceneError, match="could not be rendered with CYCLES: the child Blender ended with status 3"):
        api.export_dataset(clip_scene, tmp_path / "data", lossless=True)
    assert [path.name for path in (tmp_path / "data").iterdir()] == [".lock"]


def test_folder_that_cannot_be_written_to_is_told_first(clip_scene, tmp_path):
    (tmp_path / "data").write_text("a file")
    with pytest.raises(StorageError, match="cannot be written to"):
        api.export_dataset(clip_scene, tmp_path / "data", lossless=True)


# ── In a window, and from the command line ──────────────────────────────────────────────────────────────────────────


def test_operator_exports_the_shot_with_its_own_name(clip_scene, tmp_path):
    clip_scene.frame_end = 2
    bpy.ops.das.export_dataset(directory=str(tmp_path), lossless=True)
    assert lists_of(tmp_path)[1] == ["videos/untitled-Scene_0001-0002"]
    session = bpy.context.window_manager.das
    assert session.job_state == "DONE" and "2 frames" in session.job_line
    with pytest.raises(RuntimeError, match="already"):
        bpy.ops.das.export_dataset(directory=str(tmp_path), lossless=True)
    assert session.job_state == "FAILED"


def test_operator_says_why_it_cannot_run(scene, tmp_path):
    with pytest.raises(RuntimeError, match="has no camera"):
        bpy.ops.das.export_dataset(directory=str(tmp_path))
    add_camera(scene)
    with pytest.raises(RuntimeError, match="No folder was chosen"):
        bpy.ops.das.export_dataset()


def test_menu_has_the_export(addon):
    assert dataset_operator.draw_entry in bpy.types.TOPBAR_MT_file_export._dyn_ui_initialize()


@pytest.mark.any_blender
def test_command_exports_and_ends_with_the_code_of_its_error(clip_scene, tmp_path, capsys):
    words = ["dataset", "--output", str(tmp_path), "--name", "red", "--caption", "red", "--lossless", "--json"]
    words += ["--frames", "1-5x2", "--size", "48x48"]
    assert commands.main(words) == 0
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    done = said[-1]
    assert (done["event"], done["clip"], done["frames"], done["size"]) == ("done", "red", [1, 3, 5], [48, 48])
    np.testing.assert_array_equal(
        frames_of(Path(done["tracking"])), api.export_tracking(clip_scene, frames=[1, 3, 5], size=(48, 48)).video
    )
    assert commands.main(words) == errors.SettingsError.exit_code
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert (said[-1]["event"], said[-1]["code"]) == ("error", "settings")
    assert lists_of(tmp_path)[0] == ["red"]
    assert commands.main(["dataset"]) == 2


@pytest.mark.any_blender
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_export_that_is_killed_lists_nothing(clip_scene, tmp_path, number):
    api.export_dataset(clip_scene, tmp_path / "data", name="one", frames=[1], lossless=True)
    file = tmp_path / "clip.blend"
    bpy.ops.wm.save_as_mainfile(filepath=str(file))
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "das_blender_addon", "dataset", str(file), "--output", str(tmp_path / "data")),
            *("--name", "two", "--lossless", "--json", "--first-frame-samples", "4000"),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stdout:
        if '"stage": "rendering"' in line:
            process.send_signal(number)
            break
    _, errors_written = process.communicate(timeout=LIMIT_S)
    expected = JobCancelled.exit_code if number == signal.SIGTERM else -number
    assert process.returncode == expected, errors_written
    assert lists_of(tmp_path / "data")[1:] == [["videos/one"], ["tracking/one"]]
    assert sorted(path.name for path in (tmp_path / "data" / "videos").iterdir()) == ["one"]
