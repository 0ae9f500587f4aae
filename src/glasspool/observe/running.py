"""Find the pools that run on this machine, and take a picture of one from outside.

Each pool of glasspool has a scoreboard file and a socket in its user's folder. The socket gives
the program's own picture; where it is silent (the program hangs, or is stopped), the scoreboard and
the operating system are read, and the picture says so. Files that are foreign, stale or damaged
are told as a ``problem`` and never raise.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from glasspool.engines.local import scoreboard
from glasspool.observe import outside, procfs
from glasspool.observe.listing import Listing as Listing
from glasspool.snapshot import Evidence, PoolInfo, Snapshot, TaskInfo, from_dict

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from glasspool.observe.sight import Sight

ANSWER_S = 2.0
"""How long a program may take to answer before it is read from outside."""

NOT_PYTHON = "no Python program"
"""The kind of what is told of another program."""

LISTS = "'glasspool ps' lists those with a pool"
"""What helps where a process has no pool."""

_AFTER_SILENCE_S = 0.2
_ANSWER_BYTES = 64 << 20


class NoSuchProcess(Exception):
    """There is no process with that number."""


class NotPermitted(Exception):
    """Nothing of the process can be seen."""


class NoPool(Exception):
    """The process runs, but it is no Python program."""


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen of a process, and why it is not all.

    ``snapshot`` is None where nothing at all could be seen. ``problem`` is None, ``gone`` (no such process,
    or it ended), ``not-python``, ``no-pool`` (Python, but no pool in it), ``denied`` (the system forbids to
    read it: the snapshot is what the operating system tells) or ``unreadable`` (its interpreter's
    version cannot be read: the same). ``text`` says it in one line, with what to do about it.
    """

    snapshot: Snapshot | None
    problem: str | None = None
    text: str = ""


def pools(
    *, others: bool = False, everyone: bool = False, quick: bool = False
) -> tuple[Listing, ...]:
    """List this user's pools, and the files in the folder of scoreboards that are none.

    Args:
        others: Whether to list pools of other libraries as well.
        everyone: Whether to list those of all users.
        quick: Whether to read no stacks for that: kinds are then inferred.
    """
    ours = tuple(_listing(path) for path in scoreboard.boards())
    if not others:
        return ours
    from glasspool.observe import census

    known = {item.pid for item in ours if item.problem is None and item.pid is not None}
    return (*ours, *census.pools(everyone=everyone, quick=quick, known=known))


def picture(pid: int, *, stacks: bool = False) -> Snapshot:
    """Take a picture of the pools of a process.

    A worker's pid leads to its pool. Pools of other libraries, and those of a program that may not be read,
    are told as far as they can be seen. Blocks for at most about ``ANSWER_S`` per process.

    Args:
        pid: The process that made the pool, or one of its workers.
        stacks: Whether the picture shall have the Python stack of each thread.

    Raises:
        NoSuchProcess: There is no such process, or it ended meanwhile.
        NotPermitted: Nothing of it can be seen.
        NoPool: It is not a Python program.
    """
    seen = look(pid, stacks=stacks)
    if seen.snapshot is not None and seen.problem != "not-python":
        return seen.snapshot if stacks else without_stacks(seen.snapshot)
    errors = {"gone": NoSuchProcess, "not-python": NoPool}
    raise errors.get(seen.problem or "", NotPermitted)(seen.text)


def look(
    pid: int,
    *,
    stacks: bool,
    quick: bool = False,
    redact: bool = False,
    tasks: int | None = None,
) -> Look:
    """Take a picture of the pools of a process, and say what kept it from being whole.

    Never raises for what the process is or becomes. Blocks as ``picture`` does.

    Args:
        pid: The process that made the pool, or one that works for it.
        stacks: Whether pools of ours are asked for their stacks. Those of other libraries are read in any
            case, as they tell what each thread is for.
        quick: Whether to ask the operating system only, where the program does not answer by itself.
        redact: Whether to leave the arguments of tasks out.
        tasks: List at most so many open tasks of a pool of ours, the oldest; None: as many as usual.
    """
    begun = time.monotonic()
    found = procfs.process(pid)
    if found is None or found.state in "ZX":
        return Look(None, "gone", f"no such process: {pid}")
    boards = _boards_of(pid)
    if not boards:
        return _without_board(pid, quick, redact)
    try:
        told = _told_by(boards, stacks, tasks)
    except NoSuchProcess as error:
        return Look(None, "gone", str(error))
    finally:
        for board in boards:
            board.close()
    told = tuple(_without_arguments(pool) for pool in told) if redact else told
    return Look(Snapshot(told, taken_at=time.time(), took_s=time.monotonic() - begun))


