"""Values on their way: pickled, in one piece or in segments of shared memory.

Pickle protocol 5 with ``multiprocessing``'s own reducers, so that whatever travels through a stock
pool travels here. What plain pickle cannot do (lambdas, closures) goes by value with cloudpickle.
Buffers from ``OUT_OF_BAND_BYTES`` on, and pickles that are too long for a message, are written once
into a *segment* (``segments``), whose descriptor goes along with the message; the receiver maps it
copy-on-write, so its view is writable and harms nobody else's.

Segments cost descriptors, and mappings of them do, too (``mmap`` keeps one of its own until Python 3.13
lets it be). So a process keeps only so many (``most_open``, by the system's limit): beyond that, what is
to be sent waits in plain memory until its turn comes, and what has arrived is copied out.

The *head* travels in the message: 64-bit words, the first the number of parts (and above ``NUMBER_SHIFT``
a number by which the sender knows the segment), then for each part its length, and above
``WHERE_SHIFT`` where it is: in the sender's own segment (0), in a further one that other values share
(1, 2, ...), or behind these words (``IN_HEAD``). The first part is the pickle, the others are its buffers.
Own parts begin at multiples of 64, one after the other; a shared segment holds one part.
"""

from __future__ import annotations

import errno
import io
import mmap
import os
import pickle
import struct
import threading
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import TYPE_CHECKING, Any, NamedTuple

from glasspool.engines.local import interactive
from glasspool.engines.local.carried import bare
from glasspool.engines.local.segments import Claim, Hold, Mapping, Viewed, census
from glasspool.engines.local.segments import most_open as most_open

if TYPE_CHECKING:
    from glasspool.engines.local.recurring import Recurring

OUT_OF_BAND_BYTES = 64 * 1024
ALIGN = 64
PROTOCOL = 5

IN_BAND_BYTES = 112 * 1024
"""But one buffer of a value stays in the pickle up to this size: a message still has room for it."""

MOST_APART = 8192
"""Further buffers stay in the pickle: the head of a value has to fit into a message."""

IN_HEAD_BYTES = 8 * 1024
"""A shorter pickle travels in the head; its buffers then begin at the begin of a segment."""

WHERE_SHIFT = 56
NUMBER_SHIFT = 24
IN_HEAD = 0xFF
_LENGTH = (1 << WHERE_SHIFT) - 1
_COUNT = (1 << NUMBER_SHIFT) - 1

# What plain pickle raises for a value that only cloudpickle can take.
_NOT_BY_REFERENCE = (pickle.PicklingError, AttributeError, TypeError)


def is_full() -> bool:
    """Tell whether this process has as many segments open as it should."""
    return census.is_full()


def note_open(fd: int) -> None:
    """Count the descriptor of a segment that is kept for a while."""
    census.open.add(fd)


