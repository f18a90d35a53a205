# SPDX-License-Identifier: GPL-3.0-or-later
"""Diffusion as Shader for Blender: an animated scene becomes a tracking video, a server turns it into frames."""


def register():
    """Register every class of the extension with Blender."""
    from . import registration

    registration.register()


def unregister():
    """Undo `register`."""
    from . import registration

    registration.unregister()
