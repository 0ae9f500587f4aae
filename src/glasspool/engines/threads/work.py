"""What threads run: an apply, or a part of a map, with the token that says who ends it.

Nothing is pickled: function and arguments are the caller's own objects, and so is what comes back.

Whoever takes the token out of a task ends it, and nobody else: the thread that ran it, or the supervisor
for a task that has run out of time or is cancelled. The list's ``pop`` is one step of the interpreter, so
no lock is needed, and a task ends exactly once.
"""

from __future__ import annotations

from _thread import allocate_lock
from collections.abc import Callable
from itertools import starmap
from typing import TYPE_CHECKING, Any, TypeVar

from glasspool import batching
from glasspool.engines.local import wire
from glasspool.engines.local.outcome import VALUE
from glasspool.engines.local.payload import callable_name
from glasspool.ledger import ENDED, OPEN, Part
from glasspool.results import TASK_BYTES, AsyncResult, IMapJob, MapResult

if TYPE_CHECKING:
    from glasspool.engines.local.outcome import Outcome
    from glasspool.engines.threads.engine import ThreadEngine
    from glasspool.ledger import Task
    from glasspool.options import Policy
    from glasspool.pool import Pool
    from glasspool.snapshot import TaskInfo

T = TypeVar("T")

_TOKEN = None

# Function and arguments lie in the payload, as they are.
AS_IS = wire.PLAIN | wire.INLINE
APPLY = wire.APPLY | wire.KEYWORDS | AS_IS
SINGLE = wire.SINGLE | AS_IS
CHUNK = wire.CHUNK | AS_IS
STARCHUNK = wire.STARCHUNK | AS_IS


def take(token: list[None]) -> bool:
    """Take the right to end a task; False if somebody else has it."""
    try:
        token.pop()
    except IndexError:
        return False
    return True


class ThreadResult(AsyncResult[T]):
    """The result of ``ThreadPool.apply_async``."""

    __slots__ = ("token",)

    _engine: ThreadEngine  # type: ignore[assignment]  # it has what a result needs of one

    def __init__(
        self,
        pool: Pool,
        engine: ThreadEngine,
        callback: Callable[[Any], object] | None,
        error_callback: Callable[[BaseException], object] | None,
        func: Callable[..., T],
        args: Any,
        kwds: Any,
        policy: Policy | None,
    ) -> None:
        call = (func, (args, kwds))
        super().__init__(pool, engine, callback, error_callback, 0, APPLY, call, 0, policy)  # type: ignore[arg-type]
        self.token: list[None] = [_TOKEN]

    def function_name(self, task: Task) -> str:
        """Return the name of what the task calls."""
        payload = self.payload
        if payload is not None:
            return callable_name(payload[0])
        return self._function or "?"

    def keep_name(self) -> None:
        """Let go of function and arguments; the function's name is kept for views."""
        payload, self.payload = self.payload, None
        if payload is not None:
            self._function = callable_name(payload[0])

    @property
    def info(self) -> TaskInfo:
        """What is known of the task: function, state, times and thread."""
        from glasspool.engines.threads import telling

        return telling.task_info(self)


class ThreadPart(Part):
    """One item of a map, or some of them."""

    __slots__ = ("token",)

    owner: ThreadMapResult[Any] | ThreadIMapJob

    def __init__(
        self,
        id: int,
        owner: Any,
        index: int,
        items: int,
        kind: int,
        payload: Any,
        policy: Policy | None,
        now_ns: int,
    ) -> None:
        super().__init__(id, owner, index, items, 0, kind, payload, 0, now_ns, policy)
        self.token: list[None] = [_TOKEN]

    def keep_name(self) -> None:
        """Let go of function and arguments: the job knows the name."""
        self.payload = None

    def notify(self) -> None:
        """Tell the job."""
        self.owner.settle_part(self)


