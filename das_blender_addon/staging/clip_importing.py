# SPDX-License-Identifier: GPL-3.0-or-later
"""A clip and what is known of it → a clip's plate → a scene."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

import bpy
import numpy as np

from ..child.footage import Solved, solve_clip
from ..child.launch import launch
from ..child.scratch import Scratch
from ..errors import SettingsError
from ..footage.alignment import Alignment
from ..footage.clip import SOLVER, ClipPlate, is_clip, load_clip, save_clip
from ..footage.depth_files import MEDIAN_DEPTH, read_depth
from ..footage.estimated import AUTO, found_depth, found_masks, is_asked
from ..footage.mesh import check_quads
from ..footage.movers import movers, words_of_movers
from ..footage.plane import Room, plane_plate
from ..footage.plane_sweep import cards_of, moving_pixels, swept_depth
from ..footage.plate import SENSOR_MM, Plate, check_lens
from ..footage.repainting import Repaint, check_repaint, repainted
from ..footage.standing import moving_tracks
from ..footage.track_files import fitted_tracks, read_tracks
from ..footage.triangulation import Points, check_points, triangulated
from ..shot.machine import check_online_access
from .beside import in_blender, tell
from .clip_source import SourceClip, read_clip
from .clip_stage import ClipShot, prepare_surfaces, stage_surfaces
from .importing import PLANE, masks_of, measure_of
from .picture import EXR, read_picture, values_of_exr
from .stage import Stage

KEEP, SOLVE = "keep", "solve"
"""The clip's camera: taken for one that stands still (all motion is the points'), or found."""
BLENDER = "blender"
"""In the place of a file of tracks: Blender's own tracker (some hundred points); `AUTO`: the server's."""
CLIP_EVERY = 2
"""Pixels along the side of a quad, where nobody said it: a clip's surfaces have positions in every frame."""

ShouldStop = Callable[[], bool]


@dataclass(frozen=True)
class ClipWish:
    """What a clip's plate is made from.

    ``clip``: a movie, a folder of pictures, or one of a plate (`footage.clip`).  ``first``: its frame that the shot
    begins with, from 1; ``num_frames``: 0 for all.  ``fps`` 0: its own.  ``lens_mm``: as of a `PlateWish`.  ``depth``:
    "" for what is known (the plate's; the solved camera's), `PLANE`, or a depth file of the first picture or of all,
    with ``depth_kind`` and ``depth_scale``, or `AUTO` for the first one's by the server.  ``camera``: `KEEP`, `SOLVE`,
    or "" (as the plate says, else keep).  ``tracks``: `AUTO`, `BLENDER`, a file (`footage.track_files`), or "" for
    the plate's or none.  ``masks``, ``room``: as of a `PlateWish`.  ``folder``: where the plate is kept and found
    again.  ``server``: whom `AUTO` asks; ``timeout_s``: how long it may be silent.
    """

    clip: Path
    first: int = 1
    num_frames: int = 0
    fps: float = 0.0
    lens_mm: float = 0.0
    depth: str = ""
    depth_kind: str = ""
    depth_scale: float = 0.0
    camera: str = ""
    tracks: str = ""
    masks: Mapping[str, str] = field(default_factory=dict)
    room: Room = Room()
    folder: Path | None = None
    server: str = ""
    timeout_s: float = 30.0


def clip_plate_of(wish: ClipWish, should_stop: ShouldStop | None = None) -> tuple[ClipPlate, SourceClip]:
    """(the plate, its clip with what its user should know in sentences).

    Raises `FirstFrameError` (the clip), `SettingsError` (all else that was said), `SceneError` (no camera or depth can
    be found), `StorageError` (the folder), `JobCancelled`.
    """
    if wish.camera not in ("", KEEP, SOLVE):
        raise SettingsError(f"The clip's camera is {wish.camera!r}; choose {KEEP} or {SOLVE}.", field="camera")
    tell("Reading the clip", 0.0)
    source = read_clip(wish.clip, first=wish.first, num_frames=wish.num_frames, fps=wish.fps, should_stop=should_stop)
    shape = source.pictures.shape[1:3]
    known = _known(wish, source)
    lens = wish.lens_mm or (known.lens_mm if known else 0.0)
    if not lens:
        raise SettingsError(
            f"The lens of the clip {wish.clip} is not known; give its length for a sensor of 36 mm with --lens (35 is "
            "common, phones have about 26).",
            field="lens",
        )
    check_lens(lens)
    asks = AUTO in (wish.depth, wish.tracks) or any(is_asked(words) for words in wish.masks.values())
    measure = measure_of(wish.server, asks, should_stop, wish.timeout_s)
    masks = masks_of(found_masks(wish.masks, source.pictures[0], measure), shape) or (known.masks if known else {})
    tracks, visible, solved = _tracks(wish, source, known, lens, measure, should_stop)
    cameras = None
    if wish.camera != KEEP:
        cameras = known.cameras if known is not None else None
        if cameras is None and solved is not None:
            cameras = solved.cameras
    plate, cameras, tracks = _depth(wish, source, known, lens, cameras, (tracks, visible), solved, masks, measure)
    made = ClipPlate(
        source.pictures, plate.depth, plate.valid, lens, source.fps, cameras, tracks, visible, masks,
        plate.eye_height, plate.pitch_degrees, plate.source,
    )  # fmt: skip
    notes = list(source.notes)
    if wish.folder is not None and known is not None and wish.folder != wish.clip:
        notes.append(f"The plate kept in {wish.folder} is used: a lens of {lens:g} mm, depth from {plate.source}.")
    if tracks is None and cameras is None:
        notes.append("Nothing is known of how the clip moves, so its first picture stands still; give --tracks.")
    notes += [plate.note] if plate.note else []
    if solved is not None and solved.error_px is not None:
        notes.append(f"Blender's solver found the clip's camera to {solved.error_px:.2f} pixels.")
    if wish.folder is not None and not is_clip(wish.folder):
        save_clip(made, wish.folder)
    return made, replace(source, notes=tuple(notes))


