"""What the operating system says of processes and threads, quickly and without a promise.

On Linux this reads ``/proc``: files of a few hundred bytes, opened and read without buffering, as
a roster reads several for each thread. Elsewhere ``psutil`` answers what it can. A process or
thread may end between two reads: it is then left out, or None. Nothing in here raises for that.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

if TYPE_CHECKING:
    import psutil

_Answer = TypeVar("_Answer")

HAS_PROC = sys.platform == "linux" and os.path.exists("/proc/self/task")
"""Whether the system tells of threads under ``/proc``."""

COMM_BYTES = 15
"""How long a thread's name may be for Linux (``TASK_COMM_LEN`` less the final zero)."""

LOOKER = "--glasspool-looks"
"""On the command line of a process that a program starts to look at itself: it is no part of the program."""

_TICKS_PER_S = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096

# Fields of /proc/PID/stat after the name, counted from the state (field 3 of proc(5)) as 0.
_PPID, _UTIME, _STIME, _STARTTIME, _RSS = 1, 11, 12, 19, 21

_STATES = {
    "R": "running",
    "S": "sleeping",
    "D": "waiting on disk",
    "T": "stopped",
    "t": "stopped by a debugger",
    "Z": "ended",
    "X": "ended",
    "I": "idle",
}

# The kernel function that a thread sleeps in, by how its name begins.
_WCHANS = (
    ("futex", "futex"),
    ("anon_pipe_read", "pipe read"),
    ("pipe_read", "pipe read"),
    ("pipe_wait", "pipe"),
    ("anon_pipe_write", "pipe write"),
    ("pipe_write", "pipe write"),
    ("poll_schedule", "poll"),
    ("do_poll", "poll"),
    ("do_sys_poll", "poll"),
    ("do_select", "select"),
    ("ep_poll", "epoll"),
    ("do_epoll", "epoll"),
    ("hrtimer_nanosleep", "nanosleep"),
    ("do_nanosleep", "nanosleep"),
    ("do_wait", "wait for a child"),
    ("do_sigtimedwait", "wait for a signal"),
    ("unix_stream", "socket read"),
    ("unix_dgram", "socket read"),
    ("unix_wait_for_peer", "socket write"),
    ("__skb_wait", "socket read"),
    ("sk_wait_data", "socket read"),
    ("wait_woken", "socket read"),
    ("inet_csk_accept", "accept"),
)

# System calls in which threads rest, by number: used where the kernel hides the function.
_SYSCALLS: dict[str, dict[int, str]] = {
    "x86_64": {
        0: "read", 1: "write", 7: "poll", 23: "select", 34: "pause", 35: "nanosleep",
        43: "accept", 44: "socket write", 45: "socket read", 46: "socket write",
        47: "socket read", 61: "wait for a child", 73: "file lock", 128: "wait for a signal",
        202: "futex", 220: "semaphore", 230: "nanosleep", 232: "epoll",
        247: "wait for a child", 270: "select", 271: "poll", 281: "epoll", 288: "accept",
    },
    "aarch64": {
        63: "read", 64: "write", 72: "select", 73: "poll", 22: "epoll", 95: "wait for a child",
        98: "futex", 101: "nanosleep", 115: "nanosleep", 137: "wait for a signal",
        192: "semaphore", 202: "accept", 206: "socket write", 207: "socket read",
        211: "socket write", 212: "socket read", 242: "accept", 260: "wait for a child",
    },
}  # fmt: skip
_PSUTIL_STATES = {
    "running": "R", "sleeping": "S", "disk-sleep": "D", "stopped": "T", "zombie": "Z",
}  # fmt: skip
_SYSCALL_NAMES = _SYSCALLS.get(platform.machine(), {})

_PIPE = re.compile(r"pipe:\[(\d+)\]")
_PYTHON = re.compile(rb"/(?:lib)?python(3\.\d+)")


