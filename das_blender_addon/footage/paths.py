# SPDX-License-Identifier: GPL-3.0-or-later
"""Camera paths in words → where the camera is in every frame.

Moves, one after the other, joined by ``;`` (each over the whole shot, evenly):

    orbit:30     round the middle of the picture, degrees; the camera goes to the right
    dolly:1.5    forward, Blender units        truck:1   to the right        crane:1   up
    pan:20       turns to the right, degrees   tilt:10   turns up            roll:5    turns to the right about its view

or the published text: ``trans dx dy dz [start end]``, ``rot x|y|z degrees [start end]``, ``spiral radius [start end]``,
whose frames count from 0 and whose values say how the *scene* moves before the camera (+x: the camera goes left, +y up,
+z back; rot x turns down, y left, z counter-clockwise).  Parts that come later are applied to the scene first.
"""

from __future__ import annotations

import math

import numpy as np

from ..errors import SettingsError

MOVES = ("orbit", "dolly", "truck", "crane", "pan", "tilt", "roll")
_BLENDER_FROM_OPTICAL = np.diag([1.0, -1.0, -1.0, 1.0])
_UP, _RIGHT, _FORWARD = np.array([0.0, 1.0, 0.0]), np.array([1.0, 0.0, 0.0]), np.array([0.0, 0.0, -1.0])


def camera_path(words: str, num_frames: int, *, distance: float, pitch_degrees: float = 0.0) -> np.ndarray:
    """[T,4,4] f64: the camera of each frame → the first frame's camera space (+X right, +Y up, looks along −Z).

    ``distance``: Blender units to what an orbit goes round.  ``pitch_degrees``: how far the first camera looks down,
    for what goes by the world's up.  Raises `SettingsError` that names the part that cannot be read.
    """
    parts = [part.strip() for part in str(words).split(";") if part.strip()]
    named = [":" in part for part in parts]
    if any(named) and not all(named):
        raise SettingsError(
            f"The camera path {words!r} mixes moves (dolly:1) and the published text (trans 0 0 1); write one of them.",
            field="path",
        )
    if not parts or not any(named):
        return path_of_poses(published_poses(words, num_frames))
    up = _turn(_RIGHT, pitch_degrees)[:3, :3] @ _UP
    whole = np.repeat(np.eye(4)[None], num_frames, axis=0)
    for part in parts:
        whole = whole @ np.stack([_move(part, share, distance, up) for share in _ramp(num_frames)])
    return whole


def path_of_poses(poses: np.ndarray) -> np.ndarray:
    """[T,4,4]: camera → first camera, Blender's axes, of published poses [T,4,4] (world → camera, +Y down, +Z in)."""
    return _BLENDER_FROM_OPTICAL @ np.linalg.inv(poses.astype(np.float64)) @ _BLENDER_FROM_OPTICAL


def published_poses(words: str, num_frames: int = 49) -> np.ndarray:
    """[T,4,4] f64, world → camera, +X right, +Y down, +Z in: what the published text means.

    It differs where the published program is wrong: a spiral is where the camera goes, not its inverse; frames count to
    the shot's end, whatever its length; a part that begins where it ends is refused.  Raises `SettingsError`.
    """
    whole = np.repeat(np.eye(4)[None], num_frames, axis=0)
    for part in str(words).split(";"):
        if part.strip():
            whole = whole @ _published_part(part.strip().lower().split(), part.strip(), num_frames)
    return whole


