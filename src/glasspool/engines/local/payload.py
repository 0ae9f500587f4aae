"""Values on their way: pickled, in one piece or in a segment of shared memory.

Pickle protocol 5 with ``multiprocessing``'s own reducers, so that whatever travels through a stock
pool travels here. What plain pickle cannot do (lambdas, closures) goes by value with cloudpickle.
Buffers from ``OUT_OF_BAND_BYTES`` on, and pickles that are too long for a message, are written once
into a *segment* (an anonymous memory file, not bound by the size of ``/dev/shm``), whose descriptor
goes along with the message; the receiver maps it copy-on-write, so its view is writable and harms
nobody else's.

Segments cost descriptors, and mappings of them do, too (``mmap`` keeps one of its own until Python 3.13
lets it be). So a process keeps only so many (``most_open``, by the system's limit): beyond that, what is
to be sent waits in plain memory until its turn comes, and what has arrived is copied out.

Layout of a segment: the pickle, then each buffer at the next multiple of 64; the *head* that travels
in the message is the number of parts, then their lengths, as 64-bit words.
"""

from __future__ import annotations

import errno
import mmap
import os
import pickle
import struct
import sys
import threading
import weakref
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any

OUT_OF_BAND_BYTES = 64 * 1024
ALIGN = 64
PROTOCOL = 5

MOST_OPEN = 256
"""No process keeps more descriptors of segments than this, nor more than an eighth of its limit."""

MOST_MAPPED = 8192
"""Nor more mappings, where these cost no descriptor: the kernel allows some 65,000 in all."""

# What plain pickle raises for a value that only cloudpickle can take.
_NOT_BY_REFERENCE = (pickle.PicklingError, AttributeError, TypeError)


class _Census:
    """The segments that this process holds. Safe from any thread: each step is one operation on a set."""

    def __init__(self) -> None:
        self.open: set[Any] = set()  # descriptors, and weak references to mappings that keep one
        self._untracked: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}
        self._mapped: set[Any] = set() if self._untracked else self.open

    def is_full(self) -> bool:
        """Tell whether no more descriptors should be opened for long."""
        return len(self.open) >= most_open()

    def map(self, fd: int, length: int) -> mmap.mmap | None:
        """Map a segment copy-on-write; None if there are enough mappings, or none is to be had."""
        if len(self._mapped) >= (MOST_MAPPED if self._untracked else most_open()):
            return None
        try:
            memory = mmap.mmap(
                fd,
                length,
                flags=mmap.MAP_PRIVATE,
                prot=mmap.PROT_READ | mmap.PROT_WRITE,
                **self._untracked,
            )
        except OSError:  # no descriptor for its duplicate, or too many mappings
            return None
        self._mapped.add(weakref.ref(memory, self._mapped.discard))
        return memory


