"""``glasspool run --hang-after``: end a program in which nothing gets on, and say why.

The program may hang in any way, also in a C call that lets no other thread of its process run. So this
is judged from outside: the command forks before the program begins. The child runs it; the parent, which
has one thread and runs no code of the program's, waits for the child's end, forwards signals, looks at
the scoreboards of the program's pools, and leaves as the program left: same exit code, same signal.

Owns: the child, and the pipe into which the program writes its stacks when it is asked by a signal
(``faulthandler``, which needs no interpreter lock. It can crash a process whose threads start and end, so
only programs that are about to be ended are asked.)

Nothing tells of progress, which is words in shared memory: so it looks again after an eighth of the time.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import re
import shlex
import signal
import sys
import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from glasspool.cli import complain

if TYPE_CHECKING:
    from glasspool.cli.report import Run
    from glasspool.engines.local.scoreboard import Board
    from glasspool.observe.diagnosis import Finding
    from glasspool.snapshot import Frame, PoolInfo, ProcessInfo, Snapshot, ThreadInfo

EXIT_CODE = 124
"""As of ``timeout(1)``."""

LOOKS = 8
LONGEST_LOOK_S = 10.0
TERM_GRACE_S = 1.0
"""So long the program may take to leave when it is asked to (SIGTERM)."""

ALONE_S = 1.0
"""So long its other processes may take to notice that it is gone."""

END_LIMIT_S = 3.0
LOOK_AT_CPU_S = 0.2
DUMP_LIMIT_S = 1.0
DUMP_QUIET_S = 0.1
"""Stacks that are being written are complete when no more has come for so long: nothing marks their end."""

_FD_FROM = 200
"""The program's own descriptors keep the numbers that they have without us."""

_FORWARDED = ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2")


@dataclass(frozen=True, slots=True)
class Hang:
    """A program in which nothing got on for ``quiet_s``: how it looked, and why, before it was ended.

    ``stacks`` are those that belong to no thread of the picture, as ``faulthandler`` tells them.
    """

    quiet_s: float
    run_s: float
    picture: Snapshot
    findings: tuple[Finding, ...]
    stacks: tuple[str, ...] = ()


def is_possible() -> bool:
    """Tell whether this system has what the watch needs."""
    return hasattr(os, "fork") and hasattr(signal, "sigtimedwait")


def run(program: Callable[[], int], limit_s: float, tell: Callable[[Hang], None]) -> int:
    """Run a program in a child process, and end it when nothing gets on for ``limit_s``.

    Args:
        program: Runs the program; called in the child, where this function then returns what it does.
        limit_s: Seconds without progress after which the program is ended.
        tell: Called in the parent, when the program hangs, before it is ended.

    Returns:
        The exit code of the program, ``EXIT_CODE`` if it was ended. If the program was ended by a
        signal, this process ends by the same.
    """
    numbers = {signal.SIGCHLD, *(getattr(signal, name) for name in _FORWARDED)}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    ignored = signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN
    if ignored:  # it would take the program's status away from us
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    reading, writing = _dump_pipe()
    parent = os.getpid()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.flush()  # or both would print it
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        if ignored:
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        _become_program(parent, writing, before)
        return program()
    os.close(writing)
    return _Watch(pid, limit_s, reading, numbers).run(tell)


def _become_program(parent: int, dump: int, mask: Iterable[int]) -> None:
    from glasspool.engines.local import kernel

    kernel.die_with_parent(parent)  # who kills the command means the program
    faulthandler.register(_dump_signal(), file=dump, all_threads=True, chain=False)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _dump_signal() -> int:
    return int(signal.SIGRTMIN) + 8


def _dump_pipe() -> tuple[int, int]:
    """Open the pipe for the program's stacks, its writing end at a number that nobody misses."""
    import fcntl

    reading, low = os.pipe()
    try:
        return reading, fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, _FD_FROM)
    finally:
        os.close(low)


