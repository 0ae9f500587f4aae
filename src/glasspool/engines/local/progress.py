"""``report_progress``: how far a task is, in its own words, on the scoreboard.

Some stores to shared memory, by the worker that runs the task; nobody is told. A view finds it there.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glasspool.engines.local.worker import Worker

here: Worker | None = None
"""The worker that this process is."""

_NOT_SAID = math.nan


def report_progress(done: float, total: float | None = None) -> None:
    """Say how far the calling task is: so much is done, of so much. Views show it.

    Outside a task it does nothing. It costs about a microsecond, so it may be called in a loop. In a map, it
    is said of the item that runs. Any thread of a worker may call it, and speaks for the task that runs then.

    Args:
        done: How much is done, in any unit; 0 or more.
        total: How much there is to do, in the same unit. None: that is not known.

    Raises:
        TypeError: One of them is no number.
        ValueError: One of them is negative, infinite or not a number (NaN).
    """
    if type(done) is not int and type(done) is not float:
        done = _as_float("done", done)
    if total is None:
        total = _NOT_SAID
    else:
        if type(total) is not int and type(total) is not float:
            total = _as_float("total", total)
        if not 0 <= total < math.inf:
            raise ValueError(f"total must be 0 or more, not {total!r}")
    if not 0 <= done < math.inf:
        raise ValueError(f"done must be 0 or more, not {done!r}")
    worker = here
    if worker is not None:
        worker.note_progress(float(done), float(total))


def _as_float(name: str, value: Any) -> float:
    if not isinstance(value, str | bytes | bytearray):
        try:
            return float(value)
        except TypeError:
            pass  # told below
    raise TypeError(f"{name} must be a number, not {type(value).__name__}")
