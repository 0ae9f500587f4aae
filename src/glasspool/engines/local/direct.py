"""Direct calls: a caller that waits anyway sends its task to an idle worker and takes the result itself.

That saves two switches between threads of the parent, which cost more than all the rest of a short call.
A worker is *lent*: while it is idle it lies in ``idle``, and whoever moves it from there into a box of his
own may use its channel, until he moves it back. The collector does the same to feed it. Each move is
one call into C, so a signal handler that raises in the caller's thread finds the worker either here or
there, never nowhere.

A worker that is given back stays out of the collector's poll (it is not *armed*) until the collector
takes it or somebody asks it for stacks; a lease is used again for the next call. In a row of short calls
both sides wait by trying (``waiting``). ``docs/internals/waiting.md`` says why all of that pays.

What can go wrong, and who settles it:

* The worker does not begin the task within ``BEGIN_LIMIT_S`` (it has been stopped): the collector adopts
  the task and takes it back.
* A signal handler waits for the pool in the middle: before it waits it hands the worker back
  (``hand_back``), as nobody else could; the call further out finds that when it goes on.
* The worker dies: the collector shuts the channel down, the caller sees its end, and the collector
  *adopts* the task: it is settled as if it had been handed out in the usual way.
* A signal handler raises in the middle: the lease dies with the caller's frame, and its weak reference
  lands in the collector's mailbox. The collector adopts the task, and asks the worker to answer: what
  is not known to be on its way when the answer comes was never sent, or its result is nobody's now.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import marshal
import select
import socket
import threading
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

from glasspool.engines.local import channel, wire
from glasspool.engines.local.outcome import RAISED, arrived, settle
from glasspool.engines.local.parcels import note_gone, take_returned
from glasspool.engines.local.payload import Parcel
from glasspool.engines.local.waiting import ASLEEP, BOTH, TRY_NS, Trying
from glasspool.ledger import CANCELLED, DONE, FAILED
from glasspool.processors import usable_processors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from glasspool.engines.local.collector import Collector
    from glasspool.engines.local.workers import Worker
    from glasspool.ledger import Task

_Reply = tuple[int, bytes, list[int], int, int, int]
"""What a worker answered: kind, body, descriptors, begun_ns, ended_ns; and when it was sent the task."""


class Lease:
    """The right to use one worker; it ends with the caller's frame at the latest.

    Used for one call after the other, as it costs as much as a message to make one. Nobody holds it but
    the frame of the call that uses it, or the lender's row of free ones.
    """

    __slots__ = ("__weakref__", "box", "got", "ident", "is_sent", "receiver", "taken_out")

    def __init__(self) -> None:
        self.box: list[Worker] = []
        self.taken_out: Iterator[Worker] = iter(self.box.pop, _NEVER)
        self.ident: int = 0
        self.is_sent: bool = False  # the task is with the worker for certain
        self.got: tuple[bytes, list[int]] | None = None  # a message that has not been worked off
        self.receiver: channel.Receiver = channel.Receiver()

    def begin(self) -> None:
        """Forget the call before; the box is still empty."""
        self.ident = threading.get_ident()
        self.is_sent = False
        self.got = None
        self.receiver.mark()

    def unread(self) -> tuple[bytes, list[int]] | None:
        """Return the message that was received and not worked off, when a signal handler came."""
        if self.got is not None:
            return self.got
        head = self.receiver.head(wire.REPLY.size)
        if head is None:
            return None
        kind, _lane, length, *_ = wire.REPLY.unpack(head)
        if kind in wire.SEGMENTS:
            return None  # its descriptor is out of reach
        message = self.receiver.head(wire.REPLY.size + length)
        return None if message is None else (message, [])


class Lender:
    """Idle workers, and those that are lent."""

    def __init__(self, collector: Collector, poll: select.epoll, lends: bool) -> None:
        self.idle: deque[Worker] = deque()
        self.leases: dict[weakref.ref[Lease], list[Worker]] = {}
        self.done: int = 0
        self.failed: int = 0
        self.cancelled: int = 0
        self._collector = collector
        self._lends = lends
        self._poll = poll
        self._free: list[Lease] = []
        self._first_idle: Iterator[Worker] = iter(self.idle.popleft, _NEVER)
        self._trying = Trying(usable_processors)

    def call(self, task: Task) -> bool:
        """Run a task in the calling thread's name, and settle it; False if no worker is idle.

        Blocks until the task has ended (or the collector has adopted it).
        """
        collector = self._collector
        if not self.idle or not self._lends or collector.ledger.waiting or collector.mailbox.items:
            return False
        if (task.policy is not None or task.kind & wire.SEGMENT) and not _may_be_lent(task):
            return False
        try:
            lease = self._free.pop()
        except IndexError:
            lease = self._new_lease()
        lease.begin()
        try:
            lease.box.extend(itertools.islice(self._first_idle, 1))  # in one call into C
            worker = lease.box[0]
        except IndexError:  # another was faster, or a signal handler handed it back
            self._free.append(lease)
            return False
        if not worker.serves:  # it has been dismissed: the collector waits for it
            self._give_back(lease)
            self._free.append(lease)
            collector.mailbox.put(lambda: collector.lease_ended(worker))
            return False
        if not collector.stall.watching:
            collector.stall.begin()
        try:
            kind, body, fds, begun, ended, sent = self._converse(worker, task, lease)
        except _HandedBack:
            self._end(lease)
            return False
        except (OSError, ValueError) as error:
            self._give_up(worker, task, lease, error)
            return True
        if not lease.box:
            self._end(lease)
            return True  # handed back with the task, which the collector has settled
        # No signal handler comes between the look and this: there is no call in between.
        worker.direct = None
        worker.answered += 1
        self._give_back(lease)
        self._free.append(lease)
        value: Any = body
        if kind == wire.OK_PLAIN:
            value = marshal.loads(body)
        elif kind in wire.SEGMENTS:
            kind, value = arrived(kind, body, fds, worker.returned)
        self._settle(task, worker, kind, value, begun, ended, sent)
        if (
            worker.dead
            or not worker.serves
            or worker.chores is not None
            or collector.ledger.waiting
            or collector.closing
        ):
            collector.mailbox.put(lambda: collector.lease_ended(worker))
        if worker.stack_takers:
            collector.mailbox.put(self.listen)
        return True

    def _new_lease(self) -> Lease:
        lease = Lease()
        # The dict has the only reference to the weak reference: taken out, it tells nobody any more.
        self.leases[weakref.ref(lease, self._collector.mailbox.items.append)] = lease.box
        return lease

    def _end(self, lease: Lease) -> None:
        self.leases.pop(next(iter(weakref.getweakrefs(lease)), None), None)  # type: ignore[arg-type]

    def _give_back(self, lease: Lease) -> None:
        """Put the worker of a lease in front of the idle ones: it is awake, and knows the callable."""
        try:
            self.idle.extendleft(itertools.islice(lease.taken_out, 1))
        except IndexError:  # handed back at this moment
            return

    def _give_up(self, worker: Worker, task: Task, lease: Lease, error: Exception) -> None:
        """Leave a task to the collector, who finds out what becomes of it.

        The worker is gone, or stopped, or was handed back, or the pool has ended.
        """
        collector = self._collector
        if collector.journal is not None:
            collector.journal.submitted((task,))
        if lease.box:
            worker.handed_back = True  # first: between the box and the adoption nobody has it
        collector.mailbox.put(lambda: collector.adopt(worker, task))
        if isinstance(error, OSError) and error.errno == errno.ETOOMANYREFS:
            collector.mailbox.put(lambda: collector.give_up(worker))  # it waits for nothing now
        lease.box.clear()
        self._end(lease)

    def hand_back(self) -> None:
        """Give up what this very thread was lent: it is about to wait, in a signal handler.

        The handler came between two steps of ``call`` further out in the same thread, which goes on
        only when the handler returns. The socket's descriptor moves to a new object, so whatever the
        outer call does with the old one fails, and it finds its lease empty.
        """
        me = threading.get_ident()
        for reference in list(self.leases):
            lease = reference()
            if lease is None or lease.ident != me or not lease.box:
                continue  # another's, or it has none yet, or none any more
            worker = lease.box[0]
            worker.handed_back = True
            del lease.box[:]
            worker.end = socket.socket(fileno=worker.end.detach())
            # A task that is not known to be sent, and that the worker does not know, is sent anew.
            put, resend = self._collector.mailbox.put, not lease.is_sent
            got = lease.unread() if worker.direct is not None else None
            put(functools.partial(self._collector.reclaim, worker, resend, got))

    def _converse(self, worker: Worker, task: Task, lease: Lease) -> _Reply:
        held, end, body = worker.held, worker.end, task.payload
        if held is None:
            raise OSError("the worker has not joined")
        if not lease.box:
            raise _HandedBack
        # No signal handler comes between the look and this: there is no call in between.
        seq = task.seq = held.next_seq
        worker.direct = task
        held.next_seq += 1
        if worker.armed:
            worker.armed = False  # first: a handler comes after the call at the earliest
            self._poll.modify(worker.fd, 0)
        flags, who = task.kind, ASLEEP
        now_ns = time.monotonic_ns()
        if self._trying.is_on:
            who = self._trying.who(now_ns - worker.told_ns, self._busy())
            if who == BOTH:
                flags |= wire.STAY
        fds: tuple[int, ...] = ()
        ahead = take_returned(worker) if worker.returned else []
        if task.call and task.call not in worker.known:
            ahead.append(self._definition(end, task))
        if task.kind & wire.PLAIN:
            body = marshal.dumps(body)
        elif isinstance(body, Parcel):
            fds, body = body.hand_over(), body.head
        head = wire.REQUEST.pack(wire.TASK, flags, task.call, task.id, seq, len(body))
        channel.send(end, b"".join((*ahead, head, body)) if ahead else head + body, fds)
        lease.is_sent = True
        if task.call:
            worker.known.add(task.call)  # now: it is sent again if a signal handler came before
        return self._await_reply(worker, task, end, lease, now_ns, who != ASLEEP)

    def _busy(self) -> int:
        """Return how many processors the pool's work uses: workers that are not idle, and callers."""
        callers = len(self.leases) - len(self._free)
        return len(self._collector.workers) - len(self.idle) + callers

    def _definition(self, end: socket.socket, task: Task) -> bytes:
        """Return what tells a worker of a task's callable; if that is long, send it ahead."""
        definition, fds = self._collector.define(task.call)
        if not fds and len(definition) + task.weight < wire.INLINE_BYTES:
            return definition
        channel.send(end, definition, fds)
        return b""

    def _await_reply(
        self,
        worker: Worker,
        task: Task,
        end: socket.socket,
        lease: Lease,
        since_ns: int,
        tries: bool,
    ) -> _Reply:
        receiver = lease.receiver
        while True:
            got = receiver.try_until(end, since_ns + TRY_NS) if tries else None
            try:
                # Woken by the result; at the death of the worker the collector ends the stream.
                message, fds = lease.got = got or receiver.receive(end)
            except BlockingIOError:
                if not self._collector.has_begun(worker, task):
                    raise  # the worker has been stopped: the collector finds another one
                channel.wait_to_read(end)  # woken as the receive above
                continue
            if not message:
                raise ConnectionResetError("the worker's channel has ended")
            kind, lane, length, task_id, begun, ended = wire.REPLY.unpack_from(message)
            body = message[wire.REPLY.size : wire.REPLY.size + length]
            if kind < wire.SKIPPED:
                break
            self._collector.hear_word(worker, kind, task_id, body, begun, ended)
            receiver.mark()
            lease.got = None
        if task_id != task.id:
            # Never take another task's value, whatever went wrong: the collector sorts it out.
            stray = functools.partial(self._collector.take_stray, worker, message, fds)
            self._collector.mailbox.put(stray)
            raise OSError("the channel held a reply to somebody else")
        if lane & wire.GONE:
            note_gone(task)
        now_ns = worker.told_ns = time.monotonic_ns()
        if tries:
            self._trying.tried(ended - begun, got is not None)
        else:
            self._trying.slept(now_ns - since_ns, ended - begun)
        return kind, body, fds, begun, ended, since_ns

    def _settle(
        self, task: Task, worker: Worker, kind: int, body: Any, begun: int, ended: int, sent: int
    ) -> None:
        error: BaseException | None = None
        if kind <= wire.OK_SEGMENT:
            how = DONE
            self.done += 1
        elif kind == wire.EXIT and worker.cancelled is not None and worker.cancelled[0] is task:
            how, error = CANCELLED, _cancelled_by_hand(worker, task)
            self.cancelled += 1
        else:
            how = FAILED
            self.failed += 1
        journal = self._collector.journal
        if journal is not None:
            journal.direct(task, sent)
            journal.ended(worker, task, how, begun, ended, kind, body)
        if error is not None:
            kind, body = RAISED, error
        settle(task, kind, body, worker, begun, ended)

    # The collector's ------------------------------------------------------------------------------

    def offer(self, worker: Worker) -> None:
        """Put a worker to the idle ones (collector)."""
        worker.mine = False
        self.idle.append(worker)

    def take_any(self) -> Worker | None:
        """Take the first of the idle workers (collector)."""
        try:
            worker = self.idle.popleft()
        except IndexError:  # none, or a caller was faster
            return None
        worker.mine = True
        self.arm(worker)
        return worker

    def take(self, worker: Worker) -> bool:
        """Take a worker out of the idle ones; False if it is not there (collector)."""
        try:
            self.idle.remove(worker)
        except ValueError:
            return False
        worker.mine = True
        self.arm(worker)
        return True

    def arm(self, worker: Worker) -> None:
        """Have the poll tell of the messages of a worker that is ours (collector).

        Callers leave it unarmed when they give it back: an idle worker says nothing unasked, and its
        end is told all the same.
        """
        if not worker.armed:
            worker.armed = True
            with contextlib.suppress(OSError, ValueError):  # its end has been seen
                self._poll.modify(worker.fd, select.EPOLLIN)

    def listen(self) -> None:
        """Have the poll tell what idle workers say that are asked for their stacks (an item).

        Whoever asks puts himself among the worker's takers, and then this into the mailbox; a caller
        gives the worker back, and then looks whether there are takers. So one of us finds it.
        """
        for worker in list(self.idle):
            if worker.stack_takers and not worker.armed and self.take(worker):
                self._collector.make_hungry(worker)

    @property
    def is_lending(self) -> bool:
        """Whether any caller has a worker (any thread)."""
        return any(list(self.leases.values()))

    def is_lent(self, worker: Worker) -> bool:
        """Tell whether a caller has the worker."""
        return any(worker in box for box in list(self.leases.values()))


class _HandedBack(Exception):
    """The worker was handed back before the task was given to it."""


def _may_be_lent(task: Task) -> bool:
    """Tell whether a task needs nothing that only the collector does; its segment is open then."""
    policy = task.policy
    if policy is not None and (policy.timeout_s is not None or policy.retry_on):
        return False  # the collector watches the time, and looks at errors
    if isinstance(task.payload, Parcel):
        try:
            task.payload.open()
        except OSError:  # no room for it now: the collector knows what to do
            return False
    return True


def _cancelled_by_hand(worker: Worker, task: Task) -> Exception:
    """Return the error of a direct task that was interrupted: only from outside can that be asked for."""
    from glasspool.errors import TaskCancelled

    what = f"task {task.id} ({task.job.function_name(task)})"
    error = TaskCancelled(f"{what} was cancelled while it ran in worker {worker.slot}.")
    cancelled, worker.cancelled = worker.cancelled, None
    if cancelled is not None:
        error.add_note(cancelled[1])
    return error


_NEVER = object()
