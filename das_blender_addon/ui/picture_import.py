# SPDX-License-Identifier: GPL-3.0-or-later
"""File › Import › Picture as Scene: a picture becomes a scene of its own that a camera can move through."""

from __future__ import annotations

import textwrap

import bpy
from bpy.props import BoolProperty, EnumProperty, FloatProperty, IntProperty, StringProperty

from ..client.known_servers import known_capabilities
from ..errors import DasError
from ..footage.estimated import AUTO, is_asked, lacks
from ..footage.masks import SALIENT, is_file
from ..footage.plane import WALL_DISTANCE, room_of
from ..footage.plate import EYE_HEIGHT, LONGEST_LENS
from ..shot.settings import resolve_settings
from ..staging.importing import PLANE
from .import_job import DroppedIntoView, ImportOperator
from .words import register_classes, unregister_classes

NOT_SAID = "AUTO"
THING = "Thing"
DEPTH_KINDS = (
    (NOT_SAID, "As the File Says", "As the file itself or its side-car says", 0),
    ("metric", "Metric", "Distances along the view axis in metres, times the scale", 1),
    ("relative", "Relative", "Distances without a unit", 2),
    ("inverse", "Inverse", "1 divided by the distance, without a unit", 3),
)
MEASURED = {"depth": "depth_by_server", "salient": "salient"}
"""Kind that a server measures → the property that asks for it."""
ROOM = ("horizon", "wall", "left", "right", "ceiling")
"""What is said of a picture without depth."""
LINE = 46
"""Characters that have room in a line of the file browser's panel."""


class DAS_OT_import_picture(ImportOperator, bpy.types.Operator):
    bl_idname = "das.import_picture"
    bl_label = "Import Picture as Scene"
    bl_description = (
        "Make a scene of a picture: a camera with its lens, its surfaces as a mesh, and the picture itself as the "
        "first frame of the shot"
    )

    filepath: StringProperty(name="Picture", description="The picture", subtype="FILE_PATH", options={"SKIP_SAVE"})
    filter_image: BoolProperty(default=True, options={"HIDDEN", "SKIP_SAVE"})
    filter_folder: BoolProperty(default=True, options={"HIDDEN", "SKIP_SAVE"})
    depth: StringProperty(
        name="Depth",
        description="Depth file of the picture's size (.npy, .npz, .exr or a 16-bit .png); empty for a level ground "
        "and a wall",
        subtype="FILE_PATH",
        options={"SKIP_SAVE"},
    )
    depth_kind: EnumProperty(
        name="Its Values",
        description="What the values of the depth file mean",
        items=DEPTH_KINDS,
        default=NOT_SAID,
    )
    depth_scale: FloatProperty(
        name="Scale", description="Metres that one of its values is; 0 for 1, or as its side-car says", min=0.0
    )
    lens: FloatProperty(
        name="Lens",
        description="Length of the lens in mm for a sensor 36 mm long; 0 as the picture's file says",
        min=0.0,
        max=LONGEST_LENS,
    )
    depth_by_server: BoolProperty(
        name="Depth by Server", description="The server measures the picture's depth", options={"SKIP_SAVE"}
    )
    salient: BoolProperty(
        name="Cut Out What Stands Out",
        description="The server finds what stands out in the picture, and it becomes an object of its own",
        options={"SKIP_SAVE"},
    )
    mask: StringProperty(
        name="Mask",
        description="The thing of the picture that becomes an object of its own: a .png or .npy file, or "
        "box:x,y,width,height in pixels; of the server point:x,y or cut:x,y,width,height. Empty for none",
        subtype="FILE_PATH",
        options={"SKIP_SAVE"},
    )
    horizon: FloatProperty(
        name="Horizon",
        description="Without a depth file: the horizon's height in the picture, 0 at its top, 1 at its bottom",
        default=0.5,
        soft_min=0.0,
        soft_max=1.0,
    )
    wall: FloatProperty(
        name="Wall",
        description="Without a depth file: distance of the wall, 0 for none",
        default=WALL_DISTANCE,
        min=0.0,
    )
    left: FloatProperty(
        name="Left", description="Without a depth file: distance of a wall on the left, 0 for none", min=0.0
    )
    right: FloatProperty(
        name="Right", description="Without a depth file: distance of a wall on the right, 0 for none", min=0.0
    )
    ceiling: FloatProperty(
        name="Ceiling", description="Without a depth file: height of a ceiling above the ground, 0 for none", min=0.0
    )
    eye_height: FloatProperty(
        name="Eye Height", description="Height of the camera above the ground", default=EYE_HEIGHT, min=0.001
    )
    num_frames: IntProperty(name="Frames", description="Frames of the shot", default=49, min=1, max=10_000)
    every: IntProperty(
        name="Pixels per Quad",
        description="Pixels of the picture along the side of a quad of the mesh",
        default=1,
        min=1,
    )

    def wanted(self, scene) -> dict:
        """What is asked for, besides the file."""
        return {
            "depth": self._depth(),
            "depth_kind": "" if self.depth_kind == NOT_SAID else self.depth_kind,
            "depth_scale": self.depth_scale,
            "lens_mm": self.lens,
            "room": room_of(self),
            "num_frames": self.num_frames,
            "every": self.every,
            "masks": self._masks(),
            "server": resolve_settings(scene).server if self._asks() else "",
        }

    def _masks(self) -> dict[str, str]:
        """What stands out, and what was said besides, as the next thing."""
        words = [SALIENT] if self.salient else []
        if self.mask:
            words.append(bpy.path.abspath(self.mask) if is_file(self.mask) else self.mask)
        return dict(zip((THING, f"{THING} 2"), words, strict=False))

    def _asks(self) -> bool:
        return self.depth_by_server or self.salient or is_asked(self.mask)

    def _depth(self) -> str:
        if self.depth_by_server:
            return AUTO
        return bpy.path.abspath(self.depth) if self.depth else PLANE

    def draw(self, context):
        """Beside the list of files."""
        layout = self.layout
        layout.use_property_split = True
        layout.use_property_decorate = False
        for name in ("lens", "depth"):
            layout.prop(self, name)
        draw_measured(layout, self, context.scene)
        layout.prop(self, "mask")
        if self.depth_by_server:
            names = ()
        else:
            names = ("depth_kind", "depth_scale") if self.depth else ROOM
        for name in names:
            layout.prop(self, name)
        for name in ("eye_height", "num_frames", "every"):
            layout.prop(self, name)


