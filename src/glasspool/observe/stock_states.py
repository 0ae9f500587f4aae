"""Pure: what a stock pool's thread does, read from its stack or from the kernel's word of it.

The handlers' and the worker loop's functions have kept their names through Python 3.11 to 3.13. The
lines of the worker loop are found in its compiled code, not counted by hand.
"""

from __future__ import annotations

import dis
import functools
import multiprocessing.pool
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from glasspool.observe import procfs
from glasspool.observe.threads import POOL_FILE, Stack
from glasspool.snapshot import Frame

_FOLDER = os.path.dirname(POOL_FILE) + os.sep
_SYNCHRONIZE_FILE = _FOLDER + "synchronize.py"  # not imported: it wants semaphores
_QUEUES_FILE = _FOLDER + "queues.py"
_CONNECTION_FILE = _FOLDER + "connection.py"

_HANDLERS = {
    "_handle_workers": "worker-handler",
    "_handle_tasks": "task-handler",
    "_handle_results": "result-handler",
    "worker": "task",
}
_ITERATING = ("Pool._guarded_task_generation", "Pool._get_tasks")
_CHUNKS = ("mapstar", "starmapstar")


@dataclass(frozen=True, slots=True)
class LoopState:
    """Where a worker's main thread is: ``state`` as in ``ProcessInfo``, and in words.

    ``stack`` is trimmed to the worker loop and what is above it. ``function``, ``job``, ``index``
    and ``arguments`` tell of the running task, as far as they are known.
    """

    state: str
    words: str
    source: str = "inferred"
    stack: Stack | None = None
    function: str | None = None
    job: int | None = None
    index: int | None = None
    chunk: bool = False
    arguments: str | None = None


@dataclass(frozen=True, slots=True)
class QueueIdentity:
    """How the kernel names the two queues that a forked worker shares with its pool.

    Descriptors of the pipes' ends, and addresses of the semaphores that guard them.
    """

    tasks_end: int
    tasks_lock: int
    results_end: int
    results_lock: int | None


def role_of(stack: Stack) -> str | None:
    """Tell the role of a thread that runs a stock pool's handler or worker loop, else None."""
    at = _innermost_handler(stack)
    return None if at is None else _HANDLERS[_last_part(stack[at].function)]


def helper_state(role: str, stack: Stack) -> str | None:
    """Say in words what a helper thread does, or None if its stack does not show its handler."""
    at = _innermost_handler(stack)
    if at is None:
        return None
    above = stack[at + 1 :]
    if role == "worker-handler":
        return _worker_handler_state(above)
    if role == "task-handler":
        return _task_handler_state(above)
    if role == "result-handler":
        return _result_handler_state(above)
    return None


def worker_state(
    stack: Stack, variables: Sequence[Mapping[str, str]] = (), *, source: str = "self"
) -> LoopState:
    """Say what a worker does, from the stack of its main thread, outermost frame first.

    Args:
        stack: The whole stack; what a fork inherited below the worker loop is cut off.
        variables: Texts of local variables, one mapping for each frame, if known.
        source: How the stack was got.
    """
    at = _innermost_handler(stack)
    if at is None or _last_part(stack[at].function) != "worker":
        leaving = any(frame.function == "_exit_function" for frame in stack)
        if leaving:
            return LoopState("leaving", "leaving", source, stack)
        return LoopState("starting", "starting", source, stack)
    trimmed, above = stack[at:], stack[at + 1 :]
    step = _loop_lines().get(stack[at].line)
    if step == "initializer":
        return LoopState("initializing", "running your initializer", source, trimmed)
    if step == "get":
        return _getting(above, trimmed, source)
    if step == "put":
        return LoopState("busy", "sending its result", source, trimmed)
    if step == "call":
        known = variables[at] if at < len(variables) else {}
        return _calling(above, trimmed, source, known)
    return LoopState("busy", "between two tasks", source, trimmed)


def state_from_system(seen: procfs.OsThread, queue: QueueIdentity | None) -> LoopState:
    """Say what a worker does from the system call that its main thread is in.

    Whoever reads from the task queue's pipe, or waits for its lock, is idle; everything else is
    not. Without the queue's identity (the worker was not forked from this process) only the
    kernel's word is passed on.
    """
    words = procfs.state_words(seen)
    if seen.state in "Tt":
        return LoopState("stopped", words, "os")
    if queue is None or (seen.state == "S" and not seen.syscall_args):
        return LoopState("unknown", words, "os")
    place, target = procfs.sleeps_in(seen), (*seen.syscall_args, 0)[0]
    if place in ("read", "pipe read") and target == queue.tasks_end:
        return LoopState("idle", "waiting for work, holds the queue's lock", "os")
    if place == "futex" and _within(target, queue.tasks_lock):
        return LoopState("idle", "waiting for work", "os")
    if place in ("write", "pipe write") and target == queue.results_end:
        return LoopState("busy", "sending its result", "os")
    if place == "futex" and _within(target, queue.results_lock):
        return LoopState("busy", "sending its result, waits for the queue's lock", "os")
    return LoopState("busy", f"busy, {words}")


