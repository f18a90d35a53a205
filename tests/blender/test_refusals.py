# SPDX-License-Identifier: GPL-3.0-or-later
"""What cannot work is refused by the commands in one sentence, with the status of its class, before anything is made;
and what only looks odd works.

One file, though long: one table of what is refused, command by command.
"""

import os
import subprocess
import sys
from pathlib import Path

import bpy
import numpy as np
import pytest

from das_blender_addon import api, commands, compat, errors
from das_blender_addon.jobs import of_scene
from das_blender_addon.protocol.png import decode_png, encode_png
from das_blender_addon.shot.scene_shot import LAST_FRAME as LAST_OF_BLENDER
from das_blender_addon.shot.scene_shot import MAX_FRAMES
from das_blender_addon.shot.settings import resolve_settings
from das_blender_addon.shot.shot_folder import check_cache, shot_folder
from tests.blender.test_commands import LIMIT_S, lines_of, pictures
from tests.support.scenes import add_cube, link

NOBODY = ("--server", "127.0.0.1:9", "--timeout", "1")
"""A server that is not there: whoever gets as far as asking it fails with another status."""


def refused(error: type[errors.DasError], capsys, *words: str) -> str:
    """Run the command ``words``, which must fail with ``error``; returns its sentence."""
    status = commands.main([*words, "--json"])
    shown = capsys.readouterr()
    said = lines_of(shown.out)
    assert said and said[-1]["event"] == "error", shown
    assert status == said[-1]["exit_code"] == error.exit_code and said[-1]["code"] == error.code, said[-1]
    assert not [line for line in said if line["event"] == "progress"], said
    assert "Traceback" not in shown.err
    return said[-1]["message"]


def png(path: Path, pixels: np.ndarray) -> Path:
    path.write_bytes(encode_png(pixels))
    return path


# ── Frames ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("frames", "error", "words"),
    [
        ("1-1000000000", errors.SettingsError, "There is no frame 1000000000"),
        ("1-999999999999", errors.SettingsError, "from 0 to 1048574"),
        ("99999999999999999999", errors.SettingsError, "There is no frame 99999999999999999999"),
        ("9" * 5000, errors.SettingsError, "cannot be read"),
        (f"1-{LAST_OF_BLENDER}", errors.ShotTooLong, f"a shot has {MAX_FRAMES} at most"),
        ("-5-3", errors.SettingsError, "There is no frame -5"),
        ("١-٩", errors.SettingsError, "cannot be read"),
        ("1-9x99999999999999999999", None, ""),
        ("9-1", errors.SettingsError, "the end comes after the start"),
        ("1-9x0", errors.SettingsError, "the step is 1 or more"),
        (" ", errors.SettingsError, "cannot be read"),
    ],
)
def test_frames_that_blender_does_not_have_are_refused(shot_scene, capsys, tmp_path, frames, error, words):
    command = ("preview", f"--frames={frames}", "--cache", str(tmp_path))
    if error is None:
        assert commands.main(list(command)) == 0
    else:
        assert words in refused(error, capsys, *command)


def test_scenes_range_has_the_bounds_of_a_stated_one(shot_scene, capsys):
    shot_scene.frame_end = LAST_OF_BLENDER
    assert "1048574" in refused(errors.ShotTooLong, capsys, "preview")
    shot_scene.das.use_shot_range = True
    shot_scene.das.shot_start, shot_scene.das.shot_end = 9, 3
    assert "9 to 3" in refused(errors.SettingsError, capsys, "preview")


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--seed", "٣"), ("--seed", "1_000"), ("--seed", "9" * 5000), ("--steps", "-1"), ("--guidance", "nan"),
        ("--guidance", "٣.5"), ("--timeout", "inf"), ("--timeout", "1_0"), ("--size", "٧٢٠x٤٨٠"),
        ("--size", "9" * 5000 + "x480"), ("--size", "720x99999999999"), ("--size", "-8x8"), ("--compose", "maybe"),
        ("--prompt", "a \udcff b"), ("--negative-prompt", "\udcff"), ("--model", "\udcff"), ("--server", "tcp://\udcff:1"),
        ("--prompt", "x" * 100_001),
    ],
)  # fmt: skip
def test_value_that_cannot_be_used_is_refused_at_once(shot_scene, capsys, flag, value):
    assert len(refused(errors.SettingsError, capsys, "render", f"{flag}={value}")) < 300