@dataclass(frozen=True)
class _Depth:
    """``depth`` and ``valid`` [T or 1,H,W], and what else a plate says of itself; ``note``: what to know of it."""

    depth: np.ndarray
    valid: np.ndarray
    eye_height: float
    pitch_degrees: float
    source: str
    note: str = ""


def _known(wish: ClipWish, source: SourceClip) -> ClipPlate | None:
    """The plate that is there already, cut to the shot's frames."""
    place = wish.clip if is_clip(wish.clip) else wish.folder
    if place is None or not is_clip(place):
        return None
    plate = load_clip(place)
    count = len(source.pictures)
    if len(plate) != count:
        plate = _part(plate, wish.first, count, place)
    if not np.array_equal(plate.pictures, source.pictures):
        raise SettingsError(
            f"The plate in {place} is of another clip (or part of it) than {wish.clip}; name another folder.",
            field="plate",
        )
    return plate


def _part(plate: ClipPlate, first: int, count: int, place: Path) -> ClipPlate:
    if len(plate) < first - 1 + count:
        raise SettingsError(
            f"The plate in {place} has {len(plate)} frames and the shot goes to {first - 1 + count}; take fewer.",
            field="frames",
        )
    if first > 1 and (plate.masks or len(plate.depth) == 1):
        raise SettingsError(
            f"The plate in {place} knows the depth or masks of its first picture only; begin there (--from 1).",
            field="from",
        )
    chosen = slice(first - 1, first - 1 + count)

    def cut(array):
        return None if array is None else array[chosen]

    depth, valid = (array if len(array) == 1 else array[chosen] for array in (plate.depth, plate.valid))
    return replace(
        plate, pictures=plate.pictures[chosen], depth=depth, valid=valid, cameras=cut(plate.cameras),
        tracks=cut(plate.tracks), visible=cut(plate.visible),
    )  # fmt: skip


def _tracks(wish: ClipWish, source: SourceClip, known: ClipPlate | None, lens: float, measure, should_stop):
    """(tracks [T,N,3] or None, visible, what Blender's tracker and solver found or None)."""
    count, solved = len(source.pictures), None
    needs_camera = wish.camera == SOLVE and (known is None or known.cameras is None)
    if needs_camera or wish.tracks == BLENDER:
        solved = _solved(source, lens, needs_camera, should_stop)
    if wish.tracks == BLENDER:
        return *fitted_tracks(solved.tracks, solved.visible, 1, count, "Blender's tracker"), solved
    if wish.tracks == AUTO:
        if measure is None:
            raise SettingsError(
                "No server here estimates tracks; give a file of them (--tracks FILE.npz), or --tracks blender for "
                "some hundred points that Blender follows itself.",
                field="tracks",
            )
        found = measure("tracks", source.pictures)
        return *fitted_tracks(found["tracks"], found["visible"], 1, count, "the server"), solved
    if wish.tracks:
        return *read_tracks(Path(wish.tracks), wish.first, count), solved
    if known is not None:
        return known.tracks, known.visible, solved
    return None, None, solved


def _solved(source: SourceClip, lens: float, needs_camera: bool, should_stop) -> Solved:
    height, width = source.pictures.shape[1:3]
    tell("Finding the clip's camera" if needs_camera else "Following the clip's features", 0.1)
    scratch = Scratch("clip")
    try:
        files = [Path(scratch.name) / f"{number + 1:04d}.tga" for number in range(len(source.pictures))]
        for file, picture in zip(files, source.pictures, strict=True):
            file.write_bytes(_plain(picture))
        sensor = SENSOR_MM * width / max(width, height)
        return solve_clip(files, lens, sensor, in_blender(launch), solve=needs_camera, should_stop=should_stop)
    finally:
        scratch.cleanup()


