"""Logs: the thread that gives the records of workers, and the pool's own events, to the program's handlers.

Owns: the parent's end of the records socket (``forwarding`` is the workers'), and what has been read and
not been handled. Thread: ``NAME logs``, started with the first record or event, ended with the pool. It waits
for the next one, stands aside for forks as the engine's other threads do, and is the only one on which
handlers, filters and formatters of the program run: one that blocks or raises stops nothing else.

The collector reads the socket, so that workers are not kept waiting by a slow handler: up to ``MOST_BYTES``
lie here. Beyond that it reads no more until half of them are handled; then workers that log wait.

Shutdown order: when the last worker is gone, what the socket still holds is read (``finish``), and the
thread ends after it. ``join`` waits for that.
"""

from __future__ import annotations

import marshal
import os
import pickle
import queue
import select
import socket
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from glasspool.engines.local import channel, forwarding, kernel
from glasspool.engines.local.workers import new_thread, report_thread_error

if TYPE_CHECKING:
    import logging

    from glasspool.engines.local.engine import LocalEngine

MOST_BYTES = 32 << 20
AT_ONCE = 128
"""So many records the collector reads before it looks for results again."""

GRACE_S = 1.0
"""After ``terminate`` nobody waits longer for one record."""

_PARK = object()
_END = object()


class Elsewhere(Protocol):
    """Who is told what the loggers of another machine are to have. Any thread; none of these blocks."""

    def record(self, message: bytes) -> None:
        """Take a worker's record as it came."""

    def event(
        self, pool: str, level: int, event: str, text: str, args: tuple[Any, ...], fields: Any
    ) -> None:
        """Take one of the pool's own events."""


class Logs:
    """The records of one pool that its program's loggers are to have.

    If they are ``elsewhere``, records count as not handled until ``handled`` is told of them.
    """

    def __init__(
        self,
        engine: LocalEngine,
        forwards: bool,
        elsewhere: Elsewhere | None = None,
        levels: forwarding.Levels | None = None,
    ) -> None:
        self._engine = engine
        self.elsewhere: Elsewhere | None = elsewhere
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        # For whether there is a thread. Reentrant: a signal handler may come in between.
        self._lock = threading.RLock()
        self._is_running = False
        self._parking = False
        self._is_over = False
        self._taken_bytes = 0  # the collector's
        self._handled_bytes = 0  # the thread's
        self._handled = 0
        self._held_up = False
        self._poll: select.epoll | None = None
        self._receiver = channel.Receiver() if forwards else None
        self.thread: threading.Thread | None = None
        self.is_handling: bool = False
        self._reader: socket.socket | None = None
        self.sender: forwarding.Sender | None = None
        if forwards:
            self._reader, end = channel.pair()
            self.sender = forwarding.Sender.of(end, self._reader, levels)
        self.fd: int = -1 if self._reader is None else self._reader.fileno()

    @property
    def state(self) -> str:
        """What the thread is at, in words."""
        return "handling a log record" if self.is_handling else "waiting for a log record"

    # The collector's --------------------------------------------------------------------------------

    def follow(self, poll: select.epoll) -> None:
        """Have the poll tell of records."""
        self._poll = poll
        if self.fd >= 0:
            poll.register(self.fd, select.EPOLLIN)

    def take(self, at_once: int = AT_ONCE) -> None:
        """Read records."""
        for _ in range(at_once):
            if not self._read():
                break
        if self._taken_bytes - self._handled_bytes > MOST_BYTES and self._poll is not None:
            self._poll.unregister(self.fd)
            self._held_up = True  # first; then the look whether the thread saw it
            if self._taken_bytes - self._handled_bytes < MOST_BYTES // 2:
                self._go_on()

    def _read(self) -> bool:
        if self._reader is None or self._receiver is None:
            return False
        try:
            message, fds = self._receiver.receive(self._reader, channel.DONTWAIT)
        except OSError:
            return False
        if not message:
            return False
        if fds:
            message = _content(fds)
        if message:
            self._taken_bytes += len(message)
            if self.elsewhere is None:
                self.put(message)
            else:
                self.elsewhere.record(message)
        return True

    def _go_on(self) -> None:
        """Read again (an item)."""
        if self._held_up and self._poll is not None and self.fd >= 0:
            self._held_up = False
            self._poll.register(self.fd, select.EPOLLIN)

    # Any thread -------------------------------------------------------------------------------------

    def put(self, item: bytes | Callable[[], None]) -> None:
        """Have a record handled, or something done that may run handlers."""
        self._queue.put(item)
        if not self._is_running:
            # Not here: a signal handler that raises inside Thread.start would leave a broken thread.
            self._engine.collector.mailbox.put(self.resume)

    def resume(self) -> None:
        """Start the thread if there is something to handle and none runs."""
        self._parking = False
        with self._lock:
            if self._is_running or self._queue.empty():
                return
            self._is_running = True
            thread = new_thread(self._run, f"{self._engine.name} logs")
            former, self.thread = self.thread, thread
        try:
            thread.start()
        except RuntimeError:  # there is no thread to be had: the next record tries again
            self._is_running = False
            self.thread = former

    def park(self) -> list[int]:
        """Stop the thread for a moment; return its native id if it has ended."""
        thread = self.thread
        self._parking = True
        if thread is None or thread.ident is None or thread is threading.current_thread():
            return []
        self._queue.put(_PARK)
        thread.join(0.5 if self.is_handling else 2.0)
        return [] if thread.is_alive() or thread.native_id is None else [thread.native_id]

    def join(self) -> None:
        """Wait until all records are handled: the pool has ended.

        After ``terminate`` only as long as the handlers get on with them.
        """
        self.resume()
        while (thread := self.thread) is not None and thread.is_alive():
            if thread is threading.current_thread():
                return
            handled = self._handled
            # Woken by the end of the last record.
            thread.join(GRACE_S if self._engine.cut_short else None)
            if thread.is_alive() and self._handled == handled:
                return

    # The end ----------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Read what is left, and let the thread end after it: no worker is there any more."""
        self._poll = None
        while self._read():
            pass
        self.close()
        self._is_over = True
        with self._lock:
            if self._is_running:
                self._queue.put(_END)

    def close(self) -> None:
        """Close the socket. Safe to call twice; a fork of the user's calls it, too."""
        reader, self._reader, self.fd = self._reader, None, -1
        if reader is not None:
            reader.close()
        if self.sender is not None:
            self.sender.end.close()

    # The thread's -----------------------------------------------------------------------------------

    def _run(self) -> None:
        kernel.name_this_thread(self._engine.os_name("logs"))
        while not self._parking:
            try:
                # Woken by the next record, to stand aside, or by the end of the pool.
                item = self._queue.get(not self._is_over)
            except queue.Empty:
                break
            if item is _END:
                break
            if item is not _PARK:
                self._handle(item)
        with self._lock:
            self._is_running = False
        if not self._parking:
            self.resume()  # for what came in between

    def _handle(self, item: bytes | Callable[[], None]) -> None:
        self.is_handling = True
        try:
            if isinstance(item, bytes):
                self._give(item)
            else:
                item()
        except Exception:  # of a handler or filter: the other records are none the worse for it
            report_thread_error()
        finally:
            self.is_handling = False
            self._handled += 1
            if isinstance(item, bytes):
                self.handled(len(item))

    def handled(self, size: int) -> None:
        """Take note that records of so many bytes are handled (one thread)."""
        self._handled_bytes += size
        if self._held_up and self._taken_bytes - self._handled_bytes < MOST_BYTES // 2:
            self._engine.collector.mailbox.put(self._go_on)

    def _give(self, message: bytes) -> None:
        give(message, self._engine.name)


