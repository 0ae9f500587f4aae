"""Find the pools that run on this machine, and take a picture of one from outside.

Each pool of glasspool has a scoreboard file and a socket in its user's folder. The socket gives
the program's own picture; where it is silent (the program hangs, or is stopped), the scoreboard and
the operating system are read, and the picture says so. Files that are foreign, stale or damaged
are told as a ``problem`` and never raise.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import time
from dataclasses import dataclass, replace
from pathlib import Path

from glasspool.engines.local import scoreboard
from glasspool.observe import outside, procfs
from glasspool.snapshot import PoolInfo, Snapshot, from_dict

ANSWER_S = 2.0
"""How long a program may take to answer before it is read from outside."""

_AFTER_SILENCE_S = 0.2
_ANSWER_BYTES = 64 << 20


class NoSuchProcess(Exception):
    """There is no process with that number."""


class NotPermitted(Exception):
    """The process belongs to somebody else, or protects itself against being read."""


class NoPool(Exception):
    """The process runs, but it is no Python program."""


@dataclass(frozen=True, slots=True)
class Listing:
    """One pool in the list of running pools, or one file that is none: ``problem`` says why.

    ``state`` is ``running`` or ``stale``, empty where there is a problem of another kind. ``busy``
    and ``idle`` count workers, ``done`` counts finished tasks of the workers that live.
    """

    name: str
    path: str
    pid: int | None = None
    kind: str = "glasspool.Pool"
    state: str = ""
    size: int = 0
    busy: int = 0
    idle: int = 0
    done: int = 0
    made_at: str | None = None
    started_at: float | None = None
    command: str | None = None
    problem: str | None = None


def pools() -> tuple[Listing, ...]:
    """List this user's pools, and the files in the folder of scoreboards that are none."""
    return tuple(_listing(path) for path in scoreboard.boards())


def picture(pid: int, *, stacks: bool = False) -> Snapshot:
    """Take a picture of the pools of a process.

    A worker's pid leads to its pool. A Python program without a pool of ours is told as far as
    the operating system knows it. Blocks for at most about ``ANSWER_S`` per process.

    Args:
        pid: The process that made the pool, or one of its workers.
        stacks: Whether the picture shall have the Python stack of each thread.

    Raises:
        NoSuchProcess: There is no such process, or it ended meanwhile.
        NotPermitted: It belongs to another user or cannot be read.
        NoPool: It is not a Python program.
    """
    begun = time.monotonic()
    found = procfs.process(pid)
    if found is None or found.state in "ZX":
        raise NoSuchProcess(f"no such process: {pid}")
    if found.uid is not None and os.geteuid() not in (0, found.uid):
        raise NotPermitted(f"not permitted: process {pid} belongs to user {found.uid}")
    boards = _boards_of(pid)
    try:
        told = _told_by(boards, stacks) if boards else (_without_board(pid, stacks),)
    finally:
        for board in boards:
            board.close()
    return Snapshot(told, taken_at=time.time(), took_s=time.monotonic() - begun)


def ask(path: str | os.PathLike[str], *, stacks: bool, limit_s: float) -> Snapshot:
    """Ask the pool behind a socket for its picture.

    Raises:
        OSError: Nobody listens there, or nobody answered within ``limit_s`` (a TimeoutError).
        ValueError: The answer is an error or not a picture.
    """
    question = json.dumps({"ask": "inspect", "stacks": stacks}).encode() + b"\n"
    deadline = time.monotonic() + limit_s
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        line.settimeout(limit_s)
        line.connect(os.fspath(path))
        line.sendall(question)
        answer = json.loads(_all_of(line, deadline))
    if not isinstance(answer, dict) or "snapshot" not in answer:
        raise ValueError(str(answer.get("error", answer) if isinstance(answer, dict) else answer))
    return from_dict(answer["snapshot"])


def _all_of(line: socket.socket, deadline: float) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        # A peer that sends a little now and then must not stretch the limit.
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("no complete answer in time")
        line.settimeout(left_s)
        part = line.recv(1 << 16)
        if not part:
            return b"".join(parts)
        parts.append(part)
        size += len(part)
        if size > _ANSWER_BYTES:
            raise ValueError("the answer is longer than a picture can be")


