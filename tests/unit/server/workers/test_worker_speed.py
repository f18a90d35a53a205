# SPDX-License-Identifier: GPL-3.0-or-later
"""When a worker computes in float8 for the sake of speed, and what it has loaded then."""

import pytest

from das_server.pipeline import loading, precision
from das_server.pipeline.cogvideox.pipeline import DasPipeline
from das_server.workers.link import Link
from das_server.workers.runner import Worker

MODEL = "das-preview"
LORA = {"loras": [["ink", 1.0, "ab" * 32]]}


@pytest.fixture
def worker_of(tmp_path, monkeypatch):
    """A worker whose device can compute in float8, as it says."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr(precision, "check_float8", lambda device, dtype, notes=None: None)

    def make(**settings):
        link = Link("ipc://unused", "worker-0.1", "secret", parent=0)
        return Worker(link, tmp_path, device="cpu", threads=1, profile="auto", **settings)

    return make


@pytest.mark.parametrize(
    ("settings", "options", "wanted"),
    [
        ({"speed": "fast", "compile_blocks": True}, {"speed": "fast"}, True),
        ({"speed": "preview", "compile_blocks": True}, {"speed": "fast"}, True),
        ({"speed": "fast", "compile_blocks": True}, {}, False),
        ({"speed": "fast", "compile_blocks": True}, {"speed": "exact"}, False),
        ({"speed": "fast", "compile_blocks": True}, {"speed": "fast", **LORA}, False),
        ({"speed": "fast", "compile_blocks": False}, {"speed": "fast"}, False),
        ({"speed": "exact", "compile_blocks": True}, {"speed": "fast"}, False),
        ({"float8": True}, {}, True),
    ],
)
def test_float8_is_for_jobs_that_may_lose_something_where_it_pays(worker_of, settings, options, wanted):
    assert worker_of(**settings)._wants_float8(options) is wanted


def test_a_device_that_cannot_is_left_out_of_it(worker_of, monkeypatch):
    monkeypatch.undo()
    assert worker_of(speed="fast", compile_blocks=True)._wants_float8({"speed": "fast"}) is False


def test_weights_are_loaded_once_for_each_precision_in_turn(worker_of, monkeypatch):
    loads = []

    worker = worker_of(speed="fast", compile_blocks=True)
    monkeypatch.setattr(loading, "load_pipeline", load_with(loading.load_pipeline, loads))
    first = worker._load(MODEL, True)
    assert worker._load(MODEL, True) is first and isinstance(first, DasPipeline)
    assert worker._load(MODEL, False) is not first
    assert loads == [True, False]


def load_with(real, loads):
    """The real loading, without what this machine's device does not take."""

    def load(model, *, float8, compile_blocks, **settings):
        loads.append(float8)
        return real(model, **settings)

    return load
