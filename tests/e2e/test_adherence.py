# SPDX-License-Identifier: GPL-3.0-or-later
"""Synthetic takes with known displacement are measured by a real server, and told frame by frame and object by object.
"""

import json

import cv2
import numpy as np
import pytest

from das_blender_addon.errors import JobCancelled, StorageError
from das_blender_addon.protocol.png import decode_png
from das_blender_addon.take.adherence import heat_maps, measure, read_report
from das_blender_addon.take.adherence_figures import OFF_SHARE, score, worst_window
from das_blender_addon.take.adherence_words import table_of
from tests.support.measured_takes import FIRST, NAMES, SIZE, STEP_PX, measurable_request, take_of_frames

CLOSE_PX = 0.3


def warped(picture, matrix):
    return cv2.warpAffine(
        picture, np.float32(matrix), SIZE, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
    )


def shifted(x, y=0.0):
    return lambda _window, _index, picture: warped(picture, [[1, 0, x], [0, 1, y]])


def exact(_window, _index, picture):
    return picture


def blurred(_window, _index, picture):
    return cv2.GaussianBlur(picture, (0, 0), 1.5)


@pytest.fixture
def measured(server, tmp_path):
    """The report of a take whose model makes ``frame``, see `take_of_frames`."""

    def of(frame, **options):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        request = measurable_request(folder, **options)
        return measure(request, take_of_frames(request, frame), server.address)

    return of


def test_exact_take_has_no_error_and_flickers_as_its_prediction_does(measured):
    report = measured(exact)
    assert report["mean_px"] < 0.02 and report["p95_px"] < 0.1 and report["off"] == report["lost"] == 0.0
    assert report["flicker"] == pytest.approx(report["flicker_expected"], abs=1.0)
    assert [one["difference"] for one in report["seams"]] == [0.0] * len(report["seams"])
    assert 0.8 < report["seen"] < 0.98  # what comes in from the left no key picture shows
    assert report["composed"] == report["seen"] and report["colour"] == 0.0
    assert set(report["frames"][3]["objects"]) == set(NAMES)


