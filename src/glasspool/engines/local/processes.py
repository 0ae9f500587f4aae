"""How a worker process comes to be: forked from the template, or started by ``multiprocessing``.

Both give a ``multiprocessing`` process object as the handle, as programs look at ``pool._pool``.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import pickle
import signal
import socket
import time
from collections.abc import Callable, Sequence
from multiprocessing import process as mp_process
from multiprocessing import util
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any

from glasspool.engines.local import (
    channel,
    environment,
    interactive,
    kernel,
    main_guard,
    worker,
)
from glasspool.engines.local import scoreboard as sb
from glasspool.engines.local.blackbox import BlackBoxes
from glasspool.engines.local.outbox import Outboxes
from glasspool.engines.local.outfit import Outfit
from glasspool.engines.local.scoreboard import Board
from glasspool.engines.local.template import Order, Template
from glasspool.engines.local.worker import Setup
from glasspool.latch import Latch

DESCRIPTORS_TO_START = 8

MakeProcess = Callable[..., BaseProcess]


class Recipe:
    """What every worker of a pool is made from."""

    def __init__(
        self,
        context: BaseContext,
        make_process: MakeProcess,
        board: Board,
        boxes: Outboxes,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        black: BlackBoxes,
        finalizer: Callable[[], object] | None,
        outfit: Outfit,
        imports_main: bool = True,
    ) -> None:
        self.context = context
        self.start_method: str = str(context.get_start_method())
        self.board = board
        self.boxes = boxes
        self.black = black
        self.initializer = initializer
        self.initargs = initargs
        self.finalizer = finalizer
        self.outfit = outfit
        self.imports_main = imports_main  # workers that are started anew have the program's
        # Whether what workers start with may have to be.
        self.by_value: bool = bool(interactive.known)
        self._make_process = make_process

    def process(self, end: socket.socket | None, setup: Setup | None) -> BaseProcess:
        """Make the process object of a worker; without arguments when it is only a handle."""
        arguments: tuple[Any, ...] = ()
        if setup is not None:
            board = self.board if self.start_method == "fork" else self.board.file
            arguments = (
                end,
                board,
                self.boxes,
                setup,
                self._packed(self.initializer),
                self._packed(self.initargs),
                self.black,
                self._packed(self.finalizer),
                self.outfit,
            )
        made = self._make_process(self.context, target=worker.main, args=arguments)
        made.name = made.name.replace("Process", "PoolWorker")
        made.daemon = True
        return made

    def _packed(self, value: Any) -> Any:
        if self.start_method == "fork" or not self.by_value or not value:
            return value
        return interactive.Packed(value)

    def parts(self) -> list[tuple[str, Any]]:
        """Return what a worker starts with of the user's, with words for it."""
        named = [("the initializer", self.initializer), ("the finalizer", self.finalizer)]
        named += [(f"argument {n} of initargs", v) for n, v in enumerate(self.initargs, 1)]
        return named


class TemplateStarter:
    """Starts workers through a template (start method fork)."""

    def __init__(
        self,
        recipe: Recipe,
        title: str,
        orders: Sequence[Order] = (),
        prepare: Callable[[], object] = int,
    ) -> None:
        self._recipe = recipe
        self.template: Template = Template.fork(
            self._boot, title, recipe.board.unlink, orders, prepare
        )

    def start(self, token: int, setup: Setup, end: socket.socket) -> BaseProcess:
        """Ask for a worker; the template's report tells its pid."""
        handle = self._recipe.process(None, None)
        self.template.start(token, handle._identity, handle.name, tuple(setup), end.fileno())
        return handle

    def _boot(
        self,
        fd: int,
        identity: tuple[int, ...],
        name: str,
        values: tuple[Any, ...],
        template: int,
        born_ns: int,
    ) -> int:
        """Run a worker, in the fork that is to be it."""
        setup = Setup(*values)._replace(forked=True, template=template, born_ns=born_ns)
        parent = mp_process.current_process()
        end = channel.from_fd(fd)
        made = self._recipe.process(end, setup)
        made._identity = identity
        made._parent_pid = setup.parent  # type: ignore[attr-defined]
        made._parent_name = parent.name  # type: ignore[attr-defined]
        made.name = name
        return int(made._bootstrap(parent_sentinel=kernel.open_pidfd(setup.parent)))  # type: ignore[attr-defined]


class ContextStarter:
    """Starts workers as ``multiprocessing`` does (start methods spawn and forkserver).

    A nanny ends them if this process is killed.
    """

    def __init__(self, recipe: Recipe, nanny_title: str) -> None:
        self._recipe = recipe
        self._nanny_title = nanny_title
        self.nanny: Nanny | None = None

        if recipe.start_method == "forkserver":
            _start_fork_server(recipe.imports_main)

    def start_nanny(self) -> None:
        """Start the nanny, if it is not there; after the first workers, which are in a hurry.

        Raises:
            OSError: No process is to be had.
        """
        if self.nanny is None and hasattr(os, "pidfd_open"):
            self.nanny = Nanny(self._recipe.board, self._nanny_title)

    def start(self, token: int, setup: Setup, end: socket.socket) -> BaseProcess:
        """Start a worker; when this returns, it has a pid.

        Not ``Process.start``, which refuses to work in a daemonic process (such as a worker of a
        stock pool): our workers cannot be orphaned, so that there is nothing to refuse.

        Raises:
            Exception: The initializer or its arguments cannot be pickled, or no process can be had.
        """
        made = self._recipe.process(end, setup._replace(born_ns=time.monotonic_ns(), env=()))
        name = made.name
        _check_descriptors(end.fileno())
        made.name = main_guard.MarkedName(
            environment.Carrier(name, setup.env), self._recipe.imports_main
        )
        try:
            made._popen = made._Popen(made)  # type: ignore[attr-defined]
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            if not self._recipe.by_value:  # lambdas, and what is defined in functions
                self._recipe.by_value = True
                return self.start(token, setup, end)
            from glasspool import unpicklable  # not before something cannot be pickled

            raise unpicklable.explained(error, self._recipe.parts()) from None
        except (EOFError, ConnectionError):
            # The fork server has ended, as it does when it cannot fork or open what it needs.
            raise OSError(errno.EAGAIN, "the fork server could not start a process") from None
        finally:
            made.name = name
        made._sentinel = made._popen.sentinel  # type: ignore[attr-defined]
        del made._target, made._args, made._kwargs  # type: ignore[attr-defined]
        return made