def _published_part(parts: list[str], said: str, num_frames: int) -> np.ndarray:
    counts = {"trans": 3, "rot": 2, "spiral": 1}
    kind, values = parts[0], parts[1:]
    if kind not in counts:
        raise SettingsError(
            f"The camera path {said!r} is unknown; write a move ({', '.join(f'{move}:…' for move in MOVES)}) or "
            "trans, rot or spiral.",
            field="path",
        )
    if len(values) not in (counts[kind], counts[kind] + 2):
        raise SettingsError(
            f"The camera path {said!r} has {len(values)} values; {kind} has {counts[kind]}, and perhaps a first and a "
            "last frame.",
            field="path",
        )
    start, end = _span(values[counts[kind] :], said, num_frames)
    share = np.clip((np.arange(num_frames) - start) / (end - start), 0.0, 1.0) if end > start else np.zeros(num_frames)
    if kind == "rot":
        axes = {"x": (1.0, 0.0, 0.0), "y": (0.0, 1.0, 0.0), "z": (0.0, 0.0, 1.0)}
        if values[0] not in axes:
            raise SettingsError(f"The camera path {said!r} turns about x, y or z, not {values[0]!r}.", field="path")
        degrees = _number(values[1], said)
        return np.stack([_turn(np.array(axes[values[0]]), degrees * one) for one in share])
    if kind == "trans":
        poses = np.repeat(np.eye(4)[None], num_frames, axis=0)
        poses[:, :3, 3] = share[:, None] * [_number(value, said) for value in values[:3]]
        return poses
    radius = _number(values[0], said)
    if radius <= 0.0:
        raise SettingsError(f"The camera path {said!r} has a radius of {radius:g}; give one above 0.", field="path")
    steps = np.trunc(share * (num_frames - 1)) / max(num_frames - 1, 1)
    return np.linalg.inv(np.stack([_spiral(float(step), radius) for step in steps]))


def _spiral(step: float, radius: float) -> np.ndarray:
    """[4,4]: camera → world at ``step`` (0 to 1) of a spiral that begins and ends at the first camera."""
    out = math.sin(math.pi * step) * radius * 0.1
    place = np.array([out * math.sin(2 * math.pi * step), 0.3 * out * math.cos(2 * math.pi * step), -0.5 * out])
    forward = np.array([0.0, 0.0, radius / 2.0]) - place
    forward /= np.linalg.norm(forward)
    right = np.cross(_UP, forward)
    right /= np.linalg.norm(right)
    matrix = np.eye(4)
    matrix[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    matrix[:3, 3] = place
    return matrix


def _span(values: list[str], said: str, num_frames: int) -> tuple[int, int]:
    if not values:
        return 0, num_frames - 1
    try:
        start, end = sorted(min(max(int(value), 0), num_frames - 1) for value in values)
    except ValueError as error:
        raise SettingsError(f"The camera path {said!r} has frames that are no whole numbers.", field="path") from error
    if start == end:
        raise SettingsError(
            f"The camera path {said!r} begins and ends at frame {start} of {num_frames}; give it more than one.",
            field="path",
        )
    return start, end


def _move(part: str, share: float, distance: float, up: np.ndarray) -> np.ndarray:
    kind, _, value = part.lower().partition(":")
    kind = kind.strip()
    if kind not in MOVES:
        raise SettingsError(
            f"The camera move {part!r} is unknown; there are {', '.join(f'{move}:…' for move in MOVES)}.", field="path"
        )
    amount = share * _number(value, part)
    if kind in ("dolly", "truck", "crane"):
        return _shift(amount * {"dolly": _FORWARD, "truck": _RIGHT, "crane": up}[kind])
    if kind == "orbit":
        middle = distance * _FORWARD
        return _shift(middle) @ _turn(up, amount) @ _shift(-middle)
    axis, sign = {"pan": (up, -1.0), "tilt": (_RIGHT, 1.0), "roll": (_FORWARD, 1.0)}[kind]
    return _turn(axis, sign * amount)


def _number(text: str, said: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise SettingsError(f"The camera path {said!r} has {text!r} where a number belongs.", field="path") from error
    if not math.isfinite(value) or abs(value) > 1e6:
        raise SettingsError(f"The camera path {said!r} has {text} where a number of some size belongs.", field="path")
    return value


def _ramp(num_frames: int) -> np.ndarray:
    return np.linspace(0.0, 1.0, num_frames) if num_frames > 1 else np.zeros(1)


def _shift(by: np.ndarray) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = by
    return matrix


def _turn(axis: np.ndarray, degrees: float) -> np.ndarray:
    """[4,4]: right-handed turn about ``axis`` [3] of length 1."""
    x, y, z = axis
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    angle = math.radians(degrees)
    matrix = np.eye(4)
    matrix[:3, :3] += math.sin(angle) * cross + (1.0 - math.cos(angle)) * cross @ cross
    return matrix
