"""What is told of one row that somebody wants to know more of: a thread with its stack, a task, a death.

Pure: each text is made from the session, as lines of ``headline.Words``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from glasspool.observe.records import TaskRecord
from glasspool.snapshot import DeathCertificate, Evidence, ProcessInfo, TaskInfo, ThreadInfo
from glasspool.views import table
from glasspool.views.table import duration, harmless, short_path, size
from glasspool.views.top import model
from glasspool.views.top.events import Event
from glasspool.views.top.headline import Line, Words
from glasspool.views.top.session import Watched

_LABEL = 11

Place = tuple[str | None, int]
"""The node and the pid of a process."""


def thread_of(subject: Any, one: Watched) -> tuple[Place, int] | None:
    """Return the process and thread that a row leads to, None if it leads to none."""
    if isinstance(subject, ThreadInfo):
        return (subject.node, subject.pid), subject.native_id
    if isinstance(subject, ProcessInfo):
        thread = model.task_thread(subject)
        return None if thread is None else (subject.place, thread.native_id)
    if isinstance(subject, TaskInfo) and subject.state == "running":
        for process in one.info.workers:
            for thread in process.threads:
                if "task" in thread.roles and thread.task and thread.task.id == subject.id:
                    return process.place, thread.native_id
    return None


def title(subject: Any) -> str:
    """Say in some words what the details are of."""
    if isinstance(subject, ThreadInfo):
        return f"thread {harmless(subject.name)} of {harmless(subject.process)}"
    if isinstance(subject, ProcessInfo):
        where = subject.role if subject.slot is None else f"worker {subject.slot}"
        on = "" if subject.node is None else f" on {harmless(subject.node)}"
        return f"{harmless(where)}{on}, pid {subject.pid}"
    if isinstance(subject, TaskInfo):
        return f"task {'' if subject.id is None else subject.id}".strip()
    if isinstance(subject, TaskRecord):
        return f"task {subject.task}, {harmless(subject.status)}"
    if isinstance(subject, DeathCertificate):
        return f"death of worker {subject.slot}, pid {subject.pid}"
    return "event"


def of_thread(one: Watched, place: Place, tid: int, width: int) -> list[Line]:
    """Tell of a thread: who it is, what it does, and its stack, the most recent call first."""
    process = next((p for p in one.info.processes if p.place == place), None)
    of_it = () if process is None else process.threads
    thread = next((t for t in of_it if t.native_id == tid), None)
    if process is None or thread is None:
        return [(Words("This thread has ended, or its process has.", "bad"),)]
    found = [
        _fact("thread", f"{thread.name}, tid {tid}{', main' if thread.is_main else ''}"),
        _fact("process", f"{_process(process)}, pid {process.pid}"),
        *([] if process.node is None else [_fact("node", harmless(process.node))]),
        _fact("roles", ", ".join(thread.roles)),
        _fact("state", _state(thread)),
    ]
    if thread.task is not None:
        found += _task(thread.task)
    found.append(())
    found += list(_stack(thread, width))
    return found


def _state(thread: ThreadInfo) -> str:
    # Its task is told in lines of its own.
    return table.thread_state(replace(thread, task=None) if thread.task else thread)


def _process(process: ProcessInfo) -> str:
    where = process.name if process.slot is None else f"worker {process.slot} ({process.name})"
    return f"{where}, {process.state}" if process.state else where


def _stack(thread: ThreadInfo, width: int) -> Iterator[Line]:
    note = thread.evidence.note
    if not thread.stack:
        why = note or ("no stack was told" if thread.python else "Python does not know this thread")
        yield (Words(f"No stack: {harmless(why)}", "waits"),)
        return
    yield (
        Words("stack", "strong"),
        Words(f"  (most recent call first; {origin(thread.evidence)})", "faint"),
    )
    if note:
        yield (Words(f"  {harmless(note)}", "waits"),)
    for frame in reversed(thread.stack):
        function = harmless(frame.function)
        where = f"{harmless(short_path(frame.file))}:{frame.line}"
        room = max(12, width - len(function) - 6)
        if len(where) > room:
            where = "…" + where[len(where) - room + 1 :]
        yield Words(f"  {function}", "strong"), Words(f"  {where}")


def origin(evidence: Evidence) -> str:
    """Say how a stack was got."""
    words = {"self": "its own word", "py-spy": "read by py-spy"}.get(evidence.source)
    said = [words or f"from {harmless(evidence.source)}"]
    if evidence.age_s:
        said.append(f"{duration(round(evidence.age_s, 3))} old")
    if evidence.whole is False:
        said.append("perhaps torn")
    return ", ".join(said)


def of_subject(subject: Any, one: Watched, width: int) -> list[Line]:
    """Tell of what has no thread (any more): a task, a death, an event."""
    if isinstance(subject, DeathCertificate):
        text = table.certificate_text(subject, width=max(table.LEAST_COLUMNS, width))
        return [(Words(line),) for line in text.splitlines()]
    if isinstance(subject, TaskInfo):
        current = next((t for t in one.info.tasks if t.id == subject.id and t.id), None)
        lines = _task(current or subject)
        if current is None and subject.id is not None:
            lines.append((Words("It is no longer among the open tasks.", "waits"),))
        return lines
    if isinstance(subject, TaskRecord):
        return list(_of_record(subject))
    if isinstance(subject, Event):
        return [
            _fact("at", model.clock(subject.at)),
            _fact("pool", subject.pool),
            (),
            *((Words(harmless(line)),) for line in subject.text.splitlines()),
        ]
    return [(Words("Nothing more is known of it.", "faint"),)]


def _task(task: TaskInfo) -> list[Line]:
    number = "" if task.id is None else f"{task.id}, "
    found = [_fact("task", f"{number}{task.state}"), _fact("function", task.function)]
    if task.arguments:
        found.append(_fact("arguments", task.arguments))
    said = model.progress(task)
    if said:
        found.append(_fact("progress", said))
    if task.items > 1:
        at = "" if task.item is None else f", at or behind no. {task.item + 1}"
        found.append(_fact("items", f"{task.items}{at}"))
    if task.attempts > 1:
        found.append(_fact("attempt", str(task.attempts)))
    if task.queue_wait_s is not None:
        found.append(_fact("waited", duration(task.queue_wait_s)))
    if task.run_s is not None:
        found.append(_fact("has run", duration(task.run_s)))
    if task.argument_bytes is not None:
        found.append(_fact("arguments", size(task.argument_bytes)))
    return found


def _of_record(record: TaskRecord) -> Iterator[Line]:
    yield _fact("task", f"{record.task}, {record.status}")
    yield _fact("function", record.function)
    if record.arguments:
        yield _fact("arguments", record.arguments)
    on = "" if record.node is None else f" on {harmless(record.node)}"
    there = f"{record.slot} (pid {record.pid}, no. {record.generation + 1} there){on}"
    yield _fact("worker", there)
    if record.submitted_ns is not None and record.begun_ns is not None:
        yield _fact("waited", duration(max(0, record.begun_ns - record.submitted_ns) / 1e9))
    if record.begun_ns is not None and record.ended_ns is not None:
        yield _fact("ran", duration((record.ended_ns - record.begun_ns) / 1e9))
    if record.called_ns is not None and record.begun_ns is not None:
        yield _fact("received in", duration((record.called_ns - record.begun_ns) / 1e9))
    if record.boxed_ns is not None and record.ended_ns is not None:
        yield _fact("pickled in", duration((record.boxed_ns - record.ended_ns) / 1e9))
    if record.items > 1:
        yield _fact("items", str(record.items))
    if record.result_bytes is not None:
        yield _fact("result", size(record.result_bytes))


def _fact(label: str, text: str) -> Line:
    return Words(f"{label:<{_LABEL}}", "faint"), Words(harmless(" ".join(text.split())))