class Parcel:
    """A pickled value in segments: ``head`` describes it, ``fds`` are the segments.

    While this process has many segments, a new parcel keeps its parts in plain memory until ``open`` is
    called. ``shared`` are segments that hold one of the buffers each, and other values too perhaps.
    """

    __slots__ = ("_end", "_own", "_parts", "_sends", "head", "is_gone", "shared", "size")

    def __init__(
        self, pickled: list[Any], buffers: list[Any], shared: dict[int, Hold] | None = None
    ) -> None:
        self._own: Hold | None = None
        self.shared: list[Hold] = [] if shared is None else list(shared.values())
        self._sends = 0
        self.is_gone: bool = False  # the only receiver has no view of it any more
        self._parts: list[tuple[int, memoryview]] = []
        self._end = 0
        self.size: int = 0
        length = sum(_nbytes(part) for part in pickled)
        words = [1 + len(buffers)]
        behind = b""
        if length <= IN_HEAD_BYTES and buffers:
            behind = b"".join(pickled)
            words.append(length | IN_HEAD << WHERE_SHIFT)
        else:
            words.append(length)
            self._place(pickled)
        for index, buffer in enumerate(buffers):
            where = 0
            if shared is not None and index in shared:
                hold = shared[index]
                where = 1 + self.shared.index(hold)
                self.size += 0 if hold.is_counted else len(buffer)
                hold.is_counted = True
            else:
                self._place([buffer])
            words.append(len(buffer) | where << WHERE_SHIFT)
        self.head: bytes = struct.pack(f"<{len(words)}Q", *words) + behind
        self.size += len(behind)
        if self._parts and not self._is_opened():
            # Copied: some are views of the user's own memory, which may change.
            self._parts = [(at, memoryview(bytes(part))) for at, part in self._parts]

    @classmethod
    def of_memory(cls, head: bytes, own: memoryview | Hold | None, shared: list[Hold]) -> Parcel:
        """Make one of what came from another machine: the head, our own segment, shared ones.

        Raises:
            OSError: There is no room for our own segment.
        """
        made = cls.__new__(cls)
        made._own = own if isinstance(own, Hold) else None
        made.shared = shared
        made._sends = 0
        made.is_gone = False
        made._parts = [(0, own)] if isinstance(own, memoryview) else []
        made._end = own.nbytes if isinstance(own, memoryview) else 0
        made.size = sum(part_lengths(head))
        made.head = head
        if made._parts:
            made._is_opened()
        return made

    def _place(self, pieces: list[Any]) -> None:
        """Say where in our own segment the next part lies; its pieces are not joined."""
        at = _aligned(self._end)
        for piece in pieces:
            flat = memoryview(piece).cast("B")
            self._parts.append((at, flat))
            at += len(flat)
            self.size += len(flat)
        self._end = at

    def _is_opened(self) -> bool:
        if is_full():
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
    def fds(self) -> tuple[int, ...]:
        """The descriptors of the segments, of which our own is made if need be.

        Raises:
            OSError: There is no room for it, in memory or among the descriptors.
        """
        self.open()
        own = () if self._own is None else (self._own.segment.fd,)
        return (*own, *(hold.segment.fd for hold in self.shared))

    @property
    def own(self) -> Hold:
        """The use of our own segment, which the parcel keeps.

        Raises:
            ValueError: It has none.
        """
        if self._own is None:
            raise ValueError("the parcel has no segment of its own")
        return self._own

    def hand_over(self) -> tuple[int, ...]:
        """Return the descriptors, for one receiver more to map them.

        Raises:
            OSError: There is no room for a segment, in memory or among the descriptors.
        """
        self._sends += 1
        return self.fds

    def open(self) -> None:
        """Have the value in a segment. One thread at a time.

        Raises:
            OSError: There is no room for it, in memory or among the descriptors.
        """
        if not self._parts:
            return
        hold = Hold(self._end)
        hold.write(self._parts, self._end)
        self._own = hold
        self._parts = []

    def give_up(self) -> Hold:
        """Return the use of our own segment, which is the caller's from now on; the head stays.

        Raises:
            OSError: There is no room for it, in memory or among the descriptors.
        """
        self.open()
        hold, self._own = self._own, None
        if hold is None:
            raise ValueError("the parcel has no segment of its own, or has given it up")
        return hold

    def load(self) -> Any:
        """Rebuild the value here; its buffers are views of the segments, which are not used again.

        Raises:
            OSError: There is no room for a segment, in memory or among the descriptors.
        """
        head = read_head(self.head)
        return load_memories(head, view_segments(head, list(self.hand_over())))

    def pickled(self) -> bytes:
        """Return the pickle, for somebody who has only a look at it.

        Raises:
            OSError: There is no room for a segment, in memory or among the descriptors.
        """
        return bytes(first_part(self.head, self.fds[0]))

    def __del__(self) -> None:
        # One that was sent to several has views that nobody reported; nor has a dead worker reported.
        if getattr(self, "_sends", 0) and not (self.is_gone and self._sends == 1):
            for hold in (self._own, *self.shared):
                if hold is not None:
                    hold.clean = False


class _Apart:
    """The buffers of a value that do not travel in its pickle."""

    def __init__(self) -> None:
        self.buffers: list[pickle.PickleBuffer] = []
        self._may_keep = True  # one that could be set apart, but that a message has room for

    def keep(self, buffer: pickle.PickleBuffer) -> bool:
        """Tell pickle whether to copy a buffer into the stream; else note it as set apart."""
        try:
            size = buffer.raw().nbytes
        except BufferError:  # not contiguous: only the stream can take it
            return True
        if size < OUT_OF_BAND_BYTES or len(self.buffers) >= MOST_APART:
            return True
        if self._may_keep and size <= IN_BAND_BYTES:
            self._may_keep = False
            return True
        self.buffers.append(buffer)
        return False

    def clear(self) -> None:
        """Forget all, for the next value."""
        self.buffers.clear()
        self._may_keep = True


