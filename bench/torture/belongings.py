"""What a process holds, to be compared before and after: nothing may be left of a pool."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
import time
from collections import Counter
from pathlib import Path

import psutil

SETTLE_S = 5.0


def take() -> Counter[str]:
    """Count descriptors, threads, child processes and mappings of segments."""
    held: Counter[str] = Counter()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # that of the folder is gone by now
            held["descriptor " + os.readlink(f"/proc/self/fd/{name}").split(":")[0]] += 1
    held.update(f"thread {thread.name}" for thread in threading.enumerate())
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            held[f"child process {child.name()}"] += 1
    for line in Path("/proc/self/maps").read_text().splitlines():
        if "/memfd:glasspool" in line or "glasspool" in line.rpartition(" ")[2].split("/")[-1]:
            held["mapping of a segment"] += 1
    return held


def left_since(before: Counter[str]) -> list[str]:
    """Return in words what is held now and was not before; waits until it is gone, some seconds."""
    deadline = time.monotonic() + SETTLE_S
    while True:
        gc.collect()
        left = take() - before
        if not left or time.monotonic() > deadline:
            return [f"{count} x {what}" for what, count in sorted(left.items())]
        time.sleep(0.02)


def memory() -> int:
    """Return the resident memory of this process, in bytes."""
    return int(psutil.Process().memory_info().rss)
