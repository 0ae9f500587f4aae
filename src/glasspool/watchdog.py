"""Tell of the pools of a program in which something takes too long; a process that stands beside it.

``report`` looks at a program from outside, by the command in processes of its own: it needs none of the
program's locks, and its interpreter only where a pool of ours is asked for its own picture. ``told_inside``
is what the program itself can tell, for where the system lets nobody read it from outside.

The watchdog reports on a program once the time that ``Watchdog.arm`` sets has passed, unless it is
disarmed before. It is a process, and no thread of the program: so a fork in a test is not one of a threaded
process, and C code that keeps the interpreter cannot keep it.

Owns: a file of one record, which the program writes and the watchdog reads. Threads: one each. What wakes
the watchdog: the end of the program, with which it ends, and the deadline that it read last. It looks then
whether that has moved, so a test that ends in time costs two writes of some microseconds.
"""

from __future__ import annotations

import _thread
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glasspool.snapshot import ProcessInfo

COMMAND_S = 10.0
"""How long one look from outside may take."""

INSIDE_S = 5.0
"""How long a program may take to tell of itself."""

_RECORD_BYTES = 2048
_LABEL = 500
_NOTHING = (2, 3, 5)
"""Exit codes of the command with which it has nothing to tell: above all, that no pool was found."""

_POOR = (6, 7)
"""Those with which it tells less than it could: not permitted, or unreadable."""

_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_START = (
    "import sys; sys.path.append(sys.argv[2]); del sys.argv[1:3]; "
    "from glasspool.{0} import main; sys.exit(main())"
)


def report(pid: int) -> tuple[str, bool]:
    """Tell why the pools of a program do not get on, and their roster; and whether nothing is missing.

    The pools of its child processes are told too. Blocks for at most about ``COMMAND_S``.
    """
    looks = [look for one in _programs(pid) for look in (("why", str(one)), ("ps", str(one)))]
    running = [(look, _command(look)) for look in looks]
    deadline = time.monotonic() + COMMAND_S
    told = [(look, *_answer(process, deadline)) for look, process in running]
    parts = [text for _, code, text in told if code not in _NOTHING and text]
    return "\n\n".join(parts), _can_read() and not any(code in _POOR for _, code, _ in told)


def told_inside(stacks: bool = True, limit_s: float = INSIDE_S) -> str:
    """Tell of all pools of this process, from inside; it may be called by a signal handler.

    The main thread may have been interrupted while it held any lock: so another thread looks, and is
    left to itself if it does not come back in time.
    """
    found: list[str] = []
    done = _thread.allocate_lock()
    done.acquire()  # at once: nobody else knows it yet

    def look() -> None:
        try:
            found.append(_picture(stacks))
        except Exception as error:  # whatever it is, the test's end must not wait for it
            found.append(f"the pools of this process could not be told: {error!r}")
        finally:
            done.release()

    try:
        # Not threading's: to start that takes a lock that the main thread may have.
        _thread.start_new_thread(look, ())
    except RuntimeError as error:
        return f"the pools of this process could not be told: {error}"
    done.acquire(timeout=limit_s)
    return found[0] if found else "the pools of this process were not told in time"


def _picture(stacks: bool) -> str:
    import threading

    from glasspool.observe import entry

    picture = entry.inspect(stacks=stacks)
    me = threading.get_native_id()  # what a picture itself starts is not in it
    pools = tuple(
        replace(pool, processes=tuple(_without(process, me) for process in pool.processes))
        for pool in picture.pools
    )
    return str(replace(picture, pools=pools)) if pools else ""


def _without(process: ProcessInfo, native_id: int) -> ProcessInfo:
    """Leave out a thread, and the stacks of all others."""
    told = (replace(t, stack=None) for t in process.threads if t.native_id != native_id)
    return replace(process, threads=tuple(told))


def _programs(pid: int) -> list[int]:
    """List a program and those of its descendants that have pools of ours, which tell of themselves."""
    from glasspool.engines.local import scoreboard
    from glasspool.observe import procfs

    family = procfs.family(pid)
    makers = set()
    for path in scoreboard.boards():
        with contextlib.suppress(scoreboard.BadBoard):
            board = scoreboard.Board.open(path)
            makers.add(board.header.pid)
            board.close()
    return [pid, *(one for one in family if one != pid and one in makers)]


def _can_read() -> bool:
    from glasspool.observe import pyspy

    return pyspy.program() is not None