def draw_measured(layout, chosen, scene) -> None:
    """What a server can measure of a picture, greyed out with the reason and the remedy where it cannot."""
    try:
        capabilities = known_capabilities(resolve_settings(scene).server)
    except DasError:  # a server that may not be asked
        capabilities = None
    for kind, name in MEASURED.items():
        reason = lacks(capabilities, kind)
        row = layout.row()
        row.enabled = not reason or getattr(chosen, name)
        row.prop(chosen, name)
        lines = textwrap.wrap(reason, LINE) if reason else ()
        column = layout.column(align=True)
        column.active = False
        for line in lines:
            column.label(text=line, translate=False)


class DAS_FH_picture(DroppedIntoView, bpy.types.FileHandler):
    """A picture that is dropped into a 3D viewport."""

    bl_idname = "DAS_FH_picture"
    bl_label = "Picture as Scene (Diffusion as Shader)"
    bl_import_operator = DAS_OT_import_picture.bl_idname
    bl_file_extensions = ";".join(sorted(bpy.path.extensions_image))


def draw_entry(menu, _context) -> None:
    """The entry in File › Import."""
    menu.layout.operator(DAS_OT_import_picture.bl_idname, text="Picture as Scene (Diffusion as Shader)")


def register():
    """Register the operator, the handler of dropped files and the entry in File › Import."""
    register_classes([DAS_OT_import_picture, DAS_FH_picture])
    bpy.types.TOPBAR_MT_file_import.append(draw_entry)


def unregister():
    """Undo `register`."""
    bpy.types.TOPBAR_MT_file_import.remove(draw_entry)
    unregister_classes([DAS_OT_import_picture, DAS_FH_picture])
