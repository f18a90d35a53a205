# SPDX-License-Identifier: GPL-3.0-or-later
"""A process between Blender and its local server that outlives a crash of Blender long enough to end the server.

    python local_server_guard.py COMMAND…

Runs COMMAND and ends with its status.  When standard input closes, because Blender closed it or is no more, COMMAND is
asked to end and, STOP_WAIT_S later, killed.  A script for a plain Python: imports nothing of the package, no Blender.
"""

import subprocess
import sys
import threading

STOP_WAIT_S = 5.0


def main() -> int:
    """Run the command of the command line; returns its exit status."""
    child = subprocess.Popen(
        sys.argv[1:], stdin=subprocess.DEVNULL, creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0)
    )
    threading.Thread(target=end_with_input, args=(child,), daemon=True).start()
    return child.wait()


def end_with_input(child: subprocess.Popen) -> None:
    """Wait until standard input closes, then end the child."""
    sys.stdin.read()
    child.terminate()
    try:
        child.wait(STOP_WAIT_S)
    except subprocess.TimeoutExpired:
        child.kill()


if __name__ == "__main__":
    sys.exit(main())
