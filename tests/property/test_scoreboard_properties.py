"""The scoreboard: whatever lies in the file, readers get a fact, nothing, or ``BadBoard``."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from strategies import board_bytes, header_words, holes, words

from glasspool.engines.local import scoreboard as sb


@pytest.fixture(scope="module")
def board(glasspool_dir: Path) -> Iterator[sb.Board]:
    """Return a scoreboard with one record."""
    made = sb.Board.create(
        "properties", 1, 1, made_at="here.py:1", command="c", start_method="fork"
    )
    yield made
    made.close()
    made.unlink()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a file that may hold anything."""
    return tmp_path_factory.mktemp("boards") / "some.board"


def read_everything(path: Path) -> None:
    """Do all that a reader from outside may do with a file that it found."""
    try:
        board = sb.Board.open(path)
    except sb.BadBoard as bad:
        told = bad
    else:
        read_all_of(board)
        return
    assert told.reason
    assert str(path) in str(told)


def read_all_of(board: sb.Board) -> None:
    """Read every field of a board that could be opened, and close it."""
    try:
        board.is_stale()
        for record in range(board.header.records):
            board.word(record, sb.W_STATE)
            board.current(record)
            assert len(list(board.finished(record))) <= sb.RING
            assert len(list(board.threads(record))) <= sb.THREADS
        for number in (0, 1, sb.CALLS - 1, sb.CALLS, 2**32 - 1):
            assert isinstance(board.call_name(number), str)
    finally:
        board.close()


@given(content=st.binary(max_size=2000))
@settings(deadline=None)
def test_short_rubbish_is_called_bad(file: Path, content: bytes) -> None:
    """A file that is too short is no scoreboard."""
    file.write_bytes(content)
    with pytest.raises(sb.BadBoard):
        sb.Board.open(file)