def _plain(picture: np.ndarray) -> bytes:
    """``picture`` u8 [H,W,3] as a TGA file, which is not compressed: nobody keeps it."""
    height, width = picture.shape[:2]
    head = struct.pack("<BBBHHBHHHHBB", 0, 0, 2, 0, 0, 0, 0, 0, width, height, 24, 0x20)  # 24 bits, from the top
    return head + picture[..., ::-1].tobytes()


def _depth(wish: ClipWish, source: SourceClip, known, lens: float, cameras, followed, solved, masks, measure):
    """(the depth, the cameras in its unit, the tracks with the depth that is known of them)."""
    tracks, visible = followed
    shape, count = source.pictures.shape[1:3], len(source.pictures)
    has_unit = known is not None and known.cameras is not None
    points = None
    if cameras is not None and not has_unit:
        lines = (solved.tracks, solved.visible) if tracks is None else (tracks, visible)
        points = triangulated(*lines, cameras, lens, shape[::-1])
        check_points(points, lines[0][0], shape)
    if wish.depth == AUTO:
        depth, valid, _, origin = found_depth(source.pictures[0], lens, measure, scale=wish.depth_scale)
        found = _Depth(depth[None], valid[None], wish.room.eye_height, 0.0, origin)
    elif wish.depth and wish.depth != PLANE:
        file = Path(wish.depth)
        values = values_of_exr(file) if file.suffix.lower() == EXR else None
        depth, valid = read_depth(
            file, shape, kind=wish.depth_kind, scale=wish.depth_scale, values=values, frames=(wish.first, count)
        )
        found = _Depth(depth, valid, wish.room.eye_height, 0.0, f"the file {wish.depth}")
    elif known is not None and not wish.depth:
        depth = _with_cards(known, masks) if wish.masks and known.source == SOLVER else known.depth
        found = _Depth(depth, known.valid, known.eye_height, known.pitch_degrees, known.source)
    elif points is not None and not wish.depth:
        tell("Measuring how far away all is", 0.6)
        swept, told, points = swept_depth(source.pictures, cameras, lens, points, *lines)
        alone = movers(moving_pixels(points, lines[0][0], shape), lines[0][0][points.moves], masks)
        swept = cards_of(swept, told, masks.values())
        scale = MEDIAN_DEPTH / float(np.median(swept))
        valid, said = np.ones((1, *shape), bool), words_of_movers(alone)
        found = _Depth((scale * swept)[None], valid, wish.room.eye_height, 0.0, SOLVER, said)
    else:
        plane = plane_plate(source.pictures[0], lens, wish.room, masks=masks)
        found = _Depth(plane.depth[None], plane.valid[None], plane.eye_height, plane.pitch_degrees, plane.source)
    if points is not None:
        scale = _scale_of(found, points, lines[0][0])
        cameras = cameras.copy()
        cameras[:, :3, 3] *= scale
    return found, cameras, tracks


def _with_cards(known: ClipPlate, masks: Mapping[str, np.ndarray]) -> np.ndarray:
    """The depth of a plate of `SOLVER` [1,H,W] for ``masks`` that it did not have: as if it had had them."""
    if known.cameras is None or known.tracks is None:
        return known.depth
    points = triangulated(known.tracks, known.visible, known.cameras, known.lens_mm, known.first.size)
    followed = (known.tracks, known.visible, known.pictures, known.cameras, known.lens_mm)
    points = replace(points, moves=moving_tracks(points, *followed, known.depth[0]))
    moving = moving_pixels(points, known.tracks[0], known.depth.shape[1:])
    return cards_of(known.depth[0], ~moving, masks.values())[None]


def _scale_of(found: _Depth, points: Points, at: np.ndarray) -> float:
    """Units of ``found`` in one of the ``points``, which the first picture shows ``at`` [N,2+]."""
    height, width = found.depth.shape[1:]
    x, y = np.floor(at[points.good, :2].T).astype(int)
    inside = (x >= 0) & (y >= 0) & (x < width) & (y < height)
    x, y, own = x[inside], y[inside], points.places[points.good, 2][inside]
    there = found.valid[0, y, x]
    if not there.any():
        raise SettingsError(
            "The depth file knows nothing of any point that the clip's camera was found by; give the depth of this "
            "clip's first picture.",
            field="depth",
        )
    return float(np.median(found.depth[0, y, x][there] / own[there]))


