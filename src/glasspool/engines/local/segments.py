"""Segments: anonymous files in memory, how many of them a process has, and which are used again.

A segment is made and written by one process, its *owner*, and mapped copy-on-write by others, whose views
of it must never change. Fresh memory costs three times what a copy into memory that is there already
costs, so the owner uses a segment again, but only when it knows that no view of it lives anywhere: a
private mapping shows later writes in all pages that were not written to by its own process.

*Use* of a segment by its owner is a ``Hold``; values share one where they share a buffer. When the last
reference to a hold goes, its segment lies on the owner's shelf if the hold is *clean*, else it is
closed. Clean means that every process to which it was sent has said that its mapping is gone, and that
it made no fork while it had one (``forks``): a child inherits the mapping and tells nobody.

``Hold.__del__`` and ``Claim.__del__`` run wherever a reference is dropped, in a signal handler too. So they
wait for nothing: the shelf has a lock that is only ever tried, and what does not come to it is closed.

A process keeps segments only while it works for a pool (``Kept.begin``). A fork begins with an empty
shelf: what its parent had there is the parent's.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
import threading
import weakref
from collections import deque
from typing import Any

from glasspool.engines.local.shelf import Shelf

MOST_OPEN = 256
"""No process keeps more descriptors of segments than this, nor more than an eighth of its limit."""

MOST_MAPPED = 8192
"""Nor more mappings, where these cost no descriptor: the kernel allows some 65,000 in all."""

MOST_IDLE = 4
"""A process keeps so many segments at most that nobody uses (and as many that the pool views)."""

IDLE_BYTES = 256 * 1024 * 1024
"""And so many bytes of them, but never more than 1/64 of the machine's memory."""

PATIENCE = 64
"""A segment is closed when so many others were asked for since it was last used."""

STEP_BYTES = 1024 * 1024
"""What is copied at a stretch: other threads may run in between."""


# Linux 5.14. It maps 16 pages at a time for writing too, where the first write to each would map one: 2 ms
# and not 20 ms for 64 MB.
_POPULATE_READ: int = getattr(mmap, "MADV_POPULATE_READ", 22)


class Census:
    """The segments that this process holds. Safe from any thread: each step is one operation on a set."""

    def __init__(self) -> None:
        self.open: set[Any] = set()  # descriptors, and weak references to mappings that keep one
        self._untracked: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}
        self._mapped: set[Any] = set() if self._untracked else self.open

    def is_full(self) -> bool:
        """Tell whether no more descriptors should be opened for long."""
        return len(self.open) >= most_open()

    def map(self, fd: int, length: int, claim: Claim | None = None) -> Mapping | None:
        """Map a segment copy-on-write; None if there are enough mappings, or none is to be had."""
        if len(self._mapped) >= (MOST_MAPPED if self._untracked else most_open()):
            return None
        try:
            memory = Mapping(
                fd,
                length,
                flags=mmap.MAP_PRIVATE,
                prot=mmap.PROT_READ | mmap.PROT_WRITE,
                **self._untracked,
            )
        except OSError:  # no descriptor for its duplicate, or too many mappings
            return None
        memory.claim = claim
        self._mapped.add(weakref.ref(memory, self._mapped.discard))
        return memory

    def map_shared(self, fd: int, length: int) -> mmap.mmap | None:
        """Map a segment for its owner to write to; None if that is not to be had."""
        if self.is_full():
            return None
        try:
            memory = mmap.mmap(fd, length, **self._untracked)
        except (OSError, ValueError):
            return None
        with contextlib.suppress(OSError, ValueError):  # an older kernel: page by page, then
            memory.madvise(_POPULATE_READ)
        self._mapped.add(weakref.ref(memory, self._mapped.discard))
        return memory


class Mapping(mmap.mmap):
    """A private mapping of a segment. It lives as long as a view of it; so does its claim."""

    claim: Claim | None = None


