"""The benchmarks run, with tiny sizes, and their JSON is whole. No time is judged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.one_python

ROOT = Path(__file__).parents[2]
LIMIT_S = 100


def _bench(*words: str) -> subprocess.CompletedProcess[str]:
    return _python("-m", "bench", *words)


def _python(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def test_every_case_runs_on_every_contender(tmp_path: Path) -> None:
    """With --quick each case gives each contender's numbers, their ratio, machine and versions."""
    file = tmp_path / "bench.json"
    done = _bench("--quick", "--json", str(file))
    assert done.returncode == 0, done.stderr
    told = json.loads(file.read_text())
    assert told["options"]["quick"] is True
    assert set(told["versions"]) == {"python", "stock", "glasspool"}
    assert told["machine"]["processors"] >= 1
    listed = _bench("--list").stdout.splitlines()
    assert {row["case"] for row in told["rows"]} == {line.split()[0] for line in listed}
    for row in told["rows"]:
        assert "glasspool" in row["rounds"], row
        assert {word for word, _ in row["missing"].values()} <= {"–"}, row
        assert row["ratio"].keys() == row["median"].keys() == row["rounds"].keys()
        assert all(len(rounds) == 1 for rounds in row["rounds"].values())
    assert len(done.stdout.splitlines()) == len(told["rows"]) + 1
    page = tmp_path / "page.md"
    done = _python("-m", "bench.page", str(file), "--write", str(page))
    assert done.returncode == 0, done.stderr
    assert "Tiny sizes" in page.read_text()
    assert (tmp_path / "bench.svg").exists()


def test_a_choice_of_cases_and_rounds_as_markdown() -> None:
    """--only takes patterns, --rounds repeats, --markdown prints a table that has the ratio last."""
    done = _bench("--quick", "--only", "imp*", "--rounds", "2", "--markdown")
    assert done.returncode == 0, done.stderr
    head, rule, *body = done.stdout.splitlines()
    assert head.endswith("| stock / glasspool |")
    assert rule.count("---") == 5
    assert len(body) == 2
    assert " to " in body[0]


def test_an_unknown_case_is_told() -> None:
    """A pattern that names no case ends with code 2 and says which cases there are."""
    done = _bench("--only", "nonsense")
    assert done.returncode == 2
    assert "nonsense" in done.stderr
    assert "map-1" in done.stdout


def test_what_takes_too_long_is_cut_off() -> None:
    """A measurement beyond the limit is told as hanging, in the table and with the reason."""
    done = _bench("--quick", "--only", "apply", "--contenders", "glasspool", "--limit", "0.01")
    assert done.returncode == 1
    assert "hangs" in done.stdout
    assert "cut off after 0.01 s" in done.stderr
