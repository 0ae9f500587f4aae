"""Completion, asked of real shells: what TAB offers is what the command takes."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import glasspool
from glasspool.cli import COMMANDS

pytestmark = pytest.mark.one_python

LIMIT_S = 60

ASK_BASH = """
eval "$(glasspool completion bash)"
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_glasspool glasspool
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def surroundings(tmp_path: Path) -> dict[str, str]:
    """Return an environment in which ``glasspool`` is this one, and a home without settings."""
    folder = tmp_path / "bin"
    folder.mkdir()
    command = folder / "glasspool"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m glasspool "$@"\n')
    command.chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "TERM": "dumb",
        "PS1": "> ",
        "PYTHONPATH": str(Path(glasspool.__file__).parents[1]),
    }


def answer(shell: list[str], surroundings: dict[str, str], folder: Path) -> list[str]:
    """Return the lines that a shell prints."""
    if shutil.which(shell[0]) is None:
        pytest.skip(f"{shell[0]} is not installed")
    done = subprocess.run(
        shell,
        env=surroundings,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.split("\n")[:-1]


def asked_bash(words: list[str], surroundings: dict[str, str], folder: Path) -> list[str]:
    """Return ``COMPREPLY`` of bash for a line."""
    return answer(["bash", "--norc", "-c", ASK_BASH, "ask", *words], surroundings, folder)


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("st", ["stack"]),
        ("ps --st", ["--stacks"]),
        ("stack 1 --n", ["--native"]),
        ("completion ", ["bash", "zsh", "fish"]),
        ("run ", ["folder", "script.py"]),
        ("run --quiet s", ["script.py"]),
        ("run script.py ", ["bin", "folder", "notes.txt", "script.py"]),
        ("run --json = n", ["notes.txt"]),
        ("run --json n", ["notes.txt"]),
        ("run -m json.tool n", ["notes.txt"]),
        ("ps --watch ", None),
        ("doctor x", [""]),
        ("nothing ", [""]),
    ],
)
def test_bash_offers_what_may_follow(line, offered, surroundings, tmp_path):
    """Commands, options, shells, scripts after run, files where a file is wanted; else nothing."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "script.py").touch()
    (tmp_path / "notes.txt").touch()
    told = asked_bash(["glasspool", *line.split(" ")], surroundings, tmp_path)
    if offered is None:  # a PID here would be taken for the seconds
        assert all(word.startswith("-") for word in told)
    else:
        assert sorted(set(told) - {"bin"}) == sorted(set(offered) - {"bin"})


def test_all_commands_are_offered(surroundings, tmp_path):
    """At the start of a line there is every command."""
    assert set(COMMANDS) < set(asked_bash(["glasspool", ""], surroundings, tmp_path))


def test_programs_with_a_pool_are_offered(surroundings, tmp_path):
    """PIDs are those of programs that run a pool, ours and the standard library's."""
    with glasspool.Pool(1):
        assert str(os.getpid()) in asked_bash(["glasspool", "why", ""], surroundings, tmp_path)


def test_tab_in_an_interactive_bash(surroundings, tmp_path):
    """What TAB adds to the line is run by Enter."""
    said = typed(
        ["bash", "--norc", "-i"],
        surroundings,
        ['eval "$(glasspool completion bash)"\n', "glasspool comp\tb\t\n"],
        until="complete -F _glasspool glasspool\r\n",
    )
    assert "glasspool completion bash" in said


def test_tab_in_an_interactive_zsh(surroundings, tmp_path):
    """The same in zsh, whose completion is not bash's."""
    said = typed(
        ["zsh", "-f", "-i"],
        surroundings,
        [
            "unsetopt prompt_cr zle_bracketed_paste; autoload -Uz compinit && compinit -u -D\n",
            'eval "$(glasspool completion zsh)"\n',
            "glasspool comp\tz\t\n",
        ],
        until="compdef _glasspool glasspool\r\n",
    )
    assert "completion zsh" in said


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("st", "stack"),
        ("ps --st", "--stacks"),
        ("run scr", "script.py"),
        ("run x.py no", "notes.txt"),
    ],
)
def test_fish_offers_what_may_follow(line, offered, surroundings, tmp_path):
    """fish shows candidates with what they are."""
    (tmp_path / "script.py").touch()
    (tmp_path / "notes.txt").touch()
    program = f"glasspool completion fish | source; complete -C 'glasspool {line}'"
    told = answer(["fish", "--no-config", "-c", program], surroundings, tmp_path)
    assert [each.split("\t")[0] for each in told] == [offered]


def typed(shell: list[str], surroundings: dict[str, str], lines: list[str], until: str) -> str:
    """Type lines into a shell on a terminal, each when it has answered the last; return what it shows."""
    if shutil.which(shell[0]) is None:
        pytest.skip(f"{shell[0]} is not installed")
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(surroundings["HOME"])
        os.execvpe(shell[0], shell, surroundings)
    shown = ""
    deadline = time.monotonic() + LIMIT_S
    try:
        for line in lines:
            os.write(terminal, f"{line}".encode())
            if line is not lines[-1]:
                os.write(terminal, b"echo re'ady'\n")
                shown += _read(terminal, "ready\r\n", deadline)
        return shown + _read(terminal, until, deadline)
    finally:
        os.close(terminal)  # a shell whose terminal is gone ends
        os.waitpid(pid, 0)


def _read(terminal: int, until: str, deadline: float) -> str:
    said = b""
    while until.encode() not in said:
        ready, _, _ = select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"{until!r} was not shown, but {said.decode(errors='replace')!r}"
        said += os.read(terminal, 4096)
    return said.decode(errors="replace")
