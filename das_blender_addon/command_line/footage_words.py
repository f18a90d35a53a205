# SPDX-License-Identifier: GPL-3.0-or-later
"""The words of ``das plate``, ``das camera``, ``das move`` and ``das transfer``."""

from __future__ import annotations

import argparse

from ..errors import SettingsError
from ..footage.depth_files import KINDS
from ..footage.plane import Room

COMMANDS = ("plate", "camera", "move", "transfer")
OWN_FLAGS = ("--frames", "--windows", "--first-frame", "--camera")
"""Flags of settings that these commands have in a meaning of their own, or not at all."""
NUM_FRAMES = 49
"""Of a shot from a picture."""
LARGEST = 1e6
"""Of metres and degrees that a thing is moved by."""
MASKS = "a file, box:x,y,w,h, or of the server salient, point:x,y, cut:x,y,w,h, lasso:x,y;x,y;x,y"
ROOM_WORDS = {
    "horizon": "of plane: its height, 0 at the top to 1",
    "wall": "of plane: metres to the wall, 0 for none",
    "left": "of plane: metres to a wall on the left, 0 for none",
    "right": "of plane: metres to a wall on the right, 0 for none",
    "ceiling": "of plane: metres from ground to ceiling",
    "eye_height": "metres of the camera above the ground",
}
"""Field of `footage.plane.Room` → what its flag says."""


def add_arguments(command: argparse.ArgumentParser, word: str) -> None:
    """What ``das word`` takes besides the flags of settings."""
    command.set_defaults(file="", scene="", strict=False, scripts=None, tracking_only=False, path="")
    command.set_defaults(first_picture="", repaint=None, align="")
    what = "a clip" if word == "transfer" else "a picture of any format that Blender reads, or a clip"
    command.add_argument("picture", help=f"{what}: a movie, a folder of pictures, or the folder of a clip's plate")
    add_depth(command)
    for name, what in ROOM_WORDS.items():
        command.add_argument(
            f"--{name.replace('_', '-')}", dest=name, type=float, default=getattr(Room(), name), help=what
        )
    add_clip(command, "--camera" if word == "transfer" else "--clip-camera")
    add_size(command)
    command.add_argument(
        "--frames", dest="count", type=int, default=None, metavar="N", help="frames of the shot; of a clip all"
    )
    command.add_argument("--save", default="", metavar="SHOT.blend", help="write the scene, to be edited and rendered")
    if word == "plate":
        command.add_argument(
            "--mask", action="append", default=[], help=f"a thing that becomes an object of its own: {MASKS}"
        )
        return
    command.add_argument("--output", default="", help="folder of the frames, and of tracking.npz")
    command.add_argument(
        "--tracking-only", action="store_true", help="only the tracking video and its positions, without a server"
    )
    if word == "transfer":
        _add_transfer(command)
        return
    command.add_argument(
        "--path" if word == "camera" else "--camera", dest="path", default="", required=word == "camera",
        help="orbit:30, dolly:1.5, truck:1, crane:1, pan:20, tilt:10, roll:5, joined by ; or the published text "
        "(trans, rot, spiral), or a .blend, .abc, .usd or .fbx file whose camera moves so",
    )  # fmt: skip
    if word == "move":
        _add_move(command)


def add_depth(command: argparse.ArgumentParser) -> None:
    """What is said of depth and lens."""
    command.add_argument(
        "--depth", default="", metavar="FILE|plane|auto",
        help="a depth file (.npy, .npz, .exr, 16-bit .png) of the picture's size (of a clip: one or all), plane: a "
        "level ground and a wall, or auto: the server measures it; without it what is known, else plane",
    )  # fmt: skip
    command.add_argument(
        "--depth-kind", choices=KINDS, default="", help="what the file's values mean, where it does not say so itself"
    )
    command.add_argument("--depth-scale", type=float, default=0.0, help="metres (or units) that one of its values is")
    command.add_argument(
        "--lens", type=float, default=0.0, metavar="MM",
        help="length of the lens for a sensor 36 mm long; without it, as the picture's file says",
    )  # fmt: skip


def add_size(command: argparse.ArgumentParser) -> None:
    """How fine the plate is, and where it is kept."""
    command.add_argument("--every", type=int, default=None, metavar="N", help="a quad of the mesh for each N×N pixels")
    command.add_argument("--plate", default="", metavar="FOLDER", help="keep the plate there, and use it again")


def add_clip(command: argparse.ArgumentParser, camera_flag: str) -> None:
    """What is said of a clip."""
    command.add_argument(
        "--tracks", default="", metavar="auto|blender|FILE",
        help="of a clip: auto (the server follows its points), blender (Blender does), or an .npz of tracks",
    )  # fmt: skip
    command.add_argument(
        camera_flag, dest="clip_camera", choices=("keep", "solve"), default="",
        help="of a clip: keep takes its camera for one that stands still, solve finds how it moved; without it as its "
        "plate says, else keep",
    )  # fmt: skip
    command.add_argument(
        "--from", dest="first", type=int, default=1, metavar="N", help="the clip's frame to begin with"
    )
    command.add_argument("--fps", type=float, default=0.0, help="frames a second, where no file says it")


def _add_transfer(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--first-picture", default="", metavar="FILE", help="the clip's first picture in another style, or another one"
    )
    command.add_argument(
        "--repaint", default=None, metavar="WORDS",
        help="the server paints the clip's first picture anew by these words; its depth keeps its shapes where it is "
        "known, else its edges",
    )  # fmt: skip
    command.add_argument(
        "--align", default="", metavar="RIGHT,DOWN,SCALE,DEGREES",
        help="lay the clip over that picture: pixels, a factor and degrees clockwise about the middle",
    )  # fmt: skip


def _add_move(command: argparse.ArgumentParser) -> None:
    command.add_argument("--mask", required=True, metavar="MASK", help=f"the thing that moves: {MASKS}")
    command.add_argument(
        "--by", default="0,0,0", metavar="X,Y,Z",
        help="metres to the right, away, up; a negative one is written --by=-1,0,0",
    )  # fmt: skip
    command.add_argument("--rotate", default="0,0,0", metavar="X,Y,Z", help="degrees")
    command.add_argument("--scale", type=float, default=1.0)
    command.add_argument(
        "--over", default="", metavar="FRAMES", help="the last frame of the motion, or first-last; the whole shot"
    )


def span(words: str, count: int) -> tuple[int, int]:
    """(first, last) frame of a motion in a shot of ``count`` frames from 1 on.  Raises `SettingsError`."""
    first, dash, last = words.partition("-")
    try:
        start, end = (int(first), int(last)) if dash else (1, int(first or count))
    except ValueError as error:
        raise SettingsError(f"--over {words!r} cannot be read; write 25 or 10-25.", field="over") from error
    if not 1 <= start < end <= count:
        raise SettingsError(
            f"The motion goes from frame {start} to {end} and the shot from 1 to {count}; it begins before it ends, "
            "inside of the shot.",
            field="over",
        )
    return start, end


def three(words: str, flag: str) -> tuple[float, float, float]:
    """The numbers of ``words``.  Raises `SettingsError`."""
    try:
        x, y, z = (float(number) for number in words.split(","))
        if max(abs(x), abs(y), abs(z)) <= LARGEST:
            return x, y, z
    except ValueError:
        pass
    raise SettingsError(
        f"{flag} is {words[:60]!r}; write three numbers with commas between them, none beyond {LARGEST:g}, as {flag}="
        "1,0,0.",
        field=flag.strip("-"),
    )
