"""Read what ended on the nodes of a pool on a cluster: its driver remembers it, and is asked.

It stands where ``Rings`` stands for a pool of this machine, whose workers' rings are shared memory. *Owns*
the opened file of one pool and how far its driver has been read. Threads: none.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from glasspool.engines.local import desk
from glasspool.engines.local.scoreboard import Board
from glasspool.observe.records import TaskRecord
from glasspool.observe.rings import Harvest
from glasspool.snapshot import ProcessInfo

ENDED = "ended"
"""What the driver is asked for."""

MOST = 20_000
"""Not more tasks are asked for at once; the driver remembers no more."""

EVERY_S = 0.1
"""The driver is asked no more often: it remembers more than ends in that time."""

_ANSWER_S = 0.5
_SILENCE_S = 2.0
"""A driver that did not answer is left alone for so long."""


class FarRings:
    """The tasks that end in one pool on a cluster.

    Args:
        board: The file by which the pool is found, opened to read; it is closed with this.
        pool: What the records shall call the pool.
    """

    def __init__(self, board: Board, pool: str) -> None:
        self.board = board
        self.pool = pool
        self._next = 0
        self._not_before = 0.0
        self._news: Any = None
        self._is_first = True
        self.has_news: bool = False
        """Whether a worker came or went since the owner of this took it back."""

    def close(self) -> None:
        """Let the file go. Safe to call twice."""
        self.board.close()

    def drain(self, most: int | None = None, *, at_once: bool = False) -> Harvest:
        """Ask what ended since the last call; the first time, what the driver still remembers.

        Blocks for ``_ANSWER_S`` at most. A driver that does not answer is asked later what is missing.

        Args:
            most: Take at most so many tasks, the newest; more are counted as lost. Not the first time.
            at_once: Ask even if that was done a moment ago.
        """
        now = time.monotonic()
        if now < self._not_before and not at_once:
            return Harvest()
        limit = MOST if most is None or self._is_first else min(MOST, most)
        try:
            told = self._ask(limit)
        except (OSError, ValueError):  # it hangs, or has ended: the picture tells of that
            self._not_before = now + _SILENCE_S
            return Harvest()
        self._not_before = now + EVERY_S
        lost = 0 if self._is_first else int(told["lost"])  # before, nobody had asked
        self._is_first = False
        self._next = int(told["next"])
        self.has_news |= self._news not in (None, told["news"])
        self._news = told["news"]
        return Harvest([record(self.pool, ending) for ending in told["tasks"]], lost)

    def settle(self, ended: Iterable[ProcessInfo]) -> int:
        """Return how many tasks of workers that ended went uncounted: none, as the driver counts all."""
        return 0

    def _ask(self, most: int) -> dict[str, Any]:
        question = {"ask": ENDED, "since": self._next, "most": most}
        told = desk.ask(str(self.board.socket_path), question, _ANSWER_S)
        if "tasks" not in told:
            raise ValueError(str(told.get("error", "no answer")))
        return told


def record(pool: str, ending: Sequence[Any]) -> TaskRecord:
    """Return the record of a task that ended on a node (``endings.Ending``)."""
    slot, pid, generation, task, function, status, begun, ended, lane, submitted, node = ending
    return TaskRecord(
        pool,
        slot,
        pid,
        generation,
        task,
        function,
        status,
        begun,
        ended,
        lane=lane,
        submitted_ns=submitted,
        node=node,
    )
