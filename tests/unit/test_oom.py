"""The OOM killer's counters, from files of the kernel's form."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from glasspool.engines.local import oom
from glasspool.engines.local.oom import Counter, OomWatch


class Scene:
    """A machine with one cgroup, whose counters the test moves."""

    def __init__(self, folder: Path) -> None:
        self.machine = folder / "vmstat"
        self.group = folder / "memory.events"
        self.count(0, 0)
        self.watch = OomWatch()
        self.watch._machine = Counter(str(self.machine), "oom_kill")
        self.watch._groups[str(self.group)] = Counter(str(self.group), "oom_kill")

    def count(self, machine: int, group: int) -> None:
        """Let the counters say so."""
        self.machine.write_text(f"nr_free_pages 5\noom_kill {machine}\n")
        self.group.write_text(f"low 0\noom 1\noom_kill {group}\noom_group_kill 0\n")

    def judge(self) -> bool | None:
        """Ask about a worker of the group."""
        verdict = self.watch.judge(str(self.group))
        assert verdict.evidence
        return verdict.likely


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """Return a scene with all counters at 0."""
    return Scene(tmp_path)


def test_a_kill_in_the_group_is_told(scene: Scene) -> None:
    """The counter rose: likely; it did not: not likely."""
    assert scene.judge() is False
    scene.count(1, 1)
    assert scene.judge() is True
    assert scene.judge() is False


def test_two_kills_are_claimed_by_two_workers(scene: Scene) -> None:
    """Both had been killed before the first was looked at."""
    scene.count(2, 2)
    assert [scene.judge() for _ in range(3)] == [True, True, False]


def test_an_old_kill_is_nobodys(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill of another process of the group does not explain a death long after it."""
    scene.count(1, 1)
    scene.watch.renew()
    monkeypatch.setattr(oom, "CLAIM_S", -1.0)
    assert scene.judge() is False


def test_a_kill_elsewhere_leaves_it_open(scene: Scene) -> None:
    """The machine counts one and the group does not: another's, or the worker had moved."""
    scene.count(1, 0)
    assert scene.judge() is None


def test_without_a_group_the_machine_decides(scene: Scene) -> None:
    """In the root group there is no counter."""
    assert scene.watch.judge(None).likely is False
    scene.count(1, 0)
    assert scene.watch.judge(None).likely is True


def test_what_cannot_be_read_is_not_known(scene: Scene) -> None:
    """No counters, no verdict, and the evidence says so."""
    scene.machine.unlink()
    scene.group.write_text("oom_kill many\n")
    scene.watch.renew()
    verdict = scene.watch.judge(str(scene.group))
    assert verdict.likely is None
    assert "cannot be read" in verdict.evidence


def test_the_true_files_are_found() -> None:
    """Where this process has a counting cgroup, its file is found and read; else none is named."""
    watch = OomWatch()
    group = watch.group_of(os.getpid())
    if group is not None:
        assert os.access(group, os.R_OK)
        assert watch.judge(group).likely is not True
    assert watch.group_of(2**22 + 1) is None