def test_part_of_the_windows_is_not_made_anew(shot_scene, capsys):
    said = refused(errors.SettingsError, capsys, "render", "--windows", "1/2", "--anew")
    assert "--anew" in said and "--windows" in said


def test_steps_that_the_model_does_not_take_are_told_before_any_work(shot_scene, capsys, tmp_path):
    status = commands.main(["render", "--steps", "7", "--cache", str(tmp_path), "--json"])
    said = lines_of(capsys.readouterr().out)
    assert status == errors.SettingsError.exit_code and "does not take 7 steps" in said[-1]["message"]
    assert {line["stage"] for line in said if line["event"] == "progress"} == {"connecting"}


# ── The scene ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("flat", ["the camera", "its parent"])
def test_camera_that_is_scaled_to_nothing_is_named(shot_scene, capsys, flat):
    camera = shot_scene.camera
    if flat == "its parent":
        camera.parent = link(shot_scene, "Rig")
        camera.parent.scale = (1.0, 0.0, 1.0)
    else:
        camera.scale = (0.0, 0.0, 0.0)
    bpy.context.view_layer.update()
    status = commands.main(["preview"])
    shown = capsys.readouterr().err
    assert status == errors.SceneError.exit_code and "The camera 'Camera' looks nowhere at frame 1" in shown
    assert ("its parent 'Rig' is scaled to 0" if camera.parent else "it is scaled to 0") in shown


def test_stereoscopy_is_refused_by_the_command_as_by_the_engine(shot_scene, capsys):
    shot_scene.render.use_multiview = True
    assert "one view only" in refused(errors.SceneError, capsys, "render", *NOBODY)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_points_that_are_no_numbers_are_absent(shot_scene, tmp_path):
    cache = ("--cache", str(tmp_path / "cache"))
    assert commands.main(["preview", *cache, "--output", str(tmp_path / "before")]) == 0
    broken = add_cube(shot_scene, "Broken", location=(0.0, 0.0, 2.0)).data
    broken.vertices[0].co = (float("nan"), 0.0, 0.0)
    broken.vertices[1].co = (float("inf"), 0.0, 0.0)
    broken.vertices[2].co = (3e38, 3e38, 3e38)
    broken.vertices[7].co = (0.0, 1e30, 0.0)
    assert commands.main(["preview", *cache, "--output", str(tmp_path / "after")]) == 0
    before, after = pictures(tmp_path / "before"), pictures(tmp_path / "after")
    for name, picture in before.items():
        np.testing.assert_array_equal(picture, after[name])


@pytest.fixture
def linking_file(shot_scene, tmp_path):
    """A file whose active scene is another file's; one of its own has the same name, and is empty."""
    shot_scene.das.server = ""
    library = tmp_path / "library.blend"
    bpy.ops.wm.save_as_mainfile(filepath=str(library))
    name = shot_scene.name
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    bpy.context.scene.name = name
    with bpy.data.libraries.load(str(library), link=True) as (_, wanted):
        wanted.scenes = [name]
    bpy.context.window.scene = next(scene for scene in bpy.data.scenes if scene.library is not None)
    file = tmp_path / "linking.blend"
    bpy.ops.wm.save_as_mainfile(filepath=str(file))
    return file, library


def test_linked_scene_as_the_active_one_gives_the_frames_of_its_file(linking_file, server, tmp_path, capsys):
    file, library = linking_file
    for source, output in ((library, "own"), (file, "linked")):
        words = ["render", str(source), "--server", server.address, "--cache", str(tmp_path / output)]
        words += ["--frames", "3-5"]
        assert commands.main([*words, "--output", str(tmp_path / "out" / output)]) == 0, capsys.readouterr()
    own, linked = (pictures(tmp_path / "out" / output) for output in ("own", "linked"))
    assert list(own) == list(linked) == ["0003.png", "0004.png", "0005.png"]
    for name, picture in own.items():
        np.testing.assert_array_equal(picture, linked[name])


# ── Scripts ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def driven_file(shot_scene, tmp_path):
    """A rig whose cube goes where a Python driver says."""
    cube = bpy.data.objects["Cube"]
    cube.driver_add("location", 2).driver.expression = "bpy.data.objects['Cube'].pass_index + len([frame])"
    file = tmp_path / "rig.blend"
    shot_scene.das.server = ""
    bpy.ops.wm.save_as_mainfile(filepath=str(file))
    return file


