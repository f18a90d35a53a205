# SPDX-License-Identifier: GPL-3.0-or-later
"""A planned shot that was exported: its tracking videos, and what its key pictures must show.  No Blender in here."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..errors import SceneError
from ..tracking.drawn import DrawnSurfaces
from ..tracking.framing import Framing
from ..tracking.geometry import CameraPath, GeometrySequence, TrackingVideo
from ..tracking.video import render_tracking_video
from .findings import Finding
from .plan import ShotPlan
from .windows import owners

BETWEEN_AT_A_TIME = 8
"""Frames that the model does not make, drawn together: only their pictures are kept, not their correspondences."""


@dataclass(frozen=True)
class PictureView:
    """What a picture of one frame of a shot must show.

    ``frame``: Blender's.  ``is_first``: it is the shot's first.  ``size``: (width, height) in pixels.  ``framing``:
    where the shot's picture lies in it.  ``digest``: SHA-256 (hex) of its geometry, camera and size.  ``appearance``:
    digest of what else decides how it looks (materials, lights, world …), "" where that is not known.  ``seen_from``:
    the fields of its `CameraPath` of one frame at the render's size, as lists; None where nobody asks.
    """

    frame: int
    is_first: bool
    size: tuple[int, int]
    framing: Framing
    digest: str
    appearance: str
    seen_from: dict | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        """What to call the picture, for a sentence."""
        return "first frame" if self.is_first else f"key picture of frame {self.frame}"


@dataclass(frozen=True)
class ShotTracking:
    """A shot's tracking videos at the model's size.

    ``videos``: one for each of ``plan.windows``, of the model's frames, coloured by that window's first frame.
    ``between``: each frame (0-based) that the model does not make, drawn as by the window that makes the one before:
    u8 [H,W,3], coverage bool [H,W].  ``views``: what the key pictures at ``plan.keys`` must show.  ``cameras``: those
    of the key pictures' frames, at ``plan.picture_size``.  ``geometry``: at ``plan.render_size``, for as long as its
    source is open; None where only the tracking videos count.  ``digest``: SHA-256 (hex) of it, else "".  ``timings``:
    seconds per station.  ``findings``: what was known of it before any job.  ``seen_by``: (Blender frame, name of the
    camera from there on); ``camera_path``: SHA-256 (hex) of what they see, "" where nobody asked.
    """

    plan: ShotPlan
    videos: tuple[TrackingVideo, ...]
    views: tuple[PictureView, ...]
    cameras: CameraPath
    geometry: GeometrySequence | None = None
    digest: str = ""
    timings: dict[str, float] = field(default_factory=dict)
    between: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    seen_by: tuple[tuple[int, str], ...] = ()
    camera_path: str = ""

    @property
    def tracking(self) -> TrackingVideo:
        """The tracking video of the first window."""
        return self.videos[0]

    def passes(self, frame: int) -> tuple[np.ndarray, np.ndarray]:
        """Tracking video u8 [H,W,3] and coverage bool [H,W] of the Blender frame ``frame``, at the model's size."""
        index = self.plan.frames.index(frame)
        if index in self.between:
            return self.between[index]
        place = self.plan.place(index)
        window, _, _ = owners(self.plan.windows, place)
        video = self.videos[self.plan.windows.index(window)]
        return video.video[place - window.start], video.coverage[place - window.start]