@dataclass(frozen=True, slots=True)
class OsThread:
    """One thread, as the kernel sees it.

    ``state`` is the kernel's letter. ``wchan`` names the kernel function that it sleeps in;
    ``syscall`` is the number of the system call that it is in and ``syscall_args`` its arguments.
    Both are empty for a thread that runs, and where the system does not permit to read them.
    ``runs`` counts how often it has been given a processor: a thread whose count has not changed has not
    moved. None where the kernel does not tell.
    """

    pid: int
    tid: int
    name: str
    state: str
    cpu_s: float
    start_ticks: int
    wchan: str | None = None
    syscall: int | None = None
    syscall_args: tuple[int, ...] = ()
    runs: int | None = None


@dataclass(frozen=True, slots=True)
class OsProcess:
    """One process, as the kernel sees it. ``cpu_s`` counts all of its threads, ended ones too."""

    pid: int
    name: str
    cmdline: tuple[str, ...]
    ppid: int
    state: str
    start_ticks: int
    started_at: float
    rss_bytes: int
    cpu_s: float
    uid: int | None


class Status(NamedTuple):
    """What ``/proc/PID/status`` tells besides: who may do what to the process, and its signals.

    ``uids`` and ``gids`` are real, effective, saved and file-system ids. Signal sets and capabilities are
    bit masks; signal N is bit N - 1, capability N is bit N. ``blocked`` is the main thread's mask,
    ``pending`` what waits for the main thread or for the process. Source: ``proc_pid_status(5)``.
    """

    uids: tuple[int, ...]
    gids: tuple[int, ...]
    tracer: int | None
    pending: int
    blocked: int
    ignored: int
    caught: int
    cap_permitted: int
    cap_effective: int
    no_new_privs: bool
    seccomp: int


class PipeEnd(NamedTuple):
    """One descriptor of one process that leads to a pipe."""

    pid: int
    fd: int


class PipeEnds(NamedTuple):
    """Who holds which end of a pipe, among the processes that were asked about."""

    readers: tuple[PipeEnd, ...] = ()
    writers: tuple[PipeEnd, ...] = ()


class PipeFill(NamedTuple):
    """How full a pipe is. ``full`` tells whether a writer of ``PIPE_BUF`` bytes would have to wait.

    ``has_reader`` tells whether anybody at all, in any process, still holds the end to read from.
    """

    held_bytes: int
    capacity_bytes: int
    full: bool
    has_reader: bool


def thread_ids(pid: int) -> tuple[int, ...]:
    """List the thread ids of a process, in order; nothing if it has ended."""
    if HAS_PROC:
        try:
            return tuple(sorted(map(int, os.listdir(f"/proc/{pid}/task"))))
        except OSError:
            return ()
    return _ask_psutil(pid, lambda p: tuple(sorted(t.id for t in p.threads()))) or ()


def thread(pid: int, tid: int) -> OsThread | None:
    """Tell of one thread, or None if there is no such thread (any more)."""
    if not HAS_PROC:
        return _psutil_thread(pid, tid)
    folder = f"/proc/{pid}/task/{tid}/"
    stat = _stat(folder + "stat")
    if stat is None:
        return None
    name, fields = stat
    state = fields[0].decode()
    wchan, syscall, args = _sleeps_in(folder) if state in "SD" else (None, None, ())
    cpu_s, runs = _thread_cpu_s(folder, fields)
    return OsThread(
        pid=pid,
        tid=tid,
        name=name,
        state=state,
        cpu_s=cpu_s,
        start_ticks=int(fields[_STARTTIME]),
        wchan=wchan,
        syscall=syscall,
        syscall_args=args,
        runs=runs,
    )


def resting(pid: int) -> dict[int, tuple[int, int]]:
    """List the threads of a process that are asleep or stopped, each with a mark of this very rest.

    A thread that has the same mark later has not moved between the two calls. A thread is left out where
    the system does not count how often it has run.
    """
    marks = {}
    for tid in thread_ids(pid) if HAS_PROC else ():
        folder = f"/proc/{pid}/task/{tid}/"
        # The count before the state: a thread that wakes between the two has another count later.
        runs = (_read(folder + "schedstat") or b"").split()
        stat = _stat(folder + "stat")
        if stat is not None and len(runs) >= 3 and stat[1][0] in b"SDTt":
            marks[tid] = (int(stat[1][_STARTTIME]), int(runs[2]))
    return marks