class ThreadMapResult(MapResult[T]):
    """The result of ``ThreadPool.map_async`` and ``starmap_async``.

    Several threads count it down, one at a time: what other pools leave to their collector is done here by
    whoever ends a task, under the job's own lock, in which no code of the user's runs. ``_number_left``
    counts in chunks of the standard library's size, as programs that show a progress know it.
    """

    __slots__ = ("_chunk", "_items_left", "_lock", "_name")

    def __init__(
        self,
        pool: Pool,
        engine: Any,
        callback: Callable[[Any], object] | None,
        error_callback: Callable[[BaseException], object] | None,
        length: int,
        chunk: int,
        func: Callable[..., T],
    ) -> None:
        self._lock = allocate_lock()
        self._name = callable_name(func)
        self._chunk = chunk
        self._items_left = length
        super().__init__(pool, engine, callback, error_callback, length, chunk, False)
        self._tasks.clear()

    def function_name(self, task: Task) -> str:
        """Return the name of what a task calls."""
        return self._name

    def settle_part(self, task: ThreadPart) -> None:
        """Take the end of a part (any runner, supervisor)."""
        with self._lock:
            if self._shown is not None:
                self._shown.take((task,))
            if task.ended_as != VALUE and self._failure is None:
                self._failure = task.outcome
            self._count_down(task.items)

    def _count_down(self, items: int) -> None:
        left = self._items_left = self._items_left - items
        self._number_left = -(-left // self._chunk)
        if not left and not self._aborted:
            if self._shown is not None:
                self._shown.end()
            self._complete()

    def abort(self, error: BaseException) -> None:
        """End the job: the rest of its tasks will not come (supervisor)."""
        with self._lock:
            super().abort(error)

    def cut_short(self, missing: int, raised: bool) -> None:
        """Take note that so many items will never come (the caller)."""
        super().cut_short(0, raised)
        with self._lock:
            self._count_down(missing)

    def _join_parts(self) -> Outcome:
        if self._failure is not None:
            return self._failure
        values: list[Any] = []
        for task in self._tasks:
            if task is None or task.ended_as == OPEN:
                raise ValueError(f"{self!r} not ready")
            value = task.outcome
            if self._value is not None:
                return (
                    self._value
                )  # another thread has put all together, and may have dropped this part
            if task.kind == SINGLE:
                values.append(value)
            else:
                values.extend(value)
        return VALUE, values

    def _drop_parts(self) -> None:
        """Let go of the values that have been put together: there is the list of them now."""
        for task in self._tasks:
            if task is not None and task.kind != SINGLE:
                task.outcome = None

    @property
    def info(self) -> TaskInfo:
        """What is known of the job; ``.tasks`` has its chunks."""
        from glasspool.engines.threads import telling

        return telling.job_info(self, self._tasks, self._is_set, self._failure)


class ThreadIMapJob(IMapJob):
    """What is behind the iterator of ``ThreadPool.imap``. Its lock is as a map's."""

    __slots__ = ("_lock", "_name", "pace")

    def __init__(self, pool: Pool, engine: Any, ordered: bool, func: Callable[..., Any]) -> None:
        self._lock = allocate_lock()
        self._name = callable_name(func)
        self.pace: float | None = None
        super().__init__(pool, engine, ordered)

    def function_name(self, task: Task) -> str:
        """Return the name of what a task calls."""
        return self._name

    def settle_part(self, task: ThreadPart) -> None:
        """Take the end of a task (any runner, supervisor)."""
        with self._lock:
            if self._shown is not None:
                self._shown.take((task,))
            if task.begun_ns:
                self.pace = batching.new_pace(self.pace, task.ended_ns - task.begun_ns)
            self._settled_bytes += TASK_BYTES
            is_value = task.ended_as == VALUE
            self._place(task.index, (VALUE, task.outcome) if is_value else task.outcome)
            self._tell()
            if is_value:
                task.outcome = None  # it is the reader's now

    def settle_index(self, index: int, outcome: Outcome) -> None:
        """Take what became of one place in the row (supervisor)."""
        with self._lock:
            super().settle_index(index, outcome)

    def set_length(self, length: int) -> None:
        """Say how many tasks there are in all (supervisor)."""
        with self._lock:
            super().set_length(length)

    def abort(self, error: BaseException) -> None:
        """End the job: the rest of its tasks will not come to the reader (supervisor)."""
        with self._lock:
            super().abort(error)

    def drop(self) -> None:
        """Forget what nobody will read (supervisor)."""
        with self._lock:
            super().drop()


def perform(task: ThreadResult[Any] | ThreadPart) -> Any:
    """Call the user's function for a task, and return its value, or the values of a chunk."""
    kind = task.kind
    func, body = task.payload
    if kind == APPLY:
        return func(*body[0], **body[1])
    if kind == SINGLE:
        return func(body)
    return list(map(func, body) if kind == CHUNK else starmap(func, body))


def settle(task: Any, kind: int, body: Any, runner: Any, begun_ns: int, ended_ns: int) -> None:
    """End a task. Whoever calls this has taken its token."""
    task.keep_name()
    task.state = ENDED
    task.settle(kind, body, runner, begun_ns, ended_ns)
