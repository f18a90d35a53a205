# SPDX-License-Identifier: GPL-3.0-or-later
"""A Ray cluster of two nodes on this machine, on 127.0.0.1 only and with a token, for the tests of workers."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

OBJECT_STORE_BYTES = 80 << 20
"""Of each node; the least that Ray takes is 75 MB."""


class TwoNodes:
    """The cluster.  ``environment``: what a process needs that joins it."""

    def __init__(self, cluster: Any, environment: Mapping[str, str]):
        self._cluster = cluster
        self.environment = dict(environment)
        self.second: Any = None
        self.add_node()

    @property
    def address(self) -> str:
        return self._cluster.address

    def add_node(self) -> None:
        """The second node, where it was killed."""
        if self.second is None:
            self.second = self._cluster.add_node(**_ONE)

    def kill_second_node(self) -> None:
        """As if its machine had lost its power."""
        self._cluster.remove_node(self.second, allow_graceful=False)
        self.second = None

    @property
    def pids(self) -> set[int]:
        """Processes of Ray on both nodes."""
        nodes = [self._cluster.head_node, *([self.second] if self.second else [])]
        return {process.pid for node in nodes for _, process in node.live_processes()}


_ONE = {"num_cpus": 1, "object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}


@contextlib.contextmanager
def two_nodes() -> Iterator[TwoNodes]:
    """Start the cluster, and end it whatever happens."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        environment = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_TMPDIR": folder,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_DISABLE_IMPORT_WARNING": "1",
            "XDG_DATA_HOME": os.path.join(folder, "data"),
        }
        with mock.patch.dict(os.environ, environment):
            from ray.cluster_utils import Cluster

            cluster = Cluster(initialize_head=True, head_node_args=_ONE, connect=False)
            try:
                yield TwoNodes(cluster, environment)
            finally:
                cluster.shutdown()
