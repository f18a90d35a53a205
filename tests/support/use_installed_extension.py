# SPDX-License-Identifier: GPL-3.0-or-later
"""Install an extension ZIP into the empty profile of this process, enable it and render a take with it, as users do.

    python use_installed_extension.py ZIP SERVER FOLDER

Runs far from the repository: only Blender as a module and the ZIP are there.  What it found out goes to
``FOLDER/said.json``.
"""

import importlib
import importlib.machinery
import json
import os
import sys
from pathlib import Path

import bpy

PACKAGE = "bl_ext.user_default.das_blender_addon"


class OnlyTheWheels:
    """Finds zmq and msgpack where Blender unpacks an extension's wheels; the environment's own do not count."""

    def __init__(self, folder: Path):
        self.folder = folder

    def find_spec(self, name, path=None, target=None):
        """The module in the wheels, or a failure to import."""
        if name not in ("zmq", "msgpack"):
            return None
        importlib.invalidate_caches()
        spec = importlib.machinery.PathFinder.find_spec(name, [str(self.folder)])
        if spec is None:
            raise ModuleNotFoundError(f"No module named {name!r} in {self.folder}")
        return spec


def wheels_folder() -> Path:
    """Where Blender unpacks the wheels of all extensions of this profile."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    return Path(os.environ["BLENDER_USER_RESOURCES"]) / "extensions" / ".local" / "lib" / version / "site-packages"


def make_shot():
    """A cube that moves past a camera in nine frames."""
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    scene = bpy.context.scene
    bpy.ops.mesh.primitive_cube_add(size=2.0)
    cube = bpy.context.object
    for frame, x in ((1, -1.0), (9, 1.0)):
        cube.location.x = x
        cube.keyframe_insert("location", frame=frame)
    bpy.ops.object.light_add(type="SUN", rotation=(1.2, 0.0, 0.0))
    bpy.ops.object.camera_add(location=(0.0, -8.0, 0.0), rotation=(1.5707963, 0.0, 0.0))
    scene.camera = bpy.context.object
    scene.frame_start, scene.frame_end = 1, 9
    scene.render.resolution_x, scene.render.resolution_y, scene.render.resolution_percentage = 96, 64, 100
    scene.view_settings.view_transform = "Standard"
    scene.render.dither_intensity = 0.0
    return scene


def main(archive: str, server: str, folder: Path) -> None:
    wheels = wheels_folder()
    sys.meta_path.insert(0, OnlyTheWheels(wheels))
    bpy.ops.extensions.package_install_files(
        filepath=archive, repo="user_default", enable_on_install=True, overwrite=True
    )
    module = sys.modules.get(PACKAGE)
    said = {"enabled": PACKAGE in bpy.context.preferences.addons, "version": bpy.app.version_string}
    import msgpack
    import zmq

    said["zmq"], said["msgpack"], said["wheels"] = zmq.__file__, msgpack.__file__, str(wheels)
    said["package"] = module.__file__
    scene = make_shot()
    scene.render.engine = "DAS"
    scene.das.server, scene.das.size, scene.das.first_frame_samples = server, "96x64", 1
    scene.das.cache_folder = str(folder / "cache")
    scene.render.filepath = str(folder / "frames" / "####")
    scene.render.image_settings.file_format = "PNG"
    bpy.ops.render.render(animation=True)
    (folder / "said.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
    sys.stdout.flush()
    os._exit(0)  # Blender 4.2 and 4.5 as a module crash or hang in their own exit code while add-ons are registered