def close_parent_pipe(process: BaseProcess) -> None:
    """Close the pipe by which a worker that was started so would see our end.

    It watches a pidfd instead (``worker.watch_parent``), so that it needs three descriptors of ours and
    not four.
    """
    popen: Any = getattr(process, "_popen", None)
    finalizer = getattr(popen, "finalizer", None)
    if finalizer is None or not finalizer.still_active():
        return
    fds = finalizer._args
    finalizer.cancel()
    popen.finalizer = util.Finalize(popen, os.close, (popen.sentinel,))
    for fd in fds:
        if fd != popen.sentinel:
            os.close(fd)


def _check_descriptors(fd: int) -> None:
    """Raise OSError if there are too few descriptors left to start a process.

    ``multiprocessing`` loses those that it has already, when it finds none in the middle.
    """
    taken: list[int] = []
    try:
        while len(taken) < DESCRIPTORS_TO_START:
            taken.append(os.dup(fd))
    finally:
        channel.close_fds(taken)


def _start_fork_server(imports_main: bool) -> None:
    """Start multiprocessing's fork server, if it does not run, with our modules loaded in it.

    Also the program's, if workers are to have it, and what the program chose. So each of its children need
    not load them anew. Its list of modules is left as it was.
    """
    from multiprocessing import forkserver

    server: Any = forkserver._forkserver
    chosen = getattr(server, "_preload_modules", None)
    if getattr(server, "_forkserver_pid", 0) is None and chosen is not None:
        wanted = chosen if imports_main else [name for name in chosen if name != "__main__"]
        server._preload_modules = [*wanted, worker.__name__]
        try:
            forkserver.ensure_running()
        finally:
            server._preload_modules = chosen


class Nanny:
    """The parent's handle of the nanny (``nanny``)."""

    def __init__(self, board: Board, title: str) -> None:
        words = (sb.W_STATE, sb.W_PID, sb.W_STARTTIME)
        layout = (
            board.header.capacity,
            sb.RECORDS_AT,
            sb.RECORD_BYTES,
            *(which * 8 for which in words),
        )
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "nanny.py")
        from multiprocessing import spawn  # not in a pool that forks

        interpreter = os.fsdecode(spawn.get_executable())
        numbers = (board.header.pid, board.header.start_ticks)
        arguments = [interpreter, "-I", "-S", script, board.file, *map(str, numbers), title]
        arguments += map(str, layout)
        # As multiprocessing starts its resource tracker: no fork handlers, no inherited descriptors.
        self.pid: int = util.spawnv_passfds(os.fsencode(interpreter), arguments, ())
        self.pidfd: int | None = kernel.open_pidfd(self.pid)

    def close(self) -> None:
        """Close our descriptor."""
        fd, self.pidfd = self.pidfd, None
        if fd is not None:
            os.close(fd)

    def kill(self) -> None:
        """End the nanny, if it has not ended: the pool has."""
        with contextlib.suppress(ProcessLookupError):  # the user's SIGCHLD handler reaped it
            if self.pidfd is None:
                os.kill(self.pid, signal.SIGKILL)
            else:
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        self.close()

    def reap(self) -> None:
        """Take the status of the nanny, which has been killed."""
        try:
            os.waitpid(self.pid, 0)  # woken by its end, which is near
        except ChildProcessError:  # the user's SIGCHLD handler reaped it
            pass


class ForkedChild:
    """What ``Process`` keeps of a running child, for a worker that the template forked.

    The template is its parent, so the template reaps it; the worker-handler calls ``report`` when the
    template has told the exit code.
    """

    method = "fork"

    def __init__(self, pid: int, pidfd: int | None) -> None:
        self.pid = pid
        self.sentinel = pidfd
        self.returncode: int | None = None
        self._reported = Latch()
        self._owner = os.getpid()

    def report(self, exitcode: int) -> None:
        """Note how the process ended."""
        self.returncode = exitcode
        self._reported.set()

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        """Return the exit code, None while the process runs."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for the end of the process, at most ``timeout`` seconds."""
        self._reported.wait(timeout)
        return self.returncode

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self._signal(signal.SIGKILL)

    def close(self) -> None:
        """Do nothing: the worker-handler owns the descriptor."""

    def _signal(self, number: int) -> None:
        if self.returncode is None and self._owner == os.getpid():
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                pass


def reap(popen: Any) -> tuple[int | None, int | None]:
    """Take the exit code and the peak memory (bytes) of a child of ours that has ended."""
    if popen.returncode is None and hasattr(os, "wait4"):
        try:
            pid, status, usage = os.wait4(popen.pid, os.WNOHANG)
        except OSError:  # somebody else was faster: a look at is_alive(), a SIGCHLD handler
            return popen.poll(), None
        if pid:
            popen.returncode = os.waitstatus_to_exitcode(status)
            return popen.returncode, kernel.rusage_bytes(usage.ru_maxrss)
    return popen.poll(), None


tokens: itertools.count[int] = itertools.count(1)
