# SPDX-License-Identifier: GPL-3.0-or-later
"""The Diffusion-as-Shader transformer: CogVideoX with a second, trained branch that reads the tracking video.

The parameter names are the published checkpoint's: those of CogVideoX plus ``transformer_blocks_copy.{i}.*`` (copies of
the first blocks), ``combine_linears.{i}.*`` and ``initial_combine_linear.*``.
Source of the computation: "Diffusion as Shader", Gu et al. 2025, section 3.2, and the published model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import CogVideoXTransformer3DModel
from diffusers.configuration_utils import register_to_config
from diffusers.models._modeling_parallel import ContextParallelInput, ContextParallelOutput
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.utils import apply_lora_scale
from torch import nn

from das_blender_addon.errors import ModelError

from .block import DasBlock
from .caches import check_blocks, check_no_cache, register_block
from .conversion import PUBLISHED_CLASS_NAME, convert_base
from .float8 import Float8Layers
from .inputs import check_clip, check_rows
from .run_cache import RunCache, StepModulation
from .tensors import check_tensors, expected_tensors, read_component_config, weight_files
from .weights import load_model

DEFAULT_NUM_TRACKING_BLOCKS = 18
"""Number of copied blocks of a checkpoint that does not say."""


class DasTransformer3DModel(CogVideoXTransformer3DModel):
    """CogVideoX with a tracking branch.

    The tracking latents pass through the same patch embedding as the video; copies of the first ``num_tracking_blocks``
    blocks process them beside the main blocks, and a linear per copy adds the result to the main stream.
    """

    float8_layers = Float8Layers(
        ("transformer_blocks", "transformer_blocks_copy"),
        ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "ff.net.0.proj", "ff.net.2"),
    )
    _repeated_blocks = ["DasBlock"]
    _no_split_modules = ["DasBlock", "CogVideoXPatchEmbed"]
    _skip_layerwise_casting_patterns = ["patch_embed", "norm"]
    _cp_plan = {
        "transformer_blocks.0": {
            "hidden_states": ContextParallelInput(split_dim=1, expected_dims=3),
            "encoder_hidden_states": ContextParallelInput(split_dim=1, expected_dims=3),
        },
        "transformer_blocks.*": {
            "image_rotary_emb": [ContextParallelInput(split_dim=0, expected_dims=2)] * 2,
        },
        "initial_combine_linear": {"input": ContextParallelInput(split_dim=1, expected_dims=3)},
        "transformer_blocks_copy.*": {
            "image_rotary_emb": [ContextParallelInput(split_dim=0, expected_dims=2)] * 2,
        },
        "proj_out": ContextParallelOutput(gather_dim=1, expected_dims=3),
    }

    @register_to_config
    def __init__(
        self,
        num_attention_heads: int = 30,
        attention_head_dim: int = 64,
        in_channels: int = 16,
        out_channels: int | None = 16,
        flip_sin_to_cos: bool = True,
        freq_shift: int = 0,
        time_embed_dim: int = 512,
        ofs_embed_dim: int | None = None,
        text_embed_dim: int = 4096,
        num_layers: int = 30,
        dropout: float = 0.0,
        attention_bias: bool = True,
        sample_width: int = 90,
        sample_height: int = 60,
        sample_frames: int = 49,
        patch_size: int = 2,
        patch_size_t: int | None = None,
        temporal_compression_ratio: int = 4,
        max_text_seq_length: int = 226,
        activation_fn: str = "gelu-approximate",
        timestep_activation_fn: str = "silu",
        norm_elementwise_affine: bool = True,
        norm_eps: float = 1e-5,
        spatial_interpolation_scale: float = 1.875,
        temporal_interpolation_scale: float = 1.0,
        use_rotary_positional_embeddings: bool = False,
        use_learned_positional_embeddings: bool = False,
        patch_bias: bool = True,
        num_tracking_blocks: int = DEFAULT_NUM_TRACKING_BLOCKS,
    ):
        """Arguments as a checkpoint's config names them.  One function, though long: each goes on by its name."""
        super().__init__(
            num_attention_heads=num_attention_heads,
            attention_head_dim=attention_head_dim,
            in_channels=in_channels,
            out_channels=out_channels,
            flip_sin_to_cos=flip_sin_to_cos,
            freq_shift=freq_shift,
            time_embed_dim=time_embed_dim,
            ofs_embed_dim=ofs_embed_dim,
            text_embed_dim=text_embed_dim,
            num_layers=0,  # our own blocks follow
            dropout=dropout,
            attention_bias=attention_bias,
            sample_width=sample_width,
            sample_height=sample_height,
            sample_frames=sample_frames,
            patch_size=patch_size,
            patch_size_t=patch_size_t,
            temporal_compression_ratio=temporal_compression_ratio,
            max_text_seq_length=max_text_seq_length,
            activation_fn=activation_fn,
            timestep_activation_fn=timestep_activation_fn,
            norm_elementwise_affine=norm_elementwise_affine,
            norm_eps=norm_eps,
            spatial_interpolation_scale=spatial_interpolation_scale,
            temporal_interpolation_scale=temporal_interpolation_scale,
            use_rotary_positional_embeddings=use_rotary_positional_embeddings,
            use_learned_positional_embeddings=use_learned_positional_embeddings,
            patch_bias=patch_bias,
        )
        self.register_to_config(num_layers=num_layers)
        register_block(DasBlock)
        inner_dim = num_attention_heads * attention_head_dim

        def new_block() -> DasBlock:
            return DasBlock(
                dim=inner_dim,
                num_attention_heads=num_attention_heads,
                attention_head_dim=attention_head_dim,
                time_embed_dim=time_embed_dim,
                dropout=dropout,
                activation_fn=activation_fn,
                attention_bias=attention_bias,
                norm_elementwise_affine=norm_elementwise_affine,
                norm_eps=norm_eps,
            )

        self.transformer_blocks = nn.ModuleList(new_block() for _ in range(num_layers))
        self.transformer_blocks_copy = nn.ModuleList(new_block() for _ in range(num_tracking_blocks))
        self.combine_linears = nn.ModuleList(nn.Linear(inner_dim, inner_dim) for _ in range(num_tracking_blocks))
        self.initial_combine_linear = nn.Linear(inner_dim, inner_dim)
        for linear in (self.initial_combine_linear, *self.combine_linears):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

        # diffusers 0.42 builds the table in float64 here, which some devices cannot hold; checkpoints store float32.
        if getattr(self.patch_embed, "pos_embedding", None) is not None:
            self.patch_embed.pos_embedding = self.patch_embed.pos_embedding.float()

        self.allow_computed_positions = False
        """True: a clip of another length than the learned position table gets a computed, untrained one, as published.
        """

    # ── Loading and saving ──────────────────────────────────────────────────────────────────────────────────────────

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, subfolder: str | None = None, variant: str | None = None, **kwargs: Any
    ) -> DasTransformer3DModel:
        """Load a published-layout folder (``config.json`` and safetensors, one file or several), every tensor
        accounted for.

        ``kwargs`` go to diffusers (``torch_dtype``, ``device_map``, ``quantization_config`` …).  Raises `ModelError`
        that names the first missing, extra or mis-shaped tensor, a missing file, or a checkpoint in pickle format.
        """
        path = Path(folder) / subfolder if subfolder else Path(folder)
        cls.check_folder(path, variant=variant)
        kwargs.setdefault("low_cpu_mem_usage", True)
        kwargs.update(local_files_only=True, use_safetensors=True)
        try:
            model = super().from_pretrained(str(path), variant=variant, **kwargs)
        except (OSError, RuntimeError, ValueError) as error:
            raise ModelError(f"The transformer in {path} cannot be loaded: {error}") from error
        return model.eval()

    @classmethod
    def load(cls, folder: Path, *, dtype: torch.dtype, device: torch.device) -> DasTransformer3DModel:
        """As `from_pretrained`, for use and not for training: tensor by tensor straight to ``device`` (`weights`)."""
        cls.check_folder(folder)
        return load_model(cls, read_component_config(folder), weight_files(folder), dtype=dtype, device=device)

    @classmethod
    def check_folder(cls, folder: Path, *, variant: str | None = None) -> None:
        """Compare the tensors in ``folder`` with its config, from their headers.  Raises `ModelError` as
        `from_pretrained`."""
        config = read_component_config(folder)
        check_tensors(folder, expected_tensors(cls, config, folder, "transformer"), variant=variant)

    @classmethod
    def from_base(
        cls,
        folder: str | Path,
        num_tracking_blocks: int = DEFAULT_NUM_TRACKING_BLOCKS,
        *,
        subfolder: str | None = None,
        torch_dtype: torch.dtype | None = None,
    ) -> DasTransformer3DModel:
        """Convert a plain CogVideoX transformer folder: see `conversion.convert_base`."""
        path = Path(folder) / subfolder if subfolder else Path(folder)
        return convert_base(cls, path, num_tracking_blocks, torch_dtype)

    def to_json_string(self) -> str:
        """The config as the published checkpoints write it, so that what we save loads elsewhere too."""
        text = super().to_json_string()
        return text.replace(f'"_class_name": "{type(self).__name__}"', f'"_class_name": "{PUBLISHED_CLASS_NAME}"')

    def streamed_units(self) -> list[tuple[nn.Module, ...]]:
        """The blocks in the order in which they run; a copy comes together with the linear that adds it."""
        units: list[tuple[nn.Module, ...]] = []
        for index, block in enumerate(self.transformer_blocks):
            units.append((block,))
            if index < len(self.transformer_blocks_copy):
                units.append((self.transformer_blocks_copy[index], self.combine_linears[index]))
        return units

    # ── What does not fit this model ────────────────────────────────────────────────────────────────────────────────

    def enable_cache(self, config: Any) -> None:
        """Refuse: a cache made for plain CogVideoX skips main blocks while the tracking copies still run and add
        again."""
        raise ModelError(
            f"{type(config).__name__} cannot be used with this model: step caches made for plain CogVideoX skip "
            "its main blocks "
            "but not the tracking branch, which gives wrong frames; render without a cache."
        )

    def fuse_qkv_projections(self) -> None:
        """Refuse: fusing would put the stock attention processor back, which ignores attention backends."""
        raise ModelError(
            "fuse_qkv_projections would replace this model's attention processor and cost 2 GB for nothing; use "
            "set_attention_backend and compile_repeated_blocks instead."
        )

    # ── The computation ─────────────────────────────────────────────────────────────────────────────────────────────

    @apply_lora_scale("attention_kwargs")
    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        timestep: torch.Tensor | int,
        tracking_maps: torch.Tensor,
        image_rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
        return_dict: bool = True,
        *,
        timestep_cond: torch.Tensor | None = None,
        ofs: torch.Tensor | None = None,
        attention_kwargs: dict[str, Any] | None = None,
        run: RunCache | None = None,
    ) -> Transformer2DModelOutput | tuple[torch.Tensor]:
        """Predict the velocity of noisy latents under a tracking video.

        ``hidden_states``, ``tracking_maps``: latents [B,F,C,H,W] (one half of C of the video, the other of its first
        frame; 16 each in the published model); the tracking maps may have batch 1 for all rows.
        ``encoder_hidden_states``: [B,L,D] text.  ``timestep``: int64 [B], or [1] for all rows.
        ``image_rotary_emb``: (cos, sin), each [tokens, head_dim] f32.  ``run``: see `RunCache`.
        Returns [B,F,C/2,H,W] in ``.sample``.  Raises `ModelError` for a clip that the learned positions do not fit.
        One function, though long: the published computation, step by step.
        """
        check_blocks(self)
        check_no_cache(self)
        check_rows(self.config, hidden_states, encoder_hidden_states, timestep)
        check_clip(self.config, hidden_states, tracking_maps, self.allow_computed_positions)
        run = run if run is not None else RunCache()
        latents_shape, text_length = hidden_states.shape, encoder_hidden_states.shape[1]

        # 1. Time: all that blocks know of it, computed earlier for the whole run or now.
        temb, step = None, None
        if run.modulation:
            step = run.modulation[int(timestep)]
        else:
            timestep = torch.as_tensor(timestep, device=hidden_states.device).reshape(-1)
            temb = self._embed_time(timestep, timestep_cond, ofs, hidden_states.dtype)

        # 2. Patches of the noisy latents and, by the same weights and positions, of the tracking latents.
        joint = self.embedding_dropout(self.patch_embed(encoder_hidden_states, hidden_states))
        # Contiguous, so that a compiled first block is the same program as the others.
        text, video = joint[:, :text_length].contiguous(), joint[:, text_length:].contiguous()
        if run.tracking_tokens is None:
            some_text = encoder_hidden_states[: tracking_maps.shape[0]]
            run.tracking_tokens = self.patch_embed(some_text, tracking_maps)[:, text_length:]

        # 3. The branch starts from both.
        control = self.initial_combine_linear(video + run.tracking_tokens)

        # 4. Main blocks; beside each of the first ones its copy, which reads the main text stream.  The next copy
        # continues
        #    from the *projected* control, not from the copy's own output.
        num_copies, cache, start, after_first = len(self.transformer_blocks_copy), run.block_cache, video, None
        for index, block in enumerate(self.transformer_blocks):
            run.check()
            modulation = step.blocks[index] if step else None
            video, text = self._run_block(
                block, video, text, temb, image_rotary_emb, attention_kwargs, modulation, True
            )
            if index < num_copies:
                copy, modulation = self.transformer_blocks_copy[index], step.copies[index] if step else None
                control, _ = self._run_block(
                    copy, control, text, temb, image_rotary_emb, attention_kwargs, modulation, False
                )
                control = self.combine_linears[index](control)
                video = video + control
            if index == 0 and cache is not None:
                if cache.leaves_out(video - start):
                    video = video + cache.rest
                    break
                after_first = video
        if after_first is not None:
            cache.keep(video - after_first)

        # 5. Back to latents.
        video = self._last_norm(self.norm_final(video), temb, step)
        output = self._unpatchify(self.proj_out(video), latents_shape)
        return Transformer2DModelOutput(sample=output) if return_dict else (output,)

    def _embed_time(
        self, timestep: torch.Tensor, condition: torch.Tensor | None, ofs: torch.Tensor | None, dtype: torch.dtype
    ) -> torch.Tensor:
        """Timesteps [B] → time embedding [B, time_embed_dim] in ``dtype``."""
        # The sinusoid is float32 whatever the weights are.
        temb = self.time_embedding(self.time_proj(timestep).to(dtype), condition)
        if self.ofs_embedding is not None:
            temb = temb + self.ofs_embedding(self.ofs_proj(ofs).to(dtype))
        return temb

    def _run_block(self, block: DasBlock, *args: Any) -> tuple[torch.Tensor, torch.Tensor]:
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            return self._gradient_checkpointing_func(block, *args)
        names = (
            "hidden_states",
            "encoder_hidden_states",
            "temb",
            "image_rotary_emb",
            "attention_kwargs",
            "modulation",
            "text_rows",
        )
        # By name: context parallelism and offloading hooks look arguments up by their names.
        return block(**dict(zip(names, args, strict=True)))

    def _last_norm(self, video: torch.Tensor, temb: torch.Tensor, step: StepModulation | None) -> torch.Tensor:
        if step is None:
            return self.norm_out(video, temb=temb)
        shift, scale = step.last[:, None, :].chunk(2, dim=2)
        return self.norm_out.norm(video) * (1 + scale) + shift

    def _unpatchify(self, tokens: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """Tokens [B,N,channels·p·p] → latents [B,F,C,H,W]."""
        batch, num_frames, _, height, width = shape
        p, p_t = self.config.patch_size, self.config.patch_size_t
        if p_t is None:
            grid = tokens.reshape(batch, num_frames, height // p, width // p, -1, p, p)
            return grid.permute(0, 1, 4, 2, 5, 3, 6).flatten(5, 6).flatten(3, 4)
        grid = tokens.reshape(batch, (num_frames + p_t - 1) // p_t, height // p, width // p, -1, p_t, p, p)
        return grid.permute(0, 1, 5, 4, 2, 6, 3, 7).flatten(6, 7).flatten(4, 5).flatten(1, 2)

    @torch.no_grad()
    def modulation_tables(
        self, timesteps: Sequence[int], dtype: torch.dtype, device: torch.device
    ) -> dict[int, StepModulation]:
        """The adaptive-norm values of every timestep, for `RunCache.modulation`: they depend on nothing else.

        Timestep by timestep, so that the values are those of a forward pass to the bit (a larger product may round
        otherwise); the gain is that later clips find them ready.
        """
        tables = {}
        for timestep in timesteps:
            temb = self._embed_time(torch.tensor([timestep], device=device), None, None, dtype)
            tables[timestep] = StepModulation(
                blocks=tuple(block.project_time(temb) for block in self.transformer_blocks),
                copies=tuple(block.project_time(temb) for block in self.transformer_blocks_copy),
                last=self.norm_out.linear(self.norm_out.silu(temb)),
            )
        return tables