@dataclass(slots=True)
class _Watch:
    """What the parent does while the program runs."""

    pid: int
    limit_s: float
    dump: int
    signals: set[int]
    began_at: float = field(default_factory=time.monotonic)
    status: int | None = None

    def run(self, tell: Callable[[Hang], None]) -> int:
        """Wait for the end of the program, or of its time; return the exit code."""
        # What the program writes to, it may close to tell its reader that there will be no more.
        _let_go_of_streams()
        every_s = min(self.limit_s / LOOKS, LONGEST_LOOK_S)
        seen, quiet_s, looked_at = self._progress(), 0.0, time.monotonic()
        while True:
            status = self._wait(looked_at + every_s)
            if status is not None:
                return _leave(status)
            now = time.monotonic()
            # Together with the program this process may have been stopped for a while (Ctrl-Z).
            quiet_s += min(now - looked_at, 2 * every_s)
            looked_at = now
            progress = self._progress()
            if progress != seen:
                seen, quiet_s = progress, 0.0
            elif quiet_s >= self.limit_s:
                return self._end(quiet_s, tell)

    def _wait(self, deadline: float) -> int | None:
        """Wait until the program ends (its status) or until the deadline; forward signals."""
        while True:
            status = self._status()
            if status is not None:
                return status
            left_s = deadline - time.monotonic()
            # Woken by the end of the program, or by a signal to this process.
            told = signal.sigtimedwait(self.signals, left_s) if left_s > 0 else None
            if told is None:
                return None if left_s <= 0 else self._status()
            # What the terminal sends (a positive code), it sends to the program as well.
            if told.si_signo != signal.SIGCHLD and told.si_code <= 0 and told.si_pid != self.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, told.si_signo)

    def _status(self) -> int | None:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = status if pid else None
        return self.status

    # Progress -------------------------------------------------------------------------------------

    def _progress(self) -> dict[str, int]:
        """Return a value that changes when a task of any of the program's pools begins or ends."""
        from glasspool.engines.local import scoreboard as sb

        found: dict[str, int] = {}
        family = {self.pid, *descendants(self.pid)}
        for path in sb.boards():
            try:
                board = sb.Board.open(path)
            except sb.BadBoard:
                continue
            try:
                if board.header.pid in family:
                    found[f"{path} {board.header.made_ns}"] = _sum_of(board)
            finally:
                board.close()
        return found

    # The end --------------------------------------------------------------------------------------

    def _end(self, quiet_s: float, tell: Callable[[Hang], None]) -> int:
        """Say how the program looks and why it does not get on, then end it and all that is its."""
        try:
            hang = self._examine(quiet_s)
            if self.status is not None:
                return _leave(self.status)  # it got on after all, and has ended
            tell(hang)
        except Exception as error:  # the program has to be ended whatever comes
            with contextlib.suppress(OSError, ValueError):  # nobody listens
                complain(f"the hang could not be described: {type(error).__name__}: {error}")
        self._kill_all()
        return EXIT_CODE

    def _examine(self, quiet_s: float) -> Hang:
        import linecache

        from glasspool.observe import diagnosis, procfs

        picture, stacks = with_dumps(_picture(self.pid), self.dump)
        picture = _without_command(picture)
        pids = [process.pid for process in picture.processes]
        before, began = {pid: procfs.family_cpu_s(pid) for pid in pids}, time.monotonic()
        self._wait(began + LOOK_AT_CPU_S)
        elapsed_s = time.monotonic() - began
        shares = {pid: (procfs.family_cpu_s(pid) - before[pid]) / elapsed_s for pid in pids}
        found = diagnosis.diagnose(
            picture, quiet_s=quiet_s, shares=shares, line_of=linecache.getline
        )
        return Hang(quiet_s, time.monotonic() - self.began_at, picture, found, stacks)

    def _kill_all(self) -> None:
        """End the program, then what is left of its descendants; returns when they are gone."""
        family = _Family(self.pid)
        for number, limit_s in ((signal.SIGTERM, TERM_GRACE_S), (signal.SIGKILL, END_LIMIT_S)):
            if self.status is None:
                family.add_descendants()
                os.kill(self.pid, number)
                self._wait(time.monotonic() + limit_s)
        family.end()


