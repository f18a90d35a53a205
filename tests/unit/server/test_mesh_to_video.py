# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests are compared with what the model takes before they are accepted."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from das_blender_addon.errors import FirstFrameError, JobRejected
from das_blender_addon.protocol.png import encode_png
from das_server import media
from das_server.models.adapters import Adapter
from das_server.models.registry import model_spec
from das_server.tasks import mesh_to_video
from das_server.tasks.base import LoadedInput, task_module
from tests.support.jobs import array_input, first_frame, job_inputs, job_spec, png_input, tracking_video

INK = Adapter("ink", "das-preview", "ab" * 32, 1, Path("ink.safetensors"))
PREVIEW = model_spec("das-preview").capability(True, [INK])
FULL = model_spec("das-cogvideox-5b").capability(True)
INPUTS, BLOBS = job_inputs(job_spec())


def check(inputs=INPUTS, model=PREVIEW, **changes):
    mesh_to_video.check(job_spec(**changes), list(inputs), model)


def without(role: str):
    return [one for one in INPUTS if one.role != role]


def test_good_request_passes():
    check()


def test_model_that_reads_a_carried_video_works_without_one():
    assert "carried_video" in [one.role for one in INPUTS]
    check(inputs=without("carried_video"))


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"num_frames": 10}, "num_frames", "9, 17, 25, 33, 41, 49"),
        ({"num_frames": 57}, "num_frames", "49"),
        ({"width": 100}, "width", "100×64 is not one that das-preview makes; use 104×64, the nearest"),
        ({"width": 368, "height": 240}, "width", "use 360×232"),
        ({"height": 40}, "width", "use 96×48"),
        ({"width": 2**64 - 1, "height": 0}, "width", "use 360×48"),
        ({"kept_frames": 0}, "kept_frames", "between 1 and num_frames, 9"),
        ({"num_inference_steps": 0}, "num_inference_steps", "1, 2, 4"),
        ({"num_inference_steps": 30}, "num_inference_steps", "25, 40"),
        ({"guidance_scale": float("nan")}, "guidance_scale", "between 0 and 100"),
        ({"guidance_scale": 101.0}, "guidance_scale", "between 0 and 100"),
        ({"seed": 2**63}, "seed", "2^63"),
        ({"tracking_range": ""}, "tracking_range", "signed, unit"),
        ({"prompt": "x" * 10_001}, "prompt", "10001"),
        ({"negative_prompt": "x" * 10_001}, "negative_prompt", "10000"),
        ({"options": {"compose": True}}, "options", "'compose' is not known; das-preview takes loras, speed"),
        ({"options": {"loras": [["oil", 1.0, INK.sha]]}}, "loras", "no LoRA 'oil' for das-preview; there is ink"),
        ({"options": {"loras": [["ink", 1.0, "cd" * 32]]}}, "loras", "ink has been replaced since this job"),
        ({"options": {"loras": [["ink", float("nan"), INK.sha]]}}, "loras", "weight of the LoRA ink is nan"),
        ({"options": {"loras": [["ink", -10.5, INK.sha]]}}, "loras", "from -10 to 10"),
        ({"options": {"loras": [["ink", 1, INK.sha]]}}, "loras", "each one is [name, weight, SHA-256]"),
        ({"options": {"loras": {"ink": 1.0}}}, "loras", "each one is [name, weight, SHA-256]"),
        ({"options": {"loras": [["ink", 1.0, INK.sha], ["ink", 0.5, INK.sha]]}}, "loras", "asked for twice"),
        ({"options": {"loras": [["ink", 1.0, INK.sha]] * 9}}, "loras", "at most 8"),
        ({"options": {"speed": "warp"}}, "speed", "das-preview takes exact, fast, preview"),
        ({"options": {"speed": 2}}, "speed", "speed is 2"),
        ({"options": {"x" * 4096: True}}, "options", f"'{'x' * 40}' is not known"),
    ],
)
def test_bad_setting_is_named_with_the_valid_values(changes, field, words):
    with pytest.raises(JobRejected) as caught:
        check(**changes)
    assert caught.value.field == field
    assert words in caught.value.message and caught.value.message.endswith(".")


