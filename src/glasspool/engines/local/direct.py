"""Direct calls: a caller that waits anyway sends its task to an idle worker and takes the result itself.

That saves two switches between threads of the parent, which cost more than all the rest of a short call.
A worker is *lent*: while it is idle it lies in ``idle``, and whoever moves it from there into a box of his
own may use its channel, until he moves it back. The collector does the same to feed it. Each move is
one call into C, so a signal handler that raises in the caller's thread finds the worker either here or
there, never nowhere.

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
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

from glasspool.engines.local import channel, wire
from glasspool.engines.local.outcome import arrived, settle
from glasspool.engines.local.payload import Parcel

if TYPE_CHECKING:
    from glasspool.engines.local.collector import Collector
    from glasspool.engines.local.workers import Worker
    from glasspool.ledger import Task


class Lease:
    """The right to use one worker; it ends with the caller's frame at the latest."""

    __slots__ = ("__weakref__", "box", "got", "ident", "is_sent", "receiver")

    def __init__(self) -> None:
        self.box: list[Worker] = []
        self.ident: int = threading.get_ident()
        self.is_sent: bool = False  # the task is with the worker for certain
        self.got: tuple[bytes, list[int]] | None = None  # a message that has not been worked off
        self.receiver: channel.Receiver | None = None

    def unread(self) -> tuple[bytes, list[int]] | None:
        """Return the message that was received and not worked off, when a signal handler came."""
        if self.got is not None or self.receiver is None:
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
        self._collector = collector
        self._lends = lends
        self._poll = poll
        self._receivers: deque[channel.Receiver] = deque()

    def call(self, task: Task) -> bool:
        """Run a task in the calling thread's name, and settle it; False if no worker is idle.

        Blocks until the task has ended (or the collector has adopted it).
        """
        collector = self._collector
        policy = task.policy
        if policy is not None and (policy.timeout_s is not None or policy.retry_on):
            return False  # the collector watches the time, and looks at errors
        if not self.idle or not self._lends or collector.ledger.waiting or collector.mailbox.items:
            return False
        if isinstance(task.payload, Parcel):
            try:
                task.payload.open()
            except OSError:  # no room for it now: the collector knows what to do
                return False
        lease = Lease()
        # The dict has the only reference to the weak reference: taken out, it tells nobody any more.
        self.leases[weakref.ref(lease, collector.mailbox.items.append)] = lease.box
        try:
            move_one(self.idle.popleft, lease.box.extend)
            worker = lease.box[0]
        except IndexError:
            self._end(lease)
            return False
        if not worker.serves:  # it has been dismissed: the collector waits for it
            with contextlib.suppress(IndexError):  # handed back at this moment
                move_one(lease.box.pop, self.idle.extend)
            self._end(lease)
            collector.mailbox.put(lambda: collector.lease_ended(worker))
            return False
        if not collector.stall.watching:
            collector.stall.begin()
        try:
            reply = self._converse(worker, task, lease)
        except _HandedBack:
            return False
        except (OSError, ValueError) as error:  # gone, stopped, handed back, or the pool has ended:
            # the collector finds out what becomes of the task
            if lease.box:
                worker.handed_back = True  # first: between the box and the adoption nobody has it
            collector.mailbox.put(lambda: collector.adopt(worker, task))
            if isinstance(error, OSError) and error.errno == errno.ETOOMANYREFS:
                collector.mailbox.put(lambda: collector.give_up(worker))  # it waits for nothing now
            lease.box.clear()
            self._end(lease)
            return True
        if not lease.box:
            return True  # handed back with the task, which the collector has settled
        # No signal handler comes between the look and this: there is no call in between.
        worker.direct = None
        worker.answered += 1
        with contextlib.suppress(OSError, ValueError):  # its end has been seen meanwhile
            self._poll.modify(worker.fd, select.EPOLLIN)
        with contextlib.suppress(IndexError):  # handed back at this moment
            move_one(lease.box.pop, self.idle.extend)
        self._end(lease)
        self._settle(task, worker, *reply)
        if worker.dead or not worker.serves or collector.ledger.waiting or collector.closing:
            collector.mailbox.put(lambda: collector.lease_ended(worker))
        return True

    def _end(self, lease: Lease) -> None:
        self.leases.pop(next(iter(weakref.getweakrefs(lease)), None), None)  # type: ignore[arg-type]

    def hand_back(self) -> None:
        """Give up what this very thread was lent: it is about to wait, in a signal handler.

        The handler came between two steps of ``call`` further out in the same thread, which goes on
        only when the handler returns. The socket's descriptor moves to a new object, so whatever the
        outer call does with the old one fails, and it finds its lease empty.
        """
        me = threading.get_ident()
        for reference in list(self.leases):
            lease = reference()
            if lease is None or lease.ident != me:
                continue
            with contextlib.suppress(IndexError):  # it has none yet, or none any more
                worker = lease.box[0]
                worker.handed_back = True
                del lease.box[:]
                worker.end = socket.socket(fileno=worker.end.detach())
                # A task that is not known to be sent, and that the worker does not know, is sent anew.
                put, resend = self._collector.mailbox.put, not lease.is_sent
                got = lease.unread() if worker.direct is not None else None
                put(functools.partial(self._collector.reclaim, worker, resend, got))
            self.leases.pop(reference, None)
            self._collector.mailbox.put(self._collector.look)  # it may have been the last thing

    def _converse(self, worker: Worker, task: Task, lease: Lease) -> tuple[int, Any, int, int]:
        held, end, body = worker.held, worker.end, task.payload
        if held is None:
            raise OSError("the worker has not joined")
        if not lease.box:
            raise _HandedBack
        # No signal handler comes between the look and this: there is no call in between.
        seq = task.seq = held.next_seq
        worker.direct = task
        held.next_seq += 1
        self._poll.modify(worker.fd, 0)
        parts: list[bytes] = []
        if task.call and task.call not in worker.known:
            definition, fd = self._collector.define(task.call)
            if fd is None and len(definition) + task.weight < wire.INLINE_BYTES:
                parts.append(definition)
            else:
                channel.send(end, definition, fd)
            worker.known.add(task.call)
        fd = None
        if task.kind & wire.PLAIN:
            body = marshal.dumps(body)
        elif isinstance(body, Parcel):
            fd, body = body.fd, body.head
        head = wire.REQUEST.pack(wire.TASK, task.kind, task.call, task.id, seq, len(body))
        parts += (head, body)
        channel.send(end, b"".join(parts), fd)
        lease.is_sent = True
        return self._await_reply(worker, task, end, lease)

    def _await_reply(
        self, worker: Worker, task: Task, end: socket.socket, lease: Lease
    ) -> tuple[int, Any, int, int]:
        try:
            receiver = self._receivers.pop()
        except IndexError:
            receiver = channel.Receiver()
        while True:
            # Woken by the result; at the death of the worker the collector ends the stream.
            receiver.mark()
            lease.receiver = receiver
            try:
                message, fds = lease.got = receiver.receive(end)
            except BlockingIOError:
                if not self._collector.has_begun(worker, task):
                    raise  # the worker has been stopped: the collector finds another one
                channel.wait_to_read(end)  # woken as the receive above
                continue
            if not message:
                raise ConnectionResetError("the worker's channel has ended")
            kind, _lane, length, task_id, begun, ended = wire.REPLY.unpack_from(message)
            body: Any = message[wire.REPLY.size : wire.REPLY.size + length]
            if kind < wire.SKIPPED and task_id != task.id:
                # Never take another task's value, whatever went wrong: the collector sorts it out.
                stray = functools.partial(self._collector.take_stray, worker, message, fds)
                self._collector.mailbox.put(stray)
                raise OSError("the channel held a reply to somebody else")
            if kind < wire.SKIPPED:
                lease.receiver = None
                self._receivers.append(receiver)
                if kind == wire.OK_PLAIN:
                    body = marshal.loads(body)
                elif kind in wire.SEGMENTS:
                    kind, body = arrived(kind, body, fds)
                return kind, body, begun, ended
            lease.got = None
            self._collector.hear_word(worker, kind, task_id, body, begun, ended)

    def _settle(
        self, task: Task, worker: Worker, kind: int, body: Any, begun: int, ended: int
    ) -> None:
        if kind <= wire.OK_SEGMENT:
            self.done += 1
        else:
            self.failed += 1
        settle(task, kind, body, worker, begun, ended)

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
        return worker

    def take(self, worker: Worker) -> bool:
        """Take a worker out of the idle ones; False if it is not there (collector)."""
        try:
            self.idle.remove(worker)
        except ValueError:
            return False
        worker.mine = True
        return True

    def is_lent(self, worker: Worker) -> bool:
        """Tell whether a caller has the worker."""
        return any(worker in box for box in list(self.leases.values()))


class _HandedBack(Exception):
    """The worker was handed back before the task was given to it."""


def move_one(take: Any, put_all: Any) -> None:
    """Move one item in one call into C; IndexError if there is none to take."""
    put_all(itertools.islice(iter(take, _NEVER), 1))


_NEVER = object()
