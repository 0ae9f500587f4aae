"""In which file the first function of each thread of a process lies: that is who made the thread.

Read from outside, without stopping anything. The C library keeps a record of each thread at the top of
the thread's stack, and in it the thread's number and the function that it was started with, which it never
changes: OpenBLAS's threads begin in OpenBLAS, Python's in the interpreter. It takes the right to trace the
process (``ptrace(2)``, PTRACE_MODE_ATTACH), as py-spy does.

Known for glibc on x86-64; elsewhere nothing is told. Sources: glibc's ``nptl/descr.h`` (``struct pthread``:
header, tid, start_routine, arg) and ``sysdeps/x86_64/nptl/tls.h`` (``tcbhead_t``: tcb at 0 and self at 16
point to the record itself); ``proc_pid_maps(5)``, ``proc_pid_mem(5)``, ``proc_pid_syscall(5)``.
"""

from __future__ import annotations

import bisect
import contextlib
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_PAGE = 4096
_RECORD_BYTES = 2304
_TID_AT = 720
_SELF_AT = 16
_ALIGNED = 64
_ABOVE_SP_BYTES = 64 * 1024
_STACK_MIN_BYTES = 16 * 1024
_STD_THREADS = ("libstdc++.so", "libc++.so")


@dataclass(frozen=True, slots=True)
class Mapping:
    """One line of a process's map of memory. ``file`` is empty for memory that no file backs."""

    begin: int
    end: int
    rights: str
    file: str


def mappings(pid: int) -> tuple[Mapping, ...]:
    """List the mappings of a process, in order; none where they may not be read."""
    try:
        with open(f"/proc/{pid}/maps", "rb") as listing:
            return tuple(map(_mapping, listing))
    except OSError:
        return ()  # ended, protected, or a system without /proc


def is_known_layout() -> bool:
    """Tell whether threads of this system's C library keep records that can be read here."""
    if not hasattr(os, "uname") or os.uname().machine != "x86_64":
        return False
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (ValueError, OSError):  # another C library does not know the name
        return False


def start_files(pid: int, tids: Iterable[int]) -> dict[int, str]:
    """Tell in which file the first function of each of some threads lies.

    Threads of which that cannot be told are left out: the main thread, any in a process that may not be
    read, and one that ended meanwhile.
    """
    wanted = set(tids) - {pid}
    if not wanted or not is_known_layout():
        return {}
    try:
        memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return {}
    inside = numbers_inside(pid, wanted)
    try:
        found = _Reader(pid, memory).starts(set(inside))
        return {inside[number]: file for number, file in found.items()}
    finally:
        os.close(memory)


def numbers_inside(pid: int, tids: Iterable[int]) -> dict[int, int]:
    """Return, by the number that a thread has for its own process, the one that it has for us.

    They differ where the process lives in a container and we look from the machine. Source:
    ``proc_pid_status(5)``, NSpid.
    """
    if b" " not in _numbers(f"/proc/{pid}/status"):
        return {tid: tid for tid in tids}
    told = {tid: _numbers(f"/proc/{pid}/task/{tid}/status") for tid in tids}
    return {int(numbers.split()[-1]): tid for tid, numbers in told.items() if numbers}


def _numbers(file: str) -> bytes:
    try:
        with open(file, "rb") as status:
            _, _, rest = status.read(4096).partition(b"\nNSpid:")
    except OSError:
        return b""  # ended, or a system without /proc
    return b" ".join(rest.partition(b"\n")[0].split())


class _Reader:
    """One walk over the stacks of a process. The process runs on: what is read may be gone already."""

    def __init__(self, pid: int, memory: int) -> None:
        self._pid = pid
        self._memory = memory
        self._maps = mappings(pid)
        self._begins = [one.begin for one in self._maps]

    def starts(self, wanted: set[int]) -> dict[int, str]:
        found: dict[int, str] = {}
        for tid, record in self._records(wanted):
            file = self._start_file(record)
            if file is not None:
                found[tid] = file
        return found

    def _records(self, wanted: set[int]) -> Iterator[tuple[int, bytes]]:
        missing = set(wanted)
        # The record is the last thing in a stack, and a guard page keeps stacks apart.
        for one in self._maps:
            if not missing:
                return
            if one.file or one.rights[:2] != "rw" or one.end - one.begin < _STACK_MIN_BYTES:
                continue
            for tid, record in self._in(one.end - _PAGE, _PAGE):
                if tid in missing:
                    missing.discard(tid)
                    yield tid, record
        # Newer systems may show several stacks as one mapping. A thread that sleeps tells where it is.
        for tid in sorted(missing):
            stack = self._stack_pointer(tid)
            if stack is not None:
                yield from ((t, r) for t, r in self._in(stack, _ABOVE_SP_BYTES) if t == tid)

    def _in(self, begin: int, size: int) -> Iterator[tuple[int, bytes]]:
        """Find the records of threads in a piece of memory: each points to itself, twice."""
        begin &= -_ALIGNED
        piece = self._read(begin, size)
        for at in range(0, len(piece) - _RECORD_BYTES + 1, _ALIGNED):
            own = struct.pack("<Q", begin + at)
            if piece.startswith(own, at) and piece.startswith(own, at + _SELF_AT):
                record = piece[at : at + _RECORD_BYTES]
                yield struct.unpack_from("<I", record, _TID_AT)[0], record

    def _start_file(self, record: bytes) -> str | None:
        words = struct.unpack(f"<{len(record) // 8}Q", record)
        for at in range(_TID_AT // 8, len(words) - 1):
            place = self._place(words[at])
            if place is None or "x" not in place.rights or not place.file.startswith("/"):
                continue
            if os.path.basename(place.file).startswith(_STD_THREADS):
                # ``std::thread`` begins in the C++ library. Its argument is an object, whose first word
                # points into the library that has its class.
                return self._class_file(words[at + 1]) or place.file
            return place.file
        return None

    def _class_file(self, thing: int) -> str | None:
        word = self._read(thing, 8)
        place = self._place(struct.unpack("<Q", word)[0]) if len(word) == 8 else None
        return place.file if place is not None and place.file.startswith("/") else None

    def _place(self, address: int) -> Mapping | None:
        index = bisect.bisect_right(self._begins, address) - 1
        if index < 0 or address >= self._maps[index].end:
            return None
        return self._maps[index]

    def _stack_pointer(self, tid: int) -> int | None:
        with contextlib.suppress(OSError, ValueError, IndexError):  # it ended, or it runs
            with open(f"/proc/{self._pid}/task/{tid}/syscall", "rb") as file:
                return int(file.read(256).split()[-2], 16)
        return None

    def _read(self, address: int, size: int) -> bytes:
        try:
            return os.pread(self._memory, size, address)
        except (OSError, OverflowError):
            return b""  # unmapped meanwhile, or the process ended


def _mapping(line: bytes) -> Mapping:
    fields = line.split(None, 5)
    begin, _, end = fields[0].partition(b"-")
    file = fields[5].rstrip(b"\n").decode(errors="replace") if len(fields) > 5 else ""
    return Mapping(
        int(begin, 16), int(end, 16), fields[1].decode(), file.removesuffix(" (deleted)")
    )