def shot_from_geometry(
    geometry: GeometrySequence,
    plan: ShotPlan,
    *,
    colours_only: bool = False,
    progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> ShotTracking:
    """Geometry exported at ``plan.render_size`` → the shot's tracking videos, seen by the overscanned cameras.

    ``colours_only``: without the correspondences behind them, which no job asks for, see `render_tracking_video`.
    Raises `SceneError` when the first frame shows no surface, `JobCancelled`; see `render_tracking_video`.
    """
    started = time.perf_counter()
    seen = replace(geometry, cameras=plan.framing.overscan(geometry.cameras))
    total, done = sum(window.count for window in plan.windows) + len(plan.between), 0
    videos, between = [], {}
    asked = {"sky": plan.sky, "colours_only": colours_only, "should_stop": should_stop}
    for window, others in zip(plan.windows, _between_of_windows(plan), strict=True):
        part = part_of(seen, plan.made_in(window))

        def tell(count: int, _of: int, before: int = done) -> None:
            if progress is not None:
                progress(before + count, total)

        try:
            tracking = render_tracking_video(part, progress=tell, **asked)
        except SceneError:  # nothing in view
            if not videos:
                raise
            depths = videos[0].inverse_depth_range  # a window in the middle of a shot may begin with nothing in view
            tracking = render_tracking_video(part, inverse_depth_range=depths, progress=tell, **asked)
        videos.append(tracking)
        done += window.count
        for some in (others[at : at + BETWEEN_AT_A_TIME] for at in range(0, len(others), BETWEEN_AT_A_TIME)):
            part, depths = part_of(seen, (plan.made[window.start], *some)), tracking.inverse_depth_range
            found = render_tracking_video(part, inverse_depth_range=depths, **(asked | {"colours_only": True}))
            between |= {index: (found.video[at].copy(), found.coverage[at].copy()) for at, index in enumerate(some, 1)}
            done += len(some)
            if progress is not None:
                progress(done, total)
    check_in_view(videos[0])
    carries = plan.keeps_detail or plan.reads_carried or bool(plan.between)
    return ShotTracking(
        plan=plan,
        videos=tuple(videos),
        views=tuple(picture_view(geometry, plan, key) for key in plan.keys),
        cameras=picture_cameras(geometry, plan),
        geometry=geometry if carries or plan.transparent_film else None,
        digest=geometry_digest(geometry) if carries else "",
        timings={"tracking": time.perf_counter() - started},
        between=between,
    )


def _between_of_windows(plan: ShotPlan) -> list[list[int]]:
    """For each window the frames (0-based) that the model does not make, after frames that it makes first there."""
    found: list[list[int]] = [[] for _ in plan.windows]
    for index in plan.between:
        window, _, _ = owners(plan.windows, plan.place(index))
        found[plan.windows.index(window)].append(index)
    return found



def part_of(geometry: GeometrySequence, indices: Sequence[int]) -> GeometrySequence:
    """The frames ``indices`` (0-based) of ``geometry`` as a sequence of their own; vertices stay where they are."""
    vertices, chosen = geometry.vertices, list(indices)
    return replace(
        geometry,
        vertices=vertices[chosen] if isinstance(vertices, np.ndarray) else vertices.part(chosen),
        cameras=part_of_cameras(geometry.cameras, chosen),
        frames=tuple(geometry.frames[index] for index in chosen),
    )


def part_of_cameras(cameras: CameraPath, indices: Sequence[int]) -> CameraPath:
    """The cameras of the frames ``indices`` (0-based)."""
    chosen = list(indices)
    return replace(
        cameras,
        camera_from_world=cameras.camera_from_world[chosen],
        focal_px=cameras.focal_px[chosen],
        principal_px=cameras.principal_px[chosen],
        clip_start=cameras.clip_start[chosen],
        clip_end=cameras.clip_end[chosen],
        virtual_distance=None if cameras.virtual_distance is None else cameras.virtual_distance[chosen],
    )


def picture_cameras(geometry: GeometrySequence, plan: ShotPlan) -> CameraPath:
    """The cameras of the key pictures: those at ``plan.keys``, seeing what the pictures show."""
    return part_of_cameras(plan.pictures.overscan(geometry.cameras), plan.keys)


def picture_view(geometry: GeometrySequence, plan: ShotPlan, index: int) -> PictureView:
    """What a picture of the frame ``index`` (0-based) must show; ``geometry`` at ``plan.render_size``."""
    seen = part_of(replace(geometry, cameras=plan.pictures.overscan(geometry.cameras)), [index])
    return PictureView(
        frame=geometry.frames[index],
        is_first=index == 0,
        size=plan.picture_size,
        framing=plan.pictures,
        digest=first_frame_digest(seen),
        appearance=geometry.appearance,
        seen_from=_told(part_of_cameras(geometry.cameras, [index])),
    )


def _told(cameras: CameraPath) -> dict:
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(cameras).items()}


