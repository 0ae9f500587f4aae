"""What the parent does with the segments of its tasks, and with those of their results.

Here, and not in the collector, as callers who have a worker lent do the same (``direct``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from glasspool.engines.local import wire
from glasspool.engines.local.payload import Parcel

if TYPE_CHECKING:
    from glasspool.engines.local.workers import Worker
    from glasspool.ledger import Task


def note_gone(task: Task) -> None:
    """Note what the reply to a task says: its worker has no view of the arguments any more."""
    if isinstance(task.payload, Parcel):
        task.payload.is_gone = True


def take_returned(worker: Worker) -> list[bytes]:
    """Return the parts of a message that tell a worker which of its segments nobody views any more.

    If the message is not sent after all, the worker has some memory less to use again.
    """
    parts: list[bytes] = []
    for _ in range(len(worker.returned)):  # others append at any moment
        number = worker.returned.popleft()
        flags = wire.USABLE if number > 0 else 0
        parts.append(wire.REQUEST.pack(wire.RETURN, flags, 0, abs(number), 0, 0))
    return parts
