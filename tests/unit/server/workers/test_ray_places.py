# SPDX-License-Identifier: GPL-3.0-or-later
"""Which places of a cluster get a worker, with which model, and when one ends."""

import pytest

from das_server.workers.ray_places import IDLE_S, Node, fitness, lacking, misplaced, places_of, to_end, to_start

GIB = 1 << 30
FULL, PREVIEW = "das-cogvideox-5b", "das-preview"
MODELS = {FULL: "f" * 64, PREVIEW: "p" * 64}
H100 = Node("a" * 56, "big", 16, 1, (80 * GIB,), MODELS)
RTX_4090 = Node("b" * 56, "middle", 16, 2, (24 * GIB, 24 * GIB), MODELS)
SMALL = Node("c" * 56, "small", 8, 1, (4 * GIB,), MODELS)
BARE = Node("d" * 56, "bare", 32, 0, (), {PREVIEW: MODELS[PREVIEW]})
CLUSTER = (H100, RTX_4090, SMALL, BARE)


def starts(nodes=CLUSTER, taken=(), demand=None, default=PREVIEW, num_busy=0, fewest=0, most=0):
    found = to_start(
        places_of(nodes), taken, demand or {}, models=MODELS, default=default, num_busy=num_busy, fewest=fewest,
        most=most,
    )  # fmt: skip
    return [(place.host, model) for place, model in found]


def test_place_is_a_gpu_or_a_whole_node_where_there_is_none():
    assert [place.name for place in places_of(CLUSTER)] == [
        "big-aaaaaa-0", "middle-bbbbbb-0", "middle-bbbbbb-1", "small-cccccc-0",
    ]  # fmt: skip
    (bare,) = places_of([BARE])
    assert (bare.is_gpu, bare.num_cpus) == (False, 32)
    assert len(places_of(CLUSTER, ["cpu"])) == 4
    assert places_of([Node("e" * 56, "door only", 0, 0)]) == []


def test_model_goes_where_its_fastest_profile_fits_and_to_the_smallest_device_of_those():
    assert starts(demand={FULL: 1}) == [("big", FULL)]  # resident
    assert starts([RTX_4090, SMALL], demand={FULL: 1}) == [("middle", FULL)]  # drop_text_encoder
    assert starts(demand={PREVIEW: 1}) == [("small", PREVIEW)]
    two_large = [H100, Node("e" * 56, "larger", 16, 1, (141 * GIB,), MODELS)]
    assert starts(two_large, demand={FULL: 1}) == [("big", FULL)]


def test_model_that_fits_nowhere_is_started_nowhere():
    assert starts([SMALL], demand={FULL: 3}, default=FULL) == []
    assert starts([SMALL], demand={FULL: 3}) == [("small", PREVIEW)]
    (small,) = places_of([SMALL])
    assert lacking(small, MODELS) == (FULL,)


def test_other_weights_are_another_model():
    (place,) = places_of([H100])
    assert fitness(place, FULL, MODELS[FULL]) and not fitness(place, FULL, "0" * 64)
    assert not fitness(place, "paper-boats")


def test_as_many_start_as_jobs_wait_between_the_fewest_and_the_most():
    assert len(starts(demand={PREVIEW: 9})) == 4
    assert len(starts(demand={PREVIEW: 9}, most=2)) == 2
    assert len(starts(demand={PREVIEW: 1}, num_busy=1, taken={"small-cccccc-0"})) == 1
    assert starts(demand={PREVIEW: 1}, taken={"small-cccccc-0"}) == []  # that one is free
    assert len(starts(fewest=3)) == 3
    assert starts() == []


def test_each_model_that_waits_gets_its_place():
    assert sorted(starts(demand={FULL: 1, PREVIEW: 1})) == [("big", FULL), ("small", PREVIEW)]


def test_workers_spread_over_nodes():
    nodes = [Node(letter * 56, letter, 4, 2, (24 * GIB,) * 2, MODELS) for letter in "ef"]
    assert sorted(host for host, _ in starts(nodes, demand={FULL: 2})) == ["e", "f"]


@pytest.mark.parametrize(
    ("idle", "num_waiting", "ended"),
    [
        ({"one": IDLE_S + 2, "two": IDLE_S + 1}, 0, ["one"]),
        ({"one": IDLE_S - 1, "two": IDLE_S + 1}, 0, ["two"]),
        ({"one": IDLE_S + 2, "two": IDLE_S + 1}, 1, []),
    ],
)
def test_worker_beyond_the_fewest_ends_after_a_while_without_work(idle, num_waiting, ended):
    assert to_end(idle, num_workers=2, num_waiting=num_waiting, fewest=1, most=2) == ended


def test_worker_that_can_run_nothing_of_what_waits_makes_way_for_one_that_can():
    """Without a limit there is room for another; at the limit it ends, as soon as it has nothing to do."""
    small, big = "small-cccccc-0", "big-aaaaaa-0"
    misfits = misplaced(places_of([SMALL, H100]), {small}, {FULL: 1}, models=MODELS)
    assert misfits == {small}
    assert starts([SMALL, H100], taken={small}, demand={FULL: 1}, num_busy=len(misfits)) == [("big", FULL)]
    assert starts([SMALL, H100], taken={small}, demand={FULL: 1}, num_busy=len(misfits), most=1) == []

    def ends(num_waiting=1, num_starting=0, most=1):
        return to_end(
            {small: 1.0}, num_workers=1, num_waiting=num_waiting, fewest=1, most=most, misfits=misfits,
            num_starting=num_starting,
        )  # fmt: skip

    assert ends() == [small]
    assert ends(most=2) == ends(most=0) == []
    assert ends(num_starting=1) == []
    assert starts([SMALL, H100], demand={FULL: 1}, most=1) == [("big", FULL)]
    assert misplaced(places_of([SMALL, H100]), {small, big}, {FULL: 1}, models=MODELS) == set()  # nowhere else to go
    assert misplaced(places_of([SMALL, H100]), {small}, {FULL: 1, PREVIEW: 1}, models=MODELS) == set()
