"""What the worker of a pool that is not ours does, from its stack or from the kernel's word of it.

Stacks are the business of ``loops``; here is what the kernel tells of a pool's worker to the process that
made the pool, and so knows its queues.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from glasspool.observe import loops, procfs
from glasspool.observe.threads import Stack


@dataclass(frozen=True, slots=True)
class LoopState:
    """Where a worker's main thread is: ``state`` as in ``ProcessInfo``, and in words.

    ``step`` is that of ``loops.Place``, None where no stack was read. ``stack`` is trimmed to the worker loop
    and what is above it. ``function``, ``job``, ``index`` and ``arguments`` tell of the running task, as
    far as they are known.
    """

    state: str
    words: str
    source: str = "inferred"
    step: str | None = None
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


def worker_state(
    stack: Stack, variables: Sequence[Mapping[str, str]] = (), *, source: str = "self"
) -> LoopState:
    """Say what a worker does, from the stack of its main thread, outermost frame first.

    Args:
        stack: The whole stack; what a fork inherited below the worker loop is cut off.
        variables: Texts of local variables, one mapping for each frame, if known.
        source: How the stack was got.
    """
    place = loops.place(stack, variables)
    if place is None or "task" not in place.roles:
        return LoopState("starting", "starting", source, "starting", stack)
    return LoopState(
        state=loops.worker_state(place.step),
        words=place.words,
        source=source,
        step=place.step,
        stack=place.stack,
        function=place.function,
        job=place.job,
        index=place.index,
        chunk=place.chunk,
        arguments=None if place.chunk else place.arguments,
    )


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


def queue_of(tasks: Any, results: Any) -> QueueIdentity | None:
    """Read the kernel's names of a pool's two queues, or None if it has none like these (any more)."""
    try:
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
