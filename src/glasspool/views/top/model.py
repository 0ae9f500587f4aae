"""The tables of ``glasspool top``, made from what a session has seen: workers, threads, tasks, deaths, log.

Pure. All names and arguments are made harmless here, so that whoever shows a cell may show it as it is.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from glasspool.observe.records import TaskRecord
from glasspool.snapshot import PoolInfo, ProcessInfo, TaskInfo, ThreadInfo, describe_exit
from glasspool.views.table import duration, harmless, size, thread_state
from glasspool.views.top.grid import Cell, Column, Row, Table
from glasspool.views.top.session import Session, Watched

BAR = 5
_ARGUMENTS_MOST = 400

_WORKERS = (
    Column("node", "NODE", rank=6, most=18),
    Column("slot", "#", right=True, most=5),
    Column("pid", "PID", right=True, most=8),
    Column("thread", "THREAD", rank=4, most=12),
    Column("state", "STATE", most=16),
    Column("task", "TASK", flexible=True, least=16),
    Column("since", "SINCE", right=True, most=9),
    Column("cpu", "CPU%", right=True, rank=2, most=6),
    Column("memory", "MEM", right=True, rank=3, most=8),
    Column("done", "DONE", right=True, rank=5, most=11),
    Column("restarts", "RST", right=True, rank=1, most=5),
)

_THREADS = (
    Column("thread", "PROCESS / THREAD", most=25),
    Column("id", "PID/TID", right=True, most=8),
    Column("roles", "ROLES", most=19),
    Column("state", "STATE", flexible=True, least=18),
    Column("cpu", "CPU%", right=True, rank=2, most=6),
    Column("used", "TIME", right=True, rank=3, most=8),
)

_TASKS = (
    Column("task", "TASK", right=True, most=10),
    Column("state", "STATE", most=10),
    Column("function", "FUNCTION", flexible=True, least=16),
    Column("worker", "WORKER", right=True, rank=1, most=8),
    Column("waited", "WAITED", right=True, rank=2, most=8),
    Column("ran", "RAN", right=True, most=8),
    Column("result", "RESULT", right=True, rank=3, most=8),
)

_DEATHS = (
    Column("at", "AT", most=9),
    Column("worker", "#", right=True, most=5),
    Column("pid", "PID", right=True, most=8),
    Column("cause", "CAUSE", rank=1, most=34),
    Column("task", "TASK IT RAN", flexible=True, least=16),
    Column("attempt", "TRY", right=True, rank=2, most=5),
)

_LOG = (
    Column("at", "AT", most=9),
    Column("pool", "POOL", rank=1, most=14),
    Column("kind", "WHAT", rank=2, most=9),
    Column("text", "EVENT", flexible=True, least=20),
)

_STATE_STYLES = {
    "busy": "busy",
    "running": "busy",
    "idle": "",
    "dead": "bad",
    "failed": "bad",
    "lost": "bad",
    "timeout": "bad",
    "starting": "waits",
    "initializing": "waits",
    "leaving": "waits",
}


# Workers ----------------------------------------------------------------------------------------


def workers(session: Session, one: Watched) -> Table:
    """Make a row of each worker."""
    ours = one.info.kind == "glasspool.Pool"
    rows = tuple(_worker(session, process) for process in one.info.workers)
    columns: tuple[Column, ...] = _WORKERS
    dropped: tuple[str, ...] = () if one.info.nodes else ("node",)
    if not ours:  # what a pool of another library has done is nowhere to be read
        has_slots = any(process.slot is not None for process in one.info.workers)
        dropped += ("done", "restarts") if has_slots else ("slot", "done", "restarts")
    if dropped:
        kept = [at for at, column in enumerate(columns) if column.key not in dropped]
        columns = tuple(columns[at] for at in kept)
        rows = tuple(
            Row(
                row.key,
                tuple(row.cells[at] for at in kept),
                tuple(row.values[at] for at in kept),
                row.style,
                row.subject,
            )
            for row in rows
        )
    return Table(columns, rows, empty="this pool has no worker at the moment")


def _worker(session: Session, process: ProcessInfo) -> Row:
    thread = task_thread(process)
    task = None if thread is None else thread.task
    share, since = session.meters.busy(process), _since(process, thread, task)
    lasts = duration(since)
    if (
        since is None and task is not None
    ):  # nobody tells since when: at least since it was seen first
        since = session.meters.seen_for(process)
        lasts = f">{duration(since)}" if since else ""
    cpu = session.meters.cpu(process)
    slot = process.slot
    return Row(
        key=("worker", process.node, process.pid if slot is None else slot, process.generation),
        cells=(
            Cell(harmless(process.node or "")),
            Cell("" if slot is None else str(slot)),
            Cell(str(process.pid)),
            Cell("" if thread is None else _thread_name(thread)),
            Cell(_state_bar(process, share)),
            _doing(process, thread, task),
            Cell(lasts),
            Cell(percent(cpu)),
            Cell(size(process.rss_bytes)),
            Cell(str(process.tasks_done)),
            Cell(str(process.generation)),
        ),
        values=(
            process.node,
            slot,
            process.pid,
            "" if thread is None else thread.name,
            (process.state, share or 0.0),
            "" if task is None else task.function,
            since,
            cpu,
            process.rss_bytes,
            process.tasks_done,
            process.generation,
        ),
        style=_STATE_STYLES.get(process.state, ""),
        subject=process,
    )


def task_thread(process: ProcessInfo) -> ThreadInfo | None:
    """Return the thread of a worker that runs its tasks: by role, else its main thread."""
    threads = process.threads
    busy = (thread for thread in threads if "task" in thread.roles and thread.task is not None)
    by_role = (thread for thread in threads if "task" in thread.roles)
    main = (thread for thread in threads if thread.is_main)
    return next((thread for found in (busy, by_role, main) for thread in found), None)


def _thread_name(thread: ThreadInfo) -> str:
    return "main" if thread.is_main else harmless(thread.name)


def _state_bar(process: ProcessInfo, share: float | None) -> str:
    state = harmless(process.state) or "?"
    if process.state == "dead":
        return f"dead: {describe_exit(process.exitcode)}"
    return f"{bar(share, BAR)} {state}" if share is not None else state


def _since(process: ProcessInfo, thread: ThreadInfo | None, task: TaskInfo | None) -> float | None:
    if task is not None and task.run_s is not None:
        return task.run_s
    return None if thread is None else thread.since_s


def _doing(process: ProcessInfo, thread: ThreadInfo | None, task: TaskInfo | None) -> Cell:
    if task is not None:
        return task_cell(task)
    initializer = process.initializer
    if initializer is not None and initializer.state in ("running", "failed"):
        return Cell(f"initializer {harmless(initializer.function or '')} {initializer.state}")
    # That a worker at rest waits is told by its state already.
    if thread is None or process.state in ("idle", "spare"):
        return Cell("")
    return Cell(harmless(thread.state))


def task_cell(task: TaskInfo, function: str | None = None) -> Cell:
    """Tell what a task calls, and how far it has come."""
    name = harmless(task.function if function is None else function)
    return Cell(name + harmless((task.arguments or "")[:_ARGUMENTS_MOST]), progress(task))


def progress(task: TaskInfo) -> str:
    """Say how far a task has come: by its own word, else by its items; nothing if neither is known."""
    if task.progress is not None:
        done, total = task.progress
        if total:
            return f"{100 * done / total:.0f}%"
        return f"{done:g} done"
    if task.items > 1 and task.item is not None:
        return f"{task.item + 1}/{task.items}"
    return f"{task.items} items" if task.items > 1 else ""


# Threads ----------------------------------------------------------------------------------------


def threads(
    session: Session, one: Watched, folded: Collection[int] = (), wanted: str = ""
) -> Table:
    """Make a tree of processes and their threads.

    Args:
        session: What was seen.
        one: The pool.
        folded: The pids of processes whose threads are not shown.
        wanted: A text: only threads that hold it are shown, below their processes.
    """
    from glasspool.views.top.grid import holds

    rows: list[Row] = []
    for process in one.info.processes:
        head = _process_row(session, process, process.pid in folded)
        below = list(_thread_rows(session, process, one.info.name))
        if wanted and not holds(head, wanted):
            below = [row for row in below if holds(row, wanted)]
            if not below:
                continue
            rows.extend((head, *below))
        else:
            rows.append(head)
            rows.extend(() if process.pid in folded else below)
    empty = f"nothing holds {wanted!r}" if wanted else "nothing is known of its processes"
    return Table(_THREADS, tuple(rows), empty=empty, sortable=False)


def _process_row(session: Session, process: ProcessInfo, is_folded: bool) -> Row:
    count = len(process.threads)
    name = f"worker {process.slot}" if process.slot is not None else harmless(process.role)
    called = "" if process.name == process.role else harmless(process.name)
    many = f"({count} threads)" if is_folded and count > 1 else ""
    if process.node is not None:
        name = f"{name} on {harmless(process.node)}"
    state = harmless(process.state)
    if process.state == "dead":
        state = f"dead: {describe_exit(process.exitcode)}"
    if process.tasks_done:
        state = f"{state}, {process.tasks_done} done" if state else f"{process.tasks_done} done"
    roles = dict.fromkeys(role for thread in process.threads for role in thread.roles)
    return Row(
        key=("process", process.node, process.pid),
        cells=(
            Cell(f"{'+' if is_folded else '-'} {name} {called}".rstrip(), many),
            Cell(str(process.pid)),
            _roles_cell(tuple(roles)) if is_folded else Cell(""),
            Cell(state),
            Cell(percent(session.meters.cpu(process))),
            Cell(duration(process.cpu_s)),
        ),
        style="strong",
        subject=process,
    )


def _roles_cell(roles: Sequence[str], doubt: str = "") -> Cell:
    handlers = [role.removesuffix("-handler") for role in roles if role.endswith("-handler")]
    others = [role for role in roles if not role.endswith("-handler")]
    short = ["+".join(handlers) + "-handler"] if handlers else []
    return Cell(
        harmless(", ".join(roles) + doubt), short=harmless(", ".join(short + others) + doubt)
    )


def _thread_rows(session: Session, process: ProcessInfo, pool: str) -> Iterator[Row]:
    for number, thread in enumerate(process.threads):
        branch = "└─" if number == len(process.threads) - 1 else "├─"
        sure = thread.evidence.source != "inferred"
        tail = "" if thread.task is None else progress(thread.task)
        yield Row(
            key=("thread", process.node, process.pid, thread.native_id),
            cells=(
                # The pool's name, with which the names of its threads begin, says nothing here.
                Cell(f"  {branch} {harmless(thread.name.removeprefix(f'{pool} '))}"),
                Cell(str(thread.native_id)),
                _roles_cell(thread.roles, "" if sure else "?"),
                Cell(harmless(thread_state(thread)), tail),
                Cell(percent(session.meters.cpu_of_thread(thread))),
                Cell(duration(thread.cpu_s)),
            ),
            style="faint" if not thread.python else "busy" if thread.task is not None else "",
            subject=thread,
        )


# Tasks ------------------------------------------------------------------------------------------


def tasks(session: Session, one: Watched) -> Table:
    """List the open tasks, those that run first, and then the ones that were seen to end."""
    order = {"running": 0, "sent": 1, "waiting": 2}
    opened = list(_with_running(one.info))
    opened.sort(key=lambda task: order.get(task.state, 3))
    rows = [_open_task(task) for task in opened]
    rows += [_record(record) for record in session.finished(one.info)]
    empty = "no task is open, and none was seen to end"
    if one.info.kind != "glasspool.Pool":
        empty = "the tasks of a pool of another library are known only while they run"
    return Table(_TASKS, tuple(_once(rows)), empty=empty)


def _once(rows: list[Row]) -> Iterator[Row]:
    seen: set[Any] = set()
    for row in rows:
        if row.key not in seen:
            seen.add(row.key)
            yield row


def _with_running(pool: PoolInfo) -> Iterator[TaskInfo]:
    """Return the open tasks, each as the thread that runs it tells of it if there is one."""
    by_thread = [t.task for p in pool.workers for t in p.threads if t.task and "task" in t.roles]
    known = {task.id for task in by_thread if task.id is not None}
    yield from by_thread
    yield from (task for task in pool.tasks if task.id is None or task.id not in known)


def _open_task(task: TaskInfo) -> Row:
    waited, ran = task.queue_wait_s, task.run_s
    name = _number(task)
    return Row(
        key=("task", task.id if task.id is not None else (task.pid, task.job, task.index)),
        cells=(
            Cell(name),
            Cell(harmless(task.state)),
            task_cell(task),
            Cell(_slot_and_node(task)),
            Cell(duration(waited)),
            Cell(duration(ran)),
            Cell(""),
        ),
        values=(task.id, task.state, task.function, task.slot, waited, ran, None),
        style=_STATE_STYLES.get(task.state, "faint"),
        subject=task,
    )


def _slot_and_node(task: TaskInfo | TaskRecord) -> str:
    slot = "" if task.slot is None else str(task.slot)
    return slot if task.node is None else f"{slot} {harmless(task.node)}".strip()


def _number(task: TaskInfo) -> str:
    if task.id is not None:
        return str(task.id)
    return "" if task.job is None else f"{task.job}.{task.index}"


def _record(record: TaskRecord) -> Row:
    ran = waited = None
    if record.begun_ns is not None and record.ended_ns:
        ran = (record.ended_ns - record.begun_ns) / 1e9
    if record.submitted_ns is not None and record.begun_ns is not None:
        waited = (record.begun_ns - record.submitted_ns) / 1e9
    function = harmless(record.function + (record.arguments or "")[:_ARGUMENTS_MOST])
    items = f"{record.items} items" if record.items > 1 else ""
    return Row(
        key=("task", record.task),
        cells=(
            Cell(str(record.task)),
            Cell(harmless(record.status)),
            Cell(function, items),
            Cell(_slot_and_node(record)),
            Cell(duration(waited)),
            Cell(duration(ran)),
            Cell(size(record.result_bytes)),
        ),
        values=(
            record.task,
            record.status,
            record.function,
            record.slot,
            waited,
            ran,
            record.result_bytes,
        ),
        style="bad" if record.status != "done" else "",
        subject=record,
    )


# Deaths and log ---------------------------------------------------------------------------------


def deaths(session: Session, one: Watched) -> Table:
    """List the workers that died, the last one first."""
    rows = []
    for number, death in enumerate(one.info.deaths):
        task = death.task
        tried = f"{death.attempts}/{max(death.attempts, death.attempts_allowed)}"
        task_words = Cell("(none)") if task is None else task_cell(task)
        rows.append(
            Row(
                key=("death", death.pid, death.died_at, number),
                cells=(
                    Cell(clock(death.died_at)),
                    Cell(str(death.slot)),
                    Cell(str(death.pid)),
                    Cell(harmless(death.cause)),
                    task_words,
                    Cell(tried if task is not None else ""),
                ),
                values=(
                    death.died_at,
                    death.slot,
                    death.pid,
                    death.cause,
                    task_words.text,
                    death.attempts,
                ),
                style="bad",
                subject=death,
            )
        )
    return Table(_DEATHS, tuple(reversed(rows)), empty="no worker has died")


def log(session: Session, one: Watched | None = None) -> Table:
    """List what happened while it was watched, the last first."""
    styles = {"death": "bad", "function": "faint"}
    rows = tuple(
        Row(
            key=("event", number),
            cells=(
                Cell(clock(event.at)),
                Cell(harmless(event.pool)),
                Cell(event.kind),
                Cell(harmless(" ".join(event.text.split()))),
            ),
            values=(event.at, event.pool, event.kind, event.text),
            style=styles.get(event.kind, ""),
            subject=event,
        )
        # What a picture tells may have happened before, as the deaths in the first one.
        for number, event in sorted(enumerate(session.log), key=lambda pair: pair[1].at)
    )
    return Table(_LOG, tuple(reversed(rows)), empty="nothing has happened so far")


# Words ------------------------------------------------------------------------------------------


def bar(share: float | None, width: int) -> str:
    """Draw a share of 0 to 1."""
    full = min(width, max(0, round((share or 0.0) * width)))
    return "█" * full + "░" * (width - full)


def percent(share: float | None) -> str:
    """Say a share of a processor in percent, without the sign."""
    return "" if share is None else f"{100 * share:.0f}"


def clock(at: float | None) -> str:
    """Say a time of the day, in the zone of who looks."""
    return "" if at is None else time.strftime("%H:%M:%S", time.localtime(at))