def _open(path: Path) -> scoreboard.Board:
    try:
        # Looked at first: opening a pipe or a device could block, or do something.
        if not stat.S_ISREG(path.lstat().st_mode):
            raise scoreboard.BadBoard(path, "not a regular file")
    except OSError as error:
        raise scoreboard.BadBoard(path, (error.strerror or "cannot be read").lower()) from None
    return scoreboard.Board.open(path)


def _listing(path: Path) -> Listing:
    try:
        board = _open(path)
    except scoreboard.BadBoard as error:
        return Listing(name=path.stem, path=str(path), problem=error.reason)
    try:
        return _told_by_header(path, board)
    finally:
        board.close()


def _told_by_header(path: Path, board: scoreboard.Board) -> Listing:
    header = board.header
    stale = board.is_stale()
    busy, idle, done = outside.counts(board)
    return Listing(
        name=header.name,
        path=str(path),
        pid=header.pid,
        state="stale" if stale else "running",
        size=header.size,
        busy=busy,
        idle=idle,
        done=done,
        made_at=header.made_at or None,
        started_at=header.made_ns / 1e9,
        command=header.command or None,
        problem=f"stale: its process {header.pid} has ended" if stale else None,
    )


def _boards_of(pid: int) -> list[scoreboard.Board]:
    """Open the scoreboards of the pools that the process made, else of the one it works for."""
    made: list[scoreboard.Board] = []
    serves: list[scoreboard.Board] = []
    for path in scoreboard.boards():
        try:
            board = _open(path)
        except scoreboard.BadBoard:
            continue  # pools() tells of it
        if board.is_stale():
            board.close()
        elif board.header.pid == pid:
            made.append(board)
        elif pid in outside.worker_pids(board):
            serves.append(board)
        else:
            board.close()
    if made:
        for board in serves:
            board.close()
    return made or serves


def _told_by(boards: list[scoreboard.Board], stacks: bool) -> tuple[PoolInfo, ...]:
    told: list[PoolInfo] = []
    limit_s = ANSWER_S
    for board in boards:
        try:
            told.extend(ask(board.socket_path, stacks=stacks, limit_s=limit_s).pools)
        except (OSError, ValueError) as error:
            why = _why_silent(error, limit_s)
            told.append(_from_outside(board, why, stacks))
            # What keeps one pool of a program from answering mostly keeps all of them.
            limit_s = _AFTER_SILENCE_S
    return tuple({pool.name: pool for pool in told}.values())


def _why_silent(error: Exception, limit_s: float) -> str:
    if isinstance(error, TimeoutError):
        return f"the program did not answer within {limit_s:g} s"
    if isinstance(error, OSError):
        return f"the program could not be asked ({(error.strerror or str(error)).lower()})"
    return f"the program's answer could not be used ({error})"


def _from_outside(board: scoreboard.Board, why: str, stacks: bool) -> PoolInfo:
    pool = outside.pool_of_board(board)
    if pool is None:
        raise NoSuchProcess(f"no such process: {board.header.pid} (it has just ended)")
    note = f"{why}: read from its scoreboard and the operating system instead"
    pool = replace(pool, notes=(note, *pool.notes))
    return outside.with_stacks(pool) if stacks else pool


def _without_board(pid: int, stacks: bool) -> PoolInfo:
    if not outside.may_be_read(pid):
        if procfs.process(pid) is None:
            raise NoSuchProcess(f"no such process: {pid} (it has just ended)")
        raise NotPermitted(f"not permitted: process {pid} protects itself from being read")
    if not outside.is_python(pid):
        name = getattr(procfs.process(pid), "name", "?")
        raise NoPool(f"no pool: process {pid} ({name}) is not a Python program")
    pool = outside.pool_of_stranger(pid)
    if pool is None:
        raise NoSuchProcess(f"no such process: {pid} (it has just ended)")
    return outside.with_stacks(pool) if stacks else pool
