"""What of a job runs at the moment: read from the scoreboard and the ledger, by whoever asks.

Costs the workers nothing, and the asker some microseconds for each worker.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from typing import TYPE_CHECKING, Any, TypeAlias

from glasspool.engines.local import arguments
from glasspool.engines.local import scoreboard as sb
from glasspool.progress import Running, Slow, fraction

if TYPE_CHECKING:
    from glasspool.engines.local.engine import LocalEngine
    from glasspool.engines.local.workers import Worker
    from glasspool.ledger import Task

WORTH_NAMING_NS = 2_000_000_000
"""A task that has run for less is not named."""

_WORDS = 60

Said: TypeAlias = "tuple[float, float | None]"
"""What a task says of itself by ``report_progress``."""

Row: TypeAlias = "tuple[int, int, int, int, Said | None]"
"""A running task: its number, its worker's slot, for how long (ns), items done, what it says."""


def look(engine: LocalEngine, job: Any) -> Running:
    """Return how many tasks of a job run, how far they are inside, and which has run longest."""
    if engine.is_threads:
        from glasspool.engines.threads import telling

        return telling.look(engine, job)  # type: ignore[arg-type]  # not a local one then
    if engine.is_cluster:
        from glasspool.engines.cluster import going

        return going.look(engine, job)  # type: ignore[arg-type]  # not a local one then
    running, partial = 0, 0.0
    oldest: tuple[int, Worker, Task, int, Said | None] | None = None
    try:
        for worker in list(engine.collector.workers.values()):
            for task, begun_ns in _current(engine.board, worker):
                if task.owner is not job:
                    continue
                item = _item(engine.board, worker, task)
                said = engine.board.progress(worker.record, task.seq)
                running += 1
                partial += item + (fraction(*said) if said is not None else 0.0)
                if oldest is None or begun_ns < oldest[0]:
                    oldest = begun_ns, worker, task, item, said
    except ValueError:  # the pool has ended meanwhile, and its scoreboard with it
        return Running()
    return Running(running, partial, _slow(oldest) if oldest is not None else None)


def rows(engine: LocalEngine) -> list[Row]:
    """Return what runs at the moment, for somebody on another machine."""
    found: list[Row] = []
    board, now = engine.board, time.monotonic_ns()
    try:
        for worker in list(engine.collector.workers.values()):
            for task, begun_ns in _current(board, worker):
                said = board.progress(worker.record, task.seq)
                item = _item(board, worker, task)
                found.append((task.id, worker.slot, now - begun_ns, item, said))
    except ValueError:  # the pool has ended meanwhile, and its scoreboard with it
        return []
    return found


def _current(board: sb.Board, worker: Worker) -> list[tuple[Task, int]]:
    """Return the tasks that a worker runs, and when it began them."""
    held = worker.held
    if held is None or not held.tasks or worker.dead:
        return []
    if board.lanes:
        running = [(held.tasks.get(entry.task), entry) for entry in board.running(worker.record)]
        return [(t, e.begun_ns) for t, e in running if t is not None and t.seq == e.seq]
    tasks = list(held.tasks.values())
    # What has begun comes before what has not.
    begun = bisect_left(tasks, True, key=lambda task: not board.has_begun(worker.record, task.seq))
    if not begun:
        return []
    task = tasks[begun - 1]
    entry = board.entry(worker.record, task.seq)
    if entry is None or entry.ended_ns or entry.task != task.id:
        return []
    return [(task, entry.begun_ns)]


def _item(board: sb.Board, worker: Worker, task: Task) -> int:
    """Return how many items of a running chunk are done, at least."""
    if task.items == 1:
        return 0
    # For a moment the word may still be that of the chunk before.
    word = board.words[board.place(worker.record, task.seq) + sb.W_ITEM]
    return min(word & sb.ITEM_MASK, task.items - 1)


def _slow(oldest: tuple[int, Worker, Task, int, Said | None]) -> Slow:
    begun_ns, worker, task, item, said = oldest
    return slow(worker.slot, time.monotonic_ns() - begun_ns, task, item, said)


def slow(slot: int, age_ns: int, task: Task, item: int, said: Said | None) -> Slow:
    """Say which task has run longest, with its name if it has for long."""
    words = ""
    if age_ns >= WORTH_NAMING_NS:
        words = task.job.function_name(task) + (arguments.of_task(task, item) or "")
        words = words if len(words) <= _WORDS else f"{words[: _WORDS - 1]}…"
        if task.items > 1:
            words += f", item {item + 1} of {task.items}"
    return Slow(slot, age_ns / 1e9, words, *(said or ()))
