"""Balancing: a node that has nothing to do gets what another one has not begun.

Nodes are given tasks ahead. When no more wait, a slow node may hold many while a fast one is idle: it is
asked to give the last ones back (``RECALL``), and what it gives back (``BACK``) is handed out anew. Half of
what is too much is asked for at a time: the rest may be done before the answer comes.

It costs one look at an attribute in a turn, and at most one look at all nodes in ``BALANCE_S``, and that only
after something has moved.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from glasspool.engines.cluster import words

if TYPE_CHECKING:
    from glasspool.engines.cluster.dispatcher import Dispatcher
    from glasspool.engines.cluster.nodes import RemoteNode

BALANCE_S = 0.02
"""Tasks that take no longer are done sooner than they have come back and gone elsewhere."""


class Balance:
    """Who has too much, and who nothing. Part of the dispatcher, and its thread's alone.

    Attributes:
        moved: Something was handed out, or has come from a node, since it looked last.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._is_due = False
        self.moved: bool = False

    def consider(self) -> None:
        """See to it that there is a look soon, if there is any need of one. Called when nothing waits."""
        if self.moved and not self._is_due:
            self.moved = False
            if len(self._dispatcher.nodes) > 1:
                self._is_due = True
                self._dispatcher.timers.later(BALANCE_S, self._look)

    def _look(self) -> None:
        self._is_due = False
        dispatcher = self._dispatcher
        if dispatcher.ledger.waiting or dispatcher.stopped:
            return
        usable = [node for node in dispatcher.nodes.values() if node.is_usable]
        loaded = [node for node in usable if _too_many(node) > 0]
        if not loaded:
            return
        free = sum(max(0, node.places - len(node.held or ())) for node in usable)
        coming = sum(len(node.recalled) for node in usable)
        if free <= coming:
            return
        for node in sorted(loaded, key=_too_many, reverse=True):
            if free <= coming:
                return
            coming += self._recall(node)

    def _recall(self, node: RemoteNode) -> int:
        """Ask for the last half of what a node holds beyond what it runs; return how many that is."""
        if node.held is None or node.recalled or node.keeps_all:
            return 0
        count = -(-_too_many(node) // 2)
        last = (one for one in reversed(node.held.tasks) if one not in node.recalled)
        ids = list(itertools.islice(last, count))[::-1]
        node.recalled.update(ids)
        node.say(words.RECALL, ids)
        return len(ids)


def _too_many(node: RemoteNode) -> int:
    return len(node.held or ()) - len(node.recalled) - node.places
