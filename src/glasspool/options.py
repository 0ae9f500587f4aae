"""Options: what a pool and its calls may be told beyond the arguments of ``multiprocessing.Pool``.

Pure values, checked where the user gives them, so that a mistake is an error of the call that made it.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from typing import Protocol, TypedDict

    class Bar(Protocol):
        """What can show progress: an object like tqdm's."""

        def update(self, n: int, /) -> object:
            """Take note of so many more."""

    class Limits(TypedDict, total=False):
        """The keywords of a call that limit its tasks. None is: as the pool was told."""

        timeout: float | None
        retries: int | None
        retry_on: RetryOn | None


RetryOn: TypeAlias = "type[BaseException] | tuple[type[BaseException], ...]"
Progress: TypeAlias = "bool | str | Bar | Callable[..., Bar] | None"
"""How a call's progress is shown: False not at all, True or a description, a bar or what makes one."""

shows_progress: bool = False
"""Whether calls that are told nothing of progress show it, as ``glasspool run --progress`` wants it."""

STALL_AFTER_S = 300.0
TIMEOUT_GRACE_S = 1.0


class Policy(NamedTuple):
    """What a call allows its tasks: how long each may run, and how often it may be tried anew.

    ``timeout_s`` counts from the moment a worker begins the task. ``retries`` is how many more times a
    task may begin after a worker died of it, or after it raised one of ``retry_on``.
    """

    timeout_s: float | None = None
    retries: int = 0
    retry_on: tuple[type[BaseException], ...] = ()

    @property
    def is_default(self) -> bool:
        """Tell whether this is what every pool does that was told nothing."""
        return self.timeout_s is None and not self.retries


class PoolOptions(NamedTuple):
    """What a pool was told. Durations in seconds, memory in bytes; None is: no limit."""

    policy: Policy = Policy()
    timeout_grace_s: float = TIMEOUT_GRACE_S
    start_timeout_s: float | None = None
    finalizer: Callable[[], object] | None = None
    max_memory: int | None = None
    max_memory_hard: int | None = None
    stall_after_s: float | None = STALL_AFTER_S

    @property
    def soft_memory(self) -> int | None:
        """From how much memory on a worker is replaced between two tasks.

        Also above the hard limit alone: the next task is not to be stopped for what the last one left.
        """
        return self.max_memory_hard if self.max_memory is None else self.max_memory


def pool_options(
    *,
    timeout: float | None,
    timeout_grace: float,
    retries: int,
    retry_on: RetryOn,
    start_timeout: float | None,
    finalizer: Callable[[], object] | None,
    max_memory: int | None,
    max_memory_hard: int | None,
    stall_after: float | None,
) -> PoolOptions:
    """Check the keywords of a pool.

    Raises:
        TypeError: One has the wrong type.
        ValueError: One is out of range.
    """
    if finalizer is not None and not callable(finalizer):
        raise TypeError(f"finalizer must be a callable, not {type(finalizer).__name__}")
    grace = _seconds("timeout_grace", timeout_grace, least=0.0)
    soft = _bytes("max_memory", max_memory)
    hard = _bytes("max_memory_hard", max_memory_hard)
    if soft is not None and hard is not None and hard < soft:
        raise ValueError(
            f"max_memory_hard ({hard}) must not be below max_memory ({soft}): a worker is recycled "
            "between tasks from max_memory on, and stopped in a task from max_memory_hard on."
        )
    return PoolOptions(
        Policy(_seconds("timeout", timeout), _retries(retries), _retry_on(retry_on)),
        TIMEOUT_GRACE_S if grace is None else grace,
        _seconds("start_timeout", start_timeout),
        finalizer,
        soft,
        hard,
        _seconds("stall_after", stall_after),
    )


def policy(
    default: Policy, timeout: float | None, retries: int | None, retry_on: RetryOn | None
) -> Policy:
    """Return what a call allows its tasks; what it does not say is as the pool was told.

    Raises:
        TypeError: A keyword has the wrong type.
        ValueError: A keyword is out of range.
    """
    if timeout is None and retries is None and retry_on is None:
        return default
    return Policy(
        default.timeout_s if timeout is None else _seconds("timeout", timeout),
        default.retries if retries is None else _retries(retries),
        default.retry_on if retry_on is None else _retry_on(retry_on),
    )


def _seconds(name: str, value: Any, least: float | None = None) -> float | None:
    """Check a duration; infinity is none."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number of seconds or None, not {value!r}") from None
    if math.isnan(seconds) or seconds < 0 or (seconds == 0 and least is None):
        kind = "positive" if least is None else "0 or more"
        raise ValueError(f"{name} must be {kind} (seconds), not {value!r}")
    return None if math.isinf(seconds) else seconds


def _retries(value: Any) -> int:
    return _integer("retries", value, "an integer", 0, "0 or more")


def _retry_on(value: Any) -> tuple[type[BaseException], ...]:
    classes = value if isinstance(value, tuple) else (value,)
    for cls in classes:
        if not (isinstance(cls, type) and issubclass(cls, BaseException)):
            raise TypeError(f"retry_on must be an exception class or a tuple of them, not {cls!r}")
    return classes


def _bytes(name: str, value: Any) -> int | None:
    if value is None:
        return None
    return _integer(name, value, "an integer number of bytes", 1, "positive (bytes)")


def _integer(name: str, value: Any, kind: str, least: int, range_: str) -> int:
    """Check a whole number; ``kind`` and ``range_`` say in words what it is to be."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be {kind}, not {value!r}") from None
    if number < least:
        raise ValueError(f"{name} must be {range_}, not {number}")
    return number
