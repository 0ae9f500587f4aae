"""Placing: how many workers each node of a cluster is to have. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from glasspool.engines.cluster.link import Node


def shares(
    nodes: Sequence[Node], total: int | None = None, per_node: int | None = None
) -> dict[str, int]:
    """Return how many workers each node is to have, by its id.

    With neither, each node has as many as it has processors. A total is dealt out one by one, each to
    the node that has the fewest for its processors; so it may be more than there are processors.
    """
    if per_node is not None:
        return {node.id: per_node for node in nodes}
    if total is None:
        return {node.id: max(1, node.processors) for node in nodes}
    dealt = {node.id: 0 for node in nodes}
    if not dealt:
        return dealt
    line = []  # first the one that would have the fewest; a cluster is looked at each second
    for number, node in enumerate(nodes):
        weight = max(1, node.processors)
        line.append((1 / weight, -weight, number, node.id))
    heapq.heapify(line)
    for _ in range(total):
        _, less, number, node_id = line[0]
        dealt[node_id] += 1
        heapq.heapreplace(line, ((dealt[node_id] + 1) / -less, less, number, node_id))
    return dealt
