"""Look at a running program again and again until it is certain what is wrong with it, or that nothing is.

Each sight costs the program nothing (see ``sight``). The kernel is asked more only where a sight gives
a reason to. Nothing is written into the program, and no signal is sent to it.
"""

from __future__ import annotations

import linecache
import os
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from threading import Event

from glasspool.observe import native, procfs, pyspy, sight
from glasspool.observe.diagnosis import Clue, Finding
from glasspool.observe.pyspy import Pause
from glasspool.observe.sight import SeenThread, Sight
from glasspool.observe.why import own_verdicts
from glasspool.observe.why.case import SURE_S
from glasspool.observe.why.movement import Crew, Extra, Look, Series, place_of
from glasspool.observe.why.verdicts import LONG_S, LOOK_S, ORDER, Judgement, judge, with_findings
from glasspool.snapshot import Snapshot

_PAUSES_S = (0.15, 0.35, 0.5)
"""Between the first sights; the last one between all further ones."""

_LAST_S = 0.25
"""What is kept of the time for the last questions."""

_FINE_S = 1.0
"""So long a program is looked at in which nothing looks wrong."""

# What the command line of a process that multiprocessing starts for a pool holds.
_STARTED_WITH = (
    "multiprocessing.forkserver",
    "multiprocessing.spawn",
    "--multiprocessing-fork",
    "loky.backend.popen_loky_posix",
)

_LEAST = 2
"""So many sights are taken also when each of them takes long."""

_LONGER_S = 0.9
"""So much longer is looked where something may yet turn out to be wrong when the time is over."""

_ATTEMPTS = 3

_SEMAPHORE = re.compile(r"/dev/shm/(sem\.\S+)")


class NoStacks(Exception):
    """The program's stacks could not be read: the text says why and what to do about it.

    ``refusal`` is as in ``pyspy.Dump``, ``sight`` what was seen without them.
    """

    def __init__(self, text: str, refusal: str | None, seen: Sight) -> None:
        """Keep what was seen."""
        super().__init__(text)
        self.refusal = refusal
        self.sight = seen


class Gone(Exception):
    """The program has ended while it was looked at."""


def explain(pid: int | None = None, *, seconds: float = LOOK_S) -> tuple[Finding, ...]:
    """Look at a program for up to some seconds and say what is wrong with its pools; nothing if all is well.

    Blocks until the verdict is certain. Nothing is written into the program.

    Args:
        pid: The process that made the pools; None for this one.
        seconds: How long to look at most.
    """
    return look(os.getpid() if pid is None else pid, seconds=seconds).findings


def look(pid: int, *, seconds: float = LOOK_S) -> Judgement:
    """Look at a program until it is certain what is wrong with its pools, for ``seconds`` at most.

    Raises:
        NoStacks: What its threads execute cannot be read.
        Gone: It has ended.
    """
    begun = time.monotonic()
    deadline = begun + seconds - min(_LAST_S, seconds / 4)
    long_s = max(LONG_S, seconds - 1.3)
    ours = _program_of_ours(pid)
    pid = program_of(pid) if ours is None else ours
    before = None if ours is None else _picture(pid)
    is_slow = before is not None and own_verdicts.needs_long(before)
    looks: list[Look] = []
    never = Event()
    while True:
        left_s = deadline - time.monotonic()
        looks.append(_look_once(pid, max(0.7, min(2.0, left_s)), looks))
        judgement = judge(_readable(looks), long_s=long_s, line_of=linecache.getline)
        enough = not is_slow and _is_enough(judgement, looks, long_s)
        left_s = deadline - time.monotonic()
        if left_s < _PAUSES_S[0] and judgement.pending:
            left_s += _LONGER_S  # a machine that is busy shall not turn a fault into none
        if len(looks) < _LEAST and left_s < _PAUSES_S[1]:
            left_s = _PAUSES_S[1]  # one sight proves nothing, however long it took
        if enough or left_s < _PAUSES_S[0] / 2:
            break
        # The last sight is taken when the time is over, so that the series is as long as it may be.
        pause_s = _PAUSES_S[min(len(looks), len(_PAUSES_S)) - 1]
        pause_s = left_s if left_s < 1.5 * pause_s else pause_s
        never.wait(pause_s)  # nobody sets it: the wait ends with the time
    if before is not None:
        judgement = _with_our_pools(judgement, before, _readable(looks), long_s)
    judgement = replace(judgement, looked_s=time.monotonic() - begun)
    return _with_c_function(judgement, max(0.3, begun + seconds + 0.5 - time.monotonic()))


