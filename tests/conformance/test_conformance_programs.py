"""Whole programs that differ in one import line, started in every way that Python has."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from conformance_kinds import KINDS

LIMIT_S = 60

IMPORT = {
    "stock": "from multiprocessing import Pool",
    "glasspool": "from glasspool import Pool",
}

MAIN = """\
import multiprocessing
import sys
{import_line}
{more}

class Point:
    def __init__(self, x):
        self.x = x

def move(point, by=1):
    return Point(point.x + by)

def fail(x):
    raise ValueError(x)

def remember(word):
    global remembered
    remembered = word

def recall(_):
    return remembered

def main():
    multiprocessing.set_start_method(sys.argv[1])
    with Pool(2, initializer=remember, initargs=("word",)) as pool:
        print([p.x for p in pool.map(move, [Point(i) for i in range(5)])])
        print(pool.apply(move, (Point(1),), {{"by": 41}}).x)
        print(pool.map(recall, range(3), 1))
        print([p.x for p in pool.imap(move, map(Point, range(3)))])
        try:
            pool.apply(fail, (7,))
        except ValueError as error:
            print("ValueError", error, "in fail" in str(error.__cause__))
    pool.join()

if __name__ == "__main__":
    main()
"""

PRINTED = """\
[1, 2, 3, 4, 5]
42
['word', 'word', 'word']
[1, 2, 3]
ValueError 7 True
"""

IMPORTER = """\
from {module} import main

if __name__ == "__main__":
    main()
"""


def run(arguments: list[str], cwd: Path, *, exit_code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder, and check how it ends and that it does not complain."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == exit_code, done.stderr
    return done


def program(kind: str, more: str = "") -> str:
    """Return the program for a kind of pool."""
    return MAIN.format(import_line=IMPORT[kind], more=more)


def test_script(kind: str, start_method: str, tmp_path: Path) -> None:
    """Functions of a script's main module are found in the workers."""
    (tmp_path / "job.py").write_text(program(kind))
    done = run(["job.py", start_method], tmp_path)
    assert (done.stdout, done.stderr) == (PRINTED, "")


def test_module(kind: str, start_method: str, tmp_path: Path) -> None:
    """So are those of a module started with ``-m``."""
    (tmp_path / "job.py").write_text(program(kind))
    done = run(["-m", "job", start_method], tmp_path)
    assert (done.stdout, done.stderr) == (PRINTED, "")


def test_submodule(kind: str, start_method: str, tmp_path: Path) -> None:
    """So are those of a package's module started with ``-m``, with its relative imports."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "sibling.py").write_text("WORD = 'sibling'\n")
    (package / "job.py").write_text(program(kind, "from .sibling import WORD"))
    done = run(["-m", "package.job", start_method], tmp_path)
    assert (done.stdout, done.stderr) == (PRINTED, "")


def test_package_main_under_fork(kind: str, tmp_path: Path) -> None:
    """Under fork, functions of a package's ``__main__`` are found."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(program(kind))
    done = run(["-m", "package", "fork"], tmp_path)
    assert (done.stdout, done.stderr) == (PRINTED, "")


def test_package(kind: str, start_method: str, tmp_path: Path) -> None:
    """Functions of a package's module are found when its ``__main__`` only imports them."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "job.py").write_text(program(kind))
    (package / "__main__.py").write_text(IMPORTER.format(module="package.job"))
    done = run(["-m", "package", start_method], tmp_path)
    assert (done.stdout, done.stderr) == (PRINTED, "")


def test_zip_main_under_fork(kind: str, tmp_path: Path) -> None:
    """Under fork, functions of a zip archive's ``__main__`` are found."""
    with zipfile.ZipFile(tmp_path / "job.zip", "w") as archive:
        archive.writestr("__main__.py", program(kind))
    done = run(["job.zip", "fork"], tmp_path)
    assert (done.stdout, done.stderr) == (PRINTED, "")


def test_zip(kind: str, start_method: str, tmp_path: Path) -> None:
    """Functions of an archive's module are found when its ``__main__`` only imports them."""
    with zipfile.ZipFile(tmp_path / "job.zip", "w") as archive:
        archive.writestr("job.py", program(kind))
        archive.writestr("__main__.py", IMPORTER.format(module="job"))
    done = run(["job.zip", start_method], tmp_path)
    assert (done.stdout, done.stderr) == (PRINTED, "")


def test_command_line(kind: str, tmp_path: Path) -> None:
    """Under fork, functions of a program read from the command line are found."""
    done = run(["-c", program(kind), "fork"], tmp_path)
    assert (done.stdout, done.stderr) == (PRINTED, "")


NEVER_CLOSED = """\
{import_line}

if __name__ == "__main__":
    pool = Pool(2)
    print(pool.map(abs, [-1, -2]))
"""


def test_program_that_never_closes(kind: str, tmp_path: Path) -> None:
    """A program that forgets its pool ends all the same, with code 0."""
    (tmp_path / "job.py").write_text(NEVER_CLOSED.format(import_line=IMPORT[kind]))
    assert run(["job.py"], tmp_path).stdout == "[1, 2]\n"


FAILING = """\
{import_line}
import sys

def fail(x):
    raise LookupError(x)

if __name__ == "__main__":
    with Pool(2) as pool:
        pool.map(fail, [1])
"""


def test_program_that_fails(kind: str, tmp_path: Path) -> None:
    """An error that nobody catches ends the program with code 1, both tracebacks shown."""
    (tmp_path / "job.py").write_text(FAILING.format(import_line=IMPORT[kind]))
    shown = run(["job.py"], tmp_path, exit_code=1).stderr
    assert "multiprocessing.pool.RemoteTraceback" in shown
    assert "The above exception was the direct cause" in shown
    assert shown.rstrip().endswith("LookupError: 1")


EXITING = """\
{import_line}
import atexit
import sys

def say(word):
    print(word, flush=True)

if __name__ == "__main__":
    atexit.register(say, "parent ends")
    with Pool(2) as pool:
        pool.map(abs, range(100))
        pool.close()
        pool.join()
    sys.exit(5)
"""


def test_exit_functions_of_the_parent_run_once(kind: str, tmp_path: Path) -> None:
    """What the parent registered for its end runs there and not in workers."""
    (tmp_path / "job.py").write_text(EXITING.format(import_line=IMPORT[kind]))
    assert run(["job.py"], tmp_path, exit_code=5).stdout == "parent ends\n"


def test_both_kinds_print_the_same() -> None:
    """The programs here differ in their import line and in nothing else."""
    lines = [program(kind).splitlines() for kind in KINDS]
    assert sum(a != b for a, b in zip(*lines, strict=True)) == 1
