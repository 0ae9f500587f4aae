"""How many processors: by affinity, and by the quota of the cgroup, rounded up."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from glasspool import processors


def write(folder: Path, name: str, text: str) -> None:
    """Write one of the kernel's small files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text + "\n")


@pytest.fixture
def groups(tmp_path: Path) -> Path:
    """Return the path of what stands for /proc/self/cgroup."""
    return tmp_path / "cgroup"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return the path of what stands for /sys/fs/cgroup."""
    folder = tmp_path / "fs"
    folder.mkdir()
    return folder


def usable(monkeypatch: pytest.MonkeyPatch, quota: float | None, affinity: int) -> int:
    """Return what the pool would take with this quota and so many processors allowed."""
    monkeypatch.setattr(processors, "_quota", lambda: quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(affinity)))
    return processors.usable_processors()


def test_a_quota_of_version_2(root: Path, groups: Path) -> None:
    """``cpu.max`` holds quota and period."""
    groups.write_text("0::/a/b\n")
    write(root / "a/b", "cpu.max", "250000 100000")
    assert processors._quota(root, groups) == 2.5


def test_the_smallest_quota_on_the_way_up_counts(root: Path, groups: Path) -> None:
    """A group is also bound by those above it."""
    groups.write_text("0::/a/b/c\n")
    write(root / "a/b/c", "cpu.max", "800000 100000")
    write(root / "a/b", "cpu.max", "max 100000")
    write(root / "a", "cpu.max", "150000 100000")
    write(root, "cpu.max", "300000 100000")
    assert processors._quota(root, groups) == 1.5


def test_the_root_itself_may_be_bound(root: Path, groups: Path) -> None:
    """In a container the own group is often the root of what one sees."""
    groups.write_text("0::/\n")
    write(root, "cpu.max", "50000 100000")
    assert processors._quota(root, groups) == 0.5


@pytest.mark.parametrize("folder", ["cpu", "cpu,cpuacct"])
@pytest.mark.parametrize("place", ["docker/x", ""])
def test_a_quota_of_version_1(root: Path, groups: Path, folder: str, place: str) -> None:
    """Quota and period are two files, at the group's path or, in a container, at the root."""
    groups.write_text("12:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n1:name=systemd:/init\n")
    write(root / folder / place, "cpu.cfs_quota_us", "250000")
    write(root / folder / place, "cpu.cfs_period_us", "100000")
    assert processors._quota(root, groups) == 2.5


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("cpu.max", "max 100000"),
        ("cpu.max", ""),
        ("cpu.max", "rubbish"),
        ("cpu.max", "100000 0"),
        ("other", "1 1"),
    ],
)
def test_no_quota_or_an_unreadable_one_is_none(
    root: Path, groups: Path, name: str, text: str
) -> None:
    """Without a limit, or with a file that says nothing, only the affinity counts."""
    groups.write_text("0::/a\n")
    write(root / "a", name, text)
    assert processors._quota(root, groups) is None


def test_no_limit_of_version_1(root: Path, groups: Path) -> None:
    """A quota of -1 is none."""
    groups.write_text("4:cpu:/a\n")
    write(root / "cpu/a", "cpu.cfs_quota_us", "-1")
    write(root / "cpu/a", "cpu.cfs_period_us", "100000")
    assert processors._quota(root, groups) is None


def test_no_cgroups_at_all(root: Path, groups: Path) -> None:
    """Where there is no list of groups, there is no quota."""
    assert processors._quota(root, groups) is None


def test_a_list_of_groups_that_cannot_be_parsed(root: Path, groups: Path) -> None:
    """A line of another form is passed over."""
    groups.write_text("\nwhat is this\n0::/a\n")
    write(root / "a", "cpu.max", "100000 100000")
    assert processors._quota(root, groups) == 1


@pytest.mark.parametrize(
    ("quota", "affinity", "expected"),
    [(2.5, 8, 3), (0.1, 8, 1), (2.0, 8, 2), (16.0, 4, 4), (None, 5, 5), (None, 0, 1)],
)
def test_the_smaller_of_both_rounded_up(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, affinity: int, expected: int
) -> None:
    """2.5 processors are worth three workers; nobody gets fewer than one, or more than allowed."""
    assert usable(monkeypatch, quota, affinity) == expected


def test_this_machine() -> None:
    """Here and now it is a number between one and what the kernel lists."""
    assert 1 <= processors.usable_processors() <= (os.cpu_count() or 1)
