"""The report at the end of ``glasspool run``: from frozen values to text and to plain dicts.

Nothing in here touches a process. The text fits 80 columns where the names in it permit.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from glasspool.cli.layout import aligned, indented, place
from glasspool.snapshot import (
    PoolInfo,
    ProcessInfo,
    Snapshot,
    TaskInfo,
    as_plain,
    describe_exit,
)
from glasspool.views import table

if TYPE_CHECKING:
    from glasspool.replacement import LeftAlone

SCHEMA = 1
"""Rises when a field of ``as_dict`` changes its meaning or goes away."""

_POOLS_IN_FULL = 5
_THREADS = "glasspool.ThreadPool"
_WORKERS_IN_FULL = 32


@dataclass(frozen=True, slots=True)
class PoolAccount:
    """One pool when it was shut down: its last picture, and its slowest tasks, longest first."""

    pool: PoolInfo
    slowest: tuple[TaskInfo, ...]
    ended_at: float


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a program.

    ``exitcode`` is negative for a signal; ``error`` names the exception that nobody caught.
    ``off`` says why the replacement was switched off, or is None. ``children`` are the pools of child
    processes, with ``--children``. If the program was ended because it
    hung, ``reason`` says why it did, and ``hang`` how it looked.
    """

    command: tuple[str, ...]
    exitcode: int | None
    error: str | None
    begun_at: float
    run_s: float
    off: str | None
    pools: tuple[PoolAccount, ...]
    left_alone: tuple[LeftAlone, ...]
    reason: str | None = None
    hang: Mapping[str, Any] | None = None
    children: tuple[PoolAccount, ...] = ()


def as_dict(run: Run) -> dict[str, Any]:
    """Return the report as plain dicts, lists, strings and numbers."""
    return {
        "schema": SCHEMA,
        "command": list(run.command),
        "exitcode": run.exitcode,
        "error": run.error,
        "reason": run.reason,
        "hang": run.hang,
        "begun_at": run.begun_at,
        "run_s": run.run_s,
        "replaced": run.off is None,
        "off": run.off,
        "pools": [
            *(_pool_dict(account, in_child=False) for account in run.pools),
            *(_pool_dict(account, in_child=True) for account in run.children),
        ],
        "left_alone": [as_plain(item) for item in run.left_alone],
    }


def _pool_dict(account: PoolAccount, in_child: bool) -> dict[str, Any]:
    return {
        **as_plain(account.pool),
        "slowest": as_plain(account.slowest),
        "ended_at": account.ended_at,
        "in_child": in_child,
        "workers": [_worker_dict(account, w) for w in account.pool.workers],
    }


def text(run: Run) -> str:
    """Return the report as lines of text."""
    head = f"glasspool run: {_ended(run)}"
    if run.off is not None:
        return f"{head}\nThe standard library's pools were used: {run.off}."
    if not run.pools:
        none = f"{head}; it made no pool"
        return "\n".join([none, *_children(run), *_left_alone(run)])
    count = "1 pool" if len(run.pools) == 1 else f"{len(run.pools)} pools"
    lines = [head, f"{count}, seen at shutdown:"]
    for account in run.pools[:_POOLS_IN_FULL]:
        lines += ["", *_pool(account)]
    rest = run.pools[_POOLS_IN_FULL:]
    if rest:
        lines += ["", f"{len(rest)} more, in short (--json FILE tells all of each)"]
        lines += [f"  {_head(account.pool)}" for account in rest]
    return "\n".join([*lines, *_children(run), *_left_alone(run)])


def _children(run: Run) -> list[str]:
    """Tell of the pools of child processes, one line each."""
    if not run.children:
        return []
    rows: list[tuple[str, ...]] = [("pid", "pool", "done", "failed", "lost")]
    for account in run.children[:_WORKERS_IN_FULL]:
        pool = account.pool
        counts = (str(pool.stats.get(name, 0)) for name in ("done", "failed", "lost"))
        rows.append((str(pool.pid), _head(pool), *counts))
    lines = ["", "In child processes", *indented("\n".join(aligned(rows, right=(0, 2, 3, 4))))]
    if len(run.children) > _WORKERS_IN_FULL:
        lines.append(f"  and {len(run.children) - _WORKERS_IN_FULL} more (--json FILE has them)")
    return lines


def _ended(run: Run) -> str:
    how = "was interrupted" if run.exitcode == -2 else describe_exit(run.exitcode)
    why = f" ({run.error})" if run.error and run.exitcode == 1 else ""
    return f"{shlex.join(run.command)} {how}{why} after {table.duration(run.run_s)}"


def _head(pool: PoolInfo) -> str:
    word = "thread" if pool.kind == _THREADS else "worker"
    size = f"1 {word}" if pool.size == 1 else f"{pool.size} {word}s"
    method = f", {pool.start_method}" if pool.start_method else ""
    return f"{pool.name}: {size}{method}, made at {place(pool.made_at)}"