class _Family:
    """The processes that descend from the program, told apart from later ones with their numbers."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._members: dict[int, int] = {}
        self.add_descendants()

    def add_descendants(self) -> None:
        """Note who descends from the program, or from those noted before, now."""
        from glasspool.observe import procfs

        for root in (self._pid, *self._members):
            for pid in descendants(root):
                ticks = procfs.start_ticks(pid)
                if ticks is not None:
                    self._members.setdefault(pid, ticks)

    def end(self) -> None:
        """Wait for the end of all, and kill those that do not end by themselves.

        Most do, now that the program is gone: the workers' template or nanny, which takes the scoreboard
        away, and the resource tracker of ``multiprocessing``, which gives shared memory back.
        """
        import select

        from glasspool.engines.local import kernel
        from glasspool.observe import procfs

        self.add_descendants()
        watched = {pid: kernel.open_pidfd(pid) for pid in self._members}
        for number, limit_s in ((0, ALONE_S), (signal.SIGKILL, END_LIMIT_S)):
            deadline = time.monotonic() + limit_s
            for pid, pidfd in watched.items():
                if pidfd is None or procfs.start_ticks(pid) != self._members[pid]:
                    continue
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, number)
                # Woken by the end of the process.
                select.select([pidfd], [], [], max(0.0, deadline - time.monotonic()))
        for pidfd in watched.values():
            if pidfd is not None:
                os.close(pidfd)


def descendants(pid: int) -> list[int]:
    """List the processes that descend from a process."""
    from glasspool.observe import procfs

    found: list[int] = []
    waiting = [pid]
    while waiting:
        for child in procfs.children(waiting.pop()):
            if child not in found:
                found.append(child)
                waiting.append(child)
    return found


def _sum_of(board: Board) -> int:
    """Return a sum over what changes in a scoreboard when a task, or an item of one, begins or ends."""
    from glasspool.engines.local import scoreboard as sb

    total = 0
    for record in range(board.header.records):
        if board.word(record, sb.W_STATE) == sb.FREE:
            continue
        ring = board.ring(record)
        total = zlib.crc32(board.view[ring : ring + sb.RING * sb.ENTRY.size], total)
        total = zlib.crc32(board.word(record, sb.W_ITEM).to_bytes(8, "little"), total)
        for lane in range(board.lanes):
            item = board.words[board.lane(record, lane) + sb.W_ITEM]
            total = zlib.crc32(item.to_bytes(8, "little"), total)
    return total


def _let_go_of_streams() -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def _leave(status: int) -> int:
    """Return the exit code of the program; end by the same signal if it ended by one."""
    if not os.WIFSIGNALED(status):
        return os.waitstatus_to_exitcode(status)
    import resource

    number = os.WTERMSIG(status)
    resource.setrlimit(
        resource.RLIMIT_CORE, (0, 0)
    )  # there is one core file, if any: the program's
    with contextlib.suppress(OSError, ValueError):  # SIGKILL has no handler
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    return 128 + number


def tell(seen: Hang, command: list[str], target: str | None, page: str | None = None) -> None:
    """Print how a hanging program looked, and why it hung; write it to files, too, if there are any."""
    run = _account(seen, command)
    if target is not None:
        _write(run, target)
    if sys.stderr is not None:
        _print(seen, command)
    if page is not None:
        _write_page(run, seen, page)


def _print(seen: Hang, command: list[str]) -> None:
    from glasspool.views import table

    reason = _reason(seen)
    lines = [f"glasspool run: {shlex.join(command)} hangs: {reason}"]
    lines += [f"- {finding.text}" for finding in seen.findings]
    text = table.snapshot_text(seen.picture, width=table.width_of(sys.stderr))
    lines += ["", text, *seen.stacks]
    ended = f"it is ended after {table.duration(seen.run_s)}, with all its processes"
    lines.append(f"glasspool run: {ended}; exit code {EXIT_CODE}")
    print(table.fitted("\n".join(lines), sys.stderr), file=sys.stderr, flush=True)


def _reason(seen: Hang) -> str:
    return f"no task has begun or ended for {seen.quiet_s:.1f} s"


def _account(seen: Hang, command: list[str]) -> Run:
    from glasspool import replacement
    from glasspool.cli import report
    from glasspool.snapshot import as_plain

    now = time.time()
    return report.Run(
        command=tuple(command),
        exitcode=EXIT_CODE,
        error=None,
        begun_at=now - seen.run_s,
        run_s=seen.run_s,
        off=replacement.why_off(),
        pools=tuple(
            report.PoolAccount(pool, (), now)
            for pool in seen.picture.pools
            if pool.kind == "glasspool.Pool"
        ),
        left_alone=(),
        reason="; ".join([_reason(seen), *(finding.text for finding in seen.findings)]),
        hang={
            "quiet_s": seen.quiet_s,
            "findings": as_plain(seen.findings),
            "snapshot": seen.picture.to_dict(),
            "stacks": list(seen.stacks),
        },
    )


def _write_page(run: Run, seen: Hang, target: str) -> None:
    from glasspool.cli import page

    # The program's own recording ends with it: what the rings of its workers hold is left.
    pids = [pool.pid for pool in seen.picture.pools if pool.kind == "glasspool.Pool"]
    complain(page.write(run, page.recordings_of(pids), target).removeprefix("glasspool: "))


def _write(run: Run, target: str) -> None:
    import json

    from glasspool.cli import report

    try:
        with open(target, "w", encoding="utf-8") as file:
            json.dump(report.as_dict(run), file, indent=1)
            file.write("\n")
    except OSError as error:
        complain(f"cannot write {target}: {error.strerror}")


# What is seen of it --------------------------------------------------------------------------------


def _picture(pid: int) -> Snapshot:
    """Take a picture of a program's pools, and of the pools that its tasks have made."""
    from glasspool.engines.local import scoreboard as sb
    from glasspool.observe import running

    picture = running.picture(pid, stacks=True)
    family = set(descendants(pid))
    makers: set[int] = set()
    for path in sb.boards():
        with contextlib.suppress(sb.BadBoard):
            board = sb.Board.open(path)
            makers |= {board.header.pid} & family
            board.close()
    pools = picture.pools
    for maker in sorted(makers):
        with contextlib.suppress(running.NoSuchProcess, running.NotPermitted, running.NoPool):
            pools += running.picture(maker, stacks=True).pools
    return replace(picture, pools=pools)


