"""The encoder of Perfetto's format: what it writes, Perfetto's own library reads, byte for byte."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as proto

from glasspool.views import perfetto
from glasspool.views.perfetto import Encoder, varint
from perfetto_reading import read

U64 = (1 << 64) - 1


def _encoder() -> Encoder:
    encoder = Encoder()
    encoder.begin_trace(5_000, 7_000_000)
    encoder.process(1, 4242, "program")
    encoder.thread(2, 4242, 4243, "MainThread")
    return encoder


@given(st.one_of(st.integers(0, 40_000), st.integers(0, U64), st.sampled_from([16383, 16384])))
def test_numbers_are_encoded_as_the_library_does(number: int) -> None:
    """A number has the one shortest form that Protocol Buffers have for it."""
    packet = proto.TracePacket(timestamp=number)
    assert packet.SerializeToString() == b"\x40" + varint(number)


@given(st.integers(-(1 << 63), -1))
def test_negative_numbers_come_back(number: int) -> None:
    """A negative number is read as what it was."""
    encoder = _encoder()
    encoder.count(2, 10, number)
    assert read(encoder.take()).numbers["MainThread"] == [(10, number)]


def test_the_trace_begins_with_its_clocks_and_empty_tables() -> None:
    """Times are those of the monotonic clock, and the snapshot leads from there to the time of day."""
    found = read(_encoder().take())
    clocks, first, root, *_ = found.packets
    assert clocks.clock_snapshot.primary_trace_clock == proto.BUILTIN_CLOCK_MONOTONIC
    assert {clock.clock_id: clock.timestamp for clock in clocks.clock_snapshot.clocks} == {
        proto.BUILTIN_CLOCK_MONOTONIC: 5_000,
        proto.BUILTIN_CLOCK_REALTIME: 7_000_000,
    }
    assert first.sequence_flags == first.SEQ_INCREMENTAL_STATE_CLEARED
    assert first.trace_packet_defaults.timestamp_clock_id == proto.BUILTIN_CLOCK_MONOTONIC
    descriptor = root.track_descriptor
    assert (descriptor.uuid, descriptor.process_ordering, descriptor.thread_ordering) == (0, 1, 1)


def test_tracks_are_described() -> None:
    """Processes, threads, lanes and numbers are told with name, owner and place."""
    encoder = _encoder()
    encoder.track(3, "pool", parent=1, rank=4, about="words")
    encoder.track(4, "lane", parent=3, lane=True)
    encoder.counter(5, "bytes", parent=3, unit=perfetto.BYTES, about="sent")
    tracks = read(encoder.take()).tracks
    assert (tracks[1].process.pid, tracks[1].process.process_name) == (4242, "program")
    assert (tracks[2].thread.pid, tracks[2].thread.tid) == (4242, 4243)
    assert (tracks[3].parent_uuid, tracks[3].sibling_order_rank) == (1, 4)
    assert tracks[3].description == "words"
    apart = proto.TrackDescriptor.SIBLING_MERGE_BEHAVIOR_NONE
    assert tracks[3].sibling_merge_behavior == apart != tracks[4].sibling_merge_behavior
    assert tracks[5].counter.unit == proto.CounterDescriptor.UNIT_SIZE_BYTES


def test_slices_instants_and_numbers_come_back() -> None:
    """What was begun, ended, marked and counted is read with its name, time, annotations and arrows."""
    encoder = _encoder()
    told = [
        ("task", 7),
        ("far", -3),
        ("share", 0.5),
        ("ok", True),
        ("text", "(1,)"),
        ("big", 1 << 70),
    ]
    encoder.begin(2, 100, "f", "task", told, flow=9)
    encoder.begin(2, 110, "receiving", "task")
    encoder.end(2, 120)
    encoder.instant(2, 130, "mark", "note", last_flow=U64)
    encoder.end(2, 140)
    encoder.count(2, 150, 3)
    encoder.count(2, 160, 2.5)
    found = read(encoder.take())
    outer, inner, mark = found.slices
    assert (outer.name, outer.category, outer.begin, outer.end) == ("f", "task", 100, 140)
    assert outer.told == {**dict(told), "big": float(1 << 70)}
    assert (outer.flows, outer.last_flows) == ((9,), ())
    assert (inner.depth, inner.begin, inner.end) == (1, 110, 120)
    assert (mark.instant, mark.last_flows) == (True, (U64,))
    assert found.numbers["MainThread"] == [(150, 3), (160, 2.5)]


@pytest.mark.parametrize(
    "name",
    [
        "",
        "<b>&\"'",
        "[bold]x[/]",
        "a\x00b\x1b[31m",
        "日本語 🎉",
        "\ud800 half",
        "\u202eright",
        "x" * 9999,
    ],
)
def test_any_name_can_be_written(name: str) -> None:
    """Names may be anything that a Python text can be; halves of pairs are spelled out, long ones cut."""
    encoder = Encoder()
    encoder.begin_trace(0, 0)
    encoder.process(1, 2, name)
    encoder.thread(2, 2, 3, name)
    encoder.instant(2, 5, name, name or "c", [(name or "k", name)])
    found = read(encoder.take())
    shown = name.replace("\ud800", "\\ud800")
    if len(name) > perfetto.MOST_TEXT:
        shown = name[: perfetto.MOST_TEXT - 1] + "…"
    assert found.tracks[1].process.process_name == shown
    assert found.slices[0].told == {shown or "k": shown}


def test_names_stand_once_until_the_table_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name is written once and told by number; above the limit it stands in each event."""
    monkeypatch.setattr(perfetto, "MOST_NAMES", 2)
    encoder = _encoder()
    for at, name in enumerate(["a", "b", "a", "c", "c"]):
        encoder.instant(2, at, name, "task")
    found = read(encoder.take())
    entries = [entry.name for p in found.packets for entry in p.interned_data.event_names]
    assert entries == ["a", "b"]
    assert [one.name for one in found.slices] == ["a", "b", "a", "c", "c"]


def test_what_is_lost_is_told_to_the_viewer() -> None:
    """Lost events are counted where the viewer looks for them, and nowhere else."""
    encoder = _encoder()
    encoder.lost(0)
    assert read(encoder.take()).lost == 0
    encoder = _encoder()
    encoder.lost(12)
    assert read(encoder.take()).lost == 12


def test_times_before_the_machine_began_are_its_begin() -> None:
    """A clock that was computed from the time of day may come out below zero."""
    encoder = _encoder()
    encoder.instant(2, -5, "early", "note")
    assert read(encoder.take()).slices[0].begin == 0


def test_it_is_taken_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was taken is forgotten: the memory does not grow with the trace."""
    monkeypatch.setattr(perfetto, "CHUNK_BYTES", 1 << 12)
    encoder = _encoder()
    pieces = []
    for at in range(1_000):
        encoder.instant(2, at, "f", "task", [("task", at)])
        if encoder.is_full:
            pieces.append(encoder.take())
    pieces.append(encoder.take())
    assert len(pieces) > 1
    assert all(len(piece) < perfetto.CHUNK_BYTES + 1_000 for piece in pieces)
    assert len(read(pieces).slices) == 1_000