@given(seed=st.binary(min_size=1, max_size=64), size=st.integers(0, 2 * board_bytes))
@settings(deadline=None, max_examples=50)
def test_rubbish_is_called_bad(file: Path, seed: bytes, size: int) -> None:
    """A file of any length full of anything never gives another error than ``BadBoard``."""
    file.write_bytes((seed * (size // len(seed) + 1))[:size])
    read_everything(file)


@given(numbers=header_words, more=holes)
@example(numbers=[2**63, 0, 1, 1, *[0] * 11], more=[])
@example(numbers=[0, 0, 1, 1, *[0] * 11], more=[])
@settings(deadline=None)
def test_a_damaged_header_does_no_harm(
    board: sb.Board, file: Path, numbers: list[int], more: list[tuple[int, bytes]]
) -> None:
    """A true scoreboard with wrong numbers and holes can be read, or is called bad."""
    content = bytearray(board.view)
    content[: sb.HEADER.size] = sb.HEADER.pack(sb.MAGIC, *numbers)
    for at, patch in more:
        content[at : at + len(patch)] = patch
    file.write_bytes(bytes(content[:board_bytes]))
    read_everything(file)


@given(more=holes, cut=st.integers(0, 64))
@settings(deadline=None)
def test_a_damaged_file_does_no_harm(
    board: sb.Board, file: Path, more: list[tuple[int, bytes]], cut: int
) -> None:
    """A true scoreboard with holes, or cut off, can be read, or is called bad."""
    content = bytearray(board.view)
    for at, patch in more:
        content[at : at + len(patch)] = patch
    file.write_bytes(bytes(content[: board_bytes - cut]))
    read_everything(file)


def test_what_is_no_file_is_called_bad(file: Path, tmp_path: Path) -> None:
    """A folder, a link, a pipe, nothing at all: each is a ``BadBoard`` that says so."""
    link, pipe = tmp_path / "link.board", tmp_path / "pipe.board"
    link.symlink_to(file)
    os.mkfifo(pipe)
    writer = os.open(pipe, os.O_RDWR)  # else opening it for reading waits for somebody
    try:
        for path in (tmp_path, link, pipe, tmp_path / "missing.board"):
            with pytest.raises(sb.BadBoard):
                sb.Board.open(path)
    finally:
        os.close(writer)


def test_another_version_is_named(board: sb.Board, file: Path) -> None:
    """A scoreboard of a later version is not read, and both versions are told."""
    file.write_bytes(b"GLSPOOL\x09" + bytes(board.view[8:]))
    with pytest.raises(sb.BadBoard, match=r"another version \(9, this is 3\)"):
        sb.Board.open(file)


# Lanes ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def laned(glasspool_dir: Path) -> Iterator[sb.Board]:
    """Return a scoreboard with two records of three lanes each."""
    made = sb.Board.create("laned", 2, 2, capacity=5, start_method="fork", lanes=3)
    yield made
    made.close()
    made.unlink()


def begin_in_lane(board: sb.Board, record: int, lane: int, seq: int) -> None:
    """Note task ``seq`` as begun in a lane, as a worker does."""
    call = seq % 100 | lane << 32
    row = (10_000_000 + seq, call, 20_000_000 + seq, 0, seq + 1)
    sb.BEGIN.pack_into(board.view, board.ring(record) + seq % sb.RING * sb.ENTRY.size, *row)
    sb.BEGIN.pack_into(board.view, (board.lane(record, lane) + sb.LANE_ENTRY) * 8, *row)


def end_in_lane(board: sb.Board, record: int, lane: int, seq: int) -> None:
    """Note task ``seq`` as ended, as a worker does: in the ring only if its place is still its own."""
    at = (board.ring(record) + seq % sb.RING * sb.ENTRY.size) // 8
    if board.words[at + sb.E_SEQ] == seq + 1:
        board.words[at + sb.E_RESULT] = seq | sb.DONE << 56
        board.words[at + sb.E_ENDED] = 30_000_000 + seq
    board.words[board.lane(record, lane) + sb.LANE_ENTRY + sb.E_SEQ] = 0


@given(
    steps=st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.integers(1, 700)), max_size=12),
    record=st.integers(0, 1),
)
@example(steps=[(0, False, 1), (1, True, 700), (2, True, 700)], record=1)
@settings(deadline=None, max_examples=30)
def test_what_runs_in_lanes_is_known_however_long_it_runs(
    laned: sb.Board, steps: list[tuple[int, bool, int]], record: int
) -> None:
    """Lanes end their tasks in any order; a task that others have overtaken in the ring still counts.

    Each step: so many tasks one after the other in a lane, of which the last one ends or goes on.
    """
    laned.clear(record)
    laned.clear(1 - record)
    laned.set_word(1 - record, sb.W_DONE, 77)  # the neighbour's
    running: dict[int, int] = {}
    seq = 0
    for lane, ends, count in steps:
        if lane in running:
            end_in_lane(laned, record, lane, running.pop(lane))
        for _ in range(count):
            begin_in_lane(laned, record, lane, seq)
            seq += 1
            end_in_lane(laned, record, lane, seq - 1)
        if not ends:
            begin_in_lane(laned, record, lane, seq)
            running[lane] = seq
            seq += 1
    assert {entry.lane: entry.seq for entry in laned.running(record)} == running
    for lane, number in running.items():
        entry = laned.entry(record, number)
        assert entry is not None
        assert (entry.lane, entry.task, entry.ended_ns) == (lane, 10_000_000 + number, 0)
        assert laned.place(record, number) == laned.lane(record, lane)
    assert all(laned.has_begun(record, number) for number in range(seq))
    assert not any(laned.has_begun(record, number) for number in range(seq, seq + 10))
    finished = [entry.seq for entry in laned.finished(record)]
    known = range(max(0, seq - sb.RING + 1), seq)
    assert finished == [number for number in known if number not in running.values()]
    assert laned.running(1 - record) == []
    assert laned.word(1 - record, sb.W_DONE) == 77


def test_a_laned_scoreboard_can_be_read_from_its_file(laned: sb.Board) -> None:
    """The number of lanes stands in the header, and the lanes of a new record are empty."""
    laned.clear(1)
    laned.reserve(2)
    begin_in_lane(laned, 1, 2, 5)
    seen = sb.Board.open(laned.path)
    try:
        assert (seen.lanes, seen.header.records, seen.header.capacity) == (3, 3, 5)
        assert [(entry.lane, entry.seq) for entry in seen.running(1)] == [(2, 5)]
        assert seen.running(2) == []
    finally:
        seen.close()


# The ring -----------------------------------------------------------------------------------------


def begin(board: sb.Board, seq: int, upto: int = 5) -> None:
    """Note task ``seq`` as begun, as a worker does; only the first ``upto`` words, if it is cut."""
    at = board.ring(0) + seq % sb.RING * sb.ENTRY.size
    row = struct.pack("<5Q", 10_000_000 + seq, seq % 100, 20_000_000 + seq, 0, seq + 1)
    board.view[at : at + 8 * upto] = row[: 8 * upto]


def end(board: sb.Board, seq: int) -> None:
    """Note task ``seq`` as ended, as a worker does."""
    at = board.ring(0) + seq % sb.RING * sb.ENTRY.size
    board.words[at // 8 + sb.E_ENDED] = 30_000_000 + seq
    board.words[at // 8 + sb.E_RESULT] = seq | sb.DONE << 56


def is_consistent(entry: sb.Entry | None, seq: int) -> bool:
    """Tell whether an entry is what ``begin`` and ``end`` wrote for that task, or none."""
    if entry is None:
        return True
    return (
        entry.seq == seq
        and entry.task == 10_000_000 + seq
        and entry.call == seq % 100
        and entry.begun_ns == 20_000_000 + seq
        and entry.ended_ns in (0, 30_000_000 + seq)
    )


@given(count=st.integers(0, 3 * sb.RING), running=st.booleans())
@settings(deadline=None, max_examples=30)
def test_the_ring_keeps_the_latest(board: sb.Board, count: int, running: bool) -> None:
    """The last 1,023 tasks can be read, earlier ones are none, later ones have not begun.

    The place of one more is the next to be overwritten, so its reader could not be sure.
    """
    board.clear(0)
    for seq in range(count):
        begin(board, seq)
        if not (running and seq == count - 1):
            end(board, seq)
    assert board.last_seq(0) == (count - 1 if count else None)
    for seq in range(max(0, count - sb.RING - 5), count + 5):
        assert board.has_begun(0, seq) is (count - sb.RING <= seq < count)
        entry = board.entry(0, seq)
        assert (entry is not None) is (count - sb.RING < seq < count)
        assert is_consistent(entry, seq)
    current = board.current(0)
    assert (current is not None) is (running and count > 0)
    finished = [entry.seq for entry in board.finished(0)]
    last = count - 1 if running else count
    assert finished == list(range(max(0, count - sb.RING + 1), last))


@pytest.mark.parametrize("upto", range(6), ids="{} words".format)
def test_a_torn_begin_is_never_taken_for_a_whole_one(board: sb.Board, upto: int) -> None:
    """A worker that is stopped in the middle of noting a begin leaves no mixture of two tasks."""
    board.clear(0)
    old, new = 5, 5 + sb.RING
    for seq in range(new):
        begin(board, seq)
        end(board, seq)
    begin(board, new, upto)
    assert is_consistent(board.entry(0, old), old)
    assert is_consistent(board.entry(0, new), new)
    current = board.current(0)
    assert current is None or is_consistent(current, current.seq)
    assert all(is_consistent(entry, entry.seq) for entry in board.finished(0))


@given(row=st.lists(words, min_size=8, max_size=8), seq=st.integers(0, 2**64 - 2))
@settings(deadline=None)
def test_any_ring_entry_can_be_read(board: sb.Board, row: list[int], seq: int) -> None:
    """Whatever words lie in the ring, reading gives an entry or none."""
    board.clear(0)
    at = board.ring(0) + seq % sb.RING * sb.ENTRY.size
    sb.ENTRY.pack_into(board.view, at, *row)
    entry = board.entry(0, seq)
    assert entry is None or (entry.seq == seq and row[4] == seq + 1)
    board.last_seq(0)
    board.current(0)
    assert len(list(board.finished(0))) <= 1


@given(name=st.text(max_size=200), number=st.integers(0, 2 * sb.CALLS))
@settings(deadline=None)
def test_names_are_cut_between_characters(board: sb.Board, name: str, number: int) -> None:
    """The name of a callable is kept, or cut, and never becomes another character."""
    board.name_call(number, name)
    kept = board.call_name(number)
    clean = name.encode("utf-8", "replace").decode().partition("\0")[0]
    if number >= sb.CALLS or not clean:
        assert kept == "?"
    else:
        assert clean.startswith(kept)
        assert len(kept.encode()) >= min(len(clean.encode()), sb.CALL_BYTES - 4)
