"""Lists: the slowest tasks, those that failed, the workers that died, and who was there, with which role."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from glasspool.observe.records import Recording, TaskRecord
from glasspool.observe.tally import end_ns, run_ns, running, wait_ns
from glasspool.snapshot import (
    DeathCertificate,
    PoolInfo,
    ProcessInfo,
    TaskInfo,
    ThreadInfo,
    describe_exit,
)
from glasspool.views.report_page.markup import (
    Cell,
    cut,
    esc,
    folded,
    lines,
    number,
    section,
    table,
    text,
)
from glasspool.views.report_page.scales import how_long
from glasspool.views.table import certificate_text, duration, size, thread_state

SLOWEST = 25
FAILED = 50
DEATHS = 20
THREADS = 1000
OPEN_THREADS = 40
OPEN_TASKS = 20

_ENDS = ("failed", "lost", "timeout", "cancelled")


def slowest(recording: Recording) -> str:
    """Return the part of the page on the tasks that ran longest."""
    ran = [task for task in recording.tasks if run_ns(task) is not None]
    found = heapq.nlargest(SLOWEST, ran, key=lambda task: run_ns(task) or 0)
    if not found:
        return ""
    hint = "" if len(ran) <= SLOWEST else f"the {SLOWEST} longest of {len(ran):,}"
    return section("Slowest tasks", _tasks(found, recording), hint)


def failed(recording: Recording) -> str:
    """Return the part of the page on the tasks that did not end as they should."""
    bad = [task for task in recording.tasks if task.status != "done"]
    if not bad:
        return ""
    ends = Counter(task.status for task in bad)
    order = [*_ENDS, *sorted(set(ends) - set(_ENDS))]
    hint = ", ".join(f"{ends[end]:,} {end}" for end in order if ends[end])
    if len(bad) > FAILED:
        hint += f"; the first {FAILED} are listed"
    by_end = sorted(bad, key=lambda task: end_ns(task) or 0)
    return section("Tasks that did not end well", _tasks(by_end[:FAILED], recording), hint)


def unended(picture: PoolInfo | None) -> str:
    """Return the part of the page on the tasks that have not ended."""
    if picture is None or not picture.tasks:
        return ""
    known = running(picture)
    open_tasks = [known.get(task.id or 0, task) for task in picture.tasks]
    open_tasks.sort(key=lambda task: task.state != "running")
    rows = [_open_row(task) for task in open_tasks[:OPEN_TASKS]]
    more = int(picture.stats.get("waiting", 0)) + int(picture.stats.get("sent", 0)) - len(rows)
    hint = f"{more:,} more are not listed" if more > 0 else ""
    headings = ("task", "state", "function and arguments", "items", "worker", "runs for")
    return section("Tasks that have not ended", table(headings, rows), hint)


def _open_row(task: TaskInfo) -> list[Cell]:
    runs_s = task.run_s if task.state == "running" else None
    return [
        Cell("" if task.id is None else str(task.id), task.id, "n"),
        text(task.state),
        _call(task.function, task.arguments),
        number(f"{task.items:,}", task.items),
        number(_place(task), task.slot),
        number(duration(runs_s), runs_s),
    ]


def _place(task: TaskInfo) -> str:
    slot = "" if task.slot is None else str(task.slot)
    return f"{slot} on {task.node}".strip() if task.node else slot


def _tasks(tasks: Sequence[TaskRecord], recording: Recording) -> str:
    columns: list[tuple[str, Callable[[TaskRecord], Cell]]] = [
        ("ended as", lambda task: Cell(_status(task.status))),
        ("function and arguments", lambda task: _call(task.function, task.arguments)),
        ("ran", lambda task: _nanoseconds(run_ns(task))),
        ("began after", lambda task: _after(task, recording)),
        ("worker", _worker),
        ("result", lambda task: number(size(task.result_bytes) or "?", task.result_bytes)),
        ("task", lambda task: Cell(str(task.task), task.task, "n")),
    ]
    if any(wait_ns(task) is not None for task in tasks):
        columns.insert(3, ("waited", lambda task: _nanoseconds(wait_ns(task))))
    if any(task.items > 1 for task in tasks):
        columns.insert(2, ("items", lambda task: number(f"{task.items:,}", task.items)))
    if any(task.attempts > 1 for task in tasks):
        columns.insert(2, ("attempt", lambda task: number(str(task.attempts), task.attempts)))
    rows = [[cell(task) for _, cell in columns] for task in tasks]
    return table([heading for heading, _ in columns], rows)


def _status(status: str) -> str:
    return f'<span class="{"good" if status == "done" else "bad"}">{esc(status)}</span>'


def _call(function: str, arguments: str | None) -> Cell:
    told = f"<code>{esc(cut(function, 120))}"
    if arguments:
        told += f"<span class=args>{esc(cut(arguments, 300))}</span>"
    return Cell(f"{told}</code>", style="call")


def _nanoseconds(value: int | None) -> Cell:
    return number("?" if value is None else how_long(value / 1e9), value)


def _after(task: TaskRecord, recording: Recording) -> Cell:
    if task.begun_ns is None:
        return number("never", -1.0)
    return _nanoseconds(max(0, task.begun_ns - recording.begun_ns))


def _worker(task: TaskRecord) -> Cell:
    if task.slot is None and task.pid is None:
        return number("–", -1.0)
    place = "?" if task.slot is None else str(task.slot)
    where = place if task.pid is None else f"{place} (pid {task.pid})"
    return number(f"{where} on {task.node}" if task.node else where, task.slot)


# Deaths -------------------------------------------------------------------------------------------


def deaths(recording: Recording) -> str:
    """Return the part of the page on workers that died, each with its certificate."""
    found = recording.deaths or (recording.picture.deaths if recording.picture else ())
    if not found:
        return ""
    told = [_death(one, is_open=len(found) <= 3) for one in found[-DEATHS:]]
    hint = "" if len(found) <= DEATHS else f"the last {DEATHS} of {len(found):,}"
    return section("Deaths", "".join(told), hint)


def _death(one: DeathCertificate, *, is_open: bool) -> str:
    facts = certificate_text(one, width=110)
    heading = one.text().splitlines()[0]
    body = f"<pre>{lines(one.text())}</pre><pre class=facts>{lines(facts)}</pre>"
    return f"<div class=death>{folded(heading, body, is_open=is_open)}</div>"


# Who was there ------------------------------------------------------------------------------------


def roster(picture: PoolInfo | None) -> str:
    """Return the part of the page on processes and threads with their roles."""
    if picture is None or not picture.processes:
        return ""
    rows = list(_roster_rows(picture.processes))
    shown = rows[:THREADS]
    headings = (
        "process, thread",
        "pid, tid",
        "ident",
        "roles",
        "state",
        "processor",
        "memory",
        "known from",
    )
    told = table(headings, shown, sortable=False, style="roster")
    if len(rows) > len(shown):
        told += f"<p class=hint>{len(rows) - len(shown):,} more lines are not shown.</p>"
    processes = len(picture.processes)
    threads = sum(len(process.threads) for process in picture.processes)
    heading = f"{_counted(processes, 'process', 'es')} with {_counted(threads, 'thread')}"
    return section(
        "Threads and their roles",
        folded(heading, told, is_open=len(rows) <= OPEN_THREADS) + _replaced(picture.ended),
        "as they were when the picture was taken: at the pool's end, or now if it lives",
    )


def _counted(count: int, word: str, many: str = "s") -> str:
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}{many}"


def _roster_rows(processes: Iterable[ProcessInfo]) -> Iterator[list[Cell]]:
    for process in processes:
        yield _process_row(process)
        for thread in process.threads:
            yield _thread_row(thread)


def _process_row(process: ProcessInfo) -> list[Cell]:
    name = process.role
    if process.role == "worker" and process.slot is not None:
        name = f"worker {process.slot}"
        if process.generation:
            name += f" (no. {process.generation + 1})"
    elif process.name and process.name != process.role:
        name = f"{process.role} {process.name}"
    if process.node:
        name += f" on {process.node}"
    state = process.state
    if process.exitcode is not None:
        state = (
            f"{state}: {describe_exit(process.exitcode)}"
            if state
            else describe_exit(process.exitcode)
        )
    if process.tasks_done:
        state = f"{state}, {process.tasks_done:,} done".removeprefix(", ")
    return [
        Cell(f"<b>{esc(name)}</b>"),
        Cell(str(process.pid), style="n"),
        Cell(""),
        Cell(""),
        text(state),
        Cell(esc(duration(process.cpu_s)), style="n"),
        Cell(esc(size(process.rss_bytes)), style="n"),
        text(process.evidence.source),
    ]


def _thread_row(thread: ThreadInfo) -> list[Cell]:
    source = thread.evidence.source
    doubt = "?" if source == "inferred" else ""
    return [
        Cell(esc(thread.name), style="thread"),
        Cell(str(thread.native_id), style="n"),
        Cell("" if thread.ident is None else str(thread.ident), style="n"),
        Cell("".join(f"<span class=role>{esc(role)}{doubt}</span> " for role in thread.roles)),
        text(thread_state(thread, kernel=False)),
        Cell(esc(duration(thread.cpu_s)), style="n"),
        Cell(""),
        text(source if not thread.evidence.note else f"{source}: {thread.evidence.note}"),
    ]


def _replaced(ended: Sequence[ProcessInfo]) -> str:
    if not ended:
        return ""
    states = Counter(process.state for process in ended)
    told = ", ".join(f"{count:,} {state}" for state, count in states.items())
    return f"<p>Before these workers there were others: {esc(told)}.</p>"
