"""Values on their way: pickled, in one piece or in a segment of shared memory.

Pickle protocol 5 with ``multiprocessing``'s own reducers, so that whatever travels through a stock
pool travels here. What plain pickle cannot do (lambdas, closures) goes by value with cloudpickle.
Buffers from ``OUT_OF_BAND_BYTES`` on, and pickles that are too long for a message, are written once
into a *segment* (an anonymous memory file, not bound by the size of ``/dev/shm``), whose descriptor
goes along with the message; the receiver maps it copy-on-write, so its view is writable and harms
nobody else's.

Layout of a segment: the pickle, then each buffer at the next multiple of 64; the *head* that travels
in the message is the number of parts, then their lengths, as 64-bit words.
"""

from __future__ import annotations

import errno
import mmap
import os
import pickle
import struct
import threading
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any

OUT_OF_BAND_BYTES = 64 * 1024
ALIGN = 64
PROTOCOL = 5

# What plain pickle raises for a value that only cloudpickle can take.
_NOT_BY_REFERENCE = (pickle.PicklingError, AttributeError, TypeError)


class Parcel:
    """A pickled value in a segment: ``head`` describes it, ``fd`` is the segment.

    The parcel owns the descriptor and closes it when it is dropped.
    """

    __slots__ = ("fd", "head", "size")

    def __init__(self, parts: list[Any]) -> None:
        lengths = [memoryview(part).nbytes for part in parts]
        self.head: bytes = struct.pack(f"<{len(parts) + 1}Q", len(parts), *lengths)
        self.size: int = sum(lengths)
        self.fd: int = _new_segment()
        try:
            _fill(self.fd, parts, lengths)
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return self.size

    def close(self) -> None:
        """Close the descriptor. The segment lives on while it is mapped."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        if getattr(self, "fd", -1) >= 0:
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
    """Rebuild a value from a segment; its buffers are views of the mapping, which they keep alive.

    Takes the descriptor over and closes it.
    """
    try:
        count, *lengths = struct.unpack(f"<{len(head) // 8}Q", head)
        total = _end(lengths)
        memory = mmap.mmap(fd, total, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    finally:
        os.close(fd)
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
