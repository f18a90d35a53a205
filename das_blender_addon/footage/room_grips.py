# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a `plane.Room` can be grasped in its picture, and what it becomes when it is dragged there.

Places in the picture are (u, v): 0 at its left and top, 1 at its right and bottom; beyond it they go on.  A wall that
the room does not have waits at the picture's border, and goes there when it is dragged out.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np

from .plane import Room, pitch_of
from .plate import focal_px, level_camera

NAMES = tuple(one.name for one in fields(Room))
"""What can be grasped: each value of a room."""
RIM = 0.03
"""A grip is at least so far inside of the picture."""
NEAREST = 0.05
"""Walls, ceiling and floor are dragged to so many units from the camera at the nearest."""
FAR = 200.0
"""A wall that is dragged farther than so many eye heights is none."""
WITHOUT_WALL = 4.0
"""Eye heights before the camera at which ceiling and floor are grasped, where no wall faces it."""
_FLOOR_AT = 0.7
"""Share of the wall's distance at which the floor is grasped."""
_SHARES = {"horizon": 0.2, "eye_height": 0.65, "wall": 0.5, "ceiling": 0.5}
"""Where a grip lies across the picture."""
_SIDE_AT = 0.8
"""Height in the picture at which side walls are grasped, where no wall ends them."""


