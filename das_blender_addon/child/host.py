# SPDX-License-Identifier: GPL-3.0-or-later
"""The script that a child Blender runs: connect to the Blender that started it, do one task after the other, leave.

A script of its own, so that it runs in any Blender binary (``-b --python``) and in any Python with the `bpy` module.
The first line of its standard input says where to connect.  When standard input closes, because whoever started it is
no more, it leaves at once, and removes what nobody else will: the copy that it has open, and its own folder.
"""

import contextlib
import importlib.util
import json
import os
import shutil
import socket
import sys
import threading
import traceback

LEAVE_S = 10.0
"""Seconds that a child whose connection broke waits for the end of its parent."""
PACKAGE = "das_extension"
"""The name that the extension has in here: the add-on itself may be enabled beside it, under its own."""


def extension(folder):
    """Load the package that this script lies in, for what needs no add-on to be enabled."""
    spec = importlib.util.spec_from_file_location(
        PACKAGE, os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
    )
    sys.modules[PACKAGE] = importlib.util.module_from_spec(spec)
    return importlib.import_module(f"{PACKAGE}.child.talk"), importlib.import_module(f"{PACKAGE}.child.work")


def leave_with_parent(folders):
    """Wait until standard input closes, then remove ``folders`` and end this process without another word."""
    sys.stdin.buffer.read()
    for folder in folders.values():
        if os.path.basename(folder).startswith("das-"):
            shutil.rmtree(folder, ignore_errors=True)
    leave(1)


def leave(status):
    """End this process; Blender has no chance to remove its temporary folder, which holds nothing."""
    bpy = sys.modules.get("bpy")
    own = os.path.normpath(bpy.app.tempdir) if bpy else ""
    if os.path.basename(own).startswith("blender_"):  # else it had none made
        with contextlib.suppress(OSError):
            os.rmdir(own)
    os._exit(status)


def serve(talk, work, errors, folders):
    """Do what is asked for until the other end closes; the folder of the copy that is open goes to ``folders``."""
    while True:
        request = talk.receive(None)
        if "task" not in request:
            continue  # a stop that came too late
        number = request["id"]
        folders["copy"] = request.get("folder", folders["copy"])

        def say(number=number, **words):
            talk.send(id=number, said=words)

        def check_stop(number=number):
            """Raise `JobCancelled` when the parent has asked to stop."""
            asked = talk.receive(0.0)
            if asked is not None and asked.get("stop") == number:
                raise errors.JobCancelled("The task was cancelled.")

        try:
            done = work.TASKS[request["task"]](request, say, check_stop)
        except errors.DasError as error:
            talk.send(id=number, failed={"code": error.code, "message": error.message, "field": error.field})
        except Exception as error:
            traceback.print_exc()
            said = f"{type(error).__name__}: {str(error).strip()}"
            talk.send(id=number, failed={"code": "", "message": said, "field": None})
        else:
            talk.send(id=number, done=done or {})


def main():
    """Connect and serve; leave without Blender's own exit code, which crashes or hangs in Blender up to 4.5 as a module
    while classes are registered.
    """
    status, folders = 0, {"own": os.getcwd(), "copy": ""}
    watch = threading.Thread(target=leave_with_parent, args=(folders,), daemon=True)
    try:
        meeting = json.loads(sys.stdin.buffer.readline())
        watch.start()
        talks, work = extension(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        talk = talks.Talk(socket.create_connection(("127.0.0.1", meeting["port"]), timeout=30.0))
        talk.send(hello=meeting["token"], pid=os.getpid())
        serve(talk, work, sys.modules[f"{PACKAGE}.errors"], folders)
    except (EOFError, ConnectionError):
        watch.join(LEAVE_S)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    leave(status)


if __name__ == "__main__":
    main()
