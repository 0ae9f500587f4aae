"""The task-handler and result-handler: one loop that hands tasks out and takes results in.

Owns: the ledger, and what it knows of each worker (``Worker``, the collector's fields). What belongs to
its thread, but is a duty of its own, is in parts that it alone calls: who comes and goes (``staffing``),
who is stuck (``lookout``), which tasks end before their time (``interrupts``). Thread:
``NAME task-handler+result-handler``, started and stopped by the engine. It waits for its mailbox and
for the workers' channels, and, only while a worker holds more than one task, for the next time to look
whether one of them is stuck. It never waits in a send, and runs no code of the user's: values are
pickled by the thread that submits and rebuilt by the thread that asks.
"""

from __future__ import annotations

import contextlib
import errno
import marshal
import select
import socket
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from glasspool import batching
from glasspool.engines.intake import DRAINED, Intake
from glasspool.engines.local import channel, events, kernel, wire
from glasspool.engines.local import scoreboard as sb
from glasspool.engines.local.direct import Lender
from glasspool.engines.local.interrupts import Interrupts
from glasspool.engines.local.lookout import Lookout
from glasspool.engines.local.outcome import arrived, settle
from glasspool.engines.local.parcels import note_gone, take_returned
from glasspool.engines.local.payload import Parcel, most_open
from glasspool.engines.local.rounds import Rounds
from glasspool.engines.local.staffing import Staff
from glasspool.engines.local.timers import Timers
from glasspool.engines.local.workers import Worker, report_thread_error
from glasspool.errors import GlasspoolError, TaskCancelled, WorkerDied
from glasspool.ledger import CANCELLED, DONE, ENDED, FAILED, LOST, WAITING, Held, Task

if TYPE_CHECKING:
    from glasspool.engines.local.engine import LocalEngine
    from glasspool.engines.local.stall import StallWatch

BATCH_BYTES = 96 * 1024
ALONE_BYTES = 16 * 1024
FORGET_AT_ONCE = 500
SEGMENTS_HELD = 16

_KIND_AT, _ALL_PLAIN_AT, _ALL_PLAIN_BIT = 0, 3, wire.ALL_PLAIN >> 8

_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)
PATIENCE = 100
LOOK_AGAIN_S = 0.01

_HOW = {wire.OK_PLAIN: DONE, wire.OK: DONE, wire.OK_SEGMENT: DONE}


