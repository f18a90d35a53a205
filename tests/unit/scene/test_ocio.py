# SPDX-License-Identifier: GPL-3.0-or-later
"""OpenColorIO configurations read as text: the role for pictures, and the views that show it."""

import zipfile

import pytest

from das_blender_addon.scene import ocio
from tests.support.studio_colours import CONFIG

WRITTEN_OTHERWISE = """
ocio_profile_version: 2
roles: {default_byte: "My, sRGB", matte_paint: Linear}
shared_views:
  - !<View> {name: Shared, colorspace: "My, sRGB"}
displays:
  "Big: Screen":
    - !<View>
      name: Odd one
      colorspace: default_byte  # by its role
    - !<View> {name: Un, view_transform: Un, display_colorspace: sRGB - Display}
    - !<View> {name: Linear, colorspace: Linear}
    - !<Views> [Shared, Un]
  Projector:
    - !<View> {name: Raw, colorspace: Raw}
"""


def test_views_in_the_space_of_the_role_for_pictures_are_found():
    studio = ocio.parse(CONFIG)
    assert (studio.picture_role, studio.picture_space) == ("default_byte", "monitor")
    assert studio.picture_views("Studio Monitor") == ["Plain"] and studio.picture_views("sRGB") == []


def test_every_way_of_writing_is_read():
    studio = ocio.parse(WRITTEN_OTHERWISE)
    assert studio.picture_space == "My, sRGB"
    assert sorted(studio.picture_views("Big: Screen")) == ["Odd one", "Shared"]
    assert studio.picture_views("Projector") == []


def test_role_for_painting_counts_only_without_the_other():
    assert ocio.parse("roles:\n  matte_paint: paint\n  texture_paint: log\n").picture_space == "paint"
    views = "displays:\n  Screen:\n    - !<View> {name: Plain, colorspace: lin}\n"
    studio = ocio.parse(f"roles:\n  scene_linear: lin\n{views}")
    assert (studio.picture_role, studio.picture_space, studio.picture_views("Screen")) == ("", "", [])


@pytest.mark.parametrize("text", ["", "roles", "roles\n - [\n:::\n{", "displays:\n- !<View> {name:", "\x00\xff"])
def test_text_that_is_no_configuration_says_nothing(text):
    assert ocio.parse(text) == ocio.Configuration()


def test_configuration_is_the_one_of_the_environment(tmp_path, monkeypatch):
    file, archive = tmp_path / "config.ocio", tmp_path / "studio.ocioz"
    file.write_text(CONFIG)
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("config.ocio", CONFIG)
    for path in (file, archive):
        monkeypatch.setenv("OCIO", str(path))
        assert ocio.configuration().picture_space == "monitor"
    for path in ("", "ocio://default", str(tmp_path), str(tmp_path / "none.ocio")):
        monkeypatch.setenv("OCIO", path)
        assert ocio.configuration() == ocio.Configuration()
