"""Whole programs on this machine, on Dask and on Ray: what they print is the same, byte by byte."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_conformance_programs import MAIN, PRINTED

pytestmark = [pytest.mark.clusters, pytest.mark.one_python]

LIMIT_S = 60
ROOT = Path(__file__).parents[2]

STANDS_IN = "import functools, glasspool; Pool = functools.partial(glasspool.Pool, **{where!r})"

STOCK = """\
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import Pool

def square(x):
    return x * x

if __name__ == "__main__":
    with Pool() as pool:
        print(sum(pool.imap_unordered(square, range(100))))
    with ProcessPoolExecutor() as executor:
        print(list(executor.map(square, range(5))), executor.submit(square, 7).result())
"""


@pytest.fixture(params=["dask", "ray"])
def where(request: pytest.FixtureRequest) -> dict[str, str]:
    """Return the arguments of a pool on each kind of cluster."""
    return {
        "engine": request.param,
        "address": request.getfixturevalue(f"{request.param}_address"),
    }


def run(arguments: list[str], cwd: Path) -> str:
    """Run Python in a folder; return what it printed. It may not complain."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        env={**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"},
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert "Warning" not in done.stderr, done.stderr
    return done.stdout


@pytest.mark.parametrize("form", ["script", "module", "command"])
def test_program(where: dict[str, str], form: str, tmp_path: Path) -> None:
    """Functions and classes of a program's main module travel to the nodes, however it is started."""
    text = MAIN.format(import_line=STANDS_IN.format(where=where), more="")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    (tmp_path / "package" / "job.py").write_text(text)
    words = {
        "script": ["package/job.py"],
        "module": ["-m", "package.job"],
        "command": ["-c", text],
    }[form]
    assert run([*words, "forkserver"], tmp_path) == PRINTED


def test_word_count(where: dict[str, str], tmp_path: Path) -> None:
    """The word count counts the same words."""
    for number in range(40):
        (tmp_path / f"{number}.txt").write_text("one two two three three three " * number)
    words = [str(ROOT / "examples" / "wordcount.py"), ".", "--pattern", "*.txt"]
    cluster = ["--engine", where["engine"], "--address", where["address"]]
    here = run(words, tmp_path).splitlines()
    there = run([*words, *cluster], tmp_path).splitlines()
    assert here[1].split() == ["three", "2,340", "50.00%"]
    assert there[:-1] == here[:-1], "the last line tells the time"


def test_unchanged_program(where: dict[str, str], tmp_path: Path) -> None:
    """So does an unchanged program that ``glasspool run`` has work on a cluster."""
    (tmp_path / "stock.py").write_text(STOCK)
    there = [
        "-m",
        "glasspool",
        "run",
        "-q",
        "--engine",
        where["engine"],
        "--address",
        where["address"],
    ]
    assert run([*there, "stock.py"], tmp_path) == run(["stock.py"], tmp_path)
