"""Options: what a pool and its calls may be told beyond the arguments of ``multiprocessing.Pool``.

Pure values, checked where the user gives them, so that a mistake is an error of the call that made it.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from glasspool.engines import base

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

    class PoolKeywords(TypedDict, total=False):
        """The keywords of ``Pool`` that an executor passes on to it."""

        name: str | None
        engine: str | Any
        address: Any
        processes_per_node: int | None
        timeout: float | None
        timeout_grace: float
        retries: int
        retry_on: RetryOn
        start_timeout: float | None
        finalizer: Callable[[], object] | None
        max_memory: int | None
        max_memory_hard: int | None
        stall_after: float | None
        threads: int
        seed: int | None
        env: Env
        native_threads: NativeThreads
        capture_output: bool
        forward_logs: bool
        contextvars: Iterable[ContextVar[Any]]
        record: bool


RetryOn: TypeAlias = "type[BaseException] | tuple[type[BaseException], ...]"
Progress: TypeAlias = "bool | str | Bar | Callable[..., Bar] | None"
"""How a call's progress is shown: False not at all, True or a description, a bar or what makes one."""

Env: TypeAlias = "Mapping[str, str] | Callable[[int], Mapping[str, str]] | None"
"""Variables of the workers' environment: the same for all, or a function of the slot."""

NativeThreads: TypeAlias = 'int | Literal["auto"] | None'
"""How many threads BLAS and OpenMP may use in each worker; None: whatever they like."""

shows_progress: bool = False
"""Whether calls that are told nothing of progress show it, as ``glasspool run --progress`` wants it."""

STALL_AFTER_S = 300.0
MOST_THREADS = 500
"""So many lanes can a worker have: more tasks than these are never with one worker at a time."""

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
    threads: int = 1
    seed: int | None = None
    env: Env = None
    native_threads: NativeThreads = "auto"
    capture_output: bool = False
    forward_logs: bool = True
    contextvars: tuple[ContextVar[Any], ...] = ()

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
    threads: int,
    seed: int | None,
    env: Env,
    native_threads: NativeThreads,
    capture_output: bool,
    forward_logs: bool,
    contextvars: Iterable[ContextVar[Any]],
) -> PoolOptions:
    """Check the keywords of a pool.

    Raises:
        TypeError: One has the wrong type.
        ValueError: One is out of range.
    """
    if finalizer is not None and not callable(finalizer):
        raise TypeError(f"finalizer must be a callable, not {type(finalizer).__name__}")
    if capture_output and threads != 1:
        raise ValueError(
            "capture_output=True needs threads=1: a process has one standard output, so what several "
            "tasks of it write at the same time cannot be told apart."
        )
    grace = _seconds("timeout_grace", timeout_grace, least=0.0)
    soft = _bytes("max_memory", max_memory)
    hard = _bytes("max_memory_hard", max_memory_hard)
    if soft is not None and hard is not None and hard < soft:
        raise ValueError(
            f"max_memory_hard ({hard}) must not be below max_memory ({soft}): a worker is recycled "
            "between tasks from max_memory on, and stopped in a task from max_memory_hard on."
        )
    if seed is not None and threads != 1:
        raise ValueError(
            "seed needs threads=1: the generators of random and NumPy are one for all threads of a "
            "worker, so tasks beside each other would draw from the same numbers."
        )
    return PoolOptions(
        Policy(_seconds("timeout", timeout), _retries(retries), _retry_on(retry_on)),
        TIMEOUT_GRACE_S if grace is None else grace,
        _seconds("start_timeout", start_timeout),
        finalizer,
        soft,
        hard,
        _seconds("stall_after", stall_after),
        _lanes(threads),
        None if seed is None else _integer("seed", seed, "an integer or None", 0, "0 or more"),
        _env(env),
        _native_threads(native_threads),
        bool(capture_output),
        bool(forward_logs),
        _contextvars(contextvars),
    )


def per_node(engine: str, processes: int | None, processes_per_node: int | None) -> int | None:
    """Check how many workers each node is to have.

    Raises:
        TypeError: It is no integer.
        EngineCannot: The engine has no nodes.
        ValueError: It is below 1, or the number in all is told, too.
    """
    if processes_per_node is None:
        return None
    base.require(base.CAPABILITIES[engine], "per_node", "processes_per_node=")
    if processes is not None:
        raise ValueError(
            "processes= is the number of workers in all, processes_per_node= that on each node: give one"
        )
    return _integer("processes_per_node", processes_per_node, "an integer", 1, "1 or more")


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


def _lanes(value: Any) -> int:
    threads = _integer("threads", value, "an integer", 1, "1 or more")
    if threads > MOST_THREADS:
        raise ValueError(
            f"threads must be {MOST_THREADS} at most, not {threads}: a pool with more workers, or asyncio, "
            "can wait for more at a time"
        )
    return threads


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


def _env(value: Any) -> Env:
    """Check variables of the environment; a function of the slot is checked when it is called."""
    if value is None or callable(value):
        return value  # type: ignore[no-any-return]  # a mapping is checked below
    return checked_env(value)


def checked_env(value: Any) -> dict[str, str]:
    """Check variables of the environment.

    Raises:
        TypeError: They are no mapping of strings to strings.
        ValueError: The system takes no such name or value.
    """
    if not isinstance(value, Mapping):
        raise TypeError(
            f"env must be a mapping of names to values, or a function of the slot that returns one, "
            f"not {type(value).__name__}"
        )
    for name, text in value.items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise TypeError(f"env must map strings to strings, not {name!r} to {text!r}")
        if not name or "=" in name or "\0" in name or "\0" in text:
            raise ValueError(f"env has a name or a value that no environment takes: {name!r}")
    return dict(value)


def _native_threads(value: Any) -> NativeThreads:
    if value is None or value == "auto":
        return value  # type: ignore[no-any-return]  # it is one of the two
    return _integer("native_threads", value, "an integer, 'auto' or None", 1, "1 or more")


def _contextvars(value: Any) -> tuple[ContextVar[Any], ...]:
    try:
        chosen = tuple(value)
    except TypeError:
        chosen = (value,)
    for one in chosen:
        if not isinstance(one, ContextVar):
            raise TypeError(f"contextvars must be ContextVar objects, not {one!r}")
    return chosen
