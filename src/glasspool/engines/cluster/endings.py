"""The tasks that ended last on the nodes of a pool, for whoever looks: what a ring is to a local worker.

The rings lie on the nodes; but when a node tells that tasks have ended, the driver hears all that views
want to know. It keeps one row for each message, so that a task costs nearly nothing, and makes records of it
only when somebody asks. Filled by the dispatcher; any thread may read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import compress
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from glasspool.engines.cluster.nodes import RemoteNode
    from glasspool.ledger import Task

KEPT = 20_000
"""So many tasks are remembered, some 150 bytes each; the oldest message is forgotten as a whole."""


class Ending(NamedTuple):
    """One task that ended on a node; times are this machine's."""

    slot: int | None
    pid: int | None
    generation: int
    task: int
    function: str
    status: str
    begun_ns: int
    ended_ns: int
    lane: int
    submitted_ns: int
    node: str


class _Told(NamedTuple):
    """The tasks of one message that had the same end. ``functions`` is one name if all have the same."""

    first: int
    node: RemoteNode
    offset_ns: int
    status: str
    functions: str | list[str]
    ids: Sequence[int]
    keys: Sequence[int]
    begun: Sequence[int]
    ended: Sequence[int]
    submitted: Sequence[int]


class Endings:
    """What the driver remembers of tasks that ended on nodes."""

    def __init__(self, most: int = KEPT) -> None:
        self._most = most
        self._told: deque[_Told] = deque()
        self._kept = 0
        self.count: int = 0
        """How many there have been: the next one gets this number."""

    def add(
        self,
        node: RemoteNode,
        status: str,
        tasks: Sequence[Task | None],
        keys: Sequence[int],
        begun: Sequence[int],
        ended: Sequence[int],
    ) -> None:
        """Take in tasks of one message, with the node's times; None had ended before (dispatcher)."""
        there = [task for task in tasks if task is not None]
        if not there:
            return
        if len(there) < len(tasks):
            is_there = [task is not None for task in tasks]
            keys, begun, ended = (list(compress(row, is_there)) for row in (keys, begun, ended))
        ids = [task.id for task in there]
        submitted = [task.submitted_ns for task in there]
        functions = _functions(there)
        offset = node.clock.offset_ns
        self._told.append(
            _Told(self.count, node, offset, status, functions, ids, keys, begun, ended, submitted)
        )
        self.count += len(ids)
        self._kept += len(ids)
        while self._kept > self._most and len(self._told) > 1:
            self._kept -= len(self._told.popleft().ids)

    def since(self, first: int, most: int) -> tuple[list[Ending], int]:
        """Return the tasks from a number on, oldest first, and how many of these are not among them.

        Args:
            first: The number of the first one that is wanted, as ``count`` was then.
            most: Return at most so many, the newest.
        """
        told = self._told.copy()
        count = told[-1].first + len(told[-1].ids) if told else 0
        wanted = max(first, count - most)
        found = [one for part in told for one in _endings(part, wanted)]
        return found, max(0, count - first - len(found))


def _functions(tasks: Sequence[Task]) -> str | list[str]:
    owner = tasks[0].owner
    if owner is not None and all(task.owner is owner for task in tasks):
        return str(owner.function_name(tasks[0]))
    return [str(task.job.function_name(task)) for task in tasks]


def _endings(part: _Told, wanted: int) -> Iterator[Ending]:
    if part.first + len(part.ids) <= wanted:
        return
    workers, node, offset = part.node.workers, part.node.name, part.offset_ns
    one_name = part.functions if isinstance(part.functions, str) else None
    for at in range(max(0, wanted - part.first), len(part.ids)):
        worker = workers.get(part.keys[at])
        yield Ending(
            None if worker is None else worker.slot,
            None if worker is None else worker.pid,
            0 if worker is None else worker.generation,
            part.ids[at],
            part.functions[at] if one_name is None else one_name,
            part.status,
            part.begun[at] + offset,
            part.ended[at] + offset,
            0 if worker is None else worker.lane,
            part.submitted[at],
            node,
        )
