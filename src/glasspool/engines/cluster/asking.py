"""Asking several nodes at the same time, and waiting for their answers together."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from glasspool.engines.cluster.nodes import RemoteNode
from glasspool.latch import Latch

if TYPE_CHECKING:
    from glasspool.observe.node_pictures import Reply


class Asking:
    """One question to some nodes: answers are put in by the dispatcher, and awaited by who asks."""

    def __init__(self, nodes: Sequence[RemoteNode]) -> None:
        self._nodes = list(nodes)
        self._asked_at = time.monotonic()
        self._told: dict[str, Any] = {}
        self._complete = Latch()
        if not nodes:
            self._complete.set()

    def take(self, node: RemoteNode, reply: Any) -> None:
        """Take a node's answer, or None: it is lost (dispatcher)."""
        self._told[node.key] = reply
        if len(self._told) >= len(self._nodes):
            self._complete.set()

    def wait(self, limit_s: float) -> dict[str, Reply]:
        """Return the answers by node, those that came within so many seconds of the question."""
        from glasspool.observe.node_pictures import Reply

        # Woken by the last answer; a pool that ends meanwhile tells of each node that it is lost.
        self._complete.wait(max(0.0, self._asked_at + limit_s - time.monotonic()))
        told = self._told.copy()
        late = f"it did not answer within {limit_s:g} s"
        replies: dict[str, Reply] = {}
        for node in self._nodes:
            body = told.get(node.key)
            why = late if node.key not in told else "it was lost"
            replies[node.key] = Reply(node, body, "" if body is not None else why)
        return replies