def _command(words: Sequence[str]) -> subprocess.Popen[str] | OSError:
    try:
        return subprocess.Popen(
            python("cli", *words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except OSError as error:
        return error


def _answer(process: subprocess.Popen[str] | OSError, deadline: float) -> tuple[int, str]:
    if isinstance(process, OSError):
        return 0, f"glasspool could not be started: {process}"
    try:
        # Those that finish meanwhile wait with a full pipe at worst.
        text, _ = process.communicate(timeout=max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        text, _ = process.communicate()  # woken by the end of the process just killed
        text = f"{text.rstrip()}\n(the rest was not told in time)"
    return process.returncode, text.rstrip()


def python(module: str, *words: str) -> list[str]:
    """Return the command that runs ``main`` of a module of this package, wherever that is installed."""
    from glasspool.observe import procfs

    start = [sys.executable, "-P", "-W", "ignore", "-c", _START.format(module)]
    return [*start, procfs.LOOKER, _HERE, *words]


# The program's side -----------------------------------------------------------------------------------


def is_possible() -> bool:
    """Tell whether this system has what a watchdog needs."""
    return hasattr(os, "pwrite") and bool(sys.executable)


class Watchdog:
    """A process that reports on this one to a stream, when the time since ``arm`` is over.

    Raises:
        OSError: No process can be started.
    """

    def __init__(self, after_s: float, stream: IO[str]) -> None:
        self._after_s = after_s
        self._stream = stream
        self._record = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - it lives as long as this
        self._before: Any = None
        self._process = subprocess.Popen(
            python("watchdog", str(os.getpid()), str(self._record.fileno()), str(after_s)),
            stdin=subprocess.DEVNULL,
            stdout=stream.fileno(),
            stderr=stream.fileno(),
            pass_fds=(self._record.fileno(),),
            start_new_session=True,  # Ctrl-C is for the program
        )
        self._listen()

    def arm(self, label: str) -> None:
        """Let the time begin for what the label names."""
        deadline = time.monotonic() + self._after_s
        self._write({"deadline": deadline, "label": label[:_LABEL]})

    def disarm(self) -> None:
        """Say that it has ended."""
        self._write({})

    def close(self) -> None:
        """End the watchdog."""
        self._process.kill()
        self._process.wait()  # woken by its end
        number = _signal()
        if number is not None and self._before is not None:
            signal.signal(number, self._before)
        self._record.close()

    def _write(self, record: dict[str, Any]) -> None:
        os.pwrite(self._record.fileno(), json.dumps(record).encode().ljust(_RECORD_BYTES), 0)

    def _listen(self) -> None:
        """Tell of this process when the watchdog asks: where the system lets it read nothing."""
        number = _signal()
        if number is None or signal.getsignal(number) != signal.SIG_DFL:
            return
        with contextlib.suppress(ValueError):  # not the main thread
            self._before = signal.signal(number, self._tell)

    def _tell(self, number: int, frame: Any) -> None:
        print(told_inside(), file=self._stream, flush=True)


def _signal() -> int | None:
    first = getattr(signal, "SIGRTMIN", None)
    return None if first is None else int(first) + 10


# The watchdog's side ----------------------------------------------------------------------------------


def main() -> int:
    """Watch over a program until it ends."""
    from glasspool.engines.local import kernel

    pid, record, after_s = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    pidfd = kernel.open_pidfd(pid)
    watched = [] if pidfd is None else [pidfd]
    kernel.die_with_parent(pid)
    told = None
    while True:
        seen = _read(record)
        left_s = after_s
        if seen and seen != told:
            left_s = seen["deadline"] - time.monotonic()
            if left_s <= 0:
                told = seen
                print(_report(pid, seen["label"], after_s), flush=True)
                continue
        # Woken by the program's end, or at the deadline: one set meanwhile is not before it.
        if select.select(watched, [], [], left_s)[0] or os.getppid() != pid:
            return 0


def _read(record: int) -> dict[str, Any]:
    """Read the record, which may just be being written."""
    while True:
        first = os.pread(record, _RECORD_BYTES, 0)
        if first == os.pread(record, _RECORD_BYTES, 0):
            return dict(json.loads(first)) if first.strip() else {}


def _report(pid: int, label: str, after_s: float) -> str:
    text, is_whole = report(pid)
    if not is_whole:
        _ask(pid)
    return framed(f"{label} has taken more than {after_s:g} s", text)


def _ask(pid: int) -> None:
    from glasspool.observe import procfs

    number = _signal()
    if number is not None and procfs.catches(pid, number):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def framed(title: str, text: str) -> str:
    """Return a report with lines around it."""
    head = f" glasspool: {title} "
    return f"\n{head:=^100}\n{text or 'no pool was found in this process'}\n{'=' * 100}"