def with_dumps(picture: Snapshot, dump: int) -> tuple[Snapshot, tuple[str, ...]]:
    """Ask the processes whose stacks are missing to write them; return the rest of them as text."""
    left: list[str] = []
    asked: dict[int, ProcessInfo] = {}

    def process_with_dump(process: ProcessInfo) -> ProcessInfo:
        if process.pid not in asked:
            asked[process.pid] = _with_dump(process, dump, left)
        return replace(
            process, threads=tuple(_merged(asked[process.pid], t) for t in process.threads)
        )

    pools: tuple[PoolInfo, ...] = tuple(
        replace(pool, processes=tuple(process_with_dump(p) for p in pool.processes))
        for pool in picture.pools
    )
    return replace(picture, pools=pools), tuple(left)


def _without_command(picture: Snapshot) -> Snapshot:
    """Cut this command's own calls, which led to the program's, from the stacks of its main thread."""
    from glasspool.cli import program

    def cut(thread: ThreadInfo) -> ThreadInfo:
        stack = thread.stack or ()
        ours = [i for i, frame in enumerate(stack) if frame.file == program.__file__]
        return replace(thread, stack=stack[ours[-1] + 1 :]) if ours else thread

    pools = tuple(
        replace(
            pool,
            processes=tuple(
                replace(process, threads=tuple(map(cut, process.threads)))
                for process in pool.processes
            ),
        )
        for pool in picture.pools
    )
    return replace(picture, pools=pools)


def _merged(asked: ProcessInfo, thread: ThreadInfo) -> ThreadInfo:
    if thread.stack is None and thread.is_main:
        return next((t for t in asked.threads if t.is_main), thread)
    return thread


def _with_dump(process: ProcessInfo, dump: int, left: list[str]) -> ProcessInfo:
    from glasspool.observe import outside
    from glasspool.snapshot import Evidence

    main = next((thread for thread in process.threads if thread.is_main), None)
    if main is None or main.stack is not None:
        return process
    stacks = parsed(_ask_for_dump(process.pid, dump))
    if not stacks:
        return process
    *others, (_, stack) = stacks
    for ident, other in others:
        lines = "\n".join(f"       {frame.file}:{frame.line}  {frame.function}" for frame in other)
        left.append(f"process {process.pid}, thread {ident}\n{lines}")
    told = replace(
        main, stack=outside.own_part(stack), evidence=Evidence("self", note="faulthandler")
    )
    return replace(process, threads=tuple(told if t is main else t for t in process.threads))


def _ask_for_dump(pid: int, dump: int) -> str:
    """Have a process write its stacks; an empty text if it cannot, or does not."""
    import select

    from glasspool.observe import procfs

    if not procfs.catches(pid, _dump_signal()):
        return ""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, _dump_signal())
    parts: list[bytes] = []
    while select.select([dump], [], [], DUMP_QUIET_S if parts else DUMP_LIMIT_S)[0]:
        part = os.read(dump, 1 << 16)
        if not part:
            break  # the program has closed its end
        parts.append(part)
    return b"".join(parts).decode(errors="replace")


_HEAD = re.compile(r"(?:Current thread|Thread) (0x[0-9a-f]+).*\(most recent call first\):")
_FRAME = re.compile(r'  File "(.*)", line (\d+) in (.*)')


def parsed(text: str) -> list[tuple[str, tuple[Frame, ...]]]:
    """Read the stacks that ``faulthandler`` wrote: ident and frames, outermost first; main thread last."""
    from glasspool.snapshot import Frame

    found: list[tuple[str, list[Frame]]] = []
    for line in text.splitlines():
        head, frame = _HEAD.match(line), _FRAME.match(line)
        if head is not None:
            found.append((head.group(1), []))
        elif frame is not None and found:
            file, number, function = frame.groups()
            found[-1][1].insert(0, Frame(file, int(number), function))
    return [(ident, tuple(frames)) for ident, frames in found]
