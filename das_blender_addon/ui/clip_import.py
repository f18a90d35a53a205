# SPDX-License-Identifier: GPL-3.0-or-later
"""File › Import › Clip as Scene: a clip becomes a scene of its own whose surfaces move as they did."""

from __future__ import annotations

import bpy
from bpy.props import BoolProperty, EnumProperty, FloatProperty, IntProperty, StringProperty

from ..footage.estimated import is_asked
from ..footage.masks import is_file
from ..footage.plate import LONGEST_LENS
from ..shot.settings import resolve_settings
from .import_job import DroppedIntoView, ImportOperator
from .picture_import import DEPTH_KINDS, NOT_SAID, THING
from .words import register_classes, unregister_classes

TRACKS = (
    ("KNOWN", "As Known", "Those of the clip's plate, where it has some", 0),
    ("BLENDER", "Blender", "Blender follows some hundred points itself", 1),
    ("AUTO", "Server", "The server follows the points of a grid", 2),
    ("FILE", "File", "An .npz with tracks and visible", 3),
)


class DAS_OT_import_clip(ImportOperator, bpy.types.Operator):
    bl_idname = "das.import_clip"
    bl_label = "Import Clip as Scene"
    bl_description = (
        "Make a scene of a movie or a folder of pictures: its camera, and its surfaces as meshes that move as they do "
        "in the clip; the file must be saved"
    )

    filepath: StringProperty(name="Clip", description="The clip", subtype="FILE_PATH", options={"SKIP_SAVE"})
    filter_movie: BoolProperty(default=True, options={"HIDDEN", "SKIP_SAVE"})
    filter_image: BoolProperty(default=True, options={"HIDDEN", "SKIP_SAVE"})
    filter_folder: BoolProperty(default=True, options={"HIDDEN", "SKIP_SAVE"})
    lens: FloatProperty(
        name="Lens",
        description="Length of the lens in mm for a sensor 36 mm long; 0 as the clip's plate says",
        min=0.0,
        max=LONGEST_LENS,
    )
    camera: EnumProperty(
        name="Camera",
        items=(
            (NOT_SAID, "As Known", "That of the clip's plate, else one that stands still", 0),
            ("keep", "Keep", "Take it for one that stands still: all motion is the surfaces'", 1),
            ("solve", "Solve", "Find how it moved, with Blender's own tracker; may take a minute", 2),
        ),
        default=NOT_SAID,
    )
    tracks: EnumProperty(name="Tracks", items=TRACKS, default="KNOWN")
    tracks_file: StringProperty(name="Tracks File", subtype="FILE_PATH", options={"SKIP_SAVE"})
    depth: StringProperty(
        name="Depth",
        description="Depth file of the first picture or of all; empty for what is known, else a ground and a wall",
        subtype="FILE_PATH",
        options={"SKIP_SAVE"},
    )
    depth_kind: EnumProperty(
        name="Its Values", description="What the values of the depth file mean", items=DEPTH_KINDS, default=NOT_SAID
    )
    depth_scale: FloatProperty(
        name="Scale", description="Metres that one of its values is; 0 for 1, or as its side-car says", min=0.0
    )
    mask: StringProperty(
        name="Mask",
        description="The thing of the first picture that becomes an object of its own: a .png or .npy file, or "
        "box:x,y,width,height in pixels; of the server salient, point:x,y or cut:x,y,width,height. Empty for none",
        subtype="FILE_PATH",
        options={"SKIP_SAVE"},
    )
    first: IntProperty(name="From Frame", description="The clip's frame to begin with", default=1, min=1)
    num_frames: IntProperty(name="Frames", description="Frames of the shot; 0 for all", min=0, max=10_000)
    every: IntProperty(name="Pixels per Quad", description="0 for 2", min=0)

    def wanted(self, scene) -> dict:
        """What is asked for, besides the file."""
        return {
            "depth": bpy.path.abspath(self.depth) if self.depth else None,
            "depth_kind": "" if self.depth_kind == NOT_SAID else self.depth_kind,
            "depth_scale": self.depth_scale,
            "masks": {THING: bpy.path.abspath(self.mask) if is_file(self.mask) else self.mask} if self.mask else {},
            "lens_mm": self.lens,
            "camera": "" if self.camera == NOT_SAID else self.camera,
            "tracks": self._tracks(),
            "server": self._server(scene),
            "first": self.first,
            "num_frames": self.num_frames,
            "every": self.every,
        }

    def _tracks(self) -> str:
        if self.tracks == "FILE":
            return bpy.path.abspath(self.tracks_file)
        return "" if self.tracks == "KNOWN" else self.tracks.lower()

    def _server(self, scene) -> str:
        if self.tracks != "AUTO" and not is_asked(self.mask):
            return ""
        return resolve_settings(scene).server

    def draw(self, context):
        """Beside the list of files."""
        layout = self.layout
        layout.use_property_split = True
        layout.use_property_decorate = False
        for name in ("lens", "camera", "tracks"):
            layout.prop(self, name)
        if self.tracks == "FILE":
            layout.prop(self, "tracks_file")
        for name in ("depth", *(("depth_kind", "depth_scale") if self.depth else ()), "mask"):
            layout.prop(self, name)
        for name in ("first", "num_frames", "every"):
            layout.prop(self, name)


class DAS_FH_clip(DroppedIntoView, bpy.types.FileHandler):
    """A movie that is dropped into a 3D viewport."""

    bl_idname = "DAS_FH_clip"
    bl_label = "Clip as Scene (Diffusion as Shader)"
    bl_import_operator = DAS_OT_import_clip.bl_idname
    bl_file_extensions = ";".join(sorted(bpy.path.extensions_movie))


def draw_entry(menu, _context) -> None:
    """The entry in File › Import."""
    menu.layout.operator(DAS_OT_import_clip.bl_idname, text="Clip as Scene (Diffusion as Shader)")


def register():
    """Register the operator, the handler of dropped files and the entry in File › Import."""
    register_classes([DAS_OT_import_clip, DAS_FH_clip])
    bpy.types.TOPBAR_MT_file_import.append(draw_entry)


def unregister():
    """Undo `register`."""
    bpy.types.TOPBAR_MT_file_import.remove(draw_entry)
    unregister_classes([DAS_OT_import_clip, DAS_FH_clip])
