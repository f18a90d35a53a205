# SPDX-License-Identifier: GPL-3.0-or-later
"""Clips whose tracks, occlusions and masks are known: textured cards before a textured wall, seen by a camera that
travels and turns.  Needs OpenCV.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

SUPER = 2
"""Samples along each side of a pixel."""


@dataclass(frozen=True)
class LayeredClip:
    """``video`` u8 [T,H,W,3]; ``layers`` i32 [T,H,W]: which card each pixel's middle shows, 0 for the wall;
    ``homographies`` f64 [T,L,3,3]: a card's own plane → pixels."""

    video: np.ndarray
    layers: np.ndarray
    homographies: np.ndarray

    def tracks(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(positions f64 [T,N,2] px, visible bool [T,N]) of ``points`` f64 [N,2] px of the first frame."""
        num_frames, height, width = self.layers.shape
        x, y = np.floor(points).astype(int).T
        layer = self.layers[0, y, x]
        homogeneous = np.concatenate([points, np.ones((len(points), 1))], axis=1)
        own = np.einsum("nij,nj->ni", np.linalg.inv(self.homographies[0])[layer], homogeneous)
        seen = np.einsum("tnij,nj->tni", self.homographies[:, layer], own)
        positions = seen[..., :2] / seen[..., 2:]
        inside = ((positions >= 0) & (positions < (width, height))).all(axis=-1)
        x, y = np.floor(np.clip(positions, 0, (width - 1, height - 1))).astype(int).transpose(2, 0, 1)
        return positions, inside & (self.layers[np.arange(num_frames)[:, None], y, x] == layer)


def layered_clip(
    num_frames: int = 49, width: int = 320, height: int = 208, *, seed: int = 0, travel: float = 0.9, noise: float = 2.0
) -> LayeredClip:
    """Six cards at 2 to 4 before a wall at 6, two of which move by themselves; the camera travels by ``travel`` to the
    right, comes nearer and turns by some degrees.  ``noise``: of the sensor, in levels."""
    draw = np.random.default_rng(seed)
    cards = [(0.0, 0.0, 6.0, 14.0, 9.0, 0.0, 0.0)]  # middle, distance, size, own motion
    for number in range(6):
        moves = (draw.uniform(-0.5, 0.5), draw.uniform(-0.2, 0.2)) if number >= 4 else (0.0, 0.0)
        place = draw.uniform(-1.3, 1.3), draw.uniform(-0.7, 0.7), 4.0 - 0.35 * number
        cards.append((*place, draw.uniform(0.5, 1.1), draw.uniform(0.5, 1.0), *moves))
    textures = [textured(draw) for _ in cards]
    focal = 0.9 * width
    homographies = np.empty((num_frames, len(cards), 3, 3))
    video = np.empty((num_frames, height, width, 3), np.uint8)
    layers = np.empty((num_frames, height, width), np.int32)
    for frame in range(num_frames):
        share = frame / max(num_frames - 1, 1)
        eye = np.array([travel * share, 0.15 * np.sin(3 * share), 0.5 * share])
        turn = cv2.Rodrigues(np.array([0.02 * share, -0.07 * share, 0.02 * share]))[0]
        lens = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])
        for index, (x, y, z, wide, high, dx, dy) in enumerate(cards):
            corner = np.array([x + dx * share - wide / 2, y + dy * share - high / 2, z]) - eye
            plane = np.stack([[wide / 512, 0, 0], [0, high / 512, 0], corner], axis=1)
            homographies[frame, index] = lens @ turn @ plane
        video[frame], layers[frame] = _drawn(textures, homographies[frame], width, height)
    video = np.clip(video + draw.normal(0, noise, video.shape), 0, 255).round().astype(np.uint8)
    return LayeredClip(video, layers, homographies)


def _drawn(textures, homographies, width, height) -> tuple[np.ndarray, np.ndarray]:
    size = (width * SUPER, height * SUPER)
    picture, layer = np.zeros((size[1], size[0], 3), np.uint8), np.zeros(size[::-1], np.uint8)
    centred = np.array([[SUPER, 0, -0.5], [0, SUPER, -0.5], [0, 0, 1.0]])
    texel = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1.0]])
    for index, (texture, homography) in enumerate(zip(textures, homographies, strict=True)):
        warp = centred @ homography @ texel
        drawn = cv2.warpPerspective(texture, warp, size, flags=cv2.INTER_LINEAR)
        there = cv2.warpPerspective(np.full((512, 512), 255, np.uint8), warp, size, flags=cv2.INTER_NEAREST) > 0
        picture[there], layer[there] = drawn[there], index
    layer = layer[SUPER // 2 :: SUPER, SUPER // 2 :: SUPER]
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), layer.astype(np.int32)


def textured(draw: np.random.Generator, size: int = 512) -> np.ndarray:
    """u8 [size,size,3]: noise at several scales over a colour of its own."""
    out = np.zeros((size, size, 3), np.float32)
    for cells, share in ((6, 40.0), (20, 35.0), (60, 30.0), (160, 18.0)):
        coarse = draw.normal(0, 1, (cells, cells, 3)).astype(np.float32)
        out += share * cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    return np.clip(out + draw.uniform(70, 185, 3), 0, 255).astype(np.uint8)
