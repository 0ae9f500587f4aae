"""The local engine: the parts of a local pool, put together.

Owns: the scoreboard file, the outboxes, the three kinds of threads, and the order in which all of it
ends. The parts know each other only through it, and talk by mailbox:

* the *worker-handler* (``workers``) owns processes;
* the *collector* (``collector``: task-handler and result-handler) owns the ledger;
* the *callback* thread runs the user's callbacks, one after the other.

Shutdown order: the collector ends or cancels every task and tells the workers to stop; the
worker-handler sees them gone, ends the template, stops the collector, closes what is left, and turns
``done``. The callback thread ends after the last callback.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any, NamedTuple

from glasspool import registry
from glasspool.engines.base import CAPABILITIES, LOCAL, Capabilities
from glasspool.engines.local import account, certificate, events, interactive, kernel, segments
from glasspool.engines.local import scoreboard as sb
from glasspool.engines.local.account import Account
from glasspool.engines.local.blackbox import BlackBoxes
from glasspool.engines.local.callables import Callables
from glasspool.engines.local.certificate import Coroner
from glasspool.engines.local.collector import Collector
from glasspool.engines.local.duty import Duty
from glasspool.engines.local.environment import Environment
from glasspool.engines.local.logs import Logs
from glasspool.engines.local.oom import OomWatch
from glasspool.engines.local.outbox import OUTBOX_BYTES, Outboxes
from glasspool.engines.local.outfit import Outfit
from glasspool.engines.local.processes import MakeProcess, Recipe
from glasspool.engines.local.rescue import Rescue
from glasspool.engines.local.rounds import Round
from glasspool.engines.local.scarcity import Shortage, no_thread
from glasspool.engines.local.slots import Change
from glasspool.engines.local.stall import StallWatch
from glasspool.engines.local.starting import Starts
from glasspool.engines.local.workers import FIRST_AT_ONCE, Worker, WorkerHandler, new_thread
from glasspool.errors import GlasspoolError, TaskCancelled, WorkerDied
from glasspool.latch import Latch
from glasspool.ledger import Task
from glasspool.options import PoolOptions

if TYPE_CHECKING:
    from glasspool.engines.local.cells import Cells
    from glasspool.engines.local.forwarding import Levels
    from glasspool.engines.local.journal import Journal
    from glasspool.engines.local.logs import Elsewhere
    from glasspool.engines.local.outputs import Outputs
    from glasspool.engines.local.showing import Showing
    from glasspool.feeding import Feed
    from glasspool.snapshot import DeathCertificate

START_LIMIT_S = 60.0
LOAD_AFTER_S = 0.25
"""So long after its start a pool loads what it needs at a death: then there may be no descriptor left."""

CALLBACK_GRACE_S = 1.0
THREAD_GRACE_S = 1.0

HANDLER, COLLECTOR, CALLBACK = "worker-handler", "task-handler+result-handler", "callback"

MOST = 256
"""A pool can be resized to so many workers, or to four times as many as it was made with."""


class Setting(NamedTuple):
    """Where a pool is made, if not in the program that uses it but for it, on a node of a cluster.

    ``path`` are folders from which workers are to import modules beside their own. ``imports_main``: the
    main module of this process is the program's, which workers that are started anew import. ``processors``
    is how many processors the node has for the pool. ``elsewhere`` is told of records and events in place of
    this process's loggers, and ``levels`` are those of the program's. ``unset`` are variables that workers
    are not to inherit from this process; ``pool`` is the program's pool, whose name tasks are told.
    """

    path: tuple[str, ...] = ()
    imports_main: bool = True
    node: str | None = None
    processors: int | None = None
    elsewhere: Elsewhere | None = None
    levels: Levels | None = None
    unset: tuple[str, ...] = ()
    pool: str | None = None


class Plan(NamedTuple):
    """What a pool is to be, as its constructor was told."""

    name: str
    number: int
    size: int
    maxtasksperchild: int | None
    context: Any
    make_process: MakeProcess
    initializer: Callable[..., object] | None
    initargs: tuple[Any, ...]
    made_at: str
    options: PoolOptions = PoolOptions()
    kind: str = "glasspool.Pool"
    setting: Setting = Setting()


def _records(size: int) -> int:
    """Return how many records so many workers need, with those that start before others have left."""
    return size + max(8, size // 4)


def _most_workers(size: int, lanes: int) -> int:
    """Return to how many workers a pool can be resized that begins with so many."""
    most = max(MOST, 4 * size)
    limit = kernel.file_size_limit()
    record_bytes = sb.RECORD_BYTES + lanes * sb.LANE_BYTES
    if limit is not None:
        # The shared memory is files for the kernel: what they may grow to has to fit in.
        records = min((limit - sb.RECORDS_AT) // record_bytes, limit // OUTBOX_BYTES)
        while most > size and _records(most) > records:
            most -= 1
    return most


def _collector(engine: LocalEngine) -> Collector:
    if not engine.lanes:
        return Collector(engine)
    from glasspool.engines.local.laned import LanedCollector  # not before somebody wants some

    return LanedCollector(engine)


class Grave(NamedTuple):
    """A worker that has ended: its account, and how it ended. Instants are of ``time.monotonic_ns()``."""

    slot: int
    generation: int
    pid: int
    exitcode: int | None
    tasks_done: int
    busy_s: float
    on_purpose: bool
    reason: str | None = None
    name: str = ""
    native_id: int | None = None
    started_ns: int = 0
    initializer_ns: tuple[int, int] = (0, 0)
    ended_ns: int = 0
    time: Account = Account()
    replaced: bool = False  # on purpose, by another worker in its slot


def _grave(board: sb.Board, worker: Worker, replaced: bool) -> Grave:
    """Write down what its record still tells of a worker that has ended."""
    record = worker.record
    return Grave(
        slot=worker.slot,
        generation=worker.generation,
        pid=worker.pid,
        exitcode=worker.exitcode,
        tasks_done=board.word(record, sb.W_DONE),
        busy_s=board.word(record, sb.W_BUSY_NS) / 1e9,
        on_purpose=worker.stopping,
        reason=worker.recycled_for or worker.end_reason,
        name=worker.process.name if worker.process is not None else f"worker {worker.slot}",
        native_id=board.word(record, sb.W_NATIVE) or None,
        started_ns=board.word(record, sb.W_STARTED_NS) or worker.started_ns,
        initializer_ns=(
            board.word(record, sb.W_INIT_BEGUN_NS),
            board.word(record, sb.W_INIT_ENDED_NS),
        ),
        ended_ns=worker.ended_ns,
        time=account.of_record(board, record, worker.ended_ns)
        or Account(start=max(0, worker.ended_ns - worker.started_ns)),
        replaced=replaced,
    )


class LocalEngine:
    """A local pool without its user interface."""

    is_threads: bool = False  # its workers are processes
    is_cluster: bool = False  # of this machine
    can: Capabilities = CAPABILITIES[LOCAL]

    def __init__(self, plan: Plan) -> None:
        from glasspool.engines.local.payload import callable_name

        self.name: str = plan.name
        self.number: int = plan.number
        self.pid: int = os.getpid()
        self.size: int = plan.size
        self.lanes: int = 0 if plan.options.threads == 1 else plan.options.threads
        self.places: int = plan.size * plan.options.threads  # so many tasks run at once
        self.maxtasksperchild: int | None = plan.maxtasksperchild
        self.made_at: str = plan.made_at
        self.kind: str = plan.kind
        self.options: PoolOptions = plan.options
        self.start_method: str = str(plan.context.get_start_method())
        self.initializer: str | None = (
            None if plan.initializer is None else callable_name(plan.initializer)
        )
        self.done: Latch = Latch()
        self.is_usable: bool = True  # it has not ended, and this is its own process
        self.callers: dict[int, tuple[str, float]] = {}
        self.graves: deque[Grave] = deque(maxlen=1000)
        self.deaths: deque[DeathCertificate] = deque(maxlen=100)
        self.died_in_all: int = 0
        self.buried_in_all: int = 0
        self.acts_by_hand: int = 0  # what somebody did to it from outside
        self.answerer: Callable[[LocalEngine, dict[str, Any]], dict[str, Any]] | None = None
        self.on_shutdown: Callable[[LocalEngine], None] | None = None
        self.on_disposed: Callable[[LocalEngine], None] | None = None
        self.rescue: Rescue = Rescue(self)
        self.next_id: Callable[[], int] = itertools.count(1).__next__
        self.cells: Cells | None = None
        if "ipykernel" in sys.modules:
            from glasspool.engines.local import cells

            self.cells = cells.of_kernel(self.next_id)
        self.shortage: Shortage = Shortage(plan.name, plan.made_at)
        self.environment: Environment = Environment(
            plan.options, plan.size, plan.setting.processors
        )
        self.shortage.tell = lambda text: events.pool_short(self, text)
        self.most: int = _most_workers(plan.size, self.lanes)
        with contextlib.ExitStack() as undo:
            self.board: sb.Board = sb.Board.create(
                plan.name,
                plan.size,
                _records(plan.size),
                capacity=_records(self.most),
                made_at=plan.made_at,
                command=" ".join(sys.argv),
                start_method=self.start_method,
                initializer=self.initializer or "",
                lanes=self.lanes,
            )
            undo.callback(self.board.close)
            undo.callback(self.board.unlink)
            if self.board.trouble:
                self.shortage.note("scoreboard", self.board.trouble)
            self.boxes: Outboxes = Outboxes.create(_records(plan.size), _records(self.most))
            undo.callback(self.boxes.close)
            self.black: BlackBoxes = BlackBoxes.create(_records(plan.size), _records(self.most))
            undo.callback(self.black.close)
            self.logs: Logs = Logs(
                self, plan.options.forward_logs, plan.setting.elsewhere, plan.setting.levels
            )
            undo.callback(self.logs.close)
            self.coroner: Coroner = Coroner(self)
            self.callables: Callables = Callables(self.board.name_call)
            undo.callback(interactive.end, self.number)
            interactive.begin(self.number, self.start_method)
            self.outputs: Outputs | None = None
            if plan.options.capture_output:
                from glasspool.engines.local import outputs

                self.outputs = outputs.Outputs(_records(self.most))
                undo.callback(self.outputs.close)
            recipe = Recipe(
                plan.context,
                plan.make_process,
                self.board,
                self.boxes,
                plan.initializer,
                plan.initargs,
                self.black,
                plan.options.finalizer,
                Outfit.of(plan.options, plan.size)._replace(
                    logs=self.logs.sender,
                    capture=None if self.outputs is None else self.outputs.file,
                    path=plan.setting.path,
                    node=plan.setting.node,
                    unset=plan.setting.unset,
                    pool=plan.setting.pool,
                ),
                plan.setting.imports_main,
            )
            self.stall: StallWatch = StallWatch(self)
            self.forked_beside: tuple[str, ...] = ()
            self.handler: WorkerHandler = WorkerHandler(self, recipe)
            undo.callback(self.handler.mailbox.close)
            self.collector: Collector = _collector(self)
            undo.pop_all()
        self.threads: dict[str, threading.Thread] = {}
        self._callbacks: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.calling_back: Any = None
        self.called_back_at: float = 0.0
        self.owed: dict[Any, None] = {}  # the jobs whose callbacks have not returned, oldest first
        self._callbacks_ended = False
        self.feeders: dict[threading.Thread, Feed] = {}
        self._showing: dict[str, Showing] = {}  # empty, or one
        self.over_memory = 0  # workers that were replaced or stopped because of their memory
        self.starts: Starts = Starts(self)
        self._changes: set[Change] = set()
        self._ordered = 0  # so many of the first workers has the template, without a request
        self._started = 0
        self._all_started = Latch()
        self._start_error: BaseException | None = None
        self._terminating = False
        self.cut_short: bool = False
        self.parking: bool = False
        self._duties: dict[str, Duty] = {HANDLER: Duty(), COLLECTOR: Duty()}

    # Starting -------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Fork the template, if the start method is fork. To be called with no thread of ours."""
        if self.start_method == "fork":
            self._ordered = min(self.size, FIRST_AT_ONCE)
            self.handler.fork_template(self.os_name_of_template, self._ordered)
        else:
            self.handler.use_context(f"gp{self.number} nanny")

    def start(self) -> None:
        """Start the threads and the workers; returns when every worker has a process.

        Raises:
            Exception: A worker could not be started. The engine has ended then.
        """
        segments.kept.begin(self.number)
        trouble = self.handler.serve_on(self.board.socket_file)
        if trouble:
            self.shortage.note("socket", trouble)
        try:
            self.resume()
        except RuntimeError:
            self._end_without_threads()
            raise
        for slot in range(self._ordered, self.size):
            self.handler.mailbox.put(lambda slot=slot: self._first_start(slot))
        watch = OomWatch()  # here, while the first workers start, and nobody waits for this thread
        watch.group_of(self.pid)  # most likely theirs, too
        self.collector.mailbox.put(lambda: self.coroner.begin(watch))
        if not self._all_started.wait(START_LIMIT_S):
            self._start_error = GlasspoolError(
                f"the workers of {self.name} could not be started within {START_LIMIT_S:.0f} s"
            )
        if self._start_error is not None:
            self.terminate()
            self.done.wait(5.0)
            raise self._start_error
        events.pool_started(self)

    def _first_start(self, slot: int) -> None:
        if self._start_error is None:
            try:
                self.handler.start(slot)
            except BaseException as error:  # it is raised in the constructor
                self._start_error = error
                self._all_started.set()

    def start_slot(self, slot: int) -> None:
        """Start a worker for a slot now (worker-handler); try again later if that fails."""
        if self._terminating or self.collector.failure is not None or slot >= self.size:
            return
        try:
            self.handler.start(slot)
        except Exception as error:  # also what multiprocessing meets on its way
            self.start_failed(slot, error)

    def joined(self, worker: Worker) -> None:
        """A worker has a process (worker-handler)."""
        self.shortage.over(f"worker {worker.slot}")
        self.collector.mailbox.put(lambda: self.collector.join(worker))
        self._started += 1
        if self._started >= self.size and not self._all_started.is_set():
            self._all_started.set()
            self.handler.later(LOAD_AFTER_S, certificate.load)

    def start_failed(self, slot: int, error: Exception) -> None:
        """A worker could not be started (worker-handler): in the beginning an error, later a pause."""
        if not self._all_started.is_set():
            self._start_error = error
            self._all_started.set()
        elif self._start_error is None:
            what = f"worker {slot}"
            self.handler.start_later(slot, self.shortage.failed(what, what, error))
            self.start_put_off(slot)

    def start_put_off(self, slot: int) -> None:
        """A worker cannot be started now, and will be later: nobody waits for it (worker-handler)."""
        self.collector.mailbox.put(lambda: self.collector.staff.start_failed(slot))

    # Resizing -------------------------------------------------------------------------------------

    def resize(self, size: int) -> None:
        """Change the number of workers; returns when the new ones have a process. Any thread.

        Raises:
            ValueError: There is no room for so many, or the pool has ended meanwhile.
            GlasspoolError: The pool has failed, or the processes take too long to start.
        """
        if size > self.most:
            raise ValueError(
                f"{self.name} can have {self.most} workers at most, not {size}: the memory that its "
                "workers share cannot grow beyond that. A pool that is made with more processes "
                f"can have four times as many: Pool({-(-size // 4)}) and then resize({size})."
            )
        self.environment.prepare(size)
        change = Change()
        # First noted, then looked whether the pool has ended; at its end it is the other way round.
        self._changes.add(change)
        try:
            if self.done.is_set():
                raise ValueError("Pool not running")
            self.collector.mailbox.put(lambda: self.collector.staff.resize(size, change))
            events.pool_resized(self, size)
            # Woken by the collector: by the last start, by a failed one, or at the end of the pool.
            if not change.arranged.wait(START_LIMIT_S):
                raise GlasspoolError(
                    f"the new workers of {self.name} have no process after {START_LIMIT_S:.0f} s; "
                    "they are still being started."
                )
        finally:
            self._changes.discard(change)
        if change.error is not None:
            raise change.error

    def give_up_changes(self, error: BaseException) -> None:
        """Tell whoever waits in ``resize`` that no worker will be started any more."""
        for change in list(self._changes):
            change.give_up(error)
        self.collector.rounds.give_up(error)

    def run_on_all(self, function: Callable[[], object]) -> Round:
        """Have every worker call a function once, those that come later, too. Any thread.

        Raises:
            Exception: The function cannot be pickled.
        """
        made = Round(self.next_id(), self.callables.for_job(function))
        self.collector.mailbox.put(lambda: self.collector.rounds.begin(made, self.size))
        return made

    # Threads --------------------------------------------------------------------------------------

    def resume(self) -> None:
        """Start the threads that are not running (again).

        A thread that is just about to stand aside gives its duty back and then looks at ``parking``;
        here it is the other way round. So one of the two goes on, and if both would, the duty
        decides.
        """
        self.parking = False
        for role, duty in list(self._duties.items()):
            is_over = self.done.is_set() and not (role == CALLBACK and self.owed)
            if duty.is_free and not is_over:
                self._start_thread(role)
        for showing in self._showing.values():
            showing.resume()
        self.logs.resume()

    def _start_thread(self, role: str) -> None:
        thread = new_thread(lambda: self._serve(role), f"{self.name} {role}")
        former = self.threads.get(role)
        if former is None or not former.is_alive():
            self.threads[role] = thread
        try:
            thread.start()
        except RuntimeError:  # there is no thread to be had
            if former is not None:
                self.threads[role] = former
            else:
                del self.threads[role]
            raise

    def _serve(self, role: str) -> None:
        """Run one of the loops, unless another thread does."""
        loop = {
            HANDLER: self.handler.run,
            COLLECTOR: self.collector.run,
            CALLBACK: self._run_callbacks,
        }[role]
        duty = self._duties[role]
        while duty.take():
            if self.done.is_set() and role != CALLBACK:
                return  # it has ended meanwhile, in another thread
            self.threads[role] = threading.current_thread()
            try:
                was_parked = loop()
            finally:
                duty.give()
            if was_parked:
                # Whoever has us stand aside waits for the end of this very thread.
                if not self.parking and duty.is_free:
                    self._start_thread(role)
                return
            if role != CALLBACK or self._callbacks.empty():
                return  # else a callback came late, and found us here

    def _end_without_threads(self) -> None:
        """End a pool of which not every thread could be started, and no worker was."""
        handler = self.threads.get(HANDLER)
        if handler is None:
            self.discard()
        else:
            self._terminating = True
            self.handler.mailbox.put(self._undo_start)
            self.done.wait(5.0)  # woken by the worker-handler's last act

    def _undo_start(self) -> None:
        self.collector.mailbox.items.clear()  # workers that it was to take in, but it does not run
        self.handler.undo()

    def come_back(self) -> bool:
        """Start our threads again; False if they cannot be started for want of threads."""
        try:
            self.resume()
        except RuntimeError:
            return False
        return True

    def collapse(self) -> None:
        """End the pool here and now, in the calling thread: ours cannot be started any more."""
        self.park()
        self._terminating = True
        error = GlasspoolError(
            f"the threads of {self.name} stood aside for the fork of another pool, and could not be "
            "started again: the limit of processes and threads (ulimit -u, pids.max) is reached. "
            "The pool has ended; raise the limit and make a new one."
        )
        self.collector.collapse(error)
        self.handler.collapse()
        self.collector.collapse(error)  # again: it has been told of the ends of the workers
        self.dispose()

    def park(self) -> list[int]:
        """Stop our threads for a moment, because another pool is about to fork this process.

        Returns the native ids of those that stopped. ``resume`` starts them again.
        """
        self.parking = True
        self.handler.mailbox.put(self.handler.park)
        self.collector.mailbox.put(self.collector.park)
        if self.calling_back is None:
            self._callbacks.put(_PARK)
        parked = []
        for role, thread in list(self.threads.items()):
            if role == CALLBACK and self.calling_back is not None:
                continue  # it runs the user's code
            if thread is threading.current_thread():
                continue  # a pool is made in the hook that shows a warning
            if thread.ident is None:
                continue  # we are in a signal handler, further out it is about to be started
            thread.join(2.0)
            if not thread.is_alive() and thread.native_id is not None:
                parked.append(thread.native_id)
        for showing in self._showing.values():  # after the collector, which starts its thread
            parked += showing.park()
        parked += self.logs.park()
        return parked

    def os_name(self, role: str) -> str:
        """Return the name of one of our threads for the operating system."""
        return f"gp{self.number} {role}"

    @property
    def os_name_of_template(self) -> str:
        """The template's name for the operating system.

        Without a blank: CPython counts the threads of a process that forks in its ``/proc/self/stat``, and
        takes what stands behind a blank in the name for the next field.
        """
        return f"gp{self.number}-template"

    def own_threads(self) -> dict[threading.Thread, tuple[tuple[str, ...], str]]:
        """Return our threads with their roles and states."""
        found: dict[threading.Thread, tuple[tuple[str, ...], str]] = {}
        job = self.calling_back
        states = {
            "worker-handler": self.handler.state,
            "task-handler+result-handler": self.collector.state,
            "callback": "waiting for a callback to run"
            if job is None
            else f"running the callback of {job.label()}",
            "stall-watch": "looking why nothing moves",
        }
        for role, thread in list(self.threads.items()):
            found[thread] = (tuple(role.split("+")), states[role])
        rescuer = self.rescue.thread
        if rescuer is not None:
            found[rescuer] = (("worker-handler",), "forking a new template")
        for thread, feed in list(self.feeders.items()):
            found[thread] = (("iterable",), feed.state)
        for showing in self._showing.values():
            if showing.thread is not None:
                found[showing.thread] = (("progress",), showing.state)
        if self.logs.thread is not None:
            found[self.logs.thread] = (("logs",), self.logs.state)
        return found

    # Tasks ----------------------------------------------------------------------------------------

    def submit(self, task: Task) -> None:
        """Hand a task in, from any thread."""
        if self.collector.journal is not None:
            self.collector.journal.submitted((task,))
        self.collector.mailbox.put(task)

    def submit_all(self, tasks: Sequence[Task]) -> None:
        """Hand a row of tasks in."""
        if self.collector.journal is not None:
            self.collector.journal.submitted(tasks)
        self.collector.mailbox.put(tasks)

    def submit_failed(self, task: Task, error: BaseException) -> None:
        """Hand in a task that has failed already: it could not be pickled."""
        if self.collector.journal is not None:
            self.collector.journal.submitted((task,))
        self.collector.mailbox.put(lambda: self.collector.refuse(task, error))

    def forget_callable(self, number: int) -> None:
        """Drop a callable whose job has ended (collector)."""
        if self.collector.journal is not None:
            self.collector.journal.forgotten(number)
        self.callables.forget(number)
        self.collector.pace.pop(number, None)
        self.collector.item_pace.pop(number, None)
        for worker in self.collector.workers.values():
            if number in worker.known:
                worker.known.discard(number)
                worker.forget.append(number)

    def where(self, task: Task) -> None:
        """Return no node: there is one, this machine."""

    def nudge(self) -> None:
        """Make sure that nothing lies unseen in the mailbox."""
        self.collector.mailbox.nudge()

    def has_work(self) -> bool:
        """Tell whether something has been submitted that has not ended (any thread)."""
        collector = self.collector
        return bool(
            collector.ledger.open
            or any(not job.waits_for_reader for job in list(collector.feeds.values()))
            or collector.lender.is_lending
            or self.calling_back is not None
        )

    # Callbacks ------------------------------------------------------------------------------------

    def call_back(self, job: Any) -> None:
        """Run a job's callback on the callback thread (collector)."""
        self.owed[job] = None
        self._callbacks.put(job)
        if CALLBACK not in self._duties or self._callbacks_ended:
            # Not here: this may be a user's thread, with a signal handler that raises.
            self.collector.mailbox.put(self._start_callbacks)

    def _start_callbacks(self) -> None:
        if CALLBACK not in self._duties:
            self._duties[CALLBACK] = Duty()
        elif not self._callbacks_ended:
            return
        if self._callbacks_ended:
            self._callbacks.put(_END)  # the thread runs what came late, and ends
        try:
            self._start_thread(CALLBACK)
        except RuntimeError as error:
            del self._duties[CALLBACK]
            self._fail_callbacks(no_thread(error, "the callback"))

    def _fail_callbacks(self, error: Exception) -> None:
        """End the jobs whose callbacks no thread can be had for; nobody else takes them now."""
        while True:
            try:
                job = self._callbacks.get_nowait()
            except queue.Empty:
                return
            if self.owed.pop(job, _PARK) is not _PARK:
                job.callback_failed(error)

    def new_journal(self) -> Journal:
        """Return an empty journal for this pool."""
        from glasspool.engines.local import journal  # not before somebody records

        return journal.Journal(self.board)

    def _run_callbacks(self) -> bool:
        kernel.name_this_thread(self.os_name("callback"))
        while True:
            try:
                # Woken by the next job, or by the end of the pool; after that there is nobody to wake us.
                job = self._callbacks.get(not self._callbacks_ended)
            except queue.Empty:
                return False
            if job is _PARK:
                return True
            if job is _END:
                return False
            self.called_back_at = time.monotonic()
            self.calling_back = job
            journal = self.collector.journal
            try:
                if journal is None:
                    job.run_callback()
                else:
                    journal.calling_back(job)
            finally:
                self.calling_back = None
                # Ready only now: whoever waits for the job and then forks finds this thread at rest.
                self.owed.pop(job, None)
                job.callback_returned()

    def is_callback_thread(self) -> bool:
        """Tell whether the calling thread is the one that runs callbacks."""
        return threading.current_thread() is self.threads.get(CALLBACK)

    def join_callbacks(self) -> None:
        """Wait until the last callback has run; returns at once on the callback thread itself."""
        thread = self.threads.get(CALLBACK)
        if thread is not None and thread is not threading.current_thread():
            # Woken by the end of the last callback. After terminate() nobody waits for ever for one
            # that blocks.
            thread.join(CALLBACK_GRACE_S if self.cut_short else None)

    def join_threads(self) -> None:
        """Wait for the last steps of the threads of an engine that is done: a fork may come next."""
        for role in (HANDLER, COLLECTOR):
            thread = self.threads.get(role)
            if thread is None or thread.ident is None or thread is threading.current_thread():
                continue
            thread.join(THREAD_GRACE_S)
        self.join_words()

    # Progress -------------------------------------------------------------------------------------

    @property
    def showing(self) -> Showing:
        """What shows how far jobs are; made when it is first asked for."""
        from glasspool.engines.local.showing import Showing

        return self._showing.setdefault("", Showing(self))

    def join_words(self) -> None:
        """Wait until the last words of jobs with progress, and of logs, are out."""
        for showing in self._showing.values():
            showing.join()
        self.logs.join()

    # Workers: told by the worker-handler to the collector, and back -----------------------------------

    def died(self, worker: Worker) -> None:
        """A worker's process has ended (worker-handler)."""
        self.collector.mailbox.put(lambda: self.collector.bury(worker))

    def buried(self, worker: Worker, certified: bool) -> None:
        """The collector has settled what a dead worker held (collector)."""
        if not certified and self._is_a_loss(worker):
            self.coroner.certify(worker, None)
        self.coroner.see_off(worker)  # its box and record are somebody else's after the release
        self.buried_in_all += 1
        ends = self._terminating or self.collector.stopped or worker.dismissed
        grave = _grave(self.board, worker, replaced=worker.stopping and not ends)
        self.graves.append(grave)
        if worker.stopping or self._terminating:
            events.worker_ended(self, grave)
        if self.collector.journal is not None:
            self.collector.journal.graves.append(grave)
        self.handler.mailbox.put(lambda: self.handler.release(worker))
        if worker.stopping or self._terminating:
            if worker.wanted and not self._terminating and not self.collector.stopped:
                self.replace(worker.slot)
            return
        if worker.init_failed or self.collector.failure is not None:
            return  # counted already; or there is nothing to be done any more
        if worker.initialized_ns is None and worker.wanted and not worker.lost_template:
            self.starts.died(worker, WorkerDied(self.coroner.examine(worker, None)))
            return
        if worker.wanted:  # else its successor has been asked for, or the pool has become smaller
            self.replace(worker.slot)

    def _is_a_loss(self, worker: Worker) -> bool:
        """Tell whether a worker that has died had been at work and was wanted."""
        wanted = not (worker.stopping or self._terminating or worker.init_failed)
        return wanted and worker.initialized_ns is not None and self.collector.failure is None

    def retired(self, worker: Worker) -> None:
        """A worker is near its last task, or has it: its successor may start (collector)."""
        worker.wanted = False
        self.replace(worker.slot)

    def replace(self, slot: int, delay_s: float = 0.0) -> None:
        """Start a worker for a slot, after a pause perhaps (collector)."""
        if delay_s:
            self.handler.mailbox.put(lambda: self.handler.start_later(slot, delay_s))
        else:
            self.handler.mailbox.put(lambda: self.start_slot(slot))

    def stop_worker(self, worker: Worker, hard: bool) -> None:
        """See to the end of a worker (collector)."""
        self.handler.mailbox.put(lambda: self.handler.stop(worker, hard))

    def kill_later(self, worker: Worker, delay_s: float, number: int) -> None:
        """Send a signal to a worker after a grace, if it still lives then (collector)."""
        self.handler.mailbox.put(lambda: self.handler.kill_later(worker, delay_s, number))

    def worker_ready(self, worker: Worker) -> None:
        """A worker has run the initializer (collector)."""
        self.starts.succeeded()
        events.worker_started(self, worker)
        if self.start_method != "fork":
            self.handler.mailbox.put(lambda: self.handler.is_ready(worker))
        # Not at once: the worker's first task comes first.
        self.collector.mailbox.put(lambda: self.coroner.welcome(worker))

    @property
    def goes_on(self) -> bool:
        """Whether the pool has begun, and neither ends nor has failed."""
        is_over = self._terminating or self.done.is_set() or self.collector.failure is not None
        return self._all_started.is_set() and not is_over

    def is_at_work(self) -> bool:
        """Tell whether the worker-handler runs, and has not stood aside for a fork."""
        thread = self.threads.get(HANDLER)
        return thread is not None and thread.is_alive()

    # The end ----------------------------------------------------------------------------------------

    def close(self) -> None:
        """Let the pool end when all its work is done. Never blocks."""
        self.collector.mailbox.put(self.collector.close)
        events.pool_closed(self, "closed")

    def terminate(self, why: str = "the pool was terminated") -> None:
        """Let the pool end now; what has not ended is cancelled. Never blocks."""
        is_first = not self.cut_short and self.is_usable
        self._terminating = self.cut_short = True
        self.collector.mailbox.put(lambda: self.collector.terminate(TaskCancelled(why)))
        if is_first:
            events.pool_closed(self, "terminated")

    def drain(self) -> None:
        """Let the pool end when what runs has ended; begin nothing more. Never blocks."""
        self.collector.mailbox.put(self.collector.drain)
        events.pool_closed(self, "drained")

    def before_waiting(self) -> None:
        """See to it that the pool can go on while the calling thread waits for it.

        A signal handler may have come in the middle of a call of the same thread, which goes on only
        after the handler: it may have been lent a worker, or have our threads stand aside for a fork.
        """
        self.collector.lender.hand_back()
        duties = self._duties
        if self.parking or duties[HANDLER].is_free or duties[COLLECTOR].is_free:
            self._see_to_threads()
        self.nudge()

    def _see_to_threads(self) -> None:
        # Either they stand aside for a fork by another thread, which has them back in a moment. Or this
        # thread was about to fork, and a signal handler runs in its place, or raised there.
        if not self.done.is_set() and not registry.is_forking_elsewhere():
            self.resume()

    def give_up(self) -> None:
        """End an engine whose start was interrupted, with what there is of it."""
        self.resume()
        self.terminate("the pool was not made")

    def run_shutdown_hook(self) -> None:
        """Show the pool for a last time, with its workers still at work (collector)."""
        hook, self.on_shutdown = self.on_shutdown, None
        if hook is not None:
            with contextlib.suppress(Exception):  # a picture that fails must not keep the pool
                hook(self)

    def stopping(self) -> None:
        """The collector has told all workers to stop (collector)."""
        self._terminating = True
        self.handler.mailbox.put(self.handler.finish)

    def dispose(self) -> None:
        """Close everything: no worker is left. The last act of the worker-handler thread."""
        self.collector.mailbox.put(self.collector.end)
        thread = self.threads.get(COLLECTOR)
        if thread is not None and thread.ident is not None:
            thread.join(5.0)
        self._callbacks_ended = True
        self._callbacks.put(_END)
        events.pool_ended(self)
        self.logs.finish()
        self._close_outputs()
        self.board.unlink()
        segments.kept.end(self.number)
        interactive.end(self.number)
        self.collector.dispose()
        self.handler.mailbox.close()
        self.boxes.close()
        self.black.close()
        self.board.close()
        self.handler.reap()  # here: their ends take as long as all of the above
        if self.cells is not None:
            self.cells.close()
        if self.on_disposed is not None:
            self.on_disposed(self)
        self.is_usable = False
        self.done.set()
        self.give_up_changes(ValueError("Pool not running"))
        self.collector.mailbox.late = self.collector.take_late
        self.collector.take_late()
        if self.cut_short:
            # Whoever waits is told, also if a callback blocks; the callbacks still run, if they can.
            for job in list(self.owed):
                job.set()

    def _close_outputs(self) -> None:
        if self.outputs is not None:
            self.outputs.close()

    def discard(self) -> None:
        """Close everything of an engine whose threads do not run."""
        segments.kept.end(self.number)
        interactive.end(self.number)
        self.handler.drop_first()
        self.handler.finish()
        self.handler.reap()
        self.logs.close()
        self._close_outputs()
        self.collector.dispose()
        self.handler.mailbox.close()
        self.boxes.close()
        self.black.close()
        self.board.unlink()
        self.board.close()
        self.is_usable = False
        self.done.set()

    def abandon_in_child(self) -> None:
        """Close the descriptors that a fork of the user's inherited; nothing else may happen there."""
        self.is_usable = False
        self.handler.close_in_child()
        self.collector.dispose()
        self.board.close_fd()
        self.black.close()
        self.logs.close()
        self._close_outputs()
        fd, self.boxes.fd = self.boxes.fd, -1
        if fd >= 0:
            os.close(fd)

    # Being seen -------------------------------------------------------------------------------------

    def processes(self) -> list[BaseProcess]:
        """Return the process handles of the workers, by slot."""
        workers = sorted(self.handler.workers.copy().values(), key=lambda w: (w.slot, w.generation))
        return [worker.process for worker in workers if worker.process is not None]

    def answer(self, server: socket.socket) -> None:
        """Answer one question on the socket beside the scoreboard (worker-handler)."""
        from glasspool.engines.local import desk

        desk.answer(server, lambda question: self.answerer(self, question) if self.answerer else {})


_PARK = object()
_END = object()
