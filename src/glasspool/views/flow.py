"""How work goes through a pool at this moment, from the caller that waits to the worker that runs it.

One picture for each pool: who waits for what, who hands the tasks out, what each worker runs and where in
the program that is, who takes the results in. It is made from a ``PoolInfo`` alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from glasspool.snapshot import HANDLER_ROLES, Frame, PoolInfo, ProcessInfo, ThreadInfo
from glasspool.views.table import harmless, short_path, thread_state

WORKERS_IN_FULL = 16
"""A picture tells so many workers with a task each in a line of its own."""

_LABEL = 17
_LIBRARY = re.compile(r"[/\\]lib(?:64)?[/\\](?:python|pypy)[\d.]+t?[/\\]|^<frozen |\.zip[/\\]")
_INSTALLED = re.compile(r"[/\\](?:site|dist)-packages[/\\]")
_POOLS = re.compile(r"[/\\](?:glasspool|joblib|loky|billiard|multiprocess)[/\\]")


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the picture: who, and what it does. Without ``who`` it tells what is passed on."""

    who: str
    what: str


def steps(pool: PoolInfo) -> tuple[Step, ...]:
    """Return the way of the work through a pool, in order; nothing if nobody is known to serve it."""
    told: dict[tuple[int, int], str] = {}
    parent = [t for t in pool.threads if t.pid == pool.pid]
    found = [
        *_callers(parent, told),
        *_holders("task-handler", parent, told),
        Step("", "tasks"),
        *_runners(pool),
        Step("", "results"),
        *_holders("result-handler", parent, told),
        *_holders("callback", parent, told),
        *_holders("worker-handler", parent, told),
    ]
    served = any(role in HANDLER_ROLES or role == "task" for t in pool.threads for role in t.roles)
    return tuple(_without_loose_ends(found)) if served else ()


def lines(pool: PoolInfo, columns: int) -> list[str]:
    """Return the picture as lines of text that fit, each step set in below its label."""
    import textwrap

    text: list[str] = []
    for step in steps(pool):
        if not step.who:
            text.append(f"    ↓ {step.what}")
            continue
        label = f"  {step.who} ".ljust(_LABEL + 3)
        room = max(columns, len(label) + 24)
        text.extend(
            textwrap.wrap(
                label + step.what,
                room,
                subsequent_indent=" " * (_LABEL + 3),
                break_long_words=False,
                break_on_hyphens=False,
            )
        )
    return text


def place(stack: Sequence[Frame] | None) -> str | None:
    """Name the innermost call of the program itself in a stack: ``f at x.py:7``; None if there is none.

    Where the program has none, the innermost one of an installed package; never one of a pool's library.
    """
    # Calls of C code have no line.
    calls = [frame for frame in stack or () if frame.line and _is_outside_libraries(frame)]
    own = [frame for frame in calls if not _INSTALLED.search(frame.file)] or calls
    if not own:
        return None
    return harmless(f"{own[-1].function} at {short_path(own[-1].file)}:{own[-1].line}")


def _callers(parent: Iterable[ThreadInfo], told: dict[tuple[int, int], str]) -> Iterator[Step]:
    for thread in parent:
        if "caller" in thread.roles:
            told[thread.pid, thread.native_id] = "caller"
            where = place(thread.stack)
            yield Step("caller", _who(thread) + (f", called by {where}" if where else ""))


def _holders(
    role: str, parent: Iterable[ThreadInfo], told: dict[tuple[int, int], str]
) -> Iterator[Step]:
    """Tell of the threads that have a duty; of one that was told before, only that it is the same."""
    for thread in parent:
        if role not in thread.roles:
            continue
        before = told.setdefault((thread.pid, thread.native_id), role)
        if before != role:
            yield Step(role, f"{harmless(thread.name)} {thread.native_id} too, the {before}")
            continue
        where = place(thread.stack)  # in the program's iterable, or its callback
        yield Step(role, _who(thread) + (f", in {where}" if where else ""))


def _runners(pool: PoolInfo) -> Iterator[Step]:
    """Tell what each worker runs, then how many have nothing to do."""
    busy: list[tuple[ProcessInfo, ThreadInfo]] = []
    resting: list[tuple[ProcessInfo, ThreadInfo]] = []
    for process, thread in _lanes(pool):
        rests = thread.task is None and _rests(process, thread)
        (resting if rests else busy).append((process, thread))
    for process, thread in busy[:WORKERS_IN_FULL]:
        yield Step(_lane(process, thread), _says_and_where(thread))
    if len(busy) > WORKERS_IN_FULL:
        yield Step("", f"{len(busy) - WORKERS_IN_FULL} more workers run tasks: see below")
    yield from _resting(resting)


def _says_and_where(thread: ThreadInfo) -> str:
    said, where = thread_state(thread, kernel=False), place(thread.stack)
    if where is None:
        return said
    function, _, line = where.rpartition(" at ")
    # The function of the task is named already; the innermost call may be another one.
    return f"{said}, at {line}" if thread.state == f"running {function}" else f"{said}, in {where}"


def _resting(lanes: Sequence[tuple[ProcessInfo, ThreadInfo]]) -> Iterator[Step]:
    by_state: dict[str, list[int]] = {}
    for process, thread in lanes:
        number = process.pid if process.role == "worker" else thread.native_id
        by_state.setdefault(harmless(thread.state), []).append(number)
    for state, numbers in by_state.items():
        count = f"{len(numbers)} worker{'' if len(numbers) == 1 else 's'}"
        some = ", ".join(map(str, numbers[:8])) + (" …" if len(numbers) > 8 else "")
        yield Step(count, f"{state} ({some})")


def _lanes(pool: PoolInfo) -> Iterator[tuple[ProcessInfo, ThreadInfo]]:
    for process in pool.processes:
        for thread in process.threads:
            # A worker of one pool may be the parent of another.
            serves = "task" in thread.roles and thread.pool in (None, pool.name)
            if serves and process.state != "dead":
                yield process, thread


def _lane(process: ProcessInfo, thread: ThreadInfo) -> str:
    if process.role != "worker":
        return f"thread {thread.native_id}"
    number = process.pid if thread.is_main else thread.native_id
    return f"worker {number}"


def _rests(process: ProcessInfo, thread: ThreadInfo) -> bool:
    if process.role == "worker":
        return process.state in ("idle", "") or thread.state == "idle"
    return thread.state.startswith(("waiting for work", "idle"))


def _who(thread: ThreadInfo) -> str:
    return f"{harmless(thread.name)} {thread.native_id}: {thread_state(thread, kernel=False)}"


def _is_outside_libraries(frame: Frame) -> bool:
    if _POOLS.search(frame.file):
        return False
    return bool(_INSTALLED.search(frame.file)) or not _LIBRARY.search(frame.file)


def _without_loose_ends(found: Sequence[Step]) -> Iterator[Step]:
    """Leave out what passes nothing on: an arrow first, last, or before another."""
    for at, step in enumerate(found):
        before = any(one.who for one in found[:at])
        after = at + 1 < len(found) and bool(found[at + 1].who)
        if step.who or (before and after) or "more workers" in step.what:
            yield step
