# SPDX-License-Identifier: GPL-3.0-or-later
"""What finished jobs say of a device's speed, and what becomes of it."""

import pytest

from das_blender_addon.protocol import messages as m
from das_server.door.requests import Requests
from das_server.door.server import known_models
from das_server.workers.base import WorkDone
from das_server.workers.dispatch import Dispatcher
from das_server.workers.speed import FAST_S, GROWTH, LARGE_CLIP, NAME, SpeedRecord, large_clip_s
from tests.support.jobs import job_spec
from tests.unit.server.workers.test_dispatch import frame, house, submitted  # noqa: F401  (a fixture)

MODEL, DEVICE = "das-preview", "CPU, 2 threads (x86_64)"
FRAMES, WIDTH, HEIGHT = LARGE_CLIP


def report(seconds: float, device: str = DEVICE) -> dict:
    """The report of a job that denoised for so long."""
    return {"device": device, "timings_s": {"denoising": seconds, "total": seconds + 9}}


def large_job():
    return job_spec(num_frames=FRAMES, kept_frames=FRAMES, width=WIDTH, height=HEIGHT)


def test_seconds_of_a_large_clip_are_its_work_without_loading_and_saving():
    timings_s = {"loading": 50, "encoding": 1, "denoising": 2, "decoding": 3, "composing": 4, "saving": 60, "total": 99}
    assert large_clip_s(timings_s, large_job()) == pytest.approx(10)


def test_seconds_of_a_large_clip_grow_faster_than_its_pixels():
    quarter = job_spec(num_frames=FRAMES, kept_frames=FRAMES, width=WIDTH // 2, height=HEIGHT // 2)
    assert large_clip_s({"denoising": 1.0}, quarter) == pytest.approx(4**GROWTH)
    larger = job_spec(num_frames=2 * FRAMES, kept_frames=1, width=WIDTH, height=HEIGHT)
    assert large_clip_s({"denoising": 1.0}, larger) == pytest.approx(1.0)


def test_device_is_fast_once_a_job_was_and_stays_so_after_a_restart(tmp_path):
    record = SpeedRecord(tmp_path)
    assert not record.is_fast(MODEL, [DEVICE])
    for seconds, fast in ((2 * FAST_S, False), (FAST_S, True), (3 * FAST_S, True)):
        record.note(large_job(), report(seconds))
        assert record.is_fast(MODEL, [DEVICE]) == fast
        assert SpeedRecord(tmp_path).is_fast(MODEL, [DEVICE]) == fast


def test_server_is_fast_only_when_all_its_devices_are(tmp_path):
    record = SpeedRecord(tmp_path)
    record.note(large_job(), report(1.0))
    assert not record.is_fast(MODEL, [DEVICE, "another"])
    assert not record.is_fast(MODEL, [])
    assert not record.is_fast("das-cogvideox-5b", [DEVICE])


@pytest.mark.parametrize("text", ["", "no json", "[1]", '{"das-preview": 3}', '{"das-preview": {"cpu": "x"}}'])
def test_damaged_record_is_forgotten(tmp_path, text):
    (tmp_path / NAME).write_text(text)
    record = SpeedRecord(tmp_path)
    record.note(large_job(), report(1.0))
    assert SpeedRecord(tmp_path).is_fast(MODEL, [DEVICE])


def test_record_that_cannot_be_written_harms_no_job(tmp_path, caplog):
    record = SpeedRecord(tmp_path / "missing")
    record.note(large_job(), report(1.0))
    assert record.is_fast(MODEL, [DEVICE]) and "is not kept" in caplog.text


def test_finished_job_makes_the_server_say_that_the_model_is_fast(house, tmp_path):  # noqa: F811
    store, blobs, workers, _ = house
    speed = SpeedRecord(tmp_path)
    dispatcher = Dispatcher(store, blobs, workers, speed=speed)
    requests = Requests(store, blobs, workers, dispatcher, follow=lambda peer, job, after: None, models=known_models,
                        default_model=MODEL, max_blob_bytes=1, speed=speed)

    def said() -> bool:
        welcome, _ = requests.greet(m.Hello(1, [1], "test"), requests.look_at_offers()())
        return next(one for one in welcome.capabilities.models if one.name == MODEL).is_fast

    before = said()
    job = submitted(store, num_frames=FRAMES, kept_frames=FRAMES, width=WIDTH, height=HEIGHT)
    dispatcher.tick()
    label = workers.status()[0].device
    workers.waiting = [WorkDone(job, 1, (frame(blobs),), report(1.0, label))]
    dispatcher.tick()
    assert (before, said()) == (False, True)
