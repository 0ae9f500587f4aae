"""The README and the pages of docs show only what works: programs run, and print what stands there."""

from __future__ import annotations

import multiprocessing
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
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

PAGES = {
    str(page.relative_to(ROOT)): page.read_text(encoding="utf-8")
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if "_build" not in page.parts
}
PROGRAM = re.compile(
    r"^```python\n((?:(?!```)[^\n]*\n)*)```\n\n```text\n(.*?)^```$", re.DOTALL | re.MULTILINE
)
SHOWN = [
    pytest.param(page, marks=() if page == "README.md" else pytest.mark.one_python)
    for page, text in PAGES.items()
    if PROGRAM.search(text)
]
SIDE_BY_SIDE = 2
LINKS = re.findall(r"\]\((?!https?:)([^)#]+)", README)


def _shape(text: str) -> str:
    """Return the text without what differs from run to run: numbers, and how columns are filled."""
    shape = re.sub(r"[ ]+", " ", re.sub(r"\d[\d.]*", "#", text)).strip()
    return shape.replace(
        ")) for # s.", "))."
    )  # said of a task that died after a tenth of a second or later


def test_there_are_programs_in_the_readme() -> None:
    """Each of its Python programs is followed by what it printed."""
    assert len(PROGRAM.findall(README)) == README.count("```python\n") >= 7


def _done(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    folder.mkdir()
    (folder / "program.py").write_text(program, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-u", "-W", "error", "program.py"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,  # what is logged is shown, too; a warning never
        text=True,
        timeout=LIMIT_S,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.skipif(
    multiprocessing.get_start_method() != "fork", reason="the pages show pools of forked workers"
)
@pytest.mark.parametrize("page", SHOWN)
def test_programs_print_what_stands_there(page: str, tmp_path: Path) -> None:
    """Each program that a page shows with its output runs without a warning, and prints those words."""
    found = list(PROGRAM.finditer(PAGES[page]))
    folders = [tmp_path / str(number) for number in range(len(found))]
    # Those of the README show moments of tasks that last for tenths of a second: each runs alone.
    with ThreadPoolExecutor(1 if page == "README.md" else SIDE_BY_SIDE) as some:
        ends = list(some.map(_done, [each[1] for each in found], folders))
    for each, done in zip(found, ends, strict=True):
        line = PAGES[page].count("\n", 0, each.start()) + 1
        assert done.returncode == 0, f"{page}, line {line}:\n{done.stdout}"
        assert _shape(done.stdout) == _shape(each[2]), f"{page}, line {line}"


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


@pytest.mark.parametrize("page", sorted(PAGES))
def test_a_page_is_written_for_both_of_its_readers(page: str) -> None:
    """Links of a page into the repository name files: its reader may be GitHub, or the site."""
    folder = (ROOT / page).parent
    for link in re.findall(r"\]\((?![a-z]+:)([^)#\s]+)", PAGES[page]):
        assert (folder / link).is_file(), link


@pytest.mark.parametrize("link", sorted(set(LINKS)))
def test_a_link_leads_somewhere(link: str) -> None:
    """Every link into the repository names a file."""
    assert (ROOT / link).is_file()
