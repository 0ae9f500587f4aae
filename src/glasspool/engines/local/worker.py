"""What runs in a worker process: one loop in its main thread, and no other thread.

Owns: its record of the scoreboard, its outbox, its end of the channel, and the callables it was sent.

For each task: note it as begun in the ring, call, put the result into the outbox, note the end; only
the message that wakes the parent is shared between short tasks. The loop waits in one place, for the
next message; the parent wakes it with one, or the end of the parent does (end of the stream).

A request for stacks is a real-time signal. Its handler runs between two bytecodes of the main thread
and sends the stacks as a message of its own, so it can fall into the middle of anything here.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import itertools
import marshal
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from multiprocessing import util
from types import CodeType, FrameType, TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import glasspool
from glasspool.engines.local import (
    carried,
    channel,
    kernel,
    memory,
    native_limits,
    payload,
    plain,
    progress,
    recorder,
    segments,
    wire,
)
from glasspool.engines.local import scoreboard as sb
from glasspool.engines.local.blackbox import BlackBoxes
from glasspool.engines.local.outbox import Outbox, Outboxes
from glasspool.engines.local.outfit import Outfit, whereabouts
from glasspool.engines.local.waiting import TRY_NS

if TYPE_CHECKING:
    from glasspool.engines.local import cells

FLUSH_NS = 400_000
"""A finished result waits at most about this long, or for the end of its message, to be sent."""

ITEM_NS = 10_000
"""Items of a chunk that take longer than this are noted one by one."""

ACCOUNT_NS = 1_000_000
"""Where the time went is written down at the end of a message, but after short ones not more often."""

BLOCK = 128
"""How many shorter items run in a tight loop between two notes."""


_DONE = sb.DONE << 56

_SCARCE = (errno.ETOOMANYREFS, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.ENOMEM)
"""Why a result in shared memory cannot be sent, although the pool is there."""


class Setup(NamedTuple):
    """What a worker must know of itself. It travels to the worker as it starts."""

    pool: str
    number: int
    slot: int
    generation: int
    record: int
    parent: int
    forked: bool
    template: int | None = None
    max_memory: int | None = None
    born_ns: int = 0
    forwards: bool = False  # what is printed goes to the pool
    env: tuple[tuple[str, str], ...] = ()  # to be set; not what came with the process's name
    native_rule: int = 0  # how native threads are limited
    lanes: int = 0  # so many threads run tasks; 0: the main thread does


class WorkerInfo(NamedTuple):
    """Where the calling task runs: see ``glasspool.worker``.

    ``slot`` is kept by the replacement of a worker, ``generation`` counts these. ``task`` is the number
    of the task in its pool and ``attempt`` the how-manieth time it runs, from 1; both are None when no
    task runs (in the initializer). What had been sent to a worker that died, and had not begun, is no
    attempt. ``node`` is the node of a cluster, on which slots are counted; None on one machine.
    """

    pool: str
    slot: int
    generation: int
    pid: int
    task: int | None
    attempt: int | None
    function: str | None
    node: str | None = None


_here: Worker | None = None

surround: Callable[[Callable[..., Any]], Callable[..., Any]] | None = None
"""Wraps each callable of the user's that is called here, if it is set."""


def current() -> WorkerInfo | None:
    """Return where the calling code runs: pool, slot, process, task. None outside a worker."""
    worker = _here
    if worker is None or worker.pid != os.getpid():
        return None
    return worker.describe()


def main(
    end: socket.socket,
    board: sb.Board | str,
    boxes: Outboxes,
    setup: Setup,
    initializer: Callable[..., object] | None,
    initargs: tuple[Any, ...],
    black: BlackBoxes,
    finalizer: Callable[[], object] | None,
    outfit: Outfit,
) -> None:
    """Run a worker until it is told to stop. The target of the worker's ``Process``."""
    global _here
    if setup.template is not None:
        kernel.die_with_parent(setup.template)
    else:
        watch_parent(setup.parent)
    _let_fork_server_go()
    _reset_signals()
    if setup.forked:
        # Exit functions of the parent would delete the parent's files. Ours run in Worker.leave.
        atexit._clear()
        # From Python 3.13 on, nobody else runs the finalizers of multiprocessing.
        atexit.register(util._exit_function)  # type: ignore[attr-defined]
    kernel.allow_tracer(setup.parent)
    duty = "main" if setup.lanes else "task"
    kernel.name_this_thread(f"gp{setup.number} w{setup.slot:02d} {duty}")
    if isinstance(board, str):
        board = sb.Board.attach(board)
    if outfit.pool is not None:
        setup = setup._replace(pool=outfit.pool)
    worker = _new_worker(end, board, boxes, setup)
    worker.node = outfit.node
    _here = progress.here = worker
    recorder.install(
        black,
        setup.record,
        peak=setup.template is None,
        is_drawn_below=lambda: board.bar_is_drawn,
    )
    if setup.forwards:
        worker.forward_output()
    worker.answer_signals()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=worker.become_copy)
    _note_threads(worker)
    outfit.put_on(setup)
    if worker.initialize(initializer, initargs) and worker.serve() and finalizer is not None:
        worker.finalize(finalizer)
    worker.leave()