@pytest.mark.parametrize(("width", "height"), [(200, 136), (136, 200), (48, 48), (360, 240), (240, 360)])
def test_every_size_in_the_models_range_passes(width, height):
    spec = job_spec(width=width, height=height)
    mesh_to_video.check(spec, job_inputs(spec)[0], PREVIEW)


def test_full_model_makes_one_size():
    spec = job_spec(model=FULL.name, num_frames=49, kept_frames=49, width=200, height=136, num_inference_steps=50)
    with pytest.raises(JobRejected, match="not one that das-cogvideox-5b makes; use 720×480[.]$") as caught:
        mesh_to_video.check(spec, INPUTS, FULL)
    assert (caught.value.code, caught.value.field) == ("job.rejected", "width")


def test_size_that_fits_the_model_but_not_the_arrays_is_refused():
    with pytest.raises(JobRejected, match=r"\[9, 96, 64, 3\]") as caught:
        check(width=64, height=96)
    assert caught.value.field == "tracking_video"


@pytest.mark.parametrize("role", ["tracking_video", "first_frame"])
def test_missing_input_is_named(role):
    with pytest.raises(JobRejected, match=role) as caught:
        check(inputs=without(role))
    assert caught.value.field == "inputs"


def test_input_that_model_does_not_read_is_named():
    spec = job_spec(model=FULL.name, num_frames=49, kept_frames=49, width=720, height=480, num_inference_steps=50)
    with pytest.raises(JobRejected, match="'carried_video' is not read by das-cogvideox-5b"):
        mesh_to_video.check(spec, INPUTS, FULL)
    with pytest.raises(JobRejected, match="comes 2 times"):
        check(inputs=[*INPUTS, INPUTS[0]])


@pytest.mark.parametrize("role", ["tracking_video", "carried_video"])
@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "float32"},
        {"shape": [9, 64, 96]},
        {"shape": [9, 96, 64, 3]},
        {"shape": [8, 64, 96, 3]},
        {"codec": "lzma"},
        {"media": "image/png"},
    ],
)
def test_array_of_wrong_form_is_named(role, change):
    inputs = [dataclasses.replace(one, **change) if one.role == role else one for one in INPUTS]
    with pytest.raises(JobRejected) as caught:
        check(inputs=inputs)
    assert caught.value.field == role


@pytest.mark.parametrize("role", ["first_frame_xy", "first_frame_visible"])
def test_input_of_an_older_client_is_named_as_not_read(role):
    extra, _ = array_input(role, np.ones((9, 64, 96), bool))
    with pytest.raises(JobRejected, match=f"{role!r} is not read by das-preview") as caught:
        check(inputs=[*INPUTS, extra])
    assert caught.value.field == "inputs"


def test_unknown_task_is_named():
    assert task_module("mesh_to_video") is mesh_to_video
    with pytest.raises(JobRejected, match="mesh_to_video") as caught:
        task_module("os.path")
    assert caught.value.field == "task"


def test_loaded_input_gives_the_array_that_was_sent():
    about, blob = array_input("tracking_video", tracking_video())
    np.testing.assert_array_equal(LoadedInput(about, blob).array(), tracking_video())


def test_first_frame_is_read_as_it_was_written():
    _, blob = png_input(first_frame())
    image = media.read_first_frame(blob, 96, 64)
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), first_frame())


@pytest.mark.parametrize(
    "content", [b"", b"not a picture", encode_png(first_frame())[:200], b"\xff\xd8\xff\xe0" + b"0" * 50]
)
def test_first_frame_that_is_no_whole_png_is_refused(content):
    with pytest.raises(FirstFrameError, match="PNG|cannot be read") as caught:
        media.read_first_frame(content, 96, 64)
    assert caught.value.field == "first_frame"


