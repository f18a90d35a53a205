# SPDX-License-Identifier: GPL-3.0-or-later
"""What a look at a shot tells, in words and codes."""

import numpy as np
import pytest

from das_blender_addon.errors import SceneError
from das_blender_addon.shot.findings import (
    ERROR,
    Finding,
    ShotReport,
    findings_of_curves,
    findings_of_notes,
    refusal,
    sorted_findings,
)
from das_blender_addon.tracking.geometry import Note
from das_blender_addon.tracking.shot_curves import ShotCurves

FRAMES = (10, 12, 14)


def curves(covered=0.9, unseen=0.0, motion=0.01, path=0.3, depth=(1.0, 2.0, 30.0)) -> ShotCurves:
    """Of three frames; only the middle one is as told."""
    there = {"covered": covered, "unseen": unseen, "motion": motion}
    usual = {"covered": 0.9, "unseen": 0.0, "motion": 0.01}
    values = {name: np.array([usual[name], value, usual[name]], np.float32) for name, value in there.items()}
    return ShotCurves(frame_indices=(0, 2, 4), **values, path=path, depth=depth)


def codes(found, level=None):
    return [one.code for one in found if level is None or one.level == level]


def test_what_is_not_tracked_is_told_object_by_object():
    notes = (Note("Pane", "glass", "lets light through"), Note("Rust", "alpha", "has a material 'Noise'"))
    pane, rust = findings_of_notes(notes)
    assert (pane.code, pane.level, pane.objects) == ("scene.glass", "note", ("Pane",)) and "Behind" in pane.remedy
    assert (rust.code, rust.level, rust.words) == ("scene.alpha", "warning", "'Rust' has a material 'Noise'.")
    assert rust.remedy.startswith("Bake")


def test_ordinary_shot_has_notes_only():
    assert codes(findings_of_curves(curves(), FRAMES, 480)) == ["shot.depth"]


@pytest.mark.parametrize(
    "value, code, word",
    [
        ({"covered": 0.1}, "shot.bare", "10%"),
        ({"unseen": 0.4}, "shot.new", "40%"),
        ({"motion": 0.2}, "shot.fast", "20%"),
    ],
)
def test_frame_that_stands_out_is_named(value, code, word):
    (found,) = [one for one in findings_of_curves(curves(**value), FRAMES, 480) if one.level == "warning"]
    assert found.code == code and found.frame == 12 and word in found.words and "12" in found.words and found.remedy


def test_bare_frame_stands_out_only_where_what_is_bare_is_black():
    assert codes(findings_of_curves(curves(covered=0.1), FRAMES, 480, sky=True), "warning") == []


@pytest.mark.parametrize(
    "path, height, expected",
    [(0.001, 480, True), (0.003, 128, True), (0.005, 128, False), (0.01, 480, False), (0.001, None, False)],
)
def test_shot_that_moves_less_than_its_tracking_video_tells_is_still(path, height, expected):
    found = [one for one in findings_of_curves(curves(path=path), FRAMES, height) if one.code == "shot.still"]
    assert bool(found) == expected and all(f"{height / 255:.1f} pixels" in one.words for one in found)


@pytest.mark.parametrize(
    "height, patch_px, motion_px, every, expected",
    [
        (128, 8, 3.9, 1, False), (128, 8, 4.1, 1, True), (240, 8, 3.9, 1, False), (240, 8, 4.1, 1, True),
        (240, 8, 2.1, 2, True), (480, 0, 23.0, 1, False), (480, 0, 25.0, 1, True),
    ],
)  # fmt: skip
def test_half_a_patch_of_a_model_that_starts_from_carried_frames_is_fast(height, patch_px, motion_px, every, expected):
    found = findings_of_curves(curves(motion=motion_px / height), FRAMES, height, every, patch_px=patch_px)
    assert ("shot.fast" in codes(found)) == expected


def test_motion_counts_between_the_frames_that_the_model_makes():
    assert "shot.fast" not in codes(findings_of_curves(curves(motion=0.02), FRAMES, 480))
    assert "shot.fast" in codes(findings_of_curves(curves(motion=0.02), FRAMES, 480, every=3))


def test_single_frame_need_not_move():
    one = ShotCurves((0,), *(np.array([value], np.float32) for value in (1.0, 0.0, 0.0)), path=0.0, depth=(1, 2, 3))
    assert codes(findings_of_curves(one, (7,), 480)) == ["shot.depth"]


def test_gravest_comes_first_and_its_status_counts():
    error = refusal(SceneError("The scene has no camera."))
    found = sorted_findings([Finding("a", "note", "A."), Finding("b", "warning", "B."), error, error])
    assert [one.level for one in found] == ["error", "warning", "note"]
    assert ShotReport(found).exit_code == SceneError.exit_code and ShotReport(found[1:]).exit_code == 0
    assert error.level == ERROR and error.code == "scene"
