# SPDX-License-Identifier: GPL-3.0-or-later
"""A studio's colour configuration, in which nothing is called as in Blender's own; and what a Blender that was started
with it (the environment variable OCIO) makes of the extension.

    python -m tests.support.studio_colours FOLDER    prints JSON: what raised nothing, and what it chose
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np

CONFIG = """ocio_profile_version: 2
search_path: ""
strictparsing: true
roles:
  default: lin
  scene_linear: lin
  reference: lin
  data: raw
  color_picking: monitor
  default_byte: monitor
  default_float: lin
  default_sequencer: monitor
  texture_paint: monitor
  matte_paint: monitor
  cie_xyz_d65_interchange: xyz
  aces_interchange: aces
displays:
  Studio Monitor:
    - !<View> {name: Film, colorspace: film}
    - !<View> {name: Plain, colorspace: monitor}
active_displays: [Studio Monitor]
active_views: [Film, Plain]
colorspaces:
  - !<ColorSpace> {name: lin, family: scene, bitdepth: 32f}
  - !<ColorSpace> {name: raw, bitdepth: 32f, isdata: true}
  - !<ColorSpace>
    name: xyz
    bitdepth: 32f
    to_scene_reference: !<MatrixTransform>
      matrix: [3.2404542, -1.5371385, -0.4985314, 0, -0.9692660, 1.8760108, 0.0415560, 0,
               0.0556434, -0.2040259, 1.0572252, 0, 0, 0, 0, 1]
  - !<ColorSpace>
    name: aces
    bitdepth: 32f
    to_scene_reference: !<MatrixTransform>
      matrix: [2.5216, -1.1341, -0.3875, 0, -0.2764, 1.3727, -0.0963, 0,
               -0.0153, -0.1529, 1.1683, 0, 0, 0, 0, 1]
  - !<ColorSpace>
    name: monitor
    bitdepth: 8ui
    from_scene_reference: !<ExponentWithLinearTransform>
      gamma: [2.4, 2.4, 2.4, 1]
      offset: [0.055, 0.055, 0.055, 0]
      direction: inverse
  - !<ColorSpace>
    name: film
    bitdepth: 8ui
    from_scene_reference: !<ExponentTransform> {value: [3.0, 3.0, 3.0, 1], direction: inverse}
"""
"""Linear Rec.709, one display with the view Plain, which is sRGB, and the view Film, which is its default."""


def main(folder: Path) -> None:
    """Everything that touches colours, in a Blender with `CONFIG`."""
    import bpy  # noqa: I001  (addon_utils is found once bpy is there)
    import addon_utils

    from das_blender_addon import compat
    from das_blender_addon.child import pictures
    from das_blender_addon.scene import colours, sequencer
    from das_blender_addon.protocol.png import decode_png, encode_png

    addon_utils.enable("das_blender_addon", default_set=True)
    bpy.ops.wm.read_homefile(use_factory_startup=True)
    scene, said = bpy.context.scene, {}
    said["view"] = [scene.display_settings.display_device, scene.view_settings.view_transform]
    scene.view_settings.exposure = 1.0
    said["warning"] = colours.colour_warning(scene)
    scene.das.first_frame_view = "AgX"  # from a file that was made with Blender's own configuration
    said["kept"] = colours.kept_look(scene)
    scene.das.first_frame_view, scene.das.first_frame_look = "Film", "AgX - Punchy"  # a look that only another has
    changes, layer = pictures.Changes(), scene.view_layers[0].name
    asked = {"size": (64, 32), "pixel_aspect": (1.0, 1.0), "view_layer": layer, "look": colours.kept_look(scene)}
    pictures.set_output(scene, asked, changes)
    said["kept look"] = [scene.view_settings.view_transform, scene.view_settings.look]
    changes.undo()
    scene.das.first_frame_view = ""
    before = colours.show_plain(scene)
    said["plain"] = [scene.view_settings.view_transform, scene.view_settings.exposure]
    colours.set_view(scene, before)
    said["exposure"] = scene.view_settings.exposure
    bpy.ops.das.keep_look()
    said["note"], said["changes"] = colours.colour_warning(scene), colours.pixel_changes(scene)
    picture = np.arange(64 * 32 * 3, dtype=np.uint8).reshape(32, 64, 3)
    # A take's frame, as an image and as a strip in the edit scene that shows it.
    frame = folder / "0001.png"
    frame.write_bytes(encode_png(picture))
    said["image"] = colours.read_as_srgb(bpy.data.images.load(str(frame)))
    edit = sequencer.edit_scene_for(scene)
    said["edit"] = edit.view_settings.view_transform
    strip = sequencer.add_strip(edit, "take", [frame], 1, {})
    said["strip"] = strip.colorspace_settings.name
    edit.render.resolution_x, edit.render.resolution_y = picture.shape[1], picture.shape[0]
    edit.render.filepath = str(folder / "shown-####")
    compat.set_image_output(edit)
    edit.frame_start = edit.frame_end = 1
    bpy.ops.render.render(animation=True, scene=edit.name)
    shown = decode_png((folder / "shown-0001.png").read_bytes())
    said["off"] = int(abs(shown.astype(int) - picture).max())
    addon_utils.disable("das_blender_addon")
    sys.stdout.write("\n" + json.dumps(said) + "\n")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