def queue_of(pool: multiprocessing.pool.Pool) -> QueueIdentity | None:
    """Read the kernel's names of a pool's queues, or None if it has no such queues (any more)."""
    try:
        tasks, results = pool._inqueue, pool._outqueue  # type: ignore[attr-defined]
        lock = results._wlock
        return QueueIdentity(
            tasks_end=tasks._reader.fileno(),
            tasks_lock=tasks._rlock._semlock.handle,
            results_end=results._writer.fileno(),
            results_lock=None if lock is None else lock._semlock.handle,
        )
    except (AttributeError, OSError):
        return None  # threads instead of processes, or closed


def _within(address: int, semaphore: int | None) -> bool:
    # A semaphore of the C library is at most 32 bytes; its futex is one of its words.
    return semaphore is not None and semaphore <= address < semaphore + 32


def _last_part(function: str) -> str:
    return function.rpartition(".")[2]


def _innermost_handler(stack: Stack) -> int | None:
    for at in range(len(stack) - 1, -1, -1):
        if stack[at].file == POOL_FILE and _last_part(stack[at].function) in _HANDLERS:
            return at
    return None


def _has(frames: Stack, *names: str) -> bool:
    return any(f.file == POOL_FILE and _last_part(f.function) in names for f in frames)


def _is_users(frame: Frame) -> bool:
    return not frame.file.startswith(_FOLDER) and not frame.file.startswith("<frozen")


def _worker_handler_state(above: Stack) -> str:
    if _has(above, "_repopulate_pool_static"):
        return "starting a worker"
    if _has(above, "_join_exited_workers"):
        return "looking for ended workers"
    return "watching workers"


def _task_handler_state(above: Stack) -> str:
    if not above:
        return "waiting for work"
    if _has(above, "_set"):
        return "running your error callback"
    if above[0].function in _ITERATING:
        return "running your iterable"
    if any(map(_is_users, above)):
        # Above the handler itself it is an iterator that was given as it is; above the queue's
        # put it is a method that pickle calls.
        return "running your iterable" if _is_users(above[0]) else "pickling your arguments"
    return "sending a task"


def _result_handler_state(above: Stack) -> str:
    if _has(above, "_set"):
        if any(map(_is_users, above)):
            return "running your callback"
        return "taking in a result"
    if any(map(_is_users, above)):
        return "rebuilding a result"
    return "waiting for results"


def _getting(above: Stack, trimmed: Stack, source: str) -> LoopState:
    if not above:
        return LoopState("idle", "waiting for work", source, trimmed)
    if any(f.file == _SYNCHRONIZE_FILE and "__enter__" in f.function for f in above):
        return LoopState("idle", "waiting for work", source, trimmed)
    if above[-1].file == _CONNECTION_FILE:
        words = "waiting for work, holds the queue's lock"
        return LoopState("idle", words, source, trimmed)
    return LoopState("busy", "rebuilding a task", source, trimmed)


def _calling(above: Stack, trimmed: Stack, source: str, known: Mapping[str, str]) -> LoopState:
    chunk = bool(above) and above[0].file == POOL_FILE and above[0].function in _CHUNKS
    users = above[1:] if chunk else above
    function = users[0].function if users else None
    return LoopState(
        state="busy",
        words=f"running {function or 'a function in C'}",
        source=source,
        stack=trimmed,
        function=function,
        job=_number(known.get("job")),
        index=_number(known.get("i")),
        chunk=chunk,
        arguments=None if chunk else known.get("args"),
    )


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None


@functools.cache
def _loop_lines() -> dict[int, str]:
    """Tell for each line of the worker loop which of its four steps it takes."""
    steps = {"initargs": "initializer", "get": "get", "put": "put", "kwds": "call"}
    lines: dict[int, str] = {}
    for instruction in dis.get_instructions(multiprocessing.pool.worker):  # type: ignore[attr-defined]
        line = instruction.positions.lineno if instruction.positions else None
        if line is None or not instruction.opname.startswith("LOAD_FAST"):
            continue
        loaded = instruction.argval
        for variable in loaded if isinstance(loaded, tuple) else (loaded,):
            if variable in steps:
                lines[line] = steps[variable]
    return lines
