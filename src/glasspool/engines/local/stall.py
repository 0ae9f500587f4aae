"""The stall watch: notices that a pool has work and nothing moves, and has it told once.

Owns: what it saw when it looked last. Threads: none; it looks from the worker-handler's, by that thread's
own timer, and only while there is work: ``begin`` (from whoever finds work) starts the timer, and the
first look that finds no work lets it go. So a pool at rest is never woken, and work costs one look at an
attribute; what has moved is seen from counters and from the scoreboard, a few words for each worker.

Nothing moves if no task begins or ends, no item of a chunk ends, no worker starts, gets ready or dies, and
the workers (with the processes that descend from them), a running callback and the iterables use no
processor time that is worth the name. Handing more tasks in is no movement.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasspool.engines.local import scoreboard as sb

if TYPE_CHECKING:
    from glasspool.engines.local.engine import LocalEngine
    from glasspool.engines.local.workers import Worker

LOOKS = 4
"""How often it looks within the time after which it speaks."""

AT_REST = 0.01
"""The share of one processor below which a process or thread counts as one that does nothing."""

LEAST_S = 0.015
"""Processor time below this says nothing: the kernel counts a process's in steps of 10 ms."""

ProcessorTime = Callable[["LocalEngine"], dict[int, float]]
"""Reads the processor time, in seconds, of all that may be at work for a pool: by pid of a worker, and by
native id of a thread of this process."""


class Stall:
    """What the watch noticed: for how long nothing moved, and what each process used meanwhile.

    ``shares``: parts of one processor, by pid or native id. ``still_holds`` tells whether nothing has moved
    since.
    """

    __slots__ = ("quiet_s", "shares", "still_holds")

    def __init__(
        self, quiet_s: float, shares: dict[int, float], still_holds: Callable[[], bool]
    ) -> None:
        self.quiet_s: float = quiet_s
        self.shares: dict[int, float] = shares
        self.still_holds: Callable[[], bool] = still_holds


class StallWatch:
    """Looks after one pool. All but ``begin`` and ``watching`` is the worker-handler's."""

    def __init__(self, engine: LocalEngine) -> None:
        self._engine = engine
        self._after_s = engine.options.stall_after_s
        self.watching: bool = self._after_s is None  # never: then there is nothing to begin
        self.tell: Callable[[LocalEngine, Stall], None] = lambda engine, stall: None
        self.processor_time: ProcessorTime = lambda engine: {}
        self._seen: Any = None
        self._moved_at = 0.0
        self._used: dict[int, float] = {}
        self._used_from: float | None = None
        self._told = False
        self._timer: object = None

    def begin(self) -> None:
        """Watch from now on, if there is work (any thread, when ``watching`` is False)."""
        # Two threads that come here at once begin two timers; a look ends what is not the newest.
        if self._engine.has_work():
            self.watching = True
            self._engine.handler.mailbox.put(self._begin)

    def _begin(self) -> None:
        self._seen = None
        self._look_again()

    def _look_again(self) -> None:
        if self._after_s is None:
            return
        token = self._timer = object()
        self._engine.handler.later(
            self._after_s / LOOKS, lambda: self._look() if self._timer is token else None
        )

    def _look(self) -> None:
        if self._engine.collector.stopped or self._engine.done.is_set():
            return  # the pool ends, within its own limits
        if not self._engine.has_work():
            self._seen = None
            self._told = False
            # First said, then looked again: whoever hands in work after the look finds it said.
            self.watching = False
            if not self._engine.has_work():
                return
            self.watching = True
        self._judge(time.monotonic())
        self._look_again()

    def _judge(self, now: float) -> None:
        seen = self._movement()
        if seen != self._seen:
            self._seen, self._moved_at = seen, now
            self._used_from = None
            self._told = False
            return
        if self._told:
            return
        used = self.processor_time(self._engine)
        if self._used_from is None:
            self._used, self._used_from = used, now
            return
        shares = self._shares(used, now)
        if any(share >= AT_REST for share in shares.values()):
            self._moved_at = self._used_from = now
            self._used = used
        elif self._after_s is not None and now - self._moved_at >= self._after_s:
            self._told = True
            self._speak(now, shares)

    def _speak(self, now: float, shares: dict[int, float]) -> None:
        """Have it told on a thread of its own: asking for stacks takes time, a warning runs user code."""
        seen, tell, engine = self._seen, self.tell, self._engine
        stall = Stall(now - self._moved_at, shares, lambda: self._still_is(seen))

        def run() -> None:
            try:
                tell(engine, stall)
            finally:
                engine.threads.pop("stall-watch", None)

        thread = threading.Thread(target=run, name=f"{engine.name} stall-watch", daemon=True)
        engine.threads["stall-watch"] = thread
        try:
            thread.start()
        except RuntimeError:  # no thread to be had: at the next look there may be one
            engine.threads.pop("stall-watch", None)
            self._told = False

    # What is looked at ------------------------------------------------------------------------------

    def _movement(self) -> Any:
        """Return a value that is another one as soon as something has moved."""
        engine = self._engine
        ledger, lender = engine.collector.ledger, engine.collector.lender
        return (
            sum(ledger.ended.values()),
            lender.done + lender.failed,
            id(engine.calling_back),
            tuple(self._of_worker(worker) for worker in engine.handler.workers.copy().values()),
        )

    def _still_is(self, seen: Any) -> bool:
        try:
            return bool(seen == self._movement())
        except ValueError:  # the pool has ended meanwhile, and its scoreboard with it
            return False

    def _of_worker(self, worker: Worker) -> tuple[Any, ...]:
        board, record = self._engine.board, worker.record
        first = worker.direct
        if first is None and worker.held is not None:
            try:
                first = next(iter(worker.held.tasks.values()), None)
            except RuntimeError:  # the collector is changing it: something moves
                return (object(),)
        begun = first is not None and board.has_begun(record, first.seq)
        return (
            worker.token,
            worker.ready,
            board.word(record, sb.W_STATE),
            board.word(record, sb.W_ITEM),
            _of_lanes(board, record),
            None if first is None else first.id,
            begun,
        )

    def _shares(self, used: dict[int, float], now: float) -> dict[int, float]:
        """Return what part of a processor each has used since it was first read."""
        elapsed_s = max(now - (self._used_from or now), 1e-6)
        shares = {}
        for key, total_s in used.items():
            more_s = total_s - self._used.get(key, total_s)
            shares[key] = more_s / elapsed_s if more_s > LEAST_S else 0.0
        return shares


def _of_lanes(board: sb.Board, record: int) -> tuple[int, ...]:
    """Return what moves in the lanes of a worker: which task each has, and which item of it."""
    words, entry = board.words, sb.LANE_ENTRY + sb.E_SEQ
    lanes = [board.lane(record, lane) for lane in range(board.lanes)]
    return tuple(words[at + offset] for at in lanes for offset in (entry, sb.W_ITEM))
