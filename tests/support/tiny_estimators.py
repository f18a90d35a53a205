# SPDX-License-Identifier: GPL-3.0-or-later
"""Estimators at a tiny size with random weights, as folders that ``das-server models add`` takes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np


def tiny_onnx(folder: Path, **about) -> Path:
    """A network of one multiplication: the mean of the three channels; ``about`` goes into its side-car."""
    folder.mkdir(parents=True)
    weights = np.full((1, 3, 1, 1), 1.0 / 3.0, np.float32)
    tensor = _field(1, 1) + _field(1, 3) + _field(1, 1) + _field(1, 1) + _field(2, 1) + _field(8, b"w")
    tensor += _field(9, weights.tobytes())
    node = _field(1, b"x") + _field(1, b"w") + _field(2, b"y") + _field(4, b"Conv")
    graph = _field(1, node) + _field(2, b"g") + _field(5, tensor)
    graph += _field(11, _value(b"x", [1, 3, b"h", b"w"])) + _field(12, _value(b"y", [1, 1, b"h", b"w"]))
    model = _field(1, 8) + _field(7, graph) + _field(8, _field(1, b"") + _field(2, 13))
    (folder / "tiny.onnx").write_bytes(model)
    said = {"kind": "depth", "runtime": "onnx", "licence": "CC0-1.0", "file": "tiny.onnx", "meaning": "metric"}
    said |= {"shorter_side": 28, "mean": [0, 0, 0], "std": [1, 1, 1]} | about
    (folder / "estimator.json").write_text(json.dumps({k: v for k, v in said.items() if v is not None}))
    return folder


def _field(number: int, value: int | bytes) -> bytes:
    """One field of a protobuf message."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def _value(name: bytes, shape: list) -> bytes:
    dims = b"".join(_field(1, _field(1, side) if isinstance(side, int) else _field(2, side)) for side in shape)
    return _field(1, name) + _field(2, _field(1, _field(1, 1) + _field(2, dims)))


def tiny_depth_anything(folder: Path, *, metric: bool = False) -> Path:
    """Depth Anything V2 of a few thousand parameters."""
    import torch
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

    torch.manual_seed(0)
    backbone = Dinov2Config(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, mlp_ratio=2, image_size=28, patch_size=14,
        out_indices=[1, 2, 3, 4], apply_layernorm=True, reshape_hidden_states=False,
    )  # fmt: skip
    config = DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=16, neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8,
        head_hidden_size=8, **({"depth_estimation_type": "metric", "max_depth": 20} if metric else {}),
    )  # fmt: skip
    DepthAnythingForDepthEstimation(config).save_pretrained(folder)
    said = {"size": {"height": 42, "width": 42}, "ensure_multiple_of": 14}
    said |= {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    return folder


def tiny_sam2(folder: Path) -> Path:
    """SAM 2 of a few thousand parameters, for pictures of 64×64."""
    import torch
    from transformers import Sam2Config, Sam2Model
    from transformers.models.sam2.configuration_sam2 import Sam2MaskDecoderConfig, Sam2PromptEncoderConfig

    torch.manual_seed(0)
    config = Sam2Config(
        vision_config=_tiny_vision(32),
        prompt_encoder_config=Sam2PromptEncoderConfig(hidden_size=32, image_size=64, patch_size=16),
        mask_decoder_config=Sam2MaskDecoderConfig(hidden_size=32, **_TINY_DECODER),
    )
    Sam2Model(config).save_pretrained(folder)
    return folder


def tiny_sam2_video(folder: Path) -> Path:
    """The same with a memory of the frames before."""
    import torch
    from transformers import Sam2VideoConfig, Sam2VideoModel
    from transformers.models.sam2_video.configuration_sam2_video import (
        Sam2VideoMaskDecoderConfig,
        Sam2VideoPromptEncoderConfig,
    )

    torch.manual_seed(0)
    config = Sam2VideoConfig(
        vision_config=_tiny_vision(128),
        prompt_encoder_config=Sam2VideoPromptEncoderConfig(hidden_size=128, image_size=64, patch_size=16),
        mask_decoder_config=Sam2VideoMaskDecoderConfig(hidden_size=128, **_TINY_DECODER),
        image_size=64, memory_attention_hidden_size=128, memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=32, memory_attention_rope_feat_sizes=[4, 4],
        memory_encoder_hidden_size=128, memory_encoder_output_channels=64, mask_downsampler_embed_dim=128,
        memory_fuser_embed_dim=128, memory_fuser_intermediate_dim=32,
        num_maskmem=2, max_object_pointers_in_encoder=2,
    )  # fmt: skip
    model = Sam2VideoModel(config)
    for parameter in (model.memory_temporal_positional_encoding, model.no_memory_embedding):
        torch.nn.init.normal_(parameter, std=0.5)  # zero until it is trained: the past would count for little
    model.mask_decoder.pred_obj_score_head.proj_out.bias.data.fill_(9.0)  # whatever it is shown is there
    model.save_pretrained(folder)
    return folder


_TINY_DECODER = {"mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 32}


def _tiny_vision(channels: int):
    from transformers import Sam2HieraDetConfig, Sam2VisionConfig

    backbone = Sam2HieraDetConfig(
        hidden_size=8, num_attention_heads=1, image_size=[64, 64], blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[8, 16, 32, 64], num_attention_heads_per_stage=[1, 1, 2, 2],
        window_size_per_stage=[8, 8, 8, 8], global_attention_blocks=[3],
        window_positional_embedding_background_size=[4, 4],
    )  # fmt: skip
    return Sam2VisionConfig(
        backbone_config=backbone, backbone_channel_list=[64, 32, 16, 8], fpn_hidden_size=channels,
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
    )  # fmt: skip


def tiny_z_image(folder: Path) -> Path:
    """Z-Image with its control network, a text encoder of 16 channels and a VAE of 16 latent ones."""
    import torch
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        ZImageControlNetModel,
        ZImagePipeline,
        ZImageTransformer2DModel,
    )
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

    torch.manual_seed(0)
    words = {word: number for number, word in enumerate(["<pad>", "<unk>", "a", "red", "boat", "user"])}
    plain = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", unk_token="<unk>")
    tokenizer.chat_template = "{% for message in messages %}{{ message['role'] }} {{ message['content'] }}{% endfor %}"
    text = Qwen3Model(
        Qwen3Config(
            vocab_size=len(words),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
        )  # fmt: skip
    )
    shape = {"dim": 32, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2}
    transformer = ZImageTransformer2DModel(
        **shape, in_channels=16, n_layers=2, cap_feat_dim=16, axes_dims=[4, 6, 6], axes_lens=[1024, 64, 64]
    )
    control = ZImageControlNetModel([0], [0], control_in_dim=16, **shape)
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8), down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4, latent_channels=16, norm_num_groups=4, sample_size=32,
        scaling_factor=0.36, shift_factor=0.11,
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    for parameter in [*transformer.parameters(), *control.parameters()]:
        torch.nn.init.normal_(parameter, std=0.05)
    pipeline = ZImagePipeline(scheduler, vae, text, tokenizer, transformer)
    pipeline.save_pretrained(folder)
    control.save_pretrained(folder / "controlnet")
    return folder
