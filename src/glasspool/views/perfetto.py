"""Write the binary format of Perfetto's timeline viewer: packets of track events, a few bytes at a time.

It knows processes, threads, tracks, slices, instants, counters and flows, and nothing of pools. The format
is Protocol Buffers' ``perfetto.protos.Trace``, whose field numbers stand here as they do in Perfetto's
repository under ``protos/perfetto/``: ``common/trace_stats.proto``, ``common/builtin_clock.proto``,
``trace/trace.proto``, ``trace/trace_packet.proto``, ``trace/clock_snapshot.proto``,
``trace/trace_packet_defaults.proto``, ``trace/interned_data/interned_data.proto``, and in ``trace/``
``track_event/``: ``track_event.proto``, ``track_descriptor.proto``, ``process_descriptor.proto``,
``thread_descriptor.proto``, ``counter_descriptor.proto`` and ``debug_annotation.proto``. How the messages are
to be combined is told by Perfetto's documentation, "Writing TrackEvent protos synthetically".

All packets are of one sequence. Names of slices, categories and annotations are interned: written once, and
then told by number. Events may be written in any order but one: on one track, those of the same nanosecond
keep the order in which they were written.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final, TypeAlias

Value: TypeAlias = bool | int | float | str
Annotations: TypeAlias = Iterable[tuple[str, Value]]

CHUNK_BYTES: Final = 1 << 18
"""When so much has been written, it is time to take it away."""

MOST_NAMES: Final = 20_000
"""So many names are interned; further ones stand in each event, so that the table cannot grow for ever."""

MOST_TEXT: Final = 4_000
"""Longer texts are cut, at so many characters."""

COUNT, BYTES = 2, 3
"""Units of counters: CounterDescriptor.UNIT_COUNT and UNIT_SIZE_BYTES."""

_REALTIME, _MONOTONIC = (
    1,
    3,
)  # builtin_clock.proto: what time.time_ns() and time.monotonic_ns() read
_BEGIN, _END, _INSTANT, _COUNTER = 1, 2, 3, 4  # TrackEvent.Type
_CLEARED, _NEEDED = 1, 2  # TracePacket.SequenceFlags
_BY_RANK = 3  # TrackDescriptor.ChildTracksOrdering.EXPLICIT
_APART = 2  # TrackDescriptor.SIBLING_MERGE_BEHAVIOR_NONE
_U64 = (1 << 64) - 1

# Numbers of up to 14 bits as they are, and 14 bits of a longer one: a million tasks are ten million packets,
# and a loop for each byte of each number would be most of the time that they take.
_SHORT: Final = [
    bytes((n,)) if n < 128 else bytes((0x80 | n & 0x7F, n >> 7)) for n in range(1 << 14)
]
_MORE: Final = [bytes((0x80 | n & 0x7F, 0x80 | n >> 7)) for n in range(1 << 14)]
_DOUBLE = struct.Struct("<d").pack
_FIXED64 = struct.Struct("<Q").pack


def varint(value: int) -> bytes:
    """Encode a number as Protocol Buffers do; a negative one as its 64-bit complement."""
    if value < 0:
        value &= _U64
    if value < 16384:
        return _SHORT[value]
    encoded = b""
    while value >= 16384:
        encoded += _MORE[value & 0x3FFF]
        value >>= 14
    return encoded + _SHORT[value]


def _number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(value)) + value


def _text(field: int, value: str) -> bytes:
    if len(value) > MOST_TEXT:
        value = value[: MOST_TEXT - 1] + "…"
    # Names of the user's may hold halves of surrogate pairs, which have no UTF-8.
    encoded = value.encode("utf-8", "backslashreplace")
    return varint(field << 3 | 2) + varint(len(encoded)) + encoded


# The packets' and events' own fields, whose tags stand in every one of them.
_PACKET = b"\x0a"  # Trace.packet = 1
_TIME = b"\x40"  # TracePacket.timestamp = 8
_EVENT = b"\x5a"  # TracePacket.track_event = 11
_TAIL = _number(10, 1) + _number(13, _NEEDED)  # trusted_packet_sequence_id, sequence_flags
# Categories, names of events, names of annotations: their field of InternedData, and of what is told the
# field for a number of the table and for a name in full.
_TABLES = ((1, 3, 22), (2, 10, 23), (3, 1, 10))
_KIND = {kind: _number(9, kind) for kind in (_BEGIN, _END, _INSTANT, _COUNTER)}  # TrackEvent.type
_TRACK = b"\x58"  # TrackEvent.track_uuid = 11
_ANNOTATION = b"\x22"  # TrackEvent.debug_annotations = 4
_FLOW = varint(47 << 3 | 1)  # TrackEvent.flow_ids
_LAST_FLOW = varint(48 << 3 | 1)  # TrackEvent.terminating_flow_ids
_WHOLE = varint(30 << 3)  # TrackEvent.counter_value
_REAL = varint(44 << 3 | 1)  # TrackEvent.double_counter_value


class Encoder:
    """Encodes one trace; what it has written is taken from it piece by piece.

    Tracks are told by numbers of the caller's own choice, above 0, each used for one track only.
    """

    def __init__(self) -> None:
        self._written = bytearray()
        self._tables: tuple[dict[str, bytes], ...] = ({}, {}, {})

    @property
    def is_full(self) -> bool:
        """Whether there is enough to be worth a write."""
        return len(self._written) >= CHUNK_BYTES

    def take(self) -> bytes:
        """Return what was written since the last call, and forget it."""
        written = bytes(self._written)
        self._written.clear()
        return written

    # What a trace is ----------------------------------------------------------------------------

    def begin_trace(self, now_ns: int, wall_ns: int) -> None:
        """Write what has to come first: the clocks, and that nothing is interned yet.

        Args:
            now_ns: A moment of ``time.monotonic_ns()``, the clock of all events.
            wall_ns: The same moment in nanoseconds since the epoch.
        """
        clocks = b"".join(
            _bytes(1, _number(1, clock) + _number(2, at))
            for clock, at in ((_MONOTONIC, now_ns), (_REALTIME, wall_ns))
        )
        # ClockSnapshot.clocks, .primary_trace_clock
        self._packet(_bytes(6, clocks + _number(2, _MONOTONIC)) + _number(10, 1))
        # TracePacket.trace_packet_defaults.timestamp_clock_id, .first_packet_on_sequence
        defaults = _bytes(59, _number(58, _MONOTONIC))
        self._packet(defaults + _number(10, 1) + _number(13, _CLEARED) + _number(87, 1))
        # Viewers heed the ranks of processes and threads if the root of all tracks, number 0, says so:
        # TrackDescriptor.process_ordering, .thread_ordering
        self._descriptor(0, _number(19, 1) + _number(20, 1))

    def lost(self, count: int) -> None:
        """Note that events are missing, so that the viewer warns of it."""
        if count:
            # TracePacket.trace_stats.buffer_stats.trace_writer_packet_loss
            self._packet(_bytes(35, _bytes(1, _number(19, count))) + _number(10, 1))

    # Tracks -------------------------------------------------------------------------------------

    def process(self, track: int, pid: int, name: str, *, rank: int = 0) -> None:
        """Describe a process, which is a track and has the tracks of its threads."""
        told = _bytes(3, _number(1, pid) + _text(6, name))  # .process: pid, process_name
        # .child_ordering, .sibling_order_rank (viewers from before 2026 do not heed that of a process)
        self._descriptor(track, told + _number(11, _BY_RANK) + _number(12, rank))

    def thread(self, track: int, pid: int, tid: int, name: str, *, rank: int = 0) -> None:
        """Describe a thread of a process that has been described."""
        told = _number(1, pid) + _number(2, tid) + _text(5, name)  # ThreadDescriptor
        self._descriptor(track, _bytes(4, told) + _number(12, rank))

    def track(
        self,
        track: int,
        name: str,
        *,
        parent: int | None = None,
        rank: int = 0,
        about: str = "",
        lane: bool = False,
    ) -> None:
        """Describe a track that is no thread's.

        Args:
            track: Its number.
            name: What the viewer shows beside it.
            parent: The track below which it stands; None: on top.
            rank: Its place among the tracks of its parent.
            about: What the viewer tells who asks.
            lane: Whether it is one of several with this name that the viewer shows as one.
        """
        told = _text(2, name) + _number(11, _BY_RANK) + _number(12, rank)
        if parent is not None:
            told += _number(5, parent)
        if about:
            told += _text(14, about)
        if not lane:
            told += _number(15, _APART)
        self._descriptor(track, told)

    def counter(
        self,
        track: int,
        name: str,
        *,
        parent: int,
        rank: int = 0,
        unit: int = COUNT,
        about: str = "",
    ) -> None:
        """Describe a track of a number that changes with time."""
        told = _text(2, name) + _number(5, parent) + _number(12, rank)
        if about:
            told += _text(14, about)
        self._descriptor(track, told + _bytes(8, _number(3, unit)))

    def _descriptor(self, track: int, told: bytes) -> None:
        # TracePacket.track_descriptor.uuid
        self._packet(_bytes(60, _number(1, track) + told) + _number(10, 1))

    # Events -------------------------------------------------------------------------------------

    def begin(
        self,
        track: int,
        at_ns: int,
        name: str,
        category: str,
        annotations: Annotations = (),
        *,
        flow: int | None = None,
        last_flow: int | None = None,
    ) -> None:
        """Begin a slice on a track, within the one that is open there.

        ``flow`` is the number of an arrow that leads here from the event before with the same number;
        with ``last_flow`` it ends here.
        """
        told = self._told(name, category, annotations, flow, last_flow)
        self._event(at_ns, _KIND[_BEGIN] + _TRACK + varint(track) + told)

    def end(self, track: int, at_ns: int) -> None:
        """End the slice that was begun last on a track and is open."""
        self._event(at_ns, _KIND[_END] + _TRACK + varint(track))

    def instant(
        self,
        track: int,
        at_ns: int,
        name: str,
        category: str,
        annotations: Annotations = (),
        *,
        flow: int | None = None,
        last_flow: int | None = None,
    ) -> None:
        """Mark a moment on a track; arguments as for ``begin``."""
        told = self._told(name, category, annotations, flow, last_flow)
        self._event(at_ns, _KIND[_INSTANT] + _TRACK + varint(track) + told)

    def count(self, track: int, at_ns: int, value: float) -> None:
        """Write what a counter is from a moment on."""
        told = _WHOLE + varint(value) if isinstance(value, int) else _REAL + _DOUBLE(value)
        self._event(at_ns, _KIND[_COUNTER] + _TRACK + varint(track) + told)

    def _told(
        self,
        name: str,
        category: str,
        annotations: Annotations,
        flow: int | None,
        last_flow: int | None,
    ) -> bytes:
        categories, names, keys = self._tables
        told = names.get(name) or self._named(1, name)
        told += categories.get(category) or self._named(0, category)
        for key, value in annotations:
            one = (keys.get(key) or self._named(2, key)) + _value(value)
            told += _ANNOTATION + varint(len(one)) + one
        if flow is not None:
            told += _FLOW + _FIXED64(flow & _U64)
        if last_flow is not None:
            told += _LAST_FLOW + _FIXED64(last_flow & _U64)
        return told

    def _named(self, table: int, name: str) -> bytes:
        """Return the field that tells a new name: its number in the table, or the name if that is full."""
        entries, by_number, in_full = _TABLES[table]
        names = self._tables[table]
        if len(names) >= MOST_NAMES:
            return _text(in_full, name)
        number = len(names) + 1
        # TracePacket.interned_data: EventCategory, EventName, DebugAnnotationName {iid = 1, name = 2}
        entry = _bytes(12, _bytes(entries, _number(1, number) + _text(2, name)))
        self._packet(entry + _TAIL)
        known = names[name] = _number(by_number, number)
        return known

    def _event(self, at_ns: int, event: bytes) -> None:
        # What happened before the machine was started did not happen.
        time = varint(at_ns if at_ns > 0 else 0)
        packet = _TIME + time + _EVENT + varint(len(event)) + event + _TAIL
        self._written += _PACKET + varint(len(packet)) + packet

    def _packet(self, packet: bytes) -> None:
        self._written += _PACKET + varint(len(packet)) + packet


def _value(value: Value) -> bytes:
    """Encode the value of a DebugAnnotation: bool_value, int_value, double_value or string_value."""
    if isinstance(value, str):
        return _text(6, value)
    if isinstance(value, float):
        return b"\x29" + _DOUBLE(value)
    if value is True or value is False:
        return _number(2, value)
    if -1 << 63 <= value < 1 << 63:
        return b"\x20" + varint(value)
    return b"\x29" + _DOUBLE(float(value))