def give(message: bytes, pool: str, node: str | None = None) -> None:
    """Give a worker's record to the logger of its name."""
    import logging

    flags, slot, task, fields = marshal.loads(message)
    if flags & forwarding.LOST:
        _tell_lost(pool, slot, fields[""], node)
        return
    record = logging.LogRecord.__new__(logging.LogRecord)
    told = record.__dict__
    told.update(pool=pool, node=node, slot=slot, task=task)
    told.update(fields)  # what the program says of a record counts more
    for name, value in fields.items():
        if type(value) is tuple:
            told[name] = _rebuilt(name, value[0])
    give_record(record, flags)


def give_record(record: logging.LogRecord, flags: int) -> None:
    """Have the logger of a record's name pass it to its handlers, as if it had been logged here."""
    import logging

    logger = logging.getLogger(record.name)
    if flags & forwarding.LOWERED:
        if logger.manager.disable >= record.levelno:
            return
    elif not logger.isEnabledFor(record.levelno):
        return
    if flags & (forwarding.HANDLED | forwarding.BASIC) and not logger.hasHandlers():
        if flags & forwarding.BASIC:
            _print_as_basic(record)
        return  # else in the worker somebody had seen to it that it is not printed
    if not flags & forwarding.FILTERED:
        logger.handle(record)
    elif not logger.disabled:
        logger.callHandlers(record)


def _print_as_basic(record: logging.LogRecord) -> None:
    """Print a record as ``logging.warning`` would have, without leaving a handler behind."""
    import logging

    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(logging.BASIC_FORMAT))
    handler.handle(record)


def _tell_lost(pool: str, slot: int, count: int, node: str | None) -> None:
    import logging

    logging.getLogger("glasspool.logs").warning(
        "%d log records of worker %d of %s were lost: the handlers of this process had not got on with "
        "earlier ones for %.0f s.",
        count,
        slot,
        pool,
        forwarding.PATIENCE_S,
        extra={
            "event": "logs.lost",
            "pool": pool,
            "node": node,
            "slot": slot,
            "task": None,
            "count": count,
        },
    )


def _rebuilt(name: str, pickled: bytes) -> Any:
    try:
        return pickle.loads(pickled)  # of a worker of ours
    except Exception as error:  # it runs the user's code
        return f"<{name} that cannot be rebuilt: {type(error).__name__}: {error}>"


def _content(fds: list[int]) -> bytes:
    """Read the file in which a long record came, and close what came with it."""
    try:
        size = os.fstat(fds[0]).st_size
        return os.pread(fds[0], min(size, forwarding.MOST_BYTES * 2), 0)
    except OSError as error:
        sys.stderr.write(f"a log record of a worker could not be read: {error}\n")
        return b""
    finally:
        channel.close_fds(fds)
