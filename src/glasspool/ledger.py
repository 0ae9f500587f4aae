"""The ledger: for each task, who owns it and how it ended. The only place where that changes.

A task goes ``waiting -> sent -> one end``; that it has *begun* is told by the scoreboard, and only
asked when it matters (a death, a take-back, a look). Ends are final: a second word on a task that
has ended is ignored, so that a result which arrives twice (in a message and in the outbox of a dead
worker) counts once.

Pure: no thread, no clock, no I/O. One thread (the task-handler) calls it.

Invariants, checked by ``check()`` in the tests:

* a task that has not ended is in exactly one place: ``waiting``, or the ``held`` of one worker;
* a worker holds tasks in the order in which they were sent, numbered without a gap;
* ``submitted == len(waiting) + held by all workers + ended``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glasspool.options import Policy

WAITING, SENT, ENDED = range(3)

OPEN, PLAIN_END = -1, 0  # the latter is wire.OK_PLAIN

# How a task can end.
DONE, FAILED, LOST, CANCELLED, TIMEOUT = "done", "failed", "lost", "cancelled", "timeout"
ENDS = (DONE, FAILED, LOST, CANCELLED, TIMEOUT)


class Task:
    """What the ledger owns: an apply, which is a job by itself, or a ``Part`` of one.

    Attributes:
        id: Unique in the pool, in the order of submission.
        call: The number of the callable, 0 when the callable travels in the payload.
        kind: How to call it (``wire.APPLY`` and so on, with flags).
        payload: The arguments: pickled, as bytes or a ``payload.Parcel`` in shared memory; plain ones
            (``wire.PLAIN``) as they are. None when it has ended, unless they are plain.
        weight: How many bytes they take, roughly if they are plain.
        submitted_ns: ``time.monotonic_ns()`` of the submission.
        policy: How long it may run and how often it may be tried anew; None: as long as it takes, once.
        attempts: How often it was begun and came to nothing: its worker died, or it is tried anew.
        retried_ns: When it was last let wait for a further attempt; 0: never.
        seq: Its number among the tasks of the worker that holds it; of no meaning while it has none.
        holder: The ``Held`` of that worker, None while it waits and after its end.
        state: WAITING, SENT or ENDED.
        ended_as: What came (``wire.OK_PLAIN`` and so on); OPEN before. The next four are set before this,
            and a ``Part`` does not have them until then.
        outcome: The value if it came as OK_PLAIN; else kind and body, and once the body has been rebuilt,
            how many bytes it had, and the word for the end.
        worker: Who ran it; None if nobody did.
        begun_ns: When it began, on the clock of ``time.monotonic_ns()``; 0: it did not.
        ended_ns: When it ended there; 0: the parent ended it.
        owner: The job that it is a part of, told of the end; None if it is a job by itself.
        index: Its place in the job.
        items: How many calls of the user's function it holds.
        output: What it has written, where that is captured; a ``Part`` has it only then.

    There may be millions: each attribute more is memory, and time for the garbage collector. Each kind
    of task sets them in its constructor, in one row.
    """

    __slots__ = (
        "attempts",
        "begun_ns",
        "call",
        "ended_as",
        "ended_ns",
        "holder",
        "id",
        "kind",
        "outcome",
        "output",
        "payload",
        "policy",
        "retried_ns",
        "seq",
        "state",
        "submitted_ns",
        "weight",
        "worker",
    )

    owner: Any = None
    index: int = 0
    items: int = 1

    id: int
    call: int
    kind: int
    payload: Any
    weight: int
    submitted_ns: int
    policy: Policy | None
    attempts: int
    retried_ns: int
    seq: int
    holder: Held | None
    state: int
    ended_as: int
    outcome: Any
    worker: Any
    begun_ns: int
    ended_ns: int
    output: Any

    @property
    def job(self) -> Any:
        """The user's call that it belongs to."""
        return self if self.owner is None else self.owner

    def settle(self, kind: int, body: Any, worker: Any, begun_ns: int, ended_ns: int) -> None:
        """Take note of the end, and tell the job."""
        self.worker = worker
        self.begun_ns = begun_ns
        self.ended_ns = ended_ns
        self.outcome = body if kind == PLAIN_END else (kind, body)
        self.ended_as = kind
        self.notify()

    def notify(self) -> None:
        """Tell whoever waits for the end."""
        raise NotImplementedError


