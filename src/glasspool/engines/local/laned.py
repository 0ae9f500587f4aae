"""The collector of a pool whose workers have lanes: several tasks of a worker run at once.

Owns: nothing beside what ``Collector`` and ``Interrupts`` own. Threads: none of its own; all of it runs on
the collector's. What is different from workers that run one task at a time:

* a worker that has a lane free is hungry, whatever else it does;
* tasks of a worker end in any order, and each reply says which lane it comes from;
* several tasks of a worker may be on their way to an early end, and it gets new ones meanwhile. That does no
  harm, as the reply to a task that the pool has ended says only that (SKIPPED, with the number that it had
  then): it is never taken for that of a later attempt;
* callers are lent no worker: one call would have all lanes.

A lane that does not let go of its task costs the worker: see ``LaneInterrupts``.
"""

from __future__ import annotations

import marshal
import signal
import time
from typing import TYPE_CHECKING, Any

from glasspool import batching
from glasspool.engines.local import wire
from glasspool.engines.local.collector import Collector, _Message, _Reply
from glasspool.engines.local.interrupts import AGAIN_S, DUMP_S, REACT_S, Interrupt, Interrupts
from glasspool.engines.local.workers import in_lane
from glasspool.ledger import ENDED

if TYPE_CHECKING:
    from glasspool.engines.local.engine import LocalEngine
    from glasspool.engines.local.workers import Worker
    from glasspool.ledger import Held, Task

LET_GO_S = 1.0
"""So long a lane may take to end its task once the exception has been raised there: it shares the interpreter
with the other lanes, and its caller has his error already."""

FINISH_S = 30.0
"""So long the other lanes of a worker may go on with their tasks when one lane has made it unusable."""


class LaneRef:
    """A worker, as it is told of a task that one of its lanes ran: it answers as the worker does."""

    __slots__ = ("_pool", "_worker", "ident", "lane", "native_id")

    runs_in_main = False

    def __init__(self, pool: str, worker: Worker, lane: int, ident: int, native_id: int) -> None:
        self._pool = pool
        self._worker = worker
        self.lane: int = lane
        self.ident: int = ident
        self.native_id: int = native_id

    @property
    def thread_name(self) -> str:
        """Python's name of the thread."""
        return f"{self._pool} w{self._worker.slot:02d} lane-{self.lane}"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._worker, name)


class LanedCollector(Collector):
    """The loop of the thread that owns the ledger, where workers have lanes."""

    def __init__(self, engine: LocalEngine) -> None:
        super().__init__(engine)
        self._count: int = engine.lanes
        self._interrupts: LaneInterrupts = LaneInterrupts(self, engine)

    # Handing out ----------------------------------------------------------------------------------

    def _room(self, worker: Worker, held: Held, pace: float | None) -> int:
        wanted = batching.room_in_lanes(pace, len(held), self._count)
        if worker.quota is not None:
            wanted = min(wanted, worker.quota)
        free = self._count - len(held)
        if worker.stuck:
            wanted = min(wanted, free)  # what is behind long tasks was just taken back
        waiting, workers = len(self.ledger.waiting), len(self.workers)
        return min(wanted, batching.share_in_lanes(waiting, workers, free))

    def _note_sent(self, message: _Message, held: Held, pace: float | None) -> None:
        super()._note_sent(message, held, pace)
        self._stay_hungry(message.worker)

    def _hear(self, worker: Worker) -> None:
        super()._hear(worker)
        self._stay_hungry(worker)
        if self._is_free(worker) and not self.ledger.waiting:
            self._lookout.relieve()

    def has_free(self, but: Worker | None = None) -> bool:
        """Tell whether some other worker could begin a task at once."""
        others = (worker for worker in self.workers.values() if worker is not but)
        return super().has_free() or any(map(self._is_free, others))

    def _is_free(self, worker: Worker) -> bool:
        """Tell whether a worker that has tasks could begin another one."""
        may = worker.mine and worker.serves and worker.ready
        if not may or worker.stopping or worker.quota == 0 or worker.held is None:
            return False
        return len(worker.held) < self._count

    def _stay_hungry(self, worker: Worker) -> None:
        """Let a worker be given tasks that has others: if it has no room, that is seen then."""
        may = worker.mine and worker.serves and worker.ready
        if may and not worker.stopping and worker.quota != 0:
            self._hungry[worker] = None

    # Taking in ------------------------------------------------------------------------------------

    def _settle_done(self, worker: Worker, held: Held, replies: list[_Reply]) -> None:
        for reply in replies:
            self._settle_other(worker, held, reply, [])

    def _settle_other(self, worker: Worker, held: Held, reply: _Reply, fds: list[int]) -> None:
        super()._settle_other(in_lane(worker, reply[1] & wire.LANE), held, reply, fds)

    def settle_here(
        self, task: Task, error: BaseException, how: str, worker: Worker | None = None
    ) -> None:
        """End a task by a decision of the parent; tell of the lane that ran it."""
        if worker is not None and task.holder is not None:
            entry = self._engine.board.entry(worker.record, task.seq)
            if entry is not None:
                worker = in_lane(worker, entry.lane)
        super().settle_here(task, error, how, worker)

    def hear_word(
        self, worker: Worker, kind: int, task_id: int, body: bytes, begun: int, ended: int
    ) -> None:
        """Take what a worker says beside results."""
        if kind == wire.HELLO:
            *_, threads = marshal.loads(body)
            pool = self._engine.name
            refs = (LaneRef(pool, worker, lane, *ids) for lane, ids in enumerate(threads))
            worker.lanes = tuple(refs)
        super().hear_word(worker, kind, task_id, body, begun, ended)
        if kind == wire.SKIPPED:
            self._interrupts.gave_way(worker, begun)

    def _see_interrupt(self, worker: Worker) -> None:
        self._interrupts.look_after(worker)

    def bury(self, worker: Worker) -> None:
        """Take a dead worker out."""
        super().bury(worker)
        if worker.buried:
            self._interrupts.forget(worker)


