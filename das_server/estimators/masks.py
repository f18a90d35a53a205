# SPDX-License-Identifier: GPL-3.0-or-later
"""Picture and a box, a lasso or clicks → the thing that is meant, without weights: GrabCut."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from das_blender_addon.errors import JobRejected
from das_server.models.estimators import EstimatorSpec

from .base import Asked

LONG_SIDE = 720
"""Pixels to which a picture is made smaller for the cut; its border is then followed at full size."""
ROUNDS = 6
POINT_SHARE = 0.01
"""Of the longer side: the radius round a point that is surely of the thing."""
SEED = 7


def load(spec: EstimatorSpec, folder: Path, device: str) -> GrabCut:
    """Nothing to load."""
    return GrabCut()


class GrabCut:
    """What differs in colour from what lies outside of the box or the lasso, or is like what lies round the points."""

    def __call__(self, asked: Asked) -> dict[str, np.ndarray]:
        """``mask`` bool [H,W].  Raises `JobRejected` where nothing, or all of it, is the thing."""
        import cv2

        picture = asked.picture
        height, width = picture.shape[:2]
        labels = labels_of(asked.options, picture)
        inside = (labels != cv2.GC_BGD).mean()
        if "points" not in asked.options and inside in (0.0, 1.0):
            what = (
                "no pixel of the picture" if inside == 0.0 else "the whole picture, so that nothing is left around it"
            )
            raise JobRejected(
                f"The marked area is {what}; mark a thing and a little of what is round it.", field="mask"
            )
        scale = min(1.0, LONG_SIDE / max(height, width))
        small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else picture
        marks = cv2.resize(labels, small.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        mask = checked(full_size(cut_out(small, marks), picture) & (labels != cv2.GC_BGD))
        return {"mask": mask}


def labels_of(options: Mapping[str, Any], picture: np.ndarray) -> np.ndarray:
    """u8 [H,W] of GrabCut's labels: what is surely or perhaps the thing, by box, lasso or points, and surely not."""
    import cv2

    height, width = picture.shape[:2]
    labels = np.full((height, width), cv2.GC_BGD, np.uint8)
    if "box" in options:
        x, y, wide, high = (round(n) for n in options["box"])
        labels[y : y + high, x : x + wide] = cv2.GC_PR_FGD
    elif "lasso" in options:
        corners = np.clip(np.array(options["lasso"]), -4 * max(height, width), 4 * max(height, width))
        cv2.fillPoly(labels, [corners.round().astype(np.int32)], int(cv2.GC_PR_FGD))
    else:
        labels[:] = _grown(picture, options["points"])
    for x, y in options.get("away", ()):
        cv2.circle(
            labels, (round(x - 0.5), round(y - 0.5)), max(2, round(0.01 * max(height, width))), int(cv2.GC_BGD), -1
        )
    return labels


def _grown(picture: np.ndarray, points: list[list[float]]) -> np.ndarray:
    """u8 [H,W] of labels: surely the thing round the points, perhaps where colours like theirs go on from there."""
    import cv2

    height, width = picture.shape[:2]
    radius = max(2, round(POINT_SHARE * max(height, width)))
    sure = np.zeros((height, width), np.uint8)
    for x, y in points:
        cv2.circle(sure, (round(x - 0.5), round(y - 0.5)), radius, 1, -1)
    lab = cv2.GaussianBlur(cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2LAB), (0, 0), 1.5).astype(
        np.float32
    )
    colours = lab[sure > 0]
    seeds = colours[:: max(1, len(colours) // 16)]
    away = np.min([np.linalg.norm(lab - seed, axis=2) for seed in seeds], axis=0)
    scaled = np.clip(away * (255.0 / max(float(away.max()), 1.0)), 0, 255).astype(np.uint8)
    limit = cv2.threshold(scaled, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)[0]
    parts = cv2.connectedComponents(((scaled <= limit) | (sure > 0)).astype(np.uint8), connectivity=4)[1]
    like = np.isin(parts, np.unique(parts[sure > 0]))
    labels = np.where(like, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[sure > 0] = cv2.GC_FGD
    return labels


def cut_out(picture: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """bool [H,W]: GrabCut of ``picture`` u8 [H,W,3] from ``labels`` u8 [H,W]."""
    import cv2

    if (
        not ((labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)).any()
        or not ((labels == cv2.GC_BGD) | (labels == cv2.GC_PR_BGD)).any()
    ):
        return (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
    cv2.setRNGSeed(SEED)
    bgr, models = picture[..., ::-1].copy(), (np.zeros((1, 65)), np.zeros((1, 65)))
    out = labels.copy()
    cv2.grabCut(bgr, out, None, *models, ROUNDS, cv2.GC_INIT_WITH_MASK)
    mask = ((out == cv2.GC_FGD) | (out == cv2.GC_PR_FGD)).astype(np.uint8)
    radius = max(1, round(max(mask.shape) / 400))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2)
    mask = cv2.morphologyEx(cv2.morphologyEx(mask, cv2.MORPH_OPEN, disc), cv2.MORPH_CLOSE, disc)
    return _largest(mask, labels == cv2.GC_FGD)


def _largest(mask: np.ndarray, sure: np.ndarray) -> np.ndarray:
    """The parts that hold a sure pixel, or else the largest and those at least a tenth as large, holes filled."""
    import cv2

    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    if count <= 1:
        return mask.astype(bool)
    areas = stats[:, cv2.CC_STAT_AREA].copy()
    areas[0] = 0
    kept = set(np.unique(parts[sure])) - {0} or set(np.flatnonzero(areas >= 0.1 * areas.max()))
    whole = np.isin(parts, list(kept))
    outside = cv2.connectedComponents(np.pad(~whole, 1, constant_values=True).astype(np.uint8), connectivity=4)[1]
    filled = (outside != outside[0, 0])[1:-1, 1:-1]
    hole = filled & ~whole
    return whole | hole if hole.sum() < 0.05 * whole.sum() else whole


def full_size(mask: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """``mask`` bool of a smaller picture at the size of ``picture`` [H,W,3]."""
    import cv2

    if mask.shape == picture.shape[:2]:
        return mask
    return cv2.resize(mask.astype(np.float32), picture.shape[1::-1], interpolation=cv2.INTER_LINEAR) > 0.5


def checked(mask: np.ndarray) -> np.ndarray:
    """``mask`` bool [H,W], unless it is empty or everything: then `JobRejected`."""
    if not mask.any():
        raise JobRejected(
            "No thing was found there, the mask is empty; mark it with a box a little larger than it is.", field="mask"
        )
    if mask.all():
        raise JobRejected(
            "The mask is the whole picture, so that nothing is left to stand still; mark less.", field="mask"
        )
    return mask


def refined(picture: np.ndarray, share: np.ndarray) -> np.ndarray:
    """bool [H,W]: where ``share`` f32 [H,W] (0…1) says that the thing is, its border followed by `cut_out`."""
    import cv2

    scale = min(1.0, LONG_SIDE / max(share.shape))
    small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else picture
    share = cv2.resize(share, small.shape[1::-1], interpolation=cv2.INTER_AREA) if scale < 1 else share
    labels = np.select(
        [share > 0.9, share > 0.5, share > 0.1], [cv2.GC_FGD, cv2.GC_PR_FGD, cv2.GC_PR_BGD], cv2.GC_BGD
    ).astype(np.uint8)
    return full_size(cut_out(np.ascontiguousarray(small), labels), picture)
