# SPDX-License-Identifier: GPL-3.0-or-later
"""What comes to the socket: two clients, wrong versions, requests that cannot be met, rubbish."""

import contextlib
import json
import os
import random
import socket
import stat
import subprocess
import sys
from pathlib import Path

import msgpack
import pytest
import zmq

from das_blender_addon.client.client import DasClient
from das_blender_addon.errors import JobRejected, MessageTooLarge, ProtocolError, StorageError
from das_blender_addon.protocol import messages
from das_blender_addon.protocol.codec import decode, encode
from tests.support.jobs import job_id, job_inputs, job_spec
from tests.support.server import ROOT, run_das_server, running_server, server_python
from tests.support.wire import follow, submit


@pytest.fixture
def dealer(server):
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.LINGER, 0)
    dealer.connect(server.address)
    yield dealer
    dealer.close()
    context.term()


def ask(dealer, frames: list[bytes], timeout_ms: int = 60_000):
    dealer.send_multipart(frames)
    assert dealer.poll(timeout_ms), "no reply"
    return decode(dealer.recv_multipart())[0]


def test_endpoint_process_has_no_torch(server):
    with open(f"/proc/{server.pid}/maps", encoding="utf-8", errors="replace") as file:
        assert "libtorch" not in file.read()
    program = (
        "import sys, das_server.door.server, das_server.cli\n"
        "print([name for name in ('torch', 'diffusers') if name in sys.modules])"
    )
    answer = subprocess.run([server_python(), "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


@pytest.mark.skipif(os.name != "posix", reason="modes of files")
def test_nobody_else_on_the_machine_reads_what_the_server_keeps(server):
    with DasClient(server.address, timeout_s=60) as client:
        client.cancel(submit(client, seed=43))
    open_to_others, names = [], set()
    for folder, folders, files in os.walk(server.state):
        for path in (Path(folder), *(Path(folder, name) for name in (*folders, *files))):
            with contextlib.suppress(FileNotFoundError):  # the server works: files come and go
                open_to_others += [path] if stat.S_IMODE(path.stat().st_mode) & 0o077 else []
                names.add(path.name)
    assert {"jobs.sqlite3", "blobs"} <= names
    assert open_to_others == []


def test_welcome_tells_what_the_server_can_do(server):
    with DasClient(server.address, timeout_s=60) as client:
        capabilities = client.hello().capabilities
    preview = next(model for model in capabilities.models if model.name == "das-preview")
    assert capabilities.default_model == "das-preview" and preview.installed
    assert 49 in preview.num_frames and preview.inputs == ["carried_video"]
    assert "zlib" in capabilities.codecs and capabilities.devices


def test_version_that_server_does_not_speak_is_refused(server, dealer):
    reply = ask(dealer, encode(messages.Hello(1, [99], "from the future")))
    assert isinstance(reply, messages.Failure)
    assert reply.code == "protocol.version" and "99" in reply.message


def test_two_clients_follow_one_job_and_have_their_own(server):
    with DasClient(server.address, timeout_s=60) as one, DasClient(server.address, timeout_s=60) as two:
        shared = submit(one, seed=41, num_inference_steps=4)
        own = submit(two, seed=42)
        theirs, ours = follow(two, shared), follow(one, shared)
        assert theirs == ours
        assert follow(two, own).frame_shas != ours.frame_shas


def test_submit_is_idempotent_and_conflict_is_refused(server):
    with DasClient(server.address, timeout_s=60) as client:
        job = submit(client, seed=51)
        inputs, _ = job_inputs(job_spec(seed=51))
        assert client.submit(job, job_spec(seed=51), inputs).duplicate
        with pytest.raises(JobRejected, match="another request"):
            client.submit(job, job_spec(seed=52), inputs)
        assert follow(client, job).kinds == ["QUEUED", "STARTED", "DONE"]


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"model": "das-huge"}, "model", "das-preview"),
        ({"task": "make_coffee"}, "task", "mesh_to_video"),
        ({"num_frames": 10, "kept_frames": 9}, "num_frames", "9, 17"),
        ({"kept_frames": 10}, "kept_frames", "between 1 and"),
        ({"num_inference_steps": 3}, "num_inference_steps", "4"),
        ({"tracking_range": "wide"}, "tracking_range", "unit"),
        ({"options": {"turbo": True}}, "options", "'turbo' is not known"),
        ({"width": 100}, "width", "104×64, the nearest"),
        ({"seed": -1}, "seed", "2^63"),
        ({"guidance_scale": -2.0}, "guidance_scale", "between 0"),
    ],
)
def test_impossible_request_is_refused_before_it_is_accepted(server, change, field, words):
    inputs, _ = job_inputs(job_spec())
    job = job_id()
    with DasClient(server.address, timeout_s=60) as client:
        with pytest.raises(JobRejected) as caught:
            client.submit(job, job_spec(**change), inputs)
        assert caught.value.field == field
        assert words in caught.value.message
        with pytest.raises(JobRejected, match="no job"):
            client.attach(job)