def most_open() -> int:
    """Return how many descriptors this process may keep open for segments."""
    try:
        import resource
    except ImportError:  # not a Unix
        return MOST_OPEN
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_OPEN if limit < 0 else max(8, min(MOST_OPEN, limit // 8))


_census = _Census()


def is_full() -> bool:
    """Tell whether this process has as many segments open as it should."""
    return _census.is_full()


def note_open(fd: int) -> None:
    """Count the descriptor of a segment that is kept for a while."""
    _census.open.add(fd)


def close_noted(fd: int) -> None:
    """Close the descriptor of a segment that was counted."""
    _census.open.discard(fd)  # first: the number may be used again at once
    os.close(fd)


class Parcel:
    """A pickled value in a segment: ``head`` describes it, ``fd`` is the segment.

    The parcel owns the descriptor and closes it when it is dropped. While this process has many
    segments, a new parcel keeps its parts in plain memory until ``open`` is called.
    """

    __slots__ = ("_fd", "_parts", "head", "size")

    def __init__(self, parts: list[Any]) -> None:
        self._fd = -1
        lengths = [memoryview(part).nbytes for part in parts]
        self.head: bytes = struct.pack(f"<{len(parts) + 1}Q", len(parts), *lengths)
        self.size: int = sum(lengths)
        self._parts: list[Any] = parts
        if not self._is_opened():
            # Copied: some are views of the user's own memory, which may change.
            self._parts = [bytes(memoryview(part).cast("B")) for part in parts]

    def _is_opened(self) -> bool:
        if _census.is_full():
            return False
        try:
            self.open()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            return False
        return True

    def __len__(self) -> int:
        return self.size

    @property
    def fd(self) -> int:
        """The descriptor of the segment, which is made if need be.

        Raises:
            OSError: There is no room for it, in memory or among the descriptors.
        """
        self.open()
        return self._fd

    def open(self) -> None:
        """Have the value in a segment. One thread at a time.

        Raises:
            OSError: There is no room for it, in memory or among the descriptors.
        """
        if self._fd >= 0 or not self._parts:
            return
        self._fd = fd = _new_segment()
        note_open(fd)
        try:
            _fill(fd, self._parts, [memoryview(part).nbytes for part in self._parts])
        except BaseException:
            self.close()
            raise
        self._parts = []

    def close(self) -> None:
        """Close the descriptor. The segment lives on while it is mapped."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            close_noted(fd)

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            self.close()


class Encoder:
    """Pickles values for the calling thread; the machinery of pickle is made once and reused."""

    def __init__(self) -> None:
        self._parts: list[Any] = []
        self._buffers: list[pickle.PickleBuffer] = []
        self._pickler = ForkingPickler(_Sink(self._parts.append), PROTOCOL, True, self._keep)

    def dump(self, value: Any) -> bytes | Parcel:
        """Pickle a value with plain pickle."""
        self._parts.clear()
        self._buffers.clear()
        self._pickler.clear_memo()
        self._pickler.dump(value)
        if len(self._parts) == 1 and not self._buffers:
            return bytes(self._parts.pop())
        return _pack(self._parts, self._buffers)

    def _keep(self, buffer: pickle.PickleBuffer) -> bool:
        return _keep_in_band(buffer, self._buffers)


class _Sink:
    """The least file that a pickler takes."""

    __slots__ = ("write",)

    def __init__(self, write: Callable[[Any], object]) -> None:
        self.write = write


class _Encoders(threading.local):
    """One encoder per thread; None while it is in use, as pickling runs the user's code."""

    idle: Encoder | None = None


_encoders = _Encoders()


def dump(value: Any) -> bytes | Parcel:
    """Pickle a value with plain pickle and ``multiprocessing``'s reducers.

    Raises:
        Exception: Whatever pickle or the value's own code raises.
    """
    encoder, _encoders.idle = _encoders.idle, None
    if encoder is None:
        encoder = Encoder()
    packed = encoder.dump(value)
    _encoders.idle = encoder  # after an error it is dropped: its state is unknown then
    return packed


def dump_by_value(value: Any) -> bytes | Parcel:
    """Pickle a value with cloudpickle, which takes lambdas and closures along."""
    import cloudpickle

    parts: list[Any] = []
    buffers: list[pickle.PickleBuffer] = []
    pickler = cloudpickle.Pickler(
        _Sink(parts.append), PROTOCOL, buffer_callback=lambda b: _keep_in_band(b, buffers)
    )
    reducers: dict[type, Any] = ForkingPickler._extra_reducers  # type: ignore[attr-defined]
    pickler.dispatch_table = pickler.dispatch_table.new_child(reducers)
    pickler.dump(value)
    return _pack(parts, buffers)


def dump_any(value: Any) -> tuple[bytes | Parcel, bool]:
    """Pickle a value, by value where plain pickle cannot; the flag says whether it did.

    Raises:
        Exception: What plain pickle raised, if neither can.
    """
    try:
        return dump(value), False
    except _NOT_BY_REFERENCE as error:
        try:
            return dump_by_value(value), True
        except Exception:
            raise error from None


def was_interrupted(value: Any) -> bool:
    """Tell, after an error, whether the value can be pickled after all.

    Then a signal handler of the program raised in the middle of it (they run on the main thread), and
    its exception is for the caller, not a fault of the value.
    """
    if threading.current_thread() is not threading.main_thread():
        return False
    try:
        dump_any(value)
    except Exception:
        return False
    return True


def dump_in_one_piece(value: Any, by_value: bool) -> bytes:
    """Pickle a value, of any size, into bytes; by value where plain pickle cannot and it may be.

    Raises:
        Exception: It cannot be pickled.
    """
    try:
        return bytes(ForkingPickler.dumps(value, PROTOCOL))
    except _NOT_BY_REFERENCE:
        if not by_value:
            raise
        import cloudpickle

        return bytes(cloudpickle.dumps(value, PROTOCOL))


def dump_plain(value: Any) -> bytes:
    """Pickle a value of built-in types in one piece."""
    return pickle.dumps(value, PROTOCOL)


def load(body: bytes | memoryview) -> Any:
    """Rebuild a value from one piece."""
    return pickle.loads(body)


def load_segment(head: bytes | memoryview, fd: int) -> Any:
    """Rebuild a value from a segment; its buffers are views of memory, which they keep alive.

    Takes the descriptor over and closes it.
    """
    try:
        memory = view_segment(head, fd)
    finally:
        os.close(fd)
    return load_memory(head, memory)


def view_segment(head: bytes | memoryview, fd: int) -> mmap.mmap | bytearray:
    """Return what is in a segment: a private mapping, or a copy if there are many mappings."""
    total = _end(list(struct.unpack(f"<{len(head) // 8}Q", head)[1:]))
    return _census.map(fd, total) or copy_segment(head, fd)


def copy_segment(head: bytes | memoryview, fd: int) -> bytearray:
    """Return a copy of what is in a segment.

    Raises:
        OSError: It cannot be read, or is shorter than its head tells.
    """
    total = _end(list(struct.unpack(f"<{len(head) // 8}Q", head)[1:]))
    memory = bytearray(total)
    view = memoryview(memory)
    at = 0
    while at < total:
        count = os.preadv(fd, [view[at:]], at)
        if not count:
            raise OSError(errno.EIO, f"a segment of {total} bytes ends after {at}")
        at += count
    return memory


def load_memory(head: bytes | memoryview, memory: mmap.mmap | bytearray) -> Any:
    """Rebuild a value from what was in a segment; its buffers are views of it."""
    count, *lengths = struct.unpack(f"<{len(head) // 8}Q", head)
    view = memoryview(memory)
    parts: list[memoryview] = []
    at = 0
    for length in lengths[:count]:
        parts.append(view[at : at + length])
        at = _aligned(at + length)
    return pickle.loads(parts[0], buffers=parts[1:])


def segment_lengths(head: bytes) -> list[int]:
    """Return the lengths of the parts that a head describes: the pickle, then each buffer."""
    count, *lengths = struct.unpack(f"<{len(head) // 8}Q", head)
    return lengths[:count]


def _keep_in_band(buffer: pickle.PickleBuffer, apart: list[pickle.PickleBuffer]) -> bool:
    """Tell pickle whether to copy the buffer into the stream; else note it as set apart."""
    try:
        if buffer.raw().nbytes < OUT_OF_BAND_BYTES:
            return True
    except BufferError:  # not contiguous: only the stream can take it
        return True
    apart.append(buffer)
    return False


def _pack(parts: list[Any], buffers: list[pickle.PickleBuffer]) -> bytes | Parcel:
    from glasspool.engines.local.wire import INLINE_BYTES

    if not buffers and sum(len(part) for part in parts) <= INLINE_BYTES:
        return b"".join(parts)
    joined = parts[0] if len(parts) == 1 else b"".join(parts)
    packed = Parcel([joined, *(buffer.raw() for buffer in buffers)])
    parts.clear()
    buffers.clear()
    return packed


def _aligned(at: int) -> int:
    return -(-at // ALIGN) * ALIGN


def _end(lengths: list[int]) -> int:
    at = 0
    end = 0
    for length in lengths:
        end = at + length
        at = _aligned(end)
    return max(end, 1)


def _new_segment() -> int:
    """Make an anonymous file in memory; where there is none, a file without a name.

    Raises:
        OSError: Neither can be had.
    """
    if hasattr(os, "memfd_create"):
        try:
            return os.memfd_create("glasspool", os.MFD_CLOEXEC)
        except OSError as error:
            # A sandbox forbids the call (seccomp), or the kernel does not know it.
            if error.errno not in (errno.ENOSYS, errno.EPERM, errno.EACCES):
                raise
    import tempfile

    folder = "/dev/shm" if os.access("/dev/shm", os.W_OK | os.X_OK) else None
    with tempfile.TemporaryFile(buffering=0, dir=folder) as file:
        return os.dup(file.fileno())


def _fill(fd: int, parts: list[Any], lengths: list[int]) -> None:
    # Written, not mapped: faster into fresh memory, and a full tmpfs is an error, not SIGBUS.
    os.ftruncate(fd, _end(lengths))
    at = 0
    for part, length in zip(parts, lengths, strict=True):
        _write_all(fd, memoryview(part).cast("B"), at)
        at = _aligned(at + length)


def _write_all(fd: int, data: memoryview, at: int) -> None:
    while data:
        written = os.pwrite(fd, data, at)
        data = data[written:]
        at += written


def is_by_reference(value: Any) -> bool:
    """Tell whether pickle would name the callable (``module.name``) and not copy it.

    Such a callable has no state of its own that a task could change, so a worker may keep it.
    """
    import types

    if isinstance(value, types.FunctionType | type):
        return True
    if isinstance(value, types.BuiltinFunctionType):
        owner = value.__self__
        return owner is None or isinstance(owner, types.ModuleType)
    return False


def callable_name(value: Any) -> str:
    """Return a short name for views, from built-in attributes only: no user's ``__repr__``."""
    import functools

    for _ in range(4):
        if not isinstance(value, functools.partial):
            break
        value = value.func
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
    if not isinstance(name, str):
        name = type(value).__qualname__
    module = getattr(value, "__module__", None)
    if isinstance(module, str) and module not in ("builtins", "__main__", "__mp_main__"):
        return f"{module}.{name}"
    return name