def _pool(account: PoolAccount) -> list[str]:
    pool = account.pool
    # What is zero says nothing here, and a path below this folder is known without it.
    counts = {name: count for name, count in pool.stats.items() if count}
    shown = replace(pool, stats=counts, made_at=place(pool.made_at))
    lines = table.snapshot_text(Snapshot((shown,), taken_at=account.ended_at)).splitlines()
    if pool.kind == _THREADS:
        return lines  # they are all in the one process that the table shows
    lines += ["", "Who initialised, who executed", *_who(pool)]
    lines += ["", "Workers", *indented("\n".join(_workers(account)))]
    if account.slowest:
        width = table.width_of(sys.stderr) - 2
        lines += ["", "Slowest tasks"]
        lines += indented(table.tasks_text(account.slowest, width=width))
    if pool.deaths:
        lines += ["", "Deaths"]
        for text in table.deaths_text(pool.deaths):
            lines += indented(text)
    return lines


def _who(pool: PoolInfo) -> list[str]:
    initialised = {
        worker.place: worker.initializer.thread.name
        for worker in pool.workers
        if worker.initializer is not None and worker.initializer.thread is not None
    }
    executed = {
        w.place: _names([t.name for t in w.threads if "task" in t.roles])
        for w in pool.workers
        if w.threads
    }
    what = f"initializer {pool.initializer}" if pool.initializer else "initializer"
    none = "none was given" if pool.initializer is None else "not known"
    return [
        f"  {what}: {_by_thread(initialised) or none}",
        f"  tasks: {_by_thread(executed) or 'not known'}",
    ]


def _names(threads: list[str]) -> str:
    """Name the threads of a worker that run tasks: its lanes as one, and alike for all workers."""
    if len(threads) < 2:
        return "".join(threads)
    first = re.sub(r" w\d+ (?=lane-)", " wSS ", threads[0])
    return f"{first} to {threads[-1].rpartition(' ')[2]}"


def _by_thread(threads: Mapping[tuple[str | None, int], str]) -> str:
    """Say which thread of which workers, once for all that agree."""
    names = sorted(set(threads.values()))
    if len(names) == 1:
        once = "the worker" if len(threads) == 1 else f"each of the {len(threads)} workers"
        return f"the thread {names[0]} of {once}"
    return "; ".join(
        f"the thread {name} of workers {', '.join(str(s) for s, n in threads.items() if n == name)}"
        for name in names
    )


def _workers(account: PoolAccount) -> list[str]:
    rows = [("slot", "pid", "tasks", "busy", "waiting", "initializer")]
    workers = account.pool.workers
    if not workers:
        return ["none was left"]
    for worker in workers[:_WORKERS_IN_FULL]:
        initializer = worker.initializer.run_s if worker.initializer else None
        rows.append(
            (
                "-" if worker.slot is None else str(worker.slot),
                str(worker.pid),
                str(worker.tasks_done),
                table.duration(worker.busy_s),
                table.duration(waiting_s(account, worker)) or "-",
                table.duration(initializer) or "-",
            )
        )
    lines = aligned(rows, right=range(6))
    if len(workers) > _WORKERS_IN_FULL:
        lines.append(f"and {len(workers) - _WORKERS_IN_FULL} more (--json FILE has them)")
    if account.pool.ended:
        lines.append(_earlier(account.pool.ended))
    return lines


def _earlier(ended: tuple[ProcessInfo, ...]) -> str:
    """Say in one line what workers did that were replaced."""
    states = Counter(worker.state for worker in ended)
    how = ", ".join(f"{count} {state}" for state, count in states.items())
    tasks = sum(worker.tasks_done for worker in ended)
    busy = table.duration(sum(worker.busy_s for worker in ended))
    return f"before these: {how}, with {tasks} tasks done in {busy}"


def waiting_s(account: PoolAccount, worker: ProcessInfo) -> float | None:
    """Return how long a worker had nothing to do: its life less tasks and initializer."""
    if worker.started_at is None:
        return None
    initializer_s = (worker.initializer.run_s if worker.initializer else None) or 0.0
    lanes = max(1, sum("task" in thread.roles for thread in worker.threads))
    busy_s = worker.busy_s / lanes  # the mean, where there are several
    return max(0.0, account.ended_at - worker.started_at - busy_s - initializer_s)


def _worker_dict(account: PoolAccount, worker: ProcessInfo) -> dict[str, Any]:
    initializer = worker.initializer
    return {
        "slot": worker.slot,
        "pid": worker.pid,
        "tasks": worker.tasks_done,
        "busy_s": worker.busy_s,
        "waiting_s": waiting_s(account, worker),
        "initializer_s": initializer.run_s if initializer else None,
        "initialized_by": as_plain(initializer.thread) if initializer else None,
        "executed_by": [
            {"name": t.name, "ident": t.ident, "native_id": t.native_id, "is_main": t.is_main}
            for t in worker.threads
            if "task" in t.roles
        ],
    }


def _left_alone(run: Run) -> list[str]:
    if not run.left_alone:
        return []
    lines = ["", "Left alone"]
    for item in run.left_alone:
        count = f"{item.count} x " if item.count > 1 else ""
        kind = item.kind.removeprefix("multiprocessing.pool.").rpartition(".")[2]
        lines.append(f"  {count}{kind}, made at {place(item.made_at)}: {item.reason}")
    return lines
