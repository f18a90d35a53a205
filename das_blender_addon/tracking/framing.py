# SPDX-License-Identifier: GPL-3.0-or-later
"""How a shot fits a model's picture: the camera is overscanned to the model's aspect, the result cropped back.

Nothing is ever squashed or cut off: the shot's picture lies centred in the model's picture, as large as fits, and the
camera sees more on the two sides that are left over.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from ..errors import SettingsError
from .geometry import CameraPath
from .resampling import resize_lanczos


@dataclass(frozen=True)
class Framing:
    """Where a shot's picture lies in a model's picture.

    ``render_size``, ``model_size``: (width, height) in pixels.  ``crop``: (left, top, right, bottom) of the shot in
    model pixels, fractions allowed.
    """

    render_size: tuple[int, int]
    model_size: tuple[int, int]
    crop: tuple[float, float, float, float]

    @property
    def overscan_scale(self) -> tuple[float, float]:
        """How many times wider and higher the model's view is than the shot's, ≥ 1; one of the two is 1."""
        left, top, right, bottom = self.crop
        return self.model_size[0] / (right - left), self.model_size[1] / (bottom - top)

    @property
    def is_exact(self) -> bool:
        """The model's picture is the shot's picture, pixel by pixel."""
        return self.render_size == self.model_size and self.crop == (0.0, 0.0, *map(float, self.model_size))

    def overscan(self, cameras: CameraPath) -> CameraPath:
        """Cameras at the render size → the cameras at the model's size that see the same picture inside `crop`.

        Raises `SettingsError` when ``cameras`` have another picture size.
        """
        if (cameras.width, cameras.height) != self.render_size:
            raise SettingsError(
                f"The cameras have {cameras.width}×{cameras.height} pixels and the shot has "
                f"{self.render_size[0]}×{self.render_size[1]}: export them at the shot's size."
            )
        left, top, right, bottom = self.crop
        scale = np.array([(right - left) / self.render_size[0], (bottom - top) / self.render_size[1]])
        return replace(
            cameras,
            focal_px=cameras.focal_px * scale,
            principal_px=cameras.principal_px * scale + np.array([left, top]),
            width=self.model_size[0],
            height=self.model_size[1],
        )


def fit_framing(render_size: tuple[int, int], model_size: tuple[int, int], *, pixel_aspect: float = 1.0) -> Framing:
    """Place a shot of ``render_size`` (width, height) in a picture of ``model_size``, centred, as large as fits.

    ``pixel_aspect``: width of a render pixel divided by its height (Blender's ``pixel_aspect_x / pixel_aspect_y``); the
    model's pixels are square.  Raises `SettingsError` for sizes or an aspect that are not positive.
    """
    for name, size in (("render size", render_size), ("model size", model_size)):
        if len(size) != 2 or min(size) < 1:
            raise SettingsError(f"The {name} is {tuple(size)} and must be two positive numbers of pixels.")
    if not pixel_aspect > 0.0:
        raise SettingsError(f"The pixel aspect is {pixel_aspect} and must be positive.")
    shape = (render_size[0] * pixel_aspect, float(render_size[1]))
    scale = min(model_size[0] / shape[0], model_size[1] / shape[1])
    crop = []
    for axis in (0, 1):
        extent = min(shape[axis] * scale, float(model_size[axis]))
        if model_size[axis] - extent < 1e-6:
            extent = float(model_size[axis])  # the axis that fills the picture, free of rounding
        crop.append(((model_size[axis] - extent) / 2.0, (model_size[axis] + extent) / 2.0))
    (left, right), (top, bottom) = crop
    return Framing(
        render_size=(int(render_size[0]), int(render_size[1])),
        model_size=(int(model_size[0]), int(model_size[1])),
        crop=(left, top, right, bottom),
    )


def picture_framing(framing: Framing) -> Framing:
    """Where the shot lies in a picture that has the render's own pixels and shows at least what the model sees.

    The shot's pixels are whole pixels of the picture.
    """
    left, top, right, bottom = framing.crop
    width, height = framing.render_size
    beyond_x = math.ceil(round(left * width / (right - left), 6))
    beyond_y = math.ceil(round(top * height / (bottom - top), 6))
    size = (width + 2 * beyond_x, height + 2 * beyond_y)
    crop = (float(beyond_x), float(beyond_y), float(beyond_x + width), float(beyond_y + height))
    return Framing(render_size=framing.render_size, model_size=size, crop=crop)


def seen_part(inner: Framing, outer: Framing) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of ``inner``'s whole picture in pixels of ``outer``'s; both frame the same shot."""
    left, top, right, bottom = inner.crop
    out_left, out_top, out_right, out_bottom = outer.crop
    across, down = (out_right - out_left) / (right - left), (out_bottom - out_top) / (bottom - top)
    width, height = inner.model_size
    return (
        out_left - left * across,
        out_top - top * down,
        out_left + (width - left) * across,
        out_top + (height - top) * down,
    )


def crop_and_resize(frames: np.ndarray, framing: Framing, size: tuple[int, int] | None = None) -> np.ndarray:
    """Model frames [T,H,W,3] u8 → the shot's frames [T,h,w,3] u8, cut out to a fraction of a pixel and resized.

    ``size`` (width, height): other than the render size, e.g. for a preview.  Raises `SettingsError` when the frames do
    not have the model's size.
    """
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8:
        raise SettingsError(f"Frames must be [T,H,W,3] u8 and are {list(frames.shape)} {frames.dtype}.")
    if (frames.shape[2], frames.shape[1]) != framing.model_size:
        raise SettingsError(
            f"The frames have {frames.shape[2]}×{frames.shape[1]} pixels and the model "
            f"{framing.model_size[0]}×{framing.model_size[1]}."
        )
    width, height = size or framing.render_size
    resized = np.empty((len(frames), height, width, 3), dtype=np.uint8)
    for index, frame in enumerate(frames):
        resized[index] = resize_lanczos(frame, framing.crop, (width, height))
    return resized