class Encoder:
    """Pickles values for the calling thread; the machinery of pickle is made once and reused."""

    def __init__(self, pickler: type[ForkingPickler] = ForkingPickler) -> None:
        self._parts: list[Any] = []
        self._apart = _Apart()
        self._pickler = pickler(_Sink(self._parts.append), PROTOCOL, True, self._apart.keep)

    def dump(self, value: Any, recurring: Recurring | None = None) -> bytes | Parcel:
        """Pickle a value with plain pickle."""
        self._parts.clear()
        self._apart.clear()
        self._pickler.dump(value)
        self._pickler.clear_memo()  # now: it keeps all parts of the value alive, large arrays too
        if len(self._parts) == 1 and not self._apart.buffers:
            return bytes(self._parts.pop())
        return _pack(value, self._parts, self._apart, recurring)


class _Sink:
    """The least file that a pickler takes."""

    __slots__ = ("write",)

    def __init__(self, write: Callable[[Any], object]) -> None:
        self.write = write


class _Encoders(threading.local):
    """One encoder per thread; None while it is in use, as pickling runs the user's code."""

    idle: Encoder | None = None


_encoders = _Encoders()


def dump(value: Any, recurring: Recurring | None = None) -> bytes | Parcel:
    """Pickle a value with plain pickle and ``multiprocessing``'s reducers.

    Buffers that ``recurring`` knows are not copied again.

    Raises:
        Exception: Whatever pickle or the value's own code raises.
    """
    if interactive.known:
        return Encoder(interactive.MindfulPickler).dump(value, recurring)
    encoder, _encoders.idle = _encoders.idle, None
    if encoder is None:
        encoder = Encoder()
    packed = encoder.dump(value, recurring)
    _encoders.idle = encoder  # after an error it is dropped: its state is unknown then
    return packed


def dump_by_value(value: Any, recurring: Recurring | None = None) -> bytes | Parcel:
    """Pickle a value with cloudpickle, which takes lambdas and closures along."""
    parts: list[Any] = []
    apart = _Apart()
    _dump_by_value(value, _Sink(parts.append), apart.keep)
    return _pack(value, parts, apart, recurring)


def _dump_by_value(value: Any, file: Any, keep: Callable[[Any], Any] | None = None) -> None:
    from glasspool.engines.local.by_value import ByValuePickler  # it loads cloudpickle

    ByValuePickler(file, PROTOCOL, buffer_callback=keep).dump(value)


def dump_any(value: Any, recurring: Recurring | None = None) -> tuple[bytes | Parcel, bool]:
    """Pickle a value, by value where plain pickle cannot; the flag says whether it did.

    Buffers that ``recurring`` knows are not copied again.

    Raises:
        Exception: What plain pickle raised, if neither can.
    """
    try:
        return dump(value, recurring), False
    except _NOT_BY_REFERENCE as error:
        try:
            return dump_by_value(value, recurring), True
        except Exception as other:
            if isinstance(error, interactive.Elsewhere):
                raise other from None  # it says why; the first one only that it was tried
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
    file = io.BytesIO()
    try:
        pickler = interactive.MindfulPickler if interactive.known else ForkingPickler
        pickler(file, PROTOCOL).dump(value)
    except _NOT_BY_REFERENCE:
        if not by_value:
            raise
        file = io.BytesIO()
        _dump_by_value(value, file)
    return file.getvalue()


def dump_plain(value: Any) -> bytes:
    """Pickle a value of built-in types in one piece."""
    return pickle.dumps(value, PROTOCOL)


def load(body: bytes | memoryview) -> Any:
    """Rebuild a value from one piece."""
    return pickle.loads(body)


class Head(NamedTuple):
    """What a head tells."""

    raw: bytes | memoryview
    number: int  # by which the sender knows its segment; 0: it does not want to know of it
    lengths: list[int]
    places: list[int]
    begin: int  # where that begins which lies in the head itself
    ends: list[int]  # of each segment


def read_head(head: bytes | memoryview) -> Head:
    """Read what the head of a parcel tells."""
    (first,) = _WORD.unpack_from(head)
    count = first & _COUNT
    words = struct.unpack_from(f"<{count}Q", head, 8)
    lengths = [word & _LENGTH for word in words]
    places = [word >> WHERE_SHIFT for word in words]
    # A shared segment is empty if nothing of it is used; our own one is not there then.
    own = [length for length, where in zip(lengths, places, strict=True) if where == 0]
    shared = {
        where: length
        for length, where in zip(lengths, places, strict=True)
        if where not in (0, IN_HEAD)
    }
    ends = [_end(own)] if own else []
    ends += [max(1, shared[where]) for where in sorted(shared)]
    return Head(head, first >> NUMBER_SHIFT, lengths, places, 8 * (count + 1), ends)


