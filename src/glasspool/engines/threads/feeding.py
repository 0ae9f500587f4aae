"""From an iterable to the tasks of threads: nothing is pickled, only cut into parts."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from glasspool import batching
from glasspool.engines.local import wire
from glasspool.engines.threads import work
from glasspool.engines.threads.work import ThreadIMapJob, ThreadMapResult, ThreadPart
from glasspool.feeding import BufferSize, Feed

if TYPE_CHECKING:
    from glasspool.engines.threads.engine import ThreadEngine
    from glasspool.options import Policy
    from glasspool.results import IMapJob

MOST_ITEMS = 256
"""A chunk that nobody asked for has at most so many items: threads mostly wait, and not all equally long."""


class _Known(NamedTuple):
    """A callable, which needs no number here."""

    number: int = 0
    flags: int = 0


class ThreadFeed(Feed):
    """The tasks of an ``imap``, made one after the other on a thread of its own."""

    _engine: ThreadEngine  # type: ignore[assignment]

    def __init__(
        self,
        engine: ThreadEngine,
        job: ThreadIMapJob,
        func: Callable[..., Any],
        mode: int,
        values: Iterator[Any],
        size: int,
        policy: Policy | None,
        buffersize: BufferSize,
    ) -> None:
        self._func = func
        super().__init__(
            engine,  # type: ignore[arg-type]  # it has what a feed needs of one
            job,
            _Known(),  # type: ignore[arg-type]
            mode,
            values,
            size,
            False,
            policy,
            buffersize,
        )

    def _make_rows(self) -> None:
        """Make nothing in rows: there is nothing to be saved."""

    def _make(self, value: Any) -> None:
        index = self._index
        self._index = index + 1
        task = ThreadPart(
            self._next_id(),
            self._job,
            index,
            1 if self._mode == wire.SINGLE else len(value),
            self._mode | work.AS_IS,
            (self._func, value),
            self._policy,
            time.monotonic_ns(),
        )
        self._engine.submit(task)

    def _window(self, job: IMapJob) -> int:
        if isinstance(self._buffersize, int):
            return self._buffersize
        pace = job.pace if isinstance(job, ThreadIMapJob) else None
        return batching.window(pace, self._engine.size, job.taken, job.task_bytes)


def feed_map(
    engine: ThreadEngine,
    job: ThreadMapResult[Any],
    func: Callable[..., Any],
    star: bool,
    items: Any,
    size: int,
    policy: Policy | None,
) -> None:
    """Cut a map's items into chunks, and hand them all in."""
    mode = work.STARCHUNK if star else (work.SINGLE if size == 1 else work.CHUNK)
    values, next_id, add = iter(items), engine.next_id, job._tasks.append
    chunks: Iterator[Any] = values
    if mode != work.SINGLE:
        chunks = iter(lambda: tuple(itertools.islice(values, size)), ())
    made: list[ThreadPart] = []
    drawn, now = 0, time.monotonic_ns()
    try:
        for index, chunk in enumerate(chunks):
            count = 1 if mode == work.SINGLE else len(chunk)
            drawn += count
            if drawn > job._length:
                break  # it told a smaller len()
            made.append(ThreadPart(next_id(), job, index, count, mode, (func, chunk), policy, now))
    except BaseException as error:
        job.abort(error)
        raise
    for part in made:
        add(part)
    missing = job._length - sum(part.items for part in made)
    if missing > 0:
        job.cut_short(missing, False)
    engine.submit_all(made)
