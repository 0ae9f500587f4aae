"""The README shows only what works: its programs run, and print what it says that they print."""

from __future__ import annotations

import multiprocessing
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LIMIT_S = 60

MAIN_JOB = (
    "python3 -m venv --without-pip .venv"
    " && python3 -m pip --python .venv/bin/python install -q -e ."
    " && .venv/bin/glasspool run examples/wordcount.py"
)
TESTS = (
    "python3 -m venv --without-pip .venv"
    " && python3 -m pip --python .venv/bin/python install -q -e '.[test]'"
    " && .venv/bin/python -m pytest"
)

PROGRAMS = re.findall(
    r"^```python\n(.*?)^```\n\n```text\n(.*?)^```$", README, re.DOTALL | re.MULTILINE
)
LINKS = re.findall(r"\]\((?!https?:)([^)#]+)", README)


def _shape(text: str) -> str:
    """Return the text without what differs from run to run: numbers, and how columns are filled."""
    shape = re.sub(r"[ ]+", " ", re.sub(r"\d[\d.]*", "#", text)).strip()
    return shape.replace(
        ")) for # s.", "))."
    )  # said of a task that died after a tenth of a second or later


def test_there_are_programs_in_the_readme() -> None:
    """Each of its Python programs is followed by what it printed."""
    assert len(PROGRAMS) == README.count("```python\n") >= 7


@pytest.mark.skipif(
    multiprocessing.get_start_method() != "fork", reason="the README shows pools of forked workers"
)
@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_a_program_prints_what_the_readme_says(number: int, tmp_path: Path) -> None:
    """Each program runs without a warning, and prints the same words as in the README."""
    program, printed = PROGRAMS[number]
    file = tmp_path / "program.py"
    file.write_text(program, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(file)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert _shape(done.stdout) == _shape(printed)


@pytest.mark.parametrize("command", [MAIN_JOB, TESTS])
def test_the_set_up_commands_stand_there(command: str) -> None:
    """Each of the two commands that set everything up is one line of its own, to be copied."""
    lines = [line.strip().removeprefix("$ ") for line in README.splitlines()]
    assert lines.count(command) == 1


@pytest.mark.parametrize("command", sorted(set(re.findall(r"`glasspool ([a-z]+)[ `]", README))))
def test_a_command_that_the_readme_names_exists(command: str) -> None:
    """Every subcommand in the README has a help text."""
    done = subprocess.run(
        [sys.executable, "-m", "glasspool", command, "--help"],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: glasspool")


@pytest.mark.parametrize("link", sorted(set(LINKS)))
def test_a_link_leads_somewhere(link: str) -> None:
    """Every link into the repository names a file."""
    assert (ROOT / link).is_file()
