# SPDX-License-Identifier: GPL-3.0-or-later
"""Where in a cluster workers can be, and which of these places get one: pure decisions, without Ray.

A place is one device: a GPU, or all processors of a node where the cluster has no GPU (or the devices are "cpu").  A
model goes where its fastest memory profile fits, to the smallest device among those, and to the node with the fewest
workers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from das_server.models.estimators import is_without_weights
from das_server.models.registry import BASE_OF_OWN_MODELS, model_specs

PROFILES = ("resident", "drop_text_encoder", "group_offload")
"""Memory profiles of a GPU, the fastest first."""

USABLE = 0.95
"""Part of a device's memory that a model may need."""

IDLE_S = 300.0
"""How long a worker beyond the fewest may have nothing to do before it ends."""


@dataclass(frozen=True)
class Node:
    """One node as Ray tells of it.  ``gpu_bytes``: memory of each GPU, 0 where it is not known.  ``models``: the
    revision of every model that is installed there."""

    node_id: str
    host: str
    num_cpus: float
    num_gpus: int
    gpu_bytes: tuple[int, ...] = ()
    models: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """One device of one node."""

    name: str
    node_id: str
    host: str
    is_gpu: bool
    device_bytes: int
    num_cpus: float
    models: Mapping[str, str] = field(default_factory=dict)


def places_of(nodes: Collection[Node], devices: Collection[str] = ("auto",)) -> list[Place]:
    """All places of a cluster."""
    with_gpus = "cpu" not in devices and any(node.num_gpus for node in nodes)
    places = []
    for node in sorted(nodes, key=lambda node: node.node_id):
        count = node.num_gpus if with_gpus else int(node.num_cpus >= 1)
        for index in range(count):
            memory = node.gpu_bytes[index] if with_gpus and index < len(node.gpu_bytes) else 0
            name = f"{node.host[:40]}-{node.node_id[:6]}-{index}"
            places.append(
                Place(name, node.node_id, node.host, with_gpus, memory, 0 if with_gpus else node.num_cpus, node.models)
            )
    return places


def fitness(place: Place, model: str, revision: str = "") -> int:
    """0 where the model cannot run, else the more, the better it can.  ``revision`` "" for any weights."""
    if model not in place.models or revision not in ("", place.models[model]):
        return 0
    spec = model_specs().get(model)
    if spec is not None and spec.embedded or is_without_weights(model):
        return 1
    if not place.is_gpu:
        return 1
    needs = (spec.memory_bytes if spec else {}) or model_specs()[BASE_OF_OWN_MODELS].memory_bytes
    if not place.device_bytes:
        return 1
    fitting = [profile for profile in PROFILES if needs.get(profile, 0) <= USABLE * place.device_bytes]
    return len(PROFILES) - PROFILES.index(fitting[0]) if fitting else 0


def lacking(place: Place, models: Mapping[str, str]) -> tuple[str, ...]:
    """Those of ``models`` (with the server's revisions) that cannot run there."""
    return tuple(sorted(model for model, revision in models.items() if not fitness(place, model, revision)))


def to_start(
    places: Collection[Place],
    taken: Collection[str],
    demand: Mapping[str, int],
    *,
    models: Mapping[str, str],
    default: str,
    num_busy: int,
    fewest: int,
    most: int,
) -> list[tuple[Place, str]]:
    """(place, model that it loads) of workers to start now.

    ``taken``: names of places that have one; ``demand``: waiting jobs by model; ``models``: the server's, with
    revisions; ``num_busy``: workers with a job, or `misplaced`.  ``most`` 0: as many as there are places.
    """
    limit = min(most or len(places), len(places))
    wanted = min(max(fewest, num_busy + sum(demand.values())), limit)
    open_places = [place for place in places if place.name not in taken]
    left, per_node = Counter(demand), Counter(place.node_id for place in places if place.name in taken)
    started: list[tuple[Place, str]] = []
    while len(taken) + len(started) < wanted and open_places:
        for model in [*(model for model, count in left.most_common() if count > 0), default]:
            fits = [place for place in open_places if fitness(place, model, models.get(model, ""))]
            if fits:
                break
        else:
            break
        revision = models.get(model, "")
        best = min(
            fits,
            key=lambda one: (-fitness(one, model, revision), one.device_bytes, per_node[one.node_id], one.name),
        )
        started.append((best, model))
        open_places.remove(best)
        per_node[best.node_id] += 1
        left[model] -= 1
    return started


def misplaced(
    places: Collection[Place], taken: Collection[str], demand: Mapping[str, int], *, models: Mapping[str, str]
) -> set[str]:
    """Names of places that have a worker which can run nothing of what waits, while an open place can."""
    waiting = [(model, models.get(model, "")) for model, count in demand.items() if count > 0]
    fitting = {place.name for place in places if any(fitness(place, *one) for one in waiting)}
    return set(taken) - fitting if fitting - set(taken) else set()


def to_end(
    idle_s: Mapping[str, float],
    *,
    num_workers: int,
    num_waiting: int,
    fewest: int,
    most: int = 0,
    misfits: Collection[str] = (),
    num_starting: int = 0,
) -> list[str]:
    """Workers (by name, with the time that they have had nothing to do) that are to end, those longest idle first.

    While jobs wait none does but as many ``misfits`` (see `misplaced`) as keep workers for these jobs from starting;
    ``num_starting``: workers without a job that are none.  ``most`` 0: there is no limit.
    """
    longest = sorted(idle_s, key=idle_s.get, reverse=True)
    if not num_waiting:
        return [name for name in longest if idle_s[name] > IDLE_S][: max(0, num_workers - fewest)]
    num_wanted = num_waiting - num_starting - max(0, most - num_workers)
    return [name for name in longest if name in misfits][: max(0, num_wanted)] if most else []
