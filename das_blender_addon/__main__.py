# SPDX-License-Identifier: GPL-3.0-or-later
"""``python -m das_blender_addon doctor|preview|render|dataset …``: the commands where Blender is the `bpy` module."""

import contextlib
import os
import signal
import sys
import traceback

from .errors import JobCancelled


def main() -> None:
    """Enable the extension as an add-on, run the command, and leave at once.

    Blender 4.2 and 4.5 as a module crash or hang in their own exit code while classes are registered, so `os._exit` it
    is.
    """
    _open_streams()
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # else nobody at a terminal means this process
        signal.signal(signal.SIGINT, _leave)  # until the command listens itself
    import bpy  # noqa: F401, I001  (starts Blender, which brings addon_utils)
    import addon_utils

    package = sys.modules[__package__]
    package.__time__ = os.path.getmtime(package.__file__)  # or Blender takes it for changed on disk and loads it again
    status = 70
    try:
        if addon_utils.enable(__package__, default_set=True) is None:
            print(f"das: the extension {__package__} cannot be enabled.", file=sys.stderr)
        else:
            from . import commands, local_server

            status = commands.main(sys.argv[1:])
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is over, and ends soon
            local_server.stop()
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):  # nobody listens, or it was closed
                stream.flush()
        _exit(status)


def _leave(*_: object) -> None:
    """Ctrl-C while Blender starts, where nothing has begun: what Python says would be where in Blender it came."""
    os.write(2, b"das: The job was cancelled.\n")
    _exit(JobCancelled.exit_code)


def _exit(status: int) -> None:
    """Leave, and remove the temporary folder of Blender, which has no chance to."""
    app = getattr(sys.modules.get("bpy"), "app", None)
    own = os.path.normpath(getattr(app, "tempdir", ""))
    if os.path.basename(own).startswith("blender_"):  # else it had none made
        with contextlib.suppress(OSError):
            os.rmdir(own)
    os._exit(status)


def _open_streams() -> None:
    """Where a standard stream was closed (``>&-``) its place is taken, or the next file would get it, and in it what
    Blender prints.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)


if __name__ == "__main__":
    main()
