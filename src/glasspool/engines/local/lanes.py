"""Lanes: a worker whose tasks run in several threads of it, for work that waits.

Owns: the tasks that this process was sent and no lane has taken yet, and what only one thread may do at a
time: note the begin of a task, box a result, raise in a lane. One lock guards all of that; what the user's
code does, and pickling, happens outside of it.

Threads: the main thread takes messages in and runs no task; ``NAME wSS lane-N`` (started by it before the
worker says hello, daemonic) each run one task at a time. A lane waits for ``ready``, where there is one entry
for each task that waits, and one for each lane at the end. The worker is told to stop when it has nothing to
do, so all lanes end at once then.

How a task is ended before its end: the pool sends INTERRUPT with its number. The main thread looks, under
the lock, which lane runs that very task, tells where it is, and has the interpreter raise ``Interrupted``
there. The lane takes back what has not been raised when its task ends, under the same lock, so it never hits
another task. A task that was told of says nothing of its end but that it is over (SKIPPED): the pool has
ended it.

Invariants:

* tasks begin in the order of their numbers;
* a task whose result is in the outbox and has not been sent waits for no lane that is busy: whoever takes the
  last task that waits sends what is finished before it runs that.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import socket
import sys
import threading
import time
from collections import deque
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

from glasspool.engines.local import channel, kernel, payload, plain, recorder, segments, wire
from glasspool.engines.local import scoreboard as sb
from glasspool.engines.local import worker as single
from glasspool.engines.local.worker import Interrupted, Worker, WorkerInfo

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from glasspool.engines.local.outbox import Outboxes
    from glasspool.engines.local.worker import Setup


class _Item(NamedTuple):
    """A task that was sent. The arguments of one that came in a row are a value, else a part of a message."""

    flags: int
    call: int
    task: int
    seq: int
    arguments: Any
    attempt: int
    fds: list[int]
    in_row: bool = False


class LanedWorker(Worker):
    """The main thread of a worker with lanes."""

    def __init__(self, end: socket.socket, board: sb.Board, boxes: Outboxes, setup: Setup) -> None:
        super().__init__(end, board, boxes, setup)
        self.lock: AbstractContextManager[object] = threading.Lock()
        self.ready: SimpleQueue[bool] = SimpleQueue()
        self.waiting: deque[_Item] = deque()
        self._lanes = [Lane(self, number) for number in range(setup.lanes)]
        self._by_ident: dict[int, Lane] = {}
        self._noting = threading.Lock()

    # What others ask for, each for the lane in whose thread it is called ---------------------------

    def describe(self) -> WorkerInfo:
        """Return where the calling thread is."""
        lane = self._by_ident.get(threading.get_ident())
        return super().describe() if lane is None else lane.describe()._replace(node=self.node)

    def note_progress(self, done: float, total: float) -> None:
        """Write down how far the task of the calling lane is; nothing from any other thread."""
        lane = self._by_ident.get(threading.get_ident())
        if lane is not None:
            lane.note_progress(done, total)

    def _task_here(self) -> int:
        lane = self._by_ident.get(threading.get_ident())
        return 0 if lane is None else lane._task_here()

    def note_thread(self, thread: threading.Thread) -> None:
        """Note a thread that a task started; lanes are known."""
        if thread.ident not in self._by_ident:
            with self._noting:
                super().note_thread(thread)

    def become_copy(self) -> None:
        """Let go of everything in a fork that a task made: there is no other lane there."""
        self.lock, self._noting = threading.Lock(), threading.Lock()  # somebody may have had them
        super().become_copy()
        for lane in self._lanes:
            lane.become_copy()

    # Life -----------------------------------------------------------------------------------------

    def _introduction(self) -> tuple[Any, ...]:
        start = time.monotonic_ns()
        for lane in self._lanes:
            lane.start(start)
            self._by_ident[lane.ident] = lane
        lanes = [(lane.ident, lane.native_id) for lane in self._lanes]
        return *super()._introduction(), lanes

    def serve(self) -> bool:
        """Hand out what the messages bring, until one says stop (True) or there will be no more (False)."""
        while True:
            try:
                message, fds = self._receiver.receive(self._end)
            except OSError:
                return False
            if not message:
                return False
            if not self._handle(message, fds):
                break
        for _ in self._lanes:
            self.ready.put(False)
        for lane in self._lanes:
            lane.thread.join()  # at rest; if one is not, the pool ends us
        return self._has_started

    # Messages -------------------------------------------------------------------------------------

    def _handle(self, message: bytes, fds: list[int]) -> bool:
        view, at = memoryview(message), 0
        items: list[_Item] = []
        goes_on = True
        while at < len(message):
            kind, flags, call, task, seq, length = wire.REQUEST.unpack_from(message, at)
            at += wire.REQUEST.size
            body = view[at : at + length]
            at += length
            if kind & wire.KIND == wire.TASK:
                attempt = (kind >> 8) + 1
                items.append(_Item(flags, call, task, seq, body, attempt, fds))
            elif kind == wire.ROW:
                rows = zip(*marshal.loads(body), strict=True)
                items += (
                    _Item(flags, call, task, seq + index, arguments, 1, [], in_row=True)
                    for index, (task, arguments) in enumerate(rows)
                )
            elif kind == wire.CALLABLE:
                self._callables[call] = single._Callable(bytes(body), flags, fds)
            elif kind == wire.FORGET:
                # At once: no task of it is left but those that are to be skipped.
                self._callables.pop(call, None)
            elif kind == wire.RETURN:
                with self.lock:
                    self._lent.take_back(task, bool(flags & wire.USABLE))
            elif kind == wire.INTERRUPT:
                self._raise_in_lane(seq)
            elif kind == wire.ROUND:
                self._hand_out(items)  # what came before begins before
                items = []
                if not self._make_round(flags, call, task):
                    self._has_started = goes_on = False
            elif kind == wire.STOP:
                goes_on = False
        self._hand_out(items)
        return goes_on

    def _hand_out(self, items: list[_Item]) -> None:
        with self.lock:
            self.waiting.extend(items)
        for _ in items:
            self.ready.put(True)

    def _raise_in_lane(self, seq: int) -> None:
        """Raise in the lane that runs a task; nothing if that has ended. Tell first where it was."""
        raise_in = _set_async_exc()
        with self.lock:
            lane = next((one for one in self._lanes if one._interruptible == seq), None)
            if lane is None:
                return
            lane._interruptible = -1
            lane.is_hit = True
            frames = single._task_frames(sys._current_frames().get(lane.ident))
            body = marshal.dumps(frames[-200:])
            head = wire.REPLY.pack(wire.INTERRUPTED, lane.number, len(body), 0, seq, 0)
            with contextlib.suppress(OSError):  # the parent is gone: so shall we be
                channel.send(self._end, head + body)
            raise_in(lane.ident, Interrupted)

    def finished(self, busy_ns: int) -> None:
        """Count a task that has ended; under the lock."""
        self._done += 1
        self._busy_ns += busy_ns

    def send_if_due(self, now: int) -> None:
        """Send what is finished, unless more is about to be; under the lock."""
        if not self.waiting or now - self._flushed_ns > single.FLUSH_NS:
            self._flush()
            self._flushed_ns = now

    def look_at_memory(self, now: int) -> None:
        """Say if this worker has grown too large; under the lock, and before a result."""
        if self._memory is not None and (not self.waiting or self._memory.is_due(now)):
            self._look_at_memory()


class Lane(Worker):
    """One thread that runs tasks, and where it notes them."""

    def __init__(self, crew: LanedWorker, number: int) -> None:
        board, setup = crew._board, crew.setup
        self._crew = crew
        self.number = number
        self.pid: int = crew.pid
        self.setup = setup
        self._end = crew._end
        self._board = board
        self._view = board.view
        self._words = board.words
        self._base = board.lane(setup.record, number)
        self._at = self._base + sb.LANE_ENTRY  # the entry of the running task
        self._ring = crew._ring
        self._outbox = crew._outbox
        self._callables = crew._callables
        self._fence = threading.Lock()
        self._done = self._busy_ns = self._flushed_ns = 0
        self._ready_ns = self._rested_ns = self._noted_ns = 0
        self._wait_ns = self._unpack_ns = self._rebuild_ns = self._called_ns = 0
        self._task: tuple[int, str] | None = None
        self._attempt = 1
        self._is_copy = False
        self._failed_item: int | None = None
        self._interruptible = -1
        self._viewed = segments.Viewed()
        self._lent = crew._lent
        self._item: _Item | None = None  # the task that was taken
        self._begun = 0
        # It was told that the pool has ended it, and something was raised here.
        self.is_hit: bool = False
        self.ident: int = 0
        self.native_id: int = 0
        name = f"{setup.pool} w{setup.slot:02d} lane-{number}"
        self.thread: threading.Thread = threading.Thread(target=self.work, name=name, daemon=True)

    def start(self, now: int) -> None:
        """Start the thread (main thread)."""
        self._ready_ns = self._rested_ns = now
        self._note_account(now, sb.WAITS)
        self._set(sb.W_READY_NS, now)
        self.thread.start()
        self.ident, self.native_id = self.thread.ident or 0, self.thread.native_id or 0
        self._set(sb.W_IDENT, self.ident)
        self._set(sb.W_NATIVE, self.native_id)

    def become_copy(self) -> None:
        """Write nothing any more: this is a fork that a task made."""
        self._is_copy = True
        self._words, self._base = memoryview(bytearray(sb.WORDS * 8)).cast("Q"), 0

    def work(self) -> None:
        """Run tasks until there will be no more. The target of the thread."""
        setup = self.setup
        kernel.name_this_thread(f"gp{setup.number} w{setup.slot:02d} l{self.number}")
        try:
            while self._turn():
                pass
        except OSError:
            return  # the channel has ended: the main thread sees that, too
        except BaseException:  # a fault of ours: the tasks of this lane are to be told as lost
            from glasspool.engines.local.workers import report_thread_error

            report_thread_error()
            os._exit(1)

    def _turn(self) -> bool:
        """Run one task; False if there will be no more."""
        self._item = None
        try:
            # What is raised in this thread from outside may come at any point after the begin: so until it is
            # certain that nothing more comes. It comes once: after it was raised here, the second time that
            # we make certain is undisturbed.
            try:
                if not self._crew.ready.get():  # woken by the next task, or by the end
                    return False
                item = self._begin()
                if item is None:
                    return True
                value, by_value = self._call_item(item)
                ended = time.monotonic_ns()
                packed = plain.pack(value)
                if packed is None:
                    self._words[self._base + sb.W_RETURNED_NS] = ended
                    kind, reply = single._result_body(value, by_value)
                else:
                    kind, reply = wire.OK_PLAIN, packed
            finally:
                self._make_certain()
        except BaseException as error:  # every way out of a task is told
            ended = time.monotonic_ns()
            self._make_certain()
            item = self._taken()
            if item is None:
                raise
            kind, reply = self._account_of(error, item.flags)
        if self._is_copy:
            single._end_copy(None)
        value = None
        self._task = None
        self._end_task(item, kind, reply, ended)
        return True

    def _taken(self) -> _Item | None:
        return self._item

    def _begin(self) -> _Item | None:
        """Take the next task and note its begin; None if it is to be skipped."""
        crew = self._crew
        with crew.lock:
            item = crew.waiting.popleft()
            flags, call, task, seq, *_ = item
            ring = self._ring + seq % sb.RING * sb.ENTRY.size
            begun = self._begun = time.monotonic_ns()
            call |= self.number << 32
            sb.BEGIN.pack_into(self._view, ring, task, call, begun, 0, seq + 1)
            # As in Worker._run: we note the begin and look what to skip, the parent does it in reverse.
            self._fence.acquire(False)
            self._fence.release()
            if seq < self._words[crew._base + sb.W_SKIP_UNTIL]:
                crew._skip(seq, task, ring, flags, item.fds)
                crew.send_if_due(begun)
                return None
            self._words[self._at + sb.E_SEQ] = 0  # a reader takes nothing meanwhile
            sb.BEGIN.pack_into(self._view, self._at * 8, task, call, begun, 0, seq + 1)
            if not crew.waiting and self._outbox.used:
                crew._flush()
                crew._flushed_ns = begun
            self._wait_ns += begun - self._rested_ns
            self._attempt = item.attempt
            self.is_hit = False
            self._item = item
            self._interruptible = seq  # last: from now on
        return item

    def _make_certain(self) -> None:
        """See to it that nothing will be raised in this thread from outside any more."""
        if self._is_copy:
            return
        with self._crew.lock:
            self._interruptible = -1
            if self.is_hit:
                _set_async_exc()(self.ident, None)

    def _call_item(self, item: _Item) -> tuple[Any, bool]:
        flags, call, task, _, arguments, *_ = item
        if not item.in_row:
            return self._call(flags, call, task, arguments, item.fds, self._at, self._begun)
        known = self._callables.get(call)
        function = single._recall(known)
        if recorder.awaits_logging:
            recorder.look_for_logging()
        if not flags & wire.PLAIN:
            at = self._at + sb.E_CALLED
            self._words[at] = self._begun | sb.REBUILDING
            arguments = single._unpack(arguments)
            self._words[at] = self._called_ns = time.monotonic_ns()
        self._task = (task, "?" if known is None else known.name)
        is_single = flags & wire.MODE == wire.SINGLE
        value = function(arguments) if is_single else function(*arguments)
        return value, bool(flags & wire.BY_VALUE)

    def _end_task(self, item: _Item, kind: int, reply: bytes | payload.Parcel, ended: int) -> None:
        """Put what became of a task into the outbox, and note its end."""
        crew, begun = self._crew, self._begun
        lane = self.number
        if item.flags & wire.SEGMENT and self._viewed.is_over():
            lane |= wire.GONE
        boxed = 0 if kind == wire.OK_PLAIN else time.monotonic_ns()
        if not item.flags & wire.PLAIN:
            self._rebuild_ns += (self._called_ns or ended) - begun
        with crew.lock:
            crew.look_at_memory(ended)
            if self.is_hit:
                self._outbox.put(wire.SKIPPED, lane, b"", item.task, item.seq, 0)
                kind = wire.EXIT
            elif isinstance(reply, bytes):
                self._outbox.put(kind, lane, reply, item.task, begun, ended)
            else:
                kind = self._put_segment(kind, lane, reply, item.task, begun, ended)
            self._note_end(item.seq, kind, len(reply), ended, boxed)
            crew.finished(ended - begun)
            self._rest(ended - begun)
            crew.send_if_due(self._rested_ns)

    def _note_end(self, seq: int, kind: int, size: int, ended: int, boxed: int) -> None:
        words, at = self._words, (self._ring + seq % sb.RING * sb.ENTRY.size) // 8
        if words[at + sb.E_SEQ] == seq + 1:  # else others have come round to its place meanwhile
            status = sb.DONE if kind <= wire.OK_SEGMENT else sb.FAILED
            words[at + sb.E_CALLED] = words[self._at + sb.E_CALLED]
            words[at + sb.E_BOXED] = boxed
            words[at + sb.E_RESULT] = size | status << 56
            words[at + sb.E_ENDED] = ended
        words[self._at + sb.E_SEQ] = 0

    def _rest(self, busy_ns: int) -> None:
        """Note that this lane waits from now on."""
        self._done += 1
        self._busy_ns += busy_ns
        self._called_ns = 0
        now = self._rested_ns = time.monotonic_ns()
        self._set(sb.W_DONE, self._done)
        self._set(sb.W_BUSY_NS, self._busy_ns)
        if now - self._noted_ns > single.ACCOUNT_NS:
            self._note_account(now, sb.WAITS)
            self._noted_ns = now


single.outermost.add(Lane.work.__code__)


def _set_async_exc() -> Any:
    """Return what has the interpreter raise an exception in a thread, by its ident; None takes it back."""
    import ctypes  # once somebody is to be interrupted

    function = ctypes.pythonapi.PyThreadState_SetAsyncExc

    def set_async_exc(ident: int, error: type[BaseException] | None) -> None:
        function(ctypes.c_ulong(ident), None if error is None else ctypes.py_object(error))

    return set_async_exc
