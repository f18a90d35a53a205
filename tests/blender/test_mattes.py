# SPDX-License-Identifier: GPL-3.0-or-later
"""Cryptomatte of objects, materials and assets, beside what Cycles renders: ids to the bit, and how much is covered."""

import json

import bpy
import numpy as np
import pytest

from das_blender_addon.scene.blender_passes import MATTES, wanted_passes
from das_blender_addon.tracking.cryptomatte import hash_of, id_of
from das_blender_addon.ui import pass_panel
from tests.blender.test_panels import words
from tests.blender.test_render_passes import ours, write_layers
from tests.support.content import add_material
from tests.support.exr import read_exr, said_of_mattes
from tests.support.scenes import add_camera, add_cube, add_grid, link

MEAN_SHARE, MOST_SHARE = 0.001, 0.14
"""Of a pixel, that coverage is off: eight samples beside Cycles' many."""
LEVELS = 4


@pytest.fixture
def stage(scene):
    """A child and its parent, an instance, several materials on one mesh, and things of no material; a holdout."""
    scene.render.resolution_x, scene.render.resolution_y = 96, 64
    add_camera(scene, location=(0.0, -8.0, 2.0))
    add_grid(scene, "Ground", cells=1, size=9.0, location=(0.0, 0.0, -1.0))
    parent, child = add_cube(scene, "Parent", location=(-1.6, 0.0, 0.0)), add_cube(scene, 'Kid "ä"', size=0.8)
    child.parent, child.location, child.rotation_euler.z = parent, (1.4, -0.5, 0.3), 0.5
    for name in ("Red", "Blue"):
        child.data.materials.append(add_material(name))
    for face in child.data.polygons:
        face.material_index = face.index % 2
    parts, leaf = bpy.data.collections.new("Parts"), add_cube(scene, "Leaf", size=0.9)
    scene.collection.objects.unlink(leaf)
    parts.objects.link(leaf)
    leaf.data.materials.append(add_material("Green"))
    shown = link(scene, "Shown")
    shown.instance_type, shown.instance_collection = "COLLECTION", parts
    shown.location, shown.rotation_euler.y = (1.7, 0.4, 0.2), 0.4
    add_cube(scene, "Hole", size=0.6, location=(0.6, -2.0, 0.3)).is_holdout = True
    layer = scene.view_layers[0]
    for setting in MATTES.values():
        setattr(layer, setting, True)
    layer.pass_cryptomatte_depth = LEVELS
    return scene


def of_cycles(scene, path) -> tuple[dict, dict]:
    """Channels, and what the file says."""
    scene.render.engine = "CYCLES"
    scene.cycles.samples, scene.cycles.use_denoising, scene.cycles.max_bounces = 64, False, 0
    scene.cycles.use_adaptive_sampling = False
    scene.cycles.pixel_filter_type, scene.cycles.filter_width = "BOX", 1.0
    write_layers(scene, path)
    bpy.ops.render.render(write_still=True)
    return read_exr(path), said_of_mattes(path)


def matte(pairs: np.ndarray, name: str) -> np.ndarray:
    """[H,W]: how much the thing ``name`` covers; ``pairs`` [H,W,levels,2]."""
    return np.where(pairs[..., 0] == id_of(hash_of(name)), pairs[..., 1], 0.0).sum(axis=2)


def test_mattes_are_those_of_cycles(stage, tmp_path):
    wanted, said = wanted_passes(stage, stage.view_layers[0]), {}
    assert [one.name for one in wanted] == [f"{kind}0{number}" for kind in MATTES for number in (0, 1)]
    found = ours(stage, 1, wanted, said=said)
    planes, told = of_cycles(stage, tmp_path / "cycles.exr")
    names = {
        "CryptoObject": ["Ground", "Parent", 'Kid "ä"', "Leaf"], "CryptoAsset": ["Ground", "Parent", "Leaf"],
        "CryptoMaterial": ["Red", "Blue", "Green", "default_surface"],
    }  # fmt: skip
    for kind in MATTES:
        mine = np.concatenate([found[f"{kind}0{number}"] for number in (0, 1)], axis=2)
        theirs = np.stack(
            [planes[f"ViewLayer.{kind}0{number}.{letter}"] for number in (0, 1) for letter in "rgba"], axis=2
        )
        mine, theirs = (one.reshape(64, 96, LEVELS, 2) for one in (mine, theirs))
        assert set(np.unique(mine[..., 0][mine[..., 1] > 0])) == set(np.unique(theirs[..., 0][theirs[..., 1] > 0]))
        for name in names[kind]:
            one, other = matte(mine, name), matte(theirs, name)
            assert 0.004 < other.mean() and np.abs(one - other).mean() < MEAN_SHARE, name
            assert np.abs(one - other).max() < MOST_SHARE, name
        assert (np.diff(mine[..., 1], axis=2) <= 0.0).all() and not matte(mine, "Hole").any()
        (prefix,) = (key.removesuffix("name") for key, value in told.items() if value == f"ViewLayer.{kind}")
        for key in ("name", "hash", "conversion"):
            assert said[prefix + key] == told[prefix + key]
        manifest = json.loads(said[prefix + "manifest"])
        assert set(names[kind]) <= set(manifest)
        assert all(f'"{name}":"{manifest[name]}"' in told[prefix + "manifest"] for name in names[kind])


@pytest.mark.any_blender
@pytest.mark.parametrize(("depth", "count"), [(1, 1), (2, 1), (3, 2), (6, 3), (16, 8)])
def test_there_are_as_many_passes_as_levels_need(scene, depth, count):
    layer = scene.view_layers[0]
    layer.use_pass_cryptomatte_material, layer.pass_cryptomatte_depth = True, depth
    found = [one.name for one in wanted_passes(scene, layer)]
    assert found == [f"CryptoMaterial{number:02d}" for number in range(count)]


@pytest.mark.any_blender
def test_panel_has_the_settings(scene):
    shown = words(pass_panel.DAS_PT_passes)
    assert all(setting in shown for setting in (*MATTES.values(), "pass_cryptomatte_depth"))