@dataclass(frozen=True)
class Grips:
    """The grips of ``room`` in a picture of ``size`` (width, height), seen through a lens of ``lens_mm``."""

    room: Room
    lens_mm: float
    size: tuple[int, int]

    @cached_property
    def _turn(self) -> np.ndarray:
        """[3,3] f64: camera → room."""
        return level_camera(0.0, pitch_of(self.room.horizon, self.lens_mm, self.size))[:3, :3]

    @cached_property
    def _focal(self) -> np.ndarray:
        """[2] f64: the focal length as a share of the picture's width and height."""
        return focal_px(self.lens_mm, self.size) / np.array(self.size, dtype=np.float64)

    def places(self) -> dict[str, tuple[float, float]]:
        """Name → where it is grasped, inside of the picture."""
        room = self.room
        found = {"horizon": (_SHARES["horizon"], room.horizon)}
        foot = self._seen((0.0, room.wall, -room.eye_height))[1] if room.wall else room.horizon
        found["wall"] = (_SHARES["wall"], foot)
        found["eye_height"] = (_SHARES["eye_height"], self._seen((0.0, self._floor_at(), -room.eye_height))[1])
        above = room.ceiling - room.eye_height
        top = self._seen((0.0, self._facing(), above))[1] if room.ceiling else 0.0
        found["ceiling"] = (_SHARES["ceiling"], top)
        for name, side in (("left", -1.0), ("right", 1.0)):
            found[name] = self._side(name, side)
        low, high = RIM, 1.0 - RIM
        return {name: (float(np.clip(u, low, high)), float(np.clip(v, low, high))) for name, (u, v) in found.items()}

    def dragged(self, name: str, to: tuple[float, float]) -> Room:
        """The room whose grip ``name`` is at ``to`` (u, v): its one value is another one."""
        if name == "horizon":
            return replace(self.room, horizon=float(to[1]))
        u, v = to
        right, away, up = self._turn @ ((u - 0.5) / self._focal[0], (0.5 - v) / self._focal[1], -1.0)
        room = self.room
        if away <= 0.0:
            return room
        if name == "wall":
            value = -room.eye_height * away / up if up < 0.0 else np.inf
        elif name == "eye_height":
            return replace(room, eye_height=float(max(-up / away * self._floor_at(), NEAREST)))
        elif name == "ceiling":
            value = room.eye_height + max(up / away * self._facing(), NEAREST) if v > 0.0 else 0.0
        elif not 0.0 < u < 1.0:
            value = 0.0
        else:
            side = -1.0 if name == "left" else 1.0
            if room.wall or up >= 0.0:
                value = side * right / away * self._facing()
            else:
                value = side * right * -room.eye_height / up
        if value and not value < FAR * room.eye_height:
            value = 0.0
        return replace(room, **{name: float(max(value, NEAREST) if value else 0.0)})

    def lines(self) -> np.ndarray:
        """[S,2,2] f64: the room's edges in the picture, (u, v) of both ends of each; the horizon is the first."""
        room, floor = self.room, -self.room.eye_height
        wide = FAR * room.eye_height
        ends = {"left": -(room.left or wide), "right": room.right or wide}
        top = room.ceiling - room.eye_height if room.ceiling else wide
        back = room.wall or wide
        edges = []
        if room.wall:
            edges.append(((ends["left"], back, floor), (ends["right"], back, floor)))
        if room.wall and room.ceiling:
            edges.append(((ends["left"], back, top), (ends["right"], back, top)))
        for side in ("left", "right"):
            if not getattr(room, side):
                continue
            along = ends[side]
            edges.append(((along, NEAREST, floor), (along, back, floor)))
            if room.ceiling:
                edges.append(((along, NEAREST, top), (along, back, top)))
            if room.wall:
                edges.append(((along, back, floor), (along, back, top)))
        seen = [((0.0, room.horizon), (1.0, room.horizon))]
        seen += [line for line in (self._line(*edge) for edge in edges) if line is not None]
        return np.array(seen)

    def _facing(self) -> float:
        """How far away a ceiling is grasped."""
        return self.room.wall or WITHOUT_WALL * self.room.eye_height

    def _floor_at(self) -> float:
        """How far away the floor is grasped: within the picture, where that is possible."""
        up = (0.5 - (1.0 - RIM)) / self._focal[1]
        _, away, down = self._turn @ (0.0, up, -1.0)
        nearest = -self.room.eye_height * away / down if down < 0.0 < away else 0.0
        return max(_FLOOR_AT * self._facing(), nearest)

    def _side(self, name: str, side: float) -> tuple[float, float]:
        room, distance = self.room, getattr(self.room, name)
        floor = -room.eye_height
        if not distance:
            return (0.0 if side < 0.0 else 1.0), _SIDE_AT
        if room.wall:
            return self._seen((side * distance, room.wall, 0.5 * floor))
        _, away, up = self._turn @ (0.0, (0.5 - _SIDE_AT) / self._focal[1], -1.0)
        if up >= 0.0 or away <= 0.0:
            return self._seen((side * distance, self._facing(), 0.5 * floor))
        return self._seen((side * distance, floor * away / up, floor))

    def _seen(self, place) -> tuple[float, float]:
        """(u, v) of a ``place`` (right, away, up of the camera)."""
        x, y, z = np.asarray(place, dtype=np.float64) @ self._turn
        ahead = max(-z, 1e-6)
        return float(0.5 + self._focal[0] * x / ahead), float(0.5 - self._focal[1] * y / ahead)

    def _line(self, start, end):
        """Both ends (u, v) of what the picture shows of an edge, or None."""
        ends = np.array([start, end], dtype=np.float64) @ self._turn
        planes = [(0.0, 0.0, -1.0)]  # ahead of the camera, then the picture's borders
        planes += [(sign * self._focal[0], 0.0, -0.5) for sign in (1.0, -1.0)]
        planes += [(0.0, sign * self._focal[1], -0.5) for sign in (1.0, -1.0)]
        low, high = 0.0, 1.0
        for plane in planes:
            first, last = ends @ plane
            if first < 0.0 and last < 0.0:
                return None
            if (first < 0.0) != (last < 0.0):
                cut = first / (first - last)
                low, high = (max(low, cut), high) if first < 0.0 else (low, min(high, cut))
        if low >= high:
            return None
        cut = ends[0] + np.array([[low], [high]]) * (ends[1] - ends[0])
        ahead = np.maximum(-cut[:, 2], 1e-6)
        u, v = 0.5 + self._focal[0] * cut[:, 0] / ahead, 0.5 - self._focal[1] * cut[:, 1] / ahead
        return (u[0], v[0]), (u[1], v[1])
