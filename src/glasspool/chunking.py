"""Default chunks: how ``map`` is cut when nobody says into what.

The standard library cuts the items into four chunks for each worker, whatever they last; then much can
wait behind one long item, and at the end one worker may have a chunk that lasts while the others have
nothing. Here chunks are made while the first ones run, of as many items as their measured pace says
(``batching.chunk``): long enough not to count, short before a long item, and smaller towards the end.

Owns: a job's chunks while they are made (``GuidedFeed``), and their outcomes (``GuidedMapResult``).
Threads: none of its own. The caller of a synchronous call has nothing else to do: it makes some chunks,
puts together what has come back, waits until some have ended, and makes more. An asynchronous call returns
at once, so all chunks are made before, from what is known then.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from glasspool import batching
from glasspool.batching import AHEAD_BYTES
from glasspool.engines.local import wire
from glasspool.engines.local.outcome import RAISED, VALUE, Outcome, rebuild
from glasspool.feeding import CONTAINERS, GROUP, Feed, feed_here
from glasspool.ledger import OPEN
from glasspool.results import MapResult, Room, _measure, wait_as_caller

if TYPE_CHECKING:
    from glasspool.engines.base import Engine
    from glasspool.engines.local.callables import Known
    from glasspool.ledger import Part, Task
    from glasspool.options import Policy
    from glasspool.pool import Pool

T = TypeVar("T")

SLICED = frozenset({list, tuple, range})
"""Sequences of which a slice is as good as its items, one by one, and much faster to have."""

LARGE = 2048
"""Chunks of more items than this are handed in at once: to make one takes as long as to hand it in."""


TOGETHER_NS = 100_000
"""Smaller ones are handed in together that take no longer than this to make."""


class Place(Room):
    """What a guided feed waits for.

    Attributes:
        made: How many chunks have been made.
        unsent: Of these at most so many may still wait for a worker.
        ended: At least so many must have ended.
    """

    __slots__ = ("ended", "made", "unsent")

    def __init__(self, settled_bytes: int, made: int, unsent: int, ended: int) -> None:
        super().__init__(settled_bytes, 0)
        self.made: int = made
        self.unsent: int = unsent
        self.ended: int = ended

    def again(self) -> Place:
        """Return the same, for one more wait: a switch is turned once."""
        return Place(self.settled_bytes, self.made, self.unsent, self.ended)


class GuidedMapResult(MapResult[T]):
    """The result of a map whose chunks are made while it runs.

    ``_number_left`` counts in chunks of the standard library's size, as programs that show a progress
    know it; it is 0 exactly when all items have ended.
    """

    __slots__ = (
        "_at",
        "_chunk",
        "_drains",
        "_ended",
        "_gathers",
        "_items_left",
        "_pace",
        "_values",
    )

    def __init__(
        self,
        pool: Pool,
        engine: Engine,
        callback: Callable[[Any], object] | None,
        error_callback: Callable[[BaseException], object] | None,
        length: int,
        chunk: int,
    ) -> None:
        super().__init__(pool, engine, callback, error_callback, length, chunk, False)
        self._tasks.clear()  # the feed adds them as it makes them
        self._chunk = chunk
        self._items_left = length
        self._ended = 0  # chunks
        self._pace: float | None = None
        self._drains = False
        # Whether one caller has this, who gathers; what he has: the values of the first so many chunks.
        self._gathers = False
        self._values: list[Any] = []
        self._at = 0

    # The collector's ------------------------------------------------------------------------------

    def settle_row(self, tasks: Sequence[Task]) -> None:
        """Take the ends of some chunks (collector)."""
        items = 0
        for task in tasks:
            items += task.items
            if task.begun_ns:
                measured = (task.ended_ns - task.begun_ns) / task.items
                self._pace = batching.new_item_pace(self._pace, measured)
        if self._pace is not None:
            self._engine.collector.item_pace[tasks[0].call] = self._pace
        self._ended += len(tasks)
        self._count_down(items, len(tasks))  # these chunks are counted off now
        super().settle_row(tasks)

    def _count_down(self, items: int, more: int) -> None:
        left = self._items_left - items
        self._number_left = -(-left // self._chunk) + more
        self._items_left = left

    def has_room(self, room: Room) -> bool:
        """Tell whether the feed has what it waits for (collector, feed)."""
        if isinstance(room, Place) and (
            self._ended < room.ended or self.unsent(room.made) > room.unsent
        ):
            return False
        return super().has_room(room)

    def unsent(self, made: int) -> int:
        """Return how many of so many chunks wait for a worker (at most: others' tasks are not told apart)."""
        return made - self._ended - self._engine.collector.ledger.sent

    def abort(self, error: BaseException) -> None:
        """End the job: the rest of its tasks will not come (collector).

        If the pool is being drained they do come: as what was not begun.
        """
        if not self._aborted:
            self._drains = self._engine.collector.draining
        super().abort(error)

    def cut_short(self, missing: int, raised: bool) -> None:
        """Take note that so many items will never come (collector)."""
        super().cut_short(0, raised)
        self._count_down(missing, 0)
        if not self._number_left:
            self._let_go()

    # The callers' ---------------------------------------------------------------------------------

    def gather(self) -> None:
        """Put together what has come back so far (the caller of a synchronous call)."""
        begin = self._at
        self._values, self._at, _ = self._gathered(self._values, begin)
        for task in self._tasks[begin : self._at]:
            if task is not None and task.ended_as != VALUE:
                task.outcome = (VALUE, None, *_measure(*task.outcome))

    def _gathered(self, values: list[Any], at: int) -> tuple[list[Any], int, Outcome | None]:
        """Put together what has come back from a place on: values, next place, what was raised."""
        tasks = self._tasks
        while at < len(tasks) and self._failure is None:
            task = tasks[at]
            if task is None or task.ended_as == OPEN:
                break
            value = task.outcome
            if self._value is not None:
                break  # another thread has put all together, and may have dropped this part
            if task.ended_as != VALUE:
                kind, value = outcome = rebuild(value)
                if kind == RAISED:
                    return values, at, outcome
            if task.kind & wire.MODE == wire.SINGLE:
                values.append(value)
            else:
                values.extend(value)
            at += 1
        return values, at, None

    def _drop_parts(self) -> None:
        if not self._gathers:  # else they go with the call, in a moment
            super()._drop_parts()

    def _join_parts(self) -> Outcome:
        if self._failure is not None:
            return rebuild(self._failure)
        if self._items_left:
            raise ValueError(f"{self!r} not ready")
        # What has been gathered is the one caller's of a synchronous call; else any thread may ask.
        start = (self._values, self._at) if self._gathers else ([], 0)
        values, _, raised = self._gathered(*start)
        if self._value is not None:
            return self._value  # of another thread, which has dropped the parts
        return raised or (VALUE, values)

    def takes_long(self, items: int) -> bool:
        """Tell whether so many items take so long that to wake up in between costs nothing."""
        return items * (self._pace or 0.0) > batching.CHUNK_NS * self._engine.places


class GuidedFeed(Feed):
    """A map's chunks, made as the items' pace is found out. Used by one thread at a time.

    Args:
        engine: Where the tasks go.
        job: Their job.
        known: What they call.
        star: Whether each item is several arguments.
        items: What is to be cut; it has a length.
        policy: What the tasks are allowed.
        waits: Whether the thread that makes them waits for the end of the job in any case.
    """

    _job: GuidedMapResult[Any]

    def __init__(
        self,
        engine: Engine,
        job: GuidedMapResult[Any],
        known: Known,
        star: bool,
        items: Any,
        policy: Policy | None,
        waits: bool,
    ) -> None:
        self._items = items if type(items) in SLICED else None
        in_groups = type(items) in CONTAINERS
        self._star = wire.STARCHUNK if star else 0
        values = iter(items)
        super().__init__(engine, job, known, self._star or wire.CHUNK, values, 0, in_groups, policy)
        self._flags = self._kind & ~wire.MODE
        self._tasks = None  # the job's list is shorter: see _task
        self._length = job._length
        self._cut = 0  # items that are in tasks
        self._waits = waits
        self._recalled = engine.collector.item_pace.get(known.number)
        # Chunks below this index may be made without a look at how far ahead of the workers we are.
        self._draw_until = batching.most_unsent(engine.places, True) if waits else math.inf
        job._gathers = waits
        self._rests = False

    def _chunks(self) -> Iterator[Any]:
        # Where we are is in attributes: a signal handler may have the rest made (end_now), or another
        # thread go on (run_in_thread).
        while self._cut < self._length:
            size = self._chunk_size()
            chunk = self._next_items(size)
            if not chunk:
                return
            self._group_size = 1 if size >= LARGE or self._is_time_to_hand_in() else GROUP
            self._mode = self._star or (wire.SINGLE if size == 1 else wire.CHUNK)
            self._kind = self._flags | self._mode
            yield chunk[0] if self._mode == wire.SINGLE else chunk

    def _make_rows(self) -> None:
        """Make nothing before its size is decided."""

    def _is_time_to_hand_in(self) -> bool:
        # To wake the thread that sends costs as much as to make several chunks of a few items.
        group = self._group
        if self._group_limit == 1:
            return True
        return bool(group) and time.monotonic_ns() - group[0].submitted_ns > TOGETHER_NS

    def _next_items(self, size: int) -> Any:
        if self._items is None:
            return tuple(itertools.islice(self._values, size))
        chunk = self._items[self._cut : self._cut + size]
        # A range is a short text however long it is, but of a few numbers not a faster one.
        return tuple(chunk) if type(chunk) is range and size < LARGE else chunk

    def _chunk_size(self) -> int:
        job, workers = self._job, self._engine.places
        left = self._length - self._cut
        if job._pace is None:
            return batching.first_chunk(left, workers, job._chunk, self._recalled)
        return batching.chunk(left, workers, job._chunk, job._pace)

    def _task(self, items: int, kind: int, body: Any, weight: int) -> Part:
        task = super()._task(items, kind, body, weight)
        self._job._tasks.append(task)
        self._cut += items
        return task

    def _items_made(self) -> int:
        return self._cut

    def finish(self, raised: bool = False) -> int:
        """Say that no more tasks will come (and that the caller knows why); return how many came."""
        collector, job = self._engine.collector, self._job
        missing, self._length = self._length - self._cut, self._cut
        if missing:
            collector.mailbox.put(lambda: job.cut_short(missing, raised))
        collector.end_feed(self)
        return self._index

    def run(self, may_wait: bool = True) -> bool:
        """Make chunks until the items are used up (True), or, if it may not wait, until it should."""
        is_done = super().run(may_wait)
        if self._job._drains and not self._engine.collector.stopped:
            # The pool gives back what it has not begun: that takes tasks. They wait for nothing.
            for value in self._chunks():
                self._make(value)
            self._hand_in()
            return True
        return is_done

    def end_now(self) -> bool:
        """Make the rest for a signal handler that is about to wait for the pool's end.

        The handler has interrupted this feed, so nobody else would. False if that was in the middle of
        making a chunk.
        """
        if not self._rests:
            return False
        self._waits = False
        try:
            super().run()
        finally:
            self.finish()
        return True

    # How far ahead --------------------------------------------------------------------------------

    def _is_far_ahead(self) -> bool:
        if self._bytes - self._job._settled_bytes > AHEAD_BYTES:
            return True
        if not self._waits or self._cut == self._length or self._is_crowded():
            return False
        if self._job._pace is not None and not self._job.takes_long(self._length - self._cut):
            return False  # it will all be done before the pace could change
        most, ended = self._most_unsent(), self._job._ended
        self._draw_until = ended + most
        return self._index >= self._draw_until and self._job.unsent(self._index) >= most

    def _is_crowded(self) -> bool:
        """Tell whether tasks of others wait, too: what we hold back now would come after them."""
        in_line = self._engine.collector.in_line()
        return in_line > self._index - self._job._ended

    def _most_unsent(self) -> int:
        is_known = self._job._pace is not None or self._recalled is not None
        return batching.most_unsent(self._engine.places, is_known)

    def _wait_for_room(self) -> None:
        """Wait until workers have half of what may be made ahead, and something has come back."""
        if not self._waits:
            super()._wait_for_room()
            return
        job = self._job
        is_full = self._bytes - job._settled_bytes > AHEAD_BYTES
        settled_bytes = self._bytes - (AHEAD_BYTES // 2 if is_full else AHEAD_BYTES)
        job.gather()
        self._wait(Place(settled_bytes, self._index, self._most_unsent() // 2, 1))

    def gather_rest(self) -> None:
        """Put together what comes back, until all has or what is left will be here at once."""
        job = self._job
        while job.takes_long(job._items_left) and not self._is_ended():
            job.gather()
            self._wait(Place(0, 0, 0, (job._ended + self._index + 1) // 2))

    def _wait(self, place: Place) -> None:
        job = self._job
        while not self._is_ended():
            # First shown, then looked: whoever makes room, or ends the job or the pool, after that
            # look finds it here.
            job._room = place
            if self._is_ended() or job.has_room(place):
                break
            self._rests = True
            try:
                wait_as_caller(self._engine, place, None, "waiting in get()")
            finally:
                self._rests = False
            place = place.again()
        job._room = None


def feed_guided(feed: GuidedFeed, sync: bool) -> None:
    """Feed a map whose chunks are not given, in the calling thread."""
    feed_here(feed, sync)
    if sync:
        feed.gather_rest()