def _new_worker(end: socket.socket, board: sb.Board, boxes: Outboxes, setup: Setup) -> Worker:
    if not setup.lanes:
        return Worker(end, board, boxes, setup)
    from glasspool.engines.local import lanes  # not before somebody wants some

    return lanes.LanedWorker(end, board, boxes, setup)


class Worker:
    """The loop of a worker and what it owns."""

    lock: AbstractContextManager[object] = contextlib.nullcontext()  # nobody else is here
    node: str | None = None

    def __init__(self, end: socket.socket, board: sb.Board, boxes: Outboxes, setup: Setup) -> None:
        self.pid: int = os.getpid()
        self.setup = setup
        self._end = end
        self._receiver = channel.Receiver()
        self._board = board
        self._view = board.view
        self._words = board.words
        self._base = board.base(setup.record)
        self._ring = board.ring(setup.record)
        self._outbox = Outbox(boxes, setup.record, end)
        self._callables: dict[int, _Callable] = {}
        self._fence = threading.Lock()
        self._flushed_ns = 0
        self._done = 0
        self._busy_ns = 0
        # Where the time goes (``account``): what is measured for each message, and what for tasks that
        # are not plain. Running is what is busy and does not rebuild arguments; sending is what is left.
        self._ready_ns = 0
        self._rested_ns = 0  # since when it waits, or had waited
        self._noted_ns = 0  # when it was last written down that it waits; 0: not since it worked
        self._wait_ns = 0
        self._unpack_ns = 0  # rows, before their first task
        self._rebuild_ns = 0  # arguments, while busy
        self._called_ns = 0  # when those of the task had been rebuilt
        self._task: tuple[int, str] | None = None
        self._attempt = 1
        self._is_copy = False  # a fork that a task made of this process
        self._has_started = True
        self._forwarder: cells.Forwarder | None = None
        self._failed_item: int | None = None  # of the chunk that has just raised
        self._interruptible = -1  # the number of the task in which an exception may be raised
        self._threads: dict[int, threading.Thread] = {}
        self._is_last = False  # whether the task is the last one of its message
        self._memory: memory.LookAtSelf | None = None
        if setup.max_memory is not None:
            self._memory = memory.LookAtSelf(setup.max_memory)
        self._viewed = segments.Viewed()  # what the task has of its arguments in shared memory
        self._lent = segments.Lent()
        if setup.max_memory is None:  # what is kept would count as used
            segments.kept.begin(self)
        self._set(sb.W_PID, self.pid)
        self._set(sb.W_SLOT, setup.slot)
        self._set(sb.W_GENERATION, setup.generation)
        self._set(sb.W_IDENT, threading.get_ident())
        self._set(sb.W_NATIVE, threading.get_native_id())
        self._set(sb.W_STARTED_NS, setup.born_ns or time.monotonic_ns())
        self._set(sb.W_STARTTIME, sb.process_start_ticks(self.pid))

    def _set(self, which: int, value: int) -> None:
        self._words[self._base + which] = value

    def forward_output(self) -> None:
        """Have what is printed here appear where the pool's program shows it: in a notebook's cell."""
        from glasspool.engines.local import cells  # in notebooks only

        self._forwarder = cells.Forwarder(self._end, self._task_here)
        self._forwarder.follow_streams()

    def _task_here(self) -> int:
        """Return the number of the task that the calling thread works for; 0: none."""
        task = self._task
        return task[0] if task else 0

    def become_copy(self) -> None:
        """Let go of the channel: a task forked this process, and the pool's messages are not for us."""
        self._is_copy = True
        self._end.close()
        self._words, self._base = memoryview(bytearray(sb.WORDS * 8)).cast("Q"), 0

    def describe(self) -> WorkerInfo:
        """Return where the current task runs."""
        task = self._task
        return WorkerInfo(
            pool=self.setup.pool,
            slot=self.setup.slot,
            generation=self.setup.generation,
            pid=self.pid,
            task=task[0] if task else None,
            attempt=self._attempt if task else None,
            function=task[1] if task else None,
            node=self.node,
        )

    # Life ---------------------------------------------------------------------------------------

    def initialize(
        self, initializer: Callable[..., object] | None, initargs: tuple[Any, ...]
    ) -> bool:
        """Run the user's initializer and say hello; False if it failed."""
        self._set(sb.W_STATE, sb.INITIALIZING)
        begun = time.monotonic_ns()
        if initializer is not None:
            self._set(sb.W_INIT_BEGUN_NS, begun)
            try:
                initializer(*initargs)
            except BaseException as error:
                if self._is_copy:
                    _end_copy(error)
                body = _error_body(error, by_value=False, limit=wire.INLINE_BYTES)
                self._outbox.put(wire.INITIALIZER_FAILED, 0, body, 0, begun, time.monotonic_ns())
                self._outbox.flush()
                return False
            if self._is_copy:
                _end_copy(None)
            self._set(sb.W_INIT_ENDED_NS, time.monotonic_ns())
        self._set(sb.W_STATE, sb.READY)
        hello = marshal.dumps(self._introduction())
        self._outbox.put(wire.HELLO, 0, hello, 0, begun, time.monotonic_ns())
        self._outbox.flush()
        self._ready_ns = self._rested_ns = time.monotonic_ns()
        self._note_account(self._ready_ns, sb.WAITS)
        self._set(sb.W_READY_NS, self._ready_ns)
        return True

    def _introduction(self) -> tuple[Any, ...]:
        """Return what the pool is told of this worker once it is ready."""
        return self.pid, threading.get_ident(), threading.get_native_id(), native_limits.told

    def serve(self) -> bool:
        """Do what the messages say, until one says stop (True) or there will be no more (False).

        Also False if a round that comes before the first task failed.
        """
        receiver, end, clock = self._receiver, self._end, time.monotonic_ns
        stays, now = False, 0
        while True:
            try:
                got = receiver.try_until(end, now + TRY_NS) if stays else None
                message, fds = got or receiver.receive(end)
            except OSError:
                return False
            if not message:
                return False
            if not self._handle(message, fds):
                return self._has_started
            self._flush()
            now = self._rested_ns = clock()
            if now - self._noted_ns > ACCOUNT_NS:
                self._note_account(now, sb.WAITS)
                self._noted_ns = now
            stays = wire.asks_to_stay(message)

    def finalize(self, finalizer: Callable[[], object]) -> None:
        """Run the user's finalizer; what it raises is told on standard error and stops nothing."""
        self._begin_exit()
        try:
            finalizer()
        except BaseException as error:
            name = payload.callable_name(finalizer)
            setup = self.setup
            with contextlib.suppress(Exception):  # a user's stream may do anything
                sys.stderr.write(
                    f"The finalizer {name} of {setup.pool} raised in worker {setup.slot} "
                    f"(pid {self.pid}):\n"
                    + "".join(
                        traceback.format_exception(
                            type(error), error, _from_task(error.__traceback__)
                        )
                    )
                )

    def leave(self) -> None:
        """Run the exit functions that were registered in this process, and flush its output."""
        self._begin_exit()
        if self.setup.forked:
            atexit._run_exitfuncs()  # a spawned interpreter runs them as it ends
        _flush_streams()
        for number in (kernel.stacks_signal(), kernel.interrupt_signal()):
            if number is not None:
                # From here on nobody could answer, and the default would change our exit code.
                signal.signal(number, signal.SIG_IGN)

    def _begin_exit(self) -> None:
        self._set(sb.W_STATE, sb.LEAVING)
        if not self._words[self._base + sb.W_EXIT_NS]:
            now = time.monotonic_ns()
            if self._ready_ns:
                self._wait_ns += now - self._rested_ns
                self._note_account(now, sb.WAITS)
            self._set(sb.W_EXIT_NS, now)

    # Where the time goes --------------------------------------------------------------------------

    def _note_account(self, until: int, waits: int = 0) -> None:
        """Write down how the time up to an instant was spent: in one call, so that it is seen as one."""
        spent = until - self._ready_ns
        sb.ACCOUNT.pack_into(
            self._view,
            (self._base + sb.W_UNTIL_NS) * 8,
            until | waits,
            self._wait_ns,
            self._unpack_ns + self._rebuild_ns,
            self._busy_ns - self._rebuild_ns,
            max(0, spent - self._wait_ns - self._unpack_ns - self._busy_ns),
        )
        self._noted_ns = 0

    def note_progress(self, done: float, total: float) -> None:
        """Write down how far the running task is; nothing if none runs (any thread)."""
        seq, words, base = self._interruptible, self._words, self._base
        if seq < 0 or self._is_copy:
            return
        # A reader takes nothing while the first word is 0, and nothing that is another task's or item's.
        words[base + sb.W_PROGRESS_SEQ] = 0
        words[base + sb.W_PROGRESS_ITEM] = words[base + sb.W_ITEM]
        sb.PROGRESS.pack_into(self._view, (base + sb.W_PROGRESS_DONE) * 8, done, total)
        words[base + sb.W_PROGRESS_SEQ] = seq + 1

    # Tasks --------------------------------------------------------------------------------------

    def _handle(self, message: bytes, fds: list[int]) -> bool:
        view = memoryview(message)
        unpack, size = wire.REQUEST.unpack_from, wire.REQUEST.size
        now = self._flushed_ns = time.monotonic_ns()
        self._wait_ns += now - self._rested_ns
        at = 0
        while at < len(message):
            kind, flags, call, task, seq, length = unpack(message, at)
            at += size
            body = view[at : at + length]
            at += length
            if kind == wire.TASK:
                self._is_last = at == len(message)
                self._run(flags, call, task, seq, body, fds)
            elif kind & wire.KIND == wire.TASK:
                self._attempt = (kind >> 8) + 1
                self._run(flags, call, task, seq, body, fds)
                self._attempt = 1
            elif kind == wire.ROW:
                self._run_row(flags, call, seq, body, at == len(message))
            elif kind == wire.CALLABLE:
                self._callables[call] = _Callable(bytes(body), flags, fds)
            elif kind == wire.FORGET:
                self._callables.pop(call, None)
            elif kind == wire.RETURN:
                self._lent.take_back(task, bool(flags & wire.USABLE))
            elif kind == wire.PING:
                self._outbox.put(wire.PONG, 0, b"", task, seq, 0)
            elif kind == wire.ROUND:
                if not self._make_round(flags, call, task):
                    self._has_started = False
                    return False
            elif kind == wire.STOP:
                self._rested_ns = now  # what it has waited until then is counted
                return False
        return True

    def _make_round(self, flags: int, call: int, number: int) -> bool:
        """Call what every worker calls once; False if this one has failed to start because of it."""
        known, by_value = self._callables.pop(call, None), bool(flags & wire.BY_VALUE)
        with self.lock:
            self._outbox.flush()  # what came before is told before
        self._set(sb.W_STATE, sb.INITIALIZING)
        begun = time.monotonic_ns()
        raised: BaseException | None = None
        try:
            kind, body = _round_body(_recall(known)(), by_value)
        except BaseException as error:  # every way out of it is told
            raised = error
            kind, body = _error_kind(error), _error_body(error, by_value)
        if self._is_copy:
            _end_copy(raised)
        ended = time.monotonic_ns()
        with self.lock:
            self._busy_ns += ended - begun
            for at in range(0, len(body), wire.INLINE_BYTES):
                part = body[at : at + wire.INLINE_BYTES]
                more = at + len(part) < len(body)
                head = wire.REPLY.pack(wire.ROUND_MADE, 0, len(part), number, kind, more)
                channel.send(self._end, head + part)
            if raised is not None and flags & wire.FIRST:
                body = _error_body(raised, by_value=False, limit=wire.INLINE_BYTES)
                self._outbox.put(wire.INITIALIZER_FAILED, 0, body, 0, begun, ended)
                self._outbox.flush()
                return False
        self._set(sb.W_STATE, sb.READY)
        return True

    def _run(
        self, flags: int, call: int, task: int, seq: int, body: memoryview, fds: list[int]
    ) -> None:
        entry = self._ring + seq % sb.RING * sb.ENTRY.size
        begun = time.monotonic_ns()
        sb.BEGIN.pack_into(self._view, entry, task, call, begun, 0, seq + 1)
        # The parent takes tasks back by first writing SKIP_UNTIL, then looking which had begun; we
        # note the begin, then look at SKIP_UNTIL. The lock is a fence between our write and our read,
        # so at least one of us sees the other. If both do, we say so and the parent resends the task.
        self._fence.acquire(False)
        self._fence.release()
        words, base = self._words, self._base
        if seq < words[base + sb.W_SKIP_UNTIL]:
            self._skip(seq, task, entry, flags, fds)
            return
        try:
            # The interrupt's handler raises only where this says so; the inner block makes sure that
            # whatever it raises comes out here, and never in the lines that handle an error.
            try:
                self._interruptible = seq
                value, by_value = self._call(flags, call, task, body, fds, entry >> 3, begun)
                ended = time.monotonic_ns()
                packed = plain.pack(value)
                if packed is None:
                    self._words[self._base + sb.W_RETURNED_NS] = ended
                    kind, reply = _result_body(value, by_value)
                else:
                    kind, reply = wire.OK_PLAIN, packed
            finally:
                self._interruptible = -1
        except BaseException as error:  # every way out of a task is told
            ended = time.monotonic_ns()
            kind, reply = self._account_of(error, flags)
        if self._is_copy:
            _end_copy(None)
        value = None
        lane = wire.GONE if flags & wire.SEGMENT and self._viewed.is_over() else 0
        self._task = None
        if not flags & wire.PLAIN:
            self._rebuild_ns += (self._called_ns or ended) - begun
        self._box(kind, reply, entry, task, begun, ended, lane)

    def _run_row(self, flags: int, call: int, seq: int, body: memoryview, is_last: bool) -> None:
        """Run tasks that are alike, as ``_run`` does one; here every line counts.

        Where nothing is unusual, a task begins when the one before it has ended: the time between
        them, well below a microsecond, counts for the later one.
        """
        view, words, ring = self._view, self._words, self._ring
        begin, size, many, now = sb.BEGIN.pack_into, sb.ENTRY.size, sb.RING, time.monotonic_ns
        skip_at, fence = self._base + sb.W_SKIP_UNTIL, self._fence
        is_plain = flags & wire.PLAIN
        is_single, by_value = flags & wire.MODE == wire.SINGLE, bool(flags & wire.BY_VALUE)
        put_plain = self._outbox.put_plain
        known = self._callables.get(call)
        name = "?" if known is None else known.name
        kept = None if known is None else known.kept
        pack, none = marshal.dumps, plain.NONE
        arrived = now()
        ids, rows = marshal.loads(body)
        self._is_last = False
        stop = seq + len(ids)
        begun = now()
        self._unpack_ns += begun - arrived
        for task, arguments in zip(ids, rows, strict=True):
            entry = ring + seq % many * size
            begin(view, entry, task, call, begun, 0, seq + 1)
            fence.acquire(False)
            fence.release()
            if seq < words[skip_at]:
                self._skip(seq, task, entry, 0, [])
                seq += 1
                continue
            try:
                try:
                    self._interruptible = seq
                    function = kept or _recall(known)
                    if recorder.awaits_logging:
                        recorder.look_for_logging()
                    if not is_plain:
                        at = (entry >> 3) + sb.E_CALLED
                        words[at] = begun | sb.REBUILDING
                        arguments = _unpack(arguments)
                        called = words[at] = now()
                        self._rebuild_ns += called - begun
                    self._task = (task, name)
                    value = function(arguments) if is_single else function(*arguments)
                    ended = now()
                finally:
                    self._interruptible = -1
                reply: bytes | None
                if value is None:
                    reply = none
                elif type(value) is not int or len(reply := pack(value)) > wire.PLAIN_BYTES:
                    reply = plain.pack(value)
                if reply is None:
                    self._words[self._base + sb.W_RETURNED_NS] = ended
                    kind, packed = _result_body(value, by_value)
            except BaseException as error:  # every way out of a task is told
                ended = now()
                kind, packed = self._account_of(error, flags)
                reply = None
            if self._is_copy:
                _end_copy(None)
            value = None
            seq += 1
            if reply is None or self._memory is not None:
                self._is_last = is_last and seq == stop
                if reply is not None:
                    kind, packed = wire.OK_PLAIN, reply
                self._box(kind, packed, entry, task, begun, ended)
                ended = now()
            else:
                put_plain(reply, task, begun, ended)
                at = entry >> 3
                words[at + sb.E_RESULT] = len(reply) | _DONE
                words[at + sb.E_ENDED] = ended
                self._done += 1
                self._busy_ns += ended - begun
                if ended - self._flushed_ns > FLUSH_NS:
                    self._note_account(ended)
                    self._flush()
                    self._flushed_ns = ended
            begun = ended
        self._task = None

    def _account_of(self, error: BaseException, flags: int) -> tuple[int, bytes | payload.Parcel]:
        """Return what is to be told of a task that raised."""
        item, self._failed_item = self._failed_item, None
        told = _error_kind(error), _error_reply(error, bool(flags & wire.BY_VALUE), item)
        if self._is_copy:
            _end_copy(error)
        return told

    def _box(
        self,
        kind: int,
        reply: bytes | payload.Parcel,
        entry: int,
        task: int,
        begun: int,
        ended: int,
        lane: int = 0,
    ) -> None:
        """Put what became of a task into the outbox, and note its end."""
        if kind != wire.OK_PLAIN:
            self._words[entry // 8 + sb.E_BOXED] = time.monotonic_ns()
        if self._memory is not None and (self._is_last or self._memory.is_due(ended)):
            self._look_at_memory()
        if kind == wire.OK_PLAIN and not lane and isinstance(reply, bytes):
            self._outbox.put_plain(reply, task, begun, ended)
        elif isinstance(reply, bytes):
            self._outbox.put(kind, lane, reply, task, begun, ended)
        else:
            kind = self._put_segment(kind, lane, reply, task, begun, ended)
        status = sb.DONE if kind <= wire.OK_SEGMENT else sb.FAILED
        self._words[entry // 8 + sb.E_RESULT] = len(reply) | status << 56
        self._words[entry // 8 + sb.E_ENDED] = ended
        self._done += 1
        self._busy_ns += ended - begun
        if ended - self._flushed_ns > FLUSH_NS:
            self._note_account(ended)  # first: a long task never seems to have been a wait
            self._flush()
            self._flushed_ns = ended

    def _put_segment(
        self, kind: int, lane: int, reply: payload.Parcel, task: int, begun: int, ended: int
    ) -> int:
        """Send a reply with its segment; if the system refuses that, the error. Return its kind."""
        with_segment = wire.WITH_SEGMENT[kind]
        hold = reply.give_up()
        number = self._lent.add(hold)
        head, fds = payload.numbered(reply.head, number), (hold.segment.fd,)
        try:
            self._outbox.put_segment(with_segment, lane, head, fds, task, begun, ended)
        except OSError as error:
            self._lent.take_back(number, usable=False)
            if error.errno not in _SCARCE:
                raise
            kind = wire.ERROR
            body = _error_body(error, by_value=False, limit=wire.INLINE_BYTES)
            self._outbox.put(kind, lane, body, task, begun, ended)
        return kind

    def _look_at_memory(self) -> None:
        """Say if this worker has grown too large; before the result, so it gets no other task."""
        used = self._memory.look() if self._memory is not None else 0
        if used:
            self._outbox.put(wire.LARGE, 0, b"", 0, used, 0)

    def _flush(self) -> None:
        """Send what is finished; the account first, so that whoever has the results finds it true."""
        if self._forwarder is not None:
            self._forwarder.flush()  # what was printed comes before what was returned
        words, base = self._words, self._base
        words[base + sb.W_DONE] = self._done
        words[base + sb.W_BUSY_NS] = self._busy_ns
        self._outbox.flush()

    def _skip(self, seq: int, task: int, entry: int, flags: int, fds: list[int]) -> None:
        if flags & wire.SEGMENT:
            channel.close_fds(fds)
        self._outbox.put(wire.SKIPPED, 0, b"", task, seq, 0)
        self._words[entry // 8 + sb.E_RESULT] = sb.SKIPPED << 56
        self._words[entry // 8 + sb.E_ENDED] = 1

    def _call(
        self,
        flags: int,
        call: int,
        task: int,
        body: memoryview,
        fds: list[int],
        entry: int,
        begun: int,
    ) -> tuple[Any, bool]:
        by_value = bool(flags & wire.BY_VALUE)
        is_plain = flags & wire.PLAIN
        if not is_plain:
            self._called_ns = 0
            self._words[entry + sb.E_CALLED] = begun | sb.REBUILDING
        try:
            if flags & wire.SEGMENT:
                self._viewed = segments.Viewed()
                head = payload.read_head(body)
                taken = channel.take_fds(fds, len(head.ends))
                values = payload.load_segments(head, taken, self._viewed)
            elif is_plain:
                values = marshal.loads(body)
            else:
                values = payload.load(body)
            if flags & wire.INLINE:
                function, values = values
                name = payload.callable_name(function)
                if surround is not None:
                    function = surround(function)
            else:
                known = self._callables[call]
                function, name = known.get(), known.name
        except BaseException as error:
            raise _Unloadable from error
        if recorder.awaits_logging:
            recorder.look_for_logging()
        self._task = (task, name)
        if not is_plain:  # which are there as soon as the task has begun
            self._words[entry + sb.E_CALLED] = self._called_ns = time.monotonic_ns()
        mode = flags & wire.MODE
        if mode == wire.SINGLE:
            return function(values), by_value
        if mode == wire.APPLY:
            if flags & wire.KEYWORDS:
                args, kwds = values
                return function(*args, **kwds), by_value
            return function(*values), by_value
        return self._run_chunk(function, values, mode == wire.STARCHUNK), by_value

    def _run_chunk(self, function: Callable[..., Any], items: Any, star: bool) -> list[Any]:
        """Call the function for each item; note each long item, and blocks of short ones."""
        words, at = self._words, self._base + sb.W_ITEM
        repeat: Callable[..., Any] = itertools.starmap if star else map
        results: list[Any] = []
        count = len(items)
        index, block = 0, 1
        begun = time.monotonic_ns()
        while index < count:
            stop = min(index + block, count)
            words[at] = index | sb.GRAIN_ITEM if block == 1 else index
            try:
                results.extend(repeat(function, items[index:stop]))
            except BaseException:
                self._failed_item = len(results)
                raise
            if len(results) != stop:
                self._failed_item = len(results)
                raise RuntimeError("the task raised StopIteration")
            ended = time.monotonic_ns()
            block = 1 if ended - begun > ITEM_NS * (stop - index) else BLOCK
            index, begun = stop, ended
        return results

    # Being seen ---------------------------------------------------------------------------------

    def answer_signals(self) -> None:
        """Let the parent ask for stacks."""
        for number, answer in (
            (kernel.stacks_signal(), self._tell_stacks),
            (kernel.interrupt_signal(), self._interrupt),
        ):
            if number is not None:
                signal.signal(number, answer)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        """Raise in the task that the parent wants to end, if it still runs; tell first where it was."""
        seq = self._interruptible
        if seq < 0 or self._words[self._base + sb.W_INTERRUPT] != seq + 1:
            return  # it has ended meanwhile
        self._interruptible = -1
        with contextlib.suppress(OSError):  # the parent is gone: so shall we be
            body = marshal.dumps(_task_frames(frame)[-200:])
            head = wire.REPLY.pack(wire.INTERRUPTED, 0, len(body), 0, seq, 0)
            channel.send(self._end, head + body)
        raise Interrupted

    def _tell_stacks(self, number: int, frame: FrameType | None) -> None:
        # Runs between two bytecodes of whatever the main thread does: it may not raise.
        try:
            self._send_stacks(frame)
        except Exception:  # the asker will say that there was no answer
            return

    def _send_stacks(self, frame: FrameType | None) -> None:
        me = threading.get_ident()
        frames = sys._current_frames()
        known = {thread.ident: thread for thread in threading.enumerate()}
        told = []
        room = wire.INLINE_BYTES - 4096
        for ident, top in frames.items():
            stack = _frames(frame if ident == me else top)
            thread = known.get(ident)
            name = thread.name if thread is not None else f"thread {ident}"
            native = (thread.native_id if thread is not None else None) or 0
            daemon = thread.daemon if thread is not None else True
            told.append((ident, native, name[:200], daemon, ident == self._main_ident, stack))
            room -= 64 + sum(len(file) + len(function) + 32 for file, _, function in stack)
            if room < 0:
                break
        body = marshal.dumps(told)[: wire.INLINE_BYTES]
        head = wire.REPLY.pack(wire.STACKS, 0, len(body), 0, time.monotonic_ns(), 0)
        channel.send(self._end, head + body)

    @property
    def _main_ident(self) -> int:
        return threading.main_thread().ident or 0

    def note_thread(self, thread: threading.Thread) -> None:
        """Note a thread that a task started, so that the roster knows who made it."""
        alive = {i: t for i, t in self._threads.items() if t.is_alive()}
        free = next((i for i in range(sb.THREADS) if i not in alive), None)
        if free is None or thread.native_id is None or thread.ident is None:
            return
        alive[free] = thread
        self._threads = alive
        self._board.note_thread(
            self.setup.record,
            free,
            thread.native_id,
            thread.ident,
            self._task_here(),
            thread.name,
        )


class _Callable:
    """A callable that the worker was sent, rebuilt when it is first needed.

    One that pickle names by reference is kept; any other is rebuilt for each task, as in the standard
    library, so that no state leaks from one task to the next.
    """

    __slots__ = ("_body", "_fds", "_kept", "_lost", "_object", "name")

    def __init__(self, body: bytes, flags: int, fds: list[int]) -> None:
        name, _, self._body = body.partition(b"\0")
        self.name = name.decode()
        self._kept = bool(flags & wire.BY_REFERENCE)
        self._fds: list[int] = []
        self._lost: OSError | None = None
        if flags & wire.SEGMENT:
            try:
                self._fds = channel.take_fds(fds, len(payload.read_head(self._body).ends))
            except OSError as error:  # told by each task that needs the callable
                self._lost = error
        self._object: Any = None

    @property
    def kept(self) -> Callable[..., Any] | None:
        """The object, if it is kept and has been rebuilt."""
        return self._object  # type: ignore[no-any-return]

    def get(self) -> Callable[..., Any]:
        if self._object is not None:
            return self._object  # type: ignore[no-any-return]
        if self._lost is not None:
            raise self._lost.with_traceback(None)
        if self._fds:
            head = payload.read_head(self._body)
            function = payload.load_memories(head, payload.view_segments(head, self._fds))
        else:
            function = payload.load(self._body)
        if surround is not None:
            function = surround(function)
        if self._kept:
            self._object = function
        return function  # type: ignore[no-any-return]

    def __del__(self) -> None:
        channel.close_fds(self._fds)


def _end_copy(error: BaseException | None) -> NoReturn:
    """End a fork that a task made and that came back from the task: its result is nobody's."""
    code = 0
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    elif error is not None:
        code = 1
        traceback.print_exception(error)
    _flush_streams()
    os._exit(code)


def _flush_streams() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # a user's stream may do anything
            stream.flush()


class Interrupted(BaseException):
    """Raised in a task that ran out of time or was cancelled. Not to be caught: clean up and leave.

    Not an ``Exception``, so that a task that retries on any error does not retry on this one.
    """


class _Unloadable(Exception):
    """The callable or its arguments could not be rebuilt; the cause says why."""


def _recall(known: _Callable | None) -> Callable[..., Any]:
    try:
        if known is None:
            raise KeyError("the worker was not sent the callable")
        return known.get()
    except BaseException as error:
        raise _Unloadable from error


def _unpack(body: bytes) -> Any:
    try:
        return payload.load(body)
    except BaseException as error:
        raise _Unloadable from error


def _result_body(value: Any, by_value: bool) -> tuple[int, bytes | payload.Parcel]:
    """Pickle a value that is not plain."""
    try:
        if by_value:
            reply, _ = payload.dump_any(value)
        else:
            reply = payload.dump(value)
        if not isinstance(reply, bytes):
            reply.open()  # if there is no room for it, that is the error of this task
    except Exception as error:
        return wire.UNSENDABLE, _unsendable_body(error, value, by_value)
    return wire.OK, reply


def _round_body(value: Any, by_value: bool) -> tuple[int, bytes]:
    try:
        return wire.OK, payload.dump_in_one_piece(value, by_value)
    except Exception as error:
        return wire.UNSENDABLE, _unsendable_body(error, value, by_value)


def _error_kind(error: BaseException) -> int:
    return wire.ERROR if isinstance(error, Exception) else wire.EXIT


def _error_reply(error: BaseException, by_value: bool, item: int | None) -> bytes | payload.Parcel:
    body = _error_body(error, by_value, item=item)
    if len(body) <= wire.INLINE_BYTES:
        return body
    try:
        parcel = payload.Parcel([body], [])
        parcel.open()
        return parcel
    except (OSError, MemoryError) as failure:  # no room for it: its story goes without it
        return _error_body(
            error, by_value, wire.INLINE_BYTES, f"it is too large: {failure!r}", item
        )


def _error_body(
    error: BaseException,
    by_value: bool,
    limit: int | None = None,
    too_large: str = "it is too large",
    item: int | None = None,
) -> bytes:
    """Pack an exception: its story as text, and the exception itself if it can be pickled.

    With a limit, in bytes, the exception is left out where it is too large. ``item`` is the index of
    the one that raised it, in a chunk.
    """
    unloadable = isinstance(error, _Unloadable)
    if unloadable and error.__cause__ is not None:
        error = error.__cause__
    story = _cut_middle(_story_of(error))
    wrapped = _Wrapped(error, f'\n"""\n{story}"""')
    pickled: bytes | None = None
    why = ""
    try:
        pickled = payload.dump_in_one_piece(wrapped, by_value)
        if limit is not None and len(pickled) > limit // 2:
            pickled, why = None, too_large
    except Exception as failure:
        why = f"{failure!r:.500}\n{_where(error, 'the exception', by_value)}".rstrip()
    names = () if unloadable else tuple(class_name(cls) for cls in type(error).__mro__)
    name = type(error).__qualname__
    where = whereabouts()
    return payload.dump_plain(
        (name, _text_of(error), story, pickled, why, unloadable, names, item, where)
    )


class _Wrapped:
    """An exception to be pickled with its story, as the standard library's pool does it.

    Not by its class, as a worker that is spawned has no time to load ``multiprocessing.pool``.
    """

    __slots__ = ("_error", "_story")

    def __init__(self, error: BaseException, story: str) -> None:
        self._error = error
        self._story = story

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuilt, (self._error, self._story)


def rebuilt(error: BaseException, story: str) -> BaseException:
    """Return an exception that came from a worker, with its traceback there as its cause."""
    from multiprocessing.pool import rebuild_exc  # type: ignore[attr-defined]

    return rebuild_exc(error, story)  # type: ignore[no-any-return]


def class_name(cls: type) -> str:
    """Return the name by which a class is known in all processes of a pool."""
    module = "__main__" if cls.__module__ == "__mp_main__" else cls.__module__
    return f"{module}.{cls.__qualname__}"


def _story_of(error: BaseException) -> str:
    trace = _from_task(error.__traceback__)
    try:
        return "".join(traceback.format_exception(type(error), error, trace))
    except Exception as failure:  # it reads source files, and there may be no descriptor for that
        lines = [f"Traceback (without source, as formatting it met {failure!r}):\n"]
        for frame, number in traceback.walk_tb(trace):
            code = frame.f_code
            lines.append(f'  File "{code.co_filename}", line {number}, in {code.co_qualname}\n')
        return "".join([*lines, f"{type(error).__qualname__}: {_text_of(error)}\n"])


def _cut_middle(text: str, limit: int = 20_000) -> str:
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n[... {len(text) - limit} characters ...]\n{text[-half:]}"


def _unsendable_body(error: Exception, value: Any, by_value: bool) -> bytes:
    trace = _from_task(error.__traceback__)
    story = _cut_middle("".join(traceback.format_exception(type(error), error, trace)))
    where = _where(value, "the result", by_value)
    return payload.dump_plain((_text_of(error, repr), _text_of(value, repr), story, where))


def _where(value: Any, name: str, by_value: bool) -> str:
    try:
        from glasspool import unpicklable  # not before something cannot be pickled
    except OSError:  # the task has taken all descriptors, and this needs one to be loaded
        return ""
    return unpicklable.told(value, name, by_value)


def _text_of(value: Any, how: Callable[[Any], str] = str) -> str:
    try:
        return how(value)[:10_000]
    except Exception:  # a user's __str__ or __repr__ may do anything
        return f"<{type(value).__qualname__} that cannot be shown>"


def _from_task(trace: TracebackType | None) -> TracebackType | None:
    """Cut our own frames off the outer end of a traceback."""
    while trace is not None and trace.tb_frame.f_code.co_filename in _OWN_FILES:
        trace = trace.tb_next
    return trace


_OWN_FILES = (
    __file__,
    payload.__file__,
    segments.__file__,
    carried.__file__,
    os.path.join(os.path.dirname(__file__), "capturing.py"),
    # Not loaded unless they are used:
    os.path.join(os.path.dirname(__file__), "lanes.py"),
    os.path.join(os.path.dirname(carried.__file__), "contexts.py"),
    os.path.join(os.path.dirname(glasspool.__file__), "otel.py"),
    os.path.join(os.path.dirname(glasspool.__file__), "seeding.py"),
)


outermost: set[CodeType] = {main.__code__}
"""The functions with which the stack of a thread begins, as far as it concerns anybody."""


def _frames(frame: FrameType | None) -> list[tuple[str, int, str]]:
    """List a stack, outermost call first, without what a fork inherited from the parent."""
    stack: list[tuple[str, int, str]] = []
    while frame is not None and len(stack) < 500:
        code = frame.f_code
        if code is Worker._tell_stacks.__code__:
            # A question that came while we answered another one: not a part of the task.
            stack.clear()
            frame = frame.f_back
            continue
        stack.append((code.co_filename, frame.f_lineno or 0, code.co_qualname))
        if code in outermost:
            break
        frame = frame.f_back
    stack.reverse()
    return stack


def _task_frames(frame: FrameType | None) -> list[tuple[str, int, str]]:
    """List a stack, outermost call first, without our own calls around the task."""
    frames = _frames(frame)
    while frames and frames[0][0] in _OWN_FILES:
        del frames[0]
    return frames


def watch_parent(pid: int) -> None:
    """Let ``multiprocessing.parent_process()`` watch a pidfd: the parent closes the pipe (at HELLO)."""
    parent: Any = multiprocessing.parent_process()
    pidfd = kernel.open_pidfd(pid)
    if parent is not None and pidfd is not None:
        parent._sentinel = pidfd


def _let_fork_server_go() -> None:
    """Close our copy of the pipe that keeps the fork server alive, for it to end with the program.

    If this process uses the start method forkserver itself, it starts a server of its own. It must not
    take an inherited one for its own child: ``multiprocessing`` would ask for its exit status, and fail.
    """
    module = sys.modules.get("multiprocessing.forkserver")
    server: Any = getattr(module, "_forkserver", None)
    fd = getattr(server, "_forkserver_alive_fd", None)
    if fd is not None and hasattr(server, "_forkserver_pid"):
        server._forkserver_alive_fd = server._forkserver_pid = server._forkserver_address = None
        with contextlib.suppress(OSError):
            os.close(fd)


def _note_threads(worker: Worker) -> None:
    start = threading.Thread.start

    def noted_start(self: threading.Thread) -> None:
        start(self)
        if worker.pid == os.getpid():
            worker.note_thread(self)

    threading.Thread.start = noted_start  # type: ignore[method-assign]


def _no_interrupt(number: int, frame: FrameType | None) -> None:
    """Take SIGINT without a word: Ctrl-C is for the caller, who then ends the pool.

    A handler and not SIG_IGN, which subprocesses would inherit.
    """


def _reset_signals() -> None:
    signal.set_wakeup_fd(-1)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _no_interrupt)
    for name in ("SIGTERM", "SIGCHLD"):
        number = getattr(signal, name, None)
        if number is not None and callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
