"""The template: a single-threaded process from which the workers of a pool are forked.

The pool forks its caller once, in the constructor, into the template; every worker, also a later
replacement, is a fork of the template. So no worker ever inherits a lock that some thread holds at
that moment, and all workers begin from the same state.

Owns: nothing but its control socket, and a pidfd per worker. Threads: its main thread. It waits for
requests, for the end of a worker (reaped, and reported with its status) and for the end of the parent
(it leaves then, and the kernel kills its workers with it, as each asked for that).

Protocol, one message each way per line, as marshalled tuples::

    -> ("start", token, identity, name, setup)    with the worker's end of its channel
    -> ("leave",)     once the last worker has ended
    -> ("quit",)      now
    <- ("started", token, pid)   ("failed", token, errno)   ("exited", token, pid, status, peak)

The first workers need no request: the template inherits their order with everything else, and starts
them at once, while the pool starts its threads.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import marshal
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

from glasspool.engines.local import channel, kernel

END_LIMIT_S = 1.0

BootWorker = Callable[[int, tuple[int, ...], str, tuple[Any, ...], int, int], int]
"""Runs a worker to its end in the calling process: descriptor of its channel, identity, name, setup,
the template's pid, when it was forked (``time.monotonic_ns()``); returns its exit code."""


class Order(NamedTuple):
    """A worker that the template is to start at once, with both ends of its channel."""

    token: int
    identity: tuple[int, ...]
    name: str
    setup: tuple[Any, ...]
    ours: socket.socket
    theirs: socket.socket


class Template:
    """The parent's handle of its template."""

    def __init__(self, pid: int, end: socket.socket) -> None:
        self.pid = pid
        self.end = end
        # Its end is told by the process itself: any fork of the user's may hold the other end open.
        self.pidfd: int | None = kernel.open_pidfd(pid)
        self._receiver = channel.Receiver()

    @classmethod
    def fork(
        cls,
        boot: BootWorker,
        title: str,
        orphaned: Callable[[], None],
        orders: Sequence[Order] = (),
        prepare: Callable[[], object] = int,
    ) -> Template:
        """Fork the calling process into a template. Other threads should not be running.

        The template calls ``prepare``, which raises nothing, then starts the ``orders`` at once, and
        reports on each as on any other start. It calls ``orphaned`` when the parent has died without a
        word.

        Raises:
            OSError: The process cannot be forked.
        """
        kernel.load()
        ours, theirs = channel.pair()
        parent = os.getpid()
        _flush_streams()
        try:
            pid = os.fork()
        except OSError:
            ours.close()
            theirs.close()
            raise
        if pid == 0:
            _become_template(ours, theirs, parent, boot, title, orphaned, orders, prepare)
        theirs.close()
        return cls(pid, ours)

    def start(
        self, token: int, identity: tuple[int, ...], name: str, setup: tuple[Any, ...], fd: int
    ) -> None:
        """Ask for a worker.

        Raises:
            OSError: The template is gone.
        """
        channel.send(self.end, marshal.dumps(("start", token, identity, name, setup)), (fd,))

    def receive(self) -> tuple[Any, ...] | None:
        """Return one report; None when there will be no more.

        Raises:
            BlockingIOError: There is none now.
        """
        try:
            message, _ = self._receiver.receive(self.end, channel.DONTWAIT)
        except BlockingIOError:
            raise
        except OSError:
            return None
        return marshal.loads(message) if message else None

    def leave(self) -> None:
        """Let the template end by itself when its last worker has: nobody waits for a word of ours then."""
        if self.pidfd is not None:  # else it does not know its workers' ends
            with contextlib.suppress(OSError):
                channel.try_send(self.end, marshal.dumps(("leave",)))

    def quit(self) -> None:
        """Let the template end; its workers, if any are left, end with it."""
        with contextlib.suppress(OSError):
            channel.try_send(self.end, marshal.dumps(("quit",)))

    def watched(self) -> tuple[int, ...]:
        """Return the descriptors that tell of reports and of the template's end."""
        fd = self.end.fileno()
        return (fd,) if self.pidfd is None else (fd, self.pidfd)

    def reap(self) -> None:
        """Take the template's exit status from the kernel; it is ended if it does not end."""
        if self.pidfd is not None and not select.select([self.pidfd], [], [], END_LIMIT_S)[0]:
            os.kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):  # the user's SIGCHLD handler reaped it
            os.waitpid(self.pid, 0)  # woken by the end of the template, which is near
        self.close()

    def close(self) -> None:
        """Close our descriptors."""
        self.end.close()
        fd, self.pidfd = self.pidfd, None
        if fd is not None:
            os.close(fd)


def _flush_streams() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError, OSError):
            stream.flush()