def ask(
    path: str | os.PathLike[str],
    *,
    stacks: bool,
    limit_s: float,
    others: bool = False,
    tasks: int | None = None,
) -> Snapshot:
    """Ask the pool behind a socket for its picture, and for the program's pools of other libraries.

    Raises:
        OSError: Nobody listens there, or nobody answered within ``limit_s`` (a TimeoutError).
        ValueError: The answer is an error or not a picture.
    """
    import socket

    wanted: dict[str, Any] = {"ask": "inspect", "stacks": stacks, "others": others}
    if tasks is not None:
        wanted["tasks"] = tasks
    question = json.dumps(wanted).encode() + b"\n"
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
    busy: int | None
    idle: int | None
    done: int | None
    busy, idle, done = outside.counts(board)
    kind = outside.kind_of(header)
    if outside.has_no_records(header):
        busy = idle = done = None  # its workers write nothing down here
    return Listing(
        name=header.name,
        path=str(path),
        pid=header.pid,
        kind=kind,
        state="stale" if stale else "running",
        size=header.size,
        busy=busy,
        idle=idle,
        done=done,
        made_at=header.made_at or None,
        started_at=header.made_ns / 1e9,
        command=header.command or None,
        problem=f"stale: its process {header.pid} has ended" if stale else None,
        evidence=Evidence("scoreboard"),
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


def _told_by(
    boards: list[scoreboard.Board], stacks: bool, tasks: int | None
) -> tuple[PoolInfo, ...]:
    told: list[PoolInfo] = []
    answered = False
    limit_s = ANSWER_S
    for board in boards:
        try:
            # The first one that answers tells of the pools of other libraries beside it, too.
            answer = ask(
                board.socket_path,
                stacks=stacks,
                limit_s=limit_s,
                others=not answered,
                tasks=tasks,
            )
            answered = True
            told.extend(answer.pools)
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


def _without_board(pid: int, quick: bool, redact: bool) -> Look:
    """Look at a program that has no pool of ours."""
    from glasspool.observe import foreign

    begun = time.monotonic()
    is_python = outside.is_python(pid)
    root = foreign.root_of(pid) if is_python else pid
    taken, pools = _seen_from(root, quick, redact)
    if root != pid and all(pool.kind == foreign.NO_POOL for pool in pools):
        # It only looked like a worker: a program that another one has forked.
        taken, pools = _seen_from(pid, quick, redact)
    if not pools:
        return Look(None, "gone", f"no such process: {pid} (it has just ended)")
    if not is_python:
        pools = tuple(
            replace(p, kind=NOT_PYTHON) if p.kind == foreign.NO_POOL else p for p in pools
        )
    snapshot = Snapshot(pools, taken_at=taken.taken_at, took_s=time.monotonic() - begun)
    if not is_python:
        name = taken.processes[0].os.name
        text = f"no pool: process {pid} ({name}) is not a Python program"
        return Look(snapshot, "not-python", f"{text}; {LISTS}")
    return Look(snapshot, *_what_was_missing(taken, pools))


def _seen_from(root: int, quick: bool, redact: bool) -> tuple[Sight, tuple[PoolInfo, ...]]:
    from glasspool.observe import foreign, native, sight

    taken = sight.take(root, stacks=not quick)
    return taken, foreign.pools(taken, redact=redact, owners=native.owners_of(taken))


def _what_was_missing(taken: Sight, pools: Sequence[PoolInfo]) -> tuple[str | None, str]:
    """Say which problem kept a picture from being whole, None and nothing if it is."""
    from glasspool.observe import foreign, rights

    root = taken.processes[0]
    refusal, note = root.dump.refusal, root.dump.note
    if procfs.start_ticks(root.pid) != root.os.start_ticks or _has_ended(root.pid):
        return "gone", f"process {root.pid} ended while it was looked at"
    if refusal == "denied" or not outside.may_be_read(root.pid):
        why = note if refusal == "denied" else rights.explain(root.pid)
        return "denied", f"process {root.pid}: {why}"
    if refusal == "unreadable":
        return "unreadable", f"the stacks of process {root.pid} cannot be read: {note}"
    if all(pool.kind == foreign.NO_POOL for pool in pools):
        text = f"no pool: none was found in the Python program {root.pid}"
        unread = note if not root.dump.threads else None
        remedy = f"its stacks could not be read: {unread}" if unread else LISTS
        return "no-pool", f"{text}; {remedy}"
    return None, ""


def _has_ended(pid: int) -> bool:
    found = procfs.process(pid)
    return found is None or found.state in "ZX" or outside.is_leaving(pid)


def without_stacks(picture: Snapshot) -> Snapshot:
    """Return a picture without its stacks."""
    pools = (
        replace(
            pool,
            processes=tuple(
                replace(p, threads=tuple(replace(t, stack=None) for t in p.threads))
                for p in pool.processes
            ),
        )
        for pool in picture.pools
    )
    return replace(picture, pools=tuple(pools))


def _without_arguments(pool: PoolInfo) -> PoolInfo:
    return replace(
        pool,
        tasks=tuple(map(_redacted, pool.tasks)),
        processes=tuple(
            replace(
                p,
                threads=tuple(
                    replace(t, task=None if t.task is None else _redacted(t.task))
                    for t in p.threads
                ),
            )
            for p in pool.processes
        ),
        deaths=tuple(
            replace(death, task=None if death.task is None else _redacted(death.task))
            for death in pool.deaths
        ),
    )


def _redacted(task: TaskInfo) -> TaskInfo:
    return replace(task, arguments=None, tasks=tuple(map(_redacted, task.tasks)))
