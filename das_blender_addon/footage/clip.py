# SPDX-License-Identifier: GPL-3.0-or-later
"""A clip's plate: its pictures, how far away their pixels are, how its camera moved, and where points of it went.

Its folder, which any program can write (what is called *perhaps* may be missing):

    frames/0001.png …   8-bit RGB, all [H,W], in the order of their names
    clip.npz            ``depth`` f32 [T,H,W], or [1,H,W] where only the first picture's is known
                        perhaps ``valid`` bool, of its shape: elsewhere is sky
                        perhaps ``cameras`` f64 [T,4,4]: camera → world, any world, in the depth's unit; a camera looks
                        along its −Z, +Y is up.  Without it the camera stands still
                        perhaps ``tracks`` f32 [T,N,3] and ``visible`` bool [T,N]: x and y in pixels (the first pixel's
                        centre is 0.5, 0.5) and depth; NaN where a value is not known.  What is finite is believed, also
                        where the point is hidden
                        perhaps ``mask_<name>`` bool [H,W] of the first picture
    clip.json           {"format": "das-clip", "version": 1, "lens_mm": 35.0, "fps": 24.0, "eye_height": 1.6,
                        "pitch_degrees": 0.0, "source": "where the depth comes from"}

Depth is the distance along the view axis of its own frame's camera in Blender units.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..client.files import write_whole
from ..errors import SettingsError, StorageError
from ..protocol.png import decode_png, encode_png
from .plate import EYE_HEIGHT, Plate
from .unreadable import UNREADABLE

FORMAT, VERSION = "das-clip", 1
FRAMES = "frames"
SOLVER = "Blender's camera solver"
"""Where the depth of a plate comes from that was found with a solved camera."""
_ARRAYS, _VALUES, _MASK = "clip.npz", "clip.json", "mask_"
RIGID = 1e-3
"""How far the axes of a camera may be from unit length and right angles."""


@dataclass(frozen=True)
class ClipPlate:
    """A clip as surfaces that move.

    ``pictures`` u8 [T,H,W,3]; ``depth`` f32 and ``valid`` bool [T,H,W] or [1,H,W]; ``lens_mm`` as of a `Plate`;
    ``fps`` frames a second; ``cameras`` f64 [T,4,4] or None; ``tracks`` f32 [T,N,3] (pixels, pixels, Blender units) and
    ``visible`` bool [T,N], or None; ``masks`` of the first picture; the rest as of a `Plate`.

    Raises `SettingsError` for arrays that do not fit together, or values that mean nothing.
    """

    pictures: np.ndarray
    depth: np.ndarray
    valid: np.ndarray
    lens_mm: float
    fps: float = 24.0
    cameras: np.ndarray | None = None
    tracks: np.ndarray | None = None
    visible: np.ndarray | None = None
    masks: dict[str, np.ndarray] = field(default_factory=dict)
    eye_height: float = EYE_HEIGHT
    pitch_degrees: float = 0.0
    source: str = ""

    def __post_init__(self):
        if self.pictures.ndim != 4 or not len(self.pictures):
            raise SettingsError(f"A clip's pictures are [T,H,W,3] and these are {list(self.pictures.shape)}.")
        count, shape = len(self.pictures), self.pictures.shape[1:3]
        if self.depth.shape not in ((count, *shape), (1, *shape)) or self.valid.shape != self.depth.shape:
            raise SettingsError(
                f"The clip's depth is {list(self.depth.shape)} (valid: {list(self.valid.shape)}) and its {count} "
                f"pictures have {shape[1]}×{shape[0]} pixels; give [{count},{shape[0]},{shape[1]}], or [1,…] for the "
                "first picture's.",
                field="depth",
            )
        for number in range(len(self.depth)):
            self._plate(number)  # its checks
        if not 0.0 < self.fps < 1e4:
            raise SettingsError(f"The clip has {self.fps} frames a second; give a number above 0.", field="fps")
        if self.cameras is not None:
            check_cameras(self.cameras, count)
        if self.tracks is not None:
            check_tracks(self.tracks, self.visible, count)

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def first(self) -> Plate:
        """The plate of its first picture."""
        return self._plate(0)

    def _plate(self, number: int) -> Plate:
        return Plate(
            self.pictures[number],
            self.depth[number],
            self.valid[number],
            self.lens_mm,
            self.masks,
            self.eye_height,
            self.pitch_degrees,
            self.source,
        )


def check_cameras(cameras: np.ndarray, count: int) -> None:
    """Raise `SettingsError` unless ``cameras`` are ``count`` rigid poses [T,4,4]."""
    if cameras.shape != (count, 4, 4):
        raise SettingsError(
            f"The clip's cameras are {list(cameras.shape)} and it has {count} frames; give [{count},4,4].",
            field="cameras",
        )
    turns = cameras[:, :3, :3]
    off = np.abs(turns @ turns.transpose(0, 2, 1) - np.eye(3)).max(axis=(1, 2))
    wrong = np.flatnonzero(~np.isfinite(cameras).all(axis=(1, 2)) | ~(off < RIGID) | ~(np.linalg.det(turns) > 0.0))
    if wrong.size:
        raise SettingsError(
            f"The clip's camera of frame {wrong[0] + 1} is no rotation and place; give camera → world without scale.",
            field="cameras",
        )


def check_tracks(tracks: np.ndarray, visible: np.ndarray | None, count: int) -> None:
    """Raise `SettingsError` unless ``tracks`` [T,N,3] and ``visible`` [T,N] are of ``count`` frames and the first one
    shows some of the points.
    """
    if tracks.ndim != 3 or len(tracks) != count or tracks.shape[2] != 3:
        raise SettingsError(
            f"The tracks are {list(tracks.shape)} and the clip has {count} frames; give [{count},N,3].", field="tracks"
        )
    if visible is None or visible.shape != tracks.shape[:2]:
        raise SettingsError(
            f"The tracks need visible [{count},{tracks.shape[1]}], which says where each point is seen.", field="tracks"
        )
    if not (visible[0] & np.isfinite(tracks[0, :, :2]).all(axis=1)).any():
        raise SettingsError(
            "None of the tracks is visible in the clip's first frame, which all motion is told from; track its points.",
            field="tracks",
        )


def save_clip(clip: ClipPlate, folder: Path) -> None:
    """Write ``clip`` into ``folder``, which is made.  Raises `StorageError`."""
    arrays = {f"{_MASK}{name}": mask for name, mask in clip.masks.items()}
    known = {"cameras": clip.cameras, "tracks": clip.tracks, "visible": clip.visible}
    arrays |= {name: array for name, array in known.items() if array is not None}
    packed = io.BytesIO()
    np.savez_compressed(packed, depth=clip.depth.astype(np.float32), valid=clip.valid, **arrays)
    values = {"format": FORMAT, "version": VERSION}
    values |= {name: getattr(clip, name) for name in ("lens_mm", "fps", "eye_height", "pitch_degrees", "source")}
    for number, picture in enumerate(clip.pictures):
        write_whole(folder / FRAMES / f"{number + 1:04d}.png", encode_png(picture))
    for old in folder.joinpath(FRAMES).glob("*.png"):
        if not (old.stem.isdigit() and 1 <= int(old.stem) <= len(clip)):
            old.unlink()
    write_whole(folder / _ARRAYS, packed.getvalue())
    write_whole(folder / _VALUES, json.dumps(values, indent=1).encode())


def is_clip(folder: Path) -> bool:
    """Whether a clip's plate was kept in ``folder``."""
    return (folder / _VALUES).is_file()