class Collector(Intake):
    """The loop of the thread that owns the ledger."""

    def __init__(self, engine: LocalEngine) -> None:
        self._engine = engine
        self.stall: StallWatch = engine.stall
        self._poll = select.epoll()  # first: it closes itself if there is no room for what follows
        super().__init__()
        self.state = "waiting for tasks and results"
        self.workers: dict[int, Worker] = {}  # by descriptor, as the poll tells it
        self._poll.register(self.mailbox.fd, select.EPOLLIN)
        engine.logs.follow(self._poll)
        self._receiver = channel.Receiver()
        self._fence = threading.Lock()
        self.lender: Lender = Lender(self, self._poll, lends=_may_lend(engine))
        # Workers that hold something but have room, in order.
        self._hungry: dict[Worker, None] = {}
        self.staff: Staff = Staff(self, engine)
        self._lookout = Lookout(self, engine)
        self.rounds: Rounds = Rounds(self)
        self.timers: Timers = Timers()
        self._interrupts = Interrupts(self, engine)
        self._ended = False
        self._crashed = False

    # The loop -------------------------------------------------------------------------------------

    def run(self) -> bool:
        """Run until the pool has ended, or until parked (True)."""
        kernel.name_this_thread(self._engine.os_name("tasks+res"))
        self._parked = False
        while not self._ended and not self._parked:
            try:
                self._turn()
            except Exception as error:  # a fault of ours: nobody may wait for ever because of it
                self._crash(error)
        return not self._ended

    def _turn(self) -> None:
        poll, mailbox, lookout = self._poll, self.mailbox, self._lookout
        while True:
            self._work_off()
            if self._ended or self._parked:
                return
            if self.ledger.waiting:
                if self.draining:
                    self._put_aside()
                else:
                    self.hand_out()
            if self.closing and not self.stopped and self._is_finished():
                self._stop_workers(hard=False)
            if not self.stall.watching:
                self.stall.begin()
            timeout = 0 if mailbox.fall_asleep() else self._time_to_wait()
            rung = False
            for fd, event in poll.poll(timeout):
                if fd == mailbox.fd:
                    rung = True
                else:
                    self._attend(fd, event)
            mailbox.wake_up(rung)
            if lookout.look_at is not None and time.monotonic() >= lookout.look_at:
                lookout.look()
            self.timers.run_due()

    def _time_to_wait(self) -> float | None:
        left = self.timers.next_s()
        look_at = self._lookout.look_at
        if look_at is not None:
            look = max(0.0, look_at - time.monotonic())
            return look if left is None else min(look, left)
        return left

    def _crash(self, error: Exception) -> None:
        """End everything with an error after a fault of our own; at the second one, just leave."""
        report_thread_error()
        if self._crashed:
            self._ended = self.stopped = True
            self._engine.stopping()
            return
        self._crashed = True
        why = GlasspoolError(f"an internal error ended the pool: {type(error).__name__}: {error}")
        why.__cause__ = error
        self.fail(why)
        self._stop_workers(hard=True)

    def _dropped(self, reference: Any) -> None:
        self._lease_died(reference)

    def park(self) -> None:
        """Leave the loop at the next turn; the thread ends, nothing is lost (an item)."""
        self._parked = True

    def _attend(self, fd: int, event: int) -> None:
        worker = self.workers.get(fd)
        if worker is None:
            if fd == self._engine.logs.fd:
                self._engine.logs.take()
            return
        if not worker.mine:
            self._attend_idle(worker, event)
            return
        if event & select.EPOLLOUT:
            worker.choked = False
            self._poll.modify(fd, select.EPOLLIN)
            self._post_ping(worker)
            self.rounds.send(worker)
            self.staff.post_stop(worker)
            self.make_hungry(worker)
        if event & ~select.EPOLLOUT:
            self._hear(worker)

    def _attend_idle(self, worker: Worker, event: int) -> None:
        if self.lender.take(worker):
            self._hear(worker)
        elif event & (select.EPOLLHUP | select.EPOLLERR):
            self._cut_off(worker)  # the caller to whom it is lent sees its end as well

    def _forget(self, worker: Worker) -> None:
        with contextlib.suppress(OSError):  # it was forgotten before
            self._poll.unregister(worker.fd)

    # Handing out ----------------------------------------------------------------------------------

    def hand_out(self) -> None:
        """Give the tasks that wait to workers that have room."""
        ledger, hungry = self.ledger, self._hungry
        if self.draining:
            return
        while ledger.next_waiting() is not None:
            worker = self.lender.take_any()
            if worker is None:
                if not hungry:
                    return
                worker = next(iter(hungry))
                del hungry[worker]
                if not worker.mine:
                    continue  # it has become idle since
            if not worker.serves:
                self.staff.move_on(worker)  # a caller gave it back after it had been dismissed
                continue
            held = worker.held
            if worker.ready and not worker.choked and held is not None:
                self._feed(worker, held)
                if self._is_idle(worker):
                    self.lender.offer(worker)
                    return

    def _feed(self, worker: Worker, held: Held) -> None:
        """Send the worker one message with as many of the waiting tasks as it should have now.

        The collector must have the worker: it is not idle, or was taken out of the idle ones.
        """
        ledger = self.ledger
        first = ledger.next_waiting()
        if first is None or self.draining or worker.interrupt is not None or worker.chores:
            return
        pace = self.pace.get(first.call)
        wanted = self._room(worker, held, pace)
        if wanted <= 0:
            return
        was_idle = not held.tasks
        message = _Message(worker)
        self._fill(message, held, wanted)
        if not message.sent:
            return
        if self.journal is not None:
            self.journal.sent(message.sent, time.monotonic_ns())
        if not self.post(worker, b"".join(message.parts), message.fds):
            ledger.unsend(held, message.sent)
            worker.known.difference_update(message.introduced)
            return
        if was_idle:
            worker.heard_ns = time.monotonic_ns()
        self._note_sent(message, held, pace)

    def _room(self, worker: Worker, held: Held, pace: float | None) -> int:
        """Return how many of the waiting tasks a worker should be given now."""
        wanted = batching.room(pace, len(held))
        if worker.quota is not None:
            wanted = min(wanted, worker.quota)
        return min(wanted, batching.share(len(self.ledger.waiting), len(self.workers)))

    def _fill(self, message: _Message, held: Held, wanted: int) -> None:
        """Put as many of the waiting tasks as are wanted, and fit, into a message.

        The loop runs once for each task of the pool's: what only few tasks need is elsewhere.
        """
        ledger, worker = self.ledger, message.worker
        parts, sent, known = message.parts, message.sent, worker.known
        pack, head_size = wire.REQUEST.pack, wire.REQUEST.size
        while len(sent) < wanted and not message.fds:
            task = ledger.next_waiting()
            if task is None:
                break
            if task.policy is None and not task.kind & wire.ALONE:
                if not self._fill_row(message, held, task, wanted - len(sent)):
                    break
                continue
            body = task.payload
            if isinstance(body, Parcel):
                if sent or len(held) >= self._most_segments():
                    break
                if not self._open(task, body):
                    if task.state == WAITING:
                        break
                    continue
            if task.call and task.call not in known and not self._introduce(message, task.call):
                break
            if isinstance(body, Parcel):
                message.fds, body = body.hand_over(), body.head
            elif task.kind & wire.PLAIN:
                body = marshal.dumps(body)
            message.size += len(body) + head_size
            if sent and message.size > BATCH_BYTES:
                break
            ledger.send(held)
            sent.append(task)
            kind = wire.TASK
            if task.policy is not None:
                message.timed = True
                kind |= min(task.attempts, wire.MOST_ATTEMPTS) << 8
            parts.append(pack(kind, task.kind, task.call, task.id, task.seq, len(body)))
            parts.append(body)

    def _fill_row(self, message: _Message, held: Held, first: Task, wanted: int) -> bool:
        """Put tasks that are alike into a message as one row; False if the message is full."""
        call = first.call
        if call not in message.worker.known and not self._introduce(message, call):
            return False
        room, must_fit = BATCH_BYTES - message.size, bool(message.sent)
        while True:
            row = self.ledger.send_row(held, wanted, room, must_fit)
            if not row:
                return False
            body = marshal.dumps(([task.id for task in row], [task.payload for task in row]))
            if message.size + len(body) < wire.MESSAGE_BYTES - wire.REQUEST.size:
                break
            self.ledger.unsend(held, row)  # long texts: more than they were taken for
            wanted = len(row) // 2
        head = wire.REQUEST.pack(wire.ROW, first.kind, call, len(row), row[0].seq, len(body))
        message.parts += (head, body)
        message.size += len(head) + len(body)
        message.sent += row
        return True

    def _open(self, task: Task, parcel: Parcel) -> bool:
        """Have a task's parcel in a segment; if that fails the task has ended, or can be sent later."""
        try:
            parcel.open()
        except OSError as error:
            if error.errno in _NO_DESCRIPTORS and self.ledger.sent:
                return False  # the end of any task gives some back, and brings us here again
            self.settle_here(task, error, FAILED)
            return False
        return True

    def _introduce(self, message: _Message, call: int) -> bool:
        """Tell a worker of a callable, in the message or ahead of it; False if it has to wait."""
        worker = message.worker
        definition, segments = self.define(call)
        if not segments and len(definition) <= ALONE_BYTES:
            message.parts.append(definition)
            message.introduced.append(call)
            message.size += len(definition)
        elif message.sent or not self.post(worker, definition, segments):
            return False  # it travels alone
        worker.known.add(call)
        return True

    def _note_sent(self, message: _Message, held: Held, pace: float | None) -> None:
        """Note what a worker has been sent, and arrange what is to follow from it."""
        worker = message.worker
        del worker.forget[:FORGET_AT_ONCE]
        if worker.quota is not None:
            worker.quota -= len(message.sent)
        if message.timed:
            self._interrupts.watch(worker, held)
        self._lookout.expect_begins()
        self.staff.count_down(worker, pace)
        if worker.quota != 0 and pace is not None and batching.room(pace, len(held)) > 0:
            self._hungry[worker] = None
        self._lookout.sent(worker, held)
        if self._engine.outputs is not None:
            self._engine.outputs.watch(self)
        watch = self._engine.handler.hard_watch
        if watch is not None and not watch.is_on:
            watch.is_on = True
            self._engine.handler.mailbox.put(watch.begin)

    def _most_segments(self) -> int:
        """Return how many tasks a worker may hold with another one in a segment: each keeps it open."""
        return max(2, min(SEGMENTS_HELD, most_open() // max(1, len(self.workers))))

    def define(self, call: int) -> tuple[bytes, tuple[int, ...]]:
        """Return the message part that tells a worker of a callable, and its segments if it has any.

        Safe from any thread.
        """
        known = self._engine.callables.get(call)
        name = known.name.encode()[:200] + b"\0"
        flags = known.flags
        if isinstance(known.body, Parcel):
            body = name + known.body.head
            head = wire.REQUEST.pack(wire.CALLABLE, flags | wire.SEGMENT, call, 0, 0, len(body))
            return head + body, known.body.hand_over()
        body = name + known.body
        return wire.REQUEST.pack(wire.CALLABLE, flags, call, 0, 0, len(body)) + body, ()

    def post(self, worker: Worker, message: bytes, fds: tuple[int, ...] = ()) -> bool:
        """Send a message to a worker; False if there is no room for it, or nobody to read it."""
        try:
            if channel.try_send(worker.end, message, fds):
                return True
        except OSError as error:
            if error.errno == errno.ETOOMANYREFS:
                # This user has too many descriptors on their way, perhaps in other programs.
                self._lookout.look_soon()
            else:
                worker.ready = False  # it is dying; its death will be told
            return False
        worker.choked = True
        self._poll.modify(worker.fd, select.EPOLLIN | select.EPOLLOUT)
        return False

    def make_hungry(self, worker: Worker) -> None:
        """Let a worker that is ours be given tasks again, by us or by a caller."""
        if self._is_idle(worker):
            self.lender.offer(worker)
        elif worker.ready and worker.serves and not worker.stopping:
            self._hungry[worker] = None

    def pass_over(self, worker: Worker) -> None:
        """Give a worker nothing before it is hungry again."""
        self._hungry.pop(worker, None)

    def _is_idle(self, worker: Worker) -> bool:
        """Tell whether a worker that is ours could be lent: all that was sent to it is answered."""
        return self.is_done(worker) and worker.serves and worker.quota != 0

    def has_free(self, but: Worker | None = None) -> bool:
        """Tell whether some other worker could begin a task at once."""
        return bool(self.lender.idle)

    def is_done(self, worker: Worker) -> bool:
        """Tell whether a worker that is ours has answered all that was sent to it."""
        held = worker.held
        return (
            held is not None
            and worker.answered == held.next_seq
            and worker.ready
            and not (worker.choked or worker.stopping or worker.dead or worker.ping)
            and worker.chores is None
            and worker.interrupt is None
        )

    # Taking in ------------------------------------------------------------------------------------

    def _hear(self, worker: Worker) -> None:
        """Take one message from a worker that is ours: busy, not ready, or taken from the idle."""
        try:
            message, fds = self._receiver.receive(worker.end, channel.DONTWAIT)
        except BlockingIOError:
            message, fds = None, []
        except OSError:
            message, fds = b"", []
        if message == b"":
            self._cut_off(worker)
            return
        worker.heard_ns = time.monotonic_ns()
        worker.stuck = False
        held = worker.held
        if held is None:
            return
        if message:
            if message[_ALL_PLAIN_AT] & _ALL_PLAIN_BIT and message[_KIND_AT] == wire.OK_PLAIN:
                self._take_row(worker, held, message)
            else:
                self._take(worker, message, fds)
        self._lookout.arm(held)
        self.staff.watch_stop(worker)
        if worker.retiring or not worker.serves:
            self.staff.move_on(worker)
        if not worker.ready or worker.stopping or not (worker.serves and worker.mine):
            return
        if self.ledger.waiting and not worker.choked:
            self._feed(worker, held)
        if self._is_idle(worker):
            self.lender.offer(worker)
            if not self.ledger.waiting:
                self._lookout.relieve()

    def _cut_off(self, worker: Worker) -> None:
        """End a worker whose channel has ended: it leaves, or a task closed its descriptors."""
        self._forget(worker)
        worker.ready = False
        if not worker.stopping:
            self._engine.coroner.cut_off(worker)
            self._engine.stop_worker(worker, hard=True)

    def give_up(self, worker: Worker) -> None:
        """End a worker to which a task could not be sent; others run it (an item)."""
        if not worker.dead:
            self._cut_off(worker)

    def _take(
        self, worker: Worker, message: bytes, fds: list[int], by_message: bool = True
    ) -> None:
        """Settle the tasks whose results are in a message, or in an outbox."""
        held = worker.held
        if held is None:
            return
        done: list[_Reply] = []  # ends of which there is nothing more to be asked
        for reply in _replies(message):
            kind, lane, _length, task_id, begun, ended, body = reply
            if by_message and kind <= wire.SKIPPED:
                worker.answered += 1
            if kind <= wire.OK and by_message and not lane & wire.GONE:
                done.append(reply)
                continue
            if done:  # in the order in which they ended
                self._settle_done(worker, held, done)
                done = []
            if kind >= wire.SKIPPED:
                self.hear_word(worker, kind, task_id, body, begun, ended)
            elif by_message or not self._is_past(held, task_id, begun):
                self._settle_other(worker, held, reply, fds)
        if done:
            self._settle_done(worker, held, done)
        self._see_interrupt(worker)

    def _take_row(self, worker: Worker, held: Held, message: bytes) -> None:
        """Settle the tasks whose results are in a message of OK_PLAIN replies, as ``_take`` does."""
        replies = list(wire.PLAIN_REPLY.iter_unpack(message))
        worker.answered += len(replies)
        self._settle_done(worker, held, replies)
        self._see_interrupt(worker)

    def _settle_done(self, worker: Worker, held: Held, replies: list[_Reply]) -> None:
        """Settle tasks that a worker has done; the loop runs once for each task of the pool's."""
        rebuild, plain, has_plain = marshal.loads, wire.OK_PLAIN, wire.PLAIN
        # First of all: what cannot be rebuilt is a fault of ours, and nothing has been settled yet.
        outcomes = [
            rebuild(reply[6]) if reply[0] == plain else (reply[0], reply[6]) for reply in replies
        ]
        tasks = self.ledger.end_row(held, [reply[3] for reply in replies], DONE)
        if self.journal is not None:
            self.journal.done(worker, tasks, replies)
        owner: Any = None
        alike: list[Task] = []  # of the same owner
        call, count = 0, 0
        for task, reply, outcome in zip(tasks, replies, outcomes, strict=True):
            if task is None:
                continue  # known already: the outbox was read before the message came
            # As Task.settle does it, without the calls.
            task.worker = worker
            task.begun_ns = reply[4]
            task.ended_ns = reply[5]
            task.outcome = outcome
            task.ended_as = reply[0]
            if not task.kind & has_plain:
                task.payload = None
            call = task.call
            count += 1
            if task.owner is None:
                task.notify()
            elif task.owner is owner:
                alike.append(task)
            else:
                if owner is not None:
                    owner.settle_row(alike)
                owner, alike = task.owner, [task]
        if owner is not None:
            owner.settle_row(alike)
        self._note_pace(call, replies[-1][5] - replies[0][4], count)

    def _settle_other(self, worker: Worker, held: Held, reply: _Reply, fds: list[int]) -> None:
        """Settle one task that failed, has its result or arguments in segments, or is only boxed."""
        kind, lane, _length, task_id, begun, ended, body = reply
        if kind == wire.OK_PLAIN:
            body = marshal.loads(body)
        elif kind in wire.SEGMENTS:
            kind, body = arrived(kind, body, fds, worker.returned)
        if kind > wire.OK_SEGMENT and self._try_anew(worker, task_id, kind, body):
            return
        how = _HOW.get(kind, FAILED)
        task = self.ledger.end(held, task_id, how)
        if task is not None:
            if self.journal is not None:
                self.journal.ended(worker, task, how, begun, ended, kind, body)
            if lane & wire.GONE:
                note_gone(task)
            settle(task, kind, body, worker, begun, ended)
            self._note_pace(task.call, ended - begun, 1)

    def _see_interrupt(self, worker: Worker) -> None:
        if worker.interrupt is not None and worker.answered > worker.interrupt.seq:
            self._interrupts.answered(worker)

    def _note_pace(self, call: int, taken_ns: int, count: int) -> None:
        """Note how long so many tasks have taken."""
        if count and (not call or self._engine.callables.find(call) is not None):
            self.pace[call] = batching.new_pace(self.pace.get(call), taken_ns / count)

    def take_boxed(self, worker: Worker) -> None:
        """Settle the tasks whose results lie in a worker's outbox."""
        self._take(worker, self._engine.boxes.read(worker.record), [], by_message=False)

    def _is_past(self, held: Held, task_id: int, begun: int) -> bool:
        """Tell whether what still lies in an outbox is of an earlier attempt of a task."""
        task = held.tasks.get(task_id)
        return task is not None and begun < task.retried_ns

    def _try_anew(self, worker: Worker, task_id: int, kind: int, body: Any) -> bool:
        """Let a task that raised wait for its next attempt, if it may have one."""
        task = worker.held.tasks.get(task_id) if worker.held is not None else None
        if task is None or not self.tries_anew(task, kind, body):
            return False
        self.retry(worker, task)
        return True

    def retry(self, worker: Worker, task: Task) -> None:
        """Let a task that had begun wait for its next attempt."""
        if worker.held is not None:
            self.ledger.retry(worker.held, task, time.monotonic_ns())
            events.task_event(
                self._engine, events.INFO, "task.retried", "is tried again", task, worker
            )

    def hear_word(
        self, worker: Worker, kind: int, task_id: int, body: bytes, begun: int, ended: int
    ) -> None:
        """Take what a worker says beside results (also a caller's thread, to whom it is lent)."""
        held = worker.held
        if held is None:
            return
        if kind == wire.SKIPPED:
            task = held.tasks.get(task_id)
            if task is not None and task.seq == begun:
                self.ledger.take_back(held, [task])
                if worker.quota is not None:
                    worker.quota += 1
        elif kind == wire.HELLO:
            _, worker.ident, worker.native_id, worker.native_threads, *_ = marshal.loads(body)
            if not self.rounds.welcome(worker, (begun, ended)):
                self.welcome(worker, (begun, ended))
        elif kind == wire.ROUND_MADE:
            self.rounds.told(worker, body, begun, bool(ended))
        elif kind == wire.INITIALIZER_FAILED:
            self._engine.starts.raised(worker, body)
        elif kind == wire.PONG:
            worker.ping = None
            worker.answered = begun  # it answers a PING that followed this many tasks
            left = held.tasks.get(task_id)
            if left is not None:  # never sent, or its result was on its way to a caller who left
                if worker.resend:
                    self.ledger.take_back(held, [left])
                else:
                    self.settle_here(left, TaskCancelled("the call was interrupted"), CANCELLED)
        elif kind == wire.INTERRUPTED:
            self._interrupts.told(worker, begun, body)
        elif kind == wire.OUTPUT:
            if self._engine.cells is not None:
                task = held.tasks.get(task_id)  # one that a caller gave is a job by itself
                self._engine.cells.write(task_id if task is None else task.job.job_id, body)
        elif kind == wire.CAPTURED:
            self._take_output(worker, held.tasks.get(task_id), task_id, body)
        elif kind == wire.LARGE:
            # Not here: this may be a caller's thread.
            self.mailbox.put(lambda: self.staff.recycle(worker, begun))
        elif kind == wire.STACKS:
            told = marshal.loads(body)
            worker.told_stacks = (time.monotonic_ns(), told)
            for take in worker.stack_takers.copy():
                take(told)

    def welcome(self, worker: Worker, initialized_ns: tuple[int, int]) -> None:
        """Take note that a worker is ready: it has run the initializer, and made the rounds."""
        worker.initialized_ns = initialized_ns
        self.staff.start_ns = initialized_ns[1] - worker.started_ns
        worker.ready = True
        self._engine.worker_ready(worker)

    def _take_output(self, worker: Worker, task: Task | None, task_id: int, body: bytes) -> None:
        """Take what a call has written; the task may be a caller's own, or interrupted."""
        if task is None:
            interrupt = worker.interrupt
            task = worker.direct if interrupt is None else interrupt.task
        if task is not None and task.id == task_id and self._engine.outputs is not None:
            self._engine.outputs.arrived(task, body)

    # Tasks that workers have not begun -----------------------------------------------------------

    def has_begun(self, worker: Worker, task: Task) -> bool:
        """Tell whether a worker has begun a task that it was sent (any thread)."""
        begun: bool = self._engine.board.has_begun(worker.record, task.seq)
        return begun

    def take_back(self, worker: Worker, held: Held) -> None:
        """Let wait again what a worker has not begun, and make sure that it never will.

        The parent says which numbers are to be skipped, and then looks which have begun; the worker
        notes the begin, and then looks which to skip. What has not begun after that is ours. What
        began in between stays the worker's: it runs it, or tells that it skipped it.
        """
        board, record = self._engine.board, worker.record
        board.set_word(record, sb.W_SKIP_UNTIL, held.next_seq)
        self._fence.acquire(False)
        self._fence.release()
        tasks = list(held.tasks.values())
        mine = [task for task in tasks if not board.has_begun(record, task.seq)]
        self.ledger.take_back(held, mine)
        if worker.quota is not None:
            worker.quota += len(mine)

    # Life and death of workers ----------------------------------------------------------------------

    def join(self, worker: Worker) -> None:
        """Take a started worker in."""
        worker.held = self.ledger.join()
        worker.quota = self._engine.maxtasksperchild
        self.workers[worker.fd] = worker
        self._poll.register(worker.fd, select.EPOLLIN)
        self.staff.settle(worker)

    def bury(self, worker: Worker) -> None:
        """Take a dead worker out: save its finished results, end what it had begun, resend the rest."""
        held = worker.held
        if held is None or worker.buried or not self._has_back(worker):
            return
        worker.buried = True
        worker.ready = False
        self._take_the_last(worker)
        board = self._engine.board
        begun = self.ledger.bury(held, lambda task: board.has_begun(worker.record, task.seq))
        worker.lost = len(begun)
        self.workers.pop(worker.fd, None)
        self.pass_over(worker)
        self._lookout.drop(worker)
        self.staff.vacate(worker)
        self.rounds.lost(worker)
        for task in begun:
            if self._engine.outputs is not None:
                self._engine.outputs.rescue(worker, task)
            certificate = self._engine.coroner.certify(worker, task)
            if self.may_retry(task, WorkerDied):
                self.retry(worker, task)
            else:
                self.settle_here(task, WorkerDied(certificate), LOST, worker)
        # Closing would not do it while a process that somebody forked holds the same socket: the poll
        # would tell of it for ever, under a number that the next worker has.
        self._forget(worker)
        worker.end.close()
        self._engine.buried(worker, certified=bool(begun))

    def _has_back(self, worker: Worker) -> bool:
        """Make sure that no caller has the dead worker; False if one has to give it back first."""
        worker.dead = True
        for _ in range(PATIENCE):
            if worker.mine or self.lender.take(worker):
                return True
            if self.lender.is_lent(worker):
                with contextlib.suppress(OSError):
                    worker.end.shutdown(socket.SHUT_RDWR)  # wakes the caller, who has it adopted
                return False
            if worker.handed_back:
                return False  # and taken over in a moment
            # It was given back between the two looks: the next one finds it.
        self.timers.later(LOOK_AGAIN_S, lambda: self.bury(worker))  # never wait here
        return False

    def adopt(self, worker: Worker, task: Task) -> None:
        """Take over a task that a caller had given to a worker himself (an item)."""
        if worker.direct is not task or worker.held is None:
            return
        worker.direct = None
        worker.handed_back = False
        worker.mine = True
        worker.held.next_seq = max(worker.held.next_seq, task.seq + 1)
        if worker.buried:
            self._submit([task])  # it was never seen: there was nobody to send it to
            return
        self.ledger.adopt(worker.held, task)
        self._lookout.expect_begins()
        if self.stopped:
            self.settle_here(task, TaskCancelled("the pool was terminated"), CANCELLED)
        if worker.dead:
            self.bury(worker)
        else:
            self.lender.arm(worker)
            self.rounds.send(worker)

    def lease_ended(self, worker: Worker) -> None:
        """Look after a worker that a caller has given back (an item)."""
        if worker.dead:
            self.bury(worker)
        elif (worker.chores or not worker.serves) and self.lender.take(worker):
            self.rounds.send(worker)
            if not worker.serves:
                self.staff.move_on(worker)

    def _lease_died(self, reference: Any) -> None:
        """Take back a worker whose caller was torn away by a signal handler that raised."""
        box = self.lender.leases.pop(reference, None)
        if box:
            self.reclaim(box.pop())

    def reclaim(
        self,
        worker: Worker,
        resend: bool = False,
        got: tuple[bytes, list[int]] | None = None,
    ) -> None:
        """Take back a worker that nobody is going to give back, and what it was to do (an item).

        ``resend``: if it turns out that the worker never got the task, another one does. ``got``: what
        the worker has answered already.
        """
        worker.resend = resend
        worker.handed_back = False
        task = worker.direct
        if task is not None:
            self.adopt(worker, task)
            if got is not None:
                self.take_stray(worker, *got)
            # When the answer comes, all that was sent before has been answered.
            worker.ping = (task.id, worker.held.next_seq if worker.held is not None else 0)
            worker.ping_is_sent = False
            self._post_ping(worker)
            self.rounds.send(worker)
        elif worker.dead:
            self.bury(worker)
        else:
            worker.mine = True
            self.lender.arm(worker)
            if worker.held is not None:
                worker.answered = worker.held.next_seq
            self.rounds.send(worker)
            if worker.serves:
                self.make_hungry(worker)
            else:
                self.staff.move_on(worker)

    def _post_ping(self, worker: Worker) -> None:
        if worker.ping is not None and not worker.ping_is_sent:
            task_id, sent = worker.ping
            request = wire.REQUEST.pack(wire.PING, 0, 0, task_id, sent, 0)
            worker.ping_is_sent = self.post(worker, request)

    def take_stray(self, worker: Worker, message: bytes, fds: list[int]) -> None:
        """Take a message that a caller found in the channel, and that was not for him (an item)."""
        self._take(worker, message, fds)

    def _take_the_last(self, worker: Worker) -> None:
        while True:
            try:
                message, fds = self._receiver.receive(worker.end, channel.DONTWAIT)
            except OSError:
                break
            if not message:
                break
            self._take(worker, message, fds)
        self.take_boxed(worker)

    def cancel(self, task: Task) -> None:
        """End a task that waits, and interrupt one that runs; nothing if it has ended (an item)."""
        if task.state == ENDED:
            return
        worker = self._holder(task)
        if not self.withdraw(task) and worker is not None and task.state != ENDED:
            self._interrupts.begin(worker, task, is_timeout=False)

    def withdraw(self, task: Task) -> bool:
        """End a task that no worker has begun; False if one has, or if it has ended (an item)."""
        worker = None if task.state == ENDED else self._holder(task)
        if worker is not None and worker.held is not None:
            self.take_back(worker, worker.held)
        if task.state != WAITING:
            return False
        what = f"task {task.id} ({task.job.function_name(task)})"
        error = TaskCancelled(f"{what} was cancelled before it began.")
        self.settle_here(task, error, CANCELLED)
        return True

    def cancel_direct(self, worker: Worker, task: Task, said: str) -> None:
        """Interrupt a task that a caller had given to a worker himself; he ends it (an item)."""
        worker.cancelled = (task, said)
        self._interrupts.interrupt(worker, task.seq)

    def _holder(self, task: Task) -> Worker | None:
        held = task.holder
        if held is None:
            return None
        return next((worker for worker in self.workers.values() if worker.held is held), None)

    # The end of the pool ----------------------------------------------------------------------------

    def close(self) -> None:
        """Stop the workers once there is nothing left to do (an item)."""
        self.closing = True
        for job in list(self.feeds.values()):
            job.wake_feed()  # no reader bounds it any more

    def drain(self) -> None:
        """Begin no more tasks, and stop the workers once those that run have ended (an item)."""
        if self.stopped:
            return
        self.closing = self.draining = True
        for job in list(self.feeds.values()):
            job.abort(TaskCancelled(DRAINED))
        for worker in list(self.workers.values()):
            if worker.held:
                self.take_back(worker, worker.held)
        self._put_aside()

    def _is_finished(self) -> bool:
        if self.ledger.open or self.feeds or self.mailbox.items or self.lender.is_lending:
            return False
        return not self.rounds.is_under_way

    def terminate(self, error: BaseException) -> None:
        """End everything that has not ended, with an error, and stop the workers (an item)."""
        self._end_all(error, CANCELLED)
        self._stop_workers(hard=True)

    def fail(self, error: BaseException) -> None:
        """End everything that has not ended, and all that will be submitted, with an error."""
        self.failure = error
        events.pool_failed(self._engine, error)
        self._engine.give_up_changes(error)
        self._end_all(error, FAILED)

    def collapse(self, error: BaseException) -> None:
        """End all tasks while the loop does not run, and never will again (any thread)."""
        self._parked = False
        self._work_off()
        self.fail(error)

    def _stop_workers(self, hard: bool) -> None:
        self.stopped = True
        self._engine.give_up_changes(ValueError("Pool not running"))
        self._engine.run_shutdown_hook()
        for worker in list(self.workers.values()):
            if not worker.stopping:
                was_idle = self.lender.take(worker)
                self.staff.stop(worker, hard=hard and not was_idle)
            elif hard:
                # One that is leaving already has a moment more: its finalizer may run.
                self._engine.stop_worker(worker, hard=bool(worker.held))
        self._engine.stopping()

    def end(self) -> None:
        """Leave the loop for good: the last worker is gone (an item)."""
        self._end_all(TaskCancelled("the pool has ended"), CANCELLED)
        self._ended = self.stopped = True

    def dispose(self) -> None:
        """Close what the loop waited on; after its end."""
        self._poll.close()
        self.mailbox.close()


_Reply = tuple[int, int, int, int, int, int, Any]
"""Kind, lane, length of the body, task id, begun_ns, ended_ns, body."""


def _replies(message: bytes) -> Iterator[_Reply]:
    """Take a message, or what lies in an outbox, apart."""
    unpack, size = wire.REPLY.unpack_from, wire.REPLY.size
    at, stop = 0, len(message)
    while at < stop:
        head = unpack(message, at)
        at += size
        end = at + head[2]
        yield *head, message[at:end]
        at = end


class _Message:
    """Tasks that travel to a worker together, while they are put together."""

    __slots__ = ("fds", "introduced", "parts", "sent", "size", "timed", "worker")

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.parts: list[bytes] = [
            wire.REQUEST.pack(wire.FORGET, 0, number, 0, 0, 0)
            for number in worker.forget[:FORGET_AT_ONCE]
        ]
        if worker.returned:
            self.parts += take_returned(worker)
        self.sent: list[Task] = []
        self.introduced: list[int] = []
        self.fds: tuple[int, ...] = ()  # of the segments that one of them is in
        self.size = 0
        self.timed = False  # one of them has a policy of its own


def _may_lend(engine: LocalEngine) -> bool:
    """Tell whether callers may have workers: not where the collector has to see each task."""
    told = engine.options
    unseen = (
        engine.maxtasksperchild is None and told.soft_memory is None and not told.capture_output
    )
    return unseen and not engine.lanes  # nor where a caller would block the other lanes