class LaneInterrupts(Interrupts):
    """The tasks that are to be ended before they end by themselves, several of a worker perhaps.

    The ladder for one task is that of ``Interrupts``, with these differences:

    1. The exception is raised by the worker's main thread, at the word of a message. It comes out when the
       lane is back in Python: a lane that waits in C (a sleep, a lock, a socket) does not give way.
    2. Then the worker gets no more tasks, what it has not begun goes to others, its slot gets a new
       worker: but what its other lanes run goes on, for ``FINISH_S`` at most, timeouts and cancellations
       included. If the lane gives way after all, the worker leaves in an orderly way.
    3. When the others have ended, or that time is over, it gets the signals. What still runs then in another
       lane is lost (or retried); its certificate says which task did not let go.
    """

    def __init__(self, collector: LanedCollector, engine: LocalEngine) -> None:
        super().__init__(collector, engine)
        self._open: dict[Worker, dict[int, Interrupt]] = {}  # by the task's number there
        self._condemned: dict[Worker, bool] = {}  # and whether it is about to be killed

    # Time -----------------------------------------------------------------------------------------

    def _look(self, worker: Worker, at: float) -> None:
        if worker.look_at != at:
            return  # an earlier look was arranged meanwhile
        worker.look_at = None
        held = worker.held
        if held is None or worker.buried:
            return
        timed = [t for t in held.tasks.values() if t.policy is not None and t.policy.timeout_s]
        left = [left for task in timed if (left := self._left(worker, task)) is not None]
        if left:
            self._look_in(worker, min(left))

    def _left(self, worker: Worker, task: Task) -> float | None:
        """Return how long a task may run yet, in seconds; if its time is up, end it: None."""
        entry = self._engine.board.entry(worker.record, task.seq)
        limit = task.policy.timeout_s if task.policy is not None else None
        if limit is None or (entry is not None and entry.ended_ns):
            return None
        if entry is None:
            return limit  # it has not begun
        left = limit - (time.monotonic_ns() - entry.begun_ns) / 1e9
        if left > 0:
            return left
        self.begin(worker, task, is_timeout=True)
        return None

    # The ladder -----------------------------------------------------------------------------------

    def begin(self, worker: Worker, task: Task, is_timeout: bool) -> None:
        """End a task that a worker has begun."""
        known = self._open.setdefault(worker, {})
        earlier = known.get(task.seq)
        if earlier is not None:
            # After a timeout there may be another attempt: a cancellation comes only once, and must not get
            # lost.
            if not is_timeout and earlier.is_timeout:
                self._collector.timers.later(AGAIN_S, lambda: self._collector.cancel(task))
            return
        interrupt = known[task.seq] = Interrupt(task, is_timeout)
        self._send(worker, interrupt)
        self._collector.timers.later(REACT_S, lambda: self._resisted(worker, interrupt))

    def _send(self, worker: Worker, interrupt: Interrupt) -> None:
        if not self._is_open(worker, interrupt) or interrupt.settled:
            return
        task, seq = interrupt.task, interrupt.seq
        if not self._collector.post(
            worker, wire.REQUEST.pack(wire.INTERRUPT, 0, 0, task.id, seq, 0)
        ):
            # No room: the worker reads what it was sent in a moment, if it can.
            self._collector.timers.later(AGAIN_S, lambda: self._send(worker, interrupt))

    def _is_open(self, worker: Worker, interrupt: Interrupt) -> bool:
        return self._open.get(worker, {}).get(interrupt.seq) is interrupt and not worker.dead

    def told(self, worker: Worker, seq: int, body: bytes) -> None:
        """Take a worker's word that it has raised the exception in a task, and where."""
        interrupt = self._open.get(worker, {}).get(seq)
        if interrupt is not None:
            self._was_told(worker, interrupt, body)

    def gave_way(self, worker: Worker, seq: int) -> None:
        """Note that the lane of a task that the pool has ended is free again (or it never began)."""
        self._open.get(worker, {}).pop(seq, None)

    def look_after(self, worker: Worker) -> None:
        """See, after a message, which tasks ended by themselves, and who may leave now."""
        known = self._open.get(worker)
        if known:
            for interrupt in list(known.values()):
                task = interrupt.task
                is_here = task.holder is worker.held and task.seq == interrupt.seq
                if interrupt.settled or is_here:
                    continue
                del known[interrupt.seq]
                # It may have been taken back in the very moment in which it seemed to begin.
                if not interrupt.is_timeout and task.state != ENDED:
                    self._collector.cancel(task)
        if worker in self._condemned:
            self._part(worker)

    def forget(self, worker: Worker) -> None:
        """Drop a worker that is gone."""
        known = self._open.pop(worker, {})
        self._condemned.pop(worker, None)
        for interrupt in known.values():
            if not (interrupt.settled or interrupt.is_timeout):
                self._collector.cancel(interrupt.task)  # if it was let wait again

    def _resisted(self, worker: Worker, interrupt: Interrupt) -> None:
        if not self._is_open(worker, interrupt):
            return
        if interrupt.settled:
            self._let_go_soon(worker, interrupt)
            return
        entry = self._engine.board.entry(worker.record, interrupt.seq)
        if entry is None or entry.ended_ns:
            return  # it has ended: its result is on the way
        if self._engine.black.ask(worker.record, worker.pid):
            self._collector.timers.later(DUMP_S, lambda: self._dumped(worker, interrupt))
        else:
            self._give_up(worker, interrupt)

    def _dumped(self, worker: Worker, interrupt: Interrupt) -> None:
        if interrupt.settled:  # it could do something after all, if late
            self._let_go_soon(worker, interrupt)
        else:
            self._give_up(worker, interrupt)

    def _let_go_soon(self, worker: Worker, interrupt: Interrupt) -> None:
        left_s = LET_GO_S - REACT_S
        self._collector.timers.later(left_s, lambda: self._give_up(worker, interrupt))

    def _give_up(self, worker: Worker, interrupt: Interrupt) -> None:
        """End the task whatever its lane does, and part with the worker."""
        if not self._is_open(worker, interrupt):
            return
        entry = self._engine.board.entry(worker.record, interrupt.seq)
        lane = entry.lane if entry is not None else 0
        if not interrupt.settled:
            one = in_lane(worker, lane)
            interrupt.stack, _, _ = self._engine.coroner.last_stack(one)
            self._settle(worker, interrupt, "it did not react: its process could run no Python")
        if worker in self._condemned:
            return
        self._condemned[worker] = False
        self._collector.staff.condemn(
            worker,
            f"was stopped by the pool, because task {interrupt.task.id} in its lane {lane} did not let go,",
            stops=False,
        )
        self._collector.timers.later(FINISH_S, lambda: self._end(worker))
        self._part(worker)

    def _part(self, worker: Worker) -> None:
        """Let a condemned worker go, if nothing of what it runs is of interest any more."""
        if worker.held or worker.dead:
            return
        if self._open.get(worker):
            self._end(worker)
        elif not worker.stop_is_sent:  # it has come to its senses
            self._collector.staff.post_stop(worker)
            self._engine.stop_worker(worker, hard=False)

    def _end(self, worker: Worker) -> None:
        """Have a condemned worker killed."""
        if worker.dead or self._condemned.get(worker, True):
            return
        self._condemned[worker] = True
        grace = self._engine.options.timeout_grace_s
        self._engine.kill_later(worker, grace, signal.SIGTERM)
        self._engine.kill_later(worker, 2 * grace, signal.SIGKILL)