def most_open() -> int:
    """Return how many descriptors this process may keep open for segments."""
    try:
        import resource
    except ImportError:  # not a Unix
        return MOST_OPEN
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_OPEN if limit < 0 else max(8, min(MOST_OPEN, limit // 8))


def idle_bytes() -> int:
    """Return how much memory of segments this process may keep that nobody uses."""
    try:
        return min(IDLE_BYTES, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 64)
    except (AttributeError, ValueError, OSError):
        return IDLE_BYTES // 4


class Segment:
    """A file in memory with room for ``capacity`` bytes, all of them backed by memory.

    Raises:
        OSError: There is no descriptor for it.
    """

    def __init__(self) -> None:
        self.fd: int = new_file()
        self.capacity: int = 0
        self._memory: mmap.mmap | None = None
        census.open.add(self.fd)

    def write(self, places: list[tuple[int, memoryview]], end: int) -> None:
        """Write parts, each at its place, up to ``end``.

        What is there already is copied through a mapping; what is new is written to the file, which
        into fresh memory is faster, and an error if there is no memory, and not SIGBUS.

        Raises:
            OSError: There is no room for it.
        """
        if end > self.capacity:
            os.ftruncate(self.fd, end)
        for at, part in places:
            if at + len(part) <= self.capacity and self._map():
                _copy(self._memory, at, part)
            else:
                _write_all(self.fd, part, at)
        if end > self.capacity:
            self._unmap()
            self.capacity = end

    def _map(self) -> bool:
        if self._memory is None:
            self._memory = census.map_shared(self.fd, self.capacity)
        return self._memory is not None

    def _unmap(self) -> None:
        memory, self._memory = self._memory, None
        if memory is not None:
            memory.close()

    def close(self) -> None:
        """Close the descriptor. The memory lives on while somebody maps it."""
        self._unmap()
        fd, self.fd = self.fd, -1
        if fd >= 0:
            close_noted(fd)

    def __del__(self) -> None:
        # A signal handler raised while it was on its way to or from the shelf.
        if getattr(self, "fd", -1) >= 0:
            self.close()


def _copy(memory: Any, at: int, part: memoryview) -> None:
    for start in range(0, len(part), STEP_BYTES):
        piece = part[start : start + STEP_BYTES]
        memory[at + start : at + start + len(piece)] = piece


def _write_all(fd: int, part: memoryview, at: int) -> None:
    while part:
        written = os.pwrite(fd, part, at)
        part = part[written:]
        at += written


class Hold:
    """The use of a segment by its owner; see the top of the file."""

    __slots__ = ("__weakref__", "_era", "clean", "is_counted", "segment")

    def __init__(self, size: int) -> None:
        self.clean: bool = True
        self.is_counted: bool = False  # in the size of the first value that has a part of it
        self._era = kept.era
        self.segment: Segment = kept.take(size) or Segment()

    def write(self, places: list[tuple[int, memoryview]], end: int) -> None:
        """Write to the segment, as ``Segment.write``; after an error it is closed.

        Raises:
            OSError: There is no room for it.
        """
        try:
            self.segment.write(places, end)
        except BaseException:  # whose traceback keeps this alive
            self.clean = False
            self.segment.close()
            raise

    def __del__(self) -> None:
        segment = getattr(self, "segment", None)
        if segment is None:  # there was no descriptor for it
            return
        if not (self.clean and self._era == kept.era and kept.put(segment)):
            segment.close()


class Claim:
    """The views that this process has of another one's segment, all together.

    When the last one goes, the number of the segment is put down for its owner to be told; negative
    if it must not be used again.
    """

    __slots__ = ("_era", "_forks", "_number", "_returned")

    def __init__(self, number: int, returned: deque[int]) -> None:
        self._number = number
        self._returned = returned
        self._forks = forks.count
        self._era = kept.era

    def __del__(self) -> None:
        if self._era == kept.era:  # else this is a fork, which does not speak for its parent
            is_clean = self._forks == forks.count
            self._returned.append(self._number if is_clean else -self._number)


class Viewed:
    """The mappings of the arguments of one task, to be asked when the task has ended."""

    __slots__ = ("_forks", "_mappings")

    def __init__(self) -> None:
        self._forks = forks.count
        self._mappings: list[weakref.ref[Mapping]] = []

    def add(self, memory: Mapping) -> None:
        """Note one more mapping."""
        self._mappings.append(weakref.ref(memory))

    def is_over(self) -> bool:
        """Tell whether nobody has a view of them any more, here or in a fork of this process."""
        if self._forks != forks.count:
            return False
        return all(reference() is None for reference in self._mappings)


class Kept:
    """The segments that this process owns and nobody uses at the moment."""

    def __init__(self) -> None:
        self.era: int = 0  # how many forks there are between this process and the first one
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._shelf: Shelf[Segment] = Shelf(MOST_IDLE, idle_bytes(), PATIENCE)
        self._users: set[Any] = set()

    @property
    def is_on(self) -> bool:
        """Whether this process works for a pool."""
        return bool(self._users)

    def begin(self, user: object) -> None:
        """Keep segments from now on: this process works for a pool."""
        self._users.add(user)

    def end(self, user: object) -> None:
        """Keep none any more, if nobody else does."""
        self._users.discard(user)
        # A limit: in the thread that has it, a signal handler may be waiting for us.
        if not self._users and self._lock.acquire(timeout=1.0):
            try:
                _close_all(self._shelf.clear())
            finally:
                self._lock.release()

    def take(self, size: int) -> Segment | None:
        """Return a segment to be used again; None if there is none that fits."""
        if not self._users or not self._lock.acquire(False):
            return None
        try:
            return self._shelf.take(size)
        finally:
            self._lock.release()

    def put(self, segment: Segment) -> bool:
        """Keep a segment; False if it is not wanted."""
        if not self._users or census.is_full() or not self._lock.acquire(False):
            return False
        try:
            gone = self._shelf.put(segment, segment.capacity)
        finally:
            self._lock.release()
        _close_all(gone)
        return True

    def forget(self) -> None:
        """Close our copies of what is the parent's (in a fork)."""
        self.era += 1
        shelf = self._shelf
        self._reset()
        _close_all(shelf.clear())


class Lent:
    """Segments of ours that the pool views, and that it will return: by number, the oldest first.

    Few are remembered. One that is returned after it was forgotten is nobody's any more.
    """

    def __init__(self) -> None:
        self._holds: dict[int, Hold] = {}
        self._last = 0

    def add(self, hold: Hold) -> int:
        """Remember a segment that is about to be sent; return its number, 0 if it will not be used again."""
        hold.clean = False  # until it is returned
        limit = idle_bytes()
        if not kept.is_on or census.is_full() or hold.segment.capacity > limit:
            return 0
        self._last += 1
        self._holds[self._last] = hold
        total = sum(each.segment.capacity for each in self._holds.values())
        while len(self._holds) > MOST_IDLE or total > limit:
            total -= self._holds.pop(next(iter(self._holds))).segment.capacity
        return self._last

    def take_back(self, number: int, usable: bool) -> None:
        """Take a segment back that nobody views any more."""
        hold = self._holds.pop(number, None)
        if hold is not None:
            hold.clean = usable


def _close_all(segments: list[Segment]) -> None:
    for segment in segments:
        segment.close()


class _Forks:
    """How often this process was about to be forked, or was."""

    count: int = 0

    def note(self) -> None:
        self.count += 1


def close_noted(fd: int) -> None:
    """Close the descriptor of a segment that was counted."""
    census.open.discard(fd)  # first: the number may be used again at once
    os.close(fd)


def new_file() -> int:
    """Make an anonymous file in memory; where there is none, a file without a name.

    Raises:
        OSError: Neither can be had.
    """
    if hasattr(os, "memfd_create"):
        try:
            return os.memfd_create("glasspool", os.MFD_CLOEXEC)
        except OSError as error:
            import errno

            # A sandbox forbids the call (seccomp), or the kernel does not know it.
            if error.errno not in (errno.ENOSYS, errno.EPERM, errno.EACCES):
                raise
    import tempfile

    folder = "/dev/shm" if os.access("/dev/shm", os.W_OK | os.X_OK) else None
    with tempfile.TemporaryFile(buffering=0, dir=folder) as file:
        return os.dup(file.fileno())


census: Census = Census()
forks: _Forks = _Forks()
kept: Kept = Kept()

if hasattr(os, "register_at_fork"):
    # Noted twice: a mapping that is made between the first note and the fork is inherited as well.
    os.register_at_fork(before=forks.note, after_in_parent=forks.note, after_in_child=kept.forget)
