"""Which process, thread and pool has which track, and under which name: described when first needed."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from glasspool.observe.records import Recording, WorkerLife
from glasspool.snapshot import ProcessInfo
from glasspool.views.perfetto import BYTES, COUNT, Encoder

_COMMAND_MOST = 80

_NODE_RANKS = 10_000_000
"""Workers of a node stand together: its first one so far below that of the node before."""

_ABOVE_PIDS = 1 << 22
"""Linux gives no higher numbers to processes."""


class Tracks:
    """Gives out the tracks of one trace.

    Args:
        encoder: Where they are described.
        recordings: All that is to be in the trace.
    """

    def __init__(self, encoder: Encoder, recordings: Iterable[Recording]) -> None:
        self._encoder = encoder
        self._numbers = itertools.count(1)
        self._processes: dict[tuple[str, int], int] = {}
        self._pids: dict[int, tuple[str, int]] = {}  # whose they are in the trace
        self._nodes: dict[str, int] = {"": 0}
        self._threads: dict[tuple[int, int], int] = {}
        self._named = dict(_threads_by_name(recordings))
        self._programs = {r.pid: _program_name(r) for r in recordings}
        slots = [task.slot for r in recordings for task in r.tasks if task.slot is not None]
        slots += [life.slot for r in recordings for life in r.workers]
        # Viewers sort by name: slot 10 belongs behind slot 9.
        self._width = len(str(max(slots, default=0)))

    def program(self, pid: int) -> int:
        """Return the track of a program."""
        track = self._processes.get(("", pid))
        if track is None:
            track = self._processes["", pid] = next(self._numbers)
            self._pids[pid] = ("", pid)
            self._encoder.process(track, pid, self._programs.get(pid) or "program", rank=0)
        return track

    def thread(self, pid: int, native_id: int, name: str = "") -> int:
        """Return the track of a thread of the program, with the name that the roster has for it."""
        track = self._threads.get((pid, native_id))
        if track is None:
            self.program(pid)
            track = self._threads[pid, native_id] = next(self._numbers)
            told = self._named.get((pid, native_id)) or name or f"thread {native_id}"
            rank = 0 if native_id == pid else len(self._threads)
            self._encoder.thread(track, pid, native_id, told, rank=rank)
        return track

    def threads_of_roster(self, pid: int) -> None:
        """Describe all threads of a program that the roster knows, those with nothing to show, too."""
        for owner, native_id in self._named:
            if owner == pid:
                self.thread(pid, native_id)

    def worker(self, life: WorkerLife) -> int:
        """Return the track of a worker's main thread."""
        pid = self._pid(life)
        native_id = pid + (life.native_id or life.pid) - life.pid
        track = self._threads.get((pid, native_id))
        if track is None:
            node = life.node or ""
            if (node, life.pid) not in self._processes:
                process = self._processes[node, life.pid] = next(self._numbers)
                # Of a worker that has ended the roster may say only which slot it had.
                own = "" if life.name == f"worker {life.slot}" else life.name
                name = f"{node} slot {life.slot:0{self._width}} {own}".strip()
                at = self._nodes.setdefault(node, len(self._nodes))
                rank = _NODE_RANKS * at + 1000 * (life.slot + 1) + life.generation
                self._encoder.process(process, pid, name, rank=rank)
            track = self._threads[pid, native_id] = next(self._numbers)
            self._encoder.thread(track, pid, native_id, f"slot {life.slot} ({life.pid})")
        return track

    def _pid(self, life: WorkerLife) -> int:
        """Return the number of a worker in the trace: its pid, if no process of another node has it."""
        owner = (life.node or "", life.pid)
        pid = life.pid
        while self._pids.setdefault(pid, owner) != owner:
            pid += _ABOVE_PIDS
        return pid

    def below(
        self, parent: int, name: str, *, rank: int = 0, about: str = "", lane: bool = False
    ) -> int:
        """Return a new track below another one."""
        track = next(self._numbers)
        self._encoder.track(track, name, parent=parent, rank=rank, about=about, lane=lane)
        return track

    def counter(
        self, parent: int, name: str, *, rank: int, about: str, in_bytes: bool = False
    ) -> int:
        """Return a new track of a number below another one."""
        track = next(self._numbers)
        unit = BYTES if in_bytes else COUNT
        self._encoder.counter(track, name, parent=parent, rank=rank, unit=unit, about=about)
        return track


def _parent_of(recording: Recording) -> ProcessInfo | None:
    processes = () if recording.picture is None else recording.picture.processes
    here = (process for process in processes if process.node is None)
    return next((process for process in here if process.pid == recording.pid), None)


def _threads_by_name(recordings: Iterable[Recording]) -> Iterable[tuple[tuple[int, int], str]]:
    for recording in recordings:
        parent = _parent_of(recording)
        for thread in () if parent is None else parent.threads:
            if thread.python:
                yield (recording.pid, thread.native_id), thread.name


def _program_name(recording: Recording) -> str:
    parent = _parent_of(recording)
    name = "program" if parent is None else parent.name
    command = None if parent is None else parent.command
    if not command:
        return name
    cut = command if len(command) <= _COMMAND_MOST else command[: _COMMAND_MOST - 1] + "…"
    return f"{name}: {cut}"
