"""Finding pools from outside: every file in the folder is told or skipped, and none raises."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from glasspool.engines.local import scoreboard
from glasspool.engines.local.scoreboard import Board
from glasspool.observe import outside, running
from glasspool.snapshot import PoolInfo, Snapshot


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder of scoreboards. Short, as a socket's path has a limit."""
    monkeypatch.setenv("GLASSPOOL_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def board(folder):
    """The scoreboard of a pool of two that this process seems to have."""
    made = Board.create("mine", 2, 4, made_at="here.py:7", command="here.py", start_method="fork")
    yield made
    made.close()
    made.unlink()


def _busy(board: Board, record: int, pid: int) -> None:
    """Write a record as a worker would that runs its first task."""
    words = {
        scoreboard.W_STATE: scoreboard.READY,
        scoreboard.W_PID: pid,
        scoreboard.W_SLOT: record,
        scoreboard.W_NATIVE: pid,
        scoreboard.W_DONE: 5,
    }
    for which, value in words.items():
        board.set_word(record, which, value)
    board.name_call(0, "work")
    scoreboard.BEGIN.pack_into(board.view, board.ring(record), 17, 0, 1, 0, 1)


def test_a_missing_folder_has_no_pools(tmp_path, monkeypatch):
    """A user who never had a pool gets an empty list."""
    monkeypatch.setenv("GLASSPOOL_DIR", str(tmp_path / "none"))
    assert running.pools() == ()


def test_a_pool_is_listed_with_what_its_scoreboard_says(board):
    """The list tells name, size, place and how many workers are busy."""
    _busy(board, 0, os.getpid())
    (listing,) = running.pools()
    assert (listing.name, listing.pid, listing.size) == ("mine", os.getpid(), 2)
    assert (listing.busy, listing.idle, listing.done) == (1, 0, 5)
    assert (listing.made_at, listing.state, listing.problem) == ("here.py:7", "running", None)


def test_a_file_of_a_process_that_ended_is_stale(folder):
    """A file whose process is gone is told as stale, also if its number is used again."""
    code = (
        "from glasspool.engines.local.scoreboard import Board; import os;"
        "Board.create('gone', 1, 1); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
    (listing,) = running.pools()
    assert listing.state == "stale"
    assert "has ended" in listing.problem


def test_a_file_of_an_earlier_process_with_this_number_is_stale(board):
    """The start time tells a process from an earlier one with the same number."""
    ticks = board.header.start_ticks
    scoreboard.struct.pack_into("<Q", board.view, 16, ticks + 1)
    (listing,) = running.pools()
    assert listing.state == "stale"


@pytest.mark.parametrize("size", [0, 1, 8, 127, 4096, scoreboard.RECORDS_AT, 200_000])
@pytest.mark.parametrize("magic", [b"", scoreboard.MAGIC, scoreboard.MAGIC[:7] + b"\x63"])
def test_foreign_bytes_are_told_and_skipped(folder, size, magic):
    """Whatever stands in a file of that name, it is a line with a reason."""
    noise = random.Random(size).randbytes(size)
    (folder / "foreign.board").write_bytes((magic + noise[len(magic) :])[:size])
    (listing,) = running.pools()
    assert listing.problem


def test_what_is_no_regular_file_is_told_and_skipped(folder):
    """Folders, pipes and links are not opened: a pipe would block for ever."""
    (folder / "a.board").mkdir()
    os.mkfifo(folder / "b.board")
    (folder / "c.board").symlink_to("/etc/hostname")
    (folder / "d.board").symlink_to(folder / "nothing")
    assert [listing.problem for listing in running.pools()] == ["not a regular file"] * 4


@pytest.mark.parametrize("seed", range(30))
def test_damaged_records_are_read_without_an_error(board, seed):
    """Any bytes in records, names and texts give a list and a picture, or one clear error."""
    noise = random.Random(seed)
    _busy(board, 0, os.getpid())
    for _ in range(noise.choice([1, 20, 2000])):
        at = noise.randrange(scoreboard.TEXT_AT, len(board.view))
        board.view[at] = noise.randrange(256)
    if seed % 2:
        start = scoreboard.RECORDS_AT
        board.view[start : start + 600] = noise.randbytes(600)
    assert len(running.pools()) == 1
    assert outside.pool_of_board(board) is not None
    with contextlib.suppress(running.NoPool, running.NoSuchProcess):
        running.picture(os.getpid())


def test_a_silent_pool_is_read_from_its_scoreboard(board):
    """Without an answer the picture comes from the file and the system, and says so."""
    _busy(board, 0, os.getpid())
    (pool,) = running.picture(os.getpid()).pools
    assert "scoreboard" in pool.notes[0]
    (worker,) = pool.workers
    assert worker.state == "busy"
    assert worker.evidence.source == "scoreboard"
    assert pool.tasks[0].function == "work"
    assert pool.tasks[0].id == 17


def test_a_workers_pid_leads_to_its_pool(board):
    """A user who sees a busy worker in ``top`` may ask with its number."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        _busy(board, 0, child.pid)
        (pool,) = running.picture(child.pid).pools
        assert (pool.name, pool.pid) == ("mine", os.getpid())
    finally:
        child.communicate(b"\n", timeout=30)


class _Server:
    """A socket that answers one question with the given bytes, or never answers."""

    def __init__(self, path: Path, answer: bytes | None) -> None:
        self.asked: list[object] = []
        self._answer = answer
        self._done = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, name="server")
        self._thread.start()

    def _serve(self) -> None:
        line, _ = self._listener.accept()
        with line:
            self.asked.append(json.loads(line.makefile("rb").readline()))
            if self._answer is None:
                self._done.wait(30)
            else:
                line.sendall(self._answer)

    def close(self) -> None:
        self._done.set()
        self._thread.join(30)
        self._listener.close()


@pytest.fixture
def serve(board):
    """Start a server beside the board; it ends with the test."""
    servers = []

    def start(answer: bytes | None) -> _Server:
        servers.append(_Server(board.socket_path, answer))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def test_the_programs_own_picture_is_preferred(serve):
    """What the program answers is the picture; the question says whether stacks are wanted."""
    told = Snapshot((PoolInfo("mine", "glasspool.Pool", os.getpid(), ()),), taken_at=1.0)
    server = serve(json.dumps({"snapshot": told.to_dict()}).encode())
    assert running.picture(os.getpid(), stacks=True).pools == told.pools
    assert server.asked == [{"ask": "inspect", "stacks": True, "others": True}]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense",
        b"[]",
        b'{"error": "no"}',
        b'{"snapshot": 3}',
        b'{"snapshot": {"schema": 9}}',
    ],
)
def test_a_bad_answer_is_told_and_the_scoreboard_is_read(serve, answer):
    """A program of another version or a damaged one does not end the reader."""
    serve(answer)
    (pool,) = running.picture(os.getpid()).pools
    assert "could not be used" in pool.notes[0]


def test_a_program_that_never_answers_costs_the_limit_only(serve, monkeypatch):
    """The time for an answer is limited, and the note tells it."""
    monkeypatch.setattr(running, "ANSWER_S", 0.1)
    serve(None)
    (pool,) = running.picture(os.getpid()).pools
    assert "did not answer within 0.1 s" in pool.notes[0]


def test_no_such_process(folder):
    """A number without a process is said to be that."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait(30)
    with pytest.raises(running.NoSuchProcess, match=f"no such process: {child.pid}"):
        running.picture(child.pid)


def test_a_process_of_another_user_is_told_as_far_as_the_system_does(folder, monkeypatch):
    """Why it may not be read is said beside what can be seen of it."""
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 4711)
    monkeypatch.setattr(outside, "may_be_read", lambda pid: False)
    seen = running.look(os.getpid(), stacks=False, quick=True)
    assert seen.problem == "denied"
    assert f"process {os.getpid()}: not permitted" in seen.text
    assert os.getpid() in {process.pid for process in seen.snapshot.processes}


def test_a_program_that_is_not_python(folder):
    """A shell has no pool, and the message names it."""
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    try:
        with pytest.raises(running.NoPool, match="cat"):
            running.picture(child.pid)
    finally:
        child.communicate(timeout=30)