def test_python_driver_that_may_not_run_is_named(driven_file, server, tmp_path, capsys):
    words = ("render", str(driven_file), "--server", server.address, "--cache", str(tmp_path))
    status = commands.main([*words, "--disable-autoexec"])
    said = capsys.readouterr().err
    assert status == errors.ScriptsDisabled.exit_code == 14
    assert "The Python driver of 'Cube' (location" in said and "--enable-autoexec" in said
    assert commands.main([*words]) == status


@pytest.mark.parametrize("flag", ["-y", "--enable-autoexec"])
def test_python_drivers_run_where_they_are_allowed(driven_file, tmp_path, capsys, flag):
    assert commands.main(["preview", str(driven_file), flag, "--cache", str(tmp_path)]) == 0
    assert bpy.data.objects["Cube"].evaluated_get(bpy.context.evaluated_depsgraph_get()).location.z == 1.0


# ── What a file lacks ───────────────────────────────────────────────────────────────────────────────────────────────


def test_strict_fails_where_blender_only_warns(linking_file, capsys, tmp_path):
    file, library = linking_file
    library.rename(tmp_path / "elsewhere.blend")
    said = refused(errors.SceneError, capsys, "doctor", str(file), "--strict")
    assert "library.blend' is missing" in said and "linked data-block" in said


def test_strict_fails_for_a_missing_image(shot_scene, tmp_path, capsys):
    image = bpy.data.images.new("Gone", 8, 8)
    image.filepath_raw, image.file_format = str(tmp_path / "gone.png"), "PNG"
    image.save()
    image.source, image.use_fake_user = "FILE", True
    shot_scene.das.server = ""
    file = str(tmp_path / "shot.blend")
    bpy.ops.wm.save_as_mainfile(filepath=file)
    assert commands.main(["preview", file, "--strict", "--frames", "1", "--cache", str(tmp_path)]) == 0
    (tmp_path / "gone.png").unlink()
    assert "gone.png" in refused(errors.SceneError, capsys, "preview", file, "--strict")
    assert commands.main(["preview", file, "--frames", "1", "--cache", str(tmp_path)]) == 0


# ── Where results go ────────────────────────────────────────────────────────────────────────────────────────────────


