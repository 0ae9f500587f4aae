"""The journal of a pool on a cluster: what the dispatcher knows of each task, on the driver's clock.

When a task was submitted, sent and received, the driver saw; when it began and ended, its node told, and its
clock was set right (``clocks``). When its function was called and its result pickled, nobody tells: that
would be more bytes for each task.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from glasspool.engines.local import plain
from glasspool.engines.local.journal import Journal
from glasspool.engines.local.outcome import RAISED, VALUE

if TYPE_CHECKING:
    from glasspool.engines.cluster.nodes import RemoteNode
    from glasspool.ledger import Task


class NodesJournal(Journal):
    """What a pool on a cluster writes down while it is recorded."""

    def __init__(self) -> None:
        super().__init__(None)

    def done_there(
        self,
        node: RemoteNode,
        tasks: Sequence[Task | None],
        kinds: Sequence[int],
        bodies: Sequence[Any],
        keys: Sequence[int],
        begun: Sequence[int],
        ended: Sequence[int],
    ) -> None:
        """Note the tasks of one message that are done; before their owners are told (dispatcher)."""
        now, here = time.monotonic_ns(), node.clock.here
        rows = zip(tasks, kinds, bodies, keys, begun, ended, strict=True)
        for task, kind, body, key, begun_ns, ended_ns in rows:
            if task is not None:
                size = plain.size(body) if kind == VALUE else len(body)
                worker, attempts = node.workers.get(key), task.attempts + 1
                self._note(
                    task, "done", worker, here(begun_ns), here(ended_ns), size, attempts, now
                )

    def ended_there(
        self,
        worker: Any,
        task: Task,
        how: str,
        begun_ns: int,
        ended_ns: int,
        kind: int,
        body: Any,
        *,
        is_counted: bool,
    ) -> None:
        """Note one task whose end a node told, in the driver's times (dispatcher)."""
        now = time.monotonic_ns()
        size = 0 if kind == RAISED else plain.size(body) if kind == VALUE else len(body)
        failure = None if how == "done" else (kind, body)
        attempts = max(1, task.attempts + (not is_counted))
        self._note(task, how, worker, begun_ns, ended_ns, size, attempts, now, failure)

    def ended_here(
        self, task: Task, how: str, error: BaseException, worker: Any, is_counted: bool
    ) -> None:
        """Note one task whose end the driver decided: it waited, or its node was lost."""
        now = time.monotonic_ns()
        self._note(task, how, None, 0, 0, 0, max(1, task.attempts), now, (RAISED, error))

    def _measured(self, worker: Any, task: Task, begun_ns: int, ended_ns: int) -> tuple[int, int]:
        return 0, 0
