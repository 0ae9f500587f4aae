"""What we ask of the kernel beyond the standard library: death signals, pidfds, thread names.

Each call says by its result whether the platform has it; there is always a way without it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

_PR_SET_PDEATHSIG = 1
_PR_SET_PTRACER = 0x59616D61


def die_with_parent(parent: int) -> bool:
    """Let the kernel kill this process when the thread that started it ends (``prctl(2)``).

    Ends the process at once if ``parent`` is gone already.
    """
    if not _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL):
        return False
    if os.getppid() != parent:
        os._exit(1)
    return True


def allow_tracer(pid: int) -> None:
    """Let process ``pid`` read this one where Yama would forbid it (no effect elsewhere)."""
    if os.path.exists("/proc/sys/kernel/yama"):
        _prctl(_PR_SET_PTRACER, pid)


def load() -> None:
    """Find what ``die_with_parent`` needs, before a fork, so that each child has it at no cost."""
    global _call_prctl
    if _call_prctl is None:
        _call_prctl = _found_prctl()


_call_prctl: Callable[[int, int], int] | None = None


def _found_prctl() -> Callable[[int, int], int]:
    try:
        # The part of ctypes that is C: the other one takes 2 ms to load, a third of a pool's start.
        import _ctypes

        program: Any = None  # the stub does not know that there may be no file
        address = _ctypes.dlsym(_ctypes.dlopen(program, os.RTLD_NOW), "prctl")
        call = _ctypes.call_function
    except (ImportError, AttributeError, OSError):
        return _prctl_by_ctypes
    return lambda option, value: int(call(address, (option, value, 0, 0, 0)))


def _prctl_by_ctypes(option: int, value: int) -> int:
    try:
        import ctypes

        return int(ctypes.CDLL(None).prctl(option, value, 0, 0, 0))
    except (ImportError, AttributeError, OSError):
        return -1


def _prctl(option: int, value: int) -> bool:
    load()
    return _call_prctl is not None and _call_prctl(option, value) == 0


def open_pidfd(pid: int) -> int | None:
    """Open a descriptor that becomes readable when the process ends; None where there is none."""
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def has_ended(pid: int) -> bool:
    """Tell whether a child of ours has ended, also if nobody has taken its status yet."""
    pidfd = open_pidfd(pid)
    if pidfd is None:
        return not hasattr(os, "pidfd_open")
    try:
        return bool(select.select([pidfd], [], [], 0)[0])
    finally:
        os.close(pidfd)


def name_this_thread(name: str) -> None:
    """Give the calling thread its name for the operating system (15 bytes on Linux)."""
    _write_name(threading.get_native_id(), name)


def name_process(pid: int, name: str) -> None:
    """Name the main thread of this very process."""
    _write_name(pid, name)


def _write_name(native_id: int, name: str) -> None:
    with contextlib.suppress(OSError):
        fd = os.open(f"/proc/self/task/{native_id}/comm", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, name.encode()[:15])
        finally:
            os.close(fd)


def read_file(path: str) -> bytes:
    """Return a file of the kernel's: without the layers of a file object, which cost more than it.

    Raises:
        OSError: It cannot be read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    parts = []
    try:
        while part := os.read(fd, 65536):  # the kernel may give it page by page
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(fd)


def file_size_limit() -> int | None:
    """Return how large a file of this process may be, in bytes (``ulimit -f``); None: as it likes."""
    with contextlib.suppress(OSError):
        # Cheaper than to load ``resource``. Source: ``proc_pid_limits(5)``.
        for line in read_file("/proc/self/limits").splitlines():
            if line.startswith(b"Max file size"):
                soft = line.split()[3]
                return int(soft) if soft.isdigit() else None
    try:
        import resource
    except ImportError:  # not a Unix
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return None if limit == resource.RLIM_INFINITY else limit


def stacks_signal() -> int | None:
    """Return the signal that asks a worker for its stacks; None where there is no such signal."""
    return _real_time_signal(7)


def interrupt_signal() -> int | None:
    """Return the signal that has a worker raise in its task; None where there is no such signal."""
    return _real_time_signal(8)


def _real_time_signal(number: int) -> int | None:
    first = getattr(signal, "SIGRTMIN", None)
    return None if first is None else int(first) + number


def dump_signal() -> int | None:
    """Return the signal that lets a worker write its stacks into its black box, before it is killed."""
    return _real_time_signal(9)


def rusage_bytes(maxrss: int) -> int:
    """Turn the ``ru_maxrss`` of a process into bytes: most systems count it in 1024 bytes."""
    return maxrss if sys.platform == "darwin" else maxrss * 1024


def is_exiting(pid: int) -> bool:
    """Tell whether a process has ended or is about to; False too where that cannot be learnt.

    Source: ``proc_pid_stat(5)``; PF_EXITING of the kernel's ``sched.h`` is set before the descriptors of
    the process are closed.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except FileNotFoundError:
        return os.path.exists("/proc/self/stat")
    except OSError:
        return True
    return fields[0] in (b"Z", b"X") or bool(int(fields[6]) & 0x4)


def takes_signal(pid: int, number: int) -> bool:
    """Tell whether a process has a handler for a signal, which would end it otherwise.

    Not so while it starts, when it leaves, and after a task has replaced it by ``exec``. Source:
    ``proc_pid_status(5)``, SigCgt.
    """
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            for line in file:
                if line.startswith(b"SigCgt:"):
                    return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    except (OSError, ValueError, IndexError):
        return False
    return False
