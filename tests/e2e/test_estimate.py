# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures and clips are measured by a real server: durable jobs whose results are arrays."""

import time

import numpy as np
import pytest

from das_blender_addon.client.client import DasClient
from das_blender_addon.client.estimates import estimate, estimators_of, repaint
from das_blender_addon.client.take import Progress
from das_blender_addon.errors import JobCancelled, JobRejected, ModelError, SettingsError
from das_blender_addon.protocol.messages import JobSpec
from tests.support.jobs import array_input, first_frame, job_id
from tests.support.server import run_das_server, running_server
from tests.support.tiny_estimators import tiny_onnx, tiny_z_image

ROOM = np.random.default_rng(3).integers(60, 90, (48, 64, 3), dtype=np.uint8)


def thing() -> np.ndarray:
    picture = ROOM.copy()
    picture[12:30, 20:44] = (210, 40, 30)
    return picture


def sliding(num_frames: int) -> np.ndarray:
    wide = first_frame(160, 48)
    wide = (wide + np.random.default_rng(5).integers(0, 40, wide.shape)).clip(0, 255).astype(np.uint8)
    return np.stack([wide[:, frame : frame + 64] for frame in range(num_frames)])


def test_clip_becomes_tracks(server):
    made = estimate(server.address, "tracks", sliding(5), every=16)
    assert made["tracks"].shape == (5, 12, 2) and made["tracks"].dtype == np.float32
    assert made["visible"].shape == (5, 12) and made["visible"].dtype == bool
    moved = made["tracks"][4] - made["tracks"][0]
    assert np.allclose(np.median(moved, axis=0), (-4, 0), atol=0.2)


def test_picture_becomes_mask_and_background(server):
    mask = estimate(server.address, "mask", thing(), box=[16, 8, 34, 28])["mask"]
    expected = (thing() != ROOM).any(axis=-1)
    assert (mask & expected).sum() / (mask | expected).sum() > 0.9
    filled = estimate(server.address, "background", thing(), mask=mask)["picture"]
    assert filled[20, 30, 0] < 130 and (filled[~mask] == thing()[~mask]).all()


def test_capabilities_name_every_estimator_with_licence_and_what_is_missing(server):
    there = {one.name: one for one in estimators_of(server.address)}
    assert there["dis-flow"].installed and there["dis-flow"].kind == "tracks"
    assert all(one.licence and one.gives for one in there.values())
    lacking = there["depth-anything-v2-small"]
    assert not lacking.installed and "das-server models pull depth-anything-v2-small" in lacking.remedy
    with pytest.raises(ModelError, match="das-server models pull depth-anything-v2-small"):
        estimate(server.address, "depth", thing())