def _readable(looks: list[Look]) -> list[Look]:
    """Leave out sights in which the program itself could not be read, unless that is so in all."""
    read = [look for look in looks if (p := look.sight.process(look.sight.pid)) and p.dump.threads]
    return read or looks


def _program_of_ours(pid: int) -> int | None:
    """Return the program with pools of ours that a process is, or works for; None if there is none."""
    from glasspool.observe import running

    pids = {item.pid for item in running.pools() if item.problem is None}
    one: int | None = pid
    while pids and one is not None and one not in pids:
        told = procfs.process(one)
        one = told.ppid if told is not None and told.ppid > 1 else None
    return one if pids else None


def _picture(pid: int) -> Snapshot | None:
    from glasspool.observe import running

    return running.look(pid, stacks=True).snapshot


def _with_our_pools(
    judgement: Judgement, before: Snapshot, looks: list[Look], long_s: float
) -> Judgement:
    """Add what our own pools say of themselves."""
    after = _picture(judgement.pid)
    if after is None:
        return judgement
    series = Series(tuple(looks))
    is_long = series.window_s >= long_s
    theirs = own_verdicts.without_ours(judgement.findings, after)
    on_cluster = any(pool.engine != "local" for pool in after.pools)
    if on_cluster:  # what else the program has started, such as the cluster itself, is no pool's
        theirs = tuple(finding for finding in theirs if finding.pid in (None, judgement.pid))
    own = own_verdicts.judge(before, after, series, is_long=is_long, line_of=linecache.getline)
    told = own_verdicts.progress(
        before, after, max(series.window_s, after.taken_at - before.taken_at)
    )
    judgement = with_findings(judgement, (*theirs, *own))
    crews = () if on_cluster else series.crews
    progress = told if not crews else {**judgement.progress, "glasspool": told}
    if not judgement.findings and not crews:
        sentence = own_verdicts.fine(told, after.taken_at - before.taken_at)
        judgement = replace(judgement, sentence=sentence, pending=())
    return replace(judgement, progress=progress, has_pool=True)


def look_without_stacks(pid: int, first: Sight) -> Judgement:
    """Judge what the operating system alone tells: whether processes are stopped.

    Args:
        pid: The program.
        first: What was seen of it already.
    """
    Event().wait(SURE_S)  # nobody sets it: the wait ends with the time
    second = sight.take(pid, stacks=False)
    looks = [Look(seen, Extra(names=_tracers(seen))) for seen in (first, second)]
    return judge(looks)


def program_of(pid: int) -> int:
    """Return the program that a process works for: itself, if it is no worker and serves no workers."""
    seen: set[int] = set()
    while pid not in seen:
        seen.add(pid)
        told = procfs.process(pid)
        above = procfs.process(told.ppid) if told is not None else None
        if told is None or above is None:
            return pid
        command = " ".join(told.cmdline)
        is_copy = told.cmdline == above.cmdline and procfs.python_version(pid) is not None
        if any(words in command for words in _STARTED_WITH) or (is_copy and _is_worker(pid)):
            pid = above.pid
    return pid


def _is_worker(pid: int) -> bool:
    """Tell whether a process that was forked is a worker: a program may run itself again, too."""
    dump = pyspy.dump([pid], 1.0)[pid]
    for thread in dump.threads:
        if thread.native_id == pid:
            return any(frame.function.endswith("_bootstrap") for frame in thread.stack)
    return False


def _is_enough(judgement: Judgement, looks: list[Look], long_s: float) -> bool:
    """Tell whether a further sight would change nothing."""
    read = _readable(looks)
    window_s = read[-1].sight.taken_at - read[0].sight.taken_at
    if window_s >= long_s:
        return True
    if judgement.findings:
        # Something certain; but a cause may still be pending whose consequence this is.
        first = judgement.findings[0]
        rank = ORDER.index(first.kind)
        return not any(ORDER.index(later.kind) < rank for later in judgement.pending)
    return window_s >= _FINE_S and not judgement.pending and not _is_restless(looks)


def _is_restless(looks: list[Look]) -> bool:
    """Tell whether workers come and go, which takes longer to judge."""
    series = Series(tuple(looks))
    first, last = series.worker_pids(0), series.worker_pids(-1)
    if first != last:
        return True
    return any(_is_starting(crew) or series.unread(crew) for crew in series.crews)