def numbered(head: bytes, number: int) -> bytes:
    """Return a head with the number by which its sender knows the segment."""
    (first,) = _WORD.unpack_from(head)
    return _WORD.pack(first & _COUNT | number << NUMBER_SHIFT) + head[8:]


def segment_number(head: bytes | memoryview) -> int:
    """Return the number by which the sender knows its segment; 0: it need not be told of it."""
    return int(_WORD.unpack_from(head)[0]) >> NUMBER_SHIFT


def load_segments(head: Head, fds: list[int], viewed: Viewed | None = None) -> Any:
    """Rebuild a value from segments; its buffers are views of memory, which they keep alive.

    Takes the descriptors over and closes them.
    """
    try:
        memories = view_segments(head, fds)
    finally:
        for fd in fds:
            os.close(fd)
    if viewed is not None:
        for memory in memories:
            if isinstance(memory, Mapping):
                viewed.add(memory)
    return load_memories(head, memories)


Memory = mmap.mmap | bytearray


def view_segments(head: Head, fds: list[int], claim: Claim | None = None) -> list[Memory]:
    """Return what is in segments: private mappings, or copies if there are many mappings."""
    return [
        census.map(fd, end, claim) or _copy_out(fd, end)
        for fd, end in zip(fds, head.ends, strict=True)
    ]


def copy_segments(head: Head, fds: list[int]) -> list[Memory]:
    """Return copies of what is in segments.

    Raises:
        OSError: It cannot be read, or is shorter than its head tells.
    """
    return [_copy_out(fd, end) for fd, end in zip(fds, head.ends, strict=True)]


def _copy_out(fd: int, total: int) -> bytearray:
    memory = bytearray(total)
    view = memoryview(memory)
    at = 0
    while at < total:
        count = os.preadv(fd, [view[at:]], at)
        if not count:
            raise OSError(errno.EIO, f"a segment of {total} bytes ends after {at}")
        at += count
    return memory


def load_memories(head: Head, memories: list[Memory]) -> Any:
    """Rebuild a value from what was in segments; its buffers are views of it."""
    views = [memoryview(memory) for memory in memories]
    if head.places[0] == IN_HEAD:
        views.append(memoryview(head.raw)[head.begin :])
    first_shared = 1 if 0 in head.places else 0
    parts: list[memoryview] = []
    at = 0
    for length, where in zip(head.lengths, head.places, strict=True):
        if where == 0:
            parts.append(views[0][at : at + length])
            at = _aligned(at + length)
        elif where == IN_HEAD:
            parts.append(views[-1][:length])
        else:
            parts.append(views[first_shared + where - 1][:length])
    return pickle.loads(parts[0], buffers=parts[1:])


def part_lengths(head: bytes) -> list[int]:
    """Return the lengths of the parts that a head describes: the pickle, then each buffer."""
    return read_head(head).lengths


def first_part(head: bytes, memory: Memory | int) -> bytes | memoryview:
    """Return the pickle, which is in the head or in a segment: its memory, or its descriptor."""
    known = read_head(head)
    length = known.lengths[0]
    if known.places[0] == IN_HEAD:
        return head[known.begin : known.begin + length]
    if isinstance(memory, int):
        return os.pread(memory, length, 0)
    return memoryview(memory)[:length]


def _pack(
    value: Any,
    parts: list[Any],
    apart: _Apart,
    recurring: Recurring | None,
) -> bytes | Parcel:
    from glasspool.engines.local.wire import INLINE_BYTES

    if not apart.buffers and sum(_nbytes(part) for part in parts) <= INLINE_BYTES:
        return b"".join(parts)
    raw = [buffer.raw() for buffer in apart.buffers]
    shared = None if recurring is None else recurring.find(value, raw)
    # Large bytes are parts of their own, written as they are and not joined with the others before.
    packed = Parcel(parts, raw, shared)
    parts.clear()
    apart.clear()
    return packed


_WORD = struct.Struct("<Q")


def _nbytes(part: Any) -> int:
    return memoryview(part).nbytes


def _aligned(at: int) -> int:
    return -(-at // ALIGN) * ALIGN


def _end(lengths: list[int]) -> int:
    at = 0
    end = 0
    for length in lengths:
        end = at + length
        at = _aligned(end)
    return max(end, 1)


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
        value = bare(value)
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
