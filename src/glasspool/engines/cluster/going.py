"""What of a job runs on the nodes at the moment: each agent is asked, all at the same time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasspool.engines.cluster.nodes import READY
from glasspool.engines.local import running
from glasspool.latch import Latch
from glasspool.progress import Running, fraction

if TYPE_CHECKING:
    from glasspool.engines.cluster.engine import ClusterEngine
    from glasspool.engines.cluster.nodes import RemoteNode
    from glasspool.ledger import Task

RUNNING = "running"

ANSWER_S = 0.5
"""Who looks waits so long for the answers at most; what has not answered then counts as running nothing."""


def look(engine: ClusterEngine, job: Any) -> Running:
    """Return how many tasks of a job run, how far they are inside, and which has run longest. Blocks."""
    count, partial = 0, 0.0
    oldest: tuple[int, int, Task, int, running.Said | None] | None = None
    for node, rows in _ask_all(engine):
        held = node.held
        for task_id, slot, age_ns, item, said in rows or ():
            task = None if held is None else held.tasks.get(task_id)
            if task is None or task.owner is not job:
                continue
            count += 1
            partial += item + (fraction(*said) if said is not None else 0.0)
            if oldest is None or age_ns > oldest[0]:
                oldest = age_ns, slot, task, item, said
    if oldest is None:
        return Running(count, partial, None)
    age_ns, slot, task, item, said = oldest
    return Running(count, partial, running.slow(slot, age_ns, task, item, said))


def _ask_all(engine: ClusterEngine) -> list[tuple[RemoteNode, list[running.Row] | None]]:
    collector = engine.collector
    nodes = [node for node in list(collector.nodes.values()) if node.state == READY]
    replies: dict[RemoteNode, list[running.Row] | None] = {}
    answered = Latch()

    def asker(node: RemoteNode) -> None:
        def take(reply: Any) -> None:
            replies[node] = reply if isinstance(reply, list) else None
            if len(replies) == len(nodes):
                answered.set()

        collector.ask(node, {"ask": RUNNING}, take)

    for node in nodes:
        collector.mailbox.put(lambda node=node: asker(node))
    if nodes and not engine.done.is_set():
        answered.wait(ANSWER_S)  # woken by the last answer
    return list(replies.copy().items())