def process(pid: int) -> OsProcess | None:
    """Tell of one process, or None if there is no such process (any more)."""
    if not HAS_PROC:
        return _psutil_process(pid)
    stat = _stat(f"/proc/{pid}/stat")
    if stat is None:
        return None
    name, fields = stat
    ticks = int(fields[_STARTTIME])
    return OsProcess(
        pid=pid,
        name=name,
        cmdline=_cmdline(pid),
        ppid=int(fields[_PPID]),
        state=fields[0].decode(),
        start_ticks=ticks,
        started_at=_epoch_of_boot() + ticks / _TICKS_PER_S,
        rss_bytes=int(fields[_RSS]) * _PAGE_BYTES,
        cpu_s=(int(fields[_UTIME]) + int(fields[_STIME])) / _TICKS_PER_S,
        uid=_uid(pid),
    )


def status(pid: int) -> Status | None:
    """Tell of a process's rights and signals; None if it has ended or the system does not tell."""
    text = _read(f"/proc/{pid}/status") if HAS_PROC else None
    if not text:
        return None
    told = dict(line.split(b":", 1) for line in text.splitlines() if b":" in line)

    def mask(name: bytes) -> int:
        return int(told.get(name, b"0").strip() or b"0", 16)

    def numbers(name: bytes) -> tuple[int, ...]:
        return tuple(map(int, told.get(name, b"").split()))

    return Status(
        uids=numbers(b"Uid"),
        gids=numbers(b"Gid"),
        tracer=next(iter(numbers(b"TracerPid")), 0) or None,
        pending=mask(b"SigPnd") | mask(b"ShdPnd"),
        blocked=mask(b"SigBlk"),
        ignored=mask(b"SigIgn"),
        caught=mask(b"SigCgt"),
        cap_permitted=mask(b"CapPrm"),
        cap_effective=mask(b"CapEff"),
        no_new_privs=numbers(b"NoNewPrivs") == (1,),
        seccomp=next(iter(numbers(b"Seccomp")), 0),
    )


def numbers_inside(pid: int) -> dict[int, int]:
    """Map the numbers that a container's process has for its threads to ours.

    Empty for a process that counts as we do, in no PID namespace of its own. Source: ``NSpid`` of
    ``proc_pid_status(5)``.
    """
    if len(_numbers(pid, pid)) < 2:
        return {}
    told = ((_numbers(pid, tid), tid) for tid in thread_ids(pid))
    return {numbers[-1]: tid for numbers, tid in told if numbers}


def _numbers(pid: int, tid: int) -> tuple[int, ...]:
    text = _read(f"/proc/{pid}/task/{tid}/status") or b""
    _, found, rest = text.partition(b"\nNSpid:")
    return tuple(map(int, rest.split(b"\n", 1)[0].split())) if found else ()


def catches(pid: int, number: int) -> bool:
    """Tell whether a process has a handler for a signal, which might end it otherwise.

    False where the system does not tell.
    """
    told = status(pid)
    return told is not None and bool(told.caught >> (number - 1) & 1)


def family_cpu_s(pid: int) -> float:
    """Return the processor time of a process and of all that descend from it, in seconds.

    With what its ended children used, if it has waited for them. 0 if it has ended.
    """
    if not HAS_PROC:
        told = _ask_psutil(pid, lambda p: [p, *p.children(recursive=True)]) or []
        return sum(sum(_ask_psutil(p.pid, lambda q: q.cpu_times()) or ()) for p in told)
    total, waiting, seen = 0, [pid], {pid}
    while waiting:
        one = waiting.pop()
        stat = _stat(f"/proc/{one}/stat")
        if stat is not None:
            total += sum(map(int, stat[1][_UTIME : _UTIME + 4]))
        # A process may get its parent's number again while we walk: each is counted once.
        fresh = [child for child in _listed_children(one) if child not in seen]
        seen.update(fresh)
        waiting.extend(fresh)
    return total / _TICKS_PER_S


