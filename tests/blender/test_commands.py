# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line: files, exit codes, JSON lines; as a process of its own where that is what counts."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import bpy
import numpy as np
import pytest

from das_blender_addon import api, commands, compat, errors
from das_blender_addon.command_line import arguments
from das_blender_addon.protocol.png import alpha_of_png, decode_png
from das_blender_addon.shot import settings as shot_settings
from tests.support.server import ROOT

LIMIT_S = 240.0


def lines_of(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def pictures(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: decode_png(path.read_bytes()) for path in sorted(folder.iterdir())}


def start(*words: str, **environment: str) -> subprocess.Popen:
    """``python -m das_blender_addon`` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "das_blender_addon", *words],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.any_blender
def test_interrupt_while_blender_starts_is_one_sentence(tmp_path):
    """Wherever in Blender's own Python it comes."""
    (tmp_path / "bpy.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(600)\n"
    )
    process = start("doctor", PYTHONPATH=str(tmp_path))
    output, errors_written = process.communicate(timeout=LIMIT_S)
    assert process.returncode == errors.JobCancelled.exit_code
    assert (output, errors_written) == ("", "das: The job was cancelled.\n")


def test_render_writes_the_takes_frames_under_their_numbers(shot_file, server, tmp_path):
    process = start(
        "render", str(shot_file), "--server", server.address, "--frames", "3-9x3", "--seed", "5", "--json",
        "--size", "104x72", "--output", str(tmp_path / "out"), "--blend", str(tmp_path / "done.blend"),
    )  # fmt: skip
    output, errors_written = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, errors_written
    said = lines_of(output)
    fractions = [line["fraction"] for line in said if line["event"] == "progress"]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    done = said[-1]
    assert done["event"] == "done" and done["report"]["seed"] == 5 and len(done["job"]) == 32

    frames = pictures(tmp_path / "out")
    assert list(frames) == ["0003.png", "0006.png", "0009.png"]
    take = api.render_take(bpy.context.scene, server=server.address, frames=[3, 6, 9], seed=5, size=(104, 72))
    assert take.report["model_size"] == [104, 72] and take.cached and take.key == done["key"]
    for frame, path in zip(frames.values(), take.frames, strict=True):
        np.testing.assert_array_equal(frame, decode_png(path.read_bytes()))

    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "done.blend"))
    (strip,) = compat.all_strips(bpy.context.scene.das.edit_scene)
    assert (strip["das_seed"], strip["das_take"], strip["das_job"]) == (5, take.key, done["job"])


@pytest.mark.any_blender
def test_shorter_render_tells_of_the_frames_that_an_earlier_take_left(shot_file, server, tmp_path, capsys):
    def render(frames: str, *flags: str) -> tuple[str, list[str]]:
        words = ["render", str(shot_file), "--server", server.address, "--cache", str(tmp_path / "cache")]
        assert commands.main([*words, "--frames", frames, "--output", str(tmp_path / "out"), *flags]) == 0
        return capsys.readouterr().out, sorted(path.name for path in (tmp_path / "out").iterdir())

    said, names = render("1-6")
    assert "earlier take" not in said
    render("8-9", "--clean")
    own = tmp_path / "out" / "0005.png"
    own.write_bytes(b"somebody else's")
    said, names = render("1-3")
    assert "still holds 2 frames of an earlier take (0004.png to 0006.png); --clean removes" in said
    assert names == [f"{number:04d}.png" for number in (1, 2, 3, 4, 5, 6, 8, 9)]
    said, names = render("1-3", "--clean")
    assert "2 frames of an earlier take (0004.png to 0006.png) removed" in said
    assert names == [f"{number:04d}.png" for number in (1, 2, 3, 5, 8, 9)], "only what is ours, no other chunk's"
    said, names = render("1-3", "--clean", "--json")
    assert not [line for line in lines_of(said) if line["event"] == "note"]


def test_frames_of_a_transparent_film_are_cut_out_and_cleaned(shot_scene, server, tmp_path, capsys):
    shot_scene.render.film_transparent = True
    out = tmp_path / "out"
    words = ["render", "--cache", str(tmp_path / "cache"), "--output", str(out), "--clean"]
    assert commands.main([*words, "--frames", "1-3"]) == 0
    coverage = api.export_tracking(shot_scene).coverage[:3]
    for path, seen in zip(sorted(out.iterdir()), coverage, strict=True):
        alpha = alpha_of_png(path.read_bytes())
        assert (alpha[seen] > 0).all() and (alpha[~seen] < 255).all() and len(np.unique(alpha)) > 2
        assert decode_png(path.read_bytes())[seen].std() > 1.0
    assert commands.main([*words, "--frames", "1-2"]) == 0
    assert [path.name for path in sorted(out.iterdir())] == ["0001.png", "0002.png"]
    assert "1 frame of an earlier take (0003.png) removed" in capsys.readouterr().out


def test_output_that_cannot_be_written_leaves_nothing_behind(shot_file, tmp_path, capsys):
    out = tmp_path / "out"
    (out / "0003.png").mkdir(parents=True)
    assert commands.main(["preview", str(shot_file), "--frames", "2-4", "--output", str(out)]) == 45
    assert sorted(path.name for path in out.iterdir()) == ["0002.png", "0003.png"]
    assert "0003.png cannot be written" in capsys.readouterr().err


@pytest.mark.any_blender
def test_interrupted_render_cancels_its_job(shot_file, server, tmp_path):
    own_jobs = server.new_jobs()
    words = ("--server", server.address, "--size", "240x160", "--steps", "1000", "--output", str(tmp_path / "out"))
    process = start("render", str(shot_file), *words)
    server.wait_until(own_jobs, "the job started", LIMIT_S)
    process.send_signal(signal.SIGTERM)
    _, errors_written = process.communicate(timeout=LIMIT_S)
    assert process.returncode == errors.JobCancelled.exit_code, errors_written
    is_over = lambda status: [job["state"] for job in own_jobs(status)] == ["CANCELLED"]  # noqa: E731
    server.wait_until(is_over, "the job was cancelled", LIMIT_S)
    assert not (tmp_path / "out").exists()