def test_output_of_two_slashes_is_beside_the_file(shot_file, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    words = ["preview", str(shot_file), "--frames", "2", "--cache", str(tmp_path / "cache")]
    assert commands.main([*words, "--output", "//frames"]) == 0
    assert list(pictures(tmp_path / "frames")) == ["0002.png"]
    assert commands.main([*words, "--output", "here"]) == 0
    assert list(pictures(tmp_path / "elsewhere" / "here")) == ["0002.png"]


def test_output_of_two_slashes_needs_a_file_that_was_saved(shot_scene, capsys):
    assert "never saved" in refused(errors.SettingsError, capsys, "render", "--output", "//frames", *NOBODY)


@pytest.mark.parametrize(
    ("flags", "error", "words"),
    [
        (["--cache", "/dev/null"], errors.StorageError, "/dev/null is no folder"),
        (["--cache", "{here}/file/cache"], errors.StorageError, "cache folder"),
        (["--output", "{here}/file"], errors.StorageError, "file is no folder"),
        (["--output", "{here}/file/frames"], errors.StorageError, "frames"),
        (["--output", "{here}/" + "x" * 300], errors.StorageError, "too long"),
        (["--output", "{here}/loop/frames"], errors.StorageError, "frames"),
        (["--blend", "{here}/missing/x.blend"], errors.SettingsError, "there is no folder"),
        (["--blend", "{here}"], errors.SettingsError, "is no file"),
        (["--blend", "{here}/pipe"], errors.SettingsError, "is no file"),
        (["--blend", "{here}/file/x.blend"], errors.SettingsError, "there is no folder"),
    ],
)
def test_place_that_cannot_be_written_to_is_noticed_first(shot_scene, tmp_path, capsys, flags, error, words):
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    before = sorted(tmp_path.iterdir())
    flags = [flag.format(here=tmp_path) for flag in flags]
    assert words in refused(error, capsys, "render", "--cache", str(tmp_path / "cache"), *NOBODY, *flags)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.any_blender
@pytest.mark.parametrize("cache", ["file", "file/cache", "loop", "loop/cache", "x" * 300])
def test_cache_that_cannot_be_is_refused_by_every_job_before_it_renders(shot_scene, tmp_path, cache):
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    shot_scene.das.cache_folder = str(tmp_path / cache)
    with pytest.raises(errors.StorageError, match="The cache folder .* cannot be written to"):
        api.render_take(shot_scene, timeout_s=5.0)
    with pytest.raises(RuntimeError, match="The cache folder .* cannot be written to"):
        bpy.ops.render.render()
    settings = resolve_settings(shot_scene)
    for job in (of_scene.only_take, of_scene.first_frame_again, of_scene.rendered_keys):
        with pytest.raises(errors.StorageError, match="The cache folder .* cannot be written to"):
            job(shot_scene, settings, in_child=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "loop"]


def test_cache_that_is_only_read_is_enough_where_it_holds_takes_of_the_shot(tmp_path):
    unwritable = Path("/dev/null")
    with pytest.raises(errors.StorageError):
        check_cache(unwritable, tmp_path)
    (tmp_path / "takes" / "key").mkdir(parents=True)
    (tmp_path / "takes" / "key" / "take.json").write_text("{}")
    check_cache(unwritable, tmp_path)


# ── The first frame ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing.png", "cannot be read"),
        ("folder", "is no file"),
        ("pipe", "is no file"),
        ("text.png", "cannot be read as a picture"),
        ("cut.png", "cannot be read as a picture"),
    ],
)
def test_first_frame_that_cannot_be_used_is_told_before_anything_is_made(shot_scene, tmp_path, capsys, name, words):
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "cut.png").write_bytes(encode_png(np.zeros((64, 96, 3), np.uint8))[:60])
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    chosen = ("--first-frame", str(tmp_path / name), "--cache", str(tmp_path / "c"))
    assert words in refused(errors.FirstFrameError, capsys, "render", *chosen, *NOBODY)
    assert commands.main(["doctor", *chosen]) == errors.FirstFrameError.exit_code
    assert f"FAIL  first frame: The first frame {tmp_path / name}" in capsys.readouterr().out


def test_painted_first_frame_or_image_that_cannot_be_read_is_told_before_anything_is_made(shot_scene, tmp_path, capsys):
    cache = ("--cache", str(tmp_path / "c"))
    folder = shot_folder(shot_scene, tmp_path / "c") / "first_frames"
    folder.mkdir(parents=True)
    (folder / "0001.png").write_text("no picture")
    assert "0001.png cannot be read as a picture" in refused(errors.FirstFrameError, capsys, "render", *cache, *NOBODY)
    image = bpy.data.images.new("Gone", 8, 8)
    image.source, image.filepath = "FILE", str(tmp_path / "gone.png")
    shot_scene.das.first_frame_image = image
    assert "'Gone' cannot be read as a picture" in refused(errors.FirstFrameError, capsys, "render", *cache, *NOBODY)


def test_transparent_parts_of_a_first_frame_lie_over_black_and_are_told(shot_scene, tmp_path, capsys, caplog):
    pixels = np.full((64, 96, 4), 200, np.uint8)
    pixels[:, :48, 3], pixels[:, 48:, 3] = 0, 255
    given = tmp_path / "given.png"
    image = bpy.data.images.new("Given", 96, 64, alpha=True)
    image.alpha_mode = "CHANNEL_PACKED"
    image.pixels.foreach_set((pixels.astype(np.float32) / 255.0).reshape(-1))
    image.filepath_raw, image.file_format = str(given), "PNG"
    image.save()
    words = ["render", "--first-frame", str(given), "--frames", "1-2", "--cache", str(tmp_path / "c"), "--json"]
    assert commands.main(words) == 0
    said = lines_of(capsys.readouterr().out)
    kept = decode_png(Path(said[-1]["first_frame"]).read_bytes())
    assert not kept[:, :48].any() and (kept[:, 48:] > 100).all()
    notes = [record.getMessage() for record in caplog.records if "transparent parts" in record.getMessage()]
    assert len(notes) == 1 and str(given) in notes[0] and "over black" in notes[0]


# ── Frames that Blender writes ──────────────────────────────────────────────────────────────────────────────────────


