"""The worker-handler: starts workers, notes their deaths, replaces them, and answers who asks.

Owns: the process of each worker, its pidfd, the template, the free records of the scoreboard, and the
socket beside the scoreboard. Thread: ``NAME worker-handler``, started and stopped by the engine. It
waits for: its mailbox, a report of the template, the end of a worker, somebody on the socket, and the
next thing that is due (a kill after a grace, a start after a pause).

A worker's life: ``start`` -> the collector is told (``joined``) -> its process ends -> the collector
is told (``died``), buries it, and lets it go (``release``) -> replaced, if the pool still wants it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from multiprocessing import process as mp_process
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

from glasspool.engines.local import channel, kernel
from glasspool.engines.local import scoreboard as sb
from glasspool.engines.local.mailbox import Mailbox
from glasspool.engines.local.memory import HardWatch
from glasspool.engines.local.processes import (
    ContextStarter,
    ForkedChild,
    Nanny,
    Recipe,
    TemplateStarter,
    close_parent_pipe,
    reap,
    tokens,
)
from glasspool.engines.local.template import Order
from glasspool.engines.local.timers import Timers
from glasspool.engines.local.worker import Setup

if TYPE_CHECKING:
    from glasspool.engines.local.engine import LocalEngine
    from glasspool.engines.local.interrupts import Interrupt
    from glasspool.engines.local.laned import LaneRef
    from glasspool.engines.local.native_limits import Loaded
    from glasspool.engines.local.oom import Verdict
    from glasspool.engines.local.rounds import Chores
    from glasspool.errors import InitializerFailed
    from glasspool.ledger import Held, Task
    from glasspool.snapshot import ThreadRef

STOP_GRACE_S = 5.0
LEAVE_GRACE_S = 1.0
"""So long an idle worker may take to leave when the pool is terminated."""

TERM_GRACE_S = 0.4
STATUS_LIMIT_S = 1.0
MAX_FAULTS = 20
BEGIN_LIMIT_S = 0.1
"""A worker that has not begun its next task after so long is stopped, or gets no processor."""
FIRST_AT_ONCE = 16
"""So many workers are started by the template without being asked; until it is forked, this process has
both ends of their channels open."""
STARTS_AT_ONCE = 64
"""So many starts may be with the template: we never wait for it to read, as it may wait for us."""


class Worker:
    """One worker process and what the parent knows of it.

    The worker-handler writes the process fields, the collector the rest; each reads the other's only
    after it was told of them through a mailbox.
    """

    lane = 0
    node: str | None = None  # this machine
    thread_name = "MainThread"
    runs_in_main = True
    """Of the thread that runs its tasks: a ``LaneRef`` has its own."""

    def __init__(self, slot: int, generation: int, record: int, end: socket.socket) -> None:
        self.slot = slot
        self.generation = generation
        self.record = record
        self.end = end
        self.fd: int = end.fileno()
        channel.limit_waiting(end, BEGIN_LIMIT_S)
        # The worker-handler's:
        self.token: int = next(tokens)
        self.process: BaseProcess | None = None
        self.pid = 0
        self.variables: tuple[tuple[str, str], ...] = ()  # which its environment was given
        self.pidfd: int | None = None
        self.exitcode: int | None = None
        self.peak_memory_bytes: int | None = None
        self.started_at: float = time.time()
        self.started_ns: int = time.monotonic_ns()
        self.wanted = True
        self.ending = False
        self.ended_at: float | None = None
        self.ended_ns: int = 0
        self.server: int | None = None  # the fork server that it is a child of
        # The collector's:
        self.held: Held | None = None
        self.ready = False
        self.known: set[int] = set()
        self.forget: list[int] = []
        self.returned: deque[int] = deque()  # segments that nobody views; negative: not to be used
        self.quota: int | None = None
        self.chores: Chores | None = None  # what it has to do for rounds, before all else
        self.stopping = False
        self.choked = False
        self.stop_is_sent = False
        self.stop_is_watched = False
        self.stuck = False
        self.dead = False
        self.mine = True  # not idle, and so not lent either
        # Its place (``slots``): it may be given tasks; its successor has been asked for; it leaves
        # without waiting for that one; the pool has become smaller.
        self.serves = True
        self.retiring = False
        self.alone = False
        self.dismissed = False
        # Of whoever has the worker: the collector, or the caller to whom it is lent.
        self.direct: Task | None = None
        self.cancelled: tuple[Task, str] | None = (
            None  # a direct task, by hand, and what is said of it
        )
        self.armed = True  # the collector's poll tells of its messages
        self.told_ns = 0  # when its last direct call was answered
        # Replies that came by message: as many as tasks were sent when the worker is idle.
        self.answered = 0
        # The question that a worker is to answer, or has been asked: task id, number of tasks sent.
        self.ping: tuple[int, int] | None = None
        self.ping_is_sent = False
        self.resend = False
        self.handed_back = False  # by its caller; the collector is about to be told
        self.heard_ns = 0
        self.ident = 0
        self.native_id = 0
        self.native_threads: dict[str, int] | None = None  # of libraries that were loaded before
        self.loaded: Loaded | None = None  # what was seen of them (whoever looks)
        self.initialized_ns: tuple[int, int] | None = None
        self.stack_takers: list[Callable[[list[Any]], None]] = []
        # The last answer to a question for stacks: when, and what ``worker._send_stacks`` sent.
        self.told_stacks: tuple[int, list[Any]] | None = None
        self.buried = False
        self.init_failed = False
        self.interrupt: Interrupt | None = None
        self.look_at: float | None = None  # when one of its tasks may have used its time up
        self.recycled_for: str | None = None  # why it was replaced between two tasks
        # Why the pool itself ended it, as a verb phrase in the past ("was stopped, because ..."): the
        # cause on its certificate. To be set before the signal is sent; the first who sets it is right.
        self.end_reason: str | None = None
        self.lost_template = False  # it ended with the template: nobody will tell how
        self.certified = False
        self.lost = 0  # so many tasks that it had begun were lost with it
        self.lanes: tuple[LaneRef, ...] = ()  # once it is ready, if it has any
        self.overdue: InitializerFailed | None = None
        self.oom: Verdict | None = None


def in_lane(worker: Worker, lane: int) -> Worker:
    """Return what stands for a worker where it matters which of its lanes ran a task."""
    found: Any = worker.lanes[lane] if lane < len(worker.lanes) else worker
    return found  # type: ignore[no-any-return]  # it answers as a worker does


def runner_of(worker: Worker) -> ThreadRef:
    """Return the thread of a worker, or of what stands for one of its lanes, that runs tasks."""
    from glasspool.snapshot import ThreadRef

    native_id = worker.native_id or worker.pid
    return ThreadRef(worker.thread_name, worker.ident, native_id, worker.runs_in_main)


class WorkerHandler:
    """The loop of the worker-handler thread."""

    def __init__(self, engine: LocalEngine, recipe: Recipe) -> None:
        self._engine = engine
        self._recipe = recipe
        self.mailbox: Mailbox = Mailbox()
        self.state: str = "starting workers"
        self.starter: TemplateStarter | ContextStarter | None = None
        self.workers: dict[int, Worker] = {}  # by token
        self._by_fd: dict[int, Worker] = {}
        self._fresh = 0  # this record and those above were never used, and are empty
        self._free_records: deque[int] = deque()  # others, the one that is free for longest first
        # Slots whose start is put off until there is a record, and until the template keeps up.
        self._put_off: deque[int] = deque()
        self._unreported = 0
        self._poll = select.poll()
        self._poll.register(self.mailbox.fd, select.POLLIN)
        self._server: socket.socket | None = None
        self._timers = Timers()
        self._parked = False
        self._ended = False
        self._finishing = False
        self._faults = 0
        self._generations: dict[int, int] = {}
        self._template_is_missed = False
        self._nanny_fd = -1
        self._dismissed: list[Callable[[], None]] = []  # take the status of who is about to end
        self.hard_watch: HardWatch | None = None
        hard = engine.options.max_memory_hard
        if hard is not None:
            self.hard_watch = HardWatch(
                hard, lambda: list(self.workers.values()), self.later, self._stop_for_memory
            )

    # Called by other threads ----------------------------------------------------------------------

    def fork_template(self, title: str, first: int = 0) -> None:
        """Fork the calling thread's process into a template. While this loop does not run.

        The template starts workers for the slots below ``first`` at once.

        Raises:
            OSError: It cannot be forked.
        """
        orders: list[Order] = []
        try:
            for slot in range(first):
                orders.append(self._order(slot))  # noqa: PERF401  # some are there at an error
            prepare = self._engine.environment.for_template(self._engine.size)
            starter = TemplateStarter(self._recipe, title, orders, prepare)
        except BaseException:
            if first:
                self.drop_first()
            raise
        finally:
            for order in orders:
                order.theirs.close()
        self._unreported = len(orders)
        self.starter = starter
        for fd in starter.template.watched():
            self._poll.register(fd, select.POLLIN)

    def _order(self, slot: int) -> Order:
        """Prepare a worker, which the template is to start at once."""
        worker, theirs = self._new_worker(slot)
        try:
            handle = worker.process = self._recipe.process(None, None)
            self.workers[worker.token] = worker
        except BaseException:
            self._undo_start(worker, theirs)
            raise
        setup = tuple(self._setup(worker))
        return Order(worker.token, handle._identity, handle.name, setup, worker.end, theirs)

    def drop_first(self) -> None:
        """Forget the first workers: the pool was not made, and the template ends them before it ends."""
        self.drop_template()  # before their channels: they would complain
        for worker in list(self.workers.values()):
            del self.workers[worker.token]
            self._unwatch(worker)
            mp_process._children.discard(worker.process)  # type: ignore[attr-defined]
            fd, worker.pidfd = worker.pidfd, None
            if fd is not None:
                os.close(fd)
            worker.end.close()
            self._give_back(worker.record)

    def undo(self) -> None:
        """End the loop of a pool that was not made (an item)."""
        self.drop_first()
        self.finish()

    def use_context(self, nanny_title: str) -> None:
        """Start workers as ``multiprocessing`` does."""
        self.starter = ContextStarter(self._recipe, nanny_title)

    def serve_on(self, path: str) -> str | None:
        """Answer questions on a Unix socket. Before this loop runs.

        Returns why not, if that is impossible: the pool works all the same.
        """
        server: socket.socket | None = None
        try:
            server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            server.bind(path)
            os.chmod(path, 0o600)
            server.listen(16)
        except OSError as error:
            if server is not None:
                server.close()
            return (
                f"the pool answers no questions from outside: no socket at {path or 'any path'} "
                f"({error.strerror or error}); its scoreboard can still be read"
            )
        self._server = server
        self._poll.register(server.fileno(), select.POLLIN)
        return None

    # The loop -------------------------------------------------------------------------------------

    def run(self) -> bool:
        """Run until the pool has ended, or until parked (True)."""
        kernel.name_this_thread(self._engine.os_name("workers"))
        self._parked = False
        while not self._is_over():
            try:
                self._turn()
            except Exception:  # a fault of ours: nobody may wait for ever because of it
                report_thread_error()
                self._faults += 1
                if self._faults > MAX_FAULTS:
                    self._give_up()
        if self._ended:
            self._engine.dispose()
        return not self._ended

    def _turn(self) -> None:
        self._work_off()
        if self._is_over():
            return
        self.state = "watching workers"
        rung = False
        asleep_limit = 0 if self.mailbox.fall_asleep() else self._next_due_ms()
        try:
            for fd, _ in self._poll.poll(asleep_limit):
                if fd == self.mailbox.fd:
                    rung = True
                else:
                    self._attend(fd)
        finally:
            self.mailbox.wake_up(rung)
        self._timers.run_due()

    def _give_up(self) -> None:
        for worker in self.workers.values():
            self.kill(worker, signal.SIGKILL)
        self._ended = True

    def _is_over(self) -> bool:
        return self._ended or self._parked

    def _work_off(self) -> None:
        items = self.mailbox.items
        while items and not self._parked:
            items.popleft()()

    def _attend(self, fd: int) -> None:
        worker = self._by_fd.get(fd)
        if worker is not None:
            self._ended_by_pidfd(worker)
        elif self._server is not None and fd == self._server.fileno():
            self.state = "answering a question from outside"
            self._engine.answer(self._server)
            self.state = "watching workers"
        elif fd == self._nanny_fd:
            self._lost_nanny()
        else:
            self._hear_template(fd)

    def _next_due_ms(self) -> float | None:
        left = self._timers.next_s()
        return None if left is None else left * 1000

    def later(self, delay_s: float, action: Callable[[], None]) -> None:
        """Call something on this thread after a pause (worker-handler)."""
        self._timers.later(delay_s, action)

    def park(self) -> None:
        """Leave the loop at the next turn; the thread ends, nothing is lost (an item)."""
        self._parked = True

    # Starting -------------------------------------------------------------------------------------

    def start(self, slot: int) -> None:
        """Start a worker for a slot, or put that off: no record is free, or the template has much to do.

        Raises:
            Exception: It cannot be started (its arguments cannot be pickled, no process to be had).
        """
        if self._finishing:
            return
        if self._template_is_missed:
            self._put_off.append(slot)  # until there is another
            self._engine.start_put_off(slot)
            return
        if self._unreported >= STARTS_AT_ONCE:
            self._put_off.append(slot)
            return
        if not self._free_records and self._fresh == self._recipe.boxes.count:
            self._put_off.append(slot)
            self._engine.start_put_off(slot)
            return
        worker, theirs = self._new_worker(slot)
        starter = self.starter
        try:
            if starter is None:
                raise OSError(errno.ESRCH, "the pool has no way to start workers")
            worker.process = starter.start(worker.token, self._setup(worker), theirs)
        except BaseException:
            self._undo_start(worker, theirs)
            raise
        finally:
            theirs.close()
        self.workers[worker.token] = worker
        if isinstance(starter, TemplateStarter):
            self._unreported += 1
        elif isinstance(starter, ContextStarter):
            worker.server = _fork_server()
            self._has_pid(worker, int(worker.process.pid or 0))
            if len(self.workers) >= self._engine.size:
                self._see_to_nanny()

    def _new_worker(self, slot: int) -> tuple[Worker, socket.socket]:
        """Make a worker that has no process yet; return it with its process's end of the channel."""
        board = self._recipe.board
        record = self._take_record()
        try:
            ours, theirs = channel.pair()
        except BaseException:
            self._give_back(record)
            raise
        generation = self._generations.get(slot, -1) + 1
        self._generations[slot] = generation
        board.set_word(record, sb.W_SLOT, slot)
        board.set_word(record, sb.W_STATE, sb.STARTING)
        return Worker(slot, generation, record, ours), theirs

    def _undo_start(self, worker: Worker, theirs: socket.socket) -> None:
        worker.end.close()
        theirs.close()
        self._give_back(worker.record)

    def _take_record(self) -> int:
        """Take a record and its outbox, wiped.

        Raises:
            OSError: It was never used before, and there is no memory for it.
        """
        board, boxes, black = self._recipe.board, self._recipe.boxes, self._recipe.black
        # While there is memory for one that is fresh, what the others tell of their last worker stays.
        is_fresh = self._fresh < board.header.records or not self._free_records
        record = self._fresh if is_fresh else self._free_records[0]
        try:
            board.reserve(record)
            boxes.reserve(record)
            black.reserve(record)
        except OSError as error:
            raise OSError(
                error.errno, f"no memory for one more worker of {self._engine.name}", board.file
            ) from error
        if is_fresh:
            self._fresh += 1
            return record
        self._free_records.popleft()
        board.clear(record)
        boxes.clear(record)
        black.clear(record)
        return record

    def _give_back(self, record: int) -> None:
        """Let the next worker have a record; one may be waiting for it."""
        self._recipe.board.set_word(record, sb.W_STATE, sb.FREE)
        self._free_records.append(record)
        self._start_next()

    def _start_next(self) -> None:
        """Go on with a start that was put off, if there is one."""
        if self._put_off:
            slot = self._put_off.popleft()
            self.mailbox.put(lambda: self._engine.start_slot(slot))

    def is_ready(self, worker: Worker) -> None:
        """A worker has said hello: it watches us by a pidfd, if there is such a thing (an item)."""
        if isinstance(self.starter, ContextStarter) and worker.pidfd is not None and worker.process:
            close_parent_pipe(worker.process)

    def _setup(self, worker: Worker) -> Setup:
        environment = self._engine.environment
        worker.variables = environment.of(worker.slot, self._engine.size)
        return Setup(
            pool=self._engine.name,
            number=self._engine.number,
            slot=worker.slot,
            generation=worker.generation,
            record=worker.record,
            parent=os.getpid(),
            forked=self._recipe.start_method != "spawn",
            max_memory=self._engine.options.soft_memory,
            forwards=self._engine.cells is not None,
            env=worker.variables,
            native_rule=environment.rule(worker.slot),
            lanes=self._engine.lanes,
        )

    def _has_pid(self, worker: Worker, pid: int) -> None:
        worker.pid = pid
        worker.pidfd = kernel.open_pidfd(pid)
        process = worker.process
        if process is not None and getattr(process, "_popen", None) is None:
            child = ForkedChild(pid, worker.pidfd)
            process._popen = child  # type: ignore[attr-defined]
            process._sentinel = child.sentinel  # type: ignore[attr-defined]
        mp_process._children.add(process)  # type: ignore[attr-defined]
        watched = worker.pidfd
        if watched is None and isinstance(self.starter, ContextStarter) and process is not None:
            watched = process.sentinel
        # Without one: the template has reaped it already, and its report comes next.
        if watched is not None:
            self._by_fd[watched] = worker
            self._poll.register(watched, select.POLLIN)
        self._engine.joined(worker)
        self._engine.starts.watch(worker)

    # The template and the nanny ---------------------------------------------------------------------

    def _hear_template(self, fd: int) -> None:
        starter = self.starter
        if not isinstance(starter, TemplateStarter):
            return
        while self.starter is starter:  # the last report may be the one that ends it
            try:
                report = starter.template.receive()
            except BlockingIOError:
                if fd == starter.template.pidfd:
                    self._lost_template(starter)  # it has ended, and this was all it had to say
                return
            if report is None:
                self._lost_template(starter)
                return
            kind, token, *rest = report
            worker = self.workers.get(token)
            if worker is None:
                continue
            if kind == "started":
                self._reported()
                self._has_pid(worker, rest[0])
            elif kind == "failed":
                self._reported()
                self._not_started(worker, OSError(rest[0], os.strerror(rest[0])))
            elif kind == "exited":
                worker.peak_memory_bytes = rest[2]
                self._died(worker, os.waitstatus_to_exitcode(rest[1]))

    def _reported(self) -> None:
        self._unreported -= 1
        self._start_next()

    def _lost_template(self, starter: TemplateStarter) -> None:
        """Take note that the template is gone; the kernel has ended its workers with it."""
        for fd in starter.template.watched():
            self._poll.unregister(fd)
        self.starter = None
        if self._finishing and all(worker.ending for worker in self.workers.values()):
            starter.template.reap()  # it has left
            return
        self._template_is_missed = not self._finishing and self._engine.rescue.template_died()
        starter.template.reap()
        self._unreported = 0
        for worker in list(self.workers.values()):
            worker.lost_template = True
            worker.end_reason = "was ended by the kernel, as the template process died"
            if not worker.pid:
                self._not_started(worker, OSError(errno.ESRCH, "the pool's template process died"))
            elif worker.pidfd is None or worker.ended_at is not None:
                self._died(worker, None)  # nobody is left to tell of its end, or of how it ended

    def drop_template(self) -> None:
        """Let the template end, and wait for that: some milliseconds, a second at most."""
        self._dismiss_template()
        self.reap()

    def _dismiss_template(self) -> None:
        starter, self.starter = self.starter, None
        if isinstance(starter, TemplateStarter):
            for fd in starter.template.watched():
                self._poll.unregister(fd)
            starter.template.quit()
            self._dismissed.append(starter.template.reap)

    def reap(self) -> None:
        """Wait for the end of the processes that have been told to end: some milliseconds."""
        while self._dismissed:
            self._dismissed.pop()()

    def template_is_back(self) -> None:
        """Start the workers that could not be started meanwhile (an item)."""
        self._template_is_missed = False
        put_off, self._put_off = self._put_off, deque()
        for slot in put_off:
            self._engine.start_slot(slot)

    def _see_to_nanny(self) -> None:
        """Start the nanny, if it is not there; try again later if it cannot be started."""
        starter = self.starter
        if not isinstance(starter, ContextStarter) or self._finishing or starter.nanny is not None:
            return
        try:
            starter.start_nanny()
        except OSError as error:
            pause_s = self._engine.shortage.failed("nanny", "the nanny process", error)
            self.later(pause_s, self._see_to_nanny)
            return
        self._engine.shortage.over("nanny")
        nanny: Nanny | None = starter.nanny
        if nanny is not None and nanny.pidfd is not None:
            self._nanny_fd = nanny.pidfd
            self._poll.register(self._nanny_fd, select.POLLIN)

    def _lost_nanny(self) -> None:
        self._end_nanny()
        self.reap()
        self._see_to_nanny()

    def _end_nanny(self) -> None:
        fd, self._nanny_fd = self._nanny_fd, -1
        if fd >= 0:
            self._poll.unregister(fd)
        starter = self.starter
        if isinstance(starter, ContextStarter) and starter.nanny is not None:
            nanny, starter.nanny = starter.nanny, None
            nanny.kill()
            self._dismissed.append(nanny.reap)

    # Ending ---------------------------------------------------------------------------------------

    def _not_started(self, worker: Worker, error: OSError) -> None:
        del self.workers[worker.token]
        worker.end.close()
        self._give_back(worker.record)
        self._engine.start_failed(worker.slot, error)
        self._finish_if_empty()

    def _ended_by_pidfd(self, worker: Worker) -> None:
        """The kernel says that the process has ended; how, its parent has still to say."""
        self._unwatch(worker)
        worker.ended_at = time.monotonic()
        popen = getattr(worker.process, "_popen", None)
        if popen is None:
            self._died(worker, None)
        elif self._recipe.start_method == "spawn":
            exitcode, worker.peak_memory_bytes = reap(popen)  # our own child
            self._died(worker, exitcode)
        elif not isinstance(popen, ForkedChild):
            # The fork server is about to tell, if it is there.
            code = popen.wait(STATUS_LIMIT_S)
            self._died(worker, code if _is_fork_server(worker.server) else None)
        elif self.starter is None or worker.lost_template:
            self._died(worker, None)
        else:
            self.later(STATUS_LIMIT_S, lambda: self._died(worker, None))

    def _unwatch(self, worker: Worker) -> None:
        for fd, watched in list(self._by_fd.items()):
            if watched is worker:
                del self._by_fd[fd]
                self._poll.unregister(fd)

    def _died(self, worker: Worker, exitcode: int | None) -> None:
        if worker.ending or worker.token not in self.workers:
            return
        worker.ending = True
        self._unwatch(worker)
        worker.exitcode = exitcode
        seen = worker.ended_at
        worker.ended_ns = time.monotonic_ns() if seen is None else int(seen * 1e9)
        popen = getattr(worker.process, "_popen", None)
        if isinstance(popen, ForkedChild):
            popen.report(255 if exitcode is None else exitcode)
        mp_process._children.discard(worker.process)  # type: ignore[attr-defined]
        self._engine.died(worker)

    def release(self, worker: Worker) -> None:
        """Let a worker go that the collector has buried, and replace it if it is wanted."""
        del self.workers[worker.token]
        fd, worker.pidfd = worker.pidfd, None  # in this order: a fork of the user's looks at it
        if fd is not None:
            os.close(fd)
        popen = getattr(worker.process, "_popen", None)
        if popen is not None:
            popen.close()  # its descriptors; the exit code stays known
        self._give_back(worker.record)
        self._finish_if_empty()

    def start_later(self, slot: int, delay_s: float) -> None:
        """Start a worker for a slot after a pause."""
        self.later(delay_s, lambda: self._engine.start_slot(slot))

    def kill_later(self, worker: Worker, delay_s: float, number: int) -> None:
        """Send a signal to a worker after a grace, if it still lives then."""
        self.later(delay_s, lambda: self.kill(worker, number))

    def kill(self, worker: Worker, number: int) -> None:
        """Send a signal to a worker if it still lives."""
        if worker.token in self.workers and not worker.ending and worker.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, number)

    def _stop_for_memory(self, worker: Worker, number: int) -> None:
        self._engine.over_memory += 1
        self.kill(worker, number)

    def stop(self, worker: Worker, hard: bool) -> None:
        """See to the end of a worker that was told to stop (or, if hard, is to stop at once)."""
        if hard:
            self.kill(worker, signal.SIGTERM)
            self.kill_later(worker, TERM_GRACE_S, signal.SIGKILL)
        else:
            grace_s = LEAVE_GRACE_S if self._engine.cut_short else STOP_GRACE_S
            self.kill_later(worker, grace_s, signal.SIGTERM)
            self.kill_later(worker, grace_s + TERM_GRACE_S, signal.SIGKILL)

    def finish(self) -> None:
        """End the loop once the last worker is gone; start none any more."""
        self._finishing = True
        if isinstance(self.starter, TemplateStarter):
            self.starter.template.leave()
        self._finish_if_empty()

    def _finish_if_empty(self) -> None:
        if not self._finishing or self.workers or self._ended:
            return
        self._end_nanny()
        self._dismiss_template()
        if self._server is not None:
            self._poll.unregister(self._server.fileno())
            self._server.close()
            self._server = None
        self._ended = True

    def collapse(self) -> None:
        """End all processes while the loop does not run, and never will again (any thread)."""
        for worker in list(self.workers.values()):
            self.kill(worker, signal.SIGKILL)
            popen = getattr(worker.process, "_popen", None)
            if popen is not None and not isinstance(popen, ForkedChild):
                popen.wait(STATUS_LIMIT_S)  # our own child, or the fork server's
            self._died(worker, None)
            worker.end.close()
            self.release(worker)
        self.finish()

    def close_in_child(self) -> None:
        """Close what a fork of the user's inherited, by the objects that own it."""
        self.mailbox.close()
        for worker in self.workers.values():
            worker.end.close()
            # The child's exit would end what it takes for its own daemonic children.
            mp_process._children.discard(worker.process)  # type: ignore[attr-defined]
            fd, worker.pidfd = worker.pidfd, None
            if fd is not None:
                os.close(fd)
        if isinstance(self.starter, TemplateStarter):
            self.starter.template.close()
        elif isinstance(self.starter, ContextStarter) and self.starter.nanny is not None:
            self.starter.nanny.close()
        if self._server is not None:
            self._server.close()


def report_thread_error() -> None:
    """Report the exception that is being handled, as Python does for one that ends a thread."""
    report = threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread()))
    try:
        threading.excepthook(report)
    except Exception:  # the user's hook is broken: he should learn of both
        with contextlib.suppress(Exception):
            traceback.print_exc()


def new_thread(target: Callable[[], None], name: str) -> threading.Thread:
    """Make one of the pool's own threads. It does not keep the program alive."""
    return threading.Thread(target=target, name=name, daemon=True)


def _is_fork_server(pid: int | None) -> bool:
    """Tell whether this is the fork server, and it lives."""
    return pid is not None and pid == _fork_server() and not kernel.has_ended(pid)


def _fork_server() -> int | None:
    """Return the pid of multiprocessing's fork server, as far as it is known here."""
    module = sys.modules.get("multiprocessing.forkserver")
    return getattr(getattr(module, "_forkserver", None), "_forkserver_pid", None)
