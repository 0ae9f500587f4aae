"""Scoreboard files that anybody may have written: refused or read, and never more than that.

The bytes of a true scoreboard are turned, cut and extended, and read in every way in which the package reads
them. Seeds make each failure one that can be had again.
"""

from __future__ import annotations

import os
import pickle
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import glasspool
from glasspool.engines.local import account
from glasspool.engines.local import scoreboard as sb
from glasspool.observe import outside, running
from glasspool.snapshot import from_dict

FILES = 40
LIMIT_S = 20.0
CAPACITY_AT = 6 * 8

Turn = Callable[[bytearray, random.Random], None]


@pytest.fixture(scope="module")
def true_bytes(glasspool_dir: Path) -> bytes:
    """Return a scoreboard of a pool that has done something, and does."""
    with glasspool.Pool(2, time.sleep, (0,), name="fuzzed") as pool:
        pool.map(abs, range(3000), 1)
        pool.map(sorted, [[3, 1]] * 10, 2)
        pool.apply_async(time.sleep, (30,))
        while not any(worker.state == "busy" for worker in pool.inspect().workers):
            pass  # it is about to begin
        content = bytearray(pool._engine.board.view)
        records = pool._engine.board.header.records
    # Without the room to grow, which is a hole of many megabytes.
    content[CAPACITY_AT : CAPACITY_AT + 8] = records.to_bytes(8, "little")
    return bytes(content[: sb.RECORDS_AT + records * sb.RECORD_BYTES])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder in which the package looks for scoreboards; nothing may be unpickled there."""
    monkeypatch.setenv("GLASSPOOL_DIR", str(tmp_path))

    def refuse(*args: Any, **kwds: Any) -> Any:
        raise AssertionError("something was rebuilt from a file of a stranger")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    return tmp_path


def turn_header(content: bytearray, chance: random.Random) -> None:
    """Set a number of the first page to one that is likely to do harm."""
    at = 8 * chance.randrange(0, 16)
    content[at : at + 8] = word(chance)


def turn_words(content: bytearray, chance: random.Random) -> None:
    """Set words of a record, its threads and the first entries of its ring."""
    base = sb.RECORDS_AT + chance.randrange(3) * sb.RECORD_BYTES
    for _ in range(chance.randrange(1, 60)):
        at = base + 8 * chance.randrange(0, (sb.RING_AT + 20 * sb.ENTRY.size) // 8)
        content[at : at + 8] = word(chance)


def turn_bits(content: bytearray, chance: random.Random) -> None:
    """Turn bits anywhere, most of them where something stands."""
    for _ in range(chance.randrange(1, 200)):
        at = chance.randrange(len(content) if chance.random() < 0.2 else sb.RECORDS_AT + 5000)
        at = min(at, len(content) - 1)
        content[at] ^= 1 << chance.randrange(8)


def fill(content: bytearray, chance: random.Random) -> None:
    """Fill a part with one byte, or with chance."""
    at, length = chance.randrange(len(content)), chance.choice((1, 8, 64, 4096, 100_000))
    length = min(length, len(content) - at)
    content[at : at + length] = chance.choice(
        (bytes(length), b"\xff" * length, chance.randbytes(length))
    )


def cut(content: bytearray, chance: random.Random) -> None:
    """Cut the end off."""
    del content[chance.choice((0, 7, 8, 4095, sb.RECORDS_AT, chance.randrange(len(content)))) :]


def extend(content: bytearray, chance: random.Random) -> None:
    """Add something."""
    content += chance.randbytes(chance.choice((1, 8, 4096, sb.RECORD_BYTES)))


def word(chance: random.Random) -> bytes:
    """Return a word that is likely to do harm."""
    edges = (0, 1, 2**31 - 1, 2**31, 2**32, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1, os.getpid())
    number = chance.choice((*edges, chance.getrandbits(64), time.monotonic_ns()))
    return number.to_bytes(8, "little")


TURNS: tuple[Turn, ...] = (turn_header, turn_words, turn_bits, fill, cut, extend)


def read_in_every_way(file: Path) -> bool:
    """Read a file as all parts of the package do; tell whether it could be."""
    for listing in running.pools():
        assert listing.problem is None or isinstance(listing.problem, str)
    try:
        board = sb.Board.open(file)
    except sb.BadBoard as bad:
        return not bad.reason
    try:
        board.is_stale()
        outside.counts(board)
        outside.worker_pids(board)
        for number in (0, 1, 7, sb.CALLS, 2**32 - 1):
            assert isinstance(board.call_name(number), str)
        for record in range(min(board.header.records, 5)):
            read_record(board, record)
        pool = outside.pool_of_board(board)
        if pool is not None:
            text = glasspool.Snapshot((pool,), time.time())
            assert from_dict(text.to_dict()) == text
            assert str(text)
    finally:
        board.close()
    return True


def read_record(board: sb.Board, record: int) -> None:
    """Read one record."""
    board.word(record, sb.W_STATE)
    last = board.last_seq(record)
    current = board.current(record)
    assert current is None or not current.ended_ns
    assert len(list(board.finished(record))) <= sb.RING
    assert len(list(board.threads(record))) <= sb.THREADS
    for seq in (0, 1, sb.RING, last or 0):
        board.entry(record, seq)
        said = board.progress(record, seq)
        assert said is None or said[0] >= 0
    spent = account.of_record(board, record, time.monotonic_ns())
    assert spent is None or outside.worker_time(spent) is not None


@pytest.mark.parametrize("seed", range(6))
def test_a_damaged_scoreboard_is_refused_or_read(folder, true_bytes, seed):
    """Whatever was done to it, readers get what stands there, or ``BadBoard``; soon; and run nothing."""
    chance = random.Random(seed)
    file = folder / "fuzzed.1.board"
    begun = time.monotonic()
    could_be_read = 0
    for _ in range(FILES // 6 + 1):
        content = bytearray(true_bytes)
        for turn in chance.choices(TURNS[:4] if chance.random() < 0.8 else TURNS, k=2):
            if content:
                turn(content, chance)
        file.write_bytes(content)
        could_be_read += read_in_every_way(file)
    assert time.monotonic() - begun < LIMIT_S
    assert could_be_read  # not only the first page was looked at


def test_files_of_any_content_are_refused(folder, true_bytes):
    """Also with the name and the first words of a scoreboard, and with pickles inside."""
    chance = random.Random(7)
    file = folder / "fuzzed.2.board"
    for size in (0, 1, 8, 4096, sb.RECORDS_AT, 300_000):
        for head in (b"", sb.MAGIC, bytes(true_bytes[:64]), pickle.PROTO + b"\x05cos\nsystem\n"):
            file.write_bytes((head + chance.randbytes(size))[:size])
            read_in_every_way(file)


def test_a_true_one_is_read(folder, true_bytes):
    """What was not damaged is read as what it is."""
    file = folder / "fuzzed.3.board"
    file.write_bytes(true_bytes)
    assert read_in_every_way(file)
    board = sb.Board.open(file)
    assert sum(len(list(board.finished(record))) for record in range(2)) > 100
    board.close()