def _become_template(
    ours: socket.socket,
    theirs: socket.socket,
    parent: int,
    boot: BootWorker,
    title: str,
    orphaned: Callable[[], None],
    orders: Sequence[Order],
    prepare: Callable[[], object],
) -> NoReturn:
    code = 1
    try:
        _quiet_signals()
        collects = gc.isenabled()
        _be_main_thread()
        gc.disable()  # nothing of the parent's garbage is to be finalized here
        ours.close()
        for order in orders:
            order.ours.close()
        kernel.name_process(os.getpid(), title)
        loop = _Loop(theirs, parent, boot, collects)
        prepare()
        loop.start_all(orders)
        if not loop.run():
            orphaned()
        code = 0
    finally:
        os._exit(code)


def _be_main_thread() -> None:
    """Let the thread that forked us look like the main thread, which it is here, to all tasks."""
    me: Any = threading.main_thread()
    me._name = "MainThread"
    me._daemonic = False


def _quiet_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        if callable(signal.getsignal(number)) or number == signal.SIGCHLD:
            signal.signal(number, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _no_interrupt)


def _no_interrupt(number: int, frame: object) -> None:
    """Take Ctrl-C without a word: it is for the caller."""


_What = tuple[int, tuple[int, ...], str, tuple[Any, ...]]
"""A worker to start: token, identity, name, setup."""


class _Loop:
    """What the template does."""

    def __init__(self, end: socket.socket, parent: int, boot: BootWorker, collects: bool) -> None:
        self._end = end
        self._collects = collects
        self._told_to_quit = self._leaves = False
        self._boot = boot
        self._pid = os.getpid()
        self._receiver = channel.Receiver()
        self._poll = select.poll()
        self._poll.register(end.fileno(), select.POLLIN)
        # Not the end of the stream, which any fork of the user's may hold open.
        self._parent = kernel.open_pidfd(parent)
        if self._parent is not None:
            self._poll.register(self._parent, select.POLLIN)
        if os.getppid() != parent:
            os._exit(1)
        self._children: dict[int, tuple[int, int]] = {}

    def start_all(self, orders: Sequence[Order]) -> None:
        """Start the first workers."""
        left = [order.theirs.detach() for order in orders]
        for order in orders:
            fd = left.pop(0)
            self._try_to_start(order[:4], [fd], left)

    def run(self) -> bool:
        """Run until told to quit (True), or until the parent is gone (False)."""
        while self._children or not self._leaves:
            # Woken by a request, by the end of a worker, or by the end of the parent.
            for fd, _ in self._poll.poll():
                if fd in self._children:
                    self._report(fd)
                elif fd == self._parent or not self._obey():
                    return self._told_to_quit
        return True

    def _obey(self) -> bool:
        try:
            message, fds = self._receiver.receive(self._end)
        except OSError:
            return False
        if not message:
            return False
        command, *rest = marshal.loads(message)
        if command == "start":
            self._try_to_start(tuple(rest), fds, [])
            return True
        if command == "leave":
            self._leaves = True
            return True
        self._told_to_quit = True
        self._end_children()
        return False

    def _try_to_start(self, what: _What, fds: list[int], others: list[int]) -> None:
        """Start a worker; ``others`` are descriptors that it is not to keep."""
        try:
            self._start(what, fds, others)
        except OSError as error:
            self._tell("failed", what[0], error.errno)
        finally:
            channel.close_fds(fds)

    def _start(self, what: _What, fds: list[int], others: list[int]) -> None:
        if not fds:
            raise OSError(errno.EMFILE, "the worker's channel did not arrive")
        token, identity, name, setup = what
        born_ns = time.monotonic_ns()
        pid = os.fork()
        if pid == 0:
            channel.close_fds(others)
            self._be_worker(fds[0], identity, name, setup, born_ns)
        try:
            pidfd = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None
        except OSError:
            # Nobody would ever hear of its end: better none than one that cannot be watched.
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)  # woken by the signal
            raise
        self._tell("started", token, pid)
        if pidfd is not None:
            self._children[pidfd] = (token, pid)
            self._poll.register(pidfd, select.POLLIN)

    def _be_worker(
        self, fd: int, identity: tuple[int, ...], name: str, setup: tuple[Any, ...], born_ns: int
    ) -> NoReturn:
        code = 1
        try:
            self._end.close()
            channel.close_fds(list(self._children))
            if self._collects:
                gc.enable()
            code = self._boot(fd, identity, name, setup, self._pid, born_ns)
        finally:
            os._exit(code)

    def _report(self, pidfd: int) -> None:
        token, pid = self._children.pop(pidfd)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        _, status, usage = os.wait4(pid, 0)  # it has ended: the pidfd says so
        self._tell("exited", token, pid, status, kernel.rusage_bytes(usage.ru_maxrss))

    def _end_children(self) -> None:
        """End the workers that are left, those of a pool that could not be made, and take their status.

        The kernel would end them with us, but somebody else would have to reap them then.
        """
        for _, pid in self._children.values():
            os.kill(pid, signal.SIGKILL)
        for _, pid in self._children.values():
            os.waitpid(pid, 0)  # woken by the signal

    def _tell(self, *report: Any) -> None:
        with contextlib.suppress(OSError):  # the parent is gone: the poll will say so
            channel.send(self._end, marshal.dumps(report))