def family(pid: int) -> tuple[int, ...]:
    """List a process and all that descend from it, each after its parent.

    Without what the program started to look at itself.
    """
    # A process may get its parent's number again while we walk: each is visited once.
    found = {pid: None}
    waiting = [pid]
    while waiting:
        fresh = [child for child in children(waiting.pop(0)) if child not in found]
        fresh = [child for child in fresh if LOOKER not in _cmdline(child)]
        found.update(dict.fromkeys(fresh))
        waiting.extend(fresh)
    return tuple(found)


def descriptors(pid: int) -> dict[int, str]:
    """Tell where each descriptor of a process leads, such as ``pipe:[1234]``; nothing if not permitted."""
    told = {}
    try:
        for entry in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):  # closed meanwhile
                told[int(entry)] = os.readlink(f"/proc/{pid}/fd/{entry}")
    except OSError:
        return told  # ended, protected, or a system without /proc
    return told


def tracer(pid: int) -> int | None:
    """Return the process that traces this one (a debugger), or None."""
    told = status(pid)
    return None if told is None else told.tracer


def pipe_ends(pids: Iterable[int]) -> dict[int, PipeEnds]:
    """Tell who holds which end of each pipe, by the pipe's number (the one in ``pipe:[NUMBER]``).

    Only the given processes are looked at: others may hold ends too. A process whose descriptors may
    not be read holds none here.
    """
    readers: dict[int, list[PipeEnd]] = {}
    writers: dict[int, list[PipeEnd]] = {}
    for pid in pids:
        for fd, target in descriptors(pid).items():
            found = _PIPE.fullmatch(target)
            mode = _access_mode(pid, fd) if found else None
            if found and mode is not None:
                number = int(found[1])
                if mode != os.O_WRONLY:
                    readers.setdefault(number, []).append(PipeEnd(pid, fd))
                if mode != os.O_RDONLY:
                    writers.setdefault(number, []).append(PipeEnd(pid, fd))
    return {
        number: PipeEnds(tuple(readers.get(number, ())), tuple(writers.get(number, ())))
        for number in readers.keys() | writers.keys()
    }


def _access_mode(pid: int, fd: int) -> int | None:
    text = _read(f"/proc/{pid}/fdinfo/{fd}") or b""
    _, found, rest = text.partition(b"flags:")
    return int(rest.split(None, 1)[0], 8) & os.O_ACCMODE if found else None


