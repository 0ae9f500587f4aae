"""What ``Pool.drain`` gives back: the calls that no worker had begun."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from glasspool import seeding
from glasspool.engines.local import payload, plain, wire
from glasspool.engines.local.carried import bare

if TYPE_CHECKING:
    from glasspool.engines.local.callables import Known
    from glasspool.ledger import Task
    from glasspool.snapshot import TaskInfo


@dataclass(frozen=True, slots=True, eq=False)
class Undone:
    """A task that the pool took and did not begin before it ended.

    Attributes:
        info: Which task of which job it is: ``id``, ``function``, ``index`` in its job, ``items``.
        result: What the call had returned: an ``AsyncResult``, ``MapResult`` or ``IMapIterator``. It
            ends with ``TaskCancelled``.
    """

    info: TaskInfo
    result: Any
    _kind: int = field(repr=False)
    _known: Known | None = field(repr=False)
    _payload: Any = field(repr=False)

    def calls(self) -> list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]]:
        """Return function, arguments and keywords of each call; a chunk of a map has several.

        They are copies, rebuilt from what would have travelled to a worker. To have one done after
        all: ``other_pool.apply_async(function, args, kwds)``.

        Raises:
            Exception: Function or arguments cannot be rebuilt.
        """
        values = self._payload if self._kind & wire.PLAIN else _load(self._payload)
        if self._kind & wire.INLINE:
            function, values = values
        else:
            function = _load(self._known.body) if self._known is not None else None
        function = bare(function)
        mode = self._kind & wire.MODE
        if mode == wire.APPLY:
            args, kwds = values if self._kind & wire.KEYWORDS else (values, {})
            return [(function, tuple(args), dict(kwds))]
        if mode == wire.SINGLE:
            values = [(values,)]
        elif mode == wire.CHUNK:
            values = [(item,) for item in values]
        return [(function, seeding.user_arguments(tuple(item)), {}) for item in values]


def undone(task: Task, known: Known | None) -> Undone:
    """Note a task that is about to be ended without having begun."""
    from glasspool.snapshot import TaskInfo

    job = task.job
    info = TaskInfo(
        id=task.id,
        job=job.job_id,
        function=job.function_name(task),
        state="cancelled",
        index=task.index,
        items=task.items,
        attempts=task.attempts,
        argument_bytes=plain.argument_bytes(task),
    )
    return Undone(info, job, task.kind, known, task.payload)


def _load(body: Any) -> Any:
    if isinstance(body, payload.Parcel):
        return body.load()
    return payload.load(body)
