# SPDX-License-Identifier: GPL-3.0-or-later
"""SAM 2 for clips: a thing of the first frame in every frame, by transformers' own classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from das_blender_addon.errors import JobRejected, ModelError
from das_server.models.estimators import EstimatorSpec

from .base import Asked
from .depth import normalised
from .onnx import IMAGENET
from .sam2 import marks_of


def load(spec: EstimatorSpec, folder: Path, device: str) -> Sam2Video:
    """From a folder in transformers' layout, in float32.  Raises `ModelError`."""
    import torch
    from transformers import Sam2VideoModel

    try:
        model, found = Sam2VideoModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"The SAM 2 model in {folder} cannot be loaded ({reason}); add it again.") from error
    if found["missing_keys"]:
        raise ModelError(
            f"The model in {folder} has no memory of clips ({min(found['missing_keys'])} is missing); add one that was "
            "made for them."
        )
    return Sam2Video(model.eval().to(device))


class Sam2Video:
    """One thing, from the first frame on."""

    def __init__(self, model):
        self._model = model

    def __call__(self, asked: Asked) -> dict[str, np.ndarray]:
        """``masks`` bool [T,H,W]; a lasso counts as the box round it.  Raises `JobRejected` for a thing that the first
        frame does not show."""
        import torch
        from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

        model, (height, width) = self._model, asked.picture.shape[:2]
        side = model.prompt_encoder.input_image_size
        looks_back = max(model.config.max_object_pointers_in_encoder, model.config.num_maskmem)
        session = Sam2VideoInferenceSession(
            video_height=height, video_width=width, inference_device=model.device, inference_state_device=model.device,
            dtype=model.dtype,
        )  # fmt: skip
        session.processed_frames = _Frames(asked.clip, side)
        thing = session.obj_id_to_idx(1)
        self._tell(session, thing, asked, side)
        masks = np.zeros(asked.clip.shape[:3], bool)
        with torch.inference_mode():
            for frame in range(len(asked.clip)):
                asked.step(frame, len(asked.clip))
                shares = model(session, frame_idx=frame).pred_masks.float()
                shares = shares.reshape(1, 1, *shares.shape[-2:])
                mask = torch.nn.functional.interpolate(shares, (height, width), mode="bilinear", align_corners=False)
                masks[frame] = (mask[0, 0] > 0.0).cpu().numpy()
                if not masks[0].any():
                    raise JobRejected(
                        "No thing was found there in the first frame; choose another place.", field="options"
                    )
                session.output_dict_per_obj[thing]["non_cond_frame_outputs"].pop(frame - looks_back, None)
        return {"masks": masks}

    def _tell(self, session, thing: int, asked: Asked, side: int) -> None:
        """What the first frame shows of it."""
        import torch

        if "mask" in asked.arrays:
            mask = torch.from_numpy(np.asarray(asked.arrays["mask"] != 0, np.float32))[None, None]
            mask = torch.nn.functional.interpolate(mask, (side, side), mode="bilinear", align_corners=False)
            session.add_mask_inputs(thing, 0, (mask >= 0.5).float())
        else:
            places, labels = marks_of(asked, side)
            session.add_point_inputs(
                thing, 0,
                {"point_coords": torch.from_numpy(places)[None, None],
                 "point_labels": torch.from_numpy(labels)[None, None]},
            )  # fmt: skip
        session.obj_with_new_inputs = [1]


class _Frames:
    """The frames of ``clip`` u8 [T,H,W,3] as the network takes them, each made when it is looked at."""

    def __init__(self, clip: np.ndarray, side: int):
        self._clip, self._side = clip, side

    def __len__(self) -> int:
        return len(self._clip)

    def __getitem__(self, number: int):
        import torch

        return torch.from_numpy(normalised(self._clip[number], (self._side, self._side), *IMAGENET))