@pytest.mark.parametrize(
    ("kind", "video", "parameters", "field", "words"),
    [
        ("tracks", thing(), {}, "num_frames", "1 frame; tracks takes 2 and more"),
        ("tracks", sliding(2), {"every": 0}, "every", "between 1 and 64"),
        ("tracks", sliding(2), {"every": 1 << 60}, "every", "between 1 and 64"),
        ("tracks", np.tile(sliding(2), (1, 20, 20, 1)), {"every": 1}, "every", "ask for every 2 pixels"),
        ("tracks", sliding(2), {"speed": 3}, "options", "'speed' is not known"),
        ("mask", thing(), {}, "options", "none was given"),
        ("mask", thing(), {"box": [0, 0, 64, 48]}, "mask", "whole picture"),
        ("mask", thing(), {"box": [40, 0, 64, 48]}, "box", "not inside the picture of 64×48"),
        ("mask", sliding(2), {"box": [1, 1, 9, 9]}, "num_frames", "one picture"),
        ("mask", np.full((33, 17, 3), 9, np.uint8), {"box": [1, 1, 9, 9]}, "clip", "one colour"),
        ("background", thing(), {"mask": np.zeros((48, 64), bool)}, "mask", "empty"),
        ("background", thing(), {"mask": np.ones((48, 64), bool)}, "mask", "whole picture"),
        ("background", thing(), {"mask": np.ones((4, 4), bool)}, "mask", "not an array bool"),
        ("background", thing(), {}, "inputs", "'mask' is missing"),
        ("tracks", np.zeros((2, 5, 5, 3), np.uint8), {}, "width", "5 pixels"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_sentence(server, kind, video, parameters, field, words):
    with pytest.raises(JobRejected, match=words) as caught:
        estimate(server.address, kind, video, **parameters)
    assert caught.value.field == field and caught.value.code == "job.rejected"


def test_video_that_is_none_is_refused_before_it_is_sent(server):
    with pytest.raises(SettingsError, match="float64"):
        estimate(server.address, "tracks", np.zeros((2, 16, 16, 3)))


def test_estimate_is_as_durable_as_any_job(own_server):
    """The server is killed with the job on its disk; the results are there after its next start."""
    item, blob = array_input("clip", sliding(8))
    spec = JobSpec("estimate", "dis-flow", "", "", 0, 1, 0.0, 8, 8, 64, 48, options={"kind": "tracks"})
    job = job_id()
    with DasClient(own_server.address, timeout_s=60) as client:
        client.upload(blob, item.sha)
        client.submit(job, spec, [item])
    own_server.kill()
    own_server.start()
    with DasClient(own_server.address, timeout_s=60) as client:
        client.attach(job)
        deadline = time.monotonic() + 120
        event = None
        while event is None or event.kind not in ("DONE", "FAILED"):
            assert time.monotonic() < deadline
            event = client.next_event(1.0) or event
    assert event.kind == "DONE"
    assert {one["name"] for one in event.fields["artefacts"]} == {"tracks", "visible"}


def test_measuring_is_cancelled_from_outside_and_the_worker_goes_on(server):
    stages = []

    def on_event(event):
        if isinstance(event, Progress) and event.stage == "encoding":
            stages.append(event.step)

    clip = np.concatenate([sliding(64)] * 6)
    with pytest.raises(JobCancelled):
        estimate(server.address, "tracks", clip, every=1, on_event=on_event, should_stop=lambda: bool(stages))
    worker = server.status()["workers"][0]["pid"]
    assert estimate(server.address, "cuts", sliding(3))["cuts"].tolist() == []
    assert stages and server.status()["workers"][0]["pid"] == worker


def test_weights_that_are_added_while_the_server_runs_are_used(tmp_path):
    environment = {"DAS_SERVER_MODELS": str(tmp_path / "models")}
    with running_server(tmp_path / "state", environment=environment) as own:
        with pytest.raises(ModelError, match="das-server models pull z-image-control"):
            repaint(own.address, thing(), "a red boat")
        sources = {"tiny-depth": tiny_onnx(tmp_path / "a"), "z-image-control": tiny_z_image(tmp_path / "b")}
        for name, folder in sources.items():
            assert run_das_server("models", "add", name, str(folder), environment=environment).returncode == 0
        depth = estimate(own.address, "depth", thing())
        assert depth["depth"].shape == depth["valid"].shape == (1, 48, 64) and depth["lens_mm"].tolist() == [0.0]
        painted = repaint(own.address, thing(), "a red boat", depth=depth["depth"][0], steps=1)
        assert painted.shape == (48, 64, 3) and painted.dtype == np.uint8
        for parameters, field in (
            ({"prompt": "  "}, "prompt"),
            ({"steps": 1 << 19}, "num_inference_steps"),
            ({"strength": -1.0}, "strength"),
            ({"depth": np.zeros((48, 64))}, "depth"),
            ({"depth": np.zeros((4, 64))}, "depth"),
        ):
            with pytest.raises(JobRejected) as caught:
                repaint(own.address, thing(), **{"prompt": "a boat", **parameters})
            assert caught.value.field == field
        assert estimate(own.address, "mask", thing(), box=[16, 8, 34, 28])["mask"].any()


def test_clip_is_held_against_its_prediction(server):
    clip = sliding(6)
    seen = np.ones(clip.shape[:3], bool)
    late = estimate(server.address, "adherence", clip[:-1], prediction=clip[1:], seen=seen[1:])["error"]
    assert late.shape == (5, 48, 64) and late.dtype == np.float16
    counted = late[np.isfinite(late)].astype(float)
    assert len(counted) > 0.2 * late.size and abs(counted.mean() - 1.0) < 0.3  # it slides by a pixel a frame
    flat = np.full_like(clip, 90)  # a model that made nothing is measured, too
    assert np.isnan(estimate(server.address, "adherence", flat, prediction=clip, seen=seen)["error"]).all()


@pytest.mark.parametrize(
    ("arrays", "field"),
    [
        ({}, "inputs"),
        ({"prediction": sliding(3)}, "inputs"),
        ({"prediction": sliding(3)[..., 0], "seen": np.ones((3, 48, 64), bool)}, "prediction"),
        ({"prediction": sliding(2), "seen": np.ones((3, 48, 64), bool)}, "prediction"),
        ({"prediction": sliding(3), "seen": np.ones((48, 64), bool)}, "seen"),
        ({"prediction": sliding(3), "seen": np.ones((3, 48, 64), np.uint8)}, "seen"),
    ],
)
def test_adherence_without_what_it_is_held_against_is_rejected(server, arrays, field):
    with pytest.raises(JobRejected) as refused:
        estimate(server.address, "adherence", sliding(3), **arrays)
    assert refused.value.field == field
