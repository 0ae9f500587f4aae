"""What is done to a pool by hand: which task or worker a row means, what is asked before, what is done.

The application calls it where ``--control`` allows it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from glasspool.snapshot import ProcessInfo, TaskInfo, ThreadInfo
from glasspool.views.table import duration, harmless
from glasspool.views.top import details, model
from glasspool.views.top.headline import Line, Words
from glasspool.views.top.session import Watched

if TYPE_CHECKING:
    from glasspool.views.top.app import TopApp


class Control(Protocol):
    """Who does it: ``observe.control``."""

    def cancel(self, pid: int, pool: str, task: int) -> Any:
        """Cancel a task."""

    def restart(
        self, pid: int, pool: str, worker: int, *, at_once: bool, node: str | None = None
    ) -> Any:
        """Restart a worker."""


def begin(app: TopApp, control: Control, what: str, one: Watched, subject: Any) -> None:
    """Ask, and then do it; say why not where it cannot be done."""
    process = _worker(subject, one)
    task = _task(subject, process)
    if what == "cancel":
        if task is None or task.id is None:
            app.say("this row has no task that could be cancelled")
            return
        _cancel(app, control, one, task, task.id)
    elif process is None:
        app.say("this row is of no worker")
    else:
        _restart(app, control, one, process)


def _worker(subject: Any, one: Watched) -> ProcessInfo | None:
    if isinstance(subject, ProcessInfo | ThreadInfo | TaskInfo):
        place = subject.node, subject.pid
        return next((p for p in one.info.workers if p.place == place), None)
    return None


def _task(subject: Any, process: ProcessInfo | None) -> TaskInfo | None:
    if isinstance(subject, TaskInfo):
        return subject
    if isinstance(subject, ThreadInfo) and subject.task is not None:
        return subject.task
    thread = None if process is None else model.task_thread(process)
    return None if thread is None else thread.task


def _cancel(app: TopApp, control: Control, one: Watched, task: TaskInfo, number: int) -> None:
    pool = one.info
    ran = f" It runs for {duration(task.run_s)}." if task.run_s else ""

    def lines(width: int) -> list[Line]:
        called = model.task_cell(task).text
        return [
            (Words(f"Cancel task {number} of {harmless(pool.name)}?", "strong"),),
            (Words(called),),
            (),
            (Words(f"Whoever waits for it gets TaskCancelled.{ran}"),),
            (Words("y", "key"), Words(" cancel it     any other key: no")),
        ]

    def answered(key: str | None) -> None:
        if key == "y":
            app.do(lambda: control.cancel(pool.pid, pool.name, number))
        else:
            app.say("nothing was cancelled")

    app.ask(lines, "y", answered)


def _restart(app: TopApp, control: Control, one: Watched, process: ProcessInfo) -> None:
    pool, key = one.info, (one.info.pid, one.info.name)

    def lines(width: int) -> list[Line]:
        now = app.session.pools.get(key, one)
        found = details.thread_of(process, now)
        stack = [] if found is None else details.of_thread(now, *found, width)
        on = "" if process.node is None else f" on {harmless(process.node)}"
        where = f"worker {process.slot}{on} (pid {process.pid}) of {harmless(pool.name)}"
        head = (Words(f"Restart {where}?", "strong"),)
        return [
            head,
            (Words("a", "key"), Words(" after its task: nothing is lost, a new process comes")),
            (Words("k", "key"), Words(" now: the task is lost, unless it has retries left", "bad")),
            (Words("any other key: no"),),
            (),
            *stack,
        ]

    def answered(answer: str | None) -> None:
        if answer in ("a", "k"):
            app.do(
                lambda: control.restart(
                    pool.pid,
                    pool.name,
                    process.pid,
                    at_once=answer == "k",
                    **({} if process.node is None else {"node": process.node}),
                )
            )
        else:
            app.say("nothing was restarted")

    app.ask(lines, "ak", answered)
