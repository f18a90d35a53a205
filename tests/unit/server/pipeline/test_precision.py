# SPDX-License-Identifier: GPL-3.0-or-later
"""float8 as an opt-in: which devices take it, and that those which do not say so before anything is loaded."""

import pytest
import torch

from das_blender_addon.errors import ModelError
from das_server.models.float8 import Float8Linear, use_float8
from das_server.models.registry import PREVIEW_FOLDER
from das_server.pipeline import precision
from das_server.pipeline.acceleration import DeviceDescription
from das_server.pipeline.cogvideox.pipeline import DasPipeline
from das_server.pipeline.loading import load_pipeline
from das_server.pipeline.precision import check_float8, probe_float8, why_not_float8
from das_server.pipeline.prompt import PromptCache
from tests.support.models import gradient_clip

CPU = torch.device("cpu")
H100 = DeviceDescription("cuda", "H100", (9, 0), True)
BROKEN = "CUDA error: an illegal memory access was encountered"


@pytest.mark.parametrize(("capability", "fits"), [((7, 5), False), ((8, 6), False), ((8, 9), True), ((9, 0), True)])
def test_gpu_is_judged_by_its_compute_capability(capability, fits):
    problem = why_not_float8(DeviceDescription("cuda", "Some GPU", capability))
    assert (problem == "") is fits
    assert fits or problem.endswith(f"Some GPU has {capability[0]}.{capability[1]}")


def test_other_makers_gpu_is_refused():
    assert why_not_float8(DeviceDescription("rocm", "Some GPU")).endswith("and this is Some GPU")


def test_cpu_is_refused_in_one_sentence():
    with pytest.raises(
        ModelError, match="float8 needs an NVIDIA GPU .* and this is CPU: start without float8.$"
    ) as caught:
        check_float8(CPU, torch.float32)
    assert caught.value.field == "float8"


def test_model_is_refused_before_it_is_loaded():
    with pytest.raises(ModelError, match="start without float8"):
        load_pipeline("das-preview", device="cpu", float8=True)


def test_probe_passes_where_the_numbers_are_right():
    assert probe_float8(CPU, torch.float32) == "" and probe_float8(CPU, torch.bfloat16) == ""


def test_probe_names_what_is_wrong(monkeypatch):
    monkeypatch.setattr(Float8Linear, "forward", lambda self, x: x.new_zeros(len(x), self.out_features))
    assert "differs by 1e+02 %" in probe_float8(CPU, torch.float32)


def fails_with(words):
    """A float8 layer whose kernel ends in an error of CUDA."""

    def forward(self, x):
        raise RuntimeError(words)

    return forward


def test_float8_that_breaks_the_device_is_noted_and_not_tried_again(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "describe_device", lambda device: H100)
    monkeypatch.setattr(Float8Linear, "forward", fails_with(BROKEN))
    with pytest.raises(RuntimeError, match="CUDA error"):  # the process must end
        check_float8(CPU, torch.bfloat16, tmp_path / "notes")
    (note,) = (tmp_path / "notes").iterdir()
    assert note.name.startswith("float8-H100-torch_") and BROKEN in note.read_text()

    monkeypatch.setattr(Float8Linear, "forward", fails_with("not reached"))
    with pytest.raises(
        ModelError, match="float8 broke H100 before .remove .* to try it again.: start without"
    ) as caught:
        check_float8(CPU, torch.bfloat16, tmp_path / "notes")
    assert str(note) in caught.value.message and caught.value.field == "float8"


def test_float8_that_the_gpus_library_does_not_offer_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "describe_device", lambda device: H100)
    monkeypatch.setattr(Float8Linear, "forward", fails_with("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling …"))
    with pytest.raises(ModelError, match="float8 does not work on cpu: RuntimeError: .*: start without float8"):
        check_float8(CPU, torch.bfloat16, tmp_path / "notes")
    assert not (tmp_path / "notes").exists()


def test_doctor_says_that_float8_breaks_the_device(monkeypatch):
    monkeypatch.setattr(precision, "describe_device", lambda device: H100)
    monkeypatch.setattr(Float8Linear, "forward", fails_with(BROKEN))
    assert precision.doctor("cpu") == f"float8 broke cpu: RuntimeError: {BROKEN}"


def test_offloaded_blocks_in_float8_give_the_same_latents(tmp_path):
    video, picture = gradient_clip(9, 48, 32)
    request = {"num_inference_steps": 1, "guidance_scale": 1.0, "output_type": "latent"}
    results = []
    for profile in ("resident", "group_offload"):
        pipeline = DasPipeline.from_pretrained(PREVIEW_FOLDER, device="cpu", prompt_cache=PromptCache(tmp_path))
        assert use_float8(pipeline.transformer) > 0
        pipeline.use_profile(profile)
        results.append(pipeline("a boat", video, picture, **request).latents)
    assert torch.equal(*results)
