# SPDX-License-Identifier: GPL-3.0-or-later
"""What is to be known of a shot is there before a take's first job: in panel, log, command and take.json."""

import json

import bpy
import pytest

from das_blender_addon import api, commands
from das_blender_addon.errors import JobCancelled
from das_blender_addon.jobs import of_scene
from das_blender_addon.scene.export import GeometryExport
from das_blender_addon.shot.settings import resolve_settings
from das_blender_addon.take import drive, last_reports
from das_blender_addon.take.shot_report import FRAMES_BEFORE_TAKE
from tests.support.scenes import add_cube, link

pytestmark = pytest.mark.any_blender
SEED = iter(range(7_000, 8_000))
"""Of takes that nobody has made."""
OF_JOBS = ("carrying", "uploading", "queued", "denoising", "decoding", "downloading")
"""Stages of jobs; which of them are told depends on what the server has already."""


@pytest.fixture
def odd_shot(shot_scene):
    """A shot with something to say of: smoke, which is not tracked, motion blur, and a seed of its own."""
    link(shot_scene, "Smoke", bpy.data.volumes.new("Smoke"))
    shot_scene.render.use_motion_blur = True
    shot_scene.das.steps, shot_scene.das.seed = 1, next(SEED)
    return shot_scene


@pytest.fixture
def exports(monkeypatch):
    """The frames that were exported, one after the other, of a source of either kind."""
    seen, add = [], GeometryExport.add

    def counted(self, frame, depsgraph):
        seen.append(frame)
        return add(self, frame, depsgraph)

    monkeypatch.setattr(GeometryExport, "add", counted)
    return seen


def test_report_comes_before_the_first_job_from_the_takes_own_export(odd_shot, exports):
    came, stages = [], []

    def note(event):
        if getattr(event, "stage", "") in OF_JOBS:
            stages.append(len(came))

    take = api.render_take(odd_shot, on_event=note, on_report=came.append)
    assert exports == list(range(1, 10)), "each frame is exported once"
    assert stages and set(stages) == {1}, "before anything is sent"
    (report,) = came
    said = api.check_shot(odd_shot)
    assert {finding.code for finding in report.findings} == {finding.code for finding in said.findings}
    assert [one["code"] for one in take.report["findings"]] == [one.code for one in report.findings]
    smoke = next(one for one in take.report["findings"] if one["code"] == "scene.volume")
    assert smoke["level"] == "warning" and list(smoke["objects"]) == ["Smoke"] and "report" in take.timings
    kept = json.loads((take.folder / "take.json").read_text())["report"]["findings"]
    assert kept == json.loads(json.dumps(take.report["findings"]))
    assert api.render_take(odd_shot).report["findings"] == kept, "also of a take that is found"


def test_take_looks_at_few_frames_and_at_its_key_pictures(odd_shot):
    came = []
    odd_shot.frame_end = 41
    with pytest.raises(JobCancelled):
        api.render_take(odd_shot, key_pictures=(3,), on_report=came.append, should_stop=lambda: bool(came))
    frames = came[0].frames
    assert 3 in frames and {1, 41} <= set(frames) and len(frames) <= FRAMES_BEFORE_TAKE + 1
    assert len(api.check_shot(odd_shot).frames) == 41


def test_panel_knows_what_speaks_against_a_take_that_runs(odd_shot):
    last_reports.forget_reports()
    recipe = of_scene.only_take(odd_shot, resolve_settings(odd_shot), on_report=last_reports.keeping(odd_shot))
    with pytest.raises(JobCancelled):
        drive.finish(recipe, should_stop=lambda: last_reports.last_report(odd_shot) is not None)
    assert any(one.code == "scene.volume" for one in last_reports.last_report(odd_shot).findings)
    last_reports.forget_reports()
    assert bpy.ops.das.render_take() == {"FINISHED"}
    assert any(one.code == "scene.volume" for one in last_reports.last_report(odd_shot).findings)


def test_report_of_a_file_that_is_no_longer_open_is_not_kept(odd_shot):
    keep = last_reports.keeping(odd_shot)
    report = api.check_shot(odd_shot)
    last_reports.forget_reports()  # as when another file is opened
    keep(report)
    assert last_reports.last_report(odd_shot) is None


@pytest.mark.parametrize("as_json", [True, False])
def test_command_warns_once_and_only_of_what_matters(odd_shot, as_json, capsys):
    odd_shot.das.seed = next(SEED)
    add_cube(odd_shot, "Other", location=(0, 3, 0))
    assert commands.main(["render", *(["--json"] if as_json else [])]) == 0
    said = capsys.readouterr().out
    if as_json:
        lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
        told = [line["code"] for line in lines if line["event"] == "finding"]
        assert told.count("scene.volume") == 1 and "scene.motion_blur" not in told
        events = [line["event"] for line in lines]
        assert events.index("finding") < min(place for place, line in enumerate(lines) if line.get("stage") in OF_JOBS)
        codes = {one["code"] for one in lines[-1]["report"]["findings"]}
        assert {"scene.volume", "scene.motion_blur"} <= codes
    else:
        assert said.count("'Smoke' is a volume") == 1 and "Motion blur" not in said


def test_variations_warn_once(odd_shot, capsys):
    first = next(SEED)
    assert commands.main(["vary", "--seeds", f"{first}-{first + 1}"]) == 0
    assert capsys.readouterr().out.count("'Smoke' is a volume") == 1


def test_render_in_the_background_logs_it(odd_shot, caplog):
    odd_shot.render.engine = "DAS"
    odd_shot.das.seed = next(SEED)
    bpy.ops.render.render()
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert sum("'Smoke' is a volume" in words for words in told) == 1 and not any("Motion blur" in one for one in told)


def test_what_blender_does_with_renders_is_not_said_of_files(odd_shot):
    """A look and strips change what Blender shows or renders, not the files that a command writes."""
    odd_shot.view_settings.view_transform = "Filmic"
    came = []
    with pytest.raises(JobCancelled):
        api.render_take(odd_shot, on_report=came.append, should_stop=lambda: bool(came))
    assert "scene.colours" not in {one.code for one in came[0].findings}
    assert "scene.colours" in {one.code for one in api.check_shot(odd_shot).findings}


def test_nothing_in_view_is_reported_before_it_is_refused(odd_shot):
    bpy.data.objects["Cube"].hide_render = True
    add_cube(odd_shot, "Behind", location=(0, -30, 0))
    came = []
    with pytest.raises(Exception, match="No surface is in view"):
        api.render_take(odd_shot, on_report=came.append)
    assert "shot.empty" in {one.code for one in came[0].findings}