def cameras_told(said: dict, num_frames: int) -> CameraPath:
    """The camera of `PictureView.seen_from`, standing still for ``num_frames``.  Raises `KeyError`, `TypeError`,
    `ValueError` for what is none.
    """
    arrays = {name: value for name, value in said.items() if name not in ("width", "height")}
    rows = {
        name: None if value is None else np.repeat(np.array(value, np.float64), num_frames, axis=0)
        for name, value in arrays.items()
    }
    return CameraPath(**rows, width=int(said["width"]), height=int(said["height"]))


def check_in_view(tracking: TrackingVideo) -> None:
    """Raise `SceneError` when the first frame shows no surface."""
    if not tracking.coverage[0].any():
        raise SceneError(
            f"No surface is in view in the first frame (frame {tracking.frames[0]}): point the camera at the subject "
            "or start the shot at a frame that shows it."
        )


def geometry_digest(geometry: GeometrySequence) -> str:
    """SHA-256 (hex) of all geometry and cameras of ``geometry``."""
    cameras = geometry.cameras
    digest = hashlib.sha256(f"{geometry.frames} {cameras.width}x{cameras.height}".encode())
    arrays = (
        geometry.triangles,
        cameras.camera_from_world,
        cameras.focal_px,
        cameras.principal_px,
        cameras.clip_start,
        cameras.clip_end,
        *(geometry.cut.arrays().values() if geometry.cut is not None else ()),
        *(() if cameras.virtual_distance is None else (cameras.virtual_distance,)),
        *(() if geometry.roles is None else (geometry.roles,)),
    )
    for array in arrays:
        digest.update(np.ascontiguousarray(array))
    if geometry.changes is not None:
        digest.update(np.ascontiguousarray(geometry.changes.epochs))
        for array in geometry.changes.arrays:
            digest.update(np.ascontiguousarray(array))
    surfaces = DrawnSurfaces(geometry)
    for index in range(geometry.num_frames):
        digest.update(np.ascontiguousarray(surfaces.points(surfaces.at(index), index)))
    return digest.hexdigest()


def camera_path_digest(cameras: CameraPath) -> str:
    """SHA-256 (hex) of ``cameras``: where they stand, and what part of the picture each thing is seen at."""
    digest = hashlib.sha256(f"{cameras.width}x{cameras.height}".encode())
    own = cameras.virtual_distance
    for array in (
        cameras.camera_from_world, cameras.focal_px, cameras.principal_px, cameras.clip_start, cameras.clip_end,
        *(() if own is None else (own,)),
    ):  # fmt: skip
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


def first_frame_digest(geometry: GeometrySequence) -> str:
    """SHA-256 (hex) of the first frame's geometry, camera, picture size and frame number.

    What comes only in later frames (NaN vertices in the first) does not count: the first frame can be exported alone.
    """
    cameras, vertices = geometry.cameras, geometry.vertices[0]
    there = np.isfinite(vertices).all(axis=1)
    triangles = geometry.triangles[there[geometry.triangles].all(axis=1)]
    digest = hashlib.sha256(f"{geometry.frames[0]} {cameras.width}x{cameras.height}".encode())
    for array in (
        (np.cumsum(there, dtype=np.int64) - 1)[triangles],
        vertices[there],
        cameras.camera_from_world[0],
        cameras.focal_px[0],
        cameras.principal_px[0],
        cameras.clip_start[:1],
        cameras.clip_end[:1],
        *(() if cameras.virtual_distance is None or not cameras.virtual_distance[0] else cameras.virtual_distance[:1]),
    ):
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()
