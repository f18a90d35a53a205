# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker of several devices: its clips are those of one, and the loss of one process is the loss of the worker."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from das_blender_addon.client.client import DasClient
from das_blender_addon.protocol.png import decode_png
from tests.support.jobs import job_id, job_inputs, job_spec
from tests.support.server import running_server
from tests.support.wire import follow, is_alive, kill

LEVELS = 1
"""By which 8-bit frames may differ where float32 sums were taken in another order."""


def made(client, **changes):
    """A finished job and its frames, u8 [T,H,W,3]."""
    spec = replace(job_spec(), **changes)
    job, (inputs, blobs) = job_id(), job_inputs(spec)
    for one in inputs:
        client.upload(blobs[one.sha])
    client.submit(job, spec, inputs)
    done = follow(client, job)
    assert done.last.kind == "DONE", done.last
    artefacts = [one for one in done.last.fields["artefacts"] if one["role"] == "frame"]
    frames = [decode_png(client.fetch(one["sha"], one["size_bytes"]), name="A frame") for one in artefacts]
    return done.last.fields["report"], np.stack(frames)


def companions_of(pid: int) -> list[int]:
    """Processes that the worker has started."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_one_worker_of_two_devices_makes_the_clips_of_one(tmp_path):
    fast = {"num_inference_steps": 10, "options": {"speed": "fast"}}
    jobs = ({"guidance_scale": 6.0, "num_inference_steps": 2}, {}, fast)
    with running_server(tmp_path / "one") as server, DasClient(server.address, timeout_s=60) as client:
        assert next(one.speeds for one in client.hello().capabilities.models if one.name == "das-preview")[0] == "exact"
        alone = [made(client, **changes) for changes in jobs]
    with (
        running_server(tmp_path / "two", "--devices", "cpu+cpu", "--speed", "fast") as server,
        DasClient(server.address, timeout_s=60) as client,
    ):
        assert next(one.speeds for one in client.hello().capabilities.models if one.name == "das-preview")[0] == "fast"
        both = [made(client, **changes) for changes in jobs]
        for (report, frames), (expected, exact) in zip(both[:2], alone[:2], strict=True):
            assert np.abs(frames.astype(int) - exact.astype(int)).max() <= LEVELS
            assert report["pipeline"]["speed"] == expected["pipeline"]["speed"] == "exact"
        ways = [report["pipeline"]["rows"] for report, _ in both]
        assert ways == ["one on each device", "split over the devices", "split over the devices"]
        assert [report["pipeline"]["rows"] for report, _ in alone] == ["together"] * 3
        assert alone[2][0]["pipeline"]["passes_left_out"] >= 0 and both[2][0]["pipeline"]["speed"] == "fast"

        (worker,) = server.status()["workers"]
        assert worker["device_label"].endswith("and 1 more")
        (companion,) = companions_of(worker["pid"])
        kill(companion)
        lost = server.wait_until(lambda status: status["workers"][0]["pid"] not in (0, worker["pid"]), "a new worker")
        assert lost
        _, frames = made(client, **jobs[0])
        assert np.array_equal(frames, both[0][1])
        (new,) = server.status()["workers"]
        (companion,) = companions_of(new["pid"])
        kill(new["pid"])
        server.wait_until(lambda _: not is_alive(companion), "the end of the other process")
