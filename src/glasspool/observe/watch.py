"""Follow the pools of a program from outside, for as long as somebody looks: the source of top and page.

*Owns* the opened scoreboards and how far each ring has been read. Threads: none; one thread calls it.
A watch only reads: scoreboards and their rings, and the program's own word through its socket (of pools
that are not ours, a look from outside). When the program ends, its last state stays, marked as past.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from glasspool.engines.local import scoreboard
from glasspool.engines.local.scoreboard import BadBoard, Board
from glasspool.observe import outside, procfs, running
from glasspool.observe.far_rings import FarRings
from glasspool.observe.pace import Pace as Pace
from glasspool.observe.pace import Pacer
from glasspool.observe.records import TaskRecord
from glasspool.observe.rings import Harvest, Rings
from glasspool.observe.running import Look
from glasspool.snapshot import PoolInfo, ProcessInfo, Snapshot

NOTHING_RUNS = "no pool of glasspool is running"

OPEN_TASKS = 100
"""A watch has so many open tasks of a pool listed at most: the program spends time on each."""

_BARE_S = 2.0
"""So often a program whose pools have ended is looked at for pools of other libraries."""


@dataclass(frozen=True, slots=True)
class View:
    """What a watch saw at one moment.

    ``snapshot`` is the last picture that could be had, None if there never was one; ``past`` tells that it
    is of a program that has ended, or of pools that have. ``problem`` and ``text`` are as in
    ``running.Look``; ``text`` also names files that are no scoreboards, where one was expected. ``paces`` is
    by name of the pool. ``records`` are the tasks that ended since the view before, oldest first, and
    ``lost`` how many more there were, at most, that nobody could read in time. ``now_ns`` is when it was
    taken by the clock of the records, ``taken_at`` in seconds since the epoch.
    """

    snapshot: Snapshot | None
    taken_at: float
    past: bool = False
    problem: str | None = None
    text: str = ""
    paces: Mapping[str, Pace] = field(default_factory=dict)
    records: tuple[TaskRecord, ...] = ()
    lost: int = 0
    now_ns: int = 0


@dataclass(frozen=True, slots=True)
class _Followed:
    """A scoreboard that is being read; ``inode`` tells a new file of the same name from it."""

    path: str
    inode: int
    pid: int
    name: str
    rings: Rings | FarRings


class Watch:
    """Follows one program, or all of this user's that run a pool of ours.

    Where two programs have pools of one name, the later one's is called ``NAME (PID)`` in all that the
    watch tells.

    Args:
        pid: The program (or one of its workers); None: every one that has a pool.
        redact: Whether to leave the arguments of tasks out.
        most: Each call reads at most so many records, the newest; more are counted as lost. None: all.
    """

    def __init__(
        self, pid: int | None = None, *, redact: bool = False, most: int | None = None
    ) -> None:
        self._pid = None if pid is None else _program_of(pid)
        self._redact = redact
        self._most = most
        # The start of the program in clock ticks tells it from a later one of the same number.
        self._start = None if self._pid is None else procfs.start_ticks(self._pid)
        self._followed: dict[str, _Followed] = {}
        self._others: dict[str, int] = {}
        self._refused: dict[str, str] = {}
        self._keys: dict[tuple[int, str], str] = {}
        self._pacers: dict[str, Pacer] = {}
        self._last: Snapshot | None = None
        self._is_whole = False
        self._gone: Look | None = None
        self._had_ours = False
        self._has_others = False
        self._next_at = 0.0
        self._pending = Harvest()
        self._has_news = False
        self._follow()

    def look(self, *, stacks: bool = False) -> View:
        """Take a picture and what ended since the last one. Never raises for what the program is.

        Blocks as ``running.look`` does.
        """
        self._follow()
        self._has_news = False
        for one in self._followed.values():
            one.rings.has_news = False
        seen = self._look(stacks)
        records, lost = self._drain(at_once=True)
        now, taken_at = time.monotonic(), time.time()
        paces: dict[str, Pace] = {}
        past = True
        if seen.snapshot is not None and (self._shows_pools(seen) or not self._is_whole):
            picture, past = seen.snapshot, False
            self._is_whole = self._shows_pools(seen)
            self._forget(picture)
            paces = {
                pool.name: self._pacers.setdefault(pool.name, Pacer()).pace(
                    pool, now, picture.taken_at
                )
                for pool in picture.pools
            }
            lost += self._settle(picture)
            self._last = picture
        return View(
            snapshot=self._last,
            taken_at=taken_at,
            past=past and self._last is not None,
            problem=seen.problem,
            text=seen.text,
            paces=paces,
            records=records,
            lost=lost,
            now_ns=time.monotonic_ns(),
        )

    def drain(self) -> tuple[tuple[TaskRecord, ...], int]:
        """Read the rings only: what ended since the last call of this or of ``look``, and how many are lost.

        Cheap (well below a millisecond if little has ended): rings hold 1,024 tasks for each worker, so
        whoever wants all of many short ones calls it often.
        """
        return self._drain(at_once=False)

    def _drain(self, at_once: bool) -> tuple[tuple[TaskRecord, ...], int]:
        self._follow()
        harvest, self._pending = self._pending, Harvest()
        share = None
        if self._most is not None and self._followed:
            share = max(1, self._most // len(self._followed))
        for one in self._followed.values():
            rings = one.rings
            if isinstance(rings, FarRings):
                _add(harvest, rings.drain(share, at_once=at_once))
            else:
                _add(harvest, rings.drain(share))
        harvest.records.sort(key=_ended)
        return tuple(harvest.records), harvest.lost

    @property
    def has_news(self) -> bool:
        """Whether a pool or a worker came or went since the last look: a reason to look at once."""
        return self._has_news or any(one.rings.has_news for one in self._followed.values())

    def close(self) -> None:
        """Let the scoreboards go. Safe to call twice."""
        for one in self._followed.values():
            one.rings.close()
        self._followed.clear()

    # Pictures -------------------------------------------------------------------------------------

    @staticmethod
    def _shows_pools(seen: Look) -> bool:
        """Tell whether a picture shall take the place of the last one that showed pools."""
        return seen.problem is None and seen.snapshot is not None and bool(seen.snapshot.pools)

    def _look(self, stacks: bool) -> Look:
        if self._pid is None:
            return self._look_at_all(stacks)
        if self._gone is not None:
            return self._gone
        if self._start is not None and not _lives(self._pid, self._start):
            return self._has_ended()
        is_bare = self._had_ours and not self._followed
        if is_bare and not self._has_others and time.monotonic() < self._next_at:
            return Look(None, "no-pool", f"process {self._pid} has no pool at the moment")
        seen = running.look(self._pid, stacks=stacks, redact=self._redact, tasks=OPEN_TASKS)
        if is_bare:
            # Its pools have ended, and it goes on. Whether it has others tell only the stacks of all its
            # threads, which are not to be read twice a second for nothing.
            self._next_at = time.monotonic() + _BARE_S
            self._has_others = seen.problem is None
        if seen.problem == "gone":
            return self._has_ended() if self._last is not None else seen
        if seen.snapshot is None:
            return seen
        pools = self._named(seen.snapshot.pools)
        text = " ".join(filter(None, (seen.text, self._told_of_refused())))
        return replace(seen, snapshot=replace(seen.snapshot, pools=pools), text=text)

    def _has_ended(self) -> Look:
        self._gone = Look(None, "gone", f"process {self._pid} has ended")
        return self._gone

    def _look_at_all(self, stacks: bool) -> Look:
        begun = time.monotonic()
        pools: list[PoolInfo] = []
        for pid in dict.fromkeys(one.pid for one in self._followed.values()):
            seen = running.look(pid, stacks=stacks, redact=self._redact, tasks=OPEN_TASKS)
            if seen.problem is None and seen.snapshot is not None:
                pools.extend(self._named(seen.snapshot.pools))
        refused = self._told_of_refused()
        if not pools:
            text = " ".join(filter(None, (f"{NOTHING_RUNS}.", refused)))
            empty = Snapshot((), taken_at=time.time(), took_s=time.monotonic() - begun)
            return Look(empty, None, text)
        snapshot = Snapshot(tuple(pools), taken_at=time.time(), took_s=time.monotonic() - begun)
        return Look(snapshot, None, refused)

    def _told_of_refused(self) -> str:
        return " ".join(
            f"Skipped {path}: {reason}."
            for path, reason in sorted(self._refused.items())
            if self._pid is None or path.endswith(f".{self._pid}.board")
        )

    def _settle(self, picture: Snapshot) -> int:
        """Count the tasks of workers that came and went between two readings."""
        ended: dict[tuple[int, str], Sequence[ProcessInfo]] = {
            (pool.pid, pool.name): pool.ended for pool in picture.pools if "failed" in pool.stats
        }
        return sum(
            one.rings.settle(ended[key])
            for one in self._followed.values()
            if (key := (one.pid, self._key(one.pid, one.name))) in ended
        )

    # Names of pools -------------------------------------------------------------------------------

    def _key(self, pid: int, name: str) -> str:
        """Return how a pool is called, which no other one is."""
        known = self._keys.get((pid, name))
        if known is None:
            known, taken = name, set(self._keys.values())
            if known in taken:
                known = f"{name} ({pid})"
            while known in taken:
                known += "'"
            self._keys[pid, name] = known
        return known

    def _named(self, pools: Iterable[PoolInfo]) -> tuple[PoolInfo, ...]:
        pools = tuple(pools)
        names = {pool.name: self._key(pool.pid, pool.name) for pool in pools}
        if all(name == key for name, key in names.items()):
            return pools
        return tuple(_renamed(pool, names) for pool in pools)

    def _forget(self, picture: Snapshot) -> None:
        """Free the names of pools that have ended."""
        used = {pool.name for pool in picture.pools}
        used.update(one.rings.pool for one in self._followed.values())
        self._keys = {owner: key for owner, key in self._keys.items() if key in used}
        self._pacers = {key: pacer for key, pacer in self._pacers.items() if key in used}

    # Scoreboards ----------------------------------------------------------------------------------

    def _follow(self) -> None:
        """See which scoreboards there are: read what is left of those that have ended, open new ones."""
        found: dict[str, int] = {}
        self._refused = {}  # all of them are tried again: one may just have been being written
        for path in map(str, scoreboard.boards()):
            if (inode := self._inode(path)) is not None:
                found[path] = inode
        for path, one in list(self._followed.items()):
            if found.get(path) != one.inode:
                self._let_go(one)
        self._others = {path: inode for path, inode in self._others.items() if path in found}
        for path, inode in found.items():
            if path not in self._followed and self._others.get(path) != inode:
                self._open(path, inode)
        self._drop_stale()

    def _inode(self, path: str) -> int | None:
        """Return the number of a file; None for what is none, which is not even to be opened."""
        try:
            status = os.lstat(path)
        except OSError:  # removed since it was listed
            return None
        if stat.S_ISREG(status.st_mode):
            return status.st_ino
        self._refused[path] = "not a regular file"
        return None

    def _open(self, path: str, inode: int) -> None:
        try:
            board = Board.open(path)
        except BadBoard as error:
            self._refused[path] = error.reason
            return
        wanted = self._pid is None or board.header.pid == self._pid
        if board.is_stale() or not wanted:
            self._others[path] = inode
            board.close()
            return
        header = board.header
        is_far = header.start_method in outside.CLUSTERS
        rings = (FarRings if is_far else Rings)(board, self._key(header.pid, header.name))
        self._followed[path] = _Followed(path, inode, header.pid, header.name, rings)
        self._had_ours = self._has_news = True

    def _drop_stale(self) -> None:
        """Let go of the scoreboards of programs that were killed, which nobody has removed."""
        ended = {pid for pid in {one.pid for one in self._followed.values()} if not _lives(pid)}
        for one in list(self._followed.values()):
            if one.pid in ended:
                self._others[one.path] = one.inode
                self._let_go(one)

    def _let_go(self, one: _Followed) -> None:
        del self._followed[one.path]
        self._has_news = True
        _add(self._pending, one.rings.drain(self._most))
        one.rings.close()


def _add(harvest: Harvest, more: Harvest) -> None:
    harvest.records.extend(more.records)
    harvest.lost += more.lost


def _ended(record: TaskRecord) -> int:
    return record.ended_ns or 0


def _lives(pid: int, start: int | None = None) -> bool:
    """Tell whether a process runs, and is the one that began at ``start``."""
    found = procfs.process(pid)
    return found is not None and found.state not in "ZX" and start in (None, found.start_ticks)


def _program_of(pid: int) -> int:
    """Return the program for whose pool of ours a process works, else the process itself."""
    programs: list[int] = []
    for path in scoreboard.boards():
        try:
            board = Board.open(path)
        except BadBoard:
            continue  # told by whoever follows it
        if board.header.pid == pid:
            programs.insert(0, pid)
        elif pid in outside.worker_pids(board) and not board.is_stale():
            programs.append(board.header.pid)
        board.close()
    return programs[0] if programs else pid


def _renamed(pool: PoolInfo, names: Mapping[str, str]) -> PoolInfo:
    """Call pools of a program by other names, wherever a picture names them."""
    return replace(
        pool,
        name=names[pool.name],
        processes=tuple(
            replace(
                process,
                threads=tuple(
                    replace(thread, pool=names.get(thread.pool or "", thread.pool))
                    for thread in process.threads
                ),
            )
            for process in pool.processes
        ),
        deaths=tuple(
            replace(death, pool=names.get(death.pool or "", death.pool)) for death in pool.deaths
        ),
    )