def pipe_bytes(pid: int, fd: int) -> PipeFill | None:
    """Tell how full the pipe behind a descriptor is; None if it is none, or may not be asked.

    Nothing is read from the pipe. To ask, its end for *writing* is opened for some microseconds: all that
    can come of it is that a reader learns of the end of the file as much later. The end for reading is
    never opened: a writer whose last reader ended just then would write into nothing, where
    it should get SIGPIPE.
    """
    if sys.platform != "linux":
        return None
    try:
        # The path first, which opens nothing: the number may mean another file by now, and to open
        # a device or a terminal can do something.
        place = os.open(f"/proc/{pid}/fd/{fd}", os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if not stat.S_ISFIFO(os.fstat(place).st_mode) or not _is_unnamed(place):
            return None
        end = os.open(f"/proc/self/fd/{place}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    finally:
        os.close(place)
    try:
        return _fill_of(end)
    except OSError:
        return None
    finally:
        os.close(end)


def _is_unnamed(place: int) -> bool:
    # A FIFO in a file system has waiting openers, whom one more opener would wake.
    return os.readlink(f"/proc/self/fd/{place}").startswith("pipe:[")


def _fill_of(end: int) -> PipeFill:
    import fcntl  # not on every system
    import select
    import struct
    import termios

    (held,) = struct.unpack("i", fcntl.ioctl(end, termios.FIONREAD, b"\0\0\0\0"))
    question = select.poll()
    question.register(end, select.POLLOUT)
    events = dict(question.poll(0)).get(end, 0)
    return PipeFill(
        held_bytes=held,
        capacity_bytes=fcntl.fcntl(end, fcntl.F_GETPIPE_SZ),
        full=not events & select.POLLOUT,
        has_reader=not events & select.POLLERR,
    )


def python_version(pid: int) -> str | None:
    """Tell which Python a process runs, such as ``3.12``: by its program, else by what it has loaded.

    None for another program, and where that may not be read.
    """
    try:
        program = os.fsencode(os.readlink(f"/proc/{pid}/exe"))
        found = _PYTHON.match(b"/" + os.path.basename(program))
        if found is None:
            with open(f"/proc/{pid}/maps", "rb") as maps:
                # Its library, or an extension module of its standard library.
                found = _PYTHON.search(maps.read())
    except OSError:
        return None  # ended or protected, or a system without /proc
    return found[1].decode() if found else None


def children(pid: int) -> tuple[int, ...]:
    """List the child processes of a process, in order of their pids."""
    if HAS_PROC:
        return tuple(sorted(_listed_children(pid)))
    return _ask_psutil(pid, lambda p: tuple(sorted(c.pid for c in p.children()))) or ()


def children_of_thread(pid: int, tid: int) -> tuple[int, ...]:
    """List the living children that one thread of a process has started, where Linux tells.

    Children of a thread that has ended are counted as another thread's.
    """
    try:
        with open(f"/proc/{pid}/task/{tid}/children", "rb") as listing:
            return tuple(map(int, listing.read().split()))
    except OSError:
        return ()


def boot_id() -> str:
    """Return a text that changes with each start of the system."""
    if HAS_PROC:
        told = _read("/proc/sys/kernel/random/boot_id")
        if told:
            return told.decode().strip()
    import psutil

    return f"boot-{psutil.boot_time():.0f}"


def start_ticks(pid: int) -> int | None:
    """Return when a process began, in clock ticks since boot: with the pid it names it for good."""
    if HAS_PROC:
        stat = _stat(f"/proc/{pid}/stat")
        return int(stat[1][_STARTTIME]) if stat else None
    found = _psutil_process(pid)
    return found.start_ticks if found else None


def state_words(os_thread: OsThread) -> str:
    """Say in words what the kernel says of a thread, for example ``sleeping in futex``."""
    if os_thread.state == "?":
        return "unknown (this system does not tell)"
    words = _STATES.get(os_thread.state, f"in kernel state {os_thread.state}")
    if os_thread.state != "S":
        return words
    place = sleeps_in(os_thread)
    return f"sleeping in {place}" if place else words


def sleeps_in(os_thread: OsThread) -> str | None:
    """Name what a thread sleeps in (``futex``, ``pipe read``, ``poll``), or None if not known."""
    wchan = os_thread.wchan
    if wchan:
        for start, word in _WCHANS:
            if wchan.startswith(start):
                return word
    if os_thread.syscall is not None:
        return _SYSCALL_NAMES.get(os_thread.syscall, wchan)
    return wchan


def name_thread(native_id: int, name: str, pid: int | None = None) -> None:
    """Give a thread of this process a name for the operating system, cut to 15 bytes.

    Linux lets a process name only its own threads: for another pid, for a thread that has ended,
    and on other systems this does nothing.
    """
    if not HAS_PROC:
        return
    cut = name.encode()[:COMM_BYTES].decode(errors="ignore").encode()
    owner = "self" if pid is None else str(pid)
    with contextlib.suppress(OSError):
        comm = os.open(f"/proc/{owner}/task/{native_id}/comm", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(comm, cut)
        finally:
            os.close(comm)


def _read(path: str) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(descriptor, 4096)
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _stat(path: str) -> tuple[str, list[bytes]] | None:
    """Split a stat file into the name and the fields after it (the name may hold anything)."""
    text = _read(path)
    if not text:
        return None
    head, _, tail = text.rpartition(b") ")
    fields = tail.split()
    if len(fields) <= _RSS:
        return None
    return head.partition(b" (")[2].decode(errors="replace"), fields


def _thread_cpu_s(folder: str, fields: list[bytes]) -> tuple[float, int | None]:
    """Return a thread's processor time, and how often it was given a processor if that is told.

    Source: sched-stats of the kernel's documentation, ``/proc/PID/schedstat``.
    """
    # schedstat counts nanoseconds, stat only ticks of 10 ms; not every kernel has schedstat.
    precise = (_read(folder + "schedstat") or b"").split()
    if len(precise) >= 3:
        return int(precise[0]) / 1e9, int(precise[2])
    return (int(fields[_UTIME]) + int(fields[_STIME])) / _TICKS_PER_S, None


def _sleeps_in(folder: str) -> tuple[str | None, int | None, tuple[int, ...]]:
    wchan = (_read(folder + "wchan") or b"").decode(errors="replace").strip()
    words = (_read(folder + "syscall") or b"").split()
    # "running" and "-1 SP PC" stand for a thread that is in no system call.
    if len(words) < 7 or words[0].startswith(b"-"):
        return (wchan if wchan not in ("", "0") else None), None, ()
    args = tuple(int(word, 16) for word in words[1:7])
    return (wchan if wchan not in ("", "0") else None), int(words[0]), args


def _cmdline(pid: int) -> tuple[str, ...]:
    text = _read(f"/proc/{pid}/cmdline")
    if not text:
        return ()
    return tuple(part.decode(errors="replace") for part in text.rstrip(b"\0").split(b"\0"))


def _uid(pid: int) -> int | None:
    # Not the owner of the folder: that is root for a process that made itself non-dumpable.
    text = _read(f"/proc/{pid}/status") or b""
    _, found, rest = text.partition(b"\nUid:")
    return int(rest.split(None, 1)[0]) if found else None


def _epoch_of_boot() -> float:
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def _listed_children(pid: int) -> Iterator[int]:
    if not os.path.exists(f"/proc/{pid}/task/{pid}/children"):
        yield from _searched_children(pid)
        return
    for tid in thread_ids(pid):
        yield from children_of_thread(pid, tid)


def _searched_children(pid: int) -> Iterator[int]:
    # A kernel without CONFIG_PROC_CHILDREN: ask every process for its parent.
    for entry in os.listdir("/proc"):
        stat = _stat(f"/proc/{entry}/stat") if entry.isdigit() else None
        if stat and int(stat[1][_PPID]) == pid:
            yield int(entry)


def _ask_psutil(pid: int, question: Callable[[psutil.Process], _Answer]) -> _Answer | None:
    """Put a question to psutil; None where the process has ended or may not be asked."""
    import psutil

    try:
        return question(psutil.Process(pid))
    except (psutil.Error, OSError):
        return None


def _psutil_thread(pid: int, tid: int) -> OsThread | None:
    for told in _ask_psutil(pid, lambda p: p.threads()) or ():
        if told.id == tid:
            cpu_s = told.user_time + told.system_time
            return OsThread(pid, tid, "", "?", cpu_s, 0)
    return None


def _psutil_process(pid: int) -> OsProcess | None:
    return _ask_psutil(pid, _told_by_psutil)


def _told_by_psutil(found: psutil.Process) -> OsProcess:
    with found.oneshot():
        made_at = found.create_time()
        times = found.cpu_times()
        return OsProcess(
            pid=found.pid,
            name=found.name(),
            cmdline=tuple(found.cmdline()),
            ppid=found.ppid(),
            state=_PSUTIL_STATES.get(found.status(), "?"),
            start_ticks=int(made_at * _TICKS_PER_S),
            started_at=made_at,
            rss_bytes=found.memory_info().rss,
            cpu_s=times.user + times.system,
            uid=found.uids().real if hasattr(found, "uids") else None,
        )
