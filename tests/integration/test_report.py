"""Reports of real pools, by ``glasspool run --report`` and ``Pool.report``: their numbers, and bad ends."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from html import unescape
from pathlib import Path
from typing import Any

import engine_tasks as tasks
import pytest

from glasspool.cli import main

LIMIT_S = 60.0
EXAMPLES = Path(__file__).parents[2] / "examples"
EXPLAINED = 0.05
"""What the accounts may leave unexplained of the wall time."""

TICKS_S = 0.02
"""The kernel counts the starts of processes in ticks of a hundredth of a second."""


def figures(page: str) -> Any:
    """Return the figures that stand in a page for programs."""
    found = re.search(r'<script type="application/json" id="figures">(.*?)</script>', page)
    assert found is not None
    return json.loads(found.group(1))


def run(folder: Path, source: str, *options: str, code: int | None = 0) -> str:
    """Run a program with a report, and return the page."""
    (folder / "program.py").write_text(textwrap.dedent(source))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "glasspool",
            "run",
            "-q",
            "--report",
            "out.html",
            *options,
            "program.py",
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(EXAMPLES), *sys.path])},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert code is None or done.returncode == code, done.stderr
    return (folder / "out.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_word_count(tmp_path: Path, method: str) -> None:
    """The page's numbers are those of the JSON report, and the accounts explain the wall time."""
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(320):
        (texts / f"{number}.txt").write_text("some words and some more\n" * 500)
    source = f"""\
        import multiprocessing
        import wordcount
        if __name__ == "__main__":
            multiprocessing.set_start_method({method!r})
            wordcount.main()
        """
    (tmp_path / "run").mkdir()
    words = ["--json", "out.json"]
    command = textwrap.dedent(source).replace("wordcount.main()", "import sys\n    sys.argv[1:] = "
        f"[{str(texts)!r}, '--pattern', '*.txt', '--processes', '2']\n    wordcount.main()")  # fmt: skip
    page = run(tmp_path / "run", command, *words)
    account = json.loads((tmp_path / "run" / "out.json").read_text())
    told = account["pools"][0]
    seen = figures(page)["pools"][0]
    for counter in ("submitted", "done", "failed", "lost", "deaths"):
        assert seen["stats"][counter] == told["stats"][counter]
    assert (
        seen["functions"]["wordcount.count_files"]["ends"]
        == {"done": told["stats"]["done"]}
        == {"done": 10}
    )
    by_pid = {one["pid"]: one for one in seen["workers"]}
    for worker in told["workers"]:
        assert by_pid[worker["pid"]]["tasks"] == worker["tasks"]
    assert abs(seen["wall_s"] - seen["explained_s"]) <= EXPLAINED * seen["wall_s"]
    # By the kernel's word, they lived from their starts until the last picture at least, and no longer
    # than the program.
    lived = [told["ended_at"] - p["started_at"] for p in told["processes"] if p["role"] == "worker"]
    least_s = (1 - EXPLAINED) * sum(lived) - TICKS_S * len(lived)
    assert least_s <= seen["explained_s"] <= account["run_s"] * len(lived)
    assert "wordcount.py:" in page
    assert method in page


def test_a_program_that_fails_without_a_pool(tmp_path: Path) -> None:
    """The page is written all the same, says how it ended, and that there was no pool."""
    page = run(tmp_path, "raise ValueError('<b>')", code=1)
    assert "exited with code 1 (ValueError)" in page
    assert "made no multiprocessing.Pool" in page


