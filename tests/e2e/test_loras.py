# SPDX-License-Identifier: GPL-3.0-or-later
"""LoRAs through a running server: offered, asked for per job, gone with the next one."""

from dataclasses import replace

import pytest

from das_blender_addon.client.client import DasClient
from das_blender_addon.errors import JobRejected
from das_server.models.registry import PREVIEW_FOLDER
from das_server.models.tensors import read_tensor_shapes, weight_files
from tests.support.adapters import write_lora
from tests.support.jobs import job_id, job_inputs, job_spec
from tests.support.server import run_das_server, running_server
from tests.support.wire import follow


def test_each_job_has_the_adapters_that_it_asks_for(tmp_path):
    environment = {"DAS_SERVER_MODELS": str(tmp_path / "models")}
    shapes = read_tensor_shapes(weight_files(PREVIEW_FOLDER / "transformer")[0])
    file = write_lora(tmp_path / "ink.safetensors", shapes, size=0.5)
    added = run_das_server("models", "add-lora", "ink", str(file), "--model", "das-preview", environment=environment)
    assert added.returncode == 0, added.stderr
    assert "LoRA for das-preview" in run_das_server("models", "list", environment=environment).stdout

    with (
        running_server(tmp_path / "state", environment=environment) as server,
        DasClient(server.address, timeout_s=60) as client,
    ):
        models = {one.name: one for one in client.hello().capabilities.models}
        [[name, sha]] = models["das-preview"].loras

        def made(*loras):
            spec = replace(job_spec(), options={"loras": [list(one) for one in loras]} if loras else {})
            job, (inputs, blobs) = job_id(), job_inputs(spec)
            for one in inputs:
                client.upload(blobs[one.sha])
            client.submit(job, spec, inputs)
            return follow(client, job)

        plain = made()
        ink = made((name, 1.0, sha))
        assert ink.last.kind == "DONE" and ink.frame_shas != plain.frame_shas
        assert ink.last.fields["report"]["pipeline"]["loras"] == [[name, 1.0, sha]]
        assert made((name, 0.0, sha)).frame_shas == plain.frame_shas
        assert made((name, 1.0, sha)).frame_shas == ink.frame_shas
        assert made().frame_shas == plain.frame_shas
        with pytest.raises(JobRejected, match="There is no LoRA 'oil' for das-preview; there is ink"):
            made(("oil", 1.0, sha))
