"""The torture, for a moment: it runs, its account is whole, and nothing in it is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.one_python

ROOT = Path(__file__).parents[2]
LIMIT_S = 90


def torture(folder: Path, *words: str) -> str:
    """Run the torture; return its account, in which nothing may be wrong."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.torture", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "GLASSPOOL_DIR": str(folder / "gp")},
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "WRONG" not in done.stdout
    return done.stdout


def test_random_kills_of_a_pool_with_short_tasks(tmp_path: Path) -> None:
    """Each of 20,000 tasks ends once; with three retries none is lost."""
    told = torture(tmp_path, "--tasks", "20000", "--retries", "3", "--seed", "1")
    assert "ended once: submitted, sum of ends" in told
    assert " kill" in told


def test_all_torments_with_all_kinds_of_calls(tmp_path: Path) -> None:
    """Kills, stops, resizes, timeouts and cancellations: the account is right."""
    told = torture(tmp_path, "--seconds", "2", "--seed", "2")
    for word in ("kill", "stop", "resize", "timeout", "cancel", "large result"):
        assert word in told


def test_a_kill_at_random_moments(tmp_path: Path) -> None:
    """Nothing hangs, everybody knows within a second; how soon exactly is not for a busy machine."""
    told = torture(tmp_path, "--moments", "20", "--processes", "2", "--begin-limit-ms", "1000")
    assert "calls that hang" in told


def test_many_pools(tmp_path: Path) -> None:
    """Nothing is left of them, however they ended."""
    assert "nothing" in torture(tmp_path, "--pools", "20", "--processes", "2")