def test_an_interrupted_program_with_two_pools_and_a_death(tmp_path: Path) -> None:
    """Both pools are there, the open one too, with the worker that was killed and its certificate."""
    source = """\
        import os, signal, time
        from multiprocessing import Pool
        from multiprocessing.pool import Pool as Other
        def work(number):
            if number == 3 and not os.path.exists("gone"):
                open("gone", "w").close()
                os.kill(os.getpid(), signal.SIGKILL)
            return number
        def nested(number):
            with Pool(1) as inner:
                return inner.apply(abs, (number,))
        if __name__ == "__main__":
            first = Pool(2)
            results = [first.apply_async(work, (number,)) for number in range(8)]
            [result.wait() for result in results]
            with Other(1) as second:
                assert second.apply(nested, (-5,)) == 5
            raise KeyboardInterrupt
        """
    page = run(tmp_path, source, "--json", "out.json", code=None)
    assert "was interrupted" in page
    first, second = figures(page)["pools"]
    assert first["functions"]["work"]["ends"] == {"done": 7, "lost": 1}
    assert second["functions"] == {"nested": {"tasks": 1, "items": 1, "ends": {"done": 1}}}
    assert "was killed by SIGKILL while it ran task" in page
    assert "work<span class=args>(3)</span>" in page or "work<span class=args>(3,)</span>" in page
    assert [one["name"] for one in figures(page)["advice"]] == ["deaths"]


def test_a_program_that_hangs(tmp_path: Path) -> None:
    """With --hang-after the page says why it was ended, and which task had not."""
    source = """\
        import threading
        from multiprocessing import Pool
        def stuck(number):
            if number == 2:
                threading.Event().wait()
            return number
        if __name__ == "__main__":
            with Pool(1) as pool:
                print(list(pool.imap(stuck, range(3))))
        """
    page = unescape(run(tmp_path, source, "--hang-after", "3", code=124))
    assert "no task has begun or ended for" in page
    assert "Tasks that have not ended" in page
    assert re.search(r"stuck\(2\), task \d+, still running", page)
    assert figures(page)["pools"][0]["functions"]["stuck"]["ends"] == {"done": 2}


@pytest.mark.parametrize("path", ["/nonexistent/out.html", "."])
def test_a_path_that_cannot_be_written(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line says so before the program runs, and the exit code is 2."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "program.py").write_text("open('ran', 'w').close()")
    assert main(["run", "--report", path, "program.py"]) == 2
    assert capsys.readouterr().err.startswith(f"glasspool: cannot write {path}: ")
    assert not (tmp_path / "ran").exists()


def test_a_pool_that_nobody_recorded(make_forked, tmp_path):
    """The report has what the workers still know of their tasks, and says what it has not."""
    pool = make_forked(2)
    pool.map(tasks.echo, range(3000), 1)
    report = pool.report()
    seen = figures(report.html)["pools"][0]
    kept = seen["tasks"]
    assert 1000 < kept <= 2 * 1024
    assert seen["lost_records"] == pool.stats()["done"] - kept
    assert f"{kept:,} finished tasks are in here" in report.html
    assert "record=True" in report.html
    assert 0 < seen["explained_s"] <= seen["wall_s"] + 2 * TICKS_S
    assert pool.report(tmp_path / "out.html") == str(tmp_path / "out.html")
    pool.terminate()
    ended = figures(pool.report().html)["pools"][0]
    assert (ended["tasks"], ended["stats"]["done"]) == (0, pool.stats()["done"])


def test_a_recorded_pool(make_forked, tmp_path):
    """Every task from the first one on, with arguments and waiting times; also when it has ended."""
    pool = make_forked(2, record=True, name="<mine>")
    for number in range(20):
        pool.apply_async(tasks.echo, (f"item {number}",))
    pool.map(tasks.echo, range(3000), 1)
    pool.close()
    pool.join()
    report = pool.report()
    seen = figures(report.html)["pools"][0]
    assert (seen["tasks"], seen["lost_records"]) == (3020, 0)
    assert seen["functions"]["engine_tasks.echo"]["ends"] == {"done": 3020}
    assert report.save(tmp_path / "out.html") == str(tmp_path / "out.html")
    assert (tmp_path / "out.html").read_text(encoding="utf-8") == report.html
    shown = report._repr_html_()
    assert shown.startswith("<iframe srcdoc=")
    assert unescape(shown.split('"')[1]) == report.html
    with pytest.raises(OSError, match="nonexistent"):
        pool.report("/nonexistent/out.html")
