# SPDX-License-Identifier: GPL-3.0-or-later
"""TAPNext++: points of the first frame through a clip, by its own package, a frame at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from das_blender_addon.errors import ModelError
from das_server.models.estimators import EstimatorSpec

from .base import Asked
from .tracks import EVERY, grid

WEIGHTS = "tapnextpp_ckpt.pt"
SIDE = 256
"""Pixels along the sides of what the network sees; its places are pixels of that."""
POINTS = 1024
"""Followed at once; each lot of them goes through the clip by itself."""


def load(spec: EstimatorSpec, folder: Path, device: str) -> TapNext:
    """From `WEIGHTS`, which must hold weights only and no code.  Raises `ModelError`."""
    import torch
    from tapnet.tapnext.tapnext_torch import TAPNext

    path = folder / WEIGHTS
    try:
        held = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # of pickle and zip, too
        raise ModelError(f"{path} is damaged or holds more than weights; fetch it again.") from error
    try:
        weights = held.get("state_dict", held)
        model = TAPNext(image_size=(SIDE, SIDE))
        model.load_state_dict({name.removeprefix("tapnext."): value for name, value in weights.items()})
    except (AttributeError, RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"{path} cannot be loaded by TAPNext ({reason}); add it again.") from error
    return TapNext(model.eval().to(device), device)


class TapNext:
    """Where the points go and whether they are seen, as the network tells it."""

    def __init__(self, model, device: str):
        self._model, self._device = model, device

    def __call__(self, asked: Asked) -> dict[str, np.ndarray]:
        """``tracks`` f32 [T,N,2] px and ``visible`` bool [T,N], of the points of `tracks.Tracks`."""
        from PIL import Image

        clip = asked.clip
        num_frames, height, width = clip.shape[:3]
        size = np.array([width, height], np.float32)
        start = grid(width, height, int(asked.options.get("every", EVERY)))
        small = [Image.fromarray(frame).resize((SIDE, SIDE), Image.Resampling.BICUBIC) for frame in clip]
        tracks = np.empty((num_frames, len(start), 2), np.float32)
        visible = np.empty((num_frames, len(start)), bool)
        for first in range(0, len(start), POINTS):
            lot, state = slice(first, first + POINTS), None
            for frame in range(num_frames):
                asked.step(first * num_frames + frame * len(start[lot]), num_frames * len(start))
                at, visible[frame, lot], state = self._next(np.asarray(small[frame]), start[lot] * SIDE / size, state)
                tracks[frame, lot] = at * size / SIDE
        tracks[0], visible[0] = start, True
        visible &= ((tracks >= 0) & (tracks < size)).all(axis=-1)
        return {"tracks": tracks, "visible": visible}

    def _next(self, picture: np.ndarray, start: np.ndarray, state):
        """(places [N,2] of x and y, whether they are seen [N], the network's state) in one more ``picture``
        [S,S,3] u8, of points that were at ``start`` [N,2] in the first."""
        import torch

        video = torch.from_numpy(picture.astype(np.float32) / 127.5 - 1.0)[None, None].to(self._device)
        asked = {"state": state}
        if state is None:
            rows = np.concatenate([np.zeros((len(start), 1), np.float32), start[:, ::-1]], axis=1)
            asked = {"query_points": torch.from_numpy(rows)[None].to(self._device)}  # when, y, x
        with torch.inference_mode():
            at, _, seen, state = self._model(video=video, **asked)
        return at[0, 0].float().cpu().numpy()[:, ::-1], (seen[0, 0, :, 0] > 0.0).cpu().numpy(), state