def test_other_colours_are_told_of_the_object_that_has_them(server, tmp_path):
    request = measurable_request(tmp_path, num_frames=5)
    rows, columns = np.mgrid[: SIZE[1], : SIZE[0]]

    def painted(_window, index, picture):
        below = rows / SIZE[1] > 1.0 - columns / SIZE[0]
        return np.where(below[..., None] & (index == 3), picture // 2 + 90, picture).astype(np.uint8)

    frames = measure(request, take_of_frames(request, painted), server.address)["frames"]
    colours = [{name: one["colour"] for name, one in frame["objects"].items()} for frame in frames]
    assert all(colour == 0.0 for frame in (0, 1, 2, 4) for colour in colours[frame].values())
    assert max(colours[3].values()) > 15.0 and frames[3]["colour"] > 5.0


@pytest.mark.parametrize("shift", [(2.5, 0.0), (-1.5, 2.0), (0.4, 0.0)])
def test_shifted_take_is_measured_in_every_frame_of_every_object(measured, shift):
    report, truth = measured(shifted(*shift)), float(np.hypot(*shift))
    assert {one["name"] for one in report["objects"]} == set(NAMES)
    assert [one["frame"] for one in report["frames"]] == list(range(FIRST, FIRST + 8))
    for one in (report, *report["frames"], *report["objects"], *report["windows"]):
        assert abs(one["mean_px"] - truth) < CLOSE_PX and abs(one["p95_px"] - truth) < CLOSE_PX
        assert (one["off"] > 0.95) if truth > OFF_SHARE * SIZE[1] else (one["off"] < 0.05)


def test_take_that_is_a_frame_late_is_measured(server, tmp_path):
    request = measurable_request(tmp_path)
    predicted = request.detail.carried(range(8))
    late = take_of_frames(request, lambda _window, index, _picture: predicted[max(index - 1, 0)])
    report = measure(request, late, server.address)
    first, *others = (one["mean_px"] for one in report["frames"])
    assert first < 0.02 and all(abs(one - STEP_PX) < CLOSE_PX for one in others)


def test_turned_take_is_measured(measured):
    turn = cv2.getRotationMatrix2D((SIZE[0] / 2, SIZE[1] / 2), 2.0, 1.0)
    report = measured(lambda _window, _index, picture: warped(picture, turn))
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    away = np.linalg.norm(np.stack([x, y, np.ones_like(x)], -1) @ turn.T - np.stack([x, y], -1), axis=-1)
    first = report["frames"][0]  # all of it is seen
    assert abs(first["mean_px"] - away.mean()) < CLOSE_PX and abs(first["p95_px"] - np.percentile(away, 95)) < CLOSE_PX


def test_blurred_take_that_is_right_is_not_called_wrong(measured):
    report = measured(blurred)
    assert report["mean_px"] < CLOSE_PX / 3 and report["p95_px"] < CLOSE_PX and report["off"] < 0.01


def test_flat_take_has_no_figures(measured):
    report = measured(lambda _window, _index, picture: np.full_like(picture, 90))
    assert report["mean_px"] is report["off"] is None and report["counted"] == 0.0
    assert score(report) == float("inf") and worst_window(report) is None
    assert "too little has texture" in table_of(report)


def test_flicker_is_told_apart_from_displacement(measured):
    def flickers(_window, index, picture):
        return np.clip(picture.astype(int) * 0.8 + 20 + (20 if index % 2 else 0), 0, 255).astype(np.uint8)

    calm, report = measured(blurred), measured(flickers)
    assert report["mean_px"] < CLOSE_PX and report["flicker"] > calm["flicker"] + 12.0
    assert score(report) > score(calm) + 4.0
    assert report["frames"][0]["flicker"] is None and report["frames"][3]["flicker"] > 12.0


def test_worst_window_is_the_one_that_is_off(measured):
    def second_is_off(window, index, picture):
        return shifted(2.0)(window, index, picture) if window == 1 else picture

    report = measured(second_is_off, num_frames=11)
    assert [one["number"] for one in report["windows"]] == [1, 2, 3] and worst_window(report) == 2
    assert [one["mean_px"] > 1.5 for one in report["windows"]] == [False, True, False]
    assert len(report["seams"]) == 2 and all(one["difference"] > 3.0 for one in report["seams"])
    told = table_of(report)
    assert NAMES[0] in told and "seam at" in told and "2: " in told


def test_one_frame_per_window_of_its_own_and_frames_that_the_model_did_not_make(measured):
    report = measured(shifted(2.0), num_frames=10, model_frames_every=3)
    assert [one["frame"] for one in report["frames"]] == [11, 14, 17, 20]
    assert abs(report["mean_px"] - 2.0) < CLOSE_PX and report["seams"] == []


def test_report_and_heat_maps_lie_beside_the_take(server, tmp_path):
    request = measurable_request(tmp_path, num_frames=10, model_frames_every=3)
    take = take_of_frames(request, shifted(4.0))
    assert read_report(take.folder) is None and heat_maps(take.folder, 10) == []
    before = (take.folder / "take.json").read_bytes()
    told = []
    report = measure(request, take, server.address, on_event=told.append)
    assert read_report(take.folder) == report == json.loads((take.folder / "adherence" / "report.json").read_text())
    assert (take.folder / "take.json").read_bytes() == before  # no take is written to
    maps = heat_maps(take.folder, 10)
    pictures = [decode_png(path.read_bytes()) for path in maps]
    assert len(maps) == 10 and {picture.shape for picture in pictures} == {(SIZE[1], SIZE[0], 3)}
    np.testing.assert_array_equal(pictures[0], pictures[2])  # the model made every third
    assert not (pictures[0] == pictures[3]).all()
    red, _green, blue = pictures[0][20:-20, 20:-20].reshape(-1, 3).mean(axis=0)
    assert red > blue + 40.0  # far off is hot
    fractions = [event.fraction for event in told]
    assert {event.stage for event in told} == {"measuring"} and fractions == sorted(fractions) and fractions[-1] == 1.0


def test_nothing_is_kept_of_a_measuring_that_is_stopped_or_fails(server, tmp_path):
    request = measurable_request(tmp_path)
    take = take_of_frames(request, exact)
    with pytest.raises(JobCancelled):
        measure(request, take, server.address, should_stop=lambda: True)
    (take.folder / "windows/02/0002.png").unlink()
    with pytest.raises(StorageError, match=r"0002\.png of the take cannot be read"):
        measure(request, take, server.address)
    assert read_report(take.folder) is None