def prepare_clip(
    wish: ClipWish,
    *,
    folder: Path,
    size: tuple[int, int] | None = None,
    every: int = 0,
    first_picture: Path | None = None,
    repaint: Repaint | None = None,
    alignment: Alignment | None = None,
    should_stop: ShouldStop | None = None,
) -> tuple[Callable[[], Stage], ClipPlate]:
    """(what makes the scene, on the thread that may touch Blender; the plate): `clip_plate_of`, then `clip_stage`, with
    what is to know of both.  In any thread below `beside.beside_blender`.

    ``folder``: of the positions (PC2).  ``size`` (width, height): the render's; None for the clip's.  ``every``: pixels
    along the side of a quad; 0 for `CLIP_EVERY`.  ``first_picture``: a file in the place of the clip's first picture;
    ``repaint``: the wish's server paints that one.  Errors as `clip_plate_of`; `SettingsError` for an alignment of a
    clip with a camera that moves, or both kinds of a first picture; as `repainting.check_repaint`.
    """
    if wish.num_frames < 0 or every < 0:
        raise SettingsError(f"The frames are {wish.num_frames} and a quad {every} pixels; give 0 or more.")
    if repaint is not None:
        _check_repaint(wish, repaint, first_picture)
    clip, source = clip_plate_of(wish, should_stop)
    every = every or CLIP_EVERY
    plate = clip.first
    check_quads(plate.size, every)
    notes = list(source.notes)
    alignment = alignment or Alignment()
    if not alignment.is_none:
        if clip.cameras is not None:
            raise SettingsError(
                "The clip is aligned in the picture plane, for which its camera must stand still; say --camera keep.",
                field="align",
            )
        notes.append(f"The clip is aligned: {alignment.words}.")
    styled = None
    if first_picture is not None:
        styled, said = styled_picture(first_picture, plate)
        notes += said
    if repaint is not None:
        tell("The server repaints the first picture", 0.6)
        styled, painted = repainted(plate, repaint, wish.server, should_stop, wish.timeout_s)
        notes.append(painted)
    shot = ClipShot(wish.clip.stem or "Clip", folder, size, every, styled, alignment, source.file)
    tell("Making the surfaces", 0.8)
    prepared = prepare_surfaces(clip, shot)
    width, height = plate.size
    if size is not None and size != plate.size:
        notes.append(f"The clip has {width}×{height} pixels and the shot {size[0]}×{size[1]}; it is fitted to it.")
    return lambda: replace(stage_surfaces(prepared), notes=tuple(notes)), clip


def import_clip(wish: ClipWish, **known) -> tuple[Stage, ClipPlate]:
    """`prepare_clip`, and the scene made."""
    finish, clip = prepare_clip(wish, **known)
    return finish(), clip


def _check_repaint(wish: ClipWish, repaint: Repaint, first_picture: Path | None) -> None:
    if first_picture is not None:
        raise SettingsError(
            f"The first picture is {first_picture} and is to be repainted from the clip's own, too; choose one.",
            field="repaint",
        )
    if wish.server:
        in_blender(lambda: check_online_access(wish.server))
    check_repaint(repaint, wish.server, wish.timeout_s)


def styled_picture(path: Path, plate: Plate) -> tuple[np.ndarray, list[str]]:
    """(the picture of the file ``path`` u8 [H,W,3] in the shape of ``plate``'s, what was done to it in sentences): as
    it is where it has that shape, else its middle.
    """
    made = read_picture(path)
    (height, width), (wide, high) = made.pixels.shape[:2], plate.size
    notes = list(made.notes)
    if (width, height) == (wide, high):
        return made.pixels, notes
    inner_width, inner_height = min(width, round(height * wide / high)), min(height, round(width * high / wide))
    left, top = (width - inner_width) // 2, (height - inner_height) // 2
    shown = made.pixels[top : top + inner_height, left : left + inner_width]
    cut = "" if (inner_width, inner_height) == (width, height) else f"; its middle {inner_width}×{inner_height} is used"
    notes.append(f"The first picture {path.name} has {width}×{height} pixels and the clip {wide}×{high}{cut}.")
    return np.ascontiguousarray(shown), notes


def positions_folder(blend: Path | None) -> Path:
    """Where the positions of a clip's surfaces are to lie: a new folder beside the file ``blend``, or the one that is
    open; another clip's stays as it is.

    Raises `SettingsError` where there is none.
    """
    file = blend or (Path(bpy.data.filepath) if bpy.data.filepath else None)
    if file is None:
        raise SettingsError(
            "The positions of the clip's surfaces are kept beside the file, which has no place yet; save it first.",
            field="file",
        )
    folder = Path(os.path.realpath(file)).parent
    names = (f"{file.stem}_clip{'' if number == 1 else f'_{number}'}" for number in count(1))
    return next(folder / name for name in names if not (folder / name).exists())
