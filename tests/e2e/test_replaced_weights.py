# SPDX-License-Identifier: GPL-3.0-or-later
"""Weights that are replaced while the server runs have another name, and no frame of the old ones passes as theirs."""

import os
import shutil

import pytest

from das_blender_addon.client.client import DasClient
from das_blender_addon.errors import ModelError
from das_blender_addon.protocol.messages import Accepted
from das_server.models.checkpoint import write_manifest
from das_server.models.registry import PREVIEW_FOLDER
from tests.support.jobs import HEIGHT, NUM_FRAMES, WIDTH, job_id, job_inputs, job_spec
from tests.support.models import edit_tensors
from tests.support.server import running_server
from tests.support.wire import follow

ABOUT = {"model": {"based_on": "das-cogvideox-5b", "num_frames": [NUM_FRAMES], "sizes": [[WIDTH, HEIGHT]]}}


def submit(client, **changes) -> str:
    """A job of "mine", which reads two inputs only; returns its id."""
    job, spec, inputs, blobs = job_of_mine(**changes)
    for one in inputs:
        client.upload(blobs[one.sha])
    assert isinstance(client.submit(job, spec, inputs), Accepted)
    return job


def job_of_mine(**changes):
    spec = job_spec(model="mine", **changes)
    inputs, blobs = job_inputs(spec)
    return job_id(), spec, [one for one in inputs if one.role != "carried_video"], blobs


def revision_at(server) -> str:
    """What a new client is told."""
    with DasClient(server.address, timeout_s=60) as client:
        models = client.hello().capabilities.models
    return next(one.revision for one in models if one.name == "mine")


def train_a_little(folder):
    """Other weights of the same size in the place of a model's."""
    made = folder.with_name(".made")
    shutil.copytree(folder, made)

    def change(tensors):
        for tensor in tensors.values():
            tensor *= 0.9

    edit_tensors(made / "transformer", change)
    write_manifest(made, about=ABOUT)
    shutil.rmtree(folder)
    os.replace(made, folder)


def test_frames_are_of_the_weights_that_were_meant(tmp_path):
    mine = tmp_path / "models" / "mine"
    shutil.copytree(PREVIEW_FOLDER, mine)
    write_manifest(mine, about=ABOUT)
    environment = {"DAS_SERVER_MODELS": str(mine.parent), "DAS_SERVER_MODEL": "mine"}
    with running_server(tmp_path / "state", environment=environment) as server:
        with DasClient(server.address, timeout_s=60) as client:
            first = revision_at(server)
            before = follow(client, submit(client, model_revision=first))
            assert follow(client, submit(client, model_revision=first)).frame_shas == before.frame_shas
            worker = server.status()["workers"][0]["pid"]

            train_a_little(mine)
            second = revision_at(server)
            assert second not in (first, "")
            with pytest.raises(ModelError, match="mine have been replaced since this job was planned"):
                submit(client, model_revision=first)
            after = follow(client, submit(client, model_revision=second))
            unnamed = follow(client, submit(client))
        assert server.status()["workers"][0]["pid"] == worker
    assert after.last.kind == "DONE" and after.frame_shas != before.frame_shas
    assert unnamed.frame_shas == after.frame_shas
    assert after.last.fields["report"]["settings"]["model_revision"] == second
