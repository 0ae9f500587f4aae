"""The journal of a pool: what became of each task, and what the pool's threads did, while somebody records.

A pool has none until it is asked for one (``Collector.journal``), and whoever would write into it looks at
that attribute first: once for each row of tasks. What is written is what is there anyway; names, texts and
records are made of it by who reads (``observe.recording``).

Owns: its rows, bounded; the oldest are dropped and counted. Threads: none. Written by the collector, by
callers who settle their own tasks, by threads that submit, draw and call back; each step is one operation on
a collection, so that none of them needs a lock.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from glasspool.engines.local import arguments, plain, wire
from glasspool.engines.local import scoreboard as sb
from glasspool.engines.local.outcome import RAISED, VALUE, Outcome

if TYPE_CHECKING:
    from glasspool.engines.local.engine import Grave, LocalEngine
    from glasspool.engines.local.scoreboard import Board
    from glasspool.engines.local.workers import Worker
    from glasspool.ledger import Task

T = TypeVar("T")

ARGUMENTS = 512
"""The pickled arguments of a task are kept for a text of them if they are no longer, in bytes."""

ARGUMENTS_IN_ALL = 32 * 1024 * 1024
"""So many bytes of them are kept in all."""

LONGEST = 64
"""So many tasks, those that ran longest, keep arguments that are longer; up to what is read of a pickle."""

MOST_SPANS = 200_000
MOST_GRAVES = 100_000


class Noted(NamedTuple):
    """One task that has ended: as ``observe.records.TaskRecord``, with what its words are made of.

    Times are 0 where they are not known. ``packed`` are its arguments, None if they are too long.
    """

    task: int
    job: int
    place: int
    items: int
    function: str
    how: str
    kind: int
    packed: Any
    argument_bytes: int
    result_bytes: int
    slot: int | None
    pid: int | None
    generation: int
    attempts: int
    submitted_ns: int
    submitter: int
    sent_ns: int
    begun_ns: int
    called_ns: int
    ended_ns: int
    boxed_ns: int
    received_ns: int
    lane: int = 0
    node: str | None = None


class NotedSpan(NamedTuple):
    """What a thread did, as ``observe.records.Span``."""

    kind: str
    native_id: int
    thread: str
    begun_ns: int
    ended_ns: int
    function: str = ""
    task: int | None = None
    job: int | None = None


class Listener(Protocol):
    """Who is told of each task at once, beside those who read a journal later."""

    def context(self) -> Any:
        """Return what is to be kept of the moment in which a call is made (the caller's thread)."""

    def ended(self, row: Noted, context: Any, failure: Outcome | None) -> None:
        """Take note of the end of a task; if it is no value, with what came instead (any thread).

        To be quick, and to run nothing of the user's.
        """


class Journal:
    """What a pool writes down while it is recorded.

    Args:
        board: The pool's scoreboard, which has what only its workers know.
    """

    def __init__(self, board: Board | None) -> None:
        self.rows: deque[Noted] = deque(maxlen=0)
        self.spans: deque[NotedSpan] = deque(maxlen=MOST_SPANS)
        self.graves: deque[Grave] = deque(maxlen=MOST_GRAVES)
        self.readers: int = 0
        self.listener: Listener | None = None
        self._contexts: dict[int, Any] = {}  # by task, of calls that are one task
        self._contexts_of_jobs: dict[int, Any] = {}  # by the number of their callable
        # A pool on a cluster has none, and does not get to where it is read.
        self._board: Board = board  # type: ignore[assignment]
        self._submitters: dict[int, int] = {}
        self._sent: dict[int, int] = {}
        self._packed_bytes = 0
        self._long: list[tuple[int, int, bytes]] = []  # a heap, the shortest of the longest first
        self._tickets = itertools.count()
        self._span_tickets = itertools.count()
        self._looked = [0, 0]  # so many of either were taken only to see how far they are
        self._looking = threading.Lock()

    def counted(self) -> tuple[int, int]:
        """Return how many tasks and spans have been written in all, also those that were dropped."""
        with self._looking:
            seen = [next(self._tickets), next(self._span_tickets)]
            tasks, spans = (n - looked for n, looked in zip(seen, self._looked, strict=True))
            self._looked = [looked + 1 for looked in self._looked]
        return tasks, spans

    # Tasks on their way ---------------------------------------------------------------------------

    def submitted(self, tasks: Iterable[Task]) -> None:
        """Note who hands tasks in (the thread that does)."""
        me, listener = threading.get_native_id(), self.listener
        for task in tasks:
            self._submitters[task.id] = me
            if listener is not None and task.owner is None:
                self._contexts[task.id] = listener.context()

    def called_for(self, number: int) -> None:
        """Note the call of a job whose callable has a number of its own (the caller's thread)."""
        if self.listener is not None:
            self._contexts_of_jobs[number] = self.listener.context()

    def forgotten(self, number: int) -> None:
        """Note that a job with such a callable has ended."""
        self._contexts_of_jobs.pop(number, None)

    def sent(self, tasks: Sequence[Task], now_ns: int) -> None:
        """Note when tasks were sent to a worker."""
        self._sent.update((task.id, now_ns) for task in tasks)

    def direct(self, task: Task, now_ns: int) -> None:
        """Note that a caller has sent a task himself (that thread, when it is back)."""
        self.submitted((task,))
        self._sent[task.id] = now_ns

    # Ends of tasks --------------------------------------------------------------------------------

    def done(
        self, worker: Worker, tasks: Sequence[Task | None], replies: Sequence[Sequence[Any]]
    ) -> None:
        """Note the tasks of one message that are done; before their owners are told."""
        now = time.monotonic_ns()
        for task, reply in zip(tasks, replies, strict=True):
            if task is not None:
                attempts = task.attempts + 1
                self._note(task, "done", worker, reply[4], reply[5], reply[2], attempts, now)

    def ended(
        self,
        worker: Worker,
        task: Task,
        how: str,
        begun_ns: int,
        ended_ns: int,
        kind: int,
        body: Any,
    ) -> None:
        """Note one task of which its worker told the end; kind and body are its outcome."""
        now, size = time.monotonic_ns(), 0
        if kind != RAISED:
            size = plain.size(body) if kind == VALUE else len(body)
        failure = (kind, body) if kind > wire.OK_SEGMENT else None
        attempts = task.attempts + 1
        self._note(task, how, worker, begun_ns, ended_ns, size, attempts, now, failure)

    def ended_here(
        self,
        task: Task,
        how: str,
        error: BaseException,
        worker: Worker | None,
        is_counted: bool,
    ) -> None:
        """Note one task whose end the parent decided, while it still knows who held it.

        Args:
            task: The task.
            how: How it ended.
            error: What its result will raise.
            worker: Who held it, if anybody did.
            is_counted: Whether ``task.attempts`` counts the last attempt already.
        """
        now, failure = time.monotonic_ns(), (RAISED, error)
        entry = None
        if worker is not None and task.holder is not None:
            entry = self._board.entry(worker.record, task.seq)
        if worker is None or entry is None or entry.task != task.id:
            self._note(task, how, None, 0, 0, 0, max(1, task.attempts), now, failure)
            return
        ended = min(now, worker.ended_ns or now)
        attempts = max(1, task.attempts + (not is_counted))
        self._note(task, how, worker, entry.begun_ns, ended, 0, attempts, now, failure)

    def _note(
        self,
        task: Task,
        how: str,
        worker: Any,
        begun_ns: int,
        ended_ns: int,
        size: int,
        attempts: int,
        now_ns: int,
        failure: Outcome | None = None,
    ) -> None:
        called, boxed = 0, 0
        if worker is not None:
            called, boxed = self._measured(worker, task, begun_ns, ended_ns)
        number, job = task.id, task.job
        row = Noted(
            task=number,
            job=job.job_id,
            place=task.index,
            items=task.items,
            function=job.function_name(task),
            how=how,
            kind=task.kind,
            packed=self._keep(task, ended_ns - begun_ns),
            argument_bytes=task.weight,
            result_bytes=size,
            slot=None if worker is None else worker.slot,
            pid=None if worker is None else worker.pid,
            generation=0 if worker is None else worker.generation,
            attempts=attempts,
            submitted_ns=task.submitted_ns,
            submitter=self._submitters.pop(number, 0),
            sent_ns=self._sent.pop(number, 0),
            begun_ns=begun_ns,
            called_ns=called,
            ended_ns=ended_ns,
            boxed_ns=boxed,
            received_ns=now_ns,
            lane=0 if worker is None else worker.lane,
            node=None if worker is None else worker.node,
        )
        self.rows.append(row)
        next(self._tickets)
        if self.listener is not None:
            self.listener.ended(row, self._context_of(task), failure)

    def _context_of(self, task: Task) -> Any:
        if task.owner is None:
            return self._contexts.pop(task.id, None)
        return self._contexts_of_jobs.get(task.call)

    def _measured(
        self, worker: Worker, task: Task, begun_ns: int, ended_ns: int
    ) -> tuple[int, int]:
        """Return when a task was called and when its result was pickled; 0 where that was not measured."""
        words = self._board.words
        at = self._board.ring(worker.record) // 8 + task.seq % sb.RING * sb.ENTRY_WORDS
        try:
            if words[at + sb.E_SEQ] != task.seq + 1:
                return 0, 0
            called, boxed = words[at + sb.E_CALLED], words[at + sb.E_BOXED]
        except ValueError:  # the pool has ended while a caller took his result
            return 0, 0
        return (
            called if begun_ns <= called <= ended_ns else 0,
            boxed if boxed >= ended_ns else 0,
        )

    def long_arguments(self) -> dict[int, bytes]:
        """Return the pickled arguments of the tasks that ran longest, by task, also where they are long."""
        return {task: packed for _, task, packed in self._long.copy()}

    def _keep(self, task: Task, ran_ns: int) -> Any:
        """Return the arguments of a task if they may be kept; what is plain is kept by its task, too."""
        packed = task.payload
        if task.kind & wire.PLAIN:
            return packed
        if type(packed) is not bytes:
            return None
        if len(packed) > ARGUMENTS:
            self._keep_if_long(task.id, packed, ran_ns)
            return None
        if self._packed_bytes > ARGUMENTS_IN_ALL:
            return None
        self._packed_bytes += len(packed)
        return packed

    def _keep_if_long(self, task: int, packed: bytes, ran_ns: int) -> None:
        longest = self._long
        if len(longest) >= LONGEST and ran_ns <= longest[0][0]:
            return
        if len(packed) > arguments.PICKLE_BYTES:
            return
        # Each is one operation that compares integers only.
        if len(longest) < LONGEST:
            heapq.heappush(longest, (ran_ns, task, packed))
        else:
            heapq.heappushpop(longest, (ran_ns, task, packed))

    # What threads do ------------------------------------------------------------------------------

    def span(
        self,
        kind: str,
        begun_ns: int,
        function: str = "",
        task: int | None = None,
        job: int | None = None,
    ) -> None:
        """Note what the calling thread has done until now."""
        if not self.readers:
            return
        thread = threading.current_thread()
        native = thread.native_id or threading.get_native_id()
        ended = time.monotonic_ns()
        self.spans.append(
            NotedSpan(kind, native, thread.name, begun_ns, ended, function, task, job)
        )
        next(self._span_tickets)

    def drawing(self, values: Iterable[T], job: int) -> Iterator[T]:
        """Yield what an iterable gives, and note how long it took over each."""
        source = iter(values)
        while True:
            begun = time.monotonic_ns()
            try:
                value = next(source)
            except StopIteration:
                return
            self.span("iterable", begun, job=job)
            yield value

    def calling_back(self, job: Any) -> None:
        """Run a job's callback, and note how long it took (callback thread)."""
        names = job.callback_names
        begun = time.monotonic_ns()
        job.run_callback()
        # Whether it was the callback or the error callback is known now.
        function = names[0] if job._has_value() else names[1]
        if function:
            self.span("callback", begun, function, job.task_id, job.job_id)


def unpickling(
    journal: Journal | None,
    job: int,
    task: int | None,
    rebuild: Callable[..., T],
    *arguments: Any,
) -> T:
    """Have results rebuilt, and note how long it took if somebody records (the thread that asks)."""
    if journal is None:
        return rebuild(*arguments)
    begun = time.monotonic_ns()
    try:
        return rebuild(*arguments)
    finally:
        journal.span("unpickling", begun, task=task, job=job)


def join(engine: LocalEngine, most: int) -> Journal:
    """Have a pool keep a journal for one more reader, or share the one that it keeps already."""
    with _switching:
        journal: Journal = engine.collector.journal or engine.new_journal()
        if not journal.readers:
            journal.rows = deque(maxlen=most)
        journal.readers += 1
        engine.collector.journal = journal
    return journal


def leave(engine: LocalEngine, journal: Journal) -> None:
    """Have one reader less; what he has read of it stays as it was."""
    with _switching:
        journal.readers -= 1
        if not journal.readers:
            journal.rows = deque(maxlen=0)
        _end_if_unused(engine, journal)


def listen(engine: LocalEngine, listener: Listener | None) -> None:
    """Have somebody told of a pool's tasks from now on, in the place of who was told; None: nobody."""
    with _switching:
        journal = engine.collector.journal or engine.new_journal()
        journal.listener = listener
        engine.collector.journal = journal
        _end_if_unused(engine, journal)


def _end_if_unused(engine: LocalEngine, journal: Journal) -> None:
    if not journal.readers and journal.listener is None and engine.collector.journal is journal:
        engine.collector.journal = None


_switching = threading.Lock()
