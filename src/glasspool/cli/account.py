"""What ``glasspool run`` learns of a program's pools, and when it prints it.

*Owns* the list of pools that ended, the installed replacement and the exit function. Threads: none;
``_note`` is called by whichever thread shuts a pool down, and appends one frozen value.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from glasspool import registry, replacement
from glasspool.cli import report
from glasspool.engines import base
from glasspool.snapshot import PoolInfo, TaskInfo
from glasspool.views import table

if TYPE_CHECKING:
    from glasspool.cli.children import Children
    from glasspool.cli.report import Run
    from glasspool.observe.recording import AllRecorder

_POOLS_END_S = 3.0


class Account:
    """The account of one run of a program, from before its first line until after its last.

    Args:
        command: The program and its arguments.
        target: The file to write as JSON, or None.
        quiet: Whether nothing is to be printed.
        trace: The file for a timeline, or None.
        page: The file for a report as HTML, or None.
        children: Whether child processes get the replacement, and are accounted for, too.
    """

    def __init__(
        self,
        command: list[str],
        target: str | None,
        quiet: bool,
        trace: str | None = None,
        page: str | None = None,
        children: bool = False,
        where: tuple[str, str | None] = (base.LOCAL, None),
    ) -> None:
        self._command = tuple(command)
        self._target = target
        self._quiet = quiet
        self._pid = os.getpid()
        self._ended: list[report.PoolAccount] = []
        self._exitcode: int | None = 0
        self._error: str | None = None
        self._begun = time.monotonic()
        self._begun_at = time.time()
        self._unregister = registry.on_shutdown(self._note)
        self._trace = trace
        self._page = page
        self._recordings = None if trace is None and page is None else _record_all()
        self._replacement = replacement.install(engine=where[0], address=where[1])
        self._children = _children() if children and self._replacement else None
        _run_last(self._close)

    def program_ended(self, error: BaseException | None) -> None:
        """Note how the program's main code ended: its exit code follows from it."""
        self._exitcode = exit_code(error)
        if error is not None and not isinstance(error, SystemExit):
            self._error = type(error).__name__

    def discard(self) -> None:
        """Tell nothing at the end: no program ran."""
        self._unregister()
        if self._recordings is not None:
            self._recordings.stop()
        self._replacement.uninstall()
        if self._children is not None:
            self._children.discard()
        atexit.unregister(self._close)

    def _note(self, pool: PoolInfo, slowest: tuple[TaskInfo, ...]) -> None:
        self._ended.append(report.PoolAccount(pool, slowest, time.time()))

    def _close(self) -> None:
        # A process that the program forked, and that leaves through sys.exit, comes here too.
        if os.getpid() != self._pid:
            return
        try:
            self._tell(self._run())
        except Exception as error:
            # The program has ended as it should: a fault of ours must not look like one of its.
            _print(f"glasspool: the report failed: {type(error).__name__}: {error}")

    def _run(self) -> Run:
        self._wait_for_pools()
        return report.Run(
            command=self._command,
            exitcode=self._exitcode,
            error=self._error,
            begun_at=self._begun_at,
            run_s=time.monotonic() - self._begun,
            off=self._replacement.reason,
            pools=tuple(self._ended),
            left_alone=self._replacement.left_alone,
            children=() if self._children is None else self._children.end(),
        )

    def _wait_for_pools(self) -> None:
        """Let pools that the program dropped or left open come to their end, and to ``_note``."""
        deadline = time.monotonic() + _POOLS_END_S
        latches = [engine.done for engine in registry.live_engines()]
        latches += [engine.done for engine in registry.live_thread_engines()]
        for done in latches:
            done.wait(max(0.0, deadline - time.monotonic()))

    def _tell(self, run: Run) -> None:
        if self._target is not None:
            try:
                with open(self._target, "w", encoding="utf-8") as file:
                    json.dump(report.as_dict(run), file, indent=1)
                    file.write("\n")
            except OSError as error:
                _print(f"glasspool: cannot write {self._target}: {error.strerror}")
        if not self._quiet:
            _print(report.text(run))
        if self._recordings is not None and self._trace is not None:
            _print(_write_trace(self._recordings, self._trace))
        if self._recordings is not None and self._page is not None:
            from glasspool.cli import page

            told = page.write(run, self._recordings.stop(), self._page)
            if not self._quiet:
                _print(told)
        # It leads to the pools, and by them to all that is the program's, which shall go before us.
        self._recordings = None


def _children() -> Children:
    from glasspool.cli.children import Children  # not before somebody wants it

    return Children()


def _record_all() -> AllRecorder:
    from glasspool.observe.recording import record_all  # not before somebody wants it

    return record_all()


def _write_trace(recordings: AllRecorder, path: str) -> str:
    """Write the timeline of the program's pools, and say what was written."""
    from glasspool import tracing
    from glasspool.views import timeline

    made = recordings.stop()
    if not made:
        return (
            f"glasspool: no timeline was written to {path}: the program made no pool of processes"
        )
    try:
        with open(path, "wb") as file:
            size = tracing.write(file, made)
    except OSError as error:
        return f"glasspool: cannot write {path}: {error.strerror}"
    return timeline.told(timeline.summary(made), path, size)


def exit_code(error: BaseException | None) -> int | None:
    """Return the exit code of a program whose main code ended with ``error``.

    Negative for the signal with which the interpreter ends itself after Ctrl-C.
    """
    if error is None:
        return 0
    if isinstance(error, KeyboardInterrupt):
        return -2
    if not isinstance(error, SystemExit):
        return 1
    if error.code is None:
        return 0
    return error.code & 0xFF if isinstance(error.code, int) else 1


def _run_last(function: Callable[[], None]) -> None:
    """Have a function run after all other exit functions, those of ``multiprocessing`` too.

    They run in the reverse order of their registration. ``multiprocessing`` registered its own when
    it was imported, before us; it ends the pools that the program left open, and the report shall
    have these.
    """
    from multiprocessing import util

    theirs = util._exit_function  # type: ignore[attr-defined]
    atexit.unregister(theirs)
    atexit.register(function)
    atexit.register(theirs)


def _print(text: str) -> None:
    """Print on the process's stderr, which ``sys.stderr`` may no longer be."""
    for stream in (sys.stdout, sys.stderr):
        try:
            # What the program printed comes first. An error here comes again, and is told, when
            # the interpreter flushes.
            stream.flush()
        except (AttributeError, OSError, ValueError):
            continue
    if sys.__stderr__ is None:
        return
    try:
        print(table.fitted(text, sys.__stderr__), file=sys.__stderr__, flush=True)
    except (OSError, ValueError):
        return  # nobody listens
