# SPDX-License-Identifier: GPL-3.0-or-later
"""Finding devices, and the words between server and worker."""

import dataclasses
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import zmq

from das_blender_addon.errors import SettingsError
from das_server.workers import wire
from das_server.workers.base import WorkOrder
from das_server.workers.devices import find_devices, gpus_in
from das_server.workers.local import LocalWorkers
from das_server.workers.machine import set_up_torch

TWO_GPUS = "GPU 0: NVIDIA A100 (UUID: GPU-aaaa-1)\nGPU 1: NVIDIA A100 (UUID: GPU-bbbb-2)\n"
SPLIT_GPU = (
    "GPU 0: NVIDIA H100 (UUID: GPU-aaaa-1)\n"
    "  MIG 1g.10gb     Device  0: (UUID: MIG-cccc-3)\n"
    "  MIG 1g.10gb     Device  1: (UUID: MIG-dddd-4)\n"
    "GPU 1: NVIDIA H100 (UUID: GPU-bbbb-2)\n"
)


def test_gpus_are_read_from_the_listing_with_parts_for_a_split_one():
    assert gpus_in(TWO_GPUS) == ["GPU-aaaa-1", "GPU-bbbb-2"]
    assert gpus_in(SPLIT_GPU) == ["MIG-cccc-3", "MIG-dddd-4", "GPU-bbbb-2"]
    assert gpus_in("No devices were found\n") == []


def test_auto_is_one_worker_per_visible_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    found = find_devices(("auto",))
    assert [device for device, _ in found] == ["cuda:0", "cuda:0"]
    assert [environment["CUDA_VISIBLE_DEVICES"] for _, environment in found] == ["2", "5"]
    assert find_devices(("cuda:1", "cpu")) == [("cuda:0", found[1][1]), ("cpu", {})]


