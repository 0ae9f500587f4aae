"""Whether the kernel's OOM killer ended a worker: its counters, before and after.

The kernel counts its kills per memory cgroup, under the victim's own (``memory.events`` of cgroup v2,
``memory.oom_control`` of v1), before it sends the signal, and per machine (``/proc/vmstat``). So a SIGKILL
with a counter that has risen was most likely its doing, and one without was somebody else's. Who shares
the cgroup may be the victim as well: a kill that was counted is claimed by one dead worker of ours, and
only within CLAIM_S of being noticed.

Sources: ``Documentation/admin-guide/cgroup-v2.rst`` and ``cgroup-v1/memory.rst`` of the kernel;
``mm/oom_kill.c``, ``__oom_kill_process`` for the order; ``proc(5)`` for ``mountinfo``.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

from glasspool.engines.local import kernel

CLAIM_S = 5.0


class Verdict(NamedTuple):
    """Whether it was likely the OOM killer (None: unknown), and what that is based on."""

    likely: bool | None
    evidence: str


class OomWatch:
    """The counters of the cgroups of a pool's workers, and of the machine.

    Who makes it hands it over to the collector's thread, and only that one uses it then.
    """

    def __init__(self) -> None:
        self._machine = Counter("/proc/vmstat", "oom_kill")
        self._groups: dict[str, Counter] = {}
        self._files: dict[tuple[str | None, str | None], tuple[str, str] | None] = {}

    def group_of(self, pid: int) -> str | None:
        """Note the cgroup that a process is in, with its counter now; return it, None if unknown."""
        groups = groups_of(pid)
        key = (groups.get("memory"), groups.get(""))
        if key not in self._files:
            self._files[key] = counter_file(groups)
        found = self._files[key]
        if found is None:
            return None
        path, word = found
        if path not in self._groups:
            self._groups[path] = Counter(path, word)
        return path

    def renew(self) -> None:
        """Note what the counters say now, after a death of any kind."""
        for counter in (self._machine, *self._groups.values()):
            counter.look()

    def judge(self, group: str | None) -> Verdict:
        """Say whether a worker of that cgroup, which got a SIGKILL, got it from the OOM killer."""
        self.renew()
        machine = self._machine.claim()
        own = self._groups.get(group) if group is not None else None
        here = own.claim() if own is not None else None
        if own is None or here is None:
            return _by_machine(machine)
        if here:
            return Verdict(True, f"its cgroup counts one OOM kill more ({own.path})")
        if machine:
            # It may have been moved to a cgroup that we don't know, or the kill was elsewhere.
            return Verdict(
                None,
                "the OOM killer struck on this machine, but not in the worker's cgroup as it was known",
            )
        return Verdict(False, f"its cgroup counts no OOM kill more ({own.path})")


def _by_machine(risen: bool | None) -> Verdict:
    if risen is None:
        return Verdict(None, "the counters of the OOM killer cannot be read here")
    if risen:
        return Verdict(True, "the machine counts one OOM kill more (/proc/vmstat)")
    return Verdict(False, "the machine counts no OOM kill more (/proc/vmstat)")


class Counter:
    """One number that the kernel counts up, in a file of lines with a word and a number each."""

    def __init__(self, path: str, word: str) -> None:
        self.path = path
        self._sought = b"\n%b " % word.encode()
        self._last = self._read()
        self._unclaimed: deque[float] = deque(maxlen=1000)

    def _read(self) -> int | None:
        try:
            # Not line by line: a pool that starts reads this, too.
            _, found, rest = b"\n".join((b"", kernel.read_file(self.path))).partition(self._sought)
            return int(rest.partition(b"\n")[0]) if found else None
        except (OSError, ValueError):
            return None

    def look(self) -> None:
        """Note how many kills there are that nobody has claimed yet, and forget the old ones."""
        now, seen = time.monotonic(), self._read()
        if seen is not None and self._last is not None:
            self._unclaimed.extend([now] * min(seen - self._last, 1000))
        self._last = seen
        while self._unclaimed and now - self._unclaimed[0] > CLAIM_S:
            self._unclaimed.popleft()

    def claim(self) -> bool | None:
        """Take one of the kills that were noticed; False if there is none, None if nobody counts."""
        if self._last is None:
            return None
        if not self._unclaimed:
            return False
        self._unclaimed.popleft()
        return True


def counter_file(groups: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the file that counts OOM kills in the cgroup of a process, and the word in it."""
    # A machine may have both, with the memory controller in one of them.
    for kind, name in (("memory", "memory.oom_control"), ("", "memory.events")):
        place = folder_of(kind, groups[kind]) if kind in groups else None
        path = None if place is None else os.path.join(place, name)
        if path is not None and os.access(path, os.R_OK):
            return path, "oom_kill"
    return None


def groups_of(pid: int) -> dict[str, str]:
    """Return the cgroup of a process for the v1 controller ``memory`` and for v2 (``""``)."""
    found: dict[str, str] = {}
    try:
        for line in filter(None, _lines(f"/proc/{pid}/cgroup")):
            _, controllers, path = line.split(":", 2)
            for controller in controllers.split(","):
                found[controller] = path
    except (OSError, ValueError):
        return {}
    return found


def _lines(path: str) -> list[str]:
    return kernel.read_file(path).decode("utf-8", "surrogateescape").split("\n")


def folder_of(kind: str, path: str) -> str | None:
    """Return the folder of a cgroup; in a container its path may begin above what is mounted."""
    try:
        mounts = _lines("/proc/self/mountinfo")
    except OSError:
        return None
    for mount in mounts:
        if "cgroup" not in mount:
            continue
        fields = mount.split()
        root, point, system, options = fields[3], fields[4], fields[-3], fields[-1]
        if system != ("cgroup" if kind else "cgroup2") or (kind and kind not in options.split(",")):
            continue
        if root != "/" and (path == root or path.startswith(f"{root}/")):
            path = path[len(root) :]
        return os.path.join(point, path.lstrip("/"))
    return None