def test_server_asks_for_missing_blobs_and_accepts_nothing_before(server):
    spec = job_spec(seed=61)
    inputs, _ = job_inputs(spec)
    strange = messages.JobInput("first_frame", "0" * 64, 10, "image/png")
    inputs = [strange if one.role == "first_frame" else one for one in inputs]
    job = job_id()
    with DasClient(server.address, timeout_s=60) as client:
        reply = client.submit(job, spec, inputs)
        assert isinstance(reply, messages.Need) and "0" * 64 in reply.shas
        with pytest.raises(JobRejected, match="no job"):
            client.attach(job)


def test_first_frame_of_wrong_size_fails_with_a_sentence(server):
    spec = job_spec()
    inputs, blobs = job_inputs(spec)
    wrong, other = job_inputs(job_spec(width=48, height=32))
    inputs = [next(w for w in wrong if w.role == "first_frame") if one.role == "first_frame" else one for one in inputs]
    with DasClient(server.address, timeout_s=60) as client:
        for one in inputs:
            client.upload((blobs | other)[one.sha])
        job = job_id()
        client.submit(job, spec, inputs)
        last = follow(client, job).last
    assert last.kind == "FAILED" and last.fields["code"] == "first_frame"
    assert "48×32" in last.fields["message"] and "96×64" in last.fields["message"]


def test_input_that_is_not_what_it_says_fails_with_a_sentence(server):
    spec = job_spec()
    inputs, blobs = job_inputs(spec)
    png = next(one for one in inputs if one.role == "first_frame")
    liar = messages.JobInput("tracking_video", png.sha, png.size_bytes, "array", "uint8", [9, 64, 96, 3], "zlib")
    inputs = [liar if one.role == "tracking_video" else one for one in inputs]
    with DasClient(server.address, timeout_s=60) as client:
        for one in inputs:
            client.upload(blobs[one.sha])
        job = job_id()
        client.submit(job, spec, inputs)
        last = follow(client, job).last
    assert last.kind == "FAILED" and last.fields["code"].startswith("protocol")


def test_fetch_tells_what_it_cannot_give(server):
    with DasClient(server.address, timeout_s=60) as client, pytest.raises(StorageError, match="does not have the blob"):
        client.fetch("0" * 64, 10)


def test_too_large_blob_is_refused(server, dealer):
    reply = ask(dealer, encode(messages.Put(5, "0" * 64, 1 << 40, 0), b""))
    assert isinstance(reply, messages.Failure) and reply.request == 5
    assert reply.code == MessageTooLarge.code


def test_full_disk_is_told_and_nothing_is_half_accepted(tmp_path):
    environment = {"DAS_SERVER_MIN_FREE_BYTES": str(1 << 60)}
    with running_server(tmp_path / "state", environment=environment) as server, DasClient(server.address) as client:
        spec = job_spec()
        inputs, blobs = job_inputs(spec)
        with pytest.raises(StorageError, match="MiB free"):
            client.upload(blobs[inputs[0].sha])
        assert isinstance(client.submit(job_id(), spec, inputs), messages.Need)
        assert server.status()["jobs"] == []
        assert [path for path in (server.state / "incoming").iterdir()] == []


@pytest.mark.parametrize(
    "frames",
    [
        [b""],
        [b"GET / HTTP/1.1"],
        [b"\xc1" * 50],
        [b"", b"", b""],
        [msgpack.packb({"type": "HELLO"})],
        [msgpack.packb({"type": "WELCOME", "request": 3})],
        [msgpack.packb({"type": "PONG", "request": 3})],
        [msgpack.packb({"type": "NO_SUCH", "request": 3})],
        [msgpack.packb({"type": "PING", "request": "three"})],
        [msgpack.packb({"type": "PING", "request": 3}), b"blob"],
        [msgpack.packb([1, 2, 3])],
        [b"\x81" * 1000],
        [msgpack.packb({"type": "ATTACH", "request": 3, "job": "../../etc", "after": 0})],
        [msgpack.packb({"type": "FETCH", "request": 3, "sha": "../../../etc/passwd", "offset": 0, "length": 5})],
        [msgpack.packb({"type": "FETCH", "request": 3, "sha": "0" * 64, "offset": 1 << 62, "length": 1 << 62})],
        [msgpack.packb({"type": "SUBMIT", "request": 3, "job": "0" * 32, "spec": {}, "inputs": []})],
    ],
)
def test_rubbish_gets_failure_and_harms_nobody(server, dealer, frames):
    reply = ask(dealer, frames)
    assert isinstance(reply, messages.Failure)
    assert reply.message
    assert isinstance(ask(dealer, encode(messages.Ping(77))), messages.Pong)