class Part(Task):
    """One chunk of a map, or one item of it."""

    __slots__ = ("index", "items", "owner")

    def __init__(
        self,
        id: int,
        owner: Any,
        index: int,
        items: int,
        call: int,
        kind: int,
        payload: Any,
        weight: int,
        submitted_ns: int,
        policy: Policy | None = None,
    ) -> None:
        self.id = id
        self.owner: Any = owner
        self.index: int = index
        self.items: int = items
        self.call = call
        self.kind = kind
        self.payload = payload
        self.weight = weight
        self.submitted_ns = submitted_ns
        self.policy = policy
        self.attempts = 0
        self.retried_ns = 0
        self.holder: Held | None = None
        self.state = WAITING
        self.ended_as = OPEN

    def notify(self) -> None:
        """Tell the job."""
        self.owner.settle_row([self])


class Held:
    """The tasks that one worker holds, in the order of sending, by id."""

    __slots__ = ("next_seq", "tasks")

    def __init__(self) -> None:
        self.tasks: dict[int, Task] = {}
        self.next_seq: int = 0

    def __len__(self) -> int:
        return len(self.tasks)


class Ledger:
    """Tasks that have not ended, and counters of those that have."""

    def __init__(self) -> None:
        self.waiting: deque[Task] = deque()
        self.holders: list[Held] = []
        self.submitted: int = 0
        self.ended: dict[str, int] = dict.fromkeys(ENDS, 0)

    def join(self) -> Held:
        """Add a worker and return what it holds: nothing yet."""
        held = Held()
        self.holders.append(held)
        return held

    def submit(self, task: Task) -> None:
        """Take a new task in."""
        self.submitted += 1
        self.waiting.append(task)

    def submit_row(self, tasks: list[Task]) -> None:
        """Take new tasks in."""
        self.submitted += len(tasks)
        self.waiting.extend(tasks)

    def adopt(self, held: Held, task: Task) -> None:
        """Take in a task that somebody has given to a worker already, with its number there."""
        self.submitted += 1
        task.state = SENT
        task.holder = held
        held.tasks[task.id] = task

    def next_waiting(self) -> Task | None:
        """Return the task that is to be sent next, or None."""
        waiting = self.waiting
        while waiting:
            if waiting[0].state == WAITING:
                return waiting[0]
            waiting.popleft()  # it was cancelled where it stood
        return None

    def send(self, held: Held) -> Task:
        """Hand the next waiting task to a worker. Call ``next_waiting`` first."""
        task = self.waiting.popleft()
        task.state = SENT
        task.seq = held.next_seq
        task.holder = held  # after its number: a view may look at any moment
        held.next_seq += 1
        held.tasks[task.id] = task
        return task

    def send_row(self, held: Held, most: int, room: int, must_fit: bool = False) -> list[Task]:
        """Hand the next waiting tasks to a worker, as long as they are alike.

        Alike are tasks without a policy with the same callable, called in the same way. At most so
        many, and so many bytes of arguments; but one in any case, unless that must fit, too. Call
        ``next_waiting`` first.
        """
        waiting, tasks, seq = self.waiting, held.tasks, held.next_seq
        call, kind = waiting[0].call, waiting[0].kind
        row: list[Task] = []
        while waiting and len(row) < most:
            task = waiting[0]
            if task.state == WAITING:
                if task.call != call or task.kind != kind or task.policy is not None:
                    break
                room -= task.weight
                if room < 0 and (row or must_fit):
                    break
                task.state = SENT
                task.seq = seq
                task.holder = held
                seq += 1
                tasks[task.id] = task
                row.append(task)
            waiting.popleft()  # else it was cancelled where it stood
        held.next_seq = seq
        return row

    def unsend(self, held: Held, tasks: list[Task]) -> None:
        """Undo ``send`` for the last tasks that a worker was given: its channel was full."""
        for task in reversed(tasks):
            self._return(held, task)
        held.next_seq -= len(tasks)

    def end(self, held: Held, task_id: int, how: str) -> Task | None:
        """Note the end that a worker told; None if that task is not (any more) the worker's."""
        task = held.tasks.pop(task_id, None)
        if task is not None:
            task.state = ENDED
            task.holder = None
            self.ended[how] += 1
        return task

    def end_row(self, held: Held, task_ids: Iterable[int], how: str) -> list[Task | None]:
        """Note the same end of several tasks that a worker told, as ``end`` does; None as there."""
        pop, count = held.tasks.pop, 0
        row = [pop(task_id, None) for task_id in task_ids]
        for task in row:
            if task is not None:
                task.state = ENDED
                task.holder = None
                count += 1
        self.ended[how] += count
        return row

    def end_here(self, task: Task, how: str) -> bool:
        """Note an end that the parent decided (cancelled, lost, could not be sent).

        Returns False if the task had ended before.
        """
        if task.state == ENDED:
            return False
        if task.holder is not None:
            del task.holder.tasks[task.id]
        task.state = ENDED
        task.holder = None
        self.ended[how] += 1
        return True

    def take_back(self, held: Held, tasks: Iterable[Task]) -> int:
        """Let tasks wait again that the worker is known never to begin; they go first."""
        back = [task for task in tasks if task.holder is held]
        for task in reversed(back):
            self._return(held, task)
        return len(back)

    def bury(self, held: Held, has_begun: Callable[[Task], bool]) -> list[Task]:
        """Take a dead worker out.

        Returns the tasks that it had begun, which are still to be ended or retried (``retry``) by
        the caller; the others wait again, first in line.
        """
        begun: list[Task] = []
        unbegun: list[Task] = []
        for task in held.tasks.values():
            (begun if has_begun(task) else unbegun).append(task)
        for task in begun:
            task.attempts += 1
        self.take_back(held, unbegun)
        self.holders.remove(held)
        return begun

    def retry(self, held: Held, task: Task, now_ns: int) -> None:
        """Let a task that had begun wait for its next attempt, first in line."""
        task.retried_ns = now_ns
        self._return(held, task)

    def unended(self) -> Iterator[Task]:
        """Yield the tasks that have not ended: the sent ones first."""
        for held in list(self.holders):
            yield from list(held.tasks.values())
        yield from [task for task in list(self.waiting) if task.state == WAITING]

    @property
    def open(self) -> int:
        """How many tasks have not ended."""
        return self.submitted - sum(self.ended.values())

    @property
    def sent(self) -> int:
        """How many tasks are with workers."""
        return sum(len(held) for held in list(self.holders))

    def check(self) -> None:
        """Raise AssertionError with the story if an invariant does not hold. For tests."""
        waiting = [task for task in self.waiting if task.state == WAITING]
        places: dict[int, str] = {}
        for task in waiting:
            _require(task.id not in places, f"task {task.id} waits twice")
            _require(task.holder is None, f"task {task.id} waits and is held")
            places[task.id] = "waiting"
        for number, held in enumerate(self.holders):
            seqs = [task.seq for task in held.tasks.values()]
            _require(seqs == sorted(seqs), f"worker {number} holds out of order: {seqs}")
            _require(all(s < held.next_seq for s in seqs), f"worker {number}: {seqs}")
            for task in held.tasks.values():
                _require(task.id not in places, f"task {task.id}: {places.get(task.id)} and held")
                _require(task.holder is held and task.state == SENT, f"task {task.id} is astray")
                places[task.id] = f"worker {number}"
        _require(
            self.open == len(places),
            f"{self.submitted} submitted, {self.ended} ended, {len(places)} open",
        )

    def _return(self, held: Held, task: Task) -> None:
        del held.tasks[task.id]
        task.state = WAITING
        task.holder = None
        task.seq = -1
        self.waiting.appendleft(task)


def _require(holds: bool, story: str) -> None:
    if not holds:
        raise AssertionError(story)
