"""How many processors this process may really use."""

from __future__ import annotations

import contextlib
import math
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def usable_processors(pid: int | None = None) -> int:
    """Return how many processors a process may use: by affinity, and by the quota of its cgroup.

    This process by default. The quota is rounded up. At least 1. Sources: ``sched_getaffinity(2)``; the
    kernel's cgroup-v2 (``cpu.max``) and cgroup-v1 (``cpu.cfs_quota_us``, ``cpu.cfs_period_us``) documents.
    """
    count = allowed_processors(pid)
    quota = quota_of(pid)
    if quota is not None:
        count = min(count, math.ceil(quota))
    return max(1, count)


def allowed_processors(pid: int | None = None) -> int:
    """Return on how many processors a process may run; all of them where the system does not tell."""
    affinity = getattr(os, "sched_getaffinity", None)
    if affinity is not None:
        with contextlib.suppress(OSError):  # it has ended
            return len(affinity(pid or 0))
    return os.cpu_count() or 1


def quota_of(pid: int | None = None) -> float | None:
    """Return how many processors' time the cgroup of a process has, None without a limit."""
    return _quota() if pid is None else _quota(groups=f"/proc/{pid}/cgroup")


def _quota(
    root: str | Path = "/sys/fs/cgroup", groups: str | Path = "/proc/self/cgroup"
) -> float | None:
    """Return the smallest quota of this process's cgroup and those above it, in processors."""
    from pathlib import Path

    root, groups = Path(root), Path(groups)
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        return None
    found = []
    for line in lines:
        fields = line.split(":", 2)
        if len(fields) != 3:
            continue
        _, controllers, path = fields
        if not controllers:
            found += [_quota_v2(folder) for folder in _upwards(root, path)]
        elif "cpu" in controllers.split(","):
            for base in (root / "cpu", root / "cpu,cpuacct", root):
                found += [_quota_v1(folder) for folder in _upwards(base, path)]
    return min((quota for quota in found if quota is not None), default=None)


def _upwards(base: Path, path: str) -> list[Path]:
    folder = base / path.lstrip("/")
    return [folder, *[parent for parent in folder.parents if parent.is_relative_to(base)]]


def _quota_v2(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _quota_v1(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
        return quota / period if quota > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