def test_joined_devices_are_one_worker_that_sees_them_all(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b,GPU-c")
    (pair, alone) = find_devices(("cuda:2+cuda:0", "cuda:1"))
    assert pair[0] == "cuda:0+cuda:1" and pair[1]["CUDA_VISIBLE_DEVICES"] == "GPU-c,GPU-a"
    assert alone[0] == "cuda:0" and alone[1]["CUDA_VISIBLE_DEVICES"] == "GPU-b"
    assert find_devices(("cpu+cpu",)) == [("cpu+cpu", {})]
    with pytest.raises(SettingsError, match="cuda:3 does not exist"):
        find_devices(("cuda:0+cuda:3",))


def test_device_that_is_not_there_is_refused_with_those_that_are(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(SettingsError, match="cuda:2 does not exist; this machine has cuda:0, cuda:1"):
        find_devices(("cuda:2",))


def test_auto_without_gpu_is_one_worker(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert find_devices(("auto",)) == [("auto", {})]


def test_message_comes_back_as_it_was():
    message = {"kind": "progress", "job": "a" * 32, "attempt": 1, "fields": {"step": 3, "elapsed_s": 0.5}}
    assert wire.unpack("secret", wire.pack("secret", message)) == message


@pytest.mark.parametrize(
    "frames",
    [
        wire.pack("other", {"kind": "hello"}),
        [b"secret"],
        [b"secret", b"\xc1"],
        [b"secret", wire.pack("secret", {"no": "kind"})[1]],
        [b"", b""],
    ],
)
def test_message_of_a_stranger_is_none(frames):
    assert wire.unpack("secret", frames) is None


def test_words_that_cannot_be_understood_cost_no_other_word(tmp_path, caplog):
    context = zmq.Context()
    workers = LocalWorkers(context, tmp_path, devices=("cpu",))
    one = workers._processes[0]
    one.process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    one.heard_s = time.monotonic()
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.ROUTING_ID, one.routing_id)
    dealer.connect(workers._spawner.address)
    try:
        for message in ({"kind": "ready"}, {"kind": "problem"}, {"kind": "problem", "message": "It is hot."}):
            dealer.send_multipart(wire.pack(workers._token, message))
        deadline = time.monotonic() + 60
        while not workers.status()[0].problem and time.monotonic() < deadline:
            assert workers.news() == []
        assert workers.status()[0].problem == "It is hot."
        dealer.send_multipart(wire.pack(workers._token, {"kind": "problem", "message": ""}))
        while workers.status()[0].problem and time.monotonic() < deadline:
            assert workers.news() == []
        assert workers.status()[0].problem == ""
        assert caplog.text.count("cannot be understood") == 2
    finally:
        dealer.close(linger=0)
        workers.stop()
        context.term()


def test_worker_is_of_the_servers_own_copy_whatever_lies_in_the_folder_where_it_was_started(tmp_path, monkeypatch):
    other = tmp_path / "das_server"
    other.mkdir()
    (other / "__init__.py").write_text("raise SystemExit(99)")
    monkeypatch.chdir(tmp_path)
    context = zmq.Context()
    workers = LocalWorkers(context, tmp_path, devices=("cpu",))
    arguments = (*workers._spawner.arguments, "--nosuch")
    workers._spawner = dataclasses.replace(workers._spawner, arguments=arguments)  # the true one says so and ends
    try:
        workers.start()
        assert workers._processes[0].process.wait(60) == 2
    finally:
        workers.stop()
        context.term()


def _environment_of(pid: int) -> list[bytes]:
    """`NAME=value` of a process just started: the kernel shows none until its program is in place."""
    deadline = time.monotonic() + 60
    while not (environment := Path(f"/proc/{pid}/environ").read_bytes()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return environment.split(b"\0")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the environment of another process")
@pytest.mark.parametrize(("said", "expected"), [(None, ("PASSIVE", "268435456")), ("ACTIVE", ("ACTIVE", "4096"))])
def test_threads_of_a_worker_sleep_and_it_keeps_its_memory_unless_told_otherwise(tmp_path, monkeypatch, said, expected):
    for name, value in (("OMP_WAIT_POLICY", said), ("MALLOC_TRIM_THRESHOLD_", said and "4096")):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    context = zmq.Context()
    workers = LocalWorkers(context, tmp_path, devices=("cpu",))
    try:
        workers.start()
        environment = _environment_of(workers._processes[0].process.pid)
        for name, value in zip(("OMP_WAIT_POLICY", "MALLOC_TRIM_THRESHOLD_"), expected, strict=True):
            assert f"{name}={value}".encode() in environment
    finally:
        workers.stop()
        context.term()


def test_worker_that_reads_its_libraries_for_long_is_not_started_again_and_again(tmp_path):
    """Reading them keeps its Python from all else: nothing is heard of it."""
    context = zmq.Context()
    workers = LocalWorkers(context, tmp_path, devices=("cpu",), heartbeat_timeout_s=1.0)
    one = workers._processes[0]
    one.process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    one.heard_s = time.monotonic() - 30.0
    try:
        assert workers.news() == [] and one.process.poll() is None and not one.doom
        one.about = {"device": "cpu"}  # it was ready
        workers.news()
        assert one.process.wait(60) and "silent for 1 s" in one.doom
    finally:
        one.process.kill()
        workers.stop()
        context.term()


@pytest.mark.parametrize(("step_s", "grace_s"), [(0.0, 15.0), (2.0, 15.0), (30.0, 90.0)])
def test_worker_with_slow_steps_has_longer_to_stop(tmp_path, step_s, grace_s):
    context = zmq.Context()
    workers = LocalWorkers(context, tmp_path, devices=("cpu",))
    try:
        (one,) = workers._processes
        one.order = WorkOrder("a" * 32, 1, {}, [], "")
        one.heartbeat = {"step_s": step_s}
        before = time.monotonic()
        workers.cancel("a" * 32)
        assert before + grace_s <= one.cancel_deadline_s <= time.monotonic() + grace_s
    finally:
        workers.stop()
        context.term()


def test_worker_is_reproducible_and_fills_no_memory_that_is_about_to_be_written():
    cudnn = torch.backends.cudnn
    before = torch.get_num_threads(), cudnn.benchmark, cudnn.deterministic
    filled = torch.utils.deterministic.fill_uninitialized_memory
    try:
        assert set_up_torch("cpu", 1, compiler=False)["device"] == "cpu"
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.utils.deterministic.fill_uninitialized_memory
    finally:
        torch.set_num_threads(before[0])
        cudnn.benchmark, cudnn.deterministic = before[1:]
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = filled