def test_preview_needs_no_server(shot_file, tmp_path, capsys):
    assert commands.main(["preview", str(shot_file), "--frames", "2-4", "--output", str(tmp_path / "tracking")]) == 0
    frames = pictures(tmp_path / "tracking")
    tracking = api.export_tracking(bpy.context.scene, frames=[2, 3, 4])
    assert list(frames) == ["0002.png", "0003.png", "0004.png"]
    np.testing.assert_array_equal(np.stack(list(frames.values())), tracking.video)
    assert "3 frames in" in capsys.readouterr().out


def test_doctor_finds_nothing_wrong_where_all_is_well(scene, server, tmp_path, capsys):
    assert commands.main(["doctor", "--server", server.address, "--cache", str(tmp_path), "--json"]) == 0
    said = [line for line in lines_of(capsys.readouterr().out) if line["event"] == "check"]
    checks = {line["name"]: line for line in said}
    assert {"Diffusion as Shader", "Blender", "libraries", "cache folder", "server", "model"} <= set(checks)
    assert bpy.app.version_string in checks["Blender"]["words"] and "pyzmq" in checks["libraries"]["words"]
    assert all(check["ok"] for check in said)
    models = " / ".join(check["words"] for check in said if check["name"] == "model")
    assert "multiples of 8 from 48×48 to 360×240" in models and "49 frames, 720×480" in models


def test_doctor_names_what_is_wrong_and_what_to_do(scene, tmp_path, capsys):
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    status = commands.main(["doctor", "--server", "127.0.0.1:9", "--timeout", "1", "--cache", str(blocked / "cache")])
    shown = capsys.readouterr().out
    assert status == errors.StorageError.exit_code
    assert "FAIL  cache folder" in shown and "FAIL  server" in shown and "das-server serve" in shown


@pytest.mark.any_blender
@pytest.mark.parametrize(
    ("change", "flags", "error"),
    [
        (lambda scene: None, ["--server", "127.0.0.1:9", "--timeout", "1"], errors.ServerUnreachable),
        (lambda scene: bpy.data.objects.remove(scene.camera), [], errors.SceneError),
        (lambda scene: bpy.data.objects.remove(bpy.data.objects["Cube"]), [], errors.SceneError),
        (lambda scene: None, ["--frames", "1-10001"], errors.ShotTooLong),
        (lambda scene: None, ["--first-frame", "/no/such/image.png"], errors.FirstFrameError),
        (lambda scene: None, ["--seed", "lucky"], errors.SettingsError),
        (lambda scene: None, ["--model", "sora"], errors.SettingsError),
        (lambda scene: None, ["--scene", "Elsewhere"], errors.SettingsError),
        (lambda scene: None, ["--server", "tcp://render.studio:5599"], errors.SettingsError),
        (lambda scene: None, ["--server", "tcp://render.studio:5599", "--online-mode"], errors.TransportError),
    ],
)
def test_failure_ends_with_the_exit_code_of_its_class(shot_scene, tmp_path, capsys, change, flags, error):
    change(shot_scene)
    shot_scene.das.seed = 77
    status = commands.main(["render", "--output", str(tmp_path / "out"), "--timeout", "2", "--json", *flags])
    shown = capsys.readouterr()
    said = lines_of(shown.out)[-1]
    raised = errors.error_from_code(said["code"], said["message"])
    assert said["event"] == "error" and isinstance(raised, error), said
    assert status == said["exit_code"] == raised.exit_code
    assert shown.err.strip().splitlines()[-1] == f"das: {said['message']}"
    assert not (tmp_path / "out").exists()


def test_flags_are_forgotten_after_the_command(scene, monkeypatch):
    monkeypatch.setenv("DAS_SEED", "3")
    commands.main(["preview", "--seed", "4", "--prompt", "x"])
    assert os.environ["DAS_SEED"] == "3" and "DAS_PROMPT" not in os.environ


def test_empty_server_variable_permits_no_other_machine(shot_scene, monkeypatch, capsys):
    monkeypatch.setenv("DAS_SERVER", "")
    shot_scene.das.server = "tcp://render.studio:5599"
    assert commands.main(["render"]) == errors.SettingsError.exit_code
    assert commands.main(["doctor"]) == errors.SettingsError.exit_code
    assert capsys.readouterr().err.count("online access is off") == 1


def test_every_override_has_its_flag():
    assert {variable for variable, _ in arguments.OVERRIDES.values()} == set(shot_settings.ENVIRONMENT)


@pytest.mark.parametrize(
    ("words", "value"), [(["--new-first-frame"], "1"), (["--new-first-frame", "0"], "0"), ([], None)]
)
def test_new_first_frame_needs_no_value(words, value):
    assert arguments.parser("das", commands.COMMANDS).parse_args(["doctor", *words]).DAS_NEW_FIRST_FRAME == value


@pytest.mark.any_blender
def test_render_anew_makes_another_job(shot_scene, capsys):
    jobs = []
    for words in ([], [], ["--anew"], ["--anew", "0"]):
        assert commands.main(["render", "--json", *words]) == 0
        jobs.append(json.loads(capsys.readouterr().out.splitlines()[-1])["job"])
    assert jobs[0] == jobs[1] != jobs[2] == jobs[3]


def test_wrong_usage_is_told(scene, capsys):
    assert commands.main(["dance"]) == 2
    assert "doctor" in capsys.readouterr().err
