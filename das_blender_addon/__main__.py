# SPDX-License-Identifier: GPL-3.0-or-later
"""``python -m das_blender_addon doctor|preview|render …``: the command line where Blender is the `bpy` module."""

import os
import sys


def main() -> None:
    """Enable the extension as an add-on, run the command, and leave at once.

    Blender 4.2 and 4.5 as a module crash or hang in their own exit code while classes are registered, so `os._exit`
    it is.
    """
    import addon_utils
    import bpy  # noqa: F401  (starts Blender, which brings addon_utils)

    status = 70
    try:
        if addon_utils.enable(__package__, default_set=True) is None:
            print(f"das: the extension {__package__} cannot be enabled.", file=sys.stderr)
        else:
            from . import commands

            status = commands.main(sys.argv[1:])
    finally:
        from . import local_server

        local_server.stop()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
