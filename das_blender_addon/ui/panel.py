# SPDX-License-Identifier: GPL-3.0-or-later
"""What our panels in the Render properties have in common."""

from __future__ import annotations

from .. import compat


class RenderPanel:
    """A panel of the Render properties, while our engine is chosen."""

    bl_space_type = "PROPERTIES"
    bl_region_type = "WINDOW"
    bl_context = "render"
    COMPAT_ENGINES = {compat.ENGINE}

    @classmethod
    def poll(cls, context):
        return context.engine in cls.COMPAT_ENGINES
