"""Feeding: from an iterable to tasks, no further ahead of the workers than is good for memory.

The code here runs the user's: the iterable, and pickling. So it runs in the caller (``map``), or on an
``iterable`` thread (``imap``, and the rest of a long ``map_async``), never on a thread of the engine.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from glasspool import batching
from glasspool.batching import AHEAD_BYTES
from glasspool.engines.local import payload, plain, wire
from glasspool.engines.local.outcome import RAISED
from glasspool.engines.local.recurring import Recurring
from glasspool.engines.local.scarcity import no_thread
from glasspool.engines.local.workers import new_thread
from glasspool.errors import TaskExit
from glasspool.ledger import Part
from glasspool.results import TASK_BYTES, IMapJob, MapResult, Room

if TYPE_CHECKING:
    from glasspool.engines.base import Engine
    from glasspool.engines.local.callables import Known
    from glasspool.options import Policy

BufferSize: TypeAlias = "int | Literal['auto'] | None"
"""How many tasks an ``imap`` may be ahead of its reader: so many, as many as is good, or any number."""

GROUP = 64
"""So many tasks are handed in together; the first groups are smaller, to get the workers going."""

CONTAINERS = frozenset({list, tuple, range, str, bytes, bytearray, dict, set, frozenset, deque})
"""Iterables that give the next item at once. Only their items may wait for others of their group: what
another iterable has given is handed in before it is asked for the next, which may block it."""


class Feed:
    """One job's tasks, made one after the other. Used by one thread at a time."""

    state: str = "running your iterable"
    """What the thread does that makes the tasks, for views."""

    def __init__(
        self,
        engine: Engine,
        job: MapResult[Any] | IMapJob,
        known: Known,
        mode: int,
        values: Iterator[Any],
        size: int,
        in_groups: bool,
        policy: Policy | None = None,
        buffersize: BufferSize = None,
    ) -> None:
        self._engine = engine
        self._policy = policy
        self._job = job
        self._next_id = engine.next_id
        self._number = known.number
        self._kind = mode | (known.flags & wire.BY_VALUE)
        self._mode = mode
        self._values = values
        self._size = size
        self._index = 0
        self.ident: int = threading.get_ident()  # of the thread that makes the tasks
        self._bytes = 0
        # So many bytes may be ahead; but there is always a task for each worker, and one more.
        self._ahead = AHEAD_BYTES
        self._group: list[Part] = []
        self._group_size = 1
        self._group_limit = GROUP if in_groups else 1
        # Items that nobody gives at the moment cannot be others than they were.
        self._recurring = Recurring() if in_groups else None
        self._tasks = job._tasks if isinstance(job, MapResult) else None
        self._buffersize = buffersize
        # The job, if how far it is drawn depends on its reader.
        self._read: IMapJob | None = None
        if isinstance(job, IMapJob) and buffersize is not None:
            self._read = job
        # Tasks below this index may be drawn without a look at the reader.
        self._draw_until: float = 0 if self._read is not None else math.inf
        engine.collector.begin_feed(self, job)

    @property
    def made(self) -> int:
        """How many tasks have been made."""
        return self._index

    def run(self, may_wait: bool = True) -> bool:
        """Make tasks until the values are used up (True), or, if it may not wait, until it should.

        Raises:
            BaseException: What the iterable raised. What was drawn before is on its way.
        """
        try:
            while True:
                self._make_rows()
                if self._make_some():
                    return True
                self._hand_in()
                if not may_wait:
                    return False
                self._wait_for_room()
        finally:
            self._hand_in()

    def _make_some(self) -> bool:
        """Make tasks until the values are used up, or nobody wants them (True), or until it should wait."""
        make, job, collector = self._make, self._job, self._engine.collector
        chunks = self._chunks()
        if collector.journal is not None and self._group_limit == 1:
            chunks = collector.journal.drawing(chunks, job.job_id)
        for value in chunks:
            if job._aborted or collector.stopped:
                return True
            make(value)
            is_at_limit = self._index >= self._draw_until
            is_ahead = is_at_limit or self._bytes - job._settled_bytes > self._ahead
            if is_ahead and self._is_far_ahead():
                return False
        return True

    def finish(self, raised: bool = False) -> int:
        """Say that no more tasks will come (and that the caller knows why); return how many came."""
        collector, job = self._engine.collector, self._job
        if isinstance(job, MapResult):
            missing = len(job._tasks) - self._index
            if missing > 0:
                collector.mailbox.put(lambda: job.cut_short(missing, raised))
        collector.end_feed(self)
        return self._index

    def end_now(self) -> bool:
        """Make the rest for a signal handler that interrupted this feed; False if it cannot be done."""
        return False

    def run_in_thread(self, at_end: Callable[[Feed, BaseException | None], None]) -> None:
        """Make the rest of the tasks on an ``iterable`` thread."""
        thread = new_thread(
            lambda: self._run_thread(at_end, thread), f"{self._engine.name} iterable"
        )
        self._engine.feeders[thread] = self
        self.ident = 0
        # Not here: a signal handler that raises inside Thread.start would leave a broken thread.
        self._engine.collector.mailbox.put(lambda: self._start(thread, at_end))

    def _start(
        self, thread: threading.Thread, at_end: Callable[[Feed, BaseException | None], None]
    ) -> None:
        try:
            thread.start()
        except RuntimeError as error:
            self._engine.feeders.pop(thread, None)
            at_end(self, no_thread(error, "the iterable"))

    def _run_thread(
        self, at_end: Callable[[Feed, BaseException | None], None], thread: threading.Thread
    ) -> None:
        from glasspool.engines.local import kernel

        kernel.name_this_thread(self._engine.os_name("iterable"))
        self.ident = threading.get_ident()
        error: BaseException | None = None
        try:
            self.run()
        except Exception as raised:
            error = raised
        except BaseException as raised:
            error = TaskExit(f"the iterable raised {type(raised).__name__}")
            error.__cause__ = raised
        finally:
            self._engine.feeders.pop(thread, None)
            at_end(self, error)

    def _chunks(self) -> Iterable[Any]:
        if self._mode == wire.SINGLE:
            return self._values
        return iter(lambda: tuple(itertools.islice(self._values, self._size)), ())

    def _make_rows(self) -> None:
        """Make tasks of the values of a finished container, as long as they are plain and may be drawn.

        As ``_make`` does it one by one; here every line counts.
        """
        if self._mode != wire.SINGLE or self._group_limit == 1:
            return
        job, collector, next_id = self._job, self._engine.collector, self._next_id
        number, kind, policy = self._number, self._kind | wire.PLAIN, self._policy
        is_plain, weight = plain.is_plain, plain.WEIGHT
        while not (job._aborted or collector.stopped):
            start = self._index
            is_at_limit = start >= self._draw_until
            is_ahead = is_at_limit or self._bytes - job._settled_bytes > self._ahead
            if is_ahead and self._is_far_ahead():
                return
            most = min(self._group_size, self._draw_until - start)
            values = list(itertools.islice(self._values, int(most)))
            if not all(map(is_plain, values)):
                self._values = itertools.chain(values, self._values)
                return
            if not values:
                return
            now = time.monotonic_ns()
            group = [
                Part(next_id(), job, index, 1, number, kind, value, weight, now, policy)
                for index, value in enumerate(values, start)
            ]
            # Named and handed in at once, in the order in which _make does it.
            self._index = start + len(group)
            if self._tasks is not None:
                self._tasks[start : self._index] = group
            self._bytes += len(group) * (weight + TASK_BYTES)
            self._group = group
            self._hand_in()
            self._group_size = min(self._group_limit, self._group_size * 2)

    def _make(self, value: Any) -> None:
        is_single = self._mode == wire.SINGLE
        if is_single and plain.is_plain(value):
            task = self._task(1, wire.PLAIN, value, plain.WEIGHT)
        else:
            items = 1 if is_single else len(value)
            journal = self._engine.collector.journal
            begun_ns = 0 if journal is None else time.monotonic_ns()
            try:
                body, by_value = payload.dump_any(value, self._recurring)
            except Exception as error:
                if payload.was_interrupted(value):
                    raise
                from glasspool import unpicklable  # not before something cannot be pickled

                told = unpicklable.explained(error, self._named(value))
                task = self._task(items, 0, b"", 0)
                self._hand_in()
                self._engine.submit_failed(task, told)
                return
            kind = wire.BY_VALUE if by_value else 0
            if isinstance(body, payload.Parcel):
                kind |= wire.SEGMENT
                self._ahead = max(self._ahead, self._engine.places * (len(body) + TASK_BYTES))
            task = self._task(items, kind, body, len(body))
            if journal is not None:
                name = task.job.function_name(task)
                journal.span("pickling", begun_ns, name, task.id, task.job.job_id)
        self._bytes += task.weight + TASK_BYTES
        group = self._group
        group.append(task)
        if len(group) >= self._group_size or task.kind & wire.SEGMENT:
            self._hand_in()  # at once, too, what takes its time to be copied
            self._group_size = min(self._group_limit, self._group_size * 2)

    def _named(self, value: Any) -> list[tuple[str, Any]]:
        """Return the items of the next task, with words for them."""
        items = (value,) if self._mode == wire.SINGLE else value
        at = self._items_made()
        return [(f"item {index} of the iterable", item) for index, item in enumerate(items, at)]

    def _items_made(self) -> int:
        return self._index * max(1, self._size)

    def _task(self, items: int, kind: int, body: Any, weight: int) -> Part:
        index = self._index
        self._index = index + 1
        task = Part(
            self._next_id(),
            self._job,
            index,
            items,
            self._number,
            self._kind | kind,
            body,
            weight,
            time.monotonic_ns(),
            self._policy,
        )
        if self._tasks is not None:
            self._tasks[index] = task
        return task

    def _hand_in(self) -> None:
        group, self._group = self._group, []
        if group:
            self._engine.submit_all(group)

    def _is_ended(self) -> bool:
        return self._job._aborted or self._engine.collector.stopped

    def _is_far_ahead(self) -> bool:
        if self._bytes - self._job._settled_bytes > self._ahead:
            return True
        if self._index < self._draw_until:
            return False
        job = self._reader()
        self._draw_until = math.inf if job is None else job.taken + self._window(job)
        return self._index >= self._draw_until

    def _reader(self) -> IMapJob | None:
        """Return the job if its reader bounds it; None if all may be drawn.

        Programs for the standard library's pool close and join it with an ``imap`` unread, or drop
        the iterator: that runs everything.
        """
        job = self._read
        if job is None or job.is_dropped or self._engine.collector.closing:
            return None
        return job

    def _window(self, job: IMapJob) -> int:
        if isinstance(self._buffersize, int):
            return self._buffersize
        pace = self._engine.collector.pace.get(self._number)
        return batching.window(pace, self._engine.places, job.taken, job.task_bytes)

    def _wait_for_room(self) -> None:
        """Wait until some more may be drawn: of the bytes half, of the window a part."""
        job = self._job
        bytes_ahead = self._ahead
        if bytes_ahead == AHEAD_BYTES and self._bytes - job._settled_bytes > AHEAD_BYTES:
            bytes_ahead //= 2
        while not self._is_ended():
            # First shown, then looked again: whoever makes room, drops the iterator, or ends or
            # closes the pool after that look finds it here.
            job._room = room = self._room_needed(bytes_ahead)
            if self._is_ended() or job.has_room(self._room_needed(bytes_ahead)):
                break
            # Woken by the end of a task, by the reader, or by what ends or drops the job.
            self.state = "waiting for the reader of your imap" if room.taken else "waiting for room"
            room.wait()
            del self.state
        job._room = None
        stall = self._engine.collector.stall
        if not stall.watching:
            stall.begin()  # it rests while all that is left is a reader who does not read

    def _room_needed(self, bytes_ahead: int) -> Room:
        job = self._reader()
        taken = 0 if job is None else self._index - batching.refill_at(self._window(job))
        return Room(self._bytes - bytes_ahead, taken)


def feed_here(feed: Feed, sync: bool) -> None:
    """Feed a map in the calling thread; if it need not wait for its end, the rest elsewhere."""
    try:
        done = feed.run(may_wait=sync)
    except BaseException:
        feed.finish(raised=True)
        raise
    if done:
        feed.finish()
    else:
        feed.run_in_thread(_end_of_map)


def _end_of_map(feed: Feed, error: BaseException | None) -> None:
    if error is not None:
        job, engine = feed._job, feed._engine
        engine.collector.mailbox.put(lambda: job.abort(error))
    feed.finish()


def feed_imap(feed: Feed) -> None:
    """Feed an ``imap`` on a thread of its own."""
    feed.run_in_thread(_end_of_imap)


def _end_of_imap(feed: Feed, error: BaseException | None) -> None:
    job, count = feed._job, feed._index
    if isinstance(job, IMapJob):
        if error is not None:
            if job._shown is not None:
                job._shown.tally.note_error(error)
            index, raised = count, (RAISED, error)
            feed._engine.collector.mailbox.put(lambda: job.settle_index(index, raised))
            count += 1
        feed._engine.collector.mailbox.put(lambda: job.set_length(count))
    feed.finish()
