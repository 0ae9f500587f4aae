"""Pure: what threads and workers are for, told without stacks: from names and what the kernel says.

A pool begins its threads one after the other, and each rests in a system call of its own kind. All of
it is inferred. A thread that rests in nothing that tells is not told from the user's own.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from glasspool.observe import libraries, procfs
from glasspool.observe.procfs import OsThread
from glasspool.observe.sight import SeenProcess

NOTE = "from names and what the kernel says, as there is no stack"

_NEVER = 0xFFFFFFFF
_AT_ONCE_TICKS = 3
_OTHERS_BETWEEN = 5

# What the threads of a stock pool, or the first of them of an executor, may rest in when they are at work.
_AT_WORK = (("poll", "futex", ""), ("futex", "write", ""), ("read", "futex", ""))
_NAMED = (
    # As name_threads names them; Python 3.14 gives its own names to the system, cut at 15 bytes.
    (re.compile(r"p\d+ workers$"), ("worker-handler",)),
    (re.compile(r"p\d+ tasks$"), ("task-handler",)),
    (re.compile(r"p\d+ results$"), ("result-handler",)),
    (re.compile(r"QueueFeederThre"), ("task-handler",)),
    (re.compile(r"ExecutorManager"), libraries.MANAGER_ROLES),
    (re.compile(r"ThreadPoolExecu"), ("task",)),
    (re.compile(r"Thread-\d+ \(work"), ("task",)),
)


@dataclass(frozen=True, slots=True)
class Guess:
    """One pool that a program seems to have: its kind, and the roles of its threads by native thread id."""

    kind: str
    roles: Mapping[int, tuple[str, ...]]


def of_parent(
    process: SeenProcess, modules: Sequence[str], native: Collection[int] = ()
) -> list[Guess]:
    """Guess the pools of a program that has workers, in the order in which they began.

    Args:
        process: The program.
        modules: The libraries that started its workers, as far as known; nothing of forked ones.
        native: Threads that are known not to be Python's.
    """
    others = {process.pid, *native}
    threads = [thread.os for thread in process.threads if thread.os.tid not in others]
    threads.sort(key=lambda thread: thread.tid)
    found: list[Guess] = []
    at = 0
    while at < len(threads):
        guess = _beginning_at(threads[at:], modules)
        if guess is not None:
            found.append(guess)
        at += 1 if guess is None else len(guess.roles)
    return found or _by_order(threads, modules)


def by_name(thread: OsThread) -> tuple[str, ...] | None:
    """Tell the roles of a thread that has a name of its own for the system."""
    return next((roles for pattern, roles in _NAMED if pattern.match(thread.name)), None)


def is_manager(process: SeenProcess) -> bool:
    """Tell whether a process looks like multiprocessing's server of shared objects.

    Its main thread waits in a futex, and a second one for connections.
    """
    main, others = process.main, [t.os for t in process.threads if t.os.tid != process.pid]
    waits = main is not None and procfs.sleeps_in(main.os) == "futex"
    return waits and any(procfs.sleeps_in(t) in ("socket read", "accept") for t in others[:1])


def worker_state(thread: OsThread | None) -> str:
    """Guess what a worker does from its main thread: who reads from a pipe mostly waits for work."""
    if thread is None:
        return "unknown"
    if thread.state in "Tt":
        return "stopped"
    place = procfs.sleeps_in(thread)
    if place in ("pipe read", "read"):
        return "idle"
    return "unknown" if place == "futex" or (place is None and thread.state == "S") else "busy"


def _beginning_at(threads: Sequence[OsThread], modules: Sequence[str]) -> Guess | None:
    """Guess the pool whose first thread is the first of these, None if that is no pool's."""
    rests = [_rests_in(thread) for thread in threads[:3]]
    tids = [thread.tid for thread in threads]
    if "loky" not in modules and len(rests) == 3:
        kind = _of_three(rests, _began_at_once(threads[:3]), modules)
        if kind is not None:
            return Guess(kind, dict(zip(tids, libraries.HANDLERS, strict=False)))
    if rests[0] != "poll":
        return None
    kind = libraries.LOKY if "loky" in modules else libraries.EXECUTOR
    feeds = rests[1:2] in (["futex"], ["write"]) or (
        rests[1:2] == [""] and _began_at_once(threads[:2])
    )
    roles = (libraries.MANAGER_ROLES, ("task-handler",))[: 1 + feeds]
    return Guess(kind, dict(zip(tids, roles, strict=False)))


def _began_at_once(threads: Sequence[OsThread]) -> bool:
    begun = [thread.start_ticks for thread in threads]
    others_between = threads[-1].tid - threads[0].tid - len(threads) + 1
    return max(begun) - min(begun) <= _AT_ONCE_TICKS and others_between <= _OTHERS_BETWEEN


def _by_order(threads: Sequence[OsThread], modules: Sequence[str]) -> list[Guess]:
    """Guess one pool where nothing tells what its threads rest in: those that began in a row.

    They are all at work then, or the kernel does not say. Two threads in a row are only told in a program
    in which no thread is at work: they may be two of three.
    """
    guesses = []
    for run in _runs(threads):
        rests = [_rests_in(thread) for thread in run]
        may_be = all(rest in may for rest, may in zip(rests, _AT_WORK, strict=False))
        if not may_be or (len(run) == 3 and "loky" in modules):
            continue
        tids = [thread.tid for thread in run]
        if len(run) == 3:
            kind = libraries.MULTIPROCESS if "multiprocess" in modules else libraries.STOCK
            guesses.append(Guess(kind, dict(zip(tids, libraries.HANDLERS, strict=True))))
        elif len(run) == 2 and not any(rests):
            kind = libraries.LOKY if "loky" in modules else libraries.EXECUTOR
            roles = (libraries.MANAGER_ROLES, ("task-handler",))
            guesses.append(Guess(kind, dict(zip(tids, roles, strict=True))))
    return guesses if len(guesses) == 1 else []


def _runs(threads: Sequence[OsThread]) -> list[list[OsThread]]:
    """Part threads into such as began one right after the other."""
    runs: list[list[OsThread]] = []
    for thread in threads:
        if runs and _began_at_once((runs[-1][-1], thread)):
            runs[-1].append(thread)
        else:
            runs.append([thread])
    return runs


def _of_three(rests: Sequence[str], at_once: bool, modules: Sequence[str]) -> str | None:
    """Tell the kind of the pool that has three threads which rest so, None if none has.

    One that is at work rests in nothing, or in a futex: that of the interpreter's lock.
    """
    first, second, third = rests
    stock = libraries.MULTIPROCESS if "multiprocess" in modules else libraries.STOCK
    if second not in ("futex", "write", ""):
        return None
    if first == "nanosleep" and third == "poll for a time":
        return libraries.BILLIARD
    if first == "poll" and third == "read":
        return stock
    works = third in ("read", "futex", "") and first in ("poll", "futex", "")
    return stock if at_once and works and (first == "poll" or third == "read") else None


def _rests_in(thread: OsThread) -> str:
    """Name the call that a thread rests in, and of a poll whether it has a limit."""
    place = procfs.sleeps_in(thread) or ""
    if place in ("poll", "select"):
        limit = thread.syscall_args[2] if len(thread.syscall_args) > 2 else None
        return place if limit is None or limit & _NEVER == _NEVER else "poll for a time"
    return {"pipe read": "read", "pipe write": "write"}.get(place, place)