def test_log_names_the_frames_that_a_full_disk_left_empty(shot_scene, tmp_path, caplog):
    """Of PNG Blender says nothing; of JPEG it ends the animation with an error of its own."""
    (tmp_path / "0002.png").symlink_to("/dev/full")
    shot_scene.frame_end = 3
    shot_scene.render.filepath = f"{tmp_path}/"
    compat.set_image_output(shot_scene, "PNG")
    bpy.ops.render.render(animation=True)
    told = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(told) == 1 and "0002.png was written as an empty file" in told[0]
    assert (tmp_path / "0003.png").stat().st_size > 0


# ── The doctor ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_doctor_looks_at_the_shot_of_a_file(shot_file, server, tmp_path, capsys):
    words = ["doctor", str(shot_file), "--server", server.address, "--cache", str(tmp_path)]
    assert commands.main(words) == 0
    assert "ok    shot: 9 frames (1 to 9)" in capsys.readouterr().out
    assert commands.main([*words, "--frames", "1-60"]) == 0
    assert "in 2 windows, 1 to 49, 36 to 60" in capsys.readouterr().out
    assert commands.main([*words, "--frames", "1-10001"]) == errors.ShotTooLong.exit_code
    assert "a shot has 10000 at most" in capsys.readouterr().out
    assert commands.main([*words, "--first-frame", str(tmp_path / "missing.png")]) == errors.FirstFrameError.exit_code
    assert commands.main([*words, "--scene", "Elsewhere"]) == errors.SettingsError.exit_code
    capsys.readouterr()
    assert commands.main([*words, "--steps", "7"]) == errors.SettingsError.exit_code
    assert "FAIL  shot: The model 'das-preview' does not take 7 steps" in capsys.readouterr().out
    bpy.data.objects.remove(bpy.context.scene.camera)
    bpy.ops.wm.save_as_mainfile(filepath=str(shot_file))
    capsys.readouterr()
    assert commands.main(words) == errors.SceneError.exit_code
    assert "FAIL  scene: The scene 'Scene' has no camera" in capsys.readouterr().out


def test_doctor_fails_for_a_model_that_the_server_does_not_have(scene, server, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DAS_MODEL", "nosuch")
    words = ["doctor", "--server", server.address, "--cache", str(tmp_path)]
    assert commands.main(words) == errors.SettingsError.exit_code
    assert "FAIL  chosen model: The server has no model 'nosuch'" in capsys.readouterr().out


# ── Talking ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def run(*words: str, shell_end: str = "", **environment: str) -> subprocess.CompletedProcess:
    """``python -m das_blender_addon`` in a shell of its own."""
    command = subprocess.list2cmdline([sys.executable, "-m", "das_blender_addon", *words])
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} {shell_end}"],
        cwd=Path(__file__).resolve().parents[2],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


@pytest.mark.any_blender
@pytest.mark.parametrize(
    ("shell_end", "environment"),
    [
        ("| head -n 0", {}),
        (">&-", {}),
        ("> /dev/full", {}),
        (">&- 2>&- <&-", {}),
        ("", {"PYTHONIOENCODING": "ascii"}),
    ],
    ids=["nobody reads", "closed", "full", "all closed", "ascii"],
)
@pytest.mark.parametrize("json", [[], ["--json"]], ids=["plain", "json"])
def test_frames_are_written_whoever_listens(shot_file, tmp_path, shell_end, environment, json):
    output = tmp_path / "främes"
    words = ("preview", str(shot_file), "--frames", "1-3", "--cache", str(tmp_path / "c"), *json)
    done = run(*words, "--output", str(output), shell_end=shell_end, **environment)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done
    assert list(pictures(output)) == ["0001.png", "0002.png", "0003.png"]
    if environment:
        assert "mes" in done.stdout.splitlines()[-1] and done.stdout.isascii()


@pytest.mark.any_blender
def test_failure_is_told_whoever_listens(shot_file, tmp_path):
    words = ("preview", str(shot_file), "--frames", "99999999", "--json")
    for shell_end in ("| head -n 0", ">&-", "> /dev/full"):
        done = run(*words, shell_end=shell_end)
        assert done.returncode == errors.SettingsError.exit_code, done
        assert done.stderr.count("das: There is no frame 99999999") == 1 and "Traceback" not in done.stderr


@pytest.mark.any_blender
def test_help_is_shown_in_any_encoding(scene):
    done = run("render", "--help", PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and "--enable-autoexec" in done.stdout and not done.stderr
