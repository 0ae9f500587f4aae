"""What the thread that owns a ledger takes in, whatever its workers are.

The local pool's collector and the dispatcher of a cluster have this in common: the mailbox by which the
other threads hand in tasks and calls, the feeds that will hand in more, and how tasks end by a decision of
their own. Where tasks go, and how their ends come back, is the business of each.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from glasspool.engines.local import wire
from glasspool.engines.local.mailbox import Mailbox
from glasspool.engines.local.outcome import RAISED, raised_classes, settle
from glasspool.engines.local.worker import class_name
from glasspool.errors import TaskCancelled, TaskExit, WorkerDied
from glasspool.ledger import CANCELLED, ENDED, FAILED, Ledger, Task

if TYPE_CHECKING:
    from glasspool.undone import Undone

DRAIN = 2048
"""So many items of the mailbox are taken in before it is looked what else there is to do."""

DRAINED = "the pool was drained before the task began"


class Intake:
    """The ledger, and what comes in beside the ends of tasks. All but the marked ones is its thread's."""

    _engine: Any
    stall: Any  # what watches whether anything moves: ``watching``, ``begin()``
    lender: Any  # what lends workers to callers: ``call(task)``

    def __init__(self) -> None:
        self.mailbox: Mailbox = Mailbox()
        self.ledger: Ledger = Ledger()
        self.feeds: dict[weakref.ref[Any], Any] = {}
        self._taken: list[Task] = []  # out of the mailbox, and not yet in the ledger
        self.pace: dict[int, float] = {}
        self.item_pace: dict[int, float] = {}  # of callables in maps without a chunksize
        self.failure: BaseException | None = None
        self.journal: Any = None  # a Journal, while somebody records the pool
        # What is said of tasks that somebody cancelled from outside.
        self.by_hand: dict[int, str] = {}
        self.closing: bool = False
        self.draining: bool = False
        self.undone: list[Undone] = []
        self.stopped: bool = False
        self._parked = False

    # What each does in its own way -------------------------------------------------------------------

    def cancel(self, task: Task) -> None:
        """End a task that waits, and interrupt one that runs; nothing if it has ended (an item)."""
        raise NotImplementedError

    def withdraw(self, task: Task) -> bool:
        """End a task that nobody has begun; False if somebody has, or may have (an item)."""
        raise NotImplementedError

    def _holder(self, task: Task) -> Any:
        """Return who holds a task; None if it waits."""
        raise NotImplementedError

    def _dropped(self, reference: Any) -> None:
        """Take in the weak reference of something else than a feed."""

    # The mailbox ------------------------------------------------------------------------------------

    def _work_off(self) -> None:
        """Take in what other threads have put here: tasks, rows of tasks, and calls."""
        items = self.mailbox.items
        row = self._taken = []
        for _ in range(DRAIN):
            if not items or self._parked:
                break
            item = items.popleft()
            if isinstance(item, Task):
                row.append(item)
                continue
            if row:  # they came before the item
                self._submit(row)
                row = self._taken = []
            self._take_in(item)
        if row:
            self._submit(row)
            self._taken = []

    def _take_in(self, item: Any) -> None:
        if type(item) is list:
            self._submit(item)
            job = item[0].job
            if job._aborted and not getattr(job, "_drains", False):  # those are put aside
                self._cancel_late(item)
        elif type(item) is weakref.ref:
            if self.feeds.pop(item, None) is None:
                self._dropped(item)
        elif isinstance(item, Task):
            self._submit([item])
        else:
            item()

    def take_late(self) -> None:
        """End what was handed in when the loop had ended already (any thread).

        Whoever hands something in calls this after that, and the engine once after it has said that
        it is done: so nothing is left lying, whoever came first.
        """
        for job in list(self.feeds.values()):
            job.abort(TaskCancelled("the pool has ended"))
        while True:
            try:
                item = self.mailbox.items.popleft()
            except IndexError:
                return
            self._take_in(item)

    def look(self) -> None:
        """Do nothing but wake the loop, to look whether it is finished (an item)."""

    def in_line(self) -> int:
        """Return how many tasks no worker has, roughly, with those not seen yet (any thread)."""
        return len(self.ledger.waiting) + len(self._taken) + len(self.mailbox.items)

    # Feeds ------------------------------------------------------------------------------------------

    def begin_feed(self, feed: Any, job: Any) -> None:
        """Say that more tasks of a job will come, so that the pool is not finished before (any thread).

        If the feed is dropped without ``end_feed`` (a signal handler raised in its thread), its weak
        reference lands in the mailbox.
        """
        self.feeds[weakref.ref(feed, self.mailbox.items.append)] = job
        if self.mailbox.late is not None:
            self.mailbox.late()

    def end_feeds_of(self, ident: int) -> bool:
        """Have a thread's feeds end at once (that thread); False if one of them cannot."""
        feeds = [reference() for reference in list(self.feeds)]
        mine = [feed for feed in feeds if feed is not None and feed.ident == ident]
        return all(feed.end_now() for feed in mine)

    def end_feed(self, feed: Any) -> None:
        """Say that no more tasks of a job will come (any thread)."""
        for reference in weakref.getweakrefs(feed):
            self.feeds.pop(reference, None)
        if self.closing:
            self.mailbox.put(self.look)  # it may have been the last thing to wait for

    def _submit(self, row: list[Task]) -> None:
        self.ledger.submit_row(row)
        if self.failure is not None:
            for task in row:
                self.settle_here(task, copy_of(self.failure), FAILED)
        elif self.stopped:
            for task in row:
                self.settle_here(task, TaskCancelled("the pool was terminated"), CANCELLED)

    def _cancel_late(self, tasks: list[Task]) -> None:
        """End tasks that their feed made while the job was being cancelled."""
        for task in tasks:
            self.settle_here(task, TaskCancelled(f"{task.job.label()} was cancelled."), CANCELLED)

    # Ends by our own decision -----------------------------------------------------------------------

    def refuse(self, task: Task, error: BaseException) -> None:
        """Take a task in that could not be pickled, and end it (an item)."""
        self.ledger.submit(task)
        self.settle_here(task, error, FAILED)

    def settle_here(self, task: Task, error: BaseException, how: str, worker: Any = None) -> None:
        """End a task by a decision of the parent."""
        if self.by_hand and (said := self.by_hand.pop(task.id, "")) and how == CANCELLED:
            error.add_note(said)
        if self.journal is not None and task.state != ENDED:
            holder = worker or self._holder(task)
            self.journal.ended_here(task, how, error, holder, is_counted=worker is not None)
        if self.ledger.end_here(task, how):
            settle(task, RAISED, error, worker, 0, 0)

    def tries_anew(self, task: Task, kind: int, body: Any) -> bool:
        """Tell whether a task that raised is to have a further attempt, and count the one that failed."""
        if task.policy is None or not task.policy.retry_on:
            return False
        if kind in (wire.UNSENDABLE, RAISED) or self._gives_up:
            return False
        if task.attempts >= task.policy.retries:
            return False
        raised = raised_classes(body)
        named = task.policy.retry_on
        is_exit = kind in (wire.EXIT, wire.EXIT_SEGMENT) and TaskExit in named
        if not is_exit and not any(class_name(cls) in raised for cls in named):
            return False
        task.attempts += 1
        return True

    @property
    def _gives_up(self) -> bool:
        return self.stopped or self.failure is not None

    def may_retry(self, task: Task, error: type[BaseException]) -> bool:
        """Tell whether a task whose last attempt is counted may have another one."""
        policy = task.policy
        if policy is None or task.attempts > policy.retries or self._gives_up:
            return False
        return issubclass(error, (WorkerDied, *policy.retry_on))

    def cancel_job(self, job: Any) -> None:
        """End all tasks of a job, those that run too, and make no more of them (an item)."""
        job.abort(TaskCancelled(f"{job.label()} was cancelled."))
        for task in list(self.ledger.unended()):
            if task.job is job:
                self.cancel(task)

    def _put_aside(self) -> None:
        """End the tasks that wait, and note them for the caller of ``drain``, who has loaded this."""
        from glasspool.undone import undone

        while (task := self.ledger.next_waiting()) is not None:
            known = self._engine.callables.find(task.call)
            self.undone.append(undone(task, known))
            self.settle_here(task, TaskCancelled(DRAINED), CANCELLED)

    def _end_all(self, error: BaseException, how: str) -> None:
        for job in list(self.feeds.values()):
            job.abort(copy_of(error))
        for task in list(self.ledger.unended()):
            self.settle_here(task, copy_of(error), how)


def copy_of(error: BaseException) -> BaseException:
    """Return an error for one task alone: an error that many raise collects all their tracebacks."""
    import copy

    made = copy.copy(error)
    made.__cause__ = error.__cause__
    return made
