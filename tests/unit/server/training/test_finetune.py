# SPDX-License-Identifier: GPL-3.0-or-later
"""Fine-tuning a checkpoint folder on clips in the public layout, at tiny size."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from das_blender_addon.errors import ModelError
from das_server.models.adapters import AdapterUse, file_sha, tensor_pairs
from das_server.models.transformer import DasTransformer3DModel
from das_server.pipeline import prompt
from das_server.pipeline.adapters import LoadedAdapters
from das_server.pipeline.cogvideox.carry import carry
from das_server.training import finetune
from das_server.training.dataset import read_dataset, read_frames
from das_server.training.loop import LoopSettings
from das_server.training.lora import LORA_NAME
from das_server.training.preview import to_video
from das_server.training.ranks import Ranks
from das_server.training.recipe import FineTuneRecipe, OptimiserSettings
from tests.support.checkpoints import model_of_any_size
from tests.support.live_memory import LiveBytes
from tests.support.models import tiny_inputs, tiny_transformer

ALONE = Ranks(0, 1, torch.device("cpu"))
FRAMES, HEIGHT, WIDTH = 9, 32, 48


@pytest.fixture
def recipe(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("video", "tracking"):
        (tmp_path / "clips" / name).mkdir(parents=True)
        for index in range(FRAMES):
            picture = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            Image.fromarray(picture).save(tmp_path / "clips" / name / f"{index:03d}.png")
    for name, line in (("prompt.txt", "noise"), ("videos.txt", "video"), ("trackings.txt", "tracking")):
        (tmp_path / "clips" / name).write_text(line + "\n")
    loop = LoopSettings(seed=1, steps=2, warmup_steps=1, checkpoint_every=1, log_every=1, validate_every=100)
    return FineTuneRecipe(name="tiny", folder=tmp_path / "out", model=model_of_any_size(tmp_path / "model"),
                          dataset=tmp_path / "clips", optimiser=OptimiserSettings(learning_rate=1e-3), loop=loop,
                          num_frames=FRAMES, height=HEIGHT, width=WIDTH, mixed_precision="no",
                          gradient_checkpointing=True)


def test_finetuning_moves_the_tracking_branch_only(recipe):
    before = DasTransformer3DModel.from_pretrained(recipe.model / "transformer").state_dict()
    finetune.train(recipe, ALONE, resume=False)
    after = DasTransformer3DModel.from_pretrained(recipe.folder / "transformer").state_dict()
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert moved
    assert all(key.startswith(finetune.TRACKING_PREFIXES) for key in moved)


def test_finetuning_resumes_bit_for_bit_after_an_interruption(recipe, tmp_path, monkeypatch):
    finetune.train(recipe, ALONE, resume=False)
    again = replace(recipe, folder=tmp_path / "again")
    objective = finetune.finetune_objective

    def interrupt(transformer, encoders, clips, context):
        if context.step == 1:
            raise KeyboardInterrupt
        return objective(transformer, encoders, clips, context)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(finetune, "finetune_objective", interrupt)
        finetune.train(again, ALONE, resume=False)
    finetune.train(again, ALONE, resume=True)
    whole, resumed = (DasTransformer3DModel.from_pretrained(folder / "transformer").state_dict()
                      for folder in (recipe.folder, again.folder))
    for key, value in whole.items():
        assert torch.equal(resumed[key], value), key


def test_texts_are_encoded_before_the_first_step_and_their_encoder_is_read_once(recipe, monkeypatch):
    """It is larger than all the rest that is frozen; read in every step it would take longer than the step."""
    lists = {"prompt.txt": ["noise", "sea"], "videos.txt": ["video"] * 2, "trackings.txt": ["tracking"] * 2}
    for name, lines in lists.items():
        (recipe.dataset / name).write_text("\n".join(lines) + "\n")
    happened, load, load_model = [], prompt.load_text_encoder, finetune.load_model
    monkeypatch.setattr(prompt, "load_text_encoder", lambda *args: happened.append("text") or load(*args))
    noted = lambda *args, **settings: happened.append("model") or load_model(*args, **settings)  # noqa: E731
    monkeypatch.setattr(finetune, "load_model", noted)
    loop = replace(recipe.loop, validate_every=2)
    finetune.train(replace(recipe, loop=loop, sample_steps=1), ALONE, resume=False)
    assert happened == ["text", "model"]


@pytest.mark.parametrize("computed_again", [True, False])
def test_no_second_copy_of_the_weights_is_kept_where_blocks_are_computed_again(recipe, computed_again):
    recipe = replace(recipe, gradient_checkpointing=computed_again)
    model = tiny_transformer(num_attention_heads=4, attention_head_dim=64, num_layers=6).train()
    if computed_again:
        model.enable_gradient_checkpointing()
    copy_bytes = sum(2 * value.numel() for value in model.parameters())
    inputs = tiny_inputs(model)
    live = LiveBytes([*model.parameters(), *model.buffers()])
    with live, finetune.half_precision(recipe, ALONE.device, torch.bfloat16):
        model(**inputs, return_dict=False)
    assert (live.peak < copy_bytes / 2) == computed_again


def test_prompts_that_cannot_be_kept_are_told_before_the_model_is_loaded(recipe):
    recipe.folder.mkdir()
    (recipe.folder / "prompts").write_text("in the way")
    with pytest.raises(ModelError, match="prompts cannot be kept in .*prompts"):
        finetune.train(recipe, ALONE, resume=False)


@pytest.fixture
def carried_recipe(recipe):
    """The recipe with a model that is given the carried first frame."""
    index = recipe.model / "model_index.json"
    text = index.read_text()
    index.unlink()
    index.write_text(json.dumps({**json.loads(text), "carries_first_frame": True}))
    return replace(recipe, image_noise=False)


def test_carried_first_frame_is_what_a_model_that_is_given_it_trains_on(carried_recipe):
    encoders = finetune.ClipEncoders(carried_recipe, ALONE.device, torch.float32)
    clips = read_dataset(carried_recipe.dataset)
    batch = encoders.encode(clips, torch.Generator().manual_seed(3))
    video, tracking = (read_frames(path, FRAMES, HEIGHT, WIDTH) for path in (clips[0].video, clips[0].tracking))
    generator = torch.Generator().manual_seed(3)
    expected = [encoders._sample(to_video(frames[None]), generator) for frames in (video, carry(video[0], tracking))]
    assert torch.equal(batch["latents"], expected[0])
    assert torch.equal(batch["image_latents"], expected[1])


def test_model_that_is_given_the_carried_first_frame_is_trained_and_sampled(carried_recipe):
    recipe = replace(carried_recipe, image_noise=True, sample_steps=2,
                     loop=replace(carried_recipe.loop, validate_every=2))
    finetune.train(recipe, ALONE, resume=False)
    rows = list(csv.DictReader((recipe.folder / "validation.csv").open()))
    assert [row["step"] for row in rows] == ["2"]
    assert 0 < float(rows[0]["psnr"]) < 60
    assert Image.open(recipe.folder / "samples" / "000002.png").size == (4 * WIDTH, 2 * HEIGHT)


def test_last_clip_is_not_trained_on_where_there_are_several(recipe):
    (clip,) = read_dataset(recipe.dataset)
    other = replace(clip, prompt="another")
    assert finetune.hold_out([clip, other]) == ([clip], other)
    assert finetune.hold_out([clip]) == ([clip], clip)


def test_clip_order_visits_every_clip_once_per_epoch_over_all_ranks():
    ranks = [Ranks(rank, 2, torch.device("cpu")) for rank in range(2)]
    seen = [index for step in range(3) for rank in ranks for index in finetune.clip_order(6, 9, step, 1, rank)]
    assert sorted(seen) == list(range(6))


def test_unknown_trainable_part_is_refused():
    with pytest.raises(ModelError, match='choose "tracking", "lora" or "all"'):
        finetune.select_trainable(torch.nn.Linear(1, 1), "some")


def test_lora_is_trained_alone_and_is_what_servers_take(recipe, tmp_path):
    """Its file, loaded as a job does, gives what the trained model gives; without it the model is the one before."""
    lora = replace(recipe, trainable="lora", lora_rank=2)
    finetune.train(lora, ALONE, resume=False)
    path = recipe.folder / LORA_NAME
    assert not (recipe.folder / "transformer").exists()
    pairs = tensor_pairs(path)
    assert pairs and all(shapes[0][0] == 2 for shapes in pairs.values())
    assert all(name.startswith("transformer_blocks.") for name in pairs)
    assert any(value.abs().max() > 0 for name, value in load_file(path).items() if "lora_B" in name)

    model = DasTransformer3DModel.from_pretrained(recipe.model / "transformer")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    LoadedAdapters().use(model, [AdapterUse("mine", path, file_sha(path), 1.0)], torch.float32, ALONE.device)
    trained = load_file(recipe.folder / "last" / "average.safetensors")
    loaded = {name.replace(".job0.", ".trained."): value for name, value in model.named_parameters()}
    assert all(torch.equal(loaded[name], value) for name, value in trained.items())
    frozen = {name.replace(".base_layer.", "."): value for name, value in model.state_dict().items()}
    assert all(torch.equal(frozen[name], value) for name, value in before.items())


def test_lora_training_resumes_where_it_was(recipe, tmp_path):
    lora = replace(recipe, trainable="lora", lora_rank=2)
    finetune.train(lora, ALONE, resume=False)
    again = replace(lora, folder=tmp_path / "again", loop=replace(lora.loop, steps=1))
    finetune.train(again, ALONE, resume=False)
    finetune.train(replace(again, loop=lora.loop), ALONE, resume=True)
    whole, resumed = (load_file(folder / LORA_NAME) for folder in (lora.folder, again.folder))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_rank_that_is_none_is_refused():
    with pytest.raises(ModelError, match="lora_rank = 0"):
        finetune.select_trainable(torch.nn.Linear(1, 1), "lora", 0)
