# SPDX-License-Identifier: GPL-3.0-or-later
"""Ray itself, as this project uses it: joined with its ports closed, its nodes, and actors on them.  Imports Ray."""

from __future__ import annotations

import os
import re
import secrets
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path
from typing import Any

from das_server import __version__
from das_server.config import is_loopback
from das_server.models.estimators import capabilities_of_estimators
from das_server.models.registry import is_installed, model_path, model_specs
from das_server.workers.ray_actor import WorkerActor, revisions_of_this_node
from das_server.workers.ray_places import Node, Place

OBJECT_STORE_BYTES = 512 << 20
"""Of a cluster of one machine: it carries orders and results, nothing stays in it."""

ON_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Set to 0, Ray takes 127.0.0.1 for this machine's address and binds all its ports there."""


def close_ports(address: str) -> None:
    """Set what Ray reads of the environment, before it is imported: on one machine all ports on 127.0.0.1; in a
    cluster, whose nodes Ray makes listen on all their addresses, nobody without the cluster's token."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if not address or is_loopback(address.rpartition(":")[0]):
        os.environ[ON_LOOPBACK] = "0"
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    if not address and not os.environ.get("RAY_AUTH_TOKEN_PATH"):
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # or Ray would write one into the home


def join(address: str, namespace: str) -> None:
    """Connect to the cluster at ``address``, or start one on this machine for "".  Raises what Ray raises."""
    # Ray has its workers look for modules where the program lies: not among the files of this package.
    sys.argv[0] = str(Path(__file__).resolve().parents[2] / "das-server")
    import ray

    own = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    where = {"address": address} if address else {"address": "local"} | own
    ray.init(**where, namespace=namespace, log_to_driver=False, configure_logging=False)


def leave() -> None:
    """Disconnect; a cluster that `join` has started ends."""
    import ray

    ray.shutdown()


def nodes() -> list[dict[str, Any]]:
    """The nodes that live, as Ray tells of them."""
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def node_of(told: dict[str, Any], facts: dict[str, Any]) -> Node:
    """One of `nodes` with what `describe` has said of it."""
    resources = told["Resources"]
    cpus, gpus = resources.get("CPU", 0.0), int(resources.get("GPU", 0))
    return Node(told["NodeID"], facts["host"], cpus, gpus, tuple(facts["gpu_bytes"]), facts["models"])


def describe() -> dict[str, Any]:
    """Runs on a node: its name, release, the memory of its GPUs, and the revisions of the models there."""
    revisions = revisions_of_this_node()
    installed = [name for name in model_specs() if is_installed(model_path(name))]
    installed += [one.name for one in capabilities_of_estimators().values() if one.installed]
    for name in installed:
        revisions.learn(name, at_most=sys.maxsize)
    models = {name: revisions.of(name) for name in installed}
    return {"host": socket.gethostname(), "version": __version__, "gpu_bytes": gpu_bytes(), "models": models}


def gpu_bytes() -> list[int]:
    """Memory of this machine's GPUs, [] where nobody says."""
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [int(line) << 20 for line in answer.split() if line.isdecimal()]


def ask_node(node_id: str) -> Any:
    """`describe` of a node → a reference to what it says."""
    import ray

    task = ray.remote(describe).options(num_cpus=0, max_retries=0, scheduling_strategy=_on(node_id))
    return task.remote()


def start_actor(place: Place, options: dict[str, Any]) -> Any:
    """A worker at that place, which outlives this process.  Nothing is repeated by Ray: jobs go on from checkpoints."""
    import ray

    actor = ray.remote(concurrency_groups={"words": 1, "ears": 4})(WorkerActor).options(
        name=f"{place.name}.{secrets.token_hex(4)}",
        lifetime="detached",
        max_restarts=0,
        max_task_retries=0,
        num_gpus=int(place.is_gpu),
        num_cpus=place.num_cpus,
        scheduling_strategy=_on(place.node_id),
    )
    return actor.remote(asdict(place), options | {"device": "cuda:0" if place.is_gpu else "cpu"})


def actors() -> dict[str, Any]:
    """The actors of this server that live, by the names of their places."""
    import ray

    found = {}
    for name in ray.util.list_named_actors():
        try:
            found[name.rpartition(".")[0]] = ray.get_actor(name)
        except ValueError:  # it has just ended
            continue
    return found


def kill(actor: Any) -> None:
    """End an actor now."""
    import ray

    ray.kill(actor, no_restart=True)


def wait_for(reference: Any, timeout_s: float) -> Any:
    """What it stands for.  Raises what Ray raises."""
    import ray

    return ray.get(reference, timeout=timeout_s)


def when_done(reference: Any, call: Callable[[Future], None]) -> None:
    """``call`` with a finished future, in a thread of Ray's."""
    reference.future().add_done_callback(call)


def is_death(error: BaseException) -> bool:
    """Whether an actor's answer failed because it is dead for good, not out of reach for now."""
    import ray

    kinds = ray.exceptions
    return isinstance(error, kinds.RayActorError) and not isinstance(error, kinds.ActorUnavailableError)


def words_of(error: BaseException) -> tuple[str, bool]:
    """(why an actor died, for "The worker …", whether its node went with it)."""
    text = str(error)
    with_node = bool(re.search(r"node (?:has )?died|node .{0,80}(?:was|is|has been) (?:marked )?dead|its node", text))
    if with_node:
        return "was lost with its node", True
    line = next((line for line in text.splitlines() if "because" in line), text.splitlines()[0] if text else "")
    detail = re.sub(r"^The actor (?:is dead|died) because ", "", line.strip()).split(" Some common causes")[0]
    return f"died ({detail[:300]})", False


def _on(node_id: str) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node_id, soft=False)
