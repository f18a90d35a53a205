# SPDX-License-Identifier: GPL-3.0-or-later
"""Starting a recipe's processes: anew or resumed, and what happens to the others when one fails."""

import signal
import subprocess
import sys

import pytest

from das_blender_addon.errors import WorkerLost
from das_server.training import launch
from tests.unit.server.training.test_preview_recipe import RECIPE, STAGES, export_grey_clips

LEFT = ("autoencoder/last", "latents/clips/9x16x24", "transformer/final", "decoder/last", "checkpoint/vae", "text")


@pytest.fixture
def left_over(tmp_path):
    """A recipe, and its folder with what an earlier run has left there; new clips cannot be written into it."""
    folder = tmp_path / "out"
    for name in LEFT:
        (folder / name).mkdir(parents=True)
        (folder / name / "state.json").write_text("{}")
    for stage in STAGES:
        (folder / f"{stage}.done").touch()
    for name in ("clips", "validation"):
        (folder / name).write_text("a file where a folder should be")
    recipe = tmp_path / "tiny.toml"
    export_grey_clips(tmp_path / "exported", count=3)
    recipe.write_text(RECIPE.format(folder=folder.as_posix(), dataset=(tmp_path / "exported").as_posix()))
    return recipe, folder


def test_run_without_resume_leaves_no_result_of_an_earlier_one(left_over):
    recipe, folder = left_over
    with pytest.raises(WorkerLost, match="render_first"):
        launch.run(recipe)
    assert {path.name for path in folder.iterdir()} == {"clips", "validation", "render_first.0.log",
                                                        "render_first.1.log"}


def test_run_with_resume_keeps_what_is_there(left_over):
    recipe, folder = left_over
    assert launch.run(recipe, resume=True) == 0
    for name in LEFT:
        assert (folder / name / "state.json").read_text() == "{}"


def test_process_that_fails_ends_the_others(tmp_path):
    sleeping, failing, beside = (subprocess.Popen([sys.executable, "-c", code]) for code in (
        "import time; time.sleep(600)", "raise SystemExit(3)", "import time; time.sleep(600)"))
    with pytest.raises(WorkerLost, match=r"stage 'transformer' .* ended with \[None, 3\]"):
        launch._wait(tmp_path / "r.toml", {"transformer": [sleeping, failing], "encode_rest": [beside]})
    assert sleeping.returncode
    assert beside.returncode


def test_processes_that_end_well_are_all_waited_for(tmp_path):
    slow, quick = (subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({s})"]) for s in (1, 0))
    launch._wait(tmp_path / "r.toml", {"autoencoder": [quick], "render_rest": [slow]})
    assert slow.returncode == quick.returncode == 0


def test_help_that_nobody_needs_any_more_is_ended(tmp_path):
    quick, beside = (subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({s})"]) for s in (0, 60))
    launch._wait(tmp_path / "r.toml", {"transformer": [quick], "encode_rest": [beside]})
    assert quick.returncode == 0 and beside.returncode == -signal.SIGTERM
