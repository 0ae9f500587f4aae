"""How often the processes of a pool at rest are woken, and what processor time they take. Linux."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path


def of_rest(seconds: float) -> dict[str, float]:
    """Sleep, and return the switches and processor time of all threads but this one, children too.

    Sources: ``proc_pid_status(5)``, both kinds of context switches; the first number of ``schedstat``,
    in nanoseconds.
    """
    before = dict(_counts())
    time.sleep(seconds)
    after = dict(_counts())
    switches = cpu_ns = 0
    for thread, (number, ns) in after.items():
        number_before, ns_before = before.get(thread, (0, 0))
        switches += number - number_before
        cpu_ns += ns - ns_before
    return {"switches": switches, "cpu": cpu_ns / 1e9}


def family() -> list[int]:
    """Return this process and all that descend from it."""
    parents = {int(entry.name): _parent(entry) for entry in Path("/proc").glob("[0-9]*")}
    found = {os.getpid()}
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        found |= more
        grown = bool(more)
    return sorted(found)


def _parent(folder: Path) -> int | None:
    try:
        return int((folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    except OSError:
        return None  # gone


def _counts() -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    me = os.getpid()
    for pid in family():
        for folder in Path(f"/proc/{pid}/task").glob("*"):
            thread = pid, int(folder.name)
            if thread == (me, me):
                continue  # it measures
            try:
                yield (
                    thread,
                    (_switches(folder), int((folder / "schedstat").read_text().split()[0])),
                )
            except OSError:
                continue  # gone


def _switches(folder: Path) -> int:
    lines = (folder / "status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)