def load_clip(folder: Path) -> ClipPlate:
    """The clip's plate that was kept in ``folder``.  Raises `StorageError` where it cannot be read, `SettingsError`
    where its parts do not fit together.
    """
    try:
        values = json.loads((folder / _VALUES).read_text(encoding="utf-8"))
        if not isinstance(values, dict) or values.get("format") != FORMAT or values.get("version") != VERSION:
            raise ValueError(f"{_VALUES} is not of the format {FORMAT}, version {VERSION}")
        files = sorted((folder / FRAMES).glob("*.png"))
        pictures = [decode_png(file.read_bytes(), name=f"The picture {file}") for file in files]
        if len({picture.shape for picture in pictures}) != 1:
            raise ValueError(f"{FRAMES} holds no pictures of one size")
        with np.load(folder / _ARRAYS) as arrays:
            known = {name: arrays[name] for name in arrays.files}
        masks = {name[len(_MASK) :]: mask.astype(bool) for name, mask in known.items() if name.startswith(_MASK)}
        depth = known["depth"].astype(np.float32)
        valid = known.get("valid", np.isfinite(depth) & (depth > 0.0)).astype(bool)
        cameras, tracks, visible = (known.get(name) for name in ("cameras", "tracks", "visible"))
        lens, fps = float(values["lens_mm"]), float(values.get("fps", 24.0))
        eye, pitch = float(values.get("eye_height", EYE_HEIGHT)), float(values.get("pitch_degrees", 0.0))
    except UNREADABLE as error:
        raise StorageError(f"The plate in {folder} cannot be read ({error}); make it again.") from error
    return ClipPlate(
        np.stack(pictures),
        depth,
        valid,
        lens,
        fps,
        None if cameras is None else cameras.astype(np.float64),
        None if tracks is None else tracks.astype(np.float32),
        None if visible is None else visible.astype(bool),
        masks,
        eye,
        pitch,
        str(values.get("source", "")),
    )
