# SPDX-License-Identifier: GPL-3.0-or-later
"""Each remedy of the report: a button that sets the choice of an object that mends a finding, where one does; else one
that calls the operator that helps, or selects.
"""

import bpy
import pytest

from das_blender_addon.shot import findings
from das_blender_addon.shot.findings import WARNING, Finding, ShotReport
from das_blender_addon.take.last_reports import keep_report, last_report
from das_blender_addon.ui import mending, shot_check
from tests.blender.test_panels import words
from tests.blender.test_tracking_choices import glass
from tests.support.scenes import add_cube

pytestmark = pytest.mark.any_blender
WAYS = {
    "scene.glass": ("transmission", "SURFACE", "BEHIND"),
    "scene.see_through": ("transmission", "BEHIND", "SURFACE"),
    "scene.ignored": ("tracking", "IGNORE", "TRACK"),
    "scene.silhouette": ("tracking", "SILHOUETTE", "TRACK"),
    "scene.background": ("tracking", "BACKGROUND", "TRACK"),
}
"""Code → the choice, as it was and as the button sets it."""


@pytest.fixture
def checked(shot_scene):
    """Two cubes of glass of which the report says what their choices are."""

    def check(**choices):
        for name in ("Cube", "Other Cube"):
            shape = bpy.data.objects.get(name) or add_cube(shot_scene, name, location=(1.5, 0.0, 0.0))
            if "Glass" not in (slot.material.name[:5] for slot in shape.material_slots):
                shape.data.materials.clear()
                shape.data.materials.append(glass())
            for choice, value in choices.items():
                setattr(shape.das, choice, value)
        assert bpy.ops.das.check_shot() == {"FINISHED"}
        return last_report(shot_scene)

    return check


def place(report, code, name):
    return next(at for at, one in enumerate(report.findings) if one.code == code and name in one.objects)


def test_every_remedy_is_tested():
    assert WAYS.keys() == mending.CHOICES.keys()
    codes = {f"scene.{code}" for code in (*findings.HARMLESS, *findings.REMEDIES)}
    assert WAYS.keys() <= codes


@pytest.mark.parametrize("code", WAYS)
def test_button_sets_the_choice_of_that_object_and_can_be_undone(checked, shot_scene, code):
    name, before, after = WAYS[code]
    report = checked(**{name: before})
    index = place(report, code, "Cube")
    bpy.ops.ed.undo_push(message="before")
    assert bpy.ops.das.mend_finding("EXEC_DEFAULT", True, index=index) == {"FINISHED"}
    assert getattr(bpy.data.objects["Cube"].das, name) == after
    assert getattr(bpy.data.objects["Other Cube"].das, name) == before
    again = checked()
    assert code not in {one.code for one in again.findings if "Cube" in one.objects}
    bpy.ops.ed.undo()
    assert getattr(bpy.data.objects["Cube"].das, name) == before


def test_button_is_drawn_while_there_is_something_to_choose(checked, shot_scene):
    report = checked()
    assert "das.mend_finding" in words(shot_check.DAS_PT_shot_check)
    for name in ("Cube", "Other Cube"):
        assert bpy.ops.das.mend_finding(index=place(report, "scene.glass", name)) == {"FINISHED"}
    assert "das.mend_finding" not in words(shot_check.DAS_PT_shot_check)
    assert bpy.ops.das.mend_finding(index=place(report, "scene.glass", "Cube")) == {"CANCELLED"}


def test_choice_of_a_collection_and_other_findings_are_left_alone(checked, shot_scene):
    """These are selected."""
    group = bpy.data.collections.new("Group")
    shot_scene.collection.children.link(group)
    group.objects.link(bpy.data.objects["Cube"])
    group.das.tracking = "SILHOUETTE"
    report = checked()
    index = place(report, "scene.silhouette", "Cube")
    assert bpy.ops.das.mend_finding(index=index) == {"CANCELLED"} and group.das.tracking == "SILHOUETTE"
    assert bpy.ops.das.go_to_finding(index=index) == {"FINISHED"} and bpy.data.objects["Cube"].select_get()
    other = next(at for at, one in enumerate(report.findings) if one.code not in mending.CHOICES)
    for wrong in (other, -1, 999):
        assert bpy.ops.das.mend_finding(index=wrong) == {"CANCELLED"}


def test_linked_object_keeps_its_choice(shot_scene, tmp_path):
    away = add_cube(shot_scene, "Away")
    bpy.data.libraries.write(str(tmp_path / "library.blend"), {away}, fake_user=True)
    bpy.data.objects.remove(away)
    with bpy.data.libraries.load(str(tmp_path / "library.blend"), link=True) as (_, wanted):
        wanted.objects = ["Away"]
    keep_report(shot_scene, ShotReport((Finding("scene.glass", WARNING, "Glass.", objects=("Away",)),)))
    assert bpy.ops.das.mend_finding(index=0) == {"CANCELLED"}
    assert bpy.data.objects["Away"].das.transmission == "SURFACE"
    add_cube(shot_scene, "Away")
    assert bpy.ops.das.mend_finding(index=0) == {"FINISHED"}
    told = {shape.library is None: shape.das.transmission for shape in bpy.data.objects if shape.name == "Away"}
    assert told == {True: "BEHIND", False: "SURFACE"}


@pytest.mark.parametrize("code", shot_check.REMEDIES)
def test_operator_that_helps_is_drawn(shot_scene, code):
    keep_report(shot_scene, ShotReport((Finding(code, WARNING, "Words."),)))
    operator, _ = shot_check.REMEDIES[code]
    module, name = operator.split(".")
    assert getattr(getattr(bpy.ops, module), name).get_rna_type().name
    assert operator in words(shot_check.DAS_PT_shot_check)
