# SPDX-License-Identifier: GPL-3.0-or-later
"""The nodes of a Ray cluster on which workers may be: each is asked once what it is, and again where that failed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from das_server import __version__
from das_server.workers import ray_cluster
from das_server.workers.ray_places import Node

_log = logging.getLogger(__name__)

ANSWER_S = 30.0
"""How long a node or a worker may take to say what it is before others are no longer kept waiting."""


class Nodes:
    """``known``: those that have said what they are, by id; ``problem``: why the last one cannot be used.

    ``when_said(reference, call, *about)``: has ``call(*about, future)`` called, in the thread that calls `look`.
    """

    def __init__(self, when_said: Callable[..., None]):
        self.known: dict[str, Node] = {}
        self.problem = ""
        self._when_said = when_said
        self._asked: dict[str, float] = {}  # when each was asked or has answered last; inf meanwhile

    def join(self) -> None:
        """Ask all, and wait a while for their answers."""
        told, deadline = ray_cluster.nodes(), time.monotonic() + ANSWER_S
        for node, facts in [(node, ray_cluster.ask_node(node["NodeID"])) for node in told]:
            self._asked[node["NodeID"]] = time.monotonic()
            try:
                self._meet(node, ray_cluster.wait_for(facts, max(1.0, deadline - time.monotonic())))
            except TimeoutError:
                self._await(node, facts)
            except Exception as error:  # whatever Ray raises; the others may do
                self._pass_over(node, error)

    def look(self) -> set[str]:
        """Ask those that are new → the ids of all that live."""
        told = {node["NodeID"]: node for node in ray_cluster.nodes()}
        self.known = {name: node for name, node in self.known.items() if name in told}
        self._asked = {name: when for name, when in self._asked.items() if name in told}
        for name, node in told.items():
            if name not in self.known and time.monotonic() - self._asked.get(name, -ANSWER_S) >= ANSWER_S:
                self._await(node, ray_cluster.ask_node(name))
        return set(told)

    def _await(self, node: dict[str, Any], facts: Any) -> None:
        """It is asked no more before this answer has come, which takes minutes where it digests large weights."""
        self._asked[node["NodeID"]] = float("inf")
        self._when_said(facts, self._said, node)

    def _said(self, node: dict[str, Any], future: Future) -> None:
        self._asked[node["NodeID"]] = time.monotonic()
        try:
            self._meet(node, future.result())
        except Exception as error:  # whatever Ray raises
            self._pass_over(node, error)

    def _meet(self, node: dict[str, Any], facts: dict[str, Any]) -> None:
        if facts["version"] != __version__:
            raise ValueError(f"it has release {facts['version']} and this server {__version__}")
        self.known[node["NodeID"]] = ray_cluster.node_of(node, facts)
        self.problem = ""

    def _pass_over(self, node: dict[str, Any], error: Exception) -> None:
        reason = str(error).strip().splitlines()[-1][:300] if str(error).strip() else type(error).__name__
        self.problem = f"The node {node['NodeManagerHostname']} cannot be used: {reason}"
        _log.error("%s", self.problem)