def test_random_bytes_harm_nobody(server, dealer):
    source = random.Random(4)
    valid = encode(messages.Attach(9, "0" * 32, 0))[0]
    for _ in range(300):
        damaged = bytearray(valid)
        for _ in range(source.randrange(1, 6)):
            damaged[source.randrange(len(damaged))] = source.randrange(256)
        dealer.send_multipart([source.choice([bytes(damaged), source.randbytes(source.randrange(200))])])
    number = 0
    while number != 78:
        dealer.send_multipart(encode(messages.Ping(78)))
        assert dealer.poll(60_000)
        number = decode(dealer.recv_multipart())[0].request
    assert server.is_running()


def test_strangers_at_the_port_harm_nobody(server):
    host, port = server.address.removeprefix("tcp://").split(":")
    for words in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", os.urandom(4096), b""):
        with socket.create_connection((host, int(port)), timeout=60) as stranger:
            stranger.sendall(words)
    with DasClient(server.address, timeout_s=60) as client:
        assert client.ping() >= 0


def test_message_over_limit_disconnects_only_its_sender(server, dealer):
    dealer.send_multipart([b"x" * (9 << 20)])
    with DasClient(server.address, timeout_s=60) as client:
        assert client.ping() >= 0


def test_request_type_of_a_server_is_no_request(server, dealer):
    reply = ask(dealer, encode(messages.Accepted(4, "0" * 32, False, 0)))
    assert isinstance(reply, messages.Failure) and reply.code == ProtocolError.code and reply.request == 4


def test_status_is_for_people_and_for_programs(server):
    with DasClient(server.address, timeout_s=60) as client:
        job = submit(client, seed=71)
        follow(client, job)
    status = json.loads(run_das_server("status", "--json", "--server", server.address).stdout)
    assert status["jobs"][0]["job"] == job and status["jobs"][0]["state"] == "DONE"
    worker = status["workers"][0]
    assert worker["pid"] and worker["device"] == "cpu" and worker["versions"]["torch"]
    words = run_das_server("status", "--server", server.address).stdout
    assert job[:8] in words and "worker-0" in words


def test_status_of_absent_server_is_a_sentence():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        answer = run_das_server("status", "--server", address)  # while nobody else gets the port
    assert answer.returncode == 31
    assert answer.stderr.count("\n") == 1 and address in answer.stderr


@pytest.mark.parametrize("address", ["tcp://0.0.0.0:5599", "tcp://*:5599", "tcp://192.0.2.1:5599"])
def test_public_address_is_refused(tmp_path, address):
    answer = run_das_server("serve", "--bind", address, "--state", str(tmp_path / "state"))
    assert answer.returncode == 33
    assert "authentication is not configured" in answer.stderr and answer.stderr.count("\n") == 1
    assert not (tmp_path / "state").exists()


def test_unknown_model_is_refused_at_start(tmp_path):
    answer = run_das_server("serve", "--bind", "tcp://127.0.0.1:*", "--state", str(tmp_path), "--model", "das-huge")
    assert answer.returncode == 50
    assert "das-preview" in answer.stderr and answer.stderr.count("\n") == 1


def test_model_without_weights_is_refused_at_start(tmp_path):
    answer = run_das_server(
        "serve",
        "--state",
        str(tmp_path),
        "--model",
        "das-cogvideox-5b",
        environment={"DAS_SERVER_MODELS": str(tmp_path)},
    )
    assert answer.returncode == 50
    assert "das-server models add" in answer.stderr and answer.stderr.count("\n") == 1


def test_ready_line_names_version_address_and_model(server):
    assert server.ready_line.startswith(f"das-server 0.1.0 listening on {server.address}")
    assert "das-preview" in server.ready_line


def test_server_runs_from_any_folder(tmp_path):
    program = (
        "import runpy, sys; sys.argv = ['das-server', 'version']; runpy.run_module('das_server', run_name='__main__')"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    answer = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (answer.returncode, answer.stdout) == (0, "0.1.0\n")
