# SPDX-License-Identifier: GPL-3.0-or-later
"""``python -m das_blender_addon doctor|preview|render|dataset …``: the commands where Blender is the `bpy` module."""

import os
import sys
import traceback


def main() -> None:
    """Enable the extension as an add-on, run the command, and leave at once.

    Blender 4.2 and 4.5 as a module crash or hang in their own exit code while classes are registered, so `os._exit` it
    is.
    """
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
            local_server.stop()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
