"""The table of faults runs: a few quick cases on the stock pool and on ours, their page and their JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.one_python

ROOT = Path(__file__).parents[2]
LIMIT_S = 100


def _faults(*words: str) -> subprocess.CompletedProcess[str]:
    # A folder of its own: programs are killed with all their processes as soon as they have told, and then
    # the files of their pools are left for the next pool to remove.
    with tempfile.TemporaryDirectory(prefix="gf") as folder:
        return subprocess.run(
            [sys.executable, "-m", "bench.faults", *words],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "GLASSPOOL_DIR": folder},
        )


def test_cases_run_and_are_written_down(tmp_path: Path) -> None:
    """Each verdict has a sign and what was seen; a call that a library lacks is told apart."""
    file, page = tmp_path / "faults.json", tmp_path / "faults.md"
    cases = ("result-pickle", "recycle-2", "cancel-python", "exit-idle")
    done = _faults(
        *("--only", "glasspool", "stock", "--case", *cases),
        *("--json", str(file), "--write", str(page)),
    )
    assert done.returncode == 0, done.stderr
    columns = json.loads(file.read_text())["columns"]
    stock = {case: verdict["sign"] for case, verdict in columns["stock"]["verdicts"].items()}
    assert stock == {
        "result-pickle": "ok",
        "recycle-2": "ok",
        "cancel-python": "none",
        "exit-idle": "ok",
    }
    ours = columns["glasspool"]["verdicts"]
    assert {case: verdict["sign"] for case, verdict in ours.items()} == dict.fromkeys(
        cases, "ok"
    ), ours
    assert "**0 (0) of 4** | **0 (0) of 3**" in page.read_text()
    assert "0 (0) of 4" in done.stdout


def test_what_was_measured_before_is_kept(tmp_path: Path) -> None:
    """A run with --json keeps what other runs have measured; with no library it only prints."""
    file = tmp_path / "faults.json"
    _faults("--only", "stock", "--case", "exit-idle", "--json", str(file))
    _faults("--only", "stock", "--case", "result-pickle", "--json", str(file))
    kept = json.loads(file.read_text())["columns"]["stock"]["verdicts"]
    assert set(kept) == {"exit-idle", "result-pickle"}
    printed = _faults("--only", "--json", str(file), "--case", "exit-*").stdout.splitlines()
    rows = [line.split() for line in printed]
    assert ["exit-idle", "✓"] in rows
    assert ["exit-pending"] in rows  # not measured, so nothing is said of it


def test_an_unknown_case_is_told() -> None:
    """A pattern that names no case ends with code 2 and says which cases there are."""
    done = _faults("--case", "nonsense")
    assert done.returncode == 2
    assert "killed-idle" in done.stdout