def test_first_frame_of_another_size_is_refused_with_both_sizes():
    with pytest.raises(FirstFrameError, match="96×64 pixels but the job says 192×128"):
        media.read_first_frame(encode_png(first_frame()), 192, 128)


def test_preview_is_a_small_jpeg_of_several_frames():
    import io

    from PIL import Image

    frames = np.stack([np.full((100, 150, 3), 60 * t, np.uint8) for t in range(5)])
    with Image.open(io.BytesIO(media.preview_jpeg(frames))) as image:
        pixels = np.asarray(image.convert("L")).astype(int)
        assert image.format == "JPEG" and image.size == (300, 200)
    corners = [pixels[10, 10], pixels[10, -10], pixels[-10, 10], pixels[-10, -10]]
    np.testing.assert_allclose(corners, [0, 60, 180, 240], atol=3)
    with Image.open(io.BytesIO(media.preview_jpeg(frames[:1].repeat(10, axis=1)))) as image:
        assert max(image.size) <= 480


# ── A model that is told of holes ───────────────────────────────────────────────────────────────────────────────────

PAINTER = model_spec("wan-vace-1.3b").capability(True)


def painter_inputs(spec, *, holes=True, carried=True, references=0):
    """Inputs of a clip of ``spec``; of the roles that the model may be given those that are asked for."""
    window = (spec.num_frames, spec.height, spec.width)
    made, _ = job_inputs(spec)
    inputs = [one for one in made if carried or one.role != "carried_video"]
    if holes:
        inputs.append(array_input("carried_holes", np.zeros(window, np.uint8))[0])
    if references:
        inputs.append(array_input("references", np.zeros((references, *window[1:], 3), np.uint8))[0])
    return inputs


def painter_spec(**changes):
    values = {"model": PAINTER.name, "num_frames": 13, "kept_frames": 11, "width": 144, "height": 128} | changes
    return job_spec(**values)


@pytest.mark.parametrize("options", [{}, {"references": 1}, {"references": 4}, {"holes": False, "carried": False}])
def test_model_that_is_told_of_holes_takes_them_with_the_carried_video(options):
    spec = painter_spec()
    mesh_to_video.check(spec, painter_inputs(spec, **options), PAINTER)


@pytest.mark.parametrize(
    ("changes", "options", "field", "words"),
    [
        ({}, {"holes": False}, "inputs", "'carried_holes' is missing"),
        ({}, {"carried": False}, "inputs", "'carried_video' is missing"),
        ({}, {"references": 5}, "references", r"\[5, 128, 144, 3\] but the settings ask for uint8 \[4, 128, 144, 3\]"),
        ({"num_frames": 12}, {}, "num_frames", "takes .*9, 13, 17"),
        ({"width": 136}, {}, "width", "use 144×128, the nearest, or other multiples of 16 from 128×128 to 832×480"),
        ({"num_inference_steps": 101}, {}, "num_inference_steps", "99, 100"),
    ],
)
def test_what_such_a_model_does_not_take_is_named(changes, options, field, words):
    spec = painter_spec(**changes)
    with pytest.raises(JobRejected, match=words) as caught:
        mesh_to_video.check(spec, painter_inputs(spec, **options), PAINTER)
    assert caught.value.field == field


@pytest.mark.parametrize("change", [{"shape": [13, 128, 144, 3]}, {"dtype": "bool"}, {"media": "image/png"}])
def test_holes_of_wrong_form_are_named(change):
    spec = painter_spec()
    inputs = [
        dataclasses.replace(one, **change) if one.role == "carried_holes" else one for one in painter_inputs(spec)
    ]
    with pytest.raises(JobRejected) as caught:
        mesh_to_video.check(spec, inputs, PAINTER)
    assert caught.value.field == "carried_holes"


def test_holes_are_not_read_by_a_model_that_does_not_say_so():
    with pytest.raises(JobRejected, match="'carried_holes' is not read by das-preview"):
        check(inputs=[*INPUTS, array_input("carried_holes", np.zeros((9, 64, 96), np.uint8))[0]])
