"""Read a trace with Perfetto's own library, as its viewer would: tracks, slices, instants, numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as proto

EVENT = proto.TrackEvent


@dataclass
class Slice:
    """A slice or (without duration) an instant; ``end`` is None for a slice that was never ended."""

    track: str
    process: str
    name: str
    category: str
    begin: int
    end: int | None
    depth: int
    told: dict[str, Any]
    flows: tuple[int, ...] = ()
    last_flows: tuple[int, ...] = ()
    instant: bool = False


@dataclass
class Read:
    """All that is in a trace."""

    packets: list[Any]
    tracks: dict[int, Any] = field(default_factory=dict)
    slices: list[Slice] = field(default_factory=list)
    numbers: dict[str, list[tuple[int, float]]] = field(default_factory=dict)

    def named(self, name: str) -> list[Slice]:
        """Return the slices and instants of a name, in the order of time."""
        return [one for one in self.slices if one.name == name]

    def name_of(self, uuid: int) -> str:
        """Return the name of a track."""
        told = self.tracks[uuid]
        return told.thread.thread_name or told.process.process_name or told.name

    def process_of(self, uuid: int) -> str:
        """Return the name of the process to which a track belongs."""
        told = self.tracks[uuid]
        if told.HasField("process"):
            return str(told.process.process_name)
        if told.HasField("thread"):
            owner = next(
                t
                for t in self.tracks.values()
                if t.HasField("process") and t.process.pid == told.thread.pid
            )
            return str(owner.process.process_name)
        return self.process_of(told.parent_uuid) if told.parent_uuid else ""

    @property
    def lost(self) -> int:
        """How many events the trace says to lack."""
        return sum(
            stats.trace_writer_packet_loss
            for packet in self.packets
            for stats in packet.trace_stats.buffer_stats
        )


def read(chunks: bytes | Iterable[bytes]) -> Read:
    """Decode a trace and replay it, checking on the way what a viewer relies on."""
    raw = chunks if isinstance(chunks, bytes) else b"".join(chunks)
    trace = proto.Trace.FromString(raw)
    # Every byte was understood, and none stands twice: the library writes the same again.
    assert len(trace.SerializeToString()) == len(raw)
    assert not _unknown(trace)
    found = Read(list(trace.packet))
    tables: dict[str, dict[int, str]] = {"categories": {}, "names": {}, "keys": {}}
    events = []
    for packet in found.packets:
        assert packet.trusted_packet_sequence_id == 1
        if packet.HasField("track_descriptor"):
            assert packet.track_descriptor.uuid not in found.tracks
            found.tracks[packet.track_descriptor.uuid] = packet.track_descriptor
        for entry in packet.interned_data.event_categories:
            tables["categories"][entry.iid] = entry.name
        for entry in packet.interned_data.event_names:
            tables["names"][entry.iid] = entry.name
        for entry in packet.interned_data.debug_annotation_names:
            tables["keys"][entry.iid] = entry.name
        if packet.HasField("track_event"):
            assert packet.sequence_flags == packet.SEQ_NEEDS_INCREMENTAL_STATE
            assert packet.track_event.track_uuid in found.tracks  # described before
            events.append((packet.timestamp, packet.track_event))
    # As a viewer does: by time, and in the order of the file where that is the same.
    _replay(found, sorted(events, key=lambda one: one[0]), tables)
    return found


def _replay(found: Read, events: list[tuple[int, Any]], tables: dict[str, dict[int, str]]) -> None:
    stacks: dict[int, list[Slice]] = {}
    for at, event in events:
        stack = stacks.setdefault(event.track_uuid, [])
        if event.type == EVENT.TYPE_COUNTER:
            whole = event.HasField("counter_value")
            value = event.counter_value if whole else event.double_counter_value
            name = found.name_of(event.track_uuid)
            found.numbers.setdefault(name, []).append((at, value))
        elif event.type == EVENT.TYPE_SLICE_END:
            assert stack, "an end without a begin"
            stack.pop().end = at
        else:
            instant = event.type == EVENT.TYPE_INSTANT
            assert instant or event.type == EVENT.TYPE_SLICE_BEGIN
            one = Slice(
                track=found.name_of(event.track_uuid),
                process=found.process_of(event.track_uuid),
                name=tables["names"][event.name_iid] if event.name_iid else event.name,
                category=tables["categories"][event.category_iids[0]],
                begin=at,
                end=at if instant else None,
                depth=len(stack),
                told={tables["keys"][a.name_iid]: _value(a) for a in event.debug_annotations},
                flows=tuple(event.flow_ids),
                last_flows=tuple(event.terminating_flow_ids),
                instant=instant,
            )
            found.slices.append(one)
            if not instant:
                stack.append(one)


def _value(annotation: Any) -> Any:
    return getattr(annotation, annotation.WhichOneof("value"))


def _unknown(message: Any) -> bool:
    from google.protobuf import unknown_fields

    if len(unknown_fields.UnknownFieldSet(message)):
        return True
    return any(
        _unknown(one)
        for described, value in message.ListFields()
        if described.message_type is not None
        for one in (value if described.is_repeated else [value])
    )