def _is_starting(crew: Crew) -> bool:
    """Tell whether a pool has less workers than it should, or such that have not begun."""
    wanted = crew.variables.get("processes", "")
    if wanted.isdigit() and len(crew.workers) < int(wanted):
        return True
    return any(worker.step in ("starting", "leaving") for worker in crew.workers)


def _look_once(pid: int, timeout_s: float, before: list[Look]) -> Look:
    last = before[-1].sight if before else None
    for attempt in range(1, _ATTEMPTS + 1):
        # To stop the program would make each of its threads run once, and so seem to move. So it is stopped
        # for the first sight only, and only if nothing else helps.
        pause: Pause = "if-needed" if attempt == _ATTEMPTS and not before else "never"
        seen = sight.take(pid, timeout_s=timeout_s, last=last, pause=pause)
        root = seen.process(pid)
        if root is None:
            raise Gone(f"process {pid} has ended")
        if before or root.dump.threads or root.os.state in "Tt" or root.dump.refusal == "silent":
            break
        # A program that is very busy may not be understood once: its memory changes while it is read.
        if root.dump.refusal != "unreadable" or attempt == _ATTEMPTS:
            raise NoStacks(root.dump.note or "no stacks", root.dump.refusal, seen)
    return Look(seen, _extra(seen, before))


# What the kernel is asked besides -----------------------------------------------------------------


def _extra(seen: Sight, before: list[Look]) -> Extra:
    semaphores, mappers = _semaphores(seen)
    processors = before[-1].extra.processors if before else native.processors_of(seen.pid)
    writing = _writing(seen)
    return Extra(
        switches=_switches(seen),
        asleep_s=_asleep(seen),
        readers=_readers(writing),
        fills=_fills(writing),
        semaphores=semaphores,
        mappers=mappers,
        names=_tracers(seen),
        processors=processors,
        owners=_owners(seen, processors),
    )


def _threads(seen: Sight) -> Iterable[SeenThread]:
    return (thread for process in seen.processes for thread in process.threads)


def _switches(seen: Sight) -> dict[int, int]:
    """Count how often those threads have given way that have the interpreter lock, beside others."""
    found = {}
    for process in seen.processes:
        python = [thread for thread in process.threads if thread.python is not None]
        if len(python) < 2:
            continue
        for thread in python:
            if thread.python is not None and thread.python.owns_gil:
                number = _field(
                    f"/proc/{process.pid}/task/{thread.os.tid}/status", "voluntary_ctxt_switches:"
                )
                if number is not None:
                    found[thread.os.tid] = int(number)
    return found


def _asleep(seen: Sight) -> dict[int, float]:
    """Tell for how long threads have not run, about: by the kernel's own clock, where it shows it."""
    now = _field("/proc/thread-self/sched", "se.exec_start")
    if now is None:
        return {}
    found = {}
    for thread in _threads(seen):
        if thread.os.state in "SD":
            then = _field(f"/proc/{thread.os.pid}/task/{thread.os.tid}/sched", "se.exec_start")
            if then is not None:
                found[thread.os.tid] = max(0.0, (now - then) / 1e3)
    return found


def _field(path: str, name: str) -> float | None:
    try:
        with open(path) as told:
            for line in told:
                if line.startswith(name):
                    return float(line.replace(":", " ").split()[-1])
    except (OSError, ValueError):
        return None  # ended, not permitted, or a kernel without it
    return None


def _writing(seen: Sight) -> dict[str, tuple[int, int]]:
    """Return the pipes into which threads wait to write, with a process and descriptor of each."""
    found = {}
    for process in seen.processes:
        for thread in process.threads:
            told = thread.os
            if told.state == "S" and procfs.sleeps_in(told) in ("pipe write", "write"):
                fd = told.syscall_args[0] if told.syscall_args else -1
                target = process.files.get(fd, "")
                if target.startswith("pipe:"):
                    found[target] = (process.pid, fd)
    return found


def _readers(wanted: Mapping[str, tuple[int, int]]) -> dict[str, frozenset[int]]:
    """Find who holds the other end of pipes that are full, among all processes of the system."""
    if not wanted:
        return {}
    pids = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
    holding = [pid for pid in pids if wanted.keys() & set(procfs.descriptors(pid).values())]
    ends = procfs.pipe_ends(holding)
    return {
        pipe: frozenset(end.pid for end in ends[number].readers)
        for pipe in wanted
        if (number := int(pipe[6:-1])) in ends
    }


