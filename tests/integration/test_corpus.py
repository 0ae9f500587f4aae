"""A corpus of common shapes of programs: each gives the same answer under every start method, or ends with
one clear message. What it prints is written down once, here.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

CORPUS = Path(__file__).parents[1] / "corpus"
LIMIT_S = 60.0
AT_ONCE = 4

pytestmark = [pytest.mark.one_python, pytest.mark.timeout(300)]


class Shape(NamedTuple):
    """A program: how it is run, what it prints, and what else may be its answer, as one message.

    ``message`` is searched in what it writes to standard error, under the start methods that import the
    program anew; then it prints nothing.
    """

    prints: str
    command: tuple[str, ...] | None = None
    typed: bool = False
    message: str = ""


NO_GUARD = r"InitializerFailed: the workers of .* import(.|\n)*if __name__ == \"__main__\""
SQUARES = "[0, 1, 4, 9, 16]"
TYPED = "[Point(x=2), Point(x=3), Point(x=6)] {True}\n[True]"

SHAPES = {
    "script_with_guard": Shape(SQUARES),
    "script_without_guard": Shape(SQUARES, message=NO_GUARD),
    "lambdas": Shape("[1, 2, 3]\n[0, 10, 20]\n[2, 3]"),
    "closures": Shape("[7, 8, 9] [6, 24]"),
    "classes_of_main": Shape(
        "[Point(x=2), Point(x=3)] {True}\nTrue\n[True]\nTrue True",
    ),
    "guarded_definitions": Shape("[Point(x=1), Point(x=2), Point(x=6)] {True}"),
    "methods": Shape("[3, 6] [-1, -2] [1, 2]\n[4, 7] [-1, -2] [1, 2]"),
    "decorated": Shape("[('double', 2)] [3, 6] ['int', 'any']"),
    "state_of_initializer": Shape("[11, 12, 13]\nbegun\n1"),
    "pool_of_module": Shape("[0, 1, 4, 9]"),
    "pool_of_object": Shape("[1, 2, 3]\nTrue"),
    "command_line": Shape(
        "[(3, ['--scale', '3']), (6, ['--scale', '3'])]", ("command_line.py", "--scale", "3")
    ),
    "other_folder": Shape("['found']"),
    "other_path": Shape("[0, 3, 6]"),
    "late_path": Shape("True"),
    "made_module": Shape("[3, 4, 5]"),
    "executed_code": Shape("[200, 202]\n[200, 202]\n[200, 202]"),
    "run_by_path": Shape(f"[1, 6, 11]\n{SQUARES}"),
    "doctests": Shape("TestResults(failed=0, attempted=2)"),
    "unit_tests": Shape("True"),
    "threads_before": Shape("[0, 1, 4]"),
    "logging_configured": Shape("[(20, 0), (20, 1)]"),
    "seeds": Shape("True 0.295071\n40"),
    "arrays": Shape("[[0, 2], [4, 6], [8, 10]] 600000.0 True"),
    "frames": Shape("[4, 6]"),
    "nested_pools": Shape("[[0, 1, 4, -3]] [0, 1, -2]"),
    "generators": Shape("[0, 1, 4, 9] [0, 1, 4, 9]\n[0, 1, 4, 9]\nTrue True"),
    "exceptions": Shape("True 4\nTrue 4\nTrue True"),
    "subprocesses": Shape("['0', '2']"),
    "context_managers": Shape("[0.0, 0.5, 2.0, 4.5]"),
    "callbacks": Shape("[9, 4, 1, 0] [0, 1, 4, 9]"),
    "state_of_all": Shape("[None, None] {1}"),
    "cannot_travel": Shape("True\nTrue\nTrue\nTrue"),
    "package with -m": Shape("[0, 1, 4] [1, 2, 5]", ("-m", "package_program")),
    "zip file": Shape("[0, 1, 4] [1, 2, 5]", ("ZIP",)),
    "pool at import": Shape("[0, 1, 4]", ("imports_a_pool.py",), message=NO_GUARD),
    "python -c": Shape(TYPED, ("-c", "TYPED")),
    "standard input": Shape(TYPED, ("-",), typed=True),
    "prompt": Shape(TYPED, ("-i", "-q"), typed=True),
    "prompt after a file": Shape(f"{SQUARES}\n{TYPED}", ("-i", "script_with_guard.py"), typed=True),
}


def test_there_are_thirty() -> None:
    """The corpus is as large as was promised, and each file of it is run."""
    assert len(SHAPES) >= 30
    names = {path.stem for path in CORPUS.glob("*.py")} - {"plain_file", "imports_a_pool"}
    assert names <= SHAPES.keys()


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_each_shape_gives_its_answer(method: str, tmp_path: Path) -> None:
    """The same answer under each start method, or the one message that is written down."""
    archive = make_archive(tmp_path)

    def run(name: str) -> str:
        return judge(name, method, *run_shape(SHAPES[name], method, archive))

    with ThreadPoolExecutor(AT_ONCE) as threads:
        verdicts = dict(zip(SHAPES, threads.map(run, SHAPES), strict=True))
    wrong = {name: verdict for name, verdict in verdicts.items() if verdict}
    assert not wrong, "\n".join(table(verdicts))


def make_archive(folder: Path) -> Path:
    """Make a program of one file of the package."""
    path = folder / "app.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for source in (CORPUS / "package_program").glob("*.py"):
            text = source.read_text().replace("from .tasks", "from tasks")
            archive.writestr(source.name, text)
    return path


def run_shape(shape: Shape, method: str, archive: Path) -> tuple[int, str, str]:
    """Run a program; return its exit code, and what it wrote."""
    typed = (CORPUS / "typed.txt").read_text()
    name = next(key for key, value in SHAPES.items() if value is shape)
    words = [
        {"ZIP": str(archive), "TYPED": typed}.get(word, word)
        for word in shape.command or (f"{name}.py",)
    ]
    done = subprocess.run(
        [sys.executable, *words],
        input=typed if shape.typed else "",
        capture_output=True,
        text=True,
        cwd=CORPUS,
        env=os.environ | {"GLASSPOOL_TEST_METHOD": method, "PYTHONDONTWRITEBYTECODE": "1"},
        timeout=LIMIT_S,
    )
    return done.returncode, done.stdout.strip(), done.stderr.strip()


def judge(name: str, method: str, code: int, out: str, err: str) -> str:
    """Return what is wrong with an answer; empty if nothing is."""
    shape = SHAPES[name]
    if shape.message and method != "fork":
        if out or not re.search(shape.message, err) or err.count("Traceback (most") > 1:
            return f"no message, but {out!r}, and: {err[-1500:]}"
        return ""
    if shape.typed:
        err = ""  # the prompts
    if code or out != shape.prints or "Traceback" in err:
        return f"exit {code}, {out!r}, not {shape.prints!r}; {err[-1500:]}"
    return ""


def table(verdicts: dict[str, str]) -> Iterator[str]:
    """Say how each program did."""
    yield "the corpus:"
    for name, verdict in verdicts.items():
        yield f"  {name:<22} {verdict or 'as expected'}"
