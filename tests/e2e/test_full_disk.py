# SPDX-License-Identifier: GPL-3.0-or-later
"""A disk that is full to the last byte while a job runs."""

import shutil
import subprocess

import pytest

from das_blender_addon.client.client import DasClient
from tests.support.server import running_server
from tests.support.wire import follow, is_step, submit, whole_story

SIZE_BYTES = 24 << 20


@pytest.fixture
def small_disk(tmp_path):
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_BYTES}", "tmpfs", str(tmp_path)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield tmp_path
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def fill(folder) -> None:
    with open(folder / "filler", "ab", buffering=0) as file:
        for piece in (bytes(1 << 16), b"\0"):
            try:
                while file.write(piece):
                    pass
            except OSError:
                continue


def test_job_that_finds_the_disk_full_is_made_when_there_is_room(small_disk):
    environment = {"DAS_SERVER_MIN_FREE_BYTES": "0", "DAS_SERVER_HEARTBEAT_TIMEOUT_S": "20"}
    job = {"num_inference_steps": 20}
    with running_server(small_disk / "state", environment=environment) as server:
        with DasClient(server.address, timeout_s=60) as client:
            expected = follow(client, submit(client, **job)).frame_shas
            for path in (server.state / "blobs").glob("??/*"):  # or the frames would be there already
                if path.name in expected:
                    path.unlink()
            again = submit(client, **job)
            follow(client, again, until=is_step)
            fill(small_disk)
            server.wait_until(lambda _: "cannot write the blob" in server.log, "a full disk")
            assert client.status().workers[0]["state"] in ("ready", "busy")
            (small_disk / "filler").unlink()
        finished = whole_story(server.address, again)
        assert finished.last.kind == "DONE" and finished.frame_shas == expected
        assert server.is_running()