def _fills(wanted: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    found = {}
    for pipe, (pid, fd) in wanted.items():
        fill = procfs.pipe_bytes(pid, fd)
        if fill is not None:
            found[pipe] = (fill.held_bytes, fill.capacity_bytes)
    return found


def _semaphores(seen: Sight) -> tuple[dict[int, str], dict[str, frozenset[int]]]:
    """Name the shared semaphores for which threads wait outside of pools, and find who else has them."""
    names: dict[int, str] = {}
    for thread in _threads(seen):
        if _waits_outside(thread):
            name = _mapped(thread.os.pid, thread.os.syscall_args[0])
            if name is not None:
                names[thread.os.tid] = name
    if not names:
        return {}, {}
    mapped = {process.pid: _all_mapped(process.pid) for process in seen.processes}
    mappers = {
        name: frozenset(pid for pid, theirs in mapped.items() if name in theirs)
        for name in set(names.values())
    }
    return names, mappers


def _waits_outside(thread: SeenThread) -> bool:
    told = thread.os
    if told.state != "S" or procfs.sleeps_in(told) != "futex" or len(told.syscall_args) < 4:
        return False
    if told.syscall_args[1] & 0x80 or thread.python is None:
        return False
    place = place_of(thread)
    return place is None or place.step not in ("lock", "send-lock")


def _mapped(pid: int, address: int) -> str | None:
    """Name the shared semaphore at an address: the number of its file, and where in it."""
    for line in _maps(pid):
        span, _, offset, _, inode, *_path = line.split(None, 5)
        low, _, high = span.partition("-")
        if int(low, 16) <= address < int(high, 16) and _SEMAPHORE.search(line):
            return f"{inode}+{address - int(low, 16) + int(offset, 16):x}"
    return None


def _all_mapped(pid: int) -> frozenset[str]:
    # A semaphore has a file of its own and begins with it.
    found = (line.split(None, 5)[4] for line in _maps(pid) if _SEMAPHORE.search(line))
    return frozenset(f"{inode}+0" for inode in found)


def _maps(pid: int) -> list[str]:
    try:
        with open(f"/proc/{pid}/maps", errors="replace") as maps:
            return maps.readlines()
    except OSError:
        return []  # ended, or not permitted


def _tracers(seen: Sight) -> dict[int, str]:
    found = {}
    for process in seen.processes:
        if process.tracer is not None:
            told = procfs.process(process.tracer)
            found[process.tracer] = told.name if told else "ended"
    return found


def _owners(seen: Sight, processors: int | None) -> dict[int, str]:
    """Name the libraries of native threads, where there are enough of them to be in each other's way."""
    natives = sum(thread.python is None for thread in _threads(seen))
    return native.owners_of(seen) if processors is not None and natives > processors else {}


# The last question ----------------------------------------------------------------------------------


def _with_c_function(judgement: Judgement, limit_s: float) -> Judgement:
    """Name the C function that keeps the interpreter lock: that stops the process for some milliseconds."""
    if judgement.verdict != "gil":
        return judgement
    first = judgement.findings[0]
    if first.pid is None or first.tid is None:
        return judgement
    call = pyspy.native_top(first.pid, first.tid, limit_s)
    told = _told_by_line(first) if call is None else _told_with(first, call)
    return replace(
        judgement,
        findings=(told, *judgement.findings[1:]),
        sentence=told.text,
        evidence=told.evidence,
    )


def _told_by_line(first: Finding) -> Finding:
    """Name what the line of Python calls, where the C stack does not tell."""
    from glasspool.observe import sources

    frame = first.stack[-1] if first.stack else None
    if frame is None:
        return first
    names = sources.names_at(frame.file, frame.function.rpartition(".")[2], frame.line)
    if not names:
        return first
    # The outermost call of a line is the last to begin, once its arguments are there.
    text = first.text.replace("in C code", f"in C code ({names[0]}, to judge by the line)", 1)
    clue = Clue(f"the line calls {', '.join(names)}", "inferred", first.pid, first.tid)
    return replace(first, text=text, evidence=(*first.evidence, clue))


def _told_with(first: Finding, call: pyspy.CFrame) -> Finding:
    library = os.path.basename(call.library)
    text = first.text.replace("in C code", f"in the C function {call.function} ({library})", 1)
    clue = Clue(
        f"the C function is {call.function} of {call.library}", "py-spy", first.pid, first.tid
    )
    return replace(first, text=text, evidence=(*first.evidence, clue))
