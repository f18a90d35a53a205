# SPDX-License-Identifier: GPL-3.0-or-later
"""Registering every class, handler and command of the extension with Blender, and taking all of it away again."""

from __future__ import annotations

from . import commands, compat, engine, local_server, operators, panels, preferences, properties

MODULES = (preferences, properties, local_server, engine, operators, panels, commands)
"""Everything with a `register` and an `unregister`, in the order of registering."""


def register():
    """Register all of it; when a part fails, what was registered before it is undone."""
    done = []
    try:
        for module in MODULES:
            module.register()
            done.append(module)
        compat.show_shared_panels()
    except BaseException:
        for module in reversed(done):
            module.unregister()
        raise


def unregister():
    """Undo `register`."""
    compat.hide_shared_panels()
    for module in reversed(MODULES):
        module.unregister()
