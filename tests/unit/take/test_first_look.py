# SPDX-License-Identifier: GPL-3.0-or-later
"""The first frame that a take shows: composed before all others, alone, and the rest waits until it may go on."""

from das_blender_addon.tracking.composition import Composer
from tests.unit.take.test_detail import assert_close, composed, detail_of, planned


def test_first_frame_that_is_composed_ahead_and_no_key_picture_is_shown():
    detail, shown = detail_of(planned(6, (160, 80), keys=[3])), []
    detail.compose_ahead([0, 3, 4, 5], lambda: False, shown.append)
    assert [picture.shape for picture in shown] == [(80, 160, 3)]
    # A hole is filled without what the model paints: here one colour, which changes nothing but the rounding.
    assert_close(shown[0], composed(detail_of(planned(6, (160, 80), keys=[3])))[4])


def test_composing_ahead_pauses_once_the_first_frame_is_shown():
    detail, told, begun = detail_of(planned(12, (160, 80), keys=[3])), [], []

    def stop():
        begun.append(len(told))
        return False

    detail.compose_ahead(range(12), stop, lambda _frame: told.append("shown"), lambda: told.append("paused"))
    assert told == ["shown", "paused"]
    assert begun.count(2) > begun.count(0) > 0 == begun.count(1)  # asked for each piece of work


def test_first_frame_to_look_at_is_composed_alone(monkeypatch):
    detail, begun, shown = detail_of(planned(12, (160, 80), keys=[3])), [], []
    gather = Composer.gather

    def noted(composer, frame, light=None):
        begun.append(frame.index)
        return gather(composer, frame, light)

    monkeypatch.setattr(Composer, "gather", noted)
    detail.compose_ahead([3, 4, 5, 6], lambda: False, lambda _frame: shown.append(list(begun)))
    assert shown == [[4]] and sorted(begun) == [4, 5, 6]  # the key picture needs none
